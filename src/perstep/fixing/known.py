"""Drop-ins for classes of transformers, which are recognised exactly, by `type`, with their settings.

What generate builds from its own arguments moves into the list of processors or criteria, and the arguments go. In
that list all keep the order in which generate applies them. Its warpers come behind the call's own processors, so one
of them moves only if all before it do.
"""

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

import numpy as np

from perstep.errors import InputError
from perstep.fixing.capture import REMOVED, Captured, Part
from perstep.fixing.chain import first_warper
from perstep.fixing.observe import Seen
from perstep.fixing.offer import CRITERIA, PROCESSORS, Offer

if TYPE_CHECKING:
    from perstep.automata import Vocabulary as Bytes

Vocabulary = tuple["Bytes", str]
"""The bytes of the tokens, and how the script names them."""

BY_CLASS = "by its class"
WITHOUT_VOCABULARY = "no vocabulary: neither a tokenizer nor the bytes of the tokens can be reached from the call"

_NEUTRAL: dict[str, tuple[str, object]] = {
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


def for_settings(call: Captured, seen: Seen, vocabulary: Vocabulary | None) -> list[Offer]:
    """Drop-ins for what generate builds from its arguments, by its classes; whether they do the same is to be shown."""
    own = {id(part) for part in call.lists[PROCESSORS]}
    built = [(place, part) for place, part in enumerate(seen.merged.get(PROCESSORS, [])) if id(part) not in own]
    warpers_from = first_warper(call) if built else 0
    found = []
    for place, part in built:
        if place < warpers_from and type(part).__name__ in _NEUTRAL:
            found += _moved(call, seen, [(place, part)], PROCESSORS, vocabulary, first=True)
    for part in seen.built.get(CRITERIA, []):
        if type(part).__name__ in _NEUTRAL:
            found += _moved(call, seen, [(0, part)], CRITERIA, vocabulary)
    warpers = [(place, part) for place, part in built if place >= warpers_from]
    movable = list(takewhile(lambda one: _drop_in(one[1], None, {}) is not None, warpers))
    for _, part in warpers[len(movable) :]:
        if type(part).__name__ in _NEUTRAL:
            before = type(warpers[len(movable)][1]).__name__
            seen.reasons[seen.name_of(part)] = f"generate applies it after {before}, for which there is no drop-in"
    if any(type(part).__name__ != "TemperatureLogitsWarper" for _, part in movable):
        found += _moved(call, seen, movable, PROCESSORS, None)
    return found


def _moved(
    call: Captured,
    seen: Seen,
    parts: Sequence[tuple[int, Part]],
    kind: str,
    vocabulary: Vocabulary | None,
    *,
    first: bool = False,
) -> list[Offer]:
    """What generate builds from settings, in a list of the call's instead; where that cannot be the reason is kept."""
    names = tuple(seen.name_of(part) for _, part in parts)
    changes = dict(_NEUTRAL[type(part).__name__] for _, part in parts)
    fixed = [name for name, value in changes.items() if value is REMOVED and name not in call.arguments[1]]
    made = [_drop_in(part, vocabulary, call.names) for _, part in parts]
    reason = f"{fixed[0]} is in the model's generation config, which the call cannot leave out" if fixed else ""
    if not reason and not all(made):
        reason = (
            WITHOUT_VOCABULARY
            if vocabulary is None and kind == CRITERIA
            else "the drop-in does not support its settings"
        )
    reason = reason or next(filter(None, (_of_this_prompt(part) for _, part in parts)), "")
    if reason:
        seen.reasons |= dict.fromkeys(names, reason)
        return []
    evidence = BY_CLASS if len(parts) == 1 else BY_CLASS.replace("its class", "their classes")
    places = tuple(place for place, _ in parts)
    return [Offer(kind, None, names, tuple(one for one in made if one), evidence, changes, places, first)]


def _of_this_prompt(part: Part) -> str:
    """Why a line could not say what generate finds anew in each call, or empty."""
    ignored = getattr(part, "prompt_ignore_length", None)
    if ignored is not None and np.any(np.asarray(ignored)):
        return "it skips the padding of this call's prompts, and the padding of the next call is not known"
    return ""


def _drop_in(part: Part, vocabulary: Vocabulary | None, names: Mapping[str, object]) -> tuple[Part, str] | None:
    """What takes the place of a part among what generate builds: a drop-in, or the part itself, written out."""
    if type(part).__name__ == "TemperatureLogitsWarper":
        return part, f"transformers.TemperatureLogitsWarper({part.temperature!r})"
    return exactly(part, vocabulary, names)


def exactly(part: Part, vocabulary: Vocabulary | None, names: Mapping[str, object]) -> tuple[Part, str] | None:
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


def written(ids: Sequence[int], names: Mapping[str, object]) -> str:
    """A list of ids as source: a long one by the name that the script has for it."""
    wanted = list(ids)
    if len(wanted) > _FEW:
        for name, value in names.items():
            if isinstance(value, (list, tuple)) and len(value) == len(wanted) and list(value) == wanted:
                return name
        if wanted == list(range(wanted[0], wanted[-1] + 1)):
            return f"range({wanted[0]}, {wanted[-1] + 1})"
    return repr(wanted)
