"""Requests and answers of the Open Inference Protocol: tensors in JSON, or as binary data after it.

Source: the protocol's extension for binary tensor data,
https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol/binary-tensor-data-extension.
"""

import json
import zlib
from itertools import chain
from typing import Any, NamedTuple, NoReturn

import numpy as np
from starlette.exceptions import HTTPException
from starlette.responses import Response

from ..images import CLASSES, SIZE
from .guard import MOST_BODY

# Maximum number of images in a request. As FP32 they just fit into a body.
MOST_IMAGES = 10_000

# Maximum size of the JSON, in bytes. While it is parsed, all requests wait, and it can need thirty times its size in
# memory.
MOST_JSON = 4_000_000

# The header with the size of the JSON in bytes, if binary data follow it.
JSON_SIZE = "Inference-Header-Content-Length"

# Name of the only input; of each of its datatypes, the dtype and the value for white.
INPUT = "images"
_INPUT_TYPES: dict[str, tuple[np.dtype[Any], int]] = {"UINT8": (np.dtype("u1"), 255), "FP32": (np.dtype("<f4"), 1)}
_SHAPES = ([SIZE, SIZE], [1, SIZE, SIZE], [SIZE * SIZE])


class Output(NamedTuple):
    """An output tensor: its datatype in the protocol, its dtype in NumPy, and its shape for one image."""

    datatype: str
    dtype: np.dtype[Any]
    shape: list[int]


OUTPUTS = {
    "probabilities": Output("FP32", np.dtype("<f4"), [CLASSES]),
    "label": Output("INT64", np.dtype("<i8"), []),
}

# zlib's `wbits` for each supported encoding of a body.
_ENCODINGS = {"gzip": 31, "deflate": 15}


class InferRequest(NamedTuple):
    """An inference request.

    Attributes:
        images: uint8 (N, 28, 28).
        wanted: names of the outputs to return, in this order, and whether each is returned as binary data.
        id: id of the request, which the answer repeats; None if it has none.
    """

    images: np.ndarray
    wanted: dict[str, bool]
    id: str | None


def read_request(body: bytes, encoding: str, json_size: str | None) -> InferRequest:
    """Parse an inference request.

    Args:
        body: the body, still encoded.
        encoding: the header Content-Encoding, "identity" if there is none.
        json_size: the header `JSON_SIZE`; None if there is none.

    Raises:
        HTTPException: If the request is malformed or too large. The reason quotes nothing of the request.
    """
    asked, binary = _separate(_decompressed(body, encoding), json_size)
    if not isinstance(asked.get("id", ""), str):
        _refuse("id: expected a string")
    wanted = _wanted(asked)
    inputs = asked.get("inputs")
    if not (isinstance(inputs, list) and len(inputs) == 1):
        _refuse(f"inputs: expected one, {INPUT}")
    return InferRequest(_images(_object(inputs[0], "inputs"), binary), wanted, asked.get("id"))


def write_answer(model: str, request: InferRequest, tensors: dict[str, np.ndarray]) -> Response:
    """Return the answer to a request, with each output in the JSON or as binary data after it.

    Args:
        model: the network's name.
        request: the request.
        tensors: all outputs by name, `probabilities` (N, 10) and `label` (N,).
    """
    outputs, buffers = [], []
    for name, is_binary in request.wanted.items():
        values = tensors[name]
        output: dict[str, Any] = {"name": name, "datatype": OUTPUTS[name].datatype, "shape": list(values.shape)}
        if is_binary:
            buffers.append(values.astype(OUTPUTS[name].dtype, copy=False).tobytes())
            output["parameters"] = {"binary_data_size": len(buffers[-1])}
        else:
            output["data"] = values.ravel().tolist()
        outputs.append(output)
    answer = {"model_name": model, "outputs": outputs} | ({} if request.id is None else {"id": request.id})
    # ASCII, because an id can contain half a surrogate pair, which UTF-8 cannot encode.
    head = json.dumps(answer).encode("ascii")
    if not buffers:
        return Response(head, media_type="application/json")
    headers = {JSON_SIZE: str(len(head))}
    return Response(b"".join([head, *buffers]), media_type="application/octet-stream", headers=headers)


def _decompressed(body: bytes, encoding: str) -> bytes:
    """Decompress a body."""
    if encoding == "identity":
        return body
    if encoding not in _ENCODINGS:
        accepted = ", ".join(_ENCODINGS)
        raise HTTPException(415, f"Content-Encoding: expected {accepted}", {"Accept-Encoding": accepted})
    inflating = zlib.decompressobj(_ENCODINGS[encoding])
    try:
        content = inflating.decompress(body, MOST_BODY + 1)
    except zlib.error:
        _refuse("the body cannot be decompressed")
    if len(content) > MOST_BODY:
        raise HTTPException(413, f"the decompressed body is larger than {MOST_BODY:,} bytes")
    if not inflating.eof or inflating.unused_data:
        _refuse("the body cannot be decompressed")
    return content


