"""`perstep.compare`: callables of this process, compared by interleaved rounds."""

from collections.abc import Callable, Mapping, Sequence
from math import inf

from perstep._shown import html
from perstep._words import plural
from perstep.errors import InputError
from perstep.experiments.arms import Result, call_alarm, check_results, reference_first
from perstep.experiments.compare.findings import ArmResult, CompareFindings, analyse
from perstep.experiments.compare.samples import Sample
from perstep.experiments.compare.session import CompareSession, patience_s
from perstep.experiments.compare.show import comparison_tables
from perstep.experiments.session import measure_rounds
from perstep.measure import Clock, Effort, HostClock, Progress, collector_off
from perstep.measure.blocks import ArmFailed, CallableArm
from perstep.report import to_text
from perstep.report.notebook import meter
from perstep.runs import Manifest


class Comparison(CompareFindings, frozen=True, kw_only=True):
    """The result of `perstep.compare`: `comparison["new"]` is one arm's result, `str()` gives a table."""

    def __getitem__(self, name: str) -> ArmResult:
        return self.arms[name]

    def __repr__(self) -> str:
        others = [f"{arm.name} {arm.wall.verdict}" for arm in self.arms.values() if arm.name != self.reference]
        return f"<Comparison with {self.reference}, {plural(self.rounds, 'round')}: {'; '.join(others)}>"

    def _repr_html_(self) -> str | None:
        return html(comparison_tables(self))

    def __str__(self) -> str:
        return "\n\n".join(to_text(table) for table in comparison_tables(self))


def _comparison(manifest: Manifest, samples: Sequence[Sample]) -> Comparison:
    findings = analyse(manifest, samples)
    return Comparison(**{name: getattr(findings, name) for name in findings.__struct_fields__})


def compare(
    arms: Mapping[str, Callable[[], object]],
    *,
    reference: str | None = None,
    budget_s: float = 5.0,
    precision: float = 0.005,
    rounds: int | None = None,
    threshold: float = 0.01,
    check: bool | Callable[[Result, Result], bool] = False,
    seed: int = 0,
    clock: Clock | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Compare callables by interleaved rounds.

    Args:
        arms: name -> callable without arguments, two or more.
        reference: the arm that the others are compared with; the first if None.
        budget_s: seconds after which no new round begins.
        precision: stop earlier when the widest interval's half-width is this relative change.
        rounds: measure exactly this number of rounds; budget and precision are ignored.
        threshold: T of `same (within ±T)`.
        check: True calls every arm once and requires equal results; a function gets the results of the reference and of
            another arm and returns whether they agree.
        seed: of the order of turns.
        clock: the host's, unless a test passes its own.
        progress: called after each round; in a notebook a line on stderr if None.

    Returns:
        The comparison; its text is a table.

    Raises:
        ArmFailed: a callable raised, did not return within twice the budget, or gave another result; it says which
            arm and which call, and its `partial` is the Comparison over the rounds before, if there were enough.
        InputError: fewer than two arms, or options out of their range.
    """
    clock = clock or HostClock()
    progress = meter(progress)
    ordered = reference_first(arms, reference)
    if budget_s <= 0 or not 0 < precision < 1 or not 0 <= threshold < 1 or (rounds is not None and rounds < 1):
        raise InputError("budget_s, precision, threshold and rounds must be above 0, shares below 1")
    check_results(ordered, check)
    effort = Effort(precision=precision, budget_s=budget_s) if rounds is None else Effort(None, inf, rounds)
    timed = {name: CallableArm(name, call, clock) for name, call in ordered.items()}
    # Each round has an alarm of its own: one over all would blame a call for a machine that was busy.
    with collector_off(), call_alarm(patience_s(effort)):
        session = CompareSession(timed, effort, seed=seed, clock=clock, progress=progress, threshold=threshold)
    return _measured(session, clock, progress)


def _measured(session: CompareSession, clock: Clock, progress: Progress) -> Comparison:
    """Rounds until the session's effort is spent; an arm that fails takes along what the rounds before it say."""
    samples: list[Sample] = []
    try:
        measure_rounds(session, samples, clock=clock, progress=progress)
    except ArmFailed as failed:
        if samples:
            failed.partial = _comparison(session.manifest, samples)
        raise
    return _comparison(session.manifest, samples)
