"""Algorithm 1: the outer step moves phi alone, in the right direction, and both loops survive a
kill."""
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from transformers import TrainerCallback

from instop_nb.batches import Collator, tokenize_tasks
from instop_nb.bilevel import InstructionOptimizer, Outer, optimize
from instop_nb.outer import check_sharded, unsharded
from instop_nb.meta import kmeans_splits, meta_split, split_instances
from instop_nb.embedder import DirectEmbedder, InstanceEmbedder, NoisePrefix, NoPrefix
from instop_nb.extractor import CoinFlip, DirectExtractor, InstanceExtractor, draw_candidates
from instop_nb.hypergradient import hypergradient
from instop_nb.models import load_model
from instop_nb.trainer import training_arguments
from instop_nb.core import TaskError
from instop_nb.tuning import DEFINITION, NO_INSTRUCTION, get_tasks
from instop_nb.runs import Run

from test_embedder import exact


@pytest.fixture(scope="module")
def tasks(): return get_tasks("micro", "train", 10)[::8]  # Of nearly all categories


@pytest.fixture
def trainer(tasks, tmp_path):
    model, tokenizer = load_model("micro", device="cpu")
    meta_train, meta_test = meta_split(tasks)
    rows, meta_rows = (
        tokenize_tasks(part, tokenizer, DEFINITION) for part in (meta_train, meta_test)
    )
    made = InstructionOptimizer(
        model, training_arguments(tmp_path, 4, disable_tqdm=True),
        DirectEmbedder.for_model(model, len(meta_train), l=3), meta_rows, train_dataset=rows,
        data_collator=Collator(tokenizer),
    )
    made.batch = made._prepare_inputs(made.data_collator([rows[i] for i in range(0, 320, 20)]))
    return made


def test_meta_split_is_a_partition_and_repeats(tasks):
    a, b = meta_split(tasks, 0.2, seed=1)
    assert {t.name for t in a} | {t.name for t in b} == {t.name for t in tasks} and not {
        t.name for t in a
    } & {t.name for t in b}
    assert len(b) == round(0.2 * len(tasks)) and [t.name for t in b] == [
        t.name for t in meta_split(tasks, 0.2, seed=1)[1]
    ]
    assert [t.name for t in b] != [t.name for t in meta_split(tasks, 0.2, seed=2)[1]]
    for share in (0, 1, -1):
        with pytest.raises(TaskError, match="between 0 and 1"): meta_split(tasks, share)
    with pytest.raises(TaskError, match="'task' or 'category'"): meta_split(tasks, by="dataset")


def test_meta_split_by_category_keeps_categories_whole(tasks):
    for share in (0.01, 0.3, 0.99):
        inner, outer = (
            {t.category for t in part} for part in meta_split(tasks, share, seed=3, by="category")
        )
        assert (
            inner and outer and not inner & outer and inner | outer == {t.category for t in tasks}
        )


def test_kmeans_splits_are_partitions_of_alike_tasks(tasks):
    splits = kmeans_splits(tasks, *load_model("micro", device="cpu"), k=5)
    names = [t.name for _, group in splits for t in group]
    assert sorted(names) == sorted(t.name for t in tasks)
    for inner, outer in splits:
        assert (
            outer
            and len(inner) + len(outer) == len(tasks)
            and not {t.name for t in inner} & {t.name for t in outer}
        )


def test_validation_instances_are_other_instances(tasks):
    inner, valid = split_instances(tasks, 3)
    for t, a, b in zip(tasks, inner, valid):
        assert a.instances + b.instances == t.instances and len(b.instances) == 3
    with pytest.raises(TaskError, match=tasks[0].name): split_instances(tasks, 10)


def test_outer_step_moves_phi_and_leaves_theta(trainer):
    before = [p.detach().clone() for p in trainer.model.parameters()]
    row = trainer.outer_step()
    assert all(p.equal(b) and p.grad is None for p, b in zip(trainer.model.parameters(), before))
    pairs = zip(trainer.instruction.weight, trainer.loop.start["weight"])
    changed = {i for i, (new, old) in enumerate(pairs) if not new.equal(old)}
    assert changed == set(trainer.batch["task"].tolist()) and row["phi_moved"] > 0


