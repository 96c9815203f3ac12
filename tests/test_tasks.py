"""Tasks: nothing is lost from file to file, every slip is named, no unseen task is seen."""
import copy
import errno
import json
import os
import pickle
import time
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import pytest
from hypothesis import given, settings, strategies as st
from pydantic import BaseModel, Field

from instop_nb import schema, survey as survey_chapter, tasks as chapter
from instop_nb.cards import task_table
from instop_nb.core import (
    NOTHING, Table, TaskError, cell, json_lines, printable, read_text, whole_files, write_whole,
)
from instop_nb.schema import Advice
from instop_nb.survey import collection_flaws, digest, survey, task_flaws, validate_tasks
from instop_nb.tasks import (
    Example, Instance, Task, leave_out, load_tasks, random_split, read_task, task_file, write_task,
)

REAL = Path(__file__).resolve().parents[2] / "shared" / "natural-instructions"
needs_real = pytest.mark.skipif(
    not REAL.is_dir(), reason="../shared/natural-instructions is not here"
)

SUPER_NI = {
    "Contributors": ["nobody"], "Source": ["shelf"], "URL": [float("nan")],
    "Categories": ["Counting"], "Reasoning": [], "Definition": ["Count the books."],
    "Positive Examples": [
        {"input": "book, book", "output": "2", "explanation": "There are two of them."}
    ],
    "Negative Examples": [
        {"input": "book", "output": "one", "explanation": "A numeral is asked for.", "seen_by": 3}
    ],
    "Instances": [
        {"id": "a", "input": "book", "output": ["1"]},
        {"id": "b", "input": "", "output": ["0", ""], "level": None},
    ],
    "Instance License": ["CC0"],
}
V1 = {
    "Title": "Counting books", "Prompt": "How many books?", "Definition": "Count the books.",
    "Things to Avoid": "-", "Emphasis & Caution": "Answer with a numeral.",
    "Colour": {"cover": "red"},
    "Examples": {
        "Positive Examples": [
            {"input": "book, book", "output": "2", "reason": "There are two of them."}
        ],
        "Negative Examples": [
            {"input": "book", "output": "one", "reason": "No numeral.", "suggestion": "Write 1."}
        ],
    },
    "Instances": [
        {"input": "book", "output": ["1", "one book"]}, {"input": "nothing", "output": ["0"]},
    ],
}


def same(a, b): return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)


def changed(data, path, value):
    "Return a copy of a JSON value in which one place holds another value; `del_`: nothing."
    data = copy.deepcopy(data)
    *way, last = path
    place = data
    for key in way: place = place[key]
    if value is del_: del place[last]
    else: place[last] = value
    return data


del_ = object()


# Both schemas, and back

@pytest.mark.parametrize("data", [SUPER_NI, V1], ids=["super-ni", "v1"])
def test_reading_and_writing_gives_the_same_value(data, tmp_path):
    task = Task.from_json(copy.deepcopy(data), "books")
    assert same(task.to_json(), data) and list(task.to_json()) == list(data)
    assert same(read_task(write_task(task, tmp_path / "books.json")).to_json(), data)


def test_both_schemas_mean_the_same():
    new, old = Task.from_json(SUPER_NI, "books"), Task.from_json(V1, "books")
    assert new.definition == old.definition == ["Count the books."]
    assert new.positive == old.positive == [Example("book, book", "2", "There are two of them.")]
    assert old.negative == [Example("book", "one", "No numeral.", "Write 1.")]
    assert (old.title, old.prompt, old.avoid, old.emphasis) == (
        "Counting books", "How many books?", "-", "Answer with a numeral.",
    )
    assert (new.schema, new.category, new.sources) == ("super-ni", "Counting", ["shelf"])
    assert (old.schema, old.category, old.sources) == ("v1", "unknown", [])
    assert [i.id for i in new.instances] == ["a", "b"] and [i.id for i in old.instances] == [
        "books-0", "books-1",
    ]
    assert new.instances[1].extra == {"level": None}


@pytest.mark.parametrize(
    "habit",
    [
        {"Definition": ["Count the books."]}, {"Categories": ["Counting"]},
        {"Categories": "Counting"}, {"Examples": {}},
        {"Examples": {"Positive Examples": "-", "Negative Examples": ["-"]}},
        {"Examples": {"Positive Examples": [], "Links": "-"}},
        {"Instances": [{"id": "x", "input": "a", "output": ["b"]}]},
    ],
)
def test_habits_of_version_1_survive(habit):
    assert same(Task.from_json(V1 | habit, "books").to_json(), V1 | habit)


@pytest.mark.parametrize(
    "habit",
    [
        {"Definition": "Count the books."}, {"Categories": "Counting"}, {"Categories": []},
        {"Source": "shelf"}, {"Source": None}, {"Title": "Books"}, {"Examples": "of what?"},
        {"Positive Examples": []},
        {
            "Negative Examples": [
                {"input": "a", "output": "b"},
                {"input": "a", "output": "b", "explanation": "", "reason": "c"},
            ]
        },
        {"Instances": [{"input": "a", "output": ["b"]}]},
    ],
)
def test_habits_of_super_ni_survive(habit):
    assert same(Task.from_json(SUPER_NI | habit, "books").to_json(), SUPER_NI | habit)


