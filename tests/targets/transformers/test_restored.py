"""After an Instrument has gone, everything is as it was: models, classes, modules and tables of transformers."""

import sys
from typing import Any

import pytest

import perstep
from perstep.measure import FakeClock, Recorder
from perstep.targets.transformers import DETAILS, Instrument
from perstep.targets.transformers._wrap import _LAYERS

pytestmark = pytest.mark.hf
torch = pytest.importorskip("torch")

TRAPS = [
    "llama", "qwen2", "qwen3", "mistral", "phi", "phi3", "olmo", "olmo2", "olmo3", "gemma2", "gemma3_text", "gpt2",
    "gpt_neox", "opt", "falcon", "bloom", "gptj", "olmoe", "mixtral", "qwen2_moe", "qwen3_moe", "deepseek_v3",
    "gpt_oss", "mamba", "cohere", "granite", "glm4", "smollm3", "stablelm", "starcoder2", "t5", "bart", "llava",
    "gemma3", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl", "idefics3", "smolvlm", "molmo2",
]  # fmt: skip


def everything(model: Any) -> dict[str, Any]:
    """The state that wrapping could have touched, comparable with `==`."""
    from transformers import GenerationMixin
    from transformers.generation import utils
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    state: dict[str, Any] = {}
    classes = {GenerationMixin, *(getattr(utils, name, object) for name in ("StopCheck", "DeferredStopCheck"))}
    for name, module in model.named_modules():
        state[f"module {name}"] = {
            key: id(value) if callable(value) else len(value) if isinstance(value, dict) else None
            for key, value in vars(module).items()
        }
        classes |= set(type(module).__mro__)
    for kind in classes:
        state[f"class {kind.__module__}.{kind.__qualname__}"] = {key: id(value) for key, value in vars(kind).items()}
    for name, module in list(sys.modules.items()):
        if name.startswith("transformers.") and isinstance(vars(module), dict):
            state[name] = {key: id(value) for key, value in vars(module).items() if callable(value)}
    for table in (ALL_ATTENTION_FUNCTIONS, ALL_MASK_ATTENTION_FUNCTIONS):
        state[type(table).__name__] = (dict(table._local_mapping), dict(table._global_mapping))
    state["config"] = model.config.to_dict()
    return state


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """The names of what is not as before; modules that were first imported meanwhile do not count."""
    return [name for name, was in before.items() if after.get(name) != was]


@pytest.mark.parametrize("family", TRAPS)
def test_after_a_watch_that_counted_syncs_nothing_is_left(tiny, ids, family, monkeypatch):
    """Every architecture named as a trap: the tokens are the same, drawn ones too, and syncs are known by part."""
    monkeypatch.setattr("perstep.targets.transformers.instrument.anything_compiled", lambda: False)
    model = tiny(family)
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 7, "do_sample": True, "top_k": 20}
    torch.manual_seed(5)
    expected = model.generate(ids, **options).tolist()
    before = everything(model)
    torch.manual_seed(5)
    with perstep.watch(model, clock=FakeClock(tick_ns=7)) as w:
        assert model.generate(ids, **options).tolist() == expected
    assert not differences(before, everything(model))
    assert not _LAYERS
    ledger = w.ledger()
    assert ledger.syncs_per_step is not None
    assert ledger.parts["sync"].syncs_per_step >= 1
    assert sum(part.syncs_per_step for part in ledger.parts.values()) <= ledger.syncs_per_step


@pytest.mark.parametrize("family", ["llama", "gpt2", "olmoe", "t5", "qwen2_vl", "mamba"])
def test_a_plain_instrument_takes_the_steps_alone_and_leaves_nothing(tiny, ids, family):
    """As many steps as a marked one, of the plain kinds, read at their two ends and nowhere else."""
    model = tiny(family)
    before = everything(model)
    plain, marked = Recorder(FakeClock(tick_ns=7)), Recorder(FakeClock(tick_ns=7))
    for instrument in (Instrument(model, plain, "layers", plain=True), Instrument(model, marked, "layers")):
        with instrument:
            model.generate(ids, max_new_tokens=5, do_sample=False)
        assert not differences(before, everything(model))
        assert [call.steps for call in instrument.calls] == [5]
    assert plain.kinds == ["prefill.plain", "decode.plain"]
    assert set(plain.steps("decode.plain").step_ns.tolist()) == {7}
    assert len(plain.steps("decode.plain").step_ns) == len(marked.steps("decode").step_ns) == 4


