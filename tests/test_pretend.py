"""Work on a device that is not there: its tensors have a shape and a place, and no numbers, and an
operation on tensors of two places fails as it does on a GPU.

That device is torch's "meta": the name "cuda" has no gradients where torch was built without it."""
import inspect
import textwrap
from contextlib import nullcontext
from functools import partial
from itertools import chain, repeat

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import GPT2Config, GPT2LMHeadModel

from instop_nb import bilevel, extractor, outer, products, ranking, systems, trainer, tuning
from instop_nb.batches import tokenize_tasks
from instop_nb.bilevel import Outer, meta_test_loss, optimize
from instop_nb.embedder import (
    DirectEmbedder, InstanceEmbedder, NoisePrefix, NoPrefix, encoder_mean, nearest_words,
)
from instop_nb.extractor import CoinFlip, DirectExtractor, InstanceExtractor, draw_candidates
from instop_nb.micro import micro_config, new_t5
from instop_nb.microworld import micro_tasks
from instop_nb.models import load_tokenizer
from instop_nb.products import PRODUCTS
from instop_nb.ranking import rank_classify
from instop_nb.hypergradient import METHODS
from instop_nb.t5 import T5, greedy
from instop_nb.tuning import DEFINITION, evaluate, tune

DEVICE = torch.device("meta")
TASKS = micro_tasks("train", 4)[:4]
INNER, META = TASKS[:2], TASKS[2:]
ATEN = torch.ops.aten
# What torch does with tensors of two places: it copies, or looks up places that the CPU names
ACROSS = {ATEN._to_copy, ATEN.copy_, ATEN.index, ATEN.index_put, ATEN._index_put_impl_}


def places(mask):
    "What a mask selects if all of it is true: the places in each of its dimensions."
    return list(torch.ones(mask.shape).nonzero().to(DEVICE).unbind(1))


class Pretend(TorchDispatchMode):
    "Each number of the device is told to be 1; each truth the next of some, and then always yes."
    def __init__(self, truths=()):
        super().__init__()
        self.truths = chain(truths, repeat(True))

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        "What torch does, unless it is asked for numbers."
        kwargs = kwargs or {}
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        # A single number may come from the CPU
        found = {x.device for x in tensors if x.dim() or x.device == DEVICE}
        kind = func.overloadpacket
        if len(found) > 1 and kind not in ACROSS:
            raise RuntimeError(f"{func}: tensors on two devices")
        if DEVICE not in found: return func(*args, **kwargs)
        if func._can_decompose():  # Under inference_mode: the same in smaller operations
            with self: return func.decompose(*args, **kwargs)
        if kind is ATEN._local_scalar_dense:
            number = torch.ones((), dtype=args[0].dtype).item()
            return next(self.truths) if number is True else number
        if kind is ATEN._to_copy and kwargs.get("device", DEVICE) != DEVICE:
            return torch.ones(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        if kind is ATEN.index:
            masks = [x is not None and x.dtype == torch.bool for x in args[1]]
            at = [places(x) if m else [x] for x, m in zip(args[1], masks)]
            return func(args[0], list(chain(*at)))
        if kind is ATEN.bincount:  # Not to be had without numbers
            return func(torch.ones(args[0].shape, dtype=args[0].dtype), **kwargs).to(DEVICE)
        return func(*args, **kwargs)


@pytest.fixture(autouse=True)
def pretend(monkeypatch):
    "Let the trainer take the device, which knows neither autocast nor a random state."
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", DEVICE.type)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)
    for module in (products, systems):
        monkeypatch.setattr(module, "same_draws", lambda device: nullcontext())


@pytest.fixture(scope="module")
def tokenizer(): return load_tokenizer("micro")


def t5(tokenizer):
    config = micro_config(
        len(tokenizer), d_model=4, d_ff=4, d_kv=2, num_heads=2, num_layers=1, num_decoder_layers=1
    )
    return new_t5(config).eval().to(DEVICE)


def gpt(tokenizer):
    ends = {f"{name}_token_id": 1 for name in ("bos", "eos", "pad")}
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=4, n_layer=1, n_head=2, **ends)
    return GPT2LMHeadModel(config).eval().to(DEVICE)


def candidates(tokenizer): return draw_candidates(INNER, tokenizer, n=2, blanks=1, max_length=16)

KINDS = {
    "embedder-dp": lambda model, tok: DirectEmbedder.for_model(model, len(INNER), l=2),
    "embedder-ic": lambda model, tok: InstanceEmbedder(model, l=2),
    "extractor-dp": lambda model, tok: DirectExtractor(model, candidates(tok)),
    "extractor-ic": lambda model, tok: InstanceExtractor(model, candidates(tok), exclude_own=True),
    "extractor-soft": lambda model, tok: DirectExtractor(model, candidates(tok), soft=True),
    "none": lambda model, tok: NoPrefix(model),
    "noise": lambda model, tok: NoisePrefix(model, 2),
    "coin": lambda model, tok: CoinFlip(model, candidates(tok)),
}
WAYS = [(method, product) for method in METHODS for product in PRODUCTS]


def continuing(tokenizer):
    "The tokenizer as that of a model that continues."
    other = load_tokenizer("micro")
    other.padding_side = "left"
    return other


