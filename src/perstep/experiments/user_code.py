"""Code of the user's own, named on the command line as module:name.

The current folder leads Python's path from then on, as it does under `python -m`, so that what lies there is found
whichever way perstep was started: the module itself, and what its functions import when they are called.
"""

import re
import sys
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Any

from perstep.errors import InputError

NAMED = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
"""How a name in a module is written."""


Named = Any
"""Whatever a user's module calls by that name."""


def import_named(spec: str) -> Named:
    """What `module:name` stands for; the module is looked for in the current folder first.

    Raises:
        InputError: it is written otherwise, its module cannot be imported or ends the program, or has no such name.
    """
    if not NAMED.fullmatch(spec):
        raise InputError(f"{spec!r} is not a name in a module; write module:name, such as my_module:my_function")
    module, _, name = spec.partition(":")
    here = str(Path.cwd())
    if sys.path[:1] != [here]:
        sys.path.insert(0, here)
    try:
        return attrgetter(name)(import_module(module))
    except (Exception, SystemExit) as error:  # whatever a module of somebody's raises while it is imported
        raise InputError(f"cannot import {spec}: {type(error).__name__}: {error}") from error
