"""Anybody's image of a digit comes out as MNIST's makers would have left it; what is no digit is told."""

import io
import zlib
from typing import Literal

import numpy as np
import pytest
from PIL import Image, ImageDraw

from mnist_cls import Predictor
from mnist_cls.data.datasets import LabelledImages, load_dataset
from mnist_cls.data.scans import list_scans, scan, scan_row
from mnist_cls.errors import InputError
from mnist_cls.images import in_mnist_form
from mnist_cls.preprocessing.digit import Digits
from mnist_cls.preprocessing.mnist_form import THICKEST, THINNEST, stroke_width
from mnist_cls.preprocessing.prepare import prepare, prepare_all, to_mnist_form


def png(image: Image.Image | np.ndarray) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, "PNG")
    return file.getvalue()


def seen(files: list[bytes]) -> np.ndarray:
    """What a network gets of each; black for an error."""
    blank = np.zeros((28, 28), np.uint8)
    return np.stack([found.images[0] if isinstance(found, Digits) else blank for found in prepare_all(files)])


@pytest.mark.parametrize("split", ["train", "test"])
def test_all_of_mnist_is_in_its_form(split: Literal["train", "test"]) -> None:
    images = load_dataset("mnist", split).images.numpy()
    assert all(in_mnist_form(part).all() for part in np.array_split(images, 30))
    assert not in_mnist_form(np.roll(images[:500], 2, axis=1)).any()
    assert not in_mnist_form(255 - images[:500]).any()
    assert not in_mnist_form(np.zeros((2, 28, 28), np.uint8)).any()


def test_what_is_in_the_form_passes_bit_for_bit(mnist_test: LabelledImages) -> None:
    images = mnist_test.images[:400].numpy()
    np.testing.assert_array_equal(seen([png(image) for image in images]), images)
    np.testing.assert_array_equal(seen([png(255 - image) for image in images]), images)
    assert prepare(images[0]).boxes.tolist() == [[0, 0, 28, 28]]


# How many points below the accuracy on plain images each kind may be; 1 unless said here.
POINTS = {"12 pixels": 3.0, "16 pixels": 1.5, "cropped tightly": 1.5, "thick strokes": 1.5}


@pytest.mark.parametrize("kind", list_scans())
def test_scans_are_read_nearly_as_well(kind: str, mnist_test: LabelledImages) -> None:
    predict = Predictor(device="cpu")
    images, labels = mnist_test.images[:200].numpy(), mnist_test.labels[:200].numpy()
    plain = (predict(images).labels == labels).mean()
    found = (predict(seen(scan(images, kind))).labels == labels).mean()
    assert 100 * (plain - found) <= POINTS.get(kind, 1.0)


def test_scans_repeat_themselves(digits: np.ndarray) -> None:
    for kind in ("photo", "dust"):
        assert scan(digits[:2], kind) == scan(digits[:2], kind) != scan(digits[:2], kind, seed=1)
    with pytest.raises(InputError, match="scan=fax: expected one of dark on light"):
        scan(digits, "fax")


@pytest.mark.parametrize("level", [0, 90, 255])
@pytest.mark.parametrize("grain", [0, 12])
def test_nothing_but_paper_or_ink_is_told(level: int, grain: int) -> None:
    noise = np.random.default_rng(0).normal(0, grain, (100, 80))
    with pytest.raises(InputError, match="no digit to see"):
        prepare(np.clip(level + noise, 0, 255).astype(np.uint8))


def test_several_digits_are_told(digits: np.ndarray) -> None:
    row = np.concatenate([digits[3], digits[5], digits[8]], 1)
    with pytest.raises(InputError, match="several digits in one image; expected one, split=true reads rows"):
        prepare(255 - row)
    above = np.concatenate([digits[0], digits[1]], 0)
    with pytest.raises(InputError, match="digits above one another"):
        prepare(above)
    with pytest.raises(InputError, match="several rows of digits"):
        prepare(np.concatenate([row, row[:, ::-1]], 0), split=True)


def line(width: int, side: int = 200) -> np.ndarray:
    """A seven, drawn with a pen of so many pixels."""
    page = Image.new("L", (side, side), 240)
    ImageDraw.Draw(page).line([(50, 40), (150, 40), (90, 170)], 20, width)
    return np.asarray(page)


@pytest.mark.parametrize("width", [2, 4, 8, 16, 34])
def test_strokes_come_near_to_mnists(width: int) -> None:
    form = to_mnist_form(line(width))
    fine = np.asarray(Image.fromarray(form).resize((112, 112), Image.Resampling.BILINEAR)) > 127
    assert THINNEST - 0.5 <= stroke_width(fine) / 4 <= THICKEST + 0.4
    assert Predictor(device="cpu")(form[None]).labels.tolist() == [7]


