"""The knob experiments on transformers models: stages of one call, forwards counted, knobs put back."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import numpy as np
import pytest

from perstep.data import knob_results_schema_path
from perstep.errors import InputError
from perstep.experiments.knobs import context, depth, experts, output
from perstep.experiments.knobs.session import measure_pass
from perstep.measure import FakeClock
from perstep.runs import encode_json

pytestmark = pytest.mark.hf
pytest.importorskip("torch")

TEXT = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
SMALL: dict[str, Any] = {"new_tokens": 3, "rounds": 2}


def no_progress(_share: float, _what: str) -> None:
    """Nobody looks."""


def holds_to_the_schema(findings: Any) -> None:
    """The findings as they are written agree with the published schema."""
    jsonschema.validate(json.loads(encode_json(findings)), json.loads(knob_results_schema_path().read_bytes()))


def architecture(folder: Path, model_type: str, **config: Any) -> str:
    """A config.json of a tiny architecture."""
    path = folder / "config.json"
    path.write_text(json.dumps({"model_type": model_type, **TEXT, **config}))
    return str(path)


def test_prompts_of_token_ids_go_with_random_weights(tmp_path: Path) -> None:
    """Two lengths in one run of a transformers model; quality is of what it wrote after each. Texts are refused."""
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"ids": [3, 4, 5]}\n{"ids": [5, 4, 3, 5, 4, 3]}\n', encoding="utf-8")
    arch = architecture(tmp_path, "llama")
    plan = depth.Plan(arch=arch, prompts=path, batch=2, num_active_blocks=(1, 4), **SMALL)
    made = depth.prepare(plan, no_progress, FakeClock(tick_ns=1))
    findings = depth.analyse(made.manifest, [made.measure_round(0), made.measure_round(1)])
    holds_to_the_schema(findings)
    assert findings.invalid == ""
    assert [s.num_input_text_tokens for s in findings.all_samples] == [3, 6] * 4
    full = findings.summary[1]
    assert (full.num_input_text_tokens, full.prompt_text_tokens, full.samples) == (4.5, [3, 6], 4)
    assert full.quality is not None
    assert (full.quality.scored_tokens, full.quality.kl) == (2 * 2 * 3, 0)
    path.write_text('{"prompt": "a text"}\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"prompts\.jsonl, line 1: .* has no tokenizer; give `ids` in place of"):
        depth.prepare(plan, no_progress, FakeClock(tick_ns=1))


def test_depth_of_a_transformers_model(tmp_path: Path) -> None:
    """A tuple-returning family: stages lie within the call, forwards are N - 1, quality is on its own output."""
    plan = depth.Plan(arch=architecture(tmp_path, "falcon"), prompt_tokens=5, num_active_blocks=(1, 4), **SMALL)
    made = depth.prepare(plan, no_progress, FakeClock(tick_ns=1))
    samples = [made.measure_round(0), made.measure_round(1)]
    findings = depth.analyse(made.manifest, samples)
    assert findings.invalid == ""
    for sample in findings.all_samples:
        assert 0 < sample.T_LLM_prefill + sample.T_LLM_decode < sample.T_total
        assert sample.T_LLM_decode_per_forward == pytest.approx(sample.T_LLM_decode / 2)
        assert (sample.num_input_text_tokens, sample.num_output_tokens, sample.T_vision_total) == (5, 3, 0)
    one, full = (s.quality for s in findings.summary)
    assert one is not None
    assert full is not None
    assert one.perplexity is None
    assert one.kl > full.kl == 0
    assert one.scored_tokens == 3
    assert made.manifest.conditions["random_weights"]
    depth.files(made.manifest, findings)


def test_both_backends_find_the_same_quality() -> None:
    """`mini` in NumPy and in transformers, with blocks skipped."""
    options: dict[str, Any] = {"prompt_tokens": 5, "num_active_blocks": (1, 2, 4), "quality_tokens": 40, **SMALL}
    found = []
    for backend in ("numpy", "torch"):
        made = depth.prepare(depth.Plan(model="mini", backend=backend, **options), no_progress, FakeClock(tick_ns=1))
        found.append([c["quality"] for c in made.manifest.conditions["configurations"]])
    for ours, theirs in zip(*found, strict=True):
        assert ours["perplexity"] == pytest.approx(theirs["perplexity"], rel=1e-4)
        assert ours["kl"] == pytest.approx(theirs["kl"], rel=1e-3, abs=1e-6)


def test_a_call_generates_as_many_tokens_as_it_is_asked_for(tmp_path: Path) -> None:
    """End tokens are held off by replay, in shorter calls too."""
    opened = depth.Plan(arch=architecture(tmp_path, "llama")).open()
    opened.model.generation_config.eos_token_id = list(range(96))  # whatever it says is the end
    work = opened.record(np.array([[3, 4, 5]]), 6)
    for count in (6, 1, 4):
        made = measure_pass(opened, work.shortened(count), FakeClock(tick_ns=1))
        assert made.decode_ns is not None
        assert (len(made.decode_ns), made.differing) == (count - 1, 0)


def test_experts_are_measured_and_put_back(tmp_path: Path) -> None:
    """Each implementation and k; eager waits for each expert, the others do not."""
    arch = architecture(tmp_path, "olmoe", num_experts=4, num_experts_per_tok=2, num_key_value_heads=4)
    made = experts.prepare(experts.Plan(arch=arch, prompt_tokens=5, **SMALL), no_progress, FakeClock(tick_ns=1))
    findings = experts.analyse(made.manifest, [made.measure_round(0), made.measure_round(1)])
    assert findings.invalid == ""
    assert [s.top_k for s in findings.summary] == [1, 2, 4] * 3
    syncs = {s.label: s.syncs_per_step for s in findings.summary}
    assert syncs["k = 4, eager"] > syncs["k = 1, eager"] > syncs["k = 4, batched_mm"]  # type: ignore[operator]
    own = next(s for s in findings.summary if s.label == "k = 2, grouped_mm")
    assert own.quality is not None
    assert (own.quality.kl, own.quality.top1_agreement) == (0, 1)
    assert made.manifest.conditions["unchanged"] == [findings.summary.index(own)]
    model = made._of[0].target.model
    assert {m.top_k for m in model.modules() if hasattr(m, "top_k")} == {2}
    assert model.config._experts_implementation == "grouped_mm"
    assert {"decode_per_forward/eager", "prefill/batched_mm"} <= set(findings.fits)
    holds_to_the_schema(findings)
    assert {"experts.png", "experts.csv"} <= set(experts.files(made.manifest, findings))


def test_experts_of_two_models_are_counted_apart(tmp_path: Path) -> None:
    """Each has its own k of its own number of experts; with a dense one among them the run is refused by its name."""
    moe = {"num_key_value_heads": 4, "num_hidden_layers": 2}
    folders = [tmp_path / name for name in ("few", "many", "dense")]
    for folder in folders:
        folder.mkdir()
    few = architecture(folders[0], "olmoe", num_experts=4, num_experts_per_tok=2, **moe)
    many = architecture(folders[1], "olmoe", num_experts=8, num_experts_per_tok=4, **moe)
    plan = experts.Plan(arch=f"{few},{many}", prompt_tokens=5, implementations="eager", quality_tokens=0, **SMALL)
    made = experts.prepare(plan, no_progress, FakeClock(tick_ns=1))
    findings = experts.analyse(made.manifest, [made.measure_round(0), made.measure_round(1)])
    assert [(s.model, s.top_k) for s in findings.summary] == [
        *(("few", k) for k in (1, 2, 4)), *(("many", k) for k in (1, 2, 4, 8)),
    ]  # fmt: skip
    assert findings.invalid == ""
    holds_to_the_schema(findings)
    notes = [table.notes[-2] for table in experts.tables(made.manifest, findings)]
    assert notes[0].startswith("The model itself: k = 2 of 4 experts")
    assert notes[1].startswith("The model itself: k = 4 of 8 experts")
    assert b"takes 4 of 8 experts a token" in experts.files(made.manifest, findings)["README.md"]
    dense = architecture(folders[2], "llama")
    with pytest.raises(InputError, match=r"^dense: LlamaForCausalLM \(llama\) is a dense model"):
        experts.prepare(experts.Plan(arch=f"{few},{dense}", **SMALL), no_progress, FakeClock(tick_ns=1))
    with pytest.raises(InputError, match=r"^few: --top-k 8: the routers choose among 4 experts"):
        experts.prepare(experts.Plan(arch=f"{many},{few}", top_k=(8,), **SMALL), no_progress, FakeClock(tick_ns=1))


def test_experts_are_measured_with_each_prompt(tmp_path: Path) -> None:
    """Every k with both, each under its own length."""
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"ids": [3, 4]}\n{"ids": [5, 4, 3, 5]}\n', encoding="utf-8")
    arch = architecture(tmp_path, "olmoe", num_experts=4, num_experts_per_tok=2, num_key_value_heads=4)
    plan = experts.Plan(arch=arch, prompts=path, top_k=(1, 2), implementations="eager", quality_tokens=0, **SMALL)
    made = experts.prepare(plan, no_progress, FakeClock(tick_ns=1))
    findings = experts.analyse(made.manifest, [made.measure_round(0)])
    assert findings.invalid == ""
    assert [(s.top_k, s.num_input_text_tokens) for s in findings.all_samples] == [(1, 2), (1, 4), (2, 2), (2, 4)]
    assert [p.num_input_text_tokens for p in findings.summary[0].prompts] == [2, 4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": (1, 9)}, "--top-k 9: the routers choose among 4 experts"),
        ({"top_k": (0,)}, "--top-k 0: it must be at least 1"),
        ({"implementations": "eager,nonsense"}, "--implementations nonsense does not run here"),
    ],
)
def test_bad_experts_are_named(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    """Before anything is measured."""
    arch = architecture(tmp_path, "olmoe", num_experts=4, num_experts_per_tok=2, num_key_value_heads=4)
    with pytest.raises(InputError, match=message):
        experts.prepare(experts.Plan(arch=arch, prompt_tokens=5, **SMALL, **options), no_progress, FakeClock(tick_ns=1))


def test_a_dense_model_has_no_experts(tmp_path: Path) -> None:
    """The built-in one and a transformers one, by name."""
    with pytest.raises(InputError, match="mini is a dense model"):
        experts.prepare(experts.Plan(model="mini"), no_progress, FakeClock())
    with pytest.raises(InputError, match=r"LlamaForCausalLM \(llama\) is a dense model"):
        experts.prepare(experts.Plan(arch=architecture(tmp_path, "llama")), no_progress, FakeClock())


def test_context_counts_vision_tokens(tmp_path: Path) -> None:
    """Vision, prefill and decode in one call; tokens grow with the size and the number of images."""
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
    vision = {
        "depth": 2, "hidden_size": 32, "num_heads": 4, "patch_size": 4, "spatial_merge_size": 2, "embed_dim": 32,
        "mlp_ratio": 2, "temporal_patch_size": 2,
    }  # fmt: skip
    path = tmp_path / "config.json"
    config = {
        "model_type": "qwen2_vl", "text_config": {**TEXT, "rope_parameters": rope}, "vision_config": vision,
        "image_token_id": 90, "video_token_id": 91, "vision_start_token_id": 92, "vision_end_token_id": 93,
    }  # fmt: skip
    path.write_text(json.dumps(config))
    plan = context.Plan(arch=str(path), prompt_tokens=(4,), images=(0, 1, 2), image_size=(16, 32), **SMALL)
    made = context.prepare(plan, no_progress, FakeClock(tick_ns=1))
    findings = context.analyse(made.manifest, [made.measure_round(0), made.measure_round(1)])
    assert findings.invalid == ""
    counted = [(s.num_input_text_tokens, s.num_vision_tokens) for s in findings.summary]
    assert counted == [(4, 0), (6, 4), (6, 16), (8, 8), (8, 32)]  # the ends of an image are text
    seen = [s for s in findings.all_samples if s.num_vision_tokens]
    assert all(s.T_vision_total + s.T_LLM_prefill + s.T_LLM_decode < s.T_total for s in seen)
    assert all(s.T_vision_total > 0 for s in seen)
    assert "vision" in findings.fits
    holds_to_the_schema(findings)
    context.files(made.manifest, findings)


def test_output_of_a_transformers_model(tmp_path: Path) -> None:
    """The same tokens, cut at other lengths."""
    plan = output.Plan(arch=architecture(tmp_path, "gpt_neox"), prompt_tokens=4, new_tokens=(1, 2, 5), rounds=2)
    made = output.prepare(plan, no_progress, FakeClock(tick_ns=1))
    findings = output.analyse(made.manifest, [made.measure_round(0)])
    assert findings.invalid == ""
    assert len(findings.positions_ms) == 4
    holds_to_the_schema(findings)


def test_memory_that_runs_out_before_measuring_is_told_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error that torch has for it, of several lines; any other of its errors stays what it is."""
    arch = architecture(tmp_path, "llama")
    words = "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 7 bytes"

    def exhausted(*_args: Any, **_options: Any) -> None:
        raise RuntimeError(f"{words}\nmore")

    monkeypatch.setattr("perstep.targets.transformers.target.record", exhausted)
    with pytest.raises(MemoryError) as told:
        depth.prepare(depth.Plan(arch=arch, **SMALL), no_progress, FakeClock())
    assert str(told.value) == words
    words = "another error"
    with pytest.raises(RuntimeError, match="another error"):
        depth.prepare(depth.Plan(arch=arch, **SMALL), no_progress, FakeClock())


