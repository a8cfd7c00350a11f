"""`fast.TokenMask`: what it allows, that it begins after the prompt, and that it never forbids everything."""

import json
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from perstep import automata, fast  # noqa: E402
from perstep.errors import InputError  # noqa: E402
from perstep.fast import TokenMask  # noqa: E402

pytestmark = pytest.mark.hf
WIDTH = 270


def walk(mask: TokenMask, prompt: Any, chosen: list[list[int]]) -> list[Any]:
    """The scores that the mask leaves before each of the chosen columns."""
    ids, found = prompt, []
    for column in chosen:
        found.append(mask(ids, torch.zeros(len(ids), WIDTH)))
        ids = torch.cat([ids, torch.tensor(column)[:, None]], dim=1)
    return [*found, mask(ids, torch.zeros(len(ids), WIDTH))]


@pytest.mark.parametrize("budget_bytes", [2**26, 0], ids=["booleans", "packed"])
@pytest.mark.parametrize("lazy", [False, True])
def test_every_step_allows_exactly_what_the_table_allows(
    conjugations: Any, byte_vocabulary: Any, lazy: bool, budget_bytes: int
) -> None:
    """Along random texts of the grammar, rows of a batch apart, the logits wider than the vocabulary."""
    schema = {"type": "array", "items": {"enum": ["a", "bc", "ä"]}, "maxItems": 3}
    table = automata.compile(automata.json_schema(schema), byte_vocabulary, lazy=lazy)
    rng = np.random.default_rng(0)
    states, columns, expected = [table.start] * 5, [], []
    for _ in range(12):
        expected.append([set(table.allowed(state).tolist()) for state in states])
        columns.append([int(rng.choice(table.allowed(state))) for state in states])
        states = [table.next(state, token) for state, token in zip(states, columns[-1], strict=True)]
    expected.append([set(table.allowed(state).tolist()) for state in states])
    mask = TokenMask(table, budget_bytes=budget_bytes)
    for scores, sets in zip(walk(mask, torch.randint(0, 256, (5, 4)), columns), expected, strict=True):
        assert [set(torch.isfinite(row).nonzero().flatten().tolist()) for row in scores] == sets
        assert not mask.left_grammar.any()


def test_scores_that_are_allowed_are_untouched_and_the_given_tensor_too(conjugations: Any) -> None:
    """The processor works in a tensor of its own."""
    given = torch.randn(2, WIDTH)
    before = given.clone()
    masked = TokenMask(conjugations)(torch.zeros(2, 3, dtype=torch.long), given)
    assert torch.equal(given, before)
    kept = torch.isfinite(masked)
    assert torch.equal(masked[kept], given[kept])
    assert kept.sum(1).tolist() == [len(conjugations.allowed(conjugations.start))] * 2


@pytest.mark.parametrize("lazy", [False, True])
def test_a_new_call_is_recognised(conjugations: Any, byte_vocabulary: Any, lazy: bool) -> None:
    """A prompt of any length, one token longer than the last text among them, begins the grammar anew."""
    table = conjugations
    if lazy:
        table = automata.compile(automata.json_schema({"enum": ["ab", "cd"]}), byte_vocabulary, lazy=True)
    first = [[int(table.allowed(table.start)[0])]]
    mask, fresh = TokenMask(table), TokenMask(table)
    for length in (4, 4, 6, 7, 3):  # after two calls of the mask on length n, the next prompt may have n + 2
        prompt = torch.randint(0, 256, (1, length))
        for ours, theirs in zip(walk(mask, prompt, first), walk(fresh, prompt, first), strict=True):
            assert torch.equal(ours, theirs)
        fresh = TokenMask(table)


