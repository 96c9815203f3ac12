"""Tasks: nothing is lost on the way from a file and back, every slip is named, no unseen task is seen."""
import copy
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from instop_nb.tasks import Example, Instance, Table, Task, TaskError, leave_out, load_tasks, random_split, read_task, task_table, validate_tasks, write_task

REAL = Path(__file__).resolve().parents[2] / "shared" / "natural-instructions"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="../shared/natural-instructions is not here")

SUPER_NI = {
    "Contributors": ["nobody"], "Source": ["shelf"], "URL": [float("nan")], "Categories": ["Counting"], "Reasoning": [],
    "Definition": ["Count the books."],
    "Positive Examples": [{"input": "book, book", "output": "2", "explanation": "There are two of them."}],
    "Negative Examples": [{"input": "book", "output": "one", "explanation": "A numeral is asked for.", "seen_by": 3}],
    "Instances": [{"id": "a", "input": "book", "output": ["1"]}, {"id": "b", "input": "", "output": ["0", ""], "level": None}],
    "Instance License": ["CC0"],
}
V1 = {
    "Title": "Counting books", "Prompt": "How many books?", "Definition": "Count the books.", "Things to Avoid": "-",
    "Emphasis & Caution": "Answer with a numeral.", "Colour": {"cover": "red"},
    "Examples": {"Positive Examples": [{"input": "book, book", "output": "2", "reason": "There are two of them."}],
                 "Negative Examples": [{"input": "book", "output": "one", "reason": "No numeral.", "suggestion": "Write 1."}]},
    "Instances": [{"input": "book", "output": ["1", "one book"]}, {"input": "nothing", "output": ["0"]}],
}


def same(a, b): return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)


def changed(data, path, value):
    "Return a copy of a JSON value in which one place holds another value, or nothing if the value is `del`."
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
    assert (old.title, old.prompt, old.avoid, old.emphasis) == ("Counting books", "How many books?", "-", "Answer with a numeral.")
    assert (new.schema, new.category, new.sources) == ("super-ni", "Counting", ["shelf"])
    assert (old.schema, old.category, old.sources) == ("v1", "unknown", [])
    assert [i.id for i in new.instances] == ["a", "b"] and [i.id for i in old.instances] == ["books-0", "books-1"]
    assert new.instances[1].extra == {"level": None}


@pytest.mark.parametrize("habit", [
    {"Definition": ["Count the books."]}, {"Categories": ["Counting"]}, {"Categories": "Counting"},
    {"Examples": {}}, {"Examples": {"Positive Examples": "-", "Negative Examples": ["-"]}},
    {"Examples": {"Positive Examples": [], "Links": "-"}}, {"Instances": [{"id": "x", "input": "a", "output": ["b"]}]}])
def test_habits_of_version_1_survive(habit):
    assert same(Task.from_json(V1 | habit, "books").to_json(), V1 | habit)


@pytest.mark.parametrize("habit", [
    {"Definition": "Count the books."}, {"Categories": "Counting"}, {"Categories": []}, {"Source": "shelf"}, {"Source": None},
    {"Title": "Books"}, {"Examples": "of what?"}, {"Positive Examples": []},
    {"Negative Examples": [{"input": "a", "output": "b"}, {"input": "a", "output": "b", "explanation": "", "reason": "c"}]},
    {"Instances": [{"input": "a", "output": ["b"]}]}])
def test_habits_of_super_ni_survive(habit):
    assert same(Task.from_json(SUPER_NI | habit, "books").to_json(), SUPER_NI | habit)


def test_a_missing_key_stays_missing():
    for key in set(SUPER_NI) - {"Categories", "Definition", "Positive Examples", "Negative Examples", "Instances"}:
        data = changed(SUPER_NI, [key], del_)
        assert same(Task.from_json(data, "books").to_json(), data)
    for key in ("Title", "Prompt", "Things to Avoid", "Emphasis & Caution"):
        data = changed(V1, [key], del_)
        assert same(Task.from_json(data, "books").to_json(), data)


def test_what_is_changed_is_written_and_nothing_else():
    task = Task.from_json(SUPER_NI, "books")
    assert same(replace(task, definition=["How many?"]).to_json(), SUPER_NI | {"Definition": ["How many?"]})
    assert same(replace(task, instances=task.instances[1:]).to_json(), SUPER_NI | {"Instances": SUPER_NI["Instances"][1:]})
    assert same(replace(task, positive=[]).to_json(), SUPER_NI | {"Positive Examples": []})
    old = Task.from_json(V1, "books")
    assert same(replace(old, prompt="").to_json(), V1 | {"Prompt": ""})
    assert old.to_json()["Examples"] == V1["Examples"]


