"""The decode loops behind `fast.decode`: one that reads every token on the host, one that never waits for it.

Both do what `generate`'s own loop does, token for token where choices are greedy. The first chooses among allowed
ids, restricts the head and sends runs of forced tokens through the model as one chunk. The second looks at the
stop flag one step late: one forward more, declared in its report, and undone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import EosTokenCriteria, MaxLengthCriteria
from transformers.generation import GenerateDecoderOnlyOutput

from perstep.automata import TokenAutomaton
from perstep.fast._processor import Process, in_turn
from perstep.fast.decode_choose import Chooser, MaskedChooser
from perstep.fast.decode_head import DeferredHead
from perstep.fast.decode_inputs import DecodingModel, Forwards, InputIds, pages
from perstep.targets.transformers.protocols import (
    Argument,
    Generated,
    GenerationConfig,
    Output,
    StoppingCriterion,
    Streamer,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

# B batch, T length of the text, V logits

_RECORDS = {"output_scores": "scores", "output_logits": "logits"}
_FROM_FORWARD = {"output_attentions": "attentions", "output_hidden_states": "hidden_states"}


@dataclass
class Report:
    """What one call did.

    Attributes:
        forwards: of the model, the prefill among them.
        new_tokens: columns generated.
        forced_tokens: of them, those that went through the model in a chunk behind another.
        undone: forwards that were executed and undone, because the stop was seen a step late.
        restricted_heads: choices, of one row each, for which only the allowed rows of the head were used.
        near_ties: choices that these rows could not decide within rounding, decided by the whole head.
        way: `masked` (allowed ids on the host), `host`, `deferred`, `captured` (a step in fixed places), or `split`
            (the same in two halves, with processors called between them).
        why: why the call was not `captured`, if that was asked for or is the device's way; else empty.
        replayed: whether the steps of `captured` and `split` were CUDA graphs; elsewhere the same function runs.
        slots: that the cache of such a step has.
        built_s: how long it took to build the step, in seconds; 0.0 where one was kept.
        rebuilt: why steps that were kept could not be used again; empty where the model is as it was.
        kept_bytes: what is kept with the model for later calls; `fast.release(model)` frees it.
        other_way: the way of the last such call that was not observed, where it is another; such a ledger is invalid.
    """

    forwards: int = 0
    new_tokens: int = 0
    forced_tokens: int = 0
    undone: int = 0
    restricted_heads: int = 0
    near_ties: int = 0
    way: str = "host"
    why: str = ""
    replayed: bool = False
    slots: int = 0
    built_s: float = 0.0
    rebuilt: str = ""
    kept_bytes: int = 0
    other_way: str = ""


class Stops:
    """The stopping criteria of a call, those that need no tensor apart from the others.

    Attributes:
        max_length: of the text; None without a limit.
        end_ids: ids that end a text, as a set; empty without an end criterion.
        has_end: whether finished texts are padded.
    """

    def __init__(self, criteria: Sequence[StoppingCriterion]) -> None:
        self.max_length: int | None = None
        self.end_ids: frozenset[int] = frozenset()
        self.end_ids_E: torch.Tensor | None = None
        self.others: list[StoppingCriterion] = []
        self.has_end = any(hasattr(criterion, "eos_token_id") for criterion in criteria)
        for criterion in criteria:
            untyped: Argument = criterion
            if type(criterion) is MaxLengthCriteria and self.max_length is None:
                self.max_length = untyped.max_length
            elif type(criterion) is EosTokenCriteria and self.end_ids_E is None:
                self.end_ids_E = untyped.eos_token_id
            else:
                self.others.append(criterion)

    def read_end_ids(self) -> None:
        """Bring the end ids to the host, once a call."""
        if self.end_ids_E is not None:
            self.end_ids = frozenset(self.end_ids_E.flatten().tolist())

    def full(self, length: int) -> bool:
        """Whether a text of this length is at the limit."""
        return self.max_length is not None and length >= self.max_length


@dataclass
class Call:
    """What `generate` handed over, and how it is to be done."""

    model: DecodingModel
    prompt_BT: torch.Tensor
    processors: Sequence[Process]
    criteria: Sequence[StoppingCriterion]
    config: GenerationConfig
    streamer: Streamer | None
    model_kwargs: dict[str, Argument]
    chooser: Chooser
    report: Report
    tables: Sequence[TokenAutomaton] | None = None
    chunks: bool = False
    records: dict[str, list[Argument]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ids = InputIds(self.prompt_BT)
        self.forwards = Forwards(self.model, self.config, self.model_kwargs)
        self.stops = Stops(self.criteria)
        self._prefilled: Output | None = None
        wanted = {**_RECORDS, **_FROM_FORWARD} if self.config.return_dict_in_generate else {}
        self.records = {name: [] for option, name in wanted.items() if getattr(self.config, option)}

    @cached_property
    def _in_turn(self) -> Sequence[Process]:
        return in_turn(self.processors, private="logits" not in self.records)

    @property
    def batch(self) -> int:
        """Rows."""
        return int(self.prompt_BT.shape[0])

    @property
    def is_prefilled(self) -> bool:
        """Whether the prompt has been through the model, with its whole head."""
        return self._prefilled is not None

    @property
    def pad_id(self) -> torch.Tensor | None:
        """What finished rows are padded with, as a tensor on the device of the ids."""
        pad = self.config._pad_token_tensor
        return None if pad is None else pad.to(self.prompt_BT.device)

    def cache_is_returned(self) -> bool:
        """Whether the caller sees the cache after the call."""
        return bool(self.config.return_dict_in_generate or getattr(self.forwards.cache, "_is_user_defined", False))

    def scores(self, outputs: Output) -> torch.Tensor:
        """The scores of the next token [B, V] in float32, processed; recorded where that was asked for."""
        raw = outputs.logits[:, -1]
        if not (self.processors or self.records):
            return raw
        for name in self.records.keys() - {"scores", "logits"}:
            self.records[name].append(outputs[name])
        return self.processed(raw.to(copy=True, dtype=torch.float32, device=self.prompt_BT.device))

    def processed(self, raw: torch.Tensor) -> torch.Tensor:
        """The scores [B, V] that the processors make of logits which are nobody else's; both recorded if asked for."""
        scores = raw
        for process in self._in_turn:
            scores = process(self.ids(), scores)
        for name, kept in (("scores", scores), ("logits", raw)):
            if name in self.records:
                self.records[name].append(kept)
        return scores

    def stopped_by_others(self, done: torch.Tensor) -> torch.Tensor:
        """Which rows the criteria that need tensors have stopped, bool [B], added to those `done`."""
        scores = tuple(self.records["scores"]) if "scores" in self.records else None
        for criterion in self.stops.others:
            done = done | criterion(self.ids(), scores)
        return done

    def stopped_on_host(self, done: list[bool]) -> list[bool]:
        """The same as a list: behind a forward each operation of torch takes 10 µs."""
        scores = tuple(self.records["scores"]) if "scores" in self.records else None
        for criterion in self.stops.others:
            said = criterion(self.ids(), scores)
            flags = said.tolist() if isinstance(said, torch.Tensor) and said.shape == (len(done),) else None
            if flags is None:  # one answer for all rows, as generate would take it
                flags = (torch.tensor(done) | torch.as_tensor(said, device="cpu")).tolist()
            done = [before or flag for before, flag in zip(done, flags, strict=True)]
        return done

    def prefill(self) -> Output:
        """The forward over the prompt, executed once."""
        if self._prefilled is None:
            self._prefilled = self.forwards.prefill(self.prompt_BT)
        return self._prefilled

    def result(self, undone: int, *, trimmed: bool = False) -> Generated:
        """What `generate` returns.

        Args:
            undone: forwards that were one too many.
            trimmed: whether the ids are without their tokens already.
        """
        ids = self.ids()
        sequences = ids if trimmed else ids[:, : ids.shape[1] - undone]
        self.report.forwards = self.forwards.count
        self.report.undone = undone
        self.report.new_tokens = sequences.shape[1] - self.prompt_BT.shape[1]
        if self.streamer is not None:
            self.streamer.end()
        if not self.config.return_dict_in_generate:
            return sequences
        kept = {name: tuple(record[: len(record) - undone]) for name, record in self.records.items()}
        return GenerateDecoderOnlyOutput(sequences=sequences, past_key_values=self.forwards.cache, **kept)


