"""What is measured: models with their decode loops."""

from perstep.targets.block_mask import BlockMask
from perstep.targets.opening import (
    BUILT_IN,
    Opened,
    describe_target,
    make_prompt,
    open_model,
    open_target,
    shown_name,
    weight_bytes,
)

__all__ = [
    "BUILT_IN",
    "BlockMask",
    "Opened",
    "describe_target",
    "make_prompt",
    "open_model",
    "open_target",
    "shown_name",
    "weight_bytes",
]
