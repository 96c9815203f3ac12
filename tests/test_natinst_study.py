"""The studies of Natural Instructions: every field is true, what is left out stays out, every study
runs, and the page says what the records say."""
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import check_that_no_run_is_repeated, record_and_page, tiny_t5

from instop_nb.claims import findings, read_claims
from instop_nb.core import TaskError
from instop_nb.metrics import score
from instop_nb.microworld import tiers_of
from instop_nb.models import load_model
from instop_nb.natinst_study import (
    ARMS, DRAWN, ELEMENTS, STUDIES, as_v1, draw_split, own_model, rows_v1, run_natinst,
)
from instop_nb.natinst_v1 import complete_v1, encode_v1, instruction_v1
from instop_nb.operations import WORDINGS, as_sentence
from instop_nb.probes import answer_texts, halves
from instop_nb.seven_fields import EMPHASIS, GROUPS, knowledge, ni_world
from instop_nb.study import reproduce
from instop_nb.tables import interval
from instop_nb.tasks import Example, Instance, Task, load_tasks, write_task
from instop_nb.words import KIND

NOTEBOOK = Path(__file__).resolve().parent.parent / "nbs" / "3_studies" / "34_natinst_study.ipynb"
TASK = Task(
    "half", ["Halve the number, and say nothing else.", "Give one half of it."],
    positive=[Example("4", "2", "Two and two make four")],
    negative=[Example("8", "16", "This is the double.")],
    instances=[Instance("half-0", "2", ["1"]), Instance("half-1", "12", ["6"])],
    categories=["Numbers"],
)
TOLD = {name: o for name, (o, _) in tiers_of().items()}
SAYING = {as_sentence(o.say(i, 0)).lower(): o for o in TOLD.values() if hasattr(o, "selection")
          for i in range(4)}


# The seven fields

@pytest.fixture(scope="module")
def world(): return ni_world(3)


def test_a_draw_has_forty_tasks_of_each_category(world):
    assert Counter(t.category for t in world) == dict.fromkeys(GROUPS, 40)
    assert not [t.name for t in world if "size" in t.name.split("_")[1:2]], "the books tell no size"


def test_seeds_draw_other_tasks_and_other_inputs(world):
    other = {t.name: t for t in ni_world(3, seed=1)}
    both = [t for t in world if t.name in other]
    assert 20 < len(both) < 200
    assert all([i.input for i in t.instances] != [i.input for i in other[t.name].instances]
               for t in both)


def test_what_is_asked_is_never_trained_on(world):
    asked = {i.input for t in ni_world(3, held_out=True) for i in t.instances}
    trained = {i.input for t in world for i in t.instances}
    trained |= {e.input for t in world for e in t.positive + t.negative}
    assert not asked & trained


def test_every_field_says_something_and_answers_are_right(world):
    for t in world:
        fields = (t.title, t.prompt, t.avoid, t.emphasis, *t.definition)
        assert t.schema == "v1" and all(re.search(r"\w\w", text) for text in fields), t.name
        assert len(t.definition) == 1 and "-" not in fields
        solve = TOLD[t.name].solve
        assert all(e.output == solve(e.input.split()) for e in t.positive), t.name
        assert all(e.output != e.suggestion == solve(e.input.split()) for e in t.negative), t.name
        assert all(i.output == [solve(i.input.split())] for i in t.instances), t.name


def test_the_definition_is_a_wording_of_the_operation(world):
    for t in world:
        said = [as_sentence(TOLD[t.name].say(i, j))
                for i in WORDINGS["asked"][0] for j in WORDINGS["asked"][1]]
        assert t.definition[0] in said, t.name


def test_a_prompt_names_no_words_so_that_a_definition_is_needed(world):
    for t in world:
        chosen, changed = TOLD[t.name].chosen, TOLD[t.name].changed
        assert not chosen or chosen in changed or chosen not in t.prompt.split(), t.name
    prompts = Counter(t.prompt for t in world)
    assert len(prompts) < len(world) / 4 and max(prompts.values()) > 10


def test_reasons_name_the_words_that_are_meant(world):
    for t in world:
        for e in t.positive:
            words = e.input.split()
            picked = " ".join(words[n] for n in TOLD[t.name].picked(words))
            assert e.explanation.endswith(f" is {picked}."), t.name


