"""The demo, small: all arms, a table, three pictures, the same numbers with one process or two."""
import json

from instop_nb.demo import ARMS, STEPS, TIERS, demo, run_demo_arm
from instop_nb.trainer import T5Trainer


def test_demo_writes_records_and_pictures_and_repeats(tmp_path):
    tables = [
        demo(tmp_path / name, seeds=1, workers=workers, scale=0.01)
        for name, workers in (("one", 1), ("two", 2))
    ]
    assert [row["instruction"] for row in tables[0]] == [
        "definition", "definition + embedder", "no instruction", "copy the input",
    ]
    assert json.dumps(tables[0]) == json.dumps(tables[1])
    assert all(list(row[score]) == list(TIERS) for row in tables[0] for score in ("em", "rouge_l"))
    record = json.loads((tmp_path / "one" / "summary.json").read_text())
    assert (
        record["command"]
        and record["seeds"] == [0]
        and len(record["table"]) == 4
        and record["steps"] == round(STEPS * 0.01)
    )
    for name in ("learning_curves.png", "categories.png", "instructions.png"):
        assert (tmp_path / "one" / name).stat().st_size > 5000
    assert (tmp_path / "one" / "definition-0" / "predictions.jsonl").exists()


def test_all_arms_take_the_same_steps_on_the_same_answers(tmp_path, monkeypatch):
    "What training would see in each arm; nothing is trained."
    seen = {}
    def note(self, **kwargs): seen[arm] = self.args.max_steps, self.train_dataset["labels"][:]
    monkeypatch.setattr(T5Trainer, "train", note)
    monkeypatch.setattr("instop_nb.demo._ask", lambda *asked: {})
    for arm in ARMS: run_demo_arm(tmp_path / arm, arm, 1, scale=0.01)
    steps, answers = seen["definition"]
    assert steps == 5 and len(answers) == 5 * 64
    assert seen["definition"] == seen["definition + embedder"] == seen["no instruction"]


def test_learning_curves_show_each_kind_of_unseen_tasks_apart(tmp_path):
    run_demo_arm(tmp_path, "no instruction", 0, scale=0.008)
    probes = [
        row
        for row in map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
        if "probe" in row
    ]
    assert [row["step"] for row in probes] == [1, 2, 3, 4] and all(
        set(row["probe"]) == {"new arguments", "new pair"} for row in probes
    )
