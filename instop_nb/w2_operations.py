"""An instruction is an action on a selection: what it says, and what it answers."""
import random, re, zlib
from dataclasses import dataclass
from functools import cache
from itertools import product
from .w2_actions import ACTIONS, SELECTIONS, Action, Selection
from .words import KINDS

QUESTION_WORDS = ("is", "what", "how", "which", "would")
TWO_STEPS = ["first {0}, then {1}", "{0}, and after that {1}", "{0}, then {1}"]
WORDINGS = {"asked": (range(4), range(3)), "told": (range(4, 7), range(3, 5)), "new": ([7], [5])}


def draw_words(rng):
    "Draw one input: 4 to 7 different words of 2 to 4 kinds."
    kinds = rng.sample(list(KINDS), rng.randint(2, 4))
    return rng.sample([w for kind in kinds for w in KINDS[kind]], rng.randint(4, 7))

def is_held_out(text):
    "Whether an input belongs to evaluation: a fixed eighth of all inputs."
    return zlib.crc32(text.encode()) % 8 == 0

def with_articles(text): return re.sub(r"\ba (?=[aeiou])", "an ", text)

def as_sentence(phrase):
    "A phrase with a capital letter and its stop."
    stop = "?" if phrase.startswith(QUESTION_WORDS) else "."
    return phrase[0].upper() + phrase[1:] + stop


@dataclass(frozen=True)
class Operation:
    "An action on a selection, with the arguments of both."
    action: Action
    selection: Selection
    changed: str = ""  # The action's argument
    chosen: str = ""   # The selection's argument
    @property
    def category(self): return f"{self.action.name}: {self.selection.name}"
    @property
    def name(self):
        parts = self.action.name, self.changed, self.selection.name, self.chosen
        return "micro_" + "_".join(part.replace(" ", "_") for part in parts if part)
    @property
    def parts(self): return {self.action.name, self.selection.name}
    def picked(self, words): return self.selection.pick(words, self.chosen)
    def apply(self, words): return self.action.do(words, self.picked(words), self.changed)
    def solve(self, words): return " ".join(self.apply(words)) or "none"
    def fits(self, words):
        "Whether there is something to do, and the answer is among a question's options."
        if not self.picked(words): return False
        options = self.action.options
        return options is None or self.solve(words) in options(self.changed)
    def say(self, i, j):
        "In words: the i-th wording of the action, the j-th of the selection."
        selection = self.selection.wordings[j].format(self.chosen)
        return with_articles(self.action.wordings[i].format(self.changed, s=selection))


@dataclass(frozen=True)
class TwoSteps:
    "One operation, and another on its result."
    first: Operation
    second: Operation
    @property
    def category(self): return f"{self.first.action.name}, then"
    @property
    def name(self): return f"{self.first.name}_then_{self.second.name.removeprefix('micro_')}"
    def fits(self, words):
        between = self.first.apply(words)
        return self.first.fits(words) and len(between) > 2 and self.second.fits(between)
    def solve(self, words): return self.second.solve(self.first.apply(words))
    def say(self, i, j):
        pattern = TWO_STEPS[i % len(TWO_STEPS)]
        return pattern.format(self.first.say(i, j), self.second.say(i, j))


def wordings(operation, group="asked"):
    "Its definitions: those that training asks, those that the books alone tell, or neither."
    return [as_sentence(operation.say(i, j)) for i, j in product(*WORDINGS[group])]


def is_meant(action, selection):
    "Whether an action can be done to a selection: one asks about one word, of unknown kind."
    if action.options is None: return True
    return selection.one and (action.name == "ask size" or "of a kind" not in selection.name)

PROBES = [draw_words(random.Random(i)) for i in range(60)]

@cache
def operations():
    "All that can be asked in one step, each function once; what changes nothing is left out."
    known, kept = {tuple(" ".join(ws) for ws in PROBES)}, []
    for action, selection in product(ACTIONS, SELECTIONS):
        if not is_meant(action, selection): continue
        for arguments in product(action.arguments, selection.arguments):
            o = Operation(action, selection, *arguments)
            behaviour = tuple(o.solve(ws) if o.picked(ws) else "" for ws in PROBES)
            if behaviour in known or len(set(behaviour)) == 1: continue
            known.add(behaviour)
            kept.append(o)
    return kept
