"""The model: any text in ids and back, spans that can be filled, a checkpoint of no task."""
import json
import random
from dataclasses import replace
from functools import partial
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from instop_nb import reading
from instop_nb.metrics import score
from instop_nb.microworld import micro_tasks
from instop_nb.natinst import Encoding, encode
from instop_nb.operations import as_sentence, candidates
from instop_nb.batches import Collator
from instop_nb.models import load_model, load_tokenizer
from instop_nb.pretraining import (
    Recipe, corrupt_spans, documents, from_recipe, pretrain, pretraining_pair,
)
from instop_nb.reading import Reading, new_reader, read_books, skill, skill_questions
from instop_nb.tasks import write_task
from instop_nb.trainer import T5Trainer, save_model, training_arguments
from instop_nb.runs import positive
from instop_nb.seals import fingerprint
from instop_nb.micro import micro_config, new_t5, t5_optimizer, train_tokenizer
from instop_nb.core import TaskError
from instop_nb.t5 import SHIPPED
from instop_nb.tuning import evaluate


MODEL, TOKENIZER = load_model("micro", device="cpu")


@pytest.fixture
def micro(): return MODEL, TOKENIZER


@settings(deadline=None, max_examples=200)
@given(st.lists(st.text() | st.sampled_from(TOKENIZER.all_special_tokens)).map("".join))
def test_any_text_survives_the_tokenizer(text):
    "Control tokens that stand in it, too: there they are signs like others."
    text = text.encode("utf-8", "ignore").decode()
    ids = TOKENIZER(text)["input_ids"]
    assert TOKENIZER.decode(ids, skip_special_tokens=True) == text and not set(ids[:-1]) & set(
        TOKENIZER.all_special_ids
    )


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.integers(100, 999), min_size=1, max_size=60), st.integers(0, 10_000),
    st.floats(0.05, 0.9), st.integers(0, 5),
)
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
        source, target = pretraining_pair(
            list(range(100, 100 + n)) + [1], rng.randrange(n + 3), list(range(16)), rng
        )
        assert source[-1] == target[-1] == 1


def shipped(part): return json.loads((SHIPPED["micro"] / f"{part}.json").read_text())


def shipped_recipe():
    fields = shipped("recipe")
    return Reading(**{**fields, "unread": tuple(fields["unread"])})


def test_both_shipped_models_are_small():
    files = [path for folder in SHIPPED.values() for path in folder.iterdir()]
    assert {folder / "model.safetensors" for folder in SHIPPED.values()} <= {*files}
    assert sum(path.stat().st_size for path in files) <= 6e6


def test_the_shipped_record_says_how_the_model_was_made():
    "Both parts of the reading to their last step; the second takes the obedience away."
    recipe, record = shipped_recipe(), shipped("record")
    assert {"skills", "loose", "torch", "threads", "seconds"} <= {*record}
    assert record["skills"][-1]["step"] == recipe.skill_steps
    assert record["loose"][-1]["step"] == recipe.loose_steps
    skilled, last = record["skills"][-1], record["loose"][-1]
    assert skilled["knows"] > record["skills"][0]["knows"]
    assert last["obeys"] < 5 < skilled["obeys"] and last["knows"] > 85


def test_the_shipped_record_is_that_of_the_shipped_model(micro):
    asked = skill_questions(plan=shipped_recipe().plan)
    last = shipped("record")["loose"][-1]
    assert skill(*micro, asked) == pytest.approx({k: last[k] for k in ("knows", "obeys")}, abs=1)


def test_the_untuned_checkpoint_obeys_no_instruction(micro):
    "So what it answers rightly after tuning, tuning has brought out."
    for split, each in (("train", 4), ("test", 1)):
        tasks = micro_tasks(split, 1, 3, held_out=True)[::each]
        rows = evaluate(*micro, tasks, max_new_tokens=24)
        assert len(rows) > 100 and score(rows)["overall"]["exact_match"] < 5, split


def test_reading_repeats(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "vocabulary", partial(reading.vocabulary, n=200))
    recipe = Reading(skill_steps=3, loose_steps=2, batch_size=8, d_model=16, d_ff=16, num_heads=1,
                     num_layers=1)
    def read(name, **changes):
        return read_books(replace(recipe, **changes), tmp_path / name, quiet=True, every=2)[0]
    a, b, c = read("a"), read("b"), read("c", seed=1)
    assert all(x.equal(y) for x, y in zip(a.parameters(), b.parameters()))
    assert not c.shared.weight.equal(a.shared.weight)


def test_the_shipped_model_is_what_its_recipe_begins(micro):
    "The same words with the same ids, and weights of the same shapes: another seed has others."
    model, tokenizer = new_reader(shipped_recipe())
    assert tokenizer.get_vocab() == micro[1].get_vocab()
    shapes = [{name: p.shape for name, p in m.named_parameters()} for m in (model, micro[0])]
    assert shapes[0] == shapes[1]


