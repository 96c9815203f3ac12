"""How Sphinx makes the site; tools/website.py prepares what it reads."""
import inspect
import re
from importlib.util import find_spec

from fastcore.docments import docments
from readme import read_settings

settings = read_settings()
project, author = settings["title"], settings["author"]
copyright = settings["copyright"]  # noqa: A001
html_title = settings["title"]

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
nb_execution_mode = "off"
nb_render_markdown_format = "myst"
nb_merge_streams = True
nb_code_prompt_show = nb_code_prompt_hide = "Code"
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 4
suppress_warnings = ["myst.header", "mystnb.unknown_mime_type"]

default_role = "py:obj"
add_module_names = False
toc_object_entries_show_parents = "hide"
python_maximum_signature_line_length = 88
autodoc_default_options = {"members": True, "undoc-members": True, "member-order": "bysource"}
autodoc_preserve_defaults = True

html_theme = "furo"
# MathJax comes from a package that holds all of it; a page needs the part from TeX to HTML
mathjax_path = "mathjax/tex-chtml.js"
mathjax = find_spec("sphinx-mathjax-offline").submodule_search_locations[0]
html_static_path = ["course.css", f"{mathjax}/static"]
unused = "sre", "mml*", "tex-mml*", "*full*", "*svg*", "*/svg*"
exclude_patterns = [".cache", *[f"mathjax/{part}" for part in unused]]
html_css_files = ["course.css"]
html_show_sourcelink = False
html_copy_source = False


def literal(text):
    """Return a comment as reStructuredText, in which a name in backticks is a link and other
    code is shown as it stands."""
    def written(part):
        if re.fullmatch(r"`[A-Za-z_][\w.]*`", part): return part
        if part.startswith("`"): return f"``{part[1:-1].strip()}``"
        return re.sub(r"([\\*|_])", r"\\\1", part)
    return "".join(written(part) for part in re.split(r"(`[^`]+`)", text.replace("\n", " ")))


def add_parameters(app, what, name, obj, options, lines):
    "Put a table of the parameters' comments below a docstring."
    lines[:] = [literal(line) for line in lines]
    if what not in ("function", "class", "exception", "method"): return
    told = {"returns" if parameter == "return" else f"``{parameter}``": about.docment
            for parameter, about in docments(obj, full=True).items() if about.docment}
    if not told: return
    lines += ["", ".. list-table::", "   :align: left", "   :class: parameters", ""]
    for parameter, comment in told.items():
        lines += [f"   * - {parameter}", f"     - {literal(comment)}"]
    lines.append("")


def shorten_factories(app, what, name, obj, options, signature, returns):
    "Write the default that a dataclass makes anew each time as `...`, which parses."
    return (signature.replace("<factory>", "..."), returns) if signature else None


def skip_fields(app, what, name, obj, skip, options):
    """Leave out the fields of a class, of which the table of its parameters tells, and methods
    without a docstring."""
    shown = (inspect.isroutine(obj) or isinstance(obj, property)) and inspect.getdoc(obj)
    return True if what in ("class", "exception") and not shown else None


def setup(app):
    "Connect the functions above."
    app.connect("autodoc-process-docstring", add_parameters)
    app.connect("autodoc-process-signature", shorten_factories)
    app.connect("autodoc-skip-member", skip_fields)
