"""Where the steps of a trace are: by name, by repetition, without what ramps up."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from made_up import Event, annotation, event, op, write

from perstep.errors import InputError
from perstep.measure.chrome_trace import ChromeTrace, read_chrome_trace
from perstep.measure.trace_steps import FoundSteps, beginning, find_steps, likeness, ramp_up


@pytest.fixture
def trace_of(tmp_path: Path) -> "type[ChromeTrace]":
    """`trace_of(events)`: the trace that holds them."""

    def made(events: list[Event]) -> ChromeTrace:
        return read_chrome_trace(write(tmp_path / "t.json", events))

    return made  # type: ignore[return-value]


def shown(found: FoundSteps) -> list[tuple[str, int, int]]:
    """Kind, start and end in microseconds."""
    return [(step.kind, step.start_ns // 1000, step.end_ns // 1000) for step in found.steps]


# By name


def test_torchs_own_steps_follow_each_other_and_the_last_one_counts(trace_of) -> None:  # type: ignore[no-untyped-def]
    """`ProfilerStep#N` is a whole step, so it is no part of itself; torch itself takes some time between two."""
    found = find_steps(trace_of([annotation(f"ProfilerStep#{n}", 10 * n, 10 * n + 8) for n in range(3, 7)]))
    assert shown(found) == [("step", 30, 40), ("step", 40, 50), ("step", 50, 60), ("step", 60, 68)]
    assert (found.named, found.without_end) == (True, 0)
    assert found.markers == {f"ProfilerStep#{n}" for n in range(3, 7)}
    assert "ProfilerStep" in found.how


def test_vllms_ranges_tell_prefill_from_decode_and_idle_ones_are_no_steps(trace_of) -> None:  # type: ignore[no-untyped-def]
    """A step lasts until the next range begins, since sampling lies behind it; the last one has no end."""
    names = ["execute_context_2(64)_generation_0(0)", "execute_context_0(0)_generation_2(2)",
             "execute_context_1(32)_generation_2(2)", "execute_context_0(0)_generation_0(0)",
             "execute_context_0(0)_generation_3(3)", "execute_context_0(0)_generation_3(3)"]  # fmt: skip
    found = find_steps(trace_of([annotation(name, 10 * i, 10 * i + 6) for i, name in enumerate(names)]))
    assert shown(found) == [("prefill", 0, 10), ("decode", 10, 20), ("mixed", 20, 30), ("decode", 40, 50)]
    assert (found.without_end, found.markers) == (1, frozenset())
    assert "that vLLM writes" in found.how


def test_vllms_older_ranges_and_sglangs_are_known(trace_of) -> None:  # type: ignore[no-untyped-def]
    """Older vLLM cannot tell a chunk of a prefill from a decode step; SGLang says EXTEND for a prefill."""
    names = [
        "execute_new_1_cached_0",
        *["execute_new_0_cached_1"] * 2,
        "execute_new_1_cached_1",
        "execute_new_0_cached_2",
    ]
    found = find_steps(trace_of([annotation(name, 10 * i, 10 * i + 6) for i, name in enumerate(names)]))
    assert [kind for kind, _, _ in shown(found)] == [
        "new requests",
        *["cached requests"] * 2,
        "new and cached requests",
    ]
    names = [
        "step[EXTEND bs=2 toks=64]",
        "step[DECODE bs=2]",
        "step[decode bs=1]",
        "step[IDLE bs=0]",
        "step[MIXED bs=3]",
    ]
    found = find_steps(trace_of([annotation(name, 10 * i, 10 * i + 6) for i, name in enumerate(names)]))
    assert [kind for kind, _, _ in shown(found)] == ["prefill", "decode", "decode"]
    assert "that SGLang writes" in found.how


def test_torchs_steps_get_their_kind_from_the_engines_range_inside(trace_of) -> None:  # type: ignore[no-untyped-def]
    """Where one holds just one; the engine's range is then a part."""
    events = [annotation(f"ProfilerStep#{n}", 10 * n, 10 * n + 10) for n in range(5)]
    inner = ["EXTEND bs=1 toks=9", "DECODE bs=1", "DECODE bs=1", "DECODE bs=1"]
    events += [annotation(f"step[{mode}]", 10 * n + 2, 10 * n + 8) for n, mode in enumerate(inner)]
    found = find_steps(trace_of([*events, annotation("step[DECODE bs=1]", 38.5, 39)]))
    assert [kind for kind, _, _ in shown(found)] == ["prefill", "decode", "decode", "step", "step"]
    assert "step[DECODE bs=1]" not in found.markers


