"""Digits that the package draws, and spoilt images, both for training."""

import pytest
import torch

from mnist_cls import MNISTDataModule, Predictor
from mnist_cls.data.augmentation import RandomDistortion
from mnist_cls.data.datasets import load_dataset
from mnist_cls.data.drawing import _FONTS, _print, _write, draw_digits
from mnist_cls.data.handwriting import STYLES, Style
from mnist_cls.data.spoiling import _KINDS, spoil
from mnist_cls.errors import InputError

EACH_STYLE = [(digit, style) for digit, styles in STYLES.items() for style in styles]


def test_drawn_digits_are_in_mnists_form() -> None:
    images, labels = draw_digits(500, seed=3)
    assert (images.dtype, images.shape, labels.dtype) == (torch.uint8, (500, 28, 28), torch.int64)
    assert labels.bincount().tolist() == [50] * 10
    positions = torch.arange(28.0)
    x = images.float()
    assert (x.amax((1, 2)) >= 230).all()
    for ink in (x.sum(1), x.sum(2)):
        centre = ink @ positions / ink.sum(1)
        assert (centre - 14).abs().mean() <= 0.5
        assert (centre - 14).abs().max() <= 2
    box = torch.maximum(*((x > 127).any(axis).sum(1) for axis in (1, 2)))
    assert ((box >= 16) & (box <= 23)).float().mean() >= 0.99


def test_drawn_digits_depend_on_the_seed_alone() -> None:
    one, same, other = draw_digits(40, seed=1), draw_digits(40, seed=1), draw_digits(40, seed=2)
    assert torch.equal(one.images, same.images)
    assert not torch.equal(one.images, other.images)
    assert len({image.numpy().tobytes() for image in draw_digits(400).images}) == 400


@pytest.mark.parametrize(("digit", "style"), EACH_STYLE, ids=lambda value: str(value) if isinstance(value, int) else "")
def test_each_way_of_writing_is_read_as_its_digit(digit: int, style: Style) -> None:
    images = _write(style, 100, torch.Generator().manual_seed(5))
    labels = Predictor("accurate", preprocess="none")(images).labels
    assert (labels == digit).mean() >= 0.9


def test_each_font_is_read() -> None:
    random = torch.Generator().manual_seed(0)
    images = torch.stack([_print(digit, random) for digit in range(10) for _ in _FONTS])
    labels = Predictor("accurate", preprocess="none")(images).labels
    assert (torch.from_numpy(labels) == torch.arange(10).repeat_interleave(len(_FONTS))).float().mean() >= 0.98


def test_a_fraction_of_the_images_is_spoilt_and_the_others_are_as_they_were() -> None:
    torch.manual_seed(0)
    images = load_dataset().images[:2000].float()
    spoilt = spoil(images, 0.3)
    changed = (spoilt != images).flatten(1).any(1)
    assert 0.25 <= changed.float().mean() <= 0.32  # a hole where no ink is changes nothing
    assert (spoilt.min().item(), spoilt.max().item()) == (0, 255)
    assert torch.equal(images, load_dataset().images[:2000].float())


@pytest.mark.parametrize("kind", _KINDS, ids=lambda kind: kind.__name__)
def test_spoilt_digits_stay_readable(kind: object) -> None:
    torch.manual_seed(0)
    data = load_dataset()
    spoilt = kind(data.images[:500].float()).clamp(0, 255)  # type: ignore[operator]
    labels = torch.from_numpy(Predictor("accurate", preprocess="none")(spoilt.round().byte()).labels)
    assert (labels == data.labels[:500]).float().mean() >= 0.85


def test_drawn_digits_are_a_fraction_of_the_training_images_alone() -> None:
    data = MNISTDataModule(drawn=0.1, train_size=900, validation_size=100)
    data.setup()
    assert data.train_data is not None
    assert data.val_data is not None
    assert data.test_data is not None
    assert [len(part.labels) for part in (data.train_data, data.val_data, data.test_data)] == [1000, 100, 10_000]
    plain = MNISTDataModule(train_size=900, validation_size=100)
    plain.setup("fit")
    assert plain.train_data is not None
    assert plain.val_data is not None
    assert torch.equal(data.train_data.images[:900], plain.train_data.images)
    assert torch.equal(data.val_data.images, plain.val_data.images)
    assert torch.equal(data.train_data.images[900:], draw_digits(100).images)


@pytest.mark.parametrize("drawn", [1.0, -0.1])
def test_only_a_fraction_can_be_drawn(drawn: float) -> None:
    with pytest.raises(InputError, match=f"data.drawn={drawn}: expected 0 or more, and less than 1"):
        MNISTDataModule(drawn=drawn)


def test_strong_distortions_have_twice_the_limits() -> None:
    torch.manual_seed(0)
    image = torch.zeros(400, 28, 28)
    image[:, 13:15, 13:15] = 255
    positions = torch.arange(28.0)
    for strong, limit in ((0.0, 3.0), (1.0, 6.0)):
        moved = RandomDistortion(shift=3.0, strong=strong)(image)
        centres = moved.sum(1) @ positions / moved.sum((1, 2))
        assert limit - 0.3 <= (centres - 13.5).abs().max() <= limit + 0.01
