"""How fast prompts are rendered, against a fresh Jinja compile for each example: `python
bench/promptsource.py [--rounds 5] [--examples 2000]`.

An example is a row of the small world with one of the course's prompts that have answer choices, in
turn. Times are CPU
times of one thread. In each round every method renders all examples once, and its time is compared
with that of the
fresh compile of the same round; the table shows medians and quartiles. The record goes to
instop_nb/records/bench-promptsource.json.
"""
import argparse
import importlib.metadata
import platform
import random
from itertools import cycle, islice
from pathlib import Path

import jinja2

from instop_nb.flan_rows import micro_rows
from instop_nb.promptsource import TEMPLATES
from rounds import cpu_seconds, spread, write_record

RECORD = (
    Path(__file__).resolve().parent.parent / "instop_nb" / "records" / "bench-promptsource.json"
)
ENVIRONMENT = jinja2.Environment(loader=jinja2.BaseLoader)
ENVIRONMENT.filters["choice"] = random.choice


def fresh(template, row):
    """PromptSource's way: answers and prompt are compiled for every example, with each `}}`
    rewritten to truncate."""
    choices = [
        choice.strip()
        for choice in ENVIRONMENT.from_string(template.answer_choices).render(**row).split("|||")
    ]
    prompt = template.jinja.replace("}}", " | string | truncate(2048) }}")
    return [
        part.strip()
        for part in ENVIRONMENT.from_string(prompt)
        .render(**row, answer_choices=choices)
        .split("|||")
    ]


def faithful(template, row): return template.render(row, faithful=True)
def mended(template, row): return template.render(row)


METHODS = {"fresh compile": fresh, "kept, faithful": faithful, "kept, mended": mended}


def render_all(method, examples):
    for template, row in examples: method(template, row)


def rounded(values): return {name: round(value, 2) for name, value in spread(values).items()}


def measure(rounds, n):
    "Microseconds per example, and how many times as fast as a fresh compile."
    prompts = [template for template in TEMPLATES if template.answer_choices]
    examples = list(islice(zip(cycle(prompts), cycle(micro_rows("nli", 500))), n))
    for method in METHODS.values(): render_all(method, examples[:len(prompts)])
    found = [
        {name: cpu_seconds(render_all, method, examples) for name, method in METHODS.items()}
        for _ in range(rounds)
    ]
    return {
        name: {
            "microseconds": rounded([row[name] / n * 1e6 for row in found]),
            "times as fast": rounded([row["fresh compile"] / row[name] for row in found]),
        }
        for name in METHODS
    }


def show(record):
    "Print the figures as a table."
    print(f"{record['examples']:,} examples a round, {record['rounds']} rounds; median [quartiles]")
    print(f"{'method':16}{'microseconds':>28}{'times as fast':>28}")
    for name, row in record["methods"].items():
        print(
            f"{name:16}"
            + "".join(
                f"{x['median']:.1f} [{x['low']:.1f}, {x['high']:.1f}]".rjust(28)
                for x in row.values()
            )
        )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--examples", type=int, default=2000,
        help="a round; five rounds of 2,000 are the 10,000 of the record",
    )
    parser.add_argument("--out", type=Path, default=RECORD)
    args = parser.parse_args()
    record = {
        "command": "python bench/promptsource.py", "examples": args.examples, "rounds": args.rounds,
        "methods": measure(args.rounds, args.examples),
        "versions": {
            "python": platform.python_version(), "jinja2": importlib.metadata.version("jinja2"),
        },
        "machine": f"{platform.system()} {platform.machine()}, one thread",
    }
    write_record(record, args.out)
    show(record)


if __name__ == "__main__": main()