def tuned(tokenizer, folder, make=t5):
    tokenizer = tokenizer if make is t5 else continuing(tokenizer)
    optim = {} if make is t5 else {"optim": "adamw_torch"}  # The fused one is of few devices
    with Pretend():
        model = make(tokenizer)
        tune(model, tokenizer, tokenize_tasks(TASKS, tokenizer, DEFINITION), folder, 2, 2,
             quiet=True, logging_steps=1, **optim)
        assert {p.device for p in model.parameters()} == {DEVICE}


def optimized(tokenizer, folder, kind="embedder-dp", **options):
    "One inner step, one outer step and what is measured in between."
    with Pretend():
        model = t5(tokenizer)
        if options.get("method") == "exact":  # It needs few weights
            model.requires_grad_(False).encoder.final_layer_norm.requires_grad_(True)
        phi = KINDS[kind](model, tokenizer)
        made = optimize(
            model, tokenizer, phi, INNER, META, folder, 1, Outer(K=1, meta_batch_size=2, **options),
            batch_size=2, quiet=True, instance="own",
        )
        meta_test_loss(made, 2)
        assert all(p.device == DEVICE for p in made.instruction.parameters())


def evaluated(tokenizer, make=t5):
    tokenizer = tokenizer if make is t5 else continuing(tokenizer)
    with Pretend(truths=[False] * 2):  # Whether all answers have ended
        rows = evaluate(make(tokenizer), tokenizer, TASKS, batch_size=7, max_new_tokens=3)
    assert len(rows) == sum(len(task.instances) for task in TASKS)


def ranked(tokenizer, make=t5):
    tokenizer = tokenizer if make is t5 else continuing(tokenizer)
    with Pretend():
        best, scores = rank_classify(
            make(tokenizer), tokenizer, ["one", "a longer one"], [["yes", "no"], ["a b", "c", "d"]]
        )
    assert best == [0, 0] and [len(row) for row in scores] == [2, 3]


@pytest.mark.parametrize("make", [t5, gpt])
def test_tuning(make, tokenizer, tmp_path): tuned(tokenizer, tmp_path, make)


@pytest.mark.parametrize("make", [t5, gpt])
def test_evaluation(make, tokenizer): evaluated(tokenizer, make)


@pytest.mark.parametrize("make", [t5, gpt])
def test_ranking(make, tokenizer): ranked(tokenizer, make)


@pytest.mark.parametrize("kind", KINDS)
def test_each_instruction(kind, tokenizer, tmp_path):
    optimized(tokenizer, tmp_path, kind, perturbation=.1)


@pytest.mark.parametrize("method, product", WAYS)
def test_each_method_and_product(method, product, tokenizer, tmp_path):
    optimized(tokenizer, tmp_path, method=method, product=product)


def test_our_own_t5(tokenizer):
    config = dict(vocab_size=60, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    ids = torch.ones(2, 5, dtype=torch.long, device=DEVICE)
    with Pretend(truths=[False] * 2):
        model = T5(config).to(DEVICE)
        model(ids, ids, ids[:, :3])[0].backward()
        assert greedy(model, ids, ids, 3).shape == (2, 4)


def test_what_looks_into_a_model(tokenizer):
    with Pretend():
        model = t5(tokenizer)
        batch = tokenizer(["one", "two"], return_tensors="pt").to(DEVICE)
        states = encoder_mean(model, batch)
        assert len(nearest_words(model, tokenizer, states, 2)) == len(states) == 2


MUTANTS = {  # Where, what it is, what leaves a tensor on the CPU instead, and who must notice
    "ranking": (ranking, "_padded", ".to(model.device)", "", ranked),
    "questions": (tuning, "_greedy", "batch.to(model.device)", "batch", evaluated),
    "noise": (outer.OuterLoop, "perturbed", ".to(p)", "",
              partial(optimized, perturbation=.1)),
    "labels": (trainer, "as_read", "torch.full_like(mask, -100)",
               "torch.full(mask.shape, -100)", partial(tuned, make=gpt)),
    "meta batch": (bilevel.MetaTrainer, "meta_batch", "self._prepare_inputs", "", optimized),
    "phi": (bilevel.PrefixTrainer, "instructed", "call(self.instruction,",
            "call(self.instruction.cpu(),", optimized),
    "choice": (extractor, "straight_through", "torch.zeros_like(p)", "torch.zeros(p.shape)",
               partial(optimized, kind="extractor-dp")),
    "start": (outer.OuterLoop, "__init__", "p.detach().clone()", "p.detach().cpu()", optimized),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_tensor_left_on_the_cpu_is_noticed(name, tokenizer, tmp_path, monkeypatch):
    owner, what, old, new, done = MUTANTS[name]
    home = inspect.getmodule(getattr(owner, what))
    source = textwrap.dedent(inspect.getsource(getattr(owner, what)))
    assert source.count(old) == 1, f"the mutation {old!r} no longer fits the source; adapt it"
    made = {}
    exec(source.replace(old, new), vars(home), made)
    monkeypatch.setattr(owner, what, made[what])
    places = [tmp_path] if "folder" in inspect.signature(done).parameters else []
    with pytest.raises(RuntimeError, match="two devices"): done(tokenizer, *places)
