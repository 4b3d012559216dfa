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

from ..checkpoints.build import load_user_models
from ..errors import InputError
from ..files import expand, write_json
from .decoding.batches import chunks_of
from .decoding.pool import Decoders
from .options import PredictOptions, progress_after
from .pipeline import Summary, check_apart, progress_bar, stopped_by_sigterm, summary_of
from .predictor import Predictor
from .progress import Progress
from .sinks.formats import FORMATS, parquet_schema, record_batch
from .sinks.shards import (
    COMPLETE,
    PART,
    Shard,
    check_whole,
    count_try,
    earlier_shards,
    keeping,
    locked,
    shard_name,
    shards_of,
    write_shard,
)
from .sources.blocks import Source
from .sources.detect import open_source

if TYPE_CHECKING:
    import pyarrow as pa


# After so many deaths of workers with the same part in their hands the run is given up. Ray itself never gives up.
_MOST_DEATHS = 5


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
        model_file: see `load_user_models`.
        folder: where paths begin that are not absolute.
        done: the digests of the names in the parts that an earlier run has written.
    """

    input: str
    output: Path
    work: PredictOptions
    run: dict[str, Any]
    columns: list[str]
    labelled: bool
    part_size: int
    model_file: str | None
    folder: str
    done: dict[int, str] = field(default_factory=dict)


def predict_on_ray(
    input: str | Path,
    output: str | Path,
    work: PredictOptions,
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
        model_file: see `load_user_models`.
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
    with locked(folder):
        earlier = earlier_shards(folder, run, resume)
        done = {number: progress.names for number, progress in earlier.items()}
        columns = work.columns(source)
        job = _Job(
            str(input), folder, work, run, columns, source.labelled, part_size, model_file, str(Path.cwd()), done
        )
        (folder / COMPLETE).unlink(missing_ok=True)
        with _cluster(address) as cpus_and_gpus, stopped_by_sigterm(), keeping(folder):
            found, seconds = _run(job, source, earlier, _worker_count(workers, work.device, cpus_and_gpus))
        check_whole(folder, found)
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


def _read(batch: "pa.Table", job: _Job) -> Iterator["pa.Table"]:
    """Go through the source; yield its parts one by one, at last how many they are, or what went wrong."""
    number = 0
    try:
        _stand_in(job)
        for part in shards_of(open_source(job.input, job.work.preprocess), job.part_size):
            if part.number not in job.done:
                yield _message(part=part)
            elif job.done[part.number] != part.names:
                raise InputError(
                    f"resume=true: the inputs of {shard_name(part.number)} are not those of the earlier run;"
                    " choose another folder to begin anew"
                )
            number += 1
        yield _message(said={"parts": number})
    except (InputError, OSError) as error:
        yield _message(said={"failed": str(error)})


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

    def _predict(self, part: Shard) -> dict[str, Any]:
        import pyarrow as pa

        if self.predictor is None:
            _stand_in(self.job)
            load_user_models(self.job.model_file)
            self.predictor = self.job.work.predictor()
        if count_try(self.job.output, part.number) > _MOST_DEATHS:
            raise InputError(
                f"{shard_name(part.number)}: {_MOST_DEATHS} workers died with it in their hands; if memory was short,"
                " try fewer workers, a smaller --part-size or a smaller --batch-size"
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
        table = pa.Table.from_batches(batches, schema)
        write_shard(self.job.output, part.number, self.job.run, progress, table)
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


def _message(part: Shard | None = None, said: dict[str, Any] | None = None) -> "pa.Table":
    import pyarrow as pa

    content = {
        "part": pa.array([part and pickle.dumps(part, protocol=5)], pa.large_binary()),
        "said": pa.array([said and json.dumps(said)], pa.string()),
    }
    return pa.table(content)
