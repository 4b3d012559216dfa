"""FLOPs equal those counted by hand, and those of PyTorch's FlopCounterMode and torchinfo where these count them."""

from collections.abc import Callable

import pytest
import torch
import torchinfo
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mnist_cls import create_model, list_models, trace_forward
from mnist_cls.tracing.flops import FlopCount
from mnist_cls.tracing.records import Trace

# 2 x 8 maps of 6 x 6; 2 sequences of 5 vectors of 8 numbers; 2 x 4 heads of 10 vectors of 16 numbers.
MAPS, SEQUENCES, HEADS = torch.randn(2, 8, 6, 6), torch.randn(2, 5, 8), torch.randn(2, 4, 10, 16)
# Convolutions and matrix products, which FlopCounterMode counts.
PRODUCTS = {"conv1d", "conv2d", "conv_transpose2d", "linear", "matmul", "bmm", "einsum"}

# Operations counted by hand: per value of the output or, where a comment says so, of the input.
COUNTS: dict[str, tuple[Callable[[], Tensor], int]] = {
    # Activations: one per value.
    "relu": (lambda: F.relu(MAPS), 576),
    "prelu": (lambda: F.prelu(MAPS, torch.ones(8)), 576),
    "leaky_relu": (lambda: F.leaky_relu(MAPS), 576),
    "rrelu": (lambda: F.rrelu(MAPS, training=True), 576),
    "elu": (lambda: F.elu(MAPS), 576),
    "gelu": (lambda: F.gelu(MAPS), 576),
    "silu": (lambda: F.silu(MAPS), 576),
    "mish": (lambda: F.mish(MAPS), 576),
    "hardswish": (lambda: F.hardswish(MAPS), 576),
    "hardsigmoid": (lambda: F.hardsigmoid(MAPS), 576),
    "logsigmoid": (lambda: F.logsigmoid(MAPS), 576),
    "softplus": (lambda: F.softplus(MAPS), 576),
    "tanh": (lambda: MAPS.tanh(), 576),
    "glu": (lambda: F.glu(MAPS, 1), 2 * 288),  # a sigmoid and a product
    "softmax": (lambda: F.softmax(MAPS, 1), 3 * 576),  # exp, sum, division
    "log_softmax": (lambda: F.log_softmax(MAPS, 1), 3 * 576),
    # Norms: a scale and a shift; before these the mean and the variance, if they are computed.
    "batch_norm": (lambda: F.batch_norm(MAPS, torch.zeros(8), torch.ones(8)), 2 * 576),
    "batch_norm in training": (lambda: F.batch_norm(MAPS, torch.zeros(8), torch.ones(8), training=True), 5 * 576),
    "instance_norm": (lambda: F.instance_norm(MAPS), 5 * 576),
    "group_norm": (lambda: F.group_norm(MAPS, 2, torch.ones(8), torch.ones(8)), 5 * 576),
    "layer_norm": (lambda: F.layer_norm(SEQUENCES, (8,)), 5 * 80),
    "std": (lambda: MAPS.std(1), 3 * 576),
    # Pooling: one per value in the window; reductions: one per value of the input.
    "max_pool1d": (lambda: F.max_pool1d(SEQUENCES, 2), 2 * 40),
    "max_pool2d": (lambda: F.max_pool2d(MAPS, 3), 9 * 64),
    "max_pool3d": (lambda: F.max_pool3d(MAPS, 2), 8 * 72),
    "avg_pool2d": (lambda: F.avg_pool2d(MAPS, (3, 2)), 6 * 96),
    "adaptive_avg_pool2d": (lambda: F.adaptive_avg_pool2d(MAPS, 3), 576),
    "adaptive_max_pool2d": (lambda: F.adaptive_max_pool2d(MAPS, 3), 576),
    "mean": (lambda: MAPS.mean(1), 576),
    "cumsum": (lambda: MAPS.cumsum(1), 576),
    # Interpolation: a product and a sum for each neighbouring value; the nearest one is copied.
    "bilinear": (lambda: F.interpolate(MAPS, scale_factor=2, mode="bilinear"), 4 * 2 * 2304),
    "bicubic": (lambda: F.interpolate(MAPS, scale_factor=2, mode="bicubic"), 16 * 2 * 2304),
    "linear interpolation": (lambda: F.interpolate(SEQUENCES, scale_factor=2, mode="linear"), 2 * 2 * 160),
    "trilinear": (lambda: F.interpolate(MAPS[None], scale_factor=2, mode="trilinear"), 8 * 2 * 4608),
    "nearest": (lambda: F.interpolate(MAPS, scale_factor=2), 2 * 2 * 12),  # the index
    "area": (lambda: F.interpolate(MAPS, size=3, mode="area"), 576),
    "grid_sample": (lambda: F.grid_sample(MAPS, torch.zeros(2, 4, 4, 2), align_corners=False), 4 * 2 * 256),
    # Moving values costs nothing.
    "clone": (lambda: MAPS.clone(), 0),
    "double": (lambda: MAPS.double(), 0),
    "pixel_shuffle": (lambda: F.pixel_shuffle(MAPS, 2), 0),
    "cat": (lambda: torch.cat([MAPS, MAPS]), 0),
    "pad": (lambda: F.pad(MAPS, (1, 1)), 0),
    "embedding": (lambda: F.embedding(torch.tensor([1, 2]), torch.ones(4, 4)), 0),
    # Products: a multiplication and an addition each.
    "linear": (lambda: F.linear(SEQUENCES, torch.ones(3, 8), torch.ones(3)), 2 * 80 * 3),
    "addmm": (lambda: torch.addmm(torch.ones(5, 5), SEQUENCES[0], SEQUENCES[0].T), 2 * 5 * 5 * 8),
    "baddbmm": (lambda: torch.baddbmm(torch.ones(2, 5, 5), SEQUENCES, SEQUENCES.mT), 2 * 2 * 5 * 5 * 8),
    "einsum": (lambda: torch.einsum("bchw,dc->bdhw", MAPS, torch.ones(3, 8)), 2 * 576 * 3),
    "mv": (lambda: torch.mv(SEQUENCES[0], torch.ones(8)), 2 * 5 * 8),
    "dot": (lambda: torch.dot(torch.ones(5), torch.ones(5)), 2 * 5),
    "bilinear layer": (lambda: F.bilinear(SEQUENCES, SEQUENCES, torch.ones(3, 8, 8)), 3 * 10 * 3 * 8 * 8),
    "conv1d": (lambda: F.conv1d(SEQUENCES, torch.ones(3, 5, 3)), 2 * 2 * 3 * 6 * 5 * 3),
    "conv2d in groups": (lambda: F.conv2d(MAPS, torch.ones(8, 1, 3, 3), groups=8), 2 * 9 * 256),
    "conv_transpose2d": (lambda: F.conv_transpose2d(MAPS, torch.ones(8, 4, 3, 3)), 2 * 9 * 576 * 4),
    "attention": (lambda: F.scaled_dot_product_attention(HEADS, HEADS, HEADS), 51_200),
    "masked attention": (lambda: F.scaled_dot_product_attention(HEADS, HEADS, HEADS, torch.ones(10, 10)), 51_200),
    "attention to another sequence": (
        lambda: F.scaled_dot_product_attention(HEADS, HEADS[:, :, :5], HEADS[:, :, :5]),
        2 * 8 * 10 * 5 * (16 + 16),
    ),
}


