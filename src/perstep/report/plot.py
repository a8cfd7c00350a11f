"""Figures in one style: readable in grey, the legend beside the data, the same bytes for the same numbers."""

import io
import os
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Dark and light in turn, so that neighbours differ in grey as well as in colour.
_SHADES = ("#1f3b5c", "#a9cbe3", "#8a5a1c", "#f3d7a2", "#2f5d34", "#bfe0b8", "#6b3a5b", "#e5c3da")
RESIDUAL_COLOUR = "#ffffff"


def part_colour(index: int) -> str:
    """The colour of the part with this index in its bar."""
    return _SHADES[index % len(_SHADES)]


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
    buffer = io.BytesIO()
    with style.context(["default", {"text.parse_math": False}]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(width_in, height_in), layout="constrained")
        draw(figure)
        figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()


def _matplotlib() -> tuple[Any, type["Figure"]]:
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
