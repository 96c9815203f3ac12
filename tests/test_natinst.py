"""The text of Tk-Instruct: expected strings written by hand, one for each rule and each quirk."""
import html
import json
import random
import re
import string
import time
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings, strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from instop_nb.core import COLOURS, TaskError
from instop_nb.explorers import explorer
from instop_nb.formats import FOUR_FORMATS, to_v1, view
from instop_nb.natinst import (
    MATRIX, TK_INSTRUCT, Encoding, complete, encode, export_text, highlight, instruction, sources,
    tk_instruct,
)
from instop_nb.natinst_back import read_source
from instop_nb.natinst_v1 import V1_ENCODINGS, complete_v1, encode_v1, instruction_v1
from instop_nb.tasks import Example, Instance, Task, load_tasks

NONE = Encoding(definition=False, n_pos=0)
TASK = Task(
    "half", ["Halve the number", "Give one half of it."],
    positive=[
        Example("4", "2", "Two and two make four"), Example("10", "5", "Five!"), Example("6", "3"),
    ],
    negative=[Example("8", "16", "This is the double.")],
    instances=[Instance("half-0", "2", ["1"]), Instance("half-1", "Is 12 even?", ["6"])],
)
ONE = TASK.instances[0]


class Letters:
    "Each letter is a token, and one token more ends the text: lengths can be counted by hand."
    def __call__(self, text, add_special_tokens=True):
        return {"input_ids": [ord(c) for c in text] + [1] * add_special_tokens}
    def decode(self, ids, skip_special_tokens=False):
        return "".join(chr(i) for i in ids if i != 1 or not skip_special_tokens)


def source(definition="Halve the number", question="2", output="1", encoding=NONE):
    task = Task("t", [definition], [Example(question, output)])
    return encode(task, Instance("0", question, [""]), encoding)


# The layout

@pytest.mark.parametrize("encoding, expected", [
    (NONE, "Now complete the following example -\nInput: 2.\nOutput: "),
    (Encoding(n_pos=0),
    "Definition: Halve the number.\n\nNow complete the following example -\nInput: 2.\nOutput: "),
    (Encoding(task_name=True, definition=False, n_pos=0),
    "half. Now complete the following example -\nInput: 2.\nOutput: "),
    (Encoding(definition=False, n_pos=1),
     " Positive Example 1 -\nInput: 4.\n Output: 2.\n\nNow complete the following example -\n"
     "Input: 2.\nOutput: "),
    (Encoding(),
     "Definition: Halve the number.\n\n Positive Example 1 -\nInput: 4.\n Output: 2.\n\n"
     " Positive Example 2 -\nInput: 10.\n Output: 5.\n\n"
     "Now complete the following example -\nInput: 2.\nOutput: "),
    (Encoding(task_name=True, n_pos=9, n_neg=9, explanations=True),
     "half. Definition: Halve the number.\n\n"
     " Positive Example 1 -\nInput: 4.\n Output: 2.\n Explanation: Two and two make four.\n\n"
     " Positive Example 2 -\nInput: 10.\n Output: 5.\n Explanation: Five!\n\n"
     " Positive Example 3 -\nInput: 6.\n Output: 3.\n\n"
     " Negative Example 1 -\nInput: 8.\n Output: 16.\n Explanation: This is the double.\n\n"
     "Now complete the following example -\nInput: 2.\nOutput: "),
    (Encoding(definition=False, n_pos=0, n_neg=2),
     " Negative Example 1 -\nInput: 8.\n Output: 16.\n\nNow complete the following example -\n"
     "Input: 2.\nOutput: "),
], ids=["input alone", "definition", "task name", "1 positive", "default", "everything",
"negative alone"])
def test_layout(encoding, expected):
    assert encode(TASK, ONE, encoding) == expected


def test_the_first_wording_is_shown():
    assert encode(TASK.reworded(1), ONE, Encoding(n_pos=0)).startswith(
        "Definition: Give one half of it.\n\nNow"
    )


