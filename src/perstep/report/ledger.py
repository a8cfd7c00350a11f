"""A ledger as a table, a bar and a CSV; used by every experiment that has one."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING

from msgspec import UnsetType

from perstep._words import short
from perstep.measure import RESIDUAL, RESIDUAL_SAID, Ledger, Part, Sum
from perstep.report.format import duration, duration_interval, overhead, percent, plural, significant, time_unit
from perstep.report.plot import RESIDUAL_COLOUR, draw_png, is_dark, part_colour
from perstep.report.table import (
    ABSENT,
    Column,
    Ends,
    Row,
    Table,
    Unit,
    bar_column,
    interval_columns,
    time_column,
    to_csv,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BAR_IN, BAR_HEIGHT_IN = 9.7, 1.5
"""Width of a whole bar and its height, in inches."""
LEVEL_PT, UPRIGHT_PT = 8.5, 7.5
"""Type size of a name that lies in its part, and of one that stands upright in it."""
EM = 0.62
"""Mean width of a character, as a share of the type size; that of `MaxLengthCriteria` and of `bookkeeping`."""
NAMED_TOGETHER = 3
"""Most parts that are named where it is not resolved which of them is the largest."""
LAST_TICK = 0.93
"""Ticks beyond this share of the axis would run into the one at its end."""
_NO_INTERVAL = "(no interval)"
TITLE_WIDTH = 118
"""Characters in a line of a bar's title."""


@dataclass(frozen=True)
class BoundColumns:
    """What theory says of a ledger's parts, for its columns; parts without a formula are missing.

    Attributes:
        parts_ns: the least time of each part in a step; None where it is withdrawn.
        binds: what it is bound by, or why there is no bound.
        step_ns: of the whole step; None where it is withdrawn.
        notes: sentences about them.
    """

    parts_ns: Mapping[str, float | None]
    binds: Mapping[str, str]
    step_ns: float | None
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class _Row:
    """A row of a ledger: a part, the residual or a whole step."""

    ledger: Ledger
    name: str
    ns: float
    share: float | str = ABSENT
    ends: Ends | str = ABSENT
    syncs: float | str | None = ABSENT
    uploads: float | str | None = ABSENT
    bound_ns: float | None = None
    binds: str = ABSENT
    site: str = ABSENT


def ledger_table(
    ledger: Ledger,
    *,
    title: str,
    tokens_per_s: float | None = None,
    forwards_in: str = "a pass",
    bounds: BoundColumns | None = None,
) -> Table:
    """One row a part, the residual, the sum; then what qualifies the numbers.

    Args:
        ledger: what was found.
        title: what was measured, in words.
        tokens_per_s: throughput of uninstrumented steps, where it means something.
        forwards_in: what the ledger's forwards were counted in.
        bounds: columns of bounds, if there are any.
    """
    # By the largest part, not by the step: next to a prefill of a second most parts would be 0.0000245 s.
    unit = time_unit(part.ns for part in ledger.parts.values())
    first = int(ledger.residual_share > RESIDUAL_SAID)  # then its first note states the residual
    notes = [] if bounds is None else list(bounds.notes)
    if bounds is not None and not any(bounds.parts_ns.values()):
        bounds = None  # all are withdrawn, and the notes say why
    return Table(
        title=title,
        columns=_columns(unit, bounds=bounds is not None),
        records=[*_part_rows(ledger, bounds), *_step_rows(ledger, bounds)],
        notes=[
            *ledger.notes[:first],
            _footer(ledger, tokens_per_s, forwards_in),
            *notes,
            *ledger.notes[first:],
            *([f"INVALID: {ledger.invalid}"] if ledger.invalid else []),
        ],
        rule_before=frozenset({len(ledger.parts), len(ledger.parts) + 1}),
    )


def _columns(unit: Unit, *, bounds: bool, sites: bool = False) -> list[Column[_Row]]:
    site: list[Column[_Row]] = [Column(None, lambda row: row.site, name="site")]
    return [
        *(site if sites else []),
        Column(None, lambda row: row.ledger.kind, name="kind"),
        Column("part", lambda row: row.name, name="part", words=True),
        time_column("", lambda row: row.ns, unit, per="/step", name="ns_per_step"),
        Column("share", lambda row: row.share, percent, "share"),
        bar_column(lambda row: row.share),
        *interval_columns(lambda row: row.ends, unit),
        Column("", lambda row: row.syncs or ABSENT, significant, unit="syncs/step", optional=True),
        Column("", lambda row: row.uploads or ABSENT, significant, unit="uploads/step", optional=True),
        *(bound_columns(lambda row: row.ns, lambda row: row.bound_ns, lambda row: row.binds, unit) if bounds else []),
    ]


