"""The data of chapter 15: 120 templates for 12 clusters, and 62 data sets in their columns."""
import re
from collections import Counter
from difflib import SequenceMatcher
from itertools import combinations
from pathlib import Path
import pytest, yaml
from instop_nb.flan import DATASETS, load_flan
from instop_nb.flan_rows import check_flan_row
from instop_nb.flan_hub import map_row

FOLDER = Path(__file__).parents[1]/"instop_nb"/"templates"
PATTERNS = load_flan(FOLDER/"flan.yaml")
CONTRACT = {  # columns that a row must have; "options" in the second place: yes, maybe or no
    "nli": ("premise hypothesis", "yes"),
    "reading_comprehension": ("passage question", "maybe"),
    "closed_book_qa": ("question", "maybe"),
    "translation": ("source_language target_language text", "no"),
    "commonsense": ("context", "yes"),
    "sentiment": ("text", "yes"),
    "paraphrase": ("sentence1 sentence2", "yes"),
    "struct_to_text": ("data", "no"),
    "summarization": ("text", "no"),
    "coreference": ("text pronoun", "yes"),
    "reading_comprehension_with_commonsense": ("passage question", "yes"),
    "miscellaneous": ("text question", "maybe")}
EACH = [
    pytest.param(cluster, set(columns.split()), options, id=cluster)
    for cluster, (columns, options) in CONTRACT.items()
]


def gaps(pattern): return set(re.findall(r"{(\w+)}", pattern))
def words(pattern): return " ".join(re.sub(r"{\w+}", "", pattern).split())
def turned(template): return template.target != "{answer}"


# Templates

def test_ten_templates_for_each_of_twelve_clusters():
    assert {cluster: len(templates) for cluster, templates in PATTERNS.items()} == dict.fromkeys(
        CONTRACT, 10
    )


@pytest.mark.parametrize("cluster, columns, options", EACH)
def test_one_to_three_templates_turn_the_task_around(cluster, columns, options):
    around = [t for t in PATTERNS[cluster] if turned(t)]
    assert 1 <= len(around) <= 3
    for t in around:
        assert gaps(t.source) <= columns | {"answer"} and "answer" in gaps(t.source)
        assert len(gaps(t.target)) == 1 and gaps(t.target) <= columns - gaps(t.source)


@pytest.mark.parametrize("cluster, columns, options", EACH)
def test_ordinary_templates_show_the_whole_input_and_nothing_else(cluster, columns, options):
    for t in PATTERNS[cluster]:
        if not turned(t): assert gaps(t.source) - {"options_"} == columns, t


@pytest.mark.parametrize("cluster, columns, options", EACH)
def test_options_have_a_line_of_their_own_in_all_but_one_or_two(cluster, columns, options):
    ordinary = [t for t in PATTERNS[cluster] if not turned(t)]
    without = [t for t in ordinary if "{options_}" not in t.source]
    if options == "no": assert without == ordinary
    else: assert 1 <= len(without) <= 2
    for t in PATTERNS[cluster]:
        assert len(re.findall(r"{options_}", t.source)) == len(
            re.findall(r"^{options_}$", t.source, re.M)
        )


def test_no_template_is_nearly_another():
    sources = [words(t.source) for templates in PATTERNS.values() for t in templates]
    for one, other in combinations(sources, 2):
        matcher = SequenceMatcher(None, one, other, autojunk=False)
        assert matcher.quick_ratio() < .7 or matcher.ratio() < .7, (one, other)


def test_the_wordings_of_a_cluster_begin_differently():
    for cluster, templates in PATTERNS.items():
        assert (
            len({t.source.split("{")[0][:12] or words(t.source)[:12] for t in templates}) == 10
        ), cluster


# Data sets

def test_62_data_sets_as_in_the_paper():
    sizes = dict(zip(CONTRACT, [7, 5, 3, 8, 4, 4, 4, 4, 11, 3, 2, 7]))
    assert Counter(entry["cluster"] for entry in DATASETS.values()) == sizes
    assert len(DATASETS) == len({entry["title"] for entry in DATASETS.values()}) == 62


def test_no_name_occurs_twice():
    names = re.findall(r"^(\w+):", (FOLDER/"flan_datasets.yaml").read_text(), re.M)
    assert (
        names == list(yaml.safe_load((FOLDER / "flan_datasets.yaml").read_text()))
        and len(names) == 62
    )


@pytest.mark.parametrize("name", DATASETS)
def test_a_data_set_fills_its_contract(name):
    entry = DATASETS[name]
    inputs, options = CONTRACT[entry["cluster"]]
    columns = set(entry["columns"]) - {"answer"}
    assert "answer" in entry["columns"] and columns - {"options"} == set(inputs.split())
    assert options == "maybe" or ("options" in columns) == (options == "yes")
    assert "options" in columns or not (
        isinstance(entry["columns"]["answer"], dict) and "options" in entry["columns"]["answer"]
    )


