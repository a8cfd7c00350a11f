"""Cells of a machine whose coefficients are known: steps that take what a law says, and some noise."""

import random
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from perstep.machine import SweepFigures
from perstep.predicting.cells import RESIDUAL, Cell, speed_of
from perstep.predicting.features import Features, features
from perstep.predicting.subject import GREEDY, Subject, Way
from perstep.theory import read_config

WAY = Way("transformers", "float32", "cpu", 1, GREEDY)
TRUE = {
    "norm": {"calls": 2.0},
    "attn": {"roofline": 1.2, "per_layer": 8.0},
    "attn.core": {"roofline": 1.5, "per_layer": 6.0},
    "kv.append": {"calls": 3.0, "roofline": 1.1},
    "mlp": {"roofline": 1.05, "per_layer": 5.0},
    "lm_head": {"roofline": 1.3},
    "sample": {"per_step": 20.0, "per_logit": 2.0},
    "bookkeeping": {"per_step": 100.0},
    RESIDUAL: {"per_step": 10.0},
    "embed": {"per_step": 5.0},
}
"""What every step of these machines is made of."""


def ceilings(speed: float = 1.0) -> SweepFigures:
    """The ceilings of a machine that is so many times as fast as another one."""
    sizes = [1 << n for n in range(18, 31)]
    read = {size: speed * (80.0 if size < 1 << 22 else 30.0 if size < 1 << 25 else 12.0) for size in sizes}
    call = {0: 500.0 / speed, **{size: (600.0 if size < 1 << 22 else 1500.0) / speed for size in sizes}}
    return SweepFigures(read, call, 100.0 * speed, 20.0 * speed, 3.0 * speed, 20)


def shape(hidden: int, vocab: int, layers: int) -> Any:
    """A Llama."""
    return read_config(
        {
            "model_type": "llama",
            "vocab_size": vocab,
            "hidden_size": hidden,
            "intermediate_size": 3 * hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": hidden // 64,
            "max_position_embeddings": 1 << 20,
        }
    )


def subject(arch: int = 0, *, layers: int = 4, batch: int = 1, context: int = 256, way: Way = WAY) -> Subject:
    """A step of one of eight architectures."""
    return Subject(f"arch-{arch}", shape(256 + 128 * arch, 4096 + 3000 * (arch % 4), layers), batch, context, way)


def make_cell(
    what: Subject,
    *,
    speed: float = 1.0,
    noise: float = 0.0,
    figures: SweepFigures | None = None,
    more: Mapping[str, Features] | None = None,
) -> Cell:
    """What a machine would have measured of a step, of `more` parts too."""
    held, true = figures or ceilings(speed), {**TRUE, **(more or {})}
    found = features(what, speed_of(held, what.way.dtype), list(true))
    factor = 1 + noise * (2 * random.Random(what.name).random() - 1)
    parts = {
        part: factor * sum(value * found[part].get(name, 0.0) for name, value in each.items())
        for part, each in true.items()
    }
    name = f"{what.arch}-{what.shape.num_layers}-{what.batch}-{what.context}-{speed}.1"
    return Cell(
        name=name,
        subject=what,
        machine=f"machine-{speed}",
        hardware=f"machine of speed {speed}",
        figures=held,
        step_ns=sum(parts.values()),
        parts_ns=parts,
        noise=0.01,
        began_at="2026-01-01T00:00:00+00:00",
        memory_bytes=16 * 2**30,
    )


def make_cells(noise: float = 0.0, *, archs: int = 8, speeds: tuple[float, ...] = (1.0,)) -> list[Cell]:
    """A grid of architectures, layers and contexts."""
    return [
        make_cell(subject(arch, layers=layers, context=context), speed=speed, noise=noise)
        for speed in speeds
        for arch in range(archs)
        for layers in (2, 6)
        for context in (64, 1024)
    ]


@pytest.fixture
def law() -> Callable[..., Any]:
    """`law(noise, archs=, speeds=)`: cells of known coefficients."""
    return make_cells


@pytest.fixture
def step() -> Callable[..., Subject]:
    """`step(arch, layers=, batch=, context=, way=)`: a decode step."""
    return subject


@pytest.fixture
def measured() -> Callable[..., Cell]:
    """`measured(step, speed=, noise=, figures=, more=)`: a cell of the same law."""
    return make_cell
