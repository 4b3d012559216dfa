"""Labelled images by the name of their dataset: the package's MNIST, a user's IDX files, or torchvision's datasets."""

import contextlib
import io
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple
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

CACHE = expand("~/.cache/mnist_cls")

# What torchvision downloads for each, and below which folder it looks for it: for the message without a network.
_TORCHVISION = {
    "fashion_mnist": "FashionMNIST",
    "kmnist": "KMNIST",
    "qmnist": "QMNIST",
    "emnist_digits": "EMNIST",
}
_FILES = {
    "qmnist": "qmnist-{train,test}-images-idx3-ubyte.gz and qmnist-{train,test}-labels-idx2-int.gz",
    "emnist_digits": "emnist-digits-{train,test}-images-idx3-ubyte and emnist-digits-{train,test}-labels-idx1-ubyte",
}


_AHEAD: "list[Future[LabelledImages]]" = []


class LabelledImages(NamedTuple):
    """uint8 images (N, 28, 28), and int64 labels (N,) from 0 to 9."""

    images: Tensor
    labels: Tensor

    def subset(self, indices: Tensor) -> "LabelledImages":
        """The images and labels at `indices`, int64 (M,)."""
        return LabelledImages(self.images[indices], self.labels[indices])


def list_datasets() -> list[str]:
    """The names that `load_dataset` knows, sorted."""
    return sorted(["mnist", *_TORCHVISION])


def read_ahead() -> None:
    """Begin to read the training images that the package carries, on another core, while this thread does other things.

    The next `load_dataset()` waits for them; what goes wrong is raised there.
    """
    worker = ThreadPoolExecutor(1)
    _AHEAD.append(worker.submit(_load, "mnist", "train", None))
    worker.shutdown(wait=False)


def load_dataset(name: str = "mnist", split: Split = "train", directory: str | Path | None = None) -> LabelledImages:
    """Load the official training or test images of a dataset.

    Args:
        name: one of `list_datasets()`.
        split: "train" or "test".
        directory: a folder with IDX files named as MNIST's, plain or `.gz`, in the folder itself or in torchvision's
            layout below it (`MNIST/raw`). Left out, "mnist" is the one that the package carries, and the others
            are kept in `~/.cache/mnist_cls`, where torchvision downloads them to.

    Raises:
        InputError: the name is unknown, the files are missing or damaged, or they hold no 28x28 images with labels
            0 to 9.
    """
    if _AHEAD and (name, split, directory) == ("mnist", "train", None):
        return _AHEAD.pop().result()
    return _load(name, split, directory)


def _load(name: str, split: Split, directory: str | Path | None) -> LabelledImages:
    if name not in list_datasets():
        raise InputError(f"no dataset is called {name!r}; known datasets: {', '.join(list_datasets())}")
    folder = None if directory is None else expand(directory)
    if folder is not None and not folder.is_dir():
        raise InputError(f"data.dir={folder} is no folder; expected one with {_names(split)[0]}[.gz]")
    if name == "mnist" and folder is None:
        return _read_pair(*(embedded_file(f"{file}.gz") for file in _names(split)))
    pair = _find_pair(folder or CACHE, name, split)
    if pair is not None:
        return _read_pair(*pair)
    if name == "mnist":
        wanted = " and ".join(f"{file}[.gz]" for file in _names(split))
        raise InputError(
            f"data.dir={folder} has no {wanted}, neither itself nor in MNIST/raw below it;"
            " leave data.dir out for the MNIST that the package carries"
        )
    return _from_torchvision(name, split, folder or CACHE)


def _names(split: Split) -> tuple[str, str]:
    start = "train" if split == "train" else "t10k"
    return f"{start}-images-idx3-ubyte", f"{start}-labels-idx1-ubyte"


def _find_pair(folder: Path, name: str, split: Split) -> tuple[Path, Path] | None:
    for place in (folder, folder / _TORCHVISION.get(name, "MNIST") / "raw"):
        for end in ("", ".gz"):
            images, labels = (place / f"{file}{end}" for file in _names(split))
            if images.is_file() and labels.is_file():
                return images, labels
    return None


def _read_pair(images_file: Path, labels_file: Path) -> LabelledImages:
    images, labels = read_idx(images_file), read_idx(labels_file)
    return _labelled(images, labels, images_file, labels_file)


def _labelled(images: np.ndarray, labels: np.ndarray, images_file: object, labels_file: object) -> LabelledImages:
    if images.dtype != np.uint8 or images.shape[1:] != (SIZE, SIZE) or len(images) == 0:
        raise InputError(f"{images_file}: {images.dtype} {images.shape}; expected uint8 images (N, 28, 28)")
    if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"{labels_file}: {labels.dtype} {labels.shape}; expected {len(images)} whole numbers")
    if labels.min() < 0 or labels.max() > 9:
        raise InputError(f"{labels_file}: labels from {labels.min()} to {labels.max()}; expected 0 to 9")
    return LabelledImages(torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64)))


def _from_torchvision(name: str, split: Split, root: Path) -> LabelledImages:
    from torchvision import datasets  # costs a second, and only these datasets need it

    print(f"{name}: looking for it in {root}, downloading it if it is not there", file=sys.stderr)
    train = split == "train"
    try:
        # torchvision prints a line for each mirror that it tries; what went wrong is in the exception too.
        with contextlib.redirect_stdout(io.StringIO()):
            if name == "qmnist":
                data = datasets.QMNIST(root, what="train" if train else "test10k", download=True)
            elif name == "emnist_digits":
                data = datasets.EMNIST(root, split="digits", train=train, download=True)
            else:
                data = getattr(datasets, _TORCHVISION[name])(root, train=train, download=True)
    except (URLError, OSError, RuntimeError) as error:
        files = _FILES.get(name, "{train,t10k}-images-idx3-ubyte.gz and {train,t10k}-labels-idx1-ubyte.gz")
        reason = " ".join(str(error).split())
        raise InputError(
            f"{name} is not in {root} and could not be downloaded ({reason}); put {files}"
            f" into {root / _TORCHVISION[name] / 'raw'} and run again"
        ) from error
    images = data.data
    labels = (
        data.targets[:, 0] if data.targets.ndim == 2 else data.targets
    )  # QMNIST: the class is the first of 8 columns
    if name == "emnist_digits":
        images = images.transpose(1, 2)  # EMNIST's files hold each image with its rows and columns exchanged
    return _labelled(images.contiguous().numpy(), labels.numpy(), root, root)
