"""Train, predict, kill and resume at random for a given time, and check that nothing is lost and nothing grows.

    python scripts/soak.py --minutes 60 --log soak.jsonl

Each round runs a small training or a prediction in a separate process, interrupts it a few times at random moments with
SIGKILL, SIGTERM or Ctrl-C, and starts it again until it finishes. Its result must equal that of an undisturbed run: the
same weights and metrics, or the same bytes. Prints a summary. The exit status is 1 if anything was lost, or if memory,
open files or the run folder have grown.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from mnist_cls.data.datasets import load_dataset
from mnist_cls.inference.options import PredictOptions
from mnist_cls.inference.pipeline import predict_files

TRAIN = [
    *("mnist_cls.train", "experiment=best", "trainer=cpu", "trainer.enable_progress_bar=false", "trainer.max_epochs=3"),
    *("data.train_size=6400", "data.validation_size=500", "callbacks.average.decay=0.8", "save_every_steps=10"),
    *("checkpoint=auto", "output_dir=run"),
]
PREDICT = ["mnist_cls.predict", "input=images.npy", "output=rows.csv", "device=cpu", "engine=eager", "resume=true"]
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


def run(folder: Path, command: Sequence[str], after: float | None = None, number: int = 0) -> tuple[int, float]:
    """Run a command in `folder`, send it a signal after some seconds, and return its status and peak memory in MB."""
    with (folder / "output.txt").open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=folder,
            stdout=output,
            stderr=output,
            env={**os.environ, "TMPDIR": str(folder / "tmp")},
        )
    deadline = None if after is None else time.monotonic() + after
    while True:
        found, status, usage = os.wait4(process.pid, os.WNOHANG)
        if found:
            process.returncode = os.waitstatus_to_exitcode(status)
            return process.returncode, usage.ru_maxrss / 1024
        if deadline is not None and time.monotonic() >= deadline:
            process.send_signal(number)
            deadline = None
        time.sleep(0.01)


def weights_digest(folder: Path) -> str:
    """Digest of a training run's weights and metrics, without the times."""
    digest = hashlib.sha256()
    for name, values in sorted(load_file(folder / "run" / "model.safetensors").items()):
        digest.update(name.encode() + values.tobytes())
    metrics = json.loads((folder / "run" / "metrics.json").read_text())
    digest.update(json.dumps({key: value for key, value in metrics.items() if "second" not in key}).encode())
    return digest.hexdigest()


def rows_digest(folder: Path) -> str:
    """Digest of a prediction's rows."""
    return hashlib.sha256((folder / "rows.csv").read_bytes()).hexdigest()


KINDS = {"train": (TRAIN, weights_digest), "predict": (PREDICT, rows_digest)}


def new_folder(root: Path) -> Path:
    """Make a new folder with the input of a round."""
    folder = root / "round"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "tmp").mkdir(parents=True)
    os.link(root / "images.npy", folder / "images.npy")
    return folder


def leftovers(folder: Path) -> list[str]:
    """Files that a finished round should have removed: temporary files, journals, shared memory."""
    suspects = [*folder.rglob(".*"), *(folder / "tmp").rglob("*")]
    return [str(path.relative_to(folder)) for path in suspects if path.is_file()]


