"""What must be installed, and which hook points a version of transformers has.

Supported from 4.57 on. Between versions the loop moves: what a hook point is for
and what is lost without it stands in `HOOK_POINTS`, and `missing_hooks` says which
ones this version lacks. Imports nothing heavy before it is asked.
"""

import importlib.util
import re
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from perstep.errors import InputError, how_to_install

OLDEST: Final = (4, 57)

HOOK_POINTS: Final[dict[str, str]] = {
    "_has_unfinished_sequences": "steps end where the next forward is prepared",
    "_get_logits_processor": "logits processors are not timed one by one",
    "_get_stopping_criteria": "stopping criteria are not timed one by one",
    "_update_model_kwargs_for_generation": "a compiled forward cannot be separated from what follows it",
    "_prepare_cache_for_generation": "cache updates are part of attention",
    "_get_candidate_generator": "the drafting of assisted decoding cannot be separated from bookkeeping",
    "_valid_auto_compile_criteria": "a forward that transformers compiles by itself cannot be recognised",
}
"""Method of a model that generates -> what is lost in a version without it."""


def require() -> None:
    """See that torch and a supported transformers are installed.

    Raises:
        InputError: one is missing, or transformers is older than 4.57.
    """
    for package in ("torch", "transformers"):
        if importlib.util.find_spec(package) is None:
            raise InputError(f"this needs {package}, which is not installed: {how_to_install('hf')}")
    try:
        installed = version("transformers")
    except PackageNotFoundError:  # on the path, but without its metadata
        import transformers

        installed = transformers.__version__
    numbers = tuple(int(number) for number in re.findall(r"\d+", installed)[:2])
    if numbers < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise InputError(f"transformers {installed} is too old: {oldest} or later is needed; {how_to_install('hf')}")


def missing_hooks(model: object) -> list[str]:
    """One note for each hook point that this model does not have, saying what is lost."""
    return [
        f"{type(model).__name__} has no {name} in this version of transformers: {lost}"
        for name, lost in HOOK_POINTS.items()
        if not hasattr(model, name)
    ]
