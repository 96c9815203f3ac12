"""The thirty-six tasks in English: their form, their split, and how their name is read."""
import ast
import json
import os
from collections import Counter
from difflib import SequenceMatcher
from pathlib import Path

import pytest
from typer.testing import CliRunner

from instop_nb.cli_options import check_places
from instop_nb.console import app
from instop_nb.core import TaskError
from instop_nb.flan import PATTERNS, render
from instop_nb.flan_rows import check_flan_row
from instop_nb.natural_flan import NATURAL_TASKS, natural_rows
from instop_nb.natural_prompts import REVIEW_PROMPTS
from instop_nb.promptsource import TEMPLATES, try_row
from instop_nb.seals import fingerprint
from instop_nb.study import contents
from instop_nb.survey import survey
from instop_nb.task_schema import task_slips
from instop_nb.tasks import collection, load_tasks, task_file, task_files, write_task
from instop_nb.tuning import check_disjoint, get_tasks
import instop_nb.cli  # noqa: F401

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / "instop_nb" / "natural"
FILES = sorted((HOME / "tasks").glob("*.json"))
KINDS = {
    "Question Generation", "Answer Generation", "Classification", "Incorrect Answer Generation",
    "Text Modification", "Verification",
}

each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


def value(file):
    "Return the value of a task file."
    return json.loads(file.read_text(encoding="utf-8"))


# The files

@each_file
def test_a_file_is_valid_and_whole(file):
    data = value(file)
    assert not list(task_slips(data, file.name)) and file.read_text(encoding="utf-8").isascii()
    assert len(data["Definition"]) == len(set(data["Definition"])) == 2
    assert [len(data[f"{kind} Examples"]) for kind in ("Positive", "Negative")] == [2, 2]
    for field in ("Title", "Prompt", "Things to Avoid", "Emphasis & Caution"):
        assert data[field].strip(" -"), field
    assert all(e["explanation"] for e in data["Positive Examples"])
    assert all(e["explanation"] and e["suggestion"] for e in data["Negative Examples"])
    assert data["Instance License"] == ["CC0-1.0"]


@each_file
def test_a_file_has_24_instances_with_ids_of_their_own(file):
    rows = value(file)["Instances"]
    assert [row["id"] for row in rows] == [f"{file.stem[:5]}-{n:02d}" for n in range(1, 25)]
    assert len({row["input"] for row in rows}) == 24
    for row in rows:
        assert 1 <= len(row["output"]) == len(set(row["output"])) <= 4
        assert all(text == text.strip() != "" for text in (row["input"], *row["output"]))


@each_file
def test_labels_are_balanced_and_said(file):
    data = value(file)
    if data["Categories"][0] not in ("Classification", "Verification"): return
    labels = Counter(row["output"][0] for row in data["Instances"])
    assert 2 <= len(labels) <= 4 and max(labels.values()) - min(labels.values()) <= 2
    assert all(label in definition for label in labels for definition in data["Definition"])


def test_there_are_six_of_each_category():
    counts = Counter(category for file in FILES for category in value(file)["Categories"])
    assert counts == dict.fromkeys(KINDS, 6)


def test_no_instance_stands_twice():
    pairs = Counter((row["input"], output) for file in FILES
                    for row in value(file)["Instances"] for output in row["output"])
    assert max(pairs.values()) == 1
    inputs = Counter(row["input"] for file in FILES for row in value(file)["Instances"])
    # Chapter 11e shows it: one input, two instructions, two answers
    assert [text for text, n in inputs.items() if n > 1] == ["How many legs does a spider have?"]


def test_survey_finds_nothing():
    found = survey("natural")
    assert (len(found.tasks), found.problems, found.warnings) == (36, [], [])


# The split

def test_the_split_is_whole_with_two_test_tasks_of_each_category():
    train, test = (load_tasks("natural", split) for split in ("train", "test"))
    check_disjoint(train, test)
    assert {t.name for t in train + test} == {file.stem for file in FILES}
    assert Counter(t.category for t in test) == dict.fromkeys(KINDS, 2)


def test_no_test_task_has_the_definition_of_a_training_task():
    train, test = (load_tasks("natural", split, 1) for split in ("train", "test"))
    likest = max((SequenceMatcher(None, a.definition[0], b.definition[0], False).ratio(), a.name,
                  b.name) for a in train for b in test)
    assert likest[0] < .75, likest


# The name

