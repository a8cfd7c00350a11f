"""Simulated step durations, and the rounds that the interleaved design makes of them.

A machine is a time series of noise at the level of single steps; arms take turns on it in
the very blocks that perstep draws (`balanced_block`), the step after a switch is discarded,
and the rest is summed per arm and round. So drift, bursts and autocorrelation act on the
comparison through the design, not on ready-made ratios. No clock is read here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.signal import lfilter

from perstep.stats import balanced_block

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Noise = Callable[[np.random.Generator, tuple[int, int], float], NDArray[np.float64]]

STEPS_PER_VISIT = 4


@dataclass(frozen=True)
class Shape:
    """A shape of noise.

    Attributes:
        name: its key in the results.
        meaning: what it stands for, in words.
        step_noise: (rng, [series, steps], size) -> log of the factor on each step.
        size_unit: multiplies the sizes of the study, so that rounds of all shapes are about as noisy.
        round_noise: (rng, [series, rounds], size) -> log of a factor on the candidate in each
            round; None where the arms differ in nothing.
    """

    name: str
    meaning: str
    step_noise: Noise
    size_unit: float = 1.0
    round_noise: Noise | None = None


def white(rng: np.random.Generator, shape: tuple[int, int], size: float) -> NDArray[np.float64]:
    """Independent normal noise."""
    return size * rng.standard_normal(shape)


def drift(rng: np.random.Generator, shape: tuple[int, int], size: float) -> NDArray[np.float64]:
    """White noise on a machine that becomes up to 30 % slower or faster, with a slow wave and a random walk."""
    series, steps = shape
    time = np.linspace(0, 1, steps)
    trend = rng.uniform(-0.3, 0.3, (series, 1)) * time
    wave = 0.05 * np.sin(2 * np.pi * (rng.uniform(1, 6, (series, 1)) * time + rng.uniform(0, 1, (series, 1))))
    walk = np.cumsum(rng.standard_normal(shape), axis=1) * (0.05 / np.sqrt(steps))
    return trend + wave + walk + white(rng, shape, size)


def bursts(rng: np.random.Generator, shape: tuple[int, int], size: float) -> NDArray[np.float64]:
    """White noise, and about every 300th step another process takes the core for about 40 steps."""
    begins = rng.random(shape) < 1 / 300
    height = np.where(begins, rng.uniform(0.1, 1.0, shape), 0.0)
    decay = lfilter([1.0], [1.0, -(1 - 1 / 40)], height, axis=1)
    return np.asarray(np.minimum(decay, 1.5) + white(rng, shape, size), dtype=np.float64)


def bimodal(rng: np.random.Generator, shape: tuple[int, int], size: float) -> NDArray[np.float64]:
    """Two speeds, 5 sizes apart, drawn anew about every 25 steps (clock frequency, memory placement)."""
    changes = rng.random(shape) < 1 / 25
    changes[:, 0] = True
    fresh = rng.random(shape) < 0.5
    last = np.maximum.accumulate(np.where(changes, np.arange(shape[1]), 0), axis=1)
    return 5 * size * np.take_along_axis(fresh, last, axis=1) + white(rng, shape, size)


def heavy(rng: np.random.Generator, shape: tuple[int, int], size: float) -> NDArray[np.float64]:
    """Steps are delayed by a Pareto time with exponent 1.5: no variance, a few steps cost many times more."""
    return np.asarray(np.log1p(size * rng.pareto(1.5, shape)), dtype=np.float64)


def student(rng: np.random.Generator, shape: tuple[int, int], size: float) -> NDArray[np.float64]:
    """Student's t with 2 degrees of freedom: heavy tails on both sides, no variance."""
    return size * np.clip(rng.standard_t(2, shape), -100, 100)


def autocorrelated(coefficient: float) -> Noise:
    """First-order autoregressive noise."""
    burn_in = 60  # 0.8**60 = 1.5e-6: nothing is left of the start

    def noise(rng: np.random.Generator, shape: tuple[int, int], size: float) -> NDArray[np.float64]:
        series, steps = shape
        innovations = rng.standard_normal((series, steps + burn_in)) * np.sqrt(1 - coefficient**2)
        values = lfilter([1.0], [1.0, -coefficient], innovations, axis=1)[:, burn_in:]
        return np.asarray(size * values, dtype=np.float64)

    return noise


SHAPES = (
    Shape("white", "independent normal noise on each step", white, 2.0),
    Shape("drift", "white, and the machine drifts by up to 30 % in the run", drift, 2.0),
    Shape("bursts", "white, and bursts of 10 to 100 % for about 40 steps", bursts, 2.0),
    Shape("bimodal", "white, and two speeds that alternate about every 25 steps", bimodal, 1.4),
    Shape("heavy", "each step delayed by a Pareto time, exponent 1.5", heavy, 1.0),
    Shape("student", "Student's t with 2 degrees of freedom on each step", student, 1.2),
    Shape("ar1-steps", "AR(1) 0.5 between steps", autocorrelated(0.5), 2.0),
    Shape("ar1-rounds-0.2", "AR(1) 0.2 between the ratios of rounds", white, 0.5, autocorrelated(0.2)),
    Shape("ar1-rounds-0.5", "AR(1) 0.5 between the ratios of rounds", white, 0.5, autocorrelated(0.5)),
    Shape("ar1-rounds-0.8", "AR(1) 0.8 between the ratios of rounds", white, 0.5, autocorrelated(0.8)),
)


def shape_named(name: str) -> Shape:
    """The noise shape of that name."""
    return next(s for s in SHAPES if s.name == name)


def simulate_pairs(
    rng: np.random.Generator, shape: Shape, size: float, series: int, rounds: int, change: float = 0.0
) -> NDArray[np.float64]:
    """Costs of two arms that differ by `change` only, measured in ABBA rounds on noisy machines.

    Args:
        rng: draws noise and orders.
        shape: shape of the noise.
        size: noise of a round's log-ratio, about.
        series: how many comparisons.
        rounds: rounds of each.
        change: true relative change of the second arm.

    Returns:
        [series, rounds, 2].
    """
    costs = interleave(rng, shape, size, series, rounds, num_arms=2)
    if shape.round_noise is not None:
        costs[:, :, 1] *= np.exp(shape.round_noise(rng, (series, rounds), size))
    costs[:, :, 1] *= 1 + change
    return costs


def interleave(
    rng: np.random.Generator, shape: Shape, size: float, series: int, rounds: int, num_arms: int
) -> NDArray[np.float64]:
    """Costs of identical arms: [series, rounds, num_arms], from one time series per comparison.

    The blocks are drawn once per round and shared by the series; the noise is not.
    """
    costs = np.zeros((series, rounds, num_arms))
    orders = [balanced_block(num_arms, rng).ravel() for _ in range(rounds)]
    visit = STEPS_PER_VISIT + 1
    steps = np.exp(shape.step_noise(rng, (series, rounds * orders[0].size * visit), size * shape.size_unit))
    kept = steps.reshape(series, rounds, orders[0].size, visit)[:, :, :, 1:].sum(axis=3)
    for r, order in enumerate(orders):
        for position, arm in enumerate(order):
            costs[:, r, arm] += kept[:, r, position]
    return costs
