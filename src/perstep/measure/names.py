"""What a cost is called outside of its own ledger: `mlp` of a decode step, `prefill.mlp` of a prefill."""

STEP = "step"
"""The step without instruments: the headline of its kind."""


def part_name(kind: str, part: str) -> str:
    """The name of a part of this kind of step."""
    return part if kind == "decode" else f"{kind}.{part}"


def kind_of(name: str) -> str:
    """The kind of step that a name from `part_name` belongs to."""
    return "prefill" if name.startswith("prefill.") else "decode"
