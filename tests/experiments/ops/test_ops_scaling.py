"""Exponents have known answers, and a change of regime is marked, not averaged."""

import numpy as np
import pytest

from perstep.experiments.ops.scaling import degree_of, scaling

ROUNDS = 24


def noisy(costs: dict[int, float], spread: float = 0.01) -> dict[int, np.ndarray]:
    """Each cost in each round, with independent noise."""
    rng = np.random.default_rng(0)
    return {seq: cost * np.exp(rng.normal(0, spread, ROUNDS)) for seq, cost in costs.items()}


@pytest.mark.parametrize("exponent", [0, 1, 2])
def test_a_power_law_has_its_exponent(exponent: int) -> None:
    """With an interval about it, one stretch, no change."""
    found = scaling(noisy({seq: 100.0 * seq**exponent for seq in (8, 32, 128, 512)}), degree=2)
    assert found is not None
    assert found.changes == []
    (fitted,) = found.fitted
    assert (fitted.from_seq, fitted.to_seq) == (8, 512)
    assert fitted.ci_low is not None
    assert fitted.ci_high is not None
    assert fitted.ci_low < exponent < fitted.ci_high
    assert fitted.ci_high - fitted.ci_low < 0.02


def test_a_fixed_cost_that_gives_way_is_no_change_of_regime() -> None:
    """A constant plus a linear plus a quadratic term is what a formula may be."""
    costs = {seq: 5_000.0 + 100 * seq + 3 * seq**2 for seq in (1, 8, 32, 128, 512)}
    found = scaling(noisy(costs), degree=2)
    assert found is not None
    assert found.changes == []


def test_a_jump_is_marked_and_no_exponent_is_fitted_across_it() -> None:
    """From 128 on each number costs five times as much: a cache was left."""
    costs = {seq: 100.0 * seq * (5 if seq >= 128 else 1) for seq in (8, 32, 128, 512)}
    found = scaling(noisy(costs), degree=1)
    assert found is not None
    (change,) = found.changes
    assert (change.from_seq, change.to_seq) == (32, 128)
    assert [(e.from_seq, e.to_seq) for e in found.fitted] == [(8, 32), (128, 512)]
    assert [e.exponent for e in found.fitted] == pytest.approx([1, 1], abs=0.02)
    assert found.fit is None


def test_threads_that_begin_are_marked_where_they_begin() -> None:
    """Linear up to 64, then flat: the exponent falls, which no polynomial's does."""
    costs = {seq: 100.0 * min(seq, 64) for seq in (8, 64, 128, 512)}
    found = scaling(noisy(costs), degree=1)
    assert found is not None
    (change,) = found.changes
    assert (change.from_seq, change.to_seq) == (64, 64)
    assert [(e.from_seq, e.to_seq) for e in found.fitted] == [(8, 64), (64, 512)]


def test_a_change_that_only_the_whole_stretch_shows_is_marked() -> None:
    """Neighbours are too noisy to tell where it lies; from end to end the growth is steeper than the formula."""
    costs = {seq: 100.0 * (seq / 8) ** 1.4 for seq in (8, 16, 32, 64, 128, 256, 512)}
    found = scaling(noisy(costs, spread=0.35), degree=1)
    assert found is not None
    assert [(change.from_seq, change.to_seq) for change in found.changes] == [(8, 512)]
    assert found.fitted == []


def test_few_rounds_mark_nothing() -> None:
    """Without an interval there is no change, only estimates."""
    costs = {seq: rounds[:3] for seq, rounds in noisy({8: 100.0, 32: 100.0, 128: 90_000.0}).items()}
    found = scaling(costs, degree=1)
    assert found is not None
    assert found.changes == []
    assert all(exponent.ci_low is None for exponent in found.local)


def test_one_length_does_not_scale() -> None:
    """There is nothing to fit."""
    assert scaling(noisy({8: 1.0}), degree=1) is None


def test_many_lengths_are_fitted_and_judged() -> None:
    """Seven doublings leave enough for the fit with held-out points."""
    found = scaling(noisy({1 << power: 50.0 + (1 << power) for power in range(9)}, 0.001), degree=1)
    assert found is not None
    assert found.fit is not None
    assert found.fit.chosen.coefficients[1] == pytest.approx(1, rel=0.05)


def test_scores_are_quadratic_only_without_a_past() -> None:
    """Behind a past, S queries meet past + S keys."""
    assert degree_of("attn.scores", 0) == 2
    assert degree_of("attn.scores", 1000) == 1
    assert degree_of("mlp", 0) == 1
    assert degree_of("lm_head", 0) == 0
