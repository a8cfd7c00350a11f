"""Every generate call in a process, watched without a change to what calls it."""

import asyncio
import importlib.util
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest

from perstep.fixing.capture import Captures
from perstep.measure import FakeClock, Recorder
from perstep.targets.transformers import EveryGenerate, Instrument, is_installed

pytestmark = pytest.mark.hf
torch = pytest.importorskip("torch")


class Sites:
    """An Instrument for each call site."""

    def __init__(self, detail="phases"):
        self.instruments = {}
        self.recorders = {}
        self._detail = detail

    def __call__(self, model, site):
        """The Instrument of a call site, made at its first call."""
        if site not in self.instruments:
            self.recorders[site] = Recorder(FakeClock())
            self.instruments[site] = Instrument(model, self.recorders[site], self._detail)
        return self.instruments[site]

    def steps(self):
        """How many decode steps each call site made, in the order of the first calls."""
        return [len(recorder.steps("decode").step_ns) for recorder in self.recorders.values()]


def test_each_call_site_is_recorded_for_itself(llama, tiny, ids):
    """Two lines that call generate give two recorders, however often each runs; nothing is left after."""
    from transformers import GenerationMixin

    before = vars(GenerationMixin)["generate"]
    sites = Sites("modules")
    with EveryGenerate(sites):
        for _ in range(2):
            llama.generate(ids, max_new_tokens=4, do_sample=False)
        tiny("gpt2").generate(ids, max_new_tokens=3, do_sample=False)
    llama.generate(ids, max_new_tokens=4, do_sample=False)
    assert sites.steps() == [6, 2]
    assert all(site.startswith("transformers/test_every.py:") for site in sites.recorders)
    assert vars(GenerationMixin)["generate"] is before
    assert "generate" not in vars(llama)


def line(number):
    """The site of a line of this file, counted from that of the caller."""
    return f"transformers/test_every.py:{sys._getframe(1).f_lineno + number}"


def test_a_call_in_a_thread_is_named_after_the_line_that_started_it(llama, ids):
    """Of a thread, of a task for an executor whose threads are used again, and of one that a coroutine waits for."""
    options = {"max_new_tokens": 3, "do_sample": False}
    sites = Sites()

    async def waits():
        await asyncio.to_thread(llama.generate, ids, **options)

    with EveryGenerate(sites), ThreadPoolExecutor(1) as pool:
        thread = threading.Thread(target=llama.generate, args=(ids,), kwargs=options)
        thread.start()
        thread.join()
        pool.submit(llama.generate, ids, **options).result()
        pool.submit(llama.generate, ids, **options).result()
        asyncio.run(waits())
    assert list(sites.recorders) == [line(-5), line(-3), line(-2), line(-9)]


@pytest.mark.parametrize("folder", ["site-packages", "anywhere"])
def test_a_call_by_an_installed_package_is_named_after_the_line_that_calls_the_package(llama, ids, tmp_path, folder):
    """As of an adapter library, whose model calls the generate of the one inside; pip says which files it put there."""
    package = tmp_path / folder / "adapters" / "model.py"
    package.parent.mkdir(parents=True)
    record = tmp_path / folder / "adapters-1.0.dist-info" / "RECORD"
    record.parent.mkdir()
    record.write_text("adapters/__init__.py,,0\nadapters/model.py,sha256=x,99\n")
    package.write_text("def generate(model, ids):\n    return model.generate(ids, max_new_tokens=3, do_sample=False)\n")
    spec = importlib.util.spec_from_file_location("adapters", package)
    adapters = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(adapters)
    sites = Sites()
    with EveryGenerate(sites):
        adapters.generate(llama, ids)
    assert list(sites.recorders) == [line(-1)]
    with Captures() as captured:
        adapters.generate(llama, ids)
    [call] = captured.calls.values()
    assert (call.site, call.file.name) == (line(-2), "test_every.py")
    assert is_installed(str(package.with_name("script.py"))) is (folder == "site-packages")


def test_a_generate_call_inside_a_watched_one_belongs_to_it(llama, tiny, ids):
    """A processor that asks another model is one part of the outer call."""

    def nests(input_ids, scores):
        tiny("gpt2").generate(ids, max_new_tokens=3, do_sample=False)
        return scores

    sites = Sites()
    with EveryGenerate(sites):
        llama.generate(ids, max_new_tokens=4, do_sample=False, logits_processor=[nests])
    assert sites.steps() == [3]
    [recorder] = sites.recorders.values()
    assert "logits/nests" in recorder.steps("decode").parts


def test_a_call_may_be_left_alone(llama, ids):
    """Choosing no Instrument runs the call as if nothing were there."""
    with EveryGenerate(lambda model, site: None):
        assert llama.generate(ids, max_new_tokens=2).shape == (2, 7)


def test_two_threads_at_one_site_do_not_disturb_each_other(llama, tiny, ids):
    """The same Instrument cannot record both at once: one is recorded, all tokens are right."""
    other = tiny("gpt2")
    expected = [model.generate(ids, max_new_tokens=8, do_sample=False).tolist() for model in (llama, other)]
    results = {}

    def call(model):
        results[model] = model.generate(ids, max_new_tokens=8, do_sample=False).tolist()

    recorder = Recorder(FakeClock())
    one = Instrument(llama, recorder)
    with EveryGenerate(lambda model, site: one if model is llama else None):
        threads = [threading.Thread(target=call, args=(model,)) for model in (llama, other, llama)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [results[llama], results[other]] == expected
    assert len(recorder.steps("decode").step_ns) in (7, 14)


def test_an_exception_passes_and_the_next_call_is_recorded(llama, ids):
    """The script sees its own exception, and watching goes on."""

    def breaks(input_ids, scores):
        raise RuntimeError("planted")

    sites = Sites()
    with EveryGenerate(sites):
        for processors, outcome in (([breaks], pytest.raises(RuntimeError, match="planted")), ([], nullcontext())):
            with outcome:
                llama.generate(ids, max_new_tokens=3, do_sample=False, logits_processor=processors)
    assert sites.steps() == [2]


def test_a_model_that_generates_in_its_own_way_is_watched_from_where_it_calls_the_usual_one(build_tiny, ids):
    """As speech models do, whose `generate` prepares and then calls the one of the library."""
    from transformers import LlamaForCausalLM

    class Talks(LlamaForCausalLM):
        """Generates twice."""

        def generate(self, *args, **kwargs):
            super().generate(*args, **kwargs)
            return super().generate(*args, **kwargs)

    model = build_tiny("llama")
    model.__class__ = Talks
    recorder = Recorder(FakeClock())
    with Instrument(model, recorder) as instrument:
        model.generate(ids, max_new_tokens=4, do_sample=False)
    assert [len(recorder.steps(kind).step_ns) for kind in ("prefill", "decode")] == [2, 6]
    assert instrument.calls[0].forwards == 8
    sites = Sites()
    with EveryGenerate(sites):
        model.generate(ids, max_new_tokens=4, do_sample=False)
    assert sites.steps() == [3, 3]
