"""`perstep ledger --trace`: what it prints and writes, and what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_up import Event, annotation, kernel, launch, op, write
from tests.report.test_page import Reader, unspaced

Cli = Callable[..., Any]


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Twenty steps of a millisecond, in each one a kernel of 200 µs."""
    events: list[Event] = []
    for n in range(21):
        at = 1000 * n
        events += [annotation("step[DECODE bs=1]", at, at + 900), annotation("attn", at + 100, at + 300),
                   launch(n + 1, at + 200), kernel(n + 1, at + 400, at + 600, "void flash_fwd<int>(int)"),
                   op("aten::mm", at + 150, at + 250)]  # fmt: skip
    return write(tmp_path / "rank0.json.gz", events, deviceProperties=[{"id": 0, "name": "NVIDIA H200"}])


def test_it_prints_the_device_ledger_and_writes_nothing(cli: Cli, trace: Path) -> None:
    """With whose trace it is, what bounds the step, and how steps were found."""
    before = sorted(trace.parent.iterdir())
    said = cli("ledger", "--trace", trace)
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith(
        "decode, what the device does with the profiler on: rank0.json.gz, device 0 (NVIDIA H200)"
    )
    assert "a stored trace, not measured by perstep" in said.out
    assert "host-bound: kernels run 0.200 of 1.00 ms (20 %)" in said.out
    assert "that SGLang writes" in said.out
    assert "flash_fwd" not in said.out
    assert sorted(trace.parent.iterdir()) == before
    assert "  flash_fwd" in cli("ledger", "--trace", trace, "--device-detail", "kernels").out


def test_every_form_of_output_says_the_same(cli: Cli, trace: Path) -> None:
    """JSON with full names of kernels, CSV, Markdown."""
    found = json.loads(cli("ledger", "--trace", trace, "-o", "json").out)
    [ledger] = found["ledgers"]
    assert (found["trace"], ledger["kind"], ledger["steps"], ledger["step_ns"]) == ("rank0.json.gz", "decode", 20, 1e6)
    part = ledger["devices"]["0"]["parts"]["attn"]
    assert (part["busy_ns"], part["launches"], part["kernels"][0]["name"]) == (200e3, 1, "void flash_fwd<int>(int)")
    assert "decode,device 0,attn,,200000.0" in cli("ledger", "--trace", trace, "-o", "csv").out
    assert "| attn | 0.200 | 0.200 | 100.0 % |" in cli("ledger", "--trace", trace, "-o", "md").out


def test_it_is_written_where_that_is_asked_for(cli: Cli, trace: Path, tmp_path: Path) -> None:
    """Into an empty folder, which is no run; nothing is written over."""
    out = tmp_path / "a" / "b"
    said = cli("ledger", "--trace", trace, "--out", out)
    assert said.err == f"written: {out}\n"
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "report.html", "results.json", "trace.csv"]
    assert (out / "results.json").read_text() == cli("ledger", "--trace", trace, "-o", "json").out
    again = cli("ledger", "--trace", trace, "--out", out)
    assert (again.code, again.out) == (2, "")
    assert "is not an empty folder" in again.err
    assert cli("ledger", "--trace", trace, "--out", trace).code == 2
    assert cli("ledger", "--trace", trace, "--out", tmp_path / "c", "--quiet").err == ""
    assert (tmp_path / "c" / "trace.csv").is_file()


def test_a_page_shows_the_step_and_each_of_its_steps(cli: Cli, trace: Path, tmp_path: Path) -> None:
    """Both lanes, every step of a part, how to read it again; the profiler is in the warnings."""
    page = tmp_path / "page.html"
    said = cli("ledger", "--trace", trace, "--html", page)
    assert (said.code, said.err) == (0, f"page: {page}\n")
    assert said.out == cli("ledger", "--trace", trace).out
    read = Reader(page.read_text(encoding="utf-8"))
    assert (read.wrong, read.open) == ([], [])
    assert (
        "One decode step takes 1.00 ms [1.00 ms, 1.00 ms] with the profiler on; host-bound: kernels run" in read.words
    )
    assert unspaced("perstep ledger --trace rank0.json.gz") in read.letters
    assert "a step without it is shorter" in read.words
    assert "instrument" not in read.words
    assert str(tmp_path) not in page.read_text(encoding="utf-8")
    [text] = [one for one in read.inside["script"] if one.startswith("{")]
    figure = json.loads(text)["figures"][0]
    assert (figure["noun"], figure["kernels"]["attn"]) == ("step", [["flash_fwd", 200e3]])
    assert figure["rounds"]["attn"]["ns"] == 20 * [200_000]
    assert figure["rounds"]["step"]["ns"] == 20 * [1_000_000]
    assert figure["about"]["attn"] == "1 operator a step, which take 100 µs: aten::mm 100 µs"
    cli("ledger", "--trace", trace, "--out", tmp_path / "d", "-q")
    assert (tmp_path / "d" / "report.html").read_bytes() == page.read_bytes()


