"""Puts the two small models into the package: `python tools/ship.py READ TUNED`.

READ is the folder that `instop pretrain` wrote, TUNED that of `instop tune --model READ`. Each
model goes into instop_nb/checkpoints/ with its recipe, its record and a card: how it was made,
what it scores in each tier, and where it fails. The scores are measured here.
"""
import json
import shutil
import sys
from collections import defaultdict
from pathlib import Path

import torch

from instop_nb.microworld import TIERS
from instop_nb.models import load_model
from instop_nb.reading import skill, skill_questions
from instop_nb.world_study import QUESTIONS, tier_result

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / "instop_nb" / "checkpoints"
WEIGHTS = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
           "tokenizer_config.json")
MADE = {
    "micro": "instop pretrain --out runs/read",
    "micro-tuned": "instop tune --model runs/read --out runs/tuned",
}
STORY = {
    "micro": "It has read the books of the small world (chapters 12b and 22c), and obeys nobody: "
             "asked in the layout of a task, it goes on with another story.",
    "micro-tuned": "`micro`, tuned for a minute on the 689 training tasks of the small world with "
                   "their definitions (chapter 26). `instop ask` uses it.",
}
FAILS = {
    "micro": "It answers nothing that it is asked, with or without examples: that is what tuning "
             "is for. It knows the words of its world and spells any other letter by letter.",
    "micro-tuned": "It knows the words of its world and spells any other letter by letter; `size` "
                   "is told nowhere. Two steps in one question mostly fail, in two turns they "
                   "mostly succeed.",
}
ONCE = TIERS[:4]  # Of one step


def by_action(categories):
    "Return the lines of a table: the mean exact match of an action's categories in each tier."
    percent = defaultdict(lambda: defaultdict(list))
    for tier in ONCE:
        for name, value in categories[tier].items():
            percent[name.split(": ")[0]][tier].append(value)
    def cell(values): return f"{sum(values) / len(values):.0f}" if values else "–"
    return [f"| {action} | {' | '.join(cell(found[tier]) for tier in ONCE)} |"
            for action, found in sorted(percent.items())]


def card(name, scores, known, steps):
    "Return the text of a model's card."
    lines = [
        f"# {name}", "", STORY[name], "",
        "A T5 v1.1 of 2 + 2 layers, d_model 64, 8 heads, d_ff 256; a word is a token.", "",
        f"Made by `{MADE[name]}` ({steps}); all settings are in `recipe.json`, the course of the "
        "training in `record.json`. This package's own text, no other data.", "",
        "## Scores", "",
        "Exact match in percent on held-out inputs, 1,000 questions or more of each tier, "
        "greedy answers (`python tools/ship.py` measures them; chapter 31e has "
        "their spread over seeds).", "",
        "| tier | exact match |", "|---|--:|",
        *(f"| {tier} | {value:.1f} |" for tier, value in scores.items() if tier != "categories"),
        "", f"Of told operations in the books' own frames it completes {known['knows']:.0f} % and "
        f"stops after the result in {known['obeys']:.0f} % (400 questions).", "",
        "## Where it fails", "", FAILS[name], "",
    ]
    if name == "micro-tuned": lines += [
        "By action and tier, on tasks that tuning never asked, the mean over its categories (some "
        "of a few questions each, all of them in `record.json`):", "",
        f"| action | {' | '.join(ONCE)} |", "|---" + "|--:" * len(ONCE) + "|",
        *by_action(scores["categories"]), "",
    ]
    return "\n".join(lines)


def ship(name, folder, recipe, record, steps):
    "Copy one model, ask it, and write what goes with it."
    place = HOME / name
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    for file in WEIGHTS: shutil.copyfile(Path(folder) / file, place / file)
    model, tokenizer = load_model(str(place), "cpu")
    scores = tier_result(model, tokenizer, QUESTIONS)
    known = skill(model, tokenizer, skill_questions())
    texts = {"recipe.json": recipe, "record.json": {**record, "known": known, "scores": scores}}
    for file, value in texts.items():
        (place / file).write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    (place / "README.md").write_text(card(name, scores, known, steps), encoding="utf-8")
    print(name, known, {k: v for k, v in scores.items() if k != "categories"})


def main(read, tuned):
    "Ship both."
    torch.set_num_threads(1)
    read, tuned = Path(read), Path(tuned)
    recipe, record = (json.loads((read / f"{n}.json").read_text()) for n in ("recipe", "record"))
    steps = f"{recipe['skill_steps']:,} and {recipe['loose_steps']:,} steps of 64 texts"
    ship("micro", read, recipe, record, steps)
    config = json.loads((tuned / "config.json").read_text())
    rows = [json.loads(line) for line in (tuned / "metrics.jsonl").read_text().splitlines()]
    steps = f"{config['steps']} steps of {config['batch_size']} rows"
    config = {**config, "model": "micro", "out": None}
    ship("micro-tuned", tuned / "model", config, {"curve": rows}, steps)


if __name__ == "__main__": main(*sys.argv[1:])
