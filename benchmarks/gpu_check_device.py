"""The checks of `gpu_check.py` that look into the device: ceilings, attribution, graphs, ledgers with bounds.

Each is given what all share and answers with a `Found`: a figure, the goal it is held against, whether it was reached,
and facts. A figure that misses its goal is no error: it is what was measured.
"""

import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

Facts = dict[str, Any]
PLAIN_STEPS = 24


@dataclass(frozen=True)
class Found:
    """What a check found.

    Attributes:
        goal: in words.
        figure: the number that the goal is about.
        reached: whether it was.
        facts: plain values for the JSON line.
    """

    goal: str
    figure: float | None
    reached: bool
    facts: Facts = field(default_factory=dict)


@dataclass
class Shared:
    """What all checks share, so that it is paid once.

    Attributes:
        arch: of the small model, as `--arch` takes it.
        large: of the large one.
        dtype: of both.
        device: as torch spells it.
        rounds: of a ledger of the small model.
        large_rounds: of the large one.
        new_tokens: of one call in a ledger.
        prompt_tokens: before them.
        wide_head: the vocabulary of a model with a large head.
    """

    arch: str = "smollm2-135m"
    large: str = "llama-3.1-8b"
    dtype: str = "bfloat16"
    device: str = "cuda"
    rounds: int = 12
    large_rounds: int = 9
    new_tokens: int = 8
    prompt_tokens: int = 64
    wide_head: int = 131_072
    _model: Any = None
    plain_before_ns: float = 0.0
    built_s: float = 0.0

    @property
    def model(self) -> Any:
        """The small model, built at the first look, and timed before anything was ever profiled."""
        if self._model is None:
            from perstep.targets.transformers import build

            began = time.monotonic()
            self._model = build(self.arch, dtype=self.dtype, device=self.device)
            self.synchronize()
            self.built_s = time.monotonic() - began
            self.plain_before_ns = self.plain_step_ns()
        return self._model

    def ids(self, rows: int = 1) -> Any:
        """A prompt of so many rows."""
        import torch

        vocab = self.model.config.vocab_size
        return torch.arange(self.prompt_tokens, device=self.device).remainder(vocab).repeat(rows, 1)

    def generate(self, new_tokens: int, **options: Any) -> Any:
        """One greedy call of the small model that never ends early."""
        import torch

        ids = self.ids()
        fixed = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None}
        return self.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, **fixed, **options
        )

    def plain_step_ns(self) -> float:
        """A decode step without anything around it: the shortest of three calls of 25 tokens less that of one token."""
        self.generate(3)
        shortest = [min(self._call_ns(tokens) for _ in range(3)) for tokens in (1, 1 + PLAIN_STEPS)]
        return (shortest[1] - shortest[0]) / PLAIN_STEPS

    def _call_ns(self, tokens: int) -> int:
        self.synchronize()
        began = time.perf_counter_ns()
        self.generate(tokens)
        self.synchronize()
        return time.perf_counter_ns() - began

    def synchronize(self) -> None:
        """Wait for the device."""
        import torch

        if self.device != "cpu":
            torch.cuda.synchronize()


def ceilings(shared: Shared) -> Found:
    """The device's ceilings, within three seconds, none left out."""
    import torch

    from perstep.machine.device_ceilings import device_arms, measure_device_ceilings
    from perstep.targets.transformers.device_lab import CudaLab

    dtype, free = getattr(torch, shared.dtype), 1 << 26
    if shared.device != "cpu":
        free = torch.cuda.mem_get_info()[0]
    arms, omitted = device_arms(itemsize=dtype.itemsize, free_bytes=free)
    lab = CudaLab(shared.dtype, 4096, device=shared.device)
    made = measure_device_ceilings(lab, arms, device=shared.device, dtype=shared.dtype, omitted=omitted)
    facts = {**msgspec.to_builtins(made), "memory_gb_s": made.memory_gb_s, "peak_tflop_s": made.peak_tflop_s,
             "shortest_ns": made.shortest_ns()}  # fmt: skip
    seconds = made.elapsed_ns / 1e9
    return Found("all ceilings in at most 3 s", seconds, seconds <= 3.0 and not made.omitted, facts)


SLEEP_CYCLES = 10_000_000
"""Some 5 ms: beside them the 7 µs that a launch takes between two events are nothing."""


