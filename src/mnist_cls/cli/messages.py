"""What commands print: errors in one line, and commands and paths as the user would type them."""

import difflib
import re
import shlex
import shutil
import sys
from collections.abc import Iterable
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException, MissingConfigException, OverrideParseException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from ..errors import InputError, described, first_line
from .help import config_folder
from .settings import SETTINGS


def overrides(**changed: object) -> str | None:
    """Return the current run's overrides as one would type them in a shell, with some changed; None removes one.

    Returns None if no command is running, as when `train()` is called from Python.
    """
    if not HydraConfig.initialized():
        return None
    kept = [text for text in HydraConfig.get().overrides.task if text.split("=")[0].lstrip("+") not in changed]
    new = [override(key, value) for key, value in changed.items() if value is not None]
    return " ".join([*map(shlex.quote, kept), *new])


def override(key: str, value: object) -> str:
    """Return one override as one would type it in a shell, with Hydra's quotes around a value that needs them."""
    text = str(value)
    if not re.fullmatch(r"[\w./+-]+", text, re.ASCII):
        text = quoted(text)
    return shlex.quote(f"{key}={text}")


def quoted(text: str) -> str:
    """Quote a text for Hydra's grammar, which needs backslashes before a quote to be doubled."""
    return "'" + re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), text) + "'"


def program(module: str) -> str:
    """Return the command that runs a module from the current folder with the current Python."""
    python = Path(sys.executable)
    on_path = shutil.which("python") == str(python)
    return f"{'python' if on_path else display_path(python)} -m {module}"


def display_path(path: Path) -> Path:
    """Return a path relative to the current folder if it is inside that folder."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def explained(error: Exception, entry: str) -> Exception:
    """Convert an error of Hydra or OmegaConf to an InputError; return any other unchanged."""
    if not isinstance(error, (HydraException, OmegaConfBaseException)):
        return error
    short = InputError(explain(error, entry))
    short.__cause__ = error
    return short


def explain(error: BaseException, entry: str) -> str:
    """Summarize an error of Hydra or OmegaConf in one line, with the nearest key or choice that exists."""
    if isinstance(error, MissingConfigException) and error.options and error.missing_cfg_file:
        group, _, choice = error.missing_cfg_file.removesuffix(".yaml").rpartition("/")
        if group == "hydra/sweeper":
            return f"sweep={choice}: its sweeper is not installed; pip install 'mnist-cls[sweep]'"
        choices = ", ".join(error.options)
        return f"{group}={choice}: no such choice{_nearest(choice, error.options)}; expected one of {choices}"
    if isinstance(error, OverrideParseException):
        if "=" not in error.override:
            such = f", such as {override('input', error.override)}" if "input" in setting_types(SETTINGS[entry]) else ""
            return f"cannot read {error.override!r}: expected KEY=VALUE{such}; --help shows the keys"
        return f"cannot read {error.override!r}; put values with special characters in quotes: 'key=\"value\"'"
    if wrong := re.match("Config group override must be a string or a list. Got (.+)", str(error)):
        return (
            f"found a value of type {wrong[1]} for a group; expected the name of a choice or a list of names, "
            "such as logger=none instead of logger=false; --help shows the choices"
        )
    cause = error.__cause__
    full_key = getattr(error, "full_key", None) or getattr(cause, "full_key", None) or ""
    # Hydra 1.4 reads a choice from a config that it names "value".
    if type(error) in (AssertionError, TypeError) or full_key.startswith("value["):
        reason = f"perhaps a choice is neither a name nor a list of names ({first_line(error)})"
        return f"Hydra cannot read the settings: {reason}; --help shows the choices, HYDRA_FULL_ERROR=1 the traceback"
    if isinstance(error, HydraException):
        # Only the message has the whole key; the one in OmegaConf's exception can stop at the first unknown part.
        if unknown := re.match("Could not override '([^']+)'", str(error)):
            return _no_key(max(unknown[1], full_key, key=len), entry)
        if several := re.match("Ambiguous value for argument '(.+?)=(.*?)'", str(error)):
            key, values = several.groups()
            if setting_types(SETTINGS[entry]).get(key) in (float, float | None) and values.count(",") == 1:
                return f"{key}={values}: expected one number, with a decimal point: {key}={values.replace(',', '.')}"
            return (
                f"{key}={values}: put -m before the settings to run once with each value, or use a list: "
                f"{key}=[{values}]"
            )
        if twice := re.match("Multiple values for (.+?)\\. To override a value use 'override .+?: (.*)'", str(error)):
            return f"{twice[1]} already has a choice; omit the +: {twice[1]}={twice[2]}"
        if isinstance(cause, OmegaConfBaseException) and not isinstance(error, InstantiationException):
            return explain(cause, entry)
        return " ".join(str(error).split())  # the lines after the first say what to do
    if isinstance(error, (ConfigAttributeError, ConfigKeyError)):
        return _no_key(full_key, entry)
    message = described(error)
    if null := re.match(r".*'None'.* (?:of type|type hint) '(?:Union\[)?([^']+?)\]?'$", message):
        expected = {"str": "text", "int": "a whole number", "float": "a number", "bool": "true or false"}
        return f"{full_key}=null: expected {' or '.join(expected.get(kind, kind) for kind in null[1].split(', '))}"
    return f"{full_key}: {message}" if full_key not in message else message


def _no_key(key: str, entry: str) -> str:
    kinds = setting_types(SETTINGS[entry])
    group, *inner = key.split(".")
    if inner and (config_folder() / group / f"{inner[0]}.yaml").is_file():  # callbacks.early_stopping.patience
        return f"no key {key!r} in the config: {group}={inner[0]} adds it"
    parent, _, last = key.rpartition(".")
    siblings = [known.rpartition(".")[2] for known in kinds if known.rpartition(".")[0] == parent]
    near = _nearest(last, siblings, parent) if siblings else _nearest(key, kinds)
    add = f", +{key}=VALUE adds it" if get_origin(kinds.get(group)) is dict else ""
    return f"no key {key!r} in the config{near}; --help shows them all{add}"


def _nearest(word: str, known: Iterable[str], parent: str = "") -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f", did you mean {'.'.join(filter(None, [parent, near[0]]))!r}?" if near else ""


def nearest_leaf(word: str, keys: Iterable[str]) -> str | None:
    """Return the key whose last part is most similar to a word, such as `trainer.max_epochs` for `epochs`.

    Returns None if none is similar.
    """
    leaves = {key.rpartition(".")[2]: key for key in keys}
    likeness = {leaf: difflib.SequenceMatcher(None, leaf, word).ratio() for leaf in leaves}
    nearest = max(likeness, key=likeness.__getitem__)  # of several, the first
    return leaves[nearest] if likeness[nearest] >= 0.7 else None


def setting_types(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Return the type of each setting by its full key, including nested settings."""
    kinds = {}
    for key, kind in get_type_hints(settings).items():
        kinds[prefix + key] = kind
        if is_dataclass(kind):
            kinds |= setting_types(kind, f"{prefix}{key}.")
    return kinds
