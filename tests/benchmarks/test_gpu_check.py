"""The script that checks a GPU, as far as a machine without one can run it."""

import importlib.util
import json
import sys
import time
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
    """The script as a module; what lies beside it is found as when it is run."""
    path = list(sys.path)
    spec = importlib.util.spec_from_file_location("gpu_check", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["gpu_check"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    for name in ("gpu_check", "gpu_check_budgets", "gpu_check_device", "gpu_check_graph"):
        del sys.modules[name]
    sys.path[:] = path


@pytest.fixture
def arch(tmp_path: Path) -> str:
    """Two tiny layers."""
    config = {
        "model_type": "llama", "vocab_size": 96, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 128,
    }  # fmt: skip
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    return str(path)


@pytest.fixture
def small(script: ModuleType, arch: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A subject of two tiny layers on the CPU, calls that are short, and threads as they were afterwards."""
    from perstep.targets.transformers import instrument

    monkeypatch.setattr(instrument, "anything_compiled", lambda: False)
    for module in ("api", "session"):
        monkeypatch.setattr(f"perstep.experiments.compare.{module}.call_alarm", lambda _seconds: nullcontext())
    monkeypatch.setattr(script.Subject, "__init__", _short_subject(script.Subject.__init__))
    monkeypatch.setattr(script.device, "PLAIN_STEPS", 2)
    monkeypatch.setattr(script, "limited", lambda _seconds: nullcontext())  # however busy the machine is
    monkeypatch.setattr(script, "TOTAL_S", 1e9)
    return script.Shared(
        arch=arch, large=arch, dtype="float32", device="cpu", rounds=1, large_rounds=1, new_tokens=3, prompt_tokens=8
    )


def _short_subject(init: Any) -> Any:
    def short(self: Any, **options: Any) -> None:
        init(self, **{**options, "budget_s": 0.2, "new_tokens": 8, "calls": 4})

    return short


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


def test_a_check_that_fails_misses_its_goal_or_would_end_too_late_is_named(script: ModuleType) -> None:
    """The others run; each is told as a JSON line as soon as it is known."""
    clock = iter([0.0, 0.0, 1.0, 2.0, 100.0, 101.0, 101.0, 280.0])

    def breaks(_shared: Any) -> Any:
        raise RuntimeError("planted")

    one = script.Check(lambda _shared: script.Found("1", 2.0, False, {"answer": 1, "long": [1, 2]}), 10.0)
    checks = {"one": one, "two": script.Check(breaks, 10.0), "three": one, "four": one}
    told: list[str] = []
    found = script.run_checks(list(checks), script.Shared(), checks=checks, now_s=lambda: next(clock), tell=told.append)
    assert found["one"] == {
        "status": "missed",
        "goal": "1",
        "figure": 2.0,
        "facts": {"answer": 1, "long": [1, 2]},
        "seconds": 1.0,
    }
    assert found["two"] == {"status": "failed", "error": "RuntimeError: planted", "seconds": 98.0}
    assert found["three"]["seconds"] == 0.0
    assert found["four"] == {"status": "left out: no time", "seconds": 0.0}
    assert [json.loads(line)["check"] for line in told] == list(checks)
    assert json.loads(told[0])["facts"] == {"answer": 1}  # what is longer than a line is in the file


@pytest.mark.real_clock
def test_a_check_that_hangs_is_ended(script: ModuleType) -> None:
    """By its own limit, and the alarm is off afterwards."""
    hangs = script.Check(lambda _shared: time.sleep(30), 0.2)
    began = time.monotonic()
    found = script.run_checks(["hangs"], script.Shared(), checks={"hangs": hangs})
    assert time.monotonic() - began < 20
    assert found["hangs"]["error"] == "TimeoutError: more than its 0.2 s"


def test_the_limits_fit_into_the_time(script: ModuleType) -> None:
    """Cheapest first: what looks into the device comes before what takes a minute."""
    assert script.TOTAL_S < 300
    assert list(script.CHECKS).index("attribution") < list(script.CHECKS).index("ledger_large")


@pytest.mark.real_clock
def test_the_checks_of_the_device_run_on_the_host(script: ModuleType, small: Any) -> None:
    """Where there are no kernels they miss their goals and say what they saw; what they find is plain values."""
    threads = torch.get_num_threads()
    names = [
        "built_there",
        "after_profiling",
        "attribution",
        "ceilings",
        "graph",
        "compiled",
        "ledger",
        "ledger_stream",
        "ledger_large",
    ]
    found = script.run_checks(names, small)
    torch.set_num_threads(threads)
    assert [(name, found[name].get("error")) for name in names] == [(name, None) for name in names]
    assert found["attribution"]["facts"]["kernels"] == 0
    assert found["attribution"]["status"] == "missed"
    assert found["attribution"]["facts"]["rows"] > 100
    assert small.plain_before_ns != 0  # of a tiny model on a busy machine, so that even its sign may be noise
    json.dumps(found)


@pytest.mark.real_clock
def test_the_older_checks_run_on_the_host_as_well(script: ModuleType, small: Any) -> None:
    """Without the alarm and without a graph, which only a GPU has; the tokens are those of generate all the same."""
    threads = torch.get_num_threads()
    names = ["watch_overhead", "drop_ins", "drop_ins_overhead", "drop_ins_captured"]
    found = script.run_checks(names, small)
    torch.set_num_threads(threads)
    assert [(name, found[name]["status"], found[name].get("error")) for name in names] == [
        (name, "ok", None) for name in names
    ]
    assert found["watch_overhead"]["facts"]["phases"]["syncs_by_part"] == {"sync": 1.0}
    assert set(found["drop_ins"]["facts"]) >= {"Utf8", "TokenMask", "TopP", "WordStop", "StopStrings"}
    assert found["drop_ins_captured"]["facts"]["outputs"] == 4
    json.dumps(found)


@pytest.mark.real_clock
def test_the_checks_of_budgets_run_on_the_host(script: ModuleType, small: Any) -> None:
    """Where there is no device `compare` sees no kernels and misses its goal; the others say what they found."""
    threads = torch.get_num_threads()
    names = ["budget_compare", "budget_ops", "budget_mask", "budget_ledger"]
    assert set(script.chosen(["budget"])) == {*names, "budget_selftest"}
    found = script.run_checks([*names, "budget_selftest"], small)
    torch.set_num_threads(threads)
    assert [(name, found[name].get("error")) for name in names] == [(name, None) for name in names]
    assert found["budget_compare"]["status"] == "missed"
    assert set(found["budget_ops"]["facts"]["ways_us"]) == {"mask=rebuild", "mask=cached", "mask=fused"}
    assert found["budget_mask"]["status"] == "missed"
    assert set(found["budget_mask"]["facts"]["step_us"]) == {"mini no mask", "mini table", "mini llguidance"}
    assert "cannot be seen here" in found["budget_selftest"]["error"]
    assert found["budget_ledger"]["facts"]["rounds"] >= 1
    json.dumps(found)


def test_a_name_stands_for_the_checks_that_begin_with_it(
    script: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of captured steps are run only where they are named; one that does not exist is refused by name."""
    assert script.chosen(["decode_graph"]) == list(script.APART)
    assert script.chosen(["graph", "decode_graph_small"]) == ["graph", "decode_graph_small"]
    assert script.chosen(None) == list(script.CHECKS)
    with pytest.raises(SystemExit) as ended:
        script.main(["--date", "2026-11-22", "--only", "decode_grap"])
    assert ended.value.code == 2
    assert "no check is called decode_grap: there are too_large, " in capsys.readouterr().err


@pytest.mark.nightly
@pytest.mark.real_clock
def test_the_checks_of_captured_steps_run_on_the_host(
    script: ModuleType, small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there are no graphs the step runs as it is: the tokens are right, and each figure is one."""
    config = json.loads(Path(small.arch).read_text()) | {"max_position_embeddings": 1024, "vocab_size": 400}
    arch = tmp_path / "long.json"
    arch.write_text(json.dumps(config))
    monkeypatch.setattr(script.graph, "ROUNDS", 1)
    shared = script.Shared(arch=str(arch), large=str(arch), dtype="float32", device="cpu", wide_head=400)
    found = script.run_checks(list(script.APART), shared)
    assert [(name, each.get("error")) for name, each in found.items()] == [(name, None) for name in script.APART]
    assert found["decode_graph_tokens"]["status"] == found["decode_graph_failure"]["status"] == "ok"
    assert found["decode_graph_large"]["facts"]["first_tokens_equal"] == 48
    assert all(isinstance(each["figure"], float) for each in found.values())
    json.dumps(found)
