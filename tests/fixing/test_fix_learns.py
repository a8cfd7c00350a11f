"""What `fix` offers for sets and sequences of ids, for a draft and for experts: proved, or refused with the reason."""

import ast
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.models import small_llama

from perstep.fixing import Captured, Captures
from perstep.fixing.behaviour import find_vocabulary, offers
from perstep.fixing.chain import OutOfOrder
from perstep.fixing.criteria import Unlike, for_criterion
from perstep.fixing.draft import draft_offer, forwards_of, verdict
from perstep.fixing.experts import experts_offer, implementation
from perstep.fixing.loop import tokens_with
from perstep.fixing.observe import Seen, Steps, observe, verdicts_of
from perstep.fixing.offer import EXPERTS, Offer, changed
from perstep.fixing.patch import Edit, diff, write
from perstep.fixing.sequences import along_sequences
from perstep.measure import FakeClock

pytestmark = pytest.mark.hf
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
fast = pytest.importorskip("perstep.fast")

COLUMNS = 320
ALLOWED = [3, *range(5, 200, 2)]
SEQUENCES = [[7, 11, 13, 2], [7, 11, 17, 2], [19, 2], [23, 29, 31, 37, 2]]


class Tree:
    """As scripts have it: nested dictionaries, and what follows a beginning."""

    def __init__(self) -> None:
        self.nodes: dict[int, Any] = {}
        for sequence in SEQUENCES:
            node = self.nodes
            for token in sequence:
                node = node.setdefault(token, {})

    def after(self, begun: list[int]) -> list[int]:
        """What may follow."""
        node = self.nodes
        for token in begun:
            node = node.get(token, {})
        return list(node)


TREE = Tree()


def llama() -> Any:
    """A tiny one."""
    return small_llama(vocab_size=COLUMNS, num_hidden_layers=1, eos_token_id=2, initializer_range=0.3)


def captured(model: Any = None, names: dict[str, Any] | None = None, rows: int = 2, **kwargs: Any) -> Captured:
    """One call, from a line that can see some names."""
    model = model or llama()
    ids = torch.arange(97, 97 + 5 * rows).reshape(rows, 5)
    with Captures() as captures:
        model.generate(ids, **{"max_new_tokens": 10, "do_sample": False, **kwargs})
    (call,) = captures.calls.values()
    call.names = {"ids": ids, **(names or {})}
    return call


def offered(call: Captured) -> tuple[list[Offer], Seen]:
    """What is offered, and what was seen."""
    seen = observe(call)
    return offers(call, seen, find_vocabulary(call)), seen


def the_only(call: Captured) -> Offer:
    """The one offer of a call, with which it gives its tokens."""
    (offer,), seen = offered(call)
    assert seen.reasons == {}
    assert torch.equal(tokens_with(call, [offer]), call.result)
    return offer


class OnlyThese(transformers.LogitsProcessor):  # type: ignore[misc]
    """The usual whitelist."""

    def __init__(self, ids: list[int]) -> None:
        self.ids = ids

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """-inf at all others."""
        mask = torch.full_like(scores, -torch.inf)
        mask[:, torch.tensor(self.ids)] = 0
        return scores + mask


def test_a_whitelist_is_written_by_its_name_and_found_where_it_is_short() -> None:
    """In a processor of the script's own: 98 ids by the name that the script has, two ids as they are."""
    call = captured(names={"WHITE": ALLOWED}, logits_processor=[OnlyThese(ALLOWED)])
    assert the_only(call).source == "perstep.fast.AllowTokens(WHITE)"
    assert the_only(captured(logits_processor=[OnlyThese([9, 4])])).source == "perstep.fast.AllowTokens([4, 9])"
    found, seen = offered(captured(logits_processor=[OnlyThese(ALLOWED)]))
    assert found == []
    assert "neither of which have a name" in seen.reasons["logits/OnlyThese"]


def test_a_function_that_always_allows_the_same_is_a_set() -> None:
    """Whatever the row, the prompt and the length; in one beam and in several."""
    for beams in (1, 3):
        call = captured(names={"WHITE": ALLOWED}, num_beams=beams, prefix_allowed_tokens_fn=lambda _row, _ids: ALLOWED)
        offer = the_only(call)
        assert offer.source == f"perstep.fast.AllowTokens(WHITE, beams={beams})"
        assert "allowed the same 99 tokens behind" in offer.evidence


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda row, ids: ALLOWED[row:], "in row 1"),
        (lambda row, ids: ALLOWED[int(len(ids) > 40) :], "64 tokens it is not what it was"),
        (lambda row, ids: ALLOWED[int(ids[0] > 102) :], "behind another prompt"),
        (lambda row, ids: ALLOWED[int(ids[-1] == 5) :], "it is not what it was"),
        (lambda row, ids: [*range(3, 280, 3), ids.tolist().index(97) if len(ids) > 70 else 3], "ended with ValueError"),
    ],
)
def test_a_function_that_depends_on_row_length_or_text_is_left_alone(function: Any, why: str) -> None:
    """Each was seen to differ, though it may have done the same in the call."""
    found, seen = offered(captured(names={"WHITE": ALLOWED}, rows=2, prefix_allowed_tokens_fn=function))
    assert found == []
    assert why in seen.reasons["logits/PrefixConstrainedLogitsProcessor"]


