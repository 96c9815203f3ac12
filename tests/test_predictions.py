"What the chapter on predictions promises: each slip is named, other people's rows are read."
import json

import pytest

from instop_nb.metrics import score
from instop_nb.predictions import (
    check_row, copy_example, copy_input, from_tk_instruct, read_predictions,
)
from instop_nb.tasks import Example, Instance, Task

good = dict(task="t", category="c", prediction="", references=["x"])
@pytest.mark.parametrize(
    "line, words",
    [
        ("{", "not JSON"), ("[1]", "is not an object"),
        (json.dumps({**good, "references": "x"}), "field 'references' is 'x'"),
        (json.dumps({**good, "references": [1]}), "field 'references' is [1]"),
        (json.dumps({**good, "prediction": 3}), "field 'prediction' is 3"),
        (json.dumps({k: v for k, v in good.items() if k != "task"}), "field 'task' is missing"),
        (
            json.dumps({k: v for k, v in good.items() if k != "references"}),
            "field 'references' is missing",
        ),
    ],
)
def test_bad_line(tmp_path, line, words):
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps(good) + "\n\n" + line + "\n")
    with pytest.raises(ValueError) as e: read_predictions(path)
    assert (
        str(path) in str(e.value)
        and "line 3" in str(e.value)
        and words in str(e.value)
        and "write" in str(e.value)
    )


@pytest.mark.parametrize(
    "value",
    [
        3, 1e999, float("nan"), None, True, 10**4000, ["x"], {"a": [1] * 10**5},
        [[["x"] * 10**4] * 10**3], "\x1b[2J" * 999,
    ],
)
def test_a_value_that_is_none_is_named_in_few_words(value):
    for field in ("prediction", "references"):
        if (
            field == "prediction"
            and isinstance(value, str)
            or value == ["x"]
            and field == "references"
        ):
            continue
        with pytest.raises(ValueError) as caught:
            check_row({**good, field: value}, "p.jsonl, line 3")
        assert (
            f"p.jsonl, line 3: field '{field}' is " in str(caught.value)
            and len(str(caught.value)) < 200
            and str(caught.value).isprintable()
        )
    with pytest.raises(ValueError, match="not an object") as caught: check_row([value])
    assert len(str(caught.value)) < 200


def test_good_file(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text(
        "\n".join(json.dumps({**good, "prediction": p, "id": 1}) for p in ("x\u2028y", "ä"))
        + "\n\n", encoding="utf-8",
    )
    assert [r["prediction"] for r in read_predictions(path)] == ["x\u2028y", "ä"]
    path.write_text("\n")
    with pytest.raises(ValueError, match="no predictions"): read_predictions(path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_predictions(tmp_path / "q.jsonl")


def test_heuristics():
    task = Task(
        "t", ["Repeat."], [Example("a", "b")], [],
        [Instance("1", "x y", ["x y"]), Instance("2", "z", ["b", "q"])], ["Copy"],
    )
    assert [r["prediction"] for r in copy_input(task)] == ["x y", "z"]
    assert (
        score(copy_input(task))["overall"]["exact_match"]
        == score(copy_example(task))["overall"]["exact_match"]
        == 50
    )
    with pytest.raises(ValueError, match="no positive example"): copy_example(Task("t", ["Do."]))


# Tk-Instruct's predictions

THEIRS = {
    "id": "t1-0", "Task": "t1", "Categories": ["Colour Naming", "Other"],
    "Definition": ["Name it."], "Positive Examples": [],
    "Instance": {"id": "t1-0", "input": "A lamp", "output": ["red", "rot"]}, "prediction": "Rot.",
}


@pytest.mark.parametrize(
    "row, category",
    [
        (THEIRS, "Colour Naming"), ({**THEIRS, "Categories": "Colour Naming"}, "Colour Naming"),
        ({**THEIRS, "Categories": []}, "unknown"),
        (
            {
                "Task": "t1", "Definition": "Name it.", "Instance": THEIRS["Instance"],
                "Prediction": "rot",
            },
            "unknown",
        ),
    ],
)
def test_predictions_of_tk_instruct_are_read(row, category, tmp_path):
    path = tmp_path / "predicted_examples.jsonl"
    path.write_text(json.dumps(row) + "\n")
    found, = read_predictions(path)
    assert (found["id"], found["task"], found["category"], found["references"]) == (
        "t1-0", "t1", category, ["red", "rot"],
    ) and score([found])["overall"]["exact_match"] == 100


@pytest.mark.parametrize(
    "change, says",
    [
        (dict(Instance={}), "'references' is missing"),
        (dict(Instance={"output": "red"}), "'references' is 'red'"),
        (dict(prediction=None), "'prediction' is None"), (dict(Categories=[3]), "'category' is 3"),
        (dict(Task=None), "'task' is None"), (dict(Instance=[]), "'task' is missing"),
    ],
)
def test_slips_in_predictions_of_tk_instruct_are_named(change, says, tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps(THEIRS | change))
    with pytest.raises(ValueError, match="p.jsonl, line 1: field " + says): read_predictions(path)


def test_other_rows_stay_as_they_are_and_bare_ones_are_told_what_they_need(tmp_path):
    assert from_tk_instruct(good) is good and from_tk_instruct({**THEIRS, "task": "x"}) == {
        **THEIRS, "task": "x",
    }
    (tmp_path / "p.jsonl").write_text('{"id": "t1-0", "prediction": "red"}')
    with pytest.raises(ValueError, match="id and prediction alone"):
        read_predictions(tmp_path / "p.jsonl")
