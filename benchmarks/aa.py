"""How often `perstep compare --live` is wrong about identical arms, and how often it finds a true change.

Every try is the command as a user types it, in a process of its own. Arms, seeds (the number of the try) and numbers
of rounds are fixed here; the first run counts. Load is made by processes that spin: `load` of them are busy beside each
try, and where tries run side by side they are each other's load. From the repository, on a machine that does nothing
else:

    python -P benchmarks/aa.py --date 2026-01-31              # about an hour
    python -P benchmarks/aa.py --date 2026-01-31 --quick      # some minutes, to see that it runs
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

from perstep.machine import describe, identity

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "aa.json"
CORES = os.cpu_count() or 1
BUSY_A_CORE = 3, 15
TRIES = 60
POWER_TRIES = 15

BODIES = {"50us": 3_300, "5ms": 330_000, "50ms": 3_300_000}
"""Iterations of the loop: about so long on a core of 2025."""

ROUNDS = {"50us": 100, "5ms": 40, "50ms": 20}
"""Of each try under load: processor time of about 0.5, 2 and 8 s."""

BODY = """
from itertools import repeat
from math import sqrt
import sys

def {name}():
    for number in repeat(2.0, {iterations}):
        sqrt(number)
"""

FILL = """
import sys

COUNT = 20_000 * (105 if {changed} else 100) // 100

def fill():
    table = {{}}
    for number in range(COUNT):
        table["key %d" % number] = number
    return table

if __name__ == "__main__":
    for _ in range(10):
        fill()
"""

START = """
import time
_end = time.perf_counter() + 0.25
while time.perf_counter() < _end:
    pass
"""
"""Beside an interpreter's own start and what it imports: a start of about 0.3 s."""


@dataclass
class Try:
    """One comparison: the arguments of `perstep compare --live`, where its run goes, and what it said."""

    arguments: list[str]
    folder: Path
    found: dict[str, Any] = field(default_factory=dict)

    def command(self) -> list[str]:
        """As it is typed."""
        shared = ["-q", "--out", str(self.folder)]
        return [sys.executable, "-P", "-m", "perstep", "compare", "--live", *self.arguments, *shared]

    def read(self) -> None:
        """Keep the candidate's result."""
        results = json.loads((self.folder / "results.json").read_text(encoding="utf-8"))
        name = next(name for name in results["arms"] if name != results["reference"])
        arm = results["arms"][name]
        rounds, busy = results["rounds"], results["busy"]
        self.found = {**arm["wall"], "processor": arm["processor"], "rounds": rounds, "busy": busy}


SPIN = [sys.executable, "-c", "while True: pass"]


def run_all(tries: list[Try], *, load: int, what: str) -> None:
    """Run tries: one by one without load, else beside each other, with spinning processes in the places left over."""
    waiting, done = deque(tries), 0
    running: dict[subprocess.Popen[bytes], Try | None] = {}
    try:
        while waiting or any(running.values()):
            for process, one in list(running.items()):
                if one is not None and process.poll() is not None:
                    one.read()
                    del running[process]
                    done += 1
                    print(f"{what}: {done} of {len(tries)}", file=sys.stderr)
            while len(running) < load + 1:
                one = waiting.popleft() if waiting else None
                if one is None and not any(running.values()):
                    break
                command = SPIN if one is None else one.command()
                running[subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)] = one
                if load == 0:
                    break
            time.sleep(0.1)
    finally:
        for process in running:
            process.kill()
            process.wait()


def row(tries: Iterable[Try], **shown: Any) -> dict[str, Any]:
    """Counts of what tries said; the single tries are kept beside them."""
    found = [one.found for one in tries]
    wrong = {"faster", "slower"}
    return {
        **shown,
        "tries": len(found),
        "called_different": sum(f["verdict"] in wrong for f in found),
        "processor_called_different": sum(bool(f["busy"]) and f["processor"]["verdict"] in wrong for f in found),
        "busy": sum(bool(f["busy"]) for f in found),
        "each": [
            {key: f[key] for key in ("verdict", "change", "ci_low", "ci_high", "mde", "rounds", "busy")}
            | {f"processor_{key}": f["processor"][key] for key in ("verdict", "change", "ci_low", "ci_high")}
            for f in found
        ],
    }


