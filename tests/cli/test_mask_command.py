"""`perstep mask` with bad input: one line that says what is wrong and what would be right, and nothing is written."""

import json
from pathlib import Path
from typing import Any

import pytest

RECURSIVE = {
    "$defs": {"n": {"type": "object", "properties": {"kids": {"type": "array", "items": {"$ref": "#/$defs/n"}}}}},
    "$ref": "#/$defs/n",
}


def _object(**field: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": field}, "required": ["a"]}


@pytest.mark.real_clock
@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ("{bad", "is not JSON"),
        ([1], "holds a JSON list"),
        (_object(**{"$ref": "#/$defs/nope"}), "points to nothing"),
        (RECURSIVE, "--max-depth 3, or --engine llguidance"),
        (_object(type="integer", minimum=5, maximum=1), "no JSON value satisfies"),
        (_object(type="string", maxLength=100_000), "over the limit"),
        (_object(type="string", pattern="^(a|b)*a(a|b){30}$"), "more than about 2 CPU seconds to compile"),
        (_object(type="object", unevaluatedProperties=False), "unevaluatedProperties"),
    ],
)
def test_schemas_that_cannot_be_measured(cli: Any, tmp_path: Path, schema: Any, said: str) -> None:
    """The fault is named in one line, and nothing is written."""
    path = tmp_path / "schema.json"
    path.write_text(schema if isinstance(schema, str) else json.dumps(schema))
    done = cli("mask", "--schema", path, "--vocab", "mini", "--engine", "table", "--rounds", 1)
    _refused(done, said)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--schema", "nowhere.json"], "No such file"),
        (["--engine", "foo"], "there is no engine 'foo'; there are naive"),
        (["--vocab", "abc"], "write mini, sizes such as 4096,131072"),
        (["--vocab", "own"], "write mini, sizes"),
        (["-b", "0"], "--batch 0: it must be at least 1"),
        (["--complexity", "0"], "--complexity 0: it must be at least 1"),
        (["-n", "1"], "--new-tokens 1: it must be at least 2"),
        (["-n", "5000"], "overflow the model's context of 2048"),
        (["--max-depth", "-1"], "--max-depth -1"),
        (["--whitespace", "["], "the regex '['"),
        (["-m", "nowhere"], "no model 'nowhere'"),
        (["--fast", "--rigorous"], "exclude each other"),
    ],
)
def test_options_that_are_wrong(cli: Any, options: list[str], said: str) -> None:
    """Each is refused by name."""
    _refused(cli("mask", "--rounds", 1, *options), said)


@pytest.mark.real_clock  # building is timed, and refused whatever it takes
@pytest.mark.parametrize(
    ("size", "said"), [("100", "between 257 and 130,073 tokens, not to 100"), ("131000", "not to 131,000")]
)
def test_sizes_that_no_vocabulary_has(cli: Any, size: str, said: str) -> None:
    """A vocabulary keeps every byte and the end token, and has no more than there are."""
    _refused(cli("mask", "--vocab", size, "--engine", "table", "--rounds", 1), said)


@pytest.mark.real_clock
def test_a_model_whose_tokenizer_cannot_be_used(cli: Any, tmp_path: Path, make_llama: Any) -> None:
    """Without a tokenizer the bytes are unknown; without an end token a text could never end."""
    none = make_llama(tmp_path / "none", tokenizer=False)
    _refused(cli("mask", "-m", none, "--rounds", 1), "has no tokenizer.json")
    endless = make_llama(tmp_path / "endless", eos_token_id=None)
    _refused(cli("mask", "-m", endless, "--vocab", "own", "--rounds", 1), "names no end token")


def _refused(done: Any, said: str) -> None:
    assert done.code == 2, done
    assert done.out == ""
    assert done.err.count("\n") == 1, done.err
    assert said in done.err
    assert not Path(".perstep").exists()
