"""The folder of a run, and the record of the config in it."""

import contextlib
import itertools
import os
import shutil
from collections.abc import Callable, Iterator, Set
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, read_write

from ..errors import InputError
from ..files import expand
from .torchrun import attempt_folder, chosen_by_first, hosts, is_first, run_id, world_size

# Called with settings that have an `output_dir`, and whether the user has set it. Returns None if there is nothing to
# do, or the run makes no folder.
ChooseFolder = Callable[[Any, bool], Path | None]


def named_or_new_folder(settings: Any, named: bool) -> Path | None:
    """Make the run's folder at `output_dir`, and return it.

    A folder that the user has named may exist. Otherwise it is new, with a number after its name if necessary.

    Raises:
        InputError: If its path cannot be encoded, as TensorBoard and Arrow require, or the folder cannot be created.
    """
    wanted = Path(settings.output_dir)
    try:
        str(wanted.absolute()).encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"output_dir={wanted}: the folder's name or the locale is not UTF-8; choose another folder, or set"
            " PYTHONUTF8=1"
        ) from error
    try:
        if named:
            wanted.mkdir(parents=True, exist_ok=True)
            return wanted
        wanted.parent.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):  # two runs may start in the same second
            folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}_{number}")
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
                break
    except OSError as error:
        reason = f"output_dir={wanted}: the run's folder cannot be created ({error.strerror})"
        raise InputError(f"{reason}; choose another one with output_dir=DIR") from error
    return folder


def decide_folder(settings: Any, choose: ChooseFolder) -> Path | None:
    """Return the current run's folder, the same in all processes that train together; None if it makes none.

    In a sweep, Hydra has made it; `hydra.run.dir=DIR` overrides `output_dir`; otherwise `choose` returns it.

    Raises:
        InputError: If several hosts have no common name for it, or a finished run has that name.
    """
    if hydras := _hydras_folder():
        return hydras
    if settings.output_dir is None:  # the command makes no folder
        return None
    settings.output_dir = str(expand(settings.output_dir))
    named = any(text.lstrip("+").startswith("output_dir=") for text in HydraConfig.get().overrides.task)
    if world_size() == 1:
        return choose(settings, named)
    attempt = attempt_folder()
    if hosts() == 1 and attempt is not None:
        chosen = chosen_by_first(attempt, lambda: str(choose(settings, named) or ""))
        return Path(chosen) if chosen else None
    if not named:
        if run_id() is None:
            raise InputError(
                "several hosts need one name for the run's folder: start torchrun with --rdzv-id=NAME, or add"
                " output_dir=DIR, in a file system that all hosts share"
            )
        settings.output_dir = str(Path(settings.output_dir).with_name(str(run_id())))
    folder = choose(settings, True)
    if folder is not None and not named and (folder / "metrics.json").is_file():
        raise InputError(f"{folder}: a finished run has the same --rdzv-id={run_id()}; start torchrun with another")
    return folder


def _hydras_folder() -> Path | None:
    """Return the folder set by Hydra, for a run of a sweep or by `hydra.run.dir=DIR`; None if there is none."""
    runtime = HydraConfig.get()
    if runtime.mode == RunMode.MULTIRUN:
        return Path(runtime.runtime.output_dir)
    # The default of `hydra.run.dir` is "."; Lightning sets it to pass the folder to the processes that it starts.
    if runtime.run.dir != "." or any(text.startswith("hydra.run.dir=") for text in runtime.overrides.hydra):
        return Path(runtime.run.dir)
    return None


def record_run(folder: Path, config: DictConfig) -> None:
    """Set the run's folder in Hydra's config; in the first process, write Hydra's usual record into the folder."""
    runtime: Any = HydraConfig.get()
    with read_write(runtime):  # interpolations can refer to either
        runtime.run.dir, runtime.runtime.output_dir = str(folder), str(folder.absolute())
    if is_first():
        record = folder / ".hydra"
        record.mkdir(parents=True, exist_ok=True)
        # Files are overwritten in place, because training holds a lock on the first of them.
        OmegaConf.save(config, record / "config.yaml")
        OmegaConf.save(OmegaConf.create({"hydra": runtime}), record / "hydra.yaml")
        OmegaConf.save(runtime.overrides.task, record / "overrides.yaml")


def existing_paths(settings: Any) -> set[Path]:
    """Return the absolute paths that exist before a run: of its folder, the folder's parents and its content."""
    wanted = _hydras_folder() or (settings.output_dir and expand(settings.output_dir))
    if not wanted:
        return set()
    folder = wanted.absolute()
    # Unlike Path.exists, os.path.exists raises nothing below an unreadable folder.
    exist = filter(os.path.exists, (folder, *folder.parents))
    return {*_content(folder), *exist}


@contextlib.contextmanager
def removed_if_useless(folder: Path, earlier: Set[Path]) -> Iterator[None]:
    """If bad input ends the block before the run has written more than its record, remove that and the new folders.

    Args:
        folder: the run's folder, an absolute path.
        earlier: paths that existed before the run, see `existing_paths`; they are kept.
    """
    try:
        yield
    except InputError:
        alone = HydraConfig.get().mode != RunMode.MULTIRUN and world_size() == 1 and is_first()
        record = folder / ".hydra"
        if alone and _content(folder) - earlier == {record}:
            shutil.rmtree(record, ignore_errors=True)
            with contextlib.suppress(OSError):  # another run is using one of the parents
                for path in (folder, *folder.parents):
                    if path not in earlier:
                        path.rmdir()
        raise


def _content(folder: Path) -> set[Path]:
    try:
        return {*folder.iterdir()}
    except (OSError, ValueError):  # missing, unreadable, or not a valid path
        return set()
