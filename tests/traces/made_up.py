"""Made-up Chrome traces, written as Kineto writes them; times in microseconds."""

import gzip
import json
from pathlib import Path
from typing import Any

from perstep.measure.device_rows import Row, is_launch

HOST, MAIN = 41, 410
"""Process and thread of the host."""

Event = dict[str, Any]


def event(cat: str, name: str, start: float, duration: float, **more: Any) -> Event:
    """A complete event of the host's main thread, unless told otherwise; what is no field is an argument."""
    fields = {key: more.pop(key) for key in ("pid", "tid") if key in more}
    made = {"ph": "X", "cat": cat, "name": name, "pid": HOST, "tid": MAIN, "ts": start, "dur": duration, **fields}
    return {**made, "args": {key.replace("_", " "): value for key, value in more.items()}}


def annotation(name: str, start: float, end: float, **more: Any) -> Event:
    """A `record_function` range."""
    return event("user_annotation", name, start, end - start, **more)


def op(name: str, start: float, end: float, **more: Any) -> Event:
    """An operator."""
    return event("cpu_op", name, start, end - start, **more)


def launch(number: int, at: float, call: str = "cudaLaunchKernel", **more: Any) -> Event:
    """A call of the runtime."""
    return event("cuda_runtime", call, at, 1, correlation=number, **more)


def kernel(number: int, start: float, end: float, name: str = "k", *, device: int = 0, stream: int = 7) -> Event:
    """Work on a device; number 0 leaves the correlation out."""
    known = {"correlation": number} if number else {}
    return event("kernel", name, start, end - start, pid=device, tid=stream, device=device, stream=stream, **known)


def write(path: Path, events: list[Event], **beside: Any) -> Path:
    """A trace as a file, packed if its name ends in .gz."""
    text = json.dumps({"schemaVersion": 1, **beside, "traceEvents": events, "traceName": path.name}, indent=1)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def chrome(rows: list[Row]) -> list[Event]:
    """Stored Kineto rows as Kineto writes them into a Chrome trace, decimals of a microsecond included."""
    made = []
    for row in rows:
        times = row.start_ns / 1000, row.duration_ns / 1000
        if row.on_host and row.name.startswith("perstep:"):
            made.append(event("user_annotation", row.name, *times, External_id=row.correlation))
        elif row.on_host and is_launch(row.name):
            made.append(event("cuda_runtime", row.name, *times, correlation=row.correlation))
        elif row.on_host:
            made.append(event("cpu_op", row.name, *times, External_id=row.correlation))
        elif row.name.startswith("perstep:"):
            made.append(event("gpu_user_annotation", row.name, *times, pid=row.device, tid=row.stream))
        else:
            cat = {"Memc": "gpu_memcpy", "Mems": "gpu_memset"}.get(row.name[:4], "kernel")
            made.append(event(cat, row.name, *times, pid=row.device, tid=row.stream, device=row.device,
                              stream=row.stream, correlation=row.correlation))  # fmt: skip
    return made