def test_a_missing_key_stays_missing():
    for key in set(SUPER_NI) - {
        "Categories", "Definition", "Positive Examples", "Negative Examples", "Instances",
    }:
        data = changed(SUPER_NI, [key], del_)
        assert same(Task.from_json(data, "books").to_json(), data)
    for key in ("Title", "Prompt", "Things to Avoid", "Emphasis & Caution"):
        data = changed(V1, [key], del_)
        assert same(Task.from_json(data, "books").to_json(), data)


def test_what_is_changed_is_written_and_nothing_else():
    task = Task.from_json(SUPER_NI, "books")
    assert same(
        replace(task, definition=["How many?"]).to_json(), SUPER_NI | {"Definition": ["How many?"]}
    )
    assert same(
        replace(task, instances=task.instances[1:]).to_json(),
        SUPER_NI | {"Instances": SUPER_NI["Instances"][1:]},
    )
    assert same(replace(task, positive=[]).to_json(), SUPER_NI | {"Positive Examples": []})
    old = Task.from_json(V1, "books")
    assert same(replace(old, prompt="").to_json(), V1 | {"Prompt": ""})
    assert old.to_json()["Examples"] == V1["Examples"]


def test_a_task_made_by_hand_is_written_whole():
    task = Task(
        "sum", ["Add."], [Example("1 1", "2")], [], [Instance("sum-0", "2 2", ["4"])], ["Numbers"],
        raw={"Source": ["head"]},
    )
    assert task.to_json() == {
        "Source": ["head"], "Categories": ["Numbers"], "Definition": ["Add."],
        "Positive Examples": [{"input": "1 1", "output": "2"}], "Negative Examples": [],
        "Instances": [{"id": "sum-0", "input": "2 2", "output": ["4"]}],
    }
    old = Task(
        "sum", ["Add."], instances=[Instance("sum-0", "2 2", ["4"])], prompt="Add!", schema="v1"
    )
    assert old.to_json()["Definition"] == "Add." and old.to_json()["Title"] == ""
    assert (
        Task.from_json(old.to_json(), "sum") == old
        and Task.from_json(task.to_json(), "sum") == task
    )


def test_the_value_read_is_not_shared():
    data = copy.deepcopy(SUPER_NI)
    task = Task.from_json(data, "books")
    task.definition[0], task.instances[0].output[0] = "changed", "changed"
    task.to_json()["Instances"][1]["output"].append("changed")
    assert same(data, SUPER_NI) and task.instances[1].output == ["0", ""]


