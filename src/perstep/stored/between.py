"""Two stored runs against each other, part by part: a pure analysis.

Stored runs did not take turns, so every interval includes how much runs of the same code differ
on this machine, which `repeats.py` learns from others than these two (docs/compare.md). Work
that is not the same is refused by the name of what differs. Live comparison, which needs none
of this, is `compare.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import msgspec
import numpy as np
from numpy.typing import NDArray

from perstep._json import Json
from perstep.errors import InputError
from perstep.machine import Machine, identity
from perstep.measure import RESIDUAL, LedgerSamples, pieces_at_the_mean
from perstep.measure.names import STEP, is_headline, kind_of, part_name
from perstep.report.change import RelativeChange
from perstep.runs import Manifest
from perstep.stats import (
    MIN_ROUNDS_FOR_VERDICT,
    MIN_SPREAD_DF,
    RunCost,
    Spread,
    Verdict,
    ledger_estimate,
    round_levels,
    step_estimate,
    unpaired_change,
)


@dataclass(frozen=True)
class Run:
    """A stored run, reduced to its costs.

    Attributes:
        name: what it is called in a comparison.
        manifest: as stored.
        costs: `step` (the headline), the decode parts and `residual`; `prefill.step` and so on. Nanoseconds per step.
        notes: what was repaired while it was read.
    """

    name: str
    manifest: Manifest
    costs: dict[str, RunCost]
    notes: list[str]


class SpreadOfRuns(msgspec.Struct, frozen=True, kw_only=True):
    """How much runs of the same code differ, and where that is known from.

    Attributes:
        source: `runs` (other stored runs of this workload), `machine` (the self-test) or `none`.
        runs: A/A runs behind it.
        parts: part -> the spread of its cost.
        sentence: the same for a person.
    """

    source: str
    runs: int
    parts: dict[str, Spread]
    sentence: str

    def of(self, part: str) -> Spread | None:
        """The spread of one part; the widest of the self-test's for a part that the self-test does not have."""
        if part not in self.parts and self.source == "machine":
            return max(self.parts.values(), key=lambda spread: spread.sd_log)
        return self.parts.get(part)


class RunFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Which run stands on one side of a comparison."""

    name: str
    experiment: str
    started_at: str
    perstep_version: str
    git_commit: str
    machine: str
    rounds: int


class PartChange(RelativeChange, frozen=True, kw_only=True):
    """One row of a comparison; between-run noise is in the interval of its change.

    Attributes:
        part: `step` is the step without instruments; parts are named as in the ledger.
        kind: of step: `decode`, `prefill`.
        ref_ns: per step in the reference; None where it has no such part.
        ref_ci_low_ns: lower end of its interval from its own rounds, or None.
        ref_ci_high_ns: upper end.
        new_ns: per step in the new run; None where it has no such part.
        new_ci_low_ns: lower end of its interval from its own rounds, or None.
        new_ci_high_ns: upper end.
        sd_log: the spread of runs that went into it; None if not known.
        rounds: of the run that has fewer.
    """

    part: str
    kind: str
    ref_ns: float | None
    ref_ci_low_ns: float | None = None
    ref_ci_high_ns: float | None = None
    new_ns: float | None
    new_ci_low_ns: float | None = None
    new_ci_high_ns: float | None = None
    sd_log: float | None = None
    rounds: int

    @property
    def trusted(self) -> bool:
        """Whether the rounds are enough for a verdict."""
        return self.rounds >= MIN_ROUNDS_FOR_VERDICT


class StoredComparison(msgspec.Struct, frozen=True, kw_only=True):
    """What two stored runs say about each other.

    Attributes:
        ref: the reference.
        new: what is compared with it.
        workload: what the new run measured, in words and shapes.
        different_work: what differs in the work or the machine, allowed by the caller.
        different_code: what differs in the code that did it: versions, commits.
        spread: how much runs of the same code differ.
        confidence: of all intervals of one kind of step together.
        threshold: T of `same (within ±T)`.
        parts: the headline first, then its parts; one kind of step after the other.
        unresolved: why the headline has no verdict, or empty.
        notes: what a reader must know.
        schema_version: of this record.
    """

    ref: RunFacts
    new: RunFacts
    workload: str
    different_work: list[str]
    different_code: list[str]
    spread: SpreadOfRuns
    confidence: float
    threshold: float
    parts: list[PartChange]
    unresolved: str
    notes: list[str]
    schema_version: int = 2


def costs_of(ledgers: Mapping[str, LedgerSamples]) -> dict[str, RunCost]:
    """Every cost of a run: law-9 estimates in nanoseconds per step, and how slow each round was."""
    costs = {}
    for kind, samples in ledgers.items():
        estimate = ledger_estimate(_steps(samples.step_ns), {name: _steps(ns) for name, ns in samples.parts.items()})
        levels = partial(_levels, pieces=samples.pieces)
        costs[part_name(kind, STEP)] = RunCost(
            step_estimate(_steps(samples.plain_ns)), levels(samples.plain_ns), samples.plain_ns
        )
        for name, ns in samples.parts.items():
            costs[part_name(kind, name)] = RunCost(estimate.parts_ns[name], levels(ns), ns)
        costs[part_name(kind, RESIDUAL)] = RunCost(
            estimate.residual_ns, levels(samples.residual_ns), samples.residual_ns
        )
    return costs


def _levels(ns: NDArray[np.int64], pieces: int) -> NDArray[np.float64]:
    """How slow each round was; where it is a piece of a call, at the mean position."""
    if not pieces:
        return round_levels(ns)
    return pieces_at_the_mean(ns, pieces)


def machine_identity(manifest: Manifest) -> str | None:
    """The identity of the machine that a run was measured on; None if its manifest does not say."""
    try:
        return identity(msgspec.convert(manifest.machine, Machine))
    except msgspec.ValidationError:
        return None


def different_work(ref: Manifest, new: Manifest) -> list[str]:
    """What makes two runs incomparable: `threads: 1 → 2`, one entry a field; an empty list if nothing does."""
    if ref.experiment != new.experiment:  # nothing else can be compared
        return [f"experiment: {ref.experiment} → {new.experiment}"]
    fields: list[tuple[str, Json, Json]] = [("schema_version", ref.schema_version, new.schema_version)]
    fields += [(name, ref.workload.get(name), new.workload.get(name)) for name in {**ref.workload, **new.workload}]
    fields.append(("machine", machine_identity(ref), machine_identity(new)))
    differences = [f"{name}: {_short(old)} → {_short(now)}" for name, old, now in fields if old != now]
    names = [str(manifest.model.get("name")) for manifest in (ref, new)]
    return [f"model: {' → '.join(names)}", *differences] if differences and len(set(names)) > 1 else differences


def different_code(ref: Manifest, new: Manifest) -> list[str]:
    """What differs in the code that did the work, which a comparison may well be about: `numpy: 2.2.0 → 2.3.1`."""
    old, now = (code_of(manifest) for manifest in (ref, new))
    return [
        f"{name}: {_short(old.get(name))} → {_short(now.get(name))}"
        for name in {**old, **now}
        if old.get(name) != now.get(name)
    ]


def code_of(manifest: Manifest) -> dict[str, Json]:
    """The code behind a run: perstep, Python, packages, the commit of the working folder, the arm it measured."""
    software, git = (manifest.machine.get(name, {}) for name in ("software", "git"))
    return {
        "perstep": manifest.perstep_version,
        "python": software.get("python"),
        **software.get("packages", {}),
        "git_commit": git.get("commit"),
        "uncommitted changes": git.get("dirty"),
        "arm": manifest.conditions.get("arm"),
    }


def refuse_different_work(ref: Manifest, new: Manifest, *, allow: bool) -> list[str]:
    """What differs in the work, if that is allowed.

    Raises:
        InputError: something does and it is not; it is named.
    """
    differing = different_work(ref, new)
    if differing and not allow:
        raise InputError(
            f"the runs did not do the same work: {'; '.join(differing)}; measure again with the same options, or"
            " compare them anyway with --allow-different"
        )
    return differing


def compare_runs(
    ref: Run,
    new: Run,
    spread: SpreadOfRuns,
    *,
    parts: Sequence[str] | None = None,
    threshold: float = 0.01,
    confidence: float = 0.95,
    allow_different: bool = False,
) -> StoredComparison:
    """Compare two stored runs part by part.

    Args:
        ref: the reference.
        new: what is compared with it.
        spread: how much runs of the same code differ, learned from others than these two.
        parts: only these, all in one family of intervals; all if None, a family for each kind of step.
        threshold: T of `same (within ±T)`.
        confidence: of all intervals of a family together (Bonferroni).
        allow_different: compare runs that did not do the same work.

    Raises:
        InputError: the runs did not do the same work, or a part is in neither of them.
    """
    differing = refuse_different_work(ref.manifest, new.manifest, allow=allow_different)
    names = list({**ref.costs, **new.costs}) if parts is None else _known(parts, ref, new)
    rows = []
    for name in names:
        family = [n for n in names if parts is not None or kind_of(n) == kind_of(name)]
        rows.append(_row(name, ref, new, spread.of(name), len(family), threshold, confidence))
    headline = next((row for row in rows if is_headline(row.part)), rows[0])
    return StoredComparison(
        ref=_facts(ref),
        new=_facts(new),
        workload=_workload_in_words(new.manifest),
        different_work=differing,
        different_code=different_code(ref.manifest, new.manifest),
        spread=spread,
        confidence=confidence,
        threshold=threshold,
        parts=rows,
        unresolved="" if headline.resolved else f"{headline.part}: {headline.reason}",
        notes=[f"{run.name}: {note}" for run in (ref, new) for note in run.notes],
    )


def _known(parts: Sequence[str], ref: Run, new: Run) -> list[str]:
    for part in parts:
        if part not in ref.costs and part not in new.costs:
            raise InputError(f"no part {part!r}; these runs have {', '.join({**ref.costs, **new.costs})}")
    return list(dict.fromkeys(parts))


def _row(
    name: str, ref: Run, new: Run, spread: Spread | None, comparisons: int, threshold: float, confidence: float
) -> PartChange:
    old, now = ref.costs.get(name), new.costs.get(name)
    if old is None or now is None:
        return _one_sided(name, ref, new)
    change = unpaired_change(old, now, spread, comparisons=comparisons, confidence=confidence, threshold=threshold)
    return PartChange.of(
        change,
        part=name,
        kind=kind_of(name),
        ref_ns=old.estimate,
        ref_ci_low_ns=change.reference.low if change.reference else None,
        ref_ci_high_ns=change.reference.high if change.reference else None,
        new_ns=now.estimate,
        new_ci_low_ns=change.candidate.low if change.candidate else None,
        new_ci_high_ns=change.candidate.high if change.candidate else None,
        sd_log=spread.sd_log if spread and spread.df >= MIN_SPREAD_DF else None,
        rounds=min(old.rounds.size, now.rounds.size),
    )


def _one_sided(name: str, ref: Run, new: Run) -> PartChange:
    old, now = ref.costs.get(name), new.costs.get(name)
    return PartChange(
        part=name,
        kind=kind_of(name),
        ref_ns=old.estimate if old else None,
        new_ns=now.estimate if now else None,
        rounds=0,
        verdict=str(Verdict.NOT_RESOLVED),
        reason=f"only {ref.name if old else new.name} has it",
    )


def _facts(run: Run) -> RunFacts:
    manifest = run.manifest
    return RunFacts(
        name=run.name,
        experiment=manifest.experiment,
        started_at=manifest.started_at,
        perstep_version=manifest.perstep_version,
        git_commit=str(manifest.machine.get("git", {}).get("commit", "unknown")),
        machine=machine_identity(manifest) or "unknown",
        rounds=num_rounds(run),
    )


def _workload_in_words(manifest: Manifest) -> str:
    shapes = [f"{name} {value}" for name, value in manifest.workload.items() if not name.endswith("sha256")]
    return f"{manifest.model.get('name', manifest.experiment)} ({', '.join(shapes)})"


def num_rounds(run: Run) -> int:
    """Finished rounds of a run."""
    return next(iter(run.costs.values())).rounds.size


def _short(value: object) -> str:
    """A hash by its first 12 digits."""
    text = "none" if value is None else str(value)
    is_hash = len(text) in (40, 64) and set(text) <= set("0123456789abcdef")
    return text[:12] if is_hash else text


def _steps(ns: NDArray[np.int64]) -> NDArray[np.int64]:
    """[rounds, passes, positions] → [rounds * passes, positions]."""
    return ns.reshape(-1, ns.shape[-1])
