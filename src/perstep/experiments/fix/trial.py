"""Timing of offers: the call as it is and the call with them take turns in balanced rounds (`compare`), seed for seed.

All timed calls make the same number of new tokens (law 3); long calls are timed over their first ones. Copies of the
processors are made between the calls, and are no part of their time.
"""

from collections.abc import Callable
from typing import Any

from perstep.experiments.compare import CompareSession, analyse
from perstep.experiments.fix.capture import REMOVED, Captured, tokens_of
from perstep.experiments.fix.offer import Offer, changes_of
from perstep.experiments.fix.samples import Round, Sample, Trial
from perstep.measure import Clock, Effort, collector_off, processor_clock, run_rounds
from perstep.measure.blocks import ArmFailed, BlockTime

AS_IT_IS, FIXED = "as it is", "with the drop-ins"

_CALL_S = 0.05
"""A timed call is shortened to about this, and where the budget is short further, so that it holds enough rounds."""

_CALLS = 200  # twenty rounds of four turns of two calls, and what is needed before them

_LEAST_TOKENS = 8
_LEAST_CALLS = 24  # three rounds; a smaller budget would end before there is anything to see
_PRECISION = 0.005
THRESHOLD = 0.01

Ready = Callable[[], Callable[[], Any]]
"""Makes a call ready; what it gives makes the call, once."""


class CallArm:
    """An arm whose calls are made ready outside their time.

    Args:
        name: of the arm, for its errors.
        ready: makes a call ready.
        clock: read before and after each call.
    """

    fresh = False
    least_calls = 2

    def __init__(self, name: str, ready: Ready, clock: Clock) -> None:
        self._name, self._ready, self._now = name, ready, clock.now
        self._processor_now = processor_clock(clock).now
        self._calls = 0

    def renew(self, seed: int, calls: int) -> None:
        """Nothing: the call keeps its process."""

    def block(self, calls: int) -> BlockTime:
        """Make one call that is not timed, then `calls` that are; what these took together.

        Raises:
            ArmFailed: the call raised; the original exception is its cause.
        """
        now, processor_now = self._now, self._processor_now
        taken_ns = worked_ns = 0
        for timed in range(calls + 1):
            self._calls += 1
            try:
                call = self._ready()
                processor_ns = processor_now()
                begun_ns = now()
                call()
                ended_ns = now()
                processor_ns = processor_now() - processor_ns
            except (Exception, SystemExit) as error:
                raise ArmFailed(self._name, self._calls, f"{type(error).__name__}: {error}") from error
            if timed:
                taken_ns += ended_ns - begun_ns
                worked_ns += processor_ns
        return BlockTime(taken_ns, worked_ns)

    def close(self) -> None:
        """Nothing to let go of."""


class Trials:
    """The trials of one call.

    Attributes:
        shown: how many trials are shown together; their intervals hold together (Bonferroni).

    Args:
        call: the call.
        clock: the host's, unless a test passes its own.
        keep: takes what becomes known, sample by sample.
    """

    def __init__(self, call: Captured, clock: Clock, keep: Callable[[Sample], None]) -> None:
        self._call, self._clock, self._keep = call, clock, keep
        ready = call.ready()
        begun_ns = clock.now()
        made = tokens_of(ready())
        self._seconds = (clock.now() - begun_ns) / 1e9
        self._prompt = int(call.again(**_limited(1)).shape[1]) - 1
        self.all_tokens = max(int(made.shape[1]) - self._prompt, 1)
        self.shown = 1

    def run(self, offers: list[Offer], places: list[int], budget_s: float) -> str:
        """Time offers together against the call as it is; the verdict, empty where there is none.

        Args:
            offers: what to time.
            places: of them in `Offered.tried`.
            budget_s: seconds after which no new round begins.
        """
        tokens = self._tokens(offers, min(_CALL_S, budget_s / _CALLS))
        limit = _limited(tokens)
        lists, settings = changes_of(self._call, offers)
        arms = {
            AS_IT_IS: CallArm(AS_IT_IS, lambda: self._call.ready(**limit), self._clock),
            FIXED: CallArm(FIXED, lambda: self._call.ready(lists, **{**settings, **limit}), self._clock),
        }
        least_s = _LEAST_CALLS * self._seconds * tokens / self.all_tokens
        effort = Effort(precision=_PRECISION, budget_s=max(budget_s, least_s))
        kept: list[Any] = []
        try:
            with collector_off():
                session = CompareSession(
                    arms,
                    effort,
                    seed=0,
                    clock=self._clock,
                    progress=lambda _share, _what: None,
                    threshold=THRESHOLD,
                    comparisons=self.shown,
                )
                conditions = session.manifest.conditions
                site = self._call.site
                self._keep(Trial(site=site, offers=places, tokens=tokens, conditions=conditions))

                def keep(made: Any) -> None:
                    kept.append(made)
                    self._keep(Round(site=site, round=made))

                run_rounds(
                    session.measure_round, keep, lambda: session.resolved(kept), effort=effort, clock=self._clock
                )
        except ArmFailed:  # it did not raise before; what its rounds say is found from what was kept
            return ""
        return analyse(session.manifest, kept).arms[FIXED].verdict

    def _tokens(self, offers: list[Offer], call_s: float) -> int:
        """New tokens of the timed calls: as many as both ways make, and no more than a call of `call_s` has."""
        wanted = min(self.all_tokens, max(_LEAST_TOKENS, int(self.all_tokens * call_s / max(self._seconds, 1e-9))))
        lists, settings = changes_of(self._call, offers)
        made = self._call.again(lists, **{**settings, **_limited(wanted)})
        return max(1, min(wanted, int(made.shape[1]) - self._prompt))


def _limited(tokens: int) -> dict[str, Any]:
    """The arguments that end a call after so many new tokens."""
    return {"max_new_tokens": tokens, "max_length": REMOVED, "min_new_tokens": REMOVED, "min_length": REMOVED}