@pytest.mark.parametrize("text, line", [
    ("2", "2."), ("two.", "two."), ("two!", "two!"), ("(two)", "(two)"), ("two\"", "two\""),
    ("2%", "2%"), ("a_", "a_"), ("`", "`"),
    ("", "."), ("  \n", "."), ("\t two \n", "two."), ("two\nlines", "two\nlines."),
    ("二。", "二。."),
    ("two…", "two….") , ("two ”", "two ”."),
    ("two .", "two ."), ("\u00a0two\u2003", "two."),
])
def test_full_stops(text, line):
    assert complete(text) == f"Now complete the following example -\nInput: {line}\nOutput: "
    assert source(definition=text or "x", encoding=Encoding(n_pos=0)).startswith(
        f"Definition: {line if text else 'x.'}\n\n"
    )
    assert source(question=text, output=text, encoding=Encoding(definition=False)) == (
        f" Positive Example 1 -\nInput: {line}\n Output: {line}\n\n" + complete(text))
    why = Task("t", ["x"], [], [Example("a", "b", text)])
    assert encode(why, ONE, Encoding(definition=False, n_neg=1, explanations=True)).startswith(
        f" Negative Example 1 -\nInput: a.\n Output: b.\n Explanation: {line}\n\n")


def test_every_ascii_punctuation_ends_a_line():
    assert len(string.punctuation) == 32
    for sign in string.punctuation: assert complete("x" + sign).split("\n")[1] == "Input: x" + sign


def test_a_missing_explanation_is_no_empty_one():
    task = Task("t", ["x"], [Example("a", "b", None), Example("c", "d", "")])
    assert encode(task, ONE, Encoding(definition=False, explanations=True)) == (
        " Positive Example 1 -\nInput: a.\n Output: b.\n\n"
        " Positive Example 2 -\nInput: c.\n Output: d.\n Explanation: .\n\n" + complete("2"))


def test_the_task_name_is_left_as_it_is():
    assert encode(
        Task("what? ", ["x"]), ONE, Encoding(task_name=True, definition=False)
    ).startswith("what? . Now")


# The limit

def length(text): return len(text) + 1


def test_examples_are_dropped_from_the_end():
    parts = [part.text for part in instruction(TASK, Encoding(n_pos=3))]
    question = complete("2")
    for n in range(4):
        kept = "".join(parts[:n + 1]) + question
        # kept examples are measured with a space between them
        measured = length(kept) + max(0, n - 2)
        assert encode(TASK, ONE, Encoding(n_pos=3), Letters(), measured) == kept
        if n:
            assert (
                encode(TASK, ONE, Encoding(n_pos=3), Letters(), measured - 1)
                == "".join(parts[:n]) + question
            )


def test_length_is_measured_with_spaces_that_are_not_there():
    whole = encode(TASK, ONE, Encoding(n_pos=3))
    assert encode(TASK, ONE, Encoding(n_pos=3), Letters(), length(whole) + 1) == whole
    assert " Positive Example 3" not in encode(
        TASK, ONE, Encoding(n_pos=3), Letters(), length(whole)
    ), "it would have fitted"
    pair = Encoding(n_pos=2)
    assert encode(TASK, ONE, pair, Letters(), length(encode(TASK, ONE, pair))) == encode(
        TASK, ONE, pair
    )


def test_negatives_are_measured_behind_the_kept_positives():
    both = Encoding(n_pos=2, n_neg=1)
    whole = encode(TASK, ONE, both)
    assert encode(TASK, ONE, both, Letters(), length(whole) + 1) == whole
    assert encode(TASK, ONE, both, Letters(), length(whole)) == encode(TASK, ONE)


def test_an_example_that_does_not_fit_ends_its_kind_only():
    task = Task("t", ["x"], [Example("long " * 9, "a"), Example("b", "c")], [Example("d", "e")])
    limit = length(encode(task, ONE, Encoding(n_pos=0, n_neg=1)))
    assert encode(task, ONE, Encoding(n_neg=1), Letters(), limit) == encode(
        task, ONE, Encoding(n_pos=0, n_neg=1)
    )


def test_the_task_name_is_not_measured_but_cut():
    named = Encoding(task_name=True, n_pos=1)
    limit = length(encode(TASK, ONE, Encoding(n_pos=1)))
    whole = encode(TASK, ONE, named)
    assert encode(TASK, ONE, named, Letters(), limit) == whole[:limit], (
        "the example stays, the end goes"
    )
    assert whole[:limit].endswith("Input: 2.\nOut")


