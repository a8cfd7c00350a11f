"""A watched generate call: which steps and parts it becomes, in each way of generating.

The clock is a fake one that stands still unless a test moves it, so that every answer is known
to the nanosecond.
"""

import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest

from perstep.measure import FakeClock, Recorder
from perstep.targets.transformers import BOUNDARIES, Instrument, part_names

pytestmark = pytest.mark.hf
torch = pytest.importorskip("torch")

LOOP = ["inputs", "forward", "bookkeeping", "sample", "stop/MaxLengthCriteria", "sync"]


class CollectingStreamer:
    """A streamer that keeps what it is given."""

    def __init__(self, work: Callable[[], Any] = lambda: None) -> None:
        self.got: list[Any] = []
        self.ended = False
        self._work = work

    def put(self, value: Any) -> None:
        """Keep what is given."""
        self._work()
        self.got.append(value.tolist())

    def end(self) -> None:
        """Remember the end."""
        self.ended = True


def parts(recorder: Recorder, kind: str = "decode") -> list[str]:
    """The parts of a kind, in the order of their first occurrence."""
    return list(recorder.steps(kind).parts)


def keep(extra, input_ids, scores):
    """The scores as they were."""
    return scores


class LogitsProcessor:
    """As some libraries call theirs."""

    def __call__(self, input_ids, scores):
        """The scores as they were."""
        return scores


def test_parts_are_named_after_functions_and_modules(llama, ids, watch):
    """A partial function after the one inside; what has no name of its own, or a base class's, after its module too."""
    mine = [partial(keep, 1), partial(partial(keep, 2)), lambda ids, scores: scores, LogitsProcessor(), keep_all]
    _, recorder, _ = watch(llama, ids, max_new_tokens=3, do_sample=False, logits_processor=mine)
    module = __name__.split(".")[0]
    found = [name for name in parts(recorder) if name.startswith("logits/")]
    names = ["keep", "keep#2", f"{module}.<lambda>", f"{module}.LogitsProcessor", "keep_all"]
    assert found == [f"logits/{name}" for name in names]


def keep_all(input_ids, scores):
    """The scores as they were."""
    return scores


def test_a_script_gives_its_own_name_and_not_main(monkeypatch):
    """It is `__main__` while it runs."""
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "/some/where/my_script.py", raising=False)
    monkeypatch.setattr(LogitsProcessor, "__module__", "__main__")
    assert part_names("logits", [LogitsProcessor()]) == ["logits/my_script.LogitsProcessor"]


def test_a_greedy_call_is_one_prefill_and_a_decode_step_for_each_further_token(llama, ids, watch):
    """N new tokens are one prefill and N-1 decode forwards (law "divide by executed forwards")."""
    _, recorder, instrument = watch(llama, ids, max_new_tokens=6, do_sample=False)
    assert recorder.kinds == ["prefill", "decode"]
    assert [len(recorder.steps(kind).step_ns) for kind in recorder.kinds] == [1, 5]
    assert parts(recorder) == LOOP
    setup = ["setup", "setup.cache", "setup.processors", "setup.criteria"]
    assert parts(recorder, "prefill") == [*setup, *LOOP]
    [call] = instrument.calls
    assert (call.steps, call.forwards, call.rows, call.prompt_tokens, call.new_tokens) == (6, 6, 2, 5, 6)


def test_about_ten_marks_a_step(llama, ids, watch):
    """Eight without processors: inputs, forward, sample, one criterion, sync and three of bookkeeping."""
    _, recorder, _ = watch(llama, ids, max_new_tokens=6, do_sample=False)
    assert sum(recorder.steps().marks.values()) == 8 * 5


def test_every_part_has_its_boundary_declared(llama, ids, watch):
    """What lies in a part is said for every name that can occur (law "boundaries are declared")."""
    _, recorder, _ = watch(llama, ids, max_new_tokens=3, do_sample=True, streamer=None)
    for kind in recorder.kinds:
        assert {name.split("/")[0] for name in parts(recorder, kind)} <= set(BOUNDARIES)


