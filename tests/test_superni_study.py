"""The studies of Super-NaturalInstructions: three sets kept apart, names that say no more than
NI's, every study runs, and the page says what the records say."""
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import check_that_no_run_is_repeated, record_and_page, tiny_t5

from instop_nb.metrics import score
from instop_nb.first_world import micro_tasks, novelty
from instop_nb.first_books import write_world
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
    write_world(tmp_path, 4)
    world = worlds(str(tmp_path), 4, 2)
    assert [len(world[part]) for part in ("train", "oracle", "ask")] == [343, 113, 113]
    assert not any(
        {i.id for i in a.instances} & {i.id for i in b.instances}
        for a, b in zip(world["oracle"], world["ask"])
    )


def test_numbers_tell_tasks_apart_and_say_nothing_else():
    tasks = micro_tasks(None, 1)
    shown = numbered(tasks)
    assert len({t.name for t in shown}) == len(tasks)
    assert {t.name.split("_", 1)[1] for t in shown} == {
        t.category.replace(" ", "_").rstrip("?") for t in tasks
    }
    assert [replace(a, name=b.name) for a, b in zip(shown, tasks)] == tasks


def test_names_of_files_stay():
    task = replace(micro_tasks(None, 1)[0], name="task1146_country_capital")
    assert numbered([task]) == [task]


def test_the_limit_takes_bad_examples_and_never_the_question():
    _, tokenizer = load_model("micro", device="cpu")
    tasks = micro_tasks("combinations", 1)[::6]
    for encoding in MATRIX:
        texts, whole = (
            laid_out(tasks, encoding, tokenizer, limit) for limit in (LIMIT["micro"], 1024)
        )
        assert all(
            t.endswith("\nOutput: ") and len(tokenizer(t)["input_ids"]) <= LIMIT["micro"]
            for t in texts
        )
        if "Expl" in encoding:
            assert all(t.count("Positive") == 2 and t.count("Negative") < 2 for t in texts)
        else:
            assert (
                texts
                == whole
                == [s for t in numbered(tasks) for _, s in sources(t, MATRIX[encoding])]
            )


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
    assert (few["n_tasks"], wide["n_tasks"], none["n_tasks"]) == (5, 343, 0)
    assert (
        wide["parameters"]
        < few["parameters"]
        == none["parameters"]
        == sum(p.numel() for p in load_model("micro", device="cpu")[0].parameters())
    )


@pytest.mark.parametrize("heuristic", HEURISTICS)
def test_heuristics_answer_all_questions_of_the_test_split(heuristic, tmp_path):
    result = run_superni(tmp_path, 0, 1.0, "micro", "micro", learn=heuristic)
    assert result["n"] == 3 * 113 and set(result["novelty"]) == {"argument", "pair", "primitive"}
    tasks = [
        replace(t, instances=t.instances[:3])
        for t in micro_tasks(None, 3, held_out=True)
        if novelty(t.name) != "seen"
    ]
    expected = score([row for t in tasks for row in HEURISTICS[heuristic](t)])["overall"]
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
    write_world(tmp_path / "world", 1)
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
