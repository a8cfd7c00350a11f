"""Budgets that hold: for steps of 1 to 100 ms each command's default run and `--fast` end with intervals in time.

What cannot be had in time is said before measuring. Time is made up: a forward moves a clock, and nothing else does.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from perstep.experiments import pipeline
from perstep.experiments.planning import least_rounds
from perstep.experiments.registry import find
from perstep.measure import FakeClock
from perstep.stats import MIN_MERGED_ROUNDS

MS, S = 1_000_000, 1_000_000_000
FAST_S = 15
"""`--fast` ends within so many seconds after loading."""
LATE_S = {("experts", 100, True): 17}
"""What is known to take longer: implementations of the experts are tried before."""
PREPARING_S = 25
"""What a default run takes besides its budget: recording, trying, warming up."""
LAYERS = 2


class Told:
    """A clock that forwards move, with what was said before the rounds."""

    def __init__(self) -> None:
        self.clock, self.step_ns, self.said = FakeClock(tick_ns=50), 0, ""
        self._rng = np.random.default_rng(1)

    def forward(self, share: float = 1.0) -> None:
        """A share of a step passes, within a thousandth."""
        self.clock.advance(int(share * self.step_ns * np.exp(self._rng.normal(0, 1e-3))))

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
    "depth": Command(30, {**NUMPY, "quality_tokens": 0}, enough_samples, short_of=frozenset({(100, True)})),
    "context": Command(
        30,
        NUMPY,
        enough_samples,
        short_of=frozenset({(100, True)}),
    ),
    "output": Command(30, NUMPY, enough_samples),
    "generate": Command(30, {}, enough_rounds, short_of=frozenset({(100, True)})),
    "experts": Command(30, {"arch": "{moe}", "quality_tokens": 0}, enough_samples, short_of=frozenset({(100, True)})),
}


def run(name: str, told: Told, model: Path, out: Path, **options: Any) -> pipeline.Report:
    """A whole run of a command."""
    moe = str(Path(__file__).parents[1] / "golden" / "olmoe.json")
    asked = {
        key: value.format(model=model, moe=moe) if isinstance(value, str) else value
        for key, value in {**COMMANDS[name].options, **options}.items()
    }
    return pipeline.run(
        name, find(name).Plan(**asked), progress=lambda _share, _what: None, out=out, approve=told.heard,
        resume=(out / "manifest.json").exists(),
    )  # fmt: skip


def holds(name: str, told: Told, model: Path, out: Path, *, step_ms: int, fast: bool) -> None:
    """The run ends in time, and has its intervals or has said that it would not."""
    told.step_ns = step_ms * MS
    begun_ns = told.clock.now()
    report = run(name, told, model, out, fast=fast)
    took_s = (told.clock.now() - begun_ns) / S
    command = COMMANDS[name]
    assert took_s <= LATE_S.get((name, step_ms, fast), FAST_S if fast else command.budget_s + PREPARING_S)
    assert bool(told.said) == ((step_ms, fast) in command.short_of), told.said
    if not told.said:
        assert command.intervals(report.findings)


STEPS_MS = (1, 10, 30, 100)
ALL = [(name, step, fast) for name in COMMANDS for step in STEPS_MS for fast in (False, True)]
DAILY = {("cache", 100, True), ("mask", 30, True), ("generate", 30, True)}


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
