"""The measurement: at every length, whole steps of all arms, `full_attention` of all masks, and operators alone.

All of it takes turns inside every round, arms in balanced orders. Where a whole balanced block would last longer than
`BLOCK_NS`, a round has one row of it and the next round the next. A step that lasts longer than `LONG_NS` reads far
more memory than any cache holds, so what the arm before it left there is gone, and its first step is kept.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil, prod

import numpy as np

from perstep._words import plural
from perstep.errors import InvalidMeasurement
from perstep.experiments.device.waiting import WaitingClock, place_of, waiting_for
from perstep.experiments.ops.arms import Captured, capture, freed, layer_of, operator_of, operators_with
from perstep.experiments.ops.plan import BYTES, KERNELS, MASKS, Plan, Work, check, fused_is_possible, sizes_at
from perstep.experiments.ops.samples import (
    MARKED,
    PLAIN,
    Conditions,
    LengthSample,
    Model,
    Sample,
    Timed,
    Workload,
    composite_of,
    ledger_samples,
)
from perstep.experiments.options import format_counts
from perstep.experiments.planning import what_would_fit
from perstep.experiments.session import RoundSession, describe
from perstep.measure import Clock, Mark, Progress, Recorder, Resolved, WarmUp, build_ledger, measure_mark_ns, no_mark
from perstep.runs import Manifest
from perstep.stats import balanced_block, williams_square
from perstep.targets.operators.layer import (
    BOUNDARIES,
    FULL_ATTENTION,
    PARTS,
    Array,
    Inputs,
    Operators,
    Weights,
    decoder,
    full_attention,
    step,
)
from perstep.targets.reference import Config
from perstep.targets.reference.config import layer_shapes

DEVICE_WAITS = "after each part, in plain steps too: a part's time is its work on the device and one launch at least"
LONG_NS = 20_000_000
BLOCK_NS = 200_000_000
TURN_NS = 1_000_000
"""A turn of short steps lasts about so long."""
MAX_STEPS = 8
ALONE_NS = 200_000
"""A block of calls of an operator alone lasts about so long."""
MAX_CALLS = 64
FLOPS_PER_NS, BYTES_PER_NS, SCORES_PER_NS, STEP_NS = 100, 10, 0.1, 100_000
"""What a step is guessed to last by, so that a resumed run makes as many steps as the run before."""
TOLERANCE = {"float64": 1e-9, "float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
"""How far numbers of two arms may be apart, as a share of the largest: they sum in different orders."""


@dataclass(frozen=True)
class Length:
    """Everything that is run at one length.

    Attributes:
        inputs: of the step.
        hidden_SD: what the reference arm's layers give; logits of the last position would not show a wrong mask.
        arms: arm -> operators; the reference first, then the other masks, then the parts made free.
        attention: the same for `full_attention`: every mask that there is, and every part of it made free.
        qkv: what `full_attention` reads.
        alone: operator -> a call of it with the operands it has in its place.
        steps: in a turn.
        turn_ns: what a turn is guessed to last.
        is_long: whether a step is guessed to last longer than `LONG_NS`.
    """

    inputs: Inputs
    hidden_SD: Array
    arms: dict[str, Operators]
    attention: dict[str, Operators]
    qkv: tuple[Array, Array, Array]
    alone: dict[str, Callable[[], object]]
    steps: int
    turn_ns: float
    is_long: bool


class OpsSession(RoundSession):
    """Weights, and at each length the arms, warm.

    Raises:
        InputError: something in the plan is wrong; nothing has been written.
        InvalidMeasurement: an arm computes something else than the reference arm.
    """

    def __init__(self, plan: Plan, progress: Progress, clock: Clock) -> None:
        super().__init__(plan.effort(), plan.seed, clock)
        self._plan, self._work = plan, check(plan)
        self._wait = waiting_for(plan.device)
        self._clock = clock if self._wait is None else WaitingClock(clock, self._wait)
        self._where = {} if self._wait is None else {"device": place_of(plan.device)}
        progress(0.0, "make weights")
        self._backend = layer_of(plan.backend)
        self._weights: Weights = self._backend.random_weights(self._work.config, plan.dtype, plan.seed, **self._where)
        with self._running():
            self.lengths = {seq: self._length(seq) for seq in plan.seq}
            progress(0.0, "warm-up")
            self._calls = {seq: self._calibrated(length) for seq, length in self.lengths.items()}
            for length in self.lengths.values():
                self._check_arms(length)
            warm = self._warm(self._warm_round, share=0.05, most_s=60.0)
            round_ns = self._took_ns(self._warm_round)
        self.manifest = _manifest(plan, self._work, self._conditions(warm, round_ns))

    def _conditions(self, warm: WarmUp, round_ns: float) -> Conditions:
        work = self._work
        return Conditions(
            arm=f"mask={work.masks[0]}",
            arms=[f"mask={mask}" for mask in work.masks],
            what_if=list(work.what_if),
            own=[own.name for own in work.own],
            order="at each length a balanced block drawn by seed; of long ones a row a round",
            discarded=f"the first step of a turn, and the first call of a block, unless they exceed"
            f" {LONG_NS // 1_000_000} ms",
            garbage_collector="off",
            weights="random; the embedding reads the head's table",
            too_short=what_would_fit(round_ns, self.effort, intervals=len(PARTS), shorter=self._shorter(round_ns)),
            device_waits="" if self._wait is None else DEVICE_WAITS,
            steps_per_turn={str(seq): length.steps for seq, length in self.lengths.items()},
            mark_ns=measure_mark_ns(self._clock),
            precision=self.effort.precision,
            warm_up=warm,
        )

    def _shorter(self, round_ns: float) -> list[tuple[str, float]]:
        """The same without the longest length, which takes most of a round."""
        *others, longest = sorted(self.lengths)
        share = self.lengths[longest].turn_ns / sum(length.turn_ns for length in self.lengths.values())
        return [(f"--seq {format_counts(others)}", round_ns * (1 - share))] if others else []

    def measure_round(self, number: int) -> Sample:
        """Every length once, in an order of its own."""
        self._probe.start()
        with self._running():
            lengths = self._round(number)
        return Sample(number, lengths, self._probe.stop())

    def resolved(self, samples: Sequence[Sample]) -> Resolved:
        """The widest interval of the ledgers of all lengths."""
        widths = [build_ledger(kind, stack, mark_ns=0.0).resolved() for kind, stack in ledger_samples(samples).items()]
        return max(widths, key=lambda resolved: resolved.half_width)

    def finish(self) -> None:
        """Check that the layers still give what they gave at first.

        Raises:
            InvalidMeasurement: it does not, so some arm has changed the state.
        """
        with self._running():
            for seq, length in self.lengths.items():
                hidden_SD = decoder(next(iter(length.arms.values())), self._weights, length.inputs)
                if not self._agree(hidden_SD, length.hidden_SD):
                    raise InvalidMeasurement(
                        f"the layers no longer give at {plural(seq, 'token')} what they gave at first"
                    )

    def _length(self, seq: int) -> Length:
        plan, work = self._plan, self._work
        inputs = self._backend.make_inputs(work.config, seq, plan.past, plan.dtype, plan.seed, **self._where)
        masks = {
            f"mask={mask}": operators_with(plan.backend, mask, **self._where)
            for mask in MASKS
            if mask not in KERNELS or self._has_kernel(mask, seq)
        }
        reference = masks[f"mask={work.masks[0]}"]
        keep = {"rope", "append", "mlp", *(operator_of(part) for part in work.what_if)}
        captured = capture(reference, self._weights, inputs, keep)
        arms = {f"mask={mask}": masks[f"mask={mask}"] for mask in work.masks}
        for part in work.what_if:
            if results := captured.results.get(operator_of(part)):
                arms[f"{part}=0"] = freed(reference, part, results)
                if part in FULL_ATTENTION:
                    masks[f"{part}=0"] = freed(reference, part, results[:1])
        if seq == 1:  # one query needs no mask, so a cached one is none either
            masks.pop("mask=cached", None)
        expected_ns = _expected_ns(work.config, seq, plan.past, BYTES[plan.dtype])
        steps = min(max(round(TURN_NS / expected_ns), 1), MAX_STEPS)
        is_long = expected_ns > LONG_NS
        return Length(
            inputs=inputs,
            hidden_SD=captured.results["mlp"][-1],
            arms=arms,
            attention=masks,
            qkv=(captured.results["rope"][0][0], *captured.results["append"][0]),
            alone=self._alone(reference, captured, seq),
            steps=steps,
            turn_ns=expected_ns * (steps if is_long else steps + 1),
            is_long=is_long,
        )

    def _has_kernel(self, mask: str, seq: int) -> bool:
        """Whether attention can run without a mask there: in torch's choice of a kernel, and in flash attention."""
        plan = self._plan
        if plan.backend != "torch" or not fused_is_possible(seq, plan.past):
            return False
        if mask == "fused":
            return True
        if mask in self._work.masks:
            return True  # its steps say so if it cannot
        return self._wait is not None and plan.dtype in ("bfloat16", "float16")

    def _alone(self, reference: Operators, captured: Captured, seq: int) -> dict[str, Callable[[], object]]:
        calls = {PARTS[name]: _call(getattr(reference, name), operands) for name, operands in captured.operands.items()}
        rng = self._drawn(2, seq)
        for own in self._work.own:
            shapes = own.shapes_at(sizes_at(self._work.config, seq, self._plan.past))
            arrays = [self._backend.random_array(rng, shape, self._plan.dtype, **self._where) for shape in shapes]
            calls[own.name] = _call(own.function, arrays)
        return calls

    def _calibrated(self, length: Length) -> dict[str, int]:
        """How many calls make a block of each operator alone; 0 where a single one is long."""
        calls = {}
        for name, call in length.alone.items():
            took_ns = self._took_ns(call)
            if took_ns <= LONG_NS:  # not what the first call took, which finds nothing in its caches
                took_ns = self._took_ns(call)
            calls[name] = 0 if took_ns > LONG_NS else min(ceil(ALONE_NS / took_ns), MAX_CALLS)
        return calls

    def _took_ns(self, call: Callable[[], object]) -> int:
        begun_ns = self._clock.now()
        call()
        return max(self._clock.now() - begun_ns, 1)

    def _check_arms(self, length: Length) -> None:
        for name, ops in length.arms.items():
            if not self._agree(decoder(ops, self._weights, length.inputs), length.hidden_SD):
                raise InvalidMeasurement(f"arm {name} does not compute what the reference arm computes")
        expected_SQ = None
        for name, ops in length.attention.items():
            context_SQ = full_attention(ops, *length.qkv)
            expected_SQ = context_SQ if expected_SQ is None else expected_SQ
            if not self._agree(context_SQ, expected_SQ):
                raise InvalidMeasurement(f"full_attention with {name} does not compute what it computes otherwise")

    def _agree(self, got: Array, expected: Array) -> bool:
        a, b = (np.asarray(x if self._plan.backend == "numpy" else x.double().cpu().numpy()) for x in (got, expected))
        return bool(np.abs(a - b).max() <= TOLERANCE[self._plan.dtype] * np.abs(b).max())

    @contextmanager
    def _running(self) -> Iterator[None]:
        """As torch runs when nobody trains, with as many threads as were asked for."""
        with np.errstate(over="ignore"):
            if self._plan.backend == "numpy":
                yield
                return
            import torch

            threads = torch.get_num_threads()
            torch.set_num_threads(self._plan.threads)
            try:
                with torch.inference_mode():
                    yield
            finally:
                torch.set_num_threads(threads)

    @property
    def _unmarked(self) -> Mark:
        """The mark of a plain step: nothing, or waiting for the device."""
        wait = self._wait
        return no_mark if wait is None else lambda _part: wait()

    def _round(self, number: int) -> list[LengthSample]:
        order = self._drawn(0, number).permutation(len(self.lengths))
        seqs = list(self.lengths)
        return [self._at_length(seqs[index], number) for index in order]

    def _warm_round(self) -> None:
        self._round(0)

    def _at_length(self, seq: int, number: int) -> LengthSample:
        length = self.lengths[seq]
        names = [PLAIN, *length.arms]
        recorders = {name: Recorder(self._clock) for name in names}
        for name in self._turns(names, number, seq, length):
            self._steps(length, name, recorders[name])
        attention = {name: Recorder(self._clock) for name in length.attention}
        for name in self._turns(list(attention), number, seq + 1, length):
            self._attention(length, name, attention[name])
        arms = {name: recorder.steps(MARKED) for name, recorder in recorders.items()}
        return LengthSample(
            seq=seq,
            plain=arms.pop(PLAIN),
            arms=arms,
            attention={name: composite_of(recorder) for name, recorder in attention.items()},
            alone=self._timed_alone(length, self._calls[seq], number),
        )

    def _turns(self, names: list[str], number: int, stream: int, length: Length) -> list[str]:
        """Who runs when: a whole balanced block, or a row of one, its other rows in the rounds that follow."""
        rows, arms = williams_square(len(names)).shape
        whole = length.turn_ns * rows * arms <= BLOCK_NS
        block_number, row = (number, slice(None)) if whole else divmod(number, rows)
        block = balanced_block(len(names), self._drawn(1, stream, block_number))
        return [names[arm] for arm in np.ravel(block[row])]

    def _steps(self, length: Length, name: str, recorder: Recorder) -> None:
        plain = name == PLAIN
        ops = next(iter(length.arms.values())) if plain else length.arms[name]
        # On a device plain steps wait where the others are marked: a mark's own cost is what sets the two apart.
        mark, boundary = (self._unmarked, recorder.mark) if plain else (recorder.mark, no_mark)
        if not length.is_long:
            step(ops, self._weights, length.inputs)
        for _ in range(length.steps):
            recorder.begin(MARKED)
            step(ops, self._weights, length.inputs, mark, boundary)
            recorder.end()

    def _attention(self, length: Length, name: str, recorder: Recorder) -> None:
        full_attention(length.attention[name], *length.qkv)
        for _ in range(length.steps):
            for kind, mark in ((PLAIN, self._unmarked), (MARKED, recorder.mark)):
                recorder.begin(kind)
                full_attention(length.attention[name], *length.qkv, mark)
                recorder.end()

    def _timed_alone(self, length: Length, calls: Mapping[str, int], number: int) -> dict[str, Timed]:
        now = self._clock.now
        timed = {}
        for name, call in length.alone.items():
            if not calls[name] and number % 2:
                continue
            if calls[name]:
                call()
            count = calls[name] or 1
            begun_ns = now()
            for _ in range(count):
                call()
            timed[name] = Timed(count, now() - begun_ns)
        return timed


