"""Recipes of the commands: each name, each field, what wins over what, and what ran runs again."""
import json
from dataclasses import asdict

import pytest
import transformers as hf
from test_cli import call, fail
from typer.testing import CliRunner

from instop_nb.cli import app
from instop_nb.core import TaskError
from instop_nb.models import load_config, load_model
from instop_nb.pretraining import Recipe
from instop_nb.reading import Reading
from instop_nb.recipes import Setup, read_recipe
from instop_nb.settings import Training, change_recipe, choose_training, default_recipe, outer_of
from instop_nb.micro import micro_config, new_t5
from instop_nb.trainer import T5Trainer, save_model, training_arguments

SMALL = ["--n-instances", 2, "--n-test", 1, "--max-target", 4, "--quiet"]
HUB = hf.T5Config()


def config_of(folder): return json.loads((folder / "config.json").read_text())


@pytest.fixture(scope="module")
def hub_t5(tmp_path_factory):
    "A tiny T5 as the hub has them: no bias_rate in its configuration."
    folder, tokenizer = tmp_path_factory.mktemp("hub"), load_model("micro", "cpu")[1]
    sizes = dict(d_model=16, d_ff=32, num_heads=2, num_layers=1, num_decoder_layers=1)
    model = new_t5(micro_config(len(tokenizer), **sizes, bias_rate=None))
    del model.config.bias_rate
    return str(save_model(model, tokenizer, folder))


# The recipes

FACTS = {
    "micro": dict(steps=200, batch_size=64, learning_rate=5e-4, epochs=None, n_instances=200,
                  max_source=1024, max_target=128, n_candidates=8, l=4, meta_share=.1, n_test=10,
                  n_pos=0, eval_batch_size=200, balanced=True),
    "tk-instruct": dict(epochs=2, learning_rate=5e-5, max_source=1024, max_target=128, n_pos=2,
                        n_instances=100, n_test=100, rows_a_step=16, balanced=False),
    "natinst": dict(epochs=3, learning_rate=5e-5, format="ni-v1", n_pos=2, n_neg=2,
                    explanations=True, max_source=1024, max_target=128),
    "mtk-instruct": dict(epochs=2, learning_rate=5e-5, max_source=1024, max_target=128, n_pos=2,
                         n_instances=100, n_test=100, rows_a_step=16, track="xlingual",
                         rouge_tokenizer="gpt2"),
    "t0": dict(steps=12_200, learning_rate=1e-3, rows_a_step=1024, max_source=1024, max_target=256),
    "flan": dict(steps=30_000, learning_rate=3e-5, max_source=1024, max_target=256),
    "paper": dict(steps=107_250, learning_rate=1e-5, batch_size=2, l=64, n_candidates=32),
}

@pytest.mark.parametrize("name", FACTS)
def test_a_recipe_says_what_its_source_says(name):
    found = read_recipe(name, Training)
    assert {field: getattr(found, field) for field in FACTS[name]} == FACTS[name]


@pytest.mark.parametrize("name", FACTS)
def test_its_arguments_make_the_optimizer_and_the_schedule_it_names(name, tmp_path):
    how = choose_training(load_config("micro"), name, [], {})
    arguments = training_arguments(
        tmp_path, 10, how.batch_size, how.learning_rate, **how.arguments
    )
    trainer = T5Trainer(load_model("micro", "cpu")[0], arguments)
    trainer.create_optimizer_and_scheduler(10)
    kind = type(trainer.optimizer).__name__
    assert kind == ("Adafactor" if name in ("t0", "flan") else "AdamW")
    rates = {group["initial_lr"] for group in trainer.optimizer.param_groups}
    assert rates == ({5e-4, 30 * 5e-4} if name == "micro" else {how.learning_rate})
    if name in ("tk-instruct", "mtk-instruct", "t0", "flan"):
        for _ in range(9):
            trainer.optimizer.step(); trainer.lr_scheduler.step()
        assert trainer.lr_scheduler.get_last_lr() == [how.learning_rate] * len(
            trainer.optimizer.param_groups
        )


