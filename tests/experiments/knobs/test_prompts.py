"""`--prompts FILE.jsonl`: each line is a workload of its own, and none blurs another."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from perstep.data import knob_results_schema_path
from perstep.errors import InputError
from perstep.experiments import pipeline
from perstep.experiments.knobs import Arm, Configuration, KnobSession, Subject, analyse_knob, depth, output
from perstep.experiments.knobs.findings import columns_of
from perstep.experiments.knobs.options import PromptOptions
from perstep.experiments.knobs.prompts import read_prompts
from perstep.experiments.knobs.quality import scored_tokens
from perstep.measure import FakeClock, Trace
from perstep.targets import Work

from .made_up import MadeUp


def no_progress(_share: float, _what: str) -> None:
    """Nobody looks."""


def written(folder: Path, *lines: Any) -> Path:
    """A file of these lines: as they are where they are text, otherwise as JSON."""
    path = folder / "prompts.jsonl"
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


def ids(count: int) -> dict[str, list[int]]:
    """A prompt of so many tokens."""
    return {"ids": [3 + i % 5 for i in range(count)]}


def test_each_prompt_has_its_own_positions(tiny_llama: Path, tmp_path: Path, ticking: FakeClock) -> None:
    """Prompts of 4 and 16 tokens: estimates are the means of theirs, samples are filed under their own length."""
    path = written(tmp_path, ids(4), "", ids(16))
    plan = output.Plan(model=str(tiny_llama), backend="numpy", prompts=path, new_tokens=(1, 2, 4), rounds=3)
    report = pipeline.run("output", plan, progress=no_progress, out=tmp_path / "run", clock=ticking)
    stored = json.loads((report.folder / "results.json").read_bytes())
    jsonschema.validate(stored, json.loads(knob_results_schema_path().read_bytes()))
    assert stored["invalid"] == ""
    one, two, four = stored["summary"]
    # A forward costs what it attends to: the prompt, or the prompt and the tokens after it.
    assert [s["prefill_ms"] for s in (one, two, four)] == pytest.approx([0.010] * 3)
    assert one["decode_ms"] is None
    assert two["decode_ms"] == pytest.approx((0.005 + 0.017) / 2)
    assert four["decode_ms"] == pytest.approx((0.006 + 0.018) / 2)
    assert four["decode_step_ci_low"] is None  # three rounds, and not six samples, are what intervals are made of
    assert four["total_ms"] == pytest.approx(((4 + 5 + 6 + 7) + (16 + 17 + 18 + 19)) / 2 / 1000)
    assert stored["positions_ms"] == pytest.approx([0.011, 0.012, 0.013])
    assert stored["fits"]["decode"]["slope_ms"] == pytest.approx((3 * 0.012 - 0.011) / 2)  # N = 4 and N = 2
    assert [p["decode_ms"] for p in one["prompts"]] == [None, None]
    by_prompt = [(p["prompt_id"], p["num_input_text_tokens"], p["prefill_ms"], p["decode_ms"]) for p in four["prompts"]]
    assert by_prompt == [(0, 4, 0.004, pytest.approx(0.006)), (1, 16, 0.016, pytest.approx(0.018))]
    assert [p["decode_step_ms"] for p in four["prompts"]] == pytest.approx([0.006, 0.018])
    assert [p["total_ms"] for p in four["prompts"]] == pytest.approx([0.022, 0.070])
    assert (four["num_input_text_tokens"], four["prompt_text_tokens"], four["samples"]) == (10, [4, 16], 6)
    calls = [s for s in stored["all_samples"] if s["num_output_tokens"] == 4]
    assert [(s["sample_id"], s["prompt_id"]) for s in calls] == [(r, p) for r in range(3) for p in range(2)]
    assert all(s["num_input_text_tokens"] == [4, 16][s["prompt_id"]] for s in calls)
    assert all(s["T_LLM_prefill"] == s["num_input_text_tokens"] / 1000 for s in calls)
    assert report.tables[0].title.endswith("2 prompts of 4 to 16 tokens, 6 samples a configuration")
    before = (report.folder / "results.json").read_bytes()
    pipeline.rebuild(report.folder)
    assert (report.folder / "results.json").read_bytes() == before


def test_configurations_are_interleaved_within_each_prompt(
    tiny_llama: Path, tmp_path: Path, ticking: FakeClock
) -> None:
    """A round is the same balanced row with one prompt after another."""
    path = written(tmp_path, ids(4), ids(6), ids(5))
    plan = depth.Plan(
        model=str(tiny_llama), backend="numpy", prompts=path, new_tokens=2, rounds=2, quality_tokens=0,
    )  # fmt: skip
    made = depth.prepare(plan, no_progress, ticking)
    for number in range(2):
        passes = made.measure_round(number).passes
        assert [p.prompt for p in passes] == [0, 0, 1, 1, 2, 2]
        assert len({tuple(p.arm for p in passes if p.prompt == prompt) for prompt in range(3)}) == 1
    assert "with each of them in turn" in made.manifest.conditions["order"]
    (table,) = depth.tables(made.manifest, depth.analyse(made.manifest, [made.measure_round(0)]))
    assert "3 prompts of 4 to 6 tokens" in table.title


def test_one_line_measures_what_the_option_measures(tiny_llama: Path, tmp_path: Path) -> None:
    """A file of one prompt gives the run of that prompt: nothing else changes with the option."""

    def found(**options: Any) -> Any:
        plan = depth.Plan(model=str(tiny_llama), backend="numpy", new_tokens=3, rounds=2, quality_tokens=0, **options)
        made = depth.prepare(plan, no_progress, FakeClock(tick_ns=1))
        findings = depth.analyse(made.manifest, [made.measure_round(0), made.measure_round(1)])
        return made.manifest.workload["token_ids_sha256"], findings

    text = "the cat sat"
    hash_of_one, one = found(prompt=text)
    hash_of_file, file = found(prompts=written(tmp_path, {"prompt": text, "source": "nobody asks"}))
    assert hash_of_one == hash_of_file
    assert [s.decode_ms for s in one.summary] == [s.decode_ms for s in file.summary]
    assert one.all_samples == file.all_samples
    assert (one.summary[0].prompts, len(file.summary[0].prompts)) == ([], 1)


def work(prompt_BT: np.ndarray[Any, Any]) -> Work:
    """Three tokens after a prompt."""
    return Work(prompt_BT, Trace(prompt_BT, np.zeros((len(prompt_BT), 3), np.int64)))


def test_a_round_that_lacks_a_prompt_is_in_no_estimate() -> None:
    """Memory runs out at the second prompt: its first call is kept as a sample, the estimates are of both prompts."""
    works = [work(np.zeros((1, n), np.int64)) for n in (5, 9)]
    clock, full = FakeClock(), False

    def fails(given: Work) -> None:
        if full and given.text_tokens == 9:
            raise MemoryError("no")

    blocks = {"num_active_blocks": 1, "num_total_blocks": 1, "active_block_indices": [0]}
    tokens = {"num_input_text_tokens": 7, "num_vision_tokens": 0, "num_output_tokens": 3, "prompt_text_tokens": [5, 9]}
    arms = [Arm(Configuration(label="a", knob=1, **blocks, **tokens), works, nullcontext)]
    target = MadeUp(clock, forward_ns=lambda given: 1_000 * given.text_tokens, fails=fails)
    plan = PromptOptions(rounds=2)
    made = KnobSession("output", plan, [Subject(target, arms, unchanged=[])], no_progress, clock)
    samples = [made.measure_round(0)]
    full = True
    samples += [made.measure_round(1), made.measure_round(2)]
    assert [[(p.prompt, p.failed != "") for p in s.passes] for s in samples] == [
        [(0, False), (1, False)],
        [(0, False), (1, True)],
        [],
    ]
    findings = analyse_knob(made.manifest, samples)
    assert columns_of(samples, 0, "decode_ns").tolist() == [[5_000, 5_000, 9_000, 9_000]]
    (row,) = findings.summary
    assert (row.samples, row.decode_ms, row.failed) == (2, 0.007, "out of memory: no")
    assert [(s.sample_id, s.num_input_text_tokens) for s in findings.all_samples] == [(0, 5), (0, 9), (1, 5)]


def test_quality_is_of_what_came_after_each_prompt() -> None:
    """Prompts themselves, of different lengths, are not scored."""
    works = [work(np.full((2, n), n)) for n in (5, 9)]
    scored = scored_tokens(MadeUp(FakeClock()), works, None, 512)
    assert scored.given == [5, 5, 9, 9]
    assert [len(window) for window in scored.windows] == [8, 8, 12, 12]


BAD = [
    (("{'prompt': 'a'}",), "line 1 is not JSON"),
    (({"prompt": "a"}, "", "{"), "line 3 is not JSON"),
    (("[" * 100_000,), "line 1 is not JSON"),
    (({"prompt": "a"}, {"text": "a"}), "line 2 has no `prompt`"),
    (("[1, 2]",), "line 1 has no `prompt`"),
    (({"prompt": "a", "ids": [1]},), "line 1 has both `prompt` and `ids`"),
    (({"prompt": ""},), "line 1: `prompt` must be a text"),
    (({"prompt": 7},), "line 1: `prompt` must be a text"),
    (('{"prompt": "\\ud800"}',), "line 1: `prompt` must be a text"),
    (({"ids": []},), "line 1: `ids` must be a list of at least one token id"),
    (({"ids": [1, True]},), "line 1: `ids` must be a list"),
    (({"ids": [1.0]},), "line 1: `ids` must be a list"),
    ((), "is empty"),
    (("", " "), "is empty"),
    (({"ids": [1]}, {"ids": [0, -1]}), "line 2: token id -1 is outside the vocabulary, 0 to"),
    (({"ids": [10**30]},), "is outside the vocabulary"),
    (({"ids": [3] * 4}, {"ids": [3] * 65}), "line 2: a prompt of 65 tokens is longer than the model's context of 64"),
    (({"ids": [3] * 62},), "line 1: a prompt of 62 and 5 new tokens overflow"),
]


@pytest.mark.parametrize(("lines", "message"), BAD)
def test_bad_lines_are_named(lines: tuple[Any, ...], message: str, tiny_llama: Path, tmp_path: Path) -> None:
    """By their number, before anything is measured."""
    plan = output.Plan(model=str(tiny_llama), backend="numpy", prompts=written(tmp_path, *lines), new_tokens=(5,))
    with pytest.raises(InputError) as error:
        output.prepare(plan, no_progress, FakeClock(tick_ns=1))
    assert message in str(error.value)
    assert str(error.value).startswith(f"--prompts {tmp_path / 'prompts.jsonl'}")
    assert "\n" not in str(error.value)


def test_files_that_are_none_are_named(tmp_path: Path) -> None:
    """No file, a folder, bytes that are no text; and prompts given in two ways."""
    with pytest.raises(InputError, match=r"nowhere\.jsonl: No such file or directory; give a JSONL file"):
        read_prompts(tmp_path / "nowhere.jsonl")
    with pytest.raises(InputError, match="Is a directory"):
        read_prompts(tmp_path)
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe{")
    with pytest.raises(InputError, match="it is not UTF-8"):
        read_prompts(tmp_path / "bytes.jsonl")
    for options, names in (({"prompt": "a"}, "--prompt and"), ({"prompt_tokens": 4}, "--prompt-tokens and")):
        with pytest.raises(InputError, match=f"{names} --prompts exclude each other"):
            depth.Plan(prompts=tmp_path / "nowhere.jsonl", **options).checked_prompts()


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@example(texts=["a\u2028b\x85c\x1dd"], escaped=False, end="\n")
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(TEXTS, min_size=1, max_size=4), escaped=st.booleans(), end=st.sampled_from(["\n", "\r\n"]))
def test_every_text_comes_back(texts: list[str], escaped: bool, end: str, tmp_path: Path) -> None:
    """Whatever JSON can hold, with line separators that JSON leaves as they are, and either end of line."""
    path = tmp_path / "any.jsonl"
    lines = [json.dumps({"prompt": text}, ensure_ascii=escaped) + end for text in texts]
    path.write_bytes("".join(lines).encode())
    assert [prompt.text for prompt in read_prompts(path)] == texts
