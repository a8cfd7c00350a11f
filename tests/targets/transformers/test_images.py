"""Prompts with images: tokens are counted, and the vision tower is timed apart from the language model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perstep.errors import InputError
from perstep.experiments.knobs import context
from perstep.measure import FakeClock, Recorder
from perstep.targets.transformers import StageInstrument, image_prompt, takes_images

pytestmark = pytest.mark.hf
torch = pytest.importorskip("torch")

TEXT = np.arange(3, 11)[None]
CUT = ["llava", "qwen2_5_vl", "smolvlm", "molmo2"]
REST = ["gemma3", "qwen2_vl", "qwen3_vl", "internvl", "idefics3"]
SIZES = {
    "qwen2_vl": ((16, 4), (32, 16)), "qwen2_5_vl": ((16, 4), (32, 16)), "qwen3_vl": ((16, 4), (32, 16)),
    "internvl": ((8, 1), (16, 5)), "idefics3": ((8, 1), (16, 5)), "smolvlm": ((8, 1), (16, 5)),
    "molmo2": ((8, 2), (16, 5)),
}  # fmt: skip
"""Sizes of an image, and the vision tokens that it takes: those of the tiny towers, and of tiles and a whole view."""

Tiny = Callable[[str], Any]


def generated(model: Any, made: Any, recorder: Recorder) -> None:
    """Two tokens after the prompt, watched by stages."""
    ids = torch.as_tensor(made.ids_BT)
    with StageInstrument(model, recorder):
        model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=2, do_sample=False, **made.extra)


def seen(family: str, tiny: Tiny) -> None:
    """One and two images: twice the places, one run of the tower each; a larger one has more where there are any."""
    model = tiny(family)
    size, each = SIZES.get(family, ((None, 4),))[0]
    counts = []
    for num_images in (1, 2):
        made = image_prompt(model, np.tile(TEXT, (2, 1)), num_images, size)
        recorder = Recorder(FakeClock(tick_ns=1))
        generated(model, made, recorder)
        assert recorder.steps("prefill").parts["vision"][0] > 0
        assert "vision" not in recorder.steps("decode").parts or not recorder.steps("decode").parts["vision"].any()
        assert made.ids_BT.shape[0] == 2
        counts.append(made.vision_tokens)
    assert counts == [each, 2 * each]
    for size, each in SIZES.get(family, ()):
        assert image_prompt(model, TEXT, 1, size).vision_tokens == each


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
    """Text models, and sizes that a tower does not take, with those that it does."""
    assert takes_images(tiny("llava"))
    assert not takes_images(tiny("llama"))
    with pytest.raises(InputError, match="LlamaForCausalLM is a text model"):
        image_prompt(tiny("llama"), TEXT, 1)
    with pytest.raises(InputError, match="--image-size 16: LlavaForConditionalGeneration takes images of 8 x 8"):
        image_prompt(tiny("llava"), TEXT, 1, 16)
    with pytest.raises(
        InputError, match=r"--image-size 12: .* takes tiles of 8 pixels a side; give multiples, .* 8,16"
    ):
        image_prompt(tiny("smolvlm"), TEXT, 1, 12)
    for size in (4, 12, 18):
        with pytest.raises(InputError, match=f"--image-size {size}: Molmo2.* cuts images of 8, 16, 24 ... pixels"):
            image_prompt(tiny("molmo2"), TEXT, 1, size)


def test_a_tower_with_inputs_of_its_own_is_refused_by_name(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what it takes besides pixels; its text can be measured."""
    model = tiny("llava")

    def features(pixel_values: Any, image_sizes: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(model, "get_image_features", features)
    with pytest.raises(InputError, match=r"LlavaForCond.*: its vision tower takes image_sizes, which"):
        image_prompt(model, TEXT, 1)


@pytest.mark.parametrize(("size", "rows"), [(108, 14), (184, 23), (260, 33)])
def test_the_crops_of_molmo2_cover_an_image_once(size: int, rows: int, build_tiny: Callable[..., Any]) -> None:
    """With as many patches as its released towers have: every patch of the image and of its small view is pooled once.

    The rows of features are those that the processor of transformers gives for 27 patches a crop and 4 of overlap.
    """
    vision = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "patch_size": 4,
        "image_size": [108, 108], "num_key_value_heads": 4, "head_dim": 8,
    }  # fmt: skip
    made = image_prompt(build_tiny("molmo2", vision_config=vision), TEXT, 2, size)
    assert made.extra["image_grids"].tolist() == [[14, 14, rows, rows]] * 2
    assert made.vision_tokens == 2 * (14 * 14 + rows * rows)
    pooled = made.extra["image_token_pooling"]
    pooled = pooled[pooled >= 0]
    assert len(pooled.unique()) == len(pooled) == 2 * (27 * 27 + (size // 4) ** 2)
    assert made.ids_BT[0, :2].tolist() == [97, 98]  # the small view comes first, each between tokens of its own
    assert made.ids_BT[0, 14 * 14 : 14 * 14 + 4].tolist() == [98, 99, 96, 98]
    assert made.extra["mm_token_type_ids"].sum() == made.vision_tokens + 2 * 4


def measured(family: str, tiny: Tiny, folder: Path) -> None:
    """`context` over the number of images and, where the tower takes several, their size."""
    tiny(family).config.save_pretrained(folder)
    sizes = SIZES.get(family, ())
    plan = context.Plan(
        arch=str(folder / "config.json"), prompt_tokens=(4,), images=(0, 2), batch=2, new_tokens=3, rounds=1,
        image_size=tuple(size for size, _ in sizes) or None,
    )  # fmt: skip
    made = context.prepare(plan, lambda _share, _what: None, FakeClock(tick_ns=1))
    findings = context.analyse(made.manifest, [made.measure_round(0)])
    assert findings.invalid == ""
    expected = [0, *(2 * each for _, each in sizes or ((None, 4),))]
    assert [s.num_vision_tokens for s in findings.summary] == expected
    for sample in findings.all_samples[1:]:
        assert 0 < sample.T_vision_total + sample.T_LLM_prefill + sample.T_LLM_decode < sample.T_total


@pytest.mark.parametrize("family", ["molmo2"])
def test_context_is_measured_over_images(family: str, tiny: Tiny, tmp_path: Path) -> None:
    """From a config.json to the counted tokens of every configuration, two rows side by side."""
    measured(family, tiny, tmp_path)


@pytest.mark.nightly
@pytest.mark.parametrize("family", [family for family in (*CUT, *REST) if family != "molmo2"])
def test_context_is_measured_over_images_everywhere(family: str, tiny: Tiny, tmp_path: Path) -> None:
    """In the other families."""
    measured(family, tiny, tmp_path)
