"""Images are read from files, folders, patterns, lists, arrays, archives and tables; in order, each once."""

import base64
import csv
import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mnist_cls.errors import InputError
from mnist_cls.inference.decoding.batches import NamesDigest, batches_of
from mnist_cls.inference.decoding.pool import Decoders
from mnist_cls.inference.options import PredictOptions
from mnist_cls.inference.pipeline import predict_files
from mnist_cls.inference.progress import Progress
from mnist_cls.inference.sources.blocks import Sample, Source, blocks_of
from mnist_cls.inference.sources.detect import open_source

from .conftest import Run

CPU = PredictOptions(device="cpu")


class Found(NamedTuple):
    names: list[str]
    images: np.ndarray
    errors: list[str | None]
    targets: list[int | None]


def everything(input: str | Path, preprocess: str = "auto", earlier: Progress = Progress()) -> Found:
    """All inputs of a source, or those after an earlier run."""
    source = open_source(input, preprocess)
    with Decoders(preprocess, split=False) as decoders:
        batches = list(batches_of(source, decoders, earlier))
    names = [name for batch in batches for name in batch.names]
    assert source.count is None or source.count == len(names) or earlier.inputs
    assert all(len(batch.names) == source.batch_size for batch in batches[:-1])
    return Found(
        names,
        np.concatenate([batch.decoded.images for batch in batches]),
        [error for batch in batches for error in batch.decoded.errors],
        [target for batch in batches for target in batch.targets],
    )


def as_png(image: np.ndarray, kind: str = "PNG") -> bytes:
    content = io.BytesIO()
    Image.fromarray(image).save(content, kind)
    return content.getvalue()


def same(found: Found, digits: np.ndarray, labels: list[int] | None = None) -> None:
    assert found.errors == [None] * len(digits)
    np.testing.assert_array_equal(found.images, digits)
    if labels is not None:
        assert found.targets == labels


@pytest.fixture
def scans(tmp_path: Path, digits: np.ndarray) -> Path:
    """Ten digits in two folders."""
    for number, digit in enumerate(digits[:10]):
        file = tmp_path / "scans" / f"{number // 5}x" / f"{number:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(as_png(digit))
    return tmp_path / "scans"


def test_a_folder_in_the_order_of_its_names(scans: Path, digits: np.ndarray) -> None:
    (scans / ".hidden.png").write_bytes(b"")
    found = everything(scans)
    same(found, digits[:10])
    assert found.names == [str(scans / f"{number // 5}x" / f"{number:02}.png") for number in range(10)]
    assert found.targets == []


def test_a_folder_of_folders_named_by_their_digit(tmp_path: Path, digits: np.ndarray, labels: list[int]) -> None:
    for number in range(20):
        file = tmp_path / "all" / str(labels[number]) / f"{number:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(as_png(digits[number]))
    found = everything(tmp_path / "all")
    assert found.targets == sorted(labels[:20])
    (tmp_path / "all" / "notes.txt").write_text("no image")
    assert everything(tmp_path / "all").targets == [*sorted(labels[:20]), None]
    (tmp_path / "all" / "letters").mkdir()
    assert everything(tmp_path / "all").targets == []
    (tmp_path / "some" / "3").mkdir(parents=True)
    for name in ("3/a.png", "7"):
        (tmp_path / "some" / name).write_bytes(as_png(digits[0]))
    assert everything(tmp_path / "some").targets == [3, None]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("0x/*.png", range(5)),
        ("*/*.png", range(10)),
        ("*x", range(10)),
        ("**/*[13].png", [1, 3]),
        ("?x/0[5-6].png", [5, 6]),
        ("**", range(10)),
    ],
)
def test_patterns(scans: Path, digits: np.ndarray, pattern: str, expected: list[int]) -> None:
    same(everything(f"{scans}/{pattern}"), digits[list(expected)])


def test_a_pattern_that_matches_nothing(scans: Path) -> None:
    with pytest.raises(InputError, match=r"\*.jpg: matches no file"):
        open_source(f"{scans}/*.jpg")


