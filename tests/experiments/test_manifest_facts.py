"""What a stored manifest must hold: a field that is missing or of another type is told by its name, in one line."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from perstep.experiments import registry
from perstep.experiments.conditions import Model
from perstep.runs import MANIFEST

from ..conftest import Cli, Said

GOLDEN = Path(__file__).parents[1] / "golden"
NO_TYPE_OF_A_FIELD = [[[[None]]]]


def required(name: str) -> Iterator[tuple[str, str]]:
    """Each fact that an experiment's manifest must hold: the field of the manifest, and the fact's name."""
    experiment = registry.find(name)
    for kind in (experiment.Conditions, experiment.Workload, getattr(experiment, "Model", Model)):
        yield from ((kind.section, fact.name) for fact in msgspec.structs.fields(kind) if fact.required)


def refusal(said: Said) -> str:
    """The one line of a command that read bad input."""
    assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
    return said.err


@pytest.mark.parametrize("command", ["show", "report"])
@pytest.mark.parametrize("name", registry.EXPERIMENTS)
def test_each_fact_is_missed_by_its_name(command: str, name: str, cli: Cli, tmp_path: Path) -> None:
    """Before the samples are read, of which this run has none."""
    stored = json.loads((GOLDEN / name / MANIFEST).read_text())
    path = tmp_path / "run" / MANIFEST
    path.parent.mkdir()

    def reads(field: str, held: dict[str, Any]) -> str:
        path.write_text(json.dumps(stored | {field: held}))
        return refusal(cli(command, path.parent))

    for field, fact in required(name):
        held = stored[field]
        lacking = {key: value for key, value in held.items() if key != fact}
        assert f"{path} lacks {field}.{fact}; restore it, or measure again" in reads(field, lacking)
        spoilt = reads(field, held | {fact: NO_TYPE_OF_A_FIELD})
        assert f"{path} is wrong in {field}.{fact}" in spoilt
        assert "expected `" in spoilt


def test_facts_below_a_fact_are_named_with_their_path(cli: Cli, tmp_path: Path) -> None:
    """How the warm-up ended is a fact of several."""
    stored = json.loads((GOLDEN / "ledger" / MANIFEST).read_text())
    del stored["conditions"]["warm_up"]["steady"]
    (tmp_path / MANIFEST).write_text(json.dumps(stored))
    assert f"{tmp_path / MANIFEST} lacks conditions.warm_up.steady; " in refusal(cli("show", tmp_path))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.nightly if name != "ledger" else ()) for name in registry.EXPERIMENTS]
)
def test_each_field_is_missed_by_its_name(name: str, cli: Cli, tmp_path: Path) -> None:
    """What cannot be shown without it is refused, the rest comes with a note; a value of another type is refused."""
    run = shutil.copytree(GOLDEN / name, tmp_path / "run")
    stored = json.loads((run / MANIFEST).read_text())

    def reads(held: dict[str, Any]) -> Said:
        (run / MANIFEST).write_text(json.dumps(held))
        return cli("show", run)

    for field in stored:
        said = reads({key: value for key, value in stored.items() if key != field})
        assert said.code in (0, 2), (field, said)
        assert re.search(rf"manifest.*\b{field}\b", said.err), (field, said)
        assert re.search(
            rf"{MANIFEST} is (not a manifest:|wrong in) .*\b{field}\b",
            refusal(reads(stored | {field: NO_TYPE_OF_A_FIELD})),
        )
