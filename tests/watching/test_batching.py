"""Continuous batching, watched: known answers in fake time, unchanged tokens, nothing left in a manager's thread."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import perstep
from perstep.measure import FakeClock
from perstep.targets.transformers import EveryBatching
from perstep.targets.transformers.batching import Batch, batch_of
from perstep.watching.session import Watch, describe_calls, store

pytestmark = [pytest.mark.hf, pytest.mark.usefixtures("nothing_compiled")]
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
api = pytest.importorskip("transformers.generation.continuous_batching.continuous_api")
lists = pytest.importorskip("transformers.generation.continuous_batching.cb_logits_processors")
runner = pytest.importorskip("transformers.generation.continuous_batching.model_runner")
scheduler = pytest.importorskip("transformers.generation.continuous_batching.scheduler")

MS = 1_000_000
PROMPTS = [[3, 4, 5], [6, 7, 8, 9], [10, 11], [12, 13, 14, 15, 16]]


def config(**changes: Any) -> Any:
    """A cache of few blocks: by itself it would take most of the memory."""
    sizes = {"num_blocks": 16, "page_size": 32, "max_batch_tokens": 64, "max_requests_per_batch": 8}
    return transformers.ContinuousBatchingConfig(**{**sizes, **changes})


@pytest.fixture(scope="module")
def shared() -> Any:
    """One model for all tests: each leaves it as it was."""
    torch.manual_seed(0)
    made = transformers.LlamaConfig(
        vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        pad_token_id=0, eos_token_id=None,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(made).eval()


@pytest.fixture
def model(shared: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The shared model, which must be as before when the test is over, as must the manager's class."""
    monkeypatch.setattr(api, "gc", SimpleNamespace(collect=lambda: 0))  # a manager's end takes 1.5 s of it
    before = set(vars(shared)), dict(vars(api.ContinuousBatchingManager))
    yield shared
    assert (set(vars(shared)), dict(vars(api.ContinuousBatchingManager))) == before


def options(**changes: Any) -> Any:
    """Of a greedy call that never meets an end token."""
    return transformers.GenerationConfig(max_new_tokens=20, do_sample=False, eos_token_id=-1, pad_token_id=0, **changes)


def batch(model: Any, **changes: Any) -> dict[str, list[int]]:
    """The tokens of each request."""
    made = model.generate_batch(PROMPTS, options(**changes), config(), progress_bar=False)
    return {name: output.generated_tokens for name, output in made.items()}


def slow(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, wait: Callable[[], None]) -> None:
    """Make a method of transformers take longer."""
    own = getattr(owner, name)

    def slower(*args: Any, **kwargs: Any) -> Any:
        wait()
        return own(*args, **kwargs)

    monkeypatch.setattr(owner, name, slower)


