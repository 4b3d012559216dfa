"""Pages with shadows, objects, pasted paper and rulings are read; pages of several digits are refused."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.random import Generator
from PIL import Image

from mnist_cls import Predictor
from mnist_cls.data.datasets import load_dataset
from mnist_cls.data.uneven import dark_object, pasted, photo, ruled, shadow
from mnist_cls.errors import InputError
from mnist_cls.preprocessing import prepare
from mnist_cls.preprocessing.digit import Digits
from mnist_cls.preprocessing.prepare import prepare_all

_TRAIN = load_dataset("mnist", "train")
_IMAGES, _LABELS = _TRAIN.images[50_000:51_000].numpy(), _TRAIN.labels[50_000:51_000].numpy()


def digit_ink(image: np.ndarray, side: int) -> np.ndarray:
    """Enlarge an image to side x side and crop it to its ink; float32 (H, W), 0 to 1."""
    ink = np.clip(np.asarray(Image.fromarray(image / np.float32(255)).resize((side, side))), 0, 1)
    rows, columns = (np.flatnonzero((ink > 0.3).any(axis)) for axis in (1, 0))
    cropped: np.ndarray = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return cropped


def one_digit(image: np.ndarray, random: Generator) -> np.ndarray:
    """Draw a digit in the middle half of a page; float32 (300, 360), 0 to 1."""
    page, ink = np.zeros((300, 360), np.float32), digit_ink(image, int(random.integers(70, 150)))
    top, left = random.integers(75, 100), random.integers(90, 150)
    page[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    return page


_PAGES: dict[str, Callable[[np.ndarray, Generator], np.ndarray]] = {
    "soft shadow": lambda ink, random: shadow(ink, random, random.uniform(6, 30)),
    "hard shadow": lambda ink, random: shadow(ink, random, 0.5),
    "dark object": dark_object,
    "grey paper on white": lambda ink, random: pasted(ink, random, 60, random.uniform(190, 235)),
    "dark paper on white": lambda ink, random: pasted(ink, random, 230, random.uniform(10, 60)),
    "rulings": ruled,
}


@pytest.mark.parametrize("kind", _PAGES)
def test_a_digit_is_read_on_an_uneven_page(kind: str) -> None:
    random = np.random.default_rng(0)
    predict = Predictor(device="cpu", preprocess="none")
    correct = 0
    for image, label in zip(_IMAGES[:40], _LABELS[:40], strict=True):
        try:
            found = prepare(_PAGES[kind](one_digit(image, random), random)).images
        except InputError:
            continue
        correct += int(predict(found).labels[0] == label)
    assert correct >= 37


def test_where_a_shadows_edge_cannot_be_told_from_the_digit_the_error_names_it() -> None:
    random, predict = np.random.default_rng(3), Predictor(device="cpu", preprocess="none")
    found = prepare_all([shadow(one_digit(image, random), random, 0.5) for image in _IMAGES[:60]])
    assert sum("such as a shadow or an object" in str(one) for one in found if isinstance(one, InputError)) >= 1
    read = [(one.images, label) for one, label in zip(found, _LABELS[:60], strict=True) if isinstance(one, Digits)]
    assert sum(predict(images).labels[0] != label for images, label in read) <= 3


def sheet(random: Generator, rows: int, columns: int, cell: int = 80) -> np.ndarray:
    """Draw digits in rows and columns, with some jitter; float32 (H, W), 0 to 1."""
    page = np.zeros((rows * cell, columns * cell), np.float32)
    for row in range(rows):
        for column in range(columns):
            ink = digit_ink(_IMAGES[random.integers(len(_IMAGES))], int(cell * random.uniform(0.7, 1.1)))[: cell - 8]
            ink = ink[:, : cell - 8]
            top = row * cell + random.integers(4, cell - ink.shape[0] - 3)
            left = column * cell + random.integers(4, cell - ink.shape[1] - 3)
            page[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    return np.pad(page, 30)


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        (1, 3, "several digits in one image"),
        (1, 10, "several digits in one image"),
        (2, 5, "several rows of digits"),
        (4, 3, r"several (rows of )?digits"),
        (4, 1, r"digits above one another|several rows of digits"),
    ],
)
def test_sheets_of_digits_are_refused(rows: int, columns: int, message: str) -> None:
    random = np.random.default_rng(1)
    for _ in range(12):
        with pytest.raises(InputError, match=message):
            prepare(photo(sheet(random, rows, columns), random))


@pytest.mark.parametrize("trouble", ["speck", "rulings", "object"])
def test_a_row_is_refused_with_other_things_on_the_page(trouble: str) -> None:
    random = np.random.default_rng(2)
    for _ in range(12):
        ink = np.pad(sheet(random, 1, 5), ((60, 60), (0, 0)))
        if trouble == "speck":
            left = random.integers(40, 400)
            ink[10:18, left : left + 8] = 1
        if trouble == "rulings":
            ink[np.linspace(20, 240, 5).astype(int)] = 0.8
        if trouble == "object":
            ink[-70:, random.integers(0, 200) :] = 0.9
        with pytest.raises(InputError, match=r"several (rows of )?digits"):
            prepare(photo(ink, random))