def test_the_step_may_be_named_by_hand(trace_of) -> None:  # type: ignore[no-untyped-def]
    """Exactly, or with a star; among ranges first, then modules, then operators; no other sign has a meaning."""
    events = [annotation(f"run[{n % 2}]", 10 * n, 10 * n + 5) for n in range(8)]
    events += [event("python_function", "nn.Module: M_0", 10 * n + 1, 2) for n in range(8)] + [op("aten::a", 72, 73)]
    trace = trace_of(events)
    assert len(find_steps(trace, name="run[0]").steps) == 3
    assert len(find_steps(trace, name="run[*]").steps) == 7
    assert shown(find_steps(trace, name="nn.Module: M_*"))[0] == ("step", 1, 11)
    with pytest.raises(InputError, match=r"--step run\[2\]: no range, module or operator has this name; .* run\[\*\]"):
        find_steps(trace, name="run[2]")
    with pytest.raises(InputError, match="0 whole steps, found by the name aten::a; at least 3"):
        find_steps(trace, name="aten::a")


def test_ranges_without_time_between_them_are_whole_steps(trace_of) -> None:  # type: ignore[no-untyped-def]
    """Then the last one ends where its step does, and none is a part of itself."""
    found = find_steps(trace_of([annotation("turn", 10 * n, 10 * n + 9.95) for n in range(4)]), name="turn")
    assert [start for _, start, _ in shown(found)] == [0, 10, 20, 30]
    assert (found.markers, found.without_end) == ({"turn"}, 0)


def test_a_range_inside_another_of_its_name_begins_no_step_of_its_own(trace_of) -> None:  # type: ignore[no-untyped-def]
    """Nor do those of a thread that has fewer of them."""
    events = [annotation("f", 10 * n, 10 * n + 5) for n in range(5)] + [
        annotation("f", 10 * n + 1, 10 * n + 2) for n in range(5)
    ]
    events += [annotation("f", 10 * n + 3, 10 * n + 4, tid=9) for n in range(4)]
    assert [start for _, start, _ in shown(find_steps(trace_of(events), name="f"))] == [0, 10, 20, 30]


# By repetition


def test_ranges_that_recur_make_steps_and_the_outermost_begins_them(trace_of) -> None:  # type: ignore[no-untyped-def]
    """Layers have numbers or one name; a range around all is passed over; a number in the name does not matter."""
    for forward in ("forward", "forward {}"):
        events = [annotation("generate", 0, 1000)]
        for n in range(6):
            at = 100 * n + 10
            events += [annotation(forward.format(n), at, at + 80), annotation("embed", at + 1, at + 5)]
            events += [annotation("layer", at + 10 * i, at + 10 * i + 8) for i in range(1, 5)]
            events += [annotation("sample", at + 82, at + 88)]
        found = find_steps(trace_of(events))
        assert [start for _, start, _ in shown(found)] == [100 * n + 10 for n in range(5)]
        assert (found.named, found.without_end) == (False, 1)
        assert f"the range {forward.replace('{}', '*')} occurs 6 times" in found.how


def test_without_ranges_modules_and_then_operators_are_looked_at(trace_of) -> None:  # type: ignore[no-untyped-def]
    """Operators only where they lie in no other."""
    modules, ops = [], []
    for n in range(5):
        at = 100 * n
        modules += [
            event("python_function", f"nn.Module: {m}", at + s, d) for m, s, d in (("Top_0", 0, 90), ("Linear_0", 5, 9))
        ]
        ops += [op("aten::embedding", at, at + 3), op("aten::select", at + 1, at + 2)]
        ops += [op(name, at + 10 * layer + i, at + 10 * layer + i + 0.5)
                for layer in range(1, 7) for i, name in enumerate(("aten::mul", "aten::linear"))]  # fmt: skip
        ops += [op("aten::argmax", at + 80, at + 90)]
    assert "the module nn.Module: Top_0 occurs 5 times" in find_steps(trace_of([*ops, *modules])).how
    found = find_steps(trace_of(ops))
    assert "the operator aten::embedding occurs 5 times" in found.how  # the first of those that are once in a step
    assert [start for _, start, _ in shown(found)] == [0, 100, 200, 300]


@pytest.mark.parametrize("steps", [2, 3])
def test_nothing_is_made_up_where_nothing_recurs(trace_of, steps: int) -> None:  # type: ignore[no-untyped-def]
    """Three ranges have two whole steps between them; two steps of four layers are not eight."""
    events = []
    for n in range(steps):
        names = ["embed", *["norm", "mlp"] * 4, "head", "sample", "stop"]
        events += [op(name, 100 * n + i, 100 * n + i + 0.5) for i, name in enumerate(names)]
    with pytest.raises(InputError, match="nothing repeats four times"):
        find_steps(trace_of(events))


