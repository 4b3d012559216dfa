"""Tables are read as np.savetxt, pandas, spreadsheets and Kaggle write them, lists of paths as Windows writes them."""

import bz2
import gzip
import io
import lzma
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mnist_cls.errors import InputError
from mnist_cls.inference.options import PredictOptions
from mnist_cls.inference.pipeline import predict_files
from mnist_cls.inference.sinks import partial_file
from mnist_cls.inference.sources.detect import open_source
from mnist_cls.training.own_data import find_parts

from .conftest import ROOT, Run, one_line
from .test_sources import as_png, everything, same

CPU = PredictOptions(device="cpu")

PIXELS = [f"pixel{n}" for n in range(784)]


@pytest.fixture
def rows(digits: np.ndarray) -> np.ndarray:
    """The digits as a table, uint8 (100, 784)."""
    return digits.reshape(-1, 784)


@pytest.fixture
def labelled(rows: np.ndarray, labels: list[int]) -> np.ndarray:
    """The same table with a first column of labels, int64 (100, 785)."""
    return np.column_stack([labels, rows])


@pytest.mark.parametrize("separator", [" ", ",", "\t", ";"])
@pytest.mark.parametrize("name", ["digits.csv", "digits.txt", "digits.dat"])
@pytest.mark.parametrize("scale", [1, 255])
def test_np_savetxt_as_it_writes(
    tmp_path: Path, digits: np.ndarray, rows: np.ndarray, separator: str, name: str, scale: int
) -> None:
    np.savetxt(tmp_path / name, rows / scale, delimiter=separator)  # 0.000000000000000000e+00 ...
    same(everything(tmp_path / name), digits, [])


@pytest.mark.parametrize(
    "options",
    [
        {"fmt": "%d"},
        {"fmt": "%3d"},
        {"fmt": "%.1f", "delimiter": ";"},
        {"header": ",".join(["label", *(f"p{n}" for n in range(784))]), "delimiter": ","},
        {"header": "my digits", "footer": "the end", "delimiter": ","},
        {"newline": "\r\n"},
        {"encoding": "utf-16"},
    ],
)
def test_np_savetxt_with_options(
    tmp_path: Path, digits: np.ndarray, labels: list[int], labelled: np.ndarray, options: dict[str, Any]
) -> None:
    np.savetxt(tmp_path / "digits.txt", labelled, **options)
    same(everything(tmp_path / "digits.txt"), digits, labels)


@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("header", ["kaggle", "numbers", "none"])
@pytest.mark.parametrize("with_labels", [True, False])
def test_pandas_to_csv(
    tmp_path: Path,
    digits: np.ndarray,
    labels: list[int],
    labelled: np.ndarray,
    index: bool,
    header: str,
    with_labels: bool,
) -> None:
    frame = pd.DataFrame(labelled if with_labels else labelled[:, 1:])
    if header == "kaggle":
        frame.columns = pd.Index(["label"] * with_labels + PIXELS)
    frame.to_csv(tmp_path / "digits.csv", index=index, header=header != "none")
    if index and header == "none" and with_labels:
        with pytest.raises(InputError, match=r"has no header and 786 columns; expected 784 of pixels.*index=False"):
            open_source(tmp_path / "digits.csv")
        return
    same(everything(tmp_path / "digits.csv"), digits, labels if with_labels else [])


@pytest.mark.parametrize("name", ["Label", " LABEL ", "target", "class", "digit", "y"])
@pytest.mark.parametrize("last", [True, False])
def test_names_and_positions_of_labels(
    tmp_path: Path, digits: np.ndarray, labels: list[int], rows: np.ndarray, name: str, last: bool
) -> None:
    frame = pd.DataFrame(rows, columns=[f"{n // 28 + 1}x{n % 28 + 1}" for n in range(784)])
    frame.insert(784 if last else 0, name, labels)
    frame.to_csv(tmp_path / "digits.csv", index=False)
    frame.to_parquet(tmp_path / "digits.parquet")
    for kind in ("csv", "parquet"):
        same(everything(tmp_path / f"digits.{kind}"), digits, labels)


