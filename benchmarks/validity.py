"""Whether every text that is generated under a mask parses and validates: 10,200 of them, at temperature 1.

The reference decoder draws tokens under `perstep.automata.apply` from the whole vocabulary: mini over its own tokens,
where the model has an opinion, and over a real vocabulary cut to 4,096 and whole, with random rows, where nearly
every allowed token is about as probable, so that strings are full of rare Unicode. Each text is parsed by `json` and
validated by `jsonschema` with its formats; that check knows nothing of the automaton. A text that has not ended after
400 tokens is counted and is no success. Writes results/validity.json; a vocabulary that is not asked for keeps its
earlier figures there.

    OMP_NUM_THREADS=1 python -P benchmarks/validity.py [--vocab mini 4096 131072] [--date 2026-01-31]
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema

from perstep.automata import TokenTable, apply, compile, json_schema  # noqa: A004
from perstep.data import conjugation_schema_path
from perstep.experiments.mask.vocabularies import Named, Vocabularies, widened
from perstep.targets import drawn_rows, open_model
from perstep.targets.prompts import heldout_rows
from perstep.targets.reference import Reference, Sampler, decode_one_token, prefill, sample

RESULT = Path(__file__).parent / "results" / "validity.json"
TEXTS = {"mini": 6_000, "4096": 4_000, "131072": 200}
BATCH = 50
MOST_TOKENS = 400
PROMPT_TOKENS = 16

SCHEMAS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "conjugation": (json.loads(conjugation_schema_path().read_text(encoding="utf-8")), {}),
    "numbers": (
        {
            "type": "object",
            "properties": {
                "count": {"type": "integer", "minimum": -5, "maximum": 1234},
                "even": {"type": "integer", "multipleOf": 2, "minimum": 0, "maximum": 998},
                "share": {"type": "number", "minimum": 0, "exclusiveMaximum": 1},
                "flag": {"type": ["boolean", "null"]},
            },
            "required": ["count", "even", "share"],
            "additionalProperties": False,
        },
        {},
    ),
    "lists": (
        {
            "type": "object",
            "properties": {
                "tags": {"type": "array", "items": {"type": "string", "maxLength": 8}, "minItems": 1, "maxItems": 4},
                "pair": {
                    "type": "array",
                    "prefixItems": [{"type": "boolean"}, {"enum": ["a", 1, None]}],
                    "items": False,
                },
            },
            "required": ["tags"],
            "additionalProperties": False,
        },
        {},
    ),
    "strings": (
        {
            "type": "object",
            "properties": {
                "code": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3,5}$"},
                "day": {"type": "string", "format": "date"},
                "host": {"type": "string", "format": "ipv4"},
                "word": {"type": "string", "minLength": 2, "maxLength": 12},
            },
            "required": ["code", "day", "word"],
            "additionalProperties": False,
        },
        {},
    ),
    "choice": (
        {
            "anyOf": [
                {
                    "type": "object",
                    "properties": {"kind": {"const": "circle"}, "r": {"type": "integer", "minimum": 1, "maximum": 99}},
                    "required": ["kind", "r"],
                    "additionalProperties": False,
                },
                {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
                {"type": "string", "maxLength": 5},
            ]
        },
        {"whitespace": "[ ]?"},
    ),
    "recursive": (
        {
            "$defs": {
                "node": {
                    "type": "object",
                    "properties": {
                        "v": {"type": "integer", "minimum": 0, "maximum": 9},
                        "kids": {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 2},
                    },
                    "required": ["v"],
                    "additionalProperties": False,
                }
            },
            "$ref": "#/$defs/node",
        },
        {"max_depth": 2},
    ),
}


def generate(model: Reference, table: TokenTable, count: int, seed: int, *, own: bool) -> Iterator[bytes | None]:
    """Texts drawn at temperature 1 under a mask, in batches; None for one that has not ended in time."""
    vocabulary = table.vocabulary
    sampler = Sampler(temperature=1.0, seed=seed)
    rows = min(BATCH, count)
    cache = model.new_cache(rows, PROMPT_TOKENS + MOST_TOKENS)
    made = 0
    while made < count:
        cache.reset()
        states, texts = [table.start] * rows, [b""] * rows
        if own:  # mini is given sentences, another vocabulary random ids
            ids_BT = heldout_rows(PROMPT_TOKENS, rows, made)
        else:
            ids_BT = drawn_rows(vocabulary.size, PROMPT_TOKENS, rows, made)
        logits_BV = prefill(model, ids_BT, cache)
        for step in range(MOST_TOKENS - 1):
            apply(logits_BV, [table.row(state) for state in states])
            chosen_B = sample(logits_BV, sampler, made * MOST_TOKENS + step)
            states = [table.next(state, token) for state, token in zip(states, chosen_B.tolist(), strict=True)]
            texts = [text + vocabulary.tokens[token] for text, token in zip(texts, chosen_B.tolist(), strict=True)]
            if all(state == table.ended for state in states):
                break
            logits_BV = decode_one_token(model, chosen_B, cache)
        for state, text in list(zip(states, texts, strict=True))[: count - made]:
            yield text if state == table.ended else None
        made += rows


def check(texts: Iterator[bytes | None], schema: dict[str, Any]) -> dict[str, Any]:
    """How many texts parse and validate, and the first that do not."""
    validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
    found: dict[str, Any] = {"texts": 0, "valid": 0, "unfinished": 0, "distinct": 0, "first_faults": []}
    seen = set()
    for text in texts:
        found["texts"] += 1
        if text is None:
            found["unfinished"] += 1
            continue
        seen.add(text)
        fault = _fault(text, validator)
        if fault is None:
            found["valid"] += 1
        elif len(found["first_faults"]) < 3:
            found["first_faults"].append(f"{text!r}: {fault}")
    found["distinct"] = len(seen)
    return found


def _fault(text: bytes, validator: Any) -> str | None:
    try:
        value = json.loads(text)
    except ValueError as error:
        return str(error)
    return next((error.message for error in validator.iter_errors(value)), None)


def measure(named: Named, model: Reference, total: int, seed: int = 0) -> list[dict[str, Any]]:
    """A line a schema, the texts shared out evenly."""
    wide = widened(model, named, seed)
    lines = []
    for number, (name, (schema, policy)) in enumerate(SCHEMAS.items()):
        count = total * (number + 1) // len(SCHEMAS) - total * number // len(SCHEMAS)
        table = compile(json_schema(schema, **policy), named.vocabulary)
        found = check(generate(wide, table, count, seed, own=named.own), schema)
        lines.append({"vocabulary": named.name, "tokens": named.vocabulary.size, "schema": name, **policy, **found})
    return lines


def main() -> None:
    """Generate, check, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--vocab", nargs="+", choices=list(TEXTS), default=list(TEXTS), help="vocabularies")
    parser.add_argument("--date", default=None, help="of the run, for the result file")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    model = open_model("mini").model
    vocabularies = Vocabularies(model, "mini")
    kept = json.loads(options.out.read_text())["lines"] if options.out.exists() else []
    lines = [line for line in kept if line["vocabulary"] not in options.vocab]
    for name in options.vocab:
        begun = time.perf_counter()
        lines += measure(vocabularies.named(name), model, TEXTS[name])
        print(f"{name}: {time.perf_counter() - begun:.0f} s")
    lines.sort(key=lambda line: line["tokens"])
    total = {key: sum(line[key] for line in lines) for key in ("texts", "valid", "unfinished")}
    result = {"schema_version": 1, "date": options.date, "temperature": 1.0, **total, "lines": lines}
    options.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for line in lines:
        print(
            f"{line['vocabulary']:>7} {line['schema']:>12} {line['valid']:>6} of {line['texts']} valid, "
            f"{line['unfinished']} unfinished, {line['distinct']} distinct {line['first_faults'] or ''}"
        )
    print(f"{total['valid']:,} of {total['texts']:,} valid")


if __name__ == "__main__":
    main()
