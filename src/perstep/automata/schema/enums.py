"""Listed texts as a tree with shared beginnings, so that 100,000 of them are one pass."""

from __future__ import annotations

import numpy as np

from perstep.automata.nfa import EXIT, NEVER, Block
from perstep.automata.trie import build_trie
from perstep.errors import InputError


def trie_block(texts: list[bytes], limit: int) -> Block:
    """One of `texts`.

    Raises:
        InputError: if they need too many states.
    """
    if not texts:
        return NEVER
    trie = build_trie(texts)
    if trie.num_nodes > limit:
        raise InputError(
            f"{len(texts):,} listed values make a tree of {trie.num_nodes:,} states, over the limit of "
            f"{limit:,}: list fewer, raise state_limit, or use an engine (llguidance)"
        )
    # Node 0, the root, is the entry; the others follow the exit.
    place = np.arange(1, trie.num_nodes + 1, dtype=np.int32)
    place[0] = 0
    symbols = trie.symbol[1:].astype(np.int32)
    edges = np.stack([place[trie.parent[1:]], symbols, symbols, place[1:]], axis=1)
    hops = np.stack([place[trie.ends], np.full(len(trie.ends), EXIT)], axis=1).astype(np.int32)
    return Block(trie.num_nodes + 1, edges, hops)
