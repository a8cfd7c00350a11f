"""What every target owes the experiments: one trace, passes over it, and the state as it was."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perstep.errors import InputError, InvalidMeasurement
from perstep.measure import FakeClock, Recorder
from perstep.targets import PLAIN, STAGES, Sampler, Target, Work, open_model

PROMPT_BT = np.arange(16).reshape(2, 8)
DRAWN = Sampler(temperature=1.0, top_k=50, top_p=0.9, seed=3)


@pytest.fixture(params=["numpy", pytest.param("torch", marks=pytest.mark.hf)])
def target(request: pytest.FixtureRequest, tiny_llama: Path) -> Target:
    """The same folder on each backend."""
    return open_model(str(tiny_llama), backend=request.param)


def parts_of(target: Target, work: Work, recorder: Recorder, detail: str | None) -> dict[str, set[str]]:
    """The parts of each kind of step in a pass that chooses what the trace holds."""
    assert target.replay(work, recorder, detail) == 0
    return {kind: set(recorder.steps(kind).parts) for kind in recorder.kinds}


def test_a_pass_replays_what_was_recorded_at_every_detail(target: Target) -> None:
    """One prefill and a decode step for each further token; a recorder forgets the pass before."""
    recorder = Recorder(FakeClock(tick_ns=1))
    for sampler in (Sampler(), DRAWN):
        work = target.record(PROMPT_BT, 5, sampler)
        assert (work.new_tokens, work.text_tokens, work.positions) == (5, 8, 12)
        assert work.trace.prompt_BT.tolist() == PROMPT_BT.tolist()
        plain = parts_of(target, work, recorder, PLAIN)
        assert {kind.removesuffix(".plain"): parts for kind, parts in plain.items()} == {
            "prefill": set(), "decode": set(),
        }  # fmt: skip
        stages = parts_of(target, work, recorder, STAGES)
        assert all("forward" in parts for parts in stages.values())
        for detail in target.details or (None,):
            inside = parts_of(target, work, recorder, detail)
            assert inside["decode"] > {"sample"}
            assert len(recorder.steps("decode").step_ns) == 4
        target.check_state(work)


def test_a_shorter_work_is_the_beginning_of_the_longer(target: Target) -> None:
    """With its draws: the same seed, and columns of its own where the longer one was replayed before."""
    work, recorder = target.record(PROMPT_BT, 6, DRAWN), Recorder(FakeClock(tick_ns=1))
    target.replay(work, recorder, STAGES)
    short = work.shortened(2)
    assert short.trace.chosen_BN.tolist() == work.trace.chosen_BN[:, :2].tolist()
    assert target.replay(short, recorder, STAGES) == 0
    assert (len(recorder.steps("decode").step_ns), short.positions) == (1, 9)
    assert target.replay(work, recorder, STAGES) == 0


def test_another_seed_draws_others(target: Target) -> None:
    """The seed is the sampler's."""
    drawn = [target.record(PROMPT_BT, 8, replace(DRAWN, seed=seed)).trace.chosen_BN.tolist() for seed in (3, 3, 4)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_choice_that_differs_is_counted(target: Target) -> None:
    """A trace that the model did not choose itself: one other token in each row."""
    work = target.record(PROMPT_BT, 4)
    work.trace.chosen_BN[:, -1] += 1
    assert target.replay(work, Recorder(FakeClock(tick_ns=1)), STAGES) == 2


def test_a_state_that_was_moved_is_told(target: Target) -> None:
    """Of the NumPy decoder its cache, of torch its generator."""
    work = target.record(PROMPT_BT, 3)
    target.replay(work, Recorder(FakeClock(tick_ns=1)), PLAIN)
    target.check_state(work)
    if target.backend == "numpy":
        made: Any = target
        made.loop_of(work).cache.rollback(1)
        with pytest.raises(InvalidMeasurement, match="KV cache holds 9 positions after the last pass, not 10"):
            target.check_state(work)
        return
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.rand(1)
        with pytest.raises(InvalidMeasurement, match="random generator is not as it was"):
            target.check_state(work)
    target.check_state(work)


def test_one_loop_serves_all_lengths(tiny_llama: Path) -> None:
    """The largest so far: a shorter call runs in its cache, a longer one gets a larger, other draws another."""
    target: Any = open_model(str(tiny_llama), backend="numpy")
    first = target.record(PROMPT_BT, 4)
    assert target.loop_of(first.shortened(2)) is target.loop_of(first)
    longer = target.record(PROMPT_BT, 9)
    assert target.loop_of(first) is target.loop_of(longer)
    assert target.loop_of(longer).cache.capacity == 16
    assert target.loop_of(target.record(PROMPT_BT, 4, DRAWN)) is not target.loop_of(longer)


def test_both_backends_compute_the_same_logits(target: Target, tiny_llama: Path) -> None:
    """After each token, in float64."""
    expected = open_model(str(tiny_llama), backend="numpy").logits(PROMPT_BT[0])
    found = target.logits(PROMPT_BT[0])
    assert (found.dtype, found.shape) == (np.float64, (8, 260))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_what_does_not_fit_is_told_with_what_would(target: Target) -> None:
    """Into the context of 64, and into memory."""
    target.check_fits(60, 5)
    with pytest.raises(InputError, match=r"a prompt of 60 and 6 new tokens overflow .*; at most 5 new tokens fit"):
        target.check_fits(60, 6)
    with pytest.raises(InputError, match="a prompt of 65 tokens is longer than the model's context of 64"):
        target.check_fits(65, 1)
    target.check_memory(8, 4, 2)
    with pytest.raises(InputError, match="a prefill of 2 x 100,000,000,000 tokens needs"):
        target.check_memory(100_000_000_000, 4, 2)


def test_a_detail_that_is_not_there_is_refused(target: Target) -> None:
    """The usual one where none was asked for."""
    assert target.checked_detail(None) == ("modules" if target.backend == "torch" else None)
    if target.backend == "torch":
        assert target.checked_detail("layers") == "layers"
    else:
        with pytest.raises(InputError, match="--detail goes with transformers models; tiny always shows every part"):
            target.checked_detail("layers")
