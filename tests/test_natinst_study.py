"""The studies of Natural Instructions: what is left out stays out, every study runs, and the
page says what the records say."""
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import check_that_no_run_is_repeated, record_and_page, tiny_t5

from instop_nb.microworld import micro_tasks
from instop_nb.natinst_v1 import complete_v1, instruction_v1
from instop_nb.natinst_study import (
    ARMS, ELEMENTS, STUDIES, add_sources, as_v1, ask_v1, draw_split, own_models, rows_v1,
    run_natinst,
)
from instop_nb.probes import answer_texts
from instop_nb.probes import halves
from instop_nb.models import load_model
from instop_nb.tasks import Example, Instance, Task, load_tasks, write_task
from instop_nb.core import TaskError
from instop_nb.study import reproduce
from instop_nb.tables import interval

NOTEBOOK = Path(__file__).resolve().parent.parent / "nbs" / "3_studies" / "34_natinst_study.ipynb"
TASK = Task(
    "half", ["Halve the number, and say nothing else.", "Give one half of it."],
    positive=[Example("4", "2", "Two and two make four")],
    negative=[Example("8", "16", "This is the double.")],
    instances=[Instance("half-0", "2", ["1"]), Instance("half-1", "12", ["6"])],
    categories=["Numbers"],
)


# Splits and instances

@pytest.fixture(scope="module")
def world(): return add_sources(halves("micro", 2, 2)[0])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "split, key",
    [
        ("task", lambda t: t.name), ("dataset", lambda t: t.sources[0]),
        ("category", lambda t: t.category),
    ],
)
def test_what_is_left_out_is_not_seen(world, split, key, seed):
    value, seen, unseen = draw_split(world, split, seed)
    assert {key(t) for t in unseen} == {value} and value not in {key(t) for t in seen}
    assert sorted(t.name for t in seen + unseen) == sorted(t.name for t in world)


@pytest.mark.parametrize("seed", range(4))
def test_one_drawn_task_is_unseen_in_three_splits(world, seed):
    drawn = draw_split(world, "task", seed)[0]
    assert all(
        drawn in {t.name for t in draw_split(world, split, seed)[2]}
        for split in ("dataset", "category")
    )
    assert draw_split(world, "task", seed)[0] == drawn


def test_seeds_draw_different_tasks(world):
    assert len({draw_split(world, "task", seed)[0] for seed in range(6)}) > 3


def test_a_dataset_is_a_table_and_no_third_of_the_world(world):
    assert {draw_split(world, "dataset", seed)[0] for seed in range(30)} == {"zor", "mib", "size"}
    shares = Counter(t.sources[0] for t in world)
    assert shares["kind"] > len(world) / 3 > shares["the list"], "the list is left out by name"


@pytest.mark.parametrize("definition, table", [
    ("Say every fruit in zor.", "zor"), ("Translate the last word into mib.", "mib"),
    ("Drop all small words.", "size"), ("Drop the fruits.", "kind"),
    ("Replace the first word by the kind.", "kind"), ("Drop the first word.", "the list"),
])
def test_the_source_is_the_table_that_a_definition_names(definition, table):
    assert add_sources([replace(TASK, definition=[definition])])[0].sources == [table]


def test_random_split_leaves_out_two_of_each_category(world):
    unseen, sizes = draw_split(world, "random", 1)[2], Counter(t.category for t in world)
    left_out = Counter(t.category for t in unseen)
    assert left_out == {c: min(2, n) for c, n in sizes.items()}


def test_tasks_without_anything_in_common_cannot_be_split():
    with pytest.raises(TaskError, match="share a source"): draw_split([TASK], "dataset")


def test_sources_of_files_stay():
    task = replace(TASK, raw={"Source": ["abacus"]})
    assert add_sources([task])[0] is task


