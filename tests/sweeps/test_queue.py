"""The queue: each cell is claimed by one worker, ends once, and a worker that is gone is told from one that is slow."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from perstep.errors import InputError
from perstep.sweeps.queue import (
    MOST_FAILURES,
    MOST_LOSSES,
    Held,
    Outcome,
    Watcher,
    attempts,
    claimed,
    link_once,
    verdict,
)

TEN_MINUTES_S = 600.0
PATIENCE_S = 60.0


class Machine:
    """A machine of a cluster: its own clock, its own start, and its view of the queue."""

    def __init__(self, name: str, now_s: float) -> None:
        self.now_s = now_s
        self.watcher = Watcher(PATIENCE_S, lambda: self.now_s, boot=name)

    def waits(self, seconds: float, cell: Path) -> bool:
        """Let time pass here; whether the cell could be claimed then."""
        self.now_s += seconds
        with claimed(cell, self.watcher) as held:
            return held is not None


@pytest.fixture
def cell(tmp_path: Path) -> Path:
    """A cell that nobody has touched."""
    return tmp_path / "cells" / "3f9c0d2b81aa.1"


@pytest.fixture
def holder(cell: Path) -> Iterator[Held]:
    """The attempt of a worker on a third machine."""
    with claimed(cell, Machine("holder", 0.0).watcher) as held:
        assert held is not None
        yield held


def age(cell: Path, seconds: float) -> None:
    """Give every file of a cell a time stamp of a clock that is wrong by this much."""
    for path in cell.rglob("*"):
        now = path.stat().st_mtime
        os.utime(path, (now + seconds, now + seconds))


@pytest.mark.parametrize("ahead_s", [TEN_MINUTES_S, -TEN_MINUTES_S, 0.0])
def test_a_worker_that_beats_is_alive_whatever_its_clock_says(cell: Path, holder: Held, ahead_s: float) -> None:
    """Clocks ten minutes apart: two watchers, neither takes the cell while the number changes within its own time."""
    watchers = [Machine("a", 1000.0), Machine("b", 1000.0 + TEN_MINUTES_S)]
    for _ in range(20):
        assert not any(watcher.waits(PATIENCE_S - 1, cell) for watcher in watchers)
        holder.beat()
        age(cell, ahead_s)
        assert not any(watcher.waits(0.0, cell) for watcher in watchers)
    assert holder.end(Outcome.DONE)


def test_a_worker_whose_number_stands_still_is_lost_after_the_watchers_own_patience(cell: Path, holder: Held) -> None:
    """Not before it has itself watched that long, however old the files look; then the next attempt begins."""
    age(cell, -10 * TEN_MINUTES_S)
    watcher, late = Machine("a", 5.0), Machine("b", 5.0 + TEN_MINUTES_S)
    assert not watcher.waits(0.0, cell)
    assert not watcher.waits(PATIENCE_S, cell)
    assert not late.waits(0.0, cell)
    watcher.now_s += 1
    with claimed(cell, watcher.watcher) as held:
        assert held is not None
        assert held.number == 2
        assert [one.end and one.end.outcome for one in attempts(cell)] == [Outcome.LOST, None]
        assert not late.waits(PATIENCE_S, cell), "the second attempt is watched anew"
        assert held.end(Outcome.DONE)


def test_the_late_result_of_a_worker_that_came_back_is_refused(cell: Path, holder: Held) -> None:
    """Before and after the next attempt has ended, and whatever it says; the later attempt counts."""
    watcher = Machine("a", 0.0)
    watcher.waits(0.0, cell)
    watcher.now_s += PATIENCE_S + 1
    with claimed(cell, watcher.watcher) as held:
        assert held is not None
        assert not holder.end(Outcome.DONE)
        assert verdict(attempts(cell)) is None
        assert held.end(Outcome.DONE)
    assert not holder.end(Outcome.FAILED, "late")
    done = [one.number for one in attempts(cell) if one.end and one.end.outcome is Outcome.DONE]
    assert done == [2]
    assert not watcher.waits(10 * PATIENCE_S, cell)


def test_on_one_machine_the_kernel_says_that_a_worker_is_gone(cell: Path) -> None:
    """At once: its lock is free. While it is held, it is not lost however long its number stands still ... and is."""
    here = Machine("one", 0.0)
    with ExitStack() as stack:
        stack.enter_context(claimed(cell, here.watcher))
        assert not here.waits(0.0, cell)
        assert here.watcher.is_alive(attempts(cell)[0])
    assert here.waits(0.0, cell)


def test_many_claim_at_once_and_one_has_it(cell: Path) -> None:
    """Sixteen threads, twenty times."""
    for round_ in range(20):
        place = cell / str(round_)
        place.mkdir(parents=True)
        with ThreadPoolExecutor(16) as pool:
            made = list(pool.map(lambda n, place=place: link_once(place / "claim.json", b"%d" % n), range(16)))
        assert sum(made) == 1
        assert (place / "claim.json").read_bytes() == b"%d" % made.index(True)
        assert [path.name for path in place.iterdir()] == ["claim.json"]


def test_a_claim_that_was_lost_leaves_nothing(cell: Path, holder: Held) -> None:
    """An attempt has the folder of its own worker alone."""
    assert not Machine("b", 0.0).waits(0.0, cell)
    assert sorted(path.name for path in holder.folder.iterdir()) == sorted(["claim.json", holder.worker.name])


def end_all(cell: Path, outcome: Outcome) -> int:
    """End attempts with this outcome while there are any; how many there were."""
    number = 0
    while True:
        with claimed(cell, Machine("a", 0.0).watcher) as held:
            if held is None or number > 15:
                return number
            number = held.number
            assert held.end(outcome, "why")


@pytest.mark.parametrize(
    ("outcome", "times"), [(Outcome.FAILED, MOST_FAILURES), (Outcome.LOST, MOST_LOSSES), (Outcome.DONE, 1)]
)
def test_a_cell_is_given_up_after_three_failures_or_ten_losses(cell: Path, outcome: Outcome, times: int) -> None:
    """And measured once if it succeeds."""
    assert end_all(cell, outcome) == times
    assert verdict(attempts(cell)) is (Outcome.DONE if outcome is Outcome.DONE else Outcome.FAILED)


def test_a_persons_ctrl_c_is_no_failure(cell: Path) -> None:
    """The cell is measured again, however often."""
    assert end_all(cell, Outcome.STOPPED) > 15


@pytest.mark.parametrize("name", ["claim.json", "end.json"])
def test_a_damaged_note_is_refused_by_name(cell: Path, holder: Held, name: str) -> None:
    """With what to do."""
    (holder.folder / name).write_text("{")
    with pytest.raises(InputError, match=f"{name} is damaged"):
        attempts(cell)
