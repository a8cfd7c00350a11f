"""Calls are made again with copies of what they change; one that cannot be repeated is named, with its object."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from tests.models import small_llama

from perstep.fixing import Captured, Captures
from perstep.fixing.capture import copied
from perstep.fixing.repeat import why_not_repeatable

pytestmark = pytest.mark.hf
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

PROMPT = 6


class Handle:
    """A compiled grammar of another language: no copy, state inside."""

    def __init__(self) -> None:
        self.lock, self.steps = threading.Lock(), 0

    def __copy__(self) -> "Handle":
        raise TypeError("cannot be copied")


class OneCall(transformers.LogitsProcessor):  # type: ignore[misc]
    """Serves one generate call, and holds a lock; its own state is rebound, and changed in place."""

    def __init__(self) -> None:
        self.handle, self.seen, self.lengths, self.states = threading.Lock(), 0, [], {"last": PROMPT - 1}

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """The scores."""
        self.seen += 1
        self.lengths.append(input_ids.shape[1])
        assert self.states["last"] == input_ids.shape[1] - 1, "one object, one call"
        self.states["last"] += 1
        assert len(self.lengths) == self.seen == input_ids.shape[1] - PROMPT + 1, "one object, one call"
        return scores


class Follows(transformers.LogitsProcessor):  # type: ignore[misc]
    """Its state is in something that cannot be copied."""

    def __init__(self) -> None:
        self.grammar = Handle()

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Another token forbidden at each step."""
        self.grammar.steps += 1
        return scores.roll(self.grammar.steps, dims=1)


class FollowsStrictly(Follows):
    """It raises where its grammar is at its end."""

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """The scores, four times."""
        self.grammar.steps += 1
        if self.grammar.steps > 4:
            raise RuntimeError("the grammar is at its end")
        return scores


class Waits(transformers.StoppingCriteria):  # type: ignore[misc]
    """Reads what the processor beside it has counted."""

    def __init__(self, one: Any) -> None:
        self.one = one

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """Whether it has counted to three."""
        return torch.full((len(input_ids),), self.one.seen >= 3)


class Noisy(transformers.LogitsProcessor):  # type: ignore[misc]
    """Draws from a generator of its class, which nobody copies."""

    generator = torch.Generator().manual_seed(0)

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Noise."""
        return torch.rand(scores.shape, generator=self.generator)


def captured(**kwargs: Any) -> Captured:
    """One call of up to four tokens."""
    sizes = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    llama = small_llama(**sizes, num_hidden_layers=1, initializer_range=0.4)
    with Captures() as captures:
        llama.generate(torch.arange(3, 3 + PROMPT)[None], max_new_tokens=4, do_sample=False, **kwargs)
    (call,) = captures.calls.values()
    return call


def test_what_deepcopy_refuses_is_copied_in_pieces() -> None:
    """The lock is shared and said; the state around it is the call's own, and each repeat has it as it was."""
    call = captured(logits_processor=[OneCall()])
    assert why_not_repeatable(call) == ""
    assert call.shared == ["OneCall.handle (a lock)"]
    for _ in range(3):
        assert torch.equal(call.again(), call.result)


def test_copies_in_pieces_hold_together() -> None:
    """Lists, tuples, dictionaries and objects down to what refuses; one that occurs twice is one."""
    shared = [0]

    class Inner:
        def __init__(self) -> None:
            self.list, self.lock = shared, threading.Lock()

    class Outer:
        def __init__(self) -> None:
            self.inner = Inner()
            self.again = {"one": (self.inner, [self.inner])}
            self.mine = self

    outer = Outer()
    other = Inner()
    copy_of, other_copy = copied([outer, other])
    assert copy_of.mine is copy_of
    assert copy_of.inner is not outer.inner
    assert copy_of.again["one"][0] is copy_of.inner
    assert copy_of.again["one"][1][0] is copy_of.inner
    assert copy_of.inner.lock is outer.inner.lock
    copy_of.inner.list[0] = 1
    assert other_copy.list == [1]
    assert shared == [0]


def test_a_processor_and_a_criterion_share_what_they_shared() -> None:
    """The criterion stops by what the processor has counted, in repeats as in the call."""
    one = OneCall()
    call = captured(logits_processor=[one], stopping_criteria=[Waits(one)])
    assert call.result.shape[1] == PROMPT + 3
    assert why_not_repeatable(call) == ""


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (Follows, ["it gives other tokens", "because it holds Follows.grammar (a Handle)"]),
        (
            FollowsStrictly,
            [
                "FollowsStrictly ended with RuntimeError: the grammar is at its end",
                "FollowsStrictly.grammar (a Handle)",
            ],
        ),
        (Noisy, ["it gives other tokens: Noisy gave another result for the same scores"]),
    ],
)
def test_what_could_not_be_repeated_is_named(make: Callable[[], Any], said: list[str]) -> None:
    """The object, and what of it is shared by all repeats because nothing copies it."""
    why = why_not_repeatable(captured(logits_processor=[make()]))
    for part in said:
        assert part in why


def test_a_repeat_that_comes_right_once_is_asked_twice() -> None:
    """State in a shared object may fail from the second repeat on only."""

    class Thrice(Follows):
        def __call__(self, input_ids: Any, scores: Any) -> Any:
            self.grammar.steps += 1
            return scores if self.grammar.steps <= 8 else -scores

    assert "it gives other tokens" in why_not_repeatable(captured(logits_processor=[Thrice()]))
