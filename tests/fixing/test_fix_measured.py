"""`perstep fix`: what is offered is tried on the captured call, timed against it, and kept as a run."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from tests.models import small_llama

from perstep.data import fix_results_schema_path
from perstep.experiments import pipeline
from perstep.fixing import Captured, Captures, FixFindings, fix_calls, lines, tables
from perstep.fixing.findings import Row, Site, _by_line, _site, results_schema
from perstep.fixing.loop import keyed_tokens
from perstep.fixing.measure import try_call
from perstep.fixing.show import UNPROVEN
from perstep.fixing.suggest import BETWEEN
from perstep.machine import NoiseProbe, summarise_noise
from perstep.measure import FakeClock
from perstep.runs import Manifest, encode_json
from perstep.watching.session import Watch

pytestmark = pytest.mark.hf
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

CS = 10_000_000
"""10 ms in fake time. Calls of 20 ms and more are made once for each time that is kept, shorter ones twice."""
CLOCK = FakeClock()
BYTES = [bytes([byte]) for byte in range(256)]
DECODE = "custom_generate=perstep.fast.decode"


class Costly(transformers.LogitsProcessor):  # type: ignore[misc]
    """Forbids three tokens and takes 20 ms."""

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """-inf at 5, 7 and 9."""
        CLOCK.advance(2 * CS)
        return scores.index_fill(1, torch.tensor([5, 7, 9]), -torch.inf)


class Louder(transformers.LogitsProcessor):  # type: ignore[misc]
    """Changes values, so that nothing can take its place."""

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Twice the scores."""
        return scores * 2


class Alternates(transformers.LogitsProcessor):  # type: ignore[misc]
    """Forbids tokens as even or odd as the last one."""

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """-inf at half of them, by row."""
        forbidden = (torch.arange(256)[None] + input_ids[:, -1:]) % 2 == 0
        return scores.masked_fill(forbidden, -torch.inf)


class Dice(transformers.LogitsProcessor):  # type: ignore[misc]
    """Draws from torch's generator, as sampling does."""

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Scores with noise."""
        return scores + torch.rand(scores.shape) * 9


@pytest.fixture(autouse=True)
def slow_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step of transformers' own list of processors takes 10 ms in fake time; `fast.decode` makes no such step."""
    kind = transformers.LogitsProcessorList
    plain = kind.__call__

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        CLOCK.advance(CS)
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(kind, "__call__", call)


def model(**changes: Any) -> Any:
    """A tiny Llama over bytes, of which a forward takes 10 ms."""
    llama = small_llama(**{"vocab_size": 256, "num_hidden_layers": 1, "initializer_range": 0.4, **changes})
    llama.model.register_forward_pre_hook(lambda *_: CLOCK.advance(CS))
    return llama


def captured(**kwargs: Any) -> Captured:
    """One call of two rows and three tokens."""
    llama = model()
    with Captures() as captures:
        llama.generate(torch.arange(97, 107).reshape(2, 5), **{"max_new_tokens": 3, "do_sample": False, **kwargs})
    (call,) = captures.calls.values()
    return call


def found(call: Captured, budget_s: float = 1e-3) -> Site:
    """What is found for a call, timed by the fake clock; for three rounds unless a verdict is wanted."""
    samples: list[Any] = []
    try_call(call, None, budget_s=budget_s, keep=samples.append, clock=CLOCK)
    (held,) = _by_line(samples).values()
    return _site(held, None, None, model="")


def row_of(site: Site, drop_in: str) -> Row:
    """The row of a drop-in."""
    return next(row for row in site.rows if row.drop_in.startswith(drop_in))


def test_the_gain_of_each_drop_in_and_of_all_together_is_found_exactly() -> None:
    """A step takes 40 ms: 20 in a mask, 10 in the dispatch, 10 in the forward. Without any they are 10.

    The loop is timed in a call that has the mask's drop-in already: there it takes 10 of 20.
    """
    site = found(captured(logits_processor=[Costly(), Louder()]), budget_s=1000)
    mask, loop = row_of(site, "perstep.fast.SuppressTokens").result, row_of(site, DECODE).result
    assert mask is not None
    assert loop is not None
    assert site.together is not None
    assert (mask.beside, loop.beside) == ([], ["perstep.fast.SuppressTokens([5, 7, 9])"])
    for result, change in ((mask, -0.5), (loop, -0.5), (site.together, -0.75)):
        assert result.step is not None
        assert (result.step.change, result.whole.change) == (pytest.approx(change), pytest.approx(change))
        assert {result.step.verdict, result.whole.verdict} == {"faster"}
        assert (result.new_tokens, result.projected) == (3, None)
    assert site.all_tokens == 3
    assert (
        site.lines
        == [
            "logits_processor=[perstep.fast.SuppressTokens([5, 7, 9]), kwargs['logits_processor'][1]],",
            "custom_generate=perstep.fast.decode,",
        ]
        or site.by_hand
    )


