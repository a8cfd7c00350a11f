"""`perstep.ablate` on a real model and a fake clock: planted costs come back, and what is not comparable is refused."""

from itertools import count
from typing import Any

import pytest

import perstep
from perstep.errors import InputError, InvalidMeasurement

pytestmark = pytest.mark.hf
torch = pytest.importorskip("torch")

MS = 1_000_000


def ablate(planted: Any, ids: Any, processors: Any, criteria: Any = None, **options: Any) -> perstep.Ablation:
    """An ablation of few rounds and tokens; marks and readings of the clock take some nanoseconds a step."""
    settings = {"max_new_tokens": 3, "rounds": 10, "do_sample": False, **options}
    return perstep.ablate(
        planted.model,
        ids,
        logits_processor=processors,
        stopping_criteria=criteria or {},
        clock=planted.clock,
        **settings,
    )


def near(ns: float) -> Any:
    """Within some readings of the clock."""
    return pytest.approx(ns, abs=50)


def test_planted_costs_are_found(planted, ids):
    """1 ms and 0.5 ms, by taking away, adding, Shapley and in place; no interaction; the shares add up."""
    found = ablate(planted, ids, {"utf8": planted.processor(MS)}, {"word": planted.criterion(MS // 2)})
    assert {name: effect.estimate for name, effect in found.effect.items()} == {"utf8": near(MS), "word": near(MS / 2)}
    assert found.interaction["utf8", "word"].estimate == near(0)
    assert found.shapley["utf8"].estimate + found.shapley["word"].estimate == pytest.approx(found.total.estimate)
    assert {name: effect.estimate for name, effect in found.in_place.items()} == {
        "utf8": near(MS),
        "word": near(MS / 2),
    }
    cells = found.findings.effects.cells
    assert list(cells) == ["all", "without utf8", "without word", "none"]
    assert [cell.ns_per_step for cell in cells.values()] == [near(ms * MS) for ms in (3.5, 2.5, 3, 2)]
    assert cells["none"].ci_low <= cells["none"].change == pytest.approx(-1.5 / 3.5, abs=1e-4)
    assert found.findings.forwards_per_pass == 3
    assert all(part.agrees for part in found.findings.parts.values())
    assert "`utf8`: in place 1.00 [1.00, 1.00] ms a step, taking it away saves 1.00" in str(found)
    assert found.findings.overhead.estimate == pytest.approx(0, abs=1e-4)


def test_work_that_a_part_causes_elsewhere_is_told(planted, ids):
    """A processor after which the forward takes 1 ms longer: the time in it is not what taking it away gives back."""
    factory = planted.processor(MS)

    class Hinders(factory):
        """Its presence makes forwards slow; it is not told when it is gone, so the clock's hook asks who is alive."""

        def __init__(self) -> None:
            planted.forward_ns = 3 * MS

        def __del__(self) -> None:
            planted.forward_ns = 2 * MS

    found = ablate(planted, ids, {"slow": Hinders, "other": planted.processor(MS // 2)})
    part = found.findings.parts["slow"]
    assert found.findings.effects.parts["slow"].leave_one_out.estimate == near(2 * MS)
    assert part.in_place.estimate == near(MS)
    assert part.agrees is False
    assert "more than is spent in it. The cost of other parts changes: `forward` itself takes" in part.agreement
    assert "more a step when the parts are present" in part.agreement
    assert found.findings.parts["other"].agrees is True
    [other] = found.findings.elsewhere
    assert (other.part, other.ns.estimate) == ("forward", near(MS))


def test_one_part_alone(planted, ids):
    """Two cells."""
    found = ablate(planted, ids, {}, {"word": planted.criterion(MS)})
    assert list(found.findings.effects.cells) == ["all", "none"]
    assert found.effect["word"].estimate == near(MS)
    assert found.interaction == {}


def test_more_than_four_parts(planted, ids):
    """Each is left out and added alone; there are no effects and interactions."""
    parts = {f"p{number}": planted.processor(number * MS // 10) for number in range(1, 6)}
    found = ablate(planted, ids, parts, rounds=1, max_new_tokens=1)
    effects = found.findings.effects
    assert len(effects.cells) == 2 + 2 * 5
    assert found.effect == found.interaction == {}
    for number, part in enumerate(effects.parts.values(), start=1):
        assert part.leave_one_out.estimate == part.add_one_in.estimate == near(number * MS / 10)
    assert set(found.shapley.values()) == {None}  # one round cannot say whether they agree
    assert "With more than four parts, each was left out and added alone" in str(found)


def test_draws_are_the_same_in_every_turn(planted, ids):
    """Sampling: with all parts the trace is drawn again, and torch's generator is left as it was."""
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    found = ablate(planted, ids, {"p": planted.processor(MS)}, do_sample=True, top_k=10, rounds=2)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert found.findings.parts["p"].changed_choices == 0


def test_choices_that_are_others_without_a_part_are_counted(planted, ids):
    """The trace is forced on all cells; without the part other tokens would have been chosen, and a note says so."""

    def only_fives() -> Any:
        return lambda input_ids, scores: torch.where(torch.arange(64) == 5, scores + planted_ns(), float("-inf"))

    def planted_ns() -> int:
        planted.clock.advance(MS)
        return 0

    found = ablate(planted, ids, {"fives": only_fives}, rounds=2)
    assert found.findings.parts["fives"].changed_choices > 0
    assert f"of {found.findings.choices} choices differently" in " ".join(found.findings.notes)


def test_cells_of_different_forwards_are_refused(planted, ids):
    """A processor that runs the model itself; both counts are told."""
    run = lambda: planted.model(ids)  # noqa: E731
    with pytest.raises(InvalidMeasurement, match=r"different numbers of forwards.* `all` 6, `none` 3"):
        ablate(planted, ids, {"guides": planted.processor(MS, work=run)})


def test_a_part_that_keeps_state_between_calls_is_refused(planted, ids):
    """It is made anew, but what it does hangs on how often it was: the choices are not those of the trace."""
    made = count()

    def shifts() -> Any:
        number = next(made)
        return lambda input_ids, scores: scores.index_fill(1, torch.tensor([number % 64]), 1e9)

    with pytest.raises(InvalidMeasurement, match=r"choices differ from the trace.*keeps state"):
        ablate(planted, ids, {"shifts": shifts})


def test_the_model_is_left_as_it_was(planted, ids):
    """Nothing is wrapped any more, whatever happened."""
    before = set(vars(planted.model))
    ablate(planted, ids, {"p": planted.processor(MS)}, rounds=1)
    with pytest.raises(InputError):
        ablate(planted, ids, {"p": planted.processor(MS)}, rounds=1, num_beams=2)
    assert set(vars(planted.model)) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"logits_processor": {}}, "nothing to take away"),
        ({"logits_processor": [len]}, "logits_processor is a list; give a dictionary"),
        ({"logits_processor": {"a b": dict}}, "'a b' is not a valid name for a part"),
        ({"logits_processor": {"x": 3}}, "'x' is a int, not a factory"),
        ({"logits_processor": {"x": lambda: None}}, "returned a NoneType; it must return one logits processor"),
        ({"logits_processor": {"x": lambda: dict}}, "returned the class dict"),
        ({"stopping_criteria": {"x": list}}, "returned a list; it must return one stopping criterion"),
        ({"logits_processor": {"x": lambda: len}}, "returned the same object twice: a processor may keep state"),
        ({"logits_processor": {"x": lambda: 1 / 0}}, "the factory of 'x' raised ZeroDivisionError: division by zero"),
        ({"logits_processor": {"x": object}, "max_length": 9}, "max_length is not an argument of generate here"),
        ({"logits_processor": {"x": object}, "rounds": 0}, "it must return one|rounds 0"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_input(planted, ids, arguments, message):
    """One line each."""
    with pytest.raises(InputError, match=message):
        perstep.ablate(planted.model, ids, **{"max_new_tokens": 2, **arguments})


def test_the_wrong_kind_of_part_is_refused(planted, ids):
    """A criterion as a processor, and the other way round; two parts of one name."""
    from transformers import LogitsProcessorList, MaxLengthCriteria, MinLengthLogitsProcessor

    for arguments, message in (
        ({"logits_processor": {"x": lambda: MaxLengthCriteria(5)}}, "MaxLengthCriteria; it must return one logits"),
        ({"stopping_criteria": {"x": lambda: MinLengthLogitsProcessor(5, 1)}}, "it must return one stopping criterion"),
        ({"logits_processor": {"x": LogitsProcessorList}}, "returned a LogitsProcessorList"),
        (
            {
                "logits_processor": {"x": planted.processor(1)},
                "stopping_criteria": {"x": planted.criterion(1)},
            },
            "two parts are called 'x'",
        ),
    ):
        with pytest.raises(InputError, match=message):
            perstep.ablate(planted.model, ids, max_new_tokens=2, **arguments)
    with pytest.raises(InputError, match="is not a transformers model"):
        perstep.ablate(object(), ids, max_new_tokens=2, logits_processor={"x": planted.processor(1)})
