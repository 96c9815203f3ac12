"""Every chapter has the same anatomy: header, small cells, figures, exercises, recap, and code
that explains itself."""
import ast
import json
import re
import statistics
from math import ceil
from pathlib import Path

import pytest
import readme

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = readme.chapters(ROOT)
# These notebooks hold no lesson: the start page, the one that strings the chapters together into
# `instop demo`, and
# the one that gives the same functions to the shell. They have nothing of their own to plot or to
# practise.
WITHOUT_LESSON = ("00_", "10_", "9")
LESSONS = [path for path in CHAPTERS if path.stem[:2].isdigit() and path.stem[2] == "_"
           and not path.name.startswith(WITHOUT_LESSON)]
NOTEBOOKS = readme.all_notebooks(ROOT)
EXPORT = re.compile(r"^#\|\s*exports?\s*$", re.MULTILINE)
MACHINE_PATH = re.compile(
    r"(?<![\w.~-])/(?:home|root|tmp|work|Users|private|var/folders)\b(?:/[\w.-]+)?"
)
HALF_PRECISION = re.compile(r"fp16\s*=\s*True|\.half\(\)|(?<!b)float16")
FOLDED = re.compile(r"^#\|\s*code-fold:\s*true", re.MULTILINE)
EXPECTS_ERROR = re.compile(r"ExceptionExpected|test_fail|pytest\.raises|raise \w+Error")
DEVELOPMENT_ONLY = {"fastcore", "nbdev", "execnb", "pytest", "hypothesis", "nbclient"}

each_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
each_lesson = pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)


# What a notebook is made of

def cells_of(path, kind="code"):
    "Return the cells of one kind, in order."
    return [cell for cell in readme.read_notebook(path)["cells"] if cell["cell_type"] == kind]


def code_lines(cell):
    "Return a cell's lines of code: no directives, no empty lines."
    return [
        line
        for line in readme.source(cell).splitlines()
        if line.strip() and not line.startswith("#|")
    ]


def is_exported(cell):
    "Say whether a cell goes into the package."
    return bool(EXPORT.search(readme.source(cell)))


def python_of(cell):
    "Return a cell's code as Python alone, without the lines that only IPython understands."
    return "\n".join(
        "" if line.lstrip().startswith(("%", "!")) else line
        for line in readme.source(cell).splitlines()
    )


def exported_nodes(path):
    "Yield (index of the cell, its text, node) for each statement at the top of an exported cell."
    for index, cell in enumerate(cells_of(path)):
        if not is_exported(cell): continue
        text = python_of(cell)
        for node in ast.parse(text).body: yield index, text, node


def names_of(node):
    "Return the public functions, classes and constants that a statement defines."
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)): names = [node.name]
    elif isinstance(node, ast.Assign):
        names = [target.id for target in node.targets if isinstance(target, ast.Name)]
    else: names = []
    return [name for name in names if not name.startswith("_")]


def public_definitions(path):
    "Yield (text of the cell, node) for each public function and class that the chapter exports."
    for _, text, node in exported_nodes(path):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            yield text, node


def public_methods(node):
    """Return the public methods of a class that are longer than one line (a shorter one explains
    itself); of a function, none."""
    return [
        item
        for item in getattr(node, "body", [])
        if isinstance(node, ast.ClassDef)
        and isinstance(item, ast.FunctionDef)
        and not item.name.startswith("_")
        and item.end_lineno > item.lineno
    ]


def output_texts(cell):
    "Yield all texts that a cell has printed or shown; pictures are left out."
    for output in cell.get("outputs", []):
        yield "".join(output.get("text", ""))
        yield "\n".join(output.get("traceback", []))
        for kind, data in output.get("data", {}).items():
            if not kind.startswith("image/"):
                yield data if isinstance(data, str) else "".join(map(str, data))


