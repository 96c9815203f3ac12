"""What chapter 8 promises: the scores of rouge-score and of Super-NI's and T0's evaluation, each
pair once and fast, clear errors."""
import json
import runpy
import subprocess
import sys
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import joblib
import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings, strategies as st
from rouge_score.rouge_scorer import RougeScorer
from tokenizers import ByteLevelBPETokenizer
from transformers import PreTrainedTokenizerFast

from instop_nb import metrics
from instop_nb.metrics import (
    EXACT_MATCH_CATEGORIES, copy_example, copy_input, exact_match, from_tk_instruct, gpt2_tokenizer,
    normalise_answer, porter_stem, read_predictions, reported_measure, rouge_1, rouge_l, rouge_pair,
    rouge_tokens, score, score_row, score_table, script_warnings, shared_tokens, unicode_form,
)
from instop_nb.statistics import (
    Difference, median_iqr, paired_bootstrap, paired_t_interval, t_interval,
)
from instop_nb.ranking import rank_classify
from instop_nb.models import load_model
from instop_nb.t5 import micro_config, new_t5
from instop_nb.tasks import Example, Instance, Task, load_tasks

REAL = Path(__file__).parents[1] / "../shared/natural-instructions"
words = st.sampled_from(
    "the a cat cats sat sitting sits on mat, mats. quickly 12 Größe ! generalization generalizes".split()
)
texts = st.one_of(st.lists(words, max_size=9).map(" ".join), st.text(max_size=20))
row = st.fixed_dictionaries(
    {
        "task": st.sampled_from("abc"), "category": st.sampled_from("xy"), "prediction": texts,
        "references": st.lists(texts, min_size=1, max_size=3),
    }
)


@settings(max_examples=150, deadline=None)
@given(texts, st.lists(texts, min_size=1, max_size=3))
def test_rouge_is_that_of_the_package(prediction, references):
    for measure, mine in (("rouge1", rouge_1), ("rougeL", rouge_l)):
        fresh = [
            RougeScorer([measure], use_stemmer=True).score(r, prediction)[measure].fmeasure
            for r in references
        ]
        assert mine(prediction, references) == max(fresh)


@given(texts)
def test_normal_form_is_stable(text):
    once = normalise_answer(text)
    assert normalise_answer(once) == once
    assert exact_match(f"  {text}. ", [text]) == 1


@pytest.mark.parametrize(
    "prediction, references, expected",
    [
        ("Yes.", ["no", "yes"], 1), ("the cat", ["cat"], 0), ("", ["."], 1), ("it's", ["its"], 1),
        ("a  b\n", ["A b"], 1), ("3.5", ["35"], 1), ("“yes”", ["yes"], 0),
    ],
)  # only ASCII punctuation goes
def test_exact_match(prediction, references, expected):
    assert exact_match(prediction, references) == expected


def test_no_tokens_score_zero():
    assert rouge_l("", ["."]) == rouge_1("!", ["!"]) == rouge_l("猫", ["猫"]) == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(row, min_size=1, max_size=12))
def test_averages(rows):
    found = score(rows)
    def mean(part):
        return 100 * sum(rouge_l(r["prediction"], r["references"]) for r in part) / len(part)
    tasks = {r["task"] for r in rows}
    of = {t: [r for r in rows if r["task"] == t] for t in tasks}
    assert found["overall"]["rougeL"] == pytest.approx(mean(rows)) and found["overall"]["n"] == len(
        rows
    )
    assert set(found["per_task"]) == tasks and found["mean_over_tasks"]["n"] == len(tasks)
    for t in tasks: assert found["per_task"][t]["rougeL"] == pytest.approx(mean(of[t]))
    assert found["mean_over_tasks"]["rougeL"] == pytest.approx(
        sum(mean(of[t]) for t in tasks) / len(tasks)
    )
    for c, s in found["per_category"].items():
        assert s["rougeL"] == pytest.approx(mean([r for r in rows if r["category"] == c]))
    json.dumps(found)


def test_each_pair_is_scored_once():
    for memory in (rouge_pair, rouge_tokens, metrics._best): memory.cache_clear()
    score(
        [
            dict(task="t", category="c", prediction=p, references=["yes", "no"])
            for p in ("yes", "no", "maybe") * 1000
        ]
    )
    assert rouge_pair.cache_info().misses == 6 and rouge_tokens.cache_info().misses == 3


