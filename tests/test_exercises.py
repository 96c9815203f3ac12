"""What a reader writes: each exercise can be seen, checked, solved out of sight, and is used."""
import re

import pytest
import readme

from instop_nb.exercises import Exercise, between, checked, exercise, is_empty, same

from test_anatomy import FOLDED, NOTEBOOKS, cells_of, each_lesson

STUB = re.compile(r"^@exercise\(\"(easy|medium|hard)\", minutes=\d+\)\ndef (\w+)\(", re.MULTILINE)


def parts_of(cells, name):
    "Return the numbers of the cells that ask for a function, check it, and solve it."
    def those(pattern):
        return [n for n, cell in enumerate(cells) if cell["cell_type"] == "code"
                and re.search(pattern, readme.source(cell), re.MULTILINE)]
    return (those(rf"^def {name}\("), those(rf"^@{name}\.check\b"),
            those(rf"^@{name}\.solution\b"), those(rf"^{name}\.refuses\("))


def flaws_of(cells, name):
    "Say what an exercise lacks."
    stubs, checks, solutions, refusals = parts_of(cells, name)
    if not all(map(len, (stubs, checks, solutions))):
        return [f"{name}: a stub, a check and a solution are needed"]
    solution = cells[solutions[0]]
    later = [readme.source(cell) for cell in cells[solutions[0] + 1:] if cell["cell_type"] == "code"
             and "@exercise(" not in readme.source(cell)]
    above = readme.source(cells[stubs[0] - 1])
    flaws = {
        "its text stands above it": not re.search(r"^\*\*Exercise \d+\. ", above, re.MULTILINE),
        "the stub is open, with a hint": not re.search(
            r"# hint: .+\n(.*\n)*? +\.\.\.\s*$", readme.source(cells[stubs[0]])),
        "in the order stub, check, solution": not stubs[0] < checks[0] < solutions[0],
        "the solution is folded": not FOLDED.search(readme.source(solution))
        or not solution["metadata"].get("jupyter", {}).get("source_hidden"),
        "three wrong answers are refused, beside the solution": refusals != solutions,
        "the chapter uses it": not any(re.search(rf"\b{name}\b", text) for text in later),
    }
    return [f"{name}: {flaw}" for flaw, missing in flaws.items() if missing]


@each_lesson
def test_two_to_five_exercises_whose_functions_the_chapter_uses(path):
    cells = readme.read_notebook(path)["cells"]
    names = [m[2] for cell in cells_of(path) for m in STUB.finditer(readme.source(cell))]
    assert 2 <= len(names) <= 5, f"two to five exercises are needed: {names}"
    assert len({*names}) == len(names)
    assert not [flaw for name in names for flaw in flaws_of(cells, name)]
    text = "\n\n".join(map(readme.source, cells_of(path, "markdown")))
    numbers = [int(n) for n in re.findall(r"^\*\*Exercise (\d+)\. ", text, re.MULTILINE)]
    assert numbers == [*range(1, len(names) + 1)]


@each_lesson
def test_says_what_a_reader_can_do_and_answers_its_questions(path):
    text = "\n\n".join(map(readme.source, cells_of(path, "markdown")))
    assert re.search(r"^\*After this chapter you can\* ", text, re.MULTILINE)
    asked, _, rest = text.partition("## Questions")[2].partition("<details><summary>Answers</sum")
    answers, _, rest = rest.partition("</details>")
    def count(part): return len(re.findall(r"^\d+\. ", part, re.MULTILINE))
    assert count(asked) == count(answers) >= 2, "each question has its answer, folded away"
    assert re.search(r"^\*Read on\*: ", rest, re.MULTILINE)


def test_solutions_are_folded_everywhere_and_nothing_else_is():
    for path in NOTEBOOKS:
        for cell in cells_of(path):
            folded = {"cellView": "form", "jupyter": {"source_hidden": True}}
            code = readme.source(cell)
            assert cell["metadata"] == (folded if code.startswith("#| code-fold") else {}), path


