"""Where the steps of a trace are: by the names that profilers and engines give them, else by repetition.

By repetition means: in the order of their start, the ranges of a thread (else the calls of modules, else the operators
that lie in no other) are a sequence of names. A name cuts it into stretches, each from one occurrence to the next. It
begins the step if the stretches are alike: at most 20 % of them share less than 90 % of their names with the most
frequent one. A layer is no step: its stretches differ wherever one step ends and the next begins, so a name whose
differing stretches recur at a constant distance, or in the same order, is passed over; so is one whose stretches hold
less than half of the items that another name's hold. Of the names that remain, the one with the most stretches that are
alike counts, less two for each that is not; of equals the outermost, which takes longest, then the first. The answer
depends on the trace alone, says how it was found, and there is none below three steps. One step of many layers alone
looks like many steps.
"""

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from perstep._words import plural
from perstep.errors import InputError
from perstep.measure.chrome_trace import ChromeTrace
from perstep.measure.device_rows import STEP_PREFIX, Row

FEWEST = 3
"""So few repetitions are no steps yet."""
ALIKE = 0.9
"""Two steps that share this share of their names are alike."""
CONSTANT_ALIKE = 0.99
"""A stretch that shares less differs, where it is asked whether differences recur at a constant distance."""
MOST_UNLIKE = 0.2
"""More stretches than this share that are not alike: no step."""
OF_CONSTANT = 0.7
"""So much of a sequence must lie between places at the same distance for that to be constant."""
EXPLAINED = 0.5
"""A name whose stretches hold less than this share of the items that another name's hold begins no step."""
OTHERS = 2
"""Number of equal stretches that weigh as much as one that is not: a name that also occurs elsewhere has such."""
MOST_PERIODS = 8
"""Distances that are tried as the period of something longer."""
HALF = 0.5
"""Of the changes from one stretch to the next, at most this share is left at the distance of a period."""
SLOWER = 1.5
"""A first step that is longer or shorter than the median by more than this factor is ramp-up."""
FILLED = 0.99
"""Ranges that fill this share of the time until the next one begins are whole steps themselves."""

IDLE = "idle"
"""The kind of a step in which an engine ran no model."""

_Key = TypeVar("_Key", bytes, frozenset[tuple[str, int]])
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class TraceStep:
    """One step: from where its range begins to where the next one does."""

    kind: str
    name: str
    start_ns: int
    end_ns: int

    @property
    def duration_ns(self) -> int:
        """How long it is."""
        return self.end_ns - self.start_ns


@dataclass(frozen=True)
class FoundSteps:
    """The steps of a trace.

    Attributes:
        steps: in their order, on one thread.
        thread: which.
        how: what they were found by, for a sentence: `torch.profiler's own ProfilerStep ranges`.
        named: they carry a name that is known to be a step's, or the one that was asked for.
        markers: names of ranges that are whole steps, and so no parts of them.
        without_end: ranges that begin a last step, of which the trace does not hold the end.
    """

    steps: list[TraceStep]
    thread: int
    how: str
    named: bool
    markers: frozenset[str]
    without_end: int = 0


def _context_kind(match: re.Match[str]) -> str:
    prompt, generated = int(match[1]), int(match[2])
    return ("mixed" if generated else "prefill") if prompt else ("decode" if generated else IDLE)


def _cached_kind(match: re.Match[str]) -> str:
    words = [word for word, count in (("new", match[1]), ("cached", match[2])) if int(count)]
    return f"{' and '.join(words)} requests" if words else IDLE


def _mode_kind(match: re.Match[str]) -> str:
    mode = match[1].lower()
    return {"extend": "prefill"}.get(mode, mode)


_ENGINES: Sequence[tuple[str, re.Pattern[str], Callable[[re.Match[str]], str]]] = (
    ("perstep", re.compile(re.escape(STEP_PREFIX) + r"(\w+)"), lambda match: match[1]),
    ("vLLM", re.compile(r"execute_context_(\d+)\(\d+\)_generation_(\d+)\(\d+\)"), _context_kind),
    ("vLLM", re.compile(r"execute_new_(\d+)_cached_(\d+)"), _cached_kind),
    ("SGLang", re.compile(r"step\[(\w+)[^\]]*\]"), _mode_kind),
)
"""Who writes which name, and the kind of step that it tells: vLLM's `annotate_profile` (requests and tokens in context
and in generation; before, new and cached requests), SGLang's `build_step_span_name` (the forward's mode)."""
_PROFILER_STEP = re.compile(r"ProfilerStep#\d+")


