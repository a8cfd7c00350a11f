"""Skipped blocks: the model computes what it would with the blocks cut out, and nothing is left behind."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from perstep.errors import InputError, InvalidMeasurement
from perstep.targets import BlockMask
from perstep.targets.transformers import truncate

pytestmark = pytest.mark.hf
torch = pytest.importorskip("torch")

CUT = ["llama", "gemma2", "gpt2", "falcon", "olmoe", "qwen2_5_vl"]
"""One of each kind: plain, sliding windows, learned positions, tuples as outputs, experts, images."""
REST = [
    "qwen2", "qwen3", "mistral", "phi", "phi3", "olmo", "olmo2", "olmo3", "gemma3_text", "gpt_neox", "opt", "bloom",
    "gptj", "mixtral", "qwen2_moe", "qwen3_moe", "deepseek_v3", "gpt_oss", "mamba", "cohere", "granite", "glm4",
    "smollm3", "stablelm", "starcoder2", "qwen2_vl", "qwen3_vl", "llava", "gemma3", "internvl", "idefics3", "smolvlm",
    "molmo2",
]  # fmt: skip
LAYERS = 4
SKIPPED = [(0,), (0, 2), (1, 3), (0, 1, 2)]
NEW_TOKENS = 4

Build = Callable[..., Any]


def generated(model: Any, **options: Any) -> Any:
    """Greedy tokens with the logits of every step."""
    ids = torch.arange(3, 23).reshape(2, 10)
    return model.generate(
        ids,
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
        **options,
    )


def equal_to_the_truncated(model: Any) -> None:
    """Dynamic and static caches, padded and not, first block included: same logits, same tokens."""
    padded = torch.ones(2, 10, dtype=torch.long)
    padded[0, :3] = 0
    for skipped in SKIPPED:
        active = tuple(index for index in range(LAYERS) if index not in skipped)
        truncated = truncate(model, active)
        for cache in ({}, {"cache_implementation": "static"}):
            for mask in ({}, {"attention_mask": padded}):
                expected = generated(truncated, **cache, **mask)
                with BlockMask(model, active) as block_mask:
                    actual = generated(model, **cache, **mask)
                block_mask.check()
                assert block_mask.calls == tuple(NEW_TOKENS * (i in active) for i in range(LAYERS))
                assert torch.equal(actual.sequences, expected.sequences)
                torch.testing.assert_close(torch.stack(actual.logits), torch.stack(expected.logits), rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", CUT)
def test_a_mask_is_equal_to_cutting_blocks_out(family: str, build_tiny: Build) -> None:
    """In a cut of the families, one of each kind."""
    equal_to_the_truncated(build_tiny(family, layers=LAYERS))


@pytest.mark.nightly
@pytest.mark.parametrize("family", REST)
def test_a_mask_is_equal_to_cutting_blocks_out_everywhere(family: str, build_tiny: Build) -> None:
    """In all the other families."""
    equal_to_the_truncated(build_tiny(family, layers=LAYERS))


def test_an_identity_alone_would_be_wrong(build_tiny: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the dummy cache layers a padded batch whose first block is skipped goes wrong: the test can see it."""
    from perstep.targets.transformers import blocks

    monkeypatch.setattr(blocks.SkippedBlocks, "_wrap_caches", lambda self: None)
    monkeypatch.setattr(blocks, "_SHARING", "nothing_reads_this")
    with pytest.raises((AssertionError, RuntimeError, IndexError)):
        equal_to_the_truncated(build_tiny("llama", layers=LAYERS))


@pytest.mark.parametrize("make", ["DynamicCache()", "DynamicCache(config=config)", "StaticCache(config, 32)"])
def test_a_cache_of_the_caller_is_kept_right(make: str, build_tiny: Build) -> None:
    """A bare loop over forwards, without position ids, with a cache that was made without the mask."""
    import transformers

    model = build_tiny("llama", layers=LAYERS)
    ids = torch.arange(3, 15).reshape(2, 6)
    names = {"DynamicCache": transformers.DynamicCache, "StaticCache": transformers.StaticCache}
    logits = []
    for masked in (False, True):
        used = model if masked else truncate(model, (1, 3))
        cache = eval(make, {**names, "config": model.config if masked else used.config})  # noqa: S307
        with BlockMask(model, (1, 3)), torch.no_grad():
            seen = [used(ids[:, :3], past_key_values=cache).logits]
            seen += [used(ids[:, t : t + 1], past_key_values=cache).logits for t in range(3, 6)]
        logits.append(torch.cat(seen, dim=1))
    torch.testing.assert_close(logits[0], logits[1])


