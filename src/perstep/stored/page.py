"""Two stored runs against each other, and a run among its like, as pages, from the tables of `show` and `history`."""

from collections.abc import Sequence

from perstep._version import __version__
from perstep.report.format import duration, percent, time_unit
from perstep.report.page import Bar, Bars, Content, Drawn, Page, TwoRuns
from perstep.report.panels import Panel, Series
from perstep.stored.between import PartChange, RunFacts, StoredComparison
from perstep.stored.history import History, HistoryRow, history_table
from perstep.stored.repeats import Pair
from perstep.stored.show import comparison_notes, comparison_tables


def comparison_page(pair: StoredComparison, runs: Pair) -> Page:
    """The page of a comparison: the change of each part with its verdict, and both runs over one another.

    Args:
        pair: what was found.
        runs: the two, with their rounds.
    """
    headline = pair.parts[0]
    ref, new = (duration(ns) if ns is not None else "–" for ns in (headline.ref_ns, headline.new_ns))
    finding = f"{headline.part}: {ref} → {new}, {_change(headline)}"
    return Page(
        kind="comparison",
        title=f"perstep compare: {pair.ref.name} → {pair.new.name}",
        subject=f"{pair.ref.name} → {pair.new.name} · {pair.workload}",
        content=Content(
            finding, [one for kind in dict.fromkeys(row.kind for row in pair.parts) for one in _drawn(pair, runs, kind)]
        ),
        tables=comparison_tables(pair),
        stops=[f"The runs did not do the same work: {'; '.join(pair.different_work)}."] if pair.different_work else [],
        warnings=comparison_notes(pair),
        facts={"Reference": _facts(pair.ref), "New": _facts(pair.new)},
        holds=[
            "the comparison of two stored runs, part by part, and the mean time of every round in both",
            "the commits and the machine they were measured with; no command line and no path",
        ],
        version=__version__,
    )


def _change(row: PartChange) -> str:
    return f"{row.percent(2)} {row.interval(2, missing='(no interval)')}: {row.verdict}"


def _facts(run: RunFacts) -> dict[str, str]:
    return {name: str(getattr(run, name)) for name in run.__struct_fields__}


def _drawn(pair: StoredComparison, runs: Pair, kind: str) -> list[Drawn]:
    rows = [row for row in pair.parts if row.kind == kind]
    within = 100 * pair.threshold
    changes = [Bar.of_change(row.part, row, _change(row)) for row in rows]
    rounds = _rounds(runs, rows)
    # The step itself would make the bars of its parts invisible.
    parts = [row for row in rows if not row.part.endswith("step")] or rows
    unit, size = time_unit(row.new_ns or row.ref_ns or 0.0 for row in parts)
    overlaid = []
    for row in parts:
        words = " → ".join("–" if ns is None else duration(ns) for ns in (row.ref_ns, row.new_ns))
        line = None if row.ref_ns is None else row.ref_ns / size
        overlaid.append(
            Bar.scaled(row.part, (row.new_ns, row.new_ci_low_ns, row.new_ci_high_ns), 1 / size, words, line)
        )
    band = f"Within the band of ±{percent(pair.threshold, 0)} a change counts as the same."
    return [
        Bars(f"{kind}: change of each part", "%", changes, within=within, note=band, rounds=rounds),
        Bars(
            f"{kind}: both runs over one another",
            unit,
            overlaid,
            note=f"Bars are {pair.new.name}, lines are {pair.ref.name}.",
            rounds=rounds,
        ),
    ]


def _rounds(runs: Pair, rows: Sequence[PartChange]) -> TwoRuns:
    """Of the parts that both runs have."""
    both = {}
    for row in rows:
        new, ref = (run.costs.get(row.part) for run in (runs.new, runs.ref))
        if new is not None and ref is not None and new.ns is not None and ref.ns is not None:
            both[row.part] = (new.ns, ref.ns)
    return TwoRuns((runs.new.name, runs.ref.name), both)


def history_page(history: History) -> Page:
    """The page of a history: the step of each run with its interval, and what changed from one to the next."""
    rows = history.rows
    unit, size = time_unit(row.step_ns for row in rows)
    series = Series(
        "step, with the interval of its own rounds",
        [float(place) for place in range(1, len(rows) + 1)],
        [row.step_ns / size for row in rows],
        low=[None if row.ci_low_ns is None else row.ci_low_ns / size for row in rows],
        high=[None if row.ci_high_ns is None else row.ci_high_ns / size for row in rows],
    )
    changes = [Bar.of_change(f"{row.run}, {row.began[:10]}", row, _row_change(row)) for row in rows[1:] if row.verdict]
    panel = Panel("The step of each run, by date", "run, oldest first", f"step ({unit})", [series])
    drawn: list[Drawn] = [panel]
    if changes:
        drawn.append(Bars("Change against the run before", "%", changes, within=1.0, note=history.spread))
    return Page(
        kind="history",
        title=f"perstep history: {history.name}",
        subject=history.workload,
        content=Content(history.finding, drawn),
        tables=[history_table(history)],
        facts={},
        holds=[
            "stored runs of one workload on one machine, by date; no command line and no path",
        ],
        version=__version__,
        warnings=history.notes,
    )


def _row_change(row: HistoryRow) -> str:
    return f"{row.percent(2)} {row.interval(2, missing='(no interval)')}: {row.verdict}"
