"""The conditions that every measurement shares, and how the manifest tells them."""

import hashlib
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import msgspec
import numpy as np
from numpy.typing import NDArray

from perstep.machine import Machine, Noise, NoiseProbe, QuietProbe, describe, summarise_noise, warnings_for
from perstep.measure import Clock, HostClock, processor_clock
from perstep.runs import Manifest


def hash_ids(*arrays: NDArray[np.int64]) -> str:
    """SHA-256 over token ids and their shapes: what makes two workloads the same."""
    digest = hashlib.sha256()
    for ids in arrays:
        digest.update(repr(ids.shape).encode())
        digest.update(np.ascontiguousarray(ids, dtype="<i8").tobytes())
    return digest.hexdigest()


def describe_machine(
    manifest: Manifest, threads: int, *, load_before: float | str | None = None, of_calls: bool = False
) -> None:
    """Write this machine, and what is wrong with it for measuring, into the manifest.

    Args:
        manifest: of the run.
        threads: that the work uses.
        load_before: the load average before measuring began; what it is now, if None.
        of_calls: as in `warnings_for`.
    """
    machine = describe()
    if load_before is not None:
        host = msgspec.structs.replace(machine.host, load_average_1min=load_before)
        machine = msgspec.structs.replace(machine, host=host)
    manifest.machine = msgspec.to_builtins(machine)
    manifest.versions = {"python": machine.software.python, **dict(machine.software.packages)}
    manifest.hardware = {
        "cpu_model": machine.cpu.model,
        "cores_threads": f"{machine.cpu.cores_physical}/{machine.cpu.cores_logical}",
        "ram_gib": machine.memory.ram_bytes / 2**30 if isinstance(machine.memory.ram_bytes, int) else None,
        "cpu_governor_at_run": machine.cpu.governor,
    }
    manifest.warnings += warnings_for(machine, threads=threads, of_calls=of_calls)


def warn_of_noise(manifest: Manifest, rounds: Iterable[Noise], threads: int, *, of_calls: bool = False) -> None:
    """Write into the manifest what the rounds, or calls, say was wrong with this machine."""
    machine = msgspec.convert(manifest.machine, Machine)
    found = warnings_for(machine, summarise_noise(rounds), threads=threads, of_calls=of_calls)
    manifest.warnings += [warning for warning in found if warning not in manifest.warnings]


def noise_probe(clock: Clock) -> NoiseProbe | QuietProbe:
    """What tells how rounds were disturbed: on the host's clock this machine, on a test's nothing but its clock."""
    if isinstance(clock, HostClock):
        return NoiseProbe()
    return QuietProbe(clock.now, processor_clock(clock).now)


def left_out_layers(manifest: Manifest) -> list[str]:
    """A sentence for each model of which only some layers were measured: what was found is not of all of it."""
    several = manifest.conditions.get("models", {}).values()
    models = [each["model"] for each in several] or [manifest.model]
    return [
        f"{model['name']}: these were measured, with what stands around them. Nothing here is said of the whole model."
        for model in models
        if model.get("total_layers", model.get("num_layers")) != model.get("num_layers")
    ]


@contextmanager
def threads_limited(threads: int) -> Iterator[None]:
    """The matrix library runs with so many threads, and with as many as before afterwards; torch too, if it is there.

    Where a torch model is opened inside, `ModelOptions.open` sets torch's threads.
    """
    from threadpoolctl import threadpool_limits

    torch = sys.modules.get("torch")
    before = None if torch is None else torch.get_num_threads()
    try:
        with threadpool_limits(limits=threads, user_api="blas"):
            yield
    finally:
        if torch is not None:
            torch.set_num_threads(before)
