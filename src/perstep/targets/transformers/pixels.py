"""Random pixels as each kind of vision-language model takes them, and how its image lies in the prompt.

Kinds are told apart by what the model's forward takes. Four are known: a grid of patches of any size; crops whose
patches are pooled by index (Molmo 2); tiles of one size, with a view of the whole image beside them; one image of one
size. Whether images are cut into tiles is a habit of a family's processor that no model's signature shows, so those
families are named here. Another kind is refused by name.
"""

import inspect
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from perstep._words import plural
from perstep.errors import InputError
from perstep.targets.transformers.protocols import Config, Model

if TYPE_CHECKING:
    import torch

_TILED: Final = ("internvl", "idefics3", "smolvlm")
"""Model types whose processors cut an image into tiles of the tower's size, and add a view of the whole."""

_OVERLAP: Final = 4
"""Patches on each side of a crop that its neighbour has too, in the processor of Molmo 2."""
_POOL: Final = 2
"""Patches a side that its adapter makes one feature of."""


@dataclass(frozen=True)
class Piece:
    """Consecutive places of an image in the prompt, and the tokens at their ends, or None."""

    places: int
    start_id: int | None
    end_id: int | None


@dataclass(frozen=True)
class Pixels:
    """What a model is given of its images, apart from their places in the prompt.

    Attributes:
        arguments: of `get_image_features` and of generate: pixels, and what says how they belong together.
        fences: ids of the tokens at the ends of each piece of an image, or None.
        places: of each piece but the last, which has those that are left.
        types_name: the argument that says which tokens are an image's; None where the model does not ask.
        typed_ids: ids besides that of an image's place that count as an image's there.
    """

    arguments: "dict[str, torch.Tensor]"
    fences: tuple[tuple[int | None, int | None], ...]
    places: tuple[int, ...] = ()
    types_name: str | None = None
    typed_ids: tuple[int, ...] = field(default=())

    def pieces(self, num_features: int) -> list[Piece]:
        """The pieces of one image, which gives this many rows of features."""
        places = [*self.places, num_features - sum(self.places)]
        return [Piece(count, *fence) for count, fence in zip(places, self.fences, strict=True)]


def _own_size(model: Model) -> int:
    """Pixels a side of an image as the model's configuration has it; 224 for those that take any size."""
    size = getattr(model.config.vision_config, "image_size", None)
    return int(size[0] if isinstance(size, list | tuple) else size or 224)


def image_id_of(model: Model) -> int:
    """The token id that stands for a row of image features."""
    image_id = _image_id(model)
    assert image_id is not None  # noqa: S101 - `make_pixels` has refused a model without one
    return image_id


def make_pixels(model: Model, batch: int, num_images: int, image_size: int | None, seed: int) -> Pixels:
    """Random images in every row of a batch.

    Args:
        model: a vision-language model.
        batch: rows.
        num_images: in each row, one at least.
        image_size: pixels a side; as the model's configuration has it if None, and 224 where it has none.
        seed: of the pixels.

    Raises:
        InputError: a size that the model does not take, or a kind of model that is not known here.
    """
    import torch

    wanted = _refuse_if_unknown(model)
    generator = torch.Generator().manual_seed(seed)
    size = image_size or _own_size(model)
    count = batch * num_images
    if "image_token_pooling" in wanted:
        return _pooled_crops(model, count, size, generator)
    if "image_grid_thw" in inspect.signature(model.forward).parameters:
        return _grid(model, count, size, generator)
    return _squares(model, batch, num_images, size, generator)


def _image_id(model: Model) -> int | None:
    image_id = getattr(model.config, "image_token_id", getattr(model.config, "image_token_index", None))
    return None if image_id is None else int(image_id)


def _refuse_if_unknown(model: Model) -> set[str]:
    """What a model's tower asks for, if it is known here how to make it."""
    kind, hint = type(model).__name__, "its text can be measured without --images"
    if _image_id(model) is None or not hasattr(model, "get_image_features"):
        raise InputError(f"{kind} has no token that stands for image features in a prompt: {hint}")
    parameters = inspect.signature(model.get_image_features).parameters.values()
    wanted = {p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD}
    unknown = wanted - {"pixel_values", "image_grid_thw", "image_token_pooling", "image_grids"}
    if "pixel_values" not in wanted or unknown:
        words = " and ".join(sorted(unknown)) or "no pixel_values"
        raise InputError(f"{kind}: its vision tower takes {words}, which perstep cannot make; {hint}")
    return wanted


def _of(config: Config, *names: str) -> tuple[int | None, ...]:
    return tuple(getattr(config, name, None) for name in names)


def _fence(model: Model) -> tuple[int | None, int | None]:
    start, end = _of(model.config, "vision_start_token_id", "vision_end_token_id")
    return start, end


def _random(model: Model, generator: "torch.Generator", *shape: int) -> "torch.Tensor":
    """Never all zero, which the family of Idefics takes for no image."""
    import torch

    return torch.randn(*shape, generator=generator).to(model.device, model.dtype)


