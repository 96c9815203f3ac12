"""Learnable instructions: the right row, the right place in the input, and the right gradient."""
import copy
from types import MethodType, SimpleNamespace

import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn

from instop_nb.embedder import (
    DirectEmbedder, InstanceEmbedder, encoder_mean, instruction_start, masked_mean, nearest_words,
    normal_start, pad_texts, per_category, vocabulary_start, with_prefix,
)
from instop_nb.hypergradient import hypergradient
from instop_nb.natinst import Encoding
from instop_nb.micro import micro_config, new_t5, train_tokenizer
from instop_nb.tasks import Example, Task
from instop_nb.core import TaskError

torch.set_num_threads(1)
VOCABULARY, D, L = 60, 64, 3
BATCH = {
    "input_ids": torch.tensor([[9, 8, 7, 6, 1], [5, 4, 1, 0, 0], [3, 3, 3, 1, 0]]),
    "attention_mask": torch.tensor([[1] * 5, [1, 1, 1, 0, 0], [1, 1, 1, 1, 0]]),
    "labels": torch.tensor([[11, 12, 1], [13, 1, -100], [14, 15, 1]]),
    "task": torch.tensor([2, 0, 2]),
}
READ = {
    **BATCH, "instance_ids": torch.tensor([[9, 8, 7, 11], [5, 4, 13, 0], [3, 14, 0, 0]]),
    "instance_mask": torch.tensor([[1] * 4, [1, 1, 1, 0], [1, 1, 0, 0]]),
}


def exact(model):
    "Let T5's norm count in the model's own type; transformers' takes the mean in float32."
    def norm(m, x): return nn.functional.rms_norm(x, m.weight.shape, m.weight, m.variance_epsilon)
    for m in model.modules():
        if type(m).__name__ == "T5LayerNorm": m.forward = MethodType(norm, m)
    return model


@pytest.fixture
def model(): return new_t5(micro_config(VOCABULARY, d_model=D), seed=3).eval()


@pytest.fixture
def precise():
    return exact(
        new_t5(micro_config(VOCABULARY, d_model=16, d_kv=4, d_ff=16), seed=3).double().eval()
    )


def direct(n=4, l=L, seed=0):
    "A direct embedder of n tasks."
    return DirectEmbedder(torch.randn(n, l, D, generator=torch.Generator().manual_seed(seed)))


# The direct parameterization

def test_each_row_gets_the_matrix_of_its_task():
    phi = direct()
    prefix, mask = phi(BATCH)
    assert (
        prefix.shape == (3, L, D)
        and mask.shape == (3, L)
        and mask.dtype == torch.long
        and bool(mask.all())
    )
    for row, task in enumerate(BATCH["task"]): assert torch.equal(prefix[row], phi.weight[task])


def test_phi_is_one_parameter_that_is_saved_and_loaded():
    phi, other = direct(seed=1), direct(seed=2)
    assert [tuple(p.shape) for p in phi.parameters()] == [(4, L, D)] and not torch.equal(
        phi.weight, other.weight
    )
    other.load_state_dict(phi.state_dict())
    assert torch.equal(phi.weight, other.weight)


def test_for_model_takes_size_and_spread_of_the_words(model):
    with torch.no_grad(): model.shared.weight.mul_(7)
    phi = DirectEmbedder.for_model(model, 200, l=5)
    assert phi.weight.shape == (200, 5, D)
    assert phi.weight.std().item() == pytest.approx(model.shared.weight.std().item(), rel=0.02)
    assert DirectEmbedder.for_model(model, 2).weight.shape == (2, 64, D)


@pytest.mark.parametrize("shape", [(0, 4, 8), (3, 0, 8), (3, 4, 0), (3, 4)])
def test_a_weight_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"weight: shape \(.*give \[n_tasks, l, d\]"):
        DirectEmbedder(torch.ones(shape))


def test_a_mask_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"mask: shape \(3, 5\); give \(3, 4\)"):
        DirectEmbedder(torch.ones(3, 4, 8), torch.ones(3, 5))


def test_a_batch_without_task_says_what_is_missing():
    with pytest.raises(ValueError, match="no 'task' among.*Collator"): direct()({"input_ids": None})


