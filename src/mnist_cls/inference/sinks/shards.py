"""The output of a distributed prediction: a folder of Parquet files, a part of the input each, whole or not there."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import InputError
from ...files import lock, remove_unfinished, whole_file
from ..decoding.batches import names_digest
from ..progress import Progress
from ..sources.blocks import Content, InputBlock, Source, size_of

if TYPE_CHECKING:
    import pyarrow as pa


# Inputs of a part: at most some seconds of work, so that little has to be done again when a worker dies.
PART = 8192


# A part is full, too, with so many bytes of encoded images: it lies in memory as a whole.
_PART_BYTES = 64_000_000


# The file that says that all parts are there. Readers of Parquet folders pass over names that begin so.
COMPLETE = "_SUCCESS"


# Under this key a part's metadata say what run it is of, and how many rows of which kind it has.
_KEY = b"mnist_cls"


@dataclass(frozen=True)
class Shard:
    """Inputs whose rows make one file; `chunk` and `arrays` are those of their source."""

    number: int
    pieces: list[InputBlock]
    chunk: int
    arrays: bool
    names: str


def shards_of(source: Source, size: int) -> Iterator[Shard]:
    """Cut a source into parts of `size` inputs, rounded up to whole chunks; the same source always in the same way."""
    number, rows, held = 0, 0, 0
    pieces: list[InputBlock] = []
    names: list[str] = []
    digest = ""
    for piece in source.pieces(0):
        pieces.append(piece)
        names += piece.names
        held += _bytes_of(piece.contents)
        if len(names) == source.chunk:  # no piece crosses the end of a chunk
            digest, rows, names = names_digest(names, digest), rows + len(names), []
            if rows >= size or held >= _PART_BYTES:
                yield Shard(number, pieces, source.chunk, source.arrays, digest)
                number, rows, held, pieces, digest = number + 1, 0, 0, [], ""
    if pieces:
        digest = names_digest(names, digest) if names else digest
        yield Shard(number, pieces, source.chunk, source.arrays, digest)


def _bytes_of(contents: np.ndarray | list[Content] | None) -> int:
    return sum(map(size_of, [contents] if isinstance(contents, np.ndarray) else contents or []))


def shard_name(number: int) -> str:
    """Of a part's file; sorted by it, parts are in the order of the input."""
    return f"part-{number:08}.parquet"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a second run out of the folder; if the block leaves nothing in it that was not there, neither do we."""
    is_new = not folder.exists()
    path = folder / ".lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise type(error)(error.errno, f"cannot be written ({error.strerror})", str(folder)) from error
    try:
        if not lock(descriptor):
            raise InputError(f"output={folder}: another run is writing it; choose another name")
        try:
            yield
        finally:
            # And what workers that were killed have left.
            remove_unfinished(folder)
            for hidden in (path, *folder.glob(".part-*.tries")):
                hidden.unlink(missing_ok=True)
            if is_new:
                with contextlib.suppress(OSError):  # there are parts in it
                    folder.rmdir()
    finally:
        os.close(descriptor)


def earlier_shards(folder: Path, run: dict[str, Any], resume: bool) -> dict[int, Progress]:
    """The parts that are there already."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    there = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    if there and not resume:
        raise InputError(f"output={folder}: holds {there[0].name}; choose another folder, or go on with --resume")
    found = {}
    for path in folder.glob("part-*.parquet"):
        try:
            ours = json.loads((pq.read_schema(path).metadata or {})[_KEY])
            number, begun, progress = ours["part"], ours["run"], Progress(**ours["progress"])
        except (pa.ArrowException, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: not written by engine=ray; choose another folder") from error
        for key, value in run.items():
            if begun.get(key) != value:
                raise InputError(
                    f"resume=true: {folder} was begun with {key}={begun.get(key)}, this is {key}={value};"
                    " use what it was begun with, or choose another folder"
                )
        found[number] = progress
    return found


@contextlib.contextmanager
def keeping(folder: Path) -> Iterator[None]:
    """Say what there is to go on with if the block is interrupted or fails."""
    try:
        yield
    except BaseException:
        if parts := len(list(folder.glob("part-*.parquet"))):
            print(f"{parts:,} parts are kept; the same command with --resume goes on", file=sys.stderr)
        raise


def check_whole(folder: Path, found: dict[int, Progress]) -> None:
    """See that all parts are here: a machine that does not share the storage has kept its own to itself."""
    there = set(os.listdir(folder))  # noqa: PTH208 (names are all we need)
    missing = sorted(number for number in found if shard_name(number) not in there)
    if missing:
        raise InputError(
            f"{folder}: {len(missing)} parts were written but are not here, {shard_name(missing[0])} first;"
            " expected a folder that all machines of the cluster share"
        )


def count_try(folder: Path, number: int) -> int:
    """Note in the folder that a worker begins with a part.

    Returns:
        How often one has, this time included.
    """
    tries = _tries(folder, number)
    with tries.open("ab") as file:
        file.write(b".")
    return tries.stat().st_size


def write_shard(folder: Path, number: int, run: dict[str, Any], progress: Progress, rows: "pa.Table") -> None:
    """Write a part's file; it appears when it is whole."""
    import pyarrow.parquet as pq

    about = {"part": number, "run": run, "progress": progress._asdict()}
    with whole_file(folder / shard_name(number)) as temporary:
        pq.write_table(rows.replace_schema_metadata({_KEY: json.dumps(about)}), temporary)
    _tries(folder, number).unlink(missing_ok=True)


def _tries(folder: Path, number: int) -> Path:
    return folder / f".{shard_name(number)}.tries"
