"""What all tests share: a tiny Llama with and without torch, calm rounds, the command line as function and process."""

import gc
import gzip
import json
import os
import subprocess
import sys
from base64 import b64decode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.database import DirectoryBasedExampleDatabase
from hypothesis.internal.conjecture import providers
from hypothesis.internal.constants_ast import Constants
from safetensors.numpy import save_file
from tests.models import small_llama
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from perstep.machine import Noise, NoiseProbe
from perstep.measure import FakeClock, HostClock
from perstep.report.plot import _as_png
from perstep.targets.reference.config import end_shapes, layer_shapes, parse_config

# `repeatable` draws the same examples on every machine, so that a fresh clone fails only where the code is wrong for
# everybody; `random` (make nightly, `--hypothesis-profile=random`) searches, and keeps in its database what it found.
# No test asserts a time: a busy machine must not fail one. All is said here: in CI Hypothesis has other defaults.
_ANY_SPEED: dict[str, Any] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("repeatable", derandomize=True, **_ANY_SPEED)
settings.register_profile(
    "random",
    derandomize=False,
    database=DirectoryBasedExampleDatabase(Path(__file__).parents[1] / ".hypothesis" / "examples"),
    **_ANY_SPEED,
)
settings.load_profile("repeatable")

# Hypothesis also draws constants that stand in the modules imported so far. Which these are depends on the tests that
# ran before in the same process, and on the name of the folder: only the random search may use them.
_constants_of_imported_modules = providers._get_local_constants


def _local_constants() -> Constants:
    return Constants() if settings.default.derandomize else _constants_of_imported_modules()


providers._get_local_constants = _local_constants

TINY: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 260,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "eos_token_id": 259,
}


def write_llama(folder: Path, *, seed: int = 0, tokenizer: bool = True, **changes: Any) -> Path:
    """A folder in the standard format with random weights and a tokenizer of single bytes."""
    raw = {**TINY, **changes}
    config = parse_config(raw)
    shapes = dict(end_shapes(config))
    for index in range(config.num_layers):
        shapes |= {f"model.layers.{index}.{name}": shape for name, shape in layer_shapes(config).items()}
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(raw))
    tensors = {name: rng.normal(0, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}
    save_file(tensors, folder / "model.safetensors")
    if tokenizer:
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        made = Tokenizer(models.BPE(vocab={symbol: index for index, symbol in enumerate(alphabet)}, merges=[]))
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        made.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="session")
def make_llama() -> Callable[..., Path]:
    """`make_llama(folder, seed=, tokenizer=, **config)`: write a tiny Llama folder."""
    return write_llama


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers and 64 positions with a tokenizer of single bytes."""
    return write_llama(tmp_path_factory.mktemp("models") / "tiny")


def facts(experiment: str, field: str, **changes: Any) -> dict[str, Any]:
    """What a field of the manifest holds in the golden run of an experiment, changed."""
    stored = Path(__file__).parent / "golden" / experiment / "manifest.json"
    return {**json.loads(stored.read_text())[field], **changes}


@dataclass(frozen=True)
class Said:
    """What a command line did."""

    code: int
    out: str
    err: str


Cli = Callable[..., Said]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """`cli("ledger", "-m", ...)`: the command line in this process, in an empty folder of its own."""
    from perstep.cli import run

    place = tmp_path / "cwd"
    place.mkdir()
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "path", [*sys.path])  # a command may put its current folder there
    monkeypatch.delenv("COLUMNS", raising=False)  # a test's output goes to no terminal of 80 characters

    def call(*tokens: object) -> Said:
        capsys.readouterr()
        code = run([str(token) for token in tokens])
        captured = capsys.readouterr()
        return Said(code, captured.out, captured.err)

    return call


def _unmarked() -> int:
    raise AssertionError(
        "this test reads the host's clock: give it a FakeClock, or the marker real_clock and only assertions that "
        "hold on a machine however busy"
    )


@pytest.fixture(autouse=True)
def host_clock_is_marked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a test with the marker `real_clock` may read the host's clock."""
    if request.node.get_closest_marker("real_clock") is None:
        monkeypatch.setattr(HostClock, "now", staticmethod(_unmarked))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What is imported stays: looking for garbage in it takes a quarter of what collecting the tests takes."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.fixture(autouse=True, scope="module")
def only_new_garbage() -> None:
    """What stands when a module's tests begin is no garbage of theirs: a collection looks at what came since.

    perstep collects before it measures, and Python does so every now and then: each time 0.1 s and more over all that
    torch and the tests have imported, a fifth of the time of all tests.
    """
    gc.collect()
    gc.freeze()


