"""Every measured number as a row.

Of a ledger: kind, round, pass, position, part, ns. `pass` counts a round's passes in the order in which they ran.
Steps without instruments have one row, its part is `step`; instrumented ones have a row for each part and one
for `residual`, which add up to the instrumented step.

Of other runs: track, name, kind, round, position, part, ns. A round of watched calls is a call. `part` is empty where a
duration was measured as a whole.
"""

import csv
import io
from collections.abc import Iterator

from perstep.measure.names import STEP
from perstep.report.export.source import Measured, Source

HEADER = ["kind", "round", "pass", "position", "part", "ns"]
OTHER = ["track", "name", "kind", "round", "position", "part", "ns"]


def to_tidy_csv(source: Source) -> Iterator[bytes]:
    """The rows, a piece a round."""
    of_ledger = source.durations is None
    rounds = source.timeline()
    yield (",".join(HEADER if of_ledger else OTHER) + "\n").encode()
    for number, measured in enumerate(rounds):
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        if of_ledger:
            writer.writerows(row for group in _groups(measured) for row in _of_ledger(group))
        else:
            writer.writerows(row for place, one in enumerate(measured) for row in _of_other(one, number, place))
        yield buffer.getvalue().encode()


def _groups(measured: list[Measured]) -> Iterator[list[Measured]]:
    """The steps of one kind in one pass, marked and plain ones apart."""
    groups: dict[tuple[int, str, str], list[Measured]] = {}
    for one in measured:
        groups.setdefault((one.where["pass"], one.kind, one.track), []).append(one)
    yield from groups.values()


def _of_ledger(steps: list[Measured]) -> Iterator[list[str | int]]:
    for part in steps[0].parts or (STEP,):
        for one in steps:
            where = [one.where[name] for name in ("round", "pass", "position")]
            yield [one.kind, *where, part, one.parts.get(part, one.ns)]


def _of_other(one: Measured, number: int, place: int) -> Iterator[list[str | int]]:
    position = one.where.get("position", place)
    for part, ns in (one.parts or {"": one.ns}).items():
        yield [one.track, one.name, one.kind, number, position, part, ns]