def imported_modules(cell):
    "Return the full names of all modules that a cell imports."
    names = []
    for node in ast.walk(ast.parse(python_of(cell))):
        if isinstance(node, ast.Import): names += [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom) and node.module == "instop_nb":
            names += [f"instop_nb.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom): names.append("." * node.level + (node.module or ""))
    return names


def exercises(cells):
    """Return the cells of each exercise: those behind '**1. ..', '**2. ..', between the headings
    Exercises and Recap."""
    found, inside = [], False
    for cell in cells:
        text = readme.source(cell)
        if cell["cell_type"] == "markdown":
            inside = (inside or "## Exercises" in text) and "## Recap" not in text
            if inside and re.search(r"^\*\*\d+\.", text, re.MULTILINE): found.append([])
        if inside and found: found[-1].append(cell)
    return found


def flaws_of_exercise(cells):
    """Say what an exercise lacks: a hint, a look at the learner's own answer beside the expected
    one, a folded solution that asserts."""
    code = [python_of(cell) for cell in cells if cell["cell_type"] == "code"]
    texts = [text for text in code if not FOLDED.search(text)]
    checks = [text for text in texts if re.search(r"print\(.*yours", text) and "expected" in text]
    own = set().union(*(bound(node) for text in texts[:1] for node in ast.parse(text).body))
    solutions = [text for text in code if FOLDED.search(text)]
    flaws = {
        "no stub": not texts,
        "no hint in the stub": not any(re.search(r"#(?!\|)", text) for text in texts[:1]),
        "nothing prints yours beside expected": not checks,
        "the check does not use what the stub defines": checks
        and not any(own & mentioned(node) for text in checks for node in ast.parse(text).body),
        "no folded solution": not solutions,
        "no assertion in the solution": solutions
        and not any(asserts(ast.parse(text)) for text in solutions),
    }
    return [flaw for flaw, is_there in flaws.items() if is_there]


AT_THE_END = [path for path in CHAPTERS
              if any("## Exercises" in readme.source(c) for c in cells_of(path, "markdown"))]


# What a statement names, binds and asserts

def statements_of(code):
    "Return the statements of a cell, but not an expression at its end that is only shown."
    body = ast.parse(code).body
    return [
        node
        for node in body
        if node is not body[-1] or not isinstance(node, ast.Expr) or asserts(node)
    ]


def local(node):
    """Return the names that mean something inside of a statement alone: parameters, and the
    variables of comprehensions."""
    targets = [item.target for item in ast.walk(node) if isinstance(item, ast.comprehension)]
    return {item.arg for item in ast.walk(node) if isinstance(item, ast.arg)} | {
        item.id for target in targets for item in ast.walk(target) if isinstance(item, ast.Name)}


def mentioned(node):
    "Return the names in a statement that mean something outside of it, and those behind a dot."
    return {item.id for item in ast.walk(node) if isinstance(item, ast.Name)} - local(node) | {
        item.attr for item in ast.walk(node) if isinstance(item, ast.Attribute)}


def bound(node):
    "Return the names that a statement makes: a function, a class, or variables."
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)): return {node.name}
    return {
        item.id
        for item in ast.walk(node)
        if isinstance(item, ast.Name) and isinstance(item.ctx, ast.Store)
    } - local(node)


def changed(node, made):
    """Return the variables that a statement hands to calls of names in `made` which stand alone:
    they can only fill or change what they get."""
    calls = [
        item.value
        for item in ast.walk(node)
        if isinstance(item, ast.Expr)
        and isinstance(item.value, ast.Call)
        and made & mentioned(item.value.func)
    ]
    functions = {
        item.func.id
        for call in calls
        for item in ast.walk(call)
        if isinstance(item, ast.Call) and isinstance(item.func, ast.Name)
    }
    return (
        {item.id for call in calls for item in ast.walk(call) if isinstance(item, ast.Name)}
        - functions
        - local(node)
    )


def asserts(node):
    """Say whether something in a statement can fail: assert, test_eq and its kin, or an expected
    error."""
    return any(
        isinstance(item, ast.Assert)
        or isinstance(item, ast.Call)
        and re.match(r"test_|ExceptionExpected", ast.unparse(item.func))
        for item in ast.walk(node)
    )


def is_asserted(name, statements):
    """Say whether a statement with an assertion names this, or a variable that was made or
    changed by it."""
    made = {name}
    for node in statements:
        if not made & mentioned(node): continue
        if asserts(node): return True
        made |= bound(node) | changed(node, made)
    return False


