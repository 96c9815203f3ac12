"""The site shows notebooks as they were saved, says what directives mean, and links names,
chapters and files."""
import json

import links
import pytest
import readme
import website

PACKAGE = website.read_settings()["lib_path"]
EXPORTED = {
    "tasks": {"Task": None, "load": None, "COLOURS": "{'a': 1}"},
    "flan": {"Template": None, "render": None}, "prompts": {"Template": None, "render": None},
}
PICTURE = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5Erk"
    "Jggg=="
)


def text(words):
    "Return a text cell."
    return {"cell_type": "markdown", "id": f"m{abs(hash(words))}", "metadata": {}, "source": words}


def code(words, *outputs):
    "Return a code cell that has run."
    return {
        "cell_type": "code", "id": f"c{abs(hash(words))}", "metadata": {}, "source": words,
        "execution_count": None, "outputs": list(outputs),
    }


def shown(**data):
    "Return an output with texts by the last part of their kind."
    kinds = {"png": "image/png", "markdown": "text/markdown", "plain": "text/plain"}
    return {
        "output_type": "display_data", "metadata": {},
        "data": {kinds[kind]: value for kind, value in data.items()},
    }


@pytest.fixture
def project(tmp_path):
    "A repository of two notebooks, and a module that the package has too."
    for name in ("nbs", PACKAGE): (tmp_path / name).mkdir()
    (tmp_path / "settings.ini").write_text((readme.ROOT / "settings.ini").read_text())
    (tmp_path / PACKAGE / "tasks.py").write_text((readme.ROOT / PACKAGE / "tasks.py").read_text())
    words = "# Small words\n\nA `Task`, see [the front](index.ipynb#more).\n\n$$a_1 = b \\tag{2}$$"
    chapter = [code("#| default_exp tasks"), text(words),
               code("#| hide\nsecret()"), code("#| fig-alt: A dot.\ndraw()", shown(png=PICTURE)),
               code("#| code-fold: true\nsolution()", shown(plain="solved"))]
    index = [text("# Words\n\n[One](01_words.ipynb)\n\n## More\n\n[licence](../LICENSE)")]
    kernel = {"display_name": "python3", "language": "python", "name": "python3"}
    for name, cells in {"01_words": chapter, "index": index}.items():
        notebook = {
            "cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5,
        }
        (tmp_path / "nbs" / f"{name}.ipynb").write_text(json.dumps(notebook))
    return tmp_path


def test_directives_are_taken_off_the_top():
    assert website.directives("#| export\n#| fig-alt: A line: rising.\n\nx = 1\n#| y") == (
        {"export": "", "fig-alt": "A line: rising."}, "x = 1\n#| y")
    assert website.directives("#|hide") == ({"hide": ""}, "")
    assert website.directives("# | no\n") == ({}, "# | no\n")


@pytest.mark.parametrize("words", ["#| hide\nx = 1", "#| default_exp tasks", "#| export\n"])
def test_cells_with_nothing_to_show_are_left_out(words):
    assert website.new_code(code(words), str) is None


def test_code_fold_folds_and_fig_alt_describes():
    cell = website.new_code(
        code(
            "#| code-fold: true\n#| fig-alt: A dot.\nx = 1", shown(markdown=["a", "b"]),
            shown(plain="a"),
        ),
        str.upper,
    )
    assert cell["source"] == "x = 1"
    assert cell["metadata"] == {"tags": ["hide-input"], "mystnb": {"image": {"alt": "A dot."}}}
    assert [output["data"] for output in cell["outputs"]] == [
        {"text/markdown": "AB"}, {"text/plain": "a"},
    ]
    assert website.new_code(code("#| code-fold: false\nx = 1"), str)["metadata"] == {
        "tags": [], "mystnb": {},
    }


@pytest.mark.parametrize(
    "name, near, meant",
    [
        ("Task", [], "tasks.Task"), ("tasks.Task", [], "tasks.Task"),
        ("Task.read", [], "tasks.Task"), ("tasks.Task.read", [], "tasks.Task"),
        ("Template", [], None), ("Template", ["prompts", "flan"], "prompts.Template"),
        ("Task", ["flan"], None), ("flan.Template", ["prompts"], "flan.Template"),
        ("tasks.Template", [], None), ("tasks", [], None), ("task", [], None),
    ],
)
def test_a_name_means_what_the_chapter_can_see(name, near, meant):
    assert website.api_name(name, near, EXPORTED) == meant


