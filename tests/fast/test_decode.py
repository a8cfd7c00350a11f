"""`fast.decode` gives what `generate` gives: tokens, outputs, padding, stops; and says what it does not do."""

import copy
import functools
import json
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import perstep  # noqa: E402
from perstep import automata, fast  # noqa: E402
from perstep.errors import InputError  # noqa: E402
from perstep.fast import Decode, TokenMask  # noqa: E402
from perstep.measure import FakeClock  # noqa: E402

pytestmark = pytest.mark.hf
EOS, OTHER_EOS = 263, 264

_MOE = {"num_local_experts": 4, "num_experts_per_tok": 2}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    **{name: {} for name in ("llama", "qwen2", "phi3", "olmo2", "gemma", "gpt_neox", "stablelm", "cohere2")},
    "mistral": {"sliding_window": 16},
    "gemma2": {"final_logit_softcapping": 0.5, "sliding_window": 16},
    "gemma3_text": {"sliding_window": 16},
    "granite": {"logits_scaling": 8.0, "embedding_multiplier": 2.0},
    "cohere": {"logit_scale": 0.0625},
    "phi": {},
    "gptj": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512, "rotary_dim": 4},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "bloom": {"n_layer": 2, "n_head": 4},
    "mamba": {"state_size": 8},
    "mixtral": _MOE,
    "gpt_oss": _MOE,
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_tokens_are_generates(
    both: Any, architecture: str, tiny_model: Any, prompts: Any, conjugations: Any, text_of: Any
) -> None:
    """With a mask and without, padded, whatever the architecture does to its logits behind the head."""
    model = tiny_model(architecture, **ARCHITECTURES[architecture])
    plain, ours = both(model, prompts(3), make=lambda: [TokenMask(conjugations)])
    last = fast.decode.last
    assert torch.equal(plain, ours)
    assert last.way == "masked"
    assert last.restricted_heads > 0
    assert last.forwards == last.new_tokens - last.forced_tokens
    plain, ours = both(model, prompts(2), max_new_tokens=16)
    assert torch.equal(plain, ours)


def test_the_model_is_shown_what_generate_shows_it(both: Any, tiny_model: Any, prompts: Any) -> None:
    """Ids, positions and attention mask of every forward, though most of them are not prepared by transformers."""
    model, seen = copy.deepcopy(tiny_model()), []
    forward = model.forward

    @functools.wraps(forward)
    def watched(*args: Any, **kwargs: Any) -> Any:
        seen.append({name: kwargs.get(name) for name in ("input_ids", "position_ids", "attention_mask")})
        return forward(*args, **kwargs)

    model.forward = watched
    both(model, prompts(3), max_new_tokens=200, eos_token_id=None)
    half = len(seen) // 2
    for theirs, ours in zip(seen[:half], seen[half:], strict=True):
        assert all(torch.equal(theirs[name], ours[name]) for name in theirs)


def test_a_ledger_sees_the_same_steps(tiny_model: Any, prompts: Any) -> None:
    """Watched, it makes as many decode forwards as generate."""
    model, forwards = copy.deepcopy(tiny_model()), []
    for options in ({}, {"custom_generate": fast.decode}):
        with perstep.watch(model, clock=FakeClock(tick_ns=1)) as watched:
            for _ in range(2):
                model.generate(**prompts(1), max_new_tokens=20, do_sample=False, eos_token_id=None, **options)
        forwards.append(watched.ledger().forwards)
    assert forwards[0] == forwards[1] == 2 * 19


@pytest.mark.parametrize("batch", [1, 32])
@pytest.mark.parametrize("masked", [False, True])
def test_long_generations(
    both: Any, batch: int, masked: bool, tiny_model: Any, prompts: Any, byte_vocabulary: Any
) -> None:
    """Hundreds of tokens, in a grammar that stays open to everything and in none."""
    table = automata.compile(automata.from_regex(r"([a-z]{3,9}(=[0-9]{2}){1,3}; )*"), byte_vocabulary)
    make = (lambda: [TokenMask(table)]) if masked else list
    plain, ours = both(tiny_model(), prompts(batch), make=make, max_new_tokens=250, eos_token_id=OTHER_EOS)
    assert torch.equal(plain, ours)
    assert ours.shape[1] > 200


