"""The networks have the layers and shapes that they promise, and are found by name."""

import copy
import functools
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mnist_cls import create_model, list_models, models, register_model
from mnist_cls.checkpoints.build import named_model
from mnist_cls.cli.settings import TrainerSettings
from mnist_cls.data.datasets import LabelledImages
from mnist_cls.errors import InputError
from mnist_cls.models.autoencoder import Autoencoder
from mnist_cls.models.conditional import Conditional, ConditionalOutputs
from mnist_cls.models.image_classifier import ImageClassifier
from mnist_cls.models.mlp import MLP
from mnist_cls.models.registry import _MODELS, register_file
from mnist_cls.models.residual import Block
from mnist_cls.training.datamodule import MNISTDataModule
from mnist_cls.training.module import MNISTModule
from mnist_cls.training.trainer import make_trainer

from .test_configs import OWN_NETWORK


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_image_classifier_has_exactly_its_layers() -> None:
    model = ImageClassifier()
    layers = {name: str(layer) for name, layer in model.named_children()}
    assert layers == {
        "conv1": "Conv2d(1, 32, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))",
        "conv2": "Conv2d(32, 64, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))",
        "pool": "MaxPool2d(kernel_size=2, stride=2, padding=0, dilation=1, ceil_mode=False)",
        "fc1": "Linear(in_features=3136, out_features=128, bias=True)",
        "dropout": "Dropout(p=0.25, inplace=False)",
        "fc2": "Linear(in_features=128, out_features=10, bias=True)",
    }
    assert count(model) == 421_642


def test_image_classifier_shapes_on_the_way() -> None:
    model, shapes = ImageClassifier(), []
    for layer in model.children():
        layer.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape[1:])))
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    assert shapes == [(32, 28, 28), (32, 14, 14), (64, 14, 14), (64, 7, 7), (128,), (128,), (10,)]


def test_image_classifier_computes_what_its_docstring_says() -> None:
    model, x = ImageClassifier().eval(), torch.randn(3, 1, 28, 28)
    y = nn.functional.max_pool2d(model.conv1(x).clamp(min=0), 2)
    y = nn.functional.max_pool2d(model.conv2(y).clamp(min=0), 2)
    expected = model.fc2(model.fc1(y.reshape(3, 3136)).clamp(min=0))
    torch.testing.assert_close(model(x), expected)


def test_mlp_by_default() -> None:
    model = create_model("mlp")
    assert count(model) == 784 * 128 + 128 + 128 * 10 + 10
    assert [name for name, layer in model.named_children() if isinstance(layer, nn.Linear)] == ["fc1", "fc2"]
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_a_perceptron_of_3_4_1_is_one_call() -> None:
    model, x = create_model("mlp", widths=(3, 4, 1)), torch.randn(5, 3)
    fc1, fc2 = model.get_submodule("fc1"), model.get_submodule("fc2")
    expected = fc2(fc1(x).clamp(min=0))
    torch.testing.assert_close(model(x), expected)


WITH_DROPOUT = [name for name in list_models() if "dropout" in inspect.signature(_MODELS[name]).parameters]


def test_the_networks_with_dropout_are_found() -> None:
    assert {"image_classifier", "mlp", "residual", "accurate", "conditional"} <= set(WITH_DROPOUT)


@pytest.mark.parametrize("name", WITH_DROPOUT)
def test_dropout_is_random_in_training_and_absent_in_evaluation(name: str) -> None:
    model, x = create_model(name, dropout=0.5), torch.randn(4, 1, 28, 28)
    first, second = (output if isinstance(output, torch.Tensor) else output[0] for output in (model(x), model(x)))
    assert not torch.equal(first, second)
    model.eval()
    assert torch.equal(model(x), model(x))


def test_unknown_name_says_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"did you mean 'image_classifier'.*image_classifier.*mlp"):
        create_model("image_clasifier")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 3}, "no option 'width'; its options: widths, dropout"),
        ({"widths": [3]}, "two or more positive whole numbers"),
        ({"widths": [3, 0]}, "two or more positive whole numbers"),
        ({"dropout": 7.0}, "between 0 and 1"),
    ],
)
def test_wrong_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_model("mlp", **options)


def test_a_network_of_the_users_own_is_known_by_its_name() -> None:
    @register_model("one_layer")
    class OneLayer(nn.Linear):
        def __init__(self) -> None:
            super().__init__(784, 10)

    assert "one_layer" in list_models()
    assert isinstance(create_model("one_layer"), OneLayer)
    with pytest.raises(ValueError, match="taken by"):
        register_model("mlp")(OneLayer)