@pytest.mark.parametrize("name", DATASETS)
def test_a_data_set_says_where_it_lies(name):
    entry = DATASETS[name]
    assert set(entry) <= set(
        "cluster title hub config files train validation test rows note "
        "columns replace make".split()
    )
    assert ("hub" in entry) != ("note" in entry)
    assert not ("config" in entry and "files" in entry)
    if "hub" in entry: assert re.fullmatch(r"[\w.-]+/[\w.-]+", entry["hub"])
    if "files" in entry:
        assert re.fullmatch(r"refs/(convert/parquet|pr/\d+)/\S*{split}\S*\.parquet", entry["files"])
    assert "train" in entry or "test" in entry
    assert ("rows" in entry) == ("train" in entry)


@pytest.mark.parametrize("name", DATASETS)
def test_rules_are_of_a_known_kind(name):
    entry = DATASETS[name]
    kinds = [{"options"}, {"options", "base"}, {"options", "names"}, {"join", "with"}, {"number"}]
    for column, rule in entry["columns"].items():
        assert (
            isinstance(rule, str)
            or (column == "options" and isinstance(rule, list))
            or set(rule) in kinds
        )
    assert all(isinstance(text, str) for pair in entry.get("replace", {}).items() for text in pair)


# One made-up row for each kind of rule

MAPPED = {
    "mnli": (
        {"premise": "It rains.", "hypothesis": "It is wet.", "label": 0},
        {
            "premise": "It rains.", "hypothesis": "It is wet.", "options": ["yes", "maybe", "no"],
            "answer": "yes",
        },
    ),
    "cb": (
        {"premise": "It rains.", "hypothesis": "It is dry.", "label": 1},
        {
            "premise": "It rains.", "hypothesis": "It is dry.", "options": ["yes", "no", "maybe"],
            "answer": "no",
        },
    ),
    "qnli": (
        {"sentence": "Owls sleep by day.", "question": "When do owls sleep?", "label": 1},
        {
            "premise": "Owls sleep by day.",
            "hypothesis": "This text contains the answer to the question: When do owls sleep?",
            "options": ["yes", "no"], "answer": "no",
        },
    ),
    "squad": (
        {
            "context": "Ada was born in 1815.", "question": "When?",
            "answers": {"text": ["1815", "in 1815"], "answer_start": [16, 13]},
        },
        {"passage": "Ada was born in 1815.", "question": "When?", "answer": "1815"},
    ),
    "arc": (
        {
            "question": "Which is a metal?",
            "choices": {"text": ["wood", "iron"], "label": ["1", "2"]}, "answerKey": "2",
        },
        {"question": "Which is a metal?", "options": ["wood", "iron"], "answer": "iron"},
    ),
    "natural_questions": (
        {"question": "who wrote it", "answer": ["Ada", "A. L."]},
        {"question": "who wrote it?", "answer": "Ada"},
    ),
    "wmt16_de": (
        {"translation": {"de": "Die Eule.", "en": "The owl."}},
        {
            "source_language": "English", "target_language": "German", "text": "The owl.",
            "answer": "Die Eule.",
        },
    ),
    "hellaswag": (
        {
            "ctx": "[header] How to rest [title] Sit down.",
            "endings": ["[step] Sleep.", "Run.", "Swim.", "Fly."], "label": "0",
        },
        {
            "context": "How to rest \nSit down.", "options": ["\nSleep.", "Run.", "Swim.", "Fly."],
            "answer": "\nSleep.",
        },
    ),
    "copa": (
        {
            "premise": "The cup fell.", "question": "cause", "choice1": "It was hot.",
            "choice2": "I let go.", "label": 1,
        },
        {
            "context": "The cup fell. What was the cause of this?",
            "options": ["It was hot.", "I let go."], "answer": "I let go.",
        },
    ),
    "story_cloze": (
        {
            **{f"InputSentence{n}": f"{n}." for n in range(1, 5)},
            "RandomFifthSentenceQuiz1": "Yes.", "RandomFifthSentenceQuiz2": "No.",
            "AnswerRightEnding": "2",
        },
        {"context": "1. 2. 3. 4.", "options": ["Yes.", "No."], "answer": "No."},
    ),
    "sentiment140": (
        {"text": "so {happy}", "sentiment": 4},
        {"text": "so {happy}", "options": ["negative", "positive"], "answer": "positive"},
    ),
    "stsb": (
        {"sentence1": "A dog runs.", "sentence2": "A dog walks.", "label": 2.8},
        {
            "sentence1": "A dog runs.", "sentence2": "A dog walks.", "answer": "3 (partly)",
            "options": [
                "0 (not at all)", "1 (hardly)", "2 (a little)", "3 (partly)", "4 (mostly)",
                "5 (entirely)",
            ],
        },
    ),
    "common_gen": (
        {"concepts": ["dog", "run"], "target": "A dog runs."},
        {"data": "dog, run", "answer": "A dog runs."},
    ),
    "dart": (
        {"tripleset": [["Ada", "born", "1815"], ["Ada", "job", "poet"]], "target": "Ada, a poet."},
        {"data": "Ada | born | 1815; Ada | job | poet", "answer": "Ada, a poet."},
    ),
    "web_nlg": (
        {"input": ["Ada_L | birth_place | London"], "target": "Ada L was born in London."},
        {"data": "Ada L | birth place | London", "answer": "Ada L was born in London."},
    ),
    "opinion_movies": (
        {"_critics": {"17": "Dull.", "4": "Slow."}, "_critic_consensus": "Tedious."},
        {"text": "1. Dull.\n2. Slow.", "answer": "Tedious."},
    ),
    "winogrande": (
        {
            "sentence": "The cup broke because _ was thin.", "option1": "the cup",
            "option2": "the table", "answer": "1",
        },
        {
            "text": "The cup broke because _ was thin.", "pronoun": "_",
            "options": ["the cup", "the table"], "answer": "the cup",
        },
    ),
    "record": (
        {
            "passage": "Ada met Bo.\n@highlight\nThey talked.", "query": "@placeholder was glad.",
            "entities": ["Ada", "Bo"], "answers": ["Bo"],
        },
        {
            "passage": "Ada met Bo.\nThey talked.",
            "question": "What belongs in the gap? ___ was glad.", "options": ["Ada", "Bo"],
            "answer": "Bo",
        },
    ),
    "coqa": (
        {
            "story": "Ada ran home.", "questions": ["Who?", "Where?"],
            "answers": {"input_text": ["Ada", "home"]},
        },
        {"text": "Ada ran home.", "question": "1. Who?\n2. Where?", "answer": "1. Ada\n2. home"},
    ),
    "quac": (
        {
            "wikipedia_page_title": "Ada", "section_title": "Life",
            "context": "She lived. CANNOTANSWER", "questions": ["Why?", "How?"],
            "orig_answers": {"texts": ["CANNOTANSWER", "She lived."], "answer_starts": [11, 0]},
        },
        {"text": "Ada: Life\nShe lived.", "question": "Why?", "answer": "The text does not say."},
    ),
    "math": (
        {"question": "b'Solve 2*x = 4 for x.\\n'", "answer": "b'2\\n'"},
        {"text": "Solve 2*x = 4 for x.", "question": "Which number solves it?", "answer": "2"},
    ),
    "fix_punctuation": (
        {"translation": {"en": "No, it's late!", "ru": "-"}},
        {
            "text": "No its late", "question": "How does this read with its punctuation?",
            "answer": "No, it's late!",
        },
    ),
}


