"""A grid's file: which cells it has, in which order, and what is wrong with it."""

from typing import Any

import pytest

from perstep.errors import InputError
from perstep.sweeps.grid import Cell, cells_of, num_combinations, parse_grid, points
from perstep.sweeps.where import holds

LEDGER = """
experiment = "ledger"
{top}
[options]
model = "mini"
rounds = 2
[grid]
p = [16, 64]
batch = "1-4*2"
{below}
"""


def cells(top: str = "", below: str = "") -> list[Cell]:
    """The cells of the ledger's grid."""
    grid = parse_grid(LEDGER.format(top=top, below=below).encode(), "grid.toml")
    return cells_of(grid, [point for point in points(grid) if point is not None])


def test_every_combination_is_measured_once_in_each_block() -> None:
    """Ranges as on the command line; the order differs between blocks; equal plans have equal hashes."""
    found = [cell for cell in cells("repeats = 3") if not cell.is_reference]
    blocks = [[cell for cell in found if cell.block == block] for block in (1, 2, 3)]
    wanted = {(p, batch) for p in (16, 64) for batch in (1, 2, 4)}
    assert [{tuple(cell.values.values()) for cell in block} for block in blocks] == [wanted] * 3
    orders = [[cell.plan_hash for cell in block] for block in blocks]
    assert orders[0] != orders[1]
    assert len({cell.key for cell in found}) == 18
    assert len({cell.plan_hash for cell in found}) == 6
    assert [cell.position for cell in cells("repeats = 3")] == list(range(len(cells("repeats = 3"))))


def test_the_reference_cell_comes_first_in_between_and_last() -> None:
    """After every second cell here; its plan is that of the cell it names."""
    found = cells("reference_every = 2", "[reference]\nbatch = 4")
    assert [cell.is_reference for cell in found] == [1, 0, 0, 1, 0, 0, 1, 0, 0, 1]
    assert {tuple(cell.values.values()) for cell in found if cell.is_reference} == {(16, 4)}
    assert len({cell.key for cell in found}) == len(found)
    assert not any(cell.is_reference for cell in cells("reference_every = 0"))


def test_filters_leave_cells_out() -> None:
    """By the plan's fields, those with a default too."""
    found = cells('reference_every = 0\nwhere = ["prompt_tokens * batch <= 64", "new_tokens == 64 and batch != 2"]')
    assert {tuple(cell.values.values()) for cell in found} == {(16, 1), (16, 4), (64, 1)}


def test_the_key_is_the_plans_hash() -> None:
    """Options spelled in another way, or a default that is written out, make the same plan; another value does not."""
    grid = 'experiment = "ledger"\n[grid]\nbatch = [1]\n[options]\n'

    def key(options: str) -> str:
        (point,) = points(parse_grid((grid + options).encode(), "grid.toml"))
        assert point is not None
        return point.plan_hash

    assert key("p = 64\nn = 8") == key('prompt-tokens = 64\nnew_tokens = "8"\ntemperature = 0.0')
    assert key("p = 64\nn = 8") != key("p = 64\nn = 9")


def test_ten_million_cells_are_refused_without_being_made() -> None:
    """They are counted by multiplication; a hundred thousand are not too many."""
    text = 'experiment = "ledger"\nrepeats = 10\n[grid]\nseed = "1-10000"\nbatch = "1-{}"'
    with pytest.raises(InputError, match=r"grid\.toml has 10,000,000 cells, of at most 100,000; take fewer"):
        parse_grid(text.format(100).encode(), "grid.toml")
    assert num_combinations(parse_grid(text.format(1).encode(), "grid.toml")) == 100_000


