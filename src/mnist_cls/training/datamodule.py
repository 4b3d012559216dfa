"""The LightningDataModule: one dataset, split, as batches on the device of the training."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import lightning.pytorch as pl
import torch
from torch import Tensor

from ..cli.settings import BATCH_SIZE, DataSettings
from ..data.augmentation import RandomDistortion
from ..data.datasets import LabelledImages
from ..data.loader import BatchLoader
from ..errors import InputError
from .dataset import Dataset, checksum
from .distributed import print_once
from .hyperparameters import plain
from .loading import load_datamodule, refuse_on_instances

if TYPE_CHECKING:
    from typing_extensions import Self  # in `typing` from Python 3.11 on

Split = Literal["train", "val", "test"]

# Larger batches do not speed up evaluation, and may not fit into memory where the training's batches only just do.
_MAX_EVALUATION_BATCH = 1000


class MNISTDataModule(pl.LightningDataModule):
    """MNIST, or a dataset of the same form, as uint8 batches on the device of the training.

    Args:
        name: name of the dataset, see `load_dataset`.
        dir: path of the user's own images, see `find_parts`; None: the packaged MNIST, or the dataset that torchvision
            downloads.
        test_dir: path of the user's own test images, in the same forms; of several parts the one called test, else val.
            None: the test images in `dir`.
        batch_size: images per batch, over all processes together; at most 1,000 in validation and test.
        shuffle: whether to shuffle the training images in each epoch.
        train_size: number of training images to use, from the first; None: all.
        validation_size: number of training images held out for validation; None: one in twelve, or the validation
            images in `dir` if there are any.
        folds: number of folds for cross-validation, see `fold_indices`; None: no cross-validation.
        fold: index of the fold that is held out for validation, from 0.
        augmentation: arguments of `RandomDistortion`, applied in training only; None: no augmentation.
        drawn: fraction of the training images, 0 to below 1, that the package draws itself, see `draw_digits`.
        seed: seed of the order of the training images. The split does not depend on it.

    Raises:
        InputError: If an argument is out of range. What is wrong with the images is raised when they are read.
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
        drawn: float = DataSettings.drawn,
        seed: int = 0,
    ) -> None:
        arguments = {key: plain(key, value) for key, value in locals().items() if key not in ("self", "__class__")}
        super().__init__()
        refuse_on_instances(self)
        self.save_hyperparameters(arguments)
        self.source = Dataset(name, dir, test_dir, train_size, validation_size, folds, fold, drawn)
        self.batch_size, self.shuffle, self.seed = (arguments[key] for key in ("batch_size", "shuffle", "seed"))
        DataSettings(augmentation=augmentation)  # raises an InputError for an unknown distortion
        self.augment = RandomDistortion(**augmentation) if augmentation else None
        self.train_data: LabelledImages | None = None
        self.val_data: LabelledImages | None = None
        self.test_data: LabelledImages | None = None
        self._train_loader: BatchLoader | None = None
        self._checksum: int | None = None

    @classmethod
    def load_from_checkpoint(
        cls,
        checkpoint_path: Any,
        map_location: Any = None,
        hparams_file: Any = None,
        weights_only: bool | None = None,
        **kwargs: Any,
    ) -> "Self":
        """Create a DataModule from a checkpoint, see `load_datamodule`; `kwargs` replace the arguments saved in it.

        Nothing in the file is executed or imported, whatever `weights_only` is.
        """
        return load_datamodule(cls, checkpoint_path, kwargs, hparams_file)

    @property
    def has_test_images(self) -> bool:
        """Whether there are test images."""
        return "test" in self.source.parts

    def prepare_data(self) -> None:
        """Read the images, and convert a user's own to MNIST's form; the other processes read the cached result."""
        stage = None if self.trainer is None else self.trainer.state.fn
        if self.train_data is None and stage in ("fit", "validate", None):
            self.source.prepare("train", "val")
        if self.test_data is None and stage != "validate":
            self.source.prepare("test")  # before training, too: an error in it must not surface at the end only

    def setup(self, stage: str | None = None) -> None:
        """Load the training and validation images ("fit", "validate") or the test images ("test", "predict"), once."""
        if stage in ("fit", "validate", None) and self.train_data is None:
            train, val = self.source.train_and_validation()
            self.train_data, self.val_data = self._to_device(train), self._to_device(val)
            self._checksum = None if self.source.dir is None else checksum(train)
        if stage in ("test", "predict", None) and self.test_data is None:
            self.test_data = self._to_device(self.source.test())

    def train_dataloader(self) -> BatchLoader:
        """Return the loader of the training images: the same object each time, since it holds the epoch's position."""
        loader = self._loader("train", training=True)
        # The options change once a Trainer is attached, or tunes the batch size.
        if self._train_loader is None or self._train_loader.options != loader.options:
            self._train_loader = loader
        return self._train_loader

    def val_dataloader(self) -> BatchLoader:
        """Return a loader of the validation images, in order."""
        return self._loader("val")

    def test_dataloader(self) -> BatchLoader:
        """Return a loader of the test images, in order."""
        return self._loader("test")

    def predict_dataloader(self) -> BatchLoader:
        """Return a loader of the test images, in order; predictions ignore the labels."""
        return self._loader("test")

    def on_after_batch_transfer(self, batch: tuple[Tensor, Tensor], dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Augment the batch in training."""
        if self.augment is not None and self.trainer is not None and self.trainer.training:
            images, labels = batch
            return self.augment(images), labels
        return batch

    def state_dict(self) -> dict[str, int]:
        """Return the position in the epoch, for a checkpoint."""
        if self.trainer is None:
            return {}
        progress = self.trainer.fit_loop.epoch_loop.batch_progress
        done = 0 if progress.is_last_batch else progress.current.ready
        images = {} if self._checksum is None else {"images": self._checksum}
        return {"batches_done": done, "batch_size": self.batch_size, **images}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Resume at the checkpoint's position in its epoch; do nothing in evaluation.

        Raises:
            InputError: If the checkpoint was saved within an epoch that had batches of another size.
        """
        if self.trainer is not None and self.trainer.state.fn != "fit":
            return
        size, done = state_dict.get("batch_size", self.batch_size), int(state_dict.get("batches_done", 0))
        if size != self.batch_size and done:
            raise InputError(
                f"the checkpoint's training had batches of {size} images, not {self.batch_size}; resume it with"
                f" data.batch_size={size}"
            )
        if self._checksum is not None and state_dict.get("images", self._checksum) != self._checksum:
            print_once(f"the images of {self.source.dir} have changed since the training started")
        # Lightning would restore the loader itself, but not once its length has been read, as every schedule does.
        self.train_dataloader().first_batch = done

    def _to_device(self, data: LabelledImages) -> LabelledImages:
        # MNIST takes 55 MB as uint8. It is moved once, so that no step has to wait for a transfer.
        device = torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device
        return LabelledImages(data.images.to(device), data.labels.to(device))

    def _loader(self, split: Split, training: bool = False) -> BatchLoader:
        data = self._data(split)
        trainer = self.trainer
        rank, processes = (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)
        smallest = min(self.batch_size, len(data.labels) or self.batch_size)
        if smallest < processes:
            raise InputError(
                f"batches of {smallest} images for {processes} processes: expected at least one image for each;"
                " increase data.batch_size, or train with fewer processes"
            )
        size = self.batch_size if training else min(self.batch_size, _MAX_EVALUATION_BATCH)
        # Overfitting repeats the same first batches in each epoch.
        shuffle = training and self.shuffle and not getattr(trainer, "overfit_batches", 0)
        return BatchLoader(data, size, shuffle, self.seed, rank, processes, same_length=training)

    def _data(self, split: Split) -> LabelledImages:
        """Return the images of a split; load them if no Trainer has done so."""
        if getattr(self, f"{split}_data") is None:
            if self.trainer is None:
                self.prepare_data()
            self.setup("test" if split == "test" else "fit")
        data: LabelledImages = getattr(self, f"{split}_data")
        return data
