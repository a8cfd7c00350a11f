"""Texts on which a class of the user's own is asked beside what could take its place.

Recorded steps show what happened once. A replacement must do the same wherever the call can get, so the two are asked
along other texts as well, token by token: real ones and random ones, short and long ones, and what the drop-in is made
of, whole, broken off, altered by a letter and spelled in other tokens.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from numpy.random import Generator

    from perstep.automata import Vocabulary

REAL = (
    'The quick brown fox didn\'t jump. It said: "No, thanks!" - and left (at 10:45, for $3.50)...\n\n'
    '{"name": "get_weather", "arguments": {"city": "Zürich", "days": [1, 2, 3], "ok": true, "x": null}}\n'
    "def forward(self, hidden_states):\n    # a comment\n\treturn self.norm(hidden_states) if x >= 0 else -1e-5\n"
    "## Step 1\n- one\n* two\n1. three\n\n```python\nprint('hello')\n```\n<b>bold</b> &amp; <|im_end|> [INST] </s>\n"
    "User: wer fährt so spät?\nAssistant: Das weiß ich nicht; 東京は夜です。 Привет, мир! مرحبا 🙂👍🏽 e\u0301"
    " \u3000 end"
)
"""What models write: prose, JSON, code, lists, markup, other scripts."""

WORDS = (
    b"hello ", b"a", b" ", b"\n", b"one two ", b" x ", b"x\n\n", b"\x01", b"\x7f", b"\x00", b"a\x01b ", b"3.5 ",
    b"don't\t", b"\xc3\xa9t\xc3\xa9 ", b"\xe6\x9d\xb1\xe3\x80\x80", b"\xf0\x9f\x99\x82 ", b"\xc2\xa0",
    b"a\xc2\x85", b"a\x1c", b"a\xe2\x80\xa8", b"\xaf", b"a\xafb ", b"\xaf ", b"a\xe3 ", b"a\xe3\x80 ",
    b"a\xc3\xe3\x80\x80", b"a\xff\xfe\n", b"a\xed\xa0\x80 ", b"\xc3\x01",
)  # fmt: skip
"""Words and what ends them, white space of many kinds, control characters, bytes that are not valid UTF-8."""

PROMPT = 24
"""Tokens of the usual prompt."""


class Speller:
    """Texts in the tokens of a vocabulary, in several ways.

    Args:
        vocabulary: the tokens.
        random: draws.
    """

    def __init__(self, vocabulary: "Vocabulary", random: "Generator") -> None:
        self._token = {data: token for token, data in enumerate(vocabulary.tokens) if data}
        self._longest = max(map(len, self._token), default=1)
        self._random = random

    def ways(self, text: bytes) -> list[list[int]]:
        """With the longest tokens, with the shortest ones, and twice at random; none where it cannot be spelled."""
        fits = self._fits(text)
        if fits is None:
            return []
        draws = self._random.integers
        spelled = [self._spelled(text, fits, pick) for pick in (max, min, *(lambda ends: ends[draws(len(ends))],) * 2)]
        return [list(one) for one in dict.fromkeys(map(tuple, spelled))]

    def spell(self, text: bytes) -> list[int]:
        """With the longest tokens; what cannot be spelled is left out."""
        fits = self._fits(text)
        if fits is not None:
            return self._spelled(text, fits, max)
        whole = [one.encode() for one in text.decode(errors="ignore")]
        return [token for one in whole if self._fits(one) is not None for token in self.spell(one)]

    def _fits(self, text: bytes) -> list[list[int]] | None:
        """Where a token that begins at each byte may end so that the rest can be spelled; None if the whole cannot."""
        ends: list[list[int]] = [[] for _ in text] + [[len(text)]]
        for at in range(len(text) - 1, -1, -1):
            last = min(len(text), at + self._longest)
            ends[at] = [end for end in range(at + 1, last + 1) if ends[end] and text[at:end] in self._token]
        return ends if not text or ends[0] else None

    def _spelled(self, text: bytes, fits: list[list[int]], pick: Callable[[list[int]], int]) -> list[int]:
        tokens, at = [], 0
        while at < len(text):
            end = int(pick(fits[at]))
            tokens.append(self._token[text[at:end]])
            at = end
        return tokens


@dataclass(frozen=True)
class Probe:
    """Rows of ids along which verdicts are asked for after each token behind the prompt.

    Attributes:
        ids: int64 [rows, length].
        prompt: number of first tokens that are the prompt.
        what: what is in each row, in words.
    """

    ids: "torch.Tensor"
    prompt: int
    what: tuple[str, ...]

    def steps(self) -> Iterator["torch.Tensor"]:
        """The ids after each new token."""
        for end in range(self.prompt + 1, self.ids.shape[1] + 1):
            yield self.ids[:, :end]


@dataclass(frozen=True)
class Row:
    """A prompt, what is generated behind it, and what that is in words."""

    prompt: Sequence[int]
    new: Sequence[int]
    what: str


MOST_ROWS = 64


class Texts:
    """Makes rows of equal length of what probes are about.

    Args:
        size: token ids, all below it.
        prompts: whether the call has a prompt of ids; without one (`inputs_embeds`) no probe has one.
        random: draws.

    Attributes:
        avoid: ids that are not drawn unless asked for, so that a row holds what it is about and nothing by chance.
    """

    def __init__(self, size: int, *, prompts: bool, random: "Generator") -> None:
        self.size, self.prompts, self.random = size, prompts, random
        self.avoid: frozenset[int] = frozenset()

    def any(self, count: int, *, every: bool = False) -> list[int]:
        """Random ids."""
        drawn: list[int] = self.random.integers(0, self.size, count).tolist()
        while not every and len(self.avoid) < self.size and not self.avoid.isdisjoint(drawn):
            fresh = self.random.integers(0, self.size, count).tolist()
            drawn = [new if one in self.avoid else one for one, new in zip(drawn, fresh, strict=True)]
        return drawn

    def padded(self, tokens: Sequence[int], length: int) -> list[int]:
        """Tokens with random ones before them; the last of them where there are more."""
        return [*self.any(max(length - len(tokens), 0)), *tokens[max(len(tokens) - length, 0) :]] if length else []

    def probes(self, rows: Iterable[Row], device: "torch.device | None" = None) -> Iterator[Probe]:
        """The rows, those with prompts of one length together, with random tokens behind the shorter ones."""
        import torch

        by_length: dict[int, list[Row]] = {}
        for row in rows:
            if row.new and (self.prompts == bool(len(row.prompt))):
                by_length.setdefault(len(row.prompt), []).append(row)
        for prompt, group in by_length.items():
            for begin in range(0, len(group), MOST_ROWS):
                part = group[begin : begin + MOST_ROWS]
                new = max(len(row.new) for row in part)
                ids = [[*row.prompt, *row.new, *self.any(new - len(row.new))] for row in part]
                yield Probe(torch.tensor(ids, device=device), prompt, tuple(row.what for row in part))
