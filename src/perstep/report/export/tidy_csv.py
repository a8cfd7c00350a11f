"""Every measured number as a row: kind, round, pass, position, part, ns.

`pass` counts a round's passes in the order in which they ran. Steps without instruments have one row, its part is
`step`; instrumented ones have a row for each part and one for `residual`, which add up to the instrumented step.
"""

import csv
import io
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from perstep.measure import RESIDUAL, Steps
from perstep.measure.names import STEP
from perstep.report.export.source import Source, places

HEADER = ["kind", "round", "pass", "position", "part", "ns"]


def to_tidy_csv(source: Source) -> Iterator[bytes]:
    """The rows, a piece a round."""
    rounds = source.passes()
    yield (",".join(HEADER) + "\n").encode()
    for number, passes in enumerate(rounds):
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        for place, replay in enumerate(passes):
            for kind, columns in replay.kinds.items():
                of, at = places(replay, kind)
                for part, ns in _held(columns):
                    rows = zip(at, ns.tolist(), strict=True)
                    writer.writerows([of, number, place, position, part, x] for position, x in rows)
        yield buffer.getvalue().encode()


def _held(columns: Steps) -> Iterator[tuple[str, NDArray[np.int64]]]:
    if not columns.residual_ns.size:
        yield STEP, columns.step_ns
    else:
        yield from columns.parts.items()
        yield RESIDUAL, columns.residual_ns
