"""The `ledger` experiment: what it measures, what its samples say, and how that is told."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from perstep.errors import InputError, InvalidMeasurement
from perstep.experiments import ledger, pipeline
from perstep.experiments.ledger import Pass, Plan, Sample, analyse, files, prepare, tables
from perstep.experiments.ledger.session import LedgerSession
from perstep.machine import Noise
from perstep.measure import FakeClock, Steps
from perstep.runs import Manifest
from perstep.targets.reference import BOUNDARIES, model

from ...conftest import facts

MakeLlama = Callable[..., Path]


def no_progress(_share: float, _what: str) -> None:
    """Nobody looks."""


def session(folder: Path, clock: FakeClock, **plan: Any) -> LedgerSession:
    """A session over a folder, with a few tokens unless the plan says otherwise."""
    options = {"backend": "numpy", "prompt_tokens": 8, "new_tokens": 4, "rounds": 3, **plan}
    if plan.get("prompt") is not None:
        del options["prompt_tokens"]
    return prepare(Plan(model=str(folder), **options), no_progress, clock)


# Measuring


def test_a_round_is_a_balanced_block(tiny_llama: Path) -> None:
    """Each arm replays the trace twice, ABBA or BAAB, drawn by seed and round."""
    made = session(tiny_llama, FakeClock(tick_ns=1), seed=3)
    orders = ["".join(p.arm[0] for p in made.measure_round(number).passes) for number in range(12)]
    assert set(orders) == {"pmmp", "mppm"}
    again = session(tiny_llama, FakeClock(tick_ns=1), seed=3)
    assert ["".join(p.arm[0] for p in again.measure_round(number).passes) for number in range(12)] == orders


def test_a_sample_holds_every_step_of_both_arms(tiny_llama: Path) -> None:
    """One prefill and N - 1 decode steps a pass; instrumented ones add up exactly, others have no parts."""
    sample = session(tiny_llama, FakeClock(tick_ns=7)).measure_round(0)
    assert sample.round == 0
    for measured in sample.passes:
        assert measured.differing_choices == 0
        assert {kind: len(columns.step_ns) for kind, columns in measured.kinds.items()} == {"prefill": 1, "decode": 3}
        for columns in measured.kinds.values():
            if measured.arm == "plain":
                assert columns.parts == {}
                assert set(columns.step_ns.tolist()) == {7}
            else:
                total = sum(columns.parts.values(), start=np.asarray(columns.residual_ns))
                assert np.array_equal(total, columns.step_ns)
                assert sum(columns.marks.values()) * 7 + 7 * len(columns.step_ns) == columns.step_ns.sum()


def test_parts_are_those_of_the_decoder(tiny_llama: Path) -> None:
    """Masks are built and applied in prefill alone; a layer enters each part once, the norm twice."""
    sample = session(tiny_llama, FakeClock(tick_ns=1)).measure_round(0)
    marked = next(measured for measured in sample.passes if measured.arm == "marked")
    decode = [part for part in BOUNDARIES if "mask" not in part]
    assert set(marked.kinds["decode"].parts) == set(decode)
    assert set(marked.kinds["prefill"].parts) == set(BOUNDARIES)
    per_step = {part: count / 3 for part, count in marked.kinds["decode"].marks.items()}
    once = dict.fromkeys(("embed", "lm_head", "sample", "stop"), 1)
    assert per_step == {part: once.get(part, 2) for part in decode} | {"norm": 5}


@pytest.mark.parametrize("delay_us", [20, 200, 2000])
@pytest.mark.parametrize(("function", "part", "calls"), [("mlp", "mlp", 2), ("checked_ids", "embed", 1)])
def test_a_delay_inside_the_decoder_is_found_in_its_part(
    function: str, part: str, calls: int, delay_us: int, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The part grows by the delay to the nanosecond, and nothing else does."""
    clock, original = FakeClock(tick_ns=1), getattr(model, function)
    found = []
    for delay_ns in (0, 1_000 * delay_us):

        def delayed(*args: Any, delay_ns: int = delay_ns) -> Any:
            result = original(*args)
            clock.advance(delay_ns)
            return result

        monkeypatch.setattr(model, function, delayed)
        made = session(tiny_llama, clock)
        found.append(analyse(made.manifest, [made.measure_round(number) for number in range(3)]).decode)
    before, after = found
    assert before is not None
    assert after is not None
    moved = {name: after.parts[name].ns - before.parts[name].ns for name in before.parts}
    assert moved == {name: 1_000 * delay_us * calls if name == part else 0 for name in before.parts}
    assert after.residual_ns == before.residual_ns
    assert after.plain_step_ns - before.plain_step_ns == 1_000 * delay_us * calls


