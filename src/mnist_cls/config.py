"""Where the configs are, and how an entry point runs under Hydra: typed settings in, one line out on bad input."""

import contextlib
import difflib
import os
import re
import shlex
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException, MissingConfigException, OverrideParseException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from .errors import InputError
from .processes import agreed, is_first, may_speak
from .runs import GO_ON, finished, folder_to_go_on_in, in_use
from .settings import EvalSettings, ExportSettings, ForwardSettings, PredictSettings, TrainSettings

SETTINGS: dict[str, type] = {
    "train": TrainSettings,
    "eval": EvalSettings,
    "predict": PredictSettings,
    "forward": ForwardSettings,
    "export": ExportSettings,
}

# `mode` is a group of training configs, and Hydra takes `mode=train` for a choice of it, whatever the entry point.
_RENAMED = {"forward": {"mode": "network_mode"}}


# Some of what is wrong with settings, Hydra says with Python's own exceptions.
_HYDRAS_OWN = (AssertionError, TypeError, ValueError)


def config_folder() -> Path:
    """The folder of the configs: inside the package when it was installed, at the top of a checkout otherwise."""
    installed = Path(__file__).parent / "configs"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "configs"


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


def _typed(config: DictConfig) -> list[str]:
    return [*config.hydra.overrides.task, *config.hydra.overrides.hydra]


def new_folder(wanted: Path) -> Path:
    """Make a folder that nobody else has: its default name ends in the second, and two runs may start in one."""
    wanted.parent.mkdir(parents=True, exist_ok=True)
    folder, number = wanted, 1
    while True:
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder
        number += 1
        folder = wanted.with_name(f"{wanted.name}_{number}")


def _folder(settings: Any, named: bool) -> Path:
    """The folder of a run, which is there already if an earlier training is gone on with."""
    wanted = Path(settings.output_dir)
    if isinstance(settings, TrainSettings):
        if named and in_use(wanted):
            raise InputError(f"output_dir={wanted}: another process is training there; name another")
        if settings.checkpoint in GO_ON:
            if named and finished(wanted):
                print(f"nothing to do: the training in {wanted} is finished")
                sys.exit(0)
            earlier = folder_to_go_on_in(settings, named, _settings_of_run)
            if earlier is not None:
                return earlier
    return wanted if named else new_folder(wanted)


def _settings_of_run(folder: Path) -> TrainSettings | None:
    """The settings that a training was begun with; None if they cannot be read."""
    try:
        config = OmegaConf.load(folder / ".hydra" / "config.yaml")
        config.output_dir = str(folder)
        settings: TrainSettings = to_settings(config, "train")  # type: ignore[arg-type]
        return settings
    except Exception:  # whatever is wrong with it, it is none of ours
        return None


