"""Reading runs: what is newer, damaged or cut off is told by name, what is unknown is ignored."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perstep.errors import InputError
from perstep.experiments.ledger import Sample as LedgerSample
from perstep.runs import (
    MANIFEST,
    SAMPLES,
    SCHEMA_VERSION,
    Changed,
    Cut,
    Manifest,
    Status,
    encode_json,
    iter_samples,
    list_runs,
    open_run,
    read_manifest,
    read_runs,
    read_samples,
)
from perstep.runs.manifest import READ_BY

WriteRun = Callable[..., Path]
VERSIONS = Path(__file__).parent / "versions"


def edit_manifest(folder: Path, **changes: Any) -> None:
    """Change fields of a stored manifest; None takes one out."""
    stored = json.loads((folder / MANIFEST).read_text()) | changes
    (folder / MANIFEST).write_text(json.dumps({name: value for name, value in stored.items() if value is not None}))


# Manifests


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Every field, through JSON."""
    manifest = Manifest(
        experiment="mask",
        plan={"model": "mini", "budget": None, "top_p": 0.9},
        status=Status.FAILED,
        seed=2**64 - 1,
        argv=["perstep", "mask"],
        workload={"batch": 1},
        boundaries={"mlp": "größer"},
        warnings=["one"],
        results_summary={"headline": "1 µs"},
        files=["a.png"],
        error="why",
    )
    (tmp_path / MANIFEST).write_bytes(encode_json(manifest))
    assert read_manifest(tmp_path) == manifest


def test_a_newer_schema_version_is_refused_by_name(tmp_path: Path, write_run: WriteRun) -> None:
    """Even where the rest of the manifest has changed beyond recognition."""
    folder = write_run(tmp_path / "run")
    edit_manifest(folder, schema_version=SCHEMA_VERSION + 1, experiment={"now": "an object"})
    with pytest.raises(InputError, match=f"schema_version {SCHEMA_VERSION + 1}, this perstep reads up to"):
        read_manifest(folder)


def test_unknown_fields_are_ignored(tmp_path: Path, write_run: WriteRun, sample_kind: Any) -> None:
    """In manifests and in samples."""
    folder = write_run(tmp_path / "run", rounds=1)
    edit_manifest(folder, colour="green")
    assert read_manifest(folder).experiment == "ledger"
    line = json.loads((folder / SAMPLES).read_text())
    (folder / SAMPLES).write_text(json.dumps({**line, "colour": "green"}) + "\n")
    assert read_samples(folder, sample_kind)[0] == [sample_kind(0, [0, 0])]


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"null", b'{"plan": {}}', b"\xff\xfe", b'{"schema_version": 2, "experiment": "\xff"}',
        b'{"schema_version": 2, "plan": ' + b"[" * 1_000_000,
        b'{"schema_version": 2, "experiment": "ledger", "plan": {}, "run_id": "../../elsewhere"}',
    ],
)  # fmt: skip
def test_what_is_no_manifest_is_told_in_one_line(content: bytes, tmp_path: Path) -> None:
    """By its path."""
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(InputError, match=r"manifest\.json is not a manifest") as caught:
        read_manifest(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_without_manifest_is_no_run(tmp_path: Path) -> None:
    """And neither is one that is not there."""
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(InputError, match=r"is not a run: cannot read manifest\.json"):
            read_manifest(folder)


@given(st.binary(max_size=60))
def test_no_bytes_crash_the_reader_of_manifests(content: bytes) -> None:
    """They are a manifest, or an InputError."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / MANIFEST).write_bytes(content)
        with pytest.raises(InputError):
            read_manifest(Path(folder))


@pytest.mark.parametrize("version", [-1, 0, -(2**63)])
def test_a_schema_version_that_never_was_is_refused(version: int, tmp_path: Path, write_run: WriteRun) -> None:
    """It is damage, not an old run."""
    folder = write_run(tmp_path / "run")
    edit_manifest(folder, schema_version=version)
    with pytest.raises(InputError, match=f"has schema_version {version}, .* no perstep wrote that"):
        read_manifest(folder)


def test_every_version_has_a_stored_run() -> None:
    """From version 1 on; the current one is read, an older one is refused by the perstep that reads it."""
    assert {path.name for path in VERSIONS.iterdir()} == {str(version) for version in range(1, SCHEMA_VERSION + 1)}
    manifest = read_manifest(VERSIONS / str(SCHEMA_VERSION))
    samples, notes = read_samples(VERSIONS / str(SCHEMA_VERSION), LedgerSample)
    assert (manifest.experiment, len(samples), notes) == ("ledger", 3, [])
    for version in range(1, SCHEMA_VERSION):
        said = f"schema_version {version}, this perstep reads {SCHEMA_VERSION}; perstep {READ_BY[version]} reads it"
        with pytest.raises(InputError, match=re.escape(said)):
            read_manifest(VERSIONS / str(version))


# What is no regular file


def lay(what: str, path: Path, outside: Path) -> None:
    """Put something else in a file's place."""
    path.unlink(missing_ok=True)
    if what == "a FIFO":
        os.mkfifo(path)
    elif what == "a link":
        path.symlink_to(outside)
    elif what == "a folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")


