"""A Chrome trace is read event by event: every way in which torch writes one, and all that may be wrong with it."""

import gzip
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import HOST, MAIN, annotation, chrome, event, kernel, launch, op, write

from perstep.errors import InputError
from perstep.experiments.ledger.trace.findings import read_trace
from perstep.experiments.ledger.trace.show import tables
from perstep.measure import chrome_trace
from perstep.measure.chrome_trace import ChromeTrace, read_chrome_trace
from perstep.measure.device_rows import Row


def counts(trace: ChromeTrace) -> dict[str, int]:
    """How many there are of each kind, but for none."""
    names = ("ranges", "modules", "ops", "launches", "work")
    return {name: len(getattr(trace, name)) for name in names if getattr(trace, name)}


def read(path: Path, events: list[Any], **beside: Any) -> ChromeTrace:
    """The events of a trace that was written."""
    return read_chrome_trace(write(path, events, **beside))


def test_events_are_told_apart_by_their_category(tmp_path: Path) -> None:
    """What is no work is left out: annotations on the device, waits, overhead, stacks, calls that launch nothing."""
    trace = read(tmp_path / "t.json", [
        annotation("step", 0, 9, External_id=3), op("aten::mul", 1, 2, External_id=4), launch(7, 1), kernel(7, 3, 4),
        event("gpu_memcpy", "Memcpy HtoD", 5, 1, pid=0, tid=7, device=0, stream=7, correlation=8),
        event("gpu_memset", "Memset (Device)", 6, 1, pid=0, tid=7, device=0, stream=7, correlation=9),
        event("python_function", "nn.Module: Linear_3", 1, 1), event("python_function", "model.py(3): forward", 1, 1),
        event("gpu_user_annotation", "step", 3, 4, pid=0, tid=7), event("cuda_sync", "Stream Sync", 3, 1),
        event("overhead", "Activity Buffer Request", 0, 1), event("cuda_runtime", "cudaStreamSynchronize", 2, 1),
        event("cuda_driver", "cuLaunchKernelEx", 2, 1, correlation=8), {"ph": "M", "name": "process_name", "pid": 0},
        {"ph": "i", "name": "Record Window End", "ts": 3}, {"ph": "C", "name": "memory", "ts": 1},
    ])  # fmt: skip
    assert counts(trace) == {"ranges": 1, "modules": 1, "ops": 1, "launches": 2, "work": 3}
    assert trace.work[0] == Row("k", "CUDA", 3_000, 1_000, 7, 0, 0, 7)
    assert trace.ops[0] == Row("aten::mul", "CPU", 1_000, 1_000, 4, 0, 0, 0)
    assert (trace.unreadable, trace.unclosed) == (0, 0)


def test_older_names_of_categories_and_those_of_rocm_are_known(tmp_path: Path) -> None:
    """Builds before torch 1.12 wrote Operator, Runtime, Kernel; those for ROCm write calls that begin with hip."""
    trace = read(tmp_path / "t.json", [
        event("Operator", "aten::mul", 0, 1), event("Runtime", "cudaLaunchKernel", 0, 1, correlation=1),
        event("Kernel", "k", 1, 1, device=0, stream=0, correlation=1), event("Memcpy", "Memcpy DtoH", 2, 1, device=0),
        event("hip_runtime", "hipLaunchKernel", 3, 1, correlation=2), event("hip_runtime", "hipGetDevice", 3, 1),
    ])  # fmt: skip
    assert counts(trace) == {"ops": 1, "launches": 2, "work": 2}


