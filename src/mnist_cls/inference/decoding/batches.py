"""From a source to batches for the network. A resumed run has the same batches as an uninterrupted one."""

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ...errors import InputError
from ..progress import Progress
from ..sources.blocks import InputBlock, Source, cut
from .decode import Decoded, concatenate
from .pool import Decoders


@dataclass
class Batch:
    """Consecutive inputs with their images.

    Attributes:
        names: N printable names.
        decoded: their images.
        targets: N labels 0 to 9, None where unknown; empty if the source has no labels.
        names_digest: digest of the names of all inputs up to here.
    """

    names: list[str]
    decoded: Decoded
    targets: list[int | None]
    names_digest: str


def batches_of(
    source: Source, decoders: Decoders, earlier: Progress = Progress(), size: int | None = None
) -> Iterator[Batch]:
    """Decode a source in batches of `size` inputs, by default `source.batch_size`, after those of an `earlier` run.

    Raises:
        InputError: If the first inputs are not those of the earlier run, or the source cannot be read.
    """
    digest, size = NamesDigest(), size or source.batch_size
    blocks: Iterable[InputBlock] = source.blocks(earlier.inputs)
    if earlier.inputs:
        blocks = _skip(iter(blocks), earlier, digest)
    parts: list[tuple[InputBlock, Decoded]] = []
    for part in decoders.map(cut(blocks, size)):
        parts.append(part)
        if sum(len(block) for block, _ in parts) == size:
            yield _join(parts, digest)
            parts = []
    if parts:
        yield _join(parts, digest)


class NamesDigest:
    """Digest of consecutive names."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, names: Iterable[str]) -> str:
        """Add names; return the digest of all names so far."""
        self._hash.update("\0".join([*names, ""]).encode())
        return self._hash.hexdigest()


def _skip(blocks: Iterator[InputBlock], earlier: Progress, digest: NamesDigest) -> Iterable[InputBlock]:
    """Return the blocks after what the earlier run has done, and add the skipped names to the digest."""
    left, rest, found = earlier.inputs, list[InputBlock](), ""
    for block in blocks:
        found = digest.add(block.names[:left])
        if len(block) > left:
            rest = [block.part(left)]
        left -= min(left, len(block))
        if left == 0:
            break
    if left or found != earlier.names:
        raise InputError(
            f"resume=true: the first {earlier.inputs:,} inputs are not those of the earlier run;"
            " leave out resume=true to start from the beginning"
        )
    return itertools.chain(rest, blocks)


def _join(parts: list[tuple[InputBlock, Decoded]], digest: NamesDigest) -> Batch:
    names = [name for block, _ in parts for name in block.names]
    targets = [target for block, _ in parts for target in block.targets]
    return Batch(names, concatenate([decoded for _, decoded in parts]), targets, digest.add(names))
