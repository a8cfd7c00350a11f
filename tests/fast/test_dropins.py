"""The drop-ins in transformers' generate: the same tokens as with what they replace, however they are called."""

import codecs
import inspect
from typing import Any

import pytest

from perstep import fast
from perstep.automata import Vocabulary

pytestmark = pytest.mark.hf
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

VOCAB = Vocabulary([*(bytes([byte]) for byte in range(256)), "é".encode(), b"ab", b"\xe2\x82", None], eos_ids=[259])
PADDED = 272  # columns of the head: wider than the vocabulary


class Utf8ByDecoding(transformers.LogitsProcessor):  # type: ignore[misc]
    """The reference: decodes every row with every token, at every step."""

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """-inf where no continuation decodes."""
        masked = torch.full_like(scores, -torch.inf)
        for row, tokens in enumerate(input_ids.tolist()):
            after = max((at + 1 for at, token in enumerate(tokens) if token >= 259), default=0)
            decoder = codecs.getincrementaldecoder("utf-8")("replace")
            decoder.decode(VOCAB.spell(tokens[after:]))
            unfinished = decoder.getstate()[0]
            for token in range(259):
                if _begins_text(unfinished + VOCAB.tokens[token]):
                    masked[row, token] = scores[row, token]
            if not unfinished:
                masked[row, 259] = scores[row, 259]
        return masked


def _begins_text(data: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data)
    except UnicodeDecodeError:
        return False
    return True


class StopsByDecoding(transformers.StoppingCriteria):  # type: ignore[misc]
    """The reference: decodes everything at every step."""

    def __init__(self, stop: bytes) -> None:
        self.stop = stop

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """Whether the text ends with the stop string inside the last token."""
        found = []
        for tokens in input_ids.tolist():
            text = b"".join(VOCAB.tokens[token] if token < 259 else b"\x00\x00" for token in tokens)
            last = len(VOCAB.tokens[tokens[-1]]) if tokens[-1] < 259 else 0
            found.append(any(text[: len(text) - cut].endswith(self.stop) for cut in range(last)))
        return torch.tensor(found)


@pytest.fixture(scope="module")
def model() -> Any:
    """A tiny Llama whose head is wider than the vocabulary, with logits far from flat."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=PADDED, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        pad_token_id=260, eos_token_id=259, initializer_range=0.3,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


def prompts(rows: int, *, padded: bool = False) -> dict[str, Any]:
    """Token ids [rows, 6], some prompts ending inside a character; padded on the left where asked for."""
    generator = torch.Generator().manual_seed(rows)
    ids = torch.randint(0x61, 0x7A, (rows, 6), generator=generator)
    ids[::3, -1], ids[1::5, -1] = 0xE2, 258  # inside a character
    mask = torch.ones_like(ids)
    if padded:
        ids[::2, :2], mask[::2, :2] = 259, 0
    return {"input_ids": ids, "attention_mask": mask}


CALLS: list[dict[str, Any]] = [
    {"do_sample": False},
    {"do_sample": True, "temperature": 0.8, "top_k": 40},
    {"do_sample": False, "num_beams": 3},
]


def generate(model: Any, inputs: Any, call: dict[str, Any], **parts: Any) -> Any:
    """One seeded call."""
    torch.manual_seed(7)
    return model.generate(**inputs, **{"max_new_tokens": 60, **call, **parts})


@pytest.mark.parametrize("call", CALLS, ids=["greedy", "sampled", "beams"])
def test_utf8_and_stop_strings_give_the_tokens_of_their_references(model: Any, call: dict[str, Any]) -> None:
    """Twice with the same objects, batch 1 and 5, padded and not; the generated text decodes."""
    mask, stop = fast.Utf8(VOCAB), fast.StopStrings(["ab", "é"], VOCAB)
    for inputs in (prompts(1), prompts(5, padded=True)):
        parts = {"logits_processor": [Utf8ByDecoding()]}
        parts["stopping_criteria"] = [StopsByDecoding(b"ab"), StopsByDecoding("é".encode())]
        expected = generate(model, inputs, call, **parts)
        for _ in range(2):
            found = generate(model, inputs, call, logits_processor=[mask], stopping_criteria=[stop])
            assert torch.equal(found, expected)
        assert not torch.equal(found, generate(model, inputs, call, stopping_criteria=[stop]))  # the mask was needed


def test_a_long_batch_of_32_is_the_same_as_with_the_reference_mask(model: Any) -> None:
    """Greedy, 32 rows, padded: allowed sets at every step of every row, against the reference."""
    inputs = prompts(32, padded=True)
    found = generate(model, inputs, {"do_sample": False, "max_new_tokens": 40}, logits_processor=[fast.Utf8(VOCAB)])
    mask, reference = fast.Utf8(VOCAB), Utf8ByDecoding()
    scores = torch.zeros(32, PADDED)
    for length in range(6, found.shape[1], 5):
        assert torch.equal(mask(found[:, :length], scores), reference(found[:, :length], scores))


@pytest.mark.parametrize("rows", [1, 32])
def test_samplers_give_the_tokens_of_transformers(model: Any, rows: int) -> None:
    """Seed for seed, where transformers builds its own from the call's settings."""
    inputs = prompts(rows, padded=rows > 1)
    own = {"temperature": 0.7, "top_k": 30, "top_p": 0.8, "repetition_penalty": 1.2, "suppress_tokens": [1, 2, 3]}
    expected = generate(model, inputs, {"do_sample": True, **own})
    ours = [
        fast.RepetitionPenalty(1.2, (inputs["attention_mask"] == 0).sum(1).tolist()),
        fast.SuppressTokens([1, 2, 3]), transformers.TemperatureLogitsWarper(0.7),
        fast.TopK(30), fast.TopP(0.8),
    ]  # fmt: skip
    plain = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    for _ in range(2):
        assert torch.equal(generate(model, inputs, plain, logits_processor=ours), expected)
    sparse = generate(model, inputs, {**plain, "min_p": 0.1})
    assert torch.equal(generate(model, inputs, plain, logits_processor=[fast.MinP(0.1)]), sparse)


