"""Ranges of parts and steps, and what a profiler makes of them; the lab that times kernels; on the host alone."""

from collections.abc import Callable
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest

from perstep.errors import InvalidMeasurement
from perstep.machine.device_ceilings import DeviceArm, device_arms
from perstep.measure import RESIDUAL
from perstep.measure.device_rows import Row
from perstep.measure.device_work import StepWork, TraceWork
from perstep.targets.transformers import Instrument
from perstep.targets.transformers.device_lab import CudaLab
from perstep.targets.transformers.device_profile import KinetoProfiler, RangeRecorder, profile_steps
from perstep.theory import read_config

pytestmark = pytest.mark.hf
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")


class Log:
    """Ranges as they are entered and left."""

    def __init__(self) -> None:
        self.said: list[str] = []

    @contextmanager
    def range(self, name: str) -> Any:
        """A range."""
        self.said.append(f"+{name}")
        yield
        self.said.append(f"-{name}")


def test_parts_follow_each_other_inside_their_step() -> None:
    """A mark ends the part before; what lies in no part has no range; turning ends one step and begins the next."""
    log = Log()
    recorder = RangeRecorder(log.range)
    recorder.begin("prefill")
    recorder.mark("a")
    recorder.mark("b")
    recorder.mark(RESIDUAL)
    recorder.turn("decode")
    recorder.mark("a")
    recorder.end()
    assert log.said == [
        "+perstep-step:prefill", "+perstep:a", "-perstep:a", "+perstep:b", "-perstep:b", "-perstep-step:prefill",
        "+perstep-step:decode", "+perstep:a", "-perstep:a", "-perstep-step:decode",
    ]  # fmt: skip


def test_steps_that_were_dropped_or_lost_are_not_taken_for_others() -> None:
    """A dropped one has a range all the same; a step that the trace lacks makes it useless."""
    recorder = RangeRecorder(Log().range)
    for _ in range(3):
        recorder.begin()
    recorder.drop()
    recorder.begin()
    recorder.end()
    steps = [StepWork(str(number)) for number in range(4)]
    assert [step.kind for step in recorder.kept(TraceWork(steps))] == ["0", "1", "3"]
    with pytest.raises(InvalidMeasurement, match="3 of 4 steps"):
        recorder.kept(TraceWork(steps[:3]))


def test_a_call_becomes_steps_and_parts_in_the_profilers_own_trace(llama: Any, ids: Any) -> None:
    """One prefill and two decode steps of a real call; the ranges lie where the marks of a recorder would."""
    made = llama
    recorder, seen = RangeRecorder(), []

    class Kept:
        def rows(self, call: Callable[[], None]) -> list[Row]:
            seen.extend(KinetoProfiler("cpu").rows(call))
            return seen

    with Instrument(made, recorder, "modules"):
        work = profile_steps(
            Kept(), recorder, lambda: made.generate(ids, max_new_tokens=3, do_sample=False, eos_token_id=None)
        )
    assert [step.kind for step in work.steps] == ["prefill", "decode", "decode"]
    assert work.counts.kernels == 0
    ranges = [row for row in seen if row.name.startswith("perstep:") and row.on_host]
    names = {row.name.removeprefix("perstep:") for row in ranges}
    assert names >= {"norm", "attn", "mlp", "lm_head", "sample", "sync"}
    ranges.sort(key=lambda row: row.start_ns)
    assert all(one.end_ns <= other.start_ns for one, other in pairwise(ranges))


class EveryOperator:
    """The host's rows, and one kernel of as many nanoseconds as its name has letters for each product and addition."""

    def rows(self, call: Callable[[], None]) -> list[Row]:
        """Kernels behind each other."""
        rows, at = KinetoProfiler("cpu").rows(call), 0
        for number, row in enumerate([r for r in rows if r.name in ("aten::mul", "aten::mm", "aten::copy_")], start=1):
            at = max(at, row.start_ns) + 1000
            rows.append(row._replace(name="cudaLaunchKernel", correlation=number))
            rows.append(Row(row.name[6:] + "_kernel", "DeviceType.CUDA", at, len(row.name), number, 0, 0, 7))
        return rows


def test_the_lab_times_each_arm_by_the_kernels_of_its_own_range() -> None:
    """Every arm in every round; what runs no kernel here is left out, and so is what fails."""
    arms, _ = device_arms(itemsize=4, free_bytes=1 << 22, width=64, rows=[1, 2])
    lab = CudaLab("float32", 64, device="cpu", profiler=EveryOperator(), warm_s=0.0)
    found = lab.kernels_ns([*arms, DeviceArm("product.1.8", 1, 8, 1)], rounds=3)
    assert found["kernel.elementwise"] == [len("aten::mul")] * 3
    assert found["copy.262144"][0] == len("aten::copy_")
    assert found["product.2.262144"] == [len("aten::mm")] * 3
    assert found["read.262144"] == [len("aten::mm")] * 3  # the reading before it is in no range
    assert found["kernel.gather"] == []
    assert lab.host_ns("launch") == []


def test_kinetos_own_flops_are_those_of_theory(llama: Any, ids: Any) -> None:
    """Products of a decode step of two rows; attention is one kernel, of which the profiler gives none."""
    from torch.profiler import ProfilerActivity, profile

    from perstep.theory import decode, step_cost

    with torch.no_grad():
        cache = llama(ids, use_cache=True).past_key_values
        with profile(activities=[ProfilerActivity.CPU], with_flops=True) as profiled:
            llama(ids[:, :1], past_key_values=cache, use_cache=True)
    counted = sum(
        e.flops() for e in profiled.profiler.kineto_results.events() if e.name() in ("aten::mm", "aten::addmm")
    )
    parts = step_cost(read_config(llama.config.to_dict()), decode(ids.shape[1], batch=ids.shape[0])).parts
    expected = sum(parts[name].matmul_flops for name in ("attn.qkv", "attn.out", "mlp", "lm_head"))
    assert counted == expected > 0
