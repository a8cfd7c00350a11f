"""Continuous batching: runs of a manager as samples of a watch, and what a token costs by how full its batches are."""

from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from perstep.experiments.call_recorder import CallRecorder, CallSteps
from perstep.machine import Noise, NoiseProbe
from perstep.measure import Clock
from perstep.report import Column, Table
from perstep.report.format import duration, plural, time_unit
from perstep.report.table import interval_columns, time_column
from perstep.stats import median, median_interval
from perstep.targets.transformers import Batched
from perstep.targets.transformers.protocols import Model
from perstep.targets.transformers.words import DECODE, PREFILL
from perstep.watching.samples import Batches, Sample


class Keeps:
    """Takes the steps of one run of a manager; made and read in its thread.

    Args:
        model: whose.
        name: of it.
        samples: takes the run.
        clock: the host's.
    """

    def __init__(self, model: Model, name: str, samples: list[Sample], clock: Clock) -> None:
        # What a device does runs on a stream of the manager's own: events between parts would tell nothing of it.
        self.marks = CallRecorder(clock, None, model.device.type)
        self._name, self._samples = name, samples
        self._probe = NoiseProbe()
        self._noise: Noise | None = None
        self._probe.start()

    def still(self) -> None:
        """Read what disturbed the run so far; who ends it may be another thread."""
        self._noise = self._probe.so_far()

    def done(self, run: Batched) -> None:
        """Keep the run, if it has a whole step."""
        steps = self.marks.take().kinds.get(DECODE)
        self._probe.close()
        if self._noise is None or steps is None or not len(steps.step_ns):
            return
        prompts = np.array([batch.prompts > 0 for batch in run.batches], bool)
        names = Batches.__struct_fields__
        columns = {name: np.array([getattr(batch, name) for batch in run.batches], np.int64) for name in names}
        masks = {kind: mask for kind, mask in ((DECODE, ~prompts), (PREFILL, prompts)) if mask.any()}
        model = run.model
        self._samples.append(
            Sample(
                site=run.site,
                model=self._name,
                device=str(model.device),
                dtype=str(model.dtype).removeprefix("torch."),
                finished=run.finished,
                rows=None,
                prompt_tokens=None,
                new_tokens=run.new_tokens,
                steps=run.steps,
                prefills=run.prefills,
                forwards=run.steps,
                kinds={kind: _of(steps, mask) for kind, mask in masks.items()},
                notes=run.notes,
                noise=self._noise,
                made_by="batching",
                batches={
                    kind: Batches(**{name: column[mask] for name, column in columns.items()})
                    for kind, mask in masks.items()
                },
            )
        )


def _of(steps: CallSteps, chosen: NDArray[np.bool_]) -> CallSteps:
    """Some of the steps; a part's marks are counted by the steps that it is in."""
    marked = steps.marked.astype(bool)
    looked_into = chosen[marked]
    parts = {name: ns[looked_into] for name, ns in steps.parts.items()}
    share = {name: float((parts[name] > 0).sum()) / max(int((ns > 0).sum()), 1) for name, ns in steps.parts.items()}
    return CallSteps(
        steps.step_ns[chosen],
        parts,
        steps.residual_ns[looked_into],
        {name: round(count * share[name]) for name, count in steps.marks.items()},
        marked=steps.marked[chosen],
    )


class Level(msgspec.Struct, frozen=True, kw_only=True):
    """Decode steps with about as many requests in the batch.

    Attributes:
        rows_from: the smallest number of requests.
        rows_to: the largest one.
        steps: without marks, which the times are of.
        step_ns: the median step.
        token_ns: the median of a step over the tokens that it emits.
        ci_low: of `token_ns`; None where there are too few steps.
        ci_high: likewise.
    """

    rows_from: int
    rows_to: int
    steps: int
    step_ns: float
    token_ns: float
    ci_low: float | None
    ci_high: float | None


class Batching(msgspec.Struct, frozen=True, kw_only=True):
    """How full the batches of a line's runs were, and what a token cost then.

    Attributes:
        steps: recorded ones, of both kinds.
        with_prompts: how many of them had a prompt in the batch.
        rows: requests in a decode step, on average.
        most_rows: at most.
        prompt_tokens: positions that a step with a prompt took in, on average; None where there was none.
        levels: the decode steps by the number of requests, the fewest first.
    """

    steps: int
    with_prompts: int
    rows: float
    most_rows: int
    prompt_tokens: float | None
    levels: list[Level]