def test_a_pattern_is_relative_to_the_working_directory(scans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(scans.parent)
    assert everything("scans/0x/*.png").names == [f"scans/0x/{number:02}.png" for number in range(5)]


@pytest.mark.parametrize("separator", ["\n", "\r\n", "\0"])
def test_a_list_of_paths(scans: Path, digits: np.ndarray, separator: str) -> None:
    names = [str(scans / f"{number // 5}x" / f"{number:02}.png") for number in (3, 1, 7, 1)]
    (scans / "list.txt").write_text(separator.join(["", *names, ""]), newline="")
    same(everything(scans / "list.txt"), digits[[3, 1, 7, 1]])
    (scans / "list.txt").write_text(separator)
    with pytest.raises(InputError, match="the list is empty"):
        open_source(scans / "list.txt")


@pytest.mark.parametrize("separator", ["\n", "\0"])
def test_paths_from_standard_input(run: Run, scans: Path, separator: str) -> None:
    names = [f"scans/0x/{number:02}.png" for number in (2, 0)] + ["scans/nothing.png"]
    done = run("predict", "input=-", "output=-.jsonl", input=separator.join(names))
    assert done.returncode == 1, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["path"] for row in rows] == names
    assert rows[2]["error"] == "No such file or directory"


@pytest.mark.parametrize("shape", [(100, 28, 28), (100, 784), (100, 1, 28, 28), (100, 28, 28, 1)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_every_shape_and_order(tmp_path: Path, digits: np.ndarray, shape: Any, order: Any) -> None:
    np.save(tmp_path / "digits.npy", np.asarray(digits.reshape(shape), order=order))
    found = everything(tmp_path / "digits.npy")
    same(found, digits)
    assert found.names == [str(index) for index in range(100)]


def test_a_single_image_in_fortrans_order(tmp_path: Path, digits: np.ndarray) -> None:
    np.save(tmp_path / "digit.npy", np.asfortranarray(digits[0]))
    same(everything(tmp_path / "digit.npy"), digits[:1])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_with_labels(tmp_path: Path, digits: np.ndarray, labels: list[int], save: Callable[..., None]) -> None:
    save(tmp_path / "digits.zip.npz", images=digits, labels=np.array(labels))
    os.replace(tmp_path / "digits.zip.npz", tmp_path / "digits")  # noqa: PTH105
    same(everything(tmp_path / "digits"), digits, labels)


def test_large_arrays_come_in_slices(tmp_path: Path, digits: np.ndarray) -> None:
    many = np.concatenate([digits] * 50)  # more than two batches
    for name, save in (("a.npy", np.save), ("a.npz", np.savez_compressed)):
        save(tmp_path / name, many)
        same(everything(tmp_path / name), many)


def test_arrays_of_other_sizes_are_brought_into_mnists_form(tmp_path: Path, digits: np.ndarray) -> None:
    large = np.stack([np.kron(255 - digit, np.ones((3, 3), np.uint8)) for digit in digits[:5]])
    np.save(tmp_path / "grey.npy", large)
    np.save(tmp_path / "colour.npy", np.stack([large] * 3, axis=-1))
    for name in ("grey.npy", "colour.npy"):
        summary = predict_files(tmp_path / name, tmp_path / "rows.npy", CPU)
        assert summary.errors == 0
        assert np.load(tmp_path / "rows.npy").argmax(1).tolist() == [7, 2, 1, 0, 4]
        with pytest.raises(InputError, match="images of 84 x 84 pixels; preprocess=none expects 28 x 28"):
            open_source(tmp_path / name, "none")


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("channels", [0, 1, 3, 4])
def test_an_array_may_be_a_single_image(
    tmp_path: Path, digits: np.ndarray, channels: int, order: Literal["C", "F"]
) -> None:
    page = np.kron(255 - digits[0], np.ones((3, 2), np.uint8))
    image = page if channels == 0 else np.stack([page] * channels, axis=-1)
    if channels == 4:
        image[..., 3] = 255
    np.save(tmp_path / "photo.npy", np.array(image, order=order))
    assert predict_files(tmp_path / "photo.npy", tmp_path / "rows.npy", CPU).errors == 0
    assert np.load(tmp_path / "rows.npy").argmax(1).tolist() == [7]


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, bool, np.float32])
def test_thresholded_images_of_0_and_1(tmp_path: Path, digits: np.ndarray, labels: list[int], dtype: type) -> None:
    images: np.ndarray = (digits > 127).astype(dtype)
    np.save(tmp_path / "small.npy", images)
    np.save(tmp_path / "large.npy", images.repeat(2, 1).repeat(2, 2))
    names = ["small.npy", "large.npy"]
    if dtype is np.uint8:
        columns = ",".join(map(str, range(784)))
        np.savetxt(tmp_path / "a.csv", images.reshape(-1, 784), "%d", ",", header=columns, comments="")
        pq.write_table(pa.table({"pixels": images.reshape(-1, 784).tolist()}), tmp_path / "a.parquet")
        names += ["a.csv", "a.parquet"]
    for name in names:
        assert predict_files(tmp_path / name, tmp_path / "rows.npy", CPU).errors == 0
        assert (np.load(tmp_path / "rows.npy").argmax(1) == labels).mean() >= 0.98


