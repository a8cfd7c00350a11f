"""Somebody's own generate calls, watched: known answers in fake time, and nothing left behind."""

import gc
import importlib.util
import json
import random
import re
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.models import small_llama

import perstep
from perstep.errors import InputError, how_to_install
from perstep.experiments import pipeline
from perstep.experiments.call_recorder import CallSteps
from perstep.machine import NoiseProbe
from perstep.measure import FakeClock, Ledger
from perstep.report import to_text
from perstep.targets.transformers import Schedule
from perstep.watching.first_calls import choose
from perstep.watching.growth import find_growth
from perstep.watching.samples import Sample
from perstep.watching.session import Watch, describe_calls, store

pytestmark = [pytest.mark.hf, pytest.mark.usefixtures("nothing_compiled")]
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

MS = 1_000_000


@pytest.fixture(scope="module")
def shared() -> Any:
    """One model for all tests: each leaves it as it was."""
    return small_llama()


@pytest.fixture
def model(shared: Any) -> Any:
    """The shared model, which must be as before when the test is over."""
    before = set(vars(shared)), vars(transformers.GenerationMixin)["generate"]
    yield shared
    assert (set(vars(shared)), vars(transformers.GenerationMixin)["generate"]) == before


class Spins(transformers.LogitsProcessor):  # type: ignore[misc]
    """Changes nothing and takes 1 ms."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """The scores as they were."""
        self.clock.advance(MS)
        return scores


class Dawdles(transformers.StoppingCriteria):  # type: ignore[misc]
    """Never stops and takes 0.5 ms."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """No row has ended."""
        self.clock.advance(MS // 2)
        return torch.zeros(input_ids.shape[0], dtype=torch.bool)


def slow(clock: FakeClock) -> dict[str, Any]:
    """What slows a call down by 1.5 ms a step, among a built-in processor and a built-in criterion."""
    return {
        "logits_processor": [Spins(clock)],
        "stopping_criteria": [Dawdles(clock)],
        "do_sample": False,
        "repetition_penalty": 1.1,
    }


def assert_found(ledger: Ledger) -> None:
    """The planted costs, exactly, and nothing else."""
    assert ledger.parts["logits/Spins"].ns == MS
    assert ledger.parts["stop/Dawdles"].ns == MS / 2
    assert ledger.parts["logits/RepetitionPenaltyLogitsProcessor"].ns == 0
    assert ledger.step_ns == 1.5 * MS
    assert ledger.residual_ns == ledger.residual_ns_total == ledger.tree["forward"].ns == 0
    assert sum(p.ns_total for p in ledger.parts.values()) + ledger.residual_ns_total == ledger.step_ns_total


def test_planted_costs_are_found_exactly_in_one_long_call(model: Any, ids: Any) -> None:
    """A processor of 1 ms and a criterion of 0.5 ms; the instruments take no time on this clock."""
    clock = FakeClock()
    with perstep.watch(model, clock=clock) as w:
        model.generate(ids, max_new_tokens=41, **slow(clock))
    ledger = w.ledger()
    assert_found(ledger)
    # The first decode step stands apart, in one syncs were counted, and one rested.
    assert (ledger.forwards, ledger.steps, ledger.rounds) == (40, 18, 9)
    assert ledger.overhead == ledger.overhead_ci_low == ledger.overhead_ci_high == 0
    assert ledger.plain_step_ns == 1.5 * MS
    prefill = w.ledger("prefill")
    assert_found(prefill)
    assert (prefill.forwards, prefill.plain_step_ns, prefill.overhead) == (1, None, None)


@pytest.mark.parametrize("tokens", [[6] * 8, [3, 6, 2, 4, 2, 5, 7, 3]])
def test_planted_costs_are_found_exactly_in_many_short_calls(model: Any, ids: Any, tokens: list[int]) -> None:
    """Calls that repeat each other, and calls that do not."""
    clock = FakeClock()
    with perstep.watch(model, clock=clock) as w:
        for new in tokens:
            model.generate(ids, max_new_tokens=new, **slow(clock))
    ledger = w.ledger()
    assert_found(ledger)
    assert ledger.forwards == sum(tokens) - len(tokens)
    assert ledger.overhead == 0
    assert w.ledger("prefill").overhead == 0  # of the seven later ones every other is a plain one
    assert len(w.samples) == len(tokens)
    assert [sample.new_tokens for sample in w.samples] == tokens


@pytest.mark.parametrize("detail", ["phases", "modules", "layers"])
@pytest.mark.parametrize("do_sample", [True, False])
def test_tokens_are_those_of_an_unwatched_call(model: Any, ids: Any, detail: Any, do_sample: bool) -> None:
    """Seed for seed."""
    made = []
    for watched in (False, True):
        torch.manual_seed(7)
        watch = perstep.watch(model, detail=detail, clock=FakeClock(tick_ns=1))
        with watch if watched else torch.no_grad():
            made.append(model.generate(ids, max_new_tokens=12, do_sample=do_sample).tolist())
    assert made[0] == made[1]


def test_where_calls_are_short_the_third_is_given_to_counting(model: Any, ids: Any) -> None:
    """It is not timed at all; it is counted with the prefill. Executed forwards stay executed."""
    clock = FakeClock()
    with perstep.watch(model, clock=clock) as w:
        for _ in range(8):
            model.generate(ids, max_new_tokens=4, **slow(clock))
    assert [sorted(sample.kinds) for sample in w.samples] == [["decode", "prefill"]] * 2 + [[]] + [
        ["decode", "prefill"]
    ] * 5
    assert w.samples[2].syncs["decode"].steps == 3
    begun = [int(sample.kinds["decode"].marked[0]) for sample in w.samples if sample.kinds]
    assert begun == [1, 0, 1, 0, 1, 0, 1]  # the timed calls take turns as if the counted one were not there
    ledger = w.ledger()
    assert_found(ledger)
    assert ledger.syncs_per_step == 1
    assert w.ledger("prefill").syncs_per_step is not None
    assert (ledger.forwards, w.ledger("prefill").forwards) == (24, 8)
    assert "at each of 3 positions the median over 6 calls" in " ".join(ledger.notes)


def test_detail_shows_what_the_forward_is_made_of(model: Any, ids: Any) -> None:
    """The tree sums it up; preparing inputs is none of it."""
    with perstep.watch(model, "modules", clock=FakeClock(tick_ns=1)) as w:
        model.generate(ids, max_new_tokens=9, do_sample=False)
    ledger = w.ledger()
    inside = {"embed", "norm", "attn", "attn.core", "attn.rope", "kv.append", "mlp", "lm_head", "forward.other"}
    assert inside < set(ledger.parts)
    forward = [name for name in ledger.parts if name in inside or name.startswith("attn")]
    assert ledger.tree["forward"].ns_total == sum(ledger.parts[name].ns_total for name in forward)


def test_an_exception_passes_and_what_was_finished_before_it_counts(model: Any, ids: Any) -> None:
    """Three steps are whole when the fourth breaks; the model is as before."""
    clock = FakeClock()
    asked = iter(range(4))

    def breaks(input_ids: Any, scores: Any) -> Any:
        clock.advance(MS)
        return scores if next(asked) < 3 else 1 / 0

    watched = perstep.watch(model, clock=clock)
    with pytest.raises(ZeroDivisionError), watched:
        model.generate(ids, max_new_tokens=9, do_sample=False, logits_processor=[breaks])
    assert "generate" not in vars(model)
    assert watched.ledger().step_ns_total == MS  # of two decode steps one was marked
    [sample] = watched.samples
    assert (sample.finished, sample.steps, sample.new_tokens) == (False, 3, None)
    assert "1 call broke off with an exception" in str(watched)


def test_a_call_that_breaks_at_once_is_told_and_has_no_ledger(model: Any, ids: Any, tmp_path: Path) -> None:
    """It is stored all the same: that it broke is what happened."""

    def breaks(input_ids: Any, scores: Any) -> Any:
        raise RuntimeError("planted")

    with perstep.watch(model, clock=FakeClock(tick_ns=1)) as w, pytest.raises(RuntimeError, match="planted"):
        model.generate(ids, max_new_tokens=3, do_sample=False, logits_processor=[breaks])
    assert "No step could be seen." in str(w)
    report = store(w, describe_calls(w, {}), out=tmp_path / "run", force=False)
    assert report.manifest.files == ["README.md", "ledger.csv", "report.html", "results.json"]
    assert report.manifest.results_summary == {"headline": "no step could be seen"}
    assert "too few steps" in report.findings.unresolved


def test_each_line_that_calls_has_a_ledger(model: Any, ids: Any) -> None:
    """And all together have one."""
    clock = FakeClock()
    with perstep.watch(model, clock=clock) as w:
        for _ in range(2):
            model.generate(ids, max_new_tokens=5, **slow(clock))
        model.generate(ids, max_new_tokens=3, **slow(clock))
    assert [ledger.forwards for ledger in w.ledgers().values()] == [8, 2]
    assert all(site.startswith("watching/test_watch.py:") for site in w.ledgers())
    assert w.ledger().forwards == 10
    text = str(w)
    assert text.count("decode at watching/test_watch.py:") == 2
    assert "Which part outside the forward costs most is not resolved in 1 round." in text


@pytest.mark.parametrize("detail", ["phases", "modules"])
@pytest.mark.parametrize("register", ["register_forward_pre_hook", "register_forward_hook", "both"])
def test_hooks_of_the_model_itself_are_a_part(model: Any, ids: Any, register: str, detail: Any) -> None:
    """What a hook takes before or after the forward is in `forward.hooks`, and nothing of it is unattributed."""
    clock = FakeClock()
    names = ["register_forward_pre_hook", "register_forward_hook"] if register == "both" else [register]
    hooks = [getattr(model, name)(lambda *_: clock.advance(MS)) for name in names]
    try:
        with perstep.watch(model, detail=detail, clock=clock) as w:
            model.generate(ids, max_new_tokens=20, logits_processor=[Spins(clock)], do_sample=False)
    finally:
        for hook in hooks:
            hook.remove()
    for ledger in (w.ledger(), w.ledger("prefill")):
        assert ledger.parts["forward.hooks"].ns == len(hooks) * MS
        assert ledger.parts["logits/Spins"].ns == MS
        assert ledger.parts["bookkeeping"].ns == 0
        assert ledger.residual_ns == 0
        assert ledger.step_ns == (1 + len(hooks)) * MS
        assert not any("unattributed" in note for note in ledger.notes)


def test_a_residual_above_5_percent_is_said_first(model: Any, ids: Any) -> None:
    """In the first note, and in the first line below the table; at 5 % and below nothing is said."""
    for unattributed_ns, said in ((3 * MS, True), (MS // 50, False)):
        clock = FakeClock()

        class Slow(type(model)):  # type: ignore[misc]
            """Spends time between two parts: after the preparation of inputs, before the forward."""

            def __call__(self, *args: Any, **kwargs: Any) -> Any:
                clock.advance(unattributed_ns)  # noqa: B023
                return super().__call__(*args, **kwargs)

        model.__class__, before = Slow, type(model)
        try:
            with perstep.watch(model, clock=clock) as w:
                model.generate(ids, max_new_tokens=20, logits_processor=[Spins(clock)], do_sample=False)
        finally:
            model.__class__ = before
        ledger = w.ledger()
        note = "75.0% of the decode step is unattributed: no part covers it."
        assert (ledger.notes[0] == note) is said
        assert (w.tables()[0].notes[0] == note) is said
        assert ("is unattributed" in str(w)) is said


def test_two_models_on_one_line_are_not_mixed(model: Any, ids: Any) -> None:
    """Where all models are watched."""
    other = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=96, n_embd=32, n_layer=1, n_head=4))
    clock = FakeClock()
    with Watch(clock=clock) as w:
        for each in (model, other.eval()):
            each.generate(ids, max_new_tokens=4, pad_token_id=0, **slow(clock))
    assert [name.split(" ", 1)[1] for name in w.ledgers()] == ["(LlamaForCausalLM)", "(GPT2LMHeadModel)"]


def test_two_models_of_one_name_are_not_mixed_either(model: Any, ids: Any) -> None:
    """The second one is `X#2`, on whatever line it is met."""
    other = small_llama(num_hidden_layers=3)
    with Watch(clock=FakeClock(tick_ns=1)) as w:
        for each in (model, other, model):
            each.generate(ids, max_new_tokens=4, do_sample=False)
        other.generate(ids, max_new_tokens=4, do_sample=False)
    assert [sample.model for sample in w.samples] == ["LlamaForCausalLM", "LlamaForCausalLM#2"] * 2
    names = list(w.ledgers())
    assert len(names) == 3
    assert [name.split(" ", 1)[1] for name in names[:2]] == ["(LlamaForCausalLM)", "(LlamaForCausalLM#2)"]


def test_only_the_given_model_is_watched(model: Any, ids: Any) -> None:
    """Another one that generates beside it is not."""
    other = small_llama()
    with perstep.watch(model) as w:
        other.generate(ids, max_new_tokens=3, do_sample=False)
    assert w.samples == []


def test_watching_twice_at_once_sees_the_same(model: Any, ids: Any) -> None:
    """And a call inside a processor is part of that processor, not a call."""
    clock = FakeClock()

    def asks(input_ids: Any, scores: Any) -> Any:
        model.generate(input_ids, max_new_tokens=1, do_sample=False)
        clock.advance(MS)
        return scores

    with perstep.watch(model, clock=clock) as outer, perstep.watch(model, clock=clock) as inner:
        model.generate(ids, max_new_tokens=7, do_sample=False, logits_processor=[asks])
    for w in (outer, inner):
        assert len(w.samples) == 1
        assert w.ledger().parts["logits/asks"].ns == w.ledger().step_ns == MS
    counted = [w.ledger().syncs_per_step for w in (outer, inner)]
    assert counted.count(None) == 1  # one at a time
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None


def test_no_generate_call_is_said(model: Any, ids: Any) -> None:
    """Nothing is made up; a call of one token has no decode step."""
    with perstep.watch(model, clock=FakeClock(tick_ns=1)) as w:
        pass
    assert str(w).startswith("no generate call was watched")
    with pytest.raises(InputError, match="no generate call was watched"):
        w.ledger()
    with w:
        model.generate(ids, max_new_tokens=1, do_sample=False)
    with pytest.raises(InputError, match="1 generate call made no decode step"):
        w.ledger()
    assert w.ledgers() == {}
    assert "\nprefill at " in f"\n{w}"


def test_what_cannot_be_watched_is_refused_at_once(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one line that says what would be right."""
    for given, why in ((None, "None is no model"), ("gpt2", "is not a transformers model that generates")):
        with pytest.raises(InputError, match=why):
            perstep.watch(given)
    with pytest.raises(InputError, match="unknown detail 'all'"):
        perstep.watch(model, detail="all")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="every is 0"):
        perstep.watch(model, every=0)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=re.escape(how_to_install("hf"))):
        perstep.watch(model)


