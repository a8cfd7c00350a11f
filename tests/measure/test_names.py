"""Names of costs say which kind of step they belong to, and which of them are whole steps."""

import pytest

from perstep.measure.names import is_headline, kind_of, part_name


@pytest.mark.parametrize(
    ("kind", "part", "name"),
    [
        ("decode", "mlp", "mlp"),
        ("decode", "attn.mask.build", "attn.mask.build"),
        ("prefill", "mlp", "prefill.mlp"),
        ("S512", "attn.mask.build", "S512.attn.mask.build"),
    ],
)
def test_a_name_tells_its_kind(kind: str, part: str, name: str) -> None:
    """Decode steps need no prefix; a dot in a part's own name is none."""
    assert part_name(kind, part) == name
    assert kind_of(name) == kind
    assert not is_headline(name)


@pytest.mark.parametrize("name", ["step", "prefill.step", "S1.step", "S512.step"])
def test_whole_steps_are_headlines(name: str) -> None:
    """One of each kind."""
    assert is_headline(name)
