"""How findings are shown: tables, plots, words. Knows findings, not experiments."""

from perstep.report.table import Output, Table, to_csv, to_markdown, to_text

__all__ = ["Output", "Table", "to_csv", "to_markdown", "to_text"]
