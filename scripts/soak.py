"""Train, kill, resume and predict at random for as long as is wanted, and see that nothing is lost and nothing grows.

    python scripts/soak.py --minutes 60 --log soak.jsonl

Each round trains a small network or predicts from an array, in a process of its own, and interrupts it a few times at
random moments: by SIGKILL, SIGTERM or Ctrl-C. It is started again until it comes to its end, and must then have left
what an undisturbed run has left: the same weights and figures, or the same bytes. Prints a summary; the exit status is
1 if anything was lost, or if memory, open files or the disk have grown.
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
from mnist_cls.inference.pipeline import predict_files

TRAIN = [
    *("mnist_cls.train", "experiment=best", "trainer=cpu", "trainer.enable_progress_bar=false", "trainer.max_epochs=3"),
    *("data.train_size=6400", "data.validation_size=500", "callbacks.average.decay=0.8", "save_every_steps=10"),
    *("checkpoint=auto", "output_dir=run"),
]
PREDICT = ["mnist_cls.predict", "input=images.npy", "output=rows.csv", "device=cpu", "engine=eager", "resume=true"]
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


def once(place: Path, command: Sequence[str], after: float | None, number: int) -> tuple[int, float]:
    """Run a command, interrupt it after so many seconds, and return its status and the most memory it had, in MB."""
    with (place / "said.txt").open("ab") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=place,
            stdout=said,
            stderr=said,
            env={**os.environ, "TMPDIR": str(place / "tmp")},
        )
    sent, deadline = after is None, time.monotonic() + (after or 0)
    while True:
        found, status, usage = os.wait4(process.pid, os.WNOHANG)
        if found:
            process.returncode = os.waitstatus_to_exitcode(status)
            return process.returncode, usage.ru_maxrss / 1024
        if not sent and time.monotonic() >= deadline:
            process.send_signal(number)
            sent = True
        time.sleep(0.01)


def weights_of(place: Path) -> str:
    """A digest of a training's weights and of its figures but for the times."""
    digest = hashlib.sha256()
    for name, values in sorted(load_file(place / "run" / "model.safetensors").items()):
        digest.update(name.encode() + values.tobytes())
    figures = json.loads((place / "run" / "metrics.json").read_text())
    digest.update(json.dumps({k: v for k, v in figures.items() if "second" not in k}).encode())
    return digest.hexdigest()


def rows_of(place: Path) -> str:
    """A digest of a prediction's rows."""
    return hashlib.sha256((place / "rows.csv").read_bytes()).hexdigest()


KINDS = {"train": (TRAIN, weights_of), "predict": (PREDICT, rows_of)}


def new_place(root: Path, images: Path) -> Path:
    """An empty folder with the images in it."""
    place = root / "round"
    shutil.rmtree(place, ignore_errors=True)
    (place / "tmp").mkdir(parents=True)
    os.link(images, place / "images.npy")
    return place


def leftovers(place: Path) -> list[str]:
    """What a finished round should not have left: temporary files, journals, shared memory."""
    suspects = [*place.rglob(".*"), *(place / "tmp").rglob("*")]
    return [str(path.relative_to(place)) for path in suspects if path.is_file()]


