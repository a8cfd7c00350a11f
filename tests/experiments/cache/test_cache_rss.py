"""Resident pages: counted for address ranges, bounded by their layout, in fresh processes."""

import mmap
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perstep.experiments.cache.plan import Plan
from perstep.experiments.cache.resident import (
    PAGEMAP,
    measure_resident,
    most_resident,
    page_bytes,
    resident_bytes,
)
from perstep.targets import Buffer
from perstep.targets.reference import load
from perstep.targets.reference.target import ReferenceSteps

PAGE = os.sysconf("SC_PAGE_SIZE")
linux = pytest.mark.skipif(not PAGEMAP.exists(), reason="needs /proc/self/pagemap")


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(1, 90)), min_size=1, max_size=12))
def test_whole_pages_are_counted_once(runs: list[tuple[int, int]]) -> None:
    """Equal to the set of pages that the ranges touch, in whatever order they come."""
    touched = {page for start, size in runs for page in range(start // 16, (start + size - 1) // 16 + 1)}
    ranges = np.array([[start, start + size] for start, size in runs], np.int64)
    assert most_resident(ranges, 16) == 16 * len(touched)


@linux
def test_a_page_is_resident_once_it_is_written() -> None:
    """Fresh pages are none; writing one byte makes one."""
    pages = mmap.mmap(-1, 16 * PAGE)
    address = np.frombuffer(pages, np.uint8).ctypes.data
    buffers = [Buffer(address, 16 * PAGE)]
    assert resident_bytes(buffers) == 0
    pages[5 * PAGE] = 1
    assert resident_bytes(buffers) == page_bytes() if page_bytes() > PAGE else PAGE
    assert resident_bytes([Buffer(address, 5 * PAGE), Buffer(address + 5 * PAGE, 10)]) == PAGE


def test_runs_are_where_positions_lie(tiny_llama: Path) -> None:
    """Keys one position a column: 8 numbers a head lie 8 x capacity apart; values one a row."""
    runs = ReferenceSteps(load(tiny_llama), np.zeros((1, 40), np.int64)).held_at(3)
    assert (runs[:, 1] - runs[:, 0]).tolist() == [12] * 16 + [3 * 8 * 4] * 2
    assert runs[1, 0] - runs[0, 0] == 40 * 4


@linux
def test_fresh_processes_find_the_pages_that_the_layout_says(make_llama, tmp_path: Path) -> None:
    """For each context one; the whole pages of what was written, not one more."""
    folder = make_llama(tmp_path / "model", max_position_embeddings=2048, num_key_value_heads=2)
    found, why_not = measure_resident(Plan(model=str(folder), backend="numpy", batch=2, context=(3, 200, 999)))
    assert (why_not, [each.context for each in found]) == ("", [3, 200, 999])
    if page_bytes() == PAGE:
        assert [each.resident_bytes for each in found] == [each.most_bytes for each in found]
    assert all(each.used_bytes <= each.resident_bytes for each in found)
    assert found[0].used_bytes == 2 * 2 * 2 * 8 * 3 * 2 * 4


def test_a_process_that_fails_says_why(tmp_path: Path) -> None:
    """Its last line, not a traceback, and no numbers."""
    found, why_not = measure_resident(Plan(model=str(tmp_path / "none"), backend="numpy", context=(8,)))
    assert found == []
    assert "no model" in why_not or "pagemap" in why_not


def test_a_device_has_pages_of_its_own() -> None:
    """They are not this process's."""
    found = measure_resident(Plan(model="mini", backend="torch", device="cuda", context=(8,)))
    assert found[1].startswith("the buffers are on cuda") or not PAGEMAP.exists()
