"""Writing a run: locked, a round at a time, resumed, replaced, and whole after any failure."""

import json
import os
import re
import shutil
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
    replace_file,
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


# Replaces a run and dies at the n-th thing it does to a file; says what is left, for every n until it comes to its end.
KILLED_AT_EVERY_STEP = """
import json, os, shutil, signal, sys
from pathlib import Path
import msgspec
from perstep.runs import Manifest, RunWriter, open_run, read_samples
class Round(msgspec.Struct):
    round: int
    step_ns: list[int]
old, rounds_of = Path(sys.argv[1]), lambda folder: [s.step_ns[0] for s in read_samples(folder, Round)[0]]
manifest = lambda: Manifest(experiment="ledger", plan={"new_tokens": 4}, workload={"batch": 1})
for number in range(1, 100):
    folder = old.with_name(f"killed-{number}")
    shutil.copytree(old, folder)
    child = os.fork()
    if child == 0:
        count = 0
        def hook(event, arguments):
            global count
            if event in ("open", "os.rename", "os.remove", "os.chmod"):
                count += 1
                if count == number:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(hook)
        with RunWriter(folder, manifest(), force=True) as writer:
            writer.append(Round(0, [77]))
        os._exit(0)
    _, code = os.waitpid(child, 0)
    run = open_run(folder)
    found = [run.manifest.run_id, run.status, rounds_of(folder), sorted(p.name for p in folder.iterdir())]
    begun = run.manifest.run_id != open_run(old).manifest.run_id
    with RunWriter(folder, manifest(), resume_after=len(found[2])) as writer:
        writer.append(Round(len(found[2]), [88]))
    print(json.dumps([begun, *found[1:], rounds_of(folder), sorted(p.name for p in folder.iterdir())]))
    if code == 0:
        break
"""


