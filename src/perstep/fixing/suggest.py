"""What could replace which part of a ledger, and how much that can win at most: `perstep.suggest`.

The bound of a decode step is the part itself: nothing that replaces it can win more than all of it, if what runs beside
it costs what it did. On a device a step that waits for the host can win that wait, in whatever part it lies, by being
one captured graph. What comes once a call, set-up above all, is not in a ledger of decode steps (`at_most` has both).
Names are all that a ledger has, so classes of transformers are recognised for certain and your own are not; `perstep
fix` tries the drop-ins on what yours did in a recorded run.
"""

from dataclasses import dataclass
from typing import Final

from perstep._shown import html
from perstep.errors import InputError
from perstep.experiments.device.stream import DeviceLedger
from perstep.measure import FORWARD, RESIDUAL, Ledger, belongs
from perstep.report import Column, Table
from perstep.report.format import percent, time_unit
from perstep.report.table import time_column

EXACT: Final[dict[str, str]] = {
    "logits/TopPLogitsWarper": "perstep.fast.TopP",
    "logits/TopKLogitsWarper": "perstep.fast.TopK",
    "logits/MinPLogitsWarper": "perstep.fast.MinP",
    "logits/TypicalLogitsWarper": "perstep.fast.TypicalP",
    "logits/SuppressTokensLogitsProcessor": "perstep.fast.SuppressTokens",
    "logits/NoBadWordsLogitsProcessor": "perstep.fast.BadWords",
    "logits/SequenceBiasLogitsProcessor": "perstep.fast.SequenceBias",
    "logits/NoRepeatNGramLogitsProcessor": "perstep.fast.NoRepeatNGram",
    "logits/RepetitionPenaltyLogitsProcessor": "perstep.fast.RepetitionPenalty",
    "stop/StopStringCriteria": "perstep.fast.StopStrings",
}
"""A part that is a class of transformers -> the drop-in with the same tokens."""

LOOP: Final = ("inputs", "sample", "bookkeeping", "sync", "stop/MaxLengthCriteria", "stop/EosTokenCriteria")
"""The parts that are generate's own loop: `perstep.fast.decode` takes their place, and that of the residual."""
SETUP: Final = "setup"
"""The part of a prefill in which generate makes what its settings ask for."""
BETWEEN: Final = "between forwards"
WHOLE: Final = "the whole step"
"""What one captured CUDA graph takes the place of."""
DECODE: Final = "custom_generate=perstep.fast.decode"

_KEPT: Final = (
    "MaxTimeCriteria", "TemperatureLogitsWarper", "LogitNormalization", "MinLengthLogitsProcessor",
    "MinNewTokensLengthLogitsProcessor", "EpsilonLogitsWarper", "EtaLogitsWarper",
)  # fmt: skip
_LEAST = 0.002
"""Parts below this share of the step are not worth a line."""
_HOST_BOUND = 0.1
"""A device that waits for the host for this share of a step is worth a graph."""


@dataclass(frozen=True)
class Suggestion:
    """What could take the place of a part, or of several parts together.

    Attributes:
        part: its name in the ledger; `between forwards` for what generate's loop does itself, `the whole step` for all.
        parts: all names in the ledger that it takes away, `residual` among them.
        drop_in: what could take its place.
        certain: whether the part is known by its class to be what the drop-in replaces.
        share: of the step.
        most_ns: the most time per step that replacing it can save: all of it.
        most_speedup: a step of this ledger before over the step after, at most; a whole call may save more,
            where generate builds the part again in each call.
        note: what to know.
    """

    part: str
    parts: tuple[str, ...]
    drop_in: str
    certain: bool
    share: float
    most_ns: float
    most_speedup: float
    note: str


class Suggestions(list[Suggestion]):
    """Suggestions, the largest possible saving first; a notebook shows them as a table."""

    def tables(self) -> list[Table]:
        """One row a suggestion."""
        unit = time_unit(one.most_ns for one in self)
        columns: list[Column[Suggestion]] = [
            Column("part", lambda one: one.part, words=True),
            Column("what could replace it", lambda one: one.drop_in, words=True),
            Column("known by its class", lambda one: "yes" if one.certain else "no", words=True),
            time_column("at most", lambda one: one.most_ns, unit, per="/step"),
            Column("of the step", lambda one: one.share, percent),
            Column("speed-up at most", lambda one: one.most_speedup, "{:.2f}×".format),
            Column("note", lambda one: one.note, words=True),
        ]
        return [Table("What could replace which part", columns, self)]

    def _repr_html_(self) -> str | None:
        return html(self)


def suggest(ledger: Ledger, device: DeviceLedger | None = None) -> Suggestions:
    """Drop-ins for the parts of a ledger, the largest possible saving first.

    Args:
        ledger: of a watched or measured run, such as `perstep.watch` gives.
        device: the device's own ledger of the same calls, `w.device_ledger()`; None without a device.

    Raises:
        InputError: the ledger is invalid.

    Examples:
        >>> with perstep.watch(model) as w:  # doctest: +SKIP
        ...     model.generate(**inputs, top_p=0.9, do_sample=True)
        >>> perstep.suggest(w.ledger())[0].drop_in  # doctest: +SKIP
        'perstep.fast.TopP'
    """
    if ledger.invalid:
        raise InputError(f"the ledger is invalid, so nothing follows from it: {ledger.invalid}")
    suggestions = []
    for name in ledger.parts:
        offer = _offer(name)
        if offer is not None:
            suggestions.append(_suggestion(ledger, name, (name,), *offer))
    graph = None if device is None else _graph(ledger, device)
    loop = loop_parts(ledger)
    if graph is not None:
        suggestions.append(graph)
    elif loop:
        note = (
            "the same greedy tokens, sampling equal in distribution; it also saves transformers' inspection of"
            " each processor's signature, about 10 µs in the processor's part"
        )
        suggestions.append(_suggestion(ledger, BETWEEN, loop, DECODE, True, note))
    return Suggestions(sorted((one for one in suggestions if one.share >= _LEAST), key=lambda one: -one.most_ns))


