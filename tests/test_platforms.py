"""What happens on systems without the modules and calls that Windows does not have."""

import subprocess
import sys

import pytest

WITHOUT = """
import os, signal, sys
import psutil  # has one for each system; the one of Linux needs them
for name in ("grp", "pwd", "resource", "termios"):
    sys.modules[name] = None
for name in ("O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK", "fork", "getloadavg", "pread", "sched_getaffinity", "waitid"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGALRM", "getitimer", "setitimer"):
    delattr(signal, name)
"""


def without_them(then: str) -> subprocess.CompletedProcess[str]:
    """Run code in a Python that lacks them."""
    return subprocess.run([sys.executable, "-c", WITHOUT + then], capture_output=True, text=True, check=False)


def test_every_room_is_imported() -> None:
    """Token masks, drop-ins, theory and the reports of stored runs need none of them."""
    rooms = "automata, cli.app, experiments.ledger, fast, fixing, report, runs, stats, stored, theory, watching"
    found = without_them(f"import {', '.join('perstep.' + room for room in rooms.split(', '))}")
    assert found.stderr == ""
    assert found.returncode == 0


@pytest.mark.parametrize("command", ["ledger -m mini -n 2", "compare --live time:monotonic time:time --budget 1s"])
def test_measuring_is_refused_in_one_sentence(command: str) -> None:
    """A measurement that could not tell whether it was disturbed does not begin."""
    found = without_them(f"from perstep.cli.app import main; sys.argv[1:] = {command.split()!r}; sys.exit(main())")
    assert found.stderr.count("\n") == 1
    assert "use Linux, macOS or WSL" in found.stderr
    assert (found.stdout, found.returncode) == ("", 2)
