"""`perstep watch SCRIPT`: the script is as it is without perstep; the ledgers come after it."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import perstep
from perstep.errors import how_to_install

pytestmark = [pytest.mark.hf, pytest.mark.real_clock]
pytest.importorskip("transformers")

Cli = Callable[..., Any]
EXAMPLE = Path(__file__).parents[2] / "examples" / "slow_generate.py"
MODEL = """
import torch
from transformers import LlamaConfig, LlamaForCausalLM
torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(
    vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, pad_token_id=0,
    eos_token_id=None)).eval()
ids = torch.arange(3, 13).reshape(2, 5)
"""


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], Path]:
    """`script(source)`: a file with it."""

    def write(source: str) -> Path:
        path = tmp_path / "job.py"
        path.write_text(source)
        return path

    return write


@pytest.fixture
def watch(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """`perstep watch ...` in this process, whose `__main__` comes back afterwards."""
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    return lambda *tokens: cli("watch", *tokens)


def test_the_example_has_a_ledger_with_its_slow_processor(process: Cli, tmp_path: Path) -> None:
    """In a process of its own, with its output untouched, and a run that can be shown.

    Which part costs most is said on a machine that is quiet enough; that the part has a row holds on any.
    """
    said = process("watch", EXAMPLE, cwd=tmp_path)
    assert (said.code, said.out) == (0, "generated 96 tokens for 2 prompts\n"), said
    assert "decode at examples/slow_generate.py:" in said.err
    assert "logits/OnlyUtf8" in said.err
    run = tmp_path / ".perstep" / "runs" / "0001-watch"
    assert said.err.rstrip().endswith("run: .perstep/runs/0001-watch")
    assert sorted(path.name for path in run.iterdir() if path.name != ".lock") == [
        "README.md", "ledger.csv", "ledger.png", "manifest.json", "report.html", "results.json", "samples.jsonl",
    ]  # fmt: skip
    shown = process("show", "1", cwd=tmp_path)
    assert shown.code in (0, 4), shown  # 4 on a machine so busy that the marks seem to cost half a step
    assert "logits/OnlyUtf8" in shown.out


ENDS = {
    "plain": "print(__name__, sys.argv, sys.path[0], __file__, 'torch' in sys.modules)",
    "number": "sys.exit(3)",
    "nothing": "sys.exit()",
    "message": "sys.exit('that is all')",
    "raises": "def f():\n    raise KeyError('x')\nf()",
    "cause": "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise ValueError from e",
    "syntax": "print('never'",
    "hook": "sys.excepthook = lambda *a: print('mine', a[0].__name__)\n1 / 0",
    "thread": "import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.2), print('late'))).start()",
    "exit handler": "import atexit\nx = 5\natexit.register(lambda: print('bye', x))",
    "sibling": "import sibling",
}


@pytest.mark.parametrize("name", ENDS)
def test_a_script_ends_as_it_does_without_perstep(
    name: str, script: Callable[[str], Path], process: Cli, environment: dict[str, str], tmp_path: Path
) -> None:
    """Output, traceback and exit code are Python's own; options after the script are the script's."""
    (tmp_path / "sibling.py").write_text("print('sibling of', __name__)\n")
    path = script(f"import sys\n{ENDS[name]}\n")
    arguments = [str(path), "--every", "9", "-q", "--", "x"]
    alone = subprocess.run(
        [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    said = process("watch", *arguments, cwd=tmp_path)
    assert (said.code, said.out) == (alone.returncode, alone.stdout)
    remark = f"perstep: {path} made no generate call and called no model in a loop; there is nothing to show\n"
    assert said.err == alone.stderr + remark
    assert not (tmp_path / ".perstep").exists()


def test_a_fork_is_said_and_the_child_ends_quietly(script: Callable[[str], Path], process: Cli, tmp_path: Path) -> None:
    """The child's exit code is its own too."""
    source = (
        "import os, sys\npid = os.fork()\nif not pid:\n    sys.exit(5)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    )
    said = process("watch", script(source), cwd=tmp_path)
    assert (said.code, said.out) == (0, "5\n")
    assert said.err.count("the script forked once") == said.err.count("made no generate call") == 1


def test_each_calling_line_has_a_ledger_even_if_the_script_breaks(
    script: Callable[[str], Path], watch: Cli, tmp_path: Path
) -> None:
    """The run lies where perstep was started, wherever the script went; it has a line a call."""
    path = script(
        MODEL
        + f"import os\nos.chdir({str(tmp_path)!r})\n"
        + "for _ in range(2):\n    model.generate(ids, max_new_tokens=5, do_sample=False)\n"
        + "print(model.generate(ids, max_new_tokens=3, do_sample=False).shape)\n"
        + "def breaks(input_ids, scores):\n    return 1 / 0\ntry:\n"
        + "    model.generate(ids, max_new_tokens=3, logits_processor=[breaks])\n"
        + "except ZeroDivisionError as error:\n    raise ValueError('planted') from error\n"
    )
    said = watch("--detail", "modules", "--every=1", path)
    assert (said.code, said.out) == (1, "torch.Size([2, 8])\n")
    line = len(path.read_text().splitlines())
    assert f'Traceback (most recent call last):\n  File "{path}", line {line}, in <module>\n' in said.err
    assert f'File "{path}", line {line - 4}, in breaks' in said.err
    assert f"{Path(perstep.__file__).parent}/" not in said.err.split("ValueError: planted")[0]
    for number, calls in ((line - 7, 2), (line - 6, 1)):
        assert f"decode at {path.parent.name}/job.py:{number}: LlamaForCausalLM, {calls} call" in said.err
    assert "attn.core" in said.err
    [run] = (tmp_path / "cwd" / ".perstep" / "runs").iterdir()
    assert len((run / "samples.jsonl").read_text().splitlines()) == 4
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["plan"] == {"script": ".../job.py", "arguments": [], "detail": "modules", "every": 1, "syncs": True}
    assert manifest["status"] == "complete"


def test_a_thread_that_outlives_the_script_is_waited_for(script: Callable[[str], Path], watch: Cli) -> None:
    """As Python waits for it; its call is watched."""
    path = script(
        MODEL
        + "import threading, time\ndef job():\n    time.sleep(0.3)\n    model.generate(ids, max_new_tokens=3)\n"
        + "threading.Thread(target=job).start()\n"
    )
    said = watch(path)
    assert said.code == 0
    assert "1 call, batch 2, prompt 5, new tokens 3" in said.err


def test_the_same_tokens_are_written_in_every_form(script: Callable[[str], Path], watch: Cli, cli: Cli) -> None:
    """JSON on stderr is what `results.json` holds; with -q stderr is the script's."""
    path = script(MODEL + "print(model.generate(ids, max_new_tokens=6, do_sample=False).tolist())\n")
    said = watch("-o", "json", "--out", "a", path)
    found, _ = json.JSONDecoder().raw_decode(said.err)
    assert found == json.loads(Path("a/results.json").read_text())
    assert found["sites"][0]["new_tokens"] == [6]
    quiet = watch("-q", "--out", "b", "--tag", "mine", path)
    assert (quiet.code, quiet.out, quiet.err) == (0, said.out, "")
    assert "| logits" not in quiet.err
    assert "mine" in cli("list", "--tag", "mine", "--root", ".").out
    assert watch("-o", "md", "--out", "b", "--force", path).err.startswith("**decode at ")
    rebuilt = cli("report", "b")
    assert "rebuilt: README.md, ledger.csv, ledger.png, report.html, results.json in b" in rebuilt.err


def test_warnings_come_before_the_figures(
    script: Callable[[str], Path], watch: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each once, in the run too; a program that reads another form finds them after it."""
    monkeypatch.setattr("perstep.experiments.conditions.warnings_for", lambda *_, **__: ["the machine is busy"])
    path = script(MODEL + "model.generate(ids, max_new_tokens=4, do_sample=False)\n")
    said = watch("--out", "run", path)
    assert said.err.startswith("warning: the machine is busy\ndecode at ")
    assert said.err.count("the machine is busy") == 1
    assert json.loads(Path("run/manifest.json").read_text())["warnings"] == ["the machine is busy"]
    found, end = json.JSONDecoder().raw_decode((said := watch("-o", "json", "--out", "b", path)).err)
    assert found["sites"]
    assert said.err[end:] == "\nwarning: the machine is busy\nrun: b\n"
    assert watch("-q", "--out", "c", path).err == ""


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["missing.py"], "perstep: no script 'missing.py': give the path of a Python file\n"),
        (["."], "perstep: no script '.': give the path of a Python file\n"),
        (["--every", "0", str(EXAMPLE)], "perstep: --every 0: it must be at least 1\n"),
        (["--detail", "all", str(EXAMPLE)], 'perstep: Invalid value "all"'),
        ([], "perstep: "),
    ],
)
def test_bad_input_is_one_line_and_nothing_runs(watch: Cli, arguments: list[str], complaint: str) -> None:
    """Exit code 2."""
    said = watch(*arguments)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith(complaint)
    assert said.err.count("\n") == 1
    assert list(Path.cwd().iterdir()) == []


def test_a_folder_that_is_not_empty_is_refused_before_the_script_runs(
    watch: Cli, script: Callable[[str], Path]
) -> None:
    """It would be a pity to find out after an hour."""
    Path("run").mkdir()
    Path("run/mine.txt").write_text("keep")
    said = watch("--out", "run", script("print('ran')\n"))
    assert (said.code, said.out) == (2, "")
    assert "--out run is not empty" in said.err


def test_a_missing_extra_is_said_in_one_line(
    watch: Cli, script: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the script does not run."""
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else find(name, *rest))
    said = watch(script("print('ran')\n"))
    assert (said.code, said.out) == (2, "")
    assert said.err == f"perstep: this needs torch, which is not installed: {how_to_install('hf')}\n"
