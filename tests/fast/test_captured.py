"""A captured step gives generate's tokens, whatever is inside of it, and says by name what it leaves to other loops.

There is no CUDA graph on a CPU. So the step runs in two ways here: as the function it is, and `recorded`: torch records
the operations of one step, and they are repeated without any of its Python. That is what a graph does: what counts on
the host stands still in it, and what waits for a value cannot be recorded.
"""

import copy
import gc
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import perstep  # noqa: E402
from perstep import automata, fast  # noqa: E402
from perstep.errors import InputError  # noqa: E402
from perstep.fast import Decode, TokenMask, graph_cache, graph_kept, graph_run  # noqa: E402  # noqa: E402
from perstep.measure import FakeClock  # noqa: E402
from perstep.targets.reference.sample import gumbel_noise  # noqa: E402

pytestmark = pytest.mark.hf
EOS, OTHER_EOS = 263, 264
ENDS = {"eos_token_id": [40, 77, 120, 200, 33, 98], "pad_token_id": 5}

_MOE = {"num_local_experts": 4, "num_experts_per_tok": 2}
SMALL: dict[str, dict[str, Any]] = {
    "llama": {},
    "gemma2": {"final_logit_softcapping": 0.5, "sliding_window": 16},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512},
    "mixtral": {**_MOE, "experts_implementation": "batched_mm"},
}
LARGE: dict[str, dict[str, Any]] = {
    **{name: {} for name in ("qwen2", "qwen3", "phi3", "olmo2", "gemma", "gpt_neox", "stablelm", "cohere2", "phi")},
    "bloom": {"n_layer": 2, "n_head": 4},
    "mistral": {"sliding_window": 16},
    "gemma3_text": {"sliding_window": 16},
    "granite": {"logits_scaling": 8.0, "embedding_multiplier": 2.0},
    "cohere": {"logit_scale": 0.0625},
    "gptj": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512, "rotary_dim": 4},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "gpt_oss": {**_MOE, "experts_implementation": "batched_mm"},
    "starcoder2": {"num_key_value_heads": 1},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
}
ARCHITECTURES = SMALL | LARGE
NAMES = [*SMALL, *(pytest.param(name, marks=pytest.mark.nightly) for name in LARGE)]


def _buffers(step: Any) -> list[Any]:
    """Every tensor that a step writes into, once."""
    found = [one for one in vars(step).values() if isinstance(one, torch.Tensor)]
    found += [one for state in step.states() for one in state] + [step.slots.place]
    found += [one for layer in step.slots.cache.layers for one in (layer.keys, layer.values)]
    return list({id(one): one for one in found}.values())


def record(halves: Sequence[Any], rewind: Callable[[], None], _device: Any) -> list[Callable[[], Any]]:
    """As `graph_capture.capture`, with torch's recorder in place of a CUDA graph."""
    from torch.fx.experimental.proxy_tensor import make_fx

    replays = []
    for half in halves:
        buffers = _buffers(half.func.__self__)
        rewind()
        half()

        def run(*_buffers: Any, half: Any = half) -> tuple[()]:
            half()
            return ()

        recorded = make_fx(run, tracing_mode="real")(*buffers)
        replays.append(lambda recorded=recorded, buffers=buffers: recorded(*buffers))
    rewind()
    return replays


@pytest.fixture
def decode() -> Decode:
    """A loop with a step in fixed places, which runs."""
    return Decode(captured=True)


@pytest.fixture
def recorded(monkeypatch: Any) -> Decode:
    """The same; the operations of the step are recorded and repeated."""
    monkeypatch.setattr(graph_run, "capture", record)
    return Decode(captured=True)


@pytest.fixture
def model(tiny_model: Any) -> Any:
    """A model of one's own, of which nothing is kept."""
    return copy.deepcopy(tiny_model())


def _greedy(both: Any, decode: Decode, model: Any, inputs: Any, **options: Any) -> None:
    fast.release(model)
    plain, ours = both(model, inputs, decode, max_new_tokens=40, **options)
    assert torch.equal(plain, ours)
    assert (decode.last.way, decode.last.why) == ("captured", "")


