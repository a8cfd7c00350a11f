"""Drop-ins for transformers' `generate`: the same guarantee, with the cost taken away.

Names are handed on when they are first used; torch is imported by the modules that hold them.
"""

from importlib import import_module
from typing import Any

_HOMES: dict[str, str] = {}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'perstep.fast' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(_HOMES)
