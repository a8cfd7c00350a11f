"""What `fast.decode` spends between two forwards against `generate`, in place, in one process, taking turns.

The clock is read where the forward ends and where the next begins, so that caches are as a step leaves them. Four
layers of hidden size 256; greedy; the rows of the batch of four are padded on the left. From the repository, on a
machine that does nothing else:

    python -P benchmarks/decode_loop.py --date 2026-01-31          # about a minute
    python -P benchmarks/decode_loop.py --date 2026-01-31 --quick  # to see that it runs
"""

import argparse
import functools
import gc
import json
import os
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import transformers

from perstep import fast, stats
from perstep.machine import describe, identity

RESULT = Path(__file__).parent / "results" / "decode_loop.json"
REACH = 0.25


def outside_the_forward(rounds: int) -> list[dict[str, Any]]:
    """The mean time from the end of a forward to the next: `fast.decode` against `generate`'s own loop, in place."""
    rows = []
    for words, batch, eos in ((32_000, 1, 2), (32_000, 4, 2), (2_000, 1, 2), (2_000, 1, None)):
        torch.manual_seed(0)
        config = transformers.LlamaConfig(
            vocab_size=words, hidden_size=256, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4,
            num_key_value_heads=2, eos_token_id=eos, pad_token_id=0,
        )  # fmt: skip
        model = transformers.LlamaForCausalLM(config).eval()
        ids = torch.randint(3, words, (batch, 16), generator=torch.Generator().manual_seed(0))
        attended = torch.ones_like(ids)
        for row in range(batch):
            attended[row, :row] = 0
        edges, forward = [], model.forward

        @functools.wraps(forward)
        def timed(*args: Any, **kwargs: Any) -> Any:
            edges.append(time.perf_counter_ns())  # noqa: B023
            found = forward(*args, **kwargs)  # noqa: B023
            edges.append(time.perf_counter_ns())  # noqa: B023
            return found

        model.forward = timed

        def between_ns(**loop: Any) -> float:
            edges.clear()  # noqa: B023
            model.generate(ids, attention_mask=attended, max_new_tokens=49, do_sample=False, **loop)  # noqa: B023
            return float(np.mean(np.array(edges[4::2]) - np.array(edges[3:-1:2])))  # noqa: B023

        loops: list[dict[str, Any]] = [{}, {"custom_generate": fast.decode}]
        costs = np.zeros((rounds, 2))
        for number in range(-2, rounds):
            for arm in (0, 1) if number % 2 else (1, 0):
                costs[number, arm] = between_ns(**loops[arm])
        facts = {"batch": batch, "vocabulary": words, "end": eos is not None}
        rows.append(_row(costs, facts))
    return rows


def _row(costs: np.ndarray, facts: dict[str, Any]) -> dict[str, Any]:
    """A line of the result from costs [rounds, (generate, fast.decode)] in ns."""
    change = stats.paired_changes(costs)[1]
    generate, ours = np.median(costs, axis=0) / 1e3
    low, high = (None if end is None else 1 + end for end in (change.ci_low, change.ci_high))
    ratio = None if change.estimate is None else 1 + change.estimate
    print(f"{facts}  {ours:.1f} us over {generate:.1f} us = {ratio} [{low}, {high}]  wanted <= {REACH}", flush=True)
    return {
        **facts, "ours_us": ours, "generate_us": generate, "ratio": ratio, "ratio_low": low, "ratio_high": high,
        "reach": REACH, "rounds": len(costs),
    }  # fmt: skip


def main() -> None:
    """Run, print, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--date", required=True, help="written into the result, such as 2026-01-31")
    parser.add_argument("--quick", action="store_true", help="few rounds, and nothing is written")
    options = parser.parse_args()
    torch.set_num_threads(1)
    gc.disable()
    results = outside_the_forward(9 if options.quick else 30)
    if not options.quick:
        versions = {name: version(name) for name in ("torch", "transformers", "numpy")}
        found = {"date": options.date, "machine": identity(describe()), "versions": versions, "results": results}
        RESULT.write_text(json.dumps(found, indent=1, default=float) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
