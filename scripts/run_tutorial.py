#!/usr/bin/env python
"""Execute the notebooks of the tutorial, and store their outputs: `python scripts/run_tutorial.py [NOTEBOOK ...]`"""

import argparse
import os
import re
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

FOLDER = Path(__file__).parents[1] / "docs" / "tutorial"


def main() -> int:
    """Execute each notebook in its own folder; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", metavar="NOTEBOOK", nargs="*", type=Path, help="default: all of docs/tutorial")
    os.environ["OMP_NUM_THREADS"] = "1"  # several threads add up numbers in another order, which changes the results
    for path in parser.parse_args().notebooks or sorted(FOLDER.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        try:
            execute(notebook, path.resolve().parent)
        except CellExecutionError as error:
            colours = re.compile(r"\x1b\[[0-9;]*m")
            print(f"error: {path}: {colours.sub('', str(error))}", file=sys.stderr)
            return 1
        nbformat.write(notebook, path)
    return 0


def execute(notebook: nbformat.NotebookNode, folder: Path) -> None:
    """Run all cells. Drop times, Python's version and duplicate pictures: a file changes only when an output does."""
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, record_timing=False, coalesce_streams=True, resources=resources).execute()
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            output.get("data", {}).pop("image/jpeg", None)  # Pillow shows a PNG, too


if __name__ == "__main__":
    sys.exit(main())
