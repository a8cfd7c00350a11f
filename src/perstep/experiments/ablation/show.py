"""An ablation as tables, and its figures as CSV."""

from perstep.experiments.ablation.cells import ALL
from perstep.experiments.ablation.findings import AblationFindings, Growth
from perstep.experiments.ablation.samples import Conditions
from perstep.experiments.columns import precision_notes
from perstep.experiments.conditions import Model, typed
from perstep.measure.ledger import SCALE_SAID
from perstep.report import Table, to_csv
from perstep.report.change import CHANGE_HEADER
from perstep.report.format import duration, interval, percent, plural, significant, time_unit
from perstep.runs import Manifest
from perstep.stats import MIN_ROUNDS_FOR_VERDICT, Effect

NO_GROWTH = 0.1
"""A part that changes by less than this share of itself over the contexts seen does not grow."""


def tables(manifest: Manifest, findings: AblationFindings) -> list[Table]:
    """The cells, then the parts."""
    return [_cells_table(manifest, findings), _parts_table(manifest, findings)]


def _cells_table(manifest: Manifest, findings: AblationFindings) -> Table:
    found, cold = findings.effects, findings.cold
    unit, size = time_unit(cell.ns_per_step for cell in found.cells.values())
    whole_unit, whole_size = time_unit(findings.pass_ns.values())
    every = found.cells[ALL].ns_per_step
    header = ["cell", f"{unit}/step", f"{whole_unit} a pass", "of all", *CHANGE_HEADER]
    if cold is not None:
        header += ["cold, s", "graphs", "breaks", "recompiled"]
    rows = []
    for label, cell in found.cells.items():
        row = [
            label,
            significant(cell.ns_per_step / size),
            significant(findings.pass_ns[label] / whole_size),
            percent(cell.ns_per_step / every),
            *cell.cells(),
        ]
        if cold is not None:
            c = cold[label]
            row += [significant(c.ns / 1e9), str(c.graphs), str(c.graph_breaks), str(c.recompilations)]
        rows.append(row)
    forwards = plural(findings.forwards_per_pass, "forward")
    notes = [f"{forwards} a pass in every cell · {plural(found.rounds, 'round')} · a pass is the step times these"]
    if cold is not None:
        compiled = typed(manifest, Conditions).compiled
        notes.append(
            f"Warm times are those of compiled calls ({compiled}); cold is each cell's first "
            "pass with nothing compiled or stored, once, so without an interval."
        )
    if found.rounds < MIN_ROUNDS_FOR_VERDICT:
        notes.append(f"A verdict needs {MIN_ROUNDS_FOR_VERDICT} rounds; an interval stands without one.")
    notes += precision_notes(findings)
    if findings.invalid:
        notes.append(f"INVALID: {findings.invalid}")
    name = typed(manifest, Model).name
    return Table(f"{name}: a step with and without each part", header, rows, frozenset({0, 6}), notes)


def _parts_table(manifest: Manifest, findings: AblationFindings) -> Table:  # noqa: ARG001 - as the other table
    found = findings.effects
    unit, size = time_unit([found.total.estimate])
    header = ["part", "taken away", "added alone", "Shapley", "share of all", "in place", "in place, share"]
    rows = [
        [
            name,
            _cell(part.leave_one_out, size),
            _cell(part.add_one_in, size),
            "–" if part.shapley is None else _cell(part.shapley, size),
            "–" if part.share is None else percent(part.share.estimate),
            _cell(findings.parts[name].in_place, size),
            percent(findings.parts[name].in_place_share),
        ]
        for name, part in found.parts.items()
    ]
    marked = len(rows)
    rows += [
        [f"interaction {names.replace('*', ' × ')}", _cell(effect, size), "", "", "", "", ""]
        for names, effect in found.interaction.items()
    ]
    share = percent(found.total.estimate / found.cells[ALL].ns_per_step)
    rows.append(["all together", _cell(found.total, size), "", _cell(found.total, size), share, "", ""])
    notes = [part.agreement for part in findings.parts.values()]
    notes += [f"{name}: {part.reason}." for name, part in found.parts.items() if part.reason]
    notes += [_growth_sentence(name, findings) for name in findings.parts]
    cost = findings.overhead
    notes.append(
        "What the marks cost is not resolved."
        if cost.ci_low is None or cost.ci_high is None
        else f"Instrumentation overhead of marked calls: {percent(cost.estimate)}"
        f" [{100 * cost.ci_low:.1f}, {100 * cost.ci_high:.1f}]."
    )
    notes += findings.notes
    return Table(f"parts, {unit} a step", header, rows, frozenset({0}), notes, frozenset({marked}))


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
        f" The machine was disturbed in different steps: medians at single contexts are"
        f" {percent(1 / growth.scale_factor, 0)} of the time in place, and are multiplied by"
        f" {significant(growth.scale_factor)} to agree with it."
    )


def csv(findings: AblationFindings) -> str:
    """A row a cell, effect and in-place time, in nanoseconds a step."""
    rows: list[list[object]] = []
    for label, cell in findings.effects.cells.items():
        rows.append(["cell", label, cell.ns_per_step, None, None])
    rows.append(_row("total", "all", findings.effects.total))
    for name, part in findings.effects.parts.items():
        rows.append(_row("taken away", name, part.leave_one_out))
        rows.append(_row("added alone", name, part.add_one_in))
        if part.effect is not None:
            rows.append(_row("effect", name, part.effect))
        if part.shapley is not None:
            rows.append(_row("shapley", name, part.shapley))
        rows.append(_row("in place", name, findings.parts[name].in_place))
    for names, effect in findings.effects.interaction.items():
        rows.append(_row("interaction", names, effect))
    return to_csv(["what", "of", "ns_per_step", "ci_low_ns", "ci_high_ns"], rows)


def _row(what: str, of: str, effect: Effect) -> list[object]:
    return [what, of, effect.estimate, effect.ci_low, effect.ci_high]
