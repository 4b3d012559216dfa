"""Run a command under Hydra: typed settings in, and one line for an error."""

import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..errors import InputError
from . import hydra_versions
from .help import config_folder, register_resolvers
from .messages import explain, explained, nearest_leaf, override, quoted, setting_types
from .run_folder import (
    ChooseFolder,
    decide_folder,
    existing_paths,
    named_or_new_folder,
    record_run,
    removed_if_useless,
)
from .settings import SETTINGS
from .status import leave, print_version, run_command
from .sweep import Sweep

_SWEEP = {"-m", "--multirun"}

# For any other option, argparse would print Hydra's usage, over several lines.
_HYDRAS_OPTIONS = {
    *("--", "-h", "--help", "--hydra-help", "--version", "-c", "--cfg", "--resolve", "-p", "--package", "-r", "--run"),
    *("-m", "--multirun", "-sc", "--shell-completion", "-cp", "--config-path", "-cn", "--config-name"),
    *("-cd", "--config-dir", "--experimental-rerun", "-i", "--info"),
}

# Settings that can hold any text, by type: what Hydra may parse their values as. A value that it parses as anything
# else, and would change by that, is quoted.
_TEXT = (str, QuotedString, type(None))
_ACCEPTED: dict[Any, tuple[type, ...]] = {
    str: _TEXT,
    str | None: _TEXT,
    bool | str: (*_TEXT, bool),
    Any: (*_TEXT, list, dict),
}

# Called with the typed settings and the run's folder (None if the command makes none); returns the value that a sweep
# optimizes.
Task = Callable[[Any, Any], Any]


register_resolvers()


def to_settings(config: DictConfig, entry: str) -> Any:
    """Convert a composed config, without its `hydra` node, to the typed settings of a command.

    Raises:
        InputError: If a key is unknown, or a value is missing, of the wrong type or out of range.
    """
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(SETTINGS[entry]), config))
    except OmegaConfBaseException as error:
        raise InputError(explain(error, entry)) from error


def compose(entry: str, overrides: Sequence[str] = ()) -> Any:
    """Return the typed settings of a command, as its command line would set them.

    Args:
        entry: name of the command.
        overrides: such as "model=mlp", as on the command line, but without the shell's quotes.

    Example::

        train(compose("train", ["model=mlp", "trainer.max_epochs=1"]), Path("run"))

    Raises:
        InputError: If a key is unknown, or a value is missing, of the wrong type or out of range.
    """
    with hydra.initialize_config_dir(str(config_folder()), **hydra_versions.INITIALIZE):
        try:
            config = hydra.compose(entry, _readable(entry, overrides))
        # Hydra raises one of the last three for a choice that is neither a name nor a list of names.
        except (HydraException, OmegaConfBaseException, OSError, AssertionError, TypeError, ValueError) as error:
            raise InputError(explain(error, entry)) from error
    return to_settings(config, entry)


def recorded_settings(folder: Path, entry: str) -> Any:
    """Return the settings recorded in a run's folder; None if they cannot be read."""
    try:
        config = OmegaConf.load(folder / ".hydra" / "config.yaml")
        return to_settings(config, entry) if isinstance(config, DictConfig) else None
    except Exception:  # PyYAML, OmegaConf and the checks of the settings share no other base class
        return None


def entry_point(entry: str, task: Task, choose_folder: ChooseFolder = named_or_new_folder) -> Callable[[], None]:
    """Make the `main()` of a command.

    The command line is Hydra's, `--help` and `--multirun` included. On bad input, one line goes to standard error and
    the exit status is 2; HYDRA_FULL_ERROR=1 shows the traceback instead.

    Args:
        entry: name of the command and its config, a key of `SETTINGS`.
        task: function that does the work.
        choose_folder: returns the run's folder; called after the settings have been checked, but not in a sweep.
    """

    def main() -> None:
        tracebacks = os.environ.get("HYDRA_FULL_ERROR") == "1"
        run_command(lambda: _run_under_hydra(entry, task, choose_folder, tracebacks), tracebacks)

    return main