def test_labels_without_a_header_are_the_first_column_or_the_last(
    tmp_path: Path, digits: np.ndarray, labels: list[int], rows: np.ndarray
) -> None:
    np.savetxt(tmp_path / "last.csv", np.column_stack([rows, labels]), fmt="%d", delimiter=",")
    same(everything(tmp_path / "last.csv"), digits, labels)
    zeros = np.zeros((150, 784), int)  # sorted by label: in many rows, both columns can be labels
    zeros[:, 300] = 255
    sorted_rows = np.column_stack([zeros, np.repeat([0, 1], [120, 30])])
    np.savetxt(tmp_path / "sorted.csv", sorted_rows, fmt="%d", delimiter=",")
    assert everything(tmp_path / "sorted.csv", "none").targets == [0] * 120 + [1] * 30
    for first, last in ((1, 2), (77, 0), (0, 77)):
        np.savetxt(tmp_path / "a.csv", [[first, *[0] * 783, last]] * 3, fmt="%d", delimiter=",")
        with pytest.raises(InputError, match=r"a.csv: .* the first nor the last is clearly the labels, 0 to 9; add a"):
            open_source(tmp_path / "a.csv")


def test_an_index_of_pandas_that_is_no_label_is_named(tmp_path: Path, labels: list[int], rows: np.ndarray) -> None:
    for table in (pd.DataFrame(np.column_stack([labels, rows])), pd.DataFrame(np.column_stack([rows, labels]))):
        table.to_csv(tmp_path / "a.csv", header=False)
        with pytest.raises(InputError, match=r"786 columns; .* save it without pandas' index: .*index=False\)$"):
            open_source(tmp_path / "a.csv")
    for part in (pd.DataFrame(rows)[20:], pd.DataFrame(rows).sample(frac=1, random_state=0)):
        part.to_csv(tmp_path / "a.csv", header=False)
        with pytest.raises(InputError, match=r"first seems to number the rows; save it without .*index=False\)$"):
            open_source(tmp_path / "a.csv")


def excel(table: np.ndarray, separator: str, decimal: str, end: str = "\n", last: str = "") -> str:
    lines = [separator.join(f"{value:g}".replace(".", decimal) for value in row) + last for row in table.tolist()]
    return end.join([separator.join(["label", *PIXELS]) + last, *lines, "", ""])


def quoted(text: str) -> str:
    return "\n".join(",".join(f'"{cell}"' for cell in line.split(",")) for line in text.split())


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (lambda table: excel(table, ";", ","), "utf-8"),
        (lambda table: "sep=;\r\n" + excel(table, ";", ",", "\r\n"), "cp1252"),
        (lambda table: excel(table, ",", ".", "\r\n", ","), "utf-8-sig"),
        (lambda table: excel(table, "\t", ","), "utf-16"),
        (lambda table: excel(table, ",", ".") + excel(table, ",", "."), "utf-8"),
        (lambda table: quoted(excel(table, ",", ".")), "utf-8"),
    ],
    ids=["semicolons", "sep=", "bom, crlf, last comma", "utf-16", "header repeated", "quoted"],
)
@pytest.mark.parametrize("scale", [1, 255])
def test_what_spreadsheets_write(
    tmp_path: Path,
    digits: np.ndarray,
    labels: list[int],
    labelled: np.ndarray,
    text: Callable[[np.ndarray], str],
    encoding: str,
    scale: int,
) -> None:
    table = labelled.astype(float)
    table[:, 1:] /= scale
    content = text(table)
    (tmp_path / "digits.csv").write_bytes(content.encode(encoding))
    times = content.count("label")
    same(everything(tmp_path / "digits.csv"), np.concatenate([digits] * times), labels * times)


def test_the_value_of_a_row_does_not_depend_on_the_rows_beside_it(tmp_path: Path, digits: np.ndarray) -> None:
    kinds = [digits[0], digits[1] / 255, digits[2].astype(float), digits[3] > 127]
    lines = [",".join(str(value) for value in np.asarray(image).reshape(-1) * 1) for image in kinds]
    (tmp_path / "all.csv").write_text("\n".join(lines))
    found = everything(tmp_path / "all.csv", "none")
    for number, line in enumerate(lines):
        (tmp_path / "one.csv").write_text(line)
        np.testing.assert_array_equal(everything(tmp_path / "one.csv", "none").images[0], found.images[number])
    np.testing.assert_array_equal(found.images[:3], digits[:3])
    np.testing.assert_array_equal(found.images[3], (digits[3] > 127) * 255)


def test_broken_rows_are_error_rows_wherever_they_stand(tmp_path: Path, rows: np.ndarray) -> None:
    row = rows[0].astype(str).tolist()
    broken = [["#N/A", *row[1:]], ["", *row[1:]], ["nan", *row[1:]], [*row[:-1], "0.5"], [*row[:-1], "-1"], row[:-1]]
    for order in ([*broken, row], [row, *broken]):
        (tmp_path / "digits.csv").write_text("\n".join(map(",".join, order)))
        errors = everything(tmp_path / "digits.csv").errors
        assert [error is None for error in errors] == [line is row for line in order]
        assert "a pixel '#N/A'; expected whole numbers 0 to 255, or 0 to 1" in errors


