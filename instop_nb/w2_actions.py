"""Two short tables: what can be done, and to which words of a list."""
from collections.abc import Callable
from dataclasses import dataclass
from .words import FORMS, KIND, KINDS

MARKS = ["star", "moon", "dot", "ring"]
SIZES = ["big", "small"]
LANGUAGES = ["zor", "mib"]
PLACES = {"first": 0, "second": 1, "third": 2, "fourth": 3, "last": -1}
NUMBERS = {"two": 2, "three": 3}
COUNTS = "zero one two three four five six seven".split()
CHOICES = [f"{a} or a {b}" for a, b in zip(KINDS, [*KINDS][1:] + [*KINDS][:1])]


@dataclass(frozen=True, eq=False)
class Selection:
    "Some words of a list, such as every fruit."
    name: str
    arguments: list[str]  # [""] where there is none
    pick: Callable        # (words, argument) -> places
    wordings: list[str]   # {0} is the argument
    one: bool = False     # It picks one word at most


@dataclass(frozen=True, eq=False)
class Action:
    "Something to do with a selection."
    name: str
    arguments: list[str]  # [""] where there is none
    do: Callable          # (words, picked places, argument) -> the words of the answer
    wordings: list[str]   # {s} is the selection, {0} the argument
    options: Callable | None = None  # Of a question about one word: (argument) -> its answers


def _of_kind(words, kind): return [i for i, w in enumerate(words) if KIND[w] == kind]
def _of_size(words, size): return [i for i, w in enumerate(words) if FORMS["size"][w] == size]
def _but(words, places): return [i for i in range(len(words)) if i not in places]
def _at(words, place): return [PLACES[place] % len(words)]
def _after(words, kind): return [i for i in range(len(words)) if kind in map(KIND.get, words[:i])]
def _before(words, kind): return [*range((_of_kind(words, kind) or [0])[0])]


SELECTIONS = [
    Selection("every kind", [*KINDS], _of_kind, [
        "every {0}", "all the {0}s", "each {0}", "the {0}s", "any {0}", "whatever is a {0}",
    ]),
    Selection("all but a kind", [*KINDS], lambda ws, k: _but(ws, _of_kind(ws, k)), [
        "every word but the {0}s", "all words except the {0}s", "everything that is no {0}",
        "each word that is not a {0}", "all but the {0}s", "anything other than {0}s",
    ]),
    Selection("every size", SIZES, _of_size, [
        "every {0} word", "all {0} words", "each {0} one", "the {0} words", "all that is {0}",
        "whatever is {0}",
    ]),
    Selection("a place", [*PLACES], _at, [
        "the {0} word", "the {0} one", "the word in {0} place", "the {0} item",
        "the word that stands {0}", "the {0} entry",
    ], one=True),
    Selection("all but a place", [*PLACES], lambda ws, p: _but(ws, _at(ws, p)), [
        "every word but the {0}", "all words except the {0} one", "everything but the {0} word",
        "all but the {0}", "each word that is not the {0}", "anything other than the {0} word",
    ]),
    Selection("the first few", [*NUMBERS], lambda ws, n: [*range(len(ws))][:NUMBERS[n]], [
        "the first {0} words", "the first {0}", "the {0} words at the start",
        "the opening {0} words", "the {0} words in front", "the initial {0} words",
    ]),
    Selection("the last few", [*NUMBERS], lambda ws, n: [*range(len(ws))][-NUMBERS[n]:], [
        "the last {0} words", "the last {0}", "the {0} words at the end",
        "the closing {0} words", "the {0} words at the back", "the final {0} words",
    ]),
    Selection("the first of a kind", [*KINDS], lambda ws, k: _of_kind(ws, k)[:1], [
        "the first {0}", "the {0} that comes first", "the earliest {0}", "the leftmost {0}",
        "the first word that is a {0}", "the foremost {0}",
    ], one=True),
    Selection("the last of a kind", [*KINDS], lambda ws, k: _of_kind(ws, k)[-1:], [
        "the last {0}", "the {0} that comes last", "the latest {0}", "the rightmost {0}",
        "the last word that is a {0}", "the hindmost {0}",
    ], one=True),
    Selection("what comes after", [*KINDS], _after, [
        "every word after the first {0}", "all words behind the first {0}",
        "what comes after the first {0}", "everything after the first {0}",
        "the words that follow the first {0}", "whatever is past the first {0}",
    ]),
    Selection("what comes before", [*KINDS], _before, [
        "every word before the first {0}", "all words ahead of the first {0}",
        "what comes before the first {0}", "everything before the first {0}",
        "the words that lead to the first {0}", "whatever precedes the first {0}",
    ]),
    Selection("every second", ["first", "second"], lambda ws, p: [*range(len(ws))][PLACES[p]::2], [
        "every second word from the {0} on", "every other word starting with the {0}",
        "each second word beginning with the {0}", "the {0} word and every second one after it",
        "every other word from the {0} on", "alternate words from the {0}",
    ]),
    Selection("the next one", [*KINDS], lambda ws, k: _after(ws, k)[:1], [
        "the word right after the first {0}", "the word next to the first {0}",
        "the word that follows the first {0}", "the neighbour of the first {0}",
        "the next word after the first {0}", "the successor of the first {0}",
    ], one=True),
    Selection("all", [""], lambda ws, _: [*range(len(ws))], [
        "every word", "all words", "each word", "the whole list", "all of it", "the lot",
    ]),
]


