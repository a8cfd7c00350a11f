"""Engines built for a vocabulary and a schema, and what that costs: once a vocabulary, once a schema, first mask.

Everything is built anew each time it is timed, until three builds or a second, less where the budget is short; the disk
cache is an empty folder of the run's own, so that `from disk` means written a moment ago and read again. An engine that
refuses the schema, or is not built in time, costs the run that engine alone.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import isfinite
from pathlib import Path

import msgspec
import numpy as np

from perstep.automata import (
    ENGINES,
    DiskCache,
    Engine,
    Grammar,
    TokenAutomaton,
    TokenTable,
    available,
    prepare,
)
from perstep.automata.engines.tables import TableEngine
from perstep.errors import InputError
from perstep.experiments.mask.arms import OURS
from perstep.experiments.mask.vocabularies import Named
from perstep.measure import Clock
from perstep.report.format import duration

DEFAULT_ENGINES = ("naive", "table", "table-lazy", "auto", "llguidance", "outlines", "xgrammar")
_ENOUGH_BUILDS = 3
_ENOUGH_NS = 1_000_000_000
_ENOUGH_SHARE = 0.02
"""Of the time for all builds: seven engines over four vocabularies share it."""
_TRIED = 16
"""A build that nothing can stop is tried before, over a sixteenth and two sixteenths of a vocabulary."""
_TRIED_FROM = 8192
"""Vocabularies below are not worth it: a sixteenth would be little more than the single bytes."""


class Build(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an engine needs before its first step; medians in nanoseconds.

    Attributes:
        engine: its name.
        vocab: the vocabulary's name.
        complexity: of the schema.
        setup_ns: once a vocabulary (a trie, a tokenizer object), measured once.
        build_ns: once a schema.
        first_mask_ns: from the schema to the first mask, the build included.
        from_disk_ns: the same with a table that the disk cache holds; None for engines without one.
        builds: how many the medians are of.
        chosen: of `auto`, the engine that it chose and why; empty for the others.
    """

    engine: str
    vocab: str
    complexity: int
    setup_ns: int
    build_ns: int
    first_mask_ns: int
    from_disk_ns: int | None
    builds: int
    chosen: str = ""


class BuildTime:
    """The time that is left for building engines: half of the budget in all.

    One build may take half of what is left, so that an engine that is slow to build leaves some to the others.

    Args:
        budget_s: for all builds; infinite for no bound.
        clock: the host's.
    """

    def __init__(self, budget_s: float, clock: Clock) -> None:
        self._left_ns, self._budget_s, self._clock = budget_s * 1e9, budget_s, clock
        self._began_ns, self._limit_ns = 0, 0.0

    @contextmanager
    def one_build(self, hint: str = "") -> Iterator[None]:
        """Count what is built inside.

        Args:
            hint: what to do where the build takes longer than it may.

        Raises:
            InputError: no time is left to begin, or `check` found it used up.
        """
        self._hint = hint
        if self._left_ns <= 0:
            raise InputError(f"not built: building had used up the {self._budget}")
        self._began_ns, self._limit_ns = self._clock.now(), self._left_ns / 2
        try:
            yield
        finally:
            self._left_ns -= self._clock.now() - self._began_ns

    def check(self) -> None:
        """Called on the way of a build.

        Raises:
            InputError: it has taken what it may.
        """
        took_ns = self._clock.now() - self._began_ns
        if took_ns > self._limit_ns:
            raise InputError(f"not built after {duration(took_ns, 2)}, half of what was left {self._of}{self._hint}")

    def expect(self, ns: float) -> None:
        """Called before a build that nothing can stop.

        Raises:
            InputError: it would take longer than it may.
        """
        if ns > self._limit_ns:
            raise InputError(
                f"not built: extrapolated from builds over 1/16 and 1/8 of the vocabulary it would take about"
                f" {duration(ns, 2)}, and {duration(self._limit_ns, 2)} is half of what was left {self._of}{self._hint}"
            )

    @property
    def enough_ns(self) -> float:
        """How long one engine is built again and again."""
        return min(_ENOUGH_NS, _ENOUGH_SHARE * self._budget_s * 1e9)

    @property
    def bounded(self) -> bool:
        """Whether there is a bound at all."""
        return isfinite(self._budget_s)

    @property
    def _budget(self) -> str:
        return f"{duration(self._budget_s * 1e9)} of --budget that it may take"

    @property
    def _of(self) -> str:
        return f"of the {self._budget}"


