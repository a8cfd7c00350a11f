"""`perstep predict`: from stored runs to a table, and everything that may be wrong with it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perstep.predicting.cells import Cell, Cells

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch, law: Callable[..., list[Cell]]) -> None:
    """The runs in any folder are those of a known law."""
    from collections import Counter

    read = Cells(law(), Counter({"its ceilings were disturbed": 2}))
    monkeypatch.setattr("perstep.cli.predict.read_cells", lambda _folder, _progress: read)


@pytest.mark.usefixtures("known")
def test_a_prediction_is_a_table_with_its_notes(cli: Callable[..., Any]) -> None:
    """Parts and step, the interval, where it comes from; as JSON with the coefficients."""
    Path("config.json").write_text(
        json.dumps(
            {
                "model_type": "llama",
                "vocab_size": 8000,
                "hidden_size": 512,
                "intermediate_size": 1536,
                "num_hidden_layers": 6,
                "num_attention_heads": 8,
                "max_position_embeddings": 4096,
            }
        )
    )
    words = ["predict", "--arch", "config.json", "--layers", 3, "-c", 300, "--fleet", 2]
    said = cli(*words)
    assert said.code == 0, said.err
    assert "predicted: cwd, 3 layers, batch 1, context 300" in said.out
    assert "Fitted on 32 cells of 8 architectures (transformers, float32, cpu, 1 thread, greedy" in said.out
    assert "2 machines with" in said.out
    assert "2 left out: its ceilings were disturbed" in said.err
    found = json.loads(cli(*words, "-o", "json").out)
    prediction = found["prediction"]
    assert prediction["low_ns"] <= prediction["step_ns"] <= prediction["high_ns"]
    assert found["fit"]["lm_head"]["roofline"] == pytest.approx(1.3, rel=0.01)
    rows = [line.split(",") for line in cli(*words, "-o", "csv").out.splitlines()]
    assert rows[-1][0] == "step"
    assert float(rows[-1][1]) == pytest.approx(prediction["step_ns"])


@pytest.mark.usefixtures("known")
def test_a_lock_is_made_and_checked(cli: Callable[..., Any]) -> None:
    """Cells of that law began before the lock, and none of them is in it."""
    Path("grid.toml").write_text(
        'experiment = "ledger"\n[options]\narch = "gpt2"\nn = 8\n[grid]\nlayers = [2]\np = [64]'
    )
    said = cli("predict", "--lock", "lock.json", "--grid", "grid.toml")
    assert said.code == 0, said.err
    assert "locked: 1 prediction in lock.json, 0 cells not predicted; now `perstep sweep grid.toml`" in said.err
    checked = cli("predict", "--check", "lock.json")
    assert checked.code == 2
    assert "no cell of the sweep is in the lock" in checked.err


@pytest.mark.usefixtures("known")
def test_a_validation_has_its_baselines(cli: Callable[..., Any]) -> None:
    """In one table; as JSON with each cell's errors."""
    said = cli("predict", "--validate", ".", "--sheet-gb-s", 100, "--sheet-gflop-s", 200)
    assert said.code == 0, said.err
    for method in ("perstep, ceilings of the same rounds", "roofline of the data sheet", "nearest measured cell"):
        assert method in said.out
    (found,) = json.loads(cli("predict", "--validate", ".", "-o", "json", "-q").out)
    assert len(found["cells"]) == 32


@pytest.mark.usefixtures("known")
def test_tables_fit_a_narrow_terminal(cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 80 characters; each piece of a table names the method of its rows."""
    monkeypatch.setenv("COLUMNS", "80")
    said = cli("predict", "--validate", ".", "--sheet-gb-s", 100, "--sheet-gflop-s", 200)
    lines = said.out.splitlines()
    assert max(map(len, lines)) <= 80
    pieces = sum(line.startswith("method") for line in lines)
    assert pieces > 1
    assert sum(line.startswith("roofline of the data sheet") for line in lines) == 2 * pieces


BAD: dict[str, tuple[list[str], str]] = {
    "nothing to do": ([], "give --arch"),
    "an unknown architecture": (["--arch", "nowhere"], "unknown architecture 'nowhere'"),
    "a damaged configuration": (["--arch", "bad.json"], "bad.json is no config.json"),
    "a list": (["--arch", "list.json"], "it holds a list"),
    "an encoder": (["--arch", "t5-small"], "has an encoder"),
    "too many layers": (["--arch", "gpt2", "--layers", "99"], "--layers is between 1 and 12"),
    "no batch": (["--arch", "gpt2", "-b", "0"], "each must be at least 1"),
    "more positions than there are": (["--arch", "gpt2", "-c", "2000"], "the model has 1,024 positions"),
    "far away": (["--arch", "llama-3.1-70b", "-c", "131072"], "is not predicted: its"),
    "another way": (["--arch", "gpt2", "--dtype", "bfloat16"], "no cell was measured as"),
    "another sampler": (["--arch", "gpt2", "--temperature", "1", "--top-k", "50"], "sampled top-k 50; there are cells"),
    "a sampler out of range": (["--arch", "gpt2", "--top-p", "2"], "top_p must be above 0"),
    "a token mask": (["--arch", "gpt2", "--processor", "TokenMask"], "greedy, TokenMask; there are cells of"),
    "a fleet of nothing": (["--arch", "gpt2", "--fleet", "0"], "--fleet 0"),
    "a fleet that shares a model": (["--arch", "llama-3.1-70b", "--fleet", "8"], "(tensor parallelism) is refused"),
    "two things": (["--validate", ".", "--check", "lock.json"], "--validate and --check exclude each other"),
    "no grid": (["--lock", "lock.json"], "--lock FILE needs --grid"),
    "no lock": (["--check", "lock.json"], "cannot read lock.json"),
    "half a data sheet": (["--validate", ".", "--sheet-gb-s", "1"], "go together"),
    "a data sheet of nothing": (["--validate", ".", "--sheet-gb-s", "0", "--sheet-gflop-s", "1"], "above 0"),
    "no machine file": (["--arch", "gpt2", "--machine", "none.json"], "cannot read none.json"),
    "a file of no machine": (["--arch", "gpt2", "--machine", "list.json"], "list.json is no machine"),
}


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(cli: Callable[..., Any], name: str) -> None:
    """Exit code 2, nothing on stdout."""
    Path("bad.json").write_text("{")
    Path("list.json").write_text("[]")
    words, wrong = BAD[name]
    said = cli("predict", *words, "-q")
    assert (said.code, said.out) == (2, "")
    assert wrong in said.err
    assert len(said.err.splitlines()) == 1


def test_runs_are_read_from_a_folder_and_counted(cli: Callable[..., Any], tmp_path: Path) -> None:
    """Two stored runs of `ledger`, of which one is damaged, are too few; a folder of others is refused."""
    runs = tmp_path / "runs"
    for number in (1, 2):
        shutil.copytree(GOLDEN / "ledger", runs / f"000{number}-ledger")
    (runs / "0002-ledger" / "results.json").write_text("{")
    said = cli("predict", "--arch", "mini", "-c", "12", "--from", runs)
    assert said.code == 2
    assert "1 left out: its results.json cannot be read" in said.err
    assert "a fit needs 8 cells of one way of carrying out steps, and there are 1" in said.err
    assert "no ledger run in" in cli("predict", "--validate", tmp_path / "nowhere").err
