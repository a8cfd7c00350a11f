"""The statistics on the real clock, beside the tools that people use: false alarms and found changes.

Every tool compares the same two programs in the same time, on the same machine, in turn: identical programs (any
verdict is a false alarm) and programs that differ by 1 %. Each tool is read as its users read it; the rule is stated
beside it. From the repository, on a machine that does nothing else:

    python -P benchmarks/real_clock.py --date 2026-01-31              # about twenty minutes
    python -P benchmarks/real_clock.py --date 2026-01-31 --quick      # a minute, to see that it runs
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import timeit
from collections.abc import Callable
from itertools import repeat
from math import sqrt
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import perstep
from perstep.machine import describe, identity

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "real_clock.json"
THRESHOLD = 0.003
ITERATIONS_50_US = 1000
HALF = 0.005
"""Tools without an interval are read so: a difference of more than half the change that is looked for is believed."""

Work = Callable[[], None]
Tool = Callable[[int, int, float | None], str]
"""Two numbers of iterations, and the seconds that a comparison may take; None for the tool's own settings."""


def work(iterations: int) -> Work:
    """A program whose cost is proportional to a number: about 50 µs for 1,000."""

    def run() -> None:
        for number in repeat(2.0, iterations):
            sqrt(number)

    return run


def source(iterations: int) -> tuple[str, str]:
    """The same program as setup and statement, for tools that take source text."""
    return "from itertools import repeat; from math import sqrt", f"for n in repeat(2.0, {iterations}): sqrt(n)"


def believed(ratio: float) -> str:
    """The reading of a tool that gives one number a program."""
    return "slower" if ratio > 1 + HALF else "faster" if ratio < 1 - HALF else "none"


def with_perstep(a: int, b: int, seconds: float | None) -> str:
    """perstep.compare, its verdict."""
    options = {} if seconds is None else {"budget_s": seconds, "precision": 1e-9, "threshold": THRESHOLD}
    found = perstep.compare({"a": work(a), "b": work(b)}, **options)
    return found["b"].wall.verdict.split(" (")[0]


def with_timeit(a: int, b: int, seconds: float | None) -> str:
    """timeit: the best of five repeats of each, one program after the other."""
    best = []
    for iterations in (a, b):
        timer = timeit.Timer(work(iterations))
        if seconds is None:  # as `python -m timeit` does
            number = timer.autorange()[0]
        else:
            number = max(int(seconds / 2 / 5 / (timer.timeit(200) / 200)), 1)
        best.append(min(timer.repeat(5, number)) / number)
    return believed(best[1] / best[0])


def with_torch(a: int, b: int, seconds: float | None) -> str:
    """torch.utils.benchmark: the medians as `Compare` prints them, cut to their significant figures."""
    from torch.utils.benchmark import Timer
    from torch.utils.benchmark.utils.common import trim_sigfig

    least = {} if seconds is None else {"min_run_time": seconds / 2}
    measurements = [Timer("run()", globals={"run": work(n)}).blocked_autorange(**least) for n in (a, b)]
    digits = min(m.significant_figures for m in measurements)
    shown = [trim_sigfig(m.median, digits) for m in measurements]
    return "slower" if shown[1] > shown[0] else "faster" if shown[1] < shown[0] else "none"


def with_pyperf(a: int, b: int, seconds: float | None) -> str:
    """pyperf: `timeit` of each in five processes (20 by default), then `compare_to` and its significance."""
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for name, iterations in (("a", a), ("b", b)):
            setup, statement = source(iterations)
            files.append(f"{folder}/{name}.json")
            command = ["timeit", "-q"]
            if seconds is not None:
                loops = max(int(seconds / 2 / 20 / (iterations * 50e-9)), 1)
                command += ["-p", "5", "-n", "3", "-w", "1", "--loops", str(loops)]
            run_python(["-m", "pyperf", *command, "-o", files[-1], "-s", setup, "--name", "work", statement])
        said = run_python(["-m", "pyperf", "compare_to", *files])
    if "not significant" in said.lower() or "hidden" in said.lower():
        return "none"
    return "slower" if "slower" in said else "faster" if "faster" in said else "none"


def with_pytest_benchmark(a: int, b: int, seconds: float | None) -> str:
    """pytest-benchmark: medians of two runs, as `--benchmark-compare-fail=median:0.5%` reads them."""
    medians = []
    with tempfile.TemporaryDirectory() as folder:
        test = Path(folder) / "test_work.py"
        for iterations in (a, b):
            setup, statement = source(iterations)
            test.write_text(f"{setup}\ndef run():\n    {statement}\ndef test_work(benchmark):\n    benchmark(run)\n")
            report = Path(folder) / "report.json"
            options = ["--benchmark-only", f"--benchmark-json={report}"]
            options += [] if seconds is None else [f"--benchmark-max-time={seconds / 2}"]
            run_python(["-m", "pytest", "-q", "-p", "no:cacheprovider", f"--rootdir={folder}", *options, str(test)])
            medians.append(json.loads(report.read_text())["benchmarks"][0]["stats"]["median"])
    return believed(medians[1] / medians[0])


def run_python(arguments: list[str]) -> str:
    """The output of a Python process."""
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True).stdout


