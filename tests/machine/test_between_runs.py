"""The record of how much whole runs differ on a machine: kept, found again, ignored where it does not hold."""

from pathlib import Path

import msgspec
import pytest

from perstep.machine import BetweenRunNoise, load_between_run_noise, save_between_run_noise


def noise(**changes: object) -> BetweenRunNoise:
    """A record as the self-test makes it."""
    record = BetweenRunNoise(
        identity="0123456789abcdef",
        sd_log={"step": 0.01, "mlp": 0.02},
        df=7,
        runs=8,
        workload="mini",
        measured_at="2026-01-01T00:00:00+00:00",
        perstep_version="0.1.0",
    )
    return msgspec.structs.replace(record, **changes)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    """For its own machine, from a folder that is made for it; nothing else is left there."""
    folder = tmp_path / "a" / "b"
    path = save_between_run_noise(noise(), folder)
    assert path is not None
    assert load_between_run_noise("0123456789abcdef", folder) == noise()
    assert load_between_run_noise("fedcba9876543210", folder) is None
    assert list(folder.iterdir()) == [path]


def test_saving_again_replaces(tmp_path: Path) -> None:
    """The newest record counts."""
    save_between_run_noise(noise(), tmp_path)
    save_between_run_noise(noise(df=15), tmp_path)
    assert load_between_run_noise("0123456789abcdef", tmp_path) == noise(df=15)


def test_the_users_cache_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`$PERSTEP_CACHE_DIR`, as for the ceilings."""
    monkeypatch.setenv("PERSTEP_CACHE_DIR", str(tmp_path))
    save_between_run_noise(noise())
    assert load_between_run_noise("0123456789abcdef") == noise()


def test_without_a_folder_nothing_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No home, or a file where the folder should be: None, never an exception."""
    (tmp_path / "file").write_text("x")
    assert save_between_run_noise(noise(), tmp_path / "file") is None
    for name in ("PERSTEP_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    assert save_between_run_noise(noise()) is None
    assert load_between_run_noise("0123456789abcdef") is None


@pytest.mark.parametrize(
    "changes",
    [
        {"schema_version": 99},
        {"identity": "another"},
        {"df": 0},
        {"sd_log": {}},
        {"sd_log": {"step": -0.1}},
    ],
)
def test_a_record_that_does_not_hold_is_ignored(tmp_path: Path, changes: dict[str, object]) -> None:
    """A newer one, another machine's, or one without sense."""
    path = save_between_run_noise(noise(), tmp_path)
    assert path is not None
    path.write_bytes(msgspec.json.encode(noise(**changes)))
    assert load_between_run_noise("0123456789abcdef", tmp_path) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"identity": 1}', b"\xff"])
def test_a_damaged_record_is_ignored(tmp_path: Path, content: bytes) -> None:
    """The next self-test replaces it."""
    path = save_between_run_noise(noise(), tmp_path)
    assert path is not None
    path.write_bytes(content)
    assert load_between_run_noise("0123456789abcdef", tmp_path) is None
