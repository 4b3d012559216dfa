"""Any image of a digit is converted to MNIST's form; what shows no digit, or several, is refused in one line."""

import io
import subprocess
import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from mnist_cls import Predictor
from mnist_cls.data.datasets import LabelledImages, load_dataset
from mnist_cls.data.scans import list_scans, scan, scan_row
from mnist_cls.errors import InputError
from mnist_cls.preprocessing import Digits, prepare, prepare_all, to_mnist_form
from mnist_cls.preprocessing.mnist_form import THICKEST, THINNEST, stroke_width

from .conftest import ROOT

Predict = Callable[[Sequence[bytes | np.ndarray | Image.Image]], np.ndarray]


@pytest.fixture(scope="module")
def predict() -> Predict:
    """Predicts the labels of preprocessed images; -1 for an error."""
    predictor = Predictor(device="cpu", preprocess="none")

    def predict(images: Sequence[bytes | np.ndarray | Image.Image]) -> np.ndarray:
        results = prepare_all(images)
        labels = np.full(len(images), -1)
        readable = [index for index, result in enumerate(results) if isinstance(result, Digits)]
        found = [result.images for result in results if isinstance(result, Digits)]
        labels[readable] = predictor(np.concatenate(found)).labels
        return labels

    return predict


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def enlarged(image: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((side, side)))


def seven(pen: int) -> np.ndarray:
    """A 7 drawn with a pen of that many pixels."""
    page = Image.new("L", (200, 200), 240)
    ImageDraw.Draw(page).line([(50, 40), (150, 40), (90, 170)], 20, pen)
    return np.asarray(page)


def test_mnist_images_pass_unchanged(mnist_test: LabelledImages) -> None:
    images = mnist_test.images[:1000].numpy()
    for files in ([png(image) for image in images[:400]], [png(255 - image) for image in images[:400]], list(images)):
        for result, image in zip(prepare_all(files), images, strict=False):
            assert isinstance(result, Digits)
            np.testing.assert_array_equal(result.images[0], image)
            assert result.boxes.tolist() == [[0, 0, 28, 28]]


def test_an_mnist_image_pasted_onto_a_larger_page_is_recovered_exactly(digits: np.ndarray) -> None:
    for digit in digits:
        page = np.zeros((60, 80), np.uint8)
        page[7:35, 40:68] = digit
        np.testing.assert_array_equal(to_mnist_form(page), digit)


# Percentage points of accuracy that a kind of scan may lose against MNIST's own images, if more than 1.
MOST_LOST = {"12 pixels": 3.0, "16 pixels": 1.5, "cropped tightly": 3.0, "thick strokes": 1.5, "thin strokes": 1.5}
# Most of the images lost here are refused, not misread.
MOST_LOST |= {"a pen of 1 pixel": 5.0, "soft shadow": 3.0, "hard shadow": 14.0, "squared paper": 20.0}


@pytest.fixture(scope="module")
def accuracy(predict: Predict, mnist_test: LabelledImages) -> float:
    """Accuracy on the first 200 of MNIST's own images."""
    return float((predict(list(mnist_test.images[:200].numpy())) == mnist_test.labels[:200].numpy()).mean())


@pytest.mark.parametrize("kind", list_scans())
def test_scans_are_read_nearly_as_well_as_mnist(
    kind: str, predict: Predict, accuracy: float, mnist_test: LabelledImages
) -> None:
    scans = scan(mnist_test.images[:200].numpy(), kind)
    lost = accuracy - (predict(scans) == mnist_test.labels[:200].numpy()).mean()
    assert 100 * lost <= MOST_LOST.get(kind, 1.0)


def test_scans_depend_on_their_seed_alone(digits: np.ndarray) -> None:
    for kind in ("photo", "dust"):
        assert scan(digits[:2], kind) == scan(digits[:2], kind) != scan(digits[:2], kind, seed=1)
    with pytest.raises(InputError, match="scan=fax: expected one of dark on light"):
        scan(digits, "fax")


def in_mode(image: Image.Image, mode: str) -> Image.Image:
    if mode == "transparent":  # black ink on nothing
        ink = Image.new("RGBA", image.size, (0, 0, 0, 0))
        ink.putalpha(image)
        return ink
    if mode == "dark on light":
        return image.point(lambda value: 255 - value)
    if mode == "I;16":
        return Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    if mode == "palette":
        return image.convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE)
    if mode == "jpeg":
        file = io.BytesIO()
        image.save(file, "JPEG", quality=60)
        return Image.open(file)
    return image.convert(mode)