def test_an_image_is_seen_with_blocks_skipped(build_tiny: Build) -> None:
    """The vision tower runs whole; only blocks of the text part are skipped."""
    model = build_tiny("llava", layers=LAYERS)
    ids = torch.tensor([[3, 4, *[90] * 4, 5]])
    inputs = {"input_ids": ids, "pixel_values": torch.linspace(-1, 1, 3 * 64).reshape(1, 3, 8, 8)}
    expected = truncate(model, (1, 2)).generate(**inputs, max_new_tokens=4, do_sample=False)
    with BlockMask(model, [False, True, True, False]) as mask:
        assert torch.equal(model.generate(**inputs, max_new_tokens=4, do_sample=False), expected)
    assert mask.calls == (0, 4, 4, 0)


@pytest.mark.parametrize("family", ["llama", "falcon", "gemma3"])
def test_nothing_is_left_behind(family: str, build_tiny: Build) -> None:
    """Modules, configuration and results are as before, after an exception inside the mask too."""
    model = build_tiny(family, layers=LAYERS)
    before = {name: (type(module), set(vars(module))) for name, module in model.named_modules()}
    config = copy.deepcopy(model.config.to_dict())
    expected = torch.stack(generated(model).logits)
    with BlockMask(model, [1]) as mask:
        assert not torch.equal(torch.stack(generated(model).logits), expected)
    with pytest.raises(ZeroDivisionError), mask:
        raise ZeroDivisionError
    assert {name: (type(module), set(vars(module))) for name, module in model.named_modules()} == before
    assert model.config.to_dict() == config
    assert torch.equal(torch.stack(generated(model).logits), expected)


def test_a_skipped_block_that_ran_is_noticed(build_tiny: Build) -> None:
    """Calling the class's own forward goes round the identity; the modules inside give it away."""
    model = build_tiny("llama", layers=LAYERS)
    block = model.model.layers[0]
    hidden = torch.zeros(1, 2, 32)
    positions = (torch.ones(1, 2, 8), torch.zeros(1, 2, 8))
    with BlockMask(model, [1, 2, 3]) as mask:
        generated(model)
        mask.check()
        type(block).forward(block, hidden, position_embeddings=positions)
    with pytest.raises(InvalidMeasurement, match="skipped blocks ran: 0"):
        mask.check()


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "falcon"])
def test_names_and_places_of_blocks_stay(family: str, build_tiny: Build) -> None:
    """Parameters, children, length and single blocks of the list are as before; a skipped one is an identity."""
    from perstep.targets.transformers import find_blocks

    model = build_tiny(family, layers=LAYERS)
    found = find_blocks(model)
    before = ([name for name, _ in model.named_parameters()], list(found.blocks))
    with BlockMask(model, [1, 2]):
        assert [name for name, _ in model.named_parameters()] == before[0]
        assert [found.blocks[index] for index in range(len(found.blocks))] == before[1]
        assert isinstance(found.blocks, torch.nn.ModuleList)
        hidden = torch.ones(1, 1, 32)
        left = found.blocks[0](hidden)
        assert (left[0] if isinstance(left, tuple) else left) is hidden


def test_a_copy_made_under_the_mask_has_blocks_of_its_own(build_tiny: Build) -> None:
    """It skips as the original does, and never runs the original's blocks."""
    model, ids = build_tiny("llama", layers=LAYERS), torch.arange(3, 9)[None]
    with BlockMask(model, [1, 3]), torch.no_grad():
        expected = model(ids).logits
        copied = copy.deepcopy(model)
        torch.testing.assert_close(copied(ids).logits, expected)
        for parameter in copied.model.layers[1].parameters():
            parameter.zero_()
        assert not torch.allclose(copied(ids).logits, expected)
        torch.testing.assert_close(model(ids).logits, expected)


def test_a_truncated_copy_may_share_its_weights(build_tiny: Build) -> None:
    """Then it computes the same from the same tensors, and the model stays whole."""
    model, ids = build_tiny("gemma2", layers=LAYERS), torch.arange(3, 9)[None]
    own, shared = truncate(model, (1, 3)), truncate(model, (1, 3), share_weights=True)
    tensors = {id(parameter) for parameter in model.parameters()}
    assert {id(parameter) for parameter in shared.parameters()} <= tensors
    assert not {id(parameter) for parameter in own.parameters()} & tensors
    with torch.no_grad():
        torch.testing.assert_close(shared(ids).logits, own(ids).logits)
    assert len(model.model.layers) == model.config.num_hidden_layers == LAYERS


