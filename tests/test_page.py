"""The page reads what is drawn on it, shows what the network computed, and is accessible."""

import io
import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from mnist_cls import Predictor, load_model
from mnist_cls.checkpoints.find import WEIGHTS
from mnist_cls.data.scans import scan
from mnist_cls.tracing.from_pixels import trace_from_pixels

from .test_serve import Server

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)")

# Strokes of digits: corners of polygons, as fractions of the paper.
STROKES = {
    "7": [[(0.2, 0.15), (0.8, 0.15), (0.45, 0.85)]],
    "1": [[(0.5, 0.12), (0.5, 0.88)]],
    "4": [[(0.35, 0.15), (0.2, 0.55), (0.8, 0.55)], [(0.65, 0.15), (0.65, 0.88)]],
    "0": [[(0.5, 0.12), (0.25, 0.3), (0.22, 0.65), (0.5, 0.88), (0.76, 0.65), (0.74, 0.3), (0.5, 0.12)]],
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    own = tmp_path_factory.mktemp("own") / "my_network.safetensors"
    shutil.copy(WEIGHTS / "image_classifier.safetensors", own)
    with Server(f"checkpoint={own}") as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    yield from opened(browser, server)


def opened(browser: Browser, server: Server, **options: Any) -> Iterator[Page]:
    """Yield the page; at the end check that it had no errors and contacted no other host."""
    context = browser.new_context(**{"viewport": {"width": 1200, "height": 900}, **options})
    page = context.new_page()
    page.set_default_timeout(20_000)
    wrong, hosts = list[str](), set[str]()
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if "Security Policy" in message.text else None)
    page.on("request", lambda request: hosts.add(request.url.split("/")[2]) if "//" in request.url else None)
    page.goto(f"http://127.0.0.1:{server.port}/")
    page.wait_for_function("() => document.querySelectorAll('#network option').length > 0")
    yield page
    context.close()
    assert wrong == []
    assert hosts == {f"127.0.0.1:{server.port}"}


def draw(page: Page, digit: str, scale: float = 1.0, left: float = 0.0, top: float = 0.0) -> None:
    """Draw a digit with the mouse; `scale`, `left` and `top` are fractions of the paper's height."""
    box = page.locator("#drawing").bounding_box()
    assert box
    for stroke in STROKES[digit]:
        points = [
            (box["x"] + (left + x * scale) * box["height"], box["y"] + (top + y * scale) * box["height"])
            for x, y in stroke
        ]
        page.mouse.move(*points[0])
        page.mouse.down()
        for point in points[1:]:
            page.mouse.move(*point, steps=8)
        page.mouse.up()


def expect_answer(page: Page, answer: str) -> None:
    page.wait_for_function("wanted => document.getElementById('answer').textContent === wanted", arg=answer)


def operation(page: Page, name: str) -> Any:
    """The picture of the operation whose label starts with `name`."""
    return page.locator(f'.pass >> nth=0 >> canvas[aria-label^="{name}"]')


@pytest.mark.parametrize("digit", STROKES)
def test_a_drawn_digit_is_read_wherever_it_is_drawn(page: Page, digit: str) -> None:
    assert page.inner_text("#answer") == "no digit"
    draw(page, digit)
    expect_answer(page, digit)
    for left, top in ((0.0, 0.0), (0.65, 0.0), (0.0, 0.65), (0.65, 0.65)):
        page.click("#clear")
        expect_answer(page, "no digit")
        draw(page, digit, 0.35, left, top)
        expect_answer(page, digit)


def test_undo_takes_back_a_stroke(page: Page) -> None:
    draw(page, "1", left=-0.2)
    draw(page, "1", left=0.2)
    page.click("#undo")
    expect_answer(page, "1")
    page.click("#undo")
    expect_answer(page, "no digit")
    assert page.locator(".operation").count() == 0


def test_touch_draws_and_does_not_scroll(browser: Browser, server: Server) -> None:
    for page in opened(browser, server, has_touch=True, viewport={"width": 360, "height": 640}):
        box = page.locator("#drawing").bounding_box()
        assert box
        [stroke] = STROKES["7"]
        ends = [{"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"]} for x, y in stroke]
        points = [
            {axis: start[axis] + (end[axis] - start[axis]) * part / 10 for axis in "xy"}
            for start, end in itertools.pairwise(ends)
            for part in range(11)
        ]
        touch = page.context.new_cdp_session(page)
        for kind, place in [
            ("touchStart", points[:1]),
            *(("touchMove", [point]) for point in points),
            ("touchEnd", []),
        ]:
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": place})
        expect_answer(page, "7")
        assert page.evaluate("scrollY") == 0


