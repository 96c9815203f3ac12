"""A BART and an mT5, made tiny in the hub's own format, go through all that `facebook/bart-base`
and `google/mt5-xl` would: Natural Instructions v1's recipe in its own layout, mTk-Instruct's on the
cross-lingual track, answers, a stop and its resumption, plans and learned instructions."""
import copy
import io
import json
import random
import shutil

import pytest
import sentencepiece
import torch
import transformers as hf
from test_cli import call, fail
from tokenizers.implementations import ByteLevelBPETokenizer
from typer.testing import CliRunner

from instop_nb.batches import tokenize_tasks
from instop_nb.cli import app
from instop_nb.core import TaskError
from instop_nb.metrics import gpt2_tokenizer, score
from instop_nb.models import load_model
from instop_nb.natinst import Encoding, encode
from instop_nb.natinst_v1 import V1_ENCODINGS, V1Encoding, encode_v1
from instop_nb.predictions import read_predictions
from instop_nb.tasks import Example, Instance, Task, load_tasks, read_task, write_task
from instop_nb.tuning import answers

# As facebook/bart-base has them, but for its sizes
BART = dict(
    activation_function="gelu", bos_token_id=0, pad_token_id=1, eos_token_id=2,
    decoder_start_token_id=2, forced_bos_token_id=0, forced_eos_token_id=2,
    max_position_embeddings=1024, scale_embedding=False, dropout=0.1, attention_dropout=0.1,
)
WRITES = dict(
    bos_token_id=0, pad_token_id=1, eos_token_id=2, decoder_start_token_id=2, early_stopping=True,
    forced_bos_token_id=0, forced_eos_token_id=2, no_repeat_ngram_size=3, num_beams=4,
)
# As google/mt5-base has it
MT5_READER = dict(
    eos_token="</s>", unk_token="<unk>", pad_token="<pad>", extra_ids=0, sp_model_kwargs={},
    additional_special_tokens=None, special_tokens_map_file="/home/x/.cache/y", tokenizer_file=None,
    tokenizer_class="T5Tokenizer", name_or_path="google/mt5-base",
)
NUMBERS = {
    "English": "one two three four five six seven eight nine",
    "German": "eins zwei drei vier fünf sechs sieben acht neun",
    "Greek": "ένα δύο τρία τέσσερα πέντε έξι επτά οκτώ εννέα",
    "Hindi": "एक दो तीन चार पाँच छह सात आठ नौ",
    "Japanese": "一 二 三 四 五 六 七 八 九",
}
NUMBERS = {language: words.split() for language, words in NUMBERS.items()}
DOES = {"first": "Write the first number.", "last": "Write the last number.",
        "both": "Write the first and the last number."}


def number_task(name, does, language, n=6):
    "A task about lists of numbers, told in English, in some language."
    rng = random.Random(name)
    rows = [rng.sample(NUMBERS[language], 4) for _ in range(n + 2)]
    done = {"first": lambda row: row[0], "last": lambda row: row[-1],
            "both": lambda row: f"{row[0]} {row[-1]}"}[does]
    told = [(" ".join(row), done(row)) for row in rows]
    return Task(
        name, [DOES[does]], [Example(*told[0]), Example(*told[1])], [],
        [Instance(f"{name}-{i}", x, [y]) for i, (x, y) in enumerate(told[2:])], [does],
    )


def write_collection(folder, splits, track):
    "Write tasks by split, and the two lists of a track."
    for part in ("tasks", f"splits/{track}"): (folder / part).mkdir(parents=True)
    for split, tasks in splits.items():
        for task in tasks: write_task(task, folder / "tasks" / f"{task.name}.json")
        names = "".join(f"{task.name}\n" for task in tasks)
        (folder / f"splits/{track}/{split}_tasks.txt").write_text(names)
    return folder


def loud(model, folder):
    "Save a model with larger weights than a new one's, so that it says a thing."
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() > 1: p.mul_(3)
    model.save_pretrained(folder)
    return folder


