"""Is one function faster than another? `python examples/compare_callables.py` needs neither torch nor a model."""

import numpy as np

import perstep

scores = np.random.default_rng(0).normal(size=32_000).astype(np.float32)
allowed = np.arange(0, 32_000, 800)


def whole() -> int:
    """Mask the whole vocabulary, then choose."""
    masked = np.full_like(scores, -np.inf)
    masked[allowed] = scores[allowed]
    return int(masked.argmax())


def few() -> int:
    """Choose among the allowed tokens alone."""
    return int(allowed[scores[allowed].argmax()])


if __name__ == "__main__":
    found = perstep.compare({"whole": whole, "few": few}, check=True, budget_s=2.0)
    print(found)
    few_tokens = found["few"].wall
    print(few_tokens.verdict, few_tokens.change, few_tokens.ci_low, few_tokens.ci_high)