texts = st.text(max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
words = st.text(min_size=1, max_size=20).filter(str.strip)


def rows(reason):
    known = st.fixed_dictionaries(
        {"input": texts, "output": texts},
        optional={reason: texts, "suggestion": texts, "note": values},
    )
    return st.lists(known, max_size=3)


def instances(**optional):
    known = st.fixed_dictionaries(
        {"input": texts, "output": st.lists(texts, min_size=1, max_size=3), **optional},
        optional={"note": values},
    )
    return st.lists(known, min_size=1, max_size=4, unique_by=lambda row: row.get("id", id(row)))


others = st.dictionaries(texts.map("other {}".format), values, max_size=3)
super_ni = st.builds(
    dict.__or__, others,
    st.fixed_dictionaries(
        {
            "Definition": words | st.lists(words, min_size=1, max_size=3),
            "Categories": texts | st.lists(texts, max_size=2),
            "Positive Examples": rows("explanation"), "Negative Examples": rows("explanation"),
            "Instances": instances() | instances(id=texts),
        },
        optional={"Source": values, "URL": values, "Title": texts},
    ),
)
v1 = st.builds(
    dict.__or__, others,
    st.fixed_dictionaries(
        {
            "Definition": words, "Instances": instances() | instances(id=texts),
            "Examples": st.fixed_dictionaries(
                {},
                optional={
                    "Positive Examples": rows("reason") | st.sampled_from(["-", ["-"]]),
                    "Negative Examples": rows("reason") | st.sampled_from(["-", ["-"]]),
                    "note": values,
                },
            ),
        },
        optional={
            "Title": texts, "Prompt": texts, "Things to Avoid": texts, "Emphasis & Caution": texts,
            "Categories": st.lists(texts),
        },
    ),
)


@settings(max_examples=200, deadline=None)
@given(super_ni | v1)
def test_any_task_survives(data):
    before = copy.deepcopy(data)
    task = Task.from_json(data, "any")
    assert same(task.to_json(), before) and same(data, before)
    again = Task.from_json(json.loads(json.dumps(task.to_json())), "any")
    assert again == task and "any" in repr(task) and isinstance(task._repr_markdown_(), str)


# Slips

@pytest.mark.parametrize(
    "path, value, field, says",
    [
        (["Definition"], del_, "Definition", 'add the key "Definition"'),
        (["Definition"], 3, "Definition", "write a list"),
        (["Definition"], [], "Definition", "at least one"),
        (["Definition"], "", "Definition", "in words"),
        (["Definition"], ["fine", " \n"], "Definition", "in words"),
        (["Definition"], ["fine", 3], "Definition[1]", "write a string"),
        (["Categories"], del_, "Categories", "add the key"),
        (["Categories"], {"a": 1}, "Categories", "write a list"),
        (["Positive Examples"], del_, "Positive Examples", "add the key"),
        (["Positive Examples"], "none", "Positive Examples", "write a list"),
        (["Positive Examples", 0], "book", "Positive Examples[0]", "write an object"),
        (["Positive Examples", 0, "output"], del_, "Positive Examples[0].output", "add the key"),
        (
            ["Positive Examples", 0, "output"], ["2"], "Positive Examples[0].output",
            "write a string",
        ),
        (
            ["Negative Examples", 0, "explanation"], None, "Negative Examples[0].explanation",
            "write a string",
        ),
        (["Instances"], del_, "Instances", "add the key"),
        (["Instances"], [], "Instances", "at least one"),
        (["Instances"], {"id": 1}, "Instances", "write a list"),
        (["Instances", 1], ["book"], "Instances[1]", "write an object"),
        (["Instances", 1, "input"], del_, "Instances[1].input", "add the key"),
        (["Instances", 1, "input"], 7, "Instances[1].input", "write a string"),
        (["Instances", 1, "output"], del_, "Instances[1].output", "add the key"),
        (["Instances", 1, "output"], "1", "Instances[1].output", "write a list"),
        (["Instances", 1, "output"], [], "Instances[1].output", "at least one"),
        (["Instances", 1, "output"], [1], "Instances[1].output[0]", "write a string"),
        (["Instances", 1, "id"], del_, "Instances[1].id", "give each"),
        (["Instances", 1, "id"], 7, "Instances[1].id", "write a string"),
        (["Instances", 1, "id"], "a", "Instances[1].id", "give each"),
    ],
)
def test_each_slip_is_named(path, value, field, says, tmp_path):
    file = tmp_path / "books.json"
    file.write_text(json.dumps(changed(SUPER_NI, path, value)))
    with pytest.raises(TaskError) as caught: read_task(file)
    assert (caught.value.file, caught.value.field) == (file, field) and says in caught.value.advice
    assert (
        str(file) in str(caught.value) and field in str(caught.value) and says in str(caught.value)
    )
    tasks, problems = validate_tasks(tmp_path)
    assert not tasks and [str(p) for p in problems] == [str(caught.value)]


@pytest.mark.parametrize(
    "path, value, field",
    [
        (["Definition"], del_, "Definition"), (["Examples"], 3, "Positive Examples"),
        (["Instances"], del_, "Instances"), (["Things to Avoid"], ["a"], "Things to Avoid"),
        (["Examples", "Positive Examples", 0, "reason"], 3, "Positive Examples[0].reason"),
        (["Instances", 0, "output"], "1", "Instances[0].output"),
        (["Instances", 1, "id"], "x", "Instances[0].id"),
    ],
)
def test_each_slip_of_version_1_is_named(path, value, field):
    with pytest.raises(TaskError) as caught: Task.from_json(changed(V1, path, value), "books")
    assert caught.value.field == field and caught.value.file == "books"


@pytest.mark.parametrize(
    "text, says",
    [
        (b"", "line 1, column 1"),
        (b'{"Definition": ["a"],\n "Instances": ]}', "line 2, column 15"),
        (b"[1, 2]", "write an object"), (b"\xff\xfe{}", "UTF-8"), (b"[" * 100_000, "UTF-8"),
        (b"null", "write an object"),
    ],
)
def test_unreadable_files_are_named(text, says, tmp_path):
    (tmp_path / "bad.json").write_bytes(text)
    with pytest.raises(TaskError, match="bad.json") as caught: read_task(tmp_path / "bad.json")
    assert says in str(caught.value) and len(str(caught.value)) < 400


def test_a_byte_order_mark_is_no_slip(tmp_path):
    (tmp_path / "books.json").write_text(json.dumps(SUPER_NI), encoding="utf-8-sig")
    assert same(read_task(tmp_path / "books.json").to_json(), SUPER_NI)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([SUPER_NI, V1]), st.data())
def test_any_value_anywhere_is_read_or_refused(data, draw):
    path, place = [], data
    while isinstance(place, (dict, list)) and place and (not path or draw.draw(st.booleans())):
        key = draw.draw(
            st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place)))
        )
        path.append(key); place = place[key]
    data = changed(data, path, draw.draw(values | st.just(del_)))
    try: task = Task.from_json(copy.deepcopy(data), "any")
    except TaskError as error:
        assert len(str(error)) < 300 and str(pickle.loads(pickle.dumps(error))) == str(error)
    else:
        assert same(task.to_json(), data) and all(
            flaw.file == "any" and len(str(flaw)) < 400 for flaw in task_flaws(task)
        )


class OtherError(TaskError): "One of another module."


@pytest.mark.parametrize("kind", [TaskError, OtherError])
@pytest.mark.parametrize(
    "value",
    [
        NOTHING, None, "a" * 1000, [[["x"]]], print, lambda: 0, (n for n in "ab"), ValueError("no"),
        OSError(2, "No such file"),
    ],
)
def test_an_error_says_the_same_in_another_process(kind, value):
    error = kind(Path("a.json"), "Instances[3]", value, "write a list")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind and str(again) == str(error) == str(
        pickle.loads(pickle.dumps(again))
    )
    assert (again.file, again.field, again.advice) == (error.file, error.field, error.advice)


