"""Runs and locks that come from elsewhere: what is damaged is left out and counted, or refused in a line."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perstep.predicting.cells import read_cells
from perstep.predicting.lock import read_lock

GOLDEN = Path(__file__).parents[1] / "golden"
VERSIONS = Path(__file__).with_name("versions")
DEEP = "[" * 1_000_000

DAMAGES: dict[str, tuple[str, str, Any]] = {
    "a machine of another type": ("manifest.json", "machine.cpu", 1),
    "no context": ("manifest.json", "workload.prompt_tokens", -99),
    "no batch": ("manifest.json", "workload.batch", 0),
    "no layers": ("manifest.json", "conditions.bounds.config.num_hidden_layers", 0),
    "a billion layers": ("manifest.json", "conditions.bounds.config.num_hidden_layers", 10**9),
    "a workload of words": ("manifest.json", "workload", {"batch": "many"}),
    "a step that never ends": ("results.json", "decode.plain_step_ns", 1e308),
    "a part that never ends": ("results.json", "decode.parts.mlp.ns_per_step", 1e308),
    "a step backwards": ("results.json", "decode.plain_step_ns", -5.0),
    "no set was read": ("results.json", "ceilings.typical.read_gb_s", {}),
    "a set of nothing": ("results.json", "ceilings.typical.read_gb_s", {"0": 1.0}),
    "no call without a set": ("results.json", "ceilings.typical.call_ns", {"262144": 500.0}),
    "products in no time": ("results.json", "ceilings.typical.gemm_gflop_s", 0.0),
}
"""File of a run, place in it, what stands there."""


def change(path: Path, place: str, value: Any) -> None:
    """Put a value into a JSON file."""
    whole = json.loads(path.read_text())
    *above, last = place.split(".")
    inner = whole
    for name in above:
        inner = inner[name]
    inner[last] = value
    path.write_text(json.dumps(whole))


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_run_is_left_out_and_the_others_are_read(tmp_path: Path, name: str) -> None:
    """It is counted; what its file says is never computed with."""
    for number in (1, 2):
        shutil.copytree(GOLDEN / "ledger", tmp_path / f"000{number}-ledger")
    file, place, value = DAMAGES[name]
    change(tmp_path / "0002-ledger" / file, place, value)
    read = read_cells(tmp_path)
    assert [cell.name for cell in read.cells] == ["0001-ledger"]
    assert read.left_out.total() == 1


def test_a_run_that_cannot_be_read_at_all_is_counted_too(tmp_path: Path) -> None:
    """Its manifest is no manifest; of another one the results are none, or of a step of no time."""
    for number in (1, 2, 3, 4):
        shutil.copytree(GOLDEN / "ledger", tmp_path / f"000{number}-ledger")
    (tmp_path / "0002-ledger" / "manifest.json").write_text(DEEP)
    (tmp_path / "0003-ledger" / "results.json").write_text(DEEP)
    change(tmp_path / "0004-ledger" / "results.json", "decode.step_ns", 0.0)
    read = read_cells(tmp_path)
    assert [cell.name for cell in read.cells] == ["0001-ledger"]
    assert read.left_out.total() == 3


def test_a_run_of_a_strange_sweep_has_its_own_name(tmp_path: Path) -> None:
    """That of its folder."""
    folder = Path(shutil.copytree(GOLDEN / "ledger", tmp_path / "0001-ledger"))
    change(folder / "manifest.json", "config.sweep", [1])
    assert [cell.name for cell in read_cells(tmp_path).cells] == ["0001-ledger"]


def test_every_version_of_a_lock_has_a_stored_one() -> None:
    """From version 1 on."""
    assert [path.name for path in VERSIONS.iterdir()] == ["1"]
    locked = read_lock(VERSIONS / "1" / "lock.json")
    assert (locked.schema_version, len(locked.predictions), len(locked.refused)) == (1, 1, 0)


def fifo(path: Path) -> None:
    """Never ends."""
    os.mkfifo(path)


def zero(path: Path) -> None:
    """Ends even less."""
    path.symlink_to("/dev/zero")


FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a FIFO": (fifo, "it is a FIFO"),
    "a device": (zero, "it is a link"),
    "deep": (lambda path: path.write_text(DEEP), "is no "),
    "a list": (lambda path: path.write_text("[]"), "is no "),
    "no text": (lambda path: path.write_bytes(b'{"schema_version": 1, "locked_at": "\xff"}'), "is no "),
    "before all": (lambda path: path.write_text('{"schema_version": -1}'), ""),
    "newer": (lambda path: path.write_text('{"schema_version": 2, "strange": []}'), ""),
}


@pytest.mark.parametrize("option", ["--check", "--machine"])
@pytest.mark.parametrize("name", FILES)
def test_a_strange_file_is_refused_in_a_line(cli: Callable[..., Any], name: str, option: str) -> None:
    """Nothing is waited for; another version is named."""
    lay, why = FILES[name]
    lay(Path("file"))
    said = cli("predict", "--arch", "gpt2", option, "file")
    assert (said.code, said.out, len(said.err.splitlines())) == (2, "", 1)
    if option == "--check":
        assert why or "has schema_version" in said.err
    assert why in said.err


@pytest.mark.parametrize("arch", ["/dev/zero", "deep.json"])
def test_a_configuration_without_an_end_is_refused(cli: Callable[..., Any], arch: str) -> None:
    """Before it fills the memory."""
    Path("deep.json").write_text(DEEP)
    said = cli("predict", "--arch", arch)
    assert (said.code, said.out, len(said.err.splitlines())) == (2, "", 1)
    assert f"{arch} is no config.json" in said.err