@pytest.mark.parametrize(
    "words, expected",
    [
        ("A `Task`.", "A {py:obj}`Task <PACKAGE.tasks.Task>`."),
        ("`load(path)`", "{py:obj}`load(path) <PACKAGE.tasks.load>`"),
        ("`PACKAGE.flan.render`", "{py:obj}`PACKAGE.flan.render <PACKAGE.flan.render>`"),
        ("# The `Task`\n`render`", "# The `Task`\n`render`"),
        (
            "[`Task`](01_words.ipynb) and ``a `Task` ``",
            "[`Task`](01_words.ipynb) and ``a `Task` ``",
        ),
        ("```python\n`Task`\n```", "```python\n`Task`\n```"),
        (
            "[![Open](https://a.b/c.svg)](https://a.b) ![x](images/x.png)",
            "[Open](https://a.b) ![x](images/x.png)",
        ),
        ("<!-- badges -->\n\nx\n\n<!-- /badges -->a", "a"),
        ("[licence](../LICENSE)", "[licence](REPOSITORY/LICENSE)"),
    ],
)
def test_markdown_links_to_what_the_site_has(words, expected):
    settings = website.read_settings()
    address = f"{settings['git_url']}/blob/{settings['branch']}"
    made = website.new_markdown(words.replace("PACKAGE", PACKAGE), [], EXPORTED, settings)
    assert made == expected.replace("PACKAGE", PACKAGE).replace("REPOSITORY", address)


def test_own_module_comes_before_imported_ones():
    notebook = {"cells": [code("#| default_exp flan"), text(f"from {PACKAGE}.x import y"),
                          code(f"import re\nfrom {PACKAGE}.tasks import Task")]}
    assert website.modules_of(notebook, PACKAGE) == ["flan", "tasks"]


def test_api_page_names_chapter_and_constants():
    page = website.api_page("tasks", EXPORTED["tasks"], PACKAGE, "01_words", "Small words")
    assert page.startswith(
        "tasks\n=====\n\nChapter 1, :doc:`Small words </01_words>`, makes this module."
    )
    assert (
        f".. automodule:: {PACKAGE}.tasks\n" in page
        and ".. py:data:: COLOURS\n   :value: {'a': 1}\n" in page
    )
    assert "py:data:: Task" not in page


def test_prepare_lists_chapters_and_modules_in_the_index(project):
    website.prepare(project / "made", project)
    index = readme.read_notebook(project / "made" / "index.ipynb")
    assert "1 · Small words <01_words>" in index["cells"][-3]["source"]
    assert "\napi/tasks\n" in index["cells"][-1]["source"]
    assert (project / "made" / "api" / "tasks.rst").exists()
    assert "secret" not in (project / "made" / "01_words.ipynb").read_text()


@pytest.mark.parametrize(
    "address, problem",
    [
        ("b.html#there", None), ("https://a.b/c", None), ("#here", None), ("b.html", None),
        ("data:,x", None), ("s.png?v=1", None), ("b.html#gone", "has no such anchor"),
        ("#gone", "has no such anchor"), ("c.html", "is not there"), ("../a.html", "is not there"),
    ],
)
def test_dead_links_are_named(tmp_path, address, problem):
    (tmp_path / "a.html").write_text(f'<p id="here"><a href="{address}">x</a>')
    (tmp_path / "b.html").write_text('<p id="there">')
    (tmp_path / "s.png").write_text("")
    assert links.dead_links(tmp_path) == ([f"a.html: {address} {problem}"] if problem else [])


@pytest.mark.parametrize(
    "tag", ['<img src="{}">', '<script src="{}"></script>', '<link rel="stylesheet" href="{}">']
)
def test_what_a_page_fetches_from_elsewhere_is_named(tmp_path, tag):
    (tmp_path / "a.html").write_text(tag.format("https://a.b/c"))
    assert links.dead_links(tmp_path) == ["a.html: https://a.b/c is fetched from elsewhere"]


def test_two_small_notebooks_make_a_site_without_dead_links(project):
    pytest.importorskip("myst_nb", reason="run `make site` first, which installs the builder")
    website.prepare(project / "made", project)
    assert website.build(project / "made", project / "site") == 0
    assert links.dead_links(project / "site") == []
    chapter = (project / "site" / "01_words.html").read_text()
    assert (
        'alt="A dot."' in chapter
        and "<details" in chapter
        and "solved" in chapter
        and "secret" not in chapter
    )
    assert (
        f'href="api/tasks.html#{PACKAGE}.tasks.Task"' in chapter
        and 'href="index.html#more"' in chapter
    )
    assert (
        "mathjax/tex-chtml.js" in chapter
        and (project / "site" / "_static" / "mathjax" / "tex-chtml.js").exists()
    )
    api = (project / "site" / "api" / "tasks.html").read_text()
    assert "Wordings; a model is shown the first" in api and f'id="{PACKAGE}.tasks.COLOURS"' in api
    (project / "site" / "01_words.html").unlink()
    assert "index.html: 01_words.html is not there" in links.dead_links(project / "site")
