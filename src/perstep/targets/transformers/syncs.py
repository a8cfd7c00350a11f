"""Host syncs per step, counted and attributed to the part that caused them.

A read of a tensor's value by the host makes it wait until the device has done
everything queued before. Counting perturbs the timing, so it is a pass of its
own: give a `SyncRecorder` to an `Instrument` in place of a recorder. On a CPU
nothing waits; what is counted there is what would wait on a device. There
`_places.py` tells which tensors would lie on the device.
"""

import sys
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, Self

from perstep.measure import RESIDUAL
from perstep.targets.interrupts import uninterrupted
from perstep.targets.transformers._frames import nearest_line
from perstep.targets.transformers._places import Places, all_tensors
from perstep.targets.transformers._wrap import Value
from perstep.targets.transformers.version import require

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import torch
    from torch.overrides import TorchFunctionMode
    from torch.utils._python_dispatch import TorchDispatchMode

SCALAR_READ = "scalar read"
"""`.item()`, `bool(tensor)`, `float(tensor)` ...: `aten::_local_scalar_dense`."""
DYNAMIC_SHAPE = "dynamic shape"
"""An operator whose output's shape depends on values: `nonzero`, a boolean index ..."""
HOST_COPY = "host copy"
"""`.cpu()`, `.to("cpu")`, `.tolist()`, `.numpy()`."""
DRIVER_SYNC = "driver sync"
"""What CUDA itself reports under `torch.cuda.set_sync_debug_mode`; other kinds show what asked for it."""
UPLOAD = "upload"
"""`torch.tensor(list, device=...)`, `.to(device)` of a host tensor: the host waits for the copy. No sync."""

_DYNAMIC = {"nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount"}
_NOT_THE_CAUSE = {"torch", "warnings", "perstep"}
_SYNC_WARNING = "called a synchronizing CUDA operation"


class Driver(Protocol):
    """What reports syncs: `torch.cuda`."""

    def get_sync_debug_mode(self) -> int:
        """How syncs are reported now."""
        ...

    def set_sync_debug_mode(self, debug_mode: int | str) -> None:
        """Report them otherwise."""
        ...


@dataclass(frozen=True)
class Syncs:
    """The syncs of the steps of one kind.

    Attributes:
        steps: how many steps were counted.
        parts: part -> kind of sync -> how often, over all steps.
        sites: (part, kind, place in the source) -> how often; the place is the nearest line outside of torch.
    """

    steps: int = 0
    parts: dict[str, Counter[str]] = field(default_factory=dict)
    sites: Counter[tuple[str, str, str]] = field(default_factory=Counter)

    @property
    def per_step(self) -> float | None:
        """Syncs in a step: those that the driver reported, on CUDA; else scalar reads, dynamic shapes and copies.

        Uploads are not among them.
        """
        if not self.steps:
            return None
        return sum(self._of(part) for part in self.parts) / self.steps

    def part_per_step(self, part: str) -> float | None:
        """Syncs in a step that a part caused, counted as in `per_step`."""
        if not self.steps:
            return None
        return self._of(part) / self.steps

    def _of(self, part: str) -> int:
        counts = self.parts.get(part, Counter())
        reported = any(DRIVER_SYNC in others for others in self.parts.values())
        return counts[DRIVER_SYNC] if reported else counts.total() - counts[UPLOAD]


class SyncRecorder:
    """Takes marks, and counts the syncs in each part instead of timing it.

    It counts in the thread that entered it, between the beginning and the end of steps.

    Examples:
        >>> syncs = SyncRecorder()  # doctest: +SKIP
        >>> with syncs, Instrument(model, syncs):  # doctest: +SKIP
        ...     model.generate(**inputs)
        >>> syncs.syncs("decode").per_step  # doctest: +SKIP
        1.0

    Args:
        device_type: of the tensors whose reads count: the model's.
        cuda: stands in for `torch.cuda` in tests.
        part: returns the part that a sync lies in, where another object takes the marks.
        given: tensors that lie on the device when counting begins.
    """

    mark: Callable[[str], None]

    def __init__(
        self,
        device_type: str = "cpu",
        cuda: Driver | None = None,
        *,
        part: Callable[[], str] | None = None,
        given: "Sequence[torch.Tensor]" = (),
    ) -> None:
        require()
        self.given = given
        self._device_type = device_type
        self._cuda = cuda
        self._kind: str | None = None
        self._part = RESIDUAL
        self._part_now = part or (lambda: self._part)
        self._seen: list[tuple[str, str, str]] = []
        self._uploading = False
        self._by_kind: dict[str, Syncs] = {}
        self._steps: Counter[str] = Counter()
        self._stack = ExitStack()
        self._entered: tuple[object, object] | None = None
        self.mark = self._mark

    @uninterrupted(undo="_close")
    def __enter__(self) -> Self:
        function_mode, dispatch_mode = _modes(self, self._device_type)
        with ExitStack() as stack:
            if self._device_type == "cuda":
                stack.enter_context(_driver_reports(self._cuda or _torch_cuda(), self._driver_sync))
            stack.enter_context(function_mode)
            stack.enter_context(dispatch_mode)
            self._stack = stack.pop_all()
        self._entered = function_mode, dispatch_mode
        return self

    def _close(self) -> None:
        self._entered = None
        self._stack.close()

    @uninterrupted()
    def __exit__(self, *exception: object) -> None:
        self._close()

    @uninterrupted()
    def leave(self) -> bool:
        """Leave in the middle of a program, which may have entered a mode of torch meanwhile, or be in another thread.

        Returns:
            Whether nothing is left; otherwise what sees operators stays below the program's mode, sees nothing, and can
            be taken away later.
        """
        if self._entered is not None and self._entered == _innermost_modes():
            self._close()
        return self._entered is None

    def begin(self, kind: str = "decode") -> None:
        """Begin a step of a kind."""
        self._kind = kind
        self._part = RESIDUAL
        self._seen.clear()

    def _mark(self, part: str) -> None:
        self._part = part

    def end(self) -> None:
        """End the step and count it."""
        kind = self._kind or ""
        self._steps[kind] += 1
        syncs = self._by_kind.setdefault(kind, Syncs())
        for part, what, _ in self._seen:
            syncs.parts.setdefault(part, Counter())[what] += 1
        syncs.sites.update(self._seen)
        self.drop()

    def turn(self, kind: str = "decode") -> None:
        """End the step and begin the next."""
        self.end()
        self.begin(kind)

    def drop(self) -> None:
        """Forget the open step."""
        self._kind = None
        self._seen.clear()

    @property
    def is_open(self) -> bool:
        """Whether a step is being counted."""
        return self._kind is not None

    @property
    def kinds(self) -> list[str]:
        """The kinds of which steps have been counted."""
        return list(self._by_kind)

    def syncs(self, kind: str = "decode") -> Syncs:
        """What was counted in the steps of a kind."""
        counted = self._by_kind.get(kind, Syncs())
        return Syncs(self._steps[kind], counted.parts, counted.sites)

    def saw(self, what: str) -> None:
        """Count a sync of a kind, or an upload, in the part that is open."""
        if self._kind is not None:
            self._seen.append((self._part_now(), what, nearest_line(sys._getframe(1), _NOT_THE_CAUSE)))

    def upload(self, copy: "Callable[[], torch.Tensor]") -> "torch.Tensor":
        """Make an upload and count it, unless nothing was copied; what the driver reports of it is no second sync."""
        self._uploading = True
        try:
            copied = copy()
        finally:
            self._uploading = False
        if copied.numel():
            self.saw(UPLOAD)
        return copied

    def _driver_sync(self) -> None:
        if not self._uploading:
            self.saw(DRIVER_SYNC)


