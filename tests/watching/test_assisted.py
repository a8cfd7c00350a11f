"""Assisted decoding, watched: what the drafts brought, in known numbers."""

from typing import Any

import pytest
from tests.models import small_llama

import perstep
from perstep.measure import FakeClock
from perstep.targets.transformers import Call
from perstep.watching.assisted import Assisted, accepted, assisted_sentences

pytestmark = pytest.mark.hf
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

MS = 1_000_000


def llama(seed: int) -> Any:
    """A tiny Llama."""
    return small_llama(seed, num_hidden_layers=1)


def test_accepted_tokens_are_what_the_text_grew_by_beside_the_models_own() -> None:
    """Of 5 + 9 ids: drafts of 3, 3 and 2 tokens bring 3, 0 and 2; the last one is cut by the length asked for."""
    call = Call(prompt_tokens=5, new_tokens=8, drafts=[(5, 3), (9, 3), (10, 5)])
    assert accepted(call) == [3, 0, 2]
    assert accepted(Call(prompt_tokens=5, new_tokens=8)) == []
    assert accepted(Call(drafts=[(5, 3)])) == []


def test_a_draft_that_is_the_model_itself_is_accepted_whole() -> None:
    """Its forwards are a part of their own, and an emitted token has a cost."""
    clock, model, ids = FakeClock(), llama(0), torch.arange(3, 11)[None]
    draft = llama(0)
    draft.generation_config.num_assistant_tokens = 4
    draft.generation_config.num_assistant_tokens_schedule = "constant"
    draft.generation_config.assistant_confidence_threshold = 0.0
    handles = [
        model.register_forward_pre_hook(lambda *_: clock.advance(5 * MS)),
        draft.model.register_forward_pre_hook(lambda *_: clock.advance(MS)),
    ]
    with perstep.watch(model, clock=clock) as w:
        out = model.generate(ids, max_new_tokens=60, do_sample=False, assistant_model=draft)
    for handle in handles:
        handle.remove()
    assert out.shape == (1, 68)
    [sample] = w.samples
    assert sample.proposed == sample.accepted == [4] * 12
    ledger = w.ledger()
    assert (ledger.parts["draft.forward"].ns, ledger.parts["draft"].ns) == (4 * MS, 0)
    assert ledger.parts["forward.hooks"].ns == 5 * MS
    text = str(w)
    assert f"60 tokens in {sample.forwards} forwards:" in text
    assert "An emitted token costs 1.80 ms." in text


def test_prompt_lookup_has_drafts_without_an_assistant() -> None:
    """What is proposed is counted; there is no forward in a draft."""
    model, ids = llama(0), torch.tensor([[5, 6, 7, 8] * 4])
    with perstep.watch(model, clock=FakeClock(tick_ns=1)) as w:
        model.generate(ids, max_new_tokens=24, do_sample=False, prompt_lookup_num_tokens=3)
    [sample] = w.samples
    assert len(sample.proposed) == len(sample.accepted) == sample.forwards
    assert sum(sample.accepted) + sample.forwards == 24
    assert "draft.forward" not in w.ledger().parts


def test_the_sentence_names_tokens_acceptance_and_cost() -> None:
    """By place in the draft, the first one first."""
    found = Assisted(tokens=40, forwards=14, proposed=39, accepted=26, acceptance=[0.8, 0.5], token_ns=1.8e6)
    [said] = assisted_sentences(found)
    assert said.startswith(
        "40 tokens in 14 forwards: 2.86 a forward. Accepted: 26 of 39 proposed; by place in the draft"
    )
    assert said.endswith(" 80.0 %, 50.0 %. An emitted token costs 1.80 ms.")
    assert assisted_sentences(None) == []
