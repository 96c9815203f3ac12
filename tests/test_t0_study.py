"""T0's studies: what is asked as new is never trained, arms share rows and questions, options tell
nothing, every study runs, and the page says what the records say."""
import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import check_that_no_run_is_repeated, record_and_page, tiny_t5

import instop_nb.t0_study as study_of
from instop_nb.claims import findings, read_claims
from instop_nb.core import TaskError
from instop_nb.microworld import TIERS, micro_tasks, novelty, solve, tiers_of
from instop_nb.models import load_model
from instop_nb.operations import operations, wordings
from instop_nb.study import reproduce
from instop_nb.t0_study import (
    ARMS, BATCH, P, STEPS, STUDIES, TURNED, choose_prompts, data_sets, prompt_scores,
    prompted_pairs, prompts_of, run_t0, sibling_options, split_of, t0_tasks,
)
from instop_nb.tables import interval, read_record
from instop_nb.tasks import Instance, Task, load_tasks, write_task

NOTEBOOK = Path(__file__).resolve().parent.parent / "nbs" / "3_studies" / "33_t0_study.ipynb"
TASK = Task(
    "half", ["Halve it.", "Give a half.", "One half?", "Half of it."],
    instances=[Instance("half-0", "2", ["1"]), Instance("half-1", "12", ["6"])],
    categories=["Numbers"],
)


def said_in(sources):
    "Return the definitions that are shown."
    starts = [source.split("\n\n")[0] for source in sources if source.startswith("Definition: ")]
    return {start.removeprefix("Definition: ") for start in starts}


# What is held out

@pytest.mark.parametrize("seed", range(3))
def test_held_out_tasks_are_of_no_data_set_and_differ_by_seed(seed):
    train, asked = t0_tasks("micro", seed, 1)
    plan, names = split_of(seed), {t.name for t in train}
    assert [*asked] == [*TIERS[:3]] and plan.unasked.count("size") == 1
    for tier, tasks in asked.items():
        assert {novelty(t.name, plan) for t in tasks} == {tier}
        assert not names & {t.name for t in tasks} and len({t.name for t in tasks}) == len(tasks)
    assert not {t.category for t in asked["category"]} & {t.category for t in train}
    other = t0_tasks("micro", seed + 1, 1)[1]
    assert {t.name for t in other["category"]} != {t.name for t in asked["category"]}


def test_tasks_are_drawn_of_each_category_in_turn():
    tasks = micro_tasks("argument", 1)
    n = len({t.category for t in tasks})
    def some(seed, n): return study_of._some_of_each(tasks, seed, n)
    assert len({t.category for t in some(0, n)}) == n
    assert max(Counter(t.category for t in some(0, n + 9)).values()) == 2
    assert some(1, 9) != some(2, 9)


# Prompts

@pytest.mark.parametrize("p", P)
def test_a_wording_that_is_asked_as_new_is_never_trained(p):
    train, asked = t0_tasks("micro", 4, 1)
    said = said_in(source for source, _ in prompted_pairs(train, 3000, p, seed=4))
    new = {text for o in operations() for group in ("told", "new") for text in wordings(o, group)}
    assert not said & new and (p == 0) == (not said)
    assert all({*prompts_of(t, "never asked")} <= new for tasks in asked.values() for t in tasks)


def test_known_wordings_are_asked_of_other_data_sets_in_training():
    train, asked = t0_tasks("micro", 0, 1)
    o = {o.name: o for o in operations()}[asked["category"][0].name]
    places = [wordings(o).index(text) for text in prompts_of(asked["category"][0], "known")]
    for p in (1, 12):
        chosen = {t.definition.index(text) for t in train for text in choose_prompts(t, p)}
        assert {*places} <= chosen and len(places) == 6


def test_prompts_differ_between_data_sets_or_are_the_same_for_all():
    tasks = t0_tasks("micro", 0, 1)[0][:40]
    def places(p, seed=0): return {t.definition.index(choose_prompts(t, p, seed)[0]) for t in tasks}
    assert len(places(1)) > 8 and len(places("one for all")) == 1
    assert len({min(places("one for all", seed)) for seed in range(9)}) > 3
    assert choose_prompts(tasks[0], "all")[:12] == choose_prompts(tasks[0], 12)


