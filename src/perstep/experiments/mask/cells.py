"""Cells: a vocabulary, a batch and a complexity, with the texts that every arm replays there.

The texts are valid objects, one after another, each closed by the end token; every arm is fed the same tokens, and what
it would have chosen is compared with the choice under the definition of the mask (law "arms do the same work"). For no
mask that is what the first pass chose.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from perstep._json import Json
from perstep.automata import Dfa, Engine, Grammar, TokenAutomaton, json_schema
from perstep.automata import compile as compile_table
from perstep.automata.engines.tables import TableEngine
from perstep.errors import InputError, InvalidMeasurement
from perstep.experiments.mask.arms import NO_MASK, MaskedLoop, masker_of
from perstep.experiments.mask.roofline import count_lookups
from perstep.experiments.mask.schema import EngineWriter, Writer
from perstep.experiments.mask.vocabularies import Cutter, Named
from perstep.measure import Recorder, Trace, no_mark, replay
from perstep.targets.reference import Reference

Ids = NDArray[np.int64]


class NoTextError(InputError):
    """No text of the schema could be made over a vocabulary."""


@dataclass(frozen=True)
class Language:
    """A schema at one complexity, and the automaton that texts are written from.

    Attributes:
        complexity: how many times as complex as what was given.
        grammar: what the engines are asked for.
        dfa: the automaton of the texts; None where no finite one holds the schema.
        no_automaton: why not, and what helps; empty where there is one.
    """

    complexity: int
    grammar: Grammar
    dfa: Dfa | None
    no_automaton: str = ""


def language(schema: Mapping[str, Json], complexity: int, grammar: Grammar) -> Language:
    """A schema with its automaton, where a finite one holds it."""
    grammar = replace(grammar, schema=schema)
    try:
        dfa = json_schema(schema, whitespace=grammar.whitespace, max_depth=grammar.max_depth)
    except InputError as error:
        helps = "; on the command line --max-depth 3, or --engine llguidance" if "max_depth" in str(error) else ""
        return Language(complexity, grammar, None, f"{error}{helps}")
    return Language(complexity, grammar, dfa)


@dataclass
class Cell:
    """One cell, its loops by arm, and what they replay.

    Attributes:
        vocab: the vocabulary.
        batch: rows.
        language: the schema.
        model: the decoder, its head as wide as the vocabulary.
        trace: what every arm is fed; the choices expected of a masked arm where they are known.
        loops: arm -> its decode loop.
        free: the choices expected without a mask.
        table: the definition of the mask; None where the grammar has no automaton.
    """

    vocab: Named
    batch: int
    language: Language
    model: Reference
    trace: Trace
    table: TokenAutomaton | None
    loops: dict[str, MaskedLoop] = field(default_factory=dict)
    free: Ids | None = None

    @property
    def key(self) -> str:
        """Its name in samples: `4096/b1/x1`."""
        return cell_key(self.vocab.name, self.batch, self.language.complexity)

    def pass_over(self, arm: str, recorder: Recorder, *, marked: bool) -> int:
        """Replay the trace once; how many choices differ from what is expected."""
        trace = replace(self.trace, expected_BN=self.free) if arm == NO_MASK else self.trace
        return replay(self.loops[arm], trace, recorder, recorder.mark if marked else no_mark)

    def hot_pass(self, arm: str, recorder: Recorder) -> None:
        """The engines' own work over the trace, with nothing of the model between it."""
        loop = self.loops[arm]
        loop.reset()
        for position in range(self.trace.chosen_BN.shape[1] - 1):
            recorder.begin("hot")
            loop.mask_only(self.trace.chosen_BN[:, position], recorder.mark)
            recorder.end()

    def states(self, dfa: Dfa) -> Iterator[int]:
        """The automaton's states before each decode step's fill, of the first row."""
        tokens = self.vocab.vocabulary.tokens
        state = dfa.start
        for token in self.trace.chosen_BN[0, :-1].tolist():
            state = dfa.start if token in self.vocab.vocabulary.eos_ids else dfa.run(tokens[token], state)
            yield state

    def allowed(self) -> list[int]:
        """How many tokens may come next at each decode step, of the first row; empty where that is not known."""
        if self.table is None or self.language.dfa is None:
            return []
        return [self.table.row(state).count for state in self.states(self.language.dfa)]

    def lookups(self) -> list[int]:
        """How many look-ups the naive walk takes at each decode step, of the first row; empty as above."""
        dfa = self.language.dfa
        if dfa is None:
            return []
        states = list(self.states(dfa))
        counted = {state: count_lookups(dfa, self.vocab.vocabulary, state) for state in set(states)}
        return [counted[state] for state in states]


