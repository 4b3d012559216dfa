"""Nothing that is printed ends a run: any encoding, closed and full streams, narrow terminals."""

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

POSIX = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
ENCODINGS = [{"PYTHONIOENCODING": name} for name in ("gbk", "latin-1", "cp1252", "ascii")] + [{"LC_ALL": "C"}, POSIX]

Bytes = subprocess.CompletedProcess[bytes]
FAST = ["mode=fast_dev", "model=mlp", "trainer=cpu"]


def start(cwd: Path, *arguments: str | bytes, **environment: str) -> Bytes:
    """Run `python -m mnist_cls ...` as a new process; its output stays bytes."""
    command = [sys.executable, "-m", "mnist_cls", *arguments]
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(command, cwd=cwd, capture_output=True, env=clean | environment)


def shell(cwd: Path, arguments: str, redirection: str) -> Bytes:
    """Run `python -m mnist_cls ...` with streams as a shell can set them."""
    command = f"{sys.executable} -m mnist_cls {arguments} {redirection}"
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(command, cwd=cwd, capture_output=True, shell=True, env=clean)  # noqa: S602


def terminal(cwd: Path, columns: int, *arguments: str, **environment: str) -> tuple[int, str]:
    """Run `python -m mnist_cls ...` in a terminal of that many columns; return the status and what it shows."""
    main, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    clean = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    command = [sys.executable, "-m", "mnist_cls", *arguments]
    process = subprocess.Popen(
        command, cwd=cwd, stdin=end, stdout=end, stderr=end, env=clean | {"TERM": "xterm"} | environment
    )
    os.close(end)
    shown = b""
    with contextlib.suppress(OSError):  # once the process has closed its end
        while part := os.read(main, 1 << 16):
            shown += part
    os.close(main)
    return process.wait(), re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", shown).decode(errors="replace")


@pytest.fixture
def names(tmp_path: Path, digits: np.ndarray) -> list[bytes]:
    """Three images: one whose name no western encoding has, one whose name is no UTF-8, one of plain ASCII."""
    found = ["дигит七.png".encode(), b"b\xff\xfe.png", b"plain.png"]
    for name in found:
        Image.fromarray(digits[0]).save(tmp_path / os.fsdecode(name))
    return found


@pytest.mark.parametrize("environment", ENCODINGS, ids=str)
def test_predictions_of_any_name_are_shown_on_any_stream(
    environment: dict[str, str], names: list[bytes], tmp_path: Path
) -> None:
    done = start(tmp_path, "predict", "input=.", **environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(b"7      ") == 3


def test_a_path_of_any_name_can_be_typed(names: list[bytes], tmp_path: Path) -> None:
    for name in names[:2]:  # without the quotes that Hydra's grammar wants
        done = start(tmp_path, "predict", b"input=" + name, **POSIX)
        assert done.returncode == 0, done.stderr
    done = start(tmp_path, "predict", "input=нет七.png", **POSIX)
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: input=")
    assert done.stderr.count(b"\n") == 1


def test_rows_on_standard_output_are_utf8_whatever_its_encoding(names: list[bytes], tmp_path: Path) -> None:
    rows = start(tmp_path, "predict", "input=.", "output=-.jsonl", PYTHONIOENCODING="gbk").stdout
    assert "дигит七.png" in rows.decode("utf-8")
    assert start(tmp_path, "predict_batch", ".", "-.jsonl", PYTHONIOENCODING="ascii").stdout == rows


@pytest.mark.parametrize(
    "arguments",
    [
        ["forward", "output_dir=запуск"],
        ["export", "output=сеть七.safetensors"],
        ["train", "--help"],
        [],
    ],
    ids=str,
)
def test_commands_work_in_an_encoding_of_few_characters(
    arguments: list[str], names: list[bytes], tmp_path: Path
) -> None:
    done = start(tmp_path, *arguments, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    if arguments[:1] == ["forward"]:
        assert b"1.0000       ####################" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("environment", ENCODINGS, ids=str)
def test_training_and_evaluation_work_in_any_encoding(environment: dict[str, str], tmp_path: Path) -> None:
    done = start(tmp_path, "train", *FAST, "output_dir=run", **environment)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "metrics.json").is_file()
    done = start(tmp_path, "eval", "checkpoint=run", "report=false", **environment)
    assert done.returncode == 0, done.stderr
    assert b"accuracy" in done.stdout


def test_training_in_a_narrow_terminal_of_few_characters(tmp_path: Path) -> None:
    status, shown = terminal(tmp_path, 40, "train", *FAST, "output_dir=run", PYTHONIOENCODING="ascii")
    assert status == 0, shown
    assert "test accuracy" in shown
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_tables_fit_a_narrow_terminal(tmp_path: Path, names: list[bytes]) -> None:
    status, shown = terminal(tmp_path, 40, "predict", "input=plain.png")
    assert status == 0, shown
    assert "plain.png  7" in shown
    status, shown = terminal(tmp_path, 40, "forward", "model=mlp", "pictures=false")
    assert status == 0, shown
    tables = shown.split("#  operation")[1:]  # the columns that fit, then further ones below
    assert len(tables) > 1
    assert all(len(line.rstrip()) <= 40 for table in tables[:-1] for line in table.splitlines())
    status, shown = terminal(tmp_path, 40, "train", "--help")
    assert status == 0, shown
    # Only keys, values and commands, which cannot be broken, are longer.
    assert all(len(line) <= 40 or "=" in line or "-" in line for line in shown.splitlines())


def test_a_folder_whose_name_is_no_text_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    done = start(tmp_path, "train", *FAST, b"output_dir=run\xff")
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: output_dir=")
    assert b"is not UTF-8" in done.stderr
    assert done.stderr.count(b"\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        "--help",
        "train --help",
        "predict input=plain.png",
        "predict input=plain.png output=-",
        "predict_batch plain.png -",
        "predict_batch --help",
    ],
)
def test_output_to_a_full_disk_is_one_line_and_status_2(arguments: str, names: list[bytes], tmp_path: Path) -> None:
    done = shell(tmp_path, arguments, "> /dev/full")
    assert done.returncode == 2
    [line] = done.stderr.decode().splitlines()[-1:]
    assert line.startswith("error: ")
    assert "No space left on device" in line
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr


