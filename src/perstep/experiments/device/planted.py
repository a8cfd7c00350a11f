"""`selftest --device`: identical programs compared, and delays of known length on the host and on the device.

Identical programs that put a kernel on the device are compared, and no verdict may be given.

A hook of a module waits on the host, or puts a kernel of known length on the device, once a decode step. The same hook
without a delay is in the steps that these are compared with. A delay on the host must be found in the host's time of
the module's part and in no kernel; one on the device in the part's device busy, while the host has launched it and gone
on. Nothing is assumed about the device but its own clock, by which the kernel is calibrated.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, Literal, Protocol

import msgspec
import numpy as np

from perstep._words import plural, short
from perstep.errors import InputError
from perstep.experiments.compare import compare
from perstep.experiments.compare.known import DETECTION_COLUMNS, THRESHOLD, Detection, detection
from perstep.measure import UNMARKED, Clock, HostClock, Progress, Recorder, Steps, collector_off
from perstep.report import Column, Table
from perstep.report.format import duration, percent
from perstep.stats import balanced_block, step_estimate
from perstep.targets import BUILT_IN, PLAIN, open_model

Side = Literal["host", "device"]
HOST: Side = "host"
DEVICE: Side = "device"
DELAYS_NS = (500_000, 3_000_000)
PARTS = ("embed", "norm", "attn", "mlp", "lm_head")
"""Each is a module of the first layer, or one that there is once."""
LEAST_PASSES = 6
MIN_BUDGET_S = 20.0
_PROMPT, _STEPS = 16, 8
_DETAIL = "modules"
_SYNC = "sync"
_SHARE, _LEAST_NS = 0.05, 20_000
"""A delay is found where it is off by no more than this share, or by 20 µs: two launches of a slow host."""
_CYCLES = 10_000_000
_CALIBRATED = 5
_KERNEL_NS = 100_000
"""Of the programs that are compared: a launch costs the host a tenth of it at most."""
_IDENTICAL, _TRIES = 0.12, 10
"""The share of the budget that comparisons of identical programs have, and their number."""

AnyModule = Any
"""A module of a transformers model, which mypy does not read."""


class Sleeper(Protocol):
    """Puts kernels of known length on a device."""

    name: str

    def launch(self, ns: int) -> None:
        """Launch one that runs this long, and do not wait for it."""
        ...

    def there(self) -> AbstractContextManager[object]:
        """While its device is the one that others wait for."""
        ...


class CudaSleeper:
    """torch's kernel that counts cycles, calibrated by events of the device.

    Args:
        device: as torch spells it; its name is taken from the driver.
    """

    def __init__(self, device: str) -> None:
        import torch

        self._device, self.name = torch.device(device), str(torch.cuda.get_device_name(device))
        with torch.cuda.device(self._device):
            torch.cuda._sleep(_CYCLES)  # the clock of an idle device is slower
            took_ms = min(self._timed_ms() for _ in range(_CALIBRATED))
        self._cycles_a_ns = _CYCLES / (took_ms * 1e6)

    def _timed_ms(self) -> float:
        import torch

        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        torch.cuda._sleep(_CYCLES)
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end))

    def launch(self, ns: int) -> None:
        """See `Sleeper`."""
        import torch

        with torch.cuda.device(self._device):
            torch.cuda._sleep(round(ns * self._cycles_a_ns))

    def there(self) -> AbstractContextManager[object]:
        """See `Sleeper`."""
        import torch

        return torch.cuda.device(self._device)


class Planted(msgspec.Struct, frozen=True, kw_only=True):
    """A known delay in one part.

    Attributes:
        side: `host` or `device`: where the delay was.
        part: where it was put, once a step.
        delay_ns: how long it was meant to be.
        true_ns: how long it was: by the host's clock, or as the kernel was calibrated.
        host_ns: by how much the part grew in the host's ledger.
        device_ns: by how much its device busy grew.
        sync_ns: by how much the host's wait for the device grew.
        elsewhere_ns: the largest change of any other part on the delay's side, with its sign; the host's wait aside.
        elsewhere: that part.
    """

    side: Side
    part: str
    delay_ns: int
    true_ns: float
    host_ns: float
    device_ns: float
    sync_ns: float
    elsewhere_ns: float
    elsewhere: str

    @property
    def found_ns(self) -> float:
        """On the delay's own side."""
        return self.host_ns if self.side == HOST else self.device_ns

    @property
    def other_ns(self) -> float:
        """On the other side, where it must not be: a launch is all that may be there."""
        return self.device_ns if self.side == HOST else self.host_ns

    @property
    def within(self) -> bool:
        """Found within 5 % or 20 µs of the truth, and not by more than that in another part or on the other side."""
        limit_ns = max(_SHARE * self.true_ns, _LEAST_NS)
        off_ns = (self.found_ns - self.true_ns, self.other_ns, self.elsewhere_ns)
        return all(abs(ns) <= limit_ns for ns in off_ns)


