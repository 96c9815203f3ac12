"""Told or asked: four new actions do what they say, no cell sees what it must not see, and the page
says what the record says."""
from functools import cache
from pathlib import Path

import pytest
from conftest import check_claims_of_page, check_that_no_run_is_repeated, record_and_page, tiny_t5

from instop_nb import told_and_asked
from instop_nb.core import TaskError
from instop_nb.operations import behaviour, is_held_out, operations
from instop_nb.study import reproduce
from instop_nb.told_and_asked import (
    CELLS, NEW_ACTIONS, STUDIES, asked_pairs, cells_of, new_operations, run_told, told_pairs,
)
from instop_nb.words import FORMS

NOTEBOOK = Path(__file__).resolve().parent.parent / "nbs" / "3_studies" / "37_told_and_asked.ipynb"
WORDS = "fox fig owl saw".split()
FIRST = {"size": [FORMS["size"]["fox"]], "friend": [FORMS["friend"]["fox"], "fig", "owl", "saw"],
         "around": ["star", "fox", "star", "fig", "owl", "saw"],
         "thrice": ["fox", "fox", "fox", "fig", "owl", "saw"]}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory): return tiny_t5(tmp_path_factory.mktemp("tiny"))


@cache
def phrases_of(name):
    "All that the books and the tuning may say of a new action."
    return {o.say(i, j) for group in new_operations(name) for o in group
            for i in range(7) for j in range(5)}


def told_of(name, texts):
    "Whether any of the texts tells of a new action."
    whole = "\n".join(texts).lower()
    return any(phrase in whole for phrase in phrases_of(name))


@pytest.mark.parametrize("name", NEW_ACTIONS)
def test_a_new_action_does_what_it_says(name):
    o = next(o for group in new_operations(name) for o in group
             if o.selection.name == "a place" and o.chosen == "first")
    assert o.apply(WORDS) == FIRST[name]
    assert len(new_operations(name)) == 14


def test_only_marks_around_one_word_do_what_an_old_operation_does():
    old = {behaviour(o) for o in operations() if o.action.name != "size"}
    same = [o for name in NEW_ACTIONS for g in new_operations(name) for o in g
            if behaviour(o) in old]
    assert len(same) == 12
    assert {(o.action.name, o.selection.name) for o in same} == {("around", "a place")}


@pytest.mark.parametrize("block", [0, 4])
def test_four_seeds_put_each_action_into_each_cell(block):
    for cell in CELLS:
        assert {cells_of(seed)[cell] for seed in range(block, block + 4)} == {*NEW_ACTIONS}
    assert all({*cells_of(seed).values()} == {*NEW_ACTIONS} for seed in range(8))


@pytest.mark.parametrize("seed", [0, 3])
def test_no_cell_sees_what_it_must_not_see(seed, tiny, monkeypatch, tmp_path):
    seen = {}
    def fit(model, tokenizer, pairs, home, *_, **__):
        seen[Path(home).name.split("-")[0]] = [source for source, _ in pairs]
        return model
    monkeypatch.setattr(told_and_asked, "fit", fit)
    run_told(tmp_path / "run", seed, .02, "micro", tiny)
    cells = cells_of(seed)
    for cell, name in cells.items():
        assert told_of(name, seen["read"]) == ("told" in cell), (cell, name)
        assert told_of(name, seen["tuned"]) == ("asked" in cell), (cell, name)


def test_texts_of_books_never_stop_with_the_result_nor_show_lists_of_the_test():
    for given, after in told_pairs(["thrice", "around"], 200):
        assert ". " in after
        words = [w for w in given.replace(",", " ").replace(".", " ").split() if w in FORMS["kind"]]
        assert not is_held_out(" ".join(words))
    for source, _ in asked_pairs(["friend"], 200):
        assert not is_held_out(source.split("Input: ")[1].split(".\n")[0])


def test_questions_and_stories_are_held_out_and_right(tiny, monkeypatch, tmp_path):
    asked = {}
    def said(model, tokenizer, sources, max_new_tokens):
        asked["sources"] = sources
        return ["wrong"] * len(sources)
    def knows(model, tokenizer, stories):
        asked["stories"] = stories
        return {"knows": 12.5}
    monkeypatch.setattr(told_and_asked, "answers", said)
    monkeypatch.setattr(told_and_asked, "skill", knows)
    found = run_told(tmp_path / "run", 0, .01, "micro", tiny, cell="neither")
    assert found == {"follows": 0, "knows": 12.5}
    assert all(is_held_out(s.split("Input: ")[1].split(".\n")[0]) for s in asked["sources"])
    name = cells_of(0)["neither"]
    assert told_of(name, [asked["sources"][0]]) and told_of(name, [asked["stories"][0][0]])


def test_files_of_tasks_are_refused_with_advice(tmp_path):
    with pytest.raises(TaskError, match="data: found 'tasks'; leave out --data"):
        run_told(tmp_path, 0, .01, "tasks", "micro")


def test_the_study_runs_and_repeats_nothing(tiny, tmp_path):
    study, options = STUDIES["told"], dict(scale=.005, model=tiny)
    record = reproduce(study, tmp_path / "runs", seeds=1, workers=1, quiet=True, **options)
    assert [run["arm"] for run in record["runs"]] == [*study.arms]
    check_that_no_run_is_repeated(study, tmp_path / "runs", record, **options)


def test_the_page_agrees_with_the_record():
    record, printed, lines = record_and_page(STUDIES["told"], NOTEBOOK)
    check_claims_of_page("told", record, printed, lines)