def _run_under_hydra(entry: str, task: Task, choose_folder: ChooseFolder, tracebacks: bool) -> None:
    sys.argv[1:] = _readable(entry, sys.argv[1:])
    if "--version" in sys.argv:
        print_version()
        return
    # Otherwise Hydra would print errors itself, over several lines, and exit with status 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sweep = Sweep()

    def job(config: DictConfig) -> Any:
        if not tracebacks:  # from here on `leave` reports errors, also in processes that Lightning starts
            os.environ.pop("HYDRA_FULL_ERROR", None)
        sweep.begin()
        try:
            return sweep.comparable(_run(config, entry, task, choose_folder))
        except SystemExit as error:
            # Lightning turns a Ctrl-C into a SystemExit.
            if error.code == 1 and isinstance(error.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from error
            if error.code != 1 or not sweep.goes_on():
                raise
            sweep.incomplete += 1
        except Exception as error:
            if isinstance(error, BrokenPipeError) or not sweep.goes_on():
                leave(explained(error, entry), tracebacks)  # Hydra would print a line of its own first
            sweep.fail(explained(error, entry), tracebacks)
        finally:
            os.environ["HYDRA_FULL_ERROR"] = "1"  # for the errors of a sweeper

    try:
        hydra.main(config_path=str(config_folder()), config_name=entry, **hydra_versions.MAIN)(job)()
    except Exception as error:
        if sweep.all_failed():  # the sweeper's own error is only that a result is missing
            sweep.finish()
        # The command's own errors never get here. These are about the settings; the last two, only before the first run
        # of a sweep.
        if type(error) is ValueError or (type(error) in (AssertionError, TypeError) and not sweep.runs):
            raise InputError(explain(error, entry)) from error
        raise explained(error, entry) from error
    sweep.finish()


def _run(config: DictConfig, entry: str, task: Task, choose_folder: ChooseFolder) -> Any:
    """Check the settings, then make the run's folder and run the command."""
    settings = to_settings(config, entry)
    runtime = HydraConfig.get()
    if runtime.mode != RunMode.MULTIRUN and (sweep := runtime.runtime.choices.get("sweep")):
        raise InputError(f"sweep={sweep} without -m would train once: put -m before the settings")
    earlier = existing_paths(settings)
    folder = decide_folder(settings, choose_folder)
    if folder is None:
        return task(settings, None)
    config.output_dir = str(folder)
    record_run(folder, config)
    with removed_if_useless(folder.absolute(), earlier):
        # Converted again, because a value can refer to the folder: ${hydra:runtime.output_dir}.
        return task(to_settings(config, entry), folder.absolute())


def _readable(entry: str, overrides: Sequence[str]) -> list[str]:
    """Return the overrides in a form that Hydra parses as the user means them.

    Text, such as a path, is quoted where Hydra's grammar requires quotes (`input=дигит (1).png`) or would parse a
    number (`output_dir=2026_11_25`). The `mode=` of `forward` is renamed, because `mode` is a group of training
    configs. `-m` comes first.

    Raises:
        InputError: If a setting is written as an option, such as `--input=a.png`, or an option is unknown.
    """
    kinds, parser = setting_types(SETTINGS[entry]), OverridesParser.create()
    sweep = not _SWEEP.isdisjoint(overrides)
    readable = []
    for index, given in enumerate(overrides):
        key, equals, value = given.partition("=")
        following = overrides[index + 1 : index + 2]
        if key.startswith("--") and (name := key[2:].replace("-", "_")) in kinds:
            raise InputError(f"{given}: settings have no dashes: {name}={value or 'VALUE'}")
        if key.startswith("-") and key not in _HYDRAS_OPTIONS:
            near = nearest_leaf(key.strip("-").replace("-", "_"), kinds)
            value = value or next((text for text in following if re.fullmatch(r"[^-=][^=]*", text)), "VALUE")
            guess = f"did you mean {override(near, value)}?" if near else "--help shows the keys"
            raise InputError(f"{given}: no such option; settings are KEY=VALUE, without dashes; {guess}")
        if entry == "forward":
            given = re.sub(r"^\+*mode=", "network_mode=", given)
        kind = kinds.get(key.lstrip("+"))
        if equals and kind in _ACCEPTED:
            try:
                read = parser.parse_override(given)
                accepted = (read.is_sweep_override() and sweep) or isinstance(read.value(), _ACCEPTED[kind])
                keep = accepted or str(read.value()) == value
            except HydraException:
                keep = kind is Any and value.startswith("[")  # a malformed list, which Hydra reports
            given = given if keep else f"{key}={quoted(value)}"
        readable.append(given)
    return sorted(readable, key=lambda text: text not in _SWEEP)  # Hydra refuses -m between overrides