good = dict(task="t", category="c", prediction="", references=["x"])
@pytest.mark.parametrize(
    "line, words",
    [
        ("{", "not JSON"), ("[1]", "is not an object"),
        (json.dumps({**good, "references": "x"}), "field 'references' is 'x'"),
        (json.dumps({**good, "references": [1]}), "field 'references' is [1]"),
        (json.dumps({**good, "prediction": 3}), "field 'prediction' is 3"),
        (json.dumps({k: v for k, v in good.items() if k != "task"}), "field 'task' is missing"),
        (
            json.dumps({k: v for k, v in good.items() if k != "references"}),
            "field 'references' is missing",
        ),
    ],
)
def test_bad_line(tmp_path, line, words):
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps(good) + "\n\n" + line + "\n")
    with pytest.raises(ValueError) as e: read_predictions(path)
    assert (
        str(path) in str(e.value)
        and "line 3" in str(e.value)
        and words in str(e.value)
        and "write" in str(e.value)
    )


@pytest.mark.parametrize(
    "value",
    [
        3, 1e999, float("nan"), None, True, 10**4000, ["x"], {"a": [1] * 10**5},
        [[["x"] * 10**4] * 10**3], "\x1b[2J" * 999,
    ],
)
def test_a_value_that_is_none_is_named_in_few_words(value):
    for field in ("prediction", "references"):
        if (
            field == "prediction"
            and isinstance(value, str)
            or value == ["x"]
            and field == "references"
        ):
            continue
        with pytest.raises(ValueError) as caught:
            metrics.check_row({**good, field: value}, "p.jsonl, line 3")
        assert (
            f"p.jsonl, line 3: field '{field}' is " in str(caught.value)
            and len(str(caught.value)) < 200
            and str(caught.value).isprintable()
        )
    with pytest.raises(ValueError, match="not an object") as caught: metrics.check_row([value])
    assert len(str(caught.value)) < 200


# Letters and forms

def said(prediction, *references):
    return dict(task="t", category="c", prediction=prediction, references=list(references))


@pytest.mark.parametrize(
    "rows, references, predictions",
    [
        ([said("लाल", "लाल")], "1 of 1", "1 of 1"),
        ([said("red", "красный"), said("x", "y")], "1 of 2", "0 of 2"),
        ([said("赤", "red", "rot")], "0 of 2", "1 of 1"), ([said("ＲＥＤ", "red")], "0 of 1", "1 of 1"),
        ([said("٣", "3")], "0 of 1", "1 of 1"),
        ([said("लाल 3", "3 café"), said("Größe", "size")], "0 of 2", "1 of 2"),
    ],
)
def test_texts_that_rouge_is_blind_for_are_counted(rows, references, predictions):
    line = script_warnings(rows)[0]
    assert (
        f"{references} references and {predictions} predictions" in line
        and "Latin" in line
        and "--xlingual" in line
    )
    assert not any("ROUGE" in line for line in script_warnings(rows, xlingual=True))


@pytest.mark.parametrize(
    "row",
    [
        said("a - b", "c"), said("", "..."), said("!", "—"), said("", "…"), said("Größe", "size"),
        said("😀", "😀"), said("don’t", "do"),
    ],
)
def test_nothing_to_warn_of(row): assert script_warnings([row]) == []


@pytest.mark.parametrize(
    "one, other",
    [
        ("caf\u00e9", "cafe\u0301"), ("\u201ctea\u201d", '"tea"'), ("don\u2019t", "don't"),
        ("\uff34\uff45\uff41", "tea"), ("\ufb01sh", "fish"), ("a — b", "a – b"),
        ("te\u200ba", "tea"), ("\ufefftea", "tea"), ("tea\u2026", "tea..."),
        ("well\u2011known", "well-known"), ("\u00bftea?", "tea"),
        ("한국", "\u1112\u1161\u11ab\u1100\u116e\u11a8"),
    ],
)
def test_answers_that_differ_in_form_alone_are_counted(one, other):
    for a, b in ((one, other), (other, one)):
        assert exact_match(a, [b]) == 0, "the rule stays Super-NI's"
        assert exact_match(unicode_form(a), ["something else", unicode_form(b)]) == 1
        assert (
            "1 of 2 predictions differ"
            in script_warnings([said(a, "no", b), said("tea", "te")], True)[0]
        )


@given(texts)
def test_one_form_is_stable(text):
    once = unicode_form(text)
    assert unicode_form(once) == once
    assert not [line for line in script_warnings([said(text, text)]) if "form alone" in line]


