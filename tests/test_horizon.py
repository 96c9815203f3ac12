"""The hypergradient through the steps of a training, against finite differences of training
again, in double precision."""
import copy

import pytest
import torch
from torch import nn

from instop_nb.horizon import Path, Rates, adam_back

torch.set_num_threads(1)
double = torch.float64


class Mlp:
    "Two layers, two groups with weight decay and rates of their own; phi weights the rows."
    def __init__(self):
        rng = torch.Generator().manual_seed(0)
        def draw(*shape): return torch.randn(*shape, generator=rng, dtype=double)
        self.theta = [draw(4, 6).mul_(.5).requires_grad_(), draw(6).requires_grad_()]
        self.phi = [draw(5).requires_grad_(), draw(4).requires_grad_()]
        self.batches = [(draw(5, 4), draw(5)) for _ in range(16)]
        self.asked = draw(9, 4), draw(9)

    def predicted(self, x): return (x @ self.theta[0]).tanh() @ self.theta[1]
    def inner(self, k):
        x, y = self.batches[k]
        return (self.phi[0].exp() * (self.predicted(x + self.phi[1]) - y).square()).mean()
    def outer(self): return (self.predicted(self.asked[0]) - self.asked[1]).square().mean()
    def optimizer(self):
        first, second = self.theta
        groups = [{"params": [first]}, {"params": [second], "lr": .1, "weight_decay": 0.}]
        return torch.optim.AdamW(groups, lr=.02, betas=(.9, .98), weight_decay=.1)


class TinyT5:
    "A T5 in double precision, with a prefix and weights of the rows."
    def __init__(self):
        from transformers import T5Config, T5ForConditionalGeneration

        from instop_nb.micro import t5_optimizer
        torch.manual_seed(0)
        config = T5Config(
            vocab_size=24, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, dropout_rate=0.,
            decoder_start_token_id=0, feed_forward_proj="gated-gelu", tie_word_embeddings=False,
        )
        self.model = T5ForConditionalGeneration(config).double()
        self.theta = list(self.model.parameters())
        self.phi = [torch.randn(2, 8, dtype=double).requires_grad_(),
                    torch.ones(3, dtype=double).requires_grad_()]
        def draw(n): return torch.randint(2, 24, (n, 4)), torch.randint(2, 24, (n, 3))
        self.batches, self.asked, self.make = [draw(3) for _ in range(16)], draw(4), t5_optimizer

    def inner(self, k):
        ids, labels = self.batches[k]
        text = self.model.get_input_embeddings()(ids)
        embeds = torch.cat([self.phi[0].expand(3, -1, -1), text], 1)
        logits = self.model(inputs_embeds=embeds, labels=labels).logits
        losses = nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
        return (self.phi[1][:, None] * losses).mean()
    def outer(self):
        ids, labels = self.asked
        return self.model(input_ids=ids, labels=labels).loss
    def optimizer(self): return self.make(self.model, 1e-3)


@pytest.fixture
def exact_norm(monkeypatch):
    from transformers.models.t5.modeling_t5 import T5LayerNorm
    def norm(self, x):
        return (
            self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        )
    monkeypatch.setattr(T5LayerNorm, "forward", norm)  # the original falls back to single precision


def prepared(problem, max_norm, before=3):
    "A path with some steps behind it, and a way to train on from there as often as one likes."
    path = Path(problem.optimizer(), max_norm)
    for k in range(before): path.step(lambda k=k: problem.inner(k))
    weights = [t.detach().clone() for t in problem.theta]
    state = copy.deepcopy(path.optimizer.state_dict())
    def again(K):
        with torch.no_grad():
            for t, w in zip(problem.theta, weights): t.copy_(w)
        path.optimizer.load_state_dict(copy.deepcopy(state))
        path.moments.clear()
        for k in range(before, before + K): path.step(lambda k=k: problem.inner(k))
        return problem.outer().item()
    return path, again


def slope(problem, again, K, directions, eps=1e-5):
    "Finite differences of training again, along a direction of each of phi."
    def moved(sign):
        with torch.no_grad():
            for p, d in zip(problem.phi, directions): p.add_(d, alpha=sign * eps)
        loss = again(K)
        with torch.no_grad():
            for p, d in zip(problem.phi, directions): p.sub_(d, alpha=sign * eps)
        return loss
    return (moved(1) - moved(-1)) / (2 * eps)


@pytest.mark.parametrize("max_norm", [1e9, .05])
@pytest.mark.parametrize("K", [1, 3, 10])
@pytest.mark.parametrize("make", [Mlp, TinyT5])
def test_the_way_back_is_the_slope_of_training_again(make, K, max_norm, exact_norm):
    problem = make()
    path, again = prepared(problem, max_norm)
    rng = torch.Generator().manual_seed(1)
    for _ in range(3):
        directions = [torch.randn(p.shape, generator=rng, dtype=double) for p in problem.phi]
        expected = slope(problem, again, K, directions)
        again(K)
        norms = [torch.cat([g.reshape(-1) for g in m.grads]).norm() for m in path.moments]
        assert all(n > max_norm for n in norms) or max_norm == 1e9  # Clipping is active
        found = path.back(problem.outer, problem.phi, [K])[K]
        value = sum((f * d).sum() for f, d in zip(found, directions)).item()
        assert value == pytest.approx(expected, rel=1e-4), (value, expected)


def test_all_lengths_come_from_one_way_and_leave_everything_as_it_was():
    problem = Mlp()
    path, again = prepared(problem, .5)
    again(6)
    before = [t.detach().clone() for t in problem.theta + problem.phi]
    found = path.back(problem.outer, problem.phi, [1, 3, 6])
    for K, answer in found.items():
        alone = path.back(problem.outer, problem.phi, [K])[K]
        assert all(torch.equal(a, b) for a, b in zip(answer, alone))
        assert answer.how.startswith(f"{K} ")
    assert all(torch.equal(a, b) for a, b in zip(before, problem.theta + problem.phi))
    near = path.back(problem.outer, problem.phi, [6], "differences")[6]
    assert all((a - b).norm() < 1e-5 * b.norm() for a, b in zip(near, found[6]))
    for at in ([0], [7], [-1, 2]):
        with pytest.raises(ValueError, match="remembers 6 steps"):
            path.back(problem.outer, problem.phi, at)


def test_a_weight_without_gradients_takes_no_part():
    rates, zero = Rates(.1, .9, .98, 1e-8, 0., 2), torch.zeros(2, dtype=double)
    found = adam_back(rates, zero, zero, zero, [zero + 1, zero, zero])
    assert all(x.isfinite().all() for x in found) and torch.equal(found[0], zero + 1)
