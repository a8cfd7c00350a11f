"""Two stored runs against each other: what is refused, what is learned from other runs, what is said."""

import csv
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from perstep.errors import InputError, InvalidMeasurement
from perstep.machine import BetweenRunNoise, save_between_run_noise
from perstep.report import to_markdown, to_text
from perstep.report.format import duration, percent
from perstep.runs import SAMPLES, Manifest, RunWriter, Status, open_run, read_manifest, save_baseline, write_manifest
from perstep.stats import RunCost, Spread
from perstep.stored.between import (
    Run,
    SpreadOfRuns,
    StoredComparison,
    compare_runs,
    different_code,
    different_work,
    machine_identity,
)
from perstep.stored.repeats import learn_spread, load_pair, machine_record, reduce_run, spread_of
from perstep.stored.show import comparison_csv, comparison_tables

from ..conftest import facts

LedgerRun = Callable[..., Path]

DECODE = ["step", "embed", "mlp", "sample", "residual"]
PREFILL = ["prefill.step", "prefill.embed", "prefill.attn.mask.build", "prefill.residual"]


def known(sd_log: float = 0.001, df: int = 20, parts: list[str] | None = None) -> SpreadOfRuns:
    """A spread of runs as other runs would show it."""
    named = DECODE + PREFILL if parts is None else parts
    return SpreadOfRuns(source="runs", runs=df + 1, parts=dict.fromkeys(named, Spread(sd_log, df)), sentence="Known.")


def run(folder: Path) -> Run:
    """A stored run with its costs."""
    return reduce_run(open_run(folder))


def edit_manifest(folder: Path, **changes: Any) -> None:
    """Change fields of a stored manifest."""
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# Costs


def test_a_run_is_reduced_to_its_costs_per_step(tmp_path: Path, ledger_run: LedgerRun) -> None:
    """The headline, each part and the residual of each kind of step, with the cost of every round."""
    made = run(ledger_run(tmp_path / "run"))
    assert list(made.costs) == DECODE + PREFILL
    nominal = [100_000, 10_000, 80_000, 9_000, 1_000, 51_000, 20_000, 30_000, 1_000]
    assert [cost.estimate for cost in made.costs.values()] == pytest.approx(nominal, rel=2e-3)
    assert {cost.rounds.shape for cost in made.costs.values()} == {(24,)}
    assert made.costs["mlp"].rounds == pytest.approx(np.ones(24), rel=5e-3)
    assert made.notes == []


def test_a_run_without_decode_steps_has_prefill_costs_alone(tmp_path: Path, ledger_run: LedgerRun) -> None:
    """And its headline is the prefill's."""
    pair = [run(ledger_run(tmp_path / name, decode=False, seed=seed)) for seed, name in enumerate("ab")]
    assert list(pair[0].costs) == PREFILL
    found = compare_runs(*pair, known(df=2))
    assert found.unresolved.startswith("prefill.step: ")


def test_an_invalid_run_is_refused(tmp_path: Path, ledger_run: LedgerRun) -> None:
    """Its numbers must not be believed; which run it is, is said."""
    folder = ledger_run(tmp_path / "bad", differing=1)
    with pytest.raises(InvalidMeasurement, match=r"bad is invalid: .*differ from the replayed trace"):
        run(folder)


def test_a_cut_last_line_is_repaired_and_said(tmp_path: Path, ledger_run: LedgerRun) -> None:
    """The rounds before it count, and so does the status of a run that was not finished."""
    folder = ledger_run(tmp_path / "run")
    path = folder / SAMPLES
    path.write_bytes(path.read_bytes()[:-20])
    stored = read_manifest(folder)
    stored.status = Status.INTERRUPTED
    write_manifest(folder, stored)
    found = compare_runs(run(folder), run(ledger_run(tmp_path / "new")), known())
    assert found.ref.rounds == 23
    assert found.notes == [
        "run: line 24 of samples.jsonl was cut off while it was written and is left out",
        "run: the run is interrupted; the figures are from the rounds that were finished",
    ]
    assert "line 24 of samples.jsonl was cut off" in to_text(comparison_tables(found)[-1])


