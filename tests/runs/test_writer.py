"""Writing a run: locked, a round at a time, resumed, replaced, and whole after any failure."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from perstep.errors import InputError
from perstep.runs import (
    MANIFEST,
    SAMPLES,
    Manifest,
    RunWriter,
    Status,
    check_out,
    is_being_written,
    locked,
    open_run,
    read_manifest,
    read_samples,
)

NewManifest = Callable[..., Manifest]
WriteRun = Callable[..., Path]

# Writes rounds, then waits until standard input ends; `argv`: folder, rounds to write whole, what to do before.
WRITER = """
import os, signal, sys
from pathlib import Path
import msgspec
from perstep.runs import Manifest, RunWriter
class Round(msgspec.Struct):
    round: int
    step_ns: list[int]
folder, rounds, then = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
manifest = Manifest(experiment="ledger", plan={"new_tokens": 4}, workload={"batch": 1})
with RunWriter(folder, manifest) as writer:
    for number in range(rounds):
        writer.append(Round(number, [number, 10 * number]))
    if then == "die in a line":
        writer._samples.write(b'{"round":99,"step_ns":[1')
        os.kill(os.getpid(), signal.SIGKILL)
    if then == "fill the disk":
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        writer.append(Round(rounds, [7] * 50_000))
    print("written", flush=True)
    sys.stdin.read()
