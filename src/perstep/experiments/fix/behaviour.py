"""What processors and criteria did in a call, and which drop-ins would have done the same.

Classes of transformers are recognised exactly, by `type`, and their drop-ins take their settings. A class of the
user's own says nothing by its name: a drop-in is offered where it agrees with everything the class did in the call
(the same tokens forbidden, the same verdicts), and for criteria on probes besides. That is evidence, not proof.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import CodeType
from typing import Any

import numpy as np

from perstep.errors import InputError
from perstep.experiments.fix.capture import REMOVED, Captured, copied
from perstep.experiments.fix.observe import Seen, Steps, verdicts_of

_LONGEST_STOP = 64
_MOST_IDS = 64  # a line with more suppressed ids is no line to write into a script
_PROBES = 32


@dataclass(frozen=True)
class Offer:
    """Drop-ins that could replace a part of a call.

    Attributes:
        kind: `logits_processor` or `stopping_criteria`.
        index: the place in that list of what they replace; None for what generate itself builds from settings.
        part: the name of the part in the ledger.
        made: the drop-ins, and how each is written.
        evidence: why they are the same.
        settings: arguments of generate that have to change with them; REMOVED for one to leave out.
    """

    kind: str
    index: int | None
    part: str
    made: tuple[tuple[Any, str], ...]
    evidence: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def source(self) -> str:
        """How the drop-ins are written."""
        return ", ".join(source for _, source in self.made)


def find_vocabulary(call: Captured) -> tuple[Any, str] | None:
    """The bytes of the tokens and how the script names them: a tokenizer, a `Vocabulary`, or a list of bytes.

    Looked for in the call's arguments, then among the names that its line can see.
    """
    from perstep.fast._reading import vocabulary_of

    columns = call.model.config.get_text_config().vocab_size
    named = [(value, name) for name, value in call.names.items() if not name.startswith("_")]
    tokenizer = call.arguments[1].get("tokenizer")
    if tokenizer is not None:
        named.insert(0, (tokenizer, next((name for value, name in named if value is tokenizer), "tokenizer")))
    for value, name in named:
        if _may_be_vocabulary(value):
            try:
                vocabulary = vocabulary_of(value)
            except InputError:
                continue
            if vocabulary.size <= columns:
                return vocabulary, name
    return None


def _may_be_vocabulary(value: Any) -> bool:
    from perstep.automata import Vocabulary

    if isinstance(value, (list, tuple)):
        return len(value) > 1 and all(isinstance(token, bytes) for token in value)
    return isinstance(value, Vocabulary) or (hasattr(value, "get_vocab") and hasattr(value, "decode"))


def offers(call: Captured, seen: Seen, vocabulary: tuple[Any, str] | None) -> list[Offer]:
    """The drop-ins for what generate built from settings, and for the user's own parts where they agree with these."""
    found = _for_settings(call, seen.built, vocabulary)
    for kind, parts in call.lists.items():
        for index, (part, steps) in enumerate(zip(parts, seen.steps[kind], strict=True)):
            room = "logits" if kind == "logits_processor" else "stop"
            name = f"{room}/{type(part).__name__}"
            pairs = iter(_exactly(part, vocabulary))
            agreeing = (
                _for_processor(steps, vocabulary) if room == "logits" else _for_criterion(part, steps, vocabulary)
            )
            first = next(pairs, None) or next(agreeing, None)
            if first is not None:
                made, source, evidence = first
                found.append(Offer(kind, index, name, ((made, source),), evidence))
    return found


_NEUTRAL: dict[str, tuple[str, Any]] = {
    "TemperatureLogitsWarper": ("temperature", 1.0),
    "TopKLogitsWarper": ("top_k", 0),
    "TopPLogitsWarper": ("top_p", 1.0),
    "MinPLogitsWarper": ("min_p", REMOVED),
    "RepetitionPenaltyLogitsProcessor": ("repetition_penalty", 1.0),
    "SuppressTokensLogitsProcessor": ("suppress_tokens", REMOVED),
    "StopStringCriteria": ("stop_strings", REMOVED),
}
"""A class that generate builds from a setting -> the setting, and the value with which it does not."""

_WARPERS = ("TemperatureLogitsWarper", "TopKLogitsWarper", "TopPLogitsWarper", "MinPLogitsWarper")


