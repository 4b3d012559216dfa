"""Forged checkpoints are refused in one line, run nothing, and cost bounded memory and time."""

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from mnist_cls.checkpoints.build import load_model
from mnist_cls.checkpoints.weights import read_ckpt, save_ckpt
from mnist_cls.errors import InputError
from mnist_cls.training.checkpoint_io import WholeCheckpoints

from .conftest import ROOT, Run, one_line
from .forged import (
    MODEL,
    UNSIGNED,
    archive_of,
    checkpoint_with,
    entries_of,
    header_of,
    safetensors_of,
    training,
    write,
    zip_of,
)


def refused(path: Path, words: str, load: Callable[[Path], object] = load_model) -> str:
    """Check that a file is refused by one line that names it; return the line."""
    with pytest.raises(InputError, match=words) as caught:
        load(path)
    message = str(caught.value)
    assert str(path) in message
    assert message.isprintable()
    assert len(message) < 1000
    return message


def text(value: str) -> bytes:
    """A string, in a pickle."""
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value: int) -> bytes:
    """A whole number, in a pickle."""
    content = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(content)]) + content


MKDIR = f"it could run code ({os.mkdir.__module__}.mkdir)"


def pickles(mark: Path) -> dict[str, bytes]:
    """Pickles that would make the folder `mark`, by the opcode that calls."""
    call, module = text(str(mark)), os.mkdir.__module__
    where = f"c{module}\nmkdir\n".encode()
    return {
        "REDUCE": b"\x80\2" + where + b"(" + call + b"tR.",
        "STACK_GLOBAL": b"\x80\4" + text(module) + text("mkdir") + b"\x93(" + call + b"tR.",
        "INST": b"(" + call + f"i{module}\nmkdir\n.".encode(),
        "OBJ": b"(" + where + call + b"o.",
    }


@pytest.mark.parametrize("kind", list(pickles(Path("x"))))
def test_no_pickle_runs_code(tmp_path: Path, kind: str) -> None:
    mark = tmp_path / "ran"
    pickled = pickles(mark)[kind]
    message = refused(
        write(tmp_path / "evil.ckpt", checkpoint_with(pickled)), "not loaded|damaged, or not a checkpoint"
    )
    assert (MKDIR in message) == (kind == "REDUCE")  # of the others, PyTorch knows no name
    assert not mark.exists()
    pickle.loads(pickled)  # noqa: S301 (to see that it would have run)
    assert mark.exists()


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("builtins bytearray", number(10**11)),  # PyTorch's own list of what is safe has these seven
        ("torch Tensor", number(10**11)),
        ("torch FloatTensor", number(10**11)),
        ("torch QInt8Storage", b""),
        ("torch._utils _rebuild_sparse_tensor", b""),
        ("torch.nn.parameter Parameter", b""),
        ("_codecs encode", text("x") + text("unknown_codec")),
        ("builtins eval", text("1")),
        ("mnist_cls.models.registry register_file", text("/tmp/evil.py")),  # noqa: S108 (is never opened)
        ("hydra.utils instantiate", b"}"),
    ],
)
def test_nothing_else_is_called(tmp_path: Path, name: str, call: bytes) -> None:
    pickled = b"\x80\2c" + name.replace(" ", "\n").encode() + b"\n(" + call + b"tR."
    refused(write(tmp_path / "evil.ckpt", checkpoint_with(pickled)), name.replace(" ", "."))


def tensor(size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0, count: int = 10, key: str = "0") -> bytes:
    """The instructions that make a tensor of the storage `key`, of `count` floats."""
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu") + number(count) + b"tQ"
    shape, steps = (b"(" + b"".join(map(number, numbers)) + b"t" for numbers in (size, stride))
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(offset) + shape + steps + b"\x89}tR"


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (tensor((10**12,), (0,)), "claims 4,000,000,000,000 bytes, it has 40"),  # one value, expanded
        (tensor((5, 5), (1, 1), offset=1), r"a tensor \(5, 5\) claims 100 bytes, it has 36"),
        (tensor((10**6,), (1,)), "damaged, or not a checkpoint"),  # beyond its storage
        (tensor((10,), (1,), count=10**12), "damaged, or not a checkpoint"),  # a storage that is larger than its record
        (tensor((10,), (1,), key="../../../etc/passwd"), "damaged, or not a checkpoint"),
        (tensor((1,), (1,), offset=-3), "damaged, or not a checkpoint"),
        (tensor((2**62, 2**62), (0, 0)), "damaged, or not a checkpoint"),
    ],
)
def test_tensors_that_claim_more_than_they_have(tmp_path: Path, made: bytes, words: str) -> None:
    pickled = b"\x80\2}" + text("x") + made + b"s."
    refused(write(tmp_path / "evil.ckpt", checkpoint_with(pickled, _0=bytes(40))), words)