def resources() -> dict[str, float]:
    """Memory in MB and open files of this process, which predicts in every round."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {"memory": pages * os.sysconf("SC_PAGE_SIZE") / 2**20, "handles": len(list(Path("/proc/self/fd").iterdir()))}


def undisturbed(root: Path, kind: str) -> tuple[float, str]:
    """Run without interruption; return the seconds, and the digest of the result."""
    command, digest = KINDS[kind]
    folder = new_folder(root)
    start = time.monotonic()
    status, _ = run(folder, command)
    if status != 0:
        sys.exit(f"the undisturbed {kind} ended with status {status}: {(folder / 'output.txt').read_text()}")
    return time.monotonic() - start, digest(folder)


def disturbed(root: Path, kind: str, seconds: float, expected: str, chance: random.Random) -> dict[str, Any]:
    """Run with interruptions within the given seconds; return the entry for the log."""
    command, digest = KINDS[kind]
    folder = new_folder(root)
    signals = [int(chance.choice(SIGNALS)) for _ in range(chance.randrange(1, 6))]
    statuses: list[int] = []
    peaks: list[float] = []
    for number in [*signals, None]:  # the last run is not interrupted
        interruption = () if number is None else (chance.uniform(0, seconds), number)
        status, peak = run(folder, command, *interruption)
        statuses.append(status)
        peaks.append(peak)
        if status in (0, 2):
            break
    same = statuses[-1] == 0 and digest(folder) == expected
    sent = [number for number, status in zip(signals, statuses, strict=False) if status != 0]
    entry = {"kind": kind, "signals": sent, "statuses": statuses, "same": same, "left": leftovers(folder)}
    disk = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return {**entry, "peak": max(peaks), "disk": disk}


def soak(root: Path, minutes: float, seed: int, log: Path) -> list[dict[str, Any]]:
    """Run rounds until the time is up, and write a line for each to the log."""
    digits = load_dataset("mnist", "test").images.numpy()
    np.save(root / "images.npy", np.tile(digits, (10, 1, 1)))
    np.save(root / "few.npy", digits)
    options = PredictOptions(device="cpu", preprocess="none")
    references = {kind: undisturbed(root, kind) for kind in KINDS}
    rounds: list[dict[str, Any]] = []
    chance, end = random.Random(seed), time.monotonic() + 60 * minutes
    with log.open("w", encoding="utf-8") as lines:
        while time.monotonic() < end or not rounds:
            kind = chance.choice(list(KINDS))
            entry = disturbed(root, kind, *references[kind], chance)
            if not entry["same"] or entry["left"]:
                shutil.copytree(root / "round", root / f"failed_{len(rounds)}", symlinks=True)
            predict_files(root / "few.npy", root / "here.csv", options)
            rounds.append(entry | resources())
            lines.write(json.dumps(rounds[-1]) + "\n")
            lines.flush()
    return rounds


def thirds(values: Sequence[float]) -> tuple[float, float]:
    """Medians of the first and of the last third."""
    third = max(len(values) // 3, 1)
    return statistics.median(values[:third]), statistics.median(values[-third:])


def summarize(rounds: list[dict[str, Any]]) -> bool:
    """Print a summary; return whether nothing was lost and nothing has grown."""
    kinds = {kind: [entry for entry in rounds if entry["kind"] == kind] for kind in KINDS}
    interruptions = [number for entry in rounds for number in entry["signals"]]
    counts = ", ".join(f"{interruptions.count(n)} {signal.Signals(n).name}" for n in sorted(set(interruptions)))
    lost = sum(not entry["same"] or bool(entry["left"]) for entry in rounds)
    print(f"rounds               {len(rounds)}: {len(kinds['train'])} trainings, the rest predictions")
    print(f"signals              {len(interruptions)}: {counts}")
    print(f"lost or different    {lost}")
    good = not lost
    measures = [
        ("peak MB, trainings", [entry["peak"] for entry in kinds["train"]], 0.1),
        ("peak MB, predictions", [entry["peak"] for entry in kinds["predict"]], 0.1),
        ("MB of this process", [entry["memory"] for entry in rounds], 0.1),
        ("its open files", [entry["handles"] for entry in rounds], 0.0),
        ("bytes, trainings", [entry["disk"] for entry in kinds["train"]], 0.1),
    ]
    for name, values, tolerance in measures:
        if values:
            first, last = thirds(values)
            grows = last > first * (1 + tolerance)
            good = good and not grows
            print(f"{name:<20} {first:,.0f} in the first third, {last:,.0f} in the last{', GROWS' if grows else ''}")
    return good


def main() -> int:
    """Soak, print the summary; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60, help="duration; at least one round is run")
    parser.add_argument("--seed", type=int, default=0, help="seed of the kinds of rounds, signals and their times")
    parser.add_argument("--log", type=Path, default=Path("soak.jsonl"), help="file for a line of JSON per round")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rounds = soak(Path(folder), arguments.minutes, arguments.seed, arguments.log.absolute())
        if any(not entry["same"] or entry["left"] for entry in rounds):
            kept = Path(tempfile.mkdtemp(prefix="soak-"))
            shutil.copytree(folder, kept, dirs_exist_ok=True)
            print(f"the failed rounds are in {kept}")
    return 0 if summarize(rounds) else 1


if __name__ == "__main__":
    sys.exit(main())
