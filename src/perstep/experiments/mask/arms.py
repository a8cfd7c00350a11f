"""The arms of a cell: the reference decoder with its decode loop, masked by an engine or not at all.

A step begins with the token it is fed: the engines accept it, the model runs forward, the engines fill the masks
of the next token, these are applied to the logits, a token is chosen, ends are looked for. A row of the batch has
an engine of its own; after an end token it begins the next text.
"""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from perstep.automata import Engine, Row, TokenAutomaton, apply
from perstep.errors import InvalidMeasurement
from perstep.measure import RESIDUAL, Mark, no_mark
from perstep.targets.reference import GREEDY, KVCache, Reference, decode_one_token, prefill, sample, stop

NO_MASK = "no mask"
OURS = ("naive", "naive-memo", "table", "table-lazy")
"""The engines that are finite automata."""
EXACT = (*OURS, "auto")
"""The engines whose masks are those of the definition, token for token."""

BOUNDARIES = {
    "mask.accept": "each row's engine takes the token it is fed; after an end token it begins the next text",
    "forward": "embedding, layers and final norm of the reference decoder, and its checks",
    "lm_head": "product with the head, as wide as the vocabulary, into a fresh array of logits",
    "mask.fill": "each row's engine finds which tokens may come next: packed bits, or a row of the table",
    "mask.apply": "logits of tokens that may not come become -inf: table rows by perstep.automata.apply, "
    "packed bits by unpacking them and np.copyto",
    "sample": "argmax over the whole vocabulary, the masked part of it included",
    "stop": "comparison with the end tokens, and the loop up to the next step",
}

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]


MaskRow = Any
"""A row of a token table, or packed bits: a masker takes what it has given."""


class Masker(Protocol):
    """How an engine's masks are found and applied, for all rows of a batch."""

    def fill(self) -> Sequence[MaskRow]:
        """The mask of each row."""
        ...

    def apply(self, logits_BV: Floats, masks: Sequence[MaskRow]) -> None:
        """Set what may not come to -inf, in place."""
        ...


@runtime_checkable
class _HasTable(Protocol):
    table: TokenAutomaton
    state: int


class TableMasker:
    """Rows of a token table, which need no unpacking."""

    def __init__(self, engines: Sequence[_HasTable]) -> None:
        self._engines = engines

    def fill(self) -> list[Row]:
        """See `Masker`."""
        return [engine.table.row(engine.state) for engine in self._engines]

    def apply(self, logits_BV: Floats, masks: Sequence[Row]) -> None:
        """See `Masker`."""
        apply(logits_BV, masks)


class BitsMasker:
    """Packed bits, as every engine hands them out."""

    def __init__(self, engines: Sequence[Engine]) -> None:
        self._engines = engines

    def fill(self) -> list[NDArray[np.int32]]:
        """See `Masker`."""
        return [engine.fill() for engine in self._engines]

    def apply(self, logits_BV: Floats, masks: Sequence[NDArray[np.int32]]) -> None:
        """See `Masker`."""
        size = logits_BV.shape[1]
        for logits_V, bits in zip(logits_BV, masks, strict=True):
            forbidden = np.unpackbits((~bits).view(np.uint8), bitorder="little", count=size).view(np.bool_)
            np.copyto(logits_V, np.float32(-np.inf), where=forbidden)


def masker_of(engines: Sequence[Engine]) -> Masker:
    """By what the engines hand out."""
    with_tables = [engine for engine in engines if isinstance(engine, _HasTable)]
    return TableMasker(with_tables) if with_tables else BitsMasker(engines)


class MaskedLoop:
    """A decode loop of the reference decoder under the masks of an engine; a `perstep.measure.DecodeLoop`.

    Args:
        model: the decoder, its head as wide as the vocabulary.
        cache: for all rows of the batch.
        engines: one a row; none for no mask.
        eos_ids: the tokens that end a text.
    """

    def __init__(self, model: Reference, cache: KVCache, engines: Sequence[Engine], eos_ids: tuple[int, ...]) -> None:
        self.model, self.cache, self.engines = model, cache, engines
        self._eos_ids = eos_ids
        self._masker = masker_of(engines) if engines else None

    def reset(self) -> None:
        """Forget the context; every row begins a text."""
        self.cache.reset()
        for engine in self.engines:
            engine.reset()

    def prefill(self, ids_BT: Ids, mark: Mark) -> Ids:
        """A step over the prompt, [B, T], which is outside of the grammar; the tokens chosen after it, [B]."""
        mark("forward")
        return self._choose(prefill(self.model, ids_BT, self.cache, _head_only(mark)), mark)

    def decode(self, ids_B: Ids, mark: Mark) -> Ids:
        """A step from the tokens [B] to the next ones, [B].

        Raises:
            InvalidMeasurement: an engine does not accept a token.
        """
        self._accept(ids_B, mark)
        mark("forward")
        return self._choose(decode_one_token(self.model, ids_B, self.cache, _head_only(mark)), mark)

    def mask_only(self, ids_B: Ids, mark: Mark) -> None:
        """What the engines do in a step, with nothing of the model between it.

        Raises:
            InvalidMeasurement: an engine does not accept a token.
        """
        self._accept(ids_B, mark)
        mark("mask.fill")
        assert self._masker is not None  # noqa: S101 - only arms with engines are asked
        self._masker.fill()
        mark(RESIDUAL)

    def _accept(self, ids_B: Ids, mark: Mark) -> None:
        if not self.engines:
            return
        mark("mask.accept")
        for engine, token in zip(self.engines, ids_B.tolist(), strict=True):
            if not engine.accept(token):
                raise InvalidMeasurement(f"{engine.name} does not accept token {token} of a valid text")
            if token in self._eos_ids:
                engine.reset()

    def _choose(self, logits_BV: Floats, mark: Mark) -> Ids:
        if self._masker is not None:
            mark("mask.fill")
            masks = self._masker.fill()
            mark("mask.apply")
            self._masker.apply(logits_BV, masks)
        chosen_B = sample(logits_BV, GREEDY, self.cache.current_length(), mark)
        stop(chosen_B, self._eos_ids, mark)
        return chosen_B


def _head_only(mark: Mark) -> Mark:
    """Of the model's own parts the head alone; the rest stays in the part that was begun before.

    It costs what a mark that does nothing costs, in both kinds of steps alike.
    """
    if mark is no_mark:
        return no_mark

    def head(part: str) -> None:
        if part == "lm_head":
            mark(part)

    return head
