"""`machine --device`: a device's ceilings, by a made-up lab; bad input in one line."""

from collections.abc import Sequence
from typing import Any

import pytest

from perstep.errors import InputError
from perstep.experiments.device.machine import ceilings_of, device_machine
from perstep.machine.device_ceilings import DeviceArm
from perstep.report.device_ceilings import device_ceilings_table
from perstep.report.table import to_text
from perstep.targets.transformers.target import TransformersTarget

pytestmark = pytest.mark.hf
torch = pytest.importorskip("torch")


class Lab:
    """Every kernel takes 1 µs and a nanosecond for each kilobyte."""

    def __init__(self) -> None:
        self.arms: list[DeviceArm] = []

    def kernels_ns(self, arms: Sequence[DeviceArm], rounds: int) -> dict[str, list[int]]:
        """By that law."""
        self.arms = list(arms)
        return {arm.figure: [1000 + arm.bytes_moved // 1000] * rounds for arm in arms}

    def host_ns(self, figure: str) -> list[float]:
        """7 µs each."""
        return [7000.0, 7100.0]


@pytest.mark.real_clock
def test_a_devices_ceilings_are_a_table() -> None:
    """A row a figure, in words, with the rate at its best round."""
    table = device_ceilings_table(device_machine("cuda", lab=Lab()))
    said = to_text(table)
    assert "smallest reduce kernel" in said
    assert "a launch, on the host" in said
    assert "7.00 µs" in said
    row = next(row for row in table.rows if row[0] == "product of 32 rows, 64.0 MiB of weights from memory")
    assert row[5].startswith("985 GB/s, ")
    assert {len(row) for row in table.rows} == {len(table.header)}
    assert [row[0].split(" ")[0] for row in table.rows[:2]] == ["read", "read"]


@pytest.mark.real_clock
def test_a_models_ceilings_have_its_width_and_rows(tiny_model: Any) -> None:
    """The batch among the numbers of rows."""
    lab = Lab()
    made = ceilings_of(TransformersTarget("tiny", tiny_model, True, {"hidden": 32}), rows=24, lab=lab)
    assert (made.width, made.dtype) == (32, "float32")
    assert {arm.rows for arm in lab.arms if arm.kind == "product"} == {1, 24, 256, 4096}


@pytest.mark.parametrize(("device", "said"), [("cpu", "give cuda"), ("mps", "perstep does not see")])
def test_other_devices_are_refused(device: str, said: str) -> None:
    """In one line."""
    with pytest.raises(InputError, match=said):
        device_machine(device)


def test_machine_refuses_a_device_that_is_not_here(cli: Any) -> None:
    """Exit code 2, one line."""
    made = cli("machine", "--device", "mps")
    assert (made.code, made.out) == (2, "")
    assert made.err.count("\n") == 1
