"""What a trace says of a step: on made-up traces with everything in them that a trace may have, and on real ones."""

from pathlib import Path
from typing import Any

import pytest
from made_up import Event, annotation, chrome, event, kernel, launch, op, write

from perstep.errors import InputError
from perstep.experiments.ledger.trace.findings import TraceFindings, TraceLedger, read_trace
from perstep.experiments.ledger.trace.show import csv, tables
from perstep.measure import RESIDUAL
from perstep.measure.device_rows import Row
from perstep.measure.device_work import UNMATCHED, attribute
from perstep.report import to_text

LONG = 1000
"""Microseconds of a made-up step."""


def found(path: Path, events: list[Event], **options: Any) -> TraceFindings:
    """What such a trace says."""
    return read_trace(write(path / "t.json.gz", events), **options).findings


def steps(count: int, inside: Any, *, long: float = LONG, name: str = "step[DECODE bs=1]") -> list[Event]:
    """Steps one after the other, and a last one that has no end: `inside(number, start)` makes what lies in them."""
    made: list[Event] = []
    for number in range(count + 1):
        made += [annotation(name, number * long, number * long + 0.9 * long), *inside(number, number * long)]
    return made


def busy(ledger: TraceLedger, device: str = "0") -> dict[str, tuple[float, float, float]]:
    """Part -> (busy, sum, launches), times in microseconds."""
    parts = ledger.devices[device].parts
    return {name: (part.busy_ns / 1e3, part.sum_ns / 1e3, part.launches) for name, part in parts.items()}


def forward(number: int, at: float) -> list[Event]:
    """A step: two parts of the host, two streams that overlap by 50 µs."""
    return [
        annotation("attn", at + 100, at + 300), op("aten::mm", at + 150, at + 250, External_id=8 * number),
        launch(2 * number + 1, at + 200), kernel(2 * number + 1, at + 400, at + 600, "mm"),
        annotation("mlp", at + 300, at + 500), launch(2 * number + 2, at + 350),
        kernel(2 * number + 2, at + 550, at + 650, "gelu", stream=8),
    ]  # fmt: skip


# The device


def test_kernels_belong_to_the_range_that_launched_them_and_an_instant_to_the_first(tmp_path: Path) -> None:
    """Two streams overlap by 50 µs: these belong to the kernel that started first, and the sum counts them twice."""
    [ledger] = found(tmp_path, steps(20, forward)).ledgers
    assert (ledger.kind, ledger.steps, ledger.ramp_up) == ("decode", 20, 0)
    assert busy(ledger) == {"attn": (200, 200, 1), "mlp": (50, 100, 1)}
    work = ledger.devices["0"]
    assert (work.busy_ns, work.step_ns, work.idle_ns, work.busy_share) == (250e3, 1e6, 750e3, 0.25)
    assert (work.bound, work.idle_ci_low, work.idle_ci_high) == ("host-bound", 750e3, 750e3)
    assert {name: part.ns for name, part in ledger.host.items()} == {
        "step[DECODE bs=1]": 500e3, "attn": 200e3, "mlp": 200e3, RESIDUAL: 100e3,
    }  # fmt: skip
    assert [kernel.name for kernel in work.parts["attn"].kernels] == ["mm"]


def test_the_steps_of_a_page_are_those_that_are_counted(tmp_path: Path) -> None:
    """Without those that are ramp-up; in each, parts and residual are the step, in whole nanoseconds."""
    slow = steps(
        3, lambda n, at: [annotation("warm", at + 10, at + 2_000), op("aten::copy_", at + 20, at + 30)], long=3000
    )
    later = [{**e, "ts": e["ts"] + 9_000} for e in steps(20, forward)]
    read = read_trace(write(tmp_path / "t.json.gz", [e for e in slow if e["ts"] < 9_000] + later))
    [ledger] = read.findings.ledgers
    samples = read.steps["decode"]
    assert (ledger.ramp_up, ledger.steps) == (3, 20)
    assert samples.step_ns.ravel().tolist() == 20 * [LONG * 1000]
    assert (sum(samples.parts.values()) + samples.residual_ns == samples.step_ns).all()
    assert set(samples.parts["attn"].ravel()) == {200_000}


