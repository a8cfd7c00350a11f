"""`perstep sweep` and `perstep worker`: many runs of one experiment, by one process or many."""

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from perstep.cli.output import print_tables, progress_shown
from perstep.cli.streams import STDERR, remark, write
from perstep.errors import InputError, InvalidMeasurement
from perstep.report import Output
from perstep.report.table import to_records
from perstep.runs import encode_json
from perstep.sweeps.begin import Begun, begin_sweep
from perstep.sweeps.folder import check_versions, read_sweep, versions_here
from perstep.sweeps.on_ray import connected, run_on_ray
from perstep.sweeps.rows import DAMAGED, read_rows
from perstep.sweeps.show import TABLE, write_all
from perstep.sweeps.work import Worker


def sweep(
    grid: Path,
    /,
    *,
    out: Path | None = None,
    resume: Annotated[bool, Parameter(negative="")] = False,
    yes: Annotated[bool, Parameter(negative="")] = False,
    executor: Literal["local", "ray"] = "local",
    address: str | None = None,
    output: Annotated[Output, Parameter(name=["-o", "--output"])] = "table",
    quiet: Annotated[bool, Parameter(name=["-q", "--quiet"], negative="")] = False,
) -> int:
    """Measure every cell of a grid, each in a fresh process, into one table.

    The order is random, with a reference cell in between that shows drift. A sweep that was killed goes on with
    --resume; `perstep worker` in another terminal, or on another machine that sees the same folder, helps it. A cell
    that fails three times is listed, and the sweep goes on.

    Args:
        grid: TOML file with the experiment, its options, and lists or ranges for any of them.
        out: Folder for the sweep. [default: .perstep/sweeps/ and the name of the grid's file]
        resume: Continue the sweep in --out.
        yes: Do not ask before more than 1,000 cells.
        executor: local measures one cell at a time; ray one on each node of a Ray cluster that has the resource
            `perstep`.
        address: Of the Ray cluster. [default: the one of this machine]
        output: Format of the table on stdout.
        quiet: Print no progress and no remarks.
    """
    if address is not None and executor != "ray":
        raise InputError("--address goes with --executor ray")
    # A cluster that cannot be reached is found out before anything is written.
    with connected(address) if executor == "ray" else nullcontext() as ray:
        with progress_shown(quiet=quiet) as progress:
            begun = begin_sweep(grid, out, resume=resume, progress=progress, agree=lambda what: yes or _asked(what))
        if not quiet:
            remark(f"sweep: {begun.words}")
        with progress_shown(quiet=quiet) as progress:
            if ray is not None:
                run_on_ray(ray, begun.folder, begun.sweep, progress, remark)
            else:
                Worker(begun.folder, begun.sweep, progress, stays=True).run()
    return _tell(begun, output, quiet=quiet)


def _asked(what: str) -> bool:
    if not sys.stdin.isatty():
        return False
    STDERR.write(f"{what}. Measure them? [y/N] ")
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _tell(begun: Begun, output: Output, *, quiet: bool) -> int:
    """Print the table; the exit code.

    Raises:
        InvalidMeasurement: cells failed or are damaged; they are named, and the table is written.
    """
    rows = read_rows(begun.folder, begun.sweep)
    table = write_all(begun.folder, begun.sweep, rows)
    if output == "json":
        write(encode_json(to_records(table.columns, table.records)).decode())
    else:
        print_tables([table], output)
    if not quiet:
        remark(f"sweep: {begun.folder / TABLE}")
    kinds = {"failed": "failed three times, or took their workers with them", DAMAGED: "damaged"}
    keys = {words: [row.cell.key for row in rows if row.outcome == outcome] for outcome, words in kinds.items()}
    wrong = [f"{words}: {', '.join(of_cells)}" for words, of_cells in keys.items() if of_cells]
    if wrong:
        raise InvalidMeasurement(f"{'; '.join(wrong)}; the other cells are in {begun.folder / TABLE}")
    return 0


def worker(folder: Path, /, *, quiet: Annotated[bool, Parameter(name=["-q", "--quiet"], negative="")] = False) -> int:
    """Measure cells of a sweep that was begun elsewhere, until none is free.

    Any number of workers may share the folder, on machines that see the same file system: two terminals, the tasks of a
    Slurm array, jobs of submitit. Each needs the versions that the sweep was begun with.

    Args:
        folder: Of the sweep.
        quiet: Print no progress and no remarks.
    """
    begun = read_sweep(folder)
    check_versions(begun, versions_here(), "this environment")
    with progress_shown(quiet=quiet) as progress:
        working = Worker(folder, begun, progress, stays=False)
        working.run()
    for why in working.damaged:
        remark(f"warning: {why}")
    if not quiet:
        remark(f"no cell of {folder} is free; `perstep sweep GRID.toml --out {folder} --resume` makes the table")
    return 0
