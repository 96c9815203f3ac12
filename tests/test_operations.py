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
    draw_words, is_held_out, is_idle, is_meant, operations, with_articles, wordings,
)
from instop_nb.words import FORMS, KIND, KINDS

ALL = operations()
NAMED = {o.name: o for o in ALL}
OUT = [o for o in candidates() if o not in set(ALL)]
LISTS = [draw_words(random.Random(f"fresh {i}")) for i in range(500)]

lists = st.integers(0, 10**9).map(lambda seed: draw_words(random.Random(seed)))
some = st.sampled_from(ALL)


@cache
def answers(o):
    "Return what an operation answers to each fresh list; None where it does not fit."
    return tuple(o.solve(words) if o.fits(words) else None for words in LISTS)


def told(o):
    "Return what an operation answers to the lists that fit."
    return [answer for answer in answers(o) if answer is not None]


def idle(o):
    "Say whether an operation copies each fresh list that fits, or has one answer to all of them."
    copies = all(says in (None, " ".join(ws)) for ws, says in zip(LISTS, answers(o)))
    return copies or len(set(told(o))) == 1


def does(o):
    "Return what an operation does to all fresh lists; of a question, its options and answers."
    if o.action.options is None: return tuple(map(o.solve, LISTS))
    return *o.action.options(o.changed), *answers(o)


def agree(a, b, lists):
    "Say whether two operations answer alike to the lists that fit both, of which there are some."
    both = [ws for ws in lists if a.fits(ws) and b.fits(ws)]
    return bool(both) and all(a.solve(ws) == b.solve(ws) for ws in both)


# Answers worked out by hand from the sentences, without the code that makes them

LIST = "hat fox fig saw owl bus"  # garment, animal, fruit, tool, animal, vehicle