@pytest.mark.parametrize("architecture", NAMES)
def test_greedy_tokens_are_generates(
    both: Any, recorded: Decode, architecture: str, tiny_model: Any, prompts: Any
) -> None:
    """Padded rows that end apart at one of several ids, beyond a sliding window, in a cache of another length."""
    _greedy(both, recorded, tiny_model(architecture, **ARCHITECTURES[architecture]), prompts(3), **ENDS)


@pytest.mark.nightly
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_tokens_are_generates_where_the_step_runs(
    both: Any, decode: Decode, architecture: str, tiny_model: Any, prompts: Any
) -> None:
    """As on a CPU, for 300 tokens too."""
    model = tiny_model(architecture, **ARCHITECTURES[architecture])
    _greedy(both, decode, model, prompts(3), **ENDS)
    _greedy(both, decode, model, prompts(1), eos_token_id=None)
    plain, ours = both(model, prompts(2), decode, max_new_tokens=300, eos_token_id=None)
    assert torch.equal(plain, ours)


class AddNoise(transformers.LogitsProcessor):
    """The full-vocabulary sampler as a processor: greedy choices behind it are draws."""

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Scores with keyed noise, float64."""
        ids = np.arange(scores.shape[1])
        noise = [gumbel_noise(7, row, input_ids.shape[1], ids) for row in range(len(scores))]
        return scores.double() + torch.from_numpy(np.stack(noise))


WARPERS = {
    "temperature": transformers.TemperatureLogitsWarper,
    "top_k": transformers.TopKLogitsWarper,
    "top_p": transformers.TopPLogitsWarper,
    "min_p": transformers.MinPLogitsWarper,
}


@pytest.mark.parametrize("architecture", ["llama", *NAMES[len(SMALL) :]])
@pytest.mark.parametrize("warped", [{"temperature": 1.7, "top_k": 20, "top_p": 0.8}, {"min_p": 0.1}])
def test_draws_are_the_full_vocabulary_samplers(
    recorded: Decode, architecture: str, warped: dict[str, Any], tiny_model: Any, prompts: Any
) -> None:
    """Token for token, with transformers' own processors inside the step."""
    model = tiny_model(architecture, **ARCHITECTURES[architecture])
    fast.release(model)
    order = [WARPERS[name](warped[name]) for name in WARPERS if name in warped]
    plain = model.generate(
        **prompts(3), max_new_tokens=30, do_sample=False, logits_processor=[*order, AddNoise()], **ENDS
    )
    ours = model.generate(
        **prompts(3), max_new_tokens=30, do_sample=True, custom_generate=recorded, seed=7, **ENDS,
        **{"temperature": 1.0, "top_k": 0, "top_p": 1.0, **warped},
    )  # fmt: skip
    assert torch.equal(plain, ours)
    assert recorded.last.way == "captured"


def _inside(vocabulary: Any, table: Any) -> dict[str, Callable[[], list[Any]]]:
    words = vocabulary and automata.compile(automata.from_regex("([a-h]{2,5} )+"), vocabulary)
    fewer = list(range(20, 120))
    return {
        "TokenMask": lambda: [TokenMask([table, words, table])],
        "Utf8": lambda: [fast.Utf8(vocabulary, max_length=9 + 24)],
        "TopP": lambda: [fast.RepetitionPenalty(1.4, [2, 12, 0]), fast.SuppressTokens(fewer), fast.TopP(0.7)],
        "TopK": lambda: [fast.RepetitionPenalty(1.2, 11), fast.TopK(30), fast.MinP(0.1, min_tokens_to_keep=3)],
        "transformers'": lambda: [
            transformers.SuppressTokensLogitsProcessor(fewer),
            transformers.RepetitionPenaltyLogitsProcessor(1.4, torch.tensor([0, 1, 12])),
        ],
    }


@pytest.mark.parametrize("name", _inside(None, None))
def test_drop_ins_are_inside(
    recorded: Decode, name: str, tiny_model: Any, prompts: Any, byte_vocabulary: Any, conjugations: Any
) -> None:
    """Draws of a recorded step are those of the plain loop, and a second call needs no second step."""
    make, model = _inside(byte_vocabulary, conjugations)[name], tiny_model()
    fast.release(model)
    options = {
        "max_new_tokens": 24, "do_sample": True, "top_k": 0, "temperature": 3.0, "seed": 5,
        "eos_token_id": [EOS, OTHER_EOS],
    }  # fmt: skip
    for seed in (0, 1):
        plain, bare, ours = (
            model.generate(
                **prompts(3, seed=seed), **options, custom_generate=loop, logits_processor=processors,
            )
            for loop, processors in ((fast.decode, make()), (fast.decode, []), (recorded, make()))
        )  # fmt: skip
        assert torch.equal(plain, ours)
        assert (recorded.last.way, recorded.last.why) == ("captured", "")
        assert (recorded.last.built_s > 0) == (seed == 0)
        assert not torch.equal(bare, plain)


