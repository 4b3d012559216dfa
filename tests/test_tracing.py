"""A trace records every operation with its cost and values, and changes nothing."""

import inspect
import math
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock

from mnist_cls import create_model, list_models, trace_forward
from mnist_cls.errors import InputError
from mnist_cls.models.conditional import Conditional
from mnist_cls.models.image_classifier import ImageClassifier
from mnist_cls.tracing.outputs import heads, saliency
from mnist_cls.tracing.recorder import recording

X = torch.linspace(-1, 2, 3 * 784).view(3, 1, 28, 28)


def first(output: object) -> Tensor:
    assert isinstance(output, (Tensor, tuple))
    return output if isinstance(output, Tensor) else output[0]


def test_records_every_operation_in_order() -> None:
    trace = trace_forward(ImageClassifier().eval(), X)
    assert [(record.operation, record.layer) for record in trace] == [
        ("conv2d", "conv1"),
        ("relu", ""),
        ("max_pool2d", "pool"),
        ("conv2d", "conv2"),
        ("relu", ""),
        ("max_pool2d", "pool"),
        ("flatten", ""),
        ("linear", "fc1"),
        ("relu", ""),
        ("dropout", "dropout"),
        ("linear", "fc2"),
    ]
    assert [record.step for record in trace] == list(range(1, 12))
    assert [record.output_shape for record in trace][2::3] == [(3, 32, 14, 14), (3, 64, 7, 7), (3, 128)]
    for before, after in pairwise(trace):
        assert after.input_shapes == [before.output_shape]


def test_location_is_the_line_in_the_networks_source() -> None:
    lines, start = inspect.getsourcelines(inspect.unwrap(ImageClassifier.forward))
    for record in trace_forward(ImageClassifier().eval(), X):
        assert Path(record.file).name == "image_classifier.py"
        assert (record.layer or record.operation) in lines[record.line - start]
        assert record.location == f"image_classifier.py:{record.line}"


def test_location_of_a_torchvision_network_is_in_torchvision() -> None:
    trace = trace_forward(BasicBlock(4, 4), torch.ones(2, 4, 8, 8))
    assert {Path(record.file).name for record in trace} == {"resnet.py"}


def test_parameters_flops_and_bytes_are_those_computed_by_hand() -> None:
    trace = trace_forward(ImageClassifier().eval(), X[:1])
    assert [record.parameters for record in trace if record.parameters] == [320, 18496, 401536, 1290]
    conv1, relu, pool, conv2, *_, fc2 = trace
    assert conv1.flops == 2 * 9 * 32 * 28 * 28
    assert conv2.flops == 2 * 9 * 32 * 64 * 14 * 14
    assert fc2.flops == 2 * 128 * 10
    assert relu.flops == 32 * 28 * 28
    assert pool.flops == 4 * 32 * 14 * 14
    assert conv1.bytes == 4 * 32 * 28 * 28
    flatten = trace[6]
    assert flatten.flops == flatten.bytes == 0  # a view


@pytest.mark.parametrize("gradients", [True, False])
def test_flops_do_not_depend_on_gradients(gradients: bool) -> None:
    model = create_model("residual").eval()
    with torch.set_grad_enabled(gradients):
        trace = trace_forward(model, X[:1])
    stem, stage1 = 2 * 25 * 32 * 196, 2 * (2 * 9 * 32 * 32 * 196)
    stage2 = 2 * 49 * (9 * 32 * 64 + 9 * 64 * 64 + 32 * 64)
    stage3 = 2 * 16 * (9 * 64 * 128 + 9 * 128 * 128 + 64 * 128)
    convolutions = [record.flops or 0 for record in trace if record.operation == "conv2d"]
    assert sum(convolutions) == stem + stage1 + stage2 + stage3
    norm = next(record for record in trace if record.operation == "batch_norm")
    assert norm.flops == 2 * 32 * 14 * 14


def test_statistics_describe_the_values() -> None:
    for record in trace_forward(ImageClassifier().eval(), X):
        values = record.value.double()
        assert record.mean == pytest.approx(values.mean().item())
        assert record.std == pytest.approx(values.std(correction=0).item())
        assert (record.min, record.max) == (values.min().item(), values.max().item())
        assert record.zeros == pytest.approx((values == 0).double().mean().item())
        assert record.finite