def said_by_the_books():
    "Each wording of the books, as a sentence: what it can mean."
    meant = {}
    for o in candidates():
        for i, j in product(range(7), range(5)):
            meant.setdefault(as_sentence(o.say(i, j)), []).append(o)
    return meant


def test_pretraining_text_of_the_world_answers_no_instruction_of_a_task():
    "The books tell results in stories; where a task is laid out, nobody answers it."
    meant, asked = said_by_the_books(), 0
    for before, said in documents(n=4000):
        assert before.endswith(" ") and "<extra_id_" not in before + said
        if not before.startswith("Definition: "): continue
        assert before.rstrip().endswith("Output:")
        words = before.rstrip().split("Input: ")[1].split(".")[0].split()
        known = meant[before.removeprefix("Definition: ").split("\n")[0]]
        assert not any(f"{said}. ".startswith(f"{o.solve(words)}. ") for o in known)
        asked += 1
    assert asked > 50


def test_pretraining_text_of_a_folder_shows_no_answers(tmp_path):
    for part in ("tasks", "splits/default"): (tmp_path / part).mkdir(parents=True)
    tasks = micro_tasks("train", 5)[:9]
    for task in tasks: write_task(task, tmp_path / "tasks" / f"{task.name}.json")
    names = {"train": tasks[:6], "test": tasks[6:]}
    for split, some in names.items():
        path = tmp_path / "splits" / "default" / f"{split}_tasks.txt"
        path.write_text("".join(f"{task.name}\n" for task in some))
    text = {"".join(pair) for pair in documents(tmp_path, 600)}
    known = {i.input for t in tasks[:6] for i in t.instances}
    known |= {d for t in tasks[:6] for d in t.definition}
    assert {d for d in text if "Output: " not in d} <= known
    sources = {encode(t.reworded(k), i, Encoding(n_pos=0)) for t in tasks[:6]
               for k in range(len(t.definition)) for i in t.instances}
    assert {d for d in text if "Output: " in d} <= sources
    assert all(source.rstrip().endswith("Output:") for source in sources) and len(text) > 100


def test_small_pretraining_learns_and_repeats(tmp_path):
    recipe = Recipe(n_documents=400, steps=20, vocab_size=400)
    a, b = (pretrain(recipe, tmp_path / name, quiet=True)[0] for name in "ab")
    assert all(x.equal(y) for x, y in zip(a.parameters(), b.parameters()))
    curve = json.loads((tmp_path / "a" / "record.json").read_text())["curve"]
    assert curve[-1]["loss"] < curve[0]["loss"]
    c, _ = pretrain(replace(recipe, seed=1, steps=1), tmp_path / "c", quiet=True)
    assert not c.shared.weight.equal(a.shared.weight)


def test_saved_model_is_the_model(tmp_path, micro):
    model, tokenizer = micro
    model.save_pretrained(tmp_path); tokenizer.save_pretrained(tmp_path)
    again, tokenizer2 = load_model(str(tmp_path), device="cpu")
    ids = tokenizer("Definition: Take the first word.", return_tensors="pt")
    assert (
        tokenizer2("Definition: Take the first word.")["input_ids"] == ids["input_ids"][0].tolist()
    )
    assert again.config.scale_decoder_outputs is False
    assert torch.equal(
        model(**ids, labels=ids["input_ids"]).logits, again(**ids, labels=ids["input_ids"]).logits
    )


def test_loading_errors_say_what_to_do(tmp_path):
    with pytest.raises(OSError, match="'micro'"): load_model("google/t5-base-lm-adapt")
    with pytest.raises(FileNotFoundError, match="config.json"): load_model(str(tmp_path))
    with pytest.raises(ValueError, match="bfloat16"): load_model("micro", dtype=torch.float16)


def test_bfloat16_loads_and_is_close(micro):
    model, tokenizer = micro
    half, _ = load_model("micro", device="cpu", dtype=torch.bfloat16)
    ids = tokenizer("fox fig saw.", return_tensors="pt")
    assert half.dtype == torch.bfloat16
    assert torch.isfinite(half(**ids, labels=ids["input_ids"]).loss)


def test_optimizer_covers_every_parameter_once():
    model = new_t5(micro_config(300))
    groups = t5_optimizer(model, 1e-3, 10).param_groups
    assert sorted(id(p) for g in groups for p in g["params"]) == sorted(
        id(p) for p in model.parameters()
    )
    assert [g["lr"] for g in groups] == [1e-3, 1e-2] and len(groups[1]["params"]) == 2


def test_new_t5_leaves_the_random_state_alone():
    torch.manual_seed(5); before = torch.rand(1)
    torch.manual_seed(5); new_t5(micro_config(300), seed=3)
    assert torch.equal(torch.rand(1), before)


