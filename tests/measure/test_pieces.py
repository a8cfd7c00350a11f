"""Ledgers of calls in which marked and plain steps took turns: pieces of pairs of calls are rounds."""

from dataclasses import replace

import numpy as np
import pytest

from perstep.measure import FakeClock, Ledger, LedgerSamples, Recorder, build_ledger, in_pieces, is_marked, replay
from perstep.measure.replay import Trace

POSITIONS, MARKS = 63, 1.02


def test_a_piece_is_an_even_number_of_neighbouring_positions() -> None:
    """Seven positions in three pieces: 2, 2 and the last 3; one position is one piece."""
    ns = np.arange(14).reshape(2, 1, 7)
    assert in_pieces(ns, 3).tolist() == [0.5, 2.5, 5, 7.5, 9.5, 12]
    assert in_pieces(np.array([[[7], [9]]]), 1).tolist() == [7, 9]


def test_each_piece_holds_as_many_marked_as_plain_steps_of_either_call() -> None:
    """In every two neighbouring positions of a call one is marked; in the other call it is the other one."""
    for at in range(0, 40, 2):
        assert {is_marked(at, 0), is_marked(at + 1, 0)} == {True, False}
        assert all(is_marked(position, 0) != is_marked(position, 1) for position in (at, at + 1))


