"""`perstep fix`: drop-ins are offered where they do the same, tried on the captured call, and written as a diff."""

import copy
import random
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.models import small_llama

import perstep
from perstep import fast
from perstep.errors import InputError
from perstep.experiments.device.stream import DeviceLedger
from perstep.fast.decode_loop import Report
from perstep.fixing import Captured, Captures
from perstep.fixing.behaviour import find_vocabulary, offers
from perstep.fixing.capture import REMOVED, copied
from perstep.fixing.findings import Row, Site, _bound_of_graph
from perstep.fixing.known import written
from perstep.fixing.loop import EVIDENCE, how_it_ran
from perstep.fixing.observe import observe
from perstep.fixing.offer import Offer
from perstep.fixing.show import _on_the_loop
from perstep.fixing.suggest import BETWEEN, LOOP, WHOLE
from perstep.measure import FakeClock

pytestmark = pytest.mark.hf
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

BYTES = [bytes([byte]) for byte in range(256)]


class EveryToken(transformers.LogitsProcessor):  # type: ignore[misc]
    """Forbids every third byte, asking each of them at every step."""

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """-inf at multiples of 3."""
        return scores.masked_fill(torch.tensor([token % 3 == 0 for token in range(256)]), -torch.inf)


class OnlyAscii(transformers.LogitsProcessor):  # type: ignore[misc]
    """Forbids bytes that are no ASCII."""

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """-inf from 0x80 on."""
        return scores.masked_fill(torch.arange(256) >= 0x80, -torch.inf)


