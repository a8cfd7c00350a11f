"""The findings of `ops` as tables, pictures, CSV and sentences."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from textwrap import fill
from typing import TYPE_CHECKING

from perstep._json import Json
from perstep.experiments.columns import qualifying_notes
from perstep.experiments.conditions import typed
from perstep.experiments.ops.expected import FULL, MASK, SOURCE, expected
from perstep.experiments.ops.findings import AttentionFound, Estimate, Gain, LengthFound, OperatorFound, OpsFindings
from perstep.experiments.ops.samples import Conditions, Model, Sample, Workload, ledger_samples
from perstep.experiments.ops.scaling import Exponent, Scaling
from perstep.measure import RESIDUAL
from perstep.report import Column, Table, to_csv
from perstep.report.change import RelativeChange, change_columns
from perstep.report.format import duration, duration_interval, interval, percent, plural, significant, time_unit
from perstep.report.ledger import overhead_words
from perstep.report.page import Content, Drawn, LedgerView
from perstep.report.panels import Panel, Series
from perstep.report.plot import RESIDUAL_COLOUR, draw_png, is_dark, part_colour
from perstep.report.table import ABSENT, MISSING, Unit, Value, places, time_column
from perstep.report.words import render
from perstep.runs import Manifest
from perstep.targets.operators.layer import PARTS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CHANGES_NOTE = (
    "An exponent above the formula's may come from data that no longer fit into a cache, from newly allocated memory,"
    " or from another kernel; one that falls, from threads that begin to share the work or from another kernel."
)
_GAIN_NOTE = (
    "The gain was measured in the arm with the part free. Where it exceeds the part's own time (no), the other parts"
    " were faster too, so the part's own time is no upper bound of the gain."
)
_WITHIN = {True: "yes", False: "no", None: "not resolved"}
_READABLE = 30
_Way = tuple[LengthFound, str, AttentionFound]
_Free = tuple[int, str, str, Estimate, Gain, float]
BUILD, APPLY = "attn.mask.build", "attn.mask.apply"
PLAIN, LAYERS = "step (uninstrumented)", "layers"
"""What files call these two."""


def tables(manifest: Manifest, findings: OpsFindings) -> list[Table]:
    """A table for each length, then the masks, the time saved by parts made free, and the exponents."""
    result = [_length_table(manifest, length, findings) for length in findings.lengths]
    result.append(_attention_table(manifest, findings))
    if any(length.arms for length in findings.lengths):
        result.append(_arms_table(findings))
    if any(length.what_if for length in findings.lengths):
        result.append(_what_if_table(findings))
    if findings.scaling:
        result.append(_scaling_table(findings))
    result[0].notes.extend(qualifying_notes(findings))
    waits = typed(manifest, Conditions).device_waits
    result[0].notes.extend([f"On {typed(manifest, Workload).device} the host waits {waits}."] if waits else [])
    return result


def subject(manifest: Manifest) -> str:
    """What was measured, in words."""
    w, name, arm = typed(manifest, Workload), typed(manifest, Model).name, typed(manifest, Conditions).arm
    where = "" if w.device == "cpu" else f" on {w.device}"
    return f"{name}, {w.backend}, {w.dtype}{where}, {plural(w.threads, 'thread')}, {arm}"


@dataclass(frozen=True)
class _Row:
    """An operator, the residual, a step or a composite at one length."""

    seq: int
    name: str
    ns: float
    low: float | str | None = ABSENT
    high: float | str | None = ABSENT
    share: float | str = ABSENT
    of_layers: float | str | None = ABSENT
    operator: OperatorFound | None = None
    shown: str = ""


def _estimate_row(seq: int, name: str, estimate: Estimate, **others: Json) -> _Row:
    return _Row(seq, name, estimate.ns, estimate.ci_low_ns, estimate.ci_high_ns, **others)


def _part_rows(length: LengthFound) -> list[_Row]:
    """The operators and the residual: what the table and the file both have."""
    rows = [
        _estimate_row(
            length.seq, name, part.in_place, share=part.share_of_step, of_layers=part.share_of_layer, operator=part
        )
        for name, part in length.operators.items()
    ]
    ledger = length.ledger
    residual = _Row(length.seq, RESIDUAL, ledger.residual_ns, share=ledger.residual_share)
    return [*rows, replace(residual, of_layers=length.residual_share_of_layers)]


def _columns(unit: Unit, published: Callable[[_Row], float | str]) -> list[Column[_Row]]:
    def of_operator(field: str) -> Callable[[_Row], Value]:
        return lambda row: ABSENT if row.operator is None else getattr(row.operator, field)

    alone = of_operator("alone")
    return [
        Column(None, lambda row: row.seq, name="seq"),
        Column("part", lambda row: row.shown or row.name, words=True),
        Column(None, lambda row: row.name, name="part"),
        time_column("low", lambda row: row.low, unit, name="low_ns"),
        time_column("", lambda row: row.ns, unit, per="/step", name="estimate_ns"),
        time_column("high", lambda row: row.high, unit, name="high_ns"),
        Column("of step", lambda row: row.share, percent, "share_of_step"),
        Column("of layers", lambda row: ABSENT if row.of_layers is None else row.of_layers, percent, "share_of_layers"),
        time_column("alone", lambda row: estimate.ns if (estimate := alone(row)) else ABSENT, unit, name="alone_ns"),
        Column("place/alone", lambda row: _ratio(row.operator) if row.operator else ABSENT),
        Column(None, of_operator("in_place_over_alone"), name="in_place_over_alone"),
        time_column("published", published, unit, optional=True),
    ]


def _length_table(manifest: Manifest, length: LengthFound, findings: OpsFindings) -> Table:
    # Not by the largest part alone: beside a product of two seconds a mask would take 0.000520 s.
    unit = time_unit([max(part.ns for part in length.ledger.parts.values()) / _READABLE])
    model, past = typed(manifest, Model), typed(manifest, Workload).past

    def published(row: _Row) -> float | str:
        estimate = expected(model, past, row.shown or row.name, length.seq)
        return ABSENT if estimate is None else estimate.ns

    parts, composites = _part_rows(length), _composites(length)
    step = _Row(length.seq, "step, instrumented", length.ledger.step_ns, share="100.0 %")
    shown = {
        PLAIN: "step, uninstrumented",
        LAYERS: "all layers, not instrumented",
        f"{MASK} {findings.reference}": MASK,
        f"{FULL} {findings.reference}": FULL,
        **{name: f"{name} (alone)" for name in length.own},
    }
    rows = [
        _estimate_row(length.seq, name, composites[name], shown=words)
        for name, words in shown.items()
        if name in composites
    ]
    table = Table(
        title=f"{_kind(length)}: {subject(manifest)}",
        columns=_columns(unit, published),
        records=[*parts, step, *rows],
        rule_before=frozenset({len(parts) - 1, len(parts) + 1, len(parts) + 3}),
    )
    table.notes.extend(_length_notes(length, findings, published="published" in " ".join(table.header)))
    return table


def _length_notes(length: LengthFound, findings: OpsFindings, *, published: bool) -> list[str]:
    ledger = length.ledger
    unattributed = f"{percent(ledger.residual_ns_total / ledger.step_ns_total, 2)} of all steps unattributed"
    notes = [
        f"{overhead_words(ledger)} · {plural(ledger.rounds, 'round')} · low and high: 95 % together · {unattributed}",
        *ledger.notes,
    ]
    if length is findings.lengths[-1]:
        notes.append(
            "Below the last rule: composites on the operands of the step, timed by themselves. They are not summed with"
            " the parts."
        )
        if published:
            notes.append(f"published: {SOURCE}; of another machine and language, so compare only how they grow.")
    return notes


def _ratio(operator: OperatorFound) -> str:
    if operator.in_place_over_alone is None:
        return ""
    ends = interval(operator.ratio_ci_low, operator.ratio_ci_high, digits=2)
    return f"{significant(operator.in_place_over_alone, 3)} {ends}".removesuffix(" –")


def _kind(length: LengthFound) -> str:
    what = "one new token" if length.seq == 1 else plural(length.seq, "new token")
    return f"S = {length.seq}: {what}, {plural(length.keys, 'key')}"


def _attention_table(manifest: Manifest, findings: OpsFindings) -> Table:
    rows = [(length, name, attention) for length in findings.lengths for name, attention in length.attention.items()]
    unit = time_unit(attention.whole.ns for _, _, attention in rows)

    def part(name: str) -> Column[_Way]:
        return time_column(name.rpartition(".")[2], lambda row: row[2].parts_ns.get(name, ABSENT), unit)

    mask: list[Column[_Way]] = change_columns(lambda row: row[2].mask_against_reference, prefix=None)
    columns: list[Column[_Way]] = [
        Column("S", lambda row: row[0].seq),
        Column("way", lambda row: row[1], words=True),
        time_column("whole", lambda row: row[2].whole.ns, unit),
        part(BUILD),
        part(APPLY),
        *change_columns(lambda row: row[2].against_reference, prefix=None),
        *(replace(column, header="build + apply" if column.header == "change" else column.header) for column in mask),
    ]
    rules = [at for at, row in enumerate(rows) if at and row[0] is not rows[at - 1][0]]
    notes = ["A blank build or apply: there is no mask (one query, or the fused kernel)."]
    if typed(manifest, Workload).backend == "numpy":
        notes.append("NumPy has no fused attention; --backend torch has.")
    elif not any("mask=fused" in length.attention for length in findings.lengths):
        notes.append("The fused kernel's causal flag is wrong behind a past, so it was not run.")
    return Table(
        title="full_attention, every way to mask, on the operands of the step",
        columns=columns,
        records=rows,
        notes=notes,
        rule_before=frozenset(rules),
    )


def _arms_table(findings: OpsFindings) -> Table:
    rows: list[tuple[int, str, float, RelativeChange | None]] = []
    for length in findings.lengths:
        rows.append((length.seq, findings.reference, length.ledger.step_ns, None))
        rows += [(length.seq, name, arm.step.ns, arm.against_reference) for name, arm in length.arms.items()]
    columns: list[Column[tuple[int, str, float, RelativeChange | None]]] = [
        Column("S", lambda row: row[0]),
        Column("arm", lambda row: row[1], words=True),
        Column("step", lambda row: row[2], lambda ns: duration(ns, 4)),
        *change_columns(lambda row: row[3], prefix=None),
    ]
    return Table("whole steps, arm by arm, all instrumented alike", columns, rows)


def _what_if_table(findings: OpsFindings) -> Table:
    rows: list[_Free] = []
    for length in findings.lengths:
        for saving in length.what_if.values():
            whole_ns = next(iter(length.attention.values())).whole.ns
            for where, gain, own, of_ns in (
                ("step", saving.in_step, saving.own, length.ledger.step_ns),
                (FULL, saving.in_attention, saving.own_in_attention, whole_ns),
            ):
                if gain is not None and own is not None:
                    rows.append((length.seq, saving.part, where, own, gain, of_ns))

    def ends(place: int) -> Column[_Free]:
        return Column("95 % interval", lambda row: duration_interval(row[place].ci_low_ns, row[place].ci_high_ns))

    columns: list[Column[_Free]] = [
        Column("S", lambda row: row[0]),
        Column("part", lambda row: row[1], words=True),
        Column("its own time", lambda row: f"{duration(row[3].ns)} ({percent(row[3].ns / row[5], 2)})"),
        ends(3),
        Column("of the", lambda row: row[2], words=True),
        Column("gain", lambda row: f"{duration(row[4].ns)} ({percent(row[4].share, 2)})"),
        ends(4),
        Column("with it free", lambda row: row[4].verdict, words=True),
        Column("gain within its own time", lambda row: _WITHIN[row[4].within_own], words=True),
    ]
    title = "what if a part were free: it returned a stored result, and all else did the same work"
    return Table(title, columns, rows, [_GAIN_NOTE])


def _scaling_table(findings: OpsFindings) -> Table:
    def changes(scaled: Scaling) -> str:
        return "; ".join(f"{_where(change.from_seq, change.to_seq)}: {change.why}" for change in scaled.changes)

    columns: list[Column[tuple[str, Scaling]]] = [
        Column("part", lambda row: row[0], words=True),
        Column("formula", lambda row: row[1].degree),
        Column("fitted exponent", lambda row: "; ".join(map(_stretch, row[1].fitted)) or MISSING, words=True),
        Column("change of regime", lambda row: changes(row[1]), words=True),
    ]
    return Table(
        title="how each part grows with S: exponents (0 constant, 1 linear, 2 quadratic) with 95 % intervals",
        columns=columns,
        records=list(findings.scaling.items()),
        notes=[_CHANGES_NOTE] if any(scaled.changes for scaled in findings.scaling.values()) else [],
    )


def _stretch(fitted: Exponent) -> str:
    ends = interval(fitted.ci_low, fitted.ci_high, digits=3)
    return f"S {fitted.from_seq}–{fitted.to_seq}: {fitted.exponent:.2f} {ends}".removesuffix(" –")


def _where(low: int, high: int) -> str:
    return f"at S = {low}" if low == high else f"between S = {low} and {high}"


def csv(findings: OpsFindings) -> str:
    """A row for each operator and length, in nanoseconds."""
    rows: list[_Row] = []
    for length in findings.lengths:
        rows += _part_rows(length)
        rows += [_estimate_row(length.seq, name, estimate) for name, estimate in _composites(length).items()]
    return to_csv(_columns(("ns", 1.0), lambda _row: ABSENT), rows)


def _composites(length: LengthFound) -> dict[str, Estimate]:
    ledger = length.ledger
    plain = ledger.plain_step_ns or 0.0
    estimates = {
        PLAIN: Estimate(ns=plain, ci_low_ns=ledger.plain_step_ci_low, ci_high_ns=ledger.plain_step_ci_high),
        LAYERS: length.layers,
    }
    for name, attention in length.attention.items():
        estimates[f"{FULL} {name}"] = attention.whole
        if attention.mask is not None:
            estimates[f"{MASK} {name}"] = attention.mask
    return estimates | length.own


def sentences(length: LengthFound) -> list[str]:
    """What is the bottleneck at one length, and what a cached mask wins there."""
    step_ns = length.ledger.plain_step_ns or length.ledger.step_ns
    said = [
        f"the step takes {duration(step_ns)}, its layers {duration(length.layers.ns)}",
        f"the bottleneck is `{length.largest}` with {_largest_share(length)} of the step"
        if length.largest
        else "which part is the bottleneck is not resolved",
    ]
    build, apply = length.operators.get(BUILD), length.operators.get(APPLY)
    if build is not None and apply is not None:
        said.append(_mask_sentence(build, apply))
        said += _caching_sentences(length)
    elif length.seq == 1:
        said.append("one query attends to everything before it, so there is no mask, and nothing to cache")
    fused = length.attention.get("mask=fused")
    if fused is not None and fused.against_reference is not None:
        said.append(
            f"the fused kernel, in which no mask exists, makes `{FULL}` {_change_words(fused.against_reference)}"
        )
    return [f"{sentence[0].upper()}{sentence[1:]}." for sentence in said]


def _largest_share(length: LengthFound) -> str:
    return percent(length.operators[length.largest].share_of_step)


def _mask_sentence(build: OperatorFound, apply: OperatorFound) -> str:
    costs = (
        f"the mask takes {duration(build.in_place.ns)} to build ({percent(build.share_of_step, 2)} of the step) and"
        f" {duration(apply.in_place.ns)} to apply ({percent(apply.share_of_step, 2)})"
    )
    if _longer(apply.in_place, build.in_place):
        return f"{costs}: applying it, not building it, is the cost, and no cache takes that away"
    if _longer(build.in_place, apply.in_place):
        return f"{costs}: building it is the larger half, which a cache takes away"
    return f"{costs}: which of the two is the larger half is not resolved"


def _longer(one: Estimate, other: Estimate) -> bool:
    """Whether an interval lies above another."""
    return one.ci_low_ns is not None and other.ci_high_ns is not None and one.ci_low_ns > other.ci_high_ns


def _caching_sentences(length: LengthFound) -> list[str]:
    """What a cached mask was measured to win; building's own time stands before it, and is no bound of it."""
    cached = length.attention.get("mask=cached")
    if cached is None or cached.against_reference is None:
        return []
    said = f"`CausalMaskCache` makes `{FULL}` {_change_words(cached.against_reference)}"
    if cached.mask_against_reference is not None:
        said += f" and building plus applying {_change_words(cached.mask_against_reference)}"
    return [said]


