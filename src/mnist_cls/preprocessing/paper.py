"""Separate ink from paper: dark or light ink, in uneven light, on paper with grain."""

import numpy as np
from PIL import Image
from scipy import ndimage

from ..errors import InputError

# The least difference between ink and paper, in grey levels of 255. Anything fainter is no writing.
_LEAST_CONTRAST = 16

# The light on a page changes slowly, so the paper is fitted to a picture of at most this many pixels on each side.
_FIT_SIDE = 40

# Rounds of the robust fit of the paper's brightness.
_ROUNDS = 9

# Medians and percentiles are taken of at least this many pixels, if there are as many. All of them would take longer
# than everything else.
_SAMPLES = 5000


def find_ink(grey: np.ndarray, coarse: bool = False) -> np.ndarray:
    """Compute for each pixel of a page how much of it is covered by ink.

    The paper's brightness is fitted by a polynomial of degree two, so that light may fall from one side. Ink is what
    differs from it by more than the paper's own grain: darker or lighter, whichever there is more of.

    Args:
        grey: uint8 (H, W).
        coarse: whether the page was enlarged from pixels as wide as strokes. Then grey is the fraction of a pixel that
            is ink, as in MNIST's own images. Otherwise it is mostly the blurred edge of a stroke, and dark grey is ink.

    Returns:
        float32 (H, W), from 0, paper, to 1, ink.

    Raises:
        InputError: If nothing stands out from the paper.
    """
    paper = fit_paper(grey)
    darker = paper - grey
    # Ink on darker paper has less contrast, but the same as a fraction of the paper's brightness.
    difference = np.where(darker > 0, darker * (255 / np.maximum(paper, 32)), darker)
    grain = _noise(difference)
    if grain > 2:
        difference = ndimage.gaussian_filter(difference, min(1.0, max(grey.shape) / 64))
        grain = _noise(difference)
    threshold = max(_LEAST_CONTRAST / 2, 4 * grain)
    dark, light = (np.clip(side - threshold, 0, None).sum() for side in (difference, -difference))
    ink = difference if dark >= light else -difference
    contrast = _percentile(ink[ink > threshold], 85)
    if contrast < max(_LEAST_CONTRAST, 5 * grain):
        raise InputError(
            f"no digit found: the contrast is {max(contrast, 0):.0f} of 255 grey levels, the noise of the paper"
            f" {grain:.0f}; colours count by their brightness alone"
        )
    if coarse:
        black, white = 0.96 * _percentile(ink[ink > threshold], 90), 3 * grain
    else:
        black, white = 0.92 * contrast, max(3 * grain, 0.15 * contrast)
    white = min(white, 0.4 * contrast)
    coverage: np.ndarray = np.clip((ink - white) / (black - white), 0, 1).astype(np.float32)
    return coverage


def fit_paper(grey: np.ndarray) -> np.ndarray:
    """Fit the paper's brightness, float32 (H, W), by the polynomial of degree two that most of the page agrees with.

    On simple pages nearly half of the pixels are close to one brightness, which then is the paper's. On others a robust
    fit reduces the weight of outliers in each round (Cauchy's weights). Both start from two values, the median along
    the border and the most frequent one, and keep the result that more pixels agree with. Pixels at the border and in
    the corners count more, because ink is rarely there.
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
    # A constant at first, then a plane, then a curved surface: early on, ink in a corner must not bend the paper.
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


def _noise(difference: np.ndarray) -> float:
    """Estimate the standard deviation of the paper's grain: by the median of deviations small enough for it."""
    deviations = np.abs(difference.ravel()[:: difference.size // _SAMPLES * 2 + 1])
    small = deviations[deviations <= 48]
    return float(1.4826 * np.median(small)) if len(small) else 0.0


def _percentile(values: np.ndarray, percent: float) -> float:
    return float(np.percentile(values[:: len(values) // _SAMPLES * 2 + 1], percent)) if len(values) else 0.0