# The page

@each_chapter
def test_header(path):
    first = readme.read_notebook(path)["cells"][0]
    name = path.stem.split("_", 1)[1]
    if path.stem != "00_start":  # It exports nothing
        assert readme.source(first).strip() == f"#| default_exp {name}", (
            f"the first cell must be: #| default_exp {name}"
        )
    readme.header_of(readme.read_notebook(path), path.name)


@each_chapter
def test_what_is_needed_is_called_by_its_title(path):
    needs = readme.header_of(readme.read_notebook(path), path.name)["needs"]
    for text, link in re.findall(r"\[([^\]]+)\]\(([^)]+)\)", needs):
        other = (path.parent / link).resolve()
        assert text == readme.header_of(readme.read_notebook(other), other.name)["title"], link


def test_the_course_has_been_timed_twice_and_is_short():
    "Every chapter has run twice in a row, and all of them together stay under 40 CPU minutes."
    seconds = json.loads((ROOT / readme.TIMES).read_text(encoding="utf-8"))["cpu_seconds"]
    assert set(seconds) == {path.name for path in CHAPTERS}, (
        "run it: python tools/execute.py --time"
    )
    assert (
        all(len(runs) == 2 for runs in seconds.values())
        and sum(map(max, seconds.values())) < 40 * 60
    )


@pytest.mark.parametrize("path", [path for path in CHAPTERS if path.parent.name != "9_appendix"],
                         ids=lambda path: path.stem)
def test_cells_are_small(path):
    sizes = sorted(size for size in (len(code_lines(cell)) for cell in cells_of(path)) if size)
    ninetieth = sizes[ceil(0.9 * len(sizes)) - 1]
    assert statistics.median(sizes) <= 4, f"the median cell has {statistics.median(sizes)} lines"
    assert ninetieth <= 15, f"one cell in ten has {ninetieth} lines or more: {sizes}"


@each_lesson
def test_two_figures_with_a_text_for_those_who_cannot_see_them(path):
    figures = [
        cell
        for cell in cells_of(path)
        if re.search(r"^#\|\s*fig-alt:\s*\S", readme.source(cell), re.MULTILINE)
    ]
    assert len(figures) >= 2, "two cells with `#| fig-alt: ...` are needed"
    for cell in figures:
        shown = {kind for output in cell["outputs"] for kind in output.get("data", {})}
        assert any(kind.startswith("image/") for kind in shown), (
            f"no saved picture: {readme.source(cell)[:80]}"
        )


# Main chapters have theirs where they are used: see test_exercises
@pytest.mark.parametrize("path", AT_THE_END, ids=lambda path: path.stem)
def test_side_chapters_have_exercises_with_hint_check_and_folded_solution(path):
    found = exercises(readme.read_notebook(path)["cells"])
    assert found, "each begins '**1. ..'"
    flaws = {
        f"exercise {n}": some
        for n, cells in enumerate(found, 1)
        if (some := flaws_of_exercise(cells))
    }
    assert not flaws


@each_lesson
def test_ends_with_recap_questions_and_next(path):
    text = "\n\n".join(readme.source(cell) for cell in cells_of(path, "markdown"))
    endings = [
        re.search(pattern, text, re.MULTILINE)
        for pattern in (r"^## Recap", r"^## Questions", r"^Next: \[.+\]\((.+)\)")
    ]
    assert all(endings), (
        "a chapter ends with '## Recap', '## Questions' and 'Next: [title](file.ipynb)'"
    )
    assert [match.start() for match in endings] == sorted(match.start() for match in endings), (
        "in this order"
    )
    later = [other for other in CHAPTERS if other.stem[2] == "_" and other.stem > path.stem]
    assert (path.parent / endings[2][1]).resolve() == later[0], (
        "the next chapter is the one with the next number"
    )


@each_chapter
def test_notebook_is_small_and_has_no_widgets(path):
    assert path.stat().st_size < 2**20
    text = path.read_text(encoding="utf-8")
    assert "widgets" not in json.loads(text)["metadata"], "widget state is saved in the metadata"
    assert "application/vnd.jupyter.widget" not in text, (
        "a widget is saved as an output: use a text progress bar"
    )


