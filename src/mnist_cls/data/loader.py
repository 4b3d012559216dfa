"""Batches of images that fit in memory: slices of one tensor, nothing fetched one by one."""

from collections.abc import Iterator

import torch
from torch import Tensor

from .datasets import LabelledImages


class EpochOrder:
    """The order in which an epoch visits the images; a function of the seed and the epoch alone.

    Args:
        count: how many images there are.
        shuffle: False visits them as they lie.
        seed: of the run.
    """

    def __init__(self, count: int, shuffle: bool, seed: int) -> None:
        self.count, self.shuffle, self.seed = count, shuffle, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next, counted from 0; Lightning calls this at the start of each."""
        self.epoch = epoch

    def indices(self) -> Tensor:
        """The images' indices in their order, int64 (count,), on the CPU."""
        if not self.shuffle:
            return torch.arange(self.count)
        # Both numbers go into the seed, so that neighbouring seeds do not share orders in neighbouring epochs.
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.epoch) % 2**63)
        return torch.randperm(self.count, generator=generator)


class BatchLoader:
    """Yields (images, labels) batches, slices of two tensors that stay on one device.

    In distributed training each process takes every `world_size`-th image of each global batch: no image is seen
    twice, and the batch size that a recipe names does not depend on the number of machines.

    Args:
        data: the images, uint8 (N, 28, 28), and labels, int64 (N,), on the device of the training.
        batch_size: how many images make a batch, over all processes together.
        shuffle: whether each epoch has a random order of its own.
        seed: of the run, for the order.
        rank: which of the processes this is, from 0.
        world_size: how many processes train together.
        same_length: give every process the same number of batches, at the cost of up to world_size - 1 images.
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
        # Lightning looks for attributes of these names, as a DataLoader has them, to tell the epoch.
        self.batch_sampler = None
        self.sampler = EpochOrder(len(data.labels), shuffle, seed)
        # A resumed training sets this to go on where it stopped; the epochs after that one start at 0.
        self.first_batch = 0

    def __len__(self) -> int:
        """The number of batches in an epoch of this process."""
        full, rest = divmod(self.sampler.count, self.batch_size)
        # In training every process must make the same number of steps, or some would wait for the others for ever:
        # a last batch too small to give each of them an image is left out. In evaluation every image counts.
        return full + (rest >= self.world_size if self.same_length else rest > self.rank)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images uint8 (B, 28, 28) and labels int64 (B,); the last batch of an epoch may be smaller."""
        first, self.first_batch = self.first_batch, 0
        indices = self.sampler.indices().to(self.data.labels.device)
        for number in range(first, len(self)):
            mine = indices[number * self.batch_size : (number + 1) * self.batch_size][self.rank :: self.world_size]
            yield self.data.images[mine], self.data.labels[mine]
