"""Models of every kind, each made in the hub's own format, tiny, with random weights: T5 v1.0,
v1.1, Flan-T5, mT5, UMT5, ByT5, BART, GPT-2, GPT-NeoX and Llama load, answer, rank and tune."""
import copy
import io
import json
import math
import random
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import datasets
import pytest
import sentencepiece
import torch
import transformers as hf
from tokenizers.implementations import ByteLevelBPETokenizer

from instop_nb.batches import Collator, tokenize_tasks
from instop_nb.books import skill_text
from instop_nb.causal import as_read, places_of, source_ids, target_ids
from instop_nb.core import TaskError
from instop_nb.microworld import micro_tasks
from instop_nb.models import load_model, load_tokenizer
from instop_nb.ranking import rank_classify
from instop_nb.trainer import T5Trainer, training_arguments
from instop_nb.tuning import answers, evaluate, tune
from instop_nb.natinst import Encoding

ROOT = Path(__file__).resolve().parent.parent
TEXTS = [" ".join(skill_text(random.Random(i))) for i in range(300)]
T5 = dict(
    vocab_size=340, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_decoder_layers=1, num_heads=2,
    decoder_start_token_id=0, pad_token_id=0, eos_token_id=1, dropout_rate=0.0,
)
NEW = dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False)
SMALL = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)


def spiece(folder):
    "A sentencepiece model of our own text as the only file of a tokenizer."
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=out, vocab_size=200, hard_vocab_limit=False,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=3,
    )
    (folder / "spiece.model").write_bytes(out.getvalue())


def bytes_of(folder):
    "ByT5's tokenizer has no file of words; tokenizer_config.json names it."
    hf.ByT5Tokenizer().save_pretrained(folder)


def merges(special, **names):
    "vocab.json and merges.txt, as GPT-2 and BART have them."
    def write(folder):
        bpe = ByteLevelBPETokenizer()
        bpe.train_from_iterator(TEXTS, vocab_size=320, special_tokens=special, show_progress=False)
        bpe.save_model(str(folder))
        (folder / "tokenizer_config.json").write_text(json.dumps(names))
    return write


def llama(folder):
    "tokenizer.json: a sign for the beginning before each text, a space in front, no padding."
    from tokenizers import Tokenizer, decoders, models, normalizers, processors, trainers
    bpe = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    bpe.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    bpe.train_from_iterator(TEXTS, trainers.BpeTrainer(
        vocab_size=330, special_tokens=["<unk>", "<s>", "</s>", *bytes_], show_progress=False
    ))
    bpe.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    bpe.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
         decoders.Strip(" ", 1, 0)]
    )
    hf.PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)


GPT = merges(["<|endoftext|>"], tokenizer_class="GPT2Tokenizer", eos_token="<|endoftext|>",
             bos_token="<|endoftext|>", unk_token="<|endoftext|>")
