"""Chosen instructions: the right text, its gradient by straight-through, and what the model sees
of it."""
import copy
import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn

from instop_nb.batches import Collator, tokenize_tasks
from instop_nb.embedder import with_prefix
from instop_nb.extractor import (
    Candidates, DirectExtractor, Extractor, InstanceExtractor, draw_candidates, exemplar, selection,
    straight_through, tokenize_candidates,
)
from instop_nb.hypergradient import hypergradient
from instop_nb.natinst import Encoding, encode
from instop_nb.micro import micro_config, new_t5, train_tokenizer
from instop_nb.tasks import Example, Instance, Task, load_tasks
from instop_nb.core import TaskError

torch.set_num_threads(1)
VOCABULARY, D = 60, 16
BATCH = {
    "input_ids": torch.tensor([[9, 8, 7, 6, 1], [5, 4, 1, 0, 0], [3, 3, 3, 1, 0]]),
    "attention_mask": torch.tensor([[1] * 5, [1, 1, 1, 0, 0], [1, 1, 1, 1, 0]]),
    "labels": torch.tensor([[11, 12, 1], [13, 1, -100], [14, 15, 1]]),
    "task": torch.tensor([2, 0, 2]), "instance": torch.tensor([1, 0, 3]),
    "instance_ids": torch.tensor([[9, 8, 7, 11], [5, 4, 13, 0], [3, 14, 0, 0]]),
    "instance_mask": torch.tensor([[1] * 4, [1, 1, 1, 0], [1, 1, 0, 0]]),
}


def random_candidates(n_tasks=3, n=4, length=6, seed=1):
    "Candidates of random tokens and lengths, padded in front; candidate j is instance j."
    rng = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, length + 1, (n_tasks, n, 1), generator=rng)
    mask = (torch.arange(length) >= length - lengths).long()
    return Candidates(
        torch.randint(3, VOCABULARY, (n_tasks, n, length), generator=rng) * mask, mask, mask,
        torch.arange(n).repeat(n_tasks, 1),
    )


CANDIDATES = random_candidates()
EVERY = [
    (DirectExtractor, {}), (DirectExtractor, {"soft": True}),
    (DirectExtractor, {"exclude_own": True}), (InstanceExtractor, {}),
    (InstanceExtractor, {"soft": True}), (InstanceExtractor, {"exclude_own": True}),
]
each_extractor = pytest.mark.parametrize(
    "kind, options", EVERY, ids=[f"{k.__name__} {' '.join(o)}".strip() for k, o in EVERY]
)


@pytest.fixture
def model(): return new_t5(micro_config(VOCABULARY, d_model=D, d_kv=4, d_ff=16), seed=3).eval()


@pytest.fixture
def precise(model):
    "The model in float64; transformers' norm counts in float32, so it is replaced."
    model.double()
    for m in model.modules():
        if type(m).__name__ == "T5LayerNorm":
            m.forward = lambda x, m=m: nn.functional.rms_norm(
                x, m.weight.shape, m.weight, m.variance_epsilon
            )
    return model


def run(model, batch):
    return model(
        **{
            name: value
            for name, value in batch.items()
            if name != "task" and "instance" not in name
        }
    )
def loss(model, phi, batch=BATCH): return run(model, with_prefix(model, batch, *phi(batch))).loss


def spread(phi, seed=0):
    "The extractor with parameters that make clear choices."
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in phi.parameters(): p.copy_(torch.randn(p.shape, generator=rng))
    return phi


# Straight-through

logits = st.lists(st.floats(-20, 20), min_size=1, max_size=6)


@given(logits)
def test_forward_is_exactly_one_hot(values):
    p = torch.tensor(values).softmax(-1).requires_grad_()
    out = straight_through(p)
    assert sorted(out.tolist()) == [0.0] * (len(values) - 1) + [1.0] and out[p.argmax()] == 1