def bpe(folder, texts, size, special, **names):
    "Write vocab.json and merges.txt, as GPT-2 and BART have them."
    made = ByteLevelBPETokenizer()
    made.train_from_iterator(texts, vocab_size=size, special_tokens=special, show_progress=False)
    made.save_model(str(folder))
    (folder / "tokenizer_config.json").write_text(json.dumps(names))


@pytest.fixture(scope="module")
def bart(tmp_path_factory):
    "A folder like that of facebook/bart-base; its tokenizer has read the tasks of the package."
    folder = tmp_path_factory.mktemp("bart")
    texts = [encode(task, task.instances[0]) for task in load_tasks("natural", None, 1)]
    bpe(folder, texts, 900, ["<s>", "<pad>", "</s>", "<unk>", "<mask>"], model_max_length=1024)
    torch.manual_seed(0)
    sizes = dict(d_model=24, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
                 decoder_attention_heads=2, encoder_ffn_dim=48, decoder_ffn_dim=48)
    size = len(json.loads((folder / "vocab.json").read_text()))
    loud(hf.BartForConditionalGeneration(hf.BartConfig(vocab_size=size, **sizes, **BART)), folder)
    (folder / "generation_config.json").write_text(json.dumps(WRITES))
    return folder


@pytest.fixture(scope="module")
def mt5(tmp_path_factory):
    "A folder like that of google/mt5-base: spiece.model of several scripts, with bytes."
    folder, out = tmp_path_factory.mktemp("mt5"), io.BytesIO()
    texts = [text for t in numbers_tasks()["train"] for text in [t.definition[0]]]
    texts += [" ".join(random.Random(i).sample(words, 5)) for words in NUMBERS.values()
              for i in range(40)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=out, vocab_size=520, hard_vocab_limit=False,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=3, byte_fallback=True,
        user_defined_symbols=[f"▁<extra_id_{i}>" for i in reversed(range(100))],
    )
    (folder / "spiece.model").write_bytes(out.getvalue())
    (folder / "tokenizer_config.json").write_text(json.dumps(MT5_READER))
    pieces = sentencepiece.SentencePieceProcessor(model_proto=out.getvalue()).get_piece_size()
    torch.manual_seed(0)
    config = hf.MT5Config(
        vocab_size=pieces + 12, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_decoder_layers=2,
        num_heads=2, feed_forward_proj="gated-gelu", tie_word_embeddings=False,
        decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
    )
    return loud(hf.MT5ForConditionalGeneration(config), folder)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    "A folder with a byte-level tokenizer, as GPT-2 has it."
    folder = tmp_path_factory.mktemp("gpt2")
    name = "<|endoftext|>"
    bpe(folder, [" ".join(words) for words in NUMBERS.values()], 320, [name],
        tokenizer_class="GPT2Tokenizer", eos_token=name, bos_token=name, unk_token=name)
    return folder


def numbers_tasks():
    "The cross-lingual track in small: trained in English and German, asked in other languages."
    train = [number_task(f"{does}_{language}", does, language) for does in ("first", "last")
             for language in ("English", "German")]
    test = [number_task(f"both_{language}", "both", language, 2)
            for language in ("Greek", "Hindi", "Japanese")]
    return {"train": train, "test": test}


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    "A collection with no track but the cross-lingual one."
    return write_collection(tmp_path_factory.mktemp("numbers"), numbers_tasks(), "xlingual")


def losses(run):
    "The losses of a run, step by step."
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def said(run):
    "Its answers, by task and instance."
    return {row["id"]: row["prediction"] for row in read_predictions(run / "predictions.jsonl")}


