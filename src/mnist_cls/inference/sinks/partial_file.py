"""A file that appears under its name when it is complete; until then, an interrupted run can be resumed."""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...files import remove_unfinished, sync_folder, whole_file
from ..progress import Progress
from ..rows import Rows
from .formats import Format
from .resume import announce_kept, check_same_run, open_locked

# Seconds between two entries of the journal. Each waits for the disk; this rarely, they cost nothing.
INTERVAL = 2.0


class PartialFile:
    """A sink: rows go to a hidden file beside the output, which is renamed to the output at the end.

    A journal beside it says how many inputs and bytes are certainly in that file, and which run wrote them. To resume,
    the file is cut to that length.
    """

    def __init__(self, output: Path, format: Format, resume: bool, rows_file: Path, descriptor: int) -> None:
        self.output, self.format, self.wanted = output, format, resume
        self.rows_file, self.descriptor = rows_file, descriptor
        self.journal = _journal(output)
        self.run: dict[str, Any] = {}
        self.progress = Progress()
        self.size = 0
        self.started = False

    def resume(self, run: dict[str, Any]) -> Progress:
        """Return how far an interrupted run came, if it is to be resumed. Nothing is changed on the disk yet.

        Args:
            run: what identifies this run; that of the interrupted one must be equal.

        Raises:
            InputError: If it is not, or the journal cannot be read.
        """
        self.run = run
        if not self.wanted or not self.journal.exists():
            return self.progress
        try:
            entry = json.loads(self.journal.read_bytes())
            earlier, size, progress = dict(entry["run"]), int(entry["bytes"]), Progress(**entry["progress"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self.journal}: not a journal of this version; leave out resume=true") from error
        check_same_run(self.output, earlier, run, "leave out resume=true to start from the beginning")
        if os.fstat(self.descriptor).st_size >= size:  # else it has become the output, or somebody removed it
            self.size, self.progress = size, progress
        return self.progress

    def write(self, rows: Rows, progress: Progress) -> None:
        """Append rows, and every `INTERVAL` seconds an entry to the journal.

        Raises:
            OSError: If the disk is full, or gone.
        """
        self._start()
        self._append(self.format.encode(rows))
        self.progress = progress
        if time.monotonic() - self.noted >= INTERVAL:
            self._note()

    def _start(self) -> None:
        if self.started:
            return
        self.started, self.noted = True, time.monotonic()
        if not self.size:  # the work of an interrupted run is kept until there are rows to replace it
            self.journal.unlink(missing_ok=True)
        os.ftruncate(self.descriptor, self.size)
        os.lseek(self.descriptor, self.size, os.SEEK_SET)
        if not self.size:
            self._append(self.format.header)

    def _append(self, content: bytes) -> None:
        left = memoryview(content)
        while left:
            left = left[os.write(self.descriptor, left) :]
        self.size += len(content)

    def _note(self) -> None:
        os.fsync(self.descriptor)  # the journal must not promise what a power failure would lose
        entry = {"run": self.run, "bytes": self.size, "progress": self.progress._asdict()}
        with whole_file(self.journal) as temporary:
            temporary.write_text(json.dumps(entry), encoding="utf-8")
        self.noted = time.monotonic()

    def finish(self) -> None:
        """Make the output of the rows, and remove the journal."""
        self._start()
        if self.journal.exists():
            self._note()  # if the disk has no space for the last step, nothing has to be computed again
        if self.format.convert is not None:
            with whole_file(self.output) as temporary:
                self.format.convert(self.rows_file, temporary)
            self.rows_file.unlink()
        else:
            if self.format.complete_header is not None:
                self.format.complete_header(self.rows_file)
            os.fsync(self.descriptor)
            self.rows_file.replace(self.output)
            sync_folder(self.output.parent)
        self.journal.unlink(missing_ok=True)

    def stop(self) -> None:
        """Keep the rows for a run that resumes, if the journal has an entry; else remove them."""
        if not self.journal.exists():
            self.rows_file.unlink(missing_ok=True)
            return
        if self.started:
            with contextlib.suppress(OSError):
                self._note()
            announce_kept(f"the rows of {self.progress.inputs:,} inputs")


@contextlib.contextmanager
def open_partial_file(output: Path, format: Format, resume: bool) -> Iterator[PartialFile]:
    """Open a file for rows; it appears when the block has ended without an error.

    Args:
        output: the file.
        format: its format.
        resume: continue an interrupted run, if there is one; else the first rows replace its work.

    Raises:
        InputError: If another run is writing it.
        OSError: If it cannot be written.
    """
    rows_file = output.with_name(f".{output.name}.partial")
    descriptor = open_locked(rows_file, output)
    try:
        for path in (_journal(output), output):
            remove_unfinished(path.parent, path.name)
        partial = PartialFile(output, format, resume, rows_file, descriptor)
        try:
            yield partial
            partial.finish()
        except BaseException:
            partial.stop()
            raise
    finally:
        os.close(descriptor)


def _journal(output: Path) -> Path:
    return output.with_name(f".{output.name}.journal")