@pytest.mark.parametrize("kind, rate", [("embedder-dp", 1e-5), ("embedder-ic", 1e-6),
                                        ("extractor-dp", 5e-5), ("extractor-ic", 1e-5)])
def test_the_paper_s_rate_of_phi_is_that_of_its_kind(kind, rate):
    how = read_recipe("paper", Training)
    outer = outer_of(how, kind)
    assert (outer.phi_rate, outer.K, outer.meta_batch_size, outer.gamma) == (rate, 20, 8, 1e-5)
    assert outer_of(change_recipe("paper", ["phi_rate=3e-4"], {}), kind).phi_rate == 3e-4
    assert outer_of(change_recipe("paper", [f"{kind}=2e-4"], {}), kind).phi_rate == 2e-4


def test_epochs_count_rows_micro_batches_and_processes(monkeypatch):
    how = Training(epochs=2, batch_size=2, arguments={"gradient_accumulation_steps": 8})
    assert (how.steps_for(160), how.steps_for(161), how.steps_for(1)) == (20, 22, 2)
    half = Training(epochs=.5, batch_size=16)
    assert (half.steps_for(160), half.steps_for(16)) == (5, 1)
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert how.steps_for(160) == 6  # Two times three


# Which one, and what wins

def test_the_default_follows_the_model(tmp_path, hub_t5):
    ours = load_model("micro", "cpu")
    copy = str(save_model(*ours, tmp_path))
    kinds = {name: default_recipe(load_config(name)) for name in ("micro", "micro-tuned", copy)}
    assert set(kinds.values()) == {"micro"}
    assert default_recipe(load_config(hub_t5)) == default_recipe(HUB) == "tk-instruct"
    assert default_recipe(hf.GPT2Config()) == "tk-instruct"


def test_a_hub_model_is_tuned_gently_and_ours_as_before(tmp_path, hub_t5):
    call("tune", *SMALL, "--steps", 2, "--batch-size", 2, "--max-source", 64, "--model", hub_t5,
         "--out", tmp_path / "hub")
    call("tune", *SMALL, "--steps", 2, "--batch-size", 2, "--out", tmp_path / "ours")
    hub, ours = config_of(tmp_path / "hub"), config_of(tmp_path / "ours")
    assert (hub["learning_rate"], hub["n_pos"], ours["learning_rate"], ours["n_pos"]) == (
        5e-5, 2, 5e-4, 0,
    )
    assert (ours["max_source"], ours["eval_batch_size"], ours["steps"]) == (1024, 200, 2)
    rates = [json.loads((tmp_path / name / "checkpoint/settings.json").read_text())["bias_rate"]
             for name in ("hub", "ours")]
    assert rates == [None, 30]


def test_an_option_wins_over_set_and_set_over_the_recipe_and_later_over_earlier():
    given = {"learning_rate": 3e-3, "candidates": 5, "k": 7, "gamma": None, "steps": 9, "data": "x"}
    sets = ["learning_rate=1e-2", "n_pos=3", "n_pos=1", "K=3", "gamma=2", "arguments.bf16=true"]
    how = choose_training(HUB, "tk-instruct", sets, given)
    assert (how.learning_rate, how.n_pos, how.n_candidates, how.steps, how.epochs) == (
        3e-3, 1, 5, 9, None,
    )
    assert how.outer["K"] == 7 and how.outer["gamma"] == 2 and how.outer["meta_batch_size"] == 8
    assert how.arguments["bf16"] is True
    assert how.arguments["lr_scheduler_type"] == "constant"
    assert choose_training(HUB, "tk-instruct", ["steps=5"], {}).steps_for(999) == 5
    assert choose_training(HUB, "tk-instruct", ["epochs=1"], {}).epochs == 1


@pytest.mark.parametrize("sets, options, expected", [
    (["steps = 9"], {}, (9, None)), (["steps=9", "epochs=3"], {}, (12_200, 3)),
    (["epochs=3", "steps=9"], {}, (9, None)), (["epochs=3"], {"steps": 9}, (9, None)),
])
def test_the_later_of_steps_and_epochs_wins(sets, options, expected):
    how = choose_training(HUB, "t0", sets, options)
    decides = (how.steps, how.epochs) if how.epochs is None else (12_200, how.epochs)
    assert decides == expected


