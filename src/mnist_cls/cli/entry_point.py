"""Where the configs are, and how an entry point runs under Hydra: typed settings in, one line out on bad input."""

import os
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..errors import InputError
from .messages import _leave, explain
from .settings import SETTINGS
from .torchrun import is_first

# `mode` is a group of training configs, and Hydra takes `mode=train` for a choice of it, whatever the entry point.
_RENAMED = {"forward": {"mode": "network_mode"}}


# Some of what is wrong with settings, Hydra says with Python's own exceptions.
_HYDRAS_OWN = (AssertionError, TypeError, ValueError)


def config_folder() -> Path:
    """The folder of the configs: inside the package when it was installed, at the top of a checkout otherwise."""
    installed = Path(__file__).parents[1] / "configs"
    return installed if installed.is_dir() else Path(__file__).parents[3] / "configs"


def _choices(*groups: str) -> str:
    """For `--help`: the choices of each group, on a line of its own."""
    found = {group: sorted(path.stem for path in (config_folder() / group).glob("*.yaml")) for group in groups}
    return "\n".join(f"{group}: {', '.join(names)}" for group, names in found.items())


OmegaConf.register_new_resolver("choices", _choices, replace=True)


def to_settings(config: DictConfig, entry: str) -> Any:
    """Turn a composed config into the typed settings of an entry point.

    Args:
        config: without Hydra's own part.
        entry: a key of `SETTINGS`.

    Raises:
        InputError: a key is unknown, a value is missing, of the wrong type or out of range.
    """
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(SETTINGS[entry]), config))
    except OmegaConfBaseException as error:
        raise InputError(explain(error, entry)) from error


def compose(entry: str, overrides: Sequence[str] = ()) -> Any:
    """The settings of an entry point, from Python, as its command line would give them.

    Example::

        train(compose("train", ["model=mlp", "trainer.max_epochs=1"]), Path("run"))

    Args:
        entry: a key of `SETTINGS`.
        overrides: as on the command line.

    Raises:
        InputError: the settings are wrong.
    """
    with hydra.initialize_config_dir(str(config_folder()), version_base="1.3"):
        try:
            config = hydra.compose(entry, _renamed(entry, overrides))
        except (HydraException, OmegaConfBaseException, OSError, *_HYDRAS_OWN) as error:
            raise InputError(explain(error, entry)) from error
    return to_settings(config, entry)


def entry_point(entry: str, task: Callable[[Any, Path], Any]) -> Callable[[], None]:
    """Make the `main()` of an entry point.

    The command line is Hydra's, `--help` and `--multirun` included. Where the user is wrong, one line goes to standard
    error and the status is 2; HYDRA_FULL_ERROR=1 shows the traceback instead.

    Args:
        entry: the config's name, a key of `SETTINGS`.
        task: gets the typed settings and the run's folder; what it returns is what a sweeper optimizes.
    """

    def main() -> None:
        tracebacks = os.environ.get("HYDRA_FULL_ERROR") == "1"
        sys.argv[1:] = _renamed(entry, sys.argv[1:])
        # Otherwise Hydra would print errors itself, over several lines, and leave with status 1.
        os.environ["HYDRA_FULL_ERROR"] = "1"

        def job(config: DictConfig) -> Any:
            if not tracebacks:  # from here on errors are ours, and processes that we start are to say theirs likewise
                os.environ.pop("HYDRA_FULL_ERROR", None)
            folder = Path(HydraConfig.get().runtime.output_dir)
            try:
                return task(to_settings(config, entry), folder)
            except Exception as error:
                # Left to Hydra, it would print a line of its own before ours.
                _leave(error, entry, tracebacks)

        try:
            hydra.main(version_base="1.3", config_path=str(config_folder()), config_name=entry)(job)()
        except KeyboardInterrupt:
            if is_first():
                print("interrupted", file=sys.stderr)
            sys.exit(130)
        except Exception as error:
            ours = not tracebacks and (type(error) is ValueError or _in_composing(error))
            _leave(InputError(explain(error, entry)) if ours else error, entry, tracebacks)

    return main


def _in_composing(error: Exception) -> bool:
    """Whether an exception is one of `_HYDRAS_OWN` about the settings, not a defect of a sweeper's, say."""
    frames = traceback.extract_tb(error.__traceback__)
    return type(error) in _HYDRAS_OWN and any(Path(frame.filename).stem == "config_loader_impl" for frame in frames)


def _renamed(entry: str, overrides: Iterable[str]) -> list[str]:
    """The overrides with the names that their keys have in the config."""
    names = _RENAMED.get(entry, {})
    pairs = [text.partition("=") for text in overrides]
    return [f"{names.get(key.lstrip('+'), key)}{sign}{value}" for key, sign, value in pairs]
