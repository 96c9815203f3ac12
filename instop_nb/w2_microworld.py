"""Who is asked for what: tiers of novelty, tasks, inputs."""
import random, zlib
from collections import Counter
from dataclasses import dataclass
from functools import cache
from itertools import product
from .core import TaskError
from .tasks import Example, Instance, Task
from .w2_operations import (
    PROBES, Operation, TwoSteps, draw_words, is_held_out, operations, wordings,
)


@dataclass(frozen=True)
class Plan:
    "Which parts, by name of an action or a selection, are left out of what."
    unread: tuple[str, ...] = ("size",)  # Of the books
    unasked: tuple[str, ...] = (         # Of the tuning
        "size", "twice", "mark before", "kind", "the last of a kind", "what comes before",
        "the next one",
    )
    @property
    def untold(self): return {*self.unread} & {*self.unasked}

PLAN = Plan()
TIERS = ("argument", "combination", "category", "untold", "two steps")
FIRST_STEPS = ("drop", "keep", "front", "end", "turn")


def balanced_choice(combinations, n):
    "Choose n combinations so that no value is preferred; the same ones always."
    order = sorted(combinations, key=lambda c: zlib.crc32(" ".join(c).encode()))
    count, chosen = Counter(), []
    while len(chosen) < n:
        rest = [c for c in order if c not in chosen]
        chosen.append(min(rest, key=lambda c: sorted((count[value] for value in c), reverse=True)))
        count.update(chosen[-1])
    return set(chosen)

def _grouped(things, key):
    groups = {}
    for thing in things: groups.setdefault(key(thing), []).append(thing)
    return groups

def _pair(o): return o.action.name, o.selection.name
def _filling(o): return o.changed or "-", o.chosen or "-"

def _single(plan):
    "Operation -> tier, of one step."
    tiers = {
        o: "untold" if o.parts & plan.untold else "category"
        for o in operations() if o.parts & {*plan.unasked}
    }
    known = _grouped([o for o in operations() if o not in tiers], _pair)
    held = balanced_choice([*known], len(known) // 4)
    for pair, group in known.items():
        fillings = [_filling(o) for o in group]
        new = balanced_choice(fillings, len(group) // 5)
        for o in group:
            tiers[o] = "combination" if pair in held else \
                "argument" if _filling(o) in new else "train"
    return tiers

def _double(singles, per_pair=8):
    "TwoSteps -> tier: of operations that are trained alone, a quarter of all pairs is never asked."
    asked = [o for o, tier in singles.items() if tier == "train" and o.action.options is None]
    firsts = [o for o in asked if o.action.name in FIRST_STEPS]
    def meant(both): return sum(both.fits(words) for words in PROBES) > 5
    pairs = _grouped(
        (TwoSteps(a, b) for a, b in product(firsts, asked) if a is not b),
        lambda t: (t.first.action.name, t.second.action.name),
    )
    held, tiers = balanced_choice([*pairs], len(pairs) // 4), {}
    for pair, group in pairs.items():
        order = sorted(group, key=lambda t: zlib.crc32(t.name.encode()))
        some = [t for t in order[:4 * per_pair] if meant(t)][:per_pair]
        tiers |= dict.fromkeys(some, "two steps" if pair in held else "train")
    return tiers

@cache
def tiers_of(plan=PLAN):
    "Every task of the world by name: its operation, and the sense in which it is new."
    singles = _single(plan)
    return {o.name: (o, tier) for o, tier in (singles | _double(singles)).items()}


def draw_inputs(operation, n, seed=0, held_out=False):
    "The first n inputs of an endless stream; the answers of a question are balanced."
    rng, inputs, count = random.Random(f"{seed} {operation.name} {held_out}"), [], Counter()
    action = getattr(operation, "action", None)
    options = action.options(operation.changed) if action and action.options else []
    while len(inputs) < n:
        words = draw_words(rng)
        if is_held_out(" ".join(words)) != held_out or not operation.fits(words): continue
        if options:
            answer = operation.solve(words)
            if count[answer] > min(count[other] for other in options): continue
            count[answer] += 1
        inputs.append(words)
    return inputs

def make_instances(operation, n, seed=0, held_out=False):
    "Instances with one reference each."
    return [
        Instance(f"{operation.name}-{i}", " ".join(words), [operation.solve(words)])
        for i, words in enumerate(draw_inputs(operation, n, seed, held_out))
    ]

def make_examples(operation, siblings):
    "Four good examples, and two bad ones that answer a sibling."
    def good(i):
        return Example(i.input, i.output[0], f'As asked, "{i.input}" becomes "{i.output[0]}".')
    def bad(i):
        words = i.input.split()
        others = {s.solve(words): s for s in siblings if s.fits(words)}
        answer = random.Random(operation.name).choice(sorted({*others} - {*i.output}) or ["none"])
        said = wordings(others[answer])[0] if answer in others else "Write none."
        return Example(i.input, answer, f"This answers another task: {said}")
    shown = make_instances(operation, 6, "examples")
    return list(map(good, shown[:4])), list(map(bad, shown[4:]))

def micro_tasks(split=None, n_instances=500, seed=0, held_out=None, plan=PLAN):
    "Generate the tasks of the world."
    world = tiers_of(plan)
    groups = _grouped((o for o, _ in world.values()), lambda o: o.category)
    tasks = []
    for name, (o, tier) in world.items():
        if split is not None and tier != ("train" if split == "wording" else split): continue
        unseen = (tier != "train" or split == "wording") if held_out is None else held_out
        good, bad = make_examples(o, groups[o.category])
        said = wordings(o, "told" if split == "wording" else "asked")
        tasks.append(Task(name, said, good, bad, make_instances(o, n_instances, seed, unseen), [o.category]))
    return tasks

def solve(task, text): return tiers_of()[task][0].solve(text.split())
def novelty(task): return tiers_of()[task][1]
