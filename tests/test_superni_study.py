"""The studies of Super-NaturalInstructions, in English and in another language: what is asked is
new in one sense, arms share their questions, every study runs, and the page says what the records
say."""
import random
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import check_claims_of_page, check_that_no_run_is_repeated, record_and_page, tiny_t5

import instop_nb.superni_study as study_of
import instop_nb.xlingual_study as other
from instop_nb.claims import read_claims
from instop_nb.core import TaskError
from instop_nb.metrics import score
from instop_nb.microworld import TIERS, micro_tasks, novelty, tiers_of
from instop_nb.models import load_model
from instop_nb.natinst import MATRIX, sources
from instop_nb.operations import is_held_out, wordings
from instop_nb.study import reproduce
from instop_nb.superni_study import (
    ARMS, BATCH, HEURISTICS, LIMIT, STEPS, STUDIES, copied_answers, drawn_rows, in_turn, laid_out,
    numbered, run_superni, tier_scores, with_instances, worlds,
)
from instop_nb.tables import by_arm, interval, read_record
from instop_nb.tasks import Instance, Task, load_tasks, write_task
from instop_nb.words import FORMS, KINDS, WORDS
from instop_nb.xlingual_study import (
    NOUNS, finnish, in_zor, needs_meaning, run_finnish, run_xlingual,
)

PAGES = Path(__file__).resolve().parent.parent / "nbs" / "3_studies"
NOTEBOOK = PAGES / "35_superni_study.ipynb"
RECORDED = ("superni-bounds", "superni-encodings", "superni-tasks", "superni-instances")
ALL = STUDIES | other.STUDIES


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    "A T5 of random weights with the course's tokenizer, where only the way of things is tested."
    return tiny_t5(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory): return tmp_path_factory.mktemp("superni")


# Tasks

@pytest.mark.parametrize("seed", range(3))
def test_each_tier_is_new_in_its_own_sense(seed):
    world = worlds("micro", seed)
    assert [*world] == ["train", *TIERS[:3]]
    for tier, tasks in world.items():
        assert {novelty(t.name) for t in tasks} == {tier}
        assert len({t.name for t in tasks}) == len(tasks) == (689 if tier == "train" else 40)
    assert {t.name for t in world["category"]} != {t.name for t in worlds("micro", 9)["category"]}


def test_categories_come_in_turn():
    tasks = [Task(f"{c}{i}", ["a"], categories=[c]) for c in "ab" for i in range(5)]
    tasks += [Task("c0", ["a"], categories=["c"])]
    counts = Counter(t.category for t in in_turn(tasks, 7, random.Random(0)))
    assert counts == {"a": 3, "b": 3, "c": 1}
    assert in_turn(tasks, 7, random.Random(0)) != in_turn(tasks, 7, random.Random(1))


def test_the_tasks_of_a_folder(tmp_path):
    (tmp_path / "splits" / "default").mkdir(parents=True)
    (tmp_path / "tasks").mkdir()
    names = {}
    for split in ("train", "test"):
        some = [replace(t, name=f"own_{t.name}") for t in micro_tasks(split, 5)[::20]]
        for t in some: write_task(t, tmp_path / "tasks" / f"{t.name}.json")
        names[split] = {t.name for t in some}
        lines = "".join(f"{name}\n" for name in names[split])
        (tmp_path / "splits" / "default" / f"{split}_tasks.txt").write_text(lines)
    world = worlds(str(tmp_path))
    assert {split: {t.name for t in some} for split, some in world.items()} == names
    for t in world["test"]:
        asked, learned = (with_instances(t, 9, held_out=held) for held in (True, False))
        assert [len(asked.instances), len(learned.instances)] == [2, 3]
        assert asked.instances + learned.instances == t.instances
        assert with_instances(t, 1).instances == learned.instances[:1]


def test_what_is_asked_is_never_trained_on():
    for tasks in worlds("micro").values():
        for t in tasks[:20]:
            assert all(is_held_out(i.input) for i in with_instances(t, 3, 0, True).instances)
            assert not any(is_held_out(i.input) for i in with_instances(t, 3).instances)


