"""A process that feeds mutated files to one loader, in bounded memory and time, and counts the outcomes.

`python -m tests.fuzzing LOADER SEED COUNT FOLDER` prints one line of JSON. An audit hook sees what no loader may do:
start a process, speak to a network, or change a file. A signal ends the process; then FOLDER holds the last input.
After SIGTERM, the process prints the outcomes until then.
"""

import contextlib
import gzip
import io
import json
import random
import re
import resource
import signal
import struct
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save

from mnist_cls.checkpoints.build import build
from mnist_cls.checkpoints.weights import read_ckpt, read_weights, save_weights, weights_of
from mnist_cls.cli.entry_point import compose
from mnist_cls.cli.settings import TrainSettings
from mnist_cls.data.datasets import load_dataset
from mnist_cls.data.idx import read_idx
from mnist_cls.errors import InputError
from mnist_cls.inference.decoding.batches import batches_of
from mnist_cls.inference.decoding.decode import decode
from mnist_cls.inference.decoding.pool import Decoders
from mnist_cls.inference.sources.detect import open_source
from mnist_cls.models.registry import create_model
from mnist_cls.tracing.inputs import read_batch

from .forged import (
    MODEL,
    UNSIGNED,
    archive_of,
    checkpoint_with,
    entries_of,
    exactly,
    header_of,
    signed,
    training,
)

# What one input may cost at most, of the processor, and all of them together beyond what the process had at the start.
SECONDS, MEGABYTES = 20, 1500
NUMBERS = [0, 1, 2, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1]
NUMBERS += [2**64 - 1]
FORBIDDEN = re.compile(
    r"os\.(system|exec|fork|forkpty|posix_spawn|spawn|startfile|remove|rename|mkdir|rmdir|link|symlink|chmod|putenv)"
    r"|subprocess\.Popen|socket\..*|shutil\..*|pty\..*|urllib\..*|ftplib\..*|webbrowser\..*"
)

Load = Callable[[Path], object]
Mutate = Callable[[random.Random], bytes]


def mutated(content: bytes, chance: random.Random) -> bytes:
    """Flip bits; change, remove, insert or repeat bytes; write extreme numbers; cut off the end."""
    data = bytearray(content)
    for _ in range(chance.choice([1, 1, 1, 2, 4, 16])):
        position = chance.randrange(len(data)) if data else 0
        what = chance.random()
        if what < 0.3 and data:
            data[position] ^= 1 << chance.randrange(8)
        elif what < 0.5 and data:
            data[position] = chance.choice([0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)])
        elif what < 0.65:
            kind, number = chance.choice(["<H", ">H", "<I", ">I", "<Q", ">Q"]), chance.choice(NUMBERS)
            size = struct.calcsize(kind)
            data[position : position + size] = struct.pack(kind, number % 2 ** (8 * size))
        elif what < 0.75:
            del data[position : position + chance.randrange(1, 30)]
        elif what < 0.85:
            data[position:position] = chance.randbytes(chance.randrange(1, 30))
        elif what < 0.95 and data:
            other = chance.randrange(len(data))
            data[position:position] = data[other : other + chance.randrange(1, 200)]
        else:
            del data[position:]
    return bytes(data)


def start_of(content: bytes, chance: random.Random, header: int) -> bytes:
    """As `mutated`, but half of the time within the first bytes only."""
    if chance.random() < 0.5:
        return mutated(content, chance)
    return mutated(content[:header], chance) + content[header:]


def whole_weights(path: Path) -> str:
    """All of a file with weights, and the network that is made of it."""
    build(weights := read_weights(path))
    return exactly([weights.model, weights.state, weights.provenance, weights.resumable])


def whole_ckpt(path: Path) -> str:
    """All of a checkpoint, and the network that is made of it."""
    build(weights_of(content := read_ckpt(path), path))
    return exactly(content)


def damaged(content: bytes, path: Path, read: Callable[[Path], str]) -> tuple[Load, Mutate]:
    """Damage a file anywhere: it must be refused, or hold exactly what it held."""
    path.write_bytes(content)
    whole = read(path)

    def load(path: Path) -> None:
        assert read(path) == whole, "a damaged file was loaded"

    return load, lambda chance: mutated(content, chance)


