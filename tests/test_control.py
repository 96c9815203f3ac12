"""What phi may be beside a prefix: weights of rows, and a candidate that is drawn. A step is its
rows however it is cut, a run goes on where it stopped, and theta is never left elsewhere."""
from contextlib import suppress
from types import SimpleNamespace

import pytest
import torch
from conftest import tiny_t5
from test_accumulation import StopAt
from test_embedder import exact
from test_processes import INNER, KINDS, META, ROWS, gap
from transformers import GPT2Config, GPT2LMHeadModel

from instop_nb.bilevel import MetaTrainer, optimize
from instop_nb.causal import as_read
from instop_nb.choice import DrawnOptimizer
from instop_nb.control import TaskWeights, WeightOptimizer, row_losses, run_control
from instop_nb.core import TaskError
from instop_nb.models import load_model
from instop_nb.outer import Outer, OuterLoop
from instop_nb.products import Differences, DoubleBackward, Summed

GROUPS = [0, 1, 0, 2, 1, 3, 2]  # Of INNER
WAYS = {
    "weights": (WeightOptimizer, lambda model, tok: TaskWeights(GROUPS)),
    "drawn": (DrawnOptimizer, KINDS["extractor-dp"]),
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory): return tiny_t5(tmp_path_factory.mktemp("t5"))


def made(tiny, folder, way, parts=1, steps=4, arguments=(), **others):
    "A trainer after so many inner steps, with an outer step after every second one."
    kind, phi = WAYS[way]
    model, tokenizer = load_model(tiny, "cpu")
    outer = dict(K=2, meta_batch_size=7, method="identity", n_terms=0, gamma=1.,
                 product="differences", loss="expected error", phi_rate=.1)
    outer |= others.pop("outer", {})
    if others.pop("double", True): exact(model.double())
    return optimize(
        model, tokenizer, phi(model, tokenizer).to(model.dtype), INNER, META, folder, steps,
        Outer(**outer), batch_size=ROWS // parts, instance="own", quiet=True, kind=kind,
        arguments=dict(gradient_accumulation_steps=parts, logging_steps=1) | dict(arguments),
        **others,
    )


def numbers(trainer): return [*trainer.model.parameters(), *trainer.instruction.parameters()]


def by_content(self, batch, p):
    "A draw that a row has in any micro-batch."
    return batch["labels"].clamp(min=0).sum(1) % p.shape[1]


