"""Drop-ins for transformers' `generate`: the same guarantee, with the cost taken away.

Names are handed on when they are first used; torch is imported by the modules that hold them.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perstep.fast.allowed import AllowSequences as AllowSequences
    from perstep.fast.allowed import AllowTokens as AllowTokens
    from perstep.fast.causal_mask import CausalMaskCache as CausalMaskCache
    from perstep.fast.decode_call import Decode as Decode
    from perstep.fast.decode_call import decode as decode
    from perstep.fast.graph_kept import release as release
    from perstep.fast.masked_reference import MaskedText as MaskedText
    from perstep.fast.masked_reference import generate_masked as generate_masked
    from perstep.fast.ngrams import NoRepeatNGram as NoRepeatNGram
    from perstep.fast.penalties import RepetitionPenalty as RepetitionPenalty
    from perstep.fast.penalties import SuppressTokens as SuppressTokens
    from perstep.fast.sampling import MinP as MinP
    from perstep.fast.sampling import TopK as TopK
    from perstep.fast.sampling import TopP as TopP
    from perstep.fast.sampling import TypicalP as TypicalP
    from perstep.fast.sequences import BadWords as BadWords
    from perstep.fast.sequences import SequenceBias as SequenceBias
    from perstep.fast.stop import StopStrings as StopStrings
    from perstep.fast.stop import WordStop as WordStop
    from perstep.fast.stop_ids import StopIds as StopIds
    from perstep.fast.token_mask import TokenMask as TokenMask
    from perstep.fast.utf8 import Utf8 as Utf8

_HOMES: dict[str, str] = {
    "AllowSequences": "perstep.fast.allowed",
    "AllowTokens": "perstep.fast.allowed",
    "BadWords": "perstep.fast.sequences",
    "CausalMaskCache": "perstep.fast.causal_mask",
    "Decode": "perstep.fast.decode_call",
    "MaskedText": "perstep.fast.masked_reference",
    "MinP": "perstep.fast.sampling",
    "NoRepeatNGram": "perstep.fast.ngrams",
    "RepetitionPenalty": "perstep.fast.penalties",
    "SequenceBias": "perstep.fast.sequences",
    "StopIds": "perstep.fast.stop_ids",
    "StopStrings": "perstep.fast.stop",
    "SuppressTokens": "perstep.fast.penalties",
    "TokenMask": "perstep.fast.token_mask",
    "TopK": "perstep.fast.sampling",
    "TopP": "perstep.fast.sampling",
    "TypicalP": "perstep.fast.sampling",
    "Utf8": "perstep.fast.utf8",
    "WordStop": "perstep.fast.stop",
    "decode": "perstep.fast.decode_call",
    "generate_masked": "perstep.fast.masked_reference",
    "release": "perstep.fast.graph_kept",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'perstep.fast' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(_HOMES)
