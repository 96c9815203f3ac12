"""FLAN: expected strings written by hand, for each rule and quirk; what must be refused."""
import re
import sys
from collections import Counter
from itertools import islice, permutations

import pytest
from hypothesis import given, settings, strategies as st
from scipy.stats import chisquare, kstest

from instop_nb.core import TaskError
from instop_nb.yaml_files import read_yaml
from instop_nb.flan import (
    CLUSTERS, DATASETS, PATTERNS, Pattern, dataset_name, few_shot, flan_parts, hold_out, load_flan,
    mix, mixing_rates, no_template, prune, render, round_robin, row_of, template_table,
)
from instop_nb.flan_hub import load_rows, map_row
from instop_nb.flan_rows import check_flan_row, micro_rows, read_rows
from instop_nb.formats import rows_to_task, task_to_rows
from instop_nb.operations import is_held_out
from instop_nb.tasks import Example, Instance, Task, load_tasks
from instop_nb.words import FORMS, KIND, WORDS

NLI = {
    "premise": "It rains.", "hypothesis": "It is wet.", "options": ["yes", "maybe", "no"],
    "answer": "yes",
}
FOLLOWS = Pattern("{premise}\nSo: {hypothesis}?\n\n{options_}", "{answer}")


class Letters:
    "Each letter is a token, and one more ends the text: lengths can be counted by hand."
    def __call__(self, text, add_special_tokens=True):
        return {"input_ids": [*map(ord, text)] + [1] * add_special_tokens}


# Rows

def test_clusters_are_the_contracts():
    columns = {
        name: (
            *c.settings, *c.inputs,
            *(["options"] if c.options == "yes" else ["[options]"] if c.options == "maybe" else []),
        )
        for name, c in CLUSTERS.items()
    }
    assert columns == {
        "nli": ("premise", "hypothesis", "options"),
        "reading_comprehension": ("passage", "question", "[options]"),
        "closed_book_qa": ("question", "[options]"),
        "translation": ("source_language", "target_language", "text"),
        "commonsense": ("context", "options"),
        "sentiment": ("text", "options"),
        "paraphrase": ("sentence1", "sentence2", "options"),
        "struct_to_text": ("data",),
        "summarization": ("text",),
        "coreference": ("text", "pronoun", "options"),
        "reading_comprehension_with_commonsense": ("passage", "question", "options"),
        "miscellaneous": ("text", "question", "[options]")}


@pytest.mark.parametrize("change, column, found, advice", [
    ({"premise": 3}, "premise", "3", "write a string"),
    ({"answer": "perhaps"}, "answer", "'perhaps'", "['yes', 'maybe', 'no']"),
    ({"answer": None}, "answer", "None", "write a string"),
    ({"options": "yes"}, "options", "'yes'", "list of strings"),
    ({"options": ["yes", 1]}, "options", "['yes', 1]", "list of strings"),
    ({"options": []}, "options", "[]", "list of strings"),
    ({"options": None}, "options", "None", "list of strings"),
])
def test_a_bad_row_names_file_line_column_and_value(change, column, found, advice):
    with pytest.raises(TaskError) as error: check_flan_row("nli", NLI | change, "rows.jsonl", 12)
    assert str(error.value).startswith(
        f"rows.jsonl: line 12: {column}: found {found}; "
    ) and advice in str(error.value)


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_each_column_of_a_row_is_needed(cluster):
    row = micro_rows(cluster, 1)[0]
    assert check_flan_row(cluster, row | {"more": 1}) == row | {"more": 1}
    for column in row:
        lost = {name: value for name, value in row.items() if name != column}
        if column == "options" and CLUSTERS[cluster].options == "maybe":
            check_flan_row(cluster, lost); continue
        with pytest.raises(TaskError, match=column): check_flan_row(cluster, lost)


def test_rows_that_are_no_rows():
    with pytest.raises(TaskError, match="write an object"): check_flan_row("nli", ["premise"])
    with pytest.raises(TaskError, match="choose from .*'nli'.*'miscellaneous'"):
        check_flan_row("entailment", NLI)
    assert check_flan_row("closed_book_qa", {"question": "?", "answer": "a", "options": None})
    with pytest.raises(TaskError, match="answer"):
        check_flan_row("closed_book_qa", {"question": "?", "answer": "a", "options": ["b"]})
    assert check_flan_row("summarization", {"text": "t", "answer": "a", "options": ["b"]})


# Rendering

@pytest.mark.parametrize("pattern, expected", [
    ("{premise}", "It rains."),
    ("{premise}{premise}", "It rains.It rains."),
    ("{premise} {not a name} {hyphen-ated}", "It rains. {not a name} {hyphen-ated}"),
    ("{{premise}}", "{It rains.}"),
    ("{premise", "{premise"),
    ("premise} { }", "premise} { }"),
    ("", ""),
    ("{options_}", "OPTIONS:\n- yes\n- maybe\n- no"),
    ("{options_str}", "OPTIONS:\n- yes\n- maybe\n- no"),
    ("{premise}\n\n{options_}\nAnswer: ", "It rains.\n\nOPTIONS:\n- yes\n- maybe\n- no\nAnswer: "),
    ("  {premise}\n", "  It rains.\n"),
])
def test_placeholders(pattern, expected):
    assert render(Pattern(pattern, "{answer}"), NLI) == (expected, "yes")


def test_values_are_not_looked_at_again():
    row = {
        "premise": "{hypothesis}", "hypothesis": "{options_}", "options": ["{premise}", "{answer}"],
        "answer": "{premise}",
    }
    assert render(FOLLOWS, row) == (
        "{hypothesis}\nSo: {options_}?\n\nOPTIONS:\n- {premise}\n- {answer}", "{premise}",
    )


@pytest.mark.parametrize("value, text", [(3, "3"), (0.5, "0.5"), (True, "True"), (["a"], "['a']")])
def test_other_values_are_written_as_python_writes_them(value, text):
    assert render(Pattern("{x}", "{x}!"), {"x": value}) == (text, f"{text}!")


def test_options_are_not_shuffled_and_not_only_strings():
    assert (
        render(Pattern("{options_}", ""), {"options": ["b", "a", "b", 1, ""]})[0]
        == "OPTIONS:\n- b\n- a\n- b\n- 1\n- "
    )


