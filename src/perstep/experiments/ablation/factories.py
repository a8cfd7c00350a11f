"""Parts that can be taken away: logits processors and stopping criteria, given as factories.

They keep state, so each generate call gets new ones; a factory that hands out the same object twice is refused.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from perstep.errors import InputError
from perstep.experiments.user_code import NAMED, import_named
from perstep.targets.transformers import part_names

Kind = Literal["processor", "criterion"]
Factory = Callable[[], object]

_LISTS: dict[Kind, str] = {"processor": "logits", "criterion": "stop"}
_SPEC = re.compile(rf"([\w.-]+)=({NAMED.pattern})")
_NAME = re.compile(r"[\w.-]+")


@dataclass(frozen=True)
class Component:
    """One part that can be taken away.

    Attributes:
        name: as it is shown.
        kind: whether it is a logits processor or a stopping criterion.
        factory: makes a new one.
    """

    name: str
    kind: Kind
    factory: Factory

    def make(self) -> object:
        """A new one.

        Raises:
            InputError: the factory raised.
        """
        try:
            return self.factory()
        except Exception as error:
            raise InputError(f"the factory of {self.name!r} raised {type(error).__name__}: {error}") from error


def components(processors: Mapping[str, Factory], criteria: Mapping[str, Factory]) -> tuple[Component, ...]:
    """All parts, processors first.

    Raises:
        InputError: there is none, a name stands twice or is no name, or a factory does not make a new processor
            (or criterion) each time.
    """
    parts = tuple(
        Component(name, kind, factory)
        for kind, factories in _kinds(processors, criteria)
        for name, factory in factories.items()
    )
    if not parts:
        raise InputError("there is nothing to take away: give a processor or a criterion")
    for component in parts:
        if not _NAME.fullmatch(component.name):
            raise InputError(
                f"{component.name!r} is not a valid name for a part: use letters, digits, '.', '_' and '-'"
            )
        if sum(component.name == other.name for other in parts) > 1:
            raise InputError(f"two parts are called {component.name!r}: give each a name of its own")
        _check(component)
    return parts


def _kinds(
    processors: Mapping[str, Factory], criteria: Mapping[str, Factory]
) -> tuple[tuple[Kind, Mapping[str, Factory]], ...]:
    for argument, given in (("logits_processor", processors), ("stopping_criteria", criteria)):
        if not isinstance(given, Mapping):
            raise InputError(f"{argument} is a {type(given).__name__}; give a dictionary of names and factories")
    return ("processor", processors), ("criterion", criteria)


def _check(component: Component) -> None:
    from transformers import LogitsProcessor, StoppingCriteria

    if not callable(component.factory):
        raise InputError(
            f"{component.name!r} is a {type(component.factory).__name__}, not a factory: give a function without "
            f"arguments that makes a {component.kind}"
        )
    first = component.make()
    wrong = StoppingCriteria if component.kind == "processor" else LogitsProcessor
    if not callable(first) or isinstance(first, (type, list, wrong)):
        shown = f"the class {first.__name__}" if isinstance(first, type) else f"a {type(first).__name__}"
        raise InputError(f"the factory of {component.name!r} returned {shown}; it must return one {_words(component)}")
    if component.make() is first:
        raise InputError(
            f"the factory of {component.name!r} returned the same object twice: a {component.kind} may keep state, so "
            "it must make a new one each time"
        )


def _words(component: Component) -> str:
    return "logits processor" if component.kind == "processor" else "stopping criterion"


def parts_in_ledger(given: Sequence[Component]) -> dict[str, str]:
    """Under which name each part stands in a ledger of the call that holds them all: `logits/<class>`."""
    names: dict[str, str] = {}
    for kind, prefix in _LISTS.items():
        own = [component for component in given if component.kind == kind]
        parts = part_names(prefix, [component.make() for component in own])
        names |= {component.name: part for component, part in zip(own, parts, strict=True)}
    return names


def import_factories(specs: Sequence[str], option: str) -> dict[str, Factory]:
    """The factories of `name=module:factory`; modules are looked for in the current folder too.

    Args:
        specs: as written on the command line.
        option: that they were given with, for errors.

    Raises:
        InputError: one is written otherwise, cannot be imported, or stands twice.
    """
    factories: dict[str, Factory] = {}
    for spec in specs:
        match = _SPEC.fullmatch(spec)
        if match is None:
            raise InputError(f"{option} {spec!r}: write name=module:factory, such as utf8=my_module:make_utf8")
        name, named = match.groups()
        if name in factories:
            raise InputError(f"{option} {name!r} is given twice: give each a name of its own")
        factories[name] = import_named(named)
    return factories
