"""Files of several pages, and animated pictures: a row for each page."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mnist_cls import Predictor
from mnist_cls.data.scans import scan
from mnist_cls.errors import InputError
from mnist_cls.inference.pipeline import predict_files
from mnist_cls.inference.sources.pages import count_pages
from mnist_cls.preprocessing.prepare import prepare

FORMATS: dict[str, dict[str, Any]] = {
    "pages.tif": {},
    "big.TIFF": {"format": "TIFF", "big_tiff": True},
    "packed.tiff": {"compression": "tiff_deflate"},
    "moving.gif": {"duration": 100},
    "moving.webp": {"lossless": True},
}


def save(path: Path, digits: np.ndarray) -> None:
    """Save scans of digits as the pages of one file."""
    first, *others = (Image.open(io.BytesIO(content)) for content in scan(digits, "dark on light"))
    first.save(path, save_all=True, append_images=others, **FORMATS[path.name])


@pytest.mark.parametrize("name", FORMATS)
def test_each_page_is_a_row(tmp_path: Path, digits: np.ndarray, labels: list[int], name: str) -> None:
    folder = tmp_path / "scans"
    folder.mkdir()
    save(folder / name, digits[:3])
    (folder / "z.png").write_bytes(scan(digits[3:4], "dark on light")[0])
    assert count_pages(str(folder / name)) == 3
    summary = predict_files(folder, tmp_path / "out.csv")
    assert (summary.inputs, summary.errors) == (4, 0)
    rows = [line.split(",")[:2] for line in (tmp_path / "out.csv").read_text().splitlines()[1:]]
    assert [Path(path).name for path, _ in rows] == [*(f"{name}#{number}" for number in (1, 2, 3)), "z.png"]
    assert [int(label) for _, label in rows] == labels[:4]
    assert Predictor()(folder / name).labels.tolist() == labels[:3]


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_of_one_page_keeps_its_name(tmp_path: Path, digits: np.ndarray, name: str) -> None:
    save(tmp_path / name, digits[:1])
    assert count_pages(str(tmp_path / name)) == 1
    assert Predictor()([tmp_path / name]).errors == [None]


def test_pages_of_listed_files_are_rows(tmp_path: Path, digits: np.ndarray) -> None:
    save(tmp_path / "pages.tif", digits[:3])
    listed = tmp_path / "list.txt"
    listed.write_text(f"{tmp_path / 'pages.tif'}\n" * 200)  # more than a batch
    summary = predict_files(listed, tmp_path / "out.csv")
    assert (summary.inputs, summary.errors) == (600, 0)


def test_bytes_of_several_pages_say_how_they_are_read(tmp_path: Path, digits: np.ndarray) -> None:
    save(tmp_path / "pages.tif", digits[:3])
    with pytest.raises(InputError, match=r"holds 3 images; expected one \(.tif, .gif and .webp files are read page"):
        prepare((tmp_path / "pages.tif").read_bytes())


@pytest.mark.parametrize("name", FORMATS)
def test_counting_pages_of_broken_files_ends_without_an_error(tmp_path: Path, digits: np.ndarray, name: str) -> None:
    save(tmp_path / name, digits[:3])
    whole, random = (tmp_path / name).read_bytes(), np.random.default_rng(0)
    for length in range(0, len(whole), 97):
        (tmp_path / name).write_bytes(whole[:length])
        assert 1 <= count_pages(str(tmp_path / name)) <= 3
    for _ in range(300):
        broken = bytearray(whole)
        for position in random.integers(0, min(len(broken), 400), 3):
            broken[position] = random.integers(256)
        (tmp_path / name).write_bytes(broken)
        assert 1 <= count_pages(str(tmp_path / name)) <= 10_000
    assert count_pages(str(tmp_path / "missing" / name)) == 1


@pytest.mark.timeout(30)  # a circle that is followed never ends
def test_a_tiff_whose_pages_go_round_in_a_circle_is_counted_once(tmp_path: Path) -> None:
    page = b"\x01\0" + bytes(12) + (8).to_bytes(4, "little")
    (tmp_path / "circle.tif").write_bytes(b"II*\0" + (8).to_bytes(4, "little") + page)
    assert count_pages(str(tmp_path / "circle.tif")) == 1