@pytest.mark.parametrize("pattern, expected", [
    ("{premise}\n\n{options_}", "It rains."),
    ("{options_}\n\n{premise}", "It rains."),
    (" {premise} ", "It rains."),  # the pattern is stripped even if there is no block in it
    ("{premise}\n{options_}\nAnswer: ", "It rains.\nAnswer:"),
    ("{premise}\n\n{options_str}\n", "It rains."),
])
def test_without_options(pattern, expected):
    assert render(Pattern(pattern, "{answer}"), NLI, options=False) == (expected, "yes")


def test_stripping_is_done_to_the_pattern_not_to_the_text():
    assert (
        render(
            Pattern("{premise}\n\n{options_}", "{answer}"), NLI | {"premise": " It rains. \n"},
            options=False,
        )[0]
        == " It rains. \n"
    )


@pytest.mark.parametrize("none", [{}, {"options": None}, {"options": []}])
def test_a_row_that_has_no_options(none):
    row = {"question": "Who?", "answer": "You."} | none
    assert render(Pattern("{question}\n\n{options_}", "{answer}"), row) == ("Who?", "You.")
    # no block: nothing is stripped
    assert render(Pattern(" {question} \n", "{answer}"), row) == (" Who? \n", "You.")


@pytest.mark.parametrize("template, column",
    [(Pattern("{premis}", ""), "premis"), (Pattern("", "{label}"), "label"),
     (Pattern("{}", ""), ""),
     (Pattern("", "{options_}"), "options_")])
def test_a_missing_column_is_named(template, column):
    with pytest.raises(TaskError) as error: render(template, {"premise": "It rains."})
    assert f"template {template.source!r}: column: found {column!r}; " in str(
        error.value
    ) and "['premise']" in str(error.value)


def test_parts():
    assert flan_parts(FOLLOWS, NLI) == [
        ("input", "It rains.", False), ("template", "\nSo: ", False),
        ("input", "It is wet.", False), ("template", "?\n\n", False),
        ("options", "OPTIONS:\n- yes\n- maybe\n- no", False),
    ]
    assert [part.kind for part in flan_parts(FOLLOWS, NLI, options=False)] == [
        "input", "template", "input", "template",
    ]


def test_templates_without_an_instruction():
    dog = {
        "source_language": "English", "target_language": "French", "text": "The dog runs.",
        "answer": "Le chien court.",
    }
    assert render(no_template("translation"), dog) == ("The dog runs.", "Le chien court.")
    assert render(dataset_name("translation", "WMT'14 to French"), dog) == (
        "[Translation: WMT'14 to French] The dog runs.", "Le chien court.",
    )
    assert render(no_template("nli"), NLI) == ("It rains.\nIt is wet.", "yes")
    assert (
        render(dataset_name("nli", "RTE"), NLI)[0]
        == "[Natural language inference: RTE] It rains.\nIt is wet."
    )


# Our templates

@pytest.mark.parametrize("cluster", CLUSTERS)
def test_our_templates_fit_their_cluster(cluster):
    contract, templates = CLUSTERS[cluster], PATTERNS[cluster]
    columns = {*contract.settings, *contract.inputs, "answer"} | (
        {"options_"} if contract.options != "no" else set()
    )
    assert len(set(templates)) == 10 and sum(t.turned for t in templates) <= 3
    for t in templates:
        assert set(re.findall(r"{(\w*)}", t.source + t.target)) <= columns
        assert t.turned or set(contract.inputs) <= set(re.findall(r"{(\w*)}", t.source)), (
            "a template that asks for the answer shows the whole input"
        )


def test_template_table():
    assert (
        len(template_table().splitlines()) == 2 + 120
        and len(template_table("nli").splitlines()) == 2 + 10
    )
    assert template_table("nli").count("| yes |") == sum(t.turned for t in PATTERNS["nli"])
    with pytest.raises(TaskError, match="entailment"): template_table("entailment")


# Files of templates

def written(folder, text, name="templates.py"):
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_a_file_in_the_shape_of_flans(tmp_path):
    path = written(tmp_path, '''# A comment.
"""A docstring."""

PATTERNS = {
    "emails": [
        ("{body}\\n\\nA \\"subject\\", please?", "{subject}"),
        ("Write" " an email.", "{body}"),
    ],
    "ends": [
        ("{options_str}", "{answer}")
    ]
}
''')
    assert load_flan(path) == {
        "emails": [
            Pattern('{body}\n\nA "subject", please?', "{subject}"),
            Pattern("Write an email.", "{body}"),
        ],
        "ends": [Pattern("{options_str}", "{answer}")],
    }


@pytest.mark.parametrize("code", [
    "PATTERNS = dict(a=[('x', 'y')])",
    "PATTERNS = {'a': [(open({mark!r}, 'w').name, 'y')]}",
    "PATTERNS = {'a': [(__import__('pathlib').Path({mark!r}).touch() or 'x', 'y')]}",
    "import os\nPATTERNS = {'a': [('x', 'y')]}\nPATTERNS[open({mark!r}, 'w').name] = [('x', 'y')]",
    "def f(): return PATTERNS\nPATTERNS = {'a': [('x', 'y')]}\nf().clear()",
    "PATTERNS = {'a': [('x', 'y')]}\nif open({mark!r}, 'w'): PATTERNS['b'] = [('x', 'y')]",
    "PATTERNS = {'a': [(f'{1 + 1}', 'y')]}",
    "PATTERNS = {'a': ['x' * 10, 'y']}",
    "PATTERNS = {k: [('x', 'y')] for k in 'ab'}",
    "PATTERNS = COPIES = {'a': [('x', 'y')]}",
    "PATTERNS += {'a': [('x', 'y')]}",
    "if True: PATTERNS = {'a': [('x', 'y')]}",
    "TEMPLATES = {'a': [('x', 'y')]}",
    "PATTERNS = {'a': [('x', 'y')]",
    "PATTERNS = " + "[" * 150 + "]" * 150,
    "PATTERNS = " + "[" * 90_000 + "]" * 90_000,
    "PATTERNS = " + "-" * 90_000 + "1",
    "PATTERNS = " + "1+" * 90_000 + "1",
    "PATTERNS = '\0'",
    "",
])
def test_code_is_refused_and_not_run(tmp_path, code):
    mark = tmp_path / "was_run"
    path = written(tmp_path, code.replace("{mark!r}", repr(str(mark))))
    with pytest.raises(TaskError, match=re.escape(str(path))): load_flan(path)
    assert not mark.exists() and "templates" not in sys.modules


