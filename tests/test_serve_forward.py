"""`POST /forward` answers with every value of a pass, and explains what each was computed from."""

import base64
import http.client
import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mnist_cls import Predictor, create_model, load_model, trace_forward
from mnist_cls.checkpoints.build import load_user_models
from mnist_cls.checkpoints.weights import save_weights
from mnist_cls.data.normalization import normalize
from mnist_cls.errors import InputError
from mnist_cls.tracing.from_pixels import trace_from_pixels
from mnist_cls.tracing.outputs import saliency
from mnist_cls.tracing.unit import explain_unit

from .test_serve import Server, png


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


@pytest.fixture(scope="module")
def scan(mnist_test: Any) -> bytes:
    pixels = 255 - np.pad(mnist_test.images[0].numpy(), 30)
    return png(np.kron(pixels, np.ones((3, 3), np.uint8)))


def forward(server: Server, content: bytes, query: str = "") -> tuple[int, Any]:
    return server.ask("POST", f"/forward{query}", content, {"Content-Type": "image/png"})


def array(values: dict[str, Any]) -> np.ndarray:
    numbers: np.ndarray = np.frombuffer(base64.b64decode(values["base64"]), "<f4").reshape(values["shape"])
    return numbers


@pytest.mark.parametrize("network", ["image_classifier", "accurate", "conditional", "autoencoder"])
def test_every_value_is_the_traced_one(server: Server, scan: bytes, network: str) -> None:
    status, answer = forward(server, scan, f"?network={network}&saliency=true")
    assert status == 200
    predictions = Predictor(device="cpu")([scan])
    images = predictions.images
    assert images is not None
    np.testing.assert_array_equal(array(answer["image"]), images[0])
    model = load_model(network)
    trace, _ = trace_from_pixels(model, torch.from_numpy(images))
    assert [one["operation"] for one in answer["operations"]] == [record.operation for record in trace]
    for one, record in zip(answer["operations"], trace, strict=True):
        assert one["values"]["shape"] == list(record.output_shape)
        np.testing.assert_allclose(array(one["values"]), record.value.float(), atol=1e-4)
    if network == "autoencoder":
        assert answer["heads"] == {}
        assert answer["saliency"] is None
        return
    probabilities = array(answer["heads"]["logits"]["probabilities"])
    np.testing.assert_allclose(probabilities, Predictor(network, device="cpu")([scan]).probabilities[0], atol=1e-5)
    expected = saliency(model, normalize(torch.from_numpy(images)), int(probabilities.argmax()))
    np.testing.assert_allclose(array(answer["saliency"]), expected, rtol=1e-3, atol=1e-5)


def test_values_as_binary_data_are_those_in_base64(server: Server, scan: bytes) -> None:
    for query in ("?saliency=true", "?step=8&unit=0,3,5,5"):
        _, expected = forward(server, scan, query)
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        connection.request("POST", f"/forward{query}&binary=true", scan, {"Content-Type": "image/png"})
        answer = connection.getresponse()
        content = answer.read()
        assert answer.headers.get_content_type() == "application/octet-stream"
        size = int(answer.headers["Inference-Header-Content-Length"])
        assert size % 4 == 0

        def in_base64(value: dict[str, Any], data: bytes = content[size:]) -> dict[str, Any]:
            if "offset" not in value:
                return value
            start, count = value["offset"], math.prod(value["shape"])
            return {"shape": value["shape"], "base64": base64.b64encode(data[start : start + 4 * count]).decode()}

        assert json.loads(content[:size], object_hook=in_base64) == expected


def test_early_exit(server: Server, scan: bytes) -> None:
    late, early = (forward(server, scan, f"?network=conditional&early_exit={flag}")[1] for flag in ("false", "true"))
    assert late["has_early_exit"] is early["has_early_exit"] is True
    assert "early_head" in [one["layer"] for one in early["operations"]]
    assert "early_head" not in [one["layer"] for one in late["operations"]]
    assert forward(server, scan, "?early_exit=true")[1]["has_early_exit"] is False


def test_the_networks(server: Server) -> None:
    names = ["image_classifier", "accurate", "autoencoder", "conditional"]
    assert server.ask("GET", "/networks")[1] == {"networks": names}


