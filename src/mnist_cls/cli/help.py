"""What `--help` lists: the choices of each group, and each value with its default and the comment in its config."""

import re
import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from .hydra_versions import register_resolver

_KEY = re.compile(r"( *)([\w.-]+):(.*)")
_TRAILING_COMMENT = re.compile(r"\s#\s+(.*)")

# Columns for keys and values. Comments are printed to their right; below them in a terminal narrower than `_NARROW`.
_LEFT = 36
_NARROW = 72


def config_folder() -> Path:
    """Return the folder of the configs: inside the installed package, or at the top of a checkout."""
    installed = Path(__file__).parents[1] / "configs"
    return installed if installed.is_dir() else Path(__file__).parents[3] / "configs"


def register_resolvers() -> None:
    """Register `${choices:GROUP,...}` and `${values:}`, which the help in the configs uses."""
    register_resolver("choices", choices, replace=True)
    register_resolver("values", values, replace=True)


def choices(*groups: str, _root_: DictConfig) -> str:
    """Return one line for each group, with its choices."""
    lines = []
    for group in groups:
        names = sorted(path.stem for folder in _folders(_root_) for path in (folder / group).glob("*.yaml"))
        lines.append(textwrap.fill(f"{group}: {', '.join(names)}", _width(), subsequent_indent="    "))
    return "\n".join(lines)


def values(*, _root_: DictConfig) -> str:
    """Return each value as `KEY=VALUE`, with its comment. `$` is doubled, as in any part of a template."""
    chosen, comments = _chosen_and_comments(_root_)
    config: Any = OmegaConf.to_container(_root_)
    lines: list[str] = []
    after_group = False
    for key, value in config.items():
        if key == "hydra":
            continue
        group = isinstance(value, dict)
        if group or after_group:
            lines.append("")
        if group and (names := chosen.get(key)):
            choice = _typed(names if len(names) > 1 else names[0])
            lines += _entry(f"{key}={choice}", comments.get(f"{key}.defaults", ""), indent="")
        for full_key, text in settings_in(key, value):
            comment = comments.get(full_key, "")
            if text is not None or comment:
                lines += _entry(f"{full_key}={text}" if text is not None else full_key, comment)
        after_group = group
    return "\n".join(lines).strip("\n").replace("$", "$$")


def settings_in(key: str, value: Any) -> Iterator[tuple[str, str | None]]:
    """Yield each full key in a value, and its value as one would type it; None for the key of a mapping."""
    if isinstance(value, dict) and value:
        yield key, None
        for name, nested in value.items():
            yield from settings_in(f"{key}.{name}", nested)
    else:
        yield key, _typed(value)


def _typed(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(_typed, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def _entry(left: str, comment: str, indent: str = "  ") -> list[str]:
    """Return the lines of one value."""
    narrow = _width() < _NARROW
    column = 6 if narrow else _LEFT
    right = textwrap.wrap(comment, _width() - column, break_on_hyphens=False)
    first = indent + left
    if right and not narrow and len(first) < _LEFT:
        first = f"{first:{_LEFT}}{right.pop(0)}"
    return [first, *(" " * column + line for line in right)]


def _width() -> int:
    return min(shutil.get_terminal_size().columns, 100)


def _chosen_and_comments(root: DictConfig) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Return the selected choices of each group, and the comments in the config files by full key.

    A comment above the `defaults` of a file describes the choice as a whole. Its key is `GROUP.defaults`.
    """
    entry, overrides = root.hydra.job.config_name, list(root.hydra.overrides.task)
    loader = GlobalHydra.instance().config_loader()
    chosen: dict[str, list[str]] = {}
    comments: dict[str, str] = {}
    for file in loader.compute_defaults_list(entry, overrides, RunMode.RUN).defaults:
        group, _, name = str(file.config_path).rpartition("/")
        if file.parent == entry:
            chosen.setdefault(group, []).append(name)
        paths = [path for folder in _folders(root) if (path := folder / f"{file.config_path}.yaml").is_file()]
        for key, comment in comments_in(paths[0].read_text(encoding="utf-8") if paths else "").items():
            full_key = f"{file.package}.{key}" if file.package else key
            # A comment in an experiment or a mode explains its own value; the one in the value's group, the setting.
            if full_key not in comments or group in root:
                comments[full_key] = comment
    return chosen, comments


def _folders(root: DictConfig) -> list[Path]:
    """Return the folders in which Hydra looks for configs, in order of precedence."""
    return [Path(source.path) for source in root.hydra.runtime.config_sources if source.schema == "file"]


def comments_in(text: str) -> dict[str, str]:
    """Return the comments above keys or after their values, by full key within the file."""
    found: dict[str, str] = {}
    parents: list[tuple[int, str]] = []
    above: list[str] = []
    for line in text.splitlines():
        if line.lstrip().startswith("#"):
            above += [] if line.startswith("# @package") else [line.lstrip(" #")]
            continue
        if key := _KEY.match(line):
            indent = len(key[1])
            parents = [*((at, name) for at, name in parents if at < indent), (indent, key[2])]
            behind = [found[1] for found in [_TRAILING_COMMENT.search(key[3])] if found]
            if above or behind:
                found[".".join(name for _, name in parents)] = " ".join([*above, *behind])
        above = []
    return found
