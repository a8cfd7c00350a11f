"""How near theory comes to a measured decode step, part by part, with nothing fitted; and how near a data sheet.

The built-in decoder with the shape of SmolLM2-135M (random weights: the cost of matrix work does not depend on them)
decodes one token behind 64 to 2,048 positions. Marked steps give the parts, unmarked ones the step, and the ceilings
are measured in the same rounds; every context is visited in a drawn order and then in its reverse. Claimed are a
median error over parts of at most 25 % and one of the step of at most 15 %. Beside it stands a roofline as
LLM-Viewer draws it (Yuan et al. 2024): the larger of FLOPs over peak and bytes over bandwidth of each operator, from
the data sheet of the processor. Prints tables and writes results/theory_vs_measured.json.

    OMP_NUM_THREADS=1 python -P benchmarks/theory_vs_measured.py --date 2026-01-31            # about three minutes
    OMP_NUM_THREADS=1 python -P benchmarks/theory_vs_measured.py --date 2026-01-31 --quick    # to see that it runs
"""

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from threadpoolctl import threadpool_limits

from perstep.experiments.bounds import rates_from, sweep_for
from perstep.machine import NoiseProbe, summarise_noise, sweep_figures
from perstep.measure import HostClock, Recorder, collector_off
from perstep.stats import round_slowdown
from perstep.targets.reference import KVCache, Reference, decode_one_token, load
from perstep.targets.reference.config import end_shapes, layer_shapes, parse_config
from perstep.theory import (
    IDEAL,
    REFERENCE,
    Level,
    Rates,
    StepBound,
    decode,
    read_config,
    step_bound,
    step_cost,
)

RESULT = Path(__file__).parent / "results" / "theory_vs_measured.json"
CONTEXTS = (64, 128, 256, 512, 1024, 2048)
PART_CLAIM, STEP_CLAIM = 0.25, 0.15
REPETITIONS = 2
SMOLLM2_135M: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 100000.0,
    "tie_word_embeddings": True,
}
# Sapphire Rapids: two AVX-512 units of 16 float32 multiply-adds a cycle at 2.6 GHz in a core, eight channels of
# DDR5-4800 in a socket.
SHEET_GFLOP_S, SHEET_GB_S = 2 * 2 * 16 * 2.6, 8 * 4.8 * 8


def write_model(folder: Path) -> Path:
    """A folder of that shape with random weights."""
    config = parse_config(SMOLLM2_135M)
    shapes = dict(end_shapes(config))
    for index in range(config.num_layers):
        shapes |= {f"model.layers.{index}.{name}": shape for name, shape in layer_shapes(config).items()}
    rng = np.random.default_rng(0)
    tensors = {name: rng.standard_normal(shape, dtype=np.float32) * np.float32(0.02) for name, shape in shapes.items()}
    (folder / "config.json").write_text(json.dumps(SMOLLM2_135M))
    save_file(tensors, folder / "model.safetensors")
    return folder


class Steps:
    """Single decode steps behind any context of one cache."""

    def __init__(self, model: Reference, longest: int) -> None:
        self._model = model
        self._cache: KVCache = model.new_cache(1, longest + 1)
        rng = np.random.default_rng(1)
        for buffer in (self._cache.keys, self._cache.values):
            buffer[...] = rng.standard_normal(buffer.shape, dtype=np.float32)
        self._clock = HostClock()
        self._ids_B = np.array([7])

    def plain_ns(self, context: int) -> int:
        """Without marks."""
        self._at(context)
        begin = self._clock.now()
        decode_one_token(self._model, self._ids_B, self._cache).argmax(axis=-1)
        return self._clock.now() - begin

    def parts_ns(self, context: int) -> dict[str, int]:
        """With marks."""
        self._at(context)
        recorder = Recorder(self._clock)
        with recorder.step("decode"):
            logits_BV = decode_one_token(self._model, self._ids_B, self._cache, recorder.mark)
            recorder.mark("sample")
            logits_BV.argmax(axis=-1)
        return {name: int(column[0]) for name, column in recorder.steps("decode").parts.items()}

    def _at(self, context: int) -> None:
        self._cache.reset()
        self._cache.advance(context)


def visit(steps: Steps, context: int) -> tuple[float, dict[str, float]]:
    """The median plain step and the median of each part, after one step of each kind that is dropped."""
    steps.plain_ns(context)
    plain = float(np.median([steps.plain_ns(context) for _ in range(REPETITIONS)]))
    steps.parts_ns(context)
    marked = [steps.parts_ns(context) for _ in range(REPETITIONS)]
    return plain, {name: float(np.median([each[name] for each in marked])) for name in marked[0]}


