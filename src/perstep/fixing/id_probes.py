"""The ids on which a criterion is asked that may compare the last ones: stop sequences, and what is nearly one.

Each kind of row tells this from one rule that is easily taken for it: the text in other tokens, the sequence anywhere,
its last id alone, its ids in another order, new ids alone, up to a length.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from perstep._words import plural
from perstep.fixing.probes import PROMPT, Probe, Row, Speller, Texts

if TYPE_CHECKING:
    import torch

    from perstep.automata import Vocabulary

_EVERY = 4096  # ids that stand once each behind a prompt; of more a random choice
_LONG = (1, 2, 7, 256, 2048)  # tokens of prompts
_STEPS = 160  # tokens along which random texts are followed
_LENGTHS = 12
_AFTER = 3  # further tokens

Ids = tuple[int, ...]


class IdProbes:
    """Makes the probes of one criterion.

    Args:
        size: token ids.
        prompt: tokens of the call's prompt; 0 where it has none, and then no probe has one.
        device: of the ids.
        vocabulary: for the same text in other tokens; None where it is not known.
    """

    def __init__(self, size: int, *, prompt: int, device: "torch.device", vocabulary: "Vocabulary | None") -> None:
        random = np.random.default_rng(0)
        self._size, self._prompt, self._device, self._vocabulary = size, prompt, device, vocabulary
        self._texts = Texts(size, prompts=prompt > 0, random=random)
        self._speller = None if vocabulary is None else Speller(vocabulary, random)

    def of_each(self, sequences: Iterable[Ids]) -> Iterator[tuple[Probe, list[tuple[Ids, int]]]]:
        """Each sequence behind a few other ids; beside the probe each row's sequence and the step that completes it."""
        rows, ends = [], []
        for ids in sequences:
            for before in (1, 2, 5):
                rows.append(Row(self._usual(), [*self._texts.any(before), *ids], _shown(ids)))
                ends.append((ids, before + len(ids) - 1))
        done = 0
        for probe in self._texts.probes(rows, self._device):
            yield probe, ends[done : done + len(probe.what)]
            done += len(probe.what)

    def of(self, stops: Sequence[Ids], numbers: Sequence[int]) -> Iterator[Probe]:
        """All probes of a criterion.

        Args:
            stops: sequences that it may look for.
            numbers: what it holds besides.
        """
        self._texts.avoid = frozenset(token for ids in stops for token in ids)
        rows = [row for ids in stops for row in self._around(ids)]
        rows += self._generic()
        rows += self._lengths(numbers)
        if self._prompt == 0:
            rows = [Row([], [*row.prompt[-PROMPT:], *row.new], row.what) for row in rows]
        yield from self._texts.probes(rows, self._device)

    def _usual(self, tokens: Sequence[int] = (), length: int = PROMPT) -> list[int]:
        return self._texts.padded(tokens, length) if self._prompt else []

    def _around(self, ids: Ids) -> Iterator[Row]:
        """What a criterion that compares the last ids with these must tell from everything else."""
        name, usual, some = _shown(ids), self._usual, self._texts.any
        few = some(_AFTER)
        yield Row(usual(), [*few, *ids, *few], f"at {name}")
        for cut in range(1, len(ids)):
            yield Row(usual(ids[:cut]), [*ids[cut:], *few], f"at {name} where the prompt ends inside it")
            yield Row(usual(), [*ids[cut:], *few], f"at {name} without what comes first")
            yield Row(usual(), [*ids[:cut], *few], f"at {name} broken off")
            yield Row(usual(), [*ids[:cut], *some(1), *ids[cut:], *few], f"at {name} with another id inside")
        for at in range(len(ids)):
            other = [*ids[:at], *some(1), *ids[at + 1 :]]
            yield Row(usual(), [*other, *few], f"at {name} with another id in it")
        if ids[::-1] != ids:
            yield Row(usual(), [*ids[::-1], *few], f"at {name} in reverse order")
        for length in _LONG:
            yield Row(usual(length=length), [*ids, *few], f"at {name} after {plural(length, 'token')}")
        yield Row(usual(ids), few, f"where the prompt ends with {name}")
        yield Row(usual([*ids, *few]), [*few, *ids, *few], f"where the prompt holds {name} and it comes again")
        for way in self._other_ways(ids):
            yield Row(usual(), [*few, *way, *few], f"at the text of {name} in other tokens")

    def _other_ways(self, ids: Ids) -> list[list[int]]:
        if self._speller is None or self._vocabulary is None or max(ids) >= self._vocabulary.size:
            return []
        text = self._vocabulary.spell(list(ids))
        return [way for way in self._speller.ways(text) if tuple(way) != ids] if text else []

    def _generic(self) -> Iterator[Row]:
        prompt = self._usual()
        chosen = np.arange(self._size)
        if self._size > _EVERY:
            chosen = self._texts.random.permutation(self._size)[:_EVERY]
        for token in chosen.tolist():
            yield Row(prompt, [token], f"after the id {token}")
        for _ in range(4):
            yield Row(self._usual(), self._texts.any(_STEPS, every=True), "in a random text")
        for length in (*_LONG, 3):
            yield Row(self._usual(length=length), self._texts.any(_AFTER), f"after {plural(length, 'random token')}")

    def _lengths(self, numbers: Sequence[int]) -> Iterator[Row]:
        """Texts whose length, or number of new tokens, passes a number that the criterion holds."""
        for number in numbers[:_LENGTHS]:
            for length in {number, number + self._prompt}:
                if length > 2:
                    what = f"at a length of {length - 1} to {plural(length + 2, 'token')}"
                    yield Row(self._usual(length=length - 2), self._texts.any(4), what)
            if number <= _STEPS:
                what = f"within {plural(number + 2, 'new token')}"
                yield Row(self._usual(length=self._prompt), self._texts.any(number + 2), what)


def _shown(ids: Ids) -> str:
    return f"the ids {list(ids)}" if len(ids) > 1 else f"the id {ids[0]}"
