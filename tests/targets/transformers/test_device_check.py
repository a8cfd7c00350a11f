"""A device that cannot be measured on is refused before anything is built, in one line that says what would do."""

import os
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import perstep
from perstep.errors import InputError
from perstep.targets.transformers import build
from perstep.targets.transformers.device_check import (
    DeviceUse,
    check_device,
    device_use,
    refuse_if_busy,
    refuse_if_no_room,
    refuse_if_spread,
)

pytestmark = pytest.mark.hf
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")


@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("mps", "perstep does not see what that device does"),
        ("mps:0", "perstep does not see what that device does"),
        ("auto", "one device at a time"),
        ("cuda:0,cuda:1", "one device at a time"),
        ("xpu", "cpu or cuda"),
        ("nonsense", "cpu or cuda"),
    ],
)
def test_a_device_of_another_kind_is_refused(device: str, said: str) -> None:
    """In one line, with its name."""
    with pytest.raises(InputError, match=said) as raised:
        check_device(device)
    assert str(raised.value).startswith(f"--device {device}")
    assert "\n" not in str(raised.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device here")
def test_without_a_gpu_nothing_is_built() -> None:
    """Torch's own word for it, in one line."""
    with pytest.raises(InputError, match="--device cuda cannot be used here: ") as raised:
        build("llama-3.1-70b", device="cuda")
    assert "\n" not in str(raised.value)
    check_device("cpu")


def test_a_busy_device_is_refused_with_how_busy_it_is() -> None:
    """Only if it is busy at every look; what has just ended still counts at the first."""
    looks = iter([DeviceUse(97, 40_000), DeviceUse(60, 40_000), DeviceUse(80, 41_000)])
    slept: list[float] = []
    with pytest.raises(InputError, match=r"kernels of other programs run 60 % of the time \(40,000 MiB in use\)"):
        refuse_if_busy("cuda", lambda _device: next(looks), slept.append)
    assert len(slept) == 2
    looks = iter([DeviceUse(97, 1), DeviceUse(3, 1)])
    refuse_if_busy("cuda", lambda _device: next(looks), slept.append)
    refuse_if_busy("cuda", lambda _device: None, slept.append)
    assert len(slept) == 3


def test_how_busy_a_device_is_comes_from_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the device that torch means, whatever its number there; nothing is known where it does not answer."""
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: type("P", (), {"uuid": "abc"})())
    answer = tmp_path / "nvidia-smi"
    answer.write_text('#!/bin/sh\n[ "$1" = "--id=GPU-abc" ] && echo "63, 12345"\n')
    answer.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert device_use("cuda") == DeviceUse(63, 12345)
    answer.write_text("#!/bin/sh\nexit 9\n")
    assert device_use("cuda") is None
    answer.write_text("#!/bin/sh\necho '[N/A], 3'\n")
    assert device_use("cuda") is None


class MadeUpNvml(ModuleType):
    """NVML with one GPU that two other processes and this one use.

    Attributes:
        busy: per cent, and None for a driver that does not tell.
        ended: how often it was shut down.
    """

    busy: int | None = 63
    ended = 0

    def nvmlInit(self) -> None:  # noqa: N802 - pynvml's names
        """Nothing to begin."""

    def nvmlShutdown(self) -> None:  # noqa: N802
        """Counted."""
        self.ended += 1

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        """Only of this GPU."""
        if uuid != "GPU-abc":
            raise LookupError(uuid)
        return uuid

    def nvmlDeviceGetUtilizationRates(self, _handle: str) -> Any:  # noqa: N802
        """As asked."""
        if self.busy is None:
            raise NotImplementedError
        return SimpleNamespace(gpu=self.busy)

    def nvmlDeviceGetMemoryInfo(self, _handle: str) -> Any:  # noqa: N802
        """12,345 MiB."""
        return SimpleNamespace(used=12_345 << 20)

    def nvmlDeviceGetComputeRunningProcesses(self, _handle: str) -> Any:  # noqa: N802
        """The two others and this one."""
        return [SimpleNamespace(pid=pid) for pid in (4712, os.getpid(), 4711)]


def test_where_nvml_is_at_hand_the_processes_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """This one is left out; where the driver does not tell, nvidia-smi is asked, if there is one."""
    nvml = MadeUpNvml("pynvml")
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: SimpleNamespace(uuid="abc"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert device_use("cuda") == DeviceUse(63, 12_345, (4711, 4712))
    with pytest.raises(InputError) as raised:
        refuse_if_busy("cuda", device_use, lambda _seconds: None)
    assert str(raised.value) == (
        "--device cuda is busy: kernels of other programs run 63 % of the time (12,345 MiB in use by processes 4711, "
        "4712); wait until it is idle, or give another device"
    )
    nvml.busy = None
    assert device_use("cuda") is None
    assert nvml.ended == 5
    with pytest.raises(InputError, match=r"by process 7\)"):
        refuse_if_busy("cuda", lambda _device: DeviceUse(50, 1, (7,)), lambda _seconds: None)
    with pytest.raises(InputError, match=r"by processes 1, 2, 3 and 2 more\)"):
        refuse_if_busy("cuda", lambda _device: DeviceUse(50, 1, (1, 2, 3, 4, 5)), lambda _seconds: None)


@pytest.fixture
def small_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device of 80 GB with 10 GB free, of which torch itself keeps 2."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (8 * 10**9, 80 * 10**9))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _device: 3 * 10**9)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _device: 10**9)


@pytest.mark.usefixtures("small_device")
def test_what_does_not_fit_is_refused_with_what_it_needs() -> None:
    """What torch keeps for its next tensors is free; a CPU is not asked here."""
    refuse_if_no_room("the model", 10**10, "cuda", "keep fewer layers")
    refuse_if_no_room("the model", 10**15, "cpu", "keep fewer layers")
    with pytest.raises(InputError) as raised:
        refuse_if_no_room("the model", 10**10 + 1, "cuda", "keep fewer layers")
    assert str(raised.value) == (
        "the model needs at least 10.0 GB, and of 80.0 GB on cuda 10.0 are free: keep fewer layers"
    )


@pytest.mark.usefixtures("small_device")
def test_weights_are_refused_before_they_are_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    """llama-3.1-70b in bfloat16 needs 141 GB; only its shapes are made."""
    monkeypatch.setattr(import_module("perstep.targets.transformers.presets"), "check_device", lambda _device: None)
    with pytest.raises(InputError, match=r"llama-3.1-70b in bfloat16 needs at least 141.1 GB"):
        build("llama-3.1-70b", dtype="bfloat16", device="cuda")


def test_a_model_that_lies_on_several_devices_is_refused(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its device_map, when it is given to `watch` as well; one that lies on one device is not."""
    monkeypatch.setattr(llama, "hf_device_map", {"model": 0, "lm_head": 0}, raising=False)
    refuse_if_spread(llama)
    perstep.watch(llama)
    monkeypatch.setattr(llama, "hf_device_map", {"model": 0, "lm_head": 1})
    for refuse in (refuse_if_spread, perstep.watch):
        with pytest.raises(InputError, match=r"spread over 0, 1 \(device_map\)"):
            refuse(llama)
