"""A tiny Llama of transformers and a tokenizer of given tokens, for tests that need no others."""

from typing import Any


def small_llama(seed: int = 0, **changes: Any) -> Any:
    """A Llama of two layers, 96 tokens and random weights, whose calls make as many steps as they are asked for.

    Args:
        seed: of the weights.
        changes: of its configuration.
    """
    import torch
    import transformers

    torch.manual_seed(seed)
    usual = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    usual |= {"num_attention_heads": 4, "pad_token_id": 0, "eos_token_id": None}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**usual, **changes})).eval()


def tokenizer_of(pieces: list[bytes], **special: str) -> Any:
    """A byte-level tokenizer with exactly these tokens, and with special ones, which have no text."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    shown = bytes_to_unicode()
    vocab = {"".join(shown[byte] for byte in piece): number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
