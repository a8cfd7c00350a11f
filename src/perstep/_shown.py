"""How a notebook shows a value: by a function of a higher room, whose name `perstep/__init__.py` gives.

A ledger is on the second floor and what draws it on the fourth, so the ledger asks for it by name.
"""

from importlib import import_module

_SHOWS: list[str] = []


def show_with(module: str) -> None:
    """Name the module whose function `html` shows a value; it is imported when a notebook shows the first one."""
    _SHOWS[:] = [module]


def html(value: object) -> str | None:
    """A value as a piece of HTML, for `_repr_html_`; None where nobody shows it."""
    return import_module(_SHOWS[0]).html(value) if _SHOWS else None
