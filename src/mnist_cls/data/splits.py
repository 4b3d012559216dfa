"""The split of the official training images into images to train on and images held out for validation."""

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError

# Not the `seed` of a run: all runs are validated on the same images.
_SPLIT_SEED = 20_260_101


def train_validation_indices(count: int, validation_size: int | None = None) -> tuple[Tensor, Tensor]:
    """Split the official training images, always in the same way.

    Args:
        count: number of official training images.
        validation_size: number of images held out for validation; None holds out one in twelve (5,000 of MNIST's
            60,000), 0 none.

    Returns:
        Indices of the training images and of the validation images, int64, each in ascending order.

    Raises:
        InputError: If nothing would remain to train on.
    """
    size = max(1, count // 12) if validation_size is None else validation_size
    if not 0 <= size < count:
        raise InputError(f"data.validation_size={size} of {count:,} training images; expected 0 to {count - 1:,}")
    order = fixed_order(count)
    return torch.from_numpy(np.sort(order[size:])), torch.from_numpy(np.sort(order[:size]))


def fold_indices(count: int, folds: int, fold: int) -> tuple[Tensor, Tensor]:
    """Split the official training images for cross-validation, always in the same way.

    Args:
        count: number of official training images.
        folds: number of folds, 2 or more. Each image is in one of them; their sizes differ by at most one.
        fold: index of the fold that is held out for validation, from 0.

    Returns:
        Indices of the training images and of the validation images, int64, each in ascending order.

    Raises:
        InputError: If there are fewer images than folds.
    """
    if folds > count:
        raise InputError(f"data.folds={folds} of {count:,} training images; expected 2 to {count:,}")
    parts = np.array_split(fixed_order(count), folds)
    held_out = parts.pop(fold)
    return torch.from_numpy(np.sort(np.concatenate(parts))), torch.from_numpy(np.sort(held_out))


def fixed_order(count: int) -> np.ndarray:
    """Return the numbers 0 to `count` - 1 in an order that looks random and never changes, int64."""
    # NumPy guarantees that RandomState never changes its stream, so the order is the same in every version.
    return np.random.RandomState(_SPLIT_SEED).permutation(count)
