"""The processors of a call in the order in which transformers applies them, and whether others do the same.

The order is not copied from transformers: the list is built by the call itself, as it is and with the drop-ins, and the
two are run side by side over logits that are shaped so that order, ties and nuclei matter. A processor whose place
among the others changes must commute with each that it passes, which is known of kinds, not found by trying.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import combinations, pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from perstep._words import plural
from perstep.fixing.capture import Captured, Original, Part, copied
from perstep.fixing.offer import PROCESSORS, Offer, changes_of
from perstep.targets.transformers import Function, Value, Wraps

if TYPE_CHECKING:
    import torch

Chain = Sequence[Part]
Logits = NDArray[np.float64]
"""[rows, columns]."""

_SCALES = ("TemperatureLogitsWarper", "RepetitionPenaltyLogitsProcessor", "RepetitionPenalty")
"""Each logit times a factor above 0: -inf stays, and two of them can be applied in any order (within rounding)."""
_MASKS = (
    "SuppressTokensLogitsProcessor", "SuppressTokens", "NoBadWordsLogitsProcessor", "NoRepeatNGramLogitsProcessor",
    "MinLengthLogitsProcessor", "MinNewTokensLengthLogitsProcessor", "SuppressTokensAtBeginLogitsProcessor", "Utf8",
    "PrefixConstrainedLogitsProcessor", "AllowTokens", "AllowSequences", "BadWords", "NoRepeatNGram",
)  # fmt: skip
"""-inf where ids and length alone say so."""
_BIASES = ("SequenceBiasLogitsProcessor", "SequenceBias")
"""A number added to each logit: -inf stays."""
_ANY_ORDER = tuple(
    frozenset(pair)
    for pair in (
        ("mask", "mask"),
        ("mask", "scale"),
        ("mask", "bias"),
        ("scale", "scale"),
        ("TopK", "MinP"),
        ("TopK", "TemperatureLogitsWarper"),
    )
)

_ROWS = 2  # of ids
_LENGTH = 12
_BEHIND = 7
_GRID = 9  # values of what a shape is varied by
_HALVINGS = 10  # from 6 logits to 0.006
_RANGE = (-6.3, 41.9)  # in no step of which two peaks are equal
_CLOSE = 1e-5
EDGE = 1e-4
"""Probability of tokens at the edge of a nucleus that transformers' float32 sums may put on either side of it."""
_SUMS = 2e-6  # by which float32 sums of probabilities are wrong at most
_NAMED = 3  # ids that processors are about, which stand at the head of a peak

_UNTRIED = (
    "UnbatchedClassifierFreeGuidanceLogitsProcessor", "PrefixConstrainedLogitsProcessor", "WatermarkLogitsProcessor",
    "SynthIDTextWatermarkLogitsProcessor",
)  # fmt: skip
"""They call the model or the script, or remember the text; nothing is ever moved past them but what commutes."""


class _Built(Exception):  # noqa: N818 - a way out of generate
    pass


def built_chain(call: Captured, lists: dict[str, list[Part]] | None = None, **changes: Value) -> list[Part]:
    """The processors that the call would apply, in their order; no forward is made."""
    chain: list[Part] = []

    def keep(original: Function, *args: Value, **kwargs: Value) -> None:
        chain.extend(original(*args, **kwargs))
        raise _Built

    with Wraps() as wraps, suppress(_Built):
        wraps.method(call.model, "_get_logits_processor", lambda original: partial(keep, original))
        call.again(lists, **changes)
    return chain


def first_warper(call: Captured) -> int:
    """The place in what generate applies before which its own processors and the call's stand, and its warpers behind.

    Shown by a processor at the end of the call's own list.
    """
    from transformers import LogitsProcessor

    class Last(LogitsProcessor):  # type: ignore[misc] # transformers is not typed
        """Stands where the call's own processors end."""

    last = Last()
    return built_chain(call, {PROCESSORS: [*copied(call.lists[PROCESSORS]), last]}).index(last)


