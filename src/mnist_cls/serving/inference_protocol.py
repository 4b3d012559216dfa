"""The Open Inference Protocol, version 2: prepared images as tensors.

Source: https://github.com/kserve/open-inference-protocol.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .. import __version__
from ..images import SIZE
from ..inference.predictor import Predictor
from .batches import MOST_WAITING_BYTES, OverloadedError
from .tensors import INPUT, JSON_SIZE, OUTPUTS, read_request, write_answer


class InferenceProtocol:
    """Routes of one network.

    Args:
        predictor: the network.
        name: its name.
        is_ready: returns whether the server accepts requests.
    """

    def __init__(self, predictor: Predictor, name: str, is_ready: Callable[[], bool]) -> None:
        self.predictor, self.name, self.is_ready = predictor, name, is_ready
        # A single thread, so that only one request at a time needs memory for parsing.
        self._thread = ThreadPoolExecutor(1, "infer")
        self._waiting_bytes = 0

    def routes(self) -> list[Route]:
        """Return the protocol's routes, except those for the server's health."""
        return [
            Route("/v2", self.server),
            Route("/v2/models/{name}", self.model),
            Route("/v2/models/{name}/ready", self.model_ready),
            Route("/v2/models/{name}/infer", self.infer, methods=["POST"]),
        ]

    async def server(self, request: Request) -> Response:
        """Describe the server."""
        return JSONResponse({"name": "mnist_cls", "version": __version__, "extensions": ["binary_tensor_data"]})

    async def model(self, request: Request) -> Response:
        """Describe the network's tensors."""
        self._check_name(request)
        return JSONResponse(
            {
                "name": self.name,
                "platform": self.predictor.engine.name,
                "inputs": [{"name": INPUT, "datatype": "UINT8", "shape": [-1, SIZE, SIZE]}],
                "outputs": [
                    {"name": name, "datatype": output.datatype, "shape": [-1, *output.shape]}
                    for name, output in OUTPUTS.items()
                ],
            }
        )

    async def model_ready(self, request: Request) -> Response:
        """Return whether the network accepts requests."""
        self._check_name(request)
        ready = self.is_ready()
        return JSONResponse({"name": self.name, "ready": ready}, 200 if ready else 503)

    async def infer(self, request: Request) -> Response:
        """Classify images."""
        self._check_name(request)
        body = await request.body()
        if self._waiting_bytes and self._waiting_bytes + len(body) > MOST_WAITING_BYTES:
            raise OverloadedError
        self._waiting_bytes += len(body)
        encoding, size = request.headers.get("content-encoding", "identity"), request.headers.get(JSON_SIZE)
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._thread, self._infer, body, encoding.strip().lower(), size)
        finally:
            self._waiting_bytes -= len(body)

    def _check_name(self, request: Request) -> None:
        if request.path_params["name"] != self.name:
            raise HTTPException(404, f"there is one model, {self.name}")

    def _infer(self, body: bytes, encoding: str, json_size: str | None) -> Response:
        try:
            request = read_request(body, encoding, json_size)
        except HTTPException as refusal:
            # Without the traceback, whose frames would keep the parsed body in memory until the refusal has been sent.
            raise refusal.with_traceback(None) from None
        predictions = self.predictor.classify_prepared(request.images)
        tensors = {"probabilities": predictions.probabilities, "label": predictions.labels}
        return write_answer(self.name, request, tensors)
