"""What chapter 8 promises: the scores of rouge-score and of Super-NI's and T0's evaluation, each
pair once and fast, clear errors."""
import cProfile
import json
import pstats
import runpy
import subprocess
import sys
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import joblib
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from rouge_score.rouge_scorer import RougeScorer
from tokenizers import ByteLevelBPETokenizer
from transformers import PreTrainedTokenizerFast

from instop_nb import metrics
from instop_nb.metrics import (
    EXACT_MATCH_CATEGORIES, exact_match, gpt2_tokenizer, normalise_answer, porter_stem,
    reported_measure, rouge_1, rouge_l, rouge_pair, rouge_tokens, score, score_row, score_table,
    script_warnings, shared_tokens, unicode_form,
)
from instop_nb.predictions import copy_input
from instop_nb.tasks import load_tasks

REAL = Path(__file__).parents[1] / "../shared/natural-instructions"
words = st.sampled_from(
    "the a cat cats sat sitting sits on mat, mats. quickly 12 Größe ! generalization "
    "generalizes".split()
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


# Letters and forms

def said(prediction, *references):
    return dict(task="t", category="c", prediction=prediction, references=list(references))


@pytest.mark.parametrize(
    "rows, references, predictions",
    [
        ([said("लाल", "लाल")], "1 of 1", "1 of 1"),
        ([said("red", "красный"), said("x", "y")], "1 of 2", "0 of 2"),
        ([said("赤", "red", "rot")], "0 of 2", "1 of 1"),
        ([said("ＲＥＤ", "red")], "0 of 1", "1 of 1"),
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


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(OSError, match="neither a folder with a tokenizer"):
        gpt2_tokenizer(str(tmp_path))


def test_names_are_no_markup_in_a_table():
    evil = "<img src=x>|`a`\n# b \x1b[2J"
    for by in ("per_category", "per_task"):
        table = score_table(score([said("", "x") | dict(task=evil, category=evil)]), by)
        assert (
            "<img" not in table
            and "\x1b" not in table
            and len({line.count("|") for line in table.splitlines()}) == 1
        )


def test_no_rows_have_no_score():
    with pytest.raises(ValueError, match="no predictions"): score([])


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
    "s sses ies ss eed ed ied ing at bl iz y ational tional enci anci izer bli abli alli entli eli "
    "ousli ization ation ator alism iveness fulness ousness aliti iviti biliti fulli logi icate "
    "ative alize iciti ical ful ness al ance ence er ic able ible ant ement ment ent ion ou ism "
    "ate iti ous ive ize e ll"
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

def calls_of(work, rows):
    "The function calls of a piece of work: a measure that no load on the machine moves."
    profile = cProfile.Profile()
    bench["forget"]()
    profile.runcall(work, rows)
    return pstats.Stats(profile).total_calls


def test_a_tenth_of_the_work_of_one_scorer_per_call():
    rows = bench["label_rows"](1200) + bench["sentence_rows"](900)
    bench["check"](rows[1100:1300])
    rival = bench["RIVALS"]["one scorer per call"]
    assert calls_of(rival, rows) > 10 * calls_of(bench["ours"], rows)


def test_each_table_of_the_benchmark_has_the_same_numbers():
    found = bench["table_round"](bench["sentence_rows"](100))
    assert set(found) == set(bench["TABLES"]) and min(found.values()) > 0


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
said = ("yes", "yes no", "") * 20
rows = [dict(task="t", category="c", prediction=p, references=["yes", "no"]) for p in said]
letters = score(rows, Letters(), processes=2)
print(score(rows, processes=2) == score(rows) and letters["overall"]["n"])
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
    others = (
        "Overlap Extraction", "Keyword Tagging", "Question Rewriting", "Title Generation",
        "Data to Text", "Grammar Error Correction", "Summarization",
    )
    assert {reported_measure(c) for c in others} == {"rougeL"}


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
