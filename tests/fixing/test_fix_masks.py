"""Which processors of a user's own `fix` replaces by a mask, and which it leaves: each is asked beside the mask."""

import random
from functools import partial
from typing import Any

import pytest

from perstep.automata import Vocabulary
from perstep.fixing.capture import Captured
from perstep.fixing.criteria import Unlike
from perstep.fixing.masks import for_processor
from perstep.fixing.observe import Steps, keep_mask, listener
from perstep.fixing.offer import PROCESSORS

pytestmark = pytest.mark.hf
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

BYTES = Vocabulary([bytes([byte]) for byte in range(256)])
PROMPT = b"what the user said"


def steps_of(part: Any, count: int = 12) -> Steps:
    """What a processor does along a text of two rows, as it is recorded in a call."""
    steps, generator = Steps(), torch.Generator().manual_seed(0)
    spy = listener(PROCESSORS, part, partial(keep_mask, steps))
    ids = torch.tensor([list(PROMPT)] * 2)
    for step in range(count):
        spy(ids, torch.randn(2, 256, generator=generator))
        ids = torch.cat([ids, torch.tensor([[97 + step], [110 + step]])], dim=1)
    return steps


def offer(part: Any, vocabulary: Any = (BYTES, "V")) -> str:
    """The drop-in for a processor, as it is written, or why there is none."""
    call = Captured("", None, 1, None, False, None, ((), {}), {}, {}, [], "")  # type: ignore[arg-type]
    try:
        return " ".join(for_processor(call, part, steps_of(part), vocabulary)[1:3])
    except Unlike as reason:
        return str(reason)


class Forbids(transformers.LogitsProcessor):  # type: ignore[misc]
    """Forbids some bytes."""

    ids = (5, 7, 9)

    def applies(self, input_ids: Any, scores: Any) -> bool:
        """Whether it does now."""
        return True

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """-inf at these."""
        return scores.index_fill(1, torch.tensor(self.ids), -torch.inf) if self.applies(input_ids, scores) else scores


class OnlyUtf8(transformers.LogitsProcessor):  # type: ignore[misc]
    """Forbids bytes after which the text could not become valid, as strictly as `bytes.decode`."""

    broken_at = "replace"

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """-inf at these."""
        forbidden = [[not self.can_follow(bytes(row), token) for token in range(256)] for row in input_ids.tolist()]
        return scores.masked_fill(torch.tensor(forbidden), -torch.inf)

    def can_follow(self, text: bytes, token: int) -> bool:
        """Whether some character goes on so behind the text's end."""
        begun = next((text[-n:] for n in (3, 2, 1) if _goes_on(text[-n:])), b"")
        return _goes_on(begun + bytes([token])) or _is_whole(begun + bytes([token]))


def _is_whole(data: bytes) -> bool:
    try:
        return len(data.decode()) == 1
    except UnicodeDecodeError:
        return False


def _goes_on(data: bytes) -> bool:
    return any(_is_whole(data + fill * more) for fill in (b"\x80", b"\xbf") for more in (1, 2, 3))


class Lax(OnlyUtf8):
    """Lets surrogates through."""

    def can_follow(self, text: bytes, token: int) -> bool:
        """As it should, but for the second byte behind 0xED."""
        return (text[-1:] == b"\xed" and token in range(0x80, 0xC0)) or super().can_follow(text, token)


def test_a_mask_is_offered_that_forbids_the_same_wherever_it_was_asked() -> None:
    """Over more than what was recorded."""
    assert offer(Forbids()).startswith(
        "perstep.fast.SuppressTokens([5, 7, 9]) forbade the same tokens in all 24 recorded"
    )
    assert offer(Forbids(), None).startswith("perstep.fast.SuppressTokens([5, 7, 9]) ")
    said = offer(OnlyUtf8())
    assert said.startswith("perstep.fast.Utf8(V) forbade the same tokens in all 24 recorded rows and "), said
    assert int(said.split(" and ")[1].split()[0].replace(",", "")) > 500


class MinNew(Forbids):
    """Forbids the end until there are so many tokens."""

    def applies(self, input_ids: Any, scores: Any) -> bool:
        """Below them."""
        return bool(input_ids.shape[1] < int("4" + "00"))


class FewCalls(Forbids):
    """Forbids in its first calls."""

    calls = 0

    def applies(self, input_ids: Any, scores: Any) -> bool:
        """In a hundred of them."""
        self.calls += 1
        return self.calls <= 100


class BehindLetters(Forbids):
    """Forbids behind letters, which all that was recorded ends with."""

    def applies(self, input_ids: Any, scores: Any) -> bool:
        """Behind ASCII."""
        return bool((input_ids[:, -1] < 0x80).all())


class WhereSure(Forbids):
    """Forbids where no logit is large."""

    def applies(self, input_ids: Any, scores: Any) -> bool:
        """Below 12."""
        return bool(scores.max() < 12)


class Moody(Forbids):
    """Draws."""

    def applies(self, input_ids: Any, scores: Any) -> bool:
        """Nearly always."""
        return random.random() < 0.999999


class Louder(Forbids):
    """Changes what it does not forbid."""

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Twice the scores."""
        return super().__call__(input_ids, scores) * 2


class Many(Forbids):
    """Forbids more than a line may name."""

    ids = tuple(range(0, 256, 2))


class ByRow(Forbids):
    """Forbids what was written last."""

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """-inf there."""
        return scores.scatter(1, input_ids[:, -1:], -torch.inf)


@pytest.mark.parametrize(
    ("part", "why"),
    [
        (MinNew(), "it forbids the token 5, and yours does not"),
        (FewCalls(), "within 300 new tokens: it forbids the token 5, and yours does not"),
        (BehindLetters(), "it forbids the token 5, and yours does not"),
        (WhereSure(), "it forbids the token 5, and yours does not"),
        (Moody(), "it reads a clock or draws at random (random)"),
        (Louder(), "it changes logits that it does not forbid"),
        (Many(), "it forbids 128 tokens and allows 128 tokens, neither of which have a name"),
        (ByRow(), "SuppressTokens disagreed at recorded row 1: what is forbidden changes"),
        (Lax(), "perstep.fast.Utf8(V) is not the same"),
        (transformers.LogitsProcessorList(), "it forbade nothing in 24 recorded rows"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_what_forbids_the_same_in_the_call_alone_is_not_replaced(part: Any, why: str) -> None:
    """Each depends on something that a mask does not, and was seen to; the reason says at what."""
    assert why in offer(part)
