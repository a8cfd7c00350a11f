"""A recorded trace replayed inside unchanged generate calls: same contexts, own choices kept, nothing left behind."""

from typing import Any

import numpy as np
import pytest

from perstep.errors import InputError
from perstep.measure import FakeClock, Recorder
from perstep.targets.transformers import GenerateTrace, Instrument, Replay, record
from perstep.targets.transformers._wrap import _LAYERS

pytestmark = pytest.mark.hf
torch = pytest.importorskip("torch")

N = 6


def generate(model: Any, *args: Any, **kwargs: Any) -> Any:
    """A call of N tokens, greedy unless said otherwise."""
    return model.generate(*args, **{"max_new_tokens": N, "do_sample": False, **kwargs})


def strange(prompt_BT: Any, vocab: int = 96, seed: int = 3) -> GenerateTrace:
    """Tokens that no model would choose."""
    chosen = np.random.default_rng(seed).integers(3, vocab, (len(prompt_BT), N))
    return GenerateTrace(prompt_BT.numpy(), chosen)


def unchanged(model: Any) -> None:
    """No wrapper is left on the model."""
    assert not {"generate", "prepare_inputs_for_generation", "_get_stopping_criteria"} & set(vars(model))
    assert not _LAYERS


@pytest.mark.parametrize("options", [{"do_sample": False}, {"do_sample": True, "top_k": 20}], ids=["greedy", "drawn"])
def test_what_was_recorded_is_chosen_again(llama, ids, options):
    """Greedy or drawn: the trace is what the call gives by itself, and each replay chooses it again."""
    trace = record(llama, ids, N, seed=7, **options)
    torch.manual_seed(7)
    expected = generate(llama, ids, **options)
    assert expected.tolist() == np.concatenate([trace.prompt_BT, trace.chosen_BN], 1).tolist()
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    with Replay(llama, trace) as replay:
        for _ in range(2):
            assert torch.equal(generate(llama, ids, **options), expected)
    assert [(call.differing, call.forwards) for call in replay.calls] == [(0, N)] * 2
    assert replay.forwards == 2 * N
    assert torch.equal(torch.random.get_rng_state(), before)
    unchanged(llama)


