"""What skipping blocks in place costs over cutting them out, and how straight latency is against depth.

A Llama of 16 blocks, hidden 256, vocabulary 32,000, with random weights. First: decode steps under a `BlockMask`
against those of a truncated copy of equal depth that shares its weights, step by step in turn (ABBA), so that both find
the caches as the other left them; ratio of paired rounds with its interval, Bonferroni over the rows, and a null row of
two such copies. Second: how long what was read stays in a cache on this machine: reads of 16 MB again after a pause,
and of larger sets at once. Third: `perstep depth` over all depths of that model, and of one so small that all of it
stays near (hidden 128, vocabulary 320: 12 MB): R^2, held-out errors of line and change of slope, fixed share.

    OMP_NUM_THREADS=1 python -P benchmarks/depth.py --date 2026-11-22 [--rounds 60] [--samples 50]
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
from perstep.experiments.knobs.depth.plan import Plan
from perstep.targets import BlockMask
from perstep.targets.transformers import build, truncate

RESULT = Path(__file__).parent / "results" / "depth.json"
BLOCKS = 16
CONFIG = {
    "model_type": "llama", "vocab_size": 32000, "hidden_size": 256, "intermediate_size": 688,
    "num_hidden_layers": BLOCKS, "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 2048,
    "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
NEAR = {
    **CONFIG, "vocab_size": 320, "hidden_size": 128, "intermediate_size": 344, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # fmt: skip
MASKS = {"8 of 16, every second": tuple(range(1, 16, 2)), "4 of 16, first": (0, 1, 2, 3), "16 of 16": tuple(range(16))}
NULL = "8 of 16, every second: two truncated copies"
PROMPT, STEPS, NUM_DROPPED = 16, 32, 4
PAUSES_MS = (0, 1, 2, 4, 8, 16, 32)
SETS_MB = (8, 16, 32, 48, 64, 80, 96, 128)
PAUSED_MB = 16


def pair_round(models: tuple[Any, Any], ids_BT: Any) -> tuple[list[float], bool]:
    """Two models in turn at every position, each over its own cache: median steps in ns, and whether they agree."""
    caches = [transformers.DynamicCache(config=model.config) for model in models]
    times_ns, chosen = np.empty((STEPS, 2)), np.empty((STEPS, 2), np.int64)
    with torch.inference_mode():
        for model, cache in zip(models, caches, strict=True):
            model(ids_BT[:, :PROMPT], past_key_values=cache)
        for position in range(STEPS):
            token = ids_BT[:, PROMPT + position : PROMPT + position + 1]
            for arm in (0, 1) if position % 2 else (1, 0):
                start = time.perf_counter_ns()
                logits = models[arm](token, past_key_values=caches[arm]).logits
                times_ns[position, arm] = time.perf_counter_ns() - start
                chosen[position, arm] = int(logits[0, -1].argmax())
    medians: list[float] = np.median(times_ns[NUM_DROPPED:], axis=0).tolist()
    return medians, bool((chosen[:, 0] == chosen[:, 1]).all())


def mask_against_truncated(arch: Path, name: str, active: tuple[int, ...], num_rounds: int) -> dict[str, Any]:
    """One row: masked over truncated, or for the null row truncated over truncated."""
    whole = build(arch)
    first = truncate(whole, active, share_weights=True)
    second = truncate(whole, active, share_weights=True) if name == NULL else whole
    ids_BT = torch.as_tensor(np.random.default_rng(0).integers(3, 32000, (1, PROMPT + STEPS)))
    mask = BlockMask(whole, active)
    with mask:
        pair_round((first, second), ids_BT)
        rounds = [pair_round((first, second), ids_BT) for _ in range(num_rounds)]
    mask.check()
    costs = np.array([medians for medians, _ in rounds])
    change = stats.paired_change(costs[:, 0], costs[:, 1], comparisons=len(MASKS) + 1)
    return {
        "row": name,
        "truncated_us": float(np.median(costs[:, 0]) / 1e3),
        "masked_us": float(np.median(costs[:, 1]) / 1e3),
        "ratio": None if change.estimate is None else 1 + change.estimate,
        "ratio_low": None if change.ci_low is None else 1 + change.ci_low,
        "ratio_high": None if change.ci_high is None else 1 + change.ci_high,
        "confidence": change.confidence,
        "rounds": change.rounds,
        "same_choices": all(same for _, same in rounds),
    }


def how_long_weights_stay(num_rounds: int = 10) -> dict[str, Any]:
    """Reads of a set as decoding reads weights: again after a pause in which this process touches nothing, and at once.

    A cache that only this process filled would keep 16 MB through any pause; one that others fill, too, does not.
    """
    row_TD = torch.ones(1, 256)
    weights_ND = torch.ones(max(SETS_MB) * 10**6 // 1024, 256)
    paused: dict[int, list[float]] = {ms: [] for ms in PAUSES_MS}
    sets: dict[int, list[float]] = {size: [] for size in SETS_MB}

    def gb_s(size_mb: int, pause_ms: int, reads: int = 8) -> float:
        parts = weights_ND[: size_mb * 10**6 // 1024].split(2816)
        times_ns = []
        for _ in range(reads):
            until = time.perf_counter_ns() + pause_ms * 1_000_000
            while time.perf_counter_ns() < until:
                pass
            start = time.perf_counter_ns()
            for part in parts:
                torch.nn.functional.linear(row_TD, part)
            times_ns.append(time.perf_counter_ns() - start)
        return size_mb * 1e6 / float(np.median(times_ns[2:]))

    for _ in range(num_rounds):
        for pause_ms, found in paused.items():
            found.append(gb_s(PAUSED_MB, pause_ms))
        for size_mb, found in sets.items():
            found.append(gb_s(size_mb, 0))
    return {
        "paused_set_mb": PAUSED_MB,
        "gb_s_by_pause_ms": {str(ms): float(np.median(found)) for ms, found in paused.items()},
        "gb_s_by_set_mb": {str(size): float(np.median(found)) for size, found in sets.items()},
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
        "weight_bytes": {s.label: s.weight_bytes for s in findings.summary},
        "latency_model": msgspec.to_builtins(findings.latency_model),
        "invalid": findings.invalid,
    }


def show(title: str, run: dict[str, Any]) -> None:
    """A depth run in lines."""
    print(f"{title}: {run['seconds']:.0f} s for {BLOCKS} depths x {run['samples']} samples")
    for stage, fit in run["fits"].items():
        knee = fit["knee"]
        beyond = "-" if fit["beyond_error"] is None else f"{fit['beyond_error']:.2%}"
        shape = "line"
        if knee is not None:
            shape = (
                f"slope {fit['slope_ms']:.3f}, beyond {knee['at']:.1f} [{knee['ci_low']:.1f}, {knee['ci_high']:.1f}]"
            )
            shape += f" {knee['slope_beyond_ms']:.3f} ms (a line: {knee['line_heldout_error']:.2%} held out)"
        errors = f"held-out {fit['heldout_error']:.2%}, beyond {beyond}"
        print(f"  {stage}: R2 {fit['r_squared']:.4f}, {errors}, fixed {fit['fixed_share']:.2%}; {shape}")


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--date", required=True, help="of the measurement, ISO 8601")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--samples", type=int, default=50)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        arch, near = Path(folder) / "config.json", Path(folder) / "near.json"
        arch.write_text(json.dumps(CONFIG))
        near.write_text(json.dumps(NEAR))
        gc.disable()
        null = mask_against_truncated(arch, NULL, MASKS["8 of 16, every second"], options.rounds)
        rows = [mask_against_truncated(arch, name, active, options.rounds) for name, active in MASKS.items()]
        stay = how_long_weights_stay()
        gc.enable()
        depth = depth_run(arch, options.samples)
        depth_near = depth_run(near, options.samples)
    for row in [null, *rows]:
        interval = "-" if row["ratio_low"] is None else f"[{row['ratio_low']:.4f}, {row['ratio_high']:.4f}]"
        print(f"{row['row']:<44}{row['truncated_us']:>9.0f} us truncated  x {row['ratio']:.4f}  {interval}")
    print(f"16 MB read again, GB/s by pause in ms: {_listed(stay['gb_s_by_pause_ms'])}")
    print(f"sets read again at once, GB/s by size in MB: {_listed(stay['gb_s_by_set_mb'])}")
    show("hidden 256, vocabulary 32,000", depth)
    show("hidden 128, vocabulary 320", depth_near)
    result = {
        "schema_version": 2,
        "date": options.date,
        "config": CONFIG,
        "config_near": NEAR,
        "threads": 1,
        "steps_per_round": STEPS,
        "steps_dropped_per_round": NUM_DROPPED,
        "mask_over_truncated": rows,
        "truncated_over_truncated": null,
        "how_long_weights_stay": stay,
        "depth": depth,
        "depth_near": depth_near,
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


def _listed(figures: dict[str, float]) -> str:
    return ", ".join(f"{name}: {value:.1f}" for name, value in figures.items())


if __name__ == "__main__":
    main()