def test_hypergradient_is_the_slope_of_the_outer_loss_after_one_small_step(trainer):
    model, embedder, batch, outer_batch, gamma = (
        trainer.model, trainer.instruction, trainer.batch, trainer.draw_meta_batch(), 1e-5,
    )
    model, embedder = exact(model).double(), embedder.double()
    theta, phi = dict(model.named_parameters()), list(embedder.parameters())
    inner = lambda: model(**trainer.instructed(batch)).loss
    (ours,) = hypergradient(
        inner, lambda: model(**outer_batch).loss, list(theta.values()), phi, n_terms=0, gamma=gamma
    )
    direction, values = ours / ours.norm(), []
    for sign in (1, -1):
        with torch.no_grad(): phi[0].add_(sign * 1e-4 * direction)
        grads = torch.autograd.grad(inner(), list(theta.values()))
        moved = {n: (p - gamma * g).detach() for (n, p), g in zip(theta.items(), grads)}
        with torch.no_grad():
            values.append(torch.func.functional_call(model, moved, (), outer_batch).loss.item())
        with torch.no_grad(): phi[0].sub_(sign * 1e-4 * direction)
    slope = (values[0] - values[1]) / 2e-4
    assert slope == pytest.approx(ours.norm().item(), rel=0.02)


def test_outer_loss_sees_no_prefix(trainer):
    batch = trainer.draw_meta_batch()
    assert set(batch) == {"input_ids", "attention_mask", "labels"}
    hidden = trainer.model.get_encoder()(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
    ).last_hidden_state
    assert hidden.shape[1] == batch["input_ids"].shape[1]


# Every learnable instruction, and every control

def candidates(tasks, tokenizer):
    return draw_candidates(tasks, tokenizer, n=2, blanks=1, max_length=32)

KINDS = {
    "embedder-dp": lambda m, tok, tasks: DirectEmbedder.for_model(m, len(tasks), l=3),
    "embedder-ic": lambda m, tok, tasks: InstanceEmbedder(m, l=2),
    "extractor-dp": lambda m, tok, tasks: DirectExtractor(m, candidates(tasks, tok)),
    "extractor-ic": lambda m, tok, tasks: InstanceExtractor(m, candidates(tasks, tok)),
    "none": lambda m, tok, tasks: NoPrefix(m),
    "noise": lambda m, tok, tasks: NoisePrefix(m, 3),
    "coin": lambda m, tok, tasks: CoinFlip(m, candidates(tasks, tok))}


def fit(tasks, folder, kind="embedder-dp", outer=Outer(K=4), steps=16, **others):
    "One short run; returns the trainer and its log."
    model, tokenizer = load_model("micro", device="cpu")
    meta_train, meta_test = meta_split(tasks)
    made = KINDS[kind](model, tokenizer, meta_train)
    trainer = optimize(
        model, tokenizer, made, meta_train, meta_test, folder, steps,
        replace(outer, meta_batch_size=8), batch_size=8, quiet=True, instance="own", **others,
    )
    return trainer, Run(folder).metrics()


@pytest.mark.parametrize("kind", KINDS)
def test_every_instruction_trains_before_the_definition_and_in_its_place(tasks, tmp_path, kind):
    for encoding in (DEFINITION, NO_INSTRUCTION):
        trainer, log = fit(
            tasks, tmp_path / str(encoding.definition), kind, Outer(K=2), 4, encoding=encoding,
            outer_encoding=DEFINITION,
        )
        outer = [r for r in log if "outer_loss" in r]
        assert [r["step"] for r in outer] == [2, 4]
        learns = kind.startswith(("embedder", "extractor"))
        assert (outer[-1]["phi_moved"] > 0) == ("gamma_Hv" in outer[-1]) == learns
        assert ("selected" in outer[-1]) == (kind.startswith("extractor") or kind == "coin")
        saved = torch.load(
            tmp_path / str(encoding.definition) / "instruction.pt", weights_only=True
        )
        assert len(saved["tasks"]) == len(meta_split(tasks)[0])
        assert all(
            v.equal(trainer.instruction.state_dict()[k]) for k, v in saved["instruction"].items()
        )


