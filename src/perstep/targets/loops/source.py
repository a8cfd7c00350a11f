"""A line of somebody's source as a run keeps it: without its strings and comments, which may be anybody's text."""

import linecache
import tokenize
from functools import lru_cache

_HIDDEN = "…"
Span = tuple[int, int, str]
"""Columns of a line, and what stands in their place."""


def source_line(file: str, number: int) -> str:
    """A line of a file with each string as `…` and without its comment; empty where the file cannot be read.

    Args:
        file: as a code object names it.
        number: of the line, from 1.
    """
    line = linecache.getline(file, number).rstrip("\n")
    if not {"'", '"', "#"} & set(line):  # a line that runs and lies in a string has the string's end
        return line.strip()
    hidden = _hidden(tuple(linecache.getlines(file)))
    if hidden is None:
        return _HIDDEN
    for begin, end, shown in reversed(hidden.get(number, [])):
        line = line[:begin] + shown + line[end:]
    return line.strip()


@lru_cache(maxsize=16)
def _hidden(lines: tuple[str, ...]) -> dict[int, list[Span]] | None:
    """Line -> its strings and comments; None where this is no Python."""
    spans: dict[int, list[Span]] = {}
    depth, begun = 0, (1, 0)
    try:
        for token in tokenize.generate_tokens(iter([*lines, ""]).__next__):
            kind, begin = tokenize.tok_name[token.type], token.start
            if kind == "ERRORTOKEN" and token.string in ("'", '"'):  # a string without an end, up to Python 3.11
                return None
            if kind.endswith("STRING_START"):  # an f-string, from Python 3.12 on in pieces
                begun = begun if depth else begin
                depth += 1
                continue
            if kind.endswith("STRING_END"):
                depth -= 1
                kind, begin = "STRING", begun
            if not depth and kind in ("STRING", "COMMENT"):
                _add(spans, lines, begin, token.end, "" if kind == "COMMENT" else _HIDDEN)
    except (tokenize.TokenError, SyntaxError):
        return None
    return spans


def _add(
    spans: dict[int, list[Span]], lines: tuple[str, ...], begin: tuple[int, int], end: tuple[int, int], shown: str
) -> None:
    for number in range(begin[0], end[0] + 1):
        first = begin[1] if number == begin[0] else 0
        last = end[1] if number == end[0] else len(lines[number - 1].rstrip("\n"))
        spans.setdefault(number, []).append((first, last, shown))
