"""A file that appears under its name when it is complete; until then, an interrupted run can be resumed."""

import contextlib
import json
import os
import sys
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

# Seconds between two entries in the journal. Each waits for the disk; at this interval the cost is negligible.
INTERVAL = 2.0


class PartialFile:
    """A sink: rows go to a hidden file beside the output, which is renamed to the output at the end.

    A journal beside it says how many inputs and bytes of that file are safely on disk, and which run wrote them. To
    resume, the file is cut to that length.
    """

    def __init__(self, output: Path, format: Format, resume: bool) -> None:
        self.output, self.format, self.may_resume = output, format, resume
        self.rows_file = output.with_name(f".{output.name}.partial")
        self.journal = output.with_name(f".{output.name}.journal")
        self.descriptor = open_locked(self.rows_file, output)
        self.run: dict[str, Any] = {}
        self.progress = Progress()
        self.size = 0
        self.started = False

    def resume(self, run: dict[str, Any]) -> Progress:
        """Return how far an interrupted run came, see `Sink`. Nothing is changed on the disk yet.

        Raises:
            InputError: If `run` differs from the interrupted run's, or the journal cannot be read.
        """
        self.run = run
        if not self.may_resume or not self.journal.exists():
            return self.progress
        try:
            entry = json.loads(self.journal.read_bytes())
            earlier, size, progress = dict(entry["run"]), int(entry["bytes"]), Progress(**entry["progress"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self.journal}: not a journal of this version; leave out resume=true") from error
        check_same_run(self.output, earlier, run, "leave out resume=true to start from the beginning")
        if os.fstat(self.descriptor).st_size >= size:  # else the old file has become the output, or was removed
            self.size, self.progress = size, progress
        return self.progress

    def write(self, rows: Rows, progress: Progress) -> None:
        """Append rows, and every `INTERVAL` seconds an entry to the journal."""
        self._start()
        self._append(self.format.encode(rows, progress.inputs - len(rows.errors)))
        self.progress = progress
        if time.monotonic() - self.last_entry >= INTERVAL:
            self._write_journal()

    def _start(self) -> None:
        if self.started:
            return
        self.started, self.last_entry = True, time.monotonic()
        if not self.size:  # the work of an interrupted run is kept until there are rows to replace it
            if self.journal.exists() and not self.may_resume:
                print("replacing the rows of an interrupted run; resume=true would have continued it", file=sys.stderr)
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

    def _write_journal(self) -> None:
        os.fsync(self.descriptor)  # first, so that the journal never promises rows that a power failure loses
        entry = {"run": self.run, "bytes": self.size, "progress": self.progress._asdict()}
        with whole_file(self.journal) as temporary:
            temporary.write_text(json.dumps(entry), encoding="utf-8")
        self.last_entry = time.monotonic()

    def finish(self) -> None:
        """Turn the file of rows into the output, and remove the journal."""
        self._start()
        if self.journal.exists():
            self._write_journal()  # if the disk has no space for the last step, nothing has to be computed again
        # The file is not opened a second time: closing any of its descriptors would release the lock.
        if self.format.convert is not None:
            with whole_file(self.output) as temporary, os.fdopen(self.descriptor, "rb", closefd=False) as written:
                self.format.convert(written, temporary)
            self.rows_file.unlink()
        else:
            if self.format.final_header is not None:
                os.lseek(self.descriptor, 0, os.SEEK_SET)
                os.write(self.descriptor, self.format.final_header(self.size))
            os.fsync(self.descriptor)
            self.rows_file.replace(self.output)
            sync_folder(self.output.parent)
        self.journal.unlink(missing_ok=True)

    def stop(self) -> None:
        """Keep the rows for a run that resumes this one, if there is a journal; else remove them."""
        if not self.journal.exists():
            self.rows_file.unlink(missing_ok=True)
            return
        if self.started:
            with contextlib.suppress(OSError):
                self._write_journal()
            announce_kept(f"the rows of {self.progress.inputs:,} inputs")


@contextlib.contextmanager
def open_partial_file(output: Path, format: Format, resume: bool) -> Iterator[PartialFile]:
    """Open a file for rows; it appears when the block has ended without an error.

    With `resume`, an interrupted run is continued if there is one; without, the first rows replace its work. For errors
    see `open_locked`.
    """
    partial = PartialFile(output, format, resume)
    try:
        for path in (partial.journal, output):
            remove_unfinished(path.parent, path.name)
        yield partial
        partial.finish()
    except BaseException:
        partial.stop()
        raise
    finally:
        os.close(partial.descriptor)