def test_the_name_loads_everywhere():
    assert get_tasks("natural", "test") == load_tasks("natural", "test")
    assert len(get_tasks("natural", "train", 5)[0].instances) == 5
    assert task_file("natural", "nat29_make_polite").parent == HOME / "tasks"
    assert contents({"data": "natural"}) == {"data": fingerprint(HOME)}
    with pytest.raises(TaskError, match="choose from .'test', 'train'"):
        load_tasks("natural", "excluded")
    with pytest.raises(TaskError, match="did you mean nat29_make_polite"):
        task_file("natural", "nat29_make_polit")


def test_a_folder_of_this_name_is_never_hidden(tmp_path, monkeypatch):
    "The bare name is refused beside it; as a path it is a folder like any other."
    monkeypatch.chdir(tmp_path)
    (tmp_path / "natural").write_text("a file hides nothing")
    assert collection("natural") == HOME
    os.remove("natural"); os.mkdir("natural")
    write_task(load_tasks(HOME, "test", 1)[0], Path("natural/mine.json"))
    for ask in (task_files, load_tasks, lambda name: get_tasks(name, "train"),
                lambda name: check_places(name, None), lambda name: contents({"data": name})):
        with pytest.raises(TaskError, match="write ./natural for this folder"): ask("natural")
    assert "write ./natural" in str(survey("natural").problems[0])
    for place in ("./natural", Path("natural"), tmp_path / "natural", "natural/"):
        assert list(task_files(place)) == ["mine"]
    assert contents({"data": "./natural"}) == {"data": fingerprint(tmp_path / "natural")}
    listed = CliRunner().invoke(app, ["tasks", "./natural"])
    assert listed.exit_code == 0 and "1 tasks in 1 categories" in listed.output


@pytest.mark.parametrize("command", ["pretrain", "tune", "evaluate", "optimize", "reproduce",
                                     "encode", "tasks"])
def test_help_names_it(command):
    told = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).output
    assert "'natural'" in told


def test_tasks_lists_it():
    listed = CliRunner().invoke(app, ["tasks", "natural"])
    assert listed.exit_code == 0
    assert "36 tasks in 6 categories are valid, 0 problem(s), 0 warning(s)" in listed.output


def test_encode_shows_it():
    asked = ["encode", "--data", "natural", "--task", "nat13_review_sentiment", "--limit", "2"]
    lines = CliRunner().invoke(app, asked).output.splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["nat13-01", "nat13-02"]
    assert json.loads(lines[0])["source"].startswith("Definition: You are given a short review")


# Its rows and prompts

@pytest.mark.parametrize("cluster", NATURAL_TASKS)
def test_rows_fit_all_templates_of_their_cluster(cluster):
    rows = natural_rows(cluster)
    assert len(rows) == 24
    for row in rows:
        assert check_flan_row(cluster, row) is row
        sources = [render(template, row)[0] for template in PATTERNS[cluster]]
        assert len(set(sources)) == len(PATTERNS[cluster]) == 10
    said = [[*row.values()][1:-1] for row in rows]
    task = load_tasks(HOME)[int(NATURAL_TASKS[cluster][3:5]) - 1]
    assert all(part in i.input for i, parts in zip(task.instances, said)
               for part in parts if isinstance(part, str))


@pytest.mark.parametrize("template", REVIEW_PROMPTS, ids=lambda template: template.name)
def test_prompts_fit_all_reviews(template):
    for row in natural_rows("sentiment"):
        found = try_row(template, row)
        assert not found.why and not found.doubts and found.source and found.target
        if template.metadata.original_task:
            assert found.choices.index(found.target) == row["options"].index(row["answer"])
            assert row["text"] in found.source
            shown = all(choice in found.source for choice in found.choices)
            assert shown == template.metadata.choices_in_prompt


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.name)
def test_prompts_of_chapter_16_fit_the_entailments(template):
    found = [try_row(template, row, rng=0) for row in natural_rows("nli")]
    assert {f.why for f in found} <= {"", "no input and target"} and any(f.source for f in found)


# The package

def test_the_package_holds_it():
    "Every file is named by a pattern of setup.py and by MANIFEST.in; all are small."
    code = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    call = next(node for node in ast.walk(code) if isinstance(node, ast.keyword)
                and node.arg == "package_data")
    patterns = [part.value for part in ast.walk(call) if isinstance(part, ast.Constant)]
    held = {file for pattern in patterns for file in (ROOT / "instop_nb").glob(pattern)}
    files = {file for file in HOME.rglob("*") if file.is_file()}
    assert len(files) == 38 and files <= held
    assert ROOT / "instop_nb/templates/natural_reviews.yaml" in held
    assert "recursive-include instop_nb/natural *" in (ROOT / "MANIFEST.in").read_text()
    assert sum(file.stat().st_size for file in files) < 600_000