BART = merges(["<s>", "<pad>", "</s>", "<unk>", "<mask>"], tokenizer_class="BartTokenizer")
KINDS = {  # Name -> what makes the model, its tokenizer
    "T5 v1.0": (lambda: hf.T5ForConditionalGeneration(hf.T5Config(**T5)), spiece),
    "T5 v1.1": (lambda: hf.T5ForConditionalGeneration(hf.T5Config(**T5, **NEW)), spiece),
    "Flan-T5": (
        lambda: hf.T5ForConditionalGeneration(hf.T5Config(**T5, **NEW, n_positions=512)), spiece
    ),
    "mT5": (lambda: hf.MT5ForConditionalGeneration(hf.MT5Config(**T5)), spiece),
    "UMT5": (lambda: hf.UMT5ForConditionalGeneration(hf.UMT5Config(**T5)), spiece),
    "ByT5": (
        lambda: hf.T5ForConditionalGeneration(hf.T5Config(
            **T5 | {"vocab_size": 384, "d_model": 32, "d_kv": 16, "num_layers": 2,
               "num_decoder_layers": 2}, **NEW
        )), bytes_of,
    ),
    "BART": (
        lambda: hf.BartForConditionalGeneration(hf.BartConfig(
            vocab_size=320, d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=32,
            decoder_ffn_dim=32, encoder_attention_heads=2, decoder_attention_heads=2,
            max_position_embeddings=128, dropout=0.0, pad_token_id=1, bos_token_id=0,
            eos_token_id=2, decoder_start_token_id=2, forced_eos_token_id=2,
        )), BART,
    ),
    "GPT-2": (
        lambda: hf.GPT2LMHeadModel(hf.GPT2Config(
            vocab_size=320, n_embd=16, n_layer=2, n_head=2, n_positions=256, bos_token_id=0,
            eos_token_id=0, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
        )), GPT,
    ),
    "GPT-NeoX": (
        lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(
            vocab_size=320, **SMALL, bos_token_id=0, eos_token_id=0
        )), GPT,
    ),
    "Llama": (
        lambda: hf.LlamaForCausalLM(hf.LlamaConfig(
            vocab_size=340, **SMALL, bos_token_id=1, eos_token_id=2
        )), llama,
    ),
}
CONTINUE = ("GPT-2", "GPT-NeoX", "Llama")
each_kind = pytest.mark.parametrize("kind", KINDS)
each_that_continues = pytest.mark.parametrize("kind", CONTINUE)
_MADE = {}


def hub(kind, folder, **saving):
    "A checkpoint in the hub's format; larger weights than a new one's, so it says a thing."
    torch.manual_seed(0)
    model, (make, write) = None, KINDS[kind]
    model = make()
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() > 1: p.mul_(3)
    model.save_pretrained(folder, **saving)
    write(folder)
    return folder


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    "Kind -> (model, tokenizer) on the CPU, each made and loaded once."
    def get(kind):
        if kind not in _MADE:
            _MADE[kind] = load_model(hub(kind, tmp_path_factory.mktemp("hub")), "cpu")
        return _MADE[kind]
    yield get
    _MADE.clear()


def logits_of(model, ids):
    "Of one text, at each of its places, by hand."
    with torch.no_grad(): return model(input_ids=torch.tensor([ids])).logits[0].float()


def log_likelihood(model, tokenizer, source, option):
    "Of one option, token by token, from the probabilities at the place before each."
    x, y = source_ids(tokenizer, [source])[0], target_ids(tokenizer, [option], 99)[0]
    with torch.no_grad():
        if model.config.is_encoder_decoder:
            start = model.config.decoder_start_token_id
            logits = model(
                input_ids=torch.tensor([x]), decoder_input_ids=torch.tensor([[start, *y[:-1]]])
            ).logits[0]
        else: logits = logits_of(model, x + y)[len(x) - 1:-1]
    return torch.log_softmax(logits.float(), -1)[range(len(y)), y].sum().item()


# Loading

@each_kind
def test_it_loads_from_a_folder_in_the_hub_s_format(kind, loaded):
    model, tokenizer = loaded(kind)
    assert type(model) is type(KINDS[kind][0]())
    assert not model.training and model.config.is_encoder_decoder == (kind not in CONTINUE)
    assert tokenizer.padding_side == ("left" if kind in CONTINUE else "right")
    text = "fox fig saw"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == text
    assert max(ids) < model.get_input_embeddings().weight.shape[0]
    assert None not in (model.generation_config.pad_token_id, model.generation_config.eos_token_id)


@each_kind
def test_control_tokens_in_a_text_are_plain_signs(kind, loaded):
    _, tokenizer = loaded(kind)
    control = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    for sign in dict.fromkeys(tokenizer.all_special_tokens[:8]):
        for text in (f"fox {sign} fig", f"fox{sign}fig", sign):
            inside = source_ids(tokenizer, [text], end=False)[0]
            if kind == "Llama": inside = inside[1:]
            assert not control & set(inside), (sign, text, inside)
            assert not control & set(target_ids(tokenizer, [text], 99)[0][kind == "BART":-1])


