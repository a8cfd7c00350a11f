"""speedscope's evented JSON: a profile a track, steps as frames that open and close, their parts inside them.

As in `chrome_trace.py` durations are laid end to end, here on each track by itself. Source: speedscope's file format,
https://www.speedscope.app/file-format-schema.json (`evented`: events `O` and `C` with a frame and a time).
"""

from collections.abc import Iterator

import msgspec

from perstep._json import Json
from perstep.report.export.chrome_trace import in_words, tracks
from perstep.report.export.source import Measured, Source

SCHEMA = "https://www.speedscope.app/file-format-schema.json"


def to_speedscope(source: Source) -> Iterator[bytes]:
    """The rounds as profiles, in one piece: each has its end before its events."""
    rounds = list(source.timeline())
    frames: dict[str, int] = {}
    profiles = [_profile(track, [one for some in rounds for one in some if one.track == track], frames)
                for track in tracks(rounds)]  # fmt: skip
    file = {
        "$schema": SCHEMA,
        "exporter": f"perstep@{source.manifest.perstep_version}",
        "name": f"{source.subject}, {source.name}",
        "activeProfileIndex": 0,
        "shared": {"frames": [{"name": name} for name in frames]},
        "profiles": profiles,
    }
    yield msgspec.json.encode(file) + b"\n"


def _profile(track: str, measured: list[Measured], frames: dict[str, int]) -> dict[str, Json]:
    events: list[Json] = []
    now_ns = 0
    for one in measured:
        whole = frames.setdefault(one.name, len(frames))
        events.append({"type": "O", "frame": whole, "at": now_ns})
        at_ns = now_ns
        for name, part_ns in one.parts.items():
            if part_ns:
                frame = frames.setdefault(name, len(frames))
                events.append({"type": "O", "frame": frame, "at": at_ns})
                events.append({"type": "C", "frame": frame, "at": at_ns + part_ns})
            at_ns += part_ns
        now_ns += one.ns
        events.append({"type": "C", "frame": whole, "at": now_ns})
    return {
        "type": "evented",
        "name": in_words(track),
        "unit": "nanoseconds",
        "startValue": 0,
        "endValue": now_ns,
        "events": events,
    }
