"""A run in the formats of other tools: pyperf, Chrome trace, speedscope, github-action-benchmark, CSV.

One module a format.
"""

from collections.abc import Callable, Iterator
from typing import Literal

from perstep.report.export.chrome_trace import to_chrome_trace
from perstep.report.export.github_action import to_github_action
from perstep.report.export.pyperf import to_pyperf
from perstep.report.export.source import Measured, Source, measured_steps
from perstep.report.export.speedscope import to_speedscope
from perstep.report.export.tidy_csv import to_tidy_csv

Format = Literal["pyperf", "chrome-trace", "speedscope", "github-action", "csv"]

EXPORTERS: dict[Format, Callable[[Source], Iterator[bytes]]] = {
    "pyperf": to_pyperf,
    "chrome-trace": to_chrome_trace,
    "speedscope": to_speedscope,
    "github-action": to_github_action,
    "csv": to_tidy_csv,
}
"""By format: the run's source -> the file, piece by piece."""

__all__ = ["EXPORTERS", "Format", "Measured", "Source", "measured_steps"]
