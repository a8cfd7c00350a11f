"""The pictures of `ops`: shares stacked by length, and cost against length on two logarithmic axes."""

from textwrap import fill
from typing import TYPE_CHECKING

from perstep.experiments.ops.findings import LengthFound, OpsFindings
from perstep.experiments.ops.operators import PARTS
from perstep.report import to_csv
from perstep.report.format import duration, percent
from perstep.report.plot import RESIDUAL_COLOUR, draw_png, is_dark, part_colour

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMED_FROM = 0.045
"""From this share of the step on, a part has room for its share inside the bar."""
_HATCHES = ("", "////", "....")
_MARKERS = "osD^vPX<>*dph"
_SHADES = 8


def ops_png(findings: OpsFindings, subject: str) -> bytes:
    """A bar of 100 % for each length, parts in the order of the step."""
    parts = [part for part in PARTS.values() if any(part in length.operators for length in findings.lengths)]
    largest = {length.largest for length in findings.lengths}

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        for row, length in enumerate(findings.lengths):
            left = 0.0
            for index, part in enumerate(parts):
                share = length.ledger.parts[part].share if part in length.ledger.parts else 0.0
                colour, hatch = part_colour(index), _HATCHES[index // _SHADES]
                line = "#ffffff" if hatch and is_dark(colour) else "#222222"
                axes.barh(
                    row,
                    100 * share,
                    left=100 * left,
                    color=colour,
                    hatch=hatch,
                    edgecolor=line,
                    linewidth=0.5,
                    height=0.72,
                    label=part if row == 0 else None,
                )
                if share >= NAMED_FROM:
                    ink = "white" if is_dark(colour) else "black"
                    box = {"facecolor": colour, "edgecolor": "none", "pad": 1.0}
                    axes.text(
                        100 * (left + share / 2), row, f"{share:.0%}", ha="center", va="center", fontsize=8, color=ink,
                        bbox=box if hatch else None,
                    )  # fmt: skip
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
            points = [
                (length.seq, length.ledger.parts[part].ns) for length in findings.lengths if part in length.operators
            ]
            seqs, costs = zip(*points, strict=True)
            dark = is_dark(part_colour(index))
            axes.plot(
                seqs, costs, color=part_colour(index), marker=_MARKERS[index % len(_MARKERS)],
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
    name, found = fastest
    changed = sum(bool(scaled.changes) for scaled in findings.scaling.values())
    rings = "; rings mark changes of regime" if changed else ""
    span = f"from S = {found.from_seq} to {found.to_seq}"
    return f"{name} grows fastest at the end: exponent {found.exponent:.2f} {span}{rings}"


def scaling_csv(findings: OpsFindings) -> str:
    """A row for each part and pair of lengths, and for each stretch that was fitted."""
    rows: list[list[object]] = []
    for name, scaled in findings.scaling.items():
        for kind, exponents in (("local", scaled.local), ("fitted", scaled.fitted)):
            rows += [[name, kind, e.from_seq, e.to_seq, e.exponent, e.ci_low, e.ci_high, ""] for e in exponents]
        rows += [[name, "change", c.from_seq, c.to_seq, None, None, None, c.why] for c in scaled.changes]
    return to_csv(["part", "kind", "from_seq", "to_seq", "exponent", "ci_low", "ci_high", "why"], rows)