def test_a_task_made_by_hand_is_written_whole():
    task = Task("sum", ["Add."], [Example("1 1", "2")], [], [Instance("sum-0", "2 2", ["4"])], ["Numbers"], raw={"Source": ["head"]})
    assert task.to_json() == {"Source": ["head"], "Categories": ["Numbers"], "Definition": ["Add."],
                              "Positive Examples": [{"input": "1 1", "output": "2"}], "Negative Examples": [],
                              "Instances": [{"id": "sum-0", "input": "2 2", "output": ["4"]}]}
    old = Task("sum", ["Add."], instances=[Instance("sum-0", "2 2", ["4"])], prompt="Add!", schema="v1")
    assert old.to_json()["Definition"] == "Add." and old.to_json()["Title"] == ""
    assert Task.from_json(old.to_json(), "sum") == old and Task.from_json(task.to_json(), "sum") == task


def test_the_value_read_is_not_shared():
    data = copy.deepcopy(SUPER_NI)
    task = Task.from_json(data, "books")
    task.definition[0], task.instances[0].output[0] = "changed", "changed"
    task.to_json()["Instances"][1]["output"].append("changed")
    assert same(data, SUPER_NI) and task.instances[1].output == ["0", ""]


texts = st.text(max_size=20)
values = st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
                      lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=5)
words = st.text(min_size=1, max_size=20).filter(str.strip)


def rows(reason):
    known = st.fixed_dictionaries({"input": texts, "output": texts}, optional={reason: texts, "suggestion": texts, "note": values})
    return st.lists(known, max_size=3)


def instances(**optional):
    known = st.fixed_dictionaries({"input": texts, "output": st.lists(texts, min_size=1, max_size=3), **optional},
                                  optional={"note": values})
    return st.lists(known, min_size=1, max_size=4, unique_by=lambda row: row.get("id", id(row)))


others = st.dictionaries(texts.map("other {}".format), values, max_size=3)
super_ni = st.builds(dict.__or__, others, st.fixed_dictionaries(
    {"Definition": words | st.lists(words, min_size=1, max_size=3), "Categories": texts | st.lists(texts, max_size=2),
     "Positive Examples": rows("explanation"), "Negative Examples": rows("explanation"),
     "Instances": instances() | instances(id=texts)}, optional={"Source": values, "URL": values, "Title": texts}))
v1 = st.builds(dict.__or__, others, st.fixed_dictionaries(
    {"Definition": words, "Instances": instances() | instances(id=texts),
     "Examples": st.fixed_dictionaries({}, optional={"Positive Examples": rows("reason") | st.sampled_from(["-", ["-"]]),
                                                     "Negative Examples": rows("reason") | st.sampled_from(["-", ["-"]]),
                                                     "note": values})},
    optional={"Title": texts, "Prompt": texts, "Things to Avoid": texts, "Emphasis & Caution": texts, "Categories": st.lists(texts)}))


@settings(max_examples=200, deadline=None)
@given(super_ni | v1)
def test_any_task_survives(data):
    before = copy.deepcopy(data)
    task = Task.from_json(data, "any")
    assert same(task.to_json(), before) and same(data, before)
    again = Task.from_json(json.loads(json.dumps(task.to_json())), "any")
    assert again == task and "any" in repr(task) and isinstance(task._repr_markdown_(), str)


# Slips

@pytest.mark.parametrize("path, value, field, says", [
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
    (["Positive Examples", 0, "output"], ["2"], "Positive Examples[0].output", "write a string"),
    (["Negative Examples", 0, "explanation"], None, "Negative Examples[0].explanation", "write a string"),
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
])
def test_each_slip_is_named(path, value, field, says, tmp_path):
    file = tmp_path / "books.json"
    file.write_text(json.dumps(changed(SUPER_NI, path, value)))
    with pytest.raises(TaskError) as caught: read_task(file)
    assert (caught.value.file, caught.value.field) == (file, field) and says in caught.value.advice
    assert str(file) in str(caught.value) and field in str(caught.value) and says in str(caught.value)
    tasks, problems = validate_tasks(tmp_path)
    assert not tasks and [str(p) for p in problems] == [str(caught.value)]


