"""A file that was damaged anywhere is never loaded silently: each region flipped, cut at any length."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mnist_cls import create_model
from mnist_cls.checkpoints.find import WEIGHTS
from mnist_cls.checkpoints.weights import read_weights, save_weights
from mnist_cls.data.embedded import DIGESTS, FOLDER, embedded_file
from mnist_cls.errors import InputError

from .conftest import Run, one_line
from .forged import MODEL, archive_of, training

REGIONS = 200


def places(size: int) -> Iterator[int]:
    """A byte in the midst of each region, and each byte near an end: of a small file all of header and directory."""
    ends = min(4000 if size < 100_000 else 100, size // 2)
    yield from range(ends)
    yield from (region * size // REGIONS + size // REGIONS // 2 for region in range(REGIONS))
    yield from range(size - ends, size)


def all_noticed(path: Path, load: Callable[[], object]) -> int:
    """Damage a file in all places, one after the other; return how many there were. Afterwards it is whole again."""
    whole = path.read_bytes()
    count = 0
    with path.open("r+b", buffering=0) as file:
        for place in places(len(whole)):
            file.seek(place)
            file.write(bytes([whole[place] ^ (1 << place % 8)]))
            noticed(path, load, f"byte {place} of {len(whole)}")
            file.seek(place)
            file.write(whole[place : place + 1])
            count += 1
    load()
    for length in sorted({*range(0, 200, 7), *(len(whole) * part // 50 for part in range(50)), len(whole) - 1}):
        path.write_bytes(whole[:length])
        noticed(path, load, f"cut at {length} of {len(whole)}")
        count += 1
    for more in (b"\0", b"PK\5\6", whole[-100:]):
        path.write_bytes(whole + more)
        noticed(path, load, "longer")
        count += 1
    path.write_bytes(whole)
    load()
    return count


def noticed(path: Path, load: Callable[[], object], what: str) -> None:
    """Check that a damaged file is refused by one line that names it."""
    try:
        load()
    except InputError as error:
        said = str(error)
        assert str(path) in said, what
        assert said.isprintable(), what
    else:
        pytest.fail(f"loaded: {what}")


@pytest.mark.parametrize("name", ["checkpoints/last.ckpt", "model.safetensors"])
def test_checkpoints_of_a_training(tmp_path: Path, trained: Path, name: str) -> None:
    path = Path(shutil.copy(trained / name, tmp_path))
    assert all_noticed(path, lambda: read_weights(path)) > 400


@pytest.mark.parametrize("name", ["small.ckpt", "small.safetensors"])
def test_small_checkpoints(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "small.ckpt":
        path.write_bytes(archive_of(training()))
    else:
        save_weights(path, create_model(**MODEL), MODEL, {"seed": 1})
    assert all_noticed(path, lambda: read_weights(path)) > 6000


@pytest.mark.parametrize("name", sorted(path.name for path in WEIGHTS.glob("*.safetensors")))
def test_weights_in_the_package(tmp_path: Path, name: str) -> None:
    path = Path(shutil.copy(WEIGHTS / name, tmp_path))
    assert all_noticed(path, lambda: read_weights(path)) > 400


@pytest.mark.parametrize("name", sorted(DIGESTS))
def test_images_in_the_package(tmp_path: Path, name: str) -> None:
    path = Path(shutil.copy(FOLDER / name, tmp_path))
    assert all_noticed(path, lambda: embedded_file(name, tmp_path)) > 400


@pytest.mark.parametrize("name", ["last.ckpt", "model.safetensors"])
def test_entry_points_say_it_in_one_line(tmp_path: Path, trained: Path, run: Run, name: str) -> None:
    content = bytearray((trained / ("checkpoints/last.ckpt" if name == "last.ckpt" else name)).read_bytes())
    content[len(content) // 3] ^= 0x10
    (tmp_path / name).write_bytes(content)
    one_line(run("predict", "input=mnist:test", f"checkpoint={name}"), name, "is damaged: its SHA-256 is")
    if name == "last.ckpt":
        one_line(run("train", f"checkpoint={name}", "output_dir=run"), name, "is damaged: its SHA-256 is")