def test_a_drop_in_that_is_slower_is_no_line_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone it was slower, so it is not in the arm of all lines either."""
    from perstep.fast import SuppressTokens

    plain = SuppressTokens.__call__

    def call(self: Any, input_ids: Any, scores: Any) -> Any:
        CLOCK.advance(5 * CS)
        return plain(self, input_ids, scores)

    monkeypatch.setattr(SuppressTokens, "__call__", call)
    site = found(captured(logits_processor=[Costly(), Louder()]), budget_s=1000)
    mask = row_of(site, "perstep.fast.SuppressTokens")
    assert mask.result is not None
    assert mask.result.whole.verdict == "slower"
    assert not mask.written
    assert site.together is not None
    assert site.together.whole.change == pytest.approx(-0.25)
    assert row_of(site, DECODE).written


def test_sampled_tokens_are_those_of_the_same_noise_in_the_calls_own_loop() -> None:
    """Other draws than `multinomial` makes, and the same as transformers' loop makes by keyed noise."""
    call = captured(do_sample=True, top_k=20, logits_processor=[Costly(), Louder()])
    assert not torch.equal(keyed_tokens(call), call.result)
    site = found(call, budget_s=1000)
    assert row_of(site, DECODE).tokens == "equal in distribution"
    assert row_of(site, "perstep.fast.SuppressTokens").tokens == "the same"
    assert any("other draws" in line for line in site.lines)
    assert any("Leave its line out" in note for note in tables_of(site)[0].notes)


def test_a_drop_in_that_gives_other_tokens_is_shown_and_not_used() -> None:
    """Here the draws of the loop and those of a processor come from one generator."""
    site = found(captured(do_sample=True, top_k=0, logits_processor=[Dice()]))
    assert row_of(site, DECODE).tokens == "differ"
    assert (site.lines, site.together) == ([], None)
    assert any("gave other tokens" in note for note in tables_of(site)[0].notes)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"num_beams": 2}, "fast.decode does greedy search and sampling, not beam_search"),
        ({"num_beams": 2, "do_sample": True}, "not beam_sample"),
    ],
)
def test_what_the_loop_refuses_is_listed_in_its_own_words(arguments: dict[str, Any], why: str) -> None:
    """There is no arm, and the other drop-ins are tried all the same."""
    site = found(captured(logits_processor=[Costly()], **arguments), budget_s=1000)
    loop = row_of(site, DECODE)
    assert (loop.tokens, loop.result) == ("not made", None)
    assert why in loop.why
    assert row_of(site, "perstep.fast.SuppressTokens").written
    assert any(why in note for note in tables_of(site)[0].notes)


def test_a_loop_that_is_refused_alone_may_lean_on_the_other_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop of one's own is handed no tokenizer by transformers; with StopStrings in its place none is wanted.

    It is timed in a call that has StopStrings already: faster where transformers takes 200 ms to make its own.
    """
    from transformers.generation import StopStringCriteria

    plain = StopStringCriteria.__init__

    def slow(self: Any, *args: Any, **kwargs: Any) -> None:
        CLOCK.advance(20 * CS)
        plain(self, *args, **kwargs)

    monkeypatch.setattr(StopStringCriteria, "__init__", slow)
    tokenizers = pytest.importorskip("tokenizers")
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    raw = tokenizers.Tokenizer(tokenizers.models.BPE({one: at for at, one in enumerate(alphabet)}, []))
    raw.decoder = tokenizers.decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=raw)
    site = found(captured(stop_strings=["qq"], tokenizer=tokenizer), budget_s=1000)
    loop = row_of(site, DECODE)
    assert loop.leans
    assert loop.result is not None
    assert loop.result.beside == [row_of(site, "perstep.fast.StopStrings(['qq'], ").drop_in]
    assert loop.written
    assert row_of(site, "perstep.fast.StopStrings").tokens == "the same"
    assert any("only with the other lines" in note for note in tables_of(site)[0].notes)


def test_a_call_that_has_the_loop_already_is_offered_the_rest() -> None:
    """As after a first `perstep fix`; another loop of one's own is named and left alone."""
    from perstep.fast import decode

    site = found(captured(custom_generate=decode, logits_processor=[Costly()]), budget_s=1000)
    assert [row.drop_in for row in site.rows] == ["perstep.fast.SuppressTokens([5, 7, 9])"]
    assert site.rows[0].written

    def own(model: Any, input_ids: Any, **_kwargs: Any) -> Any:
        return input_ids

    assert "is an unknown loop" in found(captured(custom_generate=own)).refused