def test_built_in_processors_and_criteria_are_timed_one_by_one(llama, ids, watch):
    """They are the parts a user did not write, in the order in which transformers calls them."""
    _, recorder, _ = watch(
        llama, ids, max_new_tokens=4, do_sample=True, top_k=20, top_p=0.9, temperature=0.7, eos_token_id=2,
        repetition_penalty=1.1, max_time=600.0,
    )  # fmt: skip
    assert [name for name in parts(recorder) if name.startswith(("logits/", "stop/"))] == [
        "logits/RepetitionPenaltyLogitsProcessor",
        "logits/TemperatureLogitsWarper",
        "logits/TopKLogitsWarper",
        "logits/TopPLogitsWarper",
        "stop/MaxLengthCriteria",
        "stop/MaxTimeCriteria",
        "stop/EosTokenCriteria",
    ]


def test_a_planted_millisecond_is_found_to_the_nanosecond(llama, ids, processor, criterion, watch):
    """Whatever else is in the lists: parts get the time spent in them and no other."""
    clock = FakeClock()
    planted = [
        processor(lambda: clock.advance(1_000_000)),
        processor(lambda: clock.advance(7), name="Small"),
    ]
    dawdling = criterion(lambda: clock.advance(500_000))
    _, recorder, _ = watch(
        llama, ids, clock=clock, max_new_tokens=9, do_sample=True, top_k=5,
        logits_processor=planted, stopping_criteria=[dawdling],
    )  # fmt: skip
    steps = recorder.steps()
    assert steps.parts["logits/Spins"].tolist() == [1_000_000] * 8
    assert steps.parts["logits/Small"].tolist() == [7] * 8
    assert steps.parts["stop/Dawdles"].tolist() == [500_000] * 8
    assert steps.step_ns.tolist() == [1_500_007] * 8
    assert sum(column.sum() for column in steps.parts.values()) == 8 * 1_500_007
    assert not steps.residual_ns.any()


def test_many_short_calls_find_the_same_as_one_long_one(llama, ids, processor):
    """Ten calls of two tokens: ten prefills and ten decode steps of a millisecond each."""
    clock = FakeClock()
    spins = processor(lambda: clock.advance(1_000_000))
    recorder = Recorder(clock)
    with Instrument(llama, recorder) as instrument:
        for _ in range(10):
            llama.generate(ids, max_new_tokens=2, do_sample=False, logits_processor=[spins])
    assert recorder.steps("prefill").parts["logits/Spins"].tolist() == [1_000_000] * 10
    assert recorder.steps("decode").parts["logits/Spins"].tolist() == [1_000_000] * 10
    assert [call.new_tokens for call in instrument.calls] == [2] * 10


def test_parts_and_residual_add_up_to_the_step_exactly(llama, ids, watch):
    """In integers, even when every reading moves the clock (law "parts add up")."""
    clock = FakeClock(tick_ns=13)
    _, recorder, _ = watch(llama, ids, clock=clock, max_new_tokens=6, do_sample=True, eos_token_id=2)
    for kind in recorder.kinds:
        steps = recorder.steps(kind)
        total = sum(steps.parts.values()) + steps.residual_ns
        assert total.tolist() == steps.step_ns.tolist()
        assert (steps.residual_ns >= 0).all()


def test_two_processors_of_one_class_and_functions_have_names_of_their_own(llama, ids, processor, watch):
    """The second of a class is `X#2`; a plain function goes by its own name."""

    def my_rule(input_ids: Any, scores: Any) -> Any:
        return scores

    twice = [processor(lambda: None), processor(lambda: None), my_rule]
    _, recorder, _ = watch(llama, ids, max_new_tokens=3, do_sample=False, logits_processor=twice)
    found = [name for name in parts(recorder) if name.startswith("logits/")]
    assert found == ["logits/Spins", "logits/Spins#2", "logits/my_rule"]


