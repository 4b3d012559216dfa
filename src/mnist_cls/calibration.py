"""Being as sure as one is right: a network's logits divided by one number, its temperature.

After Guo et al. 2017, https://arxiv.org/abs/1706.04599.
"""

import torch
from torch import Tensor, nn

from .images import SIZE

# Where to look for 1 / temperature. What lies beyond says that there were too few images to tell.
_RANGE = (0.1, 10.0)


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature at which the cross-entropy is least.

    Args:
        logits: (N, 10), of images that were not trained on.
        labels: int64 (N,), what they show.
    """
    z = logits.double()
    target = z.gather(1, labels[:, None]).mean()
    least, most = _RANGE
    # The cross-entropy is convex in 1 / temperature, and this its slope.
    for _ in range(30):
        middle = (least + most) / 2
        slope = ((middle * z).softmax(1) * z).sum(1).mean() - target
        least, most = (middle, most) if slope < 0 else (least, middle)
    return 2 / (least + most)


def temper(network: nn.Module, temperature: float) -> None:
    """Divide a network's logits by a temperature, for good: by its last layer's weights.

    So the temperature needs no place beside the weights, and nothing that uses them can forget it.

    Args:
        network: on any device.
        temperature: above 0; more than 1 makes the network less sure.

    Raises:
        ValueError: the network's logits are not what a linear layer gives.
    """
    layer = last_layer(network)
    if layer is None:
        raise ValueError(f"the logits of {type(network).__name__} do not come straight out of a linear layer")
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.div_(temperature)


def last_layer(network: nn.Module) -> nn.Linear | None:
    """The linear layer whose output is, in evaluation, the network's; None: there is none."""
    given: list[tuple[nn.Linear, object]] = []
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    hooks = [
        layer.register_forward_hook(lambda layer, inputs, output: given.append((layer, output))) for layer in layers
    ]
    was_training, device = network.training, next(network.parameters()).device
    network.eval()
    try:
        with torch.no_grad():
            logits = network(torch.zeros(2, 1, SIZE, SIZE, device=device))
    finally:
        network.train(was_training)
        for hook in hooks:
            hook.remove()
    return next((layer for layer, output in given if output is logits), None)