def test_the_mask_of_a_task_goes_with_it_and_is_saved():
    mask = torch.tensor([[1, 1], [0, 1], [0, 0]])
    phi = DirectEmbedder(torch.ones(3, 2, 4), mask)
    assert phi(BATCH)[1].tolist() == [[0, 0], [1, 1], [0, 0]]
    assert set(phi.state_dict()) == {"weight", "mask"} and [
        name for name, _ in phi.named_parameters()
    ] == ["weight"]
    other = DirectEmbedder(torch.zeros(3, 2, 4))
    other.load_state_dict(phi.state_dict())
    assert torch.equal(other.mask, mask) and torch.equal(other.weight, phi.weight)


def test_what_is_given_as_a_start_is_copied():
    weight, mask = torch.zeros(2, 2, 4), torch.ones(2, 2, dtype=torch.long)
    phi = DirectEmbedder(weight, mask)
    with torch.no_grad(): phi.weight.add_(1)
    phi.mask.zero_()
    assert not weight.any() and mask.all()


# Starts

def test_normal_start_comes_from_the_seed_alone(model):
    state = torch.random.get_rng_state()
    first = normal_start(model, 4, L, seed=5)
    assert torch.equal(state, torch.random.get_rng_state())
    torch.manual_seed(99)
    assert torch.equal(first, normal_start(model, 4, L, seed=5)) and not torch.equal(
        first, normal_start(model, 4, L, seed=6)
    )
    assert torch.equal(DirectEmbedder.for_model(model, 4, L, seed=5).weight, first)


def test_normal_start_is_a_standard_draw_times_the_spread_of_the_words(model):
    expected = model.shared.weight.std() * torch.randn(
        4, L, D, generator=torch.Generator().manual_seed(7)
    )
    assert torch.allclose(normal_start(model, 4, L, seed=7), expected)


def test_vocabulary_start_takes_different_words_out_of_the_first(model):
    start = vocabulary_start(model, 50, l=6, n_words=10, seed=1)
    found = (start[:, :, None] == model.shared.weight[:10]).all(-1)
    assert found.sum(-1).eq(1).all()
    ids = found.long().argmax(-1)
    assert all(len(set(row)) == 6 for row in ids.tolist()) and set(ids.flatten().tolist()) == set(
        range(10)
    )
    assert torch.equal(
        start, vocabulary_start(model, 50, l=6, n_words=10, seed=1)
    ) and not torch.equal(start, vocabulary_start(model, 50, l=6, n_words=10))


def test_vocabulary_start_does_not_run_out_of_words(model):
    assert vocabulary_start(model, 1, l=VOCABULARY).shape == (1, VOCABULARY, D)
    for l in (0, VOCABULARY + 1):
        with pytest.raises(ValueError, match=f"l: {l}; give 1 to {VOCABULARY}"):
            vocabulary_start(model, 1, l=l)


def named(name, category, **fields):
    return Task(
        name, fields.pop("definition", [f"{name} the list."]), categories=[category], **fields
    )


def test_per_category_shares_the_start_and_asks_for_as_many_as_there_are():
    asked = []
    def start(n): asked.append(n); return torch.arange(n * 2.).view(n, 1, 2)
    weight = per_category(
        start, [named("a", "x"), named("b", "w"), named("c", "x"), named("d", "v")]
    )
    assert asked == [3] and weight.tolist() == [[[4, 5]], [[2, 3]], [[4, 5]], [[0, 1]]]
    phi = DirectEmbedder(weight)
    phi(BATCH)[0].sum().backward()
    # afterwards each task learns alone
    assert phi.weight.grad.any(2).any(1).tolist() == [True, False, True, False]


TEXTS = train_tokenizer(
    ["Definition: copy the list of words. Positive Example 1 - Input: a. Output: b."] * 3, 320
)
TASKS = [
    named("a", "x", definition=["copy the list"], positive=[Example("a", "b"), Example("c", "d")]),
    named("b", "x", definition=["copy the list of words, the list"]),
]


