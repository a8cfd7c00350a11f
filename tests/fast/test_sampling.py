"""TopP, TopK, MinP, SuppressTokens, RepetitionPenalty: the logits of transformers' own, bit for bit."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perstep import fast
from perstep.errors import InputError

pytestmark = pytest.mark.hf
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
from transformers.generation import logits_process as theirs  # noqa: E402

INF = float("inf")


def logits(rows: int, columns: int, seed: int, scale: float, *, ties: bool = False) -> Any:
    """Random logits; with ties, as a bfloat16 head gives them."""
    made = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * scale
    return made.bfloat16().float() if ties else made


shapes = st.tuples(st.integers(1, 3), st.sampled_from([3, 50, 2_000, 20_000]), st.integers(0, 99))
scales = st.sampled_from([0.0, 0.01, 1.0, 3.0, 20.0])


def kept(scores: Any) -> Any:
    """Which tokens were kept."""
    return scores > -INF


@given(shapes, scales, st.sampled_from([0.05, 0.5, 0.9, 0.999]), st.sampled_from([1, 3]))
@settings(max_examples=80, deadline=None)
def test_top_p_keeps_the_tokens_that_transformers_keeps(shape: Any, scale: float, top_p: float, least: int) -> None:
    """The same tokens, unless the sum before one of them is within rounding of p; the logits of these unchanged."""
    scores = logits(*shape, scale)
    before = scores.clone()
    ours = fast.TopP(top_p, min_tokens_to_keep=least)(None, scores)
    expected = theirs.TopPLogitsWarper(top_p, min_tokens_to_keep=least)(None, scores.clone())
    assert torch.equal(scores, before)
    assert torch.equal(ours[kept(ours)], scores[kept(ours)])
    for row, one, other in zip(scores, kept(ours), kept(expected), strict=True):
        exact = row.double().softmax(-1)
        if not torch.equal(one, other):  # by rounding, at the edge of the nucleus, or by ties
            smaller = min(exact[one].sum(), exact[other].sum())
            assert one.sum() == other.sum() or (smaller - top_p).abs() < 2e-6
            assert (row[one ^ other] - row[one].min()).abs().max() < 1e-3
        if one.sum() > least:
            above = exact[one].sum() - exact[one].min()
            assert above < top_p + 1e-6
        assert exact[one].sum() > top_p - 1e-6


def test_top_p_keeps_as_many_of_equal_logits_as_transformers() -> None:
    """Heads in bfloat16 tie all the time. Which of equal tokens are kept its sort leaves open; here the higher ids."""
    scores = logits(4, 30_000, 1, 3.0, ties=True)
    ours, expected = fast.TopP(0.9)(None, scores), theirs.TopPLogitsWarper(0.9)(None, scores)
    assert kept(ours).sum(1).tolist() == kept(expected).sum(1).tolist()
    assert torch.equal(ours.sort().values, expected.sort().values)
    level = torch.zeros(1, 10)
    assert kept(fast.TopP(0.25)(None, level))[0].nonzero().ravel().tolist() == [7, 8, 9]


def test_a_sum_that_is_exactly_p_is_enough() -> None:
    """Two of four equal tokens have one half together: a third is not kept."""
    level = torch.zeros(1, 4)
    assert kept(fast.TopP(0.5)(None, level)).sum() == kept(theirs.TopPLogitsWarper(0.5)(None, level)).sum() == 2


def test_every_way_of_looking_for_the_nucleus_is_taken_and_right() -> None:
    """Few candidates, the 4,096 largest, everything; with -inf from a mask among them."""
    for scale, bonus in ((1.0, 20.0), (1.0, 8.0), (0.01, 0.0), (3.0, 0.0)):
        scores = logits(2, 30_000, 7, scale)
        scores[:, 100:600] += bonus
        scores[:, ::3] = -INF
        assert torch.equal(fast.TopP(0.9)(None, scores), theirs.TopPLogitsWarper(0.9)(None, scores))


def test_rows_without_probabilities_are_handed_on() -> None:
    """NaN, +inf, and nothing but -inf, beside a row that has them."""
    scores = logits(4, 100, 3, 1.0)
    scores[0, 5], scores[1, 6], scores[2] = float("nan"), INF, -INF
    for processor, own in (
        (fast.TopP(0.5), theirs.TopPLogitsWarper(0.5)),
        (fast.MinP(0.5), theirs.MinPLogitsWarper(0.5)),
        (fast.TopK(5), theirs.TopKLogitsWarper(5)),
    ):
        ours, expected = processor(None, scores), own(None, scores.clone())
        torch.testing.assert_close(ours, expected, rtol=0, atol=0, equal_nan=True)


@given(shapes, scales, st.sampled_from([1, 5, 50, 1000]), st.booleans())
@settings(max_examples=60, deadline=None)
def test_top_k_gives_the_logits_of_transformers(shape: Any, scale: float, top_k: int, ties: bool) -> None:
    """Ties with the k-th are all kept by both."""
    scores = logits(*shape, scale, ties=ties)
    assert torch.equal(fast.TopK(top_k)(None, scores), theirs.TopKLogitsWarper(top_k)(None, scores))


@given(
    shapes, st.sampled_from([0.01, 1.0, 3.0, 20.0]), st.sampled_from([0.001, 0.1, 0.7, 1.0]), st.sampled_from([1, 4])
)
@settings(max_examples=60, deadline=None)
def test_min_p_gives_the_logits_of_transformers(shape: Any, scale: float, min_p: float, least: int) -> None:
    """The same tokens, unless a ratio is within rounding of min_p."""
    scores = logits(*shape, scale)
    ours = fast.MinP(min_p, min_tokens_to_keep=least)(None, scores)
    expected = theirs.MinPLogitsWarper(min_p, min_tokens_to_keep=least)(None, scores)
    differ = kept(ours) ^ kept(expected)
    ratio = (scores.double() - scores.double().amax(-1, keepdim=True)).exp()[differ]
    assert ((ratio / min_p - 1).abs() < 2e-6 * max(scale, 1)).all()
    assert torch.equal(ours[~differ], expected[~differ])


def test_on_other_dtypes_and_under_tracing_the_result_is_the_same() -> None:
    """The way of a device, taken here in double precision: the same tokens as in the host's memory."""
    scores = logits(3, 20_000, 5, 2.0)
    for processor in (fast.TopP(0.9), fast.TopK(50), fast.MinP(0.05)):
        assert torch.equal(kept(processor(None, scores)), kept(processor(None, scores.double())))


