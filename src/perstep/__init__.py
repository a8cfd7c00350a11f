"""perstep tells what every part of an LLM decode step costs, proves it, and shows what replacing a part gives back.

Names are handed on when they are first used, so that `import perstep` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from perstep._version import __version__
from perstep.errors import InputError, InvalidMeasurement, PerstepError

if TYPE_CHECKING:
    from perstep.experiments.ablation import Ablation, ablate
    from perstep.experiments.compare import compare
    from perstep.experiments.comparison import Comparison
    from perstep.experiments.suggest import suggest
    from perstep.experiments.watching import watch
    from perstep.measure import Ledger, Recorder

_HOMES = {
    "Ablation": "perstep.experiments.ablation",
    "Comparison": "perstep.experiments.comparison",
    "Ledger": "perstep.measure",
    "Recorder": "perstep.measure",
    "ablate": "perstep.experiments.ablation",
    "compare": "perstep.experiments.compare",
    "suggest": "perstep.experiments.suggest",
    "watch": "perstep.experiments.watching",
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
    "suggest",
    "watch",
]


_ROOMS = ("automata", "fast", "targets", "theory")


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"perstep.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'perstep' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
