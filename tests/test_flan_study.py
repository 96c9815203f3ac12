"""FLAN's studies: what is held out stays out, arms differ in what they say they differ in, every
study runs, and the page says what the records say."""
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import check_claims_of_page, check_that_no_run_is_repeated, record_and_page, tiny_t5

import instop_nb.flan_study as study_of
from instop_nb import probes
from instop_nb.actions import ACTIONS
from instop_nb.core import TaskError
from instop_nb.flan_study import (
    BATCH, CHOICES, CLUSTERS_OF_ACTIONS, STEPS, STUDIES, STYLES, TRAININGS, cluster_questions,
    draw_row, flan_model, pairs_of, run_flan, run_options, split_clusters, templates_of,
    training_pairs,
)
from instop_nb.models import load_model
from instop_nb.operations import is_held_out, operations, wordings
from instop_nb.probes import answer_score, chance_score, fit, steps_of
from instop_nb.runs import Run
from instop_nb.study import reproduce
from instop_nb.tables import by_arm, interval, read_record

NOTEBOOK = Path(__file__).resolve().parent.parent / "nbs" / "3_studies" / "32_flan_study.ipynb"
CLUSTER_OF = {action: c for c, some in CLUSTERS_OF_ACTIONS.items() for action in some}
WORDING_OF = {said: o for o in operations() for said in wordings(o)}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A folder with a T5 of random weights and the course's tokenizer: as good as any where only
    the way of things is tested."""
    return tiny_t5(tmp_path_factory.mktemp("tiny"))


def clusters_in(source):
    "The clusters whose instructions stand in a source."
    pieces = {piece.strip(" :") for line in source.split("\n") for piece in line.split(": ")}
    pieces |= {p.removesuffix(" The result is") for p in pieces}
    pieces |= {p.split(". ", 1)[-1].removesuffix(" The result is") for p in pieces}
    return {CLUSTER_OF[WORDING_OF[p].action.name] for p in pieces if p in WORDING_OF}


# What is held out

def test_every_action_that_the_books_tell_is_in_one_cluster():
    assert Counter(a for some in CLUSTERS_OF_ACTIONS.values() for a in some) == Counter(
        a.name for a in ACTIONS if a.name != "size"
    )


@pytest.mark.parametrize("block", range(3))
def test_ten_seeds_hold_out_each_cluster_three_times(block):
    splits = [split_clusters(seed) for seed in range(10 * block, 10 * block + 10)]
    assert Counter(c for held, _ in splits for c in held) == dict.fromkeys(CLUSTERS_OF_ACTIONS, 3)
    for held, seen in splits: assert sorted(held + seen) == sorted(CLUSTERS_OF_ACTIONS)
    assert len({tuple(seen) for _, seen in splits}) == 10


def test_one_cluster_with_options_stays():
    for seed in range(4):
        held, seen = split_clusters(seed, choices=True)
        assert held == [CHOICES[seed % 2]] and CHOICES[1 - seed % 2] in seen


@pytest.mark.parametrize("training", [t for t in TRAININGS if TRAININGS[t].get("style") is None])
def test_no_training_asks_for_what_is_held_out(training):
    seed, settings = 1, TRAININGS[training]
    held, seen = split_clusters(seed, settings.get("choices", False))
    found = [clusters_in(source) for source, _ in pairs_of(training, 400, seed)]
    assert all(found), "every source says what is asked"
    asked = set.union(*found)
    if settings.get("held_out_too"): assert asked == {*held, *seen}
    else: assert asked == {*seen[:settings.get("n_clusters")]}


def test_no_question_is_ever_trained_on():
    for cluster in CLUSTERS_OF_ACTIONS:
        assert all(is_held_out(row["text"]) for _, row in cluster_questions(cluster, 20, k=1))
    lists = [s.rstrip(".") for s, _ in pairs_of("no template", 300)]
    assert not any(map(is_held_out, lists))


# What is read

def test_styles():
    drop = next(o for o in operations() if o.category == "drop: every kind")
    assert [p.source for p in templates_of(drop, "no template")] == ["{text}."]
    assert [p.source for p in templates_of(drop, "data set name")] == [
        f"[drop: every kind {drop.chosen}] {{text}}."
    ]
    said = [p.source for p in templates_of(drop)]
    assert len({*said}) == 10 and all(any(w in s for w in wordings(drop)) for s in said)
    with pytest.raises(TaskError, match="rhyme.*choose from"): templates_of(drop, "rhyme")


def test_templates_are_those_of_the_data_set():
    two = [o for o in operations() if o.category == "drop: every kind"][:2]
    bare = [[p.source.replace(o.chosen, "KIND").replace("an KIND", "a KIND")
             for p in templates_of(o)] for o in two]
    assert bare[0] == bare[1]


def test_no_word_of_a_template_is_bytes():
    _, tokenizer = load_model("micro", device="cpu")
    for cluster in CLUSTERS_OF_ACTIONS:
        for source, _ in cluster_questions(cluster, 40):
            lines = source.split("OPTIONS")[0].split("\n")
            for word in {w.strip(".:?,") for line in lines for w in line.split()[1:]}:
                assert len(tokenizer.tokenize(word)) == 1, word


@pytest.mark.parametrize("how", [{"k": 3}, {"options": False}, *({"style": s} for s in STYLES)])
def test_arms_are_asked_the_same_rows(how):
    for cluster in CHOICES + ("count",):
        asked = cluster_questions(cluster, 30, 2, **how)
        assert [r for _, r in asked] == [r for _, r in cluster_questions(cluster, 30, 2)]
        assert [r for _, r in asked] != [r for _, r in cluster_questions(cluster, 30, 3)]


@pytest.mark.parametrize("cluster", CHOICES)
def test_answers_of_a_question_come_equally_often(cluster):
    rows = [row for _, row in cluster_questions(cluster, 400)]
    place = Counter(row["options"].index(row["answer"]) for row in rows)
    assert 160 < place[0] < 240


@pytest.mark.parametrize("k", [0, 1, 4])
def test_exemplars_are_solved_rows_of_the_same_task(k):
    for source, row in cluster_questions("write twice", 20, k=k, style="data set name"):
        *solved, question = source.split("\n\n")
        assert len(solved) == k and row["text"] in question
        for exemplar in solved:
            head, answer = exemplar.split("\n")
            name, text = head[1:-1].split("] ")
            task = next(o for o in operations() if name == " ".join(
                filter(None, (o.category, o.changed, o.chosen))))
            assert task.solve(text.split()) == answer and not is_held_out(text)
            assert name == question[1:].split("] ")[0]


def test_options_on_and_off():
    for shown in (True, False):
        asked = cluster_questions("which of two", 9, options=shown)
        assert all(("OPTIONS" in source) == shown for source, _ in asked)


def test_training_draws_clusters_equally_often():
    pairs = training_pairs(["count", "turn around"], 2000, seed=4)
    counts = Counter(next(iter(clusters_in(source))) for source, _ in pairs)
    assert 900 < counts["count"] < 1100
    assert pairs == training_pairs(["count", "turn around"], 2000, seed=4)
    assert pairs != training_pairs(["count", "turn around"], 2000, seed=5)


# Scores

def test_with_options_the_likeliest_counts(monkeypatch):
    monkeypatch.setattr(
        probes, "rank_classify", lambda model, tokenizer, sources, options: ([1, 0, 1, 1], None)
    )
    rows = [{"options": ["a", "b"], "answer": answer} for answer in "bbba"]
    assert answer_score(None, None, [("", row) for row in rows]) == 50


@pytest.mark.parametrize("measure, expected", [("rougeL", 50), ("exact_match", 100 / 3)])
def test_without_options_a_measure_counts(monkeypatch, measure, expected):
    monkeypatch.setattr(
        probes, "answers", lambda model, tokenizer, texts, **sizes: ["fox owl", "hen", ""]
    )
    rows = [{"answer": "fox owl"}, {"answer": "hen cat bee"}, {"answer": "rat"}]
    found = answer_score(None, None, [("", row) for row in rows], measure)
    assert found == pytest.approx(expected)


def test_chance():
    rows = [{"text": "fox", "options": ["a", "b", "c"], "answer": "a"}]
    assert chance_score(rows) == pytest.approx(100 / 3)
    copied = [{"text": "fox tool", "answer": "tool"}]
    assert chance_score(copied) == pytest.approx(200 / 3)
    assert chance_score(copied, "exact_match") == 0


# Trainings

def test_trainings_differ():
    told = [(str(pairs_of(name, 60)), TRAININGS[name].get("steps")) for name in TRAININGS]
    assert len({*told}) == len(TRAININGS)


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
    def note(model, tokenizer, pairs, folder, seed, batch):
        made.append((len(pairs) // batch, seed))
        return model.eval()
    monkeypatch.setattr(study_of, "fit", note)
    for seed, scale, training in (
        (0, 0.05, "1 cluster"), (0, 0.05, "1 cluster"), (1, 0.05, "1 cluster"),
        (0, 0.1, "1 cluster"), (0, 0.05, "FLAN"),
    ):
        flan_model(tmp_path / "arm-0", seed, scale, tiny, training)
    assert made == [(3, 0), (3, 1), (6, 0), (3, 0)]


def test_steps():
    assert [steps_of(1, STEPS), steps_of(0.1, STEPS), steps_of(0.0001, STEPS)] == [
        STEPS, STEPS // 10, 1,
    ]
    assert STEPS * BATCH == 3840, "what the page says: 60 steps of 64"


@pytest.mark.parametrize("run", [run_flan, run_options])
def test_files_of_tasks_are_refused_with_advice(run, tmp_path):
    with pytest.raises(TaskError, match="data: found 'tasks'; leave out --data.*t0-datasets"):
        run(tmp_path, 0, 0.01, "tasks", "micro")


# Studies

@pytest.fixture(scope="module")
def runs(tmp_path_factory): return tmp_path_factory.mktemp("flan")


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_runs(name, runs, tiny):
    arms = [*STUDIES[name].arms.items()]
    study = replace(STUDIES[name], arms=dict([arms[0], *arms[2::3]]))
    record = reproduce(study, runs, seeds=1, workers=1, scale=0.01, model=tiny, quiet=True)
    assert [run["arm"] for run in record["runs"]] == list(study.arms)
    numbers = [
        value
        for run in record["runs"]
        for key, value in run.items() if key not in ("arm", "seed", "cpu_seconds")
    ]
    assert all(0 <= value <= 100 for value in numbers)
    check_that_no_run_is_repeated(study, runs, record, scale=0.01, model=tiny)


def test_arms_have_names_of_their_own():
    arms = {}
    for study in STUDIES.values():
        for arm, settings in study.arms.items():
            assert arms.setdefault(arm, (study.run, settings)) == (study.run, settings), arm


def test_crossed_arms():
    arms = STUDIES["flan-instructions"].arms
    assert len(arms) == 12 and arms["no template, asked with data set name"] == {
        "training": "no template", "style": "data set name",
    }
    assert STUDIES["flan-options"].arms["tuned without, shown"] == {
        "training": "choices, no options", "options": True,
    }
    assert STUDIES["flan-shots"].arms["exemplars, k = 3"] == {"training": "exemplars", "k": 3}


def test_tuning_elicits_what_the_books_told(tmp_path):
    "What the studies need to be more than noise; half of their steps does."
    model, tokenizer = load_model("micro", device="cpu")
    held, _ = split_clusters(3)
    asked = [q for c in held if c not in CHOICES for q in cluster_questions(c, 40)]
    assert answer_score(model, tokenizer, asked, "exact_match") < 15
    fit(model, tokenizer, pairs_of("FLAN", BATCH * 30, 3), tmp_path, 3, BATCH)
    assert answer_score(model, tokenizer, asked, "exact_match") > 50


@pytest.mark.parametrize("cluster", CHOICES)
def test_the_list_alone_gives_no_answer_away(cluster):
    "As many words of a question's list have one answer as the other."
    rng, kinds = random.Random(0), Counter()
    for o in random.Random(1).sample([o for g in study_of._datasets(cluster) for o in g], 40):
        row = draw_row(o, rng)
        alone = Counter(o.action.do([w], [0], o.changed)[0] for w in row["text"].split())
        assert alone[o.options[0]] == alone[o.options[1]] > 0, (o.name, row)
        kinds[row["answer"] == o.options[0]] += 1
    assert min(kinds.values()) > 8


def test_rows_are_right():
    rng = random.Random(0)
    for o in operations()[::40]:
        row = draw_row(o, rng)
        assert o.solve(row["text"].split()) == row["answer"]


# Page and records

@pytest.mark.parametrize("name", STUDIES)
def test_the_page_agrees_with_the_record(name):
    record, printed, lines = record_and_page(STUDIES[name], NOTEBOOK)
    check_claims_of_page(name, record, printed, lines)


@pytest.mark.parametrize("name, metric", [("flan-heldout", "mean"), ("flan-options", "mass")])
def test_the_tables_agree_with_the_record(name, metric):
    record, _, lines = record_and_page(STUDIES[name], NOTEBOOK)
    for arm, values in by_arm(record, metric).items():
        assert any(line.startswith(f"| {arm} |") and f"| {interval(values)} |" in line
                   for line in lines), arm


def test_the_ceiling_is_one():
    "A study whose ceiling is at chance is no study."
    record = read_record("flan-heldout")
    ceiling = by_arm(record, "mean")["trained on it"]
    assert min(a - b for a, b in zip(ceiling, by_arm(record, "chance")["trained on it"])) > 30
