"""Text to ids, once: the right ids, a cache that is never wrong, and batches that hold little
padding."""
import random
from collections import Counter
from pathlib import Path

import datasets
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from torch.utils.data import DataLoader
from transformers import ByT5Tokenizer
from transformers.trainer_pt_utils import LengthGroupedSampler

from instop_nb.batches import FEATURES, INSTANCE_FEATURES, Collator, tokenize_tasks
from instop_nb.natinst import Encoding, encode, sources
from instop_nb.tasks import Example, Instance, Task, load_tasks
from instop_nb.core import TaskError
from instop_nb.trainer import BucketSampler
from instop_nb.seals import fingerprint
from instop_nb.models import load_tokenizer
from instop_nb.micro import train_tokenizer

REAL = Path(__file__).resolve().parents[2] / "shared" / "natural-instructions"
needs_real = pytest.mark.skipif(
    not REAL.is_dir(), reason="../shared/natural-instructions is not here"
)

ALONE = Encoding(n_pos=0)
NONE = Encoding(definition=False, n_pos=0)


def make_task(name, n=40, **changes):
    "A task with three wordings, five examples and two references per instance."
    fields = dict(
        definition=[f"{name} the number", f"Please {name} it.", f"What is it, if we {name} it?"],
        positive=[Example(f"{i} and {i}", f"{2 * i}", "Because of it.") for i in (1, 20, 300)],
        negative=[Example("7", "no", "A number is asked for."), Example("8", "none", "See above.")],
        instances=[
            Instance(
                f"{name}-{i}", " ".join(str(i + j) for j in range(i % 7 + 1)),
                [f"{i}", f"it is {i}"],
            )
            for i in range(n)
        ],
    )
    return Task(name, **{**fields, **changes})


TASKS = [make_task("halve"), make_task("double", 25)]
TOKENIZER = train_tokenizer([text for task in TASKS for _, text in sources(task)], 400)


@pytest.fixture
def tokenize(tmp_path):
    "tokenize_tasks with defaults for these tests, and a cache of its own."
    def call(**changes):
        return tokenize_tasks(
            **{
                **dict(
                    tasks=TASKS, tokenizer=TOKENIZER, encoding=ALONE, cache_dir=tmp_path / "cache"
                ),
                **changes,
            }
        )
    call.folder = tmp_path / "cache"
    return call


@pytest.fixture
def no_reading(monkeypatch):
    "From the call on, no text may be tokenized."
    def forbid():
        def refuse(*args, **kwargs): raise AssertionError("a text was tokenized")
        monkeypatch.setattr(type(TOKENIZER), "__call__", refuse)
    return forbid


def texts(data, column, tokenizer=TOKENIZER):
    return [tokenizer.decode(ids, skip_special_tokens=True) for ids in data[column][:]]


# The rows

def test_one_row_per_instance_in_order(tokenize):
    data = tokenize()
    assert data.features == FEATURES and data.column_names == list(FEATURES)
    assert data["task"][:] == [0] * 40 + [1] * 25
    assert data["input_ids"][:] == [
        TOKENIZER(encode(t, i, ALONE))["input_ids"] for t in TASKS for i in t.instances
    ]
    assert data["length"][:] == [len(ids) for ids in data["input_ids"][:]]


def test_the_target_is_one_of_the_references_and_ends(tokenize):
    data = tokenize()
    references = [i.output for t in TASKS for i in t.instances]
    assert all(target in outputs for target, outputs in zip(texts(data, "labels"), references))
    assert all(
        ids[-1] == TOKENIZER.eos_token_id for ids in data["labels"][:] + data["input_ids"][:]
    )
    places = Counter(
        outputs.index(target) for target, outputs in zip(texts(data, "labels"), references)
    )
    assert min(places[0], places[1]) > 15


def test_a_seed_draws_the_same_and_another_seed_draws_others(tokenize, tmp_path):
    first, again, other = (
        tokenize(all_wordings=True), tokenize(all_wordings=True, cache_dir=tmp_path / "b"),
        tokenize(all_wordings=True, seed=1),
    )
    assert first[:] == again[:]
    assert (
        first["labels"][:] != other["labels"][:] and first["input_ids"][:] != other["input_ids"][:]
    )


