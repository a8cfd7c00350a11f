"""Which blocks are active, and skipping layers of the reference decoder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perstep.errors import InputError, InvalidMeasurement
from perstep.targets import BlockMask
from perstep.targets.block_mask import active_indices
from perstep.targets.reference import Reference, forward, generate, load


@pytest.fixture(scope="module")
def model(make_llama: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """A reference decoder of four layers."""
    return load(make_llama(tmp_path_factory.mktemp("models") / "four", num_hidden_layers=4))


@pytest.mark.parametrize(
    ("given", "expected"),
    [([2, 0], (0, 2)), ([True, False, True, False], (0, 2)), (np.array([3]), (3,)), (range(4), (0, 1, 2, 3))],
)
def test_blocks_are_given_as_indices_or_a_mask(given: Any, expected: tuple[int, ...]) -> None:
    """In any order, as lists or arrays; they come out ascending."""
    assert active_indices(given, 4) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([0, 4], "block 4 is out of range: the model has 4 blocks, numbered 0 to 3"),
        ([-1, 7], "blocks -1, 7 are out of range"),
        ([1, 0, 1], "block 1 is given more than once"),
        ([], "no block is active"),
        ([False] * 4, "no block is active"),
        ([True] * 3, "a mask of 3 values for a model of 4 blocks"),
        ([0.5], r"indices or a boolean mask, found \[0.5\]"),
        ([True, 1], "indices or a boolean mask"),
    ],
)
def test_wrong_blocks_are_named(given: Any, message: str) -> None:
    """What was wrong, and what would be right."""
    with pytest.raises(InputError, match=message):
        active_indices(given, 4)


@pytest.mark.parametrize("active", [(0,), (3,), (1, 3), (0, 1, 2, 3)])
def test_a_mask_is_equal_to_cutting_layers_out(
    active: tuple[int, ...], model: Reference, make_llama: Callable[..., Path], tmp_path: Path
) -> None:
    """Logits and greedy tokens are those of a folder that holds the active layers alone, renumbered."""
    from safetensors.numpy import load_file, save_file

    whole = make_llama(tmp_path / "whole", num_hidden_layers=4)
    cut = make_llama(tmp_path / "cut", num_hidden_layers=len(active))
    tensors = load_file(whole / "model.safetensors")
    kept = {name: value for name, value in tensors.items() if ".layers." not in name}
    for place, index in enumerate(active):
        prefix = f"model.layers.{index}."
        kept |= {f"model.layers.{place}.{n.removeprefix(prefix)}": t for n, t in tensors.items() if prefix in n}
    save_file(kept, cut / "model.safetensors")
    truncated = load(cut)
    prompt = np.arange(12).reshape(2, 6)
    with BlockMask(model, active) as mask:
        np.testing.assert_array_equal(forward(model, prompt), forward(truncated, prompt))
        before = mask.calls
        np.testing.assert_array_equal(generate(model, prompt, 5), generate(truncated, prompt, 5))
    mask.check()
    assert before == tuple(int(index in active) for index in range(4))
    assert mask.calls == tuple(6 * (index in active) for index in range(4))


def test_nothing_is_left_behind(model: Reference) -> None:
    """The layers are the same list, after an exception too; the mask may be put on again."""
    layers = model.layers
    mask = BlockMask(model, [1])
    with pytest.raises(ZeroDivisionError), mask:
        raise ZeroDivisionError
    assert model.layers is layers
    mask.apply()
    with pytest.raises(InputError, match="is on already"):
        mask.apply()
    with pytest.raises(InputError, match="another BlockMask"):
        BlockMask(model, [2]).apply()
    mask.remove()
    mask.remove()
    assert model.layers is layers


def test_unequal_calls_are_invalid(model: Reference) -> None:
    """A loop that ended half-way, or a layer taken from the list by itself."""
    with BlockMask(model, [1, 2]) as mask:
        forward(model, [[1, 2]])
        next(iter(model.layers))
    with pytest.raises(InvalidMeasurement, match=r"did not run equally often \(1: 2, 2: 1\)"):
        mask.check()
