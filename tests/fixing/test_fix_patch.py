"""What `perstep fix` writes: a diff that changes the call and nothing else, of every file, and never a file."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perstep.fixing.behaviour import find_vocabulary, offers
from perstep.fixing.capture import REMOVED, Captured, Captures
from perstep.fixing.loop import loop_offer
from perstep.fixing.observe import observe
from perstep.fixing.offer import CRITERIA, LOOP, PROCESSORS, Offer
from perstep.fixing.patch import Edit, diff, write
from perstep.fixing.text import with_imports
from perstep.watching.script import run_script

EXAMPLE = Path(__file__).parents[2] / "examples" / "slow_generate.py"

SOURCE = '''"""A script."""
from __future__ import annotations
import os
import torch

def main():
    # é
    model.generate(ids, top_p=0.9, logits_processor=P([A(1, "é"), B()]),
        suppress_tokens=[3],
        do_sample=True,  # drawn
    )
'''

AFTER = '''"""A script."""
from __future__ import annotations
import os
import perstep
import transformers
import torch

def main():
    # é
    model.generate(ids, top_p=1.0, logits_processor=P([A(1, "é"), perstep.fast.Utf8(V), transformers.T(0.7)]),
        suppress_tokens=None,
        do_sample=True,  # drawn
        stopping_criteria=[perstep.fast.WordStop(V)],
        top_k=0,
        custom_generate=perstep.fast.decode,
    )
'''


def offer(kind: str, source: str, index: int | None = None, **settings: Any) -> Offer:
    """A drop-in that is written as `source`."""
    return Offer(kind, index, ("part",), ((None, source),), "", settings)


UTF8 = offer(PROCESSORS, "perstep.fast.Utf8(V)", 1)
LOOP_ITSELF = offer(LOOP, "perstep.fast.decode")


def call_at(path: Path, line: int, processors: int = 2, **given: Any) -> Captured:
    """A call on a line of a file, with so many processors and these other arguments."""
    lists: dict[str, list[Any]] = {PROCESSORS: [object()] * processors, CRITERIA: []}
    return Captured("job.py:1", path, line, None, False, None, ((), given), lists, {}, [], "")


def applied(folder: Path, edits: list[Edit]) -> None:
    """Apply the diff with `patch` where the program was run."""
    (folder / "change.diff").write_bytes(diff(edits)[0].encode())
    subprocess.run(["patch", "-p1", "-s", "--binary", "-i", "change.diff"], cwd=folder, check=True)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", [True, False])
def test_a_diff_changes_the_call_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, last: bool
) -> None:
    """Items of a list, new items, settings that change or go, new arguments, and imports; line ends stay."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "job.py"
    before, after = (text if last else text.removesuffix("\n") for text in (SOURCE, AFTER))
    path.write_bytes(before.replace("\n", end).encode())
    offers = [
        UTF8,
        offer(PROCESSORS, "transformers.T(0.7)", top_p=1.0, suppress_tokens=REMOVED, top_k=0, min_p=REMOVED),
        offer(CRITERIA, "perstep.fast.WordStop(V)"),
        LOOP_ITSELF,
    ]
    applied(tmp_path, [Edit(call_at(path, 8), offers)])
    assert path.read_bytes().decode() == after.replace("\n", end)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("m.generate()", "m.generate(custom_generate=perstep.fast.decode)"),
        ("m.generate(x)", "m.generate(x, custom_generate=perstep.fast.decode)"),
        ("m.generate(x,)", "m.generate(x, custom_generate=perstep.fast.decode)"),
        ("m.generate((x), n=(3))", "m.generate((x), n=(3), custom_generate=perstep.fast.decode)"),
        ("m.generate(x, **k)", "m.generate(x, **k, custom_generate=perstep.fast.decode)"),
        (
            "m.generate(\n    x,\n    n=3  # few\n)",
            "m.generate(\n    x,\n    n=3,  # few\n    custom_generate=perstep.fast.decode\n)",
        ),
        ("m.generate(x,\n           n=f(1,\n 2))",
         "m.generate(x,\n           n=f(1,\n 2),\n           custom_generate=perstep.fast.decode)"),
    ],
)  # fmt: skip
def test_an_argument_is_added_as_the_call_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str, after: str
) -> None:
    """Behind the last one, brackets and comments and all; valid Python in any case."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "job.py"
    path.write_text(f"import perstep\n{before}\n")
    applied(tmp_path, [Edit(call_at(path, 2, 0), [LOOP_ITSELF])])
    assert path.read_text() == f"import perstep\n{after}\n"
    compile(path.read_text(), "job.py", "exec")


@pytest.mark.parametrize(
    ("call", "line"),
    [
        ("model.generate(ids, logits_processor=mine)", "logits_processor=[mine[0], perstep.fast.Utf8(V)],"),
        ("model.generate(ids, logits_processor=self.mine)", "logits_processor=[self.mine[0], perstep.fast.Utf8(V)],"),
        ("model.generate(ids, **kwargs)",
         "**{**kwargs, 'logits_processor': [kwargs['logits_processor'][0], perstep.fast.Utf8(V)]},"),
        ("model.generate(ids, logits_processor=[A(), B()])", "logits_processor=[A(), perstep.fast.Utf8(V)],"),
    ],
)  # fmt: skip
def test_a_list_with_a_name_is_written_by_its_elements(tmp_path: Path, call: str, line: str) -> None:
    """A variable, an attribute, an entry of **kwargs."""
    path = tmp_path / "job.py"
    path.write_text(call)
    edit = Edit(call_at(path, 1, logits_processor=None), [UTF8])
    written = write(edit, [0])
    assert (written.lines, written.imports, written.by_hand) == ([line], ["import perstep"], "")
    assert line.removesuffix(",") in diff([edit])[0]


@pytest.mark.parametrize(
    ("call", "why"),
    [
        ("run(ids)", "not written as model.generate"),
        ("model.generate(ids, logits_processor=[*mine])", "built elsewhere"),
        ("model.generate(ids, logits_processor=[A()])", "built elsewhere"),
        ("model.generate(ids, **{'logits_processor': mine})", "built elsewhere"),
        ("model.generate(", "cannot be read"),
    ],
)
def test_what_is_put_together_elsewhere_is_said_in_words(tmp_path: Path, call: str, why: str) -> None:
    """No diff, and still lines that can be copied."""
    path = tmp_path / "job.py"
    path.write_text(call)
    edit = Edit(call_at(path, 1), [UTF8, LOOP_ITSELF])
    written = write(edit, [0, 1])
    assert why in written.by_hand
    assert diff([edit]) == ("", "")
    assert "perstep.fast.Utf8(V)" in written.lines
    assert "custom_generate=perstep.fast.decode," in written.lines


def test_an_installed_package_is_not_changed(tmp_path: Path) -> None:
    """Its call is named."""
    path = tmp_path / "site-packages" / "job.py"
    path.parent.mkdir()
    path.write_text("model.generate(ids)")
    edit = Edit(call_at(path, 1, 0), [LOOP_ITSELF])
    assert "installed package" in write(edit, [0]).by_hand
    assert diff([edit]) == ("", "")


def test_imports_stand_where_they_may() -> None:
    """Before torch, behind what is set before it; after the docstring and after those of __future__; not twice."""
    assert with_imports("import perstep\nperstep.x\n") == "import perstep\nperstep.x\n"
    assert with_imports("from __future__ import annotations\nperstep.x\n").startswith(
        "from __future__ import annotations\nimport perstep\n"
    )
    assert with_imports('"""A."""\nperstep.x\n') == '"""A."""\nimport perstep\nperstep.x\n'
    assert with_imports("import os\nos.environ['A'] = '1'\nfrom torch import nn\nperstep.x\n") == (
        "import os\nos.environ['A'] = '1'\nimport perstep\nfrom torch import nn\nperstep.x\n"
    )


@pytest.fixture
def main_is_put_back(monkeypatch: pytest.MonkeyPatch, nothing_compiled: None) -> None:
    """A script that runs in this process is its `__main__` meanwhile, and what it imports is its own."""
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    monkeypatch.delitem(sys.modules, "helper", raising=False)


def diff_of_all(script: Path) -> Edit:
    """What is offered for the one call of a script, whatever of it was faster here."""
    with Captures() as captures:
        run_script(script, ())
    (call,) = captures.calls.values()
    return Edit(call, [*offers(call, observe(call), find_vocabulary(call)), loop_offer()])


@pytest.mark.real_clock
@pytest.mark.hf
@pytest.mark.usefixtures("main_is_put_back")
def test_the_example_does_the_same_by_its_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is offered gives the example's text."""
    pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    script = Path("slow_generate.py")
    before = EXAMPLE.read_text().replace("    print(", "    print(tokens.tolist())\n    print(")
    script.write_text(before)
    edit = diff_of_all(script)
    old = capsys.readouterr().out
    applied(tmp_path, [edit])
    changed = script.read_text()
    assert "[NoRepeats(), perstep.fast.Utf8(VOCABULARY)]" in changed
    assert "custom_generate=perstep.fast.decode,\n" in changed
    assert run_script(script, ()) == 0
    assert capsys.readouterr().out == old
    assert old.endswith("generated 96 tokens for 2 prompts\n")


