"""What `[tool.perstep]` in a pyproject.toml may set: how results are shown, the budget, and the precision.

Nothing else can come from a file that lies in a folder: no module, no command and no path. An option on the command
line goes first. A budget or a precision from the file stands in the manifest like any other.
"""

import tomllib
from pathlib import Path

from cyclopts import App, ArgumentCollection, Token

from perstep._files import read_given
from perstep._json import Json
from perstep.errors import InputError

SOURCE = "pyproject.toml"
SETTINGS = {"output": "--output", "quiet": "--quiet", "budget": "--budget", "precision": "--precision"}
"""Setting -> the option that it stands for."""
_EFFORT = {"budget", "precision"}
_OWN_EFFORT = {"--budget", "--precision", "--rounds", "--fast", "--rigorous"}
"""Options that say how long to measure: where one is given, the file says nothing of it."""
_WRONG = "is for the display, the budget and the precision alone"


def from_file(_app: App, _commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Take settings for the options that are not given; for cyclopts' `config`.

    Raises:
        InputError: the file cannot be read, or sets something else.
    """
    settings = _settings(Path(SOURCE))
    given = {name for argument in arguments if argument.tokens for name in argument.names}
    for name, value in settings.items():
        if name in _EFFORT and given & _OWN_EFFORT:
            continue
        for argument in arguments:
            if SETTINGS[name] in argument.names and not argument.tokens:
                argument.append(Token(keyword=f"[tool.perstep] {name}", value=_text(name, value), source=SOURCE))


def _settings(path: Path) -> dict[str, Json]:
    if not path.is_file():  # neither a folder nor a pipe, which nobody fills
        return {}
    try:
        tool = tomllib.loads(read_given(path).decode()).get("tool", {})
    except (OSError, ValueError, RecursionError):
        return {}  # what is wrong with it is for the tools that need it to say
    settings = tool.get("perstep", {}) if isinstance(tool, dict) else {}
    if not isinstance(settings, dict):
        raise InputError(f'{path}: [tool.perstep] must be a table; write budget = "60s" below it')
    unknown = [name for name in settings if name not in SETTINGS]
    if unknown:
        raise InputError(f"{path}: [tool.perstep] has {unknown[0]!r}, but it {_WRONG}: {', '.join(SETTINGS)}")
    return settings


def _text(name: str, value: Json) -> str:
    """A value as it would be written on the command line."""
    if name == "quiet":
        if not isinstance(value, bool):
            raise InputError(f"{SOURCE}: [tool.perstep] quiet is {value!r}; write true or false")
        return str(value).lower()
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise InputError(
            f'{SOURCE}: [tool.perstep] {name} is {value!r}; write it as on the command line, such as "60s"'
        )
    return str(value)
