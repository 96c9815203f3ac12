"""The paper's studies: each arm runs, pairs share what they must, nothing is chosen by the test,
and the recipe is the paper's."""
import json
from pathlib import Path

import pytest
import torch
import yaml
from transformers import T5ForConditionalGeneration

from instop_nb.arms import run_arm
from instop_nb.core import TaskError
from instop_nb.embedder import DirectEmbedder
from instop_nb.embedder_study import SEARCH, STUDIES as TABLE2, arms_after
from instop_nb.instructions import Arm, make_instruction
from instop_nb.maps import draw_map, spread
from instop_nb.microworld import few_of
from instop_nb.models import load_model
from instop_nb.operations import is_held_out
from instop_nb.outer import Outer
from instop_nb.paper import SPLITS, STUDIES, best_splits
from instop_nb.recipes import Setup, base_model, parts_of, read_recipe, scaled
from instop_nb.tables import RECORDS
from instop_nb.micro import micro_config, new_t5, train_tokenizer
from instop_nb.tasks import load_tasks, write_task
from instop_nb.tuning import get_tasks

ROOT = Path(__file__).resolve().parent.parent
SMALL = {
    "n_instances": 8, "n_valid": 1, "n_test": 1, "base_steps": 2, "steps": 4, "batch_size": 8,
    "base_batch_size": 8, "n_candidates": 2, "max_target": 4,
}


def small(arm, **more):
    return {
        **arm, "setup": {**arm.get("setup", {}), **SMALL, **more},
        "outer": {**arm.get("outer", {}), "K": 2, "start": 0},
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
    assert (result["phi_moved"] > 0) == learns
    assert ("gamma_Hv" in result) == (learns and arm["outer"]["method"] == "neumann")
    assert ("selected" in result) == (
        arm.get("instruction") in ("one exemplar", "blank", "coin", "extractor-dp", "extractor-ic")
    )
    json.dumps(result)


def test_a_frozen_arm_stays_frozen_whatever_rate_the_search_has_found(tmp_path):
    arms = arms_after([{"arm": name, "valid_rougeL": 50.0} for name in SEARCH])
    moved = {
        name: run_arm(tmp_path / name, 0, **small(arms[name]))["phi_moved"]
        for name in ("IC, ahead", "IC, frozen")
    }
    assert moved["IC, frozen"] == 0 < moved["IC, ahead"], moved


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


def test_meta_test_by_name_is_what_the_paper_names(few_real_tasks, tmp_path):
    "On real tasks: a split by named categories; names that no task has are an error that says so."
    kinds = sorted({t.category for t in load_tasks(few_real_tasks, "train", 3)})
    setup = Setup(n_instances=2, n_valid=1, n_test=1, meta_test=(kinds[0],))
    parts = parts_of(str(few_real_tasks), setup, 0)
    assert {t.category for t in parts.meta_test} == {kinds[0]}
    assert kinds[0] not in {t.category for t in parts.meta_train}
    with pytest.raises(TaskError, match="meta_test: found .*Discourse.*choose some"):
        parts_of("micro", scaled(read_recipe("paper"), 0.01), 0)


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

def test_the_rate_is_chosen_by_validation_alone_for_each_kind_and_method():
    wanted = {("DP", "as published"): 5.0, ("DP", "ahead"): 0.2, ("IC", "as published"): 1.0,
              ("IC", "ahead"): 5.0}
    runs = [
        {"arm": arm, "seed": seed, "rougeL": 100 * (settings["rate"] == 1),
         "valid_rougeL": 50 + 2 * (arm in {f"{k}, {h}, {f}" for (k, h), f in wanted.items()})}
        for arm, settings in SEARCH.items() for seed in (100, 101)
    ]
    arms = arms_after(runs)
    assert {key: arms["{}, {}".format(*key)]["rate"] for key in wanted} == wanted
    assert arms["signs by chance"]["rate"] == 0.2


def test_splits_are_chosen_by_validation_alone():
    runs = [
        {"arm": name, "seed": 100, "valid_rougeL": i == 5 or i == 10, "rougeL": i}
        for i, name in enumerate(SPLITS)
    ]
    chosen = best_splits(runs)
    assert [c.get("split", c.get("group")) for c in chosen.values()] == [1005, 4]
    assert len(SPLITS) == 12


def test_a_map_of_equal_definitions_has_one_place_for_all(tmp_path):
    arms = "learned", "frozen"
    for arm in arms:
        (tmp_path / f"{arm}-0").mkdir()
        torch.save(
            {
                "definition": torch.ones(4, 8), "learned": torch.eye(4), "categories": list("aabb"),
                "words": {},
            },
            tmp_path / f"{arm}-0/map.pt",
        )
    for parts in draw_map({"runs": [{"arm": arm} for arm in arms]}, tmp_path)["map"].values():
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
    assert len(recipe.meta_test) == 10 and recipe.by == "category"  # Table 4
    outer = Outer(**recipe.outer)
    assert (outer.method, outer.product) == ("neumann", "exact")
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
    ("meta_share: 1.5", "meta_share"), ("meta_test: [1]", "meta_test"),
    ("meta_test: x", "meta_test"), ("by: clan", "by"), ("by: 3", "by"), ("rates: [1]", "rates"),
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
        "steps": 2, "n_instances": 2, "n_valid": 1, "n_test": 1, "max_target": 8, "meta_test": [],
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
            model=str(tmp_path / "t5"),
            **{**arm, "setup": sizes, "outer": {"K": 2, "start": 0}},
        )
        assert result["phi_moved"] > 0 and len(result["per_category"]) >= 4


# Records

@pytest.mark.parametrize("name", [*TABLE2, *STUDIES])
def test_a_record_is_complete_and_says_how_to_make_it_again(name):
    path = RECORDS / f"{name}.json"
    if not path.exists(): pytest.skip(f"{name} has no record yet: instop reproduce {name} --keep")
    record = json.loads(path.read_text())
    assert (
        path.stat().st_size < 400_000
        and record["command"].startswith(f"instop reproduce {name}")
        and record["scale"] == 1
    )
    arms = {r["arm"] for r in record["runs"]}
    study = (TABLE2 | STUDIES)[name]
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
