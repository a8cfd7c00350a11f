"""The weights that a model holds: their live bytes, and which layers compute in a way that theory does not know.

Quantised weights are buffers (GPTQ, AWQ), tensors inside a tensor (torchao) or attributes of one (bitsandbytes), so a
sum over parameters misses them or counts what they stand for. No weight is copied here.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from perstep._words import plural

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import torch
    from torch.nn import Module

    from perstep.targets.transformers.protocols import Model

_FEATURES = (("in_features", "out_features"), ("infeatures", "outfeatures"))
"""What a linear layer calls its two sizes; the second is AutoGPTQ's way."""
_FAMILIES = "transformers.models."
"""Where architectures are, whose own linear layers, such as Falcon's, theory has counted with them."""
_MOST_NESTED = 4
"""A weight holds a tensor at most this deep: bitsandbytes has weight -> state -> state of the scales -> tensor."""


def weight_bytes(modules: Iterable[Model | Module]) -> int | None:
    """The bytes that the weights of modules take in memory, each byte once.

    Weights are parameters and persistent buffers: others, such as rotary frequencies, are made anew when a model is
    loaded. Tied weights and views of the same memory count once.

    Args:
        modules: what to count, with all that is inside.

    Returns:
        None where a linear layer shows no tensor at all, because a library keeps its weights to itself.
    """
    inside = {id(each): each for module in modules for each in module.modules()}
    if any(_has_features(module) and not any(map(_own, module.modules())) for module in inside.values()):
        return None
    seen: set[int] = set()
    live = [each for module in inside.values() for own in _own(module) for each in _tensors(own, seen)]
    placed = sorted(_place(tensor) for tensor in live if tensor.data_ptr())
    total, end, device = sum(tensor.numel() * tensor.element_size() for tensor in live if not tensor.data_ptr()), 0, ""
    for where, start, stop in placed:
        end = max(end, start) if where == device else start
        device, total, end = where, total + max(0, stop - end), max(end, stop)
    return total


def unknown_arithmetic(module: Model | Module) -> str:
    """Why no bound can be given: the layers inside a module whose operations theory cannot count; empty without any.

    Known are `torch.nn.Linear`, transformers' `Conv1D` and the linear layers of its architectures, and every module
    without the sizes of a linear layer, as long as their weights are plain tensors of floats in 16, 32 or 64 bits.
    """
    kinds = Counter(kind for each in module.modules() if (kind := _unknown_kind(each)))
    if not kinds:
        return ""
    return f"the arithmetic of {plural(kinds.total(), 'layer')} is unknown ({', '.join(kinds)}); not judged"


def _unknown_kind(module: Module) -> str:
    """What a layer whose arithmetic is unknown is; empty if it is known."""
    from torch.nn import Linear
    from transformers.pytorch_utils import Conv1D

    kind = type(module)
    strange = next((tensor for tensor in _own(module) if _is_matrix(tensor) and not _is_plain(tensor)), None)
    if strange is not None:
        inside = type(strange).__name__
        dtype = str(strange.dtype).removeprefix("torch.")
        return f"{kind.__name__} with {dtype if inside in ('Tensor', 'Parameter') else inside} weights"
    of_family = isinstance(module, Linear) and kind.__module__.startswith(_FAMILIES)
    is_known = of_family or kind.forward in (Linear.forward, Conv1D.forward)
    return f"{kind.__module__}.{kind.__name__}" if _has_features(module) and not is_known else ""


def _has_features(module: Module) -> bool:
    return any(all(isinstance(getattr(module, name, None), int) for name in pair) for pair in _FEATURES)


def _own(module: Module) -> list[torch.Tensor]:
    """Parameters and persistent buffers of a module itself."""
    kept = {name: tensor for name, tensor in module._buffers.items() if name not in module._non_persistent_buffers_set}
    return [tensor for tensor in (*module._parameters.values(), *kept.values()) if tensor is not None]


def _is_matrix(tensor: torch.Tensor) -> bool:
    """Whether it has two sizes above 1; a row of position numbers has not."""
    return sum(size > 1 for size in tensor.shape) >= 2


def _is_plain(tensor: torch.Tensor) -> bool:
    import torch

    plain = type(tensor) in (torch.Tensor, torch.nn.Parameter)
    return plain and tensor.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def _tensors(tensor: object, seen: set[int], depth: int = 0) -> Iterator[torch.Tensor]:
    """The tensors that a weight consists of: itself, or those inside it, and those that its attributes hold."""
    import torch

    if id(tensor) in seen or depth > _MOST_NESTED or isinstance(tensor, torch.nn.Module | type):
        return
    seen.add(id(tensor))
    names: list[str] = []
    if isinstance(tensor, torch.Tensor):
        names = tensor.__tensor_flatten__()[0] if hasattr(tensor, "__tensor_flatten__") else []
        if not names:
            yield tensor
    attributes = getattr(tensor, "__dict__", {})
    for value in (*(getattr(tensor, name) for name in names), *attributes.values()):
        yield from _tensors(value, seen, depth + 1)


def _place(tensor: torch.Tensor) -> tuple[str, int, int]:
    """The device, and the first address of a tensor and the one after its last byte."""
    start = tensor.data_ptr()
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)) + 1
    return str(tensor.device), start, start + reach * tensor.element_size()