def test_one_step_of_layers_looks_like_many_steps_and_it_is_said_how_they_were_found(trace_of) -> None:  # type: ignore[no-untyped-def]
    """Nothing in it tells a layer from a step."""
    found = find_steps(
        trace_of([op(name, i, i + 0.5) for i, name in enumerate(["embed", *["norm", "mlp"] * 5, "head"])])
    )
    assert (len(found.steps), found.named) == (4, False)
    assert found.how == "repetition: the operator norm occurs 5 times, followed by a similar sequence"


@given(st.data())
def test_a_planted_period_is_found_through_ramp_up_and_jitter(data: st.DataObject) -> None:
    """Layers of one kind or two, a beginning of its own, an extra or a missing item at times: all steps are found."""
    layers = data.draw(st.integers(1, 40), "layers")
    body = list(range(10, 10 + data.draw(st.integers(1, 12), "items a layer")))
    edge = data.draw(st.integers(2, 6), "items before and after the layers")
    other = data.draw(st.integers(0, 4), "every so many layers one of another kind")
    inner = [[*body, 50, 51] if other and i % other == other - 1 else body for i in range(layers)]
    step = [*range(100, 100 + edge), *(item for layer in inner for item in layer), *range(200, 200 + edge)]
    assume(len(step) <= 60 * edge)  # so little beside the layers is not told from none
    assume(len(step) >= 12)  # in a shorter one an item more or less is a tenth of it
    count = data.draw(st.integers(8, 20), "steps")
    length = data.draw(st.integers(0, min(40, len(step) * count // 8)), "items of ramp-up")
    ramp = [data.draw(st.sampled_from([300, 301, *body, 100])) for _ in range(length)]
    odd = data.draw(st.sets(st.integers(0, count - 1), max_size=count // 8), "odd steps")
    codes, starts = list(ramp), []
    for n in range(count):
        made = list(step)
        if n in odd:
            place = data.draw(st.integers(1, len(made) - 2))
            made[place : place + data.draw(st.integers(0, 1))] = [400]
        starts.append(len(codes))
        codes += made
    found = beginning(np.array(codes), np.zeros(401))
    assert found is not None
    places = [i for i, code in enumerate(codes) if code == found and i >= len(ramp)]
    assert len(places) in range(count - len(odd), count + 1)
    offsets = [place - max(start for start in starts if start <= place) for place in places]
    assert max(offsets) - min(offsets) <= 1  # the same place of each step, but for what was put in before it


def test_what_recurs_at_the_edge_alone_begins_no_step() -> None:
    """Twelve times the same before eight steps: alike, and more of them, but they explain little of the trace."""
    assert beginning(np.array([1] * 12 + [2, 3, 4, 5, 6] * 8), np.zeros(7)) == 2


def test_a_name_that_also_occurs_between_two_calls_does_not_begin_the_step() -> None:
    """Two calls of generate of ten steps each, whose beginning looks at the same thing as each step does."""
    step = [2, 3, *[4, 5] * 30, 6]
    assert beginning(np.array(([1, 6, 1] + step * 10) * 2), np.zeros(7)) == 2


@pytest.mark.parametrize("period", [2, 3, 6])
def test_layers_of_two_kinds_are_no_steps(period: int) -> None:
    """A sliding window in most, the whole context in every so many: in the same order in each step."""
    layers = [[*range(20, 40), *([1, 1] if (i + 1) % period == 0 else []), 2, *range(60, 80)] for i in range(6)]
    step = [0, 3, *(item for layer in layers for item in layer), *range(4, 10)]
    assert beginning(np.array(step * 13), np.zeros(80)) == 0


# What is left out


def test_likeness_is_the_share_of_names_that_a_step_has_in_common_with_the_usual_one() -> None:
    """Of the larger of both; two steps without any content are alike."""
    usual = Counter(a=8, b=2)
    assert likeness([usual, usual, Counter(a=8, b=1), Counter(a=8, b=2, c=10), Counter()]) == [1, 1, 0.9, 0.5, 0]
    assert likeness([Counter(), Counter()]) == [1, 1]


@pytest.mark.parametrize(
    ("durations", "alike", "left_out"),
    [
        ([10] * 8, [1] * 8, 0),
        ([50, 30, *[10] * 6], [1] * 8, 2),
        ([4, *[10] * 7], [1] * 8, 1),
        ([14, *[10] * 7], [1] * 8, 0),
        ([10] * 8, [0.3, 0.89, 0.9, *[1] * 5], 2),
        ([10, 50, *[10] * 6], [1] * 8, 0),
        ([50] * 4 + [10] * 4, [1] * 8, 4),
        ([50] * 5 + [10] * 3, [1] * 8, 4),
    ],
)
def test_ramp_up_is_what_differs_at_the_beginning(durations: list[int], alike: list[float], left_out: int) -> None:
    """By duration or content, up to the first step that is like the rest; never more than half."""
    assert ramp_up(durations, alike) == left_out
