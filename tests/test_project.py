"""The project's files agree with each other."""

import re
import subprocess

import pytest
from omegaconf import OmegaConf

from .conftest import ROOT


def test_pre_commit_runs_what_make_lint_runs() -> None:
    command = ["make", "--no-print-directory", "-n", "-o", ".venv/.ready", "lint"]
    lint = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    config = OmegaConf.load(ROOT / ".pre-commit-config.yaml")
    assert [hook.entry for repository in config.repos for hook in repository.hooks] == lint.stdout.splitlines()


def test_the_newest_release_in_the_changelog_is_the_version() -> None:
    version = re.findall(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    releases = re.findall(r"^## \[([^]]+)\] - \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert releases[:1] == version


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "SECURITY.md"])
def test_the_files_that_are_named_exist(name: str) -> None:
    text = (ROOT / name).read_text()
    named = re.findall(r"`((?:src|tests|configs|docs|scripts|\.github)/[^`]*)`|\]\(([^)#:]+)[)#]", text)
    paths = [path or link for path, link in named]
    assert paths
    assert [path for path in paths if "NAME" not in path and not (ROOT / path).exists()] == []
