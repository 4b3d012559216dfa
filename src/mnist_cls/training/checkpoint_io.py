"""How Lightning writes and reads checkpoints here: whole files with a digest, checked before a training goes on."""

from pathlib import Path
from typing import Any

from lightning.fabric.plugins import TorchCheckpointIO
from torch import Tensor

from ..checkpoints.build import build_on_meta, check_fit
from ..checkpoints.weights import KEY, read_ckpt, save_ckpt, weights_of
from ..errors import InputError, shortened

# What a training goes on from, as Lightning lays it out.
_PARTS: dict[str, type] = {
    **{"steps": int, "epoch": int, "global_step": int, "pytorch-lightning_version": str},
    **{"loops": dict, "callbacks": dict, "optimizer_states": list, "lr_schedulers": list},
}


# What the fused kernels of PyTorch's optimizers write to, as far as the parameter reaches, whatever its size.
_AS_LARGE_AS_ITS_PARAMETER = {"exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "sum"}


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
            InputError: it is no checkpoint, it is cut off or damaged, it holds anything that could run code, or what
                the optimizer, the callbacks and the loops would be given is not of their kind.
        """
        content = read_ckpt(path)
        check_resumable(content, Path(path))
        return content

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint. Lightning's own way would remove a folder, too, with all that is in it."""
        Path(path).unlink(missing_ok=True)


def check_resumable(content: dict[str, Any], path: Path) -> None:
    """Check what is neither weights nor checked by who gets it, before a training goes on from a checkpoint.

    Args:
        content: as `read_ckpt` gives it.
        path: for the message.

    Raises:
        InputError: a part is missing or of another kind; the optimizer's tensors are not as large as the parameters
            that they belong to; or a path in it leads elsewhere.
    """
    weights = weights_of(content, path)
    for name, kind in _PARTS.items():
        part = content[KEY].get(name) if name == "steps" else content.get(name)
        if type(part) is not kind:
            raise _refused(path, f"its {name} is of type {type(part).__name__}, expected {kind.__name__}")
    network = build_on_meta(weights)
    check_fit(weights, network.state_dict())
    shapes = [tuple(parameter.shape) for parameter in network.parameters()]
    for optimizer in content["optimizer_states"]:
        _check_optimizer(optimizer, shapes, path)
    for state in content["callbacks"].values():
        _check_paths(state, path)


def _check_optimizer(optimizer: Any, shapes: list[tuple[int, ...]], path: Path) -> None:
    if not isinstance(optimizer, dict) or not isinstance(optimizer.get("state"), dict):
        raise _refused(path, "its optimizer has no state")
    for index, state in optimizer["state"].items():
        if type(index) is not int or not 0 <= index < len(shapes) or not isinstance(state, dict):
            raise _refused(path, f"its optimizer's state has no parameter {shortened(index)}")
        for name, value in state.items():
            expected = () if name == "step" else shapes[index]
            checked = name == "step" or name in _AS_LARGE_AS_ITS_PARAMETER
            if checked and isinstance(value, Tensor) and value.shape != expected:
                found = f"{tuple(value.shape)}, expected {expected}"
                raise _refused(path, f"its optimizer's {name} of parameter {index} is {found}")


def _check_paths(state: Any, path: Path) -> None:
    # Lightning removes what they name, if it lies in the run's folder: as it is written, `..` and all.
    if not isinstance(state, dict):
        return
    kept = state.get("best_k_models")
    named = [value for key, value in state.items() if str(key).endswith("path")]
    for name in [*named, *(kept if isinstance(kept, dict) else [])]:
        if (
            not isinstance(name, str | None)
            or ".." in Path(name or "").parts
            or "::" in str(name)
            or "://" in str(name)
        ):
            raise _refused(path, f"one of its callbacks names the path {shortened(name)!r}")


def _refused(path: Path, why: str) -> InputError:
    return InputError(f"{path}: the training cannot go on from it: {why}; expected a file that mnist_cls.train wrote")
