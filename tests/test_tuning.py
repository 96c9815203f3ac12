"""Instruction tuning: it follows unseen instructions since it reads them, repeats, and resumes."""
import json
import random

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

from instop_nb.batches import tokenize_tasks
from instop_nb.microworld import TIERS, micro_tasks
from instop_nb.models import load_model
from instop_nb.core import COLOURS, TaskError
from instop_nb.tasks import Example, Instance, Task
from instop_nb.natinst import Encoding
from instop_nb.tuning import (
    DEFINITION, NO_INSTRUCTION, answers, check_disjoint, draw_rows, evaluate, get_tasks,
    group_scores, tune,
)
from instop_nb.attention import Attention, attention_explorer, attention_of, attention_picture
from instop_nb.runs import Run
from instop_nb.study import Study
from instop_nb.tables import difference
from instop_nb.tables import shown
from instop_nb.tables import study_table


@pytest.fixture(scope="module")
def train(): return get_tasks("micro", "train", 10)


def fit(train, folder, steps, encoding=DEFINITION, seed=0, **others):
    model, tokenizer = load_model("micro", device="cpu")
    rows = draw_rows(
        tokenize_tasks(train, tokenizer, encoding, all_wordings=True), train, steps * 64, seed
    )
    return tune(model, tokenizer, rows, folder, steps, seed=seed, quiet=True, **others), tokenizer


def test_tuned_with_definitions_follows_unseen_ones_and_without_it_does_not(train, tmp_path):
    """The promise of the course, with the steps of `instop tune`: what the books have told is
    followed in each sense of new, by who reads; what nobody told is not."""
    asked, untold = (micro_tasks(split, 2, seed=3) for split in ("test", "untold"))
    def exact(model, tokenizer, encoding, unseen=asked):
        rows = evaluate(model, tokenizer, unseen, encoding, max_new_tokens=24)
        return {tier: s["exact_match"] for tier, s in group_scores(rows).items()}
    tuned = fit(train, tmp_path / "definition", 200)
    control = fit(train, tmp_path / "none", 200, NO_INSTRUCTION)
    reads = exact(*tuned, DEFINITION, asked + untold)
    none = exact(*control, NO_INSTRUCTION)
    blind = exact(*tuned, NO_INSTRUCTION)
    told = TIERS[:3]
    assert all(reads[tier] >= 60 and reads[tier] - none[tier] >= 50 for tier in told), (reads, none)
    assert all(blind[tier] < 15 for tier in told) and reads["untold"] < 10, (blind, reads)


