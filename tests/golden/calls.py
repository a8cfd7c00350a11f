"""Two generate calls of a tiny model with slow pieces, as `perstep watch` and `perstep fix` see them."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM, LogitsProcessorList, TopPLogitsWarper

torch.manual_seed(0)
shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
config = AutoConfig.for_model("llama", vocab_size=64, num_key_value_heads=2, pad_token_id=0, **shape)
model = AutoModelForCausalLM.from_config(config).eval()
model.generation_config.eos_token_id = None
ids = torch.arange(3, 11).reshape(1, 8)
for _ in range(3):
    model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=24,
        do_sample=False,
        logits_processor=LogitsProcessorList([TopPLogitsWarper(0.9)]),
    )