def test_an_overlong_source_is_cut_at_its_end():
    bare = Encoding(n_pos=0)
    whole = encode(TASK, ONE, bare)
    assert encode(TASK, ONE, bare, Letters(), length(whole)) == whole
    assert encode(TASK, ONE, bare, Letters(), length(whole) - 1) == whole, "only the end token goes"
    assert encode(TASK, ONE, bare, Letters(), 17) == "Definition: Halve"
    assert encode(TASK, ONE, Encoding(), Letters(), 17) == "Definition: Halve"


@pytest.fixture(scope="module")
def bytes_tokenizer():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(
        models.BPE(vocab={"</s>": 0} | {c: n for n, c in enumerate(alphabet, 1)}, merges=[])
    )
    core.pre_tokenizer, core.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel(),
    )
    core.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>")


def test_with_a_tokenizer_of_transformers(bytes_tokenizer):
    whole = encode(TASK, ONE)
    assert encode(TASK, ONE, tokenizer=bytes_tokenizer, max_length=1024) == whole
    assert encode(TASK, ONE, tokenizer=bytes_tokenizer, max_length=30) == whole[:30]
    for limit in range(20, 200, 7):
        assert encode(TASK, ONE, tokenizer=bytes_tokenizer, max_length=limit) == encode(
            TASK, ONE, tokenizer=Letters(), max_length=limit
        )


# Requests that cannot be met

@pytest.mark.parametrize("wrong",
    [dict(n_pos=-1), dict(n_neg=1.5), dict(n_pos="2"), dict(n_neg=None)])
def test_wrong_numbers_of_examples(wrong):
    with pytest.raises(TaskError, match="0 or more"): Encoding(**wrong)


def test_a_limit_needs_a_tokenizer_and_some_room():
    with pytest.raises(TaskError, match="tokenizer"): encode(TASK, ONE, max_length=10)
    with pytest.raises(TaskError, match="positive limit"):
        encode(TASK, ONE, tokenizer=Letters(), max_length=0)
    assert encode(TASK, ONE, tokenizer=Letters()) == encode(TASK, ONE)


def test_no_definition_to_show():
    with pytest.raises(TaskError, match="definition=False"): encode(Task("t", []), ONE)
    assert encode(Task("t", []), ONE, NONE) == complete("2")


# What holds for any text

# \x01 is the end token of Letters
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x01"), max_size=30)
examples = st.lists(st.builds(Example, texts, texts, st.none() | texts), max_size=3)
tasks = st.builds(
    Task, st.text("abc", min_size=1), st.lists(texts, min_size=1, max_size=2), examples, examples,
    st.lists(
        st.builds(Instance, texts, texts, st.lists(texts, min_size=1)), min_size=1, max_size=2
    ),
)
encodings = st.builds(
    Encoding, st.booleans(), st.booleans(), st.integers(0, 3), st.integers(0, 3), st.booleans()
)


@settings(max_examples=150, deadline=None)
@given(tasks, encodings)
def test_one_text_in_three_ways(task, encoding):
    expected = [encode(task, instance, encoding) for instance in task.instances]
    assert [text for _, text in sources(task, encoding)] == expected
    assert [highlight(task, instance, encoding) for instance in task.instances] == expected
    assert [instance for instance, _ in sources(task, encoding)] == task.instances
    joined = "".join(part.text for part in instruction(task, encoding))
    assert expected == [joined + complete(instance.input) for instance in task.instances]
    kinds = [part.kind for part in instruction(task, encoding)]
    assert kinds == sorted(kinds, key=list(COLOURS).index)
    assert kinds.count("positive") == min(encoding.n_pos, len(task.positive))
    assert kinds.count("negative") == min(encoding.n_neg, len(task.negative))


@settings(max_examples=150, deadline=None)
@given(tasks, encodings, st.integers(1, 300))
def test_no_source_is_longer_than_the_limit(task, encoding, limit):
    for instance, text in sources(task, encoding, Letters(), limit):
        whole = encode(task, instance, encoding)
        assert len(text) <= limit and (length(whole) + 6 > limit or text == whole)
        if length(text) < limit:
            assert text.endswith(complete(instance.input)), "with room left the question is whole"
        assert highlight(task, instance, encoding, Letters(), limit) == text