class Bench:
    """The programs in a folder, and the tries.

    Args:
        folder: an empty one.
        quick: two tries of each kind.
    """

    def __init__(self, folder: Path, *, quick: bool) -> None:
        self._folder, self._quick, self._made = folder, quick, 0
        os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), str(ROOT / "src")])  # for module:function, and perstep
        for name, iterations in BODIES.items():
            arms = {"old": 100, "same": 100, "slower": 110, "slower3": 103}
            text = "".join(BODY.format(name=arm, iterations=iterations * share // 100) for arm, share in arms.items())
            (folder / f"body_{name}.py").write_text(text, encoding="utf-8")
        self._pythons = [self._environment(name) for name in ("first", "second")]
        for name, changed in {"same": "False", "changed": "'second' in sys.prefix"}.items():
            (folder / f"{name}.py").write_text(FILL.format(changed=changed), encoding="utf-8")
        (folder / "late.py").write_text(START + FILL.format(changed="False"), encoding="utf-8")

    def _environment(self, name: str) -> str:
        """A virtual environment of this Python; the path of its interpreter."""
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(self._folder / name)], check=True)
        return str(self._folder / name / "bin" / "python")

    def tries(self, count: int, *arguments: str) -> list[Try]:
        """The same comparison so many times, with seeds from 0."""
        made = []
        for seed in range(2 if self._quick else count):
            self._made += 1
            made.append(Try([*arguments, "--seed", str(seed)], self._folder / f"run-{self._made}"))
        return made

    def form(self, form: str, script: str) -> list[str]:
        """The arms of one form on a script of this folder."""
        path = self._folder / f"{script}.py"
        if form == "--python":
            return [*(word for python in self._pythons for word in ("--python", python)), f"{path}:fill"]
        return [f"{python} {path}" for python in self._pythons]

    def processes(self) -> Iterator[dict[str, Any]]:
        """New processes in every round: identical environments, a true +5 %, and what 60 s can detect."""
        budgets = {("--python", 0): "5s", ("--python", 6): "15s", ("command", 0): "7s", ("command", 6): "30s"}
        identical, power = [], []
        for (form, load), budget in budgets.items():
            made = self.tries(TRIES, *self.form(form, "same"), "--budget", budget)
            run_all(made, load=load, what=f"identical, {form}, {load} busy processes")
            identical.append(row(made, form=form, busy_processes=load, budget=budget))
        for form in ("--python", "command"):
            made = self.tries(POWER_TRIES, *self.form(form, "changed"), "--budget", budgets[form, 0])
            run_all(made, load=0, what=f"+5 % of the function, {form}")
            # A command also has its interpreter's start: what the function's 5 % are of it is the tries' median.
            true = median(one.found["change"] or 0.0 for one in made)
            above = [one.found for one in made if one.found["mde"] is not None and one.found["mde"] < true]
            found = sum(one["verdict"] == "slower" for one in above)
            power.append(row(made, form=form, true_change=true, detectable_below_it=len(above), of_these_found=found))
        late = self.tries(2, *self.form("--python", "late"), "--budget", "60s", "--precision", "0.01%")
        run_all(late, load=0, what="detectable in 60 s")
        yield {"identical": identical, "power": power, "detectable_in_60_s": [one.found["mde"] for one in late]}

    def in_process(self) -> Iterator[dict[str, Any]]:
        """Callables of one process on the idle machine: identical ones, and +3 % in 1.5 s."""
        body = "body_50us"
        same = self.tries(TRIES, f"{body}:old", f"{body}:same", "--budget", "1.5s")
        run_all(same, load=0, what="identical, module:function")
        slower = self.tries(12, f"{body}:old", f"{body}:slower3", "--budget", "1.5s")
        run_all(slower, load=0, what="+3 %, module:function")
        found = sum(one.found["verdict"] == "slower" for one in slower)
        yield {"identical": row(same), "plus_3_percent": row(slower, found=found)}

    def busy(self) -> Iterator[list[dict[str, Any]]]:
        """Callables of one process beside busy processes: identical ones, and +10 %. Gives the rows so far."""
        rows: list[dict[str, Any]] = []
        for body, rounds in ROUNDS.items():
            for a_core in BUSY_A_CORE:
                shown = {"busy_a_core": a_core, "body": body, "rounds": rounds}
                options = ("--rounds", str(rounds))
                same = self.tries(TRIES, f"body_{body}:old", f"body_{body}:same", *options)
                slower = self.tries(POWER_TRIES, f"body_{body}:old", f"body_{body}:slower", *options)
                run_all(same + slower, load=a_core * CORES, what=f"{body}, {a_core} busy processes a core")
                named = sum("slower" in (one.found["verdict"], one.found["processor"]["verdict"]) for one in slower)
                rows.append(row(same, **shown, true_change=0.0))
                rows.append(row(slower, **shown, true_change=0.1, named=named))
                yield rows


def main() -> None:
    """Run the tries and write benchmarks/results/aa.json."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--date", required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices=["processes", "in_process", "busy"])
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    machine = describe()
    found: dict[str, Any] = {
        "date": options.date,
        "quick": options.quick,
        "machine": {"cpu": machine.cpu.model, "cores": machine.cpu.cores_logical, "identity": identity(machine)},
    }
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), quick=options.quick)
        sections = {"in_process": bench.in_process, "busy": bench.busy, "processes": bench.processes}
        for name, section in sections.items():
            for so_far in section() if options.only in (None, name) else ():
                found[name] = so_far
                options.out.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    show(found)


def show(found: dict[str, Any]) -> None:
    """One line a row."""
    if "in_process" in found:
        same, slower = found["in_process"]["identical"], found["in_process"]["plus_3_percent"]
        print(f"module:function, idle: {same['called_different']} of {same['tries']} identical called different")
        print(f"module:function, idle, +3 % in 1.5 s: found {slower['found']} of {slower['tries']}")
    for one in found.get("busy", []):
        name = f"{one['body']}, {one['busy_a_core']} busy processes a core"
        if one["true_change"]:
            print(f"{name}, +10 %: named in {one['named']} of {one['tries']}")
        else:
            print(
                f"{name}: called different by wall time {one['called_different']}, by processor time"
                f" {one['processor_called_different']} of {one['tries']}; busy in {one['busy']}"
            )
    for one in found.get("processes", {}).get("identical", []):
        print(
            f"{one['form']}, {one['busy_processes']} busy processes: {one['called_different']} (by processor time"
            f" {one['processor_called_different']}) of {one['tries']} identical called different"
        )
    for one in found.get("processes", {}).get("power", []):
        print(
            f"{one['form']}, +5 %: {one['of_these_found']} of {one['detectable_below_it']} above the detectable found"
        )
    if "processes" in found:
        print(f"detectable in 60 s with a start of 0.3 s: {found['processes']['detectable_in_60_s']}")


if __name__ == "__main__":
    main()