def test_frozen_stays_frozen_and_the_inner_batches_are_the_same(tasks, tmp_path):
    learned, frozen = (
        fit(
            tasks, tmp_path / str(rate), outer=Outer(K=4, phi_rate=rate),
            arguments=dict(logging_steps=1),
        )[1]
        for rate in (1e-2, 0.0)
    )
    assert [r["phi_moved"] for r in frozen if "phi_moved" in r] == [0.0] * 4
    first = [[r["loss"] for r in log if "loss" in r][:4] for log in (learned, frozen)]
    assert first[0] == first[1]  # Until the first outer step nothing tells the two apart


def test_faithful_steps_before_the_update_and_its_schedule_hardly_falls(tasks, tmp_path):
    rates = {}
    for name, faithful in (("mended", False), ("faithful", True)):
        trainer, log = fit(tasks, tmp_path / name, outer=Outer(K=4, faithful=faithful))
        outer = [r for r in log if "outer_loss" in r]
        assert [r["step"] for r in outer] == [3, 7, 11, 15] if faithful else [4, 8, 12, 16]
        rates[name] = [r["phi_rate"] for r in outer]
    assert rates["mended"] == pytest.approx([1e-2 * (1 - i / 4) for i in range(4)])
    assert rates["faithful"] == pytest.approx([1e-2 * (1 - i / 16) for i in range(4)])


def test_dropout_is_off_in_the_outer_step_unless_faithful(trainer):
    for module in trainer.model.modules():
        if isinstance(module, torch.nn.Dropout): module.p = 0.5
    trainer.model.train()
    losses = {}
    for faithful in (False, True):
        trainer.loop.outer = Outer(faithful=faithful, phi_rate=0.0)
        for k in range(2):
            trainer.loop.rng.seed(0)
            losses[faithful, k] = trainer.outer_step()["outer_loss"]
        assert trainer.model.training
    assert losses[False, 0] == losses[False, 1] and losses[True, 0] != losses[True, 1]


def test_phi_is_clipped_and_l2_pulls_it_towards_zero(tasks, tmp_path):
    plain, heavy = (
        fit(tasks, tmp_path / str(l2), outer=Outer(K=1, l2=l2, phi_rate=0.1), steps=6)[0]
        for l2 in (0.0, 100.0)
    )
    assert heavy.instruction.weight.norm() < plain.instruction.weight.norm()


def test_the_units_of_adam_reach_the_hypergradient_and_gamma_is_logged(tasks, tmp_path):
    plain, _ = fit(tasks, tmp_path / "plain", outer=Outer(method="identity"), steps=20)
    _, log = fit(
        tasks, tmp_path / "adam", steps=20,
        outer=Outer(method="neumann", adam=True, gamma="auto"),
    )
    rows = [row for row in log if "outer_loss" in row]
    assert rows and all(1e-4 < row["gamma"] < 1e3 and row["gamma_Hv"] > .01 for row in rows)
    theta = list(plain.model.parameters())
    scales = plain.outer.asks(theta, plain.optimizer)["precondition"]
    assert scales is None
    scales = Outer(adam=True).asks(theta, plain.optimizer)["precondition"]
    assert all(s.shape == t.shape and (s > 0).all() for s, t in zip(scales, theta))


def test_perturbation_reaches_the_inner_loss_alone_and_leaves_phi(trainer):
    trainer.loop.outer = Outer(perturbation=0.5)
    def loss(step):
        trainer.state.global_step = step
        return trainer.compute_loss(trainer.model, trainer.batch).item()
    losses = [loss(step) for step in (1, 1, 2, 3)]
    assert (
        len({*losses}) == 3 and losses[0] == losses[1]  # Micro-batches of a step share the noise
        and trainer.instruction.weight.equal(trainer.loop.start["weight"])
        and trainer.instruction.weight.requires_grad
    )
    with torch.no_grad():
        assert (
            trainer.model(**trainer.instructed(trainer.batch)).loss
            == trainer.model(**trainer.instructed(trainer.batch)).loss
        )


