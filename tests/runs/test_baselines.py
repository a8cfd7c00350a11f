"""Named baselines: whole copies, replaced on purpose alone, found by name and by nothing else."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from perstep.errors import InputError
from perstep.runs import (
    MANIFEST,
    SAMPLES,
    RunWriter,
    check_baseline_name,
    list_baselines,
    open_run,
    require_baseline,
    save_baseline,
)

WriteRun = Callable[..., Path]


@pytest.mark.parametrize("name", ["before", "v1.2.3", "a", "_x", "main-2026_01", "7a"])
def test_names_of_letters_digits_and_three_signs_are_taken(name: str) -> None:
    """As given."""
    assert check_baseline_name(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "-x", "a/b", "../x", "/x", "a b", "é", "a\n", "7", "x" * 101]
)
def test_other_names_are_refused(name: str) -> None:
    """None leads out of the folder, hides in it, looks like an option or like a run's number."""
    with pytest.raises(InputError, match="cannot be the name of a baseline"):
        check_baseline_name(name)


def test_a_baseline_is_a_copy_of_the_run(tmp_path: Path, write_run: WriteRun) -> None:
    """Manifest, samples and derived files; not the lock, not what else lies there; it outlives the run."""
    run = write_run(tmp_path / "run", files=("results.json",))
    (run / "mine.txt").write_text("not the run's")
    folder = save_baseline("before", run, tmp_path / "baselines")
    shutil.rmtree(run)
    assert sorted(path.name for path in folder.iterdir()) == [MANIFEST, "results.json", SAMPLES]
    assert open_run("before", tmp_path / "runs", tmp_path / "baselines").folder == folder


def test_saving_under_the_same_name_replaces(tmp_path: Path, write_run: WriteRun) -> None:
    """And leaves nothing of the old one, nor any other file."""
    root = tmp_path / "baselines"
    save_baseline("before", write_run(tmp_path / "old", rounds=2, files=("old.png",)), root)
    folder = save_baseline("before", write_run(tmp_path / "new", rounds=5), root)
    assert len((folder / SAMPLES).read_text().splitlines()) == 5
    assert not (folder / "old.png").exists()
    assert [path.name for path in root.iterdir()] == ["before"]


def test_a_baseline_can_be_saved_onto_itself(tmp_path: Path, write_run: WriteRun) -> None:
    """It stays what it is."""
    root = tmp_path / "baselines"
    folder = save_baseline("before", write_run(tmp_path / "run"), root)
    samples = (folder / SAMPLES).read_bytes()
    assert (save_baseline("before", folder, root) / SAMPLES).read_bytes() == samples