def _change_words(change: RelativeChange) -> str:
    return f"{change.percent()} {change.interval()} ({change.verdict})"


def summary(findings: OpsFindings) -> dict[str, Json]:
    """The headline for `perstep list`."""
    longest = findings.lengths[-1]
    largest = f"{longest.largest} ({_largest_share(longest)})" if longest.largest else "not resolved"
    return {
        "headline": f"S = {longest.seq}: {duration(longest.ledger.plain_step_ns or 0.0)}, the largest part {largest}",
        "plain_step_ns": {str(length.seq): length.ledger.plain_step_ns for length in findings.lengths},
        "largest_part": {str(length.seq): length.largest for length in findings.lengths},
    }


NAMED_FROM = 0.045
"""From this share of the step on, a part has room for its share inside the bar."""
_MARKERS = "osD^vPX<>*dph"


def ops_png(findings: OpsFindings, subject: str) -> bytes:
    """A bar of 100 % for each length, parts in the order of the step."""
    parts = [part for part in PARTS.values() if any(part in length.operators for length in findings.lengths)]
    largest = {length.largest for length in findings.lengths}

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        for row, length in enumerate(findings.lengths):
            left = 0.0
            for part in parts:
                share = length.ledger.parts[part].share if part in length.ledger.parts else 0.0
                colour = part_colour(part)
                axes.barh(
                    row, 100 * share, left=100 * left, color=colour, edgecolor="white", linewidth=0.6, height=0.72,
                    label=part if row == 0 else None,
                )  # fmt: skip
                if share >= NAMED_FROM:
                    ink = "white" if is_dark(colour) else "black"
                    axes.text(
                        100 * (left + share / 2), row, f"{share:.0%}", ha="center", va="center", fontsize=8, color=ink
                    )
                left += share
            axes.barh(
                row, 100 * length.ledger.residual_share, left=100 * left, color=RESIDUAL_COLOUR, edgecolor="#222222",
                linewidth=0.5, height=0.72, label="residual" if row == 0 else None,
            )  # fmt: skip
        axes.set_yticks(range(len(findings.lengths)), [_bar_label(length) for length in findings.lengths])
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.set_xlabel("% of the instrumented step at that length, which stands at its bar")
        axes.set_title(_finding(findings, largest, subject), loc="left", fontsize=10)
        axes.spines[["right", "top"]].set_visible(False)
        figure.legend(loc="outside right center", fontsize=8, frameon=False)

    return draw_png(10, 1.4 + 0.62 * max(len(findings.lengths), 4), draw)