class SometimesLouder(transformers.LogitsProcessor):  # type: ignore[misc]
    """Changes values: no mask."""

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Twice the scores."""
        return scores * 2


class OnlyAbove(transformers.LogitsProcessor):  # type: ignore[misc]
    """Forbids three tokens."""

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """-inf at 5, 7 and 9."""
        forbidden = torch.zeros(256, dtype=torch.bool)
        forbidden[[5, 7, 9]] = True
        return scores.masked_fill(forbidden, -torch.inf)


class Decodes(transformers.StoppingCriteria):  # type: ignore[misc]
    """Stops at an x, decoding everything."""

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """Whether each row ends with it."""
        return torch.tensor([bytes(row).endswith(b"x") for row in input_ids.tolist()])


class Whim(transformers.StoppingCriteria):  # type: ignore[misc]
    """Says nothing that a drop-in says, though its code names a text."""

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """Whether the last token is even and no x."""
        return torch.tensor([row[-1] % 2 == 0 and row[-1] != ord("x") for row in input_ids.tolist()])


class Deceives(transformers.StoppingCriteria):  # type: ignore[misc]
    """Looks as if it stopped at an x as long as the text is ASCII."""

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """Whether each row ends with an x, or with a byte that is no ASCII."""
        return torch.tensor([bytes(row).endswith(b"x") or row[-1] >= 0x80 for row in input_ids.tolist()])


def model() -> Any:
    """A tiny Llama over bytes."""
    return small_llama(vocab_size=256, num_hidden_layers=1, initializer_range=0.4)


def captured(vocab: Any = BYTES, **kwargs: Any) -> Captured:
    """One call, caught from a line that can see `vocab`."""
    llama = model()
    ids = torch.arange(97, 107).reshape(2, 5)
    with Captures() as captures:
        llama.generate(ids, **{"max_new_tokens": 12, "do_sample": False, **kwargs})
    (call,) = captures.calls.values()
    assert call.names["vocab"] is vocab
    return call


def offered(call: Captured) -> dict[str, str]:
    """What is offered for each part, or the last of those that go together."""
    return {one.parts[-1]: one.source for one in offers(call, observe(call), find_vocabulary(call))}


def test_a_call_made_again_gives_its_tokens_greedy_or_sampled() -> None:
    """Seed for seed, with processors that count their steps."""

    class Counts(transformers.LogitsProcessor):  # type: ignore[misc]
        step = 0

        def __call__(self, input_ids: Any, scores: Any) -> Any:
            self.step += 1
            return scores.roll(self.step, dims=1)

    for sample in (False, True):
        call = captured(logits_processor=[Counts()], do_sample=sample)
        assert torch.equal(call.again(), call.result)
        assert torch.equal(call.again(), call.result)


def test_a_class_of_ones_own_is_offered_what_agrees_with_all_it_did() -> None:
    """A mask that stays the same, a criterion that looks for a text; nothing for what changes values."""
    call = captured(logits_processor=[OnlyAbove(), SometimesLouder()], stopping_criteria=[Decodes()])
    assert offered(call) == {
        "logits/OnlyAbove": "perstep.fast.SuppressTokens([5, 7, 9])",
        "stop/Decodes": "perstep.fast.StopStrings([b'x'], BYTES)",
    }


def test_nothing_is_offered_for_a_long_list_an_unknown_rule_or_without_a_vocabulary() -> None:
    """86 ids are no line to write, a range is; a verdict that differs on one probe is another rule."""
    assert offered(captured(logits_processor=[EveryToken()], stopping_criteria=[Whim()])) == {}
    deceived = captured(logits_processor=[OnlyAscii()], stopping_criteria=[Deceives()])
    assert offered(deceived) == {"logits/OnlyAscii": "perstep.fast.SuppressTokens(range(128, 256))"}
    call = captured(stopping_criteria=[Decodes()])
    call.names = {}
    assert offered(call) == {}


def test_classes_of_transformers_are_recognised_with_their_settings() -> None:
    """What generate builds from settings moves into the list, and the settings go."""
    call = captured(do_sample=True, temperature=0.7, top_k=20, top_p=0.9, repetition_penalty=1.3, suppress_tokens=[3])
    assert offered(call) == {
        "logits/RepetitionPenaltyLogitsProcessor": "perstep.fast.RepetitionPenalty(1.3)",
        "logits/SuppressTokensLogitsProcessor": "perstep.fast.SuppressTokens([3])",
        "logits/TopPLogitsWarper": (
            "transformers.TemperatureLogitsWarper(0.7), perstep.fast.TopK(20), perstep.fast.TopP(0.9)"
        ),
    }
    made = {one.parts: dict(one.settings) for one in offers(call, observe(call), find_vocabulary(call))}
    warpers = ("logits/TemperatureLogitsWarper", "logits/TopKLogitsWarper", "logits/TopPLogitsWarper")
    assert made == {
        ("logits/RepetitionPenaltyLogitsProcessor",): {"repetition_penalty": 1.0},
        ("logits/SuppressTokensLogitsProcessor",): {"suppress_tokens": REMOVED},
        warpers: {"temperature": 1.0, "top_k": 0, "top_p": 1.0},
    }
    own = captured(logits_processor=[transformers.TopPLogitsWarper(0.8)], do_sample=True, top_k=0)
    assert offered(own) == {"logits/TopPLogitsWarper": "perstep.fast.TopP(0.8)"}


def test_suggestions_come_from_names_and_are_bounded_by_the_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest first; classes of transformers are certain; the gain is at most the part."""
    llama, clock, mask = model(), FakeClock(tick_ns=10_000), EveryToken.__call__

    def slow_mask(processor: EveryToken, input_ids: Any, scores: Any) -> Any:
        clock.advance(1_000_000)
        return mask(processor, input_ids, scores)

    monkeypatch.setattr(EveryToken, "__call__", slow_mask)
    with perstep.watch(llama, clock=clock) as w:
        llama.generate(
            torch.arange(3, 13).reshape(2, 5), max_new_tokens=30, do_sample=True, top_p=0.9,
            logits_processor=[EveryToken()],
        )  # fmt: skip
    ledger = w.ledger()
    found = {one.part: one for one in perstep.suggest(ledger)}
    between = found.pop(BETWEEN)
    assert set(between.parts) == {*(name for name in ledger.parts if name in LOOP), "residual"}
    assert between.most_ns == sum(ledger.parts[name].ns for name in between.parts[:-1]) + ledger.residual_ns
    assert "perstep.fast.decode" in between.drop_in
    assert found["logits/TopPLogitsWarper"].drop_in == "perstep.fast.TopP"
    assert found["logits/TopPLogitsWarper"].certain
    assert not found["logits/EveryToken"].certain
    for one in found.values():
        assert (one.parts, one.most_ns) == ((one.part,), ledger.parts[one.part].ns)
        assert one.most_speedup == pytest.approx(1 / (1 - one.share))
    assert [one.most_ns for one in found.values()] == sorted((one.most_ns for one in found.values()), reverse=True)
    with pytest.raises(InputError, match="invalid"):
        perstep.suggest(msgspec.structs.replace(ledger, invalid="marks"))
    # On a device that waits for the host a graph takes the loop's place, and can win the wait, not the kernels.
    stream = DeviceLedger(ledger=ledger, idle_ns_per_step=0.75 * ledger.step_ns, idle_parts_ns={})
    host_bound = {one.part: one for one in perstep.suggest(ledger, stream)}
    graph = host_bound.pop(WHOLE)
    assert (graph.most_ns, graph.most_speedup) == (0.75 * ledger.step_ns, 4.0)
    assert graph.drop_in == between.drop_in
    assert host_bound == found
    row = Row(parts=[BETWEEN], drop_in="perstep.fast.decode", tokens="the same")
    _bound_of_graph(row, ledger, stream)
    assert (row.most_step_speedup, row.most_call_speedup, row.no_bound) == (4.0, 4.0, "")
    _bound_of_graph(row, ledger, None)
    assert row.no_bound.startswith("a captured graph saves launches in every part")
    busy = msgspec.structs.replace(stream, idle_ns_per_step=0.05 * ledger.step_ns)
    assert {one.part for one in perstep.suggest(ledger, busy)} == {*found, BETWEEN}


