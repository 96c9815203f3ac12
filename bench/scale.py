"""What a run takes, planned and measured: `python bench/scale.py [--rounds 3]`.

Peaks: `planned_cost` beside the bytes that an allocator counts in a real run of the same step,
for three T5s with random weights; on a GPU, where there is one, otherwise on the CPU. Last comes
T5-base by the recipe of the paper, with what `instop plan` advises for 12 GB, in float32 (it
needs them free, and six CPU minutes).
Ratios: the time of an inner step in other ways, and with an outer step behind it, to a plain inner
step of the same round; rounds are interleaved, medians and quartiles are kept. On a CPU it
is CPU time, and that of two processes is the sum of both.
Sizes: what is planned for T5-small to 11 billion weights by the recipe of the paper.
"""
import argparse
import json
import os
import platform
import subprocess
import sys
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
import transformers
from rounds import spread, write_record
from transformers import T5Config

from instop_nb.models import best_device
from instop_nb.plan import CHECKPOINTING, sized_config
from instop_nb.scale import peak_bytes, planned_cost, rehearsal
from instop_nb.settings import Training, choose_training
from instop_nb.trainer import no_bars

MODELS = {"0.5M": dict(vocab_size=1000, d_model=128, d_kv=32, d_ff=256, num_layers=1, num_heads=4),
          "3M": dict(vocab_size=4096, d_model=256, d_kv=64, d_ff=512, num_layers=1, num_heads=4),
          "9M": dict(vocab_size=8192, d_model=384, d_kv=64, d_ff=768, num_layers=2, num_heads=6)}
TEXT = dict(batch_size=4, max_source=192, max_target=32, max_instance=32, l=16)
PHI, TASKS = "embedder-dp", 20
EXACT = {"outer": {"method": "neumann", "product": "exact"}}
DIFFERENCES = {"outer": {"method": "neumann"}}
CHECKPOINTS = {"arguments": {CHECKPOINTING: True}}
SETTINGS = {  # Name -> instruction, fields of the recipe
    "tune": (None, {}),
    "tune, checkpointing": (None, CHECKPOINTS),
    "tune, bf16": (None, {"arguments": {"bf16": True}}),
    "neumann, exact": (PHI, EXACT),
    "neumann, exact, checkpointing": (PHI, EXACT | CHECKPOINTS),
    "neumann, differences": (PHI, DIFFERENCES),
    "differences, checkpointing": (PHI, DIFFERENCES | CHECKPOINTS),
    "identity, exact": (PHI, {"outer": {"product": "exact"}}),
}
# Ratios: name -> instruction, fields; the first is what the others are divided by
PLAIN = "an inner step"
WAYS = {
    PLAIN: (None, {}),
    "four micro-batches": (
        None, {"batch_size": 1, "arguments": {"gradient_accumulation_steps": 4}}
    ),
    "checkpointing": SETTINGS["tune, checkpointing"],
    "with exact products": SETTINGS["neumann, exact"],
    "with differences": SETTINGS["neumann, differences"],
    "with identity": SETTINGS["identity, exact"],
}
TWO = "two processes"
LARGE = ("t5-v1_1-small", "t5-v1_1-base", "t5-v1_1-xxl")
FRUGAL = [f"{CHECKPOINTING}=true", "batch_size=1", "gradient_accumulation_steps=2",
          "product=differences"]


def config_of(model):
    "The configuration of a small T5."
    return T5Config(**MODELS[model], feed_forward_proj="gated-gelu", tie_word_embeddings=False,
                    decoder_start_token_id=0)


def training_of(changes):
    "What runs: the fields of a setting over those that all share."
    outer = {"meta_batch_size": 4, **changes.get("outer", {})}
    return Training(**{**TEXT, **changes, "outer": outer})


def ready(config, kind, how, device, folder, n_tasks=TASKS):
    "A trainer that has only to be started."
    with no_bars():
        return rehearsal(config, how, kind, folder, n_tasks=n_tasks, device=device)


def compare(config, kind, how, device, n_tasks=TASKS):
    "Planned and measured bytes."
    planned = planned_cost(config, how, kind, n_tasks=n_tasks).memory()
    with TemporaryDirectory() as folder:
        def run(): ready(config, kind, how, device, folder, n_tasks).train()
        return {"planned": planned, "measured": peak_bytes(run, device)}


