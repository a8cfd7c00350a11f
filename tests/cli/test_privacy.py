"""What a run keeps of a person's own text: hashes, and paths from the working folder on (docs/privacy.md)."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perstep.runs.privacy import command_without_text, hashed, with_short_paths, without_text

Cli = Callable[..., Any]
SECRET = "open sesame"  # noqa: S105 - words that mini's tokenizer reads
FOLDER = "opensesame"
KEPT = (0, 4)  # a busy machine may make a run of one round invalid; it is kept all the same
SCRIPT = """
import torch
from transformers import LlamaConfig, LlamaForCausalLM
torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(
    vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, pad_token_id=0,
    eos_token_id=None)).eval()
model.generate(torch.arange(3, 13).reshape(2, 5), max_new_tokens=12, do_sample=False)
"""


def holding(run: Path, *words: str) -> list[str]:
    """The files of a run in which one of the words stands, as it is or as JSON spells it."""
    return [
        path.name
        for path in run.rglob("*")
        if path.is_file() and any(word.encode() in path.read_bytes() for word in words)
    ]


@pytest.fixture
def command(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """`command("ledger", ...)`: as it is typed, so that the words are those of this process."""
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])  # a watched script takes its place

    def call(*tokens: object) -> Any:
        monkeypatch.setattr(sys, "argv", ["perstep", *map(str, tokens)])
        return cli(*tokens)

    return call


@pytest.mark.real_clock
def test_a_ledger_keeps_no_prompt_and_no_path(command: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither from the option, nor from the environment, nor from where it was called; `--keep-text` keeps the text."""
    monkeypatch.setenv("PERSTEP_KEY", SECRET)
    place = tmp_path / FOLDER
    place.mkdir()
    monkeypatch.chdir(place)
    words = ("ledger", "-m", "mini", "--prompt", SECRET, "-n", "2", "--rounds", "1", "-q", "--out", place / "run")
    said = command(*words)
    assert said.code in KEPT, said
    assert holding(place / "run", SECRET, FOLDER) == []
    manifest = json.loads((place / "run" / "manifest.json").read_text())
    assert manifest["plan"]["prompt"] == hashed(SECRET)
    assert manifest["argv"][manifest["argv"].index("--prompt") + 1] == hashed(SECRET)
    assert manifest["argv"][-1] == "run"
    again = command(*words, "--resume")
    assert again.code in KEPT, again  # a prompt and its hash are the same plan
    kept = command(*words, "--force", "--keep-text")
    assert kept.code in KEPT, kept
    assert sorted(holding(place / "run", SECRET)) == ["manifest.json", "report.html"]


@pytest.mark.hf
@pytest.mark.real_clock
@pytest.mark.usefixtures("nothing_compiled")
@pytest.mark.parametrize("options", [("watch",), ("fix", "--budget", "0.5s")])
def test_a_watched_script_keeps_its_arguments_and_its_folder(
    command: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    """Its name is kept, and where it stands below the working folder."""
    pytest.importorskip("transformers")
    place = tmp_path / FOLDER
    (place / "jobs").mkdir(parents=True)
    (place / "jobs" / "job.py").write_text(SCRIPT)
    monkeypatch.chdir(place)
    said = command(*options, "--out", place / "run", place / "jobs" / "job.py", "--key", SECRET)
    assert said.code == 0, said
    assert holding(place / "run", SECRET, FOLDER, str(tmp_path)) == []
    manifest = json.loads((place / "run" / "manifest.json").read_text())
    assert manifest["plan"]["script"] == "jobs/job.py"
    assert manifest["plan"]["arguments"] == [hashed("--key"), hashed(SECRET)]


def test_what_is_hidden_in_a_command_line() -> None:
    """The value of `--prompt` in both spellings, and the last words that are a script's; a hash is left as it is."""
    argv = ["perstep", "ledger", "--prompt", "a", "--prompt=b", "-n", "2"]
    made = command_without_text(argv, 0)
    assert made == ["perstep", "ledger", "--prompt", hashed("a"), f"--prompt={hashed('b')}", "-n", "2"]
    assert command_without_text(["perstep", "watch", "job.py", "x", "y"], 2)[2:] == ["job.py", hashed("x"), hashed("y")]
    assert without_text({"prompt": hashed("a"), "arguments": [], "batch": 1}) == {
        "prompt": hashed("a"),
        "arguments": [],
        "batch": 1,
    }
    assert hashed("a") != hashed("b")


def test_what_becomes_of_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the working folder on, from the home folder on, else the name; what is no path stays."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/alice")
    found = {
        f"{tmp_path}/runs/a b": "runs/a b",
        f"--out={tmp_path}/run": "--out=run",
        "/home/alice/models/b": "~/models/b",
        "/mnt/top secret/model": ".../model",
        "cannot read /mnt/project/model.safetensors: damaged": "cannot read .../model.safetensors: damaged",
        "1,000 tokens/s, and/or": "1,000 tokens/s, and/or",
        "https://example.org/a/b": "https://example.org/a/b",
        "runs/a": "runs/a",
    }
    assert {text: with_short_paths(text) for text in found} == found
    assert with_short_paths({"a": [Path("/mnt/x/y"), 1, None]}) == {"a": [".../y", 1, None]}
