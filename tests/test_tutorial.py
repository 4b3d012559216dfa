"""The notebooks of the tutorial run offline, and their stored outputs are what their cells compute today."""

import base64
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from .conftest import ROOT

TUTORIAL = ROOT / "docs" / "tutorial"
SCRIPT = ROOT / "scripts" / "run_tutorial.py"
NAMES = sorted(path.name for path in TUTORIAL.glob("*.ipynb"))

NUMBER = re.compile(r"-?\d+(?:\.\d*)?(?:e[+-]\d+)?%?")
TOKEN = re.compile(rf"{NUMBER.pattern}|\w+|[^\w\s]")
MARKUP = re.compile(r"<style>.*?</style>|<[^>]*>", re.DOTALL)
# Whatever would be downloaded fails.
NO_NETWORK = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:1")


def read(path: Path) -> list[dict[str, Any]]:
    cells: list[dict[str, Any]] = json.loads(path.read_text())["cells"]
    return cells


def run_script(notebook: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), str(notebook)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, **NO_NETWORK})


def outputs(cell: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the type and content of what a cell prints and shows, warnings excepted."""
    for output in cell.get("outputs", []):
        if output.get("name") == "stdout":
            yield "text/plain", "".join(output["text"])
        for kind in ("image/png", "text/html", "text/plain"):
            if kind in output.get("data", {}):
                yield kind, "".join(output["data"][kind])
                break  # the others are the same for front ends that cannot show this one


def pixels(png: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"), float)


def agree(kind: str, one: str, other: str) -> bool:
    if kind == "image/png":
        first, second = (pixels(text) for text in (one, other))
        return first.shape == second.shape and bool(np.abs(first - second).mean() < 8)
    tokens, other_tokens = (TOKEN.findall(MARKUP.sub(" ", text)) for text in (one, other))
    return len(tokens) == len(other_tokens) and all(map(agreeing_tokens, tokens, other_tokens))


def agreeing_tokens(one: str, other: str) -> bool:
    """Compare words and whole numbers exactly, fractions and percentages up to what processors and versions change."""
    if one == other:
        return True
    if not (NUMBER.fullmatch(one) and NUMBER.fullmatch(other)) or all(x.lstrip("-").isdigit() for x in (one, other)):
        return False
    tolerance = 1.0 if one.endswith("%") else 0.006
    return math.isclose(float(one.rstrip("%")), float(other.rstrip("%")), rel_tol=0.02, abs_tol=tolerance)


def changed_cells(stored: list[dict[str, Any]], new: list[dict[str, Any]]) -> Iterator[str]:
    """Describe each cell whose outputs changed, cells with the tag "varies" excepted."""
    for number, (before, after) in enumerate(zip(stored, new, strict=True), 1):
        if "varies" in before["metadata"].get("tags", []):
            continue
        found, expected = list(outputs(after)), list(outputs(before))
        if [kind for kind, _ in found] != [kind for kind, _ in expected]:
            yield f"cell {number} shows {[kind for kind, _ in found]}, stored are {[kind for kind, _ in expected]}"
        for (kind, text), (_, text_before) in zip(found, expected, strict=False):
            if not agree(kind, text_before, text):
                yield f"cell {number} shows {kind}\n{text[:2000]}\nstored is\n{text_before[:2000]}"


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_and_shows_what_it_stores(name: str, tmp_path: Path) -> None:
    for folder in ("tutorial", "scans", "digits"):
        shutil.copytree(ROOT / "docs" / folder, tmp_path / folder)
    done = run_script(tmp_path / "tutorial" / name)
    assert done.returncode == 0, done.stderr
    changes = "\n".join(changed_cells(read(TUTORIAL / name), read(tmp_path / "tutorial" / name)))
    store = f"python scripts/run_tutorial.py docs/tutorial/{name}"
    assert not changes, f"{name}: {changes}\nIf this is as it should be, store the new outputs: {store}"


@pytest.mark.parametrize("name", NAMES)
def test_a_stored_notebook_is_clean(name: str) -> None:
    text = (TUTORIAL / name).read_text()
    assert len(text) < 300_000
    assert "\\u001b" not in text  # colours of a terminal
    cells = [cell for cell in read(TUTORIAL / name) if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        assert not [output for output in cell["outputs"] if output.get("name") == "stderr"], cell["outputs"]
        for _, shown in outputs(cell):
            assert str(ROOT) not in shown
            assert "ipykernel_" not in shown  # the folder in which a cell pretends to be a file


@pytest.mark.parametrize("name", NAMES)
def test_the_links_of_a_notebook_lead_somewhere(name: str) -> None:
    texts = ["".join(cell["source"]) for cell in read(TUTORIAL / name) if cell["cell_type"] == "markdown"]
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", "\n".join(texts)):
        assert (TUTORIAL / target).exists(), target


def test_a_changed_output_is_noticed() -> None:
    def printing(text: str, *tags: str) -> list[dict[str, Any]]:
        return [{"metadata": {"tags": list(tags)}, "outputs": [{"name": "stdout", "text": [text]}]}]

    assert not list(changed_cells(printing("y = 2.5000  "), printing("y = 2.5001")))
    assert not list(changed_cells(printing("[ 0.001, 97%]"), printing("[-0.001, 96%]")))
    assert not list(changed_cells(printing("y = 2.5", "varies"), printing("y = 3.5", "varies")))
    assert list(changed_cells(printing("y = 2.5"), printing("y = 2.6")))
    assert list(changed_cells(printing("y = 2.5"), printing("z = 2.5")))
    assert list(changed_cells(printing("12 values"), printing("13 values")))
    assert list(changed_cells(printing("y = 2.5"), [{"metadata": {}, "outputs": []}]))


def test_a_cell_that_fails_is_named(tmp_path: Path) -> None:
    notebook = json.loads((TUTORIAL / NAMES[0]).read_text())
    notebook["cells"] = [{"cell_type": "code", "id": "a", "metadata": {}, "source": "1 / 0", "outputs": []}]
    notebook["cells"][0]["execution_count"] = None
    path = tmp_path / "broken.ipynb"
    path.write_text(json.dumps(notebook))
    before = path.read_text()
    done = run_script(path)
    assert done.returncode == 1
    assert "broken.ipynb" in done.stderr
    assert "ZeroDivisionError" in done.stderr
    assert path.read_text() == before
