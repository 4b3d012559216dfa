"""The documentation's site is complete, agrees with the code, and loads nothing from other hosts."""

import contextlib
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Any

import griffe
import pytest
from omegaconf import OmegaConf

import mnist_cls
from mnist_cls.__main__ import COMMANDS
from mnist_cls.cli.entry_point import compose
from mnist_cls.cli.help import config_folder
from mnist_cls.cli.settings import SETTINGS
from mnist_cls.serving.openapi import openapi

from .conftest import ROOT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DOCS = ROOT / "docs"
# What a browser loads when it shows a page.
LOADED = {("script", "src"), ("link", "href"), ("img", "src"), ("iframe", "src"), ("source", "src")}


def build(root: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, as `make docs` builds it."""
    folder = tmp_path_factory.mktemp("docs") / "site"
    done = build(ROOT, folder)
    assert done.returncode == 0, done.stderr
    return folder


class Addresses(HTMLParser):
    """The addresses that a browser requests when it shows a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if (tag, name) in LOADED]


@contextmanager
def served(folder: Path) -> Iterator[str]:
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_every_page_and_notebook_is_in_the_site(site: Path) -> None:
    for file in [*DOCS.rglob("*.md"), *DOCS.glob("tutorial/*.ipynb")]:
        assert (site / file.relative_to(DOCS)).with_suffix(".html").is_file(), file


def test_notebooks_have_their_outputs_and_are_not_run(site: Path) -> None:
    page = (site / "tutorial" / "2_image_classifier.html").read_text()
    assert 'src="data:image/png;base64,' in page  # a picture
    assert 'class="mnist-cls-trace"' in page  # a trace as a table
    assert "tensor([0.000, 1.333, 1.333, 0.000, 1.333, 0.000, 1.333, 1.333])" in page  # what a cell prints


def test_no_page_loads_anything_from_another_host(site: Path) -> None:
    for page in site.rglob("*.html"):
        foreign = [address for address in Addresses(page.read_text()).found if re.match(r"(\w+:)?//", address)]
        assert not foreign, page
    for style in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", style.read_text()), style


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)")
def test_dark_theme_and_search_ask_no_other_host(site: Path) -> None:
    from playwright.sync_api import TimeoutError, sync_playwright

    asked: list[str] = []
    with served(site) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(color_scheme="dark")
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{address}/index.html")
        assert page.locator("body").get_attribute("data-md-color-scheme") == "slate"
        results = page.locator(".md-search-result__link")
        search = page.get_by_placeholder("Search").first
        search.press_sequentially("label_smoothin")
        for _ in range(4):  # the search ignores what was typed before it was ready
            search.press_sequentially("g")
            with contextlib.suppress(TimeoutError):
                results.first.wait_for(timeout=20_000)
                break
            search.press("Backspace")
        assert results.count()
        browser.close()
    assert asked
    assert not [url for url in asked if not url.startswith((address, "data:", "blob:"))]


def test_reference_has_every_command_and_every_value_of_the_configs(site: Path) -> None:
    commands, groups = ((site / "reference" / f"{name}.html").read_text() for name in ("commands", "configuration"))
    for command in COMMANDS:
        assert f'<h2 id="{command}">' in commands
    for file in config_folder().rglob("*.yaml"):
        config: Any = OmegaConf.to_container(OmegaConf.load(file))
        of_all = "@package _global_" in file.read_text()
        prefix = "" if of_all or file.parent == config_folder() else f"{file.parent.name}."
        for key in [] if file.parent.name == "hydra" else set(config or {}) - {"defaults", "hydra"}:
            shown = commands if file.parent == config_folder() else groups
            assert re.search(rf"<code>{re.escape(prefix + key)}(\.[\w.]+)?</code>", shown), (file, key)
    assert "Fraction of the target spread over all ten classes" in commands  # a comment of configs/train.yaml
    assert "Weight of the past in each update of the average" in groups  # of configs/callbacks/average.yaml


def test_reference_has_every_public_name_with_its_defaults(site: Path) -> None:
    page = (site / "reference" / "api.html").read_text()
    for name in mnist_cls.__all__:
        assert f'id="mnist_cls.{name}"' in page
    assert not re.search(r"(PredictOptions|DataSettings)</?[^>]*>\.", page)  # but the values that are stated there


def test_reference_has_every_route(site: Path) -> None:
    page = re.sub(r"<[^>]+>", "", (site / "reference" / "http.html").read_text())
    for path, methods in openapi("image_classifier")["paths"].items():
        for method in methods:
            assert f"{method.upper()} {path}" in page


def test_public_name_without_a_docstring_is_found() -> None:
    undocumented = runpy.run_path(str(ROOT / "scripts" / "documentation" / "reference.py"))["undocumented"]
    code = 'class Known:\n  """Known."""\n  def method(self): ...\n  def _private(self): ...\ndef function(): ...'
    module = griffe.visit("module", Path("module.py"), code)
    assert [*undocumented(module["Known"]), *undocumented(module["function"])] == [
        "module.Known.method",
        "module.function",
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[a page](nowhere.md)", "nowhere.md"),
        ("[a heading](start.md#nowhere)", "#nowhere"),
    ],
)
def test_broken_link_fails_the_build(text: str, reason: str, tmp_path: Path) -> None:
    shutil.copytree(DOCS, tmp_path / "docs")
    for name in ("mkdocs.yml", "README.md", "CHANGELOG.md", "scripts", "src", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    with (tmp_path / "docs" / "start.md").open("a") as page:
        page.write(f"\n{text}\n")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode == 1
    assert reason in done.stderr


def commands_in(text: str) -> Iterator[list[str]]:
    """Yield the words of each command in the shell blocks, up to a pipe or a redirection."""
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            end = next((index for index, word in enumerate(words) if word in {"|", ">", "2>", "&", "&&"}), len(words))
            yield words[:end]


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))], ids=lambda page: page.stem)
def test_commands_of_a_page_exist_and_know_their_settings(page: Path) -> None:
    for words in commands_in(page.read_text()):
        for index, word in enumerate(words):
            if word.startswith("scripts/") and words[index - 1] == "python":
                assert (ROOT / word).is_file()
            if word.startswith("mnist_cls.") and words[index - 1] == "-m":
                assert find_spec(word)
                command, settings = word.removeprefix("mnist_cls."), words[index + 1 :]
                if command in SETTINGS and not {"-m", "--help"} & set(settings):
                    compose(command, settings)
