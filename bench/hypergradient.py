"""What a hypergradient costs, as ratios to one inner step: `python bench/hypergradient.py [--sizes
2M,13M,50M] [--rounds 5]`.

Each method computes the hypergradient of one T5 with random weights (dropout off, float32, one
thread). Times are CPU
times of interleaved rounds: in each round every method runs once, and its time is divided by that
of an inner step
(forward, backward, Adam) of the same round; the table shows medians and quartiles, and below it the
whole training loop,
20 inner steps with one hypergradient. Peak memory is measured for each method in a process of its
own. The error is that
against the same arithmetic in double precision.
The peers (betty-ml, torchopt) are measured where they are installed: pip install
'instop_nb[bench]'.
"""
import argparse
import importlib.metadata
import os
import platform
import resource
import statistics
import subprocess
import sys
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from transformers import T5Config, T5ForConditionalGeneration

from instop_nb.hypergradient import implicit_term, outer_gradient
from instop_nb.systems import adam_scales
from rounds import cpu_seconds, spread, write_record

SIZES = {"2M": dict(vocab_size=4096, d_model=128, d_kv=32, d_ff=256, num_layers=2, num_heads=4),
         "13M": dict(vocab_size=8192, d_model=384, d_kv=64, d_ff=768, num_layers=2, num_heads=6),
         "50M": dict(vocab_size=32128, d_model=512, d_kv=64, d_ff=1024, num_layers=5, num_heads=8)}
BATCH, META_BATCH, PREFIX, SOURCE, TARGET, GAMMA = 2, 8, 64, 256, 32, 1e-5


class Problem:
    "A T5 with a learnable prefix, one inner batch and one meta batch."
    def __init__(self, size, attention="sdpa"):
        torch.manual_seed(0)
        config = T5Config(
            **SIZES[size], dropout_rate=0.0, decoder_start_token_id=0,
            feed_forward_proj="gated-gelu", tie_word_embeddings=False,
        )
        self.model = T5ForConditionalGeneration._from_config(config, attn_implementation=attention)
        self.prefix = torch.nn.Parameter(.5 * torch.randn(PREFIX, config.d_model))
        self.theta, self.phi = list(self.model.parameters()), [self.prefix]
        # a real step in all but length: the problem stays the same
        self.optimizer = torch.optim.Adam(self.theta, lr=1e-30)
        self.ids, self.labels = (
            torch.randint(2, config.vocab_size, (BATCH, n)) for n in (SOURCE, TARGET)
        )
        self.meta_ids, self.meta_labels = (
            torch.randint(2, config.vocab_size, (META_BATCH, n)) for n in (SOURCE, TARGET)
        )

    def inner(self):
        text = self.model.get_input_embeddings()(self.ids)
        return self.model(
            inputs_embeds=torch.cat([self.prefix.expand(BATCH, -1, -1), text], 1),
            labels=self.labels,
        ).loss

    def outer(self, rows):
        return self.model(input_ids=self.meta_ids[rows], labels=self.meta_labels[rows]).loss

    def micro_batches(self, n):
        return [
            lambda i=i: self.outer(slice(i, i + n)) * n / META_BATCH
            for i in range(0, META_BATCH, n)
        ]

    def inner_step(self):
        for p in self.phi: p.requires_grad_(False)
        self.inner().backward(); self.optimizer.step(); self.optimizer.zero_grad()
        for p in self.phi: p.requires_grad_(True)


def double_backward(problem, v1, M=1):
    """Equation 12 as the paper's code computes it: one graph of the inner gradient, products
    with all of theta."""
    grads = torch.autograd.grad(problem.inner(), problem.theta, create_graph=True)
    term, total = list(v1), list(v1)
    for _ in range(M):
        term = [
            t - GAMMA * h
            for t, h in zip(
                term, torch.autograd.grad(grads, problem.theta, term, retain_graph=True)
            )
        ]
        total = [s + t for s, t in zip(total, term)]
    return torch.autograd.grad(grads, problem.phi, [-GAMMA * s for s in total])


