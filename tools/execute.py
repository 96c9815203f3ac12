"""Runs notebooks from the top and keeps their outputs: `python tools/execute.py [NOTEBOOK ...]`.

Cells that the tests skip (flags of `tst_flags` in settings.ini, or `#| eval: false`) are not run
and keep their saved outputs.

`python tools/execute.py --time [NOTEBOOK ...]` keeps no outputs: it runs every chapter, or those
named, twice in a row on one thread, and writes the CPU seconds of both runs to
instop_nb/records/chapters.json, from which tools/readme.py takes the minutes in the headers. It
names the cells whose two outputs differ, which is as it should be for nothing but times.
"""
import json
import os
import re
import resource
import sys
import time
from pathlib import Path

import nbformat
import readme
from nbclient import NotebookClient
from nbclient.output_widget import OutputWidget

ONE_THREAD = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}


def skipped_directives():
    "Return the pattern of a directive line that keeps a cell from being run."
    flags = "|".join(readme.read_settings()["tst_flags"].split())
    return re.compile(rf"^#\|\s*(?:(?:{flags})\s*$|eval:\s*false)", re.MULTILINE)


def drop_widgets(cell):
    """Leave out the progress bars that libraries have shown as widgets: without a kernel they
    are blank."""
    cell.outputs = [
        output
        for output in cell.outputs
        if not any("widget" in kind for kind in output.get("data", {}))
    ]


class SilentOutput(OutputWidget):
    """An output widget that does not tell the kernel what it shows.

    The notice would go around the socket on which the client awaits the cell's reply; now and then
    the client then sleeps through that reply, and the notebook never ends.
    """

    def send(self, *_, **__): "Say nothing."


def run(path, **environment):
    "Run one notebook in its own folder; return it with its outputs."
    notebook = nbformat.read(path, as_version=4)
    skip = skipped_directives()
    for cell in notebook.cells:
        if cell.cell_type == "code" and skip.search(cell.source):
            cell.metadata["tags"] = ["skip-execution"]
    client = NotebookClient(
        notebook, timeout=None, startup_timeout=1800, kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.widget_registry = {"@jupyter-widgets/output": {"OutputModel": SilentOutput}}
    client.execute(env={**os.environ, **environment})
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type == "code": drop_widgets(cell)
    return notebook


def cpu_seconds():
    "Return the CPU seconds of all processes that this one has started and that have ended."
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def timed(path):
    "Run one notebook; return its CPU seconds, and the text that each cell has shown."
    start = cpu_seconds()
    cells = [cell for cell in run(path, **ONE_THREAD).cells if cell.cell_type == "code"]
    texts = {
        cell.id: "".join(
            o.get("text", "") + o.get("data", {}).get("text/plain", "") for o in cell.outputs
        )
        for cell in cells
    }
    return round(cpu_seconds() - start, 1), texts


def time_chapters(root=readme.ROOT, named=()):
    "Run chapters twice, and save the CPU seconds after each; those of other chapters stay."
    record = root / readme.TIMES
    every = readme.chapters(root)
    names = {path.name for path in every}
    known = json.loads(record.read_text(encoding="utf-8"))["cpu_seconds"] if record.exists() else {}
    found = {name: runs for name, runs in known.items() if name in names}
    for path in named or every:
        (first, before), (second, after) = timed(path), timed(path)
        found[path.name] = [first, second]
        print(
            path.name, first, second,
            *[f"differs: {name}" for name in before if before[name] != after[name]], flush=True,
        )
        told = {
            "command": "python tools/execute.py --time",
            "what": "CPU seconds of two runs in a row, one thread",
            "cpu_seconds": dict(sorted(found.items())),
        }
        record.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def main(arguments):
    "Run the notebooks that are named, or all of them; or time the chapters."
    paths = [Path(name).resolve() for name in arguments if name != "--time"]
    if "--time" in arguments: return time_chapters(named=paths)
    for path in paths or readme.all_notebooks():
        start = time.time()
        nbformat.write(run(path), path)
        print(f"{path.name}: {time.time() - start:.0f} s", flush=True)


if __name__ == "__main__": main(sys.argv[1:])
