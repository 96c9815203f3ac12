"""One process, micro-batches and two processes: the same rows, the same theta and phi. Started by
torchrun, this file does in two processes what its tests then compare."""
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import tiny_t5

from instop_nb.batches import tokenize_tasks
from instop_nb.bilevel import Outer, optimize
from instop_nb.embedder import DirectEmbedder, InstanceEmbedder
from instop_nb.extractor import DirectExtractor, InstanceExtractor, draw_candidates
from instop_nb.microworld import micro_tasks
from instop_nb.models import load_model
from instop_nb.runs import Run
from instop_nb.seals import is_whole
from instop_nb.tuning import DEFINITION, answers, evaluate, tune

TASKS = micro_tasks("train", 8)[:40:4]
INNER, META = TASKS[:7], TASKS[7:]
ROWS = 8  # Of a step, however it is cut up
KINDS = {
    "embedder-dp": lambda m, tok: DirectEmbedder.for_model(m, len(INNER), l=2),
    "embedder-ic": lambda m, tok: InstanceEmbedder(m, l=2),
    "extractor-dp": lambda m, tok: DirectExtractor(m, candidates(tok)),
    "extractor-ic": lambda m, tok: InstanceExtractor(m, candidates(tok)),
}
CASES = [
    (kind, method, product)
    for kind in KINDS for method in ("neumann", "identity") for product in ("exact", "differences")
]


def candidates(tokenizer): return draw_candidates(INNER, tokenizer, n=3, blanks=1, max_length=24)


def tuned(model, folder, parts, processes, steps=10, **others):
    model, tokenizer = load_model(model, "cpu")
    rows = tokenize_tasks(TASKS, tokenizer, DEFINITION)
    tune(model, tokenizer, rows, folder, steps, ROWS // parts // processes, quiet=True,
         gradient_accumulation_steps=parts, logging_steps=1, **others)
    return list(model.parameters())


def optimized(model, folder, case, parts, processes, steps=10, **others):
    kind, method, product = case
    model, tokenizer = load_model(model, "cpu", torch.float64 if product == "differences" else None)
    phi = KINDS[kind](model, tokenizer)
    trainer = optimize(
        model, tokenizer, phi.to(model.dtype), INNER, META, folder, steps,
        Outer(K=5, method=method, product=product, meta_batch_size=6, gamma=1e-2, phi_rate=1e-1),
        batch_size=ROWS // parts // processes, instance="own", quiet=True,
        arguments=dict(gradient_accumulation_steps=parts, logging_steps=1), **others,
    )
    return [*trainer.model.parameters(), *trainer.instruction.parameters()]
