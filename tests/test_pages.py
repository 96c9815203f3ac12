"""The pages without a chapter number: notation, papers and slides name nothing that is not
there, and leave nothing out."""
import inspect
import re
import shlex
from functools import lru_cache
from pathlib import Path
from pydoc import locate
from types import SimpleNamespace

import pytest
import readme
import typer
from test_anatomy import LESSONS, MACHINE_PATH, cells_of, output_texts

ROOT = Path(__file__).resolve().parent.parent
APPENDIX = ROOT / "nbs" / "9_appendix"
PAGES = [APPENDIX / f"{name}.ipynb" for name in ("notation", "papers", "slides")]
NOTATION, PAPERS, SLIDES = PAGES
CHAPTERS = {path.stem.split("_", 1)[1]: path.name for path in readme.chapters(ROOT)}
FILES = ("py", "sh", "csv", "yaml", "json", "jsonl")
# What stands in each equation of Isonuma et al. 2023, written down by hand from the paper.
SYMBOLS = {
    "1": [
        r"\theta", r"\theta^*", r"\mathcal L(\theta)", "t", r"\mathcal T_{train}", "i", "N_t",
        r"p_\theta", r"\mathbf y_t^{(i)}", r"\mathbf I_t", r"\mathbf X_t^{(i)}",
        r"[\,\cdot\,;\,\cdot\,]",
    ],
    "2": [
        r"\theta", r"\theta^*(\phi)", r"\phi", r"\mathcal L_{in}", "t", r"\mathcal T_{meta-train}",
        "i", "N_t", r"p_\theta", r"\mathbf y_t^{(i)}", r"\mathbf I_\phi", r"\mathbf X_t^{(i)}",
        r"[\,\cdot\,;\,\cdot\,]",
    ],
    "3": [
        r"\phi", r"\phi^*", r"\theta^*(\phi)", r"\mathcal L_{out}", "t", r"\mathcal T_{meta-test}",
        "i", "N_t", r"p_{\theta^*}", r"\mathbf y_t^{(i)}", r"\mathbf I_t", r"\mathbf X_t^{(i)}",
        r"[\,\cdot\,;\,\cdot\,]",
    ],
    "4": ["t", "i", r"\mathbf h_t^{(i)}", r"\mathrm{avgpool}", "z_t^{(i)}", r"\mathbf V_\phi"],
    "5": ["t", "i", r"\mathbf I_\phi", r"\mathbf W_\phi", r"\mathbf h_t^{(i)}"],
    "6": ["t", r"p_\phi", r"\mathbf z_t^{(j)}", "v_t^{(j)}", "j", "N_t"],
    "7": [
        "t", "i", "j", r"p_\phi", r"\mathbf z_t^{(j)}", "z_t^{(i)}", r"\mathbf h_t^{(j)}",
        r"\mathbf W_\phi", r"\mathbf h_t^{(i)}", "N_t",
    ],
    "8": ["t", r"\mathbf z_t", r"p_\phi", r"\mathbf z_t^{(j)}", "j"],
    "9": ["t", r"\mathbf I_\phi", r"\mathbf z_t", r"\mathbf V_\theta"],
    "algorithm 1": [
        "K", "k", r"\theta^{(k)}", r"\eta", r"\nabla_\theta \mathcal L_{in}",
        r"\nabla_\phi \mathcal L_{out}",
    ],
    "10": [
        "K", r"\nabla_\phi \mathcal L_{out}", r"\mathcal L_{out}", r"\theta^{(K)}", r"\phi",
        r"\partial \mathcal L_{out} / \partial \theta^{(K)}",
        r"\partial \theta^{(K)} / \partial \phi",
    ],
    "11": [
        r"\partial \theta^{(K)} / \partial \phi", r"\mathcal L_{in}", r"\theta", r"\phi",
        r"\theta^{(K)}", "K", r"\partial \mathcal L_{in} / \partial\theta\,\partial\theta",
        r"\partial \mathcal L_{in} / \partial\theta\,\partial\phi", r"[\,\cdot\,]^{-1}",
    ],
    "12": [
        r"\gamma", "M", "m", r"\mathbf E", r"\mathcal L_{in}", r"\theta", r"\phi",
        r"[\,\cdot\,]^{-1}", r"\lVert\,\cdot\,\rVert",
        r"\partial \mathcal L_{in} / \partial\theta\,\partial\theta",
    ],
    "section 3.1": [r"\mathbf W_t"], "section 3.2": ["N"], "footnote 2": [r"\mathbf E_{p_\phi}"],
}
LETTERS = {"B", "L", "M", "Z", "l", "d", "v", "T", "N"}
SCRIPTS = {
    "arguments.py": 557, "blank_dataset.py": 230, "compute_metrics.py": 177, "ift_trainer.py": 789,
    "modeling_t5_frozen.py": 340, "ni_collator.py": 359, "ni_dataset.py": 224, "ni_trainer.py": 442,
    "run_ni.py": 698, "run_toy.py": 413, "template_category_list.py": 154,
    "toy_ift_trainer.py": 557, "toy_trainer.py": 612, "utils.py": 75,
}

