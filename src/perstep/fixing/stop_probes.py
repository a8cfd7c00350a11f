"""The texts on which a stopping criterion is asked: what it may look for, and what is nearly that.

Each kind of row tells looking for stop strings from one rule that is easily taken for it: comparing the last ids,
reading the end of the text, its last tokens or what is new alone, without special ids, stripped, in other case, as a
regular expression, from the second time on, up to a length.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from perstep.errors import InputError
from perstep.fixing.probes import PROMPT, REAL, WORDS, Probe, Row, Speller, Texts
from perstep.report.format import plural

if TYPE_CHECKING:
    import torch

    from perstep.automata import Vocabulary

_EVERY = 4096
"""Up to this number of tokens stand once each behind a prompt; of a larger vocabulary a random choice."""
_ENDING = 24  # tokens of each stop string that end it and may hold more
_SPECIAL = 64
_LONG = (256, 2048)  # tokens of long prompts
_STEPS = 160  # tokens along which real and random texts are followed
_LENGTHS = 12
_BEHIND = 32  # texts that are tried together with each stop string
_AFTER = 3  # further tokens
_BEFORE = ("\n", " ", "x", ".", '"', "1", "\n\n", "é", "東", "<", "# ")


def as_bytes(text: str | bytes) -> bytes:
    """A text in UTF-8."""
    return text.encode() if isinstance(text, str) else text


def shown(text: str | bytes) -> str:
    """A text as it is written in a program, bytes that are text as text."""
    try:
        return repr(as_bytes(text).decode())
    except UnicodeDecodeError:
        return repr(text)


class StopProbes:
    """Makes the probes of one criterion.

    Args:
        vocabulary: the bytes of the tokens.
        prompt: tokens of the call's prompt; 0 where it has none (`inputs_embeds`), and then no probe has one.
        device: of the ids.
    """

    def __init__(self, vocabulary: "Vocabulary", *, prompt: int, device: "torch.device") -> None:
        random = np.random.default_rng(0)
        self._vocabulary, self._prompt, self._device = vocabulary, prompt, device
        self._texts = Texts(vocabulary.size, prompts=prompt > 0, random=random)
        self._spell, self._any = Speller(vocabulary, random), self._texts.any

    def of_each(self, texts: Iterable[str | bytes]) -> Iterator[tuple[Probe, list[tuple[str | bytes, int]]]]:
        """Each text behind a few other tokens; beside the probe each row's text and the step that completes it."""
        rows, ends = [], []
        for text in texts:
            for way in self._ways(as_bytes(text))[:2]:
                for prompt, before in (
                    (self._usual(), self._any(2)),
                    (self._real(), self._any(1)),
                    (self._usual(), self._any(5)),
                    (self._same(), self._same()[:2] or self._any(3)),
                ):
                    rows.append(Row(prompt, [*before, *way], shown(text)))
                    ends.append((text, len(before) + len(way) - 1))
        done = 0
        for probe in self._texts.probes(rows, self._device):
            yield probe, ends[done : done + len(probe.what)]
            done += len(probe.what)

    def of(
        self,
        stops: Sequence[str | bytes],
        texts: Sequence[str | bytes],
        numbers: Sequence[int],
        *,
        words: bool,
    ) -> Iterator[Probe]:
        """All probes of a criterion.

        Args:
            stops: stop strings that it may look for.
            texts: what it holds besides.
            numbers: likewise.
            words: whether it may look for the end of a word.
        """
        self._texts.avoid = self._endings(stops) | self._vocabulary.special_ids
        rows = [row for stop in stops for row in self._around(as_bytes(stop), shown(stop))]
        rows += self._behind(stops, [text for text in texts if text not in stops][:_BEHIND])
        rows += self._generic()
        rows += self._lengths(numbers)
        if words:
            rows += self._words()
        if self._prompt == 0:
            rows = [Row([], [*row.prompt[-PROMPT:], *row.new], row.what) for row in rows]
        yield from self._texts.probes(rows, self._device)

    def _usual(self, tokens: Sequence[int] = (), length: int = PROMPT) -> list[int]:
        """A prompt of random tokens that ends in these."""
        return self._texts.padded(tokens, length) if self._prompt else []

    def _around(self, stop: bytes, name: str) -> Iterator[Row]:
        """What a criterion that looks for `stop` must tell from everything else."""
        for way in self._ways(stop):
            yield from self._around_way(way, name)
        usual = self._usual
        for text, what in _nearly(stop, name):
            for way in self._spell.ways(text)[:2]:
                yield Row(usual(), [*way, *self._few()], f"at {what}")
        for before in _BEFORE:
            for way in self._spell.ways(before.encode() + stop)[:2]:
                yield Row(usual(), [*way, *self._few()], f"at {name} after {before!r}")
        for new in self._ending(stop):
            yield Row(usual(), [*new, *self._few()], f"at a token that ends {name} and may hold more")

    def _few(self) -> list[int]:
        """Some random tokens behind."""
        return self._any(_AFTER)

    def _around_way(self, way: list[int], name: str) -> Iterator[Row]:
        """A stop string spelled in one way: alone, cut by the end of the prompt, after prompts of several lengths."""
        spell, usual, few = self._spell, self._usual, self._few
        yield Row(usual(), [*few(), *way, *few()], f"at {name} in {plural(len(way), 'token')}")
        yield Row(usual(spell.spell(REAL.encode())[:PROMPT]), way, f"at {name} after a real text")
        for cut in range(1, len(way)):
            yield Row(usual(way[:cut]), [*way[cut:], *few()], f"at {name} where the prompt ends inside it")
            for token in sorted(self._vocabulary.special_ids)[:2]:
                inside = [*way[:cut], token, *way[cut:], *few()]
                yield Row(usual(), inside, f"where {name} has an id without text inside")
        for length in (1, 2, 7, *_LONG):
            yield Row(usual(length=length), [*way, *few()], f"at {name} after {plural(length, 'token')}")
        yield Row(usual([*way, *few()]), few(), f"where the prompt holds {name}")
        yield Row(usual([*way, *few()]), [*few(), *way, *few()], f"where the prompt holds {name} and it comes again")
        yield Row(usual(way), few(), f"where the prompt ends with {name}")
        yield Row(usual([*way, *self._any(200)], 256), few(), f"where the prompt holds {name} far before")

    def _real(self) -> list[int]:
        """A prompt of real text."""
        return self._usual(self._spell.spell(REAL.encode())[:PROMPT])

    def _same(self) -> list[int]:
        """A prompt of one token over and over, which hardly anything looks for."""
        return self._usual((self._spell.spell(b"x") or [0])[:1] * PROMPT)

    def _behind(self, stops: Sequence[str | bytes], texts: Sequence[str | bytes]) -> Iterator[Row]:
        """Each stop string behind each of the texts, which may keep a criterion from stopping, and the reverse."""
        for stop in stops:
            for text in texts:
                for one, other in ((text, stop), (stop, text)):
                    new = [self._spell.spell(as_bytes(part)) for part in (one, other)]
                    what = f"at {shown(other)} after {shown(one)}"
                    yield Row(self._same(), [*new[0], *self._any(1), *new[1], *self._any(_AFTER)], what)
                    yield Row(self._usual([*new[0], *self._any(1)]), [*new[1], *self._any(_AFTER)], what)

    def _ways(self, stop: bytes) -> list[list[int]]:
        """The ways to spell a text; where its bytes are no tokens, tokens that end with it."""
        return (
            self._spell.ways(stop)
            or [way for way in self._ending(stop) if self._vocabulary.spell(way).endswith(stop)][:4]
        )

    def _endings(self, stops: Sequence[str | bytes]) -> frozenset[int]:
        """The tokens that can end one of these; none where no tokens spell one."""
        from perstep.fast import StopStrings

        try:
            return StopStrings(stops, self._vocabulary).ending if stops else frozenset()
        except InputError:
            return frozenset()

    def _ending(self, stop: bytes) -> Iterator[list[int]]:
        """Tokens that end a stop string, behind what it begins with."""
        for token in self._texts.random.permutation(sorted(self._endings([stop])))[:_ENDING].tolist():
            data = self._vocabulary.tokens[token]
            if stop in data:
                yield [token]
            for cut in range(1, len(stop)):
                if data.startswith(stop[cut:]):
                    yield [*self._spell.spell(stop[:cut]), token]

    def _generic(self) -> Iterator[Row]:
        """Every token once, special ids, real and random texts step by step, long prompts."""
        size = self._vocabulary.size
        usual, prompt = self._usual, self._usual()
        every = np.arange(size) if size <= _EVERY else self._texts.random.permutation(size)[:_EVERY]
        for token in every.tolist():
            yield Row(prompt, [token], f"after the token {token}")
        for token in sorted(self._vocabulary.special_ids)[:_SPECIAL]:
            yield Row(usual(), [token, *self._any(_AFTER)], f"after the id {token}, which has no text")
        for way in self._spell.ways(REAL.encode()) or [self._spell.spell(REAL.encode())]:
            for begin in range(0, len(way), _STEPS):
                yield Row(usual(way[:begin]), way[begin : begin + _STEPS], "in a real text")
        for _ in range(4):
            yield Row(usual(), self._any(_STEPS, every=True), "in a random text")
        real = self._spell.spell(REAL.encode())
        for length in (1, 2, 3, *_LONG):
            yield Row(usual(length=length), self._any(_AFTER), f"after {plural(length, 'random token')}")
            yield Row(usual((real * (length // max(len(real), 1) + 1))[:length], length), self._any(_AFTER),
                      f"after {plural(length, 'token')} of real text")  # fmt: skip

    def _lengths(self, numbers: Sequence[int]) -> Iterator[Row]:
        """Texts whose length, or number of new tokens, passes a number that the criterion holds."""
        for number in numbers[:_LENGTHS]:
            for length in {number, number + self._prompt}:
                what = f"at a length of {length - 1} to {plural(length + 2, 'token')}"
                if length > 2:
                    yield Row(self._usual(length=length - 2), self._any(4), what)
            if number <= _STEPS:
                yield Row(
                    self._usual(length=self._prompt), self._any(number + 2), f"within {plural(number + 2, 'new token')}"
                )

    def _words(self) -> Iterator[Row]:
        for word in WORDS:
            what = f"at {shown(word)}" if _is_text(word) else f"at the bytes {word!r}"
            for way in self._spell.ways(word)[:3]:
                for before in (b"", b"a", b"a b", b"ab ", b"\n"):
                    prompt = self._usual(self._spell.spell(before))
                    yield Row(prompt, way, what)
                yield Row(self._usual(self._spell.spell(b"word"), 1), way, what)


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _nearly(stop: bytes, name: str) -> Iterator[tuple[bytes, str]]:
    """Texts that are not a stop string, but nearly: broken off, altered by a character, in other case, stripped."""
    whole = stop.decode() if _is_text(stop) else ""
    if len(stop) > 1:
        yield stop[:-1], f"{name} without its last byte"
        yield stop[1:], f"{name} without its first byte"
    if stop.strip() != stop and stop.strip():
        yield stop.strip(), f"{name} stripped"
    yield stop[:-1] + b" " + stop[-1:], f"{name} with a blank before its last byte"
    for at, one in enumerate(whole):
        for other in ("x", "7", " ", "\n"):
            if other != one:
                yield (whole[:at] + other + whole[at + 1 :]).encode(), f"{name} with {other!r} in place of {one!r}"
    for other in {whole.lower(), whole.upper(), whole.swapcase(), whole.casefold()} - {whole}:
        yield other.encode(), f"{other!r}, which is {name} in other case"
