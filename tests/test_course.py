"""The course as a list: which chapters there are, and which exercises count as filled in."""
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import readme

from instop_nb import course as module
from instop_nb.course import Chapter, chapters, notebooks, progress

from test_anatomy import LESSONS

ROOT = Path(__file__).resolve().parent.parent


# Where did you leave off?

@pytest.mark.parametrize(
    "filled, code",
    [
        (False, ""), (False, "\n"), (False, "def f(x):\n    ..."),
        (False, "def f(x):\n    ...  # hint: plus"),
        (False, "class A:\n    def f(self):\n        # hint\n        ...\n"),
        (False, 'mine = Template("number", "")  # hint'), (True, "def f(x): return x[..., 0]"),
        (True, "def f(x):\n    # hint: plus\n    return ''"),
        (True, 'def f(x):\n    return rank(x, "")'),
        (True, 'mine = Template("number", "{{ fox }}")'),
        (True, 'mine = """fox"""'),
    ],
)
def test_filled(filled, code):
    assert module._filled(code) == filled


def test_every_exercise_of_the_course_is_found_and_open():
    for path in LESSONS:
        text = "\n\n".join(
            readme.source(cell)
            for cell in readme.read_notebook(path)["cells"]
            if cell["cell_type"] == "markdown"
        )
        exercises = re.findall(r"(?m)^\*\*Exercise \d+\. ", text) or re.findall(
            r"(?m)^\*\*\d+\.", re.search(r"(?ms)^## Exercises(.*?)^## Recap", text)[1]
        )
        assert len(exercises) >= 2 and module._chapter(path, ROOT / "nbs").exercises == [
            False
        ] * len(exercises), path.name


def test_the_parts_hold_all_chapters_with_title_and_needs():
    course = {chapter.number: chapter for chapter in chapters(ROOT / "nbs")}
    assert list(course) == sorted(course) and {"11", "22", "31", "41"} <= set(course)
    assert not any(n[0] in "09" for n in course), "neither the start page nor the appendix"
    assert course["13"].file == "1_instructions/13_natinst.ipynb" and course["13"].part[0] == "1"
    assert "11" in course["13"].needs and course["40"].needs == []


def test_one_list_holds_every_numbered_notebook_once():
    found = notebooks(ROOT / "nbs")
    stems = [path.stem for path in found]
    assert stems == sorted(set(stems)) and stems[0] == "00_start" and stems[-1] == "99_cli"
    assert not set((ROOT / "nbs").glob("[0-9]_*/[0-9]*.ipynb")) - set(found)


def notebook(path, title, *cells, needs="nothing"):
    "Write a small chapter; cells that begin with # or ** are text."
    texts = [f"# {title}\n\n*You need*: {needs} · *Paper*: none", *cells]
    kinds = ["markdown" if text.startswith(("#", "**")) else "code" for text in texts]
    path.parent.mkdir(exist_ok=True)
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
    notebook(
        tmp_path / "1_instructions" / "11_fox.ipynb", "Fox", "**1.** no exercise yet", "...",
        *exercises,
    )
    notebook(
        tmp_path / "2_model" / "21_den.ipynb", "Den", *exercises,
        needs="[Fox](../1_instructions/11_fox.ipynb), [Later](33_x.ipynb)",
    )
    notebook(tmp_path / "9_appendix" / "98_demo.ipynb", "No chapter")
    fox, den = chapters(tmp_path)
    assert fox == Chapter(
        "11", "1_instructions/11_fox.ipynb", "Fox", [], [False, False]
    ) and den.needs == ["11"]

    notebook(
        tmp_path / "1_instructions" / "11_fox.ipynb", "Fox", *exercises[:1], "def a(): return 1",
        *exercises[2:],
    )
    text = progress(chapters(tmp_path)).data
    assert text == (
        "Go on with [11 Fox](1_instructions/11_fox.ipynb).\n\n"
        "| chapter | exercises done |\n| --- | --- |\n"
        "| [11 Fox](1_instructions/11_fox.ipynb) | 1 of 2 |\n"
        "| [21 Den](2_model/21_den.ipynb) | 0 of 2 |"
    )

    notebook(
        tmp_path / "1_instructions" / "11_fox.ipynb", "Fox", *exercises[:1], "def a(): return 1",
        "a()", exercises[3], 'b = "den"',
    )
    assert progress(chapters(tmp_path)).data.startswith(
        "Go on with [21 Den](2_model/21_den.ipynb)."
    )
    assert progress(chapters(tmp_path)[:1]).data.startswith("All exercises are filled in.")


def test_a_notebook_that_has_lost_its_header_goes_by_its_name(tmp_path):
    (tmp_path / "1_instructions").mkdir()
    (tmp_path / "1_instructions" / "15_flan.ipynb").write_text('{"cells": []}')
    assert chapters(tmp_path) == [
        Chapter("15", "1_instructions/15_flan.ipynb", "15_flan", [], [])
    ]


def test_without_notebooks_the_page_says_so(tmp_path):
    assert chapters(tmp_path) == []
    assert "not beside this page" in progress([]).data


# The page itself

def test_module_is_small_and_needs_no_other_chapter():
    text = Path(module.__file__).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    assert len(lines) < 160 and not re.search(r"(?m)^\s*(?:from|import) (?:\.|instop_nb)", text)


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


def test_titles_from_elsewhere_are_shown_and_not_obeyed():
    strange = Chapter("11", "11_fox.ipynb", "<img src=x>", [], [False])
    assert "<img" not in progress([strange]).data
