"""Columns of whole numbers: lists on disk, arrays in memory, nothing else."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perstep.runs import Column
from perstep.runs.columns import encode_sample, sample_decoder


class Held(msgspec.Struct, omit_defaults=True, eq=False):
    """A sample with columns."""

    ns: Column
    parts: dict[str, Column] = {}
    rest: Column | None = None


int64 = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=40)


@given(ns=int64, parts=st.dictionaries(st.text(max_size=4), int64, max_size=3), rest=st.none() | int64)
def test_columns_come_back_as_they_were(ns: list[int], parts: dict[str, list[int]], rest: list[int] | None) -> None:
    """As int64 arrays, whatever the numbers; a column that is missing stays missing."""
    columns = {name: np.array(x, np.int64) for name, x in parts.items()}
    raw = encode_sample(Held(np.array(ns, np.int64), columns, None if rest is None else np.array(rest, np.int64)))
    assert msgspec.json.decode(raw) == {
        "ns": ns,
        **({"parts": parts} if parts else {}),
        **({"rest": rest} if rest is not None else {}),
    }
    back = sample_decoder(Held).decode(raw)
    assert back.ns.dtype == np.int64
    assert back.ns.tolist() == ns
    assert {name: x.tolist() for name, x in back.parts.items()} == parts
    assert (None if back.rest is None else back.rest.tolist()) == rest


@pytest.mark.parametrize("bad", ["[1.5]", '["1"]', "[[1]]", "[null]", "5", '"ab"', "[9223372036854775808]", '{"a":1}'])
def test_anything_but_whole_numbers_of_64_bits_is_damage(bad: str) -> None:
    """It is refused where it stands, never rounded."""
    with pytest.raises(msgspec.DecodeError, match=r"\$\.ns"):
        sample_decoder(Held).decode(b'{"ns":' + bad.encode() + b"}")


def test_other_types_have_no_form() -> None:
    """A programming error is not hidden."""
    with pytest.raises(NotImplementedError, match="complex"):
        encode_sample({"x": 1j})

    class Odd(msgspec.Struct):
        x: complex

    with pytest.raises(NotImplementedError, match="complex"):
        sample_decoder(Odd).decode(b'{"x": 1}')