WRONG: dict[str, tuple[str, str]] = {
    "no TOML": ("experiment =", "is not TOML"),
    "no experiment": ("[grid]\nbatch = [1]", "missing required field `experiment`"),
    "an unknown experiment": ('experiment = "lever"\n[grid]\nbatch = [1]', "no experiment 'lever'"),
    "a script": ('experiment = "watch"\n[grid]\nbatch = [1]', "measures a script"),
    "an empty grid": ('experiment = "ledger"\n[grid]', "is empty"),
    "an empty axis": ('experiment = "ledger"\n[grid]\nbatch = []', "batch is empty"),
    "an unknown option": ('experiment = "ledger"\n[grid]\nbotch = [1]', "botch"),
    "an unknown field": ('experiment = "ledger"\nrepeat = 2\n[grid]\nbatch = [1]', "unknown field `repeat`"),
    "a wrong value": ('experiment = "ledger"\n[grid]\nbatch = ["many"]', "batch"),
    "a fraction of a count": ('experiment = "ledger"\n[grid]\nbatch = [1.5]', "must be a whole number"),
    "no range": ('experiment = "ledger"\n[grid]\nmodel = "mini"', "'mini' is not a list of counts"),
    "no count": ('experiment = "ledger"\n[grid]\nbatch = [1, -1]', "--batch -1: it must be at least 1"),
    "a list of no counts": ('experiment = "output"\n[grid]\nnew-tokens = ["0,4"]', "--new-tokens 0: it must be at"),
    "no context": ('experiment = "cache"\n[grid]\ncontext = ["0,8"]', "--context 0: it must be at least 1"),
    "no size": ('experiment = "context"\n[grid]\nimage-size = [0]', "--image-size 0: it must be at least 1"),
    "no step": ('experiment = "mask"\n[grid]\nnew-tokens = [1]', "--new-tokens 1: it must be at least 2"),
    "no expert": ('experiment = "experts"\n[grid]\ntop-k = [0]', "--top-k 0: it must be at least 1"),
    "no block": ('experiment = "depth"\n[grid]\nnum-active-blocks = [0]', "--num-active-blocks 0: it must be at"),
    "a cold step": ('experiment = "ledger"\n[grid]\ntemperature = [-1.0]', "temperature must be 0 (greedy)"),
    "no token": ('experiment = "ops"\n[grid]\nseq = ["0,8"]', "--seq 0: it must be at least 1"),
    "less than nothing": ('experiment = "ops"\n[grid]\npast = [-1]', "--past -1: it must be at least 0"),
    "a date": ('experiment = "ledger"\n[grid]\nbatch = [2026-01-01]', "is no value of an option"),
    "an option twice": ('experiment = "ledger"\n[grid]\nnew-tokens = [1]\n[options]\nnew_tokens = 2', "give it once"),
    "a strange reference": ('experiment = "ledger"\n[grid]\nbatch = [1]\n[reference]\nseed = 1', "not in [grid]"),
    "another reference": ('experiment = "ledger"\n[grid]\nbatch = [1]\n[reference]\nbatch = 2', "no cell of the grid"),
    "no repeats": ('experiment = "ledger"\nrepeats = 0\n[grid]\nbatch = [1]', "repeats is 0"),
    "a filter of nothing": ('experiment = "ledger"\nwhere = ["botch < 1"]\n[grid]\nbatch = [1]', "no option 'botch'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_grid_is_refused_in_a_line(name: str) -> None:
    """It says what is wrong."""
    text, said = WRONG[name]

    def made() -> None:
        grid = parse_grid(text.encode(), "grid.toml")
        cells_of(grid, [point for point in points(grid) if point is not None])

    with pytest.raises(InputError) as caught:
        made()
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("batch < 2", True),
        ("1 <= batch < 1", False),
        ("not (batch == 1 or model == 'mini')", False),
        ("model in ['mini', 'maxi'] and batch % 2 == 1", True),
        ("arch == None", True),
        ("-batch + 3 // 2 * 2 / 2 > -1 and batch - 1 == 0", True),
        ("model not in ('a', 'b')", True),
    ],
)
def test_a_filter_is_computed(text: str, found: bool) -> None:
    """Comparisons, arithmetic, lists, and, or, not."""
    assert holds(text, {"batch": 1, "model": "mini", "arch": None}) is found


@pytest.mark.parametrize(
    "text",
    [
        "batch",
        "batch <",
        "__import__('os').system('true') == 0",
        "batch.real == 1",
        "(lambda: True)()",
        "[x for x in (1,)] == [1]",
        "9 ** 9 ** 9 > 1",
        "batch < 'one'",
        "batch / 0 == 1",
        "batch is None",
        "1 < " * 600 + "2",
        "f'{batch}' == '1'",
    ],
)
def test_a_filter_is_no_program(text: str) -> None:
    """Calls, attributes, powers and the like are refused, and so is what cannot be computed."""
    options: dict[str, Any] = {"batch": 1}
    with pytest.raises(InputError, match="the filter"):
        holds(text, options)
