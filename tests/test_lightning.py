"""What somebody who knows Lightning but not this package would try, on real digits."""

import copy
import functools
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.tuner.tuning import Tuner
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from mnist_cls import MNISTDataModule, MNISTModule, Predictor, load_model, register_model
from mnist_cls.data.datasets import LabelledImages
from mnist_cls.errors import InputError
from mnist_cls.training.callbacks import TensorBoardInspection, TensorBoardPictures

from .conftest import ROOT
from .forged import archive_of, training, write

MLP = {"name": "mlp", "widths": [784, 16, 10]}

MakeTrainer = Callable[..., Trainer]


@pytest.fixture
def make(tmp_path: Path) -> MakeTrainer:
    """Create a Trainer for a few batches."""
    few = {f"limit_{stage}_batches": 3 for stage in ("train", "val", "test", "predict")}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    here = {"accelerator": "cpu", "default_root_dir": tmp_path, "enable_checkpointing": False, "max_epochs": 1}
    return lambda **options: Trainer(**{**few, **quiet, **here, **options})


def linear() -> nn.Module:
    """A network of the user's own."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))


def loader(mnist_test: LabelledImages, change: Callable[[Tensor], Tensor], **options: Any) -> DataLoader[Any]:
    """A loader of 256 digits, changed."""
    images, labels = mnist_test.images[:256], mnist_test.labels[:256]
    return DataLoader(TensorDataset(change(images), labels), **{"batch_size": 32, **options})


def to_tensor(images: Tensor) -> Tensor:
    """What torchvision's ToTensor returns, for a batch."""
    return images.unsqueeze(1).float() / 255


class TorchvisionDigits(Dataset[tuple[Tensor, int]]):
    """Digits as in torchvision's MNIST: a Pillow image passed through ToTensor, and an int label."""

    def __init__(self, data: LabelledImages) -> None:
        from torchvision.transforms.v2.functional import to_image, to_pil_image

        self.data, self.to_image, self.to_pil_image = data, to_image, to_pil_image

    def __len__(self) -> int:
        return 200

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from torchvision.transforms import ToTensor

        return ToTensor()(self.to_pil_image(self.data.images[index])), int(self.data.labels[index])


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[MNISTModule, ModelCheckpoint, Path]:
    """A training with a user's own Trainer, callbacks and logger."""
    folder = tmp_path_factory.mktemp("own")
    best = ModelCheckpoint(folder, monitor="val/accuracy", mode="max", save_top_k=-1, save_last=True)
    callbacks = [best, EarlyStopping("val/accuracy", mode="max"), LearningRateMonitor()]
    module = MNISTModule(MLP, functools.partial(torch.optim.SGD, momentum=0.9), label_smoothing=0.1, lr=0.05)
    trainer = Trainer(
        accelerator="cpu", max_epochs=2, limit_train_batches=10, limit_val_batches=2, callbacks=callbacks,
        logger=CSVLogger(folder, name="", version=""), enable_progress_bar=False, log_every_n_steps=5,
    )  # fmt: skip
    trainer.fit(module, MNISTDataModule(batch_size=64))
    return module, best, folder


# What a module is made of


def test_a_module_is_made_of_nothing_a_name_a_dict_or_a_network(digits: Any) -> None:
    images = torch.as_tensor(digits)
    for module in (MNISTModule(), MNISTModule("mlp"), MNISTModule(MLP), MNISTModule(model=linear())):
        assert module(images).shape == (100, 10)
        assert "model" in repr(module)
        for copied in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):  # noqa: S301
            assert torch.equal(copied.eval()(images), module.eval()(images))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"model": nn.Linear}, "model is Linear: expected a network, its name"),
        ({"model": {"widths": [784, 10]}}, "expected a name"),
        ({"model": {"name": "mlp", "widths": nn.ReLU()}}, "model.widths is a ReLU: expected numbers, text"),
        ({"optimizer": "adam"}, r"optimizer is a str: expected .* functools.partial\(torch.optim.AdamW, lr=1e-3\)"),
        ({"lr": "high"}, "lr=high: expected a number"),
        ({"label_smoothing": 1.0}, "label_smoothing=1.0: expected a number, at least 0 and below 1"),
    ],
)
def test_what_is_no_argument_is_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        MNISTModule(**arguments)


