"""Makes the site of the course in build/site and checks its links: `python tools/website.py`, or
`make site`.

Notebooks are shown with the outputs that they were saved with; none is run. What nbdev's directives
say is done first:
a cell with `#| hide` is left out, `#| code-fold: true` folds it, `#| fig-alt` describes its
picture. Sphinx, as
tools/site_conf/conf.py sets it up, makes the pages; nothing of them is fetched from elsewhere.
"""
import ast
import posixpath
import re
import shutil
import sys
from functools import partial
from pathlib import Path
from textwrap import shorten

from links import dead_links
from readme import (
    ROOT, all_notebooks, chapters, notebook_text, place, read_notebook, read_settings, source,
)

DIRECTIVE = re.compile(r"#\|[ \t]*([\w-]+)[: \t]*(.*)\s*")
BADGE_BLOCK = re.compile(r"<!-- badges -->.*?<!-- /badges -->", re.DOTALL)
FETCHED_IMAGE = re.compile(r"!\[([^\]]*)\]\(https?:[^)]*\)")
INLINE_CODE = re.compile(
    r"```.*?```|``.*?``|^#.*?$|\[[^\]]*\]\([^)]*\)|`(?P<name>[\w.]+)(?P<call>\([^`<>\n]*\))?`",
    re.DOTALL | re.MULTILINE,
)


def directives(text):
    "Split a cell's text into its directives, {name: value}, and what stands below them."
    found = {}
    while match := DIRECTIVE.match(text):
        found[match[1]], text = match[2].strip(), text[match.end():]
    return found, text


def assigned(path):
    "Return {name: node of its value} of all that a module assigns at its top level."
    return {
        node.targets[0].id: node.value
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }


def exports(root=ROOT):
    """Return {module: {name: its value as the code has it, or None for functions and classes}}
    of all that is exported."""
    found = {}
    for path in sorted((root / read_settings(root)["lib_path"]).glob("*.py")):
        values = assigned(path)
        names = ast.literal_eval(values.get("__all__", ast.List([])))
        if names:
            found[path.stem] = {
                name: ast.unparse(values[name]) if name in values else None for name in names
            }
    return found


def modules_of(notebook, package):
    """Return the modules whose names a notebook uses: the one that it exports first, then those
    that it imports."""
    code = "\n".join(source(cell) for cell in notebook["cells"] if cell["cell_type"] == "code")
    return re.findall(r"^#\| default_exp (\w+)", code, re.MULTILINE) + re.findall(
        rf"from {package}\.(\w+) import", code
    )


def api_name(name, near, exported):
    """Return what `Task`, `Task.name` or `tasks.Task` means, tasks.Task, or None; without `near`
    modules only one may have it."""
    head, _, rest = name.partition(".")
    inner = rest.split(".")[0]
    if inner in exported.get(head, {}): return f"{head}.{inner}"
    homes = [module for module in near or exported if head in exported.get(module, {})]
    return f"{homes[0]}.{head}" if homes and (near or len(homes) == 1) else None


def outside(target, part, settings):
    "Return where a link leads: into the repository if it leaves nbs/, else where it led."
    path = posixpath.normpath(posixpath.join(part, target))
    if "://" in target or not path.startswith("../"): return target
    return f"{settings['git_url']}/blob/{settings['branch']}/{path[3:]}"


def new_markdown(text, near, exported, settings, part=""):
    """Return text for the site: names link to the API, files outside of nbs/ to the repository,
    and badges become words."""
    def link(match):
        meant = match["name"] and api_name(
            match["name"].removeprefix(f"{settings['lib_path']}."), near, exported
        )
        return (
            f"{{py:obj}}`{match[0][1:-1]} <{settings['lib_path']}.{meant}>`" if meant else match[0]
        )
    text = FETCHED_IMAGE.sub(r"\1", BADGE_BLOCK.sub("", text))
    text = re.sub(r"\]\((\.\./[^)]*)\)", lambda m: f"]({outside(m[1], part, settings)})", text)
    return INLINE_CODE.sub(link, text)


def new_output(output, rewrite):
    "Return an output whose markdown, if it has any, is rewritten like that of a text cell."
    data = output.get("data", {})
    if "text/markdown" not in data: return output
    return {**output, "data": {**data, "text/markdown": rewrite("".join(data["text/markdown"]))}}