def go_on_from_the_middle(words, run, again):
    "Begin a finished run again from its earlier checkpoint, in another folder."
    shutil.copytree(run, again)
    steps = sorted((again / "checkpoint").glob("checkpoint-*"),
                   key=lambda path: int(path.name.partition("-")[2]))
    assert len(steps) == 2
    shutil.rmtree(steps[1])
    for name in ("model", "predictions.jsonl", "answers.jsonl"):
        path = again / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    call(*words, "--out", again, "--resume")


def same_weights(a, b):
    "Whether two saved models are one."
    one, other = (load_model(folder / "model", "cpu")[0].state_dict() for folder in (a, b))
    return all(value.equal(other[name]) for name, value in one.items())


# BART, and Natural Instructions v1

def test_how_a_summary_is_written_reaches_no_answer(bart):
    model, tokenizer = load_model(bart, "cpu")
    texts = ["Definition: Say it.\ninput: a b\noutput:", "input: the word\noutput:"]
    for text, answer in zip(texts, answers(model, tokenizer, texts, max_new_tokens=24)):
        ids, written = torch.tensor([tokenizer(text)["input_ids"]]), [2, 0]
        while len(written) < 25:
            with torch.no_grad():
                logits = model(input_ids=ids, decoder_input_ids=torch.tensor([written])).logits
            written.append(logits[0, -1].argmax().item())
            if written[-1] == 2: break
        assert answer == tokenizer.decode(written, skip_special_tokens=True).strip()
        threes = [*zip(written, written[1:], written[2:])]
        assert len({*threes}) < len(threes), "what no_repeat_ngram_size=3 would have forbidden"
    assert model.generation_config.num_beams == 4, "its own settings come back"


@pytest.fixture(scope="module")
def natinst(bart, tmp_path_factory):
    "The words of a run of the recipe, and its folder."
    run = tmp_path_factory.mktemp("natinst") / "run"
    words = ["tune", "--recipe", "natinst", "--model", bart, "--data", "natural", "--steps", 16,
             "--n-instances", 3, "--n-test", 1, "--max-target", 12, "--learning-rate", 0.01,
             "--set", "gradient_accumulation_steps=1", "--set", "logging_steps=1", "--quiet"]
    call(*words, "--out", run)
    return words, run


def test_the_recipe_is_that_of_version_1(natinst):
    how = json.loads((natinst[1] / "config.json").read_text())["recipe"]
    shown = [how[name] for name in ("format", "n_pos", "n_neg", "explanations", "epochs")]
    assert shown == ["ni-v1", 2, 2, True, None]
    assert V1Encoding(n_pos=2, n_neg=2, explanations=True).fields == (
        V1_ENCODINGS["Def+Prompt+Avoid+Emph+Neg+Pos+Expl"]
    )


def test_it_learns_and_its_model_comes_back(natinst, tmp_path):
    words, run = natinst
    found = losses(run)
    assert sum(found[-4:]) < sum(found[:4])
    call("evaluate", "--recipe", run / "config.json", "--data", "natural", "--n-test", 1,
         "--model", run / "model", "--quiet", "--out", tmp_path)
    assert said(tmp_path) == said(run)
    kept = json.loads((run / "model/generation_config.json").read_text())
    assert {name: kept[name] for name in WRITES} == WRITES


def test_it_goes_on_where_it_was_stopped(natinst, tmp_path):
    words, run = natinst
    go_on_from_the_middle(words, run, tmp_path / "again")
    assert same_weights(run, tmp_path / "again") and said(tmp_path / "again") == said(run)


def test_it_is_asked_in_its_own_layout(natinst):
    asked = CliRunner().invoke(
        app, ["ask", "say yes", "no", "--format", "ni-v1", "--model", str(natinst[1] / "model")]
    )
    assert asked.exit_code == 0, asked.output
    assert "It reads: Definition: Say yes.\\ninput: no\\noutput:" in asked.stderr
    assert "choose from ['tk-instruct', 'ni-v1']" in fail("ask", "say yes", "no", "--format", "x")


