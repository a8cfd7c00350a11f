"""How findings are shown: tables, plots, words. Knows findings, not experiments."""

from perstep.report.table import Column, Output, Table, to_csv, to_markdown, to_text

__all__ = ["Column", "Output", "Table", "to_csv", "to_markdown", "to_text"]
