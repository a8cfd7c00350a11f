"""Everything of perstep that only a GPU can show, in one run of less than eight minutes.

Each check is a function with a line in `CHECKS`; it is given what to measure and answers with plain values for the JSON
file. One that fails does not keep the others from running, one that would begin too late is left out and named. The
device is named in the result. Without a GPU it says so in one line and exits with 2; if a check failed it exits with 1.

    python -P benchmarks/gpu_check.py --date 2026-11-22 [--only NAME ...] [--out FILE]

To add a check: write `def mine(subject: Subject) -> Facts`, raise what is wrong, and add it to `CHECKS`.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

RESULT = Path(__file__).parent / "results" / "gpu_check.json"
TOTAL_S = 420.0
"""No check begins after so many seconds."""
Facts = dict[str, Any]


@dataclass(frozen=True)
class Subject:
    """What is measured, and how long a measurement may take.

    Attributes:
        arch: as `--arch` takes it: real shapes, random weights.
        layers: keep so many of them; all if None.
        dtype: of the weights.
        device: as torch spells it.
        budget_s: of one run of `perstep ledger`.
        new_tokens: of one call.
        calls: watched calls.
    """

    arch: str = "smollm2-135m"
    layers: int | None = None
    dtype: str = "bfloat16"
    device: str = "cuda"
    budget_s: float = 60.0
    new_tokens: int = 32
    calls: int = 20


def ledger_phases(subject: Subject) -> Facts:
    """The ledgers of host and device, the forward as a whole."""
    return _ledger(subject, "phases")


def ledger_modules(subject: Subject) -> Facts:
    """The ledgers of host and device, the forward by type of module."""
    return _ledger(subject, "modules")


def _ledger(subject: Subject, detail: Any) -> Facts:
    from perstep.experiments import pipeline
    from perstep.experiments.ledger import Plan

    plan = Plan(
        arch=subject.arch, layers=subject.layers, dtype=subject.dtype, device=subject.device, detail=detail,
        budget=subject.budget_s, prompt_tokens=64, new_tokens=subject.new_tokens,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        report = pipeline.run("ledger", plan, progress=lambda _share, _what: None, out=Path(folder) / "run")
    pipeline.check(report)
    found, on_device = report.findings, subject.device != "cpu"
    if on_device and "decode" not in found.device:
        raise RuntimeError("the run on a device has no ledger of the device's time")
    for ledger in (*found.ledgers, *(beside.ledger for beside in found.device.values())):
        _adds_up(ledger)
    facts: Facts = msgspec.to_builtins(found)
    return {**facts, "manifest_model": report.manifest.model, "conditions": report.manifest.conditions}


def _adds_up(ledger: Any) -> None:
    """Law 1, on each of the two clocks."""
    total = sum(part.ns_total for part in ledger.parts.values()) + ledger.residual_ns_total
    if total != ledger.step_ns_total:
        raise RuntimeError(f"parts and residual of the {ledger.kind} ledger are {total}, not {ledger.step_ns_total}")


def watch_inflation(subject: Subject) -> Facts:
    """What watching costs at each level of detail, and how often a step waits for the device, by part."""
    import torch

    import perstep
    from perstep.targets.transformers import build, to_device

    model = to_device(build(subject.arch, layers=subject.layers, dtype=subject.dtype), subject.device)
    ids = torch.arange(3, 67, device=subject.device).reshape(1, 64)
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": subject.new_tokens, "do_sample": False}
    options |= {"pad_token_id": 0, "eos_token_id": None}
    expected = model.generate(ids, **options)
    facts: Facts = {}
    for detail in ("phases", "modules"):
        with perstep.watch(model, detail) as watched:
            for _ in range(subject.calls):
                if not torch.equal(model.generate(ids, **options), expected):
                    raise RuntimeError(
                        f"the tokens of a call watched at {detail} are others than those of an unwatched one"
                    )
        ledger, beside = watched.ledger(), watched.device_ledger()
        _adds_up(ledger)
        facts[detail] = {
            "inflation": [ledger.inflation, ledger.inflation_ci_low, ledger.inflation_ci_high],
            "host_step_us": ledger.step_ns / 1e3,
            "residual_share": ledger.residual_share,
            "syncs_per_step": ledger.syncs_per_step,
            "syncs_by_part": {name: p.syncs_per_step for name, p in ledger.parts.items() if p.syncs_per_step},
            "device_step_us": None if beside is None else beside.ledger.step_ns / 1e3,
            "idle_at_most_us": None if beside is None else beside.idle_ns_per_step / 1e3,
            "notes": ledger.notes,
        }
    return facts


CHECKS: dict[str, Callable[[Subject], Facts]] = {
    "ledger_phases": ledger_phases,
    "ledger_modules": ledger_modules,
    "watch_inflation": watch_inflation,
}


def run_checks(
    names: Sequence[str],
    subject: Subject,
    *,
    checks: dict[str, Callable[[Subject], Facts]] | None = None,
    now_s: Callable[[], float] = time.monotonic,
) -> dict[str, Facts]:
    """Run checks one after the other; what each found, how long it took, or what was wrong.

    Args:
        names: which.
        subject: what they measure.
        checks: those there are.
        now_s: the clock of the limit.
    """
    known = CHECKS if checks is None else checks
    began_s, found = now_s(), {}
    for name in names:
        at_s = now_s()
        if at_s - began_s > TOTAL_S:
            found[name] = {"status": "left out: no time", "seconds": 0.0}
            continue
        try:
            facts: Facts = {"status": "ok", "facts": known[name](subject)}
        except Exception as error:  # the other checks are worth having
            facts = {"status": "failed", "error": f"{type(error).__name__}: {error}"}
        found[name] = {**facts, "seconds": round(now_s() - at_s, 1)}
    return found


def describe_device() -> Facts:
    """The device, and what drives it."""
    import torch
    import transformers

    device = torch.cuda.get_device_properties(0)
    return {
        "name": device.name,
        "memory_gb": round(device.total_memory / 1e9, 1),
        "capability": f"{device.major}.{device.minor}",
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the checks and write what they found."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--date", required=True, help="of the run, as 2026-11-22")
    parser.add_argument("--only", nargs="+", choices=list(CHECKS), default=list(CHECKS), metavar="NAME")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args(arguments)
    import torch

    if not torch.cuda.is_available():
        print("gpu_check: no CUDA device is available here; run it on a machine that has one", file=sys.stderr)
        return 2
    result: Facts = {"schema_version": 1, "date": options.date, "device": describe_device(), "subject": vars(Subject())}
    result["checks"] = run_checks(options.only, Subject())
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for name, found in result["checks"].items():
        print(f"{name}: {found['status']} ({found['seconds']} s) {found.get('error', '')}".rstrip())
    return int(any(found["status"] != "ok" for found in result["checks"].values()))


if __name__ == "__main__":
    raise SystemExit(main())
