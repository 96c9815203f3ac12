"""How often does the tuned model obey somebody's own words? `python bench/own_words.py`

own_words.jsonl holds twenty instructions. They were written by one who had not seen the wordings
of the world, with the right answers, before any of them was asked. Ten times as many would tell
more: the interval is that of a share of twenty (Wilson).
"""
import json
from pathlib import Path

from scipy.stats import binomtest

from instop_nb.ask import ask, model_to_ask, unknown_words
from rounds import write_record

HOME = Path(__file__).resolve().parent
RECORD = HOME.parent / "instop_nb" / "records" / "bench-own-words.json"


def main():
    "Ask all, print each, and write the record."
    rows = [json.loads(line) for line in (HOME / "own_words.jsonl").read_text().splitlines()]
    pair = model_to_ask()
    for row in rows:
        row["answer"] = ask(row["instruction"], row["input"], *pair)
        row["unknown"] = [*unknown_words(row["instruction"], pair[1])]
        print("ok " if row["answer"] == row["expected"] else "no ", *row.values(), sep=" | ")
    obeyed = sum(row["answer"] == row["expected"] for row in rows)
    low, high = binomtest(obeyed, len(rows)).proportion_ci(method="wilson")
    print(f"obeyed {obeyed} of {len(rows)}, 95 % interval {100 * low:.0f} to {100 * high:.0f} %")
    record = {"command": "python bench/own_words.py", "model": "micro-tuned", "obeyed": obeyed,
              "asked": len(rows), "low": low, "high": high, "rows": rows}
    write_record(record, RECORD)


if __name__ == "__main__": main()
