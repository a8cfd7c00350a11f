"""The causal mask, built once and seen through views: for prefill, chunks behind a past, and decode.

A mask for q new positions behind p held ones allows key j to query i where j <= i + p. One band of R rows and P + R
columns, true where c <= i + P, holds all of them with q <= R and p <= P: the mask is rows 0..q, columns P - p..P + q.
So a look-up is one slice. The band grows by doubling; it is never larger than `max_bytes`. It does not apply masks:
that costs far more than building them (docs/fast.md).
"""

from collections.abc import Callable
from typing import Any, Literal

from perstep._words import plural
from perstep.errors import InputError

__all__ = ["CausalMaskCache"]

Mask = Any
"""A tensor or an array, by the backend; so are a dtype and a device what the backend takes for them."""

Wanted = tuple[object, object, bool]
"""A dtype, a device, and whether the mask has one row."""

MAX_BYTES = 256 << 20
"""The default limit: a boolean band for a prefill of 16,384 positions, or chunks of 512 behind 524,000."""


class _Band:
    """One buffer, and the view through which its masks are seen."""

    __slots__ = ("nbytes", "past", "rows", "view")

    def __init__(self) -> None:
        self.rows = self.past = self.nbytes = 0
        self.view: Callable[[int, int], Mask]


class CausalMaskCache:
    """Causal masks of any shape from one buffer for each dtype and device.

    Guarantee: every mask equals a newly built one, bit for bit. A mask is a view of memory that later masks share: do
    not write into it (NumPy refuses writes, torch does not). If a band would take more than `max_bytes`, the mask is
    built for this call and not kept; if several bands together would, the oldest are dropped.

    Args:
        backend: `torch` gives tensors, `numpy` arrays.
        max_bytes: of all kept buffers together.

    Examples:
        >>> CausalMaskCache("numpy").get(2, 4)
        array([[ True,  True,  True, False],
               [ True,  True,  True,  True]])

    Raises:
        InputError: an unknown backend, or a limit below 1.
    """

    def __init__(self, backend: Literal["torch", "numpy"] = "torch", *, max_bytes: int = MAX_BYTES) -> None:
        if backend not in ("torch", "numpy"):
            raise InputError(f"backend {backend!r}: it must be torch or numpy")
        if max_bytes < 1:
            raise InputError(f"max_bytes {max_bytes}: it must be at least 1")
        self.max_bytes = max_bytes
        self._backend: type[_Torch | _NumPy] = _Torch if backend == "torch" else _NumPy
        self._named: dict[Wanted, _Band] = {}  # as the caller spelt dtype and device
        self._bands: dict[Wanted, _Band] = {}  # oldest first

    @property
    def nbytes(self) -> int:
        """The bytes of all kept buffers."""
        return sum(band.nbytes for band in self._bands.values())

    def clear(self) -> None:
        """Drop all buffers; views that were returned stay valid."""
        self._named.clear()
        self._bands.clear()

    def get(
        self, q_len: int, kv_len: int, *, dtype: object = None, device: object = None, padding: object = None
    ) -> Mask:
        """The mask for `q_len` new positions that end at position `kv_len`.

        Args:
            q_len: new positions, at least 1.
            kv_len: cached and new positions together, at least `q_len`.
            dtype: None for the boolean form, True where a query may attend. A floating dtype of the backend for the
                additive form: 0 where it may, -inf elsewhere.
            device: of the tensor; the CPU if None.
            padding: [batch, kv_len], 1 or True for real positions, 0 or False for padded ones; combined with the mask
                at each call. In the additive form, a row that may attend to nothing holds half the dtype's lowest
                number instead of -inf, so its softmax is uniform and not NaN.

        Returns:
            [q_len, kv_len], or [batch, 1, q_len, kv_len] with padding.

        Raises:
            InputError: lengths out of range, a dtype that is not floating, or padding of another shape.
        """
        past = kv_len - q_len
        if q_len < 1 or past < 0:
            raise InputError(
                f"a mask of {plural(q_len, 'query', 'queries')} and {plural(kv_len, 'key')}: there must be at least 1 "
                "query, and a key for each"
            )
        # A decode step needs one row and a long past, a prefill many rows: one band for both would take their product.
        wanted = (None if padding is not None else dtype, device, q_len == 1)
        band = self._named.get(wanted)
        if band is None or q_len > band.rows or past > band.past:
            band = self._grown(wanted, q_len, past)
        mask = band.view(q_len, past)
        return mask if padding is None else self._backend.with_padding(mask, padding, dtype)

    def _grown(self, wanted: Wanted, q_len: int, past: int) -> _Band:
        dtype, device, single = wanted
        key = (*self._backend.canonical(dtype, device), single)
        band = self._named[wanted] = self._bands.setdefault(key, _Band())
        rows, capacity = _power_of_two(q_len), _power_of_two(past)
        for size in ((max(rows, band.rows), max(capacity, band.past)), (rows, capacity), (q_len, past)):
            nbytes = self._backend.nbytes(*size, key[0])
            if nbytes <= self.max_bytes:
                self._forget_others(key, nbytes)
                band.rows, band.past, band.nbytes = *size, nbytes
                band.view = self._backend.view_of(self._backend.build(*size, *key[:2]), columns=size[1])
                return band
        del self._named[wanted]
        if not band.rows:
            del self._bands[key]
        once = _Band()
        once.view = self._backend.view_of(self._backend.build(q_len, past, *key[:2]), columns=past)
        return once

    def _forget_others(self, key: Wanted, nbytes: int) -> None:
        """Make room for a band of `nbytes` under this key."""
        for other in [other for other in self._bands if other != key]:
            if nbytes + sum(band.nbytes for name, band in self._bands.items() if name != key) <= self.max_bytes:
                return
            gone = self._bands.pop(other)
            self._named = {name: band for name, band in self._named.items() if band is not gone}


