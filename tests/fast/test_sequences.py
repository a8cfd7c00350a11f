"""Drop-ins for sets and sequences of ids give transformers' own scores, on the host and by tensors alone."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from perstep.errors import InputError

pytestmark = pytest.mark.hf
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
fast = pytest.importorskip("perstep.fast")

COLUMNS = 40
RANDOM = np.random.default_rng(0)


def texts(rows: int, length: int, letters: int = 4) -> Any:
    """Rows of ids in which short sequences repeat."""
    return torch.tensor(RANDOM.integers(0, letters, (rows, length)))


def logits(rows: int) -> Any:
    """Some of them -inf already."""
    made = torch.tensor(RANDOM.normal(0, 3, (rows, COLUMNS)), dtype=torch.float32)
    made[torch.rand(made.shape, generator=torch.Generator().manual_seed(0)) < 0.1] = -math.inf
    return made


@pytest.fixture(params=["host", "device"])
def where(request: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """On the host, and by tensors alone, as where a value would have to be waited for."""
    if request.param == "device":
        for module in ("ngrams", "sequences", "allowed", "stop_ids", "sampling"):
            monkeypatch.setattr(f"perstep.fast.{module}.on_host", lambda _tensor: False)
    return str(request.param)


WORDS = [[3], [1, 2], [0, 1, 2], [2, 2, 2, 2, 2], [1, 3], [0, 3], [3, 3, 1], [1, 2, 3], [2, 1], [7]]
BIASES = {tuple(ids): float(number) - 4.5 for number, ids in enumerate(WORDS)}
TREE = [[5, 1, 9], [5, 1, 8], [5, 2], [6, 0, 0, 0], [7]]
PAIRS: dict[str, tuple[Callable[[], Any], Callable[[], Any], tuple[int, ...]]] = {
    **{
        f"no {n}-gram twice": (
            lambda n=n: transformers.NoRepeatNGramLogitsProcessor(n),
            lambda n=n: fast.NoRepeatNGram(n),
            (1, 2, 3, 5, 17, 60),
        )
        for n in (1, 2, 3, 4, 7)
    },
    "bad words": (
        lambda: transformers.NoBadWordsLogitsProcessor(WORDS, eos_token_id=7),
        lambda: fast.BadWords(WORDS, 7),
        (1, 2, 5, 9),
    ),
    "biases": (
        lambda: transformers.SequenceBiasLogitsProcessor(BIASES),
        lambda: fast.SequenceBias(BIASES),
        (1, 2, 5, 9),
    ),
    "biases of single ids": (
        lambda: transformers.SequenceBiasLogitsProcessor({(3,): 1.5, (9,): -2.0}),
        lambda: fast.SequenceBias([[[3], 1.5], [[9], -2.0]]),
        (4,),
    ),
    "typical": (
        lambda: transformers.TypicalLogitsWarper(0.7),
        lambda: fast.TypicalP(0.7),
        (3,),
    ),
    "typical, five at least": (
        lambda: transformers.TypicalLogitsWarper(0.2, min_tokens_to_keep=5),
        lambda: fast.TypicalP(0.2, min_tokens_to_keep=5),
        (3,),
    ),
    "few allowed ids": (
        lambda: transformers.PrefixConstrainedLogitsProcessor(lambda _row, _ids: [3, 5], 1),
        lambda: fast.AllowTokens([5, 3], beams=1),
        (3,),
    ),
    "many allowed ids, three beams": (
        lambda: transformers.PrefixConstrainedLogitsProcessor(lambda _row, _ids: list(range(4, 40)), 3),
        lambda: fast.AllowTokens(range(4, 40), beams=3),
        (3,),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_the_scores_are_transformers_own(name: str, where: str) -> None:
    """Bit for bit, over random logits with ties and -inf, behind texts of several lengths; the given scores stay."""
    theirs, ours, lengths = PAIRS[name]
    one, other = theirs(), ours()
    changed = False
    for length in lengths:
        for _ in range(20):
            ids, scores = texts(6, length), logits(6)
            expected, given = one(ids, scores.clone()), scores.clone()
            found = other(ids, given)
            assert torch.equal(found, expected), (name, where, length)
            assert torch.equal(given, scores)
            changed |= not torch.equal(expected, scores)
    assert changed
    assert torch.equal(other(ids, scores.to(torch.bfloat16)), one(ids, scores.to(torch.bfloat16)))


def test_allowed_ids_without_a_finite_logit_get_zero_where_all_beams_of_a_prompt_have_none() -> None:
    """As transformers does; without `beams` it is a plain mask, and the row has -inf alone."""
    scores = torch.zeros(4, 6)
    scores[:3, [1, 2]] = -math.inf
    theirs = transformers.PrefixConstrainedLogitsProcessor(lambda _row, _ids: [1, 2], 2)
    found = fast.AllowTokens([1, 2], beams=2)(None, scores)
    assert torch.equal(found, theirs(torch.zeros(4, 1, dtype=torch.int64), scores))
    assert found[:, 1].tolist() == [0.0, 0.0, -math.inf, 0.0]
    assert fast.AllowTokens([1, 2])(None, scores)[0].tolist() == [-math.inf] * 6


def test_sequences_are_followed_from_where_they_begin(where: str) -> None:
    """The tokens that continue one, in every row by itself; what `otherwise` says behind whole ones and outside."""
    mask = fast.AllowSequences(TREE, after=1, otherwise=[4])
    rows = [[9, 5, 1], [9, 5, 2], [9, 6, 0], [9, 1, 1], [9, 7, 4]]
    for length in (1, 2, 3):
        ids = torch.tensor([row[:length] for row in rows])
        allowed = [row.nonzero().ravel().tolist() for row in mask(ids, torch.zeros(5, COLUMNS)) == 0]
        assert allowed == [list(mask.allowed(row[:length])) for row in rows]
    assert [list(mask.allowed(row)) for row in rows] == [[8, 9], [4], [0], [4], [4]]
    assert mask(torch.tensor([[9, 5, 1, 9, 3, 3, 3, 3]]), torch.zeros(1, COLUMNS)).argmax().item() == 4
    nested = {token: {} for token in (1, 2)} | {3: {4: {}, "end": True}}
    assert fast.AllowSequences(nested).allowed([3]) == (4,)


def test_a_tree_of_sequences_gives_the_scores_of_a_function_that_looks_them_up(where: str) -> None:
    """Over random logits and whole decodings of greedy tokens, for one beam and two."""

    def following(_row: int, ids: Any) -> list[int]:
        begun = ids[2:].tolist()
        return [one[len(begun)] for one in TREE if one[: len(begun)] == begun and len(one) > len(begun)] or [4]

    for beams in (1, 2):
        theirs = transformers.PrefixConstrainedLogitsProcessor(following, beams)
        ours = fast.AllowSequences(TREE, after=2, otherwise=[4], beams=beams)
        for _ in range(10):
            ids = texts(4, 2)
            for _ in range(6):
                scores = logits(4)
                expected = theirs(ids, scores)
                assert torch.equal(ours(ids, scores), expected)
                ids = torch.cat([ids, expected.argmax(dim=-1, keepdim=True)], dim=1)


def test_without_otherwise_a_text_in_no_sequence_is_an_error_as_in_transformers() -> None:
    """On the host; where that would have to be waited for, the row stays as it is."""
    mask = fast.AllowSequences(TREE)
    with pytest.raises(InputError, match="in none of the sequences"):
        mask(torch.tensor([[1]]), torch.zeros(1, COLUMNS))
    assert torch.equal(mask._by_tensors(torch.tensor([[1]]), torch.ones(1, COLUMNS)), torch.ones(1, COLUMNS))


def test_stop_sequences_of_ids_are_compared_with_the_last_ids_of_each_row(where: str) -> None:
    """Wherever they begin; not in the middle, not in another order, not where the row is shorter."""
    stop = fast.StopIds([[1, 2], [3, 1, 2, 2], 9])
    rows = [[0, 0, 1, 2], [1, 2, 0, 0], [0, 0, 2, 1], [3, 1, 2, 2], [0, 0, 0, 9]]
    assert stop(torch.tensor(rows), None).tolist() == [True, False, False, True, True]
    assert stop(torch.tensor([[2], [9]])).tolist() == [False, True]


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: fast.NoRepeatNGram(0), "ngram_size 0"),
        (lambda: fast.SequenceBias({}), "no sequence"),
        (lambda: fast.SequenceBias({(): 1.0}), "a sequence is one id or more"),
        (lambda: fast.BadWords([[5]], 5), "no sequence"),
        (lambda: fast.BadWords([[1, COLUMNS]])(texts(1, 3), logits(1)), "of another tokenizer"),
        (lambda: fast.TypicalP(1.0), "mass 1.0"),
        (lambda: fast.AllowTokens([]), "at least one"),
        (lambda: fast.AllowTokens([1], beams=0), "beams 0"),
        (lambda: fast.AllowTokens([COLUMNS])(None, logits(1)), "no allowed token has a logit"),
        (lambda: fast.AllowTokens([1], beams=2)(None, logits(3)), "no multiple of"),
        (lambda: fast.AllowSequences([]), "no sequence of ids"),
        (lambda: fast.AllowSequences([[-1]]), "the id -1"),
        (lambda: fast.AllowSequences([[1]], after=-1), "after -1"),
        (lambda: fast.AllowSequences([[COLUMNS]])(texts(1, 0), logits(1)), "of another tokenizer"),
        (lambda: fast.StopIds([]), "at least one sequence"),
        (lambda: fast.StopIds([[]]), "none of them empty"),
    ],
)
def test_what_is_wrong_is_said(make: Callable[[], Any], why: str) -> None:
    """Before anything is done."""
    with pytest.raises(InputError, match=why):
        make()
