"""Which drop-in forbids what a processor of the user's own forbids, wherever a call can get.

A candidate must agree with every recorded row. Then the two are asked side by side along other texts, each token drawn
among what both allow, over logits of several shapes: a rule that counts tokens, ends somewhere, reads more of the text
than the drop-in, or depends on the logits is seen to differ.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from perstep._words import plural
from perstep.errors import InputError
from perstep.fixing.capture import Captured, Part, copied
from perstep.fixing.criteria import Unlike
from perstep.fixing.grammars import TABLE, engine_of, grammars
from perstep.fixing.held import held_by
from perstep.fixing.known import written
from perstep.fixing.observe import Steps
from perstep.fixing.probes import REAL, Speller, Texts

if TYPE_CHECKING:
    import torch
    from numpy.random import Generator
    from numpy.typing import NDArray

    from perstep.automata import TokenTable, Vocabulary

_MOST_IDS = 64  # a line with more ids is no line to write into a script, unless it has a name there
_STEPS = 12
_MANY_STEPS = 300
_LONG = (1, 2, 64, 512, 2048)  # tokens of prompts
_LENGTHS = 12
_PATIENCE_S = 20.0  # of processor time for one candidate, behind what it must be asked about
_ROWS = 6

_BEGUN = (b"\xc3", b"\xe0", b"\xe1", b"\xed", b"\xf0", b"\xf1", b"\xf4", b"\xe0\xa0", b"\xed\x9f", b"\xf0\x90",
          b"\xf4\x8f", b"\xf0\x9f\x99")  # fmt: skip
"""Characters that are broken off, by which all states of UTF-8 are reached."""


@dataclass(frozen=True)
class _Candidate:
    """A drop-in that may forbid the same.

    Attributes:
        drop_in: it.
        source: how it is written.
        before: lines to stand before the call.
        names: what these lines make.
        ends: ids behind which a row is over, so that nothing is compared there.
        near: the nearest other drop-ins, in words, which must be seen to differ.
    """

    drop_in: Part
    source: str
    before: tuple[str, ...] = ()
    names: Mapping[str, Part] = field(default_factory=dict)
    ends: frozenset[int] = frozenset()
    near: "tuple[tuple[str, _Candidate], ...]" = ()


class Same(NamedTuple):
    """A drop-in that was not seen to differ: it, how it is written, what shows it, what stands before the call."""

    drop_in: Part
    source: str
    evidence: str
    before: tuple[str, ...] = ()
    names: Mapping[str, Part] = {}


def for_processor(call: Captured, part: Part, steps: Steps, vocabulary: "tuple[Vocabulary, str] | None") -> Same:
    """The drop-in for a processor, how it is written, and what shows that it is the same.

    Args:
        call: where it was used.
        part: the processor.
        steps: what it did in the call.
        vocabulary: the bytes of the tokens and how the script names them; None where they are not known.

    Raises:
        Unlike: nothing is known to be the same.
    """
    if not steps.rows:
        raise Unlike("it was not called")
    if not steps.kept_values:
        raise Unlike("it changes logits that it does not forbid")
    if all(map(np.array_equal, steps.before, steps.after)):
        raise Unlike(f"it forbade nothing in {plural(steps.rows, 'recorded row')}")
    reasons: list[str] = []
    for candidate in _candidates(call, part, steps, vocabulary, reasons):
        trial = _Trial(part, steps, vocabulary and vocabulary[0])
        reason = trial.differs(candidate)
        if not reason:
            evidence = (
                f"forbade the same tokens in all {plural(steps.rows, 'recorded row')} and {plural(trial.rows, 'probe')}"
            )
            ruled_out = [what for what, near in candidate.near if trial.differs(near)]
            evidence += f", and not with {' or '.join(ruled_out)}" if ruled_out else ""
            return Same(candidate.drop_in, candidate.source, evidence, candidate.before, candidate.names)
        reasons.append(reason)
    raise Unlike("; ".join(reasons))


def _candidates(
    call: Captured, part: Part, steps: Steps, vocabulary: "tuple[Vocabulary, str] | None", reasons: list[str]
) -> Iterator[_Candidate]:
    """Drop-ins that forbade what was forbidden in every recorded row; why others did not is added to the reasons."""
    yield from _utf8(steps, vocabulary, reasons)
    if vocabulary is not None and engine_of(part):
        yield from _grammars(call, part, steps, vocabulary, reasons)
    else:
        yield from _constant(call, part, steps, reasons)


def _grammars(
    call: Captured, part: Part, steps: Steps, vocabulary: "tuple[Vocabulary, str]", reasons: list[str]
) -> Iterator[_Candidate]:
    """A token mask of a schema or a regex that the script names."""
    from perstep.fast import TokenMask

    ends = frozenset(vocabulary[0].eos_ids)
    built = list(grammars(part, call.names, vocabulary, reasons))
    masks = [
        _Candidate(
            TokenMask(one.table),
            f"perstep.fast.TokenMask({TABLE})",
            (f"{TABLE} = {one.source}",),
            {TABLE: one.table},
            ends,
        )
        for one in built
    ]
    for at, (candidate, one) in enumerate(zip(masks, built, strict=True)):
        row = _first_other_row(steps, _allowed_after(one.table, steps), ends)
        if row is None:
            near = [
                (other.source, masks[place]) for place, other in enumerate(built) if other.of == one.of and place != at
            ]
            yield replace(candidate, near=tuple(near))
        else:
            reasons.append(f"{one.source} disagreed at recorded row {row:,}")


def _allowed_after(table: "TokenTable", steps: Steps) -> Callable[["torch.Tensor", int], "NDArray[np.uint8]"]:
    """What a table allows behind what was generated, as packed bits of all logits."""
    prompt = int(steps.ids[0].shape[1])

    def allowed(ids: "torch.Tensor", row: int) -> "NDArray[np.uint8]":
        state = table.start
        for token in ids[row, prompt:].tolist():
            state = table.next(state, token) if token < table.vocabulary.size and state != table.ended else 0
        bits = np.zeros(_bits(steps.columns), dtype=bool)
        bits[: table.vocabulary.size] = table.row(state).mask() if state else False
        return np.packbits(bits)

    return allowed


def _utf8(steps: Steps, vocabulary: "tuple[Vocabulary, str] | None", reasons: list[str]) -> Iterator[_Candidate]:
    from perstep.fast import Utf8

    if vocabulary is None:
        reasons.append("no vocabulary, so Utf8 was not tried")
        return
    try:
        mask = Utf8(vocabulary[0])
    except InputError:
        reasons.append("Utf8: the vocabulary spells no text")
        return
    row = _first_other_row(steps, _allowed_by(mask, steps.columns))
    if row is None:
        yield _Candidate(mask, f"perstep.fast.Utf8({vocabulary[1]})")
    else:
        reasons.append(f"Utf8 disagreed at recorded row {row:,}")


def _constant(call: Captured, part: Part, steps: Steps, reasons: list[str]) -> Iterator[_Candidate]:
    """The same ids at every step, forbidden or allowed, whichever can be written."""
    from perstep.fast import AllowTokens, SuppressTokens

    forbidden = [before & ~after for before, after in zip(steps.before, steps.after, strict=True)]
    never = np.bitwise_or.reduce(np.concatenate(forbidden), axis=0)
    row = _first_other_row(steps, lambda _ids, _row: ~never)
    if row is not None:
        reasons.append(f"SuppressTokens disagreed at recorded row {row:,}: what is forbidden changes")
        return
    ids = np.flatnonzero(np.unpackbits(never)).tolist()
    source = written(ids, call.names)
    if _is_short(ids, source):
        yield _Candidate(SuppressTokens(ids), f"perstep.fast.SuppressTokens({source})")
        return
    allowed = _allowed_always(part, steps)
    source = written(allowed, call.names) if allowed else ""
    if allowed and _is_short(allowed, source):
        yield _Candidate(AllowTokens(allowed), f"perstep.fast.AllowTokens({source})")
        return
    reasons.append(
        f"it forbids {plural(len(ids), 'token')} and allows {plural(len(allowed), 'token')}, neither of which have a "
        "name in the script, too many to write down"
    )


def _is_short(ids: list[int], source: str) -> bool:
    """Whether a list of ids can be written into a line."""
    return len(ids) <= _MOST_IDS or source.replace(".", "").isidentifier() or source.startswith("range(")


def _allowed_always(part: Part, steps: Steps) -> list[int]:
    """What a processor leaves of logits that forbid nothing; none where it fails."""
    import torch

    (asked,) = copied([part])
    ids = steps.ids[0]
    try:
        scores = asked(ids, torch.zeros(len(ids), steps.columns, device=ids.device))
        return torch.nonzero(scores[0] > -np.inf).ravel().tolist()
    except Exception:  # somebody's own class
        return []


def _first_other_row(
    steps: Steps, allowed: Callable[["torch.Tensor", int], "NDArray[np.uint8]"], ends: frozenset[int] = frozenset()
) -> int | None:
    """The number of the first recorded row in which a mask (packed bits) allows other tokens; None where none does.

    Rows that have ended are left out.
    """
    number = 0
    prompt = int(steps.ids[0].shape[1])
    for ids, before, after in zip(steps.ids, steps.before, steps.after, strict=True):
        for row in range(len(before)):
            number += 1
            if ends and not ends.isdisjoint(ids[row, prompt:].tolist()):
                continue
            if not np.array_equal(before[row] & allowed(ids, row), after[row]):
                return number
    return None


def _allowed_by(mask: Part, size: int) -> Callable[["torch.Tensor", int], "NDArray[np.uint8]"]:
    def allowed(ids: "torch.Tensor", row: int) -> "NDArray[np.uint8]":
        (tokens,) = mask.allowed(ids[row : row + 1])
        bits = np.zeros(_bits(size), dtype=bool)
        bits[tokens[tokens < size]] = True
        return np.packbits(bits)

    return allowed


def _bits(size: int) -> int:
    return -(-size // 8) * 8


class _Trial:
    """Asks a processor and what may take its place along texts.

    Attributes:
        rows: of logits that were compared.
    """

    def __init__(self, part: Part, steps: Steps, vocabulary: "Vocabulary | None") -> None:
        self._part, self._steps, self._vocabulary = part, steps, vocabulary
        self._random: Generator = np.random.default_rng(0)
        self._columns = steps.columns
        self._prompt = int(steps.ids[0].shape[1])
        self._numbers = held_by(part).numbers[:_LENGTHS]
        self._changing = held_by(part).changing
        self._speller = Speller(vocabulary, self._random) if vocabulary is not None else None
        self._size = min(steps.columns, vocabulary.size) if vocabulary is not None else steps.columns
        self._texts = Texts(self._size, prompts=self._prompt > 0, random=self._random)
        spelled = vocabulary.tokens if vocabulary is not None else ()
        self._odd = np.array([token for token, data in enumerate(spelled) if max(data, default=0) >= 0x80], dtype=int)
        self.rows = 0

    def differs(self, candidate: _Candidate) -> str:
        """Where a candidate does something else, in words; empty where it was not seen to."""
        if self._changing:
            return f"it reads a clock or draws at random ({self._changing}), so trials cannot predict it"
        begun = time.process_time()
        valid = type(candidate.drop_in).__name__ == "Utf8"
        for number, (ids, count, what) in enumerate(self._beginnings(valid=valid)):
            if number > 2 and time.process_time() - begun > _PATIENCE_S:
                break
            try:
                differs = self._along(ids, count, candidate)
            except Exception as error:  # somebody's own class
                return f"asked {what} it ended with {type(error).__name__}: {error}"
            if differs:
                return f"{candidate.source} is not the same {what}: {differs}"
        return ""

    def _beginnings(self, *, valid: bool) -> Iterator[tuple["torch.Tensor", int, str]]:
        """Prompts [rows, length], how many tokens to go on, and what they are in words; real text only if `valid`."""
        import torch

        recorded = self._steps.ids[0]
        device = recorded.device

        def of(prompts: list[list[int]]) -> "torch.Tensor":
            return torch.tensor(prompts, dtype=torch.int64, device=device)

        yield recorded, 2 * _STEPS, "after the call's own prompt"
        if self._prompt:
            for length in (24, *_LONG):
                yield (
                    of([self._real(length) for _ in range(_ROWS)]),
                    _STEPS,
                    f"after {plural(length, 'token')} of real text",
                )
            begun = [self._speller.ways(one)[:1] for one in _BEGUN] if self._speller else []
            ends = [way for ways in begun for way in ways]
            if ends:
                prompts = [self._texts.padded([*self._real(12), *way], 20) if not valid else
                           [*self._real(20 - len(way)), *way] for way in ends]  # fmt: skip
                yield of(prompts), _STEPS, "after a character that is cut off"
            special = sorted(self._vocabulary.special_ids)[:4] if self._vocabulary is not None else []
            if special:
                prompts = [[token] * 3 + self._real(9) for token in special]
                prompts += [self._real(9) + [token] * 3 for token in special]
                yield of(prompts), _STEPS, "after ids without text"
            if not valid:
                yield of([self._texts.any(24) for _ in range(_ROWS)]), _STEPS, "after random tokens"
            for number in self._numbers:
                for length in {number, number + self._prompt} - {1}:
                    yield (
                        of([self._real(length - 2 if length > 2 else 1)]),
                        5,
                        f"at a length of about {plural(length, 'token')}",
                    )
        yield recorded[:1], _MANY_STEPS, f"within {_MANY_STEPS} new tokens"

    def _real(self, length: int) -> list[int]:
        """`length` tokens of real text, from a random place in it."""
        if self._speller is None:
            return self._texts.any(length)
        text = self._speller.spell(REAL.encode())
        if not text:
            return self._texts.any(length)
        begin = int(self._random.integers(len(text)))
        rolled = text[begin:] + text[:begin]
        return (rolled * (length // len(rolled) + 1))[:length]

    def _along(self, ids: "torch.Tensor", count: int, candidate: _Candidate) -> str:
        import torch

        (theirs,), ours = copied([self._part]), candidate.drop_in
        if hasattr(ours, "reset"):
            ours.reset()
        over = np.zeros(len(ids), dtype=bool)
        for _ in range(count):
            scores = torch.tensor(self._logits(len(ids)), dtype=torch.float32, device=ids.device)
            expected, actual = theirs(ids, scores.clone()), ours(ids, scores.clone())
            self.rows += len(ids)
            for row in np.flatnonzero(~over).tolist():
                if not torch.equal(expected[row], actual[row]):
                    return _how(expected[row], actual[row])
            allowed = (expected > -np.inf).cpu().numpy()
            if not allowed.any(axis=1).all():
                break
            new = [self._next(row, candidate.ends) for row in allowed]
            over |= np.isin(new, list(candidate.ends))
            if over.all():
                break
            ids = torch.cat([ids, torch.tensor(new, device=ids.device)[:, None]], dim=1)
        return ""

    def _next(self, allowed: "NDArray[np.bool_]", ends: frozenset[int]) -> int:
        """A token that is allowed: of every second row one with bytes that are no ASCII, if there is such.

        An id that ends the row is taken where there is no other.
        """
        inside = np.flatnonzero(allowed[: self._size])
        inside = inside[~np.isin(inside, list(ends))] if len(inside) > len(ends) else inside
        if len(self._odd) and self._random.random() < 0.5:
            odd = self._odd[allowed[self._odd]]
            inside = odd if len(odd) else inside
        return int(self._random.choice(inside)) if len(inside) else int(np.flatnonzero(allowed)[0])

    def _logits(self, rows: int) -> "NDArray[np.float64]":
        """Logits [rows, columns] of some shape: random, peaked, tied, negative, some of them forbidden already."""
        shape, draws = int(self._random.integers(5)), self._random
        logits = draws.normal(0, (1.0, 8.0, 0.0, 1.0, 3.0)[shape], (rows, self._columns))
        if shape == 3:
            logits -= 50.0
        elif shape == 4:
            logits[draws.random(logits.shape) < 0.1] = -np.inf
        logits[np.arange(rows), draws.integers(0, self._columns, rows)] += 20.0
        return logits


def _how(expected: "torch.Tensor", actual: "torch.Tensor") -> str:
    theirs, ours = expected > -np.inf, actual > -np.inf
    if bool((theirs & ~ours).any()):
        return f"it forbids the token {int((theirs & ~ours).nonzero()[0])}, and yours does not"
    if bool((ours & ~theirs).any()):
        return f"yours forbids the token {int((ours & ~theirs).nonzero()[0])}, and it does not"
    return "yours changes logits that it does not forbid"
