"""The demo, small: all arms, a table, three pictures, the same numbers with one process or two."""
import json

import pytest

from instop_nb.demo import ARMS, STEPS, demo, run_demo_arm
from instop_nb.tiers import ASKED
from instop_nb.trainer import T5Trainer


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    "Two small demos with the same seed, with one process and with two: folder and tables."
    folder = tmp_path_factory.mktemp("demo")
    return folder, [
        demo(folder / name, seeds=1, workers=workers, scale=0.01)
        for name, workers in (("one", 1), ("two", 2))
    ]


def test_a_row_an_arm_and_what_needs_no_training(two):
    _, (table, again) = two
    assert [row["instruction"] for row in table] == [*ARMS, "untuned", "copy the input"]
    assert all(list(row[score]) == [*ASKED] for row in table for score in ("em", "rouge_l"))
    assert json.dumps(table) == json.dumps(again), "the number of processes changes nothing"


def test_the_record_says_how_it_was_made(two):
    folder, (table, _) = two
    record = json.loads((folder / "one" / "summary.json").read_text())
    assert record["command"] == "instop demo --scale 0.01" and record["seeds"] == [0]
    assert json.dumps(record["table"]) == json.dumps(table)
    assert record["steps"] == max(2, round(STEPS * 0.01))
    assert min(record["questions"].values()) >= 4 and [*record["questions"]] == [*ASKED]


def test_three_pictures(two):
    for name in ("learning_curves", "categories", "instructions"):
        assert (two[0] / "one" / f"{name}.png").stat().st_size > 5000


def test_the_untuned_model_and_the_copy_are_the_same_for_every_seed(two):
    for row in two[1][0][-2:]:
        assert all(half == 0.0 for _, half in row["em"].values())


def test_all_arms_take_the_same_steps_on_the_same_answers(tmp_path, monkeypatch):
    "What training would see in each arm; nothing is trained."
    seen = {}
    def note(self, **kwargs): seen[arm] = self.args.max_steps, self.train_dataset["labels"][:]
    monkeypatch.setattr(T5Trainer, "train", note)
    monkeypatch.setattr("instop_nb.demo._ask", lambda *asked: {})
    for arm in ARMS: run_demo_arm(tmp_path / arm, arm, 1, scale=0.02)
    steps, answers = seen["definition"]
    assert steps == 4 and len(answers) == 4 * 64
    assert seen["definition"] == seen["definition + embedder"] == seen["no instruction"]


def test_the_curve_begins_before_the_first_step_and_never_pools(tmp_path):
    curve = run_demo_arm(tmp_path, "no instruction", 0, scale=0.04)["curve"]
    assert [step for step, _ in curve] == [0, 1, 2, 4, 6, 8]
    assert all({*shares} == {*ASKED} for _, shares in curve)
