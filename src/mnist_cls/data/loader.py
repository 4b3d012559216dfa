"""Batches of images that fit in memory: slices of one tensor."""

from collections.abc import Iterator

import torch
from torch import Tensor

from .datasets import LabelledImages


class EpochOrder:
    """The order in which an epoch visits `count` images, a function of the seed and the epoch alone."""

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
        # A large factor, so that neighbouring seeds have no orders of neighbouring epochs in common.
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.epoch) % 2**63)
        return torch.randperm(self.count, generator=generator)


class BatchLoader:
    """Iterates over (images, labels) batches, slices of two tensors on one device.

    In distributed training each process gets every `world_size`-th image of each global batch: no image is used
    twice, and the batch size of a recipe does not depend on the number of processes.

    Args:
        data: images uint8 (N, 28, 28) and labels int64 (N,), on the device of the training.
        batch_size: images per batch, over all processes together.
        shuffle: whether each epoch has a random order of its own.
        seed: seed of the run, for the order.
        rank: index of this process.
        world_size: number of processes that train together.
        same_length: give every process the same number of batches, leaving out up to world_size - 1 images.
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
        # Lightning sets the epoch of attributes with these names, as a DataLoader has them.
        self.batch_sampler = None
        self.sampler = EpochOrder(len(data.labels), shuffle, seed)
        # First batch of the next epoch; set to resume within it, and 0 for the epochs after that.
        self.first_batch = 0

    @property
    def options(self) -> tuple[object, ...]:
        """What decides which images are in which batch, beside the epoch."""
        sampler = self.sampler
        return sampler.count, sampler.shuffle, sampler.seed, self.batch_size, self.rank, self.world_size

    def __len__(self) -> int:
        """Number of batches in an epoch of this process."""
        full, rest = divmod(self.sampler.count, self.batch_size)
        # Processes with fewer training steps than others would make those wait forever, so a last batch with less than
        # one image for each is left out. In evaluation every image counts.
        return full + (rest >= self.world_size if self.same_length else rest > self.rank)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over images uint8 (B, 28, 28) and labels int64 (B,); the last batch of an epoch may be smaller."""
        first, self.first_batch = self.first_batch, 0
        indices = self.sampler.indices().to(self.data.labels.device)
        for number in range(first, len(self)):
            batch = indices[number * self.batch_size : (number + 1) * self.batch_size][self.rank :: self.world_size]
            yield self.data.images[batch], self.data.labels[batch]
