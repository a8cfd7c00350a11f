"""The schema or regex behind a grammar engine's processor is found; what is nearly the same is not taken for it."""

import json
from functools import partial
from typing import Any

import pytest

from perstep.automata import Vocabulary
from perstep.fixing import Captures
from perstep.fixing.behaviour import find_vocabulary, offers
from perstep.fixing.capture import Captured
from perstep.fixing.criteria import Unlike
from perstep.fixing.grammars import engine_of
from perstep.fixing.loop import tokens_with
from perstep.fixing.masks import Same, for_processor
from perstep.fixing.observe import Steps, keep_mask, listener, observe
from perstep.fixing.offer import PROCESSORS

pytestmark = pytest.mark.hf
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
core = pytest.importorskip("outlines_core")
llguidance = pytest.importorskip("llguidance")

END = 256
BYTES = Vocabulary([*(bytes([byte]) for byte in range(256)), None], eos_ids=[END])
PROMPT = list(b"what the user said")
COLUMNS = 260
TEXTS = core.Vocabulary(END, {bytes([byte]): [byte] for byte in range(256)})
SCHEMA = {"type": "object", "properties": {"ok": {"enum": ["yes", "no"]}}, "required": ["ok"],
          "additionalProperties": False}  # fmt: skip


class Guided(transformers.LogitsProcessor):  # type: ignore[misc]
    """As outlines and its users write it: a guide a row, which is given each new token."""

    def __init__(self, pattern: str) -> None:
        self.index, self.guides = core.Index(pattern, TEXTS), []

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """-inf at what its guide does not allow."""
        if not self.guides:
            self.guides = [core.Guide(self.index) for _ in input_ids]
        else:
            for guide, row in zip(self.guides, input_ids.tolist(), strict=True):
                if not guide.is_finished() or row[-1] != END:
                    guide.advance(row[-1])
        mask = torch.full_like(scores, -torch.inf)
        for row, guide in enumerate(self.guides):
            mask[row, guide.get_tokens()] = 0
        return scores + mask


class ByMatcher(transformers.LogitsProcessor):  # type: ignore[misc]
    """As users of llguidance write it."""

    def __init__(self, grammar: str) -> None:
        self.grammar, self.matchers = grammar, []

    def tokenizer(self) -> Any:
        """Of bytes."""

        class Tokens:
            eos_token_id, bos_token_id = END, None

            def __init__(self) -> None:
                self.special_token_ids = [END]
                self.tokens = [*(bytes([byte]) for byte in range(256)), b"<end>"]

            def __call__(self, text: bytes | str) -> list[int]:
                return list(text.encode() if isinstance(text, str) else text)

        return llguidance.LLTokenizer(llguidance.TokenizerWrapper(Tokens()))

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """-inf at what its matcher does not allow."""
        if not self.matchers:
            spelled = self.tokenizer()
            self.matchers = [llguidance.LLMatcher(spelled, self.grammar) for _ in input_ids]
        else:
            for matcher, row in zip(self.matchers, input_ids.tolist(), strict=True):
                if not matcher.is_stopped():
                    matcher.consume_token(row[-1])
        mask = torch.full_like(scores, -torch.inf)
        for row, matcher in enumerate(self.matchers):
            biased = torch.tensor(list(matcher.compute_logit_bias()))
            mask[row, : len(biased)][biased > 0] = 0
        return scores + mask


def steps_of(part: Any, count: int = 10) -> Steps:
    """What a processor does along a text of two rows that it allows."""
    steps, generator = Steps(), torch.Generator().manual_seed(0)
    spy = listener(PROCESSORS, part, partial(keep_mask, steps))
    ids = torch.tensor([PROMPT] * 2)
    for _ in range(count):
        scores = spy(ids, torch.randn(2, COLUMNS, generator=generator))
        ids = torch.cat([ids, scores.argmax(dim=-1, keepdim=True)], dim=1)
        if (ids[:, -1] == END).any():
            break
    return steps


def offer(make: Any, names: dict[str, Any], vocabulary: Any = (BYTES, "V")) -> Same | str:
    """The drop-in for a processor, or why there is none."""
    call = Captured("", None, 1, None, False, None, ((), {}), {}, {"V": BYTES, **names}, [], "")  # type: ignore[arg-type]
    try:
        return for_processor(call, make(), steps_of(make()), vocabulary)
    except Unlike as reason:
        return str(reason)


PATTERN = "(red|green)-[0-9]{2,4}"