def find_steps(trace: ChromeTrace, *, name: str | None = None) -> FoundSteps:
    """The steps of a trace.

    Args:
        trace: with host rows.
        name: of the rows that begin a step; `*` stands for anything.

    Raises:
        InputError: there are fewer than three, or no row has that name.
    """
    steps = _asked(trace, name) if name is not None else (_named(trace) or _repeated(trace))
    if steps is None:
        raise InputError(
            "no steps: no range has the name of a step, and nothing repeats four times in the same order; "
            "name the range that begins a step with --step, or profile at least four steps"
        )
    if len(steps.steps) < FEWEST:
        raise InputError(
            f"{plural(len(steps.steps), 'whole step')}, found by {steps.how}; at least {FEWEST} are needed: profile"
            " more, or name another range with --step"
        )
    return steps


def _asked(trace: ChromeTrace, name: str) -> FoundSteps:
    pattern = re.compile(".*".join(map(re.escape, name.split("*"))), re.DOTALL)
    for rows in (trace.ranges, trace.modules, trace.ops):
        markers = [row for row in rows if pattern.fullmatch(row.name)]
        if markers:
            return _between(markers, lambda _: "step", f"the name {name}", named=True)
    names = list(dict.fromkeys(family(row.name) for row in trace.ranges or trace.modules))[:5]
    seen = f"the trace has {', '.join(names)}" if names else "the trace has no ranges"
    raise InputError(f"--step {name}: no range, module or operator has this name; {seen}; * stands for anything")


def _named(trace: ChromeTrace) -> FoundSteps | None:
    """By torch's own steps, else by an engine's."""
    markers = [row for row in trace.ranges if _PROFILER_STEP.fullmatch(row.name)]
    if len(markers) < FEWEST:
        engines = (_by_engine(trace.ranges, *engine) for engine in _ENGINES)
        return next((steps for steps in engines if steps is not None and len(steps.steps) >= FEWEST), None)
    inside = [(row.start_ns, _engine_kind(row.name)) for row in trace.ranges]
    marks = sorted((start, kind) for start, kind in inside if kind not in (None, IDLE))

    def kind(row: Row) -> str:
        """What an engine says of the one step that begins in it."""
        first, last = bisect_left(marks, (row.start_ns,)), bisect_left(marks, (row.end_ns,))
        return str(marks[first][1]) if last - first == 1 else "step"

    return _between(markers, kind, "torch.profiler's own ProfilerStep ranges", named=True, whole=True)


def _engine_kind(name: str) -> str | None:
    """The kind of step that a range of this name is, if an engine named it."""
    matches = ((pattern.fullmatch(name), kind_of) for _, pattern, kind_of in _ENGINES)
    return next((kind_of(match) for match, kind_of in matches if match), None)


def _by_engine(
    ranges: Sequence[Row], writer: str, pattern: re.Pattern[str], kind_of: Callable[[re.Match[str]], str]
) -> FoundSteps | None:
    kinds = {row.name: kind_of(match) for row in ranges if (match := pattern.fullmatch(row.name))}
    markers = [row for row in ranges if row.name in kinds]
    if not markers:
        return None
    how = f"the ranges {family(markers[0].name)} that {writer} writes"
    return _between(markers, lambda row: kinds[row.name], how, named=True)


def _repeated(trace: ChromeTrace) -> FoundSteps | None:
    for rows, what, by_name in (
        (trace.ranges, "range", str),
        (trace.ranges, "range", family),
        (trace.modules, "module", str),
        (_outermost(trace.ops), "operator", str),
    ):
        steps = _recurring(rows, what, by_name)
        if steps is not None:
            return steps
    return None