def small_peaks(device):
    "Rows of the record, as they are measured."
    for model in MODELS:
        for setting, (kind, changes) in SETTINGS.items():
            found = compare(config_of(model), kind, training_of(changes), device)
            yield {"size": model, "setting": setting, **found}


def base_peak(device):
    "A row of the record: T5-base by the recipe of the paper."
    config = sized_config(LARGE[1])
    how = choose_training(config, "paper", FRUGAL, {})
    found = compare(config, PHI, how, device, n_tasks=715)
    return {"size": LARGE[1], "setting": "the paper's, in 12 GB", **found}


def clock(device):
    "Seconds, on a CPU those that this process has spent."
    if device == "cpu": return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def seconds(way, device):
    "Seconds of a rehearsal, without the making of it."
    kind, changes = WAYS[way]
    with TemporaryDirectory() as folder:
        trainer = ready(config_of("3M"), kind, training_of(changes), device, folder)
        start = clock(device)
        trainer.train()
        return clock(device) - start


def halves(rounds):
    "Two processes with half of the rows each, round by round: the sum of their CPU seconds."
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2",
               "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", __file__]
    with TemporaryDirectory() as folder:
        subprocess.run([*command, "--half", folder, "--rounds", str(rounds)], check=True)
        found = [json.loads(path.read_text()) for path in sorted(Path(folder).glob("*.json"))]
    assert len(found) == 2
    return [sum(parts) for parts in zip(*found)]


def half(folder, rounds):
    "What each of two processes does."
    how, found = training_of({"batch_size": TEXT["batch_size"] // 2}), []
    for _ in range(rounds + 1):
        with TemporaryDirectory() as place:
            trainer = ready(config_of("3M"), None, how, "cpu", place)
            torch.distributed.barrier()
            start = clock("cpu"); trainer.train(); found.append(clock("cpu") - start)
    (Path(folder) / f"{os.environ['RANK']}.json").write_text(json.dumps(found[1:]))


def ratios(device, rounds):
    "Medians and quartiles over interleaved rounds; the first one only warms up."
    table = [{way: seconds(way, device) for way in WAYS} for _ in range(rounds + 1)][1:]
    found = {way: spread([row[way] / row[PLAIN] for row in table]) for way in WAYS if way != PLAIN}
    if device == "cpu":
        plain = [row[PLAIN] for row in table]
        found[TWO] = spread([both / one for both, one in zip(halves(rounds), plain)])
    return found


def large(size):
    "What is planned for a large T5, by the recipe of the paper."
    config = sized_config(size)
    how = choose_training(config, "paper", [], {})
    return {"tune": asdict(planned_cost(config, how)),
            "optimize": asdict(planned_cost(config, how, PHI))}


def show(record):
    "Print the record."
    for row in record["peaks"]:
        error = row["planned"] / row["measured"] - 1
        print(f"{row['size']:14}{row['setting']:32}{row['planned'] / 1e6:8.1f} MB planned"
              f"{row['measured'] / 1e6:8.1f} measured {error:+.1%}")
    for way, ratio in record["ratios"].items():
        print(f"{way:24}{ratio['median']:6.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]")
    for size, cost in record["sizes"].items(): print(size, cost)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("instop_nb/records/bench-scale.json"))
    parser.add_argument("--half", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    warnings.simplefilter("ignore")
    if options.half: return half(options.half, options.rounds)
    device = best_device()
    record = {
        "command": "python bench/scale.py", "rounds": options.rounds,
        "device": "CPU" if device == "cpu" else torch.cuda.get_device_name(device),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "python": platform.python_version(), "peaks": [], "ratios": {}, "sizes": {},
    }
    for row in small_peaks(device):
        record["peaks"].append(row)
        write_record(record, options.out)
    record["ratios"] = ratios(device, options.rounds)
    for size in LARGE:
        record["sizes"][size] = large(size)
        write_record(record, options.out)
    record["peaks"].append(base_peak(device))
    write_record(record, options.out)
    show(record)


if __name__ == "__main__": main()
