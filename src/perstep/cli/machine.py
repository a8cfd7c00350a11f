"""`perstep machine`: what this machine is, what is wrong with it for measuring, and its ceilings."""

from typing import Annotated, Literal

import msgspec
from cyclopts import Parameter

from perstep.cli.output import print_tables, progress_shown
from perstep.cli.streams import remark, write
from perstep.machine import (
    Ceilings,
    Machine,
    busy_processes,
    describe,
    identity,
    load_ceilings,
    measure_ceilings,
    save_ceilings,
    warnings_for,
)
from perstep.report import Output
from perstep.report.device_ceilings import device_ceilings_table
from perstep.report.machine import ceilings_table, machine_table
from perstep.runs import encode_json


def machine(
    *,
    ceilings: Annotated[Literal["stored", "measure", "quick"], Parameter()] = "stored",
    torch: Annotated[bool, Parameter(negative="")] = False,
    device: str | None = None,
    output: Annotated[Output, Parameter(name=["-o", "--output"])] = "table",
    quiet: Annotated[bool, Parameter(name=["-q", "--quiet"], negative="")] = False,
) -> int:
    """Describe this machine, what disturbs measurements on it, and its best measured speed.

    Args:
        ceilings: Show the ceilings stored for this machine, or measure them again (15 s) or quickly (3 s) and store
            them.
        torch: Also measure torch's dtypes and call overhead; needs the hf extra.
        device: Also measure the ceilings of a device, such as cuda (3 s): memory, matrix products, kernels, syncs.
        output: Format of the result on stdout.
        quiet: Print no progress and no remarks.
    """
    import numpy as np  # noqa: F401 - so that its matrix library is described

    on_device = None
    if device is not None:
        from perstep.experiments.device.machine import device_machine

        on_device = device_machine(device)
    if torch:
        _import_torch()
    described = describe()
    warnings = warnings_for(described, busy=busy_processes())
    sweep = _ceilings(described, ceilings, quiet=quiet)
    if output == "json":
        disturbed = "" if sweep is None else sweep.disturbed()
        facts = {
            "identity": identity(described),
            "machine": described,
            "ceilings": sweep,
            "ceilings_disturbed": disturbed,
            "device_ceilings": on_device,
            "warnings": warnings,
        }
        write(encode_json(msgspec.to_builtins(facts)).decode())
        return 0
    shown = [machine_table(described, warnings)]
    if sweep is not None:
        shown.append(ceilings_table(sweep))
    if on_device is not None:
        shown.append(device_ceilings_table(on_device))
    print_tables(shown, output)
    return 0


def _import_torch() -> None:
    try:
        import torch  # noqa: F401
    except ImportError as error:
        from perstep.errors import InputError, how_to_install

        raise InputError(f"--torch needs torch, which is not installed: {how_to_install('hf')}") from error


def _ceilings(described: Machine, wanted: str, *, quiet: bool) -> Ceilings | None:
    if wanted == "stored":
        loaded = load_ceilings(described)
        if loaded.ceilings is None and not quiet:
            remark(f"no ceilings: {loaded.warning or loaded.reason}; measure them with --ceilings measure")
        return loaded.ceilings
    with progress_shown(quiet=quiet) as progress:
        measured = measure_ceilings(
            described, quick=wanted == "quick", progress=lambda done, planned: progress(done / planned, "ceilings")
        )
    saved = save_ceilings(measured)
    if saved.warning and not quiet:
        remark(f"warning: {saved.warning}")
    return measured
