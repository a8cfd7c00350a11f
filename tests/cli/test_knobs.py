"""`perstep depth`, `experts`, `context` and `output` on the command line, in the spellings that were promised."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perstep.measure import FakeClock

Cli = Callable[..., Any]
SMALL = ("--backend", "numpy", "-p", "4", "--quality-tokens", "0")


def configurations(folder: Path) -> list[list[int]]:
    """The active blocks of each configuration of a run."""
    return [s["active_block_indices"] for s in json.loads((folder / "results.json").read_text())["summary"]]


@pytest.fixture(scope="module")
def four(make_llama: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of four layers."""
    return make_llama(tmp_path_factory.mktemp("models") / "four", num_hidden_layers=4)


@pytest.mark.parametrize("dash", ["-", "_"])
def test_options_may_be_spelled_with_either_dash(
    dash: str, cli: Cli, four: Path, fake_time: FakeClock, tmp_path: Path
) -> None:
    """Counts in a row; the model's path, the folder and the number of samples under their other names."""
    names = [name.replace("_", dash) for name in ("model_path", "output_dir", "num_samples", "num_active_blocks")]
    model, out, samples, counts = (f"--{name}" for name in names)
    said = cli("depth", model, four, *SMALL, "-n", "2", counts, "1", "3", "4", samples, "2", out, tmp_path / "run")
    assert said.code == 0, said.err
    assert configurations(tmp_path / "run") == [[0], [0, 1, 2], [0, 1, 2, 3]]
    assert said.out.startswith("depth: four, batch 1, float32 on cpu, 2 samples a configuration")


def test_indices_are_repeatable_and_win(cli: Cli, four: Path, fake_time: FakeClock, tmp_path: Path) -> None:
    """Each time the option is given is a configuration."""
    options = "--active_block_indices 0 3 --active_block_indices 2 --active_block_indices 1,2 --num_active_blocks 4"
    said = cli("depth", "-m", four, *SMALL, "-n", "2", "--rounds", "1", "--out", tmp_path / "run", *options.split())
    assert said.code == 0, said.err
    assert configurations(tmp_path / "run") == [[0, 3], [2], [1, 2]]


def test_lists_and_ranges_are_taken(cli: Cli, four: Path, fake_time: FakeClock, tmp_path: Path) -> None:
    """Of generated tokens, input tokens and blocks."""
    for command, option, value, field, expected in (
        ("depth", "--num-active-blocks", "1-4", "num_active_blocks", [1, 2, 3, 4]),
        ("output", "-n", "1-4*2", "num_output_tokens", [1, 2, 4]),
        ("context", "-p", "4,8", "num_input_text_tokens", [4, 8]),
    ):
        out = tmp_path / command
        extra = {"depth": ("--quality-tokens", "0", "-n", "2", "-p", "4"), "output": ("-p", "4")}.get(command, ())
        said = cli(command, "-m", four, "--backend", "numpy", option, value, "--rounds", "1", "--out", out, *extra)
        assert said.code == 0, said.err
        summary = json.loads((out / "results.json").read_text())["summary"]
        assert [s[field] for s in summary] == expected


def test_a_run_is_shown_and_made_again(cli: Cli, four: Path, fake_time: FakeClock, tmp_path: Path) -> None:
    """`show` and `report` know the experiments; report gives the same bytes again."""
    out = tmp_path / "run"
    assert (
        cli("output", "-m", four, "--backend", "numpy", "-p", "4", "-n", "1,4", "--rounds", "2", "--out", out).code == 0
    )
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.name != "manifest.json"}
    assert "per forward (ms)" in cli("show", out).out
    assert cli("report", out).code == 0
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.name != "manifest.json"} == before
    for form, starts in (("csv", "label,"), ("json", "{"), ("md", "**output: four")):
        assert cli("show", out, "-o", form).out.startswith(starts)


