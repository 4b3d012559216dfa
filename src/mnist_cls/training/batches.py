"""Batches of a user's own loader: checked, and brought to the values 0 to 255 of this package's own."""

from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, shortened
from ..images import CLASSES, SIZE

_FORMS = "expected (B, 28, 28) or (B, 1, 28, 28)"

# Fraction of the range by which interpolation and added noise may exceed it.
_TOLERANCE = 0.1

# Images from 0 to 255 whose brightest pixel is darker than this could as well be normalized.
_DARKEST_WHITE = 10


class BatchReader:
    """Checks the first batch of each loader, which waits for a GPU, and reads the others as that one."""

    def __init__(self) -> None:
        self.white_levels: dict[tuple[str, int], int] = {}

    def read(self, batch: Any, stage: str, classifies: bool, index: int = 0) -> tuple[Tensor, Tensor]:
        """Return the images and the labels of a batch.

        Args:
            batch: a pair of images and labels; of the stage "predict", images alone or with anything beside them.
            stage: name of the stage.
            classifies: whether labels must be 0 to 9.
            index: of the loader in the stage.

        Returns:
            Images (B, 28, 28) with values 0 to 255, and labels int64 (B,); the images again instead of labels in the
            stage "predict".

        Raises:
            InputError: If the first batch is anything else.
        """
        white = self.white_levels.get((stage, index))
        if white is None:
            images, labels = split_batch(batch, stage != "predict")
            if labels is not None and classifies:
                check_labels(labels)
            white = white_level(images)
            if white is not None:
                self.white_levels[stage, index] = white
        else:
            several = isinstance(batch, (list, tuple))
            images, labels = batch[0] if several else batch, None if stage == "predict" else batch[1]
        if white == 1 or images.dim() == 4:
            images = to_pixels(images, white or 255)
        return images, images if labels is None else labels.long()


def split_batch(batch: Any, needs_labels: bool = True) -> tuple[Tensor, Tensor | None]:
    """Return the images and the labels of a batch, None if it has no labels and needs none.

    Raises:
        InputError: If it is anything but a pair of images (B, 28, 28) or (B, 1, 28, 28) and whole numbers (B,).
    """
    parts = list(batch) if isinstance(batch, (list, tuple)) else [batch]
    if needs_labels and len(parts) != 2:
        found = f"{len(parts)} parts" if isinstance(batch, (list, tuple)) else f"a {type(batch).__name__}"
        raise InputError(f"a batch is {found}: expected a pair of images and labels")
    images, labels = parts[0], parts[1] if needs_labels else None
    check_shape(images)
    if labels is None:
        return images, None
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.shape != images.shape[:1]:
        raise InputError(
            f"labels are {_described(labels)}: expected whole numbers ({len(images)},), one for each image"
        )
    return images, labels


def check_shape(images: object) -> None:
    """Raise an `InputError` if images have another form than (B, 28, 28) or (B, 1, 28, 28)."""
    if not isinstance(images, Tensor) or tuple(images.shape[1:]) not in ((SIZE, SIZE), (1, SIZE, SIZE)):
        remedy = "torchvision's Grayscale() and Resize((28, 28)) make such images, and a DataLoader makes batches"
        raise InputError(f"images are {_described(images)}: {_FORMS}; {remedy}")


def check_labels(labels: Tensor) -> None:
    """Raise an `InputError` if labels are not 0 to 9."""
    if len(labels) and not (labels.min() >= 0 and labels.max() < CLASSES):
        raise InputError(f"labels from {int(labels.min())} to {int(labels.max())}: expected 0 to 9")


def white_level(images: Tensor) -> int | None:
    """Find the value of white in images: 255, or 1 as torchvision's `ToTensor` has it. Waits for a GPU.

    Returns:
        255 or 1; None if all pixels are 0, so that it may be either.

    Raises:
        InputError: If the values are in neither range, as those of normalized images.
    """
    if images.dtype == torch.bool:
        return 1
    values = images if images.dtype == torch.uint8 else images.float().nan_to_num(0, 0, 0)
    if not values.numel():
        return None
    low, high = (bound.item() for bound in torch.aminmax(values))
    if low == high == 0:
        return None
    darkest = _DARKEST_WHITE if images.is_floating_point() else 1.5
    for white, least in ((1, 0.0), (255, darkest)):
        if low >= -_TOLERANCE * white and least < high <= (1 + _TOLERANCE) * white:
            return white
    raise InputError(
        f"images with values from {low:.3g} to {high:.3g}: expected 0 to 1, as of torchvision's ToTensor, or 0 to 255;"
        " MNISTModule normalizes them itself, so leave out transforms.Normalize"
    )


def as_pixels(images: Tensor) -> Tensor:
    """Bring images to (B, 28, 28), uint8 or float32, with values 0 to 255; see `check_shape` and `white_level`."""
    check_shape(images)
    return to_pixels(images, white_level(images) or 255)


def to_pixels(images: Tensor, white: int) -> Tensor:
    """Bring images (B, 28, 28) or (B, 1, 28, 28) to (B, 28, 28), uint8 or float32, with values 0 to 255."""
    x = images.squeeze(1) if images.dim() == 4 else images
    x = x.float() if x.is_floating_point() else x.to(torch.uint8)
    return x * 255 if white == 1 else x


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return f"a {shortened(type(value).__name__)}"