def betty(name):
    """A method of betty-ml; what it calls a problem is here an object with the few things that
    the method asks for."""
    def run(problem, v1, M=1):
        from types import SimpleNamespace

        from betty.hypergradient import jvp_fn_mapping
        config = SimpleNamespace(neumann_iterations=M, neumann_alpha=GAMMA, darts_alpha=1e-3)
        current = SimpleNamespace(
            paths=[], config=config, cur_batch=None,
            training_step_exec=lambda batch: problem.inner(),
            trainable_parameters=lambda: problem.theta,
        )
        return jvp_fn_mapping[name](
            v1, current, SimpleNamespace(trainable_parameters=lambda: problem.phi)
        )
    return run


def torchopt(problem, v1, M=1):
    """Implicit differentiation of torchopt: a custom root of the inner gradient, solved by its
    Neumann series."""
    import torchopt
    names = [name for name, _ in problem.model.named_parameters()]
    def gradient(theta, prefix):
        def loss(theta):
            from torch.func import functional_call
            parameters = dict(zip(names, theta))
            text = torch.nn.functional.embedding(problem.ids, parameters["shared.weight"])
            embeds = torch.cat([prefix.expand(BATCH, -1, -1), text], 1)
            return functional_call(
                problem.model, parameters, kwargs=dict(inputs_embeds=embeds, labels=problem.labels)
            ).loss
        return torch.func.grad(loss)(theta)
    solver = torchopt.linear_solve.solve_inv(ns=True, maxiter=M, alpha=GAMMA)
    @torchopt.diff.implicit.custom_root(gradient, argnums=1, solve=solver)
    def trained(theta, prefix): return tuple(t.detach().clone().requires_grad_() for t in theta)
    theta = trained(tuple(problem.theta), problem.prefix)
    return torch.autograd.grad(sum((t * v).sum() for t, v in zip(theta, v1)), problem.phi)


def ours(method, product, adam=False, fresh=False):
    "Our engine; in the units of Adam, or with a batch of its own for each product."
    def run(problem, v1, M=1):
        scales = adam_scales(problem.optimizer, problem.theta) if adam else None
        return implicit_term(
            problem.inner, problem.theta, problem.phi, v1, method, M, gamma=GAMMA, product=product,
            precondition=scales, terms=[problem.inner] * M if fresh else None,
        )
    return run


def warm(problem, v1, M=1):
    "Our engine, from an earlier solution (here the outer gradient, as long as any)."
    start = [v.clone() for v in v1]
    return implicit_term(
        problem.inner, problem.theta, problem.phi, v1, n_terms=M, gamma=GAMMA, start=start
    )


class Method(NamedTuple):
    "One row of the table."
    run: Callable  # (problem, v1, M) -> the implicit term
    attention: str = "sdpa"  # of the model
    package: str = "instop_nb"  # that must be installed
    micro: int = META_BATCH  # instances of the meta batch at a time


METHODS = {
    "exact": Method(ours("neumann", "exact")),
    "differences": Method(ours("neumann", "differences"), micro=BATCH),
    "identity, differences": Method(ours("identity", "differences"), micro=BATCH),
    "identity, Adam": Method(ours("identity", "differences", adam=True), micro=BATCH),  # SAMA
    "identity, exact": Method(ours("identity", "exact")),
    "exact, Adam": Method(ours("neumann", "exact", adam=True)),
    "exact, fresh batches": Method(ours("neumann", "exact", fresh=True)),
    "exact, warm": Method(warm),
    "nystrom, exact": Method(ours("nystrom", "exact")),
    "penalty": Method(ours("penalty", "differences"), micro=BATCH),
    "the paper's arithmetic": Method(double_backward, "eager", "torch"),
    "betty-ml, neumann": Method(betty("neumann"), "eager", "betty-ml"),
    "betty-ml, darts": Method(betty("darts"), package="betty-ml", micro=BATCH),
    "torchopt, custom_root": Method(torchopt, "eager", "torchopt"),
}
# compared with themselves in double precision: they do not compute equation 12
OWN = ("identity, Adam", "exact, Adam", "exact, warm", "nystrom, exact", "penalty")
# measured in the whole training loop, too
LOOPED = ["exact", "differences", "identity, differences"]
K = 20


