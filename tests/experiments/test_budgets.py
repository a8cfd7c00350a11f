"""Budgets that hold: for steps of 1 to 100 ms each command's default run and `--fast` end with intervals in time.

What cannot be had in time is said before measuring. Time is made up: a forward moves a clock, and nothing else does.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.models import small_llama

import perstep
from perstep.experiments import pipeline
from perstep.experiments.planning import least_rounds
from perstep.experiments.registry import find
from perstep.measure import FakeClock, Ledger
from perstep.stats import MIN_MERGED_ROUNDS

MS, S = 1_000_000, 1_000_000_000
FAST_S = 15
"""`--fast` ends within so many seconds after loading."""
PREPARING_S = 25
"""What a default run takes besides its budget: recording, trying, warming up."""
LAYERS = 2


class Told:
    """A clock that forwards move, with what was said before the rounds."""

    def __init__(self) -> None:
        self.clock, self.step_ns, self.said = FakeClock(tick_ns=50), 0, ""
        self.scatter, self._rng = 1e-3, np.random.default_rng(1)

    def forward(self, share: float = 1.0) -> None:
        """A share of a step passes, within the scatter."""
        self.clock.advance(int(share * self.step_ns * np.exp(self._rng.normal(0, self.scatter))))

    def heard(self, manifest: Any) -> None:
        """What the command line says before it measures."""
        self.said = manifest.conditions.get("too_short", "")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """Every decoder's forward moves the clock; ceilings and fresh processes take nothing."""
    from perstep.targets.operators import numpy_layer
    from perstep.targets.reference import model

    told = Told()

    def slow(original: Callable[..., Any], share: float) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            told.forward(share)
            return original(*args, **options)

        return call

    monkeypatch.setattr(model, "mlp", slow(model.mlp, 1 / LAYERS))
    ops = numpy_layer.OPERATORS
    monkeypatch.setattr(numpy_layer, "OPERATORS", replace(ops, mlp=slow(ops.mlp, 1 / LAYERS)))
    monkeypatch.setattr(pipeline, "HostClock", lambda: told.clock)
    monkeypatch.setattr("perstep.experiments.cache.session.measure_resident", lambda _request: ([], "not looked at"))
    monkeypatch.setitem(sys.modules, "slow_program", SimpleNamespace(old=told.forward, new=told.forward))
    none = SimpleNamespace(measure=dict)
    monkeypatch.setattr("perstep.experiments.mask.session.open_sweep", lambda *_args, **_options: none)
    monkeypatch.setattr("perstep.experiments.cache.session.sweep_for", lambda *_args, **_options: None)
    return told


@pytest.fixture
def torch_told(told: Told, monkeypatch: pytest.MonkeyPatch) -> Told:
    """The same for transformers' decoders."""
    pytest.importorskip("torch")
    from transformers.models.llama import modeling_llama
    from transformers.models.olmoe import modeling_olmoe

    for kind in (modeling_llama.LlamaModel, modeling_olmoe.OlmoeModel):
        original = kind.forward

        def forward(self: Any, *args: Any, _original: Any = original, **options: Any) -> Any:
            told.forward()
            return _original(self, *args, **options)

        monkeypatch.setattr(kind, "forward", forward)
    return told


