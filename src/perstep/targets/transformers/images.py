"""Prompts with images for vision-language models, made without a processor: random pixels, places for their features.

What the vision tower costs does not depend on the pixels. How many tokens an image takes is counted: the tower runs
once, and as many places are made in the prompt as it gives rows of features; the model checks that both agree. Model
types are told apart by what their forward takes. Text and its tokenizer are no concern of this module.
"""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perstep.errors import InputError
from perstep.targets.transformers.instrument import find_model


@dataclass(frozen=True)
class ImagePrompt:
    """A prompt with images in front of its text.

    Attributes:
        ids_BT: token ids, the places of images included.
        extra: what generate takes besides: pixels, grids, token types.
        vision_tokens: places of image features in a row.
    """

    ids_BT: NDArray[np.int64]
    extra: dict[str, Any]
    vision_tokens: int


def takes_images(given: Any) -> bool:
    """Whether a model is a vision-language model."""
    return getattr(find_model(given).config, "vision_config", None) is not None


def default_image_size(given: Any) -> int:
    """Pixels a side of an image as the model's configuration has it; 224 for those that take any size."""
    size = getattr(find_model(given).config.vision_config, "image_size", None)
    return int(size[0] if isinstance(size, list | tuple) else size or 224)


def image_prompt(
    given: Any, text_BT: NDArray[np.int64], num_images: int, image_size: int | None = None, *, seed: int = 0
) -> ImagePrompt:
    """A prompt with so many square images in every row.

    Args:
        given: a vision-language model.
        text_BT: the text's token ids.
        num_images: in each row.
        image_size: pixels a side; as `default_image_size` if None.
        seed: of the pixels.

    Raises:
        InputError: a text model, a size that the model does not take, or a kind of model that is not known here.
    """
    import torch

    model = find_model(given)
    config, kind = model.config, type(model).__name__
    if not takes_images(model):
        raise InputError(f"{kind} is a text model: it takes no images")
    if num_images == 0:
        return ImagePrompt(text_BT, {}, 0)
    image_id = getattr(config, "image_token_id", getattr(config, "image_token_index", None))
    parameters = set(inspect.signature(model.forward).parameters)
    if image_id is None or "pixel_values" not in parameters or not _features_from_pixels(model):
        raise InputError(f"{kind}: how it takes images is not known here; text can be measured without --images")
    batch, own = text_BT.shape[0], default_image_size(model)
    grid = "image_grid_thw" in parameters
    if not grid and image_size not in (None, own):
        raise InputError(f"--image-size {image_size}: {kind} takes images of {own} x {own} pixels; leave it out")
    generator = torch.Generator().manual_seed(seed)
    make = _grid_pixels if grid else _square_pixels
    extra = make(model, batch * num_images, image_size or own, generator)
    num_features = _count_features(model, extra)
    if num_features % (batch * num_images):
        raise InputError(f"{kind} gives {num_features} features for {batch * num_images} images: not as many for each")
    places = np.full(num_features // (batch * num_images), image_id, np.int64)
    fence = [getattr(config, name, None) for name in ("vision_start_token_id", "vision_end_token_id")]
    one = np.concatenate([[t for t in fence[:1] if t is not None], places, [t for t in fence[1:] if t is not None]])
    images_T = np.tile(one.astype(np.int64), num_images)
    text_BT = _without_special(config, text_BT)
    ids_BT = np.concatenate([np.tile(images_T, (batch, 1)), text_BT], axis=1)
    if grid:
        extra["mm_token_type_ids"] = torch.as_tensor(ids_BT == image_id, device=model.device).long()
    elif _has_image_axis(model):
        extra["pixel_values"] = extra["pixel_values"].unflatten(0, (batch, num_images))
    return ImagePrompt(ids_BT, extra, int((ids_BT[0] == image_id).sum()))


def _features_from_pixels(model: Any) -> bool:
    """Whether the tower asks for nothing but pixels and their grid."""
    if not hasattr(model, "get_image_features"):
        return False
    parameters = inspect.signature(model.get_image_features).parameters.values()
    required = {p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD}
    return required <= {"pixel_values", "image_grid_thw"}


def _without_special(config: Any, text_BT: NDArray[np.int64]) -> NDArray[np.int64]:
    """The text with ids that mean an image, a video or their ends, which a random text may hit, replaced."""
    special = {value for name, value in vars(config).items() if name.endswith(("_token_id", "_token_index"))}
    special = {value for value in special if isinstance(value, int)}
    plain = next(value for value in range(len(special) + 1) if value not in special)
    return np.where(np.isin(text_BT, list(special)), plain, text_BT)


def _grid_pixels(model: Any, num_images: int, size: int, generator: Any) -> dict[str, Any]:
    """Patches of all images below one another, and how many patches each image has in time, height and width."""
    import torch

    vision = model.config.vision_config
    side = vision.patch_size * vision.spatial_merge_size
    if size % side:
        raise InputError(f"--image-size {size}: {type(model).__name__} takes multiples of {side} pixels")
    patches = size // vision.patch_size
    channels = getattr(vision, "in_channels", None) or getattr(vision, "in_chans", 3)
    width = channels * vision.temporal_patch_size * vision.patch_size**2
    pixels = torch.randn(num_images * patches**2, width, generator=generator)
    grid = torch.tensor([[1, patches, patches]] * num_images)
    return {"pixel_values": pixels.to(model.device, model.dtype), "image_grid_thw": grid.to(model.device)}


def _square_pixels(model: Any, num_images: int, size: int, generator: Any) -> dict[str, Any]:
    import torch

    channels = getattr(model.config.vision_config, "num_channels", 3)
    pixels = torch.randn(num_images, channels, size, size, generator=generator)
    return {"pixel_values": pixels.to(model.device, model.dtype)}


def _has_image_axis(model: Any) -> bool:
    """Whether pixels have an axis for the images of a row: in the family of Idefics."""
    return hasattr(model.config, "scale_factor")


def _count_features(model: Any, extra: dict[str, Any]) -> int:
    """Rows of features that the vision tower and its projector give."""
    import torch

    pixels = extra["pixel_values"]
    arguments = {**extra, "pixel_values": pixels[None] if _has_image_axis(model) else pixels}
    with torch.inference_mode():
        found = model.get_image_features(**arguments)
    features = getattr(found, "pooler_output", found)
    hidden = int(model.config.get_text_config(decoder=True).hidden_size)
    return sum(int(tensor.numel()) for tensor in _tensors(features)) // hidden


def _tensors(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
    else:
        yield value
