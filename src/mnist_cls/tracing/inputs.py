"""Read the input of `python -m mnist_cls.forward`."""

from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load
from torch import Tensor

from ..cli.messages import display_path
from ..data.datasets import load_dataset
from ..errors import InputError, shortened
from ..files import expand
from ..images import CLASSES, SIZE
from ..inference.decoding.batches import batches_of
from ..inference.decoding.pool import Decoders
from ..inference.sources.detect import open_source

# Maximum number of images read from a folder or an array.
MAX_IMAGES = 64


class Input(NamedTuple):
    """Images for a forward pass.

    Attributes:
        images: (B, 28, 28), uint8 or float from 0 to 255.
        labels: int64 (B,), if known.
        name: description for the user.
        random_state: PyTorch's random state before the training step with these images, if they come from one.
    """

    images: Tensor
    labels: Tensor | None
    name: str
    random_state: Tensor | None = None


def read_input(text: str, seed: int) -> Input:
    """Read the images named by `input=`.

    Args:
        text: index of a test image; "random"; or path of an image, a folder, an array, or a `batch.safetensors`.
        seed: seed of random pixels.

    Raises:
        InputError: If the input does not exist, has no image, or none of its first images can be read.
    """
    if not text:
        raise InputError("no input: use input=INDEX for a test image, input=PATH for your own images, or input=random")
    if text == "random":
        generator = torch.Generator().manual_seed(seed)
        images = torch.randint(0, 256, (1, SIZE, SIZE), dtype=torch.uint8, generator=generator)
        return Input(images, None, f"random pixels (seed={seed})")
    path = expand(text)
    if text.isdecimal() and not path.exists():
        return _read_test_image(int(text))
    return read_batch(path) if path.suffix == ".safetensors" else _read_images(text)


def read_batch(path: Path) -> Input:
    """Read the `batch.safetensors` of a training that stopped at a NaN or infinite value.

    Raises:
        InputError: If it is not such a file, or is damaged.
        OSError: If it cannot be opened.
    """
    try:
        batch = load(path.read_bytes())
        images, labels, random_state = (batch[name] for name in ("images", "labels", "random_state"))
        torch.Generator().set_state(random_state)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # errors of safetensors, of PyTorch, and a KeyError for a dtype that PyTorch lacks
        reason = shortened(error, 200)
        raise InputError(f"input={path}: not the batch.safetensors of a stopped training run ({reason})") from error
    images_fit = images.shape[1:] == (SIZE, SIZE) and (images.dtype == torch.uint8 or images.is_floating_point())
    labels_fit = labels.shape == images.shape[:1] and labels.dtype == torch.int64 and labels.numel() > 0
    if not images_fit or not labels_fit or not 0 <= int(labels.min()) <= int(labels.max()) < CLASSES:
        found = f"{images.dtype} {tuple(images.shape)} with labels {labels.dtype} {tuple(labels.shape)}"
        raise InputError(f"input={path}: {found}; expected images (N, 28, 28) with labels (N,) from 0 to 9")
    return Input(images, labels, f"{len(labels)} images of {display_path(path)}", random_state)


def _read_test_image(index: int) -> Input:
    test_set = load_dataset("mnist", "test")
    count = len(test_set.labels)
    if index >= count:
        raise InputError(f"input={index}: there are {count:,} test images, 0 to {count - 1}")
    chosen = slice(index, index + 1)
    return Input(test_set.images[chosen], test_set.labels[chosen], f"test image {index}")


def _read_images(path: str) -> Input:
    """Read the first images of a user's file or folder; skip unreadable ones, but raise an error if all are."""
    source = open_source(path)
    with Decoders("auto", split=False) as decoders:
        batch = next(batches_of(source, decoders), None)
    if batch is None:
        raise InputError(f"input={path}: no images found")
    errors = batch.decoded.errors[:MAX_IMAGES]
    readable = [index for index, error in enumerate(errors) if error is None]
    if not readable:
        raise InputError(f"{batch.names[0]}: {errors[0]}")
    total = "" if source.count is None else f" of {source.count}"
    name = batch.names[0] if source.count == 1 else f"{len(readable)}{total} images of {expand(path)}"
    return Input(torch.from_numpy(batch.decoded.images[readable]), None, name)
