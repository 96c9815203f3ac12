"""One process, micro-batches and two processes: the same rows, the same theta and phi. torchrun
starts this file, too: it then does in two processes what the tests compare."""
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import pytest_collection_finish, tiny_t5
from test_embedder import exact
from transformers import TrainerCallback

from instop_nb.batches import tokenize_tasks
from instop_nb.bilevel import MetaTrainer, Outer, optimize
from instop_nb.core import TaskError
from instop_nb.embedder import DirectEmbedder, InstanceEmbedder
from instop_nb.extractor import DirectExtractor, InstanceExtractor, draw_candidates
from instop_nb.microworld import micro_tasks
from instop_nb.models import load_model
from instop_nb.runs import Run, whole_lines
from instop_nb.seals import is_whole
from instop_nb.trainer import BucketSampler
from instop_nb.tuning import DEFINITION, evaluate, tune

TASKS = micro_tasks("train", 8)[:40:4]
INNER, META = TASKS[:7], TASKS[7:]
ROWS = 8  # Of a step, however it is cut up
KINDS = {
    "embedder-dp": lambda model, tok: DirectEmbedder.for_model(model, len(INNER), l=2),
    "embedder-ic": lambda model, tok: InstanceEmbedder(model, l=2),
    "extractor-dp": lambda model, tok: DirectExtractor(model, candidates(tok)),
    "extractor-ic": lambda model, tok: InstanceExtractor(model, candidates(tok)),
}
CASES = {  # Each value of kind, method and product; and the micro-batches of the two processes
    ("embedder-dp", "neumann", "exact"): 1, ("embedder-ic", "identity", "exact"): 2,
    ("extractor-dp", "identity", "differences"): 2, ("extractor-ic", "neumann", "exact"): 2,
    ("embedder-ic", "neumann", "differences"): 1,
}
RESUMED = ("embedder-dp", "neumann", "exact")
SHARDED = {  # As CASES
    ("embedder-ic", "neumann", "differences"): 1, ("embedder-dp", "identity", "differences"): 2,
}
SHARES = {"fsdp": True}
NOISY = {"perturbation": .1}
SAVING = dict(save_strategy="steps", save_steps=3)


class Killed(Exception):
    "Stands for the end of a process."


class KillAt(TrainerCallback):
    def __init__(self, step): self.step = step
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step: raise Killed


def candidates(tokenizer): return draw_candidates(INNER, tokenizer, n=3, blanks=1, max_length=24)


def tuned(tiny, folder, parts, processes, steps=10, dropout=0., **others):
    model, tokenizer = load_model(tiny, "cpu")
    for m in model.modules():
        if isinstance(m, torch.nn.Dropout): m.p = dropout
    rows = tokenize_tasks(TASKS, tokenizer, DEFINITION)
    tune(
        model, tokenizer, rows, folder, steps, ROWS // parts // processes, quiet=True,
        gradient_accumulation_steps=parts, logging_steps=1, **others,
    )
    return list(model.parameters())


def optimized(tiny, folder, case, parts, processes, outer=(), shares=None, **others):
    "Ten inner and two outer steps; differences in float64, as they amplify what is rounded."
    kind, method, product = case
    model, tokenizer = load_model(tiny, "cpu")
    if product == "differences": exact(model.double())
    phi = KINDS[kind](model, tokenizer).to(model.dtype)
    if os.environ.get("RANK") == "1":  # As if it had drawn other numbers
        with torch.no_grad(): [p.add_(.1) for p in phi.parameters()]
    trainer = optimize(
        model, tokenizer, phi, INNER, META, folder, 10,
        Outer(**{
            "K": 5, "method": method, "product": product, "meta_batch_size": 7, "gamma": 1e-2,
            **dict(outer),
        }),
        batch_size=ROWS // parts // processes, instance="own", quiet=True,
        arguments=dict(
            gradient_accumulation_steps=parts, logging_steps=1, **SAVING, **(shares or {})
        ), **others,
    )
    return [*trainer.model.parameters(), *trainer.instruction.parameters()]


def until_killed(*args, step=7, **others):
    with pytest.raises(Killed): optimized(*args, callbacks=[KillAt(step)], **others)


def gap(a, b):
    "The largest relative distance between tensors of two lists."
    return max(((x - y).norm() / x.norm()).item() for x, y in zip(a, b) if x.any())


def drawn_by(make, owner, name):
    "What a method was given in a run, call by call."
    given, method = [], getattr(owner, name)
    def noted(self, places):
        given.append(places)
        return method(self, places)
    setattr(owner, name, noted)
    try: make()
    finally: setattr(owner, name, method)
    return given


def orders_of(tiny, folder):
    "The orders that a process draws in a training of two epochs, with dropout."
    orders, order = [], BucketSampler._order
    def noted(self):
        orders.append(list(order(self)))
        return orders[-1]
    BucketSampler._order = noted
    try: tuned(tiny, folder, 1, 2, steps=12, dropout=.2)
    finally: BucketSampler._order = order
    return orders


