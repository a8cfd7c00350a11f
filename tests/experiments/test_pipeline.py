"""From a plan to a run folder, and from the samples to the same files again."""

import gc
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from threadpoolctl import threadpool_info

from perstep.errors import InputError, InvalidMeasurement
from perstep.experiments import pipeline, registry
from perstep.experiments.ledger import Plan
from perstep.measure import FakeClock
from perstep.runs import MANIFEST, SAMPLES, Status, locked, open_run, read_manifest

DERIVED = ["README.md", "ledger.csv", "ledger.png", "report.html", "results.json"]


def no_progress(_share: float, _what: str) -> None:
    """Nobody looks."""


@pytest.fixture
def plan(tiny_llama: Path) -> Plan:
    """Three rounds of four tokens."""
    return Plan(model=str(tiny_llama), backend="numpy", prompt_tokens=8, new_tokens=4, rounds=3)


@pytest.fixture
def run_folder(finished_run: Path, tmp_path: Path) -> Path:
    """A complete run of that plan."""
    return shutil.copytree(finished_run, tmp_path / "run")


def contents(folder: Path, names: list[str]) -> dict[str, bytes]:
    """Files by name."""
    return {name: (folder / name).read_bytes() for name in names}


def spoil(folder: Path, **changes: Any) -> None:
    """Change fields of a stored manifest."""
    stored = json.loads((folder / MANIFEST).read_text()) | changes
    (folder / MANIFEST).write_text(json.dumps(stored))


def test_a_run_has_everything_that_was_promised(run_folder: Path) -> None:
    """Manifest, samples and derived files, each of which the manifest names."""
    assert sorted(path.name for path in run_folder.iterdir()) == sorted([".lock", MANIFEST, SAMPLES, *DERIVED])
    manifest = read_manifest(run_folder)
    assert manifest.status is Status.COMPLETE
    assert manifest.files == DERIVED
    assert manifest.conditions["ended_by"] == "rounds measured"
    assert manifest.noise["rounds"] == 3
    assert "µs per decode step, largest part not resolved" in manifest.results_summary["headline"]
    assert len((run_folder / SAMPLES).read_text().splitlines()) == 3


def test_every_step_on_disk_adds_up_exactly(run_folder: Path) -> None:
    """Parts + residual = step, in integers, for each step of each pass of each round."""
    checked = 0
    for line in (run_folder / SAMPLES).read_text().splitlines():
        for measured in json.loads(line)["passes"]:
            for columns in measured["kinds"].values():
                if measured["arm"] == "marked":
                    for position, step_ns in enumerate(columns["step_ns"]):
                        parts = [column[position] for column in columns["parts"].values()]
                        assert sum(parts) + columns["residual_ns"][position] == step_ns
                        checked += 1
    assert checked == 3 * 2 * 4


def test_results_have_totals_that_add_up(run_folder: Path) -> None:
    """As the interface promises: decode and prefill, each with its parts."""
    results = json.loads((run_folder / "results.json").read_text())
    for kind in ("decode", "prefill"):
        found = results[kind]
        parts = found["parts"].values()
        assert sum(part["ns_total"] for part in parts) + found["residual_ns_total"] == found["step_ns_total"]
        shown = sum(part["ns_per_step"] for part in parts) + found["residual_ns"]
        assert shown == pytest.approx(found["step_ns"], abs=1e-3)
        assert {"forwards", "overhead"} <= set(found)
        assert all({"p50_ns", "share", "ci_low", "ci_high"} <= set(part) for part in parts)
    assert results["decode"]["forwards"] == 3
    # Five norms of 1,000 ns, and one reading of the clock between begin and end.
    assert results["decode"]["plain_step_ns"] == 5_001


def test_a_report_is_rebuilt_byte_for_byte_from_manifest_and_samples(run_folder: Path) -> None:
    """Lost and edited files alike; the manifest stays as it was."""
    before = contents(run_folder, [*DERIVED, MANIFEST, SAMPLES])
    (run_folder / "ledger.png").unlink()
    (run_folder / "results.json").write_text("{}")
    report = pipeline.rebuild(run_folder)
    assert contents(run_folder, [*DERIVED, MANIFEST, SAMPLES]) == before
    assert report.manifest.files == DERIVED
    assert report.notes == []


