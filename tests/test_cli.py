"""The commands, as a user types them: they run, they repeat, and their errors say what to do."""
import contextlib
import io
import json
import os
import subprocess
import sys
from unittest.mock import patch

import pytest
from typer.testing import CliRunner

from instop_nb.cli import app

SMALL = [
    "--steps", "6", "--batch-size", "8", "--n-instances", "3", "--n-test", "1", "--max-target",
    "8", "--quiet",
]
MARK = "micro_mark_after_dot_a_place_last"


@pytest.fixture(scope="module")
def some_tasks(tmp_path_factory):
    "A folder with a few of the small world's tasks, where more of them prove nothing."
    from instop_nb.microworld import micro_tasks
    from instop_nb.tasks import write_task
    folder = tmp_path_factory.mktemp("some")
    for part in ("tasks", "splits/default"): (folder / part).mkdir(parents=True)
    for split, step in (("train", 29), ("test", 12)):
        tasks = micro_tasks(split, 6)[::step]
        for task in tasks: write_task(task, folder / "tasks" / f"{task.name}.json")
        path = folder / "splits" / "default" / f"{split}_tasks.txt"
        path.write_text("".join(f"{task.name}\n" for task in tasks))
    return folder


def call(*words):
    "Run a command in this process and return its output."
    result = CliRunner().invoke(app, [str(w) for w in words])
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    return result.output


def fail(*words):
    """Run a command as `instop` does, expect exit status 1 and one line of error, and return
    that line."""
    from instop_nb import cli
    said = io.StringIO()
    with (
        patch.object(sys, "argv", ["instop", *map(str, words)]),
        contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said),
        pytest.raises(SystemExit) as end,
    ):
        cli.main()
    assert end.value.code == 1, said.getvalue()
    return said.getvalue().strip().splitlines()[-1]


def test_help_names_every_command():
    assert all(
        name in call("--help")
        for name in (
            "demo", "tasks", "encode", "pretrain", "tune", "optimize", "evaluate", "score",
            "reproduce",
        )
    )


def test_encode_gives_json_lines():
    rows = [
        json.loads(line)
        for line in call(
            "encode", "--task", MARK, "--limit", 2, "--n-pos", 1
        ).splitlines()
    ]
    assert len(rows) == 2 and set(rows[0]) == {"id", "task", "source", "targets"}
    assert " Positive Example 1 -\nInput: " in rows[0]["source"] and rows[0]["targets"][0].endswith(
        " dot"
    )
    short = json.loads(
        call(
            "encode", "--task", MARK, "--limit", 1, "--max-length", 24,
            "--tokenizer", "micro",
        )
    )
    assert "Positive Example" not in short["source"]


def encoded(*words):
    "What `instop encode` prints, line by line."
    result = CliRunner().invoke(app, ["encode", *map(str, words)])
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_an_evaluation_leaves_the_run_alone_whose_model_it_asks(tmp_path, some_tasks):
    call("tune", *SMALL, "--data", some_tasks, "--out", tmp_path)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    for _ in range(2):
        call(
            "evaluate", "--data", some_tasks, "--model", tmp_path / "model", "--n-test", 1,
            "--max-target", 4, "--quiet", "--out", tmp_path,
        )
    assert (tmp_path / "metrics.jsonl").read_bytes() == before and (
        tmp_path / "predictions-2.jsonl"
    ).exists()


def test_the_names_of_a_record_are_whole_in_a_pipe(capsys):
    from instop_nb.cli import print_record
    from instop_nb.tables import read_record
    record = read_record("fig3")
    print_record(record | {"title": "[/]"})
    out = capsys.readouterr().out
    assert all(run["arm"] in out for run in record["runs"]) and "[/]" in out


def test_encode_v1():
    task = ["--task", MARK, "--format", "ni-v1"]
    (row,) = encoded(
        *task, "--limit", 1, "--field", "Definition", "--field", "Positive Examples Full Only",
        "--n-pos", 1,
    )
    lines = row["source"].split("\n")
    assert (
        set(row) == {"id", "task", "source", "targets"}
        and lines[0].startswith("Definition: ")
        and lines[2].startswith("output: ")
    )
    assert lines[-2].startswith("input: ") and lines[-1] == "output:" and len(lines) == 5
    bare, = encoded(*task, "--limit", 1, "--no-definition", "--n-pos", 0)
    assert bare["source"].split("\n")[-2:] == lines[-2:] and "Definition" not in bare["source"]
    both, = encoded(*task, "--limit", 1, "--n-pos", 2, "--n-neg", 2, "--explanations")
    assert (
        both["source"].index("Negative Example1- ") < both["source"].index("Positive Example2- ")
        and "reason: " in both["source"]
    )
    assert "as many bad as good" in fail("encode", *task, "--n-pos", 2, "--n-neg", 1)
    assert "choose from ['Title'" in fail("encode", *task, "--field", "Subtitle")


