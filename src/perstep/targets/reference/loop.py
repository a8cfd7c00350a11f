"""The decode loop of the reference decoder, one whole step at a time: forward, choice of a token, stop check.

Measurements replay recorded tokens through this loop. Every step looks for end tokens, as `generate` does, but they do
not end the loop: the caller decides the number of steps.
"""

import numpy as np
from numpy.typing import NDArray

from perstep.targets.reference.model import Reference, decode_one_token, prefill
from perstep.targets.reference.parts import Mark
from perstep.targets.reference.sample import Ids, Sampler, sample, stop


class ReferenceLoop:
    """One decode loop over one KV cache.

    Args:
        model: the decoder.
        batch: number of sequences.
        capacity: number of positions of the KV cache.
        sampler: how tokens are chosen: greedy, or with temperature, top-k and top-p.

    Raises:
        InputError: the model has fewer positions, or the cache would not fit into memory.
    """

    def __init__(self, model: Reference, batch: int, capacity: int, sampler: Sampler) -> None:
        self.model = model
        self.cache = model.new_cache(batch, capacity)
        self.sampler = sampler
        self.ended_B = np.zeros(batch, np.bool_)

    def reset(self) -> None:
        """Forget the context."""
        self.cache.reset()

    def prefill(self, ids_BT: NDArray[np.int64], mark: Mark) -> Ids:
        """A step over a whole prompt, [B, T]; return the tokens chosen after it, [B]."""
        logits_BV = prefill(self.model, ids_BT, self.cache, mark)
        return self._choose(logits_BV, mark)

    def decode(self, ids_B: NDArray[np.int64], mark: Mark) -> Ids:
        """A step from the tokens [B] to the next tokens, [B]."""
        logits_BV = decode_one_token(self.model, ids_B, self.cache, mark)
        return self._choose(logits_BV, mark)

    def _choose(self, logits_BV: NDArray[np.float32], mark: Mark) -> Ids:
        chosen_B = sample(logits_BV, self.sampler, self.cache.current_length(), mark)
        self.ended_B = stop(chosen_B, self.model.config.eos_ids, mark)
        return chosen_B
