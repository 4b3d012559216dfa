"""The folders of trainings: which one is to be gone on with, and that only one process at a time writes there."""

import dataclasses
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..cli.settings import TrainSettings
from ..cli.torchrun import is_first
from ..errors import InputError
from ..files import lock, remove_unfinished

# `checkpoint=` of a training that goes on with an earlier one: it must be there, or it may.
GO_ON = ("last", "auto")


LAST = Path("checkpoints", "last.ckpt")


# With other values of these a training ends the same, or as much the same as its machines permit.
_FREE = {
    *("checkpoint", "output_dir", "tensorboard", "save_every_seconds", "save_every_steps"),
    *("trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy"),
    *("trainer.enable_progress_bar", "trainer.profiler"),
}


def unfinished(folder: Path) -> bool:
    """Whether a training was interrupted there that can be gone on with."""
    return (folder / LAST).is_file() and not finished(folder)


def finished(folder: Path) -> bool:
    """Whether a training has come to its end there: its figures are written last."""
    return (folder / "metrics.json").is_file()


def folder_to_go_on_in(
    settings: TrainSettings, named: bool, read: Callable[[Path], TrainSettings | None]
) -> Path | None:
    """The run's folder that `checkpoint=last` or `auto` means: the newest unfinished one with the same settings.

    Args:
        settings: of the training that is to go on, with `output_dir`.
        named: whether the user has named `output_dir`; then it is that, or none.
        read: the settings that a run's folder was made with; None where they cannot be read.

    Returns:
        None if a new training is to begin.

    Raises:
        InputError: there is none, and `checkpoint` is "last"; or the one that is meant is being written, or has other
            settings.
    """
    wanted = Path(settings.output_dir)
    candidates = [wanted] if named else [path.parents[1] for path in wanted.parent.glob(f"*/{LAST}")]
    candidates = sorted(filter(unfinished, candidates), key=lambda folder: (folder / LAST).stat().st_mtime_ns)
    strict = named or settings.checkpoint == "last"
    for folder in reversed(candidates):
        if in_use(folder):
            problem = "another process is training there"
        else:
            found = read(folder)
            different = ["its settings cannot be read"] if found is None else list(_differences(found, settings))
            if not different:
                return folder
            problem = f"it was begun with {different[0]}" if found is not None else different[0]
        if strict:
            raise InputError(
                f"checkpoint={settings.checkpoint}: {folder} cannot be gone on with: {problem};"
                " repeat the command that it was begun with, or name another output_dir="
            )
    if settings.checkpoint == "last":
        where = wanted if named else wanted.parent
        raise InputError(
            f"checkpoint=last: no interrupted training in {where}; checkpoint=auto begins a new one where there is none"
        )
    return None


def in_use(folder: Path) -> bool:
    """Whether a process is training in a folder."""
    try:
        with run_lock(folder):
            return False
    except InputError:
        return True


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Keep a run's folder for this process alone, until the block ends or the process is gone.

    Raises:
        InputError: another process has it.
    """
    # Hydra has written this file before the training begins. A lock on it leaves nothing behind.
    path = folder / ".hydra" / "config.yaml"
    if not is_first() or not path.is_file():  # the latter: called from Python
        yield
        return
    descriptor = os.open(path, os.O_RDWR)
    try:
        if not lock(descriptor):
            raise InputError(f"{folder}: another process is training there; name another output_dir=")
        for place in (folder, folder / LAST.parent):
            remove_unfinished(place)
        yield
    finally:
        os.close(descriptor)


def _differences(found: TrainSettings, wanted: TrainSettings) -> Iterator[str]:
    ours, theirs = _flat(dataclasses.asdict(wanted)), _flat(dataclasses.asdict(found))
    for key in ours | theirs:
        if key not in _FREE and ours.get(key) != theirs.get(key):
            yield f"{key}={theirs.get(key)}, this is {key}={ours.get(key)}"


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        inside = _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {}
        flat |= inside or {f"{prefix}{key}": value}
    return flat
