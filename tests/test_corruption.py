"""A damaged file, each region flipped or cut at any length, is refused or loads what it held to the bit."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mnist_cls import create_model
from mnist_cls.checkpoints.find import WEIGHTS
from mnist_cls.checkpoints.weights import read_ckpt, read_weights, save_weights
from mnist_cls.data.embedded import DIGESTS, FOLDER, embedded_file
from mnist_cls.errors import InputError

from .conftest import Run, one_line
from .forged import MODEL, archive_of, exactly, training

REGIONS = 200


def positions(size: int) -> Iterator[int]:
    """A byte in the middle of each region, and each byte near an end: in a small file, all of header and directory."""
    ends = min(2000 if size < 100_000 else 100, size // 2)
    yield from range(ends)
    yield from (region * size // REGIONS + size // REGIONS // 2 for region in range(REGIONS))
    yield from range(size - ends, size)


def refused(path: Path, load: Callable[[], str], whole: str, what: str) -> bool:
    """Whether a damaged file is refused, by one line that names it; if not, check that it loads what it held."""
    try:
        loaded = load()
    except InputError as error:
        message = str(error)
        assert str(path) in message, what
        assert message.isprintable(), what
        return True
    assert loaded == whole, f"loaded other values: {what}"
    return False


def fraction_refused(path: Path, load: Callable[[], str]) -> float:
    """Damage a file at all positions, one after the other; check what each loads, and return the fraction refused."""
    content, whole = path.read_bytes(), load()
    results = []
    with path.open("r+b", buffering=0) as file:
        for position in positions(len(content)):
            file.seek(position)
            file.write(bytes([content[position] ^ (1 << position % 8)]))
            results.append(refused(path, load, whole, f"byte {position} of {len(content)}"))
            file.seek(position)
            file.write(content[position : position + 1])
    assert len(results) > 300
    for length in sorted({*range(0, 200, 7), *(len(content) * part // 50 for part in range(50)), len(content) - 1}):
        path.write_bytes(content[:length])
        assert refused(path, load, whole, f"cut at {length} of {len(content)}")
    for more in (b"\0", b"PK\5\6", content[-100:]):
        path.write_bytes(content + more)
        refused(path, load, whole, "longer")
    path.write_bytes(content)
    assert load() == whole
    return sum(results) / len(results)


def weights_in(path: Path) -> str:
    """All that is read of a file with weights."""
    if path.suffix == ".ckpt":
        return exactly(read_ckpt(path))
    weights = read_weights(path)
    return exactly([weights.model, weights.state, weights.provenance])


# Of a zip archive's own fields, many change nothing that is loaded.
LEAST = {".ckpt": 0.7, ".safetensors": 1.0}


@pytest.mark.parametrize("name", ["checkpoints/last.ckpt", "model.safetensors"])
def test_checkpoints_of_a_training(tmp_path: Path, trained: Path, name: str) -> None:
    path = Path(shutil.copy(trained / name, tmp_path))
    assert fraction_refused(path, lambda: weights_in(path)) >= LEAST[path.suffix]


@pytest.mark.parametrize("name", ["small.ckpt", "small.safetensors"])
def test_small_checkpoints(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "small.ckpt":
        path.write_bytes(archive_of(training()))
    else:
        save_weights(path, create_model(**MODEL), MODEL, {"seed": 1})
    assert fraction_refused(path, lambda: weights_in(path)) >= LEAST[path.suffix]


@pytest.mark.parametrize("name", sorted(path.name for path in WEIGHTS.glob("*.safetensors")))
def test_weights_in_the_package(tmp_path: Path, name: str) -> None:
    path = Path(shutil.copy(WEIGHTS / name, tmp_path))
    assert fraction_refused(path, lambda: weights_in(path)) >= LEAST[path.suffix]


@pytest.mark.parametrize("name", sorted(DIGESTS))
def test_images_in_the_package(tmp_path: Path, name: str) -> None:
    path = Path(shutil.copy(FOLDER / name, tmp_path))
    assert fraction_refused(path, lambda: exactly(embedded_file(name, tmp_path))) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("last.ckpt", "damaged, or not a checkpoint (Bad CRC-32 for file 'archive/data/"),
        ("model.safetensors", "is damaged: its tensors or metadata do not match its digest; copy it again"),
    ],
)
def test_entry_points_say_it_in_one_line(tmp_path: Path, trained: Path, run: Run, name: str, message: str) -> None:
    content = bytearray((trained / ("checkpoints/last.ckpt" if name == "last.ckpt" else name)).read_bytes())
    content[len(content) // 3] ^= 0x10
    (tmp_path / name).write_bytes(content)
    one_line(run("predict", "input=mnist:test", f"checkpoint={name}"), name, message)
    if name == "last.ckpt":
        one_line(run("train", f"checkpoint={name}", "output_dir=run"), name, message)
