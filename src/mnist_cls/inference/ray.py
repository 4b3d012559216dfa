"""Prediction on many cores or machines with Ray: an extra, `pip install mnist-cls[ray]`.

This process cuts the input into numbered shards. Workers, Ray actors with a network each, write the rows of a shard as
one Parquet file and return its counts. What a shard holds does not depend on the worker: if one dies, Ray restarts it
and repeats the shard, which becomes the same file under the same name. docs/scale.md says how fast it is.
"""

import contextlib
import importlib.metadata
import importlib.util
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import InputError, first_line
from ..files import expand, write_json
from .decoding.pool import Decoders
from .options import PredictOptions
from .pipeline import check_apart, predict_batches, stopped_by_sigterm
from .predictor import Predictor, load_predictor
from .progress import Progress
from .progress_bar import progress_bar
from .rows import output_columns
from .sinks.formats import FORMATS, parquet_schema, record_batch
from .sinks.shards import (
    COMPLETE,
    PART_SIZE,
    Shard,
    announce_shards,
    check_complete,
    earlier_shards,
    open_folder,
    shard_name,
    shards_of,
    write_shard,
)
from .sources.blocks import Source
from .sources.detect import open_source
from .summary import Summary, summarize

# The run fails when this many workers have died while predicting the same shard.
_MOST_DEATHS = 5


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

    The files are `part-00000000.parquet` and so on; read in this order, they have the rows in the input's order. When
    all are there, `_SUCCESS` appears. The rows are the same as those of `predict_files`. All machines must see the
    input, the output and the checkpoint under the same paths, and have the same version of this package.

    Args:
        input: see `open_source`.
        output: a folder, new or empty.
        options: which networks predict, and how. `device="auto"` is the CPU; with a GPU as the device, each worker has
            one for itself.
        address: of a running cluster, or "auto" for the one on this machine; None starts one here for this run.
        workers: number of workers; None: one for each CPU (or GPU) of the cluster.
        part_size: number of inputs in a shard, rounded up to whole batches.
        resume: continue an interrupted run of the same input and options.

    Raises:
        InputError: If the input or the checkpoint cannot be read, the options do not fit them, or Ray is not installed
            or not running.
        OSError: If the output cannot be written.
    """
    folder = expand(output)
    _check_arguments(folder, workers, part_size)
    check_apart(input, folder / "part")
    options = replace(options, device="cpu" if options.device == "auto" else options.device)
    source = open_source(input, options.preprocess)
    run = options.identity(source.identity)
    run = {**run, "engine": options.engine, "device": options.device, "part_size": part_size}
    with open_folder(folder):
        earlier = earlier_shards(folder, run, resume)
        (folder / COMPLETE).unlink(missing_ok=True)
        with _cluster(address), stopped_by_sigterm(), announce_shards(folder):
            actors = _start_workers(workers, options, folder, run, source.labelled, Path.cwd())
            shards, seconds = _run(source, part_size, earlier, actors)
        if not shards:
            raise InputError(f"input={input}: is empty; expected images")
        check_complete(folder, shards)
        total = Progress(*(sum(counts) for counts in list(zip(*shards.values(), strict=True))[:-1]))
        write_json(folder / COMPLETE, {"parts": len(shards), "inputs": total.inputs, "errors": total.errors})
    return summarize(total, options, seconds, sum(progress.inputs for progress in earlier.values()))


def _check_arguments(folder: Path, workers: int | None, part_size: int) -> None:
    if importlib.util.find_spec("ray") is None:
        raise InputError("engine=ray: Ray is not installed; pip install 'mnist-cls[ray]'")
    # .parquet is allowed: folders of Parquet files often have such a name themselves.
    one_file = folder.name.startswith("-") or folder.suffix.lower() in FORMATS.keys() - {".parquet"}
    if one_file or folder.is_file():
        raise InputError(f"output={folder}: engine=ray writes many Parquet files; name a folder for them")
    if workers is not None and workers < 1:
        raise InputError(f"workers={workers}: expected at least 1")
    if part_size < 1:
        raise InputError(f"part_size={part_size}: expected at least 1")


@contextlib.contextmanager
def _cluster(address: str | None) -> Iterator[None]:
    """Connect to a cluster, or start one."""
    # Set before Ray is imported: no usage statistics, no messages of its C++ code, no warning about visible GPUs, and
    # no fork handlers of gRPC, which sometimes kill the processes that decode.
    environment = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_BACKEND_LOG_LEVEL": "fatal",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "GRPC_ENABLE_FORK_SUPPORT": "0",
    }
    if address is not None:
        # If no cluster answers, one attempt takes most of a minute, and Ray makes twenty.
        environment["RAY_NUM_REDIS_GET_RETRIES"] = "1"
    for name, value in environment.items():
        os.environ.setdefault(name, value)
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        options["include_dashboard"] = False
    try:
        with _mute():
            ray.init(address or "local", **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = first_line(error)[:200]
        problem = "Ray does not start here" if address is None else f"address={address}: no usable Ray cluster"
        raise InputError(f"{problem} ({reason}); `ray start --head` starts a cluster, prints its address") from error
    # Ray reports dead workers on standard output, which is for the summary, until it is shut down.
    with contextlib.redirect_stdout(sys.stderr):
        try:
            yield
        finally:
            ray.shutdown()


@contextlib.contextmanager
def _mute() -> Iterator[None]:
    """Discard standard error: Ray's C++ code announces its log level there, whatever the level is."""
    sys.stderr.flush()
    terminal, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
        os.close(null)