def bound_columns(
    ns: Callable[[Row], float],
    bound_ns: Callable[[Row], float | None],
    binds: Callable[[Row], str],
    unit: Unit,
) -> list[Column[Row]]:
    """A bound, how many times as long was measured, and what binds.

    Args:
        ns: what was measured of a row.
        bound_ns: its bound; None without one.
        binds: what it is bound by, or why there is no bound.
        unit: of the bound.
    """

    def over(row: Row) -> float | str:
        bound = bound_ns(row)
        return ns(row) / bound if bound else ABSENT

    return [
        time_column("bound", lambda row: bound_ns(row) or ABSENT, unit, name="bound_ns", drop=2),
        Column("measured/bound", over, significant, drop=2),
        Column("bound by", binds, name="bound_by", words=True, drop=2),
    ]


def _part_rows(ledger: Ledger, bounds: BoundColumns | None = None, site: str = ABSENT) -> list[_Row]:
    """The parts and the residual: what a table and a file both have."""
    bounds_ns, binds = ({}, {}) if bounds is None else (bounds.parts_ns, bounds.binds)
    rows = [
        _Row(ledger, name, part.ns, part.share, (part.ci_low, part.ci_high), part.syncs_per_step,
             part.uploads_per_step or 0.0, bounds_ns.get(name), binds.get(name, ABSENT), site)
        for name, part in ledger.parts.items()
    ]  # fmt: skip
    syncs = _unattributed(ledger.syncs_per_step, (part.syncs_per_step for part in ledger.parts.values()))
    uploads = _unattributed(ledger.uploads_per_step, (part.uploads_per_step for part in ledger.parts.values()))
    return [*rows, _Row(ledger, RESIDUAL, ledger.residual_ns, ledger.residual_share, ABSENT, syncs, uploads, site=site)]


def _unattributed(total: float | UnsetType | None, parts: Iterable[float | UnsetType | None]) -> float:
    """What of a count per step lies in none of the parts; 0 where nothing was counted."""
    return round((total or 0.0) - sum(part or 0.0 for part in parts), 9)


def _step_rows(ledger: Ledger, bounds: BoundColumns | None) -> list[_Row]:
    """The whole step, with instruments and without."""
    name, waits = f"step ({ledger.kind}, instrumented)", (ledger.syncs_per_step, ledger.uploads_per_step or 0.0)
    step = _Row(ledger, name, ledger.step_ns, "100.0 %", ABSENT, *waits)
    if ledger.plain_step_ns is None:
        return [step]
    ends, bound_ns = (ledger.plain_step_ci_low, ledger.plain_step_ci_high), bounds.step_ns if bounds else None
    name = f"step ({ledger.kind}), uninstrumented"
    return [step, _Row(ledger, name, ledger.plain_step_ns, ends=ends, bound_ns=bound_ns)]


def _footer(ledger: Ledger, tokens_per_s: float | None, forwards_in: str) -> str:
    facts = [
        overhead_words(ledger),
        f"{plural(ledger.forwards, 'forward')} {forwards_in}",
        plural(ledger.rounds, "round"),
        f"{percent(ledger.residual_ns_total / ledger.step_ns_total)} of all steps unattributed",
    ]
    if tokens_per_s is not None:
        facts.append(f"{significant(tokens_per_s)} tokens/s")
    return " · ".join(facts)


def overhead_words(ledger: Ledger) -> str:
    """The instrumentation overhead with its interval; without one no number is named."""
    return f"instrumentation {overhead(ledger.overhead, ledger.overhead_ci_low, ledger.overhead_ci_high)}"


def headline_interval(ledger: Ledger) -> str:
    """The interval of the step without instruments, in a sentence."""
    return duration_interval(ledger.plain_step_ci_low, ledger.plain_step_ci_high, _NO_INTERVAL)


def share_words(part: Part | Sum, ledger: Ledger) -> str:
    """The share of a part or of a sum of parts with its interval, in a sentence."""
    if part.ci_low is None or part.ci_high is None:
        return f"{percent(part.share)} {_NO_INTERVAL}"
    low, high = (percent(min(ns / ledger.step_ns, 1.0)) for ns in (part.ci_low, part.ci_high))
    return f"{percent(part.share)} [{low}, {high}]"


def largest_words(ledger: Ledger) -> str:
    """Which part is the largest, as far as the intervals tell: `largest part mlp`."""
    names = ledger.largest
    if len(names) == 1:
        return f"largest part {names[0]}"
    if len(names) <= NAMED_TOGETHER:
        return f"largest part {' or '.join(names)} (not resolved)"
    return "largest part not resolved"