def test_a_user_processor_that_replaces_a_built_in_one_is_the_one_that_is_timed(llama, ids, watch):
    """Transformers merges before we look: a processor of a built-in's type takes its place."""
    from transformers import RepetitionPenaltyLogitsProcessor

    mine = RepetitionPenaltyLogitsProcessor(1.5)
    _, recorder, _ = watch(
        llama, ids, max_new_tokens=3, do_sample=False, repetition_penalty=1.1, logits_processor=[mine]
    )
    assert [name for name in parts(recorder) if name.startswith("logits/")] == [
        "logits/RepetitionPenaltyLogitsProcessor"
    ]


def test_a_streamer_gets_the_same_and_is_a_part(llama, ids):
    """Its `put` is the user's code: it is told from the sync in which it is called."""
    clock = FakeClock()
    streamer = CollectingStreamer(lambda: clock.advance(300))
    recorder = Recorder(clock)
    with Instrument(llama, recorder):
        llama.generate(ids[:1], max_new_tokens=4, do_sample=False, streamer=streamer)
    plain = CollectingStreamer()
    llama.generate(ids[:1], max_new_tokens=4, do_sample=False, streamer=plain)
    assert streamer.got == plain.got
    assert streamer.ended
    assert "put" not in vars(streamer)
    assert recorder.steps("decode").parts["stream/CollectingStreamer"].tolist() == [300] * 3
    assert recorder.steps("prefill").parts["stream/CollectingStreamer"].tolist() == [600]  # the prompt, and a token


def test_a_padded_batch(llama, ids, watch):
    """The mask is kept and the loop is the same."""
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    _, recorder, _ = watch(llama, ids, attention_mask=mask, max_new_tokens=5, do_sample=False)
    assert parts(recorder) == LOOP


def test_a_static_cache(llama, ids, watch):
    """Eager, as on a CPU."""
    _, recorder, _ = watch(llama, ids, max_new_tokens=5, do_sample=False, cache_implementation="static")
    assert parts(recorder) == LOOP


def test_a_cache_of_the_users_own_goes_on_from_one_call_to_the_next(llama, ids):
    """The wrappers on the cache are gone whenever the user holds it."""
    from transformers import DynamicCache

    def two_calls() -> list[Any]:
        cache = DynamicCache(config=llama.config)
        first = llama.generate(ids, max_new_tokens=3, do_sample=False, past_key_values=cache)
        second = llama.generate(first, max_new_tokens=3, do_sample=False, past_key_values=cache)
        assert not {"update", "reorder_cache"} & set(vars(cache))
        return second.tolist()

    expected = two_calls()
    recorder = Recorder(FakeClock())
    with Instrument(llama, recorder, "modules"):
        assert two_calls() == expected
    assert len(recorder.steps("prefill").step_ns) == 2


def test_embeddings_as_inputs(llama, ids, watch):
    """The first ids are then (rows, 0): nothing may index the last one."""
    embeds = llama.get_input_embeddings()(ids).detach()
    _, recorder, instrument = watch(llama, inputs_embeds=embeds, max_new_tokens=4, do_sample=False)
    assert parts(recorder) == LOOP
    [call] = instrument.calls
    assert (call.prompt_tokens, call.new_tokens, call.forwards) == (0, 4, 4)


def test_a_chunked_prefill_is_one_step(llama, ids, watch):
    """Its three forwards are parts of one prefill, and all of them are counted."""
    _, recorder, instrument = watch(llama, ids, max_new_tokens=4, do_sample=False, prefill_chunk_size=2)
    assert [len(recorder.steps(kind).step_ns) for kind in ("prefill", "decode")] == [1, 3]
    assert recorder.steps("prefill").marks["forward"] == 3
    assert instrument.calls[0].forwards == 6