class DeviceTest(msgspec.Struct, frozen=True, kw_only=True):
    """What `selftest --device` found.

    Attributes:
        device: its name.
        step_ns: an uninstrumented decode step of `mini` there, of the host's time.
        busy_ns: of which kernels run.
        identical: comparisons of identical programs, each a kernel of 100 µs.
        busy_differs: by how much device busy of two identical programs differed at most, relative; None where no
            device was seen in use.
        planted: known delays.
        sentence: the above for a person.
    """

    device: str
    step_ns: float
    busy_ns: float
    identical: Detection
    busy_differs: float | None
    planted: list[Planted]
    sentence: str


def run_device_test(
    device: str,
    budget_s: float,
    *,
    progress: Progress,
    seed: int = 0,
    clock: Clock | None = None,
    sleeper: Sleeper | None = None,
) -> DeviceTest:
    """Compare identical programs and plant the delays, in about `budget_s` seconds.

    Args:
        device: as `--device` takes it.
        budget_s: for all of it.
        progress: told what is done.
        seed: of the orders.
        clock: the host's, unless a test passes its own.
        sleeper: the device's own by default.

    Raises:
        InputError: the device cannot be used, or the budget is under 20 s.
    """
    if budget_s < MIN_BUDGET_S:
        raise InputError(f"--budget {short(budget_s)}s: the self-test needs at least {short(MIN_BUDGET_S)}s")
    progress(0.0, "load")
    clock = clock or HostClock()
    bench = _Bench(device, seed, clock)
    trials = [(side, part, ns) for part in PARTS for side in (HOST, DEVICE) for ns in DELAYS_NS]
    planted = []
    with collector_off():
        step_ns, busy_ns = bench.plain_step_ns(), sum(bench.busy_ns(None, None, 0).values())
        sleeper = sleeper or CudaSleeper(device)
        progress(0.02, "identical programs")
        identical, busy_differs = compare_programs(
            {name: partial(sleeper.launch, _KERNEL_NS) for name in ("reference", "candidate")},
            sleeper,
            seconds=_IDENTICAL * budget_s,
            seed=seed,
            clock=clock,
        )
        for index, (side, part, delay_ns) in enumerate(trials):
            progress(0.15 + 0.85 * index / len(trials), f"{duration(delay_ns)} on the {side} in {part}")
            planted.append(bench.planted(side, part, delay_ns, sleeper, 0.5 * budget_s / len(trials)))
    return DeviceTest(
        device=sleeper.name,
        step_ns=step_ns,
        busy_ns=busy_ns,
        identical=identical,
        busy_differs=busy_differs,
        planted=planted,
        sentence=f"{_identical_words(identical)} {_sentence(sleeper.name, planted)}",
    )


