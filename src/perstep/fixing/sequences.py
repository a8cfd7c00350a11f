"""Whether a drop-in for sequences does what transformers' class does, sequence by sequence.

Shaped logits (`chain.py`) show the order among other processors behind a few texts. Here the text varies: every
sequence is begun, broken off and altered, every n-gram repeated, and the nearest wrong neighbours (one sequence less,
another n) must be seen to differ.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from perstep._words import plural
from perstep.fixing.capture import Part
from perstep.fixing.chain import OutOfOrder

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

_MOST = 512  # sequences that are begun
_LEFT_OUT = 16  # sequences without each of which a drop-in is seen to differ
_ROWS = 64
_MORE = 4  # tokens before a sequence
_LETTERS = 5  # tokens of a text in which n-grams repeat
_LENGTHS = (1, 2, 3, 5, 8, 40, 160)


def along_sequences(part: Part, drop_in: Part, columns: int, device: "torch.device") -> str:
    """What shows that a drop-in does the same behind texts of all kinds; empty where it is about no sequences.

    Raises:
        OutOfOrder: it does not, or a wrong neighbour does so too.
    """
    tried = _Tried(columns, device)
    if hasattr(drop_in, "ngram_size"):
        return tried.ngrams(part, drop_in)
    if any(len(ids) > 1 for ids in getattr(drop_in, "sequence_bias", ())):
        return tried.sequences(part, drop_in)
    return ""


class _Tried:
    def __init__(self, columns: int, device: "torch.device") -> None:
        import torch

        self._columns, self._device, self._random = columns, device, np.random.default_rng(0)
        logits = self._random.normal(0, 3, (_ROWS, columns))
        self._logits = torch.tensor(logits, dtype=torch.float32, device=device)
        self._ids = self._scores = self._logits[:0]

    def ngrams(self, part: Part, drop_in: Part) -> str:
        """Texts of few letters, in which short sequences repeat, and long ones are made to."""
        n, rows = drop_in.ngram_size, 0
        others = {size: type(drop_in)(size) for size in (n - 1, n + 1) if size > 0}
        distinct = set()
        for length in sorted({*_LENGTHS, max(n - 1, 1), n, n + 1, 2 * n + 1}):
            ids = self._random.integers(0, min(_LETTERS, self._columns), (_ROWS, length))
            if length > 2 * n:
                ids[:, -n:] = ids[:, :n]  # the whole n-gram again, and behind it what followed
            expected = self._differs(part, drop_in, ids, f"behind {plural(length, 'token')}")
            rows += len(ids)
            distinct |= {size for size, other in others.items() if not self._same(expected, other)}
        if len(distinct) < len(others):
            raise OutOfOrder(f"no text told n-grams of {n} from those of {min(set(others) - distinct)}")
        sizes = " or ".join(f"{size:,}" for size in sorted(distinct))
        return f"the same behind {plural(rows, 'text')}, and not with n = {sizes}"

    def sequences(self, part: Part, drop_in: Part) -> str:
        """Every sequence begun, broken off by a token, and with another token in it."""
        every = [ids for ids in {**part.sequence_bias, **drop_in.sequence_bias} if len(ids) > 1]
        chosen = [every[at] for at in self._random.permutation(len(every))[:_MOST]]
        texts = np.array(list(self._begun(chosen)))
        for begin in range(0, len(texts), _ROWS):
            self._differs(part, drop_in, texts[begin : begin + _ROWS], "behind the beginning of a sequence")
        needed = [ids for ids in chosen if not _implied(ids, drop_in.sequence_bias)][:_LEFT_OUT]
        for ids in needed:
            self._needs(part, drop_in, ids)
        return (
            f"the same behind {plural(len(texts), 'text')} about {len(chosen):,} of {plural(len(every), 'sequence')}, "
            f"and not without any of {len(needed)} of them"
        )

    def _begun(self, chosen: list[tuple[int, ...]]) -> "Iterator[NDArray[np.int64]]":
        length = max(map(len, chosen)) + _MORE
        for ids in chosen:
            begun = np.array(ids[:-1])
            altered = begun.copy()
            altered[self._random.integers(len(begun))] = self._random.integers(self._columns)
            for end in (begun, begun[1:], begun[:-1], altered):
                text = self._random.integers(0, self._columns, length)
                text[length - len(end) :] = end
                yield text

    def _needs(self, part: Part, drop_in: Part, ids: tuple[int, ...]) -> None:
        rest = {words: bias for words, bias in drop_in.sequence_bias.items() if words != ids}
        if not rest:
            return
        from perstep.fast import SequenceBias

        text = np.array([[*self._random.integers(0, self._columns, _MORE), *ids[:-1]]])
        if self._same(self._differs(part, drop_in, text, "behind a sequence"), SequenceBias(rest)):
            raise OutOfOrder(f"no text told whether the sequence {list(ids)} is among them")

    def _differs(self, part: Part, drop_in: Part, ids: "NDArray[np.int64]", what: str) -> "torch.Tensor":
        """What the part makes of random logits behind ids [rows, length], which are kept.

        Raises:
            OutOfOrder: the drop-in makes something else of them.
        """
        import torch

        self._ids = torch.tensor(ids, device=self._device)
        self._scores = self._logits[: len(ids)]
        expected: torch.Tensor = part(self._ids, self._scores.clone())
        if not torch.equal(expected, drop_in(self._ids, self._scores.clone())):
            raise OutOfOrder(f"the scores differ {what}")
        return expected

    def _same(self, expected: "torch.Tensor", other: Part) -> bool:
        """Whether another drop-in makes the same of the last logits."""
        return bool(expected.equal(other(self._ids, self._scores.clone())))


def _implied(ids: tuple[int, ...], biases: Mapping[tuple[int, ...], float]) -> bool:
    """Whether a shorter sequence forbids already what would complete this one."""
    return any(biases.get(ids[at:]) == -np.inf for at in range(1, len(ids)))
