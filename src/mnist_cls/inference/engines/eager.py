"""PyTorch as an engine, on any of its devices."""

import os
import sys
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from ...checkpoints.build import forward_options, load_model, load_user_models
from ...data.normalization import normalize
from ...errors import InputError, first_line
from ...images import CLASSES
from ...memory import out_of_memory
from ...models.average import Average
from ..options import PredictOptions

_PROCESS = os.getpid()


def _stay_alive_after_fork() -> None:
    """Use one thread in a forked process, where PyTorch would wait forever for threads of the parent."""
    if os.getpid() != _PROCESS:
        torch.set_num_threads(1)


class _OnDevice:
    """A network on a device, from NumPy to NumPy. It moves to the CPU if not even one image fits on the device."""

    def __init__(self, network: nn.Module, device: str) -> None:
        self.device = str(find_device(device))
        # Convolutions are about 1.5 times as fast when the channels of a pixel are adjacent in memory.
        self.network = network.eval().to(memory_format=torch.channels_last).to(self.device)

    def compute(self, x: Tensor) -> Tensor:
        """Normalized float32 (B, 1, 28, 28) -> the results of B images."""
        raise NotImplementedError

    @torch.inference_mode()
    def __call__(self, images: np.ndarray) -> np.ndarray:
        _stay_alive_after_fork()
        try:
            # PyTorch warns about read-only arrays, such as memory-mapped ones, and takes none with negative strides.
            batch = torch.from_numpy(np.require(images, requirements=["C", "W"]))
            result: np.ndarray = self.compute(normalize(batch.to(self.device))).cpu().numpy()
            return result
        except (RuntimeError, MemoryError) as error:
            if out_of_memory(error) is None:
                raise
            if len(images) > 1 or self.device == "cpu":
                raise MemoryError(str(error)) from error
        # Outside of the except block, because there the traceback keeps the tensors of the failed attempt alive.
        print(f"out of memory with a single image on {self.device}: moving to the CPU", file=sys.stderr)
        self.device = "cpu"
        self.network = self.network.to(self.device)
        return self(images)


class EagerEngine(_OnDevice):
    """A PyTorch network that computes logits (B, 10) for normalized images (B, 1, 28, 28).

    Raises:
        InputError: If there is no such device, see `find_device`, or the network has no early exit.
    """

    def __init__(self, network: nn.Module, device: str = "cpu", early_exit: bool = False, name: str = "eager") -> None:
        self.options = forward_options(network, early_exit)
        super().__init__(network, device)
        self.name = name

    def compute(self, x: Tensor) -> Tensor:
        """Normalized float32 (B, 1, 28, 28) -> probabilities (B, 10)."""
        logits = self.network(x, **self.options)
        if not isinstance(logits, Tensor) or logits.shape[1:] != (CLASSES,):
            found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise InputError(f"the network returns {found} in evaluation; prediction needs logits (B, 10)")
        return logits.softmax(1)


def load_network(options: PredictOptions, network: nn.Module | None = None) -> nn.Module:
    """Return the classifier: `network` if it is given, else the checkpoint's.

    Raises:
        InputError: If the checkpoint or the model file cannot be loaded, or the network is an autoencoder.
    """
    _stay_alive_after_fork()
    if network is None:
        load_user_models(options.model_file)
        network = load_model(options.checkpoint, options.shifts)
    elif options.shifts:
        network = Average([network], options.shifts)
    if isinstance(network, _Reconstructs):
        raise InputError(
            "an autoencoder says whether an image shows a digit, not which one; pass it as is_digit= instead"
        )
    return network


@runtime_checkable
class _Reconstructs(Protocol):
    def reconstruction_error(self, x: Tensor) -> Tensor: ...


class EagerDetector(_OnDevice):
    """An autoencoder whose reconstruction error tells digits from other images.

    Raises:
        InputError: If the checkpoint does not hold an autoencoder, or its threshold was never set.
    """

    def __init__(self, checkpoint: str | Path, device: str) -> None:
        network = load_model(checkpoint)
        threshold = dict(network.named_buffers()).get("threshold")
        if not isinstance(network, _Reconstructs) or threshold is None:
            raise InputError(f"is_digit={checkpoint}: not an autoencoder; train one with model=autoencoder")
        if threshold.isnan():
            raise InputError(f"is_digit={checkpoint}: its threshold was never set; use the run's model.safetensors")
        super().__init__(network, device)
        self.reconstruction_error = network.reconstruction_error

    def compute(self, x: Tensor) -> Tensor:
        """Normalized float32 (B, 1, 28, 28) -> whether each is a digit, bool (B,): False if the error is NaN."""
        return self.reconstruction_error(x) <= self.network.get_buffer("threshold")


def find_device(name: str) -> torch.device:
    """Return the device of that name; "auto" is CUDA if it is available, else the CPU.

    Raises:
        InputError: If PyTorch knows no such device, or this machine has none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # nothing can be computed on "meta"
    except (RuntimeError, AssertionError) as error:
        reason = first_line(error)
        raise InputError(f"device={name}: {reason}; use device=cpu, or device=auto for a GPU if any") from error
    return torch.device("cpu") if device.type == "cpu" else device
