"""A run is a folder: it may be killed at any moment, used again, moved, damaged or asked for twice,
and says so or goes on as if nothing had happened."""
import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
from dataclasses import replace
from multiprocessing.connection import wait
from threading import RLock

import pytest
import torch
from accelerate.state import AcceleratorState
from conftest import tiny_t5
from filelock import FileLock
from safetensors import SafetensorError
from tqdm.auto import tqdm
from transformers import TrainerCallback

from instop_nb.batches import tokenize_tasks
from instop_nb.bilevel import Outer, optimize
from instop_nb.embedder import DirectEmbedder
from instop_nb.microworld import micro_tasks
from instop_nb.pretraining import Recipe, pretrain
from instop_nb.runs import take_up
from instop_nb.seals import fingerprint
from instop_nb.seals import is_whole
from instop_nb.models import load_model
from instop_nb.trainer import save_model
from instop_nb.core import TaskError
from instop_nb.tuning import DEFINITION, answers, evaluate, tune
from instop_nb.runs import Run, add_lines, whole_lines, writing
from instop_nb.study import Study, made_once, reproduce
from instop_nb.jobs import run_jobs
from instop_nb.trainer import train_in

TASKS = [
    replace(t, categories=[f"kind {n % 2}"]) for n, t in enumerate(micro_tasks("train", 4)[:6])
]
SAVING = dict(save_strategy="steps", save_steps=1, save_total_limit=2, logging_steps=1)
STEPS = 4


@pytest.fixture(scope="module")
def tiny(tmp_path_factory): return tiny_t5(tmp_path_factory.mktemp("t5"))


class Killed(Exception):
    "Stands for the end of a process."


class KillAt(TrainerCallback):
    "Ends a run behind a step, or where that step has been saved."
    def __init__(self, step, saved=True): self.step, self.saved = step, saved
    def _end(self, state, here):
        if here and state.global_step == self.step: raise Killed
    def on_save(self, args, state, control, **kwargs): self._end(state, self.saved)
    def on_step_end(self, args, state, control, **kwargs): self._end(state, not self.saved)


def rows_of(tokenizer): return tokenize_tasks(TASKS, tokenizer, DEFINITION)


def tuned(tiny, folder, steps=STEPS, **others):
    model, tokenizer = load_model(tiny, "cpu")
    return tune(
        model, tokenizer, rows_of(tokenizer), folder, steps, 4, quiet=True, **{**SAVING, **others}
    )


def optimized(tiny, folder, steps=STEPS, outer=(), callbacks=(), arguments=(), **others):
    model, tokenizer = load_model(tiny, "cpu")
    phi = DirectEmbedder.for_model(model, 4, 2)
    trainer = optimize(
        model, tokenizer, phi, TASKS[:4], TASKS[4:], folder, steps,
        Outer(**{"K": 1, "meta_batch_size": 4, **dict(outer)}), batch_size=4, quiet=True,
        callbacks=callbacks, arguments={} if others.get("every") else {**SAVING, **dict(arguments)},
        **others,
    )
    return torch.nn.ModuleDict({"theta": trainer.model, "phi": trainer.instruction})


def until_killed(function, *args, **others):
    with pytest.raises(Killed): function(*args, **others)


def same(a, b): return fingerprint(a) == fingerprint(b)


# Killed anywhere, by the system, while it computes or writes

def pretrained(tiny, folder, resume=False, **others):
    recipe = Recipe(
        n_documents=40, vocab_size=300, d_model=16, d_ff=16, num_heads=1, num_layers=1, steps=STEPS,
        batch_size=4,
    )
    return pretrain(recipe, folder, quiet=True, resume=resume, **{**SAVING, **others})[0]


def evaluated(tiny, folder, resume=False):
    "Something to hash, whatever it is."
    folder.mkdir(exist_ok=True)
    return evaluate(
        *load_model(tiny, "cpu"), TASKS, batch_size=4, max_new_tokens=6,
        saved=folder / "answers.jsonl",
    )


def one_run(folder, seed, scale, data, model, steps):
    return {"weights": fingerprint(tuned(model, folder, steps, seed=seed))}


def reproduced(tiny, folder, resume=False):
    study = Study("toy", "a toy", "none", one_run, {"short": {"steps": 1}, "long": {"steps": 2}})
    record = reproduce(study, folder, seeds=2, workers=1, model=tiny, quiet=True)
    return [{**run, "cpu_seconds": 0} for run in record["runs"]]


