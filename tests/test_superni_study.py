"""The studies of Super-NaturalInstructions: three sets kept apart, names that say no more than
NI's, every study runs, and the page says what the records say."""
import re
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import check_that_no_run_is_repeated, record_and_page, tiny_t5

from instop_nb.metrics import score
from instop_nb.microworld import micro_tasks, tiers_of
from instop_nb.natinst import MATRIX, sources
from instop_nb.superni_study import (
    ARMS, HEURISTICS, LIMIT, STUDIES, finnish, laid_out, numbered, run_superni, run_xlingual,
    worlds,
)
from instop_nb.models import load_model
from instop_nb.core import TaskError
from instop_nb.tasks import load_tasks, write_task
from instop_nb.tuning import get_tasks
from instop_nb.study import reproduce
from instop_nb.tables import interval

NOTEBOOK = Path(__file__).resolve().parent.parent / "nbs" / "3_studies" / "35_superni_study.ipynb"
TUNED = [study for study in STUDIES.values() if study.folder == "superni"]


# Tasks

def test_the_three_sets_are_those_of_the_official_split():
    world = worlds("micro", 3, 2)
    assert {t.name for t in world["train"]} == {t.name for t in get_tasks("micro", "train", 1)}
    assert (
        {t.name for t in world["ask"]}
        == {t.name for t in world["oracle"]}
        == {t.name for t in get_tasks("micro", "test", 1)}
    )
    learned = {
        (t.name, i.input) for part in ("train", "oracle") for t in world[part] for i in t.instances
    }
    assert not learned & {(t.name, i.input) for t in world["ask"] for i in t.instances}


def test_the_three_sets_of_a_folder(tmp_path):
    (tmp_path / "splits" / "default").mkdir(parents=True)
    (tmp_path / "tasks").mkdir()
    names = {}
    for split in ("train", "test"):
        some = micro_tasks(split, 4)[::20]
        for t in some: write_task(t, tmp_path / "tasks" / f"{t.name}.json")
        names[split] = {t.name for t in some}
        lines = "".join(f"{name}\n" for name in names[split])
        (tmp_path / "splits" / "default" / f"{split}_tasks.txt").write_text(lines)
    world = worlds(str(tmp_path), 4, 2)
    assert {t.name for t in world["train"]} == names["train"]
    assert {t.name for t in world["oracle"]} == {t.name for t in world["ask"]} == names["test"]
    assert not any(
        {i.id for i in a.instances} & {i.id for i in b.instances}
        for a, b in zip(world["oracle"], world["ask"])
    )


def test_numbers_tell_tasks_apart_and_say_nothing_else():
    tasks = micro_tasks(None, 1)
    shown = numbered(tasks)
    assert len({t.name.split("_")[0] for t in shown}) == len(tasks) == len(tiers_of())
    assert all(re.fullmatch(r"task\d{4}(_[a-z]+)+", t.name) for t in shown)
    for task, named in zip(tasks, shown):
        assert named.name.split("_")[1:] == re.findall("[a-z]+", task.category)
    assert [replace(a, name=b.name) for a, b in zip(shown, tasks)] == tasks


def test_names_of_files_stay():
    task = replace(micro_tasks(None, 1)[0], name="task1146_country_capital")
    assert numbered([task]) == [task]


@pytest.mark.parametrize("encoding", MATRIX)
def test_no_source_of_the_world_is_cut(encoding):
    _, tokenizer = load_model("micro", device="cpu")
    for tier in ("train", "test", "two steps"):
        tasks = micro_tasks(tier, 1)[::12]
        texts = laid_out(tasks, encoding, tokenizer)
        assert texts == [s for t in numbered(tasks) for _, s in sources(t, MATRIX[encoding])]
        assert all(t.endswith("\nOutput: ") for t in texts)
        assert max(map(len, tokenizer(texts)["input_ids"])) < LIMIT / 2


def test_a_limit_takes_bad_examples_and_never_the_question():
    _, tokenizer = load_model("micro", device="cpu")
    limit, tasks = 110, micro_tasks("combination", 1)[::9]
    whole, texts = (laid_out(tasks, "Def+Pos(2)+Neg(2)+Expl", tokenizer, n) for n in (LIMIT, limit))
    assert {(t.count("Positive"), t.count("Negative")) for t in whole} == {(2, 2)}
    assert all(t.count("Positive") > 0 and t.count("Negative") < 2 for t in texts)
    assert all(t.endswith("\nOutput: ") and len(tokenizer(t)["input_ids"]) <= limit for t in texts)


# Studies

@pytest.fixture(scope="module")
def runs(tmp_path_factory): return tmp_path_factory.mktemp("superni")


@pytest.mark.parametrize("study", TUNED, ids=lambda study: study.name)
def test_every_study_runs(study, runs):
    # of ten columns
    two = {
        name: {**arm, "ask": arm["ask"][:2]} if len(arm.get("ask", ())) > 2 else arm
        for name, arm in study.arms.items()
    }
    study = replace(study, arms=two)
    record = reproduce(study, runs, seeds=1, workers=1, scale=0.002, quiet=True)
    assert [run["arm"] for run in record["runs"]] == list(study.arms)
    assert all(
        0 <= run[metric] <= 100 for run in record["runs"] for metric in ("rougeL", "exact_match")
    )
    assert len({run["n"] for run in record["runs"]}) == 1
    check_that_no_run_is_repeated(study, runs, record, scale=0.002)


