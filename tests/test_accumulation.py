"""A step is its rows, however many micro-batches it is cut into: in training, in the
hypergradient, in its noise, and in a run that goes on with another cut."""
import gc
import weakref

import pytest
import torch
from conftest import tiny_t5
from test_processes import RESUMED, gap, optimized, tuned
from transformers import TrainerCallback

from instop_nb.core import TaskError
from instop_nb.hypergradient import METHODS, hypergradient
from instop_nb.products import PRODUCTS, DoubleBackward, Summed
from instop_nb.trainer import T5Trainer


@pytest.fixture(scope="module")
def tiny(tmp_path_factory): return tiny_t5(tmp_path_factory.mktemp("t5"))


@pytest.fixture
def parts():
    "Three inner losses, theta of two tensors, phi, and an outer loss."
    rng = torch.Generator().manual_seed(0)
    def draw(*shape): return torch.randn(*shape, generator=rng, dtype=torch.float64)
    theta, phi = [draw(4).requires_grad_(), draw(3).requires_grad_()], draw(2).requires_grad_()
    mixes = [(draw(4, 3), draw(3, 2)) for _ in range(3)]
    def inner(A, B):
        a, b = theta
        return (a @ A @ b).tanh() + (b @ B @ phi).sin() + a.square().sum() + b.square().sum()
    def outer(): return (theta[0] - 1).square().sum() + theta[1].sum().cos()
    losses = [lambda A=A, B=B: inner(A, B) / 3 for A, B in mixes]
    return losses, outer, theta, [phi]


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("method", METHODS)
def test_the_hypergradient_of_a_list_is_that_of_the_sum(method, product, parts):
    losses, outer, theta, phi = parts
    options = dict(method=method, product=product, n_terms=3, gamma=.1)
    def whole(): return sum(loss() for loss in losses)
    wanted, = hypergradient(whole, outer, theta, phi, **options)
    found, = hypergradient(losses, outer, theta, phi, **options)
    assert (found - wanted).norm() < 1e-7 * wanted.norm()
    less, = hypergradient(losses[:2], outer, theta, phi, **options)
    assert (less - wanted).norm() > 1e-2 * wanted.norm()


@pytest.mark.parametrize("method", ["neumann", "unrolled"])
def test_what_each_process_finds_is_made_one_where_it_arises(method, parts):
    """Two processes see a half of the losses each, and a mean of what they find; played in one:
    each gradient is asked for in the order in which it arises, so the other's answer can wait."""
    losses, outer, theta, phi = parts
    options = dict(method=method, n_terms=2, gamma=.1)
    heard = []
    def notes(found): heard.append([f.clone() for f in found]); return list(found)
    def whole(): return sum(loss() for loss in losses)
    wanted = hypergradient(whole, outer, theta, phi, reduce=notes, **options)
    asked = [len(found) for found in heard]
    steps = 2 if method == "unrolled" else 0  # Of descent, whose gradients are reduced, too
    assert asked == [2] * steps + [3] + ([2] * 2 + [1] if method == "neumann" else [2, 1] * 2)
    turn = iter(heard)
    def of_all(found): return [x.clone() for x in next(turn)]
    found = hypergradient(losses[:1], outer, theta, phi, reduce=of_all, **options)
    assert all(a.equal(b) for a, b in zip(found, wanted)), "something is used before it is reduced"


def test_one_graph_at_a_time(parts, monkeypatch):
    losses, _, theta, _ = parts
    alive, most = weakref.WeakSet(), []
    init = DoubleBackward.__init__
    def noted(self, *args, **others):
        alive.add(self); gc.collect(); most.append(len(alive))
        init(self, *args, **others)
    monkeypatch.setattr(DoubleBackward, "__init__", noted)
    v = [torch.ones_like(t) for t in theta]
    products = Summed(DoubleBackward, losses, theta)
    first, second = products.hessian(v), products.hessian(v)
    assert all(torch.allclose(a, b) for a, b in zip(first, second))
    assert len(most) == 5 and max(most) == 1, "the last graph of a product is the next one's first"


def test_the_inner_loss_is_weighted_as_in_the_step(tiny, tmp_path, monkeypatch):
    "In the hypergradient each micro-batch counts as much as it did for theta."
    seen, compute = [], T5Trainer.compute_loss
    def noted(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss = compute(self, model, inputs, return_outputs, num_items_in_batch)
        seen.append(loss.item())
        return loss
    monkeypatch.setattr(T5Trainer, "compute_loss", noted)
    # Nothing moves, and the outer step comes before the update
    optimized(
        tiny, tmp_path, RESUMED, 4, 1, outer={"K": 10, "faithful": True}, learning_rate=1e-30
    )
    step, outer = seen[-11:-7], seen[-7:]  # Four graphs for H v, three more after it
    assert sorted({*step}) == pytest.approx(sorted({*outer}), rel=1e-6) and len({*step}) == 4


def test_the_outer_loss_is_cut_as_the_inner_one(tiny, tmp_path, monkeypatch):
    "No graph holds more rows than a micro-batch of the inner step; the losses add up all the same."
    rows, weight = [], T5Trainer.weight
    def noted(self, labels, tokens):
        rows.append(len(labels))
        return weight(self, labels, tokens)
    monkeypatch.setattr(T5Trainer, "weight", noted)
    optimized(tiny, tmp_path, RESUMED, 4, 1, outer={"K": 10})
    assert max(rows) == 2 and rows.count(1) == 1  # The seven of the outer step: 2, 2, 2 and 1


class StopAt(TrainerCallback):
    def __init__(self, step): self.step = step
    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop |= state.global_step == self.step


@pytest.mark.parametrize("step", [3, 10, 13])
def test_a_run_goes_on_in_any_epoch_and_with_another_cut(step, tiny, tmp_path):
    "Ten steps are an epoch, so 13 is in the second, whose order the seed alone does not give."
    saving = dict(steps=16, save_strategy="steps", save_steps=1)
    whole = tuned(tiny, tmp_path / "whole", 1, 1, **saving)
    for name, parts in (("same", 1), ("cut", 4)):
        tuned(tiny, tmp_path / name, 1, 1, callbacks=[StopAt(step)], **saving)
        resumed = tuned(tiny, tmp_path / name, parts, 1, resume=True, **saving)
        if parts == 1: assert all(a.equal(b) for a, b in zip(whole, resumed))
        assert gap(whole, resumed) < 1e-6


def test_a_run_does_not_go_on_with_other_rows_in_a_step(tiny, tmp_path):
    tuned(tiny, tmp_path, 2, 1, callbacks=[StopAt(4)], save_strategy="steps", save_steps=3)
    with pytest.raises(TaskError, match="batch_size: found 4; this run was begun with 8"):
        tuned(tiny, tmp_path, 2, 2, resume=True, save_strategy="steps", save_steps=3)