def test_validation_keeps_the_best_and_stops(tasks, tmp_path):
    looks = iter([1.0, 5.0, 2.0, 1.0, 9.0])
    trainer, log = fit(tasks, tmp_path, validate=lambda model: next(looks), every=4, patience=2)
    assert [r["eval_score"] for r in log if "eval_score" in r] == [
        1.0, 5.0, 2.0, 1.0,
    ] and trainer.state.global_step == 16
    best = torch.load(
        tmp_path / "checkpoint" / "checkpoint-8" / "instruction.pt", weights_only=True
    )
    assert best["instruction"]["weight"].equal(trainer.instruction.weight)
    with pytest.raises(TaskError, match="validate"): fit(tasks, tmp_path / "none", every=4)


class StopAt(TrainerCallback):
    def __init__(self, step): self.step = step
    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop |= state.global_step == self.step


@pytest.mark.parametrize(
    "kind, outer, killed",
    [
        ("embedder-dp", Outer(K=4), 9), ("embedder-dp", Outer(K=4, perturbation=0.1, l2=0.01), 8),
        ("embedder-dp", Outer(K=3, faithful=True), 7),
        ("extractor-ic", Outer(K=4, product="differences"), 11),
        ("embedder-dp", Outer(K=4, adam=True, gamma="auto", n_terms=2), 9),
        ("embedder-ic", Outer(K=5, warmup=1), 6), ("noise", Outer(K=4), 9),
        ("coin", Outer(K=4), 13),
    ],
)
def test_killed_and_resumed_equals_never_stopped(tasks, tmp_path, kind, outer, killed):
    def run(name, **others):
        trainer, log = fit(
            tasks, tmp_path / name, kind, outer,
            arguments=dict(save_strategy="steps", save_steps=6), **others,
        )
        return [*trainer.model.parameters(), *trainer.instruction.parameters()], [
            r["outer_loss"] for r in log if "outer_loss" in r
        ]
    (whole, losses), _ = run("whole"), run("cut", callbacks=[StopAt(killed)])
    resumed, continued = run("cut", resume=True)
    assert all(a.equal(b) for a, b in zip(whole, resumed)) and continued[-1] == losses[-1]


# One outer step sees the whole inner step

@pytest.mark.parametrize("product", ["exact", "differences"])
@pytest.mark.parametrize("kind", ["embedder", "extractor"])
def test_the_hypergradient_does_not_depend_on_accumulation(product, kind, tasks, tmp_path):
    def moved(size, parts):
        model, tokenizer = load_model("micro", device="cpu")
        meta_train, meta_test = tasks[:8], tasks[8:10]
        phi = (
            DirectEmbedder.for_model(model, 8, 2)
            if kind == "embedder"
            else InstanceExtractor(model, draw_candidates(meta_train, tokenizer, 3))
        )
        trainer = optimize(
            model, tokenizer, phi, meta_train, meta_test, tmp_path / f"{product}-{size}", 1,
            Outer(K=1, meta_batch_size=4, gamma=1e-3, product=product), batch_size=size,
            instance="another", quiet=True,
            arguments=dict(gradient_accumulation_steps=parts, logging_steps=1),
        )
        return next(row for row in trainer.state.log_history if "phi_grad_norm" in row), trainer
    (whole, _), (cut, trainer) = moved(8, 1), moved(2, 4)
    assert len(trainer.batches) == 4 and cut["phi_grad_norm"] == pytest.approx(
        whole["phi_grad_norm"], rel=2e-2 if product == "differences" else 1e-3
    )
    assert cut["outer_loss"] == pytest.approx(whole["outer_loss"], rel=1e-4)


