"""Labelled images by the name of their dataset: the package's MNIST, IDX files, or torchvision's datasets."""

import contextlib
import io
import sys
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.error import URLError

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..files import expand
from ..images import SIZE
from .embedded import embedded_file
from .idx import read_idx

Split = Literal["train", "test"]

# Folder to which torchvision downloads its datasets, and in which a user's own images in MNIST's form are cached.
CACHE = "~/.cache/mnist_cls"

# The names of MNIST's files.
_IDX_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


class _Download(NamedTuple):
    """A dataset of torchvision.

    Attributes:
        folder: name of the class in torchvision, and of the folder that the files are downloaded to.
        files: the files that torchvision expects there, for the message when the download fails.
        digits: whether the images show digits.
    """

    folder: str
    files: str
    digits: bool = True


_LIKE_MNIST = "{train,t10k}-images-idx3-ubyte.gz and {train,t10k}-labels-idx1-ubyte.gz"
_DOWNLOADS = {
    "fashion_mnist": _Download("FashionMNIST", _LIKE_MNIST, digits=False),
    "kmnist": _Download("KMNIST", _LIKE_MNIST, digits=False),
    "qmnist": _Download(
        "QMNIST", "qmnist-{train,test}-images-idx3-ubyte.gz and qmnist-{train,test}-labels-idx2-int.gz"
    ),
    "emnist_digits": _Download(
        "EMNIST",
        "emnist-digits-{train,test}-images-idx3-ubyte and emnist-digits-{train,test}-labels-idx1-ubyte",
    ),
}


class LabelledImages(NamedTuple):
    """uint8 images (N, 28, 28), and int64 labels (N,) from 0 to 9."""

    images: Tensor
    labels: Tensor

    def subset(self, indices: Tensor) -> "LabelledImages":
        """Return the images and labels at `indices`, int64 (M,)."""
        return LabelledImages(self.images[indices], self.labels[indices])


def list_datasets() -> list[str]:
    """Return the names that `load_dataset` accepts, sorted."""
    return sorted(["mnist", *_DOWNLOADS])


def shows_digits(name: str) -> bool:
    """Return whether the images of a dataset show digits, and not clothes or other characters."""
    return name not in _DOWNLOADS or _DOWNLOADS[name].digits


def load_dataset(name: str = "mnist", split: Split = "train", directory: str | Path | None = None) -> LabelledImages:
    """Load the official training or test images of a dataset.

    Args:
        name: one of `list_datasets()`.
        split: "train" or "test".
        directory: a folder with IDX files named like MNIST's, plain or `.gz`, in the folder itself or in torchvision's
            layout below it (`MNIST/raw`); `training.own_data` reads other files. None: the packaged MNIST for "mnist";
            for the others `~/.cache/mnist_cls`, to which torchvision downloads them.

    Returns:
        The images, uint8 (N, 28, 28), and the labels, int64 (N,), on the CPU.

    Raises:
        InputError: If the name is unknown, the files are missing or damaged, or they do not hold 28x28 images with
            labels 0 to 9.
    """
    if name not in list_datasets():
        raise InputError(f"no dataset is called {name!r}; known datasets: {', '.join(list_datasets())}")
    images, labels = _IDX_FILES[split]
    if name == "mnist" and directory is None:
        return _read_pair(embedded_file(f"{images}.gz"), embedded_file(f"{labels}.gz"))
    folder = expand(CACHE if directory is None else directory)
    if directory is not None and not folder.is_dir():
        raise InputError(f"data.dir={folder} is not a folder; expected one with {images}[.gz]")
    if (pair := find_idx(name, split, folder)) is not None:
        return _read_pair(*pair)
    if name != "mnist":
        return _from_torchvision(name, split, folder)
    raise InputError(
        f"data.dir={folder} has no {images}[.gz] and {labels}[.gz], neither in it nor in MNIST/raw below it;"
        " leave data.dir out to use the packaged MNIST"
    )


def find_idx(name: str, split: Split, folder: Path) -> tuple[Path, Path] | None:
    """Return a dataset's IDX files with images and labels in a folder, see `load_dataset`; None without them."""
    downloaded = _DOWNLOADS[name].folder if name in _DOWNLOADS else "MNIST"
    for parent in (folder, folder / downloaded / "raw"):
        for suffix in ("", ".gz"):
            images, labels = (parent / f"{file}{suffix}" for file in _IDX_FILES[split])
            if images.is_file() and labels.is_file():
                return images, labels
    return None


def is_downloaded(name: str, folder: Path) -> bool:
    """Return whether torchvision has downloaded a dataset to a folder."""
    return name in _DOWNLOADS and (folder / _DOWNLOADS[name].folder / "raw").is_dir()


def _read_pair(images_file: Path, labels_file: Path) -> LabelledImages:
    return _checked(read_idx(images_file), read_idx(labels_file), images_file, labels_file)


def _checked(images: np.ndarray, labels: np.ndarray, images_file: Path, labels_file: Path) -> LabelledImages:
    if images.dtype != np.uint8 or images.shape[1:] != (SIZE, SIZE) or len(images) == 0:
        raise InputError(f"{images_file}: {images.dtype} {images.shape}; expected uint8 images (N, 28, 28)")
    if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"{labels_file}: {labels.dtype} {labels.shape}; expected {len(images)} integers")
    if labels.min() < 0 or labels.max() > 9:
        raise InputError(f"{labels_file}: labels from {labels.min()} to {labels.max()}; expected 0 to 9")
    return LabelledImages(torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64)))


def _from_torchvision(name: str, split: Split, root: Path) -> LabelledImages:
    from torchvision import datasets  # takes a second to import, and only these datasets need it

    print(f"{name}: reading it from {root}, or downloading it if it is not there", file=sys.stderr)
    options: dict[str, Any] = {"train": split == "train"}
    if name == "qmnist":
        options = {"what": "train" if split == "train" else "test10k"}
    elif name == "emnist_digits":
        options["split"] = "digits"
    try:
        # torchvision prints a line for each mirror that it tries; the exception also says what went wrong.
        with contextlib.redirect_stdout(io.StringIO()):
            data = getattr(datasets, _DOWNLOADS[name].folder)(root, download=True, **options)
    except (URLError, OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{name} is not in {root} and could not be downloaded ({reason}); put {_DOWNLOADS[name].files}"
            f" into {root / _DOWNLOADS[name].folder / 'raw'} and run again"
        ) from error
    # EMNIST's images are transposed; QMNIST's labels have eight columns, of which the first is the class.
    images = data.data.transpose(1, 2) if name == "emnist_digits" else data.data
    labels = data.targets[:, 0] if name == "qmnist" else data.targets
    return _checked(images.contiguous().numpy(), labels.numpy(), root, root)