def _grid(model: Model, count: int, size: int, generator: "torch.Generator") -> Pixels:
    """Patches of all images below one another, and how many patches each image has in time, height and width."""
    import torch

    vision = model.config.vision_config
    side = vision.patch_size * vision.spatial_merge_size
    if size % side:
        raise InputError(f"--image-size {size}: {type(model).__name__} takes multiples of {plural(side, 'pixel')}")
    patches = size // vision.patch_size
    channels = getattr(vision, "in_channels", None) or getattr(vision, "in_chans", 3)
    width = channels * vision.temporal_patch_size * vision.patch_size**2
    arguments = {
        "pixel_values": _random(model, generator, count * patches**2, width),
        "image_grid_thw": torch.tensor([[1, patches, patches]] * count, device=model.device),
    }
    return Pixels(arguments, (_fence(model),), types_name="mm_token_type_ids")


def _squares(model: Model, batch: int, num_images: int, size: int, generator: "torch.Generator") -> Pixels:
    """Whole images of the one size that the tower takes, or tiles of it."""
    own, channels = _own_size(model), getattr(model.config.vision_config, "num_channels", 3)
    squares = batch * num_images * _tiles(model, size, own)
    pixels = _random(model, generator, squares, channels, own, own)
    if hasattr(model.config, "scale_factor"):  # the family of Idefics: an axis for the squares of a row
        pixels = pixels.unflatten(0, (batch, squares // batch))
    types_name = "token_type_ids" if model.config.model_type == "gemma3" else None
    return Pixels({"pixel_values": pixels}, (_fence(model),), types_name=types_name)


def _tiles(model: Model, size: int, own: int) -> int:
    """Squares that an image becomes: itself, or its tiles and a view of the whole."""
    kind = type(model).__name__
    if model.config.model_type not in _TILED:
        if size != own:
            raise InputError(
                f"--image-size {size}: {kind} takes images of {own} x {plural(own, 'pixel')}, and its processor "
                "resizes every image to that; leave it out, and vary --images"
            )
        return 1
    if size % own:
        raise InputError(
            f"--image-size {size}: {kind} takes tiles of {plural(own, 'pixel')} a side; give multiples, such as "
            f"{own},{2 * own}"
        )
    across = size // own
    return across**2 + 1 if across > 1 else 1


def _pooled_crops(model: Model, count: int, size: int, generator: "torch.Generator") -> Pixels:
    """The whole image as one crop, and overlapping crops of it; each window of patches is pooled into one feature.

    As the processor of Molmo 2 does it: of a patch that two crops have, the one nearer to its crop's middle is pooled.
    """
    import torch

    vision, config = model.config.vision_config, model.config
    crop = _own_size(model) // vision.patch_size
    overlap = _OVERLAP if crop > 2 * _OVERLAP else 0
    across = _crops_across(model, size, crop, crop - 2 * overlap)
    whole = _windows(torch.arange(crop**2).reshape(crop, crop))
    cut = _windows(_patches_kept(across, crop, overlap) + crop**2)
    crops = 1 + across**2
    step = crops * crop**2
    pooling = [torch.where(index < 0, index, index + step * image) for image in range(count) for index in (whole, cut)]
    grid = [*whole.shape[:2], *cut.shape[:2]]
    patch = vision.num_channels * vision.patch_size**2
    arguments = {
        "pixel_values": _random(model, generator, count * crops, crop**2, patch),
        "image_token_pooling": torch.cat([index.flatten(0, 1) for index in pooling]).to(model.device),
        "image_grids": torch.tensor([grid] * count, device=model.device),
    }
    start, low_start, end = _of(config, "image_start_token_id", "low_res_image_start_token_id", "image_end_token_id")
    fences = ((low_start, end), (start, end))
    typed = tuple(token for token in (start, low_start, end) if token is not None)
    return Pixels(arguments, fences, (grid[0] * grid[1],), "mm_token_type_ids", typed)


def _crops_across(model: Model, size: int, crop: int, window: int) -> int:
    """Crops beside one another that an image of this size is cut into."""
    patch = model.config.vision_config.patch_size
    across, rest = divmod(size // patch - (crop - window), window)
    if across < 1 or rest or size % patch:
        sizes = ", ".join(str((crop + more * window) * patch) for more in range(3))
        raise InputError(f"--image-size {size}: {type(model).__name__} cuts images of {sizes} ... pixels into crops")
    return int(across)


def _patches_kept(across: int, crop: int, overlap: int) -> "torch.Tensor":
    """Indices of the patches of all crops that are pooled, as they lie in the image, [patches, patches]."""
    import torch

    index = torch.arange(across**2 * crop**2).reshape(across, across, crop, crop)
    kept = torch.ones_like(index, dtype=torch.bool)
    if overlap:
        kept[1:, :, :overlap] = kept[:-1, :, -overlap:] = False
        kept[:, 1:, :, :overlap] = kept[:, :-1, :, -overlap:] = False
    patches = across * (crop - 2 * overlap) + 2 * overlap
    return index.permute(0, 2, 1, 3)[kept.permute(0, 2, 1, 3)].reshape(patches, patches)


def _windows(index: "torch.Tensor") -> "torch.Tensor":
    """Patches in windows, padded by -1 at the edges, [rows, columns, patches of a window]."""
    import torch

    odd = -index.shape[0] % _POOL
    padded = torch.nn.functional.pad(index, (odd // 2, odd - odd // 2, odd // 2, odd - odd // 2), value=-1)
    side = padded.shape[0] // _POOL
    return padded.reshape(side, _POOL, side, _POOL).permute(0, 2, 1, 3).reshape(side, side, _POOL**2)