@given(texts)
def test_colours_are_harmless(text):
    shown = highlight(
        Task("<b>", [text], [Example(text, text)]), Instance("0", text, [text]),
        Encoding(task_name=True),
    )._repr_html_()
    spans = 4 + 4 + 2 * bool(text)  # in the legend and in the source, and the target in both
    assert shown.count("<") == shown.count(">") == 2 * (spans + 2)


# Colours

def spans(shown):
    "The titles of all coloured and struck out pieces below the legend, with their texts."
    body = shown._repr_html_().split("<pre")[1]
    return [
        (kind, "cut" if "line-through" in style else "kept", html.unescape(text))
        for kind, style, text in re.findall(
            r'<span title="([^"]*)" style="([^"]*)">([^<]*)</span>', body
        )
    ]


def test_parts_and_target_are_told_apart():
    assert spans(highlight(TASK, ONE, Encoding(n_pos=1))) == [
        ("definition", "kept", "Definition: Halve the number."),
        ("positive", "kept", " Positive Example 1 -\nInput: 4.\n Output: 2."),
        ("question", "kept", "Now complete the following example -\nInput: 2.\nOutput:"),
        ("target", "kept", "1"),
    ]


def test_only_the_first_reference_is_the_target():
    assert spans(highlight(TASK, Instance("0", "2", ["one", "1"]), NONE))[-1] == (
        "target", "kept", "one",
    )
    assert spans(highlight(TASK, Instance("0", "2", []), NONE))[-1][0] == "question"


def test_tokens_are_counted_for_each_kind():
    legend = highlight(TASK, ONE, tokenizer=Letters())._repr_html_().split("<pre")[0]
    n = [
        len("Definition: Halve the number.\n\n"), sum(len(p.text) for p in instruction(TASK)[1:]),
        len(complete("2")), len("1"),
    ]
    assert [int(x) for x in re.findall(r"</span> (\d+)", legend)] == n and "tokens" in legend
    assert not re.search(r"</span> \d", highlight(TASK, ONE)._repr_html_())


def test_dropped_examples_are_struck_out_where_they_stood():
    both = Encoding(n_pos=2, n_neg=1)
    limit = length(encode(TASK, ONE, Encoding(n_pos=1)))
    shown = highlight(TASK, ONE, both, Letters(), limit)
    assert shown == encode(TASK, ONE, Encoding(n_pos=1))
    assert [piece[:2] for piece in spans(shown)] == [
        ("definition", "kept"), ("positive", "kept"), ("positive", "cut"), ("negative", "cut"),
        ("question", "kept"), ("target", "kept"),
    ]


def test_the_tail_of_an_overlong_source_is_struck_out():
    shown = highlight(TASK, ONE, Encoding(n_pos=1), Letters(), 40)
    assert shown == "Definition: Halve the number.\n\nNow compl"
    assert spans(shown)[2:4] == [
        ("question", "kept", "Now compl"),
        ("question", "cut", "ete the following example -\nInput: 2.\nOutput:"),
    ]
    shown = highlight(TASK, ONE, Encoding(n_pos=0), Letters(), 10)
    assert spans(shown)[:3] == [
        ("definition", "kept", "Definition"), ("definition", "cut", ": Halve the number."),
        ("question", "cut", "Now complete the following example -\nInput: 2.\nOutput:"),
    ]


class Words:
    "Forgets spaces and line breaks, as T5's tokenizer forgets line breaks."
    def __call__(self, text, add_special_tokens=True):
        return {"input_ids": text.split() + ["</s>"] * add_special_tokens}
    def decode(self, ids, skip_special_tokens=False):
        return " ".join(i for i in ids if i != "</s>" or not skip_special_tokens)


@settings(max_examples=100, deadline=None)
@given(tasks, encodings, st.integers(1, 60))
def test_a_tokenizer_that_forgets_spaces(task, encoding, limit):
    for instance, text in sources(task, encoding, Words(), limit):
        assert highlight(task, instance, encoding, Words(), limit) == text
        words = text.split()
        assert len(words) <= limit and (len(words) < limit or text == " ".join(words))


