"""Runs every check of the repository, a line for each: `python tools/check.py [NAME ...]`.

lint       ruff finds nothing: lines of at most 100, no dead name, no builtin shadowed
export     the modules in instop_nb/ are exactly what the notebooks export
clean      the notebooks are saved without leftovers
readme     README.md, the table of chapters and the Colab badges are up to date
notebooks  all notebooks run from top to bottom
tests      pytest

A failing check shows its output and the next one runs all the same; the exit status is 1 if any
failed.
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import readme

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
# No net, no window
QUIET = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "MPLBACKEND": "agg"}
CLOSING_LINE = re.compile(
    r"^=*\s*(?:\d+ (?:passed|failed|skipped|error).*|no tests ran) in [\d.]+s.*$", re.MULTILINE
)


def run(*command, root=ROOT, **environment):
    "Run a command in `root`; return whether it succeeded, and all that it printed."
    done = subprocess.run(
        [str(part) for part in command], cwd=root, env={**os.environ, **environment},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
    )
    return done.returncode == 0, done.stdout


def copy_of(root, folder):
    "Copy settings, notebooks and modules into `folder`, no checkpoint, no picture; return it."
    left = "__pycache__", ".ipynb_checkpoints", "runs", "checkpoints", "images"
    leave = shutil.ignore_patterns(*left)
    shutil.copy(root / "settings.ini", folder)
    for name in ("nbs", "instop_nb"):
        shutil.copytree(root / name, Path(folder) / name, ignore=leave)
    return Path(folder)


def modules(root):
    "Return {path: text} of every module of the package."
    return {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8")
            for path in sorted((root / "instop_nb").rglob("*.py"))}


def check_lint(root=ROOT):
    "Let ruff read notebooks, tests and tools."
    return run(BIN / "ruff", "check", "--quiet", ".", root=root)


def check_export(root=ROOT):
    "Export into a copy that has no modules: nothing may be missing, stale or left over."
    with tempfile.TemporaryDirectory() as folder:
        copy = copy_of(root, folder)
        for path in (copy / "instop_nb").rglob("*.py"):
            if path.name != "__init__.py": path.unlink()
        ok, output = run(BIN / "nbdev_export", root=copy)
        exported, present = modules(copy), modules(root)
    both = exported.keys() & present.keys()
    problems = [f"{name}: differs from what the notebooks export"
                for name in both if exported[name] != present[name]]
    problems += [f"{name}: no notebook exports it" for name in present.keys() - exported.keys()]
    problems += [f"{name}: a notebook exports it, but it is missing"
                 for name in exported.keys() - present.keys()]
    advice = ["Run `make prepare`; edit the notebooks, never the modules."] if problems else []
    return ok and not problems, "\n".join([output.strip(), *sorted(problems), *advice])


def check_clean(root=ROOT):
    "Clean a copy of the notebooks; nothing may change."
    with tempfile.TemporaryDirectory() as folder:
        copy = copy_of(root, folder)
        ok, output = run(BIN / "nbdev_clean", root=copy)
        names = [path.relative_to(root).as_posix() for path in readme.all_notebooks(root)]
        dirty = [name for name in names if (root / name).read_bytes() != (copy / name).read_bytes()]
    unreadable = "Failed to clean" in output
    problems = [f"{name}: not clean; run `make prepare`" for name in dirty]
    return ok and not dirty and not unreadable, "\n".join([output.strip(), *problems])


def check_readme(root=ROOT):
    "Compare README.md and the badges with what settings and notebooks say."
    return run(sys.executable, root / "tools" / "readme.py", "--check", root=root)


def check_notebooks(root=ROOT):
    "Run all notebooks, two at a time, each on one thread."
    ok, output = run(BIN / "nbdev_test", "--n_workers", 2, root=root, OMP_NUM_THREADS="1", **QUIET)
    return ok and "No files were eligible" not in output, output


def check_tests(root=ROOT):
    "Run pytest, two files at a time."
    return run(
        sys.executable, "-m", "pytest", "-q", "-rfEs", "-n", 2, "--dist", "loadfile", "tests",
        root=root, OMP_NUM_THREADS="1", **QUIET,
    )


CHECKS = {"lint": check_lint, "export": check_export, "clean": check_clean,
          "readme": check_readme, "notebooks": check_notebooks, "tests": check_tests}


def report(name, ok, output, seconds):
    "Print the line of a check; below it its output if it failed, else the tests skipped and why."
    print(f"{'ok    ' if ok else 'FAILED'}  {name:<10} {seconds:6.1f} s", flush=True)
    shown = re.findall(r"^SKIPPED.*", output, re.MULTILINE) if ok else output.strip().splitlines()
    for line in shown: print(f"        {line}", flush=True)


def closing_line(output):
    "Return the line in which pytest counts its tests, or an empty text."
    lines = CLOSING_LINE.findall(output)
    return lines[-1] if lines else ""


def main(names):
    "Run the checks named, or all of them; return the exit status."
    unknown = [name for name in names if name not in CHECKS]
    if unknown: sys.exit(f"unknown check {unknown[0]!r}; choose from: {', '.join(CHECKS)}")
    failed, closing = [], ""
    for name in names or CHECKS:
        start = time.time()
        ok, output = CHECKS[name]()
        report(name, ok, output, time.time() - start)
        if not ok: failed.append(name)
        if name == "tests": closing = closing_line(output)
    print(f"{len(failed)} of {len(names or CHECKS)} checks failed: {', '.join(failed)}" if failed
          else f"all {len(names or CHECKS)} checks passed")
    if closing: print(closing)
    return 1 if failed else 0


if __name__ == "__main__": sys.exit(main(sys.argv[1:]))
