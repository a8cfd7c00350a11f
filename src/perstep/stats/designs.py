"""Balanced orders of arms (law "arms take turns").

Inside one round every arm stands in every position equally often and follows every other arm equally often (first-order
carry-over). Neither warm positions nor the caches that the previous arm left can then favour an arm. For two arms the
order is ABBA; for more it is a Williams square, and two of them where the number of arms is odd. The order is drawn
anew for every round, which prevents resonance with periodic noise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from perstep._words import plural
from perstep.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def balanced_block(num_arms: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """One complete balanced block: what one round runs.

    Args:
        num_arms: number of arms, at least 1.
        rng: draws which arm plays which role, and the order of the rows.

    Returns:
        [rows, num_arms] arm indices, to be run row by row: 1 row for one arm, 2 for two
        (ABBA or BAAB), num_arms rows for an even number and 2 num_arms for an odd one.

    Raises:
        InputError: if there is no arm.
    """
    square = williams_square(num_arms)
    relabel = rng.permutation(num_arms)
    return relabel[square][rng.permutation(square.shape[0])]


def williams_square(num_arms: int) -> NDArray[np.intp]:
    """The unrandomised block: Latin in its columns, balanced for first-order carry-over in its rows.

    The first row is 0, n-1, 1, n-2, ...: its successive differences are all different, so
    that its n cyclic shifts hold each ordered pair of neighbours exactly once. For an odd
    n the differences collide, and the mirrored rows make up for it: each pair occurs twice.

    Args:
        num_arms: number of arms, at least 1.

    Returns:
        [rows, num_arms], rows = num_arms if that is 1 or even, else 2 num_arms.

    Raises:
        InputError: if there is no arm.

    Source: Williams, Aust. J. Sci. Res. A 2 (1949) 149-168.
    """
    if num_arms < 1:
        raise InputError(f"{plural(num_arms, 'arm')}; at least 1 is needed")
    first = np.zeros(num_arms, dtype=np.intp)
    first[1::2] = np.arange(num_arms - 1, num_arms - 1 - num_arms // 2, -1)
    first[2::2] = np.arange(1, (num_arms + 1) // 2)
    square = (first[None, :] + np.arange(num_arms)[:, None]) % num_arms
    if num_arms % 2 == 0 or num_arms == 1:
        return square
    return np.concatenate([square, square[:, ::-1]])
