"""Other people's packages: what the list says of them, and what is said of one that cannot be run or is not equal."""

import hashlib
import re
import runpy
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.hf
pytest.importorskip("transformers")

LICENCES = {"MIT", "Apache-2.0", "BSD-3-Clause", "LGPL-3.0"}


@pytest.fixture(scope="module")
def bench() -> dict[str, Any]:
    """The names of the script."""
    return runpy.run_path(str(ROOT / "benchmarks" / "strangers.py"), run_name="strangers")


def test_the_list_says_of_each_where_it_is_from_and_under_which_licence(bench: dict[str, Any]) -> None:
    """At least eight from PyPI, each with its version and SHA-256; what they need is listed likewise."""
    strangers, also = bench["read_list"]()
    archives = [one.archive for one in strangers] + list(also.values())
    assert len(strangers) >= 20
    assert sum(bool(one.archive.pypi) for one in strangers) >= 8
    assert len({one.name for one in strangers}) == len(strangers)
    for archive in archives:
        name, _, version = archive.pypi.partition("==")
        assert archive.file.lower().replace("_", "-").startswith(f"{name.lower()}-{version}".replace("_", "-"))
        assert re.fullmatch("[0-9a-f]{64}", archive.sha256)
        assert archive.licence in LICENCES
    for one in strangers:
        assert set(one.needs) <= also.keys()
        assert one.weights
        compile(one.run, one.name, "exec")
        assert len(one.run.splitlines()) < 25


def wheel(folder: Path, source: str) -> Any:
    """A package of our own, `theirs`, in a wheel."""
    path = folder / "theirs-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("theirs/__init__.py", source)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_that_is_absent_or_another_is_not_run(bench: dict[str, Any], tmp_path: Path) -> None:
    """And it is said which, with its SHA-256."""
    path, found = wheel(tmp_path, "")
    archive = bench["Archive"](file=path.name, sha256=found, licence="MIT")
    assert archive.lacks(tmp_path) == ""
    other = bench["Archive"](file=path.name, sha256="0" * 64, licence="MIT")
    stranger = bench["Stranger"](name="theirs", archive=other, run="", weights="none")
    assert bench["try_one"](stranger, {}, tmp_path).said == (
        f"not run: {path.name} has the SHA-256 {found}, not {'0' * 64}"
    )
    absent = bench["Archive"](file="absent.whl", sha256=found, licence="MIT")
    assert absent.lacks(tmp_path) == "absent.whl is not there"


def test_the_costliest_part_is_that_outside_the_forward(bench: dict[str, Any]) -> None:
    """Of decode steps, or of the prefill where there are none; nothing without either."""
    parts = {"forward": {"share": 0.7}, "logits/Mine": {"share": 0.2}, "sample": {"share": 0.1}}
    assert bench["costliest"]({"decode": {"parts": parts}, "prefill": None}) == ("logits/Mine", 0.2)
    assert bench["costliest"]({"decode": None, "prefill": {"parts": parts}}) == ("logits/Mine", 0.2)
    assert bench["costliest"]({"decode": None, "prefill": None}) == ("", None)


THEIRS = """
import sys

def generate(net, ids):
    print("watched" if "perstep" in sys.modules and CHANGES else "as it is")
    return net.generate(ids, max_new_tokens=12, do_sample=False, bad_words_ids=[[7, 8], [9]])
"""
RUN = """
import torch
from stranger_model import model, tokenizer
from theirs import generate

print(generate(model(tokenizer(), layers=1), torch.arange(3, 11)[None]).tolist())
"""


@pytest.mark.nightly
@pytest.mark.parametrize("changes", [False, True])
def test_a_script_is_run_twice_and_its_output_compared(changes: bool, bench: dict[str, Any], tmp_path: Path) -> None:
    """Its line and the costliest part are named; a package that behaves otherwise when watched is told."""
    path, found = wheel(tmp_path, f"CHANGES = {not changes}\n{THEIRS}")
    stranger = bench["Stranger"](
        name="theirs",
        archive=bench["Archive"](file=path.name, sha256=found, licence="MIT"),
        run=RUN,
        weights="random",
        replace=[["theirs/__init__.py", f"CHANGES = {not changes}", f"CHANGES = {changes}"]],
    )
    outcome = bench["try_one"](stranger, {}, tmp_path)
    if changes:
        assert outcome.said.startswith("differs when it is watched")
        return
    assert outcome.said == "equal"
    assert outcome.line == "theirs/__init__.py:7"
    assert outcome.part
    assert 0 < outcome.share < 1


@pytest.mark.nightly
def test_the_packages_of_the_list_run_as_they_are_and_watched(bench: dict[str, Any], tmp_path: Path) -> None:
    """Those that PyPI still has, with equal output and a ledger."""
    strangers, also = bench["read_list"]()
    bench["fetch"]([*(one.archive for one in strangers), *also.values()], tmp_path)
    found = list(bench["outcomes"](tmp_path, []))
    if all(one.said.startswith("not run") for one in found):
        pytest.skip("none of the packages could be fetched")
    assert {one.name: one.said for one in found if one.said != "equal" and not one.said.startswith("not run")} == {}
    assert all(one.line for one in found if one.said == "equal")
