"""The decoder against a textbook one in float64, and against itself: chunks, cache, batch and marks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perstep.errors import InputError
from perstep.targets import reference
from perstep.targets.reference import BOUNDARIES, CacheFull, KVCache, Sampler

PARTS_OF_A_LAYER_IN_DECODE = [
    *("norm", "attn.qkv", "attn.rope", "kv.append", "attn.scores", "attn.softmax", "attn.pv", "attn.out"),
    *("norm", "mlp"),
]
VARIANTS: dict[str, dict[str, Any]] = {
    "gqa": {},
    "mha": {"num_key_value_heads": 4},
    "mqa": {"num_key_value_heads": 1},
    "tied": {"tie_word_embeddings": True},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "qwen2": {"model_type": "qwen2"},
    "derived head_dim": {"head_dim": None, "hidden_size": 32},
    "linear rope": {"rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 3.0}},
}


def textbook_logits(raw: dict[str, Any], weights: dict[str, np.ndarray], ids_T: np.ndarray) -> np.ndarray:
    """Llama as its papers write it: float64, one sequence, one head at a time, no cache; logits [T, V]."""
    w = {name: tensor.astype(np.float64) for name, tensor in weights.items()}
    heads, kv_heads = raw["num_attention_heads"], raw["num_key_value_heads"]
    H = raw["head_dim"] or raw["hidden_size"] // heads
    rope = raw["rope_parameters"]
    angle = np.outer(np.arange(len(ids_T)), rope["rope_theta"] ** (-np.arange(0, H, 2) / H)) / rope.get("factor", 1)

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0.0)

    def rms(x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + raw["rms_norm_eps"]) * w[f"{name}.weight"]

    def rotate(x_TH: np.ndarray) -> np.ndarray:
        a, b = x_TH[:, : H // 2], x_TH[:, H // 2 :]
        return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], axis=-1)

    x = w["model.embed_tokens.weight"][ids_T]
    for index in range(raw["num_hidden_layers"]):
        layer = f"model.layers.{index}"
        normed = rms(x, f"{layer}.input_layernorm")
        q, k, v = (linear(normed, f"{layer}.self_attn.{name}_proj") for name in "qkv")
        context = []
        for head in range(heads):
            group = head // (heads // kv_heads)
            q_TH, k_TH = rotate(q[:, head * H : (head + 1) * H]), rotate(k[:, group * H : (group + 1) * H])
            scores = np.where(np.tri(len(ids_T), dtype=bool), q_TH @ k_TH.T / np.sqrt(H), -np.inf)
            p = np.exp(scores - scores.max(-1, keepdims=True))
            context.append(p / p.sum(-1, keepdims=True) @ v[:, group * H : (group + 1) * H])
        x = x + linear(np.concatenate(context, axis=-1), f"{layer}.self_attn.o_proj")
        normed = rms(x, f"{layer}.post_attention_layernorm")
        gate = linear(normed, f"{layer}.mlp.gate_proj")
        x = x + linear(gate / (1 + np.exp(-gate)) * linear(normed, f"{layer}.mlp.up_proj"), f"{layer}.mlp.down_proj")
    head_weight = w.get("lm_head.weight", w["model.embed_tokens.weight"])
    return rms(x, "model.norm") @ head_weight.T


def random_ids(batch: int, num_positions: int, vocab: int = 61) -> np.ndarray:
    """The same random ids for every test."""
    return np.random.default_rng(3).integers(0, vocab, (batch, num_positions))


def close(actual: np.ndarray, expected: np.ndarray) -> None:
    """Equal within 1e-5 of the largest value."""
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * max(1.0, np.abs(expected).max()))


@pytest.fixture
def model(make_folder: Callable[..., Path]) -> reference.Reference:
    """The small model as it is."""
    return reference.load(make_folder())


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())
def test_logits_are_those_of_a_textbook_decoder(
    make_folder: Callable[..., Path],
    make_tensors: Callable[..., Any],
    small_raw: dict[str, Any],
    changes: dict[str, Any],
) -> None:
    """Fusing, reordering and pre-scaling the weights leaves the logits as the definition gives them."""
    model = reference.load(make_folder(**changes))
    ids_BT = random_ids(2, 20)
    expected = np.stack([textbook_logits({**small_raw, **changes}, make_tensors(**changes), row) for row in ids_BT])
    close(reference.forward(model, ids_BT), expected)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    "changes", [VARIANTS["gqa"], VARIANTS["mqa"], VARIANTS["biases"]], ids=["gqa", "mqa", "biases"]
)
def test_prefill_equals_decode_steps(make_folder: Callable[..., Path], batch: int, changes: dict[str, Any]) -> None:
    """One prefill of T positions, T decode steps and an uncached forward end in the same logits."""
    model = reference.load(make_folder(**changes))
    ids_BT = random_ids(batch, 17)
    uncached = reference.forward(model, ids_BT)
    close(reference.prefill(model, ids_BT, model.new_cache(batch, 17)), uncached[:, -1])
    cache = model.new_cache(batch, 40)
    for position in range(17):
        logits_BV = reference.decode_one_token(model, ids_BT[:, position], cache)
        close(logits_BV, uncached[:, position])
    assert cache.current_length() == 17


@pytest.mark.parametrize("cuts", [(8,), (1, 2), (5, 6, 16), (16,)])
def test_chunked_prefill_equals_one_prefill(model: reference.Reference, cuts: tuple[int, ...]) -> None:
    """A prompt in chunks, each seeing the past and its own past only, gives the logits and cache of the whole."""
    ids_BT = random_ids(2, 17)
    whole, chunked = model.new_cache(2, 20), model.new_cache(2, 20)
    expected = reference.prefill(model, ids_BT, whole)
    for chunk in np.split(ids_BT, cuts, axis=1):
        logits_BV = reference.prefill(model, chunk, chunked)
    close(logits_BV, expected)
    close(chunked.keys, whole.keys)
    close(chunked.values, whole.values)


def test_forward_over_a_cache_gives_every_position(model: reference.Reference) -> None:
    """A forward behind held positions returns the logits of each new one."""
    ids_BT = random_ids(2, 12)
    cache = model.new_cache(2, 12)
    reference.prefill(model, ids_BT[:, :5], cache)
    close(reference.forward(model, ids_BT[:, 5:], cache), reference.forward(model, ids_BT)[:, 5:])


def test_batch_rows_are_independent(model: reference.Reference) -> None:
    """A row's logits do not change with the rows beside it."""
    ids_BT = random_ids(3, 10)
    together = reference.forward(model, ids_BT)
    for row in range(3):
        close(together[row], reference.forward(model, ids_BT[row : row + 1])[0])
    changed = ids_BT.copy()
    changed[1] = (changed[1] + 1) % 61
    np.testing.assert_array_equal(reference.forward(model, changed)[[0, 2]], together[[0, 2]])


