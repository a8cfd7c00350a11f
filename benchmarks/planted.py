"""A planted millisecond at 25 places of decode loops: does `watch` find it in the right row?

Each place is a workload that waits 1 ms a step at one place, or does not, in turns (ABBA over rounds), each under a
watch of its own. What the row of that place gains is the median over pairs of runs. It is found if the gain lies within
3 % + 60 µs of what was really waited. What the other rows gain together is beside it. Prints a table and writes
results/planted.json.

    OMP_NUM_THREADS=1 python -P benchmarks/planted.py --date 2026-11-28 [--rounds 6] [--only TEXT] [--quick]
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
import transformers
from transformers import DynamicCache, LogitsProcessor, LogitsProcessorList, RepetitionPenaltyLogitsProcessor

import perstep
from perstep.machine import describe
from perstep.measure import Ledger
from perstep.watching.session import Watch

RESULT = Path(__file__).parent / "results" / "planted.json"
PLANTED_NS = 1_000_000
RELATIVE, ABSOLUTE_NS = 0.03, 60_000
NEEDED = 24
NEW_TOKENS = 42
Wait = Callable[[], None]


class Spinner:
    """Waits a millisecond where it is called, and says how much it really waited."""

    def __init__(self, on: bool) -> None:
        self.on, self.calls, self.waited_ns = on, 0, 0

    def __call__(self) -> None:
        """Wait, if this run does."""
        if not self.on:
            return
        begun = time.perf_counter_ns()
        while time.perf_counter_ns() - begun < PLANTED_NS:
            pass
        self.calls += 1
        self.waited_ns += time.perf_counter_ns() - begun


def llama(hidden: int = 128, layers: int = 2) -> Any:
    """A small Llama without an end token."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=1000, hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, pad_token_id=0, eos_token_id=None, bos_token_id=1,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


IDS = torch.arange(5, 21)[None]


def generate(model: Any, **options: Any) -> None:
    """A greedy call."""
    given = {"attention_mask": torch.ones_like(IDS), "max_new_tokens": NEW_TOKENS, "do_sample": False, **options}
    model.generate(IDS, **given)


class Own(LogitsProcessor):  # type: ignore[misc]
    """Somebody's processor."""

    def __init__(self, wait: Wait) -> None:
        self.wait = wait

    def __call__(self, _input_ids: Any, scores: Any) -> Any:
        """The scores as they were."""
        self.wait()
        return scores


class Penalty(RepetitionPenaltyLogitsProcessor):  # type: ignore[misc]
    """A built-in processor that takes longer."""

    wait: Wait

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """As it does."""
        self.wait()
        return super().__call__(input_ids, scores)


class Criterion(transformers.StoppingCriteria):  # type: ignore[misc]
    """Somebody's criterion."""

    def __init__(self, wait: Wait) -> None:
        self.wait = wait

    def __call__(self, input_ids: Any, _scores: Any, **_: Any) -> Any:
        """No row has ended."""
        self.wait()
        return torch.zeros(input_ids.shape[0], dtype=torch.bool)


class Streamer:
    """Somebody's streamer."""

    def __init__(self, wait: Wait) -> None:
        self.wait = wait

    def put(self, _value: Any) -> None:
        """A token."""
        self.wait()

    def end(self) -> None:
        """Nothing is left."""


class SlowCache(DynamicCache):  # type: ignore[misc]
    """A cache whose first layer takes longer."""

    wait: Wait

    def update(self, keys: Any, values: Any, layer: int, *args: Any, **kwargs: Any) -> Any:
        """As it does."""
        if layer == 0:
            self.wait()
        return super().update(keys, values, layer, *args, **kwargs)


Model = Any
Run = Callable[[Model, Wait], object]


def waits_in(name: str) -> Run:
    """A generate call in which the forward of a module waits."""

    def run(model: Model, wait: Wait) -> None:
        handle = model.get_submodule(name).register_forward_pre_hook(lambda *_: wait())
        generate(model)
        handle.remove()

    return run


def waits_in_method(name: str) -> Run:
    """A generate call in which a method of the model waits."""

    def run(model: Model, wait: Wait) -> None:
        own = getattr(model, name)

        def slower(*args: Any, **kwargs: Any) -> Any:
            wait()
            return own(*args, **kwargs)

        setattr(model, name, slower)
        generate(model)
        delattr(model, name)

    return run


def penalised(model: Model, wait: Wait) -> None:
    """A built-in processor that is given by hand."""
    processor = Penalty(1.1)
    processor.wait = wait
    generate(model, logits_processor=LogitsProcessorList([processor]))


def prefixed(model: Model, wait: Wait) -> None:
    """A function that says which tokens may come."""

    def allowed(*_: Any) -> list[int]:
        wait()
        return list(range(900))

    generate(model, prefix_allowed_tokens_fn=allowed)


