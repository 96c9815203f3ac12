"""PromptSource: files, renders (faithful and mended), the sandbox, T0's mixtures, conversions
and speed."""
import copy
import json
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instop_nb.mixtures import MIXTURES, T0, cap, held_out, mixture, task_name, training_sets
from instop_nb.promptsource import (
    TEMPLATES, Metadata, Template, encode_row, load_templates, prompt_table, prompts, select,
    try_row, write_templates,
)
from instop_nb.formats import task_to_template, template_to_task
from instop_nb.explorers import template_explorer
from instop_nb.explorers import template_view
from instop_nb.tasks import Instance, Task
from instop_nb.core import TaskError

ROW = {
    "premise": "The fox met the owl.", "hypothesis": "The owl was awake.",
    "options": ["yes", "perhaps", "no"], "answer": "yes",
}


def prompt(jinja, answer_choices=None, **more):
    "Return a prompt with as few words as possible."
    return Template("t", jinja, answer_choices, **more)


def render(jinja, row=ROW, faithful=False, answer_choices=None, rng=None):
    "Return the parts that a Jinja text renders to."
    return prompt(jinja, answer_choices).render(row, faithful, rng)


# Files

FILE = """dataset: glue
subset: qqp
templates:
  b-2: !Template
    answer_choices: no ||| yes
    id: b-2
    jinja: '{{question1}} ||| {{ answer_choices[label] }}'
    metadata: !TemplateMetadata
      choices_in_prompt: false
      languages:
      - en
      metrics:
      - Accuracy
      original_task: true
    name: apple
    reference: ''
  a-1: !Template
    answer_choices: null
    id: a-1
    jinja: "x ||| y"
    metadata: !TemplateMetadata {choices_in_prompt: null, languages: [en], metrics: [], original_task: false}
    name: zebra
    reference: someone
    task_template: true
"""


def load(tmp_path, text):
    path = tmp_path / "templates.yaml"
    path.write_text(text, encoding="utf-8")
    return load_templates(path)


def test_a_file_is_read_and_sorted_by_name(tmp_path):
    apple, zebra = load(tmp_path, FILE)
    assert (apple.name, apple.id, apple.answer_choices, apple.reference) == (
        "apple", "b-2", "no ||| yes", "",
    )
    assert apple.jinja == "{{question1}} ||| {{ answer_choices[label] }}"
    assert apple.metadata == Metadata(
        original_task=True, choices_in_prompt=False, metrics=["Accuracy"], languages=["en"]
    )
    assert (
        zebra.name, zebra.answer_choices, zebra.metadata.choices_in_prompt, zebra.metadata.metrics,
    ) == ("zebra", None, None, [])
    assert zebra.extra == {"task_template": True} and apple.extra == {}
    assert apple.dataset == "glue/qqp" and apple.file == tmp_path / "templates.yaml"


def test_the_layout_that_is_written(tmp_path):
    path = write_templates(load(tmp_path, FILE), tmp_path / "out.yaml", "glue", "qqp")
    assert path.read_text() == """dataset: glue
subset: qqp
templates:
  a-1: !Template
    answer_choices: null
    id: a-1
    jinja: x ||| y
    metadata: !TemplateMetadata
      choices_in_prompt: null
      languages:
      - en
      metrics: []
      original_task: false
    name: zebra
    reference: someone
    task_template: true
  b-2: !Template
    answer_choices: no ||| yes
    id: b-2
    jinja: '{{question1}} ||| {{ answer_choices[label] }}'
    metadata: !TemplateMetadata
      choices_in_prompt: false
      languages:
      - en
      metrics:
      - Accuracy
      original_task: true
    name: apple
    reference: ''
"""


@pytest.mark.parametrize("written", ["null", "!TemplateMetadata {}"])
def test_metadata_may_say_nothing(written, tmp_path):
    start = FILE.index("metadata: !TemplateMetadata {")
    text = FILE[:start] + f"metadata: {written}\n" + FILE[FILE.index("\n", start) + 1:]
    assert load(tmp_path, text)[1].metadata == Metadata()


def test_without_a_subset_there_is_no_key(tmp_path):
    path = write_templates([prompt("a ||| b")], tmp_path / "out.yaml", "imdb")
    assert "subset" not in path.read_text() and load_templates(path)[0].dataset == "imdb"


def test_an_alias_names_one_object_and_comes_back(tmp_path):
    text = FILE.replace("metadata: !TemplateMetadata\n", "metadata: &m !TemplateMetadata\n", 1)
    start = text.index("metadata: !TemplateMetadata {")
    text = text[:start] + "metadata: *m\n" + text[text.index("\n", start) + 1:]
    one, two = load(tmp_path, text)
    assert one.metadata is two.metadata
    again = write_templates([one, two], tmp_path / "out.yaml", "glue", "qqp").read_text()
    assert "&id001 !TemplateMetadata" in again and "metadata: *id001" in again


ANY = st.text(max_size=40) | st.sampled_from(
    [
        "", "null", "yes", "123", "1e3", "2020-01-01", "<<", "- a", "a: b", "\r", "\x85\u2028",
        " x ", "\ufeff", "\0", "!Template", "é你😀", "#", "'\"", "a\n\n b\n", "*x", "&x", "%", "\t",
    ]
)
METADATA = st.builds(
    Metadata, *[st.none() | st.booleans()] * 2, *[st.none() | st.lists(ANY, max_size=3)] * 2
)
TEMPLATE = st.builds(
    Template, ANY, ANY, st.none() | ANY, METADATA, ANY, ANY,
    st.dictionaries(st.sampled_from(["task_template", "more"]), ANY | st.booleans() | st.none()),
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(TEMPLATE, max_size=3, unique_by=(lambda t: t.name, lambda t: t.id)), ANY,
    st.none() | ANY,
)
def test_any_text_survives_writing_and_reading(tmp_path_factory, templates, dataset, subset):
    path = tmp_path_factory.mktemp("yaml") / "templates.yaml"
    assert load_templates(write_templates(templates, path, dataset, subset)) == sorted(
        templates, key=lambda t: t.name
    )


SLIPS = {
    "no mapping": ("[1, 2]", "the file: found 'a list'"),
    "no data set": (
        FILE.replace("dataset: glue\n", ""), 'dataset: found nothing; add the key "dataset"',
    ),
    "data set is a number": (
        FILE.replace("dataset: glue", "dataset: 3"), "dataset: found 'an int'; write a text",
    ),
    "templates is a list": ("dataset: a\ntemplates: []", "templates: found 'a list'"),
    "unknown key": ("extra: 1\n" + FILE, "extra: found 'an int'; leave the key out"),
    "no tag": (
        FILE.replace("b-2: !Template", "b-2:"), "template 'b-2': found 'a dict'; write !Template",
    ),
    "template is a text": ("dataset: a\ntemplates: {x: hello}", "template 'x': found 'hello'"),
    "other tag": (
        FILE.replace("b-2: !Template", "b-2: !Tempalte"),
        "line 4: found '  b-2: !Tempalte'; repair the YAML (could not determine a constructor for the tag '!Tempalte')",
    ),
    "python tag": (
        FILE.replace("name: apple", "name: !!python/object/apply:os.system ['true']"),
        "python/object/apply:os.system",
    ),
    "binary": (FILE.replace("name: apple", "name: !!binary aGk="), "tag:yaml.org,2002:binary"),
    "a date": (FILE.replace("name: apple", "name: 2020-01-01"), "tag:yaml.org,2002:timestamp"),
    "missing name": (FILE.replace("    name: apple\n", ""), "template 'b-2': name: found nothing"),
    "missing Jinja": (
        FILE.replace('    jinja: "x ||| y"\n', ""), "template 'zebra': jinja: found nothing",
    ),
    "misspelt metadata key": (
        FILE.replace("original_task: true", "orignal_task: true"),
        "metadata.orignal_task: found True; leave the key out",
    ),
    "metadata without tag": (
        FILE.replace("!TemplateMetadata\n", "\n", 1),
        "template 'apple': metadata: found 'a dict'; write !TemplateMetadata",
    ),
    "wrong flag": (
        FILE.replace("original_task: true", "original_task: 'true'"),
        "metadata.original_task: found 'true'; write true, false or null",
    ),
    "wrong metrics": (
        FILE.replace("metrics: []", "metrics: BLEU"),
        "template 'zebra': metadata.metrics: found 'BLEU'; write a list",
    ),
    "jinja is null": (
        FILE.replace('jinja: "x ||| y"', "jinja: null"), "template 'zebra': jinja: found None",
    ),
    "name is yes": (
        FILE.replace("name: apple", "name: yes"),
        "template 'b-2': name: found True; write a text; quote",
    ),
    "choices are numbers": (
        FILE.replace("answer_choices: null", "answer_choices: [1, 2]"),
        "answer_choices: found 'a list'; write a text, null, or a list of texts",
    ),
    "choices are a number": (
        FILE.replace("answer_choices: null", "answer_choices: 3"), "answer_choices: found 'an int'",
    ),
    "list in a new key": (
        FILE.replace("task_template: true", "task_template: [1]"), "task_template: found 'a list'",
    ),
    "wrong id": (
        FILE.replace("id: a-1", "id: a-2"),
        "template 'zebra': id: found 'a-2'; write its key, 'a-1'",
    ),
    "same name": (
        FILE.replace("name: zebra", "name: apple"), "name: found 'apple'; 2 templates have it",
    ),
    "same key": (FILE.replace("b-2", "a-1"), "stands twice"),
    "key twice": (
        FILE.replace("    name: zebra\n", "    name: zebra\n    name: lion\n"), "stands twice",
    ),
    "key is a list": ("[a]: b", "no text"),
    "merged keys": (FILE + "<<: {subset: x}\n", "<<: found 'a dict'; leave the key out"),
    "tag on a text": ("dataset: a\ntemplates: {x: !Template hello}", "found no mapping"),
    "two documents": ("a: b\n---\nc: d", "but found another document"),
    "no YAML": ("a: [", "line "), "itself": ("&a {dataset: *a}", "dataset: found 'a dict'"),
    "deep": ("[" * 5000 + "]" * 5000, "RecursionError"),
    "long number": (
        FILE.replace("task_template: true", "task_template: " + "9" * 6000), "ValueError",
    ),
    "empty": ("", "the file: found None"),
}