def test_what_is_avoided_is_a_sibling_with_another_answer_that_is_neither_trained_nor_asked(world):
    names = {t.name for t in world}
    for t in world:
        other = SAYING[t.avoid.lower().removeprefix("do not ")]
        assert other.action.name in GROUPS[t.category] and other.name not in names, t.name
        assert t.negative[0].explanation.lower().endswith(t.avoid.lower().removeprefix("do not "))
        for e in t.negative:
            sibling = SAYING[e.explanation.lower().removeprefix("this answers another task: ")]
            assert sibling.solve(e.input.split()) == e.output and sibling.name not in names


def subsequence(some, of):
    rest = iter(of)
    return all(word in rest for word in some)


HOLDS = {
    "Keep the order of the words.": lambda given, said, o: subsequence(said, given),
    "Do not leave out a word.": lambda given, said, o: not Counter(given) - Counter(said),
    "Do not change the other words.": lambda given, said, o: len(said) == len(given) and all(
        a == b for n, (a, b) in enumerate(zip(given, said)) if n not in o.picked(given)),
    "Write only words in zor.": lambda given, said, o: o.changed == "zor" and not {*said} & {*KIND},
    "Write only words in mib.": lambda given, said, o: o.changed == "mib" and not {*said} & {*KIND},
    "Write only one word.": lambda given, said, o: len(said) == 1,
    "Write only a number.": lambda given, said, o: said[0] in "one two three four five six seven",
    "Write only yes or no.": lambda given, said, o: said in (["yes"], ["no"]),
}


def test_the_emphasis_holds_of_every_answer(world):
    assert {t.emphasis for t in world} == {*HOLDS}
    for t in world:
        for i in t.instances:
            given, said = i.input.split(), i.output[0].split()
            assert HOLDS[t.emphasis](given, said, TOLD[t.name]), (t.name, i)
    assert not HOLDS["Keep the order of the words."](["a", "b"], ["b", "a"], None)
    assert not HOLDS["Do not leave out a word."](["a", "b"], ["b"], None)


def test_every_word_of_the_fields_is_a_piece_of_the_vocabulary(world):
    _, tokenizer = load_model("micro", device="cpu")
    def pieces(word): return len(tokenizer.tokenize(f"a {word.strip('.,?:')}")) - 1
    texts = [text for t in world for text in (t.prompt, t.avoid, t.emphasis, *t.definition)]
    texts += [e.explanation for t in world for e in t.positive + t.negative]
    assert {pieces(word) for text in texts for word in text.split()} == {1}
    assert pieces("emphasis") > 1


@pytest.mark.parametrize("name, table", [
    ("micro_say_zor_every_kind_fruit", "zor"), ("micro_translate_mib_a_place_last", "mib"),
    ("micro_drop_every_size_small", "size"), ("micro_drop_every_kind_fruit", "fruit"),
    ("micro_kind_a_place_first", "kinds"), ("micro_drop_a_place_first", "the list"),
])
def test_the_data_set_is_what_must_be_known(name, table):
    assert knowledge(TOLD[name]) == table


def test_every_action_that_is_told_has_a_category_and_an_emphasis():
    actions = {o.action.name for o in TOLD.values() if hasattr(o, "action")}
    assert {*EMPHASIS} == actions - {"size"} == {a for some in GROUPS.values() for a in some}


# Splits

@pytest.mark.parametrize("seed", range(7))
@pytest.mark.parametrize("split, key", [
    ("task", lambda t: t.name), ("dataset", lambda t: t.sources[0]),
    ("category", lambda t: t.category),
])
def test_what_is_left_out_is_not_seen(world, split, key, seed):
    value, seen, unseen = draw_split(world, split, seed)
    assert {key(t) for t in unseen} == {value} and value not in {key(t) for t in seen}
    assert sorted(t.name for t in seen + unseen) == sorted(t.name for t in world)
    drawn = draw_split(world, "task", seed)[0]
    assert drawn in {t.name for t in unseen}, "one task is asked under all three"


def test_seven_seeds_leave_out_every_category_once(world):
    assert {draw_split(world, "category", seed)[0] for seed in range(7)} == {*GROUPS}
    assert len({draw_split(world, "task", seed)[0] for seed in range(0, 70, 7)}) > 5


def test_random_split_leaves_out_two_of_each_category(world):
    unseen = draw_split(world, "random", 1)[2]
    assert Counter(t.category for t in unseen) == dict.fromkeys(GROUPS, 2)