def test_a_broken_line_in_the_middle_is_named_and_refused(tmp_path: Path, ledger_run: LedgerRun) -> None:
    """Half a number is damage, and so is a round without one of the parts."""
    folder = ledger_run(tmp_path / "run")
    path = folder / SAMPLES
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:5], lines[5][:100] + b"\n", *lines[6:]]))
    with pytest.raises(InputError, match=r"samples\.jsonl line 6 is damaged"):
        run(folder)
    path.write_bytes(b"".join([*lines[:5], lines[5].replace(b'"mlp":[', b'"other":['), *lines[6:]]))
    with pytest.raises(InputError, match="do not all hold the same passes, steps and parts"):
        run(folder)


def test_a_run_without_a_ledger_is_refused(tmp_path: Path) -> None:
    """A live comparison has no parts."""
    folder = tmp_path / "live"
    manifest = Manifest(
        experiment="compare",
        plan={},
        workload=facts("compare", "workload"),
        model={"name": "a vs b"},
        conditions=facts("compare", "conditions", arms=["a", "b"], calls_per_block={"a": 1, "b": 1}),
    )
    from perstep.experiments.compare import Sample
    from perstep.machine import NoiseProbe

    probe = NoiseProbe()
    probe.start()
    with RunWriter(folder, manifest) as writer:
        writer.append(Sample(0, ["a", "b", "b", "a"], [1, 1, 1, 1], [1, 1, 1, 1], None, probe.stop()))
    with pytest.raises(InputError, match="is a `compare` run, which has no ledger of parts"):
        run(folder)


# What makes runs incomparable


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("token_ids_sha256", "3" * 64, "token_ids_sha256: 111111111111 → 333333333333"),
        ("model_config_sha256", "4" * 64, "model_config_sha256: 222222222222 → 444444444444"),
        ("prompt_tokens", 9, "prompt_tokens: 8 → 9"),
        ("new_tokens", 5, "new_tokens: 4 → 5"),
        ("batch", 2, "batch: 1 → 2"),
        ("dtype", "float16", "dtype: float32 → float16"),
        ("device", "cuda", "device: cpu → cuda"),
        ("threads", 2, "threads: 1 → 2"),
        ("top_p", 0.9, "top_p: 1.0 → 0.9"),
        ("min_p", 0.9, "min_p: none → 0.9"),
    ],
)
def test_other_work_is_refused_by_the_name_of_the_field(
    tmp_path: Path, ledger_run: LedgerRun, field: str, value: object, said: str
) -> None:
    """Unless it is allowed; then it is said."""
    ref, new = run(ledger_run(tmp_path / "ref")), run(ledger_run(tmp_path / "new", **{field: value}))
    with pytest.raises(InputError, match="did not do the same work") as refused:
        compare_runs(ref, new, known())
    assert said in str(refused.value)
    assert "--allow-different" in str(refused.value)
    found = compare_runs(ref, new, known(), allow_different=True)
    assert found.different_work == [said]
    assert f"NOT do the same work (--allow-different): {said}." in to_text(comparison_tables(found)[-1])


def test_other_experiments_schemas_and_machines_are_refused(tmp_path: Path, ledger_run: LedgerRun) -> None:
    """By name, from the manifests alone."""
    ref, new = (run(ledger_run(tmp_path / name)).manifest for name in ("ref", "new"))
    assert different_work(ref, new) == []
    other = msgspec.structs.replace(new, experiment="mask", workload={"documents": 3})
    assert different_work(ref, other) == ["experiment: ledger → mask"]
    assert different_work(ref, msgspec.structs.replace(new, schema_version=3)) == ["schema_version: 2 → 3"]
    cpu = {**new.machine["cpu"], "model": "another"}
    other = msgspec.structs.replace(new, machine={**new.machine, "cpu": cpu})
    assert different_work(ref, other) == [f"machine: {machine_identity(ref)} → {machine_identity(other)}"]
    nothing = msgspec.structs.replace(new, machine={})
    assert different_work(ref, nothing) == [f"machine: {machine_identity(ref)} → none"]


