"""Fills against the vocabulary's size: hot, at the same places of one text for every size.

The text is cut into the tokens of the largest vocabulary; at the beginnings of up to eight of these the fill is
timed, for every size, which is cut so that it meets them too. Before the sizes beyond 32,768 are measured, the cost
at 50,000 is predicted from those below (law "fits are judged on held-out points").
"""

import random
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from perstep._words import plural
from perstep.automata import Dfa, Engine, Vocabulary, prepare
from perstep.errors import InputError
from perstep.experiments.mask.building import BuildTime
from perstep.experiments.mask.cells import Language
from perstep.experiments.mask.roofline import count_lookups
from perstep.experiments.mask.schema import Writer
from perstep.experiments.mask.vocabularies import REAL_SIZE, Cutter, Named, Vocabularies
from perstep.measure import Clock
from perstep.stats import fit_cost

CURVE_ENGINES = ("naive", "table")
PREDICTED_AT = 50_000
SIZES = (512, 1024, 2048, 4096, 8192, 16_384, 32_768, PREDICTED_AT, 65_536, REAL_SIZE)
_PLACES = 8
_PILOT_ROUNDS = 9


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """What a fill at 50,000 tokens was expected to cost before it was measured.

    Attributes:
        engine: whose fill.
        complexity: of the schema.
        size: of the vocabulary.
        from_sizes: the sizes it was predicted from, all below.
        fill_ns: the prediction.
    """

    engine: str
    complexity: int
    size: int
    from_sizes: list[int]
    fill_ns: float


class AboutPoint(msgspec.Struct):
    """What a manifest says of a point: `size` in tokens; `lookups` of a naive fill, on average, None of others."""

    engine: str
    complexity: int
    size: int
    lookups: float | None


@dataclass(frozen=True)
class Point:
    """One engine at one size.

    Attributes:
        engine: the engine.
        name: of the engine.
        complexity: of the schema.
        size: of the vocabulary.
        tokens: of the text.
        places: positions before which a fill is timed.
        lookups: of the naive walk at these, on average; None for other engines.
    """

    engine: Engine
    name: str
    complexity: int
    size: int
    tokens: list[int]
    places: frozenset[int]
    lookups: float | None

    @property
    def curve(self) -> str:
        """The name of the curve that it belongs to: `naive/x1`."""
        return f"{self.name}/x{self.complexity}"

    @property
    def key(self) -> str:
        """Its name in samples: `naive/x1/4096`."""
        return f"{self.curve}/{self.size}"

    def fill_ns(self, clock: Clock) -> NDArray[np.int64]:
        """What the fill takes at each place, two readings of the clock included; the text is gone over before.

        The naive walk is not: it would take as long again, and goes round the whole vocabulary in any case.
        """
        engine, now = self.engine, clock.now
        for _ in range(1 if self.name == "naive" else 2):
            times = []
            engine.reset()
            for position, token in enumerate(self.tokens):
                if position in self.places:
                    begun_ns = now()
                    engine.fill()
                    times.append(now() - begun_ns)
                engine.accept(token)
        return np.array(times, np.int64)


def make_points(
    engines: tuple[str, ...],
    spoken: Language,
    seed: int,
    vocabularies: Vocabularies,
    clock: Clock,
    time: BuildTime,
) -> tuple[list[Point], dict[str, str]]:
    """A point for each engine that has a curve and each size; none where the grammar has no automaton.

    Returns:
        The points, and why an engine has none: one of its sizes was not built in time.
    """
    names = [name for name in engines if name in CURVE_ENGINES]
    if not names or spoken.dfa is None:
        return [], {}
    text = Writer(spoken.dfa, random.Random(f"{seed}/curve")).text()  # noqa: S311 - no secret
    whole = vocabularies.of_size(REAL_SIZE)
    pieces = [whole.spell([token]) for token in Cutter(whole).cut(text)]
    chosen = {round(place) for place in np.linspace(0, len(pieces) - 1, min(_PLACES, len(pieces)))}
    points: list[Point] = []
    refused: dict[str, str] = {}
    for size in reversed(SIZES):  # the largest first: if it cannot be built, the others need not be
        vocab = Named(str(size), vocabularies.of_size(size), own=False)
        cutter = Cutter(vocab.vocabulary)
        cuts = [cutter.cut(piece) for piece in pieces]
        starts = np.cumsum([0, *(len(cut) for cut in cuts)])
        places = frozenset(int(starts[piece]) for piece in chosen)
        tokens = [token for cut in cuts for token in cut]
        for name in (name for name in names if name not in refused):
            try:
                with time.one_build():
                    engine = prepare(name, vocab.vocabulary, clock.now).build(spoken.grammar, time.check)
            except InputError as error:
                refused[name] = f"over {plural(size, 'token')} {error}"
                continue
            lookups = _lookups(spoken.dfa, vocab.vocabulary, tokens, places) if name == "naive" else None
            points.append(Point(engine, name, spoken.complexity, size, tokens, places, lookups))
    usable = [point for point in points if point.name not in refused]
    return sorted(usable, key=lambda point: (point.size, names.index(point.name))), refused


def _lookups(dfa: Dfa, vocabulary: Vocabulary, tokens: list[int], places: frozenset[int]) -> float:
    state, counts = dfa.start, []
    for position, token in enumerate(tokens):
        if position in places:
            counts.append(count_lookups(dfa, vocabulary, state))
        state = dfa.run(vocabulary.tokens[token], state)
    return float(np.mean(counts))


def predict(points: list[Point], clock: Clock) -> list[Prediction]:
    """The cost at 50,000 from a pilot over the sizes below, which is thrown away afterwards.

    By the linear fit, as theory has it: every token is walked once.
    """
    result = []
    for name, complexity in dict.fromkeys((point.name, point.complexity) for point in points):
        below = [p for p in points if (p.name, p.complexity) == (name, complexity) and p.size < PREDICTED_AT]
        costs = [
            np.median([point.fill_ns(clock) for _ in range(_PILOT_ROUNDS)], axis=0).mean()  # places have medians
            for point in below
        ]
        sizes = [point.size for point in below]
        at = float(fit_cost(sizes, costs).linear.predict(PREDICTED_AT))
        result.append(Prediction(engine=name, complexity=complexity, size=PREDICTED_AT, from_sizes=sizes, fill_ns=at))
    return result


def curves_of(points: list[Point]) -> set[tuple[str, int]]:
    """Engine and complexity of every curve that has points."""
    return {(point.name, point.complexity) for point in points}


def describe_points(points: list[Point]) -> dict[str, AboutPoint]:
    """What a manifest says of the points, by key."""
    return {point.key: AboutPoint(point.name, point.complexity, point.size, point.lookups) for point in points}
