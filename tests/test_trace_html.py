"""In a notebook, a trace of any network is a small table with pictures, without scripts."""

import base64
import io
from collections.abc import Callable
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models import resnet50

from mnist_cls import create_model, list_models, trace_forward
from mnist_cls.checkpoints.build import load_model
from mnist_cls.checkpoints.find import list_weights
from mnist_cls.data.datasets import LabelledImages
from mnist_cls.data.normalization import normalize

_VOID = {"img", "wbr"}


class Page(HTMLParser):
    """What a browser would find in the HTML: elements with their attributes, and rows of cells."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.rows: list[list[str]] = []
        self.folded: list[bool] = []
        self._open: list[str] = []
        self.feed(html)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag == "img":
            self.folded.append("details" in self._open)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in _VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.rows and {"td", "th"} & set(self._open):
            self.rows[-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def pictures(self) -> list[np.ndarray]:
        """The pictures' pixels, uint8 (H, W, 4)."""
        found = []
        for image in self.all("img"):
            start, data = image["src"].split(",")
            assert start == "data:image/png;base64"
            picture = Image.open(io.BytesIO(base64.b64decode(data)))
            assert int(image["width"]) / picture.width == int(image["height"]) / picture.height
            found.append(np.array(picture.convert("RGBA")))
        return found


def shown(model: nn.Module, x: Tensor) -> Page:
    return Page(trace_forward(model, x)._repr_html_())


@pytest.mark.parametrize("name", list_models())
def test_a_pass_of_each_network_takes_at_most_100_kb(name: str, mnist_test: LabelledImages) -> None:
    model = load_model(name) if name in list_weights() else create_model(name)
    trace = trace_forward(model.eval(), normalize(mnist_test.images[:1]))
    page = Page(trace._repr_html_())
    assert len(page.html.encode()) <= 100_000
    assert len(page.rows) == 1 + len(trace)
    assert len(page.pictures()) >= len(trace)
    for record in trace:
        assert len(record._repr_html_().encode()) <= 100_000


def test_it_is_a_real_table_that_reads_without_css(mnist_test: LabelledImages) -> None:
    model = load_model("image_classifier").eval()
    page = shown(model, normalize(mnist_test.images[:1]))
    assert [len(page.all(tag)) for tag in ("table", "caption", "thead", "tbody")] == [1, 1, 1, 1]
    scopes = [heading["scope"] for heading in page.all("th")]
    assert scopes == ["col"] * len(page.rows[0]) + ["row"] * 11
    assert {len(row) for row in page.rows} == {len(page.rows[0])}
    conv1 = dict(zip(page.rows[0], page.rows[1], strict=True))
    assert conv1["step"] == "1"
    assert conv1["operation"] == "conv2d"
    assert conv1["layer"] == "conv1"
    assert conv1["from step"] == "input"
    assert conv1["output shape"] == "(1, 32, 28, 28)"
    assert conv1["parameters"] == "320"
    assert conv1["FLOPs"] == "451,584"
    logits = page.rows[-1][-1].split()
    assert np.argmax([float(value) for value in logits]) == mnist_test.labels[0]


def test_it_has_no_script_and_loads_nothing() -> None:
    page = shown(create_model("residual"), torch.randn(2, 1, 28, 28))
    assert not page.all("script")
    assert not page.all("link")
    assert "url(" not in page.html
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name in ("href", "srcset")]
        assert attributes.get("src", "data:").startswith("data:")


def test_pictures_say_in_words_what_they_show() -> None:
    page = shown(create_model("image_classifier").eval(), torch.linspace(-1, 1, 784).view(1, 1, 28, 28))
    alts = [image["alt"] for image in page.all("img")]
    assert alts[0].startswith("conv2d conv1: feature maps 1 to 16 of 32, 28 x 28 values each, from -")
    assert alts[1].startswith("conv2d conv1: feature maps 17 to 32 of 32")
    assert alts[-1].startswith("linear fc2: 10 values, from ")
    assert page.folded[:2] == [False, True]


def colours(*values: float) -> np.ndarray:
    [picture] = shown(Clone(), torch.tensor([values])).pictures()
    return picture[0, : len(values)]


