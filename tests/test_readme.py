"""README.md stays short, and every command in it exists."""
import importlib.util
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"


def commands():
    "Yield every make and instop command of the README, in sh blocks and between backticks, as a list of words."
    text = README.read_text(encoding="utf-8")
    lines = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ").splitlines()
    for line in lines + re.findall(r"`((?:make|instop) [^`\n]+)`", text):
        words = shlex.split(line, comments=True)
        if words: yield [Path(words[0]).name, *words[1:]]


def flags(words):
    "Return the options among the words, without their values and without those in [brackets]."
    return [word.strip("[]").split("=")[0] for word in words if word.strip("[]").startswith("--")]


def test_readme_is_under_150_lines():
    assert len(README.read_text(encoding="utf-8").splitlines()) < 150


def test_readme_has_one_picture_and_it_exists():
    pictures = [target for target in re.findall(r"(?m)^!\[[^\]]+\]\(([^)]+)\)", README.read_text(encoding="utf-8"))
                if "://" not in target]
    assert len(pictures) == 1 and (ROOT / pictures[0]).exists(), pictures


def test_relative_links_of_the_readme_exist():
    targets = re.findall(r"\]\(([^)#\s]+)\)", README.read_text(encoding="utf-8"))
    missing = [target for target in targets if "://" not in target and not (ROOT / target).exists()]
    assert not missing, missing


def test_make_targets_of_the_readme_exist():
    targets = set(re.findall(r"(?m)^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8")))
    named = {word for words in commands() if words[0] == "make" for word in words[1:] if "=" not in word}
    assert named and named <= targets, named - targets


def test_instop_commands_of_the_readme_exist():
    if importlib.util.find_spec("instop_nb.cli") is None: pytest.skip("instop_nb.cli does not exist yet")
    import typer
    from instop_nb.cli import app
    known = typer.main.get_command(app).commands
    named = [words for words in commands() if words[0] == "instop"]
    assert named
    for _, name, *rest in named:
        assert name in known, f"the README names `instop {name}`; there are: {', '.join(known)}"
        options = {option for parameter in known[name].params
                   for option in [*parameter.opts, *parameter.secondary_opts]} | {"--help"}
        assert set(flags(rest)) <= options, f"`instop {name}` has no {set(flags(rest)) - options}"
