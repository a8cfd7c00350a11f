"""Chrome's trace JSON, which Perfetto opens: steps as slices, their parts as slices inside them.

A run keeps durations and no time of day, so steps are laid end to end in the order in which they ran;
what lay between them (switches of arms, the discarded first steps) is not there. Inside a step, parts stand in
the ledger's order with repeated ones joined, the residual last. All of this is said in the file's
`otherData`. Source: the Trace Event Format, complete events (`ph` X), `ts` and `dur` in microseconds.
"""

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from perstep._json import Json
from perstep.report.export.source import Measured, Source

DEFAULT_ROUNDS = 5
"""A round of 64 tokens has about two thousand slices; viewers are slow from a few hundred thousand on."""

_PROCESS = 1
_ARMS = {"plain": "steps without instruments", "marked": "instrumented steps"}

_NOTES = {
    "time": "steps are laid end to end in the order in which they ran; the time between them was not kept",
    "order": "inside a step, parts stand in the ledger's order, repeated ones are joined, and the residual comes last",
}


def to_chrome_trace(source: Source) -> Iterator[bytes]:
    """The rounds as a trace, a piece a round."""
    manifest, rounds = source.manifest, list(source.timeline())
    other = {
        "perstep_version": manifest.perstep_version,
        "run": source.name,
        "subject": source.subject,
        "rounds": f"the first {len(source.rounds)} of {source.rounds_measured}",
        "started_at": manifest.started_at,
        **_NOTES,
        **{f"workload_{name}": value for name, value in manifest.workload.items()},
    }
    threads = tracks(rounds)
    yield b'{"displayTimeUnit":"ns","otherData":' + msgspec.json.encode(other) + b',"traceEvents":[\n'
    yield b",\n".join(msgspec.json.encode(event) for event in _names(source, threads))
    now_ns = 0
    for measured in rounds:
        for one in measured:
            events = list(_slices(one, threads[one.track], now_ns))
            yield b"".join(b",\n" + msgspec.json.encode(event) for event in events)
            now_ns += one.ns
    yield b"\n]}\n"


def tracks(rounds: Sequence[Sequence[Measured]]) -> dict[str, int]:
    """The number of each track, those of a ledger's arms first and the others as they come."""
    names = [name for name in _ARMS if any(one.track == name for measured in rounds for one in measured)]
    names += [one.track for measured in rounds for one in measured]
    return {name: number for number, name in enumerate(dict.fromkeys(names), start=1)}


def in_words(track: str) -> str:
    """What a track is called."""
    return _ARMS.get(track, track)


def _names(source: Source, threads: Mapping[str, int]) -> list[dict[str, Json]]:
    process = {"name": "process_name", "ph": "M", "pid": _PROCESS, "args": {"name": f"perstep: {source.subject}"}}
    named = [
        {"name": "thread_name", "ph": "M", "pid": _PROCESS, "tid": tid, "args": {"name": in_words(track)}}
        for track, tid in threads.items()
    ]
    return [process, *named]


def _slices(one: Measured, thread: int, now_ns: int) -> Iterator[dict[str, Json]]:
    """The slices of a duration that begins at `now_ns`: the whole, and its parts."""
    yield _slice(one.name, one.kind, thread, now_ns, one.ns, one.where)
    for name, part_ns in one.parts.items():
        if part_ns:
            yield _slice(name, one.kind, thread, now_ns, part_ns)
        now_ns += part_ns


def _slice(
    name: str, kind: str, thread: int, begin_ns: int, ns: int, args: Mapping[str, int] | None = None
) -> dict[str, Json]:
    event: dict[str, Json] = {"name": name, "cat": kind, "ph": "X", "pid": _PROCESS, "tid": thread}
    event |= {"ts": begin_ns / 1e3, "dur": ns / 1e3}
    return event if args is None else {**event, "args": dict(args)}