@pytest.mark.parametrize(
    "mode", ["RGB", "RGBA", "CMYK", "LA", "F", "I;16", "palette", "jpeg", "transparent", "dark on light"]
)
@pytest.mark.parametrize("size", [28, 100, 15])
def test_modes_polarities_and_sizes(
    digits: np.ndarray, labels: list[int], predict: Predict, mode: str, size: int
) -> None:
    large = [Image.fromarray(digit).resize((size, size), Image.Resampling.LANCZOS) for digit in digits]
    assert (predict([in_mode(image, mode) for image in large]) == labels).mean() >= 0.97


@pytest.mark.parametrize(("paper", "ink"), [(120, 0), (200, 90), (100, 255), (0, 60)])
def test_grey_ink_on_grey_paper(digits: np.ndarray, labels: list[int], predict: Predict, paper: int, ink: int) -> None:
    scans = [enlarged((paper + (digit / 255) * (ink - paper)).astype(np.uint8), 56) for digit in digits]
    assert (predict(scans) == labels).mean() >= 0.97


@pytest.mark.parametrize("white", [1.0, 255, 4095, 65535])
def test_white_in_images_of_high_bit_depth(digits: np.ndarray, white: float) -> None:
    dtype = np.float32 if white == 1 else np.uint16
    image = Image.fromarray((digits[0].astype(float) / 255 * white).astype(dtype))
    assert np.abs(to_mnist_form(image).astype(int) - digits[0]).max() <= 1


def test_exif_orientation_is_applied(tmp_path: Path, digits: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise
    upright = Image.fromarray(enlarged(digits[0], 112))
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "camera.png", exif=exif)
    found = prepare((tmp_path / "camera.png").read_bytes())
    np.testing.assert_array_equal(found.images, prepare(upright).images)


@pytest.mark.parametrize("level", [0, 90, 128, 255])
@pytest.mark.parametrize(("shape", "grain"), [((28, 28), 0), ((50, 50), 0), ((100, 80), 0), ((100, 80), 12)])
def test_a_blank_page_shows_no_digit(level: int, shape: tuple[int, int], grain: int) -> None:
    noise = np.random.default_rng(0).normal(0, grain, shape)
    with pytest.raises(InputError, match="no digit found"):
        prepare(np.clip(level + noise, 0, 255).astype(np.uint8))


def test_several_digits_are_refused(digits: np.ndarray) -> None:
    row = np.concatenate([digits[3], digits[5], digits[8]], 1)
    with pytest.raises(InputError, match="several digits in one image; expected one"):
        prepare(255 - row)
    with pytest.raises(InputError, match="digits above one another"):
        prepare(np.concatenate([digits[0], digits[1]], 0))
    with pytest.raises(InputError, match="several rows of digits"):
        prepare(np.concatenate([row, row[:, ::-1]], 0), split=True)


@pytest.mark.parametrize("margin", [8, 200, 800])
def test_two_digits_are_refused_on_pages_of_any_size(digits: np.ndarray, margin: int) -> None:
    with Image.open(io.BytesIO(scan_row(digits[[0, 2]], 6))) as image:
        page = np.pad(np.asarray(image), margin, constant_values=235)
    with pytest.raises(InputError, match="several digits in one image"):
        prepare(page)


@pytest.mark.parametrize("pen", [2, 4, 8, 16, 34])
def test_strokes_become_about_as_wide_as_mnists(predict: Predict, pen: int) -> None:
    page = seven(pen)
    fine = np.asarray(Image.fromarray(to_mnist_form(page)).resize((112, 112), Image.Resampling.BILINEAR)) > 127
    assert THINNEST - 0.5 <= stroke_width(fine) / 4 <= THICKEST + 0.4
    assert predict([page]) == [7]


