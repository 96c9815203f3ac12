"""The checks of `make test` see what they are there to see, and the tools write what they
should."""
import json
import shutil
from pathlib import Path

import check
import constraints
import pytest
import readme

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = readme.read_settings(ROOT)
HEADER = (
    "# Small words\n> One sentence.\n\n*You will build*: `one` · *You need*: nothing · "
    "*Paper*: none · *Minutes*: 3 · *Device*: CPU"
)


def cell(kind, text):
    "Return a cell as nbdev_clean leaves it."
    rest = {"execution_count": None, "outputs": []} if kind == "code" else {}
    return {
        "cell_type": kind, "id": f"{abs(hash(text)):x}"[:8], "metadata": {},
        "source": text.splitlines(keepends=True), **rest,
    }


def write_notebook(path, *cells):
    "Write a notebook as nbdev_clean leaves it."
    kernel = {"display_name": "python3", "language": "python", "name": "python3"}
    path.write_text(
        readme.notebook_text(
            {
                "cells": list(cells), "metadata": {"kernelspec": kernel}, "nbformat": 4,
                "nbformat_minor": 5,
            }
        ),
        encoding="utf-8",
    )


@pytest.fixture
def project(tmp_path):
    "A repository with one chapter, exported and clean."
    shutil.copy(ROOT / "settings.ini", tmp_path)
    for name in ("nbs", "instop_nb"): (tmp_path / name).mkdir()
    write_notebook(
        tmp_path / "nbs" / "01_words.ipynb", cell("code", "#| default_exp words"),
        cell("markdown", HEADER), cell("code", "#| export\ndef one(): return 1"),
        cell("code", "assert one() == 1"),
    )
    write_notebook(
        tmp_path / "nbs" / "index.ipynb",
        cell(
            "markdown", "# Words\n\n<!-- chapters -->\n<!-- /chapters -->\n\n[licence](../LICENSE)"
        ),
    )
    ok, output = check.run(check.BIN / "nbdev_export", root=tmp_path)
    assert ok, output
    return tmp_path


def test_check_export_sees_changed_left_over_and_missing_modules(project):
    package = project / "instop_nb"
    assert check.check_export(project) == (True, "")
    (package / "stale.py").write_text("x = 1\n")
    (package / "words.py").write_text((package / "words.py").read_text() + "x = 1\n")
    ok, output = check.check_export(project)
    assert not ok and "stale.py: no notebook exports it" in output and "words.py: differs" in output
    (package / "words.py").unlink()
    assert "words.py: a notebook exports it, but it is missing" in check.check_export(project)[1]


def test_check_clean_sees_a_run_number_and_a_broken_file(project):
    path = project / "nbs" / "01_words.ipynb"
    assert check.check_clean(project)[0]
    path.write_text(path.read_text().replace('"execution_count": null', '"execution_count": 7', 1))
    assert check.check_clean(project) == (
        False, "\nnbs/01_words.ipynb: not clean; run `make prepare`",
    )
    path.write_text("{")
    assert not check.check_clean(project)[0]


def test_closing_line_is_the_last_count_of_pytest():
    assert (
        check.closing_line("1 passed in 0.1s\nFAILED x - 1 failed\n2 failed, 1 passed in 3.21s\n")
        == "2 failed, 1 passed in 3.21s"
    )
    assert check.closing_line("no tests ran in 0.00s") == "no tests ran in 0.00s"
    assert check.closing_line("Traceback") == ""


def test_readme_fills_the_chapters_and_rewrites_links(project):
    files = {path.name: text for path, text in readme.generated(project).items()}
    badge = readme.colab_badge(SETTINGS, "01_words.ipynb")
    assert (
        f"| 01 | [Small words](nbs/01_words.ipynb) | `one` | none | 5 + 3 | CPU | {badge} |"
        in files["README.md"]
    )
    assert "[licence](LICENSE)" in files["README.md"] and "<!-- chapters" not in files["README.md"]
    header = readme.source(json.loads(files["01_words.ipynb"])["cells"][1])
    timed = HEADER.replace("3 ·", "5 to work through, 3 to run ·")
    assert header == f"{timed}\n\n{readme.colab_badge(SETTINGS, '01_words.ipynb')}"


def test_readme_is_stable_once_written(project):
    for path, text in readme.generated(project).items(): path.write_text(text, encoding="utf-8")
    assert all(
        path.read_text(encoding="utf-8") == text for path, text in readme.generated(project).items()
    )
    assert check.check_clean(project)[0]


def test_readme_names_a_chapter_without_header_and_a_missing_record(project):
    with pytest.raises(SystemExit, match="instop_nb/records/demo.json is missing"):
        readme.demo_table(project)
    write_notebook(
        project / "nbs" / "02_bare.ipynb", cell("code", "#| default_exp bare"),
        cell("markdown", "# Bare"),
    )
    with pytest.raises(SystemExit, match="nbs/02_bare.ipynb: the first text must be the header"):
        readme.generated(project)