def test_a_device_that_works_behind_the_host_is_told_by_its_launches(tmp_path: Path) -> None:
    """With clocks that differ and kernels that run a step later nothing moves; both are said or do no harm."""
    for shift in (-300, 1_500):
        events = [{**e, "ts": e["ts"] + shift} if e["cat"] == "kernel" else e for e in steps(20, forward)]
        result = found(tmp_path, events)
        assert busy(result.ledgers[0]) == {"attn": (200, 200, 1), "mlp": (50, 100, 1)}
        said = to_text(tables(result)[0])
        assert ("clocks of host and device differ by up to 100 µs" in said) == (shift < 0)


def test_kernels_without_a_launch_have_a_row_of_their_own(tmp_path: Path) -> None:
    """A launch that is missing: by the operator around it if that is known, else said with its share of the time."""

    def inside(number: int, at: float) -> list[Event]:
        known = event("kernel", "copy", at + 700, 10, pid=0, tid=7, device=0, stream=7, External_id=900 + number)
        return [*forward(number, at), kernel(0, at + 800, at + 840, "lost"), known,
                annotation("sample", at + 500, at + 600),
                op("aten::copy_", at + 510, at + 520, External_id=900 + number)]  # fmt: skip

    result = found(tmp_path, steps(20, inside))
    assert busy(result.ledgers[0])[UNMATCHED] == (40, 40, 0)
    assert busy(result.ledgers[0])["sample"] == (10, 10, 0)
    assert "11.43 % of device time (21 kernels) has no launch in the trace" in to_text(tables(result)[0])


def replayed(number: int, at: float, *, eager: bool) -> list[Event]:
    """Ten kernels of two parts: launched one by one in ranges, or by one replay."""
    first = 20 * number + 1
    made = [annotation("replay", at + 50, at + 60)] if not eager else []
    made += [annotation(name, at + 100 * i, at + 100 * i + 90) for i, name in ((1, "attn"), (2, "mlp")) if eager]
    for i in range(10):
        one, place = first + (i if eager else 0), at + (100 if i < 5 else 200) + 10 * (i % 5)
        made.append(kernel(one, at + 400 + 20 * i, at + 410 + 20 * i, f"k{i % 7}"))
        if eager:
            made.append(launch(one, place))
    return made if eager else [*made, launch(first, at + 55, "cudaGraphLaunch")]


def test_replays_of_a_graph_are_split_by_what_was_seen_under_ranges(tmp_path: Path) -> None:
    """Two prefills launch one by one what the decode steps replay; without them nothing is split, and that is said."""
    eager = steps(1, lambda n, at: replayed(n, at, eager=True), name="step[EXTEND bs=1 toks=9]")
    graph = steps(20, lambda n, at: replayed(n + 2, at + 2 * LONG, eager=False))
    graph = [
        {**e, "ts": e["ts"] + (2 * LONG if e["cat"] == "user_annotation" and e["name"][0] == "s" else 0)} for e in graph
    ]
    result = found(tmp_path, [*eager, *graph])
    [decode] = result.ledgers
    assert busy(decode) == {"attn": (50, 50, 0), "mlp": (50, 50, 0), "replay": (0, 0, 1)}
    assert any("prefill: too few steps to show (2 steps)" in note for note in result.notes)
    assert "graph replays could be split into parts" in to_text(tables(result)[0])
    [whole] = found(tmp_path, graph).ledgers
    assert busy(whole) == {"replay": (100, 100, 1)}
    said = to_text(tables(found(tmp_path, graph))[0])
    assert "100.0 % of device time is in graph replays of replay and is not split" in said


def test_each_device_has_a_table_of_its_own(tmp_path: Path) -> None:
    """Their times are never added."""

    def inside(number: int, at: float) -> list[Event]:
        return [
            *forward(number, at),
            launch(500 + number, at + 420),
            kernel(500 + number, at + 500, at + 950, device=1),
        ]

    result = found(tmp_path, steps(20, inside))
    assert busy(result.ledgers[0], "0") == {"attn": (200, 200, 1), "mlp": (50, 100, 1)}
    assert busy(result.ledgers[0], "1") == {"mlp": (450, 450, 1)}
    titles = [table.title for table in tables(result)]
    assert len(titles) == 2
    assert "device 1" in titles[1]


