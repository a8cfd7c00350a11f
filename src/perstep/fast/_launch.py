"""Launching the kernels of `_kernels` on a CUDA device: what each is given, and when it is not used.

Triton comes with torch's CUDA builds, and compiles a kernel at its first launch, which takes a C compiler. Without
either, and for what a kernel does not take, each function here answers None, and the caller does the same by operations
of torch. Nothing waits for the device, and what is allocated depends on shapes alone, so all of it may be captured.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import wraps
from importlib.util import find_spec
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

import torch

if TYPE_CHECKING:
    from perstep.fast.token_tables import DeviceTables

MOST_COLUMNS = 1 << 20
"""Weights of top-p are counted in 2**-42 of the largest: the sum over these columns stays below 2**62."""

OPTIONS = {"enable_fp_fusion": False}
"""Of every launch: a product is rounded before something is added to it, as by two operations of torch."""

_INSTALLED = find_spec("triton") is not None
_DTYPES = frozenset((torch.float32, torch.bfloat16, torch.float16))
_failed: list[str] = []
_inverses: dict[tuple[float, torch.device], torch.Tensor] = {}
_powers_of: dict[tuple[int, torch.device], torch.Tensor] = {}

Given = ParamSpec("Given")
Result = TypeVar("Result")


def takes(scores: torch.Tensor) -> bool:
    """Whether there are kernels for such scores."""
    return (
        _INSTALLED  # first: behind a forward on a CPU, to ask for a device takes 9 µs
        and not torch.compiler.is_compiling()
        and not _failed
        and scores.is_cuda
        and scores.ndim == 2
        and 0 < scores.shape[1] <= MOST_COLUMNS
        and scores.dtype in _DTYPES
        and not scores.requires_grad
        and scores.device.index == torch.cuda.current_device()
    )


def _or_none(
    launch: Callable[Concatenate[torch.Tensor, Given], Result],
) -> Callable[Concatenate[torch.Tensor, Given], Result | None]:
    @wraps(launch)
    def launched(scores: torch.Tensor, /, *args: Given.args, **kwargs: Given.kwargs) -> Result | None:
        if not takes(scores):
            return None
        try:
            return launch(scores.contiguous(), *args, **kwargs)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever Triton raises on a machine on which it cannot compile
            said = (str(error).strip().splitlines() or [""])[0]
            _failed.append(f"{type(error).__name__}: {said}")
            warnings.warn(
                f"perstep.fast does without its Triton kernels, by torch's operations: {_failed[0]}", stacklevel=3
            )
            return None

    return launched


def _grid(scores: torch.Tensor, block: int) -> tuple[int, int]:
    return scores.shape[0], -(-scores.shape[1] // block)


@_or_none
def top_p(scores: torch.Tensor, share: float, filter_value: float) -> torch.Tensor:
    """The scores [rows, columns] with `filter_value` outside the nucleus, as `TopP` for at least one token.

    Five launches and the memory of three histograms, where a sort of 131,072 columns takes a dozen and reads them all
    again for each.
    """
    from perstep.fast import _kernels as kernels

    rows, columns = scores.shape
    whole_share, grid = round(share * 2**62), _grid(scores, kernels.BLOCK.value)
    tops, kept = scores.amax(dim=1), torch.empty_like(scores)
    bins = torch.zeros(rows, 3, kernels.BINS.value, dtype=torch.int64, device=scores.device)
    for level in range(3):
        kernels.add_weights[grid](scores, tops, bins, whole_share, columns, level, **OPTIONS)
    kernels.keep_nucleus[grid](scores, tops, bins, kept, whole_share, filter_value, columns, **OPTIONS)
    return kept


@_or_none
def penalised(scores: torch.Tensor, ids: torch.Tensor, ignored: torch.Tensor, penalty: float) -> torch.Tensor:
    """The scores [rows, columns] with a penalty for ids [rows, length] from position `ignored` [1 or rows, 1] on."""
    from perstep.fast import _kernels as kernels

    inverse = _inverses.get((penalty, scores.device))
    if inverse is None:  # as torch itself takes it, whose versions round it differently
        inverse = _inverses[penalty, scores.device] = torch.ones(1, device=scores.device) / penalty
    ids, changed = _row_by_row(ids), torch.empty_like(scores)
    kernels.penalise[_grid(scores, kernels.BLOCK.value)](
        ids, ignored, inverse, scores, changed, penalty, ids.shape[1], ids.stride(0), int(len(ignored) > 1),
        scores.shape[1], not scores.is_cuda, **OPTIONS,
    )  # fmt: skip
    return changed


@_or_none
def advance_and_mask(
    scores: torch.Tensor,
    ids: torch.Tensor,
    tables: DeviceTables,
    before: tuple[torch.Tensor, torch.Tensor] | None,
    starts_B: torch.Tensor,
    tables_B: torch.Tensor,
    base: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The scores [B, L] with -inf where a grammar forbids a token, and hash and state of each text, int64 [B].

    Args:
        scores: of the next token.
        ids: the texts, int64 [B, T].
        tables: for these scores.
        before: hashes and states of the texts before their last token, int64 [B]; None where there were none.
        starts_B: the state of a text that goes on from none of them.
        tables_B: the table of each row.
        base: of the hash.
    """
    from perstep.fast import _kernels as kernels

    (batch, columns), ids, rows = scores.shape, _row_by_row(ids), tables.forbidden_RL
    after_2B, masked = torch.empty(2, batch, dtype=torch.int64, device=scores.device), torch.empty_like(scores)
    packed, hashes_B, states_B = rows.dtype != torch.bool, *(before or (starts_B, starts_B))
    kernels.advance_and_mask[_grid(scores, kernels.BLOCK.value)](
        ids, _powers(base, ids.shape[1], ids.device), hashes_B, states_B, starts_B, tables_B, tables.next_SC,
        tables.class_KV, tables.row_S, rows if packed else rows.view(torch.uint8), scores, after_2B, masked,
        ids.shape[1], ids.stride(0), batch, tables.num_classes, tables.num_tokens, columns, rows.shape[1],
        FOLLOWED=before is not None, PACKED=packed, BATCH=1 << (batch - 1).bit_length(), **OPTIONS,
    )  # fmt: skip
    return masked, after_2B[0], after_2B[1]


def _powers(base: int, length: int, device: torch.device) -> torch.Tensor:
    """The powers of a base from the first on, modulo 2**64, `length` of them or more."""
    powers = _powers_of.get((base, device))
    if powers is None or len(powers) < length:
        powers = torch.full((max(4096, 2 * length),), base, device=device).cumprod(0)
        _powers_of[base, device] = powers
    return powers


def _row_by_row(ids: torch.Tensor) -> torch.Tensor:
    """The ids with the tokens of a row side by side."""
    return ids if ids.stride(1) == 1 else ids.contiguous()