@pytest.mark.parametrize("family", TRAPS)
def test_nothing_is_left_and_the_tokens_are_the_same(tiny, ids, family):
    """Every architecture named as a trap: `layers` wraps all that `modules` and `phases` wrap, and more."""
    model = tiny(family)
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    calls = [{"do_sample": False}, {"do_sample": True, "top_k": 20}]

    def generate() -> list[Any]:
        outputs = []
        for options in calls:
            torch.manual_seed(5)
            outputs.append(model.generate(ids, attention_mask=mask, max_new_tokens=4, **options).tolist())
        return outputs

    expected = generate()
    before = everything(model)
    recorder = Recorder(FakeClock(tick_ns=7))
    with Instrument(model, recorder, "layers") as instrument:
        assert differences(before, everything(model))
        assert generate() == expected
    assert not differences(before, everything(model))
    assert not _LAYERS
    assert generate() == expected
    assert instrument.notes == []
    steps = recorder.steps("decode")
    assert (sum(steps.parts.values()) + steps.residual_ns).tolist() == steps.step_ns.tolist()
    named = {name.split("/")[0] for name in steps.parts}
    assert {"inputs", "embed", "norm", "lm_head", "sample", "sync", "bookkeeping"} <= named
    assert {"attn", "kv.append"} <= named or "mixer" in named
    assert {"mlp", "moe"} & named or "mixer" in named


@pytest.mark.parametrize("detail", DETAILS)
def test_nothing_is_left_after_an_exception(tiny, ids, detail):
    """Whether a processor raises or the user interrupts."""

    class PlantedError(Exception):
        """Planted."""

    def breaking(input_ids: Any, scores: Any) -> Any:
        raise PlantedError

    model = tiny("gemma3_text")
    model.generate(ids, max_new_tokens=2)
    before = everything(model)
    with pytest.raises(PlantedError), Instrument(model, Recorder(FakeClock()), detail):
        model.generate(ids, max_new_tokens=4, logits_processor=[breaking])
    assert not differences(before, everything(model))
    with pytest.raises(KeyboardInterrupt), Instrument(model, Recorder(FakeClock()), detail):
        raise KeyboardInterrupt
    assert not differences(before, everything(model))


def test_nothing_is_left_when_entering_fails_half_way(llama, ids, monkeypatch):
    """What was wrapped by then is put back before the error passes on."""
    from perstep.targets.transformers import instrument as room

    def fails(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("planted")

    llama.generate(ids, max_new_tokens=2)
    before = everything(llama)
    monkeypatch.setattr(room, "wrap_functions", fails)
    with pytest.raises(RuntimeError, match="planted"), Instrument(llama, Recorder(FakeClock()), "modules"):
        pass
    assert not differences(before, everything(llama))


def test_a_forward_that_was_replaced_before_is_put_back(build_tiny, ids):
    """As libraries do that move weights between devices: they keep a forward of their own on the instance."""
    model = build_tiny("llama")
    calls = []
    original = model.model.layers[0].self_attn.forward

    def hooked(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return original(*args, **kwargs)

    model.model.layers[0].self_attn.forward = hooked
    before = everything(model)
    with Instrument(model, Recorder(FakeClock()), "layers"):
        model.generate(ids, max_new_tokens=3, do_sample=False)
    assert not differences(before, everything(model))
    assert model.model.layers[0].self_attn.forward is hooked
    assert len(calls) == 3


def test_hooks_of_the_users_own_stay_and_run(build_tiny, ids):
    """We set none, and take none away."""
    model = build_tiny("llama")
    seen = []
    model.model.layers[1].mlp.register_forward_hook(lambda *args: seen.append(1))
    with Instrument(model, Recorder(FakeClock()), "modules"):
        model.generate(ids, max_new_tokens=3, do_sample=False)
    assert len(seen) == 3
    assert len(model.model.layers[1].mlp._forward_hooks) == 1


@pytest.mark.nightly
@pytest.mark.parametrize("detail", DETAILS)
@pytest.mark.parametrize("alternate", [False, True])
@pytest.mark.parametrize("family", TRAPS)
def test_the_long_matrix(tiny, ids, family, detail, alternate):
    """Every family, detail and cache; greedy, sampling and beams; the same tokens, and nothing left."""
    model = tiny(family)
    ways: list[dict[str, Any]] = [{"do_sample": False}, {"do_sample": True, "top_p": 0.9, "temperature": 0.8}]
    if family != "mamba":
        ways += [{"do_sample": False, "cache_implementation": "static"}, {"num_beams": 2, "do_sample": False}]

    def generate() -> list[Any]:
        outputs = []
        for options in ways:
            torch.manual_seed(9)
            outputs.append(model.generate(ids, max_new_tokens=6, **options).tolist())
        return outputs

    expected = generate()
    before = everything(model)
    recorder = Recorder(FakeClock(tick_ns=3))
    with Instrument(model, recorder, detail, alternate=alternate):
        assert generate() == expected
    assert not differences(before, everything(model))
    for kind in recorder.kinds:
        steps = recorder.steps(kind)
        assert (sum(steps.parts.values(), steps.residual_ns)).tolist() == steps.step_ns.tolist()