def test_kept_and_cut_of_a_tokenizer_that_forgets_spaces():
    shown = highlight(TASK, ONE, Encoding(n_pos=0), Words(), 6)
    assert shown == "Definition: Halve the number. Now complete"
    assert spans(shown)[:3] == [
        ("definition", "kept", "Definition: Halve the number."),
        ("question", "kept", "Now complete"),
        ("question", "cut", " the following example - Input: 2. Output:"),
    ]


# Ten encodings, and the mixture

def test_the_ten_encodings_of_the_paper():
    shown = {
        name: [
            p.kind
            for p in instruction(
                Task("t", ["d"], [Example("a", "b", "c")] * 5, [Example("a", "b", "c")] * 5),
                encoding,
            )
        ]
        for name, encoding in MATRIX.items()
    }
    pos, neg = ["positive"], ["negative"]
    assert list(shown.items()) == [
        ("Task ID", ["task name"]), ("Def", ["definition"]), ("Pos(1)", pos),
        ("Def+Pos(1)", ["definition", *pos]), ("Pos(2)", pos * 2),
        ("Def+Pos(2)", ["definition", *pos * 2]),
        ("Def+Pos(2)+Neg(2)", ["definition", *pos * 2, *neg * 2]),
        ("Def+Pos(2)+Neg(2)+Expl", ["definition", *pos * 2, *neg * 2]), ("Pos(4)", pos * 4),
        ("Def+Pos(4)", ["definition", *pos * 4]),
    ]
    assert [name for name, encoding in MATRIX.items() if encoding.explanations] == [
        "Def+Pos(2)+Neg(2)+Expl"
    ]


def test_the_mixture_draws_each_of_five_encodings():
    assert TK_INSTRUCT == (
        Encoding(n_pos=0), Encoding(definition=False), Encoding(), Encoding(n_neg=2),
        Encoding(explanations=True),
    )
    rng = random.Random(3)
    drawn = Counter(tk_instruct(TASK, ONE, rng) for _ in range(1000))
    assert set(drawn) == {encode(TASK, ONE, e) for e in TK_INSTRUCT} and min(drawn.values()) > 150
    assert len(tk_instruct(TASK, ONE, rng, Letters(), 20)) <= 20


# Text-to-text files

def read(files):
    table, lines = (file.read_text(encoding="utf-8") for file in files)
    return [tuple(line.split("\t")) for line in table.splitlines()], [
        json.loads(line) for line in lines.splitlines()
    ]


def test_export(tmp_path):
    spaced = Task(
        "spaced", ["Say\ta\n\nb"],
        instances=[Instance("s-0", "x\ty \n z", ["one\n\ttwo "], {"note": "n"})],
        raw={"Source": ["s"]},
    )
    files = export_text([TASK, spaced], tmp_path / "new", MATRIX["Def"])
    assert (
        [file.name for file in files]
        == ["train.tsv", "train_examples.jsonl"]
        == sorted(p.name for p in (tmp_path / "new").iterdir())[:2]
    )
    assert (tmp_path / "new" / "train.tsv").read_bytes() == (
        b"Definition: Halve the number. Now complete the following example - Input: 2. Output:\t1\n"
        b"Definition: Halve the number. Now complete the following example - Input: Is 12 even? "
        b"Output:\t6\n"
        b"Definition: Say a b. Now complete the following example - Input: x y z. Output:\tone "
        b"two\n")
    pairs, examples = read(files)
    assert [(e["s2s_input"], e["s2s_output"]) for e in examples] == pairs
    assert [(e["id"], e["Task"]) for e in examples] == [
        ("half-0", "half"), ("half-1", "half"), ("s-0", "spaced"),
    ]
    assert examples[2]["Instance"] == {
        "id": "s-0", "input": "x\ty \n z", "output": ["one\n\ttwo "], "note": "n",
    }
    assert (
        examples[2]["Source"] == ["s"]
        and examples[0]["Definition"] == TASK.definition
        and "Instances" not in examples[0]
    )


