"""Learnable instructions: the right row, the right place in the input, and the right gradient."""
import pytest
import torch
from torch import nn

from instop_nb.embedder import DirectEmbedder, encoder_mean, nearest_words, with_prefix
from instop_nb.hypergradient import hypergradient
from instop_nb.t5 import micro_config, new_t5, train_tokenizer

torch.set_num_threads(1)
VOCABULARY, D, L = 60, 64, 3
BATCH = {"input_ids": torch.tensor([[9, 8, 7, 6, 1], [5, 4, 1, 0, 0], [3, 3, 3, 1, 0]]), "attention_mask": torch.tensor([[1] * 5, [1, 1, 1, 0, 0], [1, 1, 1, 1, 0]]),
         "labels": torch.tensor([[11, 12, 1], [13, 1, -100], [14, 15, 1]]), "task": torch.tensor([2, 0, 2])}


def exact(model):
    "Let T5's norm count in the model's own type; transformers' takes the mean in float32."
    for m in model.modules():
        if type(m).__name__ == "T5LayerNorm": m.forward = lambda x, m=m: nn.functional.rms_norm(x, m.weight.shape, m.weight, m.variance_epsilon)
    return model


@pytest.fixture
def model(): return new_t5(micro_config(VOCABULARY, d_model=D), seed=3).eval()


@pytest.fixture
def precise(): return exact(new_t5(micro_config(VOCABULARY, d_model=16, d_kv=4, d_ff=16), seed=3).double().eval())


# The module

def test_each_row_gets_the_matrix_of_its_task():
    phi = DirectEmbedder(4, L, D)
    prefix, mask = phi(BATCH)
    assert prefix.shape == (3, L, D) and mask.shape == (3, L) and mask.dtype == torch.long and bool(mask.all())
    for row, task in enumerate(BATCH["task"]): assert torch.equal(prefix[row], phi.weight[task])


def test_phi_is_one_parameter_that_is_saved_and_loaded():
    phi, other = DirectEmbedder(4, L, D, seed=1), DirectEmbedder(4, L, D, seed=2)
    assert [tuple(p.shape) for p in phi.parameters()] == [(4, L, D)] and not torch.equal(phi.weight, other.weight)
    other.load_state_dict(phi.state_dict())
    assert torch.equal(phi.weight, other.weight)


def test_start_values_come_from_the_seed_alone():
    first = DirectEmbedder(4, L, D, seed=5).weight
    state = torch.random.get_rng_state()
    torch.manual_seed(99)
    assert torch.equal(first, DirectEmbedder(4, L, D, seed=5).weight)
    torch.random.set_rng_state(state)
    DirectEmbedder(4, L, D)
    assert torch.equal(state, torch.random.get_rng_state())


def test_for_model_takes_size_and_spread_of_the_words(model):
    with torch.no_grad(): model.shared.weight.mul_(7)
    phi = DirectEmbedder.for_model(model, 200, l=5)
    assert phi.weight.shape == (200, 5, D)
    assert phi.weight.std().item() == pytest.approx(model.shared.weight.std().item(), rel=0.02)
    assert DirectEmbedder.for_model(model, 2).weight.shape == (2, 64, D)


def test_phi_stays_float32_beside_a_bf16_model():
    model = new_t5(micro_config(VOCABULARY)).to(torch.bfloat16)
    phi = DirectEmbedder.for_model(model, 3, l=2)
    assert phi.weight.dtype == torch.float32
    inputs = with_prefix(model, BATCH, *phi(BATCH))
    assert inputs["inputs_embeds"].dtype == torch.bfloat16
    inputs.pop("task")
    model(**inputs).loss.backward()
    assert phi.weight.grad.dtype == torch.float32 and phi.weight.grad[0].any() and not phi.weight.grad[1].any()


@pytest.mark.parametrize("arguments, message", [((0, 4, 8), "n_tasks: 0"), ((3, 0, 8), "l: 0"), ((3, 4, -1), "d: -1")])
def test_sizes_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message): DirectEmbedder(*arguments)


