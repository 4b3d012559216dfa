"""Whatever is in the input costs its own row at most: no crash, no hang, no memory without bounds.

The mutated files are 100 for each format; MNIST_CLS_MUTATIONS=1000 in the environment makes them 1,000.
"""

import contextlib
import gzip
import io
import multiprocessing
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mnist_cls.errors import InputError
from mnist_cls.inference.decoding import pool
from mnist_cls.inference.decoding.batches import Batch, batches_of
from mnist_cls.inference.decoding.pool import Decoders
from mnist_cls.inference.sources.detect import open_source
from mnist_cls.inference.sources.reading import LARGEST_FILE

MUTATIONS = int(os.environ.get("MNIST_CLS_MUTATIONS", "100"))
PICTURES = ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"]


def go_through(input: Path) -> tuple[list[str], list[str | None]]:
    """The names and errors of all inputs."""
    with Decoders("auto", split=False) as decoders:
        batches: list[Batch] = list(batches_of(open_source(input), decoders))
    for batch in batches:
        assert batch.decoded.images.shape == (len(batch.names), 28, 28)
    return [name for b in batches for name in b.names], [error for b in batches for error in b.decoded.errors]


def row_of(input: Path) -> str | None:
    """The error of a single input, checked to be one line."""
    _, [error] = go_through(input)
    assert error is None or (error.isprintable() and len(error) <= 300)
    return error


def picture(digits: np.ndarray, kind: str, size: int = 1) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.kron(digits, np.ones((size, size), np.uint8))).save(content, kind)
    return content.getvalue()


def mutated(content: bytes, chance: random.Random) -> bytes:
    """Some bytes changed, removed or doubled, or the end cut off."""
    data = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 5, 20])):
        position = chance.randrange(len(data)) if data else 0
        change = chance.random()
        if change < 0.6 and data:
            data[position] = chance.choice([0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)])
        elif change < 0.75:
            data[position : position + 4] = struct.pack("<I", chance.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1]))
        elif change < 0.85:
            del data[position : position + chance.randrange(1, 30)]
        elif change < 0.95:
            data[position:position] = data[position : position + chance.randrange(1, 30)]
        else:
            del data[position:]
    return bytes(data)


@pytest.mark.slow
@pytest.mark.parametrize("kind", PICTURES)
def test_mutated_pictures_are_rows(tmp_path: Path, digits: np.ndarray, kind: str) -> None:
    chance = random.Random(kind)
    for number in range(MUTATIONS):
        whole = picture(digits[number % 100], kind, chance.choice([1, 3]))
        (tmp_path / f"{number:04}.{kind.lower()}").write_bytes(mutated(whole, chance))
    names, errors = go_through(tmp_path)
    assert len(names) == len(errors) == MUTATIONS
    assert all(error is None or error.isprintable() for error in errors)


def containers(digits: np.ndarray) -> dict[str, Callable[[io.BytesIO], object]]:
    """How to write ten digits into each."""
    images = {f"{n}.png": picture(digits[n], "PNG") for n in range(10)}
    idx = struct.pack(">4B3I", 0, 0, 8, 3, 10, 28, 28) + digits[:10].tobytes()

    def write_zip(file: io.BytesIO) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in images.items():
                archive.writestr(name, content)

    def write_tar(file: io.BytesIO, mode: Any = "w") -> None:
        with tarfile.open(fileobj=file, mode=mode) as archive:
            for name, content in images.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))

    def write_csv(file: io.BytesIO) -> None:
        for digit in digits[:10]:
            file.write(",".join(map(str, [7, *digit.reshape(-1).tolist()])).encode() + b"\n")

    pixels = pa.table({"pixels": digits[:10].reshape(10, -1).tolist(), "label": range(10)})
    return {
        "npy": lambda file: np.save(file, digits[:10]),
        "npz": lambda file: np.savez_compressed(file, digits[:10]),
        "idx": lambda file: file.write(idx),
        "gz": lambda file: file.write(gzip.compress(idx)),
        "zip": write_zip,
        "tar": write_tar,
        "tar.gz": lambda file: write_tar(file, "w:gz"),
        "tar.xz": lambda file: write_tar(file, "w:xz"),
        "csv": write_csv,
        "image.parquet": lambda file: pq.write_table(pa.table({"image": list(images.values())}), file),
        "pixels.parquet": lambda file: pq.write_table(pixels, file),
    }


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(containers(np.zeros((10, 28, 28), np.uint8))))
def test_mutated_containers_are_rows_or_one_line(tmp_path: Path, digits: np.ndarray, kind: str) -> None:
    chance, written = random.Random(kind), io.BytesIO()
    containers(digits)[kind](written)
    path = tmp_path / f"file.{kind}"
    for _ in range(MUTATIONS):
        path.write_bytes(mutated(written.getvalue(), chance))
        try:
            names, errors = go_through(path)
        except InputError as error:
            lines = str(error).splitlines()
            names, errors = lines, [None] * ("file" in lines[0])
        assert len(names) == len(errors), (names, errors)
    assert list(tmp_path.iterdir()) == [path]


