"""JSON Schemas of requests and answers, for `/openapi.json`."""

from typing import Any

from ..images import CLASSES, SIZE
from .tensors import INPUT, MOST_IMAGES, OUTPUTS

Schema = dict[str, Any]

# Maximum number of images in a request.
MOST_FILES = 256


def _object(required: list[str], **properties: Schema) -> Schema:
    return {"type": "object", "required": required, "properties": properties}


def _array(items: Schema, **limits: Any) -> Schema:
    return {"type": "array", "items": items, **limits}


def _named(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _maybe(kind: str, **others: Any) -> Schema:
    return {"type": [kind, "null"], **others}


_STRING, _BOOLEAN, _COUNT = {"type": "string"}, {"type": "boolean"}, {"type": "integer", "minimum": 0}
_PROBABILITY = {"type": "number", "minimum": 0, "maximum": 1}
_VALUES = _named("Values")

_ROW = _object(
    ["path", "error"],
    path={**_STRING, "description": "Name of the file, or its index"},
    label=_maybe("integer", minimum=0, maximum=CLASSES - 1),
    confidence=_maybe("number"),
    **{f"p{digit}": _maybe("number") for digit in range(CLASSES)},
    reading=_maybe("string", description="With split=true: the digits of the row"),
    confidences={**_array(_PROBABILITY), "type": ["array", "null"], "description": "Of each digit of the row"},
    boxes={
        **_array(_array({"type": "integer"})),
        "type": ["array", "null"],
        "description": "Of each digit of the row: left, top, right and bottom, in pixels",
    },
    error=_maybe("string", description="Why the image cannot be read; the other properties are then null"),
    is_digit=_maybe("boolean"),
    undecided=_maybe("boolean"),
)

_TENSOR = _object(["name", "datatype", "shape"], name=_STRING, datatype=_STRING, shape=_array({"type": "integer"}))


def _shape(*sizes: int) -> Schema:
    """Return the schema of a shape with a batch dimension first."""
    batch = {"type": "integer", "minimum": 1, "maximum": MOST_IMAGES}
    count = 1 + len(sizes)
    return {
        "type": "array",
        "prefixItems": [batch, *({"const": size} for size in sizes)],
        "items": False,
        "minItems": count,
        "maxItems": count,
    }


_INPUT_TENSOR = _object(
    ["name", "datatype", "shape"],
    name={"const": INPUT},
    datatype={"enum": ["UINT8", "FP32"], "description": "UINT8: 0 to 255; FP32: 0 to 1"},
    shape={"anyOf": [_shape(SIZE, SIZE), _shape(1, SIZE, SIZE), _shape(SIZE * SIZE)]},
    data={"type": "array", "description": "The values, nested like the shape or in one flat list"},
    parameters=_object(
        [], binary_data_size={**_COUNT, "description": "Instead of `data`: number of bytes after the JSON"}
    ),
)

_INFER_REQUEST = _object(
    ["inputs"],
    id={**_STRING, "description": "Repeated in the answer"},
    parameters=_object([], binary_data_output={**_BOOLEAN, "description": "Answer with binary data"}),
    inputs=_array(_named("InputTensor"), minItems=1, maxItems=1),
    outputs=_array(
        _object(["name"], name={"enum": [*OUTPUTS]}, parameters=_object([], binary_data=_BOOLEAN)),
        description="The outputs to return; all if left out",
    ),
)

_INFER_ANSWER = _object(
    ["model_name", "outputs"],
    model_name=_STRING,
    id=_STRING,
    outputs=_array(
        _object(
            ["name", "datatype", "shape"],
            name={"enum": [*OUTPUTS]},
            datatype=_STRING,
            shape=_array(_COUNT),
            data=_array({"type": "number"}),
            parameters=_object([], binary_data_size=_COUNT),
        )
    ),
)

_OPERATION = _object(
    ["step", "operation", "layer", "code", "inputs", "input_shapes", "parameters", "flops", "values"],
    step={"type": "integer", "minimum": 1},
    operation=_STRING,
    layer=_STRING,
    code={**_STRING, "description": "File and line of the network"},
    inputs=_array(
        _maybe("integer"),
        description="For each input the step that computed it; 0 for the network's input, null for a constant",
    ),
    input_shapes=_array(_array(_COUNT)),
    parameters=_COUNT,
    flops=_maybe("integer"),
    values=_VALUES,
)

_HEAD = _object(["logits", "probabilities"], logits=_VALUES, probabilities=_VALUES)

_FORWARD_PASS = _object(
    ["network", "has_early_exit", "image", "operations", "heads", "saliency"],
    network=_STRING,
    has_early_exit=_BOOLEAN,
    image={**_VALUES, "description": "The image in MNIST's form, 0 to 255"},
    operations=_array(_named("Operation"), description="In the order of computation"),
    heads={"type": "object", "additionalProperties": _HEAD, "description": "By name of the output, such as `logits`"},
    saliency={"anyOf": [_VALUES, {"type": "null"}], "description": "null unless requested and computable"},
)

_UNIT = _object(
    ["kind", "value", "inputs", "weights", "bias", "origin", "constants"],
    kind={**_STRING, "description": "How the value was computed: sum of products, max, mean, ..."},
    value={**_maybe("number"), "description": "null if it is not finite"},
    inputs=_VALUES,
    weights=_VALUES,
    bias=_maybe("number"),
    origin=_array(
        {"type": "integer"},
        description="Of a convolution or pooling: row and column of the first of `inputs` in the operation's input",
    ),
    constants=_maybe("object"),
)

SCHEMAS: dict[str, Schema] = {
    "Error": _object(["error"], error=_STRING),
    "Live": _object(["live"], live=_BOOLEAN),
    "Ready": _object(["ready"], ready=_BOOLEAN),
    "Predictions": _object(["predictions"], predictions=_array(_named("Row"))),
    "Row": {**_ROW, "description": "As `mnist_cls.predict` writes it"},
    "Files": {
        **_object(["files"], files=_array({**_STRING, "format": "binary"}, minItems=1, maxItems=MOST_FILES)),
        "additionalProperties": False,
    },
    "Networks": _object(["networks"], networks=_array(_STRING, description="Names, the default one first")),
    "Operation": _OPERATION,
    "ForwardPass": _FORWARD_PASS,
    "Unit": _object(["unit"], unit=_UNIT),
    "Values": {
        **_object(["shape", "base64"], shape=_array(_COUNT), base64=_STRING),
        "description": "A tensor: FP32, little-endian, in base64",
    },
    "ServerMetadata": _object(
        ["name", "version", "extensions"], name=_STRING, version=_STRING, extensions=_array(_STRING)
    ),
    "ModelMetadata": _object(
        ["name", "platform", "inputs", "outputs"],
        name=_STRING,
        platform=_STRING,
        inputs=_array(_TENSOR),
        outputs=_array(_TENSOR),
    ),
    "ModelReady": _object(["name", "ready"], name=_STRING, ready=_BOOLEAN),
    "InputTensor": _INPUT_TENSOR,
    "InferRequest": _INFER_REQUEST,
    "InferAnswer": _INFER_ANSWER,
}
