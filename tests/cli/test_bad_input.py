"""Bad input through the real command line: exit code 2, one line on stderr, nothing on stdout, nothing written."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from perstep.measure import FakeClock
from perstep.runs import MANIFEST, SAMPLES

Cli = Callable[..., Any]


def refused(said: Any, why: str) -> None:
    """One line that says why."""
    assert said.code == 2, said
    assert said.out == ""
    assert re.fullmatch(r"perstep: [^\n]+\n", said.err), said.err
    assert why in said.err
    assert "Traceback" not in said.err


def tree(place: Path) -> dict[str, bytes | None]:
    """Everything below a folder; None for folders."""
    return {str(path.relative_to(place)): path.read_bytes() if path.is_file() else None for path in place.rglob("*")}


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["-n", "0"], "--new-tokens 0: it must be at least 1"),
        (["-n", "-5"], "--new-tokens -5"),
        (["-n", "1.5"], "-n"),
        (["-n", "abc"], '"abc"'),
        (["-n", ""], "-n"),
        (["-b", "0"], "--batch 0"),
        (["-b", "1000000000000"], "GB of memory"),
        (["-t", "0"], "--threads 0"),
        (["-t", "-1"], "--threads -1"),
        (["-p", "0"], "--prompt-tokens 0"),
        (["-p", "-64"], "--prompt-tokens -64"),
        (["-p", "65", "-n", "1"], "a prompt of 65 tokens is longer than the model's context of 64"),
        (["-p", "60", "-n", "6"], "at most 5 new tokens fit"),
        (["-p", "8", "-n", "1000000000000000000000000"], "at most 57 new tokens fit"),
        (["--prompt", ""], "--prompt is empty"),
        (["--prompt", "x" * 65, "-n", "1"], "a prompt of 65 tokens is longer"),
        (["--prompt", "abc", "-p", "3"], "--prompt and --prompt-tokens exclude each other"),
        (["--rounds", "0"], "rounds 0: at least 1 round is needed"),
        (["--rounds", "-1"], "rounds -1"),
        (["--budget", "0"], "'0' is not a duration; write 30s"),
        (["--budget", "-1s"], "budget"),
        (["--budget", "soon"], "'soon' is not a duration"),
        (["--precision", "2"], "'2' is not a share between 0 and 1"),
        (["--precision", "0"], "'0' is not a share"),
        (["--precision", "nan"], "'nan' is not a share"),
        (["-n", "8.7"], "-n 8.7: it must be a whole number"),
        (["--rounds", "nan"], "--rounds nan: it must be a whole number"),
        (["-t", "1000000"], "--threads 1000000: at most"),
        (["-t", "99999999999999999999"], "--threads 99999999999999999999: at most"),
        (["--prompt", "a\0b"], "has a NUL character in it"),
        (["--out", "a\0b"], "has a NUL character in it"),
        (["--seed", "-1"], "seed must be"),
        (["--seed", str(2**64)], "seed must be"),
        (["--temperature", "-0.1"], "temperature must be"),
        (["--temperature", "nan"], "temperature must be"),
        (["--temperature", "inf"], "temperature must be"),
        (["--top-k", "-1"], "top_k must be"),
        (["--top-p", "0"], "top_p must be"),
        (["--top-p", "1.5"], "top_p must be"),
        (["--fast", "--rigorous"], "--fast and --rigorous exclude each other"),
        (["-o", "xml"], "xml"),
        (["--bogus"], "--bogus"),
        (["--bogus=1"], "--bogus"),
        (["--no-fast"], "--no-fast"),
        (["surplus"], "surplus"),
        (["-n"], "-n"),
        (["--out"], "--out"),
        (["--resume"], "--resume needs --out DIR"),
        (["--resume", "--out", "missing"], "missing is not a run"),
        (["--prompt", "\udcff"], "not valid UTF-8"),
        (["--out", "bad\udcff"], "not valid UTF-8"),
        (["--out", "a" * 300], "File name too long"),
        (["--out", "/proc/perstep"], "/proc/perstep"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_options_that_are_wrong(options: list[str], why: str, cli: Cli, tiny_llama: Path, fake_time: FakeClock) -> None:
    """Values out of range, of another kind, unknown, missing, contradictory."""
    enough = [] if {"-n", "-p", "--rounds", "--prompt"} & set(options) else ["-p", "8", "-n", "2", "--rounds", "1"]
    refused(cli("ledger", "--backend", "numpy", "-m", tiny_llama, *enough, *options), why)
    assert tree(Path.cwd()) == {}


@pytest.mark.parametrize(
    ("tokens", "why"),
    [
        (["bogus"], "bogus"),
        (["--bogus"], "--bogus"),
        (["show"], "RUN requires an argument"),
        (["show", "99"], "no run 99"),
        (["show", "missing"], "no run missing"),
        (["show", ""], "is not a run"),
        (["show", "a", "b"], "unexpected argument 'b'; `perstep show --help`"),
        (["show", "x" * 300], "File name too long"),
        (["report"], "RUN requires an argument"),
        (["report", "99"], "no run 99"),
        (["report", "."], "is not a run"),
        (["list", "surplus"], "surplus"),
        (["list", "-o", "yaml"], "yaml"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_commands_that_are_wrong(tokens: list[str], why: str, cli: Cli) -> None:
    """Unknown ones, and runs that are not there."""
    refused(cli(*tokens), why)
    assert tree(Path.cwd()) == {}


def test_a_file_in_place_of_a_folder(cli: Cli, tiny_llama: Path) -> None:
    """For a model, for a run, for a place of runs."""
    file = Path("file.txt")
    file.write_text("mine")
    refused(cli("ledger", "--backend", "numpy", "-m", file), "no model 'file.txt'")
    refused(cli("ledger", "--backend", "numpy", "-m", tiny_llama, "--out", file), "is a file")
    refused(
        cli("ledger", "--backend", "numpy", "-m", tiny_llama, "--out", file / "run", "-p", "8", "-n", "2"), "file.txt"
    )
    refused(cli("show", file), "no run file.txt")
    refused(cli("list", "--root", file), "is a file")
    assert tree(Path.cwd()) == {"file.txt": b"mine"}


# Models


def drop(name: str) -> Callable[[Path], Any]:
    """Remove a file."""
    return lambda folder: (folder / name).unlink()


def rewrite(name: str, content: bytes) -> Callable[[Path], Any]:
    """Replace a file."""
    return lambda folder: (folder / name).write_bytes(content)


def cut(num_bytes: int) -> Callable[[Path], Any]:
    """Keep only the beginning of the weights, or all but the end."""
    return lambda folder: rewrite("model.safetensors", (folder / "model.safetensors").read_bytes()[:num_bytes])(folder)


def configure(**changes: Any) -> Callable[[Path], Any]:
    """Change keys of config.json."""

    def apply(folder: Path) -> None:
        raw = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(raw | changes))

    return apply


def tensors(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Any]:
    """Change weights."""

    def apply(folder: Path) -> None:
        found = load_file(folder / "model.safetensors")
        change(found)
        save_file(found, folder / "model.safetensors")

    return apply


EMBEDDING = "model.embed_tokens.weight"


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (shutil.rmtree, "no model"),
        (drop("config.json"), "config.json"),
        (drop("model.safetensors"), "model.safetensors"),
        (drop("tokenizer.json"), "tokenizer.json"),
        (rewrite("config.json", b"{"), "config.json is not valid JSON"),
        (rewrite("config.json", b""), "config.json is not valid JSON"),
        (rewrite("config.json", b"\xff\xfe\x00"), "config.json is not valid JSON"),
        (rewrite("config.json", b"[1]"), "config.json must hold a JSON object"),
        (rewrite("tokenizer.json", b"{"), "tokenizer.json is not a readable tokenizer"),
        (rewrite("model.safetensors", b""), "truncated"),
        (rewrite("model.safetensors", b"\x10\x00\x00\x00\x00\x00\x00\x00not json at all!"), "not a safetensors file"),
        (cut(4), "truncated"),
        (cut(200), "truncated"),
        (cut(-1), "truncated"),
        (configure(model_type="mamba"), "'mamba'"),
        (configure(hidden_size=0), "hidden_size"),
        (configure(hidden_size=32), "shape"),
        (configure(num_hidden_layers=3), "model.layers.2"),
        (configure(num_hidden_layers=1), "model.layers.1"),
        (configure(num_attention_heads="two"), "num_attention_heads"),
        (configure(vocab_size=10**15), "vocab_size"),
        (configure(rope_scaling={"rope_type": "yarn", "factor": 2.0}), "yarn"),
        (tensors(lambda found: found.update({EMBEDDING: found[EMBEDDING][:, :-1].copy()})), f"{EMBEDDING} has shape"),
        (tensors(lambda found: found.pop("model.norm.weight")), "model.norm.weight"),
        (tensors(lambda found: found.update({EMBEDDING: found[EMBEDDING].astype(np.int8)})), "I8"),
        (tensors(lambda found: found[EMBEDDING].fill(np.nan)), "is nan"),
        (tensors(lambda found: found["model.norm.weight"].fill(np.inf)), "no token is allowed, or the model"),
    ],
)
def test_models_that_cannot_be_run(
    spoil: Callable[[Path], Any], why: str, cli: Cli, tiny_llama: Path, tmp_path: Path, fake_time: FakeClock
) -> None:
    """Missing, unreadable, unsupported, truncated, of the wrong shape, or without numbers in it."""
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    spoil(folder)
    refused(
        cli(
            "ledger", "--backend", "numpy", "-m", folder, "--prompt", "abc", "-n", "2", "--rounds", "1", "--out", "run"
        ),
        why,
    )
    assert tree(Path.cwd()) == {}


def test_a_name_that_is_no_model(cli: Cli) -> None:
    """Nothing is fetched from a network."""
    refused(cli("ledger", "--backend", "numpy", "-m", "meta-llama/Llama-3.2-1B"), "no model 'meta-llama/Llama-3.2-1B'")
    refused(cli("ledger", "--backend", "numpy", "-m", ""), "config.json")
    assert tree(Path.cwd()) == {}


# Folders that hold something


@pytest.fixture
def run_folder(cli: Cli, finished_run: Path) -> Path:
    """A complete run, and a file that is none of ours."""
    folder = shutil.copytree(finished_run, Path("run").absolute())
    (folder / "notes.txt").write_text("mine")
    return folder


def test_an_out_that_is_not_empty(cli: Cli, tiny_llama: Path, run_folder: Path) -> None:
    """A run or anything else; nothing in it changes."""
    before = tree(run_folder)
    refused(
        cli("ledger", "--backend", "numpy", "-m", tiny_llama, "--out", run_folder),
        "is not empty; choose another folder, or --resume",
    )
    for name in (MANIFEST, SAMPLES):
        (run_folder / name).rename(run_folder / f"other-{name}")
    for force in ([], ["--force"]):
        refused(
            cli("ledger", "--backend", "numpy", "-m", tiny_llama, "--out", run_folder, *force),
            "is not empty and holds no run",
        )
    for name in (MANIFEST, SAMPLES):
        (run_folder / f"other-{name}").rename(run_folder / name)
    assert tree(run_folder) == before


def test_a_resume_with_other_options(cli: Cli, tiny_llama: Path, run_folder: Path, fake_time: FakeClock) -> None:
    """The option is named; nothing in the run changes."""
    before = tree(run_folder)
    same = [
        "ledger",
        "--backend",
        "numpy",
        "-m",
        tiny_llama,
        "-p",
        "8",
        "--rounds",
        "3",
        "--resume",
        "--out",
        run_folder,
    ]
    refused(cli(*same, "-n", "5"), "was measured with new_tokens=4, not 5")
    refused(cli(*same, "-n", "4", "--seed", "7"), "was measured with seed=0, not 7")
    refused(cli(*same, "-n", "4", "--force"), "--resume and --force exclude each other")
    assert tree(run_folder) == before


@pytest.mark.parametrize("command", ["show", "report"])
@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (drop(SAMPLES), "the run has no samples"),
        (drop(MANIFEST), "is not a run"),
        (rewrite(SAMPLES, b""), "the run has no finished round"),
        (rewrite(SAMPLES, b"{}\n{}\n"), "line 1 is damaged"),
        (rewrite(SAMPLES, b"\xff\n"), "line 1 is damaged"),
        (rewrite(SAMPLES, b'{"round": 0, "passes": [{"arm": "\xff"}]}\n'), "line 1 is damaged"),
        (rewrite(MANIFEST, b"{"), "is not a manifest"),
        (rewrite(MANIFEST, b'{"schema_version": 999}'), "schema_version 999"),
        (
            rewrite(MANIFEST, b'{"schema_version": 2, "experiment": "ledger", "plan": {}}'),
            "manifest.json lacks conditions.",
        ),
        (rewrite(MANIFEST, b'{"schema_version": 2, "experiment": "seance", "plan": {}}'), "no experiment 'seance'"),
    ],
)
def test_runs_that_are_damaged(
    command: str, spoil: Callable[[Path], Any], why: str, cli: Cli, run_folder: Path
) -> None:
    """Told by file and line; nothing is repaired by guessing."""
    spoil(run_folder)
    before = tree(run_folder)
    refused(cli(command, run_folder), why)
    assert tree(run_folder) == before


def test_a_disk_that_fills(
    cli: Cli, tiny_llama: Path, run_folder: Path, fake_time: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a run is begun, replaced or reported: what was there before stays whole."""
    before = tree(run_folder)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    refused(cli("report", run_folder), "No space left on device; choose another place")
    command = ["ledger", "--backend", "numpy", "-m", tiny_llama, "-p", "8", "-n", "2", "--rounds", "1", "-q"]
    refused(cli(*command, "--out", run_folder, "--force"), "No space left on device")
    refused(cli(*command, "--out", "new"), "No space left on device")
    assert tree(run_folder) == before