@pytest.mark.parametrize("kind", ["T5 v1.1", "BART", "Llama"])
@pytest.mark.parametrize("how", ["bin", "shards"])
def test_weights_in_bin_files_and_in_shards_load(kind, how, tmp_path):
    whole = hub(kind, tmp_path / "a")
    expected = load_model(whole, "cpu")[0]
    if how == "shards":
        other = hub(kind, tmp_path / "b", max_shard_size="8KB")
        assert len(list(other.glob("model-*.safetensors"))) > 1
    else:
        other = hub(kind, tmp_path / "b")
        (other / "model.safetensors").unlink()
        torch.save(expected.state_dict(), other / "pytorch_model.bin")
    found = load_model(other, "cpu")[0].state_dict()
    assert all(value.equal(found[name]) for name, value in expected.state_dict().items())


def test_settings_ask_for_what_reads_spiece_model():
    settings = ConfigParser()
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    needs = settings["DEFAULT"]["requirements"].split()
    assert {"sentencepiece", "protobuf"} <= {need.split(">")[0] for need in needs}


WITHOUT_TIKTOKEN = """
import sys
sys.modules["tiktoken"] = None
from instop_nb.models import load_model
model, tokenizer = load_model(sys.argv[1], "cpu")
print(type(model).__name__, tokenizer.decode(tokenizer("fox fig")["input_ids"]))
"""

@pytest.mark.parametrize("kind", ["T5 v1.1", "UMT5"])
def test_spiece_model_alone_loads_where_tiktoken_is_not(kind, tmp_path):
    hub(kind, tmp_path)
    assert not list(tmp_path.glob("tokenizer*"))
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TIKTOKEN, str(tmp_path)], capture_output=True, text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0 and "fox fig</s>" in done.stdout, done.stderr


def test_a_model_that_only_reads_is_refused(tmp_path):
    sizes = dict(SMALL, vocab_size=320)
    hf.BertForMaskedLM(hf.BertConfig(**sizes)).save_pretrained(tmp_path)
    GPT(tmp_path)
    with pytest.raises(OSError, match="a bert reads and cannot write"): load_model(tmp_path, "cpu")


def test_an_encoder_alone_is_refused_also_where_it_cannot_say_so(tmp_path):
    from instop_nb.models import _class_of
    for config in (hf.DistilBertConfig(), hf.AlbertConfig()):
        with pytest.raises(OSError, match=f"a {config.model_type} reads and cannot write"):
            _class_of("x", config)
    assert _class_of("x", hf.BertConfig(is_decoder=True)) is hf.AutoModelForCausalLM


def test_each_process_has_a_device_of_its_own(monkeypatch):
    from instop_nb.models import best_device
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert best_device() == "cuda:0"
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert best_device() == "cuda:3"


PLACES = {"GPT-2": 256, "BART": 128}

@each_kind
def test_the_places_are_those_that_a_model_has_learned(kind, loaded):
    assert places_of(loaded(kind)[0]) == PLACES.get(kind, math.inf)


@pytest.mark.parametrize("kind, most", [("GPT-2", 246), ("BART", 128)])
def test_what_needs_more_places_than_there_are_is_refused(kind, most, loaded, tmp_path):
    model, tokenizer = loaded(kind)
    text, how = "fox " * 400, dict(max_new_tokens=10)
    assert answers(model, tokenizer, [text], max_source=most, **how)
    says = f"max_source: found {most + 1}; this model has {PLACES[kind]} places: lower max_source"
    with pytest.raises(TaskError, match=says):
        answers(model, tokenizer, [text], max_source=most + 1, **how)
    with pytest.raises(TaskError, match="rank_classify: max_source"):
        rank_classify(model, tokenizer, [text], [["fox"]])
    long = {"input_ids": [[5] * 300], "labels": [[5] * 3], "length": [300]}
    with pytest.raises(TaskError, match="tune: max_source: found 300"):
        tune(model, tokenizer, datasets.Dataset.from_dict(long), tmp_path, quiet=True)


