"""Timing of offers: the call without them and the call with them take turns in balanced rounds, seed for seed.

All timed calls make the same number of new tokens (law "arms do the same work"); long calls are timed over their first
ones, their decode steps apart from what comes once a call. The drop-ins are made in the call, as the lines that are to
be written do. Copies of the call's own processors are made between the calls, and are no part of their time: the script
makes its own before the call.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from math import inf
from typing import NamedTuple

from perstep.experiments.compare import CompareSession
from perstep.fixing.capture import REMOVED, Captured, Line, Part
from perstep.fixing.changes import FIXED, REFERENCE, Changes, changes
from perstep.fixing.offer import LOOP, Offer, changes_of
from perstep.fixing.samples import Round, Sample, Trial
from perstep.measure import Clock, Effort, Recorder, Resolved, collector_off, processor_clock, run_rounds
from perstep.measure.blocks import ArmFailed, BlockTime
from perstep.targets.transformers import Instrument, Value
from perstep.targets.transformers.protocols import sequences_of
from perstep.targets.transformers.words import DECODE, PLAIN

_CALLS = 160
"""The budget is for this number of timed calls: forty rounds of four. Twenty rounds make a verdict."""

_VERDICT_CALLS = 90
"""Twenty rounds of four calls, and what is needed before them."""

_LEAST_TOKENS = 8
_LEAST_CALLS = 12  # three rounds; a smaller budget would end before there is anything to see
_LONG_NS = 20_000_000
"""A call so long runs in its own caches: one before it, not timed, would take half of the budget for nothing."""
_PRECISION = 0.005
THRESHOLD = 0.01

Ready = Callable[[], Callable[[], object]]
"""Makes a call ready; what it gives makes the call, once."""


class _Call(NamedTuple):
    """What a call took: all of it, of the processor, in its decode steps, to make its lines."""

    wall_ns: int
    processor_ns: int
    decode_ns: int
    making_ns: int


class CallArm:
    """An arm whose calls are made ready outside their time.

    Args:
        name: of the arm, for its errors.
        ready: makes a call ready.
        clock: read before and after each call.
        recorder: records the decode steps of a call.
        log: takes of each block what its decode steps took, and the making of its lines; nanoseconds.
        lines: what the calls make anew.
    """

    fresh = False
    least_calls = 2

    def __init__(
        self,
        name: str,
        ready: Ready,
        clock: Clock,
        recorder: Recorder,
        log: list[tuple[int, int]],
        lines: Sequence[Line] = (),
    ) -> None:
        self._name, self._ready, self._now, self._recorder = name, ready, clock.now, recorder
        self._processor_now = processor_clock(clock).now
        self._log, self._lines = log, lines
        self._calls = self._last_ns = 0

    def renew(self, seed: int, calls: int) -> None:
        """Nothing: the call keeps its process."""

    def block(self, calls: int) -> BlockTime:
        """Make `calls` timed calls, and one before them where they are short; what these took together.

        Raises:
            ArmFailed: the call raised; the original exception is its cause.
        """
        if self._last_ns < _LONG_NS:
            self._one()
        times = [self._one() for _ in range(calls)]
        self._log.append((sum(one.decode_ns for one in times), sum(one.making_ns for one in times)))
        return BlockTime(sum(one.wall_ns for one in times), sum(one.processor_ns for one in times))

    def _one(self) -> "_Call":
        self._calls += 1
        making_ns = -sum(line.taken_ns for line in self._lines)
        self._recorder.clear()
        try:
            call = self._ready()
            processor_ns = -self._processor_now()
            begun_ns = self._now()
            call()
            ended_ns = self._now()
            processor_ns += self._processor_now()
        except (Exception, SystemExit) as error:
            raise ArmFailed(self._name, self._calls, f"{type(error).__name__}: {error}") from error
        self._last_ns = ended_ns - begun_ns
        making_ns += sum(line.taken_ns for line in self._lines)
        return _Call(self._last_ns, processor_ns, decode_ns(self._recorder), making_ns)

    def close(self) -> None:
        """Nothing to let go of."""


def decode_ns(recorder: Recorder) -> int:
    """What the decode steps that were recorded took; 0 where there was none."""
    kind = DECODE + PLAIN
    return int(recorder.steps(kind).step_ns.sum()) if kind in recorder.kinds else 0


class Trials:
    """The trials of one call.

    Attributes:
        all_tokens: new tokens of the call.
        now: reads the clock.
        verdict_s: what the shortest trial takes that can have a verdict.
        shown: how many trials are shown together; their intervals hold together (Bonferroni).

    Args:
        call: the call.
        clock: the host's, unless a test passes its own.
        keep: takes what becomes known, sample by sample.
    """

    def __init__(self, call: Captured, clock: Clock, keep: Callable[[Sample], None]) -> None:
        self._call, self._clock, self._keep = call, clock, keep
        self.now = clock.now
        self._recorder = Recorder(clock)
        self._instrument = Instrument(call.model, self._recorder, plain=True)
        ready = call.ready()
        with self._instrument:
            begun_ns = clock.now()
            sequences = sequences_of(ready())
            self._seconds = (clock.now() - begun_ns) / 1e9
        self._decode_s = decode_ns(self._recorder) / 1e9
        self._prompt = int(call.again(**_limited(1)).shape[1]) - 1
        self.all_tokens = max(int(sequences.shape[1]) - self._prompt, 1)
        self.verdict_s = _VERDICT_CALLS * self._call_s(min(_LEAST_TOKENS, self.all_tokens))
        self.shown = 1

    def run(self, tried: dict[int, Offer], beside: dict[int, Offer], budget_s: float, *, sampled: bool) -> str:
        """Time offers together against the call without them; the verdict on the whole call, empty where there is none.

        Args:
            tried: what to time, by its place in `Offered.tried`.
            beside: what both arms have, likewise.
            budget_s: seconds after which no new round begins.
            sampled: tokens are drawn, so that the arms may end at different ones.
        """
        try:
            return self._run(tried, beside, budget_s, sampled=sampled)
        finally:
            _restore([*tried.values(), *beside.values()])

    def _run(self, tried: dict[int, Offer], beside: dict[int, Offer], budget_s: float, *, sampled: bool) -> str:
        base = [self._as_written(offer) for offer in beside.values()]
        new = [self._as_written(offer) for offer in tried.values()]
        lines = [part for offer in new for part, _ in offer.made if isinstance(part, Line)]
        tokens = self._tokens([base, base + new] if sampled else [], budget_s / _CALLS)
        log: list[tuple[int, int]] = []
        arms = {
            REFERENCE: CallArm(REFERENCE, self._ready(base, tokens, base + new), self._clock, self._recorder, log),
            FIXED: CallArm(FIXED, self._ready(base + new, tokens), self._clock, self._recorder, log, lines),
        }
        effort = Effort(precision=_PRECISION, budget_s=max(budget_s, _LEAST_CALLS * self._call_s(tokens), 1e-9))
        ready_by = replace(effort, budget_s=effort.budget_s / 8)  # one round is warm-up enough where calls are long
        kept: list[Round] = []
        site = self._call.site
        try:
            with collector_off(), self._instrument:
                session = CompareSession(
                    arms,
                    ready_by,
                    seed=0,
                    clock=self._clock,
                    progress=lambda _share, _what: None,
                    threshold=THRESHOLD,
                    comparisons=self.shown,
                )
                conditions = session.conditions
                conditions.discarded = f"the first call of each turn, where calls take less than {_LONG_NS // 10**6} ms"
                self._keep(
                    Trial(site=site, offers=list(tried), beside=list(beside), tokens=tokens, conditions=conditions)
                )

                def measure(number: int) -> Round:
                    log.clear()
                    measured = session.measure_round(number)
                    decoded, making = zip(*log, strict=True)
                    return Round(site=site, round=measured, decode_ns=list(decoded), making_ns=list(making))

                def keep(measured: Round) -> None:
                    kept.append(measured)
                    self._keep(measured)

                def resolved() -> Resolved:
                    return _resolved(changes(conditions, kept, tokens, self.all_tokens), len(kept))

                run_rounds(measure, keep, resolved, effort=effort, clock=self._clock)
        except ArmFailed:  # it did not raise before; what its rounds say is found from what was kept
            return ""
        whole = changes(conditions, kept, tokens, self.all_tokens).whole
        return "" if whole is None else whole.verdict

    def _as_written(self, offer: Offer) -> Offer:
        """The offer with drop-ins that are made anew in each call; as it is, where a line of it cannot be made here."""
        if offer.kind == LOOP:
            return offer
        pairs: list[tuple[Part, str]] = []
        for drop_in, source in offer.made:
            line: Part = drop_in
            with suppress(Exception):  # a name that the script has no more
                tried = Line(source, {**self._call.names, **offer.names}, self._clock)
                line = tried if type(tried.make()) is type(drop_in) else drop_in
            pairs.append((line, source))
        return replace(offer, made=tuple(pairs))

    def _ready(self, offers: list[Offer], tokens: int, every: Sequence[Offer] = ()) -> Ready:
        """Makes the call with some offers ready; what those of both arms (`every`) change is put back first."""
        lists, settings = changes_of(self._call, offers)
        changes = {**settings, **_limited(tokens)}

        def ready() -> Callable[[], object]:
            _restore(every)
            for offer in offers:
                if offer.state is not None:
                    offer.state.change()
            return self._call.ready(lists, **changes)

        return ready

    def _call_s(self, tokens: int) -> float:
        """About what a call of this number of new tokens takes."""
        left_out = 1 - (tokens - 1) / max(self.all_tokens - 1, 1)
        return self._seconds - self._decode_s * left_out

    def _tokens(self, arms: list[list[Offer]], call_s: float) -> int:
        """New tokens of the timed calls: as many as each arm makes, and no more than a call of about `call_s` has."""
        once_s, step_s = self._seconds - self._decode_s, self._decode_s / max(self.all_tokens - 1, 1)
        wanted = min(self.all_tokens, max(_LEAST_TOKENS, int((call_s - once_s) / max(step_s, 1e-9)) + 1))
        for offers in arms:
            wanted = min(wanted, int(sequences_of(self._ready(offers, wanted)()()).shape[1]) - self._prompt)
        return max(1, wanted)


def _restore(offers: Sequence[Offer]) -> None:
    for offer in reversed(offers):
        if offer.state is not None:
            offer.state.restore()


def _resolved(measured: Changes, rounds: int) -> Resolved:
    """The wider of the two intervals that are shown."""
    shown = [arm for arm in (measured.step, measured.whole) if arm is not None]
    widths = [inf if arm.ci_low is None or arm.ci_high is None else (arm.ci_high - arm.ci_low) / 2 for arm in shown]
    return Resolved(max(widths), min(rounds // arm.merged_by for arm in shown))


def _limited(tokens: int) -> dict[str, Value]:
    """The arguments that end a call after this number of new tokens."""
    return {"max_new_tokens": tokens, "max_length": REMOVED, "min_new_tokens": REMOVED, "min_length": REMOVED}
