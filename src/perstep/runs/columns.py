"""Columns of whole numbers: lists in JSON, NumPy arrays in memory.

A round's line becomes arrays as soon as it is read, so that no more than one line of Python
integers is alive at a time: ten million numbers take 80 MB instead of 360 MB.
"""

from array import array
from collections.abc import Iterable, Mapping
from typing import TypeVar, get_origin

import msgspec
import numpy as np
from numpy.typing import NDArray

from perstep._json import Json
from perstep.errors import InputError

Column = NDArray[np.int64]
"""A field of a sample: one integer a step, shape [steps]."""

Sample = TypeVar("Sample")


def encode_sample(sample: object) -> bytes:
    """One round as JSON, without a newline; arrays become lists."""
    return msgspec.json.encode(sample, enc_hook=_to_list)


def sample_decoder(kind: type[Sample]) -> msgspec.json.Decoder[Sample]:
    """A decoder for rounds of this kind, whose `Column` fields become int64 arrays.

    A column that holds anything but whole numbers of 64 bits is a `msgspec.DecodeError`.
    """
    return msgspec.json.Decoder(kind, dec_hook=_to_column)


def refuse_unlike(rounds: Iterable[Mapping[str, Column | None]], what: str) -> None:
    """Check that rounds can be stacked: all have the columns of the first, and every column is as long as its first.

    Args:
        rounds: name -> column, of each round.
        what: they should share, for the message.

    Raises:
        InputError: one differs.
    """
    lengths = [{name: None if ns is None else len(ns) for name, ns in columns.items()} for columns in rounds]
    first = next(iter(lengths), {})
    length = next(iter(first.values()), None)
    for number, columns in enumerate(lengths):
        wrong = [name for name in first if columns.get(name) != length]
        if wrong or not length:
            raise InputError(
                f"the rounds do not all hold the same {what} ({', '.join(wrong) or 'nothing'} of the pass number"
                f" {number + 1}); restore the file, or measure again"
            )


def _to_list(value: object) -> Json:
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise NotImplementedError(f"a sample holds a {type(value).__name__}, which has no form in JSON")


def _to_column(kind: type, value: Json) -> Column:
    if get_origin(kind) is not np.ndarray:
        raise NotImplementedError(f"samples hold no {kind}")
    try:
        # array() refuses floats and strings and is twice as fast as np.array on a list.
        return np.frombuffer(array("q", value), np.int64)
    except (TypeError, OverflowError) as error:
        raise ValueError(f"a column must hold whole numbers: {error}") from None