@each_that_continues
def test_a_model_without_an_encoder_says_so(kind, loaded):
    from instop_nb.attention import attention_of
    from instop_nb.embedder import encoder_mean
    model, tokenizer = loaded(kind)
    batch = tokenizer(["fox"], return_tensors="pt")
    task = micro_tasks("train", 1)[0]
    for look in (lambda: encoder_mean(model, batch),
                 lambda: attention_of(model, tokenizer, task, task.instances[0])):
        with pytest.raises(TaskError, match="no encoder to look into: give"): look()


def test_a_command_cuts_a_source_that_nobody_asked_for_to_the_places(tmp_path):
    from test_cli import call, fail
    (tmp_path / "hub").mkdir()
    model = hub("GPT-2", tmp_path / "hub")
    words = ["evaluate", "--model", model, "--n-test", 1, "--max-target", 4, "--n-pos", 0,
             "--quiet", "--out", tmp_path / "run"]
    assert "max_source: found 253; this model has 256 places: lower max_source to 252" in fail(
        *words, "--max-source", 253
    )
    call(*words)
    assert json.loads((tmp_path / "run/config.json").read_text())["max_source"] == 252


def test_a_tokenizer_without_an_end_is_refused(tmp_path):
    hub("GPT-NeoX", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast"}'
    )
    hf.PreTrainedTokenizerFast(
        tokenizer_object=load_model("micro", "cpu")[1].backend_tokenizer
    ).save_pretrained(tmp_path)
    with pytest.raises(OSError, match="eos_token"): load_tokenizer(tmp_path)


@each_that_continues
def test_code_of_strangers_is_never_run(kind, tmp_path):
    hub(kind, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {
        "AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model",
    }}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text("open('/dev/null'); raise SystemExit('it ran')")
    with pytest.raises(OSError, match=str(tmp_path)): load_model(tmp_path, "cpu")


@each_kind
def test_the_rate_of_position_biases_is_one_for_all_but_ours(kind, loaded, tmp_path):
    model, _ = loaded(kind)
    trainer = T5Trainer(model, training_arguments(tmp_path, 2, learning_rate=1e-3))
    assert trainer.bias_rate is None
    assert {group["lr"] for group in trainer.create_optimizer().param_groups} == {1e-3}
    ours = T5Trainer(load_model("micro", "cpu")[0], training_arguments(tmp_path, 2))
    assert ours.bias_rate == 30


# What is read

@each_that_continues
def test_a_prompt_has_no_end_and_its_answer_no_beginning(kind, loaded):
    _, tokenizer = loaded(kind)
    source, = source_ids(tokenizer, ["Input: fox.\nOutput: "])
    target, = target_ids(tokenizer, ["fig saw"], 99)
    whole = tokenizer("Input: fox.\nOutput: fig saw")["input_ids"]
    assert source + target == [*whole, tokenizer.eos_token_id]
    assert target_ids(tokenizer, ["fig saw"], 3)[0] == [*target[:2], tokenizer.eos_token_id]
    assert len(source_ids(tokenizer, ["fox " * 50], 7)[0]) == 7
    assert len(source_ids(tokenizer, [""])[0]) == 1
    assert target_ids(tokenizer, [""], 9)[0] == [tokenizer.eos_token_id]


@each_that_continues
def test_labels_are_on_the_answer_alone_and_places_count_no_padding(kind, loaded):
    model, tokenizer = loaded(kind)
    tasks = micro_tasks("train", 2)[:9:4]
    rows = [tokenize_tasks(tasks, tokenizer, Encoding(n_pos=0))[i] for i in range(6)]
    read = as_read(model, {k: v for k, v in Collator(tokenizer)(rows).items() if k != "task"})
    for n, row in enumerate(rows):
        there = read["attention_mask"][n].bool()
        ids = row["input_ids"] + row["labels"]
        assert read["input_ids"][n][there].tolist() == ids
        labels = [-100] * len(row["input_ids"]) + row["labels"]
        assert read["labels"][n][there].tolist() == labels
        assert (read["labels"][n][~there] == -100).all()
        assert read["position_ids"][n][there].tolist() == list(range(len(ids)))


