"""Algorithm 1: the outer step moves phi alone, in the right direction, and both loops survive a kill."""
import pytest
import torch
from transformers import TrainerCallback

from instop_nb.batches import Collator, tokenize_tasks
from instop_nb.bilevel import InstructionOptimizer, meta_batch, meta_split, optimize
from instop_nb.embedder import DirectEmbedder
from instop_nb.hypergradient import hypergradient
from instop_nb.t5 import load_t5, training_arguments
from instop_nb.tasks import TaskError
from instop_nb.tuning import DEFINITION, Run, get_tasks


@pytest.fixture(scope="module")
def tasks(): return get_tasks("micro", "train", 10)


@pytest.fixture
def trainer(tasks, tmp_path):
    model, tokenizer = load_t5("micro", device="cpu")
    meta_train, meta_test = meta_split(tasks)
    rows, meta_rows = (tokenize_tasks(part, tokenizer, DEFINITION) for part in (meta_train, meta_test))
    made = InstructionOptimizer(model, training_arguments(tmp_path, 4, disable_tqdm=True), DirectEmbedder.for_model(model, len(meta_train), l=3),
                                meta_rows, train_dataset=rows, data_collator=Collator(tokenizer))
    made.batch = made._prepare_inputs(made.data_collator([rows[i] for i in range(0, 320, 20)]))
    return made


def test_meta_split_is_a_partition_and_repeats(tasks):
    a, b = meta_split(tasks, 0.2, seed=1)
    assert {t.name for t in a} | {t.name for t in b} == {t.name for t in tasks} and not {t.name for t in a} & {t.name for t in b}
    assert len(b) == round(0.2 * len(tasks)) and [t.name for t in b] == [t.name for t in meta_split(tasks, 0.2, seed=1)[1]]
    assert [t.name for t in b] != [t.name for t in meta_split(tasks, 0.2, seed=2)[1]]
    for share in (0, 1, -1):
        with pytest.raises(TaskError, match="between 0 and 1"): meta_split(tasks, share)


def test_outer_step_moves_phi_and_leaves_theta(trainer):
    before = [p.detach().clone() for p in trainer.model.parameters()]
    row = trainer.outer_step()
    assert all(p.equal(b) and p.grad is None for p, b in zip(trainer.model.parameters(), before))
    changed = {i for i, (new, old) in enumerate(zip(trainer.embedder.weight, trainer.start[0])) if not new.equal(old)}
    assert changed == set(trainer.batch["task"].tolist()) and row["phi_moved"] > 0


def test_hypergradient_is_the_slope_of_the_outer_loss_after_one_small_step(trainer):
    model, embedder, batch, outer_batch, gamma = trainer.model, trainer.embedder, trainer.batch, meta_batch(trainer), 1e-4
    model, embedder = model.double(), embedder.double()
    theta, phi = dict(model.named_parameters()), list(embedder.parameters())
    inner = lambda: model(**trainer.instructed(batch)).loss
    ours, = hypergradient(inner, lambda: model(**outer_batch).loss, list(theta.values()), phi, n_terms=0, gamma=gamma)
    direction, values = ours / ours.norm(), []
    for sign in (1, -1):
        with torch.no_grad(): phi[0].add_(sign * 0.01 * direction)
        grads = torch.autograd.grad(inner(), list(theta.values()))
        moved = {n: (p - gamma * g).detach() for (n, p), g in zip(theta.items(), grads)}
        with torch.no_grad(): values.append(torch.func.functional_call(model, moved, (), outer_batch).loss.item())
        with torch.no_grad(): phi[0].sub_(sign * 0.01 * direction)
    slope = (values[0] - values[1]) / 0.02
    assert slope == pytest.approx(ours.norm().item(), rel=0.05)


def test_outer_loss_sees_no_prefix(trainer):
    batch = meta_batch(trainer)
    assert set(batch) == {"input_ids", "attention_mask", "labels"}
    hidden = trainer.model.get_encoder()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    assert hidden.shape[1] == batch["input_ids"].shape[1]


def test_one_outer_step_every_k_inner_steps_and_frozen_stays_frozen(tasks, tmp_path):
    for name, rate in (("learned", 1e-2), ("frozen", 0.0)):
        model, tokenizer = load_t5("micro", device="cpu")
        _, embedder = optimize(model, tokenizer, tasks, tmp_path / name, steps=12, batch_size=8, K=5, phi_rate=rate, quiet=True)
        outer = [r for r in Run(tmp_path / name).metrics() if "outer_loss" in r]
        assert [r["step"] for r in outer] == [5, 10]
        assert (outer[-1]["phi_moved"] > 0) == (rate > 0)
        saved = torch.load(tmp_path / name / "embedder.pt", weights_only=True)
        assert saved["weight"].equal(embedder.weight.detach()) and len(saved["tasks"]) == len(saved["weight"])


def test_killed_and_resumed_equals_never_stopped(tasks, tmp_path):
    class StopAt(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs): control.should_training_stop |= state.global_step == 9

    def run(name, **others):
        model, tokenizer = load_t5("micro", device="cpu")
        model, embedder = optimize(model, tokenizer, tasks, tmp_path / name, steps=16, batch_size=8, K=4, quiet=True,
                                   arguments=dict(save_strategy="steps", save_steps=6), **others)
        return [*model.parameters(), *embedder.parameters()]
    whole = run("whole")
    run("cut", callbacks=[StopAt()])
    assert all(a.equal(b) for a, b in zip(whole, run("cut", resume=True)))