def ours() -> dict[str, float]:
    """Memory in MB and open files of this process, which predicts, too, all the time."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {"memory": pages * os.sysconf("SC_PAGE_SIZE") / 2**20, "handles": len(list(Path("/proc/self/fd").iterdir()))}


def soak(root: Path, minutes: float, seed: int, log: Path) -> list[dict[str, Any]]:
    """Do rounds until the time is over, and write a line for each into the log."""
    images = root / "images.npy"
    digits = load_dataset("mnist", "test").images.numpy()
    np.save(images, np.tile(digits, (10, 1, 1)))
    np.save(root / "few.npy", digits)
    expected, seconds = {}, {}
    for kind, (command, result) in KINDS.items():
        place = new_place(root, images)
        began = time.monotonic()
        status, _ = once(place, command, None, 0)
        if status != 0:
            sys.exit(f"the undisturbed {kind} ended with status {status}: {(place / 'said.txt').read_text()}")
        seconds[kind] = time.monotonic() - began
        expected[kind] = result(place)
    rounds: list[dict[str, Any]] = []
    moments, end = random.Random(seed), time.monotonic() + 60 * minutes
    with log.open("w", encoding="utf-8") as lines:
        while time.monotonic() < end or not rounds:
            kind = moments.choice(list(KINDS))
            command, result = KINDS[kind]
            place = new_place(root, images)
            signals = [int(moments.choice(SIGNALS)) for _ in range(moments.randrange(1, 6))]
            statuses: list[int] = []
            peaks: list[float] = []
            for number in [*signals, None]:  # the last time it may come to its end
                after = None if number is None else moments.uniform(0, seconds[kind])
                status, peak = once(place, command, after, number or 0)
                statuses, peaks = [*statuses, status], [*peaks, peak]
                if status in (0, 2):
                    break
            same = statuses[-1] == 0 and result(place) == expected[kind]
            left = leftovers(place)
            if not same or left:
                shutil.copytree(place, root / f"failed_{len(rounds)}", symlinks=True)
            predict_files(root / "few.npy", root / "here.csv", device="cpu", preprocess="none")
            sent = [number for number, status in zip(signals, statuses, strict=False) if status != 0]
            entry = {"kind": kind, "signals": sent, "statuses": statuses, "same": same, "left": left}
            entry |= {"peak": max(peaks), "disk": sum(p.stat().st_size for p in place.rglob("*") if p.is_file())}
            rounds.append(entry | ours())
            lines.write(json.dumps(rounds[-1]) + "\n")
            lines.flush()
    return rounds


def grows(values: Sequence[float], more_than: float) -> tuple[float, float, bool]:
    """The medians of the first and the last third, and whether the latter is larger by more than that share."""
    third = max(len(values) // 3, 1)
    first, last = statistics.median(values[:third]), statistics.median(values[-third:])
    return first, last, last > first * (1 + more_than)


def main() -> None:
    """Soak, and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60, help="how long; at least one round is made")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the signals")
    parser.add_argument("--log", type=Path, default=Path("soak.jsonl"), help="a line of JSON for each round")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rounds = soak(Path(folder), arguments.minutes, arguments.seed, arguments.log.absolute())
        lost = [entry for entry in rounds if not entry["same"] or entry["left"]]
        if lost:
            kept = Path(tempfile.mkdtemp(prefix="soak-"))
            shutil.copytree(folder, kept, dirs_exist_ok=True)
            print(f"what was lost lies in {kept}")
    interruptions = [number for entry in rounds for number in entry["signals"]]
    trainings = sum(entry["kind"] == "train" for entry in rounds)
    print(f"rounds               {len(rounds)}: {trainings} trainings, the rest predictions")
    counts = ", ".join(f"{interruptions.count(n)} {signal.Signals(n).name}" for n in sorted(set(interruptions)))
    print(f"signals              {len(interruptions)}: {counts}")
    print(f"lost or different    {len(lost)}")
    growing = bool(lost)
    measures = [
        ("peak MB, trainings", [e["peak"] for e in rounds if e["kind"] == "train"], 0.1),
        ("peak MB, predictions", [e["peak"] for e in rounds if e["kind"] == "predict"], 0.1),
        ("MB of this process", [e["memory"] for e in rounds], 0.1),
        ("its open files", [e["handles"] for e in rounds], 0.0),
        ("bytes, trainings", [e["disk"] for e in rounds if e["kind"] == "train"], 0.1),
    ]
    for name, values, share in measures:
        if values:
            first, last, more = grows(values, share)
            growing = growing or more
            print(f"{name:<20} {first:,.0f} in the first third, {last:,.0f} in the last{', GROWS' if more else ''}")
    sys.exit(1 if growing else 0)


if __name__ == "__main__":
    main()
