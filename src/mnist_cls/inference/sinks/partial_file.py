"""A file that appears when it is whole, and until then can be taken up again where an earlier run has stopped."""

import contextlib
import json
import os
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from ...errors import InputError
from ...files import lock, remove_unfinished, sync_folder, whole_file
from ..progress import Progress
from ..rows import Rows
from .formats import Format

# Seconds between two entries of the journal. Each waits for the disk; this seldom that costs nothing.
INTERVAL = 2.0


class PartialFile:
    """A sink, as a context: rows go to a hidden file beside the output, which takes its place at the end.

    Beside it lies a journal: how many inputs and bytes are surely in the file, and what run it is of. Whoever
    finds both may cut the file off there and go on. If the block ends with an error, they stay, once there is an entry
    in the journal; otherwise nothing stays. The lock on the file is gone when its process is.

    Args:
        output: the file.
        form: its format.
        wanted: go on with an earlier run's work, if there is any; else it is replaced with the first rows.

    Raises:
        InputError: another run is writing it.
        OSError: it cannot be written.
    """

    def __init__(self, output: Path, form: Format, wanted: bool) -> None:
        self.output, self.form, self.wanted = output, form, wanted
        self.rows_file = output.with_name(f".{output.name}.partial")
        self.journal = output.with_name(f".{output.name}.journal")
        self.run: dict[str, Any] = {}
        self.progress = Progress()
        self.size = 0
        self.begun = False

    def __enter__(self) -> "PartialFile":
        try:
            self.output.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
            self.descriptor = os.open(self.rows_file, flags, 0o666)
        except OSError as error:
            raise type(error)(error.errno, f"cannot be written ({error.strerror})", str(self.output)) from error
        if not lock(self.descriptor):
            os.close(self.descriptor)
            raise InputError(f"output={self.output}: another run is writing it; choose another name")
        for path in (self.journal, self.output):
            remove_unfinished(path.parent, path.name)
        return self

    def resume(self, run: dict[str, Any]) -> Progress:
        """Take up what an earlier run has left, if that is wanted and it is there; nothing is changed on the disk yet.

        Args:
            run: what makes the result what it is; of an earlier run it must have been the same.

        Raises:
            InputError: it was another; or the journal cannot be read.
        """
        self.run = json.loads(json.dumps(run))
        if not self.wanted or not self.journal.exists():
            return self.progress
        try:
            found = json.loads(self.journal.read_bytes())
            earlier, size, progress = found["run"], int(found["bytes"]), Progress(**found["progress"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self.journal}: not a journal; without resume=true the work begins anew") from error
        for key, value in self.run.items():
            if earlier.get(key) != value:
                raise InputError(
                    f"resume=true: {self.output} was begun with {key}={earlier.get(key)}, this is {key}={value};"
                    " use what it was begun with, or leave out resume=true to begin anew"
                )
        if os.fstat(self.descriptor).st_size >= size:  # else it took its place already, or somebody removed it
            self.size, self.progress = size, progress
        return self.progress

    def write(self, rows: Rows, progress: Progress) -> None:
        """Add rows, and now and then an entry to the journal.

        Raises:
            OSError: the disk is full, or gone.
        """
        self._begin()
        self._append(self.form.encode(rows))
        self.progress = progress
        if time.monotonic() - self.noted >= INTERVAL:
            self._note()

    def _begin(self) -> None:
        if self.begun:
            return
        self.begun, self.noted = True, time.monotonic()
        if not self.size:  # an earlier run's work is given up, now that there is some of ours
            self.journal.unlink(missing_ok=True)
        os.ftruncate(self.descriptor, self.size)
        os.lseek(self.descriptor, self.size, os.SEEK_SET)
        if not self.size:
            self._append(self.form.begin)

    def _append(self, content: bytes) -> None:
        left = memoryview(content)
        while left:
            left = left[os.write(self.descriptor, left) :]
        self.size += len(content)

    def _note(self) -> None:
        os.fsync(self.descriptor)  # what the journal says is on the disk must be there, even if the power fails
        entry = {"run": self.run, "bytes": self.size, "progress": self.progress._asdict()}
        with whole_file(self.journal) as temporary:
            temporary.write_text(json.dumps(entry), encoding="utf-8")
        self.noted = time.monotonic()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._finish()
            else:
                self._stop()
        except BaseException:
            self._stop()
            raise
        finally:
            os.close(self.descriptor)

    def _finish(self) -> None:
        self._begin()
        if self.journal.exists():
            self._note()  # should there be no space for the last step, nothing has to be computed again
        if self.form.convert is not None:
            with whole_file(self.output) as temporary:
                self.form.convert(self.rows_file, temporary)
            self.rows_file.unlink()
        else:
            if self.form.seal is not None:
                self.form.seal(self.rows_file)
            os.fsync(self.descriptor)
            self.rows_file.replace(self.output)
            sync_folder(self.output.parent)
        self.journal.unlink(missing_ok=True)

    def _stop(self) -> None:
        if not self.journal.exists():
            self.rows_file.unlink(missing_ok=True)
            return
        if self.begun:
            with contextlib.suppress(OSError):
                self._note()
            done = f"the rows of {self.progress.inputs:,} inputs are kept"
            print(f"{done}; the same command with resume=true (--resume) goes on", file=sys.stderr)