WORK = {
    "pretrain": pretrained, "tune": tuned, "optimize": optimized, "evaluate": evaluated,
    "reproduce": reproduced,
}


def begun(work, *args, seconds, **options):
    """A process that does some work, and that the system ends after so many seconds of its own
    computing, if that comes first; 0: never."""
    def child():
        torch.set_num_threads(1)
        tqdm.set_lock(RLock())  # The parent's would stay locked where who holds it is killed
        if seconds: os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        # SIGPROF ends the process at once, like a kill, but counts its own time alone
        signal.setitimer(signal.ITIMER_PROF, seconds)
        work(*args, **options)
    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    return process


def in_child(work, tiny, folder, seconds, **options):
    "Do some work in a process that may be ended; say whether it ended by itself."
    process = begun(work, tiny, folder, seconds=seconds, **options)
    process.join()
    return process.exitcode == 0


def one_of_two(rank, port, work, tiny, folder, **options):
    "What torchrun starts; what it ends with is written beside the folder."
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="localhost",
        MASTER_PORT=str(port),
    )
    AcceleratorState._reset_state(reset_partial_state=True)  # The parent's
    made = fingerprint(work(tiny, folder, **options))
    folder.with_suffix(f".{rank}").write_text(made)


def in_two(work, tiny, folder, seconds=(0, 0), **options):
    """Do some work in two processes, each of which may be ended; as under torchrun, the other is
    then ended, too. Return what both end with; None: they were ended."""
    with socket.create_server(("localhost", 0)) as free: port = free.getsockname()[1]
    pair = [
        begun(one_of_two, rank, port, work, tiny, folder, seconds=seconds[rank], **options)
        for rank in (0, 1)
    ]
    while running := [p.sentinel for p in pair if p.is_alive()]:
        if any(p.exitcode for p in pair): [p.kill() for p in pair]
        wait(running)
    if any(p.exitcode for p in pair): return
    mine, other = (folder.with_suffix(f".{rank}").read_text() for rank in (0, 1))
    assert mine == other
    return mine


KILLS = int(os.environ.get("INSTOP_KILLS", 2))  # Of each kind of work; more for a campaign


@pytest.mark.filterwarnings("ignore:.*is put aside", "ignore:.*multi-threaded.*fork")
@pytest.mark.parametrize("name", WORK)
def test_killed_at_any_moment_and_resumed_it_ends_the_same(tiny, name, tmp_path):
    work, rng, killed = WORK[name], random.Random(name), 0
    wanted = fingerprint(work(tiny, tmp_path / "whole"))  # Also warms up, as no child must
    before = os.times().user + os.times().system
    assert fingerprint(work(tiny, tmp_path / "again")) == wanted
    seconds = os.times().user + os.times().system - before
    for n in range(5 * KILLS):
        if n >= KILLS and killed: break  # One that was never killed says nothing: once more
        folder = tmp_path / str(n)
        ended = in_child(work, tiny, folder, rng.uniform(.1, .9) * seconds)
        killed, seconds = killed + (not ended), seconds / (2 if ended else 1)  # Quicker than before
        assert fingerprint(work(tiny, folder, resume=True)) == wanted, (name, n)
        rows = Run(folder).metrics() if (folder / "metrics.jsonl").exists() else []
        steps = [row["step"] for row in rows if "loss" in row]
        assert steps == sorted(set(steps)) and not list(folder.rglob("*.draft"))
    assert killed, "no run was killed: the test says nothing"


def seconds_of_children():
    times = os.times()
    return times.children_user + times.children_system


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork")
@pytest.mark.parametrize("name", ["tune", "optimize"])
def test_one_of_two_processes_is_killed_and_resumed_they_end_the_same(tiny, name, tmp_path):
    work, rng, killed = WORK[name], random.Random(name), 0
    work(tiny, tmp_path / "warm", 1)  # What the children need not import
    before = seconds_of_children()
    wanted = in_two(work, tiny, tmp_path / "whole")
    seconds = (seconds_of_children() - before) / 2
    for n in range(5 * KILLS):
        if n >= KILLS and killed: break
        times = [0, 0]
        times[rng.randrange(2)] = rng.uniform(.1, .9) * seconds
        killed += in_two(work, tiny, tmp_path / str(n), times) is None
        assert in_two(work, tiny, tmp_path / str(n), resume=True) == wanted, (name, n)
        steps = [row["step"] for row in Run(tmp_path / str(n)).metrics() if "loss" in row]
        assert steps == list(range(1, STEPS + 1)) and not list((tmp_path / str(n)).rglob("*.draft"))
    assert killed, "no run was killed: the test says nothing"


