"""A record knows the world that it was made in, and a page says when it was the first one."""
import html
import json
from dataclasses import replace
from pathlib import Path

import pytest

from instop_nb.claims import Claim, Finding, all_findings, findings, findings_table, read_claims
from instop_nb.core import TaskError
from instop_nb.study import WORLD, Study, contents, made_in_first_world, made_once, reproduce
from instop_nb.tables import RECORDS, read_record, shown

SAYS = "made in the first world of this course, with the T5 of that time: to be made again\n"


def toy_run(folder, seed, scale, data, model): return {"score": seed}


TOY = Study("toy", "A toy", "none", toy_run, {"plain": {}}, seeds=1)


def make(folder, **options): return reproduce(TOY, folder, workers=1, quiet=True, **options)


def test_a_record_of_the_generated_world_says_which_one(tmp_path):
    record = make(tmp_path)
    assert record["world"] == 2 == json.loads((tmp_path / "toy.json").read_text())["world"]
    assert not made_in_first_world(record)


def test_a_record_of_a_folder_is_no_matter_of_worlds(tmp_path):
    (tmp_path / "tasks").mkdir()
    record = make(tmp_path / "runs", data=str(tmp_path / "tasks"))
    assert "world" not in record and not made_in_first_world(record)


def test_a_record_without_a_world_is_of_the_first_one(tmp_path):
    record = make(tmp_path)
    del record["world"]
    assert made_in_first_world(record)


def test_a_run_of_another_world_is_not_taken_for_one_of_today(tmp_path, monkeypatch):
    monkeypatch.setattr("instop_nb.study.WORLD", WORLD - 1)
    assert make(tmp_path)["world"] == 1
    monkeypatch.undo()
    with pytest.raises(TaskError, match="data: found 'micro'; its contents have changed"):
        make(tmp_path)


def test_a_run_that_does_not_say_its_world_is_not_taken_for_one_of_today(tmp_path):
    make(tmp_path)
    path = tmp_path / "plain-0" / "result.json"
    saved = json.loads(path.read_text())
    assert saved.pop("made_of") == contents({"data": "micro"})
    path.write_text(json.dumps(saved))
    with pytest.raises(TaskError, match="its contents have changed"): make(tmp_path)


def test_a_model_of_another_world_is_made_anew(tmp_path, monkeypatch):
    from conftest import tiny_t5
    from instop_nb.models import load_model
    source = tiny_t5(tmp_path / "tiny")
    def base(): return made_once(tmp_path, "base", {"data": "micro"}, lambda _: load_model(source))
    first = base()
    assert base() == first
    monkeypatch.setattr("instop_nb.study.WORLD", WORLD + 1)
    assert base() != first


@pytest.mark.parametrize("saved, said", [
    ({"data": "micro"}, True), ({"data": "micro", "world": 2}, False), ({"data": "DIR"}, False),
])
def test_a_page_says_when_its_record_is_of_the_first_world(
    saved, said, tmp_path, monkeypatch, capsys
):
    record = {"seeds": 3, "scale": 1.0, "cpu_seconds": 60, "runs": [], **saved}
    monkeypatch.setattr("instop_nb.tables.read_record", lambda name: record)
    assert shown(TOY, tmp_path) == record
    first, *more = capsys.readouterr().out.splitlines(keepends=True)
    assert first.startswith("toy: the saved record") and more == [SAYS] * said


def test_a_page_without_a_record_shows_a_smoke_run_of_today(tmp_path, capsys):
    assert shown(TOY, tmp_path)["world"] == WORLD
    assert SAYS not in capsys.readouterr().out


def test_no_shipped_record_claims_a_world_that_it_is_not_of():
    for path in RECORDS.glob("*.json"):
        record = read_record(path.stem)
        assert "world" not in record or (record["data"], record["world"]) == ("micro", WORLD)


# Claims

NONE = Claim("toy", "no difference", "a", "b", "score", none=5)
SIZED = Claim("toy", "a difference", "a", "b", "score", paper=10)
OTHER_UNIT = Claim("toy", "a difference", "a", "b", "score", paper=10, unit="ROUGE-L")


def found(claim, *values, others=()):
    "What a record with these gaps says of a claim."
    runs = [{"arm": arm, "seed": seed, "score": value if arm == "a" else 0}
            for seed, value in enumerate(values) for arm in "ab"]
    return findings({"name": "toy", "runs": runs}, [claim, *others])[0]


