"""Whether the formulas of `perstep.theory` count what torch counts, on architectures of real size.

Every architecture that can be asked for by name, and every family with the sizes transformers gives it by default,
is built on the meta device (no memory, no arithmetic) and run under torch's own counter: a prefill, a decode step
behind it, and a decode step on a static cache. Parameters and cache bytes are compared as well. Nothing is timed.
Prints a table, writes results/flops_vs_torch.json, and exits with 1 where a count differs.

    OMP_NUM_THREADS=1 python -P benchmarks/flops_vs_torch.py [--tokens 64] [--batch 2]
"""

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from perstep.targets.transformers.presets import presets
from perstep.theory import IDEAL, Step, kv_bytes, parameters, read_config, step_cost
from perstep.theory.families import FAMILIES

RESULT = Path(__file__).parent / "results" / "flops_vs_torch.json"
EAGER = replace(IDEAL, name="eager", computes_masked=True)
STATIC = replace(EAGER, name="eager, static cache", attends_capacity=True)


def architectures() -> dict[str, Any]:
    """Name -> configuration: the presets that are text decoders, then one of each family."""
    found = {}
    for name, preset in presets().items():
        settings = dict(preset["config"])
        if settings["model_type"] in FAMILIES:
            found[name] = transformers.AutoConfig.for_model(settings.pop("model_type"), **settings)
    special = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    for family in FAMILIES:
        config = transformers.AutoConfig.for_model(family, **special)
        if (
            type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING and family != "ministral"
        ):  # its default does not build
            found[f"{family} (default sizes)"] = config
    return found


def build(config: Any) -> Any:
    """On the meta device, with attention and experts as products that the counter sees."""
    options = {"experts_implementation": "batched_mm"} if hasattr(config, "num_experts_per_tok") else {}
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager", **options).eval()


def counted(model: Any, cache: Any, batch: int, new: int) -> int:
    """The FLOPs of one forward by torch's counter."""
    ids = torch.ones(batch, new, dtype=torch.long, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(ids, past_key_values=cache)
    return int(counter.get_total_flops())


def compare(name: str, config: Any, tokens: int, batch: int) -> dict[str, Any]:
    """One row: each quantity by formula and by count."""
    model, shape = build(config), read_config(config.to_dict())
    cache = transformers.DynamicCache(config=config)
    room = 2 * tokens
    rows = {"parameters": (parameters(shape).total, sum(one.numel() for one in model.parameters()))}
    for label, new, past in (("prefill_flops", tokens, 0), ("decode_flops", 1, tokens)):
        cost = step_cost(shape, Step(new, past, batch, all_logits=True), backend=EAGER)
        rows[label] = (cost.total.matmul_flops, counted(model, cache, batch, new))
    live = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    rows["kv_bytes"] = (kv_bytes(shape, tokens + 1, batch=batch).used, live)
    static = transformers.StaticCache(config=config, max_cache_len=room)
    cost = step_cost(shape, Step(tokens, 0, batch, all_logits=True, capacity=room), backend=STATIC)
    rows["static_prefill_flops"] = (cost.total.matmul_flops, counted(model, static, batch, tokens))
    return {"architecture": name} | {
        f"{label}_{source}": value
        for label, pair in rows.items()
        for source, value in zip(("theory", "torch"), pair, strict=True)
    }


def main() -> int:
    """Compare all, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()

    rows, labels = [], ("parameters", "prefill_flops", "decode_flops", "static_prefill_flops", "kv_bytes")
    print(f"{'architecture':<30}{'parameters':>16}{'prefill GFLOP':>15}{'decode GFLOP':>14}  equal")
    for name, config in architectures().items():
        row = compare(name, config, options.tokens, options.batch)
        row["equal"] = [label for label in labels if row[f"{label}_theory"] == row[f"{label}_torch"]]
        rows.append(row)
        prefill, decode = row["prefill_flops_theory"] / 1e9, row["decode_flops_theory"] / 1e9
        equal = "all" if len(row["equal"]) == len(labels) else f"only {', '.join(row['equal'])}"
        print(f"{name:<30}{row['parameters_theory']:>16,}{prefill:>15.3f}{decode:>14.3f}  {equal}")
    result = {
        "schema_version": 1,
        "tokens": options.tokens,
        "batch": options.batch,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "rows": rows,
    }
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    different = [row["architecture"] for row in rows if len(row["equal"]) < len(labels)]
    print(f"{len(rows) - len(different)} of {len(rows)} architectures equal in every count")
    return int(bool(different))


if __name__ == "__main__":
    sys.exit(main())