@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize(("name", "value"), [("names", SEQUENCES), ("tree", TREE)])
def test_a_function_over_a_tree_is_followed_without_it(name: str, value: Any, beams: int) -> None:
    """The sequences are a list of the script's or the dictionaries of its tree; they begin behind the prompt."""
    function = lambda _row, ids: TREE.after(ids[5:].tolist()) or [2]  # noqa: E731 - as scripts write it
    offer = the_only(captured(names={name: value}, num_beams=beams, prefix_allowed_tokens_fn=function))
    written = name if name == "names" else "tree.nodes"
    more = "" if beams == 1 else ", beams=2"
    assert offer.source == f"perstep.fast.AllowSequences({written}, after=ids.shape[1], otherwise=[2]{more})"
    assert offer.evidence == "allowed the same behind 10 of 10 beginnings of the sequences and 4 whole ones"


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ([*SEQUENCES, [41, 2]], "do not give what it allowed in the call"),
        (SEQUENCES[:-1], "do not give what it allowed in the call"),
        ([*SEQUENCES, [23, 29, 31, 37, 2, 3]], "of a sequence of names it allows something else"),
        (None, "no list of sequences that the line can name"),
    ],
)
def test_sequences_that_are_not_all_or_too_many_are_told_from_the_right_ones(value: Any, why: str) -> None:
    """One less, one more, one that goes on where another ends."""
    function = lambda _row, ids: TREE.after(ids[5:].tolist()) or [2]  # noqa: E731
    found, seen = offered(captured(names={"names": value}, prefix_allowed_tokens_fn=function))
    assert found == []
    assert why in seen.reasons["logits/PrefixConstrainedLogitsProcessor"]


@pytest.mark.parametrize(
    ("settings", "source", "wrong"),
    [
        ({"no_repeat_ngram_size": 3}, "NoRepeatNGram(3)", [fast.NoRepeatNGram(2), fast.NoRepeatNGram(4)]),
        (
            {"sequence_bias": {(7,): -3.0, (11, 13): 2.5, (1, 2, 3): -1.0}},
            "SequenceBias({(7,): -3.0, (11, 13): 2.5, (1, 2, 3): -1.0})",
            [
                fast.SequenceBias({(7,): -3.0, (11, 13): 2.5}),
                fast.SequenceBias({(7,): -3.0, (11, 13): 2.4, (1, 2, 3): -1.0}),
                fast.SequenceBias({(7,): -3.0, (11, 13): 2.5, (2, 1, 3): -1.0}),
            ],
        ),
        ({"bad_words_ids": [[5, 6], [7]]}, "BadWords([[5, 6], [7]])", [fast.BadWords([[5, 6, 1], [7]])]),
    ],
)
def test_what_is_about_sequences_is_told_from_its_nearest_neighbours(
    settings: dict[str, Any], source: str, wrong: list[Any]
) -> None:
    """Another n, one sequence less, another bias, another order of ids: each was seen to differ from the original."""
    call = captured(**settings)
    offer = the_only(call)
    assert offer.source == f"perstep.fast.{source}"
    assert "; the same behind " in offer.evidence
    (part,) = observe(call).built["logits_processor"]
    for other in wrong:
        with pytest.raises(OutOfOrder):
            along_sequences(part, other, COLUMNS, "cpu")


class AlwaysThree(fast.NoRepeatNGram):  # type: ignore[misc]
    """Of three tokens, whatever it is told."""

    def __init__(self, _size: int) -> None:
        super().__init__(3)


def test_a_neighbour_that_no_text_tells_apart_proves_nothing() -> None:
    """Where other settings do the same everywhere, nothing was shown of this one."""
    with pytest.raises(OutOfOrder, match="no text told n-grams of 3 from those of 2"):
        along_sequences(transformers.NoRepeatNGramLogitsProcessor(3), AlwaysThree(3), COLUMNS, "cpu")


