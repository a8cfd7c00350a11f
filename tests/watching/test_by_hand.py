"""Decode loops written by hand, watched: known answers in fake time, unchanged tokens, and nothing left behind."""

import gc
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from tests.models import small_llama

import perstep
from perstep.errors import InputError
from perstep.measure import FakeClock, Ledger
from perstep.watching.session import Watch, describe_calls, store

pytestmark = [
    pytest.mark.hf,
    pytest.mark.usefixtures("nothing_compiled"),
    pytest.mark.skipif(sys.gettrace() is not None, reason="another tool takes the line events"),
]
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

MS = 1_000_000


@pytest.fixture(scope="module")
def shared() -> Any:
    """One model for all tests."""
    return small_llama()


@pytest.fixture
def model(shared: Any) -> Iterator[Any]:
    """The shared model, which must be as before when the test is over, as must torch."""
    before = set(vars(shared)), torch.nn.Module.__call__, torch.compile
    with torch.no_grad():
        yield shared
    assert (set(vars(shared)), torch.nn.Module.__call__, torch.compile) == before
    assert sys.gettrace() is None


class Plain(torch.nn.Module):  # type: ignore[misc]
    """A language model of torch alone, without a cache, that takes 2 ms a forward."""

    def __init__(self, clock: FakeClock, vocab: int = 16) -> None:
        super().__init__()
        self.wte = torch.nn.Embedding(vocab, 8)
        self.lm_head = torch.nn.Linear(8, vocab)
        self.clock = clock

    def forward(self, idx: Any) -> Any:
        """Logits [B, T, vocab] of ids [B, T]."""
        self.clock.advance(2 * MS)
        return self.lm_head(self.wte(idx))


def choose(logits: Any, clock: FakeClock) -> Any:
    """The most probable token; takes 1 ms."""
    clock.advance(MS)
    return logits[:, -1].argmax(-1, keepdim=True)