def test_a_loop_that_was_replayed_says_so_and_is_bounded_by_the_devices_wait() -> None:
    """Not by the parts of the loop: a graph saves launches in every part; on a CPU there is nothing to say."""
    decode = fast.Decode()
    offer = Offer("custom_generate", None, (BETWEEN,), ((decode, "perstep.fast.decode"),), EVIDENCE)
    assert how_it_ran(offer) == (False, "")
    decode.last = Report(replayed=True, built_s=0.25)
    assert how_it_ran(offer) == (True, "each decode step is one replayed CUDA graph, built in 0.25 s")
    decode.last = Report(why="the model has a hook")
    assert how_it_ran(offer) == (False, "not in a captured CUDA graph: the model has a hook")
    site = {"site": "a", "model": "m", "calls": 1, "refused": "", "step_ns": None, "ledger_invalid": ""}
    row = Row(parts=[BETWEEN], drop_in="perstep.fast.decode", tokens="the same", why=f"{EVIDENCE}; replayed")
    assert "custom_generate=perstep.fast.decode: replayed." in _on_the_loop(Site(**site), row)


def test_single_bad_words_are_suppressed_tokens_and_longer_ones_are_looked_up() -> None:
    """Their logits get -inf at every step, whatever came before; for two tokens it depends on that."""
    assert offered(captured(bad_words_ids=[[7], [9]])) == {
        "logits/NoBadWordsLogitsProcessor": "perstep.fast.SuppressTokens([7, 9])"
    }
    assert offered(captured(bad_words_ids=[[7, 9]])) == {
        "logits/NoBadWordsLogitsProcessor": "perstep.fast.BadWords([[7, 9]])"
    }


def test_parts_of_one_class_have_the_names_that_the_ledger_gives_them() -> None:
    """The second of a class is `X#2`, wherever generate puts it."""
    call = captured(logits_processor=[OnlyAbove(), OnlyAbove()])
    assert set(offered(call)) == {"logits/OnlyAbove"}  # the second one forbids nothing any more
    twice = captured(logits_processor=[transformers.SuppressTokensLogitsProcessor([4]),
                                       transformers.SuppressTokensLogitsProcessor([5])])  # fmt: skip
    assert set(offered(twice)) == {"logits/SuppressTokensLogitsProcessor", "logits/SuppressTokensLogitsProcessor#2"}