def hooked(register: str) -> Run:
    """A hook of the model itself."""

    def run(model: Model, wait: Wait) -> None:
        handle = getattr(model, register)(lambda *_: wait())
        generate(model)
        handle.remove()

    return run


def cached(model: Model, wait: Wait) -> None:
    """A cache of somebody's own whose update waits."""
    cache = SlowCache(config=model.config)
    cache.wait = wait
    generate(model, past_key_values=cache)


def reordered(model: Model, wait: Wait) -> None:
    """Beams: only the reordering waits."""
    cache = DynamicCache(config=model.config)
    own = cache.reorder_cache

    def slower(beams: Any) -> None:
        wait()
        own(beams)

    cache.reorder_cache = slower
    generate(model, past_key_values=cache, num_beams=2)


def assisted(model: Model, wait: Wait) -> None:
    """A draft model: it waits once for each time it is asked, in its first forward."""
    draft = llama(hidden=64, layers=1)
    draft.generation_config.num_assistant_tokens = 1
    draft.generation_config.num_assistant_tokens_schedule = "constant"
    handle = draft.register_forward_pre_hook(lambda *_: wait())
    generate(model, assistant_model=draft)
    handle.remove()


def choose(logits: Any, wait: Wait) -> Any:
    """The most probable token."""
    wait()
    return logits[:, -1].argmax(-1, keepdim=True)


def no_wait() -> None:
    """Nothing."""


def by_hand(where: str) -> Run:
    """A loop written by hand that waits in one of its lines."""
    in_choice, in_line, in_forward = ("choice", "line", "forward")

    def run(model: Model, wait: Wait) -> None:
        handle = model.register_forward_pre_hook(lambda *_: wait() if where == in_forward else None)
        ids, past = IDS, None
        for _ in range(NEW_TOKENS):
            out = model(input_ids=ids, past_key_values=past, use_cache=True)
            past = out.past_key_values
            ids = choose(out.logits, wait if where == in_choice else no_wait)
            (wait if where == in_line else no_wait)()
        handle.remove()

    return run


def streamed(model: Model, wait: Wait) -> None:
    """A generator that yields tokens, and somebody who waits at each."""

    def tokens() -> Iterator[Any]:
        ids, past = IDS, None
        for _ in range(NEW_TOKENS):
            out = model(input_ids=ids, past_key_values=past)
            past, ids = out.past_key_values, choose(out.logits, no_wait)
            yield ids

    for _token in tokens():
        wait()


def speculative(model: Model, wait: Wait) -> None:
    """A loop by hand with a draft that waits."""
    draft = llama(hidden=64, layers=1)
    handle = draft.register_forward_pre_hook(lambda *_: wait())
    draft(input_ids=IDS)
    past = model(input_ids=IDS, use_cache=True).past_key_values
    for _ in range(NEW_TOKENS):
        draft(input_ids=IDS[:, :2])
        past = model(input_ids=IDS[:, :2], past_key_values=past).past_key_values
    handle.remove()


def named(model: Model, wait: Wait) -> None:
    """Steps and parts that the program names."""
    with torch.no_grad():
        for position in range(NEW_TOKENS):
            with perstep.step("decode" if position else "prefill"):
                with perstep.part("schedule"):
                    wait()
                with perstep.part("forward"):
                    model(input_ids=IDS[:, :1])


@dataclass(frozen=True)
class Place:
    """Where a millisecond is planted.

    Attributes:
        name: in words.
        row: of the ledger; where it begins with a star, a piece of a line's text.
        run: the workload.
        detail: of the watch.
        kind: of the ledger.
    """

    name: str
    row: str
    run: Run
    detail: Any = "phases"
    kind: str = "decode"


