"""Find a checkpoint by its path or its name. Imports no PyTorch."""

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import InputError
from ..files import expand

# `checkpoint=`: one, several whose probabilities are averaged, or the default.
Checkpoint = str | Path | Sequence[str | Path] | None

# The folder of the packaged weights.
WEIGHTS = Path(__file__).parent / "packaged"
DEFAULT_WEIGHTS = "image_classifier"
# The autoencoder that tells digits from other images.
DETECTOR = "autoencoder"

# What to do with images that were passed as a checkpoint.
AS_INPUT = "as the input: Predictor()(PATH) or input=PATH"


def list_weights() -> list[str]:
    """Return the names of the packaged weights, sorted."""
    return sorted(path.stem for path in WEIGHTS.glob("*.safetensors"))


def find_checkpoint(
    checkpoint: str | Path | None = None, prefer: str = "model.safetensors", key: str = "checkpoint"
) -> Path:
    """Find the file of a checkpoint.

    Args:
        checkpoint: A `.ckpt` or `.safetensors` file, the folder of a training run, or one of `list_weights()`;
            by default the packaged weights.
        prefer: The file to prefer in the folder of a run.
        key: The setting that names the checkpoint, for error messages.

    Raises:
        InputError: If there is no such file.
    """
    path = expand(DEFAULT_WEIGHTS if checkpoint is None else checkpoint)
    if path.is_dir():
        candidates = [path / prefer, path / "model.safetensors", path / "checkpoints" / "last.ckpt"]
        found = next((file for file in candidates if file.is_file()), None)
        if found is None:
            raise InputError(
                f"{key}={path}: the folder holds no {prefer}; expected the folder of a training run; pass a folder"
                f" of images {AS_INPUT}"
            )
        return found
    if path.is_file():
        return path
    if str(path) in list_weights():
        return WEIGHTS / f"{path}.safetensors"
    near = difflib.get_close_matches(str(path), list_weights(), n=1)
    raise InputError(
        f"{key}={path}: no such file or folder{f', did you mean {near[0]}?' if near else ''}; expected a .ckpt, a"
        f" .safetensors, the folder of a run, or packaged weights: {', '.join(list_weights())}"
    )


def each(checkpoint: Checkpoint) -> list[str | Path | None]:
    """Return the checkpoints as a list.

    Raises:
        InputError: If one is neither a path nor a name.
    """
    if checkpoint is None or isinstance(checkpoint, (str, Path)):
        return [checkpoint]
    several: list[str | Path | None] = list(checkpoint) if isinstance(checkpoint, Iterable) else []
    if not isinstance(checkpoint, Iterable) or not all(isinstance(one, (str, Path)) for one in several):
        found = type(checkpoint).__name__
        raise InputError(f"checkpoint: {found}; expected a checkpoint's path or name; images go to Predictor()(IMAGES)")
    return several