def test_errors_of_every_way_in_survive_pickle(tmp_path):
    (tmp_path / "bad.json").write_text("{}")
    for request in (
        lambda: load_tasks(tmp_path, "train"), lambda: load_tasks(tmp_path),
        lambda: load_tasks(tmp_path / "nowhere"), lambda: read_text(tmp_path),
        lambda: read_task(tmp_path / "absent.json"), lambda: task_file(tmp_path, "worse"),
        lambda: load_tasks(tmp_path, n_instances=0),
    ):
        with pytest.raises(TaskError) as caught: request()
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


HALF = "cut \ud83d off"
PLACES = [
    (SUPER_NI, path, field)
    for path, field in [
        (["Definition", 0], "Definition[0]"), (["Definition"], "Definition"),
        (["Categories", 0], "Categories[0]"), (["Source"], "Source"), (["URL", 0], "URL[0]"),
        (["Positive Examples", 0, "input"], "Positive Examples[0].input"),
        (["Negative Examples", 0, "seen_by"], "Negative Examples[0].seen_by"),
        (["Instances", 0, "id"], "Instances[0].id"),
        (["Instances", 1, "input"], "Instances[1].input"),
        (["Instances", 1, "output", 1], "Instances[1].output[1]"),
        (["Instances", 1, "level"], "Instances[1].level"), (["Notes"], "Notes"),
        (["Reasoning"], "Reasoning"),
    ]
] + [
    (V1, ["Prompt"], "Prompt"),
    (V1, ["Examples", "Positive Examples", 0, "reason"], "Examples.Positive Examples[0].reason"),
    (V1, ["Colour", "cover"], "Colour.cover"),
]


@pytest.mark.parametrize("data, path, field", PLACES)
def test_half_a_sign_is_named_where_it_stands(data, path, field, tmp_path):
    file = tmp_path / "books.json"
    file.write_text(json.dumps(changed(data, path, HALF)))
    for read in (
        lambda: read_task(file), lambda: load_tasks(tmp_path),
        lambda: Task.from_json(changed(data, path, HALF), "books", file),
    ):
        with pytest.raises(TaskError, match="half a sign") as caught: read()
        assert (caught.value.file, caught.value.field) == (file, field)
    for found in (validate_tasks(tmp_path), survey(tmp_path)):
        assert not found[0] and [p.field for p in found[1]] == [field]


def test_half_a_sign_in_a_key_a_row_and_a_file_name(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(SUPER_NI | {HALF: {HALF: [HALF]}}))
    assert [p.field for p in validate_tasks(tmp_path)[1]] == [
        HALF, f"{HALF}.{HALF}", f"{HALF}.{HALF}[0]",
    ]
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"a": 1}) + "\n" + json.dumps({"a": {"b": ["x", HALF]}}))
    with pytest.raises(TaskError, match=r"rows.jsonl, line 2: a.b\[1\]: found .*half a sign"):
        list(json_lines(rows))
    with open(os.path.join(os.fsencode(tmp_path), b"n\xff.json"), "w") as file:
        json.dump(SUPER_NI, file)
    assert (
        "rename" in str(validate_tasks(tmp_path)[1][-1])
        and str(validate_tasks(tmp_path)[1][-1]).isprintable()
    )


def test_whole_signs_are_no_slip(tmp_path):
    data = changed(SUPER_NI, ["Definition", 0], "Smile \U0001F600 \\ud83d")
    for escaped in (True, False):
        (tmp_path / "books.json").write_text(
            json.dumps(data, ensure_ascii=escaped), encoding="utf-8"
        )
        assert read_task(tmp_path / "books.json").definition == data["Definition"]


def test_a_schema_compares_and_converts_nothing():
    class Lesson(BaseModel):
        title: str
        words: Annotated[list[str], Field(min_length=2), Advice("write two strings")] = []
        minutes: float = 5
        again: bool = False

    def said(data, *more): return [(e.field, e.advice) for e in errors(Lesson, data, "a", *more)]
    errors = schema.schema_errors
    assert said({"title": "a", "minutes": 3, "by": None}) == []
    slips = {"again": 1, "minutes": True, "words": ["a"], "title": 3}
    assert said(slips) == [
        ("title", "write a string"), ("words", "write two strings"), ("minutes", "write a number"),
        ("again", "write true or false"),
    ]
    assert slips == {"again": 1, "minutes": True, "words": ["a"], "title": 3}
    assert said(3) == [("the file", "write an object: {}")]
    assert said({}, "lessons[2]") == [("lessons[2].title", 'add the key "title"')]
    assert said({}, "line 3: ") == [("line 3: title", 'add the key "title"')]
    assert said(3, "[2]", schema.ADVICE | {"model_type": "other"}) == [("[2]", "other")]
    assert errors(Lesson, {}, "a")[0].value is NOTHING


def test_a_deep_value_is_read_or_refused(tmp_path):
    for depth in (200, 900, 2000):
        for inside in ("1", '"\\ud83d"'):
            (tmp_path / "deep.json").write_text(
                json.dumps(SUPER_NI)[:-1] + ', "deep": ' + "[" * depth + inside + "]" * depth + "}"
            )
            tasks, problems = validate_tasks(tmp_path)
            assert len(tasks) + len(problems) == 1 and all(len(str(p)) < 500 for p in problems)