def test_encode_rows_with_flan(tmp_path):
    rows, templates = tmp_path / "rows.jsonl", tmp_path / "templates.py"
    rows.write_text(
        '{"premise": "a {b}", "hypothesis": "c", "options": ["yes", "no"], "answer": "no"}\n'
    )
    found = encoded("--format", "flan", "--cluster", "nli", "--rows", rows)
    assert (
        len(found) == 10
        and {"template", "source", "target"} == set(found[0])
        and sum(row["target"] == "no" for row in found) >= 7
    )
    assert all("a {b}" in row["source"] + row["target"] for row in found)
    templates.write_text(
        'PATTERNS = {"rte": [("{premise}? {hypothesis}\\n{options_}", "{answer}")]}'
    )
    row, = encoded("--format", "flan", "--cluster", "rte", "--rows", rows, "--templates", templates)
    assert row == {"template": "rte-0", "source": "a {b}? c\nOPTIONS:\n- yes\n- no", "target": "no"}
    assert "--cluster: found 'nil'; choose from ['nli'" in fail(
        "encode", "--format", "flan", "--cluster", "nil", "--rows", rows
    )
    assert "--cluster" in fail("encode", "--format", "flan", "--rows", rows)
    rows.write_text('{"premise": "a", "hypothesis": "c", "options": ["yes"], "answer": "no"}\n')
    message = fail("encode", "--format", "flan", "--cluster", "nli", "--rows", rows)
    assert f"{rows}, line 1: answer: found 'no'; choose from the options ['yes']" in message
    templates.write_text("PATTERNS = open('/etc/passwd')")
    assert "PATTERNS" in fail(
        "encode", "--format", "flan", "--cluster", "rte", "--rows", rows, "--templates", templates
    )


def test_encode_rows_with_promptsource(tmp_path):
    rows, templates = tmp_path / "rows.jsonl", tmp_path / "templates.yaml"
    rows.write_text('{"text": "x|||y", "label": 1}\n{"text": "", "label": 0}\n')
    templates.write_text("""dataset: d
templates:
  i1: !Template
    answer_choices: no ||| yes
    id: i1
    jinja: "{{ text }} ok? ||| {{ answer_choices[label] }}"
    metadata: !TemplateMetadata
      {choices_in_prompt: false, languages: [en], metrics: [Accuracy], original_task: true}
    name: ok
    reference: ""
  i2: !Template
    answer_choices: null
    id: i2
    jinja: "{% if text %}Write {{ label }} ||| {{ text }}{% endif %}"
    metadata: !TemplateMetadata
      {choices_in_prompt: null, languages: [en], metrics: [], original_task: null}
    name: write
    reference: ""
""")
    command = ["encode", "--format", "promptsource", "--templates", templates, "--rows", rows]
    assert encoded(*command[1:]) == [
        {"template": "ok", "source": "x|||y ok?", "target": "yes"},
        {"template": "write", "source": "Write 1", "target": "x|||y"},
        {"template": "ok", "source": "ok?", "target": "no"},
    ]
    assert "1 render left out:\n1 of write: no input and target" in call(*command)
    templates.write_text(templates.read_text().replace("{{ text }} ok", "{{ ''.__class__ }} ok"))
    assert "ok" in fail(*command) and "templates.yaml" in fail(*command)
    assert "--rows" in fail(*command[:-2]) and "choose from ['tk-instruct'" in fail(
        "encode", "--format", "p3"
    )