@pytest.mark.parametrize(
    "name, answer",
    [
        ("drop_every_kind_animal", "hat fig saw bus"), ("keep_a_place_last", "bus"),
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
        ("choose_kind_fruit_or_a_tool_a_place_third", "fruit"),
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


@pytest.mark.parametrize(
    "name, text, answer",
    [
        ("keep_the_next_one_tool", "fox hat", "none"),
        ("drop_every_kind_tool", "fox hat", "fox hat"),
        ("drop_a_place_fourth", "fox hat saw", "fox hat saw"),
        ("keep_a_place_fourth", "fox hat saw", "none"),
        ("replace_dot_all_but_a_place_fourth", "fox hat saw", "dot dot dot"),
        ("drop_every_kind_animal", "fox owl", "none"),
        ("front_every_kind_animal", "fox owl", "fox owl"),
        ("ask_kind_animal_the_next_one_tool", "fox saw", "none"),
        ("ask_size_big_the_first_of_a_kind_tool", "fox hat", "none"),
        ("choose_kind_animal_or_a_fruit_a_place_third", "fox hat", "none"),
        ("count_every_kind_tool", "fox hat", "zero"),
    ],
)
def test_nothing_to_do(name, text, answer):
    assert NAMED[f"micro_{name}"].solve(text.split()) == answer
    assert not NAMED[f"micro_{name}"].fits(text.split())


def test_only_the_selection_of_all_may_pick_all():
    "Or there would be nothing to choose; and what two ways of saying ask would fit other lists."
    for o in ALL:
        fit = [ws for ws, says in zip(LISTS, answers(o)) if says is not None]
        all_picked = {len(o.picked(ws)) == len(ws) for ws in fit}
        assert all_picked == {o.selection.name == "all"}, o.name
    names = {o.name: o for o in candidates()}
    for kind in KINDS:
        keep = names[f"micro_keep_every_kind_{kind}"]
        drop = names[f"micro_drop_all_but_a_kind_{kind}"]
        assert answers(keep) == answers(drop)


@given(some, st.lists(st.sampled_from([*KIND]), max_size=3, unique=True))
def test_a_list_that_is_too_short_is_no_error(o, words):
    answer = o.solve(words)
    if not o.picked(words): assert answer in ("none", "zero", " ".join(words))


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
    assert len(ALL) == 1355 and len({o.category for o in ALL}) == 173 and len(candidates()) == 1490


def test_names_are_unique():
    assert len(NAMED) == len(ALL) == len(set(ALL))
    for part in (ACTIONS, SELECTIONS): assert len({p.name for p in part}) == len(part)
    assert all(re.fullmatch(r"[a-z_]+", name) for name in NAMED)


def test_on_fresh_lists_none_is_a_copy_or_a_constant():
    assert not [o.name for o in ALL if idle(o)]


def test_on_fresh_lists_none_equals_another(): assert len({does(o) for o in ALL}) == len(ALL)


def test_whatever_was_left_out_is_idle_or_an_earlier_one_on_fresh_lists_as_well():
    stayed, place = {behaviour(o): o for o in ALL}, {o: i for i, o in enumerate(candidates())}
    reasons = Counter()
    for o in OUT:
        reasons["idle" if is_idle(o) else "equal"] += 1
        if is_idle(o): assert idle(o), o.name
        else:
            twin = stayed[behaviour(o)]
            assert does(o) == does(twin) and place[twin] < place[o], (o.name, twin.name)
            tables = [SELECTIONS.index(x.selection) for x in (twin, o)]
            assert tables == sorted(tables), (o.name, twin.name)
    assert reasons == {"idle": 66, "equal": 69}


def test_to_keep_a_kind_is_to_drop_the_others_and_the_shorter_one_stays():
    names = {o.name: o for o in candidates()}
    for kind in KINDS:
        keep = names[f"micro_keep_every_kind_{kind}"]
        drop = names[f"micro_drop_all_but_a_kind_{kind}"]
        assert does(keep) == does(drop) and drop in OUT and keep not in OUT


def test_70_pairs_agree_wherever_both_fit_as_the_chapter_says():
    "A mark behind one word is a mark ahead of the next; two choices may share a kind."
    pairs = []
    for i, a in enumerate(ALL):
        for b in ALL[i + 1:]:
            for x, y in zip(answers(a), answers(b)):
                if x != y and x is not None and y is not None: break
            else: pairs.append((a, b))
    many = [draw_words(random.Random(f"many {i}")) for i in range(4000)]
    pairs = [(a, b) for a, b in pairs if agree(a, b, many)]
    assert Counter((a.category, b.category) for a, b in pairs) == {
        ("mark after: the first of a kind", "mark before: the next one"): 20,
        ("choose kind: a place", "choose kind: a place"): 25,
        ("choose kind: the next one", "choose kind: the next one"): 25,
    }
    assert all(a.chosen == b.chosen for a, b in pairs)


@pytest.mark.parametrize("o", candidates()[::97], ids=lambda o: o.name)
def test_the_probes_are_what_the_operations_are_told_apart_by(o):
    answers = [o.solve(ws) for ws in PROBES]
    assert len(answers) == 100 and is_idle(o) == idle(o)
    if options := o.action.options:
        assert list(behaviour(o)[:2]) == options(o.changed)
        answers = [says if o.fits(ws) else "" for ws, says in zip(PROBES, answers)]
    assert list(behaviour(o)[-100:]) == answers


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
    picked = o.picked(words)
    if not picked or (len(picked) == len(words) and o.selection.name != "all"):
        assert not o.fits(words)
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
    lost = {o.category for o in OUT}
    groups = defaultdict(list)
    for o in ALL: groups[o.category].append(o)
    for category, group in groups.items():
        if category in lost: continue
        for value in (lambda o: o.changed, lambda o: o.chosen):
            assert len(set(Counter(map(value, group)).values())) == 1, category
    for a in ACTIONS:
        counts = Counter(o.changed for o in ALL if o.action is a)
        assert set(counts) == set(a.arguments), a.name
        assert len(set(counts.values())) == 1, a.name


def test_no_question_was_left_out_and_so_all_choices_stay():
    assert all(o.action.options is None for o in OUT)
    assert {o.changed for o in ALL if o.action.name == "choose kind"} == {*CHOICES}


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
        assert a.picked(words) and b.picked(between) and len(between) > 3
        assert both.solve(words) == (" ".join(b.apply(between)) or "none")
    assert both.name.startswith(a.name) and both.name.endswith(b.name.removeprefix("micro_"))
    for group, n in (("asked", 12), ("told", 6), ("new", 1)):
        said = wordings(both, group)
        assert len(said) == n and all("{" not in text and text[0].isupper() for text in said)


def test_an_operation_is_equal_to_one_of_the_same_parts():
    o = ALL[0]
    assert Operation(o.action, o.selection, o.changed, o.chosen) == o != ALL[1]
