"""Watched, cache, depth and ops runs in the formats of other tools; two watched runs of one script, pair by pair."""

import csv
import io
import json
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import numpy as np
import pytest

from perstep.errors import InputError
from perstep.report.export import EXPORTERS, Source
from perstep.runs import open_run, read_samples
from perstep.stats import Spread
from perstep.stored.between import SpreadOfRuns, compare_runs
from perstep.stored.export import source_of
from perstep.stored.repeats import load_pair
from perstep.watching import Sample, paired

GOLDEN = Path(__file__).parents[1] / "golden"
RUNS = ("watch", "cache", "depth", "ops")
FORMATS = ("chrome-trace", "speedscope", "csv", "pyperf", "github-action")

SPEEDSCOPE = {
    "type": "object",
    "required": ["$schema", "profiles", "shared"],
    "properties": {
        "$schema": {"const": "https://www.speedscope.app/file-format-schema.json"},
        "shared": {
            "type": "object",
            "required": ["frames"],
            "properties": {"frames": {"type": "array", "items": {"type": "object", "required": ["name"]}}},
        },
        "profiles": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["endValue", "events", "name", "startValue", "type", "unit"],
                "properties": {
                    "type": {"const": "evented"},
                    "unit": {"enum": ["bytes", "microseconds", "milliseconds", "nanoseconds", "none", "seconds"]},
                    "startValue": {"type": "number"},
                    "endValue": {"type": "number"},
                    "events": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["at", "frame", "type"],
                            "properties": {"type": {"enum": ["O", "C"]}, "at": {"type": "number"}},
                        },
                    },
                },
            },
        },
    },
}
"""What speedscope's published schema requires of a file with evented profiles."""


def exported(source: Source, form: str) -> bytes:
    """The whole file."""
    return b"".join(EXPORTERS[form](source))  # type: ignore[index]


@pytest.fixture(scope="module")
def sources() -> dict[str, Source]:
    """Two rounds, or two calls, of each stored run, and of a ledger."""
    return {name: source_of(GOLDEN / name, rounds=2)[0] for name in (*RUNS, "ledger")}


def total_ns(source: Source) -> int:
    """All that was measured as a whole."""
    return sum(one.ns for measured in source.timeline() for one in measured)


@pytest.mark.parametrize("name", [*RUNS, "ledger"])
def test_speedscope_opens_and_closes_every_frame_in_order(name: str, sources: dict[str, Source]) -> None:
    """The file has what the published schema requires, frames nest, and all that was measured is in the profiles."""
    file = json.loads(exported(sources[name], "speedscope"))
    jsonschema.validate(file, SPEEDSCOPE)
    ends = 0
    for profile in file["profiles"]:
        stack: list[int] = []
        now = profile["startValue"]
        for event in profile["events"]:
            assert event["at"] >= now
            now = event["at"]
            if event["type"] == "O":
                assert event["frame"] < len(file["shared"]["frames"])
                stack.append(event["frame"])
            else:
                assert stack.pop() == event["frame"]
        assert stack == []
        assert now == profile["endValue"]
        ends += profile["endValue"]
    assert ends == total_ns(sources[name])


@pytest.mark.parametrize("name", RUNS)
def test_a_trace_has_a_track_for_each_way_and_parts_inside_their_steps(name: str, sources: dict[str, Source]) -> None:
    """Slices of one track do not overlap but where a part lies in its step."""
    events = json.loads(exported(sources[name], "chrome-trace"))["traceEvents"]
    named = {event["tid"] for event in events if event["ph"] == "M" and event["name"] == "thread_name"}
    slices = [event for event in events if event["ph"] == "X"]
    assert {event["tid"] for event in slices} == named
    wholes = [event for event in slices if "args" in event]
    assert sum(round(event["dur"] * 1e3) for event in wholes) == total_ns(sources[name])
    begun = 0.0
    for event in wholes:
        assert event["ts"] >= begun - 1e-6
        begun = event["ts"] + event["dur"]


@pytest.mark.parametrize("name", RUNS)
def test_the_rows_of_csv_are_all_that_was_measured(name: str, sources: dict[str, Source]) -> None:
    """Parts and the residual add up to their step."""
    rows = list(csv.DictReader(io.StringIO(exported(sources[name], "csv").decode())))
    assert sum(int(row["ns"]) for row in rows) == total_ns(sources[name])
    assert {row["round"] for row in rows} == {"0", "1"}


@pytest.mark.parametrize("name", RUNS)
def test_benchmarks_of_other_tools_hold_the_means_of_rounds(name: str, sources: dict[str, Source]) -> None:
    """In pyperf's suite and in github-action-benchmark's list, under the same names."""
    pyperf = pytest.importorskip("pyperf")
    means = sources[name].round_means_ns()
    suite = pyperf.BenchmarkSuite.loads(exported(sources[name], "pyperf").decode())
    for benchmark in suite:
        assert np.array(benchmark.get_values()) * 1e9 == pytest.approx(means[benchmark.get_name()][0])
    found = json.loads(exported(sources[name], "github-action"))
    assert found
    assert all(entry["value"] >= 0 and entry["unit"] == "ns" for entry in found)
    if not sources[name].ledgers:
        label = f"{sources[name].subject}: {next(iter(means))}"
        assert found[0]["name"] == label
        assert found[0]["value"] == pytest.approx(float(np.median(next(iter(means.values()))[0])))


