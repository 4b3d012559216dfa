"""The OpenAPI description of the routes, for `/openapi.json`."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from .. import __version__
from .schemas import SCHEMAS
from .tensors import JSON_SIZE

# A JSON object within the description.
Part = dict[str, Any]

# Reasons for refusing any request, and further ones for a request with a body.
_REFUSED = {"403": "The request comes from another website", "421": "The server does not answer to that Host"}
_BODY_REFUSED = {
    "400": "The request is malformed",
    "408": "The body took too long to arrive",
    "413": "The body is too large",
    "415": "The body has an unsupported type or encoding",
    "503": "Too many requests are waiting; Retry-After says when to try again",
}
_NO_MODEL = {"404": "There is no such model"}

_BINARY = {"schema": {"type": "string", "format": "binary", "minLength": 1}}


def described(model: str) -> Callable[[Request], Awaitable[Response]]:
    """Return an endpoint that answers with the description.

    Args:
        model: the network's name in the Open Inference Protocol.
    """
    description = openapi(model)

    async def endpoint(request: Request) -> Response:
        return JSONResponse(description)

    return endpoint


def openapi(model: str) -> Part:
    """Return the description, in the form of OpenAPI 3.1.

    Args:
        model: the network's name in the Open Inference Protocol.
    """
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "mnist_cls",
            "version": __version__,
            "description": "Reads handwritten digits in images. A refused request is answered with the reason.",
        },
        "tags": [{"name": name} for name in ("Images", "Open Inference Protocol", "Server", "Pages")],
        "paths": {**_images(), **_protocol(model), **_server(), **_pages()},
        "components": {"schemas": SCHEMAS},
    }


def _images() -> Part:
    image = {"image/*": _BINARY, "application/octet-stream": _BINARY}
    return {
        "/predict": _post(
            "Images",
            "Read the digits in images",
            {"application/json": _schema("Predictions")},
            image | {"multipart/form-data": _schema("Files")},
            [
                _query("split", {"type": "boolean"}, "Whether each image is a row of digits"),
                _query(
                    "min_confidence",
                    {"type": "number", "minimum": 0, "maximum": 1},
                    "Flag predictions whose confidence is below this as `undecided`",
                ),
            ],
        ),
        "/forward": _post(
            "Images",
            "Show every operation of a forward pass with its values; with step and unit, explain one value",
            {
                "application/json": {
                    "schema": {"anyOf": [_schema("ForwardPass")["schema"], _schema("Unit")["schema"]]}
                },
                "application/octet-stream": _BINARY,
            },
            image,
            [
                _query("network", {"type": "string"}, "One of /networks; the first one if left out"),
                _query("early_exit", {"type": "boolean"}, "Whether the image can exit at an early head of the network"),
                _query("saliency", {"type": "boolean"}, "Whether to add how strongly the answer depends on each pixel"),
                _query("step", {"type": "integer", "minimum": 1}, "Number of the operation whose value to explain"),
                _query(
                    "unit",
                    {"type": "string", "pattern": r"^\d+(,\d+)*$"},
                    "Index of that value in the operation's output, such as 0,3,12,20",
                ),
                _query("binary", {"type": "boolean"}, "Whether tensors follow the JSON as binary data"),
            ],
            {"422": "The image shows no digit or cannot be read, or the forward pass fails"},
        ),
        "/networks": _get("Images", "List the networks that /forward can use", "Networks"),
    }


def _protocol(model: str) -> Part:
    tag = "Open Inference Protocol"
    name = {"name": "name", "in": "path", "required": True, "schema": {"enum": [model]}, "description": "The network"}
    json_size = {
        "name": JSON_SIZE,
        "in": "header",
        "schema": {"type": "integer", "minimum": 0},
        "description": "Number of bytes of JSON at the start of the body; binary data follow",
    }
    return {
        "/v2": _get(tag, "Describe the server", "ServerMetadata"),
        "/v2/health/live": _get(tag, "Whether the server runs", "Live"),
        "/v2/health/ready": _get(tag, "Whether the server accepts requests", "Ready", or_503=True),
        "/v2/models/{name}": _get(tag, "Describe the network's tensors", "ModelMetadata", [name], _NO_MODEL),
        "/v2/models/{name}/ready": _get(
            tag, "Whether the network accepts requests", "ModelReady", [name], _NO_MODEL, or_503=True
        ),
        "/v2/models/{name}/infer": _post(
            tag,
            "Classify images in MNIST form, 28x28 pixels, as JSON or as binary data after JSON",
            {"application/json": _schema("InferAnswer"), "application/octet-stream": _BINARY},
            {"application/json": _schema("InferRequest"), "application/octet-stream": _BINARY},
            [name, json_size],
            _NO_MODEL,
        ),
    }


def _server() -> Part:
    return {
        "/livez": _get("Server", "Whether the server runs", "Live"),
        "/readyz": _get("Server", "Whether the server accepts requests", "Ready", or_503=True),
        "/metrics": _get("Server", "Counters, for Prometheus", content={"text/plain": {"schema": {"type": "string"}}}),
        "/openapi.json": _get("Server", "This description", content={"application/json": {}}),
    }


def _pages() -> Part:
    html = {"text/html": {"schema": {"type": "string"}}}
    return {
        "/": _get("Pages", "Draw a digit, and look inside the forward pass", content=html),
        "/api": _get("Pages", "This description as a web page", content=html),
    }


def _get(
    tag: str,
    summary: str,
    schema: str = "",
    parameters: Sequence[Part] = (),
    others: Part | None = None,
    content: Part | None = None,
    or_503: bool = False,
) -> Part:
    """Describe a route that answers to GET with JSON of a schema, or with other content; `or_503` is its no."""
    content = content or {"application/json": _schema(schema)}
    answers = {"200": _answer(content), **_refusals(others or {})}
    if or_503:
        answers["503"] = _answer(content, "Not yet, or no longer")
    return {"get": {"tags": [tag], "summary": summary, "parameters": [*parameters], "responses": answers}}


def _post(
    tag: str, summary: str, content: Part, body: Part, parameters: Sequence[Part], others: Part | None = None
) -> Part:
    """Describe a route that answers to a body with some content."""
    return {
        "post": {
            "tags": [tag],
            "summary": summary,
            "parameters": [*parameters],
            "requestBody": {"required": True, "content": body},
            "responses": {"200": _answer(content), **_refusals(_BODY_REFUSED | (others or {}))},
        }
    }


def _answer(content: Part, description: str = "The answer") -> Part:
    return {"description": description, "content": content}


def _refusals(others: Part) -> Part:
    error = {"application/json": _schema("Error")}
    return {status: _answer(error, reason) for status, reason in sorted((_REFUSED | others).items())}


def _query(name: str, schema: Part, description: str) -> Part:
    return {"name": name, "in": "query", "schema": schema, "description": description}


def _schema(name: str) -> Part:
    return {"schema": {"$ref": f"#/components/schemas/{name}"}}
