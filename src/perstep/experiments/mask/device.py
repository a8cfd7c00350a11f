"""The arms of `mask` on a device: the model, its logits and the tables of a whole mask lie there.

A `TokenTable` is stored as `fast.TokenMask` stores it: a step of the state is two look-ups, and neither it nor the mask
waits for the host. Every other engine fills its masks on the host. Rows of a table are then applied as
`automata.apply` does on tensors, packed bits are copied over and unpacked by three kernels, xgrammar's by its own.
Each step ends by reading the tokens on the host, as generate does.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from perstep.automata import Engine, TokenTable
from perstep.automata.engines.tables import TableEngine
from perstep.data import mini_path
from perstep.errors import InputError
from perstep.experiments.device.machine import ceilings_at
from perstep.experiments.device.waiting import place_of, waiting_for
from perstep.experiments.mask.arms import (
    BOUNDARIES,
    BitsMasker,
    Fed,
    Ids,
    MaskedLoop,
    Masker,
    TableMasker,
    has_table,
)
from perstep.machine.device_ceilings import DeviceCeilings
from perstep.measure import Mark, Trace, replay
from perstep.targets import BUILT_IN
from perstep.targets.reference import Reference
from perstep.theory.masking import Way

if TYPE_CHECKING:
    import torch

    from perstep.fast.token_tables import DeviceTables

PROFILED_TOKENS = 9
"""A pass under the profiler is one prefill and this number minus one decode steps."""
_WORD_BITS = 32

BOUNDARIES_ON_DEVICE = {
    "inputs": "the tokens fed, copied to the device",
    **BOUNDARIES,
    "mask.accept": "a whole table: two look-ups by tensors; other engines: each row's engine takes its token on the "
    "host. After an end token a row begins the next text",
    "forward": "embedding, layers and final norm, by transformers",
    "lm_head": "product with the head, as wide as the vocabulary",
    "mask.fill": "a whole table: the rows of the states, by tensors; other engines: on the host",
    "mask.apply": "a whole table: masked_fill; rows of other tables: perstep.automata.apply; packed bits: copied to "
    "the device, unpacked and applied there, xgrammar's by its own kernel",
    "sample": "argmax over the whole vocabulary, the masked part of it included",
    "stop": "comparison with the end tokens",
    "sync": "the tokens are read on the host, which waits for the device",
}

AnyModule = Any
"""transformers' decoder without its head; mypy does not read transformers."""


class ArmOnDevice(msgspec.Struct, frozen=True):
    """What the device does in a decode step of an arm, the mean of profiled steps.

    Attributes:
        busy_ns: in which kernels ran; an instant of several counts once.
        launches: calls of the host that put work there.
        parts: part -> its nanoseconds of `busy_ns`.
        part_launches: part -> its share of `launches`.
        way: how the mask is found and applied there, as `theory.masking` names it; empty without one.
    """

    busy_ns: float
    launches: float
    parts: dict[str, float]
    part_launches: dict[str, float] = {}
    way: Way | Literal[""] = ""


class DeviceDecoder:
    """transformers' decoder on a device with a dynamic cache, its embedding and head as wide as a vocabulary.

    Args:
        base: embedding apart, all layers and the final norm.
        embedding_VD: rows of the tokens.
        head_VD: of the head.
        eos_ids: the tokens that end a text.
    """

    def __init__(
        self, base: AnyModule, embedding_VD: "torch.Tensor", head_VD: "torch.Tensor", eos_ids: tuple[int, ...]
    ) -> None:
        import torch

        self.embedding_VD, self._head_VD, self._base = embedding_VD, head_VD, base
        self.place = embedding_VD.device
        self._eos = torch.tensor(eos_ids, device=self.place)
        self.reset()

    def reset(self) -> None:
        """See `Decoder`."""
        from transformers import DynamicCache

        self._cache: AnyModule = DynamicCache(config=self._base.config)

    def held(self) -> int:
        """See `Decoder`."""
        return int(self._cache.get_seq_length())

    def feed(self, ids_B: Ids, mark: Mark) -> Fed:
        """See `Decoder`."""
        mark("inputs")
        return self._there(ids_B)

    def prefill(self, ids_BT: Ids, mark: Mark) -> "torch.Tensor":
        """See `Decoder`."""
        mark("inputs")
        return self._forward(self._there(ids_BT), mark)

    def decode(self, fed_B: "torch.Tensor", mark: Mark) -> "torch.Tensor":
        """See `Decoder`."""
        return self._forward(fed_B[:, None], mark)

    def choose(self, logits_BV: "torch.Tensor", mark: Mark) -> Ids:
        """See `Decoder`."""
        import torch

        mark("sample")
        chosen_B = logits_BV.argmax(-1)
        mark("stop")
        ended_B = torch.isin(chosen_B, self._eos)
        mark("sync")
        return np.asarray(torch.stack((chosen_B, ended_B.long())).cpu().numpy()[0])

    def _forward(self, ids_BT: "torch.Tensor", mark: Mark) -> "torch.Tensor":
        from torch.nn import functional

        mark("forward")
        x_BTD = functional.embedding(ids_BT, self.embedding_VD)
        out = self._base(inputs_embeds=x_BTD, past_key_values=self._cache, use_cache=True)
        mark("lm_head")
        return functional.linear(out.last_hidden_state[:, -1], self._head_VD)

    def _there(self, ids: Ids) -> "torch.Tensor":
        import torch

        return torch.from_numpy(ids).to(self.place)