each_page = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)


def text_of(path):
    "Return all markdown of a page."
    return "\n\n".join(readme.source(cell) for cell in cells_of(path, "markdown"))


def tables(path):
    """Yield each table of a page as a list of rows; a row is a list of cells, the first one the
    head."""
    for block in re.findall(r"(?m)(?:^\|.*\n?)+", text_of(path)):
        rows = [
            [cell.strip() for cell in line.strip("|").split("|")]
            for line in block.strip().splitlines()
        ]
        yield [rows[0], *rows[2:]]


def rows_of(path, head):
    "Return the rows of all tables whose head begins with these cells."
    return [row for rows in tables(path) if rows[0][:len(head)] == head for row in rows[1:]]


def links(text):
    "Return where the links of a text go."
    return re.findall(r"\]\(([^)\s]+)\)", text)


def names_in(text):
    """Return (name, parameter or empty text) of everything in a text that is written as a name
    of the package."""
    found = re.findall(r"`([a-z]\w*\.[\w.]+)(?:\((\w+)\))?`", text)
    return [(name, parameter) for name, parameter in found if name.split(".")[-1] not in FILES]


@lru_cache
def learned():
    "Return the names of all learned tensors, such as `embedder.DirectEmbedder.weight`."
    import torch
    from instop_nb.embedder import DirectEmbedder, InstanceEmbedder
    from instop_nb.extractor import Candidates, DirectExtractor, InstanceExtractor
    words = torch.nn.Embedding(3, 2)
    toy = SimpleNamespace(get_input_embeddings=lambda: words)
    some = Candidates(
        *[torch.ones(1, 2, 1, dtype=torch.long)] * 3, torch.zeros(1, 2, dtype=torch.long)
    )
    made = (
        DirectEmbedder(torch.zeros(1, 1, 2)), InstanceEmbedder(toy, l=1),
        DirectExtractor(toy, some), InstanceExtractor(toy, some),
    )
    return {
        f"{type(m).__module__}.{type(m).__name__}.{name}"
        for m in made
        for name, _ in m.named_parameters()
    }


def exists(name, parameter):
    "Say whether the package has a name, and the parameter if one is given."
    found = locate(f"instop_nb.{name}")
    if found is None: return f"instop_nb.{name}" in learned() and not parameter
    return not parameter or parameter in inspect.signature(found).parameters


def equations(cell):
    "Return what a cell such as '1–3, algorithm 1, 10' lists, as a set of texts."
    found = set()
    for part in cell.split(", "):
        first, _, last = part.partition("–")
        found |= {str(n) for n in range(int(first), int(last) + 1)} if last else {part}
    return found


def symbols():
    "Return (symbols, equations) of each row of the tables of symbols."
    return [
        (re.findall(r"\$([^$]+)\$", row[0]), equations(row[1]))
        for row in rows_of(NOTATION, ["symbol", "equation"])
    ]


# All pages

