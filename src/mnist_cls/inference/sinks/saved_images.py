"""What the network saw, as pictures for people to look at."""

import os
import re
from pathlib import Path, PurePosixPath

from PIL import Image

from ...files import expand
from ..decoding.batches import Chunk


class ImageFolder:
    """A folder of 28x28 PNGs, named by the row, counted from 0, and the input: `000000012_name.png`.

    Of a row of digits each has its own: `000000012_name_0.png`, `000000012_name_1.png`, ...

    Each appears when it is whole. An input with an error has none.

    Args:
        folder: is made if it is not there.
        split: whether inputs have several images.

    Raises:
        OSError: the folder cannot be made.
    """

    def __init__(self, folder: str | Path, split: bool) -> None:
        self.folder, self.split = expand(folder), split
        self.folder.mkdir(parents=True, exist_ok=True)

    def write(self, first: int, chunk: Chunk) -> None:
        """Write the images of a chunk whose first row has that number.

        Raises:
            OSError: the disk is full, or gone.
        """
        temporary = self.folder / f".unfinished-{os.getpid()}.png"
        images = iter(chunk.decoded.images)
        inputs = zip(chunk.names, chunk.decoded.counts, chunk.decoded.errors, strict=True)
        try:
            for row, (name, count, error) in enumerate(inputs, first):
                for place in range(count):
                    image = next(images)
                    if error is None:
                        Image.fromarray(image).save(temporary)
                        number = f"_{place}" if self.split else ""
                        temporary.replace(self.folder / f"{row:09}_{_safe(name)}{number}.png")
        finally:
            temporary.unlink(missing_ok=True)


def _safe(name: str) -> str:
    """A name without what file systems and shells give a meaning to, and not too long for them."""
    return re.sub(r"[^\w-]+", "_", PurePosixPath(name).stem, flags=re.ASCII)[:80]