PLACES = [
    Place("a processor", "logits/Own", lambda m, w: generate(m, logits_processor=[Own(w)])),
    Place("the second of two processors of a class", "logits/Own#2",
          lambda m, w: generate(m, logits_processor=[Own(no_wait), Own(w)])),
    Place("a built-in processor", "logits/Penalty", penalised),
    Place("a prefix function", "logits/PrefixConstrainedLogitsProcessor", prefixed),
    Place("a criterion", "stop/Criterion", lambda m, w: generate(m, stopping_criteria=[Criterion(w)])),
    Place("a streamer", "stream/Streamer", lambda m, w: generate(m, streamer=Streamer(w))),
    Place("a hook before the forward", "forward.hooks", hooked("register_forward_pre_hook")),
    Place("a hook after the forward", "forward.hooks", hooked("register_forward_hook")),
    Place("the forward", "forward", waits_in("model")),
    Place("the preparation of inputs", "inputs", waits_in_method("prepare_inputs_for_generation")),
    Place("the update of arguments", "bookkeeping", waits_in_method("_update_model_kwargs_for_generation")),
    Place("the building of criteria", "setup.criteria", waits_in_method("_get_stopping_criteria"), kind="setup"),
    Place("the building of processors", "setup.processors", waits_in_method("_get_logits_processor"), kind="setup"),
    Place("a draft model", "draft", assisted),
    Place("the reordering of beams", "kv.reorder", reordered),
    Place("the update of a cache", "kv.append", cached, "modules"),
    Place("the embedding", "embed", waits_in("model.embed_tokens"), "modules"),
    Place("a norm", "norm", waits_in("model.norm"), "modules"),
    Place("an attention's projection", "attn", waits_in("model.layers.0.self_attn.o_proj"), "modules"),
    Place("an MLP", "mlp", waits_in("model.layers.1.mlp.down_proj"), "modules"),
    Place("the head", "lm_head", waits_in("lm_head"), "modules"),
    Place("the choice in a loop by hand", "*ids = choose(out.logits", by_hand("choice")),
    Place("a line of a loop by hand", "*(wait if where == in_line", by_hand("line")),
    Place("who takes a generator's tokens", "* wait()", streamed),
    Place("a part that the program names", "schedule", named),
]  # fmt: skip
MORE = [
    Place("the forward in a loop by hand", "forward", by_hand("forward")),
    Place("a draft in a loop by hand", "forward/LlamaForCausalLM", speculative),
]
"""Beyond the 25."""


def row_of(place: Place, ledger: Ledger) -> str:
    """The row's name in a ledger; the place's own where there is none."""
    if not place.row.startswith("*"):
        return place.row
    return next((name for name in ledger.parts if place.row[1:] in name), place.row)


def once(place: Place, model: Model, on: bool) -> tuple[float, float, float]:
    """Nanoseconds of the row and of all other rows a step, and what was waited for each time."""
    spinner = Spinner(on)
    watch: AbstractContextManager[Watch] = Watch(detail=place.detail, syncs=False, loops=True)
    with ExitStack() as stack:
        w = stack.enter_context(watch)
        stack.enter_context(torch.no_grad())
        place.run(model, spinner)
    ledger = w.ledger(place.kind)
    row = row_of(place, ledger)
    found = ledger.parts[row].ns if row in ledger.parts else 0.0
    others = sum(part.ns for name, part in ledger.parts.items() if name != row) + ledger.residual_ns
    return found, others, spinner.waited_ns / max(spinner.calls, 1)


def measure(place: Place, rounds: int) -> dict[str, Any]:
    """What the row gains, in pairs of runs."""
    model, gains, moved, waited = llama(), [], [], []
    once(place, model, on=True)  # warms up
    for index in range(rounds):
        for first in (bool(index % 2), not index % 2):
            with_wait, without = (
                (once(place, model, on=True), once(place, model, on=False))
                if first
                else tuple(reversed((once(place, model, on=False), once(place, model, on=True))))
            )
            gains.append(with_wait[0] - without[0])
            moved.append(with_wait[1] - without[1])
            waited.append(with_wait[2])
    planted, gain = float(np.median(waited)), float(np.median(gains))
    return {
        "place": place.name,
        "row": place.row.removeprefix("*"),
        "planted_ns": planted,
        "found_ns": gain,
        "others_ns": float(np.median(moved)),
        "within": abs(gain - planted) <= RELATIVE * planted + ABSOLUTE_NS,
    }


def main() -> None:
    """Measure all places, print the table, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--date", default="")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--only", default="", help="places whose name holds this text; nothing is written")
    parser.add_argument("--quick", action="store_true", help="one round, to see that it works; nothing is written")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for place in [*PLACES, *MORE]:
        if given.only not in place.name:
            continue
        row = measure(place, 1 if given.quick else given.rounds)
        rows.append({**row, "beyond": place in MORE})
        verdict = "found" if row["within"] else "NOT FOUND"
        print(
            f"{row['place']:<42}{row['row']:<44}{row['planted_ns'] / 1e3:8.0f} µs {row['found_ns'] / 1e3:8.0f} µs"
            f" {row['others_ns'] / 1e3:8.0f} µs  {verdict}",
            flush=True,
        )
    counted = [row for row in rows if not row["beyond"]]
    found = sum(row["within"] for row in counted)
    print(f"{found} of {len(counted)} found; at least {NEEDED} of {len(PLACES)} are needed")
    if not (given.quick or given.only):
        result = {
            "date": given.date,
            "machine": msgspec.to_builtins(describe()),
            "found": found,
            "of": len(counted),
            "rows": rows,
        }
        RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