_BLANK = b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP4DwABAQEAsTj2FAAAAABJRU5ErkJggg==")
"""A PNG of one pixel."""


@pytest.fixture(autouse=True, scope="session")
def pictures_are_blank(request: pytest.FixtureRequest) -> Iterator[None]:
    """A figure is filled, but not turned into pixels: 0.15 s a picture, two thirds of what a report takes.

    In tests with the marker `pictures` it is, and in all of them by `make nightly`.
    """
    with pytest.MonkeyPatch.context() as monkeypatch:
        if "not nightly" in request.config.option.markexpr:
            monkeypatch.setattr("perstep.report.plot._as_png", lambda _figure: _BLANK)
        yield


@pytest.fixture(autouse=True)
def pictures_that_are_marked_are_drawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test with the marker `pictures` looks at pixels."""
    if request.node.get_closest_marker("pictures") is not None:
        monkeypatch.setattr("perstep.report.plot._as_png", _as_png)


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """The environment for a perstep process: this source tree, one thread, and Python as it is without settings."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COLUMNS"))}
    source = str(Path(__file__).parent.parent / "src")
    path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH", "")]))
    return {**inherited, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def process(environment: dict[str, str]) -> Cli:
    """`process("list", cwd=...)`: `python -m perstep` in a process of its own."""

    def call(*tokens: object, cwd: Path, **options: Any) -> Said:
        command = [sys.executable, "-m", "perstep", *(str(token) for token in tokens)]
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, **options)
        return Said(done.returncode, done.stdout, done.stderr)

    return call


