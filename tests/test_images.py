"""What is no MNIST image becomes one; what is one stays as it is."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mnist_cls.data.datasets import LabelledImages
from mnist_cls.data.normalization import normalize
from mnist_cls.errors import InputError
from mnist_cls.images import MEAN, STD, images_from_array
from mnist_cls.preprocessing.prepare import prepare, to_mnist_form


def test_normalize() -> None:
    images = torch.arange(256, dtype=torch.uint8).repeat(49)[: 16 * 784].view(16, 28, 28)
    expected = (images.double() / 255 - MEAN) / STD
    x = normalize(images)
    assert x.shape == (16, 1, 28, 28)
    assert x.dtype == torch.float32
    torch.testing.assert_close(x[:, 0].double(), expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(normalize(images.float()), x)


def test_normalize_leaves_its_input_alone() -> None:
    images = torch.rand(2, 28, 28)
    before = images.clone()
    normalize(images)
    assert torch.equal(images, before)


def test_mnist_images_pass_unchanged(mnist_test: LabelledImages) -> None:
    for image in mnist_test.images[:1000].numpy():
        assert np.array_equal(to_mnist_form(Image.fromarray(image)), image)


def test_a_crop_is_put_back_where_mnists_makers_had_it(digits: np.ndarray) -> None:
    differences = []
    for digit in digits:
        wide = np.zeros((60, 80), np.uint8)
        wide[7:35, 40:68] = digit
        differences.append(np.abs(to_mnist_form(Image.fromarray(wide)).astype(int) - digit).mean())
    assert np.max(differences) == 0


def as_mode(image: Image.Image, mode: str) -> Image.Image:
    if mode == "transparent":  # black ink, nothing behind it
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
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=60)
        return Image.open(buffer)
    return image.convert(mode)


@pytest.mark.parametrize(
    "mode", ["RGB", "RGBA", "CMYK", "LA", "F", "I;16", "palette", "jpeg", "transparent", "dark on light"]
)
@pytest.mark.parametrize("size", [28, 100, 15])
def test_modes_polarities_and_sizes(digits: np.ndarray, labels: list[int], mode: str, size: int) -> None:
    from mnist_cls import Predictor

    seen = [
        to_mnist_form(as_mode(Image.fromarray(digit).resize((size, size), Image.Resampling.LANCZOS), mode))
        for digit in digits
    ]
    right = Predictor(device="cpu")(np.stack(seen)).labels == np.array(labels)
    assert right.mean() >= 0.97


@pytest.mark.parametrize("size", [28, 50])
@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_blank_page_is_no_digit(level: int, size: int) -> None:
    with pytest.raises(InputError, match="no digit to see"):
        to_mnist_form(Image.new("L", (size, size), level))


@pytest.mark.parametrize(("paper", "ink"), [(120, 0), (200, 90), (100, 255), (0, 60)])
def test_grey_paper_and_grey_ink(digits: np.ndarray, labels: list[int], paper: int, ink: int) -> None:
    from mnist_cls import Predictor

    scans = [
        Image.fromarray((paper + (digit / 255) * (ink - paper)).astype(np.uint8)).resize((56, 56)) for digit in digits
    ]
    right = Predictor(device="cpu")(np.stack([to_mnist_form(scan) for scan in scans])).labels == np.array(labels)
    assert right.mean() >= 0.97


def test_a_picture_is_turned_as_its_camera_says(tmp_path: Path, digits: np.ndarray) -> None:
    tag = Image.Exif()
    tag[0x0112] = 6  # turn it by 90 degrees clockwise
    sideways = Image.fromarray(digits[0]).resize((112, 112)).transpose(Image.Transpose.ROTATE_90)
    sideways.save(tmp_path / "camera.png", exif=tag)
    Image.fromarray(digits[0]).resize((112, 112)).save(tmp_path / "upright.png")
    camera, upright = ((tmp_path / name).read_bytes() for name in ("camera.png", "upright.png"))
    np.testing.assert_array_equal(prepare(camera).images, prepare(upright).images)


@pytest.mark.parametrize("white", [1.0, 255, 4095, 65535])
def test_white_in_deep_images(digits: np.ndarray, white: float) -> None:
    dtype = np.float32 if white == 1 else np.uint16
    deep = Image.fromarray((digits[0].astype(float) / 255 * white).astype(dtype))
    seen = to_mnist_form(deep).astype(int)
    assert np.abs(seen - digits[0]).max() <= 1


@pytest.mark.parametrize("shape", [(4, 28, 28), (4, 1, 28, 28), (4, 28, 28, 1), (4, 784)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, np.float16])
def test_arrays_of_many_shapes_and_types(digits: np.ndarray, shape: tuple[int, ...], dtype: type) -> None:
    array: np.ndarray = digits[:4].reshape(shape).astype(dtype)
    images, errors = images_from_array(array / dtype(255) if np.issubdtype(dtype, np.floating) else array)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, digits[:4])
    assert errors == [None] * 4


def test_a_single_image_a_tensor_and_a_mask(digits: np.ndarray) -> None:
    np.testing.assert_array_equal(images_from_array(digits[0])[0], digits[:1])
    np.testing.assert_array_equal(images_from_array(torch.from_numpy(digits))[0], digits)
    np.testing.assert_array_equal(images_from_array(digits > 127)[0], (digits > 127) * 255)
    half = (torch.from_numpy(digits > 127)).bfloat16().requires_grad_()
    np.testing.assert_array_equal(images_from_array(half)[0], (digits > 127) * 255)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 27, 28)), r"shape \(3, 27, 28\); expected \(28, 28\)"),
        (np.zeros((28, 28, 3)), r"shape \(28, 28, 3\)"),
        (np.zeros(784), r"shape \(784,\)"),
        (np.zeros((2, 28, 28), complex), "dtype complex128"),
        (np.full((2, 28, 28), "a"), "dtype <U1"),
    ],
)
def test_wrong_arrays_are_refused(array: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        images_from_array(array)


def test_a_bad_image_does_not_spoil_its_neighbours(digits: np.ndarray) -> None:
    array = digits[:5].astype(np.float32) / 255
    array[1, 3, 3], array[2, 0, 0], array[3] = np.nan, -0.5, digits[3]
    images, errors = images_from_array(array)
    assert errors == [
        None,
        "holds NaN or infinite values",
        "values from -0.5 to 1, expected 0 to 1",
        "values from 0 to 255, expected 0 to 1; divide by 255",
        None,
    ]
    np.testing.assert_array_equal(images[[0, 4]], digits[[0, 4]])
    assert images_from_array(np.full((1, 28, 28), 256))[1] == ["values from 256 to 256, expected 0 to 255"]


def test_preprocessing_needs_no_torch() -> None:
    code = "import sys, mnist_cls.preprocessing, mnist_cls.memory, mnist_cls.files; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