def test_other_code_is_said_and_not_refused(tmp_path: Path, ledger_run: LedgerRun) -> None:
    """It is what comparisons are about."""
    ref, new = (run(ledger_run(tmp_path / name)) for name in ("ref", "new"))
    software = {**new.manifest.machine["software"], "python": "3.99"}
    software["packages"] = {**software["packages"], "numpy": "9.9"}
    git = {"commit": "b" * 40, "dirty": True}
    machine = {**new.manifest.machine, "software": software, "git": git}
    changed = msgspec.structs.replace(new.manifest, perstep_version="9.0", machine=machine)
    old = ref.manifest.machine["software"]
    assert different_code(ref.manifest, changed) == [
        f"perstep: {ref.manifest.perstep_version} → 9.0",
        f"python: {old['python']} → 3.99",
        f"numpy: {old['packages']['numpy']} → 9.9",
        "git_commit: aaaaaaaaaaaa → bbbbbbbbbbbb",
        "uncommitted changes: False → True",
    ]
    found = compare_runs(ref, Run("new", changed, new.costs, []), known())
    assert "Different code: perstep" in to_text(comparison_tables(found)[-1])


# The comparison


def test_a_part_that_got_slower_is_found_and_no_other(tmp_path: Path, ledger_run: LedgerRun) -> None:
    """Mlp + 10 % makes the step + 8 %; what did not change is the same within ± 1 %."""
    ref = run(ledger_run(tmp_path / "ref", seed=1))
    new = run(ledger_run(tmp_path / "new", seed=2, parts={"mlp": 1.1}))
    found = compare_runs(ref, new, known())
    rows = {row.part: row for row in found.parts}
    assert list(rows) == DECODE + PREFILL
    assert [row.part for row in found.parts if row.verdict == "slower"] == ["step", "mlp"]
    assert rows["mlp"].change == pytest.approx(0.1, abs=2e-3)
    assert rows["step"].change == pytest.approx(0.08, abs=2e-3)
    assert all(rows[part].verdict == "same (within ±1 %)" for part in DECODE + PREFILL if part not in ("step", "mlp"))
    assert found.unresolved == ""
    assert {row.kind for row in found.parts[:5]} == {"decode"}
    assert {row.kind for row in found.parts[5:]} == {"prefill"}


def test_each_kind_of_step_is_a_family_of_intervals(tmp_path: Path, ledger_run: LedgerRun) -> None:
    """Bonferroni over the five of decode; over two where two are asked for; over one alone."""
    ref, new = (run(ledger_run(tmp_path / name, seed=seed)) for seed, name in enumerate(("ref", "new")))

    def width(found: StoredComparison) -> float:
        row = next(row for row in found.parts if row.part == "step")
        assert row.ci_low is not None
        assert row.ci_high is not None
        return row.ci_high - row.ci_low

    one, two, everything = (
        width(compare_runs(ref, new, known(0.01, 4), parts=parts)) for parts in (["step"], ["step", "mlp"], None)
    )
    # Without noise inside runs the widths are as the quantiles of t at 1 - 0.05 / 2k.
    from scipy.stats import t

    quantiles = [t.ppf(1 - 0.05 / (2 * k), 4) for k in (1, 2, 5)]
    assert [two / one, everything / one] == pytest.approx([q / quantiles[0] for q in quantiles[1:]], rel=0.02)


