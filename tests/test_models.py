"""The networks have the layers and shapes that they promise, and are found by name."""

import pytest
import torch
from torch import nn

from mnist_cls import create_model, list_models, register_model
from mnist_cls.models import ImageClassifier


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
    expected = model.fc2(model.fc1(x).clamp(min=0))  # type: ignore[operator]
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize("name", sorted(set(list_models()) - {"autoencoder"}))  # it has no dropout
def test_dropout_is_random_in_training_and_absent_in_evaluation(name: str) -> None:
    model, x = create_model(name, dropout=0.5), torch.randn(4, 1, 28, 28)
    first, second = (output if isinstance(output, torch.Tensor) else output[0] for output in (model(x), model(x)))
    assert not torch.equal(first, second)
    model.eval()
    assert torch.equal(model(x), model(x))


def test_unknown_name_says_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"did you mean 'image_classifier'.*image_classifier, mlp"):
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

    try:
        assert "one_layer" in list_models()
        assert isinstance(create_model("one_layer"), OneLayer)
        with pytest.raises(ValueError, match="taken by"):
            register_model("mlp")(OneLayer)
    finally:
        from mnist_cls.models.registry import _MODELS

        del _MODELS["one_layer"]