@given(logits, st.integers(0, 99))
def test_backward_is_that_of_softmax(values, seed):
    w = torch.randn(len(values), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    v = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    hard, = torch.autograd.grad((straight_through(v.softmax(-1)) * w).sum(), v)
    soft, = torch.autograd.grad((v.softmax(-1) * w).sum(), v)
    p = v.softmax(-1).detach()
    assert torch.equal(hard, soft) and torch.allclose(hard, p * (w - (w * p).sum()), atol=1e-12)


def test_of_equals_the_first_is_taken():
    assert straight_through(torch.full((2, 5), .2)).tolist() == [[1, 0, 0, 0, 0]] * 2


def test_the_estimate_has_a_gradient_of_its_own():
    "The gradient of straight-through can be differentiated again: d/dv of p is not constant."
    v = torch.tensor([1., 2., 3.], dtype=torch.float64, requires_grad=True)
    w = torch.tensor([1., -2., .5], dtype=torch.float64)
    def second(f):
        g, = torch.autograd.grad((f(v.softmax(-1)) * w).sum(), v, create_graph=True)
        return torch.autograd.grad(g[0], v)[0]
    assert (
        torch.equal(second(straight_through), second(lambda p: p))
        and second(straight_through).any()
    )


# Candidates

TOKENIZER = train_tokenizer(
    [" Positive Example 1 -\nInput: one two three four.\n Output: five six.\n\n"] * 3
    + ["Now complete the following example -\nInput: seven."], 400,
)


def make_task(name, n=6, references=("five", "six")):
    return Task(
        name, ["Count."],
        instances=[
            Instance(
                f"{name}-{i}", " ".join(["one", "two"][: 1 + i % 2] * (1 + i)),
                [f"{r} {i}" for r in references],
            )
            for i in range(n)
        ],
    )


TASKS = [make_task("a"), make_task("b"), make_task("c", 9)]


def test_exemplar_is_what_a_one_shot_model_reads():
    assert exemplar("1 and 2", "3") == " Positive Example 1 -\nInput: 1 and 2.\n Output: 3.\n\n"
    assert (
        exemplar(" a? ", "b!", faithful=True) == " Positive Example -\nInput: a?\n Output: b!\n\n"
    )
    task = Task(
        "t", ["Add."], positive=[Example("1 and 2", "3")], instances=[Instance("i", "4", ["5"])]
    )
    assert encode(task, task.instances[0], Encoding(definition=False, n_pos=1)).startswith(
        exemplar("1 and 2", "3") + "Now complete"
    )


def test_the_blank_of_the_released_code():
    assert exemplar(faithful=True) == " Positive Example -\nInput: .\n Output: .\n\n"


def words(candidates, t, n):
    return TOKENIZER.decode(candidates.ids[t, n][candidates.mask[t, n] == 1])


def test_ragged_candidates_are_padded_in_front_and_masked():
    found = tokenize_candidates([["one", "one two three"], ["", "four five"]], TOKENIZER)
    assert found.mask.tolist() == [[[0, 0, 1], [1, 1, 1]], [[0, 0, 0], [0, 1, 1]]] and torch.equal(
        found.shown, found.mask
    )
    assert [[words(found, t, n) for n in (0, 1)] for t in (0, 1)] == [
        ["one", "one two three"], ["", "four five"],
    ]
    assert (
        found.ids[found.mask == 0] == TOKENIZER.pad_token_id
    ).all() and found.number.tolist() == [[-1, -1]] * 2
    assert TOKENIZER.eos_token_id not in found.ids


def test_faithful_candidates_are_padded_behind_and_shown_whole():
    found = tokenize_candidates([["one", "one two three"]], TOKENIZER, faithful=True)
    assert found.mask.tolist() == [[[1, 0, 0], [1, 1, 1]]] and found.shown.all()
    assert (
        found.ids[0, 0].tolist()
        == TOKENIZER("one", add_special_tokens=False)["input_ids"] + [TOKENIZER.pad_token_id] * 2
    )


@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 60))
def test_a_long_exemplar_is_cut_as_a_pair_of_texts(n_input, n_output, limit):
    """The longer half is cut first, as the library does with two texts that the released code
    gives it."""
    source, target = " ".join(["one"] * n_input), " ".join(["two"] * n_output)
    text = exemplar(source, target)
    whole, head = (
        TOKENIZER(part, add_special_tokens=False)["input_ids"]
        for part in (text, text[: text.index("\n Output:")])
    )
    ids = tokenize_candidates([[text]], TOKENIZER, limit).ids[0, 0].tolist()
    if len(whole) <= limit:
        assert ids == whole
        return
    a, b = whole[:len(head)], whole[len(head):]
    assert len(ids) == limit
    if len(b) <= limit // 2: expected = limit - len(b), len(b)
    elif len(a) <= limit - limit // 2: expected = len(a), limit - len(a)
    else: expected = limit - limit // 2, limit // 2
    assert ids == a[:expected[0]] + b[:expected[1]]


