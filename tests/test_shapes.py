"""An error about a wrong shape names the layer, the shape it got, the shape it takes, and the usual cause."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
import torch.fx
from torch import Tensor, nn

from mnist_cls import create_model, register_model
from mnist_cls.models.average import Average
from mnist_cls.models.shapes import ShapeError

CONVOLUTIONAL = {
    "image_classifier": ("conv1 (Conv2d)", "fc1 (Linear)"),
    "residual": ("stem (Conv2d)", "norm (BatchNorm2d)"),
    "conditional": ("conv1 (Conv2d)", "fc1 (Linear)"),
    "autoencoder": ("conv1 (Conv2d)", "encode (Linear)"),
}


def message_of(model: nn.Module, *shape: int) -> str:
    with pytest.raises(ShapeError) as caught:
        model(torch.zeros(shape))
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("name", CONVOLUTIONAL)
@pytest.mark.parametrize(
    ("shape", "cause"),
    [
        ((28, 28), "the input (28, 28) has neither batch nor channel dimension; use x[None, None]"),
        ((5, 28, 28), "the input (5, 28, 28) has no channel dimension; use x.unsqueeze(1)"),
        ((5, 28, 28, 1), "the input (5, 28, 28, 1) has its channels last; use x.permute(0, 3, 1, 2)"),
        ((5, 3, 28, 28), "the input (5, 3, 28, 28) has three colour channels; use x.mean(1, keepdim=True)"),
        ((5, 784), "the input (5, 784) is flattened; use x.view(-1, 1, 28, 28)"),
    ],
)
def test_the_first_layer_is_named_with_the_cause(name: str, shape: tuple[int, ...], cause: str) -> None:
    text = message_of(create_model(name).eval(), *shape)
    assert f"{CONVOLUTIONAL[name][0]} got {shape}, expected (B, 1, H, W): {cause}" in text


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_a_missing_batch_dimension_stops_further_in(name: str) -> None:
    text = message_of(create_model(name).eval(), 1, 28, 28)
    assert CONVOLUTIONAL[name][1] in text
    assert text.endswith("the input (1, 28, 28) has no batch dimension; use x.unsqueeze(0)")


@pytest.mark.parametrize("name", ["image_classifier", "conditional", "autoencoder", "mlp"])
def test_images_of_another_size(name: str) -> None:
    assert "images of 14x14 pixels; scale them to 28x28" in message_of(create_model(name).eval(), 5, 1, 14, 14)


@pytest.mark.parametrize("name", CONVOLUTIONAL)
@pytest.mark.parametrize("shape", [(5, 4, 28, 28), (5, 2, 28, 28), (5, 1, 28)])
def test_shapes_that_no_network_takes(name: str, shape: tuple[int, ...]) -> None:
    text = message_of(create_model(name).eval(), *shape)
    assert text.endswith(f"the input {shape} does not fit; the networks take grey images (B, 1, 28, 28)")


@pytest.mark.parametrize("name", ["mlp", "image_classifier"])
def test_a_single_flat_image(name: str) -> None:
    text = message_of(create_model(name), 784)
    assert "got (784,)" in text
    assert "no batch dimension" in text or "the networks take grey images" in text


def test_batch_norm_of_vectors() -> None:
    @register_model("vectors")
    class Vectors(nn.Sequential):
        def __init__(self, features: int = 10) -> None:
            super().__init__(nn.Flatten(), nn.Linear(784, 10), nn.BatchNorm1d(features))

    assert create_model("vectors")(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    with pytest.raises(ValueError, match="more than 1 value per channel") as caught:
        create_model("vectors")(torch.zeros(1, 1, 28, 28))
    assert not isinstance(caught.value, ShapeError)
    text = message_of(create_model("vectors", features=9), 2, 1, 28, 28)
    assert "2 (BatchNorm1d) got (2, 10), expected (B, 9) or (B, 9, L)" in text


def test_the_mlp_without_a_batch() -> None:
    text = message_of(create_model("mlp"), 28, 28)
    assert "MLP: fc1 (Linear) got (28, 28), expected (B, 784)" in text
    assert "neither batch nor channel" in text


@pytest.mark.parametrize("shape", [(5, 1, 28, 28), (5, 28, 28), (1, 28, 28)])
def test_a_users_network_that_forgot_to_flatten(shape: tuple[int, ...]) -> None:
    @register_model("unflattened")
    class Unflattened(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(784, 10)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.first(x)
            return logits

    text = message_of(create_model("unflattened"), *shape)
    assert text == (
        f"Unflattened: first (Linear) got {shape}, expected (B, 784): it was not flattened; use x.flatten(1)"
    )


def test_a_users_layers_that_do_not_fit_each_other() -> None:
    @register_model("misfit")
    class Misfit(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Conv2d(1, 8, 3), nn.Conv2d(16, 8, 3))

    text = message_of(create_model("misfit"), 5, 1, 28, 28)
    assert "1 (Conv2d) got (5, 8, 26, 26), expected (B, 16, H, W)" in text
    assert "the layer before this one outputs another shape" in text


def test_errors_that_are_not_about_shapes_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match=r"dtype|type") as caught:
        create_model("image_classifier")(torch.zeros(2, 1, 28, 28, dtype=torch.float64))
    assert not isinstance(caught.value, ShapeError)


class Scriptable(nn.Module):
    """Written as `torch.jit.script` wants it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(784, 10)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.layer(x.flatten(1)))


def test_registering_changes_neither_the_class_nor_what_pytorch_sees_of_it() -> None:
    before = dict(vars(Scriptable))
    assert register_model("scriptable")(Scriptable) is Scriptable
    network = create_model("scriptable")
    assert dict(vars(Scriptable)) == before
    assert isinstance(network, Scriptable)
    assert "got (2, 3), expected (B, 784)" in message_of(network, 2, 3)
    # Elsewhere the class is what it was: no message of ours.
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        Scriptable()(torch.zeros(2, 3))


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize(
    "transform",
    [
        torch.jit.script,
        lambda network: torch.jit.trace(network, torch.zeros(1, 1, 28, 28)),
        copy.deepcopy,
        lambda network: pickle.loads(pickle.dumps(network)),  # noqa: S301 (as processes pass it on)
        lambda network: torch.export.export(network, (torch.zeros(2, 1, 28, 28),)).module(),
        torch.fx.symbolic_trace,
        pytest.param(lambda network: torch.compile(network, fullgraph=True), marks=pytest.mark.slow),
    ],
    ids=["script", "trace", "deepcopy", "pickle", "export", "fx", "compile"],
)
def test_pytorch_takes_a_registered_network_as_it_is(transform: Callable[[nn.Module], nn.Module]) -> None:
    register_model("scriptable")(Scriptable)
    network, x = create_model("scriptable").eval(), torch.randn(2, 1, 28, 28)
    torch.testing.assert_close(transform(network)(x), network(x))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))])  # noqa: S301
def test_a_copy_explains_too(copied: Callable[[nn.Module], nn.Module]) -> None:
    assert "conv1 (Conv2d) got (5, 28, 28)" in message_of(copied(create_model("image_classifier")), 5, 28, 28)


def test_a_network_inside_a_network_is_the_one_that_explains() -> None:
    assert message_of(Average([create_model("mlp")]), 5, 1, 14, 14).startswith("MLP: fc1 (Linear) got (5, 196)")
