"""T0's studies: one wording is never trained on, options tell nothing, every study runs, and the
page says what the records say."""
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import check_that_no_run_is_repeated, record_and_page, tiny_t5

import instop_nb.t0_study as study_of
from instop_nb.microworld import TIERS, micro_tasks, solve, tiers_of
from instop_nb.models import load_model
from instop_nb.probes import fit
from instop_nb.promptsource import encode_row
from instop_nb.t0_study import (
    ARMS, BATCH, P, STEPS, STUDIES, TURNED, choose_prompts, prompt_scores, prompted, prompted_pairs,
    run_t0, sibling_options,
)
from instop_nb.tasks import Instance, Task, load_tasks, write_task
from instop_nb.core import TaskError
from instop_nb.study import reproduce
from instop_nb.tables import interval

NOTEBOOK = Path(__file__).resolve().parent.parent / "nbs" / "3_studies" / "33_t0_study.ipynb"
TASK = Task(
    "half", ["Halve it.", "Give a half.", "One half?", "Half of it."],
    instances=[Instance("half-0", "2", ["1"]), Instance("half-1", "12", ["6"])],
    categories=["Numbers"],
)


# Prompts

@pytest.mark.parametrize(
    "seed, first, last",
    [
        (0, "Halve it.", "Half of it."), (1, "Give a half.", "Halve it."),
        (6, "One half?", "Give a half."),
    ],
)
def test_the_seed_turns_the_wordings(seed, first, last):
    templates, rows = prompted(TASK, seed)
    assert [t.render(rows[0]) for t in (templates[0], templates[-1])] == [
        [f"{first}\n\n2", "1"], [f"{last}\n\n2", "1"],
    ]
    assert rows[1]["definition"] == first and (rows[1]["input"], rows[1]["output"]) == ("12", "6")


@pytest.mark.parametrize(
    "p, expected",
    [
        ("one", ["Halve it."]), ("half", ["Halve it.", "Give a half."]),
        ("original", ["Halve it.", "Give a half.", "One half?"]),
    ],
)
def test_prompts_of_the_original_task(p, expected):
    templates, rows = prompted(TASK)
    assert [t.render(rows[0])[0].split("\n")[0] for t in choose_prompts(templates, p)] == expected


def test_all_prompts_have_one_that_is_turned_around():
    templates, rows = prompted(TASK)
    *original, turned = choose_prompts(templates, "all")
    assert original == templates[:3] and turned.metadata.original_task is False
    assert turned.render(rows[0]) == [
        "2\n\n1\n\nWhich request leads from the first to the second?", "Halve it.",
    ]


def test_a_definition_with_braces_is_printed_as_it_stands():
    templates, rows = prompted(replace(TASK, definition=["Fill {{ this }} ||| {% in %}."]))
    assert TURNED.render(rows[0])[1] == "Fill {{ this }} ||| {% in %}." and templates[0].render(
        rows[0]
    )[0].startswith("Fill {{ this }} ||| {% in %}.")


@pytest.mark.parametrize("n, chosen", [
    (1, [0]), (3, [0, 1, 2]), (5, [0, 1, 2, 3]), (7, [0, 1, 3, 5]), (8, [0, 2, 4, 6]),
    (12, [0, 3, 6, 9]),
])
@pytest.mark.parametrize("seed", range(3))
def test_four_of_many_wordings_are_evenly_spaced(n, chosen, seed):
    many = replace(TASK, definition=[f"Wording {k}." for k in range(n)])
    templates, rows = prompted(many, seed)
    k = seed % len(chosen)
    said = [t.render(rows[0])[0].split("\n")[0] for t in templates]
    assert said == [f"Wording {j}." for j in chosen[k:] + chosen[:k]]
    assert {row["definition"] for row in rows} == {said[0]}


def test_the_four_wordings_of_the_world_name_the_action_in_four_ways():
    for task in micro_tasks("test", 1)[::9]:
        o = tiers_of()[task.name][0]
        templates, rows = prompted(task)
        said = [t.render(rows[0])[0].split("\n")[0][:-1].lower() for t in templates]
        assert said == [o.say(i, 0).lower() for i in range(4)]


@pytest.mark.parametrize(
    "n, counts", [(1, [1, 1, 1, 2]), (2, [1, 1, 1, 2]), (3, [1, 1, 2, 3]), (5, [1, 2, 3, 4])]
)
def test_numbers_of_prompts(n, counts):
    templates, _ = prompted(replace(TASK, definition=[f"Wording {k}." for k in range(n)]))
    assert [len(choose_prompts(templates, p)) for p in P] == counts
    assert n == 1 or not any(templates[-1] in choose_prompts(templates, p) for p in P), (
        "the last prompt is kept for the test"
    )


def test_another_p_is_an_error():
    with pytest.raises(TaskError, match="p: found 'many'; choose from"):
        choose_prompts(prompted(TASK)[0], "many")


# Pairs