def test_a_kernel_of_the_name_of_its_operator_is_work(tmp_path: Path) -> None:
    """Triton's have: torch.compile lays an operator of the kernel's name around its launch."""

    def inside(number: int, at: float) -> list[Event]:
        return [
            op("triton_add_0", at + 10, at + 30),
            launch(number + 1, at + 20),
            kernel(number + 1, at + 50, at + 90, "triton_add_0"),
        ]

    [ledger] = found(tmp_path, steps(20, inside)).ledgers
    assert busy(ledger) == {"step[DECODE bs=1]": (40, 40, 1)}


def test_what_other_processes_did_is_left_out(tmp_path: Path) -> None:
    """And where both number their launches alike their kernels cannot be told apart: refused."""
    other = [launch(7_000 + n, LONG * n + 600, pid=77) for n in range(20)]
    other += [kernel(7_000 + n, LONG * n + 700, LONG * n + 720, "other", device=0) for n in range(20)]
    result = found(tmp_path, [*steps(20, forward), *other])
    assert busy(result.ledgers[0]) == {"attn": (200, 200, 1), "mlp": (50, 100, 1)}
    assert "Left out: the work of 1 other process." in result.notes
    with pytest.raises(InputError, match="several processes share correlation ids"):
        found(tmp_path, [*steps(20, forward), launch(3, 610, pid=77)])


@pytest.mark.parametrize(("took", "bound"), [(100, "host-bound"), (700, "balanced"), (950, "device-bound")])
def test_what_bounds_the_step_is_said_with_what_the_profiler_does_to_it(
    tmp_path: Path, took: float, bound: str
) -> None:
    """Without it the step is shorter: a host-bound step can save less, a device-bound one is it all the more."""

    def inside(number: int, at: float) -> list[Event]:
        return [launch(number + 1, at + 5), kernel(number + 1, at + 10, at + 10 + took)]

    result = found(tmp_path, steps(20, inside))
    said = tables(result)[0].notes[0]
    assert said.startswith(f"{bound}: kernels run {took / 1000:.3f} of 1.00 ms")
    assert ("even larger" in said) == (bound == "device-bound")
    assert "The profiler was on" in said


def test_few_steps_give_numbers_and_no_interval(tmp_path: Path) -> None:
    """Then nothing is said to bound the step, and what would help is."""
    result = found(tmp_path, steps(4, forward))
    [ledger] = result.ledgers
    assert (ledger.step_ci_low, ledger.devices["0"].bound) == (None, "")
    assert "4 steps give no interval; profile more steps." in tables(result)[0].notes[0]


def test_ramp_up_is_left_out_and_said(tmp_path: Path) -> None:
    """The first step launches other kernels, the second takes twice as long."""

    def inside(number: int, at: float) -> list[Event]:
        at += LONG if number > 1 else 0
        names = [f"compile{i}" for i in range(5)] if number == 0 else ["mm"] * 5
        made = [launch(10 * number + i, at + 10 * i) for i in range(1, 6)]
        return [*made, *(kernel(10 * number + i, at + 500 + 9 * i, at + 505 + 9 * i, name)
                         for i, name in enumerate(names, 1))]  # fmt: skip

    events = steps(12, inside)
    for e in events:
        if e["cat"] == "user_annotation" and e["ts"] > LONG:
            e["ts"] += LONG
    result = found(tmp_path, events)
    assert (result.ledgers[0].ramp_up, result.ledgers[0].steps) == (2, 10)
    assert "Left out as ramp-up: 2 steps at the beginning" in to_text(tables(result)[0])


def test_ranges_with_a_number_in_their_name_are_one_part(tmp_path: Path) -> None:
    """Where a name occurs in fewer than half of the steps; a layer's number stays."""

    def inside(number: int, at: float) -> list[Event]:
        return [annotation(f"request {number}", at + 10, at + 20), annotation("layer 1", at + 30, at + 40),
                annotation("layer 2", at + 50, at + 70), op("a", at, at + 1)]  # fmt: skip

    [ledger] = found(tmp_path, steps(6, inside)).ledgers
    assert {name: part.ns for name, part in ledger.host.items() if not name.startswith("step")} == {
        "request *": 10e3, "layer 1": 10e3, "layer 2": 20e3, RESIDUAL: 100e3,
    }  # fmt: skip


