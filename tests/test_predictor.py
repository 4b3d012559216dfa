"""`Predictor` takes what people have, reads it correctly or refuses it in one line; predictions display as tables."""

import html.parser
import io
import os
import re
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset

from mnist_cls import Predictions, Predictor
from mnist_cls.data.datasets import LabelledImages
from mnist_cls.errors import InputError
from mnist_cls.inference.rows import COLUMNS


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(device="cpu")


@pytest.fixture(scope="module")
def x(mnist_test: LabelledImages) -> np.ndarray:
    return mnist_test.images[:60].numpy()


@pytest.fixture(scope="module")
def y(mnist_test: LabelledImages) -> np.ndarray:
    return mnist_test.labels[:60].numpy()


def large(images: np.ndarray) -> np.ndarray:
    return images.repeat(2, 1).repeat(2, 2)


def coloured(images: np.ndarray) -> np.ndarray:
    """Dark blue on yellow, (N, H, W, 3)."""
    ink = images[..., None] / 255
    return (ink * [20, 30, 120] + (1 - ink) * [250, 240, 150]).round().astype(np.uint8)


def encoded(image: np.ndarray | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(file, kind, **options)
    return file.getvalue()


def table(images: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(images.reshape(-1, 784), columns=[f"pixel{number}" for number in range(784)])


UNCHANGED: dict[str, Callable[[np.ndarray], Any]] = {
    "floats": lambda x: x / 255.0,
    "float32": lambda x: (x / 255).astype(np.float32),
    "whole floats": lambda x: x.astype(np.float32),
    "int64": lambda x: x.astype(np.int64),
    "rows of 784": lambda x: x.reshape(-1, 784),
    "channel last": lambda x: x[..., None],
    "tensor": torch.from_numpy,
    "as ToTensor leaves them": lambda x: torch.from_numpy(x)[:, None].float() / 255,
    "bfloat16": lambda x: (torch.from_numpy(x) / 255).bfloat16(),
    "list of arrays": list,
    "list of tensors": lambda x: [torch.from_numpy(image)[None].float() / 255 for image in x],
    "list of mixed dtypes": lambda x: [x[0] / 255, *x[1:]],
    "lists of numbers": lambda x: x.tolist(),
    "array of arrays": lambda x: pd.Series(list(x)),
    "DataFrame": lambda x: pd.DataFrame(x.reshape(-1, 784)),
    "DataFrame with columns in another order": lambda x: table(x)[sorted(table(x).columns)],
    "DataFrame with labels and an index": lambda x: table(x).assign(label="seven").reset_index(),
    "DataFrame of pandas' own type": lambda x: pd.DataFrame(x.reshape(-1, 784)).astype("Int64"),
    "array of objects": lambda x: x.astype(object),
    "Series of lists": lambda x: pd.Series([image.tolist() for image in x]),
    "files that were just written": lambda x: [at_its_end(io.BytesIO(encoded(image))) for image in x],
    "inverted": lambda x: 255 - x,
    "inverted floats": lambda x: 1 - x / 255.0,
    "in three equal colours": lambda x: np.stack([x] * 3, 3),
    "Pillow": lambda x: [Image.fromarray(image) for image in x],
    "bytes": lambda x: [encoded(image) for image in x],
    "bytearrays": lambda x: [bytearray(encoded(image)) for image in x],
    "open files": lambda x: [io.BytesIO(encoded(image)) for image in x],
    "an iterator": lambda x: (Image.fromarray(255 - image).convert("RGB") for image in x),
}


@pytest.mark.parametrize("name", UNCHANGED)
def test_mnists_images_in_any_form_give_the_same_probabilities(predictor: Predictor, x: np.ndarray, name: str) -> None:
    expected, found = predictor(x), predictor(UNCHANGED[name](x))
    assert found.errors == [None] * len(x)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-4 if name != "bfloat16" else 0.05)


OTHERS: dict[str, Callable[[np.ndarray], Any]] = {
    "0 and 1": lambda x: (x > 127).astype(np.uint8),
    "0 and 1, int64": lambda x: (x > 127).astype(np.int64),
    "0.0 and 1.0": lambda x: (x > 127).astype(np.float32),
    "bool": lambda x: x > 127,
    "56x56": large,
    "56x56 floats": lambda x: large(x) / 255,
    "56x56, 0 and 1": lambda x: (large(x) > 127).astype(int),
    "56x56, dark on light": lambda x: 255 - large(x),
    "in colour": lambda x: coloured(large(x)),
    "in colour, colours first": lambda x: torch.from_numpy(coloured(large(x))).permute(0, 3, 1, 2).float() / 255,
    "small, in colour": coloured,
    "Pillow, in colour": lambda x: [Image.fromarray(image) for image in coloured(large(x))],
    "Pillow, 0 and 1": lambda x: [Image.fromarray(image) for image in (x > 127).astype(np.uint8)],
    "list of many sizes": lambda x: [
        Image.fromarray(x[0]),
        x[1] > 127,
        coloured(large(x))[2],
        torch.from_numpy(coloured(large(x))[3]).permute(2, 0, 1) / 255,
        encoded(large(x)[4]),
        *large(large(x))[5:],
    ],
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_images_are_brought_into_mnists_form(
    predictor: Predictor, x: np.ndarray, y: np.ndarray, name: str
) -> None:
    found = predictor(OTHERS[name](x))
    assert found.errors == [None] * len(x)
    assert (found.labels == y).mean() >= 0.98


SINGLE: dict[str, Callable[[np.ndarray], Any]] = {
    "array": lambda image: image,
    "784 numbers": np.ravel,
    "list of lists": lambda image: image.tolist(),
    "(28, 28, 1)": lambda image: image[..., None],
    "tensor (1, 28, 28)": lambda image: torch.from_numpy(image)[None],
    "Pillow": Image.fromarray,
    "bytes": encoded,
    "large": lambda image: large(image[None])[0],
    "large tensor in colour": lambda image: torch.from_numpy(coloured(large(image[None]))[0]).permute(2, 0, 1),
    "large, in colour": lambda image: coloured(large(image[None]))[0],
    "transparent": lambda image: Image.merge("LA", [Image.new("L", (28, 28), 0), Image.fromarray(image)]),
    "turned by EXIF": lambda image: Image.open(io.BytesIO(turned(image))),
    "bytes turned by EXIF": lambda image: turned(image),
}


def closed(file: io.BytesIO) -> io.BytesIO:
    file.close()
    return file


def at_its_end(file: io.BytesIO) -> io.BytesIO:
    file.seek(0, os.SEEK_END)
    return file


def turned(image: np.ndarray) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    return encoded(np.rot90(large(image[None])[0]).copy(), "JPEG", exif=exif)


@pytest.mark.parametrize("name", SINGLE)
def test_a_single_image(predictor: Predictor, x: np.ndarray, name: str) -> None:
    [prediction] = predictor(SINGLE[name](x[0]))
    assert (prediction.name, prediction.label, prediction.error) == ("0", 7, None)


def test_paths(predictor: Predictor, tmp_path: Path, x: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scans").mkdir()
    paths = [tmp_path / "scans" / f"{index}.png" for index in range(4)]
    for path, image in zip(paths, x, strict=False):
        Image.fromarray(image).save(path)
    np.save(tmp_path / "digits.npy", x[:4])
    with zipfile.ZipFile(tmp_path / "scans.zip", "w") as archive:
        for path in paths:
            archive.write(path, path.name)
    expected = predictor(x[:4])
    for inputs in (paths, tuple(map(str, paths)), np.array([*map(str, paths)]), iter(paths), pd.Series(paths)):
        found = predictor(inputs)
        assert found.names == [str(path) for path in paths]
        np.testing.assert_array_equal(found.probabilities, expected.probabilities)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("scans", "scans/*.png", "scans.zip", "digits.npy", "~/scans", str(tmp_path / "scans")):
        monkeypatch.chdir(tmp_path)
        np.testing.assert_array_equal(predictor(name).probabilities, expected.probabilities)
    assert predictor(paths[0]).labels.tolist() == predictor(["~/scans/0.png"]).labels.tolist() == [7]


def test_three_images_of_28x28_are_three(predictor: Predictor, x: np.ndarray) -> None:
    assert predictor(x[:3]).labels.tolist() == [7, 2, 1]
    assert predictor(torch.from_numpy(x[:3])).labels.tolist() == [7, 2, 1]
    assert predictor(x[:4]).labels.tolist() == [7, 2, 1, 0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: (x / 255 - 0.1307) / 0.3081, "from -0.42.* to 2.8.*, expected 0 to 1; pass the images as they were"),
        (lambda x: torch.from_numpy(x / 127.5 - 1)[0], "from -1 to 1, expected 0 to 1; pass the images as they were"),
        (lambda x: x * 0.9, "expected 0 to 1; divide by the value of white"),
        (lambda x: np.floor(x / 16.0), "from 0 to 15, expected 0 to 1; divide by the value of white"),
        (lambda x: x.astype(int) * 2, "from 0 to 510, expected 0 to 255, or floats from 0 to 1"),
        (lambda x: (x > 127) * 2 - 1, "from -1 to 1, expected 0 to 255.*; pass the images as they were"),
        (lambda x: x * np.nan, "NaN"),
        (lambda x: x.astype(complex), "dtype complex128"),
        (lambda x: large(x)[:3], "3 grey images or one in colour"),
        (lambda x: x[:, :, :, None, None], r"shape \(60, 28, 28, 1, 1\)"),
        (lambda x: np.zeros(10), r"shape \(10,\)"),
        (lambda x: np.zeros((2, 0, 0)), r"shape \(2, 0, 0\)"),
        (lambda x: [x[:5], x[5:10]], r"item 0: an array of shape \(5, 28, 28\).*; in a list each item is one image"),
        (lambda x: [(x[0], 7), (x[1], 2)], "item 0 is of type tuple; .* a list of these without labels"),
        (lambda x: (Image.fromarray(x[0]), 7), "item 1 is of type int; .* a list of these without labels"),
        (lambda x: (torch.from_numpy(x[:5]), torch.ones(5)), "item 0: an array of shape .* each item is one image"),
        (lambda x: [[x[0], x[1], x[2]]], "item 0 is of type list"),
        (lambda x: [[1, 2], [3]], "list is no array of numbers"),
        (lambda x: table(x).assign(writer=1), "a table that has 'writer' beside 784 columns of pixels"),
        (lambda x: pd.DataFrame({"image": [1]}), r"a table with a column 'image'; pass the column: table\['image'\]"),
        (lambda x: x.reshape(-1, 784).T, "60 images in columns; pass array.T"),
        (lambda x: {"images": x}, r"dict with \['images'\]; name one of them"),
        (lambda x: np.ma.masked_equal(x, 0), r"a masked array; fill it first: array\.filled"),
        (lambda x: np.array(None), "item 0 is of type NoneType"),
        (lambda x: io.StringIO("text"), "item 0 is a file opened as text; open image files with mode 'rb'"),
        (lambda x: closed(io.BytesIO(encoded(x[0]))), "item 0 cannot be read: I/O operation on closed file"),
        (lambda x: "https://example.com/7.png", "https://example.com/7.png: no file; download it first"),
        (lambda x: "no\nthing.png", r"no\\nthing\.png: no such file or folder"),
        (lambda x: "n" * 5000, "File name too long"),
        (
            lambda x: DataLoader(Subset(TensorDataset(torch.from_numpy(x)), range(9)), 4),
            r"DataLoader; .* those of each batch, or .*MNISTModule.*, loader\)",
        ),
        (
            lambda x: DataLoader(TensorDataset(torch.from_numpy(x)), 4),
            "DataLoader; expected images: pass those of each",
        ),
        (lambda x: TensorDataset(torch.from_numpy(x)), r"TensorDataset; .* pass \[dataset\[i\]\[0\] for i in range"),
        (lambda x: Subset(TensorDataset(torch.from_numpy(x)), range(9)), r"Subset; .* pass \[dataset\[i\]\[0\]"),
        (lambda x: None, "NoneType; expected a path"),
        (lambda x: 7, "int; expected a path"),
        (lambda x: "", "an empty path"),
        (lambda x: "nothing.png", r"nothing\.png: no such file or folder"),
        (lambda x: "nothing*.png", r"nothing\*\.png: matches no file"),
    ],
)
def test_what_cannot_be_read_correctly_is_refused_in_one_line(
    predictor: Predictor, x: np.ndarray, make: Callable[[np.ndarray], Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as raised:
        predictor(make(x))
    assert len(str(raised.value).splitlines()) == 1


def test_what_the_messages_about_loaders_advise(predictor: Predictor, x: np.ndarray, y: np.ndarray) -> None:
    dataset = TensorDataset(torch.from_numpy(x)[:, None] / 255, torch.from_numpy(y))
    expected = predictor(x).labels
    assert (predictor([dataset[i][0] for i in range(len(dataset))]).labels == expected).all()
    batches = [predictor(images).labels for images, _ in DataLoader(dataset, 16)]
    assert (np.concatenate(batches) == expected).all()

    class Stream(IterableDataset[np.ndarray]):
        def __iter__(self) -> Iterator[np.ndarray]:
            return iter(x)

    assert (predictor(Stream()).labels == expected).all()


def test_an_image_that_cannot_be_read_is_an_error_of_its_own(
    predictor: Predictor, x: np.ndarray, tmp_path: Path
) -> None:
    (tmp_path / "text.png").write_text("no image")
    cut = Image.open(io.BytesIO(encoded(large(x)[0])[:200]))
    items = [tmp_path / "text.png", tmp_path / "missing.png", x[0], b"", cut, x[1] - 0.5, np.zeros((40, 40)), x[2]]
    found = predictor(items)
    assert found.labels.tolist() == [-1, -1, 7, -1, -1, -1, -1, 1]
    assert np.isnan(found.probabilities[0]).all()
    for error, words in zip(
        found.errors,
        ["not an image", "No such file", None, "an empty file", "broken image", "normalized", "no digit", None],
        strict=True,
    ):
        assert error is None if words is None else words in str(error)
    array = x[:3] / 255
    array[1, 5, 5] = np.nan
    assert predictor(array).errors == [None, "holds NaN or infinite values", None]
    assert "not an image" in str(predictor(tmp_path / "text.png").errors[0])


def test_a_bomb_does_not_kill_the_caller(predictor: Predictor, x: np.ndarray) -> None:
    bomb = encoded(Image.new("1", (20_000, 20_000)))
    found = predictor([bomb, x[0]])
    assert "too large" in str(found.errors[0])
    assert found.labels.tolist() == [-1, 7]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_processes_predict(tmp_path: Path, x: np.ndarray) -> None:
    np.save(tmp_path / "x.npy", x)
    code = """
import os, signal, torch
from mnist_cls import Predictor
torch.set_num_threads(2)
predictor = Predictor(device='cpu')
labels = predictor('x.npy').labels.tolist()
for is_new in (False, True):
    process = os.fork()
    if process == 0:
        signal.alarm(30)
        child = Predictor(device='cpu') if is_new else predictor
        os._exit(child('x.npy').labels.tolist() != labels)
    assert os.waitpid(process, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=90)


def test_threads_may_share_a_predictor(predictor: Predictor, x: np.ndarray, y: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "7.png"
    Image.fromarray(large(x)[0]).save(path)
    warnings_before = list(warnings.filters)

    def work(index: int) -> list[int]:
        inputs = x[index : index + 10], 255 - large(x)[index], Image.fromarray(x[index]), path
        return [predictor(one).labels.tolist() for one in inputs]

    with ThreadPoolExecutor(4) as threads:
        for index, labels in enumerate(threads.map(work, range(12))):
            assert labels == [y[index : index + 10].tolist(), [y[index]], [y[index]], [7]]
    assert list(warnings.filters) == warnings_before


def test_files_are_decoded_in_another_process(
    predictor: Predictor, x: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mnist_cls.inference.decoding.decode as module

    here = os.getpid()
    monkeypatch.setattr(module, "read_file", lambda path: encoded(x[int(os.getpid() == here)]))
    assert predictor(["a file"]).labels.tolist() == [7]  # and not 2


@pytest.mark.parametrize("inputs", [[], (), np.zeros((0, 28, 28), np.uint8), np.zeros((0, 784)), iter([])])
def test_nothing_gives_no_predictions(predictor: Predictor, inputs: Any) -> None:
    found = predictor(inputs)
    assert len(found) == len(list(found)) == len(found.labels) == len(found.names) == len(found.to_pandas()) == 0
    assert found.probabilities.shape == (0, 10)
    assert "0 predictions" in str(found)


def test_the_callers_arrays_are_not_modified(predictor: Predictor, x: np.ndarray) -> None:
    for array in (x[:10].copy(), 255 - x[:10], (x[:10] > 127).astype(np.uint8), x[:10] / 255):
        before = array.copy()
        images = predictor(array).images
        assert images is not None
        images[:] = 9
        np.testing.assert_array_equal(array, before)
        array.flags.writeable = False
        assert predictor(array).labels.tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]


def test_preprocess_none_takes_images_as_they_are(x: np.ndarray) -> None:
    predictor, moved = Predictor(device="cpu", preprocess="none"), np.roll(x, 2, axis=2)
    found = predictor(moved)
    np.testing.assert_array_equal(found.images, moved)
    np.testing.assert_array_equal(predictor(moved / 255).probabilities, found.probabilities)
    np.testing.assert_array_equal(Predictor(device="cpu")(moved[:1]).images, x[:1])
    with pytest.raises(InputError, match="preprocess=none expects images of 28 x 28 pixels"):
        predictor(large(x))
    assert "preprocess=none expects 28 x 28" in str(predictor([large(x)[0], x[0]]).errors[0])
    with pytest.raises(InputError, match="preprocess=some: expected auto or none"):
        Predictor(preprocess="some")


@pytest.fixture(scope="module")
def mixed(predictor: Predictor, x: np.ndarray) -> Predictions:
    return predictor([x[0], b"<script>alert(1)</script>", x[2]])


def test_predictions_are_a_sequence(predictor: Predictor, x: np.ndarray, mixed: Predictions) -> None:
    found = predictor(x)
    assert [one.label for one in found] == found.labels.tolist()
    assert found[-1].confidence == found.confidences[-1]
    np.testing.assert_array_equal(found[3].probabilities, found.probabilities[3])
    with pytest.raises(IndexError):
        found[60]
    some = found[found.labels == 7]
    assert set(some.labels) == {7}
    assert len(some) == len(some.names) == len(some.errors) == (found.labels == 7).sum()
    np.testing.assert_array_equal(some.images, x[found.labels == 7])
    assert found[5:7].names == ["5", "6"]
    assert (mixed[1].label, mixed[1].confidence) == (None, None)
    assert str(mixed[1].error).startswith("not an image")


def test_predictions_as_tables_have_the_columns_of_predict(mixed: Predictions, x: np.ndarray) -> None:
    table, frame = mixed.to_arrow(), mixed.to_pandas()
    assert table.column_names == list(frame.columns) == COLUMNS
    assert table["label"].to_pylist() == [7, None, 1]
    assert table["path"].to_pylist() == ["0", "1", "2"]
    assert frame["label"].tolist() == [7, pd.NA, 1]
    assert frame["error"].notna().tolist() == [False, True, False]
    np.testing.assert_allclose(frame[[f"p{digit}" for digit in range(10)]], mixed.probabilities, atol=1e-6)
    with_digits = Predictor(device="cpu", is_digit=True)(x[:3]).to_pandas()
    assert list(with_digits.columns) == [*COLUMNS, "is_digit"]
    assert with_digits["label"].dtype.kind == "i"
    assert with_digits["is_digit"].tolist() == [True] * 3


def test_without_pandas(mixed: Predictions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError, match=r"pandas is not installed; pip install pandas, or use to_arrow\(\)"):
        mixed.to_pandas()


def test_predictions_show_themselves_as_text(predictor: Predictor, x: np.ndarray, mixed: Predictions) -> None:
    lines = str(mixed).splitlines()
    assert lines[0] == "3 predictions"
    assert lines[1].split() == ["path", "label", "confidence", "error"]
    assert lines[2].split()[:2] == ["0", "7"]
    assert "not an image" in lines[3]
    text = repr(predictor(x))
    assert text.startswith("60 predictions\n")
    assert len(text.splitlines()) < 20
    assert text.splitlines()[-1].split()[0] == "59"
    assert "error" not in text


class _Elements(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_predictions_show_themselves_in_a_notebook(
    predictor: Predictor, x: np.ndarray, tmp_path: Path, mixed: Predictions
) -> None:
    path = tmp_path / '<b>"&.png'
    Image.fromarray(x[0]).save(path)
    page = predictor([path])._repr_html_()
    elements = _Elements()
    elements.feed(page)
    assert "b" not in [tag for tag, _ in elements.found]
    assert '<b>"&.png' in elements.text
    for tag, attributes in elements.found:
        assert tag in ("table", "caption", "tr", "th", "td", "img")
        assert not {"style", "class"} & attributes.keys()
    [picture] = [attributes for tag, attributes in elements.found if tag == "img"]
    assert '<b>"&.png' in str(picture["alt"])
    assert "script>" not in mixed._repr_html_()
    page = predictor(np.concatenate([x] * 3))._repr_html_()
    assert page.count("<img") == 20
    assert "160 more" in page
    assert len(page) < 30_000


def test_the_network_saw_what_the_images_show(predictor: Predictor, x: np.ndarray) -> None:
    np.testing.assert_array_equal(predictor([255 - x[0], encoded(x[1]), x[2]]).images, x[:3])
    predictor = Predictor(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), device="cpu")
    assert predictor(np.concatenate([x] * 170)).images is None


def test_few_images_in_memory_start_no_process(
    predictor: Predictor, x: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("multiprocessing.context.Process.start", lambda self: pytest.fail("a process was started"))
    assert predictor(np.concatenate([x] * 50)).errors == [None] * 3000
    assert predictor(255 - x[0]).labels.tolist() == predictor(large(x)[0]).labels.tolist() == [7]


def test_names_with_control_characters_are_escaped(predictor: Predictor, x: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "a\nb\x1b[31m.png"
    Image.fromarray(x[0]).save(path)
    text = str(predictor([path]))
    assert len(text.splitlines()) == 3
    assert re.search(r"\\x1b", text)


def test_predict_is_the_call_and_prepared_images_are_checked(digits: np.ndarray, predictor: Predictor) -> None:
    assert predictor.predict(digits / 255).labels.tolist() == predictor(digits).labels.tolist()
    with pytest.raises(InputError, match=r"expected uint8 .*; call the predictor instead"):
        predictor.classify_prepared(digits / 255)


def test_a_file_opened_as_text_is_refused(png: Path, predictor: Predictor) -> None:
    with png.open(encoding="utf-8") as file, pytest.raises(InputError, match="open image files with mode 'rb'"):
        predictor(file)