class Remembers(transformers.LogitsProcessor):  # type: ignore[misc]
    """A processor of somebody's own that keeps the very scores it is given."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """The scores."""
        self.seen.append(scores)
        return scores


@pytest.mark.parametrize("loop", [{}, {"custom_generate": fast.decode}], ids=["generate", "decode"])
def test_nobody_elses_scores_are_written_over(model: Any, loop: dict[str, Any]) -> None:
    """Neither the raw logits that generate hands out nor what an earlier processor kept."""
    records = {"return_dict_in_generate": True, "output_logits": True, "max_new_tokens": 12}
    ours = [fast.SuppressTokens(range(0x61, 0x70)), fast.Utf8(VOCAB), fast.RepetitionPenalty(1.3), fast.TopK(9)]
    found = generate(model, prompts(5), {"do_sample": False, **records}, logits_processor=ours, **loop)
    ids = found.sequences
    for number, logits in enumerate(found.logits):
        with torch.no_grad():
            expected = model(ids[:, : 6 + number]).logits[:, -1]
        going = (ids[:, 6 : 6 + number] != 259).all(1)
        torch.testing.assert_close(logits[going], expected[going], atol=1e-3, rtol=1e-3)
    keeper = Remembers()
    generate(model, prompts(5), {"do_sample": False}, logits_processor=[keeper, *ours], **loop)
    assert all(torch.isfinite(scores).all() for scores in keeper.seen)


def test_transformers_finds_two_parameters() -> None:
    """It asks at every step, and hands more to a processor that names more."""
    for part in (fast.Utf8(VOCAB), fast.TopP(0.5), fast.SuppressTokens([1]), fast.RepetitionPenalty(1.1)):
        assert list(inspect.signature(part.__call__).parameters) == ["input_ids", "scores"]
        whole = inspect.signature(type(part).__call__)
        assert list(whole.parameters) == ["self", "input_ids", "scores"]
        assert list(whole.replace(parameters=[]).parameters) == []


def test_words_stop_where_the_text_says_with_embeddings_as_prompt(model: Any) -> None:
    """`inputs_embeds`: the first ids are none at all; twice with one object, and every row at its own word."""
    inputs = {"inputs_embeds": torch.randn(3, 4, 32, generator=torch.Generator().manual_seed(3))}
    word, mask = fast.WordStop(VOCAB), fast.Utf8(VOCAB, max_length=60)
    texts = []
    for _ in range(2):
        torch.manual_seed(0)
        found = model.generate(
            **inputs, do_sample=True, max_new_tokens=60, logits_processor=[mask], stopping_criteria=[word]
        )
        texts.append([VOCAB.spell(token for token in row if token < 259).decode() for row in found.tolist()])
    assert texts[0] == texts[1]
    assert len({len(text) for text in texts[0]}) > 1


def test_dynamo_traces_them_without_a_break(model: Any) -> None:
    """With the eager backend, the whole graph or an error; the results are those of the host's way."""
    ids = torch.randint(0, 260, (4, 9), generator=torch.Generator().manual_seed(0))
    scores = torch.randn(4, PADDED, generator=torch.Generator().manual_seed(1))
    parts = [
        fast.Utf8(VOCAB), fast.Utf8(VOCAB, max_length=11), fast.TopP(0.7), fast.TopK(9), fast.MinP(0.1),
        fast.SuppressTokens([3, 9]), fast.RepetitionPenalty(1.2),
    ]  # fmt: skip
    for part in parts:
        traced = torch.compile(part.__call__, backend="eager", fullgraph=True)
        assert torch.equal(traced(ids, scores), part(ids, scores)), part
    stop = fast.StopStrings(["ab", "x"], VOCAB)
    traced = torch.compile(lambda ids: stop(ids), backend="eager", fullgraph=True)
    assert torch.equal(traced(ids), stop(ids))
    word, other = fast.WordStop(VOCAB), fast.WordStop(VOCAB)
    traced = torch.compile(lambda ids: word(ids), backend="eager", fullgraph=True)
    for length in range(3, 9):
        assert torch.equal(traced(ids[:, :length]), other(ids[:, :length]))
