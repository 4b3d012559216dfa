"""What `--help` lists: the choices of each group, and each value with its default and the comment in its config."""

import re
import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

_PACKAGE = re.compile(r"# @package (\S+)")
_KEY = re.compile(r"( *)([\w.-]+):(.*)")
_TRAILING_COMMENT = re.compile(r"\s#\s+(.*)")

# Columns for keys and values; comments stand right of them, or below them in a narrow terminal.
_LEFT = 36
_NARROW = 72


def register_resolvers() -> None:
    """Let configs/hydra/default.yaml and its kin use `${choices:GROUP,...}` and `${values:}`."""
    OmegaConf.register_new_resolver("choices", choices, replace=True)
    OmegaConf.register_new_resolver("values", values, replace=True)


def choices(*groups: str, _root_: DictConfig) -> str:
    """Return the choices of each group on a line of its own."""
    lines = []
    for group in groups:
        names = sorted(path.stem for folder in _folders(_root_) for path in (folder / group).glob("*.yaml"))
        lines.append(textwrap.fill(f"{group}: {', '.join(names)}", _width(), subsequent_indent="    "))
    return "\n".join(lines)


def values(*, _root_: DictConfig) -> str:
    """Return each value as one would type it, with its comment. `$` is doubled: the text becomes part of a template."""
    comments = _comments(_root_)
    config: Any = OmegaConf.to_container(_root_)
    chosen = _chosen(_root_)
    lines: list[str] = []
    after_group = False
    for key, value in config.items():
        if key == "hydra":
            continue
        group = isinstance(value, dict)
        if group or after_group:
            lines.append("")
        if group and key in chosen:
            lines += _entry(f"{key}={_typed(chosen[key])}", comments.get(f"{key}.defaults", ""), indent="")
        for full_key, text in _flat(key, value):
            comment = comments.get(full_key, "")
            if text is not None or comment:
                lines += _entry(f"{full_key}={text}" if text is not None else full_key, comment)
        after_group = group
    return "\n".join(lines).strip("\n").replace("$", "$$")


def _flat(key: str, value: Any) -> Iterator[tuple[str, str | None]]:
    """Yield the full key of everything in a value, and what one would type after it; None for a mapping."""
    if isinstance(value, dict) and value:
        yield key, None
        for name, nested in value.items():
            yield from _flat(f"{key}.{name}", nested)
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


def _chosen(root: DictConfig) -> dict[str, Any]:
    """Return the name, or the names, of what is chosen of each group of ours."""
    every: Any = OmegaConf.to_container(root.hydra.runtime.choices)
    # Hydra leaves out lists: `logger=[csv,tensorboard]`.
    typed = OverridesParser.create().parse_overrides(list(root.hydra.overrides.task))
    lists = {one.key_or_group: one.value() for one in typed if isinstance(one.value(), list)}
    groups = {group: names for group, names in lists.items() if any((at / group).is_dir() for at in _folders(root))}
    return {group: name for group, name in (every | groups).items() if not group.startswith("hydra")}


def _comments(root: DictConfig) -> dict[str, str]:
    """Return the comments in the chosen config files, by full key; `GROUP.defaults` is that of a whole choice."""
    of_groups: dict[str, str] = {}
    other = _comments_in(_read(root, f"{root.hydra.job.config_name}.yaml"))
    for group, chosen in _chosen(root).items():
        names = chosen if isinstance(chosen, list) else [chosen]
        for text in (text for name in names if name for text in _with_bases(root, group, name)):
            package = _PACKAGE.search(text)
            # What an experiment says of a value is about the experiment: a group's own comment is preferred.
            found = of_groups if package is None else other
            prefix = f"{group}." if package is None else "" if package[1] == "_global_" else f"{package[1]}."
            for key, comment in _comments_in(text).items():
                found.setdefault(f"{prefix}{key}", comment)
    return other | of_groups


def _with_bases(root: DictConfig, group: str, name: str) -> Iterator[str]:
    """Yield the text of a choice's file, and of the files of the same group that it builds on."""
    text = _read(root, f"{group}/{name}.yaml")
    yield text
    config: Any = OmegaConf.to_container(OmegaConf.create(text))
    for base in (config or {}).get("defaults", []):
        if isinstance(base, str) and base != "_self_":
            yield from _with_bases(root, group, base)


def _read(root: DictConfig, name: str) -> str:
    paths = [folder / name for folder in _folders(root)]
    return next((path.read_text(encoding="utf-8") for path in paths if path.is_file()), "")


def _folders(root: DictConfig) -> list[Path]:
    """Return the folders in which Hydra looks for configs, first those that take precedence."""
    return [Path(source.path) for source in root.hydra.runtime.config_sources if source.schema == "file"]


def _comments_in(text: str) -> dict[str, str]:
    """Return the comments above keys or behind their values, by the keys from the top of the file."""
    found: dict[str, str] = {}
    parents: list[tuple[int, str]] = []
    above: list[str] = []
    for line in text.splitlines():
        if line.lstrip().startswith("#"):
            above += [] if _PACKAGE.match(line) else [line.lstrip(" #")]
            continue
        if key := _KEY.match(line):
            indent = len(key[1])
            parents = [*((at, name) for at, name in parents if at < indent), (indent, key[2])]
            behind = [found[1] for found in [_TRAILING_COMMENT.search(key[3])] if found]
            if above or behind:
                found[".".join(name for _, name in parents)] = " ".join([*above, *behind])
        above = []
    return found