# Tk-Instruct's predictions

THEIRS = {
    "id": "t1-0", "Task": "t1", "Categories": ["Colour Naming", "Other"],
    "Definition": ["Name it."], "Positive Examples": [],
    "Instance": {"id": "t1-0", "input": "A lamp", "output": ["red", "rot"]}, "prediction": "Rot.",
}


@pytest.mark.parametrize(
    "row, category",
    [
        (THEIRS, "Colour Naming"), ({**THEIRS, "Categories": "Colour Naming"}, "Colour Naming"),
        ({**THEIRS, "Categories": []}, "unknown"),
        (
            {
                "Task": "t1", "Definition": "Name it.", "Instance": THEIRS["Instance"],
                "Prediction": "rot",
            },
            "unknown",
        ),
    ],
)
def test_predictions_of_tk_instruct_are_read(row, category, tmp_path):
    path = tmp_path / "predicted_examples.jsonl"
    path.write_text(json.dumps(row) + "\n")
    found, = read_predictions(path)
    assert (found["id"], found["task"], found["category"], found["references"]) == (
        "t1-0", "t1", category, ["red", "rot"],
    ) and score([found])["overall"]["exact_match"] == 100


@pytest.mark.parametrize(
    "change, says",
    [
        (dict(Instance={}), "'references' is missing"),
        (dict(Instance={"output": "red"}), "'references' is 'red'"),
        (dict(prediction=None), "'prediction' is None"), (dict(Categories=[3]), "'category' is 3"),
        (dict(Task=None), "'task' is None"), (dict(Instance=[]), "'task' is missing"),
    ],
)
def test_slips_in_predictions_of_tk_instruct_are_named(change, says, tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps(THEIRS | change))
    with pytest.raises(ValueError, match="p.jsonl, line 1: field " + says): read_predictions(path)


def test_other_rows_stay_as_they_are_and_bare_ones_are_told_what_they_need(tmp_path):
    assert from_tk_instruct(good) is good and from_tk_instruct({**THEIRS, "task": "x"}) == {
        **THEIRS, "task": "x",
    }
    (tmp_path / "p.jsonl").write_text('{"id": "t1-0", "prediction": "red"}')
    with pytest.raises(ValueError, match="id and prediction alone"):
        read_predictions(tmp_path / "p.jsonl")


def test_names_are_no_markup_in_a_table():
    evil = "<img src=x>|`a`\n# b \x1b[2J"
    for by in ("per_category", "per_task"):
        table = score_table(score([dict(good, task=evil, category=evil)]), by)
        assert (
            "<img" not in table
            and "\x1b" not in table
            and len({line.count("|") for line in table.splitlines()}) == 1
        )


def test_numbers_that_make_no_sense_are_refused(tmp_path):
    with pytest.raises(ValueError, match="once or more"): paired_bootstrap([good], [good], n=0)
    with pytest.raises(ValueError, match="batch_size"):
        rank_classify(None, None, ["x"], [["y"]], batch_size=0)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(OSError, match="neither a folder with a tokenizer"):
        gpt2_tokenizer(str(tmp_path))