def test_a_part_of_one_run_alone_has_no_change(tmp_path: Path, ledger_run: LedgerRun) -> None:
    """It is shown all the same."""
    ref, new = (run(ledger_run(tmp_path / name)) for name in ("ref", "new"))
    new.costs["mask.apply"] = new.costs["mlp"]
    del new.costs["sample"]
    found = compare_runs(ref, new, known())
    rows = {row.part: row for row in found.parts}
    assert (rows["mask.apply"].ref_ns, rows["mask.apply"].change) == (None, None)
    assert rows["mask.apply"].reason == "only new has it"
    assert (rows["sample"].new_ns, rows["sample"].reason) == (None, "only ref has it")
    assert "No interval for mask.apply: only new has it." in to_text(comparison_tables(found)[0])


def test_an_unknown_part_is_named_with_those_there_are(tmp_path: Path, ledger_run: LedgerRun) -> None:
    """So that a gate's typo is found."""
    ref, new = (run(ledger_run(tmp_path / name)) for name in ("ref", "new"))
    with pytest.raises(InputError, match=r"no part 'mask\.apply'; these runs have step, embed, .*"):
        compare_runs(ref, new, known(), parts=["step", "mask.apply"])


def test_too_few_rounds_give_neither_interval_nor_verdict(tmp_path: Path, ledger_run: LedgerRun) -> None:
    """However large the change."""
    ref, new = run(ledger_run(tmp_path / "ref", rounds=5)), run(ledger_run(tmp_path / "new", level=3.0))
    found = compare_runs(ref, new, known())
    assert {row.verdict for row in found.parts} == {"not resolved"}
    assert {row.ci_low for row in found.parts} == {None}
    assert "5 rounds; an interval needs" in found.unresolved
    assert "No interval for step, embed, mlp, sample, residual: 5 rounds; an interval needs" in to_text(
        comparison_tables(found)[0]
    )


def test_the_tables_read_like_benchstats(tmp_path: Path, ledger_run: LedgerRun) -> None:
    """Runs with ± and n, change, interval, verdict; the sentence on the spread of runs under the last."""
    ref, new = (run(ledger_run(tmp_path / name, level=level)) for name, level in (("before", 1.0), ("after", 1.2)))
    found = compare_runs(ref, new, known())
    decode, prefill = (to_text(table).splitlines() for table in comparison_tables(found))
    assert decode[0] == "decode: before → after"
    assert re.split(r"  +", decode[1].strip()) == [
        "part", "before (n=24)", "after (n=24)", "change", "95 % interval", "verdict",
    ]  # fmt: skip
    row = r"step +100 µs ±0\.\d % +120 µs ±0\.\d % +\+\d+\.\d % +\[\+1\d\.\d %, \+2\d\.\d %\] +slower"
    assert re.fullmatch(row, decode[3])
    assert "Known." in prefill
    assert prefill[-2].startswith("Measured: tiny (prompt_tokens 8, new_tokens 4, batch 1, dtype float32")
    assert "| step | 100 µs ±0." in to_markdown(comparison_tables(found)[0])


def test_numbers_for_machines_are_complete(tmp_path: Path, ledger_run: LedgerRun) -> None:
    """A CSV row has a cell for each column, JSON every field; infinities are null."""
    ref, new = (run(ledger_run(tmp_path / name)) for name in ("ref", "new"))
    found = compare_runs(ref, new, known())
    rows = list(csv.DictReader(io.StringIO(comparison_csv(found))))
    assert list(rows[0]) == [
        "part", "kind", "ref_ns", "ref_ci_low_ns", "ref_ci_high_ns", "new_ns", "new_ci_low_ns", "new_ci_high_ns",
        "change", "ci_low", "ci_high", "mde", "verdict", "reason",
    ]  # fmt: skip
    assert [row["part"] for row in rows] == DECODE + PREFILL
    assert [float(row["new_ns"]) for row in rows] == [part.new_ns for part in found.parts]
    step = found.parts[0]
    half = (step.ref_ci_high_ns - step.ref_ci_low_ns) / 2 / step.ref_ns
    assert comparison_tables(found)[0].rows[0][1] == f"{duration(step.ref_ns)} ±{percent(half)}"
    decoded = json.loads(msgspec.json.encode(found))
    assert decoded["schema_version"] == 2
    assert decoded["parts"][0]["part"] == "step"
    assert decoded["spread"]["parts"]["step"] == {"sd_log": 0.001, "df": 20}


