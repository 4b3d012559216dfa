"""Lightning's Trainer, set up for this package."""

import dataclasses
import logging
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, ProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import AdvancedProfiler, PassThroughProfiler, PyTorchProfiler, SimpleProfiler

from ..cli.settings import TrainerSettings
from ..cli.torchrun import launched, world_size
from ..errors import InputError
from .checkpoint_io import WholeCheckpoints
from .distributed import as_launched, connect
from .progress import make_progress


class NoProfiler(PassThroughProfiler):
    """A profiler that does nothing, faster than Lightning's: its context is entered a hundred times per step."""

    context = nullcontext()

    def profile(self, action_name: str) -> Any:
        """Return a context in which nothing is measured."""
        return self.context


@contextmanager
def quiet_writer_thread() -> Iterator[None]:
    """Print no traceback for an `OSError` in another thread, such as TensorBoard's: its next call raises it again."""
    previous = threading.excepthook

    def report(args: threading.ExceptHookArgs) -> None:
        if not isinstance(args.exc_value, OSError):
            previous(args)

    threading.excepthook = report
    try:
        yield
    finally:
        threading.excepthook = previous


def with_precision(settings: TrainerSettings) -> TrainerSettings:
    """Return the settings with `precision="auto"` replaced by the fastest precision of this machine.

    This is "bf16-mixed" if the CPU or the GPU has bfloat16 instructions, else "32-true". Versions of PyTorch without
    `torch.cpu.get_capabilities` cannot detect those of the CPU, and get "32-true".
    """
    if settings.precision != "auto":
        return settings
    if settings.accelerator != "cpu" and torch.cuda.is_available():
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    elif settings.accelerator == "mps" or (settings.accelerator == "auto" and torch.backends.mps.is_available()):
        fast = False
    else:
        capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        fast = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return dataclasses.replace(settings, precision="bf16-mixed" if fast else "32-true")


def make_trainer(
    settings: TrainerSettings, folder: Path, callbacks: Sequence[Callback] = (), loggers: Sequence[Logger] = ()
) -> pl.Trainer:
    """Create Lightning's Trainer from the settings; a profiler writes its report into the run's folder.

    Raises:
        InputError: If the machine has no such accelerator, or Lightning rejects a value.
    """
    if settings.accelerator in ("cuda", "gpu") and not torch.cuda.is_available():
        raise InputError(
            f"trainer.accelerator={settings.accelerator}: PyTorch {torch.__version__} sees no CUDA device on this"
            " machine; use trainer=cpu, or trainer=auto for the fastest device available"
        )
    # Lightning's hints are for authors of a LightningModule. The users of this package did not write it.
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")
    profilers = {"simple": SimpleProfiler, "advanced": AdvancedProfiler, "pytorch": PyTorchProfiler}
    profiler = profilers[settings.profiler](dirpath=folder, filename="profile") if settings.profiler else NoProfiler()
    arguments = dataclasses.asdict(as_launched(with_precision(settings))) | {"profiler": profiler}
    own_progress = any(isinstance(callback, ProgressBar) for callback in callbacks)
    progress = [make_progress()] if settings.enable_progress_bar and not own_progress else []
    try:
        trainer = pl.Trainer(
            **arguments,
            default_root_dir=folder,
            callbacks=[*callbacks, *progress],
            logger=list(loggers) or False,
            plugins=[WholeCheckpoints()],
            use_distributed_sampler=False,
        )
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise InputError(f"trainer: {' '.join(str(error).split())}") from error
    if launched() and trainer.world_size != world_size():
        raise InputError(
            f"trainer.strategy={settings.strategy}: the {world_size()} processes started by torchrun would each train"
            " alone; leave trainer.strategy out"
        )
    connect(trainer.strategy.root_device)
    return trainer