def test_dropping_a_check_is_listed_with_what_is_lost() -> None:
    """A mask of one's own that nothing replaces says how often it changed the likeliest token."""
    call = captured(logits_processor=[Alternates(), Louder()])
    samples: list[Any] = []
    try_call(call, None, budget_s=1e-3, keep=samples.append, clock=CLOCK)
    (instead,) = [sample.instead for sample in samples if hasattr(sample, "instead")]
    assert list(instead) == ["logits/Alternates"]
    assert "of 6 recorded rows the likeliest token was forbidden" in instead["logits/Alternates"]


def test_a_call_that_cannot_be_made_again_is_left_alone() -> None:
    """Its own cache, or tokens that another try does not give."""
    llama = model()
    with Captures() as captures:
        cache = transformers.DynamicCache(config=llama.config)
        llama.generate(torch.arange(3, 9)[None], max_new_tokens=3, past_key_values=cache, do_sample=False)
    (call,) = captures.calls.values()
    assert "past_key_values cannot be used a second time" in found(call).refused

    class Random(transformers.LogitsProcessor):  # type: ignore[misc]
        generator = torch.Generator().manual_seed(0)  # of the class: not copied

        def __call__(self, input_ids: Any, scores: Any) -> Any:
            return torch.rand(scores.shape, generator=self.generator)

    site = found(captured(logits_processor=[Random()]))
    assert "Random gave another result for the same scores" in site.refused
    assert "Nothing was tried" in tables_of(site)[0].notes[0]


def tables_of(site: Site) -> Any:
    """The tables of one line."""
    probe = NoiseProbe()
    probe.start()
    findings = FixFindings(sites=[site], diff="", noise=summarise_noise([probe.stop()]), unresolved="", invalid="")
    return tables(Manifest(experiment="fix", plan={}), findings)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> pipeline.Report:
    """A run of two lines, one of them sampled, watched and tried in fake time."""
    llama, ids = model(), torch.arange(97, 107).reshape(2, 5)
    watch = Watch(clock=CLOCK)
    with Captures() as captures, watch:
        llama.generate(ids, max_new_tokens=24, do_sample=False, logits_processor=[Costly(), Louder()])
        llama.generate(ids, max_new_tokens=24, do_sample=True, top_p=0.9)
    plan = {"script": "job.py", "arguments": [], "budget": 30}
    return fix_calls(
        captures.calls,
        watch,
        plan,
        budget_s=30,
        tag="mine",
        progress=lambda _share, _what: None,
        out=tmp_path_factory.mktemp("fix") / "run",
        clock=CLOCK,
    )


def test_the_rounds_of_the_trials_warn_of_a_busy_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them are looked at, and what they say is in the manifest, after the warnings of the watched calls."""
    seen: list[int] = []

    def warnings(_machine: Any, noise: Any = None, **_options: Any) -> list[str]:
        seen.append(0 if noise is None else noise.rounds)
        return [] if noise is None else ["rounds waited for a processor"]

    monkeypatch.setattr("perstep.experiments.conditions.warnings_for", warnings)
    llama, ids = model(), torch.arange(97, 107).reshape(2, 5)
    watch = Watch(clock=CLOCK)
    with Captures() as captures, watch:
        llama.generate(ids, max_new_tokens=8, do_sample=False, logits_processor=[Costly()])
    plan = {"script": "job.py", "arguments": [], "budget": 10}
    run = fix_calls(
        captures.calls, watch, plan, budget_s=10, progress=lambda _share, _what: None, out=tmp_path / "run", clock=CLOCK
    )
    lines = (tmp_path / "run" / "samples.jsonl").read_text().splitlines()
    assert seen == [0, sum('"type":"round"' in line for line in lines)]
    assert seen[1] > 0
    assert run.manifest.warnings == ["rounds waited for a processor"]


def test_every_part_of_the_ledger_has_a_row(ran: pipeline.Report) -> None:
    """What could replace it, or why nothing can; shares are those of the ledger, and the loop's are one row."""
    found: Any = ran.findings
    first, second = found.sites
    named = {part for row in first.rows for part in row.parts}
    assert {"forward", "logits/Costly", "logits/Louder", BETWEEN} == named
    assert set(first.loop) >= {"inputs", "sample", "bookkeeping", "residual"}
    by_part = {row.parts[0]: row for row in first.rows}
    assert by_part["logits/Louder"].why == "no known replacement"
    assert by_part["forward"].why == "the model itself"
    assert sum(row.share for row in first.rows) == pytest.approx(1)
    assert by_part["logits/Costly"].most_step_speedup == pytest.approx(1 / (1 - by_part["logits/Costly"].share))
    assert by_part["logits/Costly"].most_call_speedup == pytest.approx(by_part["logits/Costly"].most_step_speedup)
    assert by_part["logits/Costly"].ns == pytest.approx(2 * CS)
    assert any("TopP" in row.drop_in for row in second.rows)


