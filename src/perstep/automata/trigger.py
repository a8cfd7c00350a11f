"""Grammars that begin after a trigger: free text, then a grammar (a tool's arguments), and free text again.

The seam lies inside tokens too, since it is made of bytes; compiled against a vocabulary it is a table like any
other. A trigger that is a special token has no bytes and cannot be one.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from perstep._words import plural
from perstep.automata.determinise import determinise
from perstep.automata.dfa import STATE_LIMIT, Dfa, minimal
from perstep.automata.nfa import byte_ranges, literal, loop, of_dfa, optional, sequence, union
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

    Examples:
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


def tagged(tags: Mapping[str, tuple[Dfa, str]], state_limit: int = STATE_LIMIT) -> Dfa:
    """Free text in which every tag holds a text of its grammar: calls of several tools, any number of times.

    Where the beginning of a tag has occurred, a text of its grammar must follow, then its end, and then text is free
    again. The text may end wherever it is free. Beginnings are found as in `after`: the first that is complete counts.

    Args:
        tags: the beginning of each tag -> its grammar, and its end (which may be empty).
        state_limit: most states.

    Raises:
        InputError: if there is no tag, a beginning is empty, a grammar accepts nothing, or there are too many states.

    Examples:
        >>> calls = tagged({"<add>": (from_regex("[0-9]+"), "</add>")})  # doctest: +SKIP
        >>> calls.accepts(b"so <add>12</add>, or <add>3</add>."), calls.accepts(b"<add>x")  # doctest: +SKIP
        (True, False)
    """
    if not tags or not all(tags):
        raise InputError("tags need a beginning each: {'<call>': (grammar, '</call>')}")
    nothing = [begin for begin, (grammar, _) in tags.items() if grammar.is_empty]
    if nothing:
        raise InputError(f"the grammar of the tag {nothing[0]!r} accepts nothing")
    source = f"tags {', '.join(map(repr, tags))}"
    begun = stop_strings(list(tags), state_limit)  # some beginning has occurred
    anything = byte_ranges([(0, 255)])
    later = determinise(sequence(of_dfa(begun), loop(anything)), state_limit, source)  # and text behind it
    calls = []
    for begin, (grammar, end) in tags.items():
        ending = determinise(sequence(optional(loop(anything)), literal(begin.encode())), state_limit, source)
        calls.append(sequence(of_dfa(ending - later), of_dfa(grammar), literal(end.encode())))
    free = of_dfa(~begun)
    return determinise(sequence(optional(loop(union(*calls))), free), state_limit, source)