def errors(bound: StepBound, step_ns: float, parts_ns: Mapping[str, float]) -> dict[str, Any]:
    """Relative errors of a bound: of the step, of each part, and their median."""
    parts = {
        name: (bound.parts[name].bound_ns if name in bound.parts else 0.0) / ns - 1 for name, ns in parts_ns.items()
    }
    return {
        "step_ns": bound.bound_ns,
        "step_error": bound.bound_ns / step_ns - 1,
        "median_part_error": float(np.median(np.abs(list(parts.values())))),
        "part_errors": parts,
    }


def main() -> int:
    """1 where a claim does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--date", required=True, help="of the run, for the result file")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="two rounds; nothing is written")
    options = parser.parse_args()
    rounds = 2 if options.quick else options.rounds
    shape = read_config(SMOLLM2_135M)
    costs = {S: step_cost(shape, decode(S), backend=REFERENCE) for S in CONTEXTS}
    with tempfile.TemporaryDirectory() as folder:
        model = load(write_model(Path(folder)))
    plain = np.zeros((rounds, len(CONTEXTS), 2))
    parts: dict[tuple[int, str], list[float]] = {}
    ceilings, noises = [], []
    with threadpool_limits(1), collector_off():
        steps = Steps(model, CONTEXTS[-1])
        sweep = sweep_for(list(costs.values()), library="numpy", threads=1)
        probe = NoiseProbe()
        for number in range(rounds):
            order = np.random.default_rng([0, number]).permutation(len(CONTEXTS) + 1)
            probe.start()
            for turn, places in enumerate((order, order[::-1])):
                for place in places:
                    if place == len(CONTEXTS):
                        ceilings.append(sweep.measure())
                        continue
                    plain[number, place, turn], seen = visit(steps, CONTEXTS[place])
                    for name, ns in seen.items():
                        parts.setdefault((CONTEXTS[place], name), []).append(ns)
            noises.append(probe.stop())
    figures = sweep_figures(ceilings)
    assert figures is not None
    rates = rates_from(figures, "float32")
    sheet = Rates((Level("memory", SHEET_GB_S * 1e9),), {"float32": SHEET_GFLOP_S * 1e9})
    both = plain.mean(axis=2)
    step_ns = np.median(both / round_slowdown(both)[:, None], axis=0)
    rows = []
    for S, measured in zip(CONTEXTS, step_ns.tolist(), strict=True):
        parts_ns = {name: float(np.median(values)) for (context, name), values in parts.items() if context == S}
        rows.append(
            {
                "S": S,
                "step_ns": measured,
                "parts_ns": parts_ns,
                "theory": errors(step_bound(costs[S], rates), measured, parts_ns),
                "data_sheet": errors(step_bound(step_cost(shape, decode(S), backend=IDEAL), sheet), measured, parts_ns),
            }
        )
    for kind in ("theory", "data_sheet"):
        print(f"{kind}: S, step measured ms, step {kind} ms, its error, median error over parts")
        for row in rows:
            found = row[kind]
            print(
                f"  {row['S']:5d} {row['step_ns'] / 1e6:8.2f} {found['step_ns'] / 1e6:8.2f} "
                f"{found['step_error']:+7.1%} {found['median_part_error']:7.1%}"
            )
    print("errors of theory by part, at each S:")
    for name in rows[0]["parts_ns"]:
        cells = " ".join(f"{row['theory']['part_errors'][name]:+7.1%}" for row in rows)
        print(f"  {name:16s} {rows[-1]['parts_ns'][name] / 1e3:9.1f} µs {cells}")
    over_all = {
        kind: {
            "median_error_over_parts": float(
                np.median([abs(e) for row in rows for e in row[kind]["part_errors"].values()])
            ),
            "largest_step_error": max(abs(row[kind]["step_error"]) for row in rows),
        }
        for kind in ("theory", "data_sheet")
    }
    held = (
        over_all["theory"]["median_error_over_parts"] <= PART_CLAIM
        and over_all["theory"]["largest_step_error"] <= STEP_CLAIM
    )
    print(over_all, "claims hold" if held else "CLAIMS DO NOT HOLD")
    if options.quick:
        return 0
    noise = summarise_noise(noises)
    result = {
        "schema_version": 1,
        "date": options.date,
        "shape": "smollm2-135m",
        "processor": platform.processor() or platform.machine(),
        "rounds": rounds,
        "rounds_hit": noise.rounds_hit,
        "claims": {"median_error_over_parts": PART_CLAIM, "step_error": STEP_CLAIM, "hold": held},
        "summary": over_all,
        "ceilings": {
            "read_gb_s": figures.read_gb_s,
            "call_ns": figures.call_ns,
            "gemm_gflop_s": figures.gemm_gflop_s,
            "vector_g_s": figures.vector_g_s,
            "special_g_s": figures.special_g_s,
        },
        "data_sheet": {"gflop_s": SHEET_GFLOP_S, "gb_s": SHEET_GB_S},
        "contexts": rows,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    return int(not held)


if __name__ == "__main__":
    sys.exit(main())
