"""The demo, small: all arms, a table, three pictures, the same numbers with one process or two."""
import json

from instop_nb.demo import demo


def test_demo_writes_records_and_pictures_and_repeats(tmp_path):
    tables = [demo(tmp_path / name, seeds=1, workers=workers, scale=0.01) for name, workers in (("one", 1), ("two", 2))]
    assert [row["instruction"] for row in tables[0]] == ["definition", "definition + embedder", "no instruction", "copy the input"]
    values = [[v[0] for row in table for k, v in row.items() if k != "instruction"] for table in tables]
    assert values[0] == values[1]
    record = json.loads((tmp_path / "one" / "summary.json").read_text())
    assert record["command"] and record["seeds"] == [0] and len(record["table"]) == 4
    for name in ("learning_curves.png", "categories.png", "instructions.png"): assert (tmp_path / "one" / name).stat().st_size > 5000
    assert (tmp_path / "one" / "definition-0" / "predictions.jsonl").exists()
