"""How fast `score` is beside rouge-score with one scorer per call: `python bench/metrics.py
[--rounds 5] [--pairs 150000]`.

Three sets of predictions, made up and seeded: labels that come again and again, sentences that do
not, and half of each in the size of Super-NI's English test set (119 tasks of 100). CPU times of
interleaved rounds, all memories emptied before each; a round divides the time of each rival by
ours, and the table shows medians and quartiles of these ratios. Ours does more than the rivals: it
also checks the rows, computes exact match and averages. All make the same numbers, which is checked
first. Processes are compared by wall time on large sets of sentences, with workers to start (cold)
and with workers that are there (warm; they get other sentences, for they remember). This needs idle
CPUs: the record holds the load before it began.

`python bench/metrics.py --tables [--data FOLDER]` asks only what ROUGE-L's table costs: 160,000
rows, of the tasks in a folder if there is one, are scored with two other ways of `rouge_pair`.
"""
import argparse
import importlib.metadata
import json
import os
import platform
import random
import statistics
import time
from collections import Counter
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

from rouge_score.rouge_scorer import RougeScorer

from instop_nb import metrics
from instop_nb.predictions import copy_example, copy_input, prediction_rows
from instop_nb.tasks import load_tasks
from rounds import cpu_seconds, spread, write_record

LABELS = (
    "yes", "no", "Positive", "Negative", "entailment", "contradiction", "neutral", "True.",
    "False.", "A", "B", "C", "D", "inform", "request", "cause", "effect", "answerable",
    "not answerable", "The first one",
)
SYLLABLES = "ba co di fu ga he jo ka le mi no pu ra se ti vo".split()
ENDINGS = ("", "s", "ed", "ing", "er", "ation", "ly")