def test_rollback_then_the_same_logits(model: reference.Reference) -> None:
    """After a rollback the same tokens give bit-identical logits, other tokens in between or not."""
    cache = model.new_cache(1, 20)
    reference.prefill(model, random_ids(1, 6), cache)
    first = [reference.decode_one_token(model, [token], cache) for token in (4, 8, 15)]
    cache.rollback(3)
    reference.decode_one_token(model, [60], cache)
    cache.rollback(1)
    again = [reference.decode_one_token(model, [token], cache) for token in (4, 8, 15)]
    np.testing.assert_array_equal(again, first)


def test_logits_are_not_overwritten_by_the_next_step(model: reference.Reference) -> None:
    """The logits a caller holds are its own, although the decode buffers are reused."""
    cache = model.new_cache(1, 4)
    logits_BV = reference.decode_one_token(model, [1], cache)
    kept = logits_BV.copy()
    reference.decode_one_token(model, [2], cache)
    np.testing.assert_array_equal(logits_BV, kept)


def test_two_caches_can_take_turns(model: reference.Reference) -> None:
    """Sequences of different lengths decoded in turns do not disturb each other through the shared buffers."""
    ids_BT = random_ids(1, 12)
    expected = reference.forward(model, ids_BT)[0]
    short, long = model.new_cache(1, 12), model.new_cache(1, 30)
    reference.prefill(model, ids_BT[:, :5], long)
    for position in range(5):
        close(reference.decode_one_token(model, ids_BT[:, position], short)[0], expected[position])
        close(reference.decode_one_token(model, ids_BT[:, 5 + position], long)[0], expected[5 + position])