def test_export_draws_encodings_and_references(tmp_path):
    many = replace(TASK, instances=[Instance(f"h-{n}", "2", ["1", "one", "I"]) for n in range(300)])
    first, _ = read(export_text([many], tmp_path / "a", seed=1))
    again, _ = read(export_text([many], tmp_path / "b", "tk_instruct", seed=1))
    other, _ = read(export_text([TASK, many], tmp_path / "c", seed=2))
    assert first == again and first != other[2:]
    assert {source for source, _ in first} == {
        " ".join(encode(TASK, ONE, e).split()) for e in TK_INSTRUCT
    }
    assert min(Counter(target for _, target in first).values()) > 60 and {
        target for _, target in first
    } == {"1", "one", "I"}
    assert read(export_text([TASK, many], tmp_path / "d", seed=1))[0][2:] == first, (
        "a task draws the same whatever stands before it"
    )
    named = read(export_text([replace(many, name="other")], tmp_path / "e", seed=1))[0]
    assert [target for _, target in named] != [target for _, target in first], (
        "each task draws for itself"
    )


def test_export_with_a_limit(tmp_path):
    pairs, _ = read(export_text([TASK], tmp_path, tokenizer=Letters(), max_length=50, split="test"))
    assert max(len(source) for source, _ in pairs) <= 50 and (tmp_path / "test.tsv").is_file()


def test_export_loses_nothing_that_was_written(tmp_path):
    files = export_text([TASK], tmp_path)
    before = [file.read_bytes() for file in files]
    for _ in files:
        with pytest.raises(TaskError, match="train.*older export.*another folder"):
            export_text([TASK], tmp_path, MATRIX["Def"])
    files[0].unlink()
    with pytest.raises(TaskError, match="train_examples.jsonl"): export_text([TASK], tmp_path)
    assert not files[0].exists() and files[1].read_bytes() == before[1]
    mute = replace(TASK, instances=[ONE, Instance("mute", "2", [])])
    with pytest.raises(TaskError, match="mute.*output"): export_text([mute], tmp_path / "broken")
    assert (
        not (tmp_path / "broken" / "train.tsv").exists()
        and not (tmp_path / "broken" / "train_examples.jsonl").exists()
    )
    assert len(read(export_text([TASK], tmp_path / "broken"))[0]) == 2, (
        "what a broken export left is written over"
    )


@pytest.mark.parametrize("split",
    ["../../up", "/up", "a/b", "", ".", "..", ".hidden", "a\\b", "a\nb", "a\x1b[2J", None, 3])
def test_export_stays_in_its_folder(tmp_path, split):
    with pytest.raises(TaskError, match="split: found .*give a word"):
        export_text([TASK], tmp_path / "in/here", split=split)
    assert not list(tmp_path.iterdir())
    assert [f.name for f in export_text([TASK], tmp_path, split="dev-1.b")] == [
        "dev-1.b.tsv", "dev-1.b_examples.jsonl",
    ]


def test_export_onto_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(*_): raise OSError(28, "No space left on device")
    with monkeypatch.context() as disk:
        disk.setattr("os.fsync", full)
        with pytest.raises(OSError, match="train.tsv.*cannot be written"):
            export_text([TASK], tmp_path)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="choose another folder"):
        export_text([TASK], tmp_path / "file")
    with pytest.raises(TaskError, match="half a sign"):
        export_text([replace(TASK, definition=["\ud83d"])], tmp_path / "new", MATRIX["Def"])
    assert not list((tmp_path / "new").iterdir())


@pytest.mark.parametrize("wrong", ["Def", "tk-instruct", None, 3])
def test_export_in_an_unknown_encoding(tmp_path, wrong):
    with pytest.raises(TaskError, match="tk_instruct"): export_text([TASK], tmp_path / "x", wrong)
    assert not (tmp_path / "x").exists()


# Taking a source apart

def test_parse_a_source_with_everything():
    task, instance, encoding = read_source(
        "half. Definition: Halve the number.\n\n"
        " Positive Example 1 -\nInput: 4.\n Output: 2.\n Explanation: Two and two make four.\n\n"
        " Positive Example 2 -\nInput: 6.\n Output: 3.\n\n"
        " Negative Example 1 -\nInput: 8.\n Output: 16.\n Explanation: This is the double.\n\n"
        "Now complete the following example -\nInput: Is 12\neven?\nOutput: ")
    assert task == Task(
        "half", ["Halve the number."],
        [Example("4.", "2.", "Two and two make four."), Example("6.", "3.")],
        [Example("8.", "16.", "This is the double.")],
    )
    assert instance == Instance("parsed-0", "Is 12\neven?", []) and encoding == Encoding(
        True, True, 2, 1, True
    )