# The host


def test_host_parts_and_residual_are_the_step(tmp_path: Path) -> None:
    """Exclusive of each other; a part's operators take some of its time, nested ones their own alone."""

    def inside(number: int, at: float) -> list[Event]:
        slow = 5 * (number % 3)
        return [annotation("forward", at + 100, at + 700), annotation("attn", at + 200, at + 400 + slow),
                op("aten::linear", at + 210, at + 310), op("aten::addmm", at + 230, at + 300),
                op("aten::mul", at + 500, at + 510), op("aten::argmax", at + 800, at + 850),
                op("elsewhere", at + 200, at + 300, tid=9)]  # fmt: skip

    result = found(tmp_path, steps(21, inside, name="turn"), step="turn")
    [ledger] = result.ledgers
    assert ledger.devices == {}
    assert sum(part.ns for part in ledger.host.values()) == pytest.approx(ledger.step_ns)
    attn = ledger.host["attn"]
    assert (attn.ns, attn.operators_ns, attn.operators) == (205e3, 100e3, 2)
    assert {call.name: (call.ns_per_step, call.per_step) for call in attn.calls} == {
        "aten::addmm": (70e3, 1), "aten::linear": (30e3, 1),
    }  # fmt: skip
    assert ledger.host["forward"].ns == 395e3
    assert {call.name for part in ledger.host.values() for call in part.calls} >= {"aten::argmax", "aten::mul"}
    assert attn.ci_low is not None
    assert attn.ci_low <= attn.ns <= attn.ci_high
    said = to_text(tables(result)[0])
    assert "No device worked in these steps" in said
    assert "aten::addmm" in said


def test_one_slow_step_does_not_move_the_rows_and_is_said(tmp_path: Path) -> None:
    """The machine was elsewhere for 20 ms: medians stay, the mean stands beside."""

    def inside(number: int, at: float) -> list[Event]:
        late = 20 * LONG if number > 7 else 0
        return [op("aten::mul", at + late + 100, at + late + 200 + (20 * LONG if number == 7 else 0))]

    events = steps(15, inside, name="turn")
    for e in events:
        if e["name"] == "turn" and e["ts"] > 7 * LONG:
            e["ts"] += 20 * LONG
    [ledger] = found(tmp_path, events, step="turn").ledgers
    assert (ledger.step_ns, ledger.slow) == (1e6, 1)
    [mul] = ledger.host["turn"].calls
    assert mul.ns_per_step == 100e3
    assert [call.ns_per_step for call in ledger.host[RESIDUAL].calls] == [0]
    assert "1 step took more than 1.5 times the median" in to_text(tables(found(tmp_path, events, step="turn"))[0])


def test_parts_may_be_modules(tmp_path: Path) -> None:
    """By class; asked for where there are none they are refused, with what records them."""

    def inside(number: int, at: float) -> list[Event]:
        return [annotation("forward", at, at + 900),
                *(event("python_function", f"nn.Module: {name}", at + s, d)
                  for name, s, d in (("Top_0", 10, 500), ("Linear_0", 20, 100), ("Linear_12", 200, 150)))]  # fmt: skip

    events = steps(8, inside)
    [ledger] = found(tmp_path, events, parts="modules").ledgers
    assert {name: part.ns for name, part in ledger.host.items()} == {"Top": 250e3, "Linear": 250e3, RESIDUAL: 500e3}
    assert found(tmp_path, events).parts_by == "ranges"
    without = [e for e in events if e["cat"] != "python_function"]
    with pytest.raises(InputError, match=r"no call of an nn\.Module in the steps; profile with with_stack=True"):
        found(tmp_path, without, parts="modules")


def test_decode_stands_first_and_steps_of_several_names_are_said(tmp_path: Path) -> None:
    """Any other kind has a ledger of its own; different batch sizes do different work."""

    def name(n: int) -> str:
        return f"step[CHUNK bs={n}]" if n % 4 == 0 else f"step[DECODE bs={n}]"

    events = [annotation(name(n), LONG * n, LONG * n + (900 if n % 4 == 0 else 300)) for n in range(33)]
    result = found(tmp_path, events)
    assert [ledger.kind for ledger in result.ledgers] == ["decode", "chunk"]
    assert [ledger.steps for ledger in result.ledgers] == [24, 8]
    assert result.ledgers[0].names_in_all == 24
    assert "The steps have 24 names, most often" in to_text(tables(result)[0])