def ledger_csv(
    ledgers: Sequence[Ledger], bounds: Mapping[str, BoundColumns] | None = None, sites: Sequence[str] = ()
) -> str:
    """The parts of ledgers in nanoseconds, as a CSV.

    Args:
        ledgers: what was found.
        bounds: columns of bounds by kind, if there are any.
        sites: the line of a script that each is of, if there are any.
    """
    rows = [
        row
        for ledger, site in zip(ledgers, sites or [ABSENT] * len(ledgers), strict=True)
        for row in _part_rows(ledger, (bounds or {}).get(ledger.kind), site)
    ]
    return to_csv(_columns(("ns", 1.0), bounds=bool(bounds), sites=bool(sites)), rows)


def ledger_png(ledgers: list[Ledger], *, subject: str | list[str]) -> bytes:
    """A stacked horizontal bar a ledger, largest part first, with the names in it, the smallest below it.

    The axis ends at the instrumented step, which the title begins with: of that the parts are shares.

    Args:
        ledgers: one bar each.
        subject: what was measured, of all ledgers or of each.
    """
    subjects = [subject] * len(ledgers) if isinstance(subject, str) else subject

    def draw(figure: "Figure") -> None:
        axes = figure.subplots(len(ledgers), 1, squeeze=False)[:, 0]
        for ax, ledger, name in zip(axes, ledgers, subjects, strict=True):
            _draw(ax, ledger, name)

    return draw_png(10, 0.3 + 2.3 * len(ledgers), draw)


def _draw(ax: "Axes", ledger: Ledger, subject: str) -> None:
    unit, size = time_unit([ledger.step_ns])
    left, unnamed = 0.0, []
    for name, part in _ranked(ledger):
        colour, width = part_colour(name), part.ns / size
        ax.barh(0, width, left=left, color=colour, edgecolor="white", linewidth=0.8, height=0.8)
        ink = "white" if is_dark(colour) else "black"
        middle, room_pt = left + width / 2, 72 * BAR_IN * part.share
        own, brief = (f"{words}  {percent(part.share)}" for words in (name, name.rsplit("/")[-1]))
        label = own if len(own) * EM * UPRIGHT_PT <= 72 * BAR_HEIGHT_IN else brief
        if len(name) * EM * LEVEL_PT <= room_pt:
            ax.text(middle, 0, f"{name}\n{part.share:.0%}", ha="center", va="center", fontsize=LEVEL_PT, color=ink)
        elif room_pt >= 1.3 * UPRIGHT_PT and len(label) * EM * UPRIGHT_PT <= 72 * BAR_HEIGHT_IN:
            ax.text(middle, 0, label, ha="center", va="center", fontsize=UPRIGHT_PT, color=ink, rotation=90)
        else:
            unnamed.append(f"{name} {percent(part.share)}")
        left += width
    unnamed.append(f"residual {percent(ledger.residual_share)}")
    ax.barh(
        0, ledger.residual_ns / size, left=left, color=RESIDUAL_COLOUR, edgecolor="#222222", linewidth=0.6, height=0.8
    )
    unnamed = [words.replace(" %", "\N{NO-BREAK SPACE}%") for words in unnamed]
    caption = f"not named in the bar, from left to right: {', '.join(unnamed)} (white)"
    ax.set_title(fill(_finding(ledger, subject), TITLE_WIDTH), loc="left", fontsize=10.5)
    end = ledger.step_ns / size
    ax.set_xlim(0, end)
    inside = [tick for tick in ax.get_xticks() if 0 <= tick < LAST_TICK * end]
    ax.set_xticks([*inside, end], [*(short(tick) for tick in inside), significant(end)])
    ax.set_ylim(-0.42, 0.42)
    ax.set_yticks([])
    ax.spines[["left", "right", "top"]].set_visible(False)
    ax.set_xlabel(f"{unit} per instrumented {ledger.kind} step\n" + fill(caption, 140), fontsize=8)


def _ranked(ledger: Ledger) -> list[tuple[str, Part]]:
    return sorted(ledger.parts.items(), key=lambda item: -item[1].share)


def _finding(ledger: Ledger, subject: str) -> str:
    plain = "" if ledger.plain_step_ns is None else f", {duration(ledger.plain_step_ns)} without instruments"
    step = f"an instrumented {ledger.kind} step takes {duration(ledger.step_ns)}{plain}"
    return f"{subject}: {step}; {largest_words(ledger)}"