def forged_ckpt(chance: random.Random) -> bytes:
    """A checkpoint with correct CRCs, and something wrong with its archive, its pickle or its values."""
    what = chance.random()
    whole = archive_of(_altered(training(), chance) if what < 0.4 else training())
    if what < 0.4:
        return whole
    if what < 0.6:
        return mutated(whole, chance)
    entries = entries_of(whole)
    pickled = entries.pop("archive/data.pkl")
    storages = {f"_{name.rpartition('/')[2]}": part for name, part in entries.items() if "/data/" in name}
    if chance.random() < 0.2:
        name = chance.choice(list(storages))
        storages[name] = mutated(storages[name], chance)
    return checkpoint_with(_spliced(pickled, chance) if what < 0.8 else mutated(pickled, chance), **storages)


def _spliced(pickled: bytes, chance: random.Random) -> bytes:
    """Instructions of a pickle put where others were."""
    parts = [b"cos\nsystem\n", b"cbuiltins\neval\n", b"ctorch\nTensor\n", b"cbuiltins\nbytearray\n", b"R", b"b"]
    parts += [b"\x81"]
    parts += [b"(", b"t", b"\x85", b"Q", b"h\0", b"h\1", b"0", b"2", b"}", b"s", b"u", b"e", b"J\xff\xff\xff\x7f"]
    parts += [b"\x8a\x08" + b"\xff" * 7 + b"\x7f", b"\x94", b"\x93", b"ios\nsystem\n", b"\x82\1", b"."]
    parts += [b"X\xff\xff\xff\xff"]
    data = pickled
    for _ in range(chance.choice([1, 1, 2, 5])):
        position = chance.randrange(2, len(data))
        data = data[:position] + chance.choice(parts) + data[position + chance.choice([0, 0, 1, 2]) :]
    return data


def _values(chance: random.Random) -> object:
    expanded = torch.zeros(1).expand(chance.choice([1, 10, 10**9, 10**12]))
    odd: list[object] = [
        None,
        True,
        -1,
        10**9,
        10**30,
        1e308,
        float("nan"),
        "",
        "x" * 1000,
        "../../x",
        "file://x",
        "\n",
    ]
    odd += [[], {}, [[[[]]]], {"_target_": "os.system"}, torch.zeros(0), torch.zeros(3, 3), expanded, [0] * 1000, ()]
    return chance.choice(odd)


def _altered(content: Any, chance: random.Random) -> Any:
    """One value somewhere in nested containers, or its key, replaced or left out."""
    keys = list(content) if isinstance(content, dict) else list(range(len(content)))
    key = chance.choice(keys)
    part = content[key]
    if isinstance(part, (dict, list)) and part and chance.random() < 0.85:
        content[key] = _altered(part, chance)
    elif chance.random() < 0.7:
        content[key] = _values(chance)
    elif isinstance(content, dict):
        content[chance.choice(["_target_", "name", 0, "widths", "x" * 99])] = content.pop(key)
    else:
        del content[key]
    return content


def forged_safetensors(content: bytes) -> Mutate:
    """A `.safetensors` with the correct digest, and something wrong with its header, its sizes or its values."""

    def mutate(chance: random.Random) -> bytes:
        header, values = header_of(content)
        what = chance.random()
        if what < 0.5:
            if chance.random() < 0.5 and "mnist_cls" in header["__metadata__"]:
                ours = json.loads(header["__metadata__"]["mnist_cls"])
                header["__metadata__"]["mnist_cls"] = json.dumps(_altered(ours, chance), default=str)
            else:
                header = _altered(header, chance)
            text = json.dumps(header, separators=(",", ":"), default=str).encode()
        else:
            text = mutated(json.dumps(header, separators=(",", ":")).encode(), chance)
            text = re.sub(
                rb"\d+", lambda n: str(chance.choice(NUMBERS)).encode() if chance.random() < 0.02 else n[0], text
            )
        values = mutated(values, chance) if chance.random() < 0.2 else values
        length = chance.choice([*NUMBERS, len(text) + 1]) if chance.random() < 0.05 else len(text)
        return signed(struct.pack("<Q", length) + text + values)

    return mutate


