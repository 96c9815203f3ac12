"""A record knows the world that it was made in, and a page says when it was the first one."""
import json

import pytest

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
