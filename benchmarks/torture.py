"""Whether perstep loses rounds, shows wrong figures or fails with a traceback, whatever happens to it.

Eleven kinds of faults, at random instants and places from one seed: kills while a run is measured, resumed and
replaced; signals; a disk that fills; links in the place of a run's files; damaged runs; wrong command lines; Ctrl-C
from a process's first instants on; sweeps that are killed and resumed; damaged sweeps; locked predictions that are
killed or damaged. Prints a row for each and writes results/torture.json.

- lost: a finished round or cell, or an old run that --force had not replaced yet, is gone.
- wrong: a run that is not what was measured, a figure of a damaged run without a word, exit code 0 after a failure, a
  file outside of the run that was read or written, or no end.
- tracebacks: one on stderr, or exit code 70 (unexpected) or 1 (a regression, of which there is none here).

A child of this process runs each command, so that libraries are loaded once; Ctrl-C meets real processes.

    OMP_NUM_THREADS=1 nice -n 15 python -P benchmarks/torture.py --date 2026-01-31 [--fast]
"""

import argparse
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any

import matplotlib.pyplot  # noqa: F401 - loaded once, before children are made

from perstep.cli import run as command_line
from perstep.errors import PerstepError
from perstep.experiments.ledger import Sample
from perstep.machine import describe, identity
from perstep.report import Column, Table, to_text
from perstep.runs import MANIFEST, SAMPLES, open_run, read_samples
from perstep.sweeps.folder import SWEEP, read_sweep
from perstep.sweeps.queue import Outcome, attempts

RESULT = Path(__file__).parent / "results" / "torture.json"
STORED = Path(__file__).parents[1] / "tests" / "golden" / "ledger"
ROUNDS = 8
MEASURE = ("ledger", "-m", "mini", "-p", "4", "-n", "2", "--rounds", str(ROUNDS), "-q")
GRID = """experiment = "compare"
reference_every = 0
[options]
rounds = 1
arms = ["true", "true"]
[grid]
seed = "1-3"
"""
"""Three cells that take no time but that of their processes."""
TO_PREDICT = 'experiment = "ledger"\n[grid]\nbatch = [1]\nn = [4]\np = [8]\n'
LIMIT_S = 60.0
WAITED_S = 0.005
MOST_BYTES = 8 << 30
GOOD_CODES = (0, 2, 3, 4)
SHOWN_FAULTS = 5


@dataclass
class Row:
    """What became of one kind of fault; `faults` are the first, in words."""

    fault: str
    tried: int = 0
    lost: int = 0
    wrong: int = 0
    tracebacks: int = 0
    faults: list[str] = field(default_factory=list)

    def note(self, kind: str, what: str) -> None:
        """Count a fault."""
        setattr(self, kind, getattr(self, kind) + 1)
        if len(self.faults) < SHOWN_FAULTS:
            self.faults.append(f"{kind}: {what}")


@dataclass(frozen=True)
class Said:
    """What a command did; the code is negative for a signal and None for no end."""

    code: int | None
    out: str
    err: str


def child(
    tokens: tuple[str, ...],
    place: Path,
    *,
    sent: signal.Signals | None = None,
    after_s: float = 0.0,
    before: Callable[[], object] = lambda: None,
) -> Said:
    """A command in a child of this process.

    Args:
        tokens: of the command line.
        place: the current folder.
        sent: a signal to send.
        after_s: when to send it.
        before: called in the child first.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        pid = os.fork()
        if pid == 0:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            sys.stdout, sys.stderr = (open(number, "w", buffering=1) for number in (1, 2))  # noqa: PTH123, SIM115
            os.chdir(place)
            before()
            code = command_line(tokens)
            with suppress(OSError):
                sys.stdout.flush()
            os._exit(code)
        if sent is not None:
            time.sleep(after_s)
            os.kill(pid, sent)
        code = wait(pid)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
    return Said(code, *texts)


def wait(pid: int) -> int | None:
    """The exit code of a child; None if it had to be killed."""
    for _ in range(round(LIMIT_S / WAITED_S)):  # not by the clock, which goes on while all of this is stopped
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(WAITED_S)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def processor_s(pid: int) -> float:
    """What a process has had of the processors."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(ticks) for ticks in fields[11:13]) / os.sysconf("SC_CLK_TCK")


