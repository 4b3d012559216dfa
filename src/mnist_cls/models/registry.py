"""Networks by name: a checkpoint holds a name and plain options, never code.

The names and the idea are those of timm's `create_model`, `list_models` and `register_model`.
"""

import difflib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from torch import nn

from .accurate import Accurate
from .autoencoder import Autoencoder
from .conditional import Conditional
from .fast import Fast
from .image_classifier import ImageClassifier
from .mlp import MLP
from .residual import Residual
from .shapes import explain_shapes

Network = TypeVar("Network", bound=type[nn.Module])

_MODELS: dict[str, type[nn.Module]] = {}


def register_model(name: str) -> Callable[[Network], Network]:
    """Make a network of your own known under `name`, for configs, checkpoints and `create_model`.

    Its errors about shapes then name the layer, what came and what it wants, as those of the package's networks do.

    Example::

        @register_model("my_network")
        class MyNetwork(nn.Module): ...

    Raises:
        ValueError: another network has that name already.
    """

    def register(network: Network) -> Network:
        known = _MODELS.setdefault(name, network)
        # The same class defined again (a notebook cell run twice) replaces itself.
        if (known.__module__, known.__qualname__) != (network.__module__, network.__qualname__):
            raise ValueError(f"the model name {name!r} is taken by {known.__module__}.{known.__qualname__}")
        _MODELS[name] = network
        if not network.__module__.startswith("torch."):  # PyTorch's own classes are not ours to change
            network.forward = explain_shapes(network.forward)
        return network

    return register


register_model("accurate")(Accurate)
register_model("autoencoder")(Autoencoder)
register_model("conditional")(Conditional)
register_model("fast")(Fast)
register_model("image_classifier")(ImageClassifier)
register_model("mlp")(MLP)
register_model("residual")(Residual)


def register_file(path: str | Path) -> list[str]:
    """Run a Python file of yours that registers networks by `@register_model`.

    Args:
        path: the file. Only a person may name it: no checkpoint can.

    Returns:
        The names that it registered.

    Raises:
        ValueError: it is not there, it fails, or it registers nothing.
    """
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise ValueError(f"{path}: no such file; expected Python source with @register_model in it")
    before = dict(_MODELS)
    # Each file has a module name of its own, the same each time: a file may be named twice.
    spec = importlib.util.spec_from_file_location(f"mnist_cls_file:{file}", file)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path}: not a .py file; expected Python source with @register_model in it")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(file.parent))  # as for a script, so that it may import what lies beside it
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        raise ValueError(f"{path}, line {line}: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(file.parent))
    new = sorted(name for name, network in _MODELS.items() if before.get(name) is not network)
    if not new:
        raise ValueError(f'{path}: registers no network; put @register_model("name") above its class')
    return new


def list_models() -> list[str]:
    """The names that `create_model` knows, sorted."""
    return sorted(_MODELS)


def create_model(name: str, **options: object) -> nn.Module:
    """Build the network `name` with fresh random weights.

    Args:
        name: one of `list_models()`.
        **options: the network's own options, such as `dropout=0.1` or `widths=(3, 4, 1)`.

    Returns:
        The network, in training mode, on the CPU, float32.

    Raises:
        ValueError: no network has that name, or it does not take those options.
    """
    if name not in _MODELS:
        near = difflib.get_close_matches(str(name), _MODELS, n=1, cutoff=0.4)
        meant = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"no model is called {name!r}; {meant}known models: {', '.join(list_models())}")
    network = _MODELS[name]
    parameters = inspect.signature(network).parameters
    known = list(parameters)
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    if not takes_any and (unknown := sorted(set(options) - set(known))):
        raise ValueError(f"model {name!r} has no option {unknown[0]!r}; its options: {', '.join(known)}")
    try:
        return network(**options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"model {name!r} with {options}: {error}") from error