def test_score_reads_predictions(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text(
        '{"task": "a", "category": "c", "prediction": "x y", "references": ["X y."]}\n'
        '{"task": "b", "category": "c", "prediction": "", "references": ["z"]}\n'
    )
    scores = json.loads(call("score", path))
    assert (
        scores["overall"]["exact_match"] == 50
        and set(scores["per_task"]) == {"a", "b"}
        and set(scores["per_category"]) == {"c"}
    )


def test_score_in_other_languages(tmp_path):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    core = Tokenizer(
        models.BPE(
            vocab={c: n for n, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))},
            merges=[],
        )
    )
    core.pre_tokenizer, core.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel(),
    )
    PreTrainedTokenizerFast(tokenizer_object=core).save_pretrained(tmp_path / "bytes")
    path = tmp_path / "p.jsonl"
    path.write_text(
        '{"task": "a", "category": "c", "prediction": "kissä", "references": ["kissa"]}\n',
        encoding="utf-8",
    )
    other = json.loads(call("score", path, "--xlingual", "--tokenizer", tmp_path / "bytes"))
    assert (
        other["overall"]["rougeL"] == pytest.approx(100 * 2 * 4 / 11)
        and json.loads(call("score", path))["overall"]["rougeL"] < other["overall"]["rougeL"]
    )
    assert "nowhere" in fail("score", path, "--xlingual", "--tokenizer", tmp_path / "nowhere")


def test_tune_optimize_evaluate_and_the_same_again(tmp_path):
    outputs = [call("tune", *SMALL, "--out", tmp_path / name) for name in "ab"]
    assert "copy the input" in outputs[0]
    predictions = [(tmp_path / name / "predictions.jsonl").read_text() for name in "ab"]
    assert predictions[0] == predictions[1]
    call(
        "optimize", *SMALL, "--inner-steps", 3, "--model", tmp_path / "a" / "model", "--out",
        tmp_path / "o",
    )
    assert (tmp_path / "o" / "instruction.pt").exists() and (
        tmp_path / "o" / "config.json"
    ).exists()
    assert "combination" in call(
        "evaluate", "--model", tmp_path / "a" / "model", "--n-test", 1, "--max-target", 8,
        "--quiet", "--out", tmp_path / "e",
    )
    assert (tmp_path / "e" / "predictions.jsonl").read_text() == predictions[0]


def test_an_interrupted_evaluation_goes_on_if_it_is_asked_to(tmp_path):
    again = ["evaluate", "--n-test", 1, "--max-target", 4, "--quiet", "--out", tmp_path]
    call(*again)
    predictions, answers = (
        (tmp_path / f"{name}.jsonl").read_text() for name in ("predictions", "answers")
    )
    (tmp_path / "answers.jsonl").write_text(
        "".join(
            json.dumps([(row := json.loads(line))[0], "from the file", row[2]]) + "\n"
            for line in answers.splitlines()[:5]
        )
    )
    call(*again, "--resume")
    assert (
        5
        <= (tmp_path / "predictions.jsonl").read_text().count("from the file")
        < len(predictions.splitlines())
    )
    call(*again)
    assert (tmp_path / "predictions.jsonl").read_text() == predictions, (
        "without --resume all is asked again"
    )


@pytest.mark.parametrize("kind", ["embedder-ic", "extractor-dp", "extractor-ic"])
def test_optimize_learns_any_instruction_and_validates(tmp_path, kind, some_tasks):
    out = call(
        "optimize", *SMALL, "--data", some_tasks, "--inner-steps", 2, "--instruction", kind,
        "--n-instances", 6, "--candidates", 4, "--in-place", "--every", 2, "--n-valid", 1,
        "--set", "start=0", "--out", tmp_path / "o",
    )
    rows = [
        json.loads(line) for line in (tmp_path / "o" / "metrics.jsonl").read_text().splitlines()
    ]
    assert (
        "copy the input" in out
        and any(r.get("phi_moved", 0) > 0 for r in rows)
        and any("eval_score" in r for r in rows)
    )


def test_optimize_names_an_unknown_instruction(tmp_path):
    assert "magic" in fail("optimize", *SMALL, "--instruction", "magic", "--out", tmp_path / "o")