def label_rows(n, seed=0):
    """Rows whose answers are labels: four references, three in four predictions one of them,
    some with a word too many."""
    rng = random.Random(f"labels {seed}")
    def row(i):
        known = LABELS[4 * (i // 100 % 5):][:4]
        return {
            "task": f"label {i // 100}", "category": "Textual Entailment",
            "references": [rng.choice(known)],
            "prediction": rng.choice(known)
            if rng.random() < 0.75
            else f"{rng.choice(known)}, I think.",
        }
    return [row(i) for i in range(n)]


def sentence_rows(n, seed=0, words=15):
    """Rows whose answers are sentences of some 15 words, of Zipf's frequencies: one to three
    references, part of them predicted."""
    rng = random.Random(f"sentences {seed}")
    vocabulary = [
        "".join(rng.choices(SYLLABLES, k=rng.randint(1, 3))) + rng.choice(ENDINGS)
        for _ in range(5000)
    ]
    weights = [1 / rank for rank in range(1, 5001)]
    def sentence():
        return rng.choices(vocabulary, weights, k=rng.randint(words // 2, words * 3 // 2))
    def row(i):
        references = [sentence() for _ in range(rng.randint(1, 3))]
        prediction = [w for w in references[0] if rng.random() < .6] + sentence()[:words // 3]
        return {
            "task": f"sentence {i // 100}", "category": "Title Generation",
            "references": [" ".join(r).capitalize() + "." for r in references],
            "prediction": " ".join(prediction),
        }
    return [row(i) for i in range(n)]


SETS = {
    "labels": lambda: label_rows(6000), "sentences": lambda: sentence_rows(3000),
    "both": lambda: label_rows(6000) + sentence_rows(5900),
}


def with_scorer(scorer):
    "ROUGE-1 and ROUGE-L of all rows by rouge-score, the best over the references."
    def run(rows):
        def scores(row):
            return [
                [s["rouge1"].fmeasure, s["rougeL"].fmeasure]
                for s in (scorer().score(r, row["prediction"]) for r in row["references"])
            ]
        return [[100 * max(column) for column in zip(*scores(row))] for row in rows]
    return run


def new_scorer(): return RougeScorer(["rouge1", "rougeL"], use_stemmer=True)


def a_scorer_a_measure(rows):
    "The original evaluation: a new scorer for each measure and reference."
    def best(row, measure):
        return max(
            RougeScorer([measure], use_stemmer=True).score(r, row["prediction"])[measure].fmeasure
            for r in row["references"]
        )
    return [[100 * best(row, measure) for measure in ("rouge1", "rougeL")] for row in rows]


_kept = new_scorer()
RIVALS = {
    "one scorer per call": with_scorer(new_scorer), "one per call and measure": a_scorer_a_measure,
    "one scorer for all": with_scorer(lambda: _kept),
}


def forget():
    "Empty all memories of the module."
    for memory in (
        metrics.normalise_answer, metrics.rouge_pair, metrics.rouge_tokens, metrics.porter_stem,
        metrics._best,
    ):
        memory.cache_clear()


def cold_seconds(f, rows):
    forget()
    return cpu_seconds(f, rows)


def ours(rows): return metrics.score(rows, processes=1)


def check(rows):
    "All rivals give our numbers, to the last bit."
    mine = [[s["rouge1"], s["rougeL"]] for s in map(metrics.score_row, rows)]
    for name, rival in RIVALS.items(): assert rival(rows) == mine, name


def ratio_round(rows, rivals):
    """Each rival's CPU time as a ratio to ours (the mean of one before and one after), and ours
    in seconds."""
    times, mine = {}, [cold_seconds(ours, rows)]
    for name in rivals:
        times[name] = cold_seconds(RIVALS[name], rows)
        mine.append(cold_seconds(ours, rows))
    return {name: 2 * t / (a + b) for (name, t), a, b in zip(times.items(), mine, mine[1:])} | {
        "seconds": statistics.mean(mine)
    }


def ratios(rows, rounds, rivals=tuple(RIVALS)):
    "Medians and quartiles over rounds; the first round only warms up."
    found = [ratio_round(rows, rivals) for _ in range(rounds + 1)][1:]
    return {name: spread([row[name] for row in found]) for name in found[0]}


def task_rows(folder, n=160_000, seed=0):
    "Rows of real tasks: answered with another instance's output, copied, or right but for words."
    rng = random.Random(f"tasks {seed}")
    tasks = [task for task in load_tasks(folder) if task.instances and task.positive]
    def another(task): return [rng.choice(task.instances).output[0] for _ in task.instances]
    def thinned(task):
        return [
            " ".join(word for word in i.output[0].split() if rng.random() < .7)
            for i in task.instances
        ]
    kinds = (
        lambda task: prediction_rows(task, another(task)), copy_input, copy_example,
        lambda task: prediction_rows(task, thinned(task)),
    )
    return list(islice(chain.from_iterable(kind(t) for kind in kinds for t in tasks), n))


def longest_in_order(a, b):
    "The last entry of the table of the chapter, one row after another."
    row = [0] * (len(b) + 1)
    for x in a:
        left = above_left = 0
        for j, y in enumerate(b, 1):
            above = row[j]
            left = above_left + 1 if x == y else max(left, above)
            row[j], above_left = left, above
    return row[-1]


@lru_cache(maxsize=200_000)
def table_pair(prediction, reference, tokenizer=None):
    "`rouge_pair` with a table; words, texts and pairs are remembered as by ours."
    gold, pred = metrics.rouge_tokens(reference), metrics.rouge_tokens(prediction)
    if set(gold).isdisjoint(pred): return 0.0, 0.0
    shared = (Counter(gold) & Counter(pred)).total(), longest_in_order(gold, pred)
    return tuple(metrics.fmeasure(n / len(pred), n / len(gold)) for n in shared)


@lru_cache(maxsize=200_000)
def scorer_pair(prediction, reference, tokenizer=None):
    "`rouge_pair` with rouge-score's table: one scorer, whose words and texts are remembered."
    scores = _cached.score(reference, prediction)
    return scores["rouge1"].fmeasure, scores["rougeL"].fmeasure


_tokens = SimpleNamespace(tokenize=lambda text: list(metrics.rouge_tokens(text)))
_cached = RougeScorer(["rouge1", "rougeL"], tokenizer=_tokens)
TABLES = {"a plain table": table_pair, "one scorer, cached stems": scorer_pair}


def table_round(rows):
    "The CPU time of `score` with each table, as a ratio to ours before and after."
    times, mine = {}, [cold_seconds(ours, rows)]
    for name, pair in TABLES.items():
        pair.cache_clear()
        with patch.object(metrics, "rouge_pair", pair):
            metrics._best.cache_clear()
            times[name] = cpu_seconds(ours, rows)
        mine.append(cold_seconds(ours, rows))
    return {name: 2 * t / (a + b) for (name, t), a, b in zip(times.items(), mine, mine[1:])}


def tables(folder, rounds):
    "What ROUGE-L's table costs, on real rows if there is a folder of tasks."
    rows = task_rows(folder) if folder else sentence_rows(20_000)
    for pair in TABLES.values():
        for row in rows[::100]:
            texts = row["prediction"], row["references"][0]
            assert pair(*texts) == metrics.rouge_pair(*texts)
    found = [table_round(rows) for _ in range(rounds)]
    spreads = {name: spread([row[name] for row in found]) for name in TABLES}
    return {"rows": len(rows), "real": bool(folder), "rounds": rounds, "ratio": spreads}


def wall_seconds(rows, processes):
    forget()
    start = time.perf_counter(); metrics.score(rows, processes=processes)
    return time.perf_counter() - start


def stop_workers():
    from joblib.externals.loky import get_reusable_executor
    get_reusable_executor().shutdown(wait=True)


def process_round(first, second, counts):
    """Wall seconds of one process, and of several with workers to start (cold) and with workers
    that are there (warm)."""
    row = {"1": wall_seconds(first, 1)}
    for n in counts:
        stop_workers()
        row |= {f"{n}, cold": wall_seconds(first, n), f"{n}, warm": wall_seconds(second, n)}
    stop_workers()
    return row


def processes(n_pairs, rounds):
    """The gain of several processes on a large set of sentences: wall time of one process
    divided by theirs."""
    load = os.getloadavg()[0]
    first, second = (
        [r | {"references": r["references"][:1]} for r in sentence_rows(n_pairs, seed, words=60)]
        for seed in (0, 1)
    )
    found = [process_round(first, second, sorted({2, os.cpu_count()})) for _ in range(rounds)]
    characters = sum(len(r["prediction"]) + len(r["references"][0]) for r in first)
    return {
        "pairs": n_pairs, "characters": characters, "load": load,
        "chosen": metrics._useful_processes(first), "seconds": spread([f["1"] for f in found]),
        "gain": {
            name: spread([f["1"] / f[name] for f in found]) for name in found[0] if name != "1"
        },
    }


def text(x): return f"{x['median']:.1f} [{x['low']:.1f}, {x['high']:.1f}]"


def line(head, cells): print(f"{head:30}" + "".join(f"{cell:>22}" for cell in cells))


def show(record):
    sets = record["sets"]
    line("CPU time of the rival / ours", sets)
    for rival in RIVALS: line(rival, [text(found[rival]) for found in sets.values()])
    line("rows", [f"{found['rows']:,}" for found in sets.values()])
    line("ours, rows per CPU second", [
        f"{found['rows'] / found['seconds']['median']:,.0f}" for found in sets.values()
    ])
    large = record["processes"]
    print(
        f"\n{large['pairs']:,} pairs, {large['characters'] / 1e6:.0f} million characters, "
        f"one process: {text(large['seconds'])} s; chosen: {large['chosen']} processes; "
        f"load before: {large['load']:.1f}"
    )
    for name, gain in large["gain"].items():
        print(f"{name + ' workers':30}{text(gain):>22} times as fast")


def show_tables(found):
    kind = "real" if found["real"] else "made up"
    print(f"CPU time of `score` beside ours, {found['rows']:,} rows ({kind})")
    for name, ratio in found["ratio"].items(): line(name, [text(ratio)])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--pairs", type=int, default=150_000, help="in the set for several processes"
    )
    parser.add_argument("--out", type=Path, default=Path("instop_nb/records/bench-metrics.json"))
    parser.add_argument("--tables", action="store_true", help="ask only what the table costs")
    parser.add_argument("--data", type=Path, help="a folder of tasks, for --tables")
    options = parser.parse_args()
    if options.tables:
        found = tables(options.data, options.rounds)
        old = json.loads(options.out.read_text()) if options.out.exists() else {}
        write_record(old | {"tables": found}, options.out)
        return show_tables(found)
    versions = {p: importlib.metadata.version(p) for p in ("rouge-score", "nltk", "joblib")}
    record = {
        "command": "python bench/metrics.py", "rounds": options.rounds, "versions": versions,
        "python": platform.python_version(), "cpus": os.cpu_count(),
        "processes": processes(options.pairs, max(1, options.rounds // 2)), "sets": {},
    }
    for name, make in SETS.items():
        rows = make()
        check(rows[::10])
        record["sets"][name] = {"rows": len(rows)} | ratios(rows, options.rounds)
    write_record(record, options.out)
    show(record)


if __name__ == "__main__": main()
