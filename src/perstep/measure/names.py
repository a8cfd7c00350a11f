"""What a cost is called outside of its own ledger: `mlp` of a decode step, `prefill.mlp`, `S512.mlp` at 512 tokens."""

import re

STEP = "step"
"""The name of the uninstrumented step of its kind."""

_KIND = re.compile(r"(prefill|S\d+)\.")


def part_name(kind: str, part: str) -> str:
    """The name of a part of this kind of step."""
    return part if kind == "decode" else f"{kind}.{part}"


def kind_of(name: str) -> str:
    """The kind of step that a name from `part_name` belongs to."""
    match = _KIND.match(name)
    return match[1] if match else "decode"


def is_headline(name: str) -> bool:
    """Whether it is a whole step without instruments.

    >>> is_headline("step"), is_headline("S512.step"), is_headline("S512.mlp")
    (True, True, False)
    """
    return name == part_name(kind_of(name), STEP)