def test_runs_of_forced_tokens_are_one_forward(both: Any, tiny_model: Any, prompts: Any, byte_vocabulary: Any) -> None:
    """A text with nothing to choose takes the prefill alone, and no more, until it ends."""
    table = automata.compile(automata.json_schema({"const": "xyzxyz"}), byte_vocabulary)
    plain, ours = both(tiny_model(), prompts(1), make=lambda: [TokenMask(table)], eos_token_id=[EOS, OTHER_EOS])
    assert torch.equal(plain, ours)
    assert (fast.decode.last.forwards, fast.decode.last.new_tokens) == (2, 9)


@pytest.mark.parametrize("limit", [1, 2, 5, 17, 70])
def test_the_cache_is_left_as_generate_leaves_it(
    both: Any, limit: int, tiny_model: Any, prompts: Any, conjugations: Any
) -> None:
    """As long, and with the same keys up to rounding, where the text stops inside a run of forced tokens too."""
    plain, ours = both(
        tiny_model(), prompts(2), make=lambda: [TokenMask(conjugations)], max_new_tokens=limit,
        return_dict_in_generate=True,
    )  # fmt: skip
    assert torch.equal(plain.sequences, ours.sequences)
    for theirs, mine in zip(plain.past_key_values.layers, ours.past_key_values.layers, strict=True):
        torch.testing.assert_close(mine.keys, theirs.keys, atol=1e-4, rtol=1e-4)


def test_text_goes_on_from_a_cache(tiny_model: Any, prompts: Any) -> None:
    """A cache that the caller keeps serves the next call."""
    found = []
    for options in ({}, {"custom_generate": fast.decode}):
        cache, ids = transformers.DynamicCache(), prompts(1, padded=False)["input_ids"]
        for _ in range(3):
            ids = tiny_model().generate(ids, past_key_values=cache, max_new_tokens=7, do_sample=False, **options)
        found.append((ids, cache.get_seq_length()))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1] == 29