def test_bad_words_by_thousands_are_written_by_their_name() -> None:
    """A list without a name is too long for a line."""
    words = [[token, token + 1] for token in range(3, 303)]
    call = captured(names={"words": [tuple(word) for word in words]}, bad_words_ids=words)
    assert the_only(call).source == "perstep.fast.BadWords(words)"
    assert "about 300 of 300 sequences, and not without any of 16 of them" in the_only(call).evidence
    found, seen = offered(captured(bad_words_ids=words))
    assert found == []
    assert "have no name that the line can see" in seen.reasons["logits/NoBadWordsLogitsProcessor"]


class EndsWith(transformers.StoppingCriteria):  # type: ignore[misc]
    """Compares the last ids of every row."""

    def __init__(self, stops: Any) -> None:
        self.stops = stops

    def ends(self, row: list[int]) -> bool:
        """Whether a row does."""
        return any(row[-len(one) :] == list(one) for one in self.stops)

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """Of each row."""
        return torch.tensor([self.ends(row) for row in input_ids.tolist()])


class FirstRow(EndsWith):
    """The widespread form: of the first row alone, as a Python bool."""

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """Of that row."""
        return any(torch.equal(input_ids[0][-len(one) :], torch.tensor(one)) for one in self.stops)


class Anywhere(EndsWith):
    """Looks for them in the whole row."""

    def ends(self, row: list[int]) -> bool:
        """Whether it holds one."""
        return any(row[at : at + len(one)] == list(one) for one in self.stops for at in range(len(row)))


class NewAlone(EndsWith):
    """Looks behind the prompt."""

    def ends(self, row: list[int]) -> bool:
        """Whether what is new ends with one."""
        return super().ends(row[5:])


class AsASet(EndsWith):
    """Compares them in any order."""

    def ends(self, row: list[int]) -> bool:
        """Whether the last ids are those of one."""
        return any(sorted(row[-len(one) :]) == sorted(one) for one in self.stops)


def stop_offer(part: Any, rows: int = 2) -> str:
    """The drop-in for a criterion without a vocabulary, or why there is none."""
    ids = torch.arange(97, 97 + 9 * rows).reshape(rows, 9)
    steps = Steps()
    for end in range(6, 10):
        steps.ids.append(ids[:, :end])
        steps.after.append(verdicts_of(part(ids[:, :end], None), rows))
    try:
        return " ".join(for_criterion(part, steps, None, "", columns=COLUMNS)[1:])
    except Unlike as reason:
        return str(reason)


@pytest.mark.parametrize(
    ("part", "rows", "said"),
    [
        (EndsWith([[5, 6], [7, 8, 9]]), 2, "perstep.fast.StopIds([[5, 6], [7, 8, 9]]) the same 8 recorded verdicts"),
        (EndsWith(torch.tensor([[5, 6], [8, 9]]).tolist()), 1, "perstep.fast.StopIds([[5, 6], [8, 9]])"),
        (EndsWith([(4,), (6,)]), 2, "perstep.fast.StopIds([4, 6])"),
        (FirstRow([[5, 6]]), 1, "each row asked about alone: the call has one"),
        (FirstRow([[5, 6]]), 2, "asked about "),
        (Anywhere([[5, 6]]), 2, "yours stops"),
        (NewAlone([[5, 6]]), 2, "yours goes on"),
        (AsASet([[5, 6]]), 2, "yours stops at the ids [5, 6] in reverse order"),
        (EndsWith([[5, COLUMNS]]), 2, "none of the ids that it holds makes it stop by itself"),
    ],
)
def test_stop_sequences_of_ids_are_found_without_a_vocabulary(part: Any, rows: int, said: str) -> None:
    """And told from looking anywhere, at new ids alone, in any order, at the first of several rows."""
    assert said in stop_offer(part, rows)


def test_a_draft_is_tried_against_plain_decoding_on_the_same_prompt() -> None:
    """Greedy tokens are the same; the assistant begins every repeat with what it had learned before the call."""
    model, assistant = llama(), llama()
    assistant.generation_config.num_assistant_tokens = 4
    assistant.generation_config.num_assistant_tokens_schedule = "heuristic"
    for given in ({"assistant_model": assistant}, {"prompt_lookup_num_tokens": 3}):
        call = captured(model, rows=1, **given)
        offer = draft_offer(call)
        assert offer is not None
        assert offer.source == f"plain decoding, without {next(iter(given))}"
        assert torch.equal(tokens_with(call, [offer]), call.result)
        assert 1 < forwards_of(call) <= call.result.shape[1] - 5
    assert call.learned == {}
    learned = captured(model, rows=1, assistant_model=assistant)
    assistant.generation_config.num_assistant_tokens = 99
    learned.ready()
    assert assistant.generation_config.num_assistant_tokens == learned.learned["num_assistant_tokens"] < 99
    assert draft_offer(captured()) is None


