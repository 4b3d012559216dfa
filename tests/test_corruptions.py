"""Digits are spoilt in the ways that are named, the same way each time."""

import pytest
import torch

from mnist_cls import Predictor
from mnist_cls.data.corruptions import corrupt, list_corruptions
from mnist_cls.data.datasets import LabelledImages
from mnist_cls.errors import InputError


@pytest.mark.parametrize("kind", list_corruptions())
def test_each_kind_spoils_each_image_the_same_way_each_time(kind: str, mnist_test: LabelledImages) -> None:
    images = mnist_test.images[:200]
    spoilt = corrupt(images, kind)
    assert spoilt.shape == images.shape
    assert spoilt.dtype == torch.uint8
    assert not any(torch.equal(one, other) for one, other in zip(spoilt, images, strict=True))
    assert torch.equal(corrupt(images, kind), spoilt)
    if kind not in ("blur", "brightness", "stripes"):  # in these nothing is random
        assert not torch.equal(corrupt(images, kind, seed=1), spoilt)


def test_a_translation_is_four_pixels(mnist_test: LabelledImages) -> None:
    image = torch.zeros(64, 28, 28, dtype=torch.uint8)
    image[:, 13:15, 13:15] = 200
    moved = corrupt(image, "translation")
    assert {tuple(one.nonzero()[0].tolist()) for one in moved} == {(9, 9), (9, 17), (17, 9), (17, 17)}
    assert int(moved.sum()) == int(image.sum())


def test_brightness_lifts_everything(mnist_test: LabelledImages) -> None:
    images = mnist_test.images[:20]
    assert torch.equal(corrupt(images, "brightness"), (images.int() + 96).clamp(max=255).byte())


def test_an_unknown_kind_is_named(mnist_test: LabelledImages) -> None:
    with pytest.raises(InputError, match="corruption=smoke: expected one of noise, blur, shear"):
        corrupt(mnist_test.images, "smoke")


def test_the_packages_weights_hold_where_only_the_place_changes(mnist_test: LabelledImages) -> None:
    predict = Predictor(device="cpu")
    labels = mnist_test.labels[:2000].numpy()
    for kind, least in (("shear", 0.97), ("scale", 0.95), ("blur", 0.8), ("rotation", 0.88)):
        assert (predict(corrupt(mnist_test.images[:2000], kind)).labels == labels).mean() > least, kind