@each_kind
def test_the_loss_of_a_batch_is_that_of_its_rows(kind, loaded):
    model, tokenizer = loaded(kind)
    rows = list(tokenize_tasks(micro_tasks("train", 2)[:9:4], tokenizer, Encoding(n_pos=0)))
    def loss(some):
        batch = Collator(tokenizer)(some)
        batch.pop("task")
        with torch.no_grad(): return model(**as_read(model, batch)).loss.item()
    sizes = [len(row["labels"]) for row in rows]
    alone = sum(n * loss([row]) for n, row in zip(sizes, rows)) / sum(sizes)
    assert loss(rows) == pytest.approx(alone, rel=1e-5)


# Answers, ranks, tuning

@each_kind
def test_an_answer_is_the_likeliest_token_each_time_whatever_the_batch(kind, loaded):
    model, tokenizer = loaded(kind)
    texts = ["fox fig", "Definition: Write the first word.\n\nInput: saw hat fox.\nOutput: ", "hat"]
    found = answers(model, tokenizer, texts, max_new_tokens=5, max_source=60)
    assert found == [
        answers(model, tokenizer, [text], max_new_tokens=5, max_source=60)[0] for text in texts
    ]
    if kind not in CONTINUE: return
    for text, answer in zip(texts, found):
        ids, written = source_ids(tokenizer, [text], 60)[0], []
        while len(written) < 5:
            written.append(logits_of(model, ids + written)[-1].argmax().item())
            if written[-1] == tokenizer.eos_token_id: break
        assert answer == tokenizer.decode(written, skip_special_tokens=True).strip()


@each_kind
@pytest.mark.parametrize("by", ["sum", "mean"])
@pytest.mark.parametrize("batch_size", [2, 64])
def test_ranks_are_those_of_the_probabilities(kind, by, batch_size, loaded):
    model, tokenizer = loaded(kind)
    sources = ["axe", "Which of them is a fish, cod or hat? ", "", "fox fig hat " * 4]
    options = [["yes", "no", "yes, it may well be so"], ["cod"], ["", "a a a"], ["fox", "fig"]]
    choices, scores = rank_classify(model, tokenizer, sources, options, by, batch_size)
    for source, known, values in zip(sources, options, scores):
        for option, value in zip(known, values):
            n = len(target_ids(tokenizer, [option], 99)[0]) if by == "mean" else 1
            expected = log_likelihood(model, tokenizer, source, option) / n
            assert value == pytest.approx(expected, rel=1e-4)
    assert choices == [max(range(len(s)), key=s.__getitem__) for s in scores]


@pytest.mark.parametrize("kind", ["T5 v1.1", "BART", "Llama"])
@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("MPS backend out of memory"),
])
def test_a_ranking_that_does_not_fit_takes_smaller_batches(kind, error, loaded, monkeypatch):
    model, tokenizer = loaded(kind)
    sources, options = ["fox", "fig saw", "hat"], [["a", "b c"], ["d", "e f g"], ["h"]]
    _, whole = rank_classify(model, tokenizer, sources, options)
    forward, rows = model.forward, []
    def small(*args, **more):
        rows.append(len(more["attention_mask"]))
        if rows[-1] > 2: raise error
        return forward(*args, **more)
    monkeypatch.setattr(model, "forward", small)
    _, parts = rank_classify(model, tokenizer, sources, options, batch_size=8)
    assert [pytest.approx(values, rel=1e-5) for values in whole] == parts
    assert max(rows) > 2 and sum(n for n in rows if n <= 2) == 5  # No option is asked twice
    def none(*args, **more): raise error
    monkeypatch.setattr(model, "forward", none)
    with pytest.raises(type(error), match="memory"): rank_classify(model, tokenizer, ["a"], [["b"]])
    def other(*args, **more): raise RuntimeError("shapes do not match")
    monkeypatch.setattr(model, "forward", other)
    with pytest.raises(RuntimeError, match="shapes"):
        rank_classify(model, tokenizer, ["a"], [["b"]])


