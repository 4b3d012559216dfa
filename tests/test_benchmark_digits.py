"""`scripts/benchmark.py digits FOLDER` counts what is read correctly, read wrongly and refused, and draws the rest."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mnist_cls.data.scans import scan, scan_row

from .conftest import ROOT


def benchmark(*arguments: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "benchmark.py"), "digits", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def figures(printed: str, images: str, reader: str) -> list[float]:
    """Return the numbers of a row of the table, after the names."""
    line = next(line for line in printed.splitlines() if line.startswith(images) and f" {reader} " in line)
    count, _, rest = line.removeprefix(images).strip().partition(" ")
    return [float(count), *(float(number) for number in rest.split(reader, 1)[1].split())]


@pytest.mark.parametrize("named", ["by a table", "by their names", "by folders"])
def test_the_images_of_a_folder(tmp_path: Path, digits: np.ndarray, labels: list[int], named: str) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    table = ["path,label"]
    for number, (content, label) in enumerate(zip(scan(digits[:12], "photo"), labels, strict=False)):
        told = (label + 1) % 10 if number == 3 else label  # one label is wrong
        name = {"by a table": f"{number}.jpg", "by their names": f"a{number}_{told}.jpg"}.get(
            named, f"{told}/{number}.jpg"
        )
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
        table.append(f"{name},{told}")
    blank = "blank.png" if named == "by a table" else "b_5.png" if named == "by their names" else "5/blank.png"
    (folder / blank).parent.mkdir(exist_ok=True)
    Image.new("L", (50, 50), 255).save(folder / blank)
    table.append(f"{blank},5")
    broken = blank.replace("b", "broken", 1)
    (folder / broken).write_bytes(b"no image")
    table.append(f"{broken},5")
    if named == "by a table":
        (folder / "row.png").write_bytes(scan_row(digits[:4], 4))
        table.append(f"row.png,{''.join(map(str, labels[:4]))}")
        (folder / "labels.csv").write_text("\n".join(table))
    done = benchmark(folder, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert ("labels are from names, such as " in done.stdout) == (named != "by a table")
    for weights in ("image_classifier", "accurate"):
        assert figures(done.stdout, "single digits", weights) == [14, round(11 / 14, 4), 1, 2]
        assert f"single digits, {weights}: 1 refused: no digit found" in done.stdout
        if named == "by a table":
            assert figures(done.stdout, "rows of digits", weights) == [1, 1, 0, 0]
    assert figures(done.stdout, "single digits", "image_classifier, image only resized")[0] == 14
    assert "3 images not read correctly by one of the networks: digits.png" in done.stdout
    sheet = np.asarray(Image.open(tmp_path / "digits.png"))
    assert (sheet < 128).any(axis=0).sum() > 300  # two images side by side, and text


def test_a_folder_without_labels_is_refused_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    for folder, words in ((".", "no labelled images; expected labels.csv"), ("nowhere", "no labelled images")):
        done = benchmark(folder, folder=tmp_path)
        assert done.returncode == 2
        assert words in done.stderr
        assert len(done.stderr.splitlines()) == 1
