"""One question to a model: what answers at once answers as transformers' class does."""
import json
import shutil
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import T5ForConditionalGeneration

from instop_nb.ask import ask, known_words, model_to_ask, question, unknown_words
from instop_nb.microworld import micro_tasks
from instop_nb.models import load_model
from instop_nb.t5 import SHIPPED, T5
from instop_nb.trainer import save_model
from instop_nb.tuning import answers

QUICK = {name: model_to_ask(name) for name in SHIPPED}
THEIRS = {name: load_model(name, "cpu") for name in SHIPPED}
each_shipped = pytest.mark.parametrize("name", SHIPPED)
CONTROL = ["</s>", "<pad>", "<unk>", "<extra_id_0>", " ", "\n", "fox", "Drop every fruit."]


def is_written(model, tokenizer): return type(model) is T5 and type(tokenizer) is Tokenizer


@each_shipped
def test_questions_of_the_world_are_answered_the_same(name):
    tasks = micro_tasks("train", 1)[::30] + micro_tasks("test", 1)[::10]
    asked = [(t.definition[0], t.instances[0].input) for t in tasks]
    expected = answers(*THEIRS[name], [question(*pair) for pair in asked])
    assert len(asked) > 30 and [ask(*pair, *QUICK[name]) for pair in asked] == expected


@settings(max_examples=40)
@given(*[st.lists(st.sampled_from(CONTROL) | st.text(max_size=4), min_size=1).map("".join)] * 2)
def test_any_text_is_answered_the_same(said, text):
    "Also where it holds control tokens: they are signs."
    said, text = (t.encode("utf-8", "ignore").decode() for t in ("Do: " + said, text))
    pair = said, text
    assert ask(*pair, *QUICK["micro-tuned"]) == ask(*pair, *THEIRS["micro-tuned"])


@each_shipped
def test_a_text_is_read_as_the_same_tokens(name):
    for text in ("a </s> <pad>", "", "fox " * 2000, "Grüße 漢字"):
        expected = THEIRS[name][1](text, truncation=True, max_length=1024)["input_ids"]
        assert QUICK[name][1].encode(text).ids == expected
    assert known_words(QUICK[name][1]) == known_words(THEIRS[name][1])
    assert unknown_words("Dropp a zebra", QUICK[name][1]) == {
        "Dropp": ["drop"], "zebra": [],
    }


@pytest.mark.parametrize("field", [
    {"tokenizer_class": "T5Tokenizer"}, {"clean_up_tokenization_spaces": True},
])
def test_a_folder_of_a_t5_answers_at_once_and_any_other_model_through_load_model(field, tmp_path):
    folder = save_model(*THEIRS["micro-tuned"], tmp_path / "own")
    own = model_to_ask(str(folder))
    assert is_written(*own) and is_written(*QUICK["micro"])
    assert ask("Drop every fruit.", "fox fig saw", *own) == "fox saw"
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | field))
    other = model_to_ask(str(folder))
    assert type(other[0]) is T5ForConditionalGeneration
    said = "Drop every fruit.", "fox fig saw"
    assert ask(*said, *other) == ask(*said, *load_model(folder, "cpu"))


def test_a_control_token_that_is_a_piece_is_left_to_load_model(tmp_path, monkeypatch):
    "A vocabulary of whole words finds </s> in a text, whatever it is told of control tokens."
    folder = save_model(*THEIRS["micro"], tmp_path / "own")
    whole = json.loads((folder / "tokenizer.json").read_text())
    words = {t["content"]: t["id"] for t in whole["added_tokens"]} | {"a": 19, "b": 20}
    whole["model"] = {"type": "WordLevel", "vocab": words, "unk_token": "<unk>"}
    whole |= {"normalizer": None, "pre_tokenizer": {"type": "WhitespaceSplit"}, "decoder": None}
    (folder / "tokenizer.json").write_text(json.dumps(whole))
    monkeypatch.setattr("instop_nb.ask.read_t5", lambda folder: pytest.fail("two models"))
    other = model_to_ask(str(folder))
    assert type(other[0]) is T5ForConditionalGeneration
    assert other[1].eos_token_id not in other[1]("a </s> a", add_special_tokens=False)["input_ids"]


def test_with_a_gpu_a_folder_goes_there(tmp_path, monkeypatch):
    folder = save_model(*THEIRS["micro"], tmp_path / "own")
    called = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("instop_nb.models.load_model", lambda name: called.append(name))
    assert is_written(*model_to_ask("micro")) and not called
    model_to_ask(folder)
    assert called == [folder]


@pytest.mark.parametrize("damage", ["weights", "tokenizer", "config", "all", "a larger tokenizer"])
def test_a_damaged_folder_is_refused_as_load_model_refuses_it(damage, tmp_path):
    folder = save_model(*THEIRS["micro"], tmp_path / "own")
    if damage == "weights": (folder / "model.safetensors").write_bytes(b"no")
    if damage == "tokenizer": (folder / "tokenizer.json").write_text("{")
    if damage == "config": (folder / "config.json").write_text("{")
    if damage == "all": shutil.rmtree(folder)
    if damage == "a larger tokenizer":
        path = folder / "tokenizer.json"
        whole = json.loads(path.read_text())
        whole["added_tokens"] += [whole["added_tokens"][-1] | {"id": 1185, "content": "<more>"}]
        path.write_text(json.dumps(whole))
    said = []
    for load in (model_to_ask, load_model):
        with pytest.raises(OSError) as caught: load(str(folder))
        said.append(str(caught.value))
    assert said[0] == said[1] and str(folder) in said[0]


def test_the_command_imports_no_large_library():
    "Not transformers, datasets, scikit-learn, SciPy or matplotlib; the answer is there."
    code = (
        "import sys; from instop_nb.cli_data import ask_once; "
        "ask_once('move every tool to the front', 'fox saw hat axe', 'micro-tuned'); "
        "print(*sorted({'transformers', 'datasets', 'sklearn', 'scipy', 'matplotlib'}"
        " & {*sys.modules}))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "saw axe fox hat\n\n"
    assert ended.stderr.startswith("It reads: Definition: Move every tool to the front.")
