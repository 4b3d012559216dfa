"""A user's own labelled images, of any size: what `data.dir` and `data.test_dir` name, and its parts.

The readers are those of prediction, see `open_source`.
"""

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from ..data.datasets import LabelledImages, find_idx, load_dataset
from ..errors import InputError
from ..files import expand
from ..inference.sources.archives import zip_tables
from ..inference.sources.arrays import idx_source, npy_source, npz_names, npz_source
from ..inference.sources.blocks import InputBlock, Source
from ..inference.sources.detect import open_source
from ..inference.sources.files import folder_source
from ..inference.sources.reading import file_identity
from ..inference.sources.tables import listed
from .prepared import labelled_images

Part = Literal["train", "val", "test"]
Open = Callable[[], Source]

# Names of the folders and files of each part, in lower case.
_NAMES: dict[Part, tuple[str, ...]] = {
    "train": ("train", "training", "trainingset"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing", "testset"),
}

# Names of arrays with images and with their labels, in a `.npz` or as `.npy` files in one folder.
_ARRAYS: dict[Part, tuple[tuple[str, str], ...]] = {
    "train": (("x_train", "y_train"), ("train_images", "train_labels"), ("images", "labels"), ("x", "y")),
    "val": (("x_val", "y_val"), ("val_images", "val_labels")),
    "test": (("x_test", "y_test"), ("test_images", "test_labels")),
}

_TABLES = re.compile(r".*\.((csv|tsv)(\.(gz|bz2|xz))?|zip|parquet|npz)", re.IGNORECASE)

_EXPECTED = (
    "expected a folder for each label, 0 to 9 (also below train and test), a table with a column label"
    " (.csv, .parquet), .npz or .npy with images and labels (x_train, y_train), or MNIST's IDX files"
)


def find_parts(
    path: str | Path, name: str = "mnist", key: str = "data.dir"
) -> dict[Part, Callable[[], LabelledImages]]:
    """Find labelled images for training, validation and test; images are not read yet.

    Args:
        path: one of
            - a folder with a folder for each label, 0 to 9; or with such folders below `train`, `test` and `val`;
            - a folder with IDX files, see `load_dataset`;
            - a `.npz` with the arrays x_train, y_train, x_test and y_test as Keras has them, or images and labels;
            - `.npy` files with these names: one of the images, or their folder;
            - a table with labels, or whatever else with labels `open_source` reads;
            - a folder with such files called train and test: train.csv, train-00000-of-00001.parquet.
        name: name of the dataset. Images that are no digits (Fashion-MNIST, KMNIST) must be 28x28, and are taken as
            they are; digits are brought into MNIST's form. Without any files, torchvision downloads it to the folder.
        key: name of the setting, for messages.

    Returns:
        Functions that read the images of those parts that there are; "train" if the path has one set only. They raise
        an InputError if no image of the part can be used.

    Raises:
        InputError: If there are no labelled images.
    """
    place = expand(path)
    try:
        if place.is_dir():
            idx: dict[Part, Callable[[], LabelledImages]] = {}
            for split in ("train", "test"):
                if find_idx(name, split, place) is not None:
                    idx[split] = partial(load_dataset, name, split, place)
            if idx:
                return idx
        preprocess = "none" if name in ("fashion_mnist", "kmnist") else "auto"
        parts = _in_folder(place, preprocess) if place.is_dir() else _in_file(place, preprocess)
    except InputError as error:
        raise _about(key, error) from error
    if not parts and place.is_dir() and name != "mnist":
        return {
            "train": partial(load_dataset, name, "train", place),
            "test": partial(load_dataset, name, "test", place),
        }
    if not parts:
        raise InputError(f"{key}={place}: has no labelled images; {_EXPECTED}")

    def read(part: Part) -> LabelledImages:
        title = f"{path} ({part})" if len(parts) > 1 else str(path)
        try:
            return labelled_images(parts[part], place, part, title, preprocess)
        except InputError as error:
            raise _about(key, error) from error

    return {part: partial(read, part) for part in parts}


def _about(key: str, error: InputError) -> InputError:
    """Return the error of a reader, which calls its input `input`, as that of a setting."""
    text = str(error).removeprefix("input=")
    return InputError(text if text.startswith(f"{key}=") else f"{key}={text}")


def _in_folder(folder: Path, preprocess: str) -> dict[Part, Open]:
    folders = [path for path in sorted(folder.iterdir()) if path.name[0] not in "._" and path.is_dir()]
    files = [path for path in sorted(folder.iterdir()) if path.name[0] not in "._" and path.is_file()]
    labels = [path for path in folders if re.fullmatch("[0-9]", path.name)]
    if labels:
        if others := [path.name for path in folders if path not in labels]:
            raise InputError(
                f"{folder}: has the folders {listed(others)} beside {labels[0].name}; expected digits, 0 to 9"
            )
        return {"train": partial(_label_folders, labels)}
    found: dict[Part, Open] = {}
    for part, names in _NAMES.items():
        for path in folders:
            if path.name.lower() in names and "train" in (inner := _in_folder(path, preprocess)):
                found[part] = inner["train"]
    if not found:
        found = _array_files(files, preprocess) or _tables(files, preprocess)
    if not found and len(folders) == 1 and not files:  # as archives are often unpacked
        return _in_folder(folders[0], preprocess)
    if not found and folders:
        raise InputError(f"{folder}: has the folders {listed([path.name for path in folders])}; {_EXPECTED}")
    return found


def _label_folders(folders: Sequence[Path]) -> Source:
    """Return the files below each folder, labelled by its name."""
    sources: list[tuple[int, Source]] = []
    for path in folders:
        with contextlib.suppress(InputError):  # it is empty
            sources.append((int(path.name), folder_source(path)))

    def blocks(start: int) -> Iterator[InputBlock]:
        for label, source in sources:
            for block in source.blocks(0):
                yield dataclasses.replace(block, targets=[label] * len(block))

    count = sum(source.count or 0 for _, source in sources)
    return Source(count, blocks, "labels", labelled=True)


def _array_files(files: Sequence[Path], preprocess: str) -> dict[Part, Open]:
    by_name = {path.stem.lower(): path for path in files if path.suffix == ".npy"}
    return {
        part: partial(_with_labels, npy_source, by_name[images], preprocess, by_name[labels])
        for part, pairs in _ARRAYS.items()
        for images, labels in reversed(pairs)  # the first pair has the last word
        if images in by_name and labels in by_name
    }


def _with_labels(open_pair: Callable[[Path, str, Path], Source], path: Path, preprocess: str, labels: Path) -> Source:
    source = open_pair(path, preprocess, labels)
    return dataclasses.replace(source, identity=f"{source.identity}, {file_identity(labels)}")


def _tables(files: Sequence[Path], preprocess: str) -> dict[Part, Open]:
    tables = [path for path in files if _TABLES.fullmatch(path.name)]
    found: dict[Part, Open] = {}
    for part, names in _NAMES.items():
        named = re.compile(rf"(^|[^a-z])({'|'.join(names)})([^a-z]|$)")
        several = [path for path in tables if named.search(path.name.lower())]
        if len(several) > 1 and any(path.suffix.lower() != ".parquet" for path in several):
            names_found = listed([path.name for path in several])
            raise InputError(
                f"{several[0].parent}: has {names_found}, which may hold the same images; name one of them"
            )
        sources = [open_source(path, preprocess) for path in several]
        if sources and all(source.labelled for source in sources):  # Kaggle's test.csv has no labels
            found[part] = partial(_joined, sources)
    if not found and len(tables) == 1:
        return _in_file(tables[0], preprocess)
    return found


def _joined(sources: Sequence[Source]) -> Source:
    def blocks(start: int) -> Iterator[InputBlock]:
        for source in sources:
            yield from source.blocks(0)

    counts = [source.count for source in sources]
    count = None if None in counts else sum(count or 0 for count in counts)
    identity = "\0".join(source.identity for source in sources)
    return Source(count, blocks, identity, labelled=True, arrays=all(source.arrays for source in sources))


def _in_file(path: Path, preprocess: str) -> dict[Part, Open]:
    name = path.name.lower() if path.is_file() else ""
    if name.endswith(".npz") and (found := _arrays(path, preprocess)):
        return found
    if name.endswith(".npy"):
        labels_of = dict(pair for pairs in _ARRAYS.values() for pair in pairs)
        beside = {other.stem.lower(): other for other in path.parent.glob("*.npy")}
        labels = beside.get(labels_of.get(path.stem.lower(), ""))
        if labels is None:
            raise InputError(
                f"{path}: has no labels beside it; expected images.npy and labels.npy, or x_train.npy and y_train.npy"
            )
        return {"train": partial(_with_labels, npy_source, path, preprocess, labels)}
    if name.endswith(".zip") and len(tables := zip_tables(path)) > 1:
        return _tables([path / table for table in tables], preprocess)
    labels = path.with_name(path.name.replace("images-idx3", "labels-idx1"))
    if labels != path and labels.is_file():
        return {"train": partial(_with_labels, idx_source, path, "none", labels)}
    source = open_source(path, preprocess)
    if not source.labelled:
        raise InputError(f"{path}: has no labels; {_EXPECTED}")
    return {"train": lambda: source}


def _arrays(path: Path, preprocess: str) -> dict[Part, Open]:
    by_name = {name.lower(): name for name in npz_names(path)}
    return {
        part: partial(npz_source, path, preprocess, (by_name[images], by_name[labels]))
        for part, pairs in _ARRAYS.items()
        for images, labels in reversed(pairs)
        if images in by_name and labels in by_name
    }