@pytest.mark.parametrize("way, product", [
    ("weights", "differences"), ("weights", "exact"), ("drawn", "differences"), ("drawn", "exact"),
])
def test_a_step_is_its_rows_however_it_is_cut(way, product, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(DrawnOptimizer, "drawn", by_content)
    runs = [made(tiny, tmp_path / str(parts), way, parts, outer={"product": product})
            for parts in (1, 4)]
    assert gap(*map(numbers, runs)) < 1e-5 and runs[0].loop.moved() > .01
    losses = [[row["outer_loss"] for row in run.state.log_history if "outer_loss" in row]
              for run in runs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6) and 0 < losses[0][0] < 1


def flat(grads): return torch.cat([g.flatten() for g in grads])


def slopes(trainer, places):
    "Of each row of the last step, the product of its gradient with that of the outer loss."
    model, batch = trainer.model, trainer.batch
    theta = [p for p in model.parameters() if p.requires_grad]
    ahead = flat(torch.autograd.grad(trainer.outer_loss(trainer.meta_batch(places)), theta))
    if isinstance(trainer, DrawnOptimizer):
        j, task, phi = batch["drawn"], batch["task"], trainer.instruction
        ids, mask = phi.ids[task, j], phi.mask[task, j]
        words = model.get_input_embeddings()(torch.cat([ids, batch["input_ids"]], 1))
        shown = torch.cat([mask, batch["attention_mask"]], 1)
    else: words, shown = model.get_input_embeddings()(batch["input_ids"]), batch["attention_mask"]
    said = model(inputs_embeds=words, attention_mask=shown, labels=batch["labels"])
    losses = row_losses(said.logits, batch["labels"]) / batch["labels"].ne(-100).sum()
    rows = [flat(torch.autograd.grad(loss, theta, retain_graph=True)) for loss in losses]
    return torch.stack([ahead @ g for g in rows]).detach()


@pytest.mark.parametrize("way", WAYS)
def test_the_hypergradient_is_one_product_for_each_row(way, tiny, tmp_path, monkeypatch):
    found, move, drawn = [], OuterLoop.move, OuterLoop.draw
    def noted(self, got, max_norm): found.append([*got]); return move(self, got, max_norm)
    def kept(self, n): places.append(drawn(self, n)); return places[-1]
    trainer = made(tiny, tmp_path, way)
    places = []
    monkeypatch.setattr(OuterLoop, "move", noted); monkeypatch.setattr(OuterLoop, "draw", kept)
    with torch.no_grad():
        for p in trainer.instruction.parameters():
            p.copy_(torch.linspace(-1, 1, p.numel()).view(p.shape))
    phi = trainer.instruction
    if way == "weights": factor = (phi.values() * (1 - phi.values())).detach()
    p = phi.v.softmax(-1).detach() if way == "drawn" else None
    trainer.outer_step()
    wanted, task = torch.zeros_like(found[0][0]), trainer.batch["task"]
    for i, slope in enumerate(slopes(trainer, places[0])):
        group = phi.group[task[i]] if way == "weights" else task[i]
        if way == "weights": wanted[group] -= slope * factor[group]
        else:
            one = torch.eye(p.shape[1])[trainer.batch["drawn"][i]]
            wanted[group] -= slope * (one - p[group])
    assert (found[0][0] - wanted).norm() < 1e-4 * wanted.norm() and wanted.norm() > 0


def test_what_is_drawn_stays_for_the_outer_step(tiny, tmp_path, monkeypatch):
    "In each micro-batch, and no step draws what another has drawn."
    asked, drawn = [], DrawnOptimizer.drawn
    def noted(self, batch, p):
        asked.append((batch, drawn(self, batch, p).clone()))  # The batch, too: no id comes again
        return asked[-1][1]
    monkeypatch.setattr(DrawnOptimizer, "drawn", noted)
    made(tiny, tmp_path, "drawn", parts=2, outer={"phi_rate": 1e-9})
    seen = {}
    for batch, j in asked: seen.setdefault(id(batch), []).append(j)
    assert len(seen) == 8, "four steps of two micro-batches"
    assert all(j.equal(js[0]) for js in seen.values() for j in js)
    assert sorted(len(js) for js in seen.values()) == [1] * 4 + [3] * 4  # And two sides of theta
    assert len({tuple(js[0].tolist()) for js in seen.values()}) > 4


@pytest.mark.parametrize("way", WAYS)
def test_a_run_goes_on_where_it_stopped(way, tiny, tmp_path):
    saving = {"arguments": dict(save_strategy="steps", save_steps=1), "steps": 6,
              "double": False, "outer": {"perturbation": .1 * (way == "weights")}}
    whole = made(tiny, tmp_path / "whole", way, **saving)
    made(tiny, tmp_path / "cut", way, callbacks=[StopAt(3)], **saving)
    resumed = made(tiny, tmp_path / "cut", way, resume=True, **saving)
    assert all(a.equal(b) for a, b in zip(numbers(whole), numbers(resumed)))
    if way == "weights": assert resumed.path == whole.path and len(whole.path) == 3


def test_noise_moves_the_weights_of_theta_s_steps(tiny, tmp_path):
    trainer = made(tiny, tmp_path, "weights", outer={"perturbation": .5})
    batch = trainer.batch
    near, far = (trainer.inner_loss(trainer.model, batch, phi).item()
                 for phi in (None, {"phi": torch.full((4,), 2., dtype=torch.double)}))
    assert near < far and set(trainer.noisy) == {"phi"}


def test_what_would_have_no_effect_is_refused(tiny, tmp_path):
    with pytest.raises(TaskError, match="perturbation: found 0.1; leave it at 0"):
        made(tiny, tmp_path, "drawn", outer={"perturbation": .1})
    with pytest.raises(TaskError, match="tuned: found 'best'; choose from"):
        run_control(tmp_path / "run", 0, .01, "micro", "micro", tuned="best")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("product", ["exact", "differences"])
def test_half_precision_learns_the_same(way, product, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(DrawnOptimizer, "drawn", by_content)
    def run(bf16):
        return made(tiny, tmp_path / f"{bf16}", way, double=False, outer={"product": product},
                    arguments={"bf16": bf16})
    fine, coarse = (run(bf16) for bf16 in (False, True))
    ways = [torch.cat([(p - s).flatten() for p, s in zip(t.instruction.parameters(),
            t.loop.start.values())]) for t in (fine, coarse)]
    assert torch.cosine_similarity(*ways, 0) > .8


@pytest.mark.parametrize("call", [1, 2, 3])
def test_theta_comes_back_after_an_error_ahead_of_it_or_behind(call):
    theta = [torch.randn(5).requires_grad_(), torch.randn(2, 3).requires_grad_()]
    phi, v, calls = torch.randn(5).requires_grad_(), [torch.randn(5), torch.randn(2, 3)], []
    before = [t.detach().clone() for t in theta]
    def loss():
        calls.append([t.detach().clone() for t in theta])
        if len(calls) == call: raise KeyError("in the middle")
        return (theta[0] * phi).sin().sum() * theta[1].square().sum()
    for product in (lambda: Differences(loss, theta).mixed([x.clone() for x in v], [phi]),
                    lambda: Summed(Differences, [loss, loss], theta).mixed(v, [phi])):
        calls.clear()
        with suppress(KeyError): product()
        assert all(t.equal(b) and t.requires_grad and t.grad is None for t, b in zip(theta, before))
        assert not calls[0][0].equal(before[0]), "the loss is asked elsewhere"


def test_two_sides_are_as_far_and_each_of_several_losses_sees_them():
    rng = torch.Generator().manual_seed(0)
    def draw(*shape): return torch.randn(*shape, generator=rng, dtype=torch.double)
    theta, phi = [draw(4).requires_grad_(), draw(3).requires_grad_()], draw(4).requires_grad_()
    mixes, seen = [draw(4, 3) for _ in range(3)], []
    def loss(A):
        seen.append([t.detach().clone() for t in theta])
        return ((theta[0] * phi).tanh() @ A @ theta[1]).sin()
    losses, v = [lambda A=A: loss(A) for A in mixes], [draw(4), draw(3)]
    wanted, = Summed(DoubleBackward, losses, theta).mixed([x.clone() for x in v], [phi])
    seen.clear()
    found, = Summed(Differences, losses, theta).mixed([x.clone() for x in v], [phi])
    assert (found - wanted).norm() < 1e-8 * wanted.norm() and len(seen) == 6
    for ahead, behind in zip(seen[::2], seen[1::2]):
        assert all(torch.allclose((a + b) / 2, t, rtol=0, atol=1e-14)
                   for a, b, t in zip(ahead, behind, theta))
        assert flat([a - b for a, b in zip(ahead, behind)]).norm() == pytest.approx(2e-5, rel=1e-6)
    zero, = Summed(Differences, losses, theta).mixed([0 * x for x in v], [phi])
    assert zero.shape == phi.shape and not zero.any()


def test_a_model_that_continues_is_judged_by_the_next_token():
    "Its logits stand one place before the token that they are for."
    torch.manual_seed(0)
    gpt = GPT2LMHeadModel(GPT2Config(
        vocab_size=9, n_positions=16, n_embd=8, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=1,
    )).eval()
    with torch.no_grad(): gpt.transformer.wte.weight.mul_(40)
    ids, labels = torch.tensor([[3, 4, 5], [0, 6, 7]]), torch.tensor([[2, 8, 1], [5, 1, -100]])
    batch = as_read(gpt, {"input_ids": ids, "attention_mask": ids.ne(0).long(), "labels": labels})
    errors = []
    for row in range(2):
        read = {name: x[row:row + 1] for name, x in batch.items() if name != "labels"}
        p = gpt(**read).logits[0].softmax(-1)
        errors += [1 - p[2 + m, y].item() for m, y in enumerate(labels[row].tolist()) if y >= 0]
    trainer = SimpleNamespace(model=gpt, outer=Outer(loss="expected error"))
    found = MetaTrainer.outer_loss(trainer, batch).item()
    assert found == pytest.approx(sum(errors) / len(errors), rel=1e-5)