def test_operators_add_up_to_their_part_where_medians_do_not(tmp_path: Path) -> None:
    """Each of three parts is three times as long in every third step: rows are scaled, and operators with them."""

    def inside(number: int, at: float) -> list[Event]:
        made, start = [], at + 10
        for part in range(3):
            end = start + (300 if number % 3 == part else 100)
            made += [annotation(f"part {part}", start, end), op(f"op {part}", start, end)]
            start = end
        return made

    [ledger] = found(tmp_path, steps(21, inside, long=510, name="turn"), step="turn").ledgers
    assert sum(part.ns for part in ledger.host.values()) == pytest.approx(510e3)
    for part in range(3):
        held = ledger.host[f"part {part}"]
        assert held.ns > 120e3
        assert held.operators_ns == pytest.approx(held.ns)
        assert [call.ns_per_step for call in held.calls] == pytest.approx([held.ns])


def test_ranges_that_reach_into_the_next_step_and_those_of_other_threads_are_no_parts_of_the_hosts_time(
    tmp_path: Path,
) -> None:
    """One is not below a step; the other happened beside it, and kernels launched there are its own all the same."""

    def inside(number: int, at: float) -> list[Event]:
        return [annotation("attn", at + 100, at + 300), annotation("request", at + 400, at + 1100),
                annotation("sampling thread", at + 150, at + 850, tid=9), launch(number + 1, at + 200, tid=9),
                kernel(number + 1, at + 300, at + 400)]  # fmt: skip

    [ledger] = found(tmp_path, steps(12, inside, name="turn"), step="turn").ledgers
    assert {name: part.ns for name, part in ledger.host.items()} == {"turn": 700e3, "attn": 200e3, RESIDUAL: 100e3}
    assert busy(ledger) == {"sampling thread": (100, 100, 1)}


# Real traces


def test_the_real_step_of_an_h200_comes_out_as_by_its_stored_rows(
    tmp_path: Path, h200_rows: list[Row], h200_steps: list[tuple[str, int, int]]
) -> None:
    """Written as a Chrome trace: steps found by repetition, the prefill left out, the same kernels in each part."""
    path = write(tmp_path / "t.json.gz", chrome(h200_rows), deviceProperties=[{"id": 0, "name": "NVIDIA H200"}])
    result = read_trace(path).findings
    assert "the range perstep:forward occurs 6 times" in result.steps_by
    [ledger] = result.ledgers
    assert (ledger.steps, ledger.ramp_up) == (4, 1)
    stored = attribute(h200_rows, steps=h200_steps).steps[1:5]
    work = ledger.devices["0"]
    for name in stored[0].parts:
        expected = [one.parts[name] for one in stored]
        # Each launch of a kernel and the sleep are in the same part; what happens between two steps is one step's.
        assert work.parts[name].sum_ns == sum(part.sum_ns for part in expected) / 4
        assert work.parts[name].launches == sum(part.launches for part in expected) / 4
    assert work.busy_ns == pytest.approx(sum(one.busy_ns for one in stored) / 4, rel=0.01)
    assert 7 in {round(100 * work.busy_share)}
    assert "NVIDIA H200" in tables(result)[0].title


