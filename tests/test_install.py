"""What the code and the documentation say about installing."""

import re
import tomllib
from pathlib import Path

import pytest

from perstep.errors import how_to_install

ROOT = Path(__file__).parents[1]
TEXTS = [
    path
    for pattern in (
        "*.md",
        "docs/**/*.md",
        "src/**/*.py",
        "src/**/*.md",
        "training/*",
        "benchmarks/*.py",
        ".github/**/*",
    )
    for path in ROOT.glob(pattern)
    if path.is_file()
]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_nothing_is_installed_from_an_index_that_does_not_have_it() -> None:
    """Perstep is on no package index: `pip install 'perstep[hf]'` fails wherever it is written."""
    assert len(TEXTS) > 300
    wrong = [path for path in TEXTS if re.search(r"pip3? install [^\n]*\bperstep\b", path.read_text(encoding="utf-8"))]
    assert wrong == []


@pytest.mark.parametrize("extra", ["hf", "grammar", "xgrammar"])
def test_what_is_said_is_what_works_from_a_clone(extra: str) -> None:
    """The extra exists, `make env` is offered exactly where it installs it, and README or a page says the same."""
    said = how_to_install(extra)
    command = f"pip install -c constraints.txt -e '.[{extra}]'"
    assert said.endswith(command)
    assert extra in PYPROJECT["project"]["optional-dependencies"]
    [in_make_env] = re.findall(r"-e '\.\[([a-z,]+),dev\]'", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert ("make env" in said) == (extra in in_make_env.split(","))
    pages = [path.name for path in TEXTS if path.suffix == ".md" and f"`{command}`" in path.read_text(encoding="utf-8")]
    wanted = {"hf": {"README.md", "fast.md", "generate.md", "ledger.md", "watch.md"}}.get(extra, {"mask.md"})
    assert set(pages) == wanted
