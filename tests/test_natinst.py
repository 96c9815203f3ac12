"""The text of Tk-Instruct: expected strings written by hand, one for each rule and each quirk."""
import string
import time
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from instop_nb.natinst import COLOURS, Encoding, complete, encode, highlight, instruction, sources
from instop_nb.tasks import Example, Instance, Task, TaskError, load_tasks

REAL = Path(__file__).resolve().parents[2] / "shared" / "natural-instructions"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="../shared/natural-instructions is not here")

NONE = Encoding(definition=False, n_pos=0)
TASK = Task("half", ["Halve the number", "Give one half of it."],
            positive=[Example("4", "2", "Two and two make four"), Example("10", "5", "Five!"), Example("6", "3")],
            negative=[Example("8", "16", "This is the double.")],
            instances=[Instance("half-0", "2", ["1"]), Instance("half-1", "Is 12 even?", ["6"])])
ONE = TASK.instances[0]


class Letters:
    "Each letter is a token, and one token more ends the text: lengths can be counted by hand."
    def __call__(self, text): return {"input_ids": [ord(c) for c in text] + [1]}
    def decode(self, ids, skip_special_tokens=False): return "".join(chr(i) for i in ids if i != 1 or not skip_special_tokens)


def source(definition="Halve the number", input="2", output="1", encoding=NONE):
    return encode(Task("t", [definition], [Example(input, output)]), Instance("0", input, [""]), encoding)


# The layout

@pytest.mark.parametrize("encoding, expected", [
    (NONE, "Now complete the following example -\nInput: 2.\nOutput: "),
    (Encoding(n_pos=0), "Definition: Halve the number.\n\nNow complete the following example -\nInput: 2.\nOutput: "),
    (Encoding(task_name=True, definition=False, n_pos=0), "half. Now complete the following example -\nInput: 2.\nOutput: "),
    (Encoding(definition=False, n_pos=1),
     " Positive Example 1 -\nInput: 4.\n Output: 2.\n\nNow complete the following example -\nInput: 2.\nOutput: "),
    (Encoding(),
     "Definition: Halve the number.\n\n Positive Example 1 -\nInput: 4.\n Output: 2.\n\n Positive Example 2 -\nInput: 10.\n Output: 5.\n\n"
     "Now complete the following example -\nInput: 2.\nOutput: "),
    (Encoding(task_name=True, n_pos=9, n_neg=9, explanations=True),
     "half. Definition: Halve the number.\n\n"
     " Positive Example 1 -\nInput: 4.\n Output: 2.\n Explanation: Two and two make four.\n\n"
     " Positive Example 2 -\nInput: 10.\n Output: 5.\n Explanation: Five!\n\n"
     " Positive Example 3 -\nInput: 6.\n Output: 3.\n\n"
     " Negative Example 1 -\nInput: 8.\n Output: 16.\n Explanation: This is the double.\n\n"
     "Now complete the following example -\nInput: 2.\nOutput: "),
    (Encoding(definition=False, n_pos=0, n_neg=2),
     " Negative Example 1 -\nInput: 8.\n Output: 16.\n\nNow complete the following example -\nInput: 2.\nOutput: "),
], ids=["input alone", "definition", "task name", "1 positive", "default", "everything", "negative alone"])
def test_layout(encoding, expected):
    assert encode(TASK, ONE, encoding) == expected


def test_the_first_wording_is_shown():
    assert encode(TASK.reworded(1), ONE, Encoding(n_pos=0)).startswith("Definition: Give one half of it.\n\nNow")


