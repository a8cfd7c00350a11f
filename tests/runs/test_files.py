"""Files that nobody ever sees half of."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from perstep.errors import InputError
from perstep.runs import encode_json, replace_file, write_to

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


def test_a_replaced_file_keeps_its_mode(tmp_path: Path) -> None:
    """Whether it was more open or less."""
    for mode in (0o600, 0o666, 0o444):
        path = tmp_path / f"{mode:o}"
        path.write_bytes(b"old")
        path.chmod(mode)
        write_to(path, b"new")
        assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"new", mode)


def test_what_a_person_names_is_written_through(tmp_path: Path) -> None:
    """A link stays one and its file is written, even where it is not there yet; a FIFO and a device take it."""
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for content in (b"one", b"two"):
        write_to(tmp_path / "link", content)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "file").read_bytes() == content
    os.mkfifo(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    write_to(tmp_path / "fifo", b"through")
    assert os.read(reader, 99) == b"through"
    os.close(reader)
    assert stat.S_ISFIFO((tmp_path / "fifo").stat().st_mode)
    write_to(Path("/dev/null"), b"gone")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


@pytest.mark.parametrize(
    ("path", "why"),
    [("", "names no file"), (".", "names no file"), ("/", "names no file"), ("/dev/full", "No space left on device"),
     ("/proc", "Is a directory")],
)  # fmt: skip
def test_what_cannot_be_written_is_told(path: str, why: str) -> None:
    """In one line."""
    with pytest.raises(InputError, match=why) as caught:
        write_to(Path(path), b"content")
    assert "\n" not in str(caught.value)


def test_nobody_can_lay_a_link_where_a_file_is_about_to_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hidden names are random; one that is guessed all the same is refused."""
    outside = tmp_path / "outside"
    outside.write_text("mine")
    monkeypatch.setattr("secrets.token_hex", lambda _bytes: "0123456789abcdef")
    (tmp_path / ".results.json.0123456789abcdef.tmp").symlink_to(outside)
    with pytest.raises(InputError, match="cannot write"):
        replace_file(tmp_path / "results.json", b"new")
    assert outside.read_text() == "mine"
    monkeypatch.undo()
    replace_file(tmp_path / "results.json", b"new")
    assert (tmp_path / "results.json").read_bytes() == b"new"


def test_a_long_name_is_written(tmp_path: Path) -> None:
    """As long as the file system takes; the hidden name is shorter."""
    path = tmp_path / ("é" * 125 + ".json")
    replace_file(path, b"new")
    assert path.read_bytes() == b"new"


def test_perstep_needs_no_fcntl(environment: dict[str, str]) -> None:
    """Windows has none."""
    script = "import sys; sys.modules['fcntl'] = None; import perstep.runs, perstep.cli.stored, perstep.cli.experiment"
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)


def test_json_is_readable_and_equal_for_equal_values() -> None:
    """Two spaces, field order kept, a newline at the end, characters as they are."""

    class Found(msgspec.Struct):
        step_ns: float
        part: str

    assert encode_json(Found(1.5, "logits/Größe")) == '{\n  "step_ns": 1.5,\n  "part": "logits/Größe"\n}\n'.encode()
    assert encode_json([]) == b"[]\n"
