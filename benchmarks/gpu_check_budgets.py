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


def mask(shared: Shared) -> Found:
    """`mask` on the device: a whole table as tensors, and bits filled on the host; both choose what they may."""
    from perstep.experiments.mask import Plan

    on_cpu = shared.device == "cpu"
    plan = Plan(
        device=shared.device, vocab="mini" if on_cpu else "mini,131072", engine="table,llguidance", new_tokens=8,
        rounds=shared.rounds,
    )  # fmt: skip
    report = _pipeline("mask", plan, lambda _share, _what: None)
    arms = {f"{cell.vocab} {arm.engine}": arm for cell in report.findings.cells for arm in cell.arms}
    there = {name: arm.on_device for name, arm in arms.items() if hasattr(arm.on_device, "busy_ns")}
    facts = {
        "step_us": {name: arm.per_step_ms * 1e3 for name, arm in arms.items()},
        "busy_us": {name: seen.busy_ns / 1e3 for name, seen in there.items()},
        "launches": {name: seen.launches for name, seen in there.items()},
        "mask_bound_us": {
            name: None if arm.device_bound.bound_ns is None else arm.device_bound.bound_ns / 1e3
            for name, arm in arms.items()
            if hasattr(arm.device_bound, "bound_ns")
        },
        "left_out": [entry.why for entry in report.findings.left_out],
        "invalid": report.findings.invalid,
    }
    reached = not report.findings.invalid and bool(there) and all(seen.busy_ns > 0 for seen in there.values())
    return Found("valid, and kernels seen in every arm", len(there), reached, facts)


def selftest(shared: Shared) -> Found:
    """Identical programs that are not told apart; delays on host and device, each found in its part and on its side."""
    from perstep.experiments.device.planted import run_device_test

    test = run_device_test(shared.device, 20.0, progress=lambda _share, _what: None)
    wrong = [one for one in test.planted if not one.within]
    false = test.identical.slower + test.identical.faster
    facts: dict[str, Any] = {
        "false_verdicts": false,
        "busy_differs": test.busy_differs,
        "said": test.sentence,
        "wrong": [
            f"{one.side} {one.part}: {one.true_ns / 1e3:.0f} us, host {one.host_ns / 1e3:.0f}, "
            f"device {one.device_ns / 1e3:.0f}, {one.elsewhere} {one.elsewhere_ns / 1e3:.0f}"
            for one in wrong
        ],
    }
    return Found(
        "every delay within 5 % or 20 us, identical programs alike", len(wrong), not wrong and not false, facts
    )


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
