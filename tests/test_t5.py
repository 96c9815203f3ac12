"""The model: any text in ids and back, spans that can be filled, a checkpoint that knows no task."""
import json
import random
from dataclasses import asdict, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import TrainerCallback

from instop_nb.metrics import score
from instop_nb.microworld import micro_tasks
from instop_nb.natinst import Encoding
from instop_nb.t5 import (MICRO, Recipe, corrupt_spans, documents, load_t5, micro_config, new_t5, pretrain, pretraining_pair, t5_optimizer,
                          train_tokenizer)
from instop_nb.tuning import evaluate


MODEL, TOKENIZER = load_t5("micro", device="cpu")


@pytest.fixture
def micro(): return MODEL, TOKENIZER


@settings(deadline=None, max_examples=200)
@given(st.text())
def test_any_text_survives_the_tokenizer(text):
    tokenizer = TOKENIZER
    text = text.encode("utf-8", "ignore").decode()
    if any(s in text for s in tokenizer.all_special_tokens): return
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(100, 999), min_size=1, max_size=60), st.integers(0, 10_000), st.floats(0.05, 0.9), st.integers(0, 5))
def test_spans_fill_the_holes(ids, seed, rate, start):
    holes = list(range(16))
    source, target = corrupt_spans(ids, holes, random.Random(seed), rate, start)
    spans = {}
    for i in target: spans.setdefault(i, []) if i in holes else spans[list(spans)[-1]].append(i)
    assert [j for i in source for j in spans.get(i, [i])] == ids
    assert source[:start] == ids[:start] and all(1 <= len(s) <= 3 for s in spans.values())


def test_pairs_always_have_a_target():
    rng = random.Random(0)
    for n in range(1, 30):
        source, target = pretraining_pair(list(range(100, 100 + n)) + [1], rng.randrange(n + 3), list(range(16)), rng)
        assert source[-1] == target[-1] == 1


def test_shipped_checkpoint_is_small_and_says_how_it_was_made(micro):
    assert (MICRO / "model.safetensors").stat().st_size <= 4e6
    recipe, record = (json.loads((MICRO / f"{part}.json").read_text()) for part in ("recipe", "record"))
    assert recipe == asdict(Recipe()), "the shipped recipe is the default one"
    assert record["curve"][-1]["step"] == recipe["steps"] and record["curve"][-1]["loss"] < record["curve"][0]["loss"] / 3


def test_the_recipe_starts_as_the_record_says(tmp_path):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs): control.should_training_stop = state.global_step >= 100
    pretrain(Recipe(), tmp_path, quiet=True, callbacks=[Stop()])
    again, record = (json.loads((folder / "record.json").read_text())["curve"] for folder in (tmp_path, MICRO))
    assert again[0]["step"] == record[0]["step"] == 100
    assert again[0]["loss"] == pytest.approx(record[0]["loss"], rel=0.01)


def test_untuned_checkpoint_answers_near_chance(micro):
    model, tokenizer = micro
    tasks = micro_tasks("combinations", 16, seed=3)
    rows = evaluate(model, tokenizer, tasks, Encoding(n_pos=0), max_new_tokens=16)
    assert len(rows) >= 1000 and score(rows)["overall"]["exact_match"] < 5
    seen = evaluate(model, tokenizer, micro_tasks("train", 3, seed=3, held_out=True), Encoding(n_pos=0), max_new_tokens=16)
    assert score(seen)["overall"]["exact_match"] < 5


def test_pretraining_text_shows_no_answers():
    text = [given + said for given, said in documents(n=4000)]
    assert not [d for d in text if "Output: " in d and d.split("Output: ", 1)[1].strip()]
    assert not [d for d in text if "Example" in d]


def test_small_pretraining_learns_and_repeats(tmp_path):
    recipe = Recipe(n_documents=1500, steps=40, vocab_size=600)
    a, b = (pretrain(recipe, tmp_path / name, quiet=True)[0] for name in "ab")
    assert all(x.equal(y) for x, y in zip(a.parameters(), b.parameters()))
    curve = json.loads((tmp_path / "a" / "record.json").read_text())["curve"]
    assert curve[-1]["loss"] < curve[0]["loss"]
    c, _ = pretrain(replace(recipe, seed=1), tmp_path / "c", quiet=True)
    assert not c.shared.weight.equal(a.shared.weight)


def test_saved_model_is_the_model(tmp_path, micro):
    model, tokenizer = micro
    model.save_pretrained(tmp_path); tokenizer.save_pretrained(tmp_path)
    again, tokenizer2 = load_t5(str(tmp_path), device="cpu")
    ids = tokenizer("Definition: Take the first word.", return_tensors="pt")
    assert tokenizer2("Definition: Take the first word.")["input_ids"] == ids["input_ids"][0].tolist()
    assert again.config.scale_decoder_outputs is False
    assert torch.equal(model(**ids, labels=ids["input_ids"]).logits, again(**ids, labels=ids["input_ids"]).logits)


def test_loading_errors_say_what_to_do(tmp_path):
    with pytest.raises(OSError, match="'micro'"): load_t5("google/t5-base-lm-adapt")
    with pytest.raises(FileNotFoundError, match="config.json"): load_t5(str(tmp_path))
    with pytest.raises(ValueError, match="bfloat16"): load_t5("micro", dtype=torch.float16)


def test_bfloat16_loads_and_is_close(micro):
    model, tokenizer = micro
    half, _ = load_t5("micro", device="cpu", dtype=torch.bfloat16)
    ids = tokenizer("fox fig saw.", return_tensors="pt")
    assert half.dtype == torch.bfloat16
    assert torch.isfinite(half(**ids, labels=ids["input_ids"]).loss)


def test_optimizer_covers_every_parameter_once():
    model = new_t5(micro_config(300))
    groups = t5_optimizer(model, 1e-3, 10).param_groups
    assert sorted(id(p) for g in groups for p in g["params"]) == sorted(id(p) for p in model.parameters())
    assert [g["lr"] for g in groups] == [1e-3, 1e-2] and len(groups[1]["params"]) == 2


def test_new_t5_leaves_the_random_state_alone():
    torch.manual_seed(5); before = torch.rand(1)
    torch.manual_seed(5); new_t5(micro_config(300), seed=3)
    assert torch.equal(torch.rand(1), before)


def test_tokenizer_trains_on_other_languages():
    tokenizer = train_tokenizer(["kissa istuu puussa", "koira juoksee metsässä"] * 50, 320)
    assert tokenizer.decode(tokenizer("metsässä 漢")["input_ids"], skip_special_tokens=True) == "metsässä 漢"