@pytest.mark.parametrize("options", [{}, {"cache_implementation": "static"}, {"use_cache": False}], ids=str)
def test_the_contexts_are_those_of_the_trace(llama, ids, options):
    """With padded rows: what is chosen at each step is the best token after the forced ones, not after the own ones."""
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    trace = strange(ids)
    with Replay(llama, trace) as replay:
        output = generate(llama, ids, attention_mask=mask, **options)
    assert output[:, ids.shape[1] :].tolist() == trace.chosen_BN.tolist()
    full = torch.ones_like(output)
    full[:, : ids.shape[1]] = mask
    positions = (full.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        logits = llama(output, attention_mask=full, position_ids=positions).logits
    [call] = replay.calls
    assert call.chosen_BN.tolist() == logits[:, ids.shape[1] - 1 : -1].argmax(-1).tolist()
    assert call.differing == int((call.chosen_BN != trace.chosen_BN).sum()) > 0


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_an_encoder_decoder(tiny, ids, family):
    """The prompt is what the decoder begins with. BART's last token is forced by a processor, whatever the context."""
    model = tiny(family)
    trace = record(model, {"input_ids": ids}, N, do_sample=False)
    assert trace.prompt_BT.shape[0] == 2
    assert trace.chosen_BN.shape == (2, N)
    forced = strange(torch.from_numpy(trace.prompt_BT))
    with Replay(model, [trace, forced]) as replay:
        generate(model, ids)
        output = generate(model, ids)
    assert replay.calls[0].differing == 0
    assert output[:, -N:].tolist() == forced.chosen_BN.tolist()
    with torch.no_grad():
        logits = model(input_ids=ids, decoder_input_ids=output).logits
    assert replay.calls[1].chosen_BN[:, :-1].tolist() == logits[:, -N - 1 : -2].argmax(-1).tolist()


def test_embeddings_in_place_of_ids(llama):
    """The ids begin with no column at all."""
    embeddings = torch.randn(3, 4, 32, generator=torch.Generator().manual_seed(0))
    trace = record(llama, {"inputs_embeds": embeddings}, N, do_sample=False)
    assert trace.prompt_BT.shape == (3, 0)
    with Replay(llama, [trace, strange(torch.zeros(3, 0))]) as replay:
        own = generate(llama, inputs_embeds=embeddings)
        forced = generate(llama, inputs_embeds=embeddings)
    assert own.tolist() == trace.chosen_BN.tolist()
    assert replay.calls[0].differing == 0
    assert forced.tolist() == strange(torch.zeros(3, 0)).chosen_BN.tolist()


def test_one_token_is_a_prefill_alone(llama, ids):
    """N = 1 is one forward."""
    trace = record(llama, ids, 1, do_sample=False)
    with Replay(llama, trace) as replay:
        generate(llama, ids, max_new_tokens=1)
    assert [(call.forwards, call.differing) for call in replay.calls] == [(1, 0)]


def test_nothing_ends_a_call_before_n_tokens(llama, ids):
    """End of sequence and criteria are asked, and their answer is kept; the call makes N forwards all the same."""
    asked = []

    def at_seven(input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        asked.append(input_ids[:, -1].tolist())
        return input_ids[:, -1] == 7

    options = {"eos_token_id": 9, "pad_token_id": 0, "stopping_criteria": [at_seven]}
    trace = strange(ids)
    trace.chosen_BN[0, 2] = 7
    trace.chosen_BN[1, 3] = 9
    with Replay(llama, trace) as replay:
        output = generate(llama, ids, **options)
    assert output[:, -N:].tolist() == trace.chosen_BN.tolist()
    assert asked == trace.chosen_BN.T.tolist()
    [call] = replay.calls
    expected = np.isin(trace.chosen_BN, [9]) | (trace.chosen_BN == 7)
    expected[:, -1] = True  # the length
    assert call.stopped_BN.tolist() == expected.tolist()
    assert call.forwards == N
    all_stop = record(llama, ids, N, do_sample=False, stopping_criteria=[lambda ids_BT, *_, **__: ids_BT[:, 0] > 0])
    assert all_stop.chosen_BN.shape == (2, N)


def test_a_missing_processor_shows_in_the_choices(llama, ids):
    """The same contexts without a processor that decided: the choices differ and are counted."""

    def only_fives(input_ids: Any, scores: Any) -> Any:
        return torch.where(torch.arange(scores.shape[1]) == 5, scores, float("-inf"))

    trace = record(llama, ids, N, do_sample=False, logits_processor=[only_fives])
    assert (trace.chosen_BN == 5).all()
    with Replay(llama, trace) as replay:
        generate(llama, ids, logits_processor=[only_fives])
        output = generate(llama, ids)
    assert (output[:, -N:] == 5).all()
    assert replay.calls[0].differing == 0
    assert replay.calls[1].differing > 0


@pytest.mark.parametrize("replay_first", [False, True], ids=["instrument first", "replay first"])
def test_it_nests_with_an_instrument(llama, ids, replay_first):
    """Either way round: forcing is a part of its own, every other part is as without it, and both are gone after."""
    plain = Recorder(FakeClock())
    with Instrument(llama, plain, "layers"):
        generate(llama, ids)
    trace, recorder = strange(ids), Recorder(FakeClock())
    instrument, replay = Instrument(llama, recorder, "layers"), Replay(llama, trace)
    first, second = (replay, instrument) if replay_first else (instrument, replay)
    with first, second:
        output = generate(llama, ids)
    assert output[:, -N:].tolist() == trace.chosen_BN.tolist()
    steps = recorder.steps("decode")
    assert len(steps.step_ns) == N - 1
    assert set(steps.parts) == {*plain.steps("decode").parts, "stop/Replay"}
    assert {name: count for name, count in steps.marks.items() if name != "stop/Replay"} == plain.steps("decode").marks
    assert instrument.calls[0].forwards == N
    unchanged(llama)


def test_the_time_of_forcing_is_in_its_part(llama, ids, processor, criterion):
    """With planted costs, a processor and a criterion have theirs, as in a call of its own."""
    clock = FakeClock()
    options = {
        "logits_processor": [processor(lambda: clock.advance(1_000_000))],
        "stopping_criteria": [criterion(lambda: clock.advance(500_000))],
    }
    recorder = Recorder(clock)
    with Instrument(llama, recorder), Replay(llama, strange(ids)):
        generate(llama, ids, **options)
    parts = recorder.steps("decode").parts
    assert {name: set(ns.tolist()) for name, ns in parts.items() if ns.any()} == {
        "logits/Spins": {1_000_000},
        "stop/Dawdles": {500_000},
    }


def test_traces_come_in_turn(llama, ids):
    """One a call, then the first again; after `clear` too."""
    traces = [strange(ids, seed=seed) for seed in (1, 2)]
    with Replay(llama, traces) as replay:
        outputs = [generate(llama, ids)[:, -N:].tolist() for _ in range(3)]
        replay.clear()
        outputs.append(generate(llama, ids)[:, -N:].tolist())
    assert outputs == [traces[index].chosen_BN.tolist() for index in (0, 1, 0, 0)]
    assert len(replay.calls) == 1


def test_a_call_inside_a_call_is_left_alone(llama, ids):
    """A processor that generates gets its own tokens."""
    inner = []

    def generates(input_ids: Any, scores: Any) -> Any:
        inner.append(llama.generate(ids, max_new_tokens=2, do_sample=False).tolist())
        return scores

    expected = llama.generate(ids, max_new_tokens=2, do_sample=False).tolist()
    with Replay(llama, strange(ids)) as replay:
        generate(llama, ids, logits_processor=[generates])
    assert inner == [expected] * N
    assert [call.forwards for call in replay.calls] == [N]


def test_nothing_is_left_after_an_exception(llama, ids):
    """The model is as before, and a later call is its own."""

    class PlantedError(Exception):
        """Planted."""

    def breaks(input_ids: Any, scores: Any) -> Any:
        raise PlantedError

    expected = generate(llama, ids)
    with pytest.raises(PlantedError), Replay(llama, strange(ids)):
        generate(llama, ids, logits_processor=[breaks])
    unchanged(llama)
    with pytest.raises(PlantedError):
        record(llama, ids, N, logits_processor=[breaks])
    unchanged(llama)
    assert torch.equal(generate(llama, ids), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 2}, "beam search cannot be replayed"),
        ({"prompt_lookup_num_tokens": 2}, "assisted decoding cannot be replayed"),
        ({"max_new_tokens": N - 1}, f"room for {N - 1} new tokens, the trace holds {N}"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_cannot_be_replayed_is_refused(llama, ids, options, message):
    """And nothing is left on the model."""
    with pytest.raises(InputError, match=message), Replay(llama, strange(ids[:1])):
        generate(llama, ids[:1], **options)
    unchanged(llama)


def test_bad_input(llama, ids):
    """One line each."""
    with pytest.raises(InputError, match="the call has 1 row, the trace 2"), Replay(llama, strange(ids)):
        generate(llama, ids[:1])
    with pytest.raises(InputError, match="no trace to replay"):
        Replay(llama, [])
    with pytest.raises(InputError, match="int is not a transformers model"):
        Replay(3, strange(ids))
    with pytest.raises(InputError, match="new_tokens is 0"):
        record(llama, ids, 0)
    with pytest.raises(InputError, match="max_length is given by new_tokens"):
        record(llama, ids, 3, max_length=9)