def test_a_regex_that_the_script_names_is_found_behind_a_guide() -> None:
    """The table stands before the call, the mask in it; the name is the script's."""
    found = offer(lambda: Guided(PATTERN), {"COLOUR": PATTERN, "other": "[a-z]+"})
    assert isinstance(found, Same), found
    assert found.source == "perstep.fast.TokenMask(mask_table)"
    assert found.before == ("mask_table = perstep.automata.compile(perstep.automata.from_regex(COLOUR), V)",)
    assert found.names["mask_table"].accepts([*b"red-123", END])
    assert found.evidence.startswith("forbade the same tokens in all ")


@pytest.mark.parametrize("other", ["(red|green)-[0-9]{2,5}", "(red|green)-[0-9]{2,3}", "(red|green|blue)-[0-9]{2,4}"])
def test_a_regex_that_is_nearly_it_is_told_from_it(other: str) -> None:
    """One repetition more or less, one word more."""
    found = offer(lambda: Guided(PATTERN), {"COLOUR": other})
    assert isinstance(found, str)
    assert "from_regex(COLOUR)" in found or "perstep.fast.TokenMask(mask_table) is not the same" in found


@pytest.mark.parametrize("flexible", [False, True])
def test_a_schema_is_found_with_its_white_space(flexible: bool) -> None:
    """By its name, as a dictionary or as JSON; other ways to place white space are seen to differ."""
    grammar = llguidance.LLMatcher.grammar_from_json_schema(
        SCHEMA, overrides={"whitespace_flexible": flexible, "item_separator": ", ", "key_separator": ": "}
    )
    for value in (SCHEMA, json.dumps(SCHEMA)):
        found = offer(lambda: ByMatcher(grammar), {"ANSWER": value})
        if flexible:  # llguidance ends a run of white space after some characters, which no schema says
            assert isinstance(found, str)
            assert "is not the same" in found or "disagreed" in found
            continue
        assert isinstance(found, Same), found
        assert found.before[0] == "mask_table = perstep.automata.compile(perstep.automata.json_schema(ANSWER), V)"
        assert (
            "and not with perstep.automata.compile(perstep.automata.json_schema(ANSWER, whitespace=" in found.evidence
        )


def test_why_there_is_no_mask_is_said() -> None:
    """No name, no end of sequence; a processor of no engine has no grammar looked for."""
    assert "no schema and no regex that the line can name" in offer(lambda: Guided(PATTERN), {})
    endless = Vocabulary([bytes([byte]) for byte in range(256)])
    assert "no end-of-sequence id" in offer(lambda: Guided(PATTERN), {"COLOUR": PATTERN}, (endless, "V"))
    assert engine_of(Guided(PATTERN)) == "outlines_core"
    assert engine_of(ByMatcher("")) == "llguidance"
    assert engine_of(transformers.TopPLogitsWarper(0.9)) == ""


class Followed:
    """As lm-format-enforcer writes it: it follows a text token by token, and takes any other for a prompt."""

    def __init__(self, pattern: str) -> None:
        self.index = core.Index(pattern, TEXTS)
        self.last: dict[int, tuple[list[int], Any]] = {}

    def __call__(self, row: int, sent: Any) -> list[int]:
        """The ids that may come."""
        text, state = sent.tolist(), self.index.get_initial_state()
        before, reached = self.last.get(row, ([], None))
        if before and text[:-1] == before:
            state = None if reached is None else self.index.get_next_state(reached, text[-1])
        self.last[row] = text, state
        return [END] if state is None else list(self.index.get_allowed_tokens(state))


def test_the_regex_of_an_engines_prefix_function_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask in its place gives the same tokens; a pattern that is nearly it is refused."""
    monkeypatch.setattr(Followed, "__module__", "lmformatenforcer.integrations.transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=COLUMNS, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
        eos_token_id=END, pad_token_id=0, initializer_range=0.3,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()

    def tried(pattern: str) -> tuple[Any, Any, Any]:
        with Captures() as captures:
            model.generate(
                torch.tensor([PROMPT]), max_new_tokens=12, do_sample=False, prefix_allowed_tokens_fn=Followed(PATTERN)
            )
        (call,) = captures.calls.values()
        call.names = {"V": BYTES, "pattern": pattern}
        seen = observe(call)
        return call, offers(call, seen, find_vocabulary(call)), seen

    call, found, seen = tried(PATTERN)
    assert seen.reasons == {}
    (offer,) = found
    assert offer.source == "perstep.fast.TokenMask(mask_table)"
    assert offer.before == ("mask_table = perstep.automata.compile(perstep.automata.from_regex(pattern), V)",)
    assert seen.reasons == {}
    assert torch.equal(tokens_with(call, [offer]), call.result)
    _, found, seen = tried("(red|green)-[0-9]{2,3}")
    assert found == []
    assert "disagreed" in seen.reasons["logits/PrefixConstrainedLogitsProcessor"]