def test_all_wordings_are_drawn_and_the_targets_stay(tokenize):
    data, plain = tokenize(all_wordings=True), tokenize()
    expected = {
        text: k for t in TASKS for k in range(3) for _, text in sources(t.reworded(k), ALONE)
    }
    drawn = Counter(
        expected[TOKENIZER.decode(TOKENIZER(text)["input_ids"], skip_special_tokens=True)]
        for text in texts(data, "input_ids")
    )
    assert set(drawn) == {0, 1, 2} and min(drawn.values()) > 10
    assert data["labels"][:] == plain["labels"][:]


def test_rows_do_not_depend_on_other_tasks_or_on_later_instances(tokenize):
    whole = tokenize(all_wordings=True)[:]
    alone = tokenize(tasks=TASKS[1:], all_wordings=True)[:]
    shorter = tokenize(tasks=[make_task("halve", 10)], all_wordings=True)[:]
    for column in ("input_ids", "labels"):
        assert whole[column][40:] == alone[column] and whole[column][:10] == shorter[column]


def test_without_instruction_no_definition_is_needed(tokenize):
    task = make_task("halve", definition=[])
    data = tokenize(tasks=[task], encoding=NONE, all_wordings=True)
    assert texts(data, "input_ids")[0] == encode(task, task.instances[0], NONE)
    with pytest.raises(TaskError, match="halve.*definition"): tokenize(tasks=[task])


def test_a_task_without_instances_is_passed_over(tokenize):
    data = tokenize(tasks=[make_task("halve", 0), TASKS[1]])
    assert set(data["task"]) == {1}


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(tasks=[]), "at least one task"),
        (dict(tasks=[make_task("halve", 0)]), "at least one task"),
        (dict(max_source=1), "max_source: found 1"), (dict(max_target=0), "max_target: found 0"),
        (
            dict(tasks=[make_task("halve", instances=[Instance("halve-7", "1", [])])]),
            "halve-7.*reference",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(tokenize, changes, message):
    with pytest.raises(TaskError, match=message): tokenize(**changes)


# Too long

@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    limit=st.integers(2, 160), n_pos=st.integers(0, 4), n_neg=st.integers(0, 3), name=st.booleans(),
    definition=st.booleans(),
)
def test_limits_are_those_of_the_encoding(tmp_path, limit, n_pos, n_neg, name, definition):
    tasks = [make_task("halve", 6)]
    encoding = Encoding(task_name=name, definition=definition, n_pos=n_pos, n_neg=n_neg)
    data = tokenize_tasks(tasks, TOKENIZER, encoding, limit, cache_dir=tmp_path)
    expected = [
        TOKENIZER(encode(t, i, encoding, TOKENIZER, limit), truncation=True, max_length=limit)[
            "input_ids"
        ]
        for t in tasks
        for i in t.instances
    ]
    assert data["input_ids"][:] == expected


def test_what_is_cut_keeps_its_end(tokenize):
    data = tokenize(max_source=9, max_target=2)
    assert {len(ids) for ids in data["input_ids"]} == {9} and max(
        len(ids) for ids in data["labels"]
    ) == 2
    assert all(
        ids[-1] == TOKENIZER.eos_token_id
        for column in ("input_ids", "labels")
        for ids in data[column]
    )


def test_a_wording_that_is_cut_stays_that_wording(tokenize):
    long = tokenize(all_wordings=True, encoding=Encoding(n_pos=3))
    short = tokenize(all_wordings=True, encoding=Encoding(n_pos=3), max_source=35)
    assert max(short["length"]) <= 35 < min(long["length"])
    assert [ids[:6] for ids in long["input_ids"]] == [ids[:6] for ids in short["input_ids"]]


# The instance itself

def test_an_instance_is_input_and_output_without_an_end(tokenize):
    data = tokenize(instance="own")
    assert data.features == INSTANCE_FEATURES
    targets = texts(data, "labels")
    instances = [i for t in TASKS for i in t.instances]
    assert texts(data, "instance_ids") == [
        f"Input: {i.input} Output: {target}" for i, target in zip(instances, targets)
    ]
    assert data["instance"][:] == [*range(40), *range(25)] and not any(
        TOKENIZER.eos_token_id in ids for ids in data["instance_ids"][:]
    )


