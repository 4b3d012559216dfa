"""Prediction on many cores or machines with Ray Data: an extra, `pip install mnist-cls[ray]`.

One reader cuts the input into numbered shards. Workers, each with a network of its own, write the rows of a shard as
one Parquet file, and report its counts to the driver. What a shard holds does not depend on the worker: if one dies,
Ray gives its shard to another, which writes the same file under the same name. docs/scale.md says how fast it is.
"""

import contextlib
import functools
import importlib.metadata
import importlib.util
import logging
import os
import pickle
import socket
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import InputError
from ..files import expand, write_json
from .decoding.pool import Decoders
from .options import PredictOptions
from .pipeline import Summary, check_apart, predict_batches, progress_bar, stopped_by_sigterm, summarize
from .predictor import Predictor, load_predictor
from .progress import Progress
from .rows import output_columns
from .sinks.formats import FORMATS, parquet_schema, record_batch
from .sinks.shards import (
    COMPLETE,
    PART_SIZE,
    Shard,
    announce_shards,
    check_complete,
    count_try,
    earlier_shards,
    open_folder,
    shard_name,
    shards_of,
    write_shard,
)
from .sources.detect import open_source

if TYPE_CHECKING:
    import pyarrow as pa

# The run is given up after this many deaths of workers with the same shard; Ray itself would try for ever.
_MOST_DEATHS = 5


@dataclass(frozen=True)
class _Job:
    """What the reader and the workers need to know.

    Attributes:
        input: see `predict_files`.
        output: folder of the shards.
        options: of the prediction.
        run: what identifies the run.
        labelled: whether the source has labels.
        part_size: see `predict_on_ray`.
        working_folder: what relative paths are relative to.
        done: digest of the names in each shard that an interrupted run has written.
    """

    input: str
    output: Path
    options: PredictOptions
    run: dict[str, Any]
    labelled: bool
    part_size: int
    working_folder: str
    done: dict[int, str]


class _Finished(NamedTuple):
    """A worker's message: it has written a shard, from `start` to `end` in seconds since the epoch."""

    number: int
    progress: Progress
    start: float
    end: float


class _ShardCount(NamedTuple):
    """The reader's last message."""

    total: int


# What travels between reader, workers and driver; an InputError ends the run.
_Message = Shard | _Finished | _ShardCount | InputError


def predict_on_ray(
    input: str | Path,
    output: str | Path,
    options: PredictOptions = PredictOptions(),
    *,
    address: str | None = None,
    workers: int | None = None,
    part_size: int = PART_SIZE,
    resume: bool = False,
) -> Summary:
    """Predict everything in `input` on a Ray cluster and write the rows as Parquet files into a folder.

    The files are `part-00000000.parquet` and so on; read in this order they have the rows in the input's order. When
    all are there, `_SUCCESS` appears. The rows are those of `predict_files`. All machines must see the input, the
    output and the checkpoint under the same paths, and have the same version of this package.

    Args:
        input: see `open_source`; not standard input.
        output: a folder, new or empty.
        options: which network predicts, and how; with `device="auto"` workers use the CPU, with a GPU as device each
            has one for itself.
        address: of a running cluster, "auto" for the one on this machine; None starts one here for this run.
        workers: number of workers; None: one for each CPU (or GPU) of the cluster.
        part_size: number of inputs in a shard, rounded up to whole batches.
        resume: continue an interrupted run of the same input and options.

    Raises:
        InputError: If the input or the checkpoint cannot be read, the options do not fit them, or Ray is not installed
            or not running.
        OSError: If the output cannot be written.
    """
    folder = expand(output)
    _check_arguments(input, folder, workers, part_size)
    check_apart(input, folder / "part")
    options = replace(options, device="cpu" if options.device == "auto" else options.device)
    source = open_source(input, options.preprocess)
    run = options.identity(source.identity)
    run = {**run, "engine": options.engine, "device": options.device, "part_size": part_size}
    with open_folder(folder):
        earlier = earlier_shards(folder, run, resume)
        done = {number: progress.names for number, progress in earlier.items()}
        job = _Job(str(input), folder, options, run, source.labelled, part_size, str(Path.cwd()), done)
        (folder / COMPLETE).unlink(missing_ok=True)
        with _cluster(address) as resources, stopped_by_sigterm(), announce_shards(folder):
            workers = _worker_count(workers, options.device, resources)
            shards, seconds = _run(job, source.count, earlier, workers)
        check_complete(folder, shards)
        total = Progress(*(sum(counts) for counts in list(zip(*shards.values(), strict=True))[:-1]))
        write_json(folder / COMPLETE, {"parts": len(shards), "inputs": total.inputs, "errors": total.errors})
    return summarize(total, options, seconds, sum(progress.inputs for progress in earlier.values()))


