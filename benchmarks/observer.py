"""What it costs to look: `perstep.watch` beside torch.profiler, pyinstrument and module hooks, on one decode loop.

A Llama of 4 layers and hidden size 256, at vocabularies of 320 and 32,000 tokens, runs the same greedy generate call
under every observer in turn, in balanced blocks (Williams squares) inside one process. The time of a call's decode
steps is taken in the same way everywhere, by one reading of the clock a step, and compared pairwise inside blocks with
the unwatched call. The two `marks` arms mark every step, which is what the overhead of a ledger is about; the two
`watch` arms are what a user has: marked and plain steps in turn, and the step of a first call in which syncs are
counted, here one of 66. Calls of 515 tokens, and loops written by hand of 67 and 515 steps, take turns with watched
ones. Of these there is also the typical step, the mean of the middle half, which holds no step that is counted in.
Beside it: how much of a step is in no part, and whether planted delays of 1 ms and 0.5 ms are found. Prints tables and
writes results/observer.json.

    OMP_NUM_THREADS=1 python -P benchmarks/observer.py --date 2026-11-22 [--quick] [--blocks 20] [--watched]
"""

import argparse
import contextlib
import functools
import gc
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyinstrument
import torch
import transformers
from torch.profiler import ProfilerActivity, profile

import perstep
from perstep.machine import describe
from perstep.measure import Recorder
from perstep.stats import balanced_block, paired_change
from perstep.targets.transformers import Detail, Instrument

RESULT = Path(__file__).parent / "results" / "observer.json"
VOCABULARIES = (320, 32_000)
NEW_TOKENS, LONG = 67, 515
DROPPED = 2  # decode steps at the beginning of each call, in the caches of another observer
REFERENCE = "unwatched"
TARGETS = {"marks, phases": 1.02, "marks, modules": 1.05}
TARGETS_LONG = {"call, watched": 1.02, "loop, watched": 1.02}
Steps = Any
"""The time of each decode step of a call, without the first ones."""
PLANTED_NS = {"logits/Spins": 1_000_000, "stop/Dawdles": 500_000}
now_ns = time.perf_counter_ns
Observer = Callable[[], AbstractContextManager[Any]]


