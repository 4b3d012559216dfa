"""Arrays and tensors of MNIST images are accepted in all usual shapes and dtypes, or refused in one line."""

import subprocess
import sys
from typing import Literal

import numpy as np
import pytest
import torch

from mnist_cls.data.datasets import load_dataset
from mnist_cls.data.normalization import normalize
from mnist_cls.errors import InputError
from mnist_cls.images import MEAN, STD, images_from_array, in_mnist_form


def test_normalize() -> None:
    images = torch.arange(256, dtype=torch.uint8).repeat(49)[: 16 * 784].view(16, 28, 28)
    expected = (images.double() / 255 - MEAN) / STD
    x = normalize(images)
    assert x.shape == (16, 1, 28, 28)
    assert x.dtype == torch.float32
    torch.testing.assert_close(x[:, 0].double(), expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(normalize(images.float()), x)


def test_normalize_does_not_modify_its_input() -> None:
    images = torch.rand(2, 28, 28)
    before = images.clone()
    normalize(images)
    assert torch.equal(images, before)


@pytest.mark.parametrize("split", ["train", "test"])
def test_all_of_mnist_is_recognized_as_mnist(split: Literal["train", "test"]) -> None:
    images = load_dataset("mnist", split).images.numpy()
    assert all(in_mnist_form(chunk).all() for chunk in np.array_split(images, 30))
    assert not in_mnist_form(np.roll(images[:500], 2, axis=1)).any()
    assert not in_mnist_form(255 - images[:500]).any()
    assert not in_mnist_form(np.zeros((2, 28, 28), np.uint8)).any()


@pytest.mark.parametrize("shape", [(4, 28, 28), (4, 1, 28, 28), (4, 28, 28, 1), (4, 784)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, np.float16])
def test_arrays_of_many_shapes_and_dtypes(digits: np.ndarray, shape: tuple[int, ...], dtype: type) -> None:
    array: np.ndarray = digits[:4].reshape(shape).astype(dtype)
    images, errors = images_from_array(array / dtype(255) if np.issubdtype(dtype, np.floating) else array)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, digits[:4])
    assert errors == [None] * 4


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, bool])
def test_images_of_0_and_1_do_not_depend_on_the_others(digits: np.ndarray, dtype: type) -> None:
    mask = digits[:3] > 127
    array: np.ndarray = mask.astype(dtype)
    np.testing.assert_array_equal(images_from_array(array)[0], mask * 255)
    if dtype is not bool:
        array[0], array[1] = digits[0], 0
        images, errors = images_from_array(array)
        np.testing.assert_array_equal(images, [digits[0], np.zeros((28, 28)), mask[2] * 255])
        assert errors == [None] * 3


@pytest.mark.parametrize("shape", [(5, 40, 30), (5, 1, 40, 30), (5, 40, 30, 1), (5, 40, 30, 3), (5, 40, 30, 4)])
def test_arrays_of_other_sizes(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    expected = values.reshape(5, 40, 30, *([shape[3]] if shape[3:] in [(3,), (4,)] else []))
    for array in (values, values / 255):
        np.testing.assert_array_equal(images_from_array(array)[0], expected)
    np.testing.assert_array_equal(images_from_array(values[0], many=False)[0], expected[:1])


def test_colours_may_come_first() -> None:
    values = np.random.default_rng(0).integers(0, 256, (2, 3, 40, 30), np.uint8)
    np.testing.assert_array_equal(images_from_array(values)[0], np.moveaxis(values, 1, 3))


def test_an_array_is_not_modified(digits: np.ndarray) -> None:
    array = (digits > 127).astype(np.uint8)
    before = array.copy()
    images_from_array(array)
    np.testing.assert_array_equal(array, before)


def test_a_single_image_tensors_and_masks(digits: np.ndarray) -> None:
    for single in (digits[0], digits[:1], digits[0][..., None], digits[0].ravel()):
        np.testing.assert_array_equal(images_from_array(single)[0], digits[:1])
    np.testing.assert_array_equal(images_from_array(torch.from_numpy(digits))[0], digits)
    mask = digits > 127
    np.testing.assert_array_equal(images_from_array(mask)[0], mask * 255)
    tensor = torch.from_numpy(mask).bfloat16().requires_grad_()
    np.testing.assert_array_equal(images_from_array(tensor)[0], mask * 255)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(785), r"shape \(785,\); expected \(28, 28\)"),
        (np.zeros((2, 28, 28, 2)), r"shape \(2, 28, 28, 2\)"),
        (np.zeros((2, 1, 3, 28, 28)), r"shape \(2, 1, 3, 28, 28\)"),
        (np.zeros((3, 56, 56)), r"3 grey images or one in colour; pass array\[:, None\] or array\[None\]"),
        (np.zeros((1797, 64)), r"shape \(1797, 64\); expected \(28, 28\)"),
        (np.zeros((28, 28, 40)), r"40 images of 28x28; pass np.moveaxis\(array, 2, 0\)"),
        (np.zeros((28, 28, 2)), r"2 images of 28x28; pass np.moveaxis"),
        (np.zeros((4, 785)), r"a label and 784 pixels; pass array\[:, 1:\], or array\[None\]"),
        (np.zeros((784, 784)), "one image or 784 of 28x28"),
        (np.zeros((2, 28, 28), complex), "dtype complex128"),
        (np.full((2, 28, 28), "a"), "dtype <U1"),
    ],
)
def test_arrays_of_other_shapes_and_dtypes_are_refused(array: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        images_from_array(array)


def test_an_invalid_image_does_not_affect_the_others(digits: np.ndarray) -> None:
    array = digits[:6].astype(np.float32) / 255
    array[1, 3, 3], array[2, 0, 0], array[3], array[5] = np.nan, -0.5, digits[3] * 0.9, digits[5]
    images, errors = images_from_array(array)
    assert errors == [
        None,
        "holds NaN or infinite values",
        "values from -0.5 to 1, expected 0 to 1; pass the images as they were before they were normalized",
        "values from 0 to 229.5, expected 0 to 1; divide by the value of white",
        None,
        None,  # whole numbers
    ]
    np.testing.assert_array_equal(images[[0, 4, 5]], digits[[0, 4, 5]])
    assert images_from_array(np.full((1, 28, 28), 256))[1] == [
        "values from 256 to 256, expected 0 to 255, or floats from 0 to 1; divide by the value of white"
    ]


def test_preprocessing_does_not_import_torch() -> None:
    code = "import sys, mnist_cls.preprocessing, mnist_cls.memory, mnist_cls.files; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