def test_one_new_token_fills_the_context_to_the_last_position(tiny_llama: Path) -> None:
    """A prompt as long as the context has room for one token, which is chosen by the prefill: no decode step."""
    made = session(tiny_llama, FakeClock(tick_ns=1), prompt_tokens=64, new_tokens=1)
    found = analyse(made.manifest, [made.measure_round(0)])
    made.finish()
    assert found.decode is None
    assert found.tokens_per_s is None
    assert found.prefill.forwards == 1
    assert made.resolved([made.measure_round(0)]).merged_rounds == 1


def test_the_cache_is_checked_after_measuring(tiny_llama: Path) -> None:
    """The state is as the trace leaves it (law "the state is as before"), or the run is invalid."""
    made = session(tiny_llama, FakeClock(tick_ns=1))
    made.measure_round(0)
    made.finish()
    made._target.loop_of(made._work).cache.rollback(1)  # type: ignore[attr-defined]
    with pytest.raises(InvalidMeasurement, match="KV cache holds 10 positions after the last pass, not 11"):
        made.finish()


def test_the_manifest_tells_workload_model_and_conditions(tiny_llama: Path) -> None:
    """What makes runs comparable, and how they were measured."""
    manifest = session(tiny_llama, FakeClock(tick_ns=5), batch=2, seed=4).manifest
    assert manifest.workload["prompt_tokens"] == 8
    assert manifest.workload["new_tokens"] == 4
    assert manifest.workload["batch"] == 2
    assert manifest.model["name"] == "tiny"
    assert manifest.conditions["mark_ns"] == 5
    assert manifest.conditions["warm_up"]["steady"] is True
    assert manifest.plan["seed"] == manifest.seed == 4
    same = session(tiny_llama, FakeClock(tick_ns=5), batch=2, seed=4).manifest
    other = session(tiny_llama, FakeClock(tick_ns=5), batch=2, seed=5).manifest
    assert same.workload == manifest.workload
    assert other.workload["token_ids_sha256"] != manifest.workload["token_ids_sha256"]


def test_drawn_tokens_replay_as_they_were_recorded(tiny_llama: Path) -> None:
    """The noise of a draw depends on seed, row, position and token alone."""
    made = session(tiny_llama, FakeClock(tick_ns=1), temperature=1.0, top_k=50, top_p=0.9, batch=3, new_tokens=9)
    sample = made.measure_round(0)
    assert [measured.differing_choices for measured in sample.passes] == [0] * 4


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ({"new_tokens": 0}, "--new-tokens 0: it must be at least 1"),
        ({"batch": -1}, "--batch -1: it must be at least 1"),
        ({"threads": 0}, "--threads 0: it must be at least 1"),
        ({"prompt_tokens": 0}, "--prompt-tokens 0: it must be at least 1"),
        ({"prompt_tokens": 65}, "a prompt of 65 tokens is longer than the model's context of 64"),
        ({"new_tokens": 58}, "overflow the model's context of 64; at most 57 new tokens fit"),
        ({"prompt": "x" * 65}, "a prompt of 65 tokens is longer"),
        ({"prompt": ""}, "--prompt is empty"),
        ({"temperature": -1.0}, "temperature must be"),
        ({"top_p": 0.0}, "top_p must be"),
        ({"batch": 10**12}, "needs .* GB of memory"),
        ({"batch": 10**30}, "needs .* GB of memory"),
    ],
)
def test_a_plan_out_of_range_is_refused(plan: dict[str, Any], said: str, tiny_llama: Path) -> None:
    """By the name of what is wrong, with what would be right."""
    with pytest.raises(InputError, match=said):
        session(tiny_llama, FakeClock(tick_ns=1), **plan)


def test_two_kinds_of_prompt_exclude_each_other(tiny_llama: Path) -> None:
    """A text has a length of its own."""
    with pytest.raises(InputError, match="--prompt and --prompt-tokens exclude each other"):
        prepare(Plan(model=str(tiny_llama), backend="numpy", prompt="a", prompt_tokens=3), no_progress, FakeClock())


# What samples say