def test_halves_of_a_folder_share_no_instance(tmp_path):
    tasks = micro_tasks("test", 5)[::9]
    for t in tasks: write_task(t, tmp_path / f"{t.name}.json")
    training, asking = halves(str(tmp_path), 10, 4)
    names = sorted(t.name for t in tasks)
    assert sorted(t.name for t in training) == sorted(t.name for t in asking) == names
    assert [t.name for t in training] == [t.name for t in asking]
    # never more than half is asked
    assert {len(t.instances) for t in asking} == {2} and {len(t.instances) for t in training} == {3}
    assert not any(
        {i.id for i in a.instances} & {i.id for i in b.instances} for a, b in zip(training, asking)
    )


def test_halves_of_the_world_share_no_input_and_hold_what_is_trained_and_what_is_tested():
    training, asking = halves("micro", 3, 2)
    known = [t.name for split in ("train", "test") for t in micro_tasks(split, 1)]
    assert [t.name for t in training] == [t.name for t in asking] == known
    assert {len(t.instances) for t in training} == {3}
    assert {len(t.instances) for t in asking} == {2}
    asked = {i.input for t in asking for i in t.instances}
    assert not asked & {i.input for t in training for i in t.instances}


# Layout

@pytest.mark.parametrize("definition, prompt", [
    ("Halve the number.", "Halve the number"),
    ("First halve it, then double it.", "First halve it"),
    ("Halve it and double it.", "Halve it"),
    ("Is it even?", "Is it even"),
    ("In this task, you get a number. Halve it, please.", "In this task, you get a number."),
])
def test_the_prompt_is_the_first_sentence_or_the_first_clause(definition, prompt):
    assert as_v1(replace(TASK, definition=[definition])).prompt == prompt


def test_a_task_without_bad_examples_has_nothing_to_avoid():
    task = as_v1(replace(TASK, negative=[]))
    assert task.avoid == "-" and "Avoid" not in "".join(
        p.text for p in instruction_v1(task, ELEMENTS["Prompt+Avoid"], 1)
    )


@pytest.mark.parametrize(
    "element, expected",
    [
        ("none", "\ninput: 2\noutput:"), ("Prompt", "Prompt: Halve the number\ninput: 2\noutput:"),
        (
            "Prompt+Avoid",
            "Prompt: Halve the number\nThings to Avoid: This is the double.\ninput: 2\noutput:",
        ),
        (
            "Def+Prompt+Pos",
            "Definition: Halve the number, and say nothing else.\nPrompt: Halve the number\n"
            "input: 4\noutput: 2\ninput: 2\noutput:",
        ),
        (
            "Def+Prompt+Neg+Pos",
            "Definition: Halve the number, and say nothing else.\nPrompt: Halve the number\n"
            "Negative Example1- \ninput: 8\noutput: 16\ninput: 4\noutput: 2\ninput: 2\noutput:",
        ),
    ],
)
def test_layout(element, expected):
    assert (
        "".join(p.text for p in instruction_v1(as_v1(TASK), ELEMENTS[element], 1))
        + complete_v1("2")
        == expected
    )


def test_rows_hold_the_layout_and_the_answer():
    _, tokenizer = load_model("micro", device="cpu")
    rows = rows_v1([replace(TASK, definition=TASK.definition[:1])], tokenizer, ELEMENTS["Prompt"])
    assert (
        tokenizer.decode(rows[0]["input_ids"], skip_special_tokens=True)
        == "Prompt: Halve the number\ninput: 2\noutput:"
    )
    assert [tokenizer.decode(y, skip_special_tokens=True) for y in rows["labels"][:]] == ["1", "6"]
    assert rows["task"][:] == [0, 0] and rows["length"][:] == [len(x) for x in rows["input_ids"]]


def test_one_wording_is_trained_and_asked_as_v1_has_one():
    _, tokenizer = load_model("micro", device="cpu")
    texts = {
        text.split("\n")[0]
        for text in tokenizer.batch_decode(
            rows_v1([TASK], tokenizer, ("Definition",))["input_ids"][:]
        )
    }
    assert (
        texts == {f"Definition: {TASK.definition[0]}"}
        and as_v1(TASK).definition == TASK.definition[:1]
    )


