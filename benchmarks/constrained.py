"""Is a constrained step cheaper than an unconstrained one? Whole generate calls, per emitted token, interleaved.

The smollm2-135m shape with random weights and a head of 131,072 tokens, the real vocabulary of mistral-common, the
conjugation schema, greedy, batch 1, one thread. Every round visits every arm once, in turning order, on one prompt,
and prompts turn from round to round; ratios are paired inside rounds (`perstep.stats`). Arms without a mask emit as
many tokens as the text under it has. All masked arms must give the very same tokens; engines that cut forced text into
other tokens give other tokens and are compared per emitted token, as is said beside them. Then what lies between two
forwards, on a model of four layers, and `mini` on NumPy. From the repository, on a machine that does nothing else:

    python -P benchmarks/constrained.py --date 2026-01-31              # about eight minutes
    python -P benchmarks/constrained.py --date 2026-01-31 --quick      # to see that it runs
"""

import argparse
import functools
import gc
import json
import os
import time
from collections.abc import Callable
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import mistral_common
import numpy as np
import torch
from mistral_common.tokens.tokenizers.tekken import Tekkenizer
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, LogitsProcessor

from perstep import automata, fast, stats
from perstep.automata import available, prepare
from perstep.machine import describe, identity
from perstep.targets import BUILT_IN, open_model
from perstep.targets import transformers as adapter
from perstep.targets.reference.generate import generate
from perstep.targets.reference.model import decode_one_token, prefill
from perstep.targets.reference.sample import GREEDY, sample

RESULT = Path(__file__).parent / "results" / "constrained.json"
PROMPT_TOKENS = 64
LIMIT = 200
WANTED = {"smollm2": 0.70, "between": 0.25, "mini": 1.0}
Arm = Callable[[], tuple[float, int]]
"""One call: what it took in µs, and the tokens it emitted."""


class LlguidanceMask(LogitsProcessor):
    """llguidance as its users put it into transformers: fill a bit mask on the host, apply it with its own kernel."""

    def __init__(self, vocabulary: automata.Vocabulary, schema: dict[str, Any]) -> None:
        self.engine = prepare("llguidance", vocabulary).build(automata.Grammar(schema))
        self.length = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """One row, greedy."""
        from llguidance.torch import apply_token_bitmask_inplace

        if input_ids.shape[1] == self.length + 1:
            self.engine.accept(input_ids[0, -1].item())
        else:
            self.engine.reset()
        self.length = input_ids.shape[1]
        bits = torch.from_numpy(np.array(self.engine.fill()))[None]
        scores = scores.clone()
        apply_token_bitmask_inplace(scores, bits)
        return scores


def measure(arms: dict[str, Arm], rounds: int) -> np.ndarray:
    """Microseconds per emitted token, [rounds, arms]; the order turns; one round before is not counted."""
    names = list(arms)
    costs = np.zeros((rounds, len(names)))
    for number in range(-1, rounds):
        for place in range(len(names)):
            column = (place + number) % len(names)
            gc.collect()
            taken_us, emitted = arms[names[column]]()
            costs[max(number, 0), column] = taken_us / emitted
    return costs


def as_rows(costs: np.ndarray, names: list[str], reference: str) -> list[dict[str, Any]]:
    """One line an arm: its median, and its ratio to the reference with an interval (Bonferroni over the arms)."""
    changes = stats.paired_changes(costs, reference=names.index(reference))
    rows = []
    for column, name in enumerate(names):
        change = changes.get(column)
        rows.append(
            {
                "arm": name,
                "us_per_token": float(np.median(costs[:, column])),
                "ratio": None if change is None or change.estimate is None else 1 + change.estimate,
                "ratio_low": None if change is None or change.ci_low is None else 1 + change.ci_low,
                "ratio_high": None if change is None or change.ci_high is None else 1 + change.ci_high,
                "reference": reference,
                "rounds": len(costs),
            }
        )
        print(f"  {name:34} {rows[-1]['us_per_token']:10.1f} µs/token   {_ratio(rows[-1])}")
    return rows


def _ratio(row: dict[str, Any]) -> str:
    if row["ratio"] is None:
        return ""
    low, high = row["ratio_low"], row["ratio_high"]
    return f"{row['ratio']:.3f}" + ("" if low is None else f" [{low:.3f}, {high:.3f}]")