def test_every_records_one_block_in_so_many(model: Any, ids: Any) -> None:
    """Forwards are those that were executed."""
    clock = FakeClock()
    with perstep.watch(model, every=3, clock=clock) as w:
        model.generate(ids, max_new_tokens=25, **slow(clock))
    ledger = w.ledger()
    assert_found(ledger)
    assert (ledger.forwards, ledger.steps, ledger.rounds) == (24, 3, 1)  # the first step of two blocks stands apart


def test_the_collector_stays_as_it_is(model: Any, ids: Any) -> None:
    """Enabled, or not."""
    seen = []

    def asks(input_ids: Any, scores: Any) -> Any:
        seen.append(gc.isenabled())
        return scores

    with perstep.watch(model, clock=FakeClock(tick_ns=1)):
        model.generate(ids, max_new_tokens=2, do_sample=False, logits_processor=[asks])
        gc.disable()
        try:
            model.generate(ids, max_new_tokens=2, do_sample=False, logits_processor=[asks])
        finally:
            gc.enable()
    assert seen == [True, True, False, False]


def test_a_watched_model_can_be_freed(ids: Any) -> None:
    """A script that loads one model after another needs the memory of one."""
    with Watch(clock=FakeClock(tick_ns=1)) as w:
        model = small_llama()
        model.generate(ids, max_new_tokens=3, do_sample=False)
        gone = weakref.ref(model)
        del model
        gc.collect()
        assert gone() is None
    assert len(w.samples) == 1


