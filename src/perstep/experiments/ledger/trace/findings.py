"""What a torch Chrome trace says of a step: the host's time and a device's work by part, over the steps of the trace.

The profiler was on in these steps, so the host was slower than without it, and so was the step; kernels were not. Idle
time is therefore an upper bound of that without the profiler. A step counts as a round does elsewhere: the estimate is
the median step, with the share that each part has of its own step, and intervals are over steps, merged until they are
independent. They say how well the trace tells its own median step; nothing of another run. `show.py` has the tables.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from perstep.errors import InputError
from perstep.experiments.ledger.device.findings import DeviceWork, KernelTime, PartWork, work_of
from perstep.experiments.ledger.device.samples import profiled_round
from perstep.measure import RESIDUAL, LedgerSamples
from perstep.measure.chrome_trace import MODULE, ChromeTrace, read_chrome_trace
from perstep.measure.device_rows import RANGE_PREFIX, Row
from perstep.measure.device_work import PartWork as StepPart
from perstep.measure.device_work import StepWork, TraceWork, attribute
from perstep.measure.host_work import host_work
from perstep.measure.trace_steps import FEWEST, SLOWER, FoundSteps, TraceStep, family, find_steps, likeness, ramp_up
from perstep.report.format import plural
from perstep.stats import ledger_estimate, merge_until_independent, merged_interval

Parts = Literal["ranges", "modules"]
NAMES_SAID = 3
"""Names that are given where steps have several."""


class HostPart(msgspec.Struct, frozen=True, kw_only=True):
    """The host's time in a part of a step, on the thread of the steps and with the profiler on.

    Attributes:
        ns: exclusive of other parts.
        share: of the step.
        ci_low: lower end of the interval of `ns`, None without one.
        ci_high: its upper end.
        operators_ns: of it, in operators; the rest is in the code around them.
        operators: number that begin in a step.
        calls: operators by name, each with its own time and its share of the part, those that take the most first.
    """

    ns: float
    share: float
    ci_low: float | None
    ci_high: float | None
    operators_ns: float
    operators: float
    calls: list[KernelTime] = []


class TraceLedger(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of step of a trace.

    Attributes:
        kind: as the engine names it, or `step`.
        steps: how many are counted.
        ramp_up: how many at the beginning differ from them and are left out.
        names: of the ranges that mark the steps, the most frequent ones.
        names_in_all: how many different ones there are.
        step_ns: the median, with the profiler on.
        mean_step_ns: the mean, which steps that are slow now and then make longer.
        slow: how many take more than 1.5 times as long as the median.
        step_ci_low: lower end of its interval over steps, None without one.
        step_ci_high: its upper end.
        host: the host's time by part; parts and `residual` are the step.
        devices: number -> what the device did; `step_ns` there is the profiled step.
    """

    kind: str
    steps: int
    ramp_up: int
    names: list[str]
    names_in_all: int
    step_ns: float
    mean_step_ns: float
    slow: int
    step_ci_low: float | None
    step_ci_high: float | None
    host: dict[str, HostPart]
    devices: dict[str, DeviceWork] = {}


class TraceFindings(msgspec.Struct, frozen=True, kw_only=True):
    """What a trace says.

    Attributes:
        trace: the name of the file.
        device_names: number -> name, as far as the trace says.
        steps_by: what steps were found by.
        parts_by: `ranges`, `modules`, or `none` where the steps hold neither.
        ledgers: a kind of step each.
        notes: what was left out.
    """

    trace: str
    device_names: dict[str, str]
    steps_by: str
    parts_by: Literal["ranges", "modules", "none"]
    ledgers: list[TraceLedger]
    notes: list[str] = []


@dataclass(frozen=True)
class ReadTrace:
    """What a trace says, and by kind of step the host's time in each step that is counted, [steps, 1, 1]."""

    findings: TraceFindings
    steps: Mapping[str, LedgerSamples]