def _start_workers(count: int | None, options: PredictOptions, *arguments: Any) -> list[Any]:
    """Start `count` actors, or one for each CPU (or GPU) of the cluster; `arguments` are passed on to `_Worker`."""
    import ray

    kind = "CPU" if options.device == "cpu" else "GPU"
    available = int(ray.cluster_resources().get(kind, 0))
    if available == 0 or (count or 1) > available:
        raise InputError(f"workers={count or 1}: the cluster has {available} {kind}s; expected one for each worker")
    gpus, retries = int(kind == "GPU"), _MOST_DEATHS - 1
    actor = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=-1, max_task_retries=retries)(_Worker)
    return [actor.remote(options, *arguments) for _ in range(count or available)]


def _run(
    source: Source, part_size: int, earlier: dict[int, Progress], workers: list[Any]
) -> tuple[dict[int, Progress], float]:
    """Predict the shards that an interrupted run has not written.

    Returns:
        The counts of all shards by number, and the seconds from the first image to the last.
    """
    import ray
    from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError

    idle, running = list(workers), dict[Any, tuple[Any, int]]()
    shards, times = dict[int, Progress](), list[float]()

    def collect() -> int:
        """Wait for a shard; return the number of its inputs."""
        [result], _ = ray.wait(list(running), num_returns=1)
        worker, number = running.pop(result)
        try:
            shards[number], start, end = ray.get(result)
        except RayTaskError as error:
            raise error.cause from error
        except (RayActorError, OutOfMemoryError) as error:
            raise InputError(
                f"{shard_name(number)}: {_MOST_DEATHS} workers died while predicting it; if memory was short, try"
                " fewer workers, a smaller --part-size or a smaller --batch-size"
            ) from error
        times.extend([start, end])
        idle.append(worker)
        return shards[number].inputs

    with progress_bar(source.count, sum(progress.inputs for progress in earlier.values())) as advance:
        for shard in shards_of(source, part_size):
            if shard.number in earlier:
                if shard.names != earlier[shard.number].names:
                    raise InputError(
                        f"resume=true: the inputs of {shard_name(shard.number)} have changed since the earlier run;"
                        " choose another folder"
                    )
                shards[shard.number] = earlier[shard.number]
                continue
            content = ray.put(shard)  # while all workers are busy
            if not idle:
                advance(collect())
            worker = idle.pop()
            running[worker.predict.remote(content)] = worker, shard.number
        while running:
            advance(collect())
    if earlier.keys() - shards.keys():
        raise InputError("resume=true: the input has become shorter since the earlier run; choose another folder")
    return shards, max(times, default=0) - min(times, default=0)


class _Worker:
    """Predicts shards and writes their files. The network is loaded when the first shard arrives."""

    def __init__(
        self, options: PredictOptions, folder: Path, run: dict[str, Any], labelled: bool, working_folder: Path
    ) -> None:
        self.folder, self.options, self.run, self.labelled = folder, options, run, labelled
        self.working_folder = working_folder
        self.predictor: Predictor | None = None
        # One decoder: the machine's other cores belong to other workers.
        self.decoders = Decoders(options.preprocess, options.split, most=1)

    def predict(self, shard: Shard) -> tuple[Progress, float, float]:
        """Write the rows of a shard; return its counts, and its start and end in seconds since the epoch."""
        import pyarrow as pa

        if self.predictor is None:
            self._enter_working_folder()
            self.predictor = load_predictor(self.options)
        start = time.time()
        source = Source(None, lambda start: iter(shard.blocks), "", self.labelled, shard.arrays)
        schema = parquet_schema(output_columns(self.options, self.labelled))
        predicted = list(predict_batches(source, self.decoders, self.predictor, self.options, Progress()))
        table = pa.Table.from_batches([record_batch(rows, schema) for _, rows, _ in predicted], schema)
        _, _, progress = predicted[-1]
        write_shard(self.folder, shard.number, self.run, progress, table)
        return progress, start, time.time()

    def _enter_working_folder(self) -> None:
        """Change to the driver's working folder, so that relative paths mean the same; check this package's version."""
        host = socket.gethostname()
        try:
            os.chdir(self.working_folder)
        except OSError as error:
            raise InputError(f"{self.working_folder}: {error.strerror} on {host}; expected shared storage") from error
        version, expected = importlib.metadata.version("mnist_cls"), self.run["version"]
        if version != expected:
            raise InputError(f"mnist_cls {version} on {host}, but {expected} here; install the same version on both")
