"""Processes started by torchrun: their number, the rank of this one, and decisions shared by those on one host."""

import os
import time
from collections.abc import Callable
from pathlib import Path

from ..files import whole_file

_POLL_SECONDS = 0.05


def launched() -> bool:
    """Return whether torchrun has started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def world_size() -> int:
    """Return the number of processes on all hosts; 1 without torchrun."""
    return int(os.environ["WORLD_SIZE"]) if launched() else 1


def hosts() -> int:
    """Return the number of hosts; 1 without torchrun."""
    return int(os.environ["GROUP_WORLD_SIZE"]) if launched() else 1


def is_first() -> bool:
    """Return whether this process has rank 0 among those that train together, or is the only one."""
    return int(os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or 0) == 0


def run_id() -> str | None:
    """Return the id that torchrun was started with (`--rdzv-id`, or its own with `--standalone`), if any."""
    name = os.environ.get("TORCHELASTIC_RUN_ID")
    return None if name == "none" else name


def attempt_folder() -> Path | None:
    """Return torchrun's temporary folder for the current attempt of the processes on this host.

    torchrun names a file for a worker's error, `<run>/attempt_<N>/<local rank>/error.json`, and creates a new
    `attempt_<N>` at each start; `<run>` stays the same. Returns None without torchrun, or with `--log-dir=/dev/null`.
    """
    error_file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    return Path(error_file).parents[1] if error_file else None


def chosen_by_first(attempt: Path, choose: Callable[[], str]) -> str:
    """Call `choose` once, in the first process, and return its result in every process on this host.

    After a restart, the result stays the same. If `choose` raises, torchrun stops the waiting processes.
    """
    path = attempt.with_name("run_folder")
    while not path.exists():
        if not is_first():
            time.sleep(_POLL_SECONDS)
            continue
        choice = choose()
        with whole_file(path) as temporary:
            temporary.write_text(choice, encoding="utf-8")
    return path.read_text(encoding="utf-8")


def should_report_error() -> bool:
    """Return whether this process should print its error, as the first one on its host that fails in this attempt.

    An error usually occurs in all processes, or makes the others fail because they lose this one.
    """
    attempt = attempt_folder()
    if attempt is None:
        return not launched() or int(os.environ["LOCAL_RANK"]) == 0
    try:
        (attempt / "error_reported").touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:  # the folder is gone, or its disk is full
        return True
    return True
