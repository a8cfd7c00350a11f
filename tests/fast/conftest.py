"""A byte vocabulary with a few longer tokens, tables over it, and tiny models of real architectures."""

import json
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Any

import pytest

from perstep import automata

EOS, OTHER_EOS, WIDTH = 263, 264, 270  # the models' heads are a little wider than the vocabulary
_LONGER = [b'{"', b"verb", b'": "', b'", "', b"tense", b"person", b"spanish", None, None]
_SHAPE = {
    "vocab_size": WIDTH, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512, "eos_token_id": EOS, "pad_token_id": 0,
    "bos_token_id": 1,
}  # fmt: skip


@pytest.fixture(scope="session")
def byte_vocabulary() -> automata.Vocabulary:
    """Every byte, some longer tokens, and two end-of-sequence ids, 263 and 264."""
    tokens = [bytes([byte]) for byte in range(256)] + _LONGER
    return automata.Vocabulary(tokens, eos_ids=[EOS, OTHER_EOS])


@pytest.fixture(scope="session")
def conjugations(byte_vocabulary: automata.Vocabulary) -> automata.TokenTable:
    """The table of the conjugation schema."""
    schema = json.loads((files("perstep") / "data" / "conjugation_schema.json").read_text())
    return automata.compile(automata.json_schema(schema), byte_vocabulary)


@pytest.fixture(scope="session")
def text_of(byte_vocabulary: automata.Vocabulary) -> Callable[[Any], str]:
    """`text_of(ids)`: the text of a row up to its end."""

    def text(ids: Any) -> str:
        spelled = b""
        for token in ids.tolist():
            if token in byte_vocabulary.eos_ids:
                break
            spelled += byte_vocabulary.tokens[token] or b"?"
        return spelled.decode()

    return text


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., Any]:
    """`tiny_model("llama", **config)`: a model with two layers and random weights large enough to disagree."""

    @cache
    def made(architecture: str, changes: tuple[tuple[str, Any], ...]) -> Any:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        shape = {**_SHAPE, **dict(changes)}
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **shape)).eval()
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim > 1:
                    weight.mul_(4)
            bias = model.get_output_embeddings().bias
            if bias is not None:
                bias.normal_()
        return model

    return lambda architecture="llama", **changes: made(architecture, tuple(changes.items()))


@pytest.fixture(scope="session")
def prompts() -> Callable[..., dict[str, Any]]:
    """`prompts(batch)`: ids and a mask that pads some rows on the left."""

    def make(batch: int, length: int = 9, padded: bool = True, seed: int = 0) -> dict[str, Any]:
        import torch

        ids = torch.randint(2, 256, (batch, length), generator=torch.Generator().manual_seed(seed))
        mask = torch.ones_like(ids)
        if padded:
            for row in range(batch):
                mask[row, : row % 4] = 0
        return {"input_ids": ids.masked_fill(mask == 0, 0), "attention_mask": mask}

    return make


@pytest.fixture(scope="session")
def both() -> Callable[..., tuple[Any, Any]]:
    """`both(model, inputs, decode=None, make=..., **options)`: what generate gives by itself, and with our loop."""

    def call(model: Any, inputs: dict[str, Any], decode: Any = None, **options: Any) -> tuple[Any, Any]:
        from perstep import fast

        options = {"do_sample": False, "max_new_tokens": 70, **options}
        make = options.pop("make", list)  # processors keep state, so each way has its own
        plain = model.generate(**inputs, **options, logits_processor=make())
        ours = model.generate(**inputs, **options, logits_processor=make(), custom_generate=decode or fast.decode)
        return plain, ours

    return call