@each_notebook
def test_outputs_are_small_unless_pictures(path):
    large = [
        readme.source(cell)[:80]
        for cell in cells_of(path)
        if sum(map(len, output_texts(cell))) > 100_000
    ]
    assert not large


@each_notebook
def test_links_exist(path):
    targets = [
        target for cell in cells_of(path, "markdown") for target in links(readme.source(cell))
    ]
    assert not [target for target in targets if not (path.parent / target).exists()]


def test_links_are_found():
    text = '[a](b.ipynb#c) [d](https://e.f) ![g](h.png) `[i](j)` [k](#l) <img alt="" src="m.png">'
    assert links(text) == ["b.ipynb", "h.png", "m.png"]


def links(text):
    "Return the files that a text links to or shows: no addresses, no anchors, nothing in code."
    text = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)[^)]*\)|<img[^>]* src=\"([^\"]+)\"", text)
    return [
        file
        for some in targets
        for target in some
        if (file := target.split("#")[0]) and not re.match(r"[a-z]+:", target)
    ]


@each_chapter
def test_no_saved_errors(path):
    failed = [readme.source(cell)[:80] for cell in cells_of(path)
              if any(output["output_type"] == "error" for output in cell["outputs"])]
    assert not failed


@each_chapter
def test_no_paths_of_a_machine(path):
    found = []
    for cell in readme.read_notebook(path)["cells"]:
        for text in [readme.source(cell), *output_texts(cell)]: found += MACHINE_PATH.findall(text)
    assert not found


# The code

@each_chapter
def test_exported_names_are_used_later(path):
    texts = [readme.source(cell) for cell in cells_of(path)]
    shown = ["" if is_exported(cell) else text for cell, text in zip(cells_of(path), texts)]
    unused = []
    for index, _, node in exported_nodes(path):
        for name in [] if is_command(node) else names_of(node):  # A shell calls it by another name
            if isinstance(node, ast.Assign):
                used = len(re.findall(rf"\b{name}\b", "\n".join(texts[index:]))) > 1
            else: used = re.search(rf"\b{name}\b", "\n".join(shown[index + 1:]))
            if not used: unused.append(name)
    assert not unused, f"shown in no later cell that is not exported: {unused}"


@each_lesson
def test_exported_functions_and_classes_are_asserted(path):
    statements = [
        node
        for cell in cells_of(path)
        if not is_exported(cell)
        for node in statements_of(python_of(cell))
    ]
    loose = [
        node.name for _, node in public_definitions(path) if not is_asserted(node.name, statements)
    ]
    assert not loose, f"no assertion names these, or a variable made from them: {loose}"


@pytest.mark.parametrize(
    "code, expected",
    [
        ("f(1)", False), ("x = f(1)\nassert x == 2", True), ("test_fail(lambda: f(-1))", True),
        ("x = f(1)\ny = [a + x for a in z]\ntest_eq(y, [3])", True),
        ("x = [f(a) for a in z]\nassert all(a for a in y)", False), ("x = f(1)\nassert y", False),
        ("f(box)\nassert box.full", True), ("f(box)", False),
        ("print(f(1), box)\nassert box", False),
        ("def g(a): return f(a) + 1\ntest_eq(g(1), 3)", True), ("assert f\"{g}\" == 'f'", False),
    ],
)
def test_what_counts_as_an_assertion_of_f(code, expected):
    assert is_asserted("f", statements_of(code)) == expected


def test_flaws_of_an_exercise_are_seen():
    def cell(kind, text): return {"cell_type": kind, "source": text}
    good = [
        cell("markdown", "## Exercises\n\n**1. Twice.** Write `twice`."),
        cell("code", "def twice(x):\n    # hint: two\n    ..."),
        cell("code", "print('yours', twice(2), 'expected', 4)"),
        cell("code", "#| code-fold: true\ndef solution(x): return 2 * x\nassert solution(2) == 4"),
        cell("markdown", "## Recap"),
    ]
    assert [flaws_of_exercise(cells) for cells in exercises(good)] == [[]]
    for place, text, flaw in (
        (1, "def twice(x): ...", "no hint in the stub"),
        (2, "twice(2)", "nothing prints yours beside expected"),
        (
            2, "print('yours', solution(2), 'expected', 4)",
            "the check does not use what the stub defines",
        ),
        (3, "assert True", "no folded solution"),
        (3, "#| code-fold: true\nsolution = 4", "no assertion in the solution"),
    ):
        [cells] = exercises([*good[:place], cell("code", text), *good[place + 1:]])
        assert flaw in flaws_of_exercise(cells)


