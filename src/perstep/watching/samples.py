"""The samples of `watch`: one a generate call. And what its manifest holds."""

from collections.abc import Sequence
from typing import Literal

import msgspec

from perstep.experiments.call_recorder import CallSteps
from perstep.experiments.conditions import BaseConditions, ModelWorkload
from perstep.experiments.sync_counts import SyncCounts
from perstep.machine import Noise
from perstep.targets.transformers import Compilation, GraphBreak
from perstep.targets.transformers.words import DECODE, PREFILL

KINDS = (DECODE, PREFILL)
NOT_COUNTED = "not counted"
"""How syncs were counted, where they were not."""


class Conditions(BaseConditions, kw_only=True):
    """How `watch` measured.

    Attributes:
        every: one block of four decode steps in every N blocks is recorded.
        detail: how far inside the forward.
        syncs: how they were counted, in words.
        warm_up: what there was, in words.
        mark_ns: nanoseconds of a mark.
    """

    every: int
    detail: str
    syncs: str
    warm_up: str
    mark_ns: float


class Workload(ModelWorkload, kw_only=True):
    """The work of `watch`: calls; dtypes and devices of several models are joined."""

    calls: int


class InsideLine(msgspec.Struct, frozen=True):
    """A source line of a part, over all calls that were looked into.

    Attributes:
        place: as `folder/file.py:12`.
        source: the line, without its strings and comments.
        ns: time in it and in what it calls of libraries.
        syncs: reads that wait for the device, or would.
        uploads: copies to the device.
    """

    place: str
    source: str
    ns: int
    syncs: int
    uploads: int


class Inside(msgspec.Struct, frozen=True):
    """One part by its own source lines, seen in steps that were not recorded.

    Attributes:
        part: its name in the ledger.
        traced: calls whose lines were timed.
        counted: calls whose syncs and uploads were counted.
        whole_ns: what the timed calls took, with the tracer.
        lines: of its own, and of the user's functions that it calls.
        notes: what the reader must know.
    """

    part: str
    traced: int
    counted: int
    whole_ns: int
    lines: list[InsideLine]
    notes: list[str]


class Sample(msgspec.Struct, kw_only=True):
    """One generate call, or one run of a loop.

    `steps` and `forwards` are all it made, or, if it broke off, those that were recorded. `kinds` is the host's time;
    `device_kinds` and `idle_kinds` are the device's, where there is one. `made_by` says what made it: `generate`,
    `loop` for a run of a loop written by hand, `steps` for those that a program names. Where `whole` is true no cache
    was used: the decode steps took in the whole text again. `prefills` counts the steps of that kind.
    `proposed` and `accepted` are the tokens of each draft of assisted decoding.
    `inside` is what was seen inside one part, of the whole program; the last call has it.
    `other_way` is how `fast.decode` does such a call unobserved, where that is not how it did this one.
    """

    site: str
    model: str
    device: str
    dtype: str
    finished: bool
    rows: int | None
    prompt_tokens: int | None
    new_tokens: int | None
    steps: int
    forwards: int
    kinds: dict[str, CallSteps]
    notes: list[str]
    noise: Noise
    syncs: dict[str, SyncCounts] = {}
    other_way: str = ""
    device_kinds: dict[str, CallSteps] = {}
    idle_kinds: dict[str, CallSteps] = {}
    made_by: Literal["generate", "loop", "steps"] = "generate"
    whole: bool = False
    prefills: int = 1
    proposed: list[int] = []
    accepted: list[int] = []
    compilations: list[Compilation] = []
    breaks: list[GraphBreak] = []
    inside: Inside | None = None


def by_site(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    """The calls of each line; where a line called several models, of each of them; runs of a loop are apart."""
    kinds: dict[str, set[tuple[str, str]]] = {}
    for sample in samples:
        kinds.setdefault(sample.site, set()).add((sample.model, sample.made_by))
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        several = len({model for model, _ in kinds[sample.site]}) > 1
        name = f"{sample.site} ({sample.model})" if several else sample.site
        if len({made_by for model, made_by in kinds[sample.site] if model == sample.model}) > 1:
            name += f" ({sample.made_by})"
        groups.setdefault(name, []).append(sample)
    return groups
