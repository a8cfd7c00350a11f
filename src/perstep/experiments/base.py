"""What an experiment is: a module with four parts, plan → measure → analyse → show.

Its samples go to disk a round at a time; analysis is a pure function of manifest and samples, so that
every table and picture can be made again without measuring. `pipeline` drives it, `registry` lists it.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from perstep._json import Json
from perstep.experiments.conditions import Facts
from perstep.machine import NoiseSummary
from perstep.measure import Clock, Effort, LedgerSamples, Progress, Resolved
from perstep.report import Table
from perstep.report.export import Measured
from perstep.report.page import Content
from perstep.runs import Manifest
from perstep.stats import RunCost

AnyPlan = Any
"""The options of one experiment, a struct of its own type."""
AnySample = Any
"""A round of one experiment, a struct of its type `Sample`."""
AnyFindings = Any
"""The findings of one experiment, a struct of its own type."""


class Findings(Protocol):
    """What an experiment found: a msgspec Struct that becomes `results.json`."""

    @property
    def noise(self) -> NoiseSummary:
        """What disturbed the rounds."""
        ...

    @property
    def invalid(self) -> str:
        """Why the findings are invalid, or empty."""
        ...

    @property
    def unresolved(self) -> str:
        """What the rounds could not resolve, or empty."""
        ...


class Session(Protocol):
    """A prepared measurement: the input is checked, the target loaded and warm; nothing is on disk yet."""

    manifest: Manifest
    effort: Effort

    def measure_round(self, number: int) -> AnySample:
        """Measure one complete balanced round; the sample that becomes a line of `samples.jsonl`.

        It has a field `noise`, the `perstep.machine.Noise` of the round.
        """
        ...

    def resolved(self, samples: Sequence[AnySample]) -> Resolved:
        """How narrow the intervals are by now."""
        ...

    def go_on_from(self, manifest: Manifest) -> None:
        """Called once before measuring goes on with a stored run, with its manifest."""
        ...

    def finish(self) -> None:
        """Check that the state is as before (law "the state is as before"); raises InvalidMeasurement if it is not."""
        ...


class Experiment(Protocol):
    """The names that an experiment's module has.

    `Conditions` and `Workload` say what the manifest holds under these names. An experiment that knows more of its
    model than `conditions.Model` says it likewise.
    """

    Sample: type
    Conditions: type[Facts]
    Workload: type[Facts]

    def prepare(self, plan: AnyPlan, progress: Progress, clock: Clock) -> Session:
        """Check the plan, load the target, warm up.

        Raises:
            InputError: something in the plan is wrong; nothing has been written.
        """
        ...

    def analyse(self, manifest: Manifest, samples: Sequence[AnySample]) -> Findings:
        """What the samples say: a pure function.

        Raises:
            InputError: there are no samples.
        """
        ...

    def tables(self, manifest: Manifest, findings: AnyFindings) -> list[Table]:
        """The findings as tables."""
        ...

    def csv(self, findings: AnyFindings) -> str:
        """The findings as one table of plain numbers."""
        ...

    def files(self, manifest: Manifest, findings: AnyFindings) -> Mapping[str, bytes]:
        """The derived files beside `results.json`, by name."""
        ...

    def summary(self, findings: AnyFindings) -> dict[str, Json]:
        """The headline figures for the manifest's `results_summary`."""
        ...


@runtime_checkable
class HasTimeline(Protocol):
    """What an experiment has besides, if its rounds are no passes over a trace and its runs can be exported."""

    def timeline(self, manifest: Manifest, samples: Sequence[AnySample]) -> Iterable[Iterable[Measured]]:
        """What each round measured, in the order in which it ran."""
        ...


@runtime_checkable
class HasPairs(Protocol):
    """What an experiment has besides, if two of its runs are compared measurement by measurement."""

    def paired(
        self, ref: Sequence[AnySample], new: Sequence[AnySample]
    ) -> tuple[Mapping[str, RunCost], Mapping[str, RunCost], list[str]]:
        """The costs of two runs over what both measured, by name, the headline first, and what a reader must know.

        Raises:
            InputError: nothing was measured in both.
        """
        ...


@runtime_checkable
class HasLedger(Protocol):
    """What an experiment has besides, if its runs can be compared part by part and exported."""

    def ledger_samples(self, samples: Sequence[AnySample]) -> Mapping[str, LedgerSamples]:
        """The samples as arrays, by kind of step, the headline kind first."""
        ...


@runtime_checkable
class HasContent(Protocol):
    """What an experiment has besides, if its page shows more than its headline and its tables."""

    def content(self, manifest: Manifest, findings: AnyFindings, samples: Sequence[AnySample]) -> Content:
        """The sentence and the figures of `report.html`, from the same numbers as the tables."""
        ...