def _recurring(rows: Sequence[Row], what: str, by_name: Callable[[str], str]) -> FoundSteps | None:
    if not rows:
        return None
    thread = _busiest(rows)
    ordered = sorted((row for row in rows if row.stream == thread), key=lambda row: (row.start_ns, -row.duration_ns))
    letters: dict[str, int] = {}
    codes = np.array([letters.setdefault(by_name(row.name), len(letters)) for row in ordered], np.int64)
    took = np.zeros(len(letters))
    if what != "operator":  # of what is nested, the outermost begins the step; of what is not, the first
        np.add.at(took, codes, [row.duration_ns for row in ordered])
    best = beginning(codes, took)
    if best is None:
        return None
    name = list(letters)[best]
    markers = [row for row, code in zip(ordered, codes.tolist(), strict=True) if code == best]
    how = f"repetition: the {what} {name} occurs {len(markers):,} times, followed by a similar sequence"
    return _between(markers, lambda _: "step", how, named=False)


def beginning(codes: NDArray[np.int64], took: NDArray[np.float64]) -> int | None:
    """Which letter of a sequence begins a step: see the module. None where none does.

    Args:
        codes: [items] letters, from 0 on.
        took: [letters] how long all items of each letter take, to choose among equals; then the first counts.
    """
    candidates: list[tuple[int, int, float, int]] = []
    for letter in np.flatnonzero(np.bincount(codes) > FEWEST).tolist():
        places = np.flatnonzero(codes == letter)
        alike = _alike(codes, places)
        if alike is not None:
            same = alike >= ALIKE
            explained = int(np.diff(places)[same].sum())
            candidates.append((explained, int(same.sum()) - OTHERS * int((~same).sum()), float(took[letter]), -letter))
    # What recurs somewhere at the edge, ten times the same name for example, explains little of the whole.
    enough = max((one[0] for one in candidates), default=0) * EXPLAINED
    return -max(one[1:] for one in candidates if one[0] >= enough)[-1] if candidates else None


