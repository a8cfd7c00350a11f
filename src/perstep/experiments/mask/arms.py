"""The arms of a cell: a decoder with its decode loop, masked by an engine or not at all.

A step begins with the token it is fed: the engines accept it, the model runs forward, the engines fill the masks
of the next token, these are applied to the logits, a token is chosen, ends are looked for. A row of the batch has
an engine of its own; after an end token it begins the next text. What runs on a device is in `device.py`.
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
"""A row of a token table, packed bits or a tensor: a masker takes what it has given."""
Logits = Any
"""What a decoder gives and its maskers take: an array, or on a device a tensor; [B, V]."""
Fed = Any
"""The tokens fed, [B], where the decoder is."""


class Decoder(Protocol):
    """A model with its cache and the choice of tokens, as a `MaskedLoop` runs it."""

    def reset(self) -> None:
        """Forget the context."""
        ...

    def held(self) -> int:
        """Positions in the cache."""
        ...

    def feed(self, ids_B: Ids, mark: Mark) -> Fed:
        """Bring the tokens of a step to where the decoder is."""
        ...

    def prefill(self, ids_BT: Ids, mark: Mark) -> Logits:
        """The logits after a prompt."""
        ...

    def decode(self, fed_B: Fed, mark: Mark) -> Logits:
        """The logits after one more token each."""
        ...

    def choose(self, logits_BV: Logits, mark: Mark) -> Ids:
        """The most probable tokens, and whether they end a text; on the host."""
        ...


class Masker(Protocol):
    """How an engine's masks are found and applied, for all rows of a batch."""

    def reset(self) -> None:
        """Every row begins a text."""
        ...

    def accept(self, ids_B: Ids, fed_B: Fed) -> None:
        """Take the tokens fed, which are on the host and where the decoder is; after an end token begin a text.

        Raises:
            InvalidMeasurement: an engine does not accept a token.
        """
        ...

    def fill(self) -> Sequence[MaskRow]:
        """The mask of each row."""
        ...

    def apply(self, logits_BV: Logits, masks: Sequence[MaskRow]) -> Logits:
        """The logits with -inf for what may not come; they may be written in place."""
        ...


@runtime_checkable
class _HasTable(Protocol):
    table: TokenAutomaton
    state: int


class EngineMasker:
    """Engines on the host, one a row.

    Args:
        engines: of all rows.
        eos_ids: the tokens that end a text.
    """

    def __init__(self, engines: Sequence[Engine], eos_ids: tuple[int, ...] = ()) -> None:
        self._engines, self._eos_ids = engines, eos_ids

    def reset(self) -> None:
        """See `Masker`."""
        for engine in self._engines:
            engine.reset()

    def accept(self, ids_B: Ids, _fed_B: Fed) -> None:
        """See `Masker`."""
        for engine, token in zip(self._engines, ids_B.tolist(), strict=True):
            if not engine.accept(token):
                raise InvalidMeasurement(f"{engine.name} does not accept token {token} of a valid text")
            if token in self._eos_ids:
                engine.reset()


class TableMasker(EngineMasker):
    """Rows of a token table, which need no unpacking."""

    def __init__(self, engines: Sequence[Engine], eos_ids: tuple[int, ...] = ()) -> None:
        super().__init__(engines, eos_ids)
        self._with_tables = [engine for engine in engines if isinstance(engine, _HasTable)]

    def fill(self) -> list[Row]:
        """See `Masker`."""
        return [engine.table.row(engine.state) for engine in self._with_tables]

    def apply(self, logits_BV: Logits, masks: Sequence[Row]) -> Logits:
        """See `Masker`."""
        return apply(logits_BV, masks)


class BitsMasker(EngineMasker):
    """Packed bits, as every engine hands them out."""

    def fill(self) -> list[NDArray[np.int32]]:
        """See `Masker`."""
        return [engine.fill() for engine in self._engines]

    def apply(self, logits_BV: Logits, masks: Sequence[NDArray[np.int32]]) -> Logits:
        """See `Masker`."""
        size = logits_BV.shape[1]
        for logits_V, bits in zip(logits_BV, masks, strict=True):
            forbidden = np.unpackbits((~bits).view(np.uint8), bitorder="little", count=size).view(np.bool_)
            np.copyto(logits_V, np.float32(-np.inf), where=forbidden)
        return logits_BV


