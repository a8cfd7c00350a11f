"""Ctrl-C at every line of ours while a model is wrapped: everything is as before, and a second use works.

The signal is raised where a line of perstep begins, in the frame that it belongs to, as if it had come there.
"""

import copy
import pickle
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, MethodType
from typing import Any, Self

import pytest
from tests.models import small_llama

import perstep
from perstep.fast import Decode
from perstep.fixing import Captures
from perstep.measure import FakeClock, Recorder
from perstep.targets import BlockMask, interrupts
from perstep.targets.transformers import Instrument, Replay, is_recorded, record
from perstep.targets.transformers._wrap import _LAYERS, Wraps
from perstep.watching.inside import LinesOf

pytestmark = [pytest.mark.hf, pytest.mark.usefixtures("nothing_compiled")]
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

PACKAGE = str(Path(perstep.__file__).parent)
OURS = ("/targets/transformers/", "/targets/loops/", "/targets/block_mask.py", "/watching/", "/fast/graph_",
        "/experiments/call_recorder.py", "/measure/recorder.py", "/fixing/capture.py")  # fmt: skip
EVERY = 13
"""Of the lines, in a run that is not nightly: 1,600 of them take 3 minutes."""
OPTIONS = {"max_new_tokens": 7, "do_sample": False}


class At:
    """Raises SIGINT at one of the lines that are run, counted from 0, or only lists them."""

    def __init__(self, number: int | None = None) -> None:
        self.lines: list[tuple[str, int]] = []
        self._number = number

    def __enter__(self) -> Self:
        sys.settrace(self._call)
        return self

    def __exit__(self, *_error: object) -> None:
        sys.settrace(None)

    def _call(self, frame: FrameType, _event: str, _argument: Any) -> Any:
        file = frame.f_code.co_filename
        return self._line if file.startswith(tuple(PACKAGE + part for part in OURS)) else None

    def _line(self, frame: FrameType, event: str, _argument: Any) -> Any:
        if event == "line":
            self.lines.append((frame.f_code.co_filename, frame.f_lineno))
            if len(self.lines) - 1 == self._number:
                signal.raise_signal(signal.SIGINT)
        return self._line