def test_memory_that_is_not_there(cli: Cli, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What no check has foreseen is still one line."""

    def exhausted(*_: object) -> None:
        raise MemoryError("Unable to allocate 7 TiB")

    monkeypatch.setattr("perstep.targets.loop_target.record_trace", exhausted)
    refused(
        cli("ledger", "--backend", "numpy", "-m", tiny_llama, "-p", "8", "-n", "2"),
        "not enough memory: Unable to allocate 7 TiB",
    )


@pytest.mark.parametrize(
    "command",
    ["ledger", "mask", "cache", "ops", "depth", "experts", "context", "output", "generate", "selftest",
     "compare --live true true"],
)  # fmt: skip
@pytest.mark.parametrize(
    ("options", "why"),
    [(["--seed", "-1"], "seed must be a whole number"), (["--threads", "0"], "--threads 0: it must be at least 1"),
     (["--threads", "1000000"], "--threads 1000000: at most")],
)  # fmt: skip
def test_every_command_that_measures_checks_seed_and_threads(
    command: str, options: list[str], why: str, cli: Cli
) -> None:
    """Before anything is loaded."""
    if command == "selftest" and "--threads" in options:
        pytest.skip("it has none")
    refused(cli(*command.split(), *options), why)
    assert tree(Path.cwd()) == {}


@pytest.mark.parametrize("form", ["csv", "chrome-trace"])
def test_a_run_of_whole_calls_is_not_exported(form: str, cli: Cli) -> None:
    """`mask` has neither parts nor steps to lay end to end; `ops` has both."""
    golden = Path(__file__).parents[1] / "golden"
    refused(cli("export", golden / "mask", "-f", form), "is a `mask` run, which has no ledger of parts; give")
    assert cli("export", golden / "ops", "-f", form).code == 0


@pytest.mark.parametrize("to", ["", "."])
def test_an_export_needs_the_name_of_a_file(to: str, cli: Cli, run_folder: Path) -> None:
    """The empty string is the current folder."""
    refused(cli("export", run_folder, "-f", "csv", "--to", to), "'.' names no file")


@pytest.mark.parametrize("keyword", ['"multipleOf": 1' + "0" * 400, '"const": NaN', '"minimum": -1' + "0" * 400])
def test_numbers_that_no_schema_has(keyword: str, cli: Cli) -> None:
    """Beyond doubles, and none at all."""
    Path("schema.json").write_text(f'{{"type": "object", "properties": {{"a": {{"type": "integer", {keyword}}}}}}}')
    said = cli("mask", "--schema", "schema.json")
    assert said.code == 2
    assert said.err.count("\n") == 1


def test_a_backend_that_matplotlib_lacks_does_not_matter(run_folder: Path) -> None:
    """No window is opened; the setting stays the user's."""
    script = (
        "import os; os.environ['MPLBACKEND'] = 'nonsense'\n"
        "from perstep.cli import run\n"
        f"code = run(['report', {str(run_folder)!r}])\n"
        "assert os.environ['MPLBACKEND'] == 'nonsense'; raise SystemExit(code)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
