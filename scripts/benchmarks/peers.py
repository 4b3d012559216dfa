"""What others do, written down plainly: the standard example, the published fast recipe, the obvious inference loop."""

import time
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
        """Normalized images (B, 1, 28, 28) -> logits (B, 10)."""
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(F.max_pool2d(self.conv2(x), 2))
        logits: Tensor = self.fc2(F.relu(self.fc1(x.flatten(1))))
        return logits


class Example(nn.Module):
    """The network of PyTorch's own MNIST example; 1,199,882 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 32, 3), nn.Conv2d(32, 64, 3)
        self.fc1, self.fc2 = nn.Linear(9216, 128), nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Normalized images (B, 1, 28, 28) -> logits (B, 10)."""
        x = F.max_pool2d(F.relu(self.conv2(F.relu(self.conv1(x)))), 2)
        x = F.dropout(F.relu(self.fc1(F.dropout(x, 0.25, self.training).flatten(1))), 0.5, self.training)
        logits: Tensor = self.fc2(x)
        return logits


class Recipe(NamedTuple):
    """A training for one passage or less through the images, by Adam(0.7, 0.9) and a one-cycle schedule."""

    network: str = "published"
    channels_last: bool = False
    keep_memory: bool = False
    batch_size: int = 256
    learning_rate: float = 1e-2
    label_smoothing: float = 0.0
    share: float = 1.0


class Trained(NamedTuple):
    """What came of it."""

    seconds: float
    accuracy: float


def train_plainly(recipe: Recipe, seed: int, evaluate_on: str, device: str = "cpu") -> Trained:
    """A training loop as one would write it by hand, with the data in memory.

    Args:
        recipe: what it does.
        seed: of weights and order.
        evaluate_on: "test", then it trains on all 60,000 images; or "val", then on our 55,000.
        device: where.

    Returns:
        The seconds of the loop alone, and the accuracy.
    """
    if recipe.keep_memory:
        keep_freed_memory()
    data, held_out = (LabelledImages(*(t.to(device) for t in part)) for part in _parts(evaluate_on))
    torch.manual_seed(seed)
    network = (Published() if recipe.network == "published" else create_model(recipe.network)).to(device)
    if recipe.channels_last:
        network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), recipe.learning_rate, (0.7, 0.9), fused=True)
    steps = int(len(data.labels) * recipe.share) // recipe.batch_size
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, steps, pct_start=0.25, anneal_strategy="linear", cycle_momentum=False
    )
    _wait(device)
    began = time.perf_counter()
    order = torch.randperm(len(data.labels)).to(device)
    for indices in order.split(recipe.batch_size)[:steps]:
        logits = network(normalize(data.images[indices]))
        loss = F.cross_entropy(logits, data.labels[indices], label_smoothing=recipe.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    _wait(device)
    return Trained(time.perf_counter() - began, _accuracy(network, held_out))


def _parts(evaluate_on: str) -> tuple[LabelledImages, LabelledImages]:
    train = load_dataset("mnist", "train")
    if evaluate_on == "test":
        return train, load_dataset("mnist", "test")
    first, second = train_validation_indices(len(train.labels))
    return train.subset(first), train.subset(second)


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


@torch.inference_mode()
def _accuracy(network: nn.Module, data: LabelledImages) -> float:
    network.eval()
    answers = torch.cat([network(normalize(images)).argmax(1) for images in data.images.split(500)])
    return (answers == data.labels).float().mean().item()


def standard_example(images: int) -> float:
    """PyTorch's MNIST example for some images: a DataLoader that turns one PIL image after another into a tensor.

    Returns:
        Images/s of the training, its first five batches left out.
    """
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset
    from torchvision import transforms

    data = load_dataset("mnist", "train")

    class Images(Dataset[tuple[Tensor, int]]):  # as torchvision.datasets.MNIST has it
        prepare = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])

        def __len__(self) -> int:
            return images

        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            return self.prepare(Image.fromarray(data.images[index].numpy())), int(data.labels[index])

    torch.manual_seed(0)
    network = Example().train()
    optimizer = torch.optim.Adadelta(network.parameters(), lr=1.0)
    warm_up, began = 5, 0.0
    for number, (batch, labels) in enumerate(DataLoader(Images(), batch_size=64, shuffle=True)):
        if number == warm_up:
            began = time.perf_counter()
        optimizer.zero_grad()
        F.nll_loss(F.log_softmax(network(batch), 1), labels).backward()
        optimizer.step()
    return (images - warm_up * 64) / (time.perf_counter() - began)


def obvious_inference(batch_size: int = 1000, channels_last: bool = False) -> tuple[float, Tensor]:
    """The shipped `image_classifier` on the test images, as one would write it by hand.

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
        began = time.perf_counter()
        probabilities = torch.cat(list(batches()))
        return len(images) / (time.perf_counter() - began), probabilities
