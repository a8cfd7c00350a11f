"""An ablation as tables, and its figures as CSV."""

from dataclasses import replace
from functools import partial
from operator import attrgetter, itemgetter

from perstep._json import Json
from perstep.experiments.ablation.cells import ALL, Cell
from perstep.experiments.ablation.findings import AblationFindings, Growth
from perstep.experiments.ablation.samples import Conditions
from perstep.experiments.columns import qualifying_notes
from perstep.experiments.conditions import Model, typed
from perstep.measure.ledger import SCALE_SAID
from perstep.report import Column, Table, to_csv
from perstep.report.change import change_columns
from perstep.report.format import duration, interval, overhead, percent, plural, significant, time_unit
from perstep.report.page import Bar, Bars, Content, Drawn
from perstep.report.panels import Panel, Series
from perstep.report.table import ABSENT, places, time_column
from perstep.runs import Manifest
from perstep.stats import MIN_ROUNDS_FOR_VERDICT, Effect

NO_GROWTH = 0.1
"""A part that changes by less than this share of itself over the contexts seen does not grow."""


def tables(manifest: Manifest, findings: AblationFindings) -> list[Table]:
    """The cells, then the parts."""
    return [_cells_table(manifest, findings), _parts_table(manifest, findings)]


def _cells_table(manifest: Manifest, findings: AblationFindings) -> Table:
    estimates, cold = findings.effects, findings.cold
    every = estimates.cells[ALL].ns_per_step
    unit = time_unit(cell.ns_per_step for cell in estimates.cells.values())
    pass_unit = time_unit(findings.pass_ns.values())

    def of_cold(header: str, field: str) -> Column[tuple[str, Cell]]:
        value = attrgetter(field)
        return Column(header, lambda row: ABSENT if cold is None else value(cold[row[0]]), optional=True)

    columns: list[Column[tuple[str, Cell]]] = [
        Column("cell", lambda row: row[0], words=True),
        time_column("", lambda row: row[1].ns_per_step, unit, per="/step"),
        time_column("a pass", lambda row: findings.pass_ns[row[0]], pass_unit),
        Column("of all", lambda row: row[1].ns_per_step / every, percent),
        *change_columns(lambda row: row[1], prefix=None),
        replace(of_cold("cold", "ns"), form=lambda ns: significant(ns / 1e9), unit="s"),
        of_cold("graphs", "graphs"),
        of_cold("breaks", "graph_breaks"),
        of_cold("recompiled", "recompilations"),
    ]
    forwards = plural(findings.forwards_per_pass, "forward")
    notes = [f"every cell makes {forwards} a pass, each counted as a step · {plural(estimates.rounds, 'round')}"]
    if cold is not None:
        compiled = typed(manifest, Conditions).compiled
        notes.append(
            f"All other times are of compiled calls ({compiled}). Cold is each cell's first pass with nothing compiled"
            " or stored. It was measured once, so it has no interval."
        )
    if estimates.rounds < MIN_ROUNDS_FOR_VERDICT:
        notes.append(f"A verdict needs {MIN_ROUNDS_FOR_VERDICT} rounds; an interval alone needs fewer.")
    notes += qualifying_notes(findings)
    name = typed(manifest, Model).name
    return Table(f"{name}: a step with and without each part", columns, list(estimates.cells.items()), notes)


def _parts_table(manifest: Manifest, findings: AblationFindings) -> Table:  # noqa: ARG001 - as the other table
    estimates = findings.effects
    unit, size = time_unit([estimates.total.estimate])
    rows: dict[str, dict[str, Json]] = {
        name: {
            "taken away": part.leave_one_out,
            "added alone": part.add_one_in,
            "Shapley": part.shapley,
            "share of all": None if part.share is None else part.share.estimate,
            "in place": findings.parts[name].in_place,
            "in place, share": findings.parts[name].in_place_share,
        }
        for name, part in estimates.parts.items()
    }
    marked = len(rows)
    for names, effect in estimates.interaction.items():
        rows[f"interaction {names.replace('*', ' × ')}"] = {"taken away": effect}
    share = estimates.total.estimate / estimates.cells[ALL].ns_per_step
    rows["all together"] = {"taken away": estimates.total, "Shapley": estimates.total, "share of all": share}
    notes = [part.agreement for part in findings.parts.values()]
    notes += [f"{name}: {part.reason}." for name, part in estimates.parts.items() if part.reason]
    notes += [_growth_sentence(name, findings) for name in findings.parts]
    cost = findings.overhead
    notes.append(f"Marked calls: instrumentation {overhead(cost.estimate, cost.ci_low, cost.ci_high)}.")
    notes += findings.notes

    def column(header: str) -> Column[tuple[str, dict[str, Json]]]:
        form, word = (percent, "") if "share" in header else (partial(_cell, size=size), unit)
        return Column(header, lambda row: row[1].get(header, ABSENT), form, unit=word)

    part: Column[tuple[str, dict[str, Json]]] = Column("part", itemgetter(0), words=True)
    columns = [part, *map(column, next(iter(rows.values())))]
    return Table("what each part costs in a step", columns, list(rows.items()), notes, frozenset({marked}))


