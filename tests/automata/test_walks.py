"""The ways to find what tokens do in a piece: each gives the same, which of them is taken is a matter of speed."""

import random
from typing import Any

import pytest

from perstep.automata import Vocabulary, mask

WAYS: dict[str, dict[str, int]] = {
    "one by one": {"_MOST_PROBES": 10**9, "_MOST_LIVE": 256},
    "by level": {"_MOST_LIVE": -1, "_MOST_CHILDREN": 10**9},
    "all at once": {"_MOST_LIVE": -1, "_MOST_CHILDREN": -1},
}
SCHEMAS: list[dict[str, Any]] = [
    {"type": "string", "pattern": "^[a-z]{2,5}$"},
    {"type": "array", "items": {"type": "string", "pattern": "^(ab*|[^a-d]+)$"}},
    {"type": "object", "propertyNames": {"pattern": "^(in|an)"}, "minProperties": 1},
]


@pytest.mark.parametrize("schema", SCHEMAS, ids=["length", "array", "keys"])
def test_all_ways_give_the_same_rows(
    schema: dict[str, Any], tekken_4096: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Along the same texts, over real tokens."""
    rows: dict[str, list[list[int]]] = {}
    for way, limits in WAYS.items():
        for name, value in limits.items():
            monkeypatch.setattr(f"perstep.automata.stack.walks.{name}", value)
        anew = Vocabulary(tekken_4096.tokens, special_ids=tekken_4096.special_ids, eos_ids=tekken_4096.eos_ids)
        found, rng = mask(anew, schema=schema, engine="stack"), random.Random(0)
        rows[way] = []
        for _ in range(4):
            state = found.start
            for _ in range(8):
                rows[way].append(found.allowed(state).tolist())
                among = [token for token in rows[way][-1] if token not in anew.eos_ids]
                if among:
                    state = found.next(state, rng.choice(among))
        monkeypatch.undo()
    assert rows["one by one"] == rows["by level"] == rows["all at once"]
    assert max(map(len, rows["by level"])) > 500