def test_several_models_are_one_run(cli: Cli, four: Path, fake_time: FakeClock, tmp_path: Path) -> None:
    """A comma between them; the tables, `show` and `list` name both, and what one cannot take names that one."""
    out = tmp_path / "run"
    models = f"mini,{four}"
    said = cli("output", "-m", models, "--backend", "numpy", "-p", "4", "-n", "1,4", "--rounds", "2", "--out", out)
    assert said.code == 0, said.err
    for shown in (said.out, cli("show", out).out):
        assert [line for line in shown.splitlines() if line.startswith("output: ")] == [
            f"output: {name}, batch 1, float32 on cpu, 2 samples a configuration" for name in ("mini", "four")
        ]
    results = json.loads((out / "results.json").read_text())
    assert [(s["model"], s["num_output_tokens"]) for s in results["summary"]] == [
        ("mini", 1), ("mini", 4), ("four", 1), ("four", 4),
    ]  # fmt: skip
    refused = cli("output", "-m", models, "--backend", "numpy", "-p", "60", "-n", "10")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.startswith("perstep: four: a prompt of 60 and 10 new tokens overflow")
    again = cli("output", "-m", "mini,mini")
    assert (again.code, again.err) == (2, "perstep: --model mini,mini: mini is given twice; name each model once\n")


@pytest.mark.parametrize("command", ["depth", "output"])
def test_prompts_of_a_file_are_measured_in_one_run(
    command: str, cli: Cli, four: Path, fake_time: FakeClock, tmp_path: Path
) -> None:
    """Every line in every configuration; the samples say which."""
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"ids": [3, 4, 5]}\n{"ids": [5, 4, 3, 5, 4, 3]}\n', encoding="utf-8")
    extra = ("--quality-tokens", "0") if command == "depth" else ()
    options = ("--backend", "numpy", "-n", "2", "--rounds", "2", "--prompts", file, "--out", tmp_path / "run")
    said = cli(command, "-m", four, *options, *extra)
    assert said.code == 0, said.err
    assert "2 prompts of 3 to 6 tokens" in said.out
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    lengths = {(s["prompt_id"], s["num_input_text_tokens"]) for s in results["all_samples"]}
    assert lengths == {(0, 3), (1, 6)}
    assert len(results["all_samples"]) == len(results["summary"]) * 2 * 2


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("depth --num_active_blocks 0", "--num-active-blocks 0: it must be at least 1"),
        ("depth --num_active_blocks 5", "--num-active-blocks 5: the model has 4 blocks"),
        ("depth --num_active_blocks", "--num-active-blocks"),
        ("depth --num_active_blocks four", "'four' is not a list of counts"),
        ("depth --active_block_indices 4 8", "blocks 4, 8 are out of range: the model has 4 blocks, numbered 0 to 3"),
        ("depth --active_block_indices 1 1 2", "block 1 is given more than once"),
        ("depth --active_block_indices -1", "block -1 is out of range"),
        ("depth --active_block_indices one", "'one' is not a block; write indices such as 0 5 10"),
        ("depth --strategy middle", '"middle"'),
        ("depth --under soon", "'soon' is not a duration"),
        ("depth --num_samples 0", "rounds 0: at least 1 round is needed"),
        ("depth --text nowhere -p 4 -n 2", "--text nowhere: No such file"),
        ("depth -p 65", "a prompt of 65 tokens is longer than the model's context of 64"),
        ("depth --prompts nowhere", "--prompts nowhere: No such file or directory"),
        ("depth --prompts nowhere -p 4", "--prompt-tokens and --prompts exclude each other"),
        ("output -n 0,4", "--new-tokens 0"),
        ("output -n 100", "at most 1 new token fits"),
        ("context -p 0", "--prompt-tokens 0"),
        ("context -p 100", "a prompt of 100 tokens is longer than the model's context of 64"),
        ("context --images 1", "four is a text model: --images and --image-size go with a vision-language model"),
        ("context --image-size 224", "four is a text model"),
        ("experts", "four is a dense model"),
    ],
)
def test_bad_input_is_one_line(line: str, why: str, cli: Cli, four: Path) -> None:
    """Exit code 2, nothing on stdout, nothing written."""
    command, *options = line.split()
    said = cli(command, "-m", four, "--backend", "numpy", *options)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("perstep: ")
    assert said.err.count("\n") == 1
    assert why in said.err
    assert not Path(".perstep").exists()
