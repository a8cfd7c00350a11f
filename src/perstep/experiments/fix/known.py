"""Drop-ins for classes of transformers, which are recognised exactly, by `type`, with their settings.

What generate builds from its own arguments moves into the list of processors or criteria, and the arguments go. Its
warpers come after everything else, so they move together or not at all.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from perstep.errors import InputError
from perstep.experiments.fix.capture import REMOVED, Captured
from perstep.experiments.fix.observe import Seen
from perstep.experiments.fix.offer import CRITERIA, PROCESSORS, Offer

Vocabulary = tuple[Any, str]
"""The bytes of the tokens, and how the script names them."""

BY_CLASS = "by its class: the same tokens"

_NEUTRAL: dict[str, tuple[str, Any]] = {
    "TemperatureLogitsWarper": ("temperature", 1.0),
    "TopKLogitsWarper": ("top_k", 0),
    "TopPLogitsWarper": ("top_p", 1.0),
    "MinPLogitsWarper": ("min_p", REMOVED),
    "RepetitionPenaltyLogitsProcessor": ("repetition_penalty", 1.0),
    "SuppressTokensLogitsProcessor": ("suppress_tokens", REMOVED),
    "NoBadWordsLogitsProcessor": ("bad_words_ids", REMOVED),
    "StopStringCriteria": ("stop_strings", REMOVED),
}
"""A class that generate builds from a setting -> the setting, and the value with which it does not."""

_WARPERS = ("TemperatureLogitsWarper", "TopKLogitsWarper", "TopPLogitsWarper", "MinPLogitsWarper")


def for_settings(call: Captured, seen: Seen, vocabulary: Vocabulary | None) -> list[Offer]:
    """Drop-ins for what generate builds from its arguments."""
    given, found = call.arguments[1], []

    def settings(parts: Sequence[Any]) -> dict[str, Any] | None:
        changes = dict(_NEUTRAL[type(part).__name__] for part in parts)
        # A setting of the model's own generation config cannot be left out of the call.
        return changes if all(value is not REMOVED or name in given for name, value in changes.items()) else None

    processors = seen.built.get(PROCESSORS, [])
    for kind, parts in ((PROCESSORS, processors), (CRITERIA, seen.built.get(CRITERIA, []))):
        for part in parts:
            name = type(part).__name__
            if name in _NEUTRAL and name not in _WARPERS:
                changes, made = settings([part]), exactly(part, vocabulary, call.names)
                if changes and made:
                    found.append(Offer(kind, None, (seen.name_of(part),), (made,), BY_CLASS, changes))
    warpers = [part for part in processors if type(part).__name__ in _WARPERS]
    last = processors[len(processors) - len(warpers) :]
    if [id(one) for one in warpers] == [id(one) for one in last]:  # nothing else is among or behind them
        made_all, changes = [_rewritten(part) for part in warpers], settings(warpers)
        costly = any(type(part).__name__ != "TemperatureLogitsWarper" for part in warpers)
        if changes and costly and all(made_all):
            names = tuple(seen.name_of(part) for part in warpers)
            pairs = tuple(one for one in made_all if one)
            found.append(Offer(PROCESSORS, None, names, pairs, BY_CLASS.replace("its class", "their classes"), changes))
    return found


def _rewritten(part: Any) -> tuple[Any, str] | None:
    if type(part).__name__ == "TemperatureLogitsWarper":
        return part, f"transformers.TemperatureLogitsWarper({part.temperature!r})"
    return exactly(part, None, {})


def exactly(part: Any, vocabulary: Vocabulary | None, names: Mapping[str, Any]) -> tuple[Any, str] | None:
    """The drop-in for a class of transformers with its settings, and how it is written; None for every other class.

    Args:
        part: a processor or criterion.
        vocabulary: for stop strings.
        names: what the script can see; long lists of ids are written by their names.
    """
    from transformers import generation
    from transformers.generation import logits_process as of

    from perstep import fast

    rest = {name: getattr(part, name, None) for name in ("filter_value", "min_tokens_to_keep")}
    if rest["filter_value"] in (None, -np.inf) and rest["min_tokens_to_keep"] in (None, 1):
        for own, drop_in, setting in (
            (of.TopPLogitsWarper, fast.TopP, "top_p"),
            (of.TopKLogitsWarper, fast.TopK, "top_k"),
            (of.MinPLogitsWarper, fast.MinP, "min_p"),
        ):
            if type(part) is own:
                value = getattr(part, setting)
                return drop_in(value), f"perstep.fast.{drop_in.__name__}({value!r})"
    if type(part) is of.SuppressTokensLogitsProcessor:
        ids = part.suppress_tokens.tolist()
        return fast.SuppressTokens(ids), f"perstep.fast.SuppressTokens({written(ids, names)})"
    if type(part) is of.NoBadWordsLogitsProcessor and all(len(words) == 1 for words in part.sequence_bias):
        ids = [word for (word,) in part.sequence_bias]
        return fast.SuppressTokens(ids), f"perstep.fast.SuppressTokens({written(ids, names)})"
    if type(part) is of.RepetitionPenaltyLogitsProcessor:
        ignored = part.prompt_ignore_length
        ignored = ignored.tolist() if hasattr(ignored, "tolist") else ignored or 0
        tail = f", {ignored!r}" if np.any(ignored) else ""
        made = fast.RepetitionPenalty(part.penalty, ignored)
        return made, f"perstep.fast.RepetitionPenalty({part.penalty!r}{tail})"
    if type(part) is generation.StopStringCriteria and vocabulary is not None:
        strings, (bytes_of, name) = list(part.stop_strings), vocabulary
        try:
            return fast.StopStrings(strings, bytes_of), f"perstep.fast.StopStrings({strings!r}, {name})"
        except InputError:
            return None  # this vocabulary cannot spell them: it is another model's
    return None


_FEW = 16


def written(ids: Sequence[int], names: Mapping[str, Any]) -> str:
    """A list of ids as source: a long one by the name that the script has for it."""
    wanted = list(ids)
    if len(wanted) > _FEW:
        for name, value in names.items():
            if isinstance(value, (list, tuple)) and len(value) == len(wanted) and list(value) == wanted:
                return name
        if wanted == list(range(wanted[0], wanted[-1] + 1)):
            return f"range({wanted[0]}, {wanted[-1] + 1})"
    return repr(wanted)
