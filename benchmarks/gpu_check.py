"""Everything of perstep that only a GPU can show, in one run of at most five minutes.

Each check is a function with a line in `CHECKS`, cheapest first, with a limit of its own; it answers with a figure, the
goal it is held against, and plain values. One JSON line a check goes to stdout as soon as it is known. One that fails
does not keep the others from running; one whose limit no longer fits into the time is left out and named. Imports and
the small model are paid once. Without a GPU, or with a busy one, it says so in one line and exits with 2; if a check
failed or missed its goal it exits with 1.

    python -P benchmarks/gpu_check.py --date 2026-11-22 [--only NAME ...] [--out FILE] [--traces FOLDER]

A name stands for all checks that begin with it: `--only decode_graph` are those of `fast.decode` in a captured graph,
which are run only where they are named, `--only decode_graph_tokens decode_graph_small` two of them.

To add a check: write `def mine(shared: Shared) -> Found`, raise what is wrong, and add it to `CHECKS`.
"""

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import gpu_check_budgets as budgets
import gpu_check_device as device
import gpu_check_graph as graph
from gpu_check_device import Facts, Found, Shared

RESULT = Path(__file__).parent / "results" / "gpu_check.json"
TOTAL_S = 285.0
"""No check begins whose limit would end after so many seconds."""
MOST_LETTERS = 160
"""Of a fact that is words, on a line."""


@dataclass(frozen=True)
class Subject:
    """What the checks of watching and of drop-ins measure, and how long they may take.

    Attributes:
        arch: as `--arch` takes it: real shapes, random weights.
        layers: keep so many of them; all if None.
        dtype: of the weights.
        device: as torch spells it.
        budget_s: of one comparison, twice.
        new_tokens: of one call.
        calls: watched calls.
    """

    arch: str = "smollm2-135m"
    layers: int | None = None
    dtype: str = "bfloat16"
    device: str = "cuda"
    budget_s: float = 24.0
    new_tokens: int = 16
    calls: int = 6


def _adds_up(ledger: Any) -> None:
    """Parts and residual add up to the step on each of the two clocks (law "clocks are never mixed")."""
    total = sum(part.ns_total for part in ledger.parts.values()) + ledger.residual_ns_total
    if total != ledger.step_ns_total:
        raise RuntimeError(f"parts and residual of the {ledger.kind} ledger are {total}, not {ledger.step_ns_total}")


def watch_overhead(subject: Subject) -> Facts:
    """What watching costs at each level of detail, and how often a step waits for the device, by part."""
    import torch

    import perstep
    from perstep.targets.transformers import build, to_device

    model = to_device(build(subject.arch, layers=subject.layers, dtype=subject.dtype), subject.device)
    ids = torch.arange(3, 67, device=subject.device).reshape(1, 64)
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": subject.new_tokens, "do_sample": False}
    options |= {"pad_token_id": 0, "eos_token_id": None}
    expected = model.generate(ids, **options)
    facts: Facts = {}
    for detail in ("phases", "modules"):
        with perstep.watch(model, detail) as watched:
            for _ in range(subject.calls):
                if not torch.equal(model.generate(ids, **options), expected):
                    raise RuntimeError(
                        f"the tokens of a call watched at {detail} are others than those of an unwatched one"
                    )
        ledger, beside = watched.ledger(), watched.device_ledger()
        _adds_up(ledger)
        facts[detail] = {
            "overhead": [ledger.overhead, ledger.overhead_ci_low, ledger.overhead_ci_high],
            "host_step_us": ledger.step_ns / 1e3,
            "residual_share": ledger.residual_share,
            "syncs_per_step": ledger.syncs_per_step,
            "syncs_by_part": {name: p.syncs_per_step for name, p in ledger.parts.items() if p.syncs_per_step},
            "device_step_us": None if beside is None else beside.ledger.step_ns / 1e3,
            "idle_at_most_us": None if beside is None else beside.idle_ns_per_step / 1e3,
            "notes": ledger.notes,
        }
    facts["by_hand"] = _by_hand(model, ids)
    return facts


