"""What rounds of `perstep fix` say of a decode step and of the call, and the bounds that stand beside it."""

import re
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perstep.experiments.compare import Conditions, Sample
from perstep.fixing.changes import FIXED, REFERENCE, changes
from perstep.fixing.findings import Result, Row, Site, _bound
from perstep.fixing.samples import Offered, Round, Tried
from perstep.fixing.show import tables
from perstep.fixing.suggest import SETUP, at_most
from perstep.machine import NoiseProbe, summarise_noise
from perstep.measure import Ledger, LedgerSamples, build_ledger
from perstep.report.change import TimeChange

from ..conftest import facts

MS = 1_000_000
TURNS = [REFERENCE, FIXED, FIXED, REFERENCE]


def conditions(calls: int = 1) -> Conditions:
    """Of a trial with so many calls a block."""
    changed = {
        "arms": [REFERENCE, FIXED],
        "calls_per_block": dict.fromkeys((REFERENCE, FIXED), calls),
        "clock_share_of_block": 0.0,
        "replicates": "rounds of one process",
    }
    return msgspec.convert(facts("compare", "conditions", **changed), Conditions)


def rounds(
    once_ms: tuple[int, int], step_ms: tuple[int, int], tokens: int, number: int = 20, waited: float = 0.0
) -> list[Round]:
    """Rounds of calls, of the reference and with the drop-ins, whose costs are known; making takes half of once.

    The processor works for half of the time with the drop-ins, and for all of it without.
    """
    probe = NoiseProbe()
    probe.start()
    noise = probe.stop()
    decode = {name: (tokens - 1) * step * MS for name, step in zip((REFERENCE, FIXED), step_ms, strict=True)}
    once = {name: one * MS for name, one in zip((REFERENCE, FIXED), once_ms, strict=True)}
    worked = {REFERENCE: once[REFERENCE] + decode[REFERENCE], FIXED: (once[FIXED] + decode[FIXED]) // 2}
    return [
        Round(
            site="job.py:1",
            round=Sample(
                index,
                TURNS,
                [once[name] + decode[name] for name in TURNS],
                [worked[name] for name in TURNS],
                waited,
                noise,
            ),
            decode_ns=[decode[name] for name in TURNS],
            making_ns=[once[name] // 2 if name == FIXED else 0 for name in TURNS],
        )
        for index in range(number)
    ]


@given(
    st.tuples(st.integers(0, 500), st.integers(0, 500)),
    st.tuples(st.integers(1, 50), st.integers(1, 50)),
    st.integers(2, 16),
    st.integers(0, 200),
)
def test_the_step_is_measured_and_a_longer_call_is_projected(
    once_ms: tuple[int, int], step_ms: tuple[int, int], tokens: int, more: int
) -> None:
    """What comes once counts once; each further token costs a mean step. As long as the call, all is measured."""
    found = changes(conditions(), rounds(once_ms, step_ms, tokens), tokens, tokens + more)
    (old_once, new_once), (old, new) = once_ms, step_ms
    assert found.step is not None
    assert found.step.change == pytest.approx(new / old - 1)
    assert found.step.ns == pytest.approx(new * MS)
    assert (found.call is None, found.projected is None) == (more > 0, more == 0)
    assert found.whole is not None
    steps = tokens + more - 1
    assert found.whole.change == pytest.approx((new_once + steps * new) / (old_once + steps * old) - 1, abs=1e-6)
    assert found.making_ns == new_once * MS // 2


def test_a_long_prefill_does_not_hide_what_a_step_gains() -> None:
    """400 ms of prefill, steps of 5 ms that become 4, 8 of 200 tokens timed: -20 % and -14 %, not the -1.6 % seen."""
    found = changes(conditions(), rounds((400, 400), (5, 4), 8), 8, 200)
    assert found.step is not None
    assert found.projected is not None
    assert (found.step.change, found.step.verdict) == (pytest.approx(-0.2), "faster")
    assert (found.projected.change, found.projected.verdict) == (pytest.approx(-199 / 1395), "faster")


def test_set_up_that_costs_more_than_the_steps_win_makes_the_call_slower() -> None:
    """10 tokens: 9 ms won by steps, 100 ms lost by making the drop-in."""
    found = changes(conditions(), rounds((10, 110), (5, 4), 8), 8, 10)
    assert found.step is not None
    assert found.whole is not None
    assert (found.step.verdict, found.whole.verdict) == ("faster", "slower")


def test_without_steps_the_calls_are_what_they_are() -> None:
    """One new token has no decode step; rounds of older runs do not tell them apart; none may have been seen."""
    one_token = rounds((10, 5), (0, 0), 1)
    older = [msgspec.structs.replace(one, decode_ns=[], making_ns=[]) for one in one_token]
    unseen = [msgspec.structs.replace(one, making_ns=[]) for one in one_token]
    for made, tokens, whole in ((older, 1, 1), (older, 8, 200), (unseen, 8, 200)):
        found = changes(conditions(), made, tokens, whole)
        assert (found.step, found.projected, found.making_ns) == (None, None, 0.0)
        assert found.call is not None
        assert found.call.change == pytest.approx(-0.5)


def test_a_busy_machine_gives_no_verdict_and_the_processor_time_as_such() -> None:
    """Where most rounds waited, neither a step nor a call has a change in wall time; the table and the notes say so."""
    found = changes(conditions(), rounds((400, 400), (5, 4), 8, waited=0.6), 8, 200)
    assert found.step is not None
    assert found.projected is not None
    for change in (found.step, found.projected):
        assert (change.change, change.ci_low) == (None, None)
        assert change.verdict == "not resolved (the machine was busy: waited 60 %)"
    assert found.processor.verdict == "faster"
    assert found.processor.change == pytest.approx((428 / 2) / 435 - 1)
    result = Result(
        drop_ins=["D()"], step=found.step, call=None, projected=found.projected, processor=found.processor,
        making_ns=0.0, new_tokens=8, rounds=20,
    )  # fmt: skip
    row = Row(parts=["logits/X"], drop_in="D()", tokens="the same", result=result)
    (table,) = tables_of(
        Site(site="a", model="", calls=1, refused="", step_ns=5.0, ledger_invalid="", rows=[row], all_tokens=200)
    )
    assert table.rows[0][-2:] == ["not resolved", "not resolved"]
    assert any(
        "busy: waited 60 %); the processor time of the timed calls of 8 new tokens, without all waiting:"
        " faster, -50.80 %" in note
        for note in table.notes
    )


def ledger(kind: str, parts_ns: dict[str, int], residual_ns: int = 0) -> Ledger:
    """A ledger whose parts cost so much in every step."""
    shape = (20, 1, 4)
    step = np.full(shape, sum(parts_ns.values()) + residual_ns, np.int64)
    parts = {name: np.full(shape, ns, np.int64) for name, ns in parts_ns.items()}
    samples = LedgerSamples(step, step, parts, np.full(shape, residual_ns, np.int64), dict.fromkeys(parts, 1.0))
    return build_ledger(kind, samples, mark_ns=0.0)


COST = st.integers(0, 10_000)


@given(COST, COST, st.integers(1, 10_000), COST, COST, COST, st.integers(1, 300), st.floats(0, 1), st.floats(0, 1))
def test_a_bound_bounds_what_comes_back_set_up_included(
    setup: int, part: int, rest: int, first: int, prefill: int, other: int, tokens: int, left: float, left_once: float
) -> None:
    """Whatever share of set-up and part a drop-in leaves, in a step, in the call, and where another went before."""
    decode_ledger = ledger("decode", {"logits/X": part, "logits/Y": other, "forward": rest})
    once = ledger("prefill", {SETUP: setup, "logits/X": first, "logits/Y": other, "forward": prefill + 1})
    for gone in ((), ("logits/Y",)):
        beside = 0 if gone else other
        step, call = at_most(decode_ledger, once, tokens, ("logits/X",), gone=gone, by_generate=True)
        assert call is not None
        old_step = part + beside + rest
        new_step = part * left + beside + rest
        old_call = setup + first + beside + prefill + 1 + (tokens - 1) * old_step
        new_call = (setup + first) * left_once + beside + prefill + 1 + (tokens - 1) * new_step
        assert step >= old_step / new_step - 1e-6
        assert call >= old_call / new_call - 1e-6
    own = at_most(decode_ledger, once, tokens, ("logits/X",))  # made by the script before the call
    assert own[0] == pytest.approx((part + other + rest) / (other + rest))
    assert at_most(decode_ledger, None, tokens, ("logits/X",))[1] is None


def arm(change: float, half: float | None) -> TimeChange:
    """A change with its interval."""
    low, high = (None, None) if half is None else (change - half, change + half)
    return TimeChange(ns=1.0, change=change, ci_low=low, ci_high=high, mde=None, verdict="faster", reason="")


WORKED = TimeChange(ns=1.0)


@pytest.mark.parametrize(
    ("step", "call", "kept"),
    [(-0.19, -0.15, True), (-0.2, -0.2, True), (-0.5, -0.15, False), (-0.1, -0.9, False)],
)
def test_a_bound_that_is_beaten_beside_itself_is_withdrawn_in_words(step: float, call: float, kept: bool) -> None:
    """Half a step of which a fifth is the part: more came back than that, and the row says so instead of the bound."""
    decode, once = ledger("decode", {"logits/X": 1, "forward": 4}), ledger("prefill", {"logits/X": 1, "forward": 4})
    result = Result(
        drop_ins=["D()"], step=arm(step, 0.01), call=None, projected=arm(call, 0.01), making_ns=0.0,
        processor=WORKED, new_tokens=8, rounds=20,
    )  # fmt: skip
    row = Row(parts=["logits/X"], drop_in="D()", tokens="the same", ns=1.0, share=0.2, result=result)
    tried = Tried(parts=["logits/X"], drop_in="D()", tokens="the same")
    _bound(row, Offered(site="a", calls=1, tried=[tried], all_tokens=200), 0, decode, once, (), ())
    assert (row.no_bound == "") == kept
    assert (row.most_step_speedup, row.most_call_speedup) == ((1.25, pytest.approx(1.25)) if kept else (None, None))
    (table,) = tables_of(
        Site(site="a", model="", calls=1, refused="", step_ns=5.0, ledger_invalid="", rows=[row], all_tokens=200)
    )
    assert (table.rows[0][3] == "1.25×") == kept
    assert any(re.search(r"no bound: the change of .* exceeds the 1\.25×", note) for note in table.notes) == (not kept)


def test_what_is_printed_bounds_the_step_and_the_call() -> None:
    """2 % of a step, and most of the call, since generate makes it anew: the larger bound stands beside both."""
    row = Row(
        parts=["stop/X"], drop_in="D()", tokens="the same", most_step_speedup=1.02, most_call_speedup=4.0,
        result=Result(
            drop_ins=["D()"], step=arm(-0.02, 0.01), call=arm(-0.7, 0.01), projected=None, making_ns=0.0,
            processor=WORKED, new_tokens=8, rounds=20,
        ),
    )  # fmt: skip
    for row_of_it, shown in ((row, "4.00×"), (msgspec.structs.replace(row, most_call_speedup=None), "–")):
        (table,) = tables_of(
            Site(site="a", model="", calls=1, refused="", step_ns=5.0, ledger_invalid="", rows=[row_of_it])
        )
        assert table.rows[0][3] == shown


def test_derived_and_measured_changes_have_columns_of_their_own() -> None:
    """A projection is called one, and says from what; a whole call that was timed is not projected."""
    projected = Result(
        drop_ins=["D()"], step=arm(-0.2, 0.01), call=None, projected=arm(-0.1, 0.01), making_ns=0.0,
        processor=WORKED, new_tokens=8, rounds=20,
    )  # fmt: skip
    measured = msgspec.structs.replace(projected, call=projected.projected, projected=None, new_tokens=200)
    for result, column in ((projected, "the call, projected"), (measured, "the call")):
        row = Row(parts=["logits/X"], drop_in="D()", tokens="the same", result=result, written=True)
        site = Site(
            site="a", model="", calls=1, refused="", step_ns=5.0, ledger_invalid="", rows=[row], all_tokens=200,
            together=result, lines=["D(),"],
        )  # fmt: skip
        (table,) = tables_of(site)
        assert list(table.header[-2:]) == ["a decode step", column]
        assert table.rows[0][-2:] == ["-20.00 % faster", "-10.00 % faster"]
        assert ("projected from its first 8 of 200 new tokens" in table.notes[0]) == (result is projected)
        assert ("of the whole call's time, set-up and prefill included" in table.notes[0]) == (result is measured)


def tables_of(site: Site) -> Any:
    """The tables of one line."""
    from perstep.fixing import FixFindings
    from perstep.runs import Manifest

    probe = NoiseProbe()
    probe.start()
    findings = FixFindings(sites=[site], diff="", noise=summarise_noise([probe.stop()]), unresolved="", invalid="")
    return tables(Manifest(experiment="fix", plan={}), findings)
