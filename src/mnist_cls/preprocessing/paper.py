"""Ink and paper told apart: whichever is darker, under uneven light, on paper that is not clean."""

import numpy as np
from PIL import Image
from scipy import ndimage

from ..errors import InputError

# A contrast below this many of the 255 levels is no writing.
NO_INK = 16
# The light on a page changes slowly: it is fitted to a picture of this many pixels at most on each side.
_SMALL = 40
_ROUNDS = 9
# Medians are taken of so many pixels at least, if there are as many; every one would take longer than the rest.
_SAMPLES = 5000


def find_ink(grey: np.ndarray, coarse: bool = False) -> np.ndarray:
    """Say for each pixel of a page how much of it is ink.

    The paper's brightness is fitted by a surface of second degree, so that light may fall from one side. What differs
    from it by more than the paper's own unevenness is ink, on the side, darker or lighter, that has more of it.

    Args:
        grey: uint8 (H, W).
        coarse: the picture was enlarged from pixels as wide as strokes: a pixel's grey says how much of it is ink, as
            in MNIST's own images. Else grey is mostly the blurred edge of strokes, and what is nearly ink is ink.

    Returns:
        float32 (H, W): 0 is paper, 1 is ink.

    Raises:
        InputError: nothing stands out from the paper.
    """
    paper = fit_paper(grey)
    darker = paper - grey
    # Ink on dark paper hides less light; seen as a share of the paper's brightness it is the same everywhere.
    difference = np.where(darker > 0, darker * (255 / np.maximum(paper, 32)), darker)
    noise = _noise(difference)
    smooth = ndimage.gaussian_filter(difference, min(1.0, max(grey.shape) / 64)) if noise > 2 else difference
    grain = _noise(smooth)
    least = max(NO_INK / 2, 4 * grain)
    dark, light = (np.clip(side - least, 0, None).sum() for side in (smooth, -smooth))
    ink = smooth if dark >= light else -smooth
    contrast = _level(ink[ink > least])
    if contrast < max(NO_INK, 5 * grain):
        raise InputError(
            f"no digit to see: the brightness (of colours nothing else counts) differs by {max(contrast, 0):.0f} of 255"
            f" levels, the paper's own by {grain:.0f}"
        )
    full = 0.96 * _level(ink[ink > least], 90) if coarse else 0.92 * contrast
    floor = min(3 * grain if coarse else max(3 * grain, 0.15 * contrast), 0.4 * contrast)
    strength: np.ndarray = np.clip((ink - floor) / (full - floor), 0, 1).astype(np.float32)
    return strength


def fit_paper(grey: np.ndarray) -> np.ndarray:
    """Fit the paper's brightness, float32 (H, W): the surface of second degree that most of a page lies on.

    Most pages are simple: nearly half of their pixels differ by no more than a little from one brightness, which is
    then the paper's. Else the fit is a robust one: pixels that are far off weigh less, in each round anew (Cauchy's
    weights). Each way starts at two brightnesses, that of the border and the most frequent one, and keeps what more
    pixels agree with; those at the border and in the corners count more, because ink is rarely there.
    """
    height, width = grey.shape
    small = np.asarray(Image.fromarray(grey).resize((min(width, _SMALL), min(height, _SMALL)), Image.Resampling.BOX))
    weights = _trust(*small.shape).ravel()
    values = small.ravel().astype(np.float64)
    starts = np.median(values[weights > 1]), np.bincount(small.ravel() // 8).argmax() * 8 + 4
    levels = [
        np.median(values[np.abs(values - start) <= 8]) if (np.abs(values - start) <= 8).any() else start
        for start in starts
    ]
    agreeing = [(weights * (np.abs(values - level) <= 4)).sum() / weights.sum() for level in levels]
    if max(agreeing) > 0.45:
        return np.full(grey.shape, levels[int(np.argmax(agreeing))], np.float32)
    terms = _terms(*small.shape)
    fits = [_robust_fit(terms, values, weights, float(start)) for start in starts]
    coefficients, _ = max(fits, key=lambda fit: fit[1])
    y, x = np.linspace(-1, 1, height, dtype=np.float32)[:, None], np.linspace(-1, 1, width, dtype=np.float32)
    a, b, c, d, e, f = coefficients.astype(np.float32)
    surface: np.ndarray = a + b * x + c * y + d * x * x + e * x * y + f * y * y
    return surface


def _trust(height: int, width: int) -> np.ndarray:
    """How much each pixel counts as paper: 1 inside, 2 at the border, and the corners half as much as all others."""
    trust = np.ones((height, width))
    trust[[0, -1]] = trust[:, [0, -1]] = 2
    corner = max(1, min(height, width) // 10)
    for rows in (slice(corner), slice(-corner, None)):
        for columns in (slice(corner), slice(-corner, None)):
            trust[rows, columns] = height * width / (8 * corner**2)
    return trust


def _terms(height: int, width: int) -> np.ndarray:
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], -1).reshape(-1, 6)


def _robust_fit(terms: np.ndarray, values: np.ndarray, weights: np.ndarray, start: float) -> tuple[np.ndarray, float]:
    residuals = values - start
    coefficients = np.zeros(6)
    # At first nothing but a level, then a slope, then a curve: ink in a corner must not bend the paper early on.
    for turn in range(_ROUNDS):
        spread = max(4.0, 32.0 / (turn + 1))
        trust = weights / (1 + (residuals / spread) ** 2)
        degree = (1, 3, 6)[min(turn // 2, 2)]
        part = terms[:, :degree]
        # A little of a ridge: in a page of one row the terms are not independent.
        normal = part.T @ (part * trust[:, None]) + 1e-3 * np.eye(degree)
        coefficients = np.zeros(6)
        coefficients[:degree] = np.linalg.solve(normal, part.T @ (values * trust))
        residuals = values - terms @ coefficients
    return coefficients, float((weights / (1 + (residuals / 4) ** 2)).sum())


def _noise(difference: np.ndarray) -> float:
    """The standard deviation of the paper's grain, by the median of what the nearer half of the pixels differs."""
    sizes = np.abs(difference.ravel()[:: difference.size // _SAMPLES * 2 + 1])
    return float(1.4826 * np.median(sizes[sizes <= 48])) if (sizes <= 48).any() else 0.0


def _level(values: np.ndarray, percentile: float = 85) -> float:
    """How strong full ink is: what so many per cent of the pixels that are ink at all stay below."""
    if not len(values):
        return 0.0
    return float(np.percentile(values[:: len(values) // _SAMPLES * 2 + 1], percentile))
