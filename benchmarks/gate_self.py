"""What perstep itself costs, against a committed baseline of ratios (`make gate-self`).

Each cost is a ratio to something that perstep does not influence, timed in turns with it by `perstep.compare`: a mark
to two readings of the clock, a watched step to the same step unwatched, `import perstep` to a Python that does nothing,
a `TokenMask` step to a copy of the row it masks. Ratios carry over from run to run where times do not: identical runs
differ by up to 1.7 times. They do not carry over to another processor, on which nothing is judged. Copies of one
function differ by 3 to 14 % between processes, by where their code lies, so every ratio is taken in five new processes.
A cost has risen if the smallest of the five lies more than 10 % above the largest of the baseline's five. Where a
machine is too busy for a verdict, a cost is `not resolved`, never passed.

    OMP_NUM_THREADS=1 python -P benchmarks/gate_self.py             compare with results/gate_self.json; 1 if one rose
    OMP_NUM_THREADS=1 python -P benchmarks/gate_self.py --update    make the baseline
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import msgspec

import perstep
from perstep.machine import describe

RESULT = Path(__file__).parent / "results" / "gate_self.json"
PROCESSES = 5
TRIES = 3  # a burst of another guest leaves a process without an interval: 4 of 30 on an idle machine
LIMIT = 0.10
MARKS = 200
VOCABULARY, STEPS = 131_072, 16
Pair = tuple[Callable[[], Any], Callable[[], Any]]


def mark() -> Pair:
    """`Recorder.mark`, against two readings of the clock and what keeps them."""
    from perstep.measure import HostClock, Recorder

    recorder = Recorder(HostClock())

    def readings() -> None:
        kept: list[int] = []
        for _ in range(MARKS):
            perf_counter_ns()
            kept.append(perf_counter_ns())

    def marks() -> None:
        recorder.begin()
        for _ in range(MARKS):
            recorder.mark("part")
        recorder.end()
        recorder.clear()

    return readings, marks


def watched(detail: str) -> Pair:
    """A generate call of 16 tokens with marks in every step, against the same call without."""
    import torch
    import transformers

    from perstep.measure import HostClock, Recorder
    from perstep.targets.transformers import Instrument

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=320, hidden_size=256, intermediate_size=688, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=4, pad_token_id=0, eos_token_id=None,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    ids = torch.arange(3, 19).reshape(1, 16)
    recorder = Recorder(HostClock())

    def call(observer: Callable[[], AbstractContextManager[Any]]) -> None:
        with observer():
            model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, do_sample=False)
        recorder.clear()

    return partial(call, nullcontext), partial(call, partial(Instrument, model, recorder, detail))


def process(*words: str) -> Pair:
    """A new Python with these words, against one that does nothing."""

    def start(*arguments: str) -> None:
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)

    return partial(start, "-c", "pass"), partial(start, *words)


def token_mask() -> Pair:
    """The steps of a `TokenMask` at 131,072 tokens, against as many copies of a row of logits."""
    import torch

    from perstep import automata, fast

    vocab = automata.Vocabulary(
        [bytes([i]) if i < 256 else str(i).encode() for i in range(VOCABULARY)], eos_ids=[VOCABULARY - 1]
    )
    mask = fast.TokenMask(automata.compile(automata.from_regex("[0-9]{1,30}"), vocab))
    ids, scores = torch.full((1, 5 + STEPS), ord("7")), torch.zeros(1, VOCABULARY)

    def copies() -> None:
        for _ in range(STEPS):
            scores.clone()

    def masks() -> None:
        for step in range(STEPS):
            mask(ids[:, : 5 + step], scores)

    return copies, masks


COSTS: Mapping[str, Callable[[], Pair]] = {
    "mark": mark,
    "phases": partial(watched, "phases"),
    "modules": partial(watched, "modules"),
    "import perstep": partial(process, "-c", "import perstep"),
    "perstep --help": partial(process, "-m", "perstep", "--help"),
    "TokenMask step": token_mask,
}


BUDGET_S = {"phases": 12.0, "modules": 12.0, "import perstep": 18.0, "perstep --help": 18.0}
"""Seconds for what is slow: a call of 16 tokens takes 40 ms and a start 0.1 to 0.6 s; 3 s hold too few rounds."""


def once(name: str, budget_s: float) -> dict[str, Any]:
    """One cost in this process: the ratio, or why there is none."""
    budget_s = max(budget_s, BUDGET_S.get(name, 0.0))
    reference, costs = COSTS[name]()
    found = perstep.compare({"reference": reference, "cost": costs}, budget_s=budget_s)["cost"].wall
    ratio = None if found.change is None or found.ci_low is None else 1 + found.change
    return {"ratio": ratio, "verdict": found.verdict}


def measured(budget_s: float) -> dict[str, list[dict[str, Any]]]:
    """Every cost in every process; processes take turns over the costs, so that a slow minute meets all of them."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in COSTS}
    for number in range(PROCESSES):
        for name in COSTS:
            print(f"\rprocess {number + 1} of {PROCESSES}: {name:<20}", end="", file=sys.stderr, flush=True)
            command = [sys.executable, "-P", __file__, "--once", name, "--budget", str(budget_s)]
            for _ in range(TRIES):
                said = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
                if said["ratio"] is not None:
                    break
            found[name].append(said)
    print(file=sys.stderr)
    return found