BASE = "PATTERNS = {'a': [('x', 'y')], 'b': [('{z}', 'w')]}\n"
A, B = [Pattern("x", "y")], [Pattern("{z}", "w")]


@pytest.mark.parametrize("code, found", [
    ("import os, copy\nfrom typing import List\n" + BASE, {"a": A, "b": B}),
    (BASE + "OTHER = copy.deepcopy(PATTERNS)\nOTHER.update(elsewhere.PATTERNS)\nfor n in OTHER: "
            "OTHER[n] = 1\nopen({mark!r}, 'w')", {"a": A, "b": B}),
    ("class C:\n  x: str = ''\ndef f(): return 1\n" + BASE + "f()\n__all__ = ['PATTERNS']\nassert "
        "len(PATTERNS) == 2", {"a": A, "b": B}),
    (BASE + "PATTERNS['c'] = PATTERNS['a']\nPATTERNS['a'] = [('{z}', 'w')]",
    {"a": B, "b": B, "c": A}),
    (BASE + "PATTERNS.update({'b': [('x', 'y')], 'c': PATTERNS})", "line 2"),
    (BASE + "PATTERNS.update({'b': [('x', 'y')], 'c': [('{z}', 'w')]})", {"a": A, "b": A, "c": B}),
    ("PATTERNS: dict = {'b': [('{' + 'z' + '}', 'w')]}", {"b": B}),
    ("PATTERNS = {'b': [\n  ('{'\n   'z}', 'w')]}", {"b": B}),
    (BASE + "PATTERNS = {'a': [('x', 'y')]}", {"a": A}),
    (BASE + "SPLITS = ['train', 'eval', '*']", {"a": A, "b": B}),
    (BASE + "\nPATTERNS.update(more())", "line 3"), (BASE + "PATTERNS |= {'c': []}", "line 2"),
    (BASE + "del PATTERNS['a']", "line 2"),
    (BASE + "PATTERNS['a'] += [('x', 'y')]", "line 2"),
    (BASE + "PATTERNS['a'].append(('x', 'y'))", "line 2"),
    (BASE + "P = PATTERNS\nP.clear()", "line 2"),
    (BASE + "for n in PATTERNS: PATTERNS[n] = []", "line 2"),
    (BASE + "from elsewhere import *", "line 2"), (BASE + "from x import PATTERNS", "line 2"),
    (BASE + "import x as PATTERNS", "line 2"), (BASE + "globals()['PAT' 'TERNS'] = {}", "line 2"),
    (BASE + "exec('PATTERNS = {}')", "line 2"),
    (BASE + "def PATTERNS(): pass", "line 2"),
    (BASE + "def f():\n  global PATTERNS\n  PATTERNS = {}\nf()", "line 2"),
    (BASE + "vars().update(PATTERNS={})", "line 2"),
    ("PATTERNS['a'] = [('x', 'y')]", "line 1"), ("A = [('x', 'y')]\nPATTERNS = {'a': A}", "line 2"),
    ("B = {}\nPATTERNS = {**B, 'a': [('x', 'y')]}", "line 2"),
    ("PATTERNS = {'a': [('x', 'y')], 'a': [('{z}', 'w')]}", "twice"),
    (BASE + "PATTERNS['c'] = PATTERNS['d']", "line 2"), ("OTHER = 1", "found None"),
])
def test_a_program_around_the_patterns_is_read_right_or_refused(tmp_path, code, found):
    mark = tmp_path / "was_run"
    path = written(tmp_path, code.replace("{mark!r}", repr(str(mark))))
    if isinstance(found, dict): assert load_flan(path) == found
    else:
        with pytest.raises(TaskError, match=f"{found}.*version 1 and version 2"): load_flan(path)
    assert not mark.exists()


def test_what_may_change_the_patterns_is_named_with_its_line(tmp_path):
    path = written(tmp_path, BASE + "\nPATTERNS.clear()\n")
    with pytest.raises(
        TaskError,
        match=re.escape(
            "line 3: found 'PATTERNS.clear()'; it may change PATTERNS; of Python only literal"
        ),
    ):
        load_flan(path)


@pytest.mark.parametrize("name, text",
    [("t.py", "PATTERNS = {'a': [('x', '%s')]}"), ("t.yaml", "a: [[x, %s]]")])
def test_a_huge_file_is_not_read(tmp_path, name, text):
    assert load_flan(written(tmp_path, text % "y", name)) == {"a": [Pattern("x", "y")]}
    with pytest.raises(TaskError, match="1,000,000 bytes"):
        load_flan(written(tmp_path, text % ("y" * 1_000_000), name))


@pytest.mark.parametrize("text",
    ["a: [", "- a", "a", "", "a: !!python/object/apply:os.system [ls]", "a: " + "[" * 5_000, "\0",
     "a: [[x, y]]\n" + "b: &b [*b]", "1: [[x, y]]", "yes: [[x, y]]",
     "a: [[x, y]]\na: [[x, z]]", "a: [[x, y]]\n<<: {b: 1}",
     "a: &x [[x, y]]\nb: *x", "a: !!binary aGk=",
     "a: [[x, 2020-01-01]]", "a: [[x, y]]\n---\nb: [[x, y]]"])
def test_bad_yaml(tmp_path, text):
    with pytest.raises(TaskError, match="t.yaml"): load_flan(written(tmp_path, text, "t.yaml"))


@pytest.mark.parametrize("name", ["t.yaml", "t.py"])
def test_laughs_are_refused_and_every_message_is_short(tmp_path, name):
    "Lists in lists in lists, and huge names and texts."
    laughs = "a0: &a0 [ha]\n" + "\n".join(
        f"a{n + 1}: &a{n + 1} [" + ", ".join([f"*a{n}"] * 9) + "]" for n in range(30)
    )
    for text in (
        laughs, f"{{'{'n' * 100_000}': 1}}", "{'a': ['" + "x" * 100_000 + "']}",
        "{'a': [" + "1," * 100_000 + "]}",
    ):
        with pytest.raises(TaskError) as error:
            load_flan(written(tmp_path, text if name == "t.yaml" else f"PATTERNS = {text}", name))
        assert len(str(error.value)) < 700 + len(str(tmp_path))


