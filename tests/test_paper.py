"""The paper's studies: each arm runs, pairs share what they must, nothing is chosen by the test,
and the recipe is the paper's."""
import copy
import json
from pathlib import Path

import pytest
import torch
import yaml
from transformers import T5ForConditionalGeneration

from instop_nb import ahead
from instop_nb.ahead import after_steps, one_step, pushes, run_ahead
from instop_nb.arms import ONE_SHOT, ArmRun, run_arm
from instop_nb.batches import Collator, tokenize_tasks
from instop_nb.bilevel import SOURCE
from instop_nb.core import TaskError
from instop_nb.embedder import DirectEmbedder, with_prefix
from instop_nb.extractor import InstanceExtractor, draw_candidates
from instop_nb.hypergradient import hypergradient
from instop_nb.instructions import STARTS, Arm, make_instruction
from instop_nb.maps import draw_map, spread
from instop_nb.microworld import few_of
from instop_nb.models import load_model
from instop_nb.natinst import Encoding
from instop_nb.operations import is_held_out
from instop_nb.outer import Outer, chosen_share
from instop_nb.paper import CHOICES, SPLITS, STUDIES, best_embedder, best_splits, search_arms
from instop_nb.recipes import Setup, base_model, parts_of, read_recipe, scaled
from instop_nb.tables import RECORDS
from instop_nb.micro import micro_config, new_t5, train_tokenizer
from instop_nb.tasks import load_tasks, write_task
from instop_nb.tuning import DEFINITION, get_tasks

ROOT = Path(__file__).resolve().parent.parent
SMALL = {
    "n_instances": 8, "n_valid": 1, "n_test": 1, "base_steps": 2, "steps": 4, "batch_size": 8,
    "base_batch_size": 8, "n_candidates": 2, "max_target": 4,
}


def small(arm, **more):
    return {
        **arm, "setup": {**arm.get("setup", {}), **SMALL, **more},
        "outer": {**arm.get("outer", {}), "K": 2},
    }

