"""The package carries the original MNIST; users' own files are found; held-out images are never trained on."""

import gzip
import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from mnist_cls.data.augmentation import RandomDistortion
from mnist_cls.data.datasets import LabelledImages, load_dataset
from mnist_cls.data.embedded import DIGESTS, FOLDER, embedded_file
from mnist_cls.data.loader import BatchLoader
from mnist_cls.data.splits import train_validation_indices
from mnist_cls.errors import InputError
from mnist_cls.training.datamodule import MNISTDataModule

from .conftest import Run, one_line

# SHA-256 of the original files, decompressed, as published with MNIST.
ORIGINAL = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


@pytest.fixture(scope="module")
def train() -> LabelledImages:
    return load_dataset("mnist", "train")


def digests(images: torch.Tensor) -> set[bytes]:
    return {hashlib.sha256(image.numpy().tobytes()).digest() for image in images}


@pytest.mark.parametrize("name", ORIGINAL)
def test_the_package_carries_the_original_bytes(name: str) -> None:
    content = gzip.decompress(embedded_file(f"{name}.gz").read_bytes())
    assert hashlib.sha256(content).hexdigest() == ORIGINAL[name]


def test_mnist_has_the_published_sizes_and_classes(train: LabelledImages, mnist_test: LabelledImages) -> None:
    assert train.images.shape == (60_000, 28, 28)
    assert mnist_test.images.shape == (10_000, 28, 28)
    assert train.images.dtype == torch.uint8
    assert train.labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert mnist_test.labels[:5].tolist() == [7, 2, 1, 0, 4]


@pytest.mark.parametrize("damage", ["truncated", "flipped bit"])
def test_a_damaged_file_is_reported_with_both_digests(tmp_path: Path, damage: str) -> None:
    name = "t10k-labels-idx1-ubyte.gz"
    content = bytearray((FOLDER / name).read_bytes())
    if damage == "truncated":
        del content[-100:]
    else:
        content[1000] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        embedded_file(name, tmp_path)
    for text in (str(tmp_path / name), DIGESTS[name], hashlib.sha256(content).hexdigest()):
        assert text in str(caught.value)
    with pytest.raises(InputError, match="missing"):
        embedded_file("t10k-images-idx3-ubyte.gz", tmp_path)


@pytest.mark.parametrize("layout", [".", "MNIST/raw"])
@pytest.mark.parametrize("compressed", [True, False])
def test_idx_files_in_a_folder_of_the_users_own_are_read(
    tmp_path: Path, layout: str, compressed: bool, mnist_test: LabelledImages
) -> None:
    folder = tmp_path / layout
    folder.mkdir(parents=True, exist_ok=True)
    for name in DIGESTS:
        if name.startswith("t10k"):
            content = (FOLDER / name).read_bytes()
            if compressed:
                (folder / name).write_bytes(content)
            else:
                (folder / name.removesuffix(".gz")).write_bytes(gzip.decompress(content))
    data = load_dataset("mnist", "test", tmp_path)
    assert torch.equal(data.images, mnist_test.images)
    assert torch.equal(data.labels, mnist_test.labels)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no train-images-idx3-ubyte\[.gz\] and train-labels-idx1-ubyte\[.gz\]"):
        load_dataset("mnist", "train", tmp_path)
    with pytest.raises(InputError, match="is not a folder"):
        load_dataset("mnist", "train", tmp_path / "nowhere")


def test_files_with_other_contents_are_refused(tmp_path: Path) -> None:
    for name in DIGESTS:
        shutil.copy(FOLDER / name, tmp_path)
    shutil.copy(FOLDER / "train-labels-idx1-ubyte.gz", tmp_path / "t10k-labels-idx1-ubyte.gz")
    with pytest.raises(InputError, match="expected 10000 integers"):
        load_dataset("mnist", "test", tmp_path)
    shutil.copy(FOLDER / "train-labels-idx1-ubyte.gz", tmp_path / "t10k-images-idx3-ubyte.gz")
    with pytest.raises(InputError, match=r"expected uint8 images \(N, 28, 28\)"):
        load_dataset("mnist", "test", tmp_path)


_SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("kmnist", "qmnist", "emnist_digits")]


@pytest.mark.parametrize("name", ["fashion_mnist", *_SLOW])
def test_without_a_network_other_datasets_say_which_files_to_put_where(run: Run, tmp_path: Path, name: str) -> None:
    no_proxy = "http://127.0.0.1:9"  # nothing listens there, so torchvision finds no network
    done = run("eval", f"data={name}", besides={"HOME": str(tmp_path), "https_proxy": no_proxy, "http_proxy": no_proxy})
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith(f"error: {name} is not in {tmp_path}/.cache/mnist_cls and could not be downloaded")
    assert "-images-idx3-ubyte" in line
    assert f"{tmp_path}/.cache/mnist_cls/" in line
    assert "/raw" in line