@pytest.mark.parametrize("text, message", SLIPS.values(), ids=SLIPS)
def test_a_slip_is_named(tmp_path, text, message):
    with pytest.raises(TaskError) as error: load(tmp_path, text)
    assert str(error.value).startswith(str(tmp_path / "templates.yaml")) and message in str(
        error.value
    )


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(TaskError, match="nowhere.yaml"): load_templates(tmp_path / "nowhere.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"dataset: \xe9")
    with pytest.raises(TaskError, match="byte 9: .*save it as UTF-8"):
        load_templates(tmp_path / "latin.yaml")
    (tmp_path / "large.yaml").write_text(FILE + "# " + "x" * 500_000)
    with pytest.raises(TaskError, match="size: found 500"): load_templates(tmp_path / "large.yaml")


OLD = """dataset: lamps
templates:
  x-1: !Template
    id: x-1
    name: lamp
    jinja: "{{ text }} ||| {{ answer_choices[label] if answer_choices else text }}"
"""


@pytest.mark.parametrize("more, choices, metadata, reference", [
    ("", None, Metadata(), ""),  # June 2021
    ("    reference: null\n    task_template: true\n", None, Metadata(), ""),
    ("    reference: me\n    answer_choices: null\n    answer_choices_key: null\n    metadata: !TemplateMetadata {_do_eval: true, _do_train: false,"
     " choices_in_prompt: null, metrics: [], original_task: true}\n", None, Metadata(True, None, []), "me"),  # September 2021
    ("    answer_choices: ['no', 'y{{e}}s']\n", ["no", "y{{e}}s"], Metadata(), ""), ("    answer_choices: []\n", None, Metadata(), ""),
    ("    answer_choices: null\n    answer_choices_key: '{{ all | join(\"|||\") }}'\n", ["a", "b"], Metadata(), ""),
    ("    answer_choices: a ||| b\n    metadata: !TemplateMetadata {choices_in_prompt: true, metrics: [BLEU], original_task: false}\n",
     ["a", "b"], Metadata(False, True, ["BLEU"]), ""),  # October 2021 to July 2022
    ("    metadata: !TemplateMetadata {}\n", None, Metadata(), ""),
], ids=["June 2021", "task_template", "September 2021", "a list", "an empty list", "a key", "2022", "no metadata"])
def test_old_layouts(tmp_path, more, choices, metadata, reference):
    template, = load(tmp_path, OLD + more)
    row = {"text": "x", "label": 1, "all": ["a", "b"]}
    assert (
        template.choices({"all": ["a", "b"]})
        == template.choices({"all": ["a", "b"]}, faithful=True)
        == choices
    )
    assert (template.metadata, template.reference, template.extra) == (
        metadata, reference, {"task_template": True} if "task_template" in more else {},
    )
    assert (
        template.render(row)
        == template.render(row, faithful=True)
        == ["x", choices[1] if choices else "x"]
    )
    again, = load_templates(write_templates([template], tmp_path / "again.yaml", "lamps"))
    assert again == template


LAUGHS = "\n".join(f"a{n + 1}: &a{n + 1} [" + ", ".join([f"*a{n}"] * 9) + "]" for n in range(30))


@pytest.mark.parametrize(
    "text",
    [
        "a0: &a0 [ha]\n" + LAUGHS + "\ndataset: *a30\ntemplates: {}",
        "dataset: d\ntemplates:\n  x: !Template\n    jinja: a\n    a0: &a0 [ha]\n"
        + "\n".join("    " + line for line in LAUGHS.split("\n"))
        + "\n    name: *a30\n    id: x\n    reference: ''\n    answer_choices: null\n    metadata: null",
        "dataset: d\ntemplates:\n  x: &a0 !Template {k: v}\n"
        + "\n".join("  y" + line for line in LAUGHS.split("\n")),
        "a0: &a0 {x: 1}\n"
        + "\n".join(f"a{n + 1}: &a{n + 1} {{<<: [*a{n}, *a{n}]}}" for n in range(40)),
    ],
    ids=["as data set", "as name", "as template", "merged"],
)
def test_billion_laughs(tmp_path, text):
    start = time.process_time()
    with pytest.raises(TaskError) as error: load(tmp_path, text)
    assert len(str(error.value)) < 1000 and time.process_time() - start < 60


def test_duplicates_are_not_written(tmp_path):
    with pytest.raises(TaskError, match="2 templates have it"):
        write_templates([prompt("a"), prompt("b")], tmp_path / "x.yaml", "d")


# Renders

SAME_IN_BOTH = [  # (jinja, answer choices, parts)
    ("{{ premise }} So? ||| {{ answer }}", None, ["The fox met the owl. So?", "yes"]),
    ("  {{ premise }}\n\n|||\n {{ answer }}\n", None, ["The fox met the owl.", "yes"]),
    (
        "{{ answer_choices[options.index(answer)] }} ||| {{ answer_choices | join(', ') }}",
        " Yes|||Maybe ||| No ", ["Yes", "Yes, Maybe, No"],
    ),
    ("{{ answer_choices | length }} ||| x", "{{ options | join('|||') }}", ["3", "x"]),
    ("{% if answer == 'no' %}a ||| b{% endif %}", None, [""]),
    ("a ||| b ||| c", None, ["a", "b", "c"]), ("no separator", None, ["no separator"]),
    ("{{ [1, 2, 2, 1, 3] | most_frequent }}{{ [] | most_frequent is none }}", None, ["[1, 2]True"]),
    (
        "{{ (7 / 2) }} {{ (7 // 2) }} {{ (7 % 2) }} {{ '%.1f' | format(2.55) }} {{ (3 * 'ab') }} {{ 2.4 | round | int }}",
        None, ["3.5 3 1 2.5 ababab 2"],
    ),
    (
        "{{ options.0 }} {{ options[-1] }} {{ premise[:3] }} {{ options[1:] }} {{ ([1] * 2) }} {{ ('x' in options) }}",
        None, ["yes no The ['perhaps', 'no'] [1, 1] False"],
    ),
    ("{{ 'a' | highlight }}", None, ["<span style='color: #F08080'>a</span>"]),
    ("{% for a, b in zip(options, [1, 2]) %}{{ a }}{{ b }} {% endfor %}", None, ["yes1 perhaps2"]),
    (
        "{% set ns = namespace(l=[]) %}{% for o in options %}{{ ns.l.append(o) or '' }}{% endfor %}{{ ns.l[::-1] }}",
        None, ["['no', 'perhaps', 'yes']"],
    ),
    (
        "{% for o in options if o != 'no' %}{{ loop.index }}/{{ loop.length }}{{ loop.last }} {% else %}x{% endfor %}",
        None, ["1/2False 2/2True"],
    ),
    (
        "{% set d = {'a': 1} %}{% set _ = d.update({answer: 2}) %}{{ d['yes'] }}{{ d.pop('a') }}{{ d.keys() | list }}",
        None, ["21['yes']"],
    ),
    ("{{ premise.split(' ') | map('upper') | join('-') }}", None, ["THE-FOX-MET-THE-OWL."]),
    (
        "{{ options | selectattr(0, 'equalto', 'n') | list }}{{ options | reject('in', ['no']) | list }}",
        None, ["['no']['yes', 'perhaps']"],
    ),
    ("{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m(1) }}{{ m('a') }}", None, ["<1><a>"]),
    ("{% set x %}{{ answer }}!{% endset %}{{ x | upper }}", None, ["YES!"]),
    ("{% filter upper %}{{ answer }}!{% endfilter %}", None, ["YES!"]),
    (
        "{% macro m() %}<{{ caller() }}>{% endmacro %}{% call m() %}{{ answer }}{% endcall %}",
        None, ["<yes>"],
    ),
    ("{% with a = 1, b = answer %}{{ a }}{{ b }}{% endwith %}", None, ["1yes"]),
    ("{% raw %}{{ x }{% endraw %}{# nothing #}", None, ["{{ x }"]),
]


@pytest.mark.parametrize("faithful", [False, True])
@pytest.mark.parametrize(
    "jinja, answer_choices, parts", SAME_IN_BOTH, ids=[jinja[:30] for jinja, *_ in SAME_IN_BOTH]
)
def test_what_both_modes_render(jinja, answer_choices, parts, faithful):
    assert render(jinja, ROW, faithful, answer_choices) == parts


LONG = "word " * 1000  # the last space among its first 2,045 characters is the last of them

QUIRKS = {  # jinja, row, faithful parts, mended parts
    "short of the limit": ("{{ a }}", {"a": "x" * 2053}, ["x" * 2053], ["x" * 2053]),
    "one too many": ("{{ a }}", {"a": "x" * 2054}, ["x" * 2045 + "..."], ["x" * 2045 + "..."]),
    "words": (
        "{{ a }} b", {"a": LONG}, ["word " * 408 + "word... b"], ["word " * 408 + "word... b"],
    ),
    "tilde": ("{{ a ~ 'b' }}", {"a": "x" * 3000}, ["x" * 3000 + "b"], ["x" * 2045 + "..."]),
    "tilde, the last": (
        "{{ 'b' ~ a }}", {"a": "x" * 3000}, ["b" + "x" * 2045 + "..."], ["b" + "x" * 2044 + "..."],
    ),
    "either or": ("{{ a if a else 'b' }}", {"a": "x" * 3000}, ["x" * 3000], ["x" * 2045 + "..."]),
    "target": ("a ||| {{ a }}", {"a": "x" * 3000}, ["a", "x" * 2045 + "..."], ["a", "x" * 3000]),
    "choices": (
        "{{ answer_choices[0] }} ||| b", {"a": "x" * 3000}, ["x" * 2045 + "...", "b"],
        ["x" * 2045 + "...", "b"],
    ),
    "a list": (
        "{{ a }}", {"a": ["x"] * 1000}, ["['x', " + "'x', " * 406 + "'x',..."],
        ["['x', " + "'x', " * 406 + "'x',..."],
    ),
    "words of the template": ("x" * 3000, {}, ["x" * 3000], ["x" * 3000]),
    "pipes": ("{{ a }} ||| {{ a }}", {"a": "1 ||| 2"}, ["1 ||| 2"] * 2, ["1 ||| 2"] * 2),
    "pipes, nested": (
        "{{ a[0] }} ||| {{ b.c }}", {"a": ["1 ||| 2"], "b": {"c": "|||"}}, ["1", "2", "", ""],
        ["1 ||| 2", "|||"],
    ),
    "pipes next to the separator": ("{{ a }}|||b", {"a": "x||"}, ["x", "||b"], ["x||", "b"]),
    "pipes of the template": ("{{ 'a ||| b' }}", {}, ["a", "b"], ["a", "b"]),
    "pipes in choices": (
        "{{ answer_choices[0] }} ||| x", {"a": "1 ||| 2"}, ["1", "2", "x"], ["1 ||| 2", "x"],
    ),
    "hyphen": ("{{ a_b }}", {"a-b": 1}, [""], ["1"]),
    "hyphen and underscore": ("{{ a_b }}", {"a-b": 1, "a_b": 2}, ["2"], ["2"]),
    "braces of a dictionary": ("{{ {'a': {'b': 1}}['a'] }}", {}, ["{'b': '1'}"], ["{'b': 1}"]),
    "braces in words": ("}} {{ 1 }}", {}, ["| string | truncate(2048) }} 1"], ["}} 1"]),
}


@pytest.mark.parametrize("jinja, row, faithful, mended", QUIRKS.values(), ids=QUIRKS)
def test_quirks(jinja, row, faithful, mended):
    template = prompt(jinja, "{{ a }}" if "choices" in jinja else None)
    assert template.render(row, faithful=True) == faithful
    assert template.render(row) == mended


def test_quirks_that_are_errors_in_the_faithful_mode():
    for jinja, mended in (("{{ 1 + 1 }}", "2"), ("{{ 5 > 3 }}", "True"), ("{{ 1 -}} x", "1x")):
        assert render(jinja) == [mended]
        with pytest.raises(TaskError): render(jinja, faithful=True)


@pytest.mark.parametrize("faithful", [False, True])
def test_wrong_rows(faithful):
    with pytest.raises(TaskError, match="answer_choices: found 'x'; rename the column"):
        render("a", {"answer_choices": "x"}, faithful)
    for row in (None, ["a"], {1: "a"}):
        with pytest.raises(TaskError, match="give a dictionary"): render("a", row, faithful)


@pytest.mark.parametrize("faithful", [False, True])
def test_errors_name_file_template_and_reason(faithful):
    template = Template("my prompt", "{{ a.b.c }}", file="some.yaml")
    with pytest.raises(
        TaskError,
        match="some.yaml: template 'my prompt': found '{{ a.b.c }}'; UndefinedError: 'a' is undefined",
    ):
        template.render({}, faithful)
    for jinja in (
        "{{ ", "{{ 1 / 0 }}", "{% for x in 5 %}{% endfor %}", "{{ (1 + 'a') }}",
        "{{ x | nofilter }}", "{{ f() }}", "{% bad %}",
    ):
        with pytest.raises(TaskError, match="'t'"): render(jinja, {}, faithful)
    with pytest.raises(TaskError, match="undefined"):
        render("a", {}, faithful, answer_choices="{{ a.b.c }}")


@pytest.mark.parametrize("faithful", [False, True])
def test_a_row_is_never_changed(faithful):
    row = {"l": [1, {"d": {"x": 1}}, [2]], "d": {"a": [1]}, "t": ([1],)}
    before = copy.deepcopy(row)
    jinja = (
        "{% set _ = [l.append(9), l[1].d.update({'y': 2}), l[1]['d'].pop('x'), l[2].extend([3]), d.a.insert(0, 5), t[0].append(2), "
        "d.clear(), l['remove'](1), l.reverse()] %}{{ l }}{{ d }}{{ t }}"
    )
    first = render(jinja, row, faithful)
    assert (
        first == ["[9, [2, 3], {'d': {'y': 2}}]{}([1, 2],)"]
        and row == before
        and render(jinja, row, faithful) == first
    )


def test_choices():
    fixed = prompt("", " a|||b ||| ")
    assert fixed.choices({}) == fixed.fixed_choices() == ["a", "b", ""]
    by_row = prompt("", "{{ x }} ||| {{ l | join('|||') }}")
    assert by_row.fixed_choices() is None
    assert by_row.choices({"x": "1|||2", "l": ["a|||b", "c"]}) == ["1|||2", "a|||b", "c"]
    assert by_row.choices({"x": "1|||2", "l": ["a|||b", "c"]}, faithful=True) == [
        "1|||2", "a", "b", "c",
    ]
    assert prompt("").choices({}) is prompt("").fixed_choices() is None
    assert prompt("", "{{ range(2) | join('|||') }}").fixed_choices() == ["0", "1"]
    with pytest.raises(TaskError, match="'t'"): prompt("", "{{ x").fixed_choices()


def test_draws_can_be_repeated():
    template = prompt(
        "{{ [1, 2, 3, 4, 5, 6] | choice }}{{ options | random }}", "{{ 'abcdef' | list | choice }}"
    )
    draws = [template.render(ROW, rng=seed) for seed in range(30)]
    assert (
        draws == [template.render(ROW, rng=seed) for seed in range(30)]
        and len({tuple(d) for d in draws}) > 5
    )
    generator = random.Random(0)
    assert (
        template.render(ROW, rng=generator) == draws[0]
        and template.render(ROW, rng=generator) != draws[0]
    )
    random.seed(5)
    first = template.render(ROW)
    random.seed(5)
    assert template.render(ROW) == first == template.render(ROW, rng=random.Random(5))
    with pytest.raises(TaskError, match="IndexError"): render("{{ [] | choice }}")
    assert render("{{ [] | random }}x") == ["x"]


def test_parts_tell_words_from_values():
    parts = prompt(
        " Text: {{ premise }}{% for o in options %} - {{ o }}{% endfor %}\n|||{{ answer }}"
    ).parts(ROW)
    assert [(p.kind, p.text) for p in parts[0]] == [
        ("template", "Text: "), ("input", "The fox met the owl."), ("template", " - "),
        ("input", "yes"), ("template", " - "), ("input", "perhaps"), ("template", " - "),
        ("input", "no"),
    ]
    assert [tuple(p) for p in parts[1]] == [("input", "yes", False)]
    for template in TEMPLATES:
        shown = template.show(ROW, rng=1)
        assert str(shown) == template.render(ROW, rng=1)[0] and "target" in shown.page


TEXT = st.text(max_size=30) | st.sampled_from(
    ["|||", "a ||| b", "{{ x }}", "{% if %}", "}}", "{# #}", "\r\n", " ", "3ed2", "\\", "'\""]
)


@settings(max_examples=100, deadline=None)
@given(TEXT, st.lists(TEXT, max_size=3), TEXT)
def test_any_value_comes_out_as_it_went_in(text, texts, target):
    row = {"a": text, "l": texts, "d": {"t": target}}
    before = copy.deepcopy(row)
    parts = prompt("[{{ a }}][{% for x in l %}({{ x }}){% endfor %}]|||[{{ d.t }}]").render(row)
    assert (
        parts == [f"[{text}][{''.join(f'({x})' for x in texts)}]", f"[{target}]"] and row == before
    )


# What is not there

GAPS = {  # jinja, what is said: a miss ends with "!", a doubt with "?", nothing is said of ""
    "column": ("{{ premis }} ||| {{ answer }}", "no column 'premis'!"),
    "column of an answer": ("{{ premise }} ||| {{ anser }}", "no column 'anser'!"),
    "filter": ("{{ premis | lower }} ||| x", "no column 'premis'!"),
    "joined": ("{{ premis ~ '.' }} ||| x", "no column 'premis'!"),
    "join": ("{{ optons | join(', ') }} ||| x", "no column 'optons'!"),
    "loop": ("{% for o in optons %}{{ o }}{% endfor %}a ||| x", "no column 'optons'!"),
    "length": ("{{ optons | length }} ||| x", "no column 'optons'!"),
    "format": ("{{ '%s' % premis }} ||| x", "no column 'premis'!"),
    "compared": ("{% if anser == 'yes' %}a{% else %}b{% endif %} ||| x", "no column 'anser'!"),
    "looked in": ("{% if 'a' in premis %}a{% endif %}b ||| x", "no column 'premis'!"),
    "tested": ("{% if anser is string %}a{% endif %}b ||| x", "no column 'anser'!"),
    "in a macro": (
        "{% macro m() %}{{ premis }}{% endmacro %}{{ m() }} ||| x", "no column 'premis'!",
    ),
    "in a block": ("{% set x %}{{ premis }}{% endset %}{{ x }} ||| y", "no column 'premis'!"),
    "in a list": ("{{ [premis] | join }} ||| x", "no column 'premis'!"),
    "as index": ("{{ options[lable] }} ||| x", "no column 'lable'!"),
    "as key": ("{{ {'a': 1}[lable] }} ||| x", "no column 'lable'!"),
    "nested": ("{{ answers.txt }} ||| x", "no 'txt' in a dict!"),
    "nested, by name": ("{{ answers['txt'] }} ||| x", "no 'txt' in a dict!"),
    "nested in none": ("{{ anwers.text[0] }} ||| x", "UndefinedError: 'anwers' is undefined!"),
    "a method": ("{{ premis.lower() }} ||| x", "UndefinedError: 'premis' is undefined!"),
    "too far": ("{{ options[7] }} ||| x", "no 7 in a list!"),
    "of a loop": (
        "{% for o in options %}{{ loop.indx }}{% endfor %} ||| x", "no 'indx' in a loopcontext!",
    ),
    "of a namespace": ("{% set n = namespace(a=1) %}{{ n.b }} ||| x", "no 'b' in a namespace!"),
    "asked": ("{% if hint %}{{ hint }}{% endif %}a ||| x", "no column 'hint'?"),
    "asked, or else": ("{{ hint or premise }} ||| x", "no column 'hint'?"),
    "asked in line": ("{{ hint if hint else 'a' }} ||| x", "no column 'hint'?"),
    "null": ("{{ nothing }} ||| x", "'nothing' is null!"),
    "null, lower": ("{{ nothing | lower }} ||| x", "'nothing' is null!"),
    "null, joined": ("a{{ nothing ~ 1 }} ||| x", "'nothing' is null!"),
    "null in a list": ("{{ some | join(' ') }} ||| x", "'some' is null!"),
    "list with a null": ("{{ some }} ||| x", "'some' is null!"),
    "null, looped": ("{% for x in nothing %}{% endfor %}a ||| x", "'nothing' is null!"),
    "null, added": ("{{ (nothing + 'a') }} ||| x", "'nothing' is null!"),
    "null, counted": ("{{ options[nothing | int] }} ||| x", "'nothing' is null!"),
    "null, inside": ("{{ nothing.text }} ||| x", "no 'text' in a null!"),
    "made null": ("{{ {'a': 1}.get(answer) }} ||| x", "a null is printed!"),
    "no number": ("{{ options[answer | int] }} ||| x", "no number in 'yes'!"),
    "is defined": ("{% if hint is defined %}{{ hint }}{% endif %}a ||| x", ""),
    "is undefined": ("{{ 'a' if hint is undefined else hint }} ||| x", ""),
    "default": ("{{ hint | default('a') }} ||| x", ""),
    "default of null": ("{{ nothing | default('a', true) }} ||| x", ""),
    "is none": ("{% if nothing is none %}a{% endif %} ||| x", ""),
    "== none": ("{% if nothing == none %}a{% endif %} ||| x", ""),
    "if null": ("{% if not nothing %}a{% endif %} ||| x", ""),
    "null in": ("{{ 'a' if nothing in some }} ||| x", ""),
    "set": ("{% set x = premise %}{{ x }} ||| x", ""),
    "set in a branch": ("{% if premise == 'x' %}{% set x = 1 %}{% endif %}{{ x }}a ||| x", ""),
    "set in a loop": ("{% for o in options %}{% set x = o %}{% endfor %}{{ x }}a ||| x", ""),
    "pairs": (
        "{% for a, b in zip(options, options) %}{{ a }}{{ b }}{{ loop.index }}{% endfor %} ||| x",
        "",
    ),
    "parameter": ("{% macro m(a, b) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }} ||| x", ""),
    "caller": ("{% macro m() %}{{ caller() }}{% endmacro %}{% call m() %}a{% endcall %} ||| x", ""),
    "with": ("{% with a = 1 %}{{ a }}{% endwith %} ||| x", ""),
    "no else": ("a{{ 'b' if answer == 'no' }} ||| x", ""), "hyphen": ("{{ odd_name }} ||| x", ""),
    "namespace": ("{% set n = namespace(a=1) %}{% set n.b = 2 %}{{ n.b }} ||| x", ""),
    "the last": ("{{ options[-1] }} ||| {{ options[-2] }}", ""),
    "from the end": ("{{ options[-two] }} ||| x", ""),
    "a number": ("{{ options['1' | int] }} ||| x", ""),
    "number, or else": ("{{ options[answer | int(2)] }} ||| x", ""),
    "a key of -1": ("{{ {-1: 'a'}[minus] }} ||| x", ""),
    "a key of null": ("{{ {none: 'a'}[nothing] }} ||| x", ""),
    "first of none": ("{{ [] | first }}a ||| x", ""),
    "last round": ("{% for o in options %}{{ loop.nextitem }}{% endfor %} ||| x", ""),
}
HOLES = ROW | {
    "answers": {"text": ["a"]}, "nothing": None, "some": ["a", None], "odd-name": 1, "two": 2,
    "minus": -1,
}


@pytest.mark.parametrize("jinja, said", GAPS.values(), ids=GAPS)
def test_what_is_not_there_is_named(jinja, said, recwarn):
    found = try_row(prompt(jinja), HOLES)
    why, doubts = (said[:-1], ()) if said.endswith("!") else ("", (said[:-1],) if said else ())
    assert (found.why, found.doubts) == (why, doubts) and bool(found.target) == (not why)
    if why:
        with pytest.raises(TaskError, match=re.escape(f"; {why}; mend")):
            prompt(jinja).render(HOLES)
    else:
        assert (
            prompt(jinja).render(HOLES) == [found.source, found.target]
            and "None" not in found.source + found.target
        )
    assert any(said[:-1] in str(warning.message) for warning in recwarn) == said.endswith("?")


def test_the_original_leaves_it_blank():
    for jinja, parts in (
        ("{{ premis }} ||| {{ nothing }}", ["", "None"]),
        ("{{ answers.txt }}{{ some }} ||| {{ options[minus] }}", ["['a', None]", "no"]),
        ("{{ nothing | int }}{% if nope == 1 %}{% endif %} ||| {{ answer | int }}", ["", "0"]),
    ):
        assert (
            prompt(jinja).render(HOLES, faithful=True)[1:] == parts[1:]
            and try_row(prompt(jinja), HOLES, faithful=True).why == ""
        )
        assert try_row(prompt(jinja), HOLES).why
    with pytest.raises(TaskError, match="'a' is undefined"):
        try_row(prompt("{{ a.b.c }} ||| x"), {}, faithful=True)


@pytest.mark.parametrize(
    "label, expected",
    [
        (0, "no"), (1, "yes"), (True, "yes"), (-1, ""), (-2, ""), (-3, ""), (2, ""), (None, ""),
        ("1", ""), ("?", ""), (1.0, ""), ([1], ""), ({}, ""),
    ],
)
@pytest.mark.parametrize(
    "target",
    [
        "answer_choices[label]", "(answer_choices | list)[label]", "['no', 'yes'][label]",
        "answer_choices[x.label]", "('no', 'yes')[label]",
    ],
)
def test_a_label_that_is_none_is_no_answer(label, expected, target):
    for words in ("{{ %s }}", "It is {{ %s }}.", "{{ %s | upper }}", "{%% set a = %s %%}{{ a }}"):
        template = prompt("Who? ||| " + words % target, "no ||| yes")
        row = {"label": label, "x": {"label": label}}
        found, made = try_row(template, row), encode_row(template, row)
        assert found.target.lower().removeprefix("it is ").removesuffix(".") == expected and (
            found.why == ""
        ) == bool(expected)
        assert made["inputs"] == "Who?" and made["targets"] == (found.target or "<NO LABEL>")
        if not expected: assert "label" in found.why
    shown = prompt("Is it {{ answer_choices[label] }}? ||| yes", "no ||| yes")
    assert (encode_row(shown, {"label": label}) is None) == (not expected)


def test_the_label_before_the_first_is_no_answer():
    stars = prompt("{{ text }} ||| {{ answer_choices[stars - 1] }}", "bad ||| good")
    assert [try_row(stars, {"text": "x", "stars": n}).target for n in (0, 1, 2, 3)] == [
        "", "bad", "good", "",
    ]
    assert try_row(stars, {"text": "x", "stars": 0}).why == "no item answer_choices[stars] (-1)"


def test_empty_sides_are_told_apart():
    plain = prompt("{{ text }} ||| {{ answer }}")
    why = {
        ("a", "b"): "", ("", "b"): "an empty input", ("a", " "): "an empty target",
        ("\n", ""): "an empty input and an empty target",
    }
    for (text, answer), expected in why.items():
        assert try_row(plain, {"text": text, "answer": answer}).why == expected
    assert try_row(plain, {"text": "", "answer": ""}, faithful=True).why == ""
    assert (
        try_row(prompt("a ||| b ||| c"), {}).why
        == try_row(prompt("a"), {}, faithful=True).why
        == "no input and target"
    )


def test_answers_that_cannot_be_made():
    template = prompt("{{ text }} ||| {{ text }}", "{{ optons | join('|||') }}")
    assert (
        try_row(template, {"text": "x"}).why == "no column 'optons'"
        and encode_row(template, {"text": "x"}) is None
    )
    with pytest.raises(TaskError, match="no column 'optons'"): template.choices({"text": "x"})
    assert template.choices({"text": "x"}, faithful=True) == [""]


def test_messages_are_short_and_few():
    many = "".join("{{ n%d }}" % n for n in range(500)) + " ||| x"
    assert try_row(prompt(many), {}).why.count("no column") == 20
    long = prompt("{{ options[name] }} ||| x")
    assert len(try_row(long, {"options": {}, "name": "x" * 100_000}).why) < 200


# The sandbox

def doubled(start, step, use, rounds=45):
    "Return a template that grows `n.a` (and its twin `n.b`) round by round, then uses it."
    head = (
        "{% set n = namespace(a="
        + start
        + ", b="
        + start
        + ") %}{% for i in range("
        + str(rounds)
        + ") %}"
    )
    return (
        head
        + "{% set n.a = "
        + step
        + " %}{% set n.b = "
        + step.replace("n.a", "n.b")
        + " %}{% endfor %}"
        + use
    )


LISTS = dict(start="[1]", step="[n.a, n.a]")
TUPLES = dict(start="(1,)", step="(n.a, n.a)")
DEEP = dict(start="(1,)", step="(n.a,)", rounds=99999)
BIG = "{% set s = 'ab ' * 400000 %}"
LINE, LINES = "{% set s = 'a' * 1000000 %}", "{% set l = ['a'] * 100000 %}"
P, HASH, HUGE = (
    2**61 - 1, "{% set d = {} %}{% set n = namespace(x=0) %}{% for i in range(60000) %}",
    "{% set x = 0x" + "f" * 15000 + " %}",
)
TWICE = "{% for i in range(99999) %}{% for j in range(99999) %}%s{% endfor %}{% endfor %}"

ATTACKS = {
    "class": "{{ ''.__class__.__mro__ }}", "class, silent": "{{ ''.__class__ }}",
    "class by item": "{{ ''['__class__'] }}", "class by name": "{{ ''['__cla' ~ 'ss__'] }}",
    "class by attr": "{{ '' | attr('__class__') }}",
    "class by map": "{{ [''] | map(attribute='__class__.__mro__') | list }}",
    "class by map of attr": "{{ [''] | map('attr', '__class__') | list }}",
    "class by selectattr": "{{ [''] | selectattr('__class__') | list }}",
    "class by format": "{{ '{0.__class__}'.format(1) }}",
    "class by sort": "{{ ['', ''] | sort(attribute='__class__') }}",
    "shell": "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "shell by namespace": "{{ namespace.__init__.__globals__ }}",
    "shell by loop": "{% for x in [1] %}{{ loop.__init__.__globals__ }}{% endfor %}",
    "shell by macro": "{% macro m() %}{% endmacro %}{{ m._func.__globals__ }}",
    "shell by self": "{{ self.__init__.__globals__ }}",
    "context by self": "{{ self._TemplateReference__context }}",
    "frame": "{{ ([1] | map('string')).gi_frame }}", "undefined": "{{ nothing.__init__ }}",
    "include": "{% include 'x' %}", "import": "{% import 'x' as y %}",
    "from": "{% from 'x' import y %}", "extends": "{% extends 'x' %}",
    "block": "{% block a %}{{ self.a() }}{{ self.a() }}{% endblock %}",
    "autoescape": "{% autoescape true %}{{ '<' }}{% endautoescape %}",
    "times": "{{ 'a' * 10000000000 }}", "times, turned": "{{ 10000000000 * 'a' }}",
    "times a list": "{{ [0] * 10000000000 }}", "times a tuple": "{{ (0,) * 10000000000 }}",
    "times, twice": "{{ ('a' * 3000) * 3000 * 3000 }}",
    "times in a loop": "{% for i in range(9999) %}{% set x = 'a' * 1000000 %}{% endfor %}",
    "kept texts": "{% set l = [] %}{% for i in range(9999) %}{% set _ = l.append('😀' * 1000000) %}{% endfor %}",
    "a debt that pays": "{{ 'a' * -1000000000000 }}" + TWICE.replace("%s", ""),
    "power": "{{ 9 ** (9 ** 9) }}", "squares": doubled("3", "n.a * n.a", "{{ n.a }}"),
    "long number": "{{ 0x" + "f" * 15000 + " }}",
    "numbers to text": "{% set x = 9"
    + "9" * 4000
    + " %}{% for i in range(99999) %}{% set y = x | string %}{% endfor %}",
    "percent": "{{ '%999999999d' % 1 }}", "percent, precise": "{{ '%.999999999f' % 1 }}",
    "percent, star": "{{ '%*d' % (999999999, 1) }}",
    "percent, named": "{{ '%(a(b)c)999999999d' % {'a(b)c': 1} }}",
    "percent, often": "{{ ('%(x)s' * 100000) % {'x': 'a' * 100000} }}",
    "format": "{{ '%999999999d' | format(1) }}",
    "format, star": "{{ '%-*d' | format(999999999, 1) }}",
    "format, named": "{{ '%(x)999999999d' | format(x=1) }}",
    "str.format": "{{ '{:999999999}'.format(1) }}",
    "str.format_map": "{{ '{x:999999999}'.format_map({'x': 1}) }}",
    "center": "{{ 'a' | center(1000000000) }}", "ljust": "{{ 'a'.ljust(1000000000) }}",
    "zfill": "{{ 'a'.zfill(1000000000) }}", "expandtabs": "{{ '\\t'.expandtabs(1000000000) }}",
    "indent": "{{ 'a' | indent(1000000000, true) }}",
    "batch": "{{ [1] | batch(1000000000, 'x') | list }}",
    "slice": "{{ [1] | slice(1000000000) | list }}",
    "wordwrap": "{{ 'ab' | wordwrap(1, wrapstring='x' * 99999) }}",
    "mapped center": "{{ [1] | map('center', 1000000000) | list }}",
    "translate": "{{ 'a'.translate({97: 'b' * 1000000}) }}",
    "fromkeys": "{{ dict.fromkeys(range(99999)) }}", "list.sort": "{{ [2, 1].sort() }}",
    "lipsum": "{{ lipsum(n=100000000) }}", "round": "{{ 1.5 | round(1000000000, 'ceil') }}",
    "round down": "{{ 5 | round(-1000000000) }}", "tojson": "{{ [1] | tojson }}",
    "range": "{% for i in range(1000000000) %}{% endfor %}", "loops": TWICE.replace("%s", ""),
    "loops that set": TWICE.replace("%s", "{% set x = i * j %}"),
    "loops over zip": "{% for a in zip(range(99999), range(99999)) %}{% for b in zip(range(99999), range(99999)) %}{% endfor %}{% endfor %}",
    "loops over a filter": "{% for i in range(99999) if range(99999) | list | sort | length > 100000 %}{% endfor %}",
    "loop of words": "{% for i in range(99999) %}" + "x" * 15000 + "{% endfor %}",
    "loop of hidden words": "{% set y %}{% for i in range(99999) %}"
    + "x" * 15000
    + "{% endfor %}{% endset %}",
    "loop of filtered words": "{% for i in range(99999) %}{% filter upper %}"
    + "x" * 15000
    + "{% endfilter %}{% endfor %}",
    "loop of texts": "{% for i in range(99999) %}{{ '" + "x" * 15000 + "' }}{% endfor %}",
    "loop that feeds itself": "{% set l = [1] %}{% for x in l %}{% set _ = l.append(x) %}{% endfor %}",
    "extend by itself": "{% set l = [1] %}{% for x in range(100) %}{% set _ = l.extend(l) %}{% endfor %}",
    "extend by a view of itself": "{% set l = [1] %}{% set _ = l.extend(l | map('string')) %}",
    "growing dictionary": TWICE.replace("%s", "{% set _ = d.update({(i, j): 1}) %}").replace(
        "{% for i", "{% set d = {} %}{% for i", 1
    ),
    "double ~": doubled("'ha'", "n.a ~ n.a", ""), "double +": doubled("'ha'", "n.a + n.a", ""),
    "double list": doubled("[1]", "n.a + n.a", ""),
    "double join": doubled("'ha'", "[n.a, n.a] | join", ""),
    "double str.join": doubled("'ha'", "''.join([n.a, n.a])", ""),
    "double replace": doubled("'ha'", "n.a | replace('a', 'aa')", ""),
    "double str.replace": doubled("'ha'", "n.a.replace('a', 'aa')", ""),
    "double format": doubled("'ha'", "'%s%s' % (n.a, n.a)", ""),
    "double block": "{% set n = namespace(s='ha') %}{% for i in range(60) %}{% set n.s %}{{ n.s }}{{ n.s }}{% endset %}{% endfor %}",
    "double macro": "{% macro m(s) %}{{ s }}{{ s }}{% endmacro %}{% set n = namespace(s='ha') %}{% for i in range(60) %}{% set n.s = m(n.s) %}{% endfor %}",
    "replace nothing": BIG + "{{ s | replace('', s) }}",
    "join with a long text": BIG + "{{ range(99999) | join(s) }}",
    "str.join with a long text": BIG + "{{ s.join(range(99999) | map('string')) }}",
    "join a text again and again": BIG + "{{ ([s] * 1000) | join }}",
    "join an attribute": BIG + "{{ ([{'x': s}] * 1000) | join(attribute='x') }}",
    "laughs": doubled(**LISTS, use="{{ n.a }}"),
    "laughs as text": doubled(**LISTS, use="{{ n.a | string | length }}"),
    "laughs ~": doubled(**LISTS, use="{{ 'x' ~ n.a }}"),
    "laughs %": doubled(**LISTS, use="{{ '%s' % (n.a,) }}"),
    "laughs ==": doubled(**LISTS, use="{{ n.a == n.b }}"),
    "laughs in": doubled(**LISTS, use="{{ n.a in [n.b] }}"),
    "laughs is eq": doubled(**LISTS, use="{{ n.a is eq n.b }}"),
    "laughs select": doubled(**LISTS, use="{{ [n.a] | select('eq', n.b) | list }}"),
    "laughs of a namespace": doubled(**LISTS, use="{{ n }}"),
    "laughs of values": doubled(**LISTS, use="{{ {'x': n.a}.values() }}"),
    "laughs sorted": doubled(**LISTS, use="{{ [[n.a], [n.b]] | map(attribute=0) | sort }}"),
    "laughs index": doubled(**LISTS, use="{{ [n.a].index(n.b) }}"),
    "laughs joined": doubled(**LISTS, use="{{ n.a | join }}"),
    "laughs in a macro": "{% macro m(a) %}{{ a }}{% endmacro %}"
    + doubled(**LISTS, use="{{ m(n.a) }}"),
    "laughs as key": doubled(**TUPLES, use="{{ {n.a: 1} }}"),
    "laughs looked up": doubled(**TUPLES, use="{{ {}[n.a] }}"),
    "laughs got": doubled(**TUPLES, use="{{ {}.get(n.a) }}"),
    "laughs in a dict": doubled(**TUPLES, use="{{ dict([(n.a, 1)]) }}"),
    "laughs unique": doubled(**TUPLES, use="{{ [n.a] | unique | list }}"),
    "wide laughs": "{% set a = [1] * 1000 %}{% set b = [a] * 1000 %}{% set c = [b] * 1000 %}{{ c }}",
    "deep key": doubled(**DEEP, use="{{ {n.a: 1} }}"),
    "deep look-up": doubled(**DEEP, use="{{ {}[n.a] }}"),
    "list in itself": "{% set l = [] %}{% set _ = l.append(l) %}{{ l == [l] }}",
    "macro that never ends": "{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}",
    "macros, two to the 60": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "macros in loops": "{% macro m(n) %}{% set x = n %}{% endmacro %}"
    + TWICE.replace("%s", "{% set _ = m(j) %}"),
    "recursive loop": "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "parentheses": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "brackets": "{{ " + "[" * 9000 + "]" * 9000 + " }}", "minus": "{{ " + "-" * 15000 + "1 }}",
    "sums": "{{ " + "+".join(["1"] * 9000) + " }}", "filters": "{{ x" + "|upper" * 3000 + " }}",
    "ifs": "{% if 1 %}" * 900 + "{% endif %}" * 900,
    "for in for": "{% for a in [1] %}" * 500 + "{% endfor %}" * 500,
    "calls": "{{ a" + "()" * 9000 + " }}",
    "dictionaries": "{{ " + "{1:" * 4000 + "1" + "}" * 4000 + " }}", "long": "a" * 20_001,
    "long choices": "x",
    "slices": BIG
    + "{% set l = [] %}{% for i in range(9999) %}{% set _ = l.append(s[1:]) %}{% endfor %}",
    "search": BIG + "{% for i in range(9999) %}{% if 'x' in s %}{% endif %}{% endfor %}",
    "search a list": "{% set l = range(99999) | list %}{% for i in range(9999) %}{% if -1 in l %}{% endif %}{% endfor %}",
    "split": BIG
    + "{% set l = [] %}{% for i in range(99) %}{% set _ = l.append(s.split()) %}{% endfor %}",
    "letters": BIG
    + "{% set l = [] %}{% for i in range(99) %}{% set _ = l.append(s | list) %}{% endfor %}",
    "sort": "{% set l = range(99999) | list %}{% for i in range(9999) %}{% set x = l | sort %}{% endfor %}",
    "upper": BIG + "{% for i in range(9999) %}{% set x = s | upper %}{% endfor %}",
    "str.count": BIG + "{% for i in range(9999) %}{% set x = s.count('ab') %}{% endfor %}",
    "strip": BIG + "{{ s.strip('b' * 1000000 ~ ' ab') }}",
    "trim": BIG + "{{ s | trim('b' * 1000000 ~ ' ab') }}",
    "rfind": LINE + "{{ s.rfind('ab' ~ 'a' * 500000) }}",
    "rindex": LINE + "{{ s.rindex('ab' ~ 'a' * 500000) }}",
    "rsplit": LINE + "{{ s.rsplit('ab' ~ 'a' * 500000) }}",
    "rpartition": LINE + "{{ s.rpartition('ab' ~ 'a' * 500000) }}",
    "most frequent": "{{ range(99999) | most_frequent }}{{ 'a' * 10000000 }}",
    "numbers in one place": HASH + "{%% set _ = d.update({i * %d: 1}) %%}{%% endfor %%}" % P,
    "numbers in one place, added": HASH
    + "{%% set n.x = n.x + %d %%}{%% set _ = d.setdefault(n.x, 1) %%}{%% endfor %%}" % P,
    "numbers in one place, subtracted": HASH
    + "{%% set n.x = n.x - %d %%}{%% set _ = d.setdefault(n.x, 1) %%}{%% endfor %%}" % P,
    "numbers in one place, read": HASH
    + "{% set _ = d.setdefault((i ~ '0' * 30) | int, 1) %}{% endfor %}",
    **{
        f"dots: {use.split('(')[0]}": LINES
        + "{{ l | "
        + use % ("0." * 9000 + "0")
        + " | list | length }}"
        for use in (
            "map(attribute='%s')", "sort(attribute='%s')", "unique(attribute='%s')",
            "join('', attribute='%s')", "join('', '%s')", "selectattr('%s')", "rejectattr('%s')",
            "min(attribute='%s')", "max(false, '%s')", "map('string') | map(attribute='%s')",
        )
    },
    "dots that are made": LINES + "{{ l | map(attribute='0.' * 100000 ~ '0') | list }}",
    "commas": LINES + "{{ l | sort(attribute='" + "0," * 9000 + "0') }}",
    "quotients": HUGE + "{% for i in range(99999) %}{% set y = x // 7 %}{% endfor %}",
    "remainders": HUGE + "{% for i in range(99999) %}{% set y = x % 7 %}{% endfor %}",
    "quotient of two": HUGE + "{% set y = x // (x // 16) %}",
    "differences": HUGE + "{% for i in range(99999) %}{% set y = x - i %}{% endfor %}",
    "fractions": HUGE + "{% for i in range(99999) %}{% set y = x / 3 %}{% endfor %}",
    "signs": HUGE + "{% for i in range(99999) %}{% set y = -x %}{% endfor %}",
    "first of many": "{% set l = range(99999) | list %}{% for i in range(99999) %}{% set _ = l.pop(0) %}{% endfor %}",
    "views": "{% set d = dict(zip(range(20000), range(20000))) %}{% for i in range(9999) %}{% set x = d.keys() - [] %}{% endfor %}",
    "blanks": "{% for i in range(99999) %}{{ a }}{{ b }}{% if c %}{% endif %}{% endfor %}",
    "blanks, doubled": doubled("nope ~ ''", "n.a ~ n.a", ""),
    "comparisons": BIG + "{% if " + " == ".join(["s"] * 2000) + " %}{% endif %}",
}


# in the faithful mode what they print is cut, or nothing
TAMED = ("double block", "double macro", "blanks, doubled")


def attack(name, faithful=False):
    "Render an attack; `TaskError` if it is refused."
    choices = "a" * 20_001 if name == "long choices" else None
    return Template(name, ATTACKS[name], choices, file="web.yaml").render({"x": "y"}, faithful)


def modes(name):
    "In which modes an attack is refused: the plain one, and the faithful one unless it is tame."
    return (False,) if name in TAMED else (False, True)


def tell_attacks():
    """Print, for each attack and mode, the error (None: it has rendered) and the CPU seconds, and
    at the end how much memory the plain mode has taken."""
    found, before = [], peak_memory()
    for faithful in (False, True):
        for name in (name for name in ATTACKS if faithful in modes(name)):
            start, error = time.process_time(), None
            try: attack(name, faithful)
            except TaskError as refused: error = str(refused)
            found.append((name, faithful, error, time.process_time() - start))
        if not faithful: memory = peak_memory() - before
    print(json.dumps([found, memory]))


@pytest.fixture(scope="module")
def attacked():
    "Make all attacks once, in a process whose memory nobody else has used: errors, seconds, bytes."
    code = "import sys; sys.path[:0] = sys.argv[1:]; import test_promptsource as t; t.tell_attacks()"
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", code, here, here.parent], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-500:]
    found, memory = json.loads(done.stdout)
    return {(name, faithful): rest for name, faithful, *rest in found}, memory


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_are_refused(name, attacked):
    for faithful in modes(name):
        error, seconds = attacked[0][name, faithful]
        assert error is not None, "it has rendered"
        assert seconds < 60
        assert error.startswith(f"web.yaml: template {name!r}: found ") and len(error) < 500


def test_attacks_on_choices_are_refused():
    for name in ("class", "loops", "double ~", "laughs", "include"):
        for template in (Template(name, "a ||| b", ATTACKS[name]), ):
            for use in (template.choices, template.render):
                with pytest.raises(TaskError): use({"x": 1})
            with pytest.raises(TaskError):
                Template(name, "", ATTACKS[name].replace("{{ x }}", "")).fixed_choices()


def peak_memory():
    "Return the most bytes that this process has held."
    status = Path("/proc/self/status")  # Linux: its ru_maxrss would begin with that of the parent
    if status.exists(): return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024
    import resource
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def test_attacks_take_little_memory(attacked):
    assert 0 < attacked[1] < 200_000_000


def test_what_is_refused_is_named():
    for jinja, name in (
        ("{{ 'a'.ljust(5) }}", "ljust"), ("{{ 'a' | center }}", "center"),
        ("{% include 'x' %}", "Include"), ("{{ 2 ** 3 }}", "Pow"),
        ("{{ ''.__class__ }}", "__class__"),
        ("{% for x in [] recursive %}{% endfor %}", "recursive For"), ("{{ lipsum() }}", "lipsum"),
    ):
        with pytest.raises(TaskError, match=name): render(jinja)


def test_honest_work_is_not_refused():
    "The limits leave room: long rows, long lists, and a prompt that does much with them."
    many = {
        "rows": [{"text": f"line {n} " * 20, "label": n % 3} for n in range(500)],
        "document": "All is well. " * 100_000,
    }
    jinja = (
        "{% set n = namespace(t='', l=[]) %}{% for r in rows if r.label == 1 %}{% set n.t = n.t ~ r.text.strip().upper()[:20] ~ '; ' %}"
        "{% set _ = n.l.append(r.label) %}{% endfor %}{{ n.t | length }} {{ n.l | length }} {{ document.split('. ') | length }} {{ document }}"
    )
    first = "3674 167 100001 All is well."
    assert render(jinja, many)[0].startswith(first) and render(jinja, many, faithful=True)[
        0
    ].startswith(first)
    tokens = {"tokens": [f"token {n}" for n in range(1500)]}
    jinja = "{% set n = namespace(l=[]) %}{% for t in tokens %}{% set n.l = n.l + [t | upper, ' '] %}{% endfor %}{{ n.l | join | length }}"
    assert render(jinja, tokens) == render(jinja, tokens, faithful=True) == ["15390"]
    assert render("{% for i in range(20000) %}.{% endfor %}") == ["." * 20000]
    assert render(
        "{{ (10000 * 'ab') | length }}{{ '%5d' % 7 }} {{ 1000 * 1000 }} {{ ('a' * 100000 ~ 'b') | length }}"
    ) == ["20000    7 1000000 100001"]


# Speed

ENVIRONMENT = jinja2.Environment(loader=jinja2.BaseLoader)
ENVIRONMENT.filters["choice"] = random.choice


def fresh(template, row):
    "Render as PromptSource does: compile answers and prompt anew."
    choices = [
        c.strip()
        for c in ENVIRONMENT.from_string(template.answer_choices or "").render(**row).split("|||")
    ]
    jinja = template.jinja.replace("}}", " | string | truncate(2048) }}")
    return [
        part.strip()
        for part in ENVIRONMENT.from_string(jinja)
        .render(**row, answer_choices=choices)
        .split("|||")
    ]


def test_rendering_is_three_times_as_fast_as_compiling():
    templates = [t for t in TEMPLATES if t.answer_choices]
    ratios = []
    for _ in range(5):
        times = []
        for render_one in (
            fresh, lambda t, row: t.render(row, faithful=True), lambda t, row: t.render(row),
        ):
            start = time.process_time()
            for _ in range(20):
                for t in templates: render_one(t, ROW)
            times.append(time.process_time() - start)
        ratios.append(times[0] / max(times[1:]))
    assert sorted(ratios)[2] >= 3


# Choosing, T0

def with_metadata(name, dataset="imdb", **facts):
    return Template(name, "a ||| b", metadata=Metadata(**facts), dataset=dataset)


def test_select():
    a, b, c = (
        with_metadata("a", original_task=True, metrics=["BLEU", "ROUGE"], languages=["en"]),
        with_metadata("b", original_task=False),
        with_metadata(
            "c", original_task=True, choices_in_prompt=False, metrics=["Accuracy"],
            languages=["de", "en"],
        ),
    )
    assert select([c, a, b]) == [c, a, b]
    assert select([a, b, c], original_task=True) == [a, c] and select(
        [a, b, c], original_task=False
    ) == [b]
    assert select([a, b, c], choices_in_prompt=False) == [c]
    assert select([a, b, c], metric="ROUGE") == [a] and select([a, b, c], metric="rouge") == []
    assert select([a, b, c], language="en") == [a, c] and select(
        [a, b, c], True, False, "Accuracy", "de"
    ) == [c]


def test_prompts_of_the_ablation():
    a, b, c, d = (
        with_metadata(name, data, original_task=o)
        for name, data, o in (
            ("z", "x", True), ("y", "x", True), ("a", "x", False), ("k", "w", True),
        )
    )
    assert (
        prompts([a, b, c, d], "one") == [d, b]
        and prompts([a, b, c, d], "original") == [d, b, a]
        and prompts([a, b, c, d]) == [a, b, c, d]
    )
    with pytest.raises(TaskError, match="choose from"): prompts([a], "some")


def test_the_data_sets_of_t0():
    assert len(T0) == 66 and [len(training_sets(name)) for name in MIXTURES] == [38, 48, 54]
    added = [d.name for d in training_sets("T0++") if d.mixture == "T0++"]
    assert added == [
        "super_glue/" + name for name in ("wsc.fixed", "record", "boolq", "copa", "multirc", "wic")
    ]
    assert [d.name for d in held_out("T0")] == [
        "super_glue/wsc.fixed", "winogrande/winogrande_xl", "super_glue/cb", "super_glue/rte",
        "anli", "super_glue/copa", "story_cloze/2016", "hellaswag", "super_glue/wic",
    ]
    assert "hellaswag" not in [d.name for d in held_out("T0+")]
    assert T0["glue/qqp"] == ("glue/qqp", "paraphrase", "T0", None, 363846, 6)
    assert sorted(d.name for d in training_sets("T0++") if d.size > 500_000) == [
        "amazon_polarity", "dbpedia_14", "gigaword", "wiki_bio", "yelp_review_full",
    ]
    with pytest.raises(TaskError, match="found 'T0_3B'"): training_sets("T0_3B")
    with pytest.raises(TaskError, match="choose from"): held_out("t0")


def test_cap():
    assert [cap(n, 7) for n in (10, 500_000, 500_001, 3_600_000)] == [10, 500_000, 71_428, 71_428]


def test_mixture():
    polarity = [with_metadata(f"p{n}", "amazon_polarity", original_task=n == 2) for n in range(3)]
    small = [
        with_metadata(name, "glue/mrpc", original_task=True)
        for name in ("want to know", "same thing")
    ]
    race = [with_metadata("r", "race/high", original_task=True)]
    rte = [with_metadata("e", "super_glue/rte", original_task=True)]
    everything = polarity + small + race + rte
    assert mixture("T0", everything) == {
        **{f"amazon_polarity_p{n}": 166_666 for n in range(3)}, "glue_mrpc_want_to_know": 3668,
        "glue_mrpc_same_thing": 3668,
    }
    assert mixture("T0+", everything).keys() - mixture("T0", everything).keys() == {"race_high_r"}
    assert mixture("T0++", everything) == mixture("T0+", everything)
    assert mixture("T0", everything, "original") == {
        "amazon_polarity_p2": 166_666, "glue_mrpc_want_to_know": 3668, "glue_mrpc_same_thing": 3668,
    }
    assert mixture("T0", everything, "one") == {
        "amazon_polarity_p2": 166_666, "glue_mrpc_same_thing": 3668,
    }
    gigaword = [with_metadata("summarize_", "gigaword"), with_metadata("other", "gigaword")]
    assert mixture("T0", gigaword) == {"gigaword_other": 250_000}
    with pytest.raises(TaskError, match="give prompts of a data set of T0"): mixture("T0", rte)


def test_task_name():
    assert (
        task_name(with_metadata("Is it? (a, b)_c.d", "super_glue/wsc.fixed"))
        == "super_glue_wsc.fixed_Is_it_a_b__c.d"
    )


def test_encode_row():
    by_row = prompt("{{ a_b }}{{ x }} ||| {{ y }}", "{{ y }} ||| no")
    assert encode_row(by_row, {"a-b": 1, "x": 2, "y": 3}) == {
        "inputs": "12", "targets": "3", "answer_choices": ["3", "no"],
    }
    assert encode_row(by_row, {"a-b": 1, "x": 2, "y": 3}, faithful=True) == {
        "inputs": "12", "targets": "3", "answer_choices": ["3", "no"],
    }
    assert encode_row(prompt("a ||| {{ y }}"), {"y": ""}) == {
        "inputs": "a", "targets": "<NO LABEL>", "answer_choices": None,
    }
    for jinja in ("", "{{ y }}", "a", "a ||| b ||| c", "||| b"):
        assert encode_row(prompt(jinja), {"y": " "}) is None
    drawn = prompt("{{ answer_choices[0] }} ||| b", "{{ range(1000) | choice }}")
    mended = encode_row(drawn, {}, rng=1)
    assert mended["inputs"] == mended["answer_choices"][0]
    faithful = encode_row(drawn, {}, faithful=True, rng=1)
    assert faithful["inputs"] != faithful["answer_choices"][0]  # T0 draws the answers twice
    with pytest.raises(TaskError, match="rename"):
        encode_row(by_row, {"answer_choices": 1}, faithful=True)


# Conversions, our own prompts

def test_template_to_task():
    template = Template(
        "my prompt", "{% if b %}Say {{ a }} ||| {{ b }}{% endif %}", "{{ b }} ||| no",
        Metadata(True, False, ["Accuracy"], ["en"]), "Me 2020", id="7",
        extra={"task_template": True}, dataset="d/e",
    )
    task, dropped = template_to_task(
        template, [{"a": "x", "b": "y"}, {"a": "x", "b": ""}, {"a": "z", "b": "w"}]
    )
    assert (
        task.name == "d_e_my_prompt"
        and task.definition == ["Do what the input says."]
        and task.sources == ["d/e"]
    )
    assert [(i.id, i.input, i.output, i.extra) for i in task.instances] == [
        ("d_e_my_prompt-0", "Say x", ["y"], {"answer_choices": ["y", "no"]}),
        ("d_e_my_prompt-2", "Say z", ["w"], {"answer_choices": ["w", "no"]}),
    ]
    assert dropped == [
        "id: '7'", "jinja: '{% if b %}Say {{ a }} ||| {{ b }}{% endif %}'", "reference: 'Me 2020'",
        "answer_choices: '{{ b }} ||| no'", "task_template: True", "original_task: True",
        "choices_in_prompt: False", "metrics: ['Accuracy']", "languages: ['en']",
        "rows[1]: {'a': 'x', 'b': ''}",
    ]
    assert Task.from_json(task.to_json(), task.name).instances == task.instances
    with pytest.raises(TaskError, match="give it a row"): template_to_task(template, [{"b": ""}])
    task, dropped = template_to_task(prompt("a ||| {{ b }}"), [{"b": ""}, {"b": 1}])
    assert len(task.instances) == 1 and dropped[-1] == "rows[0]: {'b': ''}"


def test_task_to_template():
    task = Task(
        "t", ["Add.", "Sum {{ up }}"],
        instances=[
            Instance("t-0", "1 2", ["3", "three"], {"x": 1}), Instance("t-1", "4 |||", ["}}"]),
        ],
        categories=["Maths"],
    )
    (templates, rows), dropped = task_to_template(task)
    assert [t.name for t in templates] == ["wording 0", "wording 1"]
    assert rows == [
        {"id": "t-0", "input": "1 2", "output": "3"},
        {"id": "t-1", "input": "4 |||", "output": "}}"},
    ]
    assert templates[0].jinja == "Add.\n\n{{ input }}\n|||\n{{ output }}"
    assert [t.render(rows[0]) for t in templates] == [
        ["Add.\n\n1 2", "3"], ["Sum {{ up }}\n\n1 2", "3"],
    ]
    assert (
        templates[1].render(rows[1])
        == templates[1].render(rows[1], faithful=True)
        == ["Sum {{ up }}\n\n4 |||", "}}"]
    )
    assert dropped == ["Categories: ['Maths']", "t-0: output: 'three'", "t-0: x: 1"]
    assert task_to_template(task).result == (templates, rows)
    with pytest.raises(TaskError, match="t-0: output.*give it a reference"):
        task_to_template(Task("t", ["Add."], instances=[Instance("t-0", "1", [])]))


@settings(max_examples=150, deadline=None)
@given(TEXT, TEXT, TEXT)
def test_any_definition_comes_out_unchanged(definition, given_input, output):
    (templates, rows), _ = task_to_template(
        Task("t", ["D" + definition], instances=[Instance("t-0", given_input, [output])])
    )
    for faithful in (False, True):
        assert templates[0].render(rows[0], faithful) == [
            f"D{definition}\n\n{given_input}".strip(), output.strip(),
        ]


def test_our_prompts_fit_the_rows_of_flan():
    from instop_nb.flan_rows import micro_rows
    assert len(TEMPLATES) == 6 and {t.dataset for t in TEMPLATES} == {"micro_nli"}
    for row in micro_rows("nli", 20):
        for t in TEMPLATES:
            made = encode_row(t, row, rng=0)
            assert made == encode_row(t, row, faithful=True, rng=0)
            if t.metadata.original_task:
                assert (
                    made["targets"] in made["answer_choices"]
                    and row["premise"] in made["inputs"]
                    and row["hypothesis"] in made["inputs"]
                )
                assert t.metadata.choices_in_prompt == (row["options"][1] in made["inputs"])
            else: assert (made is None) == (row["answer"] != "yes")


def test_our_file_comes_back_to_the_byte(tmp_path):
    ours = TEMPLATES[0].file
    assert (
        write_templates(TEMPLATES, tmp_path / "again.yaml", "micro_nli").read_bytes()
        == ours.read_bytes()
    )
    assert prompt_table(TEMPLATES).count("\n") == 7 and "&#124;&#124;&#124;" in prompt_table(
        TEMPLATES
    )


# The explorer

def test_template_view_shows_the_program_what_it_makes_and_what_is_known():
    template = prompt(
        "{{ premise }} So? {# <b> #} ||| {{ answer_choices[0] }}", "{{ options | join('|||') }}",
        metadata=Metadata(True, None, ["Accuracy", "F<1>"], None), reference="Me & you",
    )
    shown = template_view(template, ROW)
    assert (
        shown == "The fox met the owl. So?"
        and "{# &lt;b&gt; #} ||| {{ answer_choices[0] }}</pre>" in shown.page
    )
    assert (
        "for the original task: <b>yes</b> · answers shown: <b>not said</b> · answers: <b>yes, perhaps, no</b>"
        in shown.page
    )
    assert (
        "metrics: <b>Accuracy, F&lt;1&gt;</b> · languages: <b>not said</b> · reference: <b>Me &amp; you</b>"
        in shown.page
    )
    assert (
        'title="target"' in shown.page
        and "answers: <b>any text</b>" in template_view(prompt("a ||| b"), ROW).page
    )
    for none in ("no target", "{% if no %} a ||| b {% endif %}", "||| b", "a ||| b ||| c"):
        assert "no example" in template_view(prompt(none), ROW).page
    assert template_view(prompt("{{ options | choice }} ||| b"), ROW) == template_view(
        prompt("{{ options | choice }} ||| b"), ROW
    )
    long = ROW | {"premise": "x" * 3000}
    assert [
        len(template_view(prompt("{{ premise ~ '.' }} ||| b"), long, faithful))
        for faithful in (False, True)
    ] == [2048, 3001]
    with pytest.raises(TaskError, match="rename"): template_view(template, {"answer_choices": 1})


def test_the_explorer_leafs_through_data_sets_prompts_and_rows():
    a, b, c = (
        Template(name, f"{name} {{{{ x }}}} ||| y", dataset=dataset)
        for name, dataset in (("a", "one"), ("b", "one"), ("c", "two"))
    )
    rows = {"one": [{"x": n} for n in range(3)], "two": [{"x": "only"}]}
    dataset, template, number, faithful, page = template_explorer([a, b, c], rows).children
    assert (
        page.value == template_view(a, {"x": 0}).page
        and number.max == 2
        and [name for name, _ in template.options] == ["a", "b"]
    )
    number.value = 2
    assert page.value == template_view(a, {"x": 2}).page
    template.value = b
    assert page.value == template_view(b, {"x": 2}).page
    faithful.value = True
    assert page.value == template_view(b, {"x": 2}, True).page != template_view(b, {"x": 2}).page
    dataset.value = "two"
    assert (template.value, number.value, number.max) == (c, 0, 0) and page.value == template_view(
        c, {"x": "only"}, True
    ).page
    dataset.value = "one"
    assert template.value == a and page.value == template_view(a, {"x": 0}, True).page


def test_the_explorer_says_what_is_wrong():
    bad = Template("bad", "{{ x.y.z }} ||| y <", dataset="one")
    assert (
        "mend the template or the row" in template_explorer([bad], {"one": [{}]}).children[-1].value
    )
    for templates, rows in (([bad], {"two": [{}]}), ([bad], {"one": []})):
        with pytest.raises(TaskError, match="give it a row and a prompt"):
            template_explorer(templates, rows)


# From a shell

def encode(tmp_path, rows, templates, *options, form="promptsource"):
    """Return the exit status of `instop encode`, the rows that it prints, and what it says
    beside them."""
    from typer.testing import CliRunner
    from instop_nb.cli import app
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
    )
    done = CliRunner().invoke(
        app,
        [
            "encode", "--format", form, "--rows", str(tmp_path / "rows.jsonl"), "--templates",
            str(templates), *options,
        ],
    )
    return (
        done.exception, [json.loads(line) for line in done.stdout.splitlines()],
        done.stderr.splitlines(),
    )


