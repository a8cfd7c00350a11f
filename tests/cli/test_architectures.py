"""Eight architectures in `cache`, `depth` and `ledger`: each is measured, or refused in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perstep.experiments.cache.resident import PAGEMAP

pytestmark = [pytest.mark.hf, pytest.mark.real_clock]

ARCHITECTURES = Path(__file__).parents[1] / "architectures"
REFUSED = {
    ("cache", "qwen3next"): "has layers whose state cannot be restored: no KV cache",
    ("cache", "t5"): "encoder-decoder",
    ("depth", "mixtral"): "block 2 is out of range",
    ("depth", "qwen3next"): "none of the active blocks of Qwen3NextForCausalLM is attention",
    ("depth", "t5"): "encoder-decoder",
}
OPTIONS = {
    "cache": ["-c", "4,8"],
    "depth": ["--active-block-indices", "1,2", "-p", "8", "-n", "2"],
    "ledger": ["-p", "8", "-n", "2"],
}


NAMES = sorted(path.stem for path in ARCHITECTURES.glob("*.json"))
OFTEN = {"deepseek", "gemma3", "gqa", "mixtral", "qwen3next", "t5"}
"""Latent, sliding and grouped attention, experts, a recurrent state, an encoder; the others are measured by night."""


@pytest.mark.parametrize("command", OPTIONS)
@pytest.mark.parametrize(
    "name", [name if name in OFTEN else pytest.param(name, marks=pytest.mark.nightly) for name in NAMES]
)
def test_each_is_measured_or_refused_in_one_line(
    cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, command: str
) -> None:
    """A refusal leaves nothing behind; a run's cache is as large as theory says, where theory has a formula.

    One of them is asked in a fresh process as well, which imports transformers: how much of its cache is resident.
    """
    if name != "gqa":
        monkeypatch.setattr("perstep.experiments.cache.session.measure_resident", lambda _plan: ([], "not looked at"))
    out = tmp_path / "run"
    options = ["--arch", str(ARCHITECTURES / f"{name}.json"), "--rounds", "1", "--out", str(out), *OPTIONS[command]]
    made = cli(command, *options)
    why = REFUSED.get((command, name))
    if why is not None:
        lines = [line for line in made.err.splitlines() if line.startswith("perstep:")]
        assert (made.code, len(lines)) == (2, 1)
        assert why in lines[0]
        assert not out.exists()
        return
    assert made.code in (0, 4), made.err  # in one round the marks may cost anything
    results = json.loads((out / "results.json").read_text())
    if command == "cache":
        assert results["memory_max_relative_error_to_theory"] == 0
        if name == "gqa" and PAGEMAP.exists():
            assert all(point["rss_growth_bytes"] for point in results["points"])


def test_windows_are_asked_to_be_longer_than_the_context(cli: Callable[..., Any], tmp_path: Path) -> None:
    """Beyond its window a layer forgets what the cursor would come back to: that is said with what would be right."""
    for name, window in (("gemma3", 64), ("mistral_sw", 128)):
        arch = str(ARCHITECTURES / f"{name}.json")
        made = cli("cache", "--arch", arch, "-c", str(window), "--rounds", "1", "--out", str(tmp_path / name))
        assert made.code == 2
        assert f"give --context up to {window - 2}" in made.err