def test_what_a_watched_call_did_is_drawn_line_by_line(sources: dict[str, Source]) -> None:
    """A track a line of the program; marked steps have parts that add up to them, plain ones have none."""
    by_track: dict[str, list[Any]] = defaultdict(list)
    for measured in sources["watch"].timeline():
        for one in measured:
            by_track[one.track].append(one)
    assert all(":" in track for track in by_track)
    steps = [one for held in by_track.values() for one in held]
    assert any(one.parts for one in steps)
    assert any(not one.parts for one in steps)
    assert all(sum(one.parts.values()) == one.ns for one in steps if one.parts)


def watched(**changes: Any) -> list[Sample]:
    """The calls of the stored run, changed."""
    samples = read_samples(GOLDEN / "watch", Sample)[0]
    return [msgspec.structs.replace(sample, **changes) for sample in samples]


def slower(samples: list[Sample], part: str, factor: int) -> list[Sample]:
    """The same calls with a part that takes so many times as long, and steps that take as much longer."""
    made = []
    for sample in samples:
        kinds = {}
        for kind, steps in sample.kinds.items():
            more = steps.parts[part] * (factor - 1) if part in steps.parts else np.zeros_like(steps.residual_ns)
            step_ns = steps.step_ns.copy()
            step_ns[steps.marked.astype(bool)] += more
            step_ns[~steps.marked.astype(bool)] += int(more.mean()) if len(more) else 0
            parts = {name: ns + more if name == part else ns for name, ns in steps.parts.items()}
            kinds[kind] = msgspec.structs.replace(steps, step_ns=step_ns, parts=parts)
        made.append(msgspec.structs.replace(sample, kinds=kinds))
    return made


def test_two_watched_runs_are_paired_by_call_and_position() -> None:
    """Equal runs have equal costs; a part that took twice as long did so in each pair, and no other part changed."""
    calls = watched()
    ref, new, notes = paired(calls, calls)
    assert notes == []
    assert {name: cost.estimate for name, cost in ref.items()} == {name: cost.estimate for name, cost in new.items()}
    assert all((cost.rounds == 1).all() for cost in ref.values())
    ref, new, _ = paired(calls, slower(calls, "forward", 2))
    twice = [name for name in ref if new[name].estimate > 1.9 * ref[name].estimate and "forward" in name]
    assert twice
    assert all(name.split(": ")[-1] in ("forward", "prefill.forward", "step", "prefill.step") for name in ref
               if new[name].estimate != ref[name].estimate)  # fmt: skip
    name = twice[0]
    assert (new[name].rounds / ref[name].rounds == pytest.approx(2.0)) if len(ref[name].rounds) else False


def test_only_what_both_runs_did_is_compared() -> None:
    """A call with another prompt has no like; lines that moved in their file go by their order, and it is said."""
    calls = watched()
    moved = [msgspec.structs.replace(one, site=one.site.split(":")[0] + ":9999") for one in calls]
    first = calls[0].site
    mine = [one for one in calls if one.site == first]
    theirs = [one for one, call in zip(moved, calls, strict=True) if call.site == first]
    ref, _, notes = paired(mine, theirs)
    assert ref
    assert "lines of one file, in their order" in notes[0]
    other = [msgspec.structs.replace(mine[0], prompt_tokens=999), *mine[1:]]
    if len(mine) > 1:
        assert "have their like in the other run" in paired(mine, other)[2][-1]
    with pytest.raises(InputError, match="no call of the one run has its like in the other"):
        paired(mine, [msgspec.structs.replace(one, rows=99) for one in mine])


def test_a_comparison_of_watched_runs_has_a_row_a_part(tmp_path: Path) -> None:
    """With the spread of runs of one code in every interval; without it there is no verdict."""
    other = tmp_path / "other"
    shutil.copytree(GOLDEN / "watch", other)
    manifest = json.loads((other / "manifest.json").read_text())
    lines = (other / "samples.jsonl").read_text()
    ours, theirs = manifest["run_id"], "0" * len(manifest["run_id"])
    (other / "manifest.json").write_text((other / "manifest.json").read_text().replace(ours, theirs))
    (other / "samples.jsonl").write_text(lines.replace(ours, theirs))
    assert open_run(other).manifest.run_id == theirs
    pair = load_pair(GOLDEN / "watch", other)
    unknown = SpreadOfRuns(source="none", runs=0, parts={}, sentence="not known")
    found = compare_runs(pair.ref, pair.new, unknown)
    assert {row.verdict for row in found.parts} == {"not resolved"}
    assert all(row.change == 0.0 for row in found.parts if row.ref_ns)
    known = SpreadOfRuns(source="runs", runs=9, sentence="", parts=dict.fromkeys(pair.ref.costs, Spread(0.0001, 8)))
    rows = compare_runs(pair.ref, pair.new, known).parts
    assert any(row.verdict.startswith("same") for row in rows if row.trusted) or not any(row.trusted for row in rows)