def test_the_keyboard_draws(page: Page) -> None:
    page.keyboard.press("Tab")
    while page.evaluate("document.activeElement.id") != "drawing":
        page.keyboard.press("Tab")
    keys = [*["ArrowUp"] * 11, " ", *["ArrowDown"] * 22]
    for key in keys:
        page.keyboard.press(key)
    expect_answer(page, "1")
    page.wait_for_function("() => document.getElementById('spoken').textContent.startsWith('1, confidence')")
    page.keyboard.press("Backspace")
    expect_answer(page, "no digit")


def test_several_digits_are_read_and_each_has_its_forward_pass(page: Page) -> None:
    page.check("#split")
    for place, digit in enumerate("714"):
        draw(page, digit, 0.6, 0.05 + 0.65 * place, 0.2)
    expect_answer(page, "714")
    assert page.locator("#digits button").all_inner_texts() == ["7", "1", "4"]
    best = page.locator(".pass .best >> nth=0")
    for place in (2, 0):
        page.click(f"#digits button >> nth={place}")
        page.wait_for_function("digit => document.querySelector('.pass .best').textContent === digit", arg="714"[place])
    assert best.inner_text() == "7"


def test_photos_are_read_as_predict_reads_them(page: Page, mnist_test: Any, tmp_path: Path) -> None:
    images = mnist_test.images[:3].numpy()
    files = [*scan(images[:1], "photo"), *scan(images[1:2], "dark on light"), *scan(images[2:], "photo")]
    expected = Predictor(device="cpu")(files)
    take = """([how, bytes]) => {
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], 'digit.png', {type: 'image/png'}));
        const event = how === 'paste' ? new ClipboardEvent('paste', {clipboardData: data})
            : new DragEvent('drop', {dataTransfer: data, cancelable: true});
        window.dispatchEvent(event);
    }"""
    for how, content, label, confidence in zip(
        ("paste", "drop", "choose"), files, expected.labels, expected.confidences, strict=True
    ):
        if how == "choose":
            file = {"name": "digit.png", "mimeType": "image/png", "buffer": content}
            page.set_input_files("#photo", file)  # type: ignore[arg-type]
        else:
            page.evaluate(take, [how, [*content]])
        expect_answer(page, str(label))
        shown = "> 99.99 %" if confidence > 0.9999 else f"{confidence:.2%}".replace("%", " %")
        assert page.inner_text("#detail") == f"confidence {shown}"
        page.click("#clear")
        expect_answer(page, "no digit")
    page.set_input_files("#photo", {"name": "x.png", "mimeType": "image/png", "buffer": b"no image"})
    page.wait_for_function("() => document.getElementById('detail').textContent.startsWith('not an image')")


# Keeps the last body in `window.sent`, because the browser's protocol does not return bodies that are files.
KEEP = """() => {
    const fetch = window.fetch;
    window.fetch = (path, options) => {
        if (path.startsWith('/forward')) window.sent = options.body;
        return fetch(path, options);
    };
}"""


# Whether nothing has been sent for a second: an earlier frame can still be on its way.
LAST = """() => {
    if (window.sent !== window.before) [window.before, window.since] = [window.sent, performance.now()];
    return window.sent && performance.now() - window.since > 1000;
}"""


def traced(page: Page) -> tuple[Any, Any]:
    """The forward pass of what the page sends, traced in Python, and the image that the network saw."""
    page.evaluate(KEEP)
    page.locator("#other").dispatch_event("change")  # sends it again
    page.wait_for_function(LAST, polling=100)
    content = bytes(page.evaluate("async () => [...new Uint8Array(await window.sent.arrayBuffer())]"))
    images = Predictor(device="cpu")([content]).images
    assert images is not None
    trace, error = trace_from_pixels(load_model(), torch.from_numpy(images))
    assert error is None
    return trace, images[0]