def _criteria(vocabulary: Any) -> dict[str, Callable[[], Any]]:
    return {
        "WordStop": lambda: fast.WordStop(vocabulary, r"[^\x20-\x60]*[\x20-\x60]"),
        "StopStrings": lambda: fast.StopStrings([b"##", b"\x84\x84\x84", b"\xa7\xcc"], vocabulary),
        "anywhere": lambda: fast.StopStrings([b"##", b"nn", b"2\xa7", b"\xfd\xa1"], vocabulary, anywhere=True),
    }


@pytest.mark.parametrize("name", _criteria(None))
def test_criteria_are_inside_and_go_on_in_the_next_call(
    decode: Decode, name: str, tiny_model: Any, prompts: Any, byte_vocabulary: Any
) -> None:
    """Rows stop where generate stops them; one object serves calls that continue each other's text."""
    fast.release(tiny_model())
    found = []
    for options in ({}, {"custom_generate": decode}):
        criterion, texts, ids = _criteria(byte_vocabulary)[name](), [], prompts(3, padded=False)["input_ids"]
        for new in (5, 15, 30):
            ids = tiny_model().generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False, eos_token_id=None,
                stopping_criteria=[criterion], **options,
            )  # fmt: skip
            texts.append(ids)
            if options:
                assert decode.last.way == "captured"
        found.append(texts)
    assert [one.shape for one in found[0]] == [one.shape for one in found[1]]
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert found[0][-1].shape[1] < 9 + 5 + 15 + 30


def test_the_next_word_begins_behind_the_text_though_a_stop_is_seen_late(
    decode: Decode, tiny_model: Any, prompts: Any, byte_vocabulary: Any
) -> None:
    """The token that was one too many belongs to no word: each call ends after two letters."""
    criterion, ids = fast.WordStop(byte_vocabulary, "[0-9]{2}"), prompts(3, padded=False)["input_ids"][1:2]
    for call in range(3):
        ids = tiny_model().generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=9, do_sample=False, eos_token_id=None,
            stopping_criteria=[criterion], custom_generate=decode,
        )  # fmt: skip
        assert (decode.last.way, decode.last.new_tokens, decode.last.undone) == ("captured", 2, 1)
        assert ids.shape[1] == 9 + 2 * (call + 1)


class Counting(transformers.LogitsProcessor):
    """Has state on the host: forbids the tokens up to the number of its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """The scores, with ever fewer tokens."""
        self.calls += 1
        return scores.index_fill(1, torch.arange(self.calls * 7), -torch.inf)


class Boasting(Counting):
    """The same, and says that it can be captured."""

    capturable = True

    def graph_key(self) -> Any:
        """One for all."""
        return "boasting"

    def graph_begin(self, ids: Any, width: int) -> tuple[()]:
        """No tensors."""
        return ()

    def graph_advance(self, state: Any, tokens: Any, length: Any) -> Any:
        """No tensors."""
        return state

    def graph_end(self, ids: Any, state: Any, undone: int) -> None:
        """Nothing."""

    def graph_scores(self, scores: Any, state: Any, length: Any) -> Any:
        """By the number of its calls."""
        return self(None, scores)


class Waiting(Boasting):
    """The same, and looks at a value in every step."""

    def graph_scores(self, scores: Any, state: Any, length: Any) -> Any:
        """The scores, whatever the value is."""
        return scores if bool(scores.max() < 1e9) else scores * 2

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """The scores."""
        return scores


def test_a_processor_that_waits_inside_is_left_to_the_loop(
    both: Any, recorded: Decode, model: Any, prompts: Any
) -> None:
    """Though it says that it can be captured; the sentence names what happened."""
    plain, ours = both(model, prompts(2), recorded, make=lambda: [Waiting()], max_new_tokens=12)
    assert torch.equal(plain, ours)
    assert recorded.last.way == "host"
    assert "the step could not be captured: RuntimeError" in recorded.last.why


@pytest.mark.parametrize("kind", [Counting, Boasting])
def test_a_processor_that_counts_its_calls(
    both: Any, recorded: Decode, kind: Any, tiny_model: Any, prompts: Any
) -> None:
    """It is called between two graphs, with generate's tokens; inside of one, as its neighbour, it stands still."""
    fast.release(tiny_model())
    plain, ours = both(tiny_model(), prompts(2), recorded, make=lambda: [kind()], max_new_tokens=30, eos_token_id=None)
    assert torch.equal(plain, ours) is (kind is Counting)
    assert recorded.last.way == ("split" if kind is Counting else "captured")
    if kind is Counting:
        assert "Counting does not declare that it can be captured: processors are called" in recorded.last.why