TOOLS: dict[str, Tool] = {
    "perstep.compare": with_perstep,
    "timeit": with_timeit,
    "torch.utils.benchmark": with_torch,
    "pyperf compare_to": with_pyperf,
    "pytest-benchmark": with_pytest_benchmark,
}


def side_by_side(tries: int, seconds: float | None) -> list[dict[str, Any]]:
    """Each tool on identical programs and on a true +1 %, in turn."""
    verdicts: dict[str, dict[str, list[str]]] = {name: {"identical": [], "+1 %": []} for name in TOOLS}
    took_s = dict.fromkeys(TOOLS, 0.0)
    for number in range(tries):
        for name, tool in TOOLS.items():
            begun_s = time.monotonic()
            verdicts[name]["identical"].append(tool(ITERATIONS_50_US, ITERATIONS_50_US, seconds))
            verdicts[name]["+1 %"].append(tool(ITERATIONS_50_US, ITERATIONS_50_US * 101 // 100, seconds))
            took_s[name] += time.monotonic() - begun_s
        progress("side by side" if seconds else "at their defaults", number + 1, tries)
    return [
        {
            "tool": name,
            "rule": (TOOLS[name].__doc__ or "").splitlines()[0],
            "tries": tries,
            "seconds_each": seconds or took_s[name] / tries / 2,
            "false_alarms": sum(v in {"slower", "faster"} for v in found["identical"]),
            "found_1_percent": found["+1 %"].count("slower"),
            "wrong_sign": found["+1 %"].count("faster"),
        }
        for name, found in verdicts.items()
    ]


def identical(tries: int, seconds: float) -> dict[str, Any]:
    """Comparisons of identical programs with perstep alone."""
    verdicts, errors, covered = [], [], 0
    for number in range(tries):
        arm = perstep.compare(
            {"a": work(ITERATIONS_50_US), "b": work(ITERATIONS_50_US)}, budget_s=seconds, precision=1e-9, seed=number
        )["b"].wall
        verdicts.append(arm.verdict.split(" (")[0])
        errors.append(abs(arm.change or 0.0))
        covered += arm.ci_low is not None and arm.ci_high is not None and arm.ci_low <= 0 <= arm.ci_high
        progress("identical", number + 1, tries)
    return {
        "tries": tries,
        "seconds_each": seconds,
        "false_verdicts": sum(v in {"slower", "faster"} for v in verdicts),
        "intervals_holding_0": covered,
        "median_error": median(errors),
        "verdicts": {v: verdicts.count(v) for v in sorted(set(verdicts))},
    }


def detection(workload: str, iterations: int, tries: int, budget_s: float) -> dict[str, Any]:
    """A true +1 %, until the interval is ± 0.3 % or the budget ends."""
    verdicts, rounds = [], []
    for number in range(tries):
        arms = {"a": work(iterations), "b": work(iterations * 101 // 100)}
        found = perstep.compare(arms, budget_s=budget_s, precision=THRESHOLD, threshold=THRESHOLD, seed=number)
        verdicts.append(found["b"].wall.verdict.split(" (")[0])
        rounds.append(found.rounds)
        progress(f"+1 % of {workload}", number + 1, tries)
    return {
        "workload": workload,
        "tries": tries,
        "budget_s": budget_s,
        "threshold": THRESHOLD,
        "found": verdicts.count("slower"),
        "median_rounds": median(rounds),
    }


SECTIONS: dict[str, Callable[[bool], Any]] = {
    "identical": lambda quick: identical(4 if quick else 200, 0.4),
    "side_by_side": lambda quick: side_by_side(1 if quick else 20, 0.8),
    "at_defaults": lambda quick: side_by_side(1 if quick else 10, None),
    "detection": lambda quick: [
        detection("50 µs", ITERATIONS_50_US, 2 if quick else 20, 30.0),
        detection("5 ms", 100 * ITERATIONS_50_US, 2 if quick else 20, 30.0),
    ],
}


def progress(what: str, done: int, tries: int) -> None:
    """A line on stderr now and then."""
    if done == tries or done % 10 == 0:
        print(f"{what}: {done} of {tries}", file=sys.stderr)


def main() -> None:
    """Measure and write benchmarks/results/real_clock.json."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--date", required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, help="measure these; the others stay as they are stored")
    options = parser.parse_args()
    quick = options.quick
    machine = describe()
    found = json.loads(options.out.read_text(encoding="utf-8")) if options.only else {}
    found |= {
        "date": options.date,
        "quick": quick,
        "machine": {"cpu": machine.cpu.model, "cores": machine.cpu.cores_logical, "identity": identity(machine)},
    }
    for name in options.only or SECTIONS:
        found[name] = SECTIONS[name](quick)
        options.out.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for row in [*found["side_by_side"], *found["at_defaults"]]:
        print(
            f"{row['tool']:24} false alarms {row['false_alarms']} of {row['tries']},"
            f" +1 % found {row['found_1_percent']} of {row['tries']}"
        )
    print(f"identical: {found['identical']['false_verdicts']} false of {found['identical']['tries']}")
    for row in found["detection"]:
        print(f"+1 % of {row['workload']}: found {row['found']} of {row['tries']}")


if __name__ == "__main__":
    main()
