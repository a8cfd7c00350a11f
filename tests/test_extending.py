"""What `docs/extending.md` shows is run as it stands there: a fifth knob, a mask engine, a drop-in, a target."""

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perstep.automata import Vocabulary, engines
from perstep.automata.engines import EngineKind, Grammar
from perstep.errors import InputError
from perstep.experiments import cache, ledger, pipeline, registry
from perstep.experiments.knobs import context, experts, output
from perstep.measure import FakeClock
from perstep.targets import opening

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
FILE = re.compile(r"<!-- file: (?P<name>\S+) -->\n```\w+\n(?P<text>.*?)```\n", re.DOTALL)


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The files of the page in a folder from which they can be imported."""
    found = FILE.findall(PAGE.read_text(encoding="utf-8"))
    assert len(found) == 8
    for name, text in found:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.split(".")[0] in ("batch", "rows_engine", "forbid", "counting"):
            del sys.modules[name]


def test_the_fifth_knob_measures_and_reports(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every batch has its decode step and interval, and `report` makes the same files again."""
    monkeypatch.setitem(registry.EXPERIMENTS, "batch", "batch")
    batch: Any = importlib.import_module("batch")
    assert set(importlib.import_module("perstep.experiments.knobs.output").__all__) <= set(batch.__all__)
    plan = batch.Plan(model="mini", prompt_tokens=4, new_tokens=3, batches=(1, 3), rounds=20)
    run = tmp_path / "run"
    report = pipeline.run("batch", plan, progress=lambda _share, _what: None, out=run, clock=FakeClock(tick_ns=1_000))
    assert [(s.knob, s.decode_step_ms is not None) for s in report.findings.summary] == [(1.0, True), (3.0, True)]
    assert [row[0] for row in report.tables[0].rows] == ["1", "3"]
    files = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    assert {"batch.png", "batch.csv", "README.md", "results.json"} <= files.keys()
    pipeline.rebuild(run)
    assert {name: (run / name).read_bytes() for name in files} == files


@pytest.mark.usefixtures("written")
def test_the_engine_agrees_with_the_naive_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Token by token along a text, and it refuses what the grammar does not allow."""
    monkeypatch.setitem(sys.modules, "perstep.automata.engines.rows_engine", importlib.import_module("rows_engine"))
    monkeypatch.setitem(engines.ENGINES, "rows", EngineKind("rows_engine"))
    vocabulary = Vocabulary([bytes([byte]) for byte in range(256)] + [b""], eos_ids=[256])
    grammar = Grammar({"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]})
    ours, naive = (engines.prepare(name, vocabulary).build(grammar) for name in ("rows", "naive"))
    for token in b'{"a": true}':
        assert np.array_equal(ours.fill(), naive.fill())
        assert ours.accept(token)
        assert naive.accept(token)
    assert np.array_equal(ours.fill(), naive.fill())
    assert ours.accept(256)
    assert ours.is_terminated()
    assert not ours.fork().accept(ord("x"))


@pytest.mark.hf
@pytest.mark.usefixtures("written")
def test_the_drop_in_is_what_it_replaces() -> None:
    """Bit for bit, leaving its scores alone; the nearest wrong neighbour differs."""
    torch = pytest.importorskip("torch")
    from transformers import SuppressTokensLogitsProcessor

    forbid: Any = importlib.import_module("forbid")
    ids, scores = torch.zeros(2, 3, dtype=torch.int64), torch.randn(2, 16)
    given = scores.clone()
    wanted = SuppressTokensLogitsProcessor([5], device="cpu")(ids, scores)
    assert torch.equal(forbid.Forbid(5)(ids, scores), wanted)
    assert torch.equal(scores, given)
    assert not torch.equal(forbid.Forbid(6)(ids, scores), wanted)


@pytest.mark.usefixtures("written")
def test_every_experiment_of_passes_measures_the_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its parts in a ledger that adds up, its stages in knobs; what it cannot do is refused in a line."""
    monkeypatch.setitem(opening.BACKENDS, "counting", "counting")
    named: Any = {"model": "any", "backend": "counting", "rounds": 20}
    clock, counting = FakeClock(tick_ns=1_000), importlib.import_module("counting")
    decode = counting.CountingLoop.decode

    def slow(*args: Any) -> Any:
        clock.advance(97_000)
        return decode(*args)

    monkeypatch.setattr(counting.CountingLoop, "decode", slow)

    def nobody(_share: float, _what: str) -> None:
        """Nobody looks."""

    def run(name: str, plan: Any) -> Any:
        report = pipeline.run(name, plan, progress=nobody, out=tmp_path / name, clock=clock)
        pipeline.rebuild(report.folder)
        return report

    report = run("ledger", ledger.Plan(**named, prompt_tokens=4, new_tokens=5))
    found = report.findings.decode
    assert {name: part.ns for name, part in found.parts.items()} == {"add": 1_000, "wrap": 1_000}
    assert (found.step_ns, found.residual_ns) == (100_000, 98_000)
    assert report.findings.invalid == ""
    assert report.manifest.boundaries == {"add": "one more", "wrap": "back to 0 behind the last token"}
    lengths = run("output", output.Plan(**named, prompt_tokens=4, new_tokens=(2, 4))).findings
    assert [(s.knob, s.decode_step_ms) for s in lengths.summary] == [(2.0, 0.1), (4.0, 0.1)]
    prompts = run("context", context.Plan(**named, prompt_tokens=(2, 8), new_tokens=2)).findings
    assert [(s.knob, s.prefill_ms) for s in prompts.summary] == [(2.0, 0.001), (8.0, 0.001)]
    with pytest.raises(InputError, match="any has no KV cache that can be put back"):
        cache.prepare(cache.Plan(**named), nobody, FakeClock())
    with pytest.raises(InputError, match="any is a dense model"):
        experts.prepare(experts.Plan(**named), nobody, FakeClock())
    with pytest.raises(InputError, match="any is a text model"):
        context.prepare(context.Plan(**named, images=(1,)), nobody, FakeClock())
    with pytest.raises(InputError, match="any has no tokenizer"):
        ledger.prepare(ledger.Plan(**named, prompt="a"), nobody, FakeClock())
