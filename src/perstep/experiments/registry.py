"""The experiments there are. A new one is a module and a line here."""

from importlib import import_module
from typing import cast

from perstep.errors import InputError
from perstep.experiments.base import Experiment

EXPERIMENTS = {
    "cache": "perstep.experiments.cache",
    "compare": "perstep.experiments.compare",
    "context": "perstep.experiments.context",
    "depth": "perstep.experiments.depth",
    "experts": "perstep.experiments.experts",
    "output": "perstep.experiments.output",
    "fix": "perstep.experiments.fix",
    "generate": "perstep.experiments.generate",
    "ledger": "perstep.experiments.ledger",
    "mask": "perstep.experiments.mask",
    "ops": "perstep.experiments.ops",
    "watch": "perstep.experiments.watch",
}


def find(name: str) -> Experiment:
    """The experiment of this name.

    Raises:
        InputError: there is none; a run made by a newer perstep may name one.
    """
    if name not in EXPERIMENTS:
        raise InputError(f"this perstep has no experiment {name!r}; it has {', '.join(EXPERIMENTS)}")
    return cast("Experiment", import_module(EXPERIMENTS[name]))