def test_a_table_for_each_row(byte_vocabulary: Any) -> None:
    """Each row follows its own table, eager or lazy, even where two rows have had the same text so far."""
    schemas = [{"enum": ["ab", "ac"]}, {"enum": ["ab", "xyz"]}, {"const": 1}]
    for lazy in (False, True):
        tables = [automata.compile(automata.json_schema(schema), byte_vocabulary, lazy=lazy) for schema in schemas]
        columns = [[ord('"'), ord('"'), ord("1")], [ord("a"), ord("a"), 263]]
        found = walk(TokenMask(tables), torch.zeros(3, 2, dtype=torch.long), columns)
        for row, table in enumerate(tables):
            ids = [column[row] for column in columns]
            for step, scores in enumerate(found):
                allowed = table.allowed(table.run(ids[:step])).tolist()
                assert torch.isfinite(scores[row]).nonzero().flatten().tolist() == allowed


@pytest.mark.parametrize("lazy", [False, True])
def test_rows_may_change_places(byte_vocabulary: Any, lazy: bool) -> None:
    """A row goes on from the text that it has, as beam search needs it."""
    table = automata.compile(automata.json_schema({"enum": ["ab", "cd"]}), byte_vocabulary, lazy=lazy)
    mask = TokenMask(table)
    ids = torch.zeros(2, 2, dtype=torch.long)
    for column in ([ord('"'), ord('"')], [ord("a"), ord("c")]):
        mask(ids, torch.zeros(2, WIDTH))
        ids = torch.cat([ids, torch.tensor(column)[:, None]], dim=1)
    mask(ids, torch.zeros(2, WIDTH))
    swapped = torch.cat([ids[[1, 0]], torch.tensor([[ord("d")], [ord("b")]])], dim=1)
    scores = mask(swapped, torch.zeros(2, WIDTH))
    assert torch.isfinite(scores).nonzero()[:, 1].tolist() == [ord('"'), ord('"')]


def test_beam_search_finds_complete_texts(tiny_model: Any, conjugations: Any, prompts: Any, text_of: Any) -> None:
    """Beams under a mask end in texts of the grammar."""
    found = tiny_model().generate(
        **prompts(2), max_new_tokens=90, num_beams=3, do_sample=False, logits_processor=[TokenMask(conjugations)]
    )
    for row in found[:, 9:]:
        assert json.loads(text_of(row))["verb"]


@pytest.mark.parametrize("lazy", [False, True])
def test_a_forced_token_that_leaves_the_grammar_ends_the_text(byte_vocabulary: Any, lazy: bool) -> None:
    """From there only the end is allowed, never nothing at all; `left_grammar` says which rows did."""
    table = automata.compile(automata.json_schema({"enum": ["ab"]}), byte_vocabulary, lazy=lazy)
    mask = TokenMask(table)
    found = walk(mask, torch.zeros(2, 1, dtype=torch.long), [[ord('"'), ord("x")], [ord("a"), WIDTH - 1]])
    for scores in found[1:]:
        assert torch.isfinite(scores[1]).nonzero().flatten().tolist() == [263, 264]
    assert mask.left_grammar.tolist() == [False, True]


@pytest.mark.parametrize("lazy", [False, True])
def test_a_finished_row_stays_finished_whatever_pads_it(byte_vocabulary: Any, lazy: bool) -> None:
    """Padding is no token of the grammar, and may lie beyond the vocabulary."""
    table = automata.compile(automata.json_schema({"const": 1}), byte_vocabulary, lazy=lazy)
    mask = TokenMask(table)
    found = walk(mask, torch.zeros(1, 1, dtype=torch.long), [[ord("1")], [264], [0], [WIDTH - 1]])
    assert [torch.isfinite(scores).sum().item() for scores in found] == [1, 2, 2, 2, 2]
    assert not mask.left_grammar.any()


def test_generate_twice_with_one_object(tiny_model: Any, conjugations: Any, prompts: Any, text_of: Any) -> None:
    """The second call gives what a fresh object gives, and a text that was finished is not gone on with."""
    model, mask = tiny_model(), TokenMask(conjugations)
    for seed in (0, 1):
        inputs = prompts(3, seed=seed)
        again = model.generate(**inputs, max_new_tokens=90, do_sample=False, logits_processor=[mask])
        fresh = model.generate(**inputs, max_new_tokens=90, do_sample=False, logits_processor=[TokenMask(conjugations)])
        assert torch.equal(again, fresh)
        assert all(json.loads(text_of(row[9:]))["verb"] for row in again)