def test_tasks_without_anything_in_common_cannot_be_split():
    with pytest.raises(TaskError, match="share a source"): draw_split([TASK], "dataset")


def test_halves_of_a_folder_share_no_instance(tmp_path):
    tasks = [replace(t, raw={}) for t in ni_world(5)[::40]]
    for t in tasks: write_task(t, tmp_path / f"{t.name}.json")
    training, asking = halves(str(tmp_path), 10, 4)
    assert [t.name for t in training] == [t.name for t in asking]
    assert {len(t.instances) for t in asking} == {2} and {len(t.instances) for t in training} == {3}
    assert not any(
        {i.id for i in a.instances} & {i.id for i in b.instances} for a, b in zip(training, asking)
    )


# Layout

@pytest.mark.parametrize("definition, prompt", [
    ("Halve the number.", "Halve the number"),
    ("First halve it, then double it.", "First halve it"),
    ("Halve it and double it.", "Halve it"),
    ("Is it even?", "Is it even"),
    ("In this task, you get a number. Halve it, please.", "In this task, you get a number."),
])
def test_the_prompt_of_a_file_is_the_first_sentence_or_the_first_clause(definition, prompt):
    assert as_v1(replace(TASK, definition=[definition])).prompt == prompt


def test_a_task_without_bad_examples_has_nothing_to_avoid():
    task = as_v1(replace(TASK, negative=[]))
    assert task.avoid == "-" and "Avoid" not in "".join(
        p.text for p in instruction_v1(task, ELEMENTS["Prompt+Avoid"], 1)
    )


@pytest.mark.parametrize("element, expected", [
    ("none", "\ninput: 2\noutput:"),
    ("Prompt+Avoid",
     "Prompt: Halve the number\nThings to Avoid: This is the double.\ninput: 2\noutput:"),
    ("Def+Prompt+Neg+Pos",
     "Definition: Halve the number, and say nothing else.\nPrompt: Halve the number\n"
     "Negative Example1- \ninput: 8\noutput: 16\nreason: This is the double.\n"
     "input: 4\noutput: 2\ninput: 2\noutput:"),
])
def test_layout(element, expected):
    head = "".join(p.text for p in instruction_v1(as_v1(TASK), ELEMENTS[element], 1))
    assert head + complete_v1("2") == expected


def test_the_full_instruction_of_the_world_shows_every_field_but_the_title(world):
    t = world[0]
    text = encode_v1(t, "hat", ELEMENTS["Full"], 1)
    bad, good = t.negative[0], t.positive[0]
    for said in (t.prompt, t.definition[0], t.avoid, t.emphasis, bad.explanation,
                 f"suggestion: {bad.suggestion}", good.explanation):
        assert said in text
    assert t.title not in text


def test_rows_hold_the_layout_and_the_answer():
    _, tokenizer = load_model("micro", device="cpu")
    rows = rows_v1([TASK], tokenizer, ELEMENTS["Prompt"])
    text = tokenizer.decode(rows[0]["input_ids"], skip_special_tokens=True)
    assert text == "Prompt: Halve the number\ninput: 2\noutput:"
    assert [tokenizer.decode(y, skip_special_tokens=True) for y in rows["labels"][:]] == ["1", "6"]
    assert rows["task"][:] == [0, 0] and rows["length"][:] == [len(x) for x in rows["input_ids"]]


# Models

def test_an_own_model_learns_its_task_and_the_shared_one_stays(tmp_path):
    model, tokenizer = load_model("micro", device="cpu")
    before = [p.clone() for p in model.parameters()]
    name = ni_world(1)[0].name
    both = ni_world(60, names={name}) + ni_world(10, held_out=True, names={name})
    task, asked = (replace(t, instances=[replace(i, output=["star"]) for i in t.instances])
                   for t in both)
    own, rounds = own_model(model, tokenizer, task, ELEMENTS["none"], tmp_path)
    texts = [f"\n{complete_v1(i.input)}" for i in asked.instances]
    def exact(some):
        return score(answer_texts(some, tokenizer, [asked], texts))["overall"]["exact_match"]
    assert exact(own) == 100 > exact(model) and 1 <= rounds < 20
    assert all(a.equal(b) for a, b in zip(before, model.parameters()))


# Studies

