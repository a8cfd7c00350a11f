"""Models to measure: the table of architectures, building them, and loading stored ones."""

import copy
import json
import socket

import pytest

from perstep.errors import InputError
from perstep.targets.transformers import RANDOM_WEIGHTS, Instrument, build, load, presets
from perstep.targets.transformers import presets as _presets_function

pytestmark = pytest.mark.hf
torch = pytest.importorskip("torch")

ASKED_FOR = [
    "smollm2-135m", "qwen3-0.6b", "llama-3.2-1b", "gpt2", "gemma-3-270m", "olmoe-1b-7b", "qwen2.5-vl-3b",
    "llama-2-7b",
]  # fmt: skip


def test_the_table_holds_what_was_asked_for_with_a_source_for_each():
    """Eight architectures at least, and where their figures come from."""
    table = presets()
    assert set(ASKED_FOR) <= set(table)
    assert all(entry["source"].startswith("config.json of ") for entry in table.values())


@pytest.mark.parametrize("name", presets())
def test_the_figures_give_the_published_number_of_parameters(name):
    """A wrong figure would give another number."""
    from perstep.targets.transformers.presets import _config, _maker

    with torch.device("meta"):
        model = _maker(_config(name), torch.float32, None)()
    assert sum(parameter.numel() for parameter in model.parameters()) == presets()[name]["parameters"]


@pytest.mark.parametrize("name", ["gpt2", "smollm2-135m", "gemma-3-270m", "qwen3-0.6b", "t5-small", "opt-125m"])
def test_a_preset_is_built_with_fewer_layers_and_generates(name):
    """The rest of its shape stays as it is."""
    model = build(name, layers=2, vocab=300)
    text = model.config.get_text_config(decoder=True)
    assert text.num_hidden_layers == 2
    assert not model.training
    assert torch.isfinite(model.get_input_embeddings().weight).all()
    ids = torch.arange(3, 11).reshape(2, 4)
    model.generation_config.eos_token_id = None
    with Instrument(model, _Ignore()) as instrument:
        model.generate(ids, max_new_tokens=3, do_sample=False)
    assert instrument.calls[0].new_tokens == 3


class _Ignore:
    """Takes marks and keeps nothing."""

    def mark(self, part):
        """End a part."""

    def begin(self, kind="decode"):
        """Begin a step."""

    turn = begin

    def end(self):
        """End it."""

    drop = end


def test_layers_may_be_fewer_and_not_more():
    """More layers than published would be no real architecture."""
    with pytest.raises(InputError, match="gpt2 has 12 layers, so layers must be between 1 and 12, not 13"):
        build("gpt2", layers=13)
    with pytest.raises(InputError, match="not 0"):
        build("gpt2", layers=0)


def test_lists_with_an_entry_a_layer_are_cut_as_well():
    """The first seven of gemma's pattern of sliding and full attention."""
    model = build("gemma-3-270m", layers=7, vocab=300)
    assert model.config.layer_types == ["sliding_attention"] * 5 + ["full_attention", "sliding_attention"]


def test_special_tokens_outside_a_smaller_vocabulary_are_dropped():
    """An embedding could not hold them."""
    config = build("smollm2-135m", layers=1, vocab=300).config
    assert (config.vocab_size, config.eos_token_id) == (300, 0)
    config = build("gpt2", layers=1, vocab=300).config
    assert (config.vocab_size, config.eos_token_id) == (300, None)