def test_null_gives_our_optimizer_back_and_the_named_default_is_one():
    assert "optim" not in choose_training(HUB, "t0", ["optim=null"], {}).arguments
    ours = choose_training(load_config("micro"), "t0", ["optim=null"], {"bias_rate": 3})
    assert ours.bias_rate == 3
    model = load_model("micro", "cpu")[0]
    default = hf.Seq2SeqTrainingArguments.optim
    named = T5Trainer(model, training_arguments("unused", 9, optim=default))
    unnamed = T5Trainer(model, training_arguments("unused", 9))
    assert (named.bias_rate, unnamed.bias_rate) == (None, 30)


def test_a_named_schedule_has_no_warm_up_of_ours_and_ours_may_be_named():
    named = training_arguments("unused", 500, lr_scheduler_type="linear")
    own = training_arguments("unused", 500, lr_scheduler_type="warmup_stable_decay")
    plain = training_arguments("unused", 500)
    warm = training_arguments("unused", 500, lr_scheduler_type="linear", warmup_steps=7)
    assert (named.warmup_steps, named.lr_scheduler_kwargs, warm.warmup_steps) == (0, {}, 7)
    assert own.lr_scheduler_kwargs == plain.lr_scheduler_kwargs != {}
    assert own.warmup_steps == plain.warmup_steps == 100


def test_a_model_from_elsewhere_is_asked_few_questions_at_once():
    def size(config, *sets, recipe=None, **options):
        return choose_training(config, recipe, list(sets), options).eval_batch_size
    ours = load_config("micro")
    assert [size(HUB), size(HUB, recipe="paper"), size(HUB, recipe="micro"), size(ours)] == [
        16, 16, 16, 200,
    ]
    assert [size(HUB, "eval_batch_size=3", recipe="paper"), size(HUB, eval_batch_size=5)] == [3, 5]


ARGUMENTS = {
    "bf16=true": ("bf16", True), "warmup_steps=7": ("warmup_steps", 7),
    "gradient_accumulation_steps=3": ("gradient_accumulation_steps", 3),
    "lr_scheduler_type=cosine": ("lr_scheduler_type", "cosine"),
    "gradient_checkpointing=true": ("gradient_checkpointing", True),
    "dataloader_num_workers=2": ("dataloader_num_workers", 2),
    "torch_compile=true": ("torch_compile", True), "max_grad_norm=0.5": ("max_grad_norm", 0.5),
    "learning_rate=0.01": ("learning_rate", 0.01), "weight_decay=1e-2": ("weight_decay", 0.01),
}

@pytest.mark.parametrize("command", ["tune", "optimize"])
def test_what_is_set_reaches_the_trainer(command, tmp_path, monkeypatch):
    from instop_nb import bilevel, tuning
    class Seen(Exception): pass
    def look(*args, **kwargs): raise Seen(training_arguments(*args, **kwargs))
    for module in (tuning, bilevel): monkeypatch.setattr(module, "training_arguments", look)
    sets = [word for text in ARGUMENTS for word in ("--set", text)]
    words = [command, *SMALL, "--steps", 2, *sets, "--out", tmp_path]
    result = CliRunner().invoke(app, list(map(str, words)))
    assert isinstance(result.exception, Seen), repr(result.exception)
    arguments = result.exception.args[0]
    assert {name: getattr(arguments, name) for name, _ in ARGUMENTS.values()} == dict(
        ARGUMENTS.values()
    )
    assert config_of(tmp_path)["recipe"]["arguments"]["dataloader_num_workers"] == 2


# What ran runs again

