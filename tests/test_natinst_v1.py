"""The text of Natural Instructions v1, and from one schema to the other: strings by hand."""
import copy
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings, strategies as st

from instop_nb.natinst_v1 import V1_ENCODINGS, complete_v1, encode_v1, instruction_v1, v1_indices
from instop_nb.formats import to_super_ni, to_v1
from instop_nb.tasks import Example, Instance, Task, load_tasks, read_task, write_task
from instop_nb.core import Part, TaskError, coloured

POS, POS_WHY, NEG_WHY = (
    "Positive Examples Full Only", "Positive Examples Full Explanations",
    "Negative Examples Full Explanations",
)
FILE = {
    "Title": "Halves", "Prompt": "  Halve it.\n", "Definition": "Halve the number",
    "Things to Avoid": "Do not double.", "Emphasis & Caution": "-",
    "Examples": {
        "Positive Examples": [
            {"input": "4", "output": "2", "reason": "2 and 2 make 4."},
            {"input": " 10", "output": "5 ", "reason": "-"},
        ],
        "Negative Examples": [
            {"input": "8", "output": "16", "reason": "The double.", "suggestion": "Write 4."},
            {"input": "6", "output": "4", "reason": "Too much", "suggestion": " "},
            {"input": "2", "output": "2", "reason": "The same.", "suggestion": "-"},
        ],
    },
    "Instances": [{"input": f"{2 * n}", "output": [f"{n}", "as text"]} for n in range(1, 91)],
}
TASK = Task.from_json(FILE, "halves")


def task_with(**changes): return Task.from_json({**FILE, **changes}, "halves")
def examples_with(**changes):
    return task_with(
        Examples={**FILE["Examples"], **{f"{kind} Examples": e for kind, e in changes.items()}}
    )
def before_question(text, question="7"):
    return text.removesuffix(f"input: {question}\noutput:")


# The layout

@pytest.mark.parametrize("name, expected", [
    ("Prompt", "Prompt: Halve it.\n"),
    ("Prompt+Avoid", "Prompt: Halve it.\nThings to Avoid: Do not double.\n"),
    ("Prompt+Emph", "Prompt: Halve it.\n"),
    ("Def+Prompt", "Definition: Halve the number\nPrompt: Halve it.\n"),
    ("Def+Prompt+Avoid+Emph",
    "Definition: Halve the number\nPrompt: Halve it.\nThings to Avoid: Do not double.\n"),
    ("Pos", "input: 4\noutput: 2\n"),
    ("Prompt+Pos", "Prompt: Halve it.\ninput: 4\noutput: 2\n"),
    ("Def+Prompt+Pos", "Definition: Halve the number\nPrompt: Halve it.\ninput: 4\noutput: 2\n"),
    ("Def+Prompt+Avoid+Emph+Pos",
    "Definition: Halve the number\nPrompt: Halve it.\nThings to Avoid: Do not double.\ninput: 4\n"
    "output: 2\n"),
    ("Prompt+Neg+Pos+Expl",
    "Prompt: Halve it.\nNegative Example1- \ninput: 8\noutput: 16\nreason: The double.suggestion: "
    "Write 4.\n"
                            "Positive Example1- \ninput: 4\noutput: 2\nreason: 2 and 2 make 4.\n"),
    ("Def+Prompt+Avoid+Emph+Neg+Pos+Expl",
     "Definition: Halve the number\nPrompt: Halve it.\nThings to Avoid: Do not double.\n"
     "Negative Example1- \ninput: 8\noutput: 16\nreason: The double.suggestion: Write 4.\n"
     "Positive Example1- \ninput: 4\noutput: 2\nreason: 2 and 2 make 4.\n"),
])
def test_the_eleven_released_encodings(name, expected):
    assert encode_v1(TASK, "7", V1_ENCODINGS[name], n_examples=1) == expected + "input: 7\noutput:"


def test_there_are_eleven():
    assert len(V1_ENCODINGS) == len(set(V1_ENCODINGS.values())) == 11
    assert encode_v1(TASK, "7") == encode_v1(
        TASK, "7",
        ("Definition", "Prompt", "Things to Avoid", "Emphasis & Caution", NEG_WHY, POS_WHY), 2,
    )


def test_the_order_is_the_callers():
    assert encode_v1(TASK, "7", ["Things to Avoid", POS, "Prompt", "Title"], 1) == (
        "Things to Avoid: Do not double.\ninput: 4\noutput: 2\nPrompt: Halve it.\n"
        "Title: Halves\ninput: 7\noutput:"
    )


