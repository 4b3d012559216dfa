"""The server speaks the Open Inference Protocol with a real client, and describes every route that it has."""

import gzip
import json
import re
import shutil
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from playwright.sync_api import sync_playwright
from starlette.routing import Route
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from mnist_cls import Predictor
from mnist_cls.inference.options import PredictOptions
from mnist_cls.serving.application import application

from .test_serve import Server, png

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

MODEL = "image_classifier"
INFER = f"/v2/models/{MODEL}/infer"

# Unusual numbers: an answer that contains them quotes the request.
SECRET = 314159265


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(f"127.0.0.1:{server.port}") as opened:
        yield opened


def tensor(images: np.ndarray, binary: bool = True) -> InferInput:
    """The input tensor for uint8 or float32 images."""
    datatype = "UINT8" if images.dtype == np.uint8 else "FP32"
    return InferInput("images", [*images.shape], datatype).set_data_from_numpy(images, binary_data=binary)


def request(images: np.ndarray, **changes: Any) -> dict[str, Any]:
    """An inference request as a JSON object, with changes to its input."""
    data = {"name": "images", "datatype": "UINT8", "shape": [*images.shape], "data": images.ravel().tolist()}
    return {"inputs": [{**data, **changes}]}


def test_a_real_client_finds_the_server_and_the_model(client: InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    assert not client.is_model_ready("another")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    described = client.get_model_metadata(MODEL)
    assert described["name"] == MODEL
    assert described["inputs"] == [{"name": "images", "datatype": "UINT8", "shape": [-1, 28, 28]}]
    assert described["outputs"] == [
        {"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]},
        {"name": "label", "datatype": "INT64", "shape": [-1]},
    ]


@pytest.mark.parametrize("shape", [(-1, 28, 28), (-1, 1, 28, 28), (-1, 784)], ids=str)
@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
@pytest.mark.parametrize("datatype", ["uint8", "float32"])
def test_a_real_client_gets_what_predictor_gives(
    client: InferenceServerClient, digits: np.ndarray, datatype: str, binary: bool, shape: tuple[int, ...]
) -> None:
    expected = Predictor(device="cpu")(digits[:5])
    images = digits[:5].reshape(shape)
    if datatype == "float32":
        images = (images / 255).astype(np.float32)
    outputs = [InferRequestedOutput(name, binary_data=binary) for name in ("probabilities", "label")]
    answer = client.infer(MODEL, [tensor(images, binary)], outputs=outputs, request_id="mine")
    assert answer.get_response()["id"] == "mine"
    assert answer.get_response()["model_name"] == MODEL
    assert [("data" in output) for output in answer.get_response()["outputs"]] == [not binary] * 2
    np.testing.assert_array_equal(answer.as_numpy("label"), expected.labels)
    assert answer.as_numpy("probabilities").shape == (5, 10)
    np.testing.assert_allclose(answer.as_numpy("probabilities"), expected.probabilities, atol=1e-6)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_real_client_may_compress(client: InferenceServerClient, digits: np.ndarray, encoding: str) -> None:
    expected = client.infer(MODEL, [tensor(digits)])
    answer = client.infer(MODEL, [tensor(digits)], request_compression_algorithm=encoding)
    np.testing.assert_array_equal(answer.as_numpy("probabilities"), expected.as_numpy("probabilities"))


def test_only_the_outputs_that_are_wanted_are_answered(client: InferenceServerClient, digits: np.ndarray) -> None:
    def names(*wanted: InferRequestedOutput) -> list[str]:
        answer = client.infer(MODEL, [tensor(digits[:2])], outputs=[*wanted]).get_response()
        return [output["name"] for output in answer["outputs"]]

    label, probabilities = InferRequestedOutput("label"), InferRequestedOutput("probabilities", binary_data=False)
    assert names() == ["probabilities", "label"]
    assert names(label) == ["label"]
    assert names(label, probabilities) == ["label", "probabilities"]
    answer = client.infer(
        MODEL, [tensor(digits[:2])], outputs=[label, probabilities]
    )  # one as binary data, one as JSON
    assert answer.as_numpy("label").tolist() == answer.as_numpy("probabilities").argmax(1).tolist()
    with pytest.raises(InferenceServerException, match="outputs: expected probabilities or label") as refused:
        client.infer(MODEL, [tensor(digits[:2])], outputs=[InferRequestedOutput("secret")])
    assert refused.value.status() == "400"


def test_without_a_wish_the_answer_is_json(server: Server, digits: np.ndarray, labels: list[int]) -> None:
    nested = request(digits[:3], data=digits[:3].tolist())
    for asked in (request(digits[:3]), nested, {**nested, "parameters": {}, "outputs": [], "id": "\ud800"}):
        status, answer = server.ask("POST", INFER, json.dumps(asked))
        assert status == 200
        assert answer.get("id") == asked.get("id")
        assert {output["name"]: output["shape"] for output in answer["outputs"]} == {
            "probabilities": [3, 10],
            "label": [3],
        }
        assert answer["outputs"][1]["data"] == labels[:3]


ONE = np.zeros((1, 28, 28), np.uint8)
_BINARY = {"data": None, "parameters": {"binary_data_size": 784}}


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"", 400, "the body is not JSON"),
        ("secret", 400, "the body: expected a JSON object"),
        ([], 400, "the body: expected a JSON object"),
        ({}, 400, "inputs: expected one"),
        ({"inputs": "secret"}, 400, "inputs: expected one"),
        ({"inputs": request(ONE)["inputs"] * 2}, 400, "inputs: expected one"),
        ({"inputs": ["secret"]}, 400, "inputs: expected a JSON object"),
        (request(ONE) | {"id": SECRET}, 400, "id: expected a string"),
        (request(ONE) | {"parameters": "secret"}, 400, "parameters: expected a JSON object"),
        (request(ONE) | {"parameters": {"binary_data_output": "secret"}}, 400, "expected true or false"),
        (request(ONE) | {"outputs": "secret"}, 400, "outputs: expected a list"),
        (request(ONE) | {"outputs": ["secret"]}, 400, "outputs: expected a JSON object"),
        (request(ONE) | {"outputs": [{"name": ["secret"]}]}, 400, "outputs: expected probabilities or label"),
        (request(ONE) | {"outputs": [{"name": "label"}] * 2}, 400, "each at most once"),
        (request(ONE, name="secret"), 400, "inputs: expected the name images"),
        (request(ONE, datatype="secret"), 400, "datatype: expected UINT8 or FP32"),
        (request(ONE, datatype=["secret"]), 400, "datatype: expected UINT8 or FP32"),
        (request(ONE, shape="secret"), 400, "shape: expected"),
        (request(ONE, shape=[28, 28]), 400, "shape: expected"),
        (request(ONE, shape=[0, 28, 28], data=[]), 400, "shape: expected"),
        (request(ONE, shape=[-1, 28, 28]), 400, "shape: expected"),
        (request(ONE, shape=[True, 784]), 400, "shape: expected"),
        (request(ONE, shape=[1.0, 784]), 400, "shape: expected"),
        (request(ONE, shape=[SECRET, 28, 28]), 413, "expected at most 10,000 images"),
        (request(ONE, shape=[10**100, 28, 28]), 413, "expected at most 10,000 images"),
        (request(ONE, shape=[2, 28, 28]), 400, "as many numbers as the shape says"),
        (request(ONE, data=None), 400, "data: expected a list of numbers"),
        (request(ONE, data="secret"), 400, "data: expected a list of numbers"),
        (request(ONE, data=["0"] * 784), 400, "data: expected a list of numbers"),
        (request(ONE, data=[True] * 784), 400, "data: expected a list of numbers"),
        (request(ONE, data=[10**400] * 784), 400, "data: expected a list of numbers"),
        (request(ONE, data=[[0] * 783, 0]), 400, "data: expected a list of numbers"),
        (request(ONE, data=[SECRET] * 784), 400, "data: expected values from 0 to 255"),
        (request(ONE, data=[-1] * 784), 400, "data: expected values from 0 to 255"),
        (request(ONE, data=[0.5] * 784), 400, "whole numbers for UINT8"),
        (request(ONE, data=[float("nan")] * 784), 400, "data: expected values from 0 to 255"),
        (request(ONE, datatype="FP32", data=[1.5] * 784), 400, "data: expected values from 0 to 1"),
        (request(ONE, **_BINARY), 400, "binary_data_size: expected"),
        (request(ONE, parameters={"binary_data_size": "secret"}), 400, "binary_data_size: expected"),
        (b" " * 4_000_001, 413, "the JSON is larger than 4,000,000 bytes"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_malformed_inference_is_refused_without_an_echo(server: Server, body: Any, status: int, reason: str) -> None:
    found, answer = server.ask("POST", INFER, body if isinstance(body, bytes) else json.dumps(body))
    assert (found, [*answer]) == (status, ["error"])
    assert reason in answer["error"]
    assert not re.search(f"secret|{SECRET}", answer["error"])


def test_malformed_binary_data_are_refused(server: Server, digits: np.ndarray) -> None:
    described = request(ONE, parameters={"binary_data_size": 784})
    del described["inputs"][0]["data"]
    head = json.dumps(described).encode()

    def ask(body: bytes, size: Any, **headers: str) -> tuple[int, str]:
        headers = {"Inference-Header-Content-Length": str(size), **headers}
        status, answer = server.ask("POST", INFER, body, headers)
        return status, "" if status == 200 else answer["error"]

    image = digits[:1].tobytes()
    assert ask(head + image, len(head)) == (200, "")
    for body, size in ((head + image[1:], len(head)), (head + image + b"x", len(head)), (head, len(head))):
        assert ask(body, size) == (
            400,
            "binary_data_size: expected the tensor's size in bytes, as many as follow the JSON, and no data",
        )
    for wrong in ("secret", -1, "", "1_0", 10**6, "9" * 5000):
        status, error = ask(head + image, wrong)
        assert status == 400
        assert error.startswith("Inference-Header-Content-Length: expected")
    assert ask(head + image, 5) == (400, "the body is not JSON")
    assert ask(json.dumps(request(ONE)).encode() + b"secret", len(json.dumps(request(ONE))))[0] == 400
    encoded = {"Content-Encoding": "gzip"}
    assert ask(gzip.compress(head + image), len(head), **encoded) == (200, "")
    for content in (b"secret", gzip.compress(head + image)[:-9], gzip.compress(head + image) + b"secret"):
        assert ask(content, len(head), **encoded) == (400, "the body cannot be decompressed")
    assert ask(head + image, len(head), **{"Content-Encoding": "secret"}) == (
        415,
        "Content-Encoding: expected gzip, deflate",
    )


def test_a_small_request_cannot_need_much_memory(server: Server, digits: np.ndarray) -> None:
    def peak() -> int:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{server.process.pid}/status").read_text())
        assert found
        return int(found[1]) * 1024

    def ask(body: bytes, **headers: str) -> int:
        return server.ask("POST", INFER, body, headers)[0]

    assert ask(json.dumps(request(digits)).encode()) == 200
    before = peak()
    bomb = zlib.compress(bytes(500_000_000), 1)  # 2 MB
    lists = json.dumps(request(ONE, data=[])).replace("[]", "[" + "[]," * 1_300_000 + "[]]").encode()  # 4 MB
    with ThreadPoolExecutor(8) as clients:
        bombs = clients.map(lambda _: ask(bomb, **{"Content-Encoding": "deflate"}), range(8))
        parsed = clients.map(lambda _: ask(lists), range(8))
        assert [*bombs, *parsed] == [413] * 8 + [400] * 8
    assert peak() - before < 300_000_000


def test_the_description_is_valid_and_names_every_route(server: Server) -> None:
    described = server.ask("GET", "/openapi.json")[1]
    validate(described)
    predictor = Predictor(device="cpu")
    routes = application(predictor, PredictOptions(), MODEL, frozenset()).routes
    own = {
        (route.path, method.lower()) for route in routes if isinstance(route, Route) for method in route.methods or ()
    }
    named = {(path, method) for path, methods in described["paths"].items() for method in methods}
    assert named == {(path, method) for path, method in own if method != "head"}
    for path, method in named:
        assert server.ask(method.upper(), path.replace("{name}", MODEL))[0] in (200, 400, 415)


@pytest.mark.parametrize(
    ("path", "schema"),
    [
        ("/predict", "Predictions"),
        ("/predict?split=true&min_confidence=1", "Predictions"),
        ("/forward?saliency=true", "ForwardPass"),
        ("/forward?network=conditional&early_exit=true", "ForwardPass"),
        ("/forward?network=autoencoder", "ForwardPass"),
        ("/forward?step=4&unit=0,0,3,3", "Unit"),
    ],
)
def test_answers_are_as_described(server: Server, digits: np.ndarray, path: str, schema: str) -> None:
    described = server.ask("GET", "/openapi.json")[1]
    strict = {"$ref": f"#/components/schemas/{schema}", "components": described["components"]}
    for one in strict["components"]["schemas"].values():  # every property of an answer must be described
        one["additionalProperties"] = False
    status, answer = server.ask("POST", path, png(digits[0]), {"Content-Type": "image/png"})
    assert status == 200
    Draft202012Validator(strict).validate(answer)


def test_a_server_that_is_not_ready_says_so_in_the_described_form(server: Server) -> None:
    paths = server.ask("GET", "/openapi.json")[1]["paths"]
    for path in ("/readyz", "/v2/health/ready", "/v2/models/{name}/ready"):
        answers = paths[path]["get"]["responses"]
        assert answers["503"]["content"] == answers["200"]["content"]


def test_the_page_of_the_description_needs_no_other_website(server: Server) -> None:
    status, page = server.ask("GET", "/api")
    assert status == 200
    names = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert "/page/api.js" in names
    content = page
    for name in names:
        status, text = server.ask("GET", name)
        assert status == 200
        content += str(text) if name.endswith((".js", ".css")) else ""
    assert not re.search(r"https?://|@import|innerHTML", content)
    assert not re.search(r"<style|style=|<script(?![^>]* src=)|\son\w+=", page)


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)")
def test_the_page_of_the_description_shows_every_route(server: Server) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{server.port}/api#schema-InferRequest")
        page.wait_for_selector("#schema-InferRequest")
        assert page.evaluate("scrollY") > 0  # at the section in the address
        text = page.inner_text("main")
        browser.close()
    for path, methods in server.ask("GET", "/openapi.json")[1]["paths"].items():
        for method, route in methods.items():
            assert f"{method.upper()} {path}\n\n{route['summary']}\n" in text
            assert all(parameter["name"] in text for parameter in route["parameters"])
    assert f"curl --data-binary @digit.png -H 'Content-Type: image/png' http://127.0.0.1:{server.port}/predict" in text
