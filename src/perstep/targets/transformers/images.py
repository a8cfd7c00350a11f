"""Prompts with images for vision-language models, made without a processor: random pixels, places for their features.

What the vision tower costs does not depend on the pixels. How many tokens an image takes is counted: the tower runs
once, and as many places are made in the prompt as it gives rows of features; the model checks that both agree. How
pixels are laid out for a model is in `pixels.py`. Text and its tokenizer are no concern of this module, nor are the
words that a processor writes between the rows of an image.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from perstep._words import plural
from perstep.errors import InputError
from perstep.targets.transformers.instrument import find_model
from perstep.targets.transformers.pixels import Piece, Pixels, image_id_of, make_pixels
from perstep.targets.transformers.protocols import Argument, Config, Model

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ImagePrompt:
    """A prompt with images in front of its text.

    Attributes:
        ids_BT: token ids, the places of images included.
        extra: what generate takes besides: pixels, grids, token types.
        vision_tokens: places of image features in a row.
    """

    ids_BT: NDArray[np.int64]
    extra: "dict[str, torch.Tensor]"
    vision_tokens: int


def takes_images(given: object) -> bool:
    """Whether a model is a vision-language model."""
    return getattr(find_model(given).config, "vision_config", None) is not None


def image_prompt(
    given: object, text_BT: NDArray[np.int64], num_images: int, image_size: int | None = None, *, seed: int = 0
) -> ImagePrompt:
    """A prompt with this many square images in every row.

    Args:
        given: a vision-language model.
        text_BT: the text's token ids.
        num_images: in each row.
        image_size: pixels a side; as the model's configuration has it if None, and 224 where it has none.
        seed: of the pixels.

    Raises:
        InputError: a text model, a size that the model does not take, or a kind of model that is not known here.
    """
    model = find_model(given)
    kind = type(model).__name__
    if not takes_images(model):
        raise InputError(f"{kind} is a text model: it takes no images")
    if num_images == 0:
        return ImagePrompt(text_BT, {}, 0)
    batch = text_BT.shape[0]
    pixels = make_pixels(model, batch, num_images, image_size, seed)
    num_features = _count_features(model, pixels)
    if num_features % (batch * num_images):
        raise InputError(
            f"{kind} gives {plural(num_features, 'feature')} for {plural(batch * num_images, 'image')}: not the same "
            "number for each"
        )
    image_id = image_id_of(model)
    image = [_ids_of(piece, image_id) for piece in pixels.pieces(num_features // (batch * num_images))]
    images_T = np.tile(np.concatenate(image), num_images)
    text_BT = _without_special(model.config, image_id, text_BT)
    ids_BT = np.concatenate([np.tile(images_T, (batch, 1)), text_BT], axis=1)
    extra = {**pixels.arguments, **_token_types(model, ids_BT, pixels)}
    return ImagePrompt(ids_BT, extra, int((ids_BT[0] == image_id).sum()))


def _ids_of(piece: Piece, image_id: int) -> NDArray[np.int64]:
    """The token ids of a piece of an image: its places, between the tokens at its ends."""
    ids = [piece.start_id, *[image_id] * piece.places, piece.end_id]
    return np.array([token for token in ids if token is not None], np.int64)


def _token_types(model: Model, ids_BT: NDArray[np.int64], pixels: Pixels) -> "dict[str, torch.Tensor]":
    """1 where a token is an image's, for models that attend to images in both directions or place them in a grid."""
    import torch

    if pixels.types_name is None:
        return {}
    of_images = [image_id_of(model), *pixels.typed_ids]
    return {pixels.types_name: torch.as_tensor(np.isin(ids_BT, of_images), device=model.device).long()}


def _without_special(config: Config, image_id: int, text_BT: NDArray[np.int64]) -> NDArray[np.int64]:
    """The text with ids that mean an image, a video or their ends, which a random text may hit, replaced."""
    special = {value for name, value in vars(config).items() if name.endswith(("_token_id", "_token_index"))}
    special = {image_id, *(value for value in special if isinstance(value, int))}
    plain = next(value for value in range(len(special) + 1) if value not in special)
    return np.where(np.isin(text_BT, list(special)), plain, text_BT)


def _count_features(model: Model, pixels: Pixels) -> int:
    """Rows of features that the vision tower and its projector give."""
    import torch

    with torch.inference_mode():
        output = model.get_image_features(**pixels.arguments)
    features = getattr(output, "pooler_output", output)
    hidden = int(model.config.get_text_config(decoder=True).hidden_size)
    return sum(int(tensor.numel()) for tensor in _tensors(features)) // hidden


def _tensors(value: Argument) -> "Iterator[torch.Tensor]":
    if isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
    else:
        yield value