def test_times_are_exact_to_the_nanosecond(tmp_path: Path) -> None:
    """A float of microseconds since 1970 is exact to 250 ns: its decimals are read as they are written."""
    path = tmp_path / "t.json"
    path.write_text('[{"ph":"X","cat":"cpu_op","name":"a","pid":1,"tid":1,"ts":1790857026123456.789,"dur":0.001},'
                    '{"ph":"X","cat":"cpu_op","name":"b","pid":1,"tid":1,"ts":17908570.5e2,"dur":3},'
                    '{"ph":"X","cat":"cpu_op","name":"c","pid":1,"tid":1,"ts":0.0004999,"dur":1e-3}]')  # fmt: skip
    a, b, c = read_chrome_trace(path).ops
    assert (a.start_ns, a.duration_ns) == (1790857026123456789, 1)
    assert (b.start_ns, b.duration_ns) == (1790857050000, 3000)
    assert (c.start_ns, c.duration_ns) == (0, 1)


def test_begins_are_joined_with_their_ends_thread_by_thread(tmp_path: Path) -> None:
    """The innermost that is open ends first; halves without another are counted; without a category it is a range."""

    def half(phase: str, at: float, name: str = "", tid: int = 1) -> dict[str, Any]:
        return {"ph": phase, "ts": at, "pid": HOST, "tid": tid, **({"name": name} if name else {})}

    trace = read(tmp_path / "t.json", [
        half("B", 0, "outer"), half("B", 1, "inner"), half("B", 2, "other", tid=2), half("E", 3), half("E", 5, tid=2),
        half("E", 8, "outer"), half("E", 9), half("B", 10, "open"),
    ])  # fmt: skip
    assert [(row.name, row.start_ns, row.end_ns, row.stream) for row in trace.ranges] == [
        ("inner", 1_000, 3_000, 0), ("other", 2_000, 5_000, 1), ("outer", 0, 8_000, 0),
    ]  # fmt: skip
    assert trace.unclosed == 2


def test_threads_of_two_processes_are_not_mixed(tmp_path: Path) -> None:
    """Process and thread together tell them apart, whether they are numbers or words."""
    trace = read(tmp_path / "t.json", [op("a", 0, 1), op("b", 0, 1, pid=42), op("c", 0, 1, pid="42", tid="main")])
    assert [(row.stream, row.device) for row in trace.ops] == [(0, 0), (1, 1), (2, 1)]
    assert trace.processes == [0, 1, 1]


def test_without_correlations_the_arrows_join_launches_and_kernels(tmp_path: Path) -> None:
    """`ac2g` flows; a kernel that neither has is not taken for another's."""
    bare = [event("cuda_runtime", "cudaLaunchKernel", 1, 1), kernel(0, 5, 6), kernel(0, 8, 9)]
    flow = {"cat": "ac2g", "name": "ac2g"}
    arrows = [
        {"ph": "s", "id": 12, "pid": HOST, "tid": MAIN, "ts": 1, **flow},
        {"ph": "f", "id": 12, "pid": 0, "tid": 7, "ts": 5, "bp": "e", **flow},
    ]
    for events in ([*bare, *arrows], [*arrows, *bare]):
        trace = read(tmp_path / "t.json", events)
        assert [row.correlation for row in trace.launches] == [12]
        assert [row.correlation for row in trace.work] == [12, 0]
    assert read(tmp_path / "t.json", bare).launches[0].correlation < 0


def test_the_names_of_devices_are_kept(tmp_path: Path) -> None:
    """As far as the trace has them; what is odd there harms nothing."""
    devices = [{"id": 0, "name": "NVIDIA H200"}, {"id": "x"}, 3]
    assert read(tmp_path / "t.json", [op("a", 0, 1)], deviceProperties=devices).devices == {0: "NVIDIA H200"}


def test_events_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    """No time, no name, a time that goes back, no event at all: the others stay."""
    bad: list[Any] = [op("a", 0, 1), {**op("b", 0, 1), "ts": "soon"}, {**op("c", 0, 1), "ts": None}, op("d", 5, 4),
                      {**op("e", 0, 1), "name": 7}, 3, {}, {**op("f", 0, 1), "ts": float("nan")}]  # fmt: skip
    trace = read(tmp_path / "t.json", bad)
    assert (counts(trace), trace.unreadable) == ({"ops": 1}, 7)