def test_minutes_are_the_measured_ones(project):
    record = project / readme.TIMES
    record.parent.mkdir()
    record.write_text(json.dumps({"cpu_seconds": {"01_words.ipynb": [100.0, 121.0]}}))
    files = {path.name: text for path, text in readme.generated(project).items()}
    assert (
        "through, 3 to run ·" in files["01_words.ipynb"] and "+ 3 | CPU |" in files["README.md"]
    ), "two runs: the longer one, rounded up"
    record.write_text(json.dumps({"cpu_seconds": {"01_words.ipynb": [5.0, 4.0]}}))
    files = {path.name: text for path, text in readme.generated(project).items()}
    assert (
        "through, 1 to run ·" in files["01_words.ipynb"] and "+ 1 | CPU |" in files["README.md"]
    )


def test_demo_table_shows_means_and_intervals(tmp_path):
    record = {
        "command": "instop demo", "seeds": [0, 1, 2], "steps": 500,
        "questions": {"new arguments": 4, "new pair": 5, "new category": 6},
        "table": [
            {
                "instruction": "definition",
                "em": {
                    "new arguments": [81.04, 2.0], "new pair": [40.0, 0],
                    "new category": [60.0, None],
                },
            }
        ],
    }
    (tmp_path / readme.RECORD).parent.mkdir(parents=True)
    (tmp_path / readme.RECORD).write_text(json.dumps(record))
    table = readme.demo_table(tmp_path)
    assert "| trained with | new arguments | new pair | new category |" in table
    assert "| definition | 81.0 ± 2.0 | 40.0 | 60.0 |" in table
    assert (
        "seeds 0, 1, 2; 500 steps on the same rows for each tuned model; made by `instop demo`"
        in table
    )


@pytest.mark.parametrize(
    "requires, expected",
    [
        (">=3.11", ' ; python_version >= "3.11"'), (">=3.10.0", ""), (None, ""),
        ("!=3.14.1,>=3.11", ' ; python_version >= "3.11"'),
        (">=3.11.5", ' ; python_full_version >= "3.11.5"'),
    ],
)
def test_pins_that_need_a_newer_python_get_a_marker(requires, expected):
    assert constraints.marker(requires, "3.10") == expected


def test_execute_leaves_out_widgets():
    from types import SimpleNamespace

    import execute
    kept = (
        {"output_type": "stream", "text": "x"},
        {"output_type": "display_data", "data": {"text/plain": "y"}},
    )
    cell = SimpleNamespace(
        outputs=[
            kept[0],
            {"data": {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "bar"}},
            kept[1],
        ]
    )
    execute.drop_widgets(cell)
    assert cell.outputs == list(kept)


def test_timing_runs_each_chapter_twice_and_names_what_differs(project, capsys):
    import execute
    write_notebook(
        project / "nbs" / "02_more.ipynb", cell("code", "#| default_exp more"),
        cell("markdown", HEADER), cell("code", "#| eval: false\n1 / 0"),
        {
            **cell(
                "code",
                "import time; print(time.time_ns()); t = time.process_time()\n"
                "while time.process_time() < t + 1: pass",
            ),
            "id": "clock",
        },
    )
    before = {path: path.read_bytes() for path in (project / "nbs").glob("*")}
    (project / readme.TIMES).parent.mkdir()
    execute.time_chapters(project)
    seconds = json.loads((project / readme.TIMES).read_text())["cpu_seconds"]
    assert set(seconds) == {"01_words.ipynb", "02_more.ipynb"} and min(seconds["02_more.ipynb"]) > 1
    shown = capsys.readouterr().out.splitlines()
    assert "differs" not in shown[0] and shown[1].endswith("differs: clock")
    assert {path: path.read_bytes() for path in (project / "nbs").glob("*")} == before, (
        "no output is kept"
    )
    execute.time_chapters(project, [project / "nbs" / "01_words.ipynb"])
    again = json.loads((project / readme.TIMES).read_text())["cpu_seconds"]
    assert again["02_more.ipynb"] == seconds["02_more.ipynb"], "one is timed, the other stays"


def test_records_are_compared_but_for_times_and_versions(tmp_path, capsys):
    import compare
    record = {"torch": "1", "cpu_seconds": 3, "runs": [{"arm": "a", "rougeL": 1.5, "seed": 0}]}
    changed = json.loads(json.dumps(record).replace("1.5", "1.6"))
    for folder, value in (("old", record), ("same", {**record, "torch": "2"}), ("new", changed)):
        place = tmp_path / folder / "toy"
        place.mkdir(parents=True)
        (place / "toy.json").write_text(json.dumps(value))
    assert compare.main(tmp_path / "old", tmp_path / "same") == 0
    assert compare.main(tmp_path / "old", tmp_path / "new") == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0].endswith("equal, 1 runs")
    assert said[1].endswith("DIFFERS in 1 places, first runs[0].rougeL: 1.5 is now 1.6")
