"""The parts inside a forward, by type of module and by layer."""

import pytest

from perstep.measure import FakeClock, Recorder
from perstep.targets.transformers import Instrument
from perstep.targets.transformers._modules import classify

pytestmark = pytest.mark.hf
torch = pytest.importorskip("torch")


def marks(model, ids, detail="modules", kind="decode", **kwargs):
    """How often each part is entered in a step."""
    recorder = Recorder(FakeClock())
    with Instrument(model, recorder, detail):
        model.generate(ids, max_new_tokens=3, do_sample=False, **kwargs)
    steps = recorder.steps(kind)
    return {name: count / len(steps.step_ns) for name, count in steps.marks.items()}


def inside(found):
    """The parts of a forward alone."""
    outside = {"inputs", "bookkeeping", "sample", "sync", "stop/MaxLengthCriteria"}
    return {name: count for name, count in found.items() if name not in outside}


def test_the_parts_of_a_llama_of_two_layers(llama, ids):
    """Every mark of a step is accounted for."""
    assert inside(marks(llama, ids)) == {
        "forward.other": 14,  # once at the start, and after each of the 13 parts that lie directly in the forward
        "embed": 1,
        "attn.mask.build": 1,
        "attn.rope": 1 + 2,
        "norm": 5,
        "attn": 2 * 4,  # at its start, and after rope, append and core
        "kv.append": 2,
        "attn.core": 2,
        "mlp": 2,
        "lm_head": 1,
    }


def test_with_layers_each_part_carries_its_index_and_the_rest_none(llama, ids):
    """What lies outside the layers has no index: embedding, mask, sines and cosines, last norm, head."""
    found = inside(marks(llama, ids, "layers"))
    assert {name for name in found if "/" in name} == {
        f"{part}/{layer}" for part in ("norm", "attn", "attn.rope", "kv.append", "attn.core", "mlp") for layer in (0, 1)
    }
    assert {name for name in found if "/" not in name} == {
        "forward.other", "embed", "attn.mask.build", "attn.rope", "norm", "lm_head",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("gpt2", {"embed": 2, "norm": 5, "attn.core": 2, "mlp": 2}),  # learned positions are an embedding
        ("opt", {"embed": 2, "norm": 5, "mlp": 4}),  # fc1 and fc2 are modules of the layer itself
        ("falcon", {"attn.rope": 3, "norm": 3, "kv.append": 2}),
        ("bloom", {"norm": 6, "attn": 4, "kv.append": 2}),  # a norm of its own after the embedding; no rope
        ("gemma2", {"norm": 9, "attn.mask.build": 2}),  # a sliding and a full mask
        ("olmoe", {"moe": 2, "norm": 5}),
        ("gpt_oss", {"moe": 2}),
        ("deepseek_v3", {"moe": 1, "mlp": 1}),  # the first layer is dense
        ("mamba", {"mixer": 2, "norm": 3}),
        ("t5", {"norm": 7, "attn.core": 4, "mlp": 2}),  # self- and cross-attention; norms beside them
        ("bart", {"norm": 7, "mlp": 4}),
        ("molmo2", {"norm": 5, "mlp": 2}),
    ],
)
def test_architectures_that_are_built_otherwise(tiny, ids, family, expected):
    """Each is one that a table of names for Llama would get wrong."""
    found = marks(tiny(family), ids)
    assert {name: found.get(name) for name in expected} == expected


def test_the_first_dense_layer_of_a_mixture_is_named_by_layer(tiny, ids):
    """Layer 0 is an `mlp`, layer 1 a `moe`."""
    found = marks(tiny("deepseek_v3"), ids, "layers")
    assert {"mlp/0", "moe/1"} <= set(found)


def test_an_encoder_is_no_part_of_the_decoder(tiny):
    """None of its modules is wrapped: it runs once a call, as the part `encoder`."""
    for family in ("t5", "bart"):
        model = tiny(family)
        encoder = set(map(id, model.get_encoder().modules()))
        shared = set(map(id, [model.get_input_embeddings()]))
        assert not {id(module) for module, _, _ in classify(model)} & (encoder - shared)


def test_a_static_cache_has_its_mask_built_among_the_inputs(llama, ids):
    """There it is made by the preparation of inputs, not by the forward."""
    recorder = Recorder(FakeClock())
    with Instrument(llama, recorder, "modules"):
        llama.generate(ids, max_new_tokens=3, do_sample=False, cache_implementation="static")
    assert list(recorder.steps("decode").parts)[:2] == ["inputs", "attn.mask.build"]


def test_attention_of_another_implementation_is_found(build_tiny, ids):
    """Eager attention is a function of the modeling file, not an entry of the table."""
    eager = build_tiny("llama")
    eager.set_attn_implementation("eager")
    assert marks(eager, ids)["attn.core"] == 2


def test_time_inside_a_module_is_found_to_the_nanosecond(build_tiny, ids):
    """Time planted in one layer's modules is found there, and that of the layer itself is `forward.other`."""
    clock = FakeClock()
    model = build_tiny("llama")
    layer = model.model.layers[1]
    layer.mlp.down_proj.register_forward_hook(lambda *args: clock.advance(1_000))
    layer.self_attn.o_proj.register_forward_hook(lambda *args: clock.advance(30))
    layer.register_forward_hook(lambda *args: clock.advance(4))
    recorder = Recorder(clock)
    with Instrument(model, recorder, "layers"):
        model.generate(ids, max_new_tokens=3, do_sample=False)
    parts = {name: column.tolist() for name, column in recorder.steps("decode").parts.items() if column.any()}
    assert parts == {"mlp/1": [1_000] * 2, "attn/1": [30] * 2, "forward.other": [4] * 2}


def test_vision_is_one_part_whatever_is_in_it(tiny):
    """Its attention and feed-forward modules do not mix with those of the text model."""
    image = torch.full((1, 4), 90)
    ids = torch.cat([torch.tensor([[5, 92]]), image, torch.tensor([[93, 7]])], dim=1)
    found = marks(
        tiny("qwen2_5_vl"),
        ids,
        kind="prefill",
        pixel_values=torch.linspace(-1, 1, 16 * 96).reshape(16, 96),
        image_grid_thw=torch.tensor([[1, 4, 4]]),
        mm_token_type_ids=(ids == 90).int(),
    )
    assert found["vision"] == 1
    assert found["mlp"] == 2  # those of the text model alone