def _check_arguments(input: str | Path, folder: Path, workers: int | None, part_size: int) -> None:
    if importlib.util.find_spec("ray") is None:
        raise InputError("engine=ray: Ray is not installed; pip install 'mnist-cls[ray]'")
    if str(input) == "-":
        raise InputError("input=-: workers cannot read the standard input of this process; name a .txt list of paths")
    # Folders of Parquet files often have a name that ends in .parquet themselves.
    one_file = folder.name.startswith("-") or folder.suffix.lower() in FORMATS.keys() - {".parquet"}
    if one_file or folder.is_file():
        raise InputError(f"output={folder}: engine=ray writes many Parquet files; name a folder for them")
    if workers is not None and workers < 1:
        raise InputError(f"workers={workers}: expected at least 1")
    if part_size < 1:
        raise InputError(f"part_size={part_size}: expected at least 1")


@contextlib.contextmanager
def _cluster(address: str | None) -> Iterator[dict[str, float]]:
    """Connect to a cluster, or start one; yield its resources."""
    # Set before Ray is imported: no usage statistics, no messages of its C++ code.
    environment = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_BACKEND_LOG_LEVEL": "fatal",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    if address is not None:
        # If no cluster answers, one attempt takes most of a minute, and Ray makes twenty.
        environment["RAY_NUM_REDIS_GET_RETRIES"] = "1"
    for name, value in environment.items():
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
        problem = "Ray does not start here" if address is None else f"address={address}: no usable Ray cluster"
        raise InputError(f"{problem} ({reason}); `ray start --head` starts one and prints its address") from error
    # Ray reports dead workers on standard output, which is for the summary.
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about fewer shards than workers
        try:
            yield dict(ray.cluster_resources())
        finally:
            ray.shutdown()


@contextlib.contextmanager
def _mute() -> Iterator[None]:
    """Redirect standard error to nowhere: Ray's C++ code announces its log level there, whatever the level is."""
    sys.stderr.flush()
    terminal, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
        os.close(null)


def _worker_count(workers: int | None, device: str, resources: dict[str, float]) -> int:
    kind = "CPU" if device == "cpu" else "GPU"
    available = int(resources.get(kind, 0))
    if available == 0 or (workers or 1) > available:
        raise InputError(f"workers={workers or 1}: the cluster has {available} {kind}s; expected one for each worker")
    return workers or available


def _run(job: _Job, count: int | None, earlier: dict[int, Progress], workers: int) -> tuple[dict[int, Progress], float]:
    """Predict all shards that are not done; return all shards' counts, and the seconds from first to last image."""
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # A shard goes to a worker at once, not when 128 MB of them have been read.
    context.target_max_block_size = 1
    shards_and_count = ray.data.from_items([{"input": job.input}]).map_batches(
        functools.partial(_read, job=job),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=0,  # else it would wait for ever for a CPU that the workers leave free
    )
    results = shards_and_count.map_batches(
        _Worker,
        batch_size=1,
        batch_format="pyarrow",
        fn_constructor_args=(job,),
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=1,
        num_gpus=0 if job.options.device == "cpu" else 1,
    )
    shards, expected, times = dict(earlier), -1, list[float]()
    with progress_bar(count, sum(progress.inputs for progress in earlier.values())) as advance:
        for row in results.iter_rows():
            message = _unpack(row["message"])
            if isinstance(message, InputError):
                raise message
            if isinstance(message, _ShardCount):
                expected = message.total
            elif isinstance(message, _Finished):
                shards[message.number] = message.progress
                times += [message.start, message.end]
                advance(message.progress.inputs)
    if set(shards) != set(range(expected)):
        raise InputError(f"{job.output}: {len(shards)} parts of {expected} were written; continue with --resume")
    if expected == 0:
        raise InputError(f"input={job.input}: there is nothing in it; expected images")
    return shards, max(times, default=0) - min(times, default=0)


