"""What `mnist_cls` is compared with: PyTorch's example, the published fast recipe, a plain inference loop."""

import time
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.measure import timed
from mnist_cls import create_model, load_model
from mnist_cls.data.datasets import LabelledImages, load_dataset
from mnist_cls.data.normalization import normalize
from mnist_cls.data.splits import train_validation_indices
from mnist_cls.memory import keep_freed_memory


class Published(nn.Module):
    """The network of tuomaso/train_mnist_fast: two convolutions, 256 hidden units; 215,194 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 24, 5), nn.Conv2d(24, 32, 3)
        self.fc1, self.fc2 = nn.Linear(800, 256), nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Map normalized images (B, 1, 28, 28) to logits (B, 10)."""
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(F.max_pool2d(self.conv2(x), 2))
        logits: Tensor = self.fc2(F.relu(self.fc1(x.flatten(1))))
        return logits


class Example(nn.Module):
    """The network of PyTorch's MNIST example; 1,199,882 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 32, 3), nn.Conv2d(32, 64, 3)
        self.fc1, self.fc2 = nn.Linear(9216, 128), nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Map normalized images (B, 1, 28, 28) to logits (B, 10)."""
        x = F.max_pool2d(F.relu(self.conv2(F.relu(self.conv1(x)))), 2)
        x = F.dropout(F.relu(self.fc1(F.dropout(x, 0.25, self.training).flatten(1))), 0.5, self.training)
        logits: Tensor = self.fc2(x)
        return logits


class Recipe(NamedTuple):
    """Training for at most one epoch with Adam(0.7, 0.9) and a one-cycle schedule."""

    network: str = "published"
    channels_last: bool = False
    keep_memory: bool = False
    batch_size: int = 256
    learning_rate: float = 1e-2
    label_smoothing: float = 0.0
    epoch_fraction: float = 1.0


class Trained(NamedTuple):
    """Training time in seconds, and accuracy."""

    seconds: float
    accuracy: float


def train_plainly(recipe: Recipe, seed: int, evaluate_on: str, device: str = "cpu") -> Trained:
    """Train in a hand-written loop, with the data in memory; only the loop is timed.

    Args:
        recipe: What to train, and how.
        seed: Seed of the weights and the order of the images.
        evaluate_on: "test" trains on all 60,000 images, "val" on the 55,000 that are not held out.
        device: Where to train.
    """
    if recipe.keep_memory:
        keep_freed_memory()
    data, held_out = (LabelledImages(*(t.to(device) for t in split)) for split in _splits(evaluate_on))
    torch.manual_seed(seed)
    network = (Published() if recipe.network == "published" else create_model(recipe.network)).to(device)
    if recipe.channels_last:
        network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), recipe.learning_rate, (0.7, 0.9), fused=True)
    steps = int(len(data.labels) * recipe.epoch_fraction) // recipe.batch_size
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, steps, pct_start=0.25, anneal_strategy="linear", cycle_momentum=False
    )
    start = synchronized_time(device)
    order = torch.randperm(len(data.labels)).to(device)
    for indices in order.split(recipe.batch_size)[:steps]:
        logits = network(normalize(data.images[indices]))
        loss = F.cross_entropy(logits, data.labels[indices], label_smoothing=recipe.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return Trained(synchronized_time(device) - start, _accuracy(network, held_out))


def synchronized_time(device: str) -> float:
    """Return the time when the device has finished its work."""
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()


def _splits(evaluate_on: str) -> tuple[LabelledImages, LabelledImages]:
    train = load_dataset("mnist", "train")
    if evaluate_on == "test":
        return train, load_dataset("mnist", "test")
    first, second = train_validation_indices(len(train.labels))
    return train.subset(first), train.subset(second)


@torch.inference_mode()
def _accuracy(network: nn.Module, data: LabelledImages) -> float:
    network.eval()
    predictions = torch.cat([network(normalize(images)).argmax(1) for images in data.images.split(500)])
    return (predictions == data.labels).float().mean().item()


def standard_example(images: int) -> float:
    """Images/s of PyTorch's MNIST example: its DataLoader converts one PIL image at a time to a tensor.

    Args:
        images: Number of training images; the first five batches of 64 are not timed.
    """
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset
    from torchvision import transforms

    data = load_dataset("mnist", "train")

    class Images(Dataset[tuple[Tensor, int]]):  # does the same as torchvision.datasets.MNIST
        prepare = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])

        def __len__(self) -> int:
            return images

        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            return self.prepare(Image.fromarray(data.images[index].numpy())), int(data.labels[index])

    torch.manual_seed(0)
    network = Example().train()
    optimizer = torch.optim.Adadelta(network.parameters(), lr=1.0)
    warm_up, start = 5, 0.0
    for number, (batch, labels) in enumerate(DataLoader(Images(), batch_size=64, shuffle=True)):
        if number == warm_up:
            start = time.perf_counter()
        optimizer.zero_grad()
        F.nll_loss(F.log_softmax(network(batch), 1), labels).backward()
        optimizer.step()
    return (images - warm_up * 64) / (time.perf_counter() - start)


def obvious_inference(batch_size: int = 1000, channels_last: bool = False) -> tuple[float, Tensor]:
    """Classify the test images with the packaged `image_classifier` in a hand-written loop.

    Returns:
        Images/s, and the probabilities, float32 (10000, 10).
    """
    network, images = load_model(), load_dataset("mnist", "test").images
    if channels_last:
        network = network.to(memory_format=torch.channels_last)

    def batches() -> Iterator[Tensor]:
        for batch in images.split(batch_size):
            yield network((batch.unsqueeze(1).float() / 255 - 0.1307) / 0.3081).softmax(1)

    with torch.no_grad():
        next(batches())
        probabilities, seconds = timed(lambda: torch.cat(list(batches())))
    return len(images) / seconds, probabilities
