"""The tables of docs/statistics.md, rendered from benchmarks/results/statistics.json.

A table stands between `<!-- table: coverage -->` and `<!-- end -->`; `fill` renews it. So no
number in that page is typed by hand, and a test fails when page and results differ.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Row = dict[str, Any]
    Cell = Callable[[Row], str]

BLOCK = re.compile(r"(<!-- table: (?P<name>\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def percent(key: str, digits: int = 1) -> Cell:
    """A fraction in per cent; a dash where there is none."""
    return lambda row: "–" if row[key] is None else f"{100 * row[key]:.{digits}f} %"


def number(key: str, digits: int = 0) -> Cell:
    """A number with that many digits."""
    return lambda row: f"{row[key]:,.{digits}f}"


def text(key: str) -> Cell:
    """A name."""
    return lambda row: str(row[key])


# study -> (heading of the column, how a row fills it)
COLUMNS: dict[str, Sequence[tuple[str, Cell]]] = {
    "coverage": [
        ("noise", text("noise")),
        ("per round", percent("size")),
        ("coverage", percent("coverage")),
        ("false verdicts", percent("false_verdicts")),
        ("interval shown", percent("printed")),
        ("same", percent("same", 0)),
        ("not resolved", percent("not_resolved", 0)),
        ("stopped on precision", percent("stopped_on_precision", 0)),
        ("rounds", number("mean_rounds")),
    ],
    "detection": [
        ("noise", text("noise")),
        ("true change", percent("change", 0)),
        ("slower", percent("slower")),
        ("faster", percent("faster")),
        ("same", percent("same")),
        ("not resolved", percent("not_resolved")),
        ("coverage", percent("coverage")),
    ],
    "detectable": [
        ("noise", text("noise")),
        ("rounds", number("rounds")),
        ("detectable (median)", percent("mde", 2)),
        ("10 % to 90 %", lambda r: f"{100 * r['mde_p10']:.2f} to {100 * r['mde_p90']:.2f} %"),
        ("resolved when injected", percent("resolved")),
    ],
    "family": [
        ("noise", text("noise")),
        ("true differences", lambda r: "10 % each" if r["true_spread"] else "none"),
        ("all 11 hold: perstep", percent("family_coverage")),
        ("with Holm's levels", percent("family_coverage_holm")),
        ("uncorrected", percent("family_coverage_uncorrected")),
        ("any false verdict", percent("false_families")),
    ],
    "shares": [
        ("rounds", number("rounds")),
        ("machine", text("machine")),
        ("all 12 hold", percent("family_coverage")),
        ("rounds not normalised", percent("family_coverage_not_normalised")),
    ],
    "factorial": [
        ("noise", text("noise")),
        ("rounds", number("rounds")),
        ("interval shown", percent("printed")),
        ("Shapley", percent("coverage_shapley")),
        ("leave one out", percent("coverage_leave_one_out")),
        ("interaction", percent("coverage_interaction")),
    ],
    "stopping_rules": [
        ("noise", text("noise")),
        ("per round", percent("size")),
        ("rule, without merging", text("rule")),
        ("coverage", percent("coverage")),
        ("rounds", number("mean_rounds")),
    ],
    "interval_methods": [
        ("noise", text("noise")),
        ("rounds", number("rounds")),
        ("interval", text("method")),
        ("coverage", percent("coverage")),
        ("half-width", percent("median_half_width", 2)),
    ],
    "merging": [
        ("noise", text("noise")),
        ("rounds", number("rounds")),
        ("interval", text("way")),
        ("coverage", percent("coverage")),
        ("shown", percent("printed", 0)),
    ],
    "few_rounds": [
        ("noise", text("noise")),
        ("rounds", number("rounds")),
        ("paired interval shown", percent("printed")),
        ("its coverage", percent("coverage")),
        ("resampled interval shown", percent("printed_factorial")),
        ("its coverage", percent("coverage_factorial")),
    ],
    "sequential": [
        ("noise", text("noise")),
        ("false verdicts", percent("false_verdicts")),
    ],
}


def render(study: str, rows: Sequence[Row]) -> str:
    """One study as a Markdown table."""
    columns = COLUMNS[study]
    lines = [" | ".join(heading for heading, _ in columns), " | ".join("---" for _ in columns)]
    lines += [" | ".join(cell(row) for _, cell in columns) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def fill(page: str, results: Row) -> str:
    """The page with every table renewed from the results."""
    return BLOCK.sub(lambda m: f"{m[1]}\n{render(m['name'], results['studies'][m['name']])}\n\n{m[3]}", page)