def test_nothing_but_a_file_is_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    os.symlink("/dev/zero", tmp_path / "zero.json"); os.symlink("nowhere", tmp_path / "gone.json")
    (tmp_path / "folder.json").mkdir()
    assert [Path(p.file).name for p in survey(tmp_path).problems] == [
        "folder.json", "gone.json", "pipe.json", "zero.json",
    ]
    for name in ("pipe.json", "zero.json", "folder.json"):
        with pytest.raises(TaskError, match="regular file"): list(json_lines(tmp_path / name))
    with pytest.raises(FileNotFoundError, match="no such file"):
        list(json_lines(tmp_path / ("x" * 5000)))
    with pytest.raises(TaskError, match="folder of task files"): load_tasks("x" * 5000)


def test_a_message_moves_no_terminal_and_is_short(tmp_path):
    (tmp_path / "a\x1b[2J.json").write_text(
        json.dumps(changed(SUPER_NI, ["Instances", 0, "output"], "\x1b]0;x\x07\x9b" * 1000))
    )
    text = str(validate_tasks(tmp_path)[1][0])
    assert text.isprintable() and len(text) < len(str(tmp_path)) + 300
    assert (
        len(str(TaskError("a", "k" * 10**6, 1, "b"))) < 300
        and printable("ä \xa0 猫\u3000\n\u202e") == "ä \xa0 猫\u3000\\n\\u202e"
    )
    assert "\x1b" not in cell("a\x1b[31m") and cell("a\nb") == "a<br>b"


@pytest.mark.parametrize(
    "line, says",
    [
        ("1" * 5000, "not JSON"), ('{"a": ' + "1" * 5000 + "}", "not JSON"),
        ("[" * 100_000, "not JSON"), ("{'a': 1}", "not JSON"), ('"text"', "is not an object"),
        ("NaN", "is not an object"),
    ],
)
def test_a_line_that_is_no_row_is_named(tmp_path, line, says):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + f'{{"a": 1}}\n\ufeff{{"a": 2}}\r\n{line}\n'.encode())
    rows = json_lines(path)
    assert [next(rows)[1]["a"] for _ in range(2)] == [1, 2]
    with pytest.raises(ValueError) as caught: next(rows)
    assert (
        f"{path}, line 3: " in str(caught.value)
        and says in str(caught.value)
        and len(str(caught.value)) < len(str(path)) + 400
    )


# Writing

def full(*_): raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    a, b = (write_whole(tmp_path / name, name) for name in "ab")
    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="a: cannot be written.*No space"): write_whole(a, "new")
        with pytest.raises(OSError, match="b: cannot be written"), whole_files(a, b) as files:
            for file in files: file.write("new")
        with pytest.raises(OSError, match="books.json: cannot be written"):
            write_task(Task.from_json(SUPER_NI, "books"), tmp_path / "books.json")
    with pytest.raises(KeyboardInterrupt), whole_files(a, b) as files:
        files[0].write("new")
        raise KeyboardInterrupt
    with pytest.raises(TaskError, match="half a sign"): write_whole(a, HALF)
    for place in (tmp_path, "/dev/null", tmp_path / "nowhere" / "x", a / "x"):
        with pytest.raises(OSError, match="choose another"): write_whole(place, "new")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a": "a", "b": "b"}


# Flaws of what is valid

def poor(good=(), bad=(), rows=(("x", "1"),), name="poor", category="c", say="Do."):
    return Task(
        name, [say], [Example(*e) for e in good], [Example(*e) for e in bad],
        [
            Instance(f"{name}-{n}", x, list(y) if isinstance(y, (list, tuple)) else [y])
            for n, (x, y) in enumerate(rows)
        ],
        [category],
    )


@pytest.mark.parametrize(
    "task, field, says",
    [
        (poor(rows=[("x", "1"), ("  \n", "2")]), "Instances[1].input", "empty"),
        (poor(rows=[("x", ["1", ""])]), "Instances[0].output[1]", "empty"),
        (poor([("", "1")]), "Positive Examples[0].input", "empty"),
        (poor(bad=[("y", " ")]), "Negative Examples[0].output", "empty"),
        (poor(say="Stop at </s>."), "Definition[0]", "control token"),
        (poor(rows=[("<pad>x", "1")]), "Instances[0].input", "control token"),
        (poor(rows=[("x", ["1", "<extra_id_7>"])]), "Instances[0].output[1]", "control token"),
        (poor([("a", "b", "<unk>")]), "Positive Examples[0].explanation", "control token"),
        (replace(poor(), prompt="</s>"), "Prompt", "control token"),
        (poor(rows=[("x", "1"), ("y", "2"), ("x ", "1")]), "Instances[2]", "repeats Instances[0]"),
        (poor(rows=[("x", "Yes"), ("x", ["no", "yes"])]), "Instances[1]", "repeats"),
        (
            poor(rows=[("x", "1"), ("x", "2")]), "Instances[1].output",
            "Instances[0] answers the same input with ['1']",
        ),
        (poor([("q", "1"), ("x\n", "3")]), "Positive Examples[1]", "Instances[0], id poor-0"),
        (poor(bad=[("x", "3")]), "Negative Examples[0]", "Instances[0]"),
        (poor([("a", "b")], [("c", "d"), ("a", "b")]), "Negative Examples[1]", "positive example"),
    ],
)
def test_a_flaw_is_pointed_out(task, field, says, tmp_path):
    flaw, = task_flaws(task)
    assert (flaw.file, flaw.field) == ("poor", field) and says in str(flaw)
    write_task(task, tmp_path / "poor.json")
    assert [str(w) for w in survey(tmp_path).warnings] == [str(flaw)]