@each_page
def test_begins_with_a_title_and_one_sentence(path):
    cells = readme.read_notebook(path)["cells"]
    assert cells[0]["cell_type"] == "markdown" and re.match(
        r"# [^\n]+\n\n> [^\n]+\.(\n\n|$)", readme.source(cells[0])
    )
    assert not any("default_exp" in readme.source(cell) for cell in cells_of(path)), (
        "a page exports nothing"
    )


@each_page
def test_is_saved_after_a_run_without_errors_and_paths(path):
    assert path.stat().st_size < 2**20
    for cell in cells_of(path):
        assert not any(output["output_type"] == "error" for output in cell["outputs"]), (
            readme.source(cell)
        )
        assert not any(
            MACHINE_PATH.search(text) for text in [readme.source(cell), *output_texts(cell)]
        )
    assert not MACHINE_PATH.search(text_of(path))
    assert sum(bool(cell["outputs"]) for cell in cells_of(path)) >= 2, (
        f"run it: make execute NB={path.relative_to(ROOT)}"
    )


@each_page
def test_links_are_relative_and_exist(path):
    targets = links(text_of(path))
    assert len(targets) > 20 and not [
        t for t in targets if "://" in t or not (path.parent / t).exists()
    ]
    assert {other.name for other in PAGES} - {path.name} <= set(targets), (
        "the three pages name each other"
    )


def test_the_index_leads_to_each_page():
    named = {Path(target).name for target in links(text_of(ROOT / "nbs" / "index.ipynb"))}
    assert {path.name for path in PAGES} <= named


@pytest.mark.parametrize("path", [NOTATION, PAPERS], ids=["notation", "papers"])
def test_each_chapter_is_reached(path):
    missing = {lesson.name for lesson in LESSONS} - {Path(t).name for t in links(text_of(path))}
    assert not missing


@each_page
def test_chapters_are_named_by_their_numbers(path):
    wrong = [
        (label, target)
        for label, target in re.findall(
            r"\[(?:chapter )?(\d+)\]\(([^)]+)\)", text_of(path), re.IGNORECASE
        )
        if not Path(target).name.startswith(f"{int(label):02}_")
    ]
    assert not wrong


@each_page
def test_names_exist(path):
    named = names_in(text_of(path))
    assert len(named) > 20
    assert not [name for name in named if name[0].split(".")[0] not in CHAPTERS], (
        "not a module of a chapter"
    )
    assert not [name for name in named if not exists(*name)]


def test_a_name_that_is_missing_is_seen():
    assert names_in("`metrics.rouge_l`, `tuning.tune(steps)`, `run_ni.py`, `flan/tasks.py`") == [
        ("metrics.rouge_l", ""), ("tuning.tune", "steps"),
    ]
    assert (
        exists("metrics.rouge_l", "")
        and exists("tuning.tune", "steps")
        and exists("extractor.DirectExtractor.v", "")
    )
    assert (
        not exists("metrics.rouge_m", "")
        and not exists("tuning.tune", "stops")
        and not exists("extractor.DirectExtractor.u", "")
    )


@each_page
def test_tables_have_no_holes_at_the_right(path):
    wrong = [row for rows in tables(path) for row in rows if len(row) != len(rows[0])]
    assert not wrong, "a | inside of a cell must be written otherwise"


# Notation

@pytest.mark.parametrize("equation", SYMBOLS)
def test_each_symbol_of_an_equation_has_a_row_that_names_it(equation):
    missing = [
        s
        for s in SYMBOLS[equation]
        if not any(s in found and equation in numbers for found, numbers in symbols())
    ]
    assert not missing, f"no row with the number {equation}"


def test_no_symbol_is_said_to_be_where_it_is_not():
    for found, numbers in symbols():
        for number in numbers & SYMBOLS.keys():
            assert set(found) & set(SYMBOLS[number]), (found, number)


def test_each_row_of_symbols_says_what_it_is_and_where():
    for row in rows_of(NOTATION, ["symbol", "equation"]):
        assert row[2] and (row[4] or row[0] == r"$\mathbf E$"), row


