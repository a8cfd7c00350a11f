"""Skipping layers of the reference decoder: its list of layers holds only the active ones while the mask is on.

A layer knows its own index in the cache, so the others stay where they are; what a skipped layer's part of the cache
holds is never read. Layers are counted as the decoder's loop takes them.
"""

from collections.abc import Iterator

from perstep.errors import InputError
from perstep.targets.reference.model import Layer, Reference


class _Counted(list[Layer]):
    """The active layers; what takes them from the list is counted."""

    def __init__(self, layers: list[Layer], calls: list[int]) -> None:
        super().__init__(layers)
        self._calls = calls

    def __iter__(self) -> Iterator[Layer]:
        for layer in super().__iter__():
            self._calls[layer.index] += 1
            yield layer


class SkippedLayers:
    """Some layers of a reference decoder, skipped between `apply` and `remove`.

    Attributes:
        calls: how often each layer ran meanwhile, [layers].
    """

    def __init__(self, model: Reference, skipped: tuple[int, ...]) -> None:
        self.calls = [0] * model.config.num_layers
        self._model = model
        self._skipped = skipped
        self._all: list[Layer] = []

    def apply(self) -> None:
        """Leave the skipped layers out of the decoder's loop.

        Raises:
            InputError: another mask is on.
        """
        if isinstance(self._model.layers, _Counted):
            raise InputError("another BlockMask is on this model; take it off first")
        self._all = self._model.layers
        active = [layer for layer in self._all if layer.index not in self._skipped]
        self._model.layers = _Counted(active, self.calls)

    def remove(self) -> None:
        """Put all layers back."""
        self._model.layers = self._all