def cell_key(vocab: str, batch: int, complexity: int) -> str:
    """The name of a cell in samples and results."""
    return f"{vocab}/b{batch}/x{complexity}"


def make_cell(
    vocab: Named,
    batch: int,
    spoken: Language,
    model: Reference,
    prompt_BT: Ids,
    new_tokens: int,
    seed: int,
    guides: Sequence[Engine],
) -> Cell:
    """A cell without arms.

    Args:
        vocab: the vocabulary.
        batch: rows.
        spoken: the schema.
        model: the decoder.
        prompt_BT: what comes before the texts.
        new_tokens: of each row.
        seed: of the texts.
        guides: where there is no automaton the first of them that can writes the texts.

    Raises:
        NoTextError: the vocabulary cannot spell a text, or no guide comes to the end of one.
    """
    rows = _rows(vocab, batch, spoken, new_tokens, seed, guides)
    table = compile_table(spoken.dfa, vocab.vocabulary, lazy=True) if spoken.dfa else None
    return Cell(vocab, batch, spoken, model, Trace(prompt_BT, np.array(rows, np.int64)), table)


def _rows(
    vocab: Named, batch: int, spoken: Language, new_tokens: int, seed: int, guides: Sequence[Engine]
) -> list[list[int]]:
    cutter, why = Cutter(vocab.vocabulary), ""
    for guide in guides[:1] if spoken.dfa else guides:
        rows = []
        try:
            for row in range(batch):
                rng = random.Random(f"{seed}/{row}")  # noqa: S311 - no secret
                writer = Writer(spoken.dfa, rng) if spoken.dfa else EngineWriter(guide, vocab.vocabulary, rng)
                rows.append(_row(writer, vocab, cutter, new_tokens))
        except InputError as error:
            why = str(error)
        else:
            return rows
    raise NoTextError(f"there is no text to replay: {why}")


def _row(writer: Writer | EngineWriter, vocab: Named, cutter: Cutter, new_tokens: int) -> list[int]:
    """Tokens of one row: texts, each with its end token, until there are enough. The last one may be cut off."""
    tokens: list[int] = []
    while len(tokens) < new_tokens:
        tokens += [*cutter.cut(writer.text()), vocab.vocabulary.eos_ids[0]]
    return tokens[:new_tokens]


def first_refused(engine: Engine, cell: Cell) -> str:
    """Why an engine cannot replay a cell's texts; empty if it can."""
    eos_ids = cell.vocab.vocabulary.eos_ids
    for row in cell.trace.chosen_BN.tolist():
        engine.reset()
        text: list[int] = []
        for token in row:
            if not engine.accept(token):
                written = cell.vocab.vocabulary.spell(text).decode("utf-8", "replace")
                data = cell.vocab.vocabulary.tokens[token].decode("utf-8", "replace")
                return f"it does not accept {data!r} after {written!r}, which the schema allows"
            text.append(token)
            if token in eos_ids:
                engine.reset()
                text = []
    engine.reset()
    return ""


def masked_loop(cell: Cell) -> MaskedLoop | None:
    """A loop under the definition of the mask, apart from every arm; None where there is no automaton."""
    if cell.table is None:
        return None
    engines = [TableEngine(cell.table, "definition") for _ in range(cell.batch)]
    return MaskedLoop(cell.loops[NO_MASK].decoder, masker_of(engines, cell.vocab.vocabulary.eos_ids))


def record_choices(loop: MaskedLoop, trace: Trace) -> Ids:
    """What a loop chooses at each step while it is fed the trace.

    Raises:
        InvalidMeasurement: two passes choose differently.
    """
    chosen = []
    for _ in range(2):
        loop.reset()
        picked = [loop.prefill(trace.prompt_BT, no_mark)]
        picked += [loop.decode(ids_B, no_mark) for ids_B in trace.chosen_BN[:, :-1].T]
        chosen.append(np.stack(picked, axis=1))
    if not np.array_equal(chosen[0], chosen[1]):
        raise InvalidMeasurement("two passes over the same tokens choose differently, so choices cannot be compared")
    return chosen[0]
