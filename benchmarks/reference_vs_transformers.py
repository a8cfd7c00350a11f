"""How much faster the reference decodes than transformers, on the same folder, one thread each.

Both replay one trace of token ids from the same prefilled context, in rounds of ABBA blocks whose first steps are
dropped; a step is one forward that appends a token and gives its logits. The ratio is the median of per-round paired
ratios with the interval of `perstep.stats`, Bonferroni over the rows shown. Both must choose the same tokens.
Prints a table and writes results/reference_vs_transformers.json.

    OMP_NUM_THREADS=1 python -P benchmarks/reference_vs_transformers.py [--model FOLDER] [--contexts 8 256 1024]
"""

import argparse
import gc
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from threadpoolctl import threadpool_limits

from perstep import stats
from perstep.data import mini_path
from perstep.targets import reference

RESULT = Path(__file__).parent / "results" / "reference_vs_transformers.json"
NUM_DROPPED = 4  # steps after each switch between arms
Replay = Callable[[], tuple[list[int], list[int]]]


def replay_reference(model: reference.Reference, prompt: list[int], trace: list[int]) -> Replay:
    """A block of the reference arm: the trace's step times in ns and the tokens it would have chosen."""
    cache = model.new_cache(1, len(prompt) + len(trace))
    reference.prefill(model, [prompt], cache)
    ids = [np.array([token]) for token in trace]

    def block() -> tuple[list[int], list[int]]:
        times_ns, chosen = [], []
        for ids_B in ids:
            start = time.perf_counter_ns()
            logits_BV = reference.decode_one_token(model, ids_B, cache)
            times_ns.append(time.perf_counter_ns() - start)
            chosen.append(int(logits_BV.argmax()))
        cache.rollback(len(ids))
        return times_ns, chosen

    return block


def replay_transformers(model: Any, prompt: list[int], trace: list[int]) -> Replay:
    """A block of the transformers arm: bare forwards over its default cache, as little as it can do."""
    cache = transformers.DynamicCache(config=model.config)
    ids = [torch.tensor([[token]]) for token in trace]
    with torch.inference_mode():
        model(torch.tensor([prompt]), past_key_values=cache)

    def block() -> tuple[list[int], list[int]]:
        times_ns, chosen = [], []
        with torch.inference_mode():
            for ids_BT in ids:
                start = time.perf_counter_ns()
                logits = model(ids_BT, past_key_values=cache).logits
                times_ns.append(time.perf_counter_ns() - start)
                chosen.append(int(logits[0, -1].argmax()))
        cache.crop(-len(ids))
        return times_ns, chosen

    return block


def measure(first: Replay, second: Replay, num_rounds: int) -> tuple[np.ndarray, bool]:
    """Mean step time in ns, [rounds, 2], of two arms in ABBA rounds, and whether all choices were equal."""
    costs, equal = np.empty((num_rounds, 2)), True
    reference_choice = first()[1]
    second()
    for number in range(num_rounds):
        blocks = [(0, first()), (1, second()), (1, second()), (0, first())]
        for arm in (0, 1):
            costs[number, arm] = np.mean([times[NUM_DROPPED:] for which, (times, _) in blocks if which == arm])
        equal &= all(chosen == reference_choice for _, (_, chosen) in blocks)
    return costs, equal


def as_row(name: str, costs: np.ndarray, equal: bool | None, num_rows: int) -> dict[str, Any]:
    """One line of the result: second arm over first, with its interval."""
    change = stats.paired_change(costs[:, 0], costs[:, 1], comparisons=num_rows)
    low, high = change.ci_low, change.ci_high
    return {
        "row": name,
        "first_us": float(np.median(costs[:, 0]) / 1e3),
        "second_us": float(np.median(costs[:, 1]) / 1e3),
        "ratio": None if change.estimate is None else 1 + change.estimate,
        "ratio_low": None if low is None else 1 + low,
        "ratio_high": None if high is None else 1 + high,
        "confidence": change.confidence,
        "rounds": change.rounds,
        "merged_by": change.merged_by,
        "verdict_reason": change.reason,
        "same_choices": equal,
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model", type=Path, default=mini_path())
    parser.add_argument("--contexts", type=int, nargs="+", default=[8, 256, 1024])
    parser.add_argument("--steps", type=int, default=36, help="tokens of the trace, replayed in every block")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()

    torch.set_num_threads(1)
    ours = reference.load(options.model)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    text = np.random.default_rng(0).integers(0, ours.config.vocab, max(options.contexts)).tolist()
    load_before = os.getloadavg()[0]
    traces, num_rows = {}, len(options.contexts) + 1
    rows = []
    gc.disable()
    with threadpool_limits(1):
        for context in options.contexts:
            prompt = text[:context]
            trace = reference.generate(ours, [prompt], options.steps, eos_ids=())[0].tolist()
            traces[context] = replay_reference(ours, prompt, trace)
            costs, equal = measure(traces[context], replay_transformers(theirs, prompt, trace), options.rounds)
            rows.append(as_row(f"transformers / reference, context {context}", costs, equal, num_rows))
        short, long = min(options.contexts), max(options.contexts)
        costs, _ = measure(traces[short], traces[long], options.rounds)
        rows.append(as_row(f"reference, context {long} / context {short}", costs, None, num_rows))
    gc.enable()

    print(f"{'row':<42}{'first us':>10}{'second us':>11}{'ratio':>8}  {'95 % interval':<17}same choices")
    for row in rows:
        interval = "-" if row["ratio_low"] is None else f"[{row['ratio_low']:.2f}, {row['ratio_high']:.2f}]"
        same = {True: "yes", False: "NO", None: "-"}[row["same_choices"]]
        costs_us = f"{row['first_us']:>10.1f}{row['second_us']:>11.1f}"
        print(f"{row['row']:<42}{costs_us}{row['ratio']:>8.2f}  {interval:<17}{same}")
    result = {
        "schema_version": 1,
        "model": options.model.name,
        "num_parameters": ours.num_parameters,
        "config_hash": ours.config_hash,
        "batch": 1,
        "threads": 1,
        "steps_per_block": options.steps,
        "steps_dropped_per_block": NUM_DROPPED,
        "rows": rows,
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