def commute(one: Part, other: Part) -> bool:
    """Whether two processors are known to give the same in either order, by their kinds."""
    return any({a, b} in _ANY_ORDER for a in _kinds(one) for b in _kinds(other))


def _kinds(part: Part) -> Iterator[str]:
    name = type(part).__name__
    yield name.removesuffix("LogitsWarper") if name in ("TopKLogitsWarper", "MinPLogitsWarper") else name
    if name in _SCALES:
        yield "scale"
    if name in _MASKS:
        yield "mask"
    if name in _BIASES and np.inf not in part.sequence_bias.values():
        yield "bias"


class OutOfOrder(Exception):  # noqa: N818 - what was found, not a fault
    """Why drop-ins would not do in a call what its own processors do, in words."""


@dataclass(frozen=True)
class Link:
    """A processor in a chain: which of the call as it is it stands for, and whether it may be tried on other logits."""

    key: Hashable
    part: Part

    @property
    def tried(self) -> bool:
        """Whether it is transformers' or perstep's, and remembers nothing."""
        kind = type(self.part)
        return kind.__module__.split(".")[0] in ("transformers", "perstep") and kind.__name__ not in _UNTRIED


def in_order(call: Captured, offers: Sequence[Offer], columns: int) -> dict[tuple[str, ...], str | OutOfOrder]:
    """What shows of each offer that the call does to logits with it what it does as it is; or why nothing does.

    Args:
        call: the call.
        offers: drop-ins for processors of transformers.
        columns: logits of a row.

    Returns:
        By the parts of each offer.
    """
    own = copied(call.lists[PROCESSORS])
    before = _links(built_chain(call, {PROCESSORS: own}), own, {})
    shapes = Shapes([link.part for link in before if link.tried], columns, call.model.device)
    verdicts: dict[tuple[str, ...], str | OutOfOrder] = {}
    trials: dict[tuple[str, ...], _Trial] = {}
    for offer in offers:
        try:
            trials[offer.parts] = _Trial(_changed(call, offer, own, before), {id(part) for part, _ in offer.made})
        except OutOfOrder as reason:
            verdicts[offer.parts] = reason
    chains = [chain for trial in trials.values() for chain in trial.chains]
    try:
        differences = iter(shapes.differences(chains) if chains else [])
    except Exception as error:  # a processor that is for other rows, or other logits
        said = OutOfOrder(f"tried on other logits they ended with {type(error).__name__}: {error}")
        return verdicts | dict.fromkeys(trials, said)
    for parts, trial in trials.items():
        verdicts[parts] = trial.verdict([next(differences) for _ in trial.chains], shapes.count)
    return verdicts


def keeps_order(call: Captured, offer: Offer) -> None:
    """See that an offer stands where generate applies what it replaces, or passes only what commutes with it.

    Raises:
        OutOfOrder: it does not.
    """
    own = copied(call.lists[PROCESSORS])
    _changed(call, offer, own, _links(built_chain(call, {PROCESSORS: own}), own, {}))


def _changed(call: Captured, offer: Offer, own: Sequence[Part], before: "Sequence[Link]") -> "list[Link]":
    """The processors that generate applies with an offer.

    Raises:
        OutOfOrder: they are others, or two that do not commute have changed places.
    """
    keys = [("own", offer.index)] if offer.index is not None else [before[place].key for place in offer.places]
    stands_for = {id(drop_in): key for (drop_in, _), key in zip(offer.made, keys, strict=True)}
    lists, settings = changes_of(call, [offer])
    mine = [own[part.index] if isinstance(part, Original) else part for part in lists[PROCESSORS]]
    after = _links(built_chain(call, {PROCESSORS: mine}, **settings), own, stands_for)
    was = {link.key: (place, link.part) for place, link in enumerate(before)}
    if was.keys() != {link.key for link in after} or len(before) != len(after):
        raise OutOfOrder("with it generate would build other processors than now")
    for one, other in combinations(after, 2):
        (early, first), (late, second) = was[one.key], was[other.key]
        if early > late and not commute(first, second):
            names = type(second).__name__, type(first).__name__
            raise OutOfOrder(
                f"{names[0]} would come after {names[1]}; generate applies it before, and the order matters"
            )
    return after


