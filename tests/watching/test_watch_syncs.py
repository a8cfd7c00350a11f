"""Syncs of watched calls: counted by part, in steps that are not timed."""

from typing import Any

import pytest

import perstep
from perstep.measure import FakeClock
from perstep.targets.transformers import instrument

pytestmark = [pytest.mark.hf, pytest.mark.usefixtures("nothing_compiled")]
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


class Asks(transformers.LogitsProcessor):  # type: ignore[misc]
    """Reads two values of a tensor."""

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """The scores as they were."""
        scores[0, 0].item()
        bool(scores[0, 1] > 0)
        return scores


def test_syncs_are_counted_by_the_part_that_caused_them(tiny_model: Any, ids: Any) -> None:
    """In one step of a long call: two by the processor, one by the question whether all rows have stopped."""
    with perstep.watch(tiny_model, clock=FakeClock(tick_ns=1)) as w:
        tiny_model.generate(ids, max_new_tokens=9, do_sample=False, logits_processor=[Asks()])
    ledger = w.ledger()
    assert ledger.syncs_per_step == 3
    assert ledger.parts["logits/Asks"].syncs_per_step == 2
    assert ledger.parts["sync"].syncs_per_step == 1
    assert ledger.parts["forward"].syncs_per_step == 0
    assert (ledger.forwards, ledger.steps) == (8, 2)
    [sample] = w.samples
    assert sample.syncs["decode"].steps == 1
    text = str(w)
    assert "Syncs (the host would wait on a device): 3 a step, counted in 1 step of its own" in text
    assert "watching/test_watch_syncs.py:" in text.split("Syncs come from ")[1]
    assert w.ledger("prefill").syncs_per_step is None


def test_uploads_have_a_column_of_their_own(tiny_model: Any, ids: Any) -> None:
    """They are no syncs; the column is there where one was made, and says which part made it."""

    def sends(input_ids: Any, scores: Any) -> Any:
        return scores + torch.tensor([0.0], device=scores.device)

    with perstep.watch(tiny_model, clock=FakeClock(tick_ns=1)) as w:
        tiny_model.generate(ids, max_new_tokens=9, do_sample=False, logits_processor=[sends])
    ledger = w.ledger()
    assert (ledger.syncs_per_step, ledger.uploads_per_step) == (1, 1)
    assert ledger.parts["logits/sends"].uploads_per_step == 1
    assert ledger.parts["sync"].uploads_per_step == 0
    assert "syncs/step   uploads/step" in str(w)
    assert "(logits/sends, 1 a step)" in str(w).split("Uploads come from ")[1]
    with perstep.watch(tiny_model, clock=FakeClock(tick_ns=1)) as w:
        tiny_model.generate(ids, max_new_tokens=9, do_sample=False)
    assert w.ledger().uploads_per_step == 0
    assert "uploads" not in str(w).lower()


def test_in_many_calls_few_are_counted_in(tiny_model: Any, ids: Any) -> None:
    """Each leaves its fifth decode step and the next one out of the timing; after 512 steps one is counted again."""
    with perstep.watch(tiny_model, clock=FakeClock(tick_ns=1)) as w:
        for _ in range(76):
            tiny_model.generate(ids, max_new_tokens=7, do_sample=False)
    assert [index for index, sample in enumerate(w.samples) if sample.syncs] == [0, 74]
    assert {len(sample.kinds["decode"].step_ns) for sample in w.samples} == {4}
    assert w.ledger().syncs_per_step == 1


def test_syncs_may_be_left_uncounted(tiny_model: Any, ids: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """When asked to, and where something is compiled, which counting would compile again: then it is said."""
    with perstep.watch(tiny_model, syncs=False, clock=FakeClock(tick_ns=1)) as w:
        tiny_model.generate(ids, max_new_tokens=9, do_sample=False)
    assert w.ledger().syncs_per_step is None
    assert w.ledger().steps == 3
    assert "syncs/step" not in str(w)
    monkeypatch.setattr(instrument, "anything_compiled", lambda: True)
    with perstep.watch(tiny_model, clock=FakeClock(tick_ns=1)) as w:
        for _ in range(4):
            tiny_model.generate(ids, max_new_tokens=9, do_sample=False)
    assert w.ledger().syncs_per_step is None
    assert str(w).count("syncs were not counted") == 1


def test_a_call_that_breaks_while_syncs_are_counted_leaves_nothing_behind(tiny_model: Any, ids: Any) -> None:
    """The modes that see operators are gone, and the next call is watched as if nothing had been."""
    asked = iter(range(9))

    def breaks(input_ids: Any, scores: Any) -> Any:
        return scores if next(asked) < 5 else 1 / 0

    with perstep.watch(tiny_model, clock=FakeClock(tick_ns=1)) as w:
        with pytest.raises(ZeroDivisionError):
            tiny_model.generate(ids, max_new_tokens=9, do_sample=False, logits_processor=[breaks])
        assert torch.utils._python_dispatch._get_current_dispatch_mode() is None
        assert torch.overrides._get_current_function_mode() is None
        tiny_model.generate(ids, max_new_tokens=9, do_sample=False)
    assert [sample.finished for sample in w.samples] == [False, True]
    assert w.ledger().syncs_per_step == 1
