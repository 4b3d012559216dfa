"""How Lightning writes and reads checkpoints: whole files, checked before a run resumes from them."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.plugins import TorchCheckpointIO
from torch import Tensor

from ..checkpoints.build import build_on_meta, check_fit
from ..checkpoints.weights import KEY, read_ckpt, save_ckpt, weights_of
from ..errors import InputError, shortened

# Entries that are needed to resume, with their types: Lightning's, and the planned number of steps.
_ENTRIES: dict[str, type] = {
    **{"epoch": int, "global_step": int, "pytorch-lightning_version": str, "loops": dict, "callbacks": dict},
    **{"optimizer_states": list, "lr_schedulers": list, "steps": int},
}

# Tensors of the optimizer's state with the shape of their parameter. PyTorch's fused kernels do not check their size:
# they would write past the end of a smaller one.
_LIKE_PARAMETER = {"exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "sum"}


class WholeCheckpoints(TorchCheckpointIO):
    """Writes and reads checkpoints with `save_ckpt` and `read_ckpt`.

    Lightning's own plugin moves the file from the system's temporary folder. If that is on another file system, a
    process killed in the middle of the copy leaves half a checkpoint.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: object = None) -> None:
        """Write a checkpoint, completely or not at all."""
        save_ckpt(path, checkpoint)

    def load_checkpoint(
        self, path: str | Path, map_location: object = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint onto the CPU: tensors and plain values only, whatever `weights_only` is.

        Raises:
            InputError: If the file is not a checkpoint, is damaged, holds anything that could run code, or lacks what
                is needed to resume.
        """
        content = read_ckpt(path)
        check_resumable(content, Path(path))
        return content

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint file; Lightning's own plugin would also remove a folder with everything in it."""
        Path(path).unlink(missing_ok=True)


def check_resumable(content: dict[str, Any], path: Path) -> None:
    """Check the entries of a checkpoint that PyTorch and Lightning use unchecked.

    Args:
        content: the checkpoint, as `read_ckpt` returns it.
        path: its file, for messages.

    Raises:
        InputError: If an entry is missing or has another type, the weights do not fit the network or the optimizer's
            tensors their parameters, or a callback's path leaves the run's folder.
    """
    weights = weights_of(content, path)
    check_entries(content, path)
    network = build_on_meta(weights)
    check_fit(weights, network.state_dict())
    check_optimizers(content, network.parameters(), path)


def check_entries(content: Mapping[str, Any], path: Path) -> None:
    """Raise an `InputError` if an entry is missing or has another type, or if a callback's path leaves the folder."""
    for name, kind in _ENTRIES.items():
        found = type((content[KEY] if name == "steps" else content).get(name))
        if found is not kind:
            raise _not_resumable(path, f"its {name} is of type {found.__name__}, expected {kind.__name__}")
    for state in content["callbacks"].values():
        _check_paths(state, path)


def check_optimizers(content: Mapping[str, Any], parameters: Iterable[Tensor], path: Path) -> None:
    """Raise an `InputError` if an optimizer's tensors do not fit the parameters, which are in the optimizer's order."""
    shapes = [tuple(parameter.shape) for parameter in parameters]
    for optimizer in content["optimizer_states"]:
        _check_optimizer(optimizer, shapes, path)


def check_steps(content: Mapping[str, Any], total: int, accept_complete: bool, scheduled: bool) -> None:
    """Check that the training of a checkpoint can be resumed.

    Args:
        content: the checkpoint.
        total: number of steps of the resuming training; -1: no limit.
        accept_complete: whether the checkpoint's training may be complete.
        scheduled: whether the learning rate follows a schedule, whose length is fixed.

    Raises:
        InputError: If the checkpoint's training is complete and `accept_complete` is false, or if its schedule has
            another length.
    """
    planned, done = content[KEY]["steps"], content["global_step"]
    instead = (
        "to start another training from its weights, use checkpoint=RUN/model.safetensors, or in Python"
        " MNISTModule.load_from_checkpoint"
    )
    if 0 <= total <= done and not (accept_complete and planned == total):
        raise InputError(f"the checkpoint's training is complete, {done} of {total} steps; {instead}")
    if planned != total and scheduled:
        raise InputError(f"the checkpoint's learning rate was planned for {planned} steps, not {total}; {instead}")


def _check_optimizer(optimizer: Any, shapes: list[tuple[int, ...]], path: Path) -> None:
    if not isinstance(optimizer, dict) or not isinstance(optimizer.get("state"), dict):
        raise _not_resumable(path, "its optimizer has no state")
    for index, state in optimizer["state"].items():
        if type(index) is not int or not 0 <= index < len(shapes) or not isinstance(state, dict):
            raise _not_resumable(path, f"its optimizer's state has no parameter {shortened(index)}")
        for name, value in state.items():
            expected = () if name == "step" else shapes[index]
            checked = name == "step" or name in _LIKE_PARAMETER
            if checked and isinstance(value, Tensor) and value.shape != expected:
                found = f"{tuple(value.shape)}, expected {expected}"
                raise _not_resumable(path, f"its optimizer's {name} of parameter {index} is {found}")


def _check_paths(state: Any, path: Path) -> None:
    # Lightning deletes these files if they are in the run's folder, but does not resolve `..` to find out.
    if not isinstance(state, dict):
        return
    models = state.get("best_k_models")
    names = [value for key, value in state.items() if str(key).endswith("path")]
    for name in [*names, *(models if isinstance(models, dict) else [])]:
        is_text = isinstance(name, str | None)
        if not is_text or ".." in Path(name or "").parts or "::" in str(name) or "://" in str(name):
            raise _not_resumable(path, f"one of its callbacks has the path {shortened(name)!r}")


def _not_resumable(path: Path, reason: str) -> InputError:
    return InputError(f"{path}: cannot resume: {reason}; expected the checkpoint of a training run, not weights alone")
