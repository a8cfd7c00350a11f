"""What the code and the documentation say about installing."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

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


def test_every_pinned_package_can_be_installed_for_the_oldest_python() -> None:
    """3.11.2 is Debian's; one package for 3.11.5 and later among the pins makes `make env` impossible there."""
    assert PYPROJECT["project"]["requires-python"] == ">=3.11"
    pins = re.findall(r"^([\w.-]+)==([^\s;]+)", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    needs = {name: needed for name, version in pins if (needed := _needed_python(name, version))}
    assert len(needs) > 50
    assert {name: needed for name, needed in needs.items() if "3.11.0" not in SpecifierSet(needed)} == {}


def _needed_python(name: str, version: str) -> str:
    """What Python an installed package needs; nothing of one that is not here, or here in another version."""
    try:
        found = metadata(name)
    except PackageNotFoundError:
        return ""
    return found["Requires-Python"] or "" if found["Version"] == version else ""