def test_files_that_torchvision_downloaded_are_read(tmp_path: Path, mnist_test: LabelledImages) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name in DIGESTS:
        shutil.copy(FOLDER / name, raw)
    assert torch.equal(load_dataset("fashion_mnist", "test", tmp_path).images, mnist_test.images)


def test_emnist_is_transposed_to_upright(tmp_path: Path, mnist_test: LabelledImages) -> None:
    raw = tmp_path / "EMNIST" / "raw"
    raw.mkdir(parents=True)
    images = mnist_test.images[:50].transpose(1, 2).contiguous().numpy()
    labels = mnist_test.labels[:50].numpy().astype(np.uint8)
    for name, values in (("images-idx3", images), ("labels-idx1", labels)):
        header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
        for split in ("train", "test"):
            (raw / f"emnist-digits-{split}-{name}-ubyte").write_bytes(header + values.tobytes())
    data = load_dataset("emnist_digits", "test", tmp_path)
    assert torch.equal(data.images, mnist_test.images[:50])
    assert torch.equal(data.labels, mnist_test.labels[:50])


def test_the_split_is_55000_and_5000_and_never_changes() -> None:
    train, val = train_validation_indices(60_000)
    assert (len(train), len(val)) == (55_000, 5_000)
    assert torch.equal(torch.cat([train, val]).sort().values, torch.arange(60_000))
    digest = hashlib.sha256(val.numpy().tobytes()).hexdigest()
    assert digest == "0facf76ec83dbb3417835e55cb6e764f56cca24c1a013f1078032358a1f08798"


def test_no_test_or_validation_image_is_trained_on(mnist_test: LabelledImages) -> None:
    data = MNISTDataModule(seed=1)
    data.setup("fit")
    assert data.test_data is None, "the test images are not even loaded for training"
    trained_on = torch.cat([images for images, _ in data.train_dataloader()])
    held_out = torch.cat([images for images, _ in data.val_dataloader()])
    assert (len(trained_on), len(held_out)) == (55_000, 5_000)
    # MNIST contains a few duplicates, but none between these sets.
    assert not digests(trained_on) & digests(mnist_test.images)
    assert not digests(trained_on) & digests(held_out)


def test_the_split_does_not_depend_on_the_seed() -> None:
    images = []
    for seed in (0, 1):
        data = MNISTDataModule(seed=seed)
        data.setup("fit")
        images.append(torch.cat([images for images, _ in data.val_dataloader()]))
    assert torch.equal(*images)