# Used again, moved, damaged

@pytest.mark.parametrize("work", [tuned, optimized])
def test_a_new_run_in_a_used_folder_is_alone_there_and_the_old_one_is_kept(work, tiny, tmp_path):
    first = work(tiny, tmp_path / "run", 6)
    until_killed(work, tiny, tmp_path / "run", 3, seed=1, callbacks=[KillAt(1)])
    assert [p.name for p in (tmp_path / "run/checkpoint").glob("checkpoint-*")] == ["checkpoint-1"]
    assert same(
        work(tiny, tmp_path / "run", 3, seed=1, resume=True),
        work(tiny, tmp_path / "new", 3, seed=1),
    )
    assert (
        is_whole(tmp_path / "run/checkpoint-1/checkpoint-6")
        and (tmp_path / "run/metrics-1.jsonl").exists()
        and first is not None
    )


DAMAGES = {
    "a file is gone": lambda c: next(p for p in sorted(c.iterdir()) if p.suffix == ".pt").unlink(),
    "no state": lambda c: (c / "trainer_state.json").unlink(),
    "half a file": lambda c: (c / "model.safetensors").write_bytes(
        (c / "model.safetensors").read_bytes()[:1000]
    ),
    "a bit": lambda c: (c / "optimizer.pt").write_bytes(
        bytes([(data := (c / "optimizer.pt").read_bytes())[0] ^ 1]) + data[1:]
    ),
    "not sealed": lambda c: (c / "sealed.json").unlink(),
    "empty": lambda c: [p.unlink() for p in c.iterdir()],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_put_aside_and_the_one_before_is_used(damage, tiny, tmp_path):
    whole = tuned(tiny, tmp_path / "whole")
    until_killed(tuned, tiny, tmp_path / "run", callbacks=[KillAt(3)])
    DAMAGES[damage](tmp_path / "run/checkpoint/checkpoint-3")
    with pytest.warns(UserWarning, match="checkpoint-3 is damaged"):
        again = tuned(tiny, tmp_path / "run", resume=True)
    assert same(again, whole) and [
        row["step"] for row in Run(tmp_path / "run").metrics() if "loss" in row
    ] == [1, 2, 3, 4]
    assert (tmp_path / "run/checkpoint/damaged-checkpoint-3-1").is_dir()


def test_where_no_checkpoint_is_whole_a_run_begins_again(tiny, tmp_path):
    until_killed(tuned, tiny, tmp_path / "run", callbacks=[KillAt(1)])
    (tmp_path / "run/checkpoint/checkpoint-1/config.json").unlink()
    with pytest.warns(UserWarning, match="damaged"):
        again = tuned(tiny, tmp_path / "run", resume=True)
    assert same(again, tuned(tiny, tmp_path / "whole"))


@pytest.mark.parametrize("name, value", [
    ("seed", 1), ("learning_rate", 1e-4), ("steps", 5), ("bias_rate", 2.0), ("max_grad_norm", .5),
])
def test_a_run_does_not_go_on_with_other_settings(name, value, tiny, tmp_path):
    until_killed(tuned, tiny, tmp_path, callbacks=[KillAt(2)])
    with pytest.raises(TaskError, match=f"{name}: found .*begun with"):
        tuned(tiny, tmp_path, resume=True, **{name: value})
    # How often it saves and logs is nobody's business
    tuned(tiny, tmp_path, resume=True, save_steps=2, logging_steps=3)


def test_a_run_does_not_go_on_with_other_rows_or_another_model(tiny, tmp_path):
    until_killed(tuned, tiny, tmp_path / "run", callbacks=[KillAt(2)])
    model, tokenizer = load_model(tiny, "cpu")
    with pytest.raises(TaskError, match="rows"):
        tune(
            model, tokenizer, rows_of(tokenizer).select(range(9)), tmp_path / "run", STEPS, 4,
            quiet=True, resume=True,
        )
    with torch.no_grad(): model.shared.weight.add_(1e-3)
    with pytest.raises(TaskError, match="model"):
        tune(
            model, tokenizer, rows_of(tokenizer), tmp_path / "run", STEPS, 4, quiet=True,
            resume=True,
        )


def test_optimize_does_not_go_on_with_another_outer_loop(tiny, tmp_path):
    until_killed(optimized, tiny, tmp_path, callbacks=[KillAt(2)])
    with pytest.raises(TaskError, match="outer"):
        optimized(tiny, tmp_path, resume=True, outer={"K": 2})


def test_an_old_checkpoint_without_its_settings_is_not_trusted(tiny, tmp_path):
    until_killed(tuned, tiny, tmp_path, callbacks=[KillAt(2)])
    (tmp_path / "checkpoint/settings.json").unlink()
    with pytest.raises(TaskError, match="start it again without resume"):
        tuned(tiny, tmp_path, resume=True)


def as_from_a_gpu(path, monkeypatch):
    state = torch.load(path, weights_only=True)
    with monkeypatch.context() as m:
        m.setattr(torch.serialization, "location_tag", lambda storage: "cuda:7")
        torch.save(state, path)


def test_a_checkpoint_of_another_device_is_taken_up(tiny, tmp_path, monkeypatch):
    from instop_nb.seals import seal
    until_killed(optimized, tiny, tmp_path / "run", callbacks=[KillAt(2)])
    checkpoint = tmp_path / "run/checkpoint/checkpoint-2"
    as_from_a_gpu(checkpoint / "instruction.pt", monkeypatch)
    seal(checkpoint)
    assert same(optimized(tiny, tmp_path / "run", resume=True), optimized(tiny, tmp_path / "whole"))


class Watch(TrainerCallback):
    "Knows the step at which a validation is made."
    def on_step_end(self, args, state, control, **kwargs): Watch.step = state.global_step


def validated(tiny, folder, scores, patience, steps=8, **others):
    return optimized(
        tiny, folder, steps, every=1, patience=patience, validate=lambda model: scores(Watch.step),
        callbacks=[Watch(), *others.pop("callbacks", [])], **others,
    )


@pytest.mark.parametrize("kill", [1, 2, 3, 4])
def test_early_stopping_remembers_how_patient_it_was(kill, tiny, tmp_path):
    scores = lambda step: -step  # The first is the best, so that patience 3 ends with step 4
    whole = validated(tiny, tmp_path / "whole", scores, 3)
    until_killed(validated, tiny, tmp_path / "run", scores, 3, callbacks=[KillAt(kill)])
    assert same(validated(tiny, tmp_path / "run", scores, 3, resume=True), whole)
    assert max(row["step"] for row in Run(tmp_path / "run").metrics() if "eval_score" in row) == 4


def test_a_run_that_was_moved_ends_with_its_best_checkpoint(tiny, tmp_path):
    scores = lambda step: [1., 9., 2., 3., 4.][step - 1]
    whole = validated(tiny, tmp_path / "whole", scores, 99, 5)
    until_killed(validated, tiny, tmp_path / "old", scores, 99, 5, callbacks=[KillAt(3)])
    (tmp_path / "old").rename(tmp_path / "new")
    assert same(validated(tiny, tmp_path / "new", scores, 99, 5, resume=True), whole)


@pytest.mark.filterwarnings("ignore:.*is put aside")
def test_a_run_whose_best_checkpoint_is_damaged_does_not_end_with_another(tiny, tmp_path):
    scores = lambda step: [1., 9., 2., 3., 4.][step - 1]
    whole = validated(tiny, tmp_path / "whole", scores, 99, 5)
    until_killed(validated, tiny, tmp_path / "run", scores, 99, 5, callbacks=[KillAt(4)])
    (tmp_path / "run/checkpoint/checkpoint-2/model.safetensors").unlink()
    assert same(validated(tiny, tmp_path / "run", scores, 99, 5, resume=True), whole)


# Logs

def test_what_is_logged_twice_stands_once(tiny, tmp_path):
    until_killed(tuned, tiny, tmp_path, 8, callbacks=[KillAt(7, saved=False)], save_steps=4)
    with (tmp_path / "metrics.jsonl").open("a") as f: f.write('{"step": 7, "lo')
    tuned(tiny, tmp_path, 8, resume=True, save_steps=4)
    assert [row["step"] for row in Run(tmp_path).metrics() if "loss" in row] == list(range(1, 9))
    tuned(tiny, tmp_path, 8, resume=True, save_steps=4)  # nothing is left to do
    assert sum("train_runtime" in row for row in Run(tmp_path).metrics()) == 1


@pytest.mark.parametrize(
    "ends", [b"", b"{}", b'{"a": ', "{\"a\": \"é".encode()[:-1]],
    ids=["whole", "no newline", "half", "half a letter"],
)
def test_a_cut_line_is_never_glued_to_the_next(ends, tmp_path):
    (tmp_path / "log").write_bytes(b'{"n": 1}\n' + ends)
    add_lines(tmp_path / "log", ['{"n": 2}'])
    assert whole_lines(tmp_path / "log") == ['{"n": 1}', '{"n": 2}']


def test_an_outer_step_takes_no_row_of_the_inner_loss_away(tiny, tmp_path):
    optimized(tiny, tmp_path, arguments={"logging_steps": 2}, outer={"K": 2})
    rows = Run(tmp_path).metrics()
    assert (
        [row["step"] for row in rows if "loss" in row]
        == [2, 4]
        == [row["step"] for row in rows if "outer_loss" in row]
    )


# Several at once, and others' answers

def test_a_folder_that_is_being_written_is_left_alone(tiny, tmp_path):
    with (
        writing(tmp_path / "run"),
        pytest.raises(TaskError, match="another process writes it"),
    ):
        tuned(tiny, tmp_path / "run")
    tuned(tiny, tmp_path / "run", 1)


def test_a_run_that_another_process_has_made_meanwhile_is_not_made_again(tmp_path):
    from instop_nb.jobs import _run_job
    made = lambda folder, gain: {"gain": gain}
    (tmp_path / "job").mkdir()
    with FileLock(tmp_path / "job" / ".job.lock"): pass
    assert _run_job(made, tmp_path / "job", {"gain": 1})["gain"] == 1
    def explode(folder, gain): raise AssertionError("made again")
    assert _run_job(explode, tmp_path / "job", {"gain": 1})["gain"] == 1


def test_finished_runs_know_what_lay_in_their_folders(tiny, tmp_path):
    shutil.copytree(tiny, tmp_path / "model")
    study = Study("toy", "a toy", "none", one_run, {"short": {"steps": 1}})
    make = lambda: reproduce(
        study, tmp_path / "runs", seeds=1, workers=1, model=str(tmp_path / "model"), quiet=True
    )
    assert make()["runs"] == make()["runs"]
    save_model(*load_model("micro", "cpu"), tmp_path / "model")
    with pytest.raises(TaskError, match="contents have changed"): make()


def test_a_shared_model_depends_on_contents_not_on_names(tiny, tmp_path):
    made = []
    def make(home): made.append(home); return load_model(tiny, "cpu")
    for name in "ab": shutil.copytree(tiny, tmp_path / name / "model")
    with (tmp_path / "b/model/tokenizer_config.json").open("a") as f: f.write("\n")
    homes = [
        made_once(tmp_path / "runs", "base", {"model": str(tmp_path / name / "model")}, make)
        for name in "aba"
    ]
    assert len(made) == 2 and homes[0] == homes[2] != homes[1]


def test_a_shared_model_that_was_killed_while_it_was_saved_is_made_again(tiny, tmp_path):
    home = made_once(tmp_path, "base", {"steps": 1}, lambda home: load_model(tiny, "cpu"))
    (home / "config.json").unlink()  # which is written last
    assert load_model(
        made_once(tmp_path, "base", {"steps": 1}, lambda home: load_model(tiny, "cpu")), "cpu"
    )


def test_no_model_is_given_the_answers_of_another(tiny, tmp_path):
    ours, others, book = (
        load_model(tiny, "cpu"), load_model("micro", "cpu"), tmp_path / "answers.jsonl",
    )
    texts = ["fox axe", "hen"]
    for model in (ours, others, ours):
        assert answers(*model, texts, max_new_tokens=4, saved=book) == answers(
            *model, texts, max_new_tokens=4
        )
    longer = answers(*ours, texts, max_new_tokens=6, saved=book)
    assert longer == answers(*ours, texts, max_new_tokens=6) and len(whole_lines(book)) == 6


def test_a_model_with_other_settings_is_not_given_the_answers_of_the_same_weights(tiny, tmp_path):
    (model, tokenizer), book = load_model(tiny, "cpu"), tmp_path / "answers.jsonl"
    answers(model, tokenizer, ["fox axe"], max_new_tokens=4, saved=book)
    model.config.layer_norm_epsilon = 9.0
    answers(model, tokenizer, ["fox axe"], max_new_tokens=4, saved=book)
    model.generation_config.eos_token_id = [1, 9]
    answers(model, tokenizer, ["fox axe"], max_new_tokens=4, saved=book)
    assert len({json.loads(line)[2] for line in whole_lines(book)}) == 3


@pytest.mark.parametrize("name", ["checkpoint/settings.json", "metrics.jsonl"])
@pytest.mark.parametrize("text", ["[]", '{"seed": ', "\xff"])
def test_damaged_files_of_a_run_are_named(name, text, tiny, tmp_path):
    until_killed(tuned, tiny, tmp_path, callbacks=[KillAt(2)])
    (tmp_path / name).write_text(text + "\n", "latin-1")
    with pytest.raises(TaskError, match=name): tuned(tiny, tmp_path, resume=True)


@pytest.mark.parametrize("text", ["[]", '{"job": ', "{}", '{"job": {"seed": 0}}', "\xff"])
def test_a_damaged_result_is_named(text, tmp_path):
    (tmp_path / "short-0").mkdir()
    (tmp_path / "short-0/result.json").write_text(text, "latin-1")
    with pytest.raises(TaskError, match="result.json"):
        run_jobs(one_run, {"short-0": {"seed": 0}}, tmp_path, 1, True)


@pytest.mark.parametrize(
    "text", ["a\u2028b", "a\u2029b", "a\x0bb", "a\x1cb", "a\x85b", "a\nb", "a\r\nb"], ids=ascii,
)
def test_signs_that_end_a_line_elsewhere_end_none_here(text, tiny, tmp_path, monkeypatch):
    from instop_nb import tuning
    asked = []
    monkeypatch.setattr(
        tuning, "_greedy",
        lambda model, tokenizer, rows, n: asked.extend(rows) or [text] * len(rows),
    )
    for _ in range(2):
        assert answers(*load_model(tiny, "cpu"), ["fox"], saved=tmp_path / "answers.jsonl") == [
            text
        ]
    assert len(asked) == 1


@pytest.mark.parametrize("command, place", [
    (tuned, "transformers.Trainer.save_model"), (tuned, "torch.save"), (optimized, "torch.save"),
])
@pytest.mark.parametrize("error", [
    SafetensorError("I/O error: No space left"), RuntimeError("unexpected pos 64 vs 0"),
    OSError(28, "No space left"),
])
def test_a_disk_that_fills_up_in_a_checkpoint_is_named(
    command, place, error, tiny, tmp_path, monkeypatch
):
    def full(*args, **others): raise error
    monkeypatch.setattr(place, full)
    with pytest.raises(
        OSError, match="checkpoint: cannot be written .*what was saved before is kept"
    ):
        command(tiny, tmp_path)


@pytest.mark.parametrize("place", ["pipe", "/dev/zero"])
def test_a_pipe_or_device_for_a_recipe_is_not_read_without_end(place, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert fingerprint(tmp_path / place) == fingerprint([])


def test_a_full_disk_cuts_nothing(tiny, tmp_path, monkeypatch):
    run = Run(tmp_path, seed=0)
    run.save_predictions([{"prediction": "old"}])
    run.log(step=1)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    def full(*args): raise OSError(28, "No space left on device")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="predictions.jsonl: cannot be written .No space left"):
        run.save_predictions([{"prediction": "new"}])
    with pytest.raises(OSError, match="config.json"): run.configure(seed=1)
    kept = {p.name.replace("config-1", "config"): p.read_bytes() for p in tmp_path.iterdir()}
    assert kept == before


def test_settings_are_compared_as_json_holds_them(tmp_path):
    take_up(tmp_path / "checkpoint", {"a": (1, 2), "b": None}, resume=False)
    assert (
        json.loads((tmp_path / "checkpoint/settings.json").read_text()) == {"a": [1, 2], "b": None}
        and train_in
    )