def test_a_digit_far_off_on_a_large_page_is_looked_at_closely(digits: np.ndarray) -> None:
    page = np.full((1500, 2200), 235, np.uint8)
    page[900:956, 1600:1656] -= np.asarray(Image.fromarray(digits[0] // 2).resize((56, 56)))
    found = prepare(page)
    left, top, right, bottom = found.boxes[0]
    assert (abs(left - 1612), abs(top - 914)) <= (4, 4)
    assert (right - left, bottom - top) <= (44, 48)
    assert np.abs(found.images[0].astype(int) - digits[0]).mean() < 12


def test_a_row_comes_digit_by_digit(mnist_test: LabelledImages) -> None:
    images, labels = mnist_test.images[:250].numpy(), mnist_test.labels[:250].numpy()
    rows, predict = [prepare(scan_row(images[i : i + 5], 4, i), split=True) for i in range(0, 250, 5)], Predictor()
    read = [predict(row.images).labels.tolist() for row in rows]
    right = [found == labels[5 * i : 5 * i + 5].tolist() for i, found in enumerate(read)]
    assert np.mean(right) >= 0.9
    boxes = rows[0].boxes
    assert boxes.shape == (5, 4)
    assert (np.diff(boxes[:, 0]) > 0).all()
    assert (boxes[:, 2] > boxes[:, 0]).all()


# Some of the training images where the pen skipped, or was so light that it seems to have.
@pytest.mark.parametrize("number", [48881, 44644, 32272, 16635])
def test_a_digit_in_pieces_is_one(digits: np.ndarray, labels: list[int], number: int) -> None:
    train = load_dataset("mnist", "train")
    row = np.stack([digits[0], train.images[number].numpy(), digits[2]])
    expected = [labels[0], int(train.labels[number]), labels[2]]
    for gap in (2, 4):
        found = prepare(scan_row(row, gap), split=True).images
        assert Predictor("accurate", device="cpu")(found).labels.tolist() == expected


def test_touching_digits_are_cut(digits: np.ndarray) -> None:
    page = np.zeros((60, 90), np.uint8)
    page[16:44, 16:44], page[16:44, 34:62] = digits[3], np.maximum(digits[10], page[16:44, 34:62])  # 0 and 0
    assert len(prepare(page, split=True).images) == 2


def test_commas_and_points_are_no_digits(digits: np.ndarray) -> None:
    page = np.full((60, 150), 230, np.uint8)
    for place, number in enumerate((0, 1, 3)):
        page[14:42, 10 + 40 * place : 38 + 40 * place] -= digits[number] // 2
    page[38:42, 42:45] = 60
    assert len(prepare(page, split=True).images) == 3


def test_preprocess_none_takes_what_is_there(digits: np.ndarray) -> None:
    moved = np.roll(digits[0], 3, axis=0)
    np.testing.assert_array_equal(prepare(moved, "none").images[0], moved)
    assert not np.array_equal(prepare(moved).images[0], moved)
    with pytest.raises(InputError, match="56 x 28 pixels; preprocess=none expects 28 x 28"):
        prepare(np.tile(moved, 2), "none")


def bomb(side: int) -> bytes:
    """A PNG of side x side black pixels, small as a file."""

    def chunk(name: bytes, content: bytes) -> bytes:
        size, check = len(content).to_bytes(4, "big"), zlib.crc32(name + content).to_bytes(4, "big")
        return size + name + content + check

    header = side.to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
    pixels = zlib.compress(bytes(10_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty file: expected one of PNG, JPEG"),
        (b"hello", "not an image: expected one of PNG, JPEG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (bomb(9000), "too large: 9000 x 9000 pixels; expected at most 64,000,000 pixels"),
        (bomb(60_000), "too large: "),
        (png(np.random.default_rng(0).integers(0, 255, (60, 60), np.uint8))[:900], "broken image"),
    ],
    ids=["empty", "text", "PostScript", "large", "bomb", "cut off"],
)
def test_what_is_no_image_is_told_in_a_line(content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        prepare(content)
    assert "\n" not in str(raised.value)


def test_several_pages_are_told() -> None:
    file = io.BytesIO()
    page = Image.fromarray(line(8))
    page.save(file, "TIFF", save_all=True, append_images=[page, page])
    with pytest.raises(InputError, match="holds 3 pictures; expected one"):
        prepare(file.getvalue())


def test_a_page_cut_out_of_its_background(digits: np.ndarray) -> None:
    """The corners of a turned scan are transparent; they are no ink."""
    paper = Image.fromarray(np.pad(235 - digits[0] // 2, 20, constant_values=235)).resize((204, 204))
    turned = paper.convert("RGBA").rotate(12, expand=True, fillcolor=(0, 0, 0, 0))
    assert Predictor(device="cpu")(to_mnist_form(turned)[None]).labels.tolist() == [7]


def test_one_bad_image_spoils_no_other(digits: np.ndarray) -> None:
    found = prepare_all([digits[0], b"", 255 - digits[1], line(8)])
    assert [type(one).__name__ for one in found] == ["Digits", "InputError", "Digits", "Digits"]
    np.testing.assert_array_equal(found[2].images[0], digits[1])  # type: ignore[union-attr]


@pytest.mark.parametrize("margin", [8, 200, 800])
def test_two_digits_are_two_on_a_page_of_any_size(digits: np.ndarray, margin: int) -> None:
    with Image.open(io.BytesIO(scan_row(digits[[0, 2]], 6))) as image:
        page = np.pad(np.asarray(image), margin, constant_values=235)
    with pytest.raises(InputError, match="several digits in one image"):
        prepare(page)


@pytest.mark.parametrize("pen", [4, 10, 20])
@pytest.mark.parametrize("margin", [0, 1, 2, 4])
def test_the_bar_of_a_seven_is_no_ruling(pen: int, margin: int) -> None:
    page = line(pen)
    rows, columns = (np.flatnonzero((page < 200).any(axis)) for axis in (1, 0))
    crop = page[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    form = to_mnist_form(np.pad(crop, margin, constant_values=240))
    assert Predictor(device="cpu")(form[None]).labels.tolist() == [7]


@pytest.mark.parametrize("margin", [1, 8, 20, 40])
def test_a_box_around_the_digit_is_no_zero(mnist_test: LabelledImages, margin: int) -> None:
    images, labels = mnist_test.images[:60].numpy(), mnist_test.labels[:60].numpy()
    pages = []
    for image in images:
        page = Image.fromarray(np.pad(235 - (image * 0.8).astype(np.uint8), 2, constant_values=235)).resize((96, 96))
        ImageDraw.Draw(page).rectangle([0, 0, 95, 95], outline=40, width=2)
        pages.append(np.pad(np.asarray(page), margin, constant_values=235))
    blank = np.zeros((28, 28), np.uint8)
    found = np.stack([one.images[0] if isinstance(one, Digits) else blank for one in prepare_all(pages)])
    assert (Predictor(device="cpu")(found).labels == labels).mean() >= 0.95


@pytest.mark.parametrize("side", [0, 1, 2, 3])
def test_a_dark_side_of_the_page_is_no_one(digits: np.ndarray, side: int) -> None:
    page = np.full((150, 150), 235, np.uint8)
    np.rot90(page, side)[:, :30] = 20
    with pytest.raises(InputError, match="no digit to see"):
        prepare(page)
    page[40:110, 40:110] -= np.asarray(Image.fromarray(digits[0] // 2).resize((70, 70)))
    assert Predictor(device="cpu")(to_mnist_form(page)[None]).labels.tolist() == [7]


def ruled_row(digits: np.ndarray, start: int, stop: int) -> np.ndarray:
    with Image.open(io.BytesIO(scan_row(digits[:5], 4))) as image:
        page = np.asarray(image).copy()
    page[-12:-9, start : stop or page.shape[1]] = 40
    return page


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (20, -20)])
def test_a_line_under_a_row_is_no_digit(digits: np.ndarray, labels: list[int], start: int, stop: int) -> None:
    found = prepare(ruled_row(digits, start, stop), split=True).images
    assert Predictor(device="cpu")(found).labels.tolist() == labels[:5]


def test_cells_around_digits_are_told(digits: np.ndarray) -> None:
    page = ruled_row(digits, 4, -4)
    page[4:7, 4:-4] = 40
    for column in np.linspace(4, page.shape[1] - 7, 6).astype(int):
        page[4:-9, column : column + 3] = 40
    with pytest.raises(InputError, match="lines around or through the digits"):
        prepare(page, split=True)


def test_a_colon_is_no_digit(digits: np.ndarray) -> None:
    page = np.full((60, 120), 230, np.uint8)
    page[14:42, 8:36] -= digits[0] // 2
    page[14:42, 70:98] -= digits[1] // 2
    page[20:25, 50:55] = page[32:37, 50:55] = 60
    assert len(prepare(page, split=True).images) == 2