def test_a_stored_watch_is_made_again_from_its_samples(model: Any, ids: Any, tmp_path: Path) -> None:
    """One line a call; every derived file is the same again, byte for byte."""
    clock = FakeClock()
    with perstep.watch(model, clock=clock) as w:
        for _ in range(2):
            model.generate(ids, max_new_tokens=41, **slow(clock))
    report = store(w, describe_calls(w, {"every": 1}), out=tmp_path / "run", force=False)
    assert len((report.folder / "samples.jsonl").read_text().splitlines()) == 2
    derived = ["README.md", "ledger.csv", "ledger.png", "report.html", "results.json"]
    assert report.manifest.files == derived
    before = {name: (report.folder / name).read_bytes() for name in derived}
    again = pipeline.rebuild(report.folder)
    assert {name: (report.folder / name).read_bytes() for name in derived} == before
    [site] = json.loads(before["results.json"])["sites"]
    assert site["costliest"] == "logits/Spins"
    assert site["decode"]["parts"]["stop/Dawdles"]["ns_per_step"] == MS / 2
    assert "logits/Spins costs most" in again.manifest.results_summary["headline"]
    looked, rebuilt, live = (
        [to_text(table) for table in tables]
        for tables in (pipeline.look(report.folder).tables, again.tables, w.tables())
    )
    assert looked == rebuilt == live
    with pytest.raises(InputError, match="no ledger of parts"):
        pipeline.ledgers_of(pipeline.load(pipeline.open_run(report.folder)))


