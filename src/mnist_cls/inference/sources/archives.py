"""Images in archives, read one by one without unpacking anything onto the disk."""

import contextlib
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from ...errors import InputError
from .blocks import Content, Sample, Source, blocks_of, file_source
from .dialect import looks_like_table
from .reading import LARGEST_FILE, decompressed, printable, reader_errors, too_large

# What zipfile raises on a broken member. RuntimeError: it is encrypted, or (NotImplementedError) its compression method
# is unknown.
_BROKEN = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError, ValueError)


def zip_tables(path: Path) -> list[str]:
    """Return the names of the tables in a zip archive; an empty list if it holds anything else."""
    with reader_errors(path, "zip"), zipfile.ZipFile(path) as archive:
        names = [member.filename for member in archive.infolist() if _wanted(member.filename, member.is_dir())]
        if names and all(name.lower().endswith((".csv", ".tsv")) for name in names):
            return names
        if len(names) == 1:  # pandas names it after the archive, without an ending
            with contextlib.suppress(*_BROKEN), archive.open(names[0]) as file:
                return names if looks_like_table(file.read(512)) else []
    return []


def zip_source(path: Path) -> Source:
    """Return the files in a zip archive, in its own order; only its table of contents is held in memory."""

    def samples() -> Iterator[Sample]:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if _wanted(member.filename, member.is_dir()):
                    yield Sample(printable(f"{path}/{member.filename}"), partial(_read_zip, archive, member))

    with reader_errors(path, "zip"):
        count = sum(1 for _ in samples())
    if count == 0:
        raise InputError(f"input={path}: the archive has no files in it; expected images")
    return file_source(path, "zip", blocks_of(samples), count)


def _read_zip(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Content:
    if member.file_size > LARGEST_FILE:
        return too_large(member.file_size)
    try:
        with archive.open(member) as file:
            return file.read(LARGEST_FILE)
    except _BROKEN as error:
        return InputError(f"cannot be read from the archive: {error}")


def tar_source(path: Path) -> Source:
    """Return the files in a tar archive, plain or compressed, in its own order. Their number is unknown."""

    def samples() -> Iterator[Sample]:
        # Not tarfile's own mode for streams, which reads headers of whatever size they declare.
        with path.open("rb") as raw, decompressed(raw) as stream:
            file = _Bounded(stream)
            archive = tarfile.open(fileobj=cast(BinaryIO, file), mode="r:")  # noqa: SIM115 (the stream is closed)
            while (member := archive.next()) is not None:
                if _wanted(member.name, member.isdir()):
                    yield Sample(printable(f"{path}/{member.name}"), partial(_read_tar, archive, member))
                # tarfile keeps all members for look-ups by name, so memory would grow with their number.
                cast(Any, archive).members = []
            # tarfile takes a broken header for the end of the archive, but every archive ends with a block of zeros.
            if file.last != bytes(tarfile.BLOCKSIZE):
                raise InputError(f"a broken header at byte {archive.offset:,}; copy the file again")

    return file_source(path, "tar", blocks_of(samples))


def _read_tar(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Content:
    if not member.isfile():
        return InputError("a link or a device in an archive; not followed")
    if member.size > LARGEST_FILE:
        return too_large(member.size)
    file = archive.extractfile(member)
    return file.read() if file is not None else InputError("not a file")


class _Bounded:
    """A file that refuses to read more at once than any header or image has, and keeps the bytes that it read last."""

    def __init__(self, file: io.BufferedIOBase) -> None:
        self.file, self.last = file, b""

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= LARGEST_FILE:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        self.last = self.file.read(size)
        return self.last

    def seek(self, position: int) -> int:
        return self.file.seek(position)

    def tell(self) -> int:
        return self.file.tell()


def _wanted(name: str, is_folder: bool) -> bool:
    # Hidden files are not wanted. Those that macOS adds to archives are hidden, except for the folder __MACOSX.
    parts = PurePosixPath(name).parts
    return not is_folder and not any(part == "__MACOSX" or (part[0] == "." and part != "..") for part in parts)
