"""Weights in files: found by a path or a name, read without running any code, checked against their network."""

import importlib.metadata
import inspect
import io
import json
import struct
import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from .archive import check_archive, check_values
from .digests import UNSEALED, check_safetensors, check_zip, seal_safetensors, seal_zip
from .errors import InputError, shortened
from .files import expand, whole_file
from .images import CLASSES, SIZE
from .models import Average, create_model, list_models
from .models.registry import register_file

# What `checkpoint=` may be: one, several whose probabilities are averaged, or the package's default.
Checkpoint = str | Path | Sequence[str | Path] | None

WEIGHTS = Path(__file__).parent / "weights"
DEFAULT_WEIGHTS = "image_classifier"
# The autoencoder that tells digits from other images, unless another one is named.
DETECTOR = "autoencoder"

# One key holds all that is ours, in a .ckpt as a dict and in a .safetensors as JSON in its metadata.
KEY = "mnist_cls"
# Of a network's options as JSON: each of them may become a layer.
_LONGEST_OPTIONS = 100_000
# The LightningModule keeps its network under this name.
NETWORK_PREFIX = "model."


@dataclass(frozen=True)
class Weights:
    """The contents of a checkpoint.

    Attributes:
        model: the network's name and options, as `create_model(**model)` takes them.
        state: its parameters and buffers by name, on the CPU.
        provenance: where the weights come from: config, seed, versions, accuracy. Plain values.
        path: the file.
        resumable: whether the file also holds the optimizer, the schedule and the loops of a training.
    """

    model: dict[str, Any]
    state: dict[str, Tensor]
    provenance: dict[str, Any]
    path: Path
    resumable: bool = False


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


def read_weights(checkpoint: str | Path | None = None) -> Weights:
    """Read a checkpoint. Nothing in it is run: tensors and plain values are all that is accepted.

    Args:
        checkpoint: see `find_checkpoint`.

    Raises:
        InputError: there is no such file, it is damaged, it holds anything else, or it is not of this package.
    """
    path = find_checkpoint(checkpoint)
    with path.open("rb") as file:
        start = file.read(9)
    # A .safetensors starts with its header's length and a brace; what a file is called proves nothing.
    if len(start) == 9 and start[8:] == b"{" and struct.unpack("<Q", start[:8])[0] < path.stat().st_size:
        return _read_safetensors(path)
    return weights_of(read_ckpt(path), path)


def load_model(checkpoint: Checkpoint = None, shifts: int = 0) -> nn.Module:
    """Build the network of a checkpoint, with its weights, ready to predict.

    Args:
        checkpoint: see `find_checkpoint`; left out, the weights that the package carries. Of several the probabilities
            are averaged.
        shifts: average, too, over the image moved by up to so many pixels in each direction, see `Average`.

    Returns:
        The network in evaluation mode, on the CPU.

    Raises:
        InputError: a checkpoint cannot be read, its weights do not fit its network, or what is to be averaged gives
            no logits.
    """
    return build_all([read_weights(one) for one in each(checkpoint)], shifts)


def each(checkpoint: Checkpoint) -> list[str | Path | None]:
    """The checkpoints, one by one."""
    return [checkpoint] if checkpoint is None or isinstance(checkpoint, (str, Path)) else list(checkpoint)


def build_all(weights: Sequence[Weights], shifts: int = 0) -> nn.Module:
    """Build the network that `weights` are of, or the average of several, see `load_model`."""
    networks = [build(one) for one in weights]
    if len(networks) == 1 and not shifts:
        return networks[0]
    for one, network in zip(weights, networks, strict=True):
        with torch.no_grad():
            given = network(torch.zeros(2, 1, SIZE, SIZE))
        if not isinstance(given, Tensor) or given.shape != (2, CLASSES):
            raise InputError(f"{one.path}: gives no ten logits for each image, so no probabilities to be averaged")
    try:
        return Average(networks, shifts).eval()
    except ValueError as error:
        raise InputError(f"checkpoint and shifts: {error}") from error


