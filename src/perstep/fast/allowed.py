"""Only these tokens, or only these sequences: what `prefix_allowed_tokens_fn` is mostly used for, without the function.

transformers calls the function for each row at every step, turns the list that it gives into indices, and fills a mask
as wide as the vocabulary. A list of 100,000 ids takes 15 ms to turn. Here the ids are turned once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch

from perstep._words import plural
from perstep.errors import InputError
from perstep.fast._processor import Processor, signed
from perstep.fast._reading import on_host

__all__ = ["AllowSequences", "AllowTokens"]

Below = Any
"""The place behind a token, itself a `Node`, or whatever a tree of somebody's own holds there."""

Node = dict[int, Below]
"""A place in a tree of sequences: the tokens that may follow -> their places."""

_FEW = 8
"""Up to one allowed token in this many, they are put into a row of -inf; else the others are overwritten."""


class AllowTokens(Processor):
    """Sets the logits of all but some ids to -inf.

    Without `beams` this is `scores + mask` with a mask of 0 and -inf. With `beams` it is transformers'
    `PrefixConstrainedLogitsProcessor` with a function that always gives these ids: where all of them are -inf already,
    in every beam of a prompt, they get 0.

    Args:
        allowed_tokens: the ids; ids beyond the logits are ignored.
        beams: rows of each prompt; None for the plain mask.

    Raises:
        InputError: no ids, a negative one, or no number of beams.

    Examples:
        >>> AllowTokens([1, 2])(torch.tensor([[0]]), torch.zeros(1, 4)).tolist()
        [[-inf, 0.0, 0.0, -inf]]
    """

    def __init__(self, allowed_tokens: Iterable[int], *, beams: int | None = None) -> None:
        self.allowed_tokens = tuple(sorted(set(map(int, allowed_tokens))))
        if not self.allowed_tokens or self.allowed_tokens[0] < 0:
            raise InputError("allowed_tokens are the ids to allow: at least one, none of them negative")
        self.beams = _beams(beams)
        self._indices: dict[tuple[torch.device, int], tuple[bool, torch.Tensor, torch.Tensor]] = {}

    def __deepcopy__(self, _memo: object) -> AllowTokens:
        return self  # nothing changes from step to step

    @signed
    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """The scores [rows, columns] with -inf at all other ids; `scores` itself is left as it is.

        Raises:
            InputError: no id has a logit, or the rows are no multiple of `beams`.
        """
        few, allowed, others = self._inside(scores)
        if few:
            masked = torch.full_like(scores, -torch.inf).index_copy_(1, allowed, scores.index_select(1, allowed))
        else:
            masked = scores.index_fill(1, others, -torch.inf)
        if self.beams is None:
            return masked
        gone = _gone(masked, self.beams)
        if on_host(scores):
            return masked.masked_fill_(_only(masked, allowed) & gone, 0.0) if bool(gone.any()) else masked
        return masked.masked_fill(_only(masked, allowed) & gone, 0.0)

    def _inside(self, scores: torch.Tensor) -> tuple[bool, torch.Tensor, torch.Tensor]:
        """Whether few are allowed; those that are and those that are not, int64 on the device of the scores."""
        key = (scores.device, scores.shape[1])
        indices = self._indices.get(key)
        if indices is None:
            allowed = torch.zeros(scores.shape[1], dtype=torch.bool)
            allowed[[token for token in self.allowed_tokens if token < scores.shape[1]]] = True
            count = int(allowed.sum())
            if not count:
                raise InputError(
                    f"no allowed token has a logit: the model gives {plural(scores.shape[1], 'logit')}, and the least "
                    f"id is {self.allowed_tokens[0]}"
                )
            ids = [torch.nonzero(one).ravel().to(scores.device) for one in (allowed, ~allowed)]
            indices = self._indices[key] = count * _FEW <= scores.shape[1], ids[0], ids[1]
        return indices