def test_good_file(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text(
        "\n".join(json.dumps({**good, "prediction": p, "id": 1}) for p in ("x\u2028y", "ä"))
        + "\n\n", encoding="utf-8",
    )
    assert [r["prediction"] for r in read_predictions(path)] == ["x\u2028y", "ä"]
    path.write_text("\n")
    with pytest.raises(ValueError, match="no predictions"): read_predictions(path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_predictions(tmp_path / "q.jsonl")
    with pytest.raises(ValueError, match="no predictions"): score([])


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=20), st.floats(.5, .99))
def test_interval_is_scipys(values, confidence):
    mean, half = t_interval(values, confidence)
    if half < 1e-9: return
    low, high = scipy.stats.t.interval(
        confidence, len(values) - 1, loc=mean, scale=scipy.stats.sem(values)
    )
    assert (mean - half, mean + half) == pytest.approx((low, high), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("values, confidence", [([], .95), ([1, 2], 0), ([1, 2], 95)])
def test_interval_refuses(values, confidence):
    with pytest.raises(ValueError, match="give"): t_interval(values, confidence)


def test_heuristics():
    task = Task(
        "t", ["Repeat."], [Example("a", "b")], [],
        [Instance("1", "x y", ["x y"]), Instance("2", "z", ["b", "q"])], ["Copy"],
    )
    assert [r["prediction"] for r in copy_input(task)] == ["x y", "z"]
    assert (
        score(copy_input(task))["overall"]["exact_match"]
        == score(copy_example(task))["overall"]["exact_match"]
        == 50
    )
    with pytest.raises(ValueError, match="no positive example"): copy_example(Task("t", ["Do."]))


@pytest.mark.skipif(
    not REAL.is_dir(), reason=f"needs the real tasks in {REAL.name} beside the repository"
)
def test_the_numbers_of_the_text():
    tasks = load_tasks(REAL, split="test", n_instances=100)
    found = score([r for t in tasks for r in copy_input(t)])["per_category"]["Question Rewriting"]
    assert found["n"] == 600
    assert (round(found["exact_match"], 1), round(found["rougeL"], 1)) == (.2, 63.1)


# ROUGE in detail

letters = st.text(alphabet="abc", max_size=12)

@pytest.mark.parametrize(
    "a, b, any_order, same_order",
    [
        ("abcd", "acbd", 4, 3), ("abc", "cba", 3, 1), ("", "a", 0, 0), ("a", "", 0, 0),
        ("aaa", "aa", 2, 2), ("abab", "baba", 4, 3), ("aab", "bcc", 1, 1),
        ("x" * 200, "y" + "x" * 150, 150, 150), ("ab" * 100, "b" * 80 + "a" * 80, 160, 100),
    ],
)
def test_shared_tokens(a, b, any_order, same_order):
    assert shared_tokens(a, b) == (any_order, same_order)


@given(letters, letters)
def test_common_subsequence_is_that_of_the_table(a, b):
    table = np.zeros((len(a) + 1, len(b) + 1), int)
    for (i, x), (j, y) in product(enumerate(a), enumerate(b)):
        table[i + 1, j + 1] = table[i, j] + 1 if x == y else max(table[i, j + 1], table[i + 1, j])
    assert shared_tokens(a, b) == (sum(min(a.count(c), b.count(c)) for c in set(a)), table[-1, -1])


@pytest.mark.parametrize(
    "text, tokens",
    [
        ("The cats' mats", ("the", "cat", "mat")),
        ("was is has", ("was", "is", "has")),  # three letters are left alone
        ("generalizations", ("gener",)), ("naïve Straße", ("na", "ve", "stra", "e")),
        ("3.5 A-B_c", ("3", "5", "a", "b", "c")), ("\u212aelvin", ("kelvin",)), ("", ()),
        (" ?! ", ()),
    ],
)  # the Kelvin sign is k in lower case
def test_tokens(text, tokens): assert rouge_tokens(text) == tokens


ENDINGS = (
    "s sses ies ss eed ed ied ing at bl iz y ational tional enci anci izer bli abli alli entli eli ousli ization ation ator alism iveness fulness "
    "ousness aliti iviti biliti fulli logi icate ative alize iciti ical ful ness al ance ence er ic able ible ant ement ment ent ion ou ism ate iti "
    "ous ive ize e ll"
).split()
parts = st.sampled_from(ENDINGS + "a b e l s t y z sk d ng th tr fall hopp x1 9 ough".split())

@settings(max_examples=600, deadline=None)
@given(st.lists(parts, max_size=5).map("".join))
def test_stems_are_those_of_the_package(word):
    assert [porter_stem(word)] == RougeScorer(["rouge1"], use_stemmer=True)._tokenizer.tokenize(
        word
    ) or word == ""


@pytest.mark.parametrize(
    "word, stem",
    [
        ("cats", "cat"), ("ties", "tie"), ("ponies", "poni"), ("agreed", "agre"),
        ("hopping", "hop"), ("falling", "fall"), ("filing", "file"), ("happy", "happi"),
        ("enjoy", "enjoy"), ("relational", "relat"), ("formaliti", "formal"),
        ("hopefulness", "hope"), ("adjustment", "adjust"), ("adoption", "adopt"),
        ("controll", "control"), ("dying", "die"), ("news", "news"), ("skies", "sky"),
        ("its", "its"), ("2007s", "2007"),
    ],
)
def test_stem(word, stem): assert porter_stem(word) == stem


@settings(max_examples=150, deadline=None)
@given(
    st.text(alphabet=st.sampled_from("abceilnostyzSI -.éİ\u212a\n1"), max_size=60),
    st.text(alphabet="aeilnostyd ", max_size=60),
)
def test_any_word_is_stemmed_as_the_package_does(a, b):
    fresh = RougeScorer(["rouge1", "rougeL"], use_stemmer=True)
    assert list(rouge_tokens(a)) == fresh._tokenizer.tokenize(a)
    scores = fresh.score(a, b)
    assert rouge_pair(b, a) == (scores["rouge1"].fmeasure, scores["rougeL"].fmeasure)


@pytest.fixture(scope="module")
def byte_tokenizer(tmp_path_factory):
    "A byte-level BPE of GPT-2's kind, through a folder."
    folder = tmp_path_factory.mktemp("bpe")
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(
        ["the cat sat on the mat", "The cats are sitting on mats", "größer"] * 5, vocab_size=330,
        show_progress=False,
    )
    PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer).save_pretrained(folder)
    return gpt2_tokenizer(str(folder))


