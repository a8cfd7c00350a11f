"""What processors and criteria do in a call and elsewhere, and which drop-ins do the same: what `fix` offers, and why.

A name proves nothing. Every drop-in is tried beside what it would replace: along other texts, with logits of many
shapes, and in what its nearest wrong neighbours do otherwise (`criteria.py`, `masks.py`, `chain.py`). It is offered
where no difference was seen and it was seen to act. That is evidence, not proof.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from perstep.errors import InputError
from perstep.fixing.capture import REMOVED, Captured, Part, copied
from perstep.fixing.chain import OutOfOrder, in_order, keeps_order
from perstep.fixing.criteria import Unlike, for_criterion
from perstep.fixing.grammars import engine_of
from perstep.fixing.known import BY_CLASS, WITHOUT_VOCABULARY, Vocabulary, exactly, for_settings
from perstep.fixing.masks import Same, for_processor
from perstep.fixing.observe import MOST_STEPS, Seen, Steps, verdicts_of
from perstep.fixing.offer import CRITERIA, PROCESSORS, Offer
from perstep.fixing.prefixes import PREFIX, AsMask, along_recorded, for_prefix_function
from perstep.fixing.sequences import along_sequences
from perstep.targets.transformers.protocols import sequences_of


def find_vocabulary(call: Captured) -> Vocabulary | None:
    """The bytes of the tokens and how the script names them: a tokenizer, a `Vocabulary`, or a list of bytes.

    Looked for in the call's arguments, among the names that its line can see, and in what these hold as `tokenizer`.
    """
    from perstep.automata import Vocabulary as Bytes

    columns = call.model.config.get_text_config().vocab_size
    named = [(value, name) for name, value in call.names.items() if not name.startswith("_")]
    inner = ((getattr(value, "__dict__", {}).get("tokenizer"), f"{name}.tokenizer") for value, name in named)
    named += [(value, name) for value, name in inner if value is not None]
    given = call.arguments[1].get("tokenizer")
    if given is not None:  # no other is right beside it
        named = [(value, name) for value, name in [*named, *_of_dicts(call.names)] if value is given]
    for value, name in named:
        if _may_be_vocabulary(value):
            try:
                vocabulary = Bytes.of(value)
            except InputError:
                continue
            if vocabulary.size <= columns:
                return vocabulary, name
    return None


def _of_dicts(names: Mapping[str, object]) -> list[tuple[Part, str]]:
    """What dictionaries among the names of a call's line hold under names, such as its keyword arguments."""
    return [
        (value, f"{name}[{key!r}]")
        for name, entries in names.items()
        if type(entries) is dict and not name.startswith("_")
        for key, value in entries.items()
        if isinstance(key, str)
    ]


def _may_be_vocabulary(value: object) -> bool:
    from perstep.automata import Vocabulary as Bytes

    if isinstance(value, (list, tuple)):
        return len(value) > 1 and all(isinstance(token, bytes) for token in value)
    return isinstance(value, Bytes) or (
        not isinstance(value, type) and hasattr(value, "get_vocab") and hasattr(value, "decode")
    )


def offers(call: Captured, seen: Seen, vocabulary: Vocabulary | None) -> list[Offer]:
    """The drop-ins for what generate built from settings, and for the call's own parts where they do what these do.

    Why there is none for a part is kept in `seen.reasons`.
    """
    candidates = [*for_settings(call, seen, vocabulary), *_by_class(call, seen, vocabulary)]
    in_chain = in_order(call, [one for one in candidates if one.kind == PROCESSORS], _columns(call, seen))
    proved = []
    for offer in candidates:
        try:
            proved.append(_proved(call, seen, offer, vocabulary, in_chain))
        except (Unlike, OutOfOrder) as reason:
            seen.reasons |= dict.fromkeys(offer.parts, str(reason))
    answered = {part for offer in candidates for part in offer.parts}
    return [*proved, *_by_prefix(call, seen, vocabulary), *_by_behaviour(call, seen, vocabulary, answered)]


def _by_prefix(call: Captured, seen: Seen, vocabulary: Vocabulary | None) -> Iterator[Offer]:
    """For the function that says which tokens may follow a text: a set, a tree of sequences, a grammar engine's."""
    for place, part in enumerate(seen.merged[PROCESSORS]):
        name = seen.names.get(id(part), "")
        if type(part).__name__ != PREFIX or any(part is own for own in call.lists[PROCESSORS]):
            continue
        try:
            same = _for_prefix_function(call, part, vocabulary if place == 0 else None)
            offer = Offer(
                PROCESSORS,
                None,
                (name,),
                ((same.drop_in, same.source),),
                same.evidence,
                {"prefix_allowed_tokens_fn": REMOVED},
                (place,),
                first=True,
                before=same.before,
                names=same.names,
            )
            keeps_order(call, offer)
        except (Unlike, OutOfOrder) as reason:
            seen.reasons[name] = str(reason)
        else:
            yield offer