def test_a_small_digit_on_a_large_page_is_read_at_a_higher_resolution(digits: np.ndarray) -> None:
    page = np.full((1500, 2200), 235, np.uint8)
    page[900:956, 1600:1656] -= enlarged(digits[0] // 2, 56)
    found = prepare(page)
    left, top, right, bottom = found.boxes[0]
    assert (abs(left - 1612), abs(top - 914)) <= (4, 4)
    assert (right - left, bottom - top) <= (44, 48)
    assert np.abs(found.images[0].astype(int) - digits[0]).mean() < 12


@pytest.mark.parametrize("pen", [4, 10, 20])
@pytest.mark.parametrize("margin", [0, 1, 2, 4])
def test_the_bar_of_a_seven_is_not_removed_as_a_ruling(predict: Predict, pen: int, margin: int) -> None:
    page = seven(pen)
    rows, columns = (np.flatnonzero((page < 200).any(axis)) for axis in (1, 0))
    crop = page[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert predict([np.pad(crop, margin, constant_values=240)]) == [7]


@pytest.mark.parametrize("margin", [1, 8, 20, 40])
def test_a_box_around_a_digit_is_removed(predict: Predict, mnist_test: LabelledImages, margin: int) -> None:
    pages = []
    for digit in mnist_test.images[:60].numpy():
        page = Image.fromarray(enlarged(np.pad(235 - (digit * 0.8).astype(np.uint8), 2, constant_values=235), 96))
        ImageDraw.Draw(page).rectangle([0, 0, 95, 95], outline=40, width=2)
        pages.append(np.pad(np.asarray(page), margin, constant_values=235))
    assert (predict(pages) == mnist_test.labels[:60].numpy()).mean() >= 0.95


@pytest.mark.parametrize("side", [0, 1, 2, 3])
def test_a_dark_side_of_the_page_is_not_read_as_a_one(digits: np.ndarray, predict: Predict, side: int) -> None:
    page = np.full((150, 150), 235, np.uint8)
    np.rot90(page, side)[:, :30] = 20
    with pytest.raises(InputError, match="no digit found"):
        prepare(page)
    page[40:110, 40:110] -= enlarged(digits[0] // 2, 70)
    assert predict([page]) == [7]


def test_the_transparent_corners_of_a_rotated_scan_are_not_ink(digits: np.ndarray, predict: Predict) -> None:
    paper = enlarged(np.pad(235 - digits[0] // 2, 20, constant_values=235), 204)
    rotated = Image.fromarray(paper).convert("RGBA").rotate(12, expand=True, fillcolor=(0, 0, 0, 0))
    assert predict([rotated]) == [7]


def test_a_row_is_read_digit_by_digit(mnist_test: LabelledImages) -> None:
    images, labels = mnist_test.images[:250].numpy(), mnist_test.labels[:250].numpy()
    rows = [prepare(scan_row(images[i : i + 5], 4, i), split=True) for i in range(0, 250, 5)]
    predict = Predictor(device="cpu", preprocess="none")
    read = [predict(row.images).labels.tolist() for row in rows]
    correct = [found == labels[5 * i : 5 * i + 5].tolist() for i, found in enumerate(read)]
    assert np.mean(correct) >= 0.9
    boxes = rows[0].boxes
    assert boxes.shape == (5, 4)
    assert (np.diff(boxes[:, 0]) > 0).all()
    assert (boxes[:, 2] > boxes[:, 0]).all()


# Training images whose strokes are broken, or so faint that they seem to be.
@pytest.mark.parametrize("index", [48881, 44644, 32272, 16635])
def test_a_digit_of_broken_strokes_in_a_row_is_one_digit(digits: np.ndarray, labels: list[int], index: int) -> None:
    train = load_dataset("mnist", "train")
    row = np.stack([digits[0], train.images[index].numpy(), digits[2]])
    expected = [labels[0], int(train.labels[index]), labels[2]]
    for gap in (2, 4):
        found = prepare(scan_row(row, gap), split=True).images
        assert Predictor("accurate", device="cpu", preprocess="none")(found).labels.tolist() == expected


def test_touching_digits_are_cut_apart(digits: np.ndarray) -> None:
    page = np.zeros((60, 90), np.uint8)
    page[16:44, 16:44], page[16:44, 34:62] = digits[3], np.maximum(digits[10], page[16:44, 34:62])  # 0 and 0
    assert len(prepare(page, split=True).images) == 2


def test_a_point_in_a_row_is_dropped(digits: np.ndarray) -> None:
    page = np.full((60, 150), 230, np.uint8)
    for number, digit in enumerate(digits[[0, 1, 3]]):
        page[14:42, 10 + 40 * number : 38 + 40 * number] -= digit // 2
    page[38:42, 42:45] = 60
    assert len(prepare(page, split=True).images) == 3


def test_a_colon_in_a_row_is_dropped(digits: np.ndarray) -> None:
    page = np.full((60, 120), 230, np.uint8)
    page[14:42, 8:36] -= digits[0] // 2
    page[14:42, 70:98] -= digits[1] // 2
    page[20:25, 50:55] = page[32:37, 50:55] = 60
    assert len(prepare(page, split=True).images) == 2


def ruled_row(digits: np.ndarray, start: int, stop: int) -> np.ndarray:
    with Image.open(io.BytesIO(scan_row(digits[:5], 4))) as image:
        page = np.asarray(image).copy()
    page[-12:-9, start : stop or page.shape[1]] = 40
    return page


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (20, -20)])
def test_an_underline_below_a_row_is_dropped(digits: np.ndarray, labels: list[int], start: int, stop: int) -> None:
    found = prepare(ruled_row(digits, start, stop), split=True).images
    assert Predictor(device="cpu", preprocess="none")(found).labels.tolist() == labels[:5]


def test_cells_around_the_digits_of_a_row_are_removed(digits: np.ndarray) -> None:
    page = ruled_row(digits, 4, -4)
    page[4:7, 4:-4] = 40
    for column in np.linspace(4, page.shape[1] - 7, 6).astype(int):
        page[4:-9, column : column + 3] = 40
    assert len(prepare(page, split=True).images) == 5


def test_preprocess_none_takes_28x28_images_unchanged_and_refuses_others(digits: np.ndarray) -> None:
    moved = np.roll(digits[0], 3, axis=0)
    np.testing.assert_array_equal(prepare(moved, "none").images[0], moved)
    assert not np.array_equal(prepare(moved).images[0], moved)
    with pytest.raises(InputError, match="56 x 28 pixels; preprocess=none expects 28 x 28"):
        prepare(np.tile(moved, 2), "none")


def black_png(side: int) -> bytes:
    """A small PNG file of side x side black pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        size, checksum = len(content).to_bytes(4, "big"), zlib.crc32(name + content).to_bytes(4, "big")
        return size + name + content + checksum

    header = side.to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
    pixels = zlib.compress(bytes(10_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty file: expected one of PNG, JPEG"),
        (b"hello", "not an image: expected one of PNG, JPEG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (black_png(9000), "too large: 9000 x 9000 pixels; expected at most 64,000,000 pixels"),
        (black_png(60_000), "too large: "),
        (png(np.random.default_rng(0).integers(0, 255, (60, 60), np.uint8))[:900], "broken image"),
    ],
    ids=["empty", "text", "PostScript", "large", "bomb", "cut off"],
)
def test_files_that_cannot_be_read_are_refused_in_one_line(content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        prepare(content)
    assert "\n" not in str(raised.value)


def test_files_of_several_images_are_refused() -> None:
    file = io.BytesIO()
    page = Image.fromarray(seven(8))
    page.save(file, "TIFF", save_all=True, append_images=[page, page])
    with pytest.raises(InputError, match="holds 3 images; expected one"):
        prepare(file.getvalue())


def test_an_unreadable_image_does_not_affect_the_others(digits: np.ndarray) -> None:
    first, error, third, fourth = prepare_all([digits[0], b"", 255 - digits[1], seven(8)])
    assert isinstance(error, InputError)
    assert isinstance(fourth, Digits)
    for result, digit in ((first, digits[0]), (third, digits[1])):
        assert isinstance(result, Digits)
        np.testing.assert_array_equal(result.images[0], digit)


def test_the_steps_are_drawn_also_of_an_image_that_is_rejected(tmp_path: Path) -> None:
    two = np.hstack([seven(20), seven(20)])
    Image.fromarray(seven(20)).save(tmp_path / "one.png")
    Image.fromarray(two).save(tmp_path / "two.png")
    Image.fromarray(np.full_like(two, 240)).save(tmp_path / "blank.png")
    (tmp_path / "text.png").write_text("hello")
    script = [sys.executable, str(ROOT / "scripts" / "show_preprocessing.py")]
    done = subprocess.run([*script, "one.png", "two.png", "blank.png"], cwd=tmp_path, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"steps.png\n", b"")
    red = np.asarray(Image.open(tmp_path / "steps.png").convert("RGB")).astype(int)
    rows = np.array_split((red[..., 0] - red[..., 1] > 60).any(axis=1), 3)
    assert [bool(row.any()) for row in rows] == [False, True, True]  # the reason is in red
    done = subprocess.run([*script, "text.png", "--output=again.png"], cwd=tmp_path, capture_output=True)
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: text.png: ")
    assert not (tmp_path / "again.png").exists()
    content = (tmp_path / "two.png").read_bytes()
    done = subprocess.run([*script, "one.png", "two.png", "--output=two.png"], cwd=tmp_path, capture_output=True)
    assert done.returncode == 2
    assert (tmp_path / "two.png").read_bytes() == content