def test_a_long_text_without_output_loses_its_end():
    ids = TOKENIZER("one two three four five", add_special_tokens=False)["input_ids"]
    assert (
        tokenize_candidates([["one two three four five"]], TOKENIZER, 3).ids[0, 0].tolist()
        == ids[:3]
    )


@pytest.mark.parametrize(
    "texts, message",
    [
        ([["a"], []], r"\[0, 1\] candidates"), ([["a"], ["b", "c"]], r"\[1, 2\]"),
        ([[], []], r"\[0\] candidates"), ([], "no candidates"),
    ],
)
def test_each_task_needs_the_same_number(texts, message):
    with pytest.raises(ValueError, match=f"texts: {message}.*the same number, 1 or more"):
        tokenize_candidates(texts, TOKENIZER)


def test_a_limit_of_nothing_is_refused():
    with pytest.raises(ValueError, match="max_length: 0; give 1"):
        tokenize_candidates([["a"]], TOKENIZER, 0)


def test_drawn_candidates_are_instances_and_say_which():
    found = draw_candidates(TASKS, TOKENIZER, n=4, seed=3)
    assert found.ids.shape[:2] == found.number.shape == (3, 4)
    outputs = set()
    for t, task in enumerate(TASKS):
        assert len(set(found.number[t].tolist())) == 4 and found.number[t].min() >= 0
        for n, i in enumerate(found.number[t].tolist()):
            texts = {
                output: exemplar(task.instances[i].input, output)
                for output in task.instances[i].output
            }
            got = TOKENIZER(words(found, t, n))["input_ids"]
            chosen = [
                output
                for output, text in texts.items()
                if TOKENIZER(
                    TOKENIZER.decode(TOKENIZER(text, add_special_tokens=False)["input_ids"])
                )["input_ids"]
                == got
            ]
            assert len(chosen) == 1
            outputs.add(chosen[0].split()[0])
    assert outputs == {"five", "six"}  # the reference is drawn, too


def test_the_draw_depends_on_seed_and_task_only():
    first = draw_candidates(TASKS, TOKENIZER, n=4, seed=3)
    assert torch.equal(first.number, draw_candidates(TASKS, TOKENIZER, n=4, seed=3).number)
    assert torch.equal(
        first.number[1:2], draw_candidates(TASKS[1:2], TOKENIZER, n=4, seed=3).number
    )
    assert not torch.equal(first.number, draw_candidates(TASKS, TOKENIZER, n=4, seed=4).number)


def test_proof_of_concept_has_a_blank_first():
    found = draw_candidates(TASKS, TOKENIZER, n=1, blanks=1)
    assert found.number[:, 0].tolist() == [-1] * 3 and (found.number[:, 1] >= 0).all()
    assert (
        found.ids[0, 0][found.mask[0, 0] == 1].tolist()
        == TOKENIZER(exemplar(), add_special_tokens=False)["input_ids"]
    )
    faithful = draw_candidates(TASKS, TOKENIZER, n=1, blanks=1, faithful=True)
    assert (
        faithful.ids[0, 0][faithful.mask[0, 0] == 1].tolist()
        == TOKENIZER(exemplar(faithful=True), add_special_tokens=False)["input_ids"]
    )
    assert faithful.shown.all() and not faithful.mask.all()


