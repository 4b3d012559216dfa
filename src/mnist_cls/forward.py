"""Look inside a forward pass: `python -m mnist_cls.forward [model=NAME] [checkpoint=RUN] [input=7] [values=true] ...`

Prints every operation in the order in which they ran, with its place in the code, shapes, cost and values, and draws
what each of them gave. By default the weights that the package carries, and the first test image.
"""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .cli.entry_point import entry_point
from .cli.messages import display_path, program
from .cli.settings import ForwardSettings
from .errors import InputError, shortened

if TYPE_CHECKING:
    from torch import Tensor, nn

    from .tracing.recorder import Trace

# Of a folder or an array so many images are looked at, together.
MOST_IMAGES = 64


class Input(NamedTuple):
    """What goes in: images (B, 28, 28), uint8 or float 0 to 255, and what they are called.

    Attributes:
        labels: (B,), if they are known.
        random: PyTorch's random state at that step of the training that the images are from.
    """

    images: "Tensor"
    labels: "Tensor | None"
    name: str
    random: "Tensor | None" = None


def look(settings: ForwardSettings, folder: Path) -> None:
    """Trace one forward pass, print it and draw it.

    Args:
        settings: of which network, and for which input.
        folder: the run's folder, for the pictures.

    Raises:
        InputError: there is no such network or input, or the network fails; what ran until then has been printed.
    """
    # Imported here, because `--help` must not wait for torch.
    import torch

    from .checkpoints.build import forward_options
    from .inference.predictor import find_device
    from .tracing.pictures import save_pictures
    from .tracing.table import print_answer, print_modes, print_trace, print_values

    device = find_device(settings.device)
    model, weights = _network(settings)
    model = model.to(device)
    given = _input(settings)
    given = given._replace(images=given.images.to(device))
    options = forward_options(model, settings.early_exit)
    torch.manual_seed(settings.seed)
    if given.random is not None:
        torch.set_rng_state(given.random)
    trace, failure = _trace(model, given.images, settings.network_mode, options)
    print(f"{type(model).__name__}, {weights}; input: {given.name}; mode={settings.network_mode}")
    print_trace(trace)
    if failure is not None:
        raise InputError(f"the forward pass failed after operation {len(trace)}: {_reason(failure)}") from failure
    if settings.values:
        print_values(trace)
    other = "eval" if settings.network_mode == "train" else "train"
    other_trace, failure = _trace(model, given.images, other, options)
    if failure is None:
        print_modes({settings.network_mode: trace, other: other_trace})
    else:
        print(f"with mode={other} it fails after operation {len(other_trace)}: {_reason(failure)}\n")
    model.train(settings.network_mode == "train")
    print_answer(model, trace, given.images, given.labels)
    if settings.pictures:
        save_pictures(model, trace, given.images, folder, options)
        print(f"pictures      {display_path(folder) / 'overview.png'} and beside it, one for each operation")
        print(f"look at them  {program('tensorboard.main')} --logdir {display_path(folder)}")


def _trace(
    model: "nn.Module", images: "Tensor", mode: str, options: dict[str, bool]
) -> "tuple[Trace, Exception | None]":
    """What ran from the bytes to the probabilities, and what stopped it."""
    import torch

    from .data.normalization import normalize
    from .tracing.recorder import heads, recording, unchanged

    model.train(mode == "train")
    with torch.no_grad(), unchanged(model), recording(model) as trace:
        try:
            trace.output = model(normalize(images), **options)
        except Exception as error:  # whatever is wrong with a user's network, what ran until then helps to see it
            return trace, error
        for logits in heads(trace.output).values():
            logits.softmax(1).argmax(1)
    return trace, None


def _reason(error: Exception) -> str:
    from .models.shapes import ShapeError

    text = (str(error).splitlines() or [""])[0]
    return text if isinstance(error, ShapeError) else f"{type(error).__name__}: {text}"