def judge(row: Row, said: Said, what: str, allowed: tuple[int, ...] = GOOD_CODES) -> None:
    """Count what no fault excuses: a traceback, an unexpected error, no end."""
    if "Traceback (most recent call last)" in said.err or said.code in (1, 70):
        row.note("tracebacks", f"{what}: {said.code} {said.err[-300:]}")
    elif said.code not in allowed:
        row.note("wrong", f"{what}: exit code {said.code} {said.err[-300:]}")


def found(folder: Path) -> tuple[str, str, int] | None:
    """A run's id, status and number of rounds; None where there is none."""
    try:
        run = open_run(folder)
        return run.manifest.run_id, run.status, len(read_samples(folder, Sample)[0])
    except PerstepError:
        return None


class Torture:
    """The trials: each method is a kind of fault and fills a row.

    Args:
        place: an empty folder.
        seed: of every choice.
        fast: half of the trials, of those that take little a quarter.
    """

    def __init__(self, place: Path, seed: int, *, fast: bool) -> None:
        self.place, self.rng = place, random.Random(seed)
        self.times, self.many = (1, 1) if fast else (2, 4)
        self.good = place / "good"
        began = time.monotonic()
        said = child((*MEASURE, "--out", "good"), place)
        self.takes_s = time.monotonic() - began
        if said.code not in (0, 4):
            raise SystemExit(f"no run to begin with: {said}")
        self.shown = {name: child((name, "good"), place).out for name in ("show",)}

    def copy(self, name: str = "run") -> Path:
        """A copy of the good run."""
        shutil.rmtree(self.place / name, ignore_errors=True)
        return Path(shutil.copytree(self.good, self.place / name))

    def kills(self, row: Row) -> None:
        """A run is killed and resumed until it is complete."""
        for _ in range(4 * self.times):
            folder = self.place / "killed"
            shutil.rmtree(folder, ignore_errors=True)
            rounds = 0
            for attempt in range(6):
                resumed = ("--resume",) if (folder / MANIFEST).exists() else ()
                kill = signal.SIGKILL if attempt < 5 else None
                said = child(
                    (*MEASURE, "--out", "killed", *resumed),
                    self.place,
                    sent=kill,
                    after_s=self.rng.random() * self.takes_s,
                )
                row.tried += kill is not None
                judge(row, said, f"attempt {attempt}", (0, 4, -signal.SIGKILL))
                now = found(folder)
                if (now[2] if now else 0) < rounds:
                    row.note("lost", f"{rounds} rounds, then {now}")
                rounds = now[2] if now else 0
            if now is None or now[1:] != ("complete", ROUNDS):
                row.note("wrong", f"after the last attempt: {now}")

    def forced_kills(self, row: Row) -> None:
        """A run is replaced with --force, killed, and resumed."""
        old = found(self.good)
        for _ in range(12 * self.times):
            row.tried += 1
            folder = self.copy()
            at_s = self.rng.random() * self.takes_s
            child((*MEASURE, "--out", "run", "--force"), self.place, sent=signal.SIGKILL, after_s=at_s)
            now = found(folder)
            if now is None or (now[0] == old[0] and now != old):
                row.note("lost", f"the old run is {now}")
                continue
            said = child((*MEASURE, "--out", "run", "--resume"), self.place)
            judge(row, said, "resume", (0, 4))
            if (after := found(folder)) is None or after != (now[0], "complete", ROUNDS):
                row.note("wrong", f"resumed: {now}, then {after}")

    def signals(self, row: Row) -> None:
        """INT ends with 130, TERM by itself, PIPE is not noticed; finished rounds stay."""
        codes = {signal.SIGINT: (130, 0, 4), signal.SIGTERM: (-signal.SIGTERM, 0, 4), signal.SIGPIPE: (0, 4)}
        for number in range(9 * self.times):
            row.tried += 1
            folder = self.place / "signalled"
            shutil.rmtree(folder, ignore_errors=True)
            sent = list(codes)[number % 3]
            # not before the child is in perstep's hands
            at_s = 0.02 + self.rng.random() * self.takes_s
            said = child((*MEASURE, "--out", "signalled"), self.place, sent=sent, after_s=at_s)
            judge(row, said, sent.name, codes[sent])
            now = found(folder)
            if now is not None and said.code in (0, 4) and now[1:] != ("complete", ROUNDS):
                row.note("wrong", f"{sent.name}: code {said.code}, {now}")
            if now is not None and child(("show", "signalled"), self.place).code not in (0, 2, 4):
                row.note("wrong", f"{sent.name}: {now} cannot be shown")
            if now is None and (folder / MANIFEST).exists():
                row.note("lost", f"{sent.name}: a run that cannot be read")

    def full_disks(self, row: Row) -> None:
        """No file may grow beyond some bytes; stdout is full."""
        old = found(self.good)
        commands = [("report", "run"), (*MEASURE, "--out", "run", "--force"), (*MEASURE, "--out", "new")]
        for number in range(9 * self.times):
            row.tried += 1
            folder, tokens = self.copy(), commands[number % 3]
            shutil.rmtree(self.place / "new", ignore_errors=True)
            most = self.rng.choice([0, 100, 2_000, 8_000, 12_000, 20_000, 50_000])
            # the streams are files too
            said = child((*tokens, "-o", "json"), self.place, before=lambda most=most: fill(most))
            judge(row, said, f"{tokens[0]} with {most} bytes")
            now = found(folder)
            if now is None or (now[0] == old[0] and now != old):
                row.note("lost", f"{tokens} with {most} bytes: {now}")
            if said.code == 0 and most < 2_000:
                row.note("wrong", f"{tokens} with {most} bytes ended well")
        for tokens in (("show", "good"), ("list", "--root", "."), ("export", "good", "-f", "csv"), ("--help",)):
            row.tried += 1
            said = child(tokens, self.place, before=lambda: os.dup2(os.open("/dev/full", os.O_WRONLY), 1))
            judge(row, said, f"{tokens} to a full device", (2,))

    def links(self, row: Row) -> None:
        """What a link in a run leads to is neither read nor written."""
        secret = b"a secret of somebody else's\n" * 9
        commands = [
            ("report", "run"), ("show", "run"), (*MEASURE, "--out", "run", "--resume"), ("gate", "good", "run"),
            (*MEASURE, "--out", "run", "--force"), ("export", "run", "-f", "csv", "--to", "exported"),
            (*MEASURE, "--out", "fresh", "--save-baseline", "b"), ("compare", "good", "run", "--save-baseline", "b"),
        ]  # fmt: skip
        names = [path.name for path in self.good.iterdir()]
        for number in range(24 * self.times):
            row.tried += 1
            folder, tokens = self.copy(), commands[number % len(commands)]
            outside = self.place / "outside"
            outside.write_bytes(secret)
            shutil.rmtree(self.place / "fresh", ignore_errors=True)
            for name in self.rng.sample(names, self.rng.randint(1, len(names))):
                (folder / name).unlink()
                (folder / name).symlink_to(outside)
            said = child(tokens, self.place)
            judge(row, said, f"{tokens[0]} {tokens[-1]}")
            if not outside.exists() or outside.read_bytes() != secret:
                row.note("wrong", f"{tokens} reached the file outside")
            copies = self.place / ".perstep" / "baselines"
            if any(path.is_file() and secret in path.read_bytes() for path in copies.rglob("*")):
                row.note("wrong", f"{tokens} copied the file outside")
            shutil.rmtree(copies, ignore_errors=True)

    def damages(self, row: Row) -> None:
        """A run is damaged in one place; it is refused, or said, and never hides another one."""
        shelf = self.place / "shelf"
        for number in range(60 * self.many):
            row.tried += 1
            folder = self.copy("shelf/0001-ledger")
            self.copy("shelf/0002-ledger")
            name = (SAMPLES, MANIFEST)[number % 2]
            how, content = damaged((folder / name).read_bytes(), self.rng)
            (folder / name).write_bytes(content)
            said = child(("show", "shelf/0001-ledger"), self.place)
            judge(row, said, f"show, {name} {how}")
            if said.code == 0 and said.out != self.shown["show"] and "note:" not in said.err:
                row.note("wrong", f"{name} {how}: other figures without a word")
            listed = child(("list", "--root", str(shelf)), self.place)
            judge(row, listed, f"list, {name} {how}", (0,))
            if "0002-ledger" not in listed.out:
                row.note("lost", f"{name} {how}: the other run is not listed")
            if number % 4 < 2:
                command = ("report", "export", "compare")[number // 4 % 3]
                more = {"export": ("-f", "pyperf"), "compare": ("good",)}.get(command, ())
                judge(row, child((command, "shelf/0001-ledger", *more), self.place), f"{command}, {name} {how}")

    def command_lines(self, row: Row) -> None:
        """Generated command lines, most of them wrong."""
        kept = digest(self.good)
        empty = self.place / "empty"
        for _ in range(60 * self.many):
            row.tried += 1
            shutil.rmtree(empty, ignore_errors=True)
            empty.mkdir()
            tokens = wrong_tokens(self.rng, str(self.good))
            said = child(tokens, empty, before=lambda: resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES)))
            judge(row, said, ascii(" ".join(tokens))[:200])
            if digest(self.good) != kept:
                row.note("lost", f"{tokens} changed a run")
                shutil.rmtree(self.good)
                child((*MEASURE, "--out", "good"), self.place)
                kept = digest(self.good)

    def ctrl_c(self, row: Row) -> None:
        """SIGINT to a process of its own, from its first instants on."""
        command = [sys.executable, "-m", "perstep", *MEASURE, "--out", "stopped"]
        for _ in range(8 * self.times):
            row.tried += 1
            folder = self.place / "stopped"
            shutil.rmtree(folder, ignore_errors=True)
            process = subprocess.Popen(
                command, cwd=self.place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            while processor_s(process.pid) < 0.05:  # Python itself says a traceback before perstep is called
                time.sleep(WAITED_S)
            time.sleep(3 * self.rng.random())
            os.kill(process.pid, signal.SIGINT)
            code = wait(process.pid)
            process.returncode = code  # it has been waited for
            out, err = process.communicate()
            judge(row, Said(code, out, err), "SIGINT", (0, 4, 130))
            if (folder / MANIFEST).exists() and found(folder) is None:
                row.note("lost", "a run that cannot be read")

    def sweeps(self, row: Row) -> None:
        """A sweep is killed and resumed until every cell is done, once."""
        (self.place / "grid.toml").write_text(GRID)
        for _ in range(2 * self.times):
            folder, done = self.place / "swept", set[str]()
            shutil.rmtree(folder, ignore_errors=True)
            for attempt in range(5):
                resumed = ("--resume",) if (folder / SWEEP).exists() else ()
                kill = signal.SIGKILL if attempt < 4 else None
                words = ("sweep", "grid.toml", "--out", "swept", "-q", *resumed)
                said = child(words, self.place, sent=kill, after_s=6 * self.takes_s * self.rng.random())
                row.tried += kill is not None
                judge(row, said, f"sweep, attempt {attempt}", (0, -signal.SIGKILL))
                now = cells_done(folder)
                if not done <= set(now):
                    row.note("lost", f"{len(done)} cells were done, then {len(now)}")
                done = set(now)
            if sorted(now.values()) != [1, 1, 1] or (folder / "sweep.csv").read_text().count("\n") != 4:
                row.note("wrong", f"after the last attempt: {now}")

    def sweep_damages(self, row: Row) -> None:
        """A file of a sweep is damaged, or lies elsewhere: it is refused or said, and never hides another cell."""
        (self.place / "grid.toml").write_text(GRID)
        whole, swept = self.place / "whole", self.place / "swept"
        child(("sweep", "grid.toml", "--out", "whole", "-q"), self.place)
        for number in range(15 * self.many):
            row.tried += 1
            shutil.rmtree(swept, ignore_errors=True)
            shutil.copytree(whole, swept)
            files = sorted(path for path in swept.rglob("*.json*") if path.is_file())
            path = swept / SWEEP if number % 5 == 0 else self.rng.choice(files)
            outside = self.place / "outside"
            outside.write_bytes(path.read_bytes())
            how, content = damaged(path.read_bytes(), self.rng)
            if number % 4 == 3:
                how = "elsewhere"
                path.unlink()
                path.symlink_to(outside)
            else:
                path.write_bytes(content)
            said = child(("sweep", "grid.toml", "--out", "swept", "--resume", "-q", "-o", "csv"), self.place)
            what = f"{path.relative_to(swept)} {how}"
            judge(row, said, what, (0, 2, 4))
            if path.name != SWEEP and said.out.count(",done,") < len(cells_done(whole)) - 1:
                row.note("lost", f"{what}: {said.out.count(',done,')} cells are left")
            judge(row, child(("worker", "swept", "-q"), self.place), f"worker, {what}", (0, 2))
            judge(row, child(("predict", "--arch", "mini", "--from", "swept"), self.place), f"predict, {what}", (2,))

    def locks(self, row: Row) -> None:
        """A prediction is locked and killed, or its lock or a run is damaged: there is a whole lock, or none."""
        runs = self.place / "to-fit-on"
        (self.place / "predict.toml").write_text(TO_PREDICT)
        for number in range(8):  # of a quiet machine: ceilings of a busy one are left out
            shutil.copytree(STORED, runs / f"{number:04d}-ledger")
        words = ("predict", "--lock", "lock.json", "--grid", "predict.toml", "--from", "to-fit-on", "-q")
        lock = self.place / "lock.json"
        said = child(words, self.place)
        judge(row, said, "a first lock", (0,))
        whole = lock.read_bytes()
        judge(row, child(words, self.place), "a second lock", (2,))
        for number in range(10 * self.many):
            row.tried += 1
            if number % 2:
                how, content = damaged(whole, self.rng)
                lock.write_bytes(content)
                said = child(("predict", "--check", "lock.json", "--from", "to-fit-on"), self.place)
                judge(row, said, f"check of a lock with {how}", (2,))
                continue
            lock.unlink(missing_ok=True)
            child(words, self.place, sent=signal.SIGKILL, after_s=self.rng.random())
            if lock.exists() and json.loads(lock.read_bytes()).keys() != json.loads(whole).keys():
                row.note("wrong", "half a lock")
            name = self.rng.choice((MANIFEST, "results.json"))
            path = runs / "0003-ledger" / name
            kept = path.read_bytes()
            how, content = damaged(kept, self.rng)
            path.write_bytes(content)
            said = child(("predict", "--arch", "mini", "-c", "9", "--from", "to-fit-on"), self.place)
            judge(row, said, f"predict from a run whose {name} has {how}", (0, 2))
            path.write_bytes(kept)


def cells_done(folder: Path) -> dict[str, int]:
    """Cell -> how often it was done; nothing where there is no sweep."""
    try:
        cells = read_sweep(folder).cells
    except PerstepError:
        return {}
    tries = {cell.key: attempts(folder / "cells" / cell.key) for cell in cells}
    ends = {key: [one.end.outcome for one in of_cell if one.end is not None] for key, of_cell in tries.items()}
    return {key: count for key, outcomes in ends.items() if (count := outcomes.count(Outcome.DONE))}


def fill(most: int) -> None:
    """Let no file of this process grow beyond so many bytes, except its streams, which go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


def digest(folder: Path) -> str:
    """Of all files of a folder but its lock."""
    files = sorted(path for path in folder.iterdir() if path.name != ".lock")
    return hashlib.sha256(b"".join(path.name.encode() + path.read_bytes() for path in files)).hexdigest()


def damaged(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    """A file with one damage, and which."""
    lines = content.splitlines(keepends=True)
    at, line = rng.randrange(len(content)), rng.randrange(len(lines))
    ways: dict[str, Callable[[], bytes]] = {
        "a bit": lambda: content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :],
        "cut": lambda: content[:at],
        "a line twice": lambda: b"".join([*lines[: line + 1], *lines[line:]]),
        "a line less": lambda: b"".join([*lines[:line], *lines[line + 1 :]]),
        "lines moved": lambda: b"".join(rng.sample(lines, len(lines))),
        "all lines twice": lambda: content * 2,
        "bytes inside": lambda: content[:at] + rng.randbytes(8) + content[at:],
        "a NUL": lambda: content[:at] + b"\\u0000" + content[at:],
        "a control": lambda: content.replace(b'"', b'"\\u001b]0;x\\u0007', 3),
        "deep": lambda: content[:at] + b"[" * 1_000_000 + content[at:],
        "another type": lambda: other_type(content, rng),
    }  # fmt: skip
    how = rng.choice(list(ways))
    return how, ways[how]()


def other_type(content: bytes, rng: random.Random) -> bytes:
    """A field of the JSON with a value of another type."""
    lines = content.splitlines() if content.startswith(b'{"') else [content]
    number = rng.randrange(len(lines))
    value = json.loads(lines[number])
    places = list(containers(value))
    inside = rng.choice(places)
    key = rng.choice(list(inside) if isinstance(inside, dict) else range(len(inside)))
    inside[key] = rng.choice([None, -1, 10**30, "x", [], {}, True, [[[]]], {"a": {"b": []}}, 1e308, "\x1b[2J"])
    lines[number] = json.dumps(value).encode()
    return b"\n".join(lines) + b"\n"


def containers(value: Any) -> Iterator[Any]:
    """Every object and list within a value that holds something."""
    if isinstance(value, (dict, list)) and value:
        yield value
        for below in value.values() if isinstance(value, dict) else value:
            yield from containers(below)


COMMANDS = (
    "ledger", "mask", "cache", "ops", "depth", "experts", "context", "output", "generate", "compare", "gate", "list",
    "show", "report", "export", "machine", "selftest", "watch", "fix", "sweep", "worker", "predict", "completion", "",
    "nothing",
)  # fmt: skip
OPTIONS = (
    "-m", "--model", "-p", "-n", "-b", "-t", "--threads", "--seed", "--rounds", "--budget", "--precision", "--arch",
    "--layers", "--prompt", "--out", "--resume", "--force", "-o", "--baseline", "--save-baseline", "--device",
    "--dtype", "--backend", "--fail-on", "--format", "--to", "--root", "--schema", "--vocab", "--context", "--live",
    "--python", "--strict", "--traceback", "--bogus", "--", "-q", "--threshold", "--temperature", "--top-p", "--top-k",
    "--detail", "--grid", "--lock", "--check", "--validate", "--from", "--machine", "--fleet", "--trace", "--step",
    "--loop", "--inside", "--history", "--share", "--raw", "--html", "--tag", "--executor", "--address", "--keep-text",
)  # fmt: skip
VALUES = (
    "", "0", "-1", "1e9", "8.7", "nan", "inf", "-inf", "99999999999999999999", "9" * 5000, "abc", "\x1b[31m", "a\0b",
    "../..", "/", "/dev/zero", "/dev/null", "/proc/self/mem", "missing", "ü" * 300, "\udcff", "1,2,x", "1-", "9-1",
    "1-9*0", "-", "--", "$(x)", "a b", "100%", "0%", "1%x", "None", "[]", "{}", "mini/..", "cuda", "mps:9", "float8",
    "step:", ":5%", "step:-5%", "step:5%", "~", "*", "NaN", "1_000", "٣", "0x10", "1e400", "json", "md", "csv", "yaml",
)  # fmt: skip


def wrong_tokens(rng: random.Random, run: str) -> tuple[str, ...]:
    """A command, some words and some options; where it is right by chance it measures for a short time."""
    command = rng.choice(COMMANDS)
    words = [rng.choice((*VALUES, run)) for _ in range(rng.randrange(3))] if rng.random() < 0.5 else []
    options = []
    for _ in range(rng.randint(1, 3)):
        options.append(rng.choice(OPTIONS))
        if rng.random() < 0.85:
            options.append(rng.choice(VALUES))
    short = ["--budget", "0.1s"] if rng.random() < 0.5 and command != "selftest" else []
    return tuple(token for token in (command, *words, *options, *short))


KINDS = (
    "kills", "forced_kills", "signals", "full_disks", "links", "damages", "command_lines", "ctrl_c", "sweeps",
    "sweep_damages", "locks",
)  # fmt: skip


def main() -> int:
    """The number of faults found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--date", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--fast", action="store_true", help="half of the trials or less, about a minute of processor time"
    )
    parser.add_argument("--only", help="one kind of fault")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    machine = describe()
    rows = []
    with tempfile.TemporaryDirectory(prefix="perstep-") as place:
        os.environ["PERSTEP_CACHE_DIR"] = str(Path(place) / "cache")
        torture = Torture(Path(place), options.seed, fast=options.fast)
        for name in KINDS:
            if options.only in (None, name):
                row, began = Row(name.replace("_", " ")), time.monotonic()
                getattr(torture, name)(row)
                rows.append(row)
                print(f"{name}: {time.monotonic() - began:.0f} s, {row}", file=sys.stderr)
    result = {
        "schema_version": 1, "date": options.date, "seed": options.seed, "fast": options.fast, "commit": commit(),
        "machine": {"cpu": machine.cpu.model, "cores": machine.cpu.cores_logical, "identity": identity(machine)},
        "rows": [asdict(row) for row in rows],
    }  # fmt: skip
    options.out.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(to_text(table(rows)), end="")
    return min(sum(row.lost + row.wrong + row.tracebacks for row in rows), 100)


def table(rows: Sequence[Row]) -> Table:
    """A row a kind of fault."""
    names = ("fault", "tried", "lost", "wrong", "tracebacks")
    columns = [Column(name, attrgetter(name), words=name == "fault") for name in names]
    return Table("What perstep does with faults", columns, rows)


def commit() -> str:
    """Of the repository that this file lies in."""
    asked = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
