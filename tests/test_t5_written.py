"""The T5 that is written out: transformers' numbers and answers, from the same names."""
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import T5Config, T5ForConditionalGeneration
from transformers.models.t5.modeling_t5 import T5Attention

from instop_nb.core import TaskError
from instop_nb.t5 import SHIPPED, T5, greedy, position_buckets, read_t5, whole_config

SMALL = dict(vocab_size=90, d_model=24, d_kv=6, d_ff=40, num_layers=2, num_heads=4,
             decoder_start_token_id=0)
KINDS = {
    "first release": {}, "v1.1": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "uneven": {"num_layers": 1, "num_decoder_layers": 3},
    "few buckets": {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 20},
    "starts with 5": {"decoder_start_token_id": 5, "pad_token_id": 3, "eos_token_id": 7},
}


def saved(folder, kind):
    "A T5 with random weights in a folder; v1.1 has an output table of its own."
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(T5Config(**SMALL | KINDS[kind]))
    if kind == "v1.1":
        model.lm_head.weight = torch.nn.Parameter(torch.randn(90, 24))
    for p in model.parameters(): p.data += .05 * torch.randn_like(p)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(params=[*SHIPPED, *KINDS])
def both(request, tmp_path):
    "Ours and theirs, from one folder."
    folder = SHIPPED.get(request.param) or saved(tmp_path, request.param)
    return read_t5(folder), T5ForConditionalGeneration.from_pretrained(folder).eval()


def batch_of(size, seed=0):
    "Random sources and targets of different lengths."
    draw = torch.Generator().manual_seed(seed)
    batch = {name: torch.randint(8, size, (4, n), generator=draw)
             for name, n in (("input_ids", 70), ("labels", 40))}
    batch["attention_mask"] = torch.ones(4, 70, dtype=torch.long)
    batch["attention_mask"][1, 30:] = 0
    batch["attention_mask"][3, :9] = 0
    batch["labels"][2, 11:] = -100
    return batch


def test_logits_and_loss_are_those_of_transformers(both):
    ours, theirs = both
    batch = batch_of(theirs.config.vocab_size)
    with torch.no_grad(): (loss, logits), said = ours(**batch), theirs(**batch)
    scale = said.logits.abs().max().item()
    torch.testing.assert_close(logits, said.logits, rtol=0, atol=1e-5 * max(1, scale))
    torch.testing.assert_close(loss, said.loss, rtol=1e-5, atol=0)


def test_in_64_bits_nothing_is_left_of_the_difference(both):
    ours, theirs = (model.double() for model in both)
    batch = batch_of(theirs.config.vocab_size, 1)
    (loss, logits), said = ours(**batch), theirs(**batch)
    torch.testing.assert_close(logits, said.logits, rtol=0, atol=1e-10)
    loss.backward(); said.loss.backward()
    expected = {name: p.grad for name, p in theirs.named_parameters()}
    found = {name: p.grad for name, p in ours.named_parameters()}
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


def test_names_are_those_of_transformers(both):
    ours, theirs = both
    assert {n: w.shape for n, w in ours.state_dict().items()} == {
        n: w.shape for n, w in theirs.state_dict().items()
    }
    again = T5(ours.config)
    again.load_state_dict(theirs.state_dict())
    assert all(p.equal(q) for p, q in zip(again.parameters(), ours.parameters(), strict=True))


@pytest.mark.parametrize("n", [1, 12])
def test_greedy_answers_are_those_of_transformers(both, n):
    ours, theirs = both
    batch = batch_of(theirs.config.vocab_size, 2)
    del batch["labels"]
    # Its cache fails where the decoder has more layers than the encoder
    expected = theirs.generate(**batch, max_new_tokens=n, do_sample=False, use_cache=False)
    assert greedy(ours, **batch, max_new_tokens=n).tolist() == expected.tolist()