class AllowSequences(Processor):
    """Allows the tokens that continue one of several sequences, as `PrefixConstrainedLogitsProcessor` over a tree does.

    What has been generated behind the first `after` tokens is looked up in a tree of the sequences: a step costs the
    same for ten of them and for a million. It keeps no state, so calls, batches and reordered beams are safe; on a
    device no step waits for the host.

    Args:
        sequences: of ids; or their tree, as nested dictionaries of ids.
        after: number of first tokens that are not looked up, such as those of the prompt.
        otherwise: ids that are allowed behind a whole sequence, and where the text has left the tree. Without them the
            host raises an error there, as transformers does for an empty list; on a device the row stays as it is.
        beams: rows of each prompt: where all allowed tokens are -inf already in every one of them, they get 0.

    Raises:
        InputError: no sequence, an id that is none, or a number outside its range.

    Examples:
        >>> names = AllowSequences([[5, 6], [5, 7], [4]], after=1, otherwise=[2])
        >>> allowed = names(torch.tensor([[9, 5], [9, 4]]), torch.zeros(2, 8)) == 0
        >>> [row.nonzero().ravel().tolist() for row in allowed]
        [[6, 7], [2]]
    """

    def __init__(
        self,
        sequences: Iterable[Sequence[int]] | Mapping[int, Below],
        *,
        after: int = 0,
        otherwise: Iterable[int] = (),
        beams: int = 1,
    ) -> None:
        self.root = _tree(sequences)
        if not self.root:
            raise InputError("sequences has no sequence of ids: give at least one")
        if after < 0:
            raise InputError(f"after {after}: it is a number of tokens, 0 or more")
        self.after, self.otherwise, self.beams = after, tuple(sorted(set(map(int, otherwise)))), _beams(beams) or 1
        self._largest = max(_largest(self.root), *self.otherwise, 0)
        self._ids: dict[int, torch.Tensor] = {}  # by `id` of a node, which the root holds
        self._edges: dict[torch.device, _Edges] = {}

    def __deepcopy__(self, _memo: object) -> AllowSequences:
        return self  # nothing changes from step to step

    def allowed(self, tokens: Sequence[int]) -> tuple[int, ...]:
        """The ids that may follow a text, ascending; none where `otherwise` is empty and the text is in no sequence."""
        node = self._node(list(tokens[self.after :]))
        return tuple(sorted(node)) if node else self.otherwise

    @signed
    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The scores [rows, columns] with -inf at what continues no sequence; `scores` itself is left as it is.

        Raises:
            InputError: the tree has an id beyond the logits, the rows are no multiple of `beams`, or on the host a text
                is in no sequence and `otherwise` is empty.
        """
        if self._largest >= scores.shape[1]:
            raise InputError(
                f"a sequence has the id {self._largest}, but the model gives {plural(scores.shape[1], 'logit')}: the "
                "ids are of another tokenizer"
            )
        if not on_host(input_ids):
            return self._by_tensors(input_ids, scores)
        masked = torch.full_like(scores, -torch.inf)
        allowed = [self._children(text) for text in input_ids[:, self.after :].tolist()]
        for row, ids in enumerate(allowed):
            masked[row, ids] = scores[row, ids]
        gone = _gone(masked, self.beams)
        if bool(gone.any()):
            for row, ids in enumerate(allowed):
                if gone[row]:
                    masked[row, ids] = 0.0
        return masked

    def _node(self, text: list[int]) -> Node | None:
        node: Node | None = self.root
        for token in text:
            node = node.get(token) if node else None
            if node is None:
                return None
        return node

    def _children(self, text: list[int]) -> torch.Tensor:
        node = self._node(text)
        if not node and not self.otherwise:
            raise InputError("a text is in none of the sequences, so no token is allowed: give `otherwise`")
        key = id(node) if node else 0
        ids = self._ids.get(key)
        if ids is None:
            ids = self._ids[key] = torch.tensor(sorted(node) if node else self.otherwise, dtype=torch.int64)
        return ids

    def _by_tensors(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        edges = self._edges.get(ids.device)
        if edges is None:
            edges = self._edges[ids.device] = _Edges(self.root, self.otherwise, ids.device)
        allowed, is_known = edges.allowed(ids[:, self.after :], scores.shape[1])
        masked = scores.masked_fill(~allowed, -torch.inf)
        masked = masked.masked_fill(allowed & _gone(masked, self.beams), 0.0)
        return masked if self.otherwise else torch.where(is_known, masked, scores)


class _Edges:
    """A tree of sequences as tensors: its edges, sorted by the node that they leave and by their tokens.

    Args:
        root: of the tree.
        otherwise: the tokens of the last node, in which are all texts that are in no sequence or have ended one.
        device: of the tensors.
    """

    def __init__(self, root: Node, otherwise: Sequence[int], device: torch.device) -> None:
        nodes, depth = [(root, 0)], 0
        numbers = {id(root): 0}
        for node, level in nodes:  # grows while it is read: the nearest first
            depth = max(depth, level)
            for child in node.values():
                if child:  # a node without children is the last one
                    numbers[id(child)] = len(nodes)
                    nodes.append((child, level + 1))
        last = len(nodes)
        begins, tokens, targets = [], list[int](), list[int]()
        for node, _ in nodes:
            begins.append(len(tokens))
            for token in sorted(node):
                tokens.append(token)
                targets.append(numbers.get(id(node[token]), last) if node[token] else last)
        begins += [len(tokens), len(tokens) + len(otherwise)]
        tokens += otherwise
        self._depth, self._last = depth + 1, last
        self._base = max(tokens) + 2
        sources = [number for number in range(last) for _ in range(begins[number], begins[number + 1])]
        keys = [source * self._base + token for source, token in zip(sources, tokens, strict=False)]
        self._most = max(end - begin for begin, end in pairwise(begins))
        self._keys, self._tokens, self._targets, self._begins = (
            torch.tensor(one, dtype=torch.int64, device=device)
            for one in (keys, [*tokens, 0], [*targets, last], begins)
        )

    def allowed(self, ids: torch.Tensor, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
        """What may follow each row of ids [rows, length], bool [rows, columns], and whether it is known [rows, 1]."""
        state = torch.full((ids.shape[0],), 0 if ids.shape[1] <= self._depth else self._last, device=ids.device)
        for index in range(ids.shape[1] if ids.shape[1] <= self._depth else 0):
            key = state * self._base + ids[:, index].clamp(max=self._base - 1)
            place = torch.searchsorted(self._keys, key).clamp(max=len(self._keys) - 1)
            state = torch.where(self._keys[place] == key, self._targets[place], self._last)
        places = self._begins[state][:, None] + torch.arange(self._most, device=ids.device)
        inside = places < self._begins[state + 1][:, None]
        tokens = torch.where(inside, self._tokens[places.clamp(max=len(self._tokens) - 1)], columns)
        mask = torch.zeros(ids.shape[0], columns + 1, dtype=torch.bool, device=ids.device)
        return mask.scatter_(1, tokens, True)[:, :columns], (state != self._last)[:, None]


def _tree(sequences: Iterable[Sequence[int]] | Mapping[int, Below]) -> Node:
    """A tree of one's own of sequences, or of nested dictionaries; keys that are no ids are left out of these."""
    root: Node = {}
    if isinstance(sequences, Mapping):
        todo: list[tuple[Mapping[Below, Below], Node]] = [(sequences, root)]
        while todo:  # no recursion: a sequence may be longer than the stack is deep
            given, branch = todo.pop()
            for token, child in given.items():
                if isinstance(token, int) and isinstance(child, Mapping):
                    below: Node = {}
                    branch[_id(token)] = below
                    todo.append((child, below))
        return root
    for sequence in sequences:
        node = root
        for token in sequence:
            node = node.setdefault(_id(token), {})
    return root


def _largest(root: Node) -> int:
    nodes, largest = [root], 0
    for node in nodes:  # grows while it is read
        largest = max(largest, *node, 0)
        nodes += node.values()
    return largest


def _id(token: int) -> int:
    if token < 0:
        raise InputError(f"the id {token} in a sequence: ids are 0 or more")
    return int(token)


def _beams(beams: int | None) -> int | None:
    if beams is not None and (not isinstance(beams, int) or beams < 1):
        raise InputError(f"beams {beams!r}: it is the number of rows of a prompt, 1 or more")
    return beams


def _gone(masked: torch.Tensor, beams: int) -> torch.Tensor:
    """The rows [rows, 1] of prompts that have nothing but -inf in any of their beams."""
    if masked.shape[0] % beams:
        raise InputError(f"the batch has {plural(masked.shape[0], 'row')}, no multiple of {plural(beams, 'beam')}")
    gone = masked.amax(dim=-1).isneginf().view(-1, beams).all(dim=-1, keepdim=True)
    return gone.repeat_interleave(beams, dim=0)


def _only(masked: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Which columns are these ids, bool [1, columns]."""
    columns = torch.zeros(1, masked.shape[1], dtype=torch.bool, device=masked.device)
    return columns.index_fill_(1, ids, True)
