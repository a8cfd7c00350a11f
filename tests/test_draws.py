"""Which examples Hypothesis draws: the same on every machine, unless a random search is asked for."""

import importlib.util
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

OURS = [123_456_789 + 7_919 * index for index in range(1_000)]


def test_the_profile_in_force_draws_the_same_everywhere(request: pytest.FixtureRequest) -> None:
    """Without a database and a deadline, in CI too; `--hypothesis-profile=random` searches and remembers."""
    searches = request.config.getoption("--hypothesis-profile") == "random"
    assert settings.get_current_profile_name() == ("random" if searches else "repeatable")
    assert settings.default is not None
    assert settings.default.deadline is None
    assert settings.default.derandomize is not searches
    assert (settings.default.database is not None) is searches


def test_examples_do_not_depend_on_the_modules_that_were_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hypothesis would draw constants of the user's own modules; which are imported depends on the tests before."""
    source = tmp_path / "constants_of_ours.py"
    source.write_text(f"VALUES = {OURS}\n")
    spec = importlib.util.spec_from_file_location("constants_of_ours", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, "constants_of_ours", module)
    drawn: list[int] = []

    @given(st.integers(0, 10**9))
    @settings(max_examples=300, derandomize=True, database=None)
    def draws(value: int) -> None:
        drawn.append(value)

    draws()
    assert len(drawn) >= 250
    assert not set(drawn) & set(OURS)