# Texts

def test_numbers_tell_tasks_apart_and_say_nothing_else():
    tasks = micro_tasks(None, 1)
    shown = [*map(numbered, tasks)]
    assert len({t.name.split(" ")[1] for t in shown}) == len(tasks) == len(tiers_of())
    for task, named in zip(tasks, shown):
        assert re.fullmatch(r"task \d+( [a-z]+)+", named.name)
        assert named.name.split(" ")[2:] == re.findall("[a-z]+", task.category)
        assert replace(named, name=task.name) == task
    of_file = replace(tasks[0], name="task1146_country_capital")
    assert numbered(of_file) == of_file


@pytest.mark.parametrize("encoding", MATRIX)
def test_no_source_of_the_world_is_cut(encoding):
    _, tokenizer = load_model("micro", device="cpu")
    tasks = [t for some in worlds("micro", 3).values() for t in some[::9]]
    texts = laid_out(tasks, encoding, tokenizer)
    assert texts == [s for t in map(numbered, tasks) for _, s in sources(t, MATRIX[encoding])]
    assert max(map(len, tokenizer(texts)["input_ids"])) < LIMIT / 2


def test_a_limit_takes_bad_examples_and_never_the_question():
    _, tokenizer = load_model("micro", device="cpu")
    tasks = worlds("micro")["combination"][::5]
    texts = laid_out(tasks, "Def+Pos(2)+Neg(2)+Expl", tokenizer, 110)
    assert all(t.count("Positive") > 0 and t.count("Negative") < 2 for t in texts)
    assert all(t.endswith("\nOutput: ") and len(tokenizer(t)["input_ids"]) <= 110 for t in texts)


def test_rows_of_a_training():
    tasks = worlds("micro")["train"]
    rows = drawn_rows(tasks, 1400, 5)
    assert rows == drawn_rows(tasks, 1400, 5) != drawn_rows(tasks, 1400, 6)
    by_category = Counter(t.category for t in rows)
    assert len(by_category) == len({t.category for t in tasks}) and max(by_category.values()) < 45
    assert len({(t.name, t.instances[0].input) for t in rows}) > 1390
    for t in rows[:200]:
        o, (instance,) = tiers_of()[t.name][0], t.instances
        assert o.solve(instance.input.split()) == instance.output[0]
        assert t.definition[0] in wordings(o)
    assert len({wordings(tiers_of()[t.name][0]).index(t.definition[0]) for t in rows}) == 12


@pytest.mark.parametrize("most", [1, 3])
def test_few_instances_come_again(most):
    rows = drawn_rows(worlds("micro")["train"][::100], 90, 0, most)
    seen = Counter((t.name, t.instances[0].input) for t in rows)
    assert max(Counter(name for name, _ in seen).values()) == most and len(rows) == 90


# Runs

@pytest.fixture
def noted(monkeypatch):
    "What every run learns and is asked, without a model."
    notes = {"learned": [], "asked": []}
    def learn(rows, encoding, *rest):
        notes["learned"].append((rows, encoding))
        return None, None
    def answer(encoding, tasks, reader):
        notes["asked"].append((encoding, tasks))
        return copied_answers("copy input", tasks)
    for module in (study_of, other):
        monkeypatch.setattr(module, "tuned_on", learn)
        monkeypatch.setattr(module, "answered_in", answer)
    return notes


def test_arms_are_asked_the_same(noted):
    def new_tasks(arm, seed=1):
        run_superni("run", seed, .05, "micro", "micro", **ARMS[arm])
        return [tasks for _, tasks in noted["asked"][-3:]]
    asked = new_tasks("tuned")
    for arm in ("8 tasks", "trained on it", "untuned", "no instruction", "2 instances"):
        assert new_tasks(arm) == asked
    assert not any(tasks in asked for tasks in new_tasks("tuned", 2))