# The spread of runs


def test_the_spread_is_pooled_over_groups_of_one_code() -> None:
    """Part by part, over the groups whose runs all have it."""
    groups = [
        [{"step": 100.0, "mlp": 5.0}, {"step": 101.0, "mlp": 6.0}],
        [{"step": 50.0}, {"step": 51.0}],
        [{"step": 9.0}],
    ]
    found = spread_of(groups)
    assert found.runs == 4
    assert found.parts["step"].df == 2
    assert found.parts["mlp"].df == 1
    squares = np.log(101 / 100) ** 2 / 2 + np.log(51 / 50) ** 2 / 2
    assert found.parts["step"].sd_log == pytest.approx(np.sqrt(squares / 2))
    assert "as 4 other runs of this workload on this machine show (2 degrees of freedom)" in found.sentence


def test_the_spread_is_learned_from_other_runs_of_this_workload(tmp_path: Path, ledger_run: LedgerRun) -> None:
    """Stored runs and baselines; not the compared ones or copies of them, nor what is no A/A run."""
    runs, baselines = tmp_path / "runs", tmp_path / "baselines"
    levels = [1.0, 1.01, 0.99, 1.02]
    for number, level in enumerate(levels[:3]):
        ledger_run(runs / f"000{number}-ledger", level=level, seed=number)
    save_baseline("main", ledger_run(tmp_path / "elsewhere", level=levels[3], seed=9), baselines)
    ref, new = ledger_run(runs / "0010-ledger", seed=10), ledger_run(runs / "0011-ledger", seed=11, level=2.0)
    # None of these counts.
    save_baseline("copy", runs / "0000-ledger", baselines)
    save_baseline("ref", ref, baselines)
    ledger_run(runs / "0020-ledger", seed=20, level=3.0, threads=2)
    ledger_run(runs / "0021-ledger", seed=21, level=3.0, rounds=19)
    ledger_run(runs / "0022-ledger", seed=22, level=3.0, differing=1)
    for number, level in ((23, 3.0), (27, 4.0)):
        ledger_run(runs / f"00{number}-ledger", seed=number, level=level, git={"commit": "a" * 40, "dirty": True})
    ledger_run(runs / "0024-ledger", seed=24, level=3.0, git={"commit": "b" * 40, "dirty": False})
    edit_manifest(ledger_run(runs / "0025-ledger", seed=25, level=3.0), status="interrupted")
    broken = ledger_run(runs / "0026-ledger", seed=26, level=3.0)
    (broken / SAMPLES).write_text("{}\n")
    found = learn_spread(open_run(ref), open_run(new), (runs, baselines))
    assert (found.source, found.runs) == ("runs", 4)
    assert found.parts["step"].df == 3
    assert found.parts["step"].sd_log == pytest.approx(np.std(np.log(levels), ddof=1), rel=0.05)


def test_too_few_other_runs_fall_back_to_the_machines_noise(tmp_path: Path, ledger_run: LedgerRun) -> None:
    """Which the self-test keeps; a part it does not know gets its widest spread; all of it is said."""
    runs = tmp_path / "runs"
    for number in range(3):
        ledger_run(runs / f"000{number}-ledger", seed=number)
    ref, new = ledger_run(runs / "0010-ledger", seed=10), ledger_run(runs / "0011-ledger", seed=11)
    identity = machine_identity(open_run(ref).manifest)
    assert identity is not None
    record = BetweenRunNoise(
        identity=identity, sd_log={"step": 0.01, "mlp": 0.03}, df=7, runs=8, workload="mini", measured_at="",
        perstep_version="",
    )  # fmt: skip
    save_between_run_noise(record)
    found = learn_spread(open_run(ref), open_run(new), (runs,))
    assert found.source == "machine"
    assert found.of("step") == Spread(0.01, 7)
    assert found.of("sample") == Spread(0.03, 7)
    assert "by up to 3.00 % (standard deviation of a part), as the self-test's 8 runs of mini" in found.sentence
    assert "noise of another workload, because there are 3 other stored runs of this workload" in found.sentence


