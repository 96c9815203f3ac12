"""README.md stays short, every command in it exists, and what is generated in the notebooks is
up to date."""
import ast
import importlib.util
import re
import shlex
import shutil
from pathlib import Path

import pytest
import readme

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"


def commands():
    """Yield every make and instop command of the README, in sh blocks and between backticks, as
    a list of words."""
    text = README.read_text(encoding="utf-8")
    lines = (
        "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ").splitlines()
    )
    for line in lines + re.findall(r"`((?:make|instop) [^`\n]+)`", text):
        words = shlex.split(line, comments=True)
        if words: yield [Path(words[0]).name, *words[1:]]


def flags(words):
    "Return the options among the words, without their values and without those in [brackets]."
    return [word.strip("[]").split("=")[0] for word in words if word.strip("[]").startswith("--")]


def test_readme_is_under_150_lines():
    assert len(README.read_text(encoding="utf-8").splitlines()) < 150


def test_readme_has_one_picture_and_it_exists():
    pictures = [
        target
        for target in re.findall(r"(?m)^!\[[^\]]+\]\(([^)]+)\)", README.read_text(encoding="utf-8"))
        if "://" not in target
    ]
    assert len(pictures) == 1 and (ROOT / pictures[0]).exists(), pictures


def test_relative_links_of_the_readme_exist():
    targets = re.findall(r"\]\(([^)#\s]+)\)", README.read_text(encoding="utf-8"))
    missing = [target for target in targets if "://" not in target and not (ROOT / target).exists()]
    assert not missing, missing


def test_make_targets_of_the_readme_exist():
    targets = set(re.findall(r"(?m)^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8")))
    named = {
        word for words in commands() if words[0] == "make" for word in words[1:] if "=" not in word
    }
    assert named and named <= targets, named - targets


def test_instop_commands_of_the_readme_exist():
    if importlib.util.find_spec("instop_nb.cli") is None:
        pytest.skip("instop_nb.cli does not exist yet")
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


# What is generated in the notebooks

@pytest.fixture(scope="module")
def up_to_date(tmp_path_factory):
    "Return a copy of all that tools/readme.py reads and writes, brought up to date."
    folder = tmp_path_factory.mktemp("up to date")
    for name in (
        "settings.ini", "README.md", readme.RECORD,
        *[path.relative_to(ROOT) for path in readme.all_notebooks(ROOT)],
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    readme.main(check=False, root=folder)
    return folder


@pytest.fixture
def copy(up_to_date, tmp_path):
    "Return a copy of that copy, to be damaged."
    return shutil.copytree(up_to_date, tmp_path, dirs_exist_ok=True)


def test_readme_badges_and_install_cells_are_in_sync():
    assert readme.main(check=True) == 0, "run `make prepare`"


def test_a_second_run_writes_nothing(copy, capsys):
    capsys.readouterr()
    assert readme.main(check=False, root=copy) == 0
    assert capsys.readouterr().out == ""


def test_the_install_cell_stands_right_after_the_header(copy):
    for path in readme.chapters(copy):
        cells = readme.read_notebook(path)["cells"]
        place = [n for n, cell in enumerate(cells) if cell["id"] == "install-in-colab"]
        assert place == [1 if path.stem == "00_start" else 2], path.name
        assert readme.source(cells[place[0]]) == readme.install_code(readme.read_settings(copy))


@pytest.mark.parametrize(
    "damage",
    [
        lambda cells: cells.pop(2), lambda cells: cells.append(cells.pop(2)),
        lambda cells: cells[2].update(source=["pass"]), lambda cells: cells[2].update(id="other"),
    ],
    ids=["missing", "moved", "changed", "other id"],
)
def test_check_tells_of_an_install_cell_that_is_wrong_and_a_run_mends_it(copy, capsys, damage):
    path = copy / "nbs" / "1_instructions" / "11_tasks.ipynb"
    right, notebook = path.read_text(encoding="utf-8"), readme.read_notebook(path)
    damage(notebook["cells"])
    path.write_text(readme.notebook_text(notebook), encoding="utf-8")
    capsys.readouterr()
    assert readme.main(check=True, root=copy) == 1
    stale = "nbs/1_instructions/11_tasks.ipynb: out of date; run `make prepare`\n"
    assert capsys.readouterr().out == stale
    readme.main(check=False, root=copy)
    assert path.read_text(encoding="utf-8") == right


def test_the_install_cell_is_four_lines_of_python_with_address_and_branch():
    settings = {"lib_name": "fox", "git_url": "https://example.org/den/fox", "branch": "winter"}
    code = readme.install_code(settings)
    assert len([line for line in code.splitlines() if not line.startswith("#|")]) == 4
    ast.parse(code)
    assert "'fox[dev] @ git+https://example.org/den/fox@winter'" in code
