"""FLAN's studies: what is held out stays out, arms differ in what they say they differ in, every
study runs, and the page says what the records say."""
from pathlib import Path

import pytest
from conftest import check_that_no_run_is_repeated, record_and_page, tiny_t5

import instop_nb.flan_study as study_of
from instop_nb.flan import CLUSTERS, DATASETS, PATTERNS, hold_out, mixing_rates, render
from instop_nb.flan_rows import micro_rows
from instop_nb.flan_study import (
    BATCH, FOLDS, STEPS, STUDIES, STYLES, TRAININGS, cluster_questions, flan_model, flan_rates,
    pairs_of, run_flan, run_held_out, run_size, seen_clusters, templates_of, training_pairs,
)
from instop_nb import probes
from instop_nb.probes import answer_score, chance_score, fit, steps_of
from instop_nb.models import load_model
from instop_nb.operations import is_held_out
from instop_nb.core import TaskError
from instop_nb.runs import Run
from instop_nb.study import reproduce
from instop_nb.tables import interval

NOTEBOOK = Path(__file__).resolve().parent.parent / "nbs" / "3_studies" / "32_flan_study.ipynb"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A folder with a T5 of random weights and the course's tokenizer: as good as any where only
    the way of things is tested."""
    return tiny_t5(tmp_path_factory.mktemp("tiny"))


# What is held out

def test_every_cluster_is_asked_in_one_fold():
    assert sorted(c for clusters in FOLDS.values() for c in clusters) == sorted(CLUSTERS)


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_no_fold_trains_on_what_flan_keeps_from_the_clusters_it_asks(cluster):
    fold = next(fold for fold, clusters in FOLDS.items() if cluster in clusters)
    allowed = {DATASETS[name]["cluster"] for name in hold_out(cluster)[0]}
    assert cluster not in seen_clusters(fold) and set(seen_clusters(fold)) <= allowed
    assert any(cluster in seen_clusters(fold) for fold in FOLDS), (
        "no model says how well it can be learned"
    )


def test_seen_clusters_by_the_number_of_their_data_sets():
    assert seen_clusters("knowledge") == [
        "summarization", "translation", "miscellaneous", "reading_comprehension", "sentiment",
        "struct_to_text", "coreference",
    ]


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_no_question_is_ever_trained_on(cluster):
    def text(row): return " ".join(row[column] for column in CLUSTERS[cluster].inputs)
    assert all(is_held_out(text(row)) for _, row in cluster_questions(cluster, 20, k=1))
    assert not any(is_held_out(text(row)) for row in micro_rows(cluster, 200))


# What is read

ROW = {"source_language": "mib", "target_language": "zor", "text": "lunam", "answer": "lunax"}

@pytest.mark.parametrize(
    "cluster, style, row, expected",
    [
        ("translation", "no template", ROW, "lunam"),
        ("translation", "data set name", ROW, "[Translation: mib to zor] lunam"),
        (
            "sentiment", "data set name",
            {"text": "fox owl", "options": ["negative", "positive"], "answer": "negative"},
            "[Sentiment: the small world] fox owl",
        ),
    ],
)
def test_styles(cluster, style, row, expected):
    assert [render(t, row)[0] for t in templates_of(cluster, style)] == [expected]


def test_first_templates():
    assert (
        templates_of("nli", n_templates=4) == PATTERNS["nli"][:4]
        and len(templates_of("nli")) == 10
    )
    with pytest.raises(TaskError, match="rhyme.*choose from"): templates_of("nli", "rhyme")


def test_pairs_follow_the_rates_and_the_seed():
    rates = {"coreference": 3, "translation": 1}
    pairs = training_pairs(rates, 2000, seed=4, style="data set name")
    assert (
        pairs
        == training_pairs(rates, 2000, seed=4, style="data set name")
        != training_pairs(rates, 2000, seed=5, style="data set name")
    )
    assert 0.7 < sum(source.startswith("[Coreference") for source, _ in pairs) / 2000 < 0.8
    assert training_pairs({"coreference": 1}, 50)[:20] == training_pairs({"coreference": 1}, 20)


def test_templates_take_turns():
    firsts = [source for source, _ in training_pairs({"nli": 1}, 10)]
    assert firsts == [render(t, row)[0] for t, row in zip(PATTERNS["nli"], micro_rows("nli", 10))]


def test_exemplars_are_other_rows_solved():
    pairs = training_pairs({"translation": 1}, 300, exemplars=2, style="no template")
    rows = iter(micro_rows("translation", 900))
    for source, target in pairs:
        *solved, question = source.split("\n\n")
        for exemplar in solved:
            row = next(rows)
            assert exemplar == f"{row['text']}\n{row['answer']}"
        row = next(rows)
        assert (question, target) == (row["text"], row["answer"])
    assert {source.count("\n\n") for source, _ in pairs} == {0, 1, 2}


def test_arms_are_asked_the_same_rows():
    rows = [row for _, row in cluster_questions("closed_book_qa", 30, seed=2)]
    for how in ({"k": 3}, {"options": False}, {"style": "no template"}, {"style": "data set name"}):
        assert [row for _, row in cluster_questions("closed_book_qa", 30, seed=2, **how)] == rows
    assert [row for _, row in cluster_questions("closed_book_qa", 30, seed=3)] != rows


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_questions_ask_for_the_answer(cluster):
    straight = [t for t in PATTERNS[cluster] if not t.turned]
    assert [source for source, _ in cluster_questions(cluster, 12)] == [
        render(straight[i % len(straight)], row)[0]
        for i, (_, row) in enumerate(cluster_questions(cluster, 12))
    ]


@pytest.mark.parametrize("k", range(5))
def test_k_exemplars_before_a_question(k):
    assert {
        source.count("\n\n")
        for source, _ in cluster_questions("translation", 10, k=k, style="no template")
    } == {k}


def test_options_on_and_off():
    asked = cluster_questions("commonsense", 7)
    assert all("OPTIONS" in source for source, _ in asked) and not any(
        "OPTIONS" in s for s, _ in cluster_questions("commonsense", 7, options=False)
    )


# Scores

def test_with_options_the_likeliest_counts(monkeypatch):
    monkeypatch.setattr(
        probes, "rank_classify", lambda model, tokenizer, sources, options: ([1, 0, 1, 1], None)
    )
    rows = [{"options": ["a", "b"], "answer": answer} for answer in "bbba"]
    assert answer_score(None, None, [("", row) for row in rows]) == 50


def test_without_options_rouge_counts(monkeypatch):
    monkeypatch.setattr(
        probes, "answers", lambda model, tokenizer, texts, **sizes: ["fox owl", "hen", ""]
    )
    class Words:
        def __call__(self, texts, **kwargs): return {"input_ids": [[1]] * len(texts)}
    rows = [{"answer": "fox owl"}, {"answer": "hen cat bee"}, {"answer": "rat"}]
    assert answer_score(None, Words(), [("", row) for row in rows]) == pytest.approx(
        100 * (1 + 0.5 + 0) / 3
    )


def test_chance():
    assert chance_score("nli", micro_rows("nli", 6)) == pytest.approx(100 / 3)
    assert chance_score("summarization", [{"text": "fox tool", "answer": "tool"}]) == pytest.approx(
        100 * 2 / 3
    )


# Trainings

def test_rates_are_those_of_flan_without_the_others():
    clusters = ["coreference", "translation"]
    sizes = {
        name: entry["rows"]
        for name, entry in DATASETS.items()
        if "rows" in entry and entry["cluster"] in clusters
    }
    rates = flan_rates(clusters)
    assert rates["coreference"] == pytest.approx(
        sum(
            p
            for name, p in mixing_rates(sizes).items()
            if DATASETS[name]["cluster"] == "coreference"
        )
    )
    assert (
        sum(rates.values()) == pytest.approx(1)
        and flan_rates(clusters, cap=None, maximum=None)["translation"] > rates["translation"]
    )


@pytest.mark.parametrize("training", TRAININGS)
def test_every_training_has_its_pairs(training):
    clusters = seen_clusters(TRAININGS[training].get("fold", "knowledge"))[
        : TRAININGS[training].get("n_clusters")
    ]
    drawn = []
    def spy(rates, n, seed, **settings): drawn.append((rates, settings)); return []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study_of, "training_pairs", spy)
        pairs_of(training, 10)
    assert set(drawn[0][0]) == set(clusters) and not {"fold", "n_clusters", "limits"} & set(
        drawn[0][1]
    )
    assert len(pairs_of(training, 10)) == 10


def test_trainings_differ():
    texts = {training: str(pairs_of(training, 40)) for training in TRAININGS}
    assert len(set(texts.values())) == len(TRAININGS)


def test_fit_trains_each_pair_once(tiny, tmp_path):
    model, tokenizer = load_model(tiny, device="cpu")
    before = model.shared.weight.clone()
    fit(model, tokenizer, pairs_of("no template", 3 * 8), tmp_path, batch_size=8)
    assert (
        Run(tmp_path).metrics()[-1]["step"] == 3
        and not model.shared.weight.equal(before)
        and not model.training
    )


def test_a_model_is_tuned_once_for_seed_scale_and_training(tiny, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(
        study_of, "fit",
        lambda model, tokenizer, pairs, folder, seed: made.append((len(pairs), seed)),
    )
    for seed, scale, training in (
        (0, 0.01, "1 template"), (0, 0.01, "1 template"), (1, 0.01, "1 template"),
        (0, 0.02, "1 template"), (0, 0.01, "no options"),
    ):
        flan_model(tmp_path / "arm-0", seed, scale, tiny, training)
    assert made == [(3 * BATCH, 0), (3 * BATCH, 1), (6 * BATCH, 0), (3 * BATCH, 0)]


def test_steps():
    assert [steps_of(1, STEPS), steps_of(0.1, STEPS), steps_of(0.0001, STEPS)] == [
        STEPS, STEPS // 10, 1,
    ]
    assert steps_of(0.5, 8) == 4


@pytest.mark.parametrize(
    "run, more", [(run_held_out, {"cluster": "nli"}), (run_flan, {}), (run_size, {"width": 8})]
)
def test_files_of_tasks_are_refused_with_advice(run, more, tmp_path):
    with pytest.raises(TaskError, match="data: found 'tasks'; leave out --data.*t0-datasets"):
        run(tmp_path, 0, 0.01, "tasks", "micro", **more)


def test_sizes_refuse_another_model(tmp_path):
    with pytest.raises(TaskError, match="leave out --model"):
        run_size(tmp_path, 0, 0.01, "micro", "google/t5-base-lm-adapt", 8)


# Studies

@pytest.fixture(scope="module")
def runs(tmp_path_factory): return tmp_path_factory.mktemp("flan")


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_runs(name, runs, tiny):
    model = "micro" if name == "flan-sizes" else tiny
    record = reproduce(
        STUDIES[name], runs, seeds=1, workers=1, scale=0.004, model=model, quiet=True
    )
    assert [run["arm"] for run in record["runs"]] == list(STUDIES[name].arms)
    numbers = [
        value
        for run in record["runs"]
        for key, value in run.items()
        if key not in ("arm", "seed", "cpu_seconds", "parameters")
    ]
    assert all(0 <= value <= 100 for value in numbers)
    check_that_no_run_is_repeated(STUDIES[name], runs, record, scale=0.004, model=model)


def test_studies_share_their_models(runs):
    models = {
        path.name.split("-0-")[0].removeprefix("base-").replace("_", " ")
        for path in runs.glob("base-*")
        if path.is_dir()
    }
    if not models: pytest.skip("the studies have not run")
    assert models <= set(TRAININGS) and {study.folder for study in STUDIES.values()} == {"flan"}


def test_arms_have_names_of_their_own():
    arms = {}
    for study in STUDIES.values():
        for arm, settings in study.arms.items():
            assert arms.setdefault(arm, (study.run, settings)) == (study.run, settings), arm


def test_crossed_arms():
    arms = STUDIES["flan-instructions"].arms
    assert len(arms) == 9 and arms["no template, asked with data set name"] == {
        "training": "no template", "style": "data set name",
    }
    assert STUDIES["flan-options"].arms["tuned without, asked with"] == {
        "training": "no options", "options": True,
    }
    assert STUDIES["flan-shots"].arms["tuned with, k = 4"] == {
        "training": "exemplars", "k": 4,
    } and set(STYLES) <= {"instruction", *TRAININGS}


def test_tuning_teaches_what_is_seen_and_keeps_what_is_known(tmp_path):
    "What the studies need to be more than noise; a third of their steps does."
    model, tokenizer = load_model("micro", device="cpu")
    asked = {c: cluster_questions(c, 200) for c in ("summarization", "coreference")}
    untuned = {c: answer_score(model, tokenizer, some) for c, some in asked.items()}
    fit(model, tokenizer, pairs_of("knowledge", BATCH * 100), tmp_path)
    for c, some in asked.items():
        guessed = chance_score(c, [row for _, row in some])
        tuned = answer_score(model, tokenizer, some)
        assert tuned > max(untuned[c], guessed) + 8, (c, untuned[c], guessed, tuned)
    held_out = answer_score(model, tokenizer, cluster_questions("closed_book_qa", 200))
    assert held_out > 25 + 8, held_out


METRICS = {"flan-heldout": "tuned", "flan-mixing": "seen", "flan-sizes": "held out, tuned"}

@pytest.mark.parametrize("name", STUDIES)
def test_the_page_agrees_with_the_record(name):
    record, printed, lines = record_and_page(STUDIES[name], NOTEBOOK)
    assert f"{name}: the saved record" in printed
    if name == "flan-shots": return  # A picture and sentences, no table
    for arm in STUDIES[name].arms:
        score = interval(
            [run[METRICS.get(name, "mean")] for run in record["runs"] if run["arm"] == arm]
        )
        assert any(line.startswith(f"| {arm} |") and f"| {score} |" in line for line in lines), (
            arm, score,
        )
