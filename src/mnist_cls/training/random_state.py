"""The state of every random number generator that a training uses, as tensors and plain values."""

import random
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch


def random_state() -> dict[str, Any]:
    """Return the state of the global generators of Python, NumPy and PyTorch, including those of all GPUs."""
    version, numbers, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": {"version": version, "numbers": torch.tensor(numbers), "gauss": gauss},
        "numpy": {
            "name": str(name),
            "keys": torch.from_numpy(np.asarray(keys, np.int64)),
            "rest": [int(position), int(has_gauss), float(cached)],
        },
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Set the generators to a state returned by `random_state()`; those of GPUs only if their number is the same."""
    python, numpy = state["python"], state["numpy"]
    random.setstate((python["version"], tuple(python["numbers"].tolist()), python["gauss"]))
    np.random.set_state((numpy["name"], numpy["keys"].numpy().astype(np.uint32), *numpy["rest"]))
    torch.set_rng_state(state["torch"].cpu())
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([one.cpu() for one in state["cuda"]])


def resume_random_state(state: dict[str, Any], trainer: pl.Trainer) -> None:
    """Restore the random state saved in the checkpoint from which a training resumes."""
    if trainer.world_size == 1:
        restore_random_state(state)
    else:  # only the first process's state is saved, and their number can have changed: give each a new seed
        mixed = torch.initial_seed() + 104_729 * trainer.global_step
        pl.seed_everything(mixed % 2**32, workers=True, verbose=False)
