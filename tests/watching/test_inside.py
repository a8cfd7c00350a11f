"""`--inside`: a processor or criterion by its own source lines, seen in steps that no ledger has."""

import sys
from pathlib import Path
from typing import Any

import pytest
from tests.models import small_llama

from perstep.errors import InputError
from perstep.experiments import pipeline
from perstep.measure import FakeClock
from perstep.watching.inside import LinesOf
from perstep.watching.session import Watch, describe_calls, store

pytestmark = pytest.mark.hf
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

CLOCK = FakeClock(tick_ns=10)
THIS = Path(__file__).name


def helper(count: int) -> int:
    """A function of the user's own, with a costly line."""
    CLOCK.advance(2_000_000)
    return count


class Mine(transformers.LogitsProcessor):  # type: ignore[misc]
    """A line of 5 ms, one of 1 ms, one that calls a function of 2 ms, one that reads a value."""

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """The same scores."""
        CLOCK.advance(5_000_000)
        CLOCK.advance(1_000_000)
        helper(3)
        first = input_ids[0, -1].item()
        torch.tensor([first], device=scores.device)
        return scores


class Stops(transformers.StoppingCriteria):  # type: ignore[misc]
    """A criterion with a line of 3 ms."""

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """Never."""
        CLOCK.advance(3_000_000)
        return torch.zeros(len(input_ids), dtype=torch.bool)


LINES = {number: line.strip() for number, line in enumerate(Path(__file__).read_text().splitlines(), start=1)}


@pytest.fixture(scope="module")
def llama() -> Any:
    """A tiny one."""
    sizes = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    return small_llama(**sizes, num_hidden_layers=1)


def generate(model: Any, *, processors: Any = None, criteria: Any = None) -> Any:
    """Sixty tokens."""
    ids = torch.arange(3, 8)[None]
    mine = {"logits_processor": processors or [Mine()], "stopping_criteria": criteria or []}
    return model.generate(ids, max_new_tokens=60, do_sample=False, **mine)


def looked(model: Any, part: str, **given: Any) -> tuple[Watch, LinesOf, Any]:
    """A call that is watched, with one part looked into."""
    watch = Watch(model, every=2, clock=CLOCK)
    lines = LinesOf(part, watch.is_recording, CLOCK)
    with watch, lines:
        tokens = generate(model, **given)
    return watch, lines, tokens


def by_source(lines: LinesOf) -> dict[str, Any]:
    """Its lines by their text."""
    found = lines.found()
    assert found is not None
    assert all(line.source == LINES[int(line.place.split(":")[1])] for line in found.lines)
    return {line.source: line for line in found.lines}


@pytest.mark.usefixtures("nothing_compiled")
def test_each_line_has_what_it_took_and_what_it_made_the_host_wait_for(llama: Any) -> None:
    """Functions of the user's have lines of their own; syncs and uploads belong to the line that causes them."""
    watch, lines, tokens = looked(llama, "logits/Mine")
    assert torch.equal(tokens, generate(llama))
    found = by_source(lines)
    calls = lines.traced
    assert calls > 5
    for source, ms in (
        ("CLOCK.advance(5_000_000)", 5),
        ("CLOCK.advance(1_000_000)", 1),
        ("CLOCK.advance(2_000_000)", 2),
    ):
        assert found[source].ns / calls == pytest.approx(ms * 1e6, rel=1e-3)
    assert found["helper(3)"].ns / calls < 1e5
    assert found["first = input_ids[0, -1].item()"].syncs == lines.counted > 5
    assert found["torch.tensor([first], device=scores.device)"].uploads == lines.counted
    assert sum(line.syncs for line in found.values()) == lines.counted
    assert watch.ledger().parts["logits/Mine"].ns == pytest.approx(8e6, rel=1e-3)


