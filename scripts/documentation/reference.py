"""Pages of the reference, generated from the code: commands, config values, the Python API, and the HTTP routes.

A hook of MkDocs.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from omegaconf import OmegaConf

from mnist_cls.__main__ import COMMANDS
from mnist_cls.cli.help import comments_in, config_folder, settings_in
from mnist_cls.serving.openapi import openapi

SOURCE = Path(__file__).parents[2] / "src"

# Classes that are not exported, but returned by functions that are.
RETURNED = ["inference.predictions.Prediction", "tracing.records.Trace", "tracing.records.Record"]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the reference."""
    pages = {"commands": commands, "configuration": configuration, "api": api, "http": http}
    for name, page in pages.items():
        files.append(File.generated(config, f"reference/{name}.md", content="\n".join(page()) + "\n"))
    return files


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replace reStructuredText's `Example::` with `Example:`."""
    return html.replace("<p>Example::</p>", "<p>Example:</p>")


def commands() -> Iterator[str]:
    """Yield the lines of the page of the commands."""
    yield "# Commands\n"
    yield "`KEY=VALUE` sets a value. `--help` explains the values of a command, from the same comments as this page."
    for command, summary in COMMANDS.items():
        yield f"\n## {command}\n\n{summary}.\n"
        file = config_folder() / f"{command}.yaml"
        if file.is_file():
            config = _read(file)
            usage = config.get("hydra", {}).get("help", {}).get("header", f"python -m mnist_cls.{command}")
            yield f"```\n{usage.splitlines()[0]}\n```\n"
            if groups := [f"[`{group}`](configuration.md#{group})" for group in _choices(config) if group != "hydra"]:
                yield f"Groups of values: {', '.join(groups)}.\n"
            yield from _values(file)
        else:
            yield f"```\n{_help(command)}\n```"


def _help(command: str) -> str:
    """Return what a command without a config prints for `--help`."""
    arguments = [sys.executable, "-m", f"mnist_cls.{command}", "--help"]
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1"}
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.rstrip()


def configuration() -> Iterator[str]:
    """Yield the lines of the page of the groups: each choice with its values."""
    folder = config_folder()
    chosen = _choices(_read(folder / "train.yaml"))
    yield "# Configuration\n"
    yield "`GROUP=CHOICE` selects a choice, `GROUP.KEY=VALUE` changes one of its values. A choice that starts from"
    yield "another one also has its values. The values of the commands themselves are under [Commands](commands.md)."
    for group in sorted({file.parent.name for file in folder.glob("*/*.yaml")} - {"hydra"}):
        yield f"\n## {group}"
        for file in sorted((folder / group).glob("*.yaml"), key=lambda file: (file.stem != chosen[group], file.stem)):
            default = " (the default)" if file.stem == chosen[group] else ""
            yield f"\n### {group}={file.stem}{default}\n"
            yield from _values(file, group)


def _read(file: Path) -> dict[str, Any]:
    """Return a config as it is written, with its interpolations."""
    config: Any = OmegaConf.to_container(OmegaConf.load(file))
    return config or {}


def _choices(config: dict[str, Any]) -> dict[str, Any]:
    """Return the groups in the defaults of a config, and the choice of each."""
    choices = {}
    for entry in config.get("defaults", []):
        if not isinstance(entry, str):
            choices.update(entry)
    return choices


def _values(file: Path, group: str = "") -> Iterator[str]:
    """Yield a config's description, and a table of its values."""
    text = file.read_text(encoding="utf-8")
    config = _read(file)
    comments = comments_in(text) or comments_in(f"{text}defaults:")  # for a file without keys
    if group and "defaults" in comments:
        yield f"{_escaped(comments['defaults'])}\n"
    rows: list[tuple[str, str | None, str]] = []
    for base in config.pop("defaults", []):
        if group and isinstance(base, str):
            yield f"Starts from `{group}={base}`.\n"
        elif group:
            rows += [(key.removeprefix("override /"), choice, "") for key, choice in base.items()]
    prefix = f"{group}." if group and "@package _global_" not in text else ""
    for key, value in config.items():
        if group or key != "hydra":
            rows += [(f"{prefix}{name}", typed, comments.get(name, "")) for name, typed in settings_in(key, value)]
    if rows := [row for row in rows if row[1] is not None or row[2]]:
        yield from _table("value", "default", "")
    for key, typed, comment in rows:
        default = "" if typed is None else f"`{typed}`" if typed else '`""`'
        yield f"| `{key}` | {default} | {_escaped(comment)} |"


def _table(*columns: str) -> Iterator[str]:
    """Yield the head of a table."""
    yield f"| {' | '.join(columns)} |"
    yield "| --- " * len(columns) + "|"


