"""Batches of images that fit in memory: slices of one tensor."""

from collections.abc import Iterator

import torch
from torch import Tensor

from .datasets import LabelledImages


class EpochOrder:
    """The order of the images in an epoch. It depends on the seed and the epoch only."""

    def __init__(self, count: int, shuffle: bool, seed: int) -> None:
        self.count, self.shuffle, self.seed = count, shuffle, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, counted from 0; Lightning calls this at the start of each."""
        self.epoch = epoch

    def indices(self) -> Tensor:
        """Return the indices of the images in the epoch's order, int64 (count,), on the CPU."""
        if not self.shuffle:
            return torch.arange(self.count)
        # The factor is large, so that neighbouring seeds have no orders in common.
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.epoch) % 2**63)
        return torch.randperm(self.count, generator=generator)


class BatchLoader:
    """Iterates over (images, labels) batches, slices of two tensors on one device.

    In distributed training each process gets every `world_size`-th image of each batch: no image is used twice, and the
    batch size does not depend on the number of processes.

    Args:
        data: images uint8 (N, 28, 28) and labels int64 (N,), on the device of the training.
        batch_size: images per batch, over all processes together.
        shuffle: whether to shuffle the images in each epoch.
        seed: seed of the order.
        rank: index of this process, from 0.
        world_size: number of processes that train together.
        same_length: whether every process gets the same number of batches; up to world_size - 1 images are left out.

    Attributes:
        first_batch: index of the batch with which the next epoch starts, to resume within it; 0 in later epochs.
    """

    def __init__(
        self,
        data: LabelledImages,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        same_length: bool = False,
    ) -> None:
        self.data = data
        self.batch_size = batch_size
        self.rank, self.world_size, self.same_length = rank, world_size, same_length
        # A DataLoader has these attributes, too: Lightning calls `set_epoch` on them.
        self.batch_sampler = None
        self.sampler = EpochOrder(len(data.labels), shuffle, seed)
        self.first_batch = 0

    @property
    def options(self) -> tuple[object, ...]:
        """All that determines which images are in which batch, apart from the epoch."""
        sampler = self.sampler
        return sampler.count, sampler.shuffle, sampler.seed, self.batch_size, self.rank, self.world_size

    def __len__(self) -> int:
        """Return the number of batches that this process gets in an epoch."""
        full, rest = divmod(self.sampler.count, self.batch_size)
        # A process with fewer training steps would leave the others waiting forever, so training leaves out a last
        # batch with fewer images than processes. In evaluation every image counts.
        return full + (rest >= self.world_size if self.same_length else rest > self.rank)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over images uint8 (B, 28, 28) and labels int64 (B,); the last batch of an epoch may be smaller."""
        first, self.first_batch = self.first_batch, 0
        indices = self.sampler.indices().to(self.data.labels.device)
        for number in range(first, len(self)):
            batch = indices[number * self.batch_size : (number + 1) * self.batch_size][self.rank :: self.world_size]
            yield self.data.images[batch], self.data.labels[batch]