def trained(loaded, kind, folder, n=4, **how):
    "A copy of a model, tuned on n instances of one task; and its tokenizer."
    model, tokenizer = loaded(kind)
    rows = tokenize_tasks(micro_tasks("train", n)[:1], tokenizer, Encoding(n_pos=0))
    model = tune(
        copy.deepcopy(model), tokenizer, rows, folder, quiet=True, logging_steps=1,
        **{"learning_rate": 3e-3, **how},
    )
    return model, tokenizer


@each_kind
def test_it_tunes_until_it_says_what_it_was_shown(kind, loaded, tmp_path):
    model, tokenizer = trained(
        loaded, kind, tmp_path, n=1, steps=60, batch_size=1, learning_rate=1e-2
    )
    row, = evaluate(
        model, tokenizer, micro_tasks("train", 1)[:1], Encoding(n_pos=0), max_new_tokens=48
    )
    n = 6 if kind == "ByT5" else None  # So far a model of so few weights gets, byte by byte
    assert row["prediction"][:n] == row["references"][0][:n]


@pytest.mark.parametrize("kind", ["BART", "GPT-2", "Llama"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_four_micro_batches_are_one_batch(kind, smoothing, loaded, tmp_path):
    how = dict(steps=3, label_smoothing_factor=smoothing)
    trained(loaded, kind, tmp_path / "a", batch_size=4, **how)
    trained(
        loaded, kind, tmp_path / "b", batch_size=1, gradient_accumulation_steps=4, **how
    )
    first = [
        json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[0])
        for name in "ab"
    ]
    assert first[0]["loss"] == pytest.approx(first[1]["loss"], rel=1e-5)
    assert first[0]["grad_norm"] == pytest.approx(first[1]["grad_norm"], rel=1e-4)


@each_that_continues
def test_a_saved_model_comes_back_as_it_was(kind, loaded, tmp_path):
    from instop_nb.trainer import save_model
    model, tokenizer = loaded(kind)
    again, other = load_model(save_model(model, tokenizer, tmp_path), "cpu")
    texts = ["fox fig", "saw hat"]
    assert source_ids(other, texts) == source_ids(tokenizer, texts)
    assert answers(again, other, texts, max_new_tokens=4) == answers(
        model, tokenizer, texts, max_new_tokens=4
    )


def test_the_wrong_tokenizer_for_a_model_is_refused(loaded, tmp_path):
    model, tokenizer = loaded("GPT-2")
    _, right = load_model("micro", "cpu")
    rows = tokenize_tasks(micro_tasks("train", 2)[:1], tokenizer, Encoding(n_pos=0))
    for use in (
        lambda: answers(model, right, ["fox"]), lambda: rank_classify(model, right, ["a"], [["b"]]),
        lambda: tune(model, right, rows, tmp_path, steps=1),
    ):
        with pytest.raises(ValueError, match="padding_side='left'"): use()


@each_that_continues
@pytest.mark.parametrize("name", ["embedder-dp", "embedder-ic", "extractor-dp", "extractor-ic"])
def test_an_instruction_is_learned_for_a_model_that_continues(kind, name, loaded, tmp_path):
    from instop_nb.bilevel import Outer, optimize
    from instop_nb.instructions import Arm, make_instruction
    from instop_nb.recipes import Setup
    model, tokenizer = loaded(kind)
    model, tasks = copy.deepcopy(model), micro_tasks("train", 3)[:6]
    setup = Setup(l=2, n_candidates=2, max_instance=40)
    phi = make_instruction(model, tokenizer, tasks[:4], Arm(name), setup, 0)
    before = [p.detach().clone() for p in phi.parameters()]
    trainer = optimize(
        model, tokenizer, phi, tasks[:4], tasks[4:], tmp_path, steps=2, batch_size=4,
        outer=Outer(K=1, meta_batch_size=4), instance="own", max_source=60, quiet=True,
    )
    assert any(not a.equal(b) for a, b in zip(before, trainer.instruction.parameters()))
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert any("outer_loss" in json.loads(line) for line in lines)