def test_yaml_of_plain_values(tmp_path):
    text = "a: [1, 2.5, null, true, yes, 'yes', x, 1e-3]\nb: {c: {d: []}}\n"
    expected = {"a": [1, 2.5, None, True, True, "yes", "x", "1e-3"], "b": {"c": {"d": []}}}
    assert (
        read_yaml(written(tmp_path, text, "t.yaml"))
        == read_yaml(written(tmp_path, "\ufeff" + text, "t.yaml"))
        == expected
    )
    with pytest.raises(TaskError, match="at most 10 bytes"):
        read_yaml(written(tmp_path, text, "t.yaml"), limit=10)
    with pytest.raises(
        TaskError, match="line 2: found 'b: \\[\\*x]'; repair the YAML .found an alias"
    ):
        read_yaml(written(tmp_path, "a: &x [1]\nb: [*x]", "t.yaml"))


# Rows of a file

@pytest.mark.parametrize("row, place", [
    ('{"text": "\\ud83d"}', "text"), ('{"a": {"b": ["x", "\\udc00!"]}}', "a.b[1]"),
    ('{"\\ud83d": 1}', "\\ud83d"),
    ('{"a": [{"\\ud83d": 1}]}', "a[0].\\ud83d"), ('{"text": "\\ud83e\\udd89"}', None),
    ('{"text": "\\u0000 \\uffff"}', None),
])
def test_half_a_sign_is_named(tmp_path, row, place):
    path = written(tmp_path, '{"text": "one"}\n' + row + "\n", "rows.jsonl")
    if place is None: assert len(list(read_rows(path))) == 2
    else:
        with pytest.raises(TaskError, match=re.escape(f"rows.jsonl, line 2: {place}: found ")):
            list(read_rows(path))


def test_rows_that_cannot_be_read(tmp_path):
    for text in ("", "\n\n", "\ufeff"):
        with pytest.raises(TaskError, match="rows.jsonl: rows: found 0"):
            list(read_rows(written(tmp_path, text, "rows.jsonl")))
    for encoding in ("utf-16", "utf-16-be", "utf-32", "latin-1"):
        (tmp_path / "rows.jsonl").write_bytes('{"text": "é"}'.encode(encoding))
        with pytest.raises(ValueError, match="rows.jsonl"): list(read_rows(tmp_path / "rows.jsonl"))
    assert list(read_rows(written(tmp_path, '\ufeff{"text": "é"}', "rows.jsonl"))) == [
        (f"{tmp_path / 'rows.jsonl'}, line 1", {"text": "é"})
    ]


def test_a_null_is_never_written(tmp_path):
    with pytest.raises(TaskError, match="premise: found None"):
        render(FOLLOWS, NLI | {"premise": None})
    with pytest.raises(TaskError, match="answer: found None"):
        render(FOLLOWS, NLI | {"answer": None})
    many = NLI | {"options": [str(n) for n in range(100_000)]}
    with pytest.raises(TaskError) as error: check_flan_row("nli", many)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("value, field", [
    ({"a": {}}, "a: found {}"), ({"a": []}, r"a: found \[\]"), ({"a": "xy"}, "a: found 'xy'"),
    ({"a": [["x", "y"], ["x"]]}, r"a\[1\]: found"),
    ({"a": [["x", "y", "z"]]}, r"a\[0\]: found"), ({"a": [["x", 1]]}, r"a\[0\]: found"),
    ({"b": [["x", "y"]], "a": ["xy"]}, r"a\[0\]: found 'xy'"),
])
def test_a_wrong_shape_names_key_and_index(tmp_path, value, field):
    with pytest.raises(TaskError, match=field):
        load_flan(written(tmp_path, f"PATTERNS = {value!r}"))
    with pytest.raises(TaskError, match=field): load_flan(written(tmp_path, f"{value!r}", "t.yaml"))


def test_no_file(tmp_path):
    with pytest.raises(TaskError, match="nowhere.yaml"): load_flan(tmp_path / "nowhere.yaml")
    with pytest.raises(TaskError): load_flan(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"a: [[\xff, y]]")
    with pytest.raises(TaskError, match="latin.yaml"): load_flan(tmp_path / "latin.yaml")


# Back from a source to a row

texts = st.text(max_size=12) | st.sampled_from(
    ["", " ", "\n", "{premise}", "OPTIONS:\n- a\n- b", "\n- ", "So: x?", "?\n\n", "\\1", "\0"]
)
rows_of_text = st.fixed_dictionaries(
    {"premise": texts, "hypothesis": texts, "answer": texts},
    optional={"options": st.lists(texts, max_size=4)},
)
shapes = [
    FOLLOWS, Pattern("{premise}{hypothesis}", "{answer}"),
    Pattern("{premise} {premise}: {hypothesis}", "{premise}{answer}"),
    Pattern(" {options_}\n{hypothesis}", "{answer} {premise}"),
    Pattern("{options_str}{premise}", "{hypothesis}"),
    Pattern("Write something.", "{premise}\n{hypothesis} {answer}"),
    Pattern("({premise}) [{hypothesis}]+", "{answer}$"),
]


@settings(max_examples=400, deadline=None)
@given(rows_of_text, st.sampled_from(shapes))
def test_any_text_in_any_column_comes_back(row, template):
    source, target = render(template, row)
    again = row_of(source, template, target)
    assert render(template, again) == (source, target)
    shown = row_of(source, template)
    assert render(Pattern(template.source, ""), shown)[0] == source


@settings(max_examples=200, deadline=None)
@given(rows_of_text, st.sampled_from(list(PATTERNS["nli"])))
def test_any_text_in_our_templates(row, template):
    source, target = render(template, row)
    assert render(template, row_of(source, template, target)) == (source, target)


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_a_plain_row_comes_back_as_it_was(cluster):
    for template, row in round_robin(micro_rows(cluster, 10), PATTERNS[cluster][:3]):
        assert row_of(render(template, row)[0], template, row["answer"]) == row


def test_a_text_that_does_not_fit():
    with pytest.raises(TaskError, match="give a text of the template"): row_of("It rains.", FOLLOWS)
    with pytest.raises(TaskError): row_of("a a", Pattern("{x} {x}!", ""))
    with pytest.raises(TaskError): row_of("a b", Pattern("{x} {x}", ""))
    with pytest.raises(TaskError): row_of("a", Pattern("{x}", "{x}"), "b")
    assert row_of("a", Pattern("{x}", "{x}"), "a") == {"x": "a"}


# Templates in turn