def numbered(count: int) -> LabelledImages:
    """Images that encode their index in the first two pixels; the labels are the indices, too."""
    numbers = torch.arange(count)
    images = torch.zeros(count, 28, 28, dtype=torch.uint8)
    images[:, 0, 0], images[:, 0, 1] = (numbers % 256).byte(), (numbers // 256).byte()
    return LabelledImages(images, numbers)


def test_each_epoch_visits_every_image_once_in_a_new_order() -> None:
    loader = BatchLoader(numbered(1000), batch_size=128, shuffle=True, seed=3)
    epochs = []
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        batches = list(loader)
        assert len(batches) == len(loader) == 8
        for images, labels in batches:
            assert images.dtype == torch.uint8
            assert torch.equal(images[:, 0, 0].long() + 256 * images[:, 0, 1].long(), labels)
        epochs.append(torch.cat([labels for _, labels in batches]))
        assert torch.equal(epochs[-1].sort().values, torch.arange(1000))
    assert not torch.equal(*epochs)


@pytest.mark.parametrize("shuffle", [True, False])
def test_processes_divide_each_batch_of_a_single_process_among_them(shuffle: bool) -> None:
    loaders = [
        BatchLoader(numbered(1001), 100, shuffle, seed=3, rank=rank, world_size=4, same_length=True)
        for rank in range(4)
    ]
    alone = BatchLoader(numbered(1001), 100, shuffle, seed=3)
    assert {len(loader) for loader in loaders} == {10}
    for batches, (_, expected) in zip(zip(*loaders, strict=True), alone, strict=False):
        labels = torch.cat([labels for _, labels in batches])
        assert torch.equal(labels.sort().values, expected.sort().values)


def test_processes_evaluate_every_image_once() -> None:
    loaders = [BatchLoader(numbered(1001), 100, rank=rank, world_size=4) for rank in range(4)]
    seen = torch.cat([labels for loader in loaders for _, labels in loader])
    assert torch.equal(seen.sort().values, torch.arange(1001))
    assert all(len(labels) > 0 for loader in loaders for _, labels in loader)


def test_a_loader_resumes_within_an_epoch() -> None:
    loader = BatchLoader(numbered(500), 64, shuffle=True, seed=5)
    whole = [labels for _, labels in loader]
    loader.first_batch = 3
    rest = [labels for _, labels in loader]
    assert torch.equal(torch.cat(rest), torch.cat(whole[3:]))
    assert len(list(loader)) == len(whole), "the next epoch is complete"


def test_each_image_is_distorted_differently(mnist_test: LabelledImages) -> None:
    same = mnist_test.images[:1].expand(16, 28, 28)
    distorted = RandomDistortion(rotation=10, scale=0.1, shear=0.1, shift=2)(same)
    assert distorted.shape == (16, 28, 28)
    assert distorted.dtype == torch.float32
    assert distorted.min() >= 0
    assert distorted.max() <= 255
    assert len(digests(distorted)) == 16


def centres(images: torch.Tensor) -> torch.Tensor:
    """The row of each image's centre of mass."""
    mass = images.float().sum(2)
    return (mass * torch.arange(28)).sum(1) / mass.sum(1)


@pytest.mark.parametrize("elastic", [0.5, 1.0])
def test_bending_moves_ink_by_the_given_standard_deviation(elastic: float) -> None:
    torch.manual_seed(0)
    images = torch.zeros(2000, 28, 28, dtype=torch.uint8)
    images[:, 12:17, 12:17] = 255
    rows = centres(RandomDistortion(elastic=elastic)(images))
    assert rows.mean().item() == pytest.approx(14, abs=0.1)
    assert rows.std().item() == pytest.approx(elastic, rel=0.15)


def test_bending_moves_neighbouring_pixels_alike_and_distant_ones_independently() -> None:
    rows = []
    for top in (4, 6, 22):
        torch.manual_seed(0)
        images = torch.zeros(2000, 28, 28, dtype=torch.uint8)
        images[:, top : top + 3, 12:15] = 255
        rows.append(centres(RandomDistortion(elastic=1)(images)))
    correlations = torch.stack(rows).corrcoef()
    assert correlations[0, 1] > 0.8
    assert correlations[0, 2].abs() < 0.1


def test_brightness_makes_black_grey_and_leaves_white(mnist_test: LabelledImages) -> None:
    torch.manual_seed(0)
    images = torch.zeros(4000, 28, 28, dtype=torch.uint8)
    images[:, 14:] = 255
    bright = RandomDistortion(brightness=100)(images)
    torch.testing.assert_close(bright[:, 16:], torch.full_like(bright[:, 16:], 255), atol=1e-3, rtol=0)
    black = bright[:, 0, 0]
    torch.testing.assert_close(bright[:, :12], black[:, None, None].expand(4000, 12, 28))
    assert 95 < black.max() <= 100
    assert black.mean().item() == pytest.approx(100 / 3, rel=0.1)  # the mean of u² for u uniform from 0 to 1


def test_noise_has_the_given_standard_deviation_at_most() -> None:
    torch.manual_seed(0)
    grey = torch.full((2000, 28, 28), 128, dtype=torch.uint8)
    noisy = RandomDistortion(noise=40)(grey)
    deviations = (noisy - 128)[:, 4:-4, 4:-4].flatten(1).std(1)
    assert 36 < deviations.max() < 44
    assert deviations.min() < 1
    assert deviations.mean().item() == pytest.approx(40 / 3, rel=0.1)
    black = RandomDistortion(noise=200)(torch.zeros(100, 28, 28, dtype=torch.uint8))
    assert black.min() >= 0
    assert black.max() <= 255


def test_limits_of_zero_change_nothing(mnist_test: LabelledImages) -> None:
    images = mnist_test.images[:16]
    torch.testing.assert_close(RandomDistortion()(images), images.float(), atol=1e-2, rtol=0)


def test_shifts_are_in_pixels(mnist_test: LabelledImages) -> None:
    images = mnist_test.images[:256]
    moved = (centres(RandomDistortion(shift=2)(images)) - centres(images)).abs()
    assert 1.5 < moved.max() <= 2.01


def test_the_position_in_a_checkpoint_is_where_training_resumes() -> None:
    data = MNISTDataModule(train_size=512, batch_size=64)
    data.setup("fit")
    data.load_state_dict({"batches_done": 3})
    assert len(list(data.train_dataloader())) == 5


def test_only_training_images_are_distorted() -> None:
    data = MNISTDataModule(augmentation={"rotation": 90.0})
    data.setup("fit")
    images, labels = next(iter(data.val_dataloader()))
    assert torch.equal(data.on_after_batch_transfer((images, labels), 0)[0], images)


def test_sizes_beyond_the_training_images_are_refused(run: Run) -> None:
    one_line(run("train", "data.validation_size=60000"), "data.validation_size=60000", "expected 0 to 59,999")
    one_line(run("train", "data.train_size=55001"), "data.train_size=55001", "55,000")
