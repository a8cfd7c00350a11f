"""A grammar that begins after a trigger: free text, then the grammar, as one automaton.

The seam lies inside tokens too, since it is made of bytes; compiled against a vocabulary it is a table like any
other. A trigger that is a special token has no bytes and cannot be one.
"""

from __future__ import annotations

import numpy as np

from perstep._words import plural
from perstep.automata.dfa import STATE_LIMIT, Dfa, minimal
from perstep.automata.stop import stop_strings
from perstep.errors import InputError


def after(trigger: str | bytes, grammar: Dfa, state_limit: int = STATE_LIMIT) -> Dfa:
    """Any text until `trigger` has occurred, and after its last byte a text of `grammar`.

    A token may contain the end of the trigger: it is allowed if its rest begins a text of the grammar. The text
    may also end without the trigger.

    Args:
        trigger: text (taken as UTF-8) or bytes; its first occurrence counts.
        grammar: what follows it.
        state_limit: most states.

    Raises:
        InputError: if the trigger is empty, the grammar accepts nothing, or there are too many states.

    Example:
        >>> after("<call>", from_regex("[0-9]+")).accepts(b"so: <call>42")  # doctest: +SKIP
        True
    """
    if grammar.is_empty:
        raise InputError("the grammar after the trigger accepts nothing")
    seen = stop_strings([trigger], state_limit)
    # A chain: the state where the trigger has occurred is the farthest from the start, so the last. It becomes the
    # start of the grammar, whose states follow those of the chain.
    free = seen.num_states - 1
    grammar_at = np.where(grammar.transitions == 0, 0, grammar.transitions + free)[1:, grammar.byte_class]
    chain = seen.transitions[: free + 1, seen.byte_class]
    chain = np.where(chain > free, grammar.start + free, chain)
    transitions = np.concatenate([chain, grammar_at]).astype(np.int32)
    accepting = np.concatenate([[False], np.ones(free, np.bool_), grammar.accepting[1:]])
    if len(accepting) - 1 > state_limit:
        raise InputError(
            f"{plural(len(accepting) - 1, 'state is', 'states are')} needed after the trigger, over the limit of "
            f"{state_limit:,}: simplify the grammar, or raise state_limit"
        )
    source = f"{grammar.source}, after {trigger!r}"
    return minimal(transitions, np.arange(256, dtype=np.uint8), accepting, seen.start, source)