def test_large_activations_do_not_overflow(make_folder: Callable[..., Path], make_tensors: Callable[..., Any]) -> None:
    """Gates far from zero (warnings are errors here) give finite logits."""
    tensors = make_tensors()
    for name in tensors:
        if name.endswith("gate_proj.weight"):
            tensors[name] *= 1000
    assert np.isfinite(reference.forward(reference.load(make_folder(tensors)), random_ids(1, 9))).all()


def test_decode_marks_name_every_part_in_order(model: reference.Reference) -> None:
    """A decode step has no mask parts; prefill builds the mask once and applies it in each layer."""
    marks: list[str] = []
    cache = model.new_cache(1, 8)
    reference.prefill(model, [[1, 2, 3]], cache, marks.append)
    assert (marks[:2], marks[-2:]) == (["embed", "attn.mask.build"], ["norm", "lm_head"])
    with_mask = PARTS_OF_A_LAYER_IN_DECODE.copy()
    with_mask.insert(with_mask.index("attn.softmax"), "attn.mask.apply")
    assert marks[2:-2] == with_mask * 3
    marks.clear()
    logits_BV = reference.decode_one_token(model, [4], cache, marks.append)
    ids_B = reference.sample(logits_BV, reference.GREEDY, 4, marks.append)
    reference.stop(ids_B, (2,), marks.append)
    assert marks == ["embed", *PARTS_OF_A_LAYER_IN_DECODE * 3, "norm", "lm_head", "sample", "stop"]


def test_every_part_has_a_boundary(model: reference.Reference) -> None:
    """The parts that generate marks are exactly those whose boundaries are declared; uncached, nothing is appended."""
    marks: list[str] = []
    reference.generate(model, [[1, 2, 3]], 3, eos_ids=(), mark=marks.append)
    assert set(marks) == set(BOUNDARIES)
    marks.clear()
    reference.forward(model, [[1, 2, 3]], mark=marks.append)
    assert "kv.append" not in marks


def test_generate_counts_forwards(model: reference.Reference) -> None:
    """N new tokens are one prefill and N - 1 decode forwards, and equal greedy choices over full forwards."""
    marks: list[str] = []
    prompt_BT = random_ids(2, 5)
    new_BN = reference.generate(model, prompt_BT, 6, eos_ids=(), mark=marks.append)
    assert new_BN.shape == (2, 6)
    assert (marks.count("embed"), marks.count("sample"), marks.count("stop")) == (6, 6, 6)
    for step in range(6):
        context = np.concatenate([prompt_BT, new_BN[:, :step]], axis=1)
        np.testing.assert_array_equal(reference.forward(model, context)[:, -1].argmax(-1), new_BN[:, step])