def new_code(cell, rewrite):
    "Return a code cell in the builder's terms, or None where there is nothing to show."
    told, text = directives(source(cell))
    if "hide" in told or not text.strip(): return None
    tags = ["hide-input"] if told.get("code-fold") == "true" else []
    shown = {"image": {"alt": told["fig-alt"]}} if "fig-alt" in told else {}
    return {**cell, "source": text, "metadata": {"tags": tags, "mystnb": shown},
            "outputs": [new_output(output, rewrite) for output in cell["outputs"]]}


def new_notebook(notebook, exported, settings, part=""):
    "Return a notebook with each cell made fit for the site."
    near = modules_of(notebook, settings["lib_path"])
    rewrite = partial(new_markdown, near=near, exported=exported, settings=settings, part=part)
    cells = [
        new_code(cell, rewrite)
        if cell["cell_type"] == "code"
        else {**cell, "source": rewrite(source(cell))}
        for cell in notebook["cells"]
    ]
    return {**notebook, "cells": [cell for cell in cells if cell]}


def title_of(notebook):
    "Return the first heading of a notebook."
    text = "\n".join(source(cell) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    return re.search(r"^# (.+)", text, re.MULTILINE)[1]


def table_of_contents(caption, lines):
    "Return a cell that lists pages in the sidebar."
    listed = "\n".join(["```{toctree}", ":hidden:", f":caption: {caption}", "", *lines, "```"])
    return {
        "cell_type": "markdown", "metadata": {}, "id": re.sub(r"\W", "-", caption),
        "source": listed,
    }


def api_page(module, exported, package, page, title):
    """Return the page of a module, which links to the chapter that exports it; autodoc passes over
    constants, so they are listed."""
    number = Path(page).name.partition("_")[0]
    lines = [
        module, "=" * len(module), "",
        f"Chapter {number.lstrip('0')}, :doc:`{title} </{page}>`, makes this module.", "",
        f".. automodule:: {package}.{module}", "",
    ]
    for name, value in exported.items():
        if not value: continue
        shown = shorten(value, 200, placeholder=" ...")
        lines += [f".. py:data:: {name}", f"   :value: {shown}", ""]
    return "\n".join(lines)


def contents(books, numbered, exported):
    "Return the cells that list all pages in the sidebar."
    titles = {page: title_of(book) for page, book in books.items()}
    lines = [f"{Path(page).name.partition('_')[0].lstrip('0') or 0} · {titles[page]} <{page}>"
             for page in numbered]
    others = [page for page in books if page not in {"index", *numbered}]
    return [
        table_of_contents("Chapters", lines), table_of_contents("Beside the chapters", others),
        table_of_contents("API", [f"api/{module}" for module in exported]),
    ]


def prepare(folder, root=ROOT):
    """Write all that the builder reads into an emptied `folder`: notebooks, their images, a page
    for each module."""
    settings, exported = read_settings(root), exports(root)
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "api").mkdir(parents=True)
    if (root / "nbs" / "images").exists():
        shutil.copytree(root / "nbs" / "images", folder / "images")
    books = {place(path, root)[:-6]: read_notebook(path) for path in all_notebooks(root)}
    numbered = [place(path, root)[:-6] for path in chapters(root)]
    for page, book in books.items():
        made = new_notebook(book, exported, settings, posixpath.dirname(page))
        if page == "index": made["cells"] += contents(books, numbered, exported)
        (folder / page).parent.mkdir(exist_ok=True)
        (folder / f"{page}.ipynb").write_text(notebook_text(made), encoding="utf-8")
    for page in numbered:
        for module in set(modules_of(books[page], settings["lib_path"])[:1]) & exported.keys():
            text = api_page(
                module, exported[module], settings["lib_path"], page, title_of(books[page])
            )
            (folder / "api" / f"{module}.rst").write_text(text, encoding="utf-8")


def build(folder, site):
    "Run the builder, strictly; return its exit status."
    from sphinx.cmd.build import build_main
    options = [
        "-q", "-W", "--keep-going", "-c", Path(__file__).parent / "site_conf", "-d",
        folder / ".cache",
    ]
    return build_main([str(part) for part in [*options, folder, site]])


def main(folder=ROOT / "build" / "site_source", site=ROOT / "build" / "site"):
    "Prepare, build and check; return the exit status."
    prepare(folder)
    shutil.rmtree(site, ignore_errors=True)
    status = build(folder, site)
    dead = dead_links(site)
    n, front = len(list(site.rglob("*.html"))), site.relative_to(ROOT) / "index.html"
    print("\n".join(dead) or f"{n} pages, no dead link: open {front}")
    return 1 if status or dead else 0


if __name__ == "__main__": sys.exit(main())
