"""What `torch.compile` does in watched calls: dynamo's own records, and sentences about them."""

import sys
from typing import Any

import pytest

from perstep.measure import FakeClock
from perstep.targets.transformers import Compilations
from perstep.watching.compiled import Break, Compiled, compiled_sentences
from perstep.watching.session import Watch

pytestmark = [
    pytest.mark.hf,
    pytest.mark.skipif(sys.gettrace() is not None, reason="another tool takes the line events"),
]
torch = pytest.importorskip("torch")


def test_recompilations_are_told_with_steps_reason_and_limit() -> None:
    """A text that grows is compiled anew at each step, until dynamo gives up; a print breaks the graph."""
    clock = FakeClock()

    def forward(ids: Any) -> Any:
        doubled = ids * 2
        print(end="")
        return doubled + 1

    torch._dynamo.reset()
    try:
        with torch.no_grad(), Watch(clock=clock, loops=True) as w:
            compiled = torch.compile(forward, backend="eager", dynamic=False, recompile_limit=3)
            for length in range(4, 12):
                compiled(torch.ones(1, length, dtype=torch.int64))
                clock.advance(1_000_000)
    finally:
        torch._dynamo.reset()
    [sample] = w.samples
    own = [one for one in sample.compilations if one.function.startswith("forward (watching/test_compiled.py:")]
    assert [(one.step, one.gave_up) for one in own] == [(0, False), (1, False), (2, False), (2, True)]
    assert all(one.ns > 0 for one in own)
    assert ["size mismatch at index 1" in one.reason for one in own] == [False, True, True, True]
    assert {one.place for one in sample.breaks} == {f"watching/test_compiled.py:{forward.__code__.co_firstlineno + 2}"}
    text = str(w)
    assert "3 times, in the prefill and decode steps 1 to 2: " in text
    assert "expected 6, actual 7. The limit of recompilations was reached: from then on it runs uncompiled." in text
    assert "Compiled code falls back to Python (graph break) at watching/test_compiled.py:" in text


def test_nothing_is_read_where_nothing_was_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without dynamo there is neither a callback nor a record; `end` may come twice."""
    monkeypatch.delitem(sys.modules, "torch._dynamo.utils", raising=False)
    compilations = Compilations()
    compilations.begin(lambda: 0)
    assert compilations.end() == compilations.end() == ([], [])


def test_what_another_call_compiled_is_none_of_this_one() -> None:
    """Records from before `begin` and after `end` are left out, and no callback stays."""
    import torch._dynamo.callback

    torch._dynamo.reset()
    compiled = torch.compile(lambda x: x + 1, backend="eager", dynamic=False)
    compiled(torch.ones(2))
    before = list(torch._dynamo.callback.callback_handler.start_callbacks)
    compilations = Compilations()
    compilations.begin(lambda: 7)
    compiled(torch.ones(3))
    found, breaks = compilations.end()
    compiled(torch.ones(4))
    torch._dynamo.reset()
    assert [one.step for one in found] == [7]
    assert breaks == []
    assert before == torch._dynamo.callback.callback_handler.start_callbacks


@pytest.mark.parametrize(
    ("compiled", "breaks", "said"),
    [
        ([], {}, []),
        (
            [Compiled(function="f (a.py:1)", times=1, steps=[0], ns=2_000_000, reasons=[], gave_up=False)],
            {},
            ["torch.compile compiled f (a.py:1) 1 time, in the prefill: 2.00 ms."],
        ),
        (
            [],
            {"a.py:3": Break(count=2, reason="print"), "a.py:9": Break(count=5, reason="item")},
            ["Compiled code falls back to Python (graph break) at a.py:9 (item); a.py:3 (print)."],
        ),
    ],
)
def test_sentences(compiled: list[Compiled], breaks: dict[str, Break], said: list[str]) -> None:
    """The most frequent break comes first."""
    assert compiled_sentences(compiled, breaks) == said
