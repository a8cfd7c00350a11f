"""Sampling: known answers, the allowed sets against their definitions, and the distribution of draws."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from perstep.errors import InputError
from perstep.targets.reference import GREEDY, Sampler, allowed, gumbel_noise, sample, stop
from perstep.targets.reference.sample import _mix

LOGITS = np.array([0.0, 1.0, 2.0, -1.0, 2.5, -np.inf, 0.5], np.float32)


def softmax(logits: np.ndarray) -> np.ndarray:
    """In float64."""
    p = np.exp(logits.astype(np.float64) - logits.max())
    return p / p.sum()


def allowed_by_definition(scaled: np.ndarray, top_k: int, top_p: float) -> list[int]:
    """Top-k by counting the larger logits, then top-p by adding the most probable until the mass is reached."""
    kept = [i for i, x in enumerate(scaled) if not top_k or sum(y > x for y in scaled) < top_k]
    kept.sort(key=lambda i: (-scaled[i], i))
    p = dict(zip(kept, softmax(scaled[kept]), strict=True))
    nucleus: list[int] = []
    while kept and (not nucleus or sum(p[i] for i in nucleus) < top_p - 1e-12):
        nucleus.append(kept.pop(0))
    return sorted(nucleus)


def test_greedy_takes_the_lowest_of_equal_ids() -> None:
    """Among equal largest logits greedy takes the lowest id, row by row."""
    logits_BV = np.array([[0, 3, 1, 3], [5, 5, 5, 5], [-np.inf, -9, -np.inf, -9]], np.float32)
    assert sample(logits_BV, GREEDY, position=0).tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("top_k", "top_p", "expected"),
    [
        (0, 1.0, [0, 1, 2, 3, 4, 5, 6]),
        (1, 1.0, [4]),
        (3, 1.0, [1, 2, 4]),
        (100, 1.0, [0, 1, 2, 3, 4, 5, 6]),
        (0, 1e-9, [4]),
        (0, 0.5, [2, 4]),
        (2, 0.5, [4]),
    ],
)
def test_allowed_known_answers(top_k: int, top_p: float, expected: list[int]) -> None:
    """Worked by hand: the probabilities of ids 4 and 2 are 0.467 and 0.283; among these two alone 0.62 and 0.38."""
    assert allowed(LOGITS.astype(np.float64), top_k, top_p).tolist() == expected


def test_top_k_keeps_ties() -> None:
    """Every token that equals the k-th largest stays, as in transformers."""
    assert allowed(np.array([1.0, 2.0, 2.0, 2.0, 0.0]), top_k=2, top_p=1.0).tolist() == [1, 2, 3]


@given(
    arrays(np.float64, st.integers(1, 30), elements=st.integers(-40, 40).map(lambda n: n / 4)),
    st.integers(0, 35),
    st.integers(1, 100).map(lambda n: (n - 0.5) / 100),
)
def test_allowed_is_its_definition(scaled: np.ndarray, top_k: int, top_p: float) -> None:
    """The sorted form keeps the tokens that the definition keeps, ties included."""
    assert allowed(scaled, top_k, top_p).tolist() == allowed_by_definition(scaled, top_k, top_p)


@pytest.mark.parametrize(
    "sampler",
    [
        Sampler(temperature=1.0, seed=11),
        Sampler(temperature=0.7, seed=12),
        Sampler(temperature=2.0, top_k=4, seed=13),
        Sampler(temperature=1.0, top_p=0.8, seed=14),
        Sampler(temperature=1.3, top_k=5, top_p=0.9, seed=15),
    ],
    ids=lambda s: f"t{s.temperature} k{s.top_k} p{s.top_p}",
)
def test_draws_follow_the_softmax(sampler: Sampler) -> None:
    """20,000 draws over positions pass a chi-square test against the softmax of the allowed tokens (fixed seeds)."""
    num_rows, num_positions = 20, 1000
    logits_BV = np.tile(LOGITS, (num_rows, 1))
    drawn = np.concatenate([sample(logits_BV, sampler, position) for position in range(num_positions)])
    scaled = LOGITS.astype(np.float64) / sampler.temperature
    ids_A = np.array([i for i in allowed_by_definition(scaled, sampler.top_k, sampler.top_p) if np.isfinite(LOGITS[i])])
    assert set(drawn.tolist()) == set(ids_A.tolist())
    observed = np.bincount(drawn, minlength=len(LOGITS))[ids_A]
    assert stats.chisquare(observed, softmax(scaled[ids_A]) * len(drawn)).pvalue > 0.001


def test_replay_chooses_the_same() -> None:
    """The same seed, row and position choose the same token; another seed, row or position is another draw."""
    logits_BV = np.zeros((64, 1000), np.float32)
    sampler = Sampler(temperature=1.0, seed=7)
    first = sample(logits_BV, sampler, position=3)
    np.testing.assert_array_equal(sample(logits_BV, sampler, position=3), first)
    np.testing.assert_array_equal(sample(logits_BV[:5], sampler, position=3), first[:5])
    assert len(set(first.tolist())) > 50
    assert (sample(logits_BV, sampler, position=4) != first).sum() > 60
    assert (sample(logits_BV, Sampler(temperature=1.0, seed=8), position=3) != first).sum() > 60


def test_noise_of_a_subset_is_the_noise_of_the_whole() -> None:
    """Noise is keyed by token id, so a sampler that sees the allowed ids alone draws the same token."""
    whole = gumbel_noise(1, 2, 3, np.arange(5000))
    ids = np.array([4999, 0, 17])
    np.testing.assert_array_equal(gumbel_noise(1, 2, 3, ids), whole[ids])


def test_noise_is_gumbel() -> None:
    """Noise over ids, rows, positions and seeds is standard Gumbel, and neighbours are uncorrelated."""
    for noise in (
        gumbel_noise(0, 0, 0, np.arange(20000)),
        np.array([gumbel_noise(0, row, 0, [0])[0] for row in range(5000)]),
        np.array([gumbel_noise(0, 0, position, [0])[0] for position in range(5000)]),
        np.array([gumbel_noise(seed, 0, 0, [0])[0] for seed in range(5000)]),
    ):
        assert stats.kstest(noise, "gumbel_r").pvalue > 0.001
        assert abs(np.corrcoef(noise[:-1], noise[1:])[0, 1]) < 0.05


def test_row_and_position_are_not_interchangeable() -> None:
    """Row 1 at position 2 and row 2 at position 1 are different streams."""
    assert gumbel_noise(0, 1, 2, [0])[0] != gumbel_noise(0, 2, 1, [0])[0]


def test_mixing_function_known_answer() -> None:
    """SplitMix64 with seed 1234567 gives its published first outputs."""
    golden, mask = 0x9E3779B97F4A7C15, (1 << 64) - 1
    assert [_mix((1234567 + n * golden) & mask) for n in (1, 2, 3)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


@pytest.mark.parametrize("sampler", [GREEDY, Sampler(temperature=1.0), Sampler(temperature=1.0, top_k=2, top_p=0.5)])
@pytest.mark.parametrize("value", [-np.inf, np.nan])
def test_a_row_without_a_choice_is_refused(sampler: Sampler, value: float) -> None:
    """A row that is all -inf, or all NaN, is an InputError naming row and position, never token 0."""
    logits_BV = np.stack([LOGITS, np.full_like(LOGITS, value)])
    with pytest.raises(InputError, match="row 1 at position 9"):
        sample(logits_BV, sampler, position=9)


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"seed": -1},
        {"seed": 1 << 64},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    """Each setting out of its range is an InputError that names it."""
    with pytest.raises(InputError, match=next(iter(settings))):
        Sampler(**settings)  # type: ignore[arg-type]


def test_stop_is_one_of_the_end_tokens() -> None:
    """A row has ended where its token is one of the end tokens; without any nothing ends."""
    ids_B = np.array([4, 2, 9])
    assert stop(ids_B, (2, 9)).tolist() == [False, True, True]
    assert stop(ids_B, ()).tolist() == [False, False, False]
