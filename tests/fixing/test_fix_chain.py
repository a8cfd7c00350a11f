"""Replaced settings keep the order in which generate applies them, and what shows it can fail."""

import itertools
from typing import Any

import pytest
from tests.models import small_llama

from perstep.fixing.behaviour import find_vocabulary, offers
from perstep.fixing.capture import Captured, Captures
from perstep.fixing.chain import Shapes, commute, first_warper, run
from perstep.fixing.loop import tokens_with
from perstep.fixing.observe import Seen, observe
from perstep.fixing.offer import PROCESSORS, Offer, changes_of
from perstep.fixing.patch import Edit

pytestmark = pytest.mark.hf
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
fast = pytest.importorskip("perstep.fast")

COLUMNS = 640


class Own(transformers.LogitsProcessor):  # type: ignore[misc]
    """Makes all logits twice as large, which no drop-in does."""

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Twice the scores."""
        return scores * 2


def captured(peaked: float = 1.0, rows: int = 4, **kwargs: Any) -> Captured:
    """A call of a tiny Llama whose head is so many times as large."""
    llama = small_llama(vocab_size=COLUMNS, num_hidden_layers=1)
    llama.lm_head.weight.data.mul_(peaked)
    ids = torch.randint(3, COLUMNS, (rows, 16))
    mask = torch.ones_like(ids)
    mask[0, : kwargs.pop("padding", 0)] = 0
    with Captures() as captures:
        llama.generate(ids, attention_mask=mask, **{"max_new_tokens": 12, "do_sample": True, "top_k": 0, **kwargs})
    (call,) = captures.calls.values()
    return call


def offered(call: Captured) -> tuple[list[Offer], Seen]:
    """What is offered for a call, the cheapest first as a ledger might have it, and what was seen."""
    seen = observe(call)
    return offers(call, seen, find_vocabulary(call))[::-1], seen


def written(call: Captured, found: list[Offer]) -> list[str]:
    """The list of processors that the lines give, as they are written; the call's own by their class."""
    own = [type(part).__name__ for part in call.lists[PROCESSORS]]
    return Edit(call, found).lists()[PROCESSORS].all(own)


@pytest.mark.parametrize(
    ("settings", "lines"),
    [
        ({"top_p": 0.9}, ["perstep.fast.TopP(0.9)"]),
        ({"top_p": 0.9, "repetition_penalty": 1.3}, ["perstep.fast.RepetitionPenalty(1.3)", "perstep.fast.TopP(0.9)"]),
        (
            {"top_p": 0.9, "temperature": 0.7, "top_k": 50, "no_repeat_ngram_size": 3},
            ["perstep.fast.NoRepeatNGram(3)", "transformers.TemperatureLogitsWarper(0.7)", "perstep.fast.TopK(50)",
             "perstep.fast.TopP(0.9)"],
        ),
        (
            {"repetition_penalty": 1.3, "suppress_tokens": [5, 9], "bad_words_ids": [[7]], "min_p": 0.05, "top_p": 0.8},
            ["perstep.fast.RepetitionPenalty(1.3)", "perstep.fast.SuppressTokens([7])",
             "perstep.fast.SuppressTokens([5, 9])", "perstep.fast.TopP(0.8)", "perstep.fast.MinP(0.05)"],
        ),
        (
            {"repetition_penalty": 1.3, "top_p": 0.9, "logits_processor": [Own()]},
            ["perstep.fast.RepetitionPenalty(1.3)", "Own", "perstep.fast.TopP(0.9)"],
        ),
        (
            {"repetition_penalty": 1.3, "top_p": 0.9,
             "logits_processor": [Own(), transformers.MinPLogitsWarper(0.1), Own()]},
            ["perstep.fast.RepetitionPenalty(1.3)", "Own", "perstep.fast.MinP(0.1)", "Own", "perstep.fast.TopP(0.9)"],
        ),
    ],
)  # fmt: skip
def test_lines_stand_in_the_order_in_which_generate_applies_what_they_replace(
    settings: dict[str, Any], lines: list[str]
) -> None:
    """Before the call's own processors and behind them; on a peaked head, where the order matters, the same tokens."""
    call = captured(peaked=60.0, **settings)
    found, seen = offered(call)
    assert written(call, found) == lines, seen.reasons
    lists, _ = changes_of(call, found)
    own = iter([type(part).__name__ for part in call.lists[PROCESSORS]])
    expected = [line.split(".")[-2].split("(")[0] if "." in line else line for line in lines]
    assert len(lists[PROCESSORS]) == len(expected), own
    assert torch.equal(tokens_with(call, found), call.result)