def test_the_forward_pass_on_the_page_is_the_traced_one(page: Page) -> None:
    draw(page, "4")
    expect_answer(page, "4")
    trace, image = traced(page)
    names = page.locator(".pass .operation .name").all_inner_texts()
    assert names == [f"{record.step}. {record.operation} {record.layer}".strip() for record in trace]
    lines = page.locator(".pass .operation p").all_inner_texts()
    for record, line in zip(trace, lines, strict=True):
        assert " \N{MULTIPLICATION SIGN} ".join(map(str, record.output_shape)) in line
    # What the network saw: white on black, one pixel per value.
    seen = page.locator('canvas[aria-label="What the network saw"]').evaluate(PIXELS)
    np.testing.assert_allclose(np.reshape(seen["data"], (28, 28, 4))[..., 0], image / image.max() * 255, atol=1)
    # A feature map: red is positive, blue negative.
    picture = operation(page, "5. conv2d conv1").evaluate(PIXELS)
    pixels = np.reshape(picture["data"], (picture["height"], picture["width"], 4))[:28, :28].astype(int)
    values = trace["conv1"].value[0, 0].numpy() / trace["conv1"].value.abs().max().item()
    redness = pixels[..., 0] - pixels[..., 2]
    assert (redness[values > 0.05] > 0).all()
    assert (redness[values < -0.05] < 0).all()
    assert (values > 0.05).any()
    assert (values < -0.05).any()


def test_all_of_the_forward_pass_is_printed(page: Page) -> None:
    page.set_viewport_size({"width": 1200, "height": 500})
    draw(page, "4")
    expect_answer(page, "4")
    assert page.pdf(print_background=True).startswith(b"%PDF")
    pictures = page.locator(".operation .sheet canvas:first-child").all()
    assert len(pictures) == 17
    for picture in pictures:
        assert max(picture.evaluate(PIXELS)["data"][3::4]) == 255  # nothing is transparent that has been painted


PIXELS = """canvas => {
    const {width, height} = canvas;
    return {width, height, data: [...canvas.getContext('2d').getImageData(0, 0, width, height).data]};
}"""


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("5. conv2d conv1", ["patch", "kernel", "products", "bias"]),
        ("8. conv2d conv2", ["channel", "28 other channels together", "kernel", "bias"]),
        ("12. linear fc1", ["10 largest of 3,136 terms", "weight", "bias"]),
        ("15. linear fc2", ["10 largest of 128 terms", "bias"]),
        ("7. max_pool2d pool", ["the largest of"]),
        ("9. relu", ["relu("]),
        ("3. mul", ["\N{MULTIPLICATION SIGN} 0.01273 ="]),
        ("4. sub_", ["\N{MINUS SIGN} 0.4242 ="]),
        ("16. softmax", ["exp("]),
    ],
)
def test_a_value_is_explained_by_what_it_was_computed_from(page: Page, name: str, words: list[str]) -> None:
    draw(page, "4")
    expect_answer(page, "4")
    trace, _ = traced(page)
    record = trace[int(name.split(".")[0]) - 1]
    operation(page, name).evaluate("canvas => canvas.scrollIntoView({block: 'center'})")
    operation(page, name).hover(position={"x": 35, "y": 5})
    page.wait_for_selector("#unit:not([hidden])")
    for _ in range(2):  # with the mouse, and then with the keyboard
        title = page.inner_text("#unit-title")
        index = tuple(json.loads(title[title.index("[") : title.index("]") + 1]))
        shown = float(title.split(" = ")[1].replace("\N{MINUS SIGN}", "-"))
        assert shown == pytest.approx(record.value[index].item(), rel=1e-3, abs=1e-6)
        text = page.inner_text("#unit-body")
        assert [word for word in words if word not in text] == []
        if "bias" in words:
            total = page.locator("#unit .sum")
            assert float(total.get_attribute("data-sum") or "") == pytest.approx(record.value[index].item(), abs=1e-4)
        operation(page, name).focus()
        page.keyboard.press("ArrowRight")
        page.wait_for_function("title => document.getElementById('unit-title').textContent !== title", arg=title)
    page.click("#unit-close")
    assert page.locator("#unit").is_hidden()


def test_a_clicked_value_is_kept_until_escape(page: Page) -> None:
    draw(page, "4")
    expect_answer(page, "4")
    picture = operation(page, "5. conv2d conv1")
    picture.evaluate("canvas => canvas.scrollIntoView({block: 'center'})")
    picture.click(position={"x": 35, "y": 25})
    page.wait_for_selector("#unit-kept:not([hidden])")
    title = page.inner_text("#unit-title")
    value = title.partition("=")[0]
    operation(page, "6. relu").hover(position={"x": 35, "y": 25})
    page.wait_for_timeout(500)
    assert page.inner_text("#unit-title") == title
    draw(page, "1")  # over the 4: the same value, of another picture
    page.wait_for_function("title => document.getElementById('unit-title').textContent !== title", arg=title)
    assert page.inner_text("#unit-title").partition("=")[0] == value
    page.keyboard.press("Escape")
    assert page.locator("#unit").is_hidden()
    operation(page, "6. relu").hover(position={"x": 40, "y": 25})
    page.wait_for_selector("#unit:not([hidden])")
    assert page.locator("#unit-kept").is_hidden()


