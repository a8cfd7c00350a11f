"""A decode loop around llama-cpp-python's `eval`, with its parts named: `python examples/llama_cpp_loop.py MODEL.gguf`.

What `perstep.step` and `perstep.part` enclose goes to the recorder that is active, here our own; without one they do
nothing. `rec.mark` would do as well; `part` can be nested and needs no recorder at hand.
"""

import sys
from collections.abc import Sequence
from typing import Protocol

import perstep


class Llama(Protocol):
    """What the loop calls of `llama_cpp.Llama`."""

    def reset(self) -> None:
        """Forget the context."""
        ...

    def eval(self, tokens: Sequence[int]) -> None:
        """Run a forward over tokens that follow the context."""
        ...

    def sample(self, *, temp: float) -> int:
        """Choose the next token."""
        ...

    def token_eos(self) -> int:
        """The token that ends a text."""
        ...

    def detokenize(self, tokens: list[int]) -> bytes:
        """Text of tokens."""
        ...


def generate(llm: Llama, prompt: Sequence[int], new_tokens: int) -> bytes:
    """Decode greedily: one prefill, and a step for each further token."""
    llm.reset()
    tokens, text = list(prompt), b""
    for position in range(new_tokens):
        with perstep.step("decode" if position else "prefill"):
            with perstep.part("eval"):
                llm.eval(tokens)
            with perstep.part("sample"):
                tokens = [llm.sample(temp=0.0)]
            if tokens[0] == llm.token_eos():
                break
            with perstep.part("detokenize"):
                text += llm.detokenize(tokens)
    return text


def show(recorder: perstep.Recorder) -> str:
    """The mean decode step, part by part, in ms."""
    steps = recorder.steps()
    parts = {**steps.parts, "residual": steps.residual_ns, "step": steps.step_ns}
    return "\n".join(f"{name:<12}{ns.mean() / 1e6:10.3f} ms" for name, ns in parts.items())


def main(path: str) -> None:
    """Load a model and generate 64 tokens."""
    from llama_cpp import Llama as Model  # pip install llama-cpp-python

    llm = Model(model_path=path, verbose=False)
    with perstep.Recorder() as recorder:
        text = generate(llm, llm.tokenize(b"One day"), 64).decode(errors="replace")
    sys.stdout.write(f"{text}\n\n{show(recorder)}\n")


if __name__ == "__main__":
    main(sys.argv[1])
