"""The findings of `generate` as tables, pictures, CSV and README."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from perstep._json import Json
from perstep.experiments.ablation.cells import ALL
from perstep.experiments.ablation.findings import AblationFindings
from perstep.experiments.ablation.samples import Sample
from perstep.experiments.ablation.show import COST, Cost, ablation_content, csv, growth_words
from perstep.experiments.ablation.show import tables as ablation_tables
from perstep.experiments.conditions import Model, typed
from perstep.experiments.generate.expected import expected_table
from perstep.report import Table, to_csv
from perstep.report.format import percent, significant, time_unit
from perstep.report.page import Content
from perstep.report.plot import DARK, LIGHT, WARM, draw_png
from perstep.report.words import render
from perstep.runs import Manifest

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def tables(manifest: Manifest, findings: AblationFindings) -> list[Table]:
    """The cells, the parts."""
    return ablation_tables(manifest, findings)


def files(manifest: Manifest, findings: AblationFindings) -> Mapping[str, bytes]:
    """`generate.png` with its CSV, the figures of the tables as CSV, and `README.md`."""
    return {
        "generate.png": picture(manifest, findings),
        "generate.csv": growth_csv(findings).encode(),
        "cells.csv": csv(findings).encode(),
        "README.md": render(
            __package__,
            manifest=manifest,
            findings=findings,
            tables=tables(manifest, findings),
            expected=expected_table(manifest, findings),
        ),
    }


def summary(findings: AblationFindings) -> dict[str, Json]:
    """The headline for `perstep list`."""
    effects = findings.effects
    step_ns = effects.cells["all"].ns_per_step
    share = effects.total.estimate / step_ns
    largest = max(effects.parts, key=lambda name: effects.parts[name].leave_one_out.estimate)
    whose = f"{percent(share)} of generate's time is {' and '.join(effects.parts)}"
    return {
        "headline": whose if len(effects.parts) == 1 else f"{whose}, most of it {largest}",
        "share_of_all_parts": share,
        "largest": largest,
        "ns_per_step": {label: cell.ns_per_step for label, cell in effects.cells.items()},
    }


MOST_CELLS = 12
"""Number of bars in the picture; the others are in the table."""
MOST_PARTS = 4
"""Number of parts drawn against the context; the others are in the CSV."""


def picture(manifest: Manifest, findings: AblationFindings) -> bytes:
    """The cells on the left; on the right a panel a part, each from zero."""
    labels = _drawn(findings)
    names = list(findings.parts)[:MOST_PARTS]

    def draw(figure: "Figure") -> None:
        grid = figure.add_gridspec(len(names), 2, width_ratios=(1, 1.15))
        _draw_cells(figure.add_subplot(grid[:, 0]), manifest, findings, labels)
        for row, name in enumerate(names):
            ax = figure.add_subplot(grid[row, 1])
            _draw_growth(ax, name, findings)
            if row == len(names) - 1:
                ax.set_xlabel("tokens in the context", fontsize=8.5)

    return draw_png(12.5, max(1.9 * len(names), 1.6 + 0.42 * len(labels), 3.6), draw)


def _drawn(findings: AblationFindings) -> list[str]:
    labels = list(findings.effects.cells)
    return labels if len(labels) <= MOST_CELLS else [*labels[: MOST_CELLS - 1], labels[-1]]


def _draw_cells(ax: "Axes", manifest: Manifest, findings: AblationFindings, labels: list[str]) -> None:
    cells = findings.effects.cells
    unit, size = time_unit([cells[ALL].ns_per_step])
    every = cells[ALL].ns_per_step
    for row, label in enumerate(labels):
        cell = cells[label]
        width = cell.ns_per_step / size
        ax.barh(row, width, color=DARK if label == ALL else LIGHT, edgecolor="#222222", linewidth=0.6, height=0.7)
        right = width
        if cell.ci_low is not None and cell.ci_high is not None:
            ends = [every * (1 + end) / size for end in (cell.ci_low, cell.ci_high)]
            right = max(width, ends[1])
            ax.plot(ends, [row, row], color="black", linewidth=1.4, marker="|", markersize=7)
        text = (
            f"{significant(width)}" if label == ALL else f"{significant(width)}  ({percent(cell.ns_per_step / every)})"
        )
        ax.annotate(text, (right, row), xytext=(6, 0), textcoords="offset points", va="center", fontsize=8.5)
    ax.set_yticks(range(len(labels)), labels)
    ax.invert_yaxis()
    ax.set_xlim(0, 1.3 * max(cell.ns_per_step for cell in cells.values()) / size)
    ax.set_xlabel(f"{unit} a step, 95 % intervals against “{ALL}”", fontsize=8.5)
    ax.spines[["right", "top"]].set_visible(False)
    share = percent(findings.effects.total.estimate / every, 0)
    parts, verb = " and ".join(findings.parts), "is" if len(findings.parts) == 1 else "are"
    ax.set_title(
        f"{typed(manifest, Model).name}: {parts} {verb} {share} of generate",
        loc="left",
        fontsize=10,
    )


def _draw_growth(ax: "Axes", name: str, findings: AblationFindings) -> None:
    growth = findings.parts[name].growth
    unit, size = time_unit(growth.ns)
    x, y = np.array(growth.context, np.float64), np.array(growth.ns) / size
    ax.plot(x, y, "o", color=DARK, markersize=3.5)
    if len(x) > 1:
        slope = growth.ns_per_token.estimate / size
        ax.plot(x, np.median(y - slope * x) + slope * x, "--", color=WARM, linewidth=1.3)
    ax.set_ylim(0, 1.15 * max(y.max(), np.finfo(float).tiny))
    ax.set_ylabel(f"{unit} a step, in place", fontsize=8.5)
    ax.spines[["right", "top"]].set_visible(False)
    ax.set_title(f"{name} {growth_words(name, findings)}", loc="left", fontsize=9.5)


def growth_csv(findings: AblationFindings) -> str:
    """The numbers of the picture: the cells, and each part's cost at each context."""
    every = findings.effects.cells[ALL].ns_per_step
    rows: list[Cost] = []
    for label, cell in findings.effects.cells.items():
        low, high = (None if end is None else every * (1 + end) for end in (cell.ci_low, cell.ci_high))
        rows.append(("cell", label, None, cell.ns_per_step, low, high))
    for name, part in findings.parts.items():
        for context, ns in zip(part.growth.context, part.growth.ns, strict=True):
            rows.append(("in place", name, context, ns, None, None))
    return to_csv(COST, rows)


def content(manifest: Manifest, findings: AblationFindings, _samples: Sequence[Sample]) -> Content:
    """The page's: a step with and without each part, the effects and their interaction, growth."""
    return ablation_content(typed(manifest, Model).name, findings)
