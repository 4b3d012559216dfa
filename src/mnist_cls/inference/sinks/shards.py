"""The output of a distributed prediction: a folder of Parquet files, one for each shard of the input."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ...errors import InputError
from ...files import remove_unfinished, whole_file
from ..decoding.batches import NamesDigest
from ..progress import Progress
from ..sources.blocks import InputBlock, Source, cut
from .resume import announce_kept, check_same_run, open_locked

if TYPE_CHECKING:
    import pyarrow as pa

# Number of inputs in a shard: some seconds of work at most, so that little has to be repeated when a worker dies.
PART_SIZE = 8192

# A shard also ends after this many bytes of encoded images, because all of it is held in memory.
_SHARD_BYTES = 64_000_000

# This file appears when all shards are there. Readers of Parquet folders skip names that begin with an underscore.
COMPLETE = "_SUCCESS"

# The key of a shard's own metadata in its file: its number, the run that wrote it, and its counts.
_KEY = b"mnist_cls"


class Shard(NamedTuple):
    """Inputs whose rows make one file, numbered from 0 in the order of the input. For `arrays` see `Source`."""

    number: int
    blocks: list[InputBlock]
    arrays: bool

    @property
    def names(self) -> str:
        """Digest of the inputs' names."""
        return NamesDigest().add(name for block in self.blocks for name in block.names)


def shards_of(source: Source, size: int) -> Iterator[Shard]:
    """Cut a source into shards of `size` inputs, rounded up to whole batches; the same source gives the same shards."""
    number, count, held = 0, 0, 0
    blocks: list[InputBlock] = []
    for block in cut(source.blocks(0), source.batch_size):
        blocks.append(block)
        count += len(block)
        held += block.size
        if count % source.batch_size == 0 and (count >= size or held >= _SHARD_BYTES):
            yield Shard(number, blocks, source.arrays)
            number, count, held, blocks = number + 1, 0, 0, []
    if blocks:
        yield Shard(number, blocks, source.arrays)


def shard_name(number: int) -> str:
    """Return the name of a shard's file. Sorted by name, shards are in the order of the input."""
    return f"part-{number:08}.parquet"


@contextlib.contextmanager
def open_folder(folder: Path) -> Iterator[None]:
    """Lock the folder of the output; at the end remove all temporary files, and the folder if it is new and empty.

    For errors see `open_locked`.
    """
    is_new = not folder.exists()
    path = folder / ".lock"
    descriptor = open_locked(path, folder)
    try:
        yield
    finally:
        remove_unfinished(folder)  # of workers that were killed
        path.unlink(missing_ok=True)
        if is_new:
            with contextlib.suppress(OSError):  # not empty
                folder.rmdir()
        os.close(descriptor)


@contextlib.contextmanager
def announce_shards(folder: Path) -> Iterator[None]:
    """If the block is interrupted or fails, say how many shards are kept."""
    try:
        yield
    except BaseException:
        if count := len(list(folder.glob("part-*.parquet"))):
            announce_kept(f"{count:,} parts")
        raise


def earlier_shards(folder: Path, run: dict[str, Any], resume: bool) -> dict[int, Progress]:
    """Return the counts of the shards that an interrupted run has written, by number: none without `resume`.

    Raises:
        InputError: If there are files of another `run`, or of anything else.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    if names and not resume:
        raise InputError(f"output={folder}: holds {names[0]}; choose another folder, or continue with --resume")
    shards = {}
    for path in folder.glob("part-*.parquet"):
        try:
            metadata = json.loads((pq.read_schema(path).metadata or {})[_KEY])
            number, earlier, progress = metadata["shard"], dict(metadata["run"]), Progress(**metadata["progress"])
        except (pa.ArrowException, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: not written by engine=ray of this version; choose another folder") from error
        check_same_run(folder, earlier, run, "choose another folder")
        shards[number] = progress
    return shards


def check_complete(folder: Path, shards: dict[int, Progress]) -> None:
    """Check that all shards are in the folder.

    Raises:
        InputError: If one is not: a machine that does not share the storage has written it to its own.
    """
    present = {path.name for path in folder.iterdir()}
    missing = sorted(number for number in shards if shard_name(number) not in present)
    if missing:
        raise InputError(
            f"{folder}: {len(missing)} parts were written but are missing here, the first is {shard_name(missing[0])};"
            " expected a folder that all machines of the cluster share"
        )


def write_shard(folder: Path, number: int, run: dict[str, Any], progress: Progress, rows: "pa.Table") -> None:
    """Write a shard's file; it appears when it is complete."""
    import pyarrow.parquet as pq

    metadata = {"shard": number, "run": run, "progress": progress._asdict()}
    with whole_file(folder / shard_name(number)) as temporary:
        pq.write_table(rows.replace_schema_metadata({_KEY: json.dumps(metadata)}), temporary)
