"""What of a person's own text a run keeps: hashes of prompts and arguments, and paths as seen from the working folder.

A run folder is made to be sent to a colleague or attached to a report. `docs/privacy.md` lists what is in it.
"""

import hashlib
import os
import re
import sys
from pathlib import Path

from perstep._json import Json

TEXT_OPTIONS = ("--prompt",)
"""Options whose value is a person's text; the field of the plan has the same name."""
_ABSOLUTE = re.compile(r"(?<![\w.~/:])/(?:[^\s/:'\"`,)]+/)+([^\s/:'\"`,)]+)")
"""An absolute path inside a sentence; one with a blank in it is found up to there."""
_HASHED = re.compile(r"sha256:[0-9a-f]{16}")


def hashed(text: str) -> str:
    """The beginning of a text's SHA-256: equal texts are seen to be equal; of a hash the hash itself."""
    return text if _HASHED.fullmatch(text) else f"sha256:{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def command_line() -> list[str]:
    """The words of the `perstep` command that runs; none where a program of somebody's own uses the library."""
    program = Path(sys.argv[0])
    is_ours = program.stem == "perstep" or (program.stem == "__main__" and program.parent.name == "perstep")
    return ["perstep", *sys.argv[1:]] if is_ours else []


def without_text(options: dict[str, Json]) -> dict[str, Json]:
    """A plan or a workload with hashes in place of prompts and of a script's arguments."""
    stored = dict(options)
    for name in (option.removeprefix("--") for option in TEXT_OPTIONS):
        if isinstance(stored.get(name), str):
            stored[name] = hashed(stored[name])
    if stored.get("arguments"):
        stored["arguments"] = [hashed(word) for word in stored["arguments"]]
    return stored


def command_without_text(argv: list[str], num_arguments: int) -> list[str]:
    """A command line with hashes in place of what `without_text` hides.

    Args:
        argv: the words.
        num_arguments: how many of the last ones are a script's own.
    """
    words: list[str] = []
    script_from = len(argv) - num_arguments
    for index, word in enumerate(argv):
        option, given, value = word.partition("=")
        if index >= script_from or (words and argv[index - 1] in TEXT_OPTIONS):
            words.append(hashed(word))
        elif given and option in TEXT_OPTIONS:
            words.append(f"{option}={hashed(value)}")
        else:
            words.append(word)
    return words


def with_short_paths(value: Json) -> Json:
    """The same with every absolute path shortened.

    From the working folder on if it is in there (`runs/a`), from the home folder on (`~/models/b`), else the name alone
    (`.../b`).
    """
    if isinstance(value, str):
        return _shortened(value)
    if isinstance(value, dict):
        return {name: with_short_paths(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [with_short_paths(item) for item in value]
    return _shortened(str(value)) if isinstance(value, Path) else value


def _shortened(text: str) -> str:
    for folder, short in ((os.getcwd(), ""), (os.path.expanduser("~"), "~/")):  # noqa: PTH109, PTH111 - no error without a home
        if len(folder) > 1:
            text = text.replace(f"{folder}{os.sep}", short)
    if Path(text).is_absolute():
        return f".../{Path(text).name}"
    return _ABSOLUTE.sub(r".../\1", text)