def build(vocab: int) -> Any:
    """The Llama that is observed; its calls make as many steps as they are asked for."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=vocab,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        pad_token_id=0,
        eos_token_id=None,
    )
    return transformers.LlamaForCausalLM(config).eval()


def generate(model: Any, new_tokens: int = NEW_TOKENS, **options: Any) -> None:
    """The call that is observed."""
    ids = torch.arange(3, 19).reshape(1, 16)
    model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=False, **options)


@contextmanager
def step_ends(model: Any) -> Iterator[list[int]]:
    """One reading of the clock a step, taken where the loop asks whether to go on."""
    readings: list[int] = []
    asked = model._has_unfinished_sequences

    def stamped(*args: Any, **kwargs: Any) -> Any:
        readings.append(now_ns())
        return asked(*args, **kwargs)

    model._has_unfinished_sequences = stamped
    try:
        yield readings
    finally:
        del model._has_unfinished_sequences


@contextmanager
def module_hooks(model: Any) -> Iterator[None]:
    """A reading of the clock before and after every module."""
    readings: list[int] = []

    def before(_module: Any, _args: Any) -> None:
        readings.append(now_ns())

    def after(_module: Any, _args: Any, _output: Any) -> None:
        readings.append(now_ns())

    modules = list(model.modules())
    handles = [module.register_forward_pre_hook(before) for module in modules]
    handles += [module.register_forward_hook(after) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def torch_profiler() -> Iterator[None]:
    """Operators on the CPU, nothing else asked for."""
    with profile(activities=[ProfilerActivity.CPU]):
        yield


def observers(model: Any, residuals: dict[str, list[float]]) -> dict[str, Observer]:
    """The arms, the unwatched one first."""

    @contextmanager
    def marks(detail: Detail) -> Iterator[None]:
        recorder = Recorder()
        with Instrument(model, recorder, detail):
            yield
        steps = recorder.steps()
        residuals[detail].append(float(steps.residual_ns.sum() / steps.step_ns.sum()))

    return {
        REFERENCE: contextlib.nullcontext,
        "marks, phases": lambda: marks("phases"),
        "marks, modules": lambda: marks("modules"),
        "watch, phases": lambda: perstep.watch(model, "phases"),
        "watch, modules": lambda: perstep.watch(model, "modules"),
        "module hooks": lambda: module_hooks(model),
        "torch.profiler": torch_profiler,
        "pyinstrument": pyinstrument.Profiler,
    }


def decode_ns(model: Any, observer: Observer, new_tokens: int = NEW_TOKENS) -> Steps:
    """The decode steps of a call under an observer."""
    with step_ends(model) as readings, observer():
        generate(model, new_tokens)
    return np.diff(readings)[DROPPED:]


def loop_ns(model: Any, observer: Observer, new_tokens: int = NEW_TOKENS) -> Steps:
    """The decode steps of a loop written by hand under an observer."""
    ids, past = torch.arange(3, 19).reshape(1, 16), None
    readings: list[int] = []
    with observer(), torch.no_grad():
        for _ in range(new_tokens):
            out = model(input_ids=ids, past_key_values=past, use_cache=True)
            past = out.past_key_values
            ids = out.logits[:, -1].argmax(-1, keepdim=True)
            readings.append(now_ns())
    return np.diff(readings)[DROPPED:]


def typical(steps: Steps) -> float:
    """The mean of the middle half: no burst of the machine, and no step in which syncs are counted."""
    return float(np.sort(steps)[len(steps) // 4 : -(len(steps) // 4)].mean())


def inflation(vocab: int, blocks: int, seed: int) -> dict[str, Any]:
    """What each observer makes of the step: ratios to the unwatched call, paired inside blocks."""
    model = build(vocab)
    residuals: dict[str, list[float]] = {"phases": [], "modules": []}
    arms = observers(model, residuals)
    for observer in arms.values():  # warm every path
        decode_ns(model, observer)
    for held in residuals.values():
        held.clear()
    rows, _ = _compared(lambda observer: decode_ns(model, observer), arms, blocks, [seed, vocab], TARGETS)
    shares = {detail: float(np.median(held)) for detail, held in residuals.items()}
    return {"vocab": vocab, "blocks": blocks, "observers": rows, "residual_share": shares}


def inflation_of_watch(vocab: int, blocks: int, seed: int) -> list[dict[str, Any]]:
    """What `perstep.watch` makes of the step of calls and of loops written by hand, likewise, by their length."""
    model = build(vocab)
    found = []
    for number, (what, measure, steps) in enumerate(
        (("loop", loop_ns, NEW_TOKENS), ("loop", loop_ns, LONG), ("call", decode_ns, LONG))
    ):
        one = functools.partial(measure, model, new_tokens=steps)
        arms: dict[str, Observer] = {what: contextlib.nullcontext, f"{what}, watched": lambda: perstep.watch(model)}
        for observer in arms.values():
            one(observer)
        targets = TARGETS_LONG if steps == LONG else {}
        rows, of_typical = _compared(one, arms, blocks, [seed, vocab, number], targets)
        show(f"{what}s of {steps} steps, 4 layers, hidden 256, vocabulary {vocab:,}", rows)
        show("the same, by typical steps", of_typical)
        about = {"what": what, "steps": steps, "vocab": vocab, "blocks": blocks}
        found.append({**about, "observers": rows, "typical": of_typical})
    return found


def _compared(
    measure: Callable[[Observer], Steps],
    arms: dict[str, Observer],
    blocks: int,
    seed: list[int],
    targets: dict[str, float],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A row an arm, compared with the first one inside balanced blocks: by its mean steps, and by its typical ones."""
    names = list(arms)
    means, middles = np.zeros((blocks, len(names))), np.zeros((blocks, len(names)))
    for block in range(blocks):
        seen: dict[int, list[Steps]] = {arm: [] for arm in range(len(names))}
        for arm in balanced_block(len(names), np.random.default_rng([*seed, block])).ravel().tolist():
            gc.collect()
            seen[arm].append(measure(arms[names[arm]]))
        for arm, calls in seen.items():
            means[block, arm] = np.median([steps.mean() for steps in calls])
            middles[block, arm] = np.median([typical(steps) for steps in calls])
    by_mean, by_middle = (
        [_row(name, costs[:, 0], costs[:, arm], len(names) - 1, targets) for arm, name in enumerate(names)]
        for costs in (means, middles)
    )
    return by_mean, by_middle


def _row(name: str, reference: Any, costs: Any, comparisons: int, targets: dict[str, float]) -> dict[str, Any]:
    change = paired_change(reference, costs, comparisons=comparisons)
    low, high = (None if end is None else 1 + end for end in (change.ci_low, change.ci_high))
    ratio = None if change.estimate is None else 1 + change.estimate
    row = {"observer": name, "step_us": float(np.median(costs)) / 1e3, "ratio": ratio, "ci_low": low, "ci_high": high}
    if name in targets:
        row |= {"target": targets[name], "met": high is not None and high <= targets[name]}
    return row


