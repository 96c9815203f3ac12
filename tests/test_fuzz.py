"""Damaged files and nonsense of every kind: an honest reading or a short error that names the file;
no traceback, no hang, nothing lost.

INSTOP_FUZZ=20 tries twenty times as many."""
import contextlib
import io
import json
import os
import resource
import signal
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import tiny_t5
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from instop_nb import cli, demo, models, pretraining, reading, runs, study
from instop_nb.flan import load_flan
from instop_nb.flan_rows import read_rows
from instop_nb.flan_rows import check_flan_row
from instop_nb.metrics import score
from instop_nb.predictions import read_predictions
from instop_nb.models import load_model
from instop_nb.promptsource import load_templates
from instop_nb.recipes import read_recipe
from instop_nb.runs import Run, take_up
from instop_nb.seals import is_whole
from instop_nb.seals import seal
from instop_nb.jobs import run_jobs
from instop_nb.tables import read_record
from instop_nb.survey import survey
from instop_nb.tasks import load_tasks, read_task
from instop_nb.tuning import _read_answers

MANY, TRIED = int(os.environ.get("INSTOP_FUZZ", 1)), Counter()


def tries(n):
    return settings(
        derandomize=True, deadline=None, database=None, max_examples=n * MANY,
        phases=[Phase.generate, Phase.shrink], suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module", autouse=True)
def counts():
    yield
    if MANY > 1:
        print(
            "", *(f"{n:6} {kind}: {how}" for (kind, how), n in sorted(TRIED.items())),
            f"{sum(TRIED.values()):6} in all", sep="\n", file=sys.__stderr__,
        )


# What may be used, and what may be said

@contextlib.contextmanager
def bounded(seconds=30, room=2**30):
    """So much more computing and memory at most. The computing of this process counts, however
    long that takes; a wait ends after minutes."""
    def late(*_): raise AssertionError("it computes or waits without an end")
    for kind in (signal.SIGPROF, signal.SIGALRM): signal.signal(kind, late)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + room, hard))
    signal.setitimer(signal.ITIMER_PROF, seconds), signal.setitimer(signal.ITIMER_REAL, 600)
    try: yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0), signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def check_said(text, *names):
    assert 0 < len(text) < 600 and text.isprintable(), text[:2000]
    assert not text.startswith("[Errno") and "codec can't" not in text, text
    assert any(str(name) in text for name in names), (names, text)


def contents(folder):
    return Counter(
        p.read_bytes() for p in Path(folder).rglob("*") if p.is_file() and p.name != ".job.lock"
    )


class Kind(NamedTuple):
    "A kind of file."
    name: str
    read: callable       # Path -> whatever
    value: object  # A valid one, JSON's types; a key that starts with ! is a tag, `Text` is raw
    write: callable      # Value -> text
    # Place (with * for a number or a name) -> types that may stand there; GONE: it may be missing
    shape: dict
    whole: bool = True   # Half a file is none