def test_the_reverse_order_gives_other_tokens_on_a_peaked_head_and_the_same_on_a_flat_one() -> None:
    """So recorded tokens of a flat head prove nothing, and the order must be shown otherwise."""
    reverse = {"logits_processor": [fast.TopP(0.9), fast.RepetitionPenalty(1.3)]}
    off = {"top_p": 1.0, "repetition_penalty": 1.0}
    same = {}
    for peaked in (0.01, 60.0):
        call = captured(peaked=peaked, top_p=0.9, repetition_penalty=1.3)
        same[peaked] = torch.equal(call.again(reverse, **off), call.result)
    assert same == {0.01: True, 60.0: False}


def test_evidence_says_which_order_was_seen_to_differ() -> None:
    """And over how many rows of logits."""
    found, _ = offered(captured(top_p=0.9, repetition_penalty=1.3))
    evidence = {one.source: one.evidence for one in found}
    said = evidence["perstep.fast.TopP(0.9)"]
    assert said.startswith("by its class: the same scores for ")
    assert said.endswith(" rows of shaped logits, and not with TopP before RepetitionPenaltyLogitsProcessor")


KINDS = {
    "penalty": (transformers.RepetitionPenaltyLogitsProcessor(1.3), fast.RepetitionPenalty(1.3)),
    "n-grams": (transformers.NoRepeatNGramLogitsProcessor(2), fast.NoRepeatNGram(2)),
    "suppressed": (transformers.SuppressTokensLogitsProcessor([5, 9, 12]), fast.SuppressTokens([5, 9, 12])),
    "temperature": (transformers.TemperatureLogitsWarper(0.7), transformers.TemperatureLogitsWarper(0.7)),
    "top_k": (transformers.TopKLogitsWarper(20), fast.TopK(20)),
    "top_p": (transformers.TopPLogitsWarper(0.9), fast.TopP(0.9)),
    "min_p": (transformers.MinPLogitsWarper(0.05), fast.MinP(0.05)),
    "typical": (transformers.TypicalLogitsWarper(0.9), fast.TypicalP(0.9)),
}


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(KINDS, 2)))
def test_two_that_do_not_commute_are_told_from_the_reverse_and_two_that_do_are_not(one: str, other: str) -> None:
    """Every pair, in generate's order and in the reverse: the probes are as good as what is known of the kinds."""
    theirs, ours = zip(KINDS[one], KINDS[other], strict=True)
    same, reverse, first, second = Shapes(theirs, COLUMNS, "cpu").differences([ours, ours[::-1], [ours[0]], [ours[1]]])
    assert same == ""
    assert first
    assert second
    assert (reverse == "") == commute(*ours) == commute(*theirs)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (transformers.TopPLogitsWarper(0.9), fast.TopP(0.91)),
        (transformers.TopPLogitsWarper(0.9), fast.TopP(0.9, min_tokens_to_keep=2)),
        (transformers.TopKLogitsWarper(50), fast.TopK(51)),
        (transformers.MinPLogitsWarper(0.05), fast.MinP(0.0505)),
        (transformers.TemperatureLogitsWarper(0.7), transformers.TemperatureLogitsWarper(0.701)),
        (transformers.RepetitionPenaltyLogitsProcessor(1.3), fast.RepetitionPenalty(1.31)),
        (transformers.RepetitionPenaltyLogitsProcessor(1.3), fast.RepetitionPenalty(1.3, 1)),
        (transformers.SuppressTokensLogitsProcessor([5, 9]), fast.SuppressTokens([5])),
        (transformers.TypicalLogitsWarper(0.9), fast.TypicalP(0.91)),
        (transformers.TypicalLogitsWarper(0.9), fast.TypicalP(0.9, min_tokens_to_keep=2)),
    ],
    ids=lambda part: type(part).__name__,
)
def test_a_drop_in_with_another_setting_is_seen_to_differ(theirs: Any, ours: Any) -> None:
    """The nearest wrong neighbour of each."""
    (difference,) = Shapes([theirs], COLUMNS, "cpu").differences([[ours]])
    assert difference


def test_probes_lie_on_both_sides_of_an_edge_of_what_is_allowed() -> None:
    """Of a peak that grows until it is all of the nucleus: within a hundredth of a logit."""
    chain = [transformers.TopPLogitsWarper(0.9)]
    shapes = Shapes(chain, COLUMNS, "cpu")
    rows = [logits for what, logits in shapes._probes() if what == "a peak at a new token"]
    kept = [(shapes._run(chain, logits) > -torch.inf) for logits in rows]
    close = [
        bool((before != after).any())
        for (one, before), (other, after) in itertools.pairwise(zip(rows, kept, strict=True))
        if 0 < abs(one - other).max() < 0.01
    ]
    assert any(close)


