"""What attention over unused slots costs a step of `fast.decode` in fixed places: just enough slots, and more of them.

A step reads all slots whatever they hold. Whole calls, in one process, taking turns (`perstep.compare`); a Llama of
four layers of hidden size 256, on one thread of a CPU, where the step function runs without a graph:

    python -P benchmarks/slots.py --date 2026-01-31          # about two minutes
    python -P benchmarks/slots.py --date 2026-01-31 --quick  # to see that it runs
"""

import argparse
import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import transformers

import perstep
from perstep import fast
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
    loops = {(PROMPT + NEW) * times: fast.Decode(captured=True, slots=(PROMPT + NEW) * times) for times in TIMES}

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
    arms = {str(slots): lambda loop=loop: call(loop) for slots, loop in loops.items()}  # type: ignore[misc]
    found = perstep.compare(arms, reference=str(PROMPT + NEW), rounds=rounds)
    reference = found[str(PROMPT + NEW)].processor.ns / NEW
    return {
        "batch": batch, "positions": PROMPT + NEW, "rounds": found.rounds, "busy": found.busy,
        "ns_per_token": reference,
        "over_just_enough": {
            slots: [1 + one for one in (change.change, change.ci_low, change.ci_high) if one is not None]
            for slots, change in ((name, arm.processor) for name, arm in found.arms.items())
            if slots != str(PROMPT + NEW)
        },
    }  # fmt: skip


def main() -> None:
    """Measure, print, and unless it is only a trial write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--date", required=True, help="of today, as in 2026-01-31")
    parser.add_argument("--quick", action="store_true", help="a few rounds, nothing written")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measured(batch, 2 if given.quick else 20) for batch in (1, 8)]
    for row in rows:
        for slots, ratio in row["over_just_enough"].items():
            print(f"batch {row['batch']}: {slots} slots for {row['positions']} positions: {ratio[0]:.3f} {ratio[1:]}")
    if not given.quick:
        about = {"date": given.date, "torch": version("torch"), "machine": identity(describe()), "rows": rows}
        RESULT.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