def find_batching(samples: Sequence[Sample]) -> Batching | None:
    """What the runs of one line show; None where they are none, or made no decode step."""
    rows, new_tokens, step_ns, marked = (
        _joined(samples, DECODE, of)
        for of in (
            lambda sample: sample.batches[DECODE].rows,
            lambda sample: sample.batches[DECODE].new_tokens,
            lambda sample: sample.kinds[DECODE].step_ns,
            lambda sample: sample.kinds[DECODE].marked,
        )
    )
    if not len(rows):
        return None
    prompts = _joined(samples, PREFILL, lambda sample: sample.batches[PREFILL].tokens)
    plain = (marked == 0) & (new_tokens > 0)
    level = np.ceil(np.log2(rows)).astype(np.int64)  # 1, 2, 3 to 4, 5 to 8 ...
    taken = [plain & (level == one) for one in np.unique(level[plain])]
    return Batching(
        steps=len(rows) + len(prompts),
        with_prompts=len(prompts),
        rows=float(rows.mean()),
        most_rows=int(rows.max()),
        prompt_tokens=float(prompts.mean()) if len(prompts) else None,
        levels=[_level(rows[steps], step_ns[steps], new_tokens[steps], len(taken)) for steps in taken],
    )


def _joined(samples: Sequence[Sample], kind: str, of: Callable[[Sample], NDArray[np.int64]]) -> NDArray[np.int64]:
    columns = [of(sample) for sample in samples if kind in sample.batches]
    return np.concatenate(columns) if columns else np.zeros(0, np.int64)


def _level(rows: NDArray[np.int64], step_ns: NDArray[np.int64], new_tokens: NDArray[np.int64], levels: int) -> Level:
    token_ns = step_ns / new_tokens
    ends = median_interval(token_ns, comparisons=levels)
    return Level(
        rows_from=int(rows.min()),
        rows_to=int(rows.max()),
        steps=len(rows),
        step_ns=median(step_ns),
        token_ns=median(token_ns),
        ci_low=None if ends is None else ends.low,
        ci_high=None if ends is None else ends.high,
    )


def batching_sentences(batching: Batching | None) -> list[str]:
    """How full the batches were, and how the cost of a token moved with that."""
    if batching is None:
        return []
    said = (
        f"{plural(batching.steps, 'iteration')} of the scheduler, {batching.with_prompts:,} with a prompt in the batch;"
        f" {batching.rows:.1f} requests in a decode step, at most {batching.most_rows:,}."
    )
    if batching.prompt_tokens is not None:
        said += f" A step with a prompt took in {batching.prompt_tokens:,.0f} tokens on average."
    levels = batching.levels
    if levels:
        costs = ", ".join(f"{duration(level.token_ns)} at {_requests(level)}" for level in _ends(levels))
        said += f" A token costs {costs}."
    return [said]


def _ends(levels: Sequence[Level]) -> Sequence[Level]:
    return levels if len(levels) < 2 else (levels[0], levels[-1])


def _requests(level: Level) -> str:
    if level.rows_from == level.rows_to:
        return plural(level.rows_from, "request")
    return f"{level.rows_from:,} to {level.rows_to:,} requests"


def batching_table(site: str, batching: Batching) -> Table:
    """The cost of a token by the number of requests in the batch."""
    unit = time_unit([level.step_ns for level in batching.levels])
    of_token = time_unit([level.token_ns for level in batching.levels])
    columns: list[Column[Level]] = [
        Column("requests in the batch", _requests, words=True),
        Column("steps", lambda level: level.steps, "{:,}".format),
        time_column("", lambda level: level.step_ns, unit, per="/step"),
        time_column("", lambda level: level.token_ns, of_token, per="/token"),
        *interval_columns(lambda level: (level.ci_low, level.ci_high), of_token, names=None),
    ]
    return Table(
        f"what a token costs by how full the batch is, at {site}",
        columns,
        batching.levels,
        notes=["Medians over decode steps without marks. A step is one iteration of the scheduler."],
    )