def resumed(path: Path) -> None:
    """Read a checkpoint as a run that resumes from it, and take the first step."""
    from mnist_cls.training.checkpoint_io import WholeCheckpoints

    content = WholeCheckpoints().load_checkpoint(path)
    network = build(weights_of(content, path)).train()
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    try:
        optimizer.load_state_dict(content["optimizer_states"][0])
        network(torch.zeros(2, 784)).sum().backward()
        optimizer.step()
    except Exception as error:  # any exception will do: what counts is that the process lives
        raise InputError((str(error).splitlines() or [""])[0]) from error


def decoded(path: Path) -> None:
    """An image, through Pillow and the preprocessing, in this process."""
    content = path.read_bytes()
    for split in (False, True):
        decode([content], "auto", split)


def arrays(path: Path) -> None:
    """All rows of an array."""
    with Decoders("auto", split=False) as decoders:
        for chunk in batches_of(open_source(path), decoders):
            for error in chunk.decoded.errors:
                assert error is None or "its decoder was killed" not in error, error


def composed(path: Path) -> None:
    """The settings of an entry point from one override a line."""
    entry, *overrides = path.read_text(encoding="utf-8", errors="surrogateescape").split("\n")
    try:
        compose(entry, overrides)
    except ValueError as error:
        if type(error) is ValueError:  # Hydra's own, of which an entry point makes one line, too
            raise InputError((str(error).splitlines() or [""])[0]) from error
        raise


def override(chance: random.Random) -> bytes:
    """Overrides of all kinds: known keys with odd values, odd keys, choices that are paths, broken syntax."""
    entry = chance.choice(["train", "eval", "predict", "forward", "export"])
    keys = ["model", "model.name", "model.widths", "data", "data.dir", "data.batch_size", "seed", "trainer.max_epochs"]
    keys += ["checkpoint", "input", "output", "output_dir", "optimizer._target_", "optimizer.lr", "callbacks", "mode"]
    keys += ["experiment", "hydra/launcher", "hydra.run.dir", "hydra.searchpath", "sweep"]
    keys += [*TrainSettings.__dataclass_fields__]
    values = ["1", "-1", "0", "1e999", "nan", "null", "true", "''", "[]", "{}", "[1,2", "{a:", "../../etc/passwd"]
    values += ["/etc"]
    values += ["os.system", "${seed}", "${model}", "${oc.env:HOME}", "${a:${b:${c:", "${choices:..}", "x" * 5000]
    values += ["'\"", "\\"]
    values += ["[" * 50 + "]" * 50, "{_target_:os.system}", "1,2", "choice(1,2)", "range(10**9)", "\x00", "\u202e"]
    values += ["é", "a=b"]
    values += ["[784,1000000000,10]", "9" * 400, "mlp", "cpu", "fast", "accurate", "none"]
    lines = []
    for _ in range(chance.choice([1, 1, 2, 4])):
        text = f"{chance.choice(['', '', '', '+', '++', '~'])}{chance.choice(keys)}={chance.choice(values)}"
        if chance.random() < 0.4:
            position = chance.randrange(len(text) + 1)
            text = text[:position] + chance.choice("=+~[]{}'\"\\$:,.@ \t()") + text[position + chance.randrange(3) :]
        lines.append(text.replace("\n", " "))
    return "\n".join([entry, *lines]).encode("utf-8", "surrogateescape")