# Images


@pytest.mark.parametrize(
    "change",
    [
        lambda images: images.unsqueeze(1),
        lambda images: images.float(),
        lambda images: images.long(),
        lambda images: images.float() / 255,
        to_tensor,
        lambda images: to_tensor(images).double(),
    ],
    ids=["uint8 (B, 1, 28, 28)", "to 255", "int64", "to 1", "ToTensor", "float64"],
)
def test_the_same_images_give_the_same_logits(
    make: MakeTrainer, mnist_test: LabelledImages, change: Callable[[Tensor], Tensor]
) -> None:
    module, images = MNISTModule(MLP).eval(), mnist_test.images[:96]
    expected = module(images).softmax(1)
    torch.testing.assert_close(module(change(images)).softmax(1), expected)
    predicted: Any = make().predict(module, loader(mnist_test, change))
    torch.testing.assert_close(torch.cat(predicted), expected)


def test_black_and_white_images_are_not_taken_for_black_ones(mnist_test: LabelledImages) -> None:
    module, white = MNISTModule(MLP).eval(), mnist_test.images[:8] > 127
    expected = module(white.to(torch.uint8) * 255)
    torch.testing.assert_close(module(white.to(torch.uint8)), expected)
    torch.testing.assert_close(module(white), expected)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda x: (to_tensor(x) - 0.1307) / 0.3081,
            "values from -0.424 to 2.82: expected 0 .*Normalize",
        ),
        (lambda x: to_tensor(x) * 2 - 1, "values from -1 to 1: expected"),
        (lambda x: x.float() * 255, "expected 0 to 1"),
        (lambda x: x.long() + 1, "values from 1 to 256: expected"),
        (lambda x: to_tensor(x).expand(-1, 3, -1, -1), r"float32 \(32, 3, 28, 28\): expected .*Grayscale"),
        (lambda x: x.reshape(-1, 784), r"uint8 \(32, 784\): expected \(B, 28, 28\)"),
    ],
)
def test_other_images_are_refused_at_the_first_batch(
    make: MakeTrainer, mnist_test: LabelledImages, change: Callable[[Tensor], Tensor], words: str
) -> None:
    module, batches = MNISTModule(MLP), loader(mnist_test, change)
    for run in (make().fit, make().validate, make().test, make().predict):
        with pytest.raises(InputError, match=words) as caught:
            run(module, batches)
        assert str(caught.value).isprintable()
    with pytest.raises(InputError, match=words):
        module(next(iter(batches))[0])


def test_floats_to_255_are_read_and_said_to_be_unusual(
    make: MakeTrainer, mnist_test: LabelledImages, capsys: pytest.CaptureFixture[str]
) -> None:
    make().fit(MNISTModule(MLP), loader(mnist_test, lambda images: images.float()))
    [line] = capsys.readouterr().out.splitlines()
    assert re.search("floats with values up to 255.* expected uint8, or floats from 0 to 1", line)
    make().fit(MNISTModule(MLP), MNISTDataModule(augmentation={"rotation": 10}))  # augmented images are floats
    make().fit(MNISTModule(MLP), loader(mnist_test, to_tensor))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (lambda labels: nn.functional.one_hot(labels, 10), r"labels are int64 \(32, 10\): expected integers"),
        (lambda labels: labels.float(), r"labels are float32 \(32,\)"),
        (lambda labels: labels + 1, "labels from 1 to 10: expected 0 to 9"),
    ],
)
def test_other_labels_are_refused(
    make: MakeTrainer, mnist_test: LabelledImages, labels: Callable[[Tensor], Tensor], words: str
) -> None:
    data = TensorDataset(mnist_test.images[:32], labels(mnist_test.labels[:32]))
    with pytest.raises(InputError, match=words):
        make().fit(MNISTModule(MLP), DataLoader(data, batch_size=32))


