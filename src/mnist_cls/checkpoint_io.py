"""How Lightning writes and reads checkpoints here: whole files with a digest, checked before a training goes on."""

from pathlib import Path
from typing import Any

from lightning.fabric.plugins import TorchCheckpointIO

from .checkpoint import read_ckpt, save_ckpt


class WholeCheckpoints(TorchCheckpointIO):
    """Every checkpoint of a training goes through `save_ckpt`, and every one that it goes on from through `read_ckpt`.

    Lightning's own writer moves a file there from the system's temporary folder, which copies it where that lies on
    another file system: a kill in the midst of that leaves half a checkpoint.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: object = None) -> None:
        """Write a checkpoint whole or not at all.

        Raises:
            OSError: the file cannot be written.
        """
        save_ckpt(path, checkpoint)

    def load_checkpoint(
        self, path: str | Path, map_location: object = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint onto the CPU; tensors and plain values only, whatever `weights_only` says.

        Raises:
            InputError: it is no checkpoint, it is cut off or damaged, or it holds anything that could run code.
        """
        return read_ckpt(path)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint. Lightning's own way would remove a folder, too, with all that is in it."""
        Path(path).unlink(missing_ok=True)