def spin(since_ns: int, duration_ns: int) -> None:
    """Be busy until so long after a moment."""
    until = since_ns + duration_ns
    while now_ns() < until:
        pass


class Spins(transformers.LogitsProcessor):  # type: ignore[misc]
    """Changes nothing and takes 1 ms."""

    def __call__(self, input_ids: Any, scores: Any) -> Any:  # noqa: ARG002
        """The scores as they were."""
        spin(now_ns(), PLANTED_NS["logits/Spins"])
        return scores


class Dawdles(transformers.StoppingCriteria):  # type: ignore[misc]
    """Never stops and takes 0.5 ms."""

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:  # noqa: ARG002
        """No row has ended."""
        since_ns = now_ns()
        answer = torch.zeros(input_ids.shape[0], dtype=torch.bool)
        spin(since_ns, PLANTED_NS["stop/Dawdles"])
        return answer


def planted(calls: int, new_tokens: int, repeats: int) -> list[dict[str, Any]]:
    """What `perstep.watch` says of planted delays among other processors and criteria: medians over repeats."""
    model = build(320)
    options = {"repetition_penalty": 1.1, "no_repeat_ngram_size": 3, "max_time": 1e6}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in PLANTED_NS}
    for _ in range(repeats):
        with perstep.watch(model) as w:
            for _ in range(calls):
                generate(model, new_tokens, logits_processor=[Spins()], stopping_criteria=[Dawdles()], **options)
        for name, held in found.items():
            part = w.ledger().parts[name]
            held.append((part.ns, part.p50_ns))
    return [_found(name, calls, new_tokens, np.median(held, axis=0)) for name, held in found.items()]


def _found(name: str, calls: int, new_tokens: int, found_ns: Any) -> dict[str, Any]:
    """The mean holds every burst of the machine, the median step none."""
    per_step, p50 = found_ns.tolist()
    return {
        "part": name,
        "calls": calls,
        "new_tokens": new_tokens,
        "planted_us": PLANTED_NS[name] / 1e3,
        "found_us": per_step / 1e3,
        "found_within": abs(per_step / PLANTED_NS[name] - 1),
        "p50_us": p50 / 1e3,
        "p50_within": abs(p50 / PLANTED_NS[name] - 1),
    }


def show(title: str, rows: list[dict[str, Any]]) -> None:
    """Print a table."""
    print(f"\n{title}")
    names = list(dict.fromkeys(name for row in rows for name in row))
    print("  ".join(f"{name:>15}" for name in names))
    for row in rows:
        cells = (row.get(name) for name in names)
        print("  ".join(f"{c:>15.4g}" if isinstance(c, float) else f"{'' if c is None else c!s:>15}" for c in cells))


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--date", required=True, help="of the run, as 2026-11-22")
    parser.add_argument("--blocks", type=int, default=20, help="balanced blocks a vocabulary; a verdict needs 20")
    parser.add_argument("--quick", action="store_true", help="a look of a minute, not a result: nothing is written")
    parser.add_argument("--seed", type=int, default=0, help="of the order of turns")
    parser.add_argument("--watched", action="store_true", help="watched calls and loops alone: these are stored anew")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    load_before = os.getloadavg()[0]
    result: dict[str, Any] = {"schema_version": 1, "date": options.date, "new_tokens": NEW_TOKENS, "inflation": []}
    result["watched"] = []
    blocks = 1 if options.quick else options.blocks
    for vocab in VOCABULARIES:
        result["watched"] += inflation_of_watch(vocab, blocks, options.seed)
    if options.watched:
        if not options.quick:
            stored = json.loads(options.out.read_text(encoding="utf-8"))
            _write(options.out, {**stored, "date": options.date, "watched": result["watched"]})
        return
    for vocab in VOCABULARIES:
        found = inflation(vocab, blocks, options.seed)
        result["inflation"].append(found)
        show(f"4 layers, hidden 256, vocabulary {vocab:,}", found["observers"])
        print(f"in no part: {found['residual_share']['phases']:.2%} of a step in phases")
    repeats = 1 if options.quick else 5
    result["planted"] = [*planted(1, 129, repeats), *planted(32, 5, repeats)]
    show("Planted delays, found by perstep.watch", result["planted"])
    versions = {module.__name__: module.__version__ for module in (torch, transformers, np, pyinstrument)}
    result["machine"] = {
        **msgspec.to_builtins(describe()),
        "load_before": load_before,
        "load_after": os.getloadavg()[0],
        "versions": versions,
    }
    if not options.quick:
        _write(options.out, result)


def _write(path: Path, result: dict[str, Any]) -> None:
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