class TableOnDevice:
    """A whole table as tensors, and a state for each row: no step waits for the host.

    Args:
        table: of all rows.
        batch: rows.
        width: of the logits.
        place: where they are.
    """

    def __init__(self, table: TokenTable, batch: int, width: int, place: "torch.device") -> None:
        import torch

        from perstep.fast.token_mask import BUDGET_BYTES
        from perstep.fast.token_tables import to_device

        tables = to_device([table], width, place, BUDGET_BYTES)
        start, ended = tables.starts[0], table.ended
        # Texts follow one another: where one has ended, the next begins. Nothing is launched for that.
        next_SC = torch.where(tables.next_SC == ended, start, tables.next_SC)
        self.tables: DeviceTables = replace(tables, next_SC=next_SC)
        self._start_B = torch.full((batch,), start, device=place)
        self._tables_B = torch.zeros(batch, dtype=torch.long, device=place)
        self.way: Way = "table" if tables.forbidden_RL.dtype == torch.bool else "packed table"
        self.reset()

    def reset(self) -> None:
        """See `Masker`."""
        self.states_B = self._start_B

    def accept(self, _ids_B: Ids, fed_B: "torch.Tensor") -> None:
        """See `Masker`; that the engine accepts the text was seen on the host before."""
        self.states_B = self.tables.step(self.states_B, self._tables_B, fed_B)

    def fill(self) -> "torch.Tensor":
        """What each row forbids, bool [B, V]."""
        return self.tables.forbidden(self.states_B)

    def apply(self, logits_BV: "torch.Tensor", masks: "torch.Tensor") -> "torch.Tensor":
        """See `Masker`."""
        return logits_BV.masked_fill(masks, -np.inf)


class BitsOnDevice(BitsMasker):
    """Packed bits that engines fill on the host, unpacked on the device by three kernels.

    Args:
        engines: of all rows.
        eos_ids: the tokens that end a text.
        place: where the logits are.
    """

    way: Way = "bits"

    def __init__(self, engines: Sequence[Engine], eos_ids: tuple[int, ...], place: "torch.device") -> None:
        import torch

        super().__init__(engines, eos_ids)
        bits = [1 << bit if bit < _WORD_BITS - 1 else -(1 << bit) for bit in range(_WORD_BITS)]  # of signed words
        self._bits, self._place = torch.tensor(bits, dtype=torch.int32, device=place), place

    def apply(self, logits_BV: "torch.Tensor", masks: Sequence[NDArray[np.int32]]) -> "torch.Tensor":
        """See `Masker`."""
        words_BW = self._copied(masks)
        forbidden = (words_BW[:, :, None] & self._bits) == 0
        return logits_BV.masked_fill_(forbidden.flatten(1)[:, : logits_BV.shape[1]], -np.inf)

    def _copied(self, masks: Sequence[NDArray[np.int32]]) -> "torch.Tensor":
        import torch

        return torch.from_numpy(np.stack(masks)).to(self._place)


class XgrammarOnDevice(BitsOnDevice):
    """xgrammar's bits, applied as its users do."""

    way: Way = "bits in place"

    def apply(self, logits_BV: "torch.Tensor", masks: Sequence[NDArray[np.int32]]) -> "torch.Tensor":
        """See `Masker`."""
        from xgrammar import apply_token_bitmask_inplace

        apply_token_bitmask_inplace(logits_BV, self._copied(masks))
        return logits_BV