def test_the_tasks_that_were_trained_are_asked_about_other_lists(noted):
    run_superni("run", 0, .2, "micro", "micro", **ARMS["8 tasks"])
    learned = {t.name for t in noted["learned"][-1][0]}
    _, trained = noted["asked"][0]
    assert len(noted["asked"]) == 4 and {t.name for t in trained} == learned
    assert all(is_held_out(i.input) for t in trained for i in t.instances)
    run_superni("run", 0, .2, "micro", "micro", **ARMS["untuned"])
    assert len(noted["asked"]) == 4 + 3, "who learns nothing is asked for nothing learned"


def test_what_arms_learn(noted):
    def learned(arm, seed=0):
        run_superni("run", seed, .2, "micro", "micro", **ARMS[arm])
        return noted["learned"][-1]
    rows, encoding = learned("tuned")
    assert encoding == "Def" and len(rows) == BATCH * STEPS // 5
    assert {novelty(t.name) for t in rows} == {"train"}
    assert learned("no instruction")[1] == "nothing" and learned("untuned") == ([], "Def")
    few, again = ({t.name for t in learned("8 tasks", seed)[0]} for seed in (0, 1))
    assert len(few) == len(again) == 8 and few != again
    rows, _ = learned("2 instances")
    seen = Counter(name for name, _ in {(t.name, t.instances[0].input) for t in rows})
    assert max(seen.values()) == 2
    asked = {t.name for _, tasks in noted["asked"][-3:] for t in tasks}
    rows, _ = learned("trained on it")
    assert {t.name for t in rows} <= asked
    assert not any(is_held_out(t.instances[0].input) for t in rows)


def test_the_matrix_has_ten_rows_and_ten_columns(noted):
    study = STUDIES["superni-encodings"]
    assert [arm["encoding"] for arm in study.arms.values()] == [*MATRIX]
    result = run_superni("run", 0, .05, "micro", "micro", **study.arms["train Pos(1)"])
    *asked, (last, trained) = noted["asked"]
    assert [encoding for encoding, _ in asked] == [*MATRIX] and last == "Pos(1)"
    assert noted["learned"][0][1] == "Pos(1)" and {*result} == {*MATRIX, "own", "mean", "trained"}
    for _, tasks in asked:
        assert tasks == asked[0][1] and {novelty(t.name) for t in tasks} == {"category"}
    assert {novelty(t.name) for t in trained} == {"train"}


def test_scaling_arms_differ_in_one_thing():
    for name, setting in (("superni-tasks", "n_tasks"), ("superni-instances", "n_instances")):
        arms = [dict(arm) for arm in STUDIES[name].arms.values()]
        assert len({arm.pop(setting, None) for arm in arms}) == len(arms)
        assert all(arm == arms[0] for arm in arms)


@pytest.mark.parametrize("heuristic", HEURISTICS)
def test_heuristics_answer_all_questions(heuristic):
    result = run_superni("run", 0, 1.0, "micro", "micro", learn=heuristic)
    for tier, tasks in list(worlds("micro", 0).items())[1:]:
        rows = [row for t in tasks
                for row in HEURISTICS[heuristic](with_instances(t, 2, "0 asked", True))]
        expected = score(rows)["overall"]
        assert len(rows) == 80 and result[tier] == round(expected["exact_match"], 2)
        assert result[f"{tier} rougeL"] == round(expected["rougeL"], 2)


def test_each_action_has_a_score():
    rows = [{"task": "t", "category": c, "prediction": said, "references": ["fox"]}
            for c, said in (("drop: all", "fox"), ("drop: a place", "hen"), ("turn: all", "fox"))]
    found = tier_scores(rows, "category")
    assert (found["category: drop"], found["category: turn"]) == (50, 100)
    assert found["category"] == 66.67


@pytest.mark.parametrize("name", [*STUDIES, "superni-xlingual"])
def test_every_study_runs(name, runs, tiny):
    arms = [*ALL[name].arms.items()]
    few = {arm: {**s, "ask": ["Def", s["encoding"]]} if "ask" in s else s
           for arm, s in [*arms[:1], arms[2]]}
    study = replace(ALL[name], arms=few)
    folder = runs / study.folder
    record = reproduce(study, folder, seeds=1, workers=1, scale=0.01, model=tiny, quiet=True)
    assert [run["arm"] for run in record["runs"]] == list(few)
    for run in record["runs"]:
        assert all(0 <= v <= 100 for k, v in run.items() if k not in ("arm", "seed", "cpu_seconds"))
    check_that_no_run_is_repeated(study, folder, record, scale=0.01, model=tiny)


