"""Exports: what other tools read is what was measured."""

import csv
import io
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyperf
import pytest

from perstep.errors import InputError, InvalidMeasurement
from perstep.report.export import EXPORTERS, Source
from perstep.stored.export import source_of

LedgerRun = Callable[..., Path]

COSTS = ["step", "embed", "mlp", "sample", "residual"]
PREFILL = ["prefill.step", "prefill.embed", "prefill.attn.mask.build", "prefill.residual"]


def exported(source: Source, form: str) -> bytes:
    """The whole file."""
    return b"".join(EXPORTERS[form](source))  # type: ignore[index]


@pytest.fixture
def source(tmp_path: Path, ledger_run: LedgerRun) -> Source:
    """A run of 24 rounds."""
    return source_of(ledger_run(tmp_path / "0007-ledger"))[0]


# pyperf


def test_pyperf_loads_the_suite(source: Source) -> None:
    """One benchmark a cost, one value a round: the mean of its steps, in seconds; loops are the steps."""
    suite = pyperf.BenchmarkSuite.loads(exported(source, "pyperf").decode())
    assert suite.get_benchmark_names() == COSTS + PREFILL
    for name in ("step", "mlp", "prefill.step"):
        benchmark = suite.get_benchmark(name)
        assert benchmark.get_nvalue() == 24
        assert benchmark.get_nrun() == 1
        assert benchmark.get_unit() == "second"
        assert benchmark.get_loops() == (2 if name.startswith("prefill") else 6)
    held = source.samples["decode"]
    assert suite.get_benchmark("step").get_values() == pytest.approx(held.plain_ns.mean(axis=(1, 2)) / 1e9)
    assert suite.get_benchmark("mlp").get_values() == pytest.approx(held.parts["mlp"].mean(axis=(1, 2)) / 1e9)
    assert suite.get_benchmark("mlp").median() == pytest.approx(80e-6, rel=1e-2)


def test_pyperf_has_the_facts_that_are_known(source: Source) -> None:
    """Under its own names; what is unknown is left out."""
    metadata = pyperf.BenchmarkSuite.loads(exported(source, "pyperf").decode()).get_metadata()
    assert metadata["perstep_run"] == "0007-ledger"
    assert metadata["workload_token_ids_sha256"] == "1" * 64
    assert metadata["version_numpy"] == np.__version__
    assert "unknown" not in metadata.values()
    assert "not installed" not in metadata.values()


