"""Stored ceilings: found again on the same machine, ignored with a reason on any other."""

import json
from pathlib import Path

import msgspec
import pytest

from perstep.machine import Ceiling, Ceilings, NoiseSummary, identity, load_ceilings, save_ceilings
from perstep.machine.ceilings import allowed_cpu_count, ceiling_versions
from perstep.machine.store import cache_folder, ceilings_path


@pytest.fixture
def ceilings(machine):
    """Ceilings of the laptop."""
    laptop = machine()
    noise = NoiseSummary(
        rounds=5, rounds_hit=0, by_kind={}, wall_ns=1, involuntary_switches=0, major_faults=0, gc_full_collections=0
    )
    figure = Ceiling(
        figure="read.l2", value=10.5, low=9.0, high=11.0, unit="GB/s", repeats=5, method="np.dot",
        methods={"np.dot": 10.5}, threads=1, level="l2", working_set_bytes=1024,
    )  # fmt: skip
    return Ceilings(
        identity=identity(laptop),
        versions=ceiling_versions(laptop),
        allowed_cpus=allowed_cpu_count(laptop),
        cpu_quota_cores=laptop.cgroup.cpu_quota_cores,
        threads=(1,),
        quick=False,
        noise=noise,
        elapsed_ns=1,
        measured_at_unix_s=1_700_000_000,
        figures={"read.l2@1": figure},
        omitted={"memory": "no time"},
    )


def test_what_was_saved_is_loaded(ceilings, machine, tmp_path):
    """A round trip through a folder that did not exist changes nothing and leaves one file."""
    folder = tmp_path / "a" / "cache"
    saved = save_ceilings(ceilings, folder)
    assert saved.path == ceilings_path(identity(machine()), folder)
    loaded = load_ceilings(machine(), folder, threads=1)
    assert loaded.ceilings == ceilings
    assert (loaded.reason, loaded.warning, saved.warning) == ("", "", "")
    assert [path.name for path in folder.iterdir()] == [saved.path.name]


def test_saving_again_replaces(ceilings, machine, tmp_path):
    """The newest measurement is the one that is kept."""
    save_ceilings(ceilings, tmp_path)
    newer = msgspec.structs.replace(ceilings, measured_at_unix_s=1_800_000_000)
    save_ceilings(newer, tmp_path)
    assert load_ceilings(machine(), tmp_path).ceilings == newer


def test_numbers_end_in_their_unit_and_schema_is_named(ceilings, tmp_path):
    """The file is JSON that others can read."""
    table = json.loads(save_ceilings(ceilings, tmp_path).path.read_text())
    assert table["schema_version"] == 1
    assert table["figures"]["read.l2@1"]["unit"] == "GB/s"


def test_ceilings_of_a_busy_machine_are_not_stored(ceilings, tmp_path):
    """The processor was taken away in three of five rounds: nothing is written, and what to do is said."""
    noise = msgspec.structs.replace(ceilings.noise, rounds_hit=3, by_kind={"preempted": 2, "steal": 1})
    saved = save_ceilings(msgspec.structs.replace(ceilings, noise=noise), tmp_path / "cache")
    assert saved.path is None
    assert saved.warning == (
        "ceilings were not stored: the processor was taken away in 3 of 5 rounds."
        " Measure again when this machine is quiet"
    )
    assert not (tmp_path / "cache").exists()


def test_stored_ceilings_of_a_busy_machine_are_refused(ceilings, machine, tmp_path):
    """As older versions stored them: the best round of a figure was 2.1 times its median."""
    path = save_ceilings(ceilings, tmp_path).path
    path.write_text(path.read_text().replace('"high": 11.0', '"high": 22.05'))
    loaded = load_ceilings(machine(), tmp_path)
    assert loaded.ceilings is None
    assert loaded.reason == "they were disturbed: read.l2@1 was 2.1 times as fast in its best round as in the median"


@pytest.mark.parametrize(
    ("by_kind", "figure", "disturbed"),
    [
        ({"preempted": 2, "other processes": 5}, {}, False),  # beside it, not in its place
        ({"preempted": 3}, {}, True),
        ({"throttled": 1, "steal": 2}, {}, True),
        ({}, {"high": 21.0}, False),
        ({}, {"unit": "ns", "high": 99.0}, False),
        ({}, {"unit": "ns", "low": 5.0}, True),
    ],
)
def test_ceilings_know_whether_they_were_disturbed(ceilings, by_kind, figure, disturbed):
    """By half of their rounds, or by a figure whose median is less than half as good as its best round."""
    made = msgspec.structs.replace(ceilings.figures["read.l2@1"], **figure)
    noise = msgspec.structs.replace(ceilings.noise, by_kind=by_kind)
    assert bool(msgspec.structs.replace(ceilings, noise=noise, figures={"read.l2@1": made}).disturbed()) == disturbed