class BeforeRun(Callback):
    """Checks the settings before Hydra makes the run's folder, so that a slip of the keyboard leaves nothing behind."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Leave with status 2 if the settings are wrong; else see that the run has a folder for itself alone."""
        entry = str(kwargs["config_name"])

        def settings() -> Any:
            return to_settings(OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"]), entry)

        try:
            if sweep := config.hydra.runtime.choices.get("sweep"):
                raise InputError(f"sweep={sweep} without -m would train once: put -m before the settings")
            if any(text.startswith("hydra.run.dir=") for text in _typed(config)):
                settings()
                return
            named = any(text.startswith("output_dir=") for text in _typed(config))
            # Of several processes the first chooses. The others have nothing to write, Hydra's records included.
            folder = agreed(lambda: str(_folder(settings(), named)))
            config.output_dir = folder.path
            if not folder.is_ours:
                settings()  # the first has found no fault, but another host may have another version of the package
                config.hydra.output_subdir = None
        except (InputError, OSError) as error:
            # Hydra turns a callback's exceptions into warnings, but lets SystemExit through.
            _leave(error, entry)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Say what a search has found."""
        results = Path(config.hydra.sweep.dir) / "optimization_results.yaml"
        if results.is_file():
            found: Any = OmegaConf.load(results)
            if "best_params" in found:  # not of a search for several things at once
                best = " ".join(override(str(key), value) for key, value in found.best_params.items())
                print(f"\nbest of the search     {found.best_value:.4f} with {best}")
                print(f"all that was tried     {shown(results.parent)}")


def overrides(**changed: object) -> str | None:
    """The overrides of the present run as one would type them, with some changed; None leaves one out.

    Returns:
        None if it is no entry point that runs: `train()` may be called from Python.
    """
    if not HydraConfig.initialized():
        return None
    kept = [text for text in HydraConfig.get().overrides.task if text.split("=")[0].lstrip("+") not in changed]
    new = [override(key, value) for key, value in changed.items() if value is not None]
    return " ".join([*map(shlex.quote, kept), *new])


def override(key: str, value: object) -> str:
    """One override as one would type it in a shell, with Hydra's own quotes round a value that needs them."""
    text = str(value)
    if not re.fullmatch(r"[\w./+-]+", text, re.ASCII):
        text = "'" + text.replace("'", "\\'") + "'"
    return shlex.quote(f"{key}={text}")


def program(module: str) -> str:
    """How the user runs a module from where they stand, with the Python that runs now."""
    python = Path(sys.executable)
    on_path = shutil.which("python") == str(python)
    return f"{'python' if on_path else shown(python)} -m {module}"


def shown(path: Path) -> Path:
    """A path as short as it can be printed: from where the user stands, if it lies below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _leave(error: Exception, entry: str, tracebacks: bool = False) -> NoReturn:
    if not may_speak():
        # As soon as one has left, torchrun ends all, and the one that is to speak may not have come so far yet.
        time.sleep(10)
        sys.exit(2)
    if tracebacks or not isinstance(error, (InputError, HydraException, OmegaConfBaseException, OSError)):
        # A defect of ours. Python's own status for it, 1, means here that the work was done.
        traceback.print_exception(error)
        sys.exit(2)
    if isinstance(error, BrokenPipeError):  # `... | head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    print(f"error: {explain(error, entry)}", file=sys.stderr)
    sys.exit(2)


def explain(error: Exception, entry: str) -> str:
    """Put into one line what Hydra and OmegaConf say in several, with the nearest key or choice that there is."""
    if isinstance(error, MissingConfigException) and error.options and error.missing_cfg_file:
        group, _, choice = error.missing_cfg_file.removesuffix(".yaml").rpartition("/")
        if group == "hydra/sweeper":
            return f"sweep={choice}: its sweeper is not installed; pip install 'mnist-cls[sweep]'"
        return f"{group}={choice}: no such choice{_nearest(choice, error.options)}; one of {', '.join(error.options)}"
    if isinstance(error, OverrideParseException):
        return f"cannot read {error.override!r}; put values with special characters in quotes: 'key=\"value\"'"
    text = str(error)
    if type(error) in (AssertionError, TypeError):
        return "what was chosen for a group is neither a name nor a list of names; --help shows the choices"
    if text.startswith("Ambiguous value"):
        return f"{text.splitlines()[0]}; a comma separates the values of a sweep (-m), or quote it: 'key=\"a,b\"'"
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, HydraException) and isinstance(error.__cause__, OmegaConfBaseException):
        text = str(error.__cause__) if "Error merging override" in text else text
    if unknown := re.search(r"Could not override '([^']*)'|Key '([^']+)' (?:is )?not in", text):
        key = getattr(error, "full_key", None) or unknown[1] or unknown[2] or ""
        return f"no key {key!r} in the config{_nearest(key, _keys(entry))}; --help shows them all"
    if isinstance(error, InstantiationException):
        return " ".join(text.split())
    message = (text.splitlines() or [type(error).__name__])[0]
    key = getattr(error, "full_key", None) or getattr(error.__cause__, "full_key", None)
    return f"{key}: {message}" if key and key not in message else message


def _nearest(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f", did you mean {near[0]!r}?" if near else ""


def _keys(entry: str) -> list[str]:
    def walk(fields: Any, prefix: str) -> Iterator[str]:
        for key, kind in get_type_hints(fields).items():
            yield prefix + key
            if is_dataclass(kind):
                yield from walk(kind, f"{prefix}{key}.")

    return list(walk(SETTINGS[entry], ""))
