"""The cells of an ablation and what known costs say; when in place and taken away agree, and why not."""

import numpy as np
import pytest

from perstep.experiments.ablation.cells import design, effects
from perstep.experiments.ablation.reasons import Elsewhere, Spent, agreement, elsewhere
from perstep.experiments.ablation.samples import ColdCell
from perstep.stats import Effect

ROUNDS = 24


def costs(plan, cost_of):
    """[rounds] a cell: a known cost, at the pace of each round."""
    pace = np.exp(np.random.default_rng(0).normal(0, 0.02, ROUNDS))
    return {label: cost_of(present) * pace for label, present in plan.cells.items()}


def test_the_cells_of_a_factorial():
    """All combinations, the whole first and nothing last."""
    assert list(design(["a"]).cells) == ["all", "none"]
    three = ["all", "without a", "without b", "without c", "only c", "only b", "only a", "none"]
    assert list(design(["a", "b", "c"]).cells) == three
    four = design(["a", "b", "c", "d"])
    assert len(four.cells) == 16
    assert four.cells["only a + c"] == {"a", "c"}
    five = design(["a", "b", "c", "d", "e"])
    assert len(five.cells) == 12
    assert not five.factorial
    assert five.cells[five.without("b")] == {"a", "c", "d", "e"}
    assert five.cells[five.only("b")] == {"b"}


def test_a_factorial_of_known_costs():
    """100 + 30 a + 20 b - 6 ab: what the other hides is shared equally."""
    plan = design(["a", "b"])
    found = effects(plan, costs(plan, lambda p: 100 + 30 * ("a" in p) + 20 * ("b" in p) - 6 * (p == {"a", "b"})))
    a, b = found.parts["a"], found.parts["b"]
    assert [a.leave_one_out.estimate, a.add_one_in.estimate, a.effect.estimate] == pytest.approx([24, 30, 27], rel=0.05)
    assert a.shapley.estimate + b.shapley.estimate == pytest.approx(found.total.estimate)
    assert found.interaction["a*b"].estimate == pytest.approx(-6, rel=0.05)
    none = found.cells["none"]
    assert none.change == pytest.approx(-44 / 144)
    assert none.verdict == "faster"
    assert none.ns_per_step == pytest.approx(100, rel=0.05)
    assert found.cells["all"].verdict == ""
    assert found.unattributed == 0


def test_above_four_a_part_that_hides_has_no_share():
    """Parts a and b do the same work, which is done once: neither costs what taking it away, or adding it, says."""
    plan = design(["a", "b", "c", "d", "e"])
    found = effects(plan, costs(plan, lambda p: 100 + 40 * bool(p & {"a", "b"}) + 10 * len(p & {"c", "d", "e"})))
    assert found.parts["a"].shapley is None
    assert found.parts["a"].share is None
    assert found.parts["a"].reason.startswith("not additive")
    assert found.parts["c"].shapley.estimate == pytest.approx(10, rel=0.1)
    assert found.unattributed == pytest.approx(40, rel=0.1)
    assert found.interaction == {}


def judge(taken, placed, **changes):
    """The judgement of a part that takes `placed` in place and gives back `taken`, of a step of 1,000."""
    settings = {"step_ns": 1000.0, "syncs": 0.0, "cold": None, "without": "without x", "others": [], **changes}
    return agreement("x", Effect(taken, taken - 5, taken + 5), Effect(placed, placed - 5, placed + 5), **settings)


def test_agreement():
    """Where the intervals overlap, or the difference is under 1 % of the step."""
    assert judge(100, 105)[0] is True
    assert judge(100, 109.9)[0] is True
    assert judge(100, 130)[0] is False
    assert (
        agreement(
            "x", Effect(1, None, None), Effect(1, 0, 2), step_ns=9, syncs=0, cold=None, without="none", others=[]
        )[0]
        is None
    )


def test_the_reasons_for_a_disagreement():
    """A hidden sync, the compile boundary, other parts' work, or none of these."""
    assert "(a hidden sync)" in judge(100, 400, syncs=2.0)[1]
    assert "(a hidden sync)" not in judge(400, 100, syncs=2.0)[1]
    cold = {label: ColdCell(1, graphs, 0, 0) for label, graphs in (("all", 3), ("without x", 1))}
    assert "The compile boundary moves with it: 3 graphs with all parts, 1 without it." in judge(400, 100, cold=cold)[1]
    same = dict.fromkeys(("all", "without x"), ColdCell(1, 1, 0, 0))
    other = Elsewhere(part="sample", ns=Effect(300.0, 290.0, 310.0))
    assert "`sample` itself takes 300 ns more a step" in judge(400, 100, cold=same, others=[other])[1]
    assert "No sync, no compile boundary" in judge(100, 400, others=[other])[1]
    assert judge(400, 100)[1].startswith("`x`: in place 100 [95.0, 105] ns a step, taking it away saves 400")


def test_where_else_the_time_goes():
    """Other parts that take another time with the parts than without; small changes and the parts themselves do not."""
    pace = np.exp(np.random.default_rng(1).normal(0, 0.01, (ROUNDS, 1)))

    def spent(**parts: int) -> Spent:
        columns = {name: np.rint(pace * ns * np.ones((1, 8)) * 1000).astype(np.int64) for name, ns in parts.items()}
        return Spent(sum(columns.values()), columns)

    found = elsewhere(
        spent(forward=1000, sample=150, own=500, sync=30), spent(forward=1000, sample=50, own=0, sync=31), {"own"}
    )
    assert [(other.part, round(other.ns.estimate, -3)) for other in found] == [("sample", 100_000)]
    assert found[0].sentence() == "`sample` itself takes 100 µs more a step when the parts are present"