def smollm2(rounds: int, num_prompts: int, engines: list[str]) -> dict[str, Any]:
    """Whole calls under the conjugation schema, against calls without a mask."""
    data = Path(mistral_common.__file__).parent / "data" / "tekken_240911.json"
    vocabulary = automata.Vocabulary.from_tekken(Tekkenizer.from_file(data))
    schema = json.loads((files("perstep") / "data" / "conjugation_schema.json").read_text())
    table = automata.compile(automata.json_schema(schema), vocabulary)
    model = adapter.build("smollm2-135m", vocab=vocabulary.size)
    model.generation_config.pad_token_id = vocabulary.eos_ids[0]
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(2_000, 130_000, (num_prompts, 1, PROMPT_TOKENS), generator=generator)
    mask = fast.TokenMask(table)

    def call(ids: torch.Tensor, **options: Any) -> tuple[float, torch.Tensor]:
        everything = torch.ones_like(ids)
        start = time.perf_counter_ns()
        found = model.generate(ids, attention_mask=everything, do_sample=False, **options)
        return (time.perf_counter_ns() - start) / 1e3, found[:, PROMPT_TOKENS:]

    def constrained(ids: torch.Tensor, processor: Any, **options: Any) -> tuple[float, torch.Tensor]:
        return call(
            ids, max_new_tokens=LIMIT, eos_token_id=list(vocabulary.eos_ids), logits_processor=[processor], **options
        )

    texts = [constrained(ids, mask)[1] for ids in prompts]
    reports = []
    for ids, text in zip(prompts, texts, strict=True):
        ours = constrained(ids, mask, custom_generate=fast.decode)[1]
        reports.append(vars(fast.decode.last).copy())
        if not torch.equal(ours, text):
            raise SystemExit("fast.decode gives other tokens than the mask in generate")
    turn = [0]

    def free(**options: Any) -> Arm:
        def arm() -> tuple[float, int]:
            number = turn[0] % len(prompts)
            count = texts[number].shape[1]
            return call(prompts[number], max_new_tokens=count, eos_token_id=None, **options)[0], count

        return arm

    def masked(processor: Any, *, same: bool = True, **options: Any) -> Arm:
        def arm() -> tuple[float, int]:
            number = turn[0] % len(prompts)
            taken_us, found = constrained(prompts[number], processor, **options)
            if same and not torch.equal(found, texts[number]):
                raise SystemExit("a masked arm gave other tokens")
            return taken_us, found.shape[1]

        return arm

    def last(arm: Arm) -> Arm:
        def counted() -> tuple[float, int]:
            result = arm()
            seen[0] += 1
            turn[0] += seen[0] % len(arms) == 0
            return result

        return counted

    seen = [0]
    arms: dict[str, Arm] = {
        "generate": free(),
        "generate, fast.decode": free(custom_generate=fast.decode),
        "TokenMask": masked(mask),
        "TokenMask, fast.decode": masked(mask, custom_generate=fast.decode),
    }
    if "llguidance" in engines:
        arms["llguidance in generate"] = masked(LlguidanceMask(vocabulary, schema), same=False)
    if "xgrammar" in engines:
        arms["xgrammar.contrib.hf"] = _xgrammar(vocabulary, schema, constrained, prompts, turn)
    arms = {name: last(arm) for name, arm in arms.items()}
    counts = [table.row(table.run(text[0, :at].tolist())).count for text in texts for at in range(text.shape[1])]
    print(f"smollm2-135m shape, {vocabulary.size:,} tokens, texts of {[text.shape[1] for text in texts]} tokens")
    rows = as_rows(measure(arms, rounds), list(arms), "generate")
    return {
        "rows": rows,
        "texts": [b"".join(vocabulary.tokens[token] or b"" for token in text[0].tolist()).decode() for text in texts],
        "tokens": [text.shape[1] for text in texts],
        "allowed": {"median": float(np.median(counts)), "share_one": np.mean(np.array(counts) == 1).item(),
                    "share_above_a_quarter": np.mean(np.array(counts) > vocabulary.size / 4).item()},
        "reports": reports,
        "left_out": [name for name in ("xgrammar", "llguidance") if name not in engines],
        "wanted": WANTED["smollm2"],
    }  # fmt: skip


def _xgrammar(
    vocabulary: automata.Vocabulary, schema: dict[str, Any], constrained: Any, prompts: Any, turn: list[int]
) -> Arm:
    """The transformers processor that xgrammar brings; one object a call, as it asks for, made outside the clock."""
    import xgrammar
    from xgrammar.contrib.hf import LogitsProcessor as Processor

    tokens = [token or b"" for token in vocabulary.tokens]
    info = xgrammar.TokenizerInfo(tokens, xgrammar.VocabType.RAW, stop_token_ids=list(vocabulary.eos_ids))
    grammar = xgrammar.GrammarCompiler(info).compile_json_schema(json.dumps(schema), any_whitespace=False)

    def arm() -> tuple[float, int]:
        taken_us, found = constrained(prompts[turn[0] % len(prompts)], Processor(grammar))
        return taken_us, found.shape[1]

    return arm