def _power_of_two(count: int) -> int:
    """The next one that is not less; 0 stays 0."""
    return 1 << (count - 1).bit_length() if count else 0


class _NumPy:
    """Bands as arrays."""

    @staticmethod
    def canonical(dtype: Mask, device: Mask) -> tuple[Mask, Mask]:
        import numpy as np

        try:
            kind = np.dtype(np.bool_ if dtype is None else dtype)
        except TypeError as error:
            raise InputError(f"dtype {dtype!r}: the numpy backend takes NumPy's, such as float32") from error
        if kind.kind not in "fb":
            raise InputError(f"dtype {kind}: a mask is boolean, or additive in a floating dtype such as float32")
        if device not in (None, "cpu"):
            raise InputError(f"device {device}: arrays of the numpy backend are on the cpu")
        return kind, None

    @staticmethod
    def nbytes(rows: int, past: int, dtype: Mask) -> int:
        return int(rows * (past + rows) * dtype.itemsize)

    @staticmethod
    def build(rows: int, past: int, dtype: Mask, device: Mask) -> Mask:  # noqa: ARG004 - as the other backend
        import numpy as np

        allowed = np.tri(rows, past + rows, past, dtype=np.bool_)
        band = allowed if dtype == np.bool_ else np.where(allowed, dtype.type(0), dtype.type(-np.inf))
        band.flags.writeable = False
        return band

    @staticmethod
    def view_of(band: Mask, *, columns: int) -> Callable[[int, int], Mask]:
        return lambda q_len, past: band[:q_len, columns - past : columns + q_len]

    @staticmethod
    def with_padding(mask: Mask, padding: Mask, dtype: Mask) -> Mask:
        import numpy as np

        real = np.asarray(padding)
        _check_padding(real.shape, mask.shape[1])
        allowed = mask & real.astype(np.bool_)[:, None, None, :]
        if dtype is None or np.dtype(dtype) == np.bool_:
            return allowed
        kind, _ = _NumPy.canonical(dtype, None)
        forbidden = np.where(allowed.any(-1, keepdims=True), kind.type(-np.inf), np.finfo(kind).min / kind.type(2))
        return np.where(allowed, kind.type(0), forbidden)


class _Torch:
    """Bands as tensors."""

    @staticmethod
    def canonical(dtype: Mask, device: Mask) -> tuple[Mask, Mask]:
        import torch

        kind = torch.bool if dtype is None else dtype
        if not isinstance(kind, torch.dtype) or not (kind.is_floating_point or kind == torch.bool):
            raise InputError(f"dtype {dtype!r}: a mask is boolean, or additive in a floating torch dtype")
        return kind, torch.device("cpu" if device is None else device)

    @staticmethod
    def nbytes(rows: int, past: int, dtype: Mask) -> int:
        return int(rows * (past + rows) * dtype.itemsize)

    @staticmethod
    def build(rows: int, past: int, dtype: Mask, device: Mask) -> Mask:
        import torch

        shape = (rows, past + rows)
        # A buffer made in inference mode could not be used where gradients are wanted later.
        with torch.inference_mode(False):
            if dtype == torch.bool:
                return torch.ones(shape, dtype=dtype, device=device).tril_(past)
            return torch.full(shape, -torch.inf, dtype=dtype, device=device).triu_(past + 1)

    @staticmethod
    def view_of(band: Mask, *, columns: int) -> Callable[[int, int], Mask]:
        view, width = band.as_strided, band.shape[1]
        # One call of torch: 1.0 us, where slicing both dimensions takes 1.9.
        return lambda q_len, past: view((q_len, q_len + past), (width, 1), columns - past)

    @staticmethod
    def with_padding(mask: Mask, padding: Mask, dtype: Mask) -> Mask:
        import torch

        real = torch.as_tensor(padding, device=mask.device)
        _check_padding(tuple(real.shape), mask.shape[1])
        allowed = mask & real.bool()[:, None, None, :]
        if dtype is None or dtype == torch.bool:
            return allowed
        kind, _ = _Torch.canonical(dtype, mask.device)
        additive = torch.zeros(allowed.shape, dtype=kind, device=mask.device).masked_fill_(~allowed, -torch.inf)
        return additive.masked_fill_(~allowed.any(-1, keepdim=True), torch.finfo(kind).min / 2)


def _check_padding(shape: tuple[int, ...], kv_len: int) -> None:
    if len(shape) != 2 or shape[1] != kv_len:
        raise InputError(f"padding of shape {list(shape)}: it must be [batch, {kv_len}], a value for each key")