def test_letters_of_the_shapes_are_explained():
    explained = {row[0] for row in rows_of(NOTATION, ["letter", "what it counts"])}
    assert explained == LETTERS
    shapes = re.findall(
        r"\[([^\]$`(]+)\](?!\()",
        " ".join(row[3] for row in rows_of(NOTATION, ["symbol", "equation"])),
    )
    assert len(shapes) > 20
    assert {letter for shape in shapes for letter in re.findall(r"[A-Za-z]", shape)} <= explained


def test_words_stand_in_order_once_with_chapter_and_place():
    words = rows_of(NOTATION, ["word"])
    assert [row[0].lower() for row in words] == sorted({row[0].lower() for row in words})
    for row in words: assert row[1] and links(row[2]) and row[3], row


# Papers

def test_each_part_of_the_paper_has_a_row():
    first = [row[0] for rows in tables(PAPERS) for row in rows]
    wanted = [
        *(f"({n})" for n in range(1, 13)), "algorithm 1", *(f"table {n}" for n in range(1, 7)),
        *(f"figure {n}" for n in range(1, 7)), "1", "2", "3", "3.1", "3.2", "3.3", "4.1", "4.2",
        "4.3", "5.1", "5.2", "6", "7, Limitations", "A.1", "A.2", "A.3", "A.4",
    ]
    assert not [part for part in wanted if part not in first]


def test_each_script_of_the_paper_has_a_row():
    rows = {row[0].strip("`"): int(row[1]) for row in rows_of(PAPERS, ["file", "lines"])}
    assert rows == SCRIPTS and f"{sum(SCRIPTS.values()):,} lines" in text_of(PAPERS)


def test_each_study_is_listed_and_each_command_exists():
    from instop_nb.cli import all_studies
    listed = {
        name
        for cell in cells_of(PAPERS)
        for text in output_texts(cell)
        for name in re.findall(r"`instop reproduce ([\w-]+)`", text)
    }
    assert listed == set(all_studies()), "run it: make execute NB=nbs/papers.ipynb"
    named = {
        path: set(re.findall(r"`instop reproduce ([a-z][\w-]*)", text_of(path))) for path in PAGES
    }
    assert named[PAPERS] == listed, "each study has a row at its place in the paper"
    assert named[NOTATION] | named[SLIDES] <= listed


def test_each_command_of_the_systems_can_be_typed():
    "All that can be seen to be wrong without running it: options, recipes, fields, studies."
    from instop_nb.cli import all_studies, app
    from instop_nb.instructions import INSTRUCTIONS
    from instop_nb.settings import change_recipe
    known = typer.main.get_command(app).commands
    table = "\n".join(map(str, rows_of(PAPERS, ["system", "what it is"])))
    readme_text = (ROOT / "README.md").read_text(encoding="utf-8")
    readme_table = readme_text.partition("| system |")[2].partition("\n\n")[0]
    found, short = (set(re.findall(r"`instop ([^`]+)`", text)) for text in (table, readme_table))
    assert len(found) > 30 and len(short) > 9
    assert {"natinst", "mtk-instruct", "tk-instruct", "t0", "flan", "paper"} <= {
        word for text in found for word in text.split()
    }
    for text in found | short:
        name, *words = shlex.split(text)
        given = known[name].make_context(name, words).params
        if name == "reproduce": assert given["name"] in all_studies(), text
        elif given.get("recipe"): change_recipe(given["recipe"], given["sets"], given)
        assert given.get("instruction", "embedder-dp") in INSTRUCTIONS, text


def test_files_of_this_repository_exist():
    named = re.findall(r"`((?:bench|instop_nb|tests)/[\w./-]+)`", "".join(map(text_of, PAGES)))
    assert named and not [name for name in named if not (ROOT / name).exists()]


# Slides

def test_each_note_says_who_how_known_and_where_to_read_on():
    notes = rows_of(SLIDES, ["on the slide"])
    assert len(notes) > 30
    for slide, truth, known, course in notes:
        assert re.match(r"(A|B|A, B): ", slide) and truth, slide
        assert re.search(r"paper|code|sum|slide|deck|et al\.", known), slide
        assert links(course), slide
