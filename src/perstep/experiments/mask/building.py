"""Engines built for a vocabulary and a schema, and what that costs: once a vocabulary, once a schema, first mask.

Everything is built anew each time it is timed, until three builds or a second; the disk cache is an empty folder of
the run's own, so that `from disk` means written a moment ago and read again.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np

from perstep.automata import ENGINES, DiskCache, Engine, Grammar, available, prepare
from perstep.errors import InputError
from perstep.experiments.mask.arms import OURS
from perstep.experiments.mask.vocabularies import Named
from perstep.measure import Clock

DEFAULT_ENGINES = ("naive", "table", "table-lazy", "llguidance", "outlines", "xgrammar")
_ENOUGH_BUILDS = 3
_ENOUGH_NS = 1_000_000_000


class Build(msgspec.Struct, frozen=True, kw_only=True):
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
    """

    engine: str
    vocab: str
    complexity: int
    setup_ns: int
    build_ns: int
    first_mask_ns: int
    from_disk_ns: int | None
    builds: int


def parse_engines(text: str | None) -> tuple[tuple[str, ...], bool]:
    """The engines asked for, in the order of the default, and whether they were named.

    Raises:
        InputError: there is no such engine, or it is not installed; how to install it.
    """
    if text is None:
        installed = available()
        return tuple(name for name in DEFAULT_ENGINES if name in installed), False
    names = [word.strip() for word in text.split(",")]
    for name in names:
        kind = ENGINES.get(name)
        if kind is None:
            raise InputError(f"--engine {text!r}: there is no engine {name!r}; there are {', '.join(ENGINES)}")
        if name not in available():
            raise InputError(f"--engine {name}: it is not installed: {kind.install}")
    return tuple(name for name in ENGINES if name in names), True


class Workshop:
    """Builds engines and times it.

    Args:
        clock: the host's.
        named: whether the engines were asked for by name; one that refuses is then an error, otherwise left out.
    """

    def __init__(self, clock: Clock, *, named: bool) -> None:
        self._clock, self._named = clock, named
        self.builds: list[Build] = []
        self.refusals: list[tuple[str, str, int, str]] = []

    def engines(self, names: Sequence[str], vocab: Named, grammar: Grammar, complexity: int) -> dict[str, Engine]:
        """An engine of each name; those that refuse are in `refusals`.

        Raises:
            InputError: one of ours refuses the schema, or one that was named does.
        """
        made = {}
        for name in names:
            try:
                made[name] = self._engine(name, vocab, grammar, complexity)
            except InputError as error:
                if self._named or name in OURS:
                    raise InputError(f"{error}{_other_engine(name, error)}") from error
                self.refusals.append((name, vocab.name, complexity, str(error)))
        return made

    def _engine(self, name: str, vocab: Named, grammar: Grammar, complexity: int) -> Engine:
        now = self._clock.now
        prepared = prepare(name, vocab.vocabulary, now)
        builds: list[int] = []
        firsts: list[int] = []
        while len(builds) < _ENOUGH_BUILDS and sum(firsts) < _ENOUGH_NS:
            begun_ns = now()
            engine = prepared.build(grammar)
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
                from_disk_ns=self._from_disk(vocab, grammar) if name == "table" else None,
                builds=len(builds),
            )
        )
        return engine

    def _from_disk(self, vocab: Named, grammar: Grammar) -> int:
        now = self._clock.now
        with _empty_cache() as cache:

            def read() -> None:
                table = cache.schema_table(
                    grammar.schema, vocab.vocabulary, whitespace=grammar.whitespace, max_depth=grammar.max_depth
                )
                _ = table.row(table.start).bits

            read()
            return round(float(np.median([_timed_ns(read, now) for _ in range(_ENOUGH_BUILDS)])))


@contextmanager
def _empty_cache() -> Iterator[DiskCache]:
    with tempfile.TemporaryDirectory(prefix="perstep-") as folder:
        yield DiskCache(Path(folder))


def _timed_ns(work: Callable[[], None], now: Callable[[], int]) -> int:
    begun_ns = now()
    work()
    return now() - begun_ns


def _other_engine(name: str, error: InputError) -> str:
    """Where to go with a schema that no finite automaton holds."""
    if name not in OURS or "max_depth" not in str(error):
        return ""
    return "; on the command line --max-depth, or --engine llguidance"
