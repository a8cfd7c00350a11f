"""Drop-ins for classes of transformers, which are recognised exactly, by `type`, with their settings.

What generate builds from its own arguments moves into the list of processors or criteria, and the arguments go. In
that list all keep the order in which generate applies them. Its warpers come behind the call's own processors, so one
of them moves only if all before it do.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import takewhile
from types import ModuleType
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
    "TypicalLogitsWarper": ("typical_p", 1.0),
    "SequenceBiasLogitsProcessor": ("sequence_bias", REMOVED),
    "RepetitionPenaltyLogitsProcessor": ("repetition_penalty", 1.0),
    "NoRepeatNGramLogitsProcessor": ("no_repeat_ngram_size", 0),
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
    offers = []
    for place, part in built:
        if place < warpers_from and type(part).__name__ in _NEUTRAL:
            offers += _moved(call, seen, [(place, part)], PROCESSORS, vocabulary, first=True)
    for part in seen.built.get(CRITERIA, []):
        if type(part).__name__ in _NEUTRAL:
            offers += _moved(call, seen, [(0, part)], CRITERIA, vocabulary)
    warpers = [(place, part) for place, part in built if place >= warpers_from]
    movable = list(takewhile(lambda one: _drop_in(one[1], None, {}) is not None, warpers))
    for _, part in warpers[len(movable) :]:
        if type(part).__name__ in _NEUTRAL:
            before = type(warpers[len(movable)][1]).__name__
            seen.reasons[seen.name_of(part)] = f"generate applies it after {before}, for which there is no drop-in"
    if any(type(part).__name__ != "TemperatureLogitsWarper" for _, part in movable):
        offers += _moved(call, seen, movable, PROCESSORS, None)
    return offers


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
    drop_ins = [_drop_in(part, vocabulary, call.names) for _, part in parts]
    reason = f"{fixed[0]} is in the model's generation config, which the call cannot leave out" if fixed else ""
    if not reason and not all(drop_ins):
        reason = (
            WITHOUT_VOCABULARY
            if vocabulary is None and kind == CRITERIA
            else _without_name(parts) or "the drop-in does not support its settings"
        )
    reason = reason or next(filter(None, (_of_this_prompt(part) for _, part in parts)), "")
    if reason:
        seen.reasons |= dict.fromkeys(names, reason)
        return []
    evidence = BY_CLASS if len(parts) == 1 else BY_CLASS.replace("its class", "their classes")
    places = tuple(place for place, _ in parts)
    return [Offer(kind, None, names, tuple(one for one in drop_ins if one), evidence, changes, places, first)]


def _without_name(parts: Sequence[tuple[int, Part]]) -> str:
    """That a list is too long to be written and has no name, or empty."""
    long = [type(part).__name__ for _, part in parts if len(getattr(part, "sequence_bias", None) or ()) > _FEW]
    return f"the sequences of {long[0]} have no name that the line can see, and are too many to write" if long else ""


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

    by_class: dict[object, Callable[[], tuple[Part, str] | None]] = {
        of.TopPLogitsWarper: lambda: _warper(part, fast.TopP, "top_p"),
        of.TopKLogitsWarper: lambda: _warper(part, fast.TopK, "top_k"),
        of.MinPLogitsWarper: lambda: _warper(part, fast.MinP, "min_p"),
        of.TypicalLogitsWarper: lambda: _warper(part, fast.TypicalP, "mass"),
        of.SuppressTokensLogitsProcessor: lambda: _suppressed(part.suppress_tokens.tolist(), names),
        of.NoBadWordsLogitsProcessor: lambda: _bad_words(part, names),
        of.SequenceBiasLogitsProcessor: lambda: _sequence_bias(part, names),
        of.NoRepeatNGramLogitsProcessor: lambda: _ngrams(part),
        of.RepetitionPenaltyLogitsProcessor: lambda: _penalty(part),
        generation.StopStringCriteria: lambda: _stop_strings(part, vocabulary),
    }
    return by_class.get(type(part), lambda: None)()


def _ngrams(part: Part) -> tuple[Part, str]:
    from perstep.fast import NoRepeatNGram

    return NoRepeatNGram(part.ngram_size), f"perstep.fast.NoRepeatNGram({part.ngram_size})"


def _warper(part: Part, drop_in: Callable[[Part], Part], setting: str) -> tuple[Part, str] | None:
    rest = {name: getattr(part, name, None) for name in ("filter_value", "min_tokens_to_keep")}
    if rest["filter_value"] not in (None, -np.inf) or rest["min_tokens_to_keep"] not in (None, 1):
        return None
    value = getattr(part, setting)
    warper = drop_in(value)
    return warper, f"perstep.fast.{type(warper).__name__}({value!r})"


def _suppressed(ids: list[int], names: Mapping[str, object]) -> tuple[Part, str]:
    from perstep.fast import SuppressTokens

    return SuppressTokens(ids), f"perstep.fast.SuppressTokens({written(ids, names)})"


def _bad_words(part: Part, names: Mapping[str, object]) -> tuple[Part, str] | None:
    from perstep.fast import BadWords

    words = [list(ids) for ids in part.sequence_bias]
    if all(len(ids) == 1 for ids in words):
        return _suppressed([ids[0] for ids in words], names)
    given = [list(ids) for ids in part.bad_word_ids]
    ends = [] if len(given) == len(words) else [ids[0] for ids in given if ids not in words]
    if any(len(ids) > 1 and ids not in words for ids in given):
        return None  # the same sequence twice, or another class of transformers than is known here
    source = written_all(given, names)
    more = f", {ends!r}" if ends else ""
    return None if source is None else (BadWords(given, ends), f"perstep.fast.BadWords({source}{more})")


def _sequence_bias(part: Part, names: Mapping[str, object]) -> tuple[Part, str] | None:
    from perstep.fast import SequenceBias

    source = written_biases(part.sequence_bias, names)
    drop_in = SequenceBias(part.sequence_bias)
    return None if source is None else (drop_in, f"perstep.fast.SequenceBias({source})")


def _penalty(part: Part) -> tuple[Part, str]:
    from perstep.fast import RepetitionPenalty

    ignored = part.prompt_ignore_length
    ignored = ignored.tolist() if hasattr(ignored, "tolist") else ignored or 0
    tail = f", {ignored!r}" if np.any(ignored) else ""
    drop_in = RepetitionPenalty(part.penalty, ignored)
    return drop_in, f"perstep.fast.RepetitionPenalty({part.penalty!r}{tail})"


def _stop_strings(part: Part, vocabulary: Vocabulary | None) -> tuple[Part, str] | None:
    from perstep.fast import StopStrings

    if vocabulary is None:
        return None
    strings, (bytes_of, name) = list(part.stop_strings), vocabulary
    try:
        return StopStrings(strings, bytes_of), f"perstep.fast.StopStrings({strings!r}, {name})"
    except InputError:
        return None  # this vocabulary cannot spell them: it is another model's


_FEW = 16
"""A list of this number of ids is written out; a longer one by a name, or as a range."""


def written(ids: Sequence[int], names: Mapping[str, object]) -> str:
    """A list of ids as source: a long one by the name that the script has for it."""
    wanted = list(ids)
    if len(wanted) > _FEW:
        for name, value in reachable(names):
            if _as_ids(value, len(wanted)) == wanted:
                return name
        if wanted == list(range(wanted[0], wanted[-1] + 1)):
            return f"range({wanted[0]}, {wanted[-1] + 1})"
    return repr(wanted)


def written_all(sequences: Sequence[Sequence[int]], names: Mapping[str, object]) -> str | None:
    """Lists of ids as source: many of them by the name that the script has for them; None where they have none."""
    wanted = [list(one) for one in sequences]
    for name, value in reachable(names):
        if isinstance(value, (list, tuple)) and len(value) == len(wanted) and _is_same(value, wanted):
            return name
    return repr(wanted) if sum(map(len, wanted)) <= 2 * _FEW else None


def written_biases(biases: Mapping[tuple[int, ...], float], names: Mapping[str, object]) -> str | None:
    """Biases of sequences as source, likewise."""
    for name, value in reachable(names):
        if type(value) is dict and len(value) == len(biases) and value == biases:
            return name
    return repr(dict(biases)) if sum(map(len, biases)) <= 2 * _FEW else None


def reachable(names: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """What a line can write: its names, and the attributes of the objects that they name, one level deep."""
    own = [(name, value) for name, value in names.items() if not name.startswith("__")]
    own = [(name, value) for name, value in own if not isinstance(value, (type, ModuleType))]
    yield from own
    for name, value in own:
        fields = getattr(value, "__dict__", None)
        if type(fields) is dict:
            yield from ((f"{name}.{inner}", one) for inner, one in fields.items() if inner.isidentifier())


def _as_ids(value: object, count: int) -> list[int] | None:
    """The ids that a list, a range, a set or a tensor holds, ascending where it has no order; None if it is no such."""
    if isinstance(value, (list, tuple, range)) and len(value) == count:
        return list(value)
    if isinstance(value, (set, frozenset)) and len(value) == count:
        return sorted(value) if all(isinstance(one, int) for one in value) else None
    if getattr(value, "shape", None) == (count,) and hasattr(value, "tolist"):
        listed: list[int] = value.tolist()
        return listed
    return None


def _is_same(value: Sequence[object], wanted: list[list[int]]) -> bool:
    return all(isinstance(one, (list, tuple)) and list(one) == ids for one, ids in zip(value, wanted, strict=True))
