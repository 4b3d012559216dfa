"""Where the configs are, and how an entry point runs under Hydra: typed settings in, one line out on bad input."""

import contextlib
import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from ..errors import InputError
from ..training.resume import GO_ON, finished, folder_to_go_on_in, in_use
from .entry_point import to_settings
from .messages import _leave, display_path, override
from .settings import TrainSettings
from .torchrun import agreed


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
                print(f"all that was tried     {display_path(results.parent)}")
