"""The first world: enough tasks, right answers, sound splits, and inputs that give nothing away."""
import random
import zlib
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instop_nb.core import TaskError
from instop_nb.first_books import chance, one_shot_ceiling, world_text, write_world
from instop_nb.first_categories import CATEGORIES, definitions
from instop_nb.first_world import (
    WORLD, draw_words, is_held_out, make_instances, micro_tasks, novelty, solve,
)
from instop_nb.survey import validate_tasks
from instop_nb.tasks import Task, load_tasks
from instop_nb.words import KIND, KINDS


def test_the_world_is_as_large_as_promised():
    tasks = micro_tasks(n_instances=1)
    assert len(tasks) >= 200 and len({t.category for t in tasks}) >= 22
    assert all(
        len(t.definition) >= 4
        and len(set(t.definition)) == 4
        and len(t.positive) >= 2
        and len(t.negative) >= 2
        for t in tasks
    )
    assert all(e.explanation for t in tasks for e in t.positive + t.negative)
    assert {novelty(t.name) for t in tasks} == {"seen", "argument", "pair", "primitive"}
    yes_no = [t for t in tasks if t.category.endswith("?")]
    assert len(yes_no) >= 50 and len({t.category for t in yes_no}) >= 4


# Answers worked out by hand from the definitions, without the code that makes them.
LIST = "hat fox fig saw bus owl"  # garment, animal, fruit, tool, vehicle, animal

@pytest.mark.parametrize(
    "name, answer",
    [
        ("position_second_itself", "fox"), ("position_last_kind", "animal"),
        ("kind_tool_itself", "saw"), ("kind_animal_itself", "fox"),
        ("two_kinds_vehicle_fruit", "bus fig"), ("ends_last_two_itself", "bus owl"),
        ("ends_first_three_itself", "hat fox fig"), ("keep_animal_itself", "fox owl"),
        ("replace_animal_dot", "hat dot fig saw bus dot"),
        ("mark_star_start_and_end", "star hat fox fig saw bus owl star"),
        ("drop_then_mark_drop_every_animal_add_moon_at_the_start", "moon hat fig saw bus"),
        ("reorder_then_pick_turn_the_list_around_write_only_the_first_two_words", "owl bus"),
        (
            "reorder_then_mark_move_the_first_word_to_the_end_add_star_at_the_end",
            "fox fig saw bus owl hat star",
        ),
        (
            "reorder_then_mark_swap_the_first_and_the_last_word_add_dot_at_the_start",
            "dot owl fox fig saw bus hat",
        ),
        ("cut_then_mark_leave_out_the_third_word_add_dot_at_the_end", "hat fox saw bus owl dot"),
        ("which_kind_first_garment_vehicle", "yes"), ("which_kind_second_garment_vehicle", "no"),
        ("order_animal_tool", "yes"), ("order_vehicle_garment", "no"),
        ("swap_kinds_animal_tool", "hat saw fig fox bus owl"),
        ("repeat_second_three", "fox fox fox"), ("sort_animal_first", "fox owl hat fig saw bus"),
        ("every_second_second_itself", "fox saw owl"),
    ],
)
def test_answers(name, answer):
    assert solve(f"micro_{name}", LIST) == answer


def test_every_instance_has_the_answer_of_its_task():
    assert all(
        solve(t.name, i.input) == i.output[0]
        for t in micro_tasks(n_instances=5)
        for i in t.instances
    )
    assert all(
        solve(t.name, e.input) == e.output for t in micro_tasks(n_instances=1) for e in t.positive
    )
    assert all(
        solve(t.name, e.input) != e.output for t in micro_tasks(n_instances=1) for e in t.negative
    )


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 5), st.integers(0, 5))
def test_no_held_out_instance_is_ever_trained_on(n_train, n_test, seed, other_seed):
    train = {
        i.input
        for t in random.Random(seed).sample(micro_tasks("train", n_train, seed), 40)
        for i in t.instances
    }
    test = {
        i.input
        for s in ("combinations", "categories")
        for t in micro_tasks(s, n_test, other_seed)[:20]
        for i in t.instances
    }
    again = {
        i.input
        for t in micro_tasks("train", 2, other_seed, held_out=True)[:20]
        for i in t.instances
    }
    assert not train & (test | again)


def test_splits_do_not_depend_on_sizes_or_seeds():
    names = {
        split: [t.name for t in micro_tasks(split, 1)]
        for split in ("train", "combinations", "categories")
    }
    for n, seed in ((3, 7), (20, 1)):
        assert names == {split: [t.name for t in micro_tasks(split, n, seed)] for split in names}
    assert (
        sum(map(len, names.values()))
        == len(WORLD)
        == len({n for part in names.values() for n in part})
    )
    c, a, _ = WORLD[names["train"][0]]
    assert (
        make_instances(c, a, "t", 9)[:4]
        == make_instances(c, a, "t", 4)
        != make_instances(c, a, "t", 4, seed=1)
    )


