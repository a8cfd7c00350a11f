"""The LM head put off until it is known which of its rows are wanted.

While it is in place, the model's forward runs all of its layers and leaves its last hidden state here. Logits are
then made of the rows of the allowed tokens alone, or of all of them, in the very operation the model would have
done. What a model does to its logits after the head (a soft cap, a scale) is found by trial on the prefill's
logits, bit for bit; a model that does anything else keeps its head.
"""

from __future__ import annotations

import itertools
import weakref
from threading import get_ident
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from perstep.targets.transformers.protocols import Config, Model

if TYPE_CHECKING:
    from collections.abc import Callable

    from perstep.automata import Row

# B batch, D hidden, A allowed tokens, V logits

FEWER = 16
"""Rows are gathered where at most one token in this many is allowed. At 131,072 x 576 float32 on one core, gathering
and using 8,000 rows takes 0.2 of the whole head's time the first time and 0.08 later; 16,000 rows take as long as the
whole head the first time."""

_numbers = itertools.count()
_known: weakref.WeakKeyDictionary[nn.Linear, tuple[weakref.ref[torch.Tensor], int, int]] = weakref.WeakKeyDictionary()


class DeferredHead:
    """Takes the place of a model's LM head during one call, as a context.

    Attributes:
        hidden_B1D: the hidden state of the last position, as the head would have taken it.
        after: what the model does to its logits behind the head; None until `learn` has found it.
    """

    def __init__(self, linear: nn.Linear, config: Config) -> None:
        self._linear = linear
        self._config = config
        self._thread = get_ident()
        self._inner: Callable[[torch.Tensor], torch.Tensor] | None = None
        self._number = _number_of(linear)
        self.hidden_B1D: torch.Tensor | None = None
        self.after: After | None = None
        self._raw: torch.Tensor | None = None

    @classmethod
    def of(cls, model: Model) -> DeferredHead | None:
        """The head of a model; None where it is not a plain matrix, or the model's forward is compiled."""
        linear = model.get_output_embeddings()
        own_compiler = getattr(model, "_compiled_call_impl", None) is not None
        if own_compiler or hasattr(model.forward, "_torchdynamo_orig_callable"):
            return None
        if type(linear) is not nn.Linear or linear._forward_hooks or linear._forward_pre_hooks:
            return None
        if type(linear.weight) is not nn.Parameter or not linear.weight.is_floating_point():
            return None
        return cls(linear, model.config.get_text_config())

    def __enter__(self) -> DeferredHead:
        self._inner = vars(self._linear).get("forward")
        vars(self._linear)["forward"] = self._forward
        return self

    def __exit__(self, *exception: object) -> None:
        self.put_back()

    def put_back(self) -> None:
        """Let the model have its head again; once is enough."""
        if "forward" in vars(self._linear) and vars(self._linear)["forward"] == self._forward:
            del self._linear.forward
            if self._inner is not None:
                vars(self._linear)["forward"] = self._inner
        self.hidden_B1D = self._raw = None

    def _forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if get_ident() != self._thread:
            return self._whole(hidden)
        self.hidden_B1D = hidden[:, -1:]
        if self.after is not None:
            return hidden[..., :1]  # whatever is done to each logit by itself can be done to this
        logits = self._whole(hidden)
        self._raw = logits[:, -1].clone()  # some models write into what their head gave
        return logits

    def _whole(self, hidden: torch.Tensor) -> torch.Tensor:
        inner = self._inner or type(self._linear).forward.__get__(self._linear)
        logits: torch.Tensor = inner(hidden)
        return logits

    def learn(self, logits_BTV: torch.Tensor) -> bool:
        """Find what the model did to the logits of its head; False if that is unknown, and the head stays.

        Args:
            logits_BTV: what the model's forward gave, just now.
        """
        raw, self._raw = self._raw, None
        if raw is not None and raw.shape == logits_BTV[:, -1].shape:
            for after in _candidates(self._config):
                if torch.equal(after(raw), logits_BTV[:, -1]):
                    self.after = after
                    return True
        return False

    def all_logits(self) -> torch.Tensor:
        """The logits of every token, [B, V]."""
        hidden_B1D, after = self._put_off()
        return after(functional.linear(hidden_B1D, self._linear.weight, self._linear.bias)[:, -1])

    def allowed_logits(self, rows: list[int], mask: Row) -> tuple[torch.Tensor, float]:
        """The logits of the allowed tokens in some rows of the batch, [rows, A], and how far rounding may move them."""
        hidden_B1D, after = self._put_off()
        weight_AD, bias_A, longest = mask.derived(("lm_head rows", self._number), self._gather, _gathered_bytes)
        hidden = hidden_B1D[rows, -1]
        logits = after(functional.linear(hidden, weight_AD, bias_A))
        # The same products summed in another order: a few units in the last place of the largest partial sums.
        rounding = 8 * torch.finfo(torch.float32).eps * float(torch.linalg.vector_norm(hidden, dim=-1).max()) * longest
        return logits, after.slope * rounding

    def _put_off(self) -> tuple[torch.Tensor, After]:
        if self.hidden_B1D is None or self.after is None:
            raise RuntimeError("no forward has run since the head was deferred")
        return self.hidden_B1D, self.after

    def _gather(self, mask: Row) -> tuple[torch.Tensor, torch.Tensor | None, float]:
        weight = self._linear.weight
        ids = allowed_ids(mask, weight.device)
        bias = None if self._linear.bias is None else self._linear.bias.index_select(0, ids)
        rows = weight.index_select(0, ids)
        return rows, bias, float(torch.linalg.vector_norm(rows, dim=-1).max())


def allowed_ids(mask: Row, device: torch.device) -> torch.Tensor:
    """The allowed ids as torch indexes with them, int64 [A] on `device`."""
    return mask.derived(
        ("ids", device), lambda mask: torch.from_numpy(mask.allowed.astype("int64")).to(device), lambda ids: ids.nbytes
    )


class After:
    """What a model does to each logit behind its head.

    Attributes:
        slope: how much it stretches small differences at most.
    """

    def __init__(self, apply: Callable[[torch.Tensor], torch.Tensor], slope: float = 1.0) -> None:
        self._apply = apply
        self.slope = slope

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """The logits as the model gives them, of any shape."""
        return self._apply(logits)


def _candidates(config: Config) -> list[After]:
    """What models of transformers are known to do to their logits, by the names in their configurations."""
    ways = [After(lambda x: x)]
    cap = getattr(config, "final_logit_softcapping", None)
    if cap:
        ways.append(After(lambda x: torch.tanh(x / cap) * cap))
    divisor = getattr(config, "logits_scaling", None)
    if divisor:
        ways.append(After(lambda x: x / divisor, abs(1 / divisor)))
    factor = getattr(config, "logit_scale", None)
    if factor:
        ways.append(After(lambda x: x * factor, abs(factor)))
    return ways + [After(lambda x, after=after: after(x.float()), after.slope) for after in ways]  # type: ignore[misc]


def _number_of(linear: nn.Linear) -> int:
    """A number that stands for these very weights: another one once they are replaced or changed in place."""
    weight = linear.weight
    entry = _known.get(linear)
    if weight.is_inference():  # torch does not count the changes of these
        return next(_numbers)
    if entry is None or entry[0]() is not weight or entry[1] != weight._version:
        entry = (weakref.ref(weight), weight._version, next(_numbers))
        _known[linear] = entry
    return entry[2]


def _gathered_bytes(gathered: tuple[torch.Tensor, torch.Tensor | None, float]) -> int:
    return int(gathered[0].nbytes)
