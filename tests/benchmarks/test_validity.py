"""A cut of `benchmarks/validity.py`: texts drawn under a mask parse and validate, and the check can fail."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from perstep.experiments.mask.vocabularies import Vocabularies
from perstep.targets import open_model

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    """The script's names."""
    return runpy.run_path(str(BENCHMARKS / "validity.py"), run_name="validity")


@pytest.mark.parametrize(("name", "total"), [("mini", 120), ("512", 60)])
def test_texts_drawn_under_a_mask_are_valid(script: dict[str, Any], name: str, total: int) -> None:
    """Every schema, at temperature 1: all parse, validate and end."""
    model = open_model("mini").model
    lines = script["measure"](Vocabularies(model, "mini").named(name), model, total)
    assert [line["schema"] for line in lines] == list(script["SCHEMAS"])
    assert sum(line["texts"] for line in lines) == total
    for line in lines:
        assert line["valid"] == line["texts"], line
        assert line["distinct"] > 1


def test_the_check_finds_what_is_wrong(script: dict[str, Any]) -> None:
    """A text that does not parse, does not validate, breaks a format or never ended is no success."""
    schema = {"type": "object", "properties": {"day": {"type": "string", "format": "date"}}, "required": ["day"]}
    texts = [b'{"day": "2024-02-29"}', b'{"day": "2023-02-29"}', b'{"day": 1}', b"{", None, b'{"day": "\xff"}']
    found = script["check"](iter(texts), schema)
    assert (found["texts"], found["valid"], found["unfinished"], len(found["first_faults"])) == (6, 1, 1, 3)


def test_the_stored_result_is_ten_thousand_valid_texts(script: dict[str, Any]) -> None:
    """The committed file holds every vocabulary and schema, and no fault."""
    stored = json.loads((BENCHMARKS / "results" / "validity.json").read_text(encoding="utf-8"))
    assert stored["texts"] == stored["valid"] >= 10_000
    assert stored["unfinished"] == 0
    assert {(line["vocabulary"], line["schema"]) for line in stored["lines"]} == {
        (name, schema) for name in script["TEXTS"] for schema in script["SCHEMAS"]
    }
