"""The Open Inference Protocol, version 2: prepared images as tensors.

Source: https://github.com/kserve/open-inference-protocol.
"""

import asyncio
import json
from typing import Any

import numpy as np
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .. import __version__
from ..images import CLASSES, SIZE
from ..inference.predictor import Predictor


class InferenceProtocol:
    """Routes of one network.

    Args:
        predictor: the network.
        name: its name.
    """

    def __init__(self, predictor: Predictor, name: str) -> None:
        self.predictor, self.name = predictor, name

    def routes(self) -> list[Route]:
        """Return the routes, all but those of health."""
        return [
            Route("/v2", self.server),
            Route("/v2/models/{name}", self.model),
            Route("/v2/models/{name}/infer", self.infer, methods=["POST"]),
        ]

    async def server(self, request: Request) -> Response:
        """Describe the server."""
        return JSONResponse({"name": "mnist_cls", "version": __version__, "extensions": []})

    async def model(self, request: Request) -> Response:
        """Describe the network's tensors."""
        self._check_name(request)
        return JSONResponse(
            {
                "name": self.name,
                "versions": [__version__],
                "platform": self.predictor.engine.name,
                "inputs": [{"name": "images", "datatype": "UINT8", "shape": [-1, SIZE, SIZE]}],
                "outputs": [
                    {"name": "probabilities", "datatype": "FP32", "shape": [-1, CLASSES]},
                    {"name": "label", "datatype": "INT64", "shape": [-1]},
                ],
            }
        )

    async def infer(self, request: Request) -> Response:
        """Classify images."""
        self._check_name(request)
        # In a thread, because reading millions of numbers takes a second, in which others would wait.
        loop = asyncio.get_running_loop()
        return JSONResponse(await loop.run_in_executor(None, self._infer, await request.body()))

    def _check_name(self, request: Request) -> None:
        if request.path_params["name"] != self.name:
            raise HTTPException(404, f"there is one model, {self.name}")

    def _infer(self, body: bytes) -> dict[str, Any]:
        """Answer an inference request, JSON."""
        try:
            asked = json.loads(body)
        except (ValueError, RecursionError):
            raise HTTPException(400, "the body is no JSON") from None
        if not isinstance(asked, dict):
            raise HTTPException(400, "expected a JSON object")
        images = _tensor(asked)
        predictions = self.predictor.classify_prepared(images)
        outputs = [
            _output("probabilities", "FP32", [len(images), CLASSES], predictions.probabilities.ravel()),
            _output("label", "INT64", [len(images)], predictions.labels),
        ]
        answer = {"model_name": self.name, "outputs": outputs}
        return answer | ({"id": asked["id"]} if isinstance(asked.get("id"), str) else {})


def _tensor(asked: dict[str, Any]) -> np.ndarray:
    """Return the images of an inference request, uint8 (N, 28, 28)."""
    inputs = asked.get("inputs")
    form = "expected one input, images, UINT8 with the shape [N, 28, 28], or FP32 with values 0 to 1, in MNIST's form"
    if not (isinstance(inputs, list) and len(inputs) == 1 and isinstance(inputs[0], dict)):
        raise HTTPException(400, form)
    shape, kind = inputs[0].get("shape"), inputs[0].get("datatype")
    try:
        values = np.asarray(inputs[0].get("data"), np.float64).ravel()
        images = values.reshape(shape).reshape(-1, SIZE, SIZE)
    except (TypeError, ValueError, OverflowError):
        raise HTTPException(400, form) from None
    white = {"UINT8": 255, "FP32": 1}.get(kind if isinstance(kind, str) else "")
    if white is None or not len(images) or not ((values >= 0) & (values <= white)).all():
        raise HTTPException(400, form)
    return (images * (255 / white)).round().astype(np.uint8)


def _output(name: str, kind: str, shape: list[int], values: np.ndarray) -> dict[str, Any]:
    return {"name": name, "datatype": kind, "shape": shape, "data": values.tolist()}