@settings(max_examples=100, deadline=None)
@given(prediction=texts, reference=texts)
def test_cross_lingual_rouge_is_that_of_the_package(byte_tokenizer, prediction, reference):
    tokenize = lambda text: [token.lstrip("Ġ") for token in byte_tokenizer.tokenize(text)]
    scores = RougeScorer(["rouge1", "rougeL"], tokenizer=SimpleNamespace(tokenize=tokenize)).score(
        reference, prediction
    )
    assert rouge_1(prediction, [reference], byte_tokenizer) == scores["rouge1"].fmeasure
    assert rouge_l(prediction, [reference], byte_tokenizer) == scores["rougeL"].fmeasure


def test_cross_lingual_rules(byte_tokenizer):
    assert rouge_tokens("the cat", byte_tokenizer) == ("the", "cat") and byte_tokenizer.tokenize(
        "the cat"
    ) == ["the", "Ġcat"]
    # a space of its own stays a token, of no letters
    assert rouge_tokens("  the", byte_tokenizer)[0] == ""
    assert rouge_l("Cat", ["cat"], byte_tokenizer) < 1 == rouge_l("Cat", ["cat"])
    assert rouge_l("cats", ["cat"], byte_tokenizer) < 1 == rouge_l("cats", ["cat"])
    rows = [dict(task="t", category="c", prediction="猫が座る。", references=["犬", "猫が座る。"])]
    assert score(rows)["overall"] == dict(exact_match=100, rouge1=0, rougeL=0, n=1)
    assert score(rows, xlingual_tokenizer=byte_tokenizer)["overall"] == dict(
        exact_match=100, rouge1=100, rougeL=100, n=1
    )
    many = " ".join(["cat"] * 3000)
    assert len(rouge_tokens(many, byte_tokenizer)) == 3000  # longer than any model, and still whole


def test_no_tokenizer_from_the_hub(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for place in ("gpt2-that-is-not-here", str(tmp_path)):
        with pytest.raises(OSError, match="give that folder") as e: gpt2_tokenizer(place)
        assert str(e.value).startswith(place)


# Speed and processes

bench = runpy.run_path(str(Path(__file__).parents[1] / "bench" / "metrics.py"), run_name="bench")

def test_ten_times_as_fast_as_one_scorer_per_call():
    rows = bench["label_rows"](2000) + bench["sentence_rows"](1500)
    bench["check"](rows[1900:2100])
    assert bench["ratios"](rows, 2, ["one scorer per call"])["one scorer per call"]["median"] >= 10


def test_processes_change_nothing():
    rows = bench["label_rows"](60) + bench["sentence_rows"](60)
    assert score(rows, processes=2) == score(rows, processes=1) == score(rows)
    assert score(rows[:3], processes=5) == score(rows[:3])
    with pytest.raises(ValueError, match="processes: found 0; give 1 or more"):
        score(rows, processes=0)


def test_processes_only_where_they_pay(monkeypatch):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 4)
    def useful(n):
        return metrics._useful_processes([dict(prediction="x" * n, references=["y"])] * 1000)
    assert useful(1000) == 1  # the same pair a thousand times is one
    assert [useful(n) for n in (110_000_000, 185_000_000, 500_000_000)] == [1, 3, 4]


SCRIPT = """
import multiprocessing
multiprocessing.set_start_method({method!r})
from instop_nb.metrics import score
class Letters:
    def tokenize(self, text): return list(text)
rows = [dict(task="t", category="c", prediction=p, references=["yes", "no"]) for p in ("yes", "yes no", "") * 20]
print(score(rows, processes=2) == score(rows) and score(rows, Letters(), processes=2)["overall"]["n"])
"""

