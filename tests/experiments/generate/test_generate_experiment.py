"""`perstep generate`: the run it stores, its tables and words, and the input it refuses."""

import json
import shutil
from pathlib import Path

import pytest

from perstep.experiments import pipeline
from perstep.experiments.generate.plan import WORDS_BUDGET_S, Plan

pytestmark = [pytest.mark.hf, pytest.mark.real_clock]
torch = pytest.importorskip("torch")

PROMISED = ["README.md", "cells.csv", "generate.csv", "generate.png", "report.html", "results.json"]
CELLS = ["all", "without utf8", "without word", "none"]


@pytest.fixture(scope="module")
def words_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The document's preset, compiled with a backend that compiles nothing, one round; to be copied, not changed."""
    plan = Plan(preset="words", prompt="ab cde é", batch=2, rounds=1, compile=True, compile_backend="eager")
    out = tmp_path_factory.mktemp("runs") / "words"
    return pipeline.run("generate", plan, progress=lambda *_: None, out=out).folder


def results(folder: Path) -> dict:
    """`results.json`."""
    return json.loads((folder / "results.json").read_text())


def test_the_preset_has_the_four_cells_cold_and_warm(words_run):
    """32 words, each a call from an embedding, so that the context begins with no id."""
    found = results(words_run)
    assert list(found["effects"]["cells"]) == CELLS
    assert set(found["effects"]["interaction"]) == {"utf8*word"}
    assert set(found["cold"]) == set(CELLS)
    for cold in found["cold"].values():
        assert cold["graphs"] == 1
        assert cold["graph_breaks"] == cold["recompilations"] == 0
        assert cold["ns"] > 0
    assert found["invalid"] == ""
    manifest = json.loads((words_run / "manifest.json").read_text())
    assert manifest["status"] == "complete"
    assert manifest["files"] == PROMISED
    assert len(manifest["workload"]["new_tokens"]) == 32
    # Words of 3, 4 and 3 bytes with their spaces; the rows are a word apart.
    assert manifest["workload"]["new_tokens"][:4] == [4, 4, 3, 4]
    assert found["forwards_per_pass"] == sum(manifest["workload"]["new_tokens"])
    assert manifest["conditions"]["context"][:5] == [0, 1, 2, 3, 0]
    conditions = manifest["conditions"]
    assert {conditions[name] for name in ("tf32", "cudnn_benchmark")} <= {True, False}
    assert (conditions["attn_implementation"], conditions["dtype"]) == ("sdpa", "float32")
    assert conditions["compiled"] == "eager"
    assert conditions["compiled_again_when_warm"] == 0


def test_measured_and_expected_stand_in_columns_of_their_own(words_run):
    """The published figures are called expected, warm and cold."""
    text = (words_run / "README.md").read_text()
    assert "| cell | measured, of all | expected, of all | measured cold, of all | expected cold, of all |" in text
    assert "| 68.4 % |" in text
    assert "an interaction of -0.126 s (-4.0 %)" in text
    assert "cold (s) | graphs | breaks | recompiled" in text


def test_why_few_rounds_have_no_verdict_is_told(words_run):
    """Else `not resolved` beside a narrow interval would be a riddle."""
    assert "A verdict needs 20 rounds; an interval alone needs fewer." in (words_run / "README.md").read_text()


def test_a_report_is_made_again_from_the_samples(words_run, tmp_path):
    """Byte for byte."""
    copy = tmp_path / "copy"
    shutil.copytree(words_run, copy)
    for name in PROMISED:
        (copy / name).unlink()
    pipeline.rebuild(copy)
    for name in PROMISED:
        assert (copy / name).read_bytes() == (words_run / name).read_bytes()


def test_a_run_of_given_parts_on_a_given_architecture(cli, tmp_path, monkeypatch):
    """Factories from a module in the current folder; tables on stdout; the run goes on with --resume."""
    Path("slow_parts.py").write_text(
        "class Halve:\n"
        "    def __call__(self, input_ids, scores):\n"
        "        return scores / 2\n"
        "class Never:\n"
        "    def __call__(self, input_ids, scores, **kwargs):\n"
        "        return input_ids[:, -1] < 0\n"
    )
    config = {
        "model_type": "llama", "vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 2, "eos_token_id": 3,
    }  # fmt: skip
    Path("config.json").write_text(json.dumps(config))
    common = ("generate", "--arch", "config.json", "--layers", 1, "-n", 2, "-b", 2, "-p", 3, "--out", "run", "-q")
    parts = ("--processor", "halve=slow_parts:Halve", "--criterion", "never=slow_parts:Never")
    said = cli(*common, *parts, "--rounds", 2, "--temperature", "0.7", "--top-k", 20)
    assert said.code == 0, said.err
    assert "without halve" in said.out
    assert "interaction halve × never" in said.out
    found = results(Path("run"))
    assert found["parts"]["halve"]["in_ledger"] == "logits/Halve"
    assert found["parts"]["never"]["in_ledger"] == "stop/Never"
    assert found["forwards_per_pass"] == 2
    said = cli(*common, *parts, "--rounds", 3, "--temperature", "0.7", "--top-k", 20, "--resume", "-o", "json")
    assert said.code == 0, said.err
    assert json.loads(said.out)["effects"]["rounds"] == 3
    said = cli("show", "run", "-o", "csv")
    assert said.out.splitlines()[0] == "what,of,ns_per_step,ci_low_ns,ci_high_ns"