@each_chapter
def test_imports_come_from_lower_floors(path):
    if path.stem == "00_start": return  # The page that shows what the others build
    number, own = int(path.name[:2]), f"instop_nb.{path.stem.split('_', 1)[1]}"
    floor = {
        f"instop_nb.{chapter.stem.split('_', 1)[1]}": int(chapter.name[:2]) for chapter in CHAPTERS
    }
    for cell in cells_of(path):
        for name in imported_modules(cell):
            assert not name.startswith("."), f"write 'from instop_nb...' for {name}"
            if name.startswith("instop_nb."):
                module = ".".join(name.split(".")[:2])
                assert module != own and floor.get(module, 100) <= number, (
                    f"{name} is not from a lower floor"
                )


@each_chapter
def test_exported_code_needs_no_development_tools(path):
    names = {
        name.split(".")[0]
        for cell in cells_of(path)
        if is_exported(cell)
        for name in imported_modules(cell)
    }
    assert not names & DEVELOPMENT_ONLY


@each_chapter
def test_no_half_precision(path):
    found = [line for cell in cells_of(path) if not EXPECTS_ERROR.search(readme.source(cell))
             for line in code_lines(cell) if HALF_PRECISION.search(line)]
    assert not found, "T5 overflows in fp16; use bf16 or fp32"


@each_chapter
def test_docstrings_are_one_line(path):
    wrong = [
        node.name
        for _, definition in public_definitions(path)
        for node in [definition, *public_methods(definition)]
        if len((ast.get_docstring(node) or "").splitlines()) != 1
    ]
    assert not wrong, f"give each a docstring of one line: {wrong}"


@each_chapter
def test_parameters_are_explained(path):
    wrong = [problem for text, node in public_definitions(path) if isinstance(node, ast.FunctionDef)
             and not is_command(node) for problem in unexplained(node, text.splitlines())]
    assert not wrong, (
        "write a comment behind each parameter, and behind the end of the signature for what is "
        f"returned: {wrong}"
    )


def is_command(node):
    "Say whether a function is a command of the shell, whose options carry their help with them."
    return any(
        "command" in ast.unparse(decorator) or "callback" in ast.unparse(decorator)
        for decorator in getattr(node, "decorator_list", [])
    )


def unexplained(node, lines):
    """Return the parameters of a function, and its result, that no comment on a line of their
    own explains."""
    arguments = [
        *node.args.posonlyargs, *node.args.args, node.args.vararg, *node.args.kwonlyargs,
        node.args.kwarg,
    ]
    arguments = [argument for argument in arguments if argument]
    ends = [argument.end_lineno for argument in arguments]
    shared = {line for line in ends if ends.count(line) > 1}
    wrong = [f"{node.name}({argument.arg})" for argument in arguments
             if argument.end_lineno in shared or not has_comment(lines[argument.end_lineno - 1])]
    end_of_signature = max(node.lineno, node.body[0].lineno - 1)
    if gives_result(node) and not has_comment(lines[end_of_signature - 1]):
        wrong.append(f"{node.name} ->")
    return wrong


def has_comment(line):
    "Say whether a line ends with a comment that says something."
    return bool(re.search(r"#\s*(->)?\s*[^\s>-]", line))


def gives_result(node):
    "Say whether a function returns or yields something, and does not say that it returns None."
    if isinstance(node.returns, ast.Constant) and node.returns.value is None: return False
    return any(
        isinstance(item, (ast.Yield, ast.YieldFrom))
        or isinstance(item, ast.Return)
        and item.value is not None
        for item in ast.walk(node)
    )