def test_batches_that_are_no_pairs_are_refused(make: MakeTrainer, mnist_test: LabelledImages) -> None:
    data: Any = [{"image": mnist_test.images[0], "label": 7}]
    with pytest.raises(InputError, match="a batch is a dict: expected a pair of images and labels"):
        make().fit(MNISTModule(MLP), DataLoader(data))


# Loaders and Trainers


@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 2}, {"precision": "bf16-mixed"}])
def test_own_loaders_train_and_evaluate(make: MakeTrainer, mnist_test: LabelledImages, options: dict[str, Any]) -> None:
    digits = TorchvisionDigits(mnist_test)
    module, trainer = MNISTModule(MLP, lr=0.01), make(max_epochs=3, limit_train_batches=1.0, **options)
    batches = DataLoader(digits, batch_size=20, shuffle=True)
    trainer.fit(module, batches, batches)
    assert trainer.callback_metrics["train/accuracy_epoch"] > 0.5
    [metrics] = trainer.test(module, batches, verbose=False)
    assert metrics["test/accuracy"] > 0.5


def test_accumulated_batches_of_own_loaders_have_the_gradient_of_a_large_one(
    make: MakeTrainer, mnist_test: LabelledImages
) -> None:
    start, weights = MNISTModule(MLP, torch.optim.SGD, lr=0.1), []
    for size in (32, 64):
        module = copy.deepcopy(start)
        trainer = make(limit_train_batches=128 // size, accumulate_grad_batches=64 // size)
        trainer.fit(module, loader(mnist_test, to_tensor, batch_size=size))
        weights.append(torch.cat([parameter.detach().flatten() for parameter in module.parameters()]))
    torch.testing.assert_close(*weights)
    assert not torch.equal(weights[0], torch.cat([parameter.detach().flatten() for parameter in start.parameters()]))


def test_several_validation_loaders(make: MakeTrainer, mnist_test: LabelledImages) -> None:
    module, trainer = MNISTModule(MLP), make(callbacks=[EarlyStopping("val/accuracy", mode="max")])
    loaders = [loader(mnist_test, to_tensor), loader(mnist_test, lambda images: images)]
    trainer.fit(module, loader(mnist_test, to_tensor), loaders)
    metrics = trainer.callback_metrics
    for name in ("val/accuracy", "val/loss"):
        first, second = (metrics[f"{name}/dataloader_idx_{index}"] for index in (0, 1))
        assert first.item() == pytest.approx(second.item(), abs=1e-5)
        assert metrics[name].item() == pytest.approx(first.item(), abs=1e-5)


def test_the_datamodule_needs_no_setup(make: MakeTrainer) -> None:
    module, data = MNISTModule(MLP), MNISTDataModule
    assert make().validate(module, data(), verbose=False)[0].keys() == {"val/loss", "val/accuracy"}
    assert make().test(module, datamodule=data(), verbose=False)[0].keys() == {"test/loss", "test/accuracy"}
    assert next(iter(data(batch_size=7).train_dataloader()))[0].shape == (7, 28, 28)
    assert len(data().predict_dataloader().sampler.indices()) == 10_000


def test_predictions_are_probabilities(make: MakeTrainer, mnist_test: LabelledImages) -> None:
    module = MNISTModule.load_from_checkpoint("image_classifier")
    expected = Predictor(device="cpu", engine="eager")(mnist_test.images[:96].numpy()).probabilities
    assert (Predictor(module, device="cpu")(mnist_test.images[:96]).probabilities == expected).all()
    images = mnist_test.images[:96].unsqueeze(1)
    only_images: Any = images
    for data in (only_images, TensorDataset(images)):
        predicted: Any = make().predict(module, DataLoader(data, batch_size=32))
        torch.testing.assert_close(torch.cat(predicted), torch.as_tensor(expected), atol=1e-4, rtol=1e-3)
    predicted = make().predict(module, datamodule=MNISTDataModule(batch_size=32))
    torch.testing.assert_close(torch.cat(predicted), torch.as_tensor(expected), atol=1e-4, rtol=1e-3)
    outputs: Any = make().predict(MNISTModule("autoencoder"), MNISTDataModule(batch_size=32))
    assert outputs[0].shape == (32, 1, 28, 28)


class Labels(Callback):
    """Keeps the labels of each training batch."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.seen.append(batch[1].tolist())


def test_overfit_batches_are_the_same_ones_in_each_epoch(make: MakeTrainer, mnist_test: LabelledImages) -> None:
    shuffled = MNISTDataModule(batch_size=32)
    make().fit(MNISTModule(MLP), shuffled)
    for data in (shuffled, loader(mnist_test, to_tensor, shuffle=True)):
        labels = Labels()
        make(overfit_batches=2, limit_train_batches=1.0, max_epochs=3, callbacks=[labels]).fit(MNISTModule(MLP), data)
        first, second, *later = labels.seen
        assert later == [first, second] * 2


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_weights_of_another_precision(make: MakeTrainer, mnist_test: LabelledImages, precision: Any) -> None:
    for data in (MNISTDataModule(), loader(mnist_test, to_tensor)):
        trainer = make(precision=precision)
        trainer.fit(MNISTModule(MLP), data)
        assert trainer.callback_metrics["train/loss"].isfinite()


def test_a_training_without_a_limit(make: MakeTrainer, tmp_path: Path) -> None:
    module, trainer = MNISTModule(MLP), make(max_epochs=-1, max_time={"seconds": 1}, limit_val_batches=0)
    trainer.fit(module, MNISTDataModule())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert same(MNISTModule.load_from_checkpoint(tmp_path / "last.ckpt"), module)
    schedule = functools.partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.1)
    with pytest.raises(InputError, match="needs the number of steps; set max_epochs or max_steps"):
        make(max_epochs=-1, max_time={"seconds": 1}).fit(MNISTModule(MLP, scheduler=schedule), MNISTDataModule())


def test_fast_dev_run_and_the_summary(capsys: pytest.CaptureFixture[str]) -> None:
    trainer = Trainer(fast_dev_run=True, accelerator="cpu", enable_progress_bar=False)
    trainer.fit(MNISTModule(MLP), MNISTDataModule())
    assert "12.7 K" in capsys.readouterr().out


def test_the_callbacks_of_this_package_in_another_trainer(
    make: MakeTrainer, mnist_test: LabelledImages, tmp_path: Path
) -> None:
    logger = TensorBoardLogger(tmp_path)
    trainer = make(logger=logger, callbacks=[TensorBoardPictures(), TensorBoardInspection()])
    trainer.fit(MNISTModule(MLP), loader(mnist_test, to_tensor), loader(mnist_test, to_tensor))
    assert trainer.callback_metrics["val/accuracy"] > 0


def test_the_tuner_finds_learning_rate_and_batch_size(make: MakeTrainer) -> None:
    module, data = MNISTModule(MLP), MNISTDataModule()
    found: Any = Tuner(make(limit_train_batches=1.0)).lr_find(module, data, num_training=20)
    assert module.lr == found.suggestion()
    trainer = make()
    size = Tuner(trainer).scale_batch_size(module, datamodule=data, init_val=16, max_trials=3)
    trainer.fit(module, data)
    loader: Any = trainer.train_dataloader
    assert size == data.batch_size == loader.batch_size == 64
    assert trainer.optimizers[0].param_groups[0]["lr"] == module.lr


def test_exports_are_left_to_the_command() -> None:
    for export in (MNISTModule(MLP).to_onnx, MNISTModule(MLP).to_torchscript):
        with pytest.raises(InputError, match=r"python -m mnist_cls.export checkpoint=FILE output=FILE.onnx"):
            export("model.onnx")


# Checkpoints


def same(one: MNISTModule, other: MNISTModule) -> bool:
    """Whether two modules have the same weights."""
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(name == key and torch.equal(value, tensor) for (name, value), (key, tensor) in pairs)


def test_checkpoints_of_an_own_trainer(
    fitted: tuple[MNISTModule, ModelCheckpoint, Path], mnist_test: LabelledImages
) -> None:
    module, best, _ = fitted
    loaded = MNISTModule.load_from_checkpoint(best.last_model_path)
    assert same(loaded, module)
    assert loaded.hparams == {"model": MLP, "label_smoothing": 0.1, "compile": None, "lr": 0.05}
    assert (loaded.lr, loaded.label_smoothing) == (0.05, 0.1)
    assert loaded(mnist_test.images[:3]).shape == (3, 10)
    loaded.freeze()
    assert torch.equal(loaded(mnist_test.images), load_model(best.last_model_path)(loaded_input(mnist_test)))
    changed = MNISTModule.load_from_checkpoint(best.last_model_path, map_location="cpu", weights_only=True, lr=1.0)
    assert changed.lr == 1.0
    assert MNISTDataModule.load_from_checkpoint(best.last_model_path).batch_size == 64
    assert MNISTDataModule.load_from_checkpoint(best.last_model_path, batch_size=8).batch_size == 8


def loaded_input(data: LabelledImages) -> Tensor:
    """The images as networks get them."""
    from mnist_cls.data.normalization import normalize

    return normalize(data.images)


def test_checkpoints_of_this_package(trained: Path, make: MakeTrainer) -> None:
    path = trained / "checkpoints" / "best.ckpt"
    module = MNISTModule.load_from_checkpoint(path)
    assert same(module, MNISTModule.load_from_checkpoint(str(path)))
    [metrics] = make().test(module, MNISTDataModule(), verbose=False)
    [again] = make().test(MNISTModule(), MNISTDataModule(), ckpt_path=path, verbose=False)
    assert metrics == again
    assert metrics["test/accuracy"] > 0.5


def test_loading_into_an_instance_is_refused(trained: Path) -> None:
    for instance in (MNISTModule(MLP), copy.deepcopy(MNISTModule(MLP)), MNISTDataModule()):
        with pytest.raises(InputError, match="returns a new object: call it on the class"):
            instance.load_from_checkpoint(trained / "checkpoints" / "best.ckpt")


def test_the_loggers_get_the_hyperparameters(fitted: tuple[MNISTModule, ModelCheckpoint, Path]) -> None:
    text = (fitted[2] / "hparams.yaml").read_text()
    for line in ("lr: 0.05", "name: mlp", "batch_size: 64"):
        assert line in text


def test_checkpoints_in_test_validate_predict_and_fit(
    fitted: tuple[MNISTModule, ModelCheckpoint, Path], make: MakeTrainer
) -> None:
    module, best, _ = fitted
    path, data = best.last_model_path, MNISTDataModule
    other = MNISTModule(MLP, functools.partial(torch.optim.SGD, momentum=0.9), lr=0.05)
    make().test(other, data(), ckpt_path=path, verbose=False)
    assert same(other, module)
    make().validate(MNISTModule(MLP), data(batch_size=8), ckpt_path=path, verbose=False)
    predicted: Any = make().predict(MNISTModule(MLP), data(), ckpt_path=path)
    assert len(predicted) == 3
    trainer = make(max_epochs=4, limit_train_batches=10)
    trainer.fit(other, data(batch_size=64), ckpt_path=path)
    assert trainer.global_step == 40
    trainer = make(max_epochs=2, limit_train_batches=10)  # complete already: nothing to do
    trainer.fit(other, data(batch_size=64), ckpt_path=path)
    assert same(other, module)
    with pytest.raises(InputError, match=r"does not fit the network 'mlp': fc1.weight is \(16, 784\)"):
        make().test(MNISTModule("mlp"), data(), ckpt_path=path)


def test_a_resumed_training_is_the_uninterrupted_one(make: MakeTrainer, tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = MNISTModule({"name": "image_classifier", "dropout": 0.5})
    resumed = copy.deepcopy(whole)
    checkpoints = ModelCheckpoint(tmp_path, every_n_train_steps=2, save_top_k=-1, filename="{step}")
    data: dict[str, Any] = {"train_size": 256, "batch_size": 64}
    make(enable_checkpointing=True, callbacks=[checkpoints], limit_train_batches=1.0).fit(
        whole, MNISTDataModule(**data)
    )
    make(limit_train_batches=1.0).fit(resumed, MNISTDataModule(**data), ckpt_path=tmp_path / "step=2.ckpt")
    assert same(whole, resumed)


def test_after_fit_test_needs_no_arguments(make: MakeTrainer, mnist_test: LabelledImages) -> None:
    trainer = make(enable_checkpointing=True)
    trainer.fit(MNISTModule(MLP), MNISTDataModule())
    assert "test/accuracy" in trainer.test(verbose=False)[0]
    trainer = make(enable_checkpointing=True)
    trainer.fit(MNISTModule(MLP), loader(mnist_test, to_tensor))
    with pytest.raises(InputError, match=r"no images to test: pass .* trainer.test\(module, DATA\)"):
        trainer.test(verbose=False)


def test_networks_of_the_users_own(make: MakeTrainer, tmp_path: Path) -> None:
    trainer, path = make(), tmp_path / "own.ckpt"
    module = MNISTModule(model=linear())
    trainer.fit(module, MNISTDataModule())
    for weights_only in (False, True):
        trainer.save_checkpoint(path, weights_only)
        assert same(MNISTModule.load_from_checkpoint(path, model=linear()), module)
    with pytest.raises(InputError, match=r"pass it again: load_from_checkpoint\(..., model=NETWORK\)"):
        MNISTModule.load_from_checkpoint(path)
    with pytest.raises(InputError, match=r"does not fit"):
        MNISTModule.load_from_checkpoint(path, model="mlp")

    register_model("own_linear")(linear)
    trainer = make()
    module = MNISTModule("own_linear")
    trainer.fit(module, MNISTDataModule())
    trainer.save_checkpoint(path)
    assert same(MNISTModule.load_from_checkpoint(path), module)


def test_a_subclass_gets_its_own_arguments(make: MakeTrainer, tmp_path: Path) -> None:
    class Wide(MNISTModule):
        def __init__(self, width: int, **options: Any) -> None:
            super().__init__(nn.Sequential(nn.Flatten(), nn.Linear(784, width), nn.Linear(width, 10)), **options)
            self.scale = nn.Parameter(torch.ones(()))  # beside the network
            self.save_hyperparameters()

    module, trainer = Wide(12, lr=0.1), make()
    trainer.fit(module, MNISTDataModule())
    with torch.no_grad():
        module.scale.add_(1)
    trainer.save_checkpoint(tmp_path / "own.ckpt")
    loaded = Wide.load_from_checkpoint(tmp_path / "own.ckpt")
    assert same(loaded, module)
    assert loaded.lr == 0.1
    del loaded.scale
    state = MNISTModule.load_from_checkpoint(tmp_path / "own.ckpt", model=loaded.model, strict=False)
    assert same(state, loaded)


def test_a_training_step_of_ones_own_logs_what_it_logs(make: MakeTrainer, mnist_test: LabelledImages) -> None:
    class Own(MNISTModule):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            images, labels = batch
            loss = nn.functional.cross_entropy(self(images), labels)
            self.log("own", loss)
            return loss

    trainer = make()
    trainer.fit(Own(MLP), loader(mnist_test, to_tensor), loader(mnist_test, to_tensor))
    assert trainer.callback_metrics.keys() == {"own", "val/loss", "val/accuracy"}


def test_numbers_of_numpy_are_kept_as_plain_ones(make: MakeTrainer, tmp_path: Path) -> None:
    trainer = make()
    size: Any = np.int64(32)
    trainer.fit(MNISTModule(MLP, lr=np.logspace(-3, -1, 3)[1]), MNISTDataModule(batch_size=size))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert MNISTModule.load_from_checkpoint(tmp_path / "last.ckpt").lr == 0.01
    assert MNISTDataModule.load_from_checkpoint(tmp_path / "last.ckpt").batch_size == 32


def test_checkpoints_without_hyperparameters_load(tmp_path: Path) -> None:
    path = write(tmp_path / "old.ckpt", archive_of(training()))
    state = MNISTModule.load_from_checkpoint(path).state_dict()
    assert torch.equal(state["model.fc1.weight"], training()["state_dict"]["model.fc1.weight"])
    with pytest.raises(InputError, match="holds no datamodule_hyper_parameters"):
        MNISTDataModule.load_from_checkpoint(path)


@pytest.mark.parametrize(
    "forged",
    [
        {"_instantiator": "antigravity.fly"},
        {"_instantiator": "lightning.pytorch.cli.instantiate_module", "_class_path": "antigravity.Fly"},
        {"_target_": "antigravity.fly", "model": {"_target_": "antigravity.fly"}},
        {"optimizer_factory": "antigravity.fly", "optimizer_": "antigravity.fly"},
    ],
)
def test_forged_hyperparameters_import_nothing(tmp_path: Path, forged: dict[str, Any]) -> None:
    import sys

    content = training() | {"hyper_parameters": forged, "hparams_name": "kwargs", "hparams_type": "antigravity.fly"}
    content |= {"datamodule_hyper_parameters": {"_instantiator": "antigravity.fly"}}
    path = write(tmp_path / "evil.ckpt", archive_of(content))
    assert MNISTModule.load_from_checkpoint(path).model_config == content["mnist_cls"]["model"]
    MNISTDataModule.load_from_checkpoint(path)
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    ("forged", "words"),
    [
        ({"hyper_parameters": [1]}, "its hyper_parameters is a list"),
        ({"hyper_parameters": {"optimizer": "os.mkdir"}}, "optimizer is a str"),
        ({"hyper_parameters": {"lr": "os.mkdir"}}, "lr=os.mkdir: expected a number"),
        ({"hyper_parameters": {"compile": 3}}, "compile=3"),
        ({"mnist_cls": {"model": {"name": "os.mkdir"}}}, "no model is called 'os.mkdir'"),
        ({"mnist_cls": {"model": {"name": "mlp", "widths": [784, 10**6, 10**6, 10]}}}, "does not fit the network"),
    ],
)
def test_hyperparameters_that_are_refused(tmp_path: Path, forged: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        MNISTModule.load_from_checkpoint(write(tmp_path / "evil.ckpt", archive_of(training() | forged)))


def test_a_class_in_the_hyperparameters_is_refused(tmp_path: Path) -> None:
    path = write(
        tmp_path / "evil.ckpt", archive_of(training() | {"hparams_type": dict, "hyper_parameters": {"x": Path}})
    )
    for kind in (MNISTModule, MNISTDataModule):
        with pytest.raises(InputError, match=r"evil.ckpt: not loaded"):
            kind.load_from_checkpoint(path)


@pytest.mark.slow
def test_the_lines_of_the_docs_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "lightning.md").read_text()
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(block, names)  # noqa: S102 (of this repository)
    assert sum(map(len, names["probabilities"])) == 10_000
