"""Experts a token: changing a mixture-of-experts model's top-k and experts implementation in place, and back.

What decides at run time is `top_k` of the routers; `config.num_experts_per_tok` changed after construction does
nothing (7 of 7 families). Equal to a model built with that k, bit for bit (tested). A family on which the attribute
does nothing is refused by name: its forward is run with two values, and must differ.
"""

from dataclasses import dataclass
from typing import Protocol, Self

from perstep._words import plural
from perstep.errors import InputError
from perstep.targets.interrupts import uninterrupted
from perstep.targets.transformers._wrap import Value, Wraps
from perstep.targets.transformers.blocks import find_blocks
from perstep.targets.transformers.instrument import find_model
from perstep.targets.transformers.protocols import Model

IMPLEMENTATIONS = ("eager", "grouped_mm", "batched_mm")
"""Those of transformers that need nothing but torch."""


class Router(Protocol):
    """A module that chooses experts."""

    top_k: int
    num_experts: int


@dataclass(frozen=True)
class Routers:
    """Where a model keeps how many experts each token gets.

    Attributes:
        model: the model that generates.
        modules: what has a `top_k`: routers, and in some families the blocks around them.
        top_k: as the model was built.
        num_experts: among which the routers choose, at least; group-limited ones from their groups.
    """

    model: Model
    modules: tuple[Router, ...]
    top_k: int
    num_experts: int

    def gathered_bytes(self, top_k: int, tokens: int) -> int:
        """What `batched_mm` copies at once: the weights of each token's experts, in the layer that has the largest.

        Args:
            top_k: experts a token.
            tokens: of a forward, of all sequences.
        """
        largest = 0
        for module in find_blocks(self.model).blocks:
            weights = [p for p in module.parameters() if p.ndim == 3 and p.shape[0] == self.num_experts]
            largest = max([largest, *(p.numel() // p.shape[0] * p.element_size() for p in weights)])
        return largest * top_k * tokens


def find_routers(given: object) -> Routers:
    """The routers of a mixture-of-experts model.

    Raises:
        InputError: a dense model, or one whose routers ignore `top_k`; the message names it.
    """
    blocks = find_blocks(given)
    modules: tuple[Value, ...] = tuple(
        module for block in blocks.blocks for module in block.modules() if isinstance(vars(module).get("top_k"), int)
    )
    routers = [module for module in modules if isinstance(vars(module).get("num_experts"), int)]
    kind, family = type(blocks.model).__name__, blocks.model.config.model_type
    if not routers:
        raise InputError(f"{kind} ({family}) is a dense model: it has no routers with a top_k to change")
    values = {module.top_k for module in modules}
    if len(values) > 1:
        raise InputError(f"the routers of {kind} ({family}) have different top_k ({sorted(values)}): none to change")
    result = Routers(blocks.model, modules, values.pop(), min(_reach(router) for router in routers))
    if result.num_experts < 2:
        raise InputError(f"the routers of {kind} ({family}) have one expert to choose from: no top_k to change")
    if not _has_effect(result):
        raise InputError(f"top_k has no effect on {kind} ({family}): its routers do not use it")
    return result


class ExpertsPerToken:
    """A context manager in which a model's routers choose another number of experts.

    Args:
        routers: of the model.
        top_k: experts a token.
        implementation: of the experts, as transformers names it; the model's own if None.

    Raises:
        InputError: top_k is out of range, or the model cannot take the implementation.
    """

    def __init__(self, routers: Routers, top_k: int, implementation: str | None = None) -> None:
        if not 1 <= top_k <= routers.num_experts:
            raise InputError(
                f"top-k {top_k}: the routers choose among {plural(routers.num_experts, 'expert')}, 1 at least"
            )
        self._routers, self._top_k, self._implementation = routers, top_k, implementation
        self._before = ""
        self._wraps = Wraps()

    @uninterrupted(undo="_restore")
    def __enter__(self) -> Self:
        model = self._routers.model
        self._before = str(model.config._experts_implementation)
        if self._implementation is not None:
            try:
                model.set_experts_implementation(self._implementation)
            except (ValueError, ImportError, NotImplementedError) as error:
                reason = str(error).splitlines()[0]
                raise InputError(f"{type(model).__name__} cannot run {self._implementation}: {reason}") from error
        for module in self._routers.modules:
            self._wraps.value(module, "top_k", self._top_k)
        return self

    @uninterrupted()
    def __exit__(self, *exception: object) -> None:
        self._restore()

    def _restore(self) -> None:
        self._wraps.restore()
        if self._implementation is not None:
            self._routers.model.set_experts_implementation(self._before)


def experts_implementation(model: object) -> str:
    """The implementation that a model's experts run with."""
    return str(find_model(model).config._experts_implementation)


def _reach(router: Router) -> int:
    """The experts that can be chosen at all: those of the chosen groups, where routers choose groups first."""
    groups, chosen = vars(router).get("num_group"), vars(router).get("topk_group")
    if isinstance(groups, int) and isinstance(chosen, int) and groups > 0:
        return int(router.num_experts) // groups * chosen
    return int(router.num_experts)


def _has_effect(routers: Routers) -> bool:
    import torch

    model = routers.model
    weight_VD: Value = model.get_input_embeddings().weight
    ids = (torch.arange(8, device=model.device) * 7 % weight_VD.shape[0])[None]
    seen = []
    for top_k in (1, 2):
        with ExpertsPerToken(routers, top_k), torch.inference_mode():
            seen.append(model(input_ids=ids, use_cache=False).logits)
    return not torch.equal(*seen)
