"""Bytes of weights that are no plain parameters, and the bounds that are then not given."""

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from perstep.experiments import cache, ledger
from perstep.measure import FakeClock
from perstep.targets.block_mask import forward_weight_bytes
from perstep.targets.transformers.facts import describe
from perstep.targets.transformers.presets import load
from perstep.targets.transformers.weights import unknown_arithmetic, weight_bytes

pytestmark = pytest.mark.hf
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

Model = Any
LINEAR = 2 * 7 + 1
"""Linear layers of the model below, its head included."""


def llama(**changes: Any) -> Model:
    """A Llama of two layers, in float32."""
    sizes = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    config = transformers.LlamaConfig(**{**sizes, **heads, "tie_word_embeddings": False, **changes})
    return transformers.LlamaForCausalLM(config).eval()


def parameter_bytes(model: Model) -> int:
    """What the parameters take, tied ones once."""
    return sum(p.numel() * p.element_size() for p in model.parameters())


class Packed(torch.nn.Module):  # type: ignore[misc]
    """As GPTQ stores a linear layer: eight numbers of 4 bits in an int32, a zero and a scale for each group."""

    GROUP = 16

    def __init__(self, linear: Any) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        groups = self.in_features // self.GROUP
        grouped = linear.weight.detach().T.reshape(groups, self.GROUP, self.out_features)
        scales = (grouped.amax(1) - grouped.amin(1)) / 15
        zeros = (-grouped.amin(1) / scales).round()
        numbers = (grouped / scales[:, None] + zeros[:, None]).round().clamp(0, 15).reshape(self.in_features, -1)
        places = 4 * torch.arange(8)
        self.register_buffer("qweight", (numbers.to(torch.int32).reshape(-1, 8, self.out_features)
                                         << places[:, None]).sum(1).to(torch.int32))  # fmt: skip
        self.register_buffer("qzeros", zeros.to(torch.int32))
        self.register_buffer("scales", scales.half())
        self.register_buffer("workspace", torch.zeros(1000), persistent=False)

    def forward(self, x: Any) -> Any:
        """Unpack, and multiply."""
        numbers = (self.qweight[:, None] >> (4 * torch.arange(8))[:, None]) & 15
        grouped = numbers.reshape(-1, self.GROUP, self.out_features) - self.qzeros[:, None]
        return x @ (grouped * self.scales[:, None].float()).reshape(self.in_features, -1)


def packed(model: Model) -> Model:
    """The model with its linear layers packed."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is torch.nn.Linear:
                setattr(module, name, Packed(child))
    return model


def packed_bytes(rows: int, columns: int) -> int:
    """4 bits a weight, and 4 + 2 bytes a group."""
    return rows * columns // 2 + 6 * columns * rows // Packed.GROUP


def test_plain_weights_count_once() -> None:
    """Tied or not, with buffers that are made when a model is loaded left out; every layer is known."""
    tied, own = llama(tie_word_embeddings=True), llama()
    assert [weight_bytes([model]) for model in (tied, own)] == [parameter_bytes(tied), parameter_bytes(own)]
    assert weight_bytes([own]) - weight_bytes([tied]) == 96 * 32 * 4  # type: ignore[operator]
    assert weight_bytes([own, own.model]) == weight_bytes([own])
    gpt2 = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=96, n_embd=32, n_layer=2, n_head=2))
    falcon = transformers.FalconForCausalLM(transformers.FalconConfig(vocab_size=96, hidden_size=32,
                                            num_hidden_layers=2, num_attention_heads=2))  # fmt: skip
    assert [unknown_arithmetic(model) for model in (own, gpt2, falcon, own.half())] == [""] * 4
    assert weight_bytes([own]) == parameter_bytes(own)


def test_memory_that_weights_share_counts_once() -> None:
    """Two that overlap, one inside another, and what lies between them is no weight."""
    store = torch.zeros(100)
    holder = torch.nn.Module()
    for name, part in {"a": store[:30], "b": store[20:40], "c": store[25:28], "d": store[90:]}.items():
        holder.register_buffer(name, part)
    assert weight_bytes([holder]) == 4 * (40 + 10)


def test_packed_weights_are_counted_from_their_buffers() -> None:
    """GPTQ and AWQ: int32 beside scales and zeros, no parameter; a workspace is no weight."""
    plain = llama()
    model = packed(copy.deepcopy(plain))
    ids = torch.arange(8)[None]
    with torch.no_grad():
        assert torch.nn.functional.cosine_similarity(plain(ids).logits, model(ids).logits, dim=-1).min() > 0.9
    block = packed_bytes(32, 32) * 2 + packed_bytes(32, 16) * 2 + packed_bytes(32, 64) * 2 + packed_bytes(64, 32)
    norms, table, head = 32 * 4, 96 * 32 * 4, packed_bytes(32, 96)
    assert weight_bytes([model]) == 2 * (block + 2 * norms) + norms + table + head
    assert forward_weight_bytes(model, [1]) == block + 2 * norms + head
    described = describe("packed", model)
    assert (described["weight_bytes"], described["num_parameters"]) == (weight_bytes([model]), None)
    assert (
        unknown_arithmetic(model)
        == f"the arithmetic of {LINEAR} layers is unknown (Packed with int32 weights); not judged"
    )


def test_a_layer_of_unknown_class_is_unknown_though_its_weights_are_floats() -> None:
    """As an adapter's: it may do more than a product."""

    class Adapted(torch.nn.Linear):  # type: ignore[misc]
        def forward(self, x: Any) -> Any:
            return super().forward(x) + x.sum()

    model = llama()
    model.lm_head = Adapted(32, 96)
    assert unknown_arithmetic(model) == f"the arithmetic of 1 layer is unknown ({__name__}.Adapted); not judged"
    assert describe("adapted", llama())["num_parameters"] == sum(p.numel() for p in llama().parameters())