def compare_programs(
    programs: Mapping[str, Callable[[], None]], sleeper: Sleeper, *, seconds: float, seed: int, clock: Clock
) -> tuple[Detection, float | None]:
    """Compare two programs that are to be alike, several times; a block of calls ends when the device is done.

    Args:
        programs: `reference` and `candidate`, which launch kernels and do not wait.
        sleeper: on whose device they do.
        seconds: for all comparisons.
        seed: of the orders.
        clock: times the calls.

    Returns:
        The verdicts, and by how much device busy of the two differed at most, relative; None where no device was seen
        in use.
    """
    each_s = seconds / _TRIES
    with sleeper.there():
        comparisons = [
            compare(
                programs, budget_s=each_s, precision=1e-9, threshold=THRESHOLD, seed=seed * 1000 + number, clock=clock
            )
            for number in range(_TRIES)
        ]
    busy_ns = [(one["reference"].device_busy_ns, one["candidate"].device_busy_ns) for one in comparisons]
    differs = [abs(b / a - 1) for a, b in busy_ns if isinstance(a, float) and isinstance(b, float) and a > 0]
    return detection(0.0, each_s, comparisons), max(differs, default=None)


def _identical_words(identical: Detection) -> str:
    wrong = identical.slower + identical.faster
    return f"Of {plural(identical.tries, 'comparison')} of identical programs {wrong} gave a false verdict."


def _sentence(device: str, planted: Sequence[Planted]) -> str:
    wrong = [one for one in planted if not one.within]
    said = (
        f"On {device}, found in the right part and on the right side within 5 % or 20 µs: {len(planted) - len(wrong)} "
        f"of {plural(len(planted), 'known delay')}"
    )
    if not wrong:
        return f"{said}."
    worst = max(wrong, key=lambda one: abs(one.found_ns - one.true_ns))
    return (
        f"{said}; {duration(worst.true_ns)} on the {worst.side} in {worst.part} came out as "
        f"{duration(worst.host_ns)} of the host and {duration(worst.device_ns)} of the device."
    )


class _Bench:
    """`mini` on a device with a short trace, to put delays into."""

    def __init__(self, device: str, seed: int, clock: Clock) -> None:
        self._clock, self._seed = clock, seed
        self._target = target = open_model(BUILT_IN, backend="torch", device=device)
        prompt_BT = target.prompt(text=None, num_tokens=_PROMPT, batch=1, seed=seed)
        self._work = target.record(prompt_BT, _STEPS + 1)
        model = target.model
        layer = model.base_model.layers[0]
        modules: tuple[AnyModule, ...] = (
            model.get_input_embeddings(),
            layer.input_layernorm,
            layer.self_attn,
            layer.mlp,
            model.get_output_embeddings(),
        )
        self._modules = dict(zip(("embed", "norm", "attn", "mlp", "lm_head"), modules, strict=True))
        for _ in range(2):
            self._steps(_DETAIL)

    def plain_step_ns(self) -> float:
        """An uninstrumented decode step."""
        return step_estimate([self._steps(PLAIN).step_ns for _ in range(LEAST_PASSES)])

    def planted(self, side: Side, part: str, delay_ns: int, sleeper: Sleeper, seconds: float) -> Planted:
        """Put a delay into a part, once a step, in every second pass, and see what the two ledgers make of it."""
        began_ns = self._clock.now()
        passes: dict[bool, list[Steps]] = {False: [], True: []}
        waited_ns: list[int] = []
        rng = np.random.default_rng([self._seed, delay_ns])
        sleeping = sleeper if side == DEVICE else None
        while len(passes[True]) < LEAST_PASSES or (self._clock.now() - began_ns) / 1e9 < seconds:
            for arm in balanced_block(2, rng).ravel():
                with self._delayed(part, sleeping, delay_ns if arm else 0, waited_ns):
                    passes[bool(arm)].append(self._steps(_DETAIL))
        host = _grown(passes)
        before, after = (self.busy_ns(part, sleeping, ns) for ns in (0, delay_ns))
        device = {name: after.get(name, 0.0) - before.get(name, 0.0) for name in before | after}
        own = host if side == HOST else device
        others = [name for name in own if name not in (part, _SYNC)]
        elsewhere = max(others, key=lambda name: abs(own[name]), default="")
        return Planted(
            side=side,
            part=part,
            delay_ns=delay_ns,
            true_ns=float(np.median(waited_ns)) if side == HOST else float(delay_ns),
            host_ns=host.get(part, 0.0),
            device_ns=device.get(part, 0.0),
            sync_ns=host.get(_SYNC, 0.0),
            elsewhere_ns=own.get(elsewhere, 0.0),
            elsewhere=elsewhere,
        )

    def busy_ns(self, part: str | None, sleeper: Sleeper | None, delay_ns: int) -> dict[str, float]:
        """Device busy of a decode step by part, the mean of profiled steps.

        Args:
            part: with a delay in it; None for none.
            sleeper: of a delay on the device; None for one on the host.
            delay_ns: how long.
        """
        with self._delayed(part, sleeper, delay_ns, []):
            profile = self._target.profile(self._work, _DETAIL)
        if profile is None:
            raise InputError("what the device does cannot be seen here: give cuda")
        steps = [step for step in profile[0].steps if step.kind == "decode"]
        names = dict.fromkeys(name for step in steps for name in step.parts)
        return {name: sum(step.part(name).busy_ns for step in steps) / len(steps) for name in names}

    @contextmanager
    def _delayed(
        self, part: str | None, sleeper: Sleeper | None, delay_ns: int, waited_ns: list[int]
    ) -> Iterator[None]:
        """A hook before a part's module; how long it waited on the host goes into `waited_ns`."""
        if part is None:
            yield
            return
        now = self._clock.now

        def hook(*_: object) -> None:
            if not delay_ns:
                return
            if sleeper is not None:
                sleeper.launch(delay_ns)
                return
            begun_ns = now_ns = now()
            while now_ns - begun_ns < delay_ns:
                now_ns = now()
            waited_ns.append(now_ns - begun_ns)

        handle = self._modules[part].register_forward_pre_hook(hook)
        try:
            yield
        finally:
            handle.remove()

    def _steps(self, detail: str) -> Steps:
        recorder = Recorder(self._clock)
        self._target.replay(self._work, recorder, detail)
        return recorder.steps(f"decode{UNMARKED}" if detail == PLAIN else "decode")