def test_it_reads_what_version_1_reads(bart):
    _, tokenizer = load_model(bart, "cpu")
    tasks = load_tasks("natural", "train", 2)[:5]
    shown = V1Encoding(n_pos=1, n_neg=1, explanations=True)
    rows = tokenize_tasks(tasks, tokenizer, shown)
    texts = [encode_v1(t, i.input, n_examples=1) for t in tasks for i in t.instances]
    assert rows["input_ids"][:] == tokenizer(texts)["input_ids"]


def test_a_long_source_loses_examples_and_keeps_its_question(bart):
    _, tokenizer = load_model(bart, "cpu")
    task, = load_tasks("natural", "train", 3)[:1]
    whole, bare = (
        tokenize_tasks([task], tokenizer, V1Encoding(n_pos=n, n_neg=n, explanations=True))
        for n in (2, 0)
    )
    limit = max(bare["length"]) + 20
    assert min(whole["length"]) > limit
    cut = tokenize_tasks(
        [task], tokenizer, V1Encoding(n_neg=2, explanations=True), max_source=limit
    )
    for ids, instance in zip(cut["input_ids"], task.instances):
        text = tokenizer.decode(ids, skip_special_tokens=True)
        assert text.endswith(f"input: {instance.input}\noutput:") and len(ids) <= limit
        assert all(said in text for said in (task.prompt, task.avoid, task.emphasis))


def test_no_instance_is_shown_as_an_example():
    one = Task("t", ["d"], [Example("a", "b")], [], [Instance("t-0", "secret", ["told"])])
    for encoding in (V1Encoding(n_pos=5), V1Encoding(n_pos=5, n_neg=5, explanations=True)):
        assert "told" not in encode(one, one.instances[0], encoding)
    assert V1Encoding(definition=False, n_pos=0).fields == ()


def test_its_places_are_those_that_it_has_learned(bart, tmp_path):
    words = ["--recipe", "natinst", "--model", bart, "--data", "natural", "--out", tmp_path]
    assert "max_source: found 1025; this model has 1024 places" in fail(
        "tune", *words, "--max-source", 1025
    )
    assert "lower max_source to 1020" in fail("optimize", *words)


# mT5, and the cross-lingual track

def test_no_script_is_foreign_to_an_mt5(mt5):
    model, tokenizer = load_model(mt5, "cpu")
    assert len(tokenizer) == model.get_input_embeddings().weight.shape[0] - 12
    for text in (*map(" ".join, NUMBERS.values()), "ελ 日本 🙂 ş", "</s> <extra_id_3> <pad>"):
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.unk_token_id not in ids and ids.count(tokenizer.eos_token_id) == 1
        assert tokenizer.decode(ids[:-1]) == text
    assert "🙂" not in tokenizer.get_vocab()


@pytest.fixture(scope="module")
def mtk(mt5, gpt2, numbers, tmp_path_factory):
    "The words of a run of mTk-Instruct's recipe, its folder, and what it printed."
    run = tmp_path_factory.mktemp("mtk") / "run"
    words = ["tune", "--recipe", "mtk-instruct", "--model", mt5, "--data", numbers, "--steps", 16,
             "--max-target", 16, "--learning-rate", 0.01, "--set", f"rouge_tokenizer={gpt2}",
             "--batch-size", 8, "--set", "gradient_accumulation_steps=1",
             "--set", "logging_steps=1", "--quiet"]
    done = CliRunner().invoke(app, [*map(str, words), "--out", str(run)])
    assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"
    return words, run, done


def test_mtk_instruct_trains_on_one_list_and_is_asked_the_other(mtk, numbers):
    _, run, _ = mtk
    found = losses(run)
    assert sum(found[-4:]) < sum(found[:4])
    rows = read_predictions(run / "predictions.jsonl")
    assert {row["task"] for row in rows} == {
        t.name for t in load_tasks(numbers, "test", track="xlingual")
    }