class _Trial:
    """A chain with drop-ins, and its nearest wrong neighbours: without one of them, and with two exchanged.

    Args:
        links: the whole chain.
        offered: the `id` of each drop-in.

    Attributes:
        chains: the chain, it without each drop-in, and with a drop-in and a neighbour exchanged where that may matter.
    """

    def __init__(self, links: Sequence[Link], offered: set[int]) -> None:
        chain = [link.part for link in links if link.tried]
        self._made = [at for at, part in enumerate(chain) if id(part) in offered]
        self._names = [type(part).__name__ for part in chain]
        self._pairs = [
            at
            for at, (one, other) in enumerate(pairwise(chain))
            if ({id(one), id(other)} & offered) and not commute(one, other)
        ]
        without = [[*chain[:at], *chain[at + 1 :]] for at in self._made]
        exchanged = [[*chain[:at], chain[at + 1], chain[at], *chain[at + 2 :]] for at in self._pairs]
        self.chains = [chain, *without, *exchanged]

    def verdict(self, differences: Sequence[str], rows: int) -> "str | OutOfOrder":
        """What the differences of the chains from the call's own say."""
        if differences[0]:
            return OutOfOrder(differences[0])
        without = dict(zip(self._made, differences[1:], strict=False))
        idle = [self._names[at] for at, seen in without.items() if not seen]
        if idle:
            return OutOfOrder(f"{idle[0]} never changed anything")
        exchanged = dict(zip(self._pairs, differences[1 + len(self._made) :], strict=True))
        orders = [f"{self._names[at + 1]} before {self._names[at]}" for at, seen in exchanged.items() if seen]
        more = f", and not with {' or '.join(orders)}" if orders else ""
        return f"the same scores for {plural(rows, 'row')} of shaped logits{more}"


def _links(chain: Chain, own: Sequence[Part], stands_for: Mapping[int, Hashable]) -> list[Link]:
    """The processors of a chain with their names: a place in the call's own list, or a class that generate built."""
    places = {id(part): ("own", place) for place, part in enumerate(own)}
    return [Link(stands_for.get(id(part)) or places.get(id(part)) or type(part).__name__, part) for part in chain]