def counted(run: Callable[[], object]) -> int | None:
    with FlopCount() as count:
        run()
    flops: int | None = count.flops
    return flops


@pytest.mark.parametrize("gradients", [True, False], ids=["gradients", "no_grad"])
@pytest.mark.parametrize("name", COUNTS)
def test_flops_are_those_counted_by_hand(name: str, gradients: bool) -> None:
    run, expected = COUNTS[name]
    with torch.set_grad_enabled(gradients):
        assert counted(run) == expected


@pytest.mark.parametrize("gradients", [True, False], ids=["gradients", "no_grad"])
def test_multi_head_attention_counts_its_products(gradients: bool) -> None:
    attention = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    encoder = nn.TransformerEncoderLayer(8, 2, dim_feedforward=32, batch_first=True).eval()
    tokens = 2 * 5
    products = 2 * tokens * 4 * 8 * 8 + 2 * 2 * tokens * 5 * 8  # four linear layers; queries by keys, and by values
    feed_forward = 2 * 2 * tokens * 8 * 32
    with torch.set_grad_enabled(gradients):
        in_attention = sum(r.flops or 0 for r in trace_forward(attention, SEQUENCES, SEQUENCES, SEQUENCES))
        in_encoder = sum(r.flops or 0 for r in trace_forward(encoder, SEQUENCES))
    # The rest are biases, the softmax, sums and norms.
    assert products <= in_attention <= 1.15 * products
    assert products + feed_forward <= in_encoder <= 1.15 * (products + feed_forward)


