"""Files that nobody ever sees half of."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from perstep.errors import InputError
from perstep.runs import encode_json, replace_file

KILLED_BEFORE_REPLACE = """
import os, signal, sys
from pathlib import Path
from perstep.runs import replace_file
Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
replace_file(Path(sys.argv[1]), b"new" * 100_000)
"""


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    """A new file and an old one alike; nothing else is left in the folder."""
    path = tmp_path / "results.json"
    replace_file(path, b"old")
    replace_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_has_the_users_usual_permissions(tmp_path: Path) -> None:
    """The umask decides who may read it."""
    before = os.umask(0o077)
    try:
        replace_file(tmp_path / "private", b"")
        os.umask(0o022)
        replace_file(tmp_path / "shared", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "shared").stat().st_mode) == 0o644


def test_a_writer_killed_before_the_replacement_leaves_the_old_file(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    """The new content was written beside it, to a hidden file."""
    path = tmp_path / "manifest.json"
    path.write_bytes(b"old")
    done = subprocess.run([sys.executable, "-c", KILLED_BEFORE_REPLACE, str(path)], env=environment, check=False)
    assert done.returncode == -9
    assert path.read_bytes() == b"old"
    assert all(left == path or left.name.startswith(".manifest.json.") for left in tmp_path.iterdir())


def test_a_refused_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the file, the reason and what to do."""
    path = tmp_path / "results.json"
    path.write_bytes(b"old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        InputError, match=r"cannot write .*results\.json: No space left on device; choose another place"
    ):
        replace_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_write_leaves_no_other_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C between write and replacement."""

    def interrupted(_descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        replace_file(tmp_path / "results.json", b"new")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    """It is bad input, not a crash."""
    with pytest.raises(InputError, match="No such file"):
        replace_file(tmp_path / "missing" / "results.json", b"")


def test_json_is_readable_and_equal_for_equal_values() -> None:
    """Two spaces, field order kept, a newline at the end, characters as they are."""

    class Found(msgspec.Struct):
        step_ns: float
        part: str

    assert encode_json(Found(1.5, "logits/Größe")) == '{\n  "step_ns": 1.5,\n  "part": "logits/Größe"\n}\n'.encode()
    assert encode_json([]) == b"[]\n"