def test_parse_the_input_alone():
    task, instance, encoding = read_source(
        "Now complete the following example -\nInput: .\nOutput: "
    )
    assert (task, instance.input, encoding) == (Task("parsed", []), ".", NONE)


@pytest.mark.parametrize("text", [
    "", "half", "Input: 2.\nOutput: ", "Now complete the following example -\nInput: 2\nOutput: ",
    "Now complete the following example -\nInput:  2.\nOutput: ",
    "Now complete the following example -\nInput: 2.\nOutput:",
    "Definition: Halve\n\nNow complete the following example -\nInput: 2.\nOutput: ",
    " Positive Example 2 -\nInput: 4.\n Output: 2.\n\nNow complete the following example -\n"
    "Input: 2.\nOutput: "])
def test_parse_nothing_else(text):
    with pytest.raises(TaskError, match="whole text of Tk-Instruct"): read_source(text)


labels = [
    "Definition: ", "\n\n", "\n", " Positive Example 1 -\n", " Positive Example 2 -\n",
    " Negative Example 1 -\n", "Input: ", "\nInput: ", "\n Output: ", "\n Explanation: ",
    "Now complete the following example -\nInput: ", "\nOutput: ", ". ", ".", "a", " ", "half. ",
    " Positive Example 1 -\nInput: a.\n Output: b.\n\n",
    " Negative Example 1 -\nInput: a.\n Output: b.\n Explanation: c.\n\n",
]
tricky = st.lists(st.sampled_from(labels), max_size=6).map("".join) | texts
tricky_examples = st.lists(st.builds(Example, tricky, tricky, st.none() | tricky), max_size=3)
tricky_tasks = st.builds(
    Task, tricky, st.lists(tricky, min_size=1, max_size=1), tricky_examples, tricky_examples
)


@settings(max_examples=400, deadline=120_000)  # milliseconds: for what hangs, not for what is slow
@given(tricky_tasks, tricky, encodings)
def test_parsed_and_encoded_again_any_text_is_the_same(task, question, encoding):
    source = encode(task, Instance("0", question, []), encoding)
    assert encode(*read_source(source)) == source


free = st.text("ab.!?\n é。-", max_size=12)
free_examples = st.lists(st.builds(Example, free, free, st.none() | free), max_size=3)


def closed(text):
    return (
        text.strip()
        if text.strip()[-1:] in set(string.punctuation) - {""} and text.strip()
        else text.strip() + "."
    )


@settings(max_examples=300, deadline=120_000)  # milliseconds: for what hangs, not for what is slow
@given(st.builds(Task, st.text("abc_0. ", max_size=9), st.lists(free, min_size=1, max_size=1),
    free_examples, free_examples), free, encodings)
def test_without_labels_in_the_texts_all_fields_come_back(task, question, encoding):
    def shown(examples, n):
        return [
            Example(
                closed(e.input), closed(e.output),
                closed(e.explanation)
                if encoding.explanations and e.explanation is not None
                else None,
            )
            for e in examples[:n]
        ]
    found, instance, seen = read_source(encode(task, Instance("0", question, []), encoding))
    assert found.name == (task.name if encoding.task_name else "parsed")
    assert found.definition == ([closed(task.definition[0])] if encoding.definition else [])
    assert (found.positive, found.negative) == (
        shown(task.positive, encoding.n_pos), shown(task.negative, encoding.n_neg),
    )
    assert instance.input == closed(question)
    assert (seen.task_name, seen.definition, seen.n_pos, seen.n_neg) == (
        encoding.task_name, encoding.definition, len(found.positive), len(found.negative))


def test_parse_is_fast_where_labels_are_many():
    block = " Positive Example 1 -\nInput: a.\n Output: b.\n\n"
    task = Task(
        "t", [block * 30], [Example(block * 10, block * 10, block * 10)] * 4,
        [Example(block * 10, block * 10)] * 4,
    )
    start, source = (
        time.process_time(),
        encode(task, Instance("0", block * 30, []), Encoding(True, True, 4, 4, True)),
    )
    assert encode(*read_source(source)) == source
    with pytest.raises(TaskError): read_source(source[:-20] + "\nOutput: ")
    assert time.process_time() - start < 60  # what grows too fast takes hours