def read_trace(
    path: Path,
    *,
    step: str | None = None,
    parts: Parts | None = None,
    progress: Callable[[float], None] = lambda _share: None,
) -> ReadTrace:
    """What a trace says of its steps.

    Args:
        path: of a torch Chrome trace.
        step: name of the range that begins a step, `*` for anything; by default steps are found.
        parts: what the parts are; by default ranges, or modules if no range lies in the steps.
        progress: called with the share of the file that has been read.

    Raises:
        InputError: it is no trace, has no events that say anything, or no steps.
    """
    trace = read_chrome_trace(path, progress)
    if not (trace.work or trace.ops or trace.ranges or trace.modules):
        raise InputError(f"{path}: a trace without kernels, operators and ranges; profile with ProfilerActivity.CPU")
    if not (trace.ops or trace.ranges or trace.modules):
        raise InputError(
            f"{path}: kernels without host events, which steps and parts are found by; profile with "
            "ProfilerActivity.CPU as well"
        )
    try:
        located = find_steps(trace, name=step)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    notes = _one_process(trace, located, path)
    parts_by, rows = _parts(trace, located, parts, path)
    ledgers, steps, left_out = _ledgers(trace, located, rows)
    if not ledgers:
        raise InputError(f"{path}: {'; '.join(left_out)}; profile at least {FEWEST} steps that are alike")
    findings = TraceFindings(
        trace=path.name,
        device_names={str(number): name for number, name in trace.devices.items()},
        steps_by=located.how,
        parts_by=parts_by if rows else "none",
        ledgers=ledgers,
        notes=[*_found_notes(located), *(f"{one}." for one in left_out), *notes, *_odd(trace)],
    )
    return ReadTrace(findings, steps)


def _one_process(trace: ChromeTrace, located: FoundSteps, path: Path) -> list[str]:
    """Leave out what processes did in which the steps do not lie; says how many there are."""
    own = trace.processes[located.thread]
    others = {row.correlation for row in trace.launches if row.device != own}
    if any(row.correlation in others for row in trace.launches if row.device == own):
        raise InputError(
            f"{path}: launches of several processes share correlation ids, so their kernels cannot be told apart; "
            "give the trace of one process"
        )
    trace.work = [row for row in trace.work if row.correlation not in others]
    for name in ("ranges", "modules", "ops", "launches"):
        setattr(trace, name, [row for row in getattr(trace, name) if row.device == own])
    count = len(set(trace.processes)) - 1
    return [f"Left out: the work of {plural(count, 'other process', 'other processes')}."] if others and count else []


def _parts(trace: ChromeTrace, located: FoundSteps, asked: Parts | None, path: Path) -> tuple[Parts, list[Row]]:
    """The rows that are parts, under the names of these."""
    steps = located.steps
    ranges = _inside([row for row in trace.ranges if row.name not in located.markers], steps)
    modules = _inside(trace.modules, steps) if asked == "modules" or not ranges else []
    if asked == "modules" or (asked is None and not ranges):
        if asked and not modules:
            raise InputError(f"{path}: no call of an nn.Module in the steps; profile with with_stack=True")
        return "modules", [row._replace(name=_module_type(row.name)) for row in modules]
    often = Counter(name for name, _ in {(row.name, _step_at(row, steps)) for row in ranges})
    # A name with a number of the step or request in it occurs once: then it is the name without numbers.
    named = {name: name if 2 * count >= len(steps) else family(name) for name, count in often.items()}
    return "ranges", [row._replace(name=named[row.name].removeprefix(RANGE_PREFIX)) for row in ranges]


def _inside(rows: Sequence[Row], steps: Sequence[TraceStep]) -> list[Row]:
    """The rows that begin in a step and end before the next one has begun."""
    kept = []
    for row in rows:
        index = _step_at(row, steps)
        if index is not None and row.end_ns <= steps[index].end_ns:
            kept.append(row)
    return kept


def _step_at(row: Row, steps: Sequence[TraceStep]) -> int | None:
    index = bisect_right(steps, row.start_ns, key=lambda step: step.start_ns) - 1
    return index if index >= 0 and row.start_ns < steps[index].end_ns else None