def _network(settings: ForwardSettings) -> "tuple[nn.Module, str]":
    import dataclasses

    import torch

    from .checkpoints.build import build, load_user_models, named_model
    from .checkpoints.find import list_weights
    from .checkpoints.weights import read_weights
    from .models.registry import create_model

    if settings.model is None:
        load_user_models(settings.model_file)
    wanted = None if settings.model is None else named_model(settings.model, settings.model_file)
    if settings.checkpoint is not None or wanted is None:
        weights = read_weights(settings.checkpoint)
        if wanted is not None and wanted["name"] != weights.model["name"]:
            raise InputError(f"model={wanted['name']}, but {weights.path} is of {weights.model['name']}; leave one out")
        if wanted is not None:  # its options are those of the config: what does not fit is said
            weights = dataclasses.replace(weights, model=wanted)
        return build(weights), f"weights of {display_path(weights.path) if settings.checkpoint else weights.path.name}"
    if wanted["name"] in list_weights():
        weights = read_weights(wanted["name"])
        try:
            return build(dataclasses.replace(weights, model=wanted)), f"weights of {weights.path.name}"
        except InputError:
            pass  # other sizes than those that the package carries
    torch.manual_seed(settings.seed)
    try:
        network = create_model(**wanted)
    except ValueError as error:
        raise InputError(f"model: {error}") from error
    return network, f"random weights (seed={settings.seed}; checkpoint=RUN for trained ones)"


def _input(settings: ForwardSettings) -> Input:
    import torch

    from .data.datasets import load_dataset
    from .files import expand
    from .images import SIZE
    from .inference.decoding.batches import chunks_of
    from .inference.decoding.pool import Decoders
    from .inference.sources.detect import open_source

    text = settings.input
    if not text:
        raise InputError(
            "no input: name a test image by its number, an image, a folder or an array, or say input=random"
        )
    if text == "random":
        generator = torch.Generator().manual_seed(settings.seed)
        images = torch.randint(0, 256, (1, SIZE, SIZE), dtype=torch.uint8, generator=generator)
        return Input(images, None, f"random pixels (seed={settings.seed})")
    path = expand(text)
    if text.isdecimal() and not path.exists():
        data, index = load_dataset("mnist", "test"), int(text)
        if index >= len(data.labels):
            raise InputError(f"input={index}: there are {len(data.labels):,} test images, 0 to {len(data.labels) - 1}")
        chosen = slice(index, index + 1)
        return Input(data.images[chosen], data.labels[chosen], f"test image {index}")
    if path.suffix == ".safetensors":
        return read_batch(path)
    source = open_source(text)
    with Decoders("auto", split=False) as decoders:
        chunk = next(chunks_of(source, decoders), None)
    if chunk is None:
        raise InputError(f"input={text}: there is nothing in it; expected images")
    errors = chunk.decoded.errors[:MOST_IMAGES]
    good = [place for place, error in enumerate(errors) if error is None]
    if not good:
        raise InputError(f"{chunk.names[0]}: {errors[0]}")
    several = "" if source.count is None else f" of {source.count}"
    name = chunk.names[0] if source.count == 1 else f"{len(good)}{several} images of {path}"
    return Input(torch.from_numpy(chunk.decoded.images[good]), None, name)


def read_batch(path: Path) -> Input:
    """Read the `batch.safetensors` that a training left when it stopped.

    Raises:
        InputError: it is none, or it is damaged.
    """
    import torch
    from safetensors.torch import load

    from .images import CLASSES, SIZE

    try:
        batch = load(path.read_bytes())
        images, labels, random_state = (batch[name] for name in ("images", "labels", "random_state"))
        torch.Generator().set_state(random_state)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # the library's own, Python's where it knows a dtype that PyTorch does not, PyTorch's
        reason = shortened(error, 200)
        raise InputError(f"input={path}: not the batch.safetensors of a training that stopped ({reason})") from error
    good = images.shape[1:] == (SIZE, SIZE) and (images.dtype == torch.uint8 or images.is_floating_point())
    numbered = labels.shape == (len(images),) and labels.dtype == torch.int64
    if not good or not numbered or len(labels) == 0 or not 0 <= int(labels.min()) <= int(labels.max()) < CLASSES:
        found = f"{images.dtype} {tuple(images.shape)} with labels {labels.dtype} {tuple(labels.shape)}"
        raise InputError(f"input={path}: {found}; expected images (N, 28, 28) with labels (N,) from 0 to 9")
    return Input(images, labels, f"{len(labels)} images of {display_path(path)}", random_state)


main = entry_point("forward", look)

if __name__ == "__main__":
    main()
