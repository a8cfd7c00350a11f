"""What an offer is: drop-ins that could replace parts of a call, with how they are written."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from perstep.fixing.capture import Captured, Original, Part
from perstep.targets.transformers import Value

PROCESSORS, CRITERIA, LOOP = "logits_processor", "stopping_criteria", "custom_generate"
DRAFT, EXPERTS = "draft", "experts"
"""Not arguments of generate: plain decoding without a draft, and what the experts of a model run with."""


class Code(str):
    """Source text where otherwise a value stands: its `repr` is itself."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


@dataclass(frozen=True)
class State:
    """Something of a model that an offer changes between calls, outside their time.

    Attributes:
        change: makes it what the offer wants.
        restore: makes it what it was.
    """

    change: Callable[[], None]
    restore: Callable[[], None]


@dataclass(frozen=True)
class Offer:
    """Drop-ins that could replace parts of a call.

    Attributes:
        kind: the argument of generate that changes: `logits_processor`, `stopping_criteria` or `custom_generate`.
        index: the place in that list of what they replace; None for what generate itself builds from settings.
        places: for what generate builds: where each drop-in's original stands in what generate applies.
        first: it stands before the call's own, as all but the warpers do.
        parts: the names in the ledger of what they replace.
        made: the drop-ins, and how each is written.
        evidence: why they are the same.
        settings: arguments of generate that have to change with them; REMOVED for one to leave out.
        before: lines to stand before the call, in which `{model}` is what generate is called on.
        names: what these lines make, by the names that they give it.
        state: what these lines change that is no argument of the call.
    """

    kind: str
    index: int | None
    parts: tuple[str, ...]
    made: tuple[tuple[Part, str], ...]
    evidence: str
    settings: Mapping[str, object] = field(default_factory=dict)
    places: tuple[int, ...] = ()
    first: bool = False
    before: tuple[str, ...] = ()
    names: Mapping[str, Value] = field(default_factory=dict)
    state: "State | None" = None

    @property
    def source(self) -> str:
        """How the drop-ins are written."""
        if self.kind == DRAFT:
            return f"plain decoding, without {' and '.join(self.settings)}"
        if self.kind == EXPERTS:
            return "; ".join(self.before).replace("{model}", "model")
        written = ", ".join(source for _, source in self.made)
        return f"{LOOP}={written}" if self.kind == LOOP else written


@contextmanager
def changed(offers: Iterable[Offer]) -> Iterator[None]:
    """Inside the block the model is as some offers want it."""
    states = [offer.state for offer in offers if offer.state is not None]
    try:
        for state in states:
            state.change()
        yield
    finally:
        for state in reversed(states):
            state.restore()


def around(offers: Iterable[Offer], kind: str) -> tuple[list[tuple[Part, str]], list[tuple[Part, str]]]:
    """What comes before a call's own processors or criteria, and what behind them, in the order of generate's own."""
    built = [offer for offer in offers if offer.kind == kind and offer.index is None]

    def of(first: bool) -> list[tuple[Part, str]]:
        some = [
            (one.places[at] if one.places else 0, drop_in)
            for one in built
            if one.first == first
            for at, drop_in in enumerate(one.made)
        ]
        return [drop_in for _, drop_in in sorted(some, key=lambda pair: pair[0])]

    return of(True), of(False)


def changes_of(call: Captured, offers: list[Offer]) -> tuple[dict[str, list[Part]], dict[str, Value]]:
    """The processors and criteria of a call with these offers, and its other arguments that change."""
    lists: dict[str, list[Part]] = {
        kind: [Original(index) for index in range(len(parts))] for kind, parts in call.lists.items()
    }
    settings: dict[str, Value] = {}
    for offer in offers:
        settings.update(offer.settings)
        if offer.kind == LOOP:
            settings[LOOP] = offer.made[0][0]
        elif offer.index is not None:
            lists[offer.kind][offer.index] = offer.made[0][0]
    for kind, own in lists.items():
        first, last = around(offers, kind)
        lists[kind] = [*(part for part, _ in first), *own, *(part for part, _ in last)]
    return lists, settings