def decode(model: Any, ids: Any, new: int, clock: FakeClock) -> Any:
    """A loop with a cache."""
    past, made = None, []
    for _ in range(new):
        out = model(input_ids=ids, past_key_values=past, use_cache=True)
        past = out.past_key_values
        ids = choose(out.logits, clock)
        made.append(ids)
        clock.advance(MS // 2)
    return torch.cat(made, 1)


def rows(ledger: Ledger) -> dict[str, float]:
    """What took time, in ms a step, by the text of the line or the part."""
    return {name.partition(" ")[2] or name: part.ns / MS for name, part in ledger.parts.items() if part.ns}


def assert_adds_up(ledger: Ledger) -> None:
    """Parts and residual are the step, exactly."""
    assert sum(part.ns_total for part in ledger.parts.values()) + ledger.residual_ns_total == ledger.step_ns_total


def test_a_loop_is_seen_by_its_lines_and_the_tokens_stay(model: Any, ids: Any) -> None:
    """Each line between two forwards has its own time, with what it calls."""
    clock = FakeClock()
    with perstep.watch(model, clock=clock) as w:
        watched = decode(model, ids, 50, clock)
    assert watched.tolist() == decode(model, ids, 50, clock).tolist()
    ledger = w.ledger()
    assert rows(ledger) == {"ids = choose(out.logits, clock)": 1.0, "clock.advance(MS // 2)": 0.5}
    assert (ledger.step_ns, ledger.residual_ns, ledger.overhead) == (1.5 * MS, 0, 0)
    assert ledger.largest_outside == [name for name in ledger.parts if "choose" in name]
    # 50 forwards are 49 whole steps; the first is the prefill, the first decode step stands apart, in one syncs were
    # counted, and one rested.
    assert (ledger.forwards, ledger.steps, w.ledger("prefill").forwards) == (48, 22, 1)
    assert_adds_up(ledger)
    [sample] = w.samples
    assert (sample.rows, sample.prompt_tokens, sample.made_by, sample.whole) == (2, 5, "loop", False)
    assert "decode at watching/test_by_hand.py:" in str(w)
    assert "1 run, batch 2, prompt 5" in str(w)


def test_every_new_prompt_is_a_run_of_its_own(model: Any, ids: Any) -> None:
    """What lies between two runs is in no step."""
    clock = FakeClock()
    with perstep.watch(model, clock=clock) as w:
        for _ in range(6):
            decode(model, ids, 8, clock)
            clock.advance(100 * MS)
    assert [sample.steps for sample in w.samples] == [7] * 6
    assert w.ledger().step_ns == 1.5 * MS
    assert w.ledger("prefill").step_ns == 1.5 * MS


def test_any_module_is_a_model_and_the_text_may_come_whole() -> None:
    """Without a cache a step takes in one token more than the last."""
    clock = FakeClock()
    model = Plain(clock).eval()
    ids = torch.ones(1, 3, dtype=torch.int64)
    with torch.no_grad(), perstep.watch(model, clock=clock) as w:
        for _ in range(20):
            ids = torch.cat([ids, choose(model(ids), clock)], 1)
    ledger = w.ledger()
    assert rows(ledger) == {"forward": 2.0, "ids = torch.cat([ids, choose(model(ids)…": 1.0}
    assert [sample.whole for sample in w.samples] == [True]


@pytest.mark.parametrize("detail", ["modules", "layers"])
def test_the_forward_is_looked_into(model: Any, ids: Any, detail: Any) -> None:
    """As in a generate call, the cache included."""
    with perstep.watch(model, detail, clock=FakeClock(tick_ns=1)) as w:
        decode(model, ids, 12, FakeClock())
    inside = {name.split("/")[0] for name in w.ledger().parts if not name.startswith("loop")}
    assert {"embed", "norm", "attn", "attn.core", "attn.rope", "kv.append", "mlp", "lm_head", "forward.other"} <= inside
    assert_adds_up(w.ledger())


def test_the_modules_of_a_model_of_torch_alone_are_found() -> None:
    """By class, and the head by its name."""
    model = Plain(FakeClock()).eval()
    with torch.no_grad(), perstep.watch(model, "modules", clock=FakeClock(tick_ns=1)) as w:
        for _ in range(9):
            model(torch.ones(1, 1, dtype=torch.int64))
    assert {"embed", "lm_head", "forward.other"} <= set(w.ledger().parts)


def test_several_models_are_kept_apart(ids: Any) -> None:
    """A draft proposes three tokens, the target checks them: the draft is a part of the target's steps."""
    clock = FakeClock()
    target, draft = Plain(clock, vocab=32).eval(), Plain(clock).eval()
    checked = torch.ones(1, 4, dtype=torch.int64)
    with torch.no_grad(), Watch(clock=clock, loops=True) as w:
        draft(checked)
        target(torch.ones(1, 40, dtype=torch.int64))
        for _ in range(20):
            for _ in range(3):
                draft(checked[:, :1])
            target(checked)
    ledger = w.ledger()
    assert rows(ledger) == {"forward/Plain#2": 6.0, "forward": 2.0} or rows(ledger) == {
        "forward/Plain": 6.0,
        "forward": 2.0,
    }
    assert ledger.tree["forward"].share == 1.0
    assert w.samples[-1].steps == 20


def test_a_generator_that_is_never_finished_is_shown_as_far_as_it_went(model: Any, ids: Any) -> None:
    """The lines of who asks for its tokens are apart from its own."""
    clock = FakeClock()

    def tokens() -> Iterator[Any]:
        past, last = None, ids
        while True:
            out = model(input_ids=last, past_key_values=past)
            past, last = out.past_key_values, choose(out.logits, clock)
            yield last

    with perstep.watch(model, clock=clock) as w:
        stream = tokens()
        for _ in range(24):
            next(stream)
            clock.advance(3 * MS)
    assert list(rows(w.ledger()).values()) == [1.0, 3.0]
    assert "clock.advance(3 * MS)" in rows(w.ledger())
    del stream


def test_a_model_called_by_its_forward_is_seen(ids: Any) -> None:
    """As `model.forward(...)`; its first call, seen from inside alone, is no step."""
    clock = FakeClock()
    model = Plain(clock).eval()
    with torch.no_grad(), Watch(clock=clock, loops=True) as w:
        for length in (5, *[1] * 20):
            choose(model.forward(ids[:, :length]), clock)
    ledger = w.ledger()
    assert rows(ledger) == {"forward": 2.0, "choose(model.forward(ids[:, :length]), …": 1.0}
    assert w.samples[0].prompt_tokens == 5
    with pytest.raises(InputError, match="no prefill step"):
        w.ledger("prefill")


def test_a_forward_that_the_script_replaces_is_seen_all_the_same(model: Any, ids: Any) -> None:
    """And stays the script's own."""
    clock = FakeClock()
    with perstep.watch(model, clock=clock) as w:
        own = model.forward

        def slower(*args: Any, **kwargs: Any) -> Any:
            clock.advance(4 * MS)
            return own(*args, **kwargs)

        model.forward = slower
        decode(model, ids, 14, clock)
    assert model.forward is slower
    del model.forward
    assert rows(w.ledger())["forward"] == 4.0


def test_what_another_thread_calls_meanwhile_is_said_and_not_recorded(model: Any, ids: Any) -> None:
    """Its calls are in no ledger, and the loop that is being recorded goes on."""
    clock = FakeClock()

    def elsewhere() -> None:
        with torch.no_grad():
            model(ids)

    def decode_beside() -> None:
        past, last = None, ids
        for position in range(20):
            out = model(input_ids=last, past_key_values=past)
            past, last = out.past_key_values, choose(out.logits, clock)
            if position == 9:
                other = threading.Thread(target=elsewhere)
                other.start()
                other.join()

    with perstep.watch(model, clock=clock) as w:
        decode_beside()
    [sample] = w.samples
    assert sample.steps == 19
    assert any("another thread called a model too" in note for note in sample.notes)


def test_a_loop_of_a_thread_that_has_ended_makes_room(model: Any, ids: Any) -> None:
    """Two threads one after the other are two runs."""
    clock = FakeClock()
    with perstep.watch(model, clock=clock) as w:
        for _ in range(2):
            worker = threading.Thread(target=lambda: torch.no_grad()(decode)(model, ids, 9, clock))
            worker.start()
            worker.join()
    assert [sample.steps for sample in w.samples] == [8, 8]


def test_a_call_that_never_repeats_is_a_sentence(model: Any, ids: Any) -> None:
    """A step has two ends."""
    with perstep.watch(model, clock=FakeClock(tick_ns=1)) as w:
        model(ids)
    assert "called LlamaForCausalLM and not again in the same loop" in str(w)
    with pytest.raises(InputError, match="there is none to show"):
        w.ledger()


def test_an_exception_ends_a_run_and_passes(model: Any, ids: Any) -> None:
    """What was whole before it counts."""
    clock = FakeClock()

    def refuses(*_: Any) -> None:
        raise RuntimeError("planted")

    with perstep.watch(model, clock=clock) as w:
        for _ in range(8):
            model(ids[:, :1])
            clock.advance(MS)
        handle = model.register_forward_pre_hook(refuses)
        with pytest.raises(RuntimeError, match="planted"):
            model(ids[:, :1])
        handle.remove()
    [sample] = w.samples
    assert (sample.finished, sample.steps) == (False, 8)


def test_training_is_no_decode_loop(model: Any, ids: Any) -> None:
    """With gradients and in training mode a model's calls are left alone."""
    model.train()
    with torch.enable_grad(), perstep.watch(model, clock=FakeClock(tick_ns=1)) as w:
        for _ in range(3):
            model(ids)
    model.eval()
    assert w.samples == []


def test_generate_is_recorded_as_before_beside_a_loop(model: Any, ids: Any) -> None:
    """Its forwards are none of a loop's; a loop around it is a loop of its own."""
    clock = FakeClock()
    with perstep.watch(model, clock=clock) as w:
        decode(model, ids, 9, clock)
        model.generate(ids, max_new_tokens=9, do_sample=False)
        decode(model, ids, 9, clock)
    assert sorted(sample.made_by for sample in w.samples) == ["generate", "loop", "loop"]
    assert {sample.steps for sample in w.samples if sample.made_by == "loop"} == {8}


def test_a_compiled_model_and_a_compiled_function_are_seen_as_a_whole(ids: Any) -> None:
    """What the compiler traces is free of us: one graph, no break, and no class of torch is changed meanwhile."""
    clock = FakeClock()
    model = Plain(clock).eval()
    graphs: list[Any] = []

    def backend(graph: Any, _inputs: Any) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward  # type: ignore[no-any-return]

    def step(model: Any, ids: Any) -> Any:
        return model(ids)[:, -1].argmax(-1, keepdim=True)

    untouched = torch.nn.Module.__call__
    model.forward = lambda idx: model.lm_head(model.wte(idx))
    torch._dynamo.reset()
    with torch.no_grad(), Watch(clock=clock, loops=True) as w:
        compiled = torch.compile(step, backend=backend, fullgraph=True, dynamic=False)
        assert torch.nn.Module.__call__ is untouched
        for _ in range(12):
            compiled(model, ids[:1, :1])
            clock.advance(MS)
    torch._dynamo.reset()
    assert len(graphs) == 1
    assert rows(w.ledger()) == {"clock.advance(MS)": 1.0}
    assert "step" in w.samples[0].model


def test_a_run_is_stored_and_told_as_one(model: Any, ids: Any, tmp_path: Path) -> None:
    """The stored run says the same, and holds no text of the script."""
    clock = FakeClock()
    with perstep.watch(model, clock=clock) as w:
        past, last = None, ids
        for _ in range(20):
            out = model(input_ids=last, past_key_values=past)
            past, last = out.past_key_values, choose(out.logits, clock)
            print("the password is swordfish", end="")  # a secret
    report = store(w, describe_calls(w, {}), out=tmp_path / "run", force=False)
    [site] = report.findings.sites
    assert site.made_by == "loop"
    assert any("print(…, end=…)" in name for name in site.decode.parts)
    stored = "".join(path.read_text(errors="replace") for path in report.folder.iterdir())
    assert "swordfish" not in stored
    assert "secret" not in stored


def test_steps_that_a_program_names_are_watched(model: Any, ids: Any) -> None:
    """Marked and plain ones take turns; the model inside is the program's own part, and no loop."""
    clock = FakeClock()
    with perstep.watch(model, clock=clock) as w:
        for position in range(21):
            with perstep.step("decode" if position else "prefill"), perstep.part("schedule"):
                clock.advance(MS)
                with perstep.part("model"):
                    model(ids)
                    clock.advance(2 * MS)
        with perstep.step("warm-up"):
            pass
    [sample] = [sample for sample in w.samples if sample.steps == 21]
    assert (sample.made_by, sample.prefills) == ("steps", 1)
    assert rows(w.ledger()) == {"schedule": 1.0, "model": 2.0}
    assert (w.ledger().forwards, w.ledger().overhead) == (20, 0)
    assert_adds_up(w.ledger())
    assert any("of the kind warm-up are not shown" in note for sample in w.samples for note in sample.notes)
    assert "named steps" in str(w)


def test_a_loop_without_a_cache_is_told_to_grow() -> None:
    """By how much a token, with the cause."""
    clock = FakeClock()

    class Whole(Plain):
        """Takes 20 µs for each position."""

        def forward(self, idx: Any) -> Any:
            """As the plain one."""
            clock.advance(20_000 * idx.shape[1])
            return self.lm_head(self.wte(idx))

    model, ids = Whole(clock).eval(), torch.ones(1, 30, dtype=torch.int64)
    with torch.no_grad(), perstep.watch(model, clock=clock) as w:
        for _ in range(60):
            ids = torch.cat([ids, choose(model(ids), clock)], 1)
    assert "forward grows by 20.0 µs a token [20.0 µs, 20.0 µs], over 57 steps: no KV cache is used, every" in str(w)


def read_loop(model: Any, ids: Any, new: int, around: Callable[[], Any]) -> list[float]:
    """A loop that reads two values a step, one of them in a helper."""
    past, made = None, []
    for _ in range(new):
        with around():
            out = model(input_ids=ids, past_key_values=past, use_cache=True)
        past = out.past_key_values
        ids = out.logits[:, -1].argmax(-1, keepdim=True)
        made.append(ids[0].item())
        made.append(best(out.logits))
    return made


def best(logits: Any) -> float:
    """The largest logit of the last position."""
    return float(logits[0, -1].max())


def modes() -> tuple[Any, Any]:
    """What sees the operators of this thread."""
    from torch.overrides import _get_current_function_mode
    from torch.utils._python_dispatch import _get_current_dispatch_mode

    return _get_current_function_mode(), _get_current_dispatch_mode()


def test_syncs_of_a_loop_are_counted_by_its_lines(model: Any, ids: Any) -> None:
    """In a step that is not timed; the values that are read stay."""
    plain = read_loop(model, ids, 20, nullcontext)
    with perstep.watch(model, clock=FakeClock(tick_ns=1)) as w:
        assert read_loop(model, ids, 20, nullcontext) == plain
        assert modes() == (None, None)
    ledger = w.ledger()
    parts = ledger.parts.items()
    counted = {name.partition(" ")[2]: part.syncs_per_step for name, part in parts if part.syncs_per_step}
    assert counted == {"made.append(ids[0].item())": 1, "made.append(best(out.logits))": 1}
    assert ledger.syncs_per_step == 2
    [sample] = w.samples
    assert len(sample.kinds["decode"].step_ns) == sample.steps - 3  # the prefill, the counted one, the one after it
    assert "Syncs come from watching/test_by_hand.py:" in str(w)


@pytest.mark.parametrize("new", [6, 7, 20])
def test_a_mode_of_the_program_is_left_to_it(model: Any, ids: Any, new: int) -> None:
    """A step that begins inside one is not counted, and one that ends inside one leaves it where it is."""
    from torch.utils._device import DeviceContext

    device = torch.device("cpu")
    with perstep.watch(model, clock=FakeClock()) as w:
        read_loop(model, ids, new, lambda: device)
        assert modes() == (None, None)
        with device:
            read_loop(model, ids, new, nullcontext)
            assert isinstance(modes()[0], DeviceContext)
        assert modes() == (None, None)
        read_loop(model, ids, new, nullcontext)
        with device:  # the last run's step is still open
            read_loop(model, ids, 2, nullcontext)
            assert isinstance(modes()[0], DeviceContext)
        assert modes() == (None, None) or new == 6
    assert modes() == (None, None)
    assert len(w.samples) >= 3


def test_a_counted_step_that_another_thread_left_open_is_let_go(model: Any, ids: Any) -> None:
    """The thread is gone when the run ends: nothing is taken from this one's modes."""
    with perstep.watch(model, clock=FakeClock()) as w:
        thread = threading.Thread(target=torch.no_grad()(read_loop), args=(model, ids, 6, nullcontext))
        thread.start()
        thread.join()
        with torch.device("cpu"):
            before = modes()
            read_loop(model, ids, 8, nullcontext)
            assert modes() == before
    assert modes() == (None, None)
    assert [sample.steps for sample in w.samples] == [5, 7]


def test_a_model_that_is_gone_when_its_run_ends_has_its_ledger() -> None:
    """As one that a script makes only for the loop."""
    clock = FakeClock()

    def sampled(model: Any) -> None:
        ids = torch.ones(1, 3, dtype=torch.int64)
        for _ in range(20):
            ids = torch.cat([ids, choose(model(ids), clock)], 1)

    with torch.no_grad(), Watch(clock=clock, loops=True) as w:
        sampled(Plain(clock).eval())
        gc.collect()
    [sample] = w.samples
    assert (sample.model, sample.steps) == ("Plain", 19)


def test_a_counted_step_that_ends_inside_a_mode_of_the_program_leaves_it(model: Any, ids: Any) -> None:
    """The sixth forward opens the step that is counted; the next run begins inside a mode."""
    with perstep.watch(model, clock=FakeClock()):
        read_loop(model, ids, 6, nullcontext)
        assert modes()[0] is not None
        with torch.device("cpu"):
            before = modes()
            read_loop(model, ids, 2, nullcontext)
            assert modes()[0] is before[0]
    assert modes() == (None, None)
