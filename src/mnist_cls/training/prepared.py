"""Labelled images, converted to MNIST's form once and cached for the next start."""

import collections
import hashlib
import importlib.metadata
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ..data.datasets import CACHE, LabelledImages
from ..errors import InputError, shortened
from ..files import expand, whole_file
from ..images import SIZE
from ..inference.decoding.batches import batches_of
from ..inference.decoding.pool import Decoders
from ..inference.progress_bar import progress_bar
from ..inference.sources.blocks import Source
from .distributed import print_once

# Arrays that are read in less than this many seconds are not cached; pictures always are.
_WORTH_KEEPING = 1.0

# Number of reasons for leaving images out that are printed.
_REASONS = 3


class Prepared(NamedTuple):
    """Images in MNIST's form.

    Attributes:
        images: uint8 (N, 28, 28).
        labels: uint8 (N,), 0 to 9.
        left_out: number of inputs that could not be used.
        reason: the most frequent reasons, see `_reasons`.
    """

    images: np.ndarray
    labels: np.ndarray
    left_out: int
    reason: str


def labelled_images(
    open_source: Callable[[], Source], path: Path, part: str, title: str, preprocess: str
) -> LabelledImages:
    """Read all labelled images of a source, or load them from the cache, and print their number.

    Inputs that cannot be read, or whose label is not a digit, are left out.

    Args:
        open_source: function that opens the source.
        path: file or folder of the source. The cache has one entry for each path, part and `preprocess`.
        part: part of the dataset, such as "train".
        title: name of the images in the printed line.
        preprocess: "auto" converts any image to MNIST's form; "none": images are already 28x28, bright on black.

    Returns:
        The images, uint8 (N, 28, 28), and the labels, int64 (N,), on the CPU.

    Raises:
        InputError: If the source cannot be read, or no image can be used.
    """
    source = open_source()
    identity = _identity(source)
    key = hashlib.sha256(f"{path.resolve()}\0{part}\0{preprocess}".encode("utf-8", "surrogateescape")).hexdigest()
    file = expand(CACHE) / "own" / f"{key[:32]}.npz"
    prepared = _kept(file, identity)
    if prepared is None:
        start = time.monotonic()
        prepared = _prepare(source, preprocess)
        if not len(prepared.labels):
            raise InputError(f"{path}: none of its {prepared.left_out:,} images can be used: {prepared.reason}")
        if not source.arrays or time.monotonic() - start > _WORTH_KEEPING:
            _keep(file, identity, prepared)
    left_out = f", {prepared.left_out:,} left out: {prepared.reason}" if prepared.left_out else ""
    print_once(f"{len(prepared.labels):,} images of {title}{left_out}")
    return LabelledImages(torch.from_numpy(prepared.images), torch.from_numpy(prepared.labels.astype(np.int64)))


def _prepare(source: Source, preprocess: str) -> Prepared:
    images, labels = [np.zeros((0, SIZE, SIZE), np.uint8)], list[int]()
    reasons = collections.Counter[str]()
    first: dict[str, str] = {}  # for each reason the name of an input
    with Decoders(preprocess, split=False) as decoders, progress_bar(source.count, 0) as advance:
        if not source.arrays:
            decoders.start(source.count)
        for batch in batches_of(source, decoders):
            usable = np.ones(len(batch.names), bool)
            for index, (error, target) in enumerate(zip(batch.decoded.errors, batch.targets, strict=True)):
                if error is None and target is not None:
                    labels.append(target)
                    continue
                usable[index] = False
                reason = error or "its label is not a digit 0 to 9"
                reasons[reason] += 1
                first.setdefault(reason, batch.names[index])
            images.append(batch.decoded.images[usable])
            advance(len(batch.names))
    return Prepared(np.concatenate(images), np.array(labels, np.uint8), reasons.total(), _reasons(reasons, first))


def _reasons(counts: "collections.Counter[str]", first: Mapping[str, str]) -> str:
    """Return the most frequent reasons why inputs were left out, each with its first input and the number of others."""
    if not counts:
        return "it has no rows"
    texts = []
    for reason, count in counts.most_common(_REASONS):
        name = first[reason]
        named = f"image {name}" if name.isdecimal() else name  # of arrays and tables the name is an index
        others = f" and {count - 1:,} more" if count > 1 else ""
        texts.append(shortened(f"{named}{others}: {reason}", 300))
    more = len(counts) - len(texts)
    return "; ".join(texts) + (f"; and {more} other reason{'s' * (more != 1)}" if more else "")


def _identity(source: Source) -> str:
    """Return a digest that changes with the source, and with the size or time of a file that it names.

    The files are not read.
    """
    digest = hashlib.sha256(importlib.metadata.version("mnist_cls").encode())
    digest.update(source.identity.encode("utf-8", "surrogateescape"))
    for block in source.blocks(0):
        if not isinstance(block.contents, list) or any(isinstance(one, (bytes, np.ndarray)) for one in block.contents):
            break  # the images are in the source's own file
        for content, target in zip(block.contents, block.targets, strict=True):
            state = _state(content) if isinstance(content, str) else str(content)
            digest.update(f"\0{state}\0{target}".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _state(path: str) -> str:
    try:
        status = os.stat(path)  # noqa: PTH116 (there may be a million of them)
    except (OSError, ValueError) as error:
        return f"{path}\0{type(error).__name__}"
    return f"{path}\0{status.st_size}\0{status.st_mtime_ns}"


def _kept(file: Path, identity: str) -> Prepared | None:
    """Return the cached images of the same source and package version; None if there are none or they are damaged."""
    try:
        with np.load(file, allow_pickle=False) as kept:
            if str(kept["identity"]) != identity:
                return None
            found = Prepared(kept["images"], kept["labels"], int(kept["left_out"]), str(kept["reason"]))
    except Exception:  # NumPy and zipfile raise nearly anything on a damaged file
        return None
    count = len(found.labels)
    good = found.images.dtype == np.uint8 and found.images.shape == (count, SIZE, SIZE)
    return found if good and found.labels.dtype == np.uint8 and count and found.labels.max() <= 9 else None


def _keep(file: Path, identity: str, prepared: Prepared) -> None:
    try:
        with whole_file(file) as temporary:
            np.savez(temporary, identity=np.array(identity), **prepared._asdict())
    except OSError as error:
        print_once(f"prepared images not kept for the next start: {error.filename or file}: {error.strerror or error}")
