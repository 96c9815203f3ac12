"""Actions on selections: wordings without gaps, right answers, each function once, and how much a
blind answer gets right."""
import random
import re
from collections import Counter, defaultdict
from functools import cache
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instop_nb.actions import ACTIONS, CHOICES, SELECTIONS
from instop_nb.operations import (
    PROBES, QUESTION_WORDS, WORDINGS, Operation, TwoSteps, as_sentence, behaviour, candidates,
    draw_words, is_held_out, is_meant, operations, with_articles, wordings,
)
from instop_nb.words import FORMS, KIND, KINDS

ALL = operations()
NAMED = {o.name: o for o in ALL}
LISTS = [draw_words(random.Random(f"fresh {i}")) for i in range(500)]
COPIES = {"front: what comes before", "end: what comes after", "turn: the first of a kind"}
ONES = {"count: the first of a kind", "count: the next one"}

lists = st.integers(0, 10**9).map(lambda seed: draw_words(random.Random(seed)))
some = st.sampled_from(ALL)


@cache
def answers(o):
    "Return what an operation answers to each fresh list; None where it does not fit."
    return tuple(o.solve(words) if o.fits(words) else None for words in LISTS)


def told(o):
    "Return what an operation answers to the lists that fit."
    return [answer for answer in answers(o) if answer is not None]


# Answers worked out by hand from the sentences, without the code that makes them

LIST = "hat fox fig saw owl bus"  # garment, animal, fruit, tool, animal, vehicle

@pytest.mark.parametrize(
    "name, answer",
    [
        ("drop_every_kind_animal", "hat fig saw bus"), ("drop_all_but_a_place_last", "bus"),
        ("keep_the_last_few_two", "owl bus"), ("keep_every_kind_animal", "fox owl"),
        ("front_a_place_third", "fig hat fox saw owl bus"),
        ("end_every_kind_animal", "hat fig saw bus fox owl"),
        ("replace_moon_what_comes_after_fruit", "hat fox fig moon moon moon"),
        ("replace_dot_what_comes_before_fruit", "dot dot fig saw owl bus"),
        ("kind_the_next_one_animal", "hat fox fruit saw owl bus"),
        ("kind_the_last_of_a_kind_animal", "hat fox fig saw animal bus"),
        ("twice_the_first_few_three", "hat hat fox fox fig fig saw owl bus"),
        ("mark_after_star_every_kind_animal", "hat fox star fig saw owl star bus"),
        ("mark_before_ring_every_second_second", "hat ring fox fig ring saw owl ring bus"),
        ("turn_all", "bus owl saw fig fox hat"),
        ("turn_every_kind_animal", "hat owl fig saw fox bus"),
        ("turn_every_second_first", "owl fox fig saw hat bus"), ("count_every_kind_animal", "two"),
        ("ask_kind_tool_a_place_fourth", "yes"), ("ask_kind_tool_a_place_first", "no"),
        ("ask_kind_animal_the_next_one_tool", "yes"),
        ("choose_kind_animal_or_a_fruit_a_place_second", "animal"),
        ("keep_every_kind_vehicle", "bus"), ("count_what_comes_before_tool", "three"),
    ],
)
def test_answers_by_hand(name, answer): assert NAMED[f"micro_{name}"].solve(LIST.split()) == answer


@pytest.mark.parametrize("form", ["zor", "mib", "size"])
def test_names_and_sizes_come_from_the_table(form):
    words, name = LIST.split(), "size_every_kind_animal"
    name = name if form == "size" else f"say_{form}_every_kind_animal"
    wanted = [FORMS[form][word] for word in ("fox", "owl")]
    assert NAMED[f"micro_{name}"].apply(words) == wanted
    if form != "size":
        translated = NAMED[f"micro_translate_{form}_every_kind_animal"].apply(words)
        assert translated == ["hat", wanted[0], "fig", "saw", wanted[1], "bus"]


def test_nothing_to_do():
    assert NAMED["micro_keep_every_kind_tool"].solve(["fox", "hat"]) == "none"
    assert NAMED["micro_drop_every_kind_tool"].solve(["fox", "hat"]) == "fox hat"
    assert not NAMED["micro_drop_every_kind_tool"].fits(["fox", "hat"])


# What is said

def test_tables_have_as_many_wordings_as_promised():
    for table, n in ((ACTIONS, 8), (SELECTIONS, 6)):
        assert all(len(set(part.wordings)) == len(part.wordings) == n for part in table)
    for numbers, n in ((0, 8), (1, 6)):
        assert sorted(i for group in WORDINGS.values() for i in group[numbers]) == [*range(n)]