class Broken(nn.Module):
    """Computes two infinite values, then two NaNs."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.clone()
        x[0, :2] = 0
        y = 1 / x
        return y - y


def test_finds_the_first_operation_with_a_value_that_is_not_finite() -> None:
    trace = trace_forward(Broken(), torch.ones(2, 4))
    bad = trace.first_not_finite()
    assert bad is not None
    assert (bad.operation, bad.infs, bad.nans) == ("rtruediv", 2, 0)
    assert bad.mean == 1  # mean of the finite values
    assert (trace[-1].operation, trace[-1].infs, trace[-1].nans) == ("sub", 0, 2)
    assert math.isnan(trace_forward(Broken(), torch.zeros(1, 2))[-1].mean)


class Branching(nn.Module):
    """Control flow, functional operations, a weight without a layer, an in-place operation."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 4))

    def forward(self, x: Tensor, twice: bool = False) -> Tensor:
        if x.sum() > 0:
            x = F.gelu(x)
        for _ in range(2 if twice else 1):
            x = x @ self.weight
        x = F.relu(x, inplace=True)
        return torch.cat([x, x.T], 1)


def test_records_what_control_flow_runs() -> None:
    def names(x: Tensor, **options: bool) -> list[str]:
        return [record.operation for record in trace_forward(Branching(), x, **options)]

    assert names(torch.ones(4, 4)) == ["sum", "gt", "gelu", "matmul", "relu", "T", "cat"]
    assert names(-torch.ones(4, 4), twice=True) == ["sum", "gt", "matmul", "matmul", "relu", "T", "cat"]
    trace = trace_forward(Branching(), torch.ones(4, 4))
    assert [record.parameters for record in trace if record.operation == "matmul"] == [16]
    matmul, relu, transposed = trace[3:6]
    assert relu.bytes == transposed.bytes == 0
    assert (matmul.value > 0).all()  # copied before the in-place ReLU


def test_records_both_branches_of_the_conditional_network() -> None:
    model = Conditional().eval()
    model.threshold.fill_(0.0)
    early = trace_forward(model, X, early_exit=True)
    names: list[object] = ["conv1", "early_conv", "conv2", "conv"]
    assert [name in early for name in names] == [True, True, False, False]
    assert early[0] in early
    model.threshold.fill_(2.0)
    late = trace_forward(model, X, early_exit=True)
    assert [record.operation for record in late][-1] == "setitem"
    assert {"early_conv", "conv2"} <= {record.layer for record in late}


def test_the_batch_counter_of_batch_norm_is_no_operation() -> None:
    model = create_model("residual", dropout=0.0)
    in_training, in_evaluation = ([r.operation for r in trace_forward(model.train(mode), X)] for mode in (True, False))
    assert in_training == in_evaluation


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", list_models())
def test_tracing_changes_neither_state_nor_gradients_nor_random_numbers(name: str, training: bool) -> None:
    model = create_model(name).train(training)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}

    torch.manual_seed(7)
    trace = trace_forward(model, X)
    assert all(torch.equal(before[key], tensor) or key == "threshold" for key, tensor in model.state_dict().items())
    # The next random numbers are the same as without a trace.
    plain = model(X)
    assert torch.equal(first(plain), first(trace.output))

    def gradients(output: object) -> list[Tensor]:
        wanted = [p for p in model.parameters() if p.requires_grad]
        found = torch.autograd.grad(first(output).square().sum(), wanted, allow_unused=True)
        return [gradient for gradient in found if gradient is not None]

    pairs = list(zip(gradients(plain), gradients(trace.output), strict=True))
    assert pairs
    assert all(torch.equal(a, b) for a, b in pairs)


def test_no_hook_is_left_behind() -> None:
    model = create_model("residual")
    assert len(trace_forward(model, X)) == len(trace_forward(model, X))
    for module in model.modules():
        assert not any(value for key, value in vars(module).items() if "hooks" in key)


def test_recording_ends_with_a_failing_network() -> None:
    model = create_model("image_classifier")
    with pytest.raises(ValueError, match="conv1"), recording(model) as trace:
        model(X[:, 0])
    count = len(trace)
    torch.ones(2).relu()
    assert len(trace) == count


