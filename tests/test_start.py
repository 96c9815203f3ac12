"""The start page: what is checked, what it advises, and which exercises it counts as filled in."""
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import readme
import torch
from packaging.requirements import Requirement

from instop_nb import start
from instop_nb.start import Chapter, chapters, progress
from instop_nb.doctor import Check, environment, report

ROOT = Path(__file__).resolve().parent.parent


# Is everything there?

def test_report_says_ok_or_what_to_do():
    assert report([Check("box", "3"), Check("fox", "none", "find one")]).data == (
        "| | found | what to do |\n| --- | --- | --- |\n| box | 3 | ok |\n| fox | none | find one |"
    )


def test_python_that_is_too_old():
    check = start._version(Requirement("Python>=3.10"), "3.9.2")
    assert check == Check("Python", "3.9.2", "`make clean lab PYTHON=python3.12`")
    assert not start._version(Requirement("Python>=3.10"), "3.10.0").advice


def install(folder, name, version, *wanted):
    "Pretend that a package is installed in `folder`."
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    needs = "".join(f"Requires-Dist: {text}\n" for text in wanted)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nRequires-Python: >=3.10\n{needs}"
    )


def test_packages_that_do_not_fit_have_rows_of_their_own(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    install(
        tmp_path, "den", "1.0", "zfox>=2", "zhen>=2", "zowl", 'zcub<3; extra == "dev"',
        'zbat; extra == "bench"',
    )
    install(tmp_path, "zfox", "2.1+cpu")
    install(tmp_path, "zhen", "1.9")
    install(tmp_path, "zcub", "3.0")
    *wrong, fine = start._versions("den")
    assert wrong == [Check("zhen", "1.9", "`%pip install 'zhen>=2'`, then restart"),
                     Check("zowl", "not installed", "`%pip install 'zowl'`, then restart"),
                     Check("zcub", "3.0", "`%pip install 'zcub<3'`, then restart")]
    assert re.fullmatch(r"Python 3\.\d+\.\d+\S*, zfox 2\.1\+cpu", fine.found)


def test_a_package_that_is_not_installed():
    assert start._versions("no-such-package") == [
        Check("no-such-package", "not installed", "`make lab` in the repository installs it")
    ]


@pytest.mark.parametrize("cuda, mps, found", [(True, False, "CUDA: a card"), (False, False, "CPU, threads: 1"),
                                              (False, True, "CPU, threads: 1; mps on request: `load_model('micro', device='mps')`")])
def test_device(monkeypatch, cuda, mps, found):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert start._device() == Check("device", found)


def test_device_without_torch(monkeypatch):
    monkeypatch.setattr(start, "find_spec", lambda name: None)
    assert start._device().advice == "install torch first"


def test_room_is_compared_in_gib():
    assert start._room("disk", 1.5 * 2**30, 1, "delete") == Check("disk", "1.5 GiB free")
    assert start._room("disk", 2**30 - 1, 1, "delete") == Check(
        "disk", "1.0 GiB free", "delete until 1 GiB are free"
    )


def test_real_tasks_are_a_choice(tmp_path):
    assert start._real_tasks(tmp_path).advice.startswith("nothing, or for real tasks `!git clone")
    (tmp_path / "tasks").mkdir()
    for name in ("task1.json", "task2.json", "README.md"): (tmp_path / "tasks" / name).touch()
    assert start._real_tasks(tmp_path) == Check("real tasks", f"2 in `{tmp_path}`")


def test_small_model(tmp_path):
    assert start._small_model(ROOT / "instop_nb" / "micro") == Check("small T5", "three files")
    (tmp_path / "config.json").touch()
    assert start._small_model(tmp_path) == Check(
        "small T5", "no tokenizer.json, model.safetensors", "install the package again"
    )


def test_environment_finds_the_small_model_of_the_package():
    checks = environment("no such folder")
    assert [check.what for check in checks[-6:]] == [
        "versions", "device", "memory", "disk", "real tasks", "small T5",
    ]
    assert (
        checks[-1] == Check("small T5", "three files")
        and checks[-2].found == "0 in `no such folder`"
    )


def test_environment_without_the_package(monkeypatch):
    monkeypatch.setattr(start, "find_spec", lambda name: None)
    assert environment()[-1].advice == "install the package again"


# Where did you leave off?

@pytest.mark.parametrize("filled, code", [
    (False, ""), (False, "\n"), (False, "def f(x):\n    ..."), (False, "def f(x):\n    ...  # hint: plus"),
    (False, "class A:\n    def f(self):\n        # hint\n        ...\n"), (False, 'mine = Template("number", "")  # hint'),
    (True, "def f(x): return x[..., 0]"), (True, "def f(x):\n    # hint: plus\n    return ''"),
    (True, 'def f(x):\n    return rank(x, "")'), (True, 'mine = Template("number", "{{ fox }}")'), (True, 'mine = """fox"""')])
def test_filled(filled, code):
    assert start._filled(code) == filled


def test_every_exercise_of_the_course_is_found_and_open():
    for path in sorted((ROOT / "nbs").glob("[01][0-9]_*.ipynb"))[1:]:
        text = "\n\n".join(
            readme.source(cell)
            for cell in readme.read_notebook(path)["cells"]
            if cell["cell_type"] == "markdown"
        )
        exercises = re.findall(
            r"(?m)^\*\*\d+\.", re.search(r"(?ms)^## Exercises(.*?)^## Recap", text)[1]
        )
        assert len(exercises) >= 2 and start._chapter(path).exercises == [False] * len(exercises), (
            path.name
        )


def test_the_parts_hold_all_chapters_with_title_and_needs():
    course = {chapter.number: chapter for chapter in chapters(ROOT / "nbs")}
    assert list(course) == list(range(1, 19))
    assert course[5][1:4] == ("05_natinst.ipynb", "Natural Instructions as text", [1, 3, 4])
    assert course[14].needs == []


def notebook(path, title, *cells, needs="nothing"):
    "Write a small chapter; cells that begin with # or ** are text."
    texts = [f"# {title}\n\n*You need*: {needs} · *Paper*: none", *cells]
    kinds = ["markdown" if text.startswith(("#", "**")) else "code" for text in texts]
    path.write_text(
        json.dumps(
            {
                "cells": [
                    {"cell_type": kind, "source": text.splitlines(keepends=True)}
                    for kind, text in zip(kinds, texts)
                ]
            }
        ),
        encoding="utf-8",
    )


def test_progress_of_a_learner(tmp_path):
    exercises = [
        "## Exercises\n\n**1. A.** Write it.", "def a():\n    ...", "a()", "**2. B.**", 'b = ""',
        "## Recap",
    ]
    notebook(tmp_path / "01_fox.ipynb", "Fox", "**1.** no exercise yet", "...", *exercises)
    notebook(
        tmp_path / "02_den.ipynb", "Den", *exercises,
        needs="[Fox](01_fox.ipynb), [Later](03_x.ipynb)",
    )
    notebook(tmp_path / "98_demo.ipynb", "No chapter")
    fox, den = chapters(tmp_path)
    assert fox == Chapter(1, "01_fox.ipynb", "Fox", [], [False, False]) and den.needs == [1]

    notebook(tmp_path / "01_fox.ipynb", "Fox", *exercises[:1], "def a(): return 1", *exercises[2:])
    text = progress(chapters(tmp_path)).data
    assert text == (
        "Go on with [01 Fox](01_fox.ipynb).\n\n| chapter | exercises done |\n| --- | --- |\n"
        "| [01 Fox](01_fox.ipynb) | 1 of 2 |\n| [02 Den](02_den.ipynb) | 0 of 2 |"
    )

    notebook(
        tmp_path / "01_fox.ipynb", "Fox", *exercises[:1], "def a(): return 1", "a()", exercises[3],
        'b = "den"',
    )
    assert progress(chapters(tmp_path)).data.startswith("Go on with [02 Den](02_den.ipynb).")
    assert progress(chapters(tmp_path)[:1]).data.startswith("All exercises are filled in.")


def test_a_notebook_that_has_lost_its_header_goes_by_its_name(tmp_path):
    (tmp_path / "03_flan.ipynb").write_text('{"cells": []}')
    assert chapters(tmp_path) == [Chapter(3, "03_flan.ipynb", "03_flan", [], [])]


def test_without_notebooks_the_page_says_so(tmp_path):
    assert chapters(tmp_path) == []
    assert "not beside this page" in progress([]).data


# The page itself

def test_module_is_small_and_needs_no_other_chapter():
    text = Path(start.__file__).read_text(encoding="utf-8")
    assert (
        len([line for line in text.splitlines() if line.strip() and not line.startswith("#")]) < 120
    )
    assert not re.search(r"(?m)^\s*(?:from|import) (?:\.|instop_nb)", text)


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_make_lab_opens_the_page_with_the_tools_that_the_chapters_import():
    commands = subprocess.run(
        ["make", "-n", "lab"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert "jupyter lab nbs/00_start.ipynb" in commands
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"(?m)^lab: \$\(VENV\)/dev ", makefile), (
        "the chapters import fastcore, a development requirement"
    )


def test_names_from_elsewhere_are_shown_and_not_obeyed():
    checks = [Check("<b>box</b>", "a | b <script>")]
    assert (
        "<script>" not in report(checks).data
        and "a &#124; b &lt;script&gt;" in report(checks).data
        and "<b>" not in report(checks).data
    )
    assert "<img" not in progress([Chapter(1, "01_fox.ipynb", "<img src=x>", [], [False])]).data
