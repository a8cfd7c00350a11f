"""Chrome's trace JSON, which Perfetto opens: steps as slices, their parts as slices inside them.

A run keeps durations and no time of day, so steps are laid end to end in the order in which they ran;
what lay between them (switches of arms, the discarded first steps) is not there. Inside a step, parts stand in
the ledger's order with repeated ones joined, the residual last. All of this is said in the file's
`otherData`. Source: the Trace Event Format, complete events (`ph` X), `ts` and `dur` in microseconds.
"""

from collections.abc import Iterator, Sequence

import msgspec

from perstep._json import Json
from perstep.measure import RESIDUAL, Steps
from perstep.report.export.source import Pass, Source, places

DEFAULT_ROUNDS = 5
"""A round of 64 tokens has about two thousand slices; viewers are slow from a few hundred thousand on."""

_PROCESS = 1
_THREADS = {"plain": (1, "steps without instruments"), "marked": (2, "instrumented steps")}

_NOTES = {
    "time": "steps are laid end to end in the order in which they ran; the time between them was not kept",
    "order": "inside a step, parts stand in the ledger's order, repeated ones are joined, and the residual comes last",
}


def to_chrome_trace(source: Source) -> Iterator[bytes]:
    """The rounds as a trace, a piece a round."""
    manifest, rounds = source.manifest, source.passes()
    other = {
        "perstep_version": manifest.perstep_version,
        "run": source.name,
        "subject": source.subject,
        "rounds": f"the first {len(source.rounds)} of {source.rounds_measured}",
        "started_at": manifest.started_at,
        **_NOTES,
        **{f"workload_{name}": value for name, value in manifest.workload.items()},
    }
    yield b'{"displayTimeUnit":"ns","otherData":' + msgspec.json.encode(other) + b',"traceEvents":[\n'
    yield b",\n".join(msgspec.json.encode(event) for event in _names(source))
    now_ns = 0
    for number, passes in enumerate(rounds):
        events, now_ns = _round(passes, number, now_ns)
        yield b"".join(b",\n" + msgspec.json.encode(event) for event in events)
    yield b"\n]}\n"


def _names(source: Source) -> list[dict[str, Json]]:
    process = {"name": "process_name", "ph": "M", "pid": _PROCESS, "args": {"name": f"perstep: {source.subject}"}}
    threads = [
        {"name": "thread_name", "ph": "M", "pid": _PROCESS, "tid": tid, "args": {"name": name}}
        for tid, name in _THREADS.values()
    ]
    return [process, *threads]


def _round(passes: Sequence[Pass], number: int, now_ns: int) -> tuple[list[dict[str, Json]], int]:
    """The events of a round that begins at `now_ns`, and when it ends."""
    events: list[dict[str, Json]] = []
    for place, replay in enumerate(passes):
        for kind, position, columns, index in _in_order(replay):
            thread, _ = _THREADS["marked" if columns.residual_ns.size else "plain"]
            step_ns, where = int(columns.step_ns[index]), {"round": number, "pass": place, "position": position}
            events.append(_slice(f"{kind} step", kind, thread, now_ns, step_ns, where))
            events += _parts(kind, columns, index, thread, now_ns)
            now_ns += step_ns
    return events, now_ns


def _in_order(replay: Pass) -> list[tuple[str, int, Steps, int]]:
    """The steps of a pass as they ran: kind, position, the columns they are in and where in them."""
    found = []
    for kind, columns in replay.kinds.items():
        of, at = places(replay, kind)
        found += [(of, position, columns, index) for index, position in enumerate(at)]
    kinds = list(dict.fromkeys(kind for kind, *_ in found))
    return sorted(found, key=lambda step: (kinds.index(step[0]), step[1]))


def _parts(kind: str, columns: Steps, index: int, thread: int, now_ns: int) -> Iterator[dict[str, Json]]:
    if not columns.residual_ns.size:
        return
    for name, ns in {**columns.parts, RESIDUAL: columns.residual_ns}.items():
        part_ns = int(ns[index])
        if part_ns:
            yield _slice(name, kind, thread, now_ns, part_ns)
        now_ns += part_ns


def _slice(
    name: str, kind: str, thread: int, begin_ns: int, ns: int, args: dict[str, int] | None = None
) -> dict[str, Json]:
    event = {"name": name, "cat": kind, "ph": "X", "pid": _PROCESS, "tid": thread}
    event |= {"ts": begin_ns / 1e3, "dur": ns / 1e3}
    return event if args is None else {**event, "args": args}