def test_a_wording_has_a_gap_for_all_that_it_takes():
    for a in ACTIONS:
        for text in a.wordings:
            assert ("{s}" in text, "{0}" in text) == (True, a.arguments != [""]), text
    for s in SELECTIONS:
        for text in s.wordings: assert ("{0}" in text) == (s.arguments != [""]), text


@given(some, st.integers(0, 7), st.integers(0, 5))
def test_gaps_are_filled_by_small_ascii_words(o, i, j):
    phrase = o.say(i, j)
    assert re.fullmatch(r"[a-z]+(,? [a-z]+)*", phrase), phrase
    for argument in (o.changed, o.chosen):
        assert with_articles(f"a {argument}").removeprefix("an ").removeprefix("a ") in phrase


@given(some, st.integers(0, 7), st.integers(0, 5))
def test_articles_are_right(o, i, j):
    assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", o.say(i, j))


def test_no_kind_begins_with_a_vowel_that_is_no_vowel_sound():
    assert [k for k in KINDS if k[0] in "aeiou"] == ["animal"]


def test_no_sentence_stands_for_two_operations():
    owner = {}
    for o, group in product(ALL, WORDINGS):
        for text in wordings(o, group): assert owner.setdefault(text, o) is o, text


@given(some, st.sampled_from([*WORDINGS]))
def test_a_sentence_has_a_capital_and_a_stop_and_only_questions_a_question_mark(o, group):
    said = wordings(o, group)
    assert len(set(said)) == len(said) == {"asked": 12, "told": 6, "new": 1}[group]
    for text in said:
        begins = text.lower().split()[0] in QUESTION_WORDS
        assert text[0].isupper() and text[-1] == ("?" if begins else ".") and text.isascii()


def test_a_question_word_is_not_the_beginning_of_another_word():
    firsts = {text.split()[0] for a in ACTIONS for text in a.wordings}
    assert not [w for w in firsts if w.startswith(QUESTION_WORDS) and w not in QUESTION_WORDS]
    assert as_sentence("is it").endswith("?") and as_sentence("say it").endswith(".")


# Which operations there are

def test_the_world_is_as_large_as_promised():
    assert len(ACTIONS) == 17 and len(SELECTIONS) == 14
    assert len(ALL) == 1364 and len({o.category for o in ALL}) == 184 and len(candidates()) == 1490


def test_names_are_unique():
    assert len(NAMED) == len(ALL) == len(set(ALL))
    for part in (ACTIONS, SELECTIONS): assert len({p.name for p in part}) == len(part)
    assert all(re.fullmatch(r"[a-z_]+", name) for name in NAMED)


def test_none_equals_another_or_the_identity_or_a_constant_on_fresh_lists():
    "A list in which there is nothing to do is an answer of its own, as it is for the probes."
    does = {
        tuple(o.solve(ws) if o.picked(ws) else "" for ws in LISTS): o for o in ALL
    }
    assert len(does) == len(ALL) and tuple(map(" ".join, LISTS)) not in does
    assert all(len(set(d)) > 1 for d in does)


def test_whatever_was_left_out_is_the_earlier_one_on_fresh_lists_as_well():
    stayed = {behaviour(o): o for o in ALL}
    for o in set(candidates()) - set(ALL):
        some, twin = [ws for ws in LISTS if o.picked(ws)], stayed.get(behaviour(o))
        does = [o.apply(ws) for ws in some]
        if twin:
            assert does == [twin.apply(ws) for ws in some], (o.name, twin.name)
            assert some == [ws for ws in LISTS if twin.picked(ws)], (o.name, twin.name)
        else: assert some == LISTS and (does == LISTS or len(set(map(tuple, does))) == 1), o.name


def test_where_there_is_something_to_do_25_are_copies_or_ones_as_the_chapter_says():
    copies = [o for o in ALL if all(
        answer in (None, " ".join(ws)) for ws, answer in zip(LISTS, answers(o)))]
    ones = [o for o in ALL if len(set(told(o))) == 1]
    assert ({o.category for o in copies}, len(copies)) == (COPIES, 15)
    assert ({o.category for o in ones}, len(ones)) == (ONES, 10)
    assert {answer for o in ones for answer in told(o)} == {"one"}


def test_44_other_pairs_agree_wherever_both_fit_as_the_chapter_says():
    pairs = Counter()
    rest = [o for o in ALL if o.category not in COPIES | ONES]
    for i, a in enumerate(rest):
        for b in rest[i + 1:]:
            meet = False
            for x, y in zip(answers(a), answers(b)):
                if x is None or y is None: continue
                if x != y: break
                meet = True
            else:
                if meet: pairs[a.category, b.category] += 1
    assert sum(pairs.values()) == 44, pairs
    assert pairs["mark after: the first of a kind", "mark before: the next one"] == 20
    assert all(a.split(":")[0] != b.split(":")[0] or "size" in a for a, b in pairs)


