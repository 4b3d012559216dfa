"""The LightningDataModule: one dataset, split, as batches on the device of the training."""

from pathlib import Path

import lightning.pytorch as pl
import torch
from torch import Tensor

from ..cli.settings import BATCH_SIZE, DataSettings
from ..data.augmentation import RandomDistortion
from ..data.datasets import LabelledImages, load_dataset
from ..data.loader import BatchLoader
from ..data.splits import fold_indices, train_validation_indices
from ..errors import InputError

# Larger batches make evaluation no faster, and where those of the training just fit, memory is short.
_MAX_EVALUATION_BATCH = 1000


class MNISTDataModule(pl.LightningDataModule):
    """MNIST, or a dataset of the same form, as uint8 batches on the device of the training.

    Args:
        name: name of the dataset, see `load_dataset`.
        dir: folder with the user's own IDX files, see `load_dataset`.
        batch_size: images per batch, over all processes together; at most 1,000 in validation and test.
        shuffle: whether each training epoch has an order of its own.
        train_size: number of training images to use, the first ones; None: all.
        validation_size: number of training images held out for validation; None: one in twelve.
        folds: number of parts of the training images for cross-validation, see `fold_indices`; None: none.
        fold: which of these parts is held out for validation, from 0.
        augmentation: arguments of `RandomDistortion`, applied in training only; None: no augmentation.
        seed: seed of the run, for the order of the training images. The split does not depend on it.
    """

    def __init__(
        self,
        name: str = DataSettings.name,
        dir: str | Path | None = DataSettings.dir,
        test_dir: str | Path | None = DataSettings.test_dir,
        batch_size: int = BATCH_SIZE,
        shuffle: bool = DataSettings.shuffle,
        train_size: int | None = DataSettings.train_size,
        validation_size: int | None = DataSettings.validation_size,
        folds: int | None = DataSettings.folds,
        fold: int | None = DataSettings.fold,
        augmentation: dict[str, float] | None = DataSettings.augmentation,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.dataset, self.dir, self.test_dir = name, dir, test_dir
        self.batch_size, self.shuffle, self.seed = batch_size, shuffle, seed
        self.train_size, self.validation_size = train_size, validation_size
        self.folds, self.fold = folds, fold
        self.augment = RandomDistortion(**augmentation) if augmentation else None
        self.train_data: LabelledImages | None = None
        self.val_data: LabelledImages | None = None
        self.test_data: LabelledImages | None = None
        self._train_loader: BatchLoader | None = None

    def setup(self, stage: str | None = None) -> None:
        """Load the training images for "fit" and "validate", the test images for "test", each once."""
        if stage in ("fit", "validate", None) and self.train_data is None:
            data = load_dataset(self.dataset, "train", self.dir)
            count = len(data.labels)
            if self.folds is not None and self.fold is not None:
                train, val = fold_indices(count, self.folds, self.fold)
            else:
                train, val = train_validation_indices(count, self.validation_size)
            if self.train_size is not None:
                if self.train_size > len(train):
                    raise InputError(f"data.train_size={self.train_size}, but there are {len(train):,} training images")
                train = train[: self.train_size]
            self.train_data, self.val_data = self._to_device(data.subset(train)), self._to_device(data.subset(val))
        if stage in ("test", None) and self.test_data is None:
            self.test_data = self._to_device(load_dataset(self.dataset, "test", self.dir))

    def train_dataloader(self) -> BatchLoader:
        """Return the loader of the training images, always the same one, which knows its position in the epoch."""
        if self._train_loader is None:
            self._train_loader = self._loader(self.train_data, self.shuffle, training=True)
        return self._train_loader

    def val_dataloader(self) -> BatchLoader:
        """Return a loader of the validation images, in order."""
        return self._loader(self.val_data)

    def test_dataloader(self) -> BatchLoader:
        """Return a loader of the test images, in order."""
        return self._loader(self.test_data)

    def on_after_batch_transfer(self, batch: tuple[Tensor, Tensor], dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Augment the batch in training."""
        images, labels = batch
        if self.augment is not None and self.trainer is not None and self.trainer.training:
            images = self.augment(images)
        return images, labels

    def state_dict(self) -> dict[str, int]:
        """Return the position in the epoch, for a checkpoint."""
        if self.trainer is None:
            return {}
        progress = self.trainer.fit_loop.epoch_loop.batch_progress
        return {"batches_done": 0 if progress.is_last_batch else progress.current.ready, "batch_size": self.batch_size}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Resume within the epoch in which the checkpoint was saved.

        Raises:
            InputError: If its batches had another size.
        """
        size = state_dict.get("batch_size", self.batch_size)
        if size != self.batch_size:
            raise InputError(
                f"the checkpoint's training had batches of {size} images, not {self.batch_size}; data.batch_size={size}"
                " resumes it"
            )
        # Lightning restores a loader by itself, but not after its length has been asked for, as by every schedule.
        self.train_dataloader().first_batch = int(state_dict.get("batches_done", 0))

    def _to_device(self, data: LabelledImages) -> LabelledImages:
        # MNIST takes 55 MB as uint8; moved once, it needs no transfer in any step.
        device = torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device
        return LabelledImages(data.images.to(device), data.labels.to(device))

    def _loader(self, data: LabelledImages | None, shuffle: bool = False, training: bool = False) -> BatchLoader:
        if data is None:
            raise RuntimeError("call setup() before asking for batches")
        rank, processes = (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        smallest = min(self.batch_size, len(data.labels) or self.batch_size)
        if smallest < processes:
            raise InputError(
                f"batches of {smallest} images for {processes} processes: expected at least one image for each;"
                " raise data.batch_size, or train with fewer processes"
            )
        size = self.batch_size if training else min(self.batch_size, _MAX_EVALUATION_BATCH)
        return BatchLoader(data, size, shuffle, self.seed, rank, processes, same_length=training)