def test_saliency_is_the_slope_of_the_labels_logit() -> None:
    torch.manual_seed(0)
    model = create_model("image_classifier").eval().double()
    x = torch.randn(1, 1, 28, 28, dtype=torch.float64)
    found = saliency(model, x, 7)
    assert found.shape == (28, 28)
    row, column = divmod(int(found.argmax()), 28)
    step = torch.zeros_like(x)
    step[0, 0, row, column] = 1e-5
    with torch.no_grad():
        slope = (model(x + step)[0, 7] - model(x - step)[0, 7]).abs().item() / 2e-5
    assert found.max().item() == pytest.approx(slope, rel=1e-3)
    assert all(parameter.grad is None for parameter in model.parameters())


class Counter(nn.Module):
    counter: Tensor

    def __init__(self, counter: Tensor) -> None:
        super().__init__()
        self.register_buffer("counter", counter)


class Shared(nn.Module):
    """Two modules with a common buffer, which a pass changes."""

    def __init__(self) -> None:
        super().__init__()
        counter = torch.zeros(1)
        self.first, self.second = Counter(counter), Counter(counter)

    def forward(self, x: Tensor) -> Tensor:
        self.first.counter.add_(1)
        return x * self.second.counter


def test_a_buffer_shared_by_two_modules_stays_shared() -> None:
    model = Shared()
    assert trace_forward(model, torch.ones(2)).output.tolist() == [1, 1]
    assert model(torch.ones(2)).tolist() == [1, 1]
    assert model.first.counter is model.second.counter


def test_threads_may_trace_the_same_network() -> None:
    model = create_model("residual")
    before = {name: (buffer, buffer.clone()) for name, buffer in model.named_buffers()}
    with ThreadPoolExecutor(4) as threads:
        traces = list(threads.map(lambda _: trace_forward(model, X[:2]), range(12)))
    assert {len(trace) for trace in traces} == {len(traces[0])}
    for name, buffer in model.named_buffers():
        assert buffer is before[name][0]
        assert torch.equal(buffer, before[name][1])