@pytest.mark.parametrize(
    "tasks, n, message",
    [
        (TASKS, 7, "a: candidates: found 7; draw between 1 and 6"),
        (TASKS, 0, "a: candidates: found 0"),
        ([make_task("empty", 0)], 1, "empty: candidates: found 1; draw between 1 and 0"),
        (
            [make_task("dumb", 2, ())], 2,
            r"dumb: output of instance dumb-.: found \[\]; give it at least one",
        ),
    ],
)
def test_tasks_that_cannot_give_candidates(tasks, n, message):
    with pytest.raises(TaskError, match=message): draw_candidates(tasks, TOKENIZER, n=n)


# Equations 6 to 9 by hand

TABLE = torch.tensor([[9., 9], [1, 2], [3, 4]])  # padding, a, b
# "a b" and "b"
AB = Candidates(
    torch.tensor([[[1, 2], [0, 2]]]), *[torch.tensor([[[1, 1], [0, 1]]])] * 2,
    torch.tensor([[0, 1]]),
)
ONE = {
    "task": torch.tensor([0]), "instance_ids": torch.tensor([[1, 0]]),
    "instance_mask": torch.tensor([[1, 0]]),
}


def readable():
    table = nn.Embedding.from_pretrained(TABLE.clone(), freeze=False)
    return SimpleNamespace(get_input_embeddings=lambda: table)


@pytest.mark.parametrize(
    "v, expected, mask, p",
    [
        ([math.log(3), 0], [[1, 2], [3, 4]], [1, 1], [0.75, 0.25]),
        ([0, math.log(3)], [[0, 0], [3, 4]], [0, 1], [0.25, 0.75]),
        ([5.0, 5.0], [[1, 2], [3, 4]], [1, 1], [0.5, 0.5]),
    ],
)
def test_direct_extractor_by_hand(v, expected, mask, p):
    phi = DirectExtractor(readable(), AB)
    phi.v.data = torch.tensor([v])
    prefix, seen = phi(ONE)
    assert (
        torch.allclose(phi.probability(ONE), torch.tensor([p]))
        and prefix.tolist() == [expected]
        and seen.tolist() == [mask]
    )


def test_faithful_padding_is_read_and_seen():
    phi = DirectExtractor(
        readable(),
        AB._replace(
            ids=torch.tensor([[[1, 2], [2, 0]]]), mask=torch.tensor([[[1, 1], [1, 0]]]),
            shown=torch.ones(1, 2, 2, dtype=torch.long),
        ),
    )
    phi.v.data = torch.tensor([[0., 1]])
    prefix, mask = phi(ONE)
    assert prefix.tolist() == [[[3, 4], [9, 9]]] and mask.tolist() == [[1, 1]]


def test_the_expectation_by_hand():
    phi = DirectExtractor(readable(), AB, soft=True)
    phi.v.data = torch.tensor([[0., math.log(3)]])
    prefix, mask = phi(ONE)
    assert torch.allclose(prefix, torch.tensor([[[.25, .5], [3, 4]]])) and mask.tolist() == [[1, 1]]


def test_equation_7_by_hand():
    phi = InstanceExtractor(readable(), AB)
    # h_i = (1, 2), W h_i = (5, 2); h_1 = (2, 3), h_2 = (3, 4)
    phi.W.data = torch.tensor([[1., 2], [0, 1]])
    assert phi.logits(ONE).tolist() == [[16, 23]]
    assert phi(ONE)[0].tolist() == [[[0, 0], [3, 4]]]
    phi.W.data = -phi.W.data
    assert phi(ONE)[0].tolist() == [[[1, 2], [3, 4]]]


def test_the_logits_begin_tied_so_that_the_first_is_chosen(model):
    phi = DirectExtractor(model, CANDIDATES)
    assert torch.equal(phi.v, torch.ones(3, 4)) and selection(phi, BATCH).chosen.tolist() == [
        0, 0, 0,
    ]


