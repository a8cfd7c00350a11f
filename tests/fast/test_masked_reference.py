"""`generate_masked` on the reference model chooses what masking all of its logits would choose."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perstep import automata
from perstep.errors import InputError
from perstep.fast import generate_masked, masked_reference
from perstep.targets.reference.load import load
from perstep.targets.reference.model import decode_one_token, prefill
from perstep.targets.reference.sample import GREEDY, Sampler, sample


@pytest.fixture(scope="module")
def model(make_llama: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tiny Llama whose head is wider than the vocabulary."""
    folder: Path = make_llama(tmp_path_factory.mktemp("model") / "m", vocab_size=270, max_position_embeddings=256)
    return load(folder)


def mask_everything(model: Any, prompt: Any, steps: int, tables: list[Any], sampler: Sampler) -> Any:
    """The plain way: one forward a token, all logits, a mask over them, the full-vocabulary sampler."""
    B, T = prompt.shape
    cache = model.new_cache(B, T + steps)
    states, logits, found = [table.start for table in tables], prefill(model, prompt, cache), []
    while len(found) < steps:
        automata.apply(logits, [table.row(state) for table, state in zip(tables, states, strict=True)])
        found.append(sample(logits, sampler, T + len(found)))
        states = [table.next(s, t) for table, s, t in zip(tables, states, found[-1].tolist(), strict=True)]
        if all(state == table.ended for table, state in zip(tables, states, strict=True)):
            break
        logits = decode_one_token(model, found[-1], cache)
    return np.stack(found, axis=1)


SAMPLERS = [GREEDY, Sampler(1.0, seed=4), Sampler(0.7, top_k=5, top_p=0.9, seed=5)]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=["greedy", "sampled", "truncated"])
@pytest.mark.parametrize("lazy", [False, True])
def test_tokens_are_those_of_the_full_mask(
    sampler: Sampler, lazy: bool, model: Any, conjugations: Any, byte_vocabulary: Any
) -> None:
    """One table a row, rows that end at different times, runs of forced tokens among them."""
    other = automata.compile(automata.from_regex(r"\[[a-z]{3}(, [^\"\\]{1,5}){2,4}\]"), byte_vocabulary, lazy=lazy)
    rng = np.random.default_rng(0)
    for tables in ([conjugations], [conjugations, other, conjugations]):
        prompt = rng.integers(0, 256, (len(tables), 7))
        ours = generate_masked(model, prompt, 120, tables, sampler)
        assert ours.ids.tolist() == mask_everything(model, prompt, 120, tables, sampler).tolist()
        assert all(table.accepts(ids) for table, ids in zip(tables, ours.ids.tolist(), strict=True))
        assert ours.forwards <= ours.ids.shape[1]


def test_forced_tokens_take_no_forward_of_their_own(model: Any, byte_vocabulary: Any) -> None:
    """A text with nothing to choose: the prefill, then one chunk for what is not the end."""
    table = automata.compile(automata.json_schema({"const": "xyzxyz"}), byte_vocabulary)
    single = automata.Vocabulary([*byte_vocabulary.tokens[:263], None], eos_ids=[263])
    ended = automata.compile(automata.json_schema({"const": "xyzxyz"}), single)
    found = generate_masked(model, np.ones((1, 3), int), 50, ended)
    assert (found.forwards, found.ids.shape[1]) == (1, 9)
    found = generate_masked(model, np.ones((1, 3), int), 50, table)  # two ends to choose from
    assert (found.forwards, found.ids.shape[1]) == (2, 9)
    assert generate_masked(model, np.ones((1, 3), int), 4, table).ids.shape == (1, 4)


def test_short_runs_of_forced_tokens_are_no_chunk(model: Any, byte_vocabulary: Any, monkeypatch: Any) -> None:
    """On a small model seven tokens go one by one and eight do not; where layers are large four go together."""
    text, forwards = "xyzxyz", []
    for length, large_bytes in ((5, 4 << 20), (6, 4 << 20), (1, 0), (2, 0)):
        monkeypatch.setattr(masked_reference, "LARGE_LAYER_BYTES", large_bytes)
        table = automata.compile(automata.json_schema({"const": text[:length]}), byte_vocabulary)
        forwards.append(generate_masked(model, np.ones((1, 3), int), 50, table).forwards)
    assert forwards == [1 + 7, 1 + 1, 1 + 3, 1 + 1]


def test_near_ties_are_decided_by_the_whole_head(make_llama: Any, tmp_path: Path, byte_vocabulary: Any) -> None:
    """Two tokens of one weight are told apart as the full head tells them: by the lower id."""
    model = load(make_llama(tmp_path / "m", vocab_size=270))
    model.head_DV[:, ord("b")] = model.head_DV[:, ord("a")]
    table = automata.compile(automata.from_regex("[ab]{12}"), byte_vocabulary)
    found = generate_masked(model, np.ones((1, 3), int), 12, table)
    assert bytes(found.ids[0].tolist()) == b"a" * 12
    assert found.near_ties == 12


def test_what_does_not_fit_is_refused(model: Any, conjugations: Any) -> None:
    """Tables for another batch, a vocabulary that is too wide, no end, no tokens."""
    prompt = np.ones((2, 3), int)
    with pytest.raises(InputError, match="3 tables do not fit a batch of 2"):
        generate_masked(model, prompt, 5, [conjugations] * 3)
    with pytest.raises(InputError, match="max_new_tokens"):
        generate_masked(model, prompt, 0, conjugations)
    bytes_alone = [bytes([byte]) for byte in range(256)]
    wide = automata.Vocabulary([*bytes_alone, *([None] * 100)], special_ids=range(256, 356), eos_ids=[300])
    with pytest.raises(InputError, match="over 356 tokens, the model has 270"):
        generate_masked(model, prompt, 5, automata.compile(automata.json_schema({"const": 1}), wide))
    endless = automata.compile(automata.json_schema({"const": 1}), automata.Vocabulary(bytes_alone))
    with pytest.raises(InputError, match="no end-of-sequence id"):
        generate_masked(model, prompt, 5, endless)
