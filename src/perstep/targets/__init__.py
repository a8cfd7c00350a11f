"""What is measured: models with their decode loops."""

from perstep.targets.block_mask import BlockMask
from perstep.targets.opening import open_model, weight_bytes
from perstep.targets.prompts import drawn_rows
from perstep.targets.reference.sample import Sampler
from perstep.targets.target import (
    BUILT_IN,
    PLAIN,
    STAGES,
    Buffer,
    CachedSteps,
    CacheKind,
    Target,
    Work,
    shown_name,
)

__all__ = [
    "BUILT_IN",
    "PLAIN",
    "STAGES",
    "BlockMask",
    "Buffer",
    "CacheKind",
    "CachedSteps",
    "Sampler",
    "Target",
    "Work",
    "drawn_rows",
    "open_model",
    "shown_name",
    "weight_bytes",
]
