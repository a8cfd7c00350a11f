"""Reads Chrome traces as torch's profiler (Kineto) writes them, also inside vLLM and SGLang: `.json` or `.json.gz`.

The file is read event by event, so that memory follows the number of events that are kept, not the size of the file.
What says nothing of a step is left out as it is read: stacks of Python functions other than modules, counters, flows.
Times are whole nanoseconds, taken from the decimals as they are written: a float of microseconds since 1970 is only
exact to 250 ns. Says what an event is, never where a step begins (`trace_steps`) or what a device did (`device_work`).
"""

import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from io import TextIOWrapper
from pathlib import Path
from typing import IO

from perstep._json import Json
from perstep.errors import InputError
from perstep.measure.device_rows import Row, is_launch

CHUNK = 1 << 20
"""Characters read at a time."""
LONGEST_EVENT = 1 << 24
"""Characters of one event, or of one fact beside the events; a longer one is no trace's."""
MOST_CHARACTERS = 4_000_000_000
"""Of a file, unpacked: a packed file may unpack to a thousand times its size."""
MOST_EVENTS = 4_000_000
"""Kept of a file: some 1.5 GB of memory."""
MOST_US = 4 * 10**15
"""Microseconds from which a number is no time: 127 years. Twice that still fits 64 bits in nanoseconds."""
MODULE = "nn.Module: "
"""Begins the name of a call of a module, which torch writes with `with_stack=True`."""

HOST, DEVICE = "CPU", "CUDA"
_SPACE = re.compile(r"[ \t\r\n]*")
_KINDS = {
    "user_annotation": "range",
    "cpu_op": "op",
    "operator": "op",
    "python_function": "module",
    "runtime": "call",
    "kernel": "work",
    "gpu_memcpy": "work",
    "memcpy": "work",
    "gpu_memset": "work",
    "memset": "work",
}
"""Categories, by what they are here; torch before 1.12 wrote the shorter ones. Those that end in `_runtime` or
`_driver` are calls. Device annotations, waits and the profiler's own overhead are not kept: they are no work."""


@dataclass
class ChromeTrace:
    """The events of a trace by what they are; each list in the order of the file.

    Attributes:
        ranges: `record_function` ranges and other annotations of the host.
        modules: calls of `nn.Module`s, named as torch does: `nn.Module: Linear_3`.
        ops: operators.
        launches: calls of the runtime that put work on a device.
        work: kernels, copies and fills.
        processes: thread -> its process, both as numbers in the order of their appearance.
        devices: number -> name, as far as the trace says.
        unreadable: events that lack a time or a name.
        unclosed: begins without an end, and ends without a begin.
    """

    ranges: list[Row] = field(default_factory=list)
    modules: list[Row] = field(default_factory=list)
    ops: list[Row] = field(default_factory=list)
    launches: list[Row] = field(default_factory=list)
    work: list[Row] = field(default_factory=list)
    processes: list[int] = field(default_factory=list)
    devices: dict[int, str] = field(default_factory=dict)
    unreadable: int = 0
    unclosed: int = 0


def read_chrome_trace(path: Path, progress: Callable[[float], None] = lambda _share: None) -> ChromeTrace:
    """The events of a trace.

    Args:
        path: of a JSON file, packed by gzip or not; either a list of events or an object with `traceEvents`.
        progress: called with the share of the file that has been read.

    Raises:
        InputError: there is no such file, it is no trace, it is cut off, or it is larger than any trace should be.
    """
    packed = _check(path)
    try:
        with path.open("rb") as raw:
            size = path.stat().st_size
            text = TextIOWrapper(gzip.GzipFile(fileobj=raw) if packed else raw, encoding="utf-8-sig", errors="replace")
            return _read(_Stream(text, path, lambda: progress(raw.tell() / size)), path)
    except RecursionError as error:
        raise InputError(f"{path}: JSON nested deeper than a trace ever is; give a torch Chrome trace") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: the packed file is damaged or cut off ({error}); write the trace again") from error


def _check(path: Path) -> bool:
    """Whether a file is packed by gzip."""
    if not path.is_file():
        raise InputError(f"{path}: {'not a file' if path.exists() else 'no such file'}; give a .json or .json.gz trace")
    with path.open("rb") as file:
        begins = file.read(2)
    if not begins:
        raise InputError(f"{path}: an empty file; give a torch Chrome trace")
    packed = begins == b"\x1f\x8b"
    if path.suffix == ".gz" and not packed:
        raise InputError(f"{path}: named .gz, but not packed by gzip; name it .json if it is JSON")
    return packed