ALL_ARMS = {
    f"{s.name}: {name}": arm
    for s in STUDIES.values()
    if s.run is run_arm
    for name, arm in s.arms.items()
}
# One of all sizes
DISTINCT = {
    json.dumps({**arm, "setup": sorted(arm.get("setup", {}))}, sort_keys=True): (name, arm)
    for name, arm in ALL_ARMS.items()
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    "Of all arms, so that they share their base."
    return tmp_path_factory.mktemp("arms")


@pytest.mark.parametrize(
    "name, arm", DISTINCT.values(), ids=[name for name, _ in DISTINCT.values()]
)
def test_every_arm_of_every_study_runs(home, name, arm):
    result = run_arm(
        home / name.replace(":", ""), 0,
        **small(arm, **({"l": 2} if "l" in arm.get("setup", {}) else {})),
    )
    assert {
        "rougeL", "exact_match", "category_rougeL", "valid_rougeL", "meta_test_loss", "phi_moved",
        "per_category",
    } <= set(result)
    learns = arm.get("learned", True) and arm.get("instruction", "none").startswith(
        ("embedder", "extractor")
    )
    assert (result["phi_moved"] > 0) == ("gamma_Hv" in result) == learns
    assert ("selected" in result) == (
        arm.get("instruction") in ("one exemplar", "blank", "coin", "extractor-dp", "extractor-ic")
    )
    json.dumps(result)


def test_a_frozen_arm_stays_frozen_whatever_rate_the_search_has_drawn(tmp_path):
    chosen = best_embedder(
        [
            {"arm": name, "seed": 100, "valid_rougeL": 50.0 + (name == "embedder 6")}
            for name in search_arms()
        ]
    )
    moved = {
        name: run_arm(tmp_path / name, 0, **small(arm))["phi_moved"] for name, arm in chosen.items()
    }
    assert (
        chosen["definition + the same, frozen"]["outer"]["phi_rate"] > 0
        and chosen["definition + the same, frozen"]["instruction"] == "embedder-ic"
    )
    assert moved["definition + the same, frozen"] == 0 < moved["definition + chosen embedder"], (
        moved
    )


def test_always_exemplar_always_blank_and_coin_select_what_they_say(tmp_path):
    share = {
        name: run_arm(
            tmp_path / name, 0,
            **small(
                {
                    "instruction": name, "behind": "nothing", "asked": "exemplar",
                    "blanks": 2 * (name == "coin"),
                },
                steps=8, batch_size=64,
            ),
        )["selected"]
        for name in ("one exemplar", "blank", "coin")
    }
    assert share["one exemplar"] == 100 and share["blank"] == 0 and 30 < share["coin"] < 70


def test_arms_of_a_seed_share_base_data_and_start(tmp_path):
    """Until the first outer step a learned and a frozen prefix have the same losses; the noise does
    not."""
    losses = {}
    for name, arm in (
        ("learned", {"instruction": "embedder-dp"}),
        ("frozen", {"instruction": "embedder-dp", "learned": False}),
        ("noise", {"instruction": "noise"}),
    ):
        run_arm(
            tmp_path / name, 3, **{**small(arm, arguments={"logging_steps": 1}), "outer": {"K": 4}}
        )
        rows = [
            json.loads(line)
            for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        ]
        losses[name] = [r["loss"] for r in rows if "loss" in r]
    assert losses["learned"] == losses["frozen"] != losses["noise"]
    assert len(list(tmp_path.glob("base-3-*/model"))) == 1


def test_same_seed_same_result(tmp_path):
    arm = small(
        {"instruction": "extractor-ic", "behind": "nothing", "asked": "exemplar", "blanks": 2}
    )
    a, b, c = (
        run_arm(tmp_path / name / "run", seed, **arm)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert a == b != c


def test_parts_keep_the_four_kinds_of_tasks_apart():
    setup = Setup(n_instances=6, n_test=2)
    for split, group in ((None, None), (7, None), (None, 3)):
        parts = parts_of("micro", setup, 0, split, group, load_model("micro", device="cpu"))
        names = [
            {t.name for t in ts}
            for ts in (
                parts.meta_train, parts.meta_test, [t for ts in parts.test.values() for t in ts],
            )
        ]
        assert (
            all(not a & b for i, a in enumerate(names) for b in names[i + 1 :])
            and {t.name for t in parts.base} <= names[0]
        )
        assert {t.name for t in parts.valid} == names[0] | names[1]
        train = {
            (t.name, i.input) for t in parts.meta_train + parts.meta_test for i in t.instances[:6]
        }
        assert all(len(t.instances) == 6 for t in parts.meta_train) and len(train) > 1000
    assert {t.name for t in parts_of("micro", setup, 0, 7).meta_test} != {
        t.name for t in parts_of("micro", setup, 0, 8).meta_test
    }


def test_what_is_asked_is_one_tier_at_a_time():
    parts = parts_of("micro", Setup(n_instances=2, n_test=2), 0)
    assert [*parts.test] == ["combination", "category"]
    for tier, tasks in parts.test.items():
        assert {t.name for t in tasks} == {*few_of(tier)}
        assert all(len(t.instances) == 2 for t in tasks)
        assert all(is_held_out(i.input) for t in tasks for i in t.instances)


def test_base_depends_on_what_decides_it(tmp_path):
    setup = scaled(Setup(**{**SMALL, "n_instances": 8}), 1)
    parts = parts_of("micro", setup, 0)
    base_model(tmp_path, parts, setup, "micro", "micro", 0)
    (tmp_path / next(tmp_path.glob("base-0-*/model")).parent.name / "metrics.jsonl").unlink()
    base_model(tmp_path, parts, setup, "micro", "micro", 0)
    assert not list(tmp_path.glob("base-0-*/metrics.jsonl"))  # Found, not made again
    base_model(tmp_path, parts, Setup(**{**SMALL, "base_steps": 3}), "micro", "micro", 0)
    assert len(list(tmp_path.glob("base-0-*/model"))) == 2


def test_spread_by_hand():
    model, tokenizer = load_model("micro", device="cpu")
    tasks = get_tasks("micro", "train", 1)[:5]
    numbers, vectors = spread(
        model, tokenizer,
        DirectEmbedder(torch.zeros(5, 1, 64), torch.zeros(5, 1, dtype=torch.long)), tasks,
        tasks[:2],
    )
    unit = torch.nn.functional.normalize(vectors["definition"], dim=-1)
    pairs = [1 - (unit[i] @ unit[j]).item() for i in range(5) for j in range(5) if i != j]
    assert numbers["distance_definition"] == pytest.approx(sum(pairs) / 20, abs=1e-5) and numbers[
        "gap_definition"
    ] == pytest.approx(0, abs=1e-5)
    # A masked prefix is absent
    assert numbers["distance_learned"] == pytest.approx(numbers["distance_definition"], abs=1e-4)


# Search and choice

def test_search_covers_every_choice_and_chooses_by_paired_validation():
    arms = search_arms(60)
    used = [a for name, a in arms.items() if name.startswith("embedder")]
    for name, value in (
        (k, v)
        for k, vs in CHOICES.items()
        if k in ("K", "gamma", "n_terms", "l2", "perturbation")
        for v in vs
    ):
        assert any(a["outer"][name] == value for a in used)
    assert {a["setup"]["l"] for a in used} == set(CHOICES["l"]) and {
        a["start"] for a in used
    } == set(CHOICES["start"]) <= set(STARTS)
    arms = search_arms()
    runs = []
    for seed in (100, 101):
        for name in arms:
            # A control that is itself high must not help the arms of its regime
            value = (
                50 + 10 * ("poor" in name)
                if name.startswith("definition")
                else 55 + (30 if name == "embedder 7" else 0) - seed / 100
            )
            runs.append(
                {
                    "arm": name, "seed": seed, "valid_rougeL": value,
                    "rougeL": 100 * (name == "embedder 1"),
                }
            )
    chosen = best_embedder(runs)
    assert chosen["definition + chosen embedder"] == arms["embedder 7"] and chosen[
        "definition + the same, frozen"
    ] == {**arms["embedder 7"], "learned": False}


def test_splits_are_chosen_by_validation_alone():
    runs = [
        {"arm": name, "seed": 100, "valid_rougeL": i == 5 or i == 20, "rougeL": i}
        for i, name in enumerate(SPLITS)
    ]
    chosen = best_splits(runs)
    assert [c.get("split", c.get("group")) for c in chosen.values()] == [1005, 4]
    assert len(SPLITS) == 32


def test_a_map_of_equal_definitions_has_one_place_for_all(tmp_path):
    for arm in ("definition + embedder DP", "definition + frozen prefix"):
        (tmp_path / f"{arm}-0").mkdir()
        torch.save(
            {
                "definition": torch.ones(4, 8), "learned": torch.eye(4), "categories": list("aabb"),
                "words": {},
            },
            tmp_path / f"{arm}-0/map.pt",
        )
    for parts in draw_map({}, tmp_path)["map"].values():
        assert parts["definition"] == [[0, 0]] * 4 and len(set(map(tuple, parts["learned"]))) == 4


# The recipe

def test_recipe_is_the_appendix():
    recipe = read_recipe("paper")
    assert (
        recipe.steps, recipe.batch_size, recipe.learning_rate, recipe.arguments["warmup_steps"],
    ) == (3 * 715 * 100 // 2, 2, 1e-5, 8000)
    assert (
        recipe.max_source, recipe.max_target, recipe.l, recipe.n_candidates, recipe.max_instance,
    ) == (1024, 128, 64, 32, 128)
    assert recipe.rates == {
        "embedder-dp": 1e-5, "embedder-ic": 1e-6, "extractor-dp": 5e-5, "extractor-ic": 1e-5,
    }
    outer = Outer(**recipe.outer)
    assert (
        outer.K, outer.meta_batch_size, outer.n_terms, outer.gamma, outer.schedule, outer.warmup,
    ) == (20, 8, 1, 1e-5, "linear", 0)
    assert (
        recipe.arguments["lr_scheduler_type"] == "linear"
        and recipe.bias_rate is None
        and not recipe.balanced
        and recipe.base_steps == 0
    )


@pytest.mark.parametrize("text, field", [
    ("stepz: 3", "stepz"), ("- 1", "recipe"), ("", "recipe"), ("steps: 3\nsteps: 4", "line 1"),
    ("a: &a [1]\nb: *a", "line 2"), ("steps: !!python/tuple [1]", "line 1"),
    ("all_wordings: 'no'", "all_wordings"), ("all_wordings: 1", "all_wordings"),
    ("steps: 2.5", "steps"), ("steps: true", "steps"), ("steps: -3", "steps"),
    ("steps: 0", "steps"), ("steps: 'many'", "steps"), ("n_valid: -1", "n_valid"),
    ("learning_rate: fast", "learning_rate"), ("learning_rate: .inf", "learning_rate"),
    ("learning_rate: .nan", "learning_rate"), ("learning_rate: -1e-3", "learning_rate"),
    ("learning_rate: null", "learning_rate"), ("bias_rate: -1", "bias_rate"),
    ("meta_share: 1.5", "meta_share"), ("by: clan", "by"), ("by: 3", "by"), ("rates: [1]", "rates"),
    ("rates: {embedder: 1}", "rates.embedder"), ("rates: {embedder-dp: -1}", "rates.embedder-dp"),
    ("rates: {embedder-dp: x}", "rates.embedder-dp"), ("outer: 3", "outer"),
    ("outer: {k: 1}", "outer.k"), ("outer: {K: -1}", "outer.K"), ("outer: {K: 2.5}", "outer.K"),
    ("outer: {K: '20'}", "outer.K"), ("outer: {gamma: .inf}", "outer.gamma"),
    ("outer: {method: magic}", "outer.method"), ("outer: {product: about}", "outer.product"),
    ("outer: {faithful: 'yes'}", "outer.faithful"), ("outer: null", "outer"),
    ("outer: {schedule: slow}", "outer.schedule"),
    ("arguments: {max_steps: -3}", "arguments.max_steps"),
    ("arguments: {fp16: true}", "arguments.fp16"),
    ("arguments: {lr_scheduler_type: slow}", "arguments.lr_scheduler_type"),
    ("arguments: {adam_beta: 1}", "arguments.adam_beta"), ("arguments: 3", "arguments"),
    (f"steps: {'9' * 400}", "steps"), ("steps: [" * 2000, "the file"),
])
def test_bad_recipes_say_what_is_wrong(tmp_path, text, field):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(TaskError) as error: read_recipe(path)
    assert str(error.value).startswith(f"{path}: {field}: found ") and len(
        str(error.value)
    ) < 1500 + len(str(path))


def test_numbers_of_a_recipe(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "learning_rate: 1e-3\nmeta_share: .5\nbias_rate: 3\nrates: {embedder-dp: 2E-4}\n"
        "outer: {gamma: 1e-5, phi_rate: 0}\narguments: {adam_epsilon: 1e-8}"
    )
    recipe = read_recipe(path)
    assert (recipe.learning_rate, recipe.meta_share, recipe.bias_rate, recipe.arguments) == (
        0.001, 0.5, 3, {"adam_epsilon": 1e-8},
    )
    assert recipe.rates == {**Setup().rates, "embedder-dp": 2e-4} and recipe.outer == {
        "gamma": 1e-5, "phi_rate": 0,
    }


def test_an_instruction_of_no_kind():
    with pytest.raises(TaskError, match="magic"):
        make_instruction(None, None, [], Arm("magic"), Setup(), 0)


T5_BASE = dict(
    d_model=768, d_kv=64, d_ff=2048, num_heads=12, num_layers=12, num_decoder_layers=12,
    dropout_rate=0.1, relative_attention_num_buckets=32, relative_attention_max_distance=128,
)  # google/t5-base-lm-adapt


def test_the_paper_s_model_has_248_million_parameters():
    """By its configuration, whose output matrix is not the input's; transformers shares the two in
    a model that it makes anew."""
    with torch.device("meta"): shared = T5ForConditionalGeneration(micro_config(32128, **T5_BASE))
    assert shared.num_parameters() + shared.lm_head.weight.numel() == 247_577_856


def test_the_paper_s_recipe_runs_offline_on_a_random_t5_base(tmp_path):
    """Every number of the recipe but sizes of the data, on random weights of T5-base's widths, two
    layers deep, for two inner steps and an outer one."""
    tasks = get_tasks("micro", "train", 3)
    for part in ("tasks", "splits/default"): (tmp_path / "data" / part).mkdir(parents=True)
    kinds = list(dict.fromkeys(t.category for t in tasks))[:4]
    for t in [next(t for t in tasks if t.category == c) for c in kinds]:
        write_task(t, tmp_path / "data" / "tasks" / f"{t.name}.json")
    names = sorted(p.stem for p in (tmp_path / "data" / "tasks").iterdir())
    for split, part in (("train", names[:-1]), ("test", names[-1:])):
        (tmp_path / "data" / "splits" / "default" / f"{split}_tasks.txt").write_text(
            "\n".join(part) + "\n"
        )
    tokenizer = load_model("micro", device="cpu")[1]
    model = new_t5(micro_config(32128, **{**T5_BASE, "num_layers": 2, "num_decoder_layers": 2}))
    model.save_pretrained(tmp_path / "t5"); tokenizer.save_pretrained(tmp_path / "t5"); del model
    values = yaml.safe_load((ROOT / "instop_nb" / "recipes" / "paper.yaml").read_text())
    values |= {
        "steps": 2, "n_instances": 2, "n_valid": 1, "n_test": 1, "max_target": 8,
        "outer": {**values["outer"], "K": 2},
    }
    (tmp_path / "few.yaml").write_text(yaml.safe_dump(values))
    result = run_arm(
        tmp_path / "run", 0, recipe=str(tmp_path / "few.yaml"), data=str(tmp_path / "data"),
        model=str(tmp_path / "t5"), instruction="embedder-dp",
    )
    rows = [
        json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert [r["phi_rate"] for r in rows if "phi_rate" in r] == [1e-5]
    assert result["phi_moved"] > 0 and result["gamma_Hv"] < 1e-2


def test_real_tasks_at_a_tiny_size(tmp_path, few_real_tasks):
    tasks = load_tasks(few_real_tasks, "train", 2)
    tokenizer = train_tokenizer([t.definition[0] for t in tasks], 1000)
    new_t5(micro_config(len(tokenizer))).save_pretrained(tmp_path / "t5")
    tokenizer.save_pretrained(tmp_path / "t5")
    sizes = {
        **SMALL, "n_instances": 3, "n_valid": 1, "max_source": 64, "max_target": 4,
        "n_candidates": 2, "max_instance": 16, "by": "category", "meta_share": 0.17,
    }
    for arm in (
        {"instruction": "embedder-dp"},
        {"instruction": "extractor-ic", "behind": "nothing", "asked": "exemplar", "blanks": 2},
    ):
        result = run_arm(
            tmp_path / "runs" / arm["instruction"], 0, data=str(few_real_tasks),
            model=str(tmp_path / "t5"), **{**arm, "setup": sizes, "outer": {"K": 2}},
        )
        assert result["phi_moved"] > 0 and len(result["per_category"]) >= 4


# Single outer steps

def test_a_push_is_where_a_small_step_goes():
    "What `pushes` foretells to first order, a small step against the hypergradient does."
    model, tokenizer = load_model("micro", device="cpu")
    tasks, found, did = get_tasks("micro", "train", 12)[:6], [], []
    candidates = draw_candidates(tasks, tokenizer, 4, 4)
    rows, meta = (
        tokenize_tasks(tasks, tokenizer, Encoding(definition=False), instance="own"),
        tokenize_tasks(get_tasks("micro", "train", 4)[6:9], tokenizer, DEFINITION),
    )
    for seed in range(6):
        extractor = InstanceExtractor(model, candidates, seed=seed, exclude_own=True)
        batch, asked = (
            Collator(tokenizer)(list(part.select(range(seed, len(part), 7))))
            for part in (rows, meta)
        )
        found.append(pushes(model, extractor, [batch], [asked]))
        def loss(batch, names): return model(**{name: batch[name] for name in names}).loss
        h = hypergradient(
            lambda: loss(with_prefix(model, dict(batch), *extractor(batch)), SOURCE),
            lambda: loss(asked, ("input_ids", "attention_mask", "labels")), model.parameters(),
            extractor.parameters(), method="identity",
        )
        before, size = (
            chosen_share(extractor, batch)["p_selected"], sum((x**2).sum() for x in h).sqrt(),
        )
        with torch.no_grad():
            for p, x in zip(extractor.parameters(), h): p -= 1e-2 * x / size
        did.append(100 * (chosen_share(extractor, batch)["p_selected"] > before))
    assert found == did and 0 < sum(found) < 600, "both ways occur"


def _six(seed, tokenizer):
    "Tasks, an inner batch and an outer one; other instances for each seed."
    tasks = get_tasks("micro", "train", 12)
    rows, meta = (
        tokenize_tasks(tasks[:6], tokenizer, Encoding(definition=False), instance="own"),
        tokenize_tasks(tasks[6:9], tokenizer, DEFINITION),
    )
    return tasks[:6], *(
        Collator(tokenizer)(list(part.select(range(seed, len(part), 7)))) for part in (rows, meta)
    )


def _always(model, tokenizer, tasks):
    return [
        make_instruction(model, tokenizer, tasks, Arm(name), Setup(), 0)
        for name in ("one exemplar", "blank")
    ]


def test_one_step_says_what_a_small_step_does():
    """Two copies of the model take a small step, one with exemplars and one with blanks; which has
    the lower outer loss?"""
    model, tokenizer = load_model("micro", device="cpu", dtype=torch.float64)
    found, turned, did = [], [], []
    for seed in range(7):
        tasks, batch, asked = _six(seed, tokenizer)
        always = _always(model, tokenizer, tasks)
        found.append(one_step(model, *always, [batch], [asked]))
        turned.append(one_step(model, *always[::-1], [batch], [asked]))
        after = []
        for place in range(2):
            stepped = copy.deepcopy(model)
            instruction = _always(stepped, tokenizer, tasks)[place]
            made = with_prefix(stepped, batch, *instruction(batch))
            stepped(**{name: made[name] for name in SOURCE}).loss.backward()
            with torch.no_grad():
                for p in stepped.parameters(): p -= 1e-6 * p.grad
                after.append(
                    stepped(
                        **{name: asked[name] for name in ("input_ids", "attention_mask", "labels")}
                    ).loss.item()
                )
        did.append(100 * (after[0] < after[1]))
    assert found == did and turned == [100 - share for share in did]


def test_steps_ahead_are_the_steps_that_would_be_taken():
    """In the middle of a training: the copy ends where the model itself ends with the same batches,
    bit for bit, and the model has not moved before."""
    model, tokenizer = load_model("micro", device="cpu")
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    batches = [_six(seed, tokenizer)[1] for seed in range(4)]
    tasks = _six(0, tokenizer)[0]
    def walk(batches):
        instruction = _always(model, tokenizer, tasks)[0]
        for batch in batches:
            optimizer.zero_grad()
            made = with_prefix(model, batch, *instruction(batch))
            model(**{name: made[name] for name in SOURCE}).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    walk(batches[:2])
    before = [p.clone() for p in model.parameters()]
    later = after_steps(model, optimizer, batches[2:], lambda m: _always(m, tokenizer, tasks)[0])
    assert all(map(torch.equal, before, model.parameters()))
    walk(batches[2:])
    assert all(map(torch.equal, later.parameters(), model.parameters())) and not all(
        map(torch.equal, before, model.parameters())
    )


def test_a_look_ahead_leaves_the_training_as_it_was(tmp_path, monkeypatch):
    trained, train = [], ArmRun.train
    sizes = {
        "batch_size": 8, "n_instances": 8, "n_candidates": 4,
        "outer": {"K": 3, "meta_batch_size": 8},
    }
    monkeypatch.setattr(ahead, "ONE_SHOT", {**ONE_SHOT, **sizes})
    monkeypatch.setattr(
        ArmRun, "train", lambda *args, **options: trained.append(train(*args, **options))
    )
    looks = run_ahead(tmp_path / "seen" / "run", 0, 0.06, tuned="coin", n=2)["looks"]
    assert [row[:2] for row in looks] == [
        [step, shown] for step in (4, 8) for shown in ("exemplar", "blank")
    ]
    assert all(row[2] != 0 and row[3] in (0, 50, 100) and row[4] in (0, 50, 100) for row in looks)
    monkeypatch.setattr(
        ahead, "ask_ahead",
        lambda *args: lambda model, optimizer: [["exemplar", 0, 0, 0], ["blank", 0, 0, 0]],
    )
    assert run_ahead(tmp_path / "unseen" / "run", 0, 0.06, tuned="coin", n=2)["looks"][0] == [
        4, "exemplar", 0, 0, 0,
    ]
    seen, unseen = (trainer.model.parameters() for trainer in trained)
    assert all(map(torch.equal, seen, unseen))


# Records

@pytest.mark.parametrize("name", STUDIES)
def test_a_record_is_complete_and_says_how_to_make_it_again(name):
    path = RECORDS / f"{name}.json"
    if not path.exists(): pytest.skip(f"{name} has no record yet: instop reproduce {name} --keep")
    record = json.loads(path.read_text())
    assert (
        path.stat().st_size < 200_000
        and record["command"].startswith(f"instop reproduce {name}")
        and record["scale"] == 1
    )
    arms = {r["arm"] for r in record["runs"]}
    study = STUDIES[name]
    wanted = (
        set(study.choose([{**r, "rougeL": 0} for r in record["search"]]))
        if study.choose
        else set(study.arms)
    )
    assert arms == wanted
    for arm in arms:
        assert [r["seed"] for r in record["runs"] if r["arm"] == arm] == list(
            range(record["seeds"])
        )
    for r in record.get("search", []): assert r["seed"] in study.search_seeds and "rougeL" not in r
