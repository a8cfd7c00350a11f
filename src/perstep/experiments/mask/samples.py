"""What a round of `mask` leaves on disk, and what its manifest holds."""

import msgspec

from perstep.experiments.conditions import ReplayedWorkload, RoundConditions
from perstep.experiments.mask.building import Build
from perstep.experiments.mask.curves import AboutPoint, Prediction
from perstep.experiments.mask.device import ArmOnDevice
from perstep.experiments.mask.roofline import AboutCell
from perstep.experiments.mask.vocabularies import AboutVocabulary
from perstep.machine import Noise
from perstep.machine.device_ceilings import DeviceCeilings
from perstep.measure import Steps
from perstep.runs import Column


class AboutLanguage(msgspec.Struct):
    """What the texts of a complexity are in: its automaton in words, and its size; None where there is none."""

    complexity: int
    automaton: str
    states: int | None
    fields: int


class LeftOut(msgspec.Struct, frozen=True):
    """A row of the table `not measured`.

    Attributes:
        vocab: a vocabulary's name, or `its curve` for fills against size.
        batch: sequences; None where it is of every batch.
        complexity: of the schema.
        engine: that is left out.
        why: in words.
    """

    vocab: str
    batch: int | None
    complexity: int
    engine: str
    why: str


class Conditions(RoundConditions, kw_only=True):
    """How `mask` measured.

    Attributes:
        cells: key -> what was counted about the cell.
        arms: key of a cell -> its arms.
        languages: a row a complexity.
        builds: what building the engines took.
        curves: key -> a point of the fills against size.
        left_out: what was not measured.
        vocabularies: that the cells are of.
        only_own: the grammar extra is not there, and no vocabulary was asked for.
        mark_ns: nanoseconds of a mark.
        rounds_wanted: rounds that the budget was divided by.
        predictions: of fills at sizes that were then measured.
        on_device: key of a cell -> arm -> what the device does in a step; empty on the cpu.
        device_ceilings: of the device; None on the cpu, and in runs of older versions.
    """

    cells: dict[str, AboutCell]
    arms: dict[str, list[str]]
    languages: list[AboutLanguage]
    builds: list[Build]
    curves: dict[str, AboutPoint]
    left_out: list[LeftOut]
    vocabularies: list[AboutVocabulary]
    only_own: bool
    mark_ns: float
    rounds_wanted: int
    predictions: list[Prediction]
    on_device: dict[str, dict[str, ArmOnDevice]] = msgspec.field(default_factory=dict)
    device_ceilings: DeviceCeilings | None = None


class Workload(ReplayedWorkload, kw_only=True):
    """The work of `mask`.

    Attributes:
        schema_sha256: of the JSON schema.
        schema: its title.
        whitespace: what is allowed between tokens of JSON, in a word or a regular expression.
        max_depth: how deep recursion goes; None where there is no limit.
        prompt_tokens: of each sequence.
        new_tokens: of each sequence.
        forwards: decode forwards in a pass.
        temperature: 0, since choices are greedy.
    """

    schema_sha256: str
    schema: str
    whitespace: str
    max_depth: int | None
    prompt_tokens: int
    new_tokens: int
    forwards: int
    temperature: float


class ArmRound(Steps, kw_only=True, eq=False):
    """Two passes of one arm over the trace of one cell, decode steps only: the instrumented steps, and the others.

    Attributes:
        plain_ns: uninstrumented steps.
        differing: choices that differ from what the definition of the mask leaves, in both passes.
        hot_fill_ns: fills of one row over the same trace with nothing between them; empty for no mask.
    """

    plain_ns: Column
    differing: int
    hot_fill_ns: Column


class Sample(msgspec.Struct):
    """One round over all cells.

    Attributes:
        round: its number.
        cells: cell -> arm -> what it took.
        curves: curve point -> fills at its positions, hot.
        noise: what disturbed the round.
        ceilings: what this machine did at best in it; empty without a batch of one, and in older runs.
    """

    round: int
    cells: dict[str, dict[str, ArmRound]]
    curves: dict[str, Column]
    noise: Noise
    ceilings: dict[str, float] = {}