@pytest.mark.parametrize("which", ["own", "another"])
def test_what_is_read_besides_changes_nothing_else(tokenize, which):
    plain, read = tokenize(all_wordings=True), tokenize(all_wordings=True, instance=which)
    assert read.remove_columns(["instance", "instance_ids"])[:] == plain[:]


def test_another_instance_is_of_the_same_task_and_never_the_own(tokenize):
    data, own = tokenize(instance="another"), tokenize(instance="own")
    possible = [
        [f"Input: {i.input} Output: {y}" for i in t.instances for y in i.output] for t in TASKS
    ]
    drawn = texts(data, "instance_ids")
    assert all(text in possible[t] for t, text in zip(data["task"][:], drawn))
    references = [
        {f"Input: {i.input} Output: {y}" for y in i.output} for t in TASKS for i in t.instances
    ]
    assert (
        not any(text in mine for text, mine in zip(drawn, references))
        and data["instance"][:] == own["instance"][:]
    )
    assert len(set(drawn)) > 30 and any("Output: it is" in text for text in drawn)


def test_another_instance_comes_from_seed_and_task(tokenize, tmp_path):
    first = tokenize(instance="another")
    assert first[:] == tokenize(instance="another", cache_dir=tmp_path / "b")[:]
    assert first["instance_ids"][:] != tokenize(instance="another", seed=1)["instance_ids"][:]
    assert (
        first["instance_ids"][40:]
        == tokenize(instance="another", tasks=TASKS[1:])["instance_ids"][:]
    )


def test_each_other_instance_is_as_likely(tokenize):
    data = tokenize(tasks=[make_task(f"n{k}", 3) for k in range(300)], instance="another")
    first = [
        text.split(" Output")[0]
        for text, n in zip(texts(data, "instance_ids"), data["instance"][:])
        if n == 0
    ]
    assert (
        set(Counter(first)) == {"Input: 1 2", "Input: 2 3 4"} and min(Counter(first).values()) > 110
    )


def test_a_long_instance_keeps_its_output(tokenize):
    task = make_task(
        "halve", instances=[Instance("x", "1 2 3 4 5 6 7 8 9 8 7 6 5 4 3 2 1", ["42"])]
    )
    whole = tokenize(tasks=[task], instance="own")[0]["instance_ids"]
    short = tokenize(tasks=[task], instance="own", max_instance=len(whole) - 5)[0]["instance_ids"]
    tail = TOKENIZER("Output: 42", add_special_tokens=False)["input_ids"]
    assert len(short) == len(whole) - 5 and short == whole[:len(short) - len(tail)] + tail


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(instance="mine"), "instance: found 'mine'; choose 'own', 'another'"),
        (dict(instance="own", max_instance=1), "max_instance: found 1"),
        (
            dict(instance="another", tasks=[make_task("halve", 1)]),
            "halve: instances: found 1; give two",
        ),
    ],
)
def test_instances_that_cannot_be_read(tokenize, changes, message):
    with pytest.raises(TaskError, match=message): tokenize(**changes)


def test_files_with_and_without_instances_are_told_apart(tokenize, no_reading):
    for instance in (None, "own", "another"): tokenize(instance=instance)
    tokenize(instance="own", max_instance=20)
    assert len(list(tokenize.folder.iterdir())) == 4
    no_reading()
    assert "instance_ids" not in tokenize().column_names
    assert (
        tokenize(instance="own")["instance_ids"][:]
        != tokenize(instance="another")["instance_ids"][:]
    )


# The cache

def test_the_second_call_reads_the_file(tokenize, no_reading):
    data = tokenize()[:]
    no_reading()
    assert tokenize()[:] == data
    assert len(list(tokenize.folder.iterdir())) == 1


