"""Batches of a user's own loader: checked, and converted to values from 0 to 255, as this package's loaders have."""

from typing import Any

import torch
from torch import Tensor

from ..data.loader import BatchLoader
from ..errors import InputError, shortened
from ..images import CLASSES, SIZE
from .distributed import print_once

# Fraction of the range of values by which interpolation and added noise may exceed it.
_TOLERANCE = 0.1

# Floats whose brightest pixel is darker than this are more likely normalized images than images from 0 to 255.
_DARKEST_WHITE = 10


class BatchReader:
    """Checks the first batch of each loader, and assumes that the loader's other batches have the same form.

    Checking every batch would wait for a GPU in every step.

    Args:
        classifies: whether labels must be 0 to 9.
    """

    def __init__(self, classifies: bool) -> None:
        self.classifies, self.from_datamodule = classifies, False
        self.whites: dict[tuple[str, int], int] = {}

    def start(self, from_datamodule: bool) -> None:
        """Forget the loaders seen so far.

        Args:
            from_datamodule: whether the next ones are those of `MNISTDataModule`, whose augmented images are floats
                from 0 to 255. Such images of another loader are reported as unusual.
        """
        self.from_datamodule = from_datamodule
        self.whites.clear()

    def pair(self, batch: Any, stage: str, loader: int = 0) -> tuple[Tensor, Tensor]:
        """Return the images of a batch, as `images` does, and its labels, int64 (B,).

        Raises:
            InputError: If a loader's first batch is not such a pair.
        """
        if (stage, loader) not in self.whites:
            check_pair(batch, self.classifies)
        return self.images(batch, stage, loader), batch[1].long()

    def images(self, batch: Any, stage: str, loader: int = 0) -> Tensor:
        """Return the images of a batch, (B, 28, 28) with values 0 to 255, uint8 or float32.

        Args:
            batch: images, or a tuple or list that starts with them.
            stage: name of the stage, such as "train".
            loader: index of the loader in the stage.

        Raises:
            InputError: If the images of a loader's first batch have another shape or other values, see `white_level`.
        """
        images = batch[0] if isinstance(batch, (list, tuple)) else batch
        white = self.whites.get((stage, loader))
        if white is None:
            check_shape(images)
            white = white_level(images)
            if white is None:  # a later batch decides
                return _to_pixels(images, 255)
            if white == 255 and images.is_floating_point() and not self.from_datamodule:
                print_once(
                    "images are floats with values up to 255, and used as such; expected uint8, or floats from 0 to 1"
                )
            self.whites[stage, loader] = white
        return _to_pixels(images, white)


def as_pixels(images: Tensor) -> Tensor:
    """Convert images (B, 28, 28) or (B, 1, 28, 28) to (B, 28, 28) with values 0 to 255, uint8 or float32.

    The brightest pixel decides whether the values are 0 to 255 or 0 to 1. Looking at it waits for a GPU.

    Raises:
        InputError: If the images have another shape or other values, see `white_level`.
    """
    check_shape(images)
    return _to_pixels(images, white_level(images) or 255)


def check_pair(batch: Any, classifies: bool) -> None:
    """Raise an `InputError` unless a batch is a pair of images and labels; a classifier's labels must be 0 to 9."""
    if not isinstance(batch, (list, tuple)) or len(batch) != 2:
        kind = type(batch).__name__
        found = f"a {kind} of {len(batch)}" if isinstance(batch, (list, tuple)) else f"a {kind}"
        raise InputError(f"a batch is {found}: expected a pair of images and labels")
    images, labels = batch
    check_shape(images)
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.shape != images.shape[:1]:
        expected = f"expected integers of shape ({len(images)},), one for each image"
        raise InputError(f"labels are {_form(labels)}: {expected}")
    if classifies and len(labels) and not (labels.min() >= 0 and labels.max() < CLASSES):
        raise InputError(f"labels from {int(labels.min())} to {int(labels.max())}: expected 0 to 9")


def check_shape(images: object) -> None:
    """Raise an `InputError` unless images are a tensor (B, 28, 28) or (B, 1, 28, 28)."""
    if not isinstance(images, Tensor) or tuple(images.shape[1:]) not in ((SIZE, SIZE), (1, SIZE, SIZE)):
        raise InputError(
            f"images are {_form(images)}: expected (B, 28, 28) or (B, 1, 28, 28); torchvision's Grayscale() and"
            " Resize((28, 28)) make such images, and a DataLoader makes batches"
        )


def white_level(images: Tensor) -> int | None:
    """Find the value of white in images: 255, or 1 as in the output of torchvision's `ToTensor`. Waits for a GPU.

    Returns:
        255 or 1; None if all pixels are 0, so that both are possible.

    Raises:
        InputError: If the values are in neither range, such as those of normalized images.
    """
    if images.dtype == torch.bool:
        return 1
    # NaN and Inf are for `StopOnNonFinite` to report.
    values = images.float().nan_to_num(0, 0, 0) if images.is_floating_point() else images
    low, high = (bound.item() for bound in torch.aminmax(values)) if values.numel() else (0, 0)
    if low == high == 0:
        return None
    if images.is_floating_point():
        tolerance, darkest = _TOLERANCE, _DARKEST_WHITE
    else:
        tolerance, darkest = 0, 1
    for white, least in ((1, 0), (255, darkest)):
        if low >= -tolerance * white and least < high <= (1 + tolerance) * white:
            return white
    raise InputError(
        f"images with values from {low:.3g} to {high:.3g}: expected 0 to 1, as torchvision's ToTensor returns, or"
        " 0 to 255; MNISTModule normalizes images itself, so leave out transforms.Normalize"
    )


def step_weight(trainer: Any, batch_idx: int, count: int) -> float:
    """Return the factor that turns Lightning's mean over the batches of a step into the mean over its images.

    The last step of an epoch can have fewer batches, and the last batch fewer images, than the others, and processes
    can have batches of different sizes. For a user's own loader these sizes are unknown, and the factor is 1.

    Args:
        trainer: the Trainer.
        batch_idx: index of the batch in the epoch.
        count: number of images in the batch of this process.
    """
    batches: int = trainer.accumulate_grad_batches
    loader = trainer.train_dataloader
    if (batches == 1 and trainer.world_size == 1) or not isinstance(loader, BatchLoader):
        return 1.0
    size = loader.batch_size
    total = min(loader.sampler.count, int(trainer.num_training_batches) * size)
    start = batch_idx // batches * batches * size
    weight: float = batches * count * trainer.world_size / (min(total, start + batches * size) - start)
    return weight


def _to_pixels(images: Tensor, white: int) -> Tensor:
    x = images.squeeze(1) if images.dim() == 4 else images
    x = x.float() if x.is_floating_point() else x.to(torch.uint8)
    return x * 255 if white == 1 else x


def _form(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return f"a {shortened(type(value).__name__)}"
