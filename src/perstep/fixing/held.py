"""What a class of the user's own may depend on: texts and numbers that it holds, names that its code reads.

Looked through are its attributes, those of its class, its methods with their constants, defaults and closures, the
names of their modules that they use, and what these hold in turn. Tokenizers, models and modules are not.
"""

import functools
import math
import re
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import CodeType, FunctionType, MethodType, ModuleType

from perstep.fixing.capture import Part, _is_read_only

LONGEST_TEXT = 64
_MOST = 20_000  # values looked at
_MOST_TEXTS = 512
_DEEPEST = 8
_LARGEST_LIST = 4096  # a longer one is a vocabulary
_LARGEST = 16_384  # numbers above it are no length

_CHANGING = frozenset({"datetime", "random", "secrets", "time"})
"""Modules whose functions say something else at every call."""
_DRAWS = frozenset({
    "default_rng", "monotonic", "monotonic_ns", "multinomial", "perf_counter", "perf_counter_ns", "process_time",
    "rand", "randint", "randn", "randperm", "time_ns", "urandom",
})  # fmt: skip


@dataclass
class Held:
    """What was found.

    Attributes:
        texts: short ones, in the order in which they were found.
        numbers: whole ones that may be lengths.
        sequences: short ones of token ids, in lists, tuples and tensors, and ids by themselves.
        changing: a name in the code by which it reads a clock or draws a number, or empty.
    """

    texts: list[str | bytes] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    sequences: list[tuple[int, ...]] = field(default_factory=list)
    changing: str = ""


def held_by(part: Part) -> Held:
    """What an object of the user's own holds, and its code names."""
    search = _Search()
    search.visit(part, 0)
    while search.queue:
        search.inside(*search.queue.popleft())
    stored = search.held
    stored.texts = list(dict.fromkeys(stored.texts))[:_MOST_TEXTS]
    stored.numbers = sorted(set(stored.numbers))
    stored.sequences = list(dict.fromkeys(stored.sequences))[:_MOST_TEXTS]
    return stored


class _Search:
    def __init__(self) -> None:
        self.held = Held()
        self.queue: deque[tuple[object, int]] = deque()  # the nearest first: a limit leaves out what is far away
        self._kept: list[object] = []  # so that no `id` is given twice
        self._seen: set[int] = set()

    def visit(self, value: object, depth: int) -> None:
        if isinstance(value, (str, bytes)):
            if 0 < len(value) <= LONGEST_TEXT:
                self.held.texts.append(value)
            return
        if isinstance(value, int):
            if not isinstance(value, bool) and 0 < value <= _LARGEST:
                self.held.numbers.append(value)
            self._ids([value] if not isinstance(value, bool) else [])
            return
        if value is None or id(value) in self._seen or depth > _DEEPEST or len(self._seen) >= _MOST:
            return
        self._seen.add(id(value))
        self._kept.append(value)
        self.queue.append((value, depth + 1))

    def _ids(self, value: object) -> None:
        """Keep what may be token ids: a list of them, or the rows of one."""
        if (
            isinstance(value, (list, tuple))
            and 0 < len(value) <= LONGEST_TEXT
            and all(type(one) is int and one >= 0 for one in value)
        ):
            self.held.sequences.append(tuple(value))

    def inside(self, value: object, depth: int) -> None:
        listed = _listed(value)
        if listed is not None:
            for one in listed:
                self._ids(one if isinstance(one, list) else [one])
            self._ids(listed)
            return
        self._ids(value)
        wrapped = _wrapped(value)
        if wrapped is not None:
            self._all(wrapped, depth)
        elif isinstance(value, FunctionType):
            self._function(value, depth)
        elif isinstance(value, type):
            if _is_own(value):
                self._all(vars(value).values(), depth)
        elif isinstance(value, Collection) and type(value).__module__ in ("builtins", "collections"):
            self._all(value, depth)
        elif not isinstance(value, ModuleType) and not _is_read_only(value) and _is_own(type(value)):
            slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
            self._all([getattr(value, name, None) for name in slots if isinstance(name, str)], depth)
            self._all(list(getattr(value, "__dict__", {}).values()), depth)
            self._all(type(value).__mro__, depth)

    def _all(self, values: Collection[object], depth: int) -> None:
        if len(values) <= _LARGEST_LIST:
            for value in values:
                self.visit(value, depth)

    def _function(self, function: FunctionType, depth: int) -> None:
        if not _is_own(function):
            return
        self._code(function.__code__, function.__globals__, function.__doc__, depth)
        self._all([function.__defaults__, function.__kwdefaults__, getattr(function, "__wrapped__", None)], depth)
        for cell in function.__closure__ or ():
            try:
                self.visit(cell.cell_contents, depth)
            except ValueError:  # not set yet
                continue

    def _code(self, code: CodeType, names: Mapping[str, object], doc: str | None, depth: int) -> None:
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                self._code(constant, names, None, depth)
            elif constant != doc or constant is None:
                self.visit(constant, depth)
        for name in code.co_names:
            value = names.get(name)
            module = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
            if name in _DRAWS or (module in _CHANGING and value is not None):
                self.held.changing = self.held.changing or name
            self.visit(value, depth)


def _listed(value: object) -> list[object] | None:
    """The whole numbers of a small tensor or array, row by row; None if it is none."""
    shape, kind = getattr(value, "shape", None), str(getattr(value, "dtype", ""))
    if not isinstance(shape, tuple) or len(shape) > 2 or not hasattr(value, "tolist") or "int" not in kind:
        return None
    values = value.tolist() if math.prod(shape) <= _LARGEST_LIST else []
    return values if isinstance(values, list) else [values]


def _wrapped(value: object) -> list[object] | None:
    """What a thing of Python's own wraps; None if it wraps nothing."""
    match value:
        case Mapping():
            return [*value.keys(), *value.values()]
        case re.Pattern():
            return [value.pattern]
        case functools.partial():
            return [value.func, value.args, value.keywords]
        case MethodType():
            return [value.__func__, value.__self__]
        case property():
            return [value.fget]
        case staticmethod() | classmethod():
            return [value.__func__]
    return None


def _is_own(thing: object) -> bool:
    """Whether a class or a function is the user's: not of Python, torch, transformers or another library of tensors."""
    root = str(getattr(thing, "__module__", "") or "").split(".")[0]
    return root not in (
        "builtins",
        "abc",
        "typing",
        "collections",
        "torch",
        "transformers",
        "tokenizers",
        "numpy",
        "perstep",
    )