def graph_at_most(ledger: Ledger, device: DeviceLedger) -> float:
    """What a step can win at most as one captured graph: the time over the time without the device's wait for the host.

    A graph leaves the kernels what they are.
    """
    idle = min(device.idle_ns_per_step / device.ledger.step_ns, 1.0)
    return 1 / max(1 - idle, 1e-9) if ledger.step_ns else 1.0


def _graph(ledger: Ledger, device: DeviceLedger) -> Suggestion | None:
    """The whole step in one graph, where the device waits for the host long enough."""
    share = min(device.idle_ns_per_step / device.ledger.step_ns, 1.0)
    if share < _HOST_BOUND:
        return None
    note = (
        "the device waits for the host at most this long; fast.decode replays the step as one CUDA graph, with "
        "perstep's processors and criteria inside, or says in fast.decode.last.why what prevents it"
    )
    parts = (*ledger.parts, RESIDUAL)
    return Suggestion(WHOLE, parts, DECODE, True, share, share * ledger.step_ns, graph_at_most(ledger, device), note)


def loop_parts(ledger: Ledger) -> tuple[str, ...]:
    """The parts of a ledger that are generate's own loop, the residual among them; none where it has no loop."""
    parts = tuple(name for name in ledger.parts if name in LOOP)
    return (*parts, RESIDUAL) if parts else ()


def bound(ledger: Ledger, parts: tuple[str, ...]) -> tuple[float, float, float]:
    """What some parts take together: nanoseconds a step, their share of it, and the step over the step without them.

    A part stands for those inside it too: `draft` for `draft.forward`, `setup` for `setup.criteria`.
    """
    chosen = [part for name, part in ledger.parts.items() if name in parts or name.split(".")[0] in parts]
    residual = RESIDUAL in parts
    ns = sum(part.ns for part in chosen) + (ledger.residual_ns if residual else 0)
    share = sum(part.share for part in chosen) + (ledger.residual_share if residual else 0)
    # Shares add up to 1 with the residual; parts that were all of it would leave nothing to divide by.
    return ns, share, 1 / max(1 - share, 1e-9)


def at_most(
    decode: Ledger,
    prefill: Ledger | None,
    new_tokens: int,
    parts: tuple[str, ...],
    *,
    gone: tuple[str, ...] = (),
    more_ns: float = 0.0,
    by_generate: bool = False,
) -> tuple[float, float | None]:
    """What replacing some parts of a call can win at most: of a decode step, and of the whole call.

    Both are the time before over the time after, if the parts took nothing and all else what it did: a bound as far as
    the ledgers are right and the parts do not slow down what comes after them, by emptying its caches for example.

    Args:
        decode: of the call's decode steps.
        prefill: of its prefill, `setup` and the choice of the first token among its parts; None where none was seen.
        new_tokens: of the call.
        parts: names in the ledgers.
        gone: parts that neither way has.
        more_ns: of each step, what goes with the parts and lies in others.
        by_generate: generate makes what is replaced, somewhere in `setup`.

    Returns:
        The step's ratio; the call's, or None without a prefill.
    """
    step_ns, won_ns = decode.step_ns - bound(decode, gone)[0], bound(decode, parts)[0] + more_ns
    step = step_ns / max(step_ns - won_ns, 1e-9 * step_ns)
    if prefill is None:
        return step, None
    once = (*parts, SETUP) if by_generate else parts
    call_ns = prefill.step_ns - bound(prefill, gone)[0] + (new_tokens - 1) * step_ns
    won_ns = bound(prefill, once)[0] + more_ns + (new_tokens - 1) * won_ns
    return step, call_ns / max(call_ns - won_ns, 1e-9 * call_ns)


def why_nothing(part: str) -> str:
    """Why nothing could take the place of a part for which there is no drop-in."""
    room, _, class_name = part.split("#")[0].partition("/")
    if belongs(part, FORWARD):
        return "the model itself"
    if room == "stream":
        return "the streamer's own work"
    if class_name in _KEPT:
        return "transformers' own; no drop-in"
    return "no known replacement"


def _suggestion(
    ledger: Ledger, part: str, parts: tuple[str, ...], drop_in: str, certain: bool, note: str
) -> Suggestion:
    ns, share, most = bound(ledger, parts)
    return Suggestion(part, parts, drop_in, certain, share, ns, most, note)


def _offer(name: str) -> tuple[str, bool, str] | None:
    """The drop-in for a part, whether it is certain, and a note; None where there is none, or it is the loop's."""
    plain = name.split("#")[0]
    if plain in EXACT:
        return EXACT[plain], True, "the same tokens"
    room, _, class_name = plain.partition("/")
    if class_name in _KEPT or plain in LOOP:
        return None
    if room == "logits" and class_name:
        note = "your own: `perstep fix` tries Utf8 and SuppressTokens on what it did; a grammar is for TokenMask"
        return "perstep.fast.Utf8, SuppressTokens or TokenMask", False, note
    if room == "stop" and class_name:
        return "perstep.fast.StopStrings or WordStop", False, "your own: `perstep fix` tries them on what it did"
    return None
