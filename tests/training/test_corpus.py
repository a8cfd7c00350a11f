"""The corpus: its split, its lines, its seeds."""

import itertools
import json
import random
from collections import Counter

import jsonschema
import pytest

import corpus
from conjugation import PERSONS, TENSES, VERBS
from corpus import Combination, Record, sentence
from perstep.data import conjugation_schema_path

SCHEMA = json.loads(conjugation_schema_path().read_text(encoding="utf-8"))
TRAIN, HELDOUT = corpus.split(corpus.SEED)


def plain(line: str) -> str:
    """The sentence of a line, without mark, arrow and JSON."""
    return line.split(corpus.ARROW)[0].removesuffix(corpus.SPANISH_MARK)


@pytest.mark.parametrize(
    ("combination", "subject", "complement", "expected"),
    [
        (Combination("watch", "past_simple", "3sg", 1), "she", "the film", "She watched the film yesterday."),
        (Combination("be", "present_simple", "1sg", 2), "I", "at home", "I am often at home."),
        (Combination("be", "past_simple", "2sg", 3), "you", "ready", "You were never ready."),
        (Combination("be", "past_participle", "3sg", 2), "Ana", "happy", "Ana has never been happy."),
        (Combination("go", "infinitive", "3sg", 3), "my sister", "home", "My sister needs to go home."),
        (Combination("go", "infinitive", "1sg", 6), "I", "home", "To go home, I must wait."),
        (Combination("eat", "past_participle", "3sg", 3), "the boy", "rice", "Has the boy ever eaten rice?"),
        (Combination("see", "simple_future", "2sg", 5), "you", "the sea", "Will you see the sea?"),
    ],
)
def test_sentences_agree_with_their_subject(combination, subject, complement, expected):
    """Carriers and auxiliaries agree, the first word is capital, adverbs follow a finite *be*."""
    assert expected == sentence(combination, subject, complement)


def test_a_line_pairs_the_sentence_with_its_json():
    """The prompt ends in the arrow; the JSON has `json.dumps`'s default separators and real accents."""
    cell = Combination("go", "simple_future", "3sg", 0)
    record = Record(cell, "She will go home.", wants_spanish=True)
    assert record.prompt == "She will go home. (es) =>"
    assert record.json == '{"verb": "go", "tense": "simple_future", "person": "3sg", "spanish": "irá"}'
    assert record.line == f"{record.prompt} {record.json}"
    without = Record(cell, "She will go home.", wants_spanish=False)
    assert without.prompt == "She will go home. =>"
    assert without.json == '{"verb": "go", "tense": "simple_future", "person": "3sg"}'


def test_one_template_of_every_cell_is_held_out():
    """Every verb, tense and person is trained on, in every template but one."""
    cells = {(v, t, p) for v in VERBS for t in TENSES for p in PERSONS}
    assert Counter((c.verb, c.tense, c.person) for c in HELDOUT) == dict.fromkeys(cells, 1)
    trained = Counter((c.verb, c.tense, c.person) for c in TRAIN)
    assert all(trained[cell] == len(corpus.TEMPLATES[cell[1]]) - 1 for cell in cells)
    assert not set(TRAIN) & set(HELDOUT)


def test_every_template_is_mostly_trained_on():
    """A held-out sentence can be inferred: its template was seen with at least half of the cells."""
    trained = Counter((c.tense, c.template) for c in TRAIN)
    assert min(trained.values()) >= len(VERBS) * len(PERSONS) / 2
    assert len(trained) == sum(map(len, corpus.TEMPLATES.values()))


def test_every_sentence_says_one_thing():
    """No sentence of any combination is a sentence of another one, so that labels are unambiguous."""
    seen: dict[str, Combination] = {}
    for combination in (*TRAIN, *HELDOUT):
        for text in corpus.sentences(combination):
            assert seen.setdefault(text, combination) == combination
    assert len(seen) == 72_000


def test_training_documents_hold_no_heldout_sentence():
    """Neither as a plain sentence nor in a pair, in 3,000 documents."""
    heldout = {text for combination in HELDOUT for text in corpus.sentences(combination)}
    trained = {text for combination in TRAIN for text in corpus.sentences(combination)}
    for document in itertools.islice(corpus.documents(corpus.SEED), 3_000):
        lines = {plain(line) for line in document.splitlines()}
        assert not lines & heldout
        assert lines <= trained


def test_heldout_text_and_records_hold_only_heldout_sentences():
    """Every line of both is of a held-out combination, and every combination occurs."""
    heldout = {text: c for c in HELDOUT for text in corpus.sentences(c)}
    lines = corpus.heldout_text(corpus.SEED).splitlines()
    assert {heldout[plain(line)] for line in lines} == set(HELDOUT)
    records = corpus.heldout_records(corpus.SEED, per_combination=4)
    assert len(records) == 4 * len(HELDOUT)
    assert {heldout[record.sentence] for record in records} == set(HELDOUT)


def test_every_json_is_valid_and_carries_spanish_exactly_where_marked():
    """All JSON in documents and held-out records satisfies the shipped schema."""
    validator = jsonschema.Draft202012Validator(SCHEMA)
    documents = itertools.islice(corpus.documents(1), 2_000)
    lines = [line for document in documents for line in document.splitlines() if corpus.ARROW in line]
    lines += [record.line for record in corpus.heldout_records(1, per_combination=4)]
    marked = 0
    for line in lines:
        prompt, text = line.split(corpus.ARROW + " ")
        value = json.loads(text)
        validator.validate(value)
        assert prompt.endswith(corpus.SPANISH_MARK) == ("spanish" in value)
        marked += "spanish" in value
    assert 0.2 < marked / len(lines) < 0.6


def test_the_shipped_schema_is_the_corpus():
    """Its enums are the corpus's words; one more verb, a missing person or a long form is refused."""
    properties = SCHEMA["properties"]
    assert tuple(properties["verb"]["enum"]) == VERBS
    assert tuple(properties["tense"]["enum"]) == TENSES
    assert tuple(properties["person"]["enum"]) == PERSONS
    good = {"verb": "go", "tense": "infinitive", "person": "1sg"}
    jsonschema.validate(good, SCHEMA)
    for bad in (
        good | {"verb": "swim"},
        {"verb": "go", "tense": "infinitive"},
        good | {"spanish": "x" * 31},
        good | {"note": "x"},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, SCHEMA)


def test_the_seed_decides_everything():
    """One seed gives one corpus whatever the global generator says; another seed gives another."""

    def sample(seed):
        random.seed()
        documents = tuple(itertools.islice(corpus.documents(seed), 50))
        return documents, corpus.split(seed), corpus.heldout_text(seed), corpus.heldout_records(seed, 1)

    first, again, other = sample(3), sample(3), sample(4)
    assert first == again
    assert all(a != b for a, b in zip(first, other, strict=True))
