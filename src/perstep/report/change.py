"""A change with its interval and verdict: the record that findings hold, and how it is shown."""

from collections.abc import Callable
from dataclasses import replace
from typing import Self

import msgspec

from perstep._json import Json
from perstep.report.format import signed_percent
from perstep.report.table import ABSENT, MISSING, Column, Ends, Row, Value, interval_columns
from perstep.stats import Change, UnpairedChange, Verdict


class RelativeChange(msgspec.Struct, frozen=True, kw_only=True):
    """A cost against that of the reference: 0.031 is 3.1 % more. All fields are empty for the reference itself.

    Attributes:
        change: None where the estimate is withheld or invalid.
        ci_low: lower end of its 95 % interval, which holds together with those shown beside it; or None.
        ci_high: upper end.
        mde: the smallest change that these rounds would have resolved in 80 % of tries, or None.
        verdict: `faster`, `slower`, `same (within ±T)`, `not resolved`, `not resolved (the machine was busy ...)`,
            `invalid (reason)`.
        reason: the reason for the verdict, in words.
    """

    change: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    mde: float | None = None
    verdict: str = ""
    reason: str = ""

    @classmethod
    def of(cls, change: Change | UnpairedChange | None, **others: Json) -> Self:
        """The record of a change.

        Args:
            change: as computed; None for the reference.
            others: fields of this record that a change does not have.
        """
        if change is None:
            return cls(**others)
        shared = {name: getattr(change, name) for name in cls.__struct_fields__ if hasattr(change, name)}
        return cls(**shared | {"change": change.estimate, "verdict": change.label} | others)

    @property
    def resolved(self) -> bool:
        """Whether there is a verdict."""
        return not self.verdict.startswith(Verdict.NOT_RESOLVED)

    def percent(self, digits: int | None = 1) -> str:
        """`+3.10 %`, or a dash.

        Args:
            digits: decimals; None for one, and for none from a doubling on.
        """
        return MISSING if self.change is None else _signed(self.change, digits)

    def interval(self, digits: int | None = 1, *, missing: str = MISSING) -> str:
        """`[+2.9 %, +3.3 %]`, or what stands where there is none."""
        return _interval(self.ci_low, self.ci_high, digits, missing)


class TimeChange(RelativeChange, frozen=True, kw_only=True):
    """A time, and how it changed against the reference's.

    Attributes:
        ns: the time, median over rounds.
        merged_by: number of adjacent rounds merged into one value, because they were autocorrelated.
        ties: rounds in which both took exactly the same time.
    """

    ns: float
    merged_by: int = 1
    ties: int = 0


def change_columns(
    of: Callable[[Row], RelativeChange | None],
    digits: int | None = 1,
    *,
    prefix: str | None = "",
    mde: bool = True,
) -> list[Column[Row]]:
    """Change, interval and verdict; nothing for a row without a change, as that of the reference is.

    Args:
        of: the change of a row.
        digits: decimals of a per cent, as in `RelativeChange.percent`.
        prefix: of the names in files; None if files do not have them.
        mde: whether files have the smallest change that would have been resolved.
    """

    def field(name: str) -> Callable[[Row], Value]:
        return lambda row: ABSENT if (change := of(row)) is None or not change.verdict else getattr(change, name)

    def ends(row: Row) -> Ends | str:
        return ABSENT if (change := of(row)) is None or not change.verdict else (change.ci_low, change.ci_high)

    columns = [
        Column("change", field("change"), lambda change: _signed(change, digits), f"{prefix}change"),
        *interval_columns(
            ends, names=(f"{prefix}ci_low", f"{prefix}ci_high"), form=lambda both: _interval(*both, digits, MISSING)
        ),
        *([Column[Row](None, field("mde"), name=f"{prefix}mde")] if mde else []),
        Column("verdict", field("verdict"), name=f"{prefix}verdict", words=True),
    ]
    return columns if prefix is not None else [replace(column, name="") for column in columns if column.header]


def _interval(low: float | None, high: float | None, digits: int | None, missing: str) -> str:
    return missing if low is None or high is None else f"[{_signed(low, digits)}, {_signed(high, digits)}]"


def _signed(change: float, digits: int | None) -> str:
    return signed_percent(change, digits if digits is not None else 1 if abs(change) < 1 else 0)