def _for_settings(call: Captured, built: Mapping[str, list[Any]], vocabulary: tuple[Any, str] | None) -> list[Offer]:
    """Drop-ins for what generate builds. Its warpers come after the caller's processors, so all move together."""
    given, found = call.arguments[1], []

    def settings(parts: Sequence[Any]) -> dict[str, Any] | None:
        changes = dict(_NEUTRAL[type(part).__name__] for part in parts)
        # A setting of the model's own generation config cannot be left out of the call.
        return changes if all(value is not REMOVED or name in given for name, value in changes.items()) else None

    processors = built.get("logits_processor", [])
    for part in [*processors, *built.get("stopping_criteria", [])]:
        name = type(part).__name__
        if name in _NEUTRAL and name not in _WARPERS:
            changes, offer = settings([part]), _exactly(part, vocabulary)
            if changes and offer:
                kind, room = (
                    ("stopping_criteria", "stop") if name == "StopStringCriteria" else ("logits_processor", "logits")
                )
                found.append(Offer(kind, None, f"{room}/{name}", (offer[0][:2],), offer[0][2], changes))
    warpers = [part for part in processors if type(part).__name__ in _WARPERS]
    last = processors[len(processors) - len(warpers) :]
    if len(warpers) and [id(one) for one in warpers] == [
        id(one) for one in last
    ]:  # nothing else is among or behind them
        made, changes = [_rewritten(part) for part in warpers], settings(warpers)
        costly = [part for part in warpers if type(part).__name__ != "TemperatureLogitsWarper"]
        if changes and costly and all(made):
            part_name = f"logits/{type(costly[-1]).__name__}"
            pairs = tuple(one for one in made if one)
            found.append(Offer("logits_processor", None, part_name, pairs, "by its class: the same tokens", changes))
    return found


def _rewritten(part: Any) -> tuple[Any, str] | None:
    if type(part).__name__ == "TemperatureLogitsWarper":
        return part, f"transformers.TemperatureLogitsWarper({part.temperature!r})"
    exact = _exactly(part, None)
    return exact[0][:2] if exact else None


def _exactly(part: Any, vocabulary: tuple[Any, str] | None) -> list[tuple[Any, str, str]]:
    """The drop-in for a class of transformers, with its settings."""
    from transformers import generation
    from transformers.generation import logits_process

    from perstep import fast

    why = "by its class: the same tokens"
    rest = {name: getattr(part, name, None) for name in ("filter_value", "min_tokens_to_keep")}
    if rest["filter_value"] in (None, -np.inf) and rest["min_tokens_to_keep"] in (None, 1):
        for own, drop_in, setting in (
            (logits_process.TopPLogitsWarper, fast.TopP, "top_p"),
            (logits_process.TopKLogitsWarper, fast.TopK, "top_k"),
            (logits_process.MinPLogitsWarper, fast.MinP, "min_p"),
        ):
            if type(part) is own:
                value = getattr(part, setting)
                return [(drop_in(value), f"perstep.fast.{drop_in.__name__}({value!r})", why)]
    if type(part) is logits_process.SuppressTokensLogitsProcessor:
        ids = part.suppress_tokens.tolist()
        return [(fast.SuppressTokens(ids), f"perstep.fast.SuppressTokens({ids!r})", why)]
    if type(part) is logits_process.RepetitionPenaltyLogitsProcessor:
        ignored = part.prompt_ignore_length
        ignored = ignored.tolist() if hasattr(ignored, "tolist") else ignored or 0
        tail = f", {ignored!r}" if np.any(ignored) else ""
        return [
            (
                fast.RepetitionPenalty(part.penalty, ignored),
                f"perstep.fast.RepetitionPenalty({part.penalty!r}{tail})",
                why,
            )
        ]
    if type(part) is generation.StopStringCriteria and vocabulary is not None:
        strings, (bytes_of, name) = list(part.stop_strings), vocabulary
        return [(fast.StopStrings(strings, bytes_of), f"perstep.fast.StopStrings({strings!r}, {name})", why)]
    return []