def test_tied_logits_count_and_are_not_told_apart() -> None:
    """The sort of transformers leaves open which of equal logits are in the nucleus; one more or less is seen."""
    scores = torch.tensor([[3.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, -9.0]])
    ids = torch.zeros(1, 2, dtype=torch.int64)
    kept = run([transformers.TopPLogitsWarper(0.75)], ids, scores)
    assert 0 < int((kept == 1.0).sum()) < 5
    from perstep.fixing.chain import _difference

    other = kept.clone()
    other[0, 1:6] = kept[0, 1:6].flip(0)
    assert _difference(kept, other, "ties") == ""
    other[0, 1:6] = 1.0
    assert _difference(kept, other, "ties") == "the allowed tokens differ for ties"
    assert _difference(kept, kept * 1.001, "ties") == "the scores differ for ties"


def test_where_the_warpers_begin_is_seen_in_what_generate_builds() -> None:
    """Behind the call's own processors; nothing of transformers' code is copied for it."""
    call = captured(repetition_penalty=1.3, no_repeat_ngram_size=3, top_p=0.9, logits_processor=[Own()])
    assert first_warper(call) == 3


def test_warpers_move_only_with_all_that_come_before_them() -> None:
    """Behind epsilon sampling, for which there is no drop-in, nothing can be moved in front of it."""
    found, _ = offered(captured(top_p=0.9, epsilon_cutoff=0.001))
    assert [one.source for one in found] == ["perstep.fast.TopP(0.9)"]  # generate applies it before
    found, seen = offered(captured(top_h=0.4, top_p=0.9))
    assert found == []
    assert "after TopHLogitsWarper, for which there is no drop-in" in seen.reasons["logits/TopPLogitsWarper"]


def test_what_depends_on_the_padding_of_this_call_is_not_written_into_a_line() -> None:
    """It leaves the padding of each prompt out of the penalty, and finds it anew in each call."""
    found, seen = offered(captured(repetition_penalty=1.3, padding=3))
    assert found == []
    assert "padding" in seen.reasons["logits/RepetitionPenaltyLogitsProcessor"]


def test_a_processor_of_the_calls_own_that_hides_a_setting_is_left_alone() -> None:
    """One of the same class takes the place of generate's own, which would come back with a drop-in there."""
    penalty = transformers.RepetitionPenaltyLogitsProcessor(1.2)
    found, seen = offered(captured(repetition_penalty=1.5, logits_processor=[penalty]))
    assert found == []
    assert seen.reasons == {
        "logits/RepetitionPenaltyLogitsProcessor": "with it generate would build other processors than now"
    }


def test_a_place_before_one_that_does_not_commute_is_kept() -> None:
    """remove_invalid_values makes large numbers of -inf; a penalty behind it would make others of them."""
    found, seen = offered(captured(repetition_penalty=1.3, remove_invalid_values=True))
    assert found == []
    assert "would come after InfNanRemoveLogitsProcessor" in seen.reasons["logits/RepetitionPenaltyLogitsProcessor"]


def test_a_setting_that_does_nothing_is_not_shown_to_be_replaced() -> None:
    """As many tokens as there are: what never acted proves nothing."""
    found, seen = offered(captured(top_k=COLUMNS))
    assert found == []
    assert seen.reasons == {"logits/TopKLogitsWarper": "TopK never changed anything"}


def test_a_patch_puts_lines_before_and_behind_the_calls_own(tmp_path: Any) -> None:
    """In the list that the call writes, and where it names one."""
    from perstep.fixing.patch import write

    first = Offer(PROCESSORS, None, ("a",), ((None, "F(1)"),), "", {}, (0,), True)
    last = Offer(PROCESSORS, None, ("b",), ((None, "L(1)"), (None, "L(2)")), "", {}, (3, 4))
    path = tmp_path / "job.py"
    for call, line in (
        ("model.generate(ids, logits_processor=[A(), B()])", "[F(1), A(), B(), L(1), L(2)]"),
        ("model.generate(ids, logits_processor=mine)", "[F(1), mine[0], mine[1], L(1), L(2)]"),
    ):
        path.write_text(call)
        lists = {PROCESSORS: [object()] * 2, "stopping_criteria": []}
        there = Captured("job.py:1", path, 1, None, False, None, ((), {"logits_processor": None}), lists, {}, [], "")
        assert write(Edit(there, [last, first]), [0, 1]).lines == [f"logits_processor={line},"]