def test_a_copy_that_fails_leaves_the_old_baseline(
    tmp_path: Path, write_run: WriteRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk is said; the old baseline is whole and no half of the new one is found."""
    root = tmp_path / "baselines"
    save_baseline("before", write_run(tmp_path / "old", rounds=2), root)
    new = write_run(tmp_path / "new", rounds=5)

    def full(_source: object, _target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(InputError, match="No space left"):
        save_baseline("before", new, root)
    assert len((root / "before" / SAMPLES).read_text().splitlines()) == 2
    assert [path.name for path in root.iterdir()] == ["before"]


def test_nothing_from_outside_of_a_run_is_copied(tmp_path: Path, write_run: WriteRun) -> None:
    """A manifest may name a link: it is left out. A link in place of the samples is refused."""
    root = tmp_path / "baselines"
    run = write_run(tmp_path / "run", files=("results.json", "README.md"))
    secret = tmp_path / "secret"
    secret.write_text("mine")
    (run / "results.json").unlink()
    (run / "results.json").symlink_to(secret)
    folder = save_baseline("before", run, root)
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", MANIFEST, SAMPLES]
    (run / SAMPLES).unlink()
    (run / SAMPLES).symlink_to(secret)
    with pytest.raises(InputError, match="it is a link"):
        save_baseline("other", run, root)
    assert [path.name for path in root.iterdir()] == ["before"]


def test_a_replacement_killed_between_the_two_renames_leaves_the_old_baseline(
    tmp_path: Path, write_run: WriteRun
) -> None:
    """It is found under its name, and the next replacement cleans up."""
    root = tmp_path / "baselines"
    save_baseline("before", write_run(tmp_path / "old", rounds=2), root)
    (root / "before").rename(root / ".before.0123456789abcdef.old")
    shutil.copytree(tmp_path / "old", root / ".before.0123456789abcdef.new")
    assert list_baselines(root) == ["before"]
    assert len((require_baseline("before", root) / SAMPLES).read_text().splitlines()) == 2
    save_baseline("before", write_run(tmp_path / "new", rounds=5), root)
    assert [path.name for path in root.iterdir()] == ["before"]
    assert len((root / "before" / SAMPLES).read_text().splitlines()) == 5


def test_an_exchange_that_fails_puts_the_old_baseline_back(
    tmp_path: Path, write_run: WriteRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the two renames."""
    root = tmp_path / "baselines"
    save_baseline("before", write_run(tmp_path / "old", rounds=2), root)
    new = write_run(tmp_path / "new", rounds=5)
    rename = Path.rename

    def fail(path: Path, target: Path) -> Path:
        if path.name.endswith(".new"):
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(InputError, match="Input/output"):
        save_baseline("before", new, root)
    assert len((root / "before" / SAMPLES).read_text().splitlines()) == 2
    assert [path.name for path in root.iterdir()] == ["before"]


def test_a_run_that_is_being_written_is_no_baseline(tmp_path: Path, new_manifest: Callable[..., object]) -> None:
    """It is not finished."""
    with (
        RunWriter(tmp_path / "run", new_manifest()),  # type: ignore[arg-type]
        pytest.raises(InputError, match="being written"),
    ):
        save_baseline("before", tmp_path / "run", tmp_path / "baselines")


def test_a_folder_that_is_no_run_is_no_baseline(tmp_path: Path) -> None:
    """Nothing is made of it."""
    with pytest.raises(InputError, match="is not a run"):
        save_baseline("before", tmp_path, tmp_path / "baselines")
    assert list_baselines(tmp_path / "baselines") == []


def test_a_missing_baseline_is_named_with_those_there_are(tmp_path: Path, write_run: WriteRun) -> None:
    """So is a run that is neither run nor baseline."""
    root = tmp_path / "baselines"
    with pytest.raises(InputError, match="no baseline absent; there are no baselines; --save-baseline NAME makes one"):
        require_baseline("absent", root)
    save_baseline("before", write_run(tmp_path / "run"), root)
    save_baseline("after", tmp_path / "run", root)
    with pytest.raises(InputError, match="no baseline absent; the baselines are after, before"):
        require_baseline("absent", root)
    with pytest.raises(InputError, match=r"no run absent: .* the baselines are after, before"):
        open_run("absent", tmp_path / "runs", root)
    assert require_baseline("before", root) == root / "before"


def test_runs_come_before_baselines_of_their_name(tmp_path: Path, write_run: WriteRun) -> None:
    """A path first, then the runs, then the baselines."""
    run = write_run(tmp_path / "runs" / "0007-ledger")
    save_baseline("0007-ledger", write_run(tmp_path / "other"), tmp_path / "baselines")
    assert open_run("0007-ledger", tmp_path / "runs", tmp_path / "baselines").folder == run
    assert open_run("7", tmp_path / "runs", tmp_path / "baselines").folder == run


def test_a_folder_of_the_baselines_name_is_not_taken_for_it(
    tmp_path: Path, write_run: WriteRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source folder called `before` beside `.perstep` is no run, so the baseline is meant."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "before").mkdir()
    folder = save_baseline("before", write_run(tmp_path / "run"), tmp_path / "baselines")
    assert open_run("before", tmp_path / "runs", tmp_path / "baselines").folder == folder
    with pytest.raises(InputError, match="is not a run"):
        open_run("before", tmp_path / "runs", tmp_path / "none")
