"""Users train and evaluate on their own data, in all common forms; it is converted once and cached."""

import csv
import gzip
import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mnist_cls import MNISTDataModule
from mnist_cls.data.datasets import LabelledImages, load_dataset
from mnist_cls.data.embedded import FOLDER
from mnist_cls.data.splits import fold_indices
from mnist_cls.errors import InputError
from mnist_cls.files import whole_file
from mnist_cls.training.own_data import find_parts

from .conftest import Completed, Run, one_line

EPOCH = ["trainer.max_epochs=1", "trainer.enable_progress_bar=false", "model=mlp", "logger=none", "data.batch_size=32"]

Evaluate = Callable[..., tuple[Completed, dict[str, float]]]


@pytest.fixture(scope="module")
def train_digits() -> LabelledImages:
    """The first 240 training images."""
    return load_dataset("mnist", "train").subset(torch.arange(240))


@pytest.fixture(scope="module")
def test_digits(mnist_test: LabelledImages) -> LabelledImages:
    """The first 60 test images."""
    return mnist_test.subset(torch.arange(60))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder of the test's own, for the cache in it."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def here(home: Path) -> Mapping[str, str]:
    return {"HOME": str(home)}


def photos(folder: Path, data: LabelledImages) -> Path:
    """Pictures of 56x56 pixels, dark on light, in a folder for each label."""
    for index, (image, label) in enumerate(zip(data.images.numpy(), data.labels.tolist(), strict=True)):
        path = folder / str(label) / f"{index:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(255 - image).resize((56, 56), Image.Resampling.BILINEAR).save(path)
    return folder


def table(path: Path, data: LabelledImages, labels: bool = True) -> Path:
    """A CSV file like Kaggle's train.csv, or like its test.csv, without labels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["label"] * labels + [f"pixel{index}" for index in range(784)])
        for image, label in zip(data.images.flatten(1).tolist(), data.labels.tolist(), strict=True):
            rows.writerow([label] * labels + image)
    return path


def parquet(path: Path, data: LabelledImages) -> Path:
    """A Parquet file like those of Hugging Face's datasets: a struct with the bytes of a PNG, and a label."""
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    cells = []
    for image in data.images.numpy():
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        cells.append({"bytes": file.getvalue(), "path": None})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": cells, "label": data.labels.tolist()}), path)
    return path