def test_a_long_list_of_ids_is_written_by_its_name() -> None:
    """As the script has it, or as a range; a short one as it is."""
    ids = list(range(0, 60, 3))
    assert written(ids, {"OTHER": [1], "RARE": ids}) == "RARE"
    assert written(list(range(40)), {}) == "range(0, 40)"
    assert written([3, 5], {"SHORT": [3, 5]}) == "[3, 5]"
    assert written(ids, {}) == repr(ids)


def test_what_a_processor_only_reads_is_shared_by_its_copies() -> None:
    """A tokenizer of 131,072 tokens takes a second to copy; a list of what was seen is copied."""

    class Reader:
        def decode(self, ids: Any) -> str:
            return ""

        def get_vocab(self) -> dict[str, int]:
            return {}

        def __deepcopy__(self, memo: Any) -> Any:
            raise AssertionError("copied")

    class Mine:
        def __init__(self) -> None:
            self.tokenizer, self.seen = Reader(), [1]

    mine = Mine()
    (copy_of,) = copied([mine])
    assert copy_of is not mine
    assert copy_of.tokenizer is mine.tokenizer
    assert copy_of.seen == [1]
    assert copy_of.seen is not mine.seen
    with pytest.raises(AssertionError):
        copy.deepcopy(mine)


def test_random_numbers_of_python_and_numpy_come_again() -> None:
    """A processor may draw from any of the three generators that scripts use."""

    class Draws(transformers.LogitsProcessor):  # type: ignore[misc]
        def __call__(self, input_ids: Any, scores: Any) -> Any:
            return scores.roll(random.randrange(9) + int(np.random.rand() * 9), dims=1)  # noqa: NPY002

    call = captured(logits_processor=[Draws()])
    assert torch.equal(call.again(), call.result)


def test_arguments_by_position_and_later_calls_of_a_line_are_understood() -> None:
    """The third argument of generate are processors; a loop calls one line often, and the first call is kept."""
    llama = model()
    with Captures() as captures:
        for _ in range(3):
            llama.generate(torch.arange(5)[None], None, [OnlyAbove()], max_new_tokens=3, do_sample=False)
    (call,) = captures.calls.values()
    assert [type(part).__name__ for part in call.lists["logits_processor"]] == ["OnlyAbove"]
    assert call.calls == 3
    assert torch.equal(call.again(), call.result)


def test_a_tokenizer_is_found_in_what_the_line_can_see() -> None:
    """As `tokenizer` of an object, such as a pipeline's."""

    class Holder:
        def __init__(self) -> None:
            self.tokenizer = BYTES

    call = captured(stopping_criteria=[Decodes()])
    call.names = {"pipe": Holder()}
    found = find_vocabulary(call)
    assert found is not None
    assert found[1] == "pipe.tokenizer"


def test_the_tokenizer_that_a_call_is_given_is_the_one_or_there_is_none() -> None:
    """Another vocabulary in sight would spell other texts; a dictionary of arguments may hold it."""

    class Named:
        def __init__(self) -> None:
            self.vocab = {"a": 0}

        def get_vocab(self) -> dict[str, int]:
            return self.vocab

        def decode(self, ids: Any) -> str:
            return ""

    call = captured(stopping_criteria=[Decodes()])
    assert find_vocabulary(call) is not None
    call.arguments[1]["tokenizer"] = Named()
    assert find_vocabulary(call) is None
    call.arguments[1]["tokenizer"] = call.names["vocab"]
    call.names = {"kwargs": {"tokenizer": BYTES}, "OTHER": [b"x", b"y"]}
    found = find_vocabulary(call)
    assert found is not None
    assert (found[0].size, found[1]) == (256, "kwargs['tokenizer']")
