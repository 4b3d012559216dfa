"""Accuracy on a folder of labelled photos, scans and drawings of digits, compared with alternatives."""

import argparse
import csv
import io
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from benchmarks.measure import Row
from benchmarks.scans import WEIGHTS, read_row
from mnist_cls import Predictor
from mnist_cls.checkpoints.find import DETECTOR
from mnist_cls.errors import InputError, shortened
from mnist_cls.files import expand, whole_file
from mnist_cls.inference.engines.eager import EagerDetector
from mnist_cls.preprocessing.decode import decode
from mnist_cls.preprocessing.prepare import prepare_all


class Reading(NamedTuple):
    """The result for an image: the text, empty if it was refused; the reason; the network's input, (K, 28, 28)."""

    text: str
    reason: str = ""
    seen: np.ndarray | None = None


Images = dict[Path, bytes]


def digits(arguments: argparse.Namespace) -> list[Row]:
    """Accuracy on the images in FOLDER, with labels from labels.csv (path,label) or from names (a_7.png, 7/a.png)."""
    if arguments.folder is None:
        raise InputError("digits needs a folder of labelled images: scripts/benchmark.py digits FOLDER")
    labels = find_labels(expand(arguments.folder))
    rows: list[Row] = []
    wrong: list[tuple[Path, str, Reading, str]] = []
    for name, split in (("single digits", False), ("rows of digits", True)):
        images = {path: path.read_bytes() for path, label in labels.items() if (len(label) > 1) == split}
        if not images:
            continue
        for reader, read in _readers(arguments.checkpoint, split).items():
            readings = read(images)
            found = [(path, labels[path], reading) for path, reading in zip(images, readings, strict=True)]
            refused = Counter(reading.reason for _, _, reading in found if not reading.text)
            correct = sum(label == reading.text for _, label, reading in found)
            rows.append(
                {
                    "images": name,
                    "count": len(images),
                    "read by": reader,
                    "correct": round(correct / len(images), 4),
                    "wrong": len(images) - correct - refused.total(),
                    "refused": refused.total(),
                }
            )
            for reason, count in refused.most_common():
                if reason:
                    print(f"{name}, {reader}: {count} refused: {reason}")
            if reader in ([arguments.checkpoint] if arguments.checkpoint else WEIGHTS):
                wrong += [(*one, reader) for one in found if one[1] != one[2].text]
        if not split:
            rows.append({"images": name, "count": len(images), "read by": "is_digit", "refused": _no_digits(images)})
    if wrong:
        _draw_sheet(wrong, Path(arguments.plot or "digits.png"))
    return rows


def find_labels(folder: Path) -> dict[Path, str]:
    """Return the images in a folder with their labels, one digit or several.

    Raises:
        InputError: If there are none, or a label is not a number.
    """
    table = folder / "labels.csv"
    if table.is_file():
        with table.open(newline="", encoding="utf-8-sig") as file:
            pairs = [(folder / row["path"], row["label"].strip()) for row in csv.DictReader(file)]
    else:
        pairs = [(path, _label_of(path)) for path in sorted(folder.rglob("*")) if path.is_file()]
    labels = {path: label for path, label in pairs if label}
    if not labels:
        raise InputError(f"{folder}: no labelled images; expected labels.csv (path,label), or names such as a_7.png")
    if not table.is_file():
        path, label = next(iter(labels.items()))
        named = path.relative_to(folder)
        print(f"labels are from names, such as {label} from {named}; a labels.csv (path,label) would take precedence")
    for path, label in labels.items():
        if not re.fullmatch("[0-9]+", label):
            raise InputError(f"{path}: label {label!r}; expected digits")
    return labels


def _label_of(path: Path) -> str:
    named = re.fullmatch(r"(?:.*[_-])?([0-9]+)", path.stem)
    return path.parent.name if re.fullmatch("[0-9]", path.parent.name) else named[1] if named else ""


