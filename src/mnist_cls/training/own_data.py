"""A user's own labelled images, of any size: what `data.dir` and `data.test_dir` name, and its parts.

The readers are those of prediction, see `open_source`.
"""

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from ..data.datasets import LabelledImages, Split, find_idx, is_downloaded, load_dataset, shows_digits
from ..errors import InputError
from ..files import expand
from ..inference.sources.archives import zip_tables
from ..inference.sources.arrays import labels_of, npy_source, npz_names, npz_source
from ..inference.sources.blocks import InputBlock, Source
from ..inference.sources.detect import open_source
from ..inference.sources.files import folder_source, has_label_folders
from ..inference.sources.tables import listed
from .prepared import labelled_images

Part = Literal["train", "val", "test"]
Parts = dict[Part, Callable[[], LabelledImages]]
Sources = dict[Part, Callable[[], Source]]

# How folders, files and arrays of each part are called, in lower case: train, mnist_train.csv, x_train.
_NAMES: dict[Part, str] = {"train": "train(ing)?(set)?", "val": "val(id|idation)?", "test": "test(ing)?(set)?"}

_TABLES = re.compile(r".*\.((csv|tsv)(\.(gz|bz2|xz))?|zip|parquet|npz)", re.IGNORECASE)


def find_parts(path: str | Path, name: str = "mnist", key: str = "data.dir") -> Parts:
    """Find labelled images for training, validation and test; images are not read yet.

    Args:
        path: a folder with a folder for each label, 0 to 9, perhaps below `train`, `test` and `val`; a file with labels
            that `open_source` reads; a folder with such files called train and test, with `.npy` or with IDX files. For
            all forms see docs/data.md.
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
    preprocess = "auto" if shows_digits(name) else "none"
    splits: tuple[Split, ...] = ("train", "test")
    official: Parts = {split: partial(load_dataset, name, split, place) for split in splits}
    if is_downloaded(name, place):
        return official
    idx: Parts = {split: official[split] for split in splits if find_idx(name, split, place)}
    if idx:
        return idx
    try:
        parts = _in_folder(place, preprocess) if place.is_dir() else _in_file(place, preprocess)
    except InputError as error:
        raise _about(key, error) from error
    if not parts and place.is_dir() and name != "mnist":
        return official
    if not parts:
        raise InputError(
            f"{key}={place}: has no labelled images; expected a folder for each label, 0 to 9, perhaps below train"
            " and test; or one file called train: .csv, .parquet, .npz"
        )

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


def _in_folder(folder: Path, preprocess: str) -> Sources:
    if has_label_folders(folder):
        return {"train": partial(folder_source, folder)}
    inside = [path for path in sorted(folder.iterdir()) if path.name[0] not in "._"]
    folders, files = [path for path in inside if path.is_dir()], [path for path in inside if path.is_file()]
    arrays = {path.stem: path for path in files if path.suffix == ".npy"}
    found = (
        _in_folders(folders, preprocess)
        or _arrays(folder, arrays, lambda name, labels: npy_source(arrays[name], preprocess, arrays[labels]))
        or _tables(folder, [path for path in files if _TABLES.fullmatch(path.name)], preprocess)
    )
    if not found and len(folders) == 1 and not files:  # as archives are often unpacked
        return _in_folder(folders[0], preprocess)
    if not found and folders:
        others = [path.name for path in folders if not re.fullmatch("[0-9]", path.name)]
        raise InputError(
            f"{folder}: has the folders {listed(others)}; expected one for each label, called 0 to 9, and no others;"
            " or such folders below train, val and test"
        )
    return found


def _in_file(path: Path, preprocess: str) -> Sources:
    kind = path.suffix.lower() if path.is_file() else ""
    if kind == ".npz":
        found = _arrays(path, npz_names(path), lambda name, labels: npz_source(path, preprocess, name))
        if found:
            return found
    if kind == ".npy":
        beside = {other.stem: other for other in path.parent.glob("*.npy")}
        labels = labels_of(path.stem, beside)
        if labels is None:
            raise InputError(
                f"{path}: has no labels beside it; expected images.npy and labels.npy, or x_train.npy and y_train.npy"
            )
        return {"train": partial(npy_source, path, preprocess, beside[labels])}
    if kind == ".zip" and len(tables := zip_tables(path)) > 1:
        return _tables(path, [path / table for table in tables], preprocess)
    source = open_source(path, preprocess)
    if not source.labelled:
        raise InputError(f"{path}: has no labels; expected a table with a column label, or arrays of images and labels")
    return {"train": lambda: source}


def _by_part(names: Collection[str]) -> dict[Part, list[str]]:
    """Return the names of each part; those that name none, or several such as train_test.csv, are left out."""
    found: dict[Part, list[str]] = {}
    for name in names:
        parts = [part for part, words in _NAMES.items() if re.search(f"(?<![a-z])({words})(?![a-z])", name.lower())]
        if len(parts) == 1:
            found.setdefault(parts[0], []).append(name)
    return found


def _only(place: Path, names: Sequence[str]) -> str:
    if len(names) > 1:
        raise InputError(f"{place}: has {listed(names)}, which may hold the same images; name one of them")
    return names[0]


def _in_folders(folders: Sequence[Path], preprocess: str) -> Sources:
    """Return the images in the folder of each part, if they are labelled."""
    found: Sources = {}
    for part, names in _by_part([path.name for path in folders]).items():
        place = folders[0].parent
        inside = _in_folder(place / _only(place, names), preprocess)
        if "train" in inside:
            found[part] = inside["train"]
    return found


def _arrays(place: Path, names: Collection[str], opened: Callable[[str, str], Source]) -> Sources:
    """Return the arrays of each part that have labels."""
    labels = {name: its for name in names if (its := labels_of(name, names))}
    parts = _by_part(labels)
    if labels and not parts:
        parts["train"] = ["images"] if "images" in labels else [*labels]
    chosen = {part: _only(place, several) for part, several in parts.items()}
    return {part: partial(opened, name, labels[name]) for part, name in chosen.items()}


def _tables(place: Path, tables: Sequence[Path], preprocess: str) -> Sources:
    """Return the tables of each part, if they have labels: Kaggle's test.csv has none."""
    by_name = {path.relative_to(place).as_posix(): path for path in tables}
    parts = _by_part(by_name)
    if not parts and len(tables) == 1:
        return _in_file(tables[0], preprocess)
    if tables and not parts:
        parts["train"] = [*by_name]
    found: Sources = {}
    for part, names in parts.items():
        if not all(name.lower().endswith(".parquet") for name in names):
            _only(place, names)
        sources = [open_source(by_name[name], preprocess) for name in names]
        if all(source.labelled for source in sources):
            found[part] = partial(_joined, sources)
    return found


def _joined(sources: Sequence[Source]) -> Source:
    def blocks(start: int) -> Iterator[InputBlock]:
        for source in sources:
            yield from source.blocks(0)

    counts = [source.count for source in sources]
    count = None if None in counts else sum(count or 0 for count in counts)
    identity = "\0".join(source.identity for source in sources)
    return Source(count, blocks, identity, labelled=True, arrays=all(source.arrays for source in sources))