def attribution(shared: Shared) -> Found:
    """Kernels by part: none without a launch, the sum is the profiler's, a planted sleep lies where it was planted."""
    import torch

    from perstep.measure.device_work import attribute
    from perstep.targets.transformers import Instrument
    from perstep.targets.transformers.device_profile import KinetoProfiler, RangeRecorder

    class DeviceWork:
        """A processor whose only work is a sleep on the device."""

        def __call__(self, _input_ids: Any, scores: Any) -> Any:
            if shared.device != "cpu":
                torch.cuda._sleep(SLEEP_CYCLES)
            return scores

    model = shared.model
    slept_ns = _slept_ns(shared)
    recorder = RangeRecorder()
    profiler = KinetoProfiler(shared.device)
    with Instrument(model, recorder, "modules"):
        rows = profiler.rows(lambda: shared.generate(6, logits_processor=[DeviceWork()]))
    began = time.monotonic()
    work = attribute(rows)
    counts = work.counts
    steps = [step for step in recorder.kept(work) if step.kind == "decode"]
    parts = {name: [s.parts[name].busy_ns / 1e3 for s in steps if name in s.parts] for s in steps for name in s.parts}
    planted = parts.get("logits/DeviceWork", [0.0])
    facts = {
        "rows": len(rows), "attributed_in_s": round(time.monotonic() - began, 2), "kernels": counts.kernels,
        "unmatched": counts.unmatched, "by_operator": counts.by_operator, "idle_launches": counts.idle_launches,
        "began_early": counts.began_early, "early_ns": counts.early_ns, "total_us": counts.total_ns / 1e3,
        "steps_and_outside_us": (sum(p.sum_ns for s in work.steps for p in s.parts.values()) + work.outside_ns) / 1e3,
        "busy_us_per_step": {name: sum(us) / len(steps) for name, us in parts.items()},
        "launches_per_step": {
            name: sum(s.parts[name].launches for s in steps if name in s.parts) / len(steps) for name in parts
        },
        "slept_us_by_events": slept_ns / 1e3, "slept_us_by_part": sum(planted) / len(planted),
        "trace": _trace(rows, shared),
    }  # fmt: skip
    off = abs(facts["slept_us_by_part"] / facts["slept_us_by_events"] - 1) if slept_ns else 0.0
    reached = not counts.unmatched and abs(facts["total_us"] - facts["steps_and_outside_us"]) < 0.01 and off < 0.02
    return Found(
        "0 kernels unmatched, sums equal, a planted sleep within 2 %", off, reached and counts.kernels > 0, facts
    )


def _slept_ns(shared: Shared) -> float:
    """The planted sleep by two events around it."""
    import torch

    if shared.device == "cpu":
        return 0.0
    taken = []
    for _ in range(4):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        torch.cuda._sleep(SLEEP_CYCLES)
        end.record()
        end.synchronize()
        taken.append(begin.elapsed_time(end) * 1e6)
    return min(taken)


def _trace(rows: list[Any], shared: Shared) -> str:
    """The rows as a file, where somebody asked for it: a trace for the tests."""
    import gzip
    import json

    if not shared_trace_folder:
        return "not kept"
    path = Path(shared_trace_folder[0]) / f"kineto_{shared.arch.replace('/', '_')}.json.gz"
    with gzip.open(path, "wt") as file:
        json.dump([list(row) for row in rows], file)
    return path.name


shared_trace_folder: list[str] = []
"""Where traces are kept; empty keeps none."""


def after_profiling(shared: Shared) -> Found:
    """A plain step takes as long after steps were profiled as before anything was."""
    _ = shared.model
    attribution(shared)
    ratio = shared.plain_step_ns() / shared.plain_before_ns
    facts = {"before_us": shared.plain_before_ns / 1e3, "ratio": ratio, "built_s": shared.built_s}
    return Found("a plain step after profiling within 5 % of one before", ratio, abs(ratio - 1) < 0.05, facts)