prepare = OpsSession
"""A session is prepared by making it."""


def _call(function: Callable[..., object], operands: Sequence[Array]) -> Callable[[], object]:
    return lambda: function(*operands)


def _expected_ns(config: Config, seq: int, past: int, size: int) -> float:
    """A guess at a step, from its shapes alone."""
    weights = config.num_layers * sum(prod(shape) for shape in layer_shapes(config).values())
    head = config.vocab * config.hidden
    scores = config.num_layers * seq * (past + seq) * config.heads
    flops = 2 * seq * weights + 2 * head + 4 * scores * config.head_dim
    return STEP_NS + max(flops / FLOPS_PER_NS, (weights + head) * size / BYTES_PER_NS) + scores / SCORES_PER_NS


def _manifest(plan: Plan, work: Work, conditions: Conditions) -> Manifest:
    c = work.config
    workload = Workload(
        model_config_sha256=work.config_sha256,
        layers=plan.layers,
        seq=list(plan.seq),
        past=plan.past,
        backend=plan.backend,
        dtype=plan.dtype,
        device=plan.device,
        threads=plan.threads,
    )
    model = Model(
        name=work.name,
        model_type=c.model_type,
        num_layers=c.num_layers,
        total_layers=work.total_layers,
        hidden=c.hidden,
        heads=c.heads,
        kv_heads=c.kv_heads,
        head_dim=c.head_dim,
        intermediate=c.intermediate,
        vocab=c.vocab,
    )
    return describe("ops", plan, workload=workload, model=model, conditions=conditions, boundaries=BOUNDARIES)
