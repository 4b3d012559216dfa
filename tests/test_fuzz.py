"""No mutated file, array, image, checkpoint or config crashes its loader, runs code, or costs much memory or time.

Each loader runs in its own process, see fuzzing.py. MNIST_CLS_FUZZ=10000 in the environment sets the number of inputs
of each, MNIST_CLS_FUZZ_SEED=1 the seed; with `-rP`, pytest prints the outcomes.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import ROOT

INPUTS = int(os.environ.get("MNIST_CLS_FUZZ", "0"))
SEED = os.environ.get("MNIST_CLS_FUZZ_SEED", "0")
# Number of inputs by default; some cost more than others.
DEFAULTS = {
    "ckpt-damaged": 200,
    "ckpt-forged": 100,
    "ckpt-resumed": 100,
    "safetensors-damaged": 200,
    "safetensors-forged": 200,
    "batch": 200,
    "idx": 200,
    "images": 100,
    "arrays": 30,
    "configs": 20,
}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="uses limits and /proc as in Linux")
@pytest.mark.parametrize("loader", list(DEFAULTS))
@pytest.mark.timeout(0 if INPUTS else 600)
def test_mutated(tmp_path: Path, loader: str) -> None:
    count = INPUTS or DEFAULTS[loader]
    command = [sys.executable, "-X", "faulthandler=0", "-m", "tests.fuzzing", loader, SEED, str(count), str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    # Negative: a signal, such as SIGSEGV, or SIGPROF for an input that took too long. `input` holds that input.
    assert done.returncode == 0, f"{loader} ended with {done.returncode}: {done.stderr[-2000:]}"
    result = json.loads(done.stdout)
    unexpected = result.pop("unexpected")
    print(result)
    assert not unexpected, "\n".join(unexpected)
    assert result["inputs"] == count
    assert result["forbidden"] == []
    assert result["more"] < 1000, result
    if loader.endswith("damaged"):
        assert result.get("loaded", 0) <= count / 10, result  # changes of what is not loaded
    elif loader != "images":  # those become rows with an error
        assert result["refused"] > count / 10, result