def test_hidden_states_are_those_of_the_truncated_model(build_tiny: Build) -> None:
    """One after the embedding and one after each block that ran, where the list is gone over in turn."""
    model, ids = build_tiny("llama", layers=LAYERS), torch.arange(3, 9)[None]
    expected = truncate(model, (1, 3))(ids, output_hidden_states=True).hidden_states
    with BlockMask(model, [1, 3]):
        actual = model(ids, output_hidden_states=True).hidden_states
    assert len(actual) == len(expected) == 3
    torch.testing.assert_close(actual, expected)


def test_a_masked_model_can_be_compiled(build_tiny: Build) -> None:
    """The mask first, then torch.compile: the forward is the truncated model's."""
    model, ids = build_tiny("llama", layers=LAYERS), torch.arange(3, 9)[None]
    with torch.no_grad():
        expected = truncate(model, (1, 3))(ids, use_cache=False).logits
        with BlockMask(model, [1, 3]):
            actual = torch.compile(model, backend="eager")(ids, use_cache=False).logits
    torch._dynamo.reset()
    torch.testing.assert_close(actual, expected)


def test_which_forwards_go_over_their_blocks_in_turn() -> None:
    """Those that ask for a block's place, or do anything else with the list, see all of it."""
    from perstep.targets.transformers.blocks import _in_turn

    class Plain:
        def forward(self, x: Any) -> Any:
            for layer in self.layers[: self.config.num_hidden_layers]:
                x = layer(x)
            return x

    class Whole:
        def forward(self, x: Any) -> Any:
            for layer in self.layers:
                x = layer(x)
            return x

    class Counting:
        def forward(self, x: Any) -> Any:
            for i, layer in enumerate(self.layers):
                x = layer(x, self.masks[i])
            return x

    class Looking:
        def forward(self, x: Any) -> Any:
            for layer in self.layers:
                x = layer(x) + len(self.layers)
            return x

    class Half:
        def forward(self, x: Any) -> Any:
            for layer in self.layers[2:]:
                x = layer(x)
            return x

    assert [_in_turn(kind, "layers") for kind in (Plain, Whole, Counting, Looking, Half)] == [True, True] + [False] * 3
    assert not _in_turn(Plain, "blocks")


def test_a_cache_begun_without_the_mask_is_refused(build_tiny: Build) -> None:
    """Its first layer holds positions that the others would go on from, and be wrong."""
    from transformers import DynamicCache

    model = build_tiny("llama", layers=LAYERS)
    cache = DynamicCache(config=model.config)
    model(torch.tensor([[3, 4]]), past_key_values=cache)
    with BlockMask(model, [1]), pytest.raises(InputError, match="begin with an empty cache"):
        model(torch.tensor([[5]]), past_key_values=cache)


def test_masks_do_not_nest(build_tiny: Build) -> None:
    """A second mask on the same model is refused, and the first goes on."""
    model = build_tiny("llama", layers=LAYERS)
    with BlockMask(model, [0]) as first:
        with pytest.raises(InputError, match="another BlockMask"):
            BlockMask(model, [1]).apply()
        generated(model)
    assert first.calls == (NEW_TOKENS, 0, 0, 0)
    assert "kv_sharing_modes" not in vars(model.config)


def test_models_whose_blocks_cannot_be_skipped_are_refused(build_tiny: Build) -> None:
    """Encoder-decoders and what does not generate, by name; compiled ones when the mask is put on."""
    with pytest.raises(InputError, match="T5ForConditionalGeneration is an encoder-decoder"):
        BlockMask(build_tiny("t5"), [0])
    with pytest.raises(InputError, match="Linear is not a transformers model"):
        BlockMask(torch.nn.Linear(1, 1), [0])
    compiled = build_tiny("llama")
    compiled.compile(backend="eager")
    with pytest.raises(InputError, match="is compiled"):
        BlockMask(compiled, [0]).apply()


def test_what_a_block_returns_is_read_off_its_source() -> None:
    """A tuple or a tensor; what functions inside a forward return is not taken for it."""
    from perstep.targets.transformers.blocks import _num_outputs

    class Tuple(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            if x is None:
                return None

            def inner() -> Any:
                return x

            return inner(), None, 1

    class Tensor(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            def inner() -> Any:
                return x, x

            return inner()[0]

    assert (_num_outputs(Tuple), _num_outputs(Tensor)) == (3, 0)
    sourceless = type("Sourceless", (torch.nn.Module,), {"forward": eval("lambda self, x: x")})  # noqa: S307
    with pytest.raises(InputError, match=r"the source of Sourceless\.forward cannot be read"):
        _num_outputs(sourceless)
