"""Top-p, top-k, min-p and typical-p without sorting the vocabulary: transformers' tokens, their logits bit for bit.

In the host's memory only what can belong to the nucleus is sorted: tokens whose probabilities, all together, cannot
make up 1 - p are left out first. On a CUDA device top-p adds up the weights of logits digit by digit, with kernels of
its own (`_kernels`); without these it sorts everything. Top-k asks `topk`, as transformers does. Neither ever waits.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from perstep.errors import InputError
from perstep.fast import _launch
from perstep.fast._inside import State, Stateless
from perstep.fast._processor import Processor, signed
from perstep.fast._reading import on_host

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["MinP", "TopK", "TopP", "TypicalP"]

_CHUNK = 128
_FEW = 1024  # candidates that are worth picking out one by one; beyond them the largest are partitioned off
_SOME = 4096


class TopP(Stateless, Processor):
    """Keeps the most probable tokens that together reach `top_p`, as transformers' `TopPLogitsWarper` does.

    A token is kept if those before it, in descending order, have less than `top_p` together; of equal logits the one
    with the higher id comes first, as in transformers' sort on the CPU. Where that sum is within float32 rounding
    (1e-6) of `top_p`, the two may differ by that token, because the order of summation differs. A row with NaN or +inf,
    or with only -inf, is returned unchanged.

    Args:
        top_p: above 0, up to 1; at 1 every token is kept.
        filter_value: what the others become.
        min_tokens_to_keep: the least number of tokens that are kept.

    Raises:
        InputError: a value outside its range.
    """

    def __init__(self, top_p: float, filter_value: float = -math.inf, min_tokens_to_keep: int = 1) -> None:
        if not 0 < top_p <= 1:
            raise InputError(f"top_p {top_p}: it is a probability above 0 and up to 1, such as 0.9")
        self.top_p = float(top_p)
        self.filter_value = filter_value
        self.min_tokens_to_keep = _kept(min_tokens_to_keep)

    @signed
    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """The scores [rows, columns] with `filter_value` at tokens outside the nucleus; `scores` is left as it is."""
        if self.top_p == 1.0:
            return scores
        if not (on_host(scores) and scores.dtype == torch.float32):
            return self._on_device(scores)
        rows = scores.detach().contiguous()
        kept = torch.empty_like(rows)
        for row in range(len(rows)):
            self._row(rows[row], kept[row])
        return kept

    def _row(self, row: torch.Tensor, out: torch.Tensor) -> None:
        """Write the row of logits [columns] into `out`, filtered."""
        values: NDArray[np.float32] = row.numpy()
        top = float(values.max())
        weights: NDArray[np.float32] = torch.exp(row - top).numpy()
        total = float(weights.sum())
        if not math.isfinite(total):  # NaN, +inf, or nothing but -inf
            out.copy_(row)
            return
        # All tokens below this weight have less than 1 - p together, rounding included.
        possible = weights >= (1 - self.top_p) * total / len(values) * (1 - 1e-5)
        for largest in _ever_more(values, possible):
            ordered = np.sort(largest)[::-1]
            sums = np.cumsum(np.exp(ordered - np.float32(top)), dtype=np.float64)
            if len(ordered) == len(values) or (
                sums[-1] >= self.top_p * total and len(ordered) >= self.min_tokens_to_keep
            ):
                break
        kept = 1 + int(np.searchsorted(sums[:-1], self.top_p * total, side="left"))
        _keep(row, out, ordered, max(kept, min(self.min_tokens_to_keep, len(values))), self.filter_value)

    def graph_key(self) -> Hashable:
        """Its kind and its settings."""
        return TopP, self.top_p, self.filter_value, self.min_tokens_to_keep

    def graph_scores(self, scores: torch.Tensor, state: State, length: object) -> torch.Tensor:  # noqa: ARG002
        """The same by tensors alone."""
        return scores if self.top_p == 1.0 else self._on_device(scores)

    def _on_device(self, scores: torch.Tensor) -> torch.Tensor:
        kept = None if self.min_tokens_to_keep > 1 else _launch.top_p(scores, self.top_p, self.filter_value)
        return self._sorted(scores) if kept is None else kept

    def _sorted(self, scores: torch.Tensor) -> torch.Tensor:
        ordered, indices = torch.sort(scores, stable=True)
        removed = ordered.softmax(dim=-1, dtype=torch.float32).cumsum(dim=-1) <= 1 - self.top_p
        # The last are kept; a comparison instead of a slice, which would write.
        columns = torch.arange(scores.shape[-1], device=scores.device)
        removed = removed & (columns < scores.shape[-1] - self.min_tokens_to_keep)
        return scores.masked_fill(removed.scatter(1, indices, removed), self.filter_value)


class TopK(Stateless, Processor):
    """Keeps the tokens whose logit is not below the k-th largest, as transformers' `TopKLogitsWarper` does.

    All ties with the k-th are kept. On the host the k-th is searched only among values that are not below the k-th
    largest of the maxima of blocks of 128 values.

    Args:
        top_k: how many, 1 or more.
        filter_value: what the others become.
        min_tokens_to_keep: the least number of tokens that are kept, as in transformers.

    Raises:
        InputError: a value outside its range.
    """

    def __init__(self, top_k: int, filter_value: float = -math.inf, min_tokens_to_keep: int = 1) -> None:
        if not isinstance(top_k, int) or top_k < 1:
            raise InputError(f"top_k {top_k!r}: it is a whole number of tokens, 1 or more")
        self.top_k = max(top_k, _kept(min_tokens_to_keep))
        self.filter_value = filter_value

    @signed
    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """The scores [rows, columns] with `filter_value` below the k-th largest; `scores` itself is left as it is."""
        columns = scores.shape[-1]
        if self.top_k >= columns:
            return scores
        if on_host(scores) and scores.dtype == torch.float32:
            rows = scores.detach().contiguous()
            kept = torch.empty_like(rows)
            for row in range(len(rows)):
                _keep_from(rows[row], kept[row], _kth_largest(rows[row].numpy(), self.top_k), self.filter_value)
            return kept
        return self.graph_scores(scores, (), None)

    def graph_key(self) -> Hashable:
        """Its kind and its settings."""
        return TopK, self.top_k, self.filter_value

    def graph_scores(self, scores: torch.Tensor, state: State, length: object) -> torch.Tensor:  # noqa: ARG002
        """The same by tensors alone."""
        if self.top_k >= scores.shape[-1]:
            return scores
        return scores.masked_fill(scores < torch.topk(scores, self.top_k).values[..., -1:], self.filter_value)


class MinP(Stateless, Processor):
    """Keeps tokens at least `min_p` times as probable as the most probable, as transformers' `MinPLogitsWarper` does.

    No probability is computed: the logits are compared with the largest plus log(min_p). A token whose ratio is within
    float32 rounding (1e-6) of `min_p` may differ from transformers, which rounds the probabilities.

    Args:
        min_p: above 0, up to 1.
        filter_value: what the others become.
        min_tokens_to_keep: the least number of tokens that are kept; ties with the last of them stay too.

    Raises:
        InputError: a value outside its range.
    """

    def __init__(self, min_p: float, filter_value: float = -math.inf, min_tokens_to_keep: int = 1) -> None:
        if not 0 < min_p <= 1:
            raise InputError(f"min_p {min_p}: it is a share of the largest probability, above 0 and up to 1")
        self.min_p = float(min_p)
        self.filter_value = filter_value
        self.min_tokens_to_keep = _kept(min_tokens_to_keep)

    @signed
    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """The scores [rows, columns] with `filter_value` at improbable tokens; `scores` itself is left as it is."""
        if not (on_host(scores) and scores.dtype == torch.float32):
            return self.graph_scores(scores, (), None)
        least = self._least(scores)
        rows = scores.detach().contiguous()
        kept = torch.empty_like(rows)
        for row, bound in enumerate(least[:, 0].tolist()):
            # A row with +inf has no probabilities to compare, and is handed on as transformers does.
            _keep_from(rows[row], kept[row], bound if bound < math.inf else math.nan, self.filter_value)
        return kept

    def graph_key(self) -> Hashable:
        """Its kind and its settings."""
        return MinP, self.min_p, self.filter_value, self.min_tokens_to_keep

    def graph_scores(self, scores: torch.Tensor, state: State, length: object) -> torch.Tensor:  # noqa: ARG002
        """The same by tensors alone."""
        return scores.masked_fill(scores < self._least(scores), self.filter_value)

    def _least(self, scores: torch.Tensor) -> torch.Tensor:
        """The least logit of each row that is kept, [rows, 1]."""
        least = scores.amax(dim=-1, keepdim=True) + math.log(self.min_p)
        if self.min_tokens_to_keep > 1:
            count = min(self.min_tokens_to_keep, scores.shape[-1])
            least = torch.minimum(least, torch.topk(scores, count).values[..., -1:])
        return least


class TypicalP(Processor):
    """Keeps the tokens whose surprise is nearest to the mean one, up to a mass, as `TypicalLogitsWarper` does.

    Tokens are taken in the order of how far -log p is from the entropy, until they have `mass` together; ties with the
    last of them stay. On the host only the nearest ones are sorted. Where a sum is within float32 rounding (1e-6) of
    `mass`, the two may differ by that token, because the order of summation differs.

    Args:
        mass: above 0, below 1.
        filter_value: what the others become.
        min_tokens_to_keep: the least number of tokens that are kept.

    Raises:
        InputError: a value outside its range.
    """

    def __init__(self, mass: float, filter_value: float = -math.inf, min_tokens_to_keep: int = 1) -> None:
        if not 0 < mass < 1:
            raise InputError(f"mass {mass}: it is a probability above 0 and below 1, such as 0.9")
        self.mass = float(mass)
        self.filter_value = filter_value
        self.min_tokens_to_keep = _kept(min_tokens_to_keep)

    @signed
    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """The scores [rows, columns] with `filter_value` at untypical tokens; `scores` itself is left as it is."""
        logs = scores.log_softmax(dim=-1)
        shares = logs.exp()
        entropy = -(logs * shares).nansum(dim=-1, keepdim=True)
        distance = (-logs - entropy).abs()
        count = min(self.min_tokens_to_keep, scores.shape[-1])
        if not (on_host(scores) and scores.dtype == torch.float32):
            ordered, places = distance.sort(dim=-1)
            sums = shares.gather(-1, places).cumsum(dim=-1)
            last = (sums < self.mass).sum(dim=-1, keepdim=True).clamp(max=scores.shape[-1] - 1)
            removed = distance > ordered.gather(-1, last)
            return scores.masked_fill(removed.scatter(1, places[:, :count], False), self.filter_value)
        distances, weights = distance.detach().numpy(), shares.detach().numpy()
        kept = [_nearest(*row, self.mass, count) for row in zip(distances, weights, strict=True)]
        least = torch.tensor([[far] for far, _ in kept], dtype=torch.float32)
        removed = distance > least
        if count > 1:
            for row, (_, nearest) in enumerate(kept):
                removed[row, torch.from_numpy(nearest)] = False
        return scores.masked_fill(removed, self.filter_value)


def _nearest(
    distances: NDArray[np.float32], weights: NDArray[np.float32], mass: float, count: int
) -> tuple[float, NDArray[np.int64]]:
    """How far the last token is that is needed for a mass, and the nearest `count`; NaN where there are no weights."""
    columns = len(distances)
    order = np.zeros(0, dtype=np.int64)
    for some in (_FEW, _SOME * 4, columns):
        if some < columns and some >= count:
            order = np.argpartition(distances, some)[:some]
        elif some == columns:
            order = np.arange(columns)
        else:
            continue
        order = order[np.argsort(distances[order], kind="stable")]
        sums = np.cumsum(weights[order], dtype=np.float64)
        if sums[-1] >= mass:
            break
    if np.isnan(sums[-1]):  # a row of NaN, of +inf, or of nothing but -inf is handed on
        return math.nan, order[:count]
    last = min(int(np.searchsorted(sums, mass, side="left")), len(order) - 1)
    return float(distances[order[last]]), order[:count]


def _kept(count: object) -> int:
    if not isinstance(count, int) or count < 1:
        raise InputError(f"min_tokens_to_keep {count!r}: it is a whole number, 1 or more")
    return count


def _ever_more(values: NDArray[np.float32], possible: NDArray[np.bool_]) -> Iterator[NDArray[np.float32]]:
    """The candidates if they are few; else the largest of `values` [columns], and then all of them."""
    if np.count_nonzero(possible) <= _FEW:
        yield values[np.flatnonzero(possible)]
    elif len(values) > 4 * _SOME:
        yield np.partition(values, len(values) - _SOME)[-_SOME:]
    yield values


def _kth_largest(values: NDArray[np.float32], k: int) -> float:
    """The k-th largest of `values` [columns]; NaN counts as the largest, as for `torch.topk`."""
    chunks = len(values) // _CHUNK
    if k * 4 <= chunks:
        # The k-th largest maximum of disjoint chunks is no larger than the k-th largest value. A chunk is every
        # `chunks`-th value, so that maxima are taken side by side.
        maxima = values[: chunks * _CHUNK].reshape(_CHUNK, chunks).max(axis=0)
        bound = np.partition(maxima, chunks - k)[chunks - k]
        if not np.isnan(bound):
            values = values[np.flatnonzero(~(values < bound))]
    return float(np.partition(values, len(values) - k)[len(values) - k])


def _keep(row: torch.Tensor, out: torch.Tensor, ordered: NDArray[np.float32], kept: int, filter_value: float) -> None:
    """Write into `out` the `kept` largest of `row` [columns]; `ordered` are its largest, descending, at least `kept`.

    Of equal logits the ones with the highest ids are kept.
    """
    least = ordered[kept - 1]
    _keep_from(row, out, float(least), filter_value)
    tied = row.numpy() == least
    surplus = int(np.count_nonzero(tied)) - int(np.count_nonzero(ordered[:kept] == least))
    if surplus:
        out.numpy()[np.flatnonzero(tied)[:surplus]] = filter_value


def _keep_from(row: torch.Tensor, out: torch.Tensor, least: float, filter_value: float) -> None:
    """Write into `out` the values of `row` [columns] from `least` on, and `filter_value` for those below it."""
    if math.isnan(least):
        out.copy_(row)
        return
    below = float(np.nextafter(np.float32(least), np.float32(-np.inf)))
    torch.threshold(row, below, filter_value, out=out) if least > -math.inf else out.copy_(row)