def test_the_input_is_left_as_it_is():
    assert encode_v1(TASK, " 7 \n", ("Title",)) == "Title: Halves\ninput:  7 \n\noutput:"
    assert complete_v1("") == "input: \noutput:"


@pytest.mark.parametrize("text, line", [
    ("-", ""), (" - ", "Prompt: -\n"), ("--", "Prompt: --\n"), ("", "Prompt: \n"),
    (" \n", "Prompt: \n"), ("\ta\nb ", "Prompt: a\nb\n"), ("二", "Prompt: 二\n")])
def test_texts_are_stripped_and_a_dash_is_left_out(text, line):
    assert (
        encode_v1(task_with(Prompt=text), "7", ("Title", "Prompt"))
        == f"Title: Halves\n{line}input: 7\noutput:"
    )


def test_only_a_file_with_the_field_gives_an_empty_line():
    assert (
        before_question(encode_v1(task_with(Title="", Prompt=""), "7", ("Title", "Prompt")))
        == "Title: \nPrompt: \n"
    )
    lacking = {key: value for key, value in FILE.items() if key != "Prompt"}
    assert (
        before_question(encode_v1(Task.from_json(lacking, "t"), "7", ("Title", "Prompt")))
        == "Title: Halves\n"
    )
    super_ni = Task("t", ["Halve"])
    assert (
        before_question(
            encode_v1(
                super_ni, "7",
                ("Title", "Prompt", "Definition", "Things to Avoid", "Emphasis & Caution"),
            )
        )
        == "Definition: Halve\n"
    )
    assert (
        before_question(encode_v1(replace(super_ni, prompt="Do it"), "7", ("Prompt",)))
        == "Prompt: Do it\n"
    )


# What begins a source

@pytest.mark.parametrize("fields, begins", [
    ((), "\ninput: 7"), (("Emphasis & Caution",), "\ninput: 7"), ((POS,), "input: 4"),
    ((POS_WHY,), "\nPositive Example1- "),
    ((NEG_WHY,), "\nNegative Example1- "), ((NEG_WHY, "Prompt"), "\nNegative Example1- "),
    (("Emphasis & Caution", "Title"), "Title: "),
    (("Emphasis & Caution", POS), "input: 4")])
def test_an_empty_line_in_front(fields, begins):
    text = encode_v1(TASK, "7", fields, 1)
    assert text.startswith(begins) and "\n\n" not in text
    assert encode_v1(TASK, "7", fields, 1, faithful=False) == text.removeprefix("\n").replace(
        ".suggestion", ".\nsuggestion"
    )


def test_an_example_from_the_instances_begins_with_an_empty_line():
    assert (
        encode_v1(examples_with(Positive=[]), "7", (POS,), 1)
        == "\ninput: 2\noutput: 1\ninput: 7\noutput:"
    )
    assert (
        encode_v1(examples_with(Positive=[]), "7", (POS,), 1, faithful=False)
        == "input: 2\noutput: 1\ninput: 7\noutput:"
    )


# Examples

def test_examples_with_reasons():
    assert encode_v1(TASK, "7", ("Title", NEG_WHY, POS_WHY), 3) == (
        "Title: Halves\n"
        "Negative Example1- \ninput: 8\noutput: 16\nreason: The double.suggestion: Write 4.\n"
        "Negative Example2- \ninput: 6\noutput: 4\nreason: Too much\n"
        "Negative Example3- \ninput: 2\noutput: 2\nreason: The same.suggestion: -\n"
        "Positive Example1- \ninput: 4\noutput: 2\nreason: 2 and 2 make 4.\n"
        "Positive Example2- \ninput:  10\noutput: 5 \nreason: -\n"
        "Positive Example3- \ninput: 2\noutput: 1\n"
        "input: 7\noutput:")


def test_the_mended_text():
    assert encode_v1(TASK, "7", ("Emphasis & Caution", NEG_WHY, POS_WHY), 3, faithful=False) == (
        "Negative Example1- \ninput: 8\noutput: 16\nreason: The double.\nsuggestion: Write 4.\n"
        "Negative Example2- \ninput: 6\noutput: 4\nreason: Too much\n"
        "Negative Example3- \ninput: 2\noutput: 2\nreason: The same.\n"
        "Positive Example1- \ninput: 4\noutput: 2\nreason: 2 and 2 make 4.\n"
        "Positive Example2- \ninput:  10\noutput: 5 \n"
        "Positive Example3- \ninput: 2\noutput: 1\n"
        "input: 7\noutput:")