def test_smoothing_reaches_the_inner_loss_of_the_hypergradient(tasks, tmp_path):
    def norm(factor):
        model, tokenizer = load_model("micro", device="cpu")
        trainer = optimize(
            model, tokenizer, DirectEmbedder.for_model(model, 4, 2), tasks[:4], tasks[4:6],
            tmp_path / str(factor), 1, Outer(K=1, meta_batch_size=4, gamma=1e-3), batch_size=4,
            quiet=True, arguments=dict(label_smoothing_factor=factor),
        )
        return next(row for row in trainer.state.log_history if "phi_grad_norm" in row)[
            "phi_grad_norm"
        ]
    assert norm(.5) != pytest.approx(norm(0.), rel=1e-2)


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"K": 0}, "K"), ({"K": -1}, "K"), ({"phi_rate": -1}, "phi_rate"),
        ({"phi_rate": float("nan")}, "phi_rate"), ({"gamma": 0}, "gamma"),
        ({"n_terms": -1}, "n_terms"), ({"meta_batch_size": 0}, "meta_batch_size"),
        ({"l2": float("inf")}, "l2"), ({"method": "newton"}, "neumann"),
        ({"product": "guess"}, "differences"), ({"gamma": "best"}, "gamma"),
        ({"adam": True, "method": "penalty"}, "adam.*neumann"),
    ],
)
def test_an_outer_loop_that_cannot_be_meant_is_refused(changes, says):
    with pytest.raises(TaskError, match=says): Outer(**changes)


def test_differences_are_taken_in_float32_under_bf16_and_refused_of_rough_weights(tmp_path):
    """With bf16=True transformers computes in half precision where nobody outside can see it; a
    difference would drown there, with a cosine of -0.35 to the true hypergradient."""
    def step(product, dtype=torch.float32, **arguments):
        model, tokenizer = load_model("micro", device="cpu")
        phi = DirectEmbedder.for_model(model, 2, 2)
        found = []
        outer = Outer(K=1, meta_batch_size=2, gamma=1e-3, product=product)
        class Keep(InstructionOptimizer):
            def outer_step(self):
                move = self.loop.move
                self.loop.move = lambda g, norm: found.extend(g) or move(g, norm)
                return super().outer_step()
        tasks = get_tasks("micro", "train", 10)
        parts = tasks[:2], tasks[2:4]
        rows, meta = (tokenize_tasks(part, tokenizer, DEFINITION) for part in parts)
        args = training_arguments(
            tmp_path / product, 1, 2, disable_tqdm=True, use_cpu=True, **arguments
        )
        Keep(model.to(dtype).train(), args, phi, meta, outer, train_dataset=rows,
             data_collator=Collator(tokenizer)).train()
        return found[0]
    plain, exact_product = step("exact"), step("exact", bf16=True)
    differences = step("differences", bf16=True)
    def off(g): return ((g - plain).norm() / plain.norm()).item()
    assert 1e-4 < off(exact_product) < .1 and off(differences) < .1
    for dtype, says in ((torch.bfloat16, "half precision"), (torch.float16, "overflows")):
        with pytest.raises(TaskError, match=says): step("differences", dtype)
    with pytest.raises(TaskError, match="fp16.*bf16=True"): step("exact", fp16=True)


@pytest.mark.parametrize("field, changes, phi, args, advice", [
    ("product", {}, NoPrefix, {}, "take 'differences'"),
    ("method", {"method": "cg"}, NoPrefix, {}, "'neumann' or 'identity'"),
    ("adam", {"adam": True}, NoPrefix, {}, "leave it out"),
    ("gamma", {"gamma": "auto"}, NoPrefix, {}, "give a number"),
    ("instruction", {}, DirectExtractor, {}, "take an embedder"),
    ("bf16", {}, NoPrefix, {"bf16": True}, "leave it out"),
    ("every", {}, NoPrefix, {"eval_strategy": "steps", "eval_steps": 5}, "leave it at 0"),
])
def test_what_does_not_shard_says_so(field, changes, phi, args, advice):
    "One refusal each, and none without fsdp."
    product = "exact" if field == "product" else "differences"
    outer, phi = Outer(product=product, **changes), phi.__new__(phi)
    args = SimpleNamespace(**{"fsdp": True, "bf16": False, "eval_strategy": "no", **args})
    assert [name for name, _, _ in unsharded(outer, phi, args)] == [field]
    with pytest.raises(TaskError, match=f"optimize.*{field}.*with fsdp .*{advice}"):
        check_sharded(outer, phi, args)
    args.fsdp = False
    check_sharded(outer, phi, args)