def run_on_host(call: Call) -> Generated:
    """The loop that reads every token."""
    call.stops.read_end_ids()
    head = None
    if call.tables is not None and not call.forwards.is_compiled and not call.is_prefilled:
        head = DeferredHead.of(call.model)
    with head or nullcontext():
        _HostLoop(call, head).run()
    return call.result(0)


class _HostLoop:
    def __init__(self, call: Call, head: DeferredHead | None) -> None:
        self.call = call
        self.head = head
        self.finished = [False] * call.batch
        self.device = call.prompt_BT.device
        self._limit: float = float("inf") if call.stops.max_length is None else call.stops.max_length
        self._pads = False  # from the first finished row on, where there is an end id
        self._columns = pages(self._new_columns)
        self.pad = 0 if call.pad_id is None else int(call.pad_id)
        self.masked = None
        if call.tables is not None:
            call.report.way = "masked"
            self.masked = MaskedChooser(call.tables, call.processors, call.chooser, head)

    def run(self) -> None:
        """Prefill, then chunks until every row is finished."""
        call, masked = self.call, self.masked
        outputs = call.prefill()
        if self.head is not None and not self.head.learn(outputs.logits):
            self.head.put_back()
            self.head = None
        put_off = False
        takes_largest = self._takes_largest(outputs.logits)
        with call.model._optimize_model_for_decode():
            while True:
                if takes_largest:
                    done = self._emit(*self._largest(outputs.logits))
                else:
                    done = self._emit(self._choose(outputs, None if put_off else outputs.logits))
                num_new = 1
                while not done and masked is not None and (forced := self._forced()) is not None:
                    done = self._emit(forced)
                    num_new += 1
                call.report.forced_tokens += num_new - 1
                if not call.model._has_unfinished_sequences(done, synced_gpus=False, device=self.device):
                    if num_new > 1 and call.cache_is_returned():  # as generate leaves it: without the last token
                        call.forwards.decode(call.ids.last(num_new)[:, :-1], num_new - 1, call.ids.without_last)
                    break
                outputs = call.forwards.decode(call.ids.last(num_new), num_new, call.ids)
                put_off = self.head is not None
        if masked is not None:
            call.report.near_ties, call.report.restricted_heads = masked.near_ties, masked.restricted

    def _takes_largest(self, logits: torch.Tensor) -> bool:
        """Whether the next token is that of the largest logit, and NumPy can read it: asked once a call.

        Behind a forward the device and the type of a tensor take 10 µs to ask.
        """
        call = self.call
        is_plain = self.masked is None and not call.processors and not call.records and call.chooser.seed is None
        readable = logits.dtype in (torch.float32, torch.float64) and logits.device.type == self.device.type == "cpu"
        return is_plain and readable

    def _largest(self, logits_BTV: torch.Tensor) -> tuple[list[int], torch.Tensor]:
        """The token of the largest logit of each row, and all of them as a column."""
        tokens_B1, array_B1 = next(self._columns)
        logits_BTV.numpy()[:, -1:].argmax(2, array_B1)
        return array_B1[:, 0].tolist(), tokens_B1

    def _choose(self, outputs: Output, logits: torch.Tensor | None) -> list[int]:
        call, position = self.call, self.call.ids.length
        if self.masked is None:
            plain = not call.processors and not call.records
            return call.chooser.on_host(outputs.logits if plain else call.scores(outputs)[:, None], position)
        going = [row for row in range(call.batch) if not self._is_padded(row)]
        chosen = self.masked.choose(None if logits is None else logits[:, -1], going, position)
        return [chosen.get(row, self.pad) for row in range(call.batch)]

    def _forced(self) -> list[int] | None:
        """The next token of every row, if each row that goes on has only one."""
        if self.masked is None or not self.call.chunks or not self.call.forwards.takes_chunks():
            return None
        tokens = []
        for row in range(self.call.batch):
            token = self.pad if self._is_padded(row) else self.masked.forced(row)
            if token is None:
                return None
            tokens.append(token)
        return tokens

    def _column(self, tokens: list[int]) -> torch.Tensor:
        """The tokens as a tensor [B, 1] where the model wants them."""
        if self.device.type != "cpu":
            return torch.tensor([[token] for token in tokens], device=self.device)
        tokens_B1, array_B1 = next(self._columns)
        array_B1[:, 0] = tokens
        return tokens_B1

    def _new_columns(self, begin: int, end: int) -> Iterable[tuple[torch.Tensor, NDArray[np.int64]]]:
        """Columns [B, 1] for tokens, each as a tensor and as an array of the same memory."""
        page = torch.empty(end - begin, self.call.batch, 1, dtype=torch.long)
        return zip(page.unbind(0), list(page.numpy()), strict=True)

    def _is_padded(self, row: int) -> bool:
        """Whether a row has ended; without an end id, generate goes on with finished rows while others do."""
        return self._pads and self.finished[row]

    def _emit(self, tokens: list[int], tokens_B1: torch.Tensor | None = None) -> bool:
        """One more token a row, as a column too where there is one; whether every row is finished now."""
        call, stops = self.call, self.call.stops
        if self._pads:
            tokens, tokens_B1 = [self.pad if self._is_padded(row) else token for row, token in enumerate(tokens)], None
        if tokens_B1 is None:
            tokens_B1 = self._column(tokens)
        call.ids.append(tokens_B1)
        if call.streamer is not None:
            call.streamer.put(tokens_B1[:, 0].cpu())
        if self.masked is not None:
            for row, token in enumerate(tokens):
                if not self._is_padded(row):
                    self.masked.accept(row, token)
        ended = not stops.end_ids.isdisjoint(tokens)
        if ended:
            self.finished = [done or token in stops.end_ids for token, done in zip(tokens, self.finished, strict=True)]
        if stops.others:
            self.finished = call.stopped_on_host(self.finished)
        if ended or stops.others:
            self._pads = stops.has_end and any(self.finished)
            return call.ids.length >= self._limit or all(self.finished)
        return call.ids.length >= self._limit