def _escaped(text: str) -> str:
    """Escape what Markdown would take for markup, except in code."""
    code = re.split(r"(`[^`]+`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([_*<|\[\]])", r"\\\1", part) for part in code)


def api() -> Iterator[str]:
    """Yield the lines of the page of the Python API, which mkdocstrings fills.

    Raises:
        PluginError: If a public name has no docstring.
    """
    package = griffe.load("mnist_cls", search_paths=[SOURCE])
    names = [*(str(name) for name in package.exports or []), *RETURNED]
    if missing := [name for path in names for name in undocumented(package[path])]:
        raise PluginError(f"without a docstring: {', '.join(missing)}")
    yield "# Python\n"
    yield "`from mnist_cls import Predictor`, and likewise for each name without a module before it. A name is loaded"
    yield "when it is first used, so that code without PyTorch does not wait for its import."
    for name in names:
        yield f"\n::: mnist_cls.{name}"


def undocumented(item: griffe.Object | griffe.Alias) -> Iterator[str]:
    """Yield the paths of a public function or class, and of its public methods, that have no docstring."""
    if not item.has_docstring:
        yield item.path
    if item.is_class:
        for name, member in item.members.items():
            if not name.startswith("_") and member.is_function and not member.has_docstring:
                yield f"{item.path}.{name}"


def http() -> Iterator[str]:
    """Yield the lines of the page of the HTTP routes."""
    description = openapi("image_classifier")
    yield "# HTTP\n"
    yield "The routes of `python -m mnist_cls.serve`, as `/openapi.json` describes them. How to use them, limits and"
    yield "safety: [Serving](../serving.md). `{name}` is the name of the network.\n"
    yield "A status of 400 or more comes with an [Error](#error) in JSON. Only a route that says whether the server"
    yield "is ready answers 503 in the form of its 200. Any route can answer with these:\n"
    routes = [route["responses"] for methods in description["paths"].values() for route in methods.values()]
    everywhere = {status for status in routes[0] if all(route.get(status) == routes[0][status] for route in routes)}
    yield from _table("status", "reason")
    yield from (f"| {status} | {routes[0][status]['description']} |" for status in sorted(everywhere))
    for tag in [tag["name"] for tag in description["tags"]]:
        yield f"\n## {tag}"
        for path, methods in description["paths"].items():
            for method, route in methods.items():
                if tag in route["tags"]:
                    yield f"\n### {method.upper()} {path}\n"
                    yield from _route(route, everywhere)
    yield "\n## Objects"
    for name, schema in description["components"]["schemas"].items():
        yield f"\n### {name}\n"
        yield from _object(schema)


def _route(route: dict[str, Any], everywhere: set[str]) -> Iterator[str]:
    """Yield a route's summary, parameters, body and answers, without the statuses that every route can have."""
    yield f"{route['summary']}.\n"
    if parameters := route["parameters"]:
        yield from _table("parameter", "in", "type", "")
        for parameter in parameters:
            kind = _kind(parameter["schema"])
            yield f"| `{parameter['name']}` | {parameter['in']} | {kind} | {parameter['description']} |"
        yield ""
    if "requestBody" in route:
        yield f"Body: {_content(route['requestBody']['content'])}.\n"
    yield f"Answer: {_content(route['responses']['200']['content'])}.\n"
    others = {status: answer for status, answer in route["responses"].items() if status not in everywhere | {"200"}}
    if others:
        yield from _table("status", "reason")
        yield from (f"| {status} | {answer['description']} |" for status, answer in others.items())


def _content(content: dict[str, Any]) -> str:
    """Return the media types of a body, and the objects in them."""
    return " or ".join(
        f"`{media}`" + (f" of {_kind(body['schema'])}" if "application/json" in media and "schema" in body else "")
        for media, body in content.items()
    )


def _object(schema: dict[str, Any]) -> Iterator[str]:
    """Yield the properties of an object, or what it is if it has none."""
    if "properties" not in schema:
        yield f"{_kind(schema)}."
        return
    yield from _table("property", "type", "")
    for name, value in schema["properties"].items():
        optional = "" if name in schema.get("required", []) else "optional"
        described = ". ".join(filter(None, [value.get("description", ""), optional]))
        yield f"| `{name}` | {_kind(value)} | {described} |"


def _kind(schema: dict[str, Any]) -> str:
    """Return the type of a JSON value, in words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_kind(choice) for choice in schema["anyOf"])
    if "const" in schema or "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema.get("enum") or [schema["const"]])
    types = schema.get("type", "anything")
    text = " or ".join([types] if isinstance(types, str) else types)
    if "items" in schema and isinstance(schema["items"], dict):
        text = text.replace("array", f"array of {_kind(schema['items'])}")
    if "minimum" in schema or "maximum" in schema:
        text += f" from {schema.get('minimum', '')}" + (f" to {schema['maximum']}" if "maximum" in schema else "")
    return text
