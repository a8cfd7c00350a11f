"""What a kept causal mask wins, and whether `perstep ops` says so before: all arms interleaved, ratios with intervals.

Four parts: a look-up after growth at several lengths (limit: 2 us); building plus applying, and the whole of
attention, at 512 tokens and 32 heads of 128, with the mask rebuilt, kept, and fused; three planted costs, for which
`--what-if` must name the gain that a later run without them has, within 10 %; and `perstep ops` at llama-2-7b's shapes
with both backends: how long it takes (limit: 4 minutes), how much memory, what no part covers. Writes
results/mask_cache.json.

    OMP_NUM_THREADS=1 python -P benchmarks/mask_cache.py --date 2026-11-22 [--quick]
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import perstep
from perstep.experiments import pipeline
from perstep.experiments.ops import Plan
from perstep.experiments.ops.arms import operators_with
from perstep.fast import CausalMaskCache
from perstep.machine import describe
from perstep.targets.operators import numpy_layer as numpy_operators
from perstep.targets.operators.layer import full_attention

RESULT = Path(__file__).parent / "results" / "mask_cache.json"
HEADS, HEAD_DIM, TOKENS = 32, 128, 512
SHAPES = ((1, 1), (1, 4096), (1, 65_536), (32, 32), (512, 512), (512, 8192), (4096, 4096))
PLANTED = {"mask_build": ("attn.mask.build", 3_000_000), "rope": ("attn.rope", 6_000_000), "mlp": ("mlp", 20_000_000)}
"""Operator -> its part, and the nanoseconds that are planted in each of its calls."""
SMALL = {
    "model_type": "llama", "vocab_size": 512, "hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1,
    "num_attention_heads": 8, "max_position_embeddings": 4096,
}  # fmt: skip
now_ns = time.perf_counter_ns
Rows = list[dict[str, Any]]


def lookups(calls: int = 20_000) -> Rows:
    """Nanoseconds of one look-up after growth: the median of 15 blocks, and the slowest block."""
    rows = []
    for backend, dtypes in (("numpy", (None, "float32")), ("torch", (None, torch.float32))):
        cache = CausalMaskCache(backend)
        for dtype in dtypes:
            for q_len, kv_len in SHAPES:
                cache.get(q_len, kv_len, dtype=dtype)
                blocks = []
                for _ in range(15):
                    begun = now_ns()
                    for _ in range(calls // 15):
                        cache.get(q_len, kv_len, dtype=dtype)
                    blocks.append((now_ns() - begun) / (calls // 15))
                median, slowest = float(np.median(blocks)), max(blocks)
                row = {"backend": backend, "dtype": str(dtype), "q": q_len, "k": kv_len}
                rows.append(row | {"ns": median, "slowest_block_ns": slowest, "under_2_us": median <= 2000})
    return rows


def arms_of(backend: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Building plus applying, and all of attention, by arm; the operands are those of 512 tokens of llama-2-7b."""
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((HEADS, TOKENS, HEAD_DIM)).astype(np.float32) for _ in range(3)]
    q, k, v = arrays if backend == "numpy" else map(torch.from_numpy, arrays)
    masks = ("rebuild", "cached") if backend == "numpy" else ("rebuild", "cached", "fused")
    operators = {f"mask={mask}": operators_with(backend, mask) for mask in masks}
    scores = operators["mask=rebuild"].scores(q, k)

    def masking(ops: Any) -> Any:
        return lambda: ops.mask_apply(scores, ops.mask_build(TOKENS, TOKENS, scores.dtype))

    def attention(ops: Any) -> Any:
        return lambda: full_attention(ops, q, k, v)

    building = {name: masking(ops) for name, ops in operators.items() if name != "mask=fused"}
    building["only apply"] = masking(replace(operators["mask=rebuild"], mask_build=_precomputed(operators)))
    return building, {name: attention(ops) for name, ops in operators.items()}


def _precomputed(operators: dict[str, Any]) -> Any:
    kept: dict[Any, Any] = {}

    def mask_build(q_len: int, kv_len: int, dtype: Any) -> Any:
        if dtype not in kept:
            kept[dtype] = operators["mask=rebuild"].mask_build(q_len, kv_len, dtype)
        return kept[dtype]

    return mask_build


