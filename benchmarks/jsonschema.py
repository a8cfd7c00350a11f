"""What engines make of other people's JSON schemas: which they take, what they accept, how long they need.

FILE holds schemas with instances: a line an object of `name`, `schema`, `tests` (each `valid` and `data`), gzipped or
not, as MaskBench's; or a file or folder of JSON-Schema-Test-Suite (`optional` is left out). Nothing is fetched. Every
engine has a process of its own, started anew after a schema that went over its time or memory. Correctness is tested
byte by byte: an instance is accepted if each byte of its text is allowed and the text may end behind the last one. With
`--timings` the tokens are mistral-common's 131,072 and each text is read once: first passes, never a state twice on
purpose. Prints tables; `--write` enters them into a file of results under a name, without a text of FILE, and `--keep`
makes a run go on where it was stopped. `docs/generate.py` puts the tables into docs/automata.md.

    OMP_NUM_THREADS=1 python -P benchmarks/jsonschema.py FILE [--engines perstep llguidance] [--sample 100] [--timings]
"""

import argparse
import gzip
import json
import multiprocessing
import platform
import random
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from perstep.automata import Engine, Grammar, TokenAutomaton, Vocabulary, available, mask, prepare
from perstep.automata.engines.tables import TableEngine
from perstep.errors import InputError

OURS: dict[str, dict[str, Any]] = {
    "perstep": {},
    "perstep-open": {"undeclared": True},
    "perstep-lazy": {"engine": "table-lazy"},
    "perstep-table": {"engine": "table"},
}
"""Ways to call `automata.mask`; the others are engines by their own names."""

NUM_FIRST_LINES = 20


@dataclass
class Case:
    """A schema and its instances: the texts of each, and whether it validates."""

    name: str
    schema: Any
    tests: list[tuple[list[str], bool]]


@dataclass
class Result:
    """What an engine made of a schema; `wrong` names each text that was judged otherwise than the file says."""

    name: str
    refused: str = ""
    by: str = ""
    compile_s: float = 0.0
    valid: int = 0
    valid_accepted: int = 0
    invalid: int = 0
    invalid_rejected: int = 0
    tests_right: int = 0
    wrong: list[str] = field(default_factory=list)
    first_mask_ms: float | None = None
    step_us: list[float] = field(default_factory=list)


# Cases


def read_cases(path: Path, every_form: bool) -> list[Case]:
    """The cases of a file or folder; with `every_form` each instance also in the compact form."""
    if path.is_dir():
        files = [file for file in sorted(path.rglob("*.json")) if "optional" not in file.parts]
        return [case for file in files for case in _suite_cases(file, every_form)]
    if ".jsonl" in path.name:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
            return [_case(row["name"], row, every_form) for row in map(json.loads, lines)]
    return list(_suite_cases(path, every_form))


def _suite_cases(path: Path, every_form: bool) -> Iterator[Case]:
    default = {"draft7": "http://json-schema.org/draft-07/schema#", "draft4": "http://json-schema.org/draft-04/schema#"}
    draft = next((part for part in path.parts if part in default), None)
    for group in json.loads(path.read_text()):
        schema = group["schema"]
        if draft and isinstance(schema, dict) and "$schema" not in schema:
            group["schema"] = {"$schema": default[draft], **schema}  # as the suite says: the folder names the draft
        yield _case(f"{path.stem}: {group['description']}", group, every_form)


def _case(name: str, row: dict[str, Any], every_form: bool) -> Case:
    forms: list[dict[str, Any]] = [{}, {"separators": (",", ":")}] if every_form else [{}]
    tests = [
        (list(dict.fromkeys(json.dumps(test["data"], ensure_ascii=False, **form) for form in forms)), test["valid"])
        for test in row["tests"]
    ]
    return Case(name, row["schema"], tests)


# An engine in its own process


class Judge:
    """One engine over one vocabulary."""

    def __init__(self, name: str, timings: bool, flexible: bool) -> None:
        self.name = name
        self.policy = "flexible" if flexible else "fixed"
        self.encode: Any = None
        self.vocabulary = Vocabulary([*(bytes([byte]) for byte in range(256)), None], eos_ids=[256])
        if timings:
            self.vocabulary, self.encode = _tekken()
        if name not in OURS:
            self.prepared = prepare(name, self.vocabulary)
        elif timings:
            prepare("auto", self.vocabulary)  # once a vocabulary, as the others' set-up

    def judge(self, case: Case) -> Result:
        """Compile, and read every text."""
        result = Result(case.name)
        began, began_s = time.perf_counter_ns(), time.process_time()
        try:
            compiled = self._compiled(case)
        except InputError as error:
            result.refused = str(error)
            result.compile_s = time.process_time() - began_s
            return result
        result.compile_s = time.process_time() - began_s
        result.by = compiled.engine if isinstance(compiled, TokenAutomaton) else compiled.name
        if isinstance(compiled, Engine):
            compiled.fill()
            result.first_mask_ms = (time.perf_counter_ns() - began) / 1e6
        for texts, valid in case.tests:
            judged = [self._accepts(compiled, text, result) for text in texts]
            _count(result, texts, judged, valid)
        return result

    def _compiled(self, case: Case) -> TokenAutomaton | Engine:
        if self.name not in OURS:
            return self.prepared.build(Grammar(case.schema, self.policy))
        table = mask(self.vocabulary, schema=case.schema, whitespace=self.policy, **OURS[self.name])
        return table if self.encode is None else TableEngine(table, table.engine)

    def _accepts(self, compiled: TokenAutomaton | Engine, text: str, result: Result) -> bool:
        data = text.encode("utf-8", "surrogatepass")
        if isinstance(compiled, TokenAutomaton):
            return compiled.accepts(data)
        compiled.reset()
        now = time.perf_counter_ns
        for token in list(data) if self.encode is None else self.encode(text):
            began = now()
            row = compiled.fill()
            filled = now()
            allowed = row[token >> 5] >> (token & 31) & 1
            taking = now()
            if not allowed or not compiled.accept(token):
                return False
            if self.encode is not None:
                result.step_us.append((now() - taking + filled - began) / 1e3)
        eos = self.vocabulary.eos_ids[0]
        return bool(compiled.fill()[eos >> 5] >> (eos & 31) & 1)


