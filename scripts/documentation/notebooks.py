"""Pages of the tutorial's notebooks, with the outputs that are stored in them. Nothing is executed.

A hook of MkDocs.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each notebook; the notebook itself remains on the site, for downloading."""
    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        text = Path(str(file.abs_src_path)).read_text(encoding="utf-8")
        page = f"{file.src_uri.removesuffix('.ipynb')}.md"
        files.append(File.generated(config, page, content=to_markdown(json.loads(text), file.name)))
    return files


def to_markdown(notebook: dict[str, Any], name: str) -> str:
    """Return a notebook as Markdown.

    Args:
        notebook: a notebook in nbformat 4.
        name: name of its file, without the extension.
    """
    title, *cells = notebook["cells"]
    download = f'This page is a notebook: <a href="{name}.ipynb" download>download it</a> to run it.'
    blocks = ["".join(title["source"]), download]
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            blocks.append(_fence(source, "python"))
            blocks += [block for output in cell["outputs"] for block in _shown(output)]
        else:
            blocks.append(source)
    return "\n\n".join(blocks) + "\n"


def _shown(output: dict[str, Any]) -> Iterator[str]:
    """Yield an output in its richest stored format."""
    if output["output_type"] == "stream":
        yield _fence("".join(output["text"]), "text")
        return
    data = {kind: "".join(content) for kind, content in output.get("data", {}).items()}
    if "text/html" in data:
        yield f"<div>{data['text/html']}</div>"
    elif "image/png" in data:
        yield f"![Output of the code above](data:image/png;base64,{data['image/png'].replace(chr(10), '')})"
    elif "text/plain" in data:
        yield _fence(data["text/plain"], "text")


def _fence(text: str, language: str) -> str:
    return f"````{language}\n{text.rstrip()}\n````"
