"""How much memory a cache really takes: resident pages of its own buffers, in a fresh process for each context.

Linux marks in /proc/self/pagemap which pages of an address range are present, so nothing else that the process holds
is counted. Pages are whole: the most bytes that can be resident follow from the layout (`most_resident`).
Run as a module it is the worker: one process loads the model and forks a child for each context.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from perstep.experiments.cache.plan import Plan
from perstep.targets import Buffer, Target

PAGEMAP = Path("/proc/self/pagemap")
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
HUGE_PAGE_BYTES = 2 << 20
PRESENT_OR_SWAPPED = np.uint64(3 << 62)
TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Resident:
    """What one fresh process found.

    Attributes:
        context: positions that were prefilled.
        used_bytes: of those positions, from the buffers' shapes.
        resident_bytes: present pages of the buffers.
        most_bytes: what whole pages make of the used bytes, given where they lie.
    """

    context: int
    used_bytes: int
    resident_bytes: int
    most_bytes: int


def measure_resident(plan: Plan) -> tuple[list[Resident], str]:
    """Ask a fresh process a context; what they found, and why not if nothing.

    Args:
        plan: with its contexts.
    """
    if not PAGEMAP.exists():
        return [], "this system has no /proc/self/pagemap"
    if plan.device != "cpu":
        return [], f"the buffers are on {plan.device}, not in this process's memory"
    command = [sys.executable, "-P", "-m", "perstep.experiments.cache.resident"]
    try:
        done = subprocess.run(
            command, input=msgspec.json.encode(plan), capture_output=True, timeout=TIMEOUT_S, check=True
        )
        return [msgspec.json.decode(line, type=Resident) for line in done.stdout.splitlines()], ""
    except subprocess.TimeoutExpired:
        return [], f"the process that fills the cache did not end within {TIMEOUT_S:.0f} s"
    except subprocess.CalledProcessError as error:
        last = (error.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {error.returncode}"])[-1]
        return [], f"the process that fills the cache failed: {last}"


def resident_bytes(buffers: Sequence[Buffer], pagemap: Path = PAGEMAP) -> int:
    """The bytes of the pages that hold these buffers and are present or swapped out.

    Args:
        buffers: address ranges of this process.
        pagemap: eight bytes a page; bit 63 present, bit 62 swapped.
    """
    page = os.sysconf("SC_PAGE_SIZE")
    spans = [(b.address // page, -(-(b.address + b.num_bytes) // page)) for b in buffers if b.num_bytes]
    seen: set[int] = set()
    with pagemap.open("rb", buffering=0) as file:
        for first, last in spans:
            file.seek(8 * first)
            entries = np.frombuffer(file.read(8 * (last - first)), np.uint64)
            seen.update((first + np.flatnonzero(entries & PRESENT_OR_SWAPPED)).tolist())
    return len(seen) * page


def most_resident(runs: NDArray[np.int64], page: int) -> int:
    """The bytes of all pages that address ranges touch, each page once.

    Args:
        runs: [ranges, 2] first address and the one after the last.
        page: bytes of a page.
    """
    first, last = runs[:, 0] // page, -(-runs[:, 1] // page)
    order = np.argsort(first)
    first, last = first[order], last[order]
    reached = np.concatenate([[0], np.maximum.accumulate(last)[:-1]])
    return int(np.maximum(last - np.maximum(first, reached), 0).sum()) * page


def page_bytes() -> int:
    """What memory is handed out in: 2 MiB where the kernel gives huge pages to everybody."""
    always = HUGE_PAGES.is_file() and "[always]" in HUGE_PAGES.read_text()
    return HUGE_PAGE_BYTES if always else os.sysconf("SC_PAGE_SIZE")


def _fill_and_count(target: Target, plan: Plan, context: int, capacity: int) -> Resident:
    ids_BT = target.prompt(text=None, num_tokens=capacity, batch=plan.batch, seed=plan.seed)
    steps = target.cached_steps(ids_BT, target.cache_kind(plan.cache))
    steps.on_new_pages()
    steps.fill([context])
    steps.rewind(context)
    most = most_resident(steps.held_at(context), page_bytes())
    return Resident(context, steps.used_bytes(), resident_bytes(steps.buffers()), most)


def _work(plan: Plan) -> None:
    target, contexts = plan.open(), plan.context or ()
    for context in contexts:
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            counted = _fill_and_count(target, plan, context, max(contexts) + 1)
            print(msgspec.json.encode(counted).decode(), flush=True)  # noqa: T201
            os._exit(0)
        if os.waitpid(child, 0)[1] != 0:
            sys.exit(f"context {context} could not be filled")


if __name__ == "__main__":
    _work(msgspec.json.decode(sys.stdin.buffer.read(), type=Plan))