def answered(tiny, folder):
    "All rows, and how many texts this process was asked."
    model, tokenizer = load_model(tiny, "cpu")
    run = Run(folder, seed=0)
    generate, asked = model.generate, []
    model.generate = lambda input_ids, **more: (
        asked.extend(input_ids.tolist()) or generate(input_ids=input_ids, **more)
    )
    rows = evaluate(
        model, tokenizer, TASKS, batch_size=7, max_new_tokens=5, saved=folder / "answers.jsonl"
    )
    run.save_predictions(rows)
    return rows, len(asked)


def validated(tiny, folder, processes):
    "What each process thinks of the model differs; they stop together all the same."
    def score(model): return float(os.environ.get("RANK", 0)) - next(falling)
    falling = iter(range(9))
    model, tokenizer = load_model(tiny, "cpu")
    trainer = optimize(
        model, tokenizer, KINDS["embedder-dp"](model, tokenizer), INNER, META, folder, 6,
        Outer(K=3, meta_batch_size=6), batch_size=ROWS // processes, quiet=True, validate=score,
        every=1, patience=2,
    )
    logged = [row for row in trainer.state.log_history if "eval_score" in row]
    return [(row["eval_score"], row["eval_meta_test_loss"]) for row in logged]


def work(tiny, out):
    "What two processes do."
    def keep(name, value): torch.save(value, out / f"{name}-{os.environ['RANK']}.pt")
    keep("tune", [tuned(tiny, out / "tune", 1, 2), tuned(tiny, out / "tune cut", 2, 2)])
    for case, parts in CASES.items():
        name = " ".join(case)
        keep(name, optimized(tiny, out / name, case, parts, 2))
    def noisy(): keep("noisy", optimized(tiny, out / "noisy", RESUMED, 2, 2, outer=NOISY))
    keep("meta", drawn_by(noisy, MetaTrainer, "meta_batch"))
    until_killed(tiny, out / "again", RESUMED, 1, 2)
    keep("again", optimized(tiny, out / "again", RESUMED, 1, 2, resume=True))
    keep("from one", optimized(tiny, out / "by one", RESUMED, 1, 2, resume=True))
    until_killed(tiny, out / "by two", RESUMED, 1, 2)
    keep("orders", orders_of(tiny, out / "orders"))
    keep("answers", answered(tiny, out / "answers"))
    keep("scores", validated(tiny, out / "scores", 2))
    keep("sharded", [tuned(name, out / f"sharded {k}", 2, 2, **SHARES, **SAVING)
                     for k, name in enumerate((tiny, "micro"))])
    for case, parts in SHARDED.items():
        name = " ".join(("sharded", *case))
        keep(name, optimized(tiny, out / name, case, parts, 2, shares=SHARES))
    with pytest.raises(TaskError, match="product: found 'exact'; with fsdp take 'differences'"):
        optimized(tiny, out / "whole", RESUMED, 1, 2, shares=SHARES)
    with pytest.raises(TaskError, match="resume: found True; with fsdp start anew"):
        tuned(tiny, out / "sharded 0", 2, 2, resume=True, **SHARES, **SAVING)
    with pytest.raises(TaskError, match="meta_batch_size: found 1; give 2"):
        optimized(tiny, out / "few", RESUMED, 1, 2, outer={"meta_batch_size": 1})


@pytest.fixture(scope="module")
def tiny(tmp_path_factory): return tiny_t5(tmp_path_factory.mktemp("t5"))