def steps(num: int, part_ns: int, marked: bool) -> Steps:
    """Steps that are all alike."""
    if not marked:
        return Steps(np.full(num, 2 * part_ns + 100))
    column = np.full(num, part_ns)
    return Steps(np.full(num, 2 * part_ns + 100), {"mlp": column, "attn.qkv": column}, np.full(num, 100), {"mlp": num})


def made_up(calm: Noise, rounds: int = 3, *, new_tokens: int = 4, differing: int = 0, slow: int = 1) -> list[Sample]:
    """Rounds of two passes an arm; instrumented passes `slow` times as long."""
    samples = []
    for number in range(rounds):
        passes = []
        for arm in ("plain", "marked", "marked", "plain"):
            ns = 1_000 * (slow if arm == "marked" else 1)
            kinds = {"prefill": steps(1, 5 * ns, arm == "marked")}
            if new_tokens > 1:
                kinds["decode"] = steps(new_tokens - 1, ns, arm == "marked")
            for columns in kinds.values():
                columns.marks = dict.fromkeys(columns.parts, len(columns.step_ns))
            passes.append(Pass(arm, differing, kinds))
        samples.append(Sample(number, passes, calm))
    return samples


def manifest_for(name: str = "tiny", new_tokens: int = 4) -> Manifest:
    """What `analyse` and the renderer need to know."""
    return Manifest(
        experiment="ledger",
        plan={},
        workload=facts("ledger", "workload", batch=2, new_tokens=new_tokens),
        model={"name": name},
        conditions=facts("ledger", "conditions", mark_ns=10.0, precision=0.005),
        boundaries={"mlp": "inside", "attn.qkv": "x", "embed": "not in this ledger"},
    )


def test_analysis_is_a_pure_function_of_the_samples(calm: Noise) -> None:
    """Totals over rounds, passes and positions; throughput from uninstrumented steps."""
    found = analyse(manifest_for(), made_up(calm))
    again = analyse(manifest_for(), made_up(calm))
    assert found == again
    assert found.decode is not None
    assert found.decode.step_ns_total == 3 * 2 * 3 * 2_100
    assert found.decode.parts["mlp"].ns_total == 3 * 2 * 3 * 1_000
    assert found.prefill.step_ns_total == 3 * 2 * 10_100
    assert found.tokens_per_s == 2 * 1e9 / 2_100
    assert found.decode.parts["mlp"].marks_per_step == 1
    assert found.invalid == ""


def test_choices_that_differ_from_the_trace_make_the_run_invalid(calm: Noise) -> None:
    """The arms then did not do the same work."""
    found = analyse(manifest_for(), made_up(calm, differing=1))
    assert found.differing_choices == 12
    assert found.invalid.startswith("12 choices differ from the replayed trace")


def test_what_is_not_resolved_says_how_far_it_is(calm: Noise) -> None:
    """Too few rounds for an interval, or a wider one than was asked for; nothing where it is reached."""
    assert "no interval for mlp, attn.qkv: 3 rounds are too few" in analyse(manifest_for(), made_up(calm)).unresolved
    assert analyse(manifest_for(), made_up(calm, rounds=20)).unresolved == ""
    uneven = made_up(calm, rounds=20)
    for number, sample in enumerate(uneven):
        for measured in sample.passes:
            if measured.arm == "marked":
                shift = 100 * (-1) ** number
                columns = measured.kinds["decode"]
                columns.parts = {"mlp": columns.parts["mlp"] + shift, "attn.qkv": columns.parts["attn.qkv"] - shift}
    assert (
        "the widest interval is ±5.03% of the step, ±0.50% was requested" in analyse(manifest_for(), uneven).unresolved
    )


def test_a_run_without_a_round_says_so() -> None:
    """It was interrupted before its first round was done."""
    with pytest.raises(InputError, match="the run has no finished round; resume it"):
        analyse(manifest_for(), [])


@pytest.mark.parametrize("damage", ["position", "part", "kind", "pass", "passes", "residual"])
def test_rounds_that_do_not_hold_the_same_are_refused(damage: str, calm: Noise) -> None:
    """Each line can be read, but they do not belong together."""
    samples = made_up(calm)
    marked = samples[1].passes[1]
    decode = marked.kinds["decode"]
    if damage == "position":
        decode.step_ns = decode.step_ns[:2]
    elif damage == "part":
        decode.parts = {"mlp": decode.parts["mlp"]}
    elif damage == "kind":
        del marked.kinds["decode"]
    elif damage == "pass":
        samples[1].passes.pop(1)
    elif damage == "passes":
        samples[0].passes.clear()
    else:
        decode.residual_ns = decode.residual_ns[:0]
    with pytest.raises(InputError, match="do not all hold the same passes, steps and parts") as caught:
        analyse(manifest_for(), samples)
    assert "\n" not in str(caught.value)


