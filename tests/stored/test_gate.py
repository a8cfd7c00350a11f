"""The gate: how limits are written, and that only a confident regression beyond one fails."""

from collections.abc import Callable
from pathlib import Path

import pytest

from perstep.errors import InputError
from perstep.report import to_markdown
from perstep.runs import open_run
from perstep.stats import Spread
from perstep.stored.between import Run, SpreadOfRuns
from perstep.stored.gate import Limit, gate_table, judge, parse_limits
from perstep.stored.repeats import reduce_run

LedgerRun = Callable[..., Path]


def known(sd_log: float = 0.001, parts: tuple[str, ...] = ("step", "mlp", "prefill.step")) -> SpreadOfRuns:
    """A spread of runs as 21 other runs would show it."""
    return SpreadOfRuns(source="runs", runs=21, parts=dict.fromkeys(parts, Spread(sd_log, 20)), sentence="Known.")


def run(folder: Path) -> Run:
    """A stored run with its costs."""
    return reduce_run(open_run(folder))


def test_limits_are_written_part_and_percent() -> None:
    """A part's name may hold dots, slashes and colons; five percent of the step by default."""
    assert parse_limits(["step:5%", "prefill.step:2.5 %", "logits/a:b:100%"]) == [
        Limit("step", 0.05),
        Limit("prefill.step", 0.025),
        Limit("logits/a:b", 1.0),
    ]
    assert parse_limits([]) == [Limit("step", 0.05)]


@pytest.mark.parametrize("bad", ["", "step", "step:", "step:5", ":5%", "step:-5%", "step:x%", "5%", "step:5%%"])
def test_other_limits_are_refused(bad: str) -> None:
    """With what would be right."""
    with pytest.raises(InputError, match="write PART:PERCENT, such as step:5%"):
        parse_limits([bad])


def test_a_part_has_one_limit() -> None:
    """Two would contradict each other."""
    with pytest.raises(InputError, match="gives step more than one limit"):
        parse_limits(["step:5%", "step:6%"])


@pytest.mark.parametrize(
    ("level", "sd_log", "outcome"),
    [
        (1.00, 0.001, "passed"),
        (0.50, 0.001, "passed"),
        (1.04, 0.001, "passed"),
        (1.04, 0.010, "not resolved"),
        (1.06, 0.010, "not resolved"),
        (1.06, 0.001, "FAILED"),
    ],
)
def test_only_an_interval_beyond_the_limit_fails(
    tmp_path: Path, ledger_run: LedgerRun, level: float, sd_log: float, outcome: str
) -> None:
    """One that holds the limit is not resolved; one below it passes."""
    ref, new = run(ledger_run(tmp_path / "ref")), run(ledger_run(tmp_path / "new", level=level))
    found = judge(ref, new, known(sd_log), [Limit("step", 0.05)])
    assert found.outcome == outcome
    assert found.conclusion.startswith({"passed": "Gate passed", "FAILED": "Gate failed"}.get(outcome, "Gate not re"))


def test_the_worst_part_decides(tmp_path: Path, ledger_run: LedgerRun) -> None:
    """One that failed, else one that is not resolved; the conclusion names it."""
    ref, new = run(ledger_run(tmp_path / "ref")), run(ledger_run(tmp_path / "new", parts={"mlp": 1.5}))
    limits = [Limit("prefill.step", 0.05), Limit("mlp", 0.2)]
    found = judge(ref, new, known(), limits)
    assert [part.outcome for part in found.parts] == ["passed", "FAILED"]
    assert found.outcome == "FAILED"
    assert found.conclusion.startswith("Gate failed: mlp +50.0 % [")
    assert found.conclusion.endswith("limit +20.0 %.")
    unknown = judge(ref, new, known(parts=("prefill.step",)), limits)
    assert (unknown.outcome, unknown.parts[1].outcome) == ("not resolved", "not resolved")
    assert (
        unknown.conclusion == "Gate not resolved, so neither passed nor failed: mlp: the spread of runs is not known."
    )


def test_too_few_rounds_for_a_verdict_do_not_fail_a_gate(tmp_path: Path, ledger_run: LedgerRun) -> None:
    """Even where there is an interval."""
    ref, new = run(ledger_run(tmp_path / "ref", rounds=12)), run(ledger_run(tmp_path / "new", level=3.0))
    found = judge(ref, new, known(), [Limit("step", 0.05)])
    assert found.parts[0].change.ci_low is not None
    assert found.parts[0].change.ci_low > 1
    assert found.outcome == "not resolved"
    assert "12 rounds; a verdict needs 20" in found.conclusion


def test_a_gates_summary_is_a_table_and_a_line(tmp_path: Path, ledger_run: LedgerRun) -> None:
    """In Markdown, for a CI job."""
    ref, new = run(ledger_run(tmp_path / "before")), run(ledger_run(tmp_path / "after", level=1.2))
    found = judge(ref, new, known(), [Limit("step", 0.05)])
    lines = to_markdown(gate_table(found)).splitlines()
    assert lines[0] == "**perstep gate: before → after**"
    assert lines[4].startswith("| step | 100 µs ±0.")
    assert lines[4].endswith("| +5.0 % | FAILED |")
    assert lines[6] == found.conclusion