def has_table(engine: Engine) -> bool:
    """Whether an engine hands out rows of a table."""
    return isinstance(engine, _HasTable)


def masker_of(engines: Sequence[Engine], eos_ids: tuple[int, ...]) -> Masker | None:
    """By what the engines hand out; None without any."""
    if not engines:
        return None
    return (TableMasker if has_table(engines[0]) else BitsMasker)(engines, eos_ids)


class ReferenceDecoder:
    """The reference decoder with one cache, a `Decoder`.

    Args:
        model: its head as wide as the vocabulary.
        cache: for all rows of the batch.
        eos_ids: the tokens that end a text.
    """

    def __init__(self, model: Reference, cache: KVCache, eos_ids: tuple[int, ...]) -> None:
        self._model, self._cache, self._eos_ids = model, cache, eos_ids

    def reset(self) -> None:
        """See `Decoder`."""
        self._cache.reset()

    def held(self) -> int:
        """See `Decoder`."""
        return self._cache.current_length()

    def feed(self, ids_B: Ids, mark: Mark) -> Ids:  # noqa: ARG002
        """They are there."""
        return ids_B

    def prefill(self, ids_BT: Ids, mark: Mark) -> Floats:
        """See `Decoder`."""
        mark("forward")
        return prefill(self._model, ids_BT, self._cache, _head_only(mark))

    def decode(self, fed_B: Ids, mark: Mark) -> Floats:
        """See `Decoder`."""
        mark("forward")
        return decode_one_token(self._model, fed_B, self._cache, _head_only(mark))

    def choose(self, logits_BV: Floats, mark: Mark) -> Ids:
        """See `Decoder`."""
        chosen_B = sample(logits_BV, GREEDY, self._cache.current_length(), mark)
        stop(chosen_B, self._eos_ids, mark)
        return chosen_B


class MaskedLoop:
    """A decode loop under the masks of an engine; a `perstep.measure.DecodeLoop`.

    Args:
        decoder: for all rows of the batch.
        masker: of the engines; None for no mask.
    """

    def __init__(self, decoder: Decoder, masker: Masker | None = None) -> None:
        self.decoder, self.masker = decoder, masker

    def reset(self) -> None:
        """Forget the context; every row begins a text."""
        self.decoder.reset()
        if self.masker is not None:
            self.masker.reset()

    def prefill(self, ids_BT: Ids, mark: Mark) -> Ids:
        """A step over the prompt, [B, T], which is outside of the grammar; the tokens chosen after it, [B]."""
        return self._choose(self.decoder.prefill(ids_BT, mark), mark)

    def decode(self, ids_B: Ids, mark: Mark) -> Ids:
        """A step from the tokens [B] to the next ones, [B].

        Raises:
            InvalidMeasurement: an engine does not accept a token.
        """
        return self._choose(self.decoder.decode(self._accept(ids_B, mark), mark), mark)

    def mask_only(self, ids_B: Ids, mark: Mark) -> None:
        """What the engines do in a step, with nothing of the model between it.

        Raises:
            InvalidMeasurement: an engine does not accept a token.
        """
        self._accept(ids_B, mark)
        mark("mask.fill")
        assert self.masker is not None  # noqa: S101 - only arms with engines are asked
        self.masker.fill()
        mark(RESIDUAL)

    def _accept(self, ids_B: Ids, mark: Mark) -> Fed:
        fed_B = self.decoder.feed(ids_B, mark)
        if self.masker is not None:
            mark("mask.accept")
            self.masker.accept(ids_B, fed_B)
        return fed_B

    def _choose(self, logits_BV: Logits, mark: Mark) -> Ids:
        if self.masker is not None:
            mark("mask.fill")
            masks = self.masker.fill()
            mark("mask.apply")
            logits_BV = self.masker.apply(logits_BV, masks)
        return self.decoder.choose(logits_BV, mark)


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