def test_instruction_start_is_the_text_padded_in_front():
    model = new_t5(micro_config(len(TEXTS)))
    short, long = (
        TEXTS(text, add_special_tokens=False)["input_ids"]
        for text in (
            "Definition: copy the list.\n\n", "Definition: copy the list of words, the list.\n\n",
        )
    )
    weight, mask = instruction_start(model, TEXTS, TASKS, l=len(short) + 2)
    assert mask.tolist() == [[0, 0] + [1] * len(short), [1] * (len(short) + 2)]
    assert torch.equal(weight[0, 2:], model.shared.weight[short]) and torch.equal(
        weight[1], model.shared.weight[long[: len(short) + 2]]
    )
    assert not weight.requires_grad


def test_instruction_start_of_the_released_code_ends_and_is_padded_behind_and_seen():
    model = new_t5(micro_config(len(TEXTS)))
    ids = TEXTS("Definition: copy the list.\n\n")["input_ids"]
    weight, mask = instruction_start(model, TEXTS, TASKS, l=len(ids) + 3, faithful=True)
    assert ids[-1] == TEXTS.eos_token_id and mask.all()
    assert torch.equal(weight[0], model.shared.weight[ids + [TEXTS.pad_token_id] * 3])
    cut = instruction_start(model, TEXTS, TASKS, l=4, faithful=True)[0]
    assert torch.equal(cut[0], model.shared.weight[ids[:3] + [TEXTS.eos_token_id]])


def test_instruction_start_of_examples():
    model = new_t5(micro_config(len(TEXTS)))
    text = (
        " Positive Example 1 -\nInput: a.\n Output: b.\n\n"
        " Positive Example 2 -\nInput: c.\n Output: d.\n\n"
    )
    ids = TEXTS(text, add_special_tokens=False)["input_ids"]
    weight, mask = instruction_start(
        model, TEXTS, TASKS[:1], l=len(ids), encoding=Encoding(definition=False)
    )
    assert mask.all() and torch.equal(weight[0], model.shared.weight[ids])
    with pytest.raises(TaskError, match="b: instruction: found ''"):
        instruction_start(model, TEXTS, TASKS, encoding=Encoding(definition=False))


def test_a_definition_as_numbers_is_the_definition():
    model = new_t5(micro_config(len(TEXTS)), seed=1).eval()
    ids = TEXTS("Definition: copy the list.\n\n", add_special_tokens=False)["input_ids"]
    batch = {
        "input_ids": torch.tensor([[30, 31, 1]]), "labels": torch.tensor([[32, 1]]),
        "task": torch.tensor([0]),
    }
    phi = DirectEmbedder(*instruction_start(model, TEXTS, TASKS, l=len(ids) + 9))
    as_text = model(input_ids=torch.tensor([ids + [30, 31, 1]]), labels=batch["labels"]).logits
    assert torch.allclose(
        run(model, with_prefix(model, batch, *phi(batch))).logits, as_text, atol=1e-5
    )


@given(
    st.lists(st.lists(st.integers(1, 9), max_size=5), min_size=1, max_size=4), st.integers(5, 7),
    st.booleans(),
)
def test_pad_texts_keeps_the_texts(ids, length, behind):
    padded, mask = pad_texts(ids, length, pad_id=0, behind=behind)
    assert padded.shape == mask.shape == (len(ids), length)
    for text, row, seen in zip(ids, padded, mask):
        assert row[seen == 1].tolist() == text and not row[seen == 0].any()
        ordered = sorted(seen.tolist(), reverse=behind)
        assert seen.tolist() == ordered


# Instance conversion

def test_masked_mean_by_hand():
    vectors = torch.tensor(
        [[[1.0, 2], [3, 4], [100, 100]], [[5, 6], [100, 100], [100, 100]], [[7, 7], [7, 7], [7, 7]]]
    )
    assert masked_mean(vectors, torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 0]])).tolist() == [
        [2, 3], [5, 6], [0, 0],
    ]
    assert masked_mean(vectors[None], torch.ones(1, 3, 3)).shape == (1, 3, 2)


