"""The table of experiments: name -> the module that has the names of `base.Experiment`.

This room's own are here. A higher room's are added by `perstep/__init__.py` when the package is imported, so that no
room names a room above it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, cast

from perstep.errors import InputError

if TYPE_CHECKING:
    from perstep.experiments.base import Experiment

EXPERIMENTS = {
    "cache": "perstep.experiments.cache",
    "compare": "perstep.experiments.compare",
    "context": "perstep.experiments.knobs.context",
    "depth": "perstep.experiments.knobs.depth",
    "experts": "perstep.experiments.knobs.experts",
    "generate": "perstep.experiments.generate",
    "ledger": "perstep.experiments.ledger",
    "mask": "perstep.experiments.mask",
    "ops": "perstep.experiments.ops",
    "output": "perstep.experiments.knobs.output",
}


def register(**modules: str) -> None:
    """Add experiments by name: the modules are imported when somebody asks for them."""
    EXPERIMENTS.update(modules)


def find(name: str) -> "Experiment":
    """The experiment of this name.

    Raises:
        InputError: there is none; a run made by a newer perstep may name one.
    """
    if name not in EXPERIMENTS:
        raise InputError(f"this perstep has no experiment {name!r}; it has {', '.join(sorted(EXPERIMENTS))}")
    return cast("Experiment", import_module(EXPERIMENTS[name]))