def png_of_zeros(side: int) -> bytes:
    """A PNG of some kilobytes that declares side x side pixels, and has them all."""

    def part(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    packer = zlib.compressobj(1)
    rows = b"".join(packer.compress(bytes(side + 1)) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", rows) + part(b"IEND", b"")


LIMITED = """
import resource, sys
import torch
from mnist_cls.inference.options import PredictOptions
from mnist_cls.inference.pipeline import predict_files
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (1500 << 20),) * 2)
print(predict_files(sys.argv[1], sys.argv[2], PredictOptions(device="cpu")).errors)
"""


def test_bombs_are_rows_in_bounded_memory(tmp_path: Path, digits: np.ndarray) -> None:
    """A PNG of 196 million pixels, a member of a zip of 200 MB, a gzip of 300 MB that declares a few images."""
    folder = tmp_path / "bombs"
    folder.mkdir()
    (folder / "bomb.png").write_bytes(png_of_zeros(14_000))
    packed = zlib.compressobj(1, zlib.DEFLATED, -15)
    content = b"".join(packed.compress(bytes(1 << 20)) for _ in range(200)) + packed.flush()
    name = b"bomb.png"
    sizes = struct.pack("<IIIH", 0, len(content), 200 << 20, len(name))
    local = b"PK\3\4" + struct.pack("<HHHHH", 20, 0, 8, 0, 0) + sizes + b"\0\0" + name + content
    entry = b"PK\1\2" + struct.pack("<HHHHHH", 20, 20, 0, 8, 0, 0) + sizes + bytes(12) + struct.pack("<I", 0) + name
    end = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(entry), len(local), 0)
    (tmp_path / "bomb.zip").write_bytes(local + entry + end)
    gzipped = zlib.compressobj(1, zlib.DEFLATED, 31)
    header = struct.pack(">4B3I", 0, 0, 8, 3, 10, 28, 28)
    (tmp_path / "bomb.gz").write_bytes(
        gzipped.compress(header) + b"".join(gzipped.compress(bytes(1 << 20)) for _ in range(300)) + gzipped.flush()
    )
    assert "too large" in str(row_of(folder))
    assert row_of(tmp_path / "bomb.zip") == f"{200 << 20:,} bytes; expected at most 100,000,000 for one image"
    with pytest.raises(InputError, match="holds more bytes than its header"):
        go_through(tmp_path / "bomb.gz")
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, folder, tmp_path / "rows.csv"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr


def test_a_header_of_a_tar_that_would_fill_the_memory(tmp_path: Path) -> None:
    member = tarfile.TarInfo("pax")
    member.type, member.size = tarfile.XHDTYPE, 8 << 30
    with gzip.open(tmp_path / "bomb.tar.gz", "wb") as file:
        file.write(member.tobuf() + bytes(1 << 20))
    with pytest.raises(InputError, match=r"bomb\.tar\.gz"):
        go_through(tmp_path / "bomb.tar.gz")


def test_files_over_the_limit_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    with path.open("wb") as file:
        file.truncate(LARGEST_FILE + 1)  # takes no space
    assert row_of(path) == "100,000,001 bytes; expected at most 100,000,000 for one image"


def test_links(tmp_path: Path, digits: np.ndarray) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (inner / "one.png").write_bytes(picture(digits[0], "PNG"))
    (inner / "loop").symlink_to(tmp_path / "a")
    (inner / "self").symlink_to("self")
    (inner / "nowhere.png").symlink_to("nothing")
    (tmp_path / "a" / "c").symlink_to(inner)  # a second path to the same folder, not a loop
    names, errors = go_through(tmp_path / "a")
    below = [os.path.relpath(name, tmp_path / "a") for name in names]
    assert below == [f"{way}/{name}" for way in "bc" for name in ("loop", "nowhere.png", "one.png", "self")]
    loop = "a link to a folder that contains it; not followed"
    assert errors[:3] == [loop, "No such file or directory", None]
    assert "symbolic links" in str(errors[3])


def test_folders_nested_deeper_than_python_likes(tmp_path: Path, digits: np.ndarray) -> None:
    deepest = tmp_path / "top" / "/".join("d" * 1200)
    subprocess.run(["mkdir", "-p", str(deepest)], check=True)
    (deepest / "one.png").write_bytes(picture(digits[0], "PNG"))
    for input in (tmp_path / "top", f"{tmp_path}/top/**", f"{tmp_path}/top/**/*.png"):
        names, errors = go_through(Path(input))
        assert (names, errors) == ([str(deepest / "one.png")], [None])
    subprocess.run(["rm", "-r", str(tmp_path / "top")], check=True)


def test_pipes_sockets_and_devices_are_not_opened(tmp_path: Path, digits: np.ndarray) -> None:
    folder = tmp_path / "scans"
    folder.mkdir()
    (folder / "one.png").write_bytes(picture(digits[0], "PNG"))
    os.mkfifo(folder / "pipe.png")
    (folder / "zero.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listening:
        with contextlib.chdir(folder) if hasattr(contextlib, "chdir") else contextlib.nullcontext():
            listening.bind("socket.png" if hasattr(contextlib, "chdir") else str(folder / "socket.png"))
        _, errors = go_through(folder)
    kinds = ["a named pipe", "a socket", "a device"]
    assert errors == [None, *(f"{kind}; expected a file" for kind in kinds)]
    for name in ("pipe.png", "zero.png"):
        with pytest.raises(InputError, match="expected a file"):
            open_source(folder / name)


@pytest.mark.parametrize("name", [b"zwei\nzeilen.png", b'"quoted", and.png', b"=1+1.png", b"\xff\xfe.png", b"\r.png"])
def test_strange_names_in_folders_and_lists(tmp_path: Path, digits: np.ndarray, name: bytes) -> None:
    folder = os.fsencode(tmp_path / "scans")
    os.mkdir(folder)  # noqa: PTH102
    Path(os.fsdecode(os.path.join(folder, name))).write_bytes(picture(digits[0], "PNG"))  # noqa: PTH118
    (tmp_path / "list.txt").write_bytes(os.path.join(folder, name) + b"\0")  # noqa: PTH118
    for input in (tmp_path / "scans", tmp_path / "list.txt"):
        names, errors = go_through(input)
        assert errors == [None]
        assert names[0].encode().endswith(name.decode("utf-8", "backslashreplace").encode())


def test_a_file_that_changes_while_it_is_read(tmp_path: Path, digits: np.ndarray) -> None:
    """Another process cuts the array off in the middle of the run: one line, no signal."""
    many = np.tile(digits, (400, 1, 1))
    np.save(tmp_path / "many.npy", many)
    with Decoders("auto", split=False) as decoders:
        batches = batches_of(open_source(tmp_path / "many.npy"), decoders)
        next(batches)
        os.truncate(tmp_path / "many.npy", 10_000_000)
        with pytest.raises(InputError, match=r"many\.npy: is cut off"):
            list(batches)


def break_gif(monkeypatch: pytest.MonkeyPatch, defect: Callable[[], object]) -> None:
    """Give Pillow's decoder of GIFs a defect; decoders inherit it."""
    Image.preinit()
    monkeypatch.setitem(Image.OPEN, "GIF", (lambda *arguments: defect(), Image.OPEN["GIF"][1]))


def write_pictures(folder: Path, digits: np.ndarray, count: int, gifs: list[int]) -> None:
    """PNGs, and GIFs with these numbers."""
    for number in range(count):
        kind = "GIF" if number in gifs else "PNG"
        (folder / f"{number:03}").write_bytes(picture(digits[number % 100], kind))


@pytest.mark.parametrize(
    ("signal_name", "words"), [("SIGSEGV", "by SIGSEGV"), ("SIGKILL", "memory"), ("SIGALRM", "stopped after 30 s")]
)
def test_a_decoder_that_dies_costs_one_row(
    tmp_path: Path, digits: np.ndarray, monkeypatch: pytest.MonkeyPatch, signal_name: str, words: str
) -> None:
    """A signal reaches the process while it decodes one image, as the kernel would send it."""
    write_pictures(tmp_path, digits, 300, [17, 18, 299])
    break_gif(monkeypatch, lambda: os.kill(os.getpid(), signal.Signals[signal_name]))
    names, errors = go_through(tmp_path)
    assert [Path(name).name for name in names] == [f"{number:03}" for number in range(300)]
    assert [index for index, error in enumerate(errors) if error is not None] == [17, 18, 299]
    assert words in str(errors[17])


def test_a_decoder_that_hangs_costs_one_row(
    tmp_path: Path, digits: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang() -> None:
        while True:
            pass

    write_pictures(tmp_path, digits, 3, [1])
    break_gif(monkeypatch, hang)
    monkeypatch.setattr(pool, "SECONDS", 1)
    _, errors = go_through(tmp_path)
    assert errors == [None, "its decoder was stopped after 1 s", None]


def test_a_single_image_whose_decoder_is_killed_once_costs_no_row(
    tmp_path: Path, digits: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.preinit()
    open_gif, is_gif = Image.OPEN["GIF"]

    def killed_once(*arguments: Any) -> Image.Image:
        if not (tmp_path / "killed").exists():
            (tmp_path / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return open_gif(*arguments)

    (tmp_path / "one.gif").write_bytes(picture(digits[0], "GIF"))
    monkeypatch.setitem(Image.OPEN, "GIF", (killed_once, is_gif))
    assert row_of(tmp_path / "one.gif") is None
    assert (tmp_path / "killed").exists()


def test_a_decoder_that_is_killed_from_outside_costs_no_row(tmp_path: Path, digits: np.ndarray) -> None:
    """As the kernel does it when memory is short, at any moment."""
    write_pictures(tmp_path, digits, 2000, [])
    errors = []
    with Decoders("auto", split=False) as decoders:
        for batch in batches_of(open_source(tmp_path), decoders):
            errors += batch.decoded.errors
            for process in multiprocessing.active_children()[:1]:
                process.kill()
    assert errors == [None] * 2000


def test_long_paths_block_nobody(tmp_path: Path, digits: np.ndarray) -> None:
    """Contents that are sent ahead must fit into a pipe that nobody reads for a while."""
    folder = tmp_path.joinpath(*["x" * 200] * 12)
    os.makedirs(folder)  # noqa: PTH103
    content = picture(digits[0], "PNG")
    for number in range(600):
        (folder / f"{number}.png").write_bytes(content)
    names, errors = go_through(tmp_path)
    assert len(names) == 600
    assert errors == [None] * 600


def test_no_process_outlives_the_run(tmp_path: Path, digits: np.ndarray) -> None:
    """Not even if the run is killed."""
    folder = tmp_path / "scans"
    folder.mkdir()
    large = picture(np.asarray(Image.fromarray(digits[0]).resize((4000, 4000))), "PNG")
    for number in range(200):
        (folder / f"{number}.png").write_bytes(large)
    process, children = start_decoding(folder)
    time.sleep(0.5)  # they are at work
    process.kill()
    wait_for_the_end(process, children)


def test_no_process_outlives_the_run_that_does_not_take_its_result(tmp_path: Path, digits: np.ndarray) -> None:
    """Results larger than a pipe's buffer, and a run that is stopped, and then killed, before it reads them."""
    np.save(tmp_path / "inverted.npy", 255 - np.tile(digits, (500, 1, 1)))
    process, children = start_decoding(tmp_path / "inverted.npy")
    assert process.stdout is not None
    process.stdout.readline()  # after the first batch
    process.send_signal(signal.SIGSTOP)
    before: list[list[str]] = []
    while (times := [processor_time(child) for child in children]) != before:  # then all wait for somebody to read
        before = times
        time.sleep(0.5)
    process.kill()
    wait_for_the_end(process, children)


def start_decoding(input: Path) -> "tuple[subprocess.Popen[str], list[int]]":
    """Start a process that decodes; return it with the numbers of its decoders."""
    program = (
        "import multiprocessing, sys\n"
        "from mnist_cls.inference.decoding.batches import batches_of\n"
        "from mnist_cls.inference.decoding.pool import Decoders\n"
        "from mnist_cls.inference.sources.detect import open_source\n"
        "with Decoders('auto', False) as decoders:\n"
        "    decoders.start(None)\n"
        "    print(*[process.pid for process in multiprocessing.active_children()], flush=True)\n"
        "    for _ in batches_of(open_source(sys.argv[1]), decoders): print(flush=True)"
    )
    process = subprocess.Popen([sys.executable, "-c", program, input], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    children = list(map(int, process.stdout.readline().split()))
    assert children
    return process, children


def wait_for_the_end(process: "subprocess.Popen[str]", children: list[int]) -> None:
    assert process.stdout is not None
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 10
    while alive := [child for child in children if state_of(child)[0] != "Z"]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.05)


def processor_time(process: int) -> list[str]:
    return state_of(process)[11:13]


def state_of(process: int) -> list[str]:
    """The fields of /proc/PID/stat after the name: "Z" first if the process has ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return ["Z"]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_inputs(tmp_path: Path, digits: np.ndarray) -> None:
    """Ten times the inputs, the same peak of memory, within the size of a batch."""
    image = picture(digits[0], "PNG")
    peaks = []
    for count in (2_000, 20_000):
        with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
            for number in range(count):
                archive.writestr(f"{number}.png", image)
        program = (
            "import resource, sys\nfrom mnist_cls.inference.options import PredictOptions\n"
            "from mnist_cls.inference.pipeline import predict_files\n"
            "predict_files(sys.argv[1], sys.argv[2], PredictOptions(checkpoint='image_classifier', device='cpu'))\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        command = [sys.executable, "-c", program, str(tmp_path / "images.zip"), str(tmp_path / "rows.csv")]
        peaks.append(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) / 1024)
    assert peaks[1] - peaks[0] < 60, peaks
