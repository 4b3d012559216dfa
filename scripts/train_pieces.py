"""Train the perceptron that tells whole digits from pieces and pairs, for `mnist_cls.preprocessing.pieces`.

python scripts/train_pieces.py [--rows 25000] [--output FILE]
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from mnist_cls.data.datasets import load_dataset
from mnist_cls.data.drawing import draw_digits
from mnist_cls.data.scans import row_of_ink
from mnist_cls.data.splits import train_validation_indices
from mnist_cls.errors import InputError
from mnist_cls.files import whole_file
from mnist_cls.preprocessing.pieces import VIEW, WEIGHTS, views
from mnist_cls.preprocessing.row import find_groups
from mnist_cls.preprocessing.touching import candidates

# A piece is a whole digit if its intersection over union with a digit is above `WHOLE`, and is not one below `PIECE`.
# Pieces between the two are left out.
WHOLE, PIECE = 0.75, 0.6

# Fraction of drawn digits in the rows; the others are MNIST's.
DRAWN = 0.3


def examples(images: np.ndarray, drawn: np.ndarray, random: np.random.Generator) -> Iterator[tuple[np.ndarray, float]]:
    """Yield each piece of a random row: its view, see `views`, and its best intersection over union with a digit."""
    count = int(random.integers(2, 6))
    chosen = images[random.integers(0, len(images), count)]
    is_drawn = random.random(count) < DRAWN
    chosen[is_drawn] = drawn[random.integers(0, len(drawn), is_drawn.sum())]
    gap = random.uniform(-2.5, 0.5) if random.random() < 0.7 else random.uniform(0, 5)
    page, digits = row_of_ink(chosen, gap, random, sizes=(0.8, 1.2))
    step = int(random.integers(1, 4))  # pages have many resolutions
    page, digits = page[::step, ::step], [digit[::step, ::step] for digit in digits]
    try:
        groups = find_groups(page)
    except InputError:
        return
    height = max(box.height for _, box in groups)
    for ink, box in groups:
        pieces = candidates(ink, height)
        seen = views(ink, [(one.ink, one.box) for one in pieces], height)
        for view, piece in zip(seen, pieces, strict=True):
            left, top, right, bottom = piece.moved(box.left, box.top, 0).box
            found = np.zeros(page.shape, bool)
            found[top:bottom, left:right] = piece.ink > 0.4
            overlaps = [(found & (digit > 0.4)).sum() / (found | (digit > 0.4)).sum() for digit in digits]
            yield view, float(max(overlaps))


def collect(images: np.ndarray, rows: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return views, uint8 (N, 792), and whether each is a whole digit, float32 (N,)."""
    drawn = draw_digits(20_000, seed).images.numpy()
    random = np.random.default_rng(seed)
    seen, whole = [], []
    for _ in track(range(rows), "rows"):
        for view, overlap in examples(images, drawn, random):
            if overlap > WHOLE or overlap < PIECE:
                seen.append((view * 255).round().astype(np.uint8))
                whole.append(overlap > WHOLE)
    return torch.from_numpy(np.stack(seen)), torch.tensor(whole, dtype=torch.float32)


def train(views: Tensor, whole: Tensor, epochs: int) -> nn.Sequential:
    """Train with cross-entropy, AdamW and a one-cycle learning rate schedule."""
    network = nn.Sequential(
        nn.Linear(2 * VIEW[0] * VIEW[1], 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1)
    )
    size = 256
    steps = len(views) // size
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=epochs * steps)
    for _ in track(range(epochs), "epochs"):
        for batch in torch.randperm(len(views))[: steps * size].view(steps, size):
            x = F.dropout(views[batch].float() / 255, 0.1)
            loss = F.binary_cross_entropy_with_logits(network(x)[:, 0], whole[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def main() -> None:
    """Train, and write the weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=25_000, help="number of rows to train on (%(default)s)")
    parser.add_argument("--epochs", type=int, default=8, help="number of passes over their pieces (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random numbers (%(default)s)")
    parser.add_argument("--output", type=Path, default=WEIGHTS, help="file to write")
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    start = time.perf_counter()
    data = load_dataset()
    kept, held_out = (data.images[indices].numpy() for indices in train_validation_indices(len(data.images)))
    network = train(*collect(kept, arguments.rows, arguments.seed), arguments.epochs)
    seen, whole = collect(held_out, max(100, arguments.rows // 20), arguments.seed + 1)
    with torch.no_grad():
        logits = network(seen.float() / 255)[:, 0]
    accuracy = ((logits > 0) == (whole > 0.5)).float().mean().item()
    loss = F.binary_cross_entropy_with_logits(logits, whole).item()
    made_by = " ".join(f"--{name} {getattr(arguments, name)}" for name in ("rows", "epochs", "seed"))
    figures = {"made_by": f"python scripts/train_pieces.py {made_by}", "validation_accuracy": f"{accuracy:.4f}"}
    weights = {name: tensor.half() for name, tensor in network.state_dict().items()}
    with whole_file(arguments.output) as path:
        save_file(weights, path, figures)
    print(f"validation: accuracy {accuracy:.2%}, loss {loss:.4f}, of {len(whole):,} pieces")
    print(f"{arguments.output}: {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