def test_a_batch_without_task_says_what_is_missing():
    with pytest.raises(ValueError, match="no 'task' among.*Collator"): DirectEmbedder(3, 4, D)({"input_ids": None})


# The door

def run(model, batch): return model(**{name: value for name, value in batch.items() if name != "task"})


def test_prefix_stands_before_the_source_and_all_else_stays(model):
    phi = DirectEmbedder.for_model(model, 3, l=L)
    batch = {**BATCH, "anything": "else"}
    inputs = with_prefix(model, batch, *phi(batch))
    assert set(inputs) == {"inputs_embeds", "attention_mask", "labels", "task", "anything"} and inputs["anything"] == "else"
    assert inputs["labels"] is BATCH["labels"] and set(batch) == {*BATCH, "anything"}
    assert torch.equal(inputs["inputs_embeds"][:, :L], phi.weight[BATCH["task"]])
    assert torch.equal(inputs["inputs_embeds"][:, L:], model.shared(BATCH["input_ids"]))
    assert torch.equal(inputs["attention_mask"], torch.cat([torch.ones(3, L, dtype=torch.long), BATCH["attention_mask"]], 1))


def test_words_as_a_prefix_are_the_same_as_words_in_the_source(model):
    ids, rest = BATCH["input_ids"][:1], {"labels": BATCH["labels"][:1]}
    prefix = model.shared(ids[:, :2])
    inputs = with_prefix(model, {"input_ids": ids[:, 2:], **rest}, prefix, torch.ones(1, 2))
    assert torch.allclose(run(model, inputs).logits, model(input_ids=ids, **rest).logits, atol=1e-6)


@pytest.mark.parametrize("l", [1, 5, 100])
def test_a_masked_prefix_changes_nothing(precise, l):
    plain = run(precise, BATCH).logits
    prefix, nothing = 100 * torch.randn(3, l, 16), torch.zeros(3, l)
    masked = run(precise, with_prefix(precise, BATCH, prefix, nothing)).logits
    shown = run(precise, with_prefix(precise, BATCH, prefix, nothing + 1)).logits
    assert (masked - plain).abs().max() < 1e-10 * plain.abs().max() and (shown - plain).abs().max() > 0.01 * plain.abs().max()


def test_a_masked_prefix_changes_nothing_in_float32(model):
    plain = run(model, BATCH).logits
    masked = run(model, with_prefix(model, BATCH, torch.randn(3, 7, D), torch.zeros(3, 7))).logits
    assert (masked - plain).abs().max() < 1e-5


def test_a_shorter_prefix_is_padded_in_front(precise):
    prefix, ones, zeros = torch.randn(3, 3, 16).double(), torch.ones(3, 3), torch.zeros(3, 4)
    def logits(prefix, mask): return run(precise, with_prefix(precise, BATCH, prefix, mask)).logits
    short = logits(prefix, ones)
    front = logits(nn.functional.pad(prefix, (0, 0, 4, 0), value=9.0), torch.cat([zeros, ones], 1))
    gap = logits(nn.functional.pad(prefix, (0, 0, 0, 4), value=9.0), torch.cat([ones, zeros], 1))
    assert torch.allclose(short, front, atol=1e-10) and not torch.allclose(short, gap, atol=1e-6)


def test_generation_works_with_a_prefix(model):
    inputs = with_prefix(model, BATCH, *DirectEmbedder.for_model(model, 3, l=L)(BATCH))
    out = model.generate(inputs_embeds=inputs["inputs_embeds"], attention_mask=inputs["attention_mask"], max_new_tokens=4, do_sample=False)
    assert out.shape[0] == 3


# The gradient

def test_only_the_tasks_of_the_batch_have_a_gradient(model):
    phi = DirectEmbedder.for_model(model, 5, l=L)
    run(model, with_prefix(model, BATCH, *phi(BATCH))).loss.backward()
    assert phi.weight.grad.flatten(1).norm(dim=1).nonzero().flatten().tolist() == [0, 2]
    assert phi.weight.grad.shape == phi.weight.shape and not phi.weight.grad[[1, 3, 4]].any()