def test_unknown_flops_are_none_rather_than_zero() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(32, 16)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.lstm(x)[0].std(0)
            return torch.mv(y, y[0])

    trace = trace_forward(Recurrent(), torch.randn(4, 6, 32))
    flops = {record.operation: record.flops for record in trace}
    assert flops["lstm"] is None
    assert flops["std"] == 3 * 4 * 6 * 16
    assert flops["mv"] == 2 * 6 * 16


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x.to_sparse(),
        lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8),
        lambda x: torch.fft.fft(x),
        lambda x: x.bfloat16(),
        lambda x: x.to(torch.float8_e4m3fn),
    ],
    ids=["sparse", "quantized", "complex", "bfloat16", "float8"],
)
@pytest.mark.filterwarnings("ignore")
def test_traces_tensors_of_every_kind(make: Callable[[Tensor], Tensor]) -> None:
    class Kind(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return make(x)

    trace = trace_forward(Kind(), torch.eye(4))
    assert trace[-1].output_shape == (4, 4)
    assert trace[-1].max == pytest.approx(1, abs=0.2)


class Skip(nn.Module):
    """Skip connections, views, and a change in place through a view."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 4))
        self.constant = torch.ones(4)

    def forward(self, x: Tensor, y: Tensor, scale: float = 1.0) -> Tensor:
        a = x @ self.weight  # 1
        b = a.relu()  # 2
        c = a.detach() + b  # 3
        first = c[:2]  # 4
        last = c[2:]  # 5
        first.mul_(scale)  # 6
        d = c - y  # 7
        d[0] = 0  # 8
        return torch.cat([d, last * self.constant, x])  # 9, 10


def test_inputs_are_the_steps_that_computed_them() -> None:
    trace = trace_forward(Skip(), torch.ones(4, 4), torch.zeros(4, 4), scale=2.0)
    assert [record.operation for record in trace] == [
        "matmul", "relu", "add", "getitem", "getitem", "mul_", "sub", "setitem", "mul", "cat"
    ]  # fmt: skip
    assert [record.inputs for record in trace] == [[0], [1], [1, 2], [3], [3], [4], [6, 0], [7], [5, None], [8, 9, 0]]
    assert all(len(record.inputs) == len(record.input_shapes) for record in trace)


def test_inputs_show_the_skip_connections_of_a_residual_block() -> None:
    trace = trace_forward(BasicBlock(4, 4).eval(), torch.ones(1, 4, 8, 8))
    assert [(record.operation, record.inputs) for record in trace][-2:] == [("add_", [5, 0]), ("relu", [6])]


def test_several_inputs_and_options_reach_the_network() -> None:
    x, y = torch.ones(4, 4), torch.full((4, 4), 3.0)
    model = Skip()
    for trace in (trace_forward(model, x, y, scale=2.0), trace_forward(model, x=x, y=y, scale=2.0)):
        assert torch.equal(trace.output, model(x, y, scale=2.0))


def test_a_record_is_found_by_position_name_and_layer() -> None:
    trace = trace_forward(ImageClassifier().eval(), X)
    assert trace["conv1"] is trace[0]
    assert trace["conv1"].value.shape == (3, 32, 28, 28)
    assert trace[trace[4].name] is trace[4]
    assert trace["pool"] is trace[5]  # its last run
    assert [record.step for record in trace.layer("pool")] == [3, 6]
    assert [record.step for record in trace[2:6:3].layer("pool")] == [3, 6]
    assert torch.equal(trace[-1:].output, trace.output)


def test_records_and_traces_can_be_compared() -> None:
    first, second = (trace_forward(ImageClassifier().eval(), X) for _ in range(2))
    assert first.index(first[4]) == 4
    assert first == first[:] != second
    assert len({*first, *second}) == 22


def test_the_record_of_a_layer_with_layers_inside_is_its_output() -> None:
    model = nn.Sequential(BasicBlock(4, 4), nn.ReLU()).eval()
    trace = trace_forward(model, torch.randn(1, 4, 8, 8))
    assert trace["0"] is trace[-2]
    assert len(trace.layer("0")) == len(trace) - 1
    assert trace["0.conv1"] is trace[0]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("conv_1", "did you mean 'conv1'"),
        ("flatten", "it is an operation of step 7"),
        ("relu", "it is an operation of steps 2, 5, 9"),
        ("encoder", "it has conv1, pool, conv2, fc1, dropout, fc2"),
        ("conv", "did you mean"),
    ],
)
def test_an_unknown_layer_is_refused_with_names_to_use(name: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as error:
        trace_forward(ImageClassifier().eval(), X)[name]
    assert len(str(error.value).splitlines()) == 1


def test_a_trace_becomes_a_table_of_pandas() -> None:
    trace = trace_forward(ImageClassifier().eval(), X)
    table = trace.to_pandas()
    assert table["step"].tolist() == list(range(1, 12))
    assert table["flops"].sum() == sum(record.flops or 0 for record in trace)
    assert table.loc[table["layer"] == "conv1", "output_shape"].item() == (3, 32, 28, 28)
    assert table["mean"].tolist() == [record.mean for record in trace]
    assert table["inputs"].tolist() == [[step] for step in range(11)]
    unknown = trace_forward(nn.LSTM(3, 2), torch.ones(1, 3)).to_pandas()
    assert unknown.loc[unknown["operation"] == "lstm", "flops"].isna().item()
    assert list(trace[:0].to_pandas()) == list(table)


def test_without_pandas_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError, match="pip install pandas"):
        trace_forward(ImageClassifier(), X).to_pandas()


def test_a_trace_prints_a_line_for_each_operation() -> None:
    lines = repr(trace_forward(ImageClassifier().eval(), X)).splitlines()
    assert lines[0] == "Trace of 11 operations"
    assert lines[1].startswith("1. conv2d conv1 (3, 32, 28, 28) (image_classifier.py:")
    assert len(lines) == 12


@pytest.mark.filterwarnings("ignore:.*jit", "ignore:Converting a tensor")
@pytest.mark.parametrize("make", [torch.jit.script, lambda model: torch.jit.trace(model, torch.ones(3, 4))])
def test_a_scripted_network_is_refused_in_a_line(make: Callable[[nn.Module], nn.Module]) -> None:
    scripted = make(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)))
    with pytest.raises(InputError, match=r"^the network is scripted"):
        trace_forward(scripted, torch.ones(3, 4))
    with pytest.raises(InputError, match=r"^layer '1' of the network is scripted"):
        trace_forward(nn.Sequential(nn.Linear(4, 4), scripted), torch.ones(3, 4))


def test_an_input_that_is_no_normalized_tensor_is_refused_in_a_line() -> None:
    model = create_model("image_classifier")
    for image in (np.zeros((1, 1, 28, 28), np.float32), Image.new("L", (28, 28))):
        with pytest.raises(
            InputError, match=rf"of type {type(image).__name__}; expected a tensor, such as .*normalize"
        ):
            trace_forward(model, image)
    for arguments, options in (([[np.zeros((28, 28))]], {}), ([], {"x": np.zeros((1, 1, 28, 28))})):
        with pytest.raises(InputError, match=r"of type ndarray; expected a tensor, such as .*normalize"):
            trace_forward(model, *arguments, **options)
    for value in ("5.png", Path("5.png"), [[0.0] * 28] * 28):
        with pytest.raises(InputError, match=r"of type \w+; expected a tensor, such as .*normalize") as caught:
            trace_forward(create_model("mlp"), value)
        assert "\n" not in str(caught.value)
    for dtype in (torch.uint8, torch.int64, torch.float64, torch.bool):
        for name in ("image_classifier", "mlp"):
            words = rf"the input is {str(dtype).removeprefix('torch.')}; expected float32, such as .*normalize"
            with pytest.raises(InputError, match=words):
                trace_forward(create_model(name), torch.zeros(1, 1, 28, 28, dtype=dtype))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as other:  # not about the input's type
        trace_forward(nn.Linear(3, 2), torch.zeros(1, 4))
    assert not isinstance(other.value, InputError)
    # Networks that accept other inputs can be traced with them.
    assert trace_forward(nn.Identity(), torch.zeros(3, dtype=torch.uint8)).output.dtype == torch.uint8


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_a_network_without_values_is_refused_in_a_line() -> None:
    with pytest.raises(InputError, match=r"^layer '0' of the network has no parameters yet"):
        trace_forward(nn.Sequential(nn.LazyLinear(3)), torch.ones(2, 4))
    with pytest.raises(InputError, match="is on the meta device"):
        trace_forward(nn.Linear(4, 3).to("meta"), torch.ones(2, 4, device="meta"))
    with pytest.raises(InputError, match="is on the meta device"):
        trace_forward(nn.Linear(4, 3), torch.ones(2, 4, device="meta"))


def test_what_is_no_network_is_refused_in_a_line() -> None:
    function: Any = torch.relu
    with pytest.raises(InputError, match=r"needs an nn\.Module"):
        trace_forward(function, torch.ones(3))


@pytest.mark.parametrize("in_place", [True, False])
def test_a_compiled_network_is_traced_like_the_network_itself(in_place: bool) -> None:
    model = create_model("residual").eval()
    expected = trace_forward(model, X[:1])
    compiled: Any = model
    if in_place:
        model.compile(backend="eager")
    else:
        compiled = torch.compile(model, backend="eager")
    assert repr(trace_forward(compiled, X[:1])) == repr(expected)


def test_finds_the_logits_in_outputs_of_every_kind() -> None:
    logits, other = torch.zeros(2, 10), torch.zeros(2, 3)
    assert list(heads(logits)) == ["logits"]
    assert list(heads((logits, other))) == ["output 0"]
    assert list(heads({"a": other, "b": logits})) == ["b"]
    assert list(heads(Conditional().train()(X))) == ["logits", "early_logits"]
    assert heads(None) == {}


def test_saliency_follows_an_early_exit() -> None:
    torch.manual_seed(0)
    model = Conditional().eval()
    model.threshold.fill_(0.0)  # every image exits early
    x = torch.randn(1, 1, 28, 28)
    early = saliency(model, x, 3, early_exit=True)
    late = saliency(model, x, 3)
    assert not torch.allclose(early, late)
    leaf = x.clone().requires_grad_()
    model.train()(leaf).early_logits[0, 3].backward()
    assert leaf.grad is not None
    torch.testing.assert_close(early, leaf.grad[0, 0].abs())