def _separate(content: bytes, json_size: str | None) -> tuple[dict[str, Any], bytes]:
    """Return the JSON object of a request, and the binary data after it."""
    size = len(content)
    if json_size is not None:
        if not (json_size.isdecimal() and len(json_size) < 10 and int(json_size) <= len(content)):
            _refuse(f"{JSON_SIZE}: expected the number of bytes of JSON at the start of the body")
        size = int(json_size)
    if size > MOST_JSON:
        raise HTTPException(413, f"the JSON is larger than {MOST_JSON:,} bytes; send images as binary data")
    try:
        asked = json.loads(content[:size])
    except (ValueError, RecursionError):
        _refuse("the body is not JSON")
    return _object(asked, "the body"), content[size:]


def _wanted(asked: dict[str, Any]) -> dict[str, bool]:
    """Return the names of the requested outputs, in order, and whether each is returned as binary data."""
    default = _parameters(asked).get("binary_data_output", False)
    outputs = asked.get("outputs", [])
    if not isinstance(outputs, list):
        _refuse("outputs: expected a list")
    wanted = {}
    for output in outputs or [{"name": name} for name in OUTPUTS]:
        name = _object(output, "outputs").get("name")
        if not isinstance(name, str) or name not in OUTPUTS or name in wanted:
            _refuse(f"outputs: expected {' or '.join(OUTPUTS)}, each at most once")
        wanted[name] = _parameters(output).get("binary_data", default)
    if not all(isinstance(binary, bool) for binary in (default, *wanted.values())):
        _refuse("binary_data, binary_data_output: expected true or false")
    return wanted


def _images(tensor: dict[str, Any], binary: bytes) -> np.ndarray:
    """Return the images of an inference request, uint8 (N, 28, 28)."""
    if tensor.get("name") != INPUT:
        _refuse(f"inputs: expected the name {INPUT}")
    datatype = tensor.get("datatype")
    if not isinstance(datatype, str) or datatype not in _INPUT_TYPES:
        _refuse(f"datatype: expected {' or '.join(_INPUT_TYPES)}")
    dtype, white = _INPUT_TYPES[datatype]
    shape = tensor.get("shape")
    if (
        not isinstance(shape, list)
        or not all(type(size) is int for size in shape)
        or shape[1:] not in _SHAPES
        or shape[0] < 1
    ):
        _refuse(f"shape: expected [N, {SIZE}, {SIZE}], [N, 1, {SIZE}, {SIZE}] or [N, {SIZE * SIZE}]")
    if shape[0] > MOST_IMAGES:
        raise HTTPException(413, f"expected at most {MOST_IMAGES:,} images")
    count = shape[0] * SIZE * SIZE
    size = _parameters(tensor).get("binary_data_size")
    if size is None:
        values = _numbers(tensor.get("data"))
        if len(values) != count or binary:
            _refuse("data: expected as many numbers as the shape says, and nothing after the JSON")
    else:
        if type(size) is not int or not size == len(binary) == count * dtype.itemsize or "data" in tensor:
            _refuse("binary_data_size: expected the tensor's size in bytes, as many as follow the JSON, and no data")
        values = np.frombuffer(binary, dtype)
        if datatype == "UINT8":
            return values.reshape(-1, SIZE, SIZE)
    whole = datatype == "FP32" or (values == np.trunc(values)).all()
    if not (whole and ((values >= 0) & (values <= white)).all()):
        _refuse(f"data: expected values from 0 to {white}, whole numbers for UINT8; images in MNIST form")
    images: np.ndarray = (values * (255 / white)).round().astype(np.uint8)
    return images.reshape(-1, SIZE, SIZE)


def _numbers(data: Any) -> np.ndarray:
    """Convert numbers, in one list or nested like the tensor, to float64 (N,)."""
    form = "data: expected a list of numbers"
    # No deeper than any valid shape, because each level costs another pass over all numbers.
    for _ in range(3):
        if isinstance(data, list) and data and all(isinstance(one, list) for one in data):
            data = list(chain.from_iterable(data))
    # NumPy would also convert strings to numbers.
    if not isinstance(data, list) or not set(map(type, data)) <= {int, float}:
        _refuse(form)
    try:
        return np.array(data, np.float64)
    except OverflowError:
        _refuse(form)


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        _refuse(f"{name}: expected a JSON object")
    return value


def _parameters(holder: dict[str, Any]) -> dict[str, Any]:
    return _object(holder.get("parameters", {}), "parameters")


def _refuse(reason: str) -> NoReturn:
    """Refuse the request with a reason that quotes nothing of it."""
    raise HTTPException(400, reason) from None
