"""Finding the target that a person named, and what it is fed."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from perstep.data import heldout_path
from perstep.errors import InputError
from perstep.targets import Target, open_model
from perstep.targets.reference import GREEDY, CacheFull, Sampler, generate, no_mark
from perstep.targets.reference.loop import ReferenceLoop


def opened(name: str) -> Target:
    """By the NumPy decoder."""
    return open_model(name, backend="numpy")


def test_mini_is_the_model_that_ships_with_perstep() -> None:
    """It needs no path and no network; its name in a run is `mini`."""
    target = opened("mini")
    model, described = target.model, target.facts
    assert described["name"] == "mini"
    assert described["backend"] == "numpy"
    assert described["num_parameters"] == model.num_parameters > 0
    assert described["weight_bytes"] == 4 * model.num_parameters


def test_a_folder_is_a_model_of_its_own_name(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By path, by a relative path, by a link; a folder called mini needs a slash."""
    assert opened(str(tiny_llama)).facts["name"] == "tiny"
    assert opened(str(tiny_llama) + "/").facts["name"] == "tiny"
    monkeypatch.chdir(tiny_llama)
    assert opened(".").facts["name"] == "tiny"
    shutil.copytree(tiny_llama, tmp_path / "mini")
    monkeypatch.chdir(tmp_path)
    assert opened("mini").facts["vocab"] != opened("./mini").facts["vocab"] == 260
    assert opened("./mini").facts["max_positions"] == 64


@pytest.mark.parametrize("name", ["missing", "meta-llama/Llama-3.2-1B", "https://example.org/model", "Mini", " mini"])
def test_what_is_no_model_is_told(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what would be one."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"no model .*: it is not `mini`, and not a folder with config\.json"):
        opened(name)


def test_a_text_is_encoded_for_every_row(tiny_llama: Path) -> None:
    """By the folder's own tokenizer, here one token a byte."""
    target = opened(str(tiny_llama))
    ids = target.prompt(text="größer", num_tokens=99, batch=3, seed=0)
    assert ids.shape == (3, 8)
    assert ids.dtype == np.int64
    assert (ids == ids[0]).all()
    assert target.model.decode(ids[0]) == "größer"


def test_an_empty_text_or_one_without_a_tokenizer_is_refused(
    tiny_llama: Path, make_llama: Callable[..., Path], tmp_path: Path
) -> None:
    """A prompt has at least one token."""
    with pytest.raises(InputError, match="--prompt is empty"):
        opened(str(tiny_llama)).prompt(text="", num_tokens=8, batch=1, seed=0)
    bare = opened(str(make_llama(tmp_path / "bare", tokenizer=False)))
    with pytest.raises(InputError, match=r"has no tokenizer\.json"):
        bare.prompt(text="a", num_tokens=8, batch=1, seed=0)
    assert bare.prompt(text=None, num_tokens=8, batch=1, seed=0).shape == (1, 8)


def test_ids_are_drawn_by_seed_for_a_folder(tiny_llama: Path) -> None:
    """Within the vocabulary, every row another."""
    target = opened(str(tiny_llama))
    ids = target.prompt(text=None, num_tokens=50, batch=4, seed=1)
    assert ids.shape == (4, 50)
    assert ids.min() >= 0
    assert ids.max() < target.facts["vocab"]
    assert len({row.tobytes() for row in ids}) == 4
    assert np.array_equal(ids, target.prompt(text=None, num_tokens=50, batch=4, seed=1))
    assert not np.array_equal(ids, target.prompt(text=None, num_tokens=50, batch=4, seed=2))


def test_mini_gets_sentences_that_it_has_not_seen() -> None:
    """Pieces of its held-out text, every row from another place, also where the text ends."""
    target = opened("mini")
    stream = target.encode(heldout_path().read_text(encoding="utf-8"))
    for seed in range(3):
        ids = target.prompt(text=None, num_tokens=64, batch=2, seed=seed)
        doubled = " ".join(map(str, stream + stream[:64]))
        for row in ids:
            assert " ".join(map(str, row.tolist())) in doubled
        assert not np.array_equal(ids[0], ids[1])
    longer = target.prompt(text=None, num_tokens=len(stream) + 5, batch=1, seed=0)[0]
    assert longer[:5].tolist() == longer[len(stream) :].tolist()


# The decode loop that is measured


def test_the_loop_generates_what_the_decoder_generates(tiny_llama: Path) -> None:
    """Greedy and drawn, for every row; end tokens do not end it."""
    target = opened(str(tiny_llama))
    model, prompt_BT = target.model, target.prompt(text=None, num_tokens=8, batch=2, seed=0)
    for sampler in (GREEDY, Sampler(temperature=1.0, top_k=20, seed=3)):
        loop = ReferenceLoop(model, batch=2, capacity=17, sampler=sampler)
        chosen = [loop.prefill(prompt_BT, no_mark)]
        while len(chosen) < 10:
            chosen.append(loop.decode(chosen[-1], no_mark))
        assert np.array_equal(np.stack(chosen, axis=1), generate(model, prompt_BT, 10, sampler, eos_ids=()))
        assert loop.cache.current_length() == 17
        with pytest.raises(CacheFull):
            loop.decode(chosen[-1], no_mark)
        loop.reset()
        assert np.array_equal(loop.prefill(prompt_BT, no_mark), chosen[0])


def test_the_loop_looks_for_end_tokens_at_every_step(make_llama: Callable[..., Path], tmp_path: Path) -> None:
    """And says which rows have just met one."""
    everything = list(range(260))
    model = opened(str(make_llama(tmp_path / "ends", eos_token_id=everything))).model
    loop = ReferenceLoop(model, batch=2, capacity=9, sampler=GREEDY)
    marks: list[str] = []
    loop.prefill(np.zeros((2, 8), np.int64), marks.append)
    assert loop.ended_B.tolist() == [True, True]
    assert marks[-2:] == ["sample", "stop"]


def test_a_loop_longer_than_the_models_context_is_refused(tiny_llama: Path) -> None:
    """Before anything is allocated."""
    with pytest.raises(InputError, match="the model's max_positions is 64, 65 were requested"):
        ReferenceLoop(opened(str(tiny_llama)).model, 1, 65, GREEDY)