class Clone(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.clone()


def test_red_is_positive_blue_negative_white_zero_and_black_not_finite() -> None:
    red, white, blue, black, pink = colours(2, 0, -2, float("nan"), 1).tolist()
    assert red == [255, 0, 0, 255]
    assert white == [255, 255, 255, 255]
    assert blue == [0, 0, 255, 255]
    assert black == [0, 0, 0, 255]
    assert pink[0] == 255
    assert 120 < pink[1] == pink[2] < 135


def test_every_feature_map_is_shown_if_they_are_small() -> None:
    x = torch.zeros(1, 40, 2, 2)
    x[0, torch.arange(40), 0, 0] = torch.arange(1, 41).float()
    visible, folded = shown(Clone(), x).pictures()
    corners = [*visible[0, ::3, 1], *folded[0, ::3, 1], *folded[3, ::3, 1]][:40]
    fades = [255 * (1 - value / 40) for value in range(1, 41)]
    assert np.abs(np.array(corners, float) - fades).max() <= 6


def test_pictures_are_those_of_the_first_image() -> None:
    x = torch.randn(3, 4, 5, 5)
    several, one = shown(nn.ReLU(), x), shown(nn.ReLU(), x[:1])
    assert np.array_equal(several.pictures()[0], one.pictures()[0])
    assert several.rows[1][4] == "(3, 4, 5, 5)"


def test_large_maps_are_drawn_in_part_and_the_text_says_so() -> None:
    page = shown(Clone(), torch.randn(1, 1, 224, 224))
    assert "every 8th row and column" in page.all("img")[0]["alt"]
    page = shown(Clone(), torch.randn(1, 100, 500))
    assert "the first 28 x 64 of 100 x 500 values" in page.all("img")[0]["alt"]
    page = shown(Clone(), torch.randn(1, 1000))
    assert "the first 512 of 1000 values" in page.all("img")[0]["alt"]


def test_values_that_are_not_finite_are_counted_in_words() -> None:
    page = shown(Clone(), torch.tensor([[1.0, float("nan"), float("inf"), float("nan")]]))
    assert page.rows[1][7] == "1 to 1, 2 NaN, 1 Inf"
    assert page.rows[1][-1] == "1 nan inf nan"


def test_names_are_escaped() -> None:
    evil = '<script>alert("1")</script>&'

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleDict({evil: nn.ReLU()})

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.layers[evil](x)
            return y

    trace = trace_forward(Network(), torch.ones(1, 3))
    page = Page(trace._repr_html_())
    assert not page.all("script")
    assert page.rows[1][2] == f"layers.{evil}"
    assert not Page(trace[0]._repr_html_()).all("script")


def test_the_middle_of_a_long_pass_is_summed_up_in_a_row() -> None:
    trace = trace_forward(nn.Sequential(*[nn.ReLU() for _ in range(100)]), torch.ones(1, 8))
    page = Page(trace._repr_html_())
    summary = page.rows[31]
    assert summary == ["60 operations, 480 FLOPs, 1,920 bytes of activations, not listed here: trace[30:90]"]
    assert [row[0] for row in page.rows[1:]] == [*map(str, range(1, 31)), summary[0], *map(str, range(91, 101))]
    assert [row[0] for row in Page(trace[30:60]._repr_html_()).rows[1:]] == list(map(str, range(31, 61)))


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (lambda: resnet50().eval(), (1, 3, 64, 64)),
        (lambda: nn.Sequential(*[nn.Hardtanh(-9, 9) for _ in range(50)]), (2, 64, 28, 28)),
        (lambda: nn.Sequential(*[nn.Hardtanh(-9, 9) for _ in range(50)]), (2, 64)),
        (lambda: nn.Sequential(*[nn.Hardtanh(-9, 9) for _ in range(50)]), (2, 500, 500)),
    ],
    ids=["resnet50", "maps of noise", "numbers", "matrices"],
)
def test_the_largest_passes_take_at_most_100_kb(model: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    trace = trace_forward(model(), torch.rand(shape) * 2 - 1)
    page = Page(trace._repr_html_())
    assert len(page.html.encode()) <= 100_000
    assert len(page.pictures()) >= 40


class Kinds(nn.Module):
    def forward(self, x: Tensor) -> None:
        x.sum()
        x.gt(0)
        x[:0].clone()
        x.to_sparse()
        torch.fft.fft(x)
        x.bfloat16()
        torch.quantize_per_tensor(x, 0.1, 0, torch.qint8)
        x.new_zeros(2, 2, 2, 2, 2, 2)
        x.argmax(1)
        torch.empty(3, 0, 4)
        x / 0


@pytest.mark.filterwarnings("ignore")
def test_values_of_every_kind_are_shown() -> None:
    trace = trace_forward(Kinds(), torch.eye(4))
    page = Page(trace._repr_html_())
    assert len(page.rows) == 1 + len(trace) >= 12
    for record in trace:
        Page(record._repr_html_())
    assert len(Page(trace[:0]._repr_html_()).rows) == 1


def test_networks_for_sound_text_and_volumes_are_shown() -> None:
    sound = nn.Sequential(nn.Conv1d(1, 8, 9, 4), nn.ReLU())
    assert "8 x 64 of 8 x 98" in shown(sound, torch.randn(2, 1, 400)).all("img")[0]["alt"]
    text = nn.Sequential(nn.Embedding(50, 16), nn.Linear(16, 3))
    assert "12 x 16 values" in shown(text, torch.randint(0, 50, (2, 12))).all("img")[0]["alt"]
    volume = nn.Conv3d(1, 2, 3)
    assert (
        "feature maps 1 to 12 of 12, 6 x 6 values each"
        in shown(volume, torch.randn(1, 1, 8, 8, 8)).all("img")[0]["alt"]
    )


def test_a_record_shows_everything_that_is_known_of_it() -> None:
    record = trace_forward(create_model("image_classifier").eval(), torch.ones(1, 1, 28, 28))["conv2"]
    page = Page(record._repr_html_())
    known = dict(page.rows)
    assert known["code"] == record.location
    assert known["FLOPs"] == f"{record.flops:,}"
    assert known["mean"] == f"{record.mean:.4g}"
    assert known["from"] == "3"
    assert len(page.pictures()) == 2