def _cell(effect: Effect, size: float) -> str:
    return f"{significant(effect.estimate / size)} {interval(effect.ci_low, effect.ci_high, size)}"


def growth_words(name: str, findings: AblationFindings) -> str:
    """Whether a part grows with the context, in words."""
    growth = findings.parts[name].growth
    slope = growth.ns_per_token
    span = growth.context[-1] - growth.context[0]
    if slope.ci_low is None or slope.ci_high is None:
        return "was seen in too few rounds or contexts to tell whether it grows with the context"
    most = max(-slope.ci_low, slope.ci_high) * span
    if most <= NO_GROWTH * findings.parts[name].in_place.estimate:
        return f"does not grow with the context (by {duration(most)} at most over {plural(span, 'token')})"
    if slope.ci_low > 0:
        return f"grows by {duration(slope.estimate)} a token of context"
    if slope.ci_high < 0:
        return f"shrinks by {duration(-slope.estimate)} a token of context"
    return f"may grow with the context or not: by {duration(most)} at most over {plural(span, 'token')}"


def _growth_sentence(name: str, findings: AblationFindings) -> str:
    growth = findings.parts[name].growth
    judged = ""
    if growth.held_out_error is not None:
        judged = f"; a {growth.fit} fit misses contexts it did not see by {percent(growth.held_out_error)} at most"
    return f"`{name}` {growth_words(name, findings)}{judged}.{_scaled(growth)}"


def _scaled(growth: Growth) -> str:
    """What brought the medians at single contexts to the part's time in place, where it changed them much."""
    if 1 / SCALE_SAID <= growth.scale_factor <= SCALE_SAID:
        return ""
    return (
        f" The machine was disturbed in different steps, so the medians at single contexts were"
        f" {percent(1 / growth.scale_factor, 0)} of the time in place. They are multiplied by"
        f" {significant(growth.scale_factor)}."
    )


Cost = tuple[str, str, int | None, float, float | None, float | None]
"""What kind of cost, of which cell or part, at how many tokens in the context; nanoseconds a step and their ends."""
COST: list[Column[Cost]] = places("what", "of", "context_tokens", "ns_per_step", "ci_low_ns", "ci_high_ns")


def csv(findings: AblationFindings) -> str:
    """A row a cell, effect and in-place time, in nanoseconds a step."""
    estimates = findings.effects
    effects: list[tuple[str, str, Effect | None]] = [("total", "all", estimates.total)]
    for name, part in estimates.parts.items():
        effects += [
            ("taken away", name, part.leave_one_out),
            ("added alone", name, part.add_one_in),
            ("effect", name, part.effect),
            ("shapley", name, part.shapley),
            ("in place", name, findings.parts[name].in_place),
        ]
    effects += [("interaction", names, effect) for names, effect in estimates.interaction.items()]
    rows: list[Cost] = [("cell", label, None, cell.ns_per_step, None, None) for label, cell in estimates.cells.items()]
    rows += [(what, of, None, one.estimate, one.ci_low, one.ci_high) for what, of, one in effects if one]
    return to_csv([column for column in COST if column.name != "context_tokens"], rows)


def ablation_content(name: str, findings: AblationFindings) -> Content:
    """What a page shows of an ablation.

    Args:
        name: of the model.
        findings: of the ablation.
    """
    saved = findings.effects
    every = saved.cells[ALL].ns_per_step
    unit, size = time_unit([every])
    cells = []
    for label, cell in saved.cells.items():
        low, high = (None if end is None else every * (1 + end) for end in (cell.ci_low, cell.ci_high))
        of_all = f", {percent(cell.ns_per_step / every)} of all: {cell.verdict}" if cell.verdict else ""
        words = f"{significant(cell.ns_per_step / size)} {unit}{of_all}"
        cells.append(Bar.scaled(label, (cell.ns_per_step, low, high), 1 / size, words, every / size))
    effects = [(label, part.leave_one_out) for label, part in saved.parts.items()]
    effects += [(f"interaction {names.replace('*', ' × ')}", effect) for names, effect in saved.interaction.items()]
    effects.append(("all together", saved.total))
    costs = [
        Bar.scaled(label, (one.estimate, one.ci_low, one.ci_high), 1 / size, f"{_cell(one, size)} {unit}")
        for label, one in effects
    ]
    parts, verb = " and ".join(findings.parts), "is" if len(findings.parts) == 1 else "are"
    low, high = saved.total.ci_low, saved.total.ci_high
    ends = "" if low is None or high is None else f" [{percent(low / every)}, {percent(high / every)}]"
    figures: list[Drawn] = [
        Bars("A step with and without each part", unit, cells, note="The line is the step with all parts."),
        Bars("What is saved when a part is taken away, and how parts act on each other", unit, costs),
    ]
    for label, part in findings.parts.items():
        xs, (word, scale) = [float(tokens) for tokens in part.growth.context], time_unit(part.growth.ns)
        measured = Series("in place", xs, [ns / scale for ns in part.growth.ns], shade=0)
        title = f"{label} {growth_words(label, findings)}"
        figures.append(Panel(title, "tokens in the context", f"{word} a step, in place", [measured]))
    return Content(f"{name}: {parts} {verb} {percent(saved.total.estimate / every)} of generate's time{ends}", figures)
