"""A grid: the file that says which cells a sweep has, read and checked before anything is made.

A cell is one plan of an experiment. Its key is the hash of that plan, so the same plan has the same key wherever and
whenever it is measured.
"""

import hashlib
import random
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from math import isfinite, prod
from pathlib import Path
from typing import Annotated, Any

import msgspec

from perstep._files import read_given
from perstep._words import plural
from perstep.errors import InputError
from perstep.experiments.command_line import AnyPlan, plan_from
from perstep.experiments.options import parse_counts
from perstep.sweeps.where import holds

Option = Any
"""A value as TOML has it: a number, a text, true or false, or a list of them."""
Scalar = bool | Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | float | str
EVERY = 10
"""Cells between two repetitions of the reference cell, where the grid does not say."""
_KEY_DIGITS = 12
_MOST_REPEATS = 1000
_LARGEST = 2**20
MOST_CELLS = 100_000
"""This number takes days on one machine, at hundreds of cells an hour; a longer list is a slip of the finger."""


class Grid(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a file of a grid says.

    Attributes:
        experiment: whose runs the cells are.
        grid: option -> its values, a list, or a range such as `8-1024*2`; every combination is a cell.
        options: option -> its one value in all cells.
        where: filters; a cell that fails one is left out.
        repeats: how often each cell is measured, in a block of its own each time.
        reference: option -> value of the cell that shows drift; those it does not name have their first value.
        reference_every: cells between two repetitions of it; 0 for none.
        figures: what the table shows of a cell: paths into its results.json, such as `decode.parts.mlp.ns`; without
            any, the numbers of its summary.
        seed: of the order.
    """

    experiment: str
    grid: dict[str, list[Option] | str]
    options: dict[str, Option] = {}
    where: list[str] = []
    repeats: int = 1
    reference: dict[str, Option] = {}
    reference_every: int = EVERY
    figures: list[str] = []
    seed: int = 0


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a sweep.

    Attributes:
        key: the plan's hash, and which repetition it is: `3f9c0d2b81aa.2`.
        position: in the order of the sweep, from 0.
        block: which repetition of the whole grid it belongs to, from 1.
        is_reference: whether it only shows drift, and is no cell of the grid.
        values: axis -> value.
        words: of the command that measures it, behind the experiment's name.
    """

    key: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{12}\.(ref)?[0-9]{1,9}\Z")]
    position: int
    block: int
    is_reference: bool
    values: dict[str, Scalar | list[Scalar]]
    words: list[str]

    @property
    def plan_hash(self) -> str:
        """What repetitions of one plan share."""
        return self.key.partition(".")[0]


@dataclass(frozen=True)
class Point:
    """A combination of values that passed the filters."""

    values: dict[str, Option]
    words: list[str]
    plan_hash: str
    plan: AnyPlan


def read_grid(path: Path) -> tuple[Grid, bytes]:
    """A grid and the bytes of its file.

    Raises:
        InputError: the file cannot be read, is no TOML, or says what a grid does not have.
    """
    try:
        raw = read_given(path, _LARGEST)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; give the TOML file of a grid") from error
    return parse_grid(raw, str(path)), raw


def parse_grid(raw: bytes, name: str) -> Grid:
    """The grid in the bytes of a file called `name`.

    Raises:
        InputError: as `read_grid`.
    """
    try:
        grid = msgspec.convert(tomllib.loads(raw.decode()), Grid)
    except msgspec.ValidationError as error:
        raise InputError(f"{name} is not a grid: {error}; docs/sweep.md shows one") from error
    except (ValueError, RecursionError) as error:  # ValueError: also a number of thousands of digits
        raise InputError(f"{name} is not TOML: {error}") from error
    _check(grid, name)
    return grid


def _check(grid: Grid, name: str) -> None:
    if not grid.grid or not all(grid.grid.values()):
        empty = next((axis for axis, values in grid.grid.items() if not values), "[grid]")
        raise InputError(f"{name}: {empty} is empty, so there is no cell; give at least one value")
    if not 1 <= grid.repeats <= _MOST_REPEATS or grid.reference_every < 0:
        raise InputError(
            f"{name}: repeats is {grid.repeats} and reference_every {grid.reference_every}; give 1 to "
            f"{_MOST_REPEATS:,}, and 0 or more"
        )
    if (cells := num_combinations(grid)) > MOST_CELLS:
        raise InputError(
            f"{name} has {plural(cells, 'cell')}, of at most {MOST_CELLS:,}; take fewer values, or several sweeps"
        )
    twice = [option for option in grid.options if _plain(option) in map(_plain, grid.grid)]
    if twice:
        raise InputError(f"{name}: {twice[0]} is in [grid] and in [options]; give it once")
    strange = [option for option in grid.reference if _plain(option) not in map(_plain, grid.grid)]
    if strange:
        raise InputError(f"{name}: [reference] names {strange[0]}, which is not in [grid]")


def axes(grid: Grid) -> dict[str, list[Option]]:
    """Axis -> its values, ranges written out.

    Raises:
        InputError: a range is none.
    """
    return {name: _values(name, values) for name, values in grid.grid.items()}


def _values(name: str, values: list[Option] | str) -> list[Option]:
    if isinstance(values, list):
        return values
    try:
        return list(parse_counts(values))
    except ValueError as error:
        raise InputError(f"{name}: {error}; a single text is a list of one: [{values!r}]") from error


def num_combinations(grid: Grid) -> int:
    """Cells at most: before filters, with repeats, without the reference cell."""
    return prod(len(values) for values in axes(grid).values()) * grid.repeats


def points(grid: Grid) -> Iterator[Point | None]:
    """The combinations in the order of the file, None for each one that a filter leaves out.

    Raises:
        InputError: an option is unknown or has a wrong value, or a filter is wrong.
    """
    named = axes(grid)
    fixed = words_of(grid.options)
    for combination in product(*named.values()):
        values = dict(zip(named, combination, strict=True))
        words = fixed + words_of(values)
        plan = plan_from(grid.experiment, words)
        shown = vars(plan) | {_plain(name): value for name, value in values.items()}
        passed = all(holds(text, shown) for text in grid.where)
        yield Point(values, words, hash_of(grid.experiment, plan), plan) if passed else None


def words_of(options: Mapping[str, Option]) -> list[str]:
    """Options as words of a command line.

    Raises:
        InputError: a value is neither a number, a text, true or false, nor a list of these.
    """
    words = []
    for name, value in options.items():
        for one in value if isinstance(value, list) else [value]:
            words += _words(name, one)
    return words


def _words(name: str, value: Option) -> list[str]:
    bare = name.strip("-").replace("_", "-")
    if isinstance(value, bool):
        return [f"--{bare}"] if value else []
    if not isinstance(value, str | int | float) or not bare or (isinstance(value, float) and not isfinite(value)):
        raise InputError(f"{name} = {value!r} is no value of an option; give a number, a text, or true or false")
    return [f"-{bare}", str(value)] if len(bare) == 1 else [f"--{bare}={value}"]


def hash_of(experiment: str, plan: AnyPlan) -> str:
    """The first digits of the SHA-256 of an experiment's name and of its plan with every default."""
    facts = [experiment, msgspec.to_builtins(plan, enc_hook=str)]
    return hashlib.sha256(msgspec.json.encode(facts, order="sorted")).hexdigest()[:_KEY_DIGITS]


def _plain(option: str) -> str:
    return option.strip("-").replace("-", "_")


def cells_of(grid: Grid, distinct: list[Point]) -> list[Cell]:
    """The cells in the order in which they are measured: in each block every point once, at random.

    The reference cell opens each block, comes again after every `reference_every` cells, and ends the last block.

    Args:
        grid: what the file says.
        distinct: its points, each plan once.

    Raises:
        InputError: no point is the reference cell.
    """
    rng = random.Random(grid.seed)  # noqa: S311 - an order, no secret
    reference = _reference(grid, distinct) if grid.reference_every else None
    cells: list[Cell] = []
    seen: dict[str, int] = {}

    def add(point: Point, block: int, *, is_reference: bool) -> None:
        name = point.plan_hash + (".ref" if is_reference else ".")
        seen[name] = seen.get(name, 0) + 1
        key = f"{name}{seen[name]}"
        cells.append(Cell(key=key, position=len(cells), block=block, is_reference=is_reference,
                         values=point.values, words=point.words))  # fmt: skip

    for block in range(1, grid.repeats + 1):
        for index, point in enumerate(rng.sample(distinct, len(distinct))):
            if reference is not None and index % grid.reference_every == 0:
                add(reference, block, is_reference=True)
            add(point, block, is_reference=False)
    if reference is not None:
        add(reference, grid.repeats, is_reference=True)
    return cells


def _reference(grid: Grid, distinct: list[Point]) -> Point:
    wanted = {_plain(name): value for name, value in grid.reference.items()}
    fitting = [
        point
        for point in distinct
        if all(value == wanted.get(_plain(name), value) for name, value in point.values.items())
    ]
    if not fitting:
        raise InputError(f"no cell of the grid is the reference cell {grid.reference}; name values that are in [grid]")
    return fitting[0]