@pytest.mark.parametrize("how, method", [("script", "spawn"), ("standard input", "fork")])
def test_processes_where_main_cannot_be_imported(tmp_path, how, method):
    "No guard in the script, or no script at all; whatever start method the program has set."
    if method not in torch.multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} on this system")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(method=method))
    call = (
        dict(args=[sys.executable, script])
        if how == "script"
        else dict(args=[sys.executable, "-"], input=script.read_text())
    )
    done = subprocess.run(
        **call, capture_output=True, text=True, timeout=1800, cwd=Path(__file__).parents[1]
    )
    assert done.stdout.split() == ["60"], done.stderr


# Reports

def test_six_categories_report_exact_match():
    assert EXACT_MATCH_CATEGORIES == (
        "Textual Entailment", "Cause Effect Classification", "Coreference Resolution",
        "Dialogue Act Recognition", "Answerability Classification", "Word Analogy",
    )
    assert {reported_measure(c) for c in EXACT_MATCH_CATEGORIES} == {"exact_match"}
    assert (
        reported_measure("textual_entailment") == reported_measure("Word  analogy") == "exact_match"
    )
    others = "Overlap Extraction,Keyword Tagging,Question Rewriting,Title Generation,Data to Text,Grammar Error Correction,Summarization"
    assert {reported_measure(c) for c in others.split(",")} == {"rougeL"}


def test_table():
    rows = [
        dict(task="t1", category="Word Analogy", prediction="a cat", references=["cat"]),
        dict(
            task="t2", category="Title Generation", prediction="cats", references=["the cat", "cat"]
        ),
    ]
    assert score_table(score(rows)).splitlines() == [
        "|  | exact match | ROUGE-1 | ROUGE-L | n | reports |",
        "| --- | --- | --- | --- | --- | --- |",
        "| Title Generation | 0.0 | 100.0 | 100.0 | 1 | ROUGE-L |",
        "| Word Analogy | 0.0 | 66.7 | 66.7 | 1 | exact match |",
        "| **mean over tasks** | 0.0 | 83.3 | 83.3 | 2 |  |",
        "| **overall (by instance)** | 0.0 | 83.3 | 83.3 | 2 |  |",
    ]
    by_task = score_table(score(rows), by="per_task").splitlines()
    assert (
        by_task[0] == "|  | exact match | ROUGE-1 | ROUGE-L | n |"
        and by_task[2] == "| t1 | 0.0 | 66.7 | 66.7 | 1 |"
    )
    with pytest.raises(ValueError, match="choose"): score_table(score(rows), by="task")


# Rank classification

@pytest.fixture(scope="module")
def tiny():
    "A T5 with random weights, and the micro T5's tokenizer."
    _, tokenizer = load_model("micro", device="cpu")
    return new_t5(
        micro_config(len(tokenizer), d_model=16, d_ff=32, d_kv=8, num_heads=2), seed=3
    ), tokenizer


SOURCES = ["axe", "Which of them is a fish, cod or hat?", "", "fox fig hat bee " * 6, "12 %"]
OPTIONS = [
    ["yes", "no", "yes, it may well be so"], ["cod"], ["", "a", "a a a a a a a"], ["fox", "fig"],
    ["12", "%", "twelve per cent", "Größe"],
]


def one_by_one(model, tokenizer, source, option):
    labels = tokenizer(text_target=option, return_tensors="pt")["input_ids"]
    with torch.no_grad(): loss = model(**tokenizer(source, return_tensors="pt"), labels=labels).loss
    return -loss.item(), labels.shape[1]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 64])
@pytest.mark.parametrize("by", ["sum", "mean"])
def test_ranks_are_those_of_the_loss(tiny, by, batch_size):
    choices, scores = rank_classify(*tiny, SOURCES, OPTIONS, by, batch_size)
    assert [len(s) for s in scores] == [3, 1, 3, 2, 4] and choices == [
        int(np.argmax(s)) for s in scores
    ]
    for source, options, found in zip(SOURCES, OPTIONS, scores):
        for option, value in zip(options, found):
            mean, n = one_by_one(tiny[0].eval(), tiny[1], source, option)
            assert value == pytest.approx(mean * n if by == "sum" else mean, rel=1e-5)