def loaders(folder: Path) -> dict[str, tuple[Load, Mutate]]:
    """What is fuzzed, by its name."""
    digits = load_dataset("mnist", "test").images[:20].numpy()
    save_weights(folder / "whole", create_model(**MODEL), MODEL, {"seed": 1, "config": {"data": {"name": "mnist"}}})
    weights, ckpt = (folder / "whole").read_bytes(), archive_of(training())
    rng = {"images": torch.from_numpy(digits), "labels": torch.zeros(20).long(), "random_state": torch.get_rng_state()}
    batch = save(rng, {"digest": UNSIGNED})

    def pictures(chance: random.Random) -> bytes:
        kind, content = chance.choice(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO", "TGA"]), io.BytesIO()
        size = chance.choice([1, 3])
        Image.fromarray(np.kron(chance.choice(digits), np.ones((size, size), np.uint8))).save(content, kind)
        return start_of(content.getvalue(), chance, 60)

    def npy(chance: random.Random) -> bytes:
        content = io.BytesIO()
        array = digits if chance.random() < 0.5 else digits[:4].astype(chance.choice(["f4", "f8", "i8", "?", "u2"]))
        if chance.random() < 0.5:
            np.save(content, array)
            return start_of(content.getvalue(), chance, 128)
        chance.choice([np.savez, np.savez_compressed])(content, images=array, labels=np.arange(len(array)))
        return mutated(content.getvalue(), chance)

    def idx(chance: random.Random) -> bytes:
        content = start_of(struct.pack(">4B3I", 0, 0, 8, 3, 20, 28, 28) + digits.tobytes(), chance, 16)
        what = chance.random()
        if what < 0.4:
            return content
        return gzip.compress(content) if what < 0.7 else mutated(gzip.compress(content), chance)

    def batches(chance: random.Random) -> bytes:
        return forged_safetensors(batch)(chance) if chance.random() < 0.7 else mutated(batch, chance)

    return {
        "ckpt-damaged": damaged(ckpt, folder / "damaged", whole_ckpt),
        "ckpt-forged": (lambda path: build(read_weights(path)), forged_ckpt),
        "ckpt-resumed": (resumed, forged_ckpt),
        "safetensors-damaged": damaged(weights, folder / "damaged", whole_weights),
        "safetensors-forged": (lambda path: build(read_weights(path)), forged_safetensors(weights)),
        "batch": (read_batch, batches),
        "idx": (read_idx, idx),
        "images": (decoded, pictures),
        "arrays": (arrays, npy),
        "configs": (composed, override),
    }


def main(loader: str, seed: int, count: int, folder: Path) -> dict[str, object]:
    """Feed `count` files to a loader, and return the outcomes."""
    chance, outcomes = random.Random(seed), Counter[str]()
    load, mutate = loaders(folder)[loader]
    path = folder / f"input{'.safetensors' if loader == 'batch' else ''}"
    unexpected: list[str] = []
    seen: set[str] = set()

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
        if watching and (writes or FORBIDDEN.fullmatch(event)) and arguments[0] != str(path):
            seen.add(f"{event} {arguments!r:.200}")

    watching = False
    sys.addaudithook(watch)
    for number in range(50):  # what is imported and reserved on the way belongs to the process, not to an input
        content = mutate(random.Random(number))
        path.write_bytes(content)
        with contextlib.suppress(Exception):
            load(path)
    page, used = resource.getpagesize(), int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (used * page + (MEGABYTES << 20),) * 2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began, slowest = time.process_time(), 0.0
    stopped, done = False, 0

    def stop(*arguments: object) -> None:
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGTERM, stop)
    while done < count and not stopped:
        done += 1
        content = mutate(chance)
        path.unlink(missing_ok=True)  # a file that is cut to nothing and written again, ext4 puts on the disk at once
        path.write_bytes(content)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)  # of the processor: others may keep it from us for minutes
        signal.alarm(60 * SECONDS)
        start, watching = time.process_time(), loader != "arrays"  # those start decoders of their own
        try:
            load(path)
            outcomes["loaded"] += 1
        except InputError as error:
            watching = False
            outcomes["refused"] += 1
            if len(str(error)) > 2000 + len(content) or "\n" in str(error):
                unexpected.append(f"not one line: {str(error)[:300]!r}")
        except Exception:
            watching = False
            unexpected.append(traceback.format_exc(limit=-4))
            (folder / f"unexpected-{len(unexpected)}").write_bytes(content)
        finally:
            watching = False
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.alarm(0)
        slowest = max(slowest, time.process_time() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "loader": loader,
        "inputs": done,
        **outcomes,
        "seconds": round(time.process_time() - began, 1),
        "slowest": round(slowest, 2),
        "megabytes": round(peak / 1024),
        "more": round((peak - before) / 1024),
        "forbidden": sorted(seen)[:20],
        "failures": len(unexpected),
        "unexpected": unexpected[:20],
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))))