def test_gradient_of_the_logits_by_hand():
    """dL/dv_j = p_j (g.E_j - sum_k p_k g.E_k), where g is the gradient of the prefix, and
    padding is zero."""
    phi = DirectExtractor(readable(), AB)
    phi.v.data = torch.tensor([[0., math.log(3)]])
    g = torch.tensor([[[1., -1], [2, 5]]])
    (phi(ONE)[0] * g).sum().backward()
    each = torch.tensor([(1 - 2) + (6 + 20), 6. + 20])
    p = torch.tensor([.25, .75])
    assert torch.allclose(phi.v.grad[0], p * (each - (p * each).sum()))


# The module in a model

def test_the_choice_is_the_text(model):
    phi = spread(DirectExtractor(model, CANDIDATES))
    for row in range(3):
        one = {name: value[row:row + 1] for name, value in BATCH.items()}
        t = one["task"].item()
        best = phi.v[t].argmax()
        chosen = CANDIDATES.ids[t, best][CANDIDATES.mask[t, best] == 1]
        source = one["input_ids"][0][one["attention_mask"][0] == 1]
        as_text = model(input_ids=torch.cat([chosen, source])[None], labels=one["labels"])
        assert torch.allclose(
            run(model, with_prefix(model, one, *phi(one))).logits, as_text.logits, atol=1e-5
        )


@each_extractor
def test_values_do_not_depend_on_whether_a_gradient_is_wanted(model, kind, options):
    phi = spread(kind(model, CANDIDATES, **options))
    prefix, mask = phi(BATCH)
    phi.requires_grad_(False)
    frozen, frozen_mask = phi(BATCH)
    assert torch.equal(prefix, frozen) and torch.equal(mask, frozen_mask) and prefix.requires_grad


def test_a_frozen_choice_reads_nothing_but_the_chosen(model):
    phi, read = spread(DirectExtractor(model, CANDIDATES)), []
    embed = phi.embed
    phi.embed = lambda ids: read.append(ids.numel()) or embed(ids)
    phi(BATCH); phi.requires_grad_(False)(BATCH)
    assert read[0] == 4 * read[1]


def test_the_prefix_is_as_long_as_the_longest_candidate_of_the_batch(model):
    short = CANDIDATES._replace(
        **{
            name: torch.cat([torch.zeros(3, 4, 5, dtype=torch.long), getattr(CANDIDATES, name)], -1)
            for name in ("ids", "mask", "shown")
        }
    )
    for kind in (DirectExtractor, InstanceExtractor):
        a, b = spread(kind(model, CANDIDATES)), spread(kind(model, short))
        assert torch.equal(a(BATCH)[0], b(BATCH)[0]) and torch.equal(a(BATCH)[1], b(BATCH)[1])


def test_visible_padding_goes_as_far_as_the_longest_of_the_batch(model):
    "As in the released code, whose collator pads the candidates of one batch."
    texts = tokenize_candidates(
        [["one", "one two"], ["one two three four", "one"]], TOKENIZER, faithful=True
    )
    phi = DirectExtractor(model, texts._replace(ids=texts.ids % VOCABULARY))
    prefix, mask = phi({"task": torch.tensor([0, 0])})
    assert prefix.shape[1] == 2 and mask.tolist() == [[1, 1]] * 2
    assert phi({"task": torch.tensor([0, 1])})[1].tolist() == [[1, 1, 1, 1]] * 2


def test_rows_of_several_tasks_get_their_own_candidates(model):
    phi = spread(DirectExtractor(model, CANDIDATES))
    together, mask = phi(BATCH)
    for row in range(3):
        alone, seen = phi({"task": BATCH["task"][row:row + 1]})
        l = alone.shape[1]
        assert (
            torch.equal(together[row, -l:], alone[0])
            and not together[row, :-l].any()
            and mask[row].sum() == seen.sum()
        )