def test_nothing_stored_is_no_warning(machine, tmp_path):
    """The first time there is a reason and nothing to warn about."""
    loaded = load_ceilings(machine(), tmp_path)
    assert (loaded.ceilings, loaded.warning) == (None, "")
    assert "none are stored" in loaded.reason


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff\xfe", b'{"schema_version": "one"}', b'{"schema_version": 1}']
)
def test_damaged_file_is_ignored_with_a_warning(machine, tmp_path, content):
    """Half a file, no JSON or missing fields: measured again, and said so."""
    path = ceilings_path(identity(machine()), tmp_path)
    path.write_bytes(content)
    loaded = load_ceilings(machine(), tmp_path)
    assert loaded.ceilings is None
    assert "damaged" in loaded.warning
    assert str(path) in loaded.warning


def test_newer_schema_is_refused_by_name(machine, tmp_path, ceilings):
    """A file of a later perstep is not misread."""
    path = save_ceilings(msgspec.structs.replace(ceilings, schema_version=2), tmp_path).path
    loaded = load_ceilings(machine(), tmp_path)
    assert loaded.ceilings is None
    assert "schema_version 2" in loaded.warning
    assert str(path) in loaded.warning


def test_unknown_fields_are_ignored(ceilings, machine, tmp_path):
    """A field that this version does not know does no harm."""
    path = save_ceilings(ceilings, tmp_path).path
    path.write_text(json.dumps({**json.loads(path.read_text()), "later": [1]}))
    assert load_ceilings(machine(), tmp_path).ceilings == ceilings


def test_other_hardware_has_a_file_of_its_own(ceilings, machine, tmp_path):
    """Another identity finds nothing, even if somebody renames the file."""
    path = save_ceilings(ceilings, tmp_path).path
    other = machine(cpu__model="another")
    assert load_ceilings(other, tmp_path).ceilings is None
    path.rename(ceilings_path(identity(other), tmp_path))
    assert load_ceilings(other, tmp_path).reason == "they are another machine's"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"software__python": "3.99.0"}, "python"),
        ({"software__kernel": "7.0"}, "kernel"),
        ({"software__packages": {"numpy": "9.9"}}, "numpy"),
        ({"cpu__allowed_cpus": [0]}, "allowed CPUs was 4, now it is 1"),
        ({"cgroup__cpu_quota_cores": 0.5}, "quota of 1.5"),
    ],
)
def test_other_versions_or_limits_are_ignored_with_the_reason(ceilings, machine, tmp_path, change, words):
    """What a ceiling depends on has changed: the reason says what."""
    save_ceilings(ceilings, tmp_path)
    loaded = load_ceilings(machine(**change), tmp_path)
    assert loaded.ceilings is None
    assert words in loaded.reason
    assert loaded.warning == ""


def test_thread_count_that_was_not_measured_is_a_reason(ceilings, machine, tmp_path):
    """Ceilings with one thread say nothing about four."""
    save_ceilings(ceilings, tmp_path)
    assert "not 4" in load_ceilings(machine(), tmp_path, threads=4).reason


def test_folder_that_cannot_be_written_to_is_a_warning(ceilings, machine, tmp_path):
    """Not an error: the ceilings are there, they are only not kept."""
    (tmp_path / "file").write_text("in the way")
    saved = save_ceilings(ceilings, tmp_path / "file" / "cache")
    assert saved.path is None
    assert "PERSTEP_CACHE_DIR" in saved.warning
    assert load_ceilings(machine(), tmp_path / "file" / "cache").ceilings is None


def test_failed_replacement_leaves_no_rubbish(ceilings, machine, tmp_path):
    """When the file cannot be put in its place, the temporary one goes too."""
    folder = tmp_path / "cache"
    in_the_way = ceilings_path(identity(machine()), folder)
    in_the_way.mkdir(parents=True)
    assert save_ceilings(ceilings, folder).path is None
    assert list(folder.iterdir()) == [in_the_way]
    assert "ignored" in load_ceilings(machine(), folder).warning


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({"PERSTEP_CACHE_DIR": "/own", "XDG_CACHE_HOME": "/xdg", "HOME": "/home/a"}, "/own"),
        ({"XDG_CACHE_HOME": "/xdg", "HOME": "/home/a"}, "/xdg/perstep"),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/home/a"}, "/home/a/.cache/perstep"),
        ({"HOME": "/home/a"}, "/home/a/.cache/perstep"),
        ({}, None),
    ],
)
def test_cache_folder_follows_the_environment(environ, folder):
    """The own variable, then XDG (absolute only), then the home folder."""
    assert cache_folder(environ) == (Path(folder) if folder else None)


def test_environment_decides_where_ceilings_go(ceilings, machine, tmp_path, monkeypatch):
    """Without a folder the user's own is taken, here one of the test's."""
    monkeypatch.setenv("PERSTEP_CACHE_DIR", str(tmp_path))
    assert save_ceilings(ceilings).path.parent == tmp_path
    assert load_ceilings(machine()).ceilings == ceilings


def test_without_a_home_folder_nothing_is_kept(ceilings, machine, monkeypatch):
    """No folder is invented."""
    for name in ("PERSTEP_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    assert "PERSTEP_CACHE_DIR" in save_ceilings(ceilings).warning
    assert load_ceilings(machine()).ceilings is None
