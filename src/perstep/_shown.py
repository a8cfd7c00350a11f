"""How a notebook shows a value: by functions of a higher room, whose name `perstep/__init__.py` gives.

A ledger is on the second floor and what draws it on the fourth, so the ledger asks for it by name.
"""

from importlib import import_module

_SHOWS: list[str] = []


def show_with(module: str) -> None:
    """Name the module whose functions `html` and `short` show a value; it is imported when the first one is shown."""
    _SHOWS[:] = [module]


def html(value: object) -> str | None:
    """A value as a piece of HTML, for `_repr_html_`; None where nobody shows it."""
    markup = import_module(_SHOWS[0]).html(value)
    return None if markup is None else str(markup)


class Shown:
    """A value with a short `repr`, which a notebook shows as HTML."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(import_module(_SHOWS[0]).short(self))

    def _repr_html_(self) -> str | None:
        return html(self)