@pytest.fixture(scope="module")
def runs(tmp_path_factory): return tmp_path_factory.mktemp("natinst")


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_runs(name, runs):
    record = reproduce(STUDIES[name], runs, seeds=1, workers=1, scale=0.01, quiet=True)
    assert [run["arm"] for run in record["runs"]] == list(STUDIES[name].arms)
    for run in record["runs"]:
        assert 0 <= run["exact_match"] <= 100 and 0 <= run["rougeL"] <= 100
        left_out = ARMS[run["arm"]].get("split", "random") != "random"
        assert (run.get("drawn") is not None) == left_out
        assert ("rounds" in run) == (run["arm"] == "a model for each task")
    check_that_no_run_is_repeated(STUDIES[name], runs, record, scale=0.01)


@pytest.mark.parametrize("split", ["random", "category"])
def test_arms_of_a_seed_share_split_and_questions(split, tmp_path, monkeypatch):
    seen, asked = [], []
    def tuned(model, tasks, fields, *rest): seen.append([t.name for t in tasks]); return None, None
    def ask(model, tokenizer, tasks, fields):
        asked.append([(t.name, i.input) for t in tasks for i in t.instances])
        return [{"id": i.id, "task": t.name, "category": t.category, "prediction": "",
                 "references": i.output} for t in tasks for i in t.instances]
    monkeypatch.setattr("instop_nb.natinst_study._tuned", tuned)
    monkeypatch.setattr("instop_nb.natinst_study._asked_v1", ask)
    for element in ("none", "Full"):
        run_natinst(tmp_path, 3, 1.0, "micro", "micro", split=split, element=element)
    assert seen[0] == seen[1] and asked[:len(asked) // 2] == asked[len(asked) // 2:]
    assert not {*seen[0]} & {name for name, _ in asked[0]}
    assert split == "random" or len(asked[1]) == DRAWN


def test_who_was_trained_on_it_has_seen_all(tmp_path, monkeypatch):
    seen = []
    def tuned(model, tasks, *rest): seen.append(len(tasks)); raise KeyboardInterrupt
    monkeypatch.setattr("instop_nb.natinst_study._tuned", tuned)
    for arm in ("trained on it", "random Def+Prompt", "8 tasks none"):
        with pytest.raises(KeyboardInterrupt):
            run_natinst(tmp_path, 0, 1.0, "micro", "micro", **ARMS[arm])
    assert seen == [280, 266, 8]


def test_studies_share_their_runs():
    together = {arm: settings for study in STUDIES.values() for arm, settings in study.arms.items()}
    assert together == ARMS and len(ARMS) < sum(len(study.arms) for study in STUDIES.values())
    assert {study.folder for study in STUDIES.values()} == {"natinst"}


def test_claims_name_arms_and_numbers_that_exist():
    for name, study in STUDIES.items():
        claims = [claim for claim in read_claims() if claim.study == name]
        assert claims, name
        for claim in claims:
            assert {claim.better, claim.worse} <= {*study.arms}, claim
            assert claim.metric in ("exact_match", "drawn"), claim
            if claim.metric == "drawn":
                assert "random" not in {ARMS[claim.better]["split"], ARMS[claim.worse]["split"]}


def test_a_study_runs_on_real_tasks(real_tasks, tmp_path):
    tasks = load_tasks(real_tasks, None, 2)
    model = tiny_t5(tmp_path / "t5", [t.definition[0] for t in tasks])
    for arm in ("random Full", "dataset none", "8 tasks none"):
        result = run_natinst(tmp_path / arm, 0, 0.0005, str(real_tasks), model, **ARMS[arm])
        assert result["n"] > 0 and (
            result["n_seen"] == 8 if arm == "8 tasks none" else result["n_seen"] > 100
        ), arm


@pytest.mark.parametrize("name", STUDIES)
def test_the_page_agrees_with_the_record(name):
    record, printed, lines = record_and_page(STUDIES[name], NOTEBOOK)
    for arm in STUDIES[name].arms:
        values = [run["exact_match"] for run in record["runs"] if run["arm"] == arm]
        assert any(line.startswith(f"| {arm} |") and f"| {interval(values)} |" in line
                   for line in lines), (arm, interval(values))
    claims = [claim for claim in read_claims() if claim.study == name]
    for f in findings(record, claims):
        assert f"{f.verdict}: {f.claim.says} ({f.mean:.1f} ± {f.half:.1f}" in printed, f.claim.says