def _tekken() -> tuple[Vocabulary, Any]:
    import mistral_common
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer

    tokenizer = Tekkenizer.from_file(Path(mistral_common.__file__).parent / "data" / "tekken_240911.json")
    return Vocabulary.from_tekken(tokenizer), lambda text: tokenizer.encode(text, bos=False, eos=False)


def _count(result: Result, texts: list[str], judged: list[bool], valid: bool) -> None:
    right = sum(accepted == valid for accepted in judged)
    if valid:
        result.valid += len(texts)
        result.valid_accepted += right
    else:
        result.invalid += len(texts)
        result.invalid_rejected += right
    result.tests_right += right == len(texts)
    verdict = "false accept" if not valid else "false reject"
    result.wrong += [f"{verdict}: {text[:300]}" for text, one in zip(texts, judged, strict=True) if one != valid]


def serve(name: str, timings: bool, flexible: bool, limit_mb: int, pipe: Connection) -> None:
    """Judge cases as they come, within `limit_mb` beyond what the engine itself needs."""
    judge = Judge(name, timings, flexible)
    if limit_mb:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + limit_mb * 2**20,) * 2)
    pipe.send("ready")
    while True:
        case = pipe.recv()
        try:
            pipe.send(judge.judge(case))
        except MemoryError:
            pipe.send(Result(case.name, refused=f"went over {limit_mb} MB"))
        except Exception as error:  # an engine's own error is a result
            pipe.send(Result(case.name, refused=f"raised {type(error).__name__}: {str(error)[:200]}"))


class Kept:
    """Results so far, a line each in a file, so that a run goes on where it was stopped."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        lines = path.read_text().splitlines() if path and path.exists() else []
        self._found = {
            (row["engine"], row["result"]["name"]): Result(**row["result"]) for row in map(json.loads, lines)
        }

    def get(self, engine: str, case: Case) -> Result | None:
        """What is known already."""
        return self._found.get((engine, case.name))

    def add(self, engine: str, result: Result) -> None:
        """Remember a result."""
        if self._path:
            with self._path.open("a") as lines:
                lines.write(json.dumps({"engine": engine, "result": asdict(result)}) + "\n")


def run_engine(name: str, cases: list[Case], args: argparse.Namespace, kept: Kept) -> list[Result]:
    """What an engine makes of every case, in a process that is started anew when it is lost."""
    context = multiprocessing.get_context("spawn")
    results: list[Result] = []
    worker: Any = None
    pipe: Any = None
    for number, case in enumerate(cases):
        known = kept.get(name, case)
        if known is not None:
            results.append(known)
            continue
        if number % 50 == 0:
            print(f"{name}: {number} of {len(cases)}", file=sys.stderr, flush=True)
        if worker is None:
            pipe, theirs = context.Pipe()
            worker = context.Process(
                target=serve, args=(name, args.timings, args.flexible, args.memory_mb, theirs), daemon=True
            )
            worker.start()
            theirs.close()
            pipe.recv()
        lost = ""
        pipe.send(case)
        try:
            if pipe.poll(args.seconds):
                results.append(pipe.recv())
            else:
                lost = f"took more than {args.seconds} s"
        except EOFError:
            lost = "its process died"
        if lost or results[-1].refused.startswith(("went over", "raised")):
            worker.kill()
            worker.join()
            worker = None
        if lost:
            results.append(Result(case.name, refused=lost))
        kept.add(name, results[-1])
    if worker is not None:
        worker.kill()
        worker.join()
    return results


# Tables


def percent(part: int, whole: int) -> str:
    """A share, or a dash of nothing."""
    return f"{100 * part / whole:.1f} %" if whole else "-"


def table_row(engine: str, results: list[Result], cases: list[Case]) -> dict[str, Any]:
    """One engine's line of the table of correctness."""
    taken = [result for result in results if not result.refused]
    return {
        "engine": engine,
        "compiled": percent(len(taken), len(results)),
        "by stack / table / llguidance": " / ".join(
            str(sum(result.by.startswith(kind) for result in taken)) for kind in ("stack", "table", "llguidance")
        ),
        "valid accepted": percent(sum(r.valid_accepted for r in taken), sum(r.valid for r in taken)),
        "invalid rejected": percent(sum(r.invalid_rejected for r in taken), sum(r.invalid for r in taken)),
        "schemas with a false accept": sum(r.invalid_rejected < r.invalid for r in taken),
        "fully right": percent(sum(not r.wrong for r in taken), len(results)),
        "tests right": f"{sum(r.tests_right for r in taken)} of {sum(len(case.tests) for case in cases)}",
        "most CPU s": f"{max((r.compile_s for r in results), default=0):.1f}",
    }