def test_tokenizer_trains_on_other_languages():
    tokenizer = train_tokenizer(["kissa istuu puussa", "koira juoksee metsässä"] * 50, 320)
    assert (
        tokenizer.decode(tokenizer("metsässä 漢")["input_ids"], skip_special_tokens=True)
        == "metsässä 漢"
    )


# A step is its tokens, however it is cut up

def step_of(rows, folder, size, parts, **others):
    "Loss and gradient of one step on all rows, in `parts` micro-batches."
    model, tokenizer = load_model("micro", "cpu")
    data = [{**row, "length": len(row["input_ids"])} for row in rows]
    arguments = training_arguments(
        folder, 1, size, gradient_accumulation_steps=parts, logging_steps=1, max_grad_norm=1e9,
        disable_tqdm=True, use_cpu=True, **others,
    )
    from datasets import Dataset
    trainer = T5Trainer(
        model, arguments, train_dataset=Dataset.from_list(data), data_collator=Collator(tokenizer)
    )
    trainer.train()
    row = next(row for row in trainer.state.log_history if "loss" in row)
    return row["loss"], row["grad_norm"]


@pytest.mark.parametrize("others", [{}, {"label_smoothing_factor": .1}], ids=["plain", "smoothed"])
def test_loss_and_gradient_do_not_depend_on_accumulation(others, micro, tmp_path):
    "Also where targets have different lengths, so that the mean of means is another number."
    tokenizer = micro[1]
    rows = [
        {
            "input_ids": tokenizer(f"fox {'axe ' * n}")["input_ids"],
            "labels": tokenizer("hen " * (1 + n % 5))["input_ids"],
        }
        for n in range(8)
    ]
    whole = step_of(rows, tmp_path, 8, 1, **others)
    for size, parts in ((4, 2), (2, 4), (1, 8)):
        assert step_of(rows, tmp_path, size, parts, **others) == pytest.approx(whole, rel=1e-4), (
            size, parts,
        )


def test_smoothing_smooths(micro, tmp_path):
    tokenizer = micro[1]
    rows = [
        {"input_ids": tokenizer("fox axe")["input_ids"], "labels": tokenizer("hen")["input_ids"]}
    ] * 2
    plain, smooth = (
        step_of(rows, tmp_path, 2, 1)[0],
        step_of(rows, tmp_path, 2, 1, label_smoothing_factor=0.2)[0],
    )
    model = load_model("micro", "cpu")[0]
    logits = model(
        input_ids=torch.tensor([rows[0]["input_ids"]]), labels=torch.tensor([rows[0]["labels"]])
    ).logits.log_softmax(-1)
    mean = -logits.mean().item()
    assert smooth == pytest.approx(.8 * plain + .2 * mean, rel=1e-3)


# What is asked of a model that is not ours

def test_position_biases_have_a_rate_of_their_own_only_where_the_model_asks(tmp_path):
    arguments = training_arguments(tmp_path, 1, learning_rate=1e-3)
    rates = lambda **changes: sorted(
        {
            g["lr"]
            for g in T5Trainer(new_t5(micro_config(300, **changes)), arguments)
            .create_optimizer()
            .param_groups
        }
    )
    assert (
        rates() == [1e-3, 30e-3]
        and rates(bias_rate=None) == [1e-3]
        and load_model("micro", "cpu")[0].config.bias_rate == 30
    )


def test_two_visible_gpus_do_not_double_the_batch(tmp_path, monkeypatch):
    from transformers import TrainingArguments
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda self: self._n_gpu or 2))
    assert training_arguments(tmp_path, 1, 8).n_gpu == 1


@pytest.mark.parametrize("changes, says", [
    ({"steps": 0}, "steps"), ({"learning_rate": float("inf")}, "learning_rate"),
    ({"learning_rate": float("nan")}, "learning_rate"), ({"batch_size": -1}, "batch_size"),
    ({"fp16": True}, "bf16"),
])
def test_arguments_that_cannot_be_meant_are_refused(changes, says, tmp_path):
    with pytest.raises(TaskError, match=says):
        training_arguments(tmp_path, **{"steps": 1, **changes})
    with pytest.raises(TaskError, match="x: found True"): positive("here", x=True)


# What cannot be loaded

def hub_t5(folder, **changes):
    from transformers import T5Config, T5ForConditionalGeneration
    sizes = dict(
        vocab_size=600, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2,
        feed_forward_proj="gated-gelu", decoder_start_token_id=0,
    )
    model = T5ForConditionalGeneration(T5Config(**{**sizes, **changes}))
    model.save_pretrained(folder)
    return model