def test_flaws_of_one_kind_are_one_line():
    flaw, = task_flaws(poor(rows=[("x", "1")] * 5))
    assert flaw.field == "Instances[1]" and "3 more" in str(flaw)
    assert len(task_flaws(poor(rows=[("", "1")] * 3))) == 1, "blank inputs are blank, not repeated"
    assert (
        task_flaws(
            poor([("a", "1")], [("a", "2")], [("x", "1"), ("y", "1"), ("a < b > c </p> <s", "1")])
        )
        == []
    )


ROWS = [(f"x{n}", f"{n}") for n in range(10)]


@pytest.mark.parametrize(
    "other, n",
    [
        (poor(rows=ROWS), 10), (poor(rows=ROWS[::-1], say="Other."), 10),
        (poor(rows=ROWS[:3], say="Other."), 3),
        (poor(rows=ROWS + [(f"z{n}", "1") for n in range(9)]), 10),
        (poor(rows=ROWS[:4] + [(f"z{n}", "1") for n in range(20)]), 0),
        (poor(rows=[(x, y + "0") for x, y in ROWS]), 0), (poor(rows=[("x0", ["0", "zero"])]), 0),
    ],
)
def test_a_task_under_two_names(other, n):
    flaws = collection_flaws(
        [digest(poor(rows=ROWS, name="first")), digest(replace(other, name="second"))]
    )
    assert len(flaws) == bool(n) and all(
        (f.file, f.field) == ("second", "Instances")
        and f"{n} of" in str(f)
        and "in first" in str(f)
        for f in flaws
    )


def test_test_instances_in_training_tasks():
    digests = [
        digest(poor(rows=[(f"{name}{n}", "1") for n in range(9)] + [("shared", "1")], name=name))
        for name in "abc"
    ]
    flaw, = collection_flaws(digests, {"train": ["a"], "test": ["b"], "excluded": ["c"]})
    assert flaw.file == "b" and "1 of" in str(flaw) and "training task a" in str(flaw)
    assert not collection_flaws(digests, {"train": ["a", "b"]}) and not collection_flaws(digests)


def test_one_definition_in_two_categories():
    tasks = [
        poor(name="a", rows=ROWS), poor(name="b", say=" Do.\n"),
        poor(name="c", category="d", rows=[("z", "1")]),
    ]
    flaw, = collection_flaws([digest(t) for t in tasks])
    assert (flaw.file, flaw.field) == (
        "c", "Definition",
    ) and "a has the same definition in category c" in str(flaw)


def test_survey_finds_what_validation_finds_and_keeps_no_task(tmp_path, monkeypatch):
    for n in range(12):
        write_task(
            poor(name=f"t{n}", rows=[(f"{n} {k}", "1") for k in range(5)]), tmp_path / f"t{n}.json"
        )
    (tmp_path / "bad.json").write_text("{}")
    alive, most, parse = weakref.WeakSet(), [], survey_chapter.parse_task
    def watched(*args):
        task = parse(*args)
        alive.add(task); most.append(len(alive))
        return task
    monkeypatch.setattr(Task, "__hash__", object.__hash__)
    monkeypatch.setattr(survey_chapter, "parse_task", watched)
    found = survey(tmp_path)
    assert len(most) == 12 and max(most) <= 2, "one task at a time, and the one before it"
    monkeypatch.undo()
    tasks, problems = validate_tasks(tmp_path)
    assert [
        (d.name, d.category, d.n_positive, d.n_negative, d.n_instances) for d in found.tasks
    ] == [(t.name, "c", 0, 0, 5) for t in tasks]
    assert list(map(str, found.problems)) == list(map(str, problems)) and not found.warnings
    assert str(survey(tmp_path / "nowhere").problems[0]) == str(
        validate_tasks(tmp_path / "nowhere")[1][0]
    )


def test_all_slips_are_collected(tmp_path):
    (tmp_path / "tasks").mkdir()
    for name, data in {
        "a": SUPER_NI, "b": SUPER_NI | {"Definition": "", "Instances": []}, "c": V1,
    }.items():
        (tmp_path / f"tasks/{name}.json").write_text(json.dumps(data))
    (tmp_path / "tasks/d.json").write_text("{")
    (tmp_path / "splits/default").mkdir(parents=True)
    (tmp_path / "splits/default/train_tasks.txt").write_text("a\nb\n\n")
    (tmp_path / "splits/default/test_tasks.txt").write_text("c\na\nz\n")
    tasks, problems = validate_tasks(tmp_path)
    assert [t.name for t in tasks] == ["a", "c"]
    assert [(Path(p.file).name, p.field) for p in problems] == [
        ("b.json", "Instances"), ("b.json", "Definition"), ("d.json", "line 1, column 2"),
        ("test_tasks.txt", "task"),
    ]
    (tmp_path / "splits/default/test_tasks.txt").write_text("c\na\n")
    assert validate_tasks(tmp_path)[1][-1].value == "a", "a task that is both seen and unseen"
    assert validate_tasks(tmp_path / "nowhere")[0] == [] and "nowhere" in str(
        validate_tasks(tmp_path / "nowhere")[1][0]
    )