def test_the_end_counts_and_length_is_not_normalised(tiny):
    model, tokenizer = tiny
    ends = tokenizer(text_target="a").input_ids
    assert ends[-1] == tokenizer.eos_token_id
    with torch.no_grad():
        logits = model.eval()(
            **tokenizer("axe", return_tensors="pt"), labels=torch.tensor([ends])
        ).logits[0]
    by_hand = torch.log_softmax(logits, -1)[range(len(ends)), ends].sum().item()
    assert rank_classify(model, tokenizer, ["axe"], [["a"]])[1][0][0] == pytest.approx(
        by_hand, rel=1e-5
    )


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_of_equals_the_first(tiny, batch_size):
    assert rank_classify(
        *tiny, ["axe", "bee"], [["hat"] * 3, ["fox", "fox"]], batch_size=batch_size
    )[0] == [0, 0]
    [choice], [scores] = rank_classify(
        *tiny, ["bee"], [["fox", "fig", "cod"] * 5], batch_size=batch_size
    )
    assert choice < 3 and scores == scores[:3] * 5


def test_each_source_is_encoded_once_without_gradient(tiny, monkeypatch):
    model, tokenizer = tiny
    seen, encoder = [], model.get_encoder()
    forward = encoder.forward
    def counting(*args, input_ids=None, **kwargs):
        assert not model.training and not torch.is_grad_enabled()
        seen.append(len(input_ids))
        return forward(*args, input_ids=input_ids, **kwargs)
    monkeypatch.setattr(encoder, "forward", counting)
    for mode in (True, False):
        model.train(mode); seen.clear()
        rank_classify(model, tokenizer, SOURCES, OPTIONS, batch_size=2)
        assert seen == [2, 2, 1] and model.training == mode
    with pytest.raises(ValueError): rank_classify(model.train(), tokenizer, SOURCES, OPTIONS[:4])
    assert model.training
    monkeypatch.setattr(encoder, "forward", None)
    with pytest.raises(TypeError): rank_classify(model, tokenizer, SOURCES, OPTIONS)
    assert model.training


def test_dropout_is_off(tiny):
    model = new_t5(
        micro_config(len(tiny[1]), d_model=16, d_ff=32, d_kv=8, num_heads=2, dropout_rate=0.5),
        seed=3,
    ).train()
    assert rank_classify(model, tiny[1], SOURCES, OPTIONS) == rank_classify(
        model, tiny[1], SOURCES, OPTIONS
    )


def test_source_without_end_as_t0_has_it(tiny):
    model, tokenizer = tiny
    ids = tokenizer("axe bee", return_tensors="pt", add_special_tokens=False).input_ids
    with torch.no_grad():
        loss = model.eval()(
            input_ids=ids, labels=torch.tensor([tokenizer("hat").input_ids])
        ).loss.item()
    found = rank_classify(model, tokenizer, ["axe bee"], [["hat"]], "mean", source_end=False)[1][0][
        0
    ]
    assert (
        found
        == pytest.approx(-loss, rel=1e-5)
        != rank_classify(model, tokenizer, ["axe bee"], [["hat"]], "mean")[1][0][0]
    )


def test_long_sources_and_options_are_cut(tiny):
    long = rank_classify(*tiny, ["axe " * 50], [["bee " * 50]], max_source=4, max_target=3)
    assert long == rank_classify(*tiny, ["axe axe axe"], [["bee bee"]])


@pytest.mark.parametrize(
    "options, by, words",
    [
        ([["a"], []], "sum", "options[1]: found []; give a list"),
        (["yes", ["a"]], "sum", "options[0]: found 'yes'"),
        ([["a"]], "sum", "found 1; give one list of options for each of the 2 sources"),
        ([["a"], ["b"]], "product", "choose 'sum'"),
    ],
)
def test_rank_refuses(tiny, options, by, words):
    with pytest.raises(ValueError) as e: rank_classify(*tiny, ["x", "y"], options, by)
    assert words in str(e.value)
    with pytest.raises(ValueError, match=r"sources\[1\]: found ''; give a source with a token"):
        rank_classify(*tiny, ["x", ""], [["a"], ["b"]], source_end=False)


def test_nothing_to_rank(tiny): assert rank_classify(*tiny, [], []) == ([], [])


# Over prompts, seeds and runs

@pytest.mark.parametrize(
    "values, expected",
    [
        ([7], (7, 7, 7)), ([1, 3], (2, 1.5, 2.5)), ([5, 1, 4, 2, 3], (3, 2, 4)),
        ((1, 2, 3, 4), (2.5, 1.75, 3.25)),
    ],
)
def test_median_and_quartiles(values, expected): assert median_iqr(values) == expected


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=20))
def test_quartiles_are_in_order(values):
    middle, low, high = median_iqr(values)
    assert min(values) <= low <= middle <= high <= max(values)