@pytest.mark.parametrize("name", [MANIFEST, SAMPLES])
@pytest.mark.parametrize("what", ["a FIFO", "a link", "a folder", "a link to a device"])
def test_only_regular_files_are_read(
    name: str, what: str, tmp_path: Path, write_run: WriteRun, sample_kind: Any
) -> None:
    """Nothing is waited for, nothing outside is read, memory does not grow; other runs are listed."""
    write_run(tmp_path / "runs" / "0001-ledger")
    folder = write_run(tmp_path / "runs" / "0002-ledger")
    outside = tmp_path / name
    outside.write_bytes((folder / name).read_bytes())
    lay(what, folder / name, outside)
    said = what.removesuffix(" to a device")
    with pytest.raises(InputError, match=f"it is {said}, and a run consists of regular files"):
        read_samples(folder, sample_kind)
    assert "0001-ledger" in [run.folder.name for run in list_runs(tmp_path / "runs")]


def test_a_file_of_any_size_is_refused_before_it_fills_the_memory(
    tmp_path: Path, write_run: WriteRun, sample_kind: Any
) -> None:
    """A manifest, or a line, of more than 256 MiB: a sparse file of 8 GiB takes no disk."""
    folder = write_run(tmp_path / "run")
    os.truncate(folder / SAMPLES, 2**33)
    with pytest.raises(InputError, match=r"line 4 has more than 268,435,456 bytes"):
        read_samples(folder, sample_kind)
    os.truncate(folder / MANIFEST, 2**33)
    with pytest.raises(InputError, match=r"cannot read manifest\.json \(it has more than 268,435,456 bytes\)"):
        read_manifest(folder)


# Samples


def test_lines_that_were_doubled_lost_or_moved_are_refused(
    tmp_path: Path, write_run: WriteRun, sample_kind: Any
) -> None:
    """Each says which it is."""
    folder = write_run(tmp_path / "run")
    a, b, c = (folder / SAMPLES).read_bytes().splitlines(keepends=True)
    for lines, wrong, says in (([a, a, b, c], 2, 1), ([a, b, c, a, b, c], 4, 1), ([a, c], 2, 3), ([b, a, c], 1, 2)):
        (folder / SAMPLES).write_bytes(b"".join(lines))
        with pytest.raises(InputError, match=f"line {wrong} says that it is line {says}: lines were added, lost or"):
            read_samples(folder, sample_kind)


def test_lines_of_another_run_are_refused(tmp_path: Path, write_run: WriteRun, sample_kind: Any) -> None:
    """Whether all of them are, or some."""
    folder, other = write_run(tmp_path / "run"), write_run(tmp_path / "other")
    a, _, c = (folder / SAMPLES).read_bytes().splitlines(keepends=True)
    foreign = (other / SAMPLES).read_bytes().splitlines(keepends=True)
    for lines, wrong in (([a, foreign[1], c], 2), (foreign, 1)):
        (folder / SAMPLES).write_bytes(b"".join(lines))
        with pytest.raises(InputError, match=f"line {wrong} is of another run than the manifest"):
            read_samples(folder, sample_kind)


def test_a_number_that_was_changed_is_said(tmp_path: Path, write_run: WriteRun, sample_kind: Any) -> None:
    """One digit, in a run that had ended; a run that was killed has no checksum to differ from."""
    folder = write_run(tmp_path / "run")
    (folder / SAMPLES).write_bytes((folder / SAMPLES).read_bytes().replace(b"[1,10]", b"[1,90]"))
    samples, notes = read_samples(folder, sample_kind)
    assert samples[1] == sample_kind(1, [1, 90])
    assert notes == [f"{SAMPLES} is not what the run wrote (its SHA-256 differs); the figures are of what it holds now"]
    assert list(iter_samples(folder, sample_kind))[-1] == Changed()
    edit_manifest(folder, samples_sha256="", status="running")
    assert read_samples(folder, sample_kind)[1] == []


def test_samples_are_streamed_in_order(tmp_path: Path, write_run: WriteRun, sample_kind: Any) -> None:
    """One at a time."""
    stream = iter_samples(write_run(tmp_path / "run"), sample_kind)
    assert next(stream) == sample_kind(0, [0, 0])
    assert list(stream) == [sample_kind(1, [1, 10]), sample_kind(2, [2, 20])]


