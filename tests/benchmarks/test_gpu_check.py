"""The script that checks a GPU, as far as a machine without one can run it."""

import importlib.util
import json
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytestmark = pytest.mark.hf
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu_check.py"


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("gpu_check", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["gpu_check"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["gpu_check"]


@pytest.fixture
def small(script: ModuleType, tmp_path: Path) -> Any:
    """A subject of two tiny layers on the CPU."""
    config = {
        "model_type": "llama", "vocab_size": 96, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 128,
    }  # fmt: skip
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    return script.Subject(arch=str(path), dtype="float32", device="cpu", budget_s=0.2, new_tokens=8, calls=4)


def test_without_a_gpu_it_says_so_in_one_line(
    script: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And exits with 2, writing nothing."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert script.main(["--date", "2026-11-22", "--out", str(tmp_path / "out.json")]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "gpu_check: no CUDA device is available here; run it on a machine that has one\n"
    assert not (tmp_path / "out.json").exists()


def test_a_check_that_fails_or_would_begin_too_late_is_named(script: ModuleType) -> None:
    """The others run."""
    clock = iter([0.0, 0.0, 1.0, 2.0, 500.0, 501.0])

    def breaks(_subject: Any) -> dict[str, Any]:
        raise RuntimeError("planted")

    checks = {"one": lambda _subject: {"answer": 1}, "two": breaks, "three": breaks}
    found = script.run_checks(list(checks), script.Subject(), checks=checks, now_s=lambda: next(clock))
    assert found["one"] == {"status": "ok", "facts": {"answer": 1}, "seconds": 1.0}
    assert found["two"] == {"status": "failed", "error": "RuntimeError: planted", "seconds": 498.0}
    assert found["three"] == {"status": "left out: no time", "seconds": 0.0}


@pytest.mark.real_clock
def test_every_check_runs_on_a_tiny_model(script: ModuleType, small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the host alone; what it finds is plain values."""
    from perstep.targets.transformers import instrument

    monkeypatch.setattr(instrument, "_anything_compiled", lambda: False)
    monkeypatch.setattr("perstep.experiments.pipeline.check", lambda _report: None)  # a tiny step is mostly marks
    threads = torch.get_num_threads()
    mine = ["ledger_phases", "ledger_modules", "watch_inflation"]
    found = script.run_checks(mine, small)
    torch.set_num_threads(threads)
    assert [(name, each["status"], each.get("error")) for name, each in found.items()] == [
        (name, "ok", None) for name in mine
    ]
    json.dumps(found)
    watched = found["watch_inflation"]["facts"]["phases"]
    assert watched["syncs_by_part"] == {"sync": 1.0}
    assert found["ledger_modules"]["facts"]["decode"]["parts"]["mlp"]["ns_total"] > 0


@pytest.mark.real_clock
def test_the_drop_ins_are_checked_on_the_host_as_well(
    script: ModuleType, small: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the alarm and without a graph, which only a GPU has; the tokens are those of generate all the same."""
    for module in ("api", "session"):
        monkeypatch.setattr(f"perstep.experiments.compare.{module}.call_alarm", lambda _seconds: nullcontext())
    names = ["drop_ins", "drop_ins_overhead", "drop_ins_captured"]
    found = script.run_checks(names, small)
    assert [(name, found[name].get("error")) for name in names] == [(name, None) for name in names]
    assert set(found["drop_ins"]["facts"]) >= {"Utf8", "TokenMask", "TopP", "WordStop", "StopStrings"}
    assert found["drop_ins_captured"]["facts"]["outputs"] == 4
    json.dumps(found)