def test_the_parts_of_an_iteration_are_found_exactly_and_the_tokens_stay(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A planted time in each: the choice of the batch, its tensors, the forward, a processor, the choice ...

    The list of processors is looked through where the inputs are made: what follows there is no bookkeeping.
    """
    plain, clock = batch(model, suppress_tokens=[1, 90]), FakeClock()
    of_processor = transformers.SuppressTokensLogitsProcessor
    planted = [
        (scheduler.FIFOScheduler, "schedule_batch", 1), (api.ContinuousBatchingIOs, "get_model_kwargs", 2),
        (type(model.model), "forward", 4), (of_processor, "__call__", 8), (runner.ModelRunner, "_sample", 16),
        (api.ContinuousBatchingIOs, "retrieve_device_outputs", 32), (api.ContinuousBatchProcessor, "update_batch", 64),
    ]  # fmt: skip
    for owner, name, ms in planted:
        slow(monkeypatch, owner, name, lambda ms=ms: clock.advance(ms * MS))
    list_class = lists.ContinuousBatchingLogitsProcessorList
    look_through = list_class.prepare_tensor_args

    def look_through_slowly(*args: Any, **kwargs: Any) -> Any:
        looked = look_through(*args, **kwargs)
        clock.advance(128 * MS)
        return looked

    monkeypatch.setattr(list_class, "prepare_tensor_args", look_through_slowly)
    with perstep.watch(model, clock=clock) as w:
        watched = batch(model, suppress_tokens=[1, 90])
    assert watched == plain
    ledger = w.ledger()
    assert {name: part.ns / MS for name, part in ledger.parts.items() if part.ns} == {
        "schedule": 1, "inputs": 130, "forward": 4, "logits/SuppressTokensLogitsProcessor": 8, "sample": 16,
        "sync": 32, "update": 64,
    }  # fmt: skip
    assert (ledger.step_ns, ledger.residual_ns, ledger.overhead) == (255 * MS, 0, 0)
    assert sum(part.ns_total for part in ledger.parts.values()) + ledger.residual_ns_total == ledger.step_ns_total


def decode_rows(w: Watch) -> list[int]:
    """Requests in each recorded decode step."""
    return [rows for sample in w.samples if "decode" in sample.batches for rows in sample.batches["decode"].rows]


def test_what_a_token_costs_by_how_full_the_batch_is(model: Any) -> None:
    """A forward of 4 ms and 1 ms a request: 5 ms alone, 2 ms among four; prompts are apart."""
    clock = FakeClock()

    def wait(_module: Any, _args: Any, given: dict[str, Any]) -> None:
        clock.advance((4 + len(given["cu_seq_lens_q"]) - 1) * MS)

    handle = model.model.register_forward_pre_hook(wait, with_kwargs=True)
    with perstep.watch(model, clock=clock) as w, Running(model) as manager:
        for number, prompt in enumerate(PROMPTS):
            manager.add_request(prompt, max_new_tokens=24 if number else 80)
        made = [wait_for(manager) for _ in PROMPTS]
    handle.remove()
    [sample] = w.samples
    assert (sample.made_by, sample.new_tokens, sample.finished) == ("batching", 80 + 3 * 24, True)
    assert sample.new_tokens == sum(len(output.generated_tokens) for output in made)
    assert sample.steps == sample.forwards
    # Of each kind the columns go with the steps; a decode step gives each request a token, a prompt comes before.
    assert set(sample.kinds) == set(sample.batches) == {"decode", "prefill"}
    for kind, steps in sample.kinds.items():
        of_kind = sample.batches[kind]
        assert len(of_kind.rows) == len(of_kind.tokens) == len(of_kind.new_tokens) == len(steps.step_ns)
        assert (steps.step_ns == (4 + of_kind.rows) * MS).all()
    decode, prefill = sample.batches["decode"], sample.batches["prefill"]
    assert decode.rows.tolist() == decode.tokens.tolist() == decode.new_tokens.tolist()
    assert prefill.tokens.sum() >= sum(map(len, PROMPTS))
    [found] = describe(w)
    assert (found.levels[0].rows_from, found.levels[0].token_ns) == (1, 5 * MS)
    assert (found.levels[-1].rows_to, found.levels[-1].token_ns) == (4, 2 * MS)
    assert found.most_rows == 4
    text = str(w)
    assert "A token costs 5.00 ms at 1 request, 2.00 ms at " in text
    assert "what a token costs by how full the batch is" in text
    assert "A step with a prompt in the batch took" in text


def test_a_run_is_stored_and_read_back(model: Any, tmp_path: Path) -> None:
    """Its columns, its levels in `results.json`, and a page that says what a step is."""
    with perstep.watch(model, clock=FakeClock(tick_ns=1)) as w:
        batch(model)
    [sample] = w.samples
    assert sample.site.startswith("watching/test_batching.py:")  # the line that asked for it, not that of the thread
    report = store(w, describe_calls(w, {}), out=tmp_path / "run", force=False)
    [site] = report.findings.sites
    assert site.made_by == "batching"
    assert site.batching.steps == len(sample.kinds["decode"].step_ns) + len(sample.kinds["prefill"].step_ns)
    readme = (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    assert "of the scheduler" in readme
    assert site.growth == []
    assert site.setup is None


@pytest.mark.parametrize("detail", ["modules", "layers"])
def test_the_forward_is_looked_into(model: Any, detail: Any) -> None:
    """As in a generate call, the paged cache included."""
    plain = batch(model)
    with perstep.watch(model, detail, clock=FakeClock(tick_ns=1)) as w:
        assert batch(model) == plain
    parts = {name.split("/")[0] for name in w.ledger().parts}
    assert {"attn", "mlp", "norm", "embed", "lm_head", "kv.append", "schedule", "update"} <= parts


def test_only_the_model_that_was_given_is_recorded(model: Any) -> None:
    """Another one's requests are none of its steps, and one in a script is recorded without being given."""
    other = transformers.LlamaForCausalLM(model.config).eval()
    with perstep.watch(other, clock=FakeClock()) as w:
        batch(model)
    assert w.samples == []
    with Watch(clock=FakeClock(), loops=True) as w:
        batch(model)
    assert [sample.model for sample in w.samples] == ["LlamaForCausalLM"]


def test_generate_may_lead_to_it(model: Any) -> None:
    """`cache_implementation="paged"` is one run and no call without steps."""
    ids = torch.tensor(PROMPTS[:1])
    given = {"generation_config": options(), "cache_implementation": "paged"}
    plain = model.generate(ids, continuous_batching_config=config(), **given)
    with perstep.watch(model, clock=FakeClock(tick_ns=1)) as w:
        watched = model.generate(ids, continuous_batching_config=config(), **given)
    assert watched.tolist() == plain.tolist()
    assert [(sample.made_by, sample.notes) for sample in w.samples] == [("batching", [])]


class Running:
    """A manager that is stopped at the end of the block."""

    def __init__(self, model: Any, **changes: Any) -> None:
        self.manager = model.init_continuous_batching(options(), config(**changes))

    def __enter__(self) -> Any:
        self.manager.start()
        return self.manager

    def __exit__(self, *exception: object) -> None:
        self.manager.stop(block=True)
        self.manager.destroy()


def wait_for(manager: Any) -> Any:
    """The next result."""
    while True:
        result = manager.get_result(timeout=1)
        if result is not None:
            return result
        assert manager.is_running()


def describe(w: Watch) -> list[Any]:
    """What each line's runs show of their batches."""
    from perstep.watching.batching import find_batching
    from perstep.watching.samples import by_site

    return [find_batching(samples) for samples in by_site(w.samples).values()]


def untouched(manager: Any) -> bool:
    """Whether no wrapper is left in the objects of a manager."""
    processor = manager.batch_processor
    owners = (processor, processor.inputs_and_outputs, processor.model_runner, manager.background_thread_status)
    names = {"prepare_next_batch", "_generation_step", "update_batch", "prepare_batch_tensors", "_sample"}
    names |= {"retrieve_device_outputs", "pause_and_wait", "__reduce_ex__"}
    as_before = type(manager.logit_processor.logits_processor) is transformers.LogitsProcessorList
    return as_before and not any(names & vars(owner).keys() for owner in owners)


def test_a_manager_that_is_never_stopped_is_let_go(model: Any) -> None:
    """It goes on serving, unwatched; what came before is in the ledger, and a note says that it ran on."""
    with Running(model) as manager:
        with perstep.watch(model, clock=FakeClock(tick_ns=1)) as w:
            manager.add_request(PROMPTS[0], max_new_tokens=20)
            first = wait_for(manager)
        assert untouched(manager)
        manager.add_request(PROMPTS[0], max_new_tokens=20)
        assert wait_for(manager).generated_tokens == first.generated_tokens
    [sample] = w.samples
    assert sample.new_tokens == 20
    assert sample.notes == ["The watch was left while the manager was running."]
    assert sum(len(steps.step_ns) for steps in sample.kinds.values()) == sample.steps == 20


def test_an_interrupt_leaves_nothing_behind(model: Any) -> None:
    """Ctrl-C in the main thread, in the middle of an iteration of the other one."""
    with Running(model) as manager:
        w = Watch(model, clock=FakeClock(), loops=True)
        handle = model.model.register_forward_pre_hook(lambda *_: seen.append(1))
        seen: list[int] = []
        with suppress(KeyboardInterrupt), w:
            manager.add_request(PROMPTS[0], max_new_tokens=200)
            while len(seen) < 12:
                time.sleep(0.001)
            signal.raise_signal(signal.SIGINT)
        assert len(w.samples) == 1
        assert untouched(manager)
        made = wait_for(manager)
        assert (len(made.generated_tokens), made.error) == (200, None)
        handle.remove()


def test_a_pause_is_no_step_and_a_watch_may_end_in_it(model: Any) -> None:
    """The loop waits as long as the program likes; leaving the watch meanwhile does not wait for it."""
    with Running(model) as manager:
        with perstep.watch(model, clock=FakeClock(tick_ns=1)) as w:
            manager.add_request(PROMPTS[0], max_new_tokens=20)
            wait_for(manager)
            pause = manager.pause()
            pause.__enter__()
        assert untouched(manager)
        pause.__exit__(None, None, None)
        manager.add_request(PROMPTS[1], max_new_tokens=20)
        assert len(wait_for(manager).generated_tokens) == 20
    assert w.samples[0].steps == 20


def test_an_iteration_that_breaks_off_is_no_step(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The manager ends with an error of its own; the iterations before it count, and it is said."""
    calls: list[int] = []

    def break_off() -> None:
        calls.append(1)
        if len(calls) == 10:
            raise RuntimeError("planted")

    slow(monkeypatch, type(model.model), "forward", break_off)
    with perstep.watch(model, clock=FakeClock(tick_ns=1)) as w:
        batch(model)
    [sample] = w.samples
    assert (sample.finished, sample.steps) == (False, 9)
    assert "broke off with an exception" in str(w)


def test_what_is_compiled_or_a_graph_is_one_part(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then nothing inside is touched: the forward, processors and the choice together are `forward`."""
    clock = FakeClock()
    own = runner.ModelRunner.__init__

    def pads(self: Any, *args: Any, **kwargs: Any) -> None:
        own(self, *args, **kwargs)
        self.pad_inputs = True

    monkeypatch.setattr(runner.ModelRunner, "__init__", pads)
    monkeypatch.setattr(runner.ModelRunner, "maybe_pad_inputs", lambda _self, q, kv, _fast: (q, kv))
    monkeypatch.setattr(runner.ModelRunner, "warmup", lambda *_: None)
    slow(monkeypatch, runner.ModelRunner, "_sample", lambda: clock.advance(MS))
    with perstep.watch(model, clock=clock) as w:
        batch(model)
    assert {name: part.ns for name, part in w.ledger().parts.items() if part.ns} == {"forward": MS}
    assert any("compiled or a CUDA graph" in note for note in w.samples[0].notes)


def request(tokens: list[int], made: list[int], length: int, new: bool) -> Any:
    """A scheduled request."""
    state = SimpleNamespace(tokens_to_process=tokens, generated_tokens=made)
    return SimpleNamespace(state=state, query_length=length, has_new_token=new)


def test_a_batch_is_a_decode_step_when_each_request_has_a_token() -> None:
    """A prompt that is split gives no token; asynchronous batching asks for a second one before the first is there."""
    first, split, second, later = (
        request([3, 4], [], 2, True), request([5, 6, 7], [], 3, False), request([-1], [], 1, True),
        request([9], [8, 9], 1, True),
    )  # fmt: skip
    assert batch_of([first, split, second, later]) == Batch(rows=4, tokens=7, new_tokens=3, prompts=2)
    assert batch_of([second, later]).prompts == 0


def test_a_version_with_another_loop_is_left_alone(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """And it is said."""
    run = api.ContinuousBatchingManager._run_generation_loop
    body = api.ContinuousBatchingManager._generation_loop_body
    every = EveryBatching(lambda _model: pytest.fail("recorded"), lambda _frame: "unknown")
    monkeypatch.delattr(api.ContinuousBatchingManager, "_generation_loop_body")
    monkeypatch.setattr(api.ContinuousBatchingManager, "_run_generation_loop", lambda _manager: None)
    with every:
        api.ContinuousBatchingManager._run_generation_loop(SimpleNamespace())
    assert every.notes == ["Continuous batching of this version of transformers is not known: not recorded."]
    monkeypatch.undo()
    assert (api.ContinuousBatchingManager._run_generation_loop, body) == (
        run,
        api.ContinuousBatchingManager._generation_loop_body,
    )