@pytest.mark.parametrize("text, line", [
    ("2", "2."), ("two.", "two."), ("two!", "two!"), ("(two)", "(two)"), ("two\"", "two\""), ("2%", "2%"), ("a_", "a_"), ("`", "`"),
    ("", "."), ("  \n", "."), ("\t two \n", "two."), ("two\nlines", "two\nlines."), ("二。", "二。."), ("two…", "two….") , ("two ”", "two ”."),
    ("two .", "two ."), ("\u00a0two\u2003", "two."),
])
def test_full_stops(text, line):
    assert complete(text) == f"Now complete the following example -\nInput: {line}\nOutput: "
    assert source(definition=text or "x", encoding=Encoding(n_pos=0)).startswith(f"Definition: {line if text else 'x.'}\n\n")
    assert source(input=text, output=text, encoding=Encoding(definition=False)) == (
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
    assert encode(Task("what? ", ["x"]), ONE, Encoding(task_name=True, definition=False)).startswith("what? . Now")


# The limit

def length(text): return len(text) + 1


def test_examples_are_dropped_from_the_end():
    parts = [text for _, text in instruction(TASK, Encoding(n_pos=3))]
    question = complete("2")
    for n in range(4):
        kept = "".join(parts[:n + 1]) + question
        measured = length(kept) + max(0, n - 2)  # kept examples are measured with a space between them
        assert encode(TASK, ONE, Encoding(n_pos=3), Letters(), measured) == kept
        if n: assert encode(TASK, ONE, Encoding(n_pos=3), Letters(), measured - 1) == "".join(parts[:n]) + question


def test_length_is_measured_with_spaces_that_are_not_there():
    whole = encode(TASK, ONE, Encoding(n_pos=3))
    assert encode(TASK, ONE, Encoding(n_pos=3), Letters(), length(whole) + 1) == whole
    assert " Positive Example 3" not in encode(TASK, ONE, Encoding(n_pos=3), Letters(), length(whole)), "it would have fitted"
    pair = Encoding(n_pos=2)
    assert encode(TASK, ONE, pair, Letters(), length(encode(TASK, ONE, pair))) == encode(TASK, ONE, pair)


def test_negatives_are_measured_behind_the_kept_positives():
    both = Encoding(n_pos=2, n_neg=1)
    whole = encode(TASK, ONE, both)
    assert encode(TASK, ONE, both, Letters(), length(whole) + 1) == whole
    assert encode(TASK, ONE, both, Letters(), length(whole)) == encode(TASK, ONE)


def test_an_example_that_does_not_fit_ends_its_kind_only():
    task = Task("t", ["x"], [Example("long " * 9, "a"), Example("b", "c")], [Example("d", "e")])
    limit = length(encode(task, ONE, Encoding(n_pos=0, n_neg=1)))
    assert encode(task, ONE, Encoding(n_neg=1), Letters(), limit) == encode(task, ONE, Encoding(n_pos=0, n_neg=1))


def test_the_task_name_is_not_measured_but_cut():
    named = Encoding(task_name=True, n_pos=1)
    limit = length(encode(TASK, ONE, Encoding(n_pos=1)))
    whole = encode(TASK, ONE, named)
    assert encode(TASK, ONE, named, Letters(), limit) == whole[:limit], "the example stays, the end goes"
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
    core = Tokenizer(models.BPE(vocab={"</s>": 0} | {c: n for n, c in enumerate(alphabet, 1)}, merges=[]))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    core.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>")


def test_with_a_tokenizer_of_transformers(bytes_tokenizer):
    whole = encode(TASK, ONE)
    assert encode(TASK, ONE, tokenizer=bytes_tokenizer, max_length=1024) == whole
    assert encode(TASK, ONE, tokenizer=bytes_tokenizer, max_length=30) == whole[:30]
    for limit in range(20, 200, 7): assert encode(TASK, ONE, tokenizer=bytes_tokenizer, max_length=limit) == encode(TASK, ONE, tokenizer=Letters(), max_length=limit)


# Requests that cannot be met

@pytest.mark.parametrize("wrong", [dict(n_pos=-1), dict(n_neg=1.5), dict(n_pos="2"), dict(n_neg=None)])
def test_wrong_numbers_of_examples(wrong):
    with pytest.raises(TaskError, match="0 or more"): Encoding(**wrong)


def test_a_limit_needs_a_tokenizer_and_some_room():
    with pytest.raises(TaskError, match="tokenizer"): encode(TASK, ONE, max_length=10)
    with pytest.raises(TaskError, match="positive limit"): encode(TASK, ONE, tokenizer=Letters(), max_length=0)
    assert encode(TASK, ONE, tokenizer=Letters()) == encode(TASK, ONE)


def test_no_definition_to_show():
    with pytest.raises(TaskError, match="definition=False"): encode(Task("t", []), ONE)
    assert encode(Task("t", []), ONE, NONE) == complete("2")


# What holds for any text

texts = st.text(max_size=30)
examples = st.lists(st.builds(Example, texts, texts, st.none() | texts), max_size=3)
tasks = st.builds(Task, st.text("abc", min_size=1), st.lists(texts, min_size=1, max_size=2), examples, examples,
                  st.lists(st.builds(Instance, texts, texts, st.lists(texts, min_size=1)), min_size=1, max_size=2))
encodings = st.builds(Encoding, st.booleans(), st.booleans(), st.integers(0, 3), st.integers(0, 3), st.booleans())


@settings(max_examples=150, deadline=None)
@given(tasks, encodings)
def test_one_text_in_three_ways(task, encoding):
    expected = [encode(task, instance, encoding) for instance in task.instances]
    assert [text for _, text in sources(task, encoding)] == expected
    assert [highlight(task, instance, encoding) for instance in task.instances] == expected
    assert [instance for instance, _ in sources(task, encoding)] == task.instances
    joined = "".join(text for _, text in instruction(task, encoding))
    assert expected == [joined + complete(instance.input) for instance in task.instances]
    kinds = [kind for kind, _ in instruction(task, encoding)]
    assert kinds == sorted(kinds, key=list(COLOURS).index)
    assert kinds.count("positive") == min(encoding.n_pos, len(task.positive))
    assert kinds.count("negative") == min(encoding.n_neg, len(task.negative))


@settings(max_examples=150, deadline=None)
@given(tasks, encodings, st.integers(1, 300))
def test_no_source_is_longer_than_the_limit(task, encoding, limit):
    for instance, text in sources(task, encoding, Letters(), limit):
        whole = encode(task, instance, encoding)
        assert len(text) <= limit and (length(whole) + 6 > limit or text == whole)
        if length(text) < limit: assert text.endswith(complete(instance.input)), "with room left the question is whole"


@given(texts)
def test_colours_are_harmless(text):
    shown = highlight(Task("<b>", [text], [Example(text, text)]), Instance("0", text, [""]), Encoding(task_name=True))._repr_html_()
    assert shown.count("<") == shown.count(">") == 2 + 2 * 4


ALL = [NONE, Encoding(), Encoding(n_pos=0), Encoding(task_name=True, definition=False, n_pos=0), Encoding(definition=False, n_pos=1),
       Encoding(n_pos=1), Encoding(definition=False), Encoding(n_neg=2), Encoding(n_neg=2, explanations=True),
       Encoding(definition=False, n_pos=4), Encoding(n_pos=4)]


@needs_real
def test_all_real_tasks_in_all_encodings():
    tasks, start, n = load_tasks(REAL) + load_tasks(REAL / "tasks_fi"), time.process_time(), 0
    for task in tasks:
        for encoding in ALL:
            for instance, text in sources(task, encoding):
                n += 1
                assert text.endswith("\nOutput: ") and "Now complete the following example -\nInput: " + instance.input.strip() in text
    assert n == (48_899 + 1_440) * len(ALL)
    assert time.process_time() - start < 10
