"""A prompt is all that learns: the model stays bit for bit, a loop by hand and peft agree, a run
goes on where it stopped, and every arm of the studies can be run."""
import pytest
import torch
from conftest import tiny_t5
from test_accumulation import StopAt
from test_embedder import exact
from torch import nn

from instop_nb.batches import Collator, tokenize_tasks
from instop_nb.claims import read_claims
from instop_nb.core import TaskError
from instop_nb.embedder import DirectEmbedder, normal_start
from instop_nb.microworld import tiers_of
from instop_nb.models import load_model
from instop_nb.prompt_tuning import (
    LEARNED, RATES, STUDIES, TIERS_ASKED, Lesson, Prompted, checkpoint_arms, own_tasks,
    prompt_arms, repeated, run_own, run_prompt, teach,
)
from instop_nb.seals import fingerprint
from instop_nb.tuning import DEFINITION, answers, get_tasks, tune


@pytest.fixture(scope="module")
def tiny(tmp_path_factory): return tiny_t5(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def rows(tiny):
    tasks = get_tasks("micro", "train", 1)[:16]
    return tokenize_tasks(tasks, load_model(tiny, "cpu")[1], DEFINITION)


def numbers(model): return {name: x.clone() for name, x in model.state_dict().items()}


# What learns

@pytest.mark.parametrize("start", ["normal", "vocabulary"])
def test_the_model_stays_bit_for_bit_and_only_the_prompt_learns(start, tiny, rows, tmp_path):
    reader = load_model(tiny, "cpu")
    before = numbers(reader[0])
    lesson = Lesson(l=3, start=start, steps=3)
    taught = teach(reader, repeated(rows, 96), lesson, tmp_path)
    frozen = teach(reader, rows, Lesson("frozen", 3, start), tmp_path)
    after = reader[0].state_dict()
    assert all(x.equal(after[name]) for name, x in before.items())
    assert [name for name, _ in taught.named_parameters()] == ["prompt.weight"]
    assert not taught.prompt.weight.equal(frozen.prompt.weight)
    assert not any(p.requires_grad or p.grad is not None for p in reader[0].parameters())


def test_all_weights_learn_where_they_shall(tiny, rows, tmp_path):
    reader = load_model(tiny, "cpu")
    before = numbers(reader[0])
    assert teach(reader, repeated(rows, 64), Lesson("weights", steps=2), tmp_path) is reader[0]
    assert not reader[0].state_dict()["shared.weight"].equal(before["shared.weight"])


def by_hand(model, batch, start, rate, steps):
    "Prompt tuning without anything of the package."
    P, source = nn.Parameter(start.clone()), model.get_input_embeddings()(batch["input_ids"])
    opt, n = torch.optim.Adam([P], rate, betas=(.9, .98)), len(source)
    mask = torch.cat([torch.ones(n, len(P)), batch["attention_mask"]], 1)
    for _ in range(steps):
        inputs = torch.cat([P.expand(n, -1, -1), source], 1)
        opt.zero_grad()
        model(inputs_embeds=inputs, attention_mask=mask, labels=batch["labels"]).loss.backward()
        opt.step()
    return P


def test_the_trainer_learns_the_prompt_of_a_loop_by_hand(tiny, rows, tmp_path):
    model, tokenizer = load_model(tiny, "cpu")
    exact(model.double()).requires_grad_(False)
    start = normal_start(model, 1, 3).double()
    P = by_hand(model, Collator(tokenizer)([*rows]), start[0], .1, 8)
    prompted = Prompted(model, DirectEmbedder(start))
    tune(prompted, tokenizer, rows, tmp_path, 8, batch_size=16, learning_rate=.1, quiet=True,
         lr_scheduler_type="constant", max_grad_norm=0)
    assert not torch.allclose(P, start[0], atol=.1)
    assert torch.allclose(prompted.prompt.weight[0], P, rtol=0, atol=1e-6)


def test_peft_says_the_same_for_the_same_vectors(rows):
    peft = pytest.importorskip("peft")
    (model, tokenizer), (other, _) = load_model("micro", "cpu"), load_model("micro", "cpu")
    how = peft.PromptTuningConfig(
        task_type="SEQ_2_SEQ_LM", num_virtual_tokens=5, num_transformer_submodules=1)
    theirs = peft.get_peft_model(other, how).eval()
    prompted = Prompted(model, DirectEmbedder.for_model(model, 1, 5))
    theirs.prompt_encoder["default"].embedding.weight.data = prompted.prompt.weight[0].detach()
    batch = Collator(tokenizer)([*rows])
    batch = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
    with torch.no_grad(): ours, said = prompted(**batch), theirs(**batch)
    assert torch.allclose(ours.logits, said.logits, atol=1e-4)


def test_a_prompt_of_words_answers_like_the_text():
    model, tokenizer = load_model("micro-tuned", "cpu")
    task = get_tasks("micro", "train", 4)[0]
    front = f"Definition: {task.definition[0]}"
    ids = tokenizer(front, add_special_tokens=False, return_tensors="pt")["input_ids"]
    prompted = Prompted(model, DirectEmbedder(model.get_input_embeddings()(ids)))
    inputs = [f"Input: {i.input}" for i in task.instances]
    assert answers(prompted, tokenizer, inputs) == answers(
        model, tokenizer, [f"{front} {text}" for text in inputs])


# Runs

def test_a_run_goes_on_with_its_own_model_alone(tiny, rows, tmp_path):
    def run(folder, name=tiny, **more):
        model, tokenizer = load_model(name, "cpu")
        prompted = Prompted(model, DirectEmbedder.for_model(model, 1, 3))
        tune(prompted, tokenizer, repeated(rows, 32), folder, 6, batch_size=4, learning_rate=.1,
             quiet=True, save_strategy="steps", save_steps=1, **more)
        return prompted.prompt.weight
    whole = run(tmp_path / "whole")
    run(tmp_path / "cut", callbacks=[StopAt(3)])
    assert run(tmp_path / "cut", resume=True).equal(whole)
    model, tokenizer = load_model(tiny, "cpu")
    with torch.no_grad(): model.lm_head.weight += 1
    for part in (model, tokenizer): part.save_pretrained(tmp_path / "other")
    with pytest.raises(TaskError):
        run(tmp_path / "cut", str(tmp_path / "other"), resume=True)


@pytest.mark.parametrize("field, value", [
    ("l", 0), ("l", -3), ("rate", 0), ("rate", float("nan")), ("steps", 0),
    ("start", "words"), ("learned", "all"),
])
def test_a_lesson_that_cannot_be_given_is_named(field, value):
    with pytest.raises(TaskError, match=field): Lesson(**{field: value})


@pytest.mark.parametrize("arm", [*({"learned": way} for way in LEARNED), {"n_rows": 3, "l": 1},
                                 {"tuned": "without"}])
def test_every_kind_of_arm_runs(arm, tiny, tmp_path):
    job = dict(seed=0, scale=.01, data="micro", model=tiny)
    assert [*run_prompt(tmp_path / "all", **job, **arm)] == [*TIERS_ASKED]
    assert [*run_own(tmp_path / "own", **job, **arm)] == ["category", "untold"]


def test_the_search_asks_what_no_table_shows(tiny, tmp_path):
    job = dict(seed=100, scale=.01, data="micro", model=tiny, valid=True)
    found = run_prompt(tmp_path / "all", **job), run_own(tmp_path / "own", **job)
    assert [[*some] for some in found] == [["valid"], ["valid"]]


@pytest.mark.parametrize("run", [run_prompt, run_own])
def test_files_are_refused(run, tmp_path):
    with pytest.raises(TaskError, match="leave out --data"):
        run(tmp_path, 0, 1., "tasks", "micro")


# Studies

@pytest.mark.parametrize("tier", ["category", "untold"])
def test_seeds_ask_other_tasks_of_their_tier_on_inputs_of_their_own(tier):
    names = [t.name for seed in range(8) for t in own_tasks(tier, seed, 1, True)]
    assert len(set(names)) == 24 and {tiers_of()[name][1] for name in names} == {tier}
    learn, ask = ({i.input for t in own_tasks(tier, 0, 50, held_out) for i in t.instances}
                  for held_out in (False, True))
    assert not learn & ask


@pytest.mark.parametrize("name, arms_of", [
    ("prompt-tuning", prompt_arms), ("prompt-checkpoints", checkpoint_arms)])
def test_rates_are_chosen_by_the_search_and_claims_name_arms(name, arms_of):
    study = STUDIES[name]
    runs = [{"arm": arm, "valid": how["rate"]} for arm, how in study.search.items()]
    arms = study.choose(runs)
    assert arms == arms_of(runs)
    searched = {arm.rsplit(", ", 1)[0] for arm in study.search}
    learned = [how for how in arms.values() if how.get("learned", "prompt") == "prompt"]
    assert len(learned) >= len(searched) and {how["rate"] for how in learned} == {max(RATES)}
    claims = [c for c in read_claims() if c.study == name]
    assert claims and {c.better for c in claims} | {c.worse for c in claims} <= {*arms}
    metrics = TIERS_ASKED if name == "prompt-tuning" else ("category", "untold")
    assert {c.metric for c in claims} <= {*metrics}


def test_the_fingerprint_is_that_of_both(tiny):
    model = load_model(tiny, "cpu")[0]
    one = Prompted(model, DirectEmbedder.for_model(model, 1, 2))
    other = Prompted(model, DirectEmbedder.for_model(model, 1, 2, seed=1))
    assert fingerprint(one) != fingerprint(other)
    before = fingerprint(one)
    with torch.no_grad(): model.lm_head.weight += 1
    assert fingerprint(one) != before
