"""Where a forward is compiled, only what lies outside it is timed, and nothing is compiled again for it."""

import pytest

from perstep.measure import FakeClock, Recorder
from perstep.targets.transformers import Instrument

pytestmark = pytest.mark.hf
torch = pytest.importorskip("torch")

OUTSIDE = ["inputs", "forward", "bookkeeping", "sample", "stop/MaxLengthCriteria", "sync"]


class Streamer:
    """Takes tokens and does nothing."""

    def put(self, value):
        """Take tokens."""

    def end(self):
        """The end."""


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def frames_compiled():
    """How many frames the compiler has compiled so far."""
    return torch._dynamo.utils.counters["frames"]["ok"]


def watch(model, ids, detail="layers", **kwargs):
    """Generate warm, then with an Instrument; the tokens are the same and nothing is compiled anew."""
    expected = model.generate(ids, max_new_tokens=5, do_sample=False, **kwargs)
    compiled = frames_compiled()
    recorder = Recorder(FakeClock())
    with Instrument(model, recorder, detail) as instrument:
        actual = model.generate(ids, max_new_tokens=5, do_sample=False, **kwargs)
    assert torch.equal(expected, actual)
    model.generate(ids, max_new_tokens=5, do_sample=False, **kwargs)
    assert frames_compiled() == compiled
    return recorder, instrument


def test_a_model_that_transformers_compiles_by_itself(build_tiny, ids):
    """A static cache on a device is enough for that; here it is allowed on the CPU. Prefill stays eager."""
    from transformers import CompileConfig

    config = CompileConfig(backend="eager", mode=None)
    config._compile_all_devices = True
    recorder, instrument = watch(build_tiny("llama"), ids, cache_implementation="static", compile_config=config)
    assert list(recorder.steps("decode").parts) == OUTSIDE
    assert instrument.calls[0].forwards == 5
    [note] = instrument.notes
    assert "only what lies outside the compiled call is timed" in note


def test_after_a_compiled_call_an_eager_one_is_looked_into_again(build_tiny, ids):
    """The wrappers taken away for the compiler come back when its call has ended."""
    from transformers import CompileConfig

    config = CompileConfig(backend="eager", mode=None)
    config._compile_all_devices = True
    model = build_tiny("llama")
    recorder = Recorder(FakeClock())
    options = {"max_new_tokens": 3, "do_sample": False, "cache_implementation": "static", "compile_config": config}
    with Instrument(model, recorder, "modules"):
        model.generate(ids[:1], streamer=Streamer(), **options)
        assert set(recorder.steps("decode").parts) == {*OUTSIDE, "stream/Streamer"}
        model.generate(ids, max_new_tokens=3, do_sample=False)
    assert "mlp" in recorder.steps("decode").parts


def test_a_model_compiled_in_place(build_tiny, ids):
    """`model.compile()` keeps its compiled call on the instance; that is what is wrapped."""
    model = build_tiny("llama")
    model.compile(backend="eager")
    recorder, instrument = watch(model, ids)
    assert list(recorder.steps("decode").parts) == OUTSIDE
    assert instrument.notes == ["the model is compiled: its forward is timed only as a whole"]
    assert instrument.calls[0].forwards == 5


def test_a_forward_compiled_by_hand(build_tiny, ids):
    """`model.forward = torch.compile(model.forward)` is wrapped from outside."""
    model = build_tiny("llama")
    model.forward = torch.compile(model.forward, backend="eager")
    recorder, instrument = watch(model, ids)
    assert list(recorder.steps("decode").parts) == OUTSIDE
    assert "the model is compiled" in instrument.notes[0]


def test_a_forward_that_is_not_compiled_yet_is_not_counted_in(build_tiny, ids, monkeypatch):
    """Its first call compiles it, in the modes that count syncs too: so they are left out, and that is told."""
    monkeypatch.setattr("perstep.targets.transformers.instrument.anything_compiled", lambda: False)
    model = build_tiny("llama")
    model.forward = torch.compile(model.forward, backend="eager")
    with Instrument(model, Recorder(FakeClock()), alternate=True, count=True) as instrument:
        model.generate(ids, max_new_tokens=9, do_sample=False)
    assert any("syncs were not counted" in note for note in instrument.notes)


def test_layers_compiled_one_by_one(build_tiny, ids):
    """One compiled layer is enough to keep all wrappers out of the forward."""
    model = build_tiny("llama")
    for layer in model.model.layers:
        layer.compile(backend="eager")
    recorder, instrument = watch(model, ids)
    assert list(recorder.steps("decode").parts) == OUTSIDE
    assert "model.layers.0 is compiled" in instrument.notes[0]


def test_what_torch_compile_gives_is_understood_as_the_model_in_it(build_tiny, ids):
    """Its `generate` is the original's, which calls the original: nothing in it is compiled."""
    model = torch.compile(build_tiny("llama"), backend="eager")
    recorder = Recorder(FakeClock())
    with Instrument(model, recorder, "modules") as instrument:
        model.generate(ids, max_new_tokens=3, do_sample=False)
    assert "mlp" in recorder.steps("decode").parts
    assert instrument.notes == []
