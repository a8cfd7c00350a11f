"""Figures in one style: readable in grey, the legend beside the data, the same bytes for the same numbers."""

import io
import os
import warnings
from collections.abc import Callable, Sequence
from colorsys import hls_to_rgb, rgb_to_hls
from types import ModuleType
from typing import TYPE_CHECKING
from zlib import crc32

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Twelve hues, dark and light.
_SHADES = (
    "#1f3b5c", "#a9cbe3", "#8a5a1c", "#f3d7a2", "#2f5d34", "#bfe0b8", "#6b3a5b", "#e5c3da", "#8c2d2d", "#f2b8b0",
    "#176060", "#aadcd8", "#4b4b8f", "#c9c9ef", "#66661f", "#dfdf9e", "#4d4d4d", "#cfcfcf", "#9a4a22", "#efc9ab",
    "#00587f", "#9fd3ee", "#73388a", "#dcbfe6",
)  # fmt: skip
DARK, LIGHT, WARM = _SHADES[:3]
"""For pictures without parts."""
# In the order of a step, so that neighbours are dark and light in turn and differ in grey too. The first row is what a
# picture of the whole call has, the second what is inside the forward.
_PARTS = (
    "forward", "inputs", "logits", "sample", "stop", "bookkeeping", "sync", "lm_head",
    "embed", "norm", "attn.qkv", "attn.rope", "kv.append", "attn.mask.build", "attn.mask.apply", "attn.scores",
    "attn.softmax", "attn.pv", "attn.out", "mlp", "norm/final", "mask.fill", "mask.apply", "mask.accept",
)  # fmt: skip
_LIKE = {"attn": "attn.mask.apply"}
"""By its checksum `attn` has the colour of `mlp`, its neighbour in models of transformers; none has the other part."""
RESIDUAL_COLOUR = "#ffffff"


def part_colour(name: str) -> str:
    """The colour of a part: the same in every picture, whatever its rank there.

    Args:
        name: of the part. The checksum of a name that is not perstep's own chooses among the colours of the parts
            inside the forward: such a part is usually shown beside those of the whole call.
    """
    return _SHADES[part_shade(name)]


def part_shade(name: str) -> int:
    """The place of a part's colour among all of them, as `part_colour` chooses it."""
    name = _LIKE.get(name, name)
    if name in _PARTS:
        return _PARTS.index(name)
    return 8 + crc32(name.encode()) % (len(_SHADES) - 8)


def shade_colour(place: int) -> str:
    """The colour at a place of `part_shade`."""
    return _SHADES[place]


def page_shades() -> str:
    """Colours of parts (`--s0`) and of curves (`--p0` of a part, `--l0`) as a style sheet, in light and in dark.

    A hue that is too near to the page is made darker or lighter: a curve on white, curves and bars on a dark page.
    """

    def rules(page: str, least: float, shades: Sequence[str]) -> str:
        parts = (f".drawing .on.s{place}{{fill:{ink_on(shade)}}}" for place, shade in enumerate(shades))
        kinds = {"s": shades, "p": [_apart(one, page, least) for one in _SHADES],
                 "l": [_apart(one, page, least) for one in _LINES]}  # fmt: skip
        names = (f"--{kind}{place}:{one}" for kind, colours in kinds.items() for place, one in enumerate(colours))
        return f"{''.join(parts)}:root{{{';'.join(names)}}}"

    lines = [f"l{place}" for place in range(len(_LINES))] + [f"p{place}" for place in range(len(_SHADES))]
    drawn = "".join(f".{name}{{stroke:var(--{name})}}.mark.{name}{{fill:var(--{name});stroke:none}}" for name in lines)
    drawn += "".join(f".s{place}{{fill:var(--s{place});background:var(--s{place})}}" for place in range(len(_SHADES)))
    light = rules("#ffffff", 3.0, _SHADES)
    dark = rules(_DARK_PAGE, 4.5, [_apart(shade, _DARK_PAGE, 4.5) for shade in _SHADES])
    return f"{light}{drawn}@media screen and (prefers-color-scheme:dark){{{dark}}}"


_LINES = ("#1f3b5c", "#b5651d", "#2f5d34", "#7a4b8c", "#777777")
"""Of curves: those of `panels`."""
_DARK_PAGE = "#12161c"


def _channels(colour: str) -> list[int]:
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]


def _luminance(colour: str) -> float:
    """Relative luminance as WCAG defines it."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in _channels(colour))]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def ink_on(colour: str) -> str:
    """White or black, whichever reads better on a colour."""
    return max(("#ffffff", "#000000"), key=lambda ink: _contrast(ink, colour))


def _apart(colour: str, page: str, least: float) -> str:
    """A colour whose contrast to the page is at least this; its hue stays, which it would not mixed with white."""
    hue, light, saturation = rgb_to_hls(*(c / 255 for c in _channels(colour)))
    away = 0.01 if is_dark(page) else -0.01
    while _contrast(colour, page) < least:
        light += away
        colour = "#" + "".join(f"{round(255 * c):02x}" for c in hls_to_rgb(hue, light, saturation))
    return colour


def draw_png(width_in: float, height_in: float, draw: Callable[["Figure"], None]) -> bytes:
    """A picture as PNG at 150 dpi; equal data give equal bytes, so it bears no date and no program version.

    The user's own matplotlib settings neither matter nor change. Names are drawn as they are, `$` included; a
    character that the font lacks is a box.

    Args:
        width_in: in inches.
        height_in: in inches.
        draw: fills an empty figure that lays itself out.
    """
    style, Figure = _matplotlib()
    with style.context(["default", {"text.parse_math": False}]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(width_in, height_in), layout="constrained")
        draw(figure)
        return _as_png(figure)


def _as_png(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()


def _matplotlib() -> tuple[ModuleType, type["Figure"]]:
    """matplotlib, which refuses to be imported where MPLBACKEND names none; no window is opened here."""
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        from matplotlib import style
        from matplotlib.figure import Figure
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    return style, Figure


def is_dark(colour: str) -> bool:
    """Whether white text reads better than black on this colour (relative luminance under 0.45)."""
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.45
