"""Reversible wrapping of attributes: of instances, classes, modules and mappings.

A `Wraps` remembers what it put where and takes everything away again, in any
order: when another wrapper was laid over ours in the meantime, that one is left
alone and told what to put back when its own turn comes. What somebody else has
put over a wrapper by hand is never touched. A Ctrl-C waits meanwhile
(`targets/interrupts.py`). A copy of a wrapped instance, deep or pickled, has no wrappers:
it is made without them. Knows nothing of what it wraps.
"""

import functools
import inspect
import threading
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from types import FunctionType, MethodType, ModuleType
from typing import Any, Final, Self, cast

from perstep.targets.interrupts import hold, release, uninterrupted

Value = Any
"""What a wrapped function takes or gives: who wraps it knows its type."""

Function = Callable[..., Value]
"""What is wrapped, and what wraps it."""

Make = Callable[[Function], Function]
"""Takes the function as it was and gives the one to call instead, of the same signature."""

_ABSENT: Final = object()
"""Stands for "the owner had no such entry of its own"."""


@dataclass(eq=False)
class _Layer:
    """One wrapper in its place, and what it covers."""

    owner: object  # held, so that its id stays its own while the layer is in place
    name: str
    covered: object
    wrapper: object


_REDUCE = "__reduce_ex__"
_LAYERS: dict[tuple[int, str], list[_Layer]] = {}
"""The layers on each place, lowest first. Two threads may wrap the same class or module."""
_LOCK = threading.Lock()


class Wraps:
    """A set of wrappers that is taken away as a whole, at the latest at the end of a `with` block.

    Examples:
        >>> class Greeter:
        ...     def greet(self):
        ...         return "hello"
        >>> greeter, wraps = Greeter(), Wraps()
        >>> wraps.method(greeter, "greet", lambda greet: lambda self: greet(self).upper())
        >>> greeter.greet()
        'HELLO'
        >>> wraps.restore()
        >>> greeter.greet(), vars(greeter)
        ('hello', {})
    """

    def __init__(self) -> None:
        self._layers: list[_Layer] = []
        self._owners: set[int] = set()

    def __enter__(self) -> Self:
        return self

    @uninterrupted()
    def __exit__(self, *exception: object) -> None:
        self.restore()

    def method(self, owner: object, name: str, make: Make) -> None:
        """Wrap a method of one instance; `make` takes and gives functions with `self` first.

        A deep copy or a pickle of the instance made meanwhile has none of its wrappers.
        """
        function = _unbound(owner, name)
        wrapper = MethodType(_like(make(function), function), owner)
        if id(owner) not in self._owners:
            self._owners.add(id(owner))
            self._put(owner, _REDUCE, MethodType(_reduce_unwrapped, owner))
        self._put(owner, name, wrapper)

    def function(self, owner: type | ModuleType | object, name: str, make: Make) -> None:
        """Wrap a function that a class, a module or an instance holds under a name."""
        covered = vars(owner)[name]
        self._put(owner, name, _like(make(covered), covered))

    def item(self, mapping: MutableMapping[str, Function], key: str, make: Make, default: Function) -> None:
        """Wrap an entry of a mapping, or `default` where it has none; then the entry is ours alone."""
        covered = mapping.get(key, default)
        self._put(mapping, key, _like(make(covered), covered))

    def value(self, owner: object, name: str, value: object) -> None:
        """Set an attribute of an instance to another value; `__class__` is one too."""
        self._put(owner, name, value)

    @uninterrupted()
    def restore(self) -> None:
        """Take all wrappers away; afterwards the set is empty and may be used again."""
        with _LOCK:  # two threads may come here at once, one that leaves and one whose call ends
            while self._layers:
                _take_away(self._layers.pop())
            self._owners.clear()
            if not _LAYERS:
                release()

    @uninterrupted()
    def _put(self, owner: object, name: str, wrapper: object) -> None:
        with _LOCK:
            hold()
            layer = _Layer(owner, name, _own(owner, name), wrapper)
            _set(owner, name, wrapper)
            _LAYERS.setdefault((id(owner), name), []).append(layer)
            self._layers.append(layer)


def _take_away(layer: _Layer) -> None:
    place = (id(layer.owner), layer.name)
    layers = _LAYERS[place]
    above = layers.index(layer) + 1
    if above < len(layers):
        layers[above].covered = layer.covered
    elif _own(layer.owner, layer.name) is layer.wrapper:
        _set(layer.owner, layer.name, layer.covered)
    layers.remove(layer)
    if not layers:
        del _LAYERS[place]


def _reduce_unwrapped(owner: object, protocol: Value) -> Value:
    """What `copy.deepcopy` and `pickle` make a copy of an instance from: its state as it is without wrappers."""
    covered = _LAYERS[id(owner), _REDUCE][0].covered
    own = MethodType(type(owner).__reduce_ex__, owner) if covered is _ABSENT else cast("Function", covered)
    reduced = own(protocol)
    if not isinstance(reduced, tuple) or len(reduced) < 3:
        return reduced
    state = reduced[2]
    if isinstance(state, dict):
        state = _unwrapped(owner, state)
    elif isinstance(state, tuple) and state and isinstance(state[0], dict):  # with slots beside
        state = (_unwrapped(owner, state[0]), *state[1:])
    return (*reduced[:2], state, *reduced[3:])


def _unwrapped(owner: object, state: dict[str, Value]) -> dict[str, Value]:
    def as_before(name: str, value: object) -> object:
        layers = _LAYERS.get((id(owner), name))
        return layers[0].covered if layers and value is layers[-1].wrapper else value

    before = {name: as_before(name, value) for name, value in state.items()}
    return {name: value for name, value in before.items() if value is not _ABSENT}


def _own(owner: object, name: str) -> Value:
    if name == "__class__":
        return type(owner)
    entries = owner if isinstance(owner, MutableMapping) else vars(owner)
    return entries.get(name, _ABSENT)


def _set(owner: object, name: str, value: object) -> None:
    if isinstance(owner, MutableMapping):
        if value is _ABSENT:
            del owner[name]
        else:
            owner[name] = value
    elif value is _ABSENT:
        delattr(owner, name)
    else:
        setattr(owner, name, value)


def _unbound(owner: object, name: str) -> Function:
    """What `owner.name(...)` calls, as a function with `self` first."""
    own = _own(owner, name)
    if own is _ABSENT:
        attribute = inspect.getattr_static(type(owner), name)
        if isinstance(attribute, FunctionType):
            return attribute
        own = getattr(owner, name)
    elif isinstance(own, MethodType) and own.__self__ is owner:
        return own.__func__

    def call(_self: object, /, *args: object, **kwargs: object) -> object:
        return own(*args, **kwargs)

    try:
        signature = inspect.signature(own)
    except (TypeError, ValueError):  # some callables written in C have none
        return call
    first = inspect.Parameter("_self", inspect.Parameter.POSITIONAL_ONLY)
    call.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[first, *signature.parameters.values()]
    )
    return call


def _like(wrapper: Function, covered: Function) -> Function:
    """Give the wrapper the name and signature of what it covers: transformers reads the signature of `forward`.

    The attributes of `covered` are not copied: some mark a function as compiled, and ours is not.
    """
    return functools.update_wrapper(wrapper, covered, updated=())
