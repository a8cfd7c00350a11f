"""What must be installed, and what is said when it is not."""

import importlib.util
import re
import subprocess
import sys

import pytest

from perstep.errors import InputError, how_to_install
from perstep.targets.transformers import Instrument, require, version

REAL = importlib.util.find_spec


def test_importing_the_package_imports_neither_torch_nor_transformers(environment):
    """Their import takes seconds; a command that needs neither must not wait."""
    code = "import sys, perstep.targets.transformers; sys.exit(len({'torch', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0


@pytest.mark.parametrize("package", ["torch", "transformers"])
def test_a_missing_extra_is_said_in_one_line(monkeypatch, package):
    """With the command that installs it."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else REAL(name))
    said = f"this needs {package}, which is not installed: {how_to_install('hf')}"
    with pytest.raises(InputError, match=re.escape(said)):
        require()


@pytest.mark.parametrize(
    ("installed", "fits"), [("4.56.2", False), ("4.57.0", True), ("5.23.0", True), ("5.30.0.dev0", True)]
)
def test_transformers_is_supported_from_4_57(monkeypatch, installed, fits):
    """An older one is refused, a development version of a newer one is not."""
    pytest.importorskip("transformers")
    monkeypatch.setattr(version, "version", lambda package: installed)
    if fits:
        require()
    else:
        with pytest.raises(InputError, match=r"transformers 4.56.2 is too old: 4.57 or later is needed"):
            require()


@pytest.mark.hf
def test_a_hook_point_that_a_version_lacks_is_named_with_what_is_lost(build_tiny, ids, monkeypatch):
    """The ledger must say what it cannot see."""
    from perstep.measure import FakeClock, Recorder

    monkeypatch.setitem(version.HOOK_POINTS, "_not_there_yet", "nothing is timed")
    recorder = Recorder(FakeClock())
    with Instrument(build_tiny("llama"), recorder) as instrument:
        instrument.model.generate(ids, max_new_tokens=2, do_sample=False)
    assert instrument.notes == [
        "LlamaForCausalLM has no _not_there_yet in this version of transformers: nothing is timed"
    ]
