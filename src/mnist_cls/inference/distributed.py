"""Prediction on many cores or machines: Ray Data hands parts of the input to workers, each with a network of its own.

An extra, `pip install mnist-cls[ray]`. One reader goes through the source, cuts it into parts at the ends of chunks,
and numbers them. A worker writes the rows of a part as one Parquet file, whole under the part's name, and tells the
driver how many they are. What a part holds does not depend on who computes it: if a worker dies, Ray gives its part to
another one, which writes the same file under the same name. docs/scale.md says what it costs.
"""

import contextlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import pickle
import socket
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checkpoint import own_models
from ..errors import InputError
from ..files import expand, lock, remove_unfinished, whole_file, write_json
from .chunks import chunks_of, names_digest
from .contents import Content, Piece, Source, size_of
from .formats import FORMATS, parquet_schema, record_batch
from .partial import Progress
from .pipeline import Summary, check_apart, progress_bar, stopped_by_sigterm, summary_of
from .predictor import Predictor
from .sources import open_source
from .work import Work, progress_after
from .workers import Decoders

if TYPE_CHECKING:
    import pyarrow as pa

# Inputs of a part: at most some seconds of work, so that little has to be done again when a worker dies.
PART = 8192
# A part is full, too, with so many bytes of encoded images: it lies in memory as a whole.
_PART_BYTES = 64_000_000
# After so many deaths of workers with the same part in their hands the run is given up. Ray itself never gives up.
_MOST_DEATHS = 5
# The file that says that all parts are there. Readers of Parquet folders pass over names that begin so.
COMPLETE = "_SUCCESS"
# Under this key a part's metadata say what run it is of, and how many rows of which kind it has.
_KEY = b"mnist_cls"


@dataclass(frozen=True)
class _Job:
    """What reader and workers have to know.

    Attributes:
        input: see `predict_files`.
        output: the folder of the parts.
        work: what is to be done with each input.
        run: what must be the same in all parts.
        columns: of the parts.
        labelled: whether the source has labels.
        part_size: how many inputs a part has at least, if there are as many.
        model_file: see `own_models`.
        folder: where paths begin that are not absolute.
        done: the digests of the names in the parts that an earlier run has written.
    """

    input: str
    output: Path
    work: Work
    run: dict[str, Any]
    columns: list[str]
    labelled: bool
    part_size: int
    model_file: str | None
    folder: str
    done: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Part:
    """Inputs whose rows make one file; `chunk` and `arrays` are those of their source."""

    number: int
    pieces: list[Piece]
    chunk: int
    arrays: bool
    names: str


def predict_on_ray(
    input: str | Path,
    output: str | Path,
    work: Work,
    address: str | None = None,
    workers: int | None = None,
    part_size: int = PART,
    model_file: str | None = None,
    resume: bool = False,
) -> Summary:
    """Predict everything in `input` on a Ray cluster and write the rows as Parquet files into a folder.

    The files are `part-00000000.parquet` and so on; read in this order they have the rows in the input's order. When
    all are there, `_SUCCESS` appears. The rows are those of `predict_files`. All machines must see the input, the
    output and the checkpoint under the same paths, and have the same version of this package.

    Args:
        input: see `open_source`; standard input is none.
        output: a folder that is not there yet, or empty.
        work: with `device="auto"` workers are on the CPU; with a GPU as device each has one for itself.
        address: of a cluster that is running, "auto" for the one on this machine; None starts one here, for this run.
        workers: how many, each with a network; None: one for each CPU (or GPU) of the cluster.
        part_size: how many inputs a part has, rounded up to whole chunks.
        model_file: see `own_models`.
        resume: go on with what an earlier run has left in the folder.

    Raises:
        InputError: one of them is not there, or not what it should be; Ray is not installed, or does not answer.
        OSError: the output cannot be written.
    """
    folder = expand(output)
    _check(input, folder, workers, part_size)
    check_apart(input, folder / "part")
    work = replace(work, device="cpu" if work.device == "auto" else work.device)
    source = open_source(input, work.preprocess)
    run = {**work.identity(source), "engine": work.engine, "device": work.device, "part_size": part_size}
    run = json.loads(json.dumps(run))
    with _locked(folder):
        earlier = _earlier_parts(folder, run, resume)
        done = {number: progress.names for number, progress in earlier.items()}
        columns = work.columns(source)
        job = _Job(
            str(input), folder, work, run, columns, source.labelled, part_size, model_file, str(Path.cwd()), done
        )
        (folder / COMPLETE).unlink(missing_ok=True)
        with _cluster(address) as cpus_and_gpus, stopped_by_sigterm(), _kept(folder):
            found, seconds = _run(job, source, earlier, _worker_count(workers, work.device, cpus_and_gpus))
        _check_whole(folder, found)
        total = Progress(*(sum(column) for column in list(zip(*found.values(), strict=True))[:-1]))
        write_json(folder / COMPLETE, {"parts": len(found), "inputs": total.inputs, "errors": total.errors})
    return summary_of(total, work, seconds, sum(progress.inputs for progress in earlier.values()))