class _Stream:
    """JSON values out of a text that is never in memory as a whole.

    Args:
        file: the text.
        path: for messages.
        before_reading: called each time before more is read.
    """

    def __init__(self, file: IO[str], path: Path, before_reading: Callable[[], None]) -> None:
        self._file, self._path, self._before_reading = file, path, before_reading
        self._text, self._at, self._before, self._ended = "", 0, 0, False
        # Decimals are kept as they are written: see the module.
        self._decode = json.JSONDecoder(parse_float=str).raw_decode

    def peek(self) -> str:
        """The next character that is no white space; nothing at the end."""
        while True:
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]  # it matches nothing, too
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def take(self, expected: str) -> None:
        """Pass over the next character, which must be this."""
        if self.peek() != expected:
            raise self.wrong(f"{expected!r} is missing")
        self._at += 1

    def value(self) -> Json:
        """The next value, whole."""
        self.peek()
        while True:
            try:
                value, end = self._decode(self._text, self._at)
            except ValueError as error:
                if len(self._text) - self._at > LONGEST_EVENT:
                    raise self.wrong(f"no valid JSON, or more than {LONGEST_EVENT:,} characters of it,") from error
                if not self._more():
                    raise self.wrong("no valid JSON, or the file is cut off,") from error
                continue
            # A number that ends where the text does may go on.
            if end == len(self._text) and self._more():
                continue
            self._at = end
            return value

    def wrong(self, what: str) -> InputError:
        """What to say of a place that is not as it should be."""
        cut = ", the file is cut off" if self._ended and self._at >= len(self._text) else ""
        return InputError(
            f"{self._path}: not a Chrome trace: {what} at character {self._before + self._at:,}{cut}; "
            "give what torch.profiler's export_chrome_trace writes"
        )

    def _more(self) -> bool:
        """Read on; whether there was anything."""
        self._before_reading()
        # Twice as much each time that one value is too long, so that it is not decoded anew too often.
        chunk = self._file.read(max(CHUNK, len(self._text) - self._at))
        if not chunk:
            self._ended = True
            return False
        self._before += self._at
        self._text, self._at = self._text[self._at :] + chunk, 0
        if self._before + len(self._text) > MOST_CHARACTERS:
            raise InputError(f"{self._path}: more than {MOST_CHARACTERS:,} characters; profile fewer steps")
        return True


def _read(stream: _Stream, path: Path) -> ChromeTrace:
    collected, has_events = _Collector(path), False
    if stream.peek() == "[":
        has_events = True
        for event in _items(stream):
            collected.take(event)
    else:
        for key in _keys(stream):
            if key == "traceEvents" and stream.peek() == "[":
                has_events = True
                for event in _items(stream):
                    collected.take(event)
                continue
            value = stream.value()
            if key == "deviceProperties":
                collected.take_devices(value)
    if not has_events:
        raise InputError(f"{path}: JSON, but no list of traceEvents; give what export_chrome_trace writes")
    if stream.peek():
        raise stream.wrong("something follows the trace")
    return collected.finished()


def _keys(stream: _Stream) -> Iterator[str]:
    """The keys of an object; each one's value must be read before the next."""
    stream.take("{")
    while stream.peek() != "}":
        key = stream.value()
        if not isinstance(key, str):
            raise stream.wrong("a key is no text")
        stream.take(":")
        yield key
        _comma(stream, "}")
    stream.take("}")


def _items(stream: _Stream) -> Iterator[Json]:
    """The items of a list."""
    stream.take("[")
    while stream.peek() != "]":
        yield stream.value()
        _comma(stream, "]")
    stream.take("]")


def _comma(stream: _Stream, end: str) -> None:
    if stream.peek() != end:
        stream.take(",")
        if stream.peek() == end:
            raise stream.wrong("a value is missing")