def _for_prefix_function(call: Captured, part: Part, vocabulary: Vocabulary | None) -> Same:
    """The drop-in for the function: the mask of a grammar where an engine made it, else what it is seen to allow.

    Args:
        call: where it was used.
        part: transformers' processor.
        vocabulary: the bytes of the tokens; None where processors come before it: if these forbid all that it allows,
            it allows that anyway, which a mask does not.

    Raises:
        Unlike: nothing is known to be the same.
    """
    if vocabulary is None or part._num_beams > 1 or not engine_of(part):
        return Same(*for_prefix_function(call, part))
    try:  # first: an engine keeps what it was asked, and takes a text that it did not follow for a prompt
        return for_processor(call, AsMask(part), along_recorded(call, part), vocabulary)
    except Unlike as reason:
        try:
            return Same(*for_prefix_function(call, part))
        except Unlike:
            raise reason from None


def _by_class(call: Captured, seen: Seen, vocabulary: Vocabulary | None) -> Iterator[Offer]:
    """For the parts whose class is one of transformers'."""
    for kind, parts in call.lists.items():
        for index, part in enumerate(parts):
            drop_in = exactly(part, vocabulary, call.names)
            if drop_in is not None:
                yield Offer(kind, index, (seen.name_of(part),), (drop_in,), BY_CLASS)


def _by_behaviour(call: Captured, seen: Seen, vocabulary: Vocabulary | None, answered: set[str]) -> Iterator[Offer]:
    """For the call's own parts that no other offer answers, where they do what a drop-in does."""
    for kind, parts in call.lists.items():
        for index, (part, steps) in enumerate(zip(parts, seen.steps[kind], strict=True)):
            name = seen.name_of(part)
            if name in answered or name in seen.reasons:
                continue
            try:
                same = _for_own(call, kind, part, steps, vocabulary)
            except Unlike as reason:
                seen.reasons[name] = str(reason)
            else:
                drop_ins = ((same.drop_in, same.source),)
                yield Offer(kind, index, (name,), drop_ins, same.evidence, before=same.before, names=same.names)


def _for_own(call: Captured, kind: str, part: Part, steps: Steps, vocabulary: Vocabulary | None) -> Same:
    """The drop-in for a part of the call's own, how it is written, and what shows that it is the same.

    Raises:
        Unlike: nothing is known to be the same.
    """
    if kind == PROCESSORS:
        return for_processor(call, part, steps, vocabulary)
    spelled, name = vocabulary or (None, "")
    return Same(*for_criterion(part, steps, spelled, name, columns=_columns_of(call)))


def _proved(
    call: Captured,
    seen: Seen,
    offer: Offer,
    vocabulary: Vocabulary | None,
    in_chain: Mapping[tuple[str, ...], str | OutOfOrder],
) -> Offer:
    """An offer by its class with what shows that it does the same.

    Raises:
        Unlike: it gives other verdicts.
        OutOfOrder: it gives other scores.
    """
    if offer.kind == CRITERIA:
        drop_in, source, shown = _for_stop_strings(call, seen, offer, vocabulary)
        return replace(offer, made=((drop_in, source),), evidence=f"{offer.evidence}: {shown}")
    said = in_chain[offer.parts]
    if isinstance(said, OutOfOrder):
        raise said
    evidence = [said]
    for original, (drop_in, _) in zip(_originals(call, seen, offer), offer.made, strict=True):
        evidence.append(along_sequences(original, drop_in, _columns(call, seen), call.model.device))
    return replace(offer, evidence=f"{offer.evidence}: {'; '.join(filter(None, evidence))}")


def _originals(call: Captured, seen: Seen, offer: Offer) -> list[Part]:
    """What each drop-in of an offer for processors takes the place of; copies, so that trials leave no trace."""
    if offer.index is not None:
        return copied([call.lists[PROCESSORS][offer.index]])
    return copied([seen.merged[PROCESSORS][place] for place in offer.places])


def _columns(call: Captured, seen: Seen) -> int:
    """Logits of a row: as a processor of the call's own saw them, else as the model's config says."""
    widths = [steps.columns for steps in seen.steps[PROCESSORS] if steps.columns]
    return widths[0] if widths else _columns_of(call)


def _columns_of(call: Captured) -> int:
    """Tokens, as the model's config says."""
    return int(call.model.config.get_text_config().vocab_size)


def _for_stop_strings(call: Captured, seen: Seen, offer: Offer, vocabulary: Vocabulary | None) -> tuple[Part, str, str]:
    """The drop-in for transformers' stop strings, of the call's own list or built from its settings."""
    if vocabulary is None:
        raise Unlike(WITHOUT_VOCABULARY)
    if offer.index is not None:
        part, steps = call.lists[CRITERIA][offer.index], seen.steps[CRITERIA][offer.index]
    else:
        part = next(one for one in seen.built[CRITERIA] if seen.name_of(one) in offer.parts)
        steps = _along(call, part)
    return for_criterion(part, steps, *vocabulary, strings=list(part.stop_strings))


def _along(call: Captured, part: Part) -> Steps:
    """What a criterion that generate built says along the tokens of the call."""
    tokens = sequences_of(call.result)
    prompt = (
        int(call.again(max_new_tokens=1, max_length=REMOVED, min_new_tokens=REMOVED, min_length=REMOVED).shape[1]) - 1
    )
    ids = [tokens[:, :end] for end in range(prompt + 1, tokens.shape[1] + 1)][:MOST_STEPS]
    (asked,) = copied([part])
    return Steps(ids=ids, after=[verdicts_of(asked(one, None), len(one)) for one in ids])