@pytest.mark.usefixtures("nothing_compiled")
def test_no_recorded_step_is_looked_into(llama: Any) -> None:
    """The ledger is the same as without it, and half of the calls are left to it."""
    watch, lines, _ = looked(llama, "logits/Mine")
    plain = Watch(llama, every=2, clock=CLOCK)
    with plain:
        generate(llama)
    with_it, without = watch.ledger(), plain.ledger()
    assert with_it.steps == without.steps
    assert with_it.parts["logits/Mine"].ns == without.parts["logits/Mine"].ns
    assert 20 <= lines.traced + lines.counted <= 40
    assert abs(lines.traced - lines.counted) <= 1


def test_a_criterion_and_the_second_of_a_class_are_found_by_their_names(llama: Any) -> None:
    """And nothing of another object of the same class is seen."""
    _, lines, _ = looked(llama, "stop/Stops", criteria=[Stops()])
    assert by_source(lines)["CLOCK.advance(3_000_000)"].ns / lines.traced == pytest.approx(3e6, rel=1e-3)
    _, second, _ = looked(llama, "logits/Mine#2", processors=[Mine(), Mine()])
    _, first, _ = looked(llama, "logits/Mine", processors=[Mine(), Mine()])
    assert second.traced == first.traced
    assert looked(llama, "logits/Mine#2")[1].found() is None


def test_afterwards_everything_is_as_it_was(llama: Any) -> None:
    """The class, the tracer; after an exception too."""
    before, traced = Mine.__call__, sys.gettrace()

    def broken() -> None:
        with LinesOf("logits/Mine", lambda: False, CLOCK):
            generate(llama)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        broken()
    assert Mine.__call__ is before
    assert sys.gettrace() is traced


def test_beside_a_debugger_no_line_is_timed(llama: Any) -> None:
    """It is left in place, and a note says so."""
    before = sys.gettrace()

    def debugger(*_args: Any) -> None:
        return None

    lines = LinesOf("logits/Mine", lambda: False, CLOCK)
    sys.settrace(debugger)
    try:
        with lines:
            generate(llama)
        assert sys.gettrace() is debugger
    finally:
        sys.settrace(before)
    assert lines.found() is None
    assert "a debugger or a coverage tool traces this program" in lines.notes[0]


@pytest.mark.parametrize("part", ["forward", "logits", "logits/", "stream/Mine", ""])
def test_only_processors_and_criteria_can_be_looked_into(part: str) -> None:
    """What else is asked for is refused before anything runs."""
    with pytest.raises(InputError, match="named as in the ledger: logits/Mine or stop/Mine"):
        LinesOf(part, lambda: False, CLOCK)


def test_what_was_seen_is_kept_in_the_run_and_shown_again(llama: Any, tmp_path: Path) -> None:
    """The last table of the run, the costliest line first; a run without it has no such table."""
    watch, lines, _ = looked(llama, "logits/Mine")
    watch.samples[-1].inside = lines.found()
    report = store(watch, describe_calls(watch, {}), out=tmp_path / "run", force=False)
    table = report.tables[-1]
    assert table.title.startswith("inside logits/Mine, by its own source lines, in ")
    assert table.records[0].source == "CLOCK.advance(5_000_000)"
    assert table.title in (tmp_path / "run" / "README.md").read_text()
    assert f"{THIS}:" in str(watch)


def test_a_shared_page_has_none_of_its_lines(llama: Any, tmp_path: Path) -> None:
    """Their times stay; the run's own page has them, and says so."""
    watch, lines, _ = looked(llama, "logits/Mine")
    watch.samples[-1].inside = lines.found()
    store(watch, describe_calls(watch, {}), out=tmp_path / "run", force=False)
    own = (tmp_path / "run" / "report.html").read_text()
    assert "CLOCK.advance(5_000_000)" in own
    assert "and source lines without their strings and comments" in own
    shared = pipeline.page(tmp_path / "run", share=True)[1].decode()
    assert "CLOCK.advance" not in shared
    assert THIS not in shared
    assert "inside logits/Mine, by its own source lines, in " in shared
    assert "line 6" in shared