@pytest.mark.parametrize("command", ["show", "stats", "metadata", "check", "hist", "dump"])
def test_pyperfs_own_commands_read_it(tmp_path: Path, source: Source, command: str) -> None:
    """The real program."""
    path = tmp_path / "run.json"
    path.write_bytes(exported(source, "pyperf"))
    done = subprocess.run([sys.executable, "-m", "pyperf", command, path], capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    assert done.returncode in ((0, 1) if command == "check" else (0,))  # check complains about 24 values of 0.1 ms
    assert "mlp" in done.stdout


def test_pyperf_compares_two_exports(tmp_path: Path, ledger_run: LedgerRun) -> None:
    """`compare_to` sees the same change."""
    for name, level in (("old", 1.0), ("new", 1.5)):
        (tmp_path / f"{name}.json").write_bytes(
            exported(source_of(ledger_run(tmp_path / name, level=level))[0], "pyperf")
        )
    command = [sys.executable, "-m", "pyperf", "compare_to", tmp_path / "old.json", tmp_path / "new.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "1.50x slower" in done.stdout


def test_a_part_that_took_no_time_is_left_out_and_named(tmp_path: Path, ledger_run: LedgerRun) -> None:
    """Pyperf refuses values of 0; no round is dropped for it."""
    source = source_of(ledger_run(tmp_path / "run", parts={"sample": 0.0}))[0]
    suite = pyperf.BenchmarkSuite.loads(exported(source, "pyperf").decode())
    assert "sample" not in suite.get_benchmark_names()
    assert suite.get_metadata()["perstep_left_out"] == "sample: 0 ns in some round"


# Chrome trace


def slices(source: Source) -> list[dict[str, Any]]:
    """The complete events of the trace."""
    return [event for event in json.loads(exported(source, "chrome-trace"))["traceEvents"] if event["ph"] == "X"]


def test_a_trace_has_every_step_with_its_parts_inside(tmp_path: Path, ledger_run: LedgerRun) -> None:
    """Steps of one thread do not overlap; parts follow each other from the step's beginning to its end."""
    source = source_of(ledger_run(tmp_path / "run"), rounds=2)[0]
    events = slices(source)
    steps = [event for event in events if event["name"].endswith(" step")]
    parts = [event for event in events if not event["name"].endswith(" step")]
    assert len(steps) == 2 * 4 * (1 + 3)
    assert len(parts) == 2 * 2 * (3 + 3 * 4)
    assert {event["name"] for event in parts} == {"embed", "attn.mask.build", "mlp", "sample", "residual"}
    ends = 0.0
    for step in sorted(steps, key=lambda event: event["ts"]):
        assert step["ts"] == pytest.approx(ends, abs=1e-6)
        ends = step["ts"] + step["dur"]
        inside = [p for p in parts if step["ts"] - 1e-6 <= p["ts"] < ends - 1e-6]
        assert len(inside) == (0 if step["tid"] == 1 else 3 if step["cat"] == "prefill" else 4)
        at = step["ts"]
        for part in inside:
            assert part["tid"] == step["tid"]
            assert part["ts"] == pytest.approx(at, abs=1e-6)
            at = part["ts"] + part["dur"]
        if inside:
            assert at == pytest.approx(ends, abs=1e-6)
            assert inside[-1]["name"] == "residual"


def test_a_trace_is_in_microseconds_and_says_what_it_is_not(source: Source) -> None:
    """Durations are exact; the metadata tells that positions in time are made and repeated parts joined."""
    trace = json.loads(exported(source, "chrome-trace"))
    first = next(e for e in trace["traceEvents"] if e.get("cat") == "decode" and e["name"] == "mlp")
    marked = next(p for p in source.rounds[0].passes if p.arm == "marked")
    assert first["dur"] == marked.kinds["decode"].parts["mlp"][0] / 1000
    assert "laid end to end" in trace["otherData"]["time"]
    assert "repeated ones are joined" in trace["otherData"]["order"]
    assert trace["otherData"]["rounds"] == "the first 24 of 24"
    names = [e["args"]["name"] for e in trace["traceEvents"] if e["ph"] == "M"]
    assert names == ["perstep: tiny", "steps without instruments", "instrumented steps"]
    assert {e["args"]["round"] for e in trace["traceEvents"] if e["name"] == "decode step"} == set(range(24))


# github-action-benchmark


def test_github_action_has_name_unit_value_range_extra(source: Source) -> None:
    """customSmallerIsBetter: the estimate in ns, half its interval, what it rests on."""
    found = json.loads(exported(source, "github-action"))
    assert [entry["name"] for entry in found] == [f"tiny: {name}" for name in COSTS + PREFILL]
    assert {entry["unit"] for entry in found} == {"ns"}
    step = found[0]
    ledger = source.ledgers["decode"]
    assert step["value"] == ledger.plain_step_ns
    assert ledger.plain_step_ci_low is not None
    assert ledger.plain_step_ci_high is not None
    assert step["range"] == f"± {(ledger.plain_step_ci_high - ledger.plain_step_ci_low) / 2:.0f}"
    assert step["extra"].startswith("24 rounds, without instruments; instrumentation overhead")
    assert found[2]["extra"] == "24 rounds, 80.0 % of the instrumented step"
    assert all(set(entry) <= {"name", "unit", "value", "range", "extra"} for entry in found)


def test_github_action_leaves_the_range_out_where_there_is_none(tmp_path: Path, ledger_run: LedgerRun) -> None:
    """Too few rounds for an interval."""
    found = json.loads(exported(source_of(ledger_run(tmp_path / "run", rounds=2))[0], "github-action"))
    assert all("range" not in entry for entry in found)


# CSV


def test_csv_has_every_number(source: Source) -> None:
    """A row a step and part; parts and residual of an instrumented step add up to it."""
    rows = list(csv.DictReader(io.StringIO(exported(source, "csv").decode())))
    assert list(rows[0]) == ["kind", "round", "pass", "position", "part", "ns"]
    sums: dict[tuple[str, ...], int] = defaultdict(int)
    for row in rows:
        sums[row["kind"], row["round"], row["pass"], row["position"]] += int(row["ns"])
    for number, measured in enumerate(source.rounds):
        for place, replay in enumerate(measured.passes):
            for kind, columns in replay.kinds.items():
                for position, ns in enumerate(columns.step_ns.tolist()):
                    assert sums.pop((kind, str(number), str(place), str(position))) == ns
    assert not sums
    parts = defaultdict(set)
    for row in rows:
        parts[row["pass"]].add(row["part"])
    marked = {"embed", "attn.mask.build", "mlp", "sample", "residual"}
    assert parts == {"0": {"step"}, "1": marked, "2": marked, "3": {"step"}}


# The source


def test_only_the_first_rounds_are_exported(tmp_path: Path, ledger_run: LedgerRun) -> None:
    """Estimates are over those; how many there are is known."""
    folder = ledger_run(tmp_path / "run")
    source = source_of(folder, rounds=3)[0]
    assert (len(source.rounds), source.rounds_measured) == (3, 24)
    assert source.samples["decode"].step_ns.shape == (3, 2, 3)
    assert source.ledgers["decode"].rounds == 3
    with pytest.raises(InputError, match="--rounds 0: at least 1 round"):
        source_of(folder, rounds=0)


def test_an_invalid_run_is_not_handed_on(tmp_path: Path, ledger_run: LedgerRun) -> None:
    """Other tools would not know."""
    with pytest.raises(InvalidMeasurement, match="is invalid: "):
        source_of(ledger_run(tmp_path / "run", differing=2))
