"""Prompts with images: tokens are counted, and the vision tower is timed apart from the language model."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from perstep.errors import InputError
from perstep.measure import FakeClock, Recorder
from perstep.targets.transformers import StageInstrument, default_image_size, image_prompt, takes_images

pytestmark = pytest.mark.hf
torch = pytest.importorskip("torch")

TEXT = np.arange(3, 11)[None]
CUT = ["llava", "qwen2_5_vl", "smolvlm"]
REST = ["gemma3", "qwen2_vl", "qwen3_vl", "internvl", "idefics3"]

Tiny = Callable[[str], Any]


def generated(model: Any, made: Any, recorder: Recorder) -> None:
    """Two tokens after the prompt, watched by stages."""
    ids = torch.as_tensor(made.ids_BT)
    with StageInstrument(model, recorder):
        model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=2, do_sample=False, **made.extra)


def seen(family: str, tiny: Tiny) -> None:
    """One and two images: twice the places, one run of the tower each."""
    model = tiny(family)
    size = 16 if family.startswith("qwen") else None
    counts = []
    for num_images in (1, 2):
        made = image_prompt(model, np.tile(TEXT, (2, 1)), num_images, size)
        recorder = Recorder(FakeClock(tick_ns=1))
        generated(model, made, recorder)
        assert recorder.steps("prefill").parts["vision"][0] > 0
        assert "vision" not in recorder.steps("decode").parts or not recorder.steps("decode").parts["vision"].any()
        assert made.ids_BT.shape[0] == 2
        counts.append(made.vision_tokens)
    assert counts[0] > 0
    assert counts[1] == 2 * counts[0]


@pytest.mark.parametrize("family", CUT)
def test_images_are_counted_and_seen(family: str, tiny: Tiny) -> None:
    """The model itself checks that features and places agree."""
    seen(family, tiny)


@pytest.mark.nightly
@pytest.mark.parametrize("family", REST)
def test_images_are_counted_and_seen_everywhere(family: str, tiny: Tiny) -> None:
    """In the other families."""
    seen(family, tiny)


@pytest.mark.parametrize("before_the_forward", [True, False])
@pytest.mark.parametrize(("family", "tower"), [("llava", "vision_tower"), ("qwen2_5_vl", "visual")])
def test_what_the_tower_takes_is_vision_and_nothing_else(
    family: str, tower: str, before_the_forward: bool, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A delay in the tower is in `vision`, one in a block in `forward`, wherever generate has the tower run."""
    model, clock = tiny(family), FakeClock(tick_ns=1)
    if not before_the_forward:
        monkeypatch.setattr(model, "_supports_mm_encoder_outputs", lambda: False, raising=False)
    blocks = model.model.language_model.layers

    def delayed(module: Any, ns: int) -> None:
        original = module.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            clock.advance(ns)
            return original(*args, **kwargs)

        monkeypatch.setattr(module, "forward", forward)

    made = image_prompt(model, TEXT, 1, 16 if tower == "visual" else None)
    delayed(getattr(model.model, tower), 1_000_000)
    delayed(blocks[0], 10_000)
    recorder = Recorder(clock)
    generated(model, made, recorder)
    parts = recorder.steps("prefill").parts
    assert parts["vision"][0] // 1_000 == 1_000
    assert parts["forward"][0] // 1_000 == 10


def test_a_larger_image_has_more_tokens(tiny: Tiny) -> None:
    """Where the model takes any size: places grow with the area, sizes off the grid are refused."""
    model = tiny("qwen2_5_vl")
    counts = [image_prompt(model, TEXT, 1, size).vision_tokens for size in (16, 32)]
    assert counts == [4, 16]
    with pytest.raises(InputError, match=r"--image-size 17: .* takes multiples of 8 pixels"):
        image_prompt(model, TEXT, 1, 17)


def test_ids_of_the_text_that_mean_an_image_are_replaced(tiny: Tiny) -> None:
    """A drawn text may hit them; the places counted are those of images alone."""
    made = image_prompt(tiny("llava"), np.array([[5, 90, 6]]), 1)
    assert made.vision_tokens == 4
    assert (made.ids_BT == 90).sum() == 4
    assert made.ids_BT.shape == (1, 7)


def test_without_images_the_prompt_is_the_text(tiny: Tiny) -> None:
    """Nothing is added."""
    made = image_prompt(tiny("llava"), TEXT, 0)
    assert np.array_equal(made.ids_BT, TEXT)
    assert (made.extra, made.vision_tokens) == ({}, 0)


def test_what_takes_no_such_images_is_refused_by_name(tiny: Tiny) -> None:
    """Text models, sizes that a tower does not take, and a family with inputs of its own."""
    assert takes_images(tiny("llava"))
    assert default_image_size(tiny("llava")) == 8
    assert not takes_images(tiny("llama"))
    with pytest.raises(InputError, match="LlamaForCausalLM is a text model"):
        image_prompt(tiny("llama"), TEXT, 1)
    with pytest.raises(InputError, match="--image-size 16: LlavaForConditionalGeneration takes images of 8 x 8"):
        image_prompt(tiny("llava"), TEXT, 1, 16)
    with pytest.raises(InputError, match="Molmo2ForConditionalGeneration: how it takes images is not known here"):
        image_prompt(tiny("molmo2"), TEXT, 1)