CHANGES = {
    "tasks": dict(tasks=TASKS[::-1]), "name": dict(tasks=[make_task("third")]),
    "encoding": dict(encoding=Encoding()), "max_source": dict(max_source=20),
    "max_target": dict(max_target=3), "all_wordings": dict(all_wordings=True), "seed": dict(seed=1),
    "cache_dir": None,
    "tokenizer": dict(tokenizer=train_tokenizer(["another text, another tokenizer"], 300)),
    "one input": dict(
        tasks=[
            TASKS[0],
            make_task(
                "double", 25, instances=[*TASKS[1].instances[:-1], Instance("x", "9", ["4"])]
            ),
        ]
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_any_argument_makes_another(tokenize, no_reading, tmp_path, name):
    tokenize()
    no_reading()
    with pytest.raises(AssertionError, match="tokenized"):
        tokenize(**CHANGES[name] or dict(cache_dir=tmp_path / "elsewhere"))


def test_how_the_tokenizer_was_used_before_does_not_matter(tokenize, no_reading):
    tokenize()
    TOKENIZER(["a text", "b"], truncation=True, max_length=2, padding=True)
    no_reading()
    tokenize()


@pytest.mark.parametrize(
    "damage",
    [
        lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"no Arrow",
        lambda b: b[:900] + bytes([b[900] ^ 1]) + b[901:], lambda b: b + b"0",
    ],
    ids=["half", "empty", "other", "one bit", "longer"],
)
def test_a_damaged_file_is_made_again(tokenize, damage):
    before = tokenize()[:]
    file, = tokenize.folder.iterdir()
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(damage(content))
    assert tokenize()[:] == before
    assert [path.read_bytes() for path in tokenize.folder.iterdir()] == [content]


def test_a_run_that_breaks_off_leaves_nothing(tokenize, monkeypatch):
    with monkeypatch.context() as patch:
        def fail(*args, **kwargs): raise KeyboardInterrupt
        patch.setattr(type(TOKENIZER), "__call__", fail)
        with pytest.raises(KeyboardInterrupt): tokenize()
    assert not list(tokenize.folder.iterdir())
    assert len(tokenize()) == 65


def test_the_leftovers_of_a_killed_run_are_not_read(tokenize):
    before = tokenize()[:]
    draft = tokenize.folder / "tmpkilled"
    draft.mkdir()
    (draft / "ids.arrow").write_bytes(b"half a fi")
    assert tokenize()[:] == before


def test_what_was_used_longest_ago_is_forgotten(tokenize, monkeypatch):
    files = []
    for seed in (0, 1, 2):
        tokenize(seed=seed)
        files += {*tokenize.folder.iterdir()} - {*files}
    monkeypatch.setattr("instop_nb.batches.MOST_KEPT", int(3.5 * files[0].stat().st_size))
    tokenize(seed=0)  # Read, so that the second is the oldest now
    tokenize(seed=3)
    kept = {*tokenize.folder.iterdir()}
    assert len(kept) == 3 and kept & {*files} == {files[0], files[2]}


def test_the_newest_stays_and_files_of_others_do_too(tokenize, monkeypatch):
    monkeypatch.setattr("instop_nb.batches.MOST_KEPT", 0)
    tokenize.folder.mkdir()
    (tokenize.folder / "notes.txt").write_text("not ours")
    (tokenize.folder / "data.arrow").write_bytes(b"not ours")
    first, second = tokenize(seed=0), tokenize(seed=1)
    assert len(list(tokenize.folder.iterdir())) == 3
    assert first[:] != second[:] == tokenize(seed=1)[:] and len(first) == 65  # still readable


def test_the_fingerprint_needs_no_luck_with_identical_objects(tokenize, no_reading):
    "Equal texts are equal, whether they are one object or two."
    tokenize(tasks=[make_task("halve")])
    copy = make_task("".join(["ha", "lve"]))
    no_reading()
    tokenize(tasks=[copy])


def test_the_default_folder_lies_in_the_cache_of_datasets(tokenize, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub")
    monkeypatch.setattr("instop_nb.batches.WORTH_KEEPING", 65)
    tokenize(cache_dir=None)
    assert [path.suffix for path in (tmp_path / "hub" / "instop_nb").iterdir()] == [".arrow"]


def test_few_rows_leave_no_file(tokenize, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub")
    few, kept = tokenize(cache_dir=None), tokenize()
    assert (
        not (tmp_path / "hub").exists()
        and (few.features, few[:]) == (kept.features, kept[:])
        and fingerprint(few) == fingerprint(kept)
    )


@pytest.mark.parametrize("name", ["bos_token", "eos_token"])
def test_other_control_tokens_are_other_ids(name):
    from instop_nb.batches import _rows_fingerprint
    one, other = (load_tokenizer("micro") for _ in range(2))
    setattr(other, name, "<extra_id_3>")
    prints = [_rows_fingerprint({}, t, Encoding(), {}) for t in (one, other, one)]
    assert prints[0] == prints[2] != prints[1]


def test_control_tokens_as_signs_are_other_ids(tokenize):
    task, meant = make_task("halve"), load_tokenizer()
    task.instances[0].input = "a </s> b"
    meant.split_special_tokens = False
    first = [tokenize(tasks=[task], tokenizer=t)["input_ids"][0] for t in (load_tokenizer(), meant)]
    assert first[0] != first[1]


def test_no_progress_bar_is_left_behind_or_switched_off(tokenize, capfd):
    datasets.enable_progress_bars()
    tokenize()
    assert not datasets.are_progress_bars_disabled()
    assert capfd.readouterr() == ("", "")


def test_a_tokenizer_in_python_works_too(tokenize):
    first = tokenize(tokenizer=ByT5Tokenizer())
    assert texts(first, "input_ids", ByT5Tokenizer())[3] == encode(
        TASKS[0], TASKS[0].instances[3], ALONE
    )
    tokenize(tokenizer=ByT5Tokenizer())
    assert len(list(tokenize.folder.iterdir())) == 1


# Batches

def test_collator_pads_and_masks(tokenize):
    data = tokenize()
    rows = [data[i] for i in (0, 6, 50)]
    batch = Collator(TOKENIZER)(rows)
    assert set(batch) == {"input_ids", "attention_mask", "labels", "task"}
    assert all(batch[name].dtype == torch.int64 for name in batch)
    for n, row in enumerate(rows):
        length, target = row["length"], len(row["labels"])
        assert (
            batch["input_ids"][n, :length].tolist() == row["input_ids"]
            and batch["labels"][n, :target].tolist() == row["labels"]
        )
        assert (batch["input_ids"][n, length:] == TOKENIZER.pad_token_id).all() and (
            batch["labels"][n, target:] == -100
        ).all()
        assert batch["attention_mask"][n].tolist() == [1] * length + [0] * (
            batch["input_ids"].shape[1] - length
        )
    assert batch["task"].tolist() == [0, 0, 1] and batch["input_ids"].shape[1] == max(
        r["length"] for r in rows
    )


def test_collator_pads_instances_by_themselves(tokenize):
    data = tokenize(instance="own")
    rows = [data[i] for i in (0, 6, 50)]
    batch = Collator(TOKENIZER)(rows)
    assert set(batch) == {
        "input_ids", "attention_mask", "labels", "task", "instance", "instance_ids",
        "instance_mask",
    }
    plain = Collator(TOKENIZER)([tokenize()[i] for i in (0, 6, 50)])
    assert all(torch.equal(batch[name], plain[name]) for name in plain)
    longest = max(len(row["instance_ids"]) for row in rows)
    assert batch["instance_ids"].shape == batch["instance_mask"].shape == (3, longest) and batch[
        "instance"
    ].tolist() == [0, 6, 10]
    for row, ids, mask in zip(rows, batch["instance_ids"], batch["instance_mask"]):
        n = len(row["instance_ids"])
        assert ids.tolist() == row["instance_ids"] + [TOKENIZER.pad_token_id] * (
            longest - n
        ) and mask.tolist() == [1] * n + [0] * (longest - n)
    assert all(batch[name].dtype == torch.int64 for name in batch)


def test_collator_leaves_the_rows_alone_and_rounds_up(tokenize):
    row = tokenize()[0]
    before = {**row}
    assert Collator(TOKENIZER, pad_to_multiple_of=16)([row])["labels"].shape[1] == 16
    assert row == before


# The order of the rows

LENGTHS = [random.Random(i).randint(5, 40) for i in range(2048)]


def draw(seed=0, lengths=LENGTHS, size=8, pool=16):
    torch.manual_seed(seed)
    return list(BucketSampler(lengths, size, pool))


def batches(order, size=8):
    return [order[n:n + size] for n in range(0, len(order), size)]


def real_share(order, size=8):
    "The share of real tokens, if batches are padded to their longest row."
    lengths = [[LENGTHS[i] for i in batch] for batch in batches(order, size)]
    return sum(map(sum, lengths)) / sum(max(batch) * len(batch) for batch in lengths)


def correlation(order):
    "How strongly the mean length of a batch follows that of the batch before."
    means = torch.tensor([sum(LENGTHS[i] for i in batch) / len(batch) for batch in batches(order)])
    return torch.corrcoef(torch.stack([means[:-1], means[1:]]))[0, 1].item()


@given(st.lists(st.integers(1, 50), max_size=70), st.integers(1, 9), st.integers(1, 5))
def test_buckets_give_each_row_once(lengths, size, pool):
    order = draw(0, lengths, size, pool)
    assert sorted(order) == list(range(len(lengths))) and len(
        BucketSampler(lengths, size, pool)
    ) == len(lengths)


def test_buckets_hold_less_padding_than_random_batches():
    by_pool = [real_share(draw(pool=pool)) for pool in (1, 4, 16)]
    assert by_pool[0] == pytest.approx(real_share(range(2048)), abs=0.02)
    assert by_pool[0] + 0.15 < by_pool[1] < by_pool[2] and by_pool[2] > 0.9


def test_a_pool_is_sorted_but_its_batches_are_shuffled():
    for seed in range(5):
        order = draw(seed)
        for n in range(0, 2048, 16 * 8):
            pool = [sorted(LENGTHS[i] for i in batch) for batch in batches(order[n:n + 16 * 8])]
            assert sum(sorted(pool, key=sum), []) == sorted(LENGTHS[i] for i in order[n:n + 16 * 8])
            assert sorted(pool, key=sum) != pool != sorted(pool, key=sum, reverse=True)


def test_neighbouring_batches_are_not_alike_as_in_the_sampler_of_the_library():
    library = list(
        LengthGroupedSampler(8, lengths=LENGTHS, generator=torch.Generator().manual_seed(0))
    )
    assert correlation(library) > 0.7
    assert all(abs(correlation(draw(seed))) < 0.4 for seed in range(5))


def test_buckets_are_drawn_anew_each_epoch_and_again_with_the_same_seed():
    torch.manual_seed(0)
    sampler = BucketSampler(LENGTHS, 8)
    first, second = list(sampler), list(sampler)
    assert first == draw(0) != second and {*map(frozenset, batches(first))} != {
        *map(frozenset, batches(second))
    }


def test_everything_in_a_loader(tokenize):
    data = tokenize(all_wordings=True)
    sampler = BucketSampler(data["length"][:], 16)
    loader = DataLoader(data, 16, sampler=sampler, collate_fn=Collator(TOKENIZER))
    for _ in range(2):
        seen = list(loader)
        assert [len(batch["labels"]) for batch in seen] == [16] * 4 + [1]
        assert Counter(task for batch in seen for task in batch["task"].tolist()) == {0: 40, 1: 25}
        assert sum(batch["attention_mask"].sum().item() for batch in seen) == sum(data["length"][:])


def test_chosen_rows_in_a_loader(tokenize):
    data = tokenize().select([3, 60, 5, 2, 40])
    loader = DataLoader(
        data, 2, sampler=BucketSampler(data["length"][:], 2), collate_fn=Collator(TOKENIZER)
    )
    assert sum(batch["attention_mask"].sum().item() for batch in loader) == sum(data["length"][:])


@needs_real
@pytest.mark.parametrize(
    "encoding, limit",
    [(Encoding(), 300), (Encoding(n_neg=2, explanations=True), 400), (ALONE, 128)],
    ids=["default", "everything", "definition"],
)
def test_real_tasks_get_the_same_ids_as_one_by_one(tmp_path, encoding, limit):
    tasks = load_tasks(REAL, n_instances=2)[::4]
    data = tokenize_tasks(tasks, TOKENIZER, encoding, limit, cache_dir=tmp_path)
    expected = [
        TOKENIZER(encode(t, i, encoding, TOKENIZER, limit), truncation=True, max_length=limit)[
            "input_ids"
        ]
        for t in tasks
        for i in t.instances
    ]
    assert data["input_ids"][:] == expected and max(data["length"]) <= limit
