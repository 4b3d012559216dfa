#!/usr/bin/env python
"""Predict every digit in INPUT and write a row for each to OUTPUT, for pipelines: no run folders, no config.

    python scripts/predict_batch.py scans/ rows.parquet --checkpoint outputs/train/2026-11-22_20-00-00

INPUT is an image, a folder of images, a pattern ('scans/*.png'), a .txt list of paths, - (paths from standard input),
a .npy, .npz or IDX file, a .zip or .tar of images, or a Parquet or CSV file. OUTPUT ends in .csv, .jsonl, .parquet or
.npy and appears when it is whole; - is standard output as CSV, -.jsonl as JSON lines. A run that was interrupted goes
on with --resume. Exit status: 0 done; 1 done, but some rows have an error; 2 it could not run.

    python scripts/predict_batch.py digits.parquet rows/ --engine ray --address auto

On many cores or machines, by Ray Data (pip install 'mnist-cls[ray]'): OUTPUT is a folder of Parquet files whose rows,
in the order of the files' names, are the same, and _SUCCESS lies in it when they are all there. A worker that dies
loses and doubles no row. All machines must see INPUT, OUTPUT and the checkpoint under the same paths (docs/scale.md).
"""

import argparse
import os
import sys
import traceback
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mnist_cls.inference.pipeline import Summary


def main() -> int:
    """Read the command line, predict, print a summary; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", metavar="INPUT")
    parser.add_argument("output", metavar="OUTPUT")
    parser.add_argument(
        "--checkpoint",
        action="append",
        help="a .ckpt, a .safetensors, a run's folder, or the name of shipped weights; several times: their average",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ... (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, help="images at once (default: 256 on the CPU, 1024 on a GPU)")
    parser.add_argument(
        "--engine",
        default="auto",
        help="eager (PyTorch), onnx, int8, or auto: eager, or onnx where it pays (default); or ray: many workers",
    )
    ray = parser.add_argument_group("with --engine ray")
    ray.add_argument("--address", help="a cluster that is running (auto: this machine's); default: one for this run")
    ray.add_argument("--workers", type=int, help="each with a network of its own (default: one a CPU, or a GPU)")
    ray.add_argument("--worker-engine", metavar="ENGINE", help="what computes there: eager (default), onnx or int8")
    ray.add_argument("--part-size", type=int, help="inputs in an output file, in whole chunks (default: 8192)")
    parser.add_argument("--shifts", type=int, default=0, help="average over the image moved by up to so many pixels")
    parser.add_argument("--min-confidence", type=float, help="add a column: is the network less sure than this?")
    parser.add_argument("--early-exit", action="store_true", help="let images leave at the first head that is sure")
    parser.add_argument(
        "--is-digit", action="store_true", help="add a column: is it a digit at all? The package's autoencoder tells"
    )
    parser.add_argument(
        "--is-digit-by", dest="is_digit", metavar="CHECKPOINT", help="the same, told by an autoencoder of your own"
    )
    parser.add_argument("--preprocess", default="auto", help="auto: any image; none: 28x28 as they are")
    parser.add_argument("--split", action="store_true", help="images are rows of digits; write what they read")
    parser.add_argument("--save-preprocessed", metavar="FOLDER", help="write what the network saw there, as PNGs")
    parser.add_argument("--resume", action="store_true", help="go on with an earlier run that was interrupted")
    parser.add_argument("--model-file", help="a Python file of your own that registers the checkpoint's network")
    # Behind a space argparse does not take this one for an option.
    arguments = parser.parse_args([" -.jsonl" if text == "-.jsonl" else text for text in sys.argv[1:]])
    arguments.output = "-.jsonl" if arguments.output == " -.jsonl" else arguments.output
    if arguments.batch_size is not None and arguments.batch_size < 1:
        parser.error(f"--batch-size {arguments.batch_size}: expected at least 1")
    for_ray = {name: getattr(arguments, name) for name in ("address", "workers", "worker_engine", "part_size")}
    for name, value in for_ray.items():
        delattr(arguments, name)
        if value is not None and arguments.engine != "ray":
            parser.error(f"--{name.replace('_', '-')} {value}: goes with --engine ray")
    if arguments.save_preprocessed and arguments.engine == "ray":
        parser.error("--save-preprocessed does not go with --engine ray; leave one of them out")

    # Imported here, because --help must not wait for torch.
    from mnist_cls.checkpoints.build import load_user_models
    from mnist_cls.errors import InputError
    from mnist_cls.inference.pipeline import predict_files

    try:
        options = dict(vars(arguments))
        load_user_models(options.get("model_file"))
        if arguments.engine == "ray":
            summary = _predict_on_ray(options, {name: value for name, value in for_ray.items() if value is not None})
        else:
            options.pop("model_file")
            summary = predict_files(**options)
    except BrokenPipeError:  # `... | head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception:
        traceback.print_exc()
        return 2  # Python's own status, 1, would say that the work was done
    if arguments.output.startswith("-"):
        print(summary, file=sys.stderr)
    else:
        print(f"{summary} -> {arguments.output}")
    return 1 if summary.errors else 0


def _predict_on_ray(options: dict[str, Any], for_ray: dict[str, Any]) -> "Summary":
    """Predict by Ray, with the script's options, and those of them that are only for it."""
    from mnist_cls.inference.options import PredictOptions
    from mnist_cls.inference.ray import predict_on_ray

    for_all = {name: options.pop(name) for name in ("input", "output", "model_file", "resume")}
    options.pop("save_preprocessed")
    work = PredictOptions(**{**options, "engine": for_ray.pop("worker_engine", "eager")})
    return predict_on_ray(work=work, **for_all, **for_ray)


if __name__ == "__main__":
    sys.exit(main())
