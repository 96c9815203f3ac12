"""Runs notebooks from the top and keeps their new outputs: `python tools/execute.py [NOTEBOOK ...]`.

Cells that the tests skip (flags of `tst_flags` in settings.ini, or `#| eval: false`) are not run and keep their saved outputs.
"""
import re
import sys
import time
from pathlib import Path

import nbformat
import readme
from nbclient import NotebookClient


def skipped_directives():
    "Return the pattern of a directive line that keeps a cell from being run."
    flags = "|".join(readme.read_settings()["tst_flags"].split())
    return re.compile(rf"^#\|\s*(?:(?:{flags})\s*$|eval:\s*false)", re.MULTILINE)


def drop_widgets(cell):
    "Leave out the progress bars that libraries have shown as widgets: without a kernel they are blank."
    cell.outputs = [output for output in cell.outputs if not any("widget" in kind for kind in output.get("data", {}))]


def execute(path):
    "Run one notebook in its own folder and save it with its outputs."
    notebook = nbformat.read(path, as_version=4)
    skip = skipped_directives()
    for cell in notebook.cells:
        if cell.cell_type == "code" and skip.search(cell.source): cell.metadata["tags"] = ["skip-execution"]
    NotebookClient(notebook, timeout=None, kernel_name="python3",
                   resources={"metadata": {"path": str(path.parent)}}).execute()
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type == "code": drop_widgets(cell)
    nbformat.write(notebook, path)


def main():
    "Run the notebooks that are named, or all of them."
    for path in [Path(name).resolve() for name in sys.argv[1:]] or sorted((readme.ROOT / "nbs").glob("*.ipynb")):
        start = time.time()
        execute(path)
        print(f"{path.name}: {time.time() - start:.0f} s", flush=True)


if __name__ == "__main__": main()