def test_of_few_wordings_all_are_taken_and_another_p_is_an_error():
    assert [len(choose_prompts(TASK, p)) for p in P] == [1, 1, 1, 4, 5]
    with pytest.raises(TaskError, match="p: found 'many'; choose from"):
        choose_prompts(TASK, "many")


# Pairs

def test_a_turned_prompt_asks_for_a_request():
    pairs = prompted_pairs([TASK], 500, "all")
    turned = [(source, target) for source, target in pairs if TURNED in source]
    assert 50 < len(turned) < 150 and {target for _, target in turned} == {*TASK.definition}
    assert all("2\n1" in source or "12\n6" in source for source, _ in turned)
    assert {target for source, target in pairs if TURNED not in source} == {"1", "6"}


@pytest.mark.parametrize("p", P[:4])
def test_arms_are_trained_on_the_same_rows(p):
    train = t0_tasks("micro", 2, 1)[0]
    def rows(pairs): return [(source[source.index("Now complete"):], y) for source, y in pairs]
    pairs = prompted_pairs(train, 300, p, seed=2)
    assert rows(pairs) == rows(prompted_pairs(train, 300, 12, seed=2))
    assert rows(pairs) != rows(prompted_pairs(train, 300, p, seed=3))


def test_categories_weigh_the_same():
    train = t0_tasks("micro", 3, 1)[0]
    category = {text: t.category for t in train for text in t.definition}
    counts = Counter(category[text] for source, _ in prompted_pairs(train, 4000, seed=3)
                     for text in said_in([source]))
    share = 4000 / len({t.category for t in train})
    assert len(counts) == len({t.category for t in train})
    assert all(share / 2 < n < 2 * share for n in counts.values())


def test_a_mixture_of_all_families_has_as_many_data_sets_as_one_of_few():
    def families(tasks): return {t.category.split(":")[0] for t in tasks}
    for seed in range(4):
        train = t0_tasks("micro", seed, 1)[0]
        few, half, all_of_them = (data_sets(train, share, seed=seed) for share in (1/8, 1/2, 1))
        mixed = data_sets(train, 1/8, mixed=True, seed=seed)
        assert len(mixed) == len(few) and families(few) < families(half) < families(train)
        assert len(families(few)) == 2 < len(families(mixed)) and all_of_them == train
        assert all(t in few for t in train if t.category.split(":")[0] in families(few))


# Options

def _answers_of(text, group, value):
    words = text.split()
    return {solve(name, text) for name, (o, _) in tiers_of().items()
            if group(o) == value and o.fits(words)}


def test_the_right_answer_is_an_option_and_its_place_says_nothing():
    asked = [(i.output[0], sibling_options(t.name, i.input))
             for t in micro_tasks("test", 6) for i in t.instances]
    assert all(right in options and len({*options}) == len(options) and 2 <= len(options) <= 4
               for right, options in asked)
    four = [options.index(right) for right, options in asked if len(options) == 4]
    assert len(four) > 0.9 * len(asked)
    assert all(abs(four.count(k) / len(four) - 0.25) < 0.06 for k in range(4))


@pytest.mark.parametrize("tier", TIERS[:4])
def test_wrong_options_are_answers_of_siblings_that_fit(tier):
    for task in random.Random(0).sample(micro_tasks(tier, 2), 12):
        text, o = task.instances[0].input, tiers_of()[task.name][0]
        options = sibling_options(task.name, text)
        if o.options:
            assert sorted(options) == sorted(o.options)
            continue
        near = _answers_of(text, lambda o: o.category, task.category)
        action = task.category.split(":")[0]
        near_or_far = _answers_of(text, lambda o: o.category.split(":")[0], action)
        assert len({*options} & near) == min(4, len(near)), "siblings come before others"
        assert {*options} <= near_or_far


# Scores

