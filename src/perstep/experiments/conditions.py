"""The conditions that every measurement shares, and how the manifest tells them.

Each experiment says in structs what its manifest holds: `Conditions`, `Workload` and `Model`. A session builds them and
stores them as plain data; whoever reads a manifest gets them back through `typed`.
"""

import hashlib
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import ClassVar, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from perstep._json import Json
from perstep.errors import InputError
from perstep.machine import Machine, Noise, NoiseProbe, QuietProbe, describe, summarise_noise, warnings_for
from perstep.measure import Clock, HostClock, WarmUp, processor_clock
from perstep.runs import MANIFEST, Manifest


class Facts(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What one field of the manifest holds. A fact with a default is stored only where it differs from that."""

    section: ClassVar[str]


class BaseConditions(Facts, kw_only=True):
    """How any experiment measured.

    Attributes:
        order: how arms or points take turns, in words.
        garbage_collector: whether it was off, in words.
        ended_by: why measuring ended, in words; empty where it was interrupted.
        too_short: what was said before measuring, where the budget holds too few rounds for intervals; or empty.
    """

    section: ClassVar[str] = "conditions"
    order: str
    garbage_collector: str
    ended_by: str = ""
    too_short: str = ""


class RoundConditions(BaseConditions, kw_only=True):
    """How an experiment of rounds measured.

    Attributes:
        discarded: what is run and not kept, in words.
        precision: the half-width that was asked for, a share; None where rounds were counted.
    """

    discarded: str
    precision: float | None


class WarmConditions(RoundConditions, kw_only=True):
    """How an experiment of rounds measured that begin when the arms are warm: `warm_up` says how that ended."""

    warm_up: WarmUp


class MarkedConditions(WarmConditions, kw_only=True):
    """The same of recorded steps: `mark_ns` is what a mark costs, nanoseconds of the host's time."""

    mark_ns: float


class BaseWorkload(Facts, kw_only=True):
    """What makes two runs comparable: `threads`, the number of threads of the matrix library."""

    section: ClassVar[str] = "workload"
    threads: int


class ModelWorkload(BaseWorkload, kw_only=True):
    """The same, where a model is measured.

    Attributes:
        dtype: of the weights.
        device: of the model, as torch spells it; `cpu` for the NumPy decoder.
    """

    dtype: str
    device: str


class ReplayedWorkload(ModelWorkload, kw_only=True):
    """The same, where tokens are replayed: SHA-256 of all token ids and of the model's configuration."""

    token_ids_sha256: str
    model_config_sha256: str


class GeneratedWorkload(ReplayedWorkload, kw_only=True):
    """The same, where the tokens were chosen by the model.

    Attributes:
        batch: sequences.
        temperature: 0 chooses the most probable token.
        top_k: number of tokens that are drawn from; 0 for all.
        top_p: draws among tokens that hold this probability together.
    """

    batch: int
    temperature: float
    top_k: int
    top_p: float


class Model(Facts, kw_only=True):
    """What was measured.

    Attributes:
        name: in words.
        num_layers: decoder layers that were measured, where it has layers.
        total_layers: decoder layers of the whole model, where some were left out.
    """

    section: ClassVar[str] = "model"
    name: str
    num_layers: int | None = None
    total_layers: int | None = None


class OfOneModel(msgspec.Struct):
    """What a run of several models says of one of them, in place of what it says of all."""

    model: dict[str, Json]
    workload: dict[str, Json]
    conditions: dict[str, Json]


class OfSeveral(Facts):
    """What the conditions of any run say of several models, by name; nothing where there is one."""

    section: ClassVar[str] = "conditions"
    models: dict[str, OfOneModel] = {}


class OfLedger(Facts):
    """What the conditions of every run with a ledger say: `mark_ns`, as in `MarkedConditions`."""

    section: ClassVar[str] = "conditions"
    mark_ns: float


Kind = TypeVar("Kind", bound=Facts)


def typed(manifest: Manifest, kind: type[Kind], where: str = MANIFEST) -> Kind:
    """The facts that a manifest holds.

    Args:
        manifest: of a run.
        kind: which facts.
        where: they are held, for the message.

    Raises:
        InputError: a fact is missing or of another type, by its name.
    """
    try:
        return msgspec.convert(getattr(manifest, kind.section), kind)
    except msgspec.ValidationError as error:
        what, _, below = str(error).partition(" - at `$")
        field = kind.section + below.rstrip("`")
        missing = re.fullmatch("Object missing required field `(.*)`", what)
        wrong = f"lacks {field}.{missing[1]}" if missing else f"is wrong in {field}: {what[0].lower()}{what[1:]}"
        raise InputError(f"{where} {wrong}; restore it, or measure again") from error


def of_each_model(manifest: Manifest, where: str = MANIFEST) -> dict[str, Manifest]:
    """The manifest of each of several models, by name, as if it were alone; of one model the manifest itself, by ''.

    Raises:
        InputError: what is said of one of several is not complete.
    """
    several = typed(manifest, OfSeveral, where).models
    return {
        name: msgspec.structs.replace(
            manifest,
            model=own.model,
            workload={**manifest.workload, **own.workload},
            conditions={**manifest.conditions, **own.conditions},
        )
        for name, own in several.items()
    } or {"": manifest}


def machine_of(manifest: Manifest) -> Machine:
    """The machine that a manifest names.

    Raises:
        InputError: what it says is of another type.
    """
    try:
        return msgspec.convert(manifest.machine, Machine)
    except msgspec.ValidationError as error:
        raise InputError(f"{MANIFEST} is wrong in machine: {error}; restore it, or measure again") from error


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
    machine = machine_of(manifest)
    warnings = warnings_for(machine, summarise_noise(rounds), threads=threads, of_calls=of_calls)
    manifest.warnings += [warning for warning in warnings if warning not in manifest.warnings]


def noise_probe(clock: Clock) -> NoiseProbe | QuietProbe:
    """What tells how rounds were disturbed: on the host's clock this machine, on a test's nothing but its clock."""
    if isinstance(clock, HostClock):
        return NoiseProbe()
    return QuietProbe(clock.now, processor_clock(clock).now)


def left_out_layers(manifest: Manifest) -> list[str]:
    """A sentence for each model of which only some layers were measured: what was found is not of all of it."""
    return [
        f"{model.name}: only these layers were measured, with the embedding and the head. "
        "The numbers do not describe the whole model."
        for model in (typed(one, Model) for one in of_each_model(manifest).values())
        if model.total_layers not in (None, model.num_layers)
    ]


@contextmanager
def threads_limited(threads: int) -> Iterator[None]:
    """The matrix library runs with this number of threads inside, and as before afterwards; torch too, if it is there.

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