def test_columns_that_are_no_pixels(tmp_path: Path, rows: np.ndarray, labels: list[int]) -> None:
    frame = pd.DataFrame(rows, columns=PIXELS)
    for kind, write in (("csv", pd.DataFrame.to_csv), ("parquet", pd.DataFrame.to_parquet)):
        path = tmp_path / f"a.{kind}"
        write(frame.assign(label=labels, writer=labels), path, index=False)
        with pytest.raises(InputError, match=r"a\.\w+: has 'writer' beside 784 columns of pixels; remove it"):
            open_source(path)
        write(frame.iloc[:, :64].assign(target=labels), path, index=False)
        with pytest.raises(
            InputError, match=r"has 64 columns of numbers, perhaps images of 8x8; expected 784, 28x28: save"
        ):
            open_source(path)
    np.savetxt(tmp_path / "eight.txt", rows[:, :64])
    with pytest.raises(InputError, match=r"has no header and 64 columns of numbers, perhaps images of 8x8"):
        open_source(tmp_path / "eight.txt")


def test_columns_that_were_sorted_by_name(
    tmp_path: Path, digits: np.ndarray, labels: list[int], rows: np.ndarray
) -> None:
    for first in (0, 1):
        frame = pd.DataFrame(rows, columns=[f"pixel{n + first}" for n in range(784)]).assign(label=labels)
        frame.sort_index(axis=1).to_csv(tmp_path / "a.csv", index=False)
        frame.sort_index(axis=1).to_parquet(tmp_path / "a.parquet")
        for kind in ("csv", "parquet"):
            same(everything(tmp_path / f"a.{kind}"), digits, labels)


def test_columns_of_the_same_name(tmp_path: Path, rows: np.ndarray, labels: list[int]) -> None:
    table = pa.table([pa.array(labels)] * 2 + [pa.array(column) for column in rows.T], ["label", "label", *PIXELS])
    pq.write_table(table, tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text(",".join(table.column_names))
    for kind in ("csv", "parquet"):
        with pytest.raises(InputError, match=rf"a.{kind}: has several columns called 'label'; remove or rename them"):
            open_source(tmp_path / f"a.{kind}")


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("training.pt", "save the images and labels in a .npz"),
        ("mnist.pkl.gz", "save the images and labels in a .npz"),
        ("mnist.MAT", "save the images and labels in a .npz"),
        ("digits.xlsx", "save the table as .csv"),
        ("scans.rar", "unpack it"),
    ],
)
def test_files_that_are_not_read(tmp_path: Path, digits: np.ndarray, name: str, advice: str) -> None:
    with (gzip.open if name.endswith(".gz") else open)(tmp_path / name, "wb") as file:
        pickle.dump(digits, file)
    line = rf"{name}: {Path(name.lower()).suffix} files are not read; {advice}$"
    with pytest.raises(InputError, match=rf"^input={tmp_path}/{line}"):
        open_source(tmp_path / name)
    with pytest.raises(InputError, match=rf"^data.dir={tmp_path}/{line}"):
        find_parts(tmp_path / name)


def test_parquet_as_pandas_writes_it(tmp_path: Path, digits: np.ndarray, labels: list[int], rows: np.ndarray) -> None:
    frame = pd.DataFrame(rows, columns=[str(n) for n in range(784)]).assign(label=labels)
    path = tmp_path / "a.parquet"
    for changed in (
        frame[frame.label >= 0].sample(frac=1, random_state=0).sort_index(),  # pandas keeps the index as a column
        frame.astype({"label": str}),
        frame.astype(float),
        frame.astype(str),
        frame.assign(split="train"),
        frame.drop(columns="label").div(255).assign(label=labels),
        pd.DataFrame({"Pixels": list(rows), "Label": labels}),
        pd.DataFrame({"pixels": (rows / 255).tolist(), "label": labels}),
    ):
        changed.to_parquet(path)
        same(everything(path), digits, labels)
    table = pa.table({"image": [{"bytes": as_png(digit), "path": "a.png"} for digit in digits], "label": labels})
    pq.write_table(table, path)
    same(everything(path), digits, labels)


def test_csv_with_lists_of_pixels(tmp_path: Path, digits: np.ndarray, labels: list[int], rows: np.ndarray) -> None:
    for pixels in (rows.tolist(), list(rows), digits.tolist(), [" ".join(map(str, row)) for row in rows.tolist()]):
        pd.DataFrame({"label": labels, "pixels": pixels}).to_csv(tmp_path / "a.csv")
        same(everything(tmp_path / "a.csv"), digits, labels)