"""


def start_writer(folder: Path, environment: dict[str, str], rounds: int, then: str) -> "subprocess.Popen[str]":
    """A writer in another process."""
    command = [sys.executable, "-c", WRITER, str(folder), str(rounds), then]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file in a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


# Writing


def test_the_manifest_is_first_and_rounds_are_on_disk_as_they_are_made(
    tmp_path: Path, new_manifest: NewManifest, sample_kind: Any
) -> None:
    """Anybody can read the run while it is measured."""
    folder = tmp_path / "deep" / "run"
    with RunWriter(folder, new_manifest()) as writer:
        assert read_manifest(folder).status is Status.RUNNING
        assert is_being_written(folder)
        assert (folder / SAMPLES).read_bytes() == b""
        for number in range(3):
            writer.append(sample_kind(number, [5]))
            assert len(read_samples(folder, sample_kind)[0]) == number + 1
    assert not is_being_written(folder)
    manifest = read_manifest(folder)
    assert manifest.status is Status.COMPLETE
    assert manifest.started_at <= manifest.finished_at
    assert manifest.finished_at.endswith("+00:00")
    assert manifest.perstep_version
    assert manifest.argv == [], "another program's command line is not kept"


def test_an_interrupted_run_says_so(tmp_path: Path, new_manifest: NewManifest, sample_kind: Any) -> None:
    """Its rounds are kept; the interruption passes on."""
    with pytest.raises(KeyboardInterrupt), RunWriter(tmp_path / "run", new_manifest()) as writer:
        append_and_raise(writer, sample_kind(0, [5]), KeyboardInterrupt())
    run = open_run(tmp_path / "run")
    assert (run.status, run.manifest.error) == ("interrupted", "")
    assert len(read_samples(run.folder, sample_kind)[0]) == 1


def test_a_failed_run_says_what_ended_it(tmp_path: Path, new_manifest: NewManifest, sample_kind: Any) -> None:
    """By type and message."""
    with pytest.raises(ValueError, match="no such part"), RunWriter(tmp_path / "run", new_manifest()) as writer:
        append_and_raise(writer, sample_kind(0, [5]), ValueError("no such part"))
    run = open_run(tmp_path / "run")
    assert (run.status, run.manifest.error) == ("failed", "ValueError: no such part")


def append_and_raise(writer: RunWriter, sample: Any, error: BaseException) -> None:
    """A round, then the end."""
    writer.append(sample)
    raise error


def test_a_second_writer_is_refused_from_another_process(
    tmp_path: Path, new_manifest: NewManifest, environment: dict[str, str]
) -> None:
    """With --force too; once the first is gone, killed or not, the lock is free."""
    folder = tmp_path / "run"
    other = start_writer(folder, environment, 2, "sleep")
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "written\n"
        assert is_being_written(folder)
        assert open_run(folder).status == "running"
        before = snapshot(folder)
        for options in ({}, {"force": True}, {"resume_after": 2}):
            with pytest.raises(InputError, match="is being written by another perstep"):
                RunWriter(folder, new_manifest(), **options)
        with pytest.raises(InputError, match="is being written by another perstep"), locked(folder):
            pass
        assert snapshot(folder) == before
    finally:
        other.kill()
        other.communicate()
    assert not is_being_written(folder)
    RunWriter(folder, new_manifest(), force=True).__exit__(None, None, None)


def test_a_run_whose_process_is_gone_is_interrupted(tmp_path: Path, environment: dict[str, str]) -> None:
    """Its manifest still says `running`, but nobody holds the lock."""
    folder = tmp_path / "run"
    start_writer(folder, environment, 1, "die in a line").communicate()
    assert read_manifest(folder).status is Status.RUNNING
    assert open_run(folder).status == "interrupted"


def test_the_lock_is_free_after_a_refusal(tmp_path: Path, write_run: WriteRun, new_manifest: NewManifest) -> None:
    """A writer that could not begin leaves nothing locked."""
    folder = write_run(tmp_path / "run")
    with pytest.raises(InputError, match="holds a run by now"):
        RunWriter(folder, new_manifest())
    with pytest.raises(InputError, match="new_tokens"):
        RunWriter(folder, new_manifest(new_tokens=9), resume_after=3)
    with locked(folder):
        pass


def test_a_run_that_somebody_made_meanwhile_is_not_replaced(
    tmp_path: Path, write_run: WriteRun, new_manifest: NewManifest
) -> None:
    """Between looking at --out and writing, a model is loaded; only --force replaces a run."""
    check_out("ledger", tmp_path / "run", force=False, resume=False)
    folder = write_run(tmp_path / "run")
    before = snapshot(folder)
    with pytest.raises(InputError, match=r"holds a run by now; .*--force"):
        RunWriter(folder, new_manifest())
    assert snapshot(folder) == before


# Replacing


def test_force_replaces_the_runs_own_files_and_nothing_else(
    tmp_path: Path, write_run: WriteRun, new_manifest: NewManifest, sample_kind: Any
) -> None:
    """Derived files that the new run may not make again go too."""
    folder = write_run(tmp_path / "run", files=("ledger.png", "README.md"))
    (folder / "notes.txt").write_text("mine")
    (folder / "figures").mkdir()
    with RunWriter(folder, new_manifest(), force=True) as writer:
        writer.append(sample_kind(0, [7]))
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "figures", MANIFEST, "notes.txt", SAMPLES]
    assert [sample.step_ns for sample in read_samples(folder, sample_kind)[0]] == [[7]]


def test_force_reaches_no_file_outside_of_the_folder(
    tmp_path: Path, write_run: WriteRun, new_manifest: NewManifest
) -> None:
    """Whatever a manifest claims to have made."""
    folder = write_run(tmp_path / "run")
    (tmp_path / "other.txt").write_text("mine")
    (folder / "deep").mkdir()
    (folder / "deep" / "file.txt").write_text("mine")
    stored = json.loads((folder / MANIFEST).read_text())
    stored["files"] = ["../other.txt", "deep/file.txt", "..", ".", "", "deep", str(tmp_path / "other.txt"), "gone.png"]
    (folder / MANIFEST).write_text(json.dumps(stored))
    with RunWriter(folder, new_manifest(), force=True):
        pass
    assert (tmp_path / "other.txt").read_text() == "mine"
    assert (folder / "deep" / "file.txt").read_text() == "mine"


def test_force_starts_with_empty_samples_even_where_the_old_manifest_is_lost(
    tmp_path: Path, write_run: WriteRun, new_manifest: NewManifest, sample_kind: Any
) -> None:
    """Rounds of two runs are never mixed."""
    folder = write_run(tmp_path / "run")
    for damage in ((folder / MANIFEST).unlink, lambda: (folder / MANIFEST).write_text("{")):
        damage()
        with RunWriter(folder, new_manifest(), force=True) as writer:
            writer.append(sample_kind(0, [7]))
        assert len(read_samples(folder, sample_kind)[0]) == 1


def test_force_on_a_full_disk_leaves_the_old_run(
    tmp_path: Path, write_run: WriteRun, new_manifest: NewManifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new manifest is written before anything old is removed."""
    folder = write_run(tmp_path / "run", files=("ledger.png",))
    before = snapshot(folder)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left on device"):
        RunWriter(folder, new_manifest(), force=True)
    assert snapshot(folder) == before


# Resuming


def test_a_run_killed_in_the_middle_of_a_line_is_resumed(
    tmp_path: Path, new_manifest: NewManifest, sample_kind: Any, environment: dict[str, str]
) -> None:
    """The cut line is removed and said, the rounds before it are kept, numbering goes on, the beginning stays."""
    folder = tmp_path / "run"
    writer = start_writer(folder, environment, 3, "die in a line")
    writer.communicate()
    assert writer.returncode == -signal.SIGKILL
    began = read_manifest(folder).started_at
    samples, notes = read_samples(folder, sample_kind)
    assert [sample.round for sample in samples] == [0, 1, 2]
    assert notes == [f"line 4 of {SAMPLES} was cut off while it was written and is left out"]
    with RunWriter(folder, new_manifest(), resume_after=3) as resumed:
        resumed.append(sample_kind(3, [30]))
    samples, notes = read_samples(folder, sample_kind)
    assert [sample.round for sample in samples] == [0, 1, 2, 3]
    assert notes == []
    manifest = read_manifest(folder)
    assert manifest.status is Status.COMPLETE
    assert manifest.started_at == began
    assert [f"line 4 of {SAMPLES} was cut off" in warning for warning in manifest.warnings] == [True]


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("new_tokens", lambda manifest: manifest.plan.update(new_tokens=8)),
        ("temperature", lambda manifest: manifest.plan.update(temperature=0.5)),
        ("batch", lambda manifest: manifest.workload.update(batch=2)),
        ("new_tokens", lambda manifest: manifest.plan.clear()),
    ],
)
def test_a_run_is_not_resumed_with_another_plan_or_workload(
    field: str,
    change: Callable[[Manifest], None],
    tmp_path: Path,
    write_run: WriteRun,
    new_manifest: NewManifest,
) -> None:
    """The field that differs is named, with both values; nothing is written."""
    folder = write_run(tmp_path / "run")
    before = snapshot(folder)
    manifest = new_manifest()
    change(manifest)
    with pytest.raises(InputError, match=rf"was measured with {field}=.*, not .*; a run is resumed with the options"):
        RunWriter(folder, manifest, resume_after=3)
    assert snapshot(folder) == before


