"""perstep measures the cost of every part of an LLM decode step, and the time saved by replacing it.

Names are imported when they are first used, so `import perstep` is cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from perstep._shown import show_with
from perstep._version import __version__
from perstep.errors import InputError, InvalidMeasurement, PerstepError
from perstep.experiments.registry import register

if TYPE_CHECKING:
    from perstep.experiments.ablation import Ablation, ablate
    from perstep.experiments.compare import Comparison, compare
    from perstep.fixing.suggest import suggest
    from perstep.measure import Ledger, Recorder, part, step
    from perstep.watching.session import watch

_HOMES = {
    "Ablation": "perstep.experiments.ablation",
    "Comparison": "perstep.experiments.compare",
    "Ledger": "perstep.measure",
    "Recorder": "perstep.measure",
    "ablate": "perstep.experiments.ablation",
    "compare": "perstep.experiments.compare",
    "part": "perstep.measure",
    "step": "perstep.measure",
    "suggest": "perstep.fixing.suggest",
    "watch": "perstep.watching.session",
}

__all__ = [
    "Ablation",
    "Comparison",
    "InputError",
    "InvalidMeasurement",
    "Ledger",
    "PerstepError",
    "Recorder",
    "__version__",
    "ablate",
    "compare",
    "part",
    "step",
    "suggest",
    "watch",
]


show_with("perstep.report.notebook")
register(fix="perstep.fixing", watch="perstep.watching")

_ROOMS = ("automata", "fast", "targets", "theory")


Exported = Any
"""A room, or a name of one."""


def __getattr__(name: str) -> Exported:
    if name in _ROOMS:
        return import_module(f"perstep.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'perstep' has no attribute {name!r}")
    exported = globals()[name] = getattr(import_module(_HOMES[name]), name)  # kept: looking it up again takes 1 µs
    return exported


def __dir__() -> list[str]:
    return __all__