def test_beams(llama, ids, watch):
    """The cache is reordered between steps, and the wait lies in the question whether beams can improve."""
    _, recorder, instrument = watch(llama, ids, max_new_tokens=5, num_beams=3, do_sample=False)
    assert [len(recorder.steps(kind).step_ns) for kind in ("prefill", "decode")] == [1, 4]
    assert parts(recorder) == [*LOOP[:3], "sample", "stop/MaxLengthCriteria", "kv.reorder", "sync"]
    assert instrument.calls[0].forwards == 5


def test_assisted_decoding_names_the_draft(llama, build_tiny, ids, watch):
    """A step verifies what the assistant drafted; the assistant's own forwards are not counted."""
    assistant = build_tiny("llama", num_hidden_layers=1)
    _, recorder, instrument = watch(llama, ids[:1], max_new_tokens=8, do_sample=False, assistant_model=assistant)
    assert set(parts(recorder)) == {*LOOP, "draft"}
    [call] = instrument.calls
    assert call.forwards == call.steps == 1 + len(recorder.steps("decode").step_ns)
    assert call.new_tokens == 8


def test_a_draft_by_the_same_model_is_part_of_the_draft(llama, ids, watch):
    """Early exit drafts with the watched model itself: its forwards must not look like steps."""
    _, recorder, instrument = watch(llama, ids[:1], max_new_tokens=6, do_sample=False, assistant_early_exit=1)
    assert instrument.calls[0].forwards == instrument.calls[0].steps
    assert recorder.steps("decode").marks["draft"] == len(recorder.steps("decode").step_ns)


def test_assisted_decoding_by_prompt_look_up(llama, processor, watch):
    """No model drafts, and processors are called once for each position that is verified."""
    repeated = torch.tensor([[3, 4, 5, 3, 4, 5, 3, 4]])
    spins = processor(lambda: None)
    _, recorder, _ = watch(
        llama, repeated, max_new_tokens=6, do_sample=False, prompt_lookup_num_tokens=2, logits_processor=[spins]
    )
    assert {"draft", "logits/Spins", "sample"} <= set(parts(recorder, "prefill"))


def test_guidance_calls_the_model_inside_a_processor(llama, ids, watch):
    """The forward that classifier-free guidance makes belongs to its processor and is no step."""
    _, recorder, instrument = watch(
        llama, ids, max_new_tokens=4, do_sample=False, guidance_scale=1.5, negative_prompt_ids=ids
    )
    assert instrument.calls[0].forwards == 4
    assert recorder.steps().marks["forward"] == 3
    assert "logits/UnbatchedClassifierFreeGuidanceLogitsProcessor" in parts(recorder)


def test_a_loop_of_the_users_own(llama, ids, watch):
    """`custom_generate` gives no sign when a step ends: it ends where the next forward is prepared."""

    def my_loop(model: Any, input_ids: Any, logits_processor: Any, stopping_criteria: Any, **kwargs: Any) -> Any:
        kwargs.pop("generation_config")
        for _ in range(4):
            inputs = model.prepare_inputs_for_generation(input_ids, use_cache=False)
            logits = model(**inputs).logits[:, -1]
            chosen = logits_processor(input_ids, logits).argmax(-1, keepdim=True)
            input_ids = torch.cat([input_ids, chosen], dim=-1)
            if stopping_criteria(input_ids, None).all():
                break
        return input_ids

    _, recorder, instrument = watch(llama, ids, max_new_tokens=4, do_sample=False, custom_generate=my_loop)
    assert [len(recorder.steps(kind).step_ns) for kind in ("prefill", "decode")] == [1, 3]
    assert parts(recorder) == ["inputs", "forward", "bookkeeping", "sample", "stop/MaxLengthCriteria"]
    assert instrument.calls[0].new_tokens == 4


