"""HTML and SVG as text: every text and every attribute is escaped, and what is markup has a type of its own."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from html import escape

from perstep._json import Json
from perstep.report.format import printable


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


_HIDE: ContextVar[Callable[[str], str] | None] = ContextVar("_HIDE", default=None)


@contextmanager
def hiding(hide: Callable[[str], str] | None) -> Iterator[None]:
    """Every text that becomes markup inside goes through this function first."""
    token = _HIDE.set(hide)
    try:
        yield
    finally:
        _HIDE.reset(token)


def hidden(value: Json) -> Json:
    """Data with every text in it, keys among them, as `hiding` leaves it."""
    hide = _HIDE.get()
    if hide is None:
        return value
    if isinstance(value, str):
        return hide(value)
    if isinstance(value, Mapping):
        return {hide(key): hidden(inner) for key, inner in value.items()}
    return [hidden(one) for one in value] if isinstance(value, list | tuple) else value


def text(value: str) -> Markup:
    """A text from anywhere, to be shown as it is; control characters are replaced."""
    hide = _HIDE.get()
    return Markup(escape(printable(value if hide is None else hide(value))))


_SHORT = 26
"""Characters of a name that fit beside a bar."""
_UNIT = re.compile(r"(?<=\d) (?=(?:%|ns|µs|ms|s|x|rounds?|steps?)(?![\w]))")
_WHOLE = re.compile(r"\b\d\w*(?:-\w+)+|(?<![\w-])--?[a-z][\w-]*")
_CODE = re.compile(r"`([^`]+)`")
_JOINT = re.compile(r"(?<=[/=.(_,])(?=\w)")


def sentence(value: str) -> Markup:
    """A text of perstep's own, a `quantity` with its interval on one line; what stands between backticks is code."""
    kept = re.sub(r"\[[^][]{1,40}\]", lambda ends: ends[0].replace(" ", "\xa0"), _UNIT.sub("\xa0", text(value)))
    return Markup(_CODE.sub(r"<code>\g<1></code>", _kept_whole(kept)))


def sentences(said: Iterable[str], class_: str | None = None) -> Markup:
    """A list of them; nothing where there is none."""
    items = [element("li", sentence(one)) for one in said]
    return element("ul", *items, class_=class_) if items else Markup("")


def quantity(value: str) -> Markup:
    """A text in which no line ends between a number and its unit, nor in what `verbatim` keeps whole."""
    return _kept_whole(_UNIT.sub("\xa0", text(value)))


def verbatim(value: str) -> Markup:
    """A text as it is, to be copied: no line ends in a date, the name of a run or an option."""
    return _kept_whole(text(value))


def _kept_whole(escaped: str) -> Markup:
    return Markup(_WHOLE.sub(r'<span class="whole">\g<0></span>', escaped))


def code(value: str) -> Markup:
    """A name of code or of a run: on one line if it is short, else its lines end behind a dot, a slash or the like."""
    broken = Markup(_JOINT.sub("<wbr>", text(value)))
    return element("span", broken, class_="whole") if len(value) <= _SHORT else broken


def element(name: str, /, *content: str, **attributes: str | float | bool | None) -> Markup:
    """An element.

    Args:
        name: of it.
        content: what is no `Markup` is escaped.
        attributes: a trailing underscore is dropped and others are hyphens; None and False leave one out, and True
            gives one without a value.
    """
    inside = "".join(one if isinstance(one, Markup) else text(one) for one in content)
    opened = f"<{name}{''.join(_attributes(attributes))}>"
    return Markup(opened if name in _VOID else f"{opened}{inside}</{name}>")


def join(pieces: Iterable[Markup]) -> Markup:
    """Pieces of markup after one another."""
    return Markup("".join(pieces))


_VOID = {"meta", "link", "hr", "br", "wbr", "input"}


def _attributes(given: dict[str, str | float | bool | None]) -> Iterable[str]:
    for name, value in given.items():
        if value is None or value is False:
            continue
        called = name.rstrip("_").replace("_", "-")
        called = "viewBox" if called == "viewbox" else "preserveAspectRatio" if called == "ratio" else called
        yield f" {called}" if value is True else f' {called}="{text(_short(value))}"'


def _short(value: str | float) -> str:
    """A number with at most two decimals: a hundredth of a unit of a drawing cannot be seen."""
    return value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".") if value % 1 else f"{value:.0f}"