def test_names_hold_nothing_that_a_terminal_would_obey(tmp_path: Path) -> None:
    """Escapes, line ends and halves of characters become spaces."""
    devices = [{"id": 0, "name": "GPU\x07"}]
    trace = read(tmp_path / "t.json", [op("a\x1b[31m\nb\ud800", 0, 1), op("näïve 語", 0, 1)], deviceProperties=devices)
    assert [row.name for row in trace.ops] == ["a [31m b ", "näïve 語"]
    assert trace.devices == {0: "GPU "}


def test_times_that_no_clock_shows_are_none(tmp_path: Path) -> None:
    """However they are written: they would not fit into the integers that are computed with."""
    path = tmp_path / "t.json"
    odd = ["1e30", "1" * 30, "1" * 30 + ".5", "-1e300", "1e999999999999", '"²"', '"1.²"', "null", "[1]", "{}"]
    path.write_text(json.dumps([op("good", 0, 1)])[:-1] + "".join(
        f',{{"ph":"X","cat":"cpu_op","name":"a","ts":{ts},"dur":1}}' for ts in odd
    ) + "]")  # fmt: skip
    trace = read_chrome_trace(path)
    assert (len(trace.ops), trace.unreadable) == (1, len(odd))


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
fields = st.fixed_dictionaries({}, optional={
    "ph": st.sampled_from("XBEsfiM") | anything, "name": st.sampled_from(["cudaLaunchKernel", "k"]) | anything,
    "cat": st.sampled_from(["cpu_op", "kernel", "cuda_runtime", "user_annotation", "ac2g"]) | anything,
    "pid": st.integers(0, 2) | anything, "tid": anything, "ts": st.integers(0, 90) | anything, "id": anything,
    "dur": st.integers(0, 9) | anything,
    "args": st.fixed_dictionaries({}, optional={"correlation": anything, "External id": anything, "device": anything})
    | anything,
})  # fmt: skip


@given(st.lists(fields | anything, max_size=12))
def test_whatever_stands_in_an_event_it_is_read_or_counted(
    tmp_path_factory: pytest.TempPathFactory, events: list[Any]
) -> None:
    """Never an exception of another kind, from reading or from finding steps."""
    path = write(tmp_path_factory.mktemp("t") / "t.json", events)
    trace = read_chrome_trace(path)
    assert all(row.duration_ns >= 0 for rows in (trace.ops, trace.work, trace.launches, trace.ranges) for row in rows)
    steps = [annotation("step[DECODE bs=1]", 30 * n, 30 * n + 9) for n in range(5)]
    with suppress(InputError):
        tables(read_trace(write(path, [*steps, *events])).findings)


@given(size=st.integers(1, 400), packed=st.booleans(), listed=st.booleans())
def test_where_a_chunk_ends_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, size: int, packed: bool, listed: bool
) -> None:
    """Inside a number, a name, a character of several bytes or an escape."""
    path = tmp_path_factory.mktemp("t") / ("t.json.gz" if packed else "t.json")
    events = [op('aten::µ\\"{[', 1234.567, 1236), kernel(7, 3, 4), annotation("näme ]}", 0, 90)]
    text = json.dumps(events if listed else {"schemaVersion": 123456, "traceEvents": events, "last": [1.5, {}]})
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    whole = read_chrome_trace(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chrome_trace, "CHUNK", size)
        assert read_chrome_trace(path) == whole
    assert whole.ops[0].name == 'aten::µ\\"{['
    assert (whole.ops[0].start_ns, whole.ranges[0].name) == (1_234_567, "näme ]}")


def test_how_far_it_has_been_read_is_told(tmp_path: Path) -> None:
    """Shares of the file, from its beginning to its end."""
    told: list[float] = []
    read_chrome_trace(write(tmp_path / "t.json.gz", [op("a", 0, 1)]), told.append)
    assert (told[0], told[-1]) == (0.0, 1.0)


