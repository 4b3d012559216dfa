"""From a source to chunks that the network gets together, always cut at the same places."""

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ...errors import InputError
from ..progress import Progress
from ..sources.blocks import InputBlock, Source
from .decode import Decoded, job_of
from .pool import Decoders


@dataclass
class Chunk:
    """Some inputs with their images.

    Attributes:
        names: what their rows are to be called.
        decoded: their images.
        targets: their labels, as far as the source has them.
        names_digest: of all names up to these.
    """

    names: list[str]
    decoded: Decoded
    targets: list[int | None] | None
    names_digest: str = ""


def chunks_of(source: Source, decoders: Decoders, earlier: Progress | None = None) -> Iterator[Chunk]:
    """Go through a source.

    Args:
        source: where the inputs come from.
        decoders: what decodes them.
        earlier: how far an earlier run was; its inputs are left out, after a look at whether they are still the same.

    Raises:
        InputError: what the earlier run did was of other inputs.
    """
    earlier = earlier or Progress()
    pieces = source.pieces(earlier.inputs)
    first, digest = _skip(pieces, source.chunk, earlier)
    jobs = (job_of(piece, decoders.preprocess, decoders.split) for piece in itertools.chain(first, pieces))
    held: list[Chunk] = []
    count = 0
    for job in decoders.map(jobs):
        held.append(Chunk(job.piece.names, job.decoded(), job.piece.targets))
        count += len(job.piece.names)
        if count == source.chunk:  # no piece crosses the end of a chunk
            yield (chunk := _joined(held, digest))
            digest, held, count = chunk.names_digest, [], 0
    if held:
        yield _joined(held, digest)


def _skip(pieces: Iterator[InputBlock], size: int, earlier: Progress) -> tuple[list[InputBlock], str]:
    """Go past what an earlier run has done; return the first piece after it, if any, and the digest of the names."""
    names: list[str] = []
    first: list[InputBlock] = []
    digest, count = "", 0
    for piece in pieces:
        if piece.contents is not None:
            first.append(piece)
            break
        names += piece.names
        count += len(piece.names)
        if len(names) == size:
            digest, names = names_digest(names, digest), []
    digest = names_digest(names, digest) if names else digest
    if (count, digest) != (earlier.inputs, earlier.names):
        raise InputError(
            f"resume=true: the first {earlier.inputs:,} inputs are not those of the earlier run;"
            " leave out resume=true to begin anew"
        )
    return first, digest


def _joined(parts: list[Chunk], before: str) -> Chunk:
    names = [name for part in parts for name in part.names]
    if len(parts) == 1:
        decoded = parts[0].decoded
    else:
        decoded = Decoded(
            np.concatenate([part.decoded.images for part in parts]),
            [count for part in parts for count in part.decoded.counts],
            np.concatenate([part.decoded.boxes for part in parts]),
            [error for part in parts for error in part.decoded.errors],
        )
    targets = [target for part in parts for target in part.targets or []] or None
    return Chunk(names, decoded, targets, names_digest(names, before))


def names_digest(names: list[str], before: str) -> str:
    """The digest of all names up to these, given that of those before."""
    return hashlib.sha256("\0".join([before, *names]).encode()).hexdigest()
