"""Read digits in pipelines: plain arguments, no config.

Predicts every digit in INPUT and writes a row for each to OUTPUT:

    python -m mnist_cls.predict_batch scans/ rows.parquet --checkpoint outputs/train/2026-11-22_20-00-00

INPUT is an image, a folder of images, a pattern ('scans/*.png'), a .txt list of paths, - (paths from standard input),
a .npy, .npz or IDX file, a .zip or .tar of images, or a Parquet or CSV file (also .csv.gz, or a.zip/test.csv). OUTPUT
ends in .csv, .jsonl, .parquet or .npy and appears when it is complete; - is standard output as CSV, -.jsonl as JSON
lines. --resume continues an interrupted run. Exit status: 0 done; 1 done, but some rows have an error; 2 it could not
run.

    python -m mnist_cls.predict_batch digits.parquet rows/ --engine ray --address auto

Runs on many cores or machines with Ray (pip install 'mnist-cls[ray]'): OUTPUT is a folder of Parquet files with the
same rows, in the order of the files' names. The file _SUCCESS appears when they are all there. No row is lost or
doubled if a worker dies. All machines must see INPUT, OUTPUT and the checkpoint under the same paths (docs/scale.md).
"""

import argparse
import dataclasses
import sys

from . import __version__
from .cli.status import run_command
from .inference.options import PredictOptions
from .inference.pipeline import predict_files
from .inference.summary import Summary

# Options that only --engine ray takes.
RAY_OPTIONS = ("address", "workers", "worker_engine", "part_size")


def main() -> None:
    """Read the command line, predict, print a summary, and exit."""
    run_command(predict_and_summarize)


def predict_and_summarize() -> int:
    """Predict as the command line says, and print a summary; return 1 if some rows have an error, else 0."""
    arguments = parse()
    summary = predict(arguments)
    summary.print(arguments.output)
    return 1 if summary.errors else 0


def parse() -> argparse.Namespace:
    """Parse the command line; an error in it ends the process with status 2."""
    default = PredictOptions()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.set_defaults(**dataclasses.asdict(default))
    add = parser.add_argument
    add("--version", action="version", version=f"mnist_cls {__version__}")
    add("input", metavar="INPUT")
    add("output", metavar="OUTPUT")
    add(
        "--checkpoint",
        action="append",
        help="a .ckpt, a .safetensors, a run's folder, or the name of packaged weights; repeat it to average several",
    )
    add("--device", help=f"auto, cpu, cuda, ... (default: {default.device})")
    add("--batch-size", type=int, help="images per batch (default: 128 on the CPU, 1024 on a GPU)")
    add("--engine", help="auto: PyTorch on a GPU, else ONNX Runtime (default); eager (PyTorch), onnx, int8; or ray")
    add("--shifts", type=int, help="average over the image moved by up to this many pixels")
    add("--min-confidence", type=float, help="add a column that flags predictions with a confidence below this")
    add("--early-exit", action="store_true", help="stop at the first confident head of the network")
    add("--is-digit", action="store_true", help="add a column: does the packaged autoencoder see a digit at all?")
    add("--is-digit-by", dest="is_digit", metavar="CHECKPOINT", help="the same, with an autoencoder of your own")
    add("--preprocess", help="auto: convert any image to MNIST's form; none: take 28x28 images as they are")
    add("--split", action="store_true", help="images show rows of digits; write the digits of each row")
    add("--save-preprocessed", metavar="FOLDER", help="write what the network saw to this folder, as PNGs")
    add("--format", help="kaggle: write ImageId,Label as Kaggle's competition takes it, to a .csv or -")
    add("--resume", action="store_true", help="continue an interrupted run")
    add("--model-file", help="a Python file of your own that registers the checkpoint's network")
    ray = parser.add_argument_group("with --engine ray")
    ray.add_argument("--address", help="of a running cluster (auto: on this machine); default: start one for this run")
    ray.add_argument("--workers", type=int, help="number of workers (default: one per CPU, or per GPU)")
    ray.add_argument(
        "--worker-engine", metavar="ENGINE", help="the engine of each worker: auto (default), eager, onnx or int8"
    )
    ray.add_argument("--part-size", type=int, help="inputs per output file, in whole batches (default: 8192)")
    # argparse would take -.jsonl for an option; not with a space before it.
    arguments = parser.parse_args([" -.jsonl" if text == "-.jsonl" else text for text in sys.argv[1:]])
    arguments.output = "-.jsonl" if arguments.output == " -.jsonl" else arguments.output
    for name in RAY_OPTIONS:
        if getattr(arguments, name) is not None and arguments.engine != "ray":
            parser.error(f"--{name.replace('_', '-')} {getattr(arguments, name)}: needs --engine ray")
    for name in ("save_preprocessed", "format"):
        if getattr(arguments, name) is not None and arguments.engine == "ray":
            parser.error(f"--{name.replace('_', '-')} and --engine ray exclude each other; leave one of them out")
    return arguments


def predict(arguments: argparse.Namespace) -> Summary:
    """Predict as the command line says."""
    on_ray = arguments.engine == "ray"
    values = vars(arguments)
    named = {field.name: values[field.name] for field in dataclasses.fields(PredictOptions)}
    if on_ray:
        named["engine"] = arguments.worker_engine or "auto"
    options = PredictOptions(**named)
    if not on_ray:
        for_files = {name: values[name] for name in ("save_preprocessed", "resume", "format")}
        return predict_files(arguments.input, arguments.output, options, **for_files)
    from .inference.ray import predict_on_ray

    for_ray = {name: values[name] for name in ("address", "workers", "part_size") if values[name] is not None}
    return predict_on_ray(arguments.input, arguments.output, options, resume=arguments.resume, **for_ray)


if __name__ == "__main__":
    main()