def test_generate_ends_when_every_row_has_ended(model: reference.Reference) -> None:
    """A row that meets an end token repeats it until the others have met theirs."""
    prompt_BT = random_ids(2, 5)
    free = reference.generate(model, prompt_BT, 8, Sampler(temperature=3.0, seed=5), eos_ids=())
    eos = (int(free[0, 1]), int(free[1, 4]))
    first_end = [min(i for i, token in enumerate(row) if token in eos) for row in free.tolist()]
    ended = reference.generate(model, prompt_BT, 8, Sampler(temperature=3.0, seed=5), eos_ids=eos)
    assert ended.shape[1] == max(first_end) + 1
    for row in range(2):
        np.testing.assert_array_equal(ended[row, : first_end[row] + 1], free[row, : first_end[row] + 1])
        assert set(ended[row, first_end[row] :].tolist()) == {int(free[row, first_end[row]])}


def test_generate_uses_the_folders_end_tokens(make_folder: Callable[..., Path], model: reference.Reference) -> None:
    """Without eos_ids the end tokens of the folder stop it."""
    prompt_BT = random_ids(1, 5)
    first = int(reference.generate(model, prompt_BT, 1, eos_ids=())[0, 0])
    ending = reference.load(make_folder(eos_token_id=[first, 60]))
    assert reference.generate(ending, prompt_BT, 8).tolist() == [[first]]
    with pytest.raises(InputError, match="max_new_tokens"):
        reference.generate(ending, prompt_BT, 0)


@pytest.mark.parametrize(
    "ids", [[[61]], [[-1]], [[1, 2, 99]], [[]], [1, 2], [[1.0]]], ids=["high", "negative", "one", "none", "1d", "float"]
)
def test_bad_ids_are_refused(model: reference.Reference, ids: Any) -> None:
    """Ids outside the vocabulary, or no ids, are an InputError and leave the cache as it was."""
    cache = model.new_cache(1, 8)
    with pytest.raises(InputError, match="token ids"):
        reference.prefill(model, ids, cache)
    assert cache.current_length() == 0


def test_a_prompt_longer_than_the_cache_is_refused(model: reference.Reference) -> None:
    """CacheFull comes before any work, and the cache still holds what it held."""
    cache = model.new_cache(1, 8)
    reference.prefill(model, [[1, 2, 3]], cache)
    before = cache.keys.copy()
    with pytest.raises(CacheFull, match="and 6 more"):
        reference.prefill(model, [[1] * 6], cache)
    np.testing.assert_array_equal(cache.keys, before)


def test_a_cache_of_other_shapes_is_refused(model: reference.Reference) -> None:
    """A cache for another batch or another model is an InputError that shows both shapes."""
    with pytest.raises(InputError, match=r"\(3, 2, 2, 8\).*needs \(3, 1, 2, 8\)"):
        reference.prefill(model, [[1]], model.new_cache(2, 8))
    with pytest.raises(InputError, match="the KV cache is for"):
        reference.prefill(model, [[1]], KVCache(2, 1, 2, 8, 8))


def test_positions_beyond_the_model_are_refused(model: reference.Reference) -> None:
    """Neither a cache nor an uncached forward goes past max_position_embeddings."""
    with pytest.raises(InputError, match="max_positions is 96, 97"):
        model.new_cache(1, 97)
    with pytest.raises(InputError, match="max_positions is 96, 97"):
        reference.forward(model, random_ids(1, 97))
    assert model.new_cache(1).capacity == 96


def test_weight_bytes_are_those_of_the_live_arrays(make_folder: Callable[..., Path]) -> None:
    """Bytes and parameters from shapes equal the buffers the model holds; a tied head is not counted twice."""
    for tied in (False, True):
        model = reference.load(make_folder(tie_word_embeddings=tied, attention_bias=True, mlp_bias=True))
        arrays = [model.embedding_VD, model.final_norm_D, *([] if tied else [model.head_DV])]
        for layer in model.layers:
            arrays += [value for value in vars(layer).values() if isinstance(value, np.ndarray)]
        assert model.weight_bytes == sum(array.nbytes for array in arrays)
        assert model.num_parameters == sum(array.size for array in arrays)
        assert np.shares_memory(model.head_DV, model.embedding_VD) == tied
