#!/usr/bin/env python
"""Predict every digit in INPUT and write a row for each to OUTPUT, for pipelines: no run folders, no config.

    python scripts/predict_batch.py scans/ rows.parquet --checkpoint outputs/train/2026-11-22_20-00-00

INPUT is an image, a folder of images, a pattern ('scans/*.png'), a .txt list of paths, - (paths from standard input),
a .npy, .npz or IDX file, a .zip or .tar of images, or a Parquet or CSV file. OUTPUT ends in .csv, .jsonl, .parquet or
.npy and appears when it is whole; - is standard output as CSV, -.jsonl as JSON lines. A run that was interrupted goes
on with --resume. Exit status: 0 done; 1 done, but some rows have an error; 2 it could not run.
"""

import argparse
import os
import sys
import traceback


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
        "--engine", default="auto", help="eager (PyTorch), onnx, int8, or auto: eager, or onnx where it pays (default)"
    )
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

    # Imported here, because --help must not wait for torch.
    from mnist_cls.checkpoint import own_models
    from mnist_cls.errors import InputError
    from mnist_cls.inference import predict_files

    try:
        options = vars(arguments)
        own_models(options.pop("model_file"))
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


if __name__ == "__main__":
    sys.exit(main())
