"""What processors and criteria of the user's own did in a call, and which drop-ins would have done the same.

Such a class says nothing by its name: a drop-in is offered where it agrees with everything the class did in the call
(the same tokens forbidden, the same verdicts), and for criteria on probes besides. That is evidence, not proof.
"""

from collections.abc import Iterator, Sequence
from types import CodeType
from typing import Any

import numpy as np

from perstep.errors import InputError
from perstep.experiments.fix.capture import Captured, copied
from perstep.experiments.fix.known import BY_CLASS, Vocabulary, exactly, for_settings, written
from perstep.experiments.fix.observe import Seen, Steps, verdicts_of
from perstep.experiments.fix.offer import PROCESSORS, Offer

_LONGEST_STOP = 64
_MOST_IDS = 64  # a line with more suppressed ids is no line to write into a script, unless it has a name there
_PROBES = 32


def find_vocabulary(call: Captured) -> Vocabulary | None:
    """The bytes of the tokens and how the script names them: a tokenizer, a `Vocabulary`, or a list of bytes.

    Looked for in the call's arguments, among the names that its line can see, and in what these hold as `tokenizer`.
    """
    from perstep.fast._reading import vocabulary_of

    columns = call.model.config.get_text_config().vocab_size
    named = [(value, name) for name, value in call.names.items() if not name.startswith("_")]
    held = ((getattr(value, "__dict__", {}).get("tokenizer"), f"{name}.tokenizer") for value, name in named)
    named += [(value, name) for value, name in held if value is not None]
    given = call.arguments[1].get("tokenizer")
    named = [(value, name) for value, name in named if value is given] + named
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
    from perstep.automata import Vocabulary as Bytes

    if isinstance(value, (list, tuple)):
        return len(value) > 1 and all(isinstance(token, bytes) for token in value)
    return isinstance(value, Bytes) or (
        not isinstance(value, type) and hasattr(value, "get_vocab") and hasattr(value, "decode")
    )


def offers(call: Captured, seen: Seen, vocabulary: Vocabulary | None) -> list[Offer]:
    """The drop-ins for what generate built from settings, and for the call's own parts where they agree with these."""
    found = for_settings(call, seen, vocabulary)
    for kind, parts in call.lists.items():
        for index, (part, steps) in enumerate(zip(parts, seen.steps[kind], strict=True)):
            first = _first(call, kind, part, steps, vocabulary)
            if first is not None:
                drop_in, source, evidence = first
                found.append(Offer(kind, index, (seen.name_of(part),), ((drop_in, source),), evidence))
    return found


def _first(
    call: Captured, kind: str, part: Any, steps: Steps, vocabulary: Vocabulary | None
) -> tuple[Any, str, str] | None:
    """A drop-in, how it is written, and why it is the same; None where there is none."""
    known = exactly(part, vocabulary, call.names)
    if known is not None:
        return *known, BY_CLASS
    if kind == PROCESSORS:
        return next(_for_processor(call, steps, vocabulary), None)
    return next(_for_criterion(part, steps, vocabulary), None)


def _for_processor(call: Captured, steps: Steps, vocabulary: Vocabulary | None) -> Iterator[tuple[Any, str, str]]:
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
        source = written(ids, call.names)
        if len(ids) <= _MOST_IDS or source.isidentifier() or source.startswith("range"):
            yield fast.SuppressTokens(ids), f"perstep.fast.SuppressTokens({source})", evidence


def _forbids_the_same(mask: Any, steps: Steps, size: int) -> bool:
    for ids, before, after in zip(steps.ids, steps.before, steps.after, strict=True):
        columns = before.shape[1] * 8
        for row, allowed in enumerate(mask.allowed(ids)):
            ours = np.zeros(columns, dtype=bool)
            ours[allowed[allowed < size]] = True
            if not np.array_equal(np.packbits(ours) & before[row], after[row]):
                return False
    return True


def _for_criterion(part: Any, steps: Steps, vocabulary: Vocabulary | None) -> Iterator[tuple[Any, str, str]]:
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