def test_studies_run_on_real_tasks(few_real_tasks, tmp_path):
    tasks = load_tasks(few_real_tasks, None, 2)
    model = tiny_t5(tmp_path / "t5", [t.definition[0] for t in tasks])
    for arm in ("tuned", "trained on it", "copy example", "8 tasks", "2 instances"):
        result = run_superni(tmp_path / arm, 0, 0.02, str(few_real_tasks), model, **ARMS[arm])
        assert {"test", "test rougeL"} < {*result} and "category" not in result
    matrix = run_superni(
        tmp_path / "matrix", 0, 0.02, str(few_real_tasks), model, encoding="Task ID",
        ask=("Def", "Task ID"),
    )
    assert {*matrix} == {"Def", "Task ID", "own", "mean", "trained"}


# Another language

def test_words_of_a_task_in_zor():
    back = {z: w for w, z in FORMS["zor"].items()}
    for t in worlds("micro")["category"]:
        english = with_instances(t, 2)
        moved = in_zor(english)
        for a, b in zip(english.instances + english.positive, moved.instances + moved.positive):
            assert not {*b.input.split()} & {*WORDS}
            assert [back[w] for w in b.input.split()] == a.input.split()
        assert moved.definition == english.definition
        assert not re.search("|".join(KINDS), str(in_zor(english, told=True).definition))
    assert not {*NOUNS.values()} & {*FORMS["zor"].values(), *FORMS["mib"].values(), *WORDS}


def test_answers_in_zor():
    task = Task("t", ["Drop the fruits."], instances=[Instance("1", "fox fig", ["fox fruit star"])])
    fox = FORMS["zor"]["fox"]
    assert in_zor(task).instances[0].output == [f"{fox} fruit star"]
    assert in_zor(task, told=True).instances[0].output == [f"{fox} {NOUNS['fruit']} star"]
    assert in_zor(task, told=True).definition == [f"Drop the {NOUNS['fruit']}s."]


def test_what_needs_no_meaning_is_the_same_with_other_words():
    "Other words in the places of those of a list change nothing but the words of the answer."
    rng = random.Random(0)
    lists = [rng.sample(WORDS, 6) for _ in range(20)]
    other_words = dict(zip(WORDS, rng.sample(WORDS, 40)))
    for t in micro_tasks("category", 1)[::3] + micro_tasks("train", 1)[::5]:
        if re.search("_(translate|say)_", t.name): continue
        o = tiers_of()[t.name][0]
        same = all(
            o.solve([other_words[w] for w in words])
            == " ".join(other_words.get(w, w) for w in o.solve(words).split())
            for words in lists
        )
        assert same != needs_meaning(t), t.name


def test_languages_share_their_tasks(noted):
    for arm in ("tuned on English", "half in zor", "untuned"):
        run_xlingual("run", 0, .1, "micro", "micro", **other.STUDIES["superni-xlingual"].arms[arm])
    asked = [tasks for _, tasks in noted["asked"]]
    assert len(asked) == 15 and asked[:5] * 3 == asked
    for english, zor in ((0, 2), (1, 3)):
        assert asked[zor] == [*map(in_zor, asked[english])]
    assert [{needs_meaning(t) for t in some} for some in asked[:2]] == [{True}, {False}]
    assert all(novelty(t.name) == "category" for t in asked[0] + asked[1])
    assert not any(re.search("_(translate|say)_", t.name) for some in asked for t in some)
    assert all(re.search("|".join(NOUNS.values()), t.definition[0]) for t in asked[4])


