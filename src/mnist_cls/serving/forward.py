"""Forward passes over HTTP: every operation with its values, and one value explained.

PyTorch is imported on the first request, so that a server that only predicts does not load it.
"""

import asyncio
import base64
import json
import math
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from starlette.exceptions import HTTPException
from starlette.responses import Response

from ..checkpoints.find import DEFAULT_WEIGHTS, each, list_weights
from ..errors import InputError
from ..inference.options import PredictOptions
from .batches import Batcher, ClientLeftError, OverloadedError
from .tensors import JSON_SIZE

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..tracing.records import Record, Trace
    from ..tracing.unit import Unit

# Maximum number of waiting requests; more are refused.
_MOST_WAITING = 32

_PARAMETERS = ("network", "early_exit", "saliency", "step", "unit", "binary")
_FLAGS = ("early_exit", "saliency", "binary")


class Wished(NamedTuple):
    """The parameters of a request.

    Attributes:
        network: name of the network.
        early_exit: whether the image can exit at an early head.
        saliency: whether to compute how strongly the answer depends on each pixel.
        step: number of the operation whose value to explain, counted from 1; None for the whole pass.
        unit: index of that value in the operation's output; empty for the whole pass.
        binary: whether tensors follow the JSON as binary data, instead of being base64 in it.
    """

    network: str
    early_exit: bool
    saliency: bool
    step: int | None
    unit: tuple[int, ...]
    binary: bool


class ForwardPasses:
    """Traces networks, one image at a time, in a thread of its own; an asynchronous context manager.

    Args:
        options: its `checkpoint` is the default network. The packaged networks are available, too.
        batcher: prepares the images.
    """

    def __init__(self, options: PredictOptions, batcher: Batcher) -> None:
        self.options, self.batcher = options, batcher
        self._checkpoints: dict[str, str | Path] = {}
        for checkpoint in [*each(options.checkpoint), *list_weights()]:
            path = Path(checkpoint or DEFAULT_WEIGHTS)
            name = path.parent.name if path.stem in ("model", "best", "last") else path.stem
            self._checkpoints.setdefault(name if name not in list_weights() else path.stem, path)
        self._networks: dict[str, nn.Module] = {}
        self._thread = ThreadPoolExecutor(1, "forward")
        self._turn, self._waiting = asyncio.Lock(), 0

    async def __aenter__(self) -> "ForwardPasses":
        return self

    async def __aexit__(self, *error: object) -> None:
        self._thread.shutdown()

    def networks(self) -> list[str]:
        """Return the names of all networks, the default one first."""
        return [*self._checkpoints]

    def wished(self, query: Mapping[str, str]) -> Wished:
        """Parse the parameters of a request.

        Raises:
            HTTPException: If one is unknown or malformed, or names no network.
        """
        if unknown := query.keys() - {*_PARAMETERS}:
            raise HTTPException(400, f"expected {', '.join(_PARAMETERS)}; found {len(unknown)} other parameters")
        network = query.get("network", next(iter(self._checkpoints)))
        if network not in self._checkpoints:
            raise HTTPException(400, f"network: expected one of {', '.join(self._checkpoints)}")
        for name in _FLAGS:
            if query.get(name, "false") not in ("true", "false"):
                raise HTTPException(400, f"{name}: expected true or false")
        step, unit = query.get("step"), query.get("unit")
        if (step is None) != (unit is None):
            raise HTTPException(400, "step and unit: expected both or none")
        numbers = [] if step is None or unit is None else [step, *unit.split(",")]
        if not all(number.isascii() and number.isdecimal() and len(number) < 10 for number in numbers):
            raise HTTPException(400, "expected step=NUMBER&unit=NUMBER,NUMBER,...")
        position = [int(number) for number in numbers]
        return Wished(
            network,
            step=position[0] if position else None,
            unit=tuple(position[1:]),
            **{name: query.get(name) == "true" for name in _FLAGS},
        )

    async def compute(self, content: bytes, wished: Wished, left: Callable[[], Awaitable[bool]]) -> Response:
        """Return a forward pass, or an explained value.

        Args:
            content: bytes of an image file.
            wished: what to compute.
            left: returns whether the client has disconnected; nothing is computed then.

        Raises:
            HTTPException: If the image cannot be read or shows no digit, the network fails, or there is no such value.
            OverloadedError: If too many requests are waiting.
            ClientLeftError: If the client has disconnected.
        """
        if self._waiting >= _MOST_WAITING:
            raise OverloadedError
        self._waiting += 1
        try:
            decoded = await self.batcher.prepare(content)
            if decoded.errors[0] is not None:
                raise HTTPException(422, decoded.errors[0])
            async with self._turn:
                if await left():
                    raise ClientLeftError
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(self._thread, self._compute, decoded.images, wished)
        finally:
            self._waiting -= 1

    def _compute(self, images: np.ndarray, wished: Wished) -> Response:
        import torch

        from ..tracing.from_pixels import reason, trace_from_pixels
        from ..tracing.unit import explain_unit

        # More threads do not speed up a single image, and compete for the cores.
        torch.set_num_threads(1)
        network = self._network(wished.network)
        options = {"early_exit": True} if wished.early_exit and _has_early_exit(network) else {}
        pixels = torch.from_numpy(images)
        trace, error = trace_from_pixels(network, pixels, "eval", options)
        if error is not None:
            raise HTTPException(422, f"the forward pass failed after operation {len(trace)}: {reason(error)}")
        answer = _Answer(wished.binary)
        if wished.step is not None:
            try:
                unit = explain_unit(network, pixels, trace, wished.step, wished.unit)
            except InputError as problem:
                raise HTTPException(400, str(problem)) from None
            return answer.response({"unit": _unit(unit, answer.values)})
        return answer.response(
            {
                "network": wished.network,
                "has_early_exit": _has_early_exit(network),
                "image": answer.values(pixels[0]),
                "operations": [_operation(record, answer.values) for record in trace],
                "heads": _heads(trace, answer.values),
                "saliency": _saliency(network, trace, pixels, options, answer.values) if wished.saliency else None,
            }
        )

    def _network(self, name: str) -> "nn.Module":
        from ..checkpoints.build import load_model, load_user_models

        if name not in self._networks:
            load_user_models(self.options.model_file)
            self._networks[name] = load_model(self._checkpoints[name])
        return self._networks[name]