def _by_hand(model: Any, ids: Any) -> Facts:
    """The lines of a loop written by hand: by `sys.monitoring` from Python 3.12 on."""
    import torch

    import perstep

    with torch.no_grad(), perstep.watch(model) as watched:
        last, past = ids, None
        for _ in range(24):
            out = model(input_ids=last, past_key_values=past, use_cache=True)
            past, last = out.past_key_values, out.logits[:, -1].argmax(-1, keepdim=True)
    ledger = watched.ledger()
    _adds_up(ledger)
    lines = [name for name in ledger.parts if name.startswith("loop/")]
    if len(lines) < 3:
        raise RuntimeError(f"of the lines of a loop written by hand only {lines} were seen")
    return {"monitoring": hasattr(sys, "monitoring"), "lines": lines, "overhead": ledger.overhead}


def drop_ins(subject: Subject) -> Facts:
    """That no drop-in waits for the device in a step, by torch's own alarm; every kind once, and the loop itself."""
    import torch

    from perstep import fast

    vocab, table = _bytes_and_table()
    ids = _text(subject, rows=4)
    scores = torch.randn(4, vocab.size, device=subject.device)
    processors: dict[str, Any] = {
        "Utf8": fast.Utf8(vocab), "TokenMask": fast.TokenMask(table).prepare(vocab.size, subject.device),
        "TopP": fast.TopP(0.9), "TopK": fast.TopK(20), "MinP": fast.MinP(0.05),
        "SuppressTokens": fast.SuppressTokens(range(8)), "RepetitionPenalty": fast.RepetitionPenalty(1.1),
    }  # fmt: skip
    criteria: dict[str, Any] = {
        "WordStop": fast.WordStop(vocab),
        "StopStrings": fast.StopStrings(["stop", "end"], vocab),
    }
    allowed = torch.tensor(table.allowed(table.start).tolist(), device=subject.device)
    facts: Facts = {}
    for name, drop_in in {**processors, **criteria}.items():
        texts = [torch.cat([ids, allowed[:1].expand(4, step)], dim=1) for step in range(6)]
        for text in texts[:3]:  # which bring the tables to the device
            drop_in(text, scores)
        _alarm(subject, "error")
        try:
            for text in texts[3:]:
                drop_in(text, scores)
        finally:
            _alarm(subject, "default")
        facts[name] = "no sync in 3 steps"
    return facts


def drop_ins_overhead(subject: Subject) -> Facts:
    """What `Utf8` and `WordStop` add to a step under `fast.decode`, call by call in turns; the tokens of generate."""
    import torch

    import perstep
    from perstep import fast
    from perstep.targets.transformers import build, to_device

    vocab, _ = _bytes_and_table()
    model = to_device(build(subject.arch, layers=subject.layers, vocab=256, dtype=subject.dtype), subject.device)
    ids = _text(subject, rows=3)
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": subject.new_tokens, "do_sample": False}
    options |= {"pad_token_id": 0, "eos_token_id": None}
    utf8, decode = [fast.Utf8(vocab)], fast.Decode(captured=False)  # inside a graph: decode_graph_drop_ins

    def bare() -> Any:
        return model.generate(ids, custom_generate=decode, **options)

    class Never(fast.WordStop):  # type: ignore[name-defined,misc]
        """Does the work of the criterion and stops nobody, so that both arms make the same forwards."""

        def __call__(self, input_ids: Any, scores: Any = None, **kwargs: Any) -> Any:
            return super().__call__(input_ids, scores, **kwargs) & False

    words = [Never(vocab)]

    def guarded() -> Any:
        return model.generate(ids, custom_generate=decode, logits_processor=utf8, stopping_criteria=words, **options)

    plain = model.generate(ids, logits_processor=utf8, **options)
    if not torch.equal(guarded(), plain):
        raise RuntimeError("fast.decode gave other tokens than generate")
    found = perstep.compare({"bare": bare, "guarded": guarded}, reference="bare", budget_s=subject.budget_s / 2)
    change = found["guarded"].wall
    return {"change": change.change, "interval": [change.ci_low, change.ci_high], "verdict": change.verdict}


