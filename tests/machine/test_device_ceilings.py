"""Ceilings of a device, with a made-up one: what is planted is found."""

from collections.abc import Sequence
from itertools import count

import pytest

from perstep.errors import InputError
from perstep.machine.device_ceilings import (
    HOST_FIGURES,
    KINDS,
    SIZES,
    DeviceArm,
    DeviceCeilings,
    device_arms,
    measure_device_ceilings,
)

GIB = 1 << 30


class MadeUpLab:
    """3 TB/s from memory, 9 from a cache of 32 MiB, 500 TFLOP/s, 1 µs at least; every other round is slower."""

    def __init__(self, *, fails: Sequence[str] = (), slow: float = 1.5) -> None:
        self._fails, self._slow = fails, slow
        self.now_ns = 0

    def kernels_ns(self, arms: Sequence[DeviceArm], rounds: int) -> dict[str, list[int]]:
        """Each arm by the law above; half a second in all."""
        self.now_ns += 500_000_000
        return {arm.figure: [self._one(arm, number) for number in range(rounds)] for arm in arms
                if arm.figure not in self._fails}  # fmt: skip

    def _one(self, arm: DeviceArm, number: int) -> int:
        near = arm.kind == "read" and arm.bytes_moved <= 32 << 20
        ns = max(1000.0, arm.bytes_moved / (9000 if near else 3000), arm.flops / 500_000)
        return round(ns * (self._slow if number % 2 else 1.0))

    def host_ns(self, figure: str) -> list[float]:
        """7 µs each, one second in all."""
        self.now_ns += 1_000_000_000
        return [] if figure in self._fails else [7000.0, 8000.0, 7500.0]

    def now(self) -> int:
        """The made-up clock."""
        return self.now_ns


def measured(lab: MadeUpLab, *, free: int = 64 * GIB, rounds: int = 7, budget_s: float = 10.0) -> DeviceCeilings:
    """Ceilings of the made-up device."""
    arms, omitted = device_arms(itemsize=2, free_bytes=free)
    return measure_device_ceilings(
        lab, arms, device="made up", dtype="bfloat16", omitted=omitted, rounds=rounds, budget_s=budget_s, now=lab.now
    )


def test_what_is_planted_is_found() -> None:
    """Bandwidth of memory and of the cache, the peak, the shortest kernel; medians lie above the best round."""
    made = measured(MadeUpLab(), rounds=6)
    assert made.memory_gb_s == pytest.approx(3000, rel=1e-3)
    assert made.peak_tflop_s == pytest.approx(500, rel=1e-3)
    assert made.shortest_ns() == made.shortest_ns("reduce") == 1000
    assert made.figures[f"read.{16 << 20}"].gb_s == pytest.approx(9000, rel=1e-3)
    assert made.figures[f"read.{64 << 20}"].gb_s == pytest.approx(3000, rel=1e-3)
    assert made.figures["kernel.cast"].value == 1250
    assert made.figures["launch"].value == 7500
    assert made.why_no_bounds() == ""
    assert made.omitted == {}
    assert set(made.figures) >= {*HOST_FIGURES, *(f"kernel.{kind}" for kind in KINDS)}


def test_products_of_many_rows_are_timed_at_their_own_bandwidth() -> None:
    """Each by rows and bytes of weights; a product that would take a millisecond is left out beforehand."""
    arms, _ = device_arms(itemsize=2, free_bytes=64 * GIB, rows=[1, 32, 4096])
    products = {arm.figure: arm for arm in arms if arm.kind == "product"}
    assert {arm.rows for arm in products.values()} == {1, 32, 4096}
    one = products[f"product.32.{1 << 26}"]
    assert (one.bytes_moved, one.flops) == (1 << 26, 2 * 32 * (1 << 25))
    assert f"product.4096.{1 << 28}" not in products
    assert f"product.1.{1 << 30}" in products


def test_sets_that_do_not_fit_are_left_out_and_named() -> None:
    """At most a quarter of the free memory, a copy's target included."""
    made = measured(MadeUpLab(), free=1 << 28)
    held = {figure.bytes_moved for figure in made.of("read")}
    assert held == {size for size in SIZES if 2 * size <= 1 << 26}
    assert f"read.{GIB}" in made.omitted


def test_what_does_not_run_or_has_no_time_is_named() -> None:
    """The figures that are there stand all the same."""
    made = measured(MadeUpLab(fails=["kernel.attention", "sync"]), budget_s=3.0)
    assert made.omitted["kernel.attention"] == "it did not run on this device"
    assert set(made.omitted) == {"kernel.attention", "sync", "event"}
    assert made.omitted["event"] == "no time"
    assert made.elapsed_ns == 3_500_000_000
    with pytest.raises(InputError, match="budget_s is 0"):
        measured(MadeUpLab(), budget_s=0)


def test_too_few_rounds_bound_nothing() -> None:
    """A best round of two is none."""
    assert "need 3" in measured(MadeUpLab(), rounds=2).why_no_bounds()
    assert measured(MadeUpLab(), rounds=3).why_no_bounds() == ""
    nothing = DeviceCeilings(device="x", dtype="float32", width=1, figures={})
    assert nothing.why_no_bounds() == "no ceiling of the device was measured"
    assert (nothing.memory_gb_s, nothing.peak_tflop_s, nothing.shortest_ns()) == (None, None, None)


def test_a_figure_without_time_is_no_figure() -> None:
    """A profiler that reports nothing leaves nothing to divide by."""
    steps = count()

    class Nothing(MadeUpLab):
        def kernels_ns(self, arms: Sequence[DeviceArm], rounds: int) -> dict[str, list[int]]:
            next(steps)
            return {arm.figure: [0] * rounds for arm in arms}

    made = measured(Nothing())
    assert next(steps) == 1
    assert made.of("product") == []
    assert "it did not run" in made.omitted["kernel.cast"]
