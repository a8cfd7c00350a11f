"""The `ledger` of transformers models: real generate calls in fake time, and what a device adds."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perstep.errors import InputError, InvalidMeasurement
from perstep.experiments import ledger
from perstep.experiments.ledger import Plan, analyse, prepare, tables
from perstep.experiments.ledger.session import LedgerSession
from perstep.measure import FakeClock
from perstep.targets.reference import Sampler
from perstep.targets.transformers.target import generate_options

pytestmark = pytest.mark.hf
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

MakeLlama = Callable[..., Path]
MS = 1_000_000


def no_progress(_share: float, _what: str) -> None:
    """Nobody looks."""


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Threads and random generator of torch are left as they were."""
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    yield
    torch.set_num_threads(threads)
    assert torch.equal(torch.get_rng_state(), state)


def session(folder: Path, clock: FakeClock | None = None, **plan: Any) -> LedgerSession:
    """A session over a folder, on torch, with a few tokens unless the plan says otherwise."""
    options = {"prompt_tokens": 8, "new_tokens": 4, "rounds": 3, **plan}
    if "prompt" in plan or "arch" in plan:
        options = {"new_tokens": 4, "rounds": 3, **plan}
    model = None if "arch" in plan else str(folder)
    return prepare(Plan(model=model, **options), no_progress, clock or FakeClock(tick_ns=1))


def test_both_arms_are_generate_calls_over_one_trace(tiny_llama: Path) -> None:
    """One prefill and N - 1 decode steps a pass; marked ones add up exactly, plain ones have no parts."""
    made = session(tiny_llama, FakeClock(tick_ns=7), batch=2)
    sample = made.measure_round(0)
    assert sorted(p.arm for p in sample.passes) == ["marked", "marked", "plain", "plain"]
    for measured in sample.passes:
        assert measured.differing_choices == 0
        assert {kind: len(held.step_ns) for kind, held in measured.kinds.items()} == {"decode": 3, "prefill": 1}
        for held in measured.kinds.values():
            if measured.arm == "plain":
                assert (held.parts, held.residual_ns.size) == ({}, 0)
                assert set(held.step_ns.tolist()) == {7}  # nothing but its two ends was read
            else:
                total = sum(held.parts.values(), start=np.asarray(held.residual_ns))
                assert np.array_equal(total, held.step_ns)
    made.finish()


@pytest.mark.parametrize(
    ("detail", "inside"),
    [("phases", {"forward"}), ("modules", {"attn", "mlp", "lm_head"}), ("layers", {"attn/0", "attn/1", "mlp/1"})],
)
def test_detail_is_how_far_the_forward_is_looked_into(detail: Any, inside: set[str], tiny_llama: Path) -> None:
    """By module unless told."""
    made = session(tiny_llama, detail=detail)
    found = analyse(made.manifest, [made.measure_round(0)]).decode
    assert found is not None
    assert inside < set(found.parts)
    assert made.manifest.conditions["detail"] == detail
    if detail == "modules":
        assert session(tiny_llama).manifest.conditions["detail"] == "modules"


