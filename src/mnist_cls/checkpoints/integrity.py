"""Digests inside checkpoints: a file of weights that was damaged anywhere is noticed before it is used.

A digest tells damage, not intent: whoever writes a file on purpose computes its digest as well.

Source of the formats: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT (4.3.16, the zip archive's comment)
and https://github.com/huggingface/safetensors#format (the header's `__metadata__`).
"""

import hashlib
import re
import struct
from pathlib import Path

from ..errors import InputError, shortened

_COMMENT = b"sha256="


_HEX = 64


_COMMENT_LENGTH = len(_COMMENT) + _HEX


# What a zip archive ends with, up to its comment: a signature, 16 bytes of sizes, the comment's length.
_END = struct.Struct("<4s16sH")


# As safetensors writes the entry. Inside other values its quotes would have backslashes, so that it is found once.
_ENTRY = re.compile(rb'"sha256":"([0-9a-f]{%d})"' % _HEX)


# What stands in the entry's place while the file's digest is taken.
UNSEALED = "0" * _HEX


def seal_zip(archive: bytes) -> bytes:
    """A zip archive that has no comment, with its digest as the comment: SHA-256 of all bytes before the comment."""
    body = archive[:-2] + struct.pack("<H", _COMMENT_LENGTH)
    return body + _COMMENT + hashlib.sha256(body).hexdigest().encode()


def check_zip(content: bytes, path: Path) -> None:
    """Check a zip archive against the digest in its comment.

    Args:
        content: the file's bytes.
        path: for the message.

    Raises:
        InputError: it has none, or the bytes are not those that were written.
    """
    body, comment = content[:-_COMMENT_LENGTH], content[-_COMMENT_LENGTH:]
    end = body[-_END.size :]
    if (
        not comment.startswith(_COMMENT)
        or len(end) < _END.size
        or _END.unpack(end)[::2] != (b"PK\5\6", _COMMENT_LENGTH)
    ):
        raise InputError(
            f"{path}: not a whole checkpoint: it does not end in its digest; it is cut off or damaged, or was not"
            " written by this version of mnist_cls.train: copy it again, or train again"
        )
    _compare(hashlib.sha256(body).hexdigest(), comment[len(_COMMENT) :], path)


def seal_safetensors(content: bytes) -> bytes:
    """A `.safetensors` file whose metadata have `UNSEALED` as `sha256`, with its digest in that place."""
    found = _entry(content)
    if found is None:
        raise ValueError("no sha256 to be filled in")
    return content[: found.start(1)] + _without(content, found).encode() + content[found.end(1) :]


def check_safetensors(content: bytes, path: Path) -> None:
    """Check a `.safetensors` file against the digest in its metadata.

    Args:
        content: the file's bytes.
        path: for the message.

    Raises:
        InputError: it has none, or the bytes are not those that were written.
    """
    found = _entry(content)
    if found is None:
        raise InputError(
            f"{path}: its metadata hold no digest (sha256); it is damaged, or was not written by this version of"
            " mnist_cls.train or mnist_cls.export: copy it again, or write it again"
        )
    _compare(_without(content, found), found[1], path)


def _entry(content: bytes) -> re.Match[bytes] | None:
    if len(content) < 8:
        return None
    return _ENTRY.search(content, 8, 8 + min(struct.unpack("<Q", content[:8])[0], len(content)))


def _without(content: bytes, found: re.Match[bytes]) -> str:
    digest = hashlib.sha256(content[: found.start(1)])
    digest.update(UNSEALED.encode())
    digest.update(memoryview(content)[found.end(1) :])
    return digest.hexdigest()


def _compare(found: str, stated: bytes, path: Path) -> None:
    if found.encode() != stated:
        raise InputError(
            f"{path}: is damaged: its SHA-256 is {found}, expected {shortened(stated.decode('latin-1'))}; copy it again"
        )