@pytest.mark.parametrize("reason, suggestion, line, mended", [
    ("r", "s", "\nreason: rsuggestion: s", "\nreason: r\nsuggestion: s"),
    ("r", " ", "\nreason: r", "\nreason: r"),
    ("r", "", "\nreason: rsuggestion: ", "\nreason: r"),
    ("r", "  ", "\nreason: rsuggestion:   ", "\nreason: r"),
    ("r", "-", "\nreason: rsuggestion: -", "\nreason: r"),
    ("r", None, "\nreason: r", "\nreason: r"),
    ("", " ", "\nreason: ", ""), (" ", " ", "\nreason:  ", ""),
    ("-", "-", "\nreason: -suggestion: -", ""),
    (None, "s", "\nsuggestion: s", "\nsuggestion: s"), (None, None, "", "")])
def test_reason_and_suggestion(reason, suggestion, line, mended):
    row = {"input": "a", "output": "b", "reason": reason, "suggestion": suggestion}
    task = examples_with(Negative=[{key: value for key, value in row.items() if value is not None}])
    head = "Negative Example1- \ninput: a\noutput: b"
    assert encode_v1(task, "7", (NEG_WHY,), 1) == f"\n{head}{line}\ninput: 7\noutput:"
    assert (
        encode_v1(task, "7", (NEG_WHY,), 1, faithful=False) == f"{head}{mended}\ninput: 7\noutput:"
    )


def test_a_good_example_shows_no_suggestion():
    task = examples_with(Positive=[{"input": "a", "output": "b", "reason": "r", "suggestion": "s"}])
    assert (
        encode_v1(task, "7", (POS_WHY,), 1)
        == "\nPositive Example1- \ninput: a\noutput: b\nreason: r\ninput: 7\noutput:"
    )


@pytest.mark.parametrize("none", ["-", ["-"], []])
def test_a_dash_instead_of_examples(none):
    assert (
        encode_v1(examples_with(Negative=none), "7", ("Title", NEG_WHY), 5)
        == "Title: Halves\ninput: 7\noutput:"
    )
    assert (
        encode_v1(examples_with(Positive=none), "7", ("Title", POS), 1)
        == "Title: Halves\ninput: 2\noutput: 1\ninput: 7\noutput:"
    )


def test_there_are_no_more_bad_examples_than_there_are():
    assert encode_v1(TASK, "7", (NEG_WHY,), 99) == encode_v1(TASK, "7", (NEG_WHY,), 3)


@pytest.mark.parametrize("fields", [(POS,), (POS_WHY,)])
def test_more_good_examples_come_from_the_instances(fields):
    inputs = [
        line for line in encode_v1(TASK, "7", fields, 70).splitlines() if line.startswith("input: ")
    ]
    numbers = [*range(60), 80, *range(61, 68)]  # not 60: there the test begins
    assert inputs == [
        "input: 4", "input:  10", *(f"input: {2 * (n + 1)}" for n in numbers), "input: 7",
    ]


def test_an_example_from_the_instances_has_its_first_output_and_no_reason():
    assert encode_v1(TASK, "7", (POS_WHY,), 4).endswith(
        "\nPositive Example3- \ninput: 2\noutput: 1\nPositive Example4- \ninput: 4\noutput: 2\n"
        "input: 7\noutput:"
    )


def test_no_examples_are_shown_unless_asked_for():
    assert (
        encode_v1(TASK, "7", ("Title", NEG_WHY, POS, POS_WHY), 0)
        == "Title: Halves\ninput: 7\noutput:"
    )


# Requests that cannot be met

@pytest.mark.parametrize("n, enough", [(61, 59), (62, 60), (63, 81), (70, 81), (83, 81), (84, 82)])
def test_more_examples_than_there_are(n, enough):
    def cut(size): return replace(TASK, instances=TASK.instances[:size])
    assert encode_v1(cut(enough), "7", (POS,), n).count("input: ") == n + 1
    with pytest.raises(TaskError, match="halves: n_examples: found .*2 good examples"):
        encode_v1(cut(enough - 1), "7", (POS,), n)
    assert encode_v1(cut(0), "7", ("Title", NEG_WHY), n), "no good example is asked for"


@pytest.mark.parametrize("wrong", [-1, 1.5, "2", None])
def test_wrong_numbers_of_examples(wrong):
    with pytest.raises(TaskError, match="n_examples.*0 or more"):
        encode_v1(TASK, "7", n_examples=wrong)


@pytest.mark.parametrize("wrong",
    [("prompt",), ("Prompt", "Hints"), ("Positive Examples",), "Prompt"])
def test_unknown_fields(wrong):
    with pytest.raises(TaskError) as error: encode_v1(TASK, "7", wrong)
    for name in (
        "Title", "Prompt", "Definition", "Things to Avoid", "Emphasis & Caution", POS, POS_WHY,
        NEG_WHY,
    ):
        assert name in str(error.value)
    assert error.value.value not in V1_ENCODINGS["Prompt"]


