"""Watched calls among others: nested, in threads, broken by exceptions, and recorded only now and then."""

import threading
from contextlib import nullcontext
from typing import Any

import pytest

from perstep.errors import InputError
from perstep.measure import FakeClock, Recorder
from perstep.targets.transformers import Instrument

pytestmark = pytest.mark.hf
torch = pytest.importorskip("torch")


def test_a_processor_that_generates_is_one_part_and_its_steps_are_none(llama, build_tiny, ids, processor, watch):
    """With the watched model itself or with another one."""
    other = build_tiny("gpt2")
    for model in (llama, other):
        inner = processor(lambda model=model: model.generate(ids, max_new_tokens=3, do_sample=False), name="Nests")
        _, recorder, instrument = watch(llama, ids, max_new_tokens=4, do_sample=False, logits_processor=[inner])
        assert recorder.steps("decode").marks["logits/Nests"] == 3
        assert len(recorder.steps().step_ns) == 3
        assert len(instrument.calls) == 1


def test_instruments_of_two_models_nest(llama, build_tiny, ids, processor):
    """Each records its own model's calls, and the inner call is one part of the outer."""
    other = build_tiny("gpt2")
    inner = processor(lambda: other.generate(ids, max_new_tokens=3, do_sample=False), name="Nests")
    mine, theirs = Recorder(FakeClock()), Recorder(FakeClock())
    with Instrument(llama, mine), Instrument(other, theirs):
        llama.generate(ids, max_new_tokens=4, do_sample=False, logits_processor=[inner])
    assert len(mine.steps("decode").step_ns) == 3
    assert len(theirs.steps("decode").step_ns) == 4 * 2
    assert "logits/Nests" not in theirs.steps("decode").parts


def test_two_instruments_of_one_model_both_record(llama, ids, processor):
    """They may even be left in the wrong order: what is over is over, and nothing stays behind."""
    clock = FakeClock()
    planted = [processor(lambda: clock.advance(1_000)), processor(lambda: clock.advance(20), name="Small")]
    options = {"max_new_tokens": 4, "do_sample": False, "logits_processor": planted}
    first, second = Recorder(clock), Recorder(clock)
    outer, inner = Instrument(llama, first), Instrument(llama, second, "modules")
    outer.__enter__()
    inner.__enter__()
    llama.generate(ids, **options)
    outer.__exit__(None, None, None)  # not in the order in which they were entered
    llama.generate(ids, **options)
    inner.__exit__(None, None, None)
    for recorder, steps in ((first, 3), (second, 6)):
        found = recorder.steps("decode")
        assert found.parts["logits/Spins"].tolist() == [1_000] * steps
        assert found.parts["logits/Small"].tolist() == [20] * steps
        assert found.step_ns.tolist() == [1_020] * steps
    assert "generate" not in vars(llama)
    assert "forward" not in vars(llama)


def test_an_exception_in_a_processor_drops_the_step_and_the_next_call_is_recorded(llama, ids, processor):
    """The open step is counted as dropped, the steps before it stay."""

    class PlantedError(Exception):
        """Planted."""

    count = iter(range(100))

    def work() -> None:
        if next(count) == 2:
            raise PlantedError

    recorder = Recorder(FakeClock())
    with Instrument(llama, recorder) as instrument:
        with pytest.raises(PlantedError):
            llama.generate(ids, max_new_tokens=6, do_sample=False, logits_processor=[processor(work)])
        assert (recorder.dropped, len(recorder.steps("decode").step_ns)) == (1, 1)
        llama.generate(ids, max_new_tokens=6, do_sample=False)
    assert len(recorder.steps("decode").step_ns) == 1 + 5
    assert len(instrument.calls) == 1


def test_an_exception_before_the_first_step_is_nothing(llama, ids):
    """Arguments that transformers refuses leave no step."""
    recorder = Recorder(FakeClock())
    with Instrument(llama, recorder), pytest.raises(ValueError, match="nonsense"):
        llama.generate(ids, max_new_tokens=3, nonsense=True)
    assert recorder.kinds == []