@pytest.mark.parametrize(
    ("query", "status", "reason"),
    [
        ("?network=secret", 400, "network: expected one of image_classifier, accurate"),
        ("?secret=1", 400, "1 other parameters"),
        ("?early_exit=secret", 400, "early_exit: expected true or false"),
        ("?step=1", 400, "step and unit: expected both or none"),
        ("?step=1&unit=secret", 400, "step=NUMBER&unit=NUMBER"),
        ("?step=1&unit=99999999999999999999", 400, "step=NUMBER&unit=NUMBER"),
        ("?step=99&unit=0", 400, "the forward pass has the steps 1 to 17"),
        ("?step=5&unit=0,0,28,0", 400, "the output of step 5 has the shape (1, 32, 28, 28)"),
    ],
)
def test_a_wrong_question_is_refused(server: Server, scan: bytes, query: str, status: int, reason: str) -> None:
    found, answer = forward(server, scan, query)
    assert found == status
    assert reason in answer["error"]
    assert "secret" not in answer["error"]


def test_an_image_without_a_digit_is_refused(server: Server) -> None:
    for content, reason in ((b"secret", "not an image"), (png(np.full((60, 60), 255, np.uint8)), "no digit found")):
        status, answer = forward(server, content)
        assert status == 422
        assert reason in answer["error"]
        assert "secret" not in answer["error"]


def test_a_network_that_fails_says_where(tmp_path: Any, scan: bytes) -> None:
    (tmp_path / "own.py").write_text(
        "import torch\nfrom torch import nn\nfrom mnist_cls import register_model\n"
        "@register_model\nclass Odd(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.fc = nn.Linear(784, 10)\n"
        "    def forward(self, x):\n"
        "        logits = self.fc(x.flatten(1))\n"
        "        return logits if len(x) > 1 else logits @ logits\n"
    )
    load_user_models(tmp_path / "own.py")
    save_weights(tmp_path / "odd.safetensors", create_model("Odd"), {"name": "Odd"}, {})
    with Server(f"checkpoint={tmp_path / 'odd.safetensors'}", f"model_file={tmp_path / 'own.py'}") as server:
        status, answer = forward(server, scan)
        assert status == 422
        assert "the forward pass failed after operation 6" in answer["error"]
        assert forward(server, scan, "?network=accurate")[0] == 200


def test_values_that_are_not_finite_are_shown(tmp_path: Any, scan: bytes) -> None:
    model = load_model()
    with torch.no_grad():
        model.get_parameter("conv1.bias")[3] = torch.nan
        model.get_parameter("fc2.bias")[0] = torch.inf
    save_weights(tmp_path / "broken.safetensors", model, {"name": "image_classifier"}, {})
    with Server(f"checkpoint={tmp_path / 'broken.safetensors'}") as server:
        status, answer = forward(server, scan, "?saliency=true")
        assert status == 200
        values = array(answer["operations"][4]["values"])
        assert np.isnan(values[0, 3]).all()
        assert np.isfinite(values[0, 2]).all()
        for query in ("?step=5&unit=0,3,0,0", "?step=15&unit=0,0"):
            status, answer = forward(server, scan, query)
            assert status == 200
            assert answer["unit"]["value"] is None


def explained(model: nn.Module, images: torch.Tensor, count: int = 6) -> Iterator[tuple[Any, tuple[int, ...], Any]]:
    """Yield records, random indices, and the explanations of the values there."""
    trace, error = trace_from_pixels(model.eval(), images)
    assert error is None
    generator = torch.Generator().manual_seed(0)
    for record in trace:
        for _ in range(count):
            index = tuple(int(torch.randint(size, (), generator=generator)) for size in record.output_shape)
            yield record, index, explain_unit(model, images, trace, record.step, index)