def _alike(codes: NDArray[np.int64], places: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """How alike the stretches are that begin at these places; None where they are no steps."""
    lengths = np.diff(places)
    middle = float(np.median(lengths))
    if np.mean(np.abs(lengths - middle) > (1 - ALIKE) * middle) > MOST_UNLIKE:
        return None  # quick: what differs in length by so much is not alike
    stretches = [codes[a:b].tobytes() for a, b in pairwise(places.tolist())]
    alike = np.array(_likeness(stretches, lambda stretch: Counter(np.frombuffer(stretch, np.int64).tolist())))
    if np.mean(alike < ALIKE) > MOST_UNLIKE:
        return None
    return None if _at_a_constant_distance(alike) or _in_a_longer_period(alike, stretches) else alike


def likeness(contents: Sequence[Counter[str]]) -> list[float]:
    """How much of each step's content is that of the most frequent one: 1 for the same, 0 for nothing in common.

    Args:
        contents: name -> how often, of each step; of several that are most frequent the first counts.
    """
    return _likeness([frozenset(content.items()) for content in contents], lambda items: Counter(dict(items)))


def _likeness(keys: Sequence[_Key], content_of: Callable[[_Key], Counter[str]]) -> list[float]:
    """The same by keys: equal ones have equal contents, so that each is looked at once."""
    frequent = Counter(keys)
    contents = {key: content_of(key) for key in frequent}
    typical = contents[max(frequent, key=lambda key: frequent[key])]
    larger = {key: max(typical.total(), content.total()) for key, content in contents.items()}
    alike = {key: (typical & contents[key]).total() / size if size else 1.0 for key, size in larger.items()}
    return [alike[key] for key in keys]


def _at_a_constant_distance(alike: NDArray[np.float64]) -> bool:
    """Whether what differs recurs regularly, so that a longer stretch is what repeats.

    Args:
        alike: [stretches] how alike each is to the most frequent one.
    """
    unlike = np.flatnonzero(alike < CONSTANT_ALIKE)
    # What lies before the first and after the last is as long where the trace holds whole steps.
    distances = np.diff(np.concatenate([[-1], unlike, [alike.size]]))
    # The distance that covers the most: what ramps up has many short ones.
    covered = np.bincount(distances) * np.arange(distances.max() + 1)
    usual = int(covered.argmax())
    # Two distances may be the same by chance, or a step with one more operator lie in the very middle.
    if covered[usual] < FEWEST * usual:
        return unlike.size == 1 and bool(distances[0] == distances[1] >= 2 and alike[unlike[0]] < ALIKE)
    return usual >= 2 and float(covered[usual]) >= OF_CONSTANT * float(distances.sum())


def _in_a_longer_period(alike: NDArray[np.float64], stretches: Sequence[bytes]) -> bool:
    """Whether stretches that differ, of whatever kinds, come again in the same order: layers of two kinds, for example.

    Args:
        alike: [stretches] how alike each is to the most frequent one.
        stretches: their contents.
    """
    kinds: dict[bytes, int] = {}
    kind = np.array([
        0 if one >= CONSTANT_ALIKE else 1 + kinds.setdefault(stretch, len(kinds))
        for one, stretch in zip(alike, stretches, strict=True)
    ])  # fmt: skip
    unlike = np.flatnonzero(kind)
    before: dict[int, int] = {}
    distances: Counter[int] = Counter()
    for place in unlike.tolist():
        if kind[place] in before:
            distances[place - before[kind[place]]] += 1
        before[kind[place]] = place

    def changes(after: int) -> float:
        """The share of stretches that differ from the one at this distance."""
        return float(np.mean(kind[:-after] != kind[after:]))

    periods = [period for period, _ in distances.most_common(MOST_PERIODS) if 1 < period <= (kind.size + 1) // FEWEST]
    return any(changes(period) <= HALF * changes(1) for period in periods)


def _between(
    markers: Sequence[Row], kind: Callable[[Row], str], how: str, *, named: bool, whole: bool = False
) -> FoundSteps:
    """Steps from one marker to the next, on the thread that has most of them; those inside another are left out.

    Where markers are whole steps, as torch's are by definition or because no time is left between them, the last one
    counts as well.
    """
    thread = _busiest(markers)
    ordered = _outermost([row for row in markers if row.stream == thread])
    ends = [following.start_ns for following in ordered[1:]]
    taken = [row.duration_ns / (end - row.start_ns) for row, end in zip(ordered, ends, strict=False)]
    whole = whole or (bool(taken) and median(taken) >= FILLED)
    ends.append(ordered[-1].end_ns)
    steps = [TraceStep(kind(row), row.name, row.start_ns, end) for row, end in zip(ordered, ends, strict=True)]
    kept = [step for step in (steps if whole else steps[:-1]) if step.kind != IDLE and step.duration_ns > 0]
    whole_ones = frozenset(row.name for row in markers) if whole else frozenset()
    return FoundSteps(kept, thread, how, named, whole_ones, 0 if whole else 1)


def _busiest(rows: Sequence[Row]) -> int:
    """The thread that has most of them; the first of several."""
    return Counter(row.stream for row in rows).most_common(1)[0][0]


def _outermost(rows: Iterable[Row]) -> list[Row]:
    """The rows that lie in no other of their thread, in the order of their start."""
    kept: list[Row] = []
    ended: dict[int, int] = {}
    for row in sorted(rows, key=lambda row: (row.start_ns, -row.duration_ns)):
        if row.start_ns >= ended.get(row.stream, row.start_ns):
            kept.append(row)
            ended[row.stream] = max(row.end_ns, row.start_ns + 1)
    return kept


def family(name: str) -> str:
    """A name with its numbers left out: `ProfilerStep#12` and `ProfilerStep#13` are one.

    >>> family("ProfilerStep#12")
    'ProfilerStep#*'
    """
    return _NUMBER.sub("*", name)


def ramp_up(durations_ns: Sequence[int], alike: Sequence[float]) -> int:
    """How many steps at the beginning are ramp-up: those that differ from the rest, up to half of all.

    Counted from the first to the one before the first that is like the rest: one whose content is alike to 90 % and
    whose duration lies within a factor of 1.5 of the median of the later half.

    Args:
        durations_ns: of the steps in their order.
        alike: how much of each one's content is that of the most frequent one.
    """
    usual = median(durations_ns[len(durations_ns) // 2 :])
    for index in range(len(durations_ns) // 2):
        if alike[index] >= ALIKE and usual / SLOWER <= durations_ns[index] <= usual * SLOWER:
            return index
    return len(durations_ns) // 2
