"""A JSON schema as a table of tokens, and a text that it allows: `python examples/schema.py`; no torch.

The vocabulary is the 256 bytes. With a tokenizer it is `Vocabulary.from_tokenizer(tokenizer)`, and in
generate it goes as `logits_processor=[perstep.fast.TokenMask(table)]`.
"""

import json

import numpy as np

from perstep import automata

SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "Lima"]}, "degrees": {"type": "integer", "minimum": -50, "maximum": 50}},
    "required": ["city", "degrees"],
    "additionalProperties": False,
}
END = 256


def draw(seed: int) -> str:
    """A text drawn among the allowed tokens alone."""
    vocabulary = automata.Vocabulary([*(bytes([byte]) for byte in range(256)), b""], special_ids=(END,), eos_ids=(END,))
    table = automata.compile(automata.json_schema(SCHEMA), vocabulary)
    rng, state, text = np.random.default_rng(seed), table.start, bytearray()
    while True:
        token = int(rng.choice(table.allowed(state)))
        if token == END:
            return text.decode()
        text.append(token)
        state = table.next(state, token)


if __name__ == "__main__":
    for seed in range(3):
        print(json.loads(draw(seed)))