def _module_type(name: str) -> str:
    """The class of a module: `nn.Module: Linear_3` is `Linear`."""
    return name.removeprefix(MODULE).rpartition("_")[0] or name.removeprefix(MODULE)


def _ledgers(
    trace: ChromeTrace, located: FoundSteps, parts: Sequence[Row]
) -> tuple[list[TraceLedger], dict[str, LedgerSamples], list[str]]:
    """A ledger for each kind of step, its steps, and words for the kinds of which too few are left."""
    windows = [(step.kind, step.start_ns, step.end_ns) for step in located.steps]
    own = [row for row in parts if row.stream == located.thread]
    host = host_work(windows, own, [row for row in trace.ops if row.stream == located.thread])
    devices = _device_work(trace, parts, windows)
    ledgers, steps, left_out = [], {}, []
    for kind in sorted({step.kind for step in located.steps}, key=lambda kind: (kind != "decode", kind)):
        places = [index for index, step in enumerate(located.steps) if step.kind == kind]
        contents = [_content(index, host, devices) for index in places]
        durations = [located.steps[index].duration_ns for index in places]
        first = ramp_up(durations, likeness(contents))
        if len(places) - first < FEWEST:
            left = plural(len(places), "step") + (f", {first} of them ramp-up" if first else "")
            left_out.append(f"{kind}: too few steps to show ({left})")
            continue
        ledgers.append(_ledger(kind, [located.steps[index] for index in places], places, first, host, devices))
        steps[kind] = _samples([host[index] for index in places[first:]], durations[first:])
    return ledgers, steps, left_out


def _samples(host: Sequence[StepWork], durations: Sequence[int]) -> LedgerSamples:
    """The host's time in each step, whole nanoseconds."""

    def column(ns: Sequence[int]) -> NDArray[np.int64]:
        return np.array(ns, np.int64)[:, None, None]

    names = dict.fromkeys(name for step in host for name in step.parts)
    took = {name: column([step.parts[name].busy_ns if name in step.parts else 0 for step in host]) for name in names}
    step_ns = column(durations)
    residual_ns = took.pop(RESIDUAL, np.zeros_like(step_ns))
    return LedgerSamples(step_ns[:0], step_ns, took, residual_ns, marks_per_step={})


def _device_work(
    trace: ChromeTrace, parts: Sequence[Row], windows: Sequence[tuple[str, int, int]]
) -> dict[int, TraceWork]:
    """What each device did in the steps."""
    linked = {row.linked for row in trace.work}
    host = [
        *(row._replace(name=RANGE_PREFIX + row.name) for row in parts),
        # Without their names: a kernel may have the name of the operator that launches it, as those of Triton have.
        *(row._replace(name="") for row in (*trace.ops, *trace.ranges) if row.correlation in linked),
        *trace.launches,
    ]
    by_device: dict[int, list[Row]] = {}
    for row in trace.work:
        by_device.setdefault(row.device, []).append(row)
    return {device: attribute([*host, *rows], steps=windows) for device, rows in sorted(by_device.items())}


def _content(index: int, host: Sequence[StepWork], devices: dict[int, TraceWork]) -> Counter[str]:
    """What a step consists of: its kernels by name, or its operators where there are none."""
    content: Counter[str] = Counter()
    on_devices: list[Sequence[StepWork]] = [work.steps for work in devices.values()]
    for steps in on_devices or [host]:
        for part in steps[index].parts.values():
            content.update({name: kernel.count for name, kernel in part.kernels.items()})
    return content


