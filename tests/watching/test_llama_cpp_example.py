"""`examples/llama_cpp_loop.py`, with a stand-in of the same calls in place of llama-cpp-python."""

import runpy
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

from perstep import Recorder
from perstep.measure import FakeClock

EXAMPLE = Path(__file__).parents[2] / "examples" / "llama_cpp_loop.py"


class StandIn:
    """Counts up from the last token; takes 1 ms for each token it evaluates, 2 ms to sample."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.last = 0

    def reset(self) -> None:
        """Forget."""
        self.last = 0

    def eval(self, tokens: Sequence[int]) -> None:
        """Take tokens in."""
        self.last = tokens[-1]
        self.clock.advance(1_000_000 * len(tokens))

    def sample(self, *, temp: float) -> int:
        """The next number."""
        assert temp == 0.0
        self.clock.advance(2_000_000)
        return self.last + 1

    def token_eos(self) -> int:
        """The token 9 ends a text."""
        return 9

    def detokenize(self, tokens: list[int]) -> bytes:
        """One digit a token."""
        return b"%d" % tokens[0]


def test_the_example_names_the_parts_of_its_steps() -> None:
    """One prefill and a step a token, the one that ends the text included; the same text without a recorder."""
    clock, module = FakeClock(), SimpleNamespace(**runpy.run_path(str(EXAMPLE)))
    with Recorder(clock) as rec:
        text = module.generate(StandIn(clock), [1, 2, 3], 20)
    assert text == b"45678" == module.generate(StandIn(clock), [1, 2, 3], 20)
    assert rec.steps("prefill").parts["eval"].tolist() == [3_000_000]
    assert {name: set(ns.tolist()) for name, ns in rec.steps().parts.items()} == {
        "eval": {1_000_000},
        "sample": {2_000_000},
        "detokenize": {0},
    }
    assert len(rec.steps().step_ns) == 5
    assert "sample           2.000 ms" in module.show(rec)