def test_a_script_in_a_folder_with_a_bracket_keeps_its_rows(ran: pipeline.Report, tmp_path: Path) -> None:
    """Also where a line calls several models, which the watched calls are named after in brackets."""
    copy = Path(shutil.copytree(ran.folder, tmp_path / "copy"))
    lines = (copy / "samples.jsonl").read_text()
    assert "fixing/test_fix_measured.py:" in lines
    (copy / "samples.jsonl").write_text(lines.replace("fixing/test_fix_measured.py:", "proj (1)/job.py:"))
    before: Any = ran.findings
    found: Any = pipeline.rebuild(copy).findings
    assert all(site.site.startswith("proj (1)/job.py:") for site in found.sites)
    rows = [[(row.parts, row.ns) for row in site.rows] for site in found.sites]
    assert rows == [[(row.parts, row.ns) for row in site.rows] for site in before.sites]


def test_a_run_is_kept_and_made_again_from_its_samples(ran: pipeline.Report) -> None:
    """`report` gives every file byte for byte; the results are as the published schema says."""
    folder = ran.folder
    before = {name: (folder / name).read_bytes() for name in ran.manifest.files}
    assert {"README.md", "results.json", "fix.csv"} <= set(before)
    again = pipeline.rebuild(folder)
    assert {name: (folder / name).read_bytes() for name in again.manifest.files} == before
    assert fix_results_schema_path().read_bytes() == results_schema()
    jsonschema.validate(json.loads(encode_json(again.findings)), json.loads(fix_results_schema_path().read_bytes()))
    assert (ran.manifest.status, ran.manifest.tag) == ("complete", "mine")
    assert ran.manifest.results_summary["sites"] == 2
    readme = before["README.md"].decode()
    assert "perstep.fast.SuppressTokens([5, 7, 9])" in readme
    assert "custom_generate=perstep.fast.decode" in readme


def test_a_run_that_broke_off_shows_what_was_found(ran: pipeline.Report, tmp_path: Path) -> None:
    """Its samples end somewhere; what is in them stands."""
    shutil.copytree(ran.folder, tmp_path / "run")
    path = tmp_path / "run" / "samples.jsonl"
    whole = path.read_text().splitlines(keepends=True)
    for end in (1, 3, len(whole) // 2, len(whole) - 1):
        path.write_text("".join(whole[:end]))
        pipeline.rebuild(tmp_path / "run")


def test_the_lines_are_ready_to_be_copied(ran: pipeline.Report) -> None:
    """Each is an argument of a call; what changes nothing is not among them, and stands apart."""
    found: Any = ran.findings
    first, second = found.sites
    compile("f(\n" + "\n".join(first.lines) + "\n)", "lines", "eval")
    assert f"Write into the call at {first.site}" in lines(first)
    top_p = next(row for row in second.rows if "TopP" in row.drop_in)
    assert not top_p.written
    assert "TopP" not in " ".join(second.lines)
    assert f"{top_p.drop_in}  # " in lines(second).split(UNPROVEN)[1]


def test_commands_over_stored_runs_know_it(ran: pipeline.Report, cli: Callable[..., Any]) -> None:
    """show, report and list."""
    shown = cli("show", ran.folder)
    assert shown.code == 0, shown
    assert "What could replace the parts of the call at" in shown.out
    assert "perstep.fast.decode" in shown.out
    assert cli("report", ran.folder).code == 0
    assert cli("show", ran.folder, "-o", "csv").out.startswith("site,parts,ns_per_step")
    listed = cli("list", "--root", ran.folder.parent)
    assert "test_fix_measured.py" in listed.out