class Shapes:
    """Ids and logits on which chains are compared.

    Args:
        chain: the processors as they are; the edges of what they allow are looked for.
        columns: logits of a row.
        device: of the tensors.

    Attributes:
        count: rows of logits that were compared.
    """

    def __init__(self, chain: Chain, columns: int, device: "torch.device") -> None:
        import torch

        self._random, self._columns, self._device = np.random.default_rng(0), columns, device
        self._chain, self.count = chain, 0
        self._nearly = _nearly(chain)
        ids, self._behind = _ids(chain, columns, self._random)
        self._ids_BT = torch.tensor(ids, device=device)
        named = [words[-1] for words in _begun(chain, columns)[: len(ids)]]
        named += [token for part in chain for token in _ids_of(part) if 0 <= token < columns]
        self._named = list(dict.fromkeys(named))[:_NAMED]

    def differences(self, chains: Sequence[Chain]) -> list[str]:
        """How each chain differs from that as it is, in words; empty where it does not."""
        differences = [""] * len(chains)
        self.count = 0
        for what, logits in self._probes():
            scores, expected = self._tensor(logits), self._run(self._chain, logits)
            self.count += len(scores)
            for place, chain in enumerate(chains):
                differences[place] = differences[place] or self._difference(
                    expected, run(chain, self._ids_BT, scores), what, scores
                )
        return differences

    def _difference(self, expected: "torch.Tensor", actual: "torch.Tensor", what: str, scores: "torch.Tensor") -> str:
        """How scores differ from those expected, and from those of a mass that is as near as float32 sums are."""
        said = _difference(expected, actual, what)
        near = (run(chain, self._ids_BT, scores) for chain in self._nearly) if said else ()
        return said if all(_difference(one, actual, what) for one in near) else ""

    def _probes(self) -> Iterator[tuple[str, Logits]]:
        """Logits [rows, columns]: random ones, and each shape along a grid and on both sides of every edge in it."""
        for scale in (0.1, 1.0, 6.0):
            yield "random logits", self._random.normal(0, scale, (len(self._ids_BT), self._columns))
        for what, shape in self._shapes():
            grid = [float(value) for value in np.linspace(*_RANGE, _GRID)]
            allowed = [self._allowed(shape(value)) for value in grid]
            for value in grid:
                yield what, shape(value)
            for (low, before), (high, after) in pairwise(zip(grid, allowed, strict=True)):
                if not np.array_equal(before, after):
                    for value in self._edge(shape, low, high, before):
                        yield what, shape(value)

    def _edge(
        self, shape: Callable[[float], Logits], low: float, high: float, before: "NDArray[np.bool_]"
    ) -> tuple[float, float]:
        """Two values on either side of where other tokens become allowed than at the lower one."""
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            if np.array_equal(self._allowed(shape(middle)), before):
                low = middle
            else:
                high = middle
        return low, high

    def _allowed(self, logits: Logits) -> "NDArray[np.bool_]":
        allowed: NDArray[np.bool_] = (self._run(self._chain, logits) > -np.inf).cpu().numpy()
        return allowed

    def _run(self, chain: Chain, logits: Logits) -> "torch.Tensor":
        return run(chain, self._ids_BT, self._tensor(logits))

    def _tensor(self, logits: Logits) -> "torch.Tensor":
        import torch

        return torch.tensor(logits, dtype=torch.float32, device=self._device)

    def _shapes(self) -> Iterator[tuple[str, Callable[[float], Logits]]]:
        """Functions of one number that give logits, with what they are in words."""
        rows, columns = len(self._ids_BT), self._columns
        seen, new = self._ids_BT.cpu().numpy(), self._random.integers(0, columns, (rows, 4))
        flat = self._random.normal(0, 1, (rows, columns))
        low, tied = flat - 60.0, np.full((rows, columns), 2.0)
        rank = np.argsort(self._random.random((rows, columns)), axis=1)
        yield "a peak at a token of the text", _peaks(flat, seen[:, 0])
        yield "a peak at a new token", _peaks(flat, new[:, 0])
        yield "two peaks, one at a token of the text", _peaks(_set(flat, seen[:, 1], 24.0), new[:, 1])
        yield "two peaks, the other at a token of the text", _peaks(_set(flat, new[:, 1], 24.0), seen[:, 1])
        yield "two peaks at new tokens", _peaks(_set(flat, new[:, 1], 24.0), new[:, 2])
        yield "negative logits, a peak at a token of the text", _peaks(low, seen[:, 3], -50.0)
        yield "negative logits, two peaks", _peaks(_set(low, seen[:, 3], -30.0), new[:, 3], -50.0)
        yield "tied logits but for a token of the text", _peaks(tied, seen[:, 0])
        yield "a peak at what followed the last tokens before", _peaks(flat, seen[:, self._behind])
        yield "two peaks, one at what followed before", _peaks(_set(flat, seen[:, self._behind], 24.0), new[:, 1])
        yield "evenly spaced logits", lambda value: 5.0 - rank * np.exp(-(value + 6) / 6)
        yield "evenly spaced pairs of equal logits", lambda value: 5.0 - (rank // 2) * np.exp(-(value + 6) / 6)
        for token in self._named:
            at = np.full(rows, token)
            yield f"a peak at the token {token}", _peaks(flat, at)
            yield f"two peaks, one at the token {token}", _peaks(_set(flat, at, 24.0), new[:, 0])


def _nearly(chain: Chain) -> list[Chain]:
    """The same processors with typical masses that differ by what float32 sums do; none without such.

    The last token of a typical set may be likely, so that its probability says nothing of an edge.
    """
    from transformers import TypicalLogitsWarper

    def shifted(part: Part, by: float) -> Part:
        return TypicalLogitsWarper(part.mass + by) if type(part) is TypicalLogitsWarper else part

    some = any(type(part) is TypicalLogitsWarper for part in chain)
    return [[shifted(part, by) for part in chain] for by in (-_SUMS, _SUMS)] if some else []


def _set(base: Logits, tokens: "NDArray[np.int64]", value: float) -> Logits:
    """Logits [rows, columns] with a value at one token [rows] of each row."""
    logits = base.copy()
    logits[np.arange(len(base)), tokens] = value
    return logits


def _peaks(base: Logits, tokens: "NDArray[np.int64]", shift: float = 0.0) -> Callable[[float], Logits]:
    return lambda value: _set(base, tokens, value + shift)


def _difference(expected: "torch.Tensor", actual: "torch.Tensor", what: str) -> str:
    """How scores [rows, columns] differ from those expected, in words; empty where they do not.

    Of equal logits at an edge transformers' sort leaves open which are kept, so their number counts. A token there
    whose probability is within rounding of the sums may fall on either side.
    """
    for theirs, ours in zip(expected, actual, strict=True):
        both = (theirs > -np.inf) & (ours > -np.inf)
        if not _are_close(theirs[both], ours[both]):
            return f"the scores differ for {what}"
        if bool(both.equal(theirs > -np.inf)) and bool(both.equal(ours > -np.inf)):
            continue
        kept = [one[one > -np.inf].sort(descending=True).values for one in (theirs, ours)]
        fewer, more = sorted(kept, key=len)
        beyond = more.double().softmax(0)[len(fewer) :]
        if not _are_close(fewer, more[: len(fewer)]) or float(beyond.sum()) > EDGE:
            return f"the allowed tokens differ for {what}"
    return ""


def _are_close(one: "torch.Tensor", other: "torch.Tensor") -> bool:
    return bool(((one - other).abs() <= _CLOSE * (1 + one.abs())).all())


def run(chain: Chain, ids: "torch.Tensor", scores: "torch.Tensor") -> "torch.Tensor":
    """The scores after all processors, as transformers' list applies them."""
    scores = scores.clone()
    for part in chain:
        scores = part(ids, scores)
    return scores


def _rows(chain: Chain) -> int:
    """Rows of ids: as many as a penalty has numbers of, for the padding of each."""
    lengths = [
        len(part.prompt_ignore_length) for part in chain if hasattr(getattr(part, "prompt_ignore_length", 0), "__len__")
    ]
    return lengths[0] if lengths else _ROWS


def _begun(chain: Chain, columns: int) -> list[tuple[int, ...]]:
    """Sequences of several tokens that processors are about, one of each length."""
    sequences = [words for part in chain for words in getattr(part, "sequence_bias", None) or () if len(words) > 1]
    return list({len(words): words for words in sequences if max(words) < columns}.values())


def _ids(chain: Chain, columns: int, random: np.random.Generator) -> tuple["NDArray[np.int64]", int]:
    """Ids [rows, length] whose last tokens occur before, behind each other, and begin what processors are about.

    And where, in each row, the token stands that followed them before.
    """
    begun = _begun(chain, columns)
    grams = [part.ngram_size - 1 for part in chain if hasattr(part, "ngram_size")]
    again = max([3, *grams, *(len(words) - 1 for words in begun)])
    behind = max(_BEHIND, again + 1)
    ids = random.integers(0, columns, (_rows(chain), max(_LENGTH, behind + again + 1)))
    for row, words in zip(range(len(ids)), begun, strict=False):
        ids[row, behind + 1 - len(words) : behind] = words[:-1]
    ids[:, -again:] = ids[:, behind - again : behind]
    return ids, behind


def _ids_of(part: Part) -> list[int]:
    """Token ids that a processor is about."""
    ids = getattr(part, "suppress_tokens", None)
    if ids is None:
        ids = getattr(part, "eos_token_id", None)
    listed: list[int] = np.asarray([] if ids is None else ids).flatten().tolist()
    return [*listed, *(token for words in getattr(part, "sequence_bias", None) or () for token in words)]
