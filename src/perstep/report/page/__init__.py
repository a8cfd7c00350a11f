"""A run as one page that can be sent to somebody: `report.html`. Knows figures, tables and facts, and no experiment."""

from perstep.report.page.content import (
    Bar,
    Bars,
    Content,
    DeviceLane,
    Drawn,
    LedgerView,
    Page,
    Roofline,
    Spot,
    StepParts,
    TwoRuns,
)
from perstep.report.page.render import REPORT, render_page, table_html

__all__ = [
    "REPORT",
    "Bar",
    "Bars",
    "Content",
    "DeviceLane",
    "Drawn",
    "LedgerView",
    "Page",
    "Roofline",
    "Spot",
    "StepParts",
    "TwoRuns",
    "render_page",
    "table_html",
]