def _read(batch: "pa.Table", job: _Job) -> Iterator["pa.Table"]:
    """Go through the source; yield its shards one by one, at last their number, or what went wrong."""
    count = 0
    try:
        _enter_working_folder(job)
        for shard in shards_of(open_source(job.input, job.options.preprocess), job.part_size):
            if shard.number not in job.done:
                yield _packed(shard)
            elif job.done[shard.number] != shard.names:
                raise InputError(
                    f"resume=true: the inputs of {shard_name(shard.number)} have changed since the earlier run;"
                    " choose another folder"
                )
            count += 1
        yield _packed(_ShardCount(count))
    except (InputError, OSError) as error:
        yield _packed(InputError(str(error)))


class _Worker:
    """Predicts shards and writes their files. The network is loaded with the first of them."""

    def __init__(self, job: _Job) -> None:
        self.job = job
        self.predictor: Predictor | None = None
        # One decoder: the machine's other cores belong to other workers.
        self.decoders = Decoders(job.options.preprocess, job.options.split, most=1)

    def __call__(self, batch: "pa.Table") -> "pa.Table":
        message = _unpack(batch["message"][0].as_py())
        if not isinstance(message, Shard):
            return batch
        try:
            return _packed(self._predict(message))
        except (InputError, OSError) as error:
            return _packed(InputError(str(error)))

    def _predict(self, shard: Shard) -> _Finished:
        import pyarrow as pa

        job = self.job
        if self.predictor is None:
            _enter_working_folder(job)
            self.predictor = load_predictor(job.options)
        if count_try(job.output, shard.number) > _MOST_DEATHS:
            raise InputError(
                f"{shard_name(shard.number)}: {_MOST_DEATHS} workers died while predicting it; if memory was short, try"
                " fewer workers, a smaller --part-size or a smaller --batch-size"
            )
        start = time.time()
        source, schema = shard.source(job.labelled), parquet_schema(output_columns(job.options, job.labelled))
        predicted = list(predict_batches(source, self.decoders, self.predictor, job.options, Progress()))
        table = pa.Table.from_batches([record_batch(rows, schema) for _, rows, _ in predicted], schema)
        _, _, progress = predicted[-1]
        write_shard(job.output, shard.number, job.run, progress, table)
        return _Finished(shard.number, progress, start, time.time())


def _enter_working_folder(job: _Job) -> None:
    """Change to the driver's working folder, so that paths mean the same; check the version of this package.

    Raises:
        InputError: If this machine has no such folder, or another version.
    """
    try:
        os.chdir(job.working_folder)
    except OSError as error:
        raise InputError(
            f"{job.working_folder}: {error.strerror} on {socket.gethostname()}; expected shared storage"
        ) from error
    version, expected = importlib.metadata.version("mnist_cls"), job.run["version"]
    if version != expected:
        raise InputError(f"mnist_cls {version} on {socket.gethostname()}; install {expected} there, as here")


def _packed(message: _Message) -> "pa.Table":
    import pyarrow as pa

    return pa.table({"message": pa.array([pickle.dumps(message, protocol=5)], pa.large_binary())})


def _unpack(content: bytes) -> _Message:
    # Written by `_packed` a moment ago, in a process of the same cluster; Ray itself pickles whatever it sends.
    message: _Message = pickle.loads(content)  # noqa: S301
    return message