def _zip(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def _tar(path: Path, members: dict[str, bytes], mode: Any = "w") -> None:
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


ARCHIVES: dict[str, Callable[[Path, dict[str, bytes]], None]] = {
    "zip": _zip,
    "tar": _tar,
    "tar.gz": lambda path, members: _tar(path, members, "w:gz"),
    "tar.bz2": lambda path, members: _tar(path, members, "w:bz2"),
    "tar.xz": lambda path, members: _tar(path, members, "w:xz"),
}


@pytest.mark.parametrize("kind", ARCHIVES)
@pytest.mark.parametrize("named", [True, False])
def test_archives_in_their_own_order(tmp_path: Path, digits: np.ndarray, kind: str, named: bool) -> None:
    path = tmp_path / (f"scans.{kind}" if named else "scans")
    hidden = {"__MACOSX/a.png": b"?", "a/.DS_Store": b"?"}
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("seven.png", as_png(digits[0]))
    others = {"inner.zip": inner.getvalue(), "../../up.png": as_png(digits[3])}
    ARCHIVES[kind](path, {**hidden, **{f"a/{n}.png": as_png(digits[n]) for n in (2, 0, 1)}, **others})
    found = everything(path)
    assert found.names == [f"{path}/{name}" for name in ("a/2.png", "a/0.png", "a/1.png", *others)]
    np.testing.assert_array_equal(found.images[[0, 1, 2, 4]], digits[[2, 0, 1, 3]])
    assert found.errors[3] == "not an image but an archive (zip); pass it as the input to read its contents"
    assert sorted(tmp_path.iterdir()) == [path]  # nothing was unpacked, here or above


@pytest.mark.parametrize("kind", ARCHIVES)
def test_empty_and_broken_archives(tmp_path: Path, digits: np.ndarray, kind: str) -> None:
    path = tmp_path / f"scans.{kind}"
    ARCHIVES[kind](path, {})
    with pytest.raises(InputError, match="scans"):
        predict_files(path, tmp_path / "rows.csv", CPU)
    ARCHIVES[kind](path, {f"{n}.png": np.random.default_rng(n).bytes(30_000) for n in range(9)})
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(InputError, match="scans"):
        everything(path)


def test_links_and_devices_in_a_tar_are_error_rows(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, kind in (("link.png", tarfile.SYMTYPE), ("pipe.png", tarfile.FIFOTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    assert everything(tmp_path / "a.tar").errors == ["a link or a device in an archive; not followed"] * 2


def test_parquet_with_bytes_as_datasets_have_them(tmp_path: Path, digits: np.ndarray, labels: list[int]) -> None:
    images = [as_png(digit) for digit in digits]
    cells = [{"bytes": image, "path": None} for image in images]
    for column in (cells, images):
        pq.write_table(pa.table({"image": column, "label": labels}), tmp_path / "a.parquet", row_group_size=30)
        same(everything(tmp_path / "a.parquet"), digits, labels)


def test_parquet_with_paths_and_nulls(tmp_path: Path, scans: Path, digits: np.ndarray) -> None:
    table = pa.table({"path": ["0x/03.png", None, "1x/06.png", "nothing.png"], "label": [0, 1, None, 77]})
    pq.write_table(table, scans / "list.parquet")
    found = everything(scans / "list.parquet")
    assert found.names == ["0x/03.png", "1", "1x/06.png", "nothing.png"]
    assert found.errors == [None, "no image: the cell is empty", None, "No such file or directory"]
    assert found.targets == [0, 1, None, None]
    np.testing.assert_array_equal(found.images[[0, 2]], digits[[3, 6]])


@pytest.mark.parametrize("kind", ["list", "fixed", "nested", "columns"])
def test_parquet_with_pixels(tmp_path: Path, digits: np.ndarray, labels: list[int], kind: str) -> None:
    flat = digits.reshape(-1, 784)
    column = pa.array(digits.tolist() if kind == "nested" else flat.tolist())
    if kind == "fixed":
        column = pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), 784)
    pixels = {f"p{n}": flat[:, n] for n in range(784)} if kind == "columns" else {"pixels": column}
    pq.write_table(pa.table({"label": labels, **pixels}), tmp_path / "a.parquet", row_group_size=64)
    same(everything(tmp_path / "a.parquet"), digits, labels)


def test_parquet_with_pixels_that_are_not_in_mnists_form(tmp_path: Path, digits: np.ndarray) -> None:
    inverted = np.concatenate([digits[:1], 255 - digits[1:2]])
    pixels = pa.FixedSizeListArray.from_arrays(pa.array(inverted.reshape(-1)), 784)
    pq.write_table(pa.table({"pixels": pixels}), tmp_path / "a.parquet")
    same(everything(tmp_path / "a.parquet"), digits[:2])


def test_parquet_with_rows_of_wrong_lengths(tmp_path: Path, digits: np.ndarray) -> None:
    row = digits[0].reshape(-1).tolist()
    pq.write_table(pa.table({"pixels": [row, row[1:], None, [None] * 784, row]}), tmp_path / "a.parquet")
    found = everything(tmp_path / "a.parquet")
    assert found.errors == [
        None,
        "783 pixels; expected 784",
        "no image: pixels are missing",
        "no image: pixels are missing",
        None,
    ]


def test_tables_without_images(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1], "b": ["x"]}), tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("a,b\n1,x\n")
    (tmp_path / "b.csv").write_text("1,2,3\n")
    (tmp_path / "c.csv").write_text("")
    for name, words in (("a.parquet", "'a', 'b'"), ("a.csv", "'a', 'b'"), ("b.csv", "3 columns"), ("c.csv", "empty")):
        with pytest.raises(InputError, match=f"{name}.*{words}"):
            open_source(tmp_path / name)