def _for_processor(steps: Steps, vocabulary: tuple[Any, str] | None) -> Iterator[tuple[Any, str, str]]:
    """Drop-ins that forbid exactly what a processor forbade."""
    from perstep import fast

    if not steps.ids or not steps.kept_values or all(map(np.array_equal, steps.before, steps.after)):
        return
    evidence = f"forbade the same tokens in all {steps.rows:,} recorded rows"
    if vocabulary is not None:
        try:
            mask = fast.Utf8(vocabulary[0])
            if _forbids_the_same(mask, steps, vocabulary[0].size):
                yield mask, f"perstep.fast.Utf8({vocabulary[1]})", evidence
        except InputError:
            pass  # such a vocabulary spells no text
    never = np.bitwise_or.reduce([before & ~after for before, after in zip(steps.before, steps.after, strict=True)])
    never = np.bitwise_or.reduce(never, axis=0)
    if all(np.array_equal(before & ~never, after) for before, after in zip(steps.before, steps.after, strict=True)):
        ids = np.flatnonzero(np.unpackbits(never)).tolist()
        if len(ids) <= _MOST_IDS:
            yield fast.SuppressTokens(ids), f"perstep.fast.SuppressTokens({ids!r})", evidence


def _forbids_the_same(mask: Any, steps: Steps, size: int) -> bool:
    for ids, before, after in zip(steps.ids, steps.before, steps.after, strict=True):
        columns = before.shape[1] * 8
        for row, allowed in enumerate(mask.allowed(ids)):
            ours = np.zeros(columns, dtype=bool)
            ours[allowed[allowed < size]] = True
            if not np.array_equal(np.packbits(ours) & before[row], after[row]):
                return False
    return True


def _for_criterion(part: Any, steps: Steps, vocabulary: tuple[Any, str] | None) -> Iterator[tuple[Any, str, str]]:
    """Criteria that gave the verdicts that a criterion gave, and give the same on probes."""
    from perstep import fast

    if not steps.ids or vocabulary is None or not all(steps.after):
        return
    bytes_of, name = vocabulary
    verdicts = sum(map(len, steps.after))
    said = f"the same {verdicts:,} recorded verdicts ({sum(map(sum, steps.after))} of them stop)"
    strings = list(dict.fromkeys(_texts_of(part)))
    for candidate in [*([one] for one in strings), *([strings] if len(strings) > 1 else [])]:
        try:
            stop = fast.StopStrings(candidate, bytes_of)
        except InputError:
            continue
        if _same_verdicts(stop, steps):
            agreed = _probed(part, stop, steps)
            if agreed:
                shown = f"perstep.fast.StopStrings({candidate!r}, {name})"
                yield stop, shown, f"{said} and {agreed:,} probes"
    if _same_verdicts(fast.WordStop(bytes_of), steps) and any(map(any, steps.after)):
        yield fast.WordStop(bytes_of), f"perstep.fast.WordStop({name})", said


def _same_verdicts(stop: Any, steps: Steps) -> bool:
    return all(stop(ids, None).tolist() == said for ids, said in zip(steps.ids, steps.after, strict=True))


def _probed(part: Any, stop: Any, steps: Steps) -> int:
    """On how many other texts the two agree, half of them with last tokens that can end a stop string; 0 if not on all.

    A probe is a recorded text with another last token. A criterion that remembers its last call may differ on such;
    then it is not offered, which is the safe side.
    """
    ending = sorted(stop.ending)
    size = stop.vocabulary.size
    random = np.random.default_rng(0)
    tokens = [*random.permutation(ending)[:_PROBES].tolist(), *random.integers(0, size, _PROBES).tolist()]
    agreed = 0
    for ids in (steps.ids[0], steps.ids[len(steps.ids) // 2], steps.ids[-1]):
        for token in tokens:
            probe = ids.clone()
            probe[:, -1] = token
            try:
                said = verdicts_of(copied([part])[0](probe, None), len(probe))
            except Exception:  # somebody's own class: it may need the scores, or its own history
                return 0
            if said != stop(probe, None).tolist():
                return 0
            agreed += len(said)
    return agreed


def _texts_of(part: Any) -> Iterator[str | bytes]:
    """Short texts that a criterion holds or that its code names: what it may look for."""
    yield from (one for value in vars(part).values() for one in _flat(value) if _is_stop(one))
    call = type(part).__call__
    code = getattr(call, "__code__", None)
    if code is not None:
        doc = call.__doc__
        yield from (one for one in _constants(code) if _is_stop(one) and one != doc)


def _flat(value: Any) -> Sequence[Any]:
    return list(value) if isinstance(value, (list, tuple, set, frozenset)) else [value]


def _is_stop(value: Any) -> bool:
    return isinstance(value, (str, bytes)) and 0 < len(value) <= _LONGEST_STOP


def _constants(code: CodeType) -> Iterator[Any]:
    for value in code.co_consts:
        if isinstance(value, CodeType):
            yield from _constants(value)
        else:
            yield from _flat(value)
