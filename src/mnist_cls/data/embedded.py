"""The packaged MNIST: four gzip-compressed IDX files, checked against their digests each time they are read."""

import hashlib
from pathlib import Path

from ..errors import InputError

FOLDER = Path(__file__).parent / "mnist"

# SHA-256 of the compressed files.
DIGESTS = {
    "train-images-idx3-ubyte.gz": "0b367032e93c5d0cea0925647cfdb18614af8ee15f83e6f2fc2ad904a6835971",
    "train-labels-idx1-ubyte.gz": "1787548bbe0bff1ec2ecdc0ef292b02df999e2d1a6002d27500982c652b17203",
    "t10k-images-idx3-ubyte.gz": "1a1a05eab793c14bb050b398624a11b0ffd1a2953baed553b1b9bd079e2a20be",
    "t10k-labels-idx1-ubyte.gz": "b91679a0acfe4ba0e50a2437a903084cba1f5f92592b016a25a7dfd00455798b",
}


def embedded_file(name: str, folder: Path = FOLDER) -> Path:
    """Return the path of a file of the packaged MNIST, after checking its digest.

    Args:
        name: one of `DIGESTS`.
        folder: folder of the files.

    Raises:
        InputError: If the file is missing, truncated or changed.
    """
    path = folder / name
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing; install mnist-cls again, or set data.dir=FOLDER") from error
    if digest != DIGESTS[name]:
        raise InputError(
            f"{path} is damaged: its SHA-256 is {digest}, expected {DIGESTS[name]}; install mnist-cls again"
        )
    return path