@pytest.mark.parametrize("network", ["image_classifier", "accurate", "conditional"])
def test_the_terms_give_the_value(network: str, mnist_test: Any) -> None:
    kinds = set()
    for record, index, unit in explained(load_model(network), mnist_test.images[:1]):
        kinds.add(unit.kind)
        value = record.value[index].item()
        assert unit.value == pytest.approx(value)
        assert unit.kind != "unknown", record
        assert unit.kind == "scalar" or record.step not in (3, 4), record  # the normalization
        if unit.kind == "sum of products":
            assert (unit.inputs.double() * unit.weights).sum().item() + unit.bias == pytest.approx(value, abs=1e-4)
        elif unit.kind == "max":
            assert unit.inputs.max().item() == value
        elif unit.kind == "softmax":
            assert unit.inputs.softmax(0)[index[-1]].item() == pytest.approx(value, abs=1e-6)
        elif unit.kind == "argmax":
            assert unit.inputs.argmax().item() == value
        elif unit.kind == "scalar":
            assert unit.constants in (
                {"factor": pytest.approx(1 / 255 / 0.3081)},
                {"addend": pytest.approx(-0.4242, 1e-3)},
            )
            c = unit.constants
            result = unit.inputs.item() * c.get("factor", 1) + c.get("addend", 0)
            assert result == pytest.approx(value, abs=1e-4)
        elif unit.kind == "batch norm":
            c = unit.constants
            scaled = (unit.inputs.item() - c["mean"]) / (c["variance"] + c["eps"]) ** 0.5
            assert scaled * c["weight"] + c["bias"] == pytest.approx(value, abs=1e-4)
    assert {"sum of products", "max", "softmax", "argmax", "values", "scalar"} <= kinds


class Odd(nn.Module):
    """Strides, dilation, groups, padding of several kinds, and operations without a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped = nn.Conv2d(1, 4, 3, stride=2, padding=(2, 1))
        self.dilated = nn.Conv2d(4, 8, 3, dilation=2, groups=2, padding="same", bias=False)
        self.reflected = nn.Conv2d(8, 4, 3, padding=1, padding_mode="reflect")
        self.mean = nn.AvgPool2d(3, stride=2, padding=1)
        self.global_mean = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.reflected(self.dilated(self.grouped(x)))
        x = self.global_mean(self.mean(torch.nn.functional.gelu(x)))
        logits: torch.Tensor = self.fc(x.flatten(1)) * 2 + torch.nn.functional.linear(x.flatten(1), torch.ones(10, 4))
        return logits


def test_layers_of_every_kind_are_explained_rightly_or_not_at_all(mnist_test: Any) -> None:
    torch.manual_seed(0)
    kinds: dict[str, set[str]] = {}
    for record, index, unit in explained(Odd(), mnist_test.images[:1], count=20):
        kinds.setdefault(record.layer or record.operation, set()).add(unit.kind)
        value = record.value[index].item()
        if unit.kind == "sum of products":
            assert (unit.inputs.double() * unit.weights).sum().item() + unit.bias == pytest.approx(value, abs=1e-4)
        if unit.kind == "mean":
            assert unit.inputs.mean().item() == pytest.approx(value, abs=1e-5)
    assert kinds["grouped"] == kinds["dilated"] == kinds["fc"] == {"sum of products"}
    assert kinds["mean"] == kinds["global_mean"] == {"mean"}
    assert kinds["gelu"] == {"values"}
    assert kinds["linear"] == {"unknown"}  # its weights belong to no layer
    # Reflection padding is not supported by the explanation of a convolution.
    assert kinds["reflected"] == {"unknown"}


def test_a_value_that_does_not_exist_is_an_error(mnist_test: Any) -> None:
    model, images = load_model(), mnist_test.images[:1]
    trace = trace_forward(model, normalize(images))
    for step, index in ((0, (0,)), (len(trace) + 1, (0,)), (1, (0, 0)), (1, (0, 0, 0, -1))):
        with pytest.raises(InputError, match=r"step|unit"):
            explain_unit(model, images, trace, step, index)


def test_a_layer_changed_by_a_hook_is_not_explained_wrongly(mnist_test: Any) -> None:
    model = load_model()
    model.fc2.register_forward_pre_hook(lambda layer, inputs: (inputs[0] * 2,))  # type: ignore[union-attr]
    for record, index, unit in explained(model, mnist_test.images[:1], 3):
        if unit.kind == "sum of products":
            total = (unit.inputs.double() * unit.weights).sum().item() + unit.bias
            assert total == pytest.approx(record.value[index].item(), abs=1e-4)