def _grown(passes: dict[bool, list[Steps]]) -> dict[str, float]:
    """By how many nanoseconds a step each part is longer with the delay than without."""

    def of(arm: bool, name: str) -> float:
        return step_estimate([steps.parts[name] for steps in passes[arm]])

    return {name: of(True, name) - of(False, name) for name in passes[True][0].parts}


_COLUMNS: list[Column[Planted]] = [
    Column("delay on the", lambda one: one.side, name="side", words=True),
    Column("part", lambda one: one.part, name="part", words=True),
    Column("true", lambda one: one.true_ns, duration, "true_ns"),
    Column("host", lambda one: one.host_ns, duration, "host_ns"),
    Column("device busy", lambda one: one.device_ns, duration, "device_busy_ns"),
    Column("host waits more in sync", lambda one: one.sync_ns, duration, "sync_ns"),
    Column("moved elsewhere", lambda one: one.elsewhere_ns, duration, "moved_ns"),
    Column("to", lambda one: one.elsewhere, name="moved_to", words=True),
    Column("found", lambda one: "yes" if one.within else "no", name="found", words=True),
]


def device_tables(test: DeviceTest) -> list[Table]:
    """The delays, and the sentence."""
    title = (
        f"known delays in a step of mini on {test.device}: {duration(test.step_ns)} of the host, kernels run "
        f"{duration(test.busy_ns)} of it"
    )
    notes = [
        "Host and device busy: by how much the part grew there.",
        "A delay on the device is one kernel more: the host launches it, goes on, and waits where it reads a token.",
        test.sentence,
    ]
    differs = "" if test.busy_differs is None else f"; device busy differs by {percent(test.busy_differs, 2)} at most"
    alike = f"A program is a kernel of {duration(_KERNEL_NS)}, and a block ends when the device is done{differs}."
    return [
        Table("comparisons with a known answer", DETECTION_COLUMNS, [test.identical], [alike]),
        Table(title, _COLUMNS, test.planted, notes),
    ]
