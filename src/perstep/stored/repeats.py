"""How much runs of the same code differ: learned from A/A runs on disk, or taken from the self-test.

A/A runs are stored runs and baselines of the compared workload on the compared machine, in groups that
share the code (perstep, Python, packages, commit), complete, valid, of 20 rounds or more, and neither
of the two that are compared, under whatever name. A run with uncommitted changes shares its code with none.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from perstep.errors import InputError, InvalidMeasurement, PerstepError
from perstep.experiments.base import HasPairs
from perstep.experiments.pipeline import Loaded, ledgers_of, load
from perstep.experiments.registry import find
from perstep.machine import BetweenRunNoise, load_between_run_noise
from perstep.measure.names import is_headline
from perstep.report.format import percent, plural
from perstep.runs import BASELINES, RUNS, Manifest, Status, StoredRun, list_runs, open_run
from perstep.stats import MIN_ROUNDS_FOR_VERDICT, MIN_SPREAD_DF, Spread, pooled_spread
from perstep.stored.between import (
    Run,
    SpreadOfRuns,
    code_of,
    costs_of,
    machine_identity,
    num_rounds,
    refuse_different_work,
)

MAX_REPEATS = 32
"""Most A/A runs that are read, the newest: t is 2.04 at 31 degrees of freedom and hardly falls after that."""


ENOUGH_DF = 10
"""Below this, more A/A runs narrow intervals much: t for twelve parts is 3.7 at 10 degrees of freedom, 7.9 at 3."""


@dataclass(frozen=True)
class Pair:
    """Two stored runs, read, and how much runs of their kind differ.

    Attributes:
        ref: the reference.
        new: what is compared with it.
        spread: learned from other runs than these.
        new_folder: where `new` lies.
    """

    ref: Run
    new: Run
    spread: SpreadOfRuns
    new_folder: Path


def load_pair(ref: str | Path, new: str | Path, *, allow_different: bool = False) -> Pair:
    """Everything that a comparison of two stored runs needs.

    Args:
        ref: a folder, a run's name or number, or a baseline.
        new: the same.
        allow_different: read runs that did not do the same work.

    Raises:
        InputError: there is no such run, both are one, they did not do the same work, or samples are damaged.
        InvalidMeasurement: one of them is invalid.
    """
    old, now = open_run(ref), open_run(new)
    # From the manifests alone, before any samples are read.
    refuse_different_work(old.manifest, now.manifest, allow=allow_different)
    if old.manifest.run_id == now.manifest.run_id:
        raise InputError(f"{ref} and {new} are the same run, or one is a copy of the other; compare different runs")
    names = (str(ref), str(new)) if old.folder.name == now.folder.name else ("", "")
    runs = _paired(old, now, names) or (reduce_run(old, names[0]), reduce_run(now, names[1]))
    return Pair(*runs, learn_spread(old, now), now.folder)


def _paired(ref: StoredRun, new: StoredRun, names: tuple[str, str]) -> tuple[Run, Run] | None:
    """Two runs whose measurements are paired, reduced to what both measured; None where the experiment pairs none.

    Raises:
        InputError: they cannot be read, or nothing was measured in both.
        InvalidMeasurement: the findings of one are invalid.
    """
    experiment = find(ref.manifest.experiment)
    if ref.manifest.experiment != new.manifest.experiment or not isinstance(experiment, HasPairs):
        return None
    both = load(ref), load(new)
    for one in both:
        if one.findings.invalid:
            raise InvalidMeasurement(f"{one.stored.folder} is invalid: {one.findings.invalid}")
    *costs, notes = experiment.paired(both[0].samples, both[1].samples)
    old, now = (
        Run(name or one.stored.folder.resolve().name, one.stored.manifest, dict(cost), _notes(one))
        for one, cost, name in zip(both, costs, names, strict=True)
    )
    now.notes.extend(notes)
    return old, now


def _notes(loaded: Loaded) -> list[str]:
    """What was repaired while a run was read, and that it is not complete."""
    status = loaded.stored.status
    unfinished = f"the run is {status}; the figures are from the rounds that were finished"
    return [*loaded.notes, *([] if status == Status.COMPLETE else [unfinished])]


def reduce_run(stored: StoredRun, name: str = "") -> Run:
    """A stored run, reduced to its costs.

    Args:
        stored: the run.
        name: what it is called in a comparison; its folder's name by default.

    Raises:
        InputError: it cannot be read, or has no ledger to compare.
        InvalidMeasurement: its findings are invalid.
    """
    loaded = load(stored)
    if isinstance(loaded.experiment, HasPairs):
        costs = dict(loaded.experiment.paired(loaded.samples, loaded.samples)[0])
    else:
        costs = costs_of(ledgers_of(loaded))
    return Run(name or stored.folder.resolve().name, stored.manifest, costs, _notes(loaded))


def learn_spread(
    ref: StoredRun, new: StoredRun, roots: Sequence[Path] = (RUNS, BASELINES), cache: Path | None = None
) -> SpreadOfRuns:
    """How much runs of the same code differ, for a comparison of these two.

    Args:
        ref: the one run.
        new: the other run.
        roots: where other runs lie.
        cache: the folder of what the self-test learned; the user's by default.
    """
    learned = spread_of(_repeats(ref, new, roots))
    if any(spread.df >= MIN_SPREAD_DF for spread in learned.parts.values()):
        return learned
    machines = {machine_identity(run.manifest) for run in (ref, new)}
    records = [load_between_run_noise(machine, cache) if machine else None for machine in machines]
    usable = [record for record in records if record is not None and record.df >= MIN_SPREAD_DF]
    if len(usable) < len(records):
        return SpreadOfRuns(source="none", runs=learned.runs, parts={}, sentence=_unknown(learned.runs))
    return _from_machine(max(usable, key=lambda record: max(record.sd_log.values())), learned.runs)


def spread_of(groups: Iterable[Sequence[Mapping[str, float]]]) -> SpreadOfRuns:
    """The spread of each part, pooled over groups of runs of one code.

    Args:
        groups: the runs of each code: part -> estimate in nanoseconds per step. A part counts in the groups in
            which every run has it and it took time.
    """
    kept = [group for group in groups if len(group) > 1]
    parts = {}
    for part in dict.fromkeys(part for group in kept for run in group for part in run):
        having = [[run[part] for run in group] for group in kept if all(run.get(part, 0) > 0 for run in group)]
        spread = pooled_spread(having)
        if spread is not None:
            parts[part] = spread
    runs = sum(len(group) for group in kept)
    return SpreadOfRuns(source="runs", runs=runs, parts=parts, sentence=_known(runs, parts))


def machine_record(runs: Sequence[Run], *, workload: str, measured_at: str) -> BetweenRunNoise | None:
    """What the self-test keeps of A/A runs of one workload, for `perstep.machine.save_between_run_noise`.

    Args:
        runs: of one code and workload on this machine.
        workload: what they measured, in words.
        measured_at: UTC, ISO 8601.

    Returns:
        The record; None with fewer than two runs, or a machine that is not known.
    """
    machine = machine_identity(runs[0].manifest) if runs else None
    parts = spread_of([[{part: cost.estimate for part, cost in run.costs.items()} for run in runs]]).parts
    if machine is None or not parts:
        return None
    return BetweenRunNoise(
        identity=machine,
        sd_log={part: spread.sd_log for part, spread in parts.items()},
        df=len(runs) - 1,
        runs=len(runs),
        workload=workload,
        measured_at=measured_at,
        perstep_version=runs[0].manifest.perstep_version,
    )


def _known(runs: int, parts: Mapping[str, Spread]) -> str:
    part = next((name for name in parts if is_headline(name)), None)
    if part is None:
        return ""
    return (
        f"Stored runs do not take turns: runs of the same code differ by {percent(parts[part].sd_log, 2)} (standard"
        f" deviation of {part}), as {plural(runs, 'other run')} of this workload on this machine"
        f" show ({parts[part].df} degrees of freedom). Every interval includes that"
        f"{'; more runs of one code would narrow it.' if parts[part].df < ENOUGH_DF else '.'}"
    )


def _unknown(runs: int) -> str:
    return (
        "Stored runs do not take turns, and how much runs of the same code differ on this machine is not known"
        f" ({_too_few(runs)}), so there are no intervals and no verdicts. Run `perstep selftest` once, or measure one"
        f" of the two {MIN_SPREAD_DF + 1} times more with the same code; or let both take turns:"
        " `perstep compare --live`."
    )


def _from_machine(record: BetweenRunNoise, runs: int) -> SpreadOfRuns:
    return SpreadOfRuns(
        source="machine",
        runs=record.runs,
        parts={part: Spread(sd_log, record.df) for part, sd_log in record.sd_log.items()},
        sentence=(
            "Stored runs do not take turns: runs of the same code differ by up to"
            f" {percent(max(record.sd_log.values()), 2)} (standard deviation of a part), as the self-test's"
            f" {plural(record.runs, 'run')} of {record.workload} on this machine show. Every interval includes that."
            f" It is the noise of another workload, because {_too_few(runs)}."
        ),
    )


def _too_few(runs: int) -> str:
    there = f"{'are' if runs > 1 else 'is'} {runs or 'no'} other stored run{'s' if runs > 1 else ''}"
    return f"there {there} of this workload with one code, and {MIN_SPREAD_DF + 1} are needed"


def _repeats(ref: StoredRun, new: StoredRun, roots: Sequence[Path]) -> list[list[dict[str, float]]]:
    """Estimates of the A/A runs, in groups of one code."""
    wanted = {_work(run.manifest) for run in (ref, new)}
    candidates = [run for root in roots for run in list_runs(root) if _counts(run) and _work(run.manifest) in wanted]
    candidates.sort(key=lambda run: run.manifest.started_at, reverse=True)
    seen = {ref.manifest.run_id, new.manifest.run_id}
    groups: dict[bytes, list[dict[str, float]]] = defaultdict(list)
    for stored in candidates:
        run_id = stored.manifest.run_id  # a copy has the same
        if run_id in seen or sum(map(len, groups.values())) == MAX_REPEATS:
            continue
        seen.add(run_id)
        try:
            run = reduce_run(stored)
        except PerstepError:
            continue  # damaged or invalid: it says nothing about noise, and is not what was asked about
        if num_rounds(run) >= MIN_ROUNDS_FOR_VERDICT:
            costs = {part: cost.estimate for part, cost in run.costs.items()}
            groups[msgspec.json.encode(code_of(stored.manifest))].append(costs)
    return list(groups.values())


def _counts(run: StoredRun) -> bool:
    dirty = run.manifest.machine.get("git", {}).get("dirty")
    return run.manifest.status is Status.COMPLETE and dirty is not True and machine_identity(run.manifest) is not None


def _work(manifest: Manifest) -> bytes:
    facts = [manifest.experiment, manifest.schema_version, manifest.workload, machine_identity(manifest)]
    return msgspec.json.encode(facts, order="sorted")
