"""Token ids to begin with. Rows differ: each begins at another place."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from perstep.data import heldout_path, mini_path
from perstep.errors import InputError
from perstep.targets.reference.tokenizer import FolderTokenizer

Ids = NDArray[np.int64]


def same_rows(ids: Sequence[int], batch: int) -> Ids:
    """The ids of a text in every row, [batch, T].

    Raises:
        InputError: there are none.
    """
    if not ids:
        raise InputError("--prompt is empty: give a text of at least one token")
    return np.tile(np.asarray(ids, np.int64), (batch, 1))


def heldout_rows(num_tokens: int, batch: int, seed: int) -> Ids:
    """Sentences of the held-out set of `mini`, so that its choices mean something, [batch, num_tokens]."""
    text = heldout_path().read_text(encoding="utf-8")
    stream = np.asarray(FolderTokenizer(mini_path()).encode(text), np.int64)
    starts = np.random.default_rng([seed, 0]).integers(0, len(stream), batch)
    return np.stack([np.take(stream, np.arange(start, start + num_tokens), mode="wrap") for start in starts])


def drawn_rows(vocab: int, num_tokens: int, batch: int, seed: int, never: Sequence[int] = ()) -> Ids:
    """Ids drawn at random, [batch, num_tokens]: the cost of matrix work does not depend on them.

    Args:
        vocab: tokens of the vocabulary.
        num_tokens: of each row.
        batch: rows.
        seed: of the ids.
        never: ids that are not drawn.
    """
    allowed = np.setdiff1d(np.arange(vocab), never)
    return allowed[np.random.default_rng([seed, 0]).integers(0, len(allowed), (batch, num_tokens))]
