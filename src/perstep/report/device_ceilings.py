"""The ceilings of a device as a table: one row a figure, with the rate that its time amounts to."""

from perstep._words import plural
from perstep.machine.device_ceilings import HOST_FIGURES, DeviceCeilings, DeviceFigure
from perstep.report.format import duration, significant
from perstep.report.table import Column, Table

_MIB = 1 << 20
WORDS = {
    "launch": "a launch, on the host",
    "graph_node": "a node of a replayed graph, on the device",
    "sync": "a read of a scalar, on the host",
    "event": "the recording of an event, on the host",
}


def device_ceilings_table(ceilings: DeviceCeilings) -> Table:
    """Best round and median of every figure; below what was left out."""
    columns: list[Column[tuple[str, DeviceFigure]]] = [
        Column("ceiling", lambda row: _words(*row), name="ceiling", words=True),
        Column("best round", lambda row: row[1].best, duration, "best_ns"),
        Column("median", lambda row: row[1].value, duration, "median_ns"),
        Column("slowest", lambda row: row[1].worst, duration, "slowest_ns"),
        Column("rounds", lambda row: row[1].repeats, name="rounds"),
        Column("rate at best", lambda row: _rate(row[1])),
        Column(None, lambda row: row[1].gb_s, name="gb_s"),
        Column(None, lambda row: row[1].tflop_s, name="tflop_s"),
    ]
    why = ceilings.why_no_bounds()
    return Table(
        title=f"ceilings of {ceilings.device}: kernels' own durations, products of {ceilings.dtype} with rows of "
        f"{ceilings.width}",
        columns=columns,
        records=_ordered(ceilings),
        notes=[
            *([f"These cannot be used for bounds: {why}."] if why else []),
            *(f"left out: {name}: {reason}" for name, reason in ceilings.omitted.items()),
        ],
    )


def _ordered(ceilings: DeviceCeilings) -> list[tuple[str, DeviceFigure]]:
    """Reading, copying, products, smallest kernels, then what the host pays; each by rows and size."""
    order = ["read", "copy", "product", "kernel", *HOST_FIGURES]

    def place(one: tuple[str, DeviceFigure]) -> tuple[int, int, int]:
        name, figure = one
        return order.index(name.partition(".")[0]), figure.rows, figure.bytes_moved

    return sorted(ceilings.figures.items(), key=place)


def _words(name: str, figure: DeviceFigure) -> str:
    kind, _, rest = name.partition(".")
    size = f"{significant(figure.bytes_moved / _MIB)} MiB"
    if kind == "read":
        return f"read {size}, for the second time"
    if kind == "copy":
        return f"copy, {size} read and written"
    if kind == "product":
        return f"product of {plural(figure.rows, 'row')}, {size} of weights from memory"
    return f"smallest {rest} kernel" if kind == "kernel" else WORDS[name]


def _rate(figure: DeviceFigure) -> str:
    rates = []
    if figure.gb_s:
        rates.append(f"{significant(figure.gb_s)} GB/s")
    if figure.tflop_s:
        rates.append(f"{significant(figure.tflop_s)} TFLOP/s")
    return ", ".join(rates)
