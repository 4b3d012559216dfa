"""From contents to images in MNIST's form."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from ...errors import InputError
from ...images import SIZE, as_stack, images_from_array, in_mnist_form
from ...preprocessing.decode import FilePage
from ...preprocessing.digit import Digits
from ...preprocessing.prepare import ImageLike, prepare_all
from ..sources.blocks import Content, InputBlock, PagePath
from ..sources.reading import read_file

# First bytes of archives, which Pillow would only call "not an image".
_ARCHIVES = {
    b"PK\x03\x04": "zip",
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!": "rar",
}


class Decoded(NamedTuple):
    """The M images of N inputs, in order.

    Attributes:
        images: uint8 (M, 28, 28).
        counts: N numbers of images. Without `split` each is 1, and the image of an input with an error is all zeros.
        boxes: int32 (M, 4), the position of each image in its input: left, top, right, bottom.
        spans, priors: int32 (M, 2) and float32 (M,), the ways of cutting rows of digits, see `Digits`.
        errors: N reasons why there is no image, None for readable inputs.
    """

    images: np.ndarray
    counts: list[int]
    boxes: np.ndarray
    spans: np.ndarray
    priors: np.ndarray
    errors: list[str | None]


NOTHING = Decoded(
    np.zeros((0, SIZE, SIZE), np.uint8),
    [],
    np.zeros((0, 4), np.int32),
    np.zeros((0, 2), np.int32),
    np.zeros(0, np.float32),
    [],
)


def concatenate(parts: Sequence[Decoded]) -> Decoded:
    """Join the images of consecutive inputs."""
    if len(parts) == 1:
        return parts[0]
    return Decoded(
        np.concatenate([part.images for part in parts]),
        [count for part in parts for count in part.counts],
        np.concatenate([part.boxes for part in parts]),
        np.concatenate([part.spans for part in parts]),
        np.concatenate([part.priors for part in parts]),
        [error for part in parts for error in part.errors],
    )


def decode(contents: Iterable[Content], preprocess: str, split: bool) -> Decoded:
    """Convert inputs to MNIST's form, see `prepare`. Whatever is wrong with an input becomes its error.

    `contents` is consumed lazily: each content is requested when the one before it has been read.
    """
    found = prepare_all(map(_load, contents), preprocess, split, all_cuts=True)
    count = int(not split)
    none = Digits(
        np.zeros((count, SIZE, SIZE), np.uint8),
        np.zeros((count, 4), np.int32),
        np.zeros((count, 2), np.int32),
        np.zeros(count, np.float32),
    )
    digits = [none if isinstance(result, InputError) else result for result in found]
    return Decoded(
        np.concatenate([one.images for one in digits]),
        [len(one.images) for one in digits],
        np.concatenate([one.boxes for one in digits]),
        np.concatenate([one.spans for one in digits]),
        np.concatenate([one.priors for one in digits]),
        [_one_line(str(result)) if isinstance(result, InputError) else None for result in found],
    )


def undecoded(block: InputBlock, preprocess: str, split: bool) -> tuple[list[Content], Callable[[Decoded], Decoded]]:
    """Return the contents of a block that have to be decoded, and a function from their images to the block's images.

    Images of an array that are in MNIST's form already are not decoded.
    """
    contents = block.contents
    if contents is None:
        raise TypeError("a block that has not been read")
    if isinstance(contents, list):
        return contents, _unchanged
    if as_stack(contents, many=True).shape[1:] != (SIZE, SIZE):
        return list(contents), _unchanged
    images, errors = images_from_array(contents, many=True)
    if split:
        found = zip(images, errors, strict=True)
        return [image if error is None else InputError(error) for image, error in found], _unchanged
    readable = np.array([error is None for error in errors])
    others = np.flatnonzero(readable & ~in_mnist_form(images)) if preprocess == "auto" else np.array([], int)
    boxes = np.tile(np.array([0, 0, SIZE, SIZE], np.int32), (len(images), 1))

    def complete(decoded: Decoded) -> Decoded:
        found = images
        if len(others):
            found = images.copy()  # the array is the user's
            found[others], boxes[others] = decoded.images, decoded.boxes
        for index, error in zip(others.tolist(), decoded.errors, strict=True):
            errors[index] = error
        spans, priors = np.zeros((len(images), 2), np.int32), np.zeros(len(images), np.float32)
        return Decoded(found, [1] * len(images), boxes, spans, priors, errors)

    return list(images[others]), complete


def _unchanged(decoded: Decoded) -> Decoded:
    return decoded


def _load(content: Content) -> ImageLike | InputError:
    """Return what `prepare` takes, or why there is none."""
    try:
        if isinstance(content, np.ndarray):
            images, [reason] = images_from_array(content, many=False)
            return images[0] if reason is None else InputError(reason)
        if isinstance(content, PagePath):
            return FilePage(read_file(content.path), content.number)
        image = read_file(content) if isinstance(content, str) else content
    except InputError as error:
        return error
    except OSError as error:
        return InputError(error.strerror or str(error))
    if isinstance(image, bytes):
        kind = next((kind for start, kind in _ARCHIVES.items() if image.startswith(start)), None)
        if kind is not None or image[257:262] == b"ustar":
            return InputError(
                f"not an image but an archive ({kind or 'tar'}); pass it as the input to read its contents"
            )
    return image


def _one_line(text: str) -> str:
    """Shorten a message to one line that can be written anywhere."""
    return " ".join(text.split())[:300].encode("utf-8", "backslashreplace").decode()