@pytest.mark.parametrize(
    "options",
    [
        {"eos_token_id": [40, 77, 120, 200, 33, 98], "pad_token_id": 5},
        {"eos_token_id": None},
        {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
        {"min_new_tokens": 12, "eos_token_id": list(range(20, 90))},
        {"use_cache": False, "max_new_tokens": 10},
        {"cache_implementation": "static", "max_new_tokens": 10},
        {"prefill_chunk_size": 4},
        {"bad_words_ids": [[40], [41, 42]], "suppress_tokens": [7, 8, 9]},
        {"prefix_allowed_tokens_fn": lambda row, ids: [row + 20, row + 21, int(ids[-1]) // 2]},
        {"max_new_tokens": 1},
        {"max_time": 0.0},
    ],
    ids=lambda options: "-".join(options),
)
@pytest.mark.parametrize("decode", [fast.decode, Decode(on_host=False)], ids=["host", "deferred"])
def test_what_generate_offers_is_honoured(
    both: Any, options: dict[str, Any], decode: Any, tiny_model: Any, prompts: Any
) -> None:
    """Several ends, padding, penalties, caches, limits, prefix functions."""
    plain, ours = both(tiny_model(), prompts(4), decode, **{"max_new_tokens": 30, **options})
    assert torch.equal(plain, ours)


@pytest.mark.parametrize("decode", [fast.decode, Decode(on_host=False)], ids=["host", "deferred"])
@pytest.mark.parametrize("masked", [False, True])
def test_prompts_as_embeddings(
    both: Any, masked: bool, decode: Any, tiny_model: Any, prompts: Any, conjugations: Any
) -> None:
    """`inputs_embeds` with its mask; the text then begins without ids."""
    inputs = prompts(3)
    inputs["inputs_embeds"] = tiny_model().get_input_embeddings()(inputs.pop("input_ids")).detach()
    make = (lambda: [TokenMask(conjugations)]) if masked else list
    plain, ours = both(tiny_model(), inputs, decode, make=make, max_new_tokens=40)
    assert torch.equal(plain, ours)


@pytest.mark.parametrize("decode", [fast.decode, Decode(on_host=False)], ids=["host", "deferred"])
def test_every_record_is_kept(both: Any, decode: Any, tiny_model: Any, prompts: Any, conjugations: Any) -> None:
    """Scores, logits, attentions and hidden states, with a mask that is then an ordinary processor."""
    model = tiny_model(attn_implementation="eager")
    plain, ours = both(
        model, prompts(2), decode, make=lambda: [TokenMask(conjugations)], max_new_tokens=60, eos_token_id=EOS,
        return_dict_in_generate=True, output_scores=True, output_logits=True, output_attentions=True,
        output_hidden_states=True,
    )  # fmt: skip
    assert torch.equal(plain.sequences, ours.sequences)
    for name in ("scores", "logits"):
        theirs, mine = getattr(plain, name), getattr(ours, name)
        assert len(theirs) == len(mine)
        assert all(torch.equal(a, b) for a, b in zip(theirs, mine, strict=True))
    for name in ("attentions", "hidden_states"):
        assert [len(step) for step in getattr(plain, name)] == [len(step) for step in getattr(ours, name)]


class Kept(transformers.generation.BaseStreamer):
    """A streamer that remembers."""

    def __init__(self) -> None:
        self.columns: list[list[int]] = []
        self.ended = 0

    def put(self, value: Any) -> None:
        """Take a prompt or a column."""
        self.columns.append(value.tolist())

    def end(self) -> None:
        """Take the end."""
        self.ended += 1


@pytest.mark.parametrize("decode", [fast.decode, Decode(on_host=False)], ids=["host", "deferred"])
@pytest.mark.parametrize("masked", [False, True])
def test_a_streamer_sees_every_token_once(
    masked: bool, decode: Any, tiny_model: Any, prompts: Any, conjugations: Any
) -> None:
    """Though transformers does not hand it to a callable: the prompt, each token, the end."""
    make = (lambda: [TokenMask(conjugations)]) if masked else list
    streams = []
    for options in ({}, {"custom_generate": decode}):
        streams.append(Kept())
        tiny_model().generate(
            **prompts(1), max_new_tokens=70, do_sample=False, streamer=streams[-1], logits_processor=make(), **options
        )
    assert streams[0].columns == streams[1].columns
    assert streams[1].ended == 1


class StopAt(transformers.StoppingCriteria):
    """Stops a row at a length of its own, and counts its calls."""

    def __init__(self, lengths: list[int]) -> None:
        self.lengths = torch.tensor(lengths)
        self.seen: list[int] = []

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """Which rows stop."""
        self.seen.append(input_ids.shape[1])
        return self.lengths <= input_ids.shape[1]


@pytest.mark.parametrize("eos", [None, EOS])
@pytest.mark.parametrize("masked", [False, True])
def test_a_criterion_is_asked_after_every_token(
    masked: bool, eos: int | None, tiny_model: Any, prompts: Any, conjugations: Any
) -> None:
    """Those inside a chunk too; rows that it stops are padded where there is an end id, and go on where not."""
    make = (lambda: [TokenMask(conjugations)]) if masked else list
    found = []
    for options in ({}, {"custom_generate": fast.decode}):
        criterion = StopAt([30, 21, 45])
        ids = tiny_model().generate(
            **prompts(3), max_new_tokens=60, do_sample=False, eos_token_id=eos, stopping_criteria=[criterion],
            logits_processor=make(), **options,
        )  # fmt: skip
        found.append((ids, criterion.seen))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1] == list(range(10, 46))


def test_the_late_stop_is_undone_and_declared(both: Any, tiny_model: Any, prompts: Any) -> None:
    """One forward more, no token more, and a cache as long as generate's; none at the limit."""
    decode = Decode(on_host=False)
    options = {"eos_token_id": list(range(200)), "return_dict_in_generate": True}
    plain, ours = both(tiny_model(), prompts(3), decode, **options)
    assert torch.equal(plain.sequences, ours.sequences)
    assert plain.past_key_values.get_seq_length() == ours.past_key_values.get_seq_length()
    assert (decode.last.undone, decode.last.way) == (1, "deferred")
    assert decode.last.forwards == decode.last.new_tokens + 1
    both(tiny_model(), prompts(3), decode, max_new_tokens=8, eos_token_id=None)
    assert (decode.last.undone, decode.last.forwards) == (0, 8)


def test_where_a_late_stop_cannot_be_undone_it_is_not_late(both: Any, tiny_model: Any, prompts: Any) -> None:
    """A sliding cache that the caller gets back."""
    decode = Decode(on_host=False)
    model = tiny_model("mistral", sliding_window=16)
    plain, ours = both(model, prompts(2), decode, eos_token_id=list(range(200)), return_dict_in_generate=True)
    assert torch.equal(plain.sequences, ours.sequences)
    assert decode.last.way == "host"


def test_per_row_tables_and_lazy_ones(both: Any, tiny_model: Any, prompts: Any, byte_vocabulary: Any) -> None:
    """A schema for each row of the batch; what the rows wait for does not leak from one to the other."""
    schemas = [{"enum": ["one", "two"]}, {"type": "integer"}, {"type": "string", "maxLength": 40}]
    for lazy in (False, True):
        tables = [automata.compile(automata.json_schema(schema), byte_vocabulary, lazy=lazy) for schema in schemas]
        plain, ours = both(tiny_model(), prompts(3), make=lambda tables=tables: [TokenMask(tables)])
        assert torch.equal(plain, ours)


def test_a_mask_behind_another_processor_is_applied_in_its_place(
    both: Any, tiny_model: Any, prompts: Any, conjugations: Any
) -> None:
    """What comes before a mask may need all logits, so nothing is left out."""
    plain, ours = both(tiny_model(), prompts(2), make=lambda: [TokenMask(conjugations)], repetition_penalty=1.5)
    assert torch.equal(plain, ours)
    assert fast.decode.last.way == "host"


def test_generate_twice_with_one_mask(tiny_model: Any, prompts: Any, conjugations: Any, text_of: Any) -> None:
    """One mask and one loop serve any number of calls."""
    mask = TokenMask(conjugations)
    for seed in range(3):
        inputs = prompts(2, seed=seed)
        fresh = tiny_model().generate(
            **inputs, max_new_tokens=200, do_sample=False, logits_processor=[TokenMask(conjugations)]
        )
        ours = tiny_model().generate(
            **inputs, max_new_tokens=200, do_sample=False, logits_processor=[mask], custom_generate=fast.decode
        )
        assert torch.equal(ours, fresh)
        assert all(json.loads(text_of(row[9:]))["verb"] for row in ours)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 2}, "not beam_search"),
        ({"prompt_lookup_num_tokens": 2}, "not assisted_generation"),
        ({"synced_gpus": True}, "synced_gpus"),
        ({"seed": -1, "do_sample": True}, "seed must be"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_it_does_not_do_is_refused_by_name(
    options: dict[str, Any], message: str, tiny_model: Any, prompts: Any
) -> None:
    """Not done quietly in another way."""
    with pytest.raises(InputError, match=message):
        tiny_model().generate(
            **prompts(1), **{"do_sample": False, **options}, max_new_tokens=5, custom_generate=fast.decode
        )


def test_an_assistant_is_refused(tiny_model: Any, prompts: Any) -> None:
    """It is dropped by transformers, without a word, when a callable decodes."""
    with pytest.raises(InputError, match="not assisted_generation"):
        tiny_model().generate(
            **prompts(1), assistant_model=tiny_model("qwen2"), do_sample=False, max_new_tokens=5,
            custom_generate=fast.decode,
        )  # fmt: skip


def test_a_vocabulary_wider_than_the_model_is_refused(tiny_model: Any, prompts: Any, conjugations: Any) -> None:
    """Before the first forward."""
    with pytest.raises(InputError, match="265 tokens, but the model gives 200 logits"):
        tiny_model(vocab_size=200, eos_token_id=1, pad_token_id=0).generate(
            input_ids=torch.ones(1, 3, dtype=torch.long), attention_mask=torch.ones(1, 3, dtype=torch.long),
            max_new_tokens=5, do_sample=False, logits_processor=[TokenMask(conjugations)], custom_generate=fast.decode,
        )  # fmt: skip
