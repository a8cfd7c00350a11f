"""The plain decode loop: prefill, then sample, stop check and one forward, until every row has ended.

N new tokens are one prefill and N - 1 decode forwards. Streams nothing and measures nothing.
"""

import numpy as np
from numpy.typing import ArrayLike

from perstep.errors import InputError
from perstep.targets.reference.model import Reference, decode_one_token, prefill
from perstep.targets.reference.parts import Mark, no_mark
from perstep.targets.reference.sample import GREEDY, Ids, Sampler, sample, stop


def generate(
    model: Reference,
    prompt_BT: ArrayLike,
    max_new_tokens: int,
    sampler: Sampler = GREEDY,
    eos_ids: tuple[int, ...] | None = None,
    mark: Mark = no_mark,
) -> Ids:
    """Up to `max_new_tokens` new ids, [B, n]: one prefill and n - 1 decode forwards.

    It ends once every row has met an end token (`eos_ids`, the folder's own if None); a row that ends earlier
    repeats its end token meanwhile.
    """
    eos_ids = model.config.eos_ids if eos_ids is None else eos_ids
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens must be at least 1, found {max_new_tokens}")
    prompt_BT = np.asarray(prompt_BT)
    B, T = prompt_BT.shape
    cache = model.new_cache(B, T + max_new_tokens - 1)
    ids_B = sample(prefill(model, prompt_BT, cache, mark), sampler, T, mark)
    ended_B = stop(ids_B, eos_ids, mark)
    new_ids = [ids_B]
    while len(new_ids) < max_new_tokens and not ended_B.all():
        chosen_B = sample(decode_one_token(model, ids_B, cache, mark), sampler, T + len(new_ids), mark)
        ended_before_B = ended_B
        ended_B = stop(chosen_B, eos_ids, mark) | ended_before_B
        ids_B = np.where(ended_before_B, ids_B, chosen_B)
        new_ids.append(ids_B)
    return np.stack(new_ids, axis=1)
