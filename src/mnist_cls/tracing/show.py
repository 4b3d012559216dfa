"""Print and draw a forward pass, for `python -m mnist_cls.forward`."""

import dataclasses
from pathlib import Path

import torch
from torch import nn

from ..checkpoints.build import build, forward_options, load_user_models, named_model
from ..checkpoints.find import list_weights
from ..checkpoints.weights import read_weights
from ..cli.messages import display_path, program
from ..cli.settings import ForwardSettings
from ..errors import InputError
from ..inference.engines.eager import find_device
from ..models.registry import create_model
from .from_pixels import reason, trace_from_pixels
from .inputs import read_input
from .overview import save_pictures
from .table import print_modes, print_predictions, print_reconstruction_error, print_trace, print_values

_RANDOM = "random weights"


def show_forward(settings: ForwardSettings, folder: Path | None) -> None:
    """Trace one forward pass, print it, and draw it in `folder`.

    Raises:
        InputError: If the network or the input does not exist, or the network fails. The operations before the failure
            are printed first.
    """
    device = find_device(settings.device)
    model, weights = _make_network(settings)
    model = model.to(device)
    given = read_input(settings.input, settings.seed)
    images = given.images.to(device)
    options = forward_options(model, settings.early_exit)
    torch.manual_seed(settings.seed)
    if given.random_state is not None:
        torch.set_rng_state(given.random_state)
    mode, other_mode = ("train", "eval") if settings.network_mode == "train" else ("eval", "train")

    trace, error = trace_from_pixels(model, images, mode, options)
    print(f"{type(model).__name__}, {weights}; input: {given.name}; mode={mode}")
    print_trace(trace)
    if error is not None:
        raise InputError(f"the forward pass failed after operation {len(trace)}: {reason(error)}") from error
    if settings.values:
        print_values(trace)
    other, error = trace_from_pixels(model, images, other_mode, options)
    if error is not None:
        print(f"mode={other_mode} fails after operation {len(other)}: {reason(error)}\n")
    else:
        traces = {mode: trace, other_mode: other}
        print_modes(traces["eval"], traces["train"])
    model.train(mode == "train")
    # With random weights, a correct answer is luck, and is not called one.
    print_predictions(trace.output, None if weights.startswith(_RANDOM) else given.labels)
    print_reconstruction_error(model, images)
    if settings.pictures and folder is not None:
        save_pictures(model, trace, images, folder, options)
        print(f"pictures  {display_path(folder) / 'overview.png'}, and one file for each operation")
        print(f"view      {program('tensorboard.main')} --logdir {display_path(folder)}")


def _make_network(settings: ForwardSettings) -> tuple[nn.Module, str]:
    """Build the network, and describe its weights."""
    config = None
    if settings.model is None:
        load_user_models(settings.model_file)
    else:
        config = named_model(settings.model, settings.model_file)
    if settings.checkpoint is not None or config is None:
        stored = read_weights(settings.checkpoint)
        if config is not None and config["name"] != stored.model["name"]:
            found = stored.model["name"]
            raise InputError(f"model={config['name']}, but {stored.path} has weights of {found}; omit one of the two")
        # The options in the config take precedence over those in the file.
        network = build(stored if config is None else dataclasses.replace(stored, model=config))
        return network, f"weights of {display_path(stored.path) if settings.checkpoint else stored.path.name}"
    if config["name"] in list_weights():
        stored = read_weights(config["name"])
        try:
            return build(dataclasses.replace(stored, model=config)), f"weights of {stored.path.name}"
        except InputError:
            pass  # the config has other sizes than the packaged weights
    torch.manual_seed(settings.seed)
    try:
        network = create_model(**config)
    except ValueError as error:
        raise InputError(f"model: {error}") from error
    return network, f"{_RANDOM} (seed={settings.seed}; use checkpoint=RUN for trained ones)"