def test_its_table_counts_the_tokens_of_gpt_2(mtk, gpt2, capsys):
    _, run, done = mtk
    rows = read_predictions(run / "predictions.jsonl")
    expected = score(rows, gpt2_tokenizer(gpt2))["overall"]
    line, = (line for line in done.output.splitlines() if "this model" in line)
    for measure in ("rouge1", "rougeL"): assert f"{expected[measure]:.1f}" in line
    assert "ROUGE on the tokens of" in " ".join(done.output.split())
    assert "counts Latin letters" not in done.stderr
    scored = json.loads(call("score", run / "predictions.jsonl", "--xlingual", "--tokenizer", gpt2))
    assert scored["overall"] == expected
    copied, = (line for line in done.output.splitlines() if "copy the input" in line)
    assert "0.0" not in copied.split("│")[4], "all scripts are counted for the heuristics, too"


def test_its_model_comes_back_and_goes_on(mtk, numbers, tmp_path):
    words, run, _ = mtk
    call("evaluate", "--recipe", run / "config.json", "--data", numbers, "--model", run / "model",
         "--quiet", "--out", tmp_path / "asked")
    assert said(tmp_path / "asked") == said(run)
    go_on_from_the_middle(words, run, tmp_path / "again")
    assert same_weights(run, tmp_path / "again")


def test_what_is_missing_is_missed_before_anything_is_trained(mt5, numbers, tmp_path, monkeypatch):
    from instop_nb import models
    def explode(*args): raise AssertionError("a model is loaded")
    words = ["--recipe", "mtk-instruct", "--model", mt5, "--quiet", "--out", tmp_path]
    monkeypatch.setattr(models, "load_model", explode)
    for data, more, says in (
        (numbers, [], "gpt2: neither a folder with a tokenizer nor one"),
        (numbers, ["--set", "track=../xlingual"], "track: found '../xlingual'; name a folder in"),
        (numbers, ["--set", "track=default"], "into splits/default"),
        ("natural", [], "into splits/xlingual"), ("micro", [], "micro: track: found"),
    ):
        assert says in fail("tune", *words, "--data", data, *more), says
        assert says in fail("evaluate", *words, "--data", data, *more), says


def test_real_tasks_and_their_translations(few_real_tasks, real_tasks, mt5, gpt2, tmp_path):
    english = sorted(load_tasks(few_real_tasks, "train", 4), key=lambda t: len(t.definition[0]))[:6]
    names = {t.name for t in english}
    finnish = [read_task(path, 2) for path in sorted((real_tasks / "tasks_fi").glob("*.json"))]
    asked = sorted(finnish, key=lambda t: len(t.definition[0]))[:4]
    for task in asked: task.name = f"fi_{task.name}"
    assert len(english) == 6 and len(asked) == 4 and not names & {t.name for t in asked}
    data = write_collection(tmp_path / "data", {"train": english, "test": asked}, "xlingual")
    call("tune", "--recipe", "mtk-instruct", "--model", mt5, "--data", data, "--steps", 2,
         "--n-test", 2, "--max-source", 512, "--max-target", 12, "--quiet", "--out",
         tmp_path / "run", "--set", f"rouge_tokenizer={gpt2}")
    rows = read_predictions(tmp_path / "run/predictions.jsonl")
    assert len(rows) == 8 and all(row["task"].startswith("fi_") for row in rows)


# Both

@pytest.mark.parametrize("kind", ["bart", "mt5"])
@pytest.mark.parametrize("name", ["embedder-dp", "embedder-ic", "extractor-dp", "extractor-ic"])
def test_an_instruction_is_learned(kind, name, request, tmp_path):
    from instop_nb.bilevel import Outer, optimize
    from instop_nb.instructions import Arm, make_instruction
    from instop_nb.recipes import Setup
    model, tokenizer = load_model(request.getfixturevalue(kind), "cpu")
    tasks = numbers_tasks()["train"]
    setup = Setup(l=2, n_candidates=2, max_instance=40)
    phi = make_instruction(model, tokenizer, tasks[:2], Arm(name), setup, 0)
    before = copy.deepcopy([*phi.parameters()])
    shown = (V1Encoding if kind == "bart" else Encoding)(n_pos=1)
    trainer = optimize(
        model, tokenizer, phi, tasks[:2], tasks[2:], tmp_path, steps=2, batch_size=4,
        outer=Outer(K=1, meta_batch_size=4), instance="own", max_source=120, quiet=True,
        encoding=shown,
    )
    assert any(not a.equal(b) for a, b in zip(before, trainer.instruction.parameters()))
    lines = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert any("outer_loss" in line for line in lines)


