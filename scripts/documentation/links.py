"""README.md and CHANGELOG.md as pages, and links that work on the site.

A hook of MkDocs. Links in the repository name files; this turns them into links between pages. A link to a file that is
not a page, such as LICENSE, becomes plain text.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

# Files outside docs/ that are pages of the site.
PAGES = {"README.md": "overview.md", "CHANGELOG.md": "changelog.md"}

# A link with plain text, or only the end of one whose text is a picture.
_LINK = re.compile(r"(?:\[([^\[\]]*))?\]\((?!\w+:)([^()\s#]+)(#[^()\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages whose files are outside docs/."""
    for name, page in PAGES.items():
        text = (Path(config.docs_dir).parent / name).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite the links of a page, see `linked`."""
    return linked(markdown, page.file.src_uri)


def linked(markdown: str, page: str) -> str:
    """Return a page's text with links between the pages of the site.

    Args:
        markdown: text with links between the files of the repository.
        page: path of the page within the site, such as `overview.md`.
    """
    source = {page: name for name, page in PAGES.items()}.get(page, f"docs/{page}")

    def link(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if target not in PAGES and not target.startswith("docs/"):
            return text if text is not None else match[0]
        path = PAGES.get(target) or target.removeprefix("docs/")
        if path.endswith(".ipynb"):
            path = f"{path.removesuffix('.ipynb')}.md"
        start = "" if text is None else f"[{text}"
        return f"{start}]({posixpath.relpath(path, posixpath.dirname(page) or '.')}{anchor})"

    return _LINK.sub(link, markdown)