# Models

def test_answers_come_in_the_order_of_the_questions():
    model, tokenizer = load_model("micro", device="cpu")
    tasks = [replace(t, instances=t.instances[:2]) for t in micro_tasks("combination", 2)[::20]]
    # lengths go up and down
    texts = [i.input * (1 + n % 2) for t in tasks for n, i in enumerate(t.instances)]
    together = answer_texts(model, tokenizer, tasks, texts)
    single = [answer_texts(model, tokenizer, [replace(t, instances=[i])], [text])[0]
              for (t, i), text in zip([(t, i) for t in tasks for i in t.instances], texts)]
    assert together == single


def test_an_own_model_learns_its_task_and_the_shared_one_stays(tmp_path):
    model, tokenizer = load_model("micro", device="cpu")
    before = [p.clone() for p in model.parameters()]
    inputs = [i.input for i in micro_tasks("train", 60)[0].instances]
    star = replace(
        TASK, instances=[Instance(str(n), x, ["star"]) for n, x in enumerate(inputs[:50])]
    )
    asked = replace(
        star, instances=[Instance(str(n), x, ["star"]) for n, x in enumerate(inputs[50:])]
    )
    rows = own_models(model, tokenizer, [star], [asked], ELEMENTS["Prompt"], tmp_path)
    assert [r["prediction"] for r in rows] == ["star"] * 10
    assert all(a.equal(b) for a, b in zip(before, model.parameters()))
    assert any(
        r["prediction"] != "star" for r in ask_v1(model, tokenizer, [asked], ELEMENTS["Prompt"])
    )


# Studies

@pytest.fixture(scope="module")
def runs(tmp_path_factory): return tmp_path_factory.mktemp("natinst")


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_runs(name, runs):
    record = reproduce(STUDIES[name], runs, seeds=1, workers=1, scale=0.01, quiet=True)
    assert [run["arm"] for run in record["runs"]] == list(STUDIES[name].arms)
    assert all(
        0 <= run[metric] <= 100 for run in record["runs"] for metric in ("rougeL", "exact_match")
    )
    assert all(
        (run["own"] is not None) == ARMS[run["arm"]].get("upper", False) for run in record["runs"]
    )
    check_that_no_run_is_repeated(STUDIES[name], runs, record, scale=0.01)


def test_studies_share_their_runs():
    together = {arm: settings for study in STUDIES.values() for arm, settings in study.arms.items()}
    assert together == ARMS and len(ARMS) < sum(len(study.arms) for study in STUDIES.values())
    assert {study.folder for study in STUDIES.values()} == {"natinst"}


def test_a_study_runs_on_real_tasks(real_tasks, tmp_path):
    tasks = load_tasks(real_tasks, None, 2)
    model = tiny_t5(tmp_path / "t5", [t.definition[0] for t in tasks])
    for arm in ("random Def+Prompt", "dataset none", "random Def+Prompt+Neg+Pos", "8 tasks none"):
        result = run_natinst(tmp_path / arm, 0, 0.0005, str(real_tasks), model, **ARMS[arm])
        assert result["n"] > 0 and (
            result["n_seen"] == 8 if arm == "8 tasks none" else result["n_seen"] > 100
        ), arm


@pytest.mark.parametrize("name", STUDIES)
def test_the_page_agrees_with_the_record(name):
    record, _, lines = record_and_page(STUDIES[name], NOTEBOOK)
    for arm in STUDIES[name].arms:
        shown_score = interval([run["rougeL"] for run in record["runs"] if run["arm"] == arm])
        assert any(
            line.startswith(f"| {arm} |") and f"| {shown_score} |" in line for line in lines
        ), (arm, shown_score)