def run_deferred(call: Call) -> Generated:
    """The loop that does not wait for the device."""
    call.report.way = "deferred"
    outputs = call.prefill()
    returned = call.cache_is_returned()
    flag = LateFlag(call.prompt_BT.device, call.streamer)
    going_B = torch.ones(call.batch, dtype=torch.bool, device=call.prompt_BT.device)
    ends_E = None if call.stops.end_ids_E is None else call.stops.end_ids_E.to(going_B.device)
    with call.model._optimize_model_for_decode():
        while True:
            tokens_B = call.chooser.on_device(call.scores(outputs), call.ids.length)
            if call.stops.has_end and call.pad_id is not None:
                tokens_B = torch.where(going_B, tokens_B, call.pad_id)
            call.ids.append(tokens_B[:, None])
            if ends_E is not None:
                going_B = going_B & ~torch.isin(tokens_B, ends_E)
            if call.stops.others:
                going_B = ~call.stopped_by_others(~going_B)
            stop = flag.put(going_B.any(), tokens_B) or call.stops.full(call.ids.length)
            if not call.model._has_unfinished_sequences(stop, synced_gpus=False, device=going_B.device):
                break
            outputs = call.forwards.decode(call.ids.last(1), 1, call.ids)
    undone = flag.finish()
    if returned:
        call.forwards.undo(undone)
    return call.result(undone)