def test_the_seed_decides_the_weights_and_nothing_else_is_random():
    """The same seed gives the same bits, and torch's own generator is left as it was."""
    state = torch.get_rng_state()
    weights = [build("gpt2", layers=1, vocab=300, seed=seed).state_dict() for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not torch.equal(weights[0]["transformer.h.0.mlp.c_fc.weight"], weights[2]["transformer.h.0.mlp.c_fc.weight"])


def test_weights_are_normal_biases_zero_and_norms_as_the_architecture_has_them():
    """The tile is so long that no two rows of a weight are alike."""
    model = build("gpt2", layers=1)
    block = model.transformer.h[0]
    wide = block.mlp.c_fc.weight
    assert wide.std().item() == pytest.approx(0.02, rel=0.01)
    assert abs(wide.mean().item()) < 1e-4
    assert not block.mlp.c_fc.bias.any()
    assert (block.ln_1.weight == 1).all()
    assert (build("gemma-3-270m", layers=1, vocab=300).model.norm.weight == 0).all()  # it counts from one
    rows = model.transformer.wte.weight
    assert len(torch.unique(rows[:, 0])) > 10_000


def test_tied_weights_stay_tied():
    """A head that is the embedding is stored once, and one that is not has weights of its own."""
    model = build("gpt2", layers=1, vocab=300)
    assert model.lm_head.weight is model.transformer.wte.weight
    assert build("llama-2-7b", layers=1, vocab=300, dtype="bfloat16").lm_head.weight.dtype is torch.bfloat16


def test_a_rotary_embedding_has_its_frequencies_and_not_what_lay_in_memory():
    """Skipping the drawing of weights must not skip what is computed: 100,000^(-2i/64)."""
    built = build("smollm2-135m", layers=1, vocab=300)
    theta = 100_000.0 ** -(torch.arange(0, 64, 2) / 64)
    assert torch.allclose(built.model.rotary_emb.inv_freq, theta)


def test_a_billion_parameters_do_not_take_a_billion_draws():
    """The tile is drawn once, a million numbers; copies of it fill the rest."""
    from torch.utils._python_dispatch import TorchDispatchMode

    drawn = []

    class Draws(TorchDispatchMode):
        """Counts the random numbers that are drawn."""

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            """Count, and go on."""
            result = func(*args, **(kwargs or {}))
            random = func.overloadpacket.__name__ in {"randn", "rand", "normal_", "uniform_", "trunc_normal_"}
            if random and result.device.type != "meta":
                drawn.append(result.numel())
            return result

    with Draws():
        model = build("llama-3.2-1b", layers=2, vocab=32_000, dtype="bfloat16")
    assert sum(parameter.numel() for parameter in model.parameters()) > 150_000_000
    assert 0 < sum(drawn) < 1_200_000


@pytest.mark.parametrize("family", ["llama", "gpt_oss", "deepseek_v3", "bart", "qwen2_5_vl", "mamba"])
def test_a_configuration_file_is_built(build_tiny, tmp_path, ids, family):
    """Of any family, by the file or by its folder; every weight is a number."""
    config = build_tiny(family).config
    config.save_pretrained(tmp_path)
    for path in (tmp_path, tmp_path / "config.json"):
        model = build(path)
        assert type(model.config) is type(config)
        assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
        assert model.generate(ids, max_new_tokens=2).shape[0] == 2


def test_what_is_wrong_is_said_in_one_line(tmp_path):
    """Names, numbers and files that cannot be built from."""
    with pytest.raises(InputError, match=r"unknown architecture 'gpt5': choose from gpt2, .*, or give a config.json"):
        build("gpt5")
    with pytest.raises(InputError, match="unknown dtype 'int8': choose from float32, bfloat16, float16"):
        build("gpt2", dtype="int8")
    with pytest.raises(InputError, match="unknown dtype 'nn'"):
        build("gpt2", dtype="nn")
    with pytest.raises(InputError, match="at least 2 tokens"):
        build("gpt2", vocab=1)
    with pytest.raises(InputError, match="transformers cannot build this model"):
        build("gpt2", layers=1, attn_implementation="no_such")
    (tmp_path / "config.json").write_text('{"model_type": "no_such"}')
    with pytest.raises(InputError, match="is not the configuration of a transformers model"):
        build(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(InputError, match="a model of type vit does not generate text"):
        build(tmp_path)


def test_a_model_that_does_not_fit_into_memory_is_refused_before_it_is_built(monkeypatch):
    """With what it needs, what is free and what to do."""
    import psutil

    class Little:
        """Little memory."""

        available = 10**8

    monkeypatch.setattr(psutil, "virtual_memory", Little)
    with pytest.raises(InputError, match=r"llama-2-7b needs 27.0 GB in float32 and 0.1 GB are free: keep fewer layers"):
        build("llama-2-7b")


@pytest.fixture
def no_network(monkeypatch):
    """Any attempt to reach the network is an error."""

    def refuse(*args, **kwargs):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_a_local_folder_is_loaded_without_the_network(build_tiny, tmp_path, monkeypatch, ids, no_network):
    """Even one whose name looks like a hub id."""
    model = build_tiny("llama")
    model.save_pretrained(tmp_path / "org" / "name")
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / "org" / "name", "org/name"):
        loaded = load(path)
        assert torch.equal(
            loaded.generate(ids, max_new_tokens=4, do_sample=False, eos_token_id=None),
            model.generate(ids, max_new_tokens=4, do_sample=False),
        )
        assert not loaded.training
    assert load("org/name", dtype="bfloat16").dtype is torch.bfloat16
    assert load("org/name", attn_implementation="eager").config._attn_implementation == "eager"


def test_a_vision_model_is_loaded_with_its_vision(build_tiny, tmp_path, no_network):
    """The class is chosen by the configuration, the one with the picture first."""
    build_tiny("llava").save_pretrained(tmp_path)
    assert type(load(tmp_path)).__name__ == "LlavaForConditionalGeneration"


def test_what_cannot_be_loaded_is_said_in_one_line(tmp_path, no_network):
    """And what only looks like a path never goes to the hub."""
    for name in ("nowhere", "./no/where", "", str(tmp_path / "no")):
        with pytest.raises(InputError, match=r"no folder .*: give a folder with a config.json, or a hub id"):
            load(name)
    with pytest.raises(InputError, match="cannot load a model from"):
        load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(InputError, match="cannot load a model from"):
        load(tmp_path)


def test_code_that_comes_with_a_model_is_never_run(build_tiny, tmp_path, no_network):
    """A model of our own kind is refused; one of a known kind is loaded with the library's code, not with its own."""
    (tmp_path / "mine.py").write_text("raise SystemExit('it was run')")
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"model_type": "mine", "auto_map": {"AutoConfig": "mine.C"}}))
    with pytest.raises(InputError, match="cannot load a model from"):
        load(tmp_path)
    with pytest.raises(InputError, match="is not the configuration"):
        build(tmp_path)
    build_tiny("llama").save_pretrained(tmp_path)
    config.write_text(json.dumps(json.loads(config.read_text()) | {"auto_map": {"AutoModelForCausalLM": "mine.M"}}))
    assert type(load(tmp_path)).__name__ == type(build(tmp_path)).__name__ == "LlamaForCausalLM"


def test_the_statement_about_random_weights_names_what_depends_on_them():
    """Nuclei, routing, masks and stopping (law "random weights are a statement")."""
    for word in ("top-p", "routing", "mask", "stopping"):
        assert word in RANDOM_WEIGHTS


def test_the_table_is_not_changed_by_building_from_it():
    """It is read once and shared."""
    before = copy.deepcopy(_presets_function())
    build("gpt2", layers=1, vocab=300)
    assert presets() == before


def test_a_configuration_is_read_in_silence(tmp_path, capfd):
    """GPT-2's own end of sequence lies outside of a small vocabulary, of which transformers warns once a size."""
    sizes = {"vocab_size": 733, "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 64}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", **sizes}))
    build(tmp_path / "config.json")
    assert capfd.readouterr() == ("", "")
