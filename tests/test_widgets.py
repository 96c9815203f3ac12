"""The widgets of the chapters, in a real JupyterLab and a real browser: each shows something,
and follows its controls."""
import ast
import importlib
import json
import os
import shutil
import subprocess
import sys
import time
from types import SimpleNamespace

import nbformat
import pytest

from instop_nb.core import TaskError

CHROME, DRIVER = (
    next(filter(None, map(shutil.which, names)), None)
    for names in (("chromium", "chromium-browser", "google-chrome"), ("chromedriver",))
)
try: from selenium import webdriver
except ImportError: webdriver = None
NEEDS = {
    "Chromium (Debian: apt install chromium)": CHROME,
    "chromedriver (Debian: apt install chromium-driver)": DRIVER,
    "selenium (pip install selenium)": webdriver,
}
missing = [name for name, found in NEEDS.items() if not found]
in_browser = pytest.mark.skipif(
    bool(missing), reason="the widgets are tried in a browser: install " + ", ".join(missing)
)

# One cell for each widget. What is shown must be found without training.
WIDGETS = {
    "encodings": "from instop_nb.explorers import explorer\n"
    "from instop_nb.microworld import micro_tasks\n"
    "explorer(micro_tasks('train', 2)[0])",
    "templates": "from instop_nb.explorers import template_explorer\n"
    "from instop_nb.flan_rows import micro_rows\n"
    "from instop_nb.promptsource import TEMPLATES\n"
    "template_explorer(TEMPLATES, {'micro_nli': micro_rows('nli', 3)})",
    "series": "import torch\n"
    "from instop_nb.series import series_explorer\n"
    "theta, phi = (torch.ones(3, dtype=torch.float64, requires_grad=True) for _ in range(2))\n"
    "H = torch.tensor([1., .3, .1], dtype=torch.float64)\n"
    "def inner(): return (H * theta**2 / 2 - theta * phi).sum()\n"
    "series_explorer(inner, lambda: (theta - 2).square().sum(), [theta], [phi])",
    "attention": "from instop_nb.attention import attention_explorer\n"
    "from instop_nb.models import load_model\n"
    "attention_explorer(*load_model('micro', device='cpu'), micro_tasks('train', 2)[0])",
    "selections": "from instop_nb.extractor import selection_player\n"
    "from instop_nb.tables import read_record\n"
    "arms = [f'{kind}, drawn, judged by blanks' for kind in ('IC', 'DP')]\n"
    "selection_player(read_record('fig3'), arms)",
    "map": "from instop_nb.maps import map_explorer\nmap_explorer(read_record('fig4'))",
    "broken": "deaf = template_explorer(TEMPLATES, {'micro_nli': micro_rows('nli', 3)})\n"
    "deaf.children[2].unobserve_all()  # its slider moves, and nobody listens\n"
    "deaf",
}
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "notebook-extension/tracker": {"windowingMode": "none"},
}  # cells that are not in view are drawn, too
# As a kernel has it, whatever the tests themselves draw with
INLINE = "module://matplotlib_inline.backend_inline"
CONTROL, READOUT, SHOWN = (
    ".widget-play button, .noUi-handle, select", ".widget-readout",
    ".widget-html-content, .widget-output img",
)


MINUTES = 15  # After which a widget counts as broken; a slow machine has time enough


def until(found, what="it"):
    """Return the first value of a function that is true; wait for it as long as a slow machine
    may take."""
    end = time.monotonic() + 60 * MINUTES
    while time.monotonic() < end:
        if value := found(): return value
        time.sleep(.1)
    raise AssertionError(f"{what} did not come within {MINUTES} minutes")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "Start a JupyterLab of its own, with a notebook of all widgets; yield its address."
    home = tmp_path_factory.mktemp("lab")
    nbformat.write(
        nbformat.v4.new_notebook(
            cells=list(map(nbformat.v4.new_code_cell, WIDGETS.values())),
            metadata={"kernelspec": {"name": "python3", "display_name": "python3"}},
        ),
        home / "widgets.ipynb",
    )
    for name, values in SETTINGS.items():
        path = (
            home
            / "config"
            / "lab"
            / "user-settings"
            / "@jupyterlab"
            / f"{name}.jupyterlab-settings"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    folders = {
        name: str(home / "config")
        for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR")
    }
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--port=0", "--allow-root",
        "--IdentityProvider.token=", f"--ServerApp.root_dir={home}",
        "--LabApp.expose_app_in_browser=True",
    ]
    with (home / "log").open("w") as log:
        server = subprocess.Popen(
            command, env={**os.environ, **folders, "OMP_NUM_THREADS": "1", "MPLBACKEND": INLINE},
            stdout=log, stderr=log,
        )
    try:
        started = until(
            lambda: next((home / "config").glob("jpserver-*.json"), None), what="JupyterLab"
        )
        yield until(lambda: started.read_text() and json.loads(started.read_text())["url"])
    finally:
        server.terminate()
        server.wait()


