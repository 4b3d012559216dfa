"""Sources, and what they yield: blocks of named inputs, not decoded yet, always in the same order."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...errors import InputError
from .reading import file_identity, reader_errors


class PagePath(NamedTuple):
    """The path of a file with several pages, and the number of one of them, from 0."""

    path: str
    number: int


# The bytes of an image file, its path, one of its pages, its pixels, or the reason why it cannot be read.
Content = bytes | str | PagePath | np.ndarray | InputError

# Number of inputs in a batch: of arrays, and of images that have to be decoded first.
ARRAY_BATCH, IMAGE_BATCH = 2048, 256

# A block of samples ends after this many inputs or bytes: large enough to be worth a message to another process, small
# enough to keep all of them busy.
_BLOCK_SIZE, _BLOCK_BYTES = 64, 4_000_000


class Sample(NamedTuple):
    """One input: its printable name, a function that reads its content, and its label, if known."""

    name: str
    read: Callable[[], Content]
    target: int | None = None


@dataclass(frozen=True)
class InputBlock:
    """N consecutive inputs.

    Attributes:
        names: printable names.
        contents: an array of N images, as `images_from_array` takes it, or N contents; None if they were skipped.
        targets: labels 0 to 9, None where unknown; empty if the source has no labels.
    """

    names: list[str]
    contents: np.ndarray | list[Content] | None
    targets: list[int | None] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.names)

    def part(self, start: int, stop: int | None = None) -> "InputBlock":
        """Return the inputs from `start` to `stop`, without copying arrays."""
        here = slice(start, stop)
        return InputBlock(self.names[here], None if self.contents is None else self.contents[here], self.targets[here])

    @property
    def size(self) -> int:
        """Number of bytes in memory, roughly."""
        if isinstance(self.contents, np.ndarray):
            return self.contents.nbytes
        return sum(map(_size, self.contents or []))


Blocks = Callable[[int], Iterator[InputBlock]]


@dataclass(frozen=True)
class Source:
    """Inputs in a fixed order.

    Attributes:
        count: number of inputs; None if it is not known before the end.
        blocks: function that yields all inputs, in blocks of any size. Its argument is the number of inputs that an
            earlier run has predicted; their contents need not be read.
        identity: what distinguishes this source from others when a run resumes.
        labelled: whether the inputs have labels.
        arrays: whether the contents are stacks of 28x28 images, most of which need no decoding.
    """

    count: int | None
    blocks: Blocks
    identity: str
    labelled: bool = False
    arrays: bool = False

    @property
    def batch_size(self) -> int:
        """Number of inputs in a batch."""
        return ARRAY_BATCH if self.arrays else IMAGE_BATCH


def blocks_of(samples: Callable[[], Iterable[Sample]], labelled: bool = False) -> Blocks:
    """Return the `blocks` of a source whose inputs are read one by one."""

    def blocks(start: int) -> Iterator[InputBlock]:
        remaining = iter(samples())
        while start and (skipped := list(islice(remaining, min(start, IMAGE_BATCH)))):
            yield InputBlock([sample.name for sample in skipped], None)
            start -= len(skipped)
        while block := _read(remaining, labelled):
            yield block

    return blocks


def file_source(
    path: Path,
    kind: str,
    blocks: Blocks,
    count: int | None = None,
    labelled: bool = False,
    arrays: bool = False,
    member: str | None = None,
) -> Source:
    """Return the inputs in a file, or in a member of an archive.

    Whatever reading them raises becomes an InputError that names the file and its kind.
    """

    def guarded(start: int) -> Iterator[InputBlock]:
        with reader_errors(path / (member or ""), kind):
            yield from blocks(start)

    identity = file_identity(path) if member is None else f"{member} in {file_identity(path)}"
    return Source(count, guarded, identity, labelled, arrays)


def cut(blocks: Iterable[InputBlock], size: int) -> Iterator[InputBlock]:
    """Cut blocks so that none of them reaches beyond a multiple of `size` inputs."""
    count = 0
    for block in blocks:
        while len(block):
            part = block.part(0, size - count % size)
            yield part
            count += len(part)
            block = block.part(len(part))


def index_names(first: int, count: int) -> list[str]:
    """Return the names of inputs that have none but their index."""
    return [str(index) for index in range(first, first + count)]


def target_of(value: object) -> int | None:
    """Return the digit 0 to 9 that a label says, as a number or as text, or None if it says something else."""
    text = str(value).strip()
    if len(text) == 1:
        return int(text) if text in "0123456789" else None
    try:
        number = float(text.replace(",", "."))  # 7.000e+00 and 7,0, too
    except ValueError:
        return None
    return int(number) if number in range(10) else None


def _read(samples: Iterator[Sample], labelled: bool) -> InputBlock | None:
    """Read the next samples, or return None at their end."""
    names: list[str] = []
    contents: list[Content] = []
    targets: list[int | None] = []
    size = 0
    for sample in samples:
        names.append(sample.name)
        contents.append(sample.read())
        targets.append(sample.target)
        size += _size(contents[-1])
        if len(names) == _BLOCK_SIZE or size >= _BLOCK_BYTES:
            break
    return InputBlock(names, contents, targets if labelled else []) if names else None


def _size(content: Content) -> int:
    if isinstance(content, np.ndarray):
        return content.nbytes
    return 0 if isinstance(content, InputError) else len(content)
