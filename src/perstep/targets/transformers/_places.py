"""Which tensors lie on the device, also where a CPU stands for one.

On a device a tensor says itself where it lies. On a CPU it is inferred. On the device lie: parameters, what
transformers' own code works on, what is made with `device=` and what is made from these. On the host lie: what was
copied there, what is made of lists or from nothing, and what is made from these. Of a tensor that a user's object made
before the counted step nothing is known; to read it is taken to be free, and to move it too.
"""

import sys
import weakref
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import TYPE_CHECKING

from perstep.targets.transformers._wrap import Value

if TYPE_CHECKING:
    import torch

_MAKES = {"tensor", "as_tensor", "asarray", "new_tensor"}
_READS = {"tolist", "numpy", "__array__"}
_MOVES = {"to", "cpu", "cuda"}
_MAKES_OR_MOVES = _MAKES | _MOVES
_TELLING = _MAKES_OR_MOVES | _READS
"""Functions that can say where something lies; any other does so by `device=` alone."""


class Places:
    """Where the tensors of a counted step lie.

    Args:
        device_type: of the model, as torch spells it; on "cpu" places are inferred.
    """

    def __init__(self, device_type: str) -> None:
        from torch.nn import Parameter

        self._parameter = Parameter
        self._device_type = device_type
        self._inferred = device_type == "cpu"
        # Of each tensor, by its id, whether it lies on the device; an id is used again when a tensor is gone. With a
        # dictionary of torch's own, keyed by tensors, this took most of a counted step.
        self._known: dict[int, tuple[weakref.ref[torch.Tensor], bool]] = {}

    def lie_on_device(self, tensors: "Sequence[torch.Tensor]") -> None:
        """Note tensors that lie there from the beginning."""
        for tensor in tensors:
            self._note(tensor, on_device=True)

    def on_device(self, tensor: "torch.Tensor") -> bool:
        """Whether a read of a tensor waits for the device, or would."""
        if not self._inferred:
            return bool(tensor.device.type == self._device_type)
        return self._place(tensor) is True

    def is_host_copy(self, name: str, args: Sequence[Value], kwargs: Mapping[str, Value]) -> bool:
        """Whether a function of torch copies a tensor from the device to the host."""
        reads = name in _READS or (name in _MOVES and self._goal(name, args, kwargs) is False)
        return reads and self.on_device(args[0])

    def is_upload(self, name: str, args: Sequence[Value], kwargs: Mapping[str, Value]) -> bool:
        """Whether a function of torch copies to the device and waits: the numbers of a list, or a host tensor."""
        if name not in _MAKES_OR_MOVES or self._goal(name, args, kwargs) is not True:
            return False
        if name in _MOVES:
            return not kwargs.get("non_blocking") and self._is_on_host(args[0])
        return name == "new_tensor" or not any(self.on_device(tensor) for tensor in all_tensors(args, None))

    def may_tell(self, name: str, kwargs: Mapping[str, Value]) -> bool:
        """Whether a call of a function of torch can be a copy, or say where its result lies; most are neither."""
        return name in _TELLING or "device" in kwargs

    def library_uses(self, args: Value, kwargs: Value) -> None:
        """Note that code works on tensors: those that transformers works on lie on the device."""
        if self._inferred:
            unknown = [tensor for tensor in all_tensors(args, kwargs) if self._place(tensor) is None]
            if unknown and _caller() == "transformers":
                self.lie_on_device(unknown)

    def derive(self, result: object, sources: "Sequence[torch.Tensor]", name: str) -> None:
        """Note what an operator made: it lies on the device if a source does, on the host if there is no source.

        Torch's own functions make tensors from nothing on the device of their arguments (`one_hot`). What is written
        into such a tensor shows where it lies: only `copy_` takes numbers from the device into a tensor of the host.
        """
        if self._inferred:
            places = [place for tensor in sources if (place := self._place(tensor)) is not None]
            if not places and sources:
                return
            on_device = any(places)
            for tensor in all_tensors((result,), None):
                if on_device and name.endswith("_") and name != "copy_":
                    self._note(tensor, on_device=True)
                elif self._noted(tensor) is None:
                    self._note(tensor, on_device=on_device)

    def place(self, result: Value, name: str, args: Sequence[Value], kwargs: Mapping[str, Value]) -> Value:
        """Note where the call of a function put its result, and give it.

        On a CPU a copy to another place is the tensor itself; then a view is given, which can have a place of its own.
        """
        import torch

        if not self._inferred or not isinstance(result, torch.Tensor):
            return result
        goal = self._goal(name, args, kwargs)
        if goal is None:
            return result
        if any(result is source for source in args):
            result = result.view_as(result)
        self._note(result, on_device=goal)
        return result

    def _is_on_host(self, tensor: "torch.Tensor") -> bool:
        return self._place(tensor) is False if self._inferred else bool(tensor.device.type == "cpu")

    def _place(self, tensor: "torch.Tensor") -> bool | None:
        place = self._noted(tensor)
        if place is None and isinstance(tensor, self._parameter):
            self._note(tensor, on_device=True)
            return True
        return place

    def _noted(self, tensor: "torch.Tensor") -> bool | None:
        entry = self._known.get(id(tensor))
        return entry[1] if entry is not None and entry[0]() is tensor else None

    def _note(self, tensor: "torch.Tensor", *, on_device: bool) -> None:
        self._known[id(tensor)] = weakref.ref(tensor), on_device

    def _goal(self, name: str, args: Sequence[Value], kwargs: Mapping[str, Value]) -> bool | None:
        """Where a function puts its result: on the device (True), on the host (False), or where its sources lie."""
        if name in ("cpu", "cuda"):
            return name == "cuda"
        asked = self._asked((*(args[1:] if name == "to" else ()), kwargs.get("device")))
        if asked is None and name == "new_tensor":
            return self.on_device(args[0])
        if asked is None and name in _MAKES and not all_tensors(args, None):
            return False
        return asked

    def _asked(self, arguments: Sequence[Value]) -> bool | None:
        """What the first device among arguments asks for.

        On a CPU `"cpu"` asks for the host, and a `torch.device`, such as that of another tensor, for the device.
        """
        import torch

        for each in arguments:
            if isinstance(each, torch.device | str):
                return not isinstance(each, str) if self._inferred else torch.device(each).type == self._device_type
        return None


def all_tensors(args: Value, kwargs: Value) -> "list[torch.Tensor]":
    """The tensors among arguments, also those in lists."""
    import torch  # a cached function in place of this makes torch.compile warn wherever it traces the caller

    tensors = []
    for value in (*args, *kwargs.values()) if kwargs else args:
        if isinstance(value, torch.Tensor):
            tensors.append(value)
        elif isinstance(value, list | tuple):
            tensors += all_tensors(value, None)
    return tensors


def _caller() -> str:
    """The package whose code calls torch."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        package = str(frame.f_globals.get("__name__", "")).split(".")[0]
        if package not in ("torch", "perstep"):
            return package
        frame = frame.f_back
    return ""
