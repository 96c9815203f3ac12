"""Writes README.md and all that is generated in the notebooks; `--check` only tells what is stale.

Sources: settings.ini (the repository's address), the header cell of each chapter, and the saved
records of the demo and of the chapters' running times.
Written: the minutes in each chapter's header, the Colab badge below it and the cell after it,
which installs the package in Colab; the metadata that folds a solution away; the parts of
nbs/index.ipynb between `<!-- name -->` and `<!-- /name -->`; and README.md, which is the text of
nbs/index.ipynb with its links made to fit.
"""
import json
import re
import sys
from configparser import ConfigParser
from math import ceil
from pathlib import Path

from instop_nb.course import PARTS, notebooks

ROOT = Path(__file__).resolve().parent.parent
RECORD = "instop_nb/records/demo.json"
TIMES = "instop_nb/records/chapters.json"
INSTALL_CELL = "install-in-colab"  # the cell's id, by which it is found again
HEADER = re.compile(
    r"# (?P<title>[^\n]+)\n\n?> (?P<says>[^\n]+)\n\n"
    r"\*You will build\*: (?P<builds>[^\n]+?) · \*You need\*: (?P<needs>[^\n]+?) · "
    r"\*Paper\*: (?P<paper>[^\n]+?) · \*Minutes\*: (?P<time>(?:\d+ to work through, )?"
    r"(?P<minutes>\d+)(?: to run)?) · "
    r"\*Device\*: (?P<device>[^\n]+?)"
    r"(?:\n\n(?P<colab>\[!\[Open in Colab\][^\n]*))?\s*"
)


def read_settings(root=ROOT):
    "Return the values of settings.ini."
    config = ConfigParser(delimiters=["="])
    config.read(root / "settings.ini", encoding="utf-8")
    return config["DEFAULT"]


def read_notebook(path):
    "Return the notebook as a dict."
    return json.loads(path.read_text(encoding="utf-8"))


def notebook_text(notebook):
    "Return the notebook as nbdev_clean writes it."
    return json.dumps(notebook, sort_keys=True, indent=1, ensure_ascii=False) + "\n"


def source(cell):
    "Return a cell's text, which files keep as one text or as a list of lines."
    return "".join(cell["source"])


def set_source(cell, text):
    "Give a cell a new text."
    cell["source"] = text.splitlines(keepends=True)


def chapters(root=ROOT):
    "Return the paths of the numbered notebooks, in order; the one list that all tools follow."
    return notebooks(root / "nbs")


def all_notebooks(root=ROOT):
    "Return the paths of all notebooks, the numbered ones first."
    found = [path for folder in ("nbs", *(f"nbs/{part}" for part in PARTS))
             for path in sorted((root / folder).glob("*.ipynb"))]
    return [*chapters(root), *(path for path in found if path not in chapters(root))]


def place(path, root=ROOT):
    "Return where a notebook lies in nbs/: 1_instructions/11_tasks.ipynb."
    return path.relative_to(root / "nbs").as_posix()


