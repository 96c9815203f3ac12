"""Self-Instruct: its filters, its state, its writers, the files that it leaves, and its study."""
import json
import random
import threading
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch
import transformers as hf
import yaml
from conftest import check_claims_of_page, check_that_no_run_is_repeated, record_and_page
from hypothesis import given, settings, strategies as st
from test_cli import call, fail
from test_decoder_only import MODELS, ODD, chat_tokenizer, data  # noqa: F401 (a fixture)

from instop_nb import bootstrap as module, made_study
from instop_nb.bootstrap import Making, bootstrap, draw_shown, instances_of, one_round
from instop_nb.core import TaskError
from instop_nb.made_study import STUDIES, counts_table, drawn_numbers, made_digest, shown_tasks
from instop_nb.models import english_file, load_model
from instop_nb.self_instruct import (
    ALIKE, has_labels, instance_prompt, instruction_prompt, kept_pairs, label_prompt, listed,
    made_task, nearest, parsed_pairs, seed_of, why_dropped,
)
from instop_nb.study import reproduce
from instop_nb.survey import survey
from instop_nb.tasks import load_tasks
from instop_nb.writers import (
    Asking, EndpointWriter, ModelWriter, Scripted, Written, until_stop,
)

NOTEBOOK = Path(__file__).resolve().parent.parent / "nbs" / "5_beyond" / "54d_made_study.ipynb"
TASKS = load_tasks("natural", "train")
SEEDS = [seed_of(task) for task in TASKS]
SAID = [seed.instruction for seed in SEEDS]
VERBS = "Name Count Sort Explain Describe Translate Compare Mend".split()
THINGS = "birds towns rhymes verbs colours rivers tools songs".split()
POSSIBLE = ["Say whether it is even.", "Draw it for me.", "Sort.", SAID[3], *(
    f"{verb} all {thing} that somebody mentions" for verb in VERBS for thing in THINGS)]
QUICK = Making(target=9, prompts=2)
has_english = pytest.mark.skipif(
    not english_file(), reason="smollm2 is not installed here: make english")
words = st.text("ab c:.\n", max_size=12)


def script(prompt, seed):
    "Three instructions of many, by the seed; always the same instances."
    last = prompt.rsplit("\n\n", 1)[-1]
    if prompt.endswith("9."):
        return " " + "\n10. ".join(random.Random(seed).sample(POSSIBLE, 3)) + "\n\nMore?"
    if last.endswith("Label:"): return " yes\nInput: two\nLabel: no\nInput: three"
    if last.endswith("Input:"): return " one fox\nOutput: 1\nInput: an owl\nOutput: an owl"
    return " yes" if "Task: Say" in last else " no"


class Killed(BaseException):
    "What a process sees last."


# What is kept

@given(st.lists(st.lists(st.sampled_from(VERBS + THINGS), max_size=7).map(" ".join), max_size=12))
def test_no_two_kept_instructions_are_alike(offered):
    kept = []
    for text in offered:
        if not why_dropped(text, kept): kept.append(text)
    for n, text in enumerate(kept):
        assert 3 < len(text.split()) <= 150
        assert all(nearest(text, [other])[0] <= ALIKE for other in kept[:n])
    assert [text for text in offered if not why_dropped(text, [])] or not kept


@given(st.text(max_size=40).filter(str.strip), st.lists(st.text(max_size=20), max_size=3))
def test_any_text_is_judged(text, kept):
    assert isinstance(why_dropped(" ".join(text.split()), kept), str)


@pytest.mark.parametrize("text, why", [
    ("Go to sleep at eight.", "key word"), ("Show the IMAGE to me.", "key word"),
    ("Describe what mapping means here.", ""), ("Withdraw what you said before.", ""),
    ("Write a program that counts.", "a program"), ("Write programs of concerts.", ""),
    ("one two three", "too short"), ("one two three four", ""),
    ("é is an odd letter.", "begins with a sign"),
    ("a " * 150 + "b", "too long"), ("(Say something about rain)", "begins with a sign"),
    ("Here are some new tasks:", "ends with a colon"), (SAID[0], "like another"),
])
def test_rules_of_the_original(text, why): assert why_dropped(text, SAID) == why