def test_round_robin():
    templates, rows = [Pattern(c, "") for c in "abc"], [{"n": n} for n in range(8)]
    assert [(t.source, row["n"]) for t, row in round_robin(rows, templates)] == list(
        zip("abcabcab", range(8))
    )
    assert [(t.source, row["n"]) for t, row in round_robin(rows, templates, faithful=True)] == list(
        zip("abcabc", range(6))
    )
    assert (
        list(round_robin(rows[:2], templates, faithful=True)) == []
        and len(list(round_robin(iter(rows[:2]), templates))) == 2
    )


# A mixture

def test_mixing_rates():
    assert mixing_rates({"a": 1_000, "b": 3_000, "c": 400_000}) == {
        "a": 1 / 7, "b": 3 / 7, "c": 3 / 7,
    }
    assert mixing_rates({"a": 10_000, "b": 400_000}, maximum=None) == {"a": .25, "b": .75}
    assert mixing_rates({"a": 10_000, "b": 40_000}, cap=None, maximum=None) == {"a": .2, "b": .8}
    assert mixing_rates({"a": 100, "b": 400}, cap=200, maximum=300) == {"a": 1 / 3, "b": 2 / 3}
    assert mixing_rates({"a": 0, "b": 5}) == {"a": 0, "b": 1}
    for sizes in ({}, {"a": 0}, {"a": -1, "b": 2}):
        with pytest.raises(TaskError, match="at least one example"): mixing_rates(sizes)


def toy(**sizes): return {name: list(range(n)) for name, n in sizes.items()}


def test_the_mixture_walks_through_each_data_set():
    drawn = list(mix(toy(a=7, b=20), 400, seed=3))
    for name, size in (("a", 7), ("b", 20)):
        walk = [row for d, row in drawn if d == name]
        rounds = [walk[i:i + size] for i in range(0, len(walk) - size, size)]
        assert (
            all(sorted(r) == list(range(size)) for r in rounds)
            and len({tuple(r) for r in rounds}) > 1
        )
    assert (
        drawn
        == list(islice(mix(toy(a=7, b=20), seed=3), 400))
        != list(mix(toy(a=7, b=20), 400, seed=4))
    )


def test_only_the_first_rows_are_drawn():
    assert {row for _, row in mix(toy(a=100), 200, cap=30)} == set(range(30))
    assert list(mix(toy(a=0, b=3), 50)) and {name for name, _ in mix(toy(a=0, b=3), 50)} == {"b"}


def p_value(drawn, rates):
    counts = Counter(name for name, _ in drawn)
    return chisquare(
        [counts[name] for name in rates], [len(drawn) * p for p in rates.values()]
    ).pvalue


ROWS, RATES = (
    toy(a=500, b=3_000, c=9_000, d=40_000), {"a": 5 / 95, "b": 30 / 95, "c": 30 / 95, "d": 30 / 95},
)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("wrong",
    [{"maximum": None}, {"maximum": 500}, {"maximum": None, "cap": None}])
def test_chi_square_rejects_a_sampler_with_other_limits(seed, wrong):
    assert p_value(list(mix(ROWS, 3_000, seed)), RATES) > .001
    assert p_value(list(mix(ROWS, 3_000, seed, **wrong)), RATES) < 1e-9


def test_chi_square_over_many_seeds_is_uniform():
    "A right sampler is below p in a share p of the seeds: neither too far, nor too near."
    assert (
        kstest(
            [p_value(list(mix(ROWS, 500, seed)), RATES) for seed in range(200)], "uniform"
        ).pvalue
        > 0.01
    )


# Exemplars

PAIRS = [("one", "1"), ("two ", "2")]


def test_the_dialogue_of_flan():
    assert few_shot("three", faithful=True) == "0 three X 1 FLAN"
    assert few_shot("three\n", faithful=True) == "0 three\n X 1 FLAN"
    assert (
        few_shot("three", PAIRS, faithful=True) == "0 one X 1 1 X 0 two  X 1 2 X 0 three X 1 FLAN"
    )


def test_plain_lines():
    assert few_shot("three") == "three"
    assert few_shot("three", PAIRS) == "one\n1\n\ntwo \n2\n\nthree"


@pytest.mark.parametrize("k", [0, 1, 2, 3, 5, 10, 16, None])
@pytest.mark.parametrize("faithful", [False, True])
def test_any_number_of_exemplars(k, faithful):
    text = few_shot("?", [(f"x{n};", f"y{n};") for n in range(20)], k, faithful=faithful)
    assert re.findall(r"y\d+;", text) == [f"y{n};" for n in range(20 if k is None else k)]


def test_pruning_as_flan_counts():
    # question: "three X " 8; exemplars: "one X " 6 + "1" 1, "two  X " 7 + "2" 1
    for budget, n in ((7, 0), (8, 0), (14, 0), (15, 1), (22, 1), (23, 2)):
        assert prune("three", PAIRS, Letters(), budget, faithful=True) == PAIRS[:n]
    assert (
        few_shot("three", PAIRS, None, 22, Letters(), faithful=True)
        == "0 one X 1 1 X 0 three X 1 FLAN"
    )


def test_pruning_plain_lines_counts_what_is_written():
    # question: "three" 5; exemplars: "one\n" 4 + "1\n\n" 3, "two \n" 5 + "2\n\n" 3
    for budget, n in ((4, 0), (11, 0), (12, 1), (19, 1), (20, 2)):
        assert prune("three", PAIRS, Letters(), budget) == PAIRS[:n]
        assert n == 0 or len(few_shot("three", PAIRS, None, budget, Letters())) <= budget


def test_the_first_that_does_not_fit_ends_it():
    assert prune("?", [("a", "b"), ("long " * 9, "b"), ("a", "b")], Letters(), 20) == [("a", "b")]
    assert few_shot("?", PAIRS, 1, 960, Letters()) == "one\n1\n\n?"


# The small world

@pytest.mark.parametrize("cluster", CLUSTERS)
def test_micro_rows_are_seeded_checked_and_apart(cluster):
    train, test = micro_rows(cluster, 60), micro_rows(cluster, 60, held_out=True)
    for row in train + test: check_flan_row(cluster, row)
    assert train == micro_rows(cluster, 80)[:60] != micro_rows(cluster, 60, seed=1)
    def texts(rows):
        return {" ".join(row[column] for column in CLUSTERS[cluster].inputs) for row in rows}
    assert (
        not texts(train) & texts(test)
        and all(map(is_held_out, texts(test)))
        and not any(map(is_held_out, texts(train)))
    )
    assert len(texts(train)) > 30


