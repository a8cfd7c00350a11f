"""JSON schema to byte automaton: one block for each subschema, joined as the schema says.

The texts accepted are those whose value validates, written under one policy: keys in the
schema's order, only keys that the schema names (or admits by an explicit
`additionalProperties`), whitespace as stated, constants and keys as
`json.dumps(ensure_ascii=False)` writes them, integers without fraction or exponent. Recursion
is cut at a stated depth or refused; nothing is ever dropped in silence. What validates is decided before
(`expanding.py`); here it is only written.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

from perstep._json import Json
from perstep.automata.determinise import determinise, too_many_states
from perstep.automata.dfa import STATE_LIMIT, Dfa
from perstep.automata.metering import CPU_SECONDS, MEGABYTES, keep, metered
from perstep.automata.nfa import NEVER, Block, union
from perstep.automata.schema.containers import (
    Items,
    Kind,
    Member,
    Members,
    Text,
    array_block,
    counted_array,
    member_text,
    object_block,
    unequal_array,
)
from perstep.automata.schema.documents import Document
from perstep.automata.schema.expanding import Expander
from perstep.automata.schema.finite import finite_values
from perstep.automata.schema.formats import FORMATS
from perstep.automata.schema.keywords import below, same_value
from perstep.automata.schema.shapes import (
    EVERY,
    FALSE,
    TRUE,
    Array,
    Boolean,
    Formula,
    Null,
    Number,
    Object,
    Shape,
    String,
    Witness,
    both,
)
from perstep.automata.schema.shapes import literal as holds
from perstep.automata.schema.strings import can_be_string, pattern_matches
from perstep.automata.schema.writing import InBytes, Writing, constant
from perstep.errors import InputError

if TYPE_CHECKING:
    from perstep.automata.schema.keywords import Schema

BLOCK_FACTOR = 4  # a construction may have this many times the states of its result
_MOST_KINDS = 64  # of keys, by which patterns they match
_MOST_WITNESSES = 5  # keys that are not named and must be there
_MOST_COUNTS = 4  # of items that may be counted in one array


@dataclass(frozen=True)
class Policy:
    """What of that which validates is written; the options of `json_schema`.

    Raises:
        InputError: if `key_order` is no order.
    """

    whitespace: str = "fixed"
    max_depth: int | None = None
    state_limit: int = STATE_LIMIT
    undeclared: bool = False
    key_order: str = "schema"
    strict: bool = False

    def __post_init__(self) -> None:
        if self.key_order not in ("schema", "any"):
            raise InputError(f"key_order is 'schema' or 'any'; got {self.key_order!r}")

    def __str__(self) -> str:
        said = [f"whitespace {self.whitespace}"]
        said += [f"depth {self.max_depth}"] * (self.max_depth is not None)
        said += ["undeclared keys too"] * self.undeclared + ["keys in any order"] * (self.key_order == "any")
        return ", ".join(said)


def json_schema(
    schema: str | bytes | Mapping[str, Json] | bool,
    *,
    whitespace: str = "fixed",
    max_depth: int | None = None,
    state_limit: int = STATE_LIMIT,
    undeclared: bool = False,
    key_order: str = "schema",
    strict: bool = False,
    cpu_seconds: float = CPU_SECONDS,
    megabytes: float = MEGABYTES,
) -> Dfa:
    r"""The automaton of the JSON texts that a schema allows.

    Args:
        schema: the schema, as JSON text or as parsed.
        whitespace: `fixed` (", " and ": " as json.dumps), `flexible` (any JSON whitespace), or a regex.
        max_depth: how many times a definition may contain itself, and how deep values of unknown shape
            (`{}`, `true`) may nest; None to refuse both.
        state_limit: most states of the automaton.
        undeclared: write also what the schema allows without naming it: further keys and items, and types that no
            keyword is about. Needs `max_depth` mostly.
        key_order: `schema`, or `any` for objects of up to eight properties.
        strict: refuse formats that are not enforced; otherwise `Dfa.source` names them.
        cpu_seconds: most work of the compile, counted and not clocked: the answer is the same on every machine.
        megabytes: most memory of the compile, estimated from the tables it needs.

    Raises:
        InputError: if the schema is not JSON, malformed, refers to what is not there, holds what no finite
            automaton can, recurs without `max_depth`, allows nothing, or is over the limit.

    Examples:
        >>> dfa = json_schema({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]})
        >>> dfa.accepts(b'{"n": 12}'), dfa.accepts(b'{"n": 1.5}')
        (True, False)
    """
    policy = Policy(whitespace, max_depth, state_limit, undeclared, key_order, strict)
    return ReadSchema(schema, policy).as_automaton(cpu_seconds, megabytes)


class ReadSchema:
    """A schema and what it means, to be written as an automaton (here) or as a grammar (`grammar.py`).

    Args:
        schema: the schema, as JSON text or as parsed.
        policy: what of that which validates is written.

    Attributes:
        source: what it is, for messages and for `Dfa.source`.

    Raises:
        InputError: if it is not JSON.
    """

    def __init__(self, schema: str | bytes | Mapping[str, Json] | bool, policy: Policy) -> None:
        self._root = _parse(schema)
        self._expander: Expander | None = None
        self.policy = policy
        title = self._root.get("title") if isinstance(self._root, dict) else None
        name = f" {title!r}" if isinstance(title, str) and title.isprintable() else ""
        self.source = f"the JSON schema{name} ({policy})"

    def expander(self) -> Expander:
        """What its places mean; worked out once, whichever way it is written."""
        if self._expander is None:
            self._expander = Expander(Document(self._root))
        self._expander.begin()
        return self._expander

    def as_automaton(self, cpu_seconds: float = CPU_SECONDS, megabytes: float = MEGABYTES) -> Dfa:
        """The automaton of the texts, within limits.

        Raises:
            InputError: as for `json_schema`.
        """
        policy = self.policy
        with self.compiling(cpu_seconds, megabytes):
            expander = self.expander()
            writing = InBytes(policy.whitespace, policy.state_limit, BLOCK_FACTOR * policy.state_limit)
            compiler = Compiler(expander, policy, writing)
            block = compiler.value(expander.follow(expander.document.root), "#", ())
            dfa = determinise(block, policy.state_limit, self.source)
        source = self.checked_formats(compiler.loose_formats)
        if dfa.is_empty:
            raise InputError(f"no JSON value satisfies {source}{compiler.why_empty()}")
        return replace(dfa, source=source)

    @contextmanager
    def compiling(self, cpu_seconds: float, megabytes: float) -> Iterator[None]:
        """Count what is done within."""
        try:
            with metered(cpu_seconds, megabytes):
                yield
        except RecursionError as error:
            raise InputError(
                f"{self.source} is nested too deeply to be compiled: lower max_depth, or flatten it"
            ) from error

    def checked_formats(self, loose: set[str]) -> str:
        """The source, which names the formats that are not enforced.

        Raises:
            InputError: if there are some, and `strict` was asked for.
        """
        names = sorted(loose)
        if names and self.policy.strict:
            raise InputError(f"format {', '.join(map(repr, names))} is not enforced here: take it out, or strict=False")
        return self.source + (f", not enforced: format {', '.join(map(ascii, names))}" if names else "")


def _parse(schema: str | bytes | Mapping[str, Json] | bool) -> Schema | bool:
    """The schema as JSON gives it back: whatever was handed in, the compiler meets JSON values alone."""
    try:
        given = json.loads(schema) if isinstance(schema, (str, bytes)) else schema
        # NaN and numbers beyond a double, which json.loads lets through, are refused by json.dumps.
        parsed = json.loads(json.dumps(dict(given) if isinstance(given, Mapping) else given, allow_nan=False))
    except RecursionError as error:
        raise InputError("the schema is nested too deeply to be read") from error
    except (TypeError, ValueError) as error:
        raise InputError(f"the schema is not JSON: {error}") from error
    if isinstance(parsed, (bool, dict)):
        return parsed
    raise InputError(f"a JSON schema is an object, true or false; got {parsed!r}")


@dataclass(frozen=True, eq=False)
class _Made:
    """A block that was made: it serves wherever the formulas that it reaches are entered as often as they were here.

    Attributes:
        block: the block.
        reached: the formulas written in it, itself among them.
        opened: how often each of these was entered on the way there.
    """

    block: Block
    reached: frozenset[Formula]
    opened: dict[Formula, int]


def _among(opened: tuple[Formula, ...], reached: frozenset[Formula]) -> dict[Formula, int]:
    return Counter(formula for formula in opened if formula in reached)


class Compiler:
    """Writes formulas; `opened` are those entered on the way to the one that is written.

    Attributes:
        loose_formats: formats that are not enforced.
    """

    def __init__(self, expander: Expander, policy: Policy, writing: Writing) -> None:
        self._document = expander.document
        self._policy = policy
        self._writing = writing
        self._block_limit = BLOCK_FACTOR * policy.state_limit
        self._blocks: dict[Formula, list[_Made]] = {}
        self._reached: list[set[Formula]] = [set()]  # by each formula that is being written
        self._empty: list[str] = []
        self.expander = expander
        self.loose_formats: set[str] = set()

    def why_empty(self) -> str:
        """Where the schema allows nothing, for the message; the first such place."""
        return f": nothing satisfies {self._empty[0]}" if self._empty else ""

    def value(self, formula: Formula, path: str, opened: tuple[Formula, ...]) -> Block:
        """The texts of the values that satisfy a formula.

        Raises:
            InputError: if they make too many states; said at the first subschema that does.
        """
        for entry in self._blocks.get(formula, ()):
            if entry.opened == _among(opened, entry.reached):
                self._reached[-1] |= entry.reached
                return entry.block
        self._reached[-1].add(formula)
        if formula in opened and not self._enters(formula, path, opened):
            return NEVER
        self._reached.append({formula})
        block = self._block(formula, path, (*opened, formula))
        keep(block.nbytes)
        reached = frozenset(self._reached.pop())
        self._reached[-1] |= reached
        self._blocks.setdefault(formula, []).append(_Made(block, reached, _among(opened, reached)))
        return block

    def _block(self, formula: Formula, path: str, opened: tuple[Formula, ...]) -> Block:
        shapes = self._written(self.expander.shapes(formula))
        if not shapes:
            self._empty.append(path)
            return NEVER
        if self._is_too_deep(shapes):
            raise InputError(
                f"{path}: any value is allowed here, and no finite automaton nests without end: give a type, or "
                "max_depth to nest that deep and no deeper, or use an engine with a stack (llguidance)"
            )
        block = union(*(self._shape(shape, path, opened) for shape in shapes))
        if block.size > self._block_limit:
            raise too_many_states(path, self._policy.state_limit)
        return block

    def _is_too_deep(self, shapes: list[Shape]) -> bool:
        """Whether values nest here without end."""
        return self._policy.max_depth is None and _is_anything(shapes)

    def _enters(self, formula: Formula, path: str, opened: tuple[Formula, ...]) -> bool:
        """Whether a formula may be entered once more inside itself."""
        if self._policy.max_depth is None:
            raise InputError(
                f"{path}: {self._name(formula)} contains itself, and no finite automaton nests without end: give "
                "max_depth to nest that often and no deeper, or use an engine with a stack (llguidance)"
            )
        return opened.count(formula) <= self._policy.max_depth

    def _name(self, formula: Formula) -> str:
        return " and ".join(self._document.places[place].path for place, _ in formula) or "any value"

    def _written(self, shapes: tuple[Shape, ...]) -> list[Shape]:
        """The shapes that are written: without `undeclared`, where no type is said, those that keywords are about."""
        if not self._policy.undeclared:
            about = {shape.branch for shape in shapes if shape.about and not shape.typed}
            shapes = tuple(s for s in shapes if s.typed or s.about or s.branch not in about)
        return list(dict.fromkeys(shape.changed(typed=True, about=True, branch=()) for shape in shapes))

    def _shape(self, shape: Shape, path: str, opened: tuple[Formula, ...]) -> Block:
        if isinstance(shape, Null):
            return self._writing.text(b"null")
        if isinstance(shape, Boolean):
            return union(*(self._writing.text(b"true" if value else b"false") for value in shape.values))
        if isinstance(shape, Number):
            return self._writing.number(shape, path if shape.multiples else "#")
        if isinstance(shape, String):
            self._note_formats(shape)
            return self._writing.string(shape, path)
        if isinstance(shape, Array):
            return self._array(shape, path, opened)
        return (
            union(*(self._object(one, path, opened) for one in self._witnessed(shape)))
            if isinstance(shape, Object)
            else NEVER
        )

    def _note_formats(self, shape: String) -> None:
        self.loose_formats |= {name for rule, name, _ in shape.rules if rule == "format" and name not in FORMATS}

    # Arrays

    def _array(self, shape: Array, path: str, opened: tuple[Formula, ...]) -> Block:
        if shape.unique and (shape.high is None or shape.high > 1):
            return self._unequal(shape, path, opened)
        shape = self._without_sure(shape)
        if shape.counts or shape.some:
            return self._counted(shape, path, opened)
        high = shape.high
        first = [
            self.value(formula, below(path, "prefixItems", str(number)), opened)
            for number, formula in enumerate(shape.prefix)
            if high is None or number < high
        ]
        rest = None
        if self._goes_on(shape) and (high is None or high > len(first)):
            rest = self.value(shape.rest, below(path, "items"), opened)
        return array_block(Items(first, rest, shape.low, high), self._writing, self._block_limit, path)

    def _without_sure(self, shape: Array) -> Array:
        """The same without what every item from a place on satisfies: there it is enough that such an item is there."""
        left, low = [], shape.low
        for start, formula in dict.fromkeys(shape.some):
            items = [shape.item(number) for number in range(start, max(start, len(shape.prefix)) + 1)]
            if len(formula) == 1 and not any(self.expander.is_possible(both(i, _turned(formula))) for i in items):
                low = max(low, start + 1)
            else:
                left.append((start, formula))
        return replace(shape, some=tuple(left), low=low)

    def _goes_on(self, shape: Array) -> bool:
        """Whether items behind the prefix are written: as with keys, where the schema says so or has no prefix."""
        return shape.rest != FALSE and (shape.said or not shape.prefix or self._policy.undeclared)

    def _counted(self, shape: Array, path: str, opened: tuple[Formula, ...]) -> Block:
        """An array with `contains`: every item is of a kind, by which of the counted formulas it satisfies."""
        if len(shape.counts) + len(shape.some) > _MOST_COUNTS:
            raise InputError(f"{path}: more than {_MOST_COUNTS} contains on one array cannot be counted here")
        counts = [(count.low, count.high) for count in shape.counts] + [(1, None)] * len(shape.some)
        places: list[tuple[int, int | None]] = [(number, number) for number in range(len(shape.prefix))]
        if self._goes_on(shape) or len(shape.prefix) < shape.low:
            places.append((len(shape.prefix), None))
        starts = sorted({start for start, _ in shape.some if start > len(shape.prefix)})
        for start in starts:  # the places behind the prefix fall apart where an item begins to count
            last = places.pop()
            places += [(last[0], start - 1), (start, None)]
        kinds = [kind for where in places for kind in self._kinds(shape, where, below(path, "items"), opened)]
        num_places = max([len(shape.prefix), *starts])
        return counted_array(kinds, num_places, (shape.low, shape.high), counts, self._writing, self._block_limit, path)

    def _kinds(
        self, shape: Array, places: tuple[int, int | None], path: str, opened: tuple[Formula, ...]
    ) -> Iterator[Kind]:
        asked = [count.formula for count in shape.counts] + [formula for _, formula in shape.some]
        counts_here = [True] * len(shape.counts) + [places[0] >= start for start, _ in shape.some]
        # Where there is no upper bound an item need not be shown to be of the other kind: it may just not be counted.
        exact = [count.high is not None for count in shape.counts] + [False] * len(shape.some)
        for adds in product(*((0, 1) if here else (0,) for here in counts_here)):
            formulas = [
                formula if add else self._fails(formula, path) if must and here else TRUE
                for formula, add, must, here in zip(asked, adds, exact, counts_here, strict=True)
            ]
            formula = both(shape.item(places[0]), *formulas)
            if self.expander.is_possible(formula):
                yield Kind(places, (self.value(formula, path, opened),), adds)

    def _fails(self, formula: Formula, path: str) -> Formula:
        if len(formula) > 1:
            raise InputError(f"{path}: what contains asks for here cannot be turned round")
        return _turned(formula)

    def _values_by_place(self, shape: Array) -> list[list[Json] | None]:
        """The values of the items before and behind the end of the prefix; None where they are not known to be few."""
        width = len(shape.prefix) + self._goes_on(shape)
        return [finite_values(self.expander, shape.item(number)) for number in range(width)]

    def _unequal(self, shape: Array, path: str, opened: tuple[Formula, ...]) -> Block:
        """An array without equal items, of values that can be listed."""
        del opened
        if shape.counts or shape.some:
            raise InputError(f"{path}: 'uniqueItems' beside contains cannot be put into a finite automaton here")
        listed: list[list[Json]] = []
        for values in self._values_by_place(shape):
            if values is None:
                raise InputError(
                    f"{path}: 'uniqueItems' would need a state for every set of values seen, and these items have "
                    "no few values: take it out, or check it afterwards"
                )
            listed.append(values)
        width = len(listed)
        every: list[Json] = []
        for value in (value for values in listed for value in values):
            if not any(same_value(value, other) for other in every):
                every.append(value)
        at_place = [
            [n for n, value in enumerate(every) if any(same_value(value, v) for v in values)] for values in listed
        ]
        size = (shape.low, shape.high if self._goes_on(shape) else _less(shape.high, len(shape.prefix)))
        return unequal_array(
            [(constant(value, self._writing),) for value in every],
            lambda number: at_place[min(number, width - 1)] if width else [],
            size,
            self._writing,
            self._block_limit,
            path,
        )

    # Objects

    def _witnessed(self, shape: Object) -> list[Object]:
        """The ways in which a key that must be there is one of those known by name, or one that is not."""
        shapes = [shape.changed(some=())]
        for witness in shape.some:
            shapes = [one for done in shapes for one in self._with_witness(done, witness)]  # type: ignore[arg-type]
        return [one for one in shapes if isinstance(one, Object)]

    def _with_witness(self, shape: Object, witness: Witness) -> Iterator[Object]:
        for key, formula in shape.props:
            fits = witness.pattern is None or pattern_matches(witness.pattern, key)
            if (
                formula != FALSE
                and fits
                and witness.among.cover(key, pattern_matches)
                and self._is_key(key, witness.name)
            ):
                yield shape.with_prop(key, witness.among.formula).with_key(key)
        yield shape.changed(some=(*shape.some, witness))  # type: ignore[misc]

    def _is_key(self, key: str, name: Formula) -> bool:
        """Whether a key satisfies a formula."""
        if name == TRUE:
            return True
        constant_place = self._document.constant(key, self._document.places[self._document.root])
        return self.expander.is_possible(both(name, holds(constant_place)))

    def _object(self, shape: Object, path: str, opened: tuple[Formula, ...]) -> Block:
        members = []
        others_too = self._has_others(shape)
        for key in shape.keys:
            formula = shape.value_of(key, pattern_matches)
            required = key in shape.required
            written = others_too or key in shape.declared or key in shape.named
            if not written or not self.expander.is_possible(formula) or not self._is_key(key, shape.name):
                if required:
                    self._empty.append(below(path, "properties", key))
                    return NEVER
                continue
            value = self._member(key, formula, below(path, "properties", key), opened)
            if value.reads:
                members.append(Member(member_text(key, value, self._writing), required))
            elif required:
                return NEVER
        others = list(self._other_members(shape, (), path, opened)) if others_too else []
        if shape.some and not others_too:
            return NEVER
        filled = Members(
            members,
            others,
            self._witnesses(shape, path, opened),
            len(shape.some),
            any(witness.among.formula != TRUE for witness in shape.some),
            shape.low,
            shape.high,
            self._policy.key_order == "any",
        )
        return object_block(filled, self._writing, self._block_limit, path)

    def _member(self, key: str, formula: Formula, path: str, opened: tuple[Formula, ...]) -> Block:
        """The value of a named key."""
        del key
        return self.value(formula, path, opened)

    def _witnesses(self, shape: Object, path: str, opened: tuple[Formula, ...]) -> list[tuple[int, Text]]:
        """Texts of members that must be there under no known key: for each set of demands, those that meet it."""
        asked = len(shape.some)
        if asked > _MOST_WITNESSES or (asked > 1 and any(witness.among.formula != TRUE for witness in shape.some)):
            raise InputError(
                f"{path}: several keys that the schema does not name would have to be there: name them, or use an "
                "engine that works without a finite automaton (llguidance)"
            )
        return [
            (met, text)
            for met in range(1, 1 << asked)
            for text in self._other_members(
                shape, tuple(witness for n, witness in enumerate(shape.some) if met >> n & 1), path, opened
            )
        ]

    def _has_others(self, shape: Object) -> bool:
        """Whether keys that the schema does not name are written: where it says what they hold, or names no keys."""
        return self._says_others(shape) or bool(shape.patterns)

    def _says_others(self, shape: Object) -> bool:
        return self._policy.undeclared or shape.said or not (shape.declared or shape.named)

    def _other_members(
        self, shape: Object, witnesses: tuple[Witness, ...], path: str, opened: tuple[Formula, ...]
    ) -> Iterator[Text]:
        """Texts of members whose key is not named: one for each set of patterns that a key may match."""
        patterns = dict.fromkeys(pattern for pattern, _ in shape.patterns)
        patterns |= dict.fromkeys(pattern for others in shape.others for pattern in others.patterns)
        for witness in witnesses:
            patterns |= dict.fromkeys([*([witness.pattern] if witness.pattern else []), *witness.among.patterns])
        closed = not self._says_others(shape)
        for matching in _matchings(patterns, path):
            if closed and not any(matching[pattern] for pattern, _ in shape.patterns):
                continue
            formula = _other_value(shape, witnesses, matching)
            if formula is None or not self.expander.is_possible(formula):
                continue
            named = {key for key, _ in shape.props}.union(*(witness.among.named for witness in witnesses))
            name = both(shape.name, *(witness.name for witness in witnesses))
            key = self._key(name, _telling(matching), tuple(sorted(named)), path)
            if not key.reads:
                continue
            value = self.value(formula, below(path, "additionalProperties"), opened)
            if value.reads:
                yield (key, self._writing.colon, value)

    def _key(self, name: Formula, matching: tuple[tuple[str, bool], ...], but: tuple[str, ...], path: str) -> Block:
        """The texts of the keys that satisfy a formula and match these patterns, without those that are named."""
        keys = [shape for shape in self.expander.shapes(name) if isinstance(shape, String)]
        return union(*(self._writing.key(shape, matching, but, path) for shape in keys))


def _matchings(patterns: Iterable[str], path: str) -> list[dict[str, bool]]:
    """Which of some patterns a key may match: each with every other that some string matches too.

    Raises:
        InputError: if there are too many such sets.
    """
    matchings: list[dict[str, bool]] = [{}]
    for pattern in patterns:
        matchings = [
            {**matching, pattern: matches}
            for matching in matchings
            for matches in (True, False)
            if not matches or all(_meet(pattern, other) for other, true in matching.items() if true)
        ]
        if len(matchings) > _MOST_KINDS:
            raise InputError(
                f"{path}: patterns of patternProperties may meet on one key in more than {_MOST_KINDS} ways, which "
                "cannot be told apart here: use an engine that works without a finite automaton (llguidance)"
            )
    return matchings


def _telling(matching: dict[str, bool]) -> tuple[tuple[str, bool], ...]:
    """What a key must be told to match or not; of those that exclude what it matches nothing need be said."""
    true = [pattern for pattern, matches in matching.items() if matches]
    return tuple(
        (pattern, matches)
        for pattern, matches in matching.items()
        if matches or all(_meet(pattern, other) for other in true)
    )


def _meet(one: str, other: str) -> bool:
    """Whether a string may match both patterns; True where it would take long to know."""
    return can_be_string(String(rules=(("pattern", one, True), ("pattern", other, True))))


def _other_value(shape: Object, witnesses: tuple[Witness, ...], matching: dict[str, bool]) -> Formula | None:
    """What the value of an unnamed key must satisfy by the patterns it matches; None if it is no such witness."""
    formulas = [formula for pattern, formula in shape.patterns if matching[pattern]]
    formulas += [o.formula for o in shape.others if not any(matching[pattern] for pattern in o.patterns)]
    for witness in witnesses:
        if witness.pattern is not None and not matching[witness.pattern]:
            return None
        if any(matching[pattern] for pattern in witness.among.patterns):
            return None
        formulas.append(witness.among.formula)
    return both(*formulas)


def _turned(formula: Formula) -> Formula:
    """The negation of a formula of one place at most."""
    return FALSE if formula == TRUE else holds(formula[0][0], not formula[0][1])


def _less(high: int | None, other: int) -> int:
    return other if high is None else min(high, other)


def _is_anything(shapes: list[Shape]) -> bool:
    """Whether all types are allowed, and containers of anything among them."""
    bare = {shape.changed(typed=False, about=False) for shape in shapes}
    return {Array(), Object()} <= bare and len(bare) >= len(EVERY)