@pytest.mark.parametrize("o", candidates()[::97], ids=lambda o: o.name)
def test_the_probes_are_what_the_operations_are_told_apart_by(o):
    assert len(behaviour(o)) == len(PROBES) == 60


def test_questions_are_about_one_word_whose_kind_is_not_given():
    for o in ALL:
        if o.action.options is None: continue
        assert o.selection.one and is_meant(o.action, o.selection)
        assert all(len(o.picked(ws)) <= 1 for ws in LISTS)
        assert o.action.name == "ask size" or o.selection.name in ("a place", "the next one")


def test_a_selection_of_one_picks_one_at_most_and_the_others_more():
    for s in SELECTIONS:
        most = max(len(s.pick(ws, a)) for ws in LISTS for a in s.arguments)
        assert (most == 1) == s.one, s.name


@given(lists)
def test_a_selection_picks_places_of_the_list_in_their_order(words):
    for s in SELECTIONS:
        for a in s.arguments:
            at = s.pick(words, a)
            assert at == sorted(set(at)) and set(at) <= set(range(len(words))), (s.name, a)


@given(some, lists)
def test_fits_is_honoured(o, words):
    options = o.action.options
    if not o.picked(words): assert not o.fits(words)
    elif options is None: assert o.fits(words)
    else: assert o.fits(words) == (o.solve(words) in options(o.changed))


@given(some, lists)
def test_nothing_is_done_to_the_list_itself(o, words):
    before = list(words)
    if o.picked(words): assert o.solve(words) == o.solve(words) and words == before


@given(some, lists)
def test_answers_are_words(o, words):
    if o.fits(words): assert re.fullmatch(r"[a-z]+( [a-z]+)*", o.solve(words))


# Nothing is given away

def test_an_answer_to_a_question_is_not_decided_by_the_instruction():
    for o in ALL:
        if o.action.options is None: continue
        count = Counter(told(o))
        assert set(count) == set(o.action.options(o.changed)), o.name
        assert max(count.values()) < .92 * sum(count.values()), (o.name, count)


def test_each_operation_fits_enough_lists():
    assert min(len(told(o)) for o in ALL) > 60


def test_arguments_are_used_equally_often_where_none_was_left_out():
    "Of an action over the whole world, and of both parts within a category."
    lost = {o.category for o in set(candidates()) - set(ALL)}
    groups = defaultdict(list)
    for o in ALL: groups[o.category].append(o)
    for category, group in groups.items():
        if category in lost: continue
        for value in (lambda o: o.changed, lambda o: o.chosen):
            assert len(set(Counter(map(value, group)).values())) == 1, category
    for a in ACTIONS:
        counts = Counter(o.changed for o in ALL if o.action is a)
        if a.name != "choose kind": assert set(counts) == set(a.arguments), a.name
        assert len(set(counts.values())) == 1, a.name


def test_of_the_choices_one_is_left_as_the_chapter_says():
    assert {o.changed for o in ALL if o.action.name == "choose kind"} == {CHOICES[0]}


# Lists, and two steps

@given(lists)
def test_lists_are_as_promised(words):
    assert 4 <= len(words) == len(set(words)) <= 7 and len({KIND[w] for w in words}) <= 4


def test_kinds_words_and_sizes_come_equally_often():
    many = [draw_words(random.Random(f"many {i}")) for i in range(4000)]
    count = Counter(word for words in many for word in words)
    mean = sum(count.values()) / 40
    assert len(count) == 40 and all(abs(n / mean - 1) < .2 for n in count.values())
    assert abs(sum(is_held_out(" ".join(words)) for words in many) / 4000 - 1/8) < .02


STEPS = [o for o in ALL if o.action.name in ("drop", "keep", "front", "end", "turn")]

@given(st.sampled_from(STEPS), st.sampled_from([o for o in ALL if o.action.options is None]), lists)
def test_two_steps_are_one_after_the_other(a, b, words):
    both = TwoSteps(a, b)
    between = a.apply(words)
    if both.fits(words):
        assert a.picked(words) and b.picked(between) and len(between) > 2
        assert both.solve(words) == (" ".join(b.apply(between)) or "none")
    assert both.name.startswith(a.name) and both.name.endswith(b.name.removeprefix("micro_"))
    for group, n in (("asked", 12), ("told", 6), ("new", 1)):
        said = wordings(both, group)
        assert len(said) == n and all("{" not in text and text[0].isupper() for text in said)


def test_an_operation_is_equal_to_one_of_the_same_parts():
    o = ALL[0]
    assert Operation(o.action, o.selection, o.changed, o.chosen) == o != ALL[1]
