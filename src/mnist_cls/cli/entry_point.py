"""Commands under Hydra: typed settings in, one line out on bad input."""

import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..errors import InputError
from .help import register_resolvers
from .messages import explain, leave, quoted, text_keys
from .run_folder import ChooseFolder, decide_folder, named_or_new_folder, record_run, removed_if_useless
from .settings import SETTINGS
from .streams import flush_output, prepare_streams, print_error
from .sweep import Sweep
from .torchrun import is_first


def config_folder() -> Path:
    """Return the folder of the configs: inside the installed package, or at the top of a checkout."""
    installed = Path(__file__).parents[1] / "configs"
    return installed if installed.is_dir() else Path(__file__).parents[3] / "configs"


register_resolvers()


def to_settings(config: DictConfig, entry: str) -> Any:
    """Turn a composed config, without Hydra's own part, into the typed settings of a command.

    Raises:
        InputError: If a key is unknown, or a value is missing, of the wrong type or out of range.
    """
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(SETTINGS[entry]), config))
    except OmegaConfBaseException as error:
        raise InputError(explain(error, entry)) from error


def compose(entry: str, overrides: Sequence[str] = ()) -> Any:
    """Return the settings of a command as its command line would set them.

    Example::

        train(compose("train", ["model=mlp", "trainer.max_epochs=1"]), Path("run"))

    Raises:
        InputError: If the settings are wrong.
    """
    with hydra.initialize_config_dir(str(config_folder()), version_base="1.3"):
        try:
            config = hydra.compose(entry, _readable(entry, overrides))
        # For a choice that is neither a name nor a list of names, Hydra raises one of the last three.
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


def entry_point(
    entry: str, task: Callable[[Any, Any], Any], choose_folder: ChooseFolder = named_or_new_folder
) -> Callable[[], None]:
    """Make the `main()` of a command.

    The command line is Hydra's, `--help` and `--multirun` included. On bad input, one line goes to standard error and
    the exit status is 2; HYDRA_FULL_ERROR=1 shows the traceback instead.

    Args:
        entry: name of the command and its config, a key of `SETTINGS`.
        task: called with the typed settings and the run's folder (None if the command makes none); returns what a
            sweep optimizes.
        choose_folder: returns the run's folder; called once the settings have been checked, unless it is a sweep.
    """

    def main() -> None:
        tracebacks = os.environ.get("HYDRA_FULL_ERROR") == "1"
        prepare_streams()
        sys.argv[1:] = _readable(entry, sys.argv[1:])
        # Otherwise Hydra would print errors itself, over several lines, and exit with status 1.
        os.environ["HYDRA_FULL_ERROR"] = "1"
        sweep = Sweep()

        def job(config: DictConfig) -> Any:
            if not tracebacks:  # from here on `leave` reports errors, also in processes that Lightning starts
                os.environ.pop("HYDRA_FULL_ERROR", None)
            sweep.begin()
            try:
                return sweep.comparable(_run(config, entry, task, choose_folder))
            except BrokenPipeError as error:
                leave(error, entry, tracebacks)
            except Exception as error:
                if not sweep.goes_on():
                    leave(error, entry, tracebacks)  # Hydra would print a line of its own first
                sweep.fail(error, entry, tracebacks)
            except SystemExit as error:
                if error.code != 1 or _interrupted(error) or not sweep.goes_on():
                    raise
                sweep.incomplete += 1
            finally:
                os.environ["HYDRA_FULL_ERROR"] = "1"  # for the errors of a sweeper

        try:
            try:
                if "--version" in sys.argv[1:]:
                    from .. import __version__  # reads the installed package's metadata

                    print(f"mnist_cls {__version__}")
                else:
                    hydra.main(version_base="1.3", config_path=str(config_folder()), config_name=entry)(job)()
                sweep.finish()
            except SystemExit as error:
                if _interrupted(error):
                    raise KeyboardInterrupt from error
                flush_output()
                raise
            flush_output()
        except KeyboardInterrupt:
            if is_first():
                print_error("interrupted")
            sys.exit(130)
        except Exception as error:
            if sweep.all_failed():  # and the sweeper misses a result
                sweep.finish()
            # Errors of the command itself do not get here. Before the first job of a sweep, these are about settings.
            about_settings = type(error) is ValueError or (
                type(error) in (AssertionError, TypeError) and not sweep.runs
            )
            if about_settings and not tracebacks:
                error = InputError(explain(error, entry))
            leave(error, entry, tracebacks)

    return main


def _interrupted(error: SystemExit) -> bool:
    """Return whether an exit is a Ctrl-C: Lightning turns a KeyboardInterrupt into a SystemExit."""
    return error.code == 1 and isinstance(error.__context__, KeyboardInterrupt)


def _run(config: DictConfig, entry: str, task: Callable[[Any, Any], Any], choose_folder: ChooseFolder) -> Any:
    """Check the settings, then make the run's folder and run the command."""
    settings = to_settings(config, entry)
    runtime = HydraConfig.get()
    if runtime.mode != RunMode.MULTIRUN and (sweep := runtime.runtime.choices.get("sweep")):
        raise InputError(f"sweep={sweep} without -m would train once: put -m before the settings")
    folder = decide_folder(settings, choose_folder)
    if folder is None:
        return task(settings, None)
    config.output_dir = str(folder)
    record_run(folder, config)
    with removed_if_useless(folder.absolute()):
        # Read again, because a value may refer to the folder: ${hydra:runtime.output_dir}.
        return task(to_settings(config, entry), folder.absolute())


def _readable(entry: str, overrides: Sequence[str]) -> list[str]:
    """Return overrides that Hydra can read.

    Quotes are put around texts, such as paths, that its grammar does not allow without them: `input=дигит (1).png`. The
    `mode=` of `forward` is renamed: `mode` itself is a group of training configs.
    """
    texts, parser = set(text_keys(SETTINGS[entry])), OverridesParser.create()
    readable = []
    for given in overrides:
        key, equals, value = given.partition("=")
        text = re.sub(r"^\+*mode=", "network_mode=", given) if entry == "forward" else given
        if equals and key in texts and not value.startswith(("'", '"', "[")):
            try:
                parser.parse_override(text)
            except HydraException:
                text = f"{key}={quoted(value)}"
        readable.append(text)
    return readable
