"""Pages and lists of stored runs: `report` and its options, `compare --html`, `list`; what a shared page leaves out."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.report.test_page import Reader

from perstep.cli.app import run
from perstep.experiments import pipeline
from perstep.runs import open_run

GOLDEN = Path(__file__).parents[1] / "golden"
SECRET = "hunter2"  # noqa: S105


def copied(name: str, number: int, **changed: Any) -> Path:
    """A stored run under `.perstep/runs`, with another id and beginning."""
    folder = Path(f".perstep/runs/{number:04d}-{name}")
    shutil.copytree(GOLDEN / name, folder)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest |= {"run_id": f"{number:016x}", "started_at": f"2026-11-{number:02d}T08:00:00+00:00", "samples_sha256": ""}
    (folder / "manifest.json").write_text(json.dumps(manifest | changed), encoding="utf-8")
    lines = [json.loads(line) for line in (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    text = "".join(f"{json.dumps(line | {'run_id': manifest['run_id']})}\n" for line in lines)
    (folder / "samples.jsonl").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder of its own, and no machine's self-test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PERSTEP_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("COLUMNS", raising=False)


def test_report_opens_the_page(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The file of the run is handed to the browser; where there is none its name is said."""
    folder = copied("compare", 1)
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda address: bool(opened.append(address)))
    assert run(["report", "1", "--open"]) == 0
    assert opened == [(folder / "report.html").resolve().as_uri()]
    assert "no browser could be opened" in capsys.readouterr().err


