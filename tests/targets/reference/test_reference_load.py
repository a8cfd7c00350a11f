"""Loading a folder: what is read, in every stored form, and what is refused by name."""

import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from perstep.errors import InputError
from perstep.targets import reference
from perstep.targets.reference.config import FAMILIES, config_hash, parse_config
from perstep.targets.reference.safetensors_files import read_header

IDS = [[5, 9, 13, 2, 60]]
MakeFolder = Callable[..., Path]


def edit_config(folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """Change config.json in place."""
    raw = json.loads((folder / "config.json").read_text())
    change(raw)
    (folder / "config.json").write_text(json.dumps(raw))
    return folder


def write_bfloat16(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """A safetensors file of bfloat16, by hand, since NumPy has no such dtype: the upper halves of the floats."""
    header, data, offset = {}, b"", 0
    for name, tensor in tensors.items():
        raw = (tensor.view(np.uint32) >> 16).astype("<u2").tobytes()
        header[name] = {"dtype": "BF16", "shape": tensor.shape, "data_offsets": [offset, offset + len(raw)]}
        data, offset = data + raw, offset + len(raw)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def test_shapes_are_read(make_folder: MakeFolder) -> None:
    """The configuration is read into shapes, with the head size as given and not as hidden / heads."""
    config = reference.load(make_folder()).config
    assert (config.num_layers, config.hidden, config.heads, config.kv_heads, config.head_dim) == (3, 24, 4, 2, 8)
    assert (config.intermediate, config.vocab, config.max_positions, config.tied) == (40, 61, 96, False)
    assert (config.eos_ids, config.dtype) == ((2,), "float32")


def test_shards_equal_one_file(make_folder: MakeFolder, make_tensors: Callable[..., Any]) -> None:
    """A folder in shards with an index gives the same logits as one file."""
    folder = make_folder()
    expected = reference.forward(reference.load(folder), IDS)
    tensors = make_tensors()
    names = sorted(tensors)
    weight_map = {}
    for number, part in enumerate((names[::2], names[1::2])):
        shard = f"model-{number}.safetensors"
        save_file({name: tensors[name] for name in part}, folder / shard)
        weight_map |= dict.fromkeys(part, shard)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    np.testing.assert_array_equal(reference.forward(reference.load(folder), IDS), expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_widened_exactly(
    make_folder: MakeFolder, make_tensors: Callable[..., Any], dtype: str
) -> None:
    """Half-precision weights become the float32 numbers they stand for, no more and no less."""
    tensors = make_tensors()
    if dtype == "float16":
        halves = {name: tensor.astype(np.float16) for name, tensor in tensors.items()}
        folder = make_folder(halves)
        widened = {name: tensor.astype(np.float32) for name, tensor in halves.items()}
    else:
        folder = make_folder()
        write_bfloat16(folder / "model.safetensors", tensors)
        widened = {n: (t.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32) for n, t in tensors.items()}
    model = reference.load(folder)
    assert model.stored_dtypes == (dtype,)
    logits = reference.forward(model, IDS)
    save_file(widened, folder / "model.safetensors")
    np.testing.assert_array_equal(logits, reference.forward(reference.load(folder), IDS))


def test_old_and_new_rope_keys_mean_the_same(make_folder: MakeFolder) -> None:
    """rope_theta at the top and rope_parameters give one configuration, and a missing theta is 10,000."""
    new = parse_config(json.loads((make_folder() / "config.json").read_text()))
    for old_keys in ({"rope_theta": 10000.0}, {"rope_theta": 10000, "rope_scaling": None}, {}):
        old = json.loads((make_folder() / "config.json").read_text())
        del old["rope_parameters"]
        assert parse_config({**old, **old_keys}) == new


def test_old_scaling_keys_are_read(make_folder: MakeFolder) -> None:
    """rope_scaling with `type` is read, and llama3 takes the original length from either place."""
    scaled = json.loads((make_folder(rope_parameters=None) / "config.json").read_text())
    rope = parse_config({**scaled, "rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2}}).rope
    assert (rope.kind, rope.theta, rope.factor) == ("linear", 5e5, 2.0)
    llama3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    assert parse_config({**scaled, "rope_scaling": llama3}).rope.original_max_positions == 96
    inside = {**llama3, "original_max_position_embeddings": 32}
    assert parse_config({**scaled, "rope_scaling": inside}).rope.original_max_positions == 32


@pytest.mark.parametrize(
    ("in_config", "in_generation", "expected"),
    [(2, None, (2,)), ([5, 3], None, (3, 5)), (None, None, ()), (2, [7, 9], (7, 9)), (2, {}, (2,))],
    ids=str,
)
def test_end_tokens(make_folder: MakeFolder, in_config: Any, in_generation: Any, expected: tuple[int, ...]) -> None:
    """generation_config.json decides if it names end tokens, else config.json does; one or a list."""
    folder = make_folder(eos_token_id=in_config)
    if in_generation is not None:
        content = in_generation if isinstance(in_generation, dict) else {"eos_token_id": in_generation}
        (folder / "generation_config.json").write_text(json.dumps(content))
    assert reference.load(folder).config.eos_ids == expected


def test_config_hash_ignores_formatting_only(make_folder: MakeFolder) -> None:
    """Key order and spaces do not change the hash; a value does."""
    raw = json.loads((make_folder() / "config.json").read_text())
    assert config_hash(dict(reversed(raw.items()))) == config_hash(raw) == reference.load(make_folder()).config_hash
    assert config_hash({**raw, "rms_norm_eps": 2e-5}) != config_hash(raw)


def test_tokenizer_is_used_when_present(make_folder: MakeFolder) -> None:
    """Text goes through the folder's own tokenizer.json and comes back."""
    folder = make_folder()
    tokenizer = Tokenizer(models.WordLevel({"we": 5, "run": 9, "[UNK]": 0}, unk_token="[UNK]"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    model = reference.load(folder)
    assert model.encode("we run we") == [5, 9, 5]
    assert model.decode(np.array([9, 5])) == "run we"


def test_a_folder_without_tokenizer_runs_on_ids(make_folder: MakeFolder) -> None:
    """Without tokenizer.json ids still run, and text is refused with one line that says what to do."""
    model = reference.load(make_folder())
    assert reference.forward(model, IDS).shape == (1, 5, 61)
    with pytest.raises(InputError, match=r"has no tokenizer\.json; give --prompt-tokens, or token ids"):
        model.encode("we run")


def test_a_broken_tokenizer_is_refused(make_folder: MakeFolder) -> None:
    """A tokenizer.json that does not parse is an InputError naming the file."""
    folder = make_folder()
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match=r"tokenizer\.json is not a readable tokenizer"):
        reference.load(folder).decode([1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "qwen3"}, "model_type 'qwen3' is not one of llama, mistral, qwen2"),
        ({"model_type": None}, "model_type None"),
        ({"model_type": ["llama"]}, "model_type"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"num_local_experts": 8}, "num_local_experts 8 means mixture of experts"),
        ({"model_type": "mistral", "max_position_embeddings": 4097}, "sliding_window 4096 is not supported"),
        ({"model_type": "mistral", "sliding_window": 95}, "sliding_window 95"),
        ({"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 8}, "sliding_window 8"),
        ({"layer_types": ["full_attention", "sliding_attention", "full_attention"]}, "layer_types"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "rope type 'yarn' is not one of default, linear"),
        ({"rope_parameters": None, "rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope type 'dynamic'"),
        ({"rope_parameters": {"rope_type": "linear"}}, "factor must be a positive float32 number, found None"),
        ({"rope_parameters": {"rope_theta": 0}}, "rope_theta must be a positive float32 number"),
        ({"rope_parameters": "default"}, "rope_parameters must be an object or null"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor 0.5"),
        (
            {
                "rope_parameters": {
                    "rope_type": "llama3",
                    "factor": 8.0,
                    "low_freq_factor": 4.0,
                    "high_freq_factor": 4.0,
                }
            },
            "high_freq_factor 4.0 must be above low_freq_factor 4.0",
        ),
        ({"hidden_size": None}, "hidden_size must be a positive integer below 2^31, found None"),
        ({"hidden_size": "24"}, "hidden_size must be a positive integer below 2^31, found '24'"),
        ({"num_hidden_layers": 1 << 31}, "num_hidden_layers must be a positive integer below 2^31"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be a positive integer below 2^31, found 0"),
        ({"vocab_size": True}, "vocab_size must be a positive integer below 2^31, found True"),
        ({"vocab_size": 61.5}, "vocab_size must be a positive integer below 2^31, found 61.5"),
        ({"num_key_value_heads": 3}, "num_attention_heads 4 must be a multiple of num_key_value_heads 3"),
        ({"head_dim": None, "num_attention_heads": 10}, "hidden_size 24 must be a multiple of num_attention_heads 10"),
        ({"head_dim": 7}, "even head_dim, found 7"),
        ({"rms_norm_eps": -1}, "rms_norm_eps must be a positive float32 number"),
        ({"attention_bias": "no"}, "attention_bias must be true or false"),
        ({"eos_token_id": "</s>"}, "eos_token_id must be a token id or a list of them, found '</s>'"),
        ({"eos_token_id": [1, -2]}, "eos_token_id"),
    ],
    ids=str,
)
def test_what_cannot_run_is_refused_by_name(make_folder: MakeFolder, changes: dict[str, Any], message: str) -> None:
    """Each key the decoder cannot honour is named with the value found, before weights are read."""
    folder = make_folder()
    edit_config(folder, lambda raw: raw.update(changes))
    (folder / "model.safetensors").write_bytes(b"not read")
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        reference.load(folder)
    assert "\n" not in str(caught.value)


def test_a_window_that_never_closes_is_accepted(make_folder: MakeFolder) -> None:
    """A sliding window as long as the model's positions, or none, leaves attention as it is."""
    expected = reference.forward(reference.load(make_folder()), IDS)
    for window in (None, 96):
        folder = make_folder(model_type="mistral", sliding_window=window)
        np.testing.assert_array_equal(reference.forward(reference.load(folder), IDS), expected)
    assert set(FAMILIES) == {"llama", "mistral", "qwen2"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "config.json is not valid JSON"),
        (b"\xff\xfe\x00", "config.json is not valid JSON"),
        (b"[1]", "config.json must hold a JSON object, found list"),
        (b"[" * 100_000, "config.json is not valid JSON"),
    ],
    ids=["open brace", "not utf-8", "list", "deep"],
)
def test_unreadable_config_is_refused(make_folder: MakeFolder, content: bytes, message: str) -> None:
    """A config.json that is not a JSON object is an InputError naming the file."""
    folder = make_folder()
    (folder / "config.json").write_bytes(content)
    with pytest.raises(InputError, match=message):
        reference.load(folder)


def test_missing_folder_and_files_are_refused(make_folder: MakeFolder, tmp_path: Path) -> None:
    """No folder, a file in its place, no config.json and no weights each have their own line."""
    with pytest.raises(InputError, match="absent is not a folder"):
        reference.load(tmp_path / "absent")
    folder = make_folder()
    with pytest.raises(InputError, match="is not a folder"):
        reference.load(folder / "config.json")
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"neither model\.safetensors nor model\.safetensors\.index\.json"):
        reference.load(folder)
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match=r"cannot read .*config\.json: No such file"):
        reference.load(folder)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({}, "has no weight_map"),
        ({"weight_map": {"model.norm.weight": "../outside.safetensors"}}, r"files of its own folder, found '\.\./"),
        ({"weight_map": {"model.norm.weight": "gone.safetensors"}}, r"cannot read .*gone\.safetensors"),
        ({"weight_map": {"model.other": "part.safetensors"}}, "lacks tensor model.other"),
    ],
    ids=["empty", "outside", "gone", "lacking"],
)
def test_a_wrong_index_is_refused(make_folder: MakeFolder, index: dict[str, Any], message: str) -> None:
    """An index that names nothing, a file elsewhere, a missing file or a missing tensor is an InputError."""
    folder = make_folder()
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=message):
        reference.load(folder)


def test_every_truncation_is_refused(make_folder: MakeFolder) -> None:
    """Cut anywhere, in the length, the header or the data, the file is refused and named."""
    folder = make_folder()
    whole = (folder / "model.safetensors").read_bytes()
    header_end = 8 + struct.unpack("<Q", whole[:8])[0]
    for length in (0, 5, 8, header_end - 1, header_end, len(whole) // 2, len(whole) - 1):
        (folder / "model.safetensors").write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"model\.safetensors is truncated"):
            reference.load(folder)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_or_read(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    """No content of a weights file leads to anything but a header or an InputError."""
    path = tmp_path_factory.mktemp("bytes") / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(content)) + content)
    try:
        read_header(path)
    except InputError as error:
        assert str(path) in str(error)  # noqa: PT017 - a readable header is as right an outcome


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"dtype": "F32", "shape": [2]}, "entry of tensor x is malformed"),
        ({"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}, "entry of tensor x is malformed"),
        ({"dtype": "F32", "shape": 2, "data_offsets": [0, 8]}, "entry of tensor x is malformed"),
        ("F32", "entry of tensor x is malformed"),
        ({"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}, r"F32 \[3\] cannot take 8 bytes"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}, "cannot take -8 bytes"),
        ({"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}, "truncated: tensor x"),
    ],
    ids=str,
)
def test_an_inconsistent_header_is_refused(tmp_path: Path, entry: Any, message: str) -> None:
    """A header entry that does not describe its bytes is refused with the tensor's name."""
    text = json.dumps({"x": entry}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
    with pytest.raises(InputError, match=message):
        read_header(path)


def test_tensors_must_be_those_of_the_configuration(make_folder: MakeFolder, make_tensors: Callable[..., Any]) -> None:
    """A missing, surplus, wrong-shaped or integer tensor is named, with what was found and what was expected."""
    name = "model.layers.1.self_attn.k_proj.weight"
    tensors = make_tensors()
    without = {key: value for key, value in tensors.items() if key != name}
    for changed, message in (
        (without, rf"{name} of shape \[16, 24\] is missing"),
        ({**tensors, name: tensors[name][:8]}, rf"{name} has shape \[8, 24\], expected \[16, 24\]"),
        ({**tensors, name: tensors[name].astype(np.int32)}, f"{name} is stored as I32, only F32, F16, BF16"),
        ({**tensors, "model.layers.0.self_attn.q_norm.weight": np.ones(8, np.float32)}, "q_norm.weight has no place"),
    ):
        with pytest.raises(InputError, match=message):
            reference.load(make_folder(changed))
    harmless = {**tensors, "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32)}
    assert reference.load(make_folder(harmless)).num_parameters == sum(t.size for t in tensors.values())


def test_a_tied_head_may_be_stored_if_it_is_equal(make_folder: MakeFolder, make_tensors: Callable[..., Any]) -> None:
    """A stored head beside tied embeddings is accepted when equal; otherwise the folder contradicts itself."""
    tensors = make_tensors(tie_word_embeddings=True)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    reference.load(make_folder(tensors, tie_word_embeddings=True))
    tensors["lm_head.weight"][0, 0] += 1
    with pytest.raises(InputError, match=r"tie_word_embeddings is true, but lm_head\.weight differs"):
        reference.load(make_folder(tensors, tie_word_embeddings=True))


def test_too_little_memory_is_refused_before_reading(make_folder: MakeFolder) -> None:
    """A model that does not fit is refused from its shapes alone, with both numbers, however large they are."""
    folder = make_folder()
    need = 4 * (reference.load(folder).num_parameters + 24 * 80)
    assert reference.load(folder, available_bytes=need).num_parameters
    with pytest.raises(InputError, match="in float32 needs"):
        reference.load(folder, available_bytes=need - 1)
    edit_config(folder, lambda raw: raw.update(num_hidden_layers=10**9, hidden_size=10**6))
    with pytest.raises(InputError, match=r"needs \d+\.\d\d GB of memory, 5\.00 GB are available"):
        reference.load(folder, available_bytes=5 * 10**9)


def test_a_cache_beyond_memory_is_refused(make_folder: MakeFolder) -> None:
    """A cache that does not fit is refused before it is allocated."""
    model = reference.load(make_folder())
    with pytest.raises(InputError, match="a KV cache of batch 1000000000 and capacity 96 needs"):
        model.new_cache(10**9, 96)