def test_a_sample_survives_its_line(tmp_path: Path, calm: Noise) -> None:
    """What is analysed from disk is what was measured."""
    from perstep.runs import RunWriter, read_samples

    samples = made_up(calm)
    with RunWriter(tmp_path / "run", manifest_for()) as writer:
        for sample in samples:
            writer.append(sample)
    stored, notes = read_samples(tmp_path / "run", ledger.Sample)
    assert notes == []
    assert analyse(manifest_for(), stored) == analyse(manifest_for(), samples)


# How it is told


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("tiny", {"rounds": 20}, "One decode step takes **2.10 µs** [2.10 µs, 2.10 µs] without instruments"),
        ("tiny", {"rounds": 20, "slow": 2}, "**This run is invalid: decode: the instruments made the step 1.95"),
        ("tiny", {"rounds": 20, "differing": 1}, "Not every replay chose the recorded tokens."),
        ("tiny", {"rounds": 3, "new_tokens": 1}, "Only one token was generated, so there is no decode step"),
        ("tiny", {"rounds": 1}, "Each of 1 round has two replays an arm. 4 new tokens are one prefill and"),
        ("größer|模型 $x$ <b>", {"rounds": 3}, "# What a decode step of größer|模型 $x$ &lt;b> costs"),
    ],
)
@pytest.mark.parametrize("machine", [{}, {"cpu": {"model": "Model of a CPU"}}])
def test_the_readme_tells_the_run_in_words(
    machine: dict[str, Any], name: str, options: dict[str, int], said: str, calm: Noise
) -> None:
    """For every kind of outcome, without a value that is missing or not a number."""
    new_tokens = options.get("new_tokens", 4)
    manifest = manifest_for(name, new_tokens)
    manifest.machine = machine
    manifest.warnings = ["turbo is on"]
    found = analyse(manifest, made_up(calm, **options))
    made = files(manifest, found)
    assert set(made) == {"ledger.png", "ledger.csv", "README.md"}
    readme = made["README.md"].decode()
    assert said in readme
    assert not re.search(r"\b(None|nan|inf|Undefined)\b|\{\{|\{%", readme)
    assert "| `mlp` | inside |" in readme
    assert "not in this ledger" not in readme
    assert "- turbo is on" in readme
    assert ("Model of a CPU" in readme) == bool(machine)
    assert ("invalid" in readme) == bool(found.invalid)
    assert made["ledger.png"].startswith(b"\x89PNG")


def test_tables_are_decode_first_then_prefill(calm: Noise) -> None:
    """Titles tell the workload; what is not resolved stands below the first."""
    both = tables(manifest_for(), analyse(manifest_for(), made_up(calm)))
    assert [table.title for table in both] == [
        "decode: tiny, batch 2, prompt 8, 4 new tokens",
        "prefill: tiny, batch 2, prompt 8, 4 new tokens",
    ]
    assert both[0].notes[-1].startswith("Not resolved: no interval for")
    one = manifest_for(new_tokens=1)
    [only] = tables(one, analyse(one, made_up(calm, new_tokens=1)))
    assert only.title == "prefill: tiny, batch 2, prompt 8, 1 new token"


def test_the_summary_is_the_headline(calm: Noise) -> None:
    """For `perstep list`; of two parts that are alike none is the largest."""
    found = ledger.summary(analyse(manifest_for(), made_up(calm)))
    assert found["headline"] == "2.10 µs per decode step, largest part mlp or attn.qkv (not resolved)"
    assert found["largest_part"] is None


@pytest.mark.parametrize(
    ("rounds", "said"),
    [(3, "instrumentation overhead not resolved"), (12, "instrumentation overhead 0.0 % [0.0")],
)
def test_a_factor_without_an_interval_is_named_nowhere(rounds: int, said: str, calm: Noise) -> None:
    """Neither in the table nor in the README."""
    found = analyse(manifest_for(), made_up(calm, rounds))
    readme = files(manifest_for(), found)["README.md"].decode()
    assert said in readme
    assert ("instrumentation overhead not resolved" in readme) == (rounds == 3)
    assert ("instrumentation overhead 0.0 % [0.0, 0.0]" in readme) == (rounds == 12)