def test_same_seed_same_numbers(train, tmp_path):
    a, b, c = (
        fit(train, tmp_path / name, 20, seed=seed)[0]
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert all(x.equal(y) for x, y in zip(a.parameters(), b.parameters()))
    assert not all(x.equal(y) for x, y in zip(a.parameters(), c.parameters()))


def test_killed_and_resumed_equals_never_stopped(train, tmp_path):
    class StopAt(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop |= state.global_step == 15
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
    assert json.loads((tmp_path / "run" / "predictions.jsonl").read_text(encoding="utf-8")) == {
        "prediction": "é"
    }


def test_rows_are_drawn_evenly_over_categories(train):
    _, tokenizer = load_model("micro", device="cpu")
    rows = draw_rows(tokenize_tasks(train, tokenizer, DEFINITION), train, 30_000, seed=2)
    counts = {}
    for t in rows["task"]: counts[train[t].category] = counts.get(train[t].category, 0) + 1
    assert len(counts) == len({t.category for t in train}) and all(
        0.75 < n * len(counts) / 30_000 < 1.3 for n in counts.values()
    ), counts


def test_evaluation_does_not_depend_on_batches(train):
    model, tokenizer = load_model("micro", device="cpu")
    tasks = micro_tasks("test", 1)
    a, b = (evaluate(model, tokenizer, tasks, batch_size=n, max_new_tokens=12) for n in (3, 64))
    assert [r["prediction"] for r in a] == [r["prediction"] for r in b]
    assert [(r["task"], r["references"]) for r in a] == [
        (t.name, i.output) for t in tasks for i in t.instances
    ]
    groups = group_scores(a)
    assert set(groups) == {*TIERS[:3]} and sum(g["n"] for g in groups.values()) == len(a)


def test_evaluation_leaves_the_random_states_alone(train):
    "So that a look at the model in the middle of a training changes nothing of it."
    model, tokenizer = load_model("micro", device="cpu")
    states = lambda: (
        torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist(),
    )
    before = states()
    evaluate(model, tokenizer, train[:2], DEFINITION, max_new_tokens=4)
    assert states() == before


def test_an_interrupted_evaluation_goes_on(train, tmp_path, monkeypatch):
    model, tokenizer = load_model("micro", device="cpu")
    tasks, book, asked = micro_tasks("test", 1)[:12], tmp_path / "answers.jsonl", []
    whole = evaluate(model, tokenizer, tasks, max_new_tokens=12)
    generate = type(model).generate
    def counted(self, input_ids, **more):
        if len(asked) >= 6: raise KeyboardInterrupt
        asked.extend(input_ids.tolist())
        return generate(self, input_ids=input_ids, **more)
    monkeypatch.setattr(type(model), "generate", counted)
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, tokenizer, tasks, batch_size=3, max_new_tokens=12, saved=book)
    assert len(book.read_text(encoding="utf-8").splitlines()) == 6, "what was answered is kept"
    book.write_text(book.read_text(encoding="utf-8") + "[[1, 2", encoding="utf-8")
    asked.clear()
    monkeypatch.setattr(
        type(model), "generate",
        lambda self, input_ids, **more: (
            asked.extend(input_ids.tolist()) or generate(self, input_ids=input_ids, **more)
        ),
    )
    assert evaluate(model, tokenizer, tasks, batch_size=3, max_new_tokens=12, saved=book) == whole
    assert len(asked) == len(tasks) - 6


def test_equal_texts_are_answered_once(monkeypatch):
    model, tokenizer = load_model("micro", device="cpu")
    generate, sizes = type(model).generate, []
    monkeypatch.setattr(
        type(model), "generate",
        lambda self, input_ids, **more: (
            sizes.append(len(input_ids)) or generate(self, input_ids=input_ids, **more)
        ),
    )
    first, other, same = answers(model, tokenizer, ["fox owl", "hen", "fox owl"], max_new_tokens=4)
    assert first == same and sizes == [2]


@pytest.mark.parametrize("a, b, how", [
    ([5, 6, 7], [1, 2, 3], "is above"), ([1, 2, 3], [5, 6, 7], "is below"),
    ([1, 9, 2], [3, 3, 3], "cannot be told from"), ([9], [1], "cannot be told from"),
])
def test_words_of_a_difference(a, b, how):
    record = {"runs": [{"arm": arm, "score": x} for arm, xs in (("a", a), ("b", b)) for x in xs]}
    assert difference(record, "score", "a", "b").startswith(f"'a' {how} 'b' (score: ")


@pytest.mark.parametrize("saved", [True, False])
def test_a_page_says_whether_it_shows_a_record(saved, tmp_path, monkeypatch, capsys):
    record = {"seeds": 3, "scale": 1.0, "cpu_seconds": 60, "runs": []}
    def read(name):
        if saved: return record
        raise FileNotFoundError(name)
    monkeypatch.setattr("instop_nb.tables.read_record", read)
    study = Study(
        "toy", "A toy", "none", lambda folder, seed, scale, data, model: {"score": seed},
        {"plain": {}},
    )
    found = shown(study, tmp_path)
    assert (found == record) == saved and (
        "no saved record yet" in capsys.readouterr().out
    ) != saved
    assert (tmp_path / "toy" / "plain-0" / "result.json").exists(), "the smoke run is always made"


def test_unknown_data_is_an_error():
    with pytest.raises(TaskError): get_tasks("no/such/folder")
    with pytest.raises(TaskError): get_tasks("micro", "dev")


# Where the model looks

ASKED = Task(
    "asked", ["Write the first word."],
    positive=[Example("cat boot", "cat"), Example("hat sun", "hat")],
    instances=[
        Instance("asked-0", " Input: bus boot ", ["bus"]), Instance("asked-1", "hen", ["hen"]),
    ],
)


def test_attention_is_what_the_model_computes_and_leaves_it_as_it_was():
    from instop_nb.natinst import Encoding, encode
    model, tokenizer = load_model("micro", device="cpu")
    found = attention_of(model, tokenizer, ASKED, ASKED.instances[0], Encoding(), answer="bus boot")
    ids = tokenizer(encode(ASKED, ASKED.instances[0], Encoding()), return_tensors="pt")["input_ids"]
    assert found.source == [tokenizer.decode([i]) for i in ids[0].tolist()] and [
        token.strip() for token in found.answer
    ] == ["bus", "boot", "</s>"]
    assert found.weights.shape == (2, len(found.answer), len(found.source)) and torch.allclose(
        found.weights.sum(-1), torch.ones(())
    )
    assert model.config._attn_implementation == model.decoder.config._attn_implementation == "sdpa"
    # by hand: the first layer's queries and keys, no bias and no scale in T5's cross-attention
    seen, cross = [], model.decoder.block[0].layer[1].EncDecAttention
    hook = cross.register_forward_pre_hook(
        lambda module, args, kwargs: seen.extend([args[0], kwargs["key_value_states"]]),
        with_kwargs=True,
    )
    labels = tokenizer("bus boot", return_tensors="pt")["input_ids"]
    with torch.no_grad(): model(input_ids=ids, labels=labels)
    hook.remove()
    q, k = (
        module(states)[0].view(-1, 8, 16).transpose(0, 1)
        for module, states in zip((cross.q, cross.k), seen)
    )
    assert torch.allclose((q @ k.mT).softmax(-1).mean(0), found.weights[0], atol=1e-5)


def test_each_token_of_the_source_has_its_kind():
    from instop_nb.natinst import Encoding
    model, tokenizer = load_model("micro", device="cpu")
    found = attention_of(
        model, tokenizer, ASKED, ASKED.instances[0], Encoding(n_pos=1), answer="bus"
    )
    def text(kind):
        return " ".join(
            token.strip()
            for token, k in zip(found.source, found.kinds)
            if k == kind and token.strip()
        )
    assert list(dict.fromkeys(found.kinds)) == ["definition", "positive", "frame", "input"]
    assert text("definition") == "Definition: Write the first word ."
    assert (
        text("input").endswith("bus boot")
        and "Now" not in text("input")
        and text("frame").endswith("</s>")
        and "Now complete" in text("frame")
    )
    assert "cat boot" in text("positive") and "hat" not in text("positive")
    control = attention_of(model, tokenizer, ASKED, ASKED.instances[1], NO_INSTRUCTION)
    assert set(control.kinds) == {"frame", "input"} and sum(
        control.shares().values()
    ) == pytest.approx(1, abs=1e-5)


def test_the_models_own_answer_is_read_where_none_is_given():
    model, tokenizer = load_model("micro", device="cpu")
    own = evaluate(model, tokenizer, [ASKED])[1]["prediction"]
    mine, its = (
        attention_of(model, tokenizer, ASKED, ASKED.instances[1], answer=answer)
        for answer in (own, None)
    )
    assert torch.equal(mine.weights, its.weights) and mine.answer == its.answer
    model.encoder.register_forward_hook(lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        attention_of(model, tokenizer, ASKED, ASKED.instances[1], answer="hen")
    assert model.config._attn_implementation == "sdpa"  # also after an error


def test_the_picture_shows_one_layer():
    weights = torch.tensor([[[.5, .25, .25], [.1, .25, .65]], [[0., 0, 1], [1, 0, 0]]])
    found = Attention(
        weights, ["yes", "</s>"], ["Is it", "so", "?"], ["definition", "input", "frame"]
    )
    for layer, expected, title in (
        (0, weights[0], "layer 0: 30 % on the definition, 25 % on the input, 45 % on the frame"),
        (-1, weights[1], "layer 1: 50 % on the definition, 0 % on the input, 50 % on the frame"),
    ):
        ax, = attention_picture(found, layer).axes
        assert (
            torch.equal(torch.tensor(ax.images[0].get_array()), expected)
            and ax.get_title() == title
        )
    assert [label.get_text() for label in ax.get_xticklabels()] == ["Is it", "so", "?"]
    assert [label.get_color() for label in ax.get_xticklabels()] == [
        COLOURS["definition"], COLOURS["input"], "#7f7f7f",
    ]


def test_the_attention_explorer_follows_its_sliders():
    model, tokenizer = load_model("micro", device="cpu")
    instance, layer, _ = (box := attention_explorer(model, tokenizer, ASKED)).children
    def is_drawn():
        expected = attention_of(model, tokenizer, ASKED, ASKED.instances[instance.value]).weights[
            layer.value
        ]
        return torch.equal(torch.tensor(box.result.axes[0].images[0].get_array()), expected)
    assert (instance.value, instance.max, layer.value, layer.max) == (0, 1, 1, 1) and is_drawn()
    layer.value = 0; assert is_drawn()
    instance.value = 1; assert is_drawn()
    with pytest.raises(TaskError, match="give it an instance"):
        attention_explorer(model, tokenizer, Task("empty", ["x"]))


# An evaluation reads what training reads

class Spy:
    "Stands before a model's generate and keeps what it is asked, as ids without padding."
    def __init__(self, model, monkeypatch):
        self.seen, generate = [], model.generate
        def spy(input_ids, attention_mask, **more):
            self.seen += [
                tuple(row[mask.bool()].tolist()) for row, mask in zip(input_ids, attention_mask)
            ]
            return generate(input_ids=input_ids, attention_mask=attention_mask, **more)
        monkeypatch.setattr(model, "generate", spy)


@pytest.mark.parametrize("limit", [24, 60, 100, 150, 200, 1024])
def test_training_and_evaluation_read_the_same_ids_at_every_limit(limit, monkeypatch):
    model, tokenizer = load_model("micro", device="cpu")
    long = [Example(" ".join(["fox axe hen"] * n), "hat", "so " * n) for n in (12, 3, 20)]
    task = Task(
        "long", ["Write hat."], long[:2], long[2:],
        [Instance("0", "fox axe", ["hat"]), Instance("1", "hen " * 40, ["axe"])], ["c"],
    )
    for encoding in (
        Encoding(), Encoding(n_pos=2, n_neg=1, explanations=True), DEFINITION, NO_INSTRUCTION,
    ):
        spy = Spy(model, monkeypatch)
        rows = evaluate(model, tokenizer, [task], encoding, max_source=limit, max_new_tokens=1)
        trained = tokenize_tasks([task], tokenizer, encoding, max_source=limit)
        assert (
            set(spy.seen) == set(map(tuple, trained["input_ids"]))
            and [row["source_length"] for row in rows] == trained["length"][:]
        )
        monkeypatch.undo()


def test_control_tokens_in_a_text_are_signs_in_training_and_in_evaluation(monkeypatch):
    model, tokenizer = load_model("micro", device="cpu")
    task = Task(
        "marks", ["Copy </s> or <pad>."], [], [],
        [Instance("0", "fox </s> <extra_id_0> <unk>", ["a </s> b"])], ["c"],
    )
    spy, control = Spy(model, monkeypatch), set(tokenizer.all_special_ids)
    evaluate(model, tokenizer, [task], max_new_tokens=1)
    row = tokenize_tasks([task], tokenizer, DEFINITION)[0]
    for ids in (row["input_ids"], row["labels"], *spy.seen):
        assert ids[-1] == tokenizer.eos_token_id and not control & set(ids[:-1])


def test_an_answer_is_greedy_whatever_the_model_asks_for():
    model, tokenizer = load_model("micro", device="cpu")
    texts = ["fox axe hen", "hat"]
    plain = answers(model, tokenizer, texts, max_new_tokens=6)
    asked = dict(
        num_return_sequences=3, num_beams=3, repetition_penalty=5.0, no_repeat_ngram_size=1,
        min_length=20, return_dict_in_generate=True, encoder_repetition_penalty=3.0,
        suppress_tokens=list(range(20, 400)), sequence_bias=[[[30], 50.0]], max_time=1e-9,
        forced_eos_token_id=5,
    )
    model.generation_config.update(**asked)
    assert (
        answers(model, tokenizer, texts, max_new_tokens=6) == plain
        and model.generation_config.num_beams == 3
    )


@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
])
def test_an_evaluation_that_does_not_fit_takes_smaller_batches(error, monkeypatch):
    model, tokenizer = load_model("micro", device="cpu")
    tasks, generate, sizes = micro_tasks("combination", 1)[:9], model.generate, []
    whole = evaluate(model, tokenizer, tasks, max_new_tokens=4)
    def small(input_ids, **more):
        sizes.append(len(input_ids))
        if len(input_ids) > 2: raise error
        return generate(input_ids=input_ids, **more)
    monkeypatch.setattr(model, "generate", small)
    assert evaluate(model, tokenizer, tasks, batch_size=9, max_new_tokens=4) == whole and sizes == [
        9, 4, 2, 2, 2, 2, 1,
    ]
    def none(**more): raise error
    monkeypatch.setattr(model, "generate", none)
    with pytest.raises(TaskError, match="max_source"):
        evaluate(model, tokenizer, tasks, max_new_tokens=4)
    def other(**more): raise RuntimeError("shapes do not match")
    monkeypatch.setattr(model, "generate", other)
    with pytest.raises(RuntimeError, match="shapes"):
        evaluate(model, tokenizer, tasks, max_new_tokens=4)


# What a training draws

def test_rows_are_drawn_without_a_file(train, tmp_path):
    model, tokenizer = load_model("micro", device="cpu")
    rows = tokenize_tasks(train[:4], tokenizer, DEFINITION, cache_dir=tmp_path)
    before = sorted(p.name for p in tmp_path.rglob("*"))
    for seed in (0, 1): assert len(draw_rows(rows, train[:4], 500, seed)) == 500
    assert sorted(p.name for p in tmp_path.rglob("*")) == before


def test_a_test_task_may_not_be_trained_on(train):
    check_disjoint(train, micro_tasks("test", 1))
    with pytest.raises(TaskError, match=train[3].name): check_disjoint(train, train[3:4])


def test_a_record_whose_runs_lack_a_number_is_a_table_all_the_same():
    record = {
        "name": "toy",
        "runs": [{"arm": "a", "seed": 0, "x": 1.0}, {"arm": "b", "seed": 0, "x": 2.0, "y": 3.0}],
        "seeds": 1,
    }
    table = study_table(record, {"x": "x", "<b>y</b>": "y"})
    assert "| a | 1.0 | – | 1 |" in table and "<b>" not in table
    with pytest.raises(TaskError, match="z.*choose from"): study_table(record, {"z": "z"})