@pytest.mark.parametrize(
    "run",
    [
        lambda: torch.fft.fft(SEQUENCES),
        lambda: torch.linalg.inv(torch.eye(3)),
        lambda: torch.linalg.cholesky(torch.eye(3)),
        lambda: nn.LSTM(8, 4)(SEQUENCES),
        lambda: MAPS.sort(1),
        lambda: F.interpolate(MAPS, size=3, mode="bilinear", antialias=True),
        lambda: torchvision.ops.nms(torch.ones(2, 4), torch.ones(2), 0.5),
    ],
    ids=["fft", "inv", "cholesky", "lstm", "sort", "antialias", "nms"],
)
def test_expensive_kernels_without_a_formula_are_unknown_not_free(run: Callable[[], object]) -> None:
    assert counted(run) is None


def reference(model: nn.Module, x: Tensor) -> int:
    """FLOPs counted by PyTorch, which counts attention only if it is computed step by step, as with gradients."""
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(x)
    return int(counter.get_total_flops())


def flops_of(trace: Trace, operations: set[str]) -> int:
    return sum(record.flops or 0 for record in trace if record.operation in operations)


def torchinfo_mult_adds(trace: Trace) -> int:
    """Count as torchinfo does: one operation per parameter, for a convolution at each position of its output.

    So biases are counted, norms only once per image, and products without parameters not at all.
    """
    positions = [
        record.output_shape[0] * (record.value[0, 0].numel() if record.operation in PRODUCTS - {"linear"} else 1)
        for record in trace
    ]
    return sum(record.parameters * count for record, count in zip(trace, positions, strict=True))


@pytest.mark.parametrize("name", list_models())
def test_a_packaged_network_has_the_flops_that_others_count(name: str) -> None:
    model, x = create_model(name).eval(), torch.randn(2, 1, 28, 28)
    trace = trace_forward(model, x)
    assert flops_of(trace, PRODUCTS) == reference(model, x) > 0
    info = torchinfo.summary(model, input_data=x, verbose=0)
    assert info.total_mult_adds == torchinfo_mult_adds(trace)


@pytest.mark.parametrize(
    "name",
    [
        "alexnet",
        "efficientnet_b0",
        "mnasnet0_5",
        "mobilenet_v3_small",
        "regnet_y_400mf",
        "resnet18",
        "shufflenet_v2_x0_5",
        "squeezenet1_1",
        pytest.param("convnext_tiny", marks=pytest.mark.slow),
        pytest.param("densenet121", marks=pytest.mark.slow),
        pytest.param("swin_t", marks=pytest.mark.slow),
    ],
)
@torch.no_grad()
def test_a_torchvision_network_has_the_flops_that_others_count(name: str) -> None:
    model, x = torchvision.models.get_model(name).eval(), torch.randn(1, 3, 64, 64)
    trace = trace_forward(model, x)
    assert flops_of(trace, PRODUCTS) == reference(model, x) > 0
    counted_by_torchinfo = torchinfo.summary(model, input_data=x, verbose=0).total_mult_adds
    if name in ("convnext_tiny", "swin_t"):  # torchinfo misses parameters that no layer uses in its own forward
        assert counted_by_torchinfo < torchinfo_mult_adds(trace)
    else:
        assert counted_by_torchinfo == torchinfo_mult_adds(trace)


@pytest.mark.slow
@torch.no_grad()
def test_vit_b_16_has_the_flops_of_its_products_and_little_more() -> None:
    model, x = torchvision.models.vit_b_16().eval(), torch.randn(1, 3, 224, 224)
    total = sum(record.flops or 0 for record in trace_forward(model, x))
    assert 35.1e9 < total < 35.2e9
    assert 0 < total - reference(model, x) < 0.005 * total  # norms, activations, sums