def test_equations_4_and_5_by_hand():
    words = torch.tensor([[9., 9, 9], [1, 0, 2], [0, 1, 4]])
    phi = InstanceEmbedder(
        SimpleNamespace(get_input_embeddings=lambda: SimpleNamespace(weight=words)), l=2
    )
    assert torch.equal(phi.V, words)
    phi.W.data = torch.tensor(
        [[[1.0, 0, 0], [0, 1, 0], [0, 0, 1]], [[0, 0, 1], [1, 1, 0], [0, 0, 0]]]
    )
    prefix, mask = phi(
        {
            "instance_ids": torch.tensor([[1, 2], [2, 0]]),
            "instance_mask": torch.tensor([[1, 1], [1, 0]]),
        }
    )
    assert prefix.tolist() == [
        [[0.5, 0.5, 3], [3, 1, 0]], [[0, 1, 4], [4, 1, 0]],
    ] and mask.tolist() == [[1, 1], [1, 1]]


def test_instance_embedder_does_not_look_at_the_task_or_at_padding(model):
    phi = InstanceEmbedder(model, l=L)
    prefix, _ = phi(READ)
    assert torch.equal(phi({**READ, "task": torch.tensor([9, 9, 9])})[0], prefix)
    assert torch.equal(
        phi({**READ, "instance_ids": READ["instance_ids"] + 5 * (1 - READ["instance_mask"])})[0],
        prefix,
    )
    alone = {name: READ[name][2:, :2] for name in ("instance_ids", "instance_mask")}
    assert torch.allclose(phi(alone)[0][0], prefix[2], atol=1e-6)


def test_instance_embedder_is_no_part_of_the_model_and_starts_from_its_seed(model):
    state = torch.random.get_rng_state()
    phi = InstanceEmbedder(model, l=2, seed=4)
    assert torch.equal(state, torch.random.get_rng_state())
    assert {name: tuple(p.shape) for name, p in phi.named_parameters()} == {
        "V": (VOCABULARY, D), "W": (2, D, D),
    }
    assert (
        torch.equal(phi.V, model.shared.weight)
        and phi.V.data_ptr() != model.shared.weight.data_ptr()
    )
    assert torch.equal(phi.W, InstanceEmbedder(model, l=2, seed=4).W) and not torch.equal(
        phi.W, InstanceEmbedder(model, l=2, seed=5).W
    )
    assert phi.W.std().item() == pytest.approx(D ** -.5, rel=.03)
    assert InstanceEmbedder(model).W.shape == (64, D, D)


def test_gradient_reaches_the_words_that_were_read_all_of_W_and_the_model(model):
    phi = InstanceEmbedder(model, l=L)
    run(model, with_prefix(model, READ, *phi(READ))).loss.backward()
    assert phi.V.grad.any(1).nonzero().flatten().tolist() == sorted({9, 8, 7, 11, 5, 4, 13, 3, 14})
    assert phi.W.grad.any(2).any(1).all() and model.shared.weight.grad.any()


def test_errors_of_the_instance_embedder(model):
    with pytest.raises(ValueError, match="l: 0"): InstanceEmbedder(model, l=0)
    with pytest.raises(ValueError, match="no 'instance_ids' among.*tokenize_tasks.*instance='own'"):
        InstanceEmbedder(model, l=2)(BATCH)


@pytest.mark.parametrize(
    "make", [lambda m: DirectEmbedder.for_model(m, 3, L), lambda m: InstanceEmbedder(m, L)],
    ids=["direct", "instance"],
)
def test_embedders_move_are_copied_and_stay_float32_beside_a_bf16_model(make):
    model = new_t5(micro_config(VOCABULARY)).to(torch.bfloat16)
    phi = make(model)
    assert all(p.dtype == torch.float32 for p in phi.parameters())
    inputs = with_prefix(model, READ, *phi(READ))
    assert inputs["inputs_embeds"].dtype == torch.bfloat16
    run(model, inputs).loss.backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.any() for p in phi.parameters())
    double = copy.deepcopy(phi).double()
    assert double(READ)[0].dtype == torch.float64 and torch.allclose(
        double(READ)[0].float(), phi(READ)[0]
    )
    assert all(
        tensor.device.type == "meta"
        for tensor in copy.deepcopy(phi).to("meta").state_dict().values()
    )


# The door

def run(model, batch):
    return model(
        **{
            name: value
            for name, value in batch.items()
            if name != "task" and "instance" not in name
        }
    )


