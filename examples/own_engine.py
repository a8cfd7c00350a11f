"""An engine that is no torch module, with names of its own: `python examples/own_engine.py`.

`perstep.step` and `perstep.part` do nothing where nobody records, so they can stay in the code.
"""

import numpy as np

import perstep

rng = np.random.default_rng(0)
weights = rng.normal(size=(256, 256)).astype(np.float32)
head = rng.normal(size=(256, 4_000)).astype(np.float32)


def decode(new_tokens: int) -> list[int]:
    """A made-up model: the tokens it chooses."""
    hidden, tokens = np.ones(256, np.float32), []
    for _ in range(new_tokens):
        with perstep.step():
            with perstep.part("forward"):
                hidden = np.tanh(weights @ hidden)
            with perstep.part("lm_head"):
                scores = hidden @ head
            with perstep.part("sample"):
                tokens.append(int(scores.argmax()))
    return tokens


if __name__ == "__main__":
    with perstep.Recorder() as recorder:
        decode(200)
    steps = recorder.steps()
    for name, ns in {**steps.parts, "residual": steps.residual_ns}.items():
        print(f"{name:10} {np.median(ns) / 1e3:8.1f} µs")
    assert (sum(steps.parts.values()) + steps.residual_ns == steps.step_ns).all()