def _has_early_exit(network: "nn.Module") -> bool:
    from ..checkpoints.build import forward_options

    try:
        forward_options(network, early_exit=True)
    except InputError:
        return False
    return True


class _Answer:
    """An answer in JSON. Tensors are little-endian float32, in base64 or as binary data after the JSON.

    Args:
        is_binary: whether tensors are binary data. The JSON is then padded with spaces to a multiple of four bytes,
            and the header `JSON_SIZE` has its size.
    """

    def __init__(self, is_binary: bool) -> None:
        self._is_binary, self._buffers, self._size = is_binary, list[bytes](), 0

    def values(self, values: "Tensor") -> dict[str, Any]:
        """Add a tensor; return its entry in the JSON: `shape`, and `base64` or the `offset` in the binary data."""
        from ..tracing.tensors import dense

        values = dense(values.detach())
        numbers = (values.abs() if values.is_complex() else values).float().numpy().astype("<f4", copy=False)
        if not self._is_binary:
            return {"shape": numbers.shape, "base64": base64.b64encode(numbers.tobytes()).decode()}
        offset = self._size
        self._buffers.append(numbers.tobytes())
        self._size += len(self._buffers[-1])
        return {"shape": numbers.shape, "offset": offset}

    def response(self, answer: dict[str, Any]) -> Response:
        content = json.dumps(answer, allow_nan=False, separators=(",", ":")).encode()
        if not self._is_binary:
            return Response(content, media_type="application/json")
        content += b" " * (-len(content) % 4)
        headers = {JSON_SIZE: str(len(content))}
        return Response(b"".join([content, *self._buffers]), media_type="application/octet-stream", headers=headers)


# Adds a tensor to the answer, and returns its entry in the JSON.
_Write = Callable[["Tensor"], dict[str, Any]]


def _operation(record: "Record", write: _Write) -> dict[str, Any]:
    return {
        "step": record.step,
        "operation": record.operation,
        "layer": record.layer,
        "code": record.location,
        "inputs": record.inputs,
        "input_shapes": record.input_shapes,
        "parameters": record.parameters,
        "flops": record.flops,
        "values": write(record.value),
    }


def _unit(unit: "Unit", write: _Write) -> dict[str, Any]:
    return {
        "kind": unit.kind,
        "value": _number(unit.value),
        "inputs": write(unit.inputs),
        "weights": write(unit.weights),
        "bias": _number(unit.bias),
        "origin": unit.origin,
        "constants": unit.constants and {name: _number(value) for name, value in unit.constants.items()},
    }


def _heads(trace: "Trace", write: _Write) -> dict[str, Any]:
    from ..tracing.outputs import heads

    return {
        name: {"logits": write(logits[0]), "probabilities": write(logits[0].softmax(0))}
        for name, logits in heads(trace.output).items()
    }


def _saliency(
    network: "nn.Module", trace: "Trace", pixels: "Tensor", options: dict[str, bool], write: _Write
) -> dict[str, Any] | None:
    """Return how strongly the first head's answer depends on each pixel; None if there is no head or no gradient."""
    from ..data.normalization import normalize
    from ..tracing.outputs import heads, saliency

    name, logits = next(iter(heads(trace.output).items()), ("", None))
    if logits is None:
        return None
    try:
        return write(saliency(network, normalize(pixels), int(logits[0].argmax()), name, **options))
    except RuntimeError:  # the network has an operation that cannot be differentiated
        return None


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