def test_prefix_stands_before_the_source_and_all_else_stays(model):
    phi = DirectEmbedder.for_model(model, 3, l=L)
    batch = {**BATCH, "anything": "else"}
    inputs = with_prefix(model, batch, *phi(batch))
    assert (
        set(inputs) == {"inputs_embeds", "attention_mask", "labels", "task", "anything"}
        and inputs["anything"] == "else"
    )
    assert inputs["labels"] is BATCH["labels"] and set(batch) == {*BATCH, "anything"}
    assert torch.equal(inputs["inputs_embeds"][:, :L], phi.weight[BATCH["task"]])
    assert torch.equal(inputs["inputs_embeds"][:, L:], model.shared(BATCH["input_ids"]))
    assert torch.equal(
        inputs["attention_mask"],
        torch.cat([torch.ones(3, L, dtype=torch.long), BATCH["attention_mask"]], 1),
    )


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
    assert (masked - plain).abs().max() < 1e-10 * plain.abs().max() and (
        shown - plain
    ).abs().max() > 0.01 * plain.abs().max()


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
    out = model.generate(
        inputs_embeds=inputs["inputs_embeds"], attention_mask=inputs["attention_mask"],
        max_new_tokens=4, do_sample=False,
    )
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
    def loss(weight):
        return run(
            precise, with_prefix(precise, BATCH, weight[BATCH["task"]], torch.ones(3, 2))
        ).loss
    (gradient,) = torch.autograd.grad(
        run(precise, with_prefix(precise, BATCH, *phi(BATCH))).loss, phi.weight
    )
    with torch.no_grad():
        for _ in range(5):
            direction = torch.randn_like(phi.weight)
            difference = (
                loss(phi.weight + 1e-5 * direction) - loss(phi.weight - 1e-5 * direction)
            ) / 2e-5
            assert difference.item() == pytest.approx(
                (gradient * direction).sum().item(), rel=1e-5, abs=1e-7
            )


def test_the_hypergradient_passes_through(precise):
    phi = DirectEmbedder.for_model(precise, 3, l=2).double()
    theta = [p for p in precise.parameters() if p.requires_grad]
    def inner(): return run(precise, with_prefix(precise, BATCH, *phi(BATCH))).loss
    def outer(): return run(precise, BATCH).loss
    found, = hypergradient(inner, outer, theta, list(phi.parameters()), n_terms=0, gamma=1.0)
    # with M = 0 and gamma = 1 it is minus the derivative, w.r.t. phi, of the inner gradient times
    # the outer gradient
    v1 = torch.autograd.grad(outer(), theta, allow_unused=True)
    def product(bump):
        with torch.no_grad(): phi.weight.add_(bump)
        g = torch.autograd.grad(inner(), theta, allow_unused=True)
        with torch.no_grad(): phi.weight.sub_(bump)
        return sum((a * b).sum() for a, b in zip(g, v1) if a is not None and b is not None).item()
    assert not found[1].any()
    for seed in range(3):
        direction = torch.randn(
            found.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
        )
        difference = (product(1e-5 * direction) - product(-1e-5 * direction)) / 2e-5
        assert -difference == pytest.approx((found * direction).sum().item(), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize(
    "make", [lambda m: DirectEmbedder.for_model(m, 3, l=2), lambda m: InstanceEmbedder(m, l=2)],
    ids=["direct", "instance"],
)
def test_both_products_give_one_hypergradient(precise, make):
    phi = make(precise).double()
    def inner(): return run(precise, with_prefix(precise, READ, *phi(READ))).loss
    def outer(): return run(precise, BATCH).loss
    def found(product):
        return hypergradient(
            inner, outer, list(precise.parameters()), list(phi.parameters()), n_terms=2, gamma=1e-3,
            product=product,
        )
    for exact, differences, p in zip(found("exact"), found("differences"), phi.parameters()):
        assert (
            exact.shape == p.shape
            and exact.any()
            and (exact - differences).norm() < 1e-6 * exact.norm()
        )


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
        assert row[0][1] == pytest.approx(1, abs=1e-5) and [c for _, c in row] == sorted(
            (c for _, c in row), reverse=True
        )
    assert nearest_words(model, tokenizer, vectors[0, 0], k=1)[0][0][0] == found[0][0][0]
