"""Which training images are for training, and which are for choosing."""

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError

# Fixed, and apart from the `seed` of a run: every run of every configuration is judged on the same images.
_SPLIT_SEED = 20_260_101


def train_validation_indices(count: int, validation_size: int | None = None) -> tuple[Tensor, Tensor]:
    """Part the official training images into those to train on and those to validate on, always the same way.

    Args:
        count: how many official training images there are.
        validation_size: how many are held out; None holds out one in twelve (5,000 of MNIST's 60,000), 0 none.

    Returns:
        The indices of the training images and of the validation images, int64, each in ascending order.

    Raises:
        InputError: nothing would be left to train on.
    """
    size = max(1, count // 12) if validation_size is None else validation_size
    if not 0 <= size < count:
        raise InputError(f"data.validation_size={size} of {count:,} training images; expected 0 to {count - 1:,}")
    # NumPy promises never to change the stream of RandomState, so the split is the same in every version.
    order = np.random.RandomState(_SPLIT_SEED).permutation(count)
    return torch.from_numpy(np.sort(order[size:])), torch.from_numpy(np.sort(order[:size]))
