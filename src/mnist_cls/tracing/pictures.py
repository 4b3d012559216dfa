"""Draw the values inside a network."""

import numpy as np
from PIL import Image
from torch import Tensor

Picture = Image.Image

# Maximum number of maps drawn for one operation, and in one row.
MAPS, COLUMNS = 64, 16


def draw_values(values: Tensor) -> Picture:
    """Draw values (C, H, W) as a map per channel, or values (N,) as rows of 64 squares.

    Positive values are red, negative ones blue, zeros white, NaNs and infinite values black. Complex values are drawn
    as their magnitudes.
    """
    array = (values.abs() if values.is_complex() else values).detach().float().cpu().numpy()
    if array.ndim == 3:
        return draw_maps(array)
    columns = min(64, array.size)
    squares = np.zeros((-(-array.size // columns), columns), np.float32)
    squares.flat[: array.size] = array
    return enlarge(colour(squares), 8)


def draw_saliency(image: Tensor, gradient: Tensor) -> Picture:
    """Draw a saliency map (28, 28), at least 0, in red over its image (28, 28) of any range."""
    ink = image.detach().float().cpu().numpy()
    paper = 1 - (ink - ink.min()) / max(float(np.ptp(ink)), 1e-12)
    red = np.nan_to_num(gradient.detach().float().cpu().numpy(), posinf=0)[..., None]
    red = red / max(float(red.max()), 1e-12)
    # Ink is grey, so that red can be seen on it, too.
    grey = np.repeat((128 + 127.5 * paper)[..., None], 3, 2)
    return enlarge((grey * (1 - red) + np.array([220.0, 0.0, 0.0]) * red).astype(np.uint8), 8)


def colour(values: np.ndarray) -> np.ndarray:
    """Map values (...) to colours, uint8 (..., 3): the largest magnitude to full red or blue, zero to white."""
    finite = np.isfinite(values)
    largest = float(np.abs(values[finite]).max(initial=0))
    scaled = np.where(finite, values, 0) / (largest or 1)
    fade = 1 - np.abs(scaled)
    rgb = np.stack([np.where(scaled < 0, fade, 1), fade, np.where(scaled > 0, fade, 1)], -1)
    rgb[~finite] = 0
    return (rgb * 255).astype(np.uint8)


def enlarge(pixels: np.ndarray, scale: int) -> Picture:
    """Draw each pixel as a square with sides of `scale` pixels."""
    height, width = pixels.shape[:2]
    return Image.fromarray(pixels).resize((width * scale, height * scale), Image.Resampling.NEAREST)


def draw_maps(maps: np.ndarray) -> Picture:
    """Draw maps (N, H, W) side by side with grey lines between them."""
    return enlarge(sheet(colour(maps[:MAPS]), 190, 190), max(1, 56 // maps.shape[1]))


def sheet(maps: np.ndarray, gap: int, rest: int) -> np.ndarray:
    """Arrange maps in rows of 16, with a line of one pixel between them.

    Args:
        maps: uint8 (N, H, W, ...).
        gap: value of the lines, 0 to 255.
        rest: value of the unused end of the last row, 0 to 255.

    Returns:
        uint8 (height, width, ...).
    """
    count, height, width, *colours = maps.shape
    columns = min(count, COLUMNS)
    rows = -(-count // columns)
    tiles = np.full((rows * columns, height + 1, width + 1, *colours), gap, np.uint8)
    tiles[count:] = rest
    tiles[:count, :height, :width] = maps
    tiles = tiles.reshape(rows, columns, height + 1, width + 1, *colours).swapaxes(1, 2)
    return tiles.reshape(rows * (height + 1), columns * (width + 1), *colours)[:-1, :-1]