def _bar_label(length: LengthFound) -> str:
    """The step that the bar is 100 % of."""
    return f"S = {length.seq}\n{duration(length.ledger.step_ns)}"


def _finding(findings: OpsFindings, largest: set[str], subject: str) -> str:
    if len(largest) == 1 and "" not in largest:
        shares = [length.operators[length.largest].share_of_step for length in findings.lengths]
        low, high = percent(min(shares), 0), percent(max(shares), 0)
        span = low if low == high else f"{low} to {high}"
        return f"{subject}\n{next(iter(largest))} is the largest part at every length: {span} of the step"
    words = ", ".join(f"{length.largest or 'not resolved'} at S = {length.seq}" for length in findings.lengths)
    return f"{subject}\nthe largest part: {words}"


def scaling_png(findings: OpsFindings, subject: str) -> bytes:
    """Time of each part in its place against new tokens; a change of regime is a hollow ring."""

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        for index, part in enumerate(part for part in PARTS.values() if part in findings.scaling):
            pairs = [(length.seq, length.ledger.parts[part]) for length in findings.lengths if part in length.operators]
            points = [(seq, cost.ns) for seq, cost in pairs]
            seqs, costs = zip(*points, strict=True)
            colour = part_colour(part)
            dark = is_dark(colour)
            for seq, cost in pairs:
                if cost.ci_low is not None and cost.ci_high is not None:
                    axes.plot([seq, seq], [cost.ci_low, cost.ci_high], color=colour, linewidth=1.2)
            axes.plot(
                seqs, costs, color=colour, marker=_MARKERS[index % len(_MARKERS)],
                linestyle="-" if dark else "--", markeredgecolor="#222222", markeredgewidth=0.5, markersize=5,
                linewidth=1.6, label=part,
            )  # fmt: skip
            for change in findings.scaling[part].changes:
                at = [(seq, ns) for seq, ns in points if seq in (change.from_seq, change.to_seq)]
                axes.plot(
                    *zip(*at, strict=True), linestyle="", marker="o", markersize=12, fillstyle="none", color="#b00020"
                )
        _guides(findings, axes)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks([length.seq for length in findings.lengths], [str(length.seq) for length in findings.lengths])
        axes.set_xlabel("new tokens S")
        axes.set_ylabel("time per step")
        axes.yaxis.set_major_formatter(lambda ns, _position: duration(ns, 1))
        axes.grid(visible=True, which="major", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set_title(f"{subject}\n{fill(_growth(findings), 90)}", loc="left", fontsize=10)
        figure.legend(loc="outside right center", fontsize=8, frameon=False)

    return draw_png(9, 5.6, draw)


def _guides(findings: OpsFindings, axes: "object") -> None:
    """Lines of exponent 1 and 2 from the middle of the picture, for the eye."""
    seqs = [length.seq for length in findings.lengths]
    first, last = max(seqs[0], seqs[-1] // 8), seqs[-1]
    bottom = min(part.ns for length in findings.lengths for part in length.ledger.parts.values() if part.ns)
    for exponent in (1, 2):
        costs = [bottom, bottom * (last / first) ** exponent]
        axes.plot([first, last], costs, color="#888888", linestyle=":", linewidth=1.0)  # type: ignore[attr-defined]
        axes.annotate(  # type: ignore[attr-defined]
            "∝ S" if exponent == 1 else "∝ S²",
            (last, costs[1]),
            fontsize=8,
            color="#555555",
            xytext=(3, -3),
            textcoords="offset points",
        )


def _growth(findings: OpsFindings) -> str:
    fastest = max(
        (
            (name, scaled.fitted[-1])
            for name, scaled in findings.scaling.items()
            if scaled.fitted and name in PARTS.values()
        ),
        key=lambda item: item[1].exponent,
        default=None,
    )
    if fastest is None:
        return "no exponent could be fitted"
    name, fitted = fastest
    changed = sum(bool(scaled.changes) for scaled in findings.scaling.values())
    rings = "; rings mark changes of regime" if changed else ""
    span = f"from S = {fitted.from_seq} to {fitted.to_seq}"
    return f"{name} grows fastest at the end: exponent {fitted.exponent:.2f} {span}{rings}"


def scaling_csv(findings: OpsFindings) -> str:
    """A row for each part and pair of lengths, and for each stretch that was fitted."""
    rows: list[tuple[object, ...]] = []
    for name, scaled in findings.scaling.items():
        for kind, exponents in (("local", scaled.local), ("fitted", scaled.fitted)):
            rows += [(name, kind, e.from_seq, e.to_seq, e.exponent, e.ci_low, e.ci_high, "") for e in exponents]
        rows += [(name, "change", c.from_seq, c.to_seq, None, None, None, c.why) for c in scaled.changes]
    return to_csv(places("part", "kind", "from_seq", "to_seq", "exponent", "ci_low", "ci_high", "why"), rows)


def files(manifest: Manifest, findings: OpsFindings) -> Mapping[str, bytes]:
    """`ops.png`, `scaling.png`, their CSVs, and `README.md`."""
    title = subject(manifest)
    result = {
        "ops.png": ops_png(findings, title),
        "ops.csv": csv(findings).encode(),
        "README.md": render(
            __package__,
            manifest=manifest,
            findings=findings,
            tables=tables(manifest, findings),
            words={length.seq: sentences(length) for length in findings.lengths},
        ),
    }
    if findings.scaling:
        result |= {"scaling.png": scaling_png(findings, title), "scaling.csv": scaling_csv(findings).encode()}
    return result


def content(manifest: Manifest, findings: OpsFindings, samples: Sequence[Sample]) -> Content:
    """The page's: the parts of a step at each length, the longest first, and how each grows."""
    arrays = {length.seq: kept for length, kept in zip(findings.lengths, ledger_samples(samples).values(), strict=True)}
    figures: list[Drawn] = [
        LedgerView(
            f"What a step is made of at S = {length.seq}",
            length.ledger,
            samples=arrays[length.seq],
            about=manifest.boundaries,
        )
        for length in reversed(findings.lengths)
    ]
    if findings.scaling:
        series = []
        for part in (part for part in PARTS.values() if part in findings.scaling):
            points = [(float(one.seq), one.ledger.parts[part]) for one in findings.lengths if part in one.operators]
            xs, ys = [x for x, _ in points], [cost.ns / 1e3 for _, cost in points]
            low, high = ([None if end is None else end / 1e3 for end in ends] for ends in (
                [cost.ci_low for _, cost in points], [cost.ci_high for _, cost in points]))  # fmt: skip
            series.append(Series(part, xs, ys, kind="joined", low=low, high=high, part=part))
        title = f"How each part grows: {_growth(findings)}"
        figures.insert(1, Panel(title, "new tokens S", "µs per step", series, log_x=True, log_y=True))
    return Content(
        f"{subject(manifest)}: {_finding(findings, {one.largest for one in findings.lengths}, '').strip()}", figures
    )