@pytest.mark.parametrize("cluster",
    [name for name in CLUSTERS if "options" in micro_rows(name, 1)[0]])
def test_labels_are_balanced_within_one(cluster):
    for n in (30, 31, 50):
        rows = micro_rows(cluster, n, seed=2)
        counts = Counter(row["options"].index(row["answer"]) for row in rows)
        assert (
            len(counts) == len(rows[0]["options"])
            and max(counts.values()) - min(counts.values()) <= 1
        )
        assert all(len(set(row["options"])) == len(row["options"]) for row in rows)


def micro(cluster): return micro_rows(cluster, 40, seed=5)


def test_answers_of_the_small_world_are_true():
    back = {
        name: {table[w]: w for w in WORDS}
        for name, table in FORMS.items()
        if name in ("zor", "mib")
    } | {"plain": {w: w for w in WORDS}}
    tables = {**FORMS, "plain": FORMS["itself"]}
    for row in micro("translation"):
        words = [back[row["source_language"]][w] for w in row["text"].split()]
        assert row["answer"] == " ".join(tables[row["target_language"]][w] for w in words)
    for row in micro("commonsense"):
        kind, = {KIND[w] for w in row["context"].split()}
        assert [w for w in row["options"] if KIND[w] == kind] == [row["answer"]] and row[
            "answer"
        ] not in row["context"].split()
    for row in micro("sentiment"):
        sizes = [FORMS["size"][w] for w in row["text"].split()]
        assert row["answer"] == (
            "positive" if sizes.count("big") > sizes.count("small") else "negative"
        )
    for row in micro("coreference"):
        assert [w for w in row["options"] if row["text"].endswith(f" {KIND[w]}.")] == [
            row["answer"]
        ]
        assert f" {row['pronoun']} " in row["text"] and all(
            w in row["text"] for w in row["options"]
        )
    for row in micro("summarization"):
        kinds = [KIND[w] for w in row["text"].split()]
        assert row["answer"].split() == sorted(
            set(kinds), key=lambda k: (-kinds.count(k), kinds.index(k))
        )


def orders(text):
    "The statements of a text as pairs (earlier, later)."
    pairs = re.findall(r"(\w+) comes (before|after) (\w+)\.", text)
    return {(a, b) if word == "before" else (b, a) for a, word, b in pairs}


def test_answers_about_orders_are_true():
    for row in micro("nli"):
        told, ((a, b),) = orders(row["premise"]), orders(row["hypothesis"])
        words = {w for pair in told for w in pair} | {a, b}
        fits = [o for o in permutations(words) if all(o.index(x) < o.index(y) for x, y in told)]
        truths = {o.index(a) < o.index(b) for o in fits}
        assert fits and row["answer"] == (
            "it is not possible to tell" if len(truths) == 2 else "yes" if True in truths else "no"
        )
    for row in micro("paraphrase"):
        assert row["answer"] == (
            "yes" if orders(row["sentence1"]) == orders(row["sentence2"]) else "no"
        )
    for row in micro("reading_comprehension"):
        after = dict(re.findall(r"right after (\w+) there is (\w+)\.", row["passage"]))
        side, word = re.search(r"right (after|before) (\w+)\?", row["question"]).groups()
        assert row["answer"] == (
            after[word] if side == "after" else {b: a for a, b in after.items()}[word]
        )


def test_answers_from_knowledge_are_true():
    places = {"first": 0, "second": 1, "third": 2, "fourth": 3, "last": -1}
    for row in micro("closed_book_qa") + micro("reading_comprehension_with_commonsense"):
        table = re.search(r"zor|mib|friend|kind", row["question"])[0]
        of = re.search(r"of (?:the (\w+) )?(\w+)", row["question"])
        word = row["passage"].split()[places[of[1]]] if "passage" in row else of[2]
        assert row["answer"] == FORMS[table][word] and row["options"].count(row["answer"]) == 1
    for row in micro("struct_to_text"):
        for triple in row["data"].split("; "):
            word, field, value = triple.split(" | ")
            assert FORMS[field][word] == value and value in row["answer"] and word in row["answer"]


@pytest.mark.parametrize("step, expected",
    [("Turn every word around.", lambda ws: ws[::-1]),
    ("Drop every tool.", lambda ws: [w for w in ws if KIND[w] != "tool"]),
    ("Move the third word to the front.", lambda ws: [ws[2], *ws[:2], *ws[3:]]),
    ("Keep the first two words and nothing else.", lambda ws: ws[:2])])
def test_answers_of_small_jobs_are_true(step, expected):
    rows = [row for row in micro_rows("miscellaneous", 2000) if row["question"] == step]
    assert rows and all(row["answer"].split() == expected(row["text"].split()) for row in rows)


def test_small_jobs_have_something_to_do():
    rows = micro_rows("miscellaneous", 2000)
    assert not any(row["answer"] == "none" for row in rows)
    drops = [row for row in rows if row["question"].startswith(("Drop", "Keep"))]
    assert drops and not any(row["answer"] == row["text"] for row in drops)


# The data sets

def test_there_are_62_data_sets_in_12_clusters():
    assert Counter(entry["cluster"] for entry in DATASETS.values()) == {
        "nli": 7, "reading_comprehension": 5, "closed_book_qa": 3, "translation": 8,
        "commonsense": 4, "sentiment": 4, "paraphrase": 4, "struct_to_text": 4, "summarization": 11,
        "coreference": 3, "reading_comprehension_with_commonsense": 2, "miscellaneous": 7,
    }
    assert len({entry["title"] for entry in DATASETS.values()}) == 62


@pytest.mark.parametrize("name", DATASETS)
def test_each_data_set_has_rules_for_the_columns_of_its_cluster(name):
    entry = DATASETS[name]
    contract, columns = CLUSTERS[entry["cluster"]], list(entry["columns"])
    needed = [
        *contract.settings, *contract.inputs,
        *["options"] * (contract.options == "yes" or "options" in columns), "answer",
    ]
    assert sorted(columns) == sorted(needed) and columns[-1] == "answer", (
        "the answer points to the options, so it comes last"
    )
    assert contract.options != "no" or "options" not in columns
    assert ("note" in entry) != ("hub" in entry) and not ("files" in entry and "config" in entry)
    assert {"train", "validation", "test"} & entry.keys() and ("rows" in entry) == (
        "train" in entry
    )


# What the rules of each data set give is tested in test_flan_data.py; here are the kinds of rules.