def own_models(file: str | Path | None) -> list[str]:
    """Make the networks in a Python file of the user's own known by their names, and return these; None does nothing.

    Raises:
        InputError: the file is not there, fails, or registers no network.
    """
    try:
        return [] if file is None else register_file(file)
    except ValueError as error:
        raise InputError(f"model_file={error}") from error


def named_model(model: Mapping[str, Any], file: str | Path | None) -> dict[str, Any]:
    """The name and options of a network as the config has them, with the file's own network where no name is given.

    Raises:
        InputError: see `own_models`; or there is no name, and the file does not register exactly one network.
    """
    own = own_models(file)
    if model["name"] is not None:
        return dict(model)
    if len(own) != 1:
        found = f"{file} registers {', '.join(own)}" if own else "there is no model_file=FILE.py"
        raise InputError(f"model.name is missing: {found}; name the network with model.name=NAME")
    return {**model, "name": own[0]}


def build(weights: Weights) -> nn.Module:
    """Build the network that `weights` are of, see `load_model`."""
    check_fit(weights, planned(weights).state_dict())
    model = create_model(**weights.model)
    model.load_state_dict(weights.state)
    return model.eval()


class _TooManyError(Exception):
    """No ValueError, to which `create_model` would add all the options."""


def planned(weights: Weights) -> nn.Module:
    """The network that `weights` are of, on the meta device: it costs no memory, whatever sizes the file asks for.

    Raises:
        InputError: there is no such network, it does not take these options, or it has far more layers than the file.
    """
    check_known(weights)
    builder, most, count = threading.get_ident(), 10 * len(weights.state) + 100, 0

    def limit(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal count
        count += threading.get_ident() == builder
        if count > most:
            raise _TooManyError(f"its options make more than {most} parameters, the file has {len(weights.state)}")

    watching = register_module_parameter_registration_hook(limit)
    try:
        with torch.device("meta"):
            return create_model(**weights.model)
    except Exception as error:  # whatever a network does with options that nobody checked
        raise InputError(f"{weights.path}: {shortened(error, 500)}") from error
    finally:
        watching.remove()


def forward_options(network: nn.Module, early_exit: bool) -> dict[str, bool]:
    """The further arguments that a network's `forward` gets.

    Raises:
        InputError: an early exit is wanted of a network that has none.
    """
    if early_exit and "early_exit" not in inspect.signature(network.forward).parameters:
        name = type(network).__name__
        raise InputError(f"early_exit=true: {name} has no early exit; model=conditional has one")
    return {"early_exit": True} if early_exit else {}


def check_known(weights: Weights) -> None:
    """Check that the network of a checkpoint has a name that is known here.

    Raises:
        InputError: it has not.
    """
    name = weights.model.get("name")
    if name not in list_models():
        raise InputError(
            f"{weights.path}: no model is called {shortened(repr(name))}; if it is a network of your own, name the file"
            f" that registers it: model_file=FILE.py; known models: {', '.join(list_models())}"
        )


def check_fit(weights: Weights, wanted: Mapping[str, Tensor]) -> None:
    """Check that each of the network's tensors is in the file, with its shape, and none besides.

    Raises:
        InputError: one is not; the line names the first.
    """
    name = weights.model.get("name")
    for key, tensor in wanted.items():
        if key not in weights.state:
            raise InputError(f"{weights.path}: does not fit the network {name!r}: {key} is missing")
        if weights.state[key].shape != tensor.shape:
            found, expected = tuple(weights.state[key].shape), tuple(tensor.shape)
            raise InputError(
                f"{weights.path}: does not fit the network {name!r}: {key} is {found}, expected {expected}"
            )
    if extra := sorted(set(weights.state) - set(wanted)):
        raise InputError(f"{weights.path}: does not fit the network {name!r}, which has no {shortened(extra[0])}")


def save_weights(
    path: str | Path,
    model: nn.Module,
    config: Mapping[str, Any],
    provenance: Mapping[str, Any],
    further: Mapping[str, str] | None = None,
) -> None:
    """Write a network's weights as `.safetensors`, with all that prediction needs in the file's metadata.

    Args:
        path: the file, written whole or not at all.
        model: the network.
        config: its name and options, as `create_model(**config)` takes them.
        provenance: plain values that say where the weights come from.
        further: metadata for other readers; `read_weights` passes over it.

    Raises:
        OSError: the file cannot be written.
    """
    from safetensors.torch import save

    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    ours = json.dumps({"model": dict(config), "provenance": dict(provenance)})
    metadata = {**(further or {}), "format": "pt", KEY: ours, "sha256": UNSEALED}
    content = seal_safetensors(save(state, metadata))
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


def save_ckpt(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write a whole Lightning checkpoint with its digest, as `read_ckpt` reads it.

    Args:
        path: the file, written whole or not at all.
        content: tensors and plain values.

    Raises:
        OSError: the file cannot be written.
    """
    archive = io.BytesIO()
    torch.save(dict(content), archive)
    sealed = seal_zip(archive.getvalue())
    with whole_file(path) as temporary:
        temporary.write_bytes(sealed)


def versions() -> dict[str, str]:
    """The versions of what a training depends on, for the provenance."""
    return {name: importlib.metadata.version(name) for name in ("mnist-cls", "torch", "lightning")}


def _read_safetensors(path: Path) -> Weights:
    from safetensors.torch import load

    # Read once: what is checked is what is loaded, and a file that shrinks meanwhile ends no process by a signal.
    content = path.read_bytes()
    check_safetensors(content, path)
    try:
        state = load(content)
        header = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])
    except Exception as error:  # its own exception, and Python's where it knows a dtype that PyTorch does not
        raise InputError(f"{path}: not a whole .safetensors file ({shortened(error, 200)})") from error
    try:
        ours = json.loads(header["__metadata__"][KEY])
    except (KeyError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: its metadata name no network; expected a file that mnist_cls.train wrote") from error
    return _weights(ours, state, path)


def weights_of(content: Mapping[str, Any], path: Path) -> Weights:
    """The weights that a whole checkpoint holds.

    Args:
        content: as `read_ckpt` gives it.
        path: where it comes from.

    Raises:
        InputError: it holds none, or does not say of which network they are.
    """
    state = content.get("state_dict")
    if not isinstance(state, dict):
        raise InputError(f"{path}: holds no state_dict; expected a checkpoint that mnist_cls.train wrote")
    network = {
        name.removeprefix(NETWORK_PREFIX): tensor
        for name, tensor in state.items()
        if isinstance(name, str) and name.startswith(NETWORK_PREFIX)
    }
    return _weights(content.get(KEY), network, path, resumable="loops" in content)


def read_ckpt(path: str | Path) -> dict[str, Any]:
    """Read a whole Lightning checkpoint, tensors and plain values only.

    Raises:
        InputError: it is no checkpoint, it is cut off or damaged, or it holds anything that could run code.
    """
    path = Path(path)
    archive = path.read_bytes()  # once: what is checked is what is loaded
    check_zip(archive, path)
    check_archive(archive, path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is odd in a pickle: here it is an error, or does not matter
            content = torch.load(io.BytesIO(archive), map_location="cpu", weights_only=True)
    # Torch reports broken zip archives and broken pickles with many types of exception.
    except Exception as error:
        reason = shortened((str(error).splitlines() or [type(error).__name__])[0], 200)
        raise InputError(f"{path}: not a whole checkpoint ({reason})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}; expected a checkpoint that mnist_cls.train wrote")
    check_values(content, len(archive), path)
    return content


def _weights(ours: object, state: Mapping[str, object], path: Path, resumable: bool = False) -> Weights:
    if not isinstance(ours, dict) or not isinstance(ours.get("model"), dict):
        raise InputError(f"{path}: does not say which network it is of; expected a file that mnist_cls.train wrote")
    tensors = {str(name): tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}
    model = {str(name): value for name, value in ours["model"].items()}
    try:
        length = len(json.dumps(model))
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: its network's options are no plain values ({shortened(error)})") from error
    if length > _LONGEST_OPTIONS:
        raise InputError(f"{path}: its network's options have {length:,} characters, more than {_LONGEST_OPTIONS:,}")
    provenance = ours.get("provenance") or {}
    if not isinstance(provenance, dict):
        raise InputError(f"{path}: its provenance is a {type(provenance).__name__}; expected names with values")
    return Weights(model, tensors, provenance, path, resumable)