def _check(input: str | Path, folder: Path, workers: int | None, part_size: int) -> None:
    if importlib.util.find_spec("ray") is None:
        raise InputError("engine=ray: Ray is not installed; pip install 'mnist-cls[ray]'")
    if str(input) == "-":
        raise InputError("input=-: no worker can read this process's standard input; name a .txt list of paths")
    # Folders of Parquet files are often called so themselves.
    one_file = folder.name.startswith("-") or folder.suffix.lower() in FORMATS.keys() - {".parquet"}
    if one_file or folder.is_file():
        raise InputError(f"output={folder}: engine=ray writes many Parquet files; name a folder for them")
    if workers is not None and workers < 1:
        raise InputError(f"workers={workers}: expected at least 1")
    if part_size < 1:
        raise InputError(f"part_size={part_size}: expected at least 1")


def _part_name(number: int) -> str:
    return f"part-{number:08}.parquet"


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep a second run out of the folder; if the block leaves nothing in it that was not there, neither do we."""
    is_new = not folder.exists()
    path = folder / ".lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise type(error)(error.errno, f"cannot be written ({error.strerror})", str(folder)) from error
    try:
        if not lock(descriptor):
            raise InputError(f"output={folder}: another run is writing it; choose another name")
        try:
            yield
        finally:
            # And what workers that were killed have left.
            remove_unfinished(folder)
            for hidden in (path, *folder.glob(".part-*.tries")):
                hidden.unlink(missing_ok=True)
            if is_new:
                with contextlib.suppress(OSError):  # there are parts in it
                    folder.rmdir()
    finally:
        os.close(descriptor)


def _earlier_parts(folder: Path, run: dict[str, Any], resume: bool) -> dict[int, Progress]:
    """The parts that are there already."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    there = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    if there and not resume:
        raise InputError(f"output={folder}: holds {there[0].name}; choose another folder, or go on with --resume")
    found = {}
    for path in folder.glob("part-*.parquet"):
        try:
            ours = json.loads((pq.read_schema(path).metadata or {})[_KEY])
            number, begun, progress = ours["part"], ours["run"], Progress(**ours["progress"])
        except (pa.ArrowException, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: not written by engine=ray; choose another folder") from error
        for key, value in run.items():
            if begun.get(key) != value:
                raise InputError(
                    f"resume=true: {folder} was begun with {key}={begun.get(key)}, this is {key}={value};"
                    " use what it was begun with, or choose another folder"
                )
        found[number] = progress
    return found


@contextlib.contextmanager
def _kept(folder: Path) -> Iterator[None]:
    """Say what there is to go on with if the block is interrupted or fails."""
    try:
        yield
    except BaseException:
        if parts := len(list(folder.glob("part-*.parquet"))):
            print(f"{parts:,} parts are kept; the same command with --resume goes on", file=sys.stderr)
        raise


@contextlib.contextmanager
def _cluster(address: str | None) -> Iterator[dict[str, float]]:
    """Connect to a cluster, or start one; yield how many of what it has."""
    # Before Ray is imported: it tells nobody what is done with it, and keeps to its log files.
    quiet = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_BACKEND_LOG_LEVEL": "fatal",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    # Where no cluster answers, asking once takes most of a minute, and Ray asks twenty times.
    asked_once = {} if address is None else {"RAY_NUM_REDIS_GET_RETRIES": "1"}
    for name, value in {**quiet, **asked_once}.items():
        os.environ.setdefault(name, value)
    import ray
    import ray.data

    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        options["include_dashboard"] = False
    try:
        with _mute():
            ray.init(address or "local", **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        what = "Ray does not start here" if address is None else f"address={address}: no Ray cluster that can be used"
        raise InputError(f"{what} ({reason}); `ray start --head` starts one, and says its address") from error
    # Of workers that die Ray tells on standard output, which is for the summary.
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of too few parts for all workers
        try:
            yield dict(ray.cluster_resources())  # type: ignore[no-untyped-call]
        finally:
            ray.shutdown()


@contextlib.contextmanager
def _mute() -> Iterator[None]:
    """Let nothing reach the terminal: Ray's C++ code announces the level of its log there, whatever the level is."""
    sys.stderr.flush()
    terminal, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
        os.close(nowhere)


def _worker_count(workers: int | None, device: str, resources: dict[str, float]) -> int:
    kind = "CPU" if device == "cpu" else "GPU"
    there = int(resources.get(kind, 0))
    if there == 0 or (workers or 1) > there:
        raise InputError(f"workers={workers or 1}: the cluster has {there} {kind}s; expected one for each worker")
    return workers or there


def _run(job: _Job, source: Source, earlier: dict[int, Progress], workers: int) -> tuple[dict[int, Progress], float]:
    """Have all parts predicted that are not there yet.

    Returns:
        All parts, and the seconds from the first worker's first image to the last one's last.
    """
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # What the reader yields goes to a worker at once, not when 128 MB of it have come together.
    context.target_max_block_size = 1
    found, parts, times = dict(earlier), None, list[float]()
    parts_of_source = ray.data.from_items([{"input": job.input}]).map_batches(
        _read,  # type: ignore[arg-type]  # Ray's types know no further arguments
        batch_size=None,
        batch_format="pyarrow",
        fn_kwargs={"job": job},
        num_cpus=0,  # else it would wait for ever for one that the workers leave free
    )
    results = parts_of_source.map_batches(
        _Worker,
        batch_size=1,
        batch_format="pyarrow",
        fn_constructor_args=(job,),
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=1,
        num_gpus=0 if job.work.device == "cpu" else 1,
    )
    with progress_bar(source.count, sum(progress.inputs for progress in earlier.values())) as advance:
        for row in results.iter_rows():
            said = json.loads(row["said"])
            if "failed" in said:
                raise InputError(said["failed"])
            if "parts" in said:
                parts = said["parts"]
                continue
            found[said["part"]] = Progress(**said["progress"])
            times += [said["began"], said["ended"]]
            advance(said["progress"]["inputs"])
    if parts is None or set(found) != set(range(parts)):
        raise InputError(
            f"{job.output}: {len(found)} parts of {parts} came back; the same command with --resume goes on"
        )
    if parts == 0:
        raise InputError(f"input={job.input}: there is nothing in it; expected images")
    return found, max(times, default=0) - min(times, default=0)


def _check_whole(folder: Path, found: dict[int, Progress]) -> None:
    """See that all parts are here: a machine that does not share the storage has kept its own to itself."""
    there = set(os.listdir(folder))  # noqa: PTH208 (names are all we need)
    missing = sorted(number for number in found if _part_name(number) not in there)
    if missing:
        raise InputError(
            f"{folder}: {len(missing)} parts were written but are not here, {_part_name(missing[0])} first;"
            " expected a folder that all machines of the cluster share"
        )


def _read(batch: "pa.Table", job: _Job) -> Iterator["pa.Table"]:
    """Go through the source; yield its parts one by one, at last how many they are, or what went wrong."""
    number = 0
    try:
        _stand_in(job)
        for part in parts_of(open_source(job.input, job.work.preprocess), job.part_size):
            if part.number not in job.done:
                yield _message(part=part)
            elif job.done[part.number] != part.names:
                raise InputError(
                    f"resume=true: the inputs of {_part_name(part.number)} are not those of the earlier run;"
                    " choose another folder to begin anew"
                )
            number += 1
        yield _message(said={"parts": number})
    except (InputError, OSError) as error:
        yield _message(said={"failed": str(error)})


def parts_of(source: Source, size: int) -> Iterator[_Part]:
    """Cut a source into parts of `size` inputs, rounded up to whole chunks; the same source always in the same way."""
    number, rows, held = 0, 0, 0
    pieces: list[Piece] = []
    names: list[str] = []
    digest = ""
    for piece in source.pieces(0):
        pieces.append(piece)
        names += piece.names
        held += _bytes_of(piece.contents)
        if len(names) == source.chunk:  # no piece crosses the end of a chunk
            digest, rows, names = names_digest(names, digest), rows + len(names), []
            if rows >= size or held >= _PART_BYTES:
                yield _Part(number, pieces, source.chunk, source.arrays, digest)
                number, rows, held, pieces, digest = number + 1, 0, 0, [], ""
    if pieces:
        digest = names_digest(names, digest) if names else digest
        yield _Part(number, pieces, source.chunk, source.arrays, digest)


def _bytes_of(contents: np.ndarray | list[Content] | None) -> int:
    return sum(map(size_of, [contents] if isinstance(contents, np.ndarray) else contents or []))


class _Worker:
    """Predicts parts and writes their files. The network is loaded with the first of them."""

    def __init__(self, job: _Job) -> None:
        self.job = job
        self.predictor: Predictor | None = None
        # One: the others of the machine belong to the other workers.
        self.decoders = Decoders(job.work.preprocess, job.work.split, most=1)

    def __call__(self, batch: "pa.Table") -> "pa.Table":
        [row] = batch.to_pylist()
        if row["part"] is None:
            return _message(said=json.loads(row["said"]))
        try:
            # Written by our own reader a moment ago; Ray itself pickles whatever it sends.
            return _message(said=self._predict(pickle.loads(row["part"])))  # noqa: S301
        except (InputError, OSError) as error:
            return _message(said={"failed": str(error)})

    def _predict(self, part: _Part) -> dict[str, Any]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self.predictor is None:
            _stand_in(self.job)
            own_models(self.job.model_file)
            self.predictor = self.job.work.predictor()
        name = _part_name(part.number)
        tries = self.job.output / f".{name}.tries"
        with tries.open("ab") as file:
            file.write(b".")
        if tries.stat().st_size > _MOST_DEATHS:
            raise InputError(
                f"{name}: {_MOST_DEATHS} workers died with it in their hands; if memory was short, try fewer workers,"
                " a smaller --part-size or a smaller --batch-size"
            )
        began = time.time()
        work, progress = self.job.work, Progress()
        schema = parquet_schema(self.job.columns)
        batches = []
        source = Source(None, lambda start: iter(part.pieces), part.chunk, self.job.labelled, part.arrays)
        for chunk in chunks_of(source, self.decoders):
            rows = work.answer(self.predictor, chunk, self.job.labelled)
            progress = progress_after(progress, chunk, rows)
            batches.append(record_batch(rows, schema))
        about = {"part": part.number, "run": self.job.run, "progress": progress._asdict()}
        table = pa.Table.from_batches(batches, schema).replace_schema_metadata({_KEY: json.dumps(about)})
        with whole_file(self.job.output / name) as temporary:
            pq.write_table(table, temporary)
        tries.unlink(missing_ok=True)
        return {"part": part.number, "progress": progress._asdict(), "began": began, "ended": time.time()}


def _stand_in(job: _Job) -> None:
    """Stand where the driver stands, so that paths mean the same; check that this is the driver's version.

    Raises:
        InputError: this machine has no such folder, or another version of the package.
    """
    try:
        os.chdir(job.folder)
    except OSError as error:
        raise InputError(
            f"{job.folder}: {error.strerror} on {socket.gethostname()}; expected storage that all machines share"
        ) from error
    here = importlib.metadata.version("mnist_cls")
    if here != job.run["version"]:
        wanted = job.run["version"]
        raise InputError(f"mnist_cls {here} on {socket.gethostname()}; expected {wanted}, as here: install it there")


def _message(part: _Part | None = None, said: dict[str, Any] | None = None) -> "pa.Table":
    import pyarrow as pa

    content = {
        "part": pa.array([part and pickle.dumps(part, protocol=5)], pa.large_binary()),
        "said": pa.array([said and json.dumps(said)], pa.string()),
    }
    return pa.table(content)
