"What the chapter on ranking promises: the log-likelihoods of the loss, each source read once."
import numpy as np
import pytest
import torch

from instop_nb.models import load_model
from instop_nb.ranking import rank_classify
from instop_nb.micro import micro_config, new_t5


@pytest.fixture(scope="module")
def tiny():
    "A T5 with random weights, and the micro T5's tokenizer."
    _, tokenizer = load_model("micro", device="cpu")
    return new_t5(
        micro_config(len(tokenizer), d_model=16, d_ff=32, d_kv=8, num_heads=2), seed=3
    ), tokenizer


SOURCES = ["axe", "Which of them is a fish, cod or hat?", "", "fox fig hat bee " * 6, "12 %"]
OPTIONS = [
    ["yes", "no", "yes, it may well be so"], ["cod"], ["", "a", "a a a a a a a"], ["fox", "fig"],
    ["12", "%", "twelve per cent", "Größe"],
]


def one_by_one(model, tokenizer, source, option):
    labels = tokenizer(text_target=option, return_tensors="pt")["input_ids"]
    with torch.no_grad(): loss = model(**tokenizer(source, return_tensors="pt"), labels=labels).loss
    return -loss.item(), labels.shape[1]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 64])
@pytest.mark.parametrize("by", ["sum", "mean"])
def test_ranks_are_those_of_the_loss(tiny, by, batch_size):
    choices, scores = rank_classify(*tiny, SOURCES, OPTIONS, by, batch_size)
    assert [len(s) for s in scores] == [3, 1, 3, 2, 4] and choices == [
        int(np.argmax(s)) for s in scores
    ]
    for source, options, found in zip(SOURCES, OPTIONS, scores):
        for option, value in zip(options, found):
            mean, n = one_by_one(tiny[0].eval(), tiny[1], source, option)
            assert value == pytest.approx(mean * n if by == "sum" else mean, rel=1e-5)


def test_the_end_counts_and_length_is_not_normalised(tiny):
    model, tokenizer = tiny
    ends = tokenizer(text_target="a").input_ids
    assert ends[-1] == tokenizer.eos_token_id
    with torch.no_grad():
        logits = model.eval()(
            **tokenizer("axe", return_tensors="pt"), labels=torch.tensor([ends])
        ).logits[0]
    by_hand = torch.log_softmax(logits, -1)[range(len(ends)), ends].sum().item()
    assert rank_classify(model, tokenizer, ["axe"], [["a"]])[1][0][0] == pytest.approx(
        by_hand, rel=1e-5
    )


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_of_equals_the_first(tiny, batch_size):
    assert rank_classify(
        *tiny, ["axe", "bee"], [["hat"] * 3, ["fox", "fox"]], batch_size=batch_size
    )[0] == [0, 0]
    [choice], [scores] = rank_classify(
        *tiny, ["bee"], [["fox", "fig", "cod"] * 5], batch_size=batch_size
    )
    assert choice < 3 and scores == scores[:3] * 5


def test_each_source_is_encoded_once_without_gradient(tiny, monkeypatch):
    model, tokenizer = tiny
    seen, encoder = [], model.get_encoder()
    forward = encoder.forward
    def counting(*args, input_ids=None, **kwargs):
        assert not model.training and not torch.is_grad_enabled()
        seen.append(len(input_ids))
        return forward(*args, input_ids=input_ids, **kwargs)
    monkeypatch.setattr(encoder, "forward", counting)
    for mode in (True, False):
        model.train(mode); seen.clear()
        rank_classify(model, tokenizer, SOURCES, OPTIONS, batch_size=2)
        assert seen == [2, 2, 1] and model.training == mode
    with pytest.raises(ValueError): rank_classify(model.train(), tokenizer, SOURCES, OPTIONS[:4])
    assert model.training
    monkeypatch.setattr(encoder, "forward", None)
    with pytest.raises(TypeError): rank_classify(model, tokenizer, SOURCES, OPTIONS)
    assert model.training


def test_dropout_is_off(tiny):
    model = new_t5(
        micro_config(len(tiny[1]), d_model=16, d_ff=32, d_kv=8, num_heads=2, dropout_rate=0.5),
        seed=3,
    ).train()
    assert rank_classify(model, tiny[1], SOURCES, OPTIONS) == rank_classify(
        model, tiny[1], SOURCES, OPTIONS
    )


def test_source_without_end_as_t0_has_it(tiny):
    model, tokenizer = tiny
    ids = tokenizer("axe bee", return_tensors="pt", add_special_tokens=False).input_ids
    with torch.no_grad():
        loss = model.eval()(
            input_ids=ids, labels=torch.tensor([tokenizer("hat").input_ids])
        ).loss.item()
    found = rank_classify(model, tokenizer, ["axe bee"], [["hat"]], "mean", source_end=False)[1][0][
        0
    ]
    assert (
        found
        == pytest.approx(-loss, rel=1e-5)
        != rank_classify(model, tokenizer, ["axe bee"], [["hat"]], "mean")[1][0][0]
    )


def test_long_sources_and_options_are_cut(tiny):
    long = rank_classify(*tiny, ["axe " * 50], [["bee " * 50]], max_source=4, max_target=3)
    assert long == rank_classify(*tiny, ["axe axe axe"], [["bee bee"]])


@pytest.mark.parametrize(
    "options, by, words",
    [
        ([["a"], []], "sum", "options[1]: found []; give a list"),
        (["yes", ["a"]], "sum", "options[0]: found 'yes'"),
        ([["a"]], "sum", "found 1; give one list of options for each of the 2 sources"),
        ([["a"], ["b"]], "product", "choose 'sum'"),
    ],
)
def test_rank_refuses(tiny, options, by, words):
    with pytest.raises(ValueError) as e: rank_classify(*tiny, ["x", "y"], options, by)
    assert words in str(e.value)
    with pytest.raises(ValueError, match=r"sources\[1\]: found ''; give a source with a token"):
        rank_classify(*tiny, ["x", ""], [["a"], ["b"]], source_end=False)


def test_nothing_to_rank(tiny): assert rank_classify(*tiny, [], []) == ([], [])


def test_a_batch_of_nothing_is_refused():
    with pytest.raises(ValueError, match="batch_size"):
        rank_classify(None, None, ["x"], [["y"]], batch_size=0)
