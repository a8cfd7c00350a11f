"""What skipping blocks in place costs over cutting them out, and how straight latency is against depth.

A Llama of 16 blocks, hidden 256, with random weights. First: decode steps under a `BlockMask` against those of a
truly truncated copy of equal depth, bare forwards over a cache, in rounds of ABBA blocks whose first steps are
dropped; ratio of paired rounds with its interval, Bonferroni over the rows. Second: `perstep depth` with 50 samples of
each depth from 1 to 16, prefill 64 and 32 new tokens: how long it takes, R^2, held-out error and fixed share.

    OMP_NUM_THREADS=1 python -P benchmarks/depth.py --date 2026-11-22 [--rounds 40] [--samples 50]
"""

import argparse
import gc
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
import transformers

from perstep import stats
from perstep.experiments import pipeline
from perstep.experiments.depth import Plan
from perstep.targets import BlockMask
from perstep.targets.transformers import build, truncate

RESULT = Path(__file__).parent / "results" / "depth.json"
BLOCKS = 16
CONFIG = {
    "model_type": "llama", "vocab_size": 32000, "hidden_size": 256, "intermediate_size": 688,
    "num_hidden_layers": BLOCKS, "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 2048,
    "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
MASKS = {"8 of 16, every second": tuple(range(1, 16, 2)), "4 of 16, first": (0, 1, 2, 3), "16 of 16": tuple(range(16))}
PROMPT, STEPS, NUM_DROPPED = 16, 24, 4


def block(model: Any, ids_BT: Any) -> tuple[list[int], list[int]]:
    """Step times in ns and the tokens chosen, over a cache of its own."""
    cache = transformers.DynamicCache(config=model.config)
    times_ns, chosen = [], []
    with torch.inference_mode():
        model(ids_BT[:, :PROMPT], past_key_values=cache)
        for position in range(PROMPT, PROMPT + STEPS):
            token = ids_BT[:, position : position + 1]
            start = time.perf_counter_ns()
            logits = model(token, past_key_values=cache).logits
            times_ns.append(time.perf_counter_ns() - start)
            chosen.append(int(logits[0, -1].argmax()))
    return times_ns, chosen


def mask_against_truncated(arch: Path, name: str, active: tuple[int, ...], num_rounds: int) -> dict[str, Any]:
    """One row: masked over truncated."""
    masked = build(arch)
    truncated = truncate(masked, active)
    ids_BT = torch.as_tensor(np.random.default_rng(0).integers(3, 32000, (1, PROMPT + STEPS)))
    costs, equal = np.empty((num_rounds, 2)), True
    with BlockMask(masked, active) as mask:
        for model in (truncated, masked):
            block(model, ids_BT)
        for number in range(num_rounds):
            runs = [(arm, block((truncated, masked)[arm], ids_BT)) for arm in (0, 1, 1, 0)]
            for arm in (0, 1):
                costs[number, arm] = np.mean([np.median(t[NUM_DROPPED:]) for which, (t, _) in runs if which == arm])
            equal &= len({tuple(chosen) for _, (_, chosen) in runs}) == 1
    mask.check()
    change = stats.paired_change(costs[:, 0], costs[:, 1], comparisons=len(MASKS))
    return {
        "row": name,
        "truncated_us": float(np.median(costs[:, 0]) / 1e3),
        "masked_us": float(np.median(costs[:, 1]) / 1e3),
        "ratio": None if change.estimate is None else 1 + change.estimate,
        "ratio_low": None if change.ci_low is None else 1 + change.ci_low,
        "ratio_high": None if change.ci_high is None else 1 + change.ci_high,
        "confidence": change.confidence,
        "rounds": change.rounds,
        "same_choices": equal,
    }


def depth_run(arch: Path, samples: int) -> dict[str, Any]:
    """The whole command, as a user would run it."""
    plan = Plan(arch=str(arch), prompt_tokens=64, new_tokens=32, rounds=samples)
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        report = pipeline.run("depth", plan, progress=lambda _share, _what: None, out=Path(folder) / "run")
        seconds = time.monotonic() - began
    findings: Any = report.findings
    return {
        "samples": samples,
        "seconds": seconds,
        "fits": {stage: msgspec.to_builtins(fit) for stage, fit in findings.fits.items()},
        "decode_ms": {s.label: s.decode_ms for s in findings.summary},
        "prefill_ms": {s.label: s.prefill_ms for s in findings.summary},
        "latency_model": msgspec.to_builtins(findings.latency_model),
        "invalid": findings.invalid,
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--date", required=True, help="of the measurement, ISO 8601")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--samples", type=int, default=50)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        arch = Path(folder) / "config.json"
        arch.write_text(json.dumps(CONFIG))
        gc.disable()
        rows = [mask_against_truncated(arch, name, active, options.rounds) for name, active in MASKS.items()]
        gc.enable()
        depth = depth_run(arch, options.samples)
    for row in rows:
        interval = "-" if row["ratio_low"] is None else f"[{row['ratio_low']:.4f}, {row['ratio_high']:.4f}]"
        print(f"{row['row']:<24}{row['truncated_us']:>9.0f} us truncated  x {row['ratio']:.4f} masked  {interval}")
    print(f"depth: {depth['seconds']:.0f} s for {BLOCKS} depths x {options.samples} samples")
    for stage, fit in depth["fits"].items():
        beyond = "-" if fit["beyond_error"] is None else f"{fit['beyond_error']:.2%}"
        errors = f"held-out {fit['heldout_error']:.2%}, beyond {beyond}"
        print(f"{stage}: R2 {fit['r_squared']:.4f}, {errors}, fixed {fit['fixed_share']:.2%}")
    result = {
        "schema_version": 1,
        "date": options.date,
        "config": CONFIG,
        "threads": 1,
        "steps_per_block": STEPS,
        "steps_dropped_per_block": NUM_DROPPED,
        "mask_over_truncated": rows,
        "depth": depth,
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "cores": os.cpu_count(),
        "load_average_before": load_before,
        "load_average_after": os.getloadavg()[0],
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
