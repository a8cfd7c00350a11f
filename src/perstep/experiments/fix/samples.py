"""What a run of `fix` keeps: the lines of its `samples.jsonl`, in the order in which they became known.

First every watched call; then for each line that called generate what was offered, the trials with their rounds, and
what to write. Everything that is shown follows from these.
"""

from typing import Any, Literal

import msgspec

from perstep.experiments import compare, watch

Tokens = Literal["the same", "equal in distribution", "differ", "not made"]
"""What became of a call's tokens. `equal in distribution`: as in the call's own loop with the same keyed noise."""


class Watched(msgspec.Struct, kw_only=True, tag="watched"):
    """A generate call of the script, as it was watched."""

    call: watch.Sample


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
    """

    parts: list[str]
    drop_in: str
    tokens: Tokens
    leans: bool = False
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
        dispatch_ns: what transformers' look at the signatures of all processors takes in a step.
        loop_is_fast: the call has `perstep.fast.decode` already.
        sampled: tokens are drawn.
        all_tokens: new tokens of the call.
    """

    site: str
    calls: int
    refused: str = ""
    tried: list[Tried] = []
    instead: dict[str, str] = {}
    dispatch_ns: float = 0.0
    loop_is_fast: bool = False
    sampled: bool = False
    all_tokens: int = 0


class Trial(msgspec.Struct, kw_only=True, tag="trial"):
    """Offers that are about to be timed against the call as it is.

    Attributes:
        site: the line.
        offers: places in `Offered.tried`.
        tokens: new tokens of every timed call.
        conditions: of the rounds.
    """

    site: str
    offers: list[int]
    tokens: int
    conditions: dict[str, Any]


class Round(msgspec.Struct, kw_only=True, tag="round"):
    """One balanced round of the last trial."""

    site: str
    round: compare.Sample


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
    """The unified diff of all files."""

    diff: str


Sample = Watched | Offered | Trial | Round | Written | Patch
