"""The brightness of the paper at each pixel of a page, in uneven light, in shadows and beside objects."""

import numpy as np
import scipy
from PIL import Image

# The light on a page changes slowly, so the paper is fitted to a picture of at most this many pixels on each side.
_FIT_SIDE = 40

# Rounds of the robust fit of the paper's brightness.
_ROUNDS = 9

# Where light changes abruptly, the paper is estimated at a resolution of `_LOCAL_SIDE` pixels for the shorter side,
# from the surroundings of a stroke: a disc with a diameter of `_DISC_SIDE`, which no stroke covers.
_LOCAL_SIDE, _DISC_SIDE = 48, 9
_Y, _X = np.mgrid[:_DISC_SIDE, :_DISC_SIDE] - _DISC_SIDE // 2
_DISC = np.hypot(_Y, _X) <= _DISC_SIDE / 2

# The diameter of that disc as a fraction of the page's shorter side.
WIDEST_STROKE = _DISC_SIDE / _LOCAL_SIDE

# Areas with at least this much ink on average are no paper.
NOT_PAPER = 0.3


def fit_paper(grey: np.ndarray) -> np.ndarray:
    """Fit the paper's brightness, float32 (H, W), by the polynomial of degree two that most of the page agrees with.

    On simple pages nearly half of the pixels have almost the same brightness, which is the paper's. On others, a robust
    fit reduces the weight of outliers in each round (Cauchy's weights). Both start from two values, the median along
    the border and the most frequent brightness, and keep the result that more pixels agree with. Pixels at the border
    and in the corners count more, because ink is rarely there.
    """
    height, width = grey.shape
    size = min(width, _FIT_SIDE), min(height, _FIT_SIDE)
    small = np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BOX))
    weights = _border_weights(*small.shape).ravel()
    values = small.ravel().astype(np.float64)
    starts = np.median(values[weights > 1]), np.bincount(small.ravel() // 8).argmax() * 8 + 4
    levels = [np.median(values[near]) if (near := np.abs(values - start) <= 8).any() else start for start in starts]
    agreeing = [(weights * (np.abs(values - level) <= 4)).sum() / weights.sum() for level in levels]
    if max(agreeing) > 0.45:
        return np.full(grey.shape, levels[int(np.argmax(agreeing))], np.float32)
    terms = _quadratic_terms(*small.shape)
    fits = [_robust_fit(terms, values, weights, float(start)) for start in starts]
    coefficients, _ = max(fits, key=lambda fit: fit[1])
    y, x = np.linspace(-1, 1, height, dtype=np.float32)[:, None], np.linspace(-1, 1, width, dtype=np.float32)
    a, b, c, d, e, f = coefficients.astype(np.float32)
    surface: np.ndarray = a + b * x + c * y + d * x * x + e * x * y + f * y * y
    return surface


def fit_local_paper(grey: np.ndarray) -> tuple[np.ndarray, int]:
    """Estimate the paper's brightness from the surroundings of each pixel, so that it can change abruptly.

    What is narrower than a fifth of the page is ink. Everything else is paper: shadows, the desk, objects on the page.

    Args:
        grey: uint8 (H, W).

    Returns:
        paper: float32 (H, W).
        sign: 1 if the ink is darker than the paper, -1 if it is lighter.
    """
    small = reduce_locally(grey)
    padded = np.pad(small, _DISC_SIDE, mode="edge")  # as if objects at the border continued beyond it
    inside = (slice(_DISC_SIDE, -_DISC_SIDE),) * 2
    around = scipy.ndimage.median_filter(padded, footprint=_DISC)[inside]
    darker = around - small
    sign = 1 if (darker * np.where(darker > 0, 255 / np.maximum(around, 32), 1)).sum() >= 0 else -1
    # A closing fills what is darker than its surroundings and narrower than the disc, an opening what is lighter.
    # The pixels next to an edge can be as dark as its dark side.
    paper = sign * scipy.ndimage.grey_closing(sign * padded, footprint=_DISC)[inside]
    paper = sign * scipy.ndimage.minimum_filter(sign * paper, 3)
    size = grey.shape[1], grey.shape[0]
    return np.asarray(Image.fromarray(paper).resize(size, Image.Resampling.BILINEAR)), sign


def reduce_locally(page: np.ndarray) -> np.ndarray:
    """Reduce a page by averaging, float32, to the resolution at which `fit_local_paper` works."""
    height, width = page.shape
    ratio = min(1.0, _LOCAL_SIDE / min(height, width))
    size = max(1, round(width * ratio)), max(1, round(height * ratio))
    return np.asarray(Image.fromarray(page.astype(np.float32, copy=False)).resize(size, Image.Resampling.BOX))


def solid_thickness(ink: np.ndarray) -> float:
    """Return the thickness in pixels of the thickest area of ink, 0.0 if it may be a stroke."""
    if min(ink.shape) < 2 * _LOCAL_SIDE:
        return 0.0  # on so few pixels, strokes and the gaps between them run together
    inked = reduce_locally(ink) >= NOT_PAPER
    within_disc = round(0.7 * _DISC_SIDE)  # side of a square; filtering by one is faster
    if inked.sum() < within_disc**2 / 2 or not scipy.ndimage.minimum_filter(inked, within_disc, mode="nearest").any():
        return 0.0
    padded = np.pad(inked, _DISC_SIDE, mode="edge")
    thickness = 2 * float(scipy.ndimage.distance_transform_edt(padded).max())
    return thickness * min(ink.shape) / min(inked.shape) if thickness > _DISC_SIDE else 0.0


def _border_weights(height: int, width: int) -> np.ndarray:
    """Weigh pixels as paper: 1 inside, 2 at the border, and the four corners together half as much as all pixels."""
    weights = np.ones((height, width))
    weights[[0, -1]] = weights[:, [0, -1]] = 2
    corner = max(1, min(height, width) // 10)
    for rows in (slice(corner), slice(-corner, None)):
        for columns in (slice(corner), slice(-corner, None)):
            weights[rows, columns] = height * width / (8 * corner**2)
    return weights


def _quadratic_terms(height: int, width: int) -> np.ndarray:
    """Return 1, x, y, x², xy and y² at each pixel, float64 (H * W, 6), with x and y from -1 to 1."""
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], -1).reshape(-1, 6)


def _robust_fit(terms: np.ndarray, values: np.ndarray, weights: np.ndarray, start: float) -> tuple[np.ndarray, float]:
    """Fit six coefficients by iteratively reweighted least squares; also return the weight of the pixels that agree."""
    residuals = values - start
    coefficients = np.zeros(6)
    # First a constant, then a plane, then a curved surface: otherwise ink in a corner could bend the paper early on.
    for turn in range(_ROUNDS):
        spread = max(4.0, 32.0 / (turn + 1))
        robust = weights / (1 + (residuals / spread) ** 2)
        degree = (1, 3, 6)[min(turn // 2, 2)]
        used = terms[:, :degree]
        # A small ridge: on a page of one pixel row the terms are linearly dependent.
        normal = used.T @ (used * robust[:, None]) + 1e-3 * np.eye(degree)
        coefficients = np.zeros(6)
        coefficients[:degree] = np.linalg.solve(normal, used.T @ (values * robust))
        residuals = values - terms @ coefficients
    return coefficients, float((weights / (1 + (residuals / 4) ** 2)).sum())
