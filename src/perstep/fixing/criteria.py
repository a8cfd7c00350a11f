"""Which drop-in gives the verdicts of a criterion, wherever a call can get.

The criterion itself says which of the texts, or the ids, that it holds make it stop. The drop-in made of these is asked
beside it along many texts (`stop_probes.py`, `id_probes.py`). It is offered only if the two never differ before a row
has ended, if the criterion was seen to stop and not to stop, and if the drop-in without any one of its stop strings is
seen to differ.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from perstep._words import plural
from perstep.errors import InputError
from perstep.fixing.capture import Part, copied
from perstep.fixing.held import Held, held_by
from perstep.fixing.id_probes import IdProbes
from perstep.fixing.known import WITHOUT_VOCABULARY
from perstep.fixing.observe import Steps, verdicts_of
from perstep.fixing.probes import Probe
from perstep.fixing.repeat import ended_with
from perstep.fixing.stop_probes import StopProbes, as_bytes, shown

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from perstep.automata import Vocabulary

Found = TypeVar("Found")
"""A text, or a sequence of ids."""
Plain = TypeVar("Plain", bytes, tuple[int, ...])

_AGAIN = 6  # probes that one object is asked about one after the other


class Unlike(Exception):  # noqa: N818 - what was found, not a fault
    """Why nothing takes the place of a part, in words."""


@dataclass(frozen=True)
class Candidate:
    """A drop-in that may give the same verdicts.

    Attributes:
        make: makes one that has seen nothing yet.
        source: how it is written.
        smaller: what makes the same without one of its stop strings, and that string.
    """

    make: Callable[[], Part]
    source: str
    smaller: tuple[tuple[Callable[[], Part], str], ...] = ()


@dataclass(frozen=True)
class Asked:
    """What a criterion said along some texts.

    Attributes:
        steps: the ids after each new token, int64 [rows, length].
        said: its verdicts, bool [steps, rows].
        what: what is in each row, in words.
        follow: whether each step is the one before with one more token a row; beams change places.
    """

    steps: "list[torch.Tensor]"
    said: "NDArray[np.bool_]"
    what: Sequence[str]
    follow: bool = True

    def counted(self, ours: "NDArray[np.bool_]") -> "NDArray[np.bool_]":
        """Which verdicts count: a row that has ended is not asked again. bool [steps, rows]."""
        if not self.follow:
            return np.ones_like(self.said)
        ended = np.logical_or.accumulate(self.said | ours, axis=0)
        return np.concatenate([np.ones_like(ended[:1]), ~ended[:-1]])


def for_criterion(
    part: Part,
    steps: Steps,
    vocabulary: "Vocabulary | None",
    name: str,
    strings: Sequence[str | bytes] | None = None,
    columns: int = 0,
) -> tuple[Part, str, str]:
    """The drop-in for a criterion, how it is written, and what shows that it is the same.

    Args:
        part: the criterion.
        steps: what it did in the call.
        vocabulary: the bytes of the tokens; None where they are not known.
        name: how the script names the vocabulary.
        strings: its stop strings, where its class tells them; found in it otherwise.
        columns: number of token ids, where there is no vocabulary.

    Raises:
        Unlike: nothing is known to be the same.
    """
    if not steps.ids or not all(steps.after):
        raise Unlike("it gave no verdict of each row in the call")
    stored = held_by(part) if strings is None else None
    if stored is not None and stored.changing:
        raise Unlike(f"it reads a clock or draws at random ({stored.changing}), so trials cannot predict it")
    recorded, ask = _recorded(steps), _Asking(part, steps)
    reasons = []
    if vocabulary is not None:
        try:
            return _for_texts(ask, recorded, stored, vocabulary, name, list(strings or ()))
        except Unlike as reason:
            reasons.append(reason)
    if stored is not None and stored.sequences:
        try:
            return _for_ids(ask, recorded, stored, vocabulary, columns)
        except Unlike as reason:
            reasons = reasons or [reason]
    raise reasons[0] if reasons else Unlike(WITHOUT_VOCABULARY)


def _for_texts(
    ask: "_Asking",
    recorded: "Asked",
    stored: Held | None,
    vocabulary: "Vocabulary",
    name: str,
    strings: list[str | bytes],
) -> tuple[Part, str, str]:
    """Stop strings, or the end of a word."""
    probes = StopProbes(vocabulary, prompt=recorded.steps[0].shape[1] - 1, device=recorded.steps[0].device)
    acting = strings if stored is None else _acting(ask, probes.of_each(stored.texts), as_bytes)
    asked = [recorded]
    texts, numbers = ([], []) if stored is None else (stored.texts, stored.numbers)
    asked += [ask(probe) for probe in probes.of(acting, texts, numbers, words=stored is not None)]
    candidates = _candidates(acting, vocabulary, name, own_class=stored is not None)
    nothing = "which no text that it stores explains" if not acting else f"the vocabulary cannot spell {acting!r}"
    return _one_of(candidates, asked, ask, acting, nothing)


def _for_ids(
    ask: "_Asking", recorded: "Asked", stored: Held, vocabulary: "Vocabulary | None", columns: int
) -> tuple[Part, str, str]:
    """Sequences of ids."""
    size = columns if vocabulary is None else vocabulary.size
    device, prompt = recorded.steps[0].device, recorded.steps[0].shape[1] - 1
    probes = IdProbes(size, prompt=prompt, device=device, vocabulary=vocabulary)
    sequences = [one for one in stored.sequences if max(one) < size]
    acting = _acting(ask, probes.of_each(sequences), tuple)
    if not acting:
        raise Unlike("none of the ids that it holds makes it stop by itself")
    asked = [recorded, *(ask(probe) for probe in probes.of(acting, stored.numbers))]
    if vocabulary is not None:
        texts = StopProbes(vocabulary, prompt=prompt, device=device)
        asked += [ask(probe) for probe in texts.of([], [], [], words=True)]
    return _one_of(_of_ids(acting), asked, ask, acting, "which no ids that it stores explain")


def _one_of(
    candidates: "Iterable[Candidate]", asked: "list[Asked]", ask: "_Asking", acting: Sequence[object], nothing: str
) -> tuple[Part, str, str]:
    """The first of some candidates that never differs.

    Raises:
        Unlike: none is; with the reason of the nearest one, or where there is none with `nothing`.
    """
    if not any(one.said.any() for one in asked):
        raise Unlike(
            f"it never stopped a row, in {plural(_verdicts(asked[:1]), 'recorded verdict')} and "
            f"{plural(_verdicts(asked[1:]), 'probe')}"
        )
    ask.remembers_nothing(asked)
    reasons = []
    for candidate in candidates:
        reason = _differs(candidate, asked, ask)
        if not reason:
            return candidate.make(), candidate.source, _evidence(candidate, asked, ask)
        reasons.append(reason)
    if not acting:
        raise Unlike(f"it stopped a row {_somewhere(asked)}, {nothing}")
    raise Unlike(min(reasons, default=(0, nothing))[1])


def _of_ids(acting: list[tuple[int, ...]]) -> Iterator[Candidate]:
    """A row ends with one of some sequences."""
    from perstep.fast import StopIds

    written = [ids[0] if len(ids) == 1 else list(ids) for ids in acting]
    smaller = [(acting[:at] + acting[at + 1 :], f"the ids {list(one)}") for at, one in enumerate(acting)]
    yield Candidate(
        lambda: StopIds(acting),
        f"perstep.fast.StopIds({written!r})",
        tuple((lambda rest=rest: StopIds(rest), what) for rest, what in smaller if rest),  # type: ignore[misc]
    )


def _candidates(
    acting: list[str | bytes], vocabulary: "Vocabulary", name: str, *, own_class: bool
) -> Iterator[Candidate]:
    """What may be the same: stop strings where some are known to stop it, else the end of a word.

    Args:
        acting: the stop strings.
        vocabulary: the bytes of the tokens.
        name: how the script names it.
        own_class: whether the stop strings were read from a class of the user's own, not from one of transformers.
    """
    from perstep.fast import StopStrings, WordStop

    for anywhere in ((False, True) if own_class else (False,)) if acting else ():

        def stop(strings: Sequence[str | bytes], anywhere: bool = anywhere) -> Part:
            return StopStrings(strings, vocabulary, anywhere=anywhere)

        more = ", anywhere=True" if anywhere else ""
        several = len(acting) > 1 and own_class
        smaller = [(acting[:at] + acting[at + 1 :], shown(one)) for at, one in enumerate(acting) if several]
        try:
            stop(acting)
        except InputError:
            continue  # this vocabulary cannot spell them: it is another model's
        yield Candidate(
            lambda stop=stop: stop(acting),  # type: ignore[misc]
            f"perstep.fast.StopStrings({acting!r}, {name}{more})",
            tuple((lambda rest=rest, stop=stop: stop(rest), one) for rest, one in smaller),  # type: ignore[misc]
        )
    if own_class and not acting:
        try:
            word = WordStop(vocabulary)
        except InputError:
            return  # such a vocabulary spells no word
        yield Candidate(lambda: copied([word])[0], f"perstep.fast.WordStop({name})")


class _Asking:
    """Asks copies of a criterion that have seen nothing yet.

    Attributes:
        one_for_all: it gave one verdict for several rows.
        one_by_one: it is asked about each row alone, as the call has one, and it does not tell several apart.
    """

    def __init__(self, part: Part, steps: Steps) -> None:
        self._part, self._scores = part, steps.scores
        self._one_row = len(steps.ids[0]) == 1
        self.one_for_all = self.one_by_one = False

    def __call__(self, probe: Probe) -> Asked:
        """What it says along a probe.

        Raises:
            Unlike: it failed.
        """
        steps = list(probe.steps())
        if not self.one_by_one:
            try:
                said = self._verdicts(copied([self._part])[0], steps)
            except Unlike:
                if not self._one_row:
                    raise
                self.one_by_one = True
            self.one_by_one |= self._one_row and self.one_for_all
        if self.one_by_one:
            rows = [[ids[row : row + 1] for ids in steps] for row in range(len(probe.what))]
            said = np.concatenate([self._verdicts(copied([self._part])[0], one) for one in rows], axis=1)
        return Asked(steps, said, probe.what)

    def remembers_nothing(self, asked: Sequence[Asked]) -> None:
        """One object says about one text after the other what a new one says about each.

        The texts are one that it stops at and others, each in as many rows as the call has.

        Raises:
            Unlike: it does not.
        """
        rows = len(asked[0].steps[0])
        (one,) = copied([self._part])
        for before, row in _to_be_asked_again(asked[1:]):
            steps = [ids[[row] * rows] for ids in before.steps]
            if not np.array_equal(self._verdicts(one, steps), self._verdicts(copied([self._part])[0], steps)):
                raise Unlike("it keeps state from an earlier call, which no drop-in does")

    def alone(self, asked: Asked, row: int) -> "NDArray[np.bool_]":
        """What it says of one row, asked about that alone; bool [steps]."""
        return self._verdicts(copied([self._part])[0], [ids[row : row + 1] for ids in asked.steps])[:, 0]

    def _verdicts(self, part: Part, steps: "Iterable[torch.Tensor]") -> "NDArray[np.bool_]":
        said = []
        for ids in steps:
            try:
                verdict = part(ids, _like(self._scores, len(ids)))
                verdicts = verdicts_of(verdict, len(ids))
            except Exception as error:  # somebody's own class: it may want rows or scores of the call alone
                raise Unlike(f"asked about another text it {ended_with(error)}") from error
            if not verdicts:
                raise Unlike(f"asked about {plural(len(ids), 'row')} it did not give a verdict of each")
            self.one_for_all |= len(verdicts) > 1 and not (hasattr(verdict, "__len__") and len(verdict) > 1)
            said.append(verdicts)
        return np.array(said, dtype=bool)


def _to_be_asked_again(asked: Sequence[Asked]) -> Iterator[tuple[Asked, int]]:
    """Rows at which a criterion stopped, each followed by one at which it did not."""
    for one in asked[:_AGAIN]:
        stopped = one.said.any(axis=0)
        for rows in (np.flatnonzero(stopped)[:2], np.flatnonzero(~stopped)[:2]):
            yield from ((one, int(row)) for row in rows)


def _like(scores: "tuple[torch.Tensor, ...] | None", rows: int) -> "tuple[torch.Tensor, ...] | None":
    """Scores as the call gave them to the criterion: none, or some that say nothing."""
    if scores is None or not len(scores):
        return scores
    drawn = np.random.default_rng(0).normal(0, 8, (rows, scores[-1].shape[-1]))
    return tuple(scores[-1].new_tensor(drawn) for _ in scores)


def _recorded(steps: Steps) -> Asked:
    import torch

    ids = steps.ids
    follow = all(torch.equal(after[:, :-1], before) for before, after in pairwise(ids))
    return Asked(ids, np.array(steps.after, dtype=bool), ["in the recorded call"] * len(ids[0]), follow)


def _acting(
    ask: _Asking, probes: "Iterable[tuple[Probe, list[tuple[Found, int]]]]", plain: Callable[[Found], Plain]
) -> list[Found]:
    """Those of some texts, or of some ids, that by themselves make a criterion stop the moment they are complete.

    Without those that hold another of them: there it has stopped already.

    Args:
        ask: the criterion.
        probes: with what is in each row, and the step that completes it.
        plain: makes one of them comparable.
    """
    texts: dict[Plain, Found] = {}
    for probe, ends in probes:
        asked = ask(probe)
        said = asked.said
        if ask.one_for_all and not ask.one_by_one:
            said = np.array([ask.alone(asked, row) for row in range(said.shape[1])]).T
        for row, (text, end) in enumerate(ends):
            if said[end, row] and not said[:end, row].any():
                texts.setdefault(plain(text), text)
    return [text for data, text in texts.items() if not any(other != data and _holds(data, other) for other in texts)]


def _holds(data: "bytes | tuple[int, ...]", other: "bytes | tuple[int, ...]") -> bool:
    """Whether one holds the other: texts anywhere, ids one behind the other."""
    return any(data[at : at + len(other)] == other for at in range(len(data) - len(other) + 1))


def _ours(make: Callable[[], Part], asked: Asked) -> "NDArray[np.bool_]":
    one = make()
    return np.array([one(ids, None).tolist() for ids in asked.steps], dtype=bool)


def _differs(candidate: Candidate, asked: Sequence[Asked], ask: _Asking) -> tuple[int, str] | None:
    """In how many verdicts a candidate was seen to differ, and where mostly; None if it is shown to be the same."""
    stops = 0
    wrong: dict[tuple[str, str], list[tuple[Asked, int, int]]] = {}
    for one in asked:
        ours = _ours(candidate.make, one)
        counted = one.counted(ours)
        stops += int((counted & one.said).sum())
        for step, row in np.argwhere(counted & (ours != one.said)).tolist():
            yours = "stops" if one.said[step, row] else "goes on"
            wrong.setdefault((yours, one.what[row]), []).append((one, step, row))
    if wrong:
        (yours, where), places = max(wrong.items(), key=lambda item: len(item[1]))
        more = _differs_by_rows(candidate, *places[0], ask)
        return sum(map(len, wrong.values())), f"{candidate.source} is not the same: yours {yours} {where}{more}"
    if not stops:
        return 0, "it never stopped a row by itself"
    for make, text in candidate.smaller:
        if not any((one.counted(ours) & (ours != one.said)).any() for one in asked for ours in [_ours(make, one)]):
            return 0, f"no probe tells whether it looks for {text}"
    return None


def _differs_by_rows(candidate: Candidate, asked: Asked, step: int, row: int, ask: _Asking) -> str:
    """What to add where a criterion says of a row alone what the candidate says; empty where it does not."""
    if len(asked.what) == 1 or not asked.follow:
        return ""
    until = slice(step + 1)
    if not np.array_equal(ask.alone(asked, row)[until], _ours(candidate.make, asked)[until, row]):
        return ""
    return f", asked about {plural(len(asked.what), 'row')} at once (asked about that row alone it does the same)"


def _evidence(candidate: Candidate, asked: Sequence[Asked], ask: _Asking) -> str:
    def counts(some: Sequence[Asked]) -> str:
        counted = [(one.said, one.counted(_ours(candidate.make, one))) for one in some]
        stops = sum(int((said & counts).sum()) for said, counts in counted)
        return f"{sum(int(counts.sum()) for _, counts in counted):,} {{}} ({stops:,} of them stop)"

    alone = ""
    if ask.one_by_one:
        alone = ", each row asked about alone: the call has one, and of several yours does not tell one from the other"
    return f"the same {counts(asked[:1]).format('recorded verdicts')} and {counts(asked[1:]).format('probes')}{alone}"


def _verdicts(asked: Sequence[Asked]) -> int:
    return sum(one.said.size for one in asked)


def _somewhere(asked: Sequence[Asked]) -> str:
    return next(one.what[int(np.argwhere(one.said)[0][1])] for one in asked if one.said.any())