def _drop(words, at): return [w for i, w in enumerate(words) if i not in at]
def _keep(words, at): return [words[i] for i in at]
def _change(words, at, change):
    "Put other words in the place of those that are picked."
    return [x for i, w in enumerate(words) for x in (change(w) if i in at else [w])]
def _turn(words, at):
    source = dict(zip(at, at[::-1]))
    return [words[source.get(i, i)] for i in range(len(words))]
def _yes(truth): return ["yes" if truth else "no"]


ACTIONS = [
    Action("drop", [""], lambda ws, at, _: _drop(ws, at), [
        "drop {s}", "leave out {s}", "remove {s}", "delete {s}", "take away {s}", "get rid of {s}",
        "throw away {s}", "omit {s}",
    ]),
    Action("keep", [""], lambda ws, at, _: _keep(ws, at), [
        "keep only {s}", "write only {s}", "copy {s} and nothing else", "give just {s}",
        "list only {s}", "pick out {s}", "keep {s} and drop the rest", "retain nothing but {s}",
    ]),
    Action("front", [""], lambda ws, at, _: _keep(ws, at) + _drop(ws, at), [
        "move {s} to the front", "put {s} first", "bring {s} to the front",
        "write {s} before the rest", "shift {s} to the start", "place {s} at the beginning",
        "let {s} come first", "advance {s} to the head",
    ]),
    Action("end", [""], lambda ws, at, _: _drop(ws, at) + _keep(ws, at), [
        "move {s} to the end", "put {s} last", "bring {s} to the end", "write {s} after the rest",
        "shift {s} to the back", "place {s} at the end", "let {s} come last",
        "postpone {s} to the tail",
    ]),
    Action("replace", MARKS, lambda ws, at, m: _change(ws, at, lambda w: [m]), [
        "replace {s} by {0}", "write {0} instead of {s}", "put {0} in place of {s}",
        "change {s} to {0}", "swap {s} for {0}", "turn {s} into {0}", "replace {s} with {0}",
        "substitute {0} for {s}",
    ]),
    Action("translate", LANGUAGES, lambda ws, at, f: _change(ws, at, lambda w: [FORMS[f][w]]), [
        "translate {s} into {0} and copy the rest", "copy the list with {s} in {0}",
        "write the list with {s} in {0}", "put {s} into {0} and copy the rest",
        "translate {s} into {0} where it stands", "replace {s} by the name in {0}",
        "copy the list but write {s} in {0}", "render {s} in {0} within the list",
    ]),
    Action("say", LANGUAGES, lambda ws, at, f: [FORMS[f][ws[i]] for i in at], [
        "say {s} in {0}", "give the {0} for {s}", "write only {s} in {0}", "name {s} in {0}",
        "tell me {s} in {0}", "what is {s} in {0}", "how does one say {s} in {0}",
        "express {s} in {0}",
    ]),
    Action("kind", [""], lambda ws, at, _: _change(ws, at, lambda w: [KIND[w]]), [
        "replace {s} by its kind", "write the kind instead of {s}",
        "put the kind in place of {s}", "change {s} to its kind", "swap {s} for its kind",
        "turn {s} into its kind", "replace {s} with its kind", "substitute its kind for {s}",
    ]),
    Action("size", [""], lambda ws, at, _: [FORMS["size"][ws[i]] for i in at], [
        "name the size of {s}", "give the size of {s}", "write how big {s} is",
        "say the size of {s}", "tell the size of {s}", "write the size of {s}",
        "find the size of {s}", "report the size of {s}",
    ]),
    Action("twice", [""], lambda ws, at, _: _change(ws, at, lambda w: [w, w]), [
        "write {s} twice", "double {s}", "repeat {s}", "say {s} two times", "copy {s} twice",
        "write {s} two times", "put {s} there twice", "duplicate {s}",
    ]),
    Action("mark after", MARKS, lambda ws, at, m: _change(ws, at, lambda w: [w, m]), [
        "put {0} after {s}", "add {0} after {s}", "write {0} after {s}", "place {0} behind {s}",
        "set {0} right after {s}", "let {0} follow {s}", "insert {0} after {s}",
        "append {0} to {s}",
    ]),
    Action("mark before", MARKS, lambda ws, at, m: _change(ws, at, lambda w: [m, w]), [
        "put {0} before {s}", "add {0} before {s}", "write {0} before {s}",
        "place {0} in front of {s}", "set {0} right before {s}", "let {0} precede {s}",
        "insert {0} before {s}", "prefix {s} by {0}",
    ]),
    Action("turn", [""], lambda ws, at, _: _turn(ws, at), [
        "turn {s} around", "reverse {s}", "write {s} in reverse order", "put {s} in reverse order",
        "turn around {s}", "reverse the order of {s}", "write {s} backwards", "invert {s}",
    ]),
    Action("count", [""], lambda ws, at, _: [COUNTS[len(at)]], [
        "count {s}", "say how many words are in {s}", "give the number of {s}",
        "write the number of {s}", "tell the number of {s}", "count how many there are of {s}",
        "find the number of {s}", "tally {s}",
    ]),
    Action("ask kind", [*KINDS], lambda ws, at, k: _yes(KIND[ws[at[0]]] == k), [
        "is {s} a {0}", "say whether {s} is a {0}", "tell if {s} is a {0}",
        "check if {s} is a {0}", "answer yes if {s} is a {0} and no if not",
        "would you call {s} a {0}", "is it true that {s} is a {0}", "verify that {s} is a {0}",
    ], options=lambda _: ["yes", "no"]),
    Action("ask size", SIZES, lambda ws, at, s: _yes(FORMS["size"][ws[at[0]]] == s), [
        "is {s} {0}", "say whether {s} is {0}", "tell if {s} is {0}", "check if {s} is {0}",
        "answer yes if {s} is {0} and no if not", "would you call {s} {0}",
        "is it true that {s} is {0}", "verify that {s} is {0}",
    ], options=lambda _: ["yes", "no"]),
    Action("choose kind", CHOICES, lambda ws, at, _: [KIND[ws[at[0]]]], [
        "is {s} a {0}", "say what {s} is, a {0}", "which is {s}, a {0}",
        "choose what {s} is, a {0}", "decide what {s} is, a {0}", "tell me what {s} is, a {0}",
        "pick what {s} is, a {0}", "determine what {s} is, a {0}",
    ], options=lambda choice: choice.split(" or a ")),
]