# Loading and splitting

@pytest.fixture
def collection(tmp_path):
    (tmp_path / "tasks").mkdir(); (tmp_path / "splits/default").mkdir(parents=True)
    for name in "abcd": (tmp_path / f"tasks/{name}.json").write_text(json.dumps(SUPER_NI))
    for split, names in {"train": "abc", "test": "d", "excluded": ""}.items():
        (tmp_path / f"splits/default/{split}_tasks.txt").write_text("\r\n".join(names) + "\n\n")
    return tmp_path


def test_official_splits(collection):
    names = {
        split: [t.name for t in load_tasks(collection, split)]
        for split in (None, "train", "test", "excluded")
    }
    assert names == {None: list("abcd"), "train": list("abc"), "test": ["d"], "excluded": []}
    assert [len(t.instances) for t in load_tasks(collection, n_instances=1)] == [1] * 4
    assert [t.name for t in load_tasks(collection / "tasks")] == list("abcd")


@pytest.mark.parametrize(
    "wrong, says",
    [
        (dict(split="dev"), "['excluded', 'test', 'train']"), (dict(n_instances=0), "at least 1"),
        (dict(n_instances=-1), "at least 1"), (dict(n_instances=2.5), "at least 1"),
        (dict(split="test"), "z"),
    ],
)
def test_wrong_requests(collection, wrong, says):
    (collection / "splits/default/test_tasks.txt").write_text("d\nz\n")
    with pytest.raises(TaskError) as caught: load_tasks(collection, **wrong)
    assert says in str(caught.value)


def test_instances_are_drawn_by_seed_and_name(tmp_path):
    for name in "ab":
        write_task(
            poor(name=name, rows=[(f"x{n}", "yes" if n < 20 else "no") for n in range(40)]),
            tmp_path / f"{name}.json",
        )
    write_task(poor(name="few", rows=ROWS), tmp_path / "few.json")
    def drawn(**how):
        return {t.name: [i.input for i in t.instances] for t in load_tasks(tmp_path, **how)}
    first, again, other = (drawn(n_instances=10, seed=seed) for seed in (0, 0, 1))
    assert (
        first == again and set(first["a"]) != set(other["a"]) and set(first["a"]) != set(first["b"])
    )
    assert len(set(first["a"])) == 10 and first["a"] != sorted(
        first["a"], key=lambda x: int(x[1:])
    ), "in the order drawn"
    assert first["few"] == drawn()["few"] == drawn(seed=3)["few"] == [x for x, _ in ROWS], (
        "nothing to draw: as in the file"
    )
    assert drawn(n_instances=10)["a"] == [f"x{n}" for n in range(10)], "no seed: the first"
    (tmp_path / "b.json").unlink()
    assert drawn(n_instances=10, seed=0)["a"] == first["a"], "other tasks change no draw"
    one = read_task(tmp_path / "a.json", 10, 0)
    assert [i.id for i in one.instances] == [
        f"a-{i.input[1:]}" for i in one.instances
    ] and one.to_json()["Instances"][0]["input"] == first["a"][0]
    assert all(
        {i.output[0] for i in read_task(tmp_path / "a.json", 10, seed).instances} == {"yes", "no"}
        for seed in range(20)
    )


def test_a_task_is_found_by_name_and_nothing_else_is_read(collection, monkeypatch):
    (collection / "tasks/d.json").write_text("{")
    assert (
        read_task(task_file(collection, "a")).name == "a"
        and task_file(collection / "tasks", "b").name == "b.json"
    )
    monkeypatch.setattr(chapter, "read_text", lambda path: pytest.fail(f"{path} is read"))
    task_file(collection, "d")
    (collection / "tasks/count_books.json").write_text("{}")
    for name, says in {
        "count_boks": "did you mean count_books", "books": "did you mean count_books",
        "zzzz": "its 5 files", "": "its 5 files", "../splits": "its 5 files",
    }.items():
        with pytest.raises(TaskError, match=says) as caught: task_file(collection, name)
        assert caught.value.file == collection and caught.value.value == name


def test_lists_of_names(collection):
    lists = collection / "splits/default"
    (lists / "train_tasks.txt").write_bytes(b"\xef\xbb\xbfa\r\nb\r\n")
    assert [t.name for t in load_tasks(collection, "train")] == ["a", "b"] and not validate_tasks(
        collection
    )[1]
    (lists / "train_tasks.txt").write_bytes(b"\xff")
    with pytest.raises(TaskError, match="train_tasks.txt.*UTF-8"): load_tasks(collection, "train")
    (lists / "train_tasks.txt").unlink(); os.mkfifo(lists / "train_tasks.txt")
    with pytest.raises(TaskError, match="train_tasks.txt.*regular file"):
        load_tasks(collection, "train")
    assert "train_tasks.txt" in str(survey(collection).problems[0])
    with pytest.raises(TaskError, match="write train_tasks.txt and test_tasks.txt"):
        load_tasks(collection / "tasks", "train")


