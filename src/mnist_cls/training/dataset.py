"""The images of a training: to train on, to validate on, and to test on."""

import zlib
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path

import torch

from ..cli.settings import DataSettings
from ..data.datasets import LabelledImages, load_dataset
from ..data.drawing import draw_digits
from ..data.splits import fixed_order, fold_indices, train_validation_indices
from ..errors import InputError
from .own_data import Part, find_parts


class Dataset:
    """A named dataset, or a user's own images, read on demand. For the arguments see `MNISTDataModule`."""

    def __init__(
        self,
        name: str = "mnist",
        dir: str | Path | None = None,
        test_dir: str | Path | None = None,
        train_size: int | None = None,
        validation_size: int | None = None,
        folds: int | None = None,
        fold: int | None = None,
        drawn: float = 0.0,
    ) -> None:
        # Raises an InputError if one of them is out of range.
        DataSettings(train_size=train_size, validation_size=validation_size, folds=folds, fold=fold, drawn=drawn)
        self.name, self.dir, self.test_dir = name, dir, test_dir
        self.train_size, self.validation_size, self.folds, self.fold = train_size, validation_size, folds, fold
        self.drawn = drawn
        self._read: dict[Part, LabelledImages] = {}

    @cached_property
    def parts(self) -> dict[Part, Callable[[], LabelledImages]]:
        """For each part that the dataset has, the function that reads it.

        Raises:
            InputError: If `dir` or `test_dir` has no labelled images.
        """
        if self.dir is None:
            parts: dict[Part, Callable[[], LabelledImages]] = {
                "train": partial(load_dataset, self.name, "train"),
                "test": partial(load_dataset, self.name, "test"),
            }
        else:
            parts = find_parts(self.dir, self.name)
        if self.test_dir is not None:
            found = find_parts(self.test_dir, self.name, "data.test_dir")
            parts["test"] = found.get("test") or found.get("val") or found["train"]
        return parts

    def prepare(self, *parts: Part) -> None:
        """Read these parts in advance, if the dataset has them; each is kept until it is first used."""
        for part in parts:
            if part in self.parts and part not in self._read:
                self._read[part] = self.parts[part]()

    def train_and_validation(self) -> tuple[LabelledImages, LabelledImages]:
        """Return the images to train on and to validate on.

        The latter are held out of the training images, unless the dataset has a part for validation.

        Raises:
            InputError: If there are no training images or fewer than the settings need, or if the settings hold out
                images of a dataset that has a part for validation.
        """
        if "train" not in self.parts:
            raise InputError(f"data.dir={self.dir}: has no training images, only {', '.join(self.parts)}")
        data = self._take("train")
        if bool((data.labels.diff() >= 0).all()):
            # Sorted by label, as when read from folders: the first `train_size` images would have few classes.
            data = data.subset(torch.from_numpy(fixed_order(len(data.labels))))
        if "val" in self.parts:
            if self.folds is not None or self.validation_size:
                option = "folds" if self.folds is not None else "validation_size"
                raise InputError(f"data.dir={self.dir}: has its own validation images; leave data.{option} out")
            val_data = self._take("val")
            train_data, val_data = data, val_data if self.validation_size is None else val_data.subset(torch.arange(0))
        else:
            train, val = self._split(len(data.labels))
            train_data, val_data = data.subset(train), data.subset(val)
        if self.train_size is not None:
            count = len(train_data.labels)
            if self.train_size > count:
                raise InputError(f"data.train_size={self.train_size}: expected at most {count:,}, all training images")
            train_data = LabelledImages(*(values[: self.train_size] for values in train_data))
        if self.drawn:
            drawn = draw_digits(round(len(train_data.labels) * self.drawn / (1 - self.drawn)))
            train_data = LabelledImages(*map(torch.cat, zip(train_data, drawn, strict=True)))
        return train_data, val_data

    def test(self) -> LabelledImages:
        """Return the test images; raise an InputError if there are none."""
        if "test" not in self.parts:
            raise InputError(f"data.dir={self.dir}: has no test images; set data.test_dir=PATH")
        return self._take("test")

    def _split(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        if self.folds is not None and self.fold is not None:
            return fold_indices(count, self.folds, self.fold)
        return train_validation_indices(count, self.validation_size)

    def _take(self, part: Part) -> LabelledImages:
        return self._read.pop(part, None) or self.parts[part]()


def checksum(data: LabelledImages) -> int:
    """Return a checksum of images and labels on the CPU."""
    return zlib.crc32(data.labels.numpy().data, zlib.crc32(data.images.numpy().data))