@pytest.mark.parametrize("path, value, field", [
    (["Definition"], del_, "Definition"), (["Examples"], 3, "Positive Examples"), (["Instances"], del_, "Instances"),
    (["Things to Avoid"], ["a"], "Things to Avoid"), (["Examples", "Positive Examples", 0, "reason"], 3, "Positive Examples[0].reason"),
    (["Instances", 0, "output"], "1", "Instances[0].output"), (["Instances", 1, "id"], "x", "Instances[0].id")])
def test_each_slip_of_version_1_is_named(path, value, field):
    with pytest.raises(TaskError) as caught: Task.from_json(changed(V1, path, value), "books")
    assert caught.value.field == field and caught.value.file == "books"


@pytest.mark.parametrize("text, says", [
    (b"", "line 1, column 1"), (b'{"Definition": ["a"],\n "Instances": ]}', "line 2, column 15"), (b"[1, 2]", "write an object"),
    (b"\xff\xfe{}", "UTF-8"), (b"[" * 100_000, "UTF-8"), (b"null", "write an object")])
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
        key = draw.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        path.append(key); place = place[key]
    data = changed(data, path, draw.draw(values | st.just(del_)))
    try: task = Task.from_json(copy.deepcopy(data), "any")
    except TaskError as error: assert len(str(error)) < 300
    else: assert same(task.to_json(), data)


def test_all_slips_are_collected(tmp_path):
    (tmp_path / "tasks").mkdir()
    for name, data in {"a": SUPER_NI, "b": SUPER_NI | {"Definition": "", "Instances": []}, "c": V1}.items():
        (tmp_path / f"tasks/{name}.json").write_text(json.dumps(data))
    (tmp_path / "tasks/d.json").write_text("{")
    (tmp_path / "splits/default").mkdir(parents=True)
    (tmp_path / "splits/default/train_tasks.txt").write_text("a\nb\n\n")
    (tmp_path / "splits/default/test_tasks.txt").write_text("c\na\nz\n")
    tasks, problems = validate_tasks(tmp_path)
    assert [t.name for t in tasks] == ["a", "c"]
    assert [(Path(p.file).name, p.field) for p in problems] == [
        ("b.json", "Instances"), ("b.json", "Definition"), ("d.json", "line 1, column 2"), ("test_tasks.txt", "task")]
    (tmp_path / "splits/default/test_tasks.txt").write_text("c\na\n")
    assert validate_tasks(tmp_path)[1][-1].value == "a", "a task that is both seen and unseen"
    assert validate_tasks(tmp_path / "nowhere")[0] == [] and "nowhere" in str(validate_tasks(tmp_path / "nowhere")[1][0])


# Loading and splitting

@pytest.fixture
def collection(tmp_path):
    (tmp_path / "tasks").mkdir(); (tmp_path / "splits/default").mkdir(parents=True)
    for name in "abcd": (tmp_path / f"tasks/{name}.json").write_text(json.dumps(SUPER_NI))
    for split, names in {"train": "abc", "test": "d", "excluded": ""}.items():
        (tmp_path / f"splits/default/{split}_tasks.txt").write_text("\r\n".join(names) + "\n\n")
    return tmp_path


def test_official_splits(collection):
    names = {split: [t.name for t in load_tasks(collection, split)] for split in (None, "train", "test", "excluded")}
    assert names == {None: list("abcd"), "train": list("abc"), "test": ["d"], "excluded": []}
    assert [len(t.instances) for t in load_tasks(collection, n_instances=1)] == [1] * 4
    assert [t.name for t in load_tasks(collection / "tasks")] == list("abcd")


@pytest.mark.parametrize("wrong, says", [
    (dict(split="dev"), "['excluded', 'test', 'train']"), (dict(n_instances=0), "at least 1"), (dict(split="test"), "z")])
def test_wrong_requests(collection, wrong, says):
    (collection / "splits/default/test_tasks.txt").write_text("d\nz\n")
    with pytest.raises(TaskError) as caught: load_tasks(collection, **wrong)
    assert says in str(caught.value)


def test_no_folder_and_no_tasks(tmp_path):
    with pytest.raises(TaskError, match="give a folder"): load_tasks(tmp_path)
    with pytest.raises(TaskError, match="nowhere"): load_tasks(tmp_path / "nowhere")


