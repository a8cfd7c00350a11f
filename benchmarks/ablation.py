"""Whether planted costs come back: a processor that spins 1 ms and a criterion that spins 0.5 ms, on the real clock.

`perstep.ablate` on a small Llama, alone and with other parts in the lists, for long calls and for short ones. Beside
what is found by taking away and in place stands the obvious way: calls timed one after the other, with all parts and
without one, each generating freely.

transformers itself spends time on a part before it calls it: it reads each processor's signature, 9 µs in a loop of
its own, but 15 to 45 µs behind a forward that has filled the caches. That time goes away with the part, so it is in
what perstep finds, and not in what is planted. Idle parts, ablated in the same way, show it; the error in place is that
of what is found beyond them. Writes results/ablation.json.

    python -P benchmarks/ablation.py --date 2026-01-31        # about four minutes
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import perstep
from perstep.machine import describe
from perstep.stats import Effect

RESULT = Path(__file__).parent / "results" / "ablation.json"
PLANTED_NS = {"utf8": 1_000_000, "word": 500_000}
VOCAB = 320
ROWS = 2
NONE_ENDED = torch.zeros(ROWS, dtype=torch.bool)


def spin(until_ns: int) -> None:
    """Do nothing until then."""
    while time.perf_counter_ns() < until_ns:
        pass


class Idle:
    """A processor that does nothing."""

    takes_ns = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """The scores as they are."""
        spin(time.perf_counter_ns() + self.takes_ns)
        return scores


class Processor(Idle):
    """A processor that does nothing for 1 ms."""

    takes_ns = PLANTED_NS["utf8"]


class IdleCriterion:
    """A criterion that ends no row."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:  # noqa: ARG002
        """Whether each row has ended, bool [B]."""
        return NONE_ENDED


class Criterion:
    """A criterion that takes 0.5 ms to end a row at one token in twenty."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:  # noqa: ARG002
        """Whether each row has ended, bool [B]."""
        until_ns = time.perf_counter_ns() + PLANTED_NS["word"]
        ended = input_ids[:, -1] % 20 == 0
        spin(until_ns)
        return ended


def build() -> LlamaForCausalLM:
    """Four layers, hidden 256."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=256, intermediate_size=688, num_hidden_layers=4, num_attention_heads=8,
        num_key_value_heads=8, bos_token_id=None, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def error(found: Effect, planted_ns: int, idle_ns: float = 0.0) -> dict[str, float | None]:
    """How far a found cost, beyond that of an idle part, is from the planted one, as a share of it."""
    ends = (found.estimate, found.ci_low, found.ci_high)
    relative = [None if end is None else (end - idle_ns) / planted_ns - 1 for end in ends]
    return dict(zip(("error", "low", "high"), relative, strict=True))


def one_after_the_other(model: LlamaForCausalLM, ids: torch.Tensor, tokens: int, options: dict[str, Any]) -> dict:
    """The obvious way: seven calls each, their medians subtracted, over the tokens that were asked for."""

    def call(processors: list[Any], criteria: list[Any]) -> float:
        took = []
        for _ in range(7):
            begun = time.perf_counter_ns()
            model.generate(
                ids, max_new_tokens=tokens, logits_processor=processors, stopping_criteria=criteria, **options
            )
            took.append(time.perf_counter_ns() - begun)
        return median(took) / tokens

    whole = call([Processor()], [Criterion()])
    found = {"utf8": whole - call([], [Criterion()]), "word": whole - call([Processor()], [])}
    return {name: ns / PLANTED_NS[name] - 1 for name, ns in found.items()}


def measure(model: LlamaForCausalLM, tokens: int, options: dict[str, Any], budget_s: float) -> dict[str, Any]:
    """One row of the table."""
    ids = torch.arange(3, 19).reshape(ROWS, 8)

    def ablate(processor: Callable[[], Any], criterion: Callable[[], Any], budget_s: float) -> Any:
        parts: dict[str, Any] = {"logits_processor": {"utf8": processor}, "stopping_criteria": {"word": criterion}}
        return perstep.ablate(model, ids, max_new_tokens=tokens, budget_s=budget_s, **parts, **options)

    found = ablate(Processor, Criterion, budget_s)
    idle_ns = {name: part.estimate for name, part in ablate(Idle, IdleCriterion, budget_s / 4).in_place.items()}
    effects = found.findings.effects
    return {
        "new_tokens": tokens,
        "generate": options,
        "rounds": effects.rounds,
        "step_ns": effects.cells["all"].ns_per_step,
        "taken_away": {n: error(effects.parts[n].leave_one_out, ns) for n, ns in PLANTED_NS.items()},
        "in_place": {n: error(found.in_place[n], ns, idle_ns[n]) for n, ns in PLANTED_NS.items()},
        "in_place_with_the_call": {n: error(found.in_place[n], ns) for n, ns in PLANTED_NS.items()},
        "idle_in_place_ns": idle_ns,
        "one_after_the_other": one_after_the_other(model, ids, tokens, options),
        "agrees": {n: part.agrees for n, part in found.findings.parts.items()},
        "disturbed_rounds": found.findings.noise.rounds_hit,
    }


def main() -> None:
    """Measure every row and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--date", required=True, help="of the measurement, for the result file")
    parser.add_argument("--budget", type=float, default=40.0, help="seconds a row")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    model = build()
    greedy = {"do_sample": False}
    drawn = {"do_sample": True, "temperature": 0.8, "top_k": 50, "top_p": 0.9, "repetition_penalty": 1.1}
    rows = []
    for tokens, options in ((8, greedy), (32, greedy), (32, drawn), (96, greedy)):
        rows.append(measure(model, tokens, options, asked.budget))
        print(json.dumps(rows[-1]), flush=True)
    result = {
        "date": asked.date,
        "planted_ns": PLANTED_NS,
        "cpu": describe().cpu.model,
        "torch": torch.__version__,
        "errors": "found over planted minus 1, with 95 % intervals; in place: beyond what an idle part takes there",
        "rows": rows,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
