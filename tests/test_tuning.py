"""Instruction tuning: it follows unseen instructions because it reads them, it repeats, and it resumes."""
import json

import pytest
import torch
from transformers import TrainerCallback

from instop_nb.batches import tokenize_tasks
from instop_nb.metrics import score
from instop_nb.microworld import micro_tasks
from instop_nb.t5 import load_t5
from instop_nb.tasks import TaskError
from instop_nb.tuning import DEFINITION, NO_INSTRUCTION, Run, draw_rows, evaluate, get_tasks, group_scores, tune


@pytest.fixture(scope="module")
def train(): return get_tasks("micro", "train", 60)


def fit(train, folder, steps, encoding=DEFINITION, seed=0, **others):
    model, tokenizer = load_t5("micro", device="cpu")
    rows = draw_rows(tokenize_tasks(train, tokenizer, encoding, all_wordings=True), train, steps * 64, seed)
    return tune(model, tokenizer, rows, folder, steps, seed=seed, quiet=True, **others), tokenizer


def test_tuned_with_definitions_follows_unseen_ones_and_without_it_does_not(tmp_path):
    "The promise of the course, a little longer than the default of `instop tune`, so that chance decides nothing."
    train, unseen, em = get_tasks("micro", "train", 200), micro_tasks("combinations", 16, seed=3), {}
    for name, encoding, steps in (("definition", DEFINITION, 1800), ("none", NO_INSTRUCTION, 300)):
        model, tokenizer = fit(train, tmp_path / name, steps, encoding)
        rows = evaluate(model, tokenizer, unseen, encoding, max_new_tokens=16)
        assert len(rows) >= 1000
        em[name] = score(rows)["overall"]["exact_match"]
        if name == "definition": blind = score(evaluate(model, tokenizer, unseen, NO_INSTRUCTION, max_new_tokens=16))["overall"]["exact_match"]
    assert em["definition"] >= 80 and em["definition"] - em["none"] >= 60 and blind < 15, (em, blind)


def test_same_seed_same_numbers(train, tmp_path):
    a, b, c = (fit(train, tmp_path / name, 20, seed=seed)[0] for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    assert all(x.equal(y) for x, y in zip(a.parameters(), b.parameters()))
    assert not all(x.equal(y) for x, y in zip(a.parameters(), c.parameters()))


def test_killed_and_resumed_equals_never_stopped(train, tmp_path):
    class StopAt(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs): control.should_training_stop |= state.global_step == 15
    saving = dict(save_strategy="steps", save_steps=10)
    whole, _ = fit(train, tmp_path / "whole", 30, **saving)
    fit(train, tmp_path / "cut", 30, callbacks=[StopAt()], **saving)
    resumed, _ = fit(train, tmp_path / "cut", 30, resume=True, **saving)
    assert all(x.equal(y) for x, y in zip(whole.parameters(), resumed.parameters()))


def test_a_run_is_a_folder_and_a_new_one_keeps_the_old_log(train, tmp_path):
    run = Run(tmp_path / "run", seed=4)
    run.log(step=1, loss=1.0)
    fit(train, tmp_path / "run", 2, logging_steps=1)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["seed"] == 4
    assert [r["step"] for r in run.metrics() if "loss" in r] == [1, 2]
    assert json.loads((tmp_path / "run" / "metrics-1.jsonl").read_text())["loss"] == 1.0
    run.save_predictions([{"prediction": "é"}])
    assert json.loads((tmp_path / "run" / "predictions.jsonl").read_text(encoding="utf-8")) == {"prediction": "é"}


def test_rows_are_drawn_evenly_over_categories(train):
    _, tokenizer = load_t5("micro", device="cpu")
    rows = draw_rows(tokenize_tasks(train, tokenizer, DEFINITION), train, 6000, seed=2)
    counts = {}
    for t in rows["task"]: counts[train[t].category] = counts.get(train[t].category, 0) + 1
    assert len(counts) == len({t.category for t in train}) and all(0.75 < n * len(counts) / 6000 < 1.3 for n in counts.values()), counts


def test_evaluation_does_not_depend_on_batches(train):
    model, tokenizer = load_t5("micro", device="cpu")
    tasks = micro_tasks("categories", 2)
    a, b = (evaluate(model, tokenizer, tasks, batch_size=n, max_new_tokens=12) for n in (3, 64))
    assert [r["prediction"] for r in a] == [r["prediction"] for r in b]
    assert [(r["task"], r["references"]) for r in a] == [(t.name, i.output) for t in tasks for i in t.instances]
    groups = group_scores(a)
    assert set(groups) == {"pair", "primitive"} and sum(g["n"] for g in groups.values()) == len(a)


def test_unknown_data_is_an_error():
    with pytest.raises(TaskError): get_tasks("no/such/folder")
    with pytest.raises(TaskError): get_tasks("micro", "dev")
