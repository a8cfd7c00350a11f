"""What a forward is, by the shapes of its arguments: prefill, decode step, or the beginning of another text."""

from typing import Any

import pytest

from perstep.targets.loops._positions import Positions, Seen, look

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.hf

P, D, N = "prefill", "decode", "new run"


def kinds(*forwards: tuple[int | None, bool | None, str]) -> list[str]:
    """What each of some forwards is: positions, whether the cache is fresh, the line that calls."""
    positions, found = Positions(), []
    for count, fresh, line in forwards:
        kind = positions.take(Seen(1, count, fresh), line).value
        found.append(kind)
        if kind == N:
            positions = Positions()
            positions.take(Seen(1, count, fresh), line)
    return found


def at(line: str, *counts: int | None, fresh: bool | None = None) -> list[tuple[int | None, bool | None, str]]:
    """Forwards from one line."""
    return [(count, fresh, line) for count in counts]


@pytest.mark.parametrize(
    ("forwards", "expected"),
    [
        (at("a", 64, 1, 1, 1), [P, D, D, D]),  # with a cache
        (at("a", 1, 1, 1), [P, D, D]),  # a prompt of one token
        (at("a", 64, 65, 66), [P, D, D]),  # without a cache
        (at("a", 254, 255, 256, 256, 256), [P, D, D, D, D]),  # ... in a window that is full
        (at("a", 64, 65, 66, 64, 65), [P, D, D, N, D]),  # ... the next text
        (at("a", 64, 1, 1, 64, 1), [P, D, D, N, D]),  # the next text
        (at("a", 8, 1, 1, 8, 1), [P, D, D, N, D]),  # ... a short one, from the line of the first
        (at("a", 8) + at("b", 1, 5, 4, 1), [P, D, D, D, D]),  # a draft is checked, at another line than the prefill
        (at("a", 8, 1, fresh=True) + at("a", 8, fresh=True), [P, D, N]),
        (at("a", 8, 1) + at("a", 8, fresh=False), [P, D, D]),  # a cache that goes on
        (at("a", 512, 512, 300, 1, 1), [P, P, P, D, D]),  # in chunks
        (at("a", 300, 512, 77), [P, P, P]),  # texts are scored: no step decodes
        (at("a", None, None), [P, P]),  # a vision tower
        (at("a", 9, 1) + at("a", 1, fresh=True), [P, D, N]),
    ],
)
def test_forwards_are_told_apart_by_the_number_of_new_positions(
    forwards: list[tuple[int | None, bool | None, str]], expected: list[str]
) -> None:
    """With a cache a decode step has one position; without, one more than the step before."""
    assert kinds(*forwards) == expected


def test_growing_text_means_that_no_cache_is_used() -> None:
    """And a prompt is not forgotten."""
    positions = Positions()
    for count in (8, 9, 10):
        positions.take(Seen(2, count), "a")
    assert (positions.whole, positions.first, positions.rows) == (True, 8, 2)


class Cache:
    """Holds some positions."""

    def __init__(self, held: int) -> None:
        self.held = held

    def get_seq_length(self) -> int:
        """How many."""
        return self.held


ids = torch.zeros(2, 5, dtype=torch.int64)


@pytest.mark.parametrize(
    ("args", "kwargs", "expected"),
    [
        ((ids,), {}, Seen(2, 5)),
        ((object(), ids), {}, Seen(2, 5)),
        ((), {"input_ids": ids[:, :1], "past_key_values": Cache(5)}, Seen(2, 1, False)),
        ((), {"input_ids": ids, "past_key_values": None}, Seen(2, 5, True)),
        ((), {"input_ids": ids, "past_key_values": Cache(0)}, Seen(2, 5, True)),
        ((), {"input_ids": ids, "past_key_values": object()}, Seen(2, 5)),
        ((), {"attention_mask": ids, "input_ids": ids[:, :2]}, Seen(2, 2)),
        ((), {"input_ids": ids, "decoder_input_ids": ids[:, :1]}, Seen(2, 1)),
        ((), {"inputs_embeds": torch.zeros(2, 7, 4)}, Seen(2, 7)),
        ((ids[0],), {}, Seen(1, 5)),  # ids [T]
        ((torch.zeros(3, 4),), {}, Seen(3, 1)),  # a vector a row
        ((torch.zeros(1, 3, 8, 8),), {}, Seen(1, None)),
        ((torch.tensor(4),), {}, Seen(1, 1)),
        ((), {}, Seen(None, None)),
    ],
)
def test_rows_and_positions_are_read_from_shapes(args: Any, kwargs: Any, expected: Seen) -> None:
    """Ids [B, T] or [T], embeddings [B, T, C]; a mask is not taken for ids, nor an encoder's input for a decoder's."""
    assert look(args, kwargs) == expected
