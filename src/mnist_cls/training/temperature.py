"""Temperature scaling: divide a network's logits by one number, so that its confidence matches its accuracy.

Source: Guo et al. 2017, https://arxiv.org/abs/1706.04599.
"""

import copy
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..data.normalization import normalize
from ..errors import InputError
from ..images import SIZE
from .distributed import print_once

if TYPE_CHECKING:
    from .module import MNISTModule

Batches = Iterable[tuple[Tensor, Tensor]]

# Range of 1 / temperature.
_RANGE = (0.1, 10.0)


def calibrate(module: "MNISTModule", temperature: float | str | None, batches: Batches | None) -> float | None:
    """Let a module's network set its thresholds, if it has any, then divide its logits by a temperature.

    Args:
        module: the module; its network is changed.
        temperature: the temperature, above 0; "auto": fitted on the batches; None: the logits stay as they are.
        batches: validation images uint8 (B, 28, 28) and labels int64 (B,), iterated up to twice; None: there are none.

    Returns:
        The temperature; None if the logits have not changed.
    """
    network = module.model
    set_thresholds: Callable[[Batches], None] | None = getattr(network, "calibrate", None)
    device = next(network.parameters()).device
    network.eval()
    if set_thresholds is not None and batches is not None:
        set_thresholds((normalize(images.to(device)), labels.to(device)) for images, labels in batches)
    if temperature == "auto":
        if not module.classifies or batches is None:
            return None
        with torch.no_grad():
            pairs = [(network(normalize(images.to(device))), labels.to(device)) for images, labels in batches]
        logits, labels = (torch.cat(column) for column in zip(*pairs, strict=True))
        temperature = fit_temperature(logits, labels)
    if temperature is None:
        return None
    try:
        divide_logits(network, float(temperature))
    except ValueError as error:  # only with "auto", see check_temperature
        print_once(f"not calibrated: {error}")
        return None
    return float(temperature)


def check_temperature(network: nn.Module, temperature: float | str | None) -> None:
    """Raise an `InputError`, before the training, if a network's logits cannot be divided by the temperature set."""
    if not isinstance(temperature, (float, int)):
        return
    try:
        divide_logits(copy.deepcopy(network), temperature)
    except ValueError as error:
        raise InputError(f"temperature={temperature}: {error}; use temperature=null") from error


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Find the temperature with the smallest cross-entropy.

    Args:
        logits: (N, 10), of images that were not trained on.
        labels: int64 (N,).

    Returns:
        The temperature, 0.1 to 10; 1 if the minimum is outside this range, which can happen with few images.
    """
    z = logits.double()
    target = z.gather(1, labels[:, None]).mean()

    def decreasing(sharpness: float) -> bool:  # whether the cross-entropy, convex in 1 / temperature, decreases there
        return bool(((sharpness * z).softmax(1) * z).sum(1).mean() < target)

    low, high = _RANGE
    if not decreasing(low) or decreasing(high):
        return 1.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if decreasing(middle) else (low, middle)
    return 2 / (low + high)


def divide_logits(network: nn.Module, temperature: float) -> None:
    """Divide a network's logits by a temperature, by dividing the parameters of its output layer.

    Saved weights then need no extra number that a user could forget. A temperature above 1 lowers the confidence.

    Raises:
        ValueError: If the logits are not the output of a linear layer with parameters of its own; the network is
            unchanged then.
    """
    layer = output_layer(network)
    if layer is not None:
        x = torch.linspace(-1, 1, 2 * SIZE * SIZE, device=layer.weight.device).view(2, 1, SIZE, SIZE)
        before, parameters = _logits(network, x), list(layer.parameters())
        original = [parameter.detach().clone() for parameter in parameters]
        with torch.no_grad():
            for parameter in parameters:
                parameter.div_(temperature)
            # In a layer that normalizes its weights, or has them in common with another one, the effect is different.
            if torch.allclose(_logits(network, x) * temperature, before, rtol=1e-3, atol=1e-4):
                return
            for parameter, value in zip(parameters, original, strict=True):
                parameter.copy_(value)
    raise ValueError(f"the logits of {type(network).__name__} are not the output of a linear layer of its own")


def output_layer(network: nn.Module) -> nn.Linear | None:
    """Return the linear layer whose output is the network's output in evaluation mode, if there is one."""
    outputs: list[tuple[nn.Linear, object]] = []
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    hooks = [layer.register_forward_hook(lambda layer, _, output: outputs.append((layer, output))) for layer in layers]
    try:
        logits = _logits(network, torch.zeros(2, 1, SIZE, SIZE, device=next(network.parameters()).device))
    finally:
        for hook in hooks:
            hook.remove()
    return next((layer for layer, output in outputs if output is logits), None)


@torch.no_grad()
def _logits(network: nn.Module, x: Tensor) -> Tensor:
    was_training = network.training
    try:
        logits: Tensor = network.eval()(x)
    finally:
        network.train(was_training)
    return logits