def test_an_encoder_decoder_names_its_encoder(tiny, ids, watch):
    """It runs once, before the first inputs are prepared."""
    for family in ("t5", "bart"):
        _, recorder, instrument = watch(tiny(family), ids, max_new_tokens=4, do_sample=False)
        seen = [part for part in parts(recorder, "prefill") if not part.startswith("setup.")]
        assert seen[:3] == ["setup", "encoder", "inputs"]
        assert "encoder" not in parts(recorder)
        assert instrument.calls[0].forwards == 4


def test_a_vision_language_model_names_its_vision(tiny, watch):
    """The vision tower runs in the prefill alone."""
    image = torch.full((1, 4), 90)
    input_ids = torch.cat([torch.tensor([[5, 6]]), image, torch.tensor([[7]])], dim=1)
    pixels = torch.linspace(-1, 1, 3 * 8 * 8).reshape(1, 3, 8, 8)
    _, recorder, _ = watch(tiny("llava"), input_ids=input_ids, pixel_values=pixels, max_new_tokens=4, do_sample=False)
    assert "vision" in parts(recorder, "prefill")
    assert "vision" not in parts(recorder)


def test_outputs_as_a_dictionary_and_several_sequences(llama, ids, watch):
    """The shape of the answer does not matter to what is recorded."""
    output, _, instrument = watch(
        llama, ids, max_new_tokens=4, do_sample=True, num_return_sequences=2, return_dict_in_generate=True,
        output_scores=True,
    )  # fmt: skip
    assert len(output.scores) == 4
    assert instrument.calls[0].rows == 4


def test_a_call_that_stops_early_has_so_many_steps(llama, ids, watch):
    """Results are keyed by what was generated, not by what was asked for."""
    first = llama.generate(ids[:1], max_new_tokens=1, do_sample=False)[0, -1].item()
    _, recorder, instrument = watch(llama, ids[:1], max_new_tokens=50, do_sample=False, eos_token_id=first)
    assert instrument.calls[0].new_tokens == 1
    assert recorder.kinds == ["prefill"]


def test_the_lists_stay_what_they_are_to_everybody_else(llama, ids):
    """Their class, their elements and what transformers asks of them, as seen by a loop of the user's own."""
    from transformers import LogitsProcessorList, MaxLengthCriteria, StoppingCriteriaList

    seen = []

    def look(model: Any, input_ids: Any, logits_processor: Any, stopping_criteria: Any, **kwargs: Any) -> Any:
        assert isinstance(logits_processor, LogitsProcessorList)
        assert isinstance(stopping_criteria, StoppingCriteriaList)
        assert stopping_criteria.max_length == 8
        assert [type(criterion) for criterion in stopping_criteria] == [MaxLengthCriteria]
        seen.append((type(logits_processor).__name__, [type(element).__name__ for element in logits_processor]))
        return input_ids

    for recorded in (False, True):
        with Instrument(llama, Recorder(FakeClock())) if recorded else nullcontext():
            llama.generate(ids, max_new_tokens=3, do_sample=True, top_k=5, custom_generate=look)
    assert seen[0] == seen[1] == ("LogitsProcessorList", ["TopKLogitsWarper"])


def test_a_processor_that_needs_more_arguments_gets_the_same_error(llama, ids):
    """The list reflects the signature of the processor itself: nothing stands between them."""
    from transformers import LogitsProcessor

    class NeedsMore(LogitsProcessor):
        """Called with three arguments, where generate gives two."""

        def __call__(self, input_ids: Any, scores: Any, more: Any) -> Any:
            """Do nothing."""
            return scores

    messages = []
    for recorded in (False, True):
        with Instrument(llama, Recorder(FakeClock())) if recorded else nullcontext():
            with pytest.raises(ValueError, match="required parameters") as caught:
                llama.generate(ids, max_new_tokens=3, logits_processor=[NeedsMore()])
            messages.append(str(caught.value))
    assert messages[0] == messages[1]
