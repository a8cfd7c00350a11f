"""Where a run goes: numbered under `.perstep/runs`, or a folder of the user's that is new or empty."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perstep.errors import InputError
from perstep.runs import check_out, next_folder

WriteRun = Callable[..., Path]


def test_runs_are_numbered_from_one_across_experiments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next number follows the highest there is, past four digits too; other names do not count."""
    monkeypatch.chdir(tmp_path)
    runs = Path(".perstep/runs")
    assert next_folder("ledger") == runs / "0001-ledger"
    assert next_folder("mask") == runs / "0002-mask"
    (runs / "0041-ledger").mkdir()
    (runs / "notes-of-mine").mkdir()
    assert next_folder("ledger") == runs / "0042-ledger"
    (runs / "12345-ledger").mkdir()
    assert next_folder("ledger") == runs / "12346-ledger"
    assert next_folder("ledger").is_dir()


def test_two_that_ask_for_a_number_at_once_get_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes second looks again: neither writes into the other's folder."""
    monkeypatch.chdir(tmp_path)
    make, others = Path.mkdir, iter([Path(".perstep/runs/0001-ledger")])

    def raced(self: Path, *args: Any, **options: Any) -> None:
        if self.name == "0001-ledger" and (other := next(others, None)):
            make(other, parents=True)
        make(self, *args, **options)

    monkeypatch.setattr(Path, "mkdir", raced)
    assert next_folder("ledger").name == "0002-ledger"


def test_a_place_where_nothing_can_be_made_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`.perstep` may be a file of somebody else's."""
    monkeypatch.chdir(tmp_path)
    Path(".perstep").write_text("")
    with pytest.raises(InputError, match=r"\.perstep"):
        next_folder("ledger")


def test_out_may_be_new_or_empty(tmp_path: Path) -> None:
    """Nothing is made by looking; a lock file left by a run that was refused does not count."""
    check_out("ledger", None, force=False, resume=False)
    check_out("ledger", tmp_path / "new" / "deep", force=False, resume=False)
    assert not (tmp_path / "new").exists()
    (tmp_path / ".lock").touch()
    check_out("ledger", tmp_path, force=False, resume=False)


def test_out_that_holds_something_is_refused_unless_forced(tmp_path: Path) -> None:
    """The message says what would be right; --force replaces a run, and nothing that is none."""
    (tmp_path / "thesis.tex").write_text("mine")
    for force in (False, True):
        with pytest.raises(InputError, match=r"is not empty and holds no run, .*; choose another folder"):
            check_out("ledger", tmp_path, force=force, resume=False)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match=r"is not empty; choose another folder, or --resume it, or .*--force"):
        check_out("ledger", tmp_path, force=False, resume=False)
    check_out("ledger", tmp_path, force=True, resume=False)
    for force in (False, True):
        with pytest.raises(InputError, match="is a file; give a folder"):
            check_out("ledger", tmp_path / "thesis.tex", force=force, resume=False)


def test_resume_needs_a_run_of_the_same_experiment(tmp_path: Path, write_run: WriteRun) -> None:
    """And not --force, which would replace it."""
    with pytest.raises(InputError, match="--resume needs --out DIR"):
        check_out("ledger", None, force=False, resume=True)
    with pytest.raises(InputError, match="is not a run"):
        check_out("ledger", tmp_path / "missing", force=False, resume=True)
    folder = write_run(tmp_path / "run")
    check_out("ledger", folder, force=False, resume=True)
    with pytest.raises(InputError, match="holds a `ledger` run, it cannot be resumed as `mask`"):
        check_out("mask", folder, force=False, resume=True)
    with pytest.raises(InputError, match="--resume and --force exclude each other"):
        check_out("ledger", folder, force=True, resume=True)