def test_the_matrix_has_ten_rows_and_ten_columns():
    study = STUDIES["superni-encodings"]
    assert [arm["encoding"] for arm in study.arms.values()] == [*MATRIX] and all(
        arm["ask"] == [*MATRIX] for arm in study.arms.values()
    )
    # one budget
    assert len({(arm["batch"], arm["n_instances"]) for arm in study.arms.values()}) == 1


def test_scaling_arms_differ_in_one_thing():
    for name, setting in (
        ("superni-tasks", "n_tasks"), ("superni-instances", "n_instances"),
        ("superni-sizes", "width"),
    ):
        assert {key for arm in STUDIES[name].arms.values() for key in arm} == {setting}, name
        assert "tuned" in STUDIES[name].arms


def test_settings_decide_what_is_learned(tmp_path):
    few = run_superni(tmp_path / "few", 0, 0.01, "micro", "micro", n_tasks=5)
    wide = run_superni(tmp_path / "wide", 0, 0.01, "micro", "micro", width=16)
    none = run_superni(tmp_path / "none", 0, 0.01, "micro", "micro", learn="nothing")
    assert (few["n_tasks"], wide["n_tasks"], none["n_tasks"]) == (5, 689, 0)
    assert (
        wide["parameters"]
        < few["parameters"]
        == none["parameters"]
        == sum(p.numel() for p in load_model("micro", device="cpu")[0].parameters())
    )


@pytest.mark.parametrize("heuristic", HEURISTICS)
def test_heuristics_answer_all_questions_of_the_test_split(heuristic, tmp_path):
    result = run_superni(tmp_path, 0, 1.0, "micro", "micro", learn=heuristic)
    assert result["n"] == 3 * 144
    assert set(result["novelty"]) == {"argument", "combination", "category"}
    rows = [row for t in micro_tasks("test", 3) for row in HEURISTICS[heuristic](t)]
    expected = score(rows)["overall"]
    assert (result["rougeL"], result["exact_match"]) == (
        round(expected["rougeL"], 2), round(expected["exact_match"], 2),
    )


def test_studies_run_on_real_tasks(few_real_tasks, tmp_path):
    tasks = load_tasks(few_real_tasks, None, 2)
    model = tiny_t5(tmp_path / "t5", [t.definition[0] for t in tasks])
    for arm in ("tuned", "oracle", "copy example", "8 tasks", "width 16"):
        result = run_superni(tmp_path / arm, 0, 0.0005, str(few_real_tasks), model, **ARMS[arm])
        assert result["n"] > 0 and result["novelty"] == {}
    matrix = run_superni(
        tmp_path / "matrix", 0, 0.0005, str(few_real_tasks), model, encoding="Task ID", batch=4,
        n_instances=2, ask=["Def", "Pos(1)"],
    )
    assert list(matrix["asked"]) == ["Def", "Pos(1)"]


# Finnish

def test_without_translated_tasks_the_study_says_what_is_missing(tmp_path):
    with pytest.raises(TaskError, match="tasks_fi"):
        reproduce(STUDIES["superni-xlingual"], tmp_path, seeds=1, workers=1, quiet=True)
    (tmp_path / "world").mkdir()
    write_task(micro_tasks("test", 1)[0], tmp_path / "world" / "task.json")
    with pytest.raises(TaskError, match="give --data FOLDER"): finnish(str(tmp_path / "world"))


def test_scores_count_the_tokens_of_the_tokenizer_that_is_given(tmp_path):
    task = micro_tasks(None, 2)[0]
    (tmp_path / "tasks_fi").mkdir()
    write_task(
        replace(
            task,
            instances=[
                replace(i, input="sota alkoi", output=["rauha alkaa"]) for i in task.instances
            ],
        ),
        tmp_path / "tasks_fi" / "t.json",
    )
    words = tiny_t5(tmp_path / "words", ["sota alkoi rauha alkaa"] * 50)
    scores = {
        tokens: run_xlingual(tmp_path / "run", 0, 1.0, str(tmp_path), "micro", "copy input", tokens)
        for tokens in (None, words)
    }
    assert scores[words]["tokens"] == words and scores[None]["tokens"] == "micro"
    assert scores[words]["rougeL"] == 0 < scores[None]["rougeL"]


def test_the_finnish_study_runs(real_tasks, tmp_path):
    model = tiny_t5(tmp_path / "t5", [t.definition[0] for t in load_tasks(real_tasks, "train", 1)])
    record = reproduce(
        STUDIES["superni-xlingual"], tmp_path, seeds=1, workers=1, scale=0.05, data=str(real_tasks),
        model=model, quiet=True,
    )
    assert [run["arm"] for run in record["runs"]] == [
        "copy input", "copy example", "tuned on English",
    ]
    assert all(run["n"] == 24 and 0 <= run["rougeL"] <= 100 for run in record["runs"])


@pytest.mark.parametrize("name", STUDIES)
def test_the_page_agrees_with_the_record(name):
    record, _, lines = record_and_page(STUDIES[name], NOTEBOOK)
    for arm in STUDIES[name].arms:
        shown_score = interval([run["rougeL"] for run in record["runs"] if run["arm"] == arm])
        assert any(
            line.startswith(f"| {arm} |") and f"| {shown_score} |" in line for line in lines
        ), (arm, shown_score)