def test_force_killed_at_any_instant_leaves_the_old_run_or_the_new_one(
    tmp_path: Path, write_run: WriteRun, environment: dict[str, str]
) -> None:
    """Never a mixture: what is resumed goes on with its own rounds, and nothing hidden stays for ever."""
    old = write_run(tmp_path / "run", files=("ledger.png", "README.md"))
    command = [sys.executable, "-c", KILLED_AT_EVERY_STEP, str(old)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    states = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(states) > 20
    assert [begun for begun, *_ in states] == sorted(begun for begun, *_ in states)
    for begun, status, rounds, files, resumed, _ in states:
        if begun:
            assert (status, rounds) in [("interrupted", []), ("interrupted", [77]), ("complete", [77])]
        else:
            assert (status, rounds) == ("complete", [0, 1, 2])
            assert {"ledger.png", "README.md", MANIFEST, SAMPLES} <= set(files)
        assert resumed == [*rounds, 88]
    assert {begun for begun, *_ in states} == {False, True}
    assert states[-1][3] == [".lock", MANIFEST, SAMPLES]


def test_a_run_killed_in_force_takes_the_derived_files_of_the_old_one_with_it(
    tmp_path: Path, write_run: WriteRun, new_manifest: NewManifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its manifest still names them, so the next --force removes them; so does what a kill left hidden."""
    folder = write_run(tmp_path / "run", files=("ledger.png",))
    monkeypatch.setattr("perstep.runs.writer.remove_derived", _interrupt)
    with pytest.raises(KeyboardInterrupt):
        RunWriter(folder, new_manifest(), force=True)
    monkeypatch.undo()
    assert read_manifest(folder).files == ["ledger.png"]
    (folder / f".{MANIFEST}.0123456789abcdef.tmp").write_text("{")
    (folder / f".{SAMPLES}.0123456789abcdef").write_text("")
    with RunWriter(folder, new_manifest(), force=True):
        pass
    assert sorted(path.name for path in folder.iterdir()) == [".lock", MANIFEST, SAMPLES]


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_folder_with_nothing_but_what_a_kill_left_is_free(tmp_path: Path) -> None:
    """The lock, and hidden files that were about to be renamed."""
    for name in (".lock", f".{MANIFEST}.0123456789abcdef.tmp", f".{SAMPLES}.0123456789abcdef"):
        (tmp_path / name).write_text("")
    check_out("ledger", tmp_path, force=False, resume=False)
    (tmp_path / ".mine.tmp").write_text("")
    with pytest.raises(InputError, match="is not empty"):
        check_out("ledger", tmp_path, force=False, resume=False)


def test_samples_that_may_not_be_written_are_replaced_like_any_file(
    tmp_path: Path, write_run: WriteRun, new_manifest: NewManifest, sample_kind: Any
) -> None:
    """The folder decides; in version 1 the manifest was new and the samples were the old ones."""
    folder = write_run(tmp_path / "run")
    (folder / SAMPLES).chmod(0o400)
    with RunWriter(folder, new_manifest(), force=True) as writer:
        writer.append(sample_kind(0, [7]))
    assert read_samples(folder, sample_kind) == ([sample_kind(0, [7])], [])


def test_force_replaces_a_run_of_version_1(tmp_path: Path, new_manifest: NewManifest, sample_kind: Any) -> None:
    """It cannot be read, and its derived files go with it."""
    folder = shutil.copytree(Path(__file__).parent / "versions" / "1", tmp_path / "run")
    stored = json.loads((folder / MANIFEST).read_text()) | {"files": ["ledger.png"]}
    (folder / MANIFEST).write_text(json.dumps(stored))
    (folder / "ledger.png").write_text("old")
    with RunWriter(folder, new_manifest(), force=True):
        pass
    assert sorted(path.name for path in folder.iterdir()) == [".lock", MANIFEST, SAMPLES]


@pytest.mark.parametrize("name", [MANIFEST, SAMPLES, ".lock", "README.md", ".README.md"])
def test_nothing_is_written_through_a_link(
    name: str, tmp_path: Path, write_run: WriteRun, new_manifest: NewManifest, sample_kind: Any
) -> None:
    """Neither by --force, which replaces the link, nor by --resume, which refuses it; the lock is refused by both."""
    folder = write_run(tmp_path / "run", files=("README.md",))
    outside = tmp_path / "outside"
    outside.write_text("mine")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(outside)
    if name in (MANIFEST, SAMPLES, ".lock"):
        with pytest.raises(InputError, match="link"):
            RunWriter(folder, new_manifest(), resume_after=3)
    if name != ".lock":
        with RunWriter(folder, new_manifest(), force=True) as writer:
            writer.append(sample_kind(0, [7]))
        replace_file(folder / name, b"new")
    assert outside.read_text() == "mine"


def test_force_removes_no_file_of_a_kind_that_experiments_do_not_make(
    tmp_path: Path, write_run: WriteRun, new_manifest: NewManifest
) -> None:
    """A manifest from elsewhere may name whatever lies there; links stay too."""
    folder = write_run(tmp_path / "run", files=("README.md", "thesis.tex", "key", "a.png"))
    (folder / "a.png").unlink()
    (folder / "a.png").symlink_to(tmp_path / "anything")
    with RunWriter(folder, new_manifest(), force=True):
        pass
    assert sorted(p.name for p in folder.iterdir()) == [".lock", "a.png", "key", MANIFEST, SAMPLES, "thesis.tex"]


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


def test_samples_that_were_changed_are_not_gone_on_with(
    tmp_path: Path, write_run: WriteRun, new_manifest: NewManifest
) -> None:
    """A new checksum would hide it."""
    folder = write_run(tmp_path / "run")
    (folder / SAMPLES).write_bytes((folder / SAMPLES).read_bytes().replace(b"[1,10]", b"[1,90]"))
    before = snapshot(folder)
    with pytest.raises(InputError, match=r"is not what the run wrote; restore it"):
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
    real_open = os.open

    def read_only(path: Path, flags: int, *mode: int) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(30, "Read-only file system", str(path))
        return real_open(path, flags, *mode)

    monkeypatch.setattr(os, "open", read_only)
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
    assert json.loads((tmp_path / "run" / SAMPLES).read_bytes())["step_ns"] == [1, 2**62]
    [sample], _ = read_samples(tmp_path / "run", Columns)
    assert sample.step_ns.dtype == np.int64
    assert sample.step_ns.tolist() == [1, 2**62]
