"""Of a model of which a few layers were kept: its name says so everywhere, and nothing is said of the whole model."""

import csv
import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.text
import pytest

from perstep.experiments import cache, generate, ledger, ops, pipeline
from perstep.experiments.conditions import left_out_layers
from perstep.experiments.knobs import context, depth, experts, output
from perstep.measure import FakeClock
from perstep.runs import read_manifest
from perstep.stored.between import different_work

from ..conftest import Cli

NAME = "tiny, 1 of 3 layers"
SENTENCE = (
    f"{NAME}: only these layers were measured, with the embedding and the head. "
    "The numbers do not describe the whole model."
)
CONFIG = {
    "model_type": "llama", "vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
}  # fmt: skip
SHORT: dict[str, Any] = {"rounds": 2, "prompt_tokens": 6, "new_tokens": 3, "layers": 1}
PLANS: dict[str, Callable[[str], Any]] = {
    "ledger": lambda arch: ledger.Plan(arch=arch, **SHORT),
    "depth": lambda arch: depth.Plan(arch=arch, **SHORT),
    "context": lambda arch: context.Plan(arch=arch, **{**SHORT, "prompt_tokens": (4, 8)}),
    "output": lambda arch: output.Plan(arch=arch, **{**SHORT, "new_tokens": (1, 3)}),
    "cache": lambda arch: cache.Plan(arch=arch, layers=1, rounds=2, context=(4, 8)),
    "ops": lambda arch: ops.Plan(arch=arch, layers=1, rounds=2, seq=(4,)),
    "generate": lambda arch: generate.Plan(arch=arch, **{**SHORT, "processor": ("mine=mine_of_a_test:make",)}),
}


def no_progress(_share: float, _what: str) -> None:
    """Nobody looks."""


def write_arch(folder: Path, **changes: Any) -> str:
    """A config.json in a folder that gives the architecture its name."""
    path = folder / "tiny" / "config.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(CONFIG | changes))
    return str(path)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """All that is written into pictures."""
    texts: list[str] = []
    set_text = matplotlib.text.Text.set_text

    def note(self: Any, text: Any) -> None:
        texts.append(str(text))
        set_text(self, text)

    monkeypatch.setattr(matplotlib.text.Text, "set_text", note)
    return texts


def one_line(text: str) -> str:
    """Without the breaks that a picture's title has."""
    return " ".join(text.split())


@pytest.mark.hf
@pytest.mark.parametrize("name", PLANS)
def test_the_name_says_how_many_layers_there_are_wherever_it_stands(
    name: str, tmp_path: Path, drawn: list[str], monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    """Table, picture, README, headline, `list`; the sentence stands below the first table and on top of the text."""
    monkeypatch.setattr("perstep.experiments.cache.session.measure_resident", lambda _request: ([], "not looked at"))
    monkeypatch.setitem(sys.modules, "mine_of_a_test", SimpleNamespace(make=lambda: lambda _ids, scores: scores))
    folder = Path.cwd() / ".perstep" / "runs" / f"0001-{name}"
    plan = PLANS[name](write_arch(tmp_path))
    report = pipeline.run(name, plan, progress=no_progress, out=folder, clock=FakeClock(tick_ns=1000))
    assert NAME in report.tables[0].title
    assert SENTENCE in report.tables[0].notes
    assert SENTENCE in pipeline.look(folder).tables[0].notes
    text = (folder / "README.md").read_text()
    assert NAME in text.splitlines()[0]
    assert text.splitlines()[2] == f"**{SENTENCE}**"
    assert any(NAME in one_line(words) for words in drawn)
    assert not [words for words in drawn if "tiny" in words and NAME not in one_line(words)]
    assert read_manifest(folder).results_summary["headline"].startswith(f"{NAME}: ")
    assert NAME in cli("list").out


def test_of_several_models_each_is_named_by_itself(tmp_path: Path) -> None:
    """A whole one beside one of which two layers were left out: one sentence, and a headline without the name twice."""
    arch = write_arch(tmp_path)
    other = tmp_path / "whole"
    other.mkdir()
    (other / "config.json").write_text(json.dumps(CONFIG | {"num_hidden_layers": 1}))
    plan = output.Plan(arch=f"{arch},{other / 'config.json'}", **{**SHORT, "new_tokens": (1, 3)})
    report = pipeline.run("output", plan, progress=no_progress, out=tmp_path / "run", clock=FakeClock(tick_ns=1000))
    assert report.manifest.model["name"] == f"{NAME}; whole"
    assert left_out_layers(report.manifest) == [SENTENCE]
    assert report.manifest.results_summary["headline"].count(NAME) == 1


def test_a_refused_comparison_names_the_models(tmp_path: Path) -> None:
    """Not only hashes of configurations; where nothing differs in the work a name is none of it."""
    made = []
    for layers in (None, 1):
        plan = ledger.Plan(arch=write_arch(tmp_path), **{**SHORT, "layers": layers})
        made.append(ledger.prepare(plan, no_progress, FakeClock(tick_ns=1000)).manifest)
    assert different_work(*made)[0] == f"model: tiny → {NAME}"
    assert different_work(made[0], made[0]) == []


@pytest.mark.hf
@pytest.mark.parametrize("name", ["depth", "experts"])
def test_quality_of_random_weights_is_said_to_be_that(name: str, tmp_path: Path, drawn: list[str]) -> None:
    """Below the table, in the picture of quality, in every row of the CSV, in results.json and in the text."""
    if name == "depth":
        plan: Any = depth.Plan(arch=write_arch(tmp_path), quality_tokens=16, **{**SHORT, "layers": 2})
    else:
        mixture = {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}
        arch = write_arch(tmp_path, **mixture)
        plan = experts.Plan(arch=arch, quality_tokens=16, top_k=(1, 2), implementations="eager", **SHORT)
    report = pipeline.run(name, plan, progress=no_progress, out=tmp_path / "run", clock=FakeClock(tick_ns=1000))
    sentence = "The weights are random: KL, agreement and Pareto say nothing of a trained model."
    assert sentence in report.tables[0].notes
    assert all(summary.quality.random_weights for summary in report.findings.summary)
    assert {row["random_weights"] for row in csv.DictReader(io.StringIO(report.csv))} == {"True"}
    assert "**The weights are random**" in (report.folder / "README.md").read_text()
    if name == "depth":
        title = next(words for words in drawn if re.search("worth (its|their) time", words))
        assert one_line(title).endswith(sentence)


def test_quality_of_trained_weights_is_not(tiny_llama: Path, tmp_path: Path) -> None:
    """A stored model."""
    plan = depth.Plan(model=str(tiny_llama), backend="numpy", quality_tokens=16, **{**SHORT, "layers": None})
    report = pipeline.run("depth", plan, progress=no_progress, out=tmp_path / "run", clock=FakeClock(tick_ns=1000))
    assert not any("random" in note for note in report.tables[0].notes)
    assert not any(summary.quality.random_weights for summary in report.findings.summary)
