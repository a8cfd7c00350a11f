"""Mask engines by name: how each is prepared for a vocabulary and built for a grammar, both timed.

Examples:
    >>> engine = prepare("table", vocabulary).build(Grammar(schema))  # doctest: +SKIP
    >>> row = engine.fill(); engine.accept(token)  # doctest: +SKIP
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from perstep.automata.engines.protocol import Engine, Grammar
from perstep.errors import InputError, how_to_install

if TYPE_CHECKING:
    from collections.abc import Callable

    from perstep.automata.vocabulary import Vocabulary

__all__ = ["ENGINES", "Engine", "EngineKind", "Grammar", "Prepared", "available", "prepare"]


@dataclass(frozen=True)
class EngineKind:
    """Where an engine's functions are and what it needs.

    Attributes:
        module: the module in this package; it has `prepare` and the function named `build`.
        build: the name of that function.
        needs: the module that must be importable, or None.
        install: what installs it, or None.
        stoppable: whether its build calls a `check` on the way.
    """

    module: str
    build: str = "build"
    needs: str | None = None
    install: str | None = None
    stoppable: bool = False


ENGINES = {
    "naive": EngineKind("naive"),
    "naive-memo": EngineKind("naive", "build_memo"),
    "table": EngineKind("tables", stoppable=True),
    "table-lazy": EngineKind("tables", "build_lazy", stoppable=True),
    "auto": EngineKind("auto"),
    "llguidance": EngineKind("llguidance", needs="llguidance", install="pip install llguidance"),
    "outlines": EngineKind("outlines", needs="outlines_core", install="pip install outlines-core"),
    "xgrammar": EngineKind("xgrammar", needs="xgrammar", install=how_to_install("xgrammar")),
}
"""Every engine by the name it has on the command line."""


def available() -> list[str]:
    """The engines whose libraries are installed."""
    return [name for name, kind in ENGINES.items() if kind.needs is None or find_spec(kind.needs)]


class Prepared:
    """An engine kind with what it builds once for a vocabulary.

    Attributes:
        name: the engine.
        setup_ns: how long that took.
    """

    def __init__(self, name: str, vocabulary: Vocabulary, now_ns: Callable[[], int]) -> None:
        kind = ENGINES[name]
        module = import_module(f"{__name__}.{kind.module}")
        self.name = name
        self._vocabulary = vocabulary
        self._now_ns = now_ns
        self._build = getattr(module, kind.build)
        self._stoppable = kind.stoppable
        if kind.needs:
            import_module(kind.needs)  # not part of the setup that is timed
        began = now_ns()
        self._shared = module.prepare(vocabulary)
        self.setup_ns = now_ns() - began

    def build(self, grammar: Grammar, check: Callable[[], None] | None = None) -> Engine:
        """The engine of a grammar, at the beginning of a text; its `build_ns` says how long that took.

        Args:
            grammar: what its texts are held to.
            check: called on the way by the engines that are `stoppable`; what it raises ends the build.

        Raises:
            InputError: if the engine cannot hold a text to this grammar.
        """
        began = self._now_ns()
        stop = {"check": check} if self._stoppable else {}
        engine: Engine = self._build(self._shared, self._vocabulary, grammar, **stop)
        engine.build_ns = self._now_ns() - began
        engine.setup_ns = self.setup_ns
        return engine


def prepare(name: str, vocabulary: Vocabulary, now_ns: Callable[[], int] = time.perf_counter_ns) -> Prepared:
    """Prepare an engine for a vocabulary.

    Args:
        name: one of `ENGINES`.
        vocabulary: the tokens.
        now_ns: a clock in nanoseconds.

    Raises:
        InputError: if there is no such engine, it is not installed, or it cannot use the vocabulary.
    """
    kind = ENGINES.get(name)
    if kind is None:
        raise InputError(f"there is no engine {name!r}; there are {', '.join(ENGINES)}")
    if kind.needs and not find_spec(kind.needs):
        raise InputError(f"the engine {name} is not installed: {kind.install}")
    return Prepared(name, vocabulary, now_ns)
