"""A file imports only from floors below its own; Lightning and Hydra stay where they are needed."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import mnist_cls

PACKAGE = Path(mnist_cls.__file__).parent

FLOORS = {
    "errors": -1,  # the ground under all floors: one exception, and how it quotes
    "files": 0,
    "processes": 0,
    "random_state": 0,
    "digests": 0,
    "archive": 0,
    "settings": 0,
    "memory": 0,
    "startup": 0,
    "compilation": 0,
    "calibration": 1,
    "flops": 0,
    "models": 0,
    "images": 0,
    "idx": 0,
    "preprocessing": 1,
    "data": 1,
    "checkpoint": 1,
    "checkpoint_io": 1.5,  # what Lightning needs of `checkpoint`, for `trainer`
    "figures": 1,
    "tracing": 1,
    "runs": 1,
    "config": 2,
    "module": 2,
    "trainer": 2,
    "callbacks": 2,
    "inference": 2,
    "trace_view": 2,
    "train": 3,
    "eval": 3,
    "predict": 3,
    "forward": 3,
    "export": 3,
}

CALLBACKS = {f"callbacks.{name}" for name in ("finite", "inspection", "outputs", "pictures", "saving")}
LIGHTNING = {"startup", "module", "trainer", "checkpoint_io", "data.datamodule", "train", "eval", *CALLBACKS}
HYDRA = {"config", "train", "eval", "predict", "forward", "export"}
RAY = {"inference.distributed"}

FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> Iterator[str]:
    """All that a file imports, anywhere in it, by absolute names."""
    here = ["mnist_cls", *path.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(here[: len(here) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, [base, node.module]))
            # `from . import x` names a module, `from .x import y` names one already
            yield from ([module] if node.module else (f"{module}.{alias.name}" for alias in node.names))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_only_from_floors_below(path: Path) -> None:
    room = name_of(path).split(".")[0]
    for imported in imports(path):
        parts = imported.split(".")
        if parts[0] != "mnist_cls" or len(parts) == 1 or parts[1] == room:
            continue
        below = FLOORS[parts[1]] < FLOORS[room]
        assert below, f"{room} (floor {FLOORS[room]}) imports {imported} (floor {FLOORS[parts[1]]})"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_lightning_hydra_and_ray_stay_where_they_are_needed(path: Path) -> None:
    libraries = {imported.split(".")[0] for imported in imports(path)}
    assert "lightning" not in libraries or name_of(path) in LIGHTNING
    assert "hydra" not in libraries or name_of(path) in HYDRA
    assert "ray" not in libraries or name_of(path) in RAY


@pytest.mark.parametrize("path", sorted((PACKAGE / "models").glob("*.py")), ids=lambda path: path.stem)
def test_networks_import_nothing_but_torch(path: Path) -> None:
    standard = {"collections", "difflib", "functools", "inspect", "itertools", "math", "types", "typing"}
    if path.stem == "registry":  # it reads the user's own files, too
        standard |= {"importlib", "pathlib", "sys", "traceback"}
    libraries = {name.split(".")[0] for name in imports(path) if not name.startswith("mnist_cls.models")}
    assert libraries <= {"torch"} | standard


def test_every_room_has_a_floor() -> None:
    assert {name_of(path).split(".")[0] for path in FILES} == set(FLOORS)
