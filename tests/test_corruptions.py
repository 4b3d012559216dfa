"""Each corruption changes every image as its name says, and in the same way for the same seed."""

import pytest
import torch

from mnist_cls import Predictor
from mnist_cls.data.corruptions import corrupt, list_corruptions
from mnist_cls.data.datasets import LabelledImages
from mnist_cls.errors import InputError


@pytest.mark.parametrize("kind", list_corruptions())
def test_every_image_changes_and_results_depend_on_the_seed_alone(kind: str, mnist_test: LabelledImages) -> None:
    images = mnist_test.images[:200]
    corrupted = corrupt(images, kind)
    assert corrupted.shape == images.shape
    assert corrupted.dtype == torch.uint8
    assert not any(torch.equal(one, other) for one, other in zip(corrupted, images, strict=True))
    assert torch.equal(corrupt(images, kind), corrupted)
    if kind not in ("blur", "brightness", "stripes"):  # these are not random
        assert not torch.equal(corrupt(images, kind, seed=1), corrupted)


def test_translation_shifts_by_four_pixels_in_each_direction() -> None:
    images = torch.zeros(64, 28, 28, dtype=torch.uint8)
    images[:, 13:15, 13:15] = 200
    moved = corrupt(images, "translation")
    assert {tuple(image.nonzero()[0].tolist()) for image in moved} == {(9, 9), (9, 17), (17, 9), (17, 17)}
    assert int(moved.sum()) == int(images.sum())


def test_brightness_adds_to_every_pixel(mnist_test: LabelledImages) -> None:
    images = mnist_test.images[:20]
    assert torch.equal(corrupt(images, "brightness"), (images.int() + 96).clamp(max=255).byte())


def test_an_unknown_kind_is_refused(mnist_test: LabelledImages) -> None:
    with pytest.raises(InputError, match="corruption=smoke: expected one of noise, blur, shear"):
        corrupt(mnist_test.images, "smoke")


@pytest.mark.parametrize(("kind", "least"), [("shear", 0.97), ("scale", 0.95), ("blur", 0.8), ("rotation", 0.88)])
def test_the_packaged_weights_withstand_geometric_changes_and_blur(
    mnist_test: LabelledImages, kind: str, least: float
) -> None:
    predicted = Predictor(device="cpu", preprocess="none")(corrupt(mnist_test.images[:2000], kind)).labels
    assert (predicted == mnist_test.labels[:2000].numpy()).mean() > least