def installed():
    "The methods whose package is there."
    return [name for name, method in METHODS.items() if is_installed(method.package)]


def is_installed(package):
    try: return bool(importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError: return False


def meta_gradient(problem, micro=META_BATCH):
    "v1, the gradient of the meta batch in micro-batches of that size."
    return outer_gradient(problem.micro_batches(micro), problem.theta, problem.phi)[0]


def whole(name, problem, M):
    "A hypergradient from the beginning, the meta gradient included."
    return METHODS[name].run(problem, meta_gradient(problem, METHODS[name].micro), M)


def time_round(problems, names, v1, M):
    """CPU seconds of everything, once each, as ratios to an inner step (the mean of one before
    and one after)."""
    step = lambda: cpu_seconds(problems["sdpa"].inner_step)
    steps, row = [step()], {}
    for name in names:
        problem, run = problems[METHODS[name].attention], METHODS[name].run
        row[name, "given v"] = cpu_seconds(lambda: run(problem, [v.clone() for v in v1], M))
        row[name, "whole"] = cpu_seconds(lambda: whole(name, problem, M))
        steps.append(step())
    mean = statistics.mean(steps)
    return {key: seconds / mean for key, seconds in row.items()} | {("inner step", "seconds"): mean}


def times(size, rounds, M):
    "Medians and quartiles of the ratios over interleaved rounds; the first round only warms up."
    problems = {attention: Problem(size, attention=attention) for attention in ("sdpa", "eager")}
    v1 = meta_gradient(problems["sdpa"])
    found = [time_round(problems, installed(), v1, M) for _ in range(rounds + 1)][1:]
    return {
        f"{name}, {what}": spread([row[name, what] for row in found]) for name, what in found[0]
    }


def loops(size, rounds, M):
    """CPU time of K inner steps with one outer step, as a ratio to K inner steps alone, round by
    round."""
    problem = Problem(size)
    phi_optimizer = torch.optim.Adam(problem.phi, lr=1e-5)
    def loop(name=None):
        for _ in range(K): problem.inner_step()
        if not name: return
        for p, g in zip(problem.phi, whole(name, problem, M)): p.grad = g
        phi_optimizer.step(); phi_optimizer.zero_grad()
    for name in LOOPED: whole(name, problem, M)
    found = []
    for _ in range(rounds):
        base = cpu_seconds(loop)
        found.append({name: cpu_seconds(lambda: loop(name)) / base for name in LOOPED})
    return {name: spread([row[name] for row in found]) for name in LOOPED}


@contextmanager
def exact_layer_norm():
    """Inside, T5's layer norm keeps double precision; the stock one computes in single precision
    whatever it is given."""
    from transformers.models.t5.modeling_t5 import T5LayerNorm
    def norm(self, x):
        return (
            self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        )
    stock, T5LayerNorm.forward = T5LayerNorm.forward, norm
    try: yield
    finally: T5LayerNorm.forward = stock


@lru_cache
def in_double_precision(size, M, name=None):
    "What the paper's arithmetic gives there, or a method of ours."
    problem = Problem(size, attention="eager")
    problem.model.double(); problem.prefix.data = problem.prefix.data.double()
    problem.inner_step()
    run = METHODS[name].run if name else double_backward
    return run(problem, meta_gradient(problem), M)[0]


def error(size, name, M):
    """Relative error of a method's single-precision result to the same arithmetic in double
    precision."""
    without_products = name.startswith("identity") or name == "betty-ml, darts"
    with exact_layer_norm():
        expected = in_double_precision(size, M, name) if name in OWN else (
            (M + 1) * in_double_precision(size, 0)
            if without_products
            else in_double_precision(size, M)
        )
        single = Problem(size, attention=METHODS[name].attention)
        single.inner_step()
        found = METHODS[name].run(single, meta_gradient(single), M)[0]
    if name == "betty-ml, darts": found = found * GAMMA * (M + 1)  # it gives the direction alone
    return ((found.double() - expected).norm() / expected.norm()).item()


def resident():
    "The most memory that this process has held so far, in bytes."
    status = Path("/proc/self/status")  # Linux: its ru_maxrss would begin with that of the parent
    if status.exists(): return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def peak(size, name, M):
    """Peak memory of this process in bytes, without what Python and its libraries take: two
    inner steps, then the method."""
    before = resident()
    problem = Problem(size, attention=METHODS[name].attention if name in METHODS else "sdpa")
    for _ in range(2): problem.inner_step()
    if name in METHODS: whole(name, problem, M); problem.inner_step()
    return resident() - before


def alone(*arguments):
    "What this script prints for some arguments in a process of its own."
    done = subprocess.run(
        [sys.executable, __file__, *map(str, arguments)], capture_output=True, text=True,
        env={**os.environ, "MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"},
    )
    if done.returncode: raise SystemExit(done.stderr)
    return float(done.stdout)


def measure(size, rounds, M):
    "All figures for one size."
    names = installed()
    found, base = (
        times(size, rounds, M), alone("--peak", "inner step", "--sizes", size, "--terms", M),
    )
    return {
        "parameters": sum(p.numel() for p in Problem(size).theta),
        "inner_step_seconds": found["inner step, seconds"], "inner_step_peak_bytes": base,
        "loops": loops(size, rounds, M),
        "methods": {
            name: {
                "given_v": found[f"{name}, given v"], "whole": found[f"{name}, whole"],
                "peak": alone("--peak", name, "--sizes", size, "--terms", M) / base,
                "error": error(size, name, M),
            }
            for name in names
        },
    }


def show(record):
    "Print the figures as a table."
    for size, found in record["sizes"].items():
        seconds = found["inner_step_seconds"]["median"]
        peak = found["inner_step_peak_bytes"] / 2**20
        print(
            f"\n{size} ({found['parameters']:,} parameters), M = {record['terms']}, "
            f"ratios to an inner step ({seconds:.2f} CPU s, {peak:.0f} MiB)"
        )
        print(
            f"{'method':24}{'given v':>20}{'with meta batch 8':>24}{'peak memory':>14}{'error':>10}"
        )
        def ratio(x): return f"{x['median']:.2f} [{x['low']:.2f}, {x['high']:.2f}]"
        for name, row in found["methods"].items():
            print(
                f"{name:24}{ratio(row['given_v']):>20}{ratio(row['whole']):>24}{row['peak']:14.2f}{row['error']:10.0e}"
            )
        for name, row in found["loops"].items():
            print(f"{K} inner steps and one hypergradient, {name}: {ratio(row)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("--sizes", default=",".join(SIZES), help="of " + ", ".join(SIZES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--terms", type=int, default=1, help="M")
    parser.add_argument(
        "--out", type=Path, default=Path("instop_nb/records/bench-hypergradient.json")
    )
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    # random T5s have saturated attention; numbers near zero would make some products ten times
    # slower
    torch.set_flush_denormal(True)
    warnings.simplefilter("ignore")
    if options.peak: print(peak(options.sizes, options.peak, options.terms)); return
    versions = {
        p: importlib.metadata.version(p)
        for p in ("torch", "transformers", "betty-ml", "torchopt")
        if is_installed(p)
    }
    record = {
        "command": "python bench/hypergradient.py", "terms": options.terms,
        "rounds": options.rounds, "versions": versions, "python": platform.python_version(),
        "sizes": {},
    }
    for size in options.sizes.split(","):
        record["sizes"][size] = measure(size, options.rounds, options.terms)
        write_record(record, options.out)
    show(record)


if __name__ == "__main__": main()