@each_extractor
def test_v_theta_is_not_phi_but_learns(model, kind, options):
    phi = spread(kind(model, CANDIDATES, **options))
    assert {name for name, _ in phi.named_parameters()} == (
        {"v"} if kind is DirectExtractor else {"V", "W"}
    )
    assert not {p.data_ptr() for p in phi.parameters()} & {p.data_ptr() for p in model.parameters()}
    phi(BATCH)[0].square().sum().backward()
    assert model.shared.weight.grad.any() and all(p.grad.any() for p in phi.parameters())


def test_a_hard_choice_moves_only_the_words_that_it_shows(model):
    phi = spread(DirectExtractor(model, CANDIDATES))
    phi(BATCH)[0].square().sum().backward()
    chosen = selection(phi, BATCH).chosen
    at = BATCH["task"], chosen
    assert model.shared.weight.grad.any(1).nonzero().flatten().tolist() == sorted(
        set(CANDIDATES.ids[at][CANDIDATES.mask[at] == 1].tolist())
    )


def test_the_table_of_the_model_is_looked_up_anew(model):
    phi = DirectExtractor(model, CANDIDATES)
    before = phi(BATCH)[0].detach()
    with torch.no_grad(): model.shared.weight.mul_(2)
    assert torch.equal(phi(BATCH)[0], 2 * before)


def test_an_empty_text_that_is_chosen_has_no_gradient(precise):
    texts = tokenize_candidates([["", "one two"]] * 3, TOKENIZER)
    phi = DirectExtractor(precise, texts._replace(ids=texts.ids % VOCABULARY)).double()
    loss(precise, phi).backward()
    assert selection(phi, BATCH).chosen.tolist() == [0, 0, 0] and phi.v.grad.abs().max() < 1e-12
    phi.v.data[:, 1] = 2
    phi.v.grad = None
    loss(precise, phi).backward()
    assert phi.v.grad.abs().max() > 1e-6


def test_only_empty_texts_are_no_prefix(precise):
    empty = tokenize_candidates([["", ""]] * 3, TOKENIZER)
    phi = DirectExtractor(precise, empty).double()
    assert phi(BATCH)[0].shape == (3, 0, D) and torch.allclose(
        loss(precise, phi), run(precise, BATCH).loss
    )


# Not itself

@pytest.mark.parametrize("kind", [DirectExtractor, InstanceExtractor])
def test_an_instance_is_not_its_own_exemplar(model, kind):
    free, strict = (
        spread(kind(model, CANDIDATES)), spread(kind(model, CANDIDATES, exclude_own=True)),
    )
    p, q = free.probability(BATCH), strict.probability(BATCH)
    for row, own in enumerate(BATCH["instance"].tolist()):
        others = [n for n in range(4) if n != own]
        assert q[row, own] == 0 and torch.allclose(
            q[row, others], p[row, others] / p[row, others].sum()
        )
    assert torch.equal(strict.probability({**BATCH, "instance": torch.tensor([7, 8, 9])}), p)


def test_a_blank_is_nobodys_own(model):
    with_blank = CANDIDATES._replace(number=torch.full((3, 4), -1))
    assert (DirectExtractor(model, with_blank, exclude_own=True).probability(BATCH) == .25).all()


def test_errors_of_extractors(model):
    with pytest.raises(ValueError, match="exclude_own: there is 1 candidate"):
        DirectExtractor(model, random_candidates(n=1), exclude_own=True)
    with pytest.raises(ValueError, match="no 'instance' among.*instance='own'"):
        DirectExtractor(model, CANDIDATES, exclude_own=True)({"task": BATCH["task"]})
    with pytest.raises(ValueError, match="no 'instance_ids' among"):
        InstanceExtractor(model, CANDIDATES)({"task": BATCH["task"]})
    for kind in (DirectExtractor, InstanceExtractor):
        with pytest.raises(ValueError, match="no 'task' among.*Collator"):
            kind(model, CANDIDATES)({"instance_ids": None})
    with pytest.raises(TypeError, match="logits"): Extractor(model, CANDIDATES)


# Instance conversion

