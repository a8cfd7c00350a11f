"""Measuring an ablation: the cells take turns on one replayed trace, beside them the parts are timed in place.

A cell's turn is one generate call with fresh processors and criteria, timed from outside, after a call of one token
that is thrown away. All cells replay the same tokens, so they make the same forwards. Cells that execute different
numbers of forwards (a processor that runs the model) are refused. In place means marked calls with all
parts, and with none, in every round.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import gcd, inf

import msgspec
import numpy as np
from numpy.typing import NDArray

from perstep._json import Json
from perstep._words import plural
from perstep.errors import InvalidMeasurement
from perstep.experiments.ablation.cells import ALL, NONE, Design, design
from perstep.experiments.ablation.compiling import Compiling
from perstep.experiments.ablation.factories import Component, parts_in_ledger
from perstep.experiments.ablation.findings import resolved
from perstep.experiments.ablation.fitting import LONG_NS, Tried, Turns, fit_turns
from perstep.experiments.ablation.samples import ColdCell, Conditions, InPlace, Sample
from perstep.experiments.conditions import typed
from perstep.experiments.session import RoundSession
from perstep.measure import Clock, Effort, Progress, Recorder, Resolved
from perstep.runs import Manifest
from perstep.stats import balanced_block
from perstep.targets.target import EitherModel
from perstep.targets.transformers import BOUNDARIES, GenerateTrace, Instrument, Replay, SyncRecorder, silent
from perstep.targets.transformers.replay import generators_kept
from perstep.targets.transformers.words import DECODE, PREFILL

TRIED_TOKENS = 3
"""What a step takes is tried in calls of this number of tokens."""
MARKED = (ALL, NONE)
"""The cells in which parts are timed in place: what the others cost with all of them, and without any."""


@dataclass(frozen=True)
class Call:
    """One generate call of the workload.

    Attributes:
        arguments: what generate takes besides the common arguments: `input_ids`, `inputs_embeds` ...
        trace: what it replays.
        room: `max_new_tokens`, at least the trace's length; 0 for just that. A static cache is sized by it.
    """

    arguments: Mapping[str, Json]
    trace: GenerateTrace
    room: int = 0

    @property
    def new_tokens(self) -> int:
        """N: one prefill and N - 1 decode forwards."""
        return int(self.trace.chosen_BN.shape[1])

    def shortened(self, most_tokens: int) -> "Call":
        """The same with no more than this number of tokens."""
        trace = self.trace
        if self.new_tokens <= most_tokens:
            return self
        short = GenerateTrace(trace.prompt_BT, trace.chosen_BN[:, :most_tokens], seed=trace.seed)
        return replace(self, trace=short)


@dataclass(frozen=True)
class Work:
    """What every cell does.

    Attributes:
        calls: one after the other.
        common: arguments of generate that all calls share.
        recorded: whether the cell `all` chose the trace itself, so that it must choose it again.
        may_shorten: whether the number of tokens was left open.
    """

    calls: Sequence[Call]
    common: Mapping[str, Json]
    recorded: bool
    may_shorten: bool = False

    @property
    def context(self) -> list[int]:
        """Tokens in the context at each step of one pass over the calls, in their order."""
        return [call.trace.prompt_BT.shape[1] + step for call in self.calls for step in range(call.new_tokens)]


class AblationSession(RoundSession):
    """The cells, warm, with what each chooses in the trace's contexts.

    Attributes:
        work: what every cell does; calls may be shorter than they were given.
        describe: makes the manifest again, where it is of a stored run.

    Args:
        model: a transformers model that generates.
        work: what every cell does.
        parts: what is taken away.
        effort: when to stop.
        seed: of the order of turns.
        clock: what times the calls.
        progress: told what is being done.
        compiling: how the forward is compiled, or None.
        longer_s: the budget may become this long where it holds too few rounds; 0 for no longer.

    Raises:
        InvalidMeasurement: cells execute different numbers of forwards, or the cell with all parts does not choose
            the trace again that it was recorded from.
    """

    def __init__(
        self,
        model: EitherModel,
        work: Work,
        parts: Sequence[Component],
        *,
        effort: Effort,
        seed: int,
        clock: Clock,
        progress: Progress,
        compiling: Compiling | None = None,
        longer_s: float = 0.0,
    ) -> None:
        super().__init__(effort, seed, clock)
        self.design: Design = design([part.name for part in parts])
        self._model, self._asked, self._parts = model, work, parts
        self._compiling = compiling
        self._rows = len(balanced_block(len(self.design.cells), np.random.default_rng(0)))
        self._discards = True
        self.work = work
        self.describe: Callable[[], None] = lambda: None
        self._cold = self._run_cold(progress)
        progress(0.0, "warm-up")
        with silent(), generators_kept(model):
            turns = self._fitted(longer_s)
        self._measure_these(turns)

    def go_on_from(self, manifest: Manifest) -> None:
        """Make calls as long as those of the stored run, and as many turns."""
        stored = typed(manifest, Conditions)
        turns = Turns(stored.turns_per_round // stored.calls, stored.steps_per_pass if stored.calls == 1 else None)
        if (turns.repeats, stored.steps_per_pass) != (self._repeats, self._steps):
            self._measure_these(turns)
            self.describe()

    def _measure_these(self, turns: Turns) -> None:
        """Shorten the calls, find out what the cells choose, warm up, and describe it in the manifest."""
        asked = self._asked
        self._repeats, parts = turns.repeats, self._parts
        if turns.most_tokens is not None:
            asked = replace(asked, calls=[call.shortened(turns.most_tokens) for call in asked.calls])
        self.work = work = asked
        self._steps = sum(call.new_tokens for call in work.calls)
        with silent(), generators_kept(self._model):
            self._chosen, forwards = self._try_cells()
            syncs = self._count_syncs()
            warm = self._warm(self._warm_round, share=0.1, most_s=30.0)
        self.conditions = Conditions(
            parts={part.name: part.kind for part in parts},
            in_ledger=parts_in_ledger(parts),
            forwards=forwards,
            calls=len(work.calls),
            turns_per_round=self._repeats * len(work.calls),
            steps_per_pass=self._steps,
            context=work.context,
            changed_choices={cell: self._changed(cell) for cell in self.design.cells},
            choices=self._steps * len(work.calls[0].trace.chosen_BN),
            syncs_per_step=syncs,
            device=str(self._model.device.type),
            compiled=None if self._compiling is None else self._compiling.backend,
            cold=self._cold,
            order="balanced blocks over the cells, one turn a cell and call, drawn by seed and round"
            if self._whole
            else "a row of a balanced block over the cells a round, its other rows in the rounds after it, drawn by"
            " seed",
            discarded="a call of one token before each turn"
            if self._discards
            else f"nothing: a step that exceeds {LONG_NS // 1_000_000} ms reads more memory than any cache holds",
            timed="each turn from the call of generate to its return",
            garbage_collector="off",
            notes=self._notes,
            precision=self.effort.precision,
            warm_up=warm,
            too_short=turns.too_short,
        )
        conditions = msgspec.to_builtins(self.conditions)
        self.manifest = Manifest(
            experiment="ablation", plan={}, seed=self._seed, conditions=conditions, boundaries=BOUNDARIES
        )

    @property
    def _whole(self) -> bool:
        """Whether a round is a whole balanced block, or several."""
        return self._repeats * len(self.work.calls) % self._rows == 0

    def measure_round(self, number: int) -> Sample:
        """Every cell in balanced turns; before or after them, alternately, the marked passes."""
        ns = dict.fromkeys(self.design.cells, 0)
        unsteady = dict.fromkeys(self.design.cells, 0)
        in_place: dict[str, InPlace] = {}
        self._probe.start()
        # Silent: to log the same warning at each call would be part of its time.
        with silent(), generators_kept(self._model):
            if number % 2:
                in_place = self._marked_passes(number)
            for turn, row in enumerate(self._order(number)):
                index = turn % len(self.work.calls)
                for cell in row:
                    took_ns, chosen = self._turn(cell, self.work.calls[index])
                    ns[cell] += took_ns
                    unsteady[cell] += int((chosen != self._chosen[cell][index]).sum())
            if not number % 2:
                in_place = self._marked_passes(number)
        return Sample(number, ns, unsteady, in_place, self._probe.stop())

    def resolved(self, samples: Sequence[Sample]) -> Resolved:
        """The widest interval of a part's share."""
        return resolved(self.conditions, samples)

    def finish(self) -> None:
        """Note what was compiled during the warm rounds."""
        if self._compiling is not None:
            self.manifest.conditions["compiled_again_when_warm"] = self._compiling.compiled_since()

    def _fitted(self, longer_s: float) -> Turns:
        """How a round is made, by a few calls; the budget becomes longer where it may and holds too few."""
        calls = self._asked.calls
        block = self._rows // gcd(self._rows, len(calls))
        if self.effort.budget_s == inf:
            return Turns(block)
        tried = self._tried()
        self._discards = tried.discards

        def fit() -> Turns:
            return fit_turns(
                tried,
                self.effort,
                tokens=[call.new_tokens for call in calls],
                cells=len(self.design.cells),
                marked=len(MARKED),
                block=block,
                may_shorten=self._asked.may_shorten,
            )

        turns = fit()
        if longer_s > self.effort.budget_s and (turns.too_short or turns.most_tokens is not None):
            self.effort = replace(self.effort, budget_s=longer_s)
            turns = fit()
        return turns

    def _tried(self) -> Tried:
        """What calls take with all parts, of a few tokens where they may be short."""
        call = self._asked.calls[0]
        if self._asked.may_shorten:
            call = call.shortened(TRIED_TOKENS)
        one = call.shortened(1)
        tried_ns, _ = self._turn(ALL, call)  # the first is slower, which matters where steps are short
        repeated = 1 if tried_ns > call.new_tokens * LONG_NS else 2
        first_ns, whole_ns = (min(self._turn(ALL, each)[0] for _ in range(repeated)) for each in (one, call))
        step_ns = (whole_ns - first_ns) / (call.new_tokens - 1) if call.new_tokens > 1 else 0.0
        return Tried(first_ns, max(step_ns, 0.0))

    # Turns

    def _order(self, number: int) -> list[list[str]]:
        """The cells' labels, a row for each turn."""
        labels = list(self.design.cells)
        turns = self._repeats * len(self.work.calls)
        rows: list[NDArray[np.intp]] = []
        if self._whole:
            rng = self._drawn(number)
            while len(rows) < turns:
                rows.extend(balanced_block(len(labels), rng))
        else:
            for at in range(number * turns, (number + 1) * turns):
                block, row = divmod(at, self._rows)
                rows.append(balanced_block(len(labels), self._drawn(block))[row])
        return [[labels[cell] for cell in row] for row in rows]

    def _turn(self, cell: str, call: Call) -> tuple[int, NDArray[np.int64]]:
        """One timed call; its nanoseconds and its choices."""
        if self._discards:
            self._generate(cell, call, 1)
        arguments = self._arguments(cell, call, call.new_tokens)
        now = self._clock.now
        with Replay(self._model, call.trace) as replay:
            generate = self._model.generate
            begun_ns = now()
            generate(**arguments)
            took_ns = now() - begun_ns
        return took_ns, replay.calls[0].chosen_BN

    def _arguments(self, cell: str, call: Call, new_tokens: int) -> dict[str, Json]:
        """What generate is given, with new processors and criteria."""
        present = [part for part in self._parts if part.name in self.design.cells[cell]]
        by_kind: dict[str, list[object]] = {"processor": [], "criterion": []}
        for part in present:
            by_kind[part.kind].append(part.make())
        return {
            **call.arguments,
            **self.work.common,
            "max_new_tokens": max(new_tokens, call.room if new_tokens > 1 else 0),
            "logits_processor": by_kind["processor"],
            "stopping_criteria": by_kind["criterion"],
        }

    def _generate(self, cell: str, call: Call, new_tokens: int) -> None:
        """A call that is not timed."""
        self._model.generate(**self._arguments(cell, call, new_tokens))

    def _pass(self, cell: str) -> None:
        for call in self.work.calls:
            self._generate(cell, call, call.new_tokens)

    # In place

    def _marked_passes(self, number: int) -> dict[str, InPlace]:
        order = MARKED if number // 2 % 2 else MARKED[::-1]
        return {cell: self._marked_pass(cell) for cell in order}

    def _marked_pass(self, cell: str) -> InPlace:
        """All calls with marks; the steps in the order of `Work.context`."""
        recorder = Recorder(self._clock)
        calls = self.work.calls
        if self._discards:
            self._generate(cell, calls[0], 1)
        took_ns, now = 0, self._clock.now
        with Instrument(self._model, recorder), Replay(self._model, [call.trace for call in calls]):
            for call in calls:
                arguments = self._arguments(cell, call, call.new_tokens)
                begun_ns = now()
                self._model.generate(**arguments)
                took_ns += now() - begun_ns
        kinds = [recorder.steps(PREFILL), recorder.steps(DECODE)]
        prefill = np.cumsum([0, *(call.new_tokens for call in calls[:-1])])
        decode = np.setdiff1d(np.arange(self._steps), prefill)
        columns = {name: np.zeros(self._steps, np.int64) for steps in kinds for name in steps.parts}
        step_ns = np.zeros(self._steps, np.int64)
        for steps, where in zip(kinds, (prefill, decode), strict=True):
            step_ns[where] = steps.step_ns
            for name, column in steps.parts.items():
                columns[name][where] = column
        return InPlace(took_ns, step_ns, columns)

    # Before the rounds

    def _try_cells(self) -> tuple[dict[str, list[NDArray[np.int64]]], dict[str, int]]:
        """What each cell chooses, and how many forwards of the model it executes, inside its parts too."""
        chosen: dict[str, list[NDArray[np.int64]]] = {}
        forwards: dict[str, int] = {}
        for cell in self.design.cells:
            with self._forwards_counted() as count, Replay(self._model, [c.trace for c in self.work.calls]) as replay:
                self._pass(cell)
            chosen[cell] = [call.chosen_BN for call in replay.calls]
            forwards[cell] = max(count[0], replay.forwards)
        differ = [cell for cell, executed in forwards.items() if executed != forwards[ALL]]
        if differ:
            raise InvalidMeasurement(
                f"the cells execute different numbers of forwards, so they cannot be compared: `{ALL}` "
                f"{forwards[ALL]}, `{differ[0]}` {forwards[differ[0]]}; a part that runs the model itself changes the "
                "work, time it in place with `perstep watch`"
            )
        if self.work.recorded:
            pairs = zip(chosen[ALL], self.work.calls, strict=True)
            differing = sum(int((own != call.trace.chosen_BN).sum()) for own, call in pairs)
            if differing:
                raise InvalidMeasurement(
                    f"with all parts {plural(differing, 'choice differs', 'choices differ')} from the trace that was "
                    "recorded with them: a part keeps state between calls, or the model is not deterministic"
                )
        return chosen, forwards

    @contextmanager
    def _forwards_counted(self) -> Iterator[list[int]]:
        """Count the forwards of an eager model; under a compiler a wrapper would be traced, and 0 stays."""
        count = [0]
        if self._compiling is not None:
            yield count
            return

        def one_more(*_: object) -> None:
            count[0] += 1

        handle = self._model.register_forward_pre_hook(one_more)
        try:
            yield count
        finally:
            handle.remove()

    def _changed(self, cell: str) -> int:
        """Choices that are not those of the cell with all parts, in the same contexts."""
        return sum(int((a != b).sum()) for a, b in zip(self._chosen[cell], self._chosen[ALL], strict=True))

    def _count_syncs(self) -> dict[str, float]:
        """Waits for the device in a step with all parts, by part as it stands in a ledger; a pass of its own."""
        recorder = SyncRecorder(self._model.device.type)
        traces = [call.trace for call in self.work.calls]
        instrument = Instrument(self._model, recorder)
        with recorder, instrument, Replay(self._model, traces):
            self._pass(ALL)
        self._notes = instrument.notes
        syncs = recorder.syncs(DECODE)
        return {part: syncs.part_per_step(part) or 0.0 for part in syncs.parts}

    def _warm_round(self) -> None:
        self._turn(ALL, self.work.calls[0])

    def _run_cold(self, progress: Progress) -> dict[str, ColdCell] | None:
        """The first pass of each cell after the compiler forgot everything, once each."""
        if self._compiling is None:
            return None
        cold: dict[str, ColdCell] = {}
        labels = list(self.design.cells)
        with silent(), generators_kept(self._model), self._compiling.nothing_stored():
            for index in self._drawn(1).permutation(len(labels)):
                progress(0.0, f"cold: {labels[index]}")
                cold[labels[index]] = self._cold_pass(labels[index], self._compiling)
        self._compiling.look()
        return {label: cold[label] for label in labels}

    def _cold_pass(self, cell: str, compiling: Compiling) -> ColdCell:
        compiling.forget(self._model)
        took_ns = 0
        for call in self.work.calls:
            arguments = self._arguments(cell, call, call.new_tokens)
            with Replay(self._model, call.trace):
                begun_ns = self._clock.now()
                self._model.generate(**arguments)
                took_ns += self._clock.now() - begun_ns
        return compiling.cold(took_ns)