def mapped(rule, hub_row, cluster="summarization", **entry):
    return map_row(
        {"title": "Toy", "cluster": cluster, "columns": {"text": "t", **rule}, **entry}, hub_row
    )


@pytest.mark.parametrize("rule, answer", [
    ("fixed", "fixed"),
    ("{a}", "x {b}"),  # what a field says is not looked at again
    ("<{a}> {n} {not a field}", "<x {b}> 3 {not a field}"),
    ("{deep.list.1}", "two"),
    ("{deep.list.2}", None),  # an empty list of answers, or a short one
    ("{objects.name.1}", "D"),  # a list of objects is read as an object of lists
    ({"join": "{deep.list}", "with": "; "}, "one; two"),
    ({"join": "{triples}", "with": "; "}, "a | is | 1; b | is | 2"),
    ({"number": "{deep.list}"}, "1. one\n2. two"),
    ({"number": "{named}"}, "1. x\n2. y"),
    ("{n}", "3"), ("{zero}", "0"), ("{empty}", None), ("{none}", None),
    ({"join": "{nothing}", "with": ""}, None),
])
def test_rules(rule, answer):
    hub_row = {
        "a": "x {b}", "b": "never", "n": 3, "zero": 0, "deep": {"list": ["one", "two"]},
        "objects": [{"name": "C"}, {"name": "D"}], "triples": [["a", "is", 1], ["b", "is", 2]],
        "named": {"8": "x", "5": "y"}, "empty": "", "none": None, "nothing": [],
    }
    assert mapped({"answer": rule}, hub_row) == (
        None if answer is None else {"text": "t", "answer": answer}
    )


@pytest.mark.parametrize("rule, label, answer", [
    ({}, 0, "no"), ({}, 1, "yes"), ({}, "1", "yes"), ({}, 0.4, "no"), ({}, 0.6, "yes"),
    ({}, -1, None), ({}, 2, None), ({}, "", None), ({}, None, None),
    ({"base": 1}, 1, "no"), ({"base": 1}, "2", "yes"), ({"base": 1}, 0, None),
    ({"names": [0, 4]}, 4, "yes"), ({"names": [0, 4]}, 2, None),
    ({"names": "{letters}"}, "B", "yes"), ({"names": "{letters}"}, "", None),
])
@pytest.mark.parametrize("options", [["no", "yes"], "{options}", ["{options.0}", "{options.1}"]])
def test_an_answer_that_points_to_an_option(rule, label, answer, options):
    hub_row = {"label": label, "letters": ["A", "B"], "options": ["no", "yes"]}
    row = mapped(
        {"options": options, "answer": {"options": "{label}", **rule}}, hub_row, "sentiment"
    )
    assert row == (
        None if answer is None else {"text": "t", "options": ["no", "yes"], "answer": answer}
    )


def test_replacements_come_in_order_and_in_all_columns():
    row = mapped(
        {"text": "{a}", "options": ["a_", "b"], "answer": "a_"}, {"a": "_a"}, "sentiment",
        replace={"_": "-", "-a": "+"},
    )
    assert row == {"text": "+", "options": ["a-", "b"], "answer": "a-"}


def test_punctuation_is_taken_out():
    assert mapped(
        {"text": "{a}", "answer": "{a}"}, {"a": "Well, so be it."}, make="strip_punctuation"
    ) == {"text": "Well so be it", "answer": "Well, so be it."}
    assert (
        mapped({"text": "{a}", "answer": "{a}"}, {"a": "nothing here"}, make="strip_punctuation")
        is None
    )


def test_a_hub_row_that_does_not_fit():
    with pytest.raises(TaskError, match=r"RTE: hypothesis: .*it has \['premise'\]"):
        map_row(DATASETS["rte"], {"premise": "p"})
    with pytest.raises(TaskError, match="RTE: answer"):
        map_row(DATASETS["rte"], {"premise": "p", "hypothesis": "h", "label": "entailment"})
    with pytest.raises(TaskError, match="ReCoRD: answer: found 'Eve'; choose from the options"):
        map_row(
            DATASETS["record"],
            {"passage": "p", "query": "q", "entities": ["Ann"], "answers": ["Eve"]},
        )


@pytest.fixture
def hub(monkeypatch):
    "A hub of two rows a split; it notes what was asked of it."
    import datasets
    asked = []
    def load_dataset(*names, split, streaming, **more):
        asked.append((*names, split, streaming, *more.values()))
        return iter(
            [
                {"premise": split, "hypothesis": "h", "text": split, "sentiment": 4, "label": label}
                for label in (-1, 0, 1)
            ]
        )
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def test_load_rows_joins_parts_and_leaves_out_rows_without_label(hub):
    rows = load_rows("anli", "validation")
    assert [row["premise"] for row in rows] == ["dev_r1"] * 2 + ["dev_r2"] * 2 + ["dev_r3"] * 2
    assert hub == [("facebook/anli", "plain_text", f"dev_r{n}", False) for n in (1, 2, 3)]


def test_load_rows_streams_the_first_rows(hub):
    assert [row["premise"] for row in load_rows("anli", n=3)] == [
        "train_r1", "train_r1", "train_r2",
    ]
    assert hub == [("facebook/anli", "plain_text", f"train_r{n}", True) for n in (1, 2)]


def test_load_rows_from_files(hub):
    assert len(load_rows("sentiment140", "test", 2)) == 2
    assert hub == [
        (
            "parquet", "test", True,
            {
                "test": "hf://datasets/stanfordnlp/sentiment140@refs/convert/parquet/*/test/*.parquet"
            },
        )
    ]


def test_load_rows_without_a_hub(monkeypatch):
    import datasets
    def load_dataset(*names, **more): raise ConnectionError("no route to host")
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(TaskError, match=r"rte: hub: .*no route.*micro_rows\('nli', n\)"):
        load_rows("rte", n=5)


def test_load_rows_that_cannot_be():
    with pytest.raises(TaskError, match=r"newsroom: hub: .*micro_rows\('summarization', n\)"):
        load_rows("newsroom")
    with pytest.raises(TaskError, match=r"wsc273: split: found 'train'; choose from \['test'\]"):
        load_rows("wsc273")
    with pytest.raises(TaskError, match="found 'glue'"): load_rows("glue")
    with pytest.raises(TaskError, match="entailment"): load_rows("micro_entailment")
    assert load_rows("micro_nli", n=5) == micro_rows("nli", 5) and load_rows(
        "micro_nli", "test", 5
    ) == micro_rows("nli", 5, held_out=True)