def test_what_is_alike_is_told_by_plain_words():
    assert nearest("walk walks walking walked", ["walk"])[0] == pytest.approx(.4)
    assert nearest("b", ["a", "b", "c"]) == (1.0, "b")


@given(st.lists(st.tuples(words, words), max_size=9), st.sets(words, max_size=2))
def test_kept_instances_are_sound(pairs, known):
    kept, dropped = kept_pairs(pairs, known)
    assert len(kept) + sum(dropped.values()) == len(pairs) and len(kept) <= 5
    assert len({text for text, _ in kept}) == len(kept) and not {t for t, _ in kept} & known
    assert all(text and output and text != output for text, output in kept)
    assert not any(part.endswith(":") for pair in kept for part in pair)
    assert kept_pairs(kept, known) == (kept, {})


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz")), max_size=5),
       st.booleans())
def test_what_a_prompt_shows_is_read_back(pairs, labelled):
    task = replace(ODD, prompt="Do it.", positive=[], instances=[])
    seed = seed_of(replace(task, instances=ODD.instances))._replace(pairs=pairs)
    text = instance_prompt("Next.", labelled, [seed]).split("\n\n")[0].split("\n", 1)
    said = "\n".join(text[1:])
    assert parsed_pairs(Written(said, False), labelled) == pairs
    assert parsed_pairs(Written(said, True), labelled) == pairs[:-1]


def test_of_several_outputs_the_first_counts():
    said = " a\nOutput: b\nOutput: c\nInput: d\nOutput: e"
    assert parsed_pairs(Written(said, False), False) == [("a", "b"), ("d", "e")]
    assert parsed_pairs(Written(said, True), False) == [("a", "b")]


@given(st.text(max_size=60), st.booleans(), st.booleans())
def test_any_text_can_be_read(text, cut, labelled):
    written = Written(text, cut)
    assert all(item == " ".join(item.split()) for item in listed(written))
    assert all(x == x.strip() for pair in parsed_pairs(written, labelled) for x in pair)
    assert has_labels(written) in (True, False)


def test_a_list_is_cut_at_its_numbers():
    items = ["Name 3. something", "Add 4.5 to it", "Say it"]
    text = " " + "\n".join([items[0], f"10. {items[1]}", f"11) {items[2]}"])
    assert listed(Written(text, False)) == items
    assert listed(Written("9. name it\n10. say it", False)) == ["Name it", "Say it"]
    assert listed(Written("  ", False)) == []


def test_prompts_end_where_the_writer_goes_on():
    assert instruction_prompt(["A.", "B."]).endswith("\n2. B.\n3.")
    assert label_prompt("Do it.", SEEDS[:2]).split("\n\n")[-1].startswith("Task: Do it.\n")
    assert instance_prompt("Do it.", True, SEEDS[8:9]).endswith("Task: Do it.\nLabel:")


def test_a_seed_is_what_people_wrote():
    assert len(SEEDS) == 24 and sum(seed.labelled for seed in SEEDS) == 8
    assert SEEDS[0].instruction == TASKS[0].prompt
    bare = seed_of(replace(TASKS[0], prompt="", positive=[]))
    assert bare.instruction == " ".join(TASKS[0].definition[0].split())
    assert bare.pairs == [(i.input, i.output[0]) for i in TASKS[0].instances[:3]]


def test_a_name_is_one_that_files_have():
    task = made_task(3, "Écris ../../etc: \"ça\" / 你好", True, [("a", "b")])
    assert task.name == "made0003_cris_etc_a" and task.category == "Made Classification"
    assert made_task(3, "你好吗", True, [("a", "b")]).name == "made0003"


# The loop