def test_an_expanded_tensor_does_not_build_a_network_of_its_size(tmp_path: Path) -> None:
    content = training()
    content["mnist_cls"]["model"] = {"name": "mlp", "widths": [784, 10**9, 10]}
    content["state_dict"]["model.fc1.weight"] = torch.zeros(1).expand(10**9, 784)
    refused(write(tmp_path / "evil.ckpt", archive_of(content)), "claims 3,136,000,000,000 bytes")


def test_one_storage_for_many_tensors_does_not_either(tmp_path: Path) -> None:
    content, shared = training(), torch.zeros(1000, 1000)
    widths = [1000] * 200
    content["mnist_cls"]["model"] = {"name": "mlp", "widths": widths}
    content["state_dict"] = {f"model.fc{layer}.weight": shared for layer in range(1, 200)}
    refused(write(tmp_path / "evil.ckpt", archive_of(content)), "its tensors claim more than")


def cyclic() -> list[object]:
    """A list that holds itself."""
    own: list[object] = []
    own.append(own)
    return own


def doubled(value: object, times: int) -> object:
    """Nested lists that each contain the next one twice: tiny in memory, but endless to traverse."""
    for _ in range(times):
        value = [value, value]
    return value


class Shadowed(OrderedDict[str, int]):
    """Becomes an OrderedDict whose `items` is no method."""

    def __reduce__(self) -> Any:
        return OrderedDict, (), {"items": "shadow"}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (doubled(1, 40), "more than 1,000,000 values"),
        (cyclic(), "nests deeper than 50"),
        (Shadowed(), "has the attribute 'items'"),
        (b"bytes", "_codecs.encode"),
        ({1, 2}, "more than tensors and plain values"),
        (torch.zeros(3).to_sparse(), "torch._utils._rebuild_sparse_tensor"),
        (torch.nn.Linear(1, 1), "it could run code"),
    ],
)
def test_no_other_values(tmp_path: Path, value: object, words: str) -> None:
    refused(write(tmp_path / "evil.ckpt", archive_of({**training(), "extra": value})), words)


def test_tuples_that_would_overflow_the_stack_that_hashes_them(tmp_path: Path) -> None:
    pickled = b"\x80\2})" + b"\x85" * 1_000_000 + b"Ns."
    refused(write(tmp_path / "evil.ckpt", checkpoint_with(pickled)), "makes 1,000,000 tuples")


def test_a_pickle_that_is_all_objects(tmp_path: Path) -> None:
    pickled = b"\x80\2](" + b"}" * 5_000_000 + b"e."
    refused(write(tmp_path / "evil.ckpt", checkpoint_with(pickled)), "its pickle has 5,000,0.. bytes")


@pytest.mark.parametrize("hidden", ["archive/DATA.PKL", "evil/data.pkl"])
def test_no_entry_hides_another(tmp_path: Path, hidden: str) -> None:
    """PyTorch ignores the case of names, and takes the folder of the first entry."""
    whole = entries_of(archive_of(training()))
    for entries in ([(hidden, b"evil"), *whole.items()], [*whole.items(), (hidden, b"evil")]):
        refused(write(tmp_path / "evil.ckpt", zip_of(entries)), f"an entry {hidden!r}")


def test_an_archive_with_two_directories_is_read_as_it_was_checked(tmp_path: Path) -> None:
    """The end's size leads zipfile to the second archive, its offset leads PyTorch to the first."""
    good, evil = archive_of({"x": torch.zeros(3)}), archive_of({"y": torch.zeros(3)})
    assert len(good) == len(evil)
    directory, end = good.index(b"PK\1\2"), good.index(b"PK\6\6")
    count = len(entries_of(good))
    last = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, end - directory, directory, 0)
    content = evil[:end] + good[:end] + last
    assert torch.load(io.BytesIO(content), weights_only=True).keys() == {"y"}
    assert read_ckpt(write(tmp_path / "two.ckpt", content)).keys() == {"x"}


def test_archives_that_unpack_to_more_than_they_are(tmp_path: Path) -> None:
    whole = entries_of(archive_of(training()))
    for compression in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2):
        bomb = zip_of([*whole.items(), ("archive/data/999", bytes(30_000_000))], compression)
        assert len(bomb) < 100_000
        refused(write(tmp_path / "evil.ckpt", bomb), "compressed or overlap")
    # Overlapping entries: the directory lists one record under many names.
    record = zip_of([("archive/data.pkl", b"N."), ("archive/data/1", bytes(100_000))])
    start = record.index(b"PK\1\2")
    first = record[start : record.index(b"PK\1\2", start + 1)]
    second = record[start + len(first) : record.index(b"PK\5\6")]
    many = b"".join(second.replace(b"data/1", b"data/%d" % n) for n in range(1, 10))
    end = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 10, 10, len(first + many), start, 0)
    refused(write(tmp_path / "evil.ckpt", record[:start] + first + many + end), "compressed or overlap")