def test_no_definition_to_show():
    with pytest.raises(TaskError, match="definition"):
        encode_v1(Task("t", []), "7", ("Definition",))


# The parts

KINDS = ["title", "definition", "prompt", "avoid", "negative", "positive", "positive", "question"]


def test_parts():
    parts = instruction_v1(
        TASK,
        ("Title", "Definition", "Prompt", "Things to Avoid", "Emphasis & Caution", NEG_WHY, POS), 1,
    )
    assert [part.kind for part in parts] == KINDS[:6]
    assert parts[2] == Part("prompt", "Prompt: Halve it.\n") and all(
        part.text.endswith("\n") for part in parts
    )
    assert (
        instruction_v1(TASK, ()) == [Part("question", "\n")]
        and instruction_v1(TASK, (), faithful=False) == []
    )


texts = st.text("ab-. \n", max_size=6) | st.text(max_size=6)
notes = st.none() | texts
examples = st.lists(st.builds(Example, texts, texts, notes, notes), max_size=3)
wordings = st.lists(texts.filter(str.strip), min_size=1, max_size=3)
instances = st.lists(
    st.tuples(texts, st.lists(texts, min_size=1, max_size=2)), min_size=4, max_size=4
).map(lambda rows: [Instance(f"t-{n}", *row) for n, row in enumerate(rows)])
titles = st.sampled_from(["", "-"]) | texts
super_ni_tasks = st.builds(
    Task, st.just("t"), wordings, st.lists(st.builds(Example, texts, texts, notes), max_size=3),
    st.lists(st.builds(Example, texts, texts, notes), max_size=3), instances,
    st.lists(texts, max_size=2),
)
v1_tasks = st.builds(
    Task, st.just("t"), wordings.map(lambda w: w[:1]), examples, examples, instances, st.just([]),
    titles, titles, titles, titles, st.just("v1"),
)
fields = st.lists(
    st.sampled_from(
        [
            "Title", "Prompt", "Definition", "Things to Avoid", "Emphasis & Caution", POS, POS_WHY,
            NEG_WHY,
        ]
    ),
    max_size=6,
)


@settings(max_examples=150, deadline=None)
@given(v1_tasks | super_ni_tasks, fields, st.integers(0, 4), st.booleans())
def test_the_source_is_its_parts(task, fields, n, faithful):
    before = copy.deepcopy(task)
    parts = [*instruction_v1(task, fields, n, faithful), Part("question", complete_v1("x"))]
    text = encode_v1(task, "x", fields, n, faithful)
    assert "".join(part.text for part in parts) == coloured(parts, "y") == text and task == before
    if not faithful: assert not text.startswith("\n")


# Which instances are tested

@pytest.mark.parametrize("size, n, expected", [
    (161, 100, range(60, 160)), (259, 100, range(60, 160)), (260, 100, range(60, 259, 2)),
    (6500, 100, range(60, 6400, 64)),
    (62, 1, [60]), (1000, 1, [60]), (70, 3, [60, 63, 66]), (71, 3, [60, 63, 66])])
def test_test_instances(size, n, expected):
    assert v1_indices(size, n) == list(expected) and len(v1_indices(size, n)) == n


@pytest.mark.parametrize("size, n",
    [(160, 100), (100, 100), (60, 1), (61, 1), (0, 1), (1000, 0), (1000, -1)])
def test_too_few_instances(size, n):
    with pytest.raises(TaskError, match="n_instances.*at least"): v1_indices(size, n)


@given(st.integers(0, 2000), st.integers(1, 200))
def test_test_instances_are_there_in_number(size, n):
    try: chosen = v1_indices(size, n)
    except TaskError: assert size <= 60 + n; return
    assert (
        len(chosen) == n
        and chosen[0] == 60
        and chosen[-1] < size - 1
        and len({b - a for a, b in zip(chosen, chosen[1:])}) <= 1
    )


# From one schema to the other

SUPER = Task.from_json(
    {
        "Contributors": ["A"], "Source": ["s", "t"], "URL": ["-"], "Categories": ["Math"],
        "Definition": ["Halve", "Take half"], "Input_language": ["English"],
        "Positive Examples": [{"input": "4", "output": "2", "explanation": "so", "by": "B"}],
        "Negative Examples": [],
        "Instances": [{"id": "h-0", "input": "2", "output": ["1"], "note": 5}],
    },
    "half",
)