_Copied = tuple[torch.Tensor, torch.Tensor, torch.Event | None]
"""A flag, tokens, and what tells when both have arrived."""


class LateFlag:
    """Copies "is any row unfinished?" to the host and reads it a step later; tokens to stream as well."""

    def __init__(self, device: torch.device, streamer: Streamer | None) -> None:
        self._device = device
        self._streamer = streamer
        self._waiting: _Copied | None = None
        self._places: list[tuple[torch.Tensor, torch.Tensor, torch.Event]] = []
        self._turn = 0
        self._reported = False

    def put(self, going: torch.Tensor, tokens_B: torch.Tensor) -> bool:
        """Hand over whether any row goes on, bool [], and tokens; True if all rows were finished a step ago."""
        before, self._waiting = self._waiting, self._copied(going, tokens_B)
        if before is not None:
            self._reported = not self._read(before)
        return self._reported

    def _copied(self, going: torch.Tensor, tokens_B: torch.Tensor) -> _Copied:
        if self._device.type == "cpu":
            return going.clone(), tokens_B.clone(), None
        if len(self._places) < 2:  # one is being read while the other is written
            self._places.append(self._place(tokens_B))
        place = self._places[self._turn]
        self._turn = 1 - self._turn
        flag, tokens, event = place
        flag.copy_(going, non_blocking=True)
        if self._streamer is not None:
            tokens.copy_(tokens_B, non_blocking=True)
        event.record()
        return place

    def _place(self, tokens_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Event]:
        pinned = self._device.type == "cuda"
        flag = torch.empty((), dtype=torch.bool, pin_memory=pinned)
        return (
            flag,
            torch.empty(tokens_B.shape, dtype=tokens_B.dtype, pin_memory=pinned),
            torch.Event(device=self._device),
        )

    def _read(self, copied: _Copied) -> bool:
        flag, tokens, event = copied
        if event is not None:
            event.synchronize()
        if self._streamer is not None:
            self._streamer.put(tokens.clone())
        return bool(flag)

    def finish(self) -> int:
        """How many steps were one too many; streams what was held back."""
        if self._reported:
            return 1
        if self._waiting is not None:
            self._read(self._waiting)
        return 0