def test_each_prompt_is_asked_for_the_same_rows_and_scored_apart(monkeypatch):
    tasks, asked = t0_tasks("micro", 0, 1)[1]["category"][:4], []
    def spy(model, tokenizer, sources, max_new_tokens):
        asked.extend(sources)
        return [tasks[k // 7].instances[0].output[0] if k % 7 == 2 else "" for k in range(28)]
    monkeypatch.setattr(study_of, "answers", spy)
    def first(model, tokenizer, sources, options): return [0] * len(sources), None
    monkeypatch.setattr(study_of, "rank_classify", first)
    scores = prompt_scores(None, None, tasks, "never asked")
    assert scores["written"] == [0, 0, 100, 0, 0, 0, 0] and len({*scores["rank"]}) == 1
    right = [sibling_options(t.name, t.instances[0].input)[0] == t.instances[0].output[0]
             for t in tasks[::2]]
    assert scores["rank"][0] == 50 * sum(right)
    assert [sum(t.instances[0].input in source for source in asked) for t in tasks] == [7] * 4
    assert said_in(asked) == {text for t in tasks for text in prompts_of(t, "never asked")}


def test_examples_are_shown_or_nothing_is(monkeypatch):
    tasks, asked = t0_tasks("micro", 0, 1)[1]["argument"][:2], []
    def spy(model, tokenizer, sources, max_new_tokens): asked.append(sources); return sources
    monkeypatch.setattr(study_of, "answers", spy)
    monkeypatch.setattr(study_of, "rank_classify", lambda *given: ([0] * len(given[2]), None))
    prompt_scores(None, None, tasks, n_pos=3)
    scores = prompt_scores(None, None, tasks, blank=True)
    assert all(tasks[0].positive[2].input in source for source in asked[0][:6])
    assert len(asked[1]) == 2 and not said_in(asked[1]) and len(scores["written"]) == 1


def test_median_and_iqr():
    assert study_of._over_prompts({"a": [0, 10, 20, 30, 100], "b": [5]}) == {
        "a": 20, "a, iqr": 20, "b": 5, "b, iqr": 0,
    }


# Studies

@pytest.fixture(scope="module")
def runs(tmp_path_factory): return tmp_path_factory.mktemp("t0")


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_runs(name, runs):
    record = reproduce(STUDIES[name], runs, seeds=1, workers=1, scale=0.05, quiet=True)
    assert [run["arm"] for run in record["runs"]] == list(STUDIES[name].arms)
    for run in record["runs"]:
        places = [f"{tier}, {group}" for tier in TIERS[:3] for group in study_of.ASKED_WITH]
        for metric in [*places, *(f"rank, {place}" for place in places)]:
            scores, number = run["prompts"][metric], 7 if "never" in metric else 6
            assert len(scores) == (1 if run["arm"] == "no instruction" else number)
            assert min(scores) <= run[metric] <= max(scores)
            assert 0 <= run[f"{metric}, iqr"] <= max(scores) - min(scores)
    check_that_no_run_is_repeated(STUDIES[name], runs, record, scale=0.05)


def test_studies_share_their_runs():
    assert {arm for study in STUDIES.values() for arm in study.arms} == {*ARMS}
    assert len(ARMS) < sum(len(study.arms) for study in STUDIES.values())
    assert {study.folder for study in STUDIES.values()} == {"t0"}


def test_what_an_arm_trains_on(tmp_path, monkeypatch):
    seen, names = {}, {}
    monkeypatch.setattr(study_of, "load_model", lambda *args, **kwargs: (None, None))
    monkeypatch.setattr(study_of, "prompt_scores", lambda *args: {"written": [1.0]})
    monkeypatch.setattr(study_of, "fit", lambda *args: None)
    def spy(tasks, n, *_): seen.update(n=n, names={t.name for t in tasks})
    monkeypatch.setattr(study_of, "prompted_pairs", spy)
    for arm, settings in ARMS.items():
        seen.clear()
        run_t0(tmp_path, 0, 1, "micro", "micro", **settings)
        names[arm] = seen.get("names")
        assert seen.get("n") == (None if "untuned" in arm else BATCH * STEPS)
    everything = names["12 prompts (T0++)"]
    assert names["T0"] < names["T0+"] < everything == names["1 prompt"]
    assert len(names["as many as T0, of all families"]) == len(names["T0"])
    held = {t.name for tasks in t0_tasks("micro", 0, 1)[1].values() for t in tasks}
    assert names["trained on it"] - everything == held


def test_the_ceiling_is_trained_on_other_rows_than_it_is_asked():
    for tasks in t0_tasks("micro", 0, 1)[1].values():
        for task, other in zip(tasks, study_of._with_other_rows("micro", tasks, 5, 0)):
            assert task.name == other.name and len(other.instances) == 5
            assert task.instances[0].input not in {i.input for i in other.instances}


def _small_world(folder, change):
    "Write every fortieth task of each split to a folder, changed in some way."
    (folder / "splits" / "default").mkdir(parents=True)
    (folder / "tasks").mkdir()
    for split in ("train", "test"):
        tasks = [change(t) for t in micro_tasks(split, 8)[::40]]
        for t in tasks: write_task(t, folder / "tasks" / f"{t.name}.json")
        names = "".join(f"{t.name}\n" for t in tasks)
        (folder / "splits" / "default" / f"{split}_tasks.txt").write_text(names)
    return str(folder)


def test_tasks_with_one_wording_can_only_be_counted(tmp_path):
    one = _small_world(tmp_path / "world", lambda t: replace(t, definition=t.definition[:1]))
    for arm in ("1 prompt for all", "1 prompt", "12 prompts and 1 turned"):
        with pytest.raises(TaskError, match="one wording a task.*t0-datasets"):
            run_t0(tmp_path / "run", 0, 0.03, one, "micro", **ARMS[arm])


def test_real_tasks_are_scored_by_rouge(few_real_tasks, tmp_path):
    tasks = load_tasks(few_real_tasks, None, 1)
    model = tiny_t5(tmp_path / "t5", [t.definition[0] for t in tasks])
    for arm in STUDIES["t0-datasets"].arms:
        result = run_t0(tmp_path / arm, 0, 0.03, str(few_real_tasks), model, **ARMS[arm])
        assert [*result["prompts"]] == ["unseen, known"] and 0 <= result["unseen, known"] <= 100
    held = study_of._with_other_rows(str(few_real_tasks), [], 8, 0)
    assert held and {len(t.instances) for t in held} == {4}


def test_tuning_makes_it_obey_wordings_that_no_training_has_asked(tmp_path):
    "What the studies need to be more than noise."
    model, tokenizer = load_model("micro", device="cpu")
    train, asked = t0_tasks("micro", 0, 1)
    def median():
        scores = prompt_scores(model, tokenizer, asked["category"], "never asked")
        return study_of._over_prompts(scores)["written"]
    before = median()
    study_of.fit(model, tokenizer, prompted_pairs(train, STEPS * BATCH), tmp_path, 0, BATCH)
    assert before < 10 and median() > 30


# Records

@pytest.mark.parametrize("name", STUDIES)
def test_claims_name_arms_and_metrics_that_exist(name):
    claims, record = [c for c in read_claims() if c.study == name], read_record(name)
    assert claims and record["world"] == 2
    for claim in claims:
        assert {claim.better, claim.worse} <= {*STUDIES[name].arms}
        assert all(claim.metric in run for run in record["runs"])


@pytest.mark.parametrize("name", STUDIES)
def test_the_page_agrees_with_the_record(name):
    record, printed, lines = record_and_page(STUDIES[name], NOTEBOOK)
    assert f"{name}: the saved record" in printed
    for arm in STUDIES[name].arms:
        median = interval([run["category, never asked"] for run in record["runs"]
                           if run["arm"] == arm])
        assert any(line.startswith(f"| {arm} | {median} |") for line in lines), (arm, median)
    for found in findings(record, [c for c in read_claims() if c.study == name]):
        start = f"| {found.claim.says} |"
        assert any(line.startswith(start) and line.endswith(f"| {found.verdict} |")
                   for line in lines), start


def test_shared_runs_stand_alike_in_all_records():
    runs = {}
    for name in STUDIES:
        for run in read_record(name)["runs"]:
            key, text = (run["arm"], run["seed"]), json.dumps(run)
            assert runs.setdefault(key, text) == text
