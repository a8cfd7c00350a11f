"""mini's tokenizer: byte-level BPE of exactly 512 entries.

Three special tokens, all 256 bytes (so that any text round-trips), and 253 merges learnt from the
corpus. `tokenizer.json` adds `<bos>` in front when special tokens are asked for, as Llama's does.
`tokenizer_config.json` lets `transformers.AutoTokenizer` load the same file without a network.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

NUM_ENTRIES = 512
PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
SPECIALS = (PAD, BOS, EOS)
PAD_ID, BOS_ID, EOS_ID = range(3)  # the trainer numbers special tokens first, in this order


def train(texts: Iterable[str]) -> Tokenizer:
    """A tokenizer of `NUM_ENTRIES` entries; the same texts give the same tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=NUM_ENTRIES,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, BOS_ID)])
    if tokenizer.get_vocab_size() != NUM_ENTRIES:
        raise ValueError(f"the corpus is too small: {tokenizer.get_vocab_size()} entries, {NUM_ENTRIES} wanted")
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path, max_length: int) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`."""
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": PAD,
        "bos_token": BOS,
        "eos_token": EOS,
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