@pytest.mark.parametrize(
    ("said", "change", "projected", "sentence"),
    [
        ("faster", -0.4444, False, "40 tokens in 14 forwards; with the draft a token costs 1.8 times as much: drop it"),
        ("slower", 0.6, False, "40 tokens in 14 forwards; with the draft a token costs 0.62 times as much: keep it"),
        ("faster", -0.5, True, "costs 2 times as much: drop it (projected from its first tokens)"),
        ("not resolved", 0.01, False, "not resolved, try a larger --budget"),
        ("not resolved (the machine was busy)", None, False, "is not known: not resolved (the machine was busy)"),
        ("same (within ±1 %)", 0.001, False, "so nothing is to be gained"),
    ],
)
def test_the_verdict_on_a_draft_is_a_sentence(said: str, change: float, projected: bool, sentence: str) -> None:
    """What it took, and what to do."""
    assert verdict(40, 14, said, change, projected=projected).endswith(sentence)


@pytest.fixture(scope="module")
def olmoe() -> Any:
    """A tiny mixture of experts."""
    torch.manual_seed(0)
    config = transformers.OlmoeConfig(
        vocab_size=COLUMNS, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=4, num_experts=4, num_experts_per_tok=2, eos_token_id=None, pad_token_id=0,
        initializer_range=0.3,
    )  # fmt: skip
    return transformers.OlmoeForCausalLM(config).eval()


def test_the_quickest_way_to_run_the_experts_is_offered_and_put_back(olmoe: Any, monkeypatch: Any) -> None:
    """With the same tokens; a model without experts has none."""
    call, clock = captured(olmoe), FakeClock(tick_ns=1)
    now = implementation(olmoe)
    cost = {"grouped_mm": 30, "batched_mm": 10, "eager": 20}
    generate = type(call).ready

    def slow(self: Captured, *args: Any, **kwargs: Any) -> Any:
        made = generate(self, *args, **kwargs)
        return lambda: (clock.advance(cost[implementation(olmoe)]), made())[1]

    monkeypatch.setattr(type(call), "ready", slow)
    offer = experts_offer(call, clock)
    assert offer is not None
    assert offer.source == "model.set_experts_implementation('batched_mm')"
    with changed([offer]):
        assert implementation(olmoe) == "batched_mm"
    assert implementation(olmoe) == now
    assert torch.equal(tokens_with(call, [offer]), call.result)
    assert implementation(olmoe) == now
    cost[now] = 1
    assert experts_offer(call, clock) is None
    assert implementation(llama()) == ""


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("out = net.generate(ids)\n", "net.use('x')\nout = net.generate(ids)\n"),
        ("if ids:\n    print(net.generate(ids))\n", "if ids:\n    net.use('x')\n    print(net.generate(ids))\n"),
        ("for _ in net.generate(ids): pass\n", "net.use('x')\nfor _ in net.generate(ids): pass\n"),
        ("x = 1; out = net.generate(ids)\n", None),
        ("if x:\n    pass\nelif net.generate(ids): pass\n", None),
    ],
)
def test_a_line_before_the_call_stands_before_its_statement(
    source: str, expected: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its indent; where none can stand, the lines are given in words."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "run.py"
    file.write_text(source)
    (node,) = [
        one
        for one in ast.walk(ast.parse(source))
        if isinstance(one, ast.Call) and isinstance(one.func, ast.Attribute) and one.func.attr == "generate"
    ]
    span = (node.lineno, node.end_lineno or 0, node.col_offset, node.end_col_offset or 0)
    call = Captured("", file, node.lineno, span, False, None, ((), {}), {}, {}, [], "")  # type: ignore[arg-type]
    edit = Edit(call, [Offer(EXPERTS, None, ("forward",), (), "", before=("{model}.use('x')",))])
    made = write(edit, [0])
    if expected is None:
        assert "before the call" in made.by_hand
        assert made.lines == ["model.use('x')  # before the call"]
        assert diff([edit])[0] == ""
        return
    assert made.lines == ["net.use('x')  # before the call"]
    added = [line[1:] for line in diff([edit])[0].splitlines()[2:] if line.startswith("+")]
    assert added == [line for line in expected.splitlines() if line not in source.splitlines()]


def test_beams_are_kept_by_what_is_offered_for_processors() -> None:
    """Beam search itself has no drop-in; how many beams there are is said."""
    call = captured(num_beams=2, no_repeat_ngram_size=2)
    assert observe(call).beams == 2
    assert the_only(call).source == "perstep.fast.NoRepeatNGram(2)"
    assert partial(the_only, call)().settings == {"no_repeat_ngram_size": 0}
