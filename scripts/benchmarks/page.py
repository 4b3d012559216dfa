"""The page in a browser: the time of a frame, from a point of a stroke to the painted forward pass."""

import argparse
import itertools
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from benchmarks.measure import Row
from mnist_cls.errors import InputError

NETWORKS = ("image_classifier", "accurate", "conditional", "image_classifier beside accurate")

# Corners of the strokes of a 4, as fractions of the paper's side.
STROKES = [[(0.35, 0.15), (0.2, 0.55), (0.8, 0.55)], [(0.65, 0.15), (0.65, 0.88)]]

# Collects the milliseconds that the page writes after each frame.
OBSERVE = """() => {
    const time = document.getElementById('time');
    if (!window.frameTimes) {
        const observer = new MutationObserver(() => window.frameTimes.push(Number(time.dataset.ms)));
        observer.observe(time, {attributes: true, attributeFilter: ['data-ms']});
    }
    window.frameTimes = [];
}"""


def page(arguments: argparse.Namespace) -> list[Row]:
    """Milliseconds of a frame of the page while somebody draws, in Chromium; --plot FILE.png saves a screenshot."""
    rows: list[Row] = []
    with _page() as opened:
        for name in NETWORKS:
            network, _, other = name.partition(" beside ")
            opened.select_option("#network", network)
            opened.select_option("#other", other)
            _draw(opened)  # the first frame loads PyTorch and the networks
            opened.wait_for_function("() => document.querySelectorAll('.operation').length > 0")
            opened.wait_for_timeout(1500)
            frames = np.concatenate([_frames(opened) for _ in range(arguments.rounds)])
            rows.append(
                {
                    "network": name,
                    "frames": len(frames),
                    "median, ms": round(float(np.median(frames)), 1),
                    "p95, ms": round(float(np.percentile(frames, 95)), 1),
                }
            )
        if arguments.plot:
            opened.select_option("#network", "image_classifier")
            opened.select_option("#other", "")
            _draw(opened)
            opened.wait_for_timeout(500)
            opened.hover('canvas[aria-label^="5. conv2d"]', position={"x": 202, "y": 40})
            opened.wait_for_timeout(500)
            opened.screenshot(path=arguments.plot)
    return rows


@contextmanager
def _page() -> Iterator[Any]:
    """Start a server and a browser, and open the page."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        raise InputError("page: needs Chromium (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    command = [sys.executable, "-m", "mnist_cls.serve", "port=0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        found = re.search(r"http://127\.0\.0\.1:\d+/", server.stdout.readline() if server.stdout else "")
        if found is None:
            raise InputError("page: the server does not start; try python -m mnist_cls.serve")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            opened = browser.new_page(viewport={"width": 1280, "height": 1000})
            opened.goto(found[0])
            opened.wait_for_function("() => document.querySelectorAll('#network option').length > 0")
            yield opened
            browser.close()
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)


def _draw(opened: Any) -> None:
    """Draw with the mouse, with a point every 16 ms, as on a screen of 60 Hz."""
    opened.click("#clear")
    box = opened.locator("#drawing").bounding_box()
    for stroke in STROKES:
        corners = np.array(stroke) * box["width"] + [box["x"], box["y"]]
        opened.mouse.move(*corners[0])
        opened.mouse.down()
        for start, end in itertools.pairwise(corners):
            for part in range(1, 21):
                opened.mouse.move(*(start + (end - start) * part / 20))
                opened.wait_for_timeout(16)
        opened.mouse.up()


def _frames(opened: Any) -> np.ndarray:
    """Draw once; return the milliseconds of each frame."""
    opened.evaluate(OBSERVE)
    _draw(opened)
    opened.wait_for_timeout(500)
    return np.array(opened.evaluate("() => window.frameTimes"))