def graph(shared: Shared) -> Found:
    """Kernels of a replayed graph: split as their region ran under ranges; left whole where it was never seen."""
    import torch

    from perstep.measure.device_work import attribute
    from perstep.targets.transformers.device_profile import KinetoProfiler

    if shared.device == "cpu":
        return Found("no graphs on the cpu", None, True)
    x = torch.ones(512, 512, device=shared.device)

    @contextmanager
    def part(name: str) -> Any:
        with torch.profiler.record_function(f"perstep:{name}"):
            yield

    def region() -> None:
        for _ in range(3):
            with part("scale"):
                x.mul_(1.0001)
            with part("product"):
                torch.mm(x, x, out=other)
            with part("norm"):
                x.copy_(other / other.norm())

    other = torch.empty_like(x)
    replay = _captured(region)

    def eager_and_replay() -> None:
        with torch.profiler.record_function("perstep-step:eager"):
            region()
        with torch.profiler.record_function("perstep-step:replay"), part("forward"):
            replay()

    def replay_alone() -> None:
        with torch.profiler.record_function("perstep-step:replay"), part("forward"):
            replay()

    profiler = KinetoProfiler("cuda")
    profiler.rows(replay_alone)
    both, alone = attribute(profiler.rows(eager_and_replay)), attribute(profiler.rows(replay_alone))
    eager, replayed = ({name: p.kernels for name, p in step.parts.items()} for step in both.steps)
    names = {name: sum(k.count for k in kernels.values()) for name, kernels in replayed.items()}
    whole = alone.steps[0].parts
    facts = {
        "eager_kernels": {name: sorted(kernels) for name, kernels in eager.items()},
        "replayed_kernels": {name: sorted(kernels) for name, kernels in replayed.items()},
        "replayed_counts": names, "split": both.counts.split_replays, "left_whole": alone.counts.whole_replays,
        "alone": {name: [p.busy_ns, p.replayed_ns, p.launches] for name, p in whole.items()},
    }  # fmt: skip
    reached = both.counts.split_replays == 1 and alone.counts.whole_replays == 1 and alone.counts.split_replays == 0
    reached = reached and set(replayed) == set(eager) and set(whole) == {"forward"}
    return Found(
        "a replay seen before is split as it was; one never seen is left whole",
        both.counts.split_replays,
        reached,
        facts,
    )


def _captured(region: Callable[[], None]) -> Callable[[], None]:
    import torch

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        region()
    torch.cuda.current_stream().wait_stream(side)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        region()
    replay: Callable[[], None] = captured.replay
    return replay


def compiled(shared: Shared) -> Found:
    """A compiled forward with a static cache: the device's time of the whole is right, even if its parts are opaque."""
    import torch

    from perstep.measure.device_work import attribute
    from perstep.targets.transformers import Instrument, build
    from perstep.targets.transformers.device_profile import KinetoProfiler, RangeRecorder

    if shared.device == "cpu":
        return Found("nothing is compiled on the cpu", None, True)
    model = build(shared.arch, layers=2, dtype=shared.dtype, device=shared.device)
    ids = shared.ids()
    options = {"attention_mask": torch.ones_like(ids), "do_sample": False, "pad_token_id": 0, "eos_token_id": None}

    def call() -> None:
        model.generate(ids, max_new_tokens=8, cache_implementation="static", **options)

    began = time.monotonic()
    call()
    call()
    cold_s = time.monotonic() - began
    recorder = RangeRecorder()
    with Instrument(model, recorder, "phases") as instrument:
        work = attribute(KinetoProfiler("cuda").rows(call))
    steps = [step for step in recorder.kept(work) if step.kind == "decode"]
    inside = sum(part.sum_ns for step in work.steps for part in step.parts.values())
    parts = {name for step in steps for name in step.parts}
    facts = {
        "cold_s": round(cold_s, 1),
        "notes": instrument.notes,
        "busy_us_per_step": {
            name: sum(s.parts[name].busy_ns for s in steps if name in s.parts) / len(steps) / 1e3 for name in parts
        },
        "launches_per_step": {
            name: sum(s.parts[name].launches for s in steps if name in s.parts) / len(steps) for name in parts
        },
        "whole_replays": work.counts.whole_replays,
        "split_replays": work.counts.split_replays,
        "unmatched": work.counts.unmatched,
        "share_in_steps": inside / work.counts.total_ns if work.counts.total_ns else 0.0,
    }
    reached = not work.counts.unmatched and inside + work.outside_ns == work.counts.total_ns and "forward" in parts
    return Found("all device time attributed, the forward's as a whole", facts["share_in_steps"], reached, facts)


def too_large(shared: Shared) -> Found:
    """What does not fit is refused in one line, before anything is allocated."""
    import torch

    from perstep.errors import InputError
    from perstep.targets.transformers import build

    before = torch.cuda.memory_reserved() if shared.device != "cpu" else 0
    try:
        build("llama-3.1-70b", dtype="float32", device=shared.device)
        said = ""
    except InputError as error:
        said = str(error)
    grown = (torch.cuda.memory_reserved() if shared.device != "cpu" else 0) - before
    reached = "282" in said and "\n" not in said and grown == 0
    return Found("refused in one line with the 282 GB needed, nothing allocated", grown, reached, {"said": said})