@pytest.mark.hf
@pytest.mark.parametrize(("stack", "ranges"), [(False, False), (True, False), (False, True)])
def test_a_trace_that_torch_writes_here_has_a_step_for_each_forward(
    tmp_path: Path, tiny_model: Any, ids: Any, stack: bool, ranges: bool
) -> None:
    """Eleven forwards of generate: found by operators alone, by modules, or by ranges that a user laid around."""
    from torch.profiler import ProfilerActivity, profile, record_function

    forward = type(tiny_model).forward

    def marked(*args: Any, **options: Any) -> Any:
        with record_function("my forward"):
            return forward(tiny_model, *args, **options)

    if ranges:
        tiny_model.forward = marked
    try:
        with profile(activities=[ProfilerActivity.CPU], with_stack=stack) as profiled:
            tiny_model.generate(ids, max_new_tokens=11, min_new_tokens=11, do_sample=False)
    finally:
        tiny_model.__dict__.pop("forward", None)
    path = tmp_path / "t.json.gz"
    profiled.export_chrome_trace(str(path))
    result = read_trace(path).findings
    what = (
        "range my forward"
        if ranges
        else "module nn.Module: LlamaForCausalLM_0"
        if stack
        else "operator aten::embedding"
    )
    assert f"the {what} occurs 11 times" in result.steps_by
    [ledger] = result.ledgers
    assert ledger.steps + ledger.ramp_up == 10  # the last one has no end in the trace
    calls = {call.name: call.per_step for part in ledger.host.values() for call in part.calls}
    assert calls["aten::embedding"] == calls["aten::argmax"] == 1
    assert sum(part.ns for part in ledger.host.values()) == pytest.approx(ledger.step_ns)
    products = sum(c.per_step for p in ledger.host.values() for c in p.calls if c.name in ("aten::mm", "aten::addmm"))
    assert products == 15  # four of attention and three of the feed-forward part in each of two layers, and the head
    if stack:
        assert result.parts_by == "modules"
        assert ledger.host["LlamaMLP"].operators == 2  # its projections are parts of their own
        assert {"LlamaAttention", "LlamaRMSNorm", "Linear", "Embedding"} <= set(ledger.host)
    else:
        assert result.parts_by == ("ranges" if ranges else "none")
        assert set(ledger.host) == ({"my forward", RESIDUAL} if ranges else {RESIDUAL})


@pytest.mark.hf
def test_layers_of_two_kinds_are_not_taken_for_steps_in_a_real_model(tmp_path: Path) -> None:
    """Gemma's, with a sliding window in two of three: seven forwards in each of two calls of generate."""
    import torch
    import transformers
    from torch.profiler import ProfilerActivity, profile

    torch.manual_seed(0)
    config = transformers.Gemma3TextConfig(
        vocab_size=97, hidden_size=32, intermediate_size=64, num_hidden_layers=6, num_attention_heads=4, head_dim=8,
        num_key_value_heads=2, sliding_window=8, pad_token_id=0, eos_token_id=None,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"] * 2,
    )  # fmt: skip
    model = transformers.Gemma3ForCausalLM(config).eval()
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(2):
            model.generate(torch.arange(1, 6)[None], max_new_tokens=7, min_new_tokens=7, do_sample=False)
    path = tmp_path / "t.json"
    profiled.export_chrome_trace(str(path))
    result = read_trace(path).findings
    assert "occurs 14 times" in result.steps_by
    [ledger] = result.ledgers
    assert ledger.steps + ledger.ramp_up == 13
    attended = [
        call.per_step for call in ledger.host[RESIDUAL].calls if call.name == "aten::scaled_dot_product_attention"
    ]
    assert attended == [6]


# What cannot be


@pytest.mark.parametrize(
    ("events", "why"),
    [
        ([], "a trace without kernels, operators and ranges"),
        ([kernel(1, 0, 1), kernel(2, 3, 4)], "kernels without host events"),
        ([op(f"op{i}", i, i + 1) for i in range(40)], "no steps: no range has the name of a step"),
        ([annotation("step[DECODE bs=1]", 0, 1), annotation("step[DECODE bs=1]", 1, 2)], "no steps"),
    ],
)
def test_a_trace_that_says_nothing_is_refused_by_what_it_lacks(tmp_path: Path, events: list[Event], why: str) -> None:
    """With the name of the file, and what to profile."""
    with pytest.raises(InputError) as caught:
        found(tmp_path, events)
    assert why in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_the_csv_has_every_part_with_full_names(tmp_path: Path) -> None:
    """Host and device, in nanoseconds."""
    result = found(tmp_path, steps(20, forward))
    lines = csv(result).splitlines()
    [table] = tables(result)
    assert lines[0].split(",") == [column.name for column in table.columns if column.name]
    assert lines[0] == "kind,where,part,name,ns_per_step,ci_low_ns,ci_high_ns,sum_ns_per_step,per_step"
    assert "decode,host,attn,,200000.0,200000.0,200000.0,100000.0,1.0" in lines
    assert "decode,device 0,mlp,,50000.0,50000.0,50000.0,100000.0,1.0" in lines
    assert "decode,device 0,mlp,gelu,,,,100000.0,1.0" in lines