class _Collector:
    """Sorts events, and joins begins with their ends and launches with their kernels.

    Args:
        path: for messages.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._trace = ChromeTrace()
        self._into = {
            "range": self._trace.ranges, "module": self._trace.modules, "op": self._trace.ops,
            "call": self._trace.launches, "work": self._trace.work,
        }  # fmt: skip
        self._names: dict[str, str] = {}
        self._threads: dict[tuple[str, str], int] = {}
        self._processes: dict[str, int] = {}
        self._begun: dict[int, list[dict[str, Json]]] = {}
        self._flows: dict[tuple[str, str, int], int] = {}
        self._lacking: list[tuple[list[Row], int, tuple[str, str, int]]] = []
        self._correlated = False
        self._kept = 0

    def take(self, event: Json) -> None:
        """Keep an event, if it is of a kind that says something."""
        phase = event.get("ph") if isinstance(event, dict) else None
        if phase == "X":
            self._complete(event, _ns(event.get("ts")), _ns(event.get("dur", 0)))
        elif phase == "B":
            self._begun.setdefault(self._thread(event), []).append(event)
        elif phase == "E":
            self._end(event)
        elif phase in ("s", "f") and event.get("cat") == "ac2g" and not self._correlated:
            # The arrow from a launch to its kernel; where events carry the number themselves it says nothing new.
            start, number = _ns(event.get("ts")), event.get("id")
            if start is not None and isinstance(number, int):
                self._flows[(str(event.get("pid")), str(event.get("tid")), start)] = number
        elif phase is None:
            self._trace.unreadable += 1

    def take_devices(self, value: Json) -> None:
        """Keep the names of devices, as `deviceProperties` has them."""
        for one in value if isinstance(value, list) else ():
            if isinstance(one, dict) and isinstance(one.get("id"), int) and one.get("name"):
                self._trace.devices[one["id"]] = _printable(str(one["name"]))

    def finished(self) -> ChromeTrace:
        """The trace, once all events are taken."""
        self._trace.unclosed += sum(map(len, self._begun.values()))
        for rows, index, place in self._lacking:
            if place in self._flows:
                rows[index] = rows[index]._replace(correlation=self._flows[place])
        return self._trace

    def _end(self, event: dict[str, Json]) -> None:
        begun, ended = self._begun.get(self._thread(event)), _ns(event.get("ts"))
        if not begun:
            self._trace.unclosed += 1
            return
        began = begun.pop()
        start = _ns(began.get("ts"))
        self._complete(began, start, None if start is None or ended is None else ended - start)

    def _complete(self, event: dict[str, Json], start_ns: int | None, duration_ns: int | None) -> None:
        name, kind = event.get("name"), _kind(event)
        if kind is None or (kind == "module" and not str(name).startswith(MODULE)):
            return
        if not isinstance(name, str) or start_ns is None or duration_ns is None or duration_ns < 0:
            self._trace.unreadable += 1
            return
        if kind == "call" and not is_launch(name):
            return
        self._kept += 1
        if self._kept > MOST_EVENTS:
            raise InputError(f"{self._path}: more than {MOST_EVENTS:,} events that count; profile fewer steps")
        args = event.get("args")
        fields = self._names.get(name) or self._names.setdefault(name, _printable(name)), start_ns, duration_ns
        row = self._row(event, kind, fields, args if isinstance(args, dict) else {})
        self._into[kind].append(row)
        if kind in ("call", "work") and row.correlation <= 0:
            place = (str(event.get("pid")), str(event.get("tid")), start_ns)
            self._lacking.append((self._into[kind], len(self._into[kind]) - 1, place))

    def _row(self, event: dict[str, Json], kind: str, fields: tuple[str, int, int], args: dict[str, Json]) -> Row:
        name, start_ns, duration_ns = fields
        external, correlation = _number(args.get("External id")), _number(args.get("correlation"))
        self._correlated = self._correlated or correlation > 0
        if kind == "work":
            device = _number(args.get("device", event.get("pid")))
            stream = _number(args.get("stream", event.get("tid")))
            return Row(name, DEVICE, start_ns, duration_ns, max(correlation, 0), external, device, stream)
        thread = self._thread(event)
        process = self._trace.processes[thread]
        if kind == "call":
            # A number of its own where the trace gives none, so that no kernel is taken for this one's.
            own = correlation if correlation > 0 else -1 - len(self._trace.launches)
            return Row(name, HOST, start_ns, duration_ns, own, external, process, thread)
        return Row(name, HOST, start_ns, duration_ns, external, 0, process, thread)

    def _thread(self, event: dict[str, Json]) -> int:
        process, thread = str(event.get("pid")), str(event.get("tid"))
        number = self._threads.get((process, thread))
        if number is None:
            number = self._threads[(process, thread)] = len(self._threads)
            self._trace.processes.append(self._processes.setdefault(process, len(self._processes)))
        return number


def _kind(event: dict[str, Json]) -> str | None:
    """What an event is here; an annotation where it has no category, as in traces of other tools."""
    category = str(event.get("cat") or "user_annotation").lower()
    if category.endswith(("_runtime", "_driver")):
        return "call"
    return _KINDS.get(category)


def _printable(name: str) -> str:
    """A name as it may be shown in a terminal: what is no character there is a space."""
    return name if name.isprintable() else "".join(one if one.isprintable() else " " for one in name)


def _number(value: Json) -> int:
    """A whole number of the trace; 0 for none."""
    return value if isinstance(value, int) else 0


def _ns(microseconds: Json) -> int | None:
    """Whole nanoseconds of a number of microseconds, whose decimals are still text; None if it is none."""
    if isinstance(microseconds, int):
        return microseconds * 1000 if abs(microseconds) < MOST_US else None
    if not isinstance(microseconds, str):
        return None
    whole, _, decimals = microseconds.partition(".")
    if len(whole) <= 15 and len(decimals) <= 3 and whole.isdecimal() and decimals.isdecimal():
        return int(whole) * 1000 + int(decimals.ljust(3, "0"))
    try:
        exact = Decimal(microseconds)
    except InvalidOperation:
        return None
    # The exponent first: arithmetic with a huge one is an error of its own.
    small = exact.is_finite() and exact.adjusted() <= 15 and abs(exact) < MOST_US
    return round(exact * 1000) if small else None