def test_gradient_agrees_with_finite_differences(precise):
    torch.manual_seed(0)
    phi = DirectEmbedder.for_model(precise, 3, l=2).double()
    def loss(weight): return run(precise, with_prefix(precise, BATCH, weight[BATCH["task"]], torch.ones(3, 2))).loss
    gradient, = torch.autograd.grad(run(precise, with_prefix(precise, BATCH, *phi(BATCH))).loss, phi.weight)
    with torch.no_grad():
        for _ in range(5):
            direction = torch.randn_like(phi.weight)
            difference = (loss(phi.weight + 1e-5 * direction) - loss(phi.weight - 1e-5 * direction)) / 2e-5
            assert difference.item() == pytest.approx((gradient * direction).sum().item(), rel=1e-5, abs=1e-7)


def test_the_hypergradient_passes_through(precise):
    phi = DirectEmbedder.for_model(precise, 3, l=2).double()
    theta = [p for p in precise.parameters() if p.requires_grad]
    def inner(): return run(precise, with_prefix(precise, BATCH, *phi(BATCH))).loss
    def outer(): return run(precise, BATCH).loss
    found, = hypergradient(inner, outer, theta, list(phi.parameters()), n_terms=0, gamma=1.0)
    # with M = 0 and gamma = 1 it is minus the derivative, w.r.t. phi, of the inner gradient times the outer gradient
    v1 = torch.autograd.grad(outer(), theta, allow_unused=True)
    def product(bump):
        with torch.no_grad(): phi.weight.add_(bump)
        g = torch.autograd.grad(inner(), theta, allow_unused=True)
        with torch.no_grad(): phi.weight.sub_(bump)
        return sum((a * b).sum() for a, b in zip(g, v1) if a is not None and b is not None).item()
    assert not found[1].any()
    for seed in range(3):
        direction = torch.randn(found.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        difference = (product(1e-5 * direction) - product(-1e-5 * direction)) / 2e-5
        assert -difference == pytest.approx((found * direction).sum().item(), rel=1e-5, abs=1e-7)


# What can be read from it

def test_encoder_mean_counts_real_positions_only(model):
    together = encoder_mean(model, BATCH)
    assert together.shape == (3, D) and not together.requires_grad
    for row, n in enumerate((5, 3, 4)):
        ids = BATCH["input_ids"][row:row + 1, :n]
        states = model.encoder(input_ids=ids).last_hidden_state
        assert torch.allclose(together[row], states[0].mean(0), atol=1e-5)


def test_encoder_mean_of_a_prefix(model):
    phi = DirectEmbedder.for_model(model, 3, l=L)
    prefix, mask = phi(BATCH)
    alone = encoder_mean(model, {"inputs_embeds": prefix, "attention_mask": mask})
    assert torch.allclose(alone[0], alone[2], atol=1e-6) and not torch.allclose(alone[0], alone[1])
    with_source = encoder_mean(model, with_prefix(model, BATCH, prefix, torch.zeros_like(mask)))
    assert torch.allclose(with_source, encoder_mean(model, BATCH), atol=1e-5)


def test_nearest_words_finds_the_words_themselves():
    tokenizer = train_tokenizer(["write every word of the list"] * 3, 320)
    model = new_t5(micro_config(len(tokenizer)))
    ids = tokenizer("write the list", return_tensors="pt")["input_ids"][:, :-1]
    vectors = model.shared(ids)
    found = nearest_words(model, tokenizer, 5 * vectors, k=4)
    assert len(found) == ids.numel() and all(len(row) == 4 for row in found)
    assert " ".join(row[0][0] for row in found) == "write the list"
    for row in found:
        assert row[0][1] == pytest.approx(1, abs=1e-5) and [c for _, c in row] == sorted((c for _, c in row), reverse=True)
    assert nearest_words(model, tokenizer, vectors[0, 0], k=1)[0][0][0] == found[0][0][0]
