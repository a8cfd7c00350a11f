"""Drop-ins for transformers' `generate`: the same guarantee, with the cost taken away.

Names are handed on when they are first used; torch is imported by the modules that hold them.
"""

from importlib import import_module
from typing import Any

_HOMES: dict[str, str] = {
    "CausalMaskCache": "perstep.fast.causal_mask",
    "Decode": "perstep.fast.decode_call",
    "MaskedText": "perstep.fast.masked_reference",
    "MinP": "perstep.fast.sampling",
    "RepetitionPenalty": "perstep.fast.penalties",
    "StopStrings": "perstep.fast.stop",
    "SuppressTokens": "perstep.fast.penalties",
    "TokenMask": "perstep.fast.token_mask",
    "TopK": "perstep.fast.sampling",
    "TopP": "perstep.fast.sampling",
    "Utf8": "perstep.fast.utf8",
    "WordStop": "perstep.fast.stop",
    "decode": "perstep.fast.decode_call",
    "generate_masked": "perstep.fast.masked_reference",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'perstep.fast' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(_HOMES)