def test_instance_extractor_starts_from_its_seed_alone(model):
    state = torch.random.get_rng_state()
    phi = InstanceExtractor(model, CANDIDATES, seed=4)
    assert torch.equal(state, torch.random.get_rng_state()) and torch.equal(
        phi.V, model.shared.weight
    )
    assert torch.equal(phi.W, InstanceExtractor(model, CANDIDATES, seed=4).W) and not torch.equal(
        phi.W, InstanceExtractor(model, CANDIDATES).W
    )
    assert phi.W.std().item() == pytest.approx(D ** -.5, rel=.1)


def test_padding_has_no_part_in_the_logits(model):
    phi = spread(InstanceExtractor(model, CANDIDATES))
    expected = phi.logits(BATCH)
    phi.ids += 5 * (1 - phi.mask)
    assert torch.allclose(
        phi.logits(
            {**BATCH, "instance_ids": BATCH["instance_ids"] + 5 * (1 - BATCH["instance_mask"])}
        ),
        expected, atol=1e-5,
    )


def test_visible_padding_has_no_part_in_the_logits_either(model):
    a, b = (
        spread(InstanceExtractor(model, CANDIDATES._replace(shown=shown)))
        for shown in (CANDIDATES.mask, torch.ones_like(CANDIDATES.mask))
    )
    assert torch.equal(a.logits(BATCH), b.logits(BATCH))


def test_what_it_learned_holds_for_other_candidates(model):
    "V and W know no task: a permutation of the candidates permutes the probabilities."
    phi = spread(InstanceExtractor(model, CANDIDATES))
    order = [2, 0, 3, 1]
    other = InstanceExtractor(model, Candidates(*[x[:, order] for x in CANDIDATES]))
    other.load_state_dict({**other.state_dict(), "V": phi.V, "W": phi.W})
    assert torch.allclose(other.probability(BATCH), phi.probability(BATCH)[:, order])


# Saved, moved, copied

@each_extractor
def test_state_dict_holds_candidates_and_phi_and_nothing_of_the_model(
    model, kind, options, tmp_path
):
    phi = spread(kind(model, CANDIDATES, **options))
    torch.save(phi.state_dict(), tmp_path / "phi.pt")
    assert set(phi.state_dict()) == {
        "ids", "mask", "shown", "number", *(name for name, _ in phi.named_parameters()),
    }
    other = kind(model, random_candidates(seed=9), **options)
    other.load_state_dict(torch.load(tmp_path / "phi.pt", weights_only=True))
    assert torch.equal(other(BATCH)[0], phi(BATCH)[0]) and torch.equal(
        other(BATCH)[1], phi(BATCH)[1]
    )


@each_extractor
def test_extractors_move_and_stay_float32_beside_a_bf16_model(model, kind, options):
    phi = spread(kind(model.to(torch.bfloat16), CANDIDATES, **options))
    assert (
        all(p.dtype == torch.float32 for p in phi.parameters())
        and phi(BATCH)[0].dtype == torch.bfloat16
    )
    loss(model, phi).backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.any() for p in phi.parameters())
    double = copy.deepcopy(phi).double()
    assert double.ids.dtype == torch.int64 and torch.equal(double(BATCH)[1], phi(BATCH)[1])
    assert all(
        tensor.device.type == "meta"
        for tensor in copy.deepcopy(phi).to("meta").state_dict().values()
    )
    assert next(model.parameters()).device.type == "cpu"  # the model does not move with it


# Second derivatives

@each_extractor
def test_both_products_give_one_hypergradient(precise, kind, options):
    phi = spread(kind(precise, CANDIDATES, **options).double())
    def found(product):
        return hypergradient(
            lambda: loss(precise, phi), lambda: run(precise, BATCH).loss,
            list(precise.parameters()), list(phi.parameters()), n_terms=2, gamma=1e-3,
            product=product,
        )
    for exact, differences in zip(found("exact"), found("differences")):
        assert exact.any() and (exact - differences).norm() < 1e-6 * exact.norm()


