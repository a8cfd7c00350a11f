"""What attention over unused slots costs a step of `fast.decode` in fixed places: just enough slots, and more of them.

A step reads all slots whatever they hold. Processor time of whole calls, in one process, taking turns; a
Llama of four layers of hidden size 256, on one thread of a CPU, where the step function runs without a graph:

    python -P benchmarks/slots.py --date 2026-01-31          # about four minutes
    python -P benchmarks/slots.py --date 2026-01-31 --quick  # to see that it runs
"""

import argparse
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

RESULT = Path(__file__).parent / "results" / "slots.json"
PROMPT, NEW = 64, 65
"""One position more than 128: the next power of two is nearly twice as many."""
TIMES = (1, 2, 4, 8)


def measured(batch: int, rounds: int) -> dict[str, Any]:
    """The processor time of a call with more slots over one with just enough, by their number; the same tokens."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=2000, hidden_size=256, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, eos_token_id=None, pad_token_id=0, max_position_embeddings=4096,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    ids = torch.randint(3, 2000, (batch, PROMPT), generator=torch.Generator().manual_seed(0))
    positions = PROMPT + NEW
    loops = {positions * times: fast.Decode(captured=True, slots=positions * times) for times in TIMES}

    def call(loop: Any) -> Any:
        return model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=NEW, custom_generate=loop
        )

    texts = [call(loop) for loop in loops.values()]
    if not all(torch.equal(text, texts[0]) for text in texts):
        raise RuntimeError("the number of slots changes the text")
    for loop in loops.values():
        if loop.last.way != "captured":
            raise RuntimeError(f"not captured: {loop.last.why}")
    costs = np.zeros((rounds, len(loops)))
    for number in range(rounds):
        for arm in range(len(loops))[:: 1 if number % 2 else -1]:
            began = time.process_time_ns()
            call(loops[positions * TIMES[arm]])
            costs[number, arm] = time.process_time_ns() - began
    over = {}
    for arm, change in stats.paired_changes(costs).items():
        ends = (change.estimate, change.ci_low, change.ci_high)
        over[positions * TIMES[arm]] = [None if end is None else 1 + end for end in ends]
    per_token = float(np.median(costs[:, 0])) / NEW
    facts = {"batch": batch, "positions": positions, "rounds": rounds, "ns_per_token": per_token}
    print(facts, over, flush=True)
    return {**facts, "over_just_enough": over}


def main() -> None:
    """Measure, print, and unless it is only a trial write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--date", required=True, help="of today, as in 2026-01-31")
    parser.add_argument("--quick", action="store_true", help="a few rounds, nothing written")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measured(batch, 2 if given.quick else 24) for batch in (1, 8)]
    if not given.quick:
        about = {"date": given.date, "torch": version("torch"), "machine": identity(describe()), "rows": rows}
        RESULT.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
