"""How fast `score` is beside rouge-score with one scorer per call: `python bench/metrics.py
[--rounds 5] [--pairs 150000]`.

Three sets of predictions, made up and seeded: labels that come again and again, sentences that do
not, and half of each in
the size of Super-NI's English test set (119 tasks of 100). CPU times of interleaved rounds, all
memories emptied before each; a round divides the
time of each rival by ours, and the table shows medians and quartiles of these ratios. Ours does
more than the rivals: it
also checks the rows, computes exact match and averages. All make the same numbers, which is checked
first.
Processes are compared by wall time on large sets of sentences, with workers to start (cold) and
with workers that are there
(warm; they get other sentences, for they remember). This needs idle CPUs: the record holds the load
before it began.
"""
import argparse
import importlib.metadata
import os
import platform
import random
import statistics
import time
from pathlib import Path

from rouge_score.rouge_scorer import RougeScorer

from instop_nb import metrics
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


def show(record):
    def text(x): return f"{x['median']:.1f} [{x['low']:.1f}, {x['high']:.1f}]"
    print(
        f"{'CPU time of the rival / ours':30}" + "".join(f"{name:>22}" for name in record["sets"])
    )
    for rival in RIVALS:
        print(
            f"{rival:30}"
            + "".join(f"{text(found[rival]):>22}" for found in record["sets"].values())
        )
    print(f"{'rows':30}" + "".join(f"{found['rows']:>22,}" for found in record["sets"].values()))
    print(
        f"{'ours, rows per CPU second':30}"
        + "".join(
            f"{found['rows'] / found['seconds']['median']:>22,.0f}"
            for found in record["sets"].values()
        )
    )
    large = record["processes"]
    print(
        f"\n{large['pairs']:,} pairs, {large['characters'] / 1e6:.0f} million characters, one process: {text(large['seconds'])} s; chosen: {large['chosen']} processes; load before: {large['load']:.1f}"
    )
    for name, gain in large["gain"].items():
        print(f"{name + ' workers':30}{text(gain):>22} times as fast")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--pairs", type=int, default=150_000, help="in the set for several processes"
    )
    parser.add_argument("--out", type=Path, default=Path("instop_nb/records/bench-metrics.json"))
    options = parser.parse_args()
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