def test_half_of_the_tasks_are_learned_in_zor(noted):
    run_xlingual("run", 0, .25, "micro", "micro", zor=.5)
    (rows, _), = noted["learned"]
    strange = {t.name for t in rows if not {*t.instances[0].input.split()} <= {*WORDS}}
    english = {t.name for t in rows if {*t.instances[0].input.split()} <= {*WORDS}}
    assert not strange & english and .4 < len(strange) / len(strange | english) < .6
    told = [t for t in rows if re.search("|".join(NOUNS.values()), t.definition[0])]
    assert {t.name for t in told} < strange and {novelty(t.name) for t in rows} == {"train"}


def test_the_invented_track_says_what_files_can_do():
    with pytest.raises(TaskError, match="superni-finnish --data DIR"):
        run_xlingual("run", 0, .01, "tasks", "micro")


def test_without_translated_tasks_the_study_says_what_is_missing(tmp_path):
    with pytest.raises(TaskError, match="tasks_fi"):
        reproduce(ALL["superni-finnish"], tmp_path, seeds=1, workers=1, quiet=True)
    (tmp_path / "world").mkdir()
    with pytest.raises(TaskError, match="give --data FOLDER"): finnish(str(tmp_path / "world"))


def test_scores_count_the_tokens_of_the_tokenizer_that_is_given(tmp_path):
    (tmp_path / "tasks_fi").mkdir()
    task = replace(micro_tasks(None, 2)[0],
                   instances=[Instance("1", "sota alkoi", ["rauha alkaa"])])
    write_task(task, tmp_path / "tasks_fi" / "t.json")
    words = tiny_t5(tmp_path / "words", ["sota alkoi rauha alkaa"] * 50)
    scores = {
        tokens: run_finnish(tmp_path / "run", 0, 1.0, str(tmp_path), "micro", "copy input", tokens)
        for tokens in (None, words)
    }
    assert scores[words]["tokens"] == words and scores[None]["tokens"] == "micro"
    assert scores[words]["rougeL"] == 0 < scores[None]["rougeL"]


def test_the_finnish_study_runs(real_tasks, tmp_path):
    model = tiny_t5(tmp_path / "t5", [t.definition[0] for t in load_tasks(real_tasks, "train", 1)])
    record = reproduce(
        ALL["superni-finnish"], tmp_path, seeds=1, workers=1, scale=0.05, data=str(real_tasks),
        model=model, quiet=True,
    )
    assert [run["arm"] for run in record["runs"]] == [*HEURISTICS, "tuned on English"]
    assert all(run["n"] == 24 and 0 <= run["rougeL"] <= 100 for run in record["runs"])


# Page and records

@pytest.mark.parametrize("name", RECORDED)
def test_the_page_agrees_with_the_record(name):
    record, printed, lines = record_and_page(STUDIES[name], NOTEBOOK)
    check_claims_of_page(name, record, printed, lines)


@pytest.mark.parametrize("tier", TIERS[:3])
def test_the_table_agrees_with_the_record(tier):
    record, _, lines = record_and_page(STUDIES["superni-bounds"], NOTEBOOK)
    for arm, values in by_arm(record, tier).items():
        assert any(line.startswith(f"| {arm} |") and f"| {interval(values)} |" in line
                   for line in lines), arm


def test_records_are_of_the_arms_and_seeds_that_the_studies_have():
    for name in RECORDED:
        record = read_record(name)
        assert Counter(run["arm"] for run in record["runs"]) == dict.fromkeys(
            ALL[name].arms, ALL[name].seeds
        )


def test_claims_name_arms_that_there_are():
    claims = [c for c in read_claims() if c.study.startswith("superni-")]
    assert {c.study for c in claims} == {*STUDIES, "superni-xlingual"}
    for c in claims: assert {c.better, c.worse} <= {*ALL[c.study].arms}, c.says


def test_claims_of_the_other_language_name_numbers_that_there_are():
    found = run_xlingual("run", 0, .05, "micro", "micro", learn="copy input")
    for c in read_claims():
        if c.study == "superni-xlingual": assert c.metric in found


def test_floor_and_ceiling_leave_room():
    "A study whose ceiling is at its floor is no study."
    found = by_arm(read_record("superni-bounds"), "category")
    floor = max(max(found[arm]) for arm in (*HEURISTICS, "untuned", "no instruction"))
    assert min(found["trained on it"]) > floor + 40
