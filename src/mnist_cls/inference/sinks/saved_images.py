"""What the network saw, as PNG files for people to look at."""

import os
import re
from pathlib import Path, PurePosixPath

from PIL import Image

from ...files import expand
from ..decoding.batches import Batch


class ImageFolder:
    """A folder of 28x28 PNGs, named by the number of the row, from 0, and the input: `000000012_name.png`.

    With `split`, each digit has a file of its own: `000000012_name_0.png`, `000000012_name_1.png`, ... Inputs with an
    error have none. A file appears when it is complete.
    """

    def __init__(self, folder: str | Path, split: bool) -> None:
        self.folder, self.split = expand(folder), split
        self.folder.mkdir(parents=True, exist_ok=True)

    def write(self, first: int, batch: Batch) -> None:
        """Write the images of a batch; `first` is the number of its first row."""
        temporary = self.folder / f".unfinished-{os.getpid()}.png"
        images = iter(batch.decoded.images)
        inputs = zip(batch.names, batch.decoded.counts, batch.decoded.errors, strict=True)
        try:
            for row, (name, count, error) in enumerate(inputs, first):
                for index in range(count):
                    image = next(images)
                    if error is None:
                        Image.fromarray(image).save(temporary)
                        digit = f"_{index}" if self.split else ""
                        temporary.replace(self.folder / f"{row:09}_{_safe(name)}{digit}.png")
        finally:
            temporary.unlink(missing_ok=True)


def _safe(name: str) -> str:
    """Return a name without characters that file systems or shells interpret, at most 80 long."""
    return re.sub(r"[^\w-]+", "_", PurePosixPath(name).stem, flags=re.ASCII)[:80]