def test_an_exception_that_the_processor_catches_itself_is_nobodys_business(llama, ids, processor, watch):
    """A failing call inside a processor does not end the outer one."""

    def work() -> None:
        with pytest.raises(ValueError, match="nonsense"):
            llama.generate(ids, nonsense=True)

    _, recorder, _ = watch(llama, ids, max_new_tokens=4, do_sample=False, logits_processor=[processor(work)])
    assert len(recorder.steps("decode").step_ns) == 3
    assert recorder.dropped == 0


def test_a_call_in_another_thread_is_recorded_as_well(llama, ids):
    """The usual way to stream: generate runs in a thread, the caller reads."""
    from transformers import TextIteratorStreamer

    class Tokens:
        """Just enough of a tokenizer for a streamer."""

        def decode(self, token_ids: Any, **kwargs: Any) -> str:
            return " ".join(str(int(token_id)) for token_id in token_ids) + " "

    recorder = Recorder(FakeClock())
    streamer = TextIteratorStreamer(Tokens(), skip_prompt=True)
    with Instrument(llama, recorder):
        thread = threading.Thread(
            target=llama.generate, args=(ids[:1],), kwargs={"max_new_tokens": 4, "streamer": streamer}
        )
        thread.start()
        text = "".join(streamer)
        thread.join()
    assert len(text.split()) == 4
    assert len(recorder.steps("decode").step_ns) == 3
    assert recorder.steps("decode").marks["stream/TextIteratorStreamer"] == 3


def test_a_second_thread_meanwhile_is_left_alone_and_said(llama, ids, processor):
    """Its tokens are right, none of its steps is recorded, and a note says that there was one."""
    tokens = []

    def other_thread() -> None:
        tokens.append(llama.generate(ids, max_new_tokens=7, do_sample=False).tolist())

    def work() -> None:
        thread = threading.Thread(target=other_thread)
        thread.start()
        thread.join()

    expected = llama.generate(ids, max_new_tokens=7, do_sample=False).tolist()
    recorder = Recorder(FakeClock())
    with Instrument(llama, recorder, "modules") as instrument:
        llama.generate(ids, max_new_tokens=3, do_sample=False, logits_processor=[processor(work)])
        assert tokens == [expected] * 3
        assert len(recorder.steps("decode").step_ns) == 2
        assert len(instrument.calls) == 1
        assert instrument.notes == [
            "a generate call in another thread was not recorded, because one was being recorded"
        ]


def test_leaving_while_a_call_goes_on_in_another_thread_cuts_that_call_short(llama, ids, processor):
    """Its open step is dropped rather than recorded with what came after; its tokens are right."""
    inside, leave = threading.Event(), threading.Event()

    def work() -> None:
        inside.set()
        leave.wait(60)

    tokens: list[Any] = []
    expected = llama.generate(ids, max_new_tokens=5, do_sample=False).tolist()
    planted = {"logits_processor": [processor(work)]}
    recorder = Recorder(FakeClock())
    with Instrument(llama, recorder, "modules") as instrument:
        thread = threading.Thread(
            target=lambda: tokens.append(llama.generate(ids, max_new_tokens=5, do_sample=False, **planted).tolist())
        )
        thread.start()
        inside.wait(60)
    leave.set()
    thread.join()
    assert tokens == [expected]
    assert recorder.kinds == []
    assert recorder.dropped == 1
    assert "incomplete" in instrument.notes[0]
    assert not {"generate", "forward", "prepare_inputs_for_generation"} & set(vars(llama))


def test_wrong_arguments_give_the_error_that_generate_gives(llama, ids):
    """Nothing of ours is in the way of it."""
    messages = []
    for recorded in (False, True):
        with Instrument(llama, Recorder(FakeClock())) if recorded else nullcontext():
            with pytest.raises(TypeError) as caught:
                llama.generate(ids, *[None] * 20)
            messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_marked_and_plain_steps_alternate_and_plain_ones_are_not_looked_into(llama, ids, processor):
    """Half of all steps have parts, the other half only a duration; both find the planted time."""
    clock = FakeClock()
    spins = processor(lambda: clock.advance(1_000))
    recorder = Recorder(clock)
    with Instrument(llama, recorder, "modules", alternate=True):
        for _ in range(3):  # the blocks of prefills begin with the second call
            llama.generate(ids, max_new_tokens=9, do_sample=False, logits_processor=[spins])
    assert sorted(recorder.kinds) == ["decode", "decode.plain", "prefill", "prefill.plain"]
    assert recorder.steps("decode").step_ns.tolist() == [1_000] * 12
    assert recorder.steps("decode.plain").step_ns.tolist() == [1_000] * 12
    assert recorder.steps("decode.plain").parts == {}
    assert recorder.steps("decode.plain").residual_ns.tolist() == [1_000] * 12