def masker_there(engines: Sequence[Engine], eos_ids: tuple[int, ...], decoder: DeviceDecoder) -> Masker | None:
    """By what the engines hand out, tried once; None without any.

    Raises:
        InputError: it cannot be applied to logits of this device.
    """
    if not engines:
        return None
    import torch

    first, place, width = engines[0], decoder.place, len(decoder.embedding_VD)
    if isinstance(first, TableEngine) and isinstance(first.table, TokenTable):
        return cast("Masker", TableOnDevice(first.table, len(engines), width, place))
    masker = _filled_on_the_host(engines, eos_ids, place)
    masker.reset()
    try:
        masker.apply(torch.zeros(len(engines), width, device=place), masker.fill())
    except Exception as error:  # a kernel of somebody's that is not for this device: each fails in its own way
        reason = (str(error).splitlines() or [""])[0]
        raise InputError(f"its masks cannot be applied on {place}: {type(error).__name__}: {reason}") from error
    return masker


def _filled_on_the_host(engines: Sequence[Engine], eos_ids: tuple[int, ...], place: "torch.device") -> Masker:
    if has_table(engines[0]):
        return TableMasker(engines, eos_ids)
    return (XgrammarOnDevice if engines[0].name == "xgrammar" else BitsOnDevice)(engines, eos_ids, place)


@dataclass(frozen=True)
class Placed:
    """A model of the Llama family on a device.

    Attributes:
        device: as `--device` takes it.
        base: its layers; the embedding and the head go with a vocabulary.
    """

    device: str
    base: AnyModule
    _ends: dict[int, tuple["torch.Tensor", "torch.Tensor"]] = field(default_factory=dict)

    def decoder(self, model: Reference) -> DeviceDecoder:
        """With embedding and head of this model, whose layers these are.

        Raises:
            InputError: they do not fit into the device's memory.
        """
        ends = self._ends.get(id(model))  # of a vocabulary, whose cells have several batches
        if ends is None:
            ends = self._ends[id(model)] = self._put_there(model)
        return DeviceDecoder(self.base, *ends, model.config.eos_ids)

    def _put_there(self, model: Reference) -> tuple["torch.Tensor", "torch.Tensor"]:
        """Embedding and head."""
        import torch

        from perstep.targets.transformers.device_check import refuse_if_no_room

        embedding, tied = model.embedding_VD, model.config.tied
        size = f"{embedding.shape[0]:,} x {embedding.shape[1]}"
        needed = embedding.nbytes * (1 if tied else 2)
        refuse_if_no_room(f"a head of {size}", needed, self.device, "give smaller sizes to --vocab")
        place = place_of(self.device)
        embedding_VD = torch.from_numpy(embedding).to(place)
        if tied:
            return embedding_VD, embedding_VD
        return embedding_VD, torch.from_numpy(np.ascontiguousarray(model.head_DV.T)).to(place)

    def profiled(self, loop: MaskedLoop, trace: Trace) -> ArmOnDevice:
        """What the device does in the first steps of a trace, once warm."""
        from perstep.targets.transformers.device_profile import KinetoProfiler, RangeRecorder, profile_steps

        few = slice(PROFILED_TOKENS)
        short, recorder = Trace(trace.prompt_BT, trace.chosen_BN[:, few]), RangeRecorder()
        work = profile_steps(
            KinetoProfiler(self.device), recorder, lambda: _ran(replay(loop, short, recorder, recorder.mark))
        )
        steps = [step for step in work.steps if step.kind == "decode"]
        masker = loop.masker
        names = dict.fromkeys(name for step in steps for name in step.parts)

        def mean(values: Sequence[int]) -> float:
            return sum(values) / max(len(steps), 1)

        return ArmOnDevice(
            busy_ns=mean([step.busy_ns for step in steps]),
            launches=mean([part.launches for step in steps for part in step.parts.values()]),
            parts={name: mean([step.parts[name].busy_ns for step in steps if name in step.parts]) for name in names},
            part_launches={
                name: mean([step.parts[name].launches for step in steps if name in step.parts]) for name in names
            },
            way="" if masker is None else getattr(masker, "way", "in place"),
        )

    def ceilings(self, hidden: int, rows: int) -> DeviceCeilings:
        """The device's ceilings, measured now, with products as wide as the model.

        Args:
            hidden: width of the model.
            rows: of the largest batch.
        """
        import torch

        return ceilings_at(torch.device(place_of(self.device)), torch.float32, hidden, sorted({1, rows}))


def _ran(_differing: int) -> None:
    """Choices are compared in the rounds."""


def placed(model: str, device: str) -> Placed | None:
    """The model on a device, checked before anything is loaded; None for the cpu.

    Args:
        model: `mini`, or a folder.
        device: as `--device` takes it.

    Raises:
        InputError: torch or transformers is not there, or the device cannot be used.
    """
    if waiting_for(device) is None:
        return None
    from perstep.targets.transformers import load, to_device

    loaded = load(str(mini_path()) if model == BUILT_IN else model, dtype="float32")
    there: AnyModule = to_device(loaded, place_of(device))
    there.requires_grad_(requires_grad=False)
    return Placed(device, there.base_model)
