"""The checks of `gpu_check.py` that default runs have intervals in their budget, and that commands know a device."""

import tempfile
import time
from pathlib import Path
from typing import Any

from gpu_check_device import Found, Shared

FAST_AT_MOST_S = 15.0
"""What `--fast` may take once the model is loaded."""
TWICE = 0.2
"""How far a call of twice the work may be from twice the time."""


def ledger_fast(shared: Shared) -> Found:
    """`ledger --fast` of the small model: the seconds after loading, and whether every part has an interval."""
    loaded: list[float] = []

    def progress(_share: float, what: str) -> None:
        if what != "load" and not loaded:
            loaded.append(time.monotonic())

    found = _run("ledger", shared, progress, fast=True, budget=None, device=shared.device).findings
    seconds = time.monotonic() - (loaded or [time.monotonic()])[0]
    without = [name for name, part in found.decode.parts.items() if part.ci_low is None]
    facts = {
        "rounds": found.decode.rounds, "steps": found.decode.steps, "without_interval": without,
        "step_ms": found.decode.plain_step_ns / 1e6, "overhead": found.decode.overhead,
        "bound": {kind: work.bound for kind, work in found.device_work.items()},
    }  # fmt: skip
    reached = seconds <= FAST_AT_MOST_S and not without
    return Found(f"intervals of all parts, at most {FAST_AT_MOST_S:g} s after loading", seconds, reached, facts)


def ops(shared: Shared) -> Found:
    """`ops` on the device: masks built there, cached, fused and flash; no arm computes anything else."""
    from perstep.experiments.ops import Plan

    plan = Plan(
        arch=shared.arch, backend="torch", device=shared.device, dtype=shared.dtype, seq=(1, shared.prompt_tokens),
        rounds=shared.rounds, arm=("mask=rebuild", "mask=cached"),
    )  # fmt: skip
    report = _pipeline("ops", plan, lambda _share, _what: None)
    last = report.findings.lengths[-1]
    facts = {
        "ways_us": {name: way.whole.ns / 1e3 for name, way in last.attention.items()},
        "parts_us": {name: part.ns / 1e3 for name, part in last.ledger.parts.items()},
        "invalid": report.findings.invalid,
    }
    return Found("a valid ledger of operators", last.ledger.overhead, not report.findings.invalid, facts)


def compare(shared: Shared) -> Found:
    """`compare` of a product and of two of them: kernels of twice the time, and a caller that waits twice as long."""
    import torch

    import perstep

    width = 4096 if shared.device != "cpu" else 64
    a = torch.ones(width, width, device=shared.device, dtype=getattr(torch, shared.dtype))

    def once() -> None:
        a @ a

    def twice() -> None:
        a @ a
        a @ a

    found = perstep.compare({"once": once, "twice": twice}, budget_s=shared.rounds / 4)
    busy = [getattr(found[name], "device_busy_ns", None) for name in ("once", "twice")]
    known = all(isinstance(ns, float) and ns > 0 for ns in busy)
    change = found["twice"].wall.change
    facts: dict[str, Any] = {"busy_us": [ns / 1e3 for ns in busy] if known else None, "change": change}
    off = None if not known or change is None else abs(change - (busy[1] / busy[0] - 1))
    return Found(f"wall time and kernels agree within {TWICE:.0%}", off, off is not None and off <= TWICE, facts)


def _run(name: str, shared: Shared, progress: Any, **options: Any) -> Any:
    from perstep.experiments.ledger import Plan

    return _pipeline(name, Plan(arch=shared.arch, dtype=shared.dtype, **options), progress)


def _pipeline(name: str, plan: Any, progress: Any) -> Any:
    from perstep.experiments import pipeline

    with tempfile.TemporaryDirectory() as folder:
        return pipeline.run(name, plan, progress=progress, out=Path(folder) / "run")