def test_looking_writes_nothing(run_folder: Path) -> None:
    """Not even what is missing."""
    (run_folder / "README.md").unlink()
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in run_folder.iterdir()}
    report = pipeline.look(run_folder)
    assert report.tables[0].title.startswith("decode: tiny")
    assert {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in run_folder.iterdir()} == before


def test_a_run_without_out_gets_the_next_number(
    plan: Plan, fake_time: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under `.perstep/runs` of the folder one is in."""
    monkeypatch.chdir(tmp_path)
    folders = [pipeline.run("ledger", plan, progress=no_progress).folder for _ in range(2)]
    assert folders == [Path(".perstep/runs/0001-ledger"), Path(".perstep/runs/0002-ledger")]


def test_progress_says_what_is_done(plan: Plan, fake_time: FakeClock, tmp_path: Path) -> None:
    """Load, warm-up, each round, report."""
    said: list[tuple[float, str]] = []
    pipeline.run("ledger", plan, progress=lambda *what: said.append(what), out=tmp_path / "run")
    assert [what for _, what in said] == ["load", "warm-up", "round 1", "round 2", "round 3", "report"]
    assert [share for share, _ in said] == sorted(share for share, _ in said)


def test_it_stops_when_the_precision_is_reached(tiny_llama: Path, fake_time: FakeClock, tmp_path: Path) -> None:
    """Where nothing varies, at the first look."""
    plan = Plan(model=str(tiny_llama), backend="numpy", prompt_tokens=8, new_tokens=2)
    report = pipeline.run("ledger", plan, progress=no_progress, out=tmp_path / "run")
    assert report.manifest.conditions["ended_by"] == "precision reached"
    assert len((tmp_path / "run" / SAMPLES).read_text().splitlines()) == 20
    assert report.findings.unresolved == ""


def test_threads_and_collector_are_set_while_measuring_and_as_before_after(
    plan: Plan, fake_time: FakeClock, tmp_path: Path
) -> None:
    """A collection would fall into some part of some step."""
    before = [pool["num_threads"] for pool in threadpool_info()]
    measuring: dict[str, bool] = {}
    assert gc.isenabled()
    pipeline.run(
        "ledger", plan, progress=lambda _, what: measuring.update({what: gc.isenabled()}), out=tmp_path / "run"
    )
    assert measuring == {
        "load": True,
        "warm-up": True,
        "round 1": False,
        "round 2": False,
        "round 3": False,
        "report": True,
    }
    assert gc.isenabled()
    assert [pool["num_threads"] for pool in threadpool_info()] == before


def test_a_bad_out_is_refused_before_anything_is_loaded(
    run_folder: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loading may take minutes."""

    def loaded(*_: object) -> None:
        raise AssertionError("the target was loaded")

    monkeypatch.setattr("perstep.experiments.models.open_model", loaded)
    with pytest.raises(InputError, match="is not empty"):
        pipeline.run("ledger", plan, progress=no_progress, out=run_folder)


def test_an_input_error_leaves_no_folder(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither `--out` nor a number."""
    monkeypatch.chdir(tmp_path)
    missing = Plan(model="missing", backend="numpy")
    for out in (None, tmp_path / "run"):
        with pytest.raises(InputError, match="no model 'missing'"):
            pipeline.run("ledger", missing, progress=no_progress, out=out)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_run_keeps_its_rounds_and_can_be_looked_at(
    plan: Plan, fake_time: FakeClock, tmp_path: Path
) -> None:
    """And reported; then the manifest names the files."""

    def interrupt(_share: float, what: str) -> None:
        if what == "round 3":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.run("ledger", plan, progress=interrupt, out=tmp_path / "run")
    assert open_run(tmp_path / "run").status == "interrupted"
    assert pipeline.look(tmp_path / "run").findings.noise.rounds == 2
    assert gc.isenabled()
    pipeline.rebuild(tmp_path / "run")
    stored = read_manifest(tmp_path / "run")
    assert stored.files == DERIVED
    assert stored.status is Status.INTERRUPTED
    assert "Measuring stopped: interrupted." in (tmp_path / "run" / "README.md").read_text()


def test_an_interrupted_run_is_resumed_to_the_same_result(plan: Plan, fake_time: FakeClock, tmp_path: Path) -> None:
    """Rounds that are there are not measured again; the derived files are those of one run."""
    interrupted, whole = tmp_path / "interrupted", tmp_path / "whole"
    pipeline.run("ledger", plan, progress=no_progress, out=whole)
    pipeline.run("ledger", plan, progress=no_progress, out=interrupted)
    lines = (interrupted / SAMPLES).read_bytes().splitlines(keepends=True)
    (interrupted / SAMPLES).write_bytes(b"".join(lines[:2]) + lines[2][:40])
    spoil(interrupted, status="running", files=[], results_summary={})
    report = pipeline.run("ledger", plan, progress=no_progress, out=interrupted, resume=True)
    after = (interrupted / SAMPLES).read_bytes().splitlines(keepends=True)
    assert after[:2] == lines[:2]
    assert [json.loads(line)["round"] for line in after] == [0, 1, 2]
    assert [f"line 3 of {SAMPLES} was cut off" in warning for warning in report.manifest.warnings].count(True) == 1
    ours, theirs = (json.loads((folder / "results.json").read_text()) for folder in (interrupted, whole))
    assert {**ours, "noise": None} == {**theirs, "noise": None}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"new_tokens": 5}, "new_tokens"),
        ({"batch": 2}, "batch"),
        ({"seed": 1}, "seed"),
        ({"prompt_tokens": 9}, "prompt_tokens"),
        ({"top_k": 5}, "top_k"),
    ],
)
def test_a_run_is_resumed_only_with_its_own_plan(
    changes: dict[str, Any], field: str, plan: Plan, run_folder: Path, fake_time: FakeClock
) -> None:
    """What differs is named, and nothing is written."""
    before = contents(run_folder, [*DERIVED, MANIFEST, SAMPLES])
    other = Plan(**{**vars(plan), **changes})
    with pytest.raises(InputError, match=rf"was measured with {field}="):
        pipeline.run("ledger", other, progress=no_progress, out=run_folder, resume=True)
    assert contents(run_folder, [*DERIVED, MANIFEST, SAMPLES]) == before


def test_a_run_of_a_model_that_has_changed_is_not_resumed(
    plan: Plan, fake_time: FakeClock, tmp_path: Path, tiny_llama: Path, make_llama: Callable[..., Path]
) -> None:
    """The same folder, but other weights: the tokens differ, and their hash says so."""
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    mine = Plan(**{**vars(plan), "model": str(folder), "new_tokens": 8})
    pipeline.run("ledger", mine, progress=no_progress, out=tmp_path / "run")
    make_llama(folder, seed=1)
    with pytest.raises(InputError, match="was measured with token_ids_sha256="):
        pipeline.run("ledger", mine, progress=no_progress, out=tmp_path / "run", resume=True)


def test_a_damaged_run_is_refused_before_anything_is_written(plan: Plan, run_folder: Path) -> None:
    """To look at, to report, to resume; the status stays `complete`."""
    lines = (run_folder / SAMPLES).read_bytes().splitlines(keepends=True)
    (run_folder / SAMPLES).write_bytes(lines[0] + b"{}\n" + lines[2])
    before = contents(run_folder, [*DERIVED, MANIFEST, SAMPLES])
    with pytest.raises(InputError, match="line 2 is damaged"):
        pipeline.look(run_folder)
    with pytest.raises(InputError, match="line 2 is damaged"):
        pipeline.rebuild(run_folder)
    with pytest.raises(InputError, match="line 2 is damaged"):
        pipeline.run("ledger", plan, progress=no_progress, out=run_folder, resume=True)
    assert contents(run_folder, [*DERIVED, MANIFEST, SAMPLES]) == before


def test_samples_that_do_not_add_up_are_not_believed(run_folder: Path) -> None:
    """A nanosecond that somebody took out of a part."""
    text = (run_folder / SAMPLES).read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    marked = next(measured for measured in lines[1]["passes"] if measured["arm"] == "marked")
    marked["kinds"]["decode"]["parts"]["mlp"][0] += 1
    (run_folder / SAMPLES).write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(InvalidMeasurement, match="do not add up"):
        pipeline.look(run_folder)


@pytest.mark.parametrize(("field", "value"), [("conditions", {}), ("workload", {}), ("model", {})])
def test_a_manifest_that_lacks_a_fact_is_bad_input(field: str, value: object, run_folder: Path) -> None:
    """By the name of the fact."""
    spoil(run_folder, **{field: value})
    for read in (pipeline.look, pipeline.rebuild):
        with pytest.raises(InputError, match=rf"manifest\.json lacks {field}\.\w+; restore it"):
            read(run_folder)


def test_a_report_does_not_hide_that_a_manifest_was_changed(run_folder: Path) -> None:
    """It writes the manifest again, which is as it was written only if it was so before."""
    spoil(run_folder, warnings=["measured on another machine"])
    said = [f"{MANIFEST} is not what the run wrote (its SHA-256 differs); the figures are of what it holds now"]
    assert pipeline.rebuild(run_folder).notes == said
    assert pipeline.look(run_folder).notes == said


def test_a_run_of_an_experiment_that_is_not_known_is_told(run_folder: Path) -> None:
    """It may come from another perstep."""
    spoil(run_folder, experiment="astrology")
    with pytest.raises(InputError, match=r"this perstep has no experiment 'astrology'; it has .*ledger"):
        pipeline.look(run_folder)
    with pytest.raises(InputError, match="no experiment"):
        pipeline.run("astrology", None, progress=no_progress)


def test_a_run_that_is_being_written_is_not_reported(run_folder: Path) -> None:
    """Two writers of one manifest would lose one's words; looking is free."""
    with locked(run_folder):
        pipeline.look(run_folder)
        with pytest.raises(InputError, match="is being written by another perstep"):
            pipeline.rebuild(run_folder)


def test_findings_that_are_invalid_are_kept_and_told(plan: Plan, tmp_path: Path) -> None:
    """On a clock whose readings are all that takes time, marks make the step many times as long."""
    clock = FakeClock(tick_ns=1)
    report = pipeline.run("ledger", plan, progress=no_progress, out=tmp_path / "run", clock=clock)
    with pytest.raises(InvalidMeasurement, match=r"more than 1.5 times as long as .*; the run is kept in .*run"):
        pipeline.check(report)
    assert "**This run is invalid:" in (tmp_path / "run" / "README.md").read_text()
    assert read_manifest(tmp_path / "run").status is Status.COMPLETE


def test_a_state_that_is_not_as_before_fails_the_run(
    plan: Plan, fake_time: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The samples are kept; the manifest says why they are not believed."""

    def broken(_session: object) -> None:
        raise InvalidMeasurement("the KV cache is not as before")

    monkeypatch.setattr("perstep.experiments.ledger.session.LedgerSession.finish", broken)
    with pytest.raises(InvalidMeasurement, match="not as before"):
        pipeline.run("ledger", plan, progress=no_progress, out=tmp_path / "run")
    manifest = read_manifest(tmp_path / "run")
    assert manifest.status is Status.FAILED
    assert manifest.error == "InvalidMeasurement: the KV cache is not as before"


def test_every_registered_experiment_has_the_names_of_one() -> None:
    """Those of the protocol; watched calls and scripts are not made from options, so these two have no `prepare`."""
    wanted = {"Sample", "Conditions", "Workload", "analyse", "tables", "csv", "files", "summary"}
    for name in registry.EXPERIMENTS:
        module: Any = registry.find(name)
        measured = set() if name in ("watch", "fix") else {"Plan", "prepare"}
        assert wanted | measured <= set(module.__all__), name
        assert all(hasattr(module, needed) for needed in module.__all__), name
