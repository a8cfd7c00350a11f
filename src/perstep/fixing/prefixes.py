"""Which drop-in allows what a `prefix_allowed_tokens_fn` allows: always the same ids, or what continues some sequences.

The function itself is asked, row by row, and what it gives is compared as a set, so an id less or more is seen. The
sequences are looked for among what the line can name. Every beginning of each is asked about, up to a limit, and what
may follow whole ones; a function that counts tokens, reads the prompt or knows the row is seen to differ.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from perstep._words import plural
from perstep.errors import InputError
from perstep.fixing.capture import REMOVED, Captured, Part, copied
from perstep.fixing.criteria import Unlike
from perstep.fixing.known import reachable, written
from perstep.fixing.observe import Steps, keep_mask, listener
from perstep.fixing.offer import PROCESSORS
from perstep.fixing.repeat import ended_with
from perstep.targets.transformers.protocols import sequences_of

if TYPE_CHECKING:
    import torch

PREFIX: Final = "PrefixConstrainedLogitsProcessor"

_MOST = 4096  # beginnings of sequences that are asked about
_ENDS = 256  # whole sequences behind which it is asked
_LONG = (1, 2, 24, 64, 512, 2048)  # tokens behind the prompt
_TEXTS = 24  # of each of these lengths
_MANY = 300  # tokens that follow each other
_MOST_IDS = 64  # ids that may be written into a line


def for_prefix_function(call: Captured, part: Part) -> tuple[Part, str, str]:
    """The drop-in for the processor that calls the function, how it is written, and what shows that it is the same.

    Args:
        call: where it was used.
        part: transformers' processor.

    Raises:
        Unlike: nothing is known to be the same.
    """
    asked = _Asked(call, part)
    always = asked.at(0, asked.recorded[0][: asked.prompt])
    reasons = []
    try:
        return _constant(call, asked, always)
    except Unlike as reason:
        reasons.append(str(reason))
    for name, sequences in _sequences(call.names):
        for after in dict.fromkeys((asked.prompt, 0)):
            try:
                return _tree(call, asked, name, sequences, after)
            except Unlike as reason:
                reasons.append(str(reason))
    if len(reasons) == 1:
        reasons.append("no list of sequences that the line can name has what it allows")
    raise Unlike("; ".join(dict.fromkeys(reasons[:2])))


class AsMask:
    """Transformers' processor for such a function as if nothing was forbidden before it.

    Args:
        part: the processor.
    """

    def __init__(self, part: Part) -> None:
        self._part = part

    def __call__(self, ids: "torch.Tensor", scores: "torch.Tensor") -> "torch.Tensor":
        """The scores, -inf at what the function does not allow."""
        mask: torch.Tensor = self._part(ids, scores.new_zeros(scores.shape))
        return scores + mask


def along_recorded(call: Captured, part: Part) -> Steps:
    """What the function forbids along the rows that the call gave, up to the first that ends; asked in their order.

    Args:
        call: where it was used.
        part: transformers' processor, of which a copy is asked.
    """
    import torch

    steps, asked, rows = Steps(), _Asked(call, part), sequences_of(call.result)
    spy = listener(PROCESSORS, copied([AsMask(part)])[0], partial(keep_mask, steps))
    scores = torch.zeros(len(rows), asked.columns, device=call.model.device)
    with suppress(ValueError):  # transformers' own, where nothing is allowed behind the end of a row
        for end in range(asked.prompt, rows.shape[1]):
            spy(rows[:, :end], scores)
    return steps


class _Asked:
    """Asks the function about texts.

    Attributes:
        prompt: tokens of the call's prompt.
        rows: prompts of the call.
        beams: rows of each.
        recorded: the rows of tokens that the call gave.
        columns: ids there are.
    """

    def __init__(self, call: Captured, part: Part) -> None:
        self._function = part._prefix_allowed_tokens_fn  # transformers stores it nowhere else
        self._device = call.model.device
        self.beams = int(part._num_beams)
        tokens = sequences_of(call.result)
        one = call.again(max_new_tokens=1, max_length=REMOVED, min_new_tokens=REMOVED, min_length=REMOVED)
        self.prompt = int(one.shape[1]) - 1
        self.recorded: list[list[int]] = tokens.tolist()
        returned = int(call.arguments[1].get("num_return_sequences") or 1)
        self.rows = max(len(self.recorded) // returned, 1)
        self.columns = int(call.model.config.get_text_config().vocab_size)
        self.random = np.random.default_rng(0)

    def at(self, row: int, tokens: Sequence[int]) -> frozenset[int]:
        """What it allows behind a text.

        Raises:
            Unlike: it failed.
        """
        import torch

        try:
            allowed = self._function(row, torch.tensor(tokens, dtype=torch.int64, device=self._device))
            return frozenset(map(int, allowed))
        except Exception as error:  # the script's own function
            raise Unlike(f"asked about {plural(len(tokens), 'token')} it {ended_with(error)}") from error

    def or_nothing(self, row: int, tokens: Sequence[int]) -> frozenset[int]:
        """The same; nothing where it failed, as a list without ids is: generate ends either way."""
        try:
            return self.at(row, tokens)
        except Unlike:
            return frozenset()

    def any(self, count: int) -> list[int]:
        """Random ids."""
        drawn: list[int] = self.random.integers(0, self.columns, count).tolist()
        return drawn


def _constant(call: Captured, asked: _Asked, always: frozenset[int]) -> tuple[Part, str, str]:
    """One set of ids whatever the text.

    Raises:
        Unlike: it is another set somewhere, or one that is too long to be written.
    """
    from perstep.fast import AllowTokens

    texts = 0
    for row, tokens, what in _everywhere(asked, sorted(always)):
        texts += 1
        if asked.at(row, tokens) != always:
            raise Unlike(f"what it allows changes: {what} it is not what it was behind the first prompt")
    ids = sorted(always)
    if not ids or ids[-1] >= asked.columns:
        raise Unlike("it allows nothing, or an id that has no logit")
    source = written(ids, call.names)
    if len(ids) > _MOST_IDS and not source.replace(".", "").isidentifier() and not source.startswith("range("):
        raise Unlike(f"it always allows the same {plural(len(ids), 'token')}, which have no name to write")
    evidence = f"allowed the same {plural(len(ids), 'token')} behind {plural(texts, 'text')}"
    return AllowTokens(ids, beams=asked.beams), f"perstep.fast.AllowTokens({source}, beams={asked.beams})", evidence


def _everywhere(asked: _Asked, allowed: list[int]) -> Iterator[tuple[int, list[int], str]]:
    """Rows and texts that tell a set of ids from whatever changes: with what they are in words."""
    for row in range(asked.rows):
        own = asked.recorded[row * len(asked.recorded) // asked.rows]
        yield from ((row, own[:end], f"in row {row}") for end in range(asked.prompt, len(own)))
    draws = asked.random
    for count in _LONG:
        for number in range(_TEXTS):
            row = number % asked.rows
            behind = [allowed[at] for at in draws.integers(0, len(allowed), count)] if allowed else asked.any(count)
            yield row, [*asked.any(asked.prompt), *behind], f"behind another prompt and {plural(count, 'token')}"
            yield (
                row,
                [*asked.recorded[0][: asked.prompt], *asked.any(count)],
                f"behind {plural(count, 'random token')}",
            )
    tokens = asked.recorded[0][: asked.prompt]
    for count in range(_MANY):
        tokens = [*tokens, allowed[int(draws.integers(len(allowed)))]] if allowed else tokens
        yield 0, tokens, f"behind {plural(count + 1, 'new token')}"


def _sequences(names: Mapping[str, object]) -> Iterator[tuple[str, Part]]:
    """Lists of sequences of ids, and trees of them, that a line can name."""
    for name, value in reachable(names):
        if type(value) is dict:
            fits = bool(value) and all(map(_is_branch, value.items()))
        else:
            fits = isinstance(value, (list, tuple)) and bool(value) and all(map(_is_sequence, value))
        if fits:
            yield name, value


def _is_branch(item: Part) -> bool:
    return isinstance(item[0], int) and isinstance(item[1], Mapping)


def _is_sequence(value: object) -> bool:
    return isinstance(value, (list, tuple)) and len(value) > 0 and all(type(one) is int and one >= 0 for one in value)


def _tree(call: Captured, asked: _Asked, name: str, sequences: Part, after: int) -> tuple[Part, str, str]:
    """What continues one of some sequences.

    Raises:
        Unlike: it allows something else somewhere.
    """
    from perstep.fast import AllowSequences

    try:
        plain = AllowSequences(sequences, after=after, beams=asked.beams)
    except InputError as error:
        raise Unlike(str(error)) from error
    _see_recorded(asked, plain, name)
    prompt = asked.recorded[0][: asked.prompt]
    begun = [prompt, asked.any(asked.prompt)] if after else [[]]
    beginnings = list(_beginnings(plain.root, [] if after else prompt))
    chosen = [beginnings[at] for at in asked.random.permutation(len(beginnings))[:_MOST]]
    for number, path in enumerate(chosen):
        for text in ([*one, *path] for one in begun):
            if asked.at(number % asked.rows, text) != set(plain.allowed(text)):
                raise Unlike(f"behind {plural(len(path), 'token')} of a sequence of {name} it allows something else")
    otherwise, ends = _otherwise(asked, plain, chosen, begun[0])
    drop_in = AllowSequences(sequences, after=after, otherwise=otherwise, beams=asked.beams)
    settings = [name, f"after={_length(call, after)}", f"otherwise={otherwise!r}", f"beams={asked.beams}"]
    kept = [one for one, used in zip(settings, (True, after, otherwise, asked.beams > 1), strict=True) if used]
    evidence = (
        f"allowed the same behind {len(chosen):,} of {plural(len(beginnings), 'beginning')} of the sequences and "
        f"{plural(ends, 'whole one')}"
    )
    return drop_in, f"perstep.fast.AllowSequences({', '.join(kept)})", evidence


def _see_recorded(asked: _Asked, plain: Part, name: str) -> None:
    """Other sequences are soon seen in the recorded call.

    Raises:
        Unlike: these are others.
    """
    for number, tokens in enumerate(asked.recorded):
        for end in range(asked.prompt, len(tokens)):
            expected = plain.allowed(tokens[:end])
            if expected and asked.at(number * asked.rows // len(asked.recorded), tokens[:end]) != set(expected):
                raise Unlike(f"the sequences of {name} do not give what it allowed in the call")
            if not expected and end == asked.prompt:
                raise Unlike(f"the sequences of {name} do not begin there")


def _beginnings(root: dict[int, Part], begun: Sequence[int]) -> Iterator[list[int]]:
    """What the sequences of a tree begin with, as far as something follows; only those with what is there already."""
    todo: deque[tuple[dict[int, Part], list[int]]] = deque([(root, [])])
    while todo:
        node, path = todo.popleft()
        if len(path) >= len(begun) and node:
            yield path
        for token, child in node.items():
            if len(path) >= len(begun) or token == begun[len(path)]:
                todo.append((child, [*path, token]))


def _otherwise(
    asked: _Asked, plain: Part, chosen: Sequence[Sequence[int]], prompt: Sequence[int]
) -> tuple[list[int], int]:
    """What it allows where a sequence has ended, and how many such texts were asked about.

    Raises:
        Unlike: that changes.
    """
    answers, ends = set[frozenset[int]](), 0
    for number, path in enumerate(chosen):
        follow = plain.allowed([*prompt, *path])
        for token in [one for one in follow if not plain.allowed([*prompt, *path, one])][: _ENDS - ends]:
            ends += 1
            answers.add(asked.or_nothing(number % asked.rows, [*prompt, *path, token]))
    if len(answers) > 1:
        raise Unlike("behind some sequences it allows other tokens than behind others")
    return sorted(next(iter(answers), frozenset())), ends


def _length(call: Captured, after: int) -> str:
    """The number of the prompt's tokens as the line can say it: by the name of its ids, else the number."""
    inputs = [*call.arguments[0], *(call.arguments[1].get(name) for name in ("inputs", "input_ids"))]
    for name, value in call.names.items():
        shape = getattr(value, "shape", None)
        if shape is not None and len(shape) == 2 and shape[1] == after and any(value is one for one in inputs):
            return f"{name}.shape[1]"
    return repr(after)
