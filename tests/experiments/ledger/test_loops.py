"""`ledger --loop`: decode loops as arms of one run, each one's first call apart."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from perstep.errors import InputError
from perstep.experiments.ledger import Plan
from perstep.experiments.ledger.loops import measure, show
from perstep.experiments.ledger.loops.measure import measure_loops, pays_after
from perstep.experiments.ledger.loops.options import LoopOptions, chosen
from perstep.measure import FakeClock
from perstep.report import to_text

pytestmark = pytest.mark.hf


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


def test_a_loop_has_paid_for_itself_after_what_it_does_once_over_what_a_token_saves() -> None:
    """60 ms once, 24 ms a token, 75 % less: 3.3 tokens, so four; one that saves nothing never has."""
    assert pays_after(60e6, 24e6, -0.75) == 4
    assert pays_after(-1e6, 24e6, -0.75) == 0
    assert pays_after(60e6, 24e6, 0.0) is None


class _Calls(measure._Calls):
    """Calls that take known times: 1 s and 0.1 s a call of generate, 3 s and 0.05 s of the other loop."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.arms = {name: self._slowed(name, arm) for name, arm in self.arms.items()}

    def _slowed(self, name: str, arm: Any) -> Any:
        takes, made = {"generate": [1.0, 0.1], "fast.decode": [3.0, 0.05]}[name], []

        def call() -> Any:
            made[:] = made or [arm()]
            self.clock.advance(round(takes[0] * 1e9))  # type: ignore[attr-defined]
            takes[:] = takes[-1:]
            return made[0]

        return call


def test_first_calls_stand_apart_from_warm_ones(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a fake clock: what the second loop does once is 2.05 s more, won back by half a call at a time."""
    monkeypatch.setattr(measure, "_Calls", _Calls)
    plan = Plan(arch=arch, prompt_tokens=8, new_tokens=4, rounds=20)
    found = measure_loops(["generate", "fast.decode"], plan, lambda _share, _what: None, FakeClock())
    base, ours = found.arms
    assert (base.first_ns, ours.first_ns) == (10**9, 3 * 10**9)
    assert base.once_ns is base.pays_after is None
    assert (ours.once_ns, ours.ns_per_token, ours.same_tokens) == (2.05e9, 12.5e6, 4)
    assert ours.call.change == pytest.approx(-0.5)
    assert ours.pays_after == ours.pays_low == ours.pays_high == 164
    assert (ours.way, ours.why) == ("host", "")
    shown = to_text(show.table(found))
    assert "164 tokens [164, 164]" in shown
    assert "fast.decode: perstep.fast.decode, as it is by default on this device." in shown
    assert show.csv(found).splitlines()[0].startswith("loop,first_ns,once_ns,ns_per_token,change")
    assert "slots" not in shown
    captured = msgspec.structs.replace(found, arms=[base, msgspec.structs.replace(ours, slots=64)])
    assert "cache has 64 slots for 12 positions" in to_text(show.table(captured))
    assert "fast.Decode(slots=12) has no more than this call needs" in to_text(show.table(captured))


def test_a_loop_that_cannot_run_is_left_out_by_name(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And where only one is left there is nothing to compare."""

    def missing() -> object:
        raise RuntimeError("no compiler\nsecond line")

    monkeypatch.setattr(measure, "_compiled_anywhere", missing)
    monkeypatch.setattr(measure._Calls, "_arm", _late(measure._Calls._arm))
    plan = Plan(arch=arch, prompt_tokens=8, new_tokens=4, rounds=2)
    with pytest.raises(InputError, match=r"fewer than two loops can run: static\+compile: RuntimeError: no compiler$"):
        measure_loops(["generate", "static+compile"], plan, lambda _share, _what: None, FakeClock(tick_ns=1000))


def _late(make: Any) -> Any:
    """An arm that is made when it is first called."""
    return lambda self, name: lambda: make(self, name)()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--loop", "generate,vllm"], "--loop vllm: the loops are generate, fast.decode, static+compile"),
        (["--loop", "generate,generate"], "--loop compares two loops or more"),
        (["--loop", "generate,fast.decode", "--detail", "phases"], "--detail does not go with --loop"),
        (["--loop", "generate,fast.decode", "--temperature", "1"], "--temperature does not go with --loop"),
        (["--loop", "generate,fast.decode", "-n", "1"], "--new-tokens 1: a decode loop needs at least 2"),
        (["--loop", "generate,fast.decode", "--tag", "x"], "--tag does not go with --loop"),
        (["--loop", "generate,fast.decode", "--resume"], "--resume does not go with --loop"),
        (["--loop", "generate,fast.decode", "--trace", "x.json"], "--loop does not go with --trace"),
        (["--loop", "generate,fast.decode", "-m", "mini"], "--loop is about loops of transformers models"),
    ],
)
def test_what_does_not_go_with_loops_is_refused(options: list[str], why: str, cli: Any) -> None:
    """In one line, before anything is measured."""
    said = cli("ledger", "-q", *options)
    assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert why in said.err


def test_loops_are_compared_once_each() -> None:
    """In the order in which they are given."""
    assert chosen(LoopOptions(loop="fast.decode, generate,fast.decode"), Plan()) == ["fast.decode", "generate"]
