"""Which lines `perstep fix` writes: only what was faster by itself and all together; a culprit is dropped by name."""

from typing import Any, ClassVar

import pytest
from tests.models import small_llama

from perstep.fixing import Captured, Captures, measure
from perstep.fixing.capture import Line
from perstep.fixing.findings import Site, _by_line, _site
from perstep.fixing.measure import try_call
from perstep.fixing.offer import LOOP, PROCESSORS, Offer
from perstep.fixing.samples import Clash, Sample
from perstep.fixing.show import UNPROVEN, _notes, lines
from perstep.fixing.trial import Trials
from perstep.measure import FakeClock

pytestmark = pytest.mark.hf
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

CS = 10_000_000
"""10 ms in fake time. Calls of 20 ms and more are made once for each time that is kept, shorter ones twice."""
CLOCK = FakeClock()


class Mine(transformers.LogitsProcessor):  # type: ignore[misc]
    """Forbids one token; the n-th of three."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """-inf at it; the first takes 40 ms, the second 20, the third none."""
        CLOCK.advance((4, 2, 0)[self.number] * CS)
        return scores.index_fill(1, torch.tensor([self.number]), -torch.inf)


class First(Mine):
    """The costliest."""


class Second(Mine):
    """The next."""


class Third(Mine):
    """Costs nothing."""


class DropIn(transformers.LogitsProcessor):  # type: ignore[misc]
    """Forbids the same token, and another beside a drop-in that it does not bear."""

    clashes: ClassVar[dict[int, set[int]]] = {}
    making_ns = 0

    def __init__(self, number: int) -> None:
        CLOCK.advance(self.making_ns)
        self.number = number

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """-inf at it."""
        seen = {number for number, ids in CALLED.items() if ids is input_ids}
        CALLED[self.number] = input_ids
        scores = scores.index_fill(1, torch.tensor([self.number]), -torch.inf)
        return -scores if seen & self.clashes.get(self.number, set()) else scores


CALLED: dict[int, Any] = {}
"""The ids of the step in which a drop-in was called last."""


def captured() -> Captured:
    """One call with the three processors, whose forward takes 10 ms."""
    sizes = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    llama = small_llama(**sizes, num_hidden_layers=1, initializer_range=0.4)
    llama.model.register_forward_pre_hook(lambda *_: CLOCK.advance(CS))
    with Captures() as captures:
        llama.generate(
            torch.arange(3, 9)[None], max_new_tokens=4, do_sample=False,
            logits_processor=[First(0), Second(1), Third(2)],
        )  # fmt: skip
    (call,) = captures.calls.values()
    return call


@pytest.fixture(autouse=True)
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The three drop-ins are all that is offered; generate's own loop is not."""

    def offers(_call: Any, _seen: Any, _vocabulary: Any) -> list[Offer]:
        kinds = zip(("First", "Second", "Third"), range(3), strict=True)
        return [
            Offer(PROCESSORS, n, (f"logits/{kind}",), ((DropIn(n), f"DropIn({n})"),), "planted") for kind, n in kinds
        ]

    CALLED.clear()
    monkeypatch.setattr(DropIn, "clashes", {})
    monkeypatch.setattr(measure, "offers", offers)
    monkeypatch.setattr(measure, "_try_loop", lambda *_: None)


def tried(call: Captured, budget_s: float = 1000) -> tuple[Site, list[Sample]]:
    """What is found for a call, and the samples."""
    samples: list[Any] = []
    try_call(call, None, budget_s=budget_s, keep=samples.append, clock=CLOCK)
    (held,) = _by_line(samples).values()
    return _site(held, None, None, model=""), samples


def decided(monkeypatch: pytest.MonkeyPatch, verdicts: dict[tuple[int, ...], str]) -> list[tuple[list[int], list[int]]]:
    """Trials are not timed but decided, by what they have; which there were, and beside what."""
    made: list[tuple[list[int], list[int]]] = []

    def run(_self: Any, offers: dict[int, Offer], beside: dict[int, Offer], _budget_s: float, **_: Any) -> str:
        made.append((list(offers), list(beside)))
        return verdicts.get(tuple(offers), "faster")

    monkeypatch.setattr(Trials, "run", run)
    return made


def written(site: Site) -> list[str]:
    """The drop-ins among the lines to write."""
    return [row.drop_in for row in site.rows if row.written]


