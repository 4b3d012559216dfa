"""Images in archives, read one by one without unpacking anything onto the disk."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from ...errors import InputError
from .blocks import (
    LARGEST_FILE,
    Content,
    InputBlock,
    Sample,
    Source,
    file_identity,
    pieces_of,
    reader_errors,
    shown_name,
    too_large,
)

# At the end of every archive there is a header of zeros; these are another thing.
_BROKEN: tuple[type[tarfile.HeaderError], ...] = (
    tarfile.InvalidHeaderError,  # type: ignore[attr-defined]
    tarfile.TruncatedHeaderError,  # type: ignore[attr-defined]
    tarfile.EmptyHeaderError,  # type: ignore[attr-defined]
)


_ReadError = tarfile.ReadError


def zip_source(path: Path) -> Source:
    """The files in a zip archive, in its own order. Its table of contents is held in memory, its contents are not.

    Raises:
        InputError: it is broken, or has no files.
    """
    with reader_errors(path, "zip"), zipfile.ZipFile(path) as archive:
        count = sum(1 for member in archive.infolist() if _wanted(member.filename, member.is_dir()))
    if count == 0:
        raise InputError(f"input={path}: the archive has no files in it; expected images")

    def pieces(start: int) -> Iterator[InputBlock]:
        with zipfile.ZipFile(path) as archive:
            members = (one for one in archive.infolist() if _wanted(one.filename, one.is_dir()))
            yield from pieces_of((_zip_item(archive, path, member) for member in members), start)

    return Source(count, pieces, identity=file_identity(path))


def _zip_item(archive: zipfile.ZipFile, path: Path, member: zipfile.ZipInfo) -> Sample:
    def read() -> Content:
        if member.file_size > LARGEST_FILE:
            return too_large(member.file_size)
        try:
            with archive.open(member) as file:
                return file.read(LARGEST_FILE)
        # zipfile raises RuntimeError for encryption and NotImplementedError for methods that it does not know.
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError, ValueError) as error:
            return InputError(f"cannot be read from the archive: {error}")

    return Sample(shown_name(f"{path}/{member.filename}"), read)


def tar_source(path: Path) -> Source:
    """The files in a tar archive, plain or compressed, in its own order. How many there are only its end tells.

    Raises:
        InputError: it is broken.
    """

    def items() -> Iterator[Sample]:
        with ExitStack() as stack:
            # Not tarfile's own mode for streams: it reads headers of any size that they declare.
            file = cast(BinaryIO, _Bounded(stack.enter_context(_decompressed(path, stack))))
            archive = stack.enter_context(tarfile.open(fileobj=file, mode="r:", tarinfo=_Member))
            while (member := archive.next()) is not None:
                if _wanted(member.name, member.isdir()):
                    yield _tar_item(archive, path, member)
                # tarfile keeps them all, for those who look them up by name.
                archive.members = []  # type: ignore[attr-defined]

    def pieces(start: int) -> Iterator[InputBlock]:
        with reader_errors(path, "tar"):
            yield from pieces_of(items(), start)

    return Source(None, pieces, identity=file_identity(path))


def _tar_item(archive: tarfile.TarFile, path: Path, member: tarfile.TarInfo) -> Sample:
    def read() -> Content:
        if not member.isfile():
            return InputError("a link or a device in an archive; not followed")
        if member.size > LARGEST_FILE:
            return too_large(member.size)
        file = archive.extractfile(member)
        return file.read() if file is not None else InputError("not a file")

    return Sample(shown_name(f"{path}/{member.name}"), read)


def _decompressed(path: Path, stack: ExitStack) -> io.BufferedIOBase:
    raw = stack.enter_context(path.open("rb"))
    start = raw.read(6)
    raw.seek(0)
    if start[:2] == b"\x1f\x8b":
        return gzip.GzipFile(fileobj=raw)
    if start[:3] == b"BZh":
        return bz2.BZ2File(raw)
    if start == b"\xfd7zXZ\0":
        return lzma.LZMAFile(raw)
    return raw


class _Member(tarfile.TarInfo):
    """A member whose broken header is an error. tarfile takes it for the archive's end, and what follows were lost."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> "_Member":
        try:
            return super().fromtarfile(tarfile)
        except _BROKEN as error:
            raise _ReadError(f"{error} at byte {tarfile.offset:,}") from error


class _Bounded:
    """A file that refuses to hand out at once what no header and no image has."""

    def __init__(self, file: io.BufferedIOBase) -> None:
        self.file = file

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= LARGEST_FILE:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self.file.read(size)

    def seek(self, place: int) -> int:
        return self.file.seek(place)

    def tell(self) -> int:
        return self.file.tell()


def _wanted(name: str, is_folder: bool) -> bool:
    # What macOS puts into archives besides is hidden, too, but for one folder.
    parts = PurePosixPath(name).parts
    return not is_folder and not any(part == "__MACOSX" or (part[0] == "." and part != "..") for part in parts)