BAD: dict[str, tuple[bytes, str]] = {
    "empty.json": (b"", "an empty file"),
    "text.json": (b"hello", "not a Chrome trace: '{' is missing at character 0"),
    "number.json": (b"12", "not a Chrome trace"),
    "other.json": (b'{"a": 1}', "JSON, but no list of traceEvents"),
    "events.json": (b'{"traceEvents": 3}', "JSON, but no list of traceEvents"),
    "cut.json": (b'{"traceEvents": [{"ph": "X", "na', "no valid JSON, or the file is cut off, at character 17"),
    "open.json": (b'{"traceEvents": [{"ph": "X"}', "',' is missing at character 28, the file is cut off"),
    "after.json": (b'{"traceEvents": []} 3', "something follows the trace"),
    "comma.json": (b'[{"ph": "X"},]', "a value is missing"),
    "middle.json": (b'[{"ph": "X"} {"ph": "X"}]', "',' is missing at character 13"),
    "no_colon.json": (b'{"a" 3}', "':' is missing"),
    "key.json": (b"{3: 4}", "a key is no text"),
    "named.json.gz": (b'{"traceEvents": []}', "named .gz, but not packed by gzip"),
    "packed.json.gz": (gzip.compress(b"[" + b" " * 100_000)[:60], "damaged or cut off"),
    "garbled.json.gz": (gzip.compress(b"[]")[:10] + b"\xff" * 20, "damaged or cut off"),
    "deep.json": (b"[" * 1_000_000, "nested deeper than a trace ever is"),
    "deep_event.json": (b'{"traceEvents": [' + b'{"a":' * 1_000_000, "nested deeper than a trace ever is"),
    "long_number.json": (b'[{"ts": ' + b"1" * 100_000 + b"}]", "not a Chrome trace"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_trace_is_refused_by_what_is_wrong(tmp_path: Path, name: str) -> None:
    """In one line that names the file."""
    content, why = BAD[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_chrome_trace(path)
    assert why in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    """By what they are."""
    with pytest.raises(InputError, match="not a file"):
        read_chrome_trace(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        read_chrome_trace(tmp_path / "t.json")


@pytest.mark.parametrize(
    ("limit", "value", "why"),
    [("MOST_CHARACTERS", 2_000, "more than 2,000 characters"), ("MOST_EVENTS", 9, "more than 9 events"),
     ("LONGEST_EVENT", 100, "or more than 100 characters")],
)  # fmt: skip
def test_what_is_larger_than_any_trace_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int, why: str
) -> None:
    """Before it fills the memory."""
    path = write(
        tmp_path / "t.json", [op("a" * (3_000 if limit == "LONGEST_EVENT" else 3), i, i + 1) for i in range(40)]
    )
    read_chrome_trace(path)
    monkeypatch.setattr(chrome_trace, "CHUNK", 64)
    monkeypatch.setattr(chrome_trace, limit, value)
    with pytest.raises(InputError, match=why):
        read_chrome_trace(path)


def test_the_real_trace_comes_back_row_by_row(tmp_path: Path, h200_rows: list[Row]) -> None:
    """Written as Kineto writes it, then read: the same kernels, launches and ranges with the same nanoseconds."""
    trace = read_chrome_trace(write(tmp_path / "t.json.gz", chrome(h200_rows)))

    def known(rows: list[Row]) -> set[tuple[str, int, int]]:
        return {(row.name, row.start_ns, row.duration_ns) for row in rows}

    ranges = [row for row in h200_rows if row.name.startswith("perstep:")]
    assert known(trace.work) == known([row for row in h200_rows if not row.on_host and row not in ranges])
    assert len(trace.work) == 7472
    assert known(trace.ranges) == known([row for row in ranges if row.on_host])
