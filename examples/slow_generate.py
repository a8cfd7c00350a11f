"""A generate call that is slower than it need be, to be watched: `perstep watch examples/slow_generate.py`.

The model is a small Llama with random weights; nothing is downloaded. Two processors and a criterion go
with the call. One of them checks every token of the vocabulary in Python, at every step: which one is it?
"""

import torch
from transformers import LlamaConfig, LlamaForCausalLM, LogitsProcessor, StoppingCriteria

VOCABULARY = [f"{index:05d}".encode() + bytes([index % 256]) for index in range(8_000)]


class NoRepeats(LogitsProcessor):
    """Forbids the token that came last."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores with -inf at the last token, float [rows, vocabulary]."""
        return scores.scatter(1, input_ids[:, -1:], float("-inf"))


class OnlyUtf8(LogitsProcessor):
    """Forbids tokens whose bytes are not valid UTF-8, asking every one of them again at every step."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Scores with -inf at tokens that are not valid, float [rows, vocabulary]."""
        allowed = torch.tensor([_is_utf8(token) for token in VOCABULARY])
        return scores.masked_fill(~allowed, float("-inf"))


class StopAtNewline(StoppingCriteria):
    """Stops when what was written so far, decoded anew at every step, ends with a newline."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: object) -> torch.Tensor:  # noqa: ARG002
        """Whether each row has ended, bool [rows]."""
        texts = [b"".join(VOCABULARY[token] for token in row) for row in input_ids.tolist()]
        return torch.tensor([text.endswith(b"\n") for text in texts])


def _is_utf8(token: bytes) -> bool:
    try:
        token.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def main() -> None:
    """Generate 96 tokens for two prompts."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        eos_token_id=None,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config).eval()
    tokens = model.generate(
        torch.arange(1, 17).reshape(2, 8),
        max_new_tokens=96,
        do_sample=False,
        logits_processor=[NoRepeats(), OnlyUtf8()],
        stopping_criteria=[StopAtNewline()],
    )
    print(f"generated {tokens.shape[1] - 8} tokens for {tokens.shape[0]} prompts")


if __name__ == "__main__":
    main()
