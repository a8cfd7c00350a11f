"""The conditions that every measurement shares, and how the manifest tells them."""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import msgspec
import numpy as np
from numpy.typing import NDArray

from perstep.machine import Machine, Noise, describe, summarise_noise, warnings_for
from perstep.runs import Manifest


def hash_ids(*arrays: NDArray[np.int64]) -> str:
    """SHA-256 over token ids and their shapes: what makes two workloads the same."""
    digest = hashlib.sha256()
    for ids in arrays:
        digest.update(repr(ids.shape).encode())
        digest.update(np.ascontiguousarray(ids, dtype="<i8").tobytes())
    return digest.hexdigest()


def describe_machine(manifest: Manifest, threads: int) -> None:
    """Write this machine, and what is wrong with it for measuring, into the manifest."""
    machine = describe()
    manifest.machine = msgspec.to_builtins(machine)
    manifest.warnings += warnings_for(machine, threads=threads)


def warn_of_noise(manifest: Manifest, rounds: Iterable[Noise], threads: int) -> None:
    """Write into the manifest what the rounds say was wrong with this machine."""
    machine = msgspec.convert(manifest.machine, Machine)
    found = warnings_for(machine, summarise_noise(rounds), threads=threads)
    manifest.warnings += [warning for warning in found if warning not in manifest.warnings]


@contextmanager
def threads_limited(threads: int) -> Iterator[None]:
    """The matrix library runs with so many threads, and with as many as before afterwards."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=threads, user_api="blas"):
        yield