def test_guidance_inside_a_plain_step_is_no_step_either(llama, ids):
    """What is inside a processor is not looked at, whether marks are taken or not."""
    recorder = Recorder(FakeClock())
    with Instrument(llama, recorder, alternate=True) as instrument:
        llama.generate(ids, max_new_tokens=9, do_sample=False, guidance_scale=1.5, negative_prompt_ids=ids)
    assert instrument.calls[0].steps == instrument.calls[0].forwards == 9
    assert [len(recorder.steps(kind).step_ns) for kind in ("decode", "decode.plain")] == [4, 4]


def test_of_a_long_call_one_step_in_so_many_is_recorded(llama, ids):
    """The others run without being recorded, and are still counted."""
    recorder = Recorder(FakeClock())
    with Instrument(llama, recorder, every=4) as instrument:
        llama.generate(ids, max_new_tokens=13, do_sample=False)
    assert len(recorder.steps("decode").step_ns) == 3
    assert instrument.calls[0].steps == 13


def test_an_instrument_may_be_entered_again_but_not_twice_at_once(llama, ids):
    """It goes on where it was; a second time at once is bad input and harms nothing."""
    recorder = Recorder(FakeClock())
    instrument = Instrument(llama, recorder)
    for _ in range(2):
        with instrument:
            llama.generate(ids, max_new_tokens=3, do_sample=False)
    assert len(recorder.steps("decode").step_ns) == 4
    with instrument, pytest.raises(InputError, match="active already"):
        instrument.__enter__()
    assert "generate" not in vars(llama)


def test_outside_of_generate_the_model_is_not_recorded(llama, ids):
    """A forward called by hand is no step of a generate call."""
    recorder = Recorder(FakeClock())
    with Instrument(llama, recorder, "layers"), torch.no_grad():
        llama(ids)
    assert recorder.kinds == []


def test_the_model_is_found_in_a_pipeline(llama):
    """What a pipeline does around generate is not recorded; the generate call is."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast, TextGenerationPipeline

    words = Tokenizer(WordLevel({str(word): word for word in range(96)}, unk_token="0"))  # noqa: S106
    words.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="0")  # noqa: S106
    pipe = TextGenerationPipeline(model=llama, tokenizer=tokenizer, device="cpu")
    options = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
    expected = pipe("5 6 7", **options)
    recorder = Recorder(FakeClock())
    with Instrument(pipe, recorder) as instrument:
        assert pipe("5 6 7", **options) == expected
    assert instrument.model is llama
    assert len(recorder.steps("decode").step_ns) == 3


def test_a_call_without_a_forward_of_its_own_is_said_to_have_no_steps(llama, ids):
    """As when a loop of the user's own calls something inside the model."""
    recorder = Recorder(FakeClock())
    with Instrument(llama, recorder) as instrument:
        llama.generate(ids, max_new_tokens=2, custom_generate=lambda model, input_ids, **kwargs: input_ids)
    assert recorder.kinds == []
    assert instrument.notes == ["no forward of a generate call was observed: it has no steps"]


def test_what_is_no_generating_model_is_refused_in_one_line(llama):
    """It says what would be right."""
    for wrong in (object(), llama.model, torch.nn.Linear(2, 2)):
        with pytest.raises(InputError, match=r"is not a transformers model that generates: give one"):
            Instrument(wrong, Recorder())
    with pytest.raises(InputError, match="unknown detail 'lines': choose from phases, modules, layers"):
        Instrument(llama, Recorder(), "lines")
    with pytest.raises(InputError, match="every is 0"):
        Instrument(llama, Recorder(), every=0)