@pytest.mark.parametrize("header", ["kaggle", "no label", "none", "none, label"])
def test_csv_with_pixels(tmp_path: Path, digits: np.ndarray, labels: list[int], header: str) -> None:
    labelled = header in ("kaggle", "none, label")
    with (tmp_path / "digits.csv").open("w") as file:
        if not header.startswith("none"):
            names = ["label"] * labelled + [f"pixel{n}" for n in range(784)]
            file.write(",".join(names) + "\n")
        for label, digit in zip(labels, digits, strict=True):
            file.write(",".join(map(str, [label] * labelled + digit.reshape(-1).tolist())) + "\n")
    found = everything(tmp_path / "digits.csv")
    same(found, digits, labels if labelled else [])
    assert found.names == [str(index) for index in range(100)]


def test_csv_with_bad_rows(tmp_path: Path, digits: np.ndarray) -> None:
    row = list(map(str, digits[0].reshape(-1).tolist()))
    rows = [row, row[1:], [*row[1:], "x"], [*row[1:], "256"], [*row[1:], "0.0"], [f'"{cell}"' for cell in row]]
    (tmp_path / "digits.csv").write_text("\n".join(map(",".join, rows)))
    assert everything(tmp_path / "digits.csv").errors == [
        None,
        "a row of 783 columns; expected 784",
        "a pixel 'x'; expected whole numbers 0 to 255, or 0 to 1",
        "values from 0 to 256, expected 0 to 255, or floats from 0 to 1; divide by the value of white",
        None,
        None,
    ]


