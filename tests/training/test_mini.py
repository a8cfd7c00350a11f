"""The shipped model folder: tokenizer, config, size, report, and that it does what it was trained for."""

import json
import random

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors import safe_open
from tokenizers import Tokenizer, pre_tokenizers

import bpe
import corpus
from perstep.data import heldout_path, mini_path

TOKENIZER = Tokenizer.from_file(str(mini_path() / "tokenizer.json"))
CONFIG = json.loads((mini_path() / "config.json").read_text(encoding="utf-8"))
REPORT = json.loads((mini_path() / "report.json").read_text(encoding="utf-8"))


def test_the_tokenizer_has_512_entries_and_every_byte():
    """256 bytes, three special tokens with ids 0, 1, 2, and merges."""
    assert TOKENIZER.get_vocab_size() == 512
    vocabulary = TOKENIZER.get_vocab()
    assert len(pre_tokenizers.ByteLevel.alphabet()) == 256
    assert set(pre_tokenizers.ByteLevel.alphabet()) <= set(vocabulary)
    assert [vocabulary[special] for special in bpe.SPECIALS] == [0, 1, 2]


@given(st.text())
@example("a <bos>b<eos> \x00\r\n  é漢\U0001f600")
def test_any_text_round_trips(text):
    """Encoding then decoding gives back any text, a special token's own spelling included."""
    ids = TOKENIZER.encode(text, add_special_tokens=False).ids
    assert text == TOKENIZER.decode(ids, skip_special_tokens=False)


def test_bos_is_added_when_special_tokens_are_asked_for():
    """As Llama's tokenizer does."""
    plain = TOKENIZER.encode("She walks.", add_special_tokens=False).ids
    assert [1, *plain] == TOKENIZER.encode("She walks.").ids


def test_training_the_tokenizer_again_gives_the_same_one():
    """It follows from the texts alone, has every byte, and refuses a corpus too small for 512 entries."""
    texts = [corpus.heldout_text(seed) for seed in range(3)]
    tokenizer = bpe.train(texts)
    assert tokenizer.to_str() == bpe.train(texts).to_str()
    assert set(pre_tokenizers.ByteLevel.alphabet()) <= set(tokenizer.get_vocab())
    with pytest.raises(ValueError, match="512 wanted"):
        bpe.train(["She walks."])


def test_the_folder_is_at_most_four_megabytes():
    """And holds every file of the standard format."""
    files = {path.name: path.stat().st_size for path in mini_path().iterdir()}
    assert sum(files.values()) <= 4_000_000
    assert set(files) == {
        *("config.json", "generation_config.json", "model.safetensors"),
        *("tokenizer.json", "tokenizer_config.json", "heldout.txt", "report.json"),
    }


def test_config_and_weights_are_one_llama():
    """The shapes in the file are those that the config says; all float32 and finite; the head is tied."""
    expected = {"num_hidden_layers": 4, "hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
    expected |= {"vocab_size": 512, "max_position_embeddings": 2048, "rope_theta": 10000.0, "head_dim": 32}
    expected |= {"rms_norm_eps": 1e-5, "tie_word_embeddings": True, "model_type": "llama"}
    assert expected == {key: CONFIG[key] for key in expected}
    with safe_open(mini_path() / "model.safetensors", framework="numpy") as tensors:
        arrays = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
    assert len(arrays) == 2 + 4 * 9
    assert "lm_head.weight" not in arrays
    assert arrays["model.embed_tokens.weight"].shape == (512, 128)
    assert arrays["model.layers.3.self_attn.k_proj.weight"].shape == (64, 128)
    assert arrays["model.layers.3.mlp.down_proj.weight"].shape == (128, CONFIG["intermediate_size"])
    assert all(a.dtype == np.float32 and np.isfinite(a).all() for a in arrays.values())


def test_the_report_meets_the_target():
    """At least 90 % of held-out objects exactly right, and far below both baselines."""
    evaluation = REPORT["evaluation"]
    assert evaluation["corpus_seed"] == corpus.SEED
    assert evaluation["heldout_sentences"] >= 1_000
    assert evaluation["json_exact_share"] >= 0.9
    perplexity = evaluation["heldout_text"]["perplexity_per_token"]
    assert perplexity["mini_window_2048"] < 2 < perplexity["unigram"] < perplexity["uniform"]
    assert perplexity["uniform"] == pytest.approx(512)


def test_the_shipped_heldout_text_is_the_corpus_s():
    """It can be made again from the seed in the report."""
    assert corpus.heldout_text(REPORT["evaluation"]["corpus_seed"]) == heldout_path().read_text(encoding="utf-8")


@pytest.mark.hf
def test_transformers_loads_the_folder_and_gets_heldout_json_right():
    """AutoTokenizer agrees with `tokenizers`, logits are finite at 2,048 positions, 90 % of 60 objects are right."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    import evaluate_mini

    model = AutoModelForCausalLM.from_pretrained(mini_path(), local_files_only=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(mini_path(), local_files_only=True)
    text = heldout_path().read_text(encoding="utf-8")
    ids = TOKENIZER.encode(text).ids
    assert ids == tokenizer(text, truncation=False, verbose=False)["input_ids"]
    with torch.inference_mode():
        assert model(input_ids=torch.tensor([ids[:2048]])).logits.isfinite().all()
    records = random.Random(0).sample(corpus.heldout_records(corpus.SEED, per_combination=4), 60)
    assert sum(evaluate_mini.json_right(model, tokenizer, records)) >= 54