def built_there(shared: Shared) -> Found:
    """Weights built on the device are those that the CPU would have built."""
    import torch

    from perstep.targets.transformers import build

    there, here = (build(shared.arch, layers=2, dtype=shared.dtype, device=each) for each in (shared.device, "cpu"))
    unlike = [
        name
        for (name, one), other in zip(there.named_parameters(), here.parameters(), strict=True)
        if one.ndim > 1 and not torch.equal(one.cpu(), other)
    ]
    facts = {"unlike": unlike[:8], "on": str(there.device)}
    return Found("weights as the CPU builds them", float(len(unlike)), not unlike, facts)


def ledger(shared: Shared) -> Found:
    """The ledger of the small model: host, device busy, launches, bounds, and the sentence with its interval."""
    return _ledger(shared, shared.arch, rounds=shared.rounds, batch=1, device_detail="kernels")


def ledger_large(shared: Shared) -> Found:
    """The same of the large model, one sequence; its weights are built on the device."""
    return _ledger(shared, shared.large, rounds=shared.large_rounds, batch=1)


def ledger_large_batch(shared: Shared) -> Found:
    """The same with 32 sequences."""
    return _ledger(shared, shared.large, rounds=shared.large_rounds, batch=32)


def ledger_stream(shared: Shared) -> Found:
    """Time on the device's stream, which is still there and adds up, and is not called work."""
    found = _run(shared, shared.arch, rounds=2, batch=1, device_detail="stream", detail="phases")
    beside = found.findings.device.get("decode")
    if beside is None:
        return Found("a second ledger that adds up", None, shared.device == "cpu")
    total = sum(part.ns_total for part in beside.ledger.parts.values()) + beside.ledger.residual_ns_total
    off = total - beside.ledger.step_ns_total
    facts = {"stream_step_us": beside.ledger.step_ns / 1e3, "work": list(found.findings.device_work)}
    return Found("a second ledger that adds up", off, off == 0 and not found.findings.device_work, facts)


def _run(shared: Shared, arch: str, *, rounds: int, batch: int, device_detail: Any = None, detail: Any = None) -> Any:
    from perstep.experiments import pipeline
    from perstep.experiments.ledger import Plan

    plan = Plan(
        arch=arch, dtype=shared.dtype, device=shared.device, detail=detail,
        device_detail=None if shared.device == "cpu" else device_detail,
        rounds=rounds, batch=batch, prompt_tokens=shared.prompt_tokens, new_tokens=shared.new_tokens,
        budget=10.0 * rounds,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        return pipeline.run("ledger", plan, progress=lambda _share, _what: None, out=Path(folder) / "run")


def _ledger(shared: Shared, arch: str, *, rounds: int, batch: int, device_detail: Any = None) -> Found:
    from perstep.report.table import to_text

    report = _run(shared, arch, rounds=rounds, batch=batch, device_detail=device_detail)
    found = report.findings
    for host in found.ledgers:
        total = sum(part.ns_total for part in host.parts.values()) + host.residual_ns_total
        if total != host.step_ns_total:
            raise RuntimeError(f"parts and residual of the {host.kind} ledger are {total}, not {host.step_ns_total}")
    work = found.device_work.get("decode")
    if work is None:
        return Found("device-busy time by part", None, shared.device == "cpu", {"invalid": found.invalid})
    facts = {
        "invalid": found.invalid, "unresolved": found.unresolved, "overhead": found.decode.overhead,
        "busy_share": [work.busy_share, work.share_ci_low, work.share_ci_high], "bound": work.bound,
        "idle_us": [work.idle_ns / 1e3, None if work.idle_ci_low is None else work.idle_ci_low / 1e3],
        "busy_us": work.busy_ns / 1e3, "step_us": work.step_ns / 1e3, "launches": work.launches,
        "parts": {n: [p.busy_ns / 1e3, p.launches] for n, p in work.parts.items()},
        "bounds": msgspec.to_builtins(found.device_bounds.get("decode")), "unmatched": work.unmatched,
        "ceilings": msgspec.to_builtins(found.device_ceilings),
        "tables": [to_text(table) for table in report.tables],
    }  # fmt: skip
    reached = bool(work.bound) and not work.unmatched and not found.invalid
    return Found(
        "an interval of busy / step that says what bounds the step; none unmatched", work.busy_share, reached, facts
    )