def test_a_function_that_returns_a_network_is_registered_as_in_timm() -> None:
    @register_model
    def wide_mlp(width: int = 1000) -> nn.Module:
        return MLP(widths=(784, width, 10))

    @register_model("wider_mlp")
    def wider(**options: float) -> nn.Module:
        return MLP(widths=(784, 2000, 10), **options)

    assert wide_mlp(5)(torch.zeros(2, 784)).shape == (2, 10)  # it is still the function
    assert {"wide_mlp", "wider_mlp"} <= set(list_models())
    assert count(create_model("wide_mlp", width=3)) == 784 * 3 + 3 + 3 * 10 + 10
    assert create_model("wider_mlp", dropout=0.5)(torch.zeros(2, 784)).shape == (2, 10)
    with pytest.raises(ValueError, match="has no option 'widths'; its options: width"):
        create_model("wide_mlp", widths=3)


def test_a_class_without_a_name_is_called_as_the_class() -> None:
    @register_model
    class OneLayer(nn.Linear):
        def __init__(self) -> None:
            super().__init__(784, 10)

    assert isinstance(create_model("OneLayer"), OneLayer)


def test_a_function_that_returns_no_network_is_refused() -> None:
    @register_model("nothing")
    def nothing() -> Any:
        return None

    with pytest.raises(ValueError, match=r"'nothing': its function returned a NoneType, expected a torch.nn.Module"):
        create_model("nothing")


@pytest.mark.parametrize("name", list_models())
def test_the_class_of_each_network_is_public(name: str) -> None:
    assert type(create_model(name)).__name__ in models.__all__


def test_residual_block_adds_its_input() -> None:
    block, x = Block(4, 4).eval(), torch.randn(2, 4, 6, 6)
    nn.init.zeros_(block.norm2.weight)  # now the convolutions return zero, and only the skip connection is left
    assert torch.equal(block(x), torch.relu(x))
    wider = Block(4, 8, stride=2).eval()
    nn.init.zeros_(wider.norm2.weight)
    assert wider(x).shape == (2, 8, 3, 3)
    torch.testing.assert_close(wider(x), torch.relu(wider.skip(x)))


def test_residual_has_the_stages_that_are_asked_for() -> None:
    model = create_model("residual", widths=[8, 16], blocks=3)
    assert [len(getattr(model, stage)) for stage in ("stage1", "stage2")] == [3, 3]
    assert count(create_model("residual")) == 308_586
    with pytest.raises(ValueError, match="must be positive"):
        create_model("residual", blocks=0)


@pytest.fixture
def conditional() -> Conditional:
    """A network in which some of `IMAGES` leave at the early head, and others do not."""
    torch.manual_seed(0)
    model = Conditional().eval()
    model.early_head.weight.data.mul_(20)
    with torch.no_grad():
        confidences = model.train()(IMAGES).early_logits.softmax(1).amax(1)
    model.eval().threshold.fill_(confidences.median())
    return model


IMAGES = torch.linspace(-1, 3, 9 * 784).sin().view(9, 1, 28, 28)


def test_the_early_exit_takes_each_image_from_its_own_head(conditional: Conditional) -> None:
    with torch.no_grad():
        both = conditional.train(False)(IMAGES)
        conditional.dropout.p = 0.0
        early = conditional.train()(IMAGES).early_logits
        mixed = conditional.eval()(IMAGES, early_exit=True)
    leaves = early.softmax(1).amax(1) >= conditional.threshold
    assert 0 < leaves.sum() < len(IMAGES)
    torch.testing.assert_close(mixed[leaves], early[leaves])
    torch.testing.assert_close(mixed[~leaves], both[~leaves])


def test_early_exit_skips_the_rest_when_all_leave(conditional: Conditional) -> None:
    conditional.threshold.fill_(0.0)
    conditional.conv2 = nn.Conv2d(1, 1, 1)  # would fail
    assert conditional(IMAGES, early_exit=True).shape == (9, 10)


def test_both_heads_learn_in_training_and_one_answers_in_evaluation(conditional: Conditional) -> None:
    outputs = conditional.train()(IMAGES, early_exit=True)
    assert isinstance(outputs, ConditionalOutputs)
    labels = torch.arange(9)
    loss = conditional.loss(outputs, IMAGES, labels)
    late, early = (nn.functional.cross_entropy(logits, labels) for logits in outputs)
    torch.testing.assert_close(loss, late + 0.3 * early)
    loss.backward()
    assert all(parameter.grad is not None for parameter in conditional.parameters())
    assert isinstance(conditional.eval()(IMAGES), torch.Tensor)