# Four formats side by side

@pytest.mark.parametrize("name, choice, expected", [
    ("Tk-Instruct", "Def",
    "Definition: Halve the number.\n\nNow complete the following example -\nInput: 2.\nOutput: "),
    ("Natural Instructions v1", "Def+Prompt+Pos",
    "Definition: Halve the number\ninput: 4\noutput: 2\ninput: 10\noutput: 5\ninput: 2\noutput:"),
    ("PromptSource", "wording 0", "Halve the number\n\n2"),
    ("PromptSource", "wording 1", "Give one half of it.\n\n2"),
    ("FLAN", "wording 1", "Give one half of it.\n\n2"), ("FLAN", "no template", "2")])
def test_view(name, choice, expected):
    shown = view(TASK, ONE, name, choice)
    assert shown == expected and spans(shown)[-1] == ("target", "kept", "1")
    elsewhere = view(TASK, Instance("new", "a new input", []), name, choice)
    assert "a new input" in elsewhere and spans(elsewhere)[-1][0] != "target"


def test_view_of_what_is_not_there():
    with pytest.raises(TaskError, match="PromptSource"): view(TASK, ONE, "P3", "Def")
    with pytest.raises(TaskError, match="Natural Instructions v1: choice.*Def.Prompt"):
        view(TASK, ONE, "Natural Instructions v1", "Def")


def test_the_explorer_switches():
    box = explorer(TASK)
    (formats, choices, page), (other_format, _, other_page) = (
        pane.children for pane in box.children
    )
    assert page.value == view(TASK, ONE, "Tk-Instruct", "Def+Pos(2)").page != other_page.value
    assert formats.options == FOUR_FORMATS and choices.options == tuple(MATRIX)
    choices.value = "Def"
    assert page.value == view(TASK, ONE, "Tk-Instruct", "Def").page
    for name, first in (
        ("FLAN", "wording 0"), ("PromptSource", "wording 0"), ("Natural Instructions v1", "Prompt"),
        ("Tk-Instruct", "Task ID"),
    ):
        formats.value = name
        assert choices.value == first and page.value == view(TASK, ONE, name, first).page
    assert (
        other_format.value == "Natural Instructions v1"
        and explorer(TASK, TASK.instances[1]).children[0].children[2].value != page.value
    )


def test_the_explorer_says_why_a_format_cannot_hold_a_task():
    formats, choices, page = (
        explorer(Task("t", ["Fill {gap}"], instances=[ONE])).children[0].children
    )
    formats.value = "FLAN"
    assert "braces" in page.value and choices.options == ()
    formats.value = "Tk-Instruct"
    assert "Now complete" in page.value and choices.options == tuple(MATRIX)
    with pytest.raises(TaskError, match="give it an instance"): explorer(Task("t", ["x"]))


# The real tasks, in the encodings of both papers

@pytest.fixture
def all_tasks(real_tasks): return load_tasks(real_tasks) + load_tasks(real_tasks / "tasks_fi")


def test_all_real_tasks_in_all_encodings(all_tasks):
    start, n, encodings = time.process_time(), 0, [*MATRIX.values(), NONE]
    for task in all_tasks:
        for encoding in encodings:
            for instance, text in sources(task, encoding):
                n += 1
                assert (
                    text.endswith("\nOutput: ")
                    and "Now complete the following example -\nInput: " + instance.input.strip()
                    in text
                )
        converted = to_v1(task).result
        for fields in V1_ENCODINGS.values():
            head = "".join(part.text for part in instruction_v1(converted, fields))
            assert head + complete_v1(task.instances[0].input) == encode_v1(
                converted, task.instances[0].input, fields
            )
            for instance in task.instances:
                n += 1
                assert (head + complete_v1(instance.input)).endswith(
                    f"input: {instance.input}\noutput:"
                )
    assert n == (48_899 + 1_440) * (11 + 11)
    assert time.process_time() - start < 120


def test_real_sources_are_parsed(all_tasks):
    for task in all_tasks:
        for encoding in (MATRIX["Def+Pos(2)+Neg(2)+Expl"], MATRIX["Task ID"], NONE):
            for instance in task.instances[:2]:
                source = encode(task, instance, encoding)
                assert encode(*read_source(source)) == source