def test_hold_out():
    kin = {
        "nli": {"paraphrase"}, "paraphrase": {"nli"},
        "commonsense": {"reading_comprehension_with_commonsense"},
        "reading_comprehension": {"reading_comprehension_with_commonsense"},
        "reading_comprehension_with_commonsense": {"reading_comprehension", "commonsense"},
    }
    for cluster in CLUSTERS:
        train, test = hold_out(cluster)
        away = {cluster} | kin.get(cluster, set())
        assert test == [name for name, entry in DATASETS.items() if entry["cluster"] == cluster]
        assert {DATASETS[name]["cluster"] for name in train} == set(CLUSTERS) - away
        # tests only
        assert {*DATASETS} - {*train} == {
            name for name, entry in DATASETS.items() if entry["cluster"] in away
        } | {"wsc273"}
    with pytest.raises(TaskError, match="entailment"): hold_out("entailment")


# To tasks and back

def test_rows_to_task():
    task, dropped = rows_to_task(
        "rain", "nli", [NLI, NLI | {"answer": "no", "line": 7}], FOLLOWS, examples=[NLI]
    )
    assert task.definition == ["{premise}\nSo: {hypothesis}?"] and task.categories == [
        "Natural language inference"
    ]
    text = "premise: It rains.\nhypothesis: It is wet.\nOPTIONS:\n- yes\n- maybe\n- no"
    assert task.instances == [Instance("rain-0", text, ["yes"]), Instance("rain-1", text, ["no"])]
    assert task.positive == [Example(text, "yes")] and dropped == ["rows[1].line: 7"]
    assert Task.from_json(task.to_json(), "rain").instances[0].input == text


def test_rows_to_task_with_a_template_that_turns_around():
    task, dropped = rows_to_task(
        "rain", "nli", [NLI], Pattern("Why is it so that {hypothesis}", "{premise}")
    )
    assert task.instances == [Instance("rain-0", "hypothesis: It is wet.", ["It rains."])]
    assert dropped == ["rows[0].options: ['yes', 'maybe', 'no']", "rows[0].answer: 'yes'"]


def test_rows_to_task_without_options_or_columns():
    task, dropped = rows_to_task("q", "closed_book_qa", [{"question": "Who?", "answer": "You."}])
    assert task.instances == [Instance("q-0", "question: Who?", ["You."])] and dropped == []
    with pytest.raises(TaskError, match="premise"):
        rows_to_task("q", "nli", [{"hypothesis": ""}], FOLLOWS)
    with pytest.raises(TaskError, match="entailment"): rows_to_task("q", "entailment", [NLI])


def test_task_to_rows():
    task = Task(
        "half", ["Halve it.", "Halve {it}.", "A half of { it }, please."], [Example("4", "2")],
        [Example("4", "5")],
        [Instance("half-0", "2", ["1", "one"]), Instance("half-1", "{x}", ["y"], {"level": 3})],
        ["Arithmetic"],
    )
    (rows, templates), dropped = task_to_rows(task)
    assert rows == [
        {"id": "half-0", "input": "2", "answer": "1"},
        {"id": "half-1", "input": "{x}", "answer": "y"},
    ]
    assert [render(t, rows[1]) for t in templates] == [
        ("Halve it.\n\n{x}", "y"), ("A half of { it }, please.\n\n{x}", "y"),
    ]
    assert dropped == [
        "Categories: ['Arithmetic']", "Positive Examples: [{'input': '4', 'output': '2'}]",
        "Negative Examples: [{'input': '4', 'output': '5'}]", "definition[1]: 'Halve {it}.'",
        "half-0: output: 'one'", "half-1: level: 3",
    ]


def test_at_most_ten_wordings():
    (_, templates), dropped = task_to_rows(Task("many", [f"Do {n}." for n in range(12)]))
    assert len(templates) == 10 and dropped == [
        "definition[10]: 'Do 10.'", "definition[11]: 'Do 11.'",
    ]
    with pytest.raises(TaskError, match="a word in braces"):
        task_to_rows(Task("gap", ["Do {this}."]))


def test_a_task_of_version_1():
    data = {
        "Title": "Halves", "Prompt": "Halve it!", "Definition": "Halve the number.",
        "Things to Avoid": "-", "Emphasis & Caution": "-",
        "Examples": {"Positive Examples": [], "Negative Examples": []},
        "Instances": [{"input": "2", "output": ["1"]}],
    }
    (rows, templates), dropped = task_to_rows(Task.from_json(data, "half"))
    assert render(templates[0], rows[0]) == ("Halve the number.\n\n2", "1")
    assert dropped[:2] == ["Title: 'Halves'", "Prompt: 'Halve it!'"] and not any(
        "Avoid" in text for text in dropped
    )


def test_rows_to_task_and_back():
    task, _ = rows_to_task(
        "x", "summarization", micro_rows("summarization", 5),
        Pattern("In short: {text}", "{answer}"),
    )
    task.definition = ["Say it in short."]
    (rows, templates), _ = task_to_rows(task)
    assert [row["answer"] for row in rows] == [
        row["answer"] for row in micro_rows("summarization", 5)
    ]


def test_real_tasks_become_rows(real_tasks):
    for task in load_tasks(real_tasks, n_instances=3):
        (rows, templates), dropped = task_to_rows(task)
        assert render(templates[0], rows[0]) == (
            f"{task.definition[0]}\n\n{task.instances[0].input}", task.instances[0].output[0],
        )
        assert sum(": output: " in text for text in dropped) == sum(
            len(i.output) - 1 for i in task.instances
        )


def test_what_the_review_found():
    "No reference, examples with columns of their own, no templates, no such split: all told."
    with pytest.raises(TaskError, match="t-0: output.*give it a reference"):
        task_to_rows(Task("t", ["Do."], instances=[Instance("t-0", "1", [])]))
    row = {"text": "a", "answer": "b"}
    assert rows_to_task("t", "summarization", [row], examples=[row | {"note": "hi"}]).dropped == [
        "examples[0].note: 'hi'"
    ]
    with pytest.raises(TaskError, match="give at least one"): list(round_robin([row], []))
    with pytest.raises(TaskError, match="tarin.*choose from"): load_rows("micro_nli", "tarin", 1)
    assert load_rows("micro_nli", "validation", 20) != load_rows("micro_nli", "test", 20)
