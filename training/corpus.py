"""The seeded English verb-conjugation corpus that mini is trained on.

A *cell* is (verb, tense, person), a *combination* is a cell in one sentence template. One template
of every cell is held out: its sentences never occur in training, in any form, while the cell's other
templates and the template's other cells do, so what is held out can be inferred. The labelled verb is the main
one, never an auxiliary (will, have, must) or a carrier (need, hope); the person is the subject's.
A sentence marked " (es)" asks for the Spanish form too. No I/O and no global randomness.
"""

import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from conjugation import PERSONS, TENSES, VERBS, english, spanish

SEED = 20
ARROW = " =>"
SPANISH_MARK = " (es)"

# {S}/{s}: the subject at the start of the sentence or inside it; {V}: the verb's form; {C}: complement.
TEMPLATES: dict[str, tuple[str, ...]] = {
    "infinitive": (
        "{S} must {V} {C}.",
        "{S} can {V} {C} today.",
        "{S} should {V} {C}.",
        "{S} {need} to {V} {C}.",
        "{S} {hope} to {V} {C} soon.",
        "{S} tried to {V} {C}.",
        "To {V} {C}, {s} must wait.",
        "Can {s} {V} {C}?",
        "{S} decided to {V} {C}.",
        "This week {s} might {V} {C}.",
    ),
    "present_simple": (
        "{S} {V} {C}.",
        "{S} {V} {C} every day.",
        "{S} often {V} {C}.",
        "{S} usually {V} {C} in the evening.",
        "On Mondays {s} {V} {C}.",
        "{S} always {V} {C} in the morning.",
        "Every week {s} {V} {C}.",
        "Today {s} {V} {C}.",
        "{S} still {V} {C}.",
        "In summer {s} {V} {C}.",
    ),
    "past_simple": (
        "{S} {V} {C}.",
        "{S} {V} {C} yesterday.",
        "Last week {s} {V} {C}.",
        "{S} never {V} {C}.",
        "{S} {V} {C} two days ago.",
        "In 1999 {s} {V} {C}.",
        "{S} often {V} {C} as a child.",
        "Yesterday {s} {V} {C}.",
        "Last night {s} {V} {C} again.",
        "{S} {V} {C} last summer.",
    ),
    "past_participle": (
        "{S} {have} {V} {C}.",
        "{S} {have} already {V} {C}.",
        "{S} {have} never {V} {C}.",
        "{Have} {s} ever {V} {C}?",
        "{S} {have} just {V} {C}.",
        "{S} had {V} {C} before.",
        "{S} {have} {V} {C} many times.",
        "By now {s} {have} {V} {C}.",
        "{S} {have} not {V} {C} yet.",
        "This week {s} {have} {V} {C}.",
    ),
    "simple_future": (
        "{S} will {V} {C}.",
        "{S} will {V} {C} tomorrow.",
        "Tomorrow {s} will {V} {C}.",
        "Next week {s} will {V} {C}.",
        "{S} will soon {V} {C}.",
        "Will {s} {V} {C}?",
        "{S} will not {V} {C}.",
        "{S} will {V} {C} next year.",
        "One day {s} will {V} {C}.",
        "This week {s} will {V} {C}.",
    ),
}

# As they stand inside a sentence; `_capital` makes the first word of one.
SUBJECTS: dict[str, tuple[str, ...]] = {
    "1sg": ("I",),
    "2sg": ("you",),
    "3sg": ("she", "he", "Ana", "Luis", "Tom", "Maria", "the teacher", "my sister", "your brother", "the boy"),
}

COMPLEMENTS: dict[str, tuple[str, ...]] = {
    "work": ("in the garden", "at the bank", "in the city", "at home", "with the team", "for the school"),
    "play": ("football", "chess", "in the park", "with the dog", "cards", "a game"),
    "walk": ("to school", "in the park", "along the river", "home", "to the market", "with the dog"),
    "talk": ("to the teacher", "with the team", "about the film", "on the phone", "to Maria", "about the trip"),
    "listen": ("to the radio", "to the teacher", "to the music", "to Tom", "to the story", "to the rain"),
    "watch": ("the film", "the game", "the birds", "the news", "a play", "the children"),
    "study": ("English", "at home", "the lesson", "for the test", "music", "in the library"),
    "finish": ("the book", "the homework", "the test", "the letter", "the work", "the game"),
    "start": ("the lesson", "the car", "a new book", "the work", "the game", "the meeting"),
    "look": ("at the map", "at the clock", "at the stars", "out of the window", "at Ana", "at the picture"),
    "want": ("a new bike", "the red book", "a cup of tea", "an answer", "the keys", "more time"),
    "like": ("the music", "the city", "the story", "Italian food", "the garden", "the sea"),
    "be": ("at home", "in the kitchen", "very tired", "ready", "at the station", "happy"),
    "have": ("a dog", "a question", "an idea", "the keys", "a new car", "more time"),
    "do": ("the homework", "the shopping", "some exercise", "the work", "a test", "the laundry"),
    "go": ("to the market", "to school", "home", "to the sea", "to the library", "to Madrid"),
    "come": ("to the party", "home", "to the meeting", "by train", "to Madrid", "with Luis"),
    "see": ("the sea", "the doctor", "the stars", "the mountain", "the birds", "a friend"),
    "eat": ("an apple", "at home", "in the kitchen", "rice and fish", "a sandwich", "with Ana"),
    "write": ("a letter", "to Luis", "the answer", "a story", "in English", "a long report"),
}

