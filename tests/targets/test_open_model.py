"""What -m, --arch, --layers, --backend, --dtype and --device open."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from perstep.errors import InputError, how_to_install
from perstep.experiments.models import ModelOptions
from perstep.targets import open_model
from perstep.targets.reference import Reference


def test_nothing_named_is_mini_on_the_numpy_decoder() -> None:
    """No extra is needed for it."""
    opened = open_model(None)
    assert (opened.name, opened.backend, opened.random_weights) == ("mini", "numpy", False)
    assert isinstance(opened.model, Reference)
    assert opened.facts["backend"] == "numpy"


def test_a_folder_runs_on_the_numpy_decoder_when_asked(tiny_llama: Path) -> None:
    """By the folder's name."""
    opened = open_model(str(tiny_llama), backend="numpy")
    assert (opened.name, opened.backend) == ("tiny", "numpy")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "mini", "arch": "gpt2"}, "--model and --arch exclude each other"),
        ({"model": "mini", "layers": 2}, "--layers goes with --arch"),
        ({"arch": "gpt2", "layers": 0}, "--layers 0: it must be at least 1"),
        ({"arch": "gpt2", "backend": "numpy"}, "leave out --backend numpy"),
        ({"device": "cuda", "backend": "numpy"}, "the NumPy decoder runs on the cpu"),
        ({"dtype": "bfloat16"}, "the NumPy decoder runs mini in float32"),
    ],
)
def test_options_that_exclude_each_other_are_told(options: dict[str, Any], message: str) -> None:
    """Before anything is loaded, with what to do."""
    with pytest.raises(InputError, match=message):
        ModelOptions(**options).open()


def test_without_the_extra_the_command_that_installs_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """For everything that transformers would run."""
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=re.escape(how_to_install("hf"))):
        open_model(None, arch="gpt2")


@pytest.mark.hf
def test_mini_runs_on_transformers_when_asked() -> None:
    """The same weights: as many parameters as the NumPy decoder counts."""
    opened = open_model("mini", backend="torch")
    assert (opened.name, opened.backend, opened.random_weights) == ("mini", "torch", False)
    assert opened.facts["num_parameters"] == open_model("mini").facts["num_parameters"]
    assert opened.facts["weight_bytes"] == open_model("mini").facts["weight_bytes"]


@pytest.mark.hf
def test_an_architecture_has_random_weights_and_as_many_layers_as_asked(tmp_path: Path) -> None:
    """By a preset's name, or by a config.json, which is named by its folder."""
    named = open_model(None, arch="smollm2-135m", layers=1)
    assert (named.name, named.random_weights, named.facts["num_layers"]) == ("smollm2-135m, 1 of 30 layers", True, 1)
    assert named.facts["name"] == named.name
    assert named.facts["total_layers"] == 30
    folder = tmp_path / "own"
    folder.mkdir()
    config = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 64}
    (folder / "config.json").write_text(json.dumps(config | heads))
    own = open_model(None, arch=str(folder / "config.json"), dtype="bfloat16")
    assert (own.name, own.facts["kv_heads"], own.facts["dtype"]) == ("own", 2, "bfloat16")
    assert own.model.training is False
    for layers in (None, 2):  # all that it has
        whole = open_model(None, arch=str(folder / "config.json"), layers=layers)
        assert whole.name == "own"
        assert "total_layers" not in whole.facts


@pytest.mark.hf
def test_a_device_that_is_not_there_is_told(tmp_path: Path) -> None:
    """In one line; the model is not half moved."""
    torch = pytest.importorskip("torch")
    missing = "xpu" if not torch.xpu.is_available() else "cuda"
    with pytest.raises(InputError, match=f"--device {missing} cannot be used here"):
        open_model(None, arch="smollm2-135m", layers=1, device=missing)
    with pytest.raises(InputError, match="--device fpga cannot be used here"):
        open_model(None, arch="smollm2-135m", layers=1, device="fpga")


@pytest.mark.hf
def test_a_prompt_is_the_same_on_either_backend(tiny_llama: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A text by the folder's own tokenizer; held-out sentences for mini. Loading writes nothing on the terminal."""
    capfd.readouterr()
    numpy, torch = (open_model(str(tiny_llama), backend=backend) for backend in ("numpy", "torch"))
    mini_numpy, mini_torch = (open_model(None, backend=backend) for backend in ("numpy", "torch"))
    text = {"text": "größer", "num_tokens": 9, "batch": 2, "seed": 0}
    assert numpy.prompt(**text).tolist() == torch.prompt(**text).tolist()
    none = {"text": None, "num_tokens": 9, "batch": 2, "seed": 3}
    assert mini_numpy.prompt(**none).tolist() == mini_torch.prompt(**none).tolist()
    drawn = torch.prompt(**none)
    assert drawn.shape == (2, 9)
    assert drawn.max() < 259  # which ends a sequence
    assert drawn.tolist() == torch.prompt(**none).tolist()
    assert mini_torch.encode("he goes") == mini_numpy.encode("he goes")
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")


@pytest.mark.hf
def test_a_text_needs_a_tokenizer(make_llama: Any, tmp_path: Path) -> None:
    """Which random weights, and some folders, do not have."""
    bare = open_model(str(make_llama(tmp_path / "bare", tokenizer=False)))
    with pytest.raises(InputError, match="has no tokenizer that transformers can load; give --prompt-tokens"):
        bare.encode("a")
    with pytest.raises(InputError, match="has random weights and no tokenizer; give --prompt-tokens"):
        open_model(None, arch=str(tmp_path / "bare" / "config.json")).encode("a")
