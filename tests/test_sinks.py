"""Every format holds all rows, with all columns that it can hold; nothing but rows is on standard output."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mnist_cls import Predictor
from mnist_cls.errors import InputError
from mnist_cls.files import whole_file
from mnist_cls.inference.options import PredictOptions
from mnist_cls.inference.pipeline import predict_files
from mnist_cls.inference.predictions import Predictions
from mnist_cls.inference.progress import Progress
from mnist_cls.inference.rows import READING_COLUMNS, Rows, prediction_rows, reading_rows
from mnist_cls.inference.sinks.sink import open_sink

from .conftest import ROOT, Run, one_line

CPU = PredictOptions(device="cpu")


def random_rows(count: int, broken: int = 1) -> Rows:
    """Rows with random probabilities, one of them an error."""
    probabilities = np.random.default_rng(0).dirichlet(np.ones(10), count).astype(np.float32)
    probabilities[broken] = np.nan
    labels = np.nan_to_num(probabilities).argmax(1)
    errors: list[str | None] = [None] * count
    errors[broken] = "no digit"
    predictions = Predictions(labels, probabilities.max(1), probabilities, errors)
    return prediction_rows([f"{number}.png" for number in range(count)], predictions, {})


def test_npy_has_the_probabilities_unrounded(tmp_path: Path, digits: np.ndarray) -> None:
    images = digits.astype(np.float32) / 255
    images[3] = np.nan
    np.save(tmp_path / "digits.npy", images)
    predict_files(tmp_path / "digits.npy", tmp_path / "rows.npy", PredictOptions(device="cpu", engine="eager"))
    found = np.load(tmp_path / "rows.npy")
    assert (found.dtype, found.shape) == (np.float32, (100, 10))
    np.testing.assert_array_equal(found, Predictor(device="cpu", engine="eager")(images).probabilities)
    assert np.isnan(found[3]).all()


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "npy"])
def test_no_rows_and_many(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"rows.{kind}"
    with open_sink(path):
        assert not path.exists()
    whole = random_rows(70_000)
    assert whole.probabilities is not None
    parts = [
        Rows({k: v[first:last] for k, v in whole.columns.items()}, whole.probabilities[first:last])
        for first, last in ((0, 100), (100, 69_999), (69_999, 70_000))
    ]
    for number, given in enumerate([[whole], parts]):
        with open_sink(tmp_path / f"{number}.{kind}") as sink:
            for rows in given:
                sink.write(rows, Progress())
    assert (tmp_path / f"0.{kind}").read_bytes() == (tmp_path / f"1.{kind}").read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"0.{kind}", f"1.{kind}", path.name]
    if kind == "parquet":
        assert pq.read_metadata(tmp_path / "0.parquet").num_row_groups == 2
        assert len(pq.read_table(path)) == 0
    elif kind == "npy":
        np.testing.assert_array_equal(np.load(tmp_path / "0.npy"), whole.probabilities)
        assert np.load(path).shape == (0, 10)


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_names_that_a_spreadsheet_would_run_as_formulas(tmp_path: Path, start: str) -> None:
    rows = random_rows(2)
    rows.columns["path"][0] = f"{start}1+cmd|'/C calc'!A0.png"
    for kind in ("csv", "jsonl"):
        with open_sink(tmp_path / f"rows.{kind}") as sink:
            sink.write(rows, Progress())
    with (tmp_path / "rows.csv").open(newline="") as file:
        assert next(csv.DictReader(file))["path"] == f"./{rows.columns['path'][0]}"
    line = (tmp_path / "rows.jsonl").read_text(encoding="utf-8").split("\n")[0]
    assert json.loads(line)["path"] == rows.columns["path"][0]


@pytest.mark.parametrize(("output", "script"), [("-", False), ("-.jsonl", True)])
def test_standard_output_has_the_rows_and_nothing_else(
    run: Run, tmp_path: Path, png: Path, output: str, script: bool
) -> None:
    if script:
        command = [sys.executable, str(ROOT / "scripts" / "predict_batch.py"), "seven.png", output]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    else:
        done = run("predict", "input=seven.png", f"output={output}")
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = (
        list(csv.DictReader(io.StringIO(done.stdout)))
        if output == "-"
        else [json.loads(line) for line in done.stdout.splitlines()]
    )
    assert [(row["path"], int(row["label"])) for row in rows] == [("seven.png", 7)]
    assert done.stderr.startswith("1 image, ")


def test_a_closed_pipe_ends_quietly(tmp_path: Path) -> None:
    np.save(tmp_path / "digits.npy", np.zeros((9000, 28, 28), np.uint8))
    predict = f"{sys.executable} -m mnist_cls.predict input=digits.npy output=- checkpoint=image_classifier"
    done = subprocess.run(f"{predict} | head -n 2", shell=True, cwd=tmp_path, capture_output=True, text=True)  # noqa: S602
    assert done.stdout.count("\n") == 2
    assert done.stderr == ""


def test_what_cannot_be_written_is_one_line(run: Run, png: Path, tmp_path: Path) -> None:
    for output in ("rows.txt", "-.parquet", "-.npy"):
        with pytest.raises(InputError, match=r"output=.*expected a name that ends in .csv, .jsonl, .parquet, .npy"):
            predict_files(png, output)
    for printed in (None, "-"):
        with pytest.raises(InputError, match="resume=true needs a file as output"):
            predict_files(png, printed, resume=True)
    with pytest.raises(InputError, match=r"a .npy holds probabilities, not readings"):
        predict_files(png, tmp_path / "rows.npy", PredictOptions(split=True))
    with pytest.raises(InputError, match="is_digit and split=true exclude each other"):
        predict_files(png, options=PredictOptions(split=True, is_digit=True))
    one_line(run("predict", f"input={png}", "preprocess=some"), "preprocess=some")


def readings() -> Rows:
    """A row of two digits, an error, a row of one digit."""
    probabilities = np.full((3, 10), 0.01, np.float32)
    probabilities[[0, 1, 2], [4, 2, 9]] = 0.91
    predictions = Predictions(probabilities.argmax(1), probabilities.max(1), probabilities, [None] * 3)
    boxes = np.arange(12, dtype=np.int32).reshape(3, 4)
    return reading_rows(["a", "b", "c"], predictions, [2, 0, 1], boxes, [None, "no digit", None])


def test_rows_of_digits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for output in ("rows.csv", "rows.jsonl", "rows.parquet", None):
        with open_sink(output and tmp_path / output, READING_COLUMNS) as sink:
            sink.write(readings(), Progress())
    with (tmp_path / "rows.csv").open() as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == READING_COLUMNS
    assert json.loads(table[0]["boxes"]) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert [row["reading"] for row in table] == ["42", "", "9"]
    objects = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert objects[0]["confidences"] == [0.91, 0.91]
    assert objects[0]["confidence"] == pytest.approx(0.91**2, abs=1e-6)
    assert objects[1] == {"path": "b", **dict.fromkeys(READING_COLUMNS[1:-1]), "error": "no digit"}
    columns = pq.read_table(tmp_path / "rows.parquet").to_pydict()
    assert columns["boxes"] == [[[0, 1, 2, 3], [4, 5, 6, 7]], None, [[8, 9, 10, 11]]]
    shown = capsys.readouterr().out
    for text in ("path", "reading", "confidence", "42", "82.81%", "no digit"):
        assert text in shown
    assert "boxes" not in shown


def test_what_the_network_saw_can_be_saved(tmp_path: Path, digits: np.ndarray) -> None:
    place = tmp_path / "scans"
    place.mkdir()
    Image.fromarray(digits[0]).save(place / "=a b;c.png")
    (place / "empty.png").write_bytes(b"")
    Image.fromarray(digits[1]).save(place / "x.png")
    predict_files(place, tmp_path / "rows.csv", CPU, save_preprocessed=tmp_path / "seen" / "here")
    seen = sorted((tmp_path / "seen" / "here").iterdir())
    assert [path.name for path in seen] == ["000000000__a_b_c.png", "000000002_x.png"]
    np.testing.assert_array_equal(np.asarray(Image.open(seen[0])), digits[0])
    predict_files(
        place, tmp_path / "rows.csv", PredictOptions(device="cpu", split=True), save_preprocessed=tmp_path / "split"
    )
    assert "000000002_x_0.png" in [path.name for path in (tmp_path / "split").iterdir()]


def test_a_run_leaves_the_temporary_files_of_others(tmp_path: Path, png: Path) -> None:
    with whole_file(tmp_path / "rows.npy") as of_others, whole_file(tmp_path / "rows-2.csv") as of_more:
        (tmp_path / ".unfinished-rows-abcd_123.csv").write_text("of a run that was killed")
        predict_files(png, tmp_path / "rows.csv", CPU)
        assert {path.name for path in tmp_path.glob(".*")} == {of_others.name, of_more.name}


def test_two_runs_do_not_write_the_same_output(run: Run, tmp_path: Path, png: Path) -> None:
    with open_sink(tmp_path / "rows.csv"):
        one_line(run("predict", f"input={png}", f"output={tmp_path / 'rows.csv'}"), "another run is writing it")
