"What chapter 8 promises: the scores of rouge-score and of Super-NI's evaluation, each pair once, clear errors."
import json
from pathlib import Path

import pytest
import scipy.stats
from hypothesis import given, settings, strategies as st
from rouge_score.rouge_scorer import RougeScorer

from instop_nb import metrics
from instop_nb.metrics import (copy_example, copy_input, exact_match, normalise_answer, read_predictions, rouge_1, rouge_l,
                               rouge_pair, score, t_interval)
from instop_nb.tasks import Example, Instance, Task, load_tasks

REAL = Path(__file__).parents[1] / "../shared/natural-instructions"
words = st.sampled_from("the a cat cats sat sitting sits on mat, mats. quickly 12 Größe ! generalization generalizes".split())
texts = st.one_of(st.lists(words, max_size=9).map(" ".join), st.text(max_size=20))
row = st.fixed_dictionaries({"task": st.sampled_from("abc"), "category": st.sampled_from("xy"), "prediction": texts,
                             "references": st.lists(texts, min_size=1, max_size=3)})


@settings(max_examples=150, deadline=None)
@given(texts, st.lists(texts, min_size=1, max_size=3))
def test_rouge_is_that_of_the_package(prediction, references):
    for measure, mine in (("rouge1", rouge_1), ("rougeL", rouge_l)):
        fresh = [RougeScorer([measure], use_stemmer=True).score(r, prediction)[measure].fmeasure for r in references]
        assert mine(prediction, references) == max(fresh)


@given(texts)
def test_normal_form_is_stable(text):
    once = normalise_answer(text)
    assert normalise_answer(once) == once
    assert exact_match(f"  {text}. ", [text]) == 1


@pytest.mark.parametrize("prediction, references, expected", [
    ("Yes.", ["no", "yes"], 1), ("the cat", ["cat"], 0), ("", ["."], 1), ("it's", ["its"], 1), ("a  b\n", ["A b"], 1),
    ("3.5", ["35"], 1), ("“yes”", ["yes"], 0)])  # only ASCII punctuation goes
def test_exact_match(prediction, references, expected):
    assert exact_match(prediction, references) == expected


def test_no_tokens_score_zero():
    assert rouge_l("", ["."]) == rouge_1("!", ["!"]) == rouge_l("猫", ["猫"]) == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(row, min_size=1, max_size=12))
def test_averages(rows):
    found = score(rows)
    def mean(part): return 100 * sum(rouge_l(r["prediction"], r["references"]) for r in part) / len(part)
    tasks = {r["task"] for r in rows}
    of = {t: [r for r in rows if r["task"] == t] for t in tasks}
    assert found["overall"]["rougeL"] == pytest.approx(mean(rows)) and found["overall"]["n"] == len(rows)
    assert set(found["per_task"]) == tasks and found["mean_over_tasks"]["n"] == len(tasks)
    for t in tasks: assert found["per_task"][t]["rougeL"] == pytest.approx(mean(of[t]))
    assert found["mean_over_tasks"]["rougeL"] == pytest.approx(sum(mean(of[t]) for t in tasks) / len(tasks))
    for c, s in found["per_category"].items(): assert s["rougeL"] == pytest.approx(mean([r for r in rows if r["category"] == c]))
    json.dumps(found)


def test_each_pair_is_scored_once(monkeypatch):
    calls = []
    class Counting:
        def score(self, *pair): calls.append(pair); return real.score(*pair)
    real = metrics._scorer
    monkeypatch.setattr(metrics, "_scorer", Counting())
    rouge_pair.cache_clear()
    score([dict(task="t", category="c", prediction=p, references=["yes", "no"]) for p in ("yes", "no", "maybe") * 1000])
    assert len(calls) == len(set(calls)) == 6


good = dict(task="t", category="c", prediction="", references=["x"])
@pytest.mark.parametrize("line, words", [
    ("{", "not JSON"), ("[1]", "is not an object"), (json.dumps({**good, "references": "x"}), "field 'references' is 'x'"),
    (json.dumps({**good, "references": [1]}), "field 'references' is [1]"),
    (json.dumps({**good, "prediction": 3}), "field 'prediction' is 3"),
    (json.dumps({k: v for k, v in good.items() if k != "task"}), "field 'task' is missing"),
    (json.dumps({k: v for k, v in good.items() if k != "references"}), "field 'references' is missing")])
def test_bad_line(tmp_path, line, words):
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps(good) + "\n\n" + line + "\n")
    with pytest.raises(ValueError) as e: read_predictions(path)
    assert str(path) in str(e.value) and "line 3" in str(e.value) and words in str(e.value) and "write" in str(e.value)


def test_good_file(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text("\n".join(json.dumps({**good, "prediction": p, "id": 1}) for p in ("x\u2028y", "ä")) + "\n\n", encoding="utf-8")
    assert [r["prediction"] for r in read_predictions(path)] == ["x\u2028y", "ä"]
    path.write_text("\n")
    with pytest.raises(ValueError, match="no predictions"): read_predictions(path)
    with pytest.raises(FileNotFoundError, match="no such file"): read_predictions(tmp_path / "q.jsonl")
    with pytest.raises(ValueError, match="no predictions"): score([])


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=20), st.floats(.5, .99))
def test_interval_is_scipys(values, confidence):
    mean, half = t_interval(values, confidence)
    if half < 1e-9: return
    low, high = scipy.stats.t.interval(confidence, len(values) - 1, loc=mean, scale=scipy.stats.sem(values))
    assert (mean - half, mean + half) == pytest.approx((low, high), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("values, confidence", [([], .95), ([1, 2], 0), ([1, 2], 95)])
def test_interval_refuses(values, confidence):
    with pytest.raises(ValueError, match="give"): t_interval(values, confidence)


def test_heuristics():
    task = Task("t", ["Repeat."], [Example("a", "b")], [], [Instance("1", "x y", ["x y"]), Instance("2", "z", ["b", "q"])], ["Copy"])
    assert [r["prediction"] for r in copy_input(task)] == ["x y", "z"]
    assert score(copy_input(task))["overall"]["exact_match"] == score(copy_example(task))["overall"]["exact_match"] == 50
    with pytest.raises(ValueError, match="no positive example"): copy_example(Task("t", ["Do."]))


@pytest.mark.skipif(not REAL.is_dir(), reason=f"needs the real tasks in {REAL.name} beside the repository")
def test_the_numbers_of_the_text():
    tasks = load_tasks(REAL, split="test", n_instances=100)
    found = score([r for t in tasks for r in copy_input(t)])["per_category"]["Question Rewriting"]
    assert found["n"] == 600
    assert (round(found["exact_match"], 1), round(found["rougeL"], 1)) == (.2, 63.1)