COMPRESSED: dict[str, Callable[[bytes], bytes]] = {
    "csv.gz": gzip.compress,
    "tsv.gz": gzip.compress,
    "txt.gz": gzip.compress,
    "csv.bz2": bz2.compress,
    "csv.xz": lzma.compress,
    "": gzip.compress,
}


@pytest.mark.parametrize("kind", COMPRESSED)
def test_compressed_tables(
    tmp_path: Path, digits: np.ndarray, labels: list[int], labelled: np.ndarray, kind: str
) -> None:
    text = excel(labelled, "\t" if kind.startswith("tsv") else ",", ".").encode()
    path = tmp_path / f"digits.{kind}"
    path.write_bytes(COMPRESSED[kind](text))
    same(everything(path), digits, labels)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"digits\.\S*: damaged, or not a CSV file"):
        everything(path)


def test_tables_in_zip_archives(tmp_path: Path, digits: np.ndarray, labels: list[int], labelled: np.ndarray) -> None:
    train = excel(labelled, ",", ".")
    frame = pd.DataFrame(labelled[:, 1:], columns=PIXELS)
    with zipfile.ZipFile(tmp_path / "digit-recognizer.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("sample_submission.csv", "ImageId,Label\n1,0\n")
        archive.writestr("test.csv", frame.to_csv(index=False))
        archive.writestr("train.csv", train)
    path = tmp_path / "digit-recognizer.zip"
    with pytest.raises(InputError, match=r"holds sample_submission.csv, test.csv, train.csv; name one .*zip/test.csv$"):
        open_source(path)
    same(everything(path / "test.csv"), digits, [])
    same(everything(path / "train.csv"), digits, labels)
    with pytest.raises(InputError, match=r"zip/nothing.csv: digit-recognizer.zip holds sample_submission.csv, test.c"):
        open_source(path / "nothing.csv")
    assert open_source(path / "test.csv").identity != open_source(path / "train.csv").identity
    frame.to_csv(tmp_path / "one.zip", index=False)
    same(everything(tmp_path / "one.zip"), digits)
    content = bytearray((tmp_path / "one.zip").read_bytes())
    content[len(content) // 2] ^= 255
    (tmp_path / "one.zip").write_bytes(content)
    with pytest.raises(InputError, match=r"one.zip.*: damaged, or not a CSV file"):
        everything(tmp_path / "one.zip")


LIMITED = """
import resource, sys
from mnist_cls.errors import InputError
from mnist_cls.inference.sources.detect import open_source
from mnist_cls.training.own_data import find_parts
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (700 << 20),) * 2)
try:
    print(sum(len(block) for block in open_source(sys.argv[1]).blocks(0)))
except InputError as error:
    print(error)
"""


def test_compressed_tables_are_read_in_bounded_memory(tmp_path: Path, rows: np.ndarray) -> None:
    line = (",".join(map(str, rows[0].tolist())) + "\n").encode()
    with gzip.open(tmp_path / "many.csv.gz", "wb", 1) as file:
        for _ in range(40):
            file.write(line * 100)
    with gzip.open(tmp_path / "bomb.csv.gz", "wb", 1) as file:  # one line of 1 GB
        for _ in range(1000):
            file.write(b"0" * (1 << 20))
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(tmp_path / "many.csv.gz", "bomb.csv")
    for name, words in (("many.csv.gz", "4000"), ("bomb.csv.gz", "a line of more than 1"), ("bomb.zip", "bomb.csv")):
        command = [sys.executable, "-c", LIMITED, str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        assert words in done.stdout
        assert done.stdout.count("\n") == 1


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lists_of_paths_as_windows_writes_them(
    tmp_path: Path, digits: np.ndarray, monkeypatch: pytest.MonkeyPatch, encoding: str, end: str
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["ziffer Ж.png", "b b.png ", "c.png"]
    for name, digit in zip(names, digits, strict=False):
        Path(name).write_bytes(as_png(digit))
    mark = "\ufeff" if encoding.endswith("e") else ""
    content = (mark + end.join([names[0], names[1], f'"{names[2]}"', ""])).encode(encoding)
    Path("list.txt").write_bytes(content)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    for source in ("list.txt", "-"):
        found = everything(source)
        same(found, digits[:3])
        assert found.names == names


def test_a_picture_in_numbers_is_no_table(tmp_path: Path, digits: np.ndarray, rows: np.ndarray) -> None:
    (tmp_path / "seven.pgm").write_text(" ".join(["P2 28 28 255", *map(str, rows[0].tolist())]))
    same(everything(tmp_path / "seven.pgm"), digits[:1])


def test_keras_npz(run: Run, tmp_path: Path, digits: np.ndarray, labels: list[int]) -> None:
    arrays: dict[str, Any] = {
        "x_train": digits[50:],
        "y_train": labels[50:],
        "x_test": digits[:50],
        "y_test": labels[:50],
    }
    np.savez(tmp_path / "mnist.npz", **arrays)
    one_line(run("predict", "input=mnist.npz"), "holds x_train, y_train, x_test, y_test", "mnist.npz/x_test")
    same(everything(tmp_path / "mnist.npz" / "x_test"), digits[:50], labels[:50])
    same(everything(tmp_path / "mnist.npz" / "x_train"), digits[50:], labels[50:])
    for images, targets in (("X", "y"), ("arr_0", "arr_1"), ("data", "target"), ("test_images", "test_labels")):
        pair: dict[str, Any] = {images: digits, targets: labels}
        np.savez(tmp_path / "a.npz", **pair)
        same(everything(tmp_path / "a.npz"), digits, labels)
    one_line(run("predict", "input=a.npz/nothing"), "holds test_images, test_labels, and no nothing")


def test_a_submission_for_kaggle(run: Run, tmp_path: Path, rows: np.ndarray, labels: list[int]) -> None:
    frame = pd.DataFrame(rows, columns=PIXELS)
    frame.to_csv(tmp_path / "test.csv", index=False)
    expected = "".join(f"{number},{label}\n" for number, label in enumerate(labels, 1))
    done = run("predict", "input=test.csv", "output=submission.csv", "format=kaggle", "min_confidence=0.9")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "submission.csv").read_text() == f"ImageId,Label\n{expected}"
    done = run("predict", "input=test.csv", "output=-", "format=kaggle")
    assert done.stdout == f"ImageId,Label\n{expected}"
    frame = frame.astype(int)
    frame.loc[1, "pixel3"] = 999
    frame.to_csv(tmp_path / "test.csv", index=False)
    command = [sys.executable, str(ROOT / "scripts" / "predict_batch.py"), "test.csv", "s.csv", "--format", "kaggle"]
    broken = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert broken.returncode == 1, broken.stderr
    assert "100 images, 1 with an error" in broken.stdout
    assert "Kaggle refuses a file with empty labels" in broken.stdout
    assert (tmp_path / "s.csv").read_text() == f"ImageId,Label\n{expected}".replace("\n2,2\n", "\n2,\n")


def test_submissions_that_kaggle_would_refuse(run: Run, tmp_path: Path, png: Path) -> None:
    for arguments, words in (
        (["output=a.parquet", "format=kaggle"], "output=a.parquet: format=kaggle needs a name that ends in .csv, or -"),
        (["format=kaggle"], "format=kaggle needs a name that ends in .csv, or -"),
        (["output=a.csv", "format=csv"], "format=csv: expected kaggle"),
        (["output=a.csv", "format=kaggle", "split=true"], "format=kaggle and split=true exclude each other"),
        (["output=a.csv", "format=kaggle"], "these images have names, such as"),
    ):
        one_line(run("predict", f"input={png}", *arguments), words)
    command = [sys.executable, "-m", "mnist_cls.predict_batch", str(png), "a", "--format", "kaggle", "--engine", "ray"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("error: --format and --engine ray exclude each other; leave one of them out\n")
    assert {path.name for path in tmp_path.iterdir()} == {png.name}


def test_a_failed_submission_is_resumed(
    tmp_path: Path, rows: np.ndarray, labels: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partial_file, "INTERVAL", 0)
    path, output = tmp_path / "test.csv.gz", tmp_path / "submission.csv"
    np.savetxt(path, np.tile(rows, (50, 1)), fmt="%d", delimiter=",")
    content, times = path.read_bytes(), path.stat()
    path.write_bytes(content[:-8] + bytes(8))  # its checksum is wrong now
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(InputError, match=r"test.csv.gz: damaged, or not a CSV file \(CRC check failed"):
        predict_files(path, output, CPU, format="kaggle")
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(InputError, match="was started with format=kaggle, this run has format=None"):
        predict_files(path, output, CPU, resume=True)
    assert predict_files(path, output, CPU, format="kaggle", resume=True).earlier >= 2048
    lines = [f"{number},{label}\n" for number, label in enumerate(labels * 50, 1)]
    assert output.read_text() == "".join(["ImageId,Label\n", *lines])