def test_what_is_left_out_is_counted_by_reason(tmp_path):
    plain = Template(
        "plain", "{{ text }}{% if hint %} ({{ hint }}){% endif %} ||| {{ answer_choices[label] }}",
        "no ||| yes", id="1",
    )
    slip = Template("slip\x1b", "{{ txt }} ||| {{ label }}", id="2")
    path = write_templates([plain, slip], tmp_path / "t.yaml", "d")
    rows = [
        {"text": "a", "label": 1, "hint": "h"}, {"text": "b", "label": -1},
        {"text": "", "label": 0, "hint": ""}, {"text": None, "label": 0},
        {"text": "c", "label": None},
    ]
    error, printed, said = encode(tmp_path, rows, path)
    assert error is None and printed == [{"template": "plain", "source": "a (h)", "target": "yes"}]
    assert said == [
        "9 renders left out:", "4 of slip\\x1b: no column 'txt'",
        "1 of plain: no item answer_choices[label] (-1)", "1 of plain: an empty input",
        "1 of plain: 'text' is null", "1 of plain: no item answer_choices[label] (null)",
        "1 of slip\\x1b: no column 'txt', 'label' is null",
        "plain asks for what not all rows have: no column 'hint'",
    ]
    error, printed, said = encode(tmp_path, rows, path, "--faithful")
    assert (
        error is None
        and said == []
        and [(row["source"], row["target"]) for row in printed if row["template"] == "plain"]
        == [("a (h)", "yes"), ("b", "yes"), ("", "no"), ("None", "no"), ("c", "")]
    )