@pytest.mark.parametrize("name", MAPPED)
def test_a_row_of_the_hub_becomes_a_row_of_the_contract(name):
    hub_row, expected = MAPPED[name]
    row = map_row(DATASETS[name], hub_row)
    assert row == expected
    assert check_flan_row(DATASETS[name]["cluster"], row) == row


@pytest.mark.parametrize("name, hub_row", [
    ("snli", {"premise": "It rains.", "hypothesis": "It snows.", "label": -1}),
    ("hellaswag", {"ctx": "How?", "endings": ["a", "b", "c", "d"], "label": ""}),
    ("sentiment140", {"text": "ok", "sentiment": 2}),
    ("squad", {"context": "Ada.", "question": "When?",
    "answers": {"text": [], "answer_start": []}}),
    ("common_gen", {"concepts": ["dog"], "target": ""}),
    ("wiki_lingua", {"article": {"document": [], "summary": []}}),
    ("fix_punctuation", {"translation": {"en": "no marks here"}})])
def test_a_row_without_a_label_is_left_out(name, hub_row):
    assert map_row(DATASETS[name], hub_row) is None


def test_mapping_leaves_the_data_set_as_it_is():
    before = yaml.safe_dump(DATASETS["imdb"])
    row = map_row(DATASETS["imdb"], {"text": "Bad.<br /><br />Long.", "label": 0})
    assert row == {
        "text": "Bad.\n\nLong.", "options": ["negative", "positive"], "answer": "negative",
    }
    row["options"].append("mixed")
    assert yaml.safe_dump(DATASETS["imdb"]) == before
