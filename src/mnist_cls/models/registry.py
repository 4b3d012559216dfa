"""Networks by name. A checkpoint holds a name and plain options, never code.

`create_model`, `list_models` and `register_model` follow timm's functions of the same names.
"""

import difflib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, overload

from torch import nn

from .accurate import Accurate
from .autoencoder import Autoencoder
from .conditional import Conditional
from .fast import Fast
from .image_classifier import ImageClassifier
from .mlp import MLP
from .residual import Residual
from .shapes import explain_shapes

# A class, or a function that returns a network.
Builder = TypeVar("Builder", bound=Callable[..., nn.Module])

_MODELS: dict[str, Callable[..., nn.Module]] = {}


@overload
def register_model(name: str) -> Callable[[Builder], Builder]: ...
@overload
def register_model(name: Builder) -> Builder: ...
def register_model(name: str | Builder) -> Callable[[Builder], Builder] | Builder:
    """Register a network, so that `create_model`, configs and checkpoints find it by its name.

    Decorates a class, or a function that returns a network, and returns it unchanged. Without a name, the network gets
    the name of the class or function.

    Example::

        @register_model("my_network")
        class MyNetwork(nn.Module): ...

        @register_model
        def wide_mlp(**options):
            return MLP(widths=(784, 1000, 10), **options)

    Raises:
        ValueError: If another network has that name.
    """
    if not isinstance(name, str):
        return register_model(name.__name__)(name)

    def register(builder: Builder) -> Builder:
        known = _MODELS.setdefault(name, builder)
        # The same class or function defined again, as when a notebook cell is run twice, replaces itself.
        if (known.__module__, known.__qualname__) != (builder.__module__, builder.__qualname__):
            raise ValueError(f"the model name {name!r} is taken by {known.__module__}.{known.__qualname__}")
        _MODELS[name] = builder
        return builder

    return register


register_model("accurate")(Accurate)
register_model("autoencoder")(Autoencoder)
register_model("conditional")(Conditional)
register_model("fast")(Fast)
register_model("image_classifier")(ImageClassifier)
register_model("mlp")(MLP)
register_model("residual")(Residual)


def register_file(path: str | Path) -> list[str]:
    """Run a Python file that registers networks with `@register_model`.

    Only the user can name such a file; a checkpoint cannot.

    Returns:
        Names of the networks that the file registers, sorted.

    Raises:
        ValueError: If the file does not exist, raises an exception, or registers nothing.
    """
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise ValueError(f"{path}: no such file; expected Python source that uses @register_model")
    before = dict(_MODELS)
    # The module name depends on the file only, so that the file can be run twice.
    spec = importlib.util.spec_from_file_location(f"mnist_cls_file:{file}", file)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path}: not a .py file; expected Python source that uses @register_model")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(file.parent))  # as for a script, so that the file can import its neighbours
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        raise ValueError(f"{path}, line {line}: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(file.parent))
    new = sorted(name for name, builder in _MODELS.items() if before.get(name) is not builder)
    if not new:
        raise ValueError(f'{path}: registers no network; put @register_model("name") above its class')
    return new


def list_models() -> list[str]:
    """Return the names that `create_model` accepts, sorted."""
    return sorted(_MODELS)


def create_model(name: str, **options: object) -> nn.Module:
    """Create a network with random weights.

    Args:
        name: One of `list_models()`.
        **options: The network's own options, such as `dropout=0.1` or `widths=(3, 4, 1)`.

    Returns:
        The network in training mode, on the CPU, in float32. For an input of a wrong shape it raises a `ShapeError`,
        which names the layer.

    Raises:
        ValueError: If there is no such network, or if it does not take these options.
    """
    if name not in _MODELS:
        near = difflib.get_close_matches(str(name), _MODELS, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"no model is called {name!r}; {hint}known models: {', '.join(list_models())}")
    builder = _MODELS[name]
    parameters = inspect.signature(builder).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    if not takes_any and (unknown := sorted(options.keys() - parameters)):
        raise ValueError(f"model {name!r} has no option {unknown[0]!r}; its options: {', '.join(parameters)}")
    try:
        network = builder(**options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"model {name!r} with {options}: {error}") from error
    if not isinstance(network, nn.Module):
        raise ValueError(
            f"model {name!r}: its function returned a {type(network).__name__}, expected a torch.nn.Module"
        )
    return explain_shapes(network)
