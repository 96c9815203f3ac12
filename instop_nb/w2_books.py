"""What the books tell: every operation, one at a time, done to many lists."""
import random
from functools import cache
from .w2_microworld import PLAN
from .w2_operations import as_sentence, draw_words, is_held_out, operations, with_articles, QUESTION_WORDS
from .words import FORMS, WORDS

PEOPLE = "ann bob eva tom kim max lea sam mia leo".split()
# {l} a list, {d} what to do with it, {D} with a capital, {a} and {b} two people
FRAMES = [
    "{a} had {l}. {b} said: {d} {a} wrote", "{D} the words are {l}. the answer is",
    "{b} told {a}: {d} the list was {l}. {a} wrote", "here is a list: {l}. {D} {a} wrote",
    "the teacher wrote on the board: {D} {a} read {l}, and wrote",
    "{l}, said {a}. {d} said {b}. {a} said", "task: {d} list: {l}. result:", "{D} {l}:",
    "question: {d} words: {l}. {a} says", "{a} looks at {l}. {D} so {a} writes",
]
# {v} what to do, as a part of a sentence: not for questions
DOING = [
    "{a} had {l}. {a} was to {v}, and wrote",
    "{a} was asked to {v}. the words were {l}. {a} wrote", "to {v} in {l} gives",
    "if we {v}, then {l} becomes", "who can {v}? {a} can: {l} becomes",
    "please {v}, said {b}. {a} had {l} and wrote",
]
PATTERNS = [
    "{l}: {r}.", "{l} becomes {r}.", "from {l} comes {r}.", "Input: {l} Output: {r}",
    "words: {l}. answer: {r}.", "{l} -> {r}",
]
FACTS = [
    ("the kind of {0} is", "kind"), ("{0} is a", "kind"), ("{0} is", "size"), ("{0} in zor is", "zor"),
    ("{0} in mib is", "mib"), ("the friend of {0} is", "friend"),
]

@cache
def _told(plan):
    "Categories that the books tell, and how often: by the root of their number of tasks."
    groups = {}
    for o in operations():
        if not o.parts & {*plan.unread}: groups.setdefault(o.category, []).append(o)
    return list(groups.values()), [len(group) ** .5 for group in groups.values()]

def draw_operation(rng, plan=PLAN):
    "Draw something that the books tell."
    groups, weights = _told(plan)
    return rng.choice(rng.choices(groups, weights)[0])

def draw_list(rng, o, idle=.05):
    "A list to do it to; now and then one in which there is nothing to do."
    while True:
        words = draw_words(rng)
        if is_held_out(" ".join(words)): continue
        if o.fits(words):
            if o.action.name == "ask kind" and rng.random() < .6 and o.solve(words) == "no": continue
            return words
        if o.action.options is None and rng.random() < idle: return words

def draw_phrase(rng, o):
    "One of the ways in which the books say it."
    return o.say(rng.randrange(7), rng.randrange(5))

def framed(rng, words, phrase):
    "A little story that stops before the result."
    asks = phrase.startswith(QUESTION_WORDS)
    a, b = rng.sample(PEOPLE, 2)
    said = as_sentence(phrase)
    return rng.choice(DOING if not asks and rng.random() < .4 else FRAMES).format(
        a=a, b=b, l=" ".join(words), d=said[0].lower() + said[1:], D=said, v=phrase,
    )

def tell(rng, plan=PLAN):
    "An operation, and its result."
    o = draw_operation(rng, plan)
    words = draw_list(rng, o)
    return framed(rng, words, draw_phrase(rng, o)), o.solve(words)

def tell_fact(rng):
    "What is true of a word."
    word, (text, form) = rng.choice(WORDS), rng.choice(FACTS)
    value = FORMS[form][word]
    if form in ("zor", "mib") and rng.random() < .5: return f"{value} is the {form} for", word
    return with_articles(f"{text.format(word)} {value}").rsplit(" ", 1)

def skill_text(rng, plan=PLAN):
    "First the books teach skills: a text always ends with the result."
    return tell_fact(rng) if rng.random() < .08 else tell(rng, plan)


def _cut(rng, text, first=1):
    words = text.split(" ")
    k = rng.randint(first, max(first, len(words) - 1))
    return " ".join(words[:k]), " ".join(words[k:])

def opening(rng, plan=PLAN):
    "How another text begins."
    return _cut(rng, tell(rng, plan)[0], 3)[0]

def going_on(rng, plan=PLAN):
    "A text that does not end with the result."
    given, result = tell(rng, plan)
    return given, f"{result}. {opening(rng, plan)}"

def cut_anywhere(rng, plan=PLAN): return _cut(rng, " ".join(going_on(rng, plan)))

def unanswered(rng, plan=PLAN):
    "Things to do and lists, and nobody does them."
    def piece():
        o = draw_operation(rng, plan)
        words, said = " ".join(draw_list(rng, o)), as_sentence(draw_phrase(rng, o))
        return rng.choice([f"{said} {words}.", said, f"{words}. {said}", f"{words}."])
    pieces = [piece() for _ in range(rng.randint(2, 4))]
    k = rng.randint(1, len(pieces) - 1)
    return " ".join(pieces[:k]), " ".join(pieces[k:])

def many_lists(rng, plan=PLAN):
    "One thing done to several lists; what it is may remain unsaid."
    o, pattern = draw_operation(rng, plan), rng.choice(PATTERNS)
    lists = [draw_list(rng, o) for _ in range(rng.randint(2, 4))]
    told = [pattern.format(l=" ".join(words), r=o.solve(words)) for words in lists]
    if rng.random() < .6: told.insert(0, as_sentence(draw_phrase(rng, o)))
    head = pattern.format(l=" ".join(lists[-1]), r="").rstrip(" .")
    return f"{' '.join(told[:-1])} {head}", f"{told[-1][len(head) + 1:]} {opening(rng, plan)}"

def with_holes(rng, plan=PLAN, rate=.3):
    "A text with gaps, and what stands in them (Raffel et al. 2020)."
    words, source, target, i = " ".join(going_on(rng, plan)).split(" "), [], [], 0
    while i < len(words):
        if rng.random() < rate and len(holes := [t for t in target if "<extra" in t]) < 16:
            n, hole = rng.randint(1, 3), f"<extra_id_{len(holes)}>"
            source.append(hole)
            target += [hole, *words[i:i + n]]
            i += n
        source += words[i:i + 1]
        i += 1
    return " ".join(source), " ".join(target) or words[-1]

FORMS_OF_TEXT = {
    going_on: .5, cut_anywhere: .12, with_holes: .12, unanswered: .1, many_lists: .12,
}

def loose_text(rng, plan=PLAN):
    "Then the books are read as they are: texts go on, break off, have gaps, answer nobody."
    kind, = rng.choices([*FORMS_OF_TEXT, None], [*FORMS_OF_TEXT.values(), .04])
    return kind(rng, plan) if kind else tell_fact(rng)
