"""Weights in files: found by a path or a name, read without running any code, checked against their network."""

from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError
from ..files import expand

# What `checkpoint=` may be: one, several whose probabilities are averaged, or the package's default.
Checkpoint = str | Path | Sequence[str | Path] | None


WEIGHTS = Path(__file__).parent / "packaged"


DEFAULT_WEIGHTS = "image_classifier"


# The autoencoder that tells digits from other images, unless another one is named.
DETECTOR = "autoencoder"


def list_weights() -> list[str]:
    """The names of the weights that the package carries, sorted."""
    return sorted(path.stem for path in WEIGHTS.glob("*.safetensors"))


def find_checkpoint(checkpoint: str | Path | None = None, prefer: str = "model.safetensors") -> Path:
    """The file that `checkpoint` means.

    Args:
        checkpoint: a `.ckpt` or `.safetensors` file, a training run's folder, or one of `list_weights()`;
            None is the default of the latter.
        prefer: which file of a run's folder is meant.

    Raises:
        InputError: there is no such file.
    """
    path = expand(DEFAULT_WEIGHTS if checkpoint is None else checkpoint)
    if path.is_dir():
        candidates = [path / prefer, path / "model.safetensors", path / "checkpoints" / "last.ckpt"]
        found = next((file for file in candidates if file.is_file()), None)
        if found is None:
            raise InputError(f"checkpoint={path}: the folder holds no {prefer}; is it the folder of a training run?")
        return found
    if path.is_file():
        return path
    if str(path) in list_weights():
        return WEIGHTS / f"{path}.safetensors"
    raise InputError(
        f"checkpoint={path}: no such file or folder; expected a .ckpt, a .safetensors, a run's folder,"
        f" or one of the package's own weights: {', '.join(list_weights())}"
    )


def each(checkpoint: Checkpoint) -> list[str | Path | None]:
    """The checkpoints, one by one."""
    return [checkpoint] if checkpoint is None or isinstance(checkpoint, (str, Path)) else list(checkpoint)