def test_an_answer_ends_at_any_end_token_and_is_filled_up(tmp_path):
    folder = saved(tmp_path, "first release")
    batch = batch_of(90, 3)
    del batch["labels"]
    free = greedy(read_t5(folder), **batch, max_new_tokens=8)
    ends = [free[0, 3].item(), free[1, 5].item()]
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": ends}))
    theirs = T5ForConditionalGeneration.from_pretrained(folder).eval()
    found = greedy(read_t5(folder), **batch, max_new_tokens=8)
    assert found.tolist() == theirs.generate(**batch, max_new_tokens=8, do_sample=False).tolist()
    assert not found.equal(free)


@pytest.mark.parametrize("n_buckets, max_distance", [(32, 128), (64, 64), (8, 20), (16, 100)])
@pytest.mark.parametrize("two_sided", [True, False])
def test_every_distance_has_the_bucket_of_transformers(n_buckets, max_distance, two_sided):
    places = torch.arange(300)
    expected = T5Attention._relative_position_bucket(
        places - places[:, None], two_sided, n_buckets, max_distance
    )
    assert position_buckets(300, two_sided, n_buckets, max_distance).equal(expected)


def test_an_output_table_of_its_own_stays_apart(tmp_path):
    model = read_t5(saved(tmp_path, "v1.1"))
    assert not model.lm_head.weight.equal(model.shared.weight)
    assert model.config["scale_decoder_outputs"] is False
    shared = read_t5(SHIPPED["micro"])
    assert shared.lm_head.weight is shared.shared.weight


def test_a_table_that_no_t5_uses_is_left_out(tmp_path):
    folder = saved(tmp_path, "first release")
    before = read_t5(folder).state_dict()
    changed(folder, **{
        "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight": torch.ones(32, 4)
    })
    after = read_t5(folder).state_dict()
    assert before.keys() == after.keys() and all(before[name].equal(after[name]) for name in before)


def changed(folder, **tensors):
    "Give a checkpoint other weights; None takes one away."
    path = folder / "model.safetensors"
    weights = load_file(path) | tensors
    save_file({k: w for k, w in weights.items() if w is not None}, path, {"format": "pt"})


def settings(folder, **fields):
    "Give a checkpoint other settings."
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize("damage, says", [
    (lambda f: settings(f, model_type="bart"), "model_type: found 'bart'; give the folder of a T5"),
    (lambda f: settings(f, num_layers=10**9), "num_layers: found 1000000002; it has fewer weights"),
    (lambda f: settings(f, d_kv=None), "d_kv: found nothing; give this size"),
    (lambda f: settings(f, feed_forward_proj="tanh"), "found 'tanh'; choose from"),
    (lambda f: settings(f, d_ff=41), "size mismatch for encoder.block.0"),
    (lambda f: changed(f, **{"encoder.final_layer_norm.weight": None}), "encoder.final_layer_norm"),
    (lambda f: changed(f, more=torch.ones(2)), "Unexpected key.*more"),
    (lambda f: changed(f, **{"shared.weight": None}), "one such table"),
    (lambda f: changed(f, **{"encoder.embed_tokens.weight": torch.ones(90, 24)}), "one such table"),
    (lambda f: (f / "config.json").write_text("{"), "config.json"),
    (lambda f: (f / "config.json").unlink(), "config.json"),
])
def test_a_damaged_folder_is_refused(damage, says, tmp_path):
    folder = saved(tmp_path, "first release")
    damage(folder)
    with pytest.raises((TaskError, RuntimeError, OSError), match=says): read_t5(folder)


def test_a_configuration_may_leave_out_what_is_usual():
    short = {name: SMALL[name] for name in SMALL if name != "decoder_start_token_id"}
    usual, theirs = whole_config(short), T5Config(**SMALL).to_dict()
    assert all(theirs[name] == usual[name] for name in usual if name in theirs)
    assert not whole_config(short | {"tie_word_embeddings": False})["scale_decoder_outputs"]
