"""The ceilings of a device as a table: one row a figure, with the rate that its time amounts to."""

from perstep.machine.device_ceilings import HOST_FIGURES, DeviceCeilings, DeviceFigure
from perstep.report.format import duration, significant
from perstep.report.table import Table

_MIB = 1 << 20
WORDS = {
    "launch": "a launch, on the host",
    "graph_node": "a node of a replayed graph, on the device",
    "sync": "a read of a scalar, on the host",
    "event": "the recording of an event, on the host",
}


def device_ceilings_table(ceilings: DeviceCeilings) -> Table:
    """Best round and median of every figure; below what was left out."""
    rows = [[_words(name, figure), *_times(figure), _rate(figure)] for name, figure in _ordered(ceilings)]
    why = ceilings.why_no_bounds()
    return Table(
        title=f"ceilings of {ceilings.device}: kernels' own durations, products of {ceilings.dtype} with rows of "
        f"{ceilings.width}",
        header=["ceiling", "best round", "median", "slowest", "rounds", "rate at best"],
        rows=rows,
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
        return f"product of {figure.rows:,} rows, {size} of weights from memory"
    return f"smallest {rest} kernel" if kind == "kernel" else WORDS[name]


def _times(figure: DeviceFigure) -> list[str]:
    return [duration(figure.best), duration(figure.value), duration(figure.worst), str(figure.repeats)]


def _rate(figure: DeviceFigure) -> str:
    rates = []
    if figure.gb_s:
        rates.append(f"{significant(figure.gb_s)} GB/s")
    if figure.tflop_s:
        rates.append(f"{significant(figure.tflop_s)} TFLOP/s")
    return ", ".join(rates)