def test_a_last_line_that_was_cut_off_is_left_out_and_said(
    tmp_path: Path, write_run: WriteRun, sample_kind: Any
) -> None:
    """Wherever it was cut, even where what is left is valid JSON; the file is not touched."""
    folder = write_run(tmp_path / "run")
    whole = (folder / SAMPLES).read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for cut in range(last + 1, len(whole)):
        (folder / SAMPLES).write_bytes(whole[:cut])
        samples, notes = read_samples(folder, sample_kind)
        assert [sample.round for sample in samples] == [0, 1]
        assert notes == [f"line 3 of {SAMPLES} was cut off while it was written and is left out"]
        assert list(iter_samples(folder, sample_kind))[-1] == Cut(3)
    assert (folder / SAMPLES).read_bytes() == whole[:-1]
    (folder / SAMPLES).write_bytes(whole[:last])
    assert "is not what the run wrote (its SHA-256 differs)" in read_samples(folder, sample_kind)[1][0]


@pytest.mark.parametrize(
    "damage",
    [
        b"{",
        b"",
        b"[]",
        b'{"round": 1}',
        b'{"round": 1, "step_ns": ["a"]}',
        b"\x00" * 20,
        b'{"round": 1, "step_ns": [1]}, {}',
        b"[" * 1_000_000,
        b'{"round": 1, "step_ns": ' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}",
    ],
    ids=lambda damage: damage[:20].decode(),
)
def test_a_damaged_line_in_the_middle_is_refused_by_its_number(
    damage: bytes, tmp_path: Path, write_run: WriteRun, sample_kind: Any
) -> None:
    """Leaving it out would change the result without a word."""
    folder = write_run(tmp_path / "run")
    lines = (folder / SAMPLES).read_bytes().split(b"\n")
    (folder / SAMPLES).write_bytes(b"\n".join([lines[0], damage, *lines[2:]]))
    with pytest.raises(InputError, match=r"samples\.jsonl line 2 is damaged .*restore the file") as caught:
        read_samples(folder, sample_kind)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("column", ["[1.5]", '["1"]', "[9223372036854775808]", "7", "[[1]]", "null"])
def test_a_column_holds_whole_numbers_of_64_bits(column: str, tmp_path: Path, write_run: WriteRun) -> None:
    """Anything else is damage."""
    import msgspec

    from perstep.runs import Column

    class Columns(msgspec.Struct):
        step_ns: Column

    folder = write_run(tmp_path / "run")
    first = (folder / SAMPLES).read_bytes().splitlines()[0]
    (folder / SAMPLES).write_bytes(first.replace(b"[0,0]", column.encode()) + b"\n")
    with pytest.raises(InputError, match=r"line 1 is damaged .*step_ns"):
        read_samples(folder, Columns)


def test_a_run_without_samples_says_so(tmp_path: Path, write_run: WriteRun, sample_kind: Any) -> None:
    """A missing file is told, an empty one is no round."""
    folder = write_run(tmp_path / "run", rounds=0)
    assert read_samples(folder, sample_kind) == ([], [])
    (folder / SAMPLES).unlink()
    with pytest.raises(InputError, match="the run has no samples"):
        read_samples(folder, sample_kind)


# Finding runs


def test_a_run_is_found_by_path_name_and_number(tmp_path: Path, write_run: WriteRun) -> None:
    """The number with or without its zeros; a path wins."""
    folder = write_run(tmp_path / "runs" / "0007-ledger")
    write_run(tmp_path / "runs" / "0070-mask")
    for name in (folder, str(folder), "0007-ledger", "7", "0007"):
        assert open_run(name, tmp_path / "runs").folder == folder
    for name in ("8", "70-mask", "ledger", "", "0"):
        with pytest.raises(InputError, match=r"no run|is not a run"):
            open_run(name, tmp_path / "runs")


def test_a_number_of_two_runs_is_refused(tmp_path: Path, write_run: WriteRun) -> None:
    """Both are named."""
    write_run(tmp_path / "0007-ledger")
    write_run(tmp_path / "0007-mask")
    with pytest.raises(InputError, match="7 names 2 runs: 0007-ledger, 0007-mask; give the whole name"):
        open_run("7", tmp_path)
    assert open_run("0007-mask", tmp_path).folder.name == "0007-mask"


def test_runs_are_listed_oldest_first(tmp_path: Path, write_run: WriteRun) -> None:
    """By number, not by letters; folders that are no runs are passed over, and what is wrong with a run is told."""
    for name in ("10000-ledger", "0002-mask", "9999-ledger", "by hand"):
        write_run(tmp_path / name)
    (tmp_path / "0003-empty").mkdir()
    (tmp_path / "0004-file").write_text("")
    (tmp_path / "0005-broken").mkdir()
    (tmp_path / "0005-broken" / MANIFEST).write_text("{")
    listed = [run.folder.name for run in list_runs(tmp_path)]
    assert listed == ["0002-mask", "9999-ledger", "10000-ledger", "by hand"]
    assert [why.split(" is not a manifest")[0] for why in read_runs(tmp_path)[1]] == [
        str(tmp_path / "0005-broken" / MANIFEST)
    ]
    assert list_runs(tmp_path / "missing") == []