def test_rows_that_end_a_run_are_named(tmp_path):
    path = write_templates(
        [Template("sum", "{{ (a + b) }} ||| x", id="1")], tmp_path / "t.yaml", "d"
    )
    assert "rows.jsonl, line 2: " in str(
        encode(tmp_path, [{"a": 1, "b": 2}, {"a": 1, "b": "x"}], path)[0]
    )
    assert "rows.jsonl, line 2: a: found" in str(
        encode(tmp_path, [{"a": 1, "b": 2}, {"a": "\ud83d", "b": "x"}], path)[0]
    )
    assert "rows.jsonl: rows: found 0" in str(encode(tmp_path, [], path)[0])


def test_flan_s_rows_are_counted_too(tmp_path):
    (tmp_path / "t.py").write_text(
        "import copy\nPATTERNS = {'qa': [('{text}', '{answer}'), ('Say: {text}', '{answer}')]}\nPATTERNS['qb'] = PATTERNS['qa']\n"
    )
    rows = [{"text": "a", "answer": "b"}, {"text": "", "answer": "b"}, {"text": "a", "answer": " "}]
    error, printed, said = encode(tmp_path, rows, tmp_path / "t.py", "--cluster", "qb", form="flan")
    assert error is None and [row["source"] for row in printed] == ["a", "Say: a", "Say: "]
    assert said[0] == "3 renders left out:" and sorted(said[1:]) == [
        "1 of qb-0: an empty input", "1 of qb-0: an empty target", "1 of qb-1: an empty target",
    ]
    error = encode(
        tmp_path, [{"text": "a", "answer": None}], tmp_path / "t.py", "--cluster", "qa", form="flan"
    )[0]
    assert "rows.jsonl, line 1: template '{text}': answer: found None" in str(error)