def test_a_run_that_another_process_went_on_with_is_not_resumed(
    tmp_path: Path, write_run: WriteRun, new_manifest: NewManifest
) -> None:
    """The rounds that were read must be all there are."""
    folder = write_run(tmp_path / "run", rounds=5)
    before = snapshot(folder)
    with pytest.raises(InputError, match="has 5 rounds, not 3"):
        RunWriter(folder, new_manifest(), resume_after=3)
    assert snapshot(folder) == before


# Disks


def test_a_disk_that_fills_leaves_the_rounds_before_it(
    tmp_path: Path, sample_kind: Any, environment: dict[str, str]
) -> None:
    """A round that does not fit is taken back whole; the error is one of input, the status `failed`."""
    folder = tmp_path / "run"
    writer = start_writer(folder, environment, 3, "fill the disk")
    _, err = writer.communicate()
    assert writer.returncode == 1
    assert re.search(r"InputError: cannot write .*samples\.jsonl: File too large; choose another place", err)
    samples, notes = read_samples(folder, sample_kind)
    assert [sample.round for sample in samples] == [0, 1, 2]
    assert notes == []
    run = open_run(folder)
    assert run.status == "failed"
    assert run.manifest.error.startswith("InputError: cannot write")


def test_a_disk_too_full_for_the_manifest_tells_the_first_error(
    tmp_path: Path, new_manifest: NewManifest, sample_kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader then sees `running` without a lock, that is `interrupted`; on success the loss is told."""

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    writer = RunWriter(tmp_path / "a", new_manifest())
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ValueError, match="first"), writer:
        append_and_raise(writer, sample_kind(0, [5]), ValueError("first"))
    assert open_run(tmp_path / "a").status == "interrupted"
    monkeypatch.undo()
    with pytest.raises(InputError, match="No space left"), RunWriter(tmp_path / "b", new_manifest()):
        monkeypatch.setattr(os, "fsync", full)


def test_a_folder_that_cannot_be_made_or_written_is_told(tmp_path: Path, new_manifest: NewManifest) -> None:
    """A file in the way, or a system of files that takes none; nothing is left behind."""
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match=r"cannot write .*; choose another place"):
        RunWriter(tmp_path / "file" / "run", new_manifest())
    with pytest.raises(InputError, match=r"cannot write /proc/perstep.*; choose another place"):
        RunWriter(Path("/proc/perstep-run"), new_manifest())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_told(tmp_path: Path, new_manifest: NewManifest) -> None:
    """By its name and the reason."""
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(InputError, match="Permission denied"):
            RunWriter(tmp_path / "run", new_manifest())
    finally:
        tmp_path.chmod(0o700)


def test_a_read_only_run_folder_is_told(
    tmp_path: Path, new_manifest: NewManifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operating system's refusal to open any file for writing becomes one clear error."""
    real_open = Path.open

    def read_only(self: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        if set(mode) & set("wax+"):
            raise OSError(30, "Read-only file system", str(self))
        return real_open(self, mode, *args, **options)

    monkeypatch.setattr(Path, "open", read_only)
    with pytest.raises(InputError, match=r"cannot write .*run: Read-only file system; choose another place"):
        RunWriter(tmp_path / "run", new_manifest())


def test_arrays_in_a_sample_are_written_as_lists(tmp_path: Path, new_manifest: NewManifest) -> None:
    """And read back as arrays of the same integers."""
    import numpy as np

    from perstep.runs import Column

    class Columns(msgspec.Struct):
        step_ns: Column

    with RunWriter(tmp_path / "run", new_manifest()) as writer:
        writer.append(Columns(np.array([1, 2**62], np.int64)))
    assert (tmp_path / "run" / SAMPLES).read_bytes() == b'{"step_ns":[1,4611686018427387904]}\n'
    [sample], _ = read_samples(tmp_path / "run", Columns)
    assert sample.step_ns.dtype == np.int64
    assert sample.step_ns.tolist() == [1, 2**62]