def test_cells_of_different_forwards_are_invalid(cli):
    """Exit code 4, with both counts, and no run is left."""
    Path("guide_parts.py").write_text(
        "import gc, torch\n"
        "from transformers import LlamaForCausalLM\n"
        "class Guide:\n"
        "    def __call__(self, input_ids, scores):\n"
        "        models = (o for o in gc.get_objects() if isinstance(o, LlamaForCausalLM))\n"
        "        model = next(model for model in models if model.config.vocab_size == 260)\n"
        "        model(input_ids)\n"
        "        return scores\n"
    )
    said = cli("generate", "-n", 2, "--processor", "guide=guide_parts:Guide", "--out", "run", "-q", "--rounds", 1)
    assert said.code == 4
    assert "different numbers of forwards" in said.err
    assert "`all` 4, `none` 2" in said.err
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--processor", "utf8"], "--processor 'utf8': write name=module:factory"),
        (["--processor", "a=no_such_module:f"], "cannot import no_such_module:f: ModuleNotFoundError"),
        (["--processor", "a=json:nothing"], "cannot import json:nothing: AttributeError"),
        (["--processor", "a=json:loads"], "the factory of 'a' raised TypeError"),
        (["--processor", "a=builtins:list"], "returned a list; it must return one logits processor"),
        (["--processor", "a=builtins:object"], "returned a object; it must return one logits processor"),
        (["--criterion", "a=builtins:object", "--criterion", "a=builtins:object"], "--criterion 'a' is given twice"),
        (["--processor", "a=gc:get_objects"], "returned a list"),
        (["--arch", "gpt2"], "there is nothing to take away: give --processor or --criterion"),
        (["--preset", "words", "--arch", "gpt2"], "--preset words brings its own model"),
        (["--preset", "words", "-n", "4"], "--new-tokens does not go with --preset words"),
        (["--preset", "words", "-p", "4"], "--prompt-tokens does not go with --preset words"),
        (["--preset", "verses"], "verses"),
        (["--prompt", " "], "has no word"),
        (["-n", "0"], "--new-tokens 0: it must be at least 1"),
        (["-b", "0"], "--batch 0: it must be at least 1"),
        (["-p", "0"], "--prompt-tokens 0: it must be at least 1"),
        (["-n", "4000"], "8 + 4,000 tokens do not fit: byte-llama has 2,048 positions"),
        (["--layers", "1"], "--layers goes with --arch"),
        (["--backend", "numpy"], "leave out --backend numpy"),
        (["--compile", "--compile-backend", "nonsense"], "no compile backend 'nonsense'"),
        (["--compile-backend", "eager"], "--compile-backend eager goes with --compile"),
        (["--device", "cuda:7"], "--device cuda:7 cannot be used here"),
        (["--dtype", "int8"], "unknown dtype 'int8'"),
        (["--temperature", "-1"], "temperature"),
        (["--top-p", "0"], "top_p"),
        (["--fast", "--rigorous"], "--fast and --rigorous exclude each other"),
        (["--rounds", "0"], "rounds 0"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_bad_input(cli, options, message):
    """One line on stderr, exit code 2, nothing written."""
    said = cli("generate", "--out", "run", *options)
    assert (said.code, said.out) == (2, "")
    assert message in said.err
    assert said.err.count("\n") == 1
    assert not Path("run").exists()


@pytest.mark.parametrize("preset", [(), ("--preset", "words")], ids=["default", "words"])
def test_a_part_that_fails_is_told_in_a_line(cli, preset):
    """With the line of its source."""
    Path("failing_parts.py").write_text(
        "class Fails:\n    def __call__(self, input_ids, scores):\n        raise ValueError('planted')\n"
    )
    said = cli("generate", "--out", "run", "--processor", "a=failing_parts:Fails", *preset)
    assert said.code == 2
    assert said.err == "perstep: generate fails with these parts at failing_parts.py:3: ValueError: planted\n"
    assert not Path("run").exists()


def test_the_preset_takes_a_minute():
    """Unless something else was asked for."""
    assert Plan(preset="words").effort().budget_s == WORDS_BUDGET_S
    assert Plan(preset="words", fast=True).effort().budget_s == 3
    assert Plan(preset="words", budget=5.0).effort().budget_s == 5
    assert Plan(preset="words", rounds=2).effort().max_rounds == 2
    assert Plan().effort().budget_s == 30
