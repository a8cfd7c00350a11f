"""The training script: its rows, its schedule, its determinism, and the folder it puts in place."""

import itertools

import pytest

import bpe
import corpus
from perstep.data import mini_path

pytestmark = pytest.mark.hf


@pytest.fixture
def train_mini():
    """The script as a module; it imports torch, which only the hf tests may need."""
    import train_mini

    return train_mini


@pytest.fixture(scope="module")
def tokenizer():
    """A tokenizer of the corpus's first 300 documents."""
    return bpe.train(itertools.islice(corpus.documents(corpus.SEED), 300))


def test_rows_start_where_a_document_starts(train_mini):
    """Documents are packed whole, only the last of a row is cut, and its rest is not carried over."""
    documents = iter([[1, 10, 11, 2], [1, 20, 21, 22, 2], [1, 30, 2], [1, 40, 41, 2]])
    packed = list(itertools.islice(train_mini.rows(documents, 6), 2))
    assert packed == [[1, 10, 11, 2, 1, 20], [1, 30, 2, 1, 40, 41]]


def test_batches_hold_the_same_tokens_in_short_and_in_long_rows(train_mini, tokenizer):
    """Seven steps of short rows, then one of rows as long as the model has positions; one id more each."""
    shapes = [tuple(ids.shape) for ids in itertools.islice(train_mini.batches(tokenizer, 0), 8)]
    assert shapes == [(32, 257)] * 7 + [(4, 2049)]


def test_the_learning_rate_warms_up_and_falls_to_a_hundredth(train_mini):
    """It peaks once, after the warm-up, and ends at 1 %."""
    rates = [train_mini.learning_rate(step, 1000) for step in range(1001)]
    peak = train_mini.WARMUP_STEPS
    assert rates[peak] == pytest.approx(train_mini.PEAK_LR) == max(rates)
    assert rates[: peak - 1] == sorted(rates[: peak - 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[-1] == pytest.approx(train_mini.PEAK_LR / 100)


def test_two_trainings_from_one_seed_give_the_same_weights(train_mini, tokenizer, monkeypatch):
    """Bit for bit; another seed gives others."""
    import torch

    monkeypatch.setattr(train_mini, "TOKENS_PER_STEP", 512)

    def weights(seed):
        return train_mini.train(tokenizer, steps=3, seed=seed)[0].model.embed_tokens.weight

    was_deterministic = torch.are_deterministic_algorithms_enabled()
    try:
        first, again, other = weights(1), weights(1), weights(2)
    finally:
        torch.use_deterministic_algorithms(was_deterministic)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_saved_folder_loads_with_the_weights_it_was_saved_from(train_mini, tokenizer, tmp_path):
    """The tied head is not in the file and is there after loading."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(LlamaConfig(**train_mini.CONFIG)).eval()
    train_mini.save(model, tokenizer, tmp_path, seed=1)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, local_files_only=True).eval()
    ids = torch.arange(64)[None]
    with torch.inference_mode():
        assert torch.equal(model(ids).logits, loaded(ids).logits)
    assert loaded.generation_config.eos_token_id == bpe.EOS_ID


def test_a_folder_is_replaced_whole(train_mini, tmp_path):
    """What was in the old folder and is not in the new one is gone."""
    old, new = tmp_path / "mini", tmp_path / "staging" / "mini"
    for folder, name in ((old, "old.txt"), (new, "new.txt")):
        folder.mkdir(parents=True)
        (folder / name).touch()
    train_mini.replace_folder(new, old)
    assert [path.name for path in old.iterdir()] == ["new.txt"]
    assert not list((tmp_path / "staging").iterdir())


def test_out_must_be_new_or_a_model_folder(train_mini, tmp_path, capsys):
    """Some other existing folder is refused before any work, with exit code 2, and stays as it is."""
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(SystemExit) as refused:
        train_mini.parse(["--out", str(tmp_path)])
    assert refused.value.code == 2
    assert "is no model folder" in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").exists()
    assert train_mini.parse(["--out", str(mini_path())]).out == mini_path()
    assert train_mini.parse(["--out", str(tmp_path / "new")]).steps == train_mini.DEFAULT_STEPS