def timing_row(engine: str, results: list[Result], common: set[str]) -> dict[str, Any]:
    """One engine's line of the table of times, over the schemas that all engines take."""
    chosen = [result for result in results if result.name in common]
    first = [result.first_mask_ms for result in chosen if result.first_mask_ms is not None]
    steps = [step for result in chosen for step in result.step_us]
    if not first or not steps:
        return {"engine": engine, "schemas": len(first)}
    return {
        "engine": engine,
        "schemas": len(first),
        "first mask ms p50 / p99": " / ".join(f"{value:.1f}" for value in np.percentile(first, [50, 99])),
        "µs a token p50 / p99": " / ".join(f"{value:.1f}" for value in np.percentile(steps, [50, 99])),
        "mean": f"{np.mean(steps):.1f}",
        "tokens": len(steps),
    }


def print_table(rows: list[dict[str, Any]]) -> None:
    """A table in Markdown."""
    names = list(max(rows, key=len))
    print("| " + " | ".join(names) + " |")
    print("|" + "---|" * len(names))
    for row in rows:
        print("| " + " | ".join(str(row.get(name, "-")) for name in names) + " |")
    print()


def print_refusals(engine: str, results: list[Result]) -> None:
    """The commonest reasons, without places and values."""
    reasons = Counter(" ".join(r.refused.split(": ", 1)[-1].split()[:8]) for r in results if r.refused)
    print(f"{engine} refused {reasons.total()}:")
    for reason, times in reasons.most_common(NUM_FIRST_LINES):
        print(f"  {times:4} {reason}")
    print()


def main() -> None:
    """Read, run every engine, print, write."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="a .jsonl(.gz) of schemas with instances, or JSON-Schema-Test-Suite")
    parser.add_argument("--engines", nargs="+", default=[*OURS, *({"llguidance", "xgrammar"} & set(available()))])
    parser.add_argument("--sample", type=int, help="this many schemas, drawn with seed 0")
    parser.add_argument("--seconds", type=float, default=30.0, help="limit of a schema")
    parser.add_argument("--memory-mb", type=int, default=1024, help="limit of a schema; 0 for none")
    parser.add_argument("--timings", action="store_true", help="131,072 tokens, and the time of each step")
    parser.add_argument("--flexible", action="store_true", help="any JSON whitespace, and compact texts too")
    parser.add_argument("--show", action="store_true", help="print why schemas were refused and what was judged wrong")
    parser.add_argument("--source", default="", help="what FILE is, with its version, for the result")
    parser.add_argument("--write", type=Path, help="a file of results, in which this run's are entered")
    parser.add_argument("--under", default="maskbench", help="the name of this run's results in that file")
    parser.add_argument("--keep", type=Path, help="a file of results so far: a run that was stopped goes on there")
    args = parser.parse_args()
    cases = read_cases(args.file, every_form=args.flexible)
    if args.sample and args.sample < len(cases):
        cases = random.Random(0).sample(cases, args.sample)
    kept = Kept(args.keep)
    found = {engine: run_engine(engine, cases, args, kept) for engine in args.engines}
    table = [table_row(engine, results, cases) for engine, results in found.items()]
    print_table(table)
    times = []
    if args.timings:
        common = set.intersection(*({r.name for r in results if not r.refused} for results in found.values()))
        times = [timing_row(engine, results, common) for engine, results in found.items()]
        print_table(times)
    if args.show:
        for engine, results in found.items():
            print_refusals(engine, results)
            for result in results:
                print(
                    *(f"{engine} {result.name}: {line}" for line in result.wrong),
                    sep="\n",
                    end="\n" * bool(result.wrong),
                )
    if args.write:
        about = {
            "source": args.source,
            "schemas": len(cases),
            "instances": sum(len(case.tests) for case in cases),
            "policy": "flexible" if args.flexible else "fixed",
            "machine": platform.processor() or platform.machine(),
            "versions": {
                name: version(name) for name in ("perstep", "numpy", *({"llguidance", "xgrammar"} & set(found)))
            },
        }
        _write(args, {"about": about, "correctness" if not args.timings else "times": times or table})


def _write(args: argparse.Namespace, found: dict[str, Any]) -> None:
    """Enter results under their name; what the file holds otherwise stays."""
    whole = json.loads(args.write.read_text()) if args.write.exists() else {}
    whole[args.under] = found
    args.write.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
