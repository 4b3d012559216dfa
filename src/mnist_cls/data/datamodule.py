"""Where the training gets its batches: one dataset, split, on the device of the training."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from ..errors import InputError
from .augmentation import RandomDistortion
from .datasets import LabelledImages, load_dataset
from .loader import BatchLoader
from .splits import train_validation_indices

_HELD_OUT_BATCH = 1000


class MNISTDataModule(pl.LightningDataModule):
    """MNIST, or a dataset of the same form, as uint8 batches that never leave the device of the training.

    Args:
        name: the dataset, see `load_dataset`.
        dir: a folder with IDX files of the user's own, see `load_dataset`.
        batch_size: images a step, over all processes together; at most 1,000 of them in validation and test.
        shuffle: whether each training epoch has an order of its own.
        train_size: train on the first so many of the training images only; None: on all.
        validation_size: how many training images are held out for choosing; None: one in twelve.
        augmentation: what `RandomDistortion` takes, used in training only; None: the images as they are.
        seed: of the run, for the order of the training images. The split does not depend on it.
    """

    def __init__(
        self,
        name: str = "mnist",
        dir: str | Path | None = None,
        batch_size: int = 128,
        shuffle: bool = True,
        train_size: int | None = None,
        validation_size: int | None = None,
        augmentation: dict[str, float] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.dataset, self.dir = name, dir
        self.batch_size, self.shuffle, self.seed = batch_size, shuffle, seed
        self.train_size, self.validation_size = train_size, validation_size
        self.augment = RandomDistortion(**augmentation) if augmentation else None
        self.train_data: LabelledImages | None = None
        self.val_data: LabelledImages | None = None
        self.test_data: LabelledImages | None = None
        self._train_loader: BatchLoader | None = None

    def setup(self, stage: str | None = None) -> None:
        """Load what the stage needs, once: "fit" and "validate" the training images, "test" the test images."""
        if stage in ("fit", "validate", None) and self.train_data is None:
            data = load_dataset(self.dataset, "train", self.dir)
            train, val = train_validation_indices(len(data.labels), self.validation_size)
            if self.train_size is not None:
                if self.train_size > len(train):
                    raise InputError(f"data.train_size={self.train_size}, but there are {len(train):,} training images")
                train = train[: self.train_size]
            self.train_data, self.val_data = self._on_device(data.subset(train)), self._on_device(data.subset(val))
        if stage in ("test", None) and self.test_data is None:
            self.test_data = self._on_device(load_dataset(self.dataset, "test", self.dir))

    def train_dataloader(self) -> BatchLoader:
        """Batches of the training images, in a new order each epoch; one loader, which knows where it stands."""
        if self._train_loader is None:
            self._train_loader = self._loader(self.train_data, shuffle=self.shuffle, same_length=True)
        return self._train_loader

    def val_dataloader(self) -> BatchLoader:
        """Batches of the validation images, in their order."""
        return self._loader(self.val_data)

    def test_dataloader(self) -> BatchLoader:
        """Batches of the test images, in their order."""
        return self._loader(self.test_data)

    def transfer_batch_to_device(
        self, batch: tuple[Tensor, Tensor], device: torch.device, dataloader_idx: int
    ) -> tuple[Tensor, Tensor]:
        """Nothing: the batch is there already."""
        return batch

    def on_after_batch_transfer(self, batch: tuple[Tensor, Tensor], dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Augment the batch where it lies, if it is one of the training."""
        images, labels = batch
        if self.augment is not None and self.trainer is not None and self.trainer.training:
            images = self.augment(images)
        return images, labels

    def state_dict(self) -> dict[str, int]:
        """What a checkpoint keeps: how many batches of the present epoch have been trained on."""
        if self.trainer is None:
            return {}
        progress = self.trainer.fit_loop.epoch_loop.batch_progress
        return {"batches_done": 0 if progress.is_last_batch else progress.current.ready, "batch_size": self.batch_size}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on within the epoch that the checkpoint was saved in.

        Raises:
            InputError: its batches had another size, and so its place in the epoch is none of ours.
        """
        size = state_dict.get("batch_size", self.batch_size)
        if size != self.batch_size:
            raise InputError(
                f"the checkpoint's training had batches of {size} images, not {self.batch_size}; data.batch_size={size}"
                " goes on with it"
            )
        # Lightning would restore a loader by itself, but not one whose length has been asked for before, as
        # every schedule over all steps has to do.
        self.train_dataloader().first_batch = int(state_dict.get("batches_done", 0))

    def _on_device(self, data: LabelledImages) -> LabelledImages:
        # As uint8 the whole of MNIST is 55 MB: moved once, it costs no transfer in any step.
        device = torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device
        return LabelledImages(data.images.to(device), data.labels.to(device))

    def _loader(self, data: LabelledImages | None, **options: bool) -> BatchLoader:
        if data is None:
            raise RuntimeError("call setup() before asking for batches")
        place: dict[str, Any] = {}
        if self.trainer is not None:
            place = {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size}
            fewest = min(self.batch_size, len(data.labels) or self.batch_size)
            if fewest < self.trainer.world_size:
                raise InputError(
                    f"batches of {fewest} images for {self.trainer.world_size} processes: expected at least one image"
                    " for each; raise data.batch_size, or train with fewer processes"
                )
        # Held-out images are no faster in larger batches, and where those of the training just fit, memory is short.
        size = self.batch_size if data is self.train_data else min(self.batch_size, _HELD_OUT_BATCH)
        return BatchLoader(data, size, seed=self.seed, **options, **place)