@pytest.mark.parametrize("delay_us", [20, 2000])
def test_a_delay_inside_a_module_is_found_in_its_part(
    delay_us: int, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The part grows by the delay to the nanosecond, the headline too, and nothing else does."""
    clock, found = FakeClock(tick_ns=1), []
    mlp = transformers.models.llama.modeling_llama.LlamaMLP
    original = mlp.forward
    for delay_ns in (0, 1_000 * delay_us):

        def delayed(*args: Any, delay_ns: int = delay_ns) -> Any:
            clock.advance(delay_ns)
            return original(*args)

        monkeypatch.setattr(mlp, "forward", delayed)
        made = session(tiny_llama, clock)
        found.append(analyse(made.manifest, [made.measure_round(number) for number in range(3)]).decode)
    before, after = found
    assert before is not None
    assert after is not None
    moved = {name: after.parts[name].ns - before.parts[name].ns for name in before.parts}
    assert moved == {name: 2_000 * delay_us if name == "mlp" else 0 for name in before.parts}
    assert after.plain_step_ns - before.plain_step_ns == 2_000 * delay_us


def test_drawn_tokens_are_replayed_and_drawn_again(tiny_llama: Path) -> None:
    """The generator is seeded for each call, so every replay draws what was recorded."""
    made = session(tiny_llama, temperature=1.0, top_k=50, top_p=0.9, batch=3, new_tokens=9)
    sample = made.measure_round(0)
    assert [measured.differing_choices for measured in sample.passes] == [0] * 4
    marked = next(p for p in sample.passes if p.arm == "marked")
    assert {"logits/TopKLogitsWarper", "logits/TopPLogitsWarper"} < set(marked.kinds["decode"].parts)
    greedy = {int(ids.max()) for ids in session(tiny_llama, batch=3, new_tokens=9)._work.trace.chosen_BN}
    assert greedy != {int(ids.max()) for ids in made._work.trace.chosen_BN}


def test_the_way_to_choose_is_handed_to_generate(tiny_llama: Path) -> None:
    """And what the model's own settings say about it is not obeyed."""
    model = session(tiny_llama)._target.model
    greedy = generate_options(model, Sampler())
    assert (greedy["do_sample"], greedy["temperature"], greedy["top_k"], greedy["top_p"]) == (False, None, None, None)
    drawn = generate_options(model, Sampler(0.5, 7, 0.9))
    assert (drawn["do_sample"], drawn["temperature"], drawn["top_k"], drawn["top_p"]) == (True, 0.5, 7, 0.9)


def test_end_tokens_do_not_end_the_trace(make_llama: MakeLlama, tmp_path: Path) -> None:
    """They are looked for at every step, as in any call."""
    made = session(make_llama(tmp_path / "ends", eos_token_id=list(range(260))), new_tokens=5)
    marked = next(p for p in made.measure_round(0).passes if p.arm == "marked")
    assert len(marked.kinds["decode"].step_ns) == 4
    assert "stop/EosTokenCriteria" in marked.kinds["decode"].parts


def test_syncs_are_counted_in_a_replay_of_their_own(tiny_llama: Path) -> None:
    """One a decode step: the question whether all rows have stopped."""
    made = session(tiny_llama)
    found = analyse(made.manifest, [made.measure_round(0)])
    assert found.decode is not None
    assert found.decode.syncs_per_step == found.decode.parts["sync"].syncs_per_step == 1
    assert found.decode.parts["mlp"].syncs_per_step == 0
    assert found.prefill.syncs_per_step is not None
    assert found.prefill.syncs_per_step > 1
    [table, _] = tables(made.manifest, found)
    shown = {row[0]: row[table.header.index("syncs/step")] for row in table.rows}
    assert (shown["sync"], shown["mlp"], shown["step (decode, instrumented)"]) == ("1.00", "", "1.00")


def test_random_weights_are_said(tmp_path: Path) -> None:
    """Law "random weights are a statement": in the manifest, in the table and in the README."""
    config = {
        "model_type": "llama", "vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 32,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    made = session(tmp_path, arch=str(tmp_path / "config.json"), layers=2, prompt_tokens=6)
    found = analyse(made.manifest, [made.measure_round(0)])
    assert made.manifest.model["random_weights"] is True
    assert made.manifest.model["num_layers"] == 2
    assert any("weights are random" in note for note in tables(made.manifest, found)[0].notes)
    assert "weights are random" in ledger.files(made.manifest, found)["README.md"].decode()
    with pytest.raises(InputError, match="has random weights and no tokenizer; give --prompt-tokens"):
        session(tmp_path, arch=str(tmp_path / "config.json"), prompt="a")


def test_mini_runs_on_either_backend_and_chooses_the_same() -> None:
    """The folder that ships with perstep is in the standard format; its held-out sentences are the prompt of both."""
    made = [
        prepare(Plan(backend=backend, prompt_tokens=16, new_tokens=4, rounds=1), no_progress, FakeClock(tick_ns=1))
        for backend in ("numpy", "torch")
    ]
    one, other = (each._work.trace for each in made)
    assert np.array_equal(one.prompt_BT, other.prompt_BT)
    assert np.array_equal(one.chosen_BN, other.chosen_BN)
    assert [each.manifest.model["name"] for each in made] == ["mini", "mini"]


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ({"prompt_tokens": 65}, "a prompt of 65 tokens is longer than the model's context of 64"),
        ({"new_tokens": 58}, "overflow the model's context of 64; at most 57 new tokens fit"),
        ({"batch": 10**12}, "needs .* GB of memory"),
        ({"layers": 1}, "--layers goes with --arch"),
        ({"prompt": ""}, "--prompt is empty"),
        ({"dtype": "int8"}, "unknown dtype 'int8'"),
        ({"device": "cuda"}, "--device cuda cannot be used here"),
        ({"temperature": -1.0}, "temperature must be"),
        ({"backend": "numpy", "detail": "layers"}, "--detail goes with transformers models"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(plan: dict[str, Any], said: str, tiny_llama: Path) -> None:
    """By the name of what is wrong, with what would be right."""
    with pytest.raises(InputError, match=said):
        session(tiny_llama, **plan)


def test_a_generator_that_was_moved_is_told(tiny_llama: Path) -> None:
    """The state is as before (law "the state is as before"), or the run is invalid."""
    made = session(tiny_llama)
    made.finish()
    state = torch.get_rng_state()
    torch.rand(1)
    with pytest.raises(InvalidMeasurement, match="random generator is not as it was"):
        made.finish()
    torch.set_rng_state(state)


def test_the_prompt_of_an_encoder_is_what_was_given_to_it() -> None:
    """The decoder begins with one token of its own."""
    made = session(Path(), arch="t5-small", layers=1, prompt_tokens=6, new_tokens=2)
    assert made.manifest.workload["prompt_tokens"] == 6
    assert made._work.trace.prompt_BT.shape == (1, 1)
    found = analyse(made.manifest, [made.measure_round(0)])
    assert "encoder" in found.prefill.parts


def test_a_decoder_without_a_first_token_begins_with_padding(tmp_path: Path) -> None:
    """A `config.json` may leave out `decoder_start_token_id`, which generate refuses."""
    sizes = {"vocab_size": 64, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2}
    config = transformers.T5Config(**sizes, pad_token_id=5)
    config.architectures = ["T5ForConditionalGeneration"]
    config.save_pretrained(tmp_path)
    made = session(Path(), arch=str(tmp_path / "config.json"), prompt_tokens=6, new_tokens=2)
    assert made._work.trace.prompt_BT.tolist() == [[5]]
