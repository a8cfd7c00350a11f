"""Capturing a step on a device: warm-up on a side stream, one graph for each half, and what is left after a failure.

The rules are those of torch's documentation of CUDA graphs: a warm-up on a side stream, static inputs, no wait for the
device inside, one private pool for graphs that are replayed in the order of their capture.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

Work = Callable[[], None]
"""A part of a step: no arguments, no result."""

WARM_UPS = 2
"""Libraries choose their kernels and workspaces in the first."""


def capture(halves: Sequence[Work], rewind: Work, device: torch.device) -> list[Work]:
    """What repeats each of `halves`; on a device without graphs the halves themselves.

    Args:
        halves: of a step, in their order.
        rewind: puts all buffers back to where a step may begin.
        device: where they are.

    Raises:
        RuntimeError: the step waits for the device, or cannot be captured. The device is usable afterwards.
    """
    if device.type != "cuda":
        return list(halves)
    with torch.cuda.device(device):
        _warm_up(halves, rewind)
        graphs = _captured(halves)
        rewind()  # in a capture nothing runs, but what runs on the host may have counted on
        return [graph.replay for graph in graphs]


def _warm_up(halves: Sequence[Work], rewind: Work) -> None:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for number in range(WARM_UPS):
            rewind()
            # A wait inside a capture spoils it, and torch's random generator with it: so it is looked for before.
            with _alarm() if number else _nothing():
                for half in halves:
                    half()
        rewind()
    torch.cuda.current_stream().wait_stream(side)


def _captured(halves: Sequence[Work]) -> list[torch.cuda.CUDAGraph]:
    before, pool = torch.cuda.current_stream(), torch.cuda.graph_pool_handle()
    graphs = []
    try:
        for half in halves:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                half()
            graphs.append(graph)
    except BaseException:
        torch.cuda.set_stream(before)  # torch leaves its own stream current where the capture could not be ended
        torch.cuda.synchronize()
        raise
    return graphs


@contextmanager
def _alarm() -> Iterator[None]:
    """Let torch raise at every wait for the device; not beside other threads, which it would stop as well."""
    if threading.active_count() > 1:
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


@contextmanager
def _nothing() -> Iterator[None]:
    yield
