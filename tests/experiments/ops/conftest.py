"""What the tests of `ops` share: operators whose cost is planted on a fake clock."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from perstep.experiments import pipeline
from perstep.experiments.ops import Plan
from perstep.measure import FakeClock
from perstep.targets.operators import numpy_layer as numpy_operators
from perstep.targets.operators.layer import PARTS

OPERATORS = numpy_operators.OPERATORS

COSTS_NS: dict[str, Callable[[int], int]] = {
    "embed": lambda S: 100 * S,
    "norm": lambda S: 200 * S,
    "attn.qkv": lambda S: 9_000 * S,
    "attn.rope": lambda S: 500 * S,
    "kv.append": lambda S: 50 * S,
    "attn.scores": lambda S: 300 * S * S,
    "attn.mask.build": lambda S: 1_000 * S * S,
    "attn.mask.apply": lambda S: 200 * S * S,
    "attn.softmax": lambda S: 400 * S * S,
    "attn.pv": lambda S: 300 * S * S,
    "attn.out": lambda S: 3_000 * S,
    "mlp": lambda S: 20_000 * S,
    "norm/final": lambda S: 200,
    "lm_head": lambda S: 5_000,
}
"""Part -> nanoseconds of one call at S new tokens."""

Planted = Callable[..., pipeline.Report]


@pytest.fixture
def planted(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Planted:
    """`planted("name", {"mlp": lambda S: 0}, seq=(8,), ...)`: a run in which every call costs what was planted."""
    clock = FakeClock(tick_ns=1)

    def slowed(part: str, costs: Mapping[str, Callable[[int], int]], current: list[int]) -> Callable[..., Any]:
        function = getattr(OPERATORS, next(name for name, named in PARTS.items() if named == part))

        def call(*arguments: Any) -> Any:
            if part == "embed":
                current[0] = len(arguments[1])
            clock.advance(costs[part](current[0]))
            return function(*arguments)

        return call

    def run(name: str, changed: Mapping[str, Callable[[int], int]] | None = None, **options: Any) -> pipeline.Report:
        costs = {**COSTS_NS, **(changed or {})}
        current = [0]
        wrapped = {
            operator: slowed(part, costs, current) for operator, part in PARTS.items() if getattr(OPERATORS, operator)
        }
        monkeypatch.setattr(numpy_operators, "OPERATORS", replace(OPERATORS, **wrapped))
        plan = Plan(**{"arch": str(tiny_llama), "seq": (8,), "rounds": 22, **options})
        return pipeline.run("ops", plan, progress=lambda _share, _what: None, out=tmp_path / name, clock=clock)

    return run
