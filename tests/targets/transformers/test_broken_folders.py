"""Folders of models that are broken: told in one line, and no pickle is ever opened."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perstep.errors import InputError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.hf
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model in the standard format."""
    torch.manual_seed(0)
    config = transformers.Qwen2Config(
        vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2,
    )  # fmt: skip
    folder: Path = tmp_path_factory.mktemp("models") / "whole"
    transformers.Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


def weights(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Change the tensors of a folder."""
    from safetensors.torch import load_file, save_file

    def damage(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})

    return damage


def config(**changes: Any) -> Callable[[Path], None]:
    """Change the configuration of a folder."""

    def damage(folder: Path) -> None:
        stored = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**stored, **changes}))

    return damage


UP = "model.layers.0.mlp.up_proj.weight"
DAMAGES: dict[str, Callable[[Path], Any]] = {
    "cut in the header": lambda folder: os.truncate(folder / WEIGHTS, 1000),
    "cut at the end": lambda folder: os.truncate(folder / WEIGHTS, (folder / WEIGHTS).stat().st_size - 100),
    "empty": lambda folder: os.truncate(folder / WEIGHTS, 0),
    "no safetensors": lambda folder: (folder / WEIGHTS).write_bytes(b"\xff" * 5000),
    "another shape": weights(lambda tensors: tensors.update({UP: torch.zeros(5, 5)})),
    "a weight less": weights(lambda tensors: tensors.pop(UP)),
    "no heads": config(num_attention_heads=0),
    "less than no width": config(hidden_size=-5),
    "a width in words": config(hidden_size="wide"),
    "ten thousand layers": config(num_hidden_layers=10_000, layer_types=None),
    "a list": lambda folder: (folder / "config.json").write_text("[]"),
    "nested a million times": lambda folder: (folder / "config.json").write_text('{"a":' + "[" * 1_000_000),
    "two types": config(model_type=["qwen2"]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_broken_folder_is_told_in_one_line(damage: str, whole: Path, tmp_path: Path) -> None:
    """Nothing is measured on weights that were filled in at random."""
    from perstep.targets.transformers import load

    folder = shutil.copytree(whole, tmp_path / "model")
    load(folder)
    DAMAGES[damage](folder)
    with pytest.raises(InputError) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


class _Planted:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_a_pickle_is_never_opened(whole: Path, tmp_path: Path) -> None:
    """It is a program; a folder without safetensors is refused."""
    from perstep.targets.transformers import load

    folder = shutil.copytree(whole, tmp_path / "model")
    (folder / WEIGHTS).unlink()
    torch.save({UP: _Planted(tmp_path / "run")}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"no file named model\.safetensors"):
        load(folder)
    assert not (tmp_path / "run").exists()


def test_an_architecture_of_ten_thousand_layers_is_refused(whole: Path, tmp_path: Path) -> None:
    """Before it is built; with its first layers alone it is measured."""
    from perstep.targets.transformers import build

    folder = shutil.copytree(whole, tmp_path / "model")
    config(num_hidden_layers=10_000, layer_types=None)(folder)
    with pytest.raises(InputError, match=r"the model has 10,000 layers, of at most 1,000; --layers keeps the first"):
        build(folder)
    assert build(folder, layers=1).config.num_hidden_layers == 1