def test_other_containers_of_pickles_are_no_checkpoints(tmp_path: Path) -> None:
    legacy, old = io.BytesIO(), io.BytesIO()
    torch.save(training(), legacy, _use_new_zipfile_serialization=False)
    pickle.dump(training(), old)
    for content in (legacy.getvalue(), old.getvalue(), b"", b"PK\5\6" + bytes(18)):
        refused(write(tmp_path / "evil.ckpt", content), "damaged, or not a checkpoint")


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"_target_": "os.system", "command": "true"}, "no model is called None"),
        ({"name": "mlp", "_target_": "os.system"}, "no option '_target_'"),
        ({"name": "mlp", "widths": {"_target_": "os.system"}}, "widths"),
        ({"name": "../../evil"}, "no model is called '../../evil'"),
        ({"name": "/tmp/evil.py"}, "no model is called '/tmp/evil.py'"),  # noqa: S108 (is never opened)
        ({"name": "os.system"}, "no model is called 'os.system'"),
        ({"name": "mlp\n\x1b[31m\u202e"}, "no model is called"),
        ({"name": ["mlp"]}, r"no model is called \['mlp'\]"),
        ({"name": "mlp", "model_file": "evil.py"}, "no option 'model_file'"),
        ({"name": "mlp", "self": 1}, "self"),
        ({"name": "mlp", "widths": [784, 10**9, 10]}, r"expected \(1000000000, 784\)"),
        ({"name": "mlp", "widths": [784, 10**30, 10]}, "evil"),
        (
            {"name": "mlp", "widths": [784] + [2] * 300_000},
            "its options ask for more than 140 tensors, but the file has 4",
        ),
        ({"name": "residual", "blocks": 10**9}, "its options ask for more than 140 tensors, but the file has 4"),
        ({"name": "autoencoder", "code": 10**15}, "evil"),
        ({"name": "mlp", "dropout": float("nan"), "widths": [1, 1]}, "evil"),
    ],
)
def test_networks_that_a_checkpoint_may_not_ask_for(tmp_path: Path, model: dict[str, Any], words: str) -> None:
    content = training()
    content["mnist_cls"]["model"] = model
    refused(write(tmp_path / "evil.ckpt", archive_of(content)), words)
    header, values = header_of(model_file(model))
    refused(write(tmp_path / "evil.safetensors", safetensors_of(header, values)), words)


def model_file(model: dict[str, Any]) -> bytes:
    """A `.safetensors` with the weights of `MODEL`, which says that it is of another network."""
    state = {name.removeprefix("model."): value for name, value in training()["state_dict"].items()}
    return save(state, {"mnist_cls": json.dumps({"model": model, "provenance": {}}), "digest": UNSIGNED})


def test_hyperparameters_with_targets_are_never_looked_at(tmp_path: Path) -> None:
    content = training()
    evil = {"_target_": "os.mkdir", "path": str(tmp_path / "ran")}
    content |= {"hyper_parameters": evil, "hparams_name": "kwargs", "datamodule_hyper_parameters": evil}
    content["mnist_cls"] |= {"provenance": {"config": evil}}
    load_model(write(tmp_path / "evil.ckpt", archive_of(content)))
    WholeCheckpoints().load_checkpoint(tmp_path / "evil.ckpt")
    assert not (tmp_path / "ran").exists()


def deep(times: int) -> bytes:
    """Lists in lists, as JSON."""
    return b"[" * times + b"]" * times


METADATA = {"digest": UNSIGNED, "mnist_cls": '{"model": {"name": "mlp"}}'}


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2**64 - 1) + b"{",
        struct.pack("<Q", 100_000_001) + b"{}",
        safetensors_of({"__metadata__": METADATA, "x": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 4]}}),
        safetensors_of({"__metadata__": METADATA, "x": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4]}}),
        safetensors_of({"__metadata__": METADATA, "x": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}),
        safetensors_of({"__metadata__": METADATA, "x": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}),
        safetensors_of({"__metadata__": METADATA, "x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 2**40]}}),
        safetensors_of(
            {
                "__metadata__": METADATA,
                "x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
                "y": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
            },
            bytes(4),
        ),
        safetensors_of({"__metadata__": METADATA, "x": {"dtype": "OBJECT", "shape": [1], "data_offsets": [0, 4]}}),
        safetensors_of(b'{"__metadata__":{"digest":"' + UNSIGNED.encode() + b'"},"x":' + deep(100_000) + b"}"),
        safetensors_of({"__metadata__": {**METADATA, "mnist_cls": deep(100_000).decode()}}),
        safetensors_of({"__metadata__": {**METADATA, "mnist_cls": '{"model": ' + deep(400).decode() + "}"}}),
        safetensors_of({"__metadata__": {**METADATA, "mnist_cls": "1" * 10_000}}),
    ],
    ids=lambda content: ascii(content[8:60]),
)
def test_headers_of_safetensors(tmp_path: Path, content: bytes) -> None:
    refused(write(tmp_path / "evil.safetensors", content), "evil")


