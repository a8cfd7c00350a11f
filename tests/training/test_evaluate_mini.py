"""The evaluation script: its windows, its baselines, and what it counts as right."""

import math

import pytest
from tokenizers import Tokenizer

import corpus
from perstep.data import mini_path

pytestmark = pytest.mark.hf
TOKENIZER = Tokenizer.from_file(str(mini_path() / "tokenizer.json"))


@pytest.fixture
def evaluate_mini():
    """The script as a module; it imports torch, which only the hf tests may need."""
    import evaluate_mini

    return evaluate_mini


def test_windows_hold_whole_lines_after_a_bos(evaluate_mini):
    """No line is cut, none is lost, no window is longer than asked."""
    lines = [[10, 11], [12], [13, 14], [15, 16, 17]]
    assert evaluate_mini.windows(lines, 1, 4) == [[1, 10, 11, 12], [1, 13, 14], [1, 15, 16, 17]]


def test_a_model_that_knows_nothing_has_the_uniform_perplexity(evaluate_mini):
    """With all embeddings zero every logit is equal: log 512 nats for each id but the opening `<bos>`."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(mini_path())).eval()
    torch.nn.init.zeros_(model.model.embed_tokens.weight)
    nats = evaluate_mini.heldout_nats(model, [[1, 5, 6, 7], [1, 8]])
    assert nats == pytest.approx(4 * math.log(512))


def test_the_unigram_baseline_sums_to_one_over_the_vocabulary(evaluate_mini):
    """It is a distribution, and a frequent token costs less than one that never occurs."""
    nats = evaluate_mini.unigram_nats(TOKENIZER, corpus.SEED, num_documents=200)
    assert len(nats) == 512
    assert sum(math.exp(-n) for n in nats) == pytest.approx(1)
    assert nats[TOKENIZER.token_to_id("verb")] < nats[TOKENIZER.token_to_id("~")]


def test_only_the_whole_object_counts_as_right(evaluate_mini):
    """A record whose label is another tense than its sentence's is counted wrong."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(mini_path(), local_files_only=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(mini_path(), local_files_only=True)
    past = corpus.Combination("watch", "past_simple", "3sg", 1)
    future = corpus.Combination("watch", "simple_future", "3sg", 1)
    sentence = "She watched the film yesterday."
    records = [corpus.Record(label, sentence, wants_spanish=False) for label in (past, future)]
    assert evaluate_mini.json_right(model, tokenizer, records) == [True, False]


def test_a_folder_without_weights_is_refused(evaluate_mini, tmp_path, capsys):
    """One line that says what to do, exit code 2, nothing written."""
    with pytest.raises(SystemExit) as refused:
        evaluate_mini.main(["--model", str(tmp_path)])
    assert refused.value.code == 2
    assert "train_mini.py --out" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