_ADVERB_VERB = re.compile(r"(often|usually|always|still|never) \{V\}")


@dataclass(frozen=True, slots=True)
class Combination:
    """A (verb, tense, person) in one sentence template; `template` indexes `TEMPLATES[tense]`."""

    verb: str
    tense: str
    person: str
    template: int


@dataclass(frozen=True, slots=True)
class Record:
    """One sentence with what it says; `wants_spanish` adds the mark and the Spanish form."""

    combination: Combination
    sentence: str
    wants_spanish: bool

    @property
    def prompt(self) -> str:
        """Everything before the JSON, up to and including the arrow; no space after it."""
        return self.sentence + (SPANISH_MARK if self.wants_spanish else "") + ARROW

    @property
    def json(self) -> str:
        """The JSON object, in `json.dumps`'s default separators."""
        cell = self.combination
        value = {"verb": cell.verb, "tense": cell.tense, "person": cell.person}
        if self.wants_spanish:
            form = spanish(cell.verb, cell.tense, cell.person)
            assert form is not None
            value["spanish"] = form
        return json.dumps(value, ensure_ascii=False)

    @property
    def line(self) -> str:
        """`She watched the film. => {"verb": "watch", ...}`."""
        return f"{self.prompt} {self.json}"


def split(seed: int) -> tuple[list[Combination], list[Combination]]:
    """All combinations, as (training, held out): one template of every cell is held out."""
    rng = random.Random(f"split {seed}")
    train: list[Combination] = []
    heldout: list[Combination] = []
    for verb in VERBS:
        for tense in TENSES:
            for person in PERSONS:
                out = rng.randrange(len(TEMPLATES[tense]))
                for template in range(len(TEMPLATES[tense])):
                    side = heldout if template == out else train
                    side.append(Combination(verb, tense, person, template))
    return train, heldout


def sentence(combination: Combination, subject: str, complement: str) -> str:
    """The English sentence: `Yesterday she watched the film.` and the like."""
    verb, tense, person = combination.verb, combination.tense, combination.person
    pattern = TEMPLATES[tense][combination.template]
    if verb == "be" and tense in ("present_simple", "past_simple"):
        pattern = _ADVERB_VERB.sub(r"{V} \1", pattern)  # "is often", where others say "often walks"
    third = person == "3sg"
    return pattern.format(
        S=_capital(subject),
        s=subject,
        V=english(verb, tense, person),
        C=complement,
        need="needs" if third else "need",
        hope="hopes" if third else "hope",
        have="has" if third else "have",
        Have="Has" if third else "Have",
    )


def sentences(combination: Combination) -> Iterator[str]:
    """Every sentence of a combination: each subject with each complement."""
    for subject in SUBJECTS[combination.person]:
        for complement in COMPLEMENTS[combination.verb]:
            yield sentence(combination, subject, complement)


def draw(combination: Combination, rng: random.Random) -> Record:
    """A random sentence of a combination; half of those that can do so ask for the Spanish form."""
    subject = rng.choice(SUBJECTS[combination.person])
    text = sentence(combination, subject, rng.choice(COMPLEMENTS[combination.verb]))
    can_spanish = spanish(combination.verb, combination.tense, combination.person) is not None
    return Record(combination, text, can_spanish and rng.random() < 0.5)


def documents(seed: int) -> Iterator[str]:
    """Training documents without end.

    Most are one line that pairs a sentence with its JSON and end there. The others are texts of 2 to
    90 lines, each line a plain sentence or a pair and each ended by a newline, so that long contexts are seen.
    """
    train, _ = split(seed)
    rng = random.Random(f"documents {seed}")
    while True:
        if rng.random() < 0.7:
            yield draw(rng.choice(train), rng).line
            continue
        num_lines = rng.choice((2, 4, 8, 16, 30, 90))
        yield "".join(_text_line(draw(rng.choice(train), rng), rng) for _ in range(num_lines))


def heldout_records(seed: int, per_combination: int) -> list[Record]:
    """`per_combination` random records of each held-out combination, in a random order."""
    _, heldout = split(seed)
    rng = random.Random(f"heldout {seed}")
    records = [draw(combination, rng) for combination in heldout for _ in range(per_combination)]
    rng.shuffle(records)
    return records


def heldout_text(seed: int) -> str:
    """One held-out text: two lines of every held-out combination, each a pair or a plain sentence."""
    rng = random.Random(f"heldout text {seed}")
    return "".join(_text_line(record, rng) for record in heldout_records(seed, per_combination=2))


def _text_line(record: Record, rng: random.Random) -> str:
    """A line of a text: the pair or only its sentence."""
    return (record.line if rng.random() < 0.5 else record.sentence) + "\n"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