def test_csv_with_base64_and_with_paths(tmp_path: Path, scans: Path, digits: np.ndarray) -> None:
    with (scans / "images.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["label", "image", "path"])
        writer.writerows([n, base64.b64encode(as_png(digits[n])).decode(), f"the, {n}"] for n in range(3))
        writer.writerows([["3", "%%%", "bad"], ["4", "", "empty"], ["5"]])
    found = everything(scans / "images.csv")
    assert found.names == ["the, 0", "the, 1", "the, 2", "bad", "empty", "5"]
    assert found.targets == [0, 1, 2, 3, 4, 5]
    assert [error and error.split(":")[0] for error in found.errors] == [
        *[None] * 3,
        "not base64",
        "no image",
        "a row of 1 columns; expected 3",
    ]
    (scans / "paths.csv").write_text("path,label\n0x/04.png,4\n\n" + f"{scans}/1x/09.png,9\n")
    found = everything(scans / "paths.csv")
    same(found, digits[[4, 9]], [4, 9])


def test_labels_add_a_column_and_the_accuracy(run: Run, tmp_path: Path, digits: np.ndarray, labels: list[int]) -> None:
    wrong = [(labels[0] + 1) % 10, *labels[1:]]
    images = digits.astype(np.float32) / 255
    images[5] = np.nan
    np.savez(tmp_path / "digits.npz", images=images, labels=wrong)
    done = run("predict", "input=digits.npz", "output=rows.csv")
    right = sum(
        row["label"] == row["target"] for row in csv.DictReader((tmp_path / "rows.csv").open()) if not row["error"]
    )
    assert f"100 images, 1 with an error, accuracy {right / 99:.2%}, " in done.stdout
    assert right < 99


def test_the_example_that_is_printed_works_in_any_folder(run: Run, tmp_path: Path) -> None:
    done = run("predict")
    assert done.returncode == 2
    command = done.stderr.split(": ")[-1].strip()
    assert command.endswith(" -m mnist_cls.predict input=mnist:test")
    example = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True)  # noqa: S602
    assert example.returncode == 0, example.stderr
    assert "10,000 images, accuracy 99." in example.stdout


@pytest.mark.parametrize("name", ["digits.npy", "digits.npz", "scans", "list.txt", "a.zip", "a.tar.gz", "p.parquet"])
def test_what_an_earlier_run_did_is_skipped(tmp_path: Path, digits: np.ndarray, name: str) -> None:
    count, png = 700, as_png(digits[0])
    path = tmp_path / name
    if name.startswith("digits"):
        (np.save if name.endswith("npy") else np.savez_compressed)(path, np.concatenate([digits] * 50))
    elif name == "scans":
        path.mkdir()
        for number in range(count):
            (path / f"{number:03}.png").write_bytes(png)
    elif name == "list.txt":
        path.write_text("".join(f"{number}.png\n" for number in range(count)))
    elif name.startswith("a."):
        ARCHIVES[name[2:]](path, {f"{number}.png": png for number in range(count)})
    else:
        pq.write_table(pa.table({"image": [png] * count}), path)
    whole = everything(path)
    source = open_source(path)
    with Decoders("auto", split=False) as decoders:
        first, *_ = batches_of(source, decoders)
    done = Progress(len(first.names), names=first.names_digest)
    rest = everything(path, earlier=done)
    assert rest.names == whole.names[source.batch_size :]
    np.testing.assert_array_equal(rest.images, whole.images[source.batch_size :])
    with pytest.raises(InputError, match="not those of the earlier run"):
        everything(path, earlier=done._replace(names="others"))


def test_what_an_earlier_run_did_is_not_read(digits: np.ndarray) -> None:
    def samples() -> Iterator[Sample]:
        for number in range(300):
            yield Sample(str(number), (lambda: pytest.fail("read")) if number < 256 else lambda: as_png(digits[0]))

    earlier = Progress(256, names=NamesDigest().add(map(str, range(256))))
    with Decoders("auto", split=False) as decoders:
        [batch] = batches_of(Source(300, blocks_of(samples), "a source of one's own"), decoders, earlier)
    assert batch.names == [str(number) for number in range(256, 300)]


def test_reading_needs_neither_pytorch_nor_pyarrow() -> None:
    program = (
        "import sys, mnist_cls.inference.sources.detect, mnist_cls.inference.decoding.pool, mnist_cls.preprocessing\n"
        "print({'torch', 'pyarrow', 'lightning', 'hydra'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "set()\n"


def test_gzip_that_is_not_idx(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"hello"))
    with pytest.raises(InputError, match="not an IDX file"):
        open_source(tmp_path / "a.gz")