def test_reproduce_runs_a_study_once_and_shows_its_record(tmp_path):
    (tmp_path / "few.yaml").write_text(
        "{n_instances: 4, n_valid: 1, max_target: 4, base_batch_size: 8, n_candidates: 2}"
    )
    recipe = ["--recipe", tmp_path / "few.yaml", "--workers", 1, "--quiet", "--out", tmp_path]
    study = ["reproduce", "table3", "--seeds", 1, "--scale", 0.01, *recipe]
    first = call(*study)
    assert "ROUGE" in first or "rougeL" in first
    stamps = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/result.json")}
    assert len(stamps) == 6 and "CPU minutes" in first
    assert (
        call(*study) == first
        and {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/result.json")} == stamps
    )
    record = json.loads(call("reproduce", "table3", "--show", "--out", tmp_path))
    assert record["name"] == "table3" and len(record["runs"]) == 6 and record["scale"] == 0.01
    assert "other settings" in fail(
        "reproduce", "table3", "--seeds", 1, "--scale", 0.02, *recipe
    )
    assert "table2" in fail("reproduce", "no-such-study") and "instop reproduce table3" in fail(
        "reproduce", "table3", "--show", "--out", tmp_path / "nowhere"
    )


def test_an_interrupted_study_goes_on_and_repeats_no_finished_run(tmp_path):
    from instop_nb.study import Study, reproduce
    made = []
    def run(folder, seed, scale, data, model):
        made.append(seed)
        if seed == 2 and made.count(2) == 1: raise KeyboardInterrupt
        return {"rougeL": float(seed)}
    study = Study("s", "", "", run, {"only": {}}, 4)
    with pytest.raises(KeyboardInterrupt): reproduce(study, tmp_path, workers=1, quiet=True)
    record = reproduce(study, tmp_path, workers=1, quiet=True)
    assert made == [0, 1, 2, 2, 3] and [r["rougeL"] for r in record["runs"]] == [0.0, 1.0, 2.0, 3.0]


def test_pretrain_reads_the_books_and_makes_a_model_that_loads(tmp_path):
    call(
        "pretrain", "--steps", 4, "--batch-size", 4, "--d-model", 16, "--seed", 3, "--out",
        tmp_path / "t5", "--quiet",
    )
    config = json.loads((tmp_path / "t5" / "config.json").read_text())
    assert (config["d_model"], config["d_ff"]) == (16, 64)
    for part in ("skills", "loose"): assert (tmp_path / "t5" / part / "metrics.jsonl").exists()
    assert "copy the input" in call(
        "evaluate", "--model", tmp_path / "t5", "--n-test", 1, "--max-target", 4, "--quiet",
        "--out", tmp_path / "e",
    )


def test_pretrain_without_options_makes_the_model_that_ships(tmp_path, monkeypatch):
    from instop_nb import reading
    made = []
    monkeypatch.setattr(reading, "read_books", lambda *arguments: made.append(arguments))
    for words in ((), ("--resume", "--quiet", "--steps", reading.Reading().skill_steps // 2)):
        call("pretrain", "--out", tmp_path / "t5", *words)
    (whole, folder, *how), (half, _, *how_again) = made
    assert (whole, folder) == (reading.Reading(), tmp_path / "t5")
    assert (how, how_again) == ([False, False], [True, True])
    assert half.loose_steps == round(whole.loose_steps / 2) and half.d_model == whole.d_model


def test_the_tokens_of_the_small_world_cannot_be_counted_down(tmp_path):
    said = fail("pretrain", "--vocab-size", 600, "--out", tmp_path / "t5")
    assert "--vocab-size: found 600" in said and not (tmp_path / "t5").exists()


def test_ask_answers_on_stdout_and_tells_the_rest_on_stderr(tmp_path):
    from instop_nb.ask import ask, question
    from instop_nb.core import printable
    from instop_nb.models import load_model
    words = "drop every tool", "fox saw hat axe"
    result = CliRunner().invoke(app, ["ask", *words])
    expected = ask(*words, *load_model("micro-tuned", "cpu"))
    assert result.exit_code == 0 and result.stdout == expected + "\n"
    assert f"It reads: {printable(question(*words))}\n" == result.stderr
    strange = CliRunner().invoke(app, ["ask", "drop every tol", "fox saw"])
    assert "does not know 'tol', but tool" in strange.stderr
    assert len(strange.stdout.splitlines()) == 1
    assert "say what to do" in fail("ask", " ", "fox")
    assert "'micro'" in fail("ask", "drop every tool", "fox", "--model", tmp_path / "missing")
    assert "no config.json" in fail("ask", "drop every tool", "fox", "--model", tmp_path)


def test_errors_are_one_line_that_says_what_to_do(tmp_path):
    assert "'micro'" in fail(
        "evaluate", "--model", "google/t5-base-lm-adapt", "--out", tmp_path / "x"
    )
    assert "no-such-folder" in fail(
        "tune", "--data", tmp_path / "no-such-folder", "--out", tmp_path / "x"
    )
    assert "no-such-file" in fail("score", tmp_path / "no-such-file.jsonl")
    assert "no-such-task" in fail("encode", "--task", "no-such-task")


def test_a_bad_task_file_is_named_with_field_and_advice(tmp_path):
    (tmp_path / "tasks").mkdir()
    good = {
        "Categories": ["c"], "Definition": ["Do it."], "Positive Examples": [],
        "Negative Examples": [], "Instances": [{"id": "1", "input": "a", "output": ["b"]}],
    }
    (tmp_path / "tasks" / "task1_good.json").write_text(json.dumps(good))
    assert "1 tasks" in call("tasks", tmp_path)
    (tmp_path / "tasks" / "task2_bad.json").write_text(
        json.dumps({**good, "Instances": [{"id": "1", "input": "a", "output": "b"}]})
    )
    result = CliRunner().invoke(app, ["tasks", str(tmp_path)])
    assert (
        result.exit_code == 1
        and "task2_bad.json" in result.output
        and "Instances[0].output" in result.output
        and "write a list" in result.output
    )


def task_of(rows=(("a", "b"),), category="c", good=(), say="Do it."):
    "A task file as JSON."
    def example(x, y): return {"input": x, "output": y}
    return {
        "Categories": [category], "Definition": [say],
        "Positive Examples": [example(*e) for e in good], "Negative Examples": [],
        "Instances": [{"id": str(n), "input": x, "output": [y]} for n, (x, y) in enumerate(rows)],
    }


def collection(folder, **tasks):
    "A folder of task files; bytes are written as they are."
    (folder / "tasks").mkdir(parents=True)
    for name, data in tasks.items():
        (folder / "tasks" / f"{name}.json").write_bytes(
            data if isinstance(data, bytes) else json.dumps(data).encode()
        )
    return folder


def listed(folder):
    "What `instop tasks` prints on standard output and on standard error, and how it ends."
    result = CliRunner().invoke(app, ["tasks", str(folder)])
    return result.stdout, result.stderr.splitlines(), result.exit_code


def test_flaws_are_warnings_by_name_and_change_no_exit_status(tmp_path):
    folder = collection(
        tmp_path / "a", one=task_of([("x", "y"), ("p", "q")]),
        two=task_of([("p", "q"), ("x", "y")]), three=task_of([("</s>", "z")], good=[("</s>", "y")]),
    )
    out, err, status = listed(folder)
    assert (
        status == 0
        and "0 problem(s), 4 warning(s)" in out
        and all(line.startswith("warning: ") for line in err)
        and len(err) == 4
    )
    assert (
        any("two" in line and "one" in line for line in err)
        and sum("three" in line and "</s>" in line for line in err) == 3
    )
    assert listed(
        collection(tmp_path / "b", one=task_of(), two=task_of([("p", "q")], say="Other."))
    )[1:] == ([], 0)


@pytest.mark.parametrize(
    "name",
    ["[/]", "[bold]x[/bold]", "[/red]", ":smile:", "x" * 180, "猫" * 60, "\\[a]", "[link=x]y"],
)
def test_names_are_printed_whole_and_as_they_are(tmp_path, name):
    out, err, status = listed(
        collection(tmp_path / "c", **{name.replace("/", "-"): task_of(category=name + " c")})
    )
    assert status == 0 and name.replace("/", "-") in out and name + " c" in out


def test_names_move_no_terminal(tmp_path):
    evil = "a\x1b[2J\x9b\u202e"
    out, err, status = listed(
        collection(
            tmp_path / "c",
            **{
                evil: task_of(category=evil), evil + "b": b"{",
                "c": task_of([("x", "y"), ("x", "z")], category=evil),
            },
        )
    )
    assert (
        status == 1
        and len(err) == 2
        and all(text.isprintable() for text in [*out.splitlines(), *err])
    )
    encoded_text = call(
        "encode", "--data", collection(tmp_path / "d", a=task_of([("\x9b2J\u202e", "y")]))
    )
    assert (
        "\x9b" not in encoded_text
        and "\u202e" not in encoded_text
        and "\x9b2J\u202e" in json.loads(encoded_text)["source"]
    )


def test_one_task_is_encoded_whatever_stands_beside_it(tmp_path, monkeypatch):
    folder = collection(
        tmp_path / "c", task1_good=task_of(), task2_broken=b"{",
        task3_half=task_of([("\ud83d", "b")]),
    )
    (folder / "tasks/\x1b.json").write_bytes(b"\xff"); os.mkfifo(folder / "tasks/pipe.json")
    row, = encoded("--data", folder, "--task", "task1_good")
    assert row["task"] == "task1_good" and row["targets"] == ["b"]
    assert (
        encoded("--data", folder, "--task", "task1_good", "--format", "ni-v1", "--n-pos", 0)[0][
            "task"
        ]
        == "task1_good"
    )
    assert "task2_broken.json" in fail("encode", "--data", folder, "--task", "task2_broken")
    assert "task3_half.json: Instances[0].input" in fail(
        "encode", "--data", folder, "--task", "task3_half"
    )
    assert "did you mean task1_good" in fail("encode", "--data", folder, "--task", "task1_goud")
    assert ".json: " in fail("encode", "--data", folder), (
        "without a name all files are read, and the first bad one is named"
    )
    assert f"such as {MARK}" in fail("encode", "--task", MARK[:-1])


def test_one_task_is_encoded_without_heavy_imports(tmp_path):
    folder = collection(tmp_path / "c", a=task_of())
    code = (
        "import sys; from instop_nb.cli import app; app(sys.argv[1:], standalone_mode=False); "
        "assert not {'torch', 'transformers', 'scipy'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "encode", "--data", str(folder), "--task", "a"],
        capture_output=True, text=True,
    )
    assert done.returncode == 0 and json.loads(done.stdout)["targets"] == ["b"], done.stderr


@pytest.mark.parametrize(
    "option, n",
    [
        ("--limit", 0), ("--limit", -1), ("--max-length", 0), ("--max-length", -3), ("--n-pos", -1),
        ("--n-neg", -2),
    ],
)
@pytest.mark.parametrize("layout", ["tk-instruct", "ni-v1"])
def test_numbers_that_make_no_sense_are_refused(tmp_path, option, n, layout):
    result = CliRunner().invoke(app, ["encode", "--format", layout, option, str(n)])
    assert (
        result.exit_code == 1
        and not result.stdout
        and f"encode: {option}: found {n}; give " in str(result.exception)
    )


def test_a_tokenizer_that_cannot_be_loaded_is_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    for command in (["encode", "--max-length", 9], ["score", tmp_path / "p.jsonl", "--xlingual"]):
        (tmp_path / "p.jsonl").write_text(
            '{"task": "t", "category": "c", "prediction": "x", "references": ["x"]}'
        )
        assert str(tmp_path) in fail(*command, "--tokenizer", tmp_path)


def test_scores_that_are_not_what_they_seem_come_with_a_warning(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text(
        "".join(
            json.dumps({"task": "t", "category": "c", "prediction": p, "references": [r]}) + "\n"
            for p, r in (("लाल", "लाल"), ("caf\u00e9", "cafe\u0301"), ("x", "x"))
        )
    )
    result = CliRunner().invoke(app, ["score", str(path)])
    assert result.exit_code == 0 and json.loads(result.stdout)["overall"]["n"] == 3
    assert (
        "warning: ROUGE" in result.stderr
        and "1 of 3 references and 1 of 3 predictions" in result.stderr
        and "1 of 3 predictions differ" in result.stderr
    )
    path.write_text('{"task": "t", "category": "c", "prediction": "x", "references": ["x"]}')
    assert CliRunner().invoke(app, ["score", str(path)]).stderr == ""


def test_an_evaluation_in_another_script_comes_with_a_warning(tmp_path):
    folder = collection(tmp_path / "c", a=task_of(), b=task_of([("दीपक", "लाल")]))
    (folder / "splits/default").mkdir(parents=True)
    for split, name in (("train", "a"), ("test", "b")):
        (folder / f"splits/default/{split}_tasks.txt").write_text(name)
    result = CliRunner().invoke(
        app,
        [
            "evaluate", "--data", str(folder), "--n-test", "1", "--max-target", "2", "--quiet",
            "--out", str(tmp_path / "e"),
        ],
    )
    assert (
        result.exit_code == 0 and "1 of 1 references" in result.stderr and "Latin" in result.stderr
    )


def test_predictions_of_tk_instruct_are_scored(tmp_path):
    rows = [
        {
            "Task": name, "Categories": ["C"],
            "Instance": {"id": "0", "input": "x", "output": ["red"]}, "prediction": said,
        }
        for name, said in (("a", "Red."), ("b", "blue"))
    ]
    (tmp_path / "predicted_examples.jsonl").write_text(
        "\ufeff" + "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
    )
    scores = json.loads(call("score", tmp_path / "predicted_examples.jsonl"))
    assert (
        scores["overall"]["exact_match"] == 50
        and scores["per_task"]["a"]["exact_match"] == 100
        and set(scores["per_category"]) == {"C"}
    )


def test_real_tasks_are_valid(real_tasks):
    assert "190 tasks" in call("tasks", real_tasks)


def test_whole_path_on_real_tasks(few_real_tasks, tmp_path):
    real_tasks = few_real_tasks
    small = [
        "--data", real_tasks, "--steps", 3, "--batch-size", 4, "--n-instances", 2, "--n-test", 1,
        "--max-source", 128, "--max-target", 8, "--quiet",
    ]
    call(
        "pretrain", "--data", real_tasks, "--steps", 3, "--batch-size", 4, "--vocab-size", 600,
        "--out", tmp_path / "t5", "--quiet",
    )
    for command in ("tune", "optimize"):
        assert "copy an example" in call(
            command, *small, "--model", tmp_path / "t5", "--out", tmp_path / command
        )
    out = call(
        "evaluate", "--data", real_tasks, "--model", tmp_path / "optimize" / "model", "--n-test", 1,
        "--max-source", 128, "--max-target", 8, "--quiet", "--out", tmp_path / "e",
    )
    assert "copy the input" in out and "copy an example" in out


# What a terminal does, and what a user types

def shell(*words, **environment):
    "Run a command in a process of its own; return status, output and errors as bytes."
    done = subprocess.run(
        [sys.executable, "-c", "from instop_nb.cli import main; main()", *map(str, words)],
        capture_output=True, env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_json_lines_lose_nothing_in_any_terminal(encoding, tmp_path):
    text = "दीपक é 😀 \u2028"
    folder = collection(tmp_path / "c", a=task_of([(text, text)]))
    status, out, _ = shell("encode", "--data", folder, PYTHONIOENCODING=encoding, PYTHONUTF8="0")
    row = json.loads(out.decode(encoding))
    assert status == 0 and row["targets"] == [text] and text.strip() in row["source"]


def test_ctrl_c_says_how_to_go_on(monkeypatch, capsys):
    from instop_nb import cli
    def interrupted(): raise SystemExit(130)
    monkeypatch.setattr(cli, "app", interrupted)
    for command, says in (
        ("tune", "--resume"), ("reproduce", "finished are kept"), ("demo", "interrupted"),
    ):
        monkeypatch.setattr(sys, "argv", ["instop", command])
        with pytest.raises(SystemExit) as end: cli.main()
        assert end.value.code == 130 and says in capsys.readouterr().err


def test_errors_do_what_errors_do_and_no_terminal_obeys_them(monkeypatch, capsys):
    from instop_nb import cli
    for error, says in (
        (ValueError("red \x1b[2J"), "instop: red \\x1b[2J"),
        (RuntimeError("CUDA out of memory. Tried"), "--batch-size"),
        (OSError("two\nlines"), "two lines"),
    ):
        def fails(error=error): raise error
        monkeypatch.setattr(cli, "app", fails)
        with pytest.raises(SystemExit) as end: cli.main()
        said = capsys.readouterr().err
        assert end.value.code == 1 and says in said and said.count("\n") == 1
    def other(): raise RuntimeError("a fault of ours")
    monkeypatch.setattr(cli, "app", other)
    with pytest.raises(RuntimeError, match="ours"): cli.main()


NONSENSE = {
    "tune": [
        "--steps 0", "--batch-size -1", "--threads 0", "--max-source 0", "--n-test 0",
        "--eval-batch-size 0", "--seed -1",
    ],
    "optimize": [
        "--inner-steps 0", "--inner-steps -1", "--meta-batch-size 0", "--length 0", "--every -1",
        "--n-terms -1",
    ],
    "pretrain": ["--d-model 0", "--vocab-size -1", "--steps 0"],
    "demo": ["--seeds 0", "--workers 0"], "reproduce": ["table2 --seeds 0", "table2 --workers 0"],
}


@pytest.mark.parametrize(
    "command, words", [(command, words) for command, some in NONSENSE.items() for words in some]
)
def test_numbers_that_cannot_be_meant_are_refused_by_name(command, words):
    result = CliRunner().invoke(app, [command, *words.split()])
    assert (
        result.exit_code == 2
        and f"'{next(w for w in words.split() if w.startswith('--'))}'" in result.stderr
        and len(result.stderr.splitlines()) <= 4
    )


@pytest.mark.parametrize(
    "words, says",
    [
        ("tune --learning-rate inf", "learning_rate: found inf"),
        ("tune --learning-rate nan", "learning_rate"),
        ("optimize --phi-rate -1", "phi_rate: found -1"), ("optimize --phi-rate nan", "phi_rate"),
        ("optimize --method newton", "method: found 'newton'"),
        ("evaluate --device cuda:99", "device: found 'cuda:99'"),
        ("reproduce table2 --scale 0", "scale: found 0"),
        ("optimize --meta-share 2", "share: found 2"),
        ("evaluate --device meta", "device: found 'meta'"),
    ],
)
def test_options_that_cannot_be_meant_are_refused_in_one_line(
    words, says, tmp_path, monkeypatch, capsys
):
    from instop_nb import cli
    small = (
        ["--n-instances", "2", "--n-test", "1"] if words.startswith(("tune", "optimize")) else []
    )
    monkeypatch.setattr(
        sys, "argv", ["instop", *words.split(), *small, "--quiet", "--out", str(tmp_path / "run")]
    )
    with pytest.raises(SystemExit) as end: cli.main()
    assert (
        end.value.code == 1
        and says in capsys.readouterr().err
        and not (tmp_path / "run/config.json").exists()
    )


@pytest.mark.parametrize("scale", ["0", "-1", "nan"])
def test_a_demo_of_no_size_is_refused(scale, tmp_path):
    assert "scale: found" in fail("demo", "--scale", scale, "--out", tmp_path)


def test_a_command_that_fails_leaves_the_older_run_alone(tmp_path, some_tasks):
    again = ["tune", *SMALL, "--data", some_tasks, "--out", tmp_path]
    call(*again)
    before = {p.relative_to(tmp_path): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert "no-such-model" in fail(*again, "--model", "no-such-model")
    assert "begun with" in fail(*again, "--resume", "--seed", 5)
    assert before == {
        p.relative_to(tmp_path): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()
    }


def test_quiet_is_quiet(tmp_path, some_tasks):
    asked = ["evaluate", "--n-test", "1", "--max-target", "4"]
    def run(name, *words):
        more = ["--data", str(some_tasks), "--out", str(tmp_path / name)]
        return CliRunner().invoke(app, [*words, *more])
    for command in (["tune", *SMALL], [*asked, "--quiet"]):
        result = run(command[0], *command)
        assert result.exit_code == 0 and "%|" not in result.stderr
    loud = run("loud", *asked)
    assert "%|" in loud.stderr


def test_references_that_cannot_be_written_are_counted(tmp_path):
    from transformers import PreTrainedTokenizerFast
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from instop_nb.micro import micro_config, new_t5
    inner = Tokenizer(models.WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2, "red": 3}, "<unk>"))
    inner.pre_tokenizer, inner.post_processor = (
        pre_tokenizers.Whitespace(),
        processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)]),
    )
    PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(tmp_path / "t5")
    new_t5(micro_config(4, d_model=16, num_heads=1)).save_pretrained(tmp_path / "t5")
    folder = collection(
        tmp_path / "c", a=task_of(), b=task_of([("x", "red"), ("y", "{red}"), ("z", "{}")])
    )
    (folder / "splits/default").mkdir(parents=True)
    for split, name in (("train", "a"), ("test", "b")):
        (folder / f"splits/default/{split}_tasks.txt").write_text(name)
    result = CliRunner().invoke(
        app,
        [
            "evaluate", "--data", str(folder), "--model", str(tmp_path / "t5"), "--max-target", "2",
            "--quiet", "--out", str(tmp_path / "e"),
        ],
    )
    assert (
        result.exit_code == 0
        and "2 of 3 references (67 %)" in result.stderr
        and "{red}" in result.stderr
    )
