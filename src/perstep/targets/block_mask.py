"""Skipping decoder blocks in place: any set of them, in a transformers model or in the reference.

A skipped block is the identity and leaves nothing in the cache, so that the model computes what it would compute with
the block taken out and the others renumbered (tested for every family: logits and greedy tokens). Calls are counted:
a skipped block that ran makes the measurement invalid. What the skipped blocks would have contributed is not made up
for; nothing is trained or merged.
"""

from collections.abc import Iterable
from typing import Protocol, Self

import numpy as np

from perstep._words import plural
from perstep.errors import InputError, InvalidMeasurement
from perstep.targets.interrupts import uninterrupted
from perstep.targets.reference import Reference
from perstep.targets.reference.skipping import SkippedLayers


class Skipping(Protocol):
    """What skips the blocks of one kind of model."""

    calls: list[int]
    """How often each block's own forward ran while the mask was on, [blocks]."""

    def apply(self) -> None:
        """Put the mask on."""
        ...

    def remove(self) -> None:
        """Take it off; everything is as it was."""
        ...


class BlockMask:
    """A context manager in which a model runs only some of its decoder blocks.

    Examples:
        >>> with BlockMask(model, active=[0, 2, 3]) as mask:  # doctest: +SKIP
        ...     model.generate(**inputs)
        >>> mask.calls  # doctest: +SKIP
        (32, 0, 32, 32)

    The blocks are found by themselves, those of the text part in a vision-language model. Caches made meanwhile, by
    `generate`, by the model or by the caller, hold nothing for a skipped block; go on with a cache only under the
    mask it was begun with. It may be put on again; masks on one model do not nest.

    Args:
        model: a transformers model that generates (or a pipeline of one), or a `reference.Reference`.
        active: the blocks that run: indices from 0, in any order, or a boolean mask with one value a block.

    Attributes:
        num_blocks: how many decoder blocks the model has.
        active: indices of the blocks that run, ascending.
        skipped: indices of the others.

    Raises:
        InputError: indices out of range or repeated, none at all, a mask of another length, or a model whose blocks
            cannot be skipped; the message names which.
    """

    def __init__(self, model: object, active: Iterable[int] | Iterable[bool]) -> None:
        self.num_blocks = num_blocks(model)
        self.active = active_indices(active, self.num_blocks)
        self.skipped = tuple(index for index in range(self.num_blocks) if index not in self.active)
        self._skipping = _skipping(model, self.skipped)
        self._applied = False

    @property
    def calls(self) -> tuple[int, ...]:
        """How often each block ran while the mask was on, [num_blocks]."""
        return tuple(self._skipping.calls)

    @uninterrupted(undo="remove")
    def apply(self) -> Self:
        """Put the mask on.

        Raises:
            InputError: it is on already, or another one is on this model.
        """
        if self._applied:
            raise InputError("this BlockMask is on already; take it off with remove() first")
        self._skipping.apply()
        self._applied = True
        return self

    @uninterrupted()
    def remove(self) -> None:
        """Take the mask off; does nothing when it is off."""
        if self._applied:
            self._skipping.remove()
            self._applied = False

    @uninterrupted(undo="remove")
    def __enter__(self) -> Self:
        return self.apply()

    @uninterrupted()
    def __exit__(self, *exception: object) -> None:
        self.remove()

    def check(self) -> None:
        """See that skipped blocks did not run and the others ran equally often.

        Inside a forward that `torch.compile` has compiled nothing can be counted, and nothing is found wrong.

        Raises:
            InvalidMeasurement: what ran is not what the mask says.
        """
        calls = self.calls
        ran = [index for index in self.skipped if calls[index]]
        if ran:
            raise InvalidMeasurement(f"skipped blocks ran: {_list(ran)}; the measurement is not of this mask")
        if len({calls[index] for index in self.active}) > 1:
            counts = ", ".join(f"{index}: {calls[index]}" for index in self.active)
            raise InvalidMeasurement(f"the active blocks did not run equally often ({counts})")


def num_blocks(model: object) -> int:
    """How many decoder blocks a model has.

    Raises:
        InputError: they cannot be found.
    """
    if isinstance(model, Reference):
        return model.config.num_layers
    from perstep.targets.transformers.blocks import find_blocks

    return len(find_blocks(model).blocks)


def forward_weight_bytes(model: object, active: Iterable[int]) -> int | None:
    """Bytes of the weights that a decode forward goes over: those of the active blocks and of the head.

    Args:
        model: what `BlockMask` takes.
        active: indices of the blocks that run.

    Returns:
        None for a mixture of experts, where the router chooses which are gone over, and where a library does not show
        the weights of its linear layers.

    Raises:
        InputError: the blocks cannot be found.
    """
    if isinstance(model, Reference):
        arrays = [value for index in active for value in vars(model.layers[index]).values()]
        return sum(array.nbytes for array in [*arrays, model.head_DV] if isinstance(array, np.ndarray))
    from perstep.targets.transformers.blocks import find_blocks
    from perstep.targets.transformers.weights import weight_bytes

    found_blocks = find_blocks(model)
    blocks = [found_blocks.blocks[index] for index in active]
    if any(name.rpartition(".")[2] == "experts" for block in blocks for name, _ in block.named_modules()):
        return None
    return weight_bytes(part for part in (*blocks, found_blocks.model.get_output_embeddings()) if part is not None)


def active_indices(active: Iterable[int] | Iterable[bool], num_blocks: int) -> tuple[int, ...]:
    """A set of active blocks as ascending indices.

    Args:
        active: indices, or a boolean for each block; arrays and tensors are taken too.
        num_blocks: of the model.

    Raises:
        InputError: out of range, repeated, none, or a mask of another length.
    """
    values: list[object] = list(getattr(active, "tolist", lambda: active)())
    if values and all(isinstance(value, bool) for value in values):
        if len(values) != num_blocks:
            raise InputError(
                f"a mask of {plural(len(values), 'value')} for a model of {plural(num_blocks, 'block')}: give one a "
                "block"
            )
        values = [index for index, is_active in enumerate(values) if is_active]
    if not values:
        raise InputError("no block is active: at least one of the model's blocks must run")
    indices = [value for value in values if isinstance(value, int) and not isinstance(value, bool)]
    if len(indices) < len(values):
        raise InputError(f"active blocks are indices or a boolean mask, found {values!r}")
    outside = sorted({value for value in indices if not 0 <= value < num_blocks})
    if outside:
        raise InputError(
            f"{_blocks(outside)} out of range: the model has {plural(num_blocks, 'block')}, numbered 0 to "
            f"{num_blocks - 1}"
        )
    repeated = sorted({value for value in indices if indices.count(value) > 1})
    if repeated:
        raise InputError(f"{_blocks(repeated)} given more than once: name each active block once")
    return tuple(sorted(indices))


def _skipping(model: object, skipped: tuple[int, ...]) -> Skipping:
    if isinstance(model, Reference):
        return SkippedLayers(model, skipped)
    from perstep.targets.transformers.blocks import SkippedBlocks

    return SkippedBlocks(model, skipped)


def _blocks(indices: list[int]) -> str:
    return f"block {indices[0]} is" if len(indices) == 1 else f"blocks {_list(indices)} are"


def _list(indices: list[int]) -> str:
    return ", ".join(map(str, indices))