@pytest.mark.parametrize(
    ("clashes", "dropped"),
    [
        ({2: {0, 1}}, {2: [0, 1]}),  # one does not bear two others
        ({1: {0}, 2: {0}}, {0: [1, 2]}),  # two do not bear one: it alone goes, though it wins most
        ({1: {0}}, {1: [0, 2]}),  # either would do: the one that costs less goes
        ({1: {0}, 2: {0, 1}}, {1: [0], 2: [0]}),  # no single one is to blame: all but the costliest
    ],
)
def test_the_culprit_is_dropped_alone_and_by_name(
    monkeypatch: pytest.MonkeyPatch, clashes: dict[int, set[int]], dropped: dict[int, list[int]]
) -> None:
    """Each gives the call's tokens alone; all together do not."""
    monkeypatch.setattr(DropIn, "clashes", clashes)
    made = decided(monkeypatch, {})
    call = captured()
    site, samples = tried(call)
    found = {sample.offer: sample.beside for sample in samples if isinstance(sample, Clash)}
    assert found == dropped
    kept = [n for n in range(3) if n not in dropped]
    assert written(site) == [f"DropIn({n})" for n in kept]
    assert {n for places, _ in made for n in places} == set(kept)
    for n, beside in dropped.items():
        row = next(row for row in site.rows if row.drop_in == f"DropIn({n})")
        assert row.clash == [f"DropIn({other})" for other in beside]
        assert not row.unproven
        assert any(f"logits/{('First', 'Second', 'Third')[n]}: alone it gives the call's tokens, but beside" in note
                   and "it is dropped" in note for note in _notes(site))  # fmt: skip


def test_each_is_timed_beside_those_that_were_faster_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not faster is not beside the next one, nor among the lines; all lines are timed together."""
    made = decided(monkeypatch, {(1,): "not resolved"})
    site, _ = tried(captured())
    assert made == [([0], []), ([1], [0]), ([2], [0]), ([0, 2], [])]
    assert written(site) == ["DropIn(0)", "DropIn(2)"]


@pytest.mark.parametrize(
    ("together", "kept"),
    [("faster", 3), ("not resolved", 3), ("", 3), ("slower", 1), ("same (within ±1 %)", 1)],
)
def test_lines_that_win_nothing_together_are_not_written_together(
    monkeypatch: pytest.MonkeyPatch, together: str, kept: int
) -> None:
    """Each was faster beside those before it; where all are not, only the first has been faster than the call."""
    made = decided(monkeypatch, {(0, 1, 2): together})
    site, _ = tried(captured())
    assert made[-1] == ([0, 1, 2], [])
    assert written(site) == [f"DropIn({n})" for n in range(kept)]


def test_where_none_is_faster_all_are_timed_together_and_none_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if together they are: which of them does it is not known."""
    made = decided(monkeypatch, {(0,): "same (within ±1 %)", (1,): "slower", (2,): "not resolved"})
    site, _ = tried(captured())
    assert made[-1] == ([0, 1, 2], [])
    assert written(site) == []
    assert site.lines == []


def test_unproven_lines_stand_apart_with_their_numbers() -> None:
    """Timed by the clock: two save 40 and 20 of 70 ms a step, the third nothing."""
    site, _ = tried(captured())
    assert written(site) == ["DropIn(0)", "DropIn(1)"]
    assert site.together is not None
    assert site.together.whole.change == pytest.approx(1 / 7 - 1)
    assert [site.rows[n].result.whole.change for n in range(3)] == pytest.approx([3 / 7 - 1, 1 / 3 - 1, 0])  # type: ignore[union-attr]
    to_write, apart = lines(site).split(f"{UNPROVEN}:")
    assert "DropIn(0)" in to_write
    assert "DropIn(2)" not in to_write
    assert apart.strip() == ("DropIn(2)  # logits/Third: +0.00 % [+0.0 %, +0.0 %] of the call, same (within ±1 %)")


def test_a_few_rounds_prove_nothing() -> None:
    """Without twenty rounds there is no verdict, so there is nothing to write, whatever the estimate."""
    site, _ = tried(captured(), budget_s=1e-3)
    assert (site.lines, site.together) == ([], None)
    text = lines(site)
    assert text.startswith(UNPROVEN)
    assert text.count("not resolved") == 3


def test_the_making_of_a_line_is_in_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """A drop-in that is made anew in each call, for 1 s, loses more than 4 steps win; its steps are faster."""
    call = captured()
    monkeypatch.setattr(DropIn, "making_ns", 100 * CS)
    site, _ = tried(call)
    first = site.rows[0].result
    assert first is not None
    assert first.step is not None
    assert first.making_ns == 100 * CS
    assert first.step.change == pytest.approx(3 / 7 - 1)
    assert first.whole.change == pytest.approx((100 + 4 * 3) / (4 * 7) - 1)
    assert first.whole.verdict == "slower"
    assert written(site) == []


def test_a_line_is_made_as_the_script_would_make_it() -> None:
    """From the names that the call's line could see, and from perstep and transformers, timed."""
    line = Line("perstep.fast.SuppressTokens(IDS)", {"IDS": [3, 4]}, FakeClock(tick_ns=1))
    assert type(line.make()).__name__ == "SuppressTokens"
    assert line.make() is not line.make()
    assert line.taken_ns == 3


def test_a_loop_is_written_as_it_is() -> None:
    """It has no state to be made anew."""
    from perstep.fast import decode

    offer = Offer(LOOP, None, ("between forwards",), ((decode, "perstep.fast.decode"),), "")
    trials = Trials(captured(), CLOCK, lambda _sample: None)
    assert trials._as_written(offer) is offer