def test_a_prompt_shows_six_seeds_and_two_made_ones():
    made = ["Made one.", "Made two.", "Made three."]
    for seed in range(9):
        shown = draw_shown(SAID, made, Making(), random.Random(seed))
        assert len(set(shown)) == 8 and sum(text in made for text in shown) == 2
    with pytest.raises(TaskError, match="give at least 8 tasks"):
        draw_shown(SAID[:5], [], Making(), random.Random(0))


def test_what_a_round_writes_follows_from_its_number():
    first = one_round(2, Scripted(script), SAID, [], QUICK)
    assert first == one_round(2, Scripted(script), SAID, [], QUICK)
    assert first != one_round(3, Scripted(script), SAID, [], QUICK)
    assert len([row for row in first if not row["why"]]) <= QUICK.target


def test_a_run_ends_with_its_target_and_drops_for_reasons(tmp_path):
    tasks = bootstrap(tmp_path, Scripted(script), TASKS, QUICK)
    made = made_digest(tmp_path, TASKS)
    assert len(made["rows"]) == len(tasks) == 9
    assert made["written"] == 9 + sum(made["dropped"].values())
    assert set(made["dropped"]) <= {"like another", "too short", "key word"}
    assert all(row["like_seed"] <= ALIKE for row in made["rows"])


def test_the_files_are_accepted_by_the_checker(tmp_path):
    tasks = bootstrap(tmp_path, Scripted(script), TASKS, QUICK)
    found = survey(tmp_path)
    assert len(found.tasks) == 9 and found.problems == []
    assert sorted(load_tasks(tmp_path, "train"), key=lambda t: t.name) == tasks
    assert "9 tasks in" in call("tasks", tmp_path)


