"""A round of an ablation, as it lies on disk, and what the manifest holds."""

import msgspec

from perstep.experiments.conditions import WarmConditions
from perstep.machine import Noise
from perstep.runs import Column


class ColdCell(msgspec.Struct):
    """The first pass over the calls, compilation included, measured once.

    Attributes:
        ns: of the calls together.
        graphs: compiled.
        graph_breaks: places where the compiler gave up and went on behind them.
        recompilations: compiled again because a guard failed, such as another shape.
    """

    ns: int
    graphs: int
    graph_breaks: int
    recompilations: int


class Conditions(WarmConditions, kw_only=True):
    """How an ablation measured.

    Attributes:
        parts: name -> `processor` or `criterion`.
        in_ledger: name -> its part in a ledger.
        forwards: cell -> forwards of a pass.
        calls: of a pass.
        turns_per_round: of each cell, one a call.
        steps_per_pass: over all calls.
        context: tokens in the context at each step of a pass.
        changed_choices: cell -> tokens that it would have chosen otherwise, of a pass.
        choices: tokens of a pass.
        syncs_per_step: part in the ledger -> syncs.
        device: of the model, as torch spells it.
        compiled: the compiler's backend; None without one.
        cold: cell -> its first pass; None without a compiler.
        timed: what a turn is, in words.
        notes: sentences below the tables.
        compiled_again_when_warm: frames compiled in the warm rounds; 0 without a compiler.
    """

    parts: dict[str, str]
    in_ledger: dict[str, str]
    forwards: dict[str, int]
    calls: int
    turns_per_round: int
    steps_per_pass: int
    context: list[int]
    changed_choices: dict[str, int]
    choices: int
    syncs_per_step: dict[str, float]
    device: str
    compiled: str | None
    cold: dict[str, ColdCell] | None
    timed: str
    notes: list[str]
    compiled_again_when_warm: int = 0


class InPlace(msgspec.Struct):
    """The steps of one marked pass over the calls, prefills included, a column a part; integers in nanoseconds."""

    call_ns: int
    step_ns: Column
    parts: dict[str, Column]


class Sample(msgspec.Struct):
    """One round: every cell in a balanced block of turns, and the marked passes.

    Attributes:
        round: its number.
        ns: cell -> nanoseconds of all its turns together.
        unsteady: cell -> choices that differ from those it made in the same contexts when warming up.
        in_place: marked cell -> its steps.
        noise: what disturbed the round.
    """

    round: int
    ns: dict[str, int]
    unsteady: dict[str, int]
    in_place: dict[str, InPlace]
    noise: Noise
