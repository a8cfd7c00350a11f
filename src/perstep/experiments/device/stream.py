"""The device's own ledger beside the host's : each adds up to itself (law "clocks are never mixed")."""

import msgspec

from perstep.measure import Ledger
from perstep.report import Table
from perstep.report.format import duration, percent
from perstep.report.ledger import ledger_table


class DeviceLedger(msgspec.Struct, kw_only=True):
    """The device's time for one kind of step.

    Attributes:
        ledger: parts + residual = step on the device's clock.
        idle_ns_per_step: at most how long the device waited for the host in a step.
        idle_parts_ns: the same by part; `residual` is what lies unattributed.
    """

    ledger: Ledger
    idle_ns_per_step: float
    idle_parts_ns: dict[str, float]


def device_table(on_device: DeviceLedger, *, title: str, forwards_in: str = "a pass") -> Table:
    """The device's ledger, and below it how long the device may have waited for the host."""
    table = ledger_table(on_device.ledger, title=title, forwards_in=forwards_in)
    table.notes.insert(0, idle_sentence(on_device))
    return table


def idle_sentence(on_device: DeviceLedger) -> str:
    """How long the device waited at most, in all and in the part with the largest bound."""
    share = on_device.idle_ns_per_step / on_device.ledger.step_ns
    said = f"The device waited for the host at most {duration(on_device.idle_ns_per_step)} of a step, {percent(share)}"
    most = max(on_device.idle_parts_ns, key=on_device.idle_parts_ns.__getitem__, default="")
    if most and on_device.idle_parts_ns[most] > 0:
        said += f"; {duration(on_device.idle_parts_ns[most])} of it in {most}"
    return f"{said}."