def test_what_a_weight_holds_beside_itself_is_counted() -> None:
    """bitsandbytes: packed bytes in a parameter of its own class, scales of scales in its state."""

    class Params4bit(torch.nn.Parameter):  # type: ignore[misc]
        pass

    linear = torch.nn.Linear(64, 32, bias=False)
    linear.weight = Params4bit(torch.zeros(32 * 64 // 2, 1, dtype=torch.uint8), requires_grad=False)
    nested = SimpleNamespace(absmax=torch.zeros(2), code=torch.zeros(256))
    linear.weight.quant_state = SimpleNamespace(absmax=torch.zeros(32, dtype=torch.uint8), state2=nested)
    assert weight_bytes([linear]) == 1024 + 32 + 4 * (2 + 256)
    linear.weight.data = linear.weight.data.reshape(32, 32)
    assert "(Linear with Params4bit weights)" in unknown_arithmetic(linear)


def test_weights_that_a_library_keeps_to_itself_have_no_number() -> None:
    """By dynamic quantisation in torch: neither parameters nor buffers. No number is better than a wrong one."""
    from torch.ao.quantization import quantize_dynamic

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = quantize_dynamic(llama(), {torch.nn.Linear}, dtype=torch.qint8)
    assert weight_bytes([model]) is None
    assert forward_weight_bytes(model, [0]) is None
    assert describe("hidden", model)["weight_bytes"] is None
    assert f"the arithmetic of {LINEAR} layers is unknown (torch.ao.nn.quantized.dynamic" in unknown_arithmetic(model)


def test_a_tensor_with_tensors_inside_is_what_these_take() -> None:
    """It has no memory of its own; tensors that two of them share count once."""
    from torch.testing._internal.two_tensor import TwoTensor

    first, second, third = (torch.zeros(32, 64) for _ in range(3))
    pair = torch.nn.ModuleList([torch.nn.Linear(64, 32, bias=False) for _ in range(2)])
    for linear, other in zip(pair, (second, third), strict=True):
        linear.weight = torch.nn.Parameter(TwoTensor(first, other))
    assert weight_bytes([pair]) == 3 * 32 * 64 * 4
    assert (
        unknown_arithmetic(pair) == "the arithmetic of 2 layers is unknown (Linear with TwoTensor weights); not judged"
    )


def test_int8_weights_of_torchao_take_a_byte_each() -> None:
    """Int8 weights of torchao say that they are float32: a byte a weight, and what each row has beside."""
    torchao = pytest.importorskip("torchao.quantization")
    model = llama()
    plain = parameter_bytes(model)
    weights = sum(each.weight.numel() for each in model.modules() if type(each) is torch.nn.Linear)
    rows = sum(each.weight.shape[0] for each in model.modules() if type(each) is torch.nn.Linear)
    torchao.quantize_(model, torchao.Int8WeightOnlyConfig())
    assert parameter_bytes(model) == plain
    assert weight_bytes([model]) in (plain - 3 * weights + 4 * rows, plain - 3 * weights + 5 * rows)  # with zeros
    assert f"the arithmetic of {LINEAR} layers is unknown (Linear with " in unknown_arithmetic(model)


@pytest.fixture
def quantised(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is loaded has packed layers."""
    monkeypatch.setattr("perstep.targets.transformers.target.load", lambda *args, **kw: packed(load(*args, **kw)))


@pytest.mark.usefixtures("quantised")
def test_a_ledger_of_unknown_layers_has_no_bounds_and_says_why(make_llama: Callable[..., Path], tmp_path: Path) -> None:
    """In the manifest, below the table and in the README; no ceiling is measured in vain."""
    folder = make_llama(tmp_path / "model", hidden_size=32, intermediate_size=64)
    plan = ledger.Plan(model=str(folder), prompt_tokens=8, new_tokens=4, rounds=3)
    made = ledger.prepare(plan, lambda _share, _what: None, FakeClock(tick_ns=1))
    sample = made.measure_round(0)
    found = ledger.analyse(made.manifest, [sample])
    why = "layers is unknown (Packed with int32 weights); not judged"
    assert (found.bounds, sample.ceilings) == ({}, {})
    assert why in found.bounds_withdrawn
    assert made.manifest.conditions["bounds"] == {"unknown": found.bounds_withdrawn}
    assert f"Bounds: {found.bounds_withdrawn}." in ledger.tables(made.manifest, found)[0].notes
    assert why in ledger.files(made.manifest, found)["README.md"].decode()


@pytest.mark.usefixtures("quantised")
def test_a_cache_of_unknown_layers_has_bytes_and_no_curve(
    make_llama: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys and values are as large as ever; what a step takes by theory is not said, but why."""
    monkeypatch.setattr("perstep.experiments.cache.session.measure_resident", lambda _request: ([], "not looked at"))
    folder = make_llama(tmp_path / "model", hidden_size=32, intermediate_size=64)
    plan = cache.Plan(model=str(folder), backend="torch", context=(2, 4, 6, 8, 12, 16, 24, 32, 48), rounds=2)
    made = cache.prepare(plan, lambda _share, _what: None, FakeClock(tick_ns=1000))
    found = cache.analyse(made.manifest, [made.measure_round(number) for number in range(2)])
    assert {point.theory_ms_with_cache for point in found.points} == {None}
    assert all(row["cache_bytes"] == row["theory_bytes"] for row in made.manifest.conditions["memory"])
    [note] = [note for table in cache.tables(made.manifest, found) for note in table.notes if "no curve" in note]
    assert note.startswith("Theory has no curve: the arithmetic of ")