@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("p", P)
def test_the_last_wording_is_never_trained_on(p, seed):
    tasks = micro_tasks("train", 2)[::40]
    last = {t.definition[3 * ((seed - 1) % 4)] for t in tasks}
    sources = {source.split("\n")[0] for source, _ in prompted_pairs(tasks, 1000, p, seed)}
    assert not sources & last
    wordings = {d for t in tasks for d in t.definition} & sources
    assert len(wordings) == len(tasks) * {"one": 1, "half": 2, "original": 3, "all": 3}[p]


def test_pairs_repeat_and_categories_weigh_the_same():
    tasks = micro_tasks("train", 3)
    pairs = prompted_pairs(tasks, 4000, seed=3)
    assert pairs[:30] == prompted_pairs(tasks, 30, seed=3) != prompted_pairs(tasks, 30, seed=4)
    category = {d: t.category for t in tasks for d in t.definition}
    counts = Counter(category[source.split("\n")[0]] for source, _ in pairs)
    share = len(pairs) / len({t.category for t in tasks})  # About 57, give or take 8
    assert len(counts) == len({t.category for t in tasks})
    assert all(share / 2 < n < 2 * share for n in counts.values())


# Options

def test_the_right_answer_is_an_option_and_its_place_says_nothing():
    tasks = micro_tasks("test", 6) + micro_tasks("two steps", 2)
    asked = [(i.output[0], sibling_options(t.name, i.input)) for t in tasks for i in t.instances]
    assert all(
        right in options and len(set(options)) == len(options) and 2 <= len(options) <= 4
        for right, options in asked
    )
    four = [options.index(right) for right, options in asked if len(options) == 4]
    assert len(four) > 0.9 * len(asked)
    assert all(abs(four.count(k) / len(four) - 0.25) < 0.06 for k in range(4))


def _answers_of(text, group, value):
    words = text.split()
    return {
        solve(name, text)
        for name, (o, _) in tiers_of().items() if group(o) == value and o.fits(words)
    }


@pytest.mark.parametrize("tier", TIERS)
def test_wrong_options_are_answers_of_siblings_that_fit(tier):
    for task in random.Random(0).sample(micro_tasks(tier, 2), 12):
        text = task.instances[0].input
        options = sibling_options(task.name, text)
        assert options == sibling_options(task.name, text)
        if tiers_of()[task.name][0].options: continue
        near = _answers_of(text, lambda o: o.category, task.category)
        action = task.category.split(":")[0]
        near_or_far = _answers_of(text, lambda o: o.category.split(":")[0], action)
        assert len({*options} & near) == min(4, len(near)), "siblings come before others"
        assert {*options} <= near_or_far


def test_a_category_of_one_task_has_wrong_options_too():
    text = micro_tasks("test", 1)[0].instances[0].input
    assert _answers_of(text, lambda o: o.category, "count: all") == {solve("micro_count_all", text)}
    assert len(sibling_options("micro_count_all", text)) > 1


def test_questions_have_two_options():
    by_action = {t.category.split(":")[0]: t for t in micro_tasks("test", 1)}
    for action in ("ask kind", "ask size"):
        task = by_action[action]
        assert sorted(sibling_options(task.name, task.instances[0].input)) == ["no", "yes"]
    task = by_action["choose kind"]
    options = sibling_options(task.name, task.instances[0].input)
    assert {*options} == {*tiers_of()[task.name][0].options}


# Scores

def test_each_prompt_is_asked_for_the_same_rows(monkeypatch):
    asked = []
    def spy(model, tokenizer, some, max_new_tokens): asked.append(some); return 50.0
    monkeypatch.setattr(study_of, "answer_score", spy)
    assert (
        prompt_scores(None, None, [TASK, replace(TASK, name="other", definition=["Halve."])])
        == [50.0] * 4
    )
    assert [len(some) for some in asked] == [4, 2, 2, 2]  # the second task has one wording
    assert [source for source, _ in asked[3]] == [
        "Half of it.\n\n2", "Half of it.\n\n12",
    ] and asked[3][0][1] == {"answer": "1"}


def test_tasks_of_the_world_are_ranked(monkeypatch):
    rows = []
    monkeypatch.setattr(
        study_of, "answer_score",
        lambda model, tokenizer, some, max_new_tokens: rows.extend(row for _, row in some) or 0.0,
    )
    prompt_scores(None, None, micro_tasks("combination", 1)[:2])
    assert len(rows) == 8 and all(row["answer"] in row["options"] for row in rows)


# Studies

@pytest.fixture(scope="module")
def runs(tmp_path_factory): return tmp_path_factory.mktemp("t0")


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_runs(name, runs):
    record = reproduce(STUDIES[name], runs, seeds=1, workers=1, scale=0.003, quiet=True)
    assert [run["arm"] for run in record["runs"]] == list(STUDIES[name].arms)
    for run in record["runs"]:
        assert 0 <= run["low"] <= run["median"] <= run["high"] <= 100 and run[
            "iqr"
        ] == pytest.approx(run["high"] - run["low"], abs=0.02)
        assert {kind: len(scores) for kind, scores in run["scores"].items()} == {
            "argument": 4, "combination": 4, "category": 4,
        }
    check_that_no_run_is_repeated(STUDIES[name], runs, record, scale=0.003)