def test_paired_interval():
    assert paired_t_interval([60, 70, 65], [61, 71, 66]) == (1, 0)
    assert paired_t_interval([60, 70], [63, 71]) == pytest.approx((2, 12.7062), rel=1e-4)
    with pytest.raises(ValueError, match="give one score for each of the 2 seeds"):
        paired_t_interval([1, 2], [1])


def answers(right, n=10):
    return [
        dict(task=f"t{t}", category="c", prediction="yes" if i < k else "no", references=["yes"])
        for t, k in enumerate(right)
        for i in range(n)
    ]


def test_bootstrap_counts_what_can_be_counted():
    "Two tasks, gains 20 and -10: draws are -10, 5 (twice), 20; so p = 2 * 1/4."
    found = paired_bootstrap(answers([3, 5]), answers([5, 4]), "exact_match", n=20_000)
    assert (
        found.difference == pytest.approx(5)
        and found[1:3] == pytest.approx((-10, 20))
        and found.p == pytest.approx(0.5, abs=0.02)
    )


def test_bootstrap_by_instance_and_by_task_differ():
    "One large task and one small: by instance the mean is over rows, by task over tasks."
    def rows(large, small):
        return answers([large], 9) + [dict(r, task="u") for r in answers([small], 1)]
    a, b = rows(0, 1), rows(9, 0)
    assert paired_bootstrap(a, b, "rougeL", "instance", n=50).difference == pytest.approx(80)
    assert paired_bootstrap(a, b, "rougeL", "task", n=50).difference == pytest.approx(0)


def test_bootstrap_is_seeded_and_antisymmetric():
    a, b = answers([3, 5, 6, 2]), answers([5, 4, 9, 9])
    one, same, other = (paired_bootstrap(a, b, "exact_match", seed=s, n=500) for s in (1, 1, 2))
    assert one == same != other and isinstance(one, Difference)
    back = paired_bootstrap(b, a, "exact_match", seed=1, n=500)
    assert (back.difference, back.p) == (-one.difference, one.p) and (
        back.low, back.high,
    ) == pytest.approx((-one.high, -one.low))
    assert paired_bootstrap(a, a) == Difference(0, 0, 0, 1)
    wide = paired_bootstrap(a, b, "exact_match", seed=1, n=500, confidence=.5)
    assert one.low < wide.low < wide.high < one.high


def test_bootstrap_holds_its_level():
    "Under no difference an interval of 80 % leaves out the truth about one time in five."
    rng = np.random.default_rng(0)
    outside = 0
    for _ in range(150):
        a, b = (answers(rng.integers(3, 8, 30)) for _ in range(2))
        outside += (
            not (d := paired_bootstrap(a, b, "exact_match", n=200, confidence=0.8)).low
            <= 0
            <= d.high
        )
    assert .1 < outside / 150 < .32


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(b=answers([3])[::-1] + answers([4])), "give the same instances"),
        (dict(b=[]), "the same instances"),
        (
            dict(b=[dict(r, references=["no"]) for r in answers([3, 3])]),
            "b[0]: found ('t0', ['no']); give the same instances in the same order",
        ),
        (dict(a=[dict(task="t0")] * 20), "a[0]: field 'category' is missing"),
        (dict(confidence=95), "confidence: 95; give a number between 0 and 1"),
        (dict(measure="bleu"), "measure: found 'bleu'; choose from"),
        (dict(by="category"), "by: found 'category'; choose from"),
    ],
)
def test_bootstrap_refuses(change, words):
    with pytest.raises(ValueError) as e:
        paired_bootstrap(**{**dict(a=answers([3, 4]), b=answers([2, 4])), **change})
    assert words in str(e.value)


def test_scores_of_a_row():
    row = dict(
        task="t", category="c", prediction="The cats", references=["a dog", "cat the", "the cat!"]
    )
    assert score_row(row) == dict(exact_match=0, rouge1=100, rougeL=100)
    assert score_row({**row, "prediction": "cats the"}) == dict(
        exact_match=0, rouge1=100, rougeL=100
    )
    assert score_row({**row, "references": ["the big cat"]}) == pytest.approx(
        dict(exact_match=0, rouge1=80, rougeL=80)
    )
    for wrong in ("cat", []):
        with pytest.raises(ValueError, match="give a list"): score_row({**row, "references": wrong})
