"""Waiting for a device: a host clock whose readings come after everything that was queued before.

An interval between two readings then holds the device's work and not only its launch; what the wait itself costs the
host is in it.
"""

from collections.abc import Callable

from perstep.errors import InputError, how_to_install
from perstep.measure import Clock

Wait = Callable[[], None]
"""Returns once the device has done what was queued before."""


def waiting_for(device: str) -> Wait | None:
    """What waits for a device; None for the cpu.

    Args:
        device: as `--device` takes it.

    Raises:
        InputError: torch is not there, or the device cannot be used.
    """
    if device == "cpu":
        return None
    try:
        import torch
    except ImportError as error:
        raise InputError(f"--device {device} needs torch, which is not installed: {how_to_install('hf')}") from error
    from perstep.targets.transformers.device_check import check_device

    check_device(device)
    return lambda: torch.cuda.synchronize(device)


def place_of(device: str) -> str:
    """Where torch puts what is computed on this device; a test's made-up device lies on the cpu."""
    return device


class WaitingClock:
    """A host clock that is read once a device has done everything queued before.

    Args:
        clock: the host's.
        wait: for the device.
    """

    def __init__(self, clock: Clock, wait: Wait) -> None:
        self._now, self._wait = clock.now, wait

    def now(self) -> int:
        """Nanoseconds of the host."""
        self._wait()
        return self._now()