def test_an_error_names_the_checkbox(page: Page) -> None:
    draw(page, "1", 0.5, 0.0, 0.2)
    draw(page, "1", 0.5, 0.5, 0.2)
    page.wait_for_function("() => document.getElementById('detail').textContent.includes('tick “several digits”')")
    assert page.locator("#empty").is_hidden()


def test_the_terms_of_a_linear_unit_are_the_largest(page: Page) -> None:
    draw(page, "7")
    expect_answer(page, "7")
    trace, _ = traced(page)
    operation(page, "15. linear").evaluate("canvas => canvas.scrollIntoView({block: 'center'})")
    operation(page, "15. linear").hover(position={"x": 7 * 28 + 10, "y": 5})  # of the digit 7
    page.wait_for_selector("#unit tbody tr")
    rows = page.locator("#unit tbody tr").all_inner_texts()
    products = trace[13].value[0] * load_model().state_dict()["fc2.weight"][7]
    expected = products.abs().argsort(descending=True)[:10].tolist()
    assert [int(row.split()[0]) for row in rows] == expected


def test_every_network_stands_beside_every_other(page: Page) -> None:
    names = page.locator("#network option").all_inner_texts()
    assert names == ["my_network", "accurate", "autoencoder", "conditional", "image_classifier"]
    draw(page, "7")
    expect_answer(page, "7")
    for name in names:
        page.select_option("#network", name)
        page.select_option("#other", "accurate")
        page.wait_for_function(
            "names => [...document.querySelectorAll('.pass h3')].map((e) => e.textContent).join() === names",
            arg=f"{name},accurate",
        )
        expect_answer(page, "\N{EN DASH}" if name == "autoencoder" else "7")
    page.select_option("#network", "conditional")
    page.wait_for_function("() => document.querySelector('.pass').textContent.includes('conv3')")
    page.check("#early")  # a clear digit leaves at the early head
    page.wait_for_function("() => !document.querySelector('.pass').textContent.includes('conv3')")
    expect_answer(page, "7")


def test_a_link_shows_the_same(page: Page, browser: Browser, server: Server) -> None:
    page.select_option("#network", "conditional")
    page.select_option("#other", "accurate")
    draw(page, "4", 0.8, 0.1, 0.1)
    expect_answer(page, "4")
    page.wait_for_function("() => location.hash.includes('d=')")
    page.wait_for_timeout(1000)  # for the last frame
    confidence = page.inner_text("#detail")
    other = page.context.new_page()
    other.goto(page.url)
    expect_answer(other, "4")
    assert other.inner_text("#detail") == confidence
    assert other.locator(".pass").count() == 2
    assert other.input_value("#network") == "conditional"
    assert other.input_value("#other") == "accurate"
    other.goto(f"{page.url.partition('#')[0]}#d=%%%&network=nothing")
    expect_answer(other, "no digit")


def test_the_latest_drawing_wins(page: Page) -> None:
    def delay(route: Any) -> None:
        page.wait_for_timeout(800)
        route.continue_()

    page.route("**/forward?*", delay, times=1)
    draw(page, "1")
    page.click("#clear")
    draw(page, "7")
    page.wait_for_timeout(1500)
    expect_answer(page, "7")
    page.route("**/forward?*", delay, times=1)
    page.click("#clear")
    draw(page, "1")
    page.click("#clear")
    page.wait_for_timeout(1500)
    expect_answer(page, "no digit")
    assert page.locator(".operation").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_it_can_be_read_by_everybody(browser: Browser, server: Server, scheme: str, width: int) -> None:
    from axe_playwright_python.sync_playwright import Axe

    for page in opened(browser, server, color_scheme=scheme, viewport={"width": width, "height": 800}):
        draw(page, "7")
        expect_answer(page, "7")
        operation(page, "5. conv2d").focus()
        page.keyboard.press("ArrowRight")
        page.wait_for_selector("#unit:not([hidden])")
        for path in ("", "api"):
            if path:
                page.goto(f"http://127.0.0.1:{server.port}/{path}")
                page.wait_for_load_state("networkidle")
            found = Axe().run(page)
            assert found.violations_count == 0, found.generate_report()
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            corner = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("L"))[-1, 2]
            assert corner > 200 if scheme == "light" else corner < 60


def test_nothing_else_may_run_on_the_page(server: Server) -> None:
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    for path in ("/", "/page/main.js", "/api", "/openapi.json"):
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.status == 200