def test_no_unseen_task_is_a_seen_one_in_other_words():
    probes = [" ".join(draw_words(random.Random(f"probe {i}"))) for i in range(80)]
    behaviour = Counter(tuple(solve(name, x) for x in probes) for name in WORLD)
    assert max(behaviour.values()) == 1
    wordings = Counter(d for c, a, _ in WORLD.values() for d in definitions(c, a))
    assert max(wordings.values()) == 1


def test_held_out_values_are_balanced_and_every_value_is_trained_as_a_target():
    for c in CATEGORIES:
        if c.unseen: continue
        tasks = [(a, n) for category, a, n in WORLD.values() if category is c]
        held, kept = ([a for a, n in tasks if (n != "seen") == unseen] for unseen in (True, False))
        count = Counter(v for a in held for v in a)
        for slot in range(len(held[0])):
            values = {a[slot] for a, _ in tasks}
            assert max(count[v] for v in values) - min(count[v] for v in values) <= 1, (
                c.name, count,
            )
            assert values <= {v for a in kept for v in a}, c.name


def test_inputs_do_not_give_their_task_away():
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.naive_bayes import MultinomialNB
    places = lambda text: text.split() + [f"{i} {w}" for i, w in enumerate(text.split())]
    train, fresh = micro_tasks("train", 150), micro_tasks("train", 30, seed=1)
    vector = CountVectorizer(analyzer=places)
    model = MultinomialNB().fit(
        vector.fit_transform([i.input for t in train for i in t.instances]),
        [t.name for t in train for _ in t.instances],
    )
    right = sum(
        (model.predict(vector.transform([i.input for i in t.instances])) == t.name).sum()
        for t in fresh
    )
    n = 30 * len(fresh)
    chance_, sd = n / len(fresh), (n / len(fresh)) ** 0.5
    assert abs(right - chance_) < 4 * sd


def test_the_leak_test_would_see_a_leak():
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.naive_bayes import MultinomialNB
    tasks = micro_tasks("train", 60)[:40]
    leaked = lambda t, i: i.input + (" fox" if zlib.crc32(t.name.encode()) % 2 else " hat")
    vector = CountVectorizer()
    x = vector.fit_transform([leaked(t, i) for t in tasks for i in t.instances])
    y = [t.name for t in tasks for _ in t.instances]
    assert (MultinomialNB().fit(x, y).predict(x) == y).mean() > 1.5 / len(tasks)


def test_chance_and_ceiling():
    bars = chance(micro_tasks("train", 40))
    assert all(45 <= bars[c]["constant"] <= 66 for c in bars if c.endswith("?"))
    assert all(max(bars[c].values()) <= 30 for c in bars if not c.endswith("?"))
    sample = micro_tasks(None, 1)[::5]
    one, two = one_shot_ceiling(sample), one_shot_ceiling(sample, 2)
    assert 50 < one < two < 100


def test_text_for_pretraining_holds_no_evaluation():
    unseen = {d for c, a, n in WORLD.values() if n != "seen" for d in definitions(c, a)}
    text = world_text(4000, seed=3)
    assert not [said for _, said in text if any(u in said for u in unseen)]
    lists = [given[:-2] for given, _ in text if given]
    assert len(lists) > 2000 and not any(is_held_out(words) for words in lists)


def test_inputs_hold_every_kind_and_no_word_twice():
    for i in range(300):
        words = draw_words(random.Random(i))
        assert {KIND[w] for w in words} == set(KINDS) and len(set(words)) == len(words) in (5, 6, 7)


def test_written_world_is_valid_and_the_same(tmp_path):
    write_world(tmp_path, 2)
    tasks, problems = validate_tasks(tmp_path)
    assert not problems and len(tasks) == len(WORLD)
    for t in load_tasks(tmp_path, "train")[:30]:
        again = next(x for x in micro_tasks("train", 2) if x.name == t.name)
        assert (t.definition, t.positive, t.negative, t.instances) == (
            again.definition, again.positive, again.negative, again.instances,
        )
        assert Task.from_json(again.to_json(), again.name).to_json() == again.to_json()


def test_unknown_split_is_an_error():
    with pytest.raises(TaskError, match="choose from"): micro_tasks("dev")


@pytest.mark.parametrize("n", [0, -1])
def test_a_task_needs_an_instance(n, tmp_path):
    with pytest.raises(TaskError, match="at least 1"): micro_tasks("train", n)
    with pytest.raises(TaskError, match="at least 1"): write_world(tmp_path, n)
