"""A part against the context: the picture's points and the table's time in place are one quantity."""

import numpy as np
import pytest

from perstep.experiments.ablation.findings import AblationFindings, analyse
from perstep.experiments.ablation.samples import InPlace, Sample
from perstep.experiments.ablation.show import tables
from perstep.experiments.generate.show import growth_csv
from perstep.machine import NoiseProbe
from perstep.runs import Manifest

from ...conftest import facts

STEPS = 8


def _findings(burst_ns: int) -> tuple[Manifest, AblationFindings]:
    """24 rounds of a part that takes 1 ms a step, plus a burst in one step of each round, another one each time."""
    probe = NoiseProbe()
    probe.start()
    noise = probe.stop()
    rng = np.random.default_rng(3)
    samples = []
    for number in range(24):
        part = np.full(STEPS, 1_000_000, np.int64) + rng.integers(0, 1000, STEPS)
        part[number % STEPS] += burst_ns
        marked = InPlace(int(part.sum()) + STEPS * 500_000, part + 500_000, {"logits/word": part})
        bare = InPlace(STEPS * 500_000, np.full(STEPS, 500_000, np.int64), {})
        samples.append(
            Sample(
                round=number,
                ns={"all": marked.call_ns, "none": bare.call_ns},
                unsteady={"all": 0, "none": 0},
                in_place={"all": marked, "none": bare},
                noise=noise,
            )
        )
    changed = {
        "parts": {"word": "processor"}, "in_ledger": {"word": "logits/word"}, "turns_per_round": 1, "calls": 1,
        "steps_per_pass": STEPS, "forwards": {"all": STEPS, "none": STEPS}, "choices": STEPS, "syncs_per_step": {},
        "changed_choices": {"none": 0}, "context": list(range(10, 10 + STEPS)), "notes": [],
    }  # fmt: skip
    conditions = facts("generate", "conditions", **changed)
    manifest = Manifest(experiment="generate", plan={}, model={"name": "made up"}, conditions=conditions)
    return manifest, analyse(manifest, samples)


def test_points_at_single_contexts_add_up_to_the_time_in_place() -> None:
    """A burst of 12 ms in every eighth step is in no median of a single context, and in the part's mean: 2.5 ms."""
    manifest, found = _findings(12_000_000)
    part = found.parts["word"]
    assert part.in_place.estimate == pytest.approx(2.5e6, rel=0.01)
    assert np.mean(part.growth.ns) == pytest.approx(part.in_place.estimate)
    assert part.growth.scale_factor == pytest.approx(2.5, rel=0.01)
    drawn = [float(line.split(",")[3]) for line in growth_csv(found).splitlines() if line.startswith("in place")]
    assert np.mean(drawn) == pytest.approx(part.in_place.estimate)
    notes = " ".join(tables(manifest, found)[1].notes)
    assert "were 40 % of the time in place. They are multiplied by 2.50" in notes


def test_a_quiet_part_is_shown_as_it_was_seen() -> None:
    """Without bursts the factor is 1, and nothing is said of it."""
    manifest, found = _findings(0)
    assert found.parts["word"].growth.scale_factor == pytest.approx(1, abs=0.001)
    assert "disturbed" not in " ".join(tables(manifest, found)[1].notes)