@pytest.mark.parametrize("command, more", [
    ("tune", []), ("optimize", ["--inner-steps", 2, "--phi-rate", 0.02, "--length", 2]),
])
def test_what_ran_is_a_recipe(command, more, tmp_path):
    sets = ["--set", "gradient_accumulation_steps=2", "--set", "adam_beta2=0.9"]
    first = ["--steps", 4, "--batch-size", 4, *SMALL, *more, *sets]
    call(command, *first, "--out", tmp_path / "a")
    call(command, "--recipe", tmp_path / "a/config.json", "--quiet", "--out", tmp_path / "b")
    a, b = config_of(tmp_path / "a"), config_of(tmp_path / "b")
    assert a["recipe"] == b["recipe"] and a["recipe"]["arguments"]["adam_beta2"] == 0.9
    assert b["recipe_from"] == str(tmp_path / "a/config.json")
    assert (tmp_path / "a/predictions.jsonl").read_text() == (
        tmp_path / "b/predictions.jsonl"
    ).read_text()
    assert {k: v for k, v in a.items() if k not in ("out", "recipe_from")} == {
        k: v for k, v in b.items() if k not in ("out", "recipe_from")
    }


def test_an_evaluation_asks_as_the_recipe_says(tmp_path, hub_t5):
    for name, more in {
        "own": [], "other": ["--recipe", "micro"], "option": ["--n-pos", 1, "--no-definition"],
    }.items():
        call("evaluate", "--model", hub_t5, "--n-test", 1, "--max-target", 2, "--quiet", *more,
             "--max-source", 64, "--out", tmp_path / name)
    shown = [(c["definition"], c["n_pos"]) for c in map(config_of, map(
        tmp_path.__truediv__, ("own", "other", "option")
    ))]
    assert shown == [(True, 2), (True, 0), (False, 1)]


# The making of a model

def test_pretraining_takes_recipes_too(tmp_path, monkeypatch):
    from instop_nb import reading
    made = []
    monkeypatch.setattr(reading, "read_books", lambda *arguments: made.append(arguments[0]))
    file = tmp_path / "mine.yaml"
    file.write_text("d_ff: 32\nunread: [pair]\narguments: {max_grad_norm: 2}")
    for words in (["--recipe", "micro"], ["--recipe", file], ["--recipe", file, "--set", "d_ff=48",
                  "--set", "bf16=true", "--batch-size", 8], ["--set", "seed=5"]):
        call("pretrain", *words, "--out", tmp_path / "t5", "--quiet")
    plain, own, changed, seeded = made
    assert (plain, own) == (
        Reading(), Reading(d_ff=32, unread=("pair",), arguments={"max_grad_norm": 2}),
    )
    assert (changed.d_ff, changed.batch_size, changed.arguments, seeded.seed) == (
        48, 8, {"max_grad_norm": 2, "bf16": True}, 5,
    )


def test_a_model_from_the_text_of_tasks_goes_by_its_recipe_and_is_one(tmp_path, monkeypatch):
    from instop_nb import cli_runs, pretraining
    made = []
    def spy(recipe, *others, **more): made.append(recipe)
    monkeypatch.setattr(pretraining, "pretrain", spy)
    monkeypatch.setattr(cli_runs, "check_places", lambda *arguments: None)
    (tmp_path / "recipe.json").write_text(json.dumps(asdict(Recipe(steps=7, vocab_size=500))))
    for words in ([], ["--recipe", tmp_path / "recipe.json"], ["--set", "vocab_size=600"]):
        call("pretrain", "--data", "tasks", *words, "--out", tmp_path / "t5", "--quiet")
    assert [(r.data, r.steps, r.vocab_size) for r in made] == [
        ("tasks", 6000, 4096), ("tasks", 7, 500), ("tasks", 6000, 600),
    ]


def test_of_several_processes_the_first_alone_prints(monkeypatch, capsys):
    from instop_nb.cli_options import report_scores, say_once
    from instop_nb.microworld import micro_tasks
    from instop_nb.predictions import copy_input
    tasks = micro_tasks("test", 1)[:2]
    rows, printed = [row for task in tasks for row in copy_input(task)], []
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        say_once("Saved"); report_scores(rows, tasks, "title")
        printed.append(capsys.readouterr().out)
    assert "Saved" in printed[0] and "title" in printed[0] and printed[1] == ""


# Mistakes