def task(name, category, *sources): return Task(name, ["Do."], instances=[Instance("0", "", [""])], categories=[category], raw={"Source": list(sources)})


MANY = [task("a1", "A", "x"), task("a2", "A", "y"), task("a3", "A", "x", "y"), task("b1", "B", "y"), task("b2", "B", "z"), task("c1", "C")]


def test_leave_one_out():
    def unseen(by, value): return "".join(t.name for t in leave_out(MANY, by, value)[1])
    assert unseen("category", "A") == "a1a2a3" and unseen("dataset", "y") == "a2a3b1" and unseen("task", "c1") == "c1"
    for by, value in [("category", "B"), ("dataset", "x"), ("task", "a1")]:
        seen, out = leave_out(MANY, by, value)
        assert {t.name for t in seen}.isdisjoint(t.name for t in out) and len(seen) + len(out) == len(MANY)
    with pytest.raises(TaskError, match="choose from"): leave_out(MANY, "colour", "red")
    with pytest.raises(TaskError, match=r"choose from \['x', 'y', 'z'\]"): leave_out(MANY, "dataset", "q")


def test_random_split():
    def names(tasks): return [t.name for t in tasks]
    seen, unseen = random_split(MANY, k=1, seed=3)
    assert sorted(names(seen) + names(unseen)) == names(MANY) and [t.category for t in unseen] == ["A", "B", "C"]
    assert names(random_split(MANY, 1, 3)[1]) == names(unseen) == names(random_split(MANY[::-1], 1, 3)[1])[::-1]
    assert len({tuple(names(random_split(MANY, 1, seed)[1])) for seed in range(20)}) == 6, "every choice occurs"
    assert [t for t in random_split(MANY + [task("d1", "D")], 1, 3)[1] if t.category != "D"] == unseen
    assert names(random_split(MANY, k=2)[1])[-3:] == ["b1", "b2", "c1"]


# Showing, wordings, speed

def test_card_and_table_are_harmless():
    evil = "<script>|</td>*_`$x$\n![](x)"
    shown = Task(evil, [evil], [Example(evil, evil, evil)], [], [Instance("0", evil, [evil])], [evil])
    card, table = shown._repr_markdown_(), task_table([shown])
    assert isinstance(table, Table) and table == table._repr_markdown_()
    for text in (card, table):
        assert "<script" not in text and "![" not in text and "$" not in text and "`" not in text
    assert all(line.count("|") == 5 for line in card.splitlines() if line.startswith("|"))
    assert table.splitlines()[-1].count("|") == 10


def test_wordings():
    four = replace(MANY[0], definition=list("abcd"))
    assert four.reworded(2).definition == list("cabd") and four.reworded(0) == four and four.definition == list("abcd")
    for k in (-1, 4):
        with pytest.raises(TaskError, match="0 to 3"): four.reworded(k)


def test_many_tasks_are_cheap():
    start = time.process_time()
    tasks = [Task(f"t{n}", ["Do."], [], [], [Instance(str(i), "x", ["y"]) for i in range(500)], ["c"]) for n in range(250)]
    texts = [json.dumps(t.to_json()) for t in tasks[:50]]
    for text in texts: Task.from_json(json.loads(text), "t")
    assert time.process_time() - start < 10, "250 x 500 instances take well under a second; something has become slow"


@needs_real
def test_real_files_come_back_unchanged(tmp_path):
    files = sorted(REAL.glob("tasks/*.json")) + sorted(REAL.glob("tasks_fi/*.json"))
    assert len(files) == 214
    for file in files:
        data = json.loads(file.read_text(encoding="utf-8"))
        assert same(read_task(file).to_json(), data)
    assert same(read_task(write_task(read_task(files[0]), tmp_path / "x.json")).to_json(), json.loads(files[0].read_text(encoding="utf-8")))


@needs_real
def test_real_collection_is_valid():
    tasks, problems = validate_tasks(REAL)
    assert len(tasks) == 190 and not problems
    seen, unseen = load_tasks(REAL, "train", n_instances=1), load_tasks(REAL, "test", n_instances=1)
    assert (len(seen), len(unseen)) == (175, 15) and {t.name for t in seen}.isdisjoint(t.name for t in unseen)
    assert len(load_tasks(REAL / "tasks_fi")) == 24
    assert len(leave_out(seen, "dataset", "mctaco")[1]) > 1 and all(t.sources for t in tasks)