@pytest.mark.parametrize("tolerance", [0.0, 0.2])
def test_the_threshold_is_the_lowest_that_loses_no_more_than_allowed(
    conditional: Conditional, tolerance: float
) -> None:
    late = conditional(IMAGES).argmax(1)
    with torch.no_grad():
        confidences, early = conditional.train()(IMAGES).early_logits.softmax(1).max(1)
    conditional.eval()
    labels = torch.where(confidences > confidences.median(), early, late)  # the early head is correct where confident

    def correct(threshold: float) -> int:
        conditional.threshold.fill_(threshold)
        return int((conditional(IMAGES, early_exit=True).argmax(1) == labels).sum())

    least = correct(torch.inf) - tolerance * len(IMAGES)
    good = [value for value in confidences.tolist() if correct(value) >= least]
    assert len(good) > 1
    conditional.calibrate([(IMAGES[:5], labels[:5]), (IMAGES[5:], labels[5:])], tolerance)
    assert conditional.threshold.item() == pytest.approx(min(good, default=torch.inf))


def test_images_of_the_same_confidence_leave_together_or_not_at_all(conditional: Conditional) -> None:
    one = IMAGES[:1]
    with torch.no_grad():
        early = conditional.train()(one).early_logits.argmax(1).item()
    late = conditional.eval()(one).argmax(1).item()
    assert early != late
    # The same image four times: the early head is correct once, the last head three times.
    conditional.calibrate([(one.repeat(4, 1, 1, 1), torch.tensor([early, late, late, late]))])
    assert conditional.threshold.isinf()


def test_the_reconstruction_error_is_relative_to_the_images_variance() -> None:
    model = Autoencoder().eval()
    model.deconv1.weight.data.zero_()
    x = torch.randn(3, 1, 28, 28)
    x -= x.mean((2, 3), keepdim=True)
    model.deconv1.bias = None  # now every reconstruction is zero, the mean grey of these images
    torch.testing.assert_close(model.reconstruction_error(x), torch.ones(3))
    assert (model.reconstruction_error(torch.full((1, 1, 28, 28), -0.42)) > 100).all()  # an empty image


def test_the_autoencoders_threshold_rejects_the_given_fraction() -> None:
    torch.manual_seed(0)
    model, x = Autoencoder(code=4).eval(), torch.randn(200, 1, 28, 28)
    assert model.threshold.isnan()
    model.calibrate([(x[:150], torch.zeros(150)), (x[150:], torch.zeros(50))], rejected=0.1)
    rejected = model.reconstruction_error(x) > model.threshold
    assert rejected.sum() == 20
    with pytest.raises(ValueError, match="code must be at least 1"):
        create_model("autoencoder", code=0)


@pytest.mark.parametrize("name", list_models())
def test_a_few_steps_on_mnist_teach_each_network(name: str, mnist_test: LabelledImages, tmp_path: Path) -> None:
    torch.manual_seed(0)
    optimizer = functools.partial(torch.optim.AdamW, lr=2e-3)
    module = MNISTModule({"name": name}, optimizer)
    settings = TrainerSettings(accelerator="cpu", max_epochs=1, enable_progress_bar=False)
    trainer = make_trainer(settings, tmp_path)
    data = MNISTDataModule(train_size=1280, validation_size=300, batch_size=64)
    before = trainer.validate(copy.deepcopy(module), data, verbose=False)[0]
    trainer = make_trainer(settings, tmp_path)
    trainer.fit(module, data)
    after = trainer.validate(module, data, verbose=False)[0]
    assert after["val/loss"] < 0.75 * before["val/loss"]
    assert after.get("val/accuracy", 1) > 0.5


def test_a_file_of_networks(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN_NETWORK)
    assert register_file(tmp_path / "mine.py") == ["mine"]
    assert register_file(tmp_path / "mine.py") == ["mine"]  # again
    assert create_model("mine")(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("nothing.py", None, "no such file"),
        ("empty.py", "", "registers no network"),
        ("broken.py", "import os\n1 / 0\n", "line 2: ZeroDivisionError"),
        ("syntax.py", "a = 1\nclass\n", "line 2: SyntaxError"),
        ("notes.txt", "hello", "not a .py file"),
        ("taken.py", OWN_NETWORK.replace('"mine"', '"mlp"'), "'mlp' is taken"),
    ],
)
def test_a_file_without_networks(name: str, text: str | None, message: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        register_file(tmp_path / name)


def test_the_name_of_the_users_network_may_be_left_out(tmp_path: Path) -> None:
    one, two = tmp_path / "one.py", tmp_path / "two.py"
    one.write_text(OWN_NETWORK)
    two.write_text(OWN_NETWORK + OWN_NETWORK.replace('"mine"', '"other"').replace("Mine", "Other"))
    assert named_model({"name": None, "width": 3}, one) == {"name": "mine", "width": 3}
    _MODELS.pop("mine")
    with pytest.raises(InputError, match=r"two.py registers mine, other; name the network with model.name=NAME"):
        named_model({"name": None}, two)
    with pytest.raises(InputError, match=r"there is no model_file=FILE.py"):
        named_model({"name": None}, None)
