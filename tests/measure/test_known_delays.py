"""End to end on a fake clock: a decode loop with parts of known length gives exactly that ledger."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from perstep.measure import (
    FakeClock,
    Ledger,
    LedgerSamples,
    Mark,
    Recorder,
    Steps,
    build_ledger,
    no_mark,
    record_trace,
    replay,
)
from perstep.stats import balanced_block

Ids = NDArray[np.int64]
LAYER = ("norm", "attn.qkv", "attn.rope", "kv.append", "attn.scores", "attn.softmax", "attn.pv", "attn.out", "mlp")
ENTERED = ("embed", *LAYER, *LAYER, "norm", "lm_head", "sample", "stop")
PARTS = tuple(dict.fromkeys(ENTERED))
NEW_TOKENS = 5
ROUNDS = 12


class ScriptedLoop:
    """Spends a known time in each part: its base at this position, with jitter, and a delay once a step."""

    def __init__(self, clock: FakeClock, delays_ns: dict[str, int], jitter: Callable[[], int]) -> None:
        self._clock = clock
        self._delays_ns = delays_ns
        self._jitter = jitter
        self._position = 0

    def reset(self) -> None:
        """Forget the context."""
        self._position = 0

    def prefill(self, ids_BT: Ids, mark: Mark) -> Ids:
        """A step over a prompt."""
        return self._step(mark)

    def decode(self, ids_B: Ids, mark: Mark) -> Ids:
        """A step from one token to the next."""
        return self._step(mark)

    def _step(self, mark: Mark) -> Ids:
        waiting = dict(self._delays_ns)
        self._clock.advance(300)
        for index, part in enumerate(ENTERED):
            mark(part)
            self._clock.advance(1_000 + 10 * index + 7 * self._position + self._jitter() + waiting.pop(part, 0))
        self._position += 1
        return np.array([self._position])


def measure(delays_ns: dict[str, int], *, tick_ns: int = 0, jittery: bool = True) -> dict[str, Ledger]:
    """Twelve balanced rounds of both arms, as the `ledger` experiment measures them."""
    rng = np.random.default_rng(1)
    clock = FakeClock(tick_ns=tick_ns)
    loop = ScriptedLoop(clock, delays_ns, lambda: int(rng.integers(0, 90)) if jittery else 0)
    trace = record_trace(loop, np.array([[1, 2, 3]]), NEW_TOKENS)
    passes: dict[tuple[str, bool], list[list[Steps]]] = {}
    for number in range(ROUNDS):
        block: dict[tuple[str, bool], list[Steps]] = {}
        for marked in balanced_block(2, np.random.default_rng([0, number])).ravel().astype(bool).tolist():
            recorder = Recorder(clock)
            assert replay(loop, trace, recorder, recorder.mark if marked else no_mark) == 0
            for kind in recorder.kinds:
                block.setdefault((kind, marked), []).append(recorder.steps(kind))
        for key, steps in block.items():
            passes.setdefault(key, []).append(steps)
    ledgers = {}
    for kind in ("prefill", "decode"):
        plain, marked_passes = passes[kind, False], passes[kind, True]
        samples = LedgerSamples(
            plain_ns=np.array([[s.step_ns for s in block] for block in plain]),
            step_ns=np.array([[s.step_ns for s in block] for block in marked_passes]),
            parts={part: np.array([[s.parts[part] for s in block] for block in marked_passes]) for part in PARTS},
            residual_ns=np.array([[s.residual_ns for s in block] for block in marked_passes]),
            marks_per_step={part: float(ENTERED.count(part)) for part in PARTS},
        )
        ledgers[kind] = build_ledger(kind, samples, mark_ns=tick_ns)
    return ledgers


def test_parts_of_known_length_are_the_ledger() -> None:
    """No jitter, no cost of marks: every row, the residual, the step and the overhead are exact."""
    for kind, ledger in measure({}, jittery=False).items():
        positions = [0] if kind == "prefill" else list(range(1, NEW_TOKENS))
        rows = dict.fromkeys(PARTS, 0.0)
        for index, part in enumerate(ENTERED):
            rows[part] += 1_000 + 10 * index + 7 * sum(positions) / len(positions)
        assert {name: part.ns for name, part in ledger.parts.items()} == rows
        assert ledger.residual_ns == 300
        assert ledger.step_ns == ledger.plain_step_ns == sum(rows.values()) + 300
        assert ledger.overhead == 0
        assert ledger.forwards == len(positions)
        assert ledger.steps == 2 * ROUNDS * len(positions)
        assert ledger.invalid == ""


def test_each_mark_costs_its_part_a_reading_of_the_clock() -> None:
    """A clock of 50 ns a reading: n marks lengthen a part by 50 n, the residual by the step's first reading."""
    silent, ticking = measure({}, jittery=False)["decode"], measure({}, tick_ns=50, jittery=False)["decode"]
    for part in PARTS:
        assert ticking.parts[part].ns - silent.parts[part].ns == 50 * ENTERED.count(part)
    assert ticking.residual_ns == 300 + 50
    assert ticking.plain_step_ns == silent.plain_step_ns + 50
    assert ticking.overhead == pytest.approx(50 * len(ENTERED) / ticking.plain_step_ns)
    assert ticking.parts["norm"].marks_share == 50 * 3 / ticking.parts["norm"].ns


@pytest.mark.parametrize("delayed", PARTS)
def test_without_jitter_a_delay_is_found_to_the_nanosecond(delayed: str) -> None:
    """200 µs, in prefill and decode; no other part moves."""
    still = measure({}, jittery=False)
    for kind, ledger in measure({delayed: 200_000}, jittery=False).items():
        moved = {name: part.ns - still[kind].parts[name].ns for name, part in ledger.parts.items()}
        assert moved == pytest.approx({name: 200_000 if name == delayed else 0 for name in PARTS}, abs=1e-6)


@pytest.fixture(scope="module")
def undelayed() -> dict[str, Ledger]:
    """What the delayed ledgers are compared with; the same jitter."""
    return measure({})


@pytest.mark.parametrize("delay_us", [20, 200, 2000])
@pytest.mark.parametrize("delayed", PARTS)
def test_a_delay_is_found_in_its_part_and_nowhere_else(
    delayed: str, delay_us: int, undelayed: dict[str, Ledger]
) -> None:
    """Totals to the nanosecond, in prefill and decode, in both arms; rows to what jitter makes of the rounds' pace."""
    for kind, ledger in measure({delayed: 1_000 * delay_us}).items():
        before = undelayed[kind]
        moved = {name: part.ns - before.parts[name].ns for name, part in ledger.parts.items()}
        # Parts of 1 to 4 µs jitter by 90 ns; bringing rounds to one pace leaves a hundredth of a part at most,
        # and of the delay a thousandth.
        allowed = {name: 40.0 + (0.001 * 1_000 * delay_us if name == delayed else 0.0) for name in PARTS}
        for name in PARTS:
            assert moved[name] == pytest.approx(1_000 * delay_us if name == delayed else 0, abs=allowed[name])
        assert ledger.parts[delayed].ns_total - before.parts[delayed].ns_total == 1_000 * delay_us * ledger.steps
        assert ledger.residual_ns_total == before.residual_ns_total
        assert ledger.step_ns_total - before.step_ns_total == 1_000 * delay_us * ledger.steps
        assert ledger.plain_step_ns - before.plain_step_ns == pytest.approx(1_000 * delay_us, abs=1e-6)