def test_no_folder_and_no_tasks(tmp_path):
    with pytest.raises(TaskError, match="give a folder"): load_tasks(tmp_path)
    with pytest.raises(TaskError, match="nowhere"): load_tasks(tmp_path / "nowhere")


def task(name, category, *sources):
    return Task(
        name, ["Do."], instances=[Instance("0", "", [""])], categories=[category],
        raw={"Source": list(sources)},
    )


MANY = [
    task("a1", "A", "x"), task("a2", "A", "y"), task("a3", "A", "x", "y"), task("b1", "B", "y"),
    task("b2", "B", "z"), task("c1", "C"),
]


def test_leave_one_out():
    def unseen(by, value): return "".join(t.name for t in leave_out(MANY, by, value)[1])
    assert (
        unseen("category", "A") == "a1a2a3"
        and unseen("dataset", "y") == "a2a3b1"
        and unseen("task", "c1") == "c1"
    )
    for by, value in [("category", "B"), ("dataset", "x"), ("task", "a1")]:
        seen, out = leave_out(MANY, by, value)
        assert {t.name for t in seen}.isdisjoint(t.name for t in out) and len(seen) + len(
            out
        ) == len(MANY)
    with pytest.raises(TaskError, match="choose from"): leave_out(MANY, "colour", "red")
    with pytest.raises(TaskError, match=r"choose from \['x', 'y', 'z'\]"):
        leave_out(MANY, "dataset", "q")


def test_random_split():
    def names(tasks): return [t.name for t in tasks]
    seen, unseen = random_split(MANY, k=1, seed=3)
    assert sorted(names(seen) + names(unseen)) == names(MANY) and [t.category for t in unseen] == [
        "A", "B", "C",
    ]
    assert (
        names(random_split(MANY, 1, 3)[1])
        == names(unseen)
        == names(random_split(MANY[::-1], 1, 3)[1])[::-1]
    )
    assert len({tuple(names(random_split(MANY, 1, seed)[1])) for seed in range(20)}) == 6, (
        "every choice occurs"
    )
    assert [
        t for t in random_split(MANY + [task("d1", "D")], 1, 3)[1] if t.category != "D"
    ] == unseen
    assert names(random_split(MANY, k=2)[1])[-3:] == ["b1", "b2", "c1"]


# Showing, wordings, speed

def test_card_and_table_are_harmless():
    evil = "<script>|</td>*_`$x$\n![](x)"
    shown = Task(
        evil, [evil], [Example(evil, evil, evil)], [], [Instance("0", evil, [evil])], [evil]
    )
    card, table = shown._repr_markdown_(), task_table([shown])
    assert isinstance(table, Table) and table == table._repr_markdown_()
    for text in (card, table):
        assert "<script" not in text and "![" not in text and "$" not in text and "`" not in text
    assert all(line.count("|") == 5 for line in card.splitlines() if line.startswith("|"))
    assert table.splitlines()[-1].count("|") == 10


def test_wordings():
    four = replace(MANY[0], definition=list("abcd"))
    assert (
        four.reworded(2).definition == list("cabd")
        and four.reworded(0) == four
        and four.definition == list("abcd")
    )
    for k in (-1, 4):
        with pytest.raises(TaskError, match="0 to 3"): four.reworded(k)


def test_many_tasks_are_cheap():
    start = time.process_time()
    tasks = [
        Task(f"t{n}", ["Do."], [], [], [Instance(str(i), "x", ["y"]) for i in range(500)], ["c"])
        for n in range(250)
    ]
    texts = [json.dumps(t.to_json()) for t in tasks[:50]]
    for text in texts: Task.from_json(json.loads(text), "t")
    assert time.process_time() - start < 10, (
        "250 x 500 instances take well under a second; something has become slow"
    )


@needs_real
def test_real_files_come_back_unchanged(tmp_path):
    files = sorted(REAL.glob("tasks/*.json")) + sorted(REAL.glob("tasks_fi/*.json"))
    assert len(files) == 214
    for file in files:
        data = json.loads(file.read_text(encoding="utf-8"))
        assert same(read_task(file).to_json(), data)
    assert same(
        read_task(write_task(read_task(files[0]), tmp_path / "x.json")).to_json(),
        json.loads(files[0].read_text(encoding="utf-8")),
    )


@needs_real
def test_real_collection_is_valid():
    tasks, problems = validate_tasks(REAL)
    assert len(tasks) == 190 and not problems
    seen, unseen = load_tasks(REAL, "train", n_instances=1), load_tasks(REAL, "test", n_instances=1)
    assert (len(seen), len(unseen)) == (175, 15) and {t.name for t in seen}.isdisjoint(
        t.name for t in unseen
    )
    assert len(load_tasks(REAL / "tasks_fi")) == 24
    assert len(leave_out(seen, "dataset", "mctaco")[1]) > 1 and all(t.sources for t in tasks)