def moved(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """A checkpoint with a change in it."""
    content = training()
    change(content)
    return content


def momentum(content: dict[str, Any], name: str, value: torch.Tensor) -> None:
    content["optimizer_states"][0]["state"][0][name] = value


def named(content: dict[str, Any], key: str, value: object) -> None:
    next(iter(content["callbacks"].values()))[key] = value


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: momentum(c, "exp_avg", torch.zeros(1)), r"exp_avg of parameter 0 is \(1,\), expected \(2, 784\)"),
        (lambda c: momentum(c, "exp_avg_sq", torch.zeros(())), r"exp_avg_sq of parameter 0 is \(\)"),
        (lambda c: momentum(c, "step", torch.zeros(0)), r"step of parameter 0 is \(0,\)"),
        (lambda c: momentum(c, "momentum_buffer", torch.zeros(784, 2)), "momentum_buffer of parameter 0"),
        (lambda c: c["optimizer_states"][0]["state"].update({99: {}}), "no parameter 99"),
        (lambda c: named(c, "last_model_path", "/run/checkpoints/../../home/x"), "has the path"),
        (lambda c: named(c, "kth_best_model_path", "s3://bucket/x"), "has the path 's3://bucket/x'"),
        (lambda c: named(c, "best_k_models", {"simplecache::http://x": 1}), "has the path"),
        (lambda c: named(c, "best_model_path", 3), "has the path '3'"),
        (lambda c: c.update(loops=3), "its loops is of type int, expected dict"),
        (lambda c: c.pop("lr_schedulers"), "its lr_schedulers is of type NoneType, expected list"),
        (lambda c: c["mnist_cls"].update(steps="many"), "its steps is of type str, expected int"),
        (lambda c: c["mnist_cls"].update(model={"name": "fast"}), "does not fit the network 'fast'"),
    ],
)
def test_runs_that_do_not_resume(tmp_path: Path, change: Callable[[dict[str, Any]], object], words: str) -> None:
    path = write(tmp_path / "evil.ckpt", archive_of(moved(change)))
    refused(path, words, WholeCheckpoints().load_checkpoint)


def test_what_the_tests_change_was_good(tmp_path: Path) -> None:
    path = tmp_path / "good.ckpt"
    save_ckpt(path, training())
    assert WholeCheckpoints().load_checkpoint(path)["global_step"] == 1
    assert load_model(path).training is False
    assert read_ckpt(path)["mnist_cls"]["model"] == MODEL


def test_removing_a_checkpoint_removes_no_folder(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        WholeCheckpoints().remove_checkpoint(tmp_path / "folder")
    assert (tmp_path / "folder").is_dir()


@pytest.mark.parametrize("entry_point", ["predict", "train"])
def test_entry_points_say_it_in_one_line(tmp_path: Path, run: Run, entry_point: str) -> None:
    mark = tmp_path / "ran"
    write(tmp_path / "evil.ckpt", checkpoint_with(pickles(mark)["REDUCE"]))
    options = ["input=mnist:test"] if entry_point == "predict" else []
    one_line(run(entry_point, "checkpoint=evil.ckpt", *options), "evil.ckpt", MKDIR)
    assert not mark.exists()


LIMITED = """
import resource, sys
from mnist_cls import load_model
from mnist_cls.errors import InputError
load_model()
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (1000 << 20),) * 2)
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    try:
        load_model(path)
    except InputError as error:
        print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_the_worst_of_them_in_bounded_memory_and_time(tmp_path: Path) -> None:
    """The largest pickles that the limits allow, in a process with one gigabyte and one minute."""
    many = b"\x80\2](" + b"}" * 3_900_000 + b"e."
    orders = b"\x80\2](ccollections\nOrderedDict\nq\0)q\1" + b"h\0h\1R" * 700_000 + b"e."
    paths = [
        write(tmp_path / f"{number}.ckpt", checkpoint_with(pickled)) for number, pickled in enumerate([many, orders])
    ]
    command = [sys.executable, "-c", LIMITED, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    *lines, more = done.stdout.splitlines()
    assert len(lines) == len(paths), done.stdout
    assert int(more) < 900
