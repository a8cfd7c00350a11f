"""What a run of `fix` keeps: the lines of its `samples.jsonl`, in the order in which they became known.

First every watched call; then for each line that called generate what was offered, the trials with their rounds, and
what to write. Everything that is shown follows from these, and from what the manifest holds.
"""

from typing import Literal

import msgspec

from perstep.experiments.compare.samples import Conditions as RoundConditions
from perstep.experiments.compare.samples import Sample as ComparedRound
from perstep.experiments.conditions import BaseConditions, ModelWorkload
from perstep.watching.samples import Sample as WatchedCall

Tokens = Literal["the same", "equal in distribution", "differ", "not made"]
"""What became of a call's tokens. `equal in distribution`: as in the call's own loop with the same keyed noise."""

RIGHT: tuple[Tokens, ...] = ("the same", "equal in distribution")
"""Tokens with which an offer may be used."""


class Conditions(BaseConditions, kw_only=True):
    """How `fix` measured.

    Attributes:
        discarded: what is run and not kept, in words.
        copies: what is copied between the calls, in words.
        drop_ins: when they are made, in words.
        threshold: T of `same (within ±T)`, a share.
        mark_ns: nanoseconds of a mark, where calls were watched.
    """

    discarded: str
    copies: str
    drop_ins: str
    threshold: float
    mark_ns: float


class Workload(ModelWorkload, kw_only=True):
    """The work of `fix`: a script and its arguments; dtypes and devices of several models are joined."""

    script: str
    arguments: list[str]


class Watched(msgspec.Struct, kw_only=True, tag="watched"):
    """A generate call of the script, as it was watched."""

    call: WatchedCall


class Tried(msgspec.Struct, kw_only=True):
    """One offer and what became of the tokens.

    Attributes:
        parts: the names in the ledger of what it replaces; `between forwards` for generate's own loop.
        drop_in: how it is written; for the user, not cut.
        tokens: over the whole call.
        evidence: why it is the same.
        refused: why it is not used, where the tokens do not say it; or empty.
        instead: what dropping the check would lose, and what a check at the end costs; empty where it is no check.
        leans: it works beside the other offers alone, so that it cannot be timed by itself.
        by_generate: generate itself makes what it replaces, so that this making is a part of the call.
        captured: its decode steps were replayed CUDA graphs, so that it replaces launches in every part.
        forwards: that the call makes with a draft, where the offer is to leave the draft out.
    """

    parts: list[str]
    drop_in: str
    tokens: Tokens
    leans: bool = False
    by_generate: bool = False
    captured: bool = False
    forwards: int = 0
    evidence: str = ""
    refused: str = ""
    instead: str = ""


class Offered(msgspec.Struct, kw_only=True, tag="offered"):
    """What could replace the parts of the first call of a line.

    Attributes:
        site: the line.
        calls: made from it.
        refused: why the call could not be made again, or empty.
        tried: the offers.
        instead: for a part without an offer, what dropping it would lose.
        reasons: for a part without an offer, why there is none.
        shared: what could not be copied, and is the same object in every repeat of the call.
        streams: the call has a streamer, which its repeats do not have.
        dispatch_ns: what transformers' look at the signatures of all processors takes in a step.
        loop_is_fast: the call has `perstep.fast.decode` already.
        sampled: tokens are drawn.
        all_tokens: new tokens of the call.
        beams: of each prompt, where there are several.
    """

    site: str
    calls: int
    refused: str = ""
    tried: list[Tried] = []
    instead: dict[str, str] = {}
    reasons: dict[str, str] = {}
    shared: list[str] = []
    streams: bool = False
    dispatch_ns: float = 0.0
    loop_is_fast: bool = False
    sampled: bool = False
    all_tokens: int = 0
    beams: int = 1


class Clash(msgspec.Struct, kw_only=True, tag="clash"):
    """An offer that gives the call's tokens alone, and others beside other offers: it is not used.

    Attributes:
        site: the line.
        offer: its place in `Offered.tried`.
        beside: the places of the others, which give the tokens together.
    """

    site: str
    offer: int
    beside: list[int]


class Trial(msgspec.Struct, kw_only=True, tag="trial"):
    """Offers that are about to be timed.

    Attributes:
        site: the line.
        offers: places in `Offered.tried`; the second arm has them, the first has not.
        beside: places of the offers that both arms have.
        tokens: new tokens of every timed call.
        conditions: of the rounds.
    """

    site: str
    offers: list[int]
    beside: list[int] = []
    tokens: int
    conditions: RoundConditions


class Round(msgspec.Struct, kw_only=True, tag="round"):
    """One balanced round of the last trial; a turn's block is its whole calls, with what their lines make.

    Attributes:
        site: the line.
        round: the turns.
        decode_ns: of each turn's block, what the decode steps took; empty where they could not be told apart.
        making_ns: of each turn's block, what making the drop-ins took.
    """

    site: str
    round: ComparedRound
    decode_ns: list[int] = []
    making_ns: list[int] = []


class Written(msgspec.Struct, kw_only=True, tag="written"):
    """What to write into the source.

    Attributes:
        site: the line.
        chosen: places in `Offered.tried`.
        lines: arguments of the call, ready to be copied.
        imports: lines to have at the top of the file.
        by_hand: why there is no diff, or empty.
    """

    site: str
    chosen: list[int]
    lines: list[str] = []
    imports: list[str] = []
    by_hand: str = ""


class Patch(msgspec.Struct, kw_only=True, tag="patch"):
    """The unified diff of all files.

    Attributes:
        diff: for `patch -p1` or `git apply`.
        folder: where it is to be applied, if not where the script was run; else empty.
    """

    diff: str
    folder: str = ""


Sample = Watched | Offered | Clash | Trial | Round | Written | Patch
"""A line of samples.jsonl."""