class Counting:
    """A loop whose decode step takes 100 ns and one more for each position; a mark is laid in the middle."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock, self.at = clock, 0

    def reset(self) -> None:
        """To the first position."""
        self.at = 0

    def prefill(self, ids_BT: np.ndarray, mark: object) -> np.ndarray:
        """A step of 1,000 ns."""
        return self._step(1_000, ids_BT[:, -1], mark)

    def decode(self, ids_B: np.ndarray, mark: object) -> np.ndarray:
        """The next token is the last one plus one."""
        self.at += 1
        return self._step(100 + self.at, ids_B, mark)

    def _step(self, ns: int, ids_B: np.ndarray, mark: object) -> np.ndarray:
        self._clock.advance(ns - 10)
        mark("end")  # type: ignore[operator]
        self._clock.advance(10)
        return ids_B + 1


def test_a_replay_with_turns_marks_every_position_once_in_two_calls() -> None:
    """Marked and plain steps are of kinds of their own; together they hold each position of the trace once a kind."""
    clock = FakeClock()
    trace = Trace(np.array([[5]]), np.arange(6, 16)[None])
    seen = {}
    for turn in (0, 1):
        recorder = Recorder(clock)
        assert replay(Counting(clock), trace, recorder, recorder.mark, turn) == 0
        seen[turn] = {kind: recorder.steps(kind).step_ns.tolist() for kind in recorder.kinds}
        assert all(bool(recorder.steps(kind).parts) != kind.endswith(".plain") for kind in recorder.kinds)
    assert seen[0] == {"prefill": [1_000], "decode": [101, 104, 105, 108, 109], "decode.plain": [102, 103, 106, 107]}
    assert seen[1] == {"prefill.plain": [1_000], "decode.plain": seen[0]["decode"], "decode": seen[0]["decode.plain"]}


def pairs(
    number: int,
    *,
    growth: float = 0.0,
    drift: float = 0.0,
    noise: float = 0.0,
    bursts: float = 0.0,
    alike: float = 0.7,
    seed: int = 0,
) -> LedgerSamples:
    """Pairs of calls with four parts, the first of which holds all that grows with the position.

    Args:
        number: of pairs.
        growth: of the step from the first to the last position.
        drift: of the machine over all calls, by which steps become slower.
        noise: standard deviation of each part's logarithm.
        bursts: share of the steps in which one part takes three times as long.
        alike: how much of the noise a step shares with its neighbours.
        seed: of the noise.
    """
    rng = np.random.default_rng(seed)
    shape = (number, 1, POSITIONS)
    names = ("attn", "mlp", "norm", "lm_head")
    at = np.arange(POSITIONS) / (POSITIONS - 1)
    true = dict(zip(names, (100_000 * (2 + 10 * growth * at), 500_000, 100_000, 200_000), strict=True))
    time = np.arange(2 * number * POSITIONS) / (2 * number * POSITIONS)
    pace = (1 + drift * time).reshape(number, 2, POSITIONS)
    first = np.array([is_marked(p, 0) for p in range(POSITIONS)])
    of_marked = np.where(first, pace[:, 0], pace[:, 1])[:, None]
    of_plain = np.where(first, pace[:, 1], pace[:, 0])[:, None]

    def around() -> np.ndarray:
        own = rng.normal(0, noise, shape)
        smooth = np.convolve(rng.normal(0, noise, own.size + 2), [0.5, 0.5, 0.5], "valid").reshape(shape)
        return np.exp(0.7 * own + alike * smooth) * np.where(rng.random(shape) < bursts, 3, 1)

    parts = {name: np.rint(MARKS * ns * of_marked * around()).astype(np.int64) for name, ns in true.items()}
    plain = sum(np.rint(ns * of_plain * around()).astype(np.int64) for ns in true.values())
    step, residual = sum(parts.values()), np.zeros(shape, np.int64)
    pieces = min(-(-40 // number), POSITIONS // 2)
    return LedgerSamples(plain, step, parts, residual, dict.fromkeys(names, 1.0), pieces)


def built(made: LedgerSamples) -> Ledger:
    """The ledger, whose parts add up."""
    ledger = build_ledger("decode", made, mark_ns=0)
    assert sum(p.ns_total for p in ledger.parts.values()) + ledger.residual_ns_total == ledger.step_ns_total
    return ledger


def test_one_pair_of_calls_has_rounds_and_intervals() -> None:
    """31 pieces of 63 positions; every estimate is the mean over the positions."""
    ledger = built(pairs(1, growth=0.3))
    assert (ledger.rounds, ledger.forwards, ledger.steps) == (31, 63, 63)
    assert ledger.plain_step_ns == pytest.approx(1_000_000 * 1.15, rel=1e-5)
    assert ledger.parts["attn"].share == pytest.approx((2 + 10 * 0.15) / 11.5, rel=1e-5)
    assert ledger.overhead == pytest.approx(MARKS - 1, abs=1e-5)


def test_a_cost_that_grows_with_the_position_widens_no_interval() -> None:
    """The step grows by 30 % within a call; the line through the pieces holds all of it."""
    ledger = built(pairs(1, growth=0.3, noise=0.002, alike=0))
    assert ledger.merged_rounds >= 15
    for part in ledger.parts.values():
        assert part.ci_low == pytest.approx(part.ns, rel=0.02)
    assert ledger.plain_step_ci_high == pytest.approx(ledger.plain_step_ns, rel=0.01)


def test_with_its_trend_left_in_there_would_be_none() -> None:
    """What the line is for: the same pieces as they are lie in an order, and are merged until too few are left."""
    made = replace(pairs(1, growth=0.3, noise=0.01), pieces=0)
    pieces = in_pieces(made.parts["attn"], 31) / in_pieces(made.step_ns, 31)
    from perstep.stats import share_interval

    assert share_interval(pieces, np.ones(31), estimate=float(pieces.mean()), comparisons=4) is None


def test_a_machine_that_drifts_looks_neither_like_marks_nor_like_a_part() -> None:
    """It becomes 20 % slower from the first call to the last; marks are found to a thousandth."""
    ledger = built(pairs(2, drift=0.2))
    assert ledger.overhead == pytest.approx(MARKS - 1, abs=1e-3)
    assert ledger.parts["mlp"].share == pytest.approx(0.5, abs=1e-6)


@pytest.mark.nightly
@pytest.mark.parametrize("number", [1, 2, 3, 6])
@pytest.mark.parametrize(
    "machine",
    [
        {"noise": 0.03},
        {"noise": 0.03, "drift": 0.15},
        {"noise": 0.03, "growth": 0.3},
        {"noise": 0.03, "growth": 0.3, "drift": 0.15, "bursts": 0.02},
    ],
    ids=["even", "drift", "growth", "all"],
)
def test_the_intervals_hold_the_truth(number: int, machine: dict[str, float]) -> None:
    """94 % of ledgers hold the true overhead, and 94 % the true shares of all parts at once; most have intervals.

    400 are tried, so that two standard errors of 94 % are 2.4 %.
    """
    tries, shown, held_overhead, held_parts = 400, 0, 0, 0
    calm = {name: value for name, value in machine.items() if name == "growth"}
    truth = built(pairs(number, **calm))
    for seed in range(tries):
        ledger = built(pairs(number, **machine, seed=seed))
        if any(part.ci_low is None for part in ledger.parts.values()) or ledger.overhead_ci_low is None:
            continue
        shown += 1
        held_overhead += ledger.overhead_ci_low <= MARKS - 1 <= (ledger.overhead_ci_high or 0)
        held_parts += all(
            (part.ci_low or 0) <= truth.parts[name].share * ledger.step_ns <= (part.ci_high or 0)
            for name, part in ledger.parts.items()
        )
    assert shown >= 0.85 * tries
    assert held_overhead >= (0.94 - 0.024) * shown
    assert held_parts >= (0.94 - 0.024) * shown
