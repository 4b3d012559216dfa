"""IDX files are read completely, or one line says what is wrong with them."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from mnist_cls.data.idx import read_idx
from mnist_cls.errors import InputError


def idx(values: np.ndarray, code: int = 0x08) -> bytes:
    return bytes([0, 0, code, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize(("code", "dtype"), [(0x08, ">u1"), (0x09, ">i1"), (0x0B, ">i2"), (0x0C, ">i4"), (0x0E, ">f8")])
def test_values_of_every_dtype_are_read(tmp_path: Path, compress: bool, code: int, dtype: str) -> None:
    values = np.arange(24, dtype=dtype).reshape(2, 3, 4)
    path = tmp_path / "file"  # compression is not detected from the name
    path.write_bytes(gzip.compress(idx(values, code)) if compress else idx(values, code))
    read = read_idx(path)
    np.testing.assert_array_equal(read, values)
    assert read.dtype == np.dtype(dtype).newbyteorder("=")


whole = idx(np.zeros((3, 28, 28), np.uint8))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an IDX file"),
        (b"hello world", "not an IDX file"),
        (whole[:9], "cut off in its header"),
        (whole[:-1], "holds 2,351 bytes of values, its header .* declares 2,352"),
        (whole + b"\0", "holds more bytes"),
        (bytes([0, 0, 8, 3]) + b"\xff" * 12 + b"\0" * 100, "holds 100 bytes"),
        (gzip.compress(whole)[:-20], "broken gzip data"),
        (gzip.compress(whole)[:-8] + b"\0" * 8, "broken gzip data"),
    ],
    ids=[
        "empty",
        "text",
        "header cut off",
        "short",
        "long",
        "huge sizes",
        "gzip cut off",
        "wrong gzip checksum",
    ],
)
def test_damaged_files_are_refused_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