def test_a_parsed_grammar_masks_as_its_table_does(
    tiny_model: Any, byte_vocabulary: Any, prompts: Any, text_of: Any
) -> None:
    """In `generate`, under beams that change places, and in `fast.decode` with its allowed ids and forced runs."""
    schema = {"type": "array", "items": {"enum": ["ab", "cd", 12]}, "minItems": 2, "maxItems": 3}
    table, parsed = (automata.mask(byte_vocabulary, schema=schema, engine=e) for e in ("table", "llguidance"))
    model = tiny_model()
    for options in ({}, {"num_beams": 3}, {"custom_generate": fast.decode}):
        found = [
            model.generate(
                **prompts(2), max_new_tokens=40, do_sample=False, logits_processor=[TokenMask(one)], **options
            )
            for one in (table, parsed)
        ]
        assert torch.equal(*found)
        assert all(len(json.loads(text_of(row[9:]))) in (2, 3) for row in found[1])
    assert fast.decode.last.way == "masked"
    assert fast.decode.last.forced_tokens


def test_recursion_is_masked_on_the_host_alone(tiny_model: Any, byte_vocabulary: Any, prompts: Any) -> None:
    """What has no table is read on the host; a device's tables and a captured graph refuse it by its engine."""
    nested = {"type": "array", "items": {"$ref": "#"}}
    mask = TokenMask(automata.mask(byte_vocabulary, schema=nested))
    found = tiny_model().generate(
        **prompts(1), max_new_tokens=12, do_sample=False, logits_processor=[mask], custom_generate=fast.decode
    )
    text = byte_vocabulary.spell(found[0, 9:].tolist()).decode()
    assert text.startswith("[")
    assert set(text) <= set("[], ")
    assert not mask.capturable
    with pytest.raises(InputError, match="this mask is by stack, which reads the ids on the host"):
        mask.prepare(WIDTH)


def test_compiled_it_gives_the_same(conjugations: Any) -> None:
    """Under torch.compile, one graph, steps of growing length, and a new prompt."""
    mask, plain = TokenMask(conjugations).prepare(WIDTH), TokenMask(conjugations)
    compiled = torch.compile(lambda ids, scores: mask(ids, scores), backend="eager", fullgraph=True, dynamic=True)
    for length in (5, 3):
        ids = torch.randint(0, 256, (2, length))
        for _ in range(6):
            scores = torch.randn(2, WIDTH)
            ours, theirs = compiled(ids, scores), plain(ids, scores)
            assert torch.equal(ours, theirs)
            ids = torch.cat([ids, ours.argmax(-1, keepdim=True)], dim=1)
    torch.compiler.reset()


def test_what_does_not_fit_is_refused(conjugations: Any, byte_vocabulary: Any) -> None:
    """A vocabulary wider than the logits, tables that do not fit the batch or each other, a text that cannot end."""
    ids = torch.zeros(3, 2, dtype=torch.long)
    with pytest.raises(InputError, match="265 tokens, but the model gives 200 logits"):
        TokenMask(conjugations)(ids, torch.zeros(3, 200))
    with pytest.raises(InputError, match="2 tables do not fit a batch of 3"):
        TokenMask([conjugations, conjugations])(ids, torch.zeros(3, WIDTH))
    endless = automata.Vocabulary([bytes([byte]) for byte in range(256)])
    table = automata.compile(automata.json_schema({"const": 1}), endless)
    with pytest.raises(InputError, match="no end-of-sequence id"):
        TokenMask(table)
    with pytest.raises(InputError, match="one vocabulary"):
        TokenMask([conjugations, table])
    with pytest.raises(InputError, match="at least one table"):
        TokenMask([])