def test_the_mixed_derivative_is_that_of_the_weights(precise):
    """With M = 0: minus J' d/ds <dL_in/dtheta, v1>, where s are free weights at the hard choice
    and J is the Jacobian of softmax."""
    phi = spread(DirectExtractor(precise, CANDIDATES).double())
    theta = list(precise.parameters())
    (found,) = hypergradient(
        lambda: loss(precise, phi), lambda: run(precise, BATCH).loss, theta, [phi.v],
        method="identity", n_terms=0, gamma=1.0,
    )
    v1 = torch.autograd.grad(run(precise, BATCH).loss, theta, allow_unused=True)
    s = nn.functional.one_hot(phi.v.argmax(-1), 4).double().requires_grad_()
    def inner(s):
        ids, mask = phi.ids[BATCH["task"]], phi.mask[BATCH["task"]]
        prefix = torch.einsum(
            "bn,bnld->bld", s[BATCH["task"]], precise.shared(ids) * mask[..., None]
        )
        return run(
            precise,
            with_prefix(
                precise, BATCH, prefix, mask[torch.arange(3), phi.v.argmax(-1)[BATCH["task"]]]
            ),
        ).loss
    def product(s):
        g = torch.autograd.grad(inner(s), theta, allow_unused=True)
        return sum((a * b).sum() for a, b in zip(g, v1) if a is not None and b is not None).item()
    by_s = torch.zeros_like(s)
    for at in [(t, n) for t in (0, 2) for n in range(4)]:
        bump = torch.zeros_like(s)
        bump[at] = 1e-5
        by_s[at] = (product(s + bump) - product(s - bump)) / 2e-5
    p = phi.v.softmax(-1).detach()
    assert (
        torch.allclose(found, -p * (by_s - (p * by_s).sum(-1, keepdim=True)), rtol=1e-5, atol=1e-9)
        and not found[1].any()
    )


# What was chosen

def test_selection_by_hand(model):
    phi = DirectExtractor(model, random_candidates(n=2))
    phi.v.data = torch.tensor([[0, math.log(3)], [0, 0], [50., -50]])
    found = selection(phi, BATCH)
    assert found.chosen.tolist() == [0, 1, 0] and torch.allclose(
        found.share, torch.tensor([2 / 3, 1 / 3])
    )
    assert torch.allclose(found.probability, torch.tensor([[1, 0], [.25, .75], [1, 0]]))
    assert torch.allclose(
        found.entropy, torch.tensor([0, -0.25 * math.log(0.25) - 0.75 * math.log(0.75), 0])
    )
    assert not found.probability.requires_grad


def test_selection_counts_candidates_that_nobody_got(model):
    found = selection(DirectExtractor(model, CANDIDATES, exclude_own=True), BATCH)
    assert torch.allclose(found.share, torch.tensor([2 / 3, 1 / 3, 0, 0])) and torch.allclose(
        found.entropy, torch.tensor(3.0).log()
    )


# From tasks to a loss

def test_all_of_it_on_real_tasks(real_tasks, tmp_path):
    tasks = load_tasks(real_tasks, n_instances=12)[:6]
    tokenizer = train_tokenizer([i.input for t in tasks for i in t.instances], 500)
    model = new_t5(micro_config(len(tokenizer), d_model=D, d_kv=4, d_ff=16))
    candidates = draw_candidates(tasks, tokenizer, n=8, blanks=1, max_length=48)
    rows = tokenize_tasks(
        tasks, tokenizer, Encoding(definition=False, n_pos=0), 96, 32, cache_dir=tmp_path,
        instance="own", max_instance=48,
    )
    batch = Collator(tokenizer)([rows[i] for i in range(0, len(rows), 9)])
    assert candidates.ids.shape == (6, 9, 48) and candidates.mask.sum(-1).max() == 48
    for kind in (DirectExtractor, InstanceExtractor):
        phi = kind(model, candidates, exclude_own=True)
        loss(model, phi, batch).backward()
        assert all(p.grad.isfinite().all() and p.grad.any() for p in phi.parameters())
        assert not (
            phi.number[batch["task"]].gather(1, selection(phi, batch).chosen[:, None])[:, 0]
            == batch["instance"]
        ).any()