def drop_ins_captured(subject: Subject) -> Facts:
    """Utf8 and StopStrings in one captured CUDA graph: its replays equal the calls without one."""
    import torch

    from perstep import fast

    vocab, _ = _bytes_and_table()
    utf8, stops = fast.Utf8(vocab), fast.StopStrings(["stop", "end"], vocab)
    text = _text(subject, rows=4)
    state, seen, token = utf8.state(text), stops.state(text), text[:, -1].clone()
    scores = torch.randn(4, vocab.size, device=subject.device)

    def step() -> tuple[Any, ...]:
        after = utf8.advance(state, token)
        return utf8.mask(scores, after), stops.completes(seen, token), stops.advance(seen, token), after

    wanted = [kept.clone() for kept in step()]
    if subject.device == "cpu":
        return {"captured": "no graphs on the cpu", "outputs": len(wanted)}
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for byte in b"stop \xc3\xa9 end":
        token.fill_(byte)
        wanted = [kept.clone() for kept in step()]
        graph.replay()
        if not all(torch.equal(one, other) for one, other in zip(captured, wanted, strict=True)):
            raise RuntimeError(f"the graph's replay differs from the calls at byte {byte}")
    return {"captured": True, "outputs": len(captured)}


def _bytes_and_table() -> tuple[Any, Any]:
    """The 256 single bytes, and what may follow of a small language over them."""
    from perstep import automata

    vocab = automata.Vocabulary([bytes([byte]) for byte in range(256)], eos_ids=[0])
    return vocab, automata.compile(automata.from_regex("(stop|end|[a-z ])+"), vocab)


def _text(subject: Subject, rows: int) -> Any:
    import torch

    return torch.tensor([list(b"a text to begin with ")] * rows, device=subject.device)


def _alarm(subject: Subject, mode: str) -> None:
    """Let torch raise at every wait for the device, or no longer."""
    import torch

    if subject.device != "cpu":
        torch.cuda.set_sync_debug_mode(mode)


def _older(check: Callable[[Subject], Facts], goal: str) -> Callable[[Shared], Found]:
    """A check whose goal is that nothing is raised."""

    def run(shared: Shared) -> Found:
        return Found(goal, None, True, check(Subject(arch=shared.arch, dtype=shared.dtype, device=shared.device)))

    return run


@dataclass(frozen=True)
class Check:
    """A check and how long it may take, in seconds."""

    run: Callable[[Shared], Found]
    limit_s: float


CHECKS: dict[str, Check] = {
    "too_large": Check(device.too_large, 20.0),
    "built_there": Check(device.built_there, 20.0),
    "after_profiling": Check(device.after_profiling, 40.0),
    "attribution": Check(device.attribution, 20.0),
    "ceilings": Check(device.ceilings, 15.0),
    "graph": Check(device.graph, 15.0),
    "ledger": Check(device.ledger, 50.0),
    "ledger_stream": Check(device.ledger_stream, 25.0),
    "compiled": Check(device.compiled, 60.0),
    "ledger_large": Check(device.ledger_large, 60.0),
    "ledger_large_batch": Check(device.ledger_large_batch, 70.0),
    "drop_ins": Check(_older(drop_ins, "no sync in a step"), 20.0),
    "kernels": Check(graph.kernels, 60.0),
    "drop_ins_captured": Check(_older(drop_ins_captured, "a replay equals the calls"), 15.0),
    "watch_overhead": Check(_older(watch_overhead, "ledgers add up, tokens unchanged"), 40.0),
    "drop_ins_overhead": Check(_older(drop_ins_overhead, "tokens those of generate"), 40.0),
    "budget_compare": Check(budgets.compare, 20.0),
    "budget_ops": Check(budgets.ops, 40.0),
    "budget_mask": Check(budgets.mask, 40.0),
    "budget_selftest": Check(budgets.selftest, 50.0),
    "budget_ledger": Check(budgets.ledger_fast, 60.0),
}

