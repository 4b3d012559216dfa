"""Photographed pages with shadows, objects, pasted paper, ruled lines and specks around given ink.

Each function takes the ink of a page, float32 (H, W), 0 to 1, and returns the photographed page, uint8 (H, W).
"""

import numpy as np
from numpy.random import Generator
from scipy import ndimage


def photo(ink: np.ndarray, random: Generator, light: np.ndarray | float = 1.0) -> np.ndarray:
    """Photograph dark ink on light paper, slightly out of focus; `light` is the brightness of each pixel, 0 to 1."""
    grey = ndimage.gaussian_filter((random.uniform(190, 240) - random.uniform(130, 160) * ink) * light, 1)
    pixels: np.ndarray = np.clip(grey + random.normal(0, 2, ink.shape), 0, 255).astype(np.uint8)
    return pixels


def shadow(ink: np.ndarray, random: Generator, width: float) -> np.ndarray:
    """Darken one side of the page; the edge of the shadow, `width` pixels wide, can cross the ink."""
    height, length = ink.shape
    y, x = np.mgrid[:height, :length]
    angle, middle = random.uniform(0, 2 * np.pi), random.uniform(1 / 3, 2 / 3, 2)
    across = (x - middle[0] * length) * np.cos(angle) + (y - middle[1] * height) * np.sin(angle)
    return photo(ink, random, 1 - random.uniform(0.2, 0.45) / (1 + np.exp(np.clip(across / width, -50, 50))))


def dark_object(ink: np.ndarray, random: Generator) -> np.ndarray:
    """Lay a dark object with round corners on the lower edge of the page."""
    height, length = ink.shape
    y, x = np.mgrid[:height, :length]
    left, top, radius = random.uniform(-0.2, 0.3) * length, height - random.uniform(38, 45), random.uniform(5, 20)
    outside = np.hypot(np.maximum(left + radius - x, 0), np.maximum(top + radius - y, 0)) - radius
    return photo(np.maximum(ink, random.uniform(0.8, 1.1) * (outside < 0)), random)


def pasted(ink: np.ndarray, random: Generator, pen: float, paper: float) -> np.ndarray:
    """Paste the page, of the grey `paper` with ink of the grey `pen` and without its margins, onto a white page."""
    height, length = ink.shape
    page = np.full(ink.shape, 255, np.uint8)
    kept = np.s_[height // 5 : height * 9 // 10, length // 5 : length * 6 // 7]
    page[kept] = (paper + (pen - paper) * ink + random.normal(0, 2, ink.shape))[kept].clip(0, 255)
    return page


def ruled(ink: np.ndarray, random: Generator, squared: bool = False) -> np.ndarray:
    """Write on ruled or squared paper, whose lines are fainter than the ink and cross it."""
    page, strength = ink.copy(), random.uniform(0.6, 0.9)
    for lines in (page, page.T) if squared else (page,):
        for row in np.arange(random.uniform(0, 50), len(lines) - 3, random.uniform(40, 80)).astype(int):
            lines[row : row + 2] = np.maximum(lines[row : row + 2], strength)
    return photo(page, random)


def speck(ink: np.ndarray, random: Generator) -> np.ndarray:
    """Drop a speck high above the ink."""
    page, side = ink.copy(), int(random.integers(3, 9))
    left = int(random.integers(0.2 * ink.shape[1], 0.8 * ink.shape[1]))
    page[10 : 10 + side, left : left + side] = 1
    return photo(page, random)