def test_to_v1():
    task, dropped = to_v1(SUPER)
    assert dropped == [
        "Contributors[0]: 'A'", "Source[0]: 's'", "Source[1]: 't'", "Definition[1]: 'Take half'",
        "Input_language[0]: 'English'", "Positive Examples[0].by: 'B'",
    ]
    assert task.to_json() == {
        "Title": "-", "Prompt": "-", "Things to Avoid": "-", "Emphasis & Caution": "-",
        "Definition": "Halve", "Categories": ["Math"],
        "Examples": {
            "Positive Examples": [{"input": "4", "output": "2", "reason": "so"}],
            "Negative Examples": [],
        },
        "Instances": [{"id": "h-0", "input": "2", "output": ["1"], "note": 5}],
    }
    assert (
        encode_v1(task, "7", n_examples=1)
        == "Definition: Halve\nPositive Example1- \ninput: 4\noutput: 2\nreason: so\ninput: 7\n"
           "output:"
    )


def test_to_super_ni():
    task, dropped = to_super_ni(task_with(URL="here"))
    assert dropped == [
        "Title: 'Halves'", "Prompt: '  Halve it.\\n'", "Things to Avoid: 'Do not double.'",
        "Negative Examples[0].suggestion: 'Write 4.'", "URL: 'here'",
    ]
    data = task.to_json()
    assert (data["Definition"], data["Positive Examples"][0]) == (
        ["Halve the number"], {"input": "4", "output": "2", "explanation": "2 and 2 make 4."},
    )
    assert (
        "Title" not in data
        and "Examples" not in data
        and all("suggestion" not in e for e in data["Negative Examples"])
    )
    assert data["Instances"][0] == {"id": "halves-0", "input": "2", "output": ["1", "as text"]}


def test_a_task_in_the_schema_stays_as_it_is():
    assert to_v1(TASK) == (TASK, []) and to_super_ni(SUPER) == (SUPER, [])
    assert to_v1(TASK).result.to_json() == FILE


def test_texts_that_a_super_ni_file_has_all_the_same_are_kept_in_v1():
    task, dropped = to_v1(Task("t", ["d"], title="T", prompt="P"))
    assert (task.title, task.prompt, task.avoid, dropped) == ("T", "P", "-", [])


def read_again(task): return Task.from_json(json.loads(json.dumps(task.to_json())), task.name)
def nothing(text): return text is None or text.strip() in ("", "-")


@settings(max_examples=150, deadline=None)
@given(super_ni_tasks)
def test_there_and_back_from_super_ni(task):
    v1, dropped = to_v1(task)
    back, nothing_more = to_super_ni(v1)
    assert back == replace(task, definition=task.definition[:1]) and nothing_more == []
    assert dropped == [
        f"Definition[{n}]: {text!r}"
        for n, text in enumerate(task.definition)
        if n and not nothing(text)
    ]
    assert (
        read_again(v1) == v1
        and v1.schema == read_again(v1).schema == "v1"
        and read_again(back) == back
    )


@settings(max_examples=150, deadline=None)
@given(v1_tasks)
def test_there_and_back_from_v1(task):
    super_ni, dropped = to_super_ni(task)
    back, nothing_more = to_v1(super_ni)
    bare = [[replace(e, suggestion=None) for e in some] for some in (task.positive, task.negative)]
    assert (
        back
        == replace(
            task, title="-", prompt="-", avoid="-", emphasis="-", positive=bare[0], negative=bare[1]
        )
        and nothing_more == []
    )
    lost = [
        f"{name}: {text!r}"
        for name, text in (
            ("Title", task.title), ("Prompt", task.prompt), ("Things to Avoid", task.avoid),
            ("Emphasis & Caution", task.emphasis),
        )
        if not nothing(text)
    ]
    lost += [
        f"{kind}[{n}].suggestion: {e.suggestion!r}"
        for kind, some in (
            ("Positive Examples", task.positive), ("Negative Examples", task.negative),
        )
        for n, e in enumerate(some)
        if not nothing(e.suggestion)
    ]
    assert sorted(dropped) == sorted(lost)
    assert (
        read_again(super_ni) == super_ni
        and super_ni.schema == "super-ni"
        and read_again(back) == back
    )


def test_real_tasks_there_and_back(real_tasks, tmp_path):
    for task in load_tasks(real_tasks, n_instances=3):
        v1, dropped = to_v1(task)
        assert read_task(write_task(v1, tmp_path / f"{task.name}.json")) == v1
        back, nothing_more = to_super_ni(v1)
        assert back == replace(task, definition=task.definition[:1]) and nothing_more == []
        assert any(line.startswith("Source[0]: ") for line in dropped) and not any(
            "Examples" in line for line in dropped
        )
