"""Create Lightning's callbacks and loggers from their configs: a class in `_target_`, and its arguments."""

import difflib
import inspect
from collections.abc import Mapping
from typing import Any

from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger

from ..cli.instantiate import instantiate
from ..errors import InputError, first_line

# The base class of the objects in each group.
_KINDS: dict[str, type] = {"callbacks": Callback, "logger": Logger}

# Loggers whose packages are extras of this one, under the same names.
_EXTRAS = ("logger.mlflow", "logger.wandb")


def create_all(group: str, configs: Mapping[str, Any] | None, **known: object) -> dict[str, Any]:
    """Create the objects of a config group; an entry that is null is left out.

    Args:
        group: "callbacks" or "logger".
        configs: entries by name, each with a class in `_target_` and its arguments.
        known: arguments that are passed to the classes that take them, unless the config sets them.

    Raises:
        InputError: If there is no such class, its object cannot be created, or its package is not installed.
    """
    entries = {name: config for name, config in (configs or {}).items() if config is not None}
    return {name: _create(_KINDS[group], f"{group}.{name}", config, known) for name, config in entries.items()}


def _create(kind: type, key: str, config: Any, known: Mapping[str, object]) -> Any:
    if not isinstance(config, dict) or "_target_" not in config:
        raise InputError(f"{key}={config}: expected a class, in {key}._target_, and its arguments")
    factory = instantiate(key, config)
    given = {name for name, value in config.items() if value is not None}
    takes = inspect.signature(factory.func).parameters
    try:
        created = factory(**{name: value for name, value in known.items() if name in takes and name not in given})
    except ModuleNotFoundError as error:
        raise not_installed(key, error) from error
    except Exception as error:  # the class may be anybody's
        raise InputError(f"{key}: {type(error).__name__}: {' '.join(str(error).split())}") from error
    if not isinstance(created, kind):
        raise InputError(f"{key}._target_={config['_target_']}: expected a lightning.pytorch {kind.__name__}")
    return created


def check_monitors(callbacks: Mapping[str, Callback], classifies: bool, no_validation: str | None) -> None:
    """Check before training that the metrics monitored by callbacks, such as early stopping, exist.

    Args:
        callbacks: callbacks by their names in the config. If one is the user's own, nothing is checked, since it can
            log further metrics.
        classifies: whether the network has an accuracy.
        no_validation: setting that turns validation off; None: there is a validation.

    Raises:
        InputError: If a metric does not exist.
    """
    if any(
        type(callback).__module__.partition(".")[0] not in ("lightning", "mnist_cls") for callback in callbacks.values()
    ):
        return
    train = ["train/loss", *["train/accuracy_epoch"] * classifies]
    val = ["val/loss", *["val/accuracy"] * classifies]
    metrics = train if no_validation else val + train
    for name, callback in callbacks.items():
        monitor = getattr(callback, "monitor", None)
        if monitor is None or monitor in metrics or not getattr(callback, "strict", True) or "_step" in monitor:
            continue
        setting = f"callbacks.{name}.monitor={monitor}"
        if no_validation and monitor in val:
            reason = f"there is no validation with {no_validation}"
        else:
            near = difflib.get_close_matches(monitor, metrics, n=1)
            reason = "no such metric" + (f", did you mean {near[0]!r}?" if near else "")
        raise InputError(f"{setting}: {reason}; expected one of {', '.join(metrics)}")


def not_installed(key: str, error: ModuleNotFoundError) -> InputError:
    """Return the error for an entry whose package is missing."""
    name = key.partition(".")[2]
    if key in _EXTRAS:
        return InputError(f"logger={name}: not installed; pip install 'mnist-cls[{name}]'")
    return InputError(f"{key}: {first_line(error)}")