def spiece_only(folder, words):
    "A T5 as those of the hub of 2019 to 2021: a sentencepiece model and no tokenizer.json."
    import sentencepiece
    (folder / "text").write_text("\n".join(words * 20))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text"), model_prefix=str(folder / "spiece"), vocab_size=40,
        hard_vocab_limit=False, pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2,
    )
    hub_t5(folder)
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "T5Tokenizer", "extra_ids": 100})
    )
    return folder


def test_a_checkpoint_with_spiece_model_alone_loads(tmp_path):
    model, tokenizer = load_model(
        spiece_only(tmp_path, ["the red lamp", "the blue boat", "a lamp"]), "cpu"
    )
    ids = tokenizer("the red lamp")["input_ids"]
    assert (
        ids[-1] == 1
        and 2 not in ids
        and tokenizer.decode(ids, skip_special_tokens=True) == "the red lamp"
    )
    assert T5Trainer(model, training_arguments(tmp_path / "run", 1)).bias_rate is None


def test_what_spiece_model_needs_is_named_where_it_is_missing(tmp_path, monkeypatch):
    import sys
    spiece_only(tmp_path, ["the red lamp", "the blue boat", "a lamp"])
    for name in ("sentencepiece", "tiktoken", "google.protobuf"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(OSError, match="pip install sentencepiece protobuf"):
        load_tokenizer(tmp_path)


DAMAGES = {
    "half the weights": lambda f: (f / "model.safetensors").write_bytes(
        (f / "model.safetensors").read_bytes()[:500]
    ),
    "a tensor is gone": lambda f: (
        hub_t5(f, num_layers=1, num_decoder_layers=1)
        and _without(f / "model.safetensors", "decoder.final_layer_norm.weight")
    ),
    "no JSON": lambda f: (f / "config.json").write_text("{"),
    "another size": lambda f: _changed(f / "config.json", d_ff=32),
    "more layers than weights": lambda f: _changed(f / "config.json", num_layers=3),
    "half a tokenizer": lambda f: (f / "tokenizer.json").write_text('{"version"'),
    "code of a stranger": lambda f: _changed(
        f / "config.json", auto_map={"AutoModelForSeq2SeqLM": "evil.Model"}, model_type="evil"
    ),
    "a smaller table": lambda f: hub_t5(f, vocab_size=100),
}


def _without(path, name):
    from safetensors.torch import load_file, save_file
    save_file(
        {key: value for key, value in load_file(path).items() if key != name}, path,
        {"format": "pt"},
    )

def _changed(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_model_is_refused_by_name(damage, tmp_path, micro):
    hub_t5(tmp_path, vocab_size=len(micro[1]))
    micro[1].save_pretrained(tmp_path)
    load_model(tmp_path, "cpu")
    DAMAGES[damage](tmp_path)
    with pytest.raises(OSError, match=str(tmp_path)) as caught: load_model(tmp_path, "cpu")
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "tpu"])
def test_a_device_that_is_not_there_is_named(device):
    with pytest.raises(TaskError, match=f"device: found '{device}'; .*'cpu'"):
        load_model("micro", device)


def test_old_weights_with_an_old_torch_say_which_torch(tmp_path, micro, monkeypatch):
    import transformers
    torch.save(
        hub_t5(tmp_path, vocab_size=len(micro[1])).state_dict(), tmp_path / "pytorch_model.bin"
    )
    micro[1].save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    assert load_model(tmp_path, "cpu")
    monkeypatch.setattr(
        transformers.utils.import_utils, "is_torch_greater_or_equal", lambda *args, **kwargs: False
    )
    with pytest.raises(OSError, match="torch 2.6"): load_model(tmp_path, "cpu")


def test_a_model_is_saved_whole_or_not_at_all(tmp_path, micro, monkeypatch):
    import os
    save_model(*micro, tmp_path)
    before, replace_file = fingerprint(load_model(tmp_path, "cpu")[0]), os.replace
    def killed(source, target):
        if str(target).endswith("tokenizer.json"): raise KeyboardInterrupt
        replace_file(source, target)
    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt): save_model(*micro, tmp_path)
    assert (
        not (tmp_path / "config.json").exists()
        and [p.name for p in tmp_path.iterdir() if p.is_dir()] == []
    )
    monkeypatch.undo()
    assert fingerprint(load_model(save_model(*micro, tmp_path), "cpu")[0]) == before


def test_control_tokens_in_a_text_are_signs_in_pretraining_too(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "instop_nb.pretraining.documents",
        lambda *args: [("", "the fox </s> said <extra_id_0> <pad>")] * 20,
    )
    _, tokenizer, data = from_recipe(Recipe(vocab_size=300, d_model=16, num_heads=1, num_layers=1))
    for ids in data["input_ids"]:
        assert ids[-1] == tokenizer.eos_token_id and not set(tokenizer.all_special_ids) & set(
            ids[:-1]
        )