def _readers(checkpoint: str | None, split: bool) -> dict[str, Callable[[Images], list[Reading]]]:
    names = [checkpoint] if checkpoint else WEIGHTS
    predictors = {name: Predictor(name, preprocess="none") for name in names}

    def by_package(predict: Predictor) -> Callable[[Images], list[Reading]]:
        def read(images: Images) -> list[Reading]:
            readings = []
            for found in prepare_all(list(images.values()), split=split, all_cuts=True):
                if isinstance(found, InputError):
                    readings.append(Reading("", _reason(found)))
                else:
                    text, seen = read_row(predict, found)
                    readings.append(Reading(text, "", seen))
            return readings

        return read

    def by_resizing(images: Images) -> list[Reading]:
        return [_read_resized(predictors[names[0]], content) for content in images.values()]

    readers = {name: by_package(predict) for name, predict in predictors.items()}
    if not split:
        readers[f"{names[0]}, image only resized"] = by_resizing
    if shutil.which("tesseract"):
        readers["Tesseract"] = lambda images: _by_tesseract(images, split)
    else:
        print("Tesseract is skipped, because it is not installed (Debian: apt-get install tesseract-ocr)")
    return readers


def _reason(error: InputError) -> str:
    """Return why an image was refused, without its numbers, so that equal reasons can be counted."""
    return re.sub(r"\d+(\.\d+)?", "N", shortened(error, 100))


def _read_resized(predict: Predictor, content: bytes) -> Reading:
    try:
        image = _resized(content)[None]
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        return Reading("", shortened(error, 100))
    return Reading(str(predict(image).labels[0]), "", image)


def _resized(content: bytes) -> np.ndarray:
    """Convert an image as tutorials do: to grey, resized to 28x28, inverted if its border is light; uint8 (28, 28)."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    pixels = np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB").convert("L").resize((28, 28)))
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return 255 - pixels if np.median(border) > 127 else pixels


def _no_digits(images: Images) -> int:
    """Return how many of the readable images the packaged autoencoder takes for something other than a digit."""
    found = [one.images for one in prepare_all(list(images.values())) if not isinstance(one, InputError)]
    return int((~EagerDetector(DETECTOR, "cpu")(np.concatenate(found))).sum()) if found else 0


def _by_tesseract(images: Images, split: bool) -> list[Reading]:
    options = ["--psm", "7" if split else "10", "-c", "tessedit_char_whitelist=0123456789"]

    def read(path: Path) -> Reading:
        done = subprocess.run(["tesseract", path, "-", *options], capture_output=True, text=True, check=False)
        return Reading("".join(done.stdout.split()))

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(read, images))


def _draw_sheet(wrong: list[tuple[Path, str, Reading, str]], file: Path) -> None:
    """Draw each image that was not read correctly, what the network saw of it, what it read, and the network's name."""
    side, columns = 112, 4
    width = 2 * side + 140
    rows = -(-len(wrong) // columns)
    sheet = Image.new("L", (columns * width, rows * (side + 40)), 255)
    font = ImageFont.load_default(12)
    draw = ImageDraw.Draw(sheet)
    for number, (path, label, reading, reader) in enumerate(wrong):
        left, top = number % columns * width, number // columns * (side + 40)
        try:
            page = Image.fromarray(decode(path.read_bytes(), 2 * side).grey)
            page.thumbnail((width // 2, side))
            sheet.paste(page, (left, top))
        except InputError:
            pass  # the reason is drawn below
        if reading.seen is not None:
            seen = Image.fromarray(np.concatenate(list(reading.seen), 1))
            seen.thumbnail((width // 2 - 8, side))
            sheet.paste(seen if len(reading.seen) > 1 else seen.resize((side, side)), (left + width // 2, top))
        text = f"{label} read as {reading.text}" if reading.text else f"{label}: {reading.reason[:52]}"
        draw.text((left, top + side + 2), f"{path.name[:28]}, {reader}", 0, font)
        draw.text((left, top + side + 16), text, 0, font)
    with whole_file(file) as temporary:
        sheet.save(temporary, "PNG")
    images = len({path for path, *_ in wrong})
    print(f"{images} images not read correctly by one of the networks: {file}")