@pytest.fixture(autouse=True)
def taken_by_python() -> Iterator[None]:
    """A shell starts what runs in the background with SIGINT ignored, and Python leaves that so."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def model() -> Any:
    """A tiny model of two layers, wrapped and left by all of these tests."""
    return small_llama(vocab_size=32, hidden_size=16, intermediate_size=16, num_attention_heads=2)


def state(model: Any) -> dict[str, Any]:
    """What wrapping could have touched, and what an interrupt could have left behind."""
    from transformers.models.llama import modeling_llama

    kinds = [type(model), transformers.GenerationMixin, transformers.DynamicCache, modeling_llama]
    found: dict[str, Any] = {str(kind): {key: id(value) for key, value in vars(kind).items()} for kind in kinds}
    found |= {name: (type(one), dict(vars(one))) for name, one in model.named_modules()}
    found["config"] = dict(vars(model.config))
    dispatch = torch.utils._python_dispatch._get_current_dispatch_mode
    found["torch"] = torch.nn.Module.__call__, torch.compile
    found["modes"] = torch.overrides._get_current_function_mode(), dispatch()
    interrupted = {"kept": interrupts._STATE.kept, "recorded": is_recorded()}
    return found | interrupted | {"layers": dict(_LAYERS), "handler": signal.getsignal(signal.SIGINT)}


def watching(model: Any, ids: Any) -> Any:
    """A watch, of which the second call is recorded."""
    watch = perstep.watch(model, clock=FakeClock(tick_ns=1))

    def use() -> None:
        with watch:
            model.generate(ids, **OPTIONS)

    return use, lambda: watch.samples[-1].steps == 7 and "sync" in watch.samples[-1].kinds["decode"].parts


def instrumenting(model: Any, ids: Any) -> Any:
    """An Instrument that looks into everything."""
    recorder = Recorder(FakeClock(tick_ns=1))
    instrument = Instrument(model, recorder, "layers")

    def use() -> None:
        with instrument:
            model.generate(ids, **OPTIONS)

    return use, lambda: instrument.calls[-1].steps == 7 and len(recorder.steps("decode").parts) > 15


def replaying(model: Any, ids: Any) -> Any:
    """A replay of recorded tokens."""
    replay = Replay(model, record(model, ids, 7, do_sample=False))

    def use() -> None:
        with replay:
            model.generate(ids, **OPTIONS)

    return use, lambda: replay.calls[-1].differing == 0 and replay.calls[-1].forwards == 7


def capturing(model: Any, ids: Any) -> Any:
    """The first call of a line, kept."""
    captures = Captures()

    def use() -> None:
        with captures:
            model.generate(ids, **OPTIONS)

    return use, lambda: len(captures.calls) == 1


def skipping(model: Any, ids: Any) -> Any:
    """A block that is skipped."""
    mask = BlockMask(model, [1])

    def use() -> None:
        with mask:
            model.generate(ids, **OPTIONS)

    return use, lambda: mask.calls[0] == 0 and mask.calls[1] > 0


def looping(model: Any, ids: Any) -> Any:
    """A watch of a loop that is written by hand."""
    watch = perstep.watch(model, clock=FakeClock(tick_ns=1))

    def use() -> None:
        text = ids
        with watch, torch.no_grad():
            for _ in range(7):
                text = torch.cat([text, model(text).logits[:, -1:].argmax(-1)], 1)

    return use, lambda: watch.samples[-1].steps == 6


def looking_inside(model: Any, ids: Any) -> Any:
    """A processor by its own lines."""
    watch = perstep.watch(model, clock=FakeClock(tick_ns=1), every=2)
    lines = LinesOf("logits/Adds", watch.is_recording, watch.clock)

    class Adds(transformers.LogitsProcessor):  # type: ignore[misc]
        """Has a line."""

        def __call__(self, input_ids: Any, scores: Any) -> Any:
            """Other scores."""
            return scores + 1

    def use() -> None:
        with watch, lines:
            model.generate(ids, logits_processor=[Adds()], **{**OPTIONS, "max_new_tokens": 12})

    return use, lambda: lines.counted > 0


def decoding(model: Any, ids: Any) -> Any:
    """`fast.decode` with its step in fixed places, which is kept with the model."""
    decode = Decode(captured=True)

    def use() -> None:
        model.generate(ids, custom_generate=decode, **OPTIONS)

    return use, lambda: decode.last.way == "captured"


@pytest.mark.parametrize(
    "way", [watching, instrumenting, replaying, capturing, skipping, looping, looking_inside, decoding]
)
@pytest.mark.parametrize("every", [EVERY, pytest.param(1, marks=pytest.mark.nightly)])
def test_an_interrupt_at_any_line_leaves_everything_as_before(model: Any, ids: Any, way: Any, every: int) -> None:
    """Where each line is run for the first time; the interrupt arrives. Not nightly, at one line in thirteen."""
    way(model, ids)[0]()
    before = state(model)
    use, works = way(model, ids)
    with At() as all_lines:
        use()
    assert state(model) == before
    first = {line: number for number, line in reversed(list(enumerate(all_lines.lines)))}
    assert len(first) > 40
    for line, number in sorted(first.items(), key=lambda item: item[1])[::every]:
        use, works = way(model, ids)
        with pytest.raises(KeyboardInterrupt), At(number):
            use()
        after = state(model)
        assert [name for name in before if after[name] != before[name]] == [], line
        use()
        assert works(), line


def test_a_model_that_is_copied_or_pickled_while_it_is_watched_gives_a_clean_copy(model: Any, ids: Any) -> None:
    """The copy has no wrapper and no reference to ours, and generates the same."""
    copies: list[Any] = []
    plain = {name: set(vars(one)) for name, one in model.named_modules()}
    expected = model.generate(ids, **OPTIONS).tolist()

    def copies_it(input_ids: Any, scores: Any) -> Any:
        copies[:] = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]  # noqa: S301
        return scores

    with Instrument(model, Recorder(FakeClock()), "layers"), perstep.watch(model, clock=FakeClock()):
        model.generate(ids, logits_processor=[copies_it], **OPTIONS)
    for one in copies:
        assert {name: set(vars(module)) for name, module in one.named_modules()} == plain
        for module in one.modules():
            assert not [name for name, value in vars(module).items() if isinstance(value, MethodType)]
        assert one.generate(ids, **OPTIONS).tolist() == expected


def test_a_handler_of_the_programs_own_is_kept() -> None:
    """One that was there is back when the last wrapper is gone; one that was set meanwhile stays."""
    seen: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _frame: seen.append(number))
    try:
        own = signal.getsignal(signal.SIGINT)
        with Wraps() as wraps:
            wraps.value(type("Made", (), {})(), "name", 1)
            assert signal.getsignal(signal.SIGINT) is not own
            signal.raise_signal(signal.SIGINT)
            assert seen == [signal.SIGINT]
        assert signal.getsignal(signal.SIGINT) is own
        with Wraps() as wraps:
            wraps.value(type("Made", (), {})(), "name", 1)
            signal.signal(signal.SIGINT, signal.default_int_handler)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_interrupt_in_the_middle_waits_for_the_end_and_undoes_what_was_begun() -> None:
    """Of the outermost function that is not to be interrupted; it is raised once."""

    class Opens:
        """Is open between its two methods."""

        open = 0

        @interrupts.uninterrupted(undo="close")
        def begin(self) -> None:
            """Interrupted half-way."""
            self.inner()
            self.open = 1

        @interrupts.uninterrupted()
        def inner(self) -> None:
            """Part of the beginning."""
            signal.raise_signal(signal.SIGINT)

        @interrupts.uninterrupted()
        def close(self) -> None:
            """The end."""
            self.open -= 1

    one = Opens()
    with Wraps() as wraps:
        wraps.value(one, "name", 1)
        with pytest.raises(KeyboardInterrupt):
            one.begin()
        assert one.open == 0
        one.close()
        assert one.open == -1