def between_forwards(rounds: int) -> dict[str, Any]:
    """What a step does between one forward's end and the next one's beginning, four layers of 256."""
    shape = {"vocab_size": 32_000, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4}
    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", num_attention_heads=4, num_key_value_heads=2, eos_token_id=None, **shape)
    model = AutoModelForCausalLM.from_config(config).eval()
    forward, edges = model.forward, []

    @functools.wraps(forward)  # generate reads its signature
    def timed(*args: Any, **kwargs: Any) -> Any:
        edges.append(time.perf_counter_ns())
        result = forward(*args, **kwargs)
        edges.append(time.perf_counter_ns())
        return result

    model.forward = timed

    def arm(padded: bool, **options: Any) -> Arm:
        ids = torch.randint(3, 32_000, (4 if padded else 1, 16), generator=torch.Generator().manual_seed(1))
        mask = torch.ones_like(ids)
        if padded:
            mask[0, :5] = 0

        def once() -> tuple[float, int]:
            edges.clear()
            model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=64, pad_token_id=0, **options)
            gaps = np.array(edges[4::2]) - np.array(edges[3:-1:2])  # not the first, behind the prefill
            return float(gaps.sum()) / 1e3, len(gaps)

        return once

    found = {}
    for name, padded in (("batch 1", False), ("batch 4, padded", True)):
        arms = {"generate": arm(padded), "fast.decode": arm(padded, custom_generate=fast.decode)}
        print(f"between forwards, {name}")
        found[name] = as_rows(measure(arms, rounds), list(arms), "generate")
    return {"rows": found, "wanted": WANTED["between"]}


def mini(rounds: int) -> dict[str, Any]:
    """The built-in model on NumPy: unconstrained, all logits masked, and the allowed rows of the head alone."""
    model = open_model(BUILT_IN).model
    vocabulary = automata.Vocabulary.from_tokenizer(
        Tokenizer.from_file(str(files("perstep") / "data" / "mini" / "tokenizer.json")),
        size=model.config.vocab,
        eos_ids=model.config.eos_ids,
    )
    schema = json.loads((files("perstep") / "data" / "conjugation_schema.json").read_text())
    table = automata.compile(automata.json_schema(schema), vocabulary)
    rng = np.random.default_rng(0)
    prompts = rng.integers(10, 500, (8, 1, PROMPT_TOKENS))
    texts = [fast.generate_masked(model, prompt, LIMIT, table) for prompt in prompts]
    turn, seen = [0], [0]

    def mask_everything(prompt: Any, limit: int) -> Any:
        cache = model.new_cache(1, PROMPT_TOKENS + limit)
        state, logits, found = table.start, prefill(model, prompt, cache), []
        while state != table.ended and len(found) < limit:
            automata.apply(logits, table.row(state))
            token = sample(logits, GREEDY, PROMPT_TOKENS + len(found))
            found.append(token)
            state = table.next(state, int(token[0]))
            if state != table.ended:
                logits = decode_one_token(model, token, cache)
        return np.stack(found, axis=1)

    def arm(work: Callable[[int], Any], *, same: bool) -> Arm:
        def once() -> tuple[float, int]:
            number = turn[0] % len(prompts)
            start = time.perf_counter_ns()
            ids = work(number)
            taken_us = (time.perf_counter_ns() - start) / 1e3
            if same and ids.tolist() != texts[number].ids.tolist():
                raise SystemExit("a masked arm of mini gave other tokens")
            seen[0] += 1
            turn[0] += seen[0] % 3 == 0
            return taken_us, ids.shape[1]

        return once

    arms = {
        "generate": arm(lambda n: generate(model, prompts[n], texts[n].ids.shape[1], eos_ids=()), same=False),
        "all logits masked": arm(lambda n: mask_everything(prompts[n], LIMIT), same=True),
        "generate_masked": arm(lambda n: fast.generate_masked(model, prompts[n], LIMIT, table).ids, same=True),
    }
    print("mini, on NumPy")
    rows = as_rows(measure(arms, rounds), list(arms), "generate")
    forwards = [text.forwards for text in texts]
    return {"rows": rows, "tokens": [t.ids.shape[1] for t in texts], "forwards": forwards, "wanted": WANTED["mini"]}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--date", required=True, help="of the run, for the result file")
    parser.add_argument("--quick", action="store_true", help="a look, not a result; nothing is written")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    engines = [name for name in ("llguidance", "xgrammar") if name in available()]
    load_before = os.getloadavg()[0]
    gc.disable()
    result = {
        "schema_version": 1,
        "date": options.date,
        "smollm2": smollm2(2, 2, engines) if options.quick else smollm2(24, 8, engines),
        "between_forwards": between_forwards(8 if options.quick else 40),
        "mini": mini(8 if options.quick else 60),
        "versions": {name: version(name) for name in ("torch", "transformers", "numpy")},
        "machine": identity(describe()),
        "load": [load_before, os.getloadavg()[0]],
    }
    gc.enable()
    if not options.quick:
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(f"written to {options.out}")


if __name__ == "__main__":
    main()