@pytest.mark.nightly
@pytest.mark.real_clock
@pytest.mark.hf
def test_the_command_changes_no_file_of_the_example(process: Callable[..., Any], tmp_path: Path) -> None:
    """It writes the diff to stdout, behind what the script wrote, and beside the run."""
    pytest.importorskip("transformers")
    script = tmp_path / "slow_generate.py"
    script.write_text(EXAMPLE.read_text())
    said = process("fix", "--apply", "--budget", "1s", "--out", "run", "slow_generate.py", cwd=tmp_path)
    assert said.code == 0, said
    assert "perstep.fast.Utf8(VOCABULARY)" in said.err
    assert "run: run" in said.err
    assert script.read_text() == EXAMPLE.read_text()
    change = said.out.removeprefix("generated 96 tokens for 2 prompts\n")
    written = tmp_path / "run" / "fix.diff"
    assert change == (written.read_text() if written.exists() else "")


JOB = """import torch
model.generate(ids)
"""


@pytest.mark.parametrize("apply", [["patch", "-p1", "-s"], ["git", "apply"]], ids=["patch", "git"])
@pytest.mark.parametrize(
    ("given", "run_in"),
    [
        ("job.py", "proj (1)/deep"),
        ("{here}/job.py", "proj (1)/deep"),
        ("deep/job.py", "proj (1)"),
        ("{here}/job.py", "proj (1)"),
        ("proj (1)/deep/job.py", "."),
        ("{here}/job.py", "."),
        ("{here}/job.py", "elsewhere"),
    ],
)
def test_a_diff_applies_where_it_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, apply: list[str], given: str, run_in: str
) -> None:
    """By whatever path the script was given, with blanks in it; from elsewhere, in the folder that is named."""
    here = tmp_path / "proj (1)" / "deep"
    here.mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (here / "job.py").write_text(JOB)
    monkeypatch.chdir(tmp_path / run_in)
    path = Path(given.format(here=here))
    assert path.is_file()
    made, folder = diff([Edit(call_at(path, 2, 0), [LOOP_ITSELF])])
    assert folder == (str(here) if run_in == "elsewhere" else "")
    environment = {"PATH": os.environ["PATH"], "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)}
    subprocess.run(apply, cwd=folder or None, input=made.encode(), check=True, env=environment)
    assert (here / "job.py").read_text().endswith("model.generate(ids, custom_generate=perstep.fast.decode)\n")


HELPER = """import torch
from transformers import LlamaConfig, LlamaForCausalLM
torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                                     num_attention_heads=2, eos_token_id=None, pad_token_id=0)).eval()
def run(n):
    return model.generate(torch.arange(4)[None], max_new_tokens=n, do_sample=False, suppress_tokens=[3, 4])
"""


@pytest.mark.real_clock
@pytest.mark.hf
@pytest.mark.usefixtures("main_is_put_back")
def test_a_call_in_a_helper_is_changed_there_and_the_exit_code_is_the_scripts(cli: Callable[..., Any]) -> None:
    """The script's arguments reach it; its failing exit comes after the trial; no file of it is changed."""
    pytest.importorskip("transformers")
    Path("helper.py").write_text(HELPER)
    Path("job.py").write_text("import sys\nfrom helper import run\nrun(int(sys.argv[1]))\nsys.exit(3)\n")
    said = cli("fix", "--apply", "--budget", "0.5s", "--out", "run", "job.py", "9")
    assert said.code == 3, said
    assert Path("helper.py").read_text() == HELPER
    assert said.out == (Path("run/fix.diff").read_text() if Path("run/fix.diff").exists() else "")
    assert "went to the script" not in said.err
    assert "ended with exit code 3; the calls that it made before are tried" in said.err
    assert "--- a/helper.py" in said.out or "no diff: no line is recommended" in said.err


@pytest.mark.real_clock
@pytest.mark.hf
@pytest.mark.usefixtures("main_is_put_back")
def test_an_apply_behind_the_script_is_the_scripts_and_that_is_said(cli: Callable[..., Any]) -> None:
    """Options behind the script's name are its own; somebody who wanted the diff learns where to write the option."""
    pytest.importorskip("transformers")
    Path("helper.py").write_text(HELPER)
    Path("job.py").write_text("import sys\nfrom helper import run\nrun(8)\nassert sys.argv[1] == '--apply'\n")
    said = cli("fix", "--budget", "0.5s", "--out", "run", "job.py", "--apply")
    assert said.code == 0, said
    assert "for the diff: perstep fix --apply job.py" in said.err


def test_bad_input_is_one_line(cli: Callable[..., Any], tmp_path: Path) -> None:
    """No such script, no such budget, a folder with something else in it."""
    pytest.importorskip("transformers")
    said = cli("fix", "nowhere.py")
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "no script 'nowhere.py'" in said.err
    said = cli("fix", "--budget", "soon", EXAMPLE)
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "--budget soon" in said.err
    (tmp_path / "mine.txt").write_text("x")
    said = cli("fix", "--out", tmp_path, EXAMPLE)
    assert (said.code, said.err.count("\n")) == (2, 1)