def parse_engines(text: str | None) -> tuple[str, ...]:
    """The engines asked for, in the order of the default.

    Raises:
        InputError: there is no such engine, or it is not installed; how to install it.
    """
    if text is None:
        installed = available()
        return tuple(name for name in DEFAULT_ENGINES if name in installed)
    names = [word.strip() for word in text.split(",")]
    for name in names:
        kind = ENGINES.get(name)
        if kind is None:
            raise InputError(f"--engine {text!r}: there is no engine {name!r}; there are {', '.join(ENGINES)}")
        if name not in available():
            raise InputError(f"--engine {name}: it is not installed: {kind.install}")
    return tuple(name for name in ENGINES if name in names)


class EngineBuilder:
    """Builds engines and times it.

    Args:
        clock: the host's.
        time: what is left for building.
    """

    def __init__(self, clock: Clock, time: BuildTime) -> None:
        self._clock, self.time = clock, time
        self.builds: list[Build] = []
        self.refusals: list[tuple[str, str, int, str]] = []

    def engines(
        self, names: Sequence[str], vocab: Named, grammar: Grammar, complexity: int, no_automaton: str = ""
    ) -> dict[str, Engine]:
        """An engine of each name; those that refuse, or are not built in time, are in `refusals`.

        Args:
            names: of the engines.
            vocab: the vocabulary.
            grammar: what they are asked for.
            complexity: of the schema.
            no_automaton: why no finite automaton holds the schema, which our engines need; empty where one does.
        """
        by_name = {}
        for name in names:
            hint = "; table-lazy makes each row when a text first needs it" if name == "table" else ""
            try:
                if no_automaton and name in OURS:
                    raise InputError(no_automaton)
                with self.time.one_build(hint):
                    by_name[name] = self._engine(name, vocab, grammar, complexity)
            except InputError as error:
                self.refusals.append((name, vocab.name, complexity, str(error)))
        return by_name

    def _engine(self, name: str, vocab: Named, grammar: Grammar, complexity: int) -> Engine:
        now = self._clock.now
        self._try(name, vocab, grammar)
        prepared = prepare(name, vocab.vocabulary, now)
        builds: list[int] = []
        firsts: list[int] = []
        while len(builds) < _ENOUGH_BUILDS and sum(firsts) < self.time.enough_ns:
            begun_ns = now()
            engine = prepared.build(grammar, self.time.check if not builds else None)
            engine.fill()
            firsts.append(now() - begun_ns)
            builds.append(engine.build_ns)
        self.builds.append(
            Build(
                engine=name,
                vocab=vocab.name,
                complexity=complexity,
                setup_ns=prepared.setup_ns,
                build_ns=round(float(np.median(builds))),
                first_mask_ns=round(float(np.median(firsts))),
                from_disk_ns=self._from_disk(engine.table, grammar) if isinstance(engine, TableEngine) else None,
                builds=len(builds),
                chosen=_chosen(engine),
            )
        )
        return engine

    def _try(self, name: str, vocab: Named, grammar: Grammar) -> None:
        """Build an engine that nothing can stop over a part of a large vocabulary, to know what the whole takes."""
        size = vocab.vocabulary.size
        if ENGINES[name].needs is None or not self.time.bounded or size < _TRIED_FROM:
            return
        took_ns = []
        for parts in (1, 2):
            part, _ = vocab.vocabulary.first(parts * size // _TRIED)
            took_ns.append(prepare(name, part, self._clock.now).build(grammar).build_ns)
        fixed_ns, more_ns = took_ns[0], took_ns[1] - took_ns[0]
        self.time.expect(fixed_ns + (_TRIED - 1) * more_ns)

    def _from_disk(self, table: TokenAutomaton, grammar: Grammar) -> int | None:
        """From the disk cache to the first mask; None for a table that is made as it is visited."""
        if not isinstance(table, TokenTable):
            return None
        now = self._clock.now
        with _empty_cache() as cache:

            def read() -> None:
                read_again = cache.schema_table(
                    grammar.schema,
                    table.vocabulary,
                    whitespace=grammar.whitespace,
                    max_depth=grammar.max_depth,
                    undeclared=grammar.undeclared,
                    key_order=grammar.key_order,
                    made=table,
                )
                _ = read_again.row(read_again.start).bits

            read()  # writes it
            return round(float(np.median([_timed_ns(read, now) for _ in range(_ENOUGH_BUILDS)])))


def _chosen(engine: Engine) -> str:
    table = engine.table if isinstance(engine, TableEngine) else None
    return f"{table.engine} ({table.reason})" if table is not None and table.reason else ""


@contextmanager
def _empty_cache() -> Iterator[DiskCache]:
    with tempfile.TemporaryDirectory(prefix="perstep-") as folder:
        yield DiskCache(Path(folder))


def _timed_ns(work: Callable[[], None], now: Callable[[], int]) -> int:
    begun_ns = now()
    work()
    return now() - begun_ns
