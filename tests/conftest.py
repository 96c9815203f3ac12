"""What several test files share."""
import gc
import html
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# No test fails for being slow, nor by chance: an unchanged tree has the same examples each time.
settings.register_profile(
    "suite", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("suite")


def pytest_collection_finish():
    """All that is imported by now stays, so no collection has to look through it: transformers'
    trainer asks for two in each training."""
    gc.collect()
    gc.freeze()


os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"

REAL = Path(__file__).resolve().parent.parent.parent / "shared" / "natural-instructions"


def tiny_t5(folder, texts=None):
    """Save a T5 with random weights, with a tokenizer for some texts (None: that of the micro
    T5); return the folder."""
    from instop_nb.models import load_model
    from instop_nb.micro import micro_config, new_t5, train_tokenizer
    tokenizer = train_tokenizer(texts, 600) if texts else load_model("micro", device="cpu")[1]
    new_t5(
        micro_config(
            len(tokenizer), d_model=16, d_ff=32, num_heads=2, num_layers=1, num_decoder_layers=1
        )
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def record_and_page(study, notebook):
    """Return a study's shipped record, all that its chapter prints, and the lines of the
    chapter's tables; skip where there is no record."""
    from instop_nb.tables import read_record
    try: record = read_record(study.name)
    except FileNotFoundError: pytest.skip(f"{study.name}: the package has no record of it yet")
    assert (
        list(dict.fromkeys(run["arm"] for run in record["runs"])) == list(study.arms)
        and record["scale"] == 1
        and record["seeds"] >= 3
    )
    outputs = [
        output
        for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        for output in cell.get("outputs", [])
    ]
    lines = [
        line
        for output in outputs
        for text in ["".join(output.get("data", {}).get("text/markdown", []))]
        for line in html.unescape(text).splitlines()
    ]
    return record, "".join("".join(output.get("text", "")) for output in outputs), lines


def check_claims_of_page(study, record, printed, lines):
    "A page names its record, and has every claim of a study with its numbers and its verdict."
    from instop_nb.claims import all_findings, read_claims
    assert f"{study}: the saved record ({record['seeds']} seeds" in printed
    found = all_findings(study)
    assert [f.claim for f in found] == [c for c in read_claims() if c.study == study] and found
    for f in found:
        shown = [line for line in lines if line.startswith(f"| {f.claim.says} |")]
        assert shown and f"| {f.mean:.1f} ± {f.half:.1f} |" in shown[0], f.claim.says
        assert f.verdict in shown[0], f.claim.says


def check_that_no_run_is_repeated(study, runs, record, **options):
    "Make a study again whose runs are finished: nothing may run, and the record stays as it is."
    from instop_nb.study import reproduce
    assert json.loads((runs / f"{study.name}.json").read_text()) == record
    def explode(*args, **kwargs): raise AssertionError("a finished run is made again")
    assert (
        reproduce(replace(study, run=explode), runs, seeds=1, workers=1, quiet=True, **options)[
            "runs"
        ]
        == record["runs"]
    )


@pytest.fixture
def real_tasks():
    "Return the folder of real Super-NaturalInstructions tasks, or skip."
    if not REAL.is_dir():
        pytest.skip(
            "no real tasks: put a natural-instructions clone at ../shared/natural-instructions"
        )
    return REAL


@pytest.fixture(scope="session")
def few_real_tasks(tmp_path_factory):
    """Return a folder with the shortest of the real tasks of each category, its ten shortest
    instances, where more prove nothing; or skip."""
    if not REAL.is_dir():
        pytest.skip(
            "no real tasks: put a natural-instructions clone at ../shared/natural-instructions"
        )
    from instop_nb.tasks import load_tasks, write_task
    folder = tmp_path_factory.mktemp("real")
    for part in ("tasks", "splits/default"): (folder / part).mkdir(parents=True)
    for split in ("train", "test"):
        tasks = [
            replace(t, instances=sorted(t.instances, key=lambda i: len(i.input))[:10])
            for t in load_tasks(REAL, split, 100)
        ]
        def length(task): return len(task.definition[0]) + max(len(i.input) for i in task.instances)
        chosen = {t.category: t for t in sorted(tasks, key=length, reverse=True)}.values()
        for task in chosen: write_task(task, folder / "tasks" / f"{task.name}.json")
        (folder / "splits" / "default" / f"{split}_tasks.txt").write_text(
            "".join(f"{task.name}\n" for task in chosen)
        )
    return folder


@pytest.fixture(autouse=True)
def one_thread():
    "Run each test on one thread, as the records were made."
    import torch
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