def _ledger(
    kind: str,
    steps: Sequence[TraceStep],
    places: Sequence[int],
    first: int,
    host: Sequence[StepWork],
    devices: dict[int, TraceWork],
) -> TraceLedger:
    kept = places[first:]
    durations = np.array([[step.duration_ns] for step in steps[first:]], np.float64)
    ends = merged_interval(merge_until_independent(durations, lambda x: x[:, 0]))
    on_host = work_of(kind, [profiled_round(TraceWork([_times(host[index])])) for index in kept], durations)
    names = Counter(step.name for step in steps[first:])
    return TraceLedger(
        kind=kind,
        steps=len(kept),
        ramp_up=first,
        names=[name for name, _ in names.most_common(NAMES_SAID)],
        names_in_all=len(names),
        step_ns=on_host.step_ns,
        mean_step_ns=float(durations.mean()),
        slow=int((durations > SLOWER * on_host.step_ns).sum()),
        step_ci_low=None if ends is None else ends.low,
        step_ci_high=None if ends is None else ends.high,
        host={name: _on_host(name, part, [host[index] for index in kept]) for name, part in on_host.parts.items()},
        devices={
            str(device): _on_device(kind, work, kept, durations)
            for device, work in devices.items()
            if any(work.steps[index].busy_ns for index in kept)
        },
    )


def _times(step: StepWork) -> StepWork:
    """The step without its operators, whose times are no kernels' and are estimated in another way."""
    return StepWork(step.kind, {name: replace(part, kernels={}) for name, part in step.parts.items()})


def _on_host(name: str, part: PartWork, steps: Sequence[StepWork]) -> HostPart:
    """The host's time in a part, and of it that in each operator: medians over the steps, which add up to the part."""
    by_step = [step.parts.get(name, StepPart()) for step in steps]

    def column(ns: Sequence[int]) -> NDArray[np.float64]:
        return np.array(ns, np.float64)[:, None]

    names = dict.fromkeys(operator for one in by_step for operator in one.kernels)
    took = {
        operator: column([one.kernels[operator].total_ns if operator in one.kernels else 0 for one in by_step])
        for operator in names
    }
    split = ledger_estimate(column([one.busy_ns for one in by_step]), took).at(part.busy_ns)
    counts = {
        operator: sum(one.kernels[operator].count for one in by_step if operator in one.kernels) for operator in names
    }
    operators_ns = sum(split.parts_ns.values())
    calls = [
        KernelTime(
            name=operator,
            short=operator,
            per_step=counts[operator] / len(by_step),
            mean_ns=ns * len(by_step) / counts[operator] if counts[operator] else 0.0,
            ns_per_step=ns,
            share=ns / part.busy_ns if part.busy_ns else 0.0,
        )
        for operator, ns in split.parts_ns.items()
    ]
    return HostPart(
        ns=part.busy_ns,
        share=part.share,
        ci_low=part.ci_low,
        ci_high=part.ci_high,
        operators_ns=operators_ns,
        operators=part.launches,
        calls=sorted(calls, key=lambda call: -call.ns_per_step),
    )


def _on_device(kind: str, work: TraceWork, kept: Sequence[int], durations: NDArray[np.float64]) -> DeviceWork:
    """The device's work in the steps that are kept; what is odd in the trace is counted once."""
    first, *others = kept
    rounds = [replace(work, steps=[work.steps[first]]), *(TraceWork([work.steps[index]]) for index in others)]
    return work_of(kind, [profiled_round(one) for one in rounds], durations)


def _found_notes(located: FoundSteps) -> list[str]:
    """How the steps were found, and how sure that is."""
    said = f"Steps are found by {located.how}."
    if not located.named:
        said += " If that is not one step, name the range that begins one with --step."
    notes = [f"{said} A step lasts from the start of one to the start of the next."]
    if located.without_end:
        notes.append("The last step is left out, because the trace does not show where it ends.")
    return notes


def _odd(trace: ChromeTrace) -> list[str]:
    """What of the file could not be read."""
    notes = []
    if trace.unreadable:
        notes.append(f"Left out: {plural(trace.unreadable, 'event')} without a time or a name.")
    if trace.unclosed:
        notes.append(f"Left out: {plural(trace.unclosed, 'range')} with only a begin or only an end in the trace.")
    return notes