def header_of(notebook, where):
    "Return the match of the chapter's header, which is its first or second cell."
    first = next(cell for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    match = HEADER.fullmatch(source(first))
    if not match:
        raise SystemExit(
            f"nbs/{where}: the first text must be the header: '# Title', '> One sentence.', an "
            "empty line, and\n*You will build*: ... · *You need*: ... · *Paper*: ... · "
            "*Minutes*: 6 · *Device*: CPU"
        )
    return match


def measured(root=ROOT):
    "Return the CPU seconds of each chapter's runs; none where they have not been measured."
    path = root / TIMES
    return json.loads(path.read_text(encoding="utf-8"))["cpu_seconds"] if path.exists() else {}


def minutes(header, name, seconds):
    """Return the measured CPU minutes of a chapter, rounded up; those of its header where none
    have been measured."""
    return str(ceil(max(seconds[name]) / 60)) if name in seconds else header["minutes"]


def minutes_of_reader(cells):
    """Return about how many minutes a reader needs: 200 words or 20 lines of code in one, and
    what the exercises say."""
    texts = {kind: [source(c) for c in cells if c["cell_type"] == kind
                    and not re.match(r"#\|\s*(hide|code-fold)", source(c))]
             for kind in ("markdown", "code")}
    words = sum(len(text.split()) for text in texts["markdown"])
    lines = sum(len(text.splitlines()) for text in texts["code"])
    asked = re.findall(r"^@exercise\(.*minutes=(\d+)", "\n".join(texts["code"]), re.MULTILINE)
    return ceil((words / 200 + lines / 20 + sum(map(int, asked))) / 5) * 5


def fold_solutions(cells):
    "Fold the code of solutions away where notebooks are edited: in JupyterLab and in Colab."
    for cell in cells:
        folded = re.match(r"#\|\s*code-fold: true", source(cell))
        if folded: cell["metadata"] = {"cellView": "form", "jupyter": {"source_hidden": True}}


def colab_badge(settings, where):
    "Return the badge that opens a notebook in Colab."
    home = f"{settings['user']}/{settings['repo']}/blob/{settings['branch']}/nbs/{where}"
    picture = "https://colab.research.google.com/assets/colab-badge.svg"
    return f"[![Open in Colab]({picture})](https://colab.research.google.com/github/{home})"


def install_code(settings):
    "Return the code that installs the package in Colab, once; the chapters' tests need [dev]."
    package, address = settings["lib_name"], f"git+{settings['git_url']}@{settings['branch']}"
    return (
        "#| hide\nimport importlib.util, sys\n"
        f'if "google.colab" in sys.modules and not importlib.util.find_spec("{package}"):\n'
        f"    wanted = \"'{package}[dev] @ {address}'\"\n"
        '    get_ipython().run_line_magic("pip", f"install -q {wanted}")'
    )


def with_install_cell(cells, settings):
    "Return a chapter's cells with the one that installs the package right after the header."
    code = install_code(settings)
    others = [cell for cell in cells if cell.get("id") != INSTALL_CELL and source(cell) != code]
    install = {
        "cell_type": "code", "execution_count": None, "id": INSTALL_CELL, "metadata": {},
        "outputs": [], "source": code.splitlines(keepends=True),
    }
    head = next(n for n, cell in enumerate(others) if cell["cell_type"] == "markdown") + 1
    return [*others[:head], install, *others[head:]]


def badges(settings):
    "Return the badges at the head of the README."
    python = settings["min_python"]
    tests = f"{settings['git_url']}/actions/workflows/test.yml"
    return (
        f"[![Tests]({tests}/badge.svg)]({tests}) "
        f"![Python {python} or newer](https://img.shields.io/badge/python-{python}%2B-blue) "
        f"{colab_badge(settings, 'index.ipynb')}"
    )


def table_row(*values):
    "Return one row of a markdown table."
    return "| " + " | ".join(value.replace("|", "\\|") for value in values) + " |"


def linked(path, root=ROOT):
    "Return a link to a chapter, and below it those to its side chapters: 16b and 16c of 16."
    sides = [p for p in chapters(root) if re.match(rf"{path.stem[:2]}[a-z]_", p.stem)]
    links = [f"[{header_of(read_notebook(p), place(p, root))['title']}]({place(p, root)})"
             for p in [path, *sides]]
    return "<br>· ".join(links)


def chapter_row(path, settings, seconds, root=ROOT):
    "Return the row of a chapter, made from its header."
    where = place(path, root)
    notebook = read_notebook(path)
    header = header_of(notebook, where)
    return table_row(
        path.stem[:2], linked(path, root), header["builds"], header["paper"],
        f"{minutes_of_reader(notebook['cells'])} + {minutes(header, path.name, seconds)}",
        header["device"], colab_badge(settings, where),
    )


def chapter_table(settings, root=ROOT):
    "Return the table of chapters, with a line for each part."
    rows = [table_row("", "chapter", "you will build", "paper", "minutes: yours + to run",
                      "device", ""),
            table_row("--:", "---", "---", "---", "--:", "---", "---")]
    seconds, part = measured(root), ""
    for path in (p for p in chapters(root) if re.match(r"\d\d_", p.stem)):
        if path.parent.name != part and path.parent.name in PARTS:
            part = path.parent.name
            rows.append(table_row("", f"**{part[0]} · {PARTS[part]}**", *[""] * 5))
        rows.append(chapter_row(path, settings, seconds, root))
    return "\n".join(rows)


def demo_record(root=ROOT):
    "Return the saved record of the demo, or say how to make it."
    path = root / RECORD
    if not path.exists():
        raise SystemExit(
            f"{RECORD} is missing: run `instop demo`, then save runs/demo/summary.json there"
        )
    return json.loads(path.read_text(encoding="utf-8"))


def score(pair):
    """Return a mean with half the width of its interval; without an interval (one run, or a
    rule), the mean alone."""
    mean, half = pair
    return f"{mean:.1f} ± {half:.1f}" if half and half > 0 else f"{mean:.1f}"


def demo_table(root=ROOT):
    "Return the demo's exact match, a column for each kind of unseen tasks, and how it was made."
    record = demo_record(root)
    tiers = record["questions"]
    rows = [table_row("trained with", *tiers), table_row("---", *["--:"] * len(tiers))]
    for row in record["table"]:
        rows.append(table_row(row["instruction"], *[score(row["em"][tier]) for tier in tiers]))
    seeds = ", ".join(str(seed) for seed in record["seeds"])
    return "\n".join(
        [
            *rows, "",
            f"Exact match in percent, mean and 95 % interval over seeds {seeds}; "
            f"{record['steps']} steps "
            f"on the same rows for each tuned model; made by `{record['command']}`.",
        ]
    )


def fill(text, name, content):
    "Replace what stands between `<!-- name -->` and `<!-- /name -->`."
    block = re.compile(rf"(<!-- {name} -->).*?(<!-- /{name} -->)", re.DOTALL)
    if not block.search(text):
        raise SystemExit(
            f"nbs/index.ipynb: <!-- {name} --> without <!-- /{name} --> in the same cell"
        )
    return block.sub(lambda marks: f"{marks[1]}\n\n{content}\n\n{marks[2]}", text)


def new_chapter(path, settings, seconds, root=ROOT):
    "Return a chapter's text: minutes and badge in its header, folds, and the cell that installs."
    notebook, where = read_notebook(path), place(path, root)
    header = header_of(notebook, where)
    text, m = header.string, header
    time = (f"{minutes_of_reader(notebook['cells'])} to work through, "
            f"{minutes(m, path.name, seconds)} to run")
    text = f"{text[:m.start('time')]}{time}{text[m.end('time'):m.end('device')]}"
    first = next(cell for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    set_source(first, f"{text}\n\n{colab_badge(settings, where)}")
    fold_solutions(notebook["cells"])
    notebook["cells"] = with_install_cell(notebook["cells"], settings)
    return notebook_text(notebook)


def new_index(settings, root=ROOT):
    "Return index.ipynb, as a dict, with its generated parts filled in."
    notebook = read_notebook(root / "nbs" / "index.ipynb")
    for cell in notebook["cells"]:
        if cell["cell_type"] != "markdown": continue
        text = source(cell)
        if "<!-- badges -->" in text: text = fill(text, "badges", badges(settings))
        if "<!-- chapters -->" in text: text = fill(text, "chapters", chapter_table(settings, root))
        if "<!-- demo -->" in text: text = fill(text, "demo", demo_table(root))
        set_source(cell, text)
    return notebook


def rewrite_links(text):
    "Make the links of a notebook in nbs/ fit a file at the repository's root."
    def from_root(match):
        target = match[1]
        if re.match(r"[a-z]+:|#|/", target): return match[0]
        return f"]({target[3:]})" if target.startswith("../") else f"](nbs/{target})"
    return re.sub(r"\]\(([^)\s]+)\)", from_root, text)


def new_readme(index):
    "Return README.md: the text of the index, without the marks around its generated parts."
    texts = [source(cell).strip() for cell in index["cells"] if cell["cell_type"] == "markdown"]
    text = re.sub(r"<!-- /?\w+ -->\n*", "", "\n\n".join(texts)).strip()
    head = "<!-- Made from nbs/index.ipynb by tools/readme.py; edit the notebook. -->"
    return f"{head}\n{rewrite_links(text)}\n"


def generated(root=ROOT):
    "Return {path: text} of every file that is written here, as it should be."
    settings = read_settings(root)
    seconds = measured(root)
    files = {path: new_chapter(path, settings, seconds, root) for path in chapters(root)}
    index = new_index(settings, root)
    return {
        **files, root / "nbs" / "index.ipynb": notebook_text(index),
        root / "README.md": new_readme(index),
    }


def main(check, root=ROOT):
    "Write what is out of date, or with `check` only name it; return the exit status."
    stale = {path: text for path, text in generated(root).items()
             if not path.exists() or path.read_text(encoding="utf-8") != text}
    for path, text in stale.items():
        print(
            f"{path.relative_to(root)}: {'out of date; run `make prepare`' if check else 'written'}"
        )
        if not check: path.write_text(text, encoding="utf-8")
    return 1 if check and stale else 0


if __name__ == "__main__": sys.exit(main("--check" in sys.argv[1:]))
