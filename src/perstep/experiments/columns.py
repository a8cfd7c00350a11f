"""What experiments share about rounds: how they become arrays, and what is said where they are missing or too few."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from perstep._words import plural
from perstep.errors import InputError
from perstep.experiments.base import Findings
from perstep.measure import LedgerSamples, Steps
from perstep.runs import Column, refuse_unlike

T = TypeVar("T")
Passes = Sequence[Sequence[T]]
"""By round, then by pass of the arm in it."""

TOO_FEW = "rounds are too few, or are autocorrelated"


def too_few(rounds: int) -> str:
    """Why there is no interval: `1 round is too few`, `9 rounds are too few, or are autocorrelated`."""
    return plural(rounds, "round is too few", TOO_FEW)


def require_rounds(samples: Sequence[object]) -> None:
    """Refuse to analyse nothing.

    Raises:
        InputError: there are no samples.
    """
    if not samples:
        raise InputError("the run has no finished round; resume it with --resume, or measure again")


def stack_passes(
    plain: Passes[Column], marked: Passes[Steps], what: str, *, one_position: bool = False
) -> LedgerSamples:
    """Passes as arrays, [rounds, passes of the arm in a round, positions].

    Args:
        plain: uninstrumented steps, by round and pass.
        marked: instrumented steps, likewise; the first pass tells the parts.
        what: the rounds should share, for the message.
        one_position: the steps of a pass are repetitions of one position; each counts as a pass.

    Raises:
        InputError: the passes do not hold the same.
    """
    refuse_unlike(({"steps": column} for passes in plain for column in passes), what)
    refuse_unlike(
        ({"steps": s.step_ns, "residual": s.residual_ns, **s.parts} for passes in marked for s in passes), what
    )

    def turned(columns: Passes[Column]) -> NDArray[np.int64]:
        array = np.array(columns, np.int64)
        return array.swapaxes(1, 2) if one_position else array

    first = marked[0][0]
    step_ns = turned([[steps.step_ns for steps in passes] for passes in marked])
    return LedgerSamples(
        plain_ns=turned(plain),
        step_ns=step_ns,
        parts={name: turned([[steps.parts[name] for steps in passes] for passes in marked]) for name in first.parts},
        residual_ns=turned([[steps.residual_ns for steps in passes] for passes in marked]),
        marks_per_step={name: marks / len(first.step_ns) for name, marks in first.marks.items()},
    )


def why_unresolved(missing: str, half_width: float, precision: float | None, *, widest: str = "") -> str:
    """Why the rounds do not reach the asked precision; empty where they do.

    Args:
        missing: which intervals are missing and why, or empty.
        half_width: of the widest interval, as a share of the step.
        precision: asked for; None asks for intervals alone.
        widest: what the widest interval is of, if that is said.
    """
    if not missing and precision is not None and half_width > precision:
        of = f", {widest}," if widest else ""
        missing = f"the widest interval{of} is ±{half_width:.2%} of the step, ±{precision:.2%} was requested"
    return f"{missing}; give a longer --budget, or more --rounds" if missing else ""


def qualifying_notes(findings: Findings) -> list[str]:
    """Under a table: what the rounds do not resolve, and why the findings are invalid."""
    unresolved = [f"Not resolved: {findings.unresolved}."] if findings.unresolved else []
    return unresolved + ([f"INVALID: {findings.invalid}"] if findings.invalid else [])