@given(st.integers(1, 3), st.lists(st.integers(0, 59), min_size=1, max_size=30), st.sampled_from([0.5, 1.0, 1.3]))
def test_the_repetition_penalty_is_that_of_transformers(rows: int, tokens: list[int], penalty: float) -> None:
    """Repeated ids, ids beyond the logits beside the last column, an ignored prompt."""
    scores = logits(rows, 50, len(tokens), 2.0)
    ids = torch.tensor([tokens] * rows)
    for ignored in (0, 2):
        ours = fast.RepetitionPenalty(penalty, ignored)(ids, scores)
        expected = theirs.RepetitionPenaltyLogitsProcessor(penalty, ignored)(ids, scores)
        assert torch.equal(ours, expected)
    ragged = [row + 1 for row in range(rows)]
    ours = fast.RepetitionPenalty(penalty, ragged)(ids, scores)
    assert torch.equal(ours, theirs.RepetitionPenaltyLogitsProcessor(penalty, torch.tensor(ragged))(ids, scores))
    last = torch.tensor([[49, 55, 3]] * rows)
    assert torch.equal(
        fast.RepetitionPenalty(1.3)(last, scores), theirs.RepetitionPenaltyLogitsProcessor(1.3)(last, scores)
    )


def test_suppressed_tokens_are_those_of_transformers() -> None:
    """Ids beyond the logits are passed over; several widths; the scores given are left as they are."""
    scores = logits(2, 100, 0, 1.0)
    before = scores.clone()
    ids = [5, 99, 7, 300, 7]
    ours = fast.SuppressTokens(ids)
    expected = theirs.SuppressTokensLogitsProcessor(ids)
    assert torch.equal(ours(None, scores), expected(None, scores))
    assert torch.equal(ours(None, scores[:, :20]), expected(None, scores[:, :20]))
    assert torch.equal(scores, before)
    scratch = scores.clone()
    written = ours.overwrite(None, scratch)
    assert torch.equal(written, expected(None, scores))
    assert written.data_ptr() == scratch.data_ptr()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: fast.TopP(0), "top_p 0"),
        (lambda: fast.TopP(1.1), "top_p 1.1"),
        (lambda: fast.TopP(float("nan")), "top_p nan"),
        (lambda: fast.TopP(0.5, min_tokens_to_keep=0), "min_tokens_to_keep 0"),
        (lambda: fast.TopK(0), "top_k 0"),
        (lambda: fast.MinP(2), "min_p 2"),
        (lambda: fast.SuppressTokens([]), "at least one"),
        (lambda: fast.SuppressTokens([-1]), "none of them negative"),
        (lambda: fast.RepetitionPenalty(0), "penalty 0"),
        (lambda: fast.RepetitionPenalty(1.1, -1), "prompt_ignore_length -1"),
    ],
)
def test_values_outside_their_range_are_refused(make: Any, words: str) -> None:
    """With the value and what it should be."""
    with pytest.raises(InputError, match=words):
        make()