@pytest.mark.parametrize("mean, half, p, verdict", [
    (1, 3, 1, "agrees"), (-1, 3, 1, "agrees"), (1, 4, 1, "cannot tell"),
    (7.5, 3.9, .001, "cannot tell"),  # Far from zero, and yet perhaps within the bound
    (7.5, 2, .04, "differs"), (-7.5, 2, .04, "differs"), (7.5, 2, .06, "cannot tell"),
    (0, 0, 1, "cannot tell"), (float("nan"), float("nan"), 1, "cannot tell"),
])
def test_claims_of_no_difference_have_three_verdicts(mean, half, p, verdict):
    assert Finding(NONE, mean, half, p, 1., 3).verdict == verdict


def test_claims_of_no_difference_are_tested_against_their_bound():
    assert found(NONE, 5, 6, 4).p == 1 and found(NONE, 1, 2, 3).p == 1
    beyond, below = found(NONE, 11, 12, 13), found(NONE, -11, -12, -13)
    assert beyond.p == below.p < .05 and {beyond.verdict, below.verdict} == {"differs"}
    for values in ((5, 9, 7), (6, 7, 8, 9), (12, 30, 20), (20, 21, 22)):
        one = found(NONE, *values)
        assert (one.p < .05) == (one.mean - one.half > 5)  # Of one claim, interval and p agree
    together = found(NONE, 11, 12, 13, others=[replace(NONE, says="the same again")])
    assert together.p == pytest.approx(2 * beyond.p)


@pytest.mark.parametrize("claim", [NONE, SIZED, OTHER_UNIT])
def test_claims_about_runs_that_do_not_scatter_cannot_be_told(claim):
    still = found(claim, 0, 0, 0)
    assert (still.verdict, still.least, still.needed, still.p) == ("cannot tell", None, None, 1)
    assert str(findings_table([still])).endswith("| 1 | – | 3 (–) | cannot tell |")


def test_claims_say_the_seeds_that_are_needed_in_our_unit_alone():
    values = 3, 8, 14
    ours, other = found(SIZED, *values), found(OTHER_UNIT, *values)
    assert f"| 3 ({ours.needed}) |" in str(findings_table([ours])) and ours.needed > 3
    assert other.needed is None and "| 3 (–) |" in str(findings_table([other]))


PAGES = {"tiers": "31f_claims", "forgetting": "31e_world_study", "speedrun": "31e_world_study",
         "superni-xlingual": "35b_xlingual_study"}


@pytest.mark.parametrize("study", PAGES)
def test_claims_of_a_page_agree_with_the_record(study):
    page = Path(__file__).parents[1]/f"nbs/3_studies/{PAGES[study]}.ipynb"
    outputs = [o for c in json.loads(page.read_text(encoding="utf-8"))["cells"]
               for o in c.get("outputs", [])]
    lines = html.unescape("".join(
        "".join(o.get("data", {}).get("text/markdown", [])) + "\n" for o in outputs)).splitlines()
    assert all_findings(study)
    for row in str(findings_table(all_findings(study))).splitlines()[2:]:
        assert html.unescape(row) in lines


def test_claims_of_the_world_studies_name_numbers_of_their_records():
    for study in ("tiers", "forgetting", "speedrun"):
        runs = read_record(study)["runs"]
        for claim in read_claims():
            if claim.study != study: continue
            assert {claim.better, claim.worse} <= {run["arm"] for run in runs}
            assert all(claim.metric in run for run in runs) and claim.paper is None


def test_claims_of_the_search_are_corrected_together():
    speed = all_findings("speedrun")
    assert len(speed) == 4 and [f.verdict for f in speed].count("agrees") == 1


# A guess in another language

def test_a_guess_that_knows_all_but_the_kind():
    from instop_nb.microworld import micro_tasks, tiers_of
    from instop_nb.words import KINDS
    from instop_nb.xlingual_study import by_kind, kind_guessed
    tasks = micro_tasks("category", 1)[::20]
    some = by_kind(tasks)
    assert some and len(some) < len(tasks)
    assert all(tiers_of()[t.name][0].chosen in KINDS for t in some)
    for task in some:
        five, fitting = kind_guessed([task], False), kind_guessed([task], True)
        assert 20 <= five <= 100 and five <= fitting + 1e-9  # The right kind is among the guesses
    halves = some[::2][:len(some) // 2], some[1::2]
    some = [*halves[0], *halves[1]]
    means = [kind_guessed(half, True) for half in halves]
    assert kind_guessed(some, True) == pytest.approx(sum(means) / 2)
