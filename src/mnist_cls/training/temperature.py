"""Being as sure as one is right: a network's logits divided by one number, its temperature.

After Guo et al. 2017, https://arxiv.org/abs/1706.04599.
"""

import torch
from torch import Tensor, nn

from ..images import SIZE

# Where to look for 1 / temperature.
_RANGE = (0.1, 10.0)


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature at which the cross-entropy is least; 1 if it is not from 0.1 to 10, where too few images tell.

    Args:
        logits: (N, 10), of images that were not trained on.
        labels: int64 (N,), what they show.
    """
    z = logits.double()
    target = z.gather(1, labels[:, None]).mean()

    def falls(sharpness: float) -> bool:  # whether the cross-entropy, convex in 1 / temperature, does so there
        return bool(((sharpness * z).softmax(1) * z).sum(1).mean() < target)

    least, most = _RANGE
    if not falls(least) or falls(most):
        return 1.0
    for _ in range(30):
        middle = (least + most) / 2
        least, most = (middle, most) if falls(middle) else (least, middle)
    return 2 / (least + most)


def temper(network: nn.Module, temperature: float) -> None:
    """Divide a network's logits by a temperature, for good: by its last layer's weights.

    So the temperature needs no place beside the weights, and nothing that uses them can forget it.

    Args:
        network: on any device.
        temperature: above 0; more than 1 makes the network less sure.

    Raises:
        ValueError: the network's logits are not what a linear layer of its own gives; it is left as it was.
    """
    layer = last_layer(network)
    if layer is not None:
        x = torch.linspace(-1, 1, 2 * SIZE * SIZE, device=layer.weight.device).view(2, 1, SIZE, SIZE)
        before, parameters = _logits(network, x), list(layer.parameters())
        kept = [parameter.detach().clone() for parameter in parameters]
        with torch.no_grad():
            for parameter in parameters:
                parameter.div_(temperature)
            # Weights that the layer normalizes, or shares with another, do not divide what it gives.
            if torch.allclose(_logits(network, x) * temperature, before, rtol=1e-3, atol=1e-4):
                return
            for parameter, old in zip(parameters, kept, strict=True):
                parameter.copy_(old)
    raise ValueError(f"the logits of {type(network).__name__} do not come straight out of a linear layer of its own")


def last_layer(network: nn.Module) -> nn.Linear | None:
    """The linear layer whose output is, in evaluation, the network's; None: there is none."""
    given: list[tuple[nn.Linear, object]] = []
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    hooks = [
        layer.register_forward_hook(lambda layer, inputs, output: given.append((layer, output))) for layer in layers
    ]
    try:
        logits = _logits(network, torch.zeros(2, 1, SIZE, SIZE, device=next(network.parameters()).device))
    finally:
        for hook in hooks:
            hook.remove()
    return next((layer for layer, output in given if output is logits), None)


@torch.no_grad()
def _logits(network: nn.Module, x: Tensor) -> Tensor:
    was_training = network.training
    try:
        logits: Tensor = network.eval()(x)
    finally:
        network.train(was_training)
    return logits
