"""Training and evaluation differ where they should; images are uint8 until they are on their device."""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from mnist_cls import Predictor
from mnist_cls.cli.settings import TrainerSettings
from mnist_cls.data.normalization import normalize
from mnist_cls.errors import InputError
from mnist_cls.training.datamodule import MNISTDataModule
from mnist_cls.training.metrics import EpochMeans
from mnist_cls.training.module import MNISTModule
from mnist_cls.training.trainer import make_trainer

CONFIG = {"name": "image_classifier", "dropout": 0.5}
SMALL = TrainerSettings(accelerator="cpu", max_epochs=1, enable_progress_bar=False)


class Spy(MNISTModule):
    """Records its inputs, its mode and its gradients."""

    def __init__(self) -> None:
        super().__init__(CONFIG)
        self.seen: dict[str, list[tuple[object, ...]]] = {}

    def run_network(self, pixels: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = super().run_network(pixels)
        stage = self.trainer.state.stage
        assert stage is not None
        facts = (pixels.dtype, self.model.training, logits.requires_grad, torch.is_inference_mode_enabled())
        self.seen.setdefault(stage.value, []).append(facts)
        return logits


def test_modes_and_gradients_are_where_they_belong(tmp_path: Path) -> None:
    module = Spy()
    data = MNISTDataModule(train_size=256, validation_size=256)
    trainer = make_trainer(SMALL, tmp_path)
    trainer.fit(module, data)
    trainer.limit_test_batches = 2
    trainer.test(module, data, verbose=False)
    assert set(module.seen["train"]) == {(torch.uint8, True, True, False)}
    assert set(module.seen["validate"]) == {(torch.uint8, False, False, False)} or set(module.seen["validate"]) == {
        (torch.uint8, False, False, True)
    }
    assert set(module.seen["test"]) == {(torch.uint8, False, False, True)}


def test_forward_is_the_networks_on_normalized_images(digits: object) -> None:
    module = MNISTModule(CONFIG).eval()
    images = torch.as_tensor(digits)
    torch.testing.assert_close(module(images), module.model(normalize(images)))


def test_dropout_is_random_in_training_only() -> None:
    module, images = MNISTModule(CONFIG), torch.randint(0, 256, (4, 28, 28), dtype=torch.uint8)
    assert not torch.equal(module(images), module(images))
    module.eval()
    assert torch.equal(module(images), module(images))


def test_the_predictor_computes_no_gradient_and_no_dropout(digits: object) -> None:
    network = MNISTModule(CONFIG).model.train()
    seen = []
    network.register_forward_hook(lambda module, inputs, output: seen.append((module.training, output.requires_grad)))
    images = torch.as_tensor(digits)[:4]
    first, second = (Predictor(network, device="cpu")(images).probabilities for _ in range(2))
    assert (first == second).all()
    assert set(seen) == {(False, False)}


def test_a_step_changes_every_parameter(tmp_path: Path) -> None:
    module = MNISTModule(CONFIG)
    before = [parameter.detach().clone() for parameter in module.model.parameters()]
    trainer = make_trainer(SMALL, tmp_path)
    trainer.fit(module, MNISTDataModule(train_size=256, validation_size=256))
    assert all(not torch.equal(old, new) for old, new in zip(before, module.model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"name": "nothing"}, "no model is called 'nothing'"),
        ({"name": "mlp", "widths": [784, 9]}, r"returns \(2, 9\) for 2 images; expected 10 logits each"),
        ({"name": "mlp", "widths": [3, 4, 10]}, "does not take images"),
    ],
)
def test_a_network_that_cannot_read_digits_is_refused(model: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MNISTModule(model)


def test_a_schedule_over_too_few_steps_is_one_line(tmp_path: Path) -> None:
    schedule = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.1, pct_start=0.25)
    module, data = MNISTModule(CONFIG, scheduler=schedule), MNISTDataModule(train_size=512, validation_size=256)
    with pytest.raises(InputError, match=r"does not fit \d+ steps; train longer, or without one"):
        make_trainer(SMALL, tmp_path).fit(module, data)


def test_accumulated_metrics_are_those_of_all_images(tmp_path: Path) -> None:
    module = MNISTModule(CONFIG)
    data = MNISTDataModule(batch_size=300, validation_size=1000)  # the last batch is smaller
    trainer = make_trainer(SMALL, tmp_path)
    trainer.validate(module, data, verbose=False)
    assert data.val_data is not None
    with torch.no_grad():
        logits = module.eval()(data.val_data.images)
    loss = nn.functional.cross_entropy(logits, data.val_data.labels).item()
    accuracy = (logits.argmax(1) == data.val_data.labels).float().mean().item()
    assert trainer.callback_metrics["val/loss"].item() == pytest.approx(loss, abs=1e-5)
    assert trainer.callback_metrics["val/accuracy"].item() == pytest.approx(accuracy, abs=1e-6)


def test_metrics_are_exact_whatever_the_precision_of_the_loss() -> None:
    means = EpochMeans()
    means.update(torch.tensor(0.5, dtype=torch.bfloat16), torch.ones(257, dtype=torch.bool), 257)
    totals = means.totals(lambda sums, reduce_op: sums, torch.device("cpu"))
    assert totals.tolist() == [128.5, 257, 257]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_images_live_there_as_bytes(tmp_path: Path) -> None:
    module, data = Spy(), MNISTDataModule(train_size=256, validation_size=256)
    settings = TrainerSettings(accelerator="cuda", max_epochs=1, enable_progress_bar=False)
    make_trainer(settings, tmp_path).fit(module, data)
    assert data.train_data is not None
    assert data.train_data.images.is_cuda
    assert {facts[0] for facts in module.seen["train"]} == {torch.uint8}