def test_the_self_tests_record_is_the_spread_of_its_runs(tmp_path: Path, ledger_run: LedgerRun) -> None:
    """Saved for its machine, it serves comparisons of any workload; one run has no spread."""
    levels = [1.0, 1.02, 0.98, 1.01, 0.99]
    runs = [run(ledger_run(tmp_path / f"{number}", level=level)) for number, level in enumerate(levels)]
    record = machine_record(runs, workload="mini", measured_at="2026-01-01T00:00:00+00:00")
    assert record is not None
    assert (record.df, record.runs, record.identity) == (4, 5, machine_identity(runs[0].manifest))
    assert record.sd_log["step"] == pytest.approx(np.std(np.log(levels), ddof=1), rel=0.02)
    save_between_run_noise(record)
    pair = (ledger_run(tmp_path / name, seed=seed, batch=8) for seed, name in enumerate(("ref", "new"), start=1))
    found = learn_spread(*(open_run(folder) for folder in pair), roots=(tmp_path / "none",))
    assert found.of("step") == Spread(record.sd_log["step"], 4)
    assert machine_record(runs[:1], workload="mini", measured_at="") is None
    assert machine_record([], workload="mini", measured_at="") is None


def test_without_any_knowledge_the_command_to_run_is_said(tmp_path: Path, ledger_run: LedgerRun) -> None:
    """And there are no intervals and no verdicts."""
    ref, new = ledger_run(tmp_path / "ref"), ledger_run(tmp_path / "new", seed=1, level=2.0)
    found = learn_spread(open_run(ref), open_run(new), (tmp_path / "runs",))
    assert (found.source, found.of("step")) == ("none", None)
    assert "Run `perstep selftest` once, or measure one of the two 4 times more" in found.sentence
    compared = compare_runs(run(ref), run(new), found)
    assert {row.verdict for row in compared.parts} == {"not resolved"}
    assert compared.parts[0].change == pytest.approx(1.0, abs=0.01)
    assert "the spread of runs is not known" in compared.unresolved


def test_a_run_is_not_compared_with_itself(tmp_path: Path, ledger_run: LedgerRun) -> None:
    """Nor with a copy."""
    folder = ledger_run(tmp_path / "run")
    shutil.copytree(folder, tmp_path / "copy")
    for other in (folder, tmp_path / "copy"):
        with pytest.raises(InputError, match="are the same run, or one is a copy of the other"):
            load_pair(folder, other)


def test_runs_of_one_name_are_told_apart(tmp_path: Path, ledger_run: LedgerRun) -> None:
    """By the paths that were given."""
    pair = load_pair(ledger_run(tmp_path / "a" / "run"), ledger_run(tmp_path / "b" / "run", seed=1))
    assert (pair.ref.name, pair.new.name) == (str(tmp_path / "a" / "run"), str(tmp_path / "b" / "run"))
    assert pair.new_folder == tmp_path / "b" / "run"


def test_a_cost_of_nothing_is_compared_with_nothing() -> None:
    """A part that took no time has no ratio and no verdict."""
    costs = {"step": RunCost(0.0, np.zeros(30))}
    pair = [Run(name, Manifest(experiment="ledger", plan={}), costs, []) for name in ("ref", "new")]
    row = compare_runs(*pair, known()).parts[0]
    assert (row.change, row.ci_low, row.verdict) == (None, None, "not resolved")