@pytest.fixture(scope="module")
def two(tiny, tmp_path_factory):
    "Do the work in two processes; return the folder with what they have kept."
    out = tmp_path_factory.mktemp("two")
    until_killed(tiny, out / "by one", RESUMED, 1, 1)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    ended = subprocess.run(
        [*command, "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", __file__, tiny, out],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=900,
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    return out


def kept(two, name): return [torch.load(two / f"{name}-{rank}.pt") for rank in (0, 1)]


def test_tuning_is_the_same_however_a_step_is_cut_up(two, tiny, tmp_path):
    one, four = (tuned(tiny, tmp_path / str(parts), parts, 1) for parts in (1, 4))
    (whole, cut), others = kept(two, "tune")
    assert gap(one, four) < 1e-6 and gap(one, whole) < 1e-6 and gap(one, cut) < 1e-6
    assert all(x.equal(y) for x, y in zip([*whole, *cut], [*others[0], *others[1]]))
    def losses(folder): return [r["loss"] for r in Run(folder).metrics() if "loss" in r]
    assert losses(two / "tune cut") == pytest.approx(losses(tmp_path / "1"), rel=1e-4)


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_theta_and_phi_are_the_same_however_a_step_is_cut_up(case, two, tiny, tmp_path):
    mine, other = kept(two, " ".join(case))
    assert all(x.equal(y) for x, y in zip(mine, other)), "the processes drift apart"
    one, four = (optimized(tiny, tmp_path / str(parts), case, parts, 1) for parts in (1, 4))
    assert gap(one, four) < 1e-5 and gap(one, mine) < 1e-5, (gap(one, four), gap(one, mine))
    account = [[row[name] for row in Run(folder).metrics() if name in row]
               for name in ("outer_loss", "phi_grad_norm", "phi_moved")
               for folder in (tmp_path / "1", two / " ".join(case))]
    assert len(account[0]) == 2
    for a, b in zip(account[::2], account[1::2]): assert a == pytest.approx(b, rel=1e-3)


def test_weights_that_are_shared_out_become_those_of_one_process(two, tiny, tmp_path):
    mine, other = kept(two, "sharded")
    for k, name in enumerate((tiny, "micro")):  # Its words stand also for its answers, or do not
        one = tuned(name, tmp_path / str(k), 1, 1)
        assert gap(one, mine[k]) < 1e-5 and all(x.equal(y) for x, y in zip(mine[k], other[k]))
        saved = load_model(two / f"sharded {k}/checkpoint/checkpoint-9", "cpu")[0]
        assert 0 < gap(list(saved.parameters()), mine[k]) < 1e-2


@pytest.mark.parametrize("case", SHARDED, ids=" ".join)
def test_so_do_theta_and_phi_by_differences(case, two, tiny, tmp_path):
    mine, other = kept(two, " ".join(("sharded", *case)))
    assert all(x.equal(y) for x, y in zip(mine, other))
    one = optimized(tiny, tmp_path, case, 1, 1)
    assert gap(one, mine) < 1e-5 and not any(type(x) is not type(y) for x, y in zip(one, mine))


def test_noise_on_phi_is_one_for_all_of_a_step(two, tiny, tmp_path):
    one, four = (
        optimized(tiny, tmp_path / str(parts), RESUMED, parts, 1, outer=NOISY) for parts in (1, 4)
    )
    mine, other = kept(two, "noisy")
    assert gap(one, four) < 1e-5 and gap(one, mine) < 1e-5
    assert all(x.equal(y) for x, y in zip(mine, other))


def test_together_the_processes_draw_the_meta_batch_of_one(two, tiny, tmp_path):
    def one(): optimized(tiny, tmp_path, RESUMED, 1, 1, outer=NOISY)
    mine, other = kept(two, "meta")
    whole = drawn_by(one, MetaTrainer, "meta_batch")
    assert [(places[::2], places[1::2]) for places in whole] == list(zip(mine, other))
    assert [len(places) for places in whole] == [7, 7]


def test_resumed_by_as_many_processes_it_ends_with_the_same_bits(two):
    whole, again = kept(two, " ".join(RESUMED))[0], kept(two, "again")[0]
    assert all(x.equal(y) for x, y in zip(whole, again))


def test_resumed_by_another_number_of_processes_it_ends_the_same(two, tiny):
    whole, from_one = kept(two, " ".join(RESUMED))[0], kept(two, "from one")[0]
    assert gap(whole, from_one) < 1e-5
    by_one = optimized(tiny, two / "by two", RESUMED, 4, 1, resume=True)
    assert gap(whole, by_one) < 1e-5
    steps = [row["step"] for row in Run(two / "by two").metrics() if "loss" in row]
    assert steps == list(range(1, 11))


def test_all_processes_draw_one_order_in_every_epoch(two):
    mine, other = kept(two, "orders")
    assert len(mine) == 2 and mine == other and mine[0] != mine[1]
    assert all(sorted(order) == list(range(len(TASKS) * 8)) for order in mine)


def test_an_evaluation_is_shared_out_and_comes_back_in_order(two, tiny, tmp_path):
    (rows, asked), (others, more) = kept(two, "answers")
    one, whole = answered(tiny, tmp_path)
    assert rows == others == one and asked + more == whole and abs(asked - more) <= 12
    assert len(whole_lines(two / "answers/answers.jsonl")) == whole
    assert sorted(whole_lines(two / "answers/answers.jsonl")) == sorted(
        whole_lines(tmp_path / "answers.jsonl")
    )


def test_the_first_process_alone_writes(two):
    for folder in (two / "tune", two / " ".join(RESUMED), two / "answers"):
        assert not [p for p in folder.iterdir() if "-1" in p.name or p.suffix == ".draft"], folder
    log = [row["step"] for row in Run(two / "tune").metrics() if "loss" in row]
    assert log == list(range(1, 11))
    checkpoint = two / " ".join(RESUMED) / "checkpoint/checkpoint-9"
    assert is_whole(checkpoint) and (checkpoint / "rng_state_1.pth").exists()


def test_early_stopping_and_the_outer_loss_are_those_of_one_process(two, tiny, tmp_path):
    mine, other = kept(two, "scores")
    one = validated(tiny, tmp_path, 1)
    assert mine == other and [score for score, _ in mine] == [0., -1., -2.]
    assert [loss for _, loss in mine] == pytest.approx([loss for _, loss in one], rel=1e-4)


if __name__ == "__main__":
    torch.set_num_threads(1)
    pytest_collection_finish()
    work(sys.argv[1], Path(sys.argv[2]))