@pytest.fixture(scope="session")
def roomy(make_llama: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers with as many positions as any default asks for."""
    return make_llama(tmp_path_factory.mktemp("models") / "roomy", max_position_embeddings=2048)


@dataclass(frozen=True)
class Command:
    """A command and what of its options is not about time.

    Attributes:
        budget_s: of its default run.
        options: of its plan; `{model}` stands for a folder.
        short_of: step in ms and whether `--fast`, of which the sentence is said.
        intervals: whether the findings have those that are the command's answer.
    """

    budget_s: float
    options: dict[str, Any]
    intervals: Callable[[Any], bool]
    short_of: frozenset[tuple[int, bool]] = frozenset()


def enough_rounds(found: Any) -> bool:
    """As many as intervals of the bootstrap need; with ten, chance alone may make them look autocorrelated."""
    return bool(found.effects.rounds >= MIN_MERGED_ROUNDS)


def enough_samples(found: Any) -> bool:
    """As many rounds as the intervals of all configurations need; chance may make a few look autocorrelated."""
    return all(one.samples >= least_rounds(len(found.summary)) for one in found.summary)


NUMPY = {"model": "{model}", "backend": "numpy"}
COMMANDS = {
    "ledger": Command(30, NUMPY, lambda found: found.decode.plain_step_ci_low is not None),
    "cache": Command(30, NUMPY, lambda found: all(one.with_cache_low_ms is not None for one in found.points)),
    "mask": Command(
        120,
        {"model": "{model}", "vocab": "own", "engine": "table"},
        lambda found: all(arm.ci_low is not None for cell in found.cells for arm in cell.arms[1:]),
        short_of=frozenset({(100, True)}),
    ),
    "ops": Command(
        180,
        {"arch": "{model}/config.json", "seq": (8,)},
        lambda found: all(part.ci_low is not None for each in found.lengths for part in each.ledger.parts.values()),
        short_of=frozenset({(100, True)}),
    ),
    "depth": Command(30, NUMPY, enough_samples, short_of=frozenset({(100, True)})),
    "context": Command(
        30,
        NUMPY,
        enough_samples,
        short_of=frozenset({(100, True)}),
    ),
    "output": Command(30, NUMPY, enough_samples),
    "compare": Command(
        30,
        {"arms": ("slow_program:old", "slow_program:new")},
        lambda found: all(arm.wall.ci_low is not None for name, arm in found.arms.items() if name != found.reference),
    ),
    "generate": Command(30, {}, enough_rounds, short_of=frozenset({(100, True)})),
    "experts": Command(30, {"arch": "{moe}"}, enough_samples, short_of=frozenset({(100, True)})),
}


def run(
    name: str,
    told: Told,
    model: Path,
    out: Path,
    *,
    progress: Callable[[float, str], None] = lambda _share, _what: None,
    approve: Callable[[Any], None] | None = None,
    **options: Any,
) -> pipeline.Report:
    """A whole run of a command."""
    moe = str(Path(__file__).parents[1] / "golden" / "olmoe.json")
    asked = {
        key: value.format(model=model, moe=moe) if isinstance(value, str) else value
        for key, value in {**COMMANDS[name].options, **options}.items()
    }
    return pipeline.run(
        name, find(name).Plan(**asked), progress=progress, out=out, approve=approve or told.heard,
        resume=(out / "manifest.json").exists(),
    )  # fmt: skip


def holds(name: str, told: Told, model: Path, out: Path, *, step_ms: int, fast: bool) -> None:
    """The run ends in time, and has its intervals or has said that it would not."""
    told.step_ns = step_ms * MS
    begun_ns = told.clock.now()
    report = run(name, told, model, out, fast=fast)
    took_s = (told.clock.now() - begun_ns) / S
    command = COMMANDS[name]
    assert took_s <= (FAST_S if fast else command.budget_s + PREPARING_S)
    assert bool(told.said) == ((step_ms, fast) in command.short_of), told.said
    if not told.said:
        assert command.intervals(report.findings)


STEPS_MS = (1, 10, 30, 100)
ALL = [(name, step, fast) for name in COMMANDS for step in STEPS_MS for fast in (False, True)]
DAILY = {("cache", 100, True), ("mask", 30, True), ("generate", 30, True), ("experts", 100, True)}


def cases(chosen: set[tuple[str, int, bool]], *, those: bool) -> list[Any]:
    """The cases that are chosen, or the others; transformers' own are marked."""
    marks = {name: [pytest.mark.hf] if name in ("generate", "experts") else [] for name in COMMANDS}
    return [
        pytest.param(*case, marks=marks[case[0]], id="-".join(map(str, case[:2])) + ("-fast" if case[2] else ""))
        for case in ALL
        if (case in chosen) == those
    ]


def told_by(name: str, request: pytest.FixtureRequest) -> Told:
    """The clock that the command's forwards move."""
    told: Told = request.getfixturevalue("torch_told" if name in ("generate", "experts") else "told")
    return told


@pytest.mark.parametrize(("name", "step_ms", "fast"), cases(DAILY, those=True))
def test_a_run_ends_in_time_with_intervals_or_has_said_what_it_lacks(
    name: str, step_ms: int, fast: bool, roomy: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The tightest of all."""
    holds(name, told_by(name, request), roomy, tmp_path / "run", step_ms=step_ms, fast=fast)


@pytest.mark.nightly
@pytest.mark.parametrize(("name", "step_ms", "fast"), cases(DAILY, those=False))
def test_every_run_ends_in_time_with_intervals_or_has_said_what_it_lacks(
    name: str, step_ms: int, fast: bool, roomy: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The whole table."""
    holds(name, told_by(name, request), roomy, tmp_path / "run", step_ms=step_ms, fast=fast)


@pytest.mark.hf
@pytest.mark.parametrize("step_ms", STEPS_MS)
def test_a_watched_call_takes_as_long_as_without_and_one_of_41_tokens_has_intervals(
    step_ms: int, torch_told: Told
) -> None:
    """`watch` has no budget: a call makes its own steps and no others, and their number alone makes intervals."""
    torch_told.step_ns = step_ms * MS
    torch = pytest.importorskip("torch")
    model, ids = small_llama(), torch.tensor([[5, 6, 7]])

    def watched(tokens: int) -> tuple[float, Ledger]:
        begun_ns = torch_told.clock.now()
        with perstep.watch(model, clock=torch_told.clock) as watch:
            model.generate(ids, max_new_tokens=tokens, do_sample=False)
        return (torch_told.clock.now() - begun_ns) / MS, watch.ledger()

    took_ms, ledger = watched(41)
    assert took_ms == pytest.approx(41 * step_ms, rel=0.1)  # marks are readings of the clock
    assert ledger.plain_step_ci_low is not None
    assert all(part.ci_low is not None for part in ledger.parts.values())
    assert watched(9)[1].resolved().half_width == inf


def without_noise(folder: Path) -> tuple[list[Any], Any]:
    """The rounds and the results of a run, but for what else the machine did and how the warm-up ended."""
    lines = (folder / "samples.jsonl").read_text().splitlines()
    found = json.loads((folder / "results.json").read_text())
    rounds = [{**json.loads(line), "noise": None, "run_id": ""} for line in lines]
    return rounds, {**found, "noise": None, "notes": None}


RESUMED: dict[str, tuple[dict[str, Any], Callable[[Any], Any]]] = {
    "cache": ({"rounds": 5}, lambda held: (held.workload["contexts"], held.conditions["repetitions_a_round"])),
    "mask": ({"rounds": 5, "batch": (1, 2)}, lambda held: (held.workload["new_tokens"], held.conditions["arms"])),
    "generate": ({"rounds": 5}, lambda held: (held.conditions["steps_per_pass"], held.conditions["turns_per_round"])),
}
"""Options, and what of a manifest says how much is measured."""


@pytest.mark.parametrize(
    ("name", "then_ms", "budget_s"),
    [
        ("cache", 1, 20.0),
        ("mask", 1, 20.0),  # the cell that was left out would be there
        pytest.param("cache", 300, 20.0, marks=pytest.mark.nightly),
        pytest.param("mask", 300, 60.0, marks=pytest.mark.nightly),  # a cell that was there would be left out
        pytest.param("generate", 1, 20.0, marks=[pytest.mark.hf, pytest.mark.nightly]),
        pytest.param("generate", 300, 60.0, marks=[pytest.mark.hf, pytest.mark.nightly]),
    ],
)
def test_a_shortened_run_that_was_interrupted_is_resumed_to_the_same_result(
    name: str, then_ms: int, budget_s: float, roomy: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Whether steps are faster or slower when they are tried again: calls, points and arms stay as they were."""
    told, (options, measured) = told_by(name, request), RESUMED[name]
    told.step_ns, told.scatter = 100 * MS, 0.0
    short = {**options, "budget": budget_s}
    whole = run(name, told, roomy, tmp_path / "whole", **short)
    free = run(name, told, roomy, tmp_path / "free", **{**options, "rounds": 1})
    assert measured(free.manifest) != measured(whole.manifest)

    def interrupt(_share: float, what: str) -> None:
        if what == "round 4":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(name, told, roomy, tmp_path / "run", progress=interrupt, **short)
    told.step_ns = then_ms * MS

    def as_before(_manifest: Any) -> None:
        told.step_ns = 100 * MS

    resumed = run(name, told, roomy, tmp_path / "run", approve=as_before, **short)
    assert measured(resumed.manifest) == measured(whole.manifest)
    assert without_noise(resumed.folder) == without_noise(whole.folder)
