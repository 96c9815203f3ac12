"""The repository's address stands once, in settings.ini; wherever else it appears, a tool wrote
it."""
import ast
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest
import readme

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = readme.read_settings(ROOT)
ADDRESS = re.compile(
    "|".join(
        [
            rf"\b{re.escape(SETTINGS['user'])}\b",
            re.escape(f"{SETTINGS['user']}/{SETTINGS['repo']}"), re.escape(SETTINGS["doc_host"]),
            re.escape(SETTINGS["git_url"]),
        ]
    ),
    re.IGNORECASE,
)


def files():
    "Return the paths of all files that git tracks or would track."
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                            cwd=ROOT, capture_output=True, text=True)
    if listed.returncode: pytest.skip("not in a git clone: git cannot list the files")
    return [
        ROOT / name
        for name in sorted(set(listed.stdout.split("\0")))
        if name and (ROOT / name).is_file()
    ]


def written_by_hand(path):
    """Return a file's text without the lines that a tool generates, so that only our own words
    remain."""
    text = path.read_bytes().decode("utf-8", errors="ignore")
    if path.name == "_modidx.py": return without_settings(text)
    if path.suffix == ".ipynb": text = notebook_words(path)
    generated = generated_lines()
    return "\n".join(line for line in text.splitlines() if line not in generated)


@cache
def generated_lines():
    """Return all lines with the address that tools/readme.py writes now, in notebooks and in
    README.md."""
    names = [readme.place(path) for path in readme.chapters(ROOT)]
    lines = [
        readme.badges(SETTINGS), *[readme.colab_badge(SETTINGS, name) for name in names],
        *readme.install_code(SETTINGS).splitlines(),
        *readme.chapter_table(SETTINGS, ROOT).splitlines(),
    ]
    return set(lines) | set(readme.rewrite_links("\n".join(lines)).splitlines())


def notebook_words(path):
    "Return all cells and outputs of a notebook as text."
    cells = readme.read_notebook(path)["cells"]
    return "\n".join(readme.source(cell) + "\n" + str(cell.get("outputs", "")) for cell in cells)


def without_settings(text):
    "Return nbdev's index without its copy of the settings, once that is found to be a true copy."
    index = ast.literal_eval(text.split("d = ", 1)[1])
    for name, value in index.pop("settings").items():
        assert value == SETTINGS[name], f"_modidx.py: {name}; run `make prepare`"
    return str(index)


def test_the_address_stands_once():
    copies = [
        f"{path.relative_to(ROOT)}: {line.strip()[:150]}"
        for path in files()
        if path.name != "settings.ini"
        for line in written_by_hand(path).splitlines()
        if ADDRESS.search(line)
    ]
    assert not copies, "generate these from settings.ini:\n" + "\n".join(copies)


def test_settings_say_user_and_repository_once():
    text = (ROOT / "settings.ini").read_text(encoding="utf-8")
    assert len(re.findall(rf"\b{re.escape(SETTINGS['user'])}\b", text)) == 1
    assert re.findall(r"://\S+", text) == [
        "://github.com/%(user)s/%(repo)s", "://%(user)s.github.io",
    ]


def test_no_large_file():
    large = {
        path.relative_to(ROOT).as_posix(): path.stat().st_size
        for path in files()
        if path.stat().st_size > 4 * 2**20
    }
    assert not large