def test_nothing_is_stored_without_a_call() -> None:
    """No empty run."""
    with pytest.raises(InputError, match="no generate call was watched"):
        describe_calls(Watch(), {})


class Compiles(transformers.LogitsProcessor):  # type: ignore[misc]
    """Takes 3 s when it is first called, then 1 ms."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock, self.ready = clock, False

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """The scores as they were."""
        self.clock.advance(MS if self.ready else 3_000 * MS)
        self.ready = True
        return scores


def test_a_first_call_that_compiles_stands_apart(model: Any, ids: Any, tmp_path: Path) -> None:
    """In no row and no average: it has a sentence, which names the part; prefills are medians of the others."""
    clock = FakeClock()
    processor = Compiles(clock)
    with perstep.watch(model, clock=clock) as w:
        for _ in range(5):
            model.generate(ids, max_new_tokens=41, do_sample=False, logits_processor=[processor])
    prefill, decode = w.ledger("prefill"), w.ledger()
    assert prefill.step_ns == prefill.plain_step_ns == prefill.parts["logits/Compiles"].ns == MS
    assert decode.step_ns == MS
    # Each call leaves two of its 40 decode steps to the counting of syncs.
    assert "First calls are shown separately: the rows exclude 38 of 190 decode steps." in decode.notes
    assert "First calls are shown separately: the rows exclude 1 of 5 prefill steps." in prefill.notes
    assert (decode.forwards, prefill.forwards) == (200, 5)  # all that were executed
    text = str(w)
    assert "Outside the forward logits/Compiles costs most: 1.00 ms of a decode step, 100.0 %." in text
    assert (
        "A prefill took 1.00 ms (the median of 2), the set-up of the call included, logits/Compiles 1.00 ms of it."
        in text
    )
    apart = (
        "The first call is shown separately, because it includes warm-up: its prefill took 3.00 s"
        " (logits/Compiles 3.00 s of it), its 38 decode steps took 1.00 ms on average."
    )
    assert apart in text
    report = store(w, describe_calls(w, {"every": 1}), out=tmp_path / "run", force=False)
    assert apart in (report.folder / "README.md").read_text()


def test_the_only_prefill_there_is_names_its_part_and_what_it_holds(model: Any, ids: Any) -> None:
    """One call has nothing to be compared with; its first decode step is in no row."""
    clock = FakeClock()
    with perstep.watch(model, clock=clock) as w:
        model.generate(ids, max_new_tokens=9, do_sample=False, logits_processor=[Compiles(clock)])
    text = str(w)
    assert (
        "A prefill took 3.00 s, the set-up of the call included, logits/Compiles 3.00 s of it; it belongs to"
        " a first call and includes its warm-up."
    ) in text
    assert (
        "The first call is shown separately, because it includes warm-up: its first decode step took 1.00 ms." in text
    )
    assert "First calls are shown separately: the rows exclude 1 of 6 decode steps." in w.ledger().notes


def test_the_first_call_with_another_processor_stands_apart_too(model: Any, ids: Any) -> None:
    """As soon as another call has the same parts; until then only its first decode step does, for it hides nothing."""
    clock = FakeClock()
    first, second = Spins(clock), Compiles(clock)
    with perstep.watch(model, syncs=False, clock=clock) as w:
        for processor in (first, first, first, second):
            model.generate(ids, max_new_tokens=9, do_sample=False, logits_processor=[processor])
    assert w.ledger("prefill").step_ns == MS
    assert w.ledger().parts["logits/Compiles"].ns_total == 4 * MS
    apart = "Call 4, the first with logits/Compiles, is shown separately, because it includes warm-up: its prefill took"
    assert f"{apart} 3.00 s, its first decode step took 1.00 ms." in str(w)
    again = Watch(model, syncs=False, clock=clock)
    with again:
        for processor in (first, first, second, second, second):
            model.generate(ids, max_new_tokens=9, do_sample=False, logits_processor=[processor])
    assert (
        "Call 3, the first with logits/Compiles, is shown separately, because it includes warm-up: its prefill took"
        in str(again)
    )
    assert "its 8 decode steps took 1.00 ms on average." in str(again)


def test_a_part_of_a_few_calls_is_not_lost_in_a_median(model: Any, ids: Any) -> None:
    """Calls of one shape with different processors do not repeat each other: one of eight has another."""
    clock = FakeClock()
    first, second = Spins(clock), Compiles(clock)
    with perstep.watch(model, syncs=False, clock=clock) as w:
        for number in range(10):
            model.generate(
                ids, max_new_tokens=9, do_sample=False, logits_processor=[second if number in (1, 4) else first]
            )
    ledger = w.ledger()
    assert ledger.parts["logits/Compiles"].ns == MS / 8
    assert ledger.parts["logits/Spins"].ns == 7 * MS / 8


def test_a_first_step_that_alone_holds_a_part_stays() -> None:
    """It would hide the part; columns of the other steps are as they were."""

    def held(late_ns: list[int]) -> Sample:
        step = np.array([50, 30, 30, 40], np.int64)
        late = np.array(late_ns, np.int64)
        decode = CallSteps(step, {"late": late}, step[[0, 3]] - late, {"late": 2}, marked=np.array([1, 0, 0, 1]))
        probe = NoiseProbe()
        probe.start()
        return Sample(
            site="x.py:1", model="M", device="cpu", dtype="float32", finished=True, rows=1, prompt_tokens=1,
            new_tokens=5, steps=5, forwards=5, kinds={"decode": decode}, notes=[], noise=probe.stop(),
        )  # fmt: skip

    [hides] = choose("decode", [held([20, 0])])
    assert hides.skip == 0
    [again] = choose("decode", [held([20, 10])])
    assert again.skip == 1
    taken = again.taken(again.sample.kinds["decode"])
    assert (taken.step_ns.tolist(), taken.marked.tolist(), taken.residual_ns.tolist()) == (
        [30, 30, 40],
        [0, 0, 1],
        [30],
    )
    assert (taken.parts["late"].tolist(), taken.marks) == ([10], {"late": 1})


def test_what_grows_with_the_text_is_said_and_a_slower_machine_is_not(model: Any, ids: Any) -> None:
    """A streamer that renders everything again; then a machine on which every part takes longer and longer."""
    clock = FakeClock()

    class Renders(transformers.TextStreamer):  # type: ignore[misc]
        """Takes 10 µs for each token that it has got."""

        def __init__(self) -> None:
            self.tokens = 0

        def put(self, value: Any) -> None:
            """Render all of them."""
            self.tokens += 1
            clock.advance(10_000 * self.tokens)

        def end(self) -> None:
            """Nothing is left."""

    with perstep.watch(model, clock=clock) as w:
        model.generate(ids[:1], max_new_tokens=60, do_sample=False, streamer=Renders(), logits_processor=[Spins(clock)])
    assert "stream/Renders grows by 10.0 µs a token" in str(w)
    assert "as a streamer does that renders the whole text again" in str(w)

    slower = iter(range(1000))

    def drifts(input_ids: Any, scores: Any) -> Any:
        clock.advance(MS + 20_000 * next(slower))
        return scores

    class Drifts(Dawdles):
        """Takes longer at each step, as the processor does."""

        def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
            """No row has ended."""
            clock.advance(MS + 20_000 * input_ids.shape[1])
            return super().__call__(input_ids, scores, **kwargs)

    with perstep.watch(model, clock=clock) as w:
        model.generate(
            ids, max_new_tokens=60, do_sample=False, logits_processor=[drifts], stopping_criteria=[Drifts(clock)]
        )
    assert "grows by" not in str(w)


def test_a_part_whose_slope_is_not_resolved_does_not_grow(model: Any, ids: Any) -> None:
    """It keeps its time, with a spread, while all else becomes faster: its ratio to the others rises."""
    clock, chance, fall = FakeClock(), random.Random(5), iter(range(1000))

    def spreads(input_ids: Any, scores: Any) -> Any:
        clock.advance(round(MS * (6 + 0.02 * input_ids.shape[1] + chance.uniform(-4, 4))))
        return scores

    class Falls(Dawdles):
        """Takes less at each step."""

        def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
            """No row has ended."""
            clock.advance(6 * MS - 80_000 * next(fall))
            return super().__call__(input_ids, scores, **kwargs)

    with perstep.watch(model, clock=clock) as w:
        model.generate(
            ids, max_new_tokens=60, do_sample=False, logits_processor=[spreads], stopping_criteria=[Falls(clock)]
        )
    found = {one.part: one for one in find_growth(w.samples, Schedule(alternate=True, count=True))}
    growth = found["logits/spreads"]
    assert growth.ci_low is not None
    assert growth.ci_low < 0 < growth.ns_per_step
    assert not growth.grows


def test_a_call_without_a_cache_names_the_option(model: Any, ids: Any) -> None:
    """`use_cache=False` is a fact of the call, whatever the clock says."""
    clock = FakeClock()
    handle = model.register_forward_pre_hook(
        lambda _, args, kwargs: clock.advance(20_000 * kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    with perstep.watch(model, clock=clock) as w:
        model.generate(ids, max_new_tokens=60, do_sample=False, use_cache=False)
        model.generate(ids, max_new_tokens=3, do_sample=False)
    handle.remove()
    assert "forward.hooks grows by 20.0 µs a token" in str(w)
    assert "no KV cache is used (use_cache=False)" in str(w)
    assert [sample.whole for sample in w.samples] == [True, False]


def test_what_is_built_before_the_first_token_is_a_ledger_of_its_own(
    model: Any, ids: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Criteria that take longer to build than the whole call to run are named, with both times."""
    clock = FakeClock()
    build_criteria = type(model)._get_stopping_criteria

    def slow_to_build(self: Any, *args: Any, **kwargs: Any) -> Any:
        clock.advance(80 * MS)
        return build_criteria(self, *args, **kwargs)

    monkeypatch.setattr(type(model), "_get_stopping_criteria", slow_to_build)
    with perstep.watch(model, clock=clock, syncs=False) as w:
        for _ in range(4):
            model.generate(ids, max_new_tokens=21, do_sample=False, logits_processor=[Spins(clock)])
    setup = w.ledger("setup")
    taken = {name: part.ns for name, part in setup.parts.items() if part.ns}
    assert taken == {"setup.criteria": 80 * MS, "prefill": MS}
    assert (setup.kind, setup.step_ns, setup.residual_ns) == ("setup", 81 * MS, 0)
    assert sum(part.ns_total for part in setup.parts.values()) + setup.residual_ns_total == setup.step_ns_total
    said = "Building the stopping criteria takes 80.0 ms a call (setup.criteria): more than its prefill and 20 decode"
    assert said in str(w)
    report = store(w, describe_calls(w, {}), out=tmp_path / "run", force=False)
    assert "## Set-up of a call" in (report.folder / "README.md").read_text()
    assert "setup,setup.criteria," in (report.folder / "ledger.csv").read_text()