@pytest.fixture(scope="module")
def cells(lab, tmp_path_factory):
    "Open the notebook in Chromium and run all cells; yield name -> cell, and the browser."
    options = webdriver.ChromeOptions()
    options.binary_location = CHROME
    for option in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
        "--disable-background-networking", "--window-size=1200,2600",
        f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):
        options.add_argument(option)
    browser = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    browser.set_page_load_timeout(60 * MINUTES)
    browser.set_script_timeout(60 * MINUTES)
    try:
        browser.get(f"{lab}doc/tree/widgets.ipynb")
        until(
            lambda: len(browser.find_elements("css selector", ".jp-CodeCell")) == len(WIDGETS),
            what="the notebook",
        )
        browser.find_element("css selector", ".jp-CodeCell .cm-content").click()
        run = (
            "const app = window.jupyterapp, command = 'notebook:run-all-cells';"
            "const kernel = app.shell.currentWidget?.sessionContext?.session?.kernel;"
            "return kernel && app.commands.isEnabled(command)"
            "    && (app.commands.execute(command), true)"
        )
        until(lambda: browser.execute_script(run), what="its kernel")
        yield SimpleNamespace(
            browser=browser,
            **dict(zip(WIDGETS, browser.find_elements("css selector", ".jp-CodeCell"))),
        )
    finally: browser.quit()


def read(cell, selector):
    "Return text or picture of each element, all from the same moment."
    return cell.parent.execute_script(
        "return [...arguments[0].querySelectorAll(arguments[1])].map(e => e.src || e.innerText)",
        cell, selector,
    )


def shown(cell): return read(cell, SHOWN)


def move(cell, number, to):
    """Move one of a widget's sliders by an arrow key, press a button, or choose from a menu
    (JupyterLab keeps the arrow keys there for itself)."""
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import Select
    control = cell.find_elements("css selector", CONTROL)[number]
    if control.tag_name == "select": Select(control).select_by_index(to)
    elif control.tag_name == "button": control.click()
    else: control.send_keys(getattr(Keys, to))


@pytest.mark.parametrize(
    "name, moves",
    {
        "encodings": [(1, 1), (2, 2)], "templates": [(2, "ARROW_RIGHT"), (1, 3)],
        "series": [(0, "ARROW_LEFT"), (1, "ARROW_RIGHT")],
        "attention": [(0, "ARROW_RIGHT"), (1, "ARROW_LEFT")],
        "selections": [(-1, "ARROW_LEFT"), (-1, "ARROW_RIGHT"), (0, "play")],
        "map": [(0, 1), (1, 1), (2, 3)],
    }.items(),
)
@in_browser
def test_a_widget_shows_something_and_follows_its_controls(cells, name, moves, tmp_path):
    cell = getattr(cells, name)
    until(
        lambda: shown(cell) and all(len(text) > 50 for text in shown(cell)),
        what=f"the first view of {name}",
    )
    for number, to in moves:
        before = shown(cell)
        move(cell, number, to)
        until(
            lambda: (after := shown(cell)) and all(after) and after != before,
            f"a change of {name} by control {number}",
        )
    cells.browser.save_screenshot(str(tmp_path / f"{name}.png"))
    assert not cell.find_elements("css selector", "[data-mime-type*='err']"), (
        "an error or a warning is shown"
    )


