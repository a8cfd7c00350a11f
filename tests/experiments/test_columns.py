"""What experiments share: rounds as arrays, and what is said where they are missing, different or too few."""

import numpy as np
import pytest

from perstep.errors import InputError
from perstep.experiments.columns import require_rounds, stack_passes, why_unresolved
from perstep.measure import Steps


def steps(first: int) -> Steps:
    """Three steps of one part."""
    ns = np.arange(first, first + 3)
    return Steps(ns, {"mlp": ns - 1}, np.ones(3, np.int64), {"mlp": 6})


def test_passes_become_arrays() -> None:
    """Rounds, passes, positions; or each step as a pass, where all are of one position."""
    marked = [[steps(10), steps(20)], [steps(30), steps(40)]]
    plain = [[one.step_ns for one in passes] for passes in marked]
    found = stack_passes(plain, marked, "steps")
    assert found.step_ns.shape == found.parts["mlp"].shape == found.residual_ns.shape == (2, 2, 3)
    assert found.step_ns[1, 0].tolist() == [30, 31, 32]
    assert found.marks_per_step == {"mlp": 2.0}
    assert stack_passes(plain, marked, "steps", one_position=True).step_ns[1, :, 0].tolist() == [30, 31, 32]


@pytest.mark.parametrize("other", [Steps(np.arange(3)), Steps(np.arange(2), {"mlp": np.arange(2)}, np.arange(2))])
def test_passes_that_do_not_hold_the_same_are_refused(other: Steps) -> None:
    """A pass without parts, and a shorter one."""
    with pytest.raises(InputError, match="do not all hold the same steps"):
        stack_passes([], [[steps(10)], [other]], "steps")


def test_steps_without_a_residual_are_refused() -> None:
    """Also where all lack it."""
    lacking = Steps(np.arange(3), {"mlp": np.arange(3)})
    with pytest.raises(InputError, match=r"same steps \(residual"):
        stack_passes([], [[lacking], [lacking]], "steps")


def test_no_rounds_are_refused() -> None:
    """With what to do."""
    require_rounds([1])
    with pytest.raises(InputError, match="the run has no finished round; resume it with --resume, or measure again"):
        require_rounds([])


@pytest.mark.parametrize(
    ("missing", "half_width", "precision", "said"),
    [
        ("", 0.01, None, ""),
        ("", 0.01, 0.01, ""),
        ("no interval for mlp", 0.0, None, "no interval for mlp; give a longer --budget, or more --rounds"),
        (
            "",
            0.02,
            0.01,
            "the widest interval, of mlp, is ±2.00% of the step, ±1.00% was requested; give a longer",
        ),
    ],
)
def test_why_the_precision_is_not_reached(missing: str, half_width: float, precision: float | None, said: str) -> None:
    """Intervals are missing, or one is too wide."""
    found = why_unresolved(missing, half_width, precision, widest="of mlp")
    assert found.startswith(said)
    assert bool(found) == bool(said)