def test_a_run_of_many_rounds_has_them_all_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    """In a file of its own, so that the page of the run stays what it is."""
    folder = copied("ledger", 1)
    before = (folder / "report.html").read_bytes()
    assert run(["report", "1", "--raw"]) == 0
    assert Path("0001-ledger.raw.html").read_bytes() != b""
    assert (folder / "report.html").read_bytes() == before
    assert "page: 0001-ledger.raw.html" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["report", "1", "--html", "x.html"], "--html needs --share, --raw or --history"),
        (["report", "1", "--history", "--share"], "--history excludes --share"),
        (["report", "7", "--share"], "no run 7"),
        (["compare", "--live", "python -c 0", "python -c 1", "--html", "x.html"], "--html is for two stored runs"),
    ],
)
def test_options_that_do_not_fit_are_refused(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In one line, with exit code 2, and nothing is written."""
    copied("compare", 1)
    assert run(words) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not list(Path().glob("*.html"))


def test_compare_writes_a_page_of_both_runs() -> None:
    """Each part has both times and its verdict; all of the table's cells are there without a script."""
    copied("ledger", 1)
    copied("ledger", 2)
    assert run(["compare", "1", "2", "--html", "both.html"]) == 0
    read = Reader(Path("both.html").read_text(encoding="utf-8"))
    assert (read.wrong, read.open) == ([], [])
    assert "0001-ledger → 0002-ledger" in read.words
    assert "step: 123 µs → 123 µs, +0.00 % (no interval): not resolved" in read.words
    assert [a for t, a in read.elements if t == "rect" and a.get("class") == "amount"]


def test_a_quiet_comparison_says_nothing_besides(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither of its page nor of the baseline that it stores; both are written."""
    copied("ledger", 1)
    copied("ledger", 2)
    words = ["compare", "1", "2", "--html", "both.html", "--save-baseline", "good"]
    assert run([*words, "-q"]) == 0
    assert capsys.readouterr().err == ""
    assert Path("both.html").exists()
    assert run(words) == 0
    assert [line.partition(":")[0] for line in capsys.readouterr().err.splitlines()] == ["page", "baseline"]


def test_a_page_of_two_runs_has_the_rounds_of_both(ledger_run: Callable[..., Path]) -> None:
    """Of each part, in bins of one width; figures of the same parts share them."""
    for number, level in ((1, 1.0), (2, 1.5)):
        ledger_run(Path(f".perstep/runs/{number:04d}-ledger"), seed=number, level=level)
    assert run(["compare", "1", "2", "--html", "both.html"]) == 0
    [text] = [one for one in Reader(Path("both.html").read_text(encoding="utf-8")).inside["script"] if one[0] == "{"]
    first, second, *_ = json.loads(text)["figures"]
    assert second == {"same": 0}
    loaded = pipeline.load(open_run("2")), pipeline.load(open_run("1"))
    decode = [pipeline.ledgers_of(one)["decode"] for one in loaded]
    for name, column in {"step": [one.plain_ns for one in decode], "mlp": [one.parts["mlp"] for one in decode]}.items():
        new, ref = first["rounds"][name], first["rounds"][name]["beside"]
        assert (new["name"], ref["name"]) == ("0002-ledger", "0001-ledger")
        assert (new["from"], new["to"]) == (ref["from"], ref["to"])
        for packed, ns in zip((new, ref), column, strict=True):
            assert packed["ns"] == [round(mean) for mean in ns.mean(axis=(1, 2)).tolist()]
            assert packed["below"] + sum(packed["counts"]) + packed["above"] == ns.size


def test_a_page_of_two_watched_runs_has_their_pairs() -> None:
    """The steps of the calls that both made, one below the other; parts are of marked steps alone."""
    copied("watch", 1)
    copied("watch", 2)
    assert run(["compare", "1", "2", "--html", "both.html"]) == 0
    [text] = [one for one in Reader(Path("both.html").read_text(encoding="utf-8")).inside["script"] if one[0] == "{"]
    rounds = json.loads(text)["figures"][0]["rounds"]
    assert {"step", "forward", "logits/TopPLogitsWarper"} <= set(rounds)
    assert rounds["forward"]["ns"] == rounds["forward"]["beside"]["ns"]
    assert rounds["forward"]["rounds"] == len(rounds["forward"]["ns"]) > 10


def test_history_shows_equal_work_by_date(capsys: pytest.CaptureFixture[str]) -> None:
    """Another workload is no part of it; where the spread of runs is unknown no change is claimed."""
    for number in (3, 1, 2):
        copied("ledger", number)
    manifest = json.loads(Path(".perstep/runs/0002-ledger/manifest.json").read_text(encoding="utf-8"))
    other = manifest["workload"] | {"threads": 2}
    Path(".perstep/runs/0002-ledger/manifest.json").write_text(json.dumps(manifest | {"workload": other}))
    assert run(["report", "--history", "1", "--html", "history.html"]) == 0
    shown = capsys.readouterr().out
    rows = [line for line in shown.splitlines() if re.match("[0-9]+-ledger", line) and " 2026-" in line]
    assert [row.split()[0] for row in rows] == ["0001-ledger", "0003-ledger"]
    assert rows[1].rstrip().endswith("not resolved")
    words = Reader(Path("history.html").read_text(encoding="utf-8")).words
    assert "no change is resolved in 2 runs of this workload" in words
    assert "trend" not in words


def test_history_claims_a_change_where_the_spread_of_runs_is_known(
    ledger_run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Six runs of one code are alike; one of another that takes half as long again is slower, and no other row is."""
    for number in range(1, 7):
        ledger_run(Path(f".perstep/runs/{number:04d}-ledger"), seed=number, level=1 + number % 3 / 1000)
    ledger_run(Path(".perstep/runs/0007-ledger"), level=1.5, git={"commit": "b" * 40, "dirty": False})
    assert run(["report", "--history", "7", "-o", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["run"] for row in rows] == [f"{number:04d}-ledger" for number in range(1, 8)]
    assert rows[-1]["verdict"] == "slower"
    assert 0.4 < rows[-1]["ci_low"] < rows[-1]["ci_high"] < 0.6
    assert not [row for row in rows[:-1] if row["verdict"] in ("faster", "slower")]


def test_list_is_short_and_finds_a_tag(capsys: pytest.CaptureFixture[str]) -> None:
    """The newest 15 with short results; `--all` has everything, JSON always; a tag finds its runs."""
    for number in range(1, 18):
        copied("compare", number, **({"tag": "nightly"} if number == 4 else {}))
    assert run(["list"]) == 0
    shown = capsys.readouterr().out
    assert "0003-compare" in shown
    assert "0002-compare" not in shown
    assert "2 older runs left out; --all lists them." in shown
    assert run(["list", "--all"]) == 0
    assert "0001-compare" in capsys.readouterr().out
    assert run(["list", "--tag", "nightly", "-o", "json"]) == 0
    assert [Path(one["folder"]).name for one in json.loads(capsys.readouterr().out)] == ["0004-compare"]
    assert run(["list", "-o", "json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 17


@pytest.mark.real_clock
def test_a_tag_is_kept_with_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    """`--tag` of a command that measures; `list --tag` finds the run."""
    arms = ["python -c 0", "python -c 1", "--rounds", "2", "--out", ".perstep/runs/0001-x", "-q"]
    assert run(["compare", "--live", *arms, "--tag", "mine"]) == 0
    capsys.readouterr()
    assert run(["list", "--tag", "mine"]) == 0
    assert "0001-x" in capsys.readouterr().out
    assert run(["list", "--tag", "other"]) == 0
    assert "no runs under" in capsys.readouterr().err


def planted() -> list[Callable[[dict[str, Any]], Any]]:
    """Where a secret may stand in a manifest; each its own, so that hiding one does not hide another."""
    return [
        lambda m: m["argv"].extend(["--model", f"/home/{SECRET}argv/model", f"--schema={SECRET}schema.json"]),
        lambda m: m["plan"].update(model=f"/srv/{SECRET}plan/llama", schema=f"{SECRET}option.json"),
        lambda m: m["machine"].update(git={"commit": f"{SECRET}commit", "dirty": "yes"}),
        lambda m: m["model"].update(name=f"{SECRET}model", path=f"/srv/{SECRET}path"),
        lambda m: m["warnings"].append(f"it read /srv/{SECRET}warning/weights.safetensors"),
        lambda m: m["warnings"].append(f"it looked into /srv/{SECRET}folder/models and ~/{SECRET}home/models"),
        lambda m: m["conditions"].update(note=f"{SECRET}condition was here", ended_by="rounds measured"),
    ]


def with_secrets(text: str) -> str:
    """The same with other names of a script, of a command, and of where a model was loaded from."""
    text = text.replace("calls.py", f"{SECRET}script.py").replace("python -c 0", f"python {SECRET}command")
    text = text.replace("logits/TopPLogitsWarper", f"loop/{SECRET}loop.py:34 ids = {SECRET}code(logits)")
    return re.sub('"(model|name)": ?"LlamaForCausalLM"', rf'"\1":"LlamaForCausalLM models/{SECRET}weights"', text)


@pytest.mark.parametrize("name", ["ledger", "watch", "fix", "compare"])
def test_a_shared_page_has_no_secret(name: str) -> None:
    """Neither the command line, nor a path, a line of a script, a commit or a command; the numbers are all there."""
    folder = copied(name, 1)
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    for plant in planted():
        plant(manifest)
    path.write_text(with_secrets(json.dumps(manifest)), encoding="utf-8")
    samples = (folder / "samples.jsonl").read_text(encoding="utf-8")
    (folder / "samples.jsonl").write_text(with_secrets(samples), encoding="utf-8")
    assert run(["report", "1", "--share", "--html", "shared.html"]) == 0
    page = Path("shared.html").read_text(encoding="utf-8")
    assert re.findall(rf".{{20}}{SECRET}.{{20}}", page) == []
    words = Reader(page).words
    assert "left out: the command line, paths" in words
    tables = pipeline.look(folder).tables
    shares = [cell for table in tables for row in table.rows for cell in row if cell.endswith(" %")]
    assert shares
    assert all(share in words for share in shares)


@pytest.mark.parametrize("name", ["ledger", "watch"])
def test_no_page_has_a_prompt_or_an_argument(name: str) -> None:
    """They are hashes in the manifest already, and so on the page that is not shared."""
    page = (GOLDEN / name / "report.html").read_text(encoding="utf-8")
    manifest = json.loads((GOLDEN / name / "manifest.json").read_text(encoding="utf-8"))
    for value in (manifest["plan"].get("prompt"), *manifest["plan"].get("arguments", [])):
        assert value is None or value.startswith("sha256:")
    assert manifest["run_id"] in page