@in_browser
def test_a_slider_that_nobody_hears_changes_nothing(cells):
    """What the test above must be able to find: the slider moves, its number changes, the page
    stays.

    The kernel takes messages in their order, so once a healthy widget has answered a later move,
    the deaf one has had its turn.
    """
    before = (
        until(lambda: all(shown(cells.broken)) and shown(cells.broken), what="the broken widget"),
        read(cells.broken, READOUT),
    )
    move(cells.broken, 2, "ARROW_RIGHT")
    until(lambda: read(cells.broken, READOUT) != before[1], "the number beside the slider")
    healthy = until(
        lambda: all(shown(cells.templates)) and shown(cells.templates), what="the healthy widget"
    )
    move(cells.templates, 2, "ARROW_RIGHT")
    until(
        lambda: (after := shown(cells.templates)) and all(after) and after != healthy,
        "a change of the healthy widget",
    )
    assert shown(cells.broken) == before[0]


def test_the_cells_import_what_there_is():
    "A browser is not always there to see that a widget has moved."
    for statement in ast.walk(ast.parse("\n".join(WIDGETS.values()))):
        if isinstance(statement, ast.ImportFrom):
            module = importlib.import_module(statement.module)
            assert all(hasattr(module, name.name) for name in statement.names), statement.module


def test_the_selection_player_shows_the_record_up_to_a_step():
    from instop_nb.extractor import selection_picture, selection_player
    runs = [
        {
            "arm": arm, "seed": seed,
            "selections": [
                [10 * n, share, p + seed / 10]
                for n, share, p in ((1, 0.25, 0.5), (2, 0.5, 0.625), (3, 1.0, 0.75))
            ],
        }
        for arm in ("a", "b")
        for seed in (0, 1)
    ]
    ax, = selection_picture({"runs": runs}, ["b"], 20).axes
    with pytest.raises(TaskError, match="choose from .'a', 'b'."):
        selection_picture({"runs": runs}, ["b", "c"], 20)
    ways = [line.get_xydata().tolist() for line in ax.lines[:4]]
    assert (
        ways == [[[0.5, 25], [0.625, 50]], [[0.625, 50]], [[0.6, 25], [0.725, 50]], [[0.725, 50]]]
        and ax.get_title() == "step 20"
    )
    player = selection_player({"runs": runs}, ["a", "b"])
    play, box = player.children
    slider = box.children[0]
    assert (slider.min, slider.max, slider.step, slider.value, play.max) == (10, 30, 10, 30, 30)
    assert box.result.axes[0].get_title() == "step 30"
    slider.value = 10
    assert box.result.axes[0].get_title() == "step 10" and len(box.result.axes[0].lines) == 9


def test_the_map_colours_what_was_chosen():
    from instop_nb.maps import LARGEST, map_explorer, map_picture
    # the ninth is no longer among the largest
    kinds = [f"kind {n}" for n in range(9) for _ in range(10 - n)]
    points = {
        part: [[n + x, x] for n in range(len(kinds))]
        for part, x in (("learned", 0.5), ("definition", 0))
    }
    record = {"map": {"a": points, "b": points}, "categories": kinds}
    grey, *coloured = map_picture(record, "a").axes[0].collections
    assert [c.get_label() for c in coloured] == [f"kind {n}" for n in range(8)] and len(
        grey.get_offsets()
    ) == 2
    grey, chosen = map_picture(record, "a", "definition", "kind 8").axes[0].collections
    assert chosen.get_offsets().tolist() == [[52, 0], [53, 0]] and len(grey.get_offsets()) == 52
    arm, part, category, _ = (box := map_explorer(record)).children
    assert (
        category.options == (LARGEST, *sorted(set(kinds)))
        and box.result.axes[0].get_title() == "a: learned"
    )
    arm.value, part.value, category.value = "b", "definition", "kind 8"
    assert (
        box.result.axes[0].get_title() == "b: definition"
        and len(box.result.axes[0].collections) == 2
    )


def test_an_explorer_leaves_a_picture_of_what_it_shows_now():
    from instop_nb.explorers import template_explorer, template_view
    from instop_nb.flan_rows import micro_rows
    from instop_nb.promptsource import TEMPLATES
    rows = micro_rows("nli", 3)
    box = template_explorer(TEMPLATES, {"micro_nli": rows})
    before = box.still()
    assert "[in other words]" in before and template_view(TEMPLATES[0], rows[0]).page in before
    name = box.box._dom_classes[-1]  # By which the rule of style knows that the widget is alive
    assert f"body:has(.{name}) .{name}-still {{display: none}}" in before
    box.children[2].value = 2
    assert template_view(TEMPLATES[0], rows[2]).page in box.still() and "[row: 2]" in box.still()