@pytest.mark.parametrize("kind, recipe", [("bart", "natinst"), ("mt5", "mtk-instruct")])
def test_the_command_learns_one_by_the_recipe(kind, recipe, request, numbers, gpt2, tmp_path):
    folder, data = request.getfixturevalue(kind), "natural" if kind == "bart" else numbers
    call("optimize", "--recipe", recipe, "--model", folder, "--data", data, "--steps", 2,
         "--inner-steps", 1, "--batch-size", 2, "--meta-batch-size", 2, "--length", 3,
         "--n-instances", 2, "--n-test", 1, "--max-target", 8, "--max-source", 400, "--in-place",
         "--set", "by=task", "--set", "meta_share=0.3", "--set", f"rouge_tokenizer={gpt2}",
         "--set", "start=0", "--quiet", "--out", tmp_path)
    assert (tmp_path / "instruction.pt").exists() and said(tmp_path)


@pytest.mark.parametrize("kind, recipe", [("bart", "natinst"), ("mt5", "mtk-instruct")])
def test_a_plan_is_made_for_it(kind, recipe, request):
    words = ["plan", "--model", request.getfixturevalue(kind), "--recipe", recipe, "--tasks", 3,
             "--set", "max_source=32", "--set", "max_target=8", "--set", "method=identity",
             "--set", "gradient_accumulation_steps=1"]
    planned = call(*words)
    assert "tune: " in planned and "optimize: " in planned and "optimizer states" in planned


def test_the_weights_of_an_mt5_are_counted_with_its_head(mt5):
    from instop_nb.plan import planned_config
    config = planned_config("google/mt5-small")
    sizes = ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads",
             "feed_forward_proj")
    with torch.device("meta"): model = hf.MT5ForConditionalGeneration(
        hf.MT5Config(**{name: getattr(config, name) for name in sizes})
    )
    shared = sum(p.numel() for p in model.parameters())  # So transformers makes a new one
    assert config.own_head and round((shared + model.lm_head.weight.numel()) / 1e6) == 300
    assert planned_config(str(mt5)).own_head and planned_config("google/mt5-xl").own_head
    with pytest.raises(OSError, match="mt5-xxl"): planned_config("google/mt6-xl")


def test_a_head_of_its_own_stays_an_mt5_s(mt5, tmp_path):
    from safetensors.torch import load_file, save_file
    from instop_nb.trainer import save_model
    shutil.copytree(mt5, tmp_path / "own")
    file = tmp_path / "own/model.safetensors"
    weights = load_file(file)
    head = weights["lm_head.weight"] = torch.randn_like(weights["shared.weight"])
    save_file(weights, file, metadata={"format": "pt"})
    model, tokenizer = load_model(tmp_path / "own", "cpu")
    again, _ = load_model(save_model(model, tokenizer, tmp_path / "again"), "cpu")
    for found in (model, again): assert found.lm_head.weight.equal(head)
    assert not model.shared.weight.equal(head)


def test_examples_that_do_not_go_together_are_refused(bart, tmp_path):
    assert "as many bad as good examples, 1, or none" in fail(
        "tune", "--recipe", "natinst", "--model", bart, "--n-pos", 1, "--out", tmp_path
    )
    with pytest.raises(TaskError, match="0 or more"): V1Encoding(n_pos=-1)
