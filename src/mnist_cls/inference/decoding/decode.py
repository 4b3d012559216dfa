"""From contents to images in MNIST's form: what a decoder does with each of them, whatever they hold."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ...errors import InputError
from ...images import SIZE, as_stack, images_from_array, in_mnist_form
from ...preprocessing.digit import Digits
from ...preprocessing.prepare import prepare_all
from ..sources.blocks import Content, InputBlock, read_file, size_of

# How archives begin, those that Pillow would only call "not an image".
_ARCHIVES = {
    b"PK\x03\x04": "zip",
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!": "rar",
}


class Decoded(NamedTuple):
    """The images of N inputs, one after another.

    Attributes:
        images: uint8 (M, 28, 28), contiguous and writable.
        counts: how many of them belong to each input. Without splitting 1 each: an input with an error has zeros.
        boxes: int32 (M, 4), where each was in its input: left, top, right, bottom.
        errors: for each input None, or why it has no images.
    """

    images: np.ndarray
    counts: list[int]
    boxes: np.ndarray
    errors: list[str | None]


@dataclass
class Job:
    """Some inputs on their way: what is there already, and what still has to be decoded.

    Attributes:
        piece: the inputs.
        contents: what has to be decoded, often all of them, often none.
        places: of which inputs these are the contents.
        ready: the images of the others.
        result: all of them, once they are there.
        losses: how many processes died with this in their hands, none knows by which of the contents.
    """

    piece: InputBlock
    contents: list[Content]
    places: np.ndarray | None = None
    ready: Decoded | None = None
    result: Decoded | None = None
    losses: int = 0
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.size = sum(map(size_of, self.contents))
        if not self.contents:
            self.result = self.ready

    def decoded(self) -> Decoded:
        """The images of all inputs."""
        if self.result is None:
            raise RuntimeError("not decoded yet")
        return self.result

    def finish(self, decoded: Decoded) -> None:
        """Take what has become of the contents."""
        self.contents = []
        if self.ready is None or self.places is None:
            self.result = decoded
            return
        self.result = self.ready
        self.ready.images[self.places] = decoded.images
        self.ready.boxes[self.places] = decoded.boxes
        for place, error in zip(self.places.tolist(), decoded.errors, strict=True):
            self.ready.errors[place] = error


def job_of(piece: InputBlock, preprocess: str, split: bool) -> Job:
    """See what has to be decoded of some inputs: of an array nothing, if it is in MNIST's form."""
    if isinstance(piece.contents, list):
        return Job(piece, piece.contents)
    if piece.contents is None:
        raise TypeError("a piece without contents")
    try:
        as_stack(piece.contents)
    except InputError:  # images of another size
        return Job(piece, list(piece.contents))
    images, errors = images_from_array(piece.contents)
    if split:
        given = zip(images, errors, strict=True)
        return Job(piece, [image if error is None else InputError(error) for image, error in given])
    good = np.array([error is None for error in errors])
    other = np.flatnonzero(good & ~in_mnist_form(images)) if preprocess == "auto" else np.array([], int)
    boxes = np.tile(np.array([0, 0, SIZE, SIZE], np.int32), (len(images), 1))
    return Job(piece, list(images[other]), other, Decoded(images, [1] * len(images), boxes, errors))


def decode(
    contents: Sequence[Content],
    preprocess: str,
    split: bool,
    before: Callable[[int], None] = lambda place: None,
) -> Decoded:
    """Bring images into MNIST's form. What cannot be is an error, whatever it is.

    Args:
        contents: N of them.
        preprocess: see `prepare`.
        split: see `prepare`.
        before: is called with the place of each of them before it is looked at.
    """

    def images() -> Iterator[bytes | np.ndarray | InputError]:
        for place, content in enumerate(contents):
            before(place)
            yield _image(content)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of broken files, whose rows say it
        found = prepare_all(images(), preprocess, split)
    none = Digits(np.zeros((int(not split), SIZE, SIZE), np.uint8), np.zeros((int(not split), 4), np.int32))
    digits = [none if isinstance(one, InputError) else one for one in found]
    return Decoded(
        np.concatenate([one.images for one in digits]),
        [len(one.images) for one in digits],
        np.concatenate([one.boxes for one in digits]),
        [_line(str(one)) if isinstance(one, InputError) else None for one in found],
    )


def _image(content: Content) -> bytes | np.ndarray | InputError:
    """What `prepare` takes, or why there is none."""
    try:
        if isinstance(content, np.ndarray) and content.shape == (SIZE, SIZE):
            images, [reason] = images_from_array(content)
            return images[0] if reason is None else InputError(reason)
        image = read_file(content) if isinstance(content, str) else content
    except InputError as error:
        return error
    except OSError as error:
        return InputError(error.strerror or str(error))
    if isinstance(image, bytes):
        kind = next((kind for start, kind in _ARCHIVES.items() if image.startswith(start)), None)
        if kind is not None or image[257:262] == b"ustar":
            return InputError(
                f"not an image but an archive ({kind or 'tar'}); name it as the input to read what it holds"
            )
    return image


def _line(text: str) -> str:
    """One line of text that can be written anywhere, however long and strange the original is."""
    return " ".join(text.split())[:300].encode("utf-8", "backslashreplace").decode()