def compared(arms: dict[str, Any], rounds: int) -> Rows:
    """The arms in turns: microseconds and the change against rebuilding, with its interval and verdict."""
    with torch.inference_mode():
        found = perstep.compare(arms, reference="mask=rebuild", rounds=rounds)
    return [
        {
            "arm": name,
            "us": arm.wall.ns / 1000,
            "change": arm.wall.change,
            "ci": [arm.wall.ci_low, arm.wall.ci_high],
            "verdict": arm.wall.verdict,
            "rounds": found.rounds,
        }
        for name, arm in found.arms.items()
    ]


def planted(folder: Path, rounds: int) -> Rows:
    """What `--what-if` says of a planted cost, against the gain of a later run without it."""
    (folder / "config.json").write_text(json.dumps(SMALL))
    usual = numpy_operators.OPERATORS
    rows = []
    for operator, (part, cost_ns) in PLANTED.items():
        plan = Plan(arch=str(folder / "config.json"), seq=(64,), rounds=rounds, what_if=(f"{part}=0",))
        try:
            numpy_operators.OPERATORS = replace(usual, **{operator: _slowed(getattr(usual, operator), cost_ns)})
            before = run(plan, folder / f"{operator}-before").findings.lengths[0]
        finally:
            numpy_operators.OPERATORS = usual
        after = run(replace(plan, what_if=()), folder / f"{operator}-after").findings.lengths[0]
        said = before.what_if[part].in_step
        # The later run has got rid of what was planted, not of the part's own work, which is far less.
        later_ns = before.ledger.plain_step_ns - after.ledger.plain_step_ns
        rows.append(
            {
                "part": part,
                "planted_ns": cost_ns,
                "said_ns": said.ns,
                "said_ci_ns": [said.ci_low_ns, said.ci_high_ns],
                "later_ns": later_ns,
                "ratio": said.ns / later_ns,
                "within_10_percent": abs(said.ns / later_ns - 1) <= 0.1,
            }
        )
    return rows


def _slowed(function: Any, cost_ns: int) -> Any:
    def call(*arguments: Any) -> Any:
        until = now_ns() + cost_ns
        while now_ns() < until:
            pass
        return function(*arguments)

    return call


def run(plan: Plan, out: Path) -> Any:
    """One run of `ops`."""
    return pipeline.run("ops", plan, progress=lambda _share, _what: None, out=out)


def at_the_shapes(folder: Path, backend: str) -> dict[str, Any]:
    """`perstep ops` in a process of its own, as a person runs it: seconds, bytes, and what it found."""
    out = folder / backend
    command = [sys.executable, "-m", "perstep", "ops", "--backend", backend, "--out", str(out), "-q", "-o", "json"]
    command += ["--what-if", "attn.mask.build=0", "--what-if", "attn.mask.apply=0"]
    begun = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds = time.monotonic() - begun
    found = json.loads(done.stdout)
    lengths = {
        length["seq"]: {
            "step_ms": length["ledger"]["plain_step_ns"] / 1e6,
            "rounds": length["ledger"]["rounds"],
            "residual_share_of_layers": length["residual_share_of_layers"],
            "largest": length["largest"],
            "shares": {name: part["share_of_step"] for name, part in length["operators"].items()},
            "attention": {
                name: {key: way[key] for key in ("against_reference", "mask_against_reference", "parts_ns")}
                for name, way in length["attention"].items()
            },
            "what_if": length["what_if"],
        }
        for length in found["lengths"]
    }
    return {
        "backend": backend,
        "seconds": seconds,
        "under_4_minutes": seconds < 240,
        "peak_gib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20,
        "invalid": found["invalid"],
        "lengths": lengths,
    }


def main() -> None:
    """Measure everything and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--date", required=True)
    parser.add_argument("--quick", action="store_true", help="no run at llama-2-7b's shapes, fewer rounds; not stored")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rounds = 2 if options.quick else 40
    result: dict[str, Any] = {"date": options.date, "cpu": describe().cpu.model, "lookups": lookups()}
    for backend in ("numpy", "torch"):
        building, attention = arms_of(backend)
        result[f"build_and_apply_{backend}"] = compared(building, rounds)
        result[f"full_attention_{backend}"] = compared(attention, rounds)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        result["what_if"] = planted(folder, 10 if options.quick else 60)
        if not options.quick:
            result["llama_2_7b"] = [at_the_shapes(folder, backend) for backend in ("numpy", "torch")]
            RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
