"""Questions for each tier, scores that are never pooled, and one answer to whoever asks."""
import json
import subprocess
import sys

import pytest

from instop_nb.actions import ACTIONS, SELECTIONS
from instop_nb.ask import ask, known_words, question, unknown_words
from instop_nb.core import TaskError
from instop_nb.microworld import few_of, micro_tasks, novelty, solve, tiers_of
from instop_nb.models import load_model
from instop_nb.operations import is_held_out, wordings
from instop_nb.t5 import SHIPPED
from instop_nb.tiers import ASKED, ask_tiers, tier_questions
from instop_nb.world_study import STUDIES, in_two_turns, run_tiers


@pytest.fixture(scope="module")
def tuned(): return load_model("micro-tuned", "cpu")


@pytest.mark.parametrize("n", [1, 50, 400])
def test_every_tier_gets_its_questions(n):
    questions = tier_questions(n)
    assert [*questions] == [*ASKED]
    for tier, tasks in questions.items():
        assert sum(len(t.instances) for t in tasks) >= n
        expected = "train" if tier == "wording" else tier
        assert {novelty(t.name) for t in tasks} == {expected}
        for t in tasks:
            assert all(is_held_out(i.input) for i in t.instances)
            assert all(solve(t.name, i.input) == i.output[0] for i in t.instances)


def test_new_wordings_are_those_that_only_the_books_use():
    for t in tier_questions(30)["wording"]:
        operation, _ = tiers_of()[t.name]
        assert t.definition[0] in wordings(operation, "told")
        assert t.definition[0] not in wordings(operation, "asked")


def test_wordings_go_round():
    tasks = tier_questions(90)["argument"]
    first = [t.definition[0] for t in tasks]
    plain = [wordings(tiers_of()[t.name][0])[0] for t in tasks]
    assert 0 < sum(a == b for a, b in zip(first, plain)) < len(first) / 4


def test_few_tasks_take_the_categories_in_turn():
    names = few_of("category", 71)
    assert len({tiers_of()[name][0].category for name in names}) == 71
    assert few_of("category", 10) == names[:10]
    assert len(few_of("untold", 10_000)) == len(micro_tasks("untold", 1))


def test_the_test_split_has_as_many_tasks_of_each_of_three_tiers():
    tiers = [novelty(t.name) for t in micro_tasks("test", 1)]
    assert {tier: tiers.count(tier) for tier in {*tiers}} == dict.fromkeys(
        ("argument", "combination", "category"), 48)


def test_a_tier_is_scored_by_its_own_questions_alone(tuned):
    questions = tier_questions(6)
    scores = ask_tiers(*tuned, questions)
    alone = ask_tiers(*tuned, {"untold": questions["untold"]})
    assert scores["untold"] == alone["untold"]


def test_the_tuned_model_obeys_and_the_untuned_one_does_not(tuned):
    questions = {tier: tier_questions(48)[tier] for tier in ("argument", "category", "untold")}
    obeys = {tier: s["overall"]["exact_match"] for tier, s in ask_tiers(*tuned, questions).items()}
    before = ask_tiers(*load_model("micro", "cpu"), questions)
    assert obeys["argument"] > 85 and obeys["category"] > 75 and obeys["untold"] <= 5
    assert max(s["overall"]["exact_match"] for s in before.values()) <= 5


def test_cards_and_records_say_what_the_shipped_models_score():
    for name, place in SHIPPED.items():
        scores = json.loads((place / "record.json").read_text())["scores"]
        card = (place / "README.md").read_text()
        for tier in ASKED: assert f"| {tier} | {scores[tier]:.1f} |" in card
        if name == "micro": continue  # It does nothing that it is asked
        assert all(f"| {action.name} |" in card for action in ACTIONS), name


def test_two_turns_are_two_questions(tuned):
    tasks = tier_questions(40)["two steps"][::4]
    once = ask_tiers(*tuned, {"two steps": tasks})["two steps"]["overall"]["exact_match"]
    assert in_two_turns(*tuned, tasks) > once


def test_the_control_without_instructions_never_shows_one(tmp_path, monkeypatch):
    seen = []
    def note(model, tokenizer, rows, *args, **kwargs): seen.extend(rows["input_ids"][:20])
    monkeypatch.setattr("instop_nb.world_study.tune", note)
    run_tiers(tmp_path, 0, .004, "micro", "micro", shown="nothing")
    tokenizer = load_model("micro", "cpu")[1]
    assert seen and not any("Definition" in tokenizer.decode(ids) for ids in seen)


def test_arms_of_the_studies_are_settings_of_their_runs():
    for study in STUDIES.values():
        assert len(study.arms) > 4 and study.seeds == 3


@pytest.mark.parametrize("said, read", [
    ("keep the first word", "Definition: Keep the first word."),
    ("Keep the first word.", "Definition: Keep the first word."),
    ("is the first word a fruit", "Definition: Is the first word a fruit?"),
    ("  drop it!  ", "Definition: drop it!"),
])
def test_an_instruction_is_laid_out_as_tuning_has_it(said, read):
    assert question(said, "fox hen").startswith(f"{read}\n\nNow complete")


def test_nothing_to_do_is_an_error():
    with pytest.raises(TaskError, match="say what to do"): question(" \n", "fox")


def test_an_answer_to_a_typed_instruction():
    assert ask("drop every fruit", "fox fig saw") == "fox saw"


def test_unknown_words_are_named_with_known_ones(tuned):
    found = unknown_words("Dropp every zebra from the fox list", tuned[1])
    assert [*found] == ["Dropp", "zebra"] and "drop" in found["Dropp"]
    assert {*sum(found.values(), [])} <= {*known_words(tuned[1])}


@pytest.mark.parametrize("selection", SELECTIONS, ids=lambda s: s.name)
def test_every_word_of_every_instruction_is_known(tuned, selection):
    for o, _ in tiers_of().values():
        if getattr(o, "selection", None) is selection:
            for group in ("asked", "told", "new"):
                for said in wordings(o, group): assert unknown_words(said, tuned[1]) == {}, said


def test_the_shell_says_what_is_read_and_what_is_not_known():
    command = [sys.executable, "-c", "from instop_nb.cli import main; main()"]
    asked = ["ask", "drop every zebra", "fox fig"]
    done = subprocess.run([*command, *asked], capture_output=True, text=True)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 1
    assert "Drop every zebra." in done.stderr and "does not know 'zebra'" in done.stderr