def make(form: str, root: Path, train: LabelledImages, test: LabelledImages) -> Path:
    """Write the digits in a form; return the path for `data.dir`."""
    x, y = train.images.numpy(), train.labels.numpy()
    if form == "folders":
        return photos(root / "digits", train)
    if form == "train and test folders":
        photos(root / "digits" / "Train", train)
        return photos(root / "digits" / "testing", test).parent
    if form == "Keras":
        np.savez_compressed(
            root / "mnist.npz", x_train=x, y_train=y, x_test=test.images.numpy(), y_test=test.labels.numpy()
        )
        return root / "mnist.npz"
    if form == "npz":
        np.savez(root / "digits.npz", images=x, labels=y)
        return root / "digits.npz"
    if form.startswith("npy"):
        (root / "arrays").mkdir()
        for name, array in {
            "X_train": x,
            "y_train": y,
            "X_test": test.images.numpy(),
            "y_test": test.labels.numpy(),
        }.items():
            np.save(root / "arrays" / f"{name}.npy", array)
        return root / "arrays" / ("X_train.npy" if form == "npy file" else "")
    if form == "Parquet":
        parquet(root / "hub" / "test-00000-of-00001.parquet", test)
        half = len(y) // 2
        for number, part in enumerate((slice(half), slice(half, None))):
            parquet(
                root / "hub" / f"train-0000{number}-of-00002.parquet",
                LabelledImages(train.images[part], train.labels[part]),
            )
        return root / "hub"
    if form == "IDX":
        (root / "idx").mkdir()
        for name, values in (("images-idx3", x), ("labels-idx1", y.astype(np.uint8))):
            header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
            (root / "idx" / f"train-{name}-ubyte").write_bytes(header + values.tobytes())
        return root / "idx"
    path = table(root / "kaggle" / "train.csv", train)
    if form == "Kaggle's folder":
        table(root / "kaggle" / "test.csv", test, labels=False)
        return path.parent
    if form == "csv.gz":
        with gzip.open(path.with_suffix(".csv.gz"), "wb") as file:
            file.write(path.read_bytes())
        return path.with_suffix(".csv.gz")
    if form == "Kaggle's archive":
        table(root / "kaggle" / "test.csv", test, labels=False)
        with zipfile.ZipFile(root / "digit-recognizer.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name in ("test.csv", "train.csv"):
                archive.write(root / "kaggle" / name, name)
        return root / "digit-recognizer.zip"
    return path


WITH_TEST = ["train and test folders", "Keras", "npy folder", "Parquet"]
WITHOUT_TEST = ["folders", "npz", "npy file", "csv", "csv.gz", "Kaggle's folder", "Kaggle's archive", "IDX"]


@pytest.mark.parametrize("form", WITH_TEST + WITHOUT_TEST)
def test_every_form_is_read_and_split(
    form: str, tmp_path: Path, train_digits: LabelledImages, test_digits: LabelledImages
) -> None:
    data = MNISTDataModule(dir=make(form, tmp_path, train_digits, test_digits))
    data.setup("fit")
    assert data.train_data is not None
    assert data.val_data is not None
    images = torch.cat([data.train_data.images, data.val_data.images])
    labels = torch.cat([data.train_data.labels, data.val_data.labels])
    assert (len(data.train_data.labels), len(data.val_data.labels)) == (220, 20)
    assert torch.equal(labels.bincount(), train_digits.labels.bincount())
    assert images.shape == (240, 28, 28)
    assert images.dtype == torch.uint8
    if "folders" in form:  # enlarged, and brought back into MNIST's form
        original = train_digits.images.float().mean(0)
        assert (images.float().mean(0) - original).abs().max() < 20
    else:
        assert {image.numpy().tobytes() for image in images} == {
            image.numpy().tobytes() for image in train_digits.images
        }
    assert data.has_test_images == (form in WITH_TEST)
    if form in WITH_TEST:
        data.setup("test")
        assert data.test_data is not None
        assert torch.equal(data.test_data.labels.bincount(), test_digits.labels.bincount())
    else:
        with pytest.raises(InputError, match="has no test images"):
            data.setup("test")


def test_train_and_eval_on_photos_in_folders(
    run: Run, tmp_path: Path, here: Mapping[str, str], train_digits: LabelledImages, test_digits: LabelledImages
) -> None:
    digits = photos(tmp_path / "digits", train_digits)
    (digits / "0" / "note\x1b[31m\n.png").write_text("no image")
    done = run("train", "data.dir=digits", *EPOCH, "output_dir=run", besides=here)
    assert done.returncode == 0, done.stderr
    assert "240 images of digits, 1 left out: digits/0/note\\x1b[31m\\n.png: not an image" in done.stdout
    assert "no test images; set data.test_dir=PATH to test" in done.stdout
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert "test/accuracy" not in metrics
    assert "val/accuracy" in metrics
    # The packaged network classifies them correctly, so each label belongs to its image.
    done = run("eval", "data.dir=digits", "report=false", "output_dir=all", besides=here)
    assert done.returncode == 0, done.stderr
    assert "digits has no test images: evaluating on all of its images" in done.stdout
    assert "image_classifier on digits (all): accuracy" in done.stdout
    assert json.loads((tmp_path / "all" / "metrics.json").read_text())["test/accuracy"] > 0.98
    done = run("eval", "checkpoint=run", "data.dir=digits", "split=val", "report=false", "output_dir=val", besides=here)
    assert json.loads((tmp_path / "val" / "metrics.json").read_text())["val/accuracy"] == metrics["val/accuracy"]


def test_test_dir_names_the_test_images(
    run: Run, tmp_path: Path, here: Mapping[str, str], train_digits: LabelledImages, test_digits: LabelledImages
) -> None:
    table(tmp_path / "train.csv", train_digits)
    photos(tmp_path / "held out", test_digits)
    done = run("train", "data.dir=train.csv", "data.test_dir=held out", *EPOCH, "output_dir=run", besides=here)
    assert done.returncode == 0, done.stderr
    assert "60 images of held out" in done.stdout
    assert "test/accuracy" in json.loads((tmp_path / "run" / "metrics.json").read_text())
    done = run("eval", "data.test_dir=held out", "report=false", "output_dir=eval", besides=here)
    assert "on held out (test): accuracy" in done.stdout
    assert json.loads((tmp_path / "eval" / "metrics.json").read_text())["test/accuracy"] > 0.98


def test_a_folder_val_is_the_validation_set(
    tmp_path: Path, train_digits: LabelledImages, test_digits: LabelledImages
) -> None:
    photos(tmp_path / "digits" / "train", train_digits)
    photos(tmp_path / "digits" / "valid", test_digits)
    data = MNISTDataModule(dir=tmp_path / "digits")
    assert sum(len(labels) for _, labels in data.train_dataloader()) == 240
    assert sum(len(labels) for _, labels in data.val_dataloader()) == 60
    assert not data.has_test_images
    for size, folds in ((10, None), (None, 5)):
        fold = None if folds is None else 0
        other = MNISTDataModule(dir=tmp_path / "digits", validation_size=size, folds=folds, fold=fold)
        with pytest.raises(InputError, match="has its own validation images; leave data"):
            other.setup("fit")


def test_the_first_images_of_sorted_data_are_of_all_classes(tmp_path: Path, train_digits: LabelledImages) -> None:
    data = MNISTDataModule(dir=photos(tmp_path / "digits", train_digits), train_size=100)
    data.setup("fit")
    assert data.train_data is not None
    assert (data.train_data.labels.bincount(minlength=10) > 2).all()


def kept(home: Path) -> list[Path]:
    return sorted((home / ".cache" / "mnist_cls" / "own").iterdir())


def labels_of(folder: Path) -> torch.Tensor:
    data = MNISTDataModule(dir=folder, validation_size=0)
    data.setup("fit")
    assert data.train_data is not None
    return data.train_data.labels.bincount(minlength=10)


def test_prepared_images_are_kept_until_their_source_changes(
    tmp_path: Path, home: Path, train_digits: LabelledImages, capsys: pytest.CaptureFixture[str]
) -> None:
    digits = photos(tmp_path / "digits", train_digits)
    before = labels_of(digits)
    [file] = kept(home)
    # The files are not read again; only their names, sizes and times are compared.
    for picture in digits.glob("*/*.png"):
        status = picture.stat()
        picture.write_bytes(bytes(status.st_size))
        os.utime(picture, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert torch.equal(labels_of(digits), before)
    # A file that is changed, added, removed, or moved to another label is noticed.
    picture = next(iter(sorted(digits.glob("7/*.png"))))
    picture.write_bytes(b"broken")
    with pytest.raises(InputError, match="none of its 240 images can be used"):
        labels_of(digits)
    photos(digits, train_digits)
    assert torch.equal(labels_of(digits), before)
    picture.rename(digits / "3" / "moved.png")
    assert labels_of(digits)[7] == before[7] - 1
    assert labels_of(digits)[3] == before[3] + 1
    assert kept(home) == [file], "one file for each dataset, whatever becomes of it"
    assert capsys.readouterr().out.count("images of") == 5


@pytest.mark.parametrize("damage", ["flipped bit", "truncated", "empty", "another version"])
def test_what_is_kept_is_made_again_if_it_is_damaged(
    damage: str, tmp_path: Path, home: Path, test_digits: LabelledImages
) -> None:
    digits = photos(tmp_path / "digits", test_digits)
    before = labels_of(digits)
    [file] = kept(home)
    content = bytearray(file.read_bytes())
    if damage == "another version":
        with np.load(file) as arrays:
            np.savez(file, **{**arrays, "labels": 9 - arrays["labels"], "identity": np.array("other")})
    else:
        content[len(content) // 2] ^= 1
        file.write_bytes({"flipped bit": bytes(content), "truncated": bytes(content[:-1000]), "empty": b""}[damage])
    assert torch.equal(labels_of(digits), before)
    assert len(kept(home)) == 1


def test_a_home_that_cannot_be_written_is_no_error(
    tmp_path: Path, home: Path, test_digits: LabelledImages, capsys: pytest.CaptureFixture[str]
) -> None:
    home.write_text("a file, not a folder")
    assert labels_of(photos(tmp_path / "digits", test_digits)).sum() == 60
    assert "not kept for the next start" in capsys.readouterr().out


def test_two_processes_that_prepare_at_once_do_not_disturb_each_other(
    tmp_path: Path, home: Path, test_digits: LabelledImages
) -> None:
    digits = photos(tmp_path / "digits", test_digits)
    labels_of(digits)
    [file] = kept(home)
    file.unlink()
    with whole_file(file) as temporary:  # the other process, which ends last
        labels_of(digits)
        content = file.read_bytes()
        temporary.write_bytes(content)
    assert file.read_bytes() == content


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for the decoders in /proc")
def test_a_killed_preparation_leaves_nothing_half_written(
    tmp_path: Path, home: Path, test_digits: LabelledImages
) -> None:
    folder = tmp_path / "digits" / "7"
    folder.mkdir(parents=True)
    Image.fromarray(test_digits.images[0].numpy()).resize((2500, 2500)).save(folder / "0.png")
    for index in range(1, 1000):
        os.link(folder / "0.png", folder / f"{index}.png")
    script = f"from mnist_cls import MNISTDataModule; MNISTDataModule(dir={str(folder.parent)!r}).setup('fit')"
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while not children.read_text():
        time.sleep(0.1)
    time.sleep(1)
    process.kill()
    assert process.communicate()[0] == b""
    assert not list(home.rglob("*.npz"))


def test_a_resumed_training_says_that_its_images_have_changed(
    run: Run, tmp_path: Path, here: Mapping[str, str], train_digits: LabelledImages
) -> None:
    def train(folder: str, epochs: int, *arguments: str) -> str:
        settings = [*EPOCH, "scheduler=constant", f"trainer.max_epochs={epochs}", f"output_dir={folder}"]
        done = run("train", "data.dir=digits.npz", *settings, *arguments, besides=here)
        assert done.returncode == 0, done.stderr
        return done.stdout

    make("npz", tmp_path, train_digits, train_digits)
    train("first", 1)
    resume = "checkpoint=first/checkpoints/last.ckpt"
    line = "the images of digits.npz have changed since the training started"
    assert line not in train("same", 2, resume)
    np.savez(tmp_path / "digits.npz", images=train_digits.images[:-1].numpy(), labels=train_digits.labels[:-1].numpy())
    assert line in train("other", 2, resume)


@pytest.mark.slow
def test_processes_that_train_together_share_what_one_has_prepared(
    tmp_path: Path, home: Path, train_digits: LabelledImages
) -> None:
    digits = photos(tmp_path / "digits", train_digits)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "mnist_cls.train"]
    arguments = [f"data.dir={digits}", "trainer=ddp", *EPOCH, "output_dir=run"]
    environment = {**os.environ, "HOME": str(home), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launch, *arguments]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("240 images of") == 1
    assert len(kept(home)) == 1


def test_images_and_labels_that_cannot_be_used_are_left_out_and_counted(
    tmp_path: Path, test_digits: LabelledImages, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = test_digits.labels.numpy().copy()
    labels[:3] = 10
    images = test_digits.images.numpy().astype(np.float32) / 255
    images[5] = np.nan
    images[6] = 0
    np.savez(tmp_path / "digits.npz", images=images, labels=labels)
    assert labels_of(tmp_path / "digits.npz").sum() == 55
    assert (
        f"55 images of {tmp_path}/digits.npz, 5 left out: image 0 and 2 more: its label is not a digit 0 to 9;"
        " image 5: "
    ) in (text := capsys.readouterr().out)
    assert "; image 6: no digit" in text


def test_what_is_not_labelled_digits_is_refused(tmp_path: Path, test_digits: LabelledImages) -> None:
    def refused(name: str, *words: str) -> None:
        with pytest.raises(InputError) as caught:
            MNISTDataModule(dir=tmp_path / name).setup("fit")
        for word in (f"data.dir={tmp_path / name}", *words):
            assert word in str(caught.value)
        assert "\n" not in str(caught.value)

    refused("nowhere", "no such file or folder")
    (tmp_path / "empty").mkdir()
    refused("empty", "expected a folder for each label, 0 to 9")
    for letter in "ab":
        photos(tmp_path / "letters" / letter, test_digits)
    refused("letters", "has the folders 'a', 'b'", "0 to 9")
    photos(tmp_path / "mixed", test_digits)
    (tmp_path / "mixed" / "x").mkdir()
    refused("mixed", "has the folders 'x'; expected one for each label, called 0 to 9")
    table(tmp_path / "test.csv", test_digits, labels=False)
    refused("test.csv", "has no labels", "a table with a column label")
    np.save(tmp_path / "images.npy", test_digits.images)
    refused("images.npy", "has no labels beside it", "labels.npy")
    (tmp_path / "nothing" / "3").mkdir(parents=True)
    refused("nothing", "the folder has no files in it")
    (tmp_path / "broken" / "3").mkdir(parents=True)
    (tmp_path / "broken" / "3" / "a.png").write_bytes(b"x")
    refused("broken", "none of its 1 images can be used", "broken/3/a.png")
    (tmp_path / "cut.npz").write_bytes(b"PK\3\4")
    refused("cut.npz", "copy it again")
    for name in ("train", "Training"):
        photos(tmp_path / "twice" / name, test_digits)
    refused("twice", "has 'Training', 'train', which may hold the same images; name one of them")
    header = (tmp_path / "test.csv").read_text().splitlines()[0]
    (tmp_path / "rows.csv").write_text(f"label,{header}\n")
    refused("rows.csv", "none of its 0 images can be used: it has no rows")


def test_names_that_say_no_part_or_two(
    tmp_path: Path, train_digits: LabelledImages, test_digits: LabelledImages
) -> None:
    table(tmp_path / "one" / "train_test.csv", train_digits)
    assert [*find_parts(tmp_path / "one")] == ["train"]
    table(tmp_path / "latest" / "latest.csv", train_digits)
    assert [*find_parts(tmp_path / "latest")] == ["train"]
    with zipfile.ZipFile(tmp_path / "folders.zip", "w") as archive:
        for folder, data in (("training", train_digits), ("test", test_digits)):
            archive.write(table(tmp_path / f"{folder}.csv", data), f"{folder}/digits.csv")
    parts = find_parts(tmp_path / "folders.zip")
    assert {part: len(read().labels) for part, read in parts.items()} == {"train": 240, "test": 60}


def test_few_classes_an_empty_folder_and_other_files_are_fine(tmp_path: Path, test_digits: LabelledImages) -> None:
    few = test_digits.subset((test_digits.labels > 6).nonzero().flatten())
    digits = photos(tmp_path / "digits", few)
    (digits / "readme.txt").write_text("my digits")
    (digits / "0").mkdir()
    (digits / "0" / ".DS_Store").write_bytes(b"x")
    assert torch.equal(labels_of(digits), few.labels.bincount(minlength=10))


def test_a_file_without_labels_is_refused_in_one_line(
    run: Run, tmp_path: Path, here: Mapping[str, str], test_digits: LabelledImages
) -> None:
    table(tmp_path / "test.csv", test_digits, labels=False)
    for command in ("train", "eval"):
        one_line(run(command, "data.dir=test.csv", besides=here), "data.dir=test.csv: has no labels", "expected")


def test_what_is_wrong_with_the_test_images_is_said_before_the_training(
    run: Run, tmp_path: Path, here: Mapping[str, str]
) -> None:
    started = time.monotonic()
    done = run("train", "data.test_dir=nowhere", "trainer.max_epochs=100", "logger=none", besides=here)
    one_line(done, "data.test_dir=nowhere", "no such file or folder")
    assert time.monotonic() - started < 30


def test_own_clothes_are_taken_as_they_are(tmp_path: Path, test_digits: LabelledImages) -> None:
    images = np.roll(test_digits.images.numpy(), 4, 2)
    np.savez(tmp_path / "clothes.npz", images=images, labels=test_digits.labels)
    data = MNISTDataModule("fashion_mnist", dir=tmp_path / "clothes.npz", validation_size=0)
    data.setup("fit")
    assert data.train_data is not None
    assert np.array_equal(data.train_data.images.numpy(), images)


def test_a_folder_with_several_downloads_of_torchvision(tmp_path: Path) -> None:
    for name in ("QMNIST", "EMNIST"):
        (tmp_path / name / "raw").mkdir(parents=True)
    for dataset in ("qmnist", "emnist_digits"):
        assert [*find_parts(tmp_path, dataset)] == ["train", "test"]


def test_folds_are_disjoint_complete_and_the_same_for_every_seed() -> None:
    held_out = []
    for fold in range(5):
        train, val = fold_indices(1003, 5, fold)
        assert torch.equal(torch.cat([train, val]).sort().values, torch.arange(1003))
        assert len(val) in (200, 201)
        held_out.append(val)
    assert torch.equal(torch.cat(held_out).sort().values, torch.arange(1003))
    seeds = [MNISTDataModule(folds=6, fold=2, seed=seed) for seed in (0, 1)]
    first, second = (torch.cat([images for images, _ in data.val_dataloader()]) for data in seeds)
    assert len(first) == 10_000
    assert torch.equal(first, second)


def test_a_sweep_over_folds_validates_on_each(run: Run, tmp_path: Path, here: Mapping[str, str]) -> None:
    done = run(
        "train", "-m", "data.folds=2", "data.fold=0,1", f"data.dir={FOLDER}", "trainer.limit_train_batches=2", *EPOCH,
        "trainer.limit_val_batches=2", "trainer.limit_test_batches=1", "hydra.sweep.dir=sweep", besides=here,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = [json.loads(path.read_text()) for path in sorted((tmp_path / "sweep").glob("*/metrics.json"))]
    assert len(results) == 2
    assert results[0]["val/loss"] != results[1]["val/loss"]


def test_folds_out_of_range_are_refused(run: Run) -> None:
    one_line(run("train", "data.fold=1"), "data.fold=1", "data.folds=N")
    for folds, fold, size, words in (
        (5, None, None, "data.fold=null: expected 0 to 4"),
        (5, 5, None, "data.fold=5: expected 0 to 4"),
        (1, 0, None, "data.folds=1: expected at least 2"),
        (5, 0, 9, "data.validation_size=9: expected null"),
    ):
        with pytest.raises(InputError, match=words):
            MNISTDataModule(folds=folds, fold=fold, validation_size=size)