def patch_time(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """Give the pipeline a fake clock, see `fake_time`."""
    from perstep.experiments import pipeline
    from perstep.targets.reference import model

    clock = FakeClock(tick_ns=1)
    norm = model.norm

    def slow_norm(*args: Any, **options: Any) -> Any:
        clock.advance(1_000)
        return norm(*args, **options)

    monkeypatch.setattr(pipeline, "HostClock", lambda: clock)
    monkeypatch.setattr(model, "norm", slow_norm)
    # The ceilings of this machine have a real clock, and no two rounds alike.
    monkeypatch.setattr("perstep.experiments.ledger.bounds.Ceilings.measure", lambda _self: {})
    return clock


@pytest.fixture
def fake_time(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """The pipeline's clock is a fake one: a reading takes 1 ns, an RMSNorm of the reference 1,000 ns, all else nothing.

    So a run's figures are known, its precision is reached at the first look, and nothing depends on the machine.
    """
    return patch_time(monkeypatch)


@pytest.fixture(scope="session")
def finished_run(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete ledger of 8 + 4 tokens in three rounds, measured in fake time; to be copied, not changed."""
    from perstep.experiments import pipeline
    from perstep.experiments.ledger import Plan

    plan = Plan(model=str(tiny_llama), backend="numpy", prompt_tokens=8, new_tokens=4, rounds=3)
    with pytest.MonkeyPatch.context() as monkeypatch:
        patch_time(monkeypatch)
        out = tmp_path_factory.mktemp("runs") / "run"
        return pipeline.run("ledger", plan, progress=lambda _share, _what: None, out=out).folder


def write_ledger_run(
    folder: Path,
    *,
    seed: int = 0,
    rounds: int = 24,
    level: float = 1.0,
    parts: dict[str, float] | None = None,
    decode: bool = True,
    differing: int = 0,
    git: dict[str, Any] | None = None,
    **workload: Any,
) -> Path:
    """A complete ledger run with known costs: decode parts of 10, 80 and 9 µs, 1 µs residual, passes scatter by 0.1 %.

    Args:
        folder: of the run.
        seed: of the scatter.
        rounds: how many.
        level: every cost times this.
        parts: part -> its cost times this, for both kinds of step.
        decode: with decode steps beside the prefill.
        differing: choices that differ from the trace, which makes the run invalid.
        git: in place of a clean commit.
        **workload: in place of the usual one.
    """
    import msgspec

    from perstep.experiments.ledger import Pass, Sample
    from perstep.machine import NoiseProbe, describe
    from perstep.measure import Steps
    from perstep.runs import Manifest, RunWriter

    rng = np.random.default_rng(seed)
    probe = NoiseProbe()
    probe.start()
    noise = probe.stop()
    factors = parts or {}

    def columns(costs_ns: dict[str, float], steps: int, drift: float, marked: bool) -> Steps:
        usual = {**costs_ns, "residual": 1_000.0}
        ns = {
            name: np.full(steps, round(cost * factors.get(name, 1.0) * level * drift), np.int64)
            for name, cost in usual.items()
        }
        residual = ns.pop("residual")
        step = sum(ns.values()) + residual
        return Steps(step, ns, residual, dict.fromkeys(ns, steps)) if marked else Steps(step)

    work = {"token_ids_sha256": "1" * 64, "model_config_sha256": "2" * 64, "new_tokens": 4, **workload}
    manifest = Manifest(
        experiment="ledger",
        plan={},
        workload=facts("ledger", "workload", **work),
        model={"name": "tiny"},
        machine={**msgspec.to_builtins(describe()), "git": git or {"commit": "a" * 40, "dirty": False}},
        conditions=facts("ledger", "conditions", mark_ns=10.0, precision=0.5, bounds={}),
    )  # fmt: skip
    with RunWriter(folder, manifest) as writer:
        for number in range(rounds):
            passes = []
            for arm in ("plain", "marked", "marked", "plain"):
                drift, marked = float(np.exp(rng.normal(0, 0.001))), arm == "marked"
                kinds = {"prefill": columns({"embed": 20_000, "attn.mask.build": 30_000}, 1, drift, marked)}
                if decode:
                    kinds["decode"] = columns({"embed": 10_000, "mlp": 80_000, "sample": 9_000}, 3, drift, marked)
                passes.append(Pass(arm, differing, kinds))
            writer.append(Sample(number, passes, noise))
    return folder


@pytest.fixture
def ledger_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """`ledger_run(folder, level=1.05, ...)`: a stored run with known costs; the user's cache is an empty folder."""
    monkeypatch.setenv("PERSTEP_CACHE_DIR", str(tmp_path / "cache"))
    return write_ledger_run


@pytest.fixture(scope="session")
def calm() -> Noise:
    """A round in which nothing happened, whatever happens on this machine."""
    probe = NoiseProbe()
    probe.start()
    own = {"waited_ns": 0, "thread_involuntary_switches": 0, "involuntary_switches": 0, "gc_full_collections": 0}
    others = {"major_faults": 0, "steal_jiffies": 0, "busy_jiffies": 0, "throttled_periods": 0}
    return msgspec.structs.replace(probe.stop(), **own, **others)


@pytest.fixture(scope="session")
def taken(calm: Noise) -> Noise:
    """A round of 100 ms, for 6 of which the thread was ready and another one ran."""
    return msgspec.structs.replace(calm, wall_ns=100_000_000, waited_ns=6_000_000)


@pytest.fixture
def nothing_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that compile may have run before in this process."""
    from perstep.targets.transformers import instrument
    from perstep.watching import inside

    for module in (instrument, inside):
        monkeypatch.setattr(module, "anything_compiled", lambda: False)


@pytest.fixture(scope="session")
def tiny_model() -> Any:
    """A Llama whose calls make as many steps as they are asked for; each test leaves it as it was."""
    return small_llama()


@pytest.fixture
def ids() -> Any:
    """Token ids, int64 [rows=2, length=5]."""
    import torch

    return torch.arange(3, 13).reshape(2, 5)


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """A clock on which a forward of two layers takes 1 µs for each position that it attends to."""
    from perstep.targets.reference import model

    clock, mlp = FakeClock(), model.mlp

    def slow(layer: Any, b: Any, mark: Any) -> None:
        clock.advance(500 * b.scores_BKXRL.shape[-1])
        mlp(layer, b, mark)

    monkeypatch.setattr(model, "mlp", slow)
    return clock


@pytest.fixture(scope="session")
def h200_rows() -> list[Any]:
    """A real trace: smollm2-135m in bfloat16, one prefill and five decode steps on an H200.

    A sleep of 507 µs is planted in a processor. Host operators around which no kernel was launched are left out.
    """
    from perstep.measure.device_rows import Row

    with gzip.open(Path(__file__).parent / "h200_trace.json.gz", "rt") as file:
        stored = json.load(file)
    made, start_ns = [], 0
    for name, on_host, after, *rest in zip(*stored["rows"], strict=True):
        start_ns += after
        made.append(Row(stored["names"][name], "DeviceType.CPU" if on_host else "DeviceType.CUDA", start_ns, *rest))
    return made


@pytest.fixture(scope="session")
def h200_steps(h200_rows: list[Any]) -> list[tuple[str, int, int]]:
    """Its steps: from one forward to the next, as (kind, start, end) in nanoseconds."""
    starts = [row.start_ns for row in h200_rows if row.on_host and row.name == "perstep:forward"]
    ends = [*starts[1:], max(row.end_ns for row in h200_rows) + 1]
    return [("decode" if index else "prefill", *both) for index, both in enumerate(zip(starts, ends, strict=True))]