def test_a_subclass_that_changes_the_call_stays_outside(
    both: Any, decode: Decode, tiny_model: Any, prompts: Any
) -> None:
    """What its base captures is not what it does."""

    class Never(fast.SuppressTokens):  # type: ignore[name-defined,misc]
        """Suppresses nothing."""

        def __call__(self, input_ids: Any, scores: Any) -> Any:
            return scores

    plain, ours = both(tiny_model(), prompts(2), decode, make=lambda: [Never([1])], max_new_tokens=9)
    assert torch.equal(plain, ours)
    assert decode.last.way == "split"


def _hooked(model: Any) -> Any:
    model.model.layers[1].mlp.register_forward_hook(lambda *_: None)


def _replaced(model: Any) -> Any:
    forward = model.model.layers[0].mlp.forward
    model.model.layers[0].mlp.forward = lambda x: forward(x)


def _short(model: Any) -> Any:
    model.config.max_position_embeddings = 24


def _shorter(model: Any) -> Any:
    model.config.max_position_embeddings = 8


REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "hook": (_hooked, {}, "model.layers.1.mlp has a forward hook"),
    "replaced": (_replaced, {}, "the forward of model.layers.0.mlp was replaced by _replaced"),
    "static": (None, {"cache_implementation": "static"}, "the cache is a StaticCache"),
    "no cache": (None, {"use_cache": False}, "without a cache"),
    "too long": (_short, {"max_new_tokens": 20}, "29 positions, the model has 24"),
    "prompt too long": (_shorter, {}, "18 positions, the model has 8"),
    "one token": (None, {"max_new_tokens": 1}, "one new token needs no decode step"),
    "hidden": (
        None, {"return_dict_in_generate": True, "output_hidden_states": True}, "hidden_states are asked for",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_captured_is_named(both: Any, decode: Decode, name: str, model: Any, prompts: Any) -> None:
    """And done by the loop, with generate's tokens."""
    change, options, why = REFUSED[name]
    if change is not None:
        change(model)
    plain, ours = both(model, prompts(2), decode, **{"max_new_tokens": 9, "eos_token_id": EOS, **options})
    assert torch.equal(getattr(plain, "sequences", plain), getattr(ours, "sequences", ours))
    assert decode.last.way == "host"
    assert why in decode.last.why


def test_a_cache_with_too_few_slots_for_a_call_is_named(both: Any, tiny_model: Any, prompts: Any) -> None:
    """The call is done by the loop; the same number serves calls that it is enough for, of several lengths."""
    fast.release(tiny_model())
    decode = Decode(captured=True, slots=30)
    few = "the call needs 31 slots, and Decode(slots=30) has fewer"
    for new, way, why in ((21, "captured", ""), (22, "host", few), (9, "captured", "")):
        plain, ours = both(tiny_model(), prompts(2), decode, max_new_tokens=new, eos_token_id=None)
        assert torch.equal(plain, ours)
        assert (decode.last.way, decode.last.why, decode.last.slots) == (way, why, 30 if way == "captured" else 0)
    assert len(graph_kept._shelves[tiny_model()].steps) == 1
    for slots in (0, "many"):
        with pytest.raises(InputError, match=r"slots .*: it is the number of tokens that a captured cache holds"):
            Decode(slots=slots)  # type: ignore[arg-type]


def test_int8_layers_of_torchao_are_inside(both: Any, recorded: Decode, prompts: Any, tiny_model: Any) -> None:
    """Linear layers with int8 weights, which torchao unpacks by tensors alone."""
    torchao = pytest.importorskip("torchao.quantization", reason="torchao is not installed (CONTRIBUTING.md)")
    model = copy.deepcopy(tiny_model("qwen2"))
    before = model.generate(**prompts(2), max_new_tokens=30, do_sample=False, eos_token_id=None)
    torchao.quantize_(model, torchao.Int8WeightOnlyConfig())
    kinds = {type(module.weight).__name__ for module in model.modules() if isinstance(module, torch.nn.Linear)}
    assert "Parameter" not in kinds
    for _ in range(2):
        plain, ours = both(model, prompts(2), recorded, max_new_tokens=30, eos_token_id=None)
        assert torch.equal(plain, ours)
        assert (recorded.last.way, recorded.last.why) == ("captured", "")
    assert recorded.last.built_s == 0
    assert not torch.equal(plain, before)


def test_a_model_that_makes_its_own_cache_is_named(both: Any, decode: Decode, tiny_model: Any, prompts: Any) -> None:
    """State-space models."""
    plain, ours = both(tiny_model("mamba", state_size=8), prompts(2), decode, max_new_tokens=9)
    assert torch.equal(plain, ours)
    assert decode.last.why == "the model makes a cache of its own kind"


@pytest.mark.parametrize(("error", "remembered"), [(RuntimeError, True), (torch.OutOfMemoryError, False)])
def test_a_capture_that_fails_leaves_the_call_to_the_loop(
    both: Any, error: Any, remembered: bool, model: Any, prompts: Any, monkeypatch: Any
) -> None:
    """With the sentence; it is tried again only where memory was missing."""
    tried = []

    def fail(*_: Any) -> Any:
        tried.append(1)
        raise error("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(graph_run, "capture", fail)
    decode = Decode(captured=True)
    for _ in range(2):
        plain, ours = both(model, prompts(2), decode, max_new_tokens=9, make=lambda: [fast.TopK(5)])
        assert torch.equal(plain, ours)
        assert decode.last.way == "host"
        assert ("operation not permitted when stream is capturing" in decode.last.why) is remembered
        assert ("too little memory beside the rest for 64 slots for 2 rows" in decode.last.why) is not remembered
    assert len(tried) == (1 if remembered else 2)


def test_a_step_that_waits_for_a_value_is_left_to_the_loop(
    both: Any, recorded: Decode, model: Any, prompts: Any
) -> None:
    """A forward that looks at a value cannot be recorded, and the call succeeds all the same."""
    kind = type(model.model.layers[0].mlp)

    class Looking(kind):  # type: ignore[misc,valid-type]
        """Looks at a value in every forward."""

        def forward(self, x: Any) -> Any:
            return super().forward(x) * (1 if bool(x.sum() < 1e9) else 2)

    model.model.layers[0].mlp.__class__ = Looking
    plain, ours = both(model, prompts(2), recorded, max_new_tokens=9)
    assert torch.equal(plain, ours)
    assert recorded.last.way == "host"
    assert "the step could not be captured" in recorded.last.why


def test_a_model_with_other_logits_over_fixed_slots_is_not_believed(
    both: Any, decode: Decode, model: Any, prompts: Any, monkeypatch: Any
) -> None:
    """Here the slots drop what is written; the trial sees it before a token is wrong."""
    monkeypatch.setattr(graph_cache.SlotLayer, "update", lambda self, keys, values, *_: (self.keys, self.values))
    plain, ours = both(model, prompts(2), decode, max_new_tokens=9)
    assert torch.equal(plain, ours)
    assert "over fixed slots the model gives other logits" in decode.last.why


@pytest.mark.parametrize(
    ("dtype", "attention"),
    [(torch.bfloat16, "eager"), pytest.param(torch.float16, "sdpa", marks=pytest.mark.nightly)],
)
def test_half_precision(both: Any, recorded: Decode, dtype: Any, attention: str, tiny_model: Any, prompts: Any) -> None:
    """Greedy and drawn tokens are those of the plain loop."""
    model = copy.deepcopy(tiny_model(attn_implementation=attention)).to(dtype)
    plain, ours = both(model, prompts(3), recorded, max_new_tokens=30, **ENDS)
    assert torch.equal(plain, ours)
    drawn = [
        model.generate(**prompts(3), max_new_tokens=30, do_sample=True, seed=3, custom_generate=loop)
        for loop in (Decode(captured=False), recorded)
    ]
    assert torch.equal(*drawn)
    assert recorded.last.way == "captured"


def test_prompts_as_embeddings(both: Any, decode: Decode, tiny_model: Any, prompts: Any, conjugations: Any) -> None:
    """The text then begins without ids, and the cache is longer than it."""
    inputs = prompts(3)
    inputs["inputs_embeds"] = tiny_model().get_input_embeddings()(inputs.pop("input_ids")).detach()
    plain, ours = both(tiny_model(), inputs, decode, make=lambda: [TokenMask(conjugations)], max_new_tokens=40)
    assert torch.equal(plain, ours)
    assert decode.last.way == "captured"


@pytest.mark.parametrize("architecture", ["llama", "mistral"])
def test_text_goes_on_from_a_cache(decode: Decode, architecture: str, tiny_model: Any, prompts: Any) -> None:
    """A cache that the caller keeps is left as generate leaves it, with a window or without, after a late stop too."""
    model = tiny_model(architecture, sliding_window=16)
    found = []
    for options in ({}, {"custom_generate": decode}):
        cache, ids = transformers.DynamicCache(config=model.config), prompts(2, padded=False)["input_ids"]
        for ends in (None, list(range(100, 200)), None):
            ids = model.generate(
                ids, attention_mask=torch.ones_like(ids), past_key_values=cache, max_new_tokens=7, do_sample=False,
                eos_token_id=ends, **options,
            )  # fmt: skip
        found.append((ids, cache))
    assert decode.last.way == "captured"
    assert torch.equal(found[0][0], found[1][0])
    for theirs, mine in zip(*(one[1].layers for one in found), strict=True):
        assert theirs.get_seq_length() == mine.get_seq_length()
        torch.testing.assert_close(mine.keys, theirs.keys, atol=1e-4, rtol=1e-4)


def test_scores_and_logits_are_recorded(both: Any, recorded: Decode, tiny_model: Any, prompts: Any) -> None:
    """As many as generate gives, equal up to rounding; the step is in two halves."""
    plain, ours = both(
        tiny_model(), prompts(2), recorded, make=lambda: [fast.TopK(9)], max_new_tokens=15,
        return_dict_in_generate=True, output_scores=True, output_logits=True, **ENDS,
    )  # fmt: skip
    assert torch.equal(plain.sequences, ours.sequences)
    assert recorded.last.way == "split"
    for name in ("scores", "logits"):
        assert len(getattr(plain, name)) == len(getattr(ours, name))
        for theirs, mine in zip(getattr(plain, name), getattr(ours, name), strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-3, rtol=1e-3)


class Kept(transformers.generation.BaseStreamer):
    """A streamer that remembers."""

    def __init__(self) -> None:
        self.columns: list[Any] = []

    def put(self, value: Any) -> None:
        """Take a prompt or a column."""
        self.columns.append(value)

    def end(self) -> None:
        """Take the end."""
        self.columns.append("end")


def test_a_streamer_sees_every_token_once(recorded: Decode, tiny_model: Any, prompts: Any) -> None:
    """The prompt, each token in a tensor that stays as it is, the end."""
    streams = []
    for options in ({}, {"custom_generate": recorded}):
        streams.append(Kept())
        tiny_model().generate(**prompts(1), max_new_tokens=30, do_sample=False, streamer=streams[-1], **options)
    theirs, ours = ([one if one == "end" else one.tolist() for one in stream.columns] for stream in streams)
    assert theirs == ours
    assert recorded.last.way == "captured"


class StopAt(transformers.StoppingCriteria):
    """Stops a row at a length of its own, and remembers what it saw."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """Which rows stop."""
        self.seen.append(input_ids)
        return torch.tensor([30, 21, 45]) <= input_ids.shape[1]


@pytest.mark.parametrize("eos", [None, EOS])
def test_a_criterion_of_the_users_is_asked_outside(
    recorded: Decode, eos: int | None, tiny_model: Any, prompts: Any
) -> None:
    """After every token, with the text as it is then; rows that it stops are padded where there is an end id."""
    found = []
    for options in ({}, {"custom_generate": recorded}):
        criterion = StopAt()
        ids = tiny_model().generate(
            **prompts(3), max_new_tokens=60, do_sample=False, eos_token_id=eos, stopping_criteria=[criterion], **options
        )
        found.append((ids, criterion.seen))
    assert torch.equal(found[0][0], found[1][0])
    # A stop is seen a step late, so it may be asked once more.
    assert all(torch.equal(one, other) for one, other in zip(found[0][1], found[1][1], strict=False))
    assert len(found[0][1]) in (len(found[1][1]), len(found[1][1]) - 1)
    assert recorded.last.way == "captured"


def test_steps_are_kept_by_shape_within_limits(both: Any, decode: Decode, model: Any, prompts: Any) -> None:
    """The second call of a shape builds nothing; other batches, lengths and processors have steps of their own."""
    built = []
    calls = [(1, 20, []), (1, 30, []), (2, 20, []), (1, 20, [fast.TopK(5)]), (1, 20, [fast.TopK(5)]), (1, 99, [])]
    for batch, new, processors in calls:
        both(model, prompts(batch), decode, max_new_tokens=new, make=lambda processors=processors: list(processors))
        assert decode.last.way == "captured"
        built.append((decode.last.built_s > 0, decode.last.slots))
    assert built == [(True, 64), (False, 64), (True, 64), (True, 64), (False, 64), (True, 128)]
    for batch in (3, 4, 5, 6, 7):
        both(model, prompts(batch), decode, max_new_tokens=20)
    assert len(graph_kept._shelves[model].steps) == graph_kept.MOST_STEPS
    assert fast.release(model) == decode.last.kept_bytes > 0
    assert fast.release(model) == 0


def test_what_is_larger_than_the_limit_is_not_kept(
    both: Any, decode: Decode, model: Any, prompts: Any, monkeypatch: Any
) -> None:
    """It serves its call."""
    monkeypatch.setattr(graph_kept, "MOST_BYTES_ON_HOST", 1000)
    plain, ours = both(model, prompts(2), decode, max_new_tokens=9)
    assert torch.equal(plain, ours)
    assert (decode.last.way, decode.last.kept_bytes) == ("captured", 0)


def _halved(model: Any) -> Any:
    model.to(torch.bfloat16)


def _another(model: Any) -> Any:
    weight = model.model.layers[0].mlp.down_proj.weight
    model.model.layers[0].mlp.down_proj.weight = torch.nn.Parameter(-weight.detach().clone())


def _in_place(model: Any) -> Any:
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.neg_()


def _setting(model: Any) -> Any:
    model.model.layers[0].self_attn.scaling *= 3


@pytest.mark.parametrize(
    ("change", "again"),
    [(_halved, 1), pytest.param(_another, 1, marks=pytest.mark.nightly), (_in_place, 0), (_setting, 1)],
)
def test_a_model_that_changed_gets_another_step(
    both: Any, recorded: Decode, change: Any, again: int, model: Any, prompts: Any
) -> None:
    """Cast, with other weights, or with another setting; what changes in place is read where it is."""
    first, ours = both(model, prompts(2), recorded, max_new_tokens=12, eos_token_id=None)
    assert torch.equal(first, ours)
    change(model)
    plain, ours = both(model, prompts(2), recorded, max_new_tokens=12, eos_token_id=None)
    assert torch.equal(plain, ours)
    assert not torch.equal(first, plain)
    assert (recorded.last.built_s > 0) is bool(again)
    assert recorded.last.rebuilt.startswith("the model has changed since a step was kept") is bool(again)
    both(model, prompts(2), recorded, max_new_tokens=12, eos_token_id=None)
    assert (recorded.last.built_s, recorded.last.rebuilt) == (0, "")


def test_a_model_that_is_gone_takes_its_steps_with_it(both: Any, decode: Decode, tiny_model: Any, prompts: Any) -> None:
    """Nothing that is kept holds the model."""
    model = copy.deepcopy(tiny_model())
    both(model, prompts(1), decode, max_new_tokens=9)
    assert decode.last.kept_bytes > 0
    gone, before = weakref.ref(model), len(graph_kept._shelves)
    del model
    gc.collect()
    assert gone() is None
    assert len(graph_kept._shelves) == before - 1


def test_a_call_inside_a_call_has_the_loop(decode: Decode, model: Any, prompts: Any) -> None:
    """The step is in use, so the inner call is done otherwise; both have generate's tokens."""
    inner, whys = [], []

    class Nested(transformers.LogitsProcessor):
        """Generates inside a step, once."""

        def __call__(self, input_ids: Any, scores: Any) -> Any:
            if not inner:
                inner.append(None)
                inner[0] = model.generate(
                    **prompts(1), max_new_tokens=9, do_sample=False, custom_generate=within, logits_processor=[Nested()]
                )
                whys.append(within.last.why)
            return scores

    within = Decode(captured=True)
    options = {"max_new_tokens": 9, "do_sample": False}
    plain = model.generate(**prompts(1), **options)
    model.generate(**prompts(1), **options, custom_generate=decode, logits_processor=[Counting()])  # makes the step
    ours = model.generate(**prompts(1), **options, custom_generate=decode, logits_processor=[Nested()])
    assert torch.equal(plain, ours)
    assert torch.equal(plain, inner[0])
    assert whys == ["another call is using the graph of this model just now"]


def test_steps_made_in_inference_mode_serve_outside_of_it(both: Any, decode: Decode, model: Any, prompts: Any) -> None:
    """And the other way round."""
    for mode in (True, False, True):
        with torch.inference_mode(mode):
            plain, ours = both(model, prompts(2), decode, max_new_tokens=9)
        assert torch.equal(plain, ours)
        assert decode.last.way == "captured"


def test_it_is_asked_for_on_a_cpu(both: Any, tiny_model: Any, prompts: Any) -> None:
    """Without being asked, nothing changes there and nothing needs a reason."""
    both(tiny_model(), prompts(1), max_new_tokens=9)
    assert (fast.decode.last.way, fast.decode.last.why) == ("host", "")
    with pytest.raises(InputError, match="give on_host or captured, not both"):
        Decode(on_host=True, captured=True)
    with pytest.raises(InputError, match="release takes the model whose graphs are to be freed, not str"):
        fast.release("model")


@pytest.mark.parametrize("detail", ["phases", "modules"])
def test_an_instrument_does_not_change_the_way(
    decode: Decode, detail: Any, model: Any, prompts: Any, monkeypatch: Any
) -> None:
    """The step is built and counted without it; were the way another one, the ledger would be invalid."""
    options = {**prompts(2), "max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "custom_generate": decode}
    plain = model.generate(**options)
    fast.release(model)
    with perstep.watch(model, detail, syncs=False, clock=FakeClock(tick_ns=1)) as watched:
        for _ in range(3):
            assert torch.equal(model.generate(**options), plain)
            assert (decode.last.way, decode.last.why, decode.last.other_way) == ("captured", "", "")
    assert [(sample.steps, sample.forwards) for sample in watched.samples] == [(12, 12)] * 3
    assert watched.ledger().invalid == ""
    monkeypatch.setattr(graph_run, "_python_inside", lambda model: "forward" in vars(model) and "there are marks")
    with perstep.watch(model, detail, syncs=False, clock=FakeClock(tick_ns=1)) as watched:
        assert torch.equal(model.generate(**options), plain)
    assert (decode.last.way, decode.last.why) == ("host", "there are marks")
    assert "unobserved, fast.decode does this call in another way (captured)" in watched.ledger().invalid


def test_a_replayed_graph_is_a_forward_of_its_step(
    recorded: Decode, model: Any, prompts: Any, monkeypatch: Any
) -> None:
    """No wrapper sees it, and there are as many steps and forwards as in the plain call."""
    made = graph_kept.Kept
    monkeypatch.setattr(graph_run, "Kept", lambda step, replays, captured: made(step, replays, True))
    options = {**prompts(2), "max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    plain = model.generate(**options)
    with perstep.watch(model, syncs=False, clock=FakeClock(tick_ns=1)) as watched:
        for _ in range(2):
            assert torch.equal(model.generate(**options, custom_generate=recorded), plain)
    assert [(sample.steps, sample.forwards) for sample in watched.samples] == [(12, 12)] * 2
    assert watched.ledger().parts["forward"].ns > 0
    assert any("decode steps were replayed CUDA graphs" in note for note in watched.samples[0].notes)
