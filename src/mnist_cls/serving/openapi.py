"""The description of the routes, for `/openapi.json`."""

from typing import Any

from .. import __version__

_ERROR = {"schema": {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}}
_ERRORS = {
    "400": "The request is malformed",
    "403": "Another website asks",
    "413": "The body is too large",
    "415": "The body is of another type",
    "421": "The server does not answer to that Host",
    "503": "Too many images are waiting; Retry-After says when to come back",
}
_NUMBER = {"type": ["number", "null"]}
_ROW = {
    "type": "object",
    "description": "As `mnist_cls.predict` writes it; of an image that cannot be read, `error` says why.",
    "required": ["path", "error"],
    "properties": {
        "path": {"type": "string", "description": "The name of the file, or its number"},
        "label": {"type": ["integer", "null"], "minimum": 0, "maximum": 9},
        "confidence": _NUMBER,
        **{f"p{digit}": _NUMBER for digit in range(10)},
        "reading": {"type": ["string", "null"], "description": "With split=true: the digits of the row"},
        "confidences": {"type": ["array", "null"], "items": {"type": "number"}},
        "boxes": {"type": ["array", "null"], "items": {"type": "array", "items": {"type": "integer"}}},
        "error": {"type": ["string", "null"]},
        "is_digit": {"type": ["boolean", "null"]},
        "undecided": {"type": ["boolean", "null"]},
    },
}


def openapi() -> dict[str, Any]:
    """Return the description, as OpenAPI 3.1 has it."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "mnist_cls", "version": __version__, "description": "Reads handwritten digits in images."},
        "paths": {
            "/predict": {"post": _predict()},
            "/livez": {"get": _plain("Whether the server runs")},
            "/readyz": {"get": _plain("Whether it takes requests", {"503": _answer("Not yet, or no longer")})},
            "/metrics": {"get": _plain("Counters, for Prometheus", kind="text/plain")},
            "/openapi.json": {"get": _plain("This description")},
        },
    }


def _predict() -> dict[str, Any]:
    row = {
        "type": "object",
        "required": ["predictions"],
        "properties": {"predictions": {"type": "array", "items": _ROW}},
    }
    parameters = [
        _parameter("split", {"type": "boolean"}, "Read each image as a row of digits"),
        _parameter(
            "min_confidence",
            {"type": "number", "minimum": 0, "maximum": 1},
            "Flag predictions whose confidence is below it in the column `undecided`",
        ),
    ]
    binary = {"schema": {"type": "string", "format": "binary"}}
    files = {
        "schema": {
            "type": "object",
            "required": ["files"],
            "properties": {"files": {"type": "array", "items": {"type": "string", "format": "binary"}}},
        }
    }
    return {
        "summary": "Read the digits of images",
        "parameters": parameters,
        "requestBody": {"required": True, "content": {"image/*": binary, "multipart/form-data": files}},
        "responses": {
            "200": {"description": "A row for each image", "content": {"application/json": {"schema": row}}},
            **{status: _answer(reason) for status, reason in _ERRORS.items()},
        },
    }


def _plain(summary: str, others: dict[str, Any] | None = None, kind: str = "application/json") -> dict[str, Any]:
    return {"summary": summary, "responses": {"200": {"description": summary, "content": {kind: {}}}, **(others or {})}}


def _answer(reason: str) -> dict[str, Any]:
    return {"description": reason, "content": {"application/json": _ERROR}}


def _parameter(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": description}
