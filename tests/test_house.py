"""The rules of the house: a chapter is a floor, a module has one subject, a name stands once."""
import ast
import re
from collections import Counter
from pathlib import Path

import pytest
import readme

ROOT = Path(__file__).resolve().parent.parent
MODULES = {path.stem: path for path in sorted((ROOT / "instop_nb").glob("*.py"))
           if not path.stem.startswith("_")}
CHAPTERS = {path.stem.split("_", 1)[1]: path for path in readme.chapters(ROOT)}

each_module = pytest.mark.parametrize("name", MODULES)


def floor(name):
    "Return the number of the chapter that exports a module; a side chapter has that of its own."
    return int(CHAPTERS[name].stem[:2])


def tree_of(name):
    "Return a module's syntax tree."
    return ast.parse(MODULES[name].read_text(encoding="utf-8"))


def own_imports(tree):
    "Yield (module, name) for each name that a module takes from another one of the package."
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level and node.module:
            for alias in node.names: yield node.module, alias.name
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("instop_nb."):
            for alias in node.names: yield node.module.split(".")[1], alias.name


def definitions(tree):
    "Return the names of the functions and classes at the top of a module."
    return [node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]


@each_module
def test_a_module_is_at_most_300_lines(name):
    assert len(MODULES[name].read_text(encoding="utf-8").splitlines()) <= 300


@each_module
def test_a_line_is_at_most_100_wide(name):
    text = re.sub(r"^__all__ = .*?\]$", "", MODULES[name].read_text(encoding="utf-8"),
                  flags=re.DOTALL | re.MULTILINE)  # nbdev breaks its lines
    assert not [line for line in text.splitlines() if len(line) > 100 and not line.startswith("#")]


@each_module
def test_nothing_is_imported_from_a_higher_floor(name):
    upward = [(module, what) for module, what in own_imports(tree_of(name))
              if floor(module) > floor(name)]
    assert not upward


def test_no_module_imports_itself_in_a_circle():
    below = {name: {module for module, _ in own_imports(tree_of(name))} for name in MODULES}
    while below:
        free = [name for name, needs in below.items() if not needs & below.keys()]
        assert free, f"in a circle: {sorted(below)}"
        for name in free: del below[name]


@each_module
def test_no_private_name_is_imported(name):
    assert not [what for _, what in own_imports(tree_of(name)) if what.startswith("_")]


@each_module
def test_nothing_is_set_on_a_class_from_outside(name):
    targets = [target for node in tree_of(name).body if isinstance(node, ast.Assign)
               for target in node.targets]
    parts = [part for target in targets for part in ast.walk(target)]
    assert not [ast.unparse(part) for part in parts if isinstance(part, ast.Attribute)
                and isinstance(part.value, ast.Name) and part.value.id[:1].isupper()]


@each_module
def test_no_call_has_more_than_six_positions(name):
    calls = [node for node in ast.walk(tree_of(name)) if isinstance(node, ast.Call)]
    assert not [ast.unparse(call.func) for call in calls if len(call.args) > 6
                and not any(isinstance(part, ast.Starred) for part in call.args)]


def test_a_name_stands_once_in_the_package():
    # The first world has names that the second one has as well; it goes when the studies have moved
    modules = [module for module in MODULES if not module.startswith("first_")]
    counts = Counter(name for module in modules for name in definitions(tree_of(module)))
    assert not [name for name, n in counts.items() if n > 1]


def test_parts_are_folders_with_chapters():
    parts = Counter(path.parent.name for path in CHAPTERS.values())
    assert len([part for part in parts if re.match(r"\d_", part)]) >= 5
    assert parts["nbs"] == 1, "only the start page stands above the parts"