def test_the_hooks_of_a_module_lie_in_its_part(model: Any, ids: Any) -> None:
    """Those before and those after it, where the forward is looked into."""
    clock = FakeClock()
    head = model.lm_head
    handles = [
        head.register_forward_pre_hook(lambda *_: clock.advance(MS)),
        head.register_forward_hook(lambda *_: clock.advance(MS // 2)),
    ]
    try:
        with perstep.watch(model, "modules", clock=clock) as w:
            model.generate(ids, max_new_tokens=12, do_sample=False)
    finally:
        for handle in handles:
            handle.remove()
    assert w.ledger().parts["lm_head"].ns == 1.5 * MS
    assert w.ledger().parts["forward.other"].ns == 0


TWICE = """
def generate(model, inputs=None, custom=None, logits_processor=None, stopping_criteria=None, **kwargs):
    wait = kwargs.pop("wait")
    wait()
    given = {"do_sample": False, "max_new_tokens": kwargs["max_new_tokens"], "logits_processor": logits_processor}
    first = model.generate(inputs, **given)
    wait()
    return model.generate(first, **given)
"""
BY_HAND = """
def generate(model, inputs=None, max_new_tokens=None, logits_processor=None, **kwargs):
    import torch

    past = None
    for _ in range(max_new_tokens):
        out = model(input_ids=inputs[:, -1:] if past else inputs, past_key_values=past, use_cache=True)
        past = out.past_key_values
        scores = logits_processor[0](inputs, out.logits[:, -1])
        inputs = torch.cat([inputs, scores.argmax(-1, keepdim=True)], 1)
    return inputs
"""


def custom(folder: Path, source: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Arguments of a generate call that is done by a folder."""
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(folder / "modules"))
    monkeypatch.syspath_prepend(str(folder / "modules"))
    (folder / "recipe" / "custom_generate").mkdir(parents=True)
    (folder / "recipe" / "custom_generate" / "generate.py").write_text(source, encoding="utf-8")
    return {"custom_generate": str(folder / "recipe"), "trust_remote_code": True}


def test_a_custom_generate_that_calls_generate_again_has_one_ledger(
    model: Any, ids: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its two calls stand under the line that was called; nothing is counted twice; what lies around is no step."""
    clock = FakeClock()
    given = {
        **custom(tmp_path, TWICE, monkeypatch), "max_new_tokens": 9, "logits_processor": [Spins(clock)],
        "wait": lambda: clock.advance(100 * MS),
    }  # fmt: skip
    plain, begun_ns = model.generate(ids, **given), clock.now()
    with perstep.watch(model, clock=clock) as w:
        watched = model.generate(ids, **given)
        again = model.generate(ids, max_new_tokens=9, do_sample=False, logits_processor=[Spins(clock)])
    assert watched.tolist() == plain.tolist()
    assert again.tolist() == plain[:, : ids.shape[1] + 9].tolist()
    assert [(sample.prompt_tokens, sample.new_tokens, sample.steps) for sample in w.samples] == [
        (ids.shape[1], 9, 9), (ids.shape[1] + 9, 9, 9), (ids.shape[1], 9, 9),
    ]  # fmt: skip
    assert w.samples[0].site == w.samples[1].site != w.samples[2].site
    recorded_ns = sum(int(steps.step_ns.sum()) for sample in w.samples for steps in sample.kinds.values())
    spins_ns = 27 * MS  # a processor's millisecond for each token
    assert clock.now() - begun_ns == spins_ns + 200 * MS
    assert recorded_ns <= spins_ns
    assert any("called generate again" in note for note in w.samples[0].notes)
    assert not any("called generate again" in note for note in w.samples[2].notes)


def test_a_custom_generate_with_a_loop_of_its_own_is_recorded(
    model: Any, ids: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its forwards separate the steps of the one call."""
    clock = FakeClock()
    given = {
        **custom(tmp_path, BY_HAND, monkeypatch), "max_new_tokens": 9, "logits_processor": [Spins(clock)]
    }  # fmt: skip
    with torch.no_grad():
        plain = model.generate(ids, **given)
        with perstep.watch(model, clock=clock) as w:
            watched = model.generate(ids, **given)
    assert watched.tolist() == plain.tolist()
    [sample] = w.samples
    assert (sample.forwards, sample.finished) == (9, True)
    assert w.ledger().step_ns == MS


def test_a_custom_generate_that_breaks_off_is_said(
    model: Any, ids: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a call that came to its end: that one counts, and nothing is left behind."""
    given = custom(tmp_path, TWICE, monkeypatch)
    times: list[int] = []

    def wait() -> None:
        times.append(1)
        if len(times) == 2:
            raise RuntimeError("planted")

    with pytest.raises(RuntimeError, match="planted"), perstep.watch(model, clock=FakeClock()) as w:
        model.generate(ids, max_new_tokens=9, wait=wait, **given)
    assert [(sample.finished, sample.steps) for sample in w.samples] == [(True, 9)]
    with perstep.watch(model, clock=FakeClock()) as w:
        model.generate(ids, max_new_tokens=9, do_sample=False)
    assert [sample.steps for sample in w.samples] == [9]