def judged(baseline: list[float], now: list[float | None]) -> str:
    """`risen`, `not risen`, or `not resolved`."""
    known = [ratio for ratio in now if ratio is not None]
    if len(known) < PROCESSES:
        return f"not resolved ({PROCESSES - len(known)} of {PROCESSES} processes without an interval)"
    return "risen" if min(known) > max(baseline) * (1 + LIMIT) else "not risen"


def store(ratios: dict[str, list[float | None]], processor: str) -> bool:
    """Write the baseline; False if the machine was too busy for one."""
    without = [name for name, each in ratios.items() if None in each]
    if without:
        print(f"no interval for {', '.join(without)}: was the machine busy? nothing was written", file=sys.stderr)
        return False
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": processor,
        "machine": msgspec.to_builtins(describe()),
        "ratios": ratios,
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return True


def compared(baseline: dict[str, Any], ratios: dict[str, list[float | None]], processor: str) -> dict[str, str]:
    """The verdict on each cost."""
    if baseline["processor"] != processor:
        return dict.fromkeys(ratios, f"not judged (the baseline is of {baseline['processor']})")
    return {name: judged(baseline["ratios"][name], now) for name, now in ratios.items()}


def main() -> int:
    """1 if a cost has risen."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--update", action="store_true", help="make the baseline")
    parser.add_argument("--once", choices=COSTS, help=argparse.SUPPRESS)
    parser.add_argument("--budget", type=float, default=3.0, help="seconds a cost and process, at least")
    options = parser.parse_args()
    if options.once:
        print(json.dumps(once(options.once, options.budget)))
        return 0
    ratios = {name: [one["ratio"] for one in each] for name, each in measured(options.budget).items()}
    processor = describe().cpu.model
    if options.update and not store(ratios, processor):
        return 2
    if not RESULT.exists():
        print("there is no baseline yet; --update makes one on a machine that does nothing else", file=sys.stderr)
        return 2
    baseline = json.loads(RESULT.read_text(encoding="utf-8"))
    verdicts = compared(baseline, ratios, processor)
    print(f"{'cost':<16} {'baseline':>17} {'now':>17}  verdict")
    for name, verdict in verdicts.items():
        now = [ratio for ratio in ratios[name] if ratio is not None]
        spans = [f"{min(each):.3g} to {max(each):.3g}" if each else "–" for each in (baseline["ratios"][name], now)]
        print(f"{name:<16} {spans[0]:>17} {spans[1]:>17}  {verdict}")
    return int("risen" in verdicts.values())


if __name__ == "__main__":
    sys.exit(main())