def test_a_text_needs_a_tokenizer(tmp_path: Path) -> None:
    """Random weights have none."""
    (tmp_path / "text.txt").write_text("some text")
    plan = depth.Plan(arch=architecture(tmp_path, "llama"), text=tmp_path / "text.txt", **SMALL)
    with pytest.raises(
        InputError, match=r"^--text .*text\.txt: .* has random weights and no tokenizer; leave --text out"
    ):
        depth.prepare(plan, no_progress, FakeClock())


def test_settings_that_do_not_go_together_are_one_line(tmp_path: Path) -> None:
    """A constructor's own error, of whichever kind, with its name where it says a name alone."""
    arch = architecture(tmp_path, "llama", rope_parameters={"rope_type": "nonsense", "rope_theta": 1e4})
    with pytest.raises(InputError, match=r"^transformers cannot build this model: KeyError 'nonsense'"):
        context.prepare(context.Plan(arch=arch, **SMALL), no_progress, FakeClock())


def test_what_would_not_fit_into_memory_is_left_out_before_it_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`batched_mm` copies the weights of each token's experts; asked for by name, it is refused in one line."""
    arch = architecture(tmp_path, "olmoe", num_experts=4, num_experts_per_tok=2, num_key_value_heads=4)
    monkeypatch.setattr("perstep.experiments.knobs.experts.session.free_memory", lambda _device: 60_000)
    plan = experts.Plan(arch=arch, prompt_tokens=5, quality_tokens=0, **SMALL)
    made = experts.prepare(plan, no_progress, FakeClock(tick_ns=1))
    kept = [one["label"] for one in msgspec.to_builtins(made.manifest.conditions["configurations"])]
    assert [label for label in kept if "batched" in label] != [f"k = {k}, batched_mm" for k in (1, 2, 4)]
    assert {f"k = {k}, eager" for k in (1, 2, 4)} <= set(kept)
    assert any("k = 4, batched_mm was left out: it copies the weights" in told for told in made.manifest.warnings)
    with pytest.raises(InputError, match=r"--implementations batched_mm with k = 4: it copies"):
        experts.prepare(replace(plan, implementations="batched_mm", top_k=(4,)), no_progress, FakeClock(tick_ns=1))
