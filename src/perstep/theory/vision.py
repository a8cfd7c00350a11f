"""Vision-language models, of which this room models the text part: what a decode step runs.

Which `model_type` the text part has, and whose `tie_word_embeddings` counts, as data held to transformers.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Vision:
    """A vision-language `model_type`: what its text part is, and whose `tie_word_embeddings` counts.

    `tied` is the outer default; with `either`, tied is what the outer or the text configuration ties.
    """

    text: str
    tied: bool = False
    either: bool = False


VISION: dict[str, Vision] = {
    "qwen2_vl": Vision("qwen2_vl_text", either=True),
    "qwen2_5_vl": Vision("qwen2_5_vl_text", either=True),
    "qwen3_vl": Vision("qwen3_vl_text"),
    "llava": Vision("llama", either=True),
    "llava_next": Vision("llama"),
    "gemma3": Vision("gemma3_text", tied=True),
    "paligemma": Vision("gemma", tied=True),
    "internvl": Vision("qwen2", tied=True),
    "idefics3": Vision("llama"),
    "smolvlm": Vision("llama"),
    "mistral3": Vision("mistral", tied=True),
    "molmo2": Vision("molmo2_text"),
}
