"""The folders of training runs: which one to resume, and a lock that keeps a second process out."""

import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..cli.entry_point import recorded_settings
from ..cli.run_folder import named_or_new_folder
from ..cli.settings import TrainSettings
from ..cli.torchrun import is_first
from ..errors import InputError
from ..files import lock, remove_unfinished

# Values of `checkpoint=` that resume an interrupted run: with "auto", a new run starts if there is none.
RESUME = ("last", "auto")

LAST = Path("checkpoints", "last.ckpt")

# Settings that may differ in a resumed run. They leave the result unchanged, apart from rounding on other hardware.
_MAY_DIFFER = {
    *("checkpoint", "output_dir", "save_every_seconds", "save_every_steps"),
    *("trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy"),
    *("trainer.enable_progress_bar", "trainer.enable_model_summary", "trainer.profiler"),
}


def finished(folder: Path) -> bool:
    """Return whether the training in a folder is finished: its metrics are written last."""
    return (folder / "metrics.json").is_file()


def choose_folder(settings: TrainSettings, named: bool) -> Path | None:
    """Choose the folder of a run: an earlier run's if that is to be resumed, else the named or a new one.

    Args:
        settings: the settings of the run.
        named: whether the user has set `output_dir`.

    Returns:
        The folder; None if the training in the named folder is finished, so that there is nothing to resume.

    Raises:
        InputError: If another process is training in the folder, or the run cannot be resumed, see `folder_to_resume`.
    """
    wanted = Path(settings.output_dir)
    if named and settings.checkpoint in RESUME and finished(wanted):
        if is_first():
            print(f"nothing to do: the training in {wanted} is finished")
        return None
    if not is_first():
        return wanted
    if named and in_use(wanted):
        raise InputError(f"output_dir={wanted}: another process is training there; name another folder")
    earlier = folder_to_resume(settings, named) if settings.checkpoint in RESUME else None
    return earlier or named_or_new_folder(settings, named)


def folder_to_resume(settings: TrainSettings, named: bool) -> Path | None:
    """Find the folder that `checkpoint=last` or `checkpoint=auto` resumes.

    That is the named folder. If none is named, it is the newest unfinished one beside `output_dir`: with "last", its
    settings must be the same; with "auto", folders in use or with other settings are skipped.

    Args:
        settings: the settings of the run.
        named: whether the user has set `output_dir`.

    Returns:
        The folder; None if a new training should start.

    Raises:
        InputError: If `checkpoint` is "last" and there is no unfinished run, or if the folder is in use or its run has
            other settings.
    """
    wanted = Path(settings.output_dir)
    candidates = [wanted] if named else [path.parents[1] for path in wanted.parent.glob(f"*/{LAST}")]
    unfinished = [folder for folder in candidates if (folder / LAST).is_file() and not finished(folder)]
    for folder in sorted(unfinished, key=lambda folder: (folder / LAST).stat().st_mtime_ns, reverse=True):
        problem = _obstacle(folder, settings)
        if problem is None:
            return folder
        if named or settings.checkpoint == "last":
            raise InputError(
                f"checkpoint={settings.checkpoint}: cannot resume {folder}: {problem};"
                " repeat the command that started it, or name another output_dir="
            )
    if settings.checkpoint == "last":
        where = wanted if named else wanted.parent
        raise InputError(
            f"checkpoint=last: no interrupted training in {where}; checkpoint=auto starts a new one where there is none"
        )
    return None


def _obstacle(folder: Path, settings: TrainSettings) -> str | None:
    """Return why a run cannot be resumed with these settings; None if it can."""
    if in_use(folder):
        return "another process is training there"
    recorded = recorded_settings(folder, "train")
    if recorded is None:
        return "its settings cannot be read"
    ours, theirs = _flat(dataclasses.asdict(settings)), _flat(dataclasses.asdict(recorded))
    for key in ours | theirs:
        may_differ = key in _MAY_DIFFER or key.partition(".")[0] == "logger"
        if not may_differ and ours.get(key) != theirs.get(key):
            return f"it was started with {key}={theirs.get(key)}, not {key}={ours.get(key)}"
    return None


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        nested = _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {}
        flat |= nested or {f"{prefix}{key}": value}
    return flat


def in_use(folder: Path) -> bool:
    """Return whether a process is training in a folder."""
    try:
        with run_lock(folder):
            return False
    except InputError:
        return True


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Lock a run's folder until the block or the process ends, and remove a killed process's unfinished files.

    Raises:
        InputError: If another process holds the lock.
    """
    # The command writes this file before training starts. Unlike a separate lock file, it is no litter after a kill.
    path = folder / ".hydra" / "config.yaml"
    if not is_first() or not path.is_file():  # there is no such file if `train` is called from Python
        yield
        return
    descriptor = os.open(path, os.O_RDWR)
    try:
        if not lock(descriptor):
            raise InputError(f"{folder}: another process is training there; name another output_dir=")
        for part in (folder, folder / LAST.parent):
            remove_unfinished(part)
        yield
    finally:
        os.close(descriptor)