def test_studies_share_their_runs():
    assert {arm for study in STUDIES.values() for arm in study.arms} == set(ARMS) and len(
        ARMS
    ) < sum(len(study.arms) for study in STUDIES.values())
    assert {study.folder for study in STUDIES.values()} == {"t0"}


def test_an_untuned_arm_trains_nothing_and_a_share_takes_some_data_sets(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(study_of, "fit", lambda *args: seen.append("fit"))
    monkeypatch.setattr(
        study_of, "prompted_pairs",
        lambda tasks, n, p, seed: seen.append((sorted(t.name for t in tasks), n, p)) or [],
    )
    for arm in ("untuned", "a quarter of the data sets", "half of the data sets", "3 prompts"):
        run_t0(tmp_path, 0, 0.01, "micro", "micro", **ARMS[arm])
    (quarter, n, p), half, whole = [call for call in seen if call != "fit"]
    assert seen.count("fit") == 3 and (n, p) == (BATCH * STEPS // 100, "original")
    assert [len(quarter), len(half[0]), len(whole[0])] == [172, 344, 689] and set(quarter) < set(
        half[0]
    ) < set(whole[0])


def _small_world(folder, change):
    "Write every fortieth task of each split to a folder, changed in some way."
    (folder / "splits" / "default").mkdir(parents=True)
    (folder / "tasks").mkdir()
    for split in ("train", "test"):
        tasks = [change(t) for t in micro_tasks(split, 4)[::40]]
        for t in tasks: write_task(t, folder / "tasks" / f"{t.name}.json")
        names = "".join(f"{t.name}\n" for t in tasks)
        (folder / "splits" / "default" / f"{split}_tasks.txt").write_text(names)
    return str(folder)


def test_tasks_with_one_wording_can_only_be_counted(tmp_path):
    one = _small_world(tmp_path / "world", lambda t: replace(t, definition=t.definition[:1]))
    for arm in ("1 prompt", "2 prompts", "3 prompts and 1 turned"):
        with pytest.raises(TaskError, match="one wording a task.*t0-datasets"):
            run_t0(tmp_path / "run", 0, 0.003, one, "micro", **ARMS[arm])
    result = run_t0(tmp_path / "run", 0, 0.003, one, "micro", **ARMS["half of the data sets"])
    assert {kind: len(scores) for kind, scores in result["scores"].items()} == {"unseen": 1}


def test_a_world_of_files_is_as_good_as_a_generated_one(tmp_path):
    same = _small_world(tmp_path / "world", lambda t: t)
    result = run_t0(tmp_path / "run", 0, 0.003, same, "micro", **ARMS["2 prompts"])
    assert {kind: len(scores) for kind, scores in result["scores"].items()} == {"unseen": 4}


def test_real_tasks_are_scored_by_rouge(few_real_tasks, tmp_path):
    tasks = load_tasks(few_real_tasks, None, 1)
    model = tiny_t5(tmp_path / "t5", [t.definition[0] for t in tasks])
    for arm in STUDIES["t0-datasets"].arms:
        result = run_t0(tmp_path / arm, 0, 0.0005, str(few_real_tasks), model, **ARMS[arm])
        assert 0 <= result["median"] <= 100 and set(result["scores"]) == {"unseen"}


def test_tuning_makes_right_answers_likelier_in_a_wording_that_no_training_has_seen(tmp_path):
    "What the studies need to be more than noise."
    model, tokenizer = load_model("micro", device="cpu")
    sets = [prompted(t) for t in micro_tasks("test", 1)]
    asked = [encode_row(templates[-1], row) for templates, rows in sets for row in rows]
    sources, targets = ([row[side] for row in asked] for side in ("inputs", "targets"))
    batch = dict(tokenizer(sources, padding=True, return_tensors="pt"))
    ids = tokenizer(text_target=targets, padding=True, return_tensors="pt")["input_ids"]
    batch["labels"] = ids.masked_fill(ids == tokenizer.pad_token_id, -100)
    def loss():
        with torch.no_grad(): return model(**batch).loss.item()
    before = loss()
    fit(model, tokenizer, prompted_pairs(micro_tasks("train", 4), 30 * BATCH), tmp_path, 0, BATCH)
    assert loss() < 0.8 * before


@pytest.mark.parametrize("name", STUDIES)
def test_the_page_agrees_with_the_record(name):
    record, printed, lines = record_and_page(STUDIES[name], NOTEBOOK)
    assert f"{name}: the saved record" in printed
    for arm in STUDIES[name].arms:
        median = interval([run["median"] for run in record["runs"] if run["arm"] == arm])
        assert any(line.startswith(f"| {arm} | {median} |") for line in lines), (arm, median)
