"""Hard instructions: each is what it says it is, halves of actions stay apart, and the page says
what the record says."""
import random
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import check_claims_of_page, check_that_no_run_is_repeated, record_and_page, tiny_t5

from instop_nb import hard_instructions
from instop_nb.core import TaskError
from instop_nb.hard_instructions import (
    ASKED_ONLY, BOTH, HARD, NOT, STUDIES, for_both_sizes, halves_of_actions, hard_operations,
    hard_pairs, hard_questions, negated, otherwise_negated, plain, reminded, run_hard, with_a_decoy,
    with_a_fact, with_two_conditions,
)
from instop_nb.operations import is_held_out, operations, wordings
from instop_nb.study import reproduce
from instop_nb.words import FORMS, KIND

NOTEBOOK = (
    Path(__file__).resolve().parent.parent / "nbs" / "3_studies" / "36_hard_instructions.ipynb"
)
WORDING_OF = {said: o for o in operations() for said in wordings(o)}
SOME = random.Random(0).sample(hard_operations(), 40)


def parts_of(source):
    "The definition of a source, and its input."
    said, rest = source.removeprefix("Definition: ").split("\n\n", 1)
    return said, rest.split("Input: ")[1].split("\nOutput:")[0].rstrip(".")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory): return tiny_t5(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize("held_out", [True, False])
def test_a_plain_question_is_answered_as_it_asks(held_out):
    for o in SOME:
        made = plain(o, random.Random(1), held_out)
        said, text = parts_of(made.source)
        assert WORDING_OF[said].solve(text.split()) == made.answer
        assert is_held_out(text) == held_out


def test_who_is_told_not_to_leaves_the_list():
    for o in SOME:
        made = negated(o, random.Random(1))
        said, text = parts_of(made.source)
        asked = said.removeprefix("Do not ")
        assert asked != said
        assert text == made.answer != made.tempting == o.solve(text.split())
        assert asked[0].upper() + asked[1:] in wordings(o)


def test_a_not_in_other_words_leaves_the_list_and_a_reminder_does_not():
    starts = [said.format("") for said in NOT]
    for o in SOME:
        made = otherwise_negated(o, random.Random(o.name))
        said, text = parts_of(made.source)
        assert text == made.answer != made.tempting == o.solve(text.split())
        assert any(said.lower().startswith(start) for start in starts)
        made = reminded(o, random.Random(1))
        said, text = parts_of(made.source)
        assert said.startswith("Do not just read this: ")
        assert text == made.tempting != made.answer == o.solve(text.split())


def test_no_asked_only_instruction_is_trained():
    said = [parts_of(source) for source, _ in hard_pairs(sum(halves_of_actions(1), []), 900, 1)]
    assert not any("just read" in s or s.lower().startswith(n.format("")) for s, _ in said
                   for n in NOT)
    parts = {part.rstrip(".") + "." for _, text in said for part in text.split(". ")}
    assert all(part in WORDING_OF or {*part.rstrip(".").split()} <= {*KIND} for part in parts)


def test_a_list_is_asked_for_both_sizes_and_no_answer_serves_twice():
    for o in SOME:
        big, small = for_both_sizes(o, random.Random(3))
        (said, text), (other, same) = parts_of(big.source), parts_of(small.source)
        assert text == same and said.replace("big", "small") == other
        assert len({big.answer, small.answer, big.tempting}) == 3
        assert big.tempting == small.tempting


def test_who_takes_one_word_of_the_kind_is_not_right_for_both_sizes():
    rng = random.Random(0)

    def by_luck(o, made):
        said, text = parts_of(made.source)
        kind = next(a.split()[1] for a in BOTH.arguments if a in said)
        words = text.split()
        one = rng.choice([i for i, w in enumerate(words) if KIND[w] == kind])
        return " ".join(o.action.do(words, [one], o.changed)) == made.answer

    pairs = [(o, for_both_sizes(o, random.Random(k))) for o in SOME for k in range(3)]
    assert sum(by_luck(o, made) for o, pair in pairs for made in pair) > 10
    assert not any(all(by_luck(o, made) for made in pair) for o, pair in pairs)


def test_a_fact_changes_nothing():
    for o in SOME:
        made = with_a_fact(o, random.Random(o.name))
        said, text = parts_of(made.source)
        parts = [p.rstrip(".") for p in text.split(". ")]
        words, = [p for p in parts if {*p.split()} <= {*KIND}]
        assert WORDING_OF[said].solve(words.split()) == made.answer


def test_two_conditions_are_both_met():
    for o in SOME:
        made = with_two_conditions(o, random.Random(2))
        said, text = parts_of(made.source)
        size, kind = next(a.split() for a in BOTH.arguments if a in said)
        words = text.split()
        both = [i for i, w in enumerate(words)
                if KIND[w] == kind and FORMS["size"][w] == size]
        assert o.action.do(words, both, o.changed) == made.answer.split()
        alone = [i for i, w in enumerate(words) if KIND[w] == kind]
        assert o.action.do(words, alone, o.changed) == made.tempting.split()
        assert both != alone and made.answer != made.tempting


def test_a_decoy_stands_in_the_input_and_asks_for_something_else():
    places = set()
    for o in SOME:
        made = with_a_decoy(o, random.Random(o.name))
        said, text = parts_of(made.source)
        first, second = text.split(". ")
        places.add(first + "." in WORDING_OF)
        words, decoy = (second, first) if first + "." in WORDING_OF else (first, second)
        assert WORDING_OF[said].solve(words.split()) == made.answer
        assert WORDING_OF[decoy + "."].solve(words.split()) == made.tempting != made.answer
    assert places == {True, False}


@pytest.mark.parametrize("seed", range(4))
def test_no_hard_instruction_of_the_asked_half_is_trained_on(seed):
    seen, asked = halves_of_actions(seed)
    assert not {*seen} & {*asked}
    assert {*seen, *asked} == {o.action.name for o in hard_operations()}
    found = [parts_of(source)[0] for source, _ in hard_pairs(seen, 600, seed)]
    negations = [said.removeprefix("Do not ") for said in found if said.startswith("Do not ")]
    actions = {WORDING_OF[n[0].upper() + n[1:]].action.name for n in negations}
    assert actions and actions <= {*seen}
    both = [said for said in found if any(a in said for a in BOTH.arguments)]
    for said in both:
        assert any(w in said or w in said.lower() for o in hard_operations()
                   if o.action.name in seen
                   for w in [replace(o, selection=BOTH, chosen=a).say(i, j)
                             for a in BOTH.arguments if a in said
                             for i in range(4) for j in range(3)]
                   for w in [w, w[0].upper() + w[1:]])
        break
    assert both


def test_plain_pairs_are_plain_and_the_share_is_kept():
    assert all(parts_of(source)[0] in WORDING_OF for source, _ in hard_pairs([], 200))
    hard = [s for s, _ in hard_pairs(halves_of_actions(0)[0], 1000)
            if parts_of(s)[0] not in WORDING_OF or ". " in parts_of(s)[1]]
    assert 240 < len(hard) < 360


@pytest.mark.parametrize("make", [plain, *HARD.values(), *ASKED_ONLY.values()])
def test_questions_are_of_the_asked_half_on_lists_that_no_training_sees(make):
    questions = hard_questions(make, 20, 3)
    assert questions == hard_questions(make, 20, 3) != hard_questions(make, 20, 4)
    for made in questions:
        text = parts_of(made.source)[1]
        parts = [p for p in text.split(". ") if {*p.split()} <= {*KIND}]
        assert len(parts) == 1 and is_held_out(parts[0])


def test_right_and_tempted_are_counted_apart(monkeypatch, tiny, tmp_path):
    def said(model, tokenizer, sources, max_new_tokens):
        by_source = {h.source: h for make in (plain, *HARD.values(), *ASKED_ONLY.values())
                     for h in hard_questions(make, len(sources), 0)}
        by_source |= {h.source: h for two in hard_questions(for_both_sizes, 2, 0) for h in two}
        return [by_source[s].answer if n % 2 else by_source[s].tempting or "no"
                for n, s in enumerate(sources)]
    monkeypatch.setattr(hard_instructions, "answers", said)
    found = run_hard(tmp_path, 0, .02, "micro", tiny, None)
    sorts = ["plain", *HARD, *ASKED_ONLY]
    assert [found[s] for s in sorts] == [50, 50, 0, 50, 50, 50, 50], "of a list both must be right"
    assert [found[f"{s}, tempted"] for s in sorts] == [0, 50, 50, 50, 50, 50, 0]


def test_files_of_tasks_are_refused_with_advice(tmp_path):
    with pytest.raises(TaskError, match="data: found 'tasks'; leave out --data"):
        run_hard(tmp_path, 0, .01, "tasks", "micro")


def test_the_study_runs_and_repeats_nothing(tmp_path, tiny):
    study = STUDIES["hard"]
    options = dict(scale=.01, model=tiny)
    record = reproduce(study, tmp_path, seeds=1, workers=1, quiet=True, **options)
    assert [run["arm"] for run in record["runs"]] == [*study.arms]
    check_that_no_run_is_repeated(study, tmp_path, record, **options)


def test_the_page_agrees_with_the_record():
    record, printed, lines = record_and_page(STUDIES["hard"], NOTEBOOK)
    check_claims_of_page("hard", record, printed, lines)