def test_the_readme_names_the_largest_part_where_it_is_resolved(
    tiny_llama: Path, fake_time: FakeClock, tmp_path: Path
) -> None:
    """With its share and interval; sums of parts have intervals too."""
    plan = Plan(model=str(tiny_llama), backend="numpy", prompt_tokens=8, new_tokens=4, rounds=12)
    report = pipeline.run("ledger", plan, progress=no_progress, out=tmp_path / "run", clock=fake_time)
    readme = (report.folder / "README.md").read_text()
    assert "largest part norm, 99." in readme
    assert re.search(r"the forward pass is 99\.\d % \[99\.\d %, (99|100)\.\d %\]", readme)
    assert report.manifest.results_summary["largest_part"] == "norm"


# Bounds


@pytest.mark.real_clock
def test_a_run_has_bounds_from_ceilings_of_its_own_rounds(tiny_llama: Path, calm: Noise) -> None:
    """Every round holds each ceiling; each part with a formula has a bound, in tables, results and CSV."""
    made = session(tiny_llama, FakeClock(tick_ns=10**9))  # slower than any ceiling
    samples = [msgspec.structs.replace(made.measure_round(number), noise=calm) for number in range(3)]
    assert all(sample.ceilings and sample.ceilings.keys() == samples[0].ceilings.keys() for sample in samples)
    found = analyse(made.manifest, samples)
    assert {"mlp", "attn.qkv", "lm_head"} <= set(found.bounds["decode"].parts)
    assert "stop" not in found.bounds["decode"].parts
    assert found.bounds_withdrawn == ""
    table = tables(made.manifest, found)[0]
    assert table.header[-3:] == ["bound (s)", "measured/bound", "bound by"]
    assert min(float(row[-2]) for row in table.rows if row[-2]) > 1
    assert b"bound_ns" in files(made.manifest, found)["ledger.csv"]
    assert b"A bound is the least time" in files(made.manifest, found)["README.md"]


def test_the_noise_of_a_round_is_that_of_its_ceilings_too(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe stops after them: a processor that was taken away during a ceiling is known."""
    order: list[str] = []
    made = session(tiny_llama, FakeClock(tick_ns=1000))
    monkeypatch.setattr(made._ceilings, "measure", lambda: order.append("ceilings") or {})
    monkeypatch.setattr(made._probe, "stop", lambda: order.append("stop"))
    made.measure_round(0)
    assert order == ["ceilings", "stop"]


def test_disturbed_ceilings_are_a_sentence_and_no_bound(tiny_llama: Path, calm: Noise, taken: Noise) -> None:
    """In the table, the text, the CSV and the results; two rounds in peace of four are too few."""
    made = session(tiny_llama, FakeClock(tick_ns=1_000_000))
    noises = (calm, taken, taken, calm)
    samples = [msgspec.structs.replace(made.measure_round(n), noise=noise) for n, noise in enumerate(noises)]
    found = analyse(made.manifest, samples)
    why = "ceilings disturbed; not judged: the processor was taken away in 2 of 4 rounds"
    assert (found.bounds, found.bounds_withdrawn) == ({}, why)
    table = tables(made.manifest, found)[0]
    assert "measured/bound" not in table.header
    assert f"Bounds: {why}." in table.notes
    written = files(made.manifest, found)
    assert f"There are no bounds beside the parts: {why}.".encode() in written["README.md"]
    assert b"bound" not in written["ledger.csv"]


def test_a_run_without_ceilings_is_shown_without_bounds(tiny_llama: Path) -> None:
    """As where theory has no formula: no columns, no sentence, and samples that lack the field are read."""
    made = session(tiny_llama, FakeClock(tick_ns=1000))
    old = [msgspec.structs.replace(made.measure_round(number), ceilings={}) for number in range(3)]
    made.manifest.conditions["bounds"] = {}
    found = analyse(made.manifest, old)
    assert (found.bounds, found.ceilings) == ({}, None)
    assert "measured/bound" not in tables(made.manifest, found)[0].header
    assert b"bound" not in files(made.manifest, found)["ledger.csv"]
    assert b"A bound is" not in files(made.manifest, found)["README.md"]