def test_the_page_of_a_trace_without_a_device_has_the_hosts_time(cli: Cli, tmp_path: Path) -> None:
    """One lane, and how much of the step is in operators."""
    events = [one for n in range(12) for one in (annotation("step[DECODE bs=1]", 100 * n, 100 * n + 99),
              annotation("attn", 100 * n + 5, 100 * n + 50), op("aten::mm", 100 * n + 10, 100 * n + 20))]  # fmt: skip
    page = tmp_path / "page.html"
    assert cli("ledger", "--trace", write(tmp_path / "t.json", events), "--html", page, "-q").code == 0
    words = Reader(page.read_text(encoding="utf-8")).words
    assert "with the profiler on; 10 % of it in operators" in words
    assert "device busy" not in words


def test_names_in_a_trace_are_text_in_every_output(cli: Cli, tmp_path: Path) -> None:
    """No control character in a terminal or a file, and no HTML, link or cell border in Markdown."""
    name = "a](http://x) <img src=x>|\x1b[31m\nb"
    events = [one for n in range(12) for one in (annotation("step[DECODE bs=1]", 100 * n, 100 * n + 99),
              annotation(name, 100 * n + 5, 100 * n + 50), op(name, 100 * n + 10, 100 * n + 20))]  # fmt: skip
    path = write(tmp_path / "t.json", events)
    for output in ("table", "md", "csv", "json"):
        assert "\x1b" not in cli("ledger", "--trace", path, "-o", output).out
    rows = [line for line in cli("ledger", "--trace", path, "-o", "md").out.splitlines() if line.startswith("|")]
    assert {len(line.replace("\\|", "").split("|")) for line in rows} == {9}
    assert all("<img" not in line and "](" not in line for line in rows)


def test_steps_and_parts_may_be_named(cli: Cli, trace: Path) -> None:
    """The range that begins a step; modules, where there are any."""
    assert "by the name attn" in cli("ledger", "--trace", trace, "--step", "attn").out
    assert "by the name st*" in cli("ledger", "--trace", trace, "--step", "st*", "--parts", "ranges").out
    refused = cli("ledger", "--trace", trace, "--parts", "modules")
    assert refused.code == 2
    assert "no call of an nn.Module in the steps; profile with with_stack=True" in refused.err


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--trace", "none.json"], "none.json: no such file"),
        (["--trace", "."], "not a file"),
        (["--trace", "TRACE", "-m", "mini"], "--model does not go with --trace: nothing is measured; leave it out"),
        (["--trace", "TRACE", "--rounds", "30"], "--rounds does not go with --trace"),
        (["--trace", "TRACE", "--device", "cuda"], "--device does not go with --trace"),
        (["--trace", "TRACE", "--new-tokens", "8"], "--new-tokens does not go with --trace"),
        (["--trace", "TRACE", "--detail", "layers"], "--detail does not go with --trace"),
        (["--trace", "TRACE", "--baseline", "main"], "--baseline does not go with --trace"),
        (["--trace", "TRACE", "--out", "o", "--force"], "--force does not go with --trace"),
        (["--trace", "TRACE", "--strict"], "--strict does not go with --trace"),
        (["--trace", "TRACE", "--device-detail", "stream"], "--device-detail stream does not go with --trace"),
        (["--trace", "TRACE", "--step", "nothing"], "--step nothing: no range, module or operator has this name"),
        (["--trace", "TRACE", "--parts", "layers"], "layers"),
        (["--step", "forward"], "--step goes with --trace FILE"),
        (["--parts", "modules", "-m", "mini"], "--parts goes with --trace FILE"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(
    cli: Cli, trace: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], why: str
) -> None:
    """Exit code 2, nothing on stdout, nothing written."""
    monkeypatch.chdir(trace.parent)
    before = sorted(trace.parent.iterdir())
    said = cli("ledger", *(str(trace) if one == "TRACE" else one for one in options))
    assert (said.code, said.out) == (2, "")
    assert said.err.count("\n") == 1
    assert why in said.err
    assert sorted(trace.parent.iterdir()) == before


def test_a_trace_that_cannot_be_read_is_one_line(cli: Cli, tmp_path: Path) -> None:
    """Whatever is in it."""
    for content in (b"", b"\x1f\x8b\x08", b"[" * 1_000_000, b'{"traceEvents": [', b"\xff\xfe\x00"):
        path = tmp_path / "t.json"
        path.write_bytes(content)
        said = cli("ledger", "--trace", path)
        assert (said.code, said.out) == (2, "")
        assert said.err.startswith(f"perstep: {path}: ")
        assert said.err.count("\n") == 1