@pytest.mark.parametrize("call_number", range(9))
def test_a_run_that_is_killed_goes_on_as_if_it_were_not(tmp_path, call_number):
    "Whatever call of the writer is the last one."
    calls = iter(range(99))

    def mortal(prompt, seed):
        if next(calls) == 3 * call_number: raise Killed
        return script(prompt, seed)
    with suppress(Killed): bootstrap(tmp_path / "a", Scripted(mortal), TASKS, QUICK)
    ended = bootstrap(tmp_path / "a", Scripted(script), TASKS, QUICK)
    assert ended == bootstrap(tmp_path / "b", Scripted(script), TASKS, QUICK)
    for name in ("instructions.jsonl", "instances.jsonl", "settings.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "The state of a run that nobody has stopped."
    place = tmp_path_factory.mktemp("whole")
    bootstrap(place, Scripted(script), TASKS, QUICK)
    names = ("instructions.jsonl", "instances.jsonl", "settings.json")
    return {name: (place / name).read_bytes() for name in names}


@given(share=st.floats(0, 1))
@settings(max_examples=25)
def test_a_run_goes_on_from_any_byte(tmp_path_factory, whole, share):
    folder = tmp_path_factory.mktemp("cut")
    first, second = whole["instructions.jsonl"], whole["instances.jsonl"]
    n = round(share * (len(first) + len(second)))
    (folder / "settings.json").write_bytes(whole["settings.json"])
    (folder / "instructions.jsonl").write_bytes(first[:n])
    if n > len(first): (folder / "instances.jsonl").write_bytes(second[:n - len(first)])
    bootstrap(folder, Scripted(script), TASKS, QUICK)
    for name, content in whole.items(): assert (folder / name).read_bytes() == content


def test_nothing_is_asked_again(tmp_path):
    bootstrap(tmp_path, Scripted(script), TASKS, QUICK)
    def silent(prompt, seed): raise AssertionError("asked again")
    assert len(bootstrap(tmp_path, Scripted(silent), TASKS, QUICK)) == 9


def test_a_run_goes_on_with_what_began_it_alone(tmp_path):
    bootstrap(tmp_path, Scripted(script), TASKS, QUICK)
    other = Scripted(script)
    other.name = "another"
    for begun in (
        lambda: bootstrap(tmp_path, Scripted(script), TASKS, replace(QUICK, seed=1)),
        lambda: bootstrap(tmp_path, Scripted(script), TASKS[1:], QUICK),
        lambda: bootstrap(tmp_path, other, TASKS, QUICK),
    ):
        with pytest.raises(TaskError, match="settings.json: .* begun with .* another folder"):
            begun()
    assert json.loads((tmp_path / "settings.json").read_text()).keys() == {
        *asdict(QUICK), "writer", "seeds"}


def test_a_writer_that_repeats_itself_is_stopped(tmp_path):
    parrot = Scripted(lambda prompt, seed: f" {SAID[0]}\n\n")
    with pytest.raises(TaskError, match="nothing new in 4.* higher temperature"):
        bootstrap(tmp_path, parrot, TASKS, replace(QUICK, patience=4))
    assert len((tmp_path / "instructions.jsonl").read_text().splitlines()) == 4


@pytest.mark.parametrize("line, why", [("[]", "no JSON object"), ("{}", "take this line out")])
def test_a_damaged_state_names_its_line(tmp_path, line, why):
    bootstrap(tmp_path, Scripted(script), TASKS, QUICK)
    with (tmp_path / "instructions.jsonl").open("a") as file: file.write(f"{line}\n")
    with pytest.raises(TaskError, match=f"instructions.jsonl: line .*{why}"):
        bootstrap(tmp_path, Scripted(script), TASKS, QUICK)


def test_a_task_without_labels_among_the_seeds_still_makes_tasks():
    plain = [seed for seed in SEEDS if not seed.labelled]
    rows = instances_of(["Say whether it rains."], Scripted(script), plain, QUICK)
    assert rows[0]["labelled"] is False and rows[0]["pairs"] == [("one fox", "1")]


# Who writes

@pytest.fixture(scope="module")
def place(tmp_path_factory):
    "A folder with a Llama of random weights and a chat template."
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(1)
    hf.LlamaForCausalLM(hf.LlamaConfig(
        vocab_size=320, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, bos_token_id=0, eos_token_id=1)).save_pretrained(folder)
    chat_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def tiny(place): return load_model(place, device="cpu")


class Handler(BaseHTTPRequestHandler):
    "OpenAI's two addresses around a model of transformers."
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status, answer = self.server.answer(self.path, body, self.headers)
        self.send_response(status)
        self.end_headers()
        self.wfile.write(answer if isinstance(answer, bytes) else json.dumps(answer).encode())

    def log_message(self, *_): "Say nothing."


@contextmanager
def served(answer):
    "A server on this machine, and its address."
    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.answer = answer
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try: yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def of_model(model, tokenizer, seen):
    "What a server of transformers answers."
    def answer(path, body, headers):
        seen.append((path, body, headers.get("Authorization")))
        chat = path.endswith("/chat/completions")
        text = body["messages"][0]["content"] if chat else body["prompt"]
        how = Asking(body["max_tokens"], (), body["temperature"], body["top_p"])
        [said] = ModelWriter(model, tokenizer, chat).write([text], how, body["seed"])
        choice = {"message": {"content": said.text}} if chat else {"text": said.text}
        return 200, {"choices": [{**choice, "finish_reason": "length" if said.cut else "stop"}]}
    return answer


@pytest.mark.parametrize("chat", [False, True])
def test_a_server_writes_as_its_model_does(tiny, chat, monkeypatch):
    how, seen = Asking(9, ("zz",), 1.0, .9), []
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with served(of_model(*tiny, seen)) as url:
        far = EndpointWriter(url, "tiny", chat).write(["one two", "three"], how, 5)
    near = [ModelWriter(*tiny, chat).write([text], how, 5 + n)[0]
            for n, text in enumerate(["one two", "three"])]
    assert far == near
    path, body, key = seen[0]
    assert path == f"/v1/{'chat/' * chat}completions" and key == "Bearer secret"
    assert body["model"] == "tiny" and body["stop"] == ["zz"] and body["max_tokens"] == 9


@pytest.mark.parametrize("answer, why", [
    ((500, b"out of memory"), "status 500: .*out of memory"), ((401, b"no key"), "OPENAI_API_KEY"),
    ((200, b"<html>"), "no JSON"), ((200, {"choices": []}), r"choices\[0\].text"),
    ((200, []), "OpenAI's kind"), ((200, {"choices": [{"text": 3}]}), "OpenAI's kind"),
    ((200, b"\xff\xfe"), "no JSON"),
])
def test_odd_answers_say_what_to_do(answer, why):
    with served(lambda *_: answer) as url, pytest.raises(TaskError, match=why) as error:
        EndpointWriter(url).write(["x"], Asking())
    assert url in str(error.value)


def test_a_server_that_is_away_says_what_to_do(tmp_path):
    with served(None) as url: pass
    with pytest.raises(TaskError, match="start it, or check the address"):
        EndpointWriter(url).write(["x"], Asking())
    with pytest.raises(TaskError, match="begin it with http"): EndpointWriter("file:///etc/hosts")
    assert "start it" in fail("self-instruct", "--endpoint", url, "--out", tmp_path, "--quiet")


def test_an_answer_without_text_is_empty():
    silent = (200, {"choices": [{"message": {"content": None}}]})
    with served(lambda *_: silent) as url:
        assert EndpointWriter(url, chat=True).write(["x"], Asking()) == [Written("", False)]


@given(st.text(max_size=20), st.lists(st.text(min_size=1, max_size=2), max_size=3), st.booleans())
def test_no_stop_is_left(text, stops, cut):
    said = until_stop(text, tuple(stops), cut)
    assert not any(stop in said.text for stop in stops) and text.startswith(said.text)
    assert said.cut == (cut and said.text == text)


def test_the_command_writes_tasks_through_a_server(tmp_path):
    def answer(path, body, headers):
        return 200, {"choices": [{"text": script(body["prompt"], body["seed"])}]}
    with served(answer) as url:
        words = ["self-instruct", "--endpoint", url, "--n", 5, "--out", tmp_path, "--quiet"]
        said = call(*words)
        assert "| instructions | kept | 5 |" in said and "instop tasks" in said
        assert call(*words) == said, "the same command goes on, and there is nothing to do"
    assert "5 tasks in" in call("tasks", tmp_path)
    assert "another folder" in fail(*words, "--seed", 1)


@pytest.mark.parametrize("chat", [False, True])
def test_a_model_draws_the_same_from_the_same_seed(tiny, chat):
    writer, how = ModelWriter(*tiny, chat, batch_size=2), Asking(8, (), 1.0, .9)
    texts, state = ["one", "two three four", "five"], torch.random.get_rng_state()
    first = writer.write(texts, how, 1)
    assert writer.write(texts, how, 1) == first != writer.write(texts, how, 2)
    assert torch.equal(torch.random.get_rng_state(), state), "nobody else's draws change"
    assert ModelWriter(*tiny, chat).name == writer.name != ModelWriter(*tiny, not chat).name


def test_the_likeliest_words_are_the_same_alone_and_in_a_batch(tiny):
    texts = ["one", "two three four five six"]
    alone, together = (ModelWriter(*tiny, batch_size=n).write(texts, Asking(8)) for n in (1, 2))
    assert alone == together


def test_what_was_written_becomes_less_likely_and_the_prompt_does_not(tiny):
    texts = ["one two", "three"]
    writer = ModelWriter(*tiny)
    [[free, _], [bound, _]] = (writer.write(texts, Asking(60, presence=p)) for p in (0, 2))
    assert len(set(bound.text)) > len(set(free.text)), "it has looped before"
    seen = []
    with served(of_model(*tiny, seen)) as url:
        EndpointWriter(url).write(["one"], Asking(2, presence=1.5))
        EndpointWriter(url).write(["one"], Asking(2))
    assert seen[0][1]["presence_penalty"] == 1.5 and "presence_penalty" not in seen[1][1]


def test_a_stop_ends_what_a_model_writes(tiny):
    writer = ModelWriter(*tiny)
    [whole] = writer.write(["one two"], Asking(16))
    sign = whole.text[3:5]
    [short] = writer.write(["one two"], Asking(16, (sign,)))
    assert short == until_stop(whole.text, (sign,), whole.cut) and not short.cut


def test_who_cannot_write_is_refused(tiny):
    with pytest.raises(TaskError, match="has an encoder"):
        ModelWriter(*load_model("micro", device="cpu"))
    for wrong in (dict(room=0), dict(temperature=-1), dict(top_p=0), dict(top_p=1.5)):
        with pytest.raises(TaskError): Asking(**wrong)
    short = ModelWriter(MODELS["GPT-2"]().eval(), tiny[1])
    with pytest.raises(TaskError, match="256 places"): short.write(["one"], Asking(300))


# The study

@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    bootstrap(folder, Scripted(script), TASKS, QUICK)
    return str(folder)


def test_digest_and_tables(made):
    found = made_digest(made, TASKS)
    assert f"| instructions | kept | {len(found['rows'])} |" in counts_table(found)
    numbers = drawn_numbers(found, 4)
    assert numbers == sorted(set(numbers)) == drawn_numbers(found, 4) and len(numbers) == 4
    assert all(found["rows"][n]["instruction"] in shown_tasks(found, numbers) for n in numbers)


def test_the_study_runs_and_repeats_nothing(made, place, data, tmp_path):  # noqa: F811
    pytest.importorskip("peft", reason="peft is not installed here: make english")
    study = STUDIES["self-instruct"]
    options = dict(scale=.05, data=data, model=place, made=made)
    record = reproduce(study, tmp_path, seeds=1, workers=1, quiet=True, **options)
    assert [r["arm"] for r in record["runs"]] == [*study.arms]
    assert [r["trained_on"] for r in record["runs"]] == [0, 2, 9]
    check_that_no_run_is_repeated(study, tmp_path, record, **options)


def test_tasks_are_made_once(tmp_path, monkeypatch):
    first = made_study.made_by(Scripted(script), tmp_path, TASKS, 4)
    monkeypatch.setattr(module, "one_round", None)
    assert made_study.made_by(Scripted(script), tmp_path, TASKS, 4) == first and len(first) == 4
    assert made_digest(tmp_path, TASKS)["cpu_seconds"] >= 0


def test_unseen_tasks_are_no_seeds():
    assert not {t.name for t in TASKS} & {t.name for t in load_tasks("natural", "test")}


def test_the_page_agrees_with_the_record():
    study = STUDIES["self-instruct"]
    record, printed, lines = record_and_page(study, NOTEBOOK)
    check_claims_of_page("self-instruct", record, printed, lines)
    made = record["digest"]
    assert len(made["rows"]) == made_study.TARGET
    assert f"| instructions | kept | {len(made['rows'])} |" in lines
    for why, n in made["dropped"].items(): assert f"| instructions | {why} | {n} |" in lines


def test_the_judged_tasks_are_those_that_are_shown():
    record, _, lines = record_and_page(STUDIES["self-instruct"], NOTEBOOK)
    file = Path(made_study.__file__).parent / "records" / "self-instruct-judged.yaml"
    judged = yaml.safe_load(file.read_text())
    assert judged["who"]
    assert [row["task"] for row in judged["tasks"]] == drawn_numbers(record["digest"])


# The English model

@has_english
def test_the_english_model_writes_instructions_and_instances():
    writer = ModelWriter(*load_model("smollm2", device="cpu"))
    how = replace(Making(), prompts=2, room=60)
    rows = one_round(0, writer, SAID, [], how)
    assert rows and all({"instruction", "why", "like", "nearest"} == row.keys() for row in rows)
    found = instances_of(["Write the sentence in the future tense."], writer, SEEDS, how)
    assert found[0]["instruction"] and isinstance(found[0]["pairs"], list)
    capital = "Country: Italy. Capital: Rome.\nCountry: France. Capital:"
    [said] = writer.write([capital], Asking(4, (".",)))
    assert said.text.strip() == "Paris" and not said.cut