@pytest.mark.parametrize("words, says", [
    (["--recipe", "tk-instrukt"], "recipe: found 'no such file'; choose from ['flan', 'micro'"),
    (["--set", "learning_rat=1"], "learning_rat: found '1'; choose a field, such as ['learning"),
    (["--set", "gradient_acumulation_steps=2"], "gradient_accumulation_steps"),
    (["--set", "outer.bf16=1"], "--set: outer.bf16: found '1'"),
    (["--set", "outer=5", "--set", "K=3"], "--set: outer: found 5; write one of its fields"),
    (["--set", "outer=null", "--set", "K=3"], "--set: outer: found None; write one"),
    (["--set", "outer.x.K=3"], "--set: outer.x.K: found '3'"),
    (["--set", "epochs=0"], "epochs: found 0; give a number above 0, at most 1,000"),
    (["--set", "epochs=.inf"], "epochs: found inf; give"), (["--set", "epochs=2000"], "1,000"),
    (["--set", "epochs=2", "--set", "learning_rate=100"], "learning_rate: found 100"),
    (["--set", "n_pos=-1"], "n_pos: found -1; give 0 or more"),
    (["--set", "num_train_epochs=3"], "leave it out, and give epochs"),
    (["--set", "per_device_eval_batch_size=3"], "and give eval_batch_size"),
    (["--set", "resume_from_checkpoint=x"], "and give --resume"),
    (["--set", "predict_with_generate=true"], "predict_with_generate: found True; leave it out"),
    (["--set", "generation_max_length=3"], "and give max_target"),
    (["--set", "auto_find_batch_size=true"], "and give batch_size"),
    (["--set", "fsdp=full_shard"], "fsdp: found"),
    (["--set", "fsdp=true"], "start several processes"),
    (["--set", "eval_steps=3"], "and give --every"),
    (["--set", "optim=nosuch", "--set", "bf16=true"], "arguments.optim: found 'nosuch'; the tr"),
    (["--set", "push_to_hub=true"], "a folder for the hub"),
    (["--set", "hub_token=x"], "arguments.hub_token"),
    (["--set", "save_only_model=true"], "could not go on"),
    (["--set", "load_best_model_at_end=true"], "and give --every"),
    (["--set", "steps=many"], "--set: steps: found 'many'; write int"),
    (["--set", "bf16=perhaps"], "--set: arguments.bf16: found 'perhaps'"),
    (["--set", "steps"], "put = between"), (["--set", "n_pos={"], "write a plain value"),
    (["--set", "lr_scheduler_type=slow"], "slow"), (["--set", "output_dir=x"], "leave it out"),
    (["--set", "method=newton"], "--set: outer.method: found 'newton'"),
    (["--set", "fp16=true"], "bf16"),
    (["--set", "base_steps=3"], "base_steps: found 3; leave it out"),
    (["--recipe", "small"], "small: base_steps: found 300; leave it out"),
    (["--recipe", "t0", "--bias-rate", "3"], "bias_rate: found 3.0; leave out this or optim"),
])
def test_a_mistake_is_one_line_that_names_it(words, says, tmp_path):
    assert says in fail("tune", *SMALL, *words, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("words, says", [
    (["--recipe", "tk-instruct"], "--recipe: found 'tk-instruct'"),
    (["--set", "d_modell=3"], "such as ['d_model'"), (["--set", "K=3"], "--set: K: found '3'"),
    (["--set", "d_model=wide"], "d_model: found 'wide'; write int"),
])
def test_mistakes_of_a_pretraining(words, says, tmp_path):
    assert says in fail("pretrain", *words, "--out", tmp_path / "run", "--quiet")


def test_a_file_s_own_mistake_has_the_file_s_name(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("stepz: 3")
    with pytest.raises(TaskError, match="mine.yaml: stepz"): change_recipe(path, ["steps=3"], {})
    path.write_text("n_pos: 3")
    with pytest.raises(TaskError, match="n_pos"): read_recipe(path, Setup)  # A study has its arms


def test_the_recipes_are_in_the_package():
    from importlib.resources import files
    names = {p.name for p in (files("instop_nb") / "recipes").iterdir()}
    assert {f"{name}.yaml" for name in FACTS} <= names