@pytest.mark.parametrize("ending", [b".csv", b".parquet"])
def test_an_output_may_have_a_name_that_is_no_text(ending: bytes, names: list[bytes], tmp_path: Path) -> None:
    done = start(tmp_path, "predict", b"input=" + names[1], b"output=rows\xff" + ending)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / os.fsdecode(b"rows\xff" + ending)).stat().st_size > 0


def test_a_file_that_cannot_be_written_is_named_without_pythons_errno(names: list[bytes], tmp_path: Path) -> None:
    for command in ("predict input=plain.png output=/proc/x.csv", "predict_batch plain.png /proc/x.csv"):
        done = shell(tmp_path, command, "")
        assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
        assert done.stderr.startswith(b"error: /proc/x.csv: cannot be written")


def test_commands_work_without_standard_streams(names: list[bytes], tmp_path: Path) -> None:
    done = shell(tmp_path, "predict input=plain.png output=rows.csv", "<&- >&- 2>&-")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert (tmp_path / "rows.csv").read_text().splitlines()[1].startswith("plain.png,7,")
    done = shell(tmp_path, "predict input=none.png", "2>&-")
    assert (done.returncode, done.stdout) == (2, b"")
    done = shell(tmp_path, "predict input=none.png", "2> /dev/full")
    assert done.returncode == 2


def test_rows_are_not_lost_on_a_closed_standard_output(names: list[bytes], tmp_path: Path) -> None:
    done = shell(tmp_path, "predict input=plain.png output=-", ">&-")
    assert done.returncode == 2
    assert done.stderr == b"error: output=-: standard output is closed\n"


def test_a_reader_that_has_seen_enough_ends_a_command_silently(tmp_path: Path) -> None:
    done = shell(tmp_path, "predict input=mnist:test output=-", "| head -n 2")
    assert done.stdout.count(b"\n") == 2
    assert done.stderr == b""


def test_a_training_goes_on_when_its_output_cannot_be_written(tmp_path: Path) -> None:
    train = f"train {' '.join(FAST)}"
    done = shell(tmp_path, f"{train} output_dir=full", "> /dev/full")
    assert done.returncode == 2
    line = b"error: standard output: cannot be written (No space left on device)\n"
    assert done.stderr == line
    done = shell(tmp_path, f"{train} output_dir=read", "| head -n 1")
    assert (done.stdout.count(b"\n"), done.stderr) == (1, b"")
    for name in ("full", "read"):
        assert (tmp_path / name / "model.safetensors").is_file()
        assert (tmp_path / name / "metrics.json").is_file()