def _torch_cuda() -> Driver:
    import torch

    return torch.cuda


def _modes(recorder: SyncRecorder, device_type: str) -> "tuple[TorchFunctionMode, TorchDispatchMode]":
    """What sees every operator, and what sees the methods that read memory without one."""
    from torch.overrides import TorchFunctionMode
    from torch.utils._python_dispatch import TorchDispatchMode

    places = Places(device_type)
    places.lie_on_device(recorder.given)

    class Methods(TorchFunctionMode):
        def __torch_function__(self, func: Value, types: object, args: Value = (), kwargs: Value = None) -> object:
            kwargs = kwargs or {}
            if not recorder.is_open:
                return func(*args, **kwargs)
            places.library_uses(args, kwargs)
            name = getattr(func, "__name__", "")
            if places.may_tell(name, kwargs):
                return _told(recorder, places, func, name, args, kwargs)
            return func(*args, **kwargs)

    class Operators(TorchDispatchMode):
        def __torch_dispatch__(self, func: Value, types: object, args: Value = (), kwargs: Value = None) -> object:
            if not recorder.is_open:
                return func(*args, **(kwargs or {}))
            name = func.overloadpacket.__name__
            if name == "_local_scalar_dense" and places.on_device(args[0]):
                recorder.saw(SCALAR_READ)
            elif (name in _DYNAMIC or (name == "index" and _has_mask(args[1]))) and places.on_device(args[0]):
                recorder.saw(DYNAMIC_SHAPE)
            result = func(*args, **(kwargs or {}))
            places.derive(result, all_tensors(args, kwargs), name)
            return result

    operators: TorchDispatchMode = Operators()  # type: ignore[no-untyped-call]
    return Methods(), operators


def _told(recorder: SyncRecorder, places: Places, func: Value, name: str, args: Value, kwargs: Value) -> Value:
    """Call a function of torch that copies, or says where its result lies; count what it does."""
    if places.is_upload(name, args, kwargs):
        result = recorder.upload(lambda: func(*args, **kwargs))
    else:
        if places.is_host_copy(name, args, kwargs):
            recorder.saw(HOST_COPY)
        result = func(*args, **kwargs)
    return places.place(result, name, args, kwargs)


def no_modes() -> bool:
    """Whether nothing of the program sees the operators of this thread."""
    return _innermost_modes() == (None, None)


def _innermost_modes() -> tuple[object, object]:
    from torch.overrides import _get_current_function_mode
    from torch.utils._python_dispatch import _get_current_dispatch_mode

    return _get_current_function_mode(), _get_current_dispatch_mode()


def _has_mask(indices: "Iterable[torch.Tensor | None]") -> bool:
    import torch

    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)


@contextmanager
def _driver_reports(cuda: Driver, seen: Callable[[], None]) -> "Iterator[None]":
    """Have CUDA warn of every synchronising operation, and hear of it instead of showing it."""
    mode = cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.filterwarnings("always", message=_SYNC_WARNING)
        show = warnings.showwarning

        def hear(message: Warning | str, *args: Value, **kwargs: Value) -> None:
            if _SYNC_WARNING in str(message):
                seen()
            else:
                show(message, *args, **kwargs)

        warnings.showwarning = hear
        cuda.set_sync_debug_mode("warn")
        try:
            yield
        finally:
            cuda.set_sync_debug_mode(mode)
