"""What a page shows: a sentence, figures, tables and facts. Knows ledgers, panels and tables, and no experiment."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from perstep.measure import Ledger, LedgerSamples
from perstep.report.change import RelativeChange
from perstep.report.ledger import BoundColumns
from perstep.report.panels import Panel
from perstep.report.table import Table


@dataclass(frozen=True)
class DeviceLane:
    """What the device does in a step, in nanoseconds per step, in the order of the parts.

    Attributes:
        busy_ns: part -> its kernels.
        idle_ns: the rest of the step.
        step_ns: of the lane: the step without instruments at the profiled positions, or the stream's own.
        kernels: part -> the names of its kernels with their time, those that take the most first.
        words: what the times are, in a sentence.
    """

    busy_ns: Mapping[str, float]
    idle_ns: float
    step_ns: float
    words: str
    kernels: Mapping[str, Sequence[tuple[str, float]]] = field(default_factory=dict)


class PartTime(Protocol):
    """The time of a part in a step, in nanoseconds: a part of a ledger, or of somebody else's trace."""

    @property
    def ns(self) -> float:
        """Per step, exclusive of other parts."""
        ...

    @property
    def share(self) -> float:
        """Of the step."""
        ...

    @property
    def ci_low(self) -> float | None:
        """The lower end of its interval; None without one."""
        ...

    @property
    def ci_high(self) -> float | None:
        """Its upper end."""
        ...


@dataclass(frozen=True)
class StepParts:
    """Parts and residual of a step that perstep did not measure itself.

    Attributes:
        kind: of step.
        step_ns: parts and residual together.
        parts: by name, in the order of the step.
        residual_ns: what no part has.
        residual_share: of the step.
        rounds: how many steps stand for it.
        words: how long the step is and what is to be known of it, in a sentence.
    """

    kind: str
    step_ns: float
    parts: Mapping[str, PartTime]
    residual_ns: float
    residual_share: float
    rounds: int
    words: str


@dataclass(frozen=True)
class LedgerView:
    """A ledger as bars, a row a part.

    Attributes:
        title: what was measured.
        ledger: what was found.
        bounds: what theory says of its parts, if anything.
        samples: its steps, for the rounds of a part; None where the page has none.
        order: the order of the arms in each round, or nothing.
        device: the lane of the device; None without one.
        about: part -> what lies inside it.
    """

    title: str
    ledger: Ledger | StepParts
    bounds: BoundColumns | None = None
    samples: LedgerSamples | None = None
    order: Sequence[str] = ()
    device: DeviceLane | None = None
    about: Mapping[str, str] = field(default_factory=dict)


Found = tuple[float | None, float | None, float | None]
"""A value with the ends of its interval."""


@dataclass(frozen=True)
class Bar:
    """A row of `Bars`: a value with its interval, both in the unit of the figure, and what is said of it."""

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    words: str = ""
    reference: float | None = None

    @classmethod
    def scaled(cls, name: str, estimate: Found, by: float, words: str = "", reference: float | None = None) -> "Bar":
        """A row in another unit.

        Args:
            name: of the row.
            estimate: the value with the ends of its interval.
            by: all are multiplied with it.
            words: what is said of it.
            reference: a line beside it, in the unit of the figure.
        """
        value, low, high = (None if one is None else by * one for one in estimate)
        return cls(name, value, low, high, words, reference)

    @classmethod
    def of_change(cls, name: str, change: RelativeChange, words: str) -> "Bar":
        """A change in per cent with its interval; without one nothing is drawn, and the words say so."""
        has_interval = change.ci_low is not None
        return cls.scaled(name, (change.change if has_interval else None, change.ci_low, change.ci_high), 100.0, words)


@dataclass(frozen=True)
class TwoRuns:
    """What a part took in two runs, in nanoseconds.

    Attributes:
        names: of the new run and of its reference.
        parts: name -> [rounds, passes, positions] of the new run and of its reference.
    """

    names: tuple[str, str]
    parts: Mapping[str, tuple[NDArray[np.int64], NDArray[np.int64]]]


@dataclass(frozen=True)
class Bars:
    """Values with their intervals, one below the other.

    Attributes:
        title: the finding.
        unit: of the values.
        bars: in their order.
        within: changes: ± this much counts as the same, and bars begin at 0 in the middle; None for amounts.
        note: a sentence below.
        rounds: of the bars, by name; None where the page has none.
    """

    title: str
    unit: str
    bars: Sequence[Bar]
    within: float | None = None
    note: str = ""
    rounds: TwoRuns | None = None


@dataclass(frozen=True)
class Spot:
    """A part on a roofline: operations a byte, operations a second, and what is said of it."""

    name: str
    intensity: float
    per_s: float
    words: str


@dataclass(frozen=True)
class Roofline:
    """Where parts stand under the ceilings of the machine.

    Attributes:
        title: what is shown.
        peak_per_s: operations a second at most.
        roofs: the size of a set -> bytes a second at which it can be read at most.
        spots: the parts.
        note: a sentence below.
    """

    title: str
    peak_per_s: float
    roofs: Mapping[str, float]
    spots: Sequence[Spot]
    note: str = ""


Drawn = LedgerView | Bars | Panel | Roofline
"""A figure of a page."""


@dataclass(frozen=True)
class Content:
    """What an experiment gives to its page, beside its tables.

    Attributes:
        finding: one sentence, with its interval.
        figures: the main one first.
    """

    finding: str
    figures: Sequence[Drawn] = ()


@dataclass(frozen=True)
class Page:
    """A page.

    Attributes:
        kind: what made it: the name of an experiment, `comparison`, `history`.
        title: of the browser's window.
        subject: what was measured, in words.
        content: the sentence and the figures.
        tables: all that was found.
        stops: why no number may be quoted: the findings are invalid, not resolved, or of a part of the model.
        warnings: what to know before a number is quoted.
        facts: heading -> facts by name, as they were: the command, the machine, the conditions.
        inside: part -> what lies inside it, in words.
        holds: what the page contains, and what not, in sentences. Each page also says that nothing is fetched or sent.
        version: of perstep.
    """

    kind: str
    title: str
    subject: str
    content: Content
    tables: Sequence[Table]
    facts: Mapping[str, Mapping[str, str]]
    holds: Sequence[str]
    version: str
    stops: Sequence[str] = ()
    warnings: Sequence[str] = ()
    inside: Mapping[str, str] = field(default_factory=dict)