APART: dict[str, Check] = {
    "decode_graph_tokens": Check(graph.tokens, 60.0),
    "decode_graph_failure": Check(graph.failure, 30.0),
    "decode_graph_small": Check(graph.small, 45.0),
    "decode_graph_drop_ins": Check(graph.drop_ins, 40.0),
    "decode_graph_mask": Check(graph.mask, 40.0),
    "decode_graph_outside": Check(graph.outside, 30.0),
    "decode_graph_large": Check(graph.large, 50.0),
    "decode_graph_large_batch": Check(graph.large_batch, 60.0),
    "decode_graph_capture": Check(graph.capture, 50.0),
    "decode_graph_over_busy": Check(graph.over_busy, 60.0),
    "decode_graph_slots": Check(graph.slots, 60.0),
    "decode_graph_compiled": Check(graph.compiled, 150.0),
}
"""Checks that are run only where they are named: together they take longer than a run."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in what takes longer; it is raised between two lines of Python, not inside a kernel."""

    def late(_number: int, _frame: Any) -> None:
        raise TimeoutError(f"more than its {seconds:g} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run_checks(
    names: Sequence[str],
    shared: Shared,
    *,
    checks: dict[str, Check] | None = None,
    now_s: Callable[[], float] = time.monotonic,
    tell: Callable[[str], None] = lambda _line: None,
    found: dict[str, Facts] | None = None,
) -> dict[str, Facts]:
    """Run checks one after the other; what each found, how long it took, or what was wrong.

    Args:
        names: which.
        shared: what they measure.
        checks: those there are.
        now_s: the clock of the limit.
        tell: given each result as a JSON line, as soon as it is known.
        found: where the results go, one by one; what is returned.
    """
    known = CHECKS | APART if checks is None else checks
    began_s, found = now_s(), {} if found is None else found
    for name in names:
        at_s, check = now_s(), known[name]
        if at_s - began_s + check.limit_s > TOTAL_S and len(names) > 1:
            found[name] = {"status": "left out: no time", "seconds": 0.0}
        else:
            found[name] = {**_run_one(check, shared), "seconds": round(now_s() - at_s, 1)}
        tell(json.dumps({"check": name, **_short(found[name])}))
    return found


def _short(found: Facts) -> Facts:
    """What fits on a line: of the facts those that are one number or a few words. The file holds all."""
    facts = {
        name: value
        for name, value in found.get("facts", {}).items()
        if isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) <= MOST_LETTERS)
    }
    return {**found, **({"facts": facts} if "facts" in found else {})}


def _run_one(check: Check, shared: Shared) -> Facts:
    try:
        with limited(check.limit_s):
            made = check.run(shared)
    except Exception as error:  # the other checks are worth having
        return {"status": "failed", "error": f"{type(error).__name__}: {error}"}
    status = "ok" if made.reached else "missed"
    return {"status": status, "goal": made.goal, "figure": made.figure, "facts": made.facts}


def chosen(only: Sequence[str] | None) -> list[str]:
    """The checks of these names, and those that begin with one of them; without names those that are not apart."""
    if only is None:
        return list(CHECKS)
    return [name for name in CHECKS | APART if name in only or name.startswith(tuple(f"{one}_" for one in only))]


def describe_device() -> Facts:
    """The device, and what drives it."""
    import torch
    import transformers

    held = torch.cuda.get_device_properties(0)
    return {
        "name": held.name,
        "memory_gb": round(held.total_memory / 1e9, 1),
        "capability": f"{held.major}.{held.minor}",
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the checks and write what they found."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--date", required=True, help="of the run, as 2026-11-22")
    parser.add_argument("--only", nargs="+", metavar="NAME")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--traces", help="a folder for the traces that are taken")
    options = parser.parse_args(arguments)
    names = chosen(options.only)
    if unknown := [one for one in options.only or () if not chosen([one])]:
        parser.error(f"no check is called {unknown[0]}: there are {', '.join(CHECKS | APART)}")
    began_s = time.monotonic()
    import torch

    from perstep.errors import InputError
    from perstep.targets.transformers.device_check import check_device

    if not torch.cuda.is_available():
        print("gpu_check: no CUDA device is available here; run it on a machine that has one", file=sys.stderr)
        return 2
    try:
        check_device("cuda")
    except InputError as error:
        print(f"gpu_check: {error}", file=sys.stderr)
        return 2
    device.shared_trace_folder[:] = [options.traces] if options.traces else []
    result: Facts = {"schema_version": 2, "date": options.date, "device": describe_device()}
    print(
        json.dumps({"check": "start", "seconds": round(time.monotonic() - began_s, 1), **result["device"]}), flush=True
    )
    result["checks"] = {}
    options.out.parent.mkdir(parents=True, exist_ok=True)

    def tell(line: str) -> None:
        print(line, flush=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")  # a killed run keeps what it has

    run_checks(names, Shared(), tell=tell, found=result["checks"])
    return int(any(found["status"] != "ok" for found in result["checks"].values()))


if __name__ == "__main__":
    raise SystemExit(main())