def attempt(kind, path, names=()):
    "The error that a reader ends with; None: it reads."
    before = contents(path.parent)
    try:
        with bounded(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kind.read(path)
    except (ValueError, OSError) as error: refused = error
    else: refused = None
    TRIED[kind.name, "read" if refused is None else "refused"] += 1
    if refused is not None:
        check_said(str(refused), *names, path, path.parent)
        assert not before - contents(path.parent), "something is lost"
    return refused


# Values and how they go wrong

GONE = type("Gone", (), {"__repr__": lambda self: "GONE"})()


class Text(str):
    "Stands in a file as it is, without quotation marks."


def deep(n, left="[", right="]"): return Text(left * n + "1" + right * n)


LONE = Text('"\\ud83d"')
NONSENSE = [
    GONE, None, True, False, 0, -1, 1.5, 10**30, -(10**400), "", " ", "x", "-1", "nan", "é" * 3,
    "\x1b[2J\u202e", "\u2028", "[/bold]", "</s>", "x" * 50_000, "{{ x }}", [], {}, [None], [[]],
    ["x"], {"x": 1}, {"": ""}, LONE, Text("NaN"), Text("-Infinity"), Text("1e999"),
    Text("1" * 5000), Text("nul"), Text("'"), Text('"\t"'), Text('"\x00"'),
    Text("!!python/object:os.system x"), Text("*a"), Text("&a [*a]"), Text("{x: 1, x: 2}"),
    Text("!!int ''"), Text("!!bool maybe"), Text("!!float x"), Text("1:2" * 400 + ".5"),
    Text("1" + ":1" * 400 + ".5"), Text("2001-99-99"), Text("="),
]
NONSENSE += [deep(n) for n in (30, 100, 500, 980, 100_000)] + [
    deep(n, '{"a": ', "}") for n in (100, 900)
]
BOMB = (
    "[&a [x,x,x,x,x,x,x,x,x]"
    + "".join(
        f", &{new} [*{old},*{old},*{old},*{old},*{old},*{old},*{old},*{old},*{old}]"
        for old, new in zip("abcdefgh", "bcdefghi")
    )
    + "]"
)
NONSENSE.append(Text(BOMB))


def places(value, at=()):
    "The places of all that is in a value."
    yield at
    inside = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, item in inside: yield from places(item, (*at, key))


def at(value, place): return at(value[place[0]], place[1:]) if place else value


def changed(value, place, new):
    "The value with another one at a place."
    if not place: return new
    key, inner = place[0], changed(value[place[0]], place[1:], new)
    if isinstance(value, list): return value[:key] + [inner] * (inner is not GONE) + value[key + 1:]
    return {k: inner if k == key else v for k, v in value.items() if k != key or inner is not GONE}


def wrong(kind, place, new):
    "Must a reader refuse this?"
    allowed = next(
        (
            found
            for shape, found in kind.shape.items()
            if len(shape) == len(place) and all(s in ("*", p) for s, p in zip(shape, place))
        ),
        None,
    )
    if allowed is None or isinstance(new, Text): return False
    return not any(
        type(new) is may if isinstance(may, type) else may(new) if callable(may) else new == may
        for may in allowed
    )


def as_json(value):
    "JSON, or YAML of the same look."
    if isinstance(value, Text): return str(value)
    if isinstance(value, dict):
        tag = "".join(f"{key} " for key in value if key.startswith("!"))
        return (
            tag
            + "{"
            + ", ".join(
                f"{json.dumps(key)}: {as_json(item)}"
                for key, item in value.items()
                if not key.startswith("!")
            )
            + "}"
        )
    return (
        "[" + ", ".join(map(as_json, value)) + "]"
        if isinstance(value, list)
        else json.dumps(value, ensure_ascii=False)
    )


def as_lines(value):
    return (
        as_json(value)
        if not isinstance(value, list)
        else "".join(as_json(row) + "\n" for row in value)
    )


def twice(text, n):
    return text[:n] + text[n:text.find(",", n) + 1] + text[n:] if "," in text[n:] else text + text


DAMAGES = {  # Name -> (data, a number) -> other data
    "cut": lambda data, n: data[:n],
    "a bit": lambda data, n: data[:n] + bytes([data[n] ^ 1 << n % 8]) + data[n + 1 :],
    "a byte less": lambda data, n: data[:n] + data[n + 1 :],
    "NUL": lambda data, n: data[:n] + b"\0" + data[n:], "all NUL": lambda data, n: bytes(len(data)),
    "no UTF-8": lambda data, n: data[:n] + b"\xff" + data[n:],
    "UTF-16": lambda data, n: data.decode().encode("utf-16"),
    "UTF-16-LE": lambda data, n: data.decode().encode("utf-16-le"),
    "UTF-32": lambda data, n: data.decode().encode("utf-32"),
    "Latin-1": lambda data, n: data.decode().encode("latin-1"), "two": lambda data, n: data + data,
    "tail": lambda data, n: data + b"}]\n", "head": lambda data, n: b"]" + data,
    "escape": lambda data, n: data[:n] + b"\x1b[2J" + data[n:],
    "half a sign": lambda data, n: data[:n] + b"\xed\xa0\xbd" + data[n:],
    "BOM": lambda data, n: b"\xef\xbb\xbf" + data,
    "two BOM": lambda data, n: b"\xef\xbb\xbf" * 2 + data,
    "CR": lambda data, n: data.replace(b"\n", b"\r\n"),
    "a piece twice": lambda data, n: data[:n] + data[n // 2 : n] + data[n:],
}
DAMAGES["deep"] = lambda data, n: data[:n] + b"[" * 200_000 + data[n:]
DAMAGES["digits"] = lambda data, n: data[:n] + b"9" * 10_000 + data[n:]
DAMAGES["long"] = lambda data, n: data[:n] + b" " * 100_000 + data[n:]
# No kind of file may hold this
NEVER = {"NUL", "all NUL", "no UTF-8", "UTF-16", "UTF-16-LE", "UTF-32", "Latin-1", "half a sign"}


# Tasks, templates, rows, predictions, recipes

def example(**more): return {"input": "é in", "output": "out", **more}


SUPER_NI = {
    "Contributors": ["us"], "Source": ["made_up"], "Categories": ["Naming"],
    "Definition": ["Name it.", "Say its name."], "Positive Examples": [example(explanation="so")],
    "Negative Examples": [example(explanation="not so")],
    "Instances": [
        {"id": "a-0", "input": "it", "output": ["name"]},
        {"id": "a-1", "input": "them", "output": ["names", "n"]},
    ],
}
V1 = {
    "Title": "A title", "Prompt": "Name.", "Definition": "Name it.", "Things to Avoid": "-",
    "Emphasis & Caution": "-",
    "Examples": {
        "Positive Examples": [example(reason="so")],
        "Negative Examples": [example(reason="no", suggestion="do")],
    },
    "Instances": [{"input": "it", "output": ["name"]}, {"input": "é", "output": ["names"]}],
}
EXAMPLES = {
    (): [list, "-"], ("*",): [dict, GONE], ("*", "input"): [str], ("*", "output"): [str],
    ("*", "explanation"): [str, GONE], ("*", "reason"): [str, GONE],
    ("*", "suggestion"): [str, GONE],
}
INSTANCES = {
    ("Instances",): [list], ("Instances", "*"): [dict, GONE], ("Instances", "*", "id"): [str],
    ("Instances", "*", "input"): [str], ("Instances", "*", "output"): [list],
    ("Instances", "*", "output", "*"): [str, GONE], ("Definition",): [str, list],
    ("Definition", "*"): [str, GONE], ("Categories",): [str, list],
    ("Categories", "*"): [str, GONE], (): [dict],
}


def examples_in(*place, gone=()):
    return {
        (*place, kind, *inner): [*allowed, *gone] if not inner else allowed
        for kind in ("Positive Examples", "Negative Examples")
        for inner, allowed in EXAMPLES.items()
    }


def read_both_ways(path):
    "As one task, as a collection, and in the survey that raises nothing: all agree."
    found = survey(path.parent)
    assert len(found.tasks) + bool(found.problems) == 1
    for problem in [*found.problems, *found.warnings]: check_said(str(problem), path, path.stem)
    try: task = read_task(path)
    except ValueError: assert found.problems; raise
    assert not found.problems and load_tasks(path.parent) == [task] and task.to_json()


def template(key, name, jinja, **more):
    return {"!Template": 1, "id": key, "name": name, "jinja": jinja, "reference": "é", **more}


PROMPTS = {
    "dataset": "toy", "subset": None,
    "templates": {
        "a-1": template(
            "a-1", "ask", "{{ text }}? ||| {{ label }}", answer_choices="yes ||| no",
            metadata={
                "!TemplateMetadata": 1, "original_task": True, "choices_in_prompt": False,
                "metrics": ["Accuracy"],
            },
        ),
        "a-2": template(
            "a-2", "tell", "{{ text }} ||| {{ answer_choices[0] }}", answer_choices=None
        ),
    },
}
TEMPLATE = {
    ("templates", "*", *place): allowed
    for place, allowed in {
        (): [dict, GONE], ("id",): [], ("name",): [str], ("jinja",): [str],
        ("reference",): [str, type(None), GONE], ("answer_choices",): [str, type(None), list, GONE],
        ("metadata",): [GONE], ("metadata", "original_task"): [bool, type(None), GONE],
        ("metadata", "choices_in_prompt"): [bool, type(None), GONE],
        ("metadata", "metrics"): [list, type(None), GONE],
        ("metadata", "metrics", "*"): [str, GONE],
    }.items()
}
FLAN = {
    "nli": [["{premise}? é\n{options_}", "{answer}"], ["{hypothesis}", "{answer}"]],
    "rte": [["{premise} {hypothesis}", "{answer}"]],
}
PAIRS = {(): [dict], ("*",): [list, GONE], ("*", "*"): [GONE], ("*", "*", "*"): [str]}


def as_python(value):
    "A file of FLAN, with what stands around its templates there."
    return (
        '# é\n"""Patterns."""\nimport copy\n'
        + f"PATTERNS = {as_json(value)}\n"
        + 'PATTERNS["more"] = [("{text}", "{answer}")]\n'
        + 'PATTERNS["most"] = PATTERNS["more"]\nassert len(PATTERNS)\n'
    )


ROWS = [
    {"premise": "é a", "hypothesis": "b", "options": ["yes", "no"], "answer": answer}
    for answer in ("yes", "no")
]
ROW = {
    ("*",): [dict, GONE], ("*", "premise"): [str], ("*", "hypothesis"): [str],
    ("*", "options"): [list], ("*", "options", "*"): [str, GONE], ("*", "answer"): ["yes", "no"],
}
OURS = [
    {"id": "1", "task": "a", "category": "c", "prediction": "é x", "references": ["x"]},
    {"id": "2", "task": "b", "category": "c", "prediction": "", "references": ["y", "z"]},
]
OUR = {
    ("*",): [dict, GONE], **{("*", name): [str] for name in ("task", "category", "prediction")},
    ("*", "references"): [list], ("*", "references", "*"): [str, GONE],
}
THEIRS = [
    {
        "Task": "task1_a", "Categories": ["C"],
        "Instance": {"id": "1", "input": "é", "output": ["red"]}, "Prediction": "red",
    },
    {
        "Task": "task2_b", "Instance": {"id": "1", "input": "y", "output": ["a", "b"]},
        "prediction": "b",
    },
]
THEIR = {
    ("*",): [dict, GONE], ("*", "Task"): [str], ("*", "Categories"): [str, list, type(None), GONE],
    ("*", "Instance"): [dict], ("*", "Instance", "output"): [list],
    ("*", "Instance", "output", "*"): [str, GONE], ("*", "Prediction"): [str],
    ("*", "prediction"): [str],
}
RECIPE = {
    "n_instances": 5, "n_valid": 0, "all_wordings": False, "steps": 3, "batch_size": 2,
    "learning_rate": 1e-3, "meta_share": 0.2, "by": "task", "rates": {"embedder-dp": 0.1},
    "bias_rate": None, "probes": 0,
    "outer": {"K": 2, "phi_rate": 0.1, "method": "neumann", "schedule": "linear"},
    "arguments": {"max_grad_norm": 1.0, "gradient_accumulation_steps": 2},
}


def whole(value): return type(value) is int and 0 < value < 10**15


def nothing(value): return type(value) in (int, float) and value == 0


def rate(value): return type(value) in (int, float) and 0 < value < 10**15


SETUP = {
    (): [dict], ("n_instances",): [whole, GONE], ("steps",): [whole, GONE],
    ("batch_size",): [whole, GONE], ("n_valid",): [whole, nothing, GONE],
    ("all_wordings",): [bool, GONE], ("learning_rate",): [rate, GONE],
    ("meta_share",): [lambda v: rate(v) and v < 1, GONE], ("by",): ["task", "category", GONE],
    ("rates",): [{}, GONE], ("outer",): [{}, GONE], ("arguments",): [{}, GONE],
    ("bias_rate",): [rate, type(None), nothing, GONE], ("outer", "K"): [whole, GONE],
    ("outer", "phi_rate"): [rate, nothing, GONE], ("outer", "method"): ["identity", GONE],
    ("outer", "schedule"): [GONE], ("rates", "embedder-dp"): [rate, nothing, GONE],
    ("arguments", "max_grad_norm"): [rate, nothing, GONE],
    ("arguments", "gradient_accumulation_steps"): [whole, GONE],
}

KINDS = {
    kind.name: kind
    for kind in [
        Kind("task.json", read_both_ways, SUPER_NI, as_json, {**INSTANCES, **examples_in()}),
        Kind(
            "v1.json", read_both_ways, V1, as_json,
            {**INSTANCES, ("Examples",): [dict], **examples_in("Examples", gone=[GONE])},
        ),
        Kind(
            "templates.yaml", load_templates, PROMPTS, as_json,
            {
                (): [dict], ("dataset",): [str], ("subset",): [str, type(None), GONE],
                ("templates",): [dict], **TEMPLATE,
            },
        ),
        Kind("flan.yaml", load_flan, FLAN, as_json, PAIRS),
        Kind("flan.py", load_flan, FLAN, as_python, PAIRS, False),
        Kind(
            "rows.jsonl",
            lambda path: [check_flan_row("nli", row, where) for where, row in read_rows(path)],
            ROWS,
            as_lines, ROW,
        ),
        Kind("ours.jsonl", lambda path: score(read_predictions(path)), OURS, as_lines, OUR),
        Kind("theirs.jsonl", lambda path: score(read_predictions(path)), THEIRS, as_lines, THEIR),
        Kind("recipe.yaml", read_recipe, RECIPE, lambda value: "# é\n" + as_json(value), SETUP),
    ]
}


# Files of runs

def go_on(path):
    run = Run(path.parent)
    assert all(isinstance(row, dict) for row in run.metrics())
    run.go_back(1)
    return run.metrics()


SETTINGS = {"steps": 4, "seed": 0, "rows": "é", "outer": {"K": 2}, "bias_rate": None}


def take_up_again(path):
    checkpoint = path.parent / "checkpoint-1"
    checkpoint.mkdir(exist_ok=True)
    (checkpoint / "a.pt").write_text("weights")
    seal(checkpoint)
    assert take_up(path.parent, SETTINGS, resume=True) == str(checkpoint)


def finished(path):
    folder = path.parent
    def explode(folder, gain, model): raise AssertionError("a finished run is made again")
    return run_jobs(
        explode, {folder.name: {"gain": 1, "model": "m"}}, folder.parent, workers=1, quiet=True,
        made_of={"model": "é"},
    )[folder.name]


ANSWER = [[[3, 4], "é", "me"], [[5], "no", "you"]]
RESULT = {
    "job": {"gain": 1, "model": "m"}, "made_of": {"model": "é"},
    "result": {"rougeL": 1.0, "cpu_seconds": 1},
}
METRIC = {("*",): [dict, GONE], ("*", "step"): [int, float, bool, GONE]}
same = {place: [] for place in places(SETTINGS)} | {("bias_rate",): [type(None), GONE]}
RUN_FILES = {
    kind.name: kind
    for kind in [
        Kind(
            "metrics.jsonl", go_on,
            [{"step": 1, "loss": 2.5}, {"step": 2, "loss": 1.5, "note": "é"}], as_lines, METRIC,
            False,
        ),
        Kind("answers.jsonl", lambda path: _read_answers(path, "me"), ANSWER, as_lines, {}, False),
        Kind("settings.json", take_up_again, SETTINGS, as_json, same),
        Kind(
            "result.json", finished, RESULT, as_json,
            {(): [], ("job",): [], ("job", "gain"): [], ("result",): [dict]},
        ),
        Kind(
            "record.json", lambda path: read_record("record", path.parent),
            {"name": "toy", "runs": [{"arm": "é", "seed": 0}]}, as_json, {(): [dict]},
        ),
    ]
}
ALL = KINDS | RUN_FILES


@pytest.fixture(scope="module")
def folders(tmp_path_factory): return {name: tmp_path_factory.mktemp("fuzz") for name in ALL}


def emptied(folder):
    import shutil
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    return folder


@pytest.mark.parametrize("kind", ALL.values(), ids=list(ALL))
def test_the_valid_ones_are_valid(kind, folders):
    path = emptied(folders[kind.name]) / kind.name
    for head in ("", "\ufeff"):
        if head and kind.name in ("metrics.jsonl", "answers.jsonl"):
            continue  # Ours alone write these
        path.write_text(head + kind.write(kind.value), encoding="utf-8")
        assert attempt(kind, path) is None


@pytest.mark.parametrize("kind", ALL.values(), ids=list(ALL))
@tries(60)
@given(data=st.data())
def test_a_value_that_cannot_be_is_refused(kind, folders, data):
    place = data.draw(
        st.sampled_from(
            [
                place
                for place in places(kind.value)
                if not place or not str(place[-1]).startswith("!")
            ]
        )
    )
    new = data.draw(st.sampled_from(NONSENSE))
    path = emptied(folders[kind.name]) / kind.name
    value = changed(kind.value, place, new)
    path.write_text("" if value is GONE else kind.write(value), encoding="utf-8")
    refused = attempt(kind, path)
    if wrong(kind, place, new) and new != at(kind.value, place):
        assert refused, (place, new, path.read_text())


@pytest.mark.parametrize("kind", ALL.values(), ids=list(ALL))
@tries(60)
@given(data=st.data())
def test_a_damaged_file_is_refused_or_read(kind, folders, data):
    good = kind.write(kind.value).encode()
    name = data.draw(st.sampled_from(list(DAMAGES)))
    n = data.draw(st.integers(0, len(good) - 1))
    path = emptied(folders[kind.name]) / kind.name
    path.write_bytes(DAMAGES[name](good, n))
    refused = attempt(kind, path)
    half = (
        name == "cut"
        and kind.whole
        and not (kind.write is as_lines and 0 < n and good[n - 1 : n + 1].count(b"\n"))
    )
    if (half or name in NEVER) and kind.name not in ("metrics.jsonl", "answers.jsonl"):
        assert refused, (name, n)


# What is no file, and what is a file without an end

def special(name, folder):
    "A path to something that nobody can read as a text."
    path = folder / name
    if name == "folder": path.mkdir()
    if name == "pipe": os.mkfifo(path)
    if name == "endless": path.symlink_to("/dev/zero")
    if name == "circle": path.symlink_to(path)
    if name == "below a file": (folder / name).write_text(""); path = path / "x"
    return folder / ("x" * 5000) if name == "long name" else path


SPECIAL = ["missing", "folder", "pipe", "endless", "circle", "below a file", "long name"]


@pytest.mark.parametrize("name", SPECIAL)
@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
def test_what_is_no_file_is_no_file(kind, name, tmp_path):
    read = read_task if kind.read is read_both_ways else kind.read
    assert attempt(kind._replace(read=read), special(name, tmp_path), names=["xxx"])


@pytest.mark.parametrize("name", ["folder", "pipe", "endless"])
@pytest.mark.parametrize("kind", RUN_FILES.values(), ids=list(RUN_FILES))
def test_what_is_no_file_of_a_run_is_none(kind, name, tmp_path):
    path = special(name, tmp_path)
    assert attempt(kind, path.rename(path.with_name(kind.name)))


@pytest.mark.parametrize("name", ["folder", "pipe", "endless"])
def test_what_is_no_file_is_not_written_to(name, tmp_path):
    path = special(name, tmp_path)
    with bounded(), pytest.raises(OSError, match=f"{path}: no more can be added"):
        runs.add_lines(path, ["{}"])
    path.rename(tmp_path / "config.json")
    with bounded(): Run(tmp_path, seed=1)
    assert (
        json.loads((tmp_path / "config.json").read_text())["seed"] == 1
        and (tmp_path / "config-1.json").lstat()
    )


# Checkpoints and models

@pytest.fixture(scope="module")
def model(tmp_path_factory): return Path(tiny_t5(tmp_path_factory.mktemp("model")))


@tries(60)
@given(data=st.data())
def test_no_damage_to_a_checkpoint_goes_unseen(data, model, tmp_path_factory):
    folder = (
        emptied(tmp_path_factory.getbasetemp() / "checkpoint")
        if (tmp_path_factory.getbasetemp() / "checkpoint").exists()
        else tmp_path_factory.mktemp("checkpoint", numbered=False)
    )
    for name in ("trainer_state.json", "optimizer.pt"): (folder / name).write_text("é" + name)
    seal(folder)
    assert is_whole(folder)
    path = folder / data.draw(
        st.sampled_from(["trainer_state.json", "optimizer.pt", "sealed.json"])
    )
    before = path.read_bytes()
    after = DAMAGES[data.draw(st.sampled_from(sorted(DAMAGES.keys() - {"BOM", "CR"})))](
        before, data.draw(st.integers(0, len(before) - 1))
    )
    path.write_bytes(after)
    with bounded():
        assert not is_whole(folder) or after == before or json.loads(after) == json.loads(before)
    TRIED["checkpoint", "refused"] += 1


CONFIG = st.sampled_from(
    [
        None, True, 0, -1, 1.5, 10**6, 10**15, 10**30, "", "x", "\x1b", [], [1], {}, {"x": 1}, GONE,
        Text("NaN"), Text("'"), deep(900), deep(100_000), Text("1" * 5000),
    ]
)


@tries(60)
@given(data=st.data())
def test_a_damaged_model_is_named(data, model, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "damaged"
    folder.mkdir(exist_ok=True)
    for path in model.iterdir():
        if not (folder / path.name).exists(): (folder / path.name).symlink_to(path)
    name = data.draw(
        st.sampled_from(
            ["config.json", "config.json", "tokenizer_config.json", "generation_config.json"]
        )
    )
    if not (model / name).exists(): return
    good = json.loads((model / name).read_text())
    key = data.draw(
        st.sampled_from(
            [
                "model_type", "architectures", "d_model", "d_ff", "num_heads", "num_layers",
                "vocab_size", "dropout_rate", "dtype", *good,
            ]
            if name == "config.json"
            else list(good)
        )
    )
    (folder / name).unlink()
    (folder / name).write_text(
        as_json({**good, key: None} and changed({**good, key: None}, (key,), data.draw(CONFIG)))
    )
    try:
        attempt(
            Kind("model", lambda path: load_model(str(path.parent), "cpu"), None, None, {}),
            folder / name,
        )
    finally: (folder / name).unlink(missing_ok=True)


# The command line

class Reached(BaseException):
    "Work was about to begin."


def instop(*words):
    "Run a command in this process; return its exit status and what it says on standard error."
    streams = [
        io.TextIOWrapper(
            io.BytesIO(), encoding="utf-8", errors="backslashreplace", write_through=True
        )
        for _ in range(2)
    ]
    with (
        pytest.MonkeyPatch.context() as m, contextlib.redirect_stdout(streams[0]),
        contextlib.redirect_stderr(streams[1]),
    ):
        m.setattr(sys, "argv", ["instop", *words])
        with bounded(), pytest.raises(SystemExit) as end: cli.main()
    return end.value.code, streams[1].buffer.getvalue().decode()


HUGE = "9" * 30
WHOLE = [
    "-1", HUGE, "-" + HUGE, "nan", "inf", "1.5", "1e3", "x", "", "0x10", "\x1b[2J", "½", "1" * 5000,
    "1 2", "--", "[]",
]
RATE = [
    "-1", "nan", "inf", "-inf", "1e999", "1e300", "0", "-0.0", "x", "", "\x1b[2J", "1,5", "½",
    "--steps", "[]",
]
WORD = [
    "", "x", "\x1b[2J", "\udcff", "é" * 100, "x" * 5000, "-1", "nan", "null", "../..", "[/]",
    "two\nlines",
]
PLACE = ["", "missing", "empty", "pipe", "endless", "file", "circle", "long", "\udcff", "\x1b[2J"]
TOO_SMALL = {"WHOLE": ["0"], "SHARE": ["1", "2"]}
TRAINING = {
    "--steps": WHOLE + ["0"], "--batch-size": WHOLE + ["0"], "--seed": WHOLE,
    "--threads": WHOLE + ["0"], "--data": PLACE, "--recipe": PLACE,
    "--set": [*WORD, "steps", "steps=x", "steps=-1", "=1", "nothing=1", "arguments=1", "K=\x1b",
              "format=x", "track=../x"],
    "--out": [p for p in PLACE if p not in ("missing", "empty", "\udcff", "\x1b[2J")],
}
ASKING = {
    **TRAINING, "--model": PLACE, "--max-source": WHOLE + ["0", "1"],
    "--max-target": WHOLE + ["0", "1"], "--eval-batch-size": WHOLE + ["0"],
    "--n-test": WHOLE + ["0"], "--n-pos": WHOLE, "--device": [*WORD, "cuda:99", "tpu"],
}
TUNING = {**ASKING, "--learning-rate": RATE, "--bias-rate": RATE, "--n-instances": WHOLE + ["0"]}
ROWS_OF = ("encode", "--format", "flan", "--cluster", "nli", "--rows", "rows.jsonl")
# The words of a command that would do something -> option -> values that nobody can mean
OPTIONS = {
    ("ask", "Write.", "fox"): {"--model": PLACE, "--format": WORD}, ("doctor",): {"--tasks": PLACE},
    ("tasks",): {None: PLACE}, ("score",): {None: PLACE},
    ("self-instruct", "--endpoint", "http://localhost:9/v1"): {
        "--data": PLACE, "--labels": WORD, "--n": WHOLE + ["0"], "--seed": WHOLE,
        "--threads": WHOLE + ["0"], "--temperature": [r for r in RATE if r not in ("0", "-0.0")],
        "--top-p": [r for r in RATE if r not in ("0", "-0.0")], "--endpoint": ["x", "", "ftp://x"],
        "--out": TRAINING["--out"],
    },
    ("self-instruct",): {"--model": PLACE},
    ("score", "predictions.jsonl", "--xlingual"): {"--tokenizer": PLACE},
    ("encode",): {
        "--data": PLACE, "--task": WORD, "--format": WORD, "--n-pos": WHOLE, "--n-neg": WHOLE,
        "--max-length": WHOLE + ["0"], "--limit": WHOLE + ["0"], "--seed": WHOLE,
    },
    ("encode", "--format", "ni-v1"): {
        "--field": WORD, "--data": PLACE, "--limit": WHOLE + ["0"], "--n-neg": WHOLE,
    },
    ("encode", "--max-length", "99"): {"--tokenizer": PLACE},
    ROWS_OF: {"--rows": PLACE, "--templates": PLACE, "--cluster": WORD, "--format": WORD},
    ("encode", "--format", "promptsource", "--rows", "rows.jsonl"): {
        "--templates": PLACE, "--seed": WHOLE,
    },
    ("encode", "--format", "promptsource", "--templates", "templates.yaml"): {"--rows": PLACE},
    ("pretrain", "--out", "run"): {
        **TRAINING, "--d-model": WHOLE + ["0"], "--vocab-size": WHOLE + ["0", "9"],
    },
    ("tune", "--out", "run"): TUNING,
    ("evaluate", "--out", "run"): {
        k: v for k, v in ASKING.items() if k not in ("--steps", "--batch-size")
    },
    ("optimize", "--out", "run"): {
        **TUNING, "--instruction": WORD, "--length": WHOLE + ["0"], "--candidates": WHOLE + ["0"],
        "--inner-steps": WHOLE + ["0"], "--method": WORD, "--product": WORD, "--n-terms": WHOLE,
        "--gamma": RATE, "--phi-rate": [r for r in RATE if r not in ("0", "-0.0")],
        "--meta-share": RATE + ["1", "2"], "--meta-batch-size": WHOLE + ["0"], "--every": WHOLE,
        "--n-valid": WHOLE + ["0"],
    },
    ("demo", "--out", "run"): {
        "--seeds": WHOLE + ["0"], "--workers": WHOLE + ["0"], "--scale": RATE,
        "--out": TRAINING["--out"],
    },
    ("reproduce", "fig3", "--out", "run"): {
        "--backend": ["slurm", "", "dusk"], "--address": ["tcp://x:1", "nowhere"],
        "--seeds": WHOLE + ["0"], "--workers": WHOLE + ["0"], "--scale": RATE, "--data": PLACE,
        "--model": PLACE, "--recipe": PLACE, "--out": TRAINING["--out"],
    },
    ("plan",): {
        "--model": PLACE, "--recipe": PLACE, "--set": TRAINING["--set"], "--instruction": WORD,
        "--gpus": WHOLE + ["0"], "--tasks": WHOLE + ["0"], "--utilisation": RATE,
        **dict.fromkeys(("--memory", "--peak"), [rate for rate in RATE if rate != "1e300"]),
    },
    ("reproduce", "fig3", "--show"): {"--out": [p for p in PLACE if p != "file"]},
    ("reproduce", "superni-tasks", "--out", "run"): {"--recipe": ["small", "x"]},
    ("reproduce",): {None: WORD},
}
ASKED = [
    (command, option, value)
    for command, options in OPTIONS.items()
    for option, values in options.items()
    for value in dict.fromkeys(values)
]


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    "A folder with an older run, some files, and what is no file; nothing may begin to work there."
    folder = tmp_path_factory.mktemp("desk")
    for name in ("empty", "run/model", "run/checkpoint"): (folder / name).mkdir(parents=True)
    for name in ("pipe", "endless", "circle"): special(name, folder)
    (folder / "file").write_text("é nothing that anybody reads")
    for name in (
        "config.json", "metrics.jsonl", "predictions.jsonl", "answers.jsonl", "instruction.pt",
        "result.json", "model/config.json", "checkpoint/settings.json",
    ):
        (folder / "run" / name).write_text("old " + name)
    for name, kind in (
        ("rows.jsonl", "rows.jsonl"), ("predictions.jsonl", "ours.jsonl"),
        ("templates.yaml", "templates.yaml"),
    ):
        (folder / name).write_text(KINDS[kind].write(KINDS[kind].value))
    def reached(*args, **others): raise Reached
    with pytest.MonkeyPatch.context() as m:
        m.chdir(folder)
        m.setattr(models.AutoModelForSeq2SeqLM, "from_pretrained", reached)
        m.setattr(pretraining, "documents", reached)
        m.setattr(reading, "new_reader", reached)
        m.setattr(study, "run_jobs", reached)
        m.setattr(demo, "_run_all", reached)
        yield folder


def listing(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None
        for p in folder.rglob("*")
        if p.name not in ("pipe", "endless", "circle")
    }


@tries(400)
@given(asked=st.sampled_from(ASKED))
def test_nonsense_on_the_command_line_is_refused_before_anything_is_loaded(asked, desk):
    command, option, value = asked
    value = "x" * 5000 if value == "long" else value
    words = [*command, value] if option is None else [*command, option, value]
    before = listing(desk)
    status, said = instop(*words)
    lines = said.strip().splitlines()
    assert status in (1, 2) and "Traceback" not in said and 0 < len(lines) <= 4, (words, said)
    named = [
        value or "nothing", ascii(value)[1:-1], str(option),
        str(option).strip("-").replace("-", "_"), "meta_share", "PREDICTIONS", "DIR", "NAME",
    ]
    if len(value) > 300: named += [value[:20]]
    assert any(name in said for name in named), (words, said)
    assert (
        all(line.isprintable() for line in lines)
        and (len(said) < 700 or command == ("reproduce",))
        and "[Errno" not in said
        and "codec can't" not in said
    ), (words, said)
    assert listing(desk) == before, words
    TRIED["option", "refused"] += 1


@pytest.mark.parametrize(
    "command", [command for command in OPTIONS if {"--out"} & {*command}], ids=" ".join
)
def test_without_nonsense_the_work_begins(command, desk):
    with pytest.raises(Reached):
        instop(*command, *(["--recipe", "small"] if command[1] == "fig3" else []))


def test_every_option_is_asked():
    import typer
    known = {
        name: {o for p in command.params for o in p.opts if o.startswith("--")}
        for name, command in typer.main.get_command(cli.app).commands.items()
    }
    flags = {
        "--definition", "--explanations", "--task-name", "--faithful", "--resume", "--quiet",
        "--in-place", "--show", "--keep", "--xlingual", "--chat", "--help",
    }
    for name, options in known.items():
        assert options - flags <= {
            option for command, some in OPTIONS.items() if command[0] == name for option in some
        }, name
