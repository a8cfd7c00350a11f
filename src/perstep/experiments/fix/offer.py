"""What an offer is: drop-ins that could replace parts of a call, with how they are written."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from perstep.experiments.fix.capture import Captured, Original

PROCESSORS, CRITERIA, LOOP = "logits_processor", "stopping_criteria", "custom_generate"


class Code(str):
    """Source text where otherwise a value stands: its `repr` is itself."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


@dataclass(frozen=True)
class Offer:
    """Drop-ins that could replace parts of a call.

    Attributes:
        kind: the argument of generate that changes: `logits_processor`, `stopping_criteria` or `custom_generate`.
        index: the place in that list of what they replace; None for what generate itself builds from settings.
        parts: the names in the ledger of what they replace.
        made: the drop-ins, and how each is written.
        evidence: why they are the same.
        settings: arguments of generate that have to change with them; REMOVED for one to leave out.
    """

    kind: str
    index: int | None
    parts: tuple[str, ...]
    made: tuple[tuple[Any, str], ...]
    evidence: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def source(self) -> str:
        """How the drop-ins are written."""
        written = ", ".join(source for _, source in self.made)
        return f"{LOOP}={written}" if self.kind == LOOP else written


def changes_of(call: Captured, offers: list[Offer]) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """The processors and criteria of a call with these offers, and its other arguments that change."""
    lists: dict[str, list[Any]] = {
        kind: [Original(index) for index in range(len(parts))] for kind, parts in call.lists.items()
    }
    settings: dict[str, Any] = {}
    for offer in offers:
        made = [one for one, _ in offer.made]
        settings.update(offer.settings)
        if offer.kind == LOOP:
            settings[LOOP] = made[0]
        elif offer.index is None:
            lists[offer.kind] += made
        else:
            lists[offer.kind][offer.index] = made[0]
    return lists, settings
