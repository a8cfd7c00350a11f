"""What the automata tests share: a real vocabulary, a small one, and random walks through an automaton."""

import json
import random
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import mistral_common
import numpy as np
import pytest

from perstep.automata import Dfa, Vocabulary


@pytest.fixture(scope="session")
def tekken() -> Vocabulary:
    """The 131,072 tokens that mistral-common carries."""
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer

    folder = Path(mistral_common.__file__).parent / "data"
    return Vocabulary.from_tekken(Tekkenizer.from_file(folder / "tekken_240911.json"))


@pytest.fixture(scope="session")
def tekken_4096(tekken: Vocabulary) -> Vocabulary:
    """The first 4,096 tokens of it that keep every byte."""
    return tekken.first(4096)[0]


@pytest.fixture(scope="session")
def conjugation() -> dict[str, Any]:
    """The schema that is measured by default."""
    schema: dict[str, Any] = json.loads((files("perstep") / "data" / "conjugation_schema.json").read_text())
    return schema


@pytest.fixture(scope="session")
def byte_vocabulary() -> Vocabulary:
    """Every byte as a token, some longer ones, a special id and an end of sequence."""
    longer = [b"ab", b"abc", b'": ', b', "', b"tr", b"true", b"12", b"00", "é".encode(), "é".encode()[:1] + b"\xa9x"]
    return Vocabulary([*(bytes([b]) for b in range(256)), *longer, None, None], special_ids=[266], eos_ids=[267])


@pytest.fixture(scope="session")
def walk() -> Callable[[Dfa, random.Random, int], bytes]:
    """A random string of an automaton's language; after `wander` bytes it goes for the nearest end."""

    def sample(dfa: Dfa, rng: random.Random, wander: int) -> bytes:
        distance = _distance(dfa)
        state, out = dfa.start, bytearray()
        while not (
            dfa.accepting[state] and (len(out) >= wander or rng.random() < 0.2 or not dfa.transitions[state].any())
        ):
            live = np.flatnonzero(dfa.transitions[state])
            if len(out) >= wander:
                live = live[distance[dfa.transitions[state, live]] == distance[dfa.transitions[state, live]].min()]
            chosen = rng.choice(live.tolist())
            out.append(rng.choice(np.flatnonzero(dfa.byte_class == chosen).tolist()))
            state = int(dfa.transitions[state, chosen])
        return bytes(out)

    return sample


def _distance(dfa: Dfa) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The fewest bytes from each state to acceptance."""
    far = np.int64(1 << 40)
    distance = np.where(dfa.accepting, 0, far)
    distance[0] = far
    while True:
        nearer = np.minimum(distance, distance[dfa.transitions].min(axis=1) + 1)
        nearer[0] = far
        if (nearer == distance).all():
            return distance
        distance = nearer