def cells(*texts):
    "Some cells; those that begin with ** are text."
    found = [{"cell_type": "markdown" if text.startswith("**") else "code", "source": text,
              "metadata": {}} for text in texts]
    readme.fold_solutions(found)
    return found


GOOD = ("**Exercise 1. Twice.** Write it.",
        '@exercise("easy", minutes=1)\ndef twice(x):\n    # hint: two\n    ...',
        "@twice.check\ndef cases(f):\n    yield f(1), 2",
        "#| code-fold: true\n@twice.solution\ndef s(x): return 2 * x\ntwice.refuses(1, 2, 3)",
        "twice(2)")


@pytest.mark.parametrize("place, text, flaw", [
    (0, "**1. Twice.**", "its text stands above it"),
    (1, GOOD[1].replace("    # hint: two\n", ""), "the stub is open, with a hint"),
    (1, GOOD[1].replace("...", "return 2 * x"), "the stub is open, with a hint"),
    (2, "print(1)", "a stub, a check and a solution are needed"),
    (3, GOOD[3].replace("#| code-fold: true\n", ""), "the solution is folded"),
    (3, GOOD[3].replace("twice.refuses", "print"), "three wrong answers are refused, beside the "
                                                   "solution"),
    (4, "thrice(2)", "the chapter uses it"),
])
def test_flaws_are_seen(place, text, flaw):
    assert not flaws_of(cells(*GOOD), "twice")
    assert flaws_of(cells(*GOOD[:place], text, *GOOD[place + 1:]), "twice") == [f"twice: {flaw}"]


# The tool itself, as a reader meets it

def asked(f):
    "An exercise with its check and its solution, as a page runs them."
    one = exercise("easy", minutes=2)(f)
    def cases(f):
        yield f(2), 4
        yield f(.5), 1.
    one.check(cases)
    one.solution(lambda x: 2 * x)
    return one


def test_a_right_answer_is_used_and_a_wrong_one_is_not(capsys):
    def mine(x): return x + x
    assert asked(mine).used is mine and "yours is used" in capsys.readouterr().out
    def wrong(x): return x ** 2
    found = asked(wrong)
    assert found(3) == 6 and not found.passed
    said = capsys.readouterr().out.splitlines()
    assert said == ["right: yours 4 · expected 4", "wrong: yours 0.25 · expected 1.0",
                    "wrong: the solution stands in from here on"]


def test_an_empty_answer_is_no_error(capsys):
    def stub(x, *, y=1):
        "Twice."
        # hint
    assert asked(stub)(4) == 8 and "not written yet" in capsys.readouterr().out


def test_an_answer_that_raises_is_shown(capsys):
    def broken(x): return x / 0
    assert asked(broken)(4) == 8
    assert "wrong: yours 'ZeroDivisionError: division by zero'" in capsys.readouterr().out


@pytest.mark.parametrize("f, empty", [
    (lambda: None, True), (lambda x, *y, **z: None, True), (lambda x: x, False),
    (lambda: 0, False), (lambda: print(), False),
])
def test_is_empty(f, empty): assert is_empty(f) == empty


@pytest.mark.parametrize("yours, expected, right", [
    (1, 1., True), (1.00001, 1, True), (1.01, 1, False), ("1", 1, False), (None, 0, False),
    (True, 1, False), (1, True, False), ([1, (2, 3)], (1, [2, 3]), True), ([1], [1, 2], False),
    ({"b": 1, "a": 2}, {"a": 2, "b": 1}, False), ({"a": [1.]}, {"a": (1,)}, True),
    (.5, between(0, 1), True), ("x", between(0, 1), False), (float("nan"), 1., False),
    ({1, 2}, {2, 1}, True), ("fox", "fox", True), (..., [], False),
])
def test_same(yours, expected, right): assert same(yours, expected) == right


def test_a_check_that_yields_nothing_passes_nobody():
    one = Exercise(lambda x: x, "easy", 1)
    one.check(lambda f: iter(()))
    assert not one.passed and checked(lambda f: iter(()), len) == []
