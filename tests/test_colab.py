"""The cell that installs the package in Colab, run in a fresh environment without net: it
installs once, and the package works."""
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import readme

ROOT = Path(__file__).resolve().parent.parent
PARTS = [
    "settings.ini", "setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE",
    "constraints.txt",
]
RUN_TWICE = """
import importlib.util, os, sys, types
from importlib.machinery import ModuleSpec
if os.environ["IN_COLAB"]:
    sys.modules["google.colab"] = types.ModuleType("google.colab")
    # transformers asks for it
    sys.modules["google.colab"].__spec__ = ModuleSpec("google.colab", None)
from IPython.core.interactiveshell import InteractiveShell
shell, commands = InteractiveShell.instance(), []
run_magic = shell.run_line_magic
def run_line_magic(*arguments, **options):
    commands.append(arguments[0])
    return run_magic(*arguments, **options)
shell.run_line_magic = run_line_magic
assert importlib.util.find_spec("instop_nb") is None, "a package before the cell has run"
for _ in range(2): assert shell.run_cell(sys.argv[1]).success
if os.environ["IN_COLAB"]:
    import instop_nb.tasks
    from instop_nb.recipes import read_recipe
    from instop_nb.tables import read_record
    # What chapters 41, 47 and 98 read
    read_recipe("paper"), read_record("demo"), read_record("bench-hypergradient")
    print(instop_nb.__file__)
print(commands, importlib.util.find_spec("instop_nb") is not None)
"""


def can_build():
    "Say whether pip, setuptools and a way to make wheels are installed."
    has = importlib.util.find_spec
    return bool(
        has("pip") and has("setuptools") and (has("wheel") or has("setuptools.command.bdist_wheel"))
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    "Build a wheel from a copy of the repository, without net; return its path, or skip."
    if not can_build():
        pytest.skip("cannot build a wheel offline: pip, setuptools and wheel must be installed")
    folder = tmp_path_factory.mktemp("wheel")
    for name in PARTS: shutil.copy(ROOT / name, folder)
    shutil.copytree(
        ROOT / "instop_nb", folder / "instop_nb", ignore=shutil.ignore_patterns("__pycache__")
    )
    subprocess.run(
        [
            sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-index",
            "--no-build-isolation", "-w", folder / "dist", folder,
        ],
        check=True,
    )
    return next((folder / "dist").glob("*.whl"))


@pytest.fixture
def python(tmp_path):
    "Make an environment that has all packages of this one but instop_nb; return its Python."
    packages = tmp_path / "packages"
    packages.mkdir()
    for site in [
        Path(entry) for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages")
    ]:
        for entry in site.iterdir():
            ours = entry.name.lower().replace("-", "_").startswith(("instop_nb", "__editable__"))
            if not ours and not (packages / entry.name).exists():
                (packages / entry.name).symlink_to(entry)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    own = next((tmp_path / "venv").glob("lib/python*/site-packages"))
    (own / "packages.pth").write_text(f"{packages}\n")
    return tmp_path / "venv" / "bin" / "python"


def run_twice(python, wheel, folder, in_colab):
    """Run the cell twice, outside the repository, with the wheel in place of the repository's
    address; return what it printed."""
    settings = readme.read_settings(ROOT)
    address = f"git+{settings['git_url']}@{settings['branch']}"
    code = readme.install_code(settings)
    assert address in code
    offline = {
        "PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "IPYTHONDIR": str(folder / "ipython"),
        "IN_COLAB": "yes" if in_colab else "",
    }
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "VIRTUAL_ENV")
    }
    done = subprocess.run(
        [python, "-c", RUN_TWICE, code.replace(address, wheel.as_uri())], cwd=folder,
        env={**environment, **offline}, capture_output=True, text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip().splitlines()


def test_in_colab_the_cell_installs_once(python, wheel, tmp_path):
    *_, place, found = run_twice(python, wheel, tmp_path, in_colab=True)
    assert found == "['pip'] True"
    assert Path(place).is_relative_to(tmp_path / "venv"), place


def test_elsewhere_the_cell_does_nothing(python, wheel, tmp_path):
    assert run_twice(python, wheel, tmp_path, in_colab=False) == ["[] False"]
