"""Where the files that ship with perstep are: mini's model folder, its held-out text, the default schema.

Paths only, so that importing this costs nothing; nothing is read or checked here. How the files
were made, and what they are worth, is written beside the training code, in `training/README.md`.
"""

from pathlib import Path

__all__ = [
    "conjugation_schema_path",
    "fix_results_schema_path",
    "heldout_path",
    "knob_results_schema_path",
    "mini_path",
]

_HERE = Path(__file__).parent


def mini_path() -> Path:
    """The folder of mini, the built-in trained model, in the standard Hugging Face format."""
    return _HERE / "mini"


def heldout_path() -> Path:
    """Text that mini has not seen (UTF-8, one sentence a line); its perplexity is in `report.json`."""
    return mini_path() / "heldout.txt"


def conjugation_schema_path() -> Path:
    """The JSON schema of the objects that mini was trained to write."""
    return _HERE / "conjugation_schema.json"


def fix_results_schema_path() -> Path:
    """The JSON schema of `results.json` of fix."""
    return _HERE / "fix_results.schema.json"


def knob_results_schema_path() -> Path:
    """The JSON schema of `results.json` of depth, experts, context and output."""
    return _HERE / "knob_results.schema.json"
