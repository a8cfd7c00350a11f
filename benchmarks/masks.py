"""What token masks cost, all engines interleaved in one process: to build, to fill, to apply.

Over the real 131,072 tokens of mistral-common, one thread, garbage collector off. Every round visits every arm once,
in turning order; ratios are paired inside rounds (`perstep.stats`). Builds are fresh every time. Fill and accept run
over recorded tokens of valid objects, never twice in one state, with a first pass (rows are made) apart from later
ones, of which the first steps after each switch of engines are dropped. Logits are copied anew before every apply,
outside the clock, and rows change from step to step. Engines that are not installed are left out and named. Prints
tables and writes results/masks.json.

    OMP_NUM_THREADS=1 python -P benchmarks/masks.py [--quick] [--lengths 1 5 30 300] [--skip outlines]
"""

import argparse
import copy
import gc
import json
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import mistral_common
import numpy as np
from mistral_common.tokens.tokenizers.tekken import Tekkenizer

from perstep import stats
from perstep.automata import (
    ENGINES,
    DiskCache,
    Engine,
    Grammar,
    Row,
    Vocabulary,
    apply,
    available,
    compile,  # noqa: A004
    json_schema,
    prepare,
)
from perstep.automata.rows import RowStore
from perstep.automata.trie import build_trie

RESULT = Path(__file__).parent / "results" / "masks.json"
DENSITIES = (8, 4_000, 60_000, 127_700)
NUM_DROPPED = 4  # steps after each switch between engines, in later passes
now_ns = time.perf_counter_ns
Table = list[dict[str, Any]]


def timed_ns(work: Callable[[], object]) -> int:
    """How long one call takes."""
    start = now_ns()
    work()
    return now_ns() - start


def interleave(arms: dict[str, Callable[[], int]], rounds: int) -> np.ndarray:
    """The cost of each arm in each round, [rounds, arms]; the order turns from round to round."""
    names = list(arms)
    costs = np.zeros((rounds, len(names)))
    for number in range(-1, rounds):  # one round before, not counted
        for place in range(len(names)):
            arm = (place + number) % len(names)
            costs[max(number, 0), arm] = arms[names[arm]]()
    return costs


def as_table(costs: np.ndarray, names: list[str], reference: str) -> Table:
    """Median, quartiles and the paired ratio to the reference, one line an arm, in microseconds."""
    changes = stats.paired_changes(costs, reference=names.index(reference)) if len(names) > 1 else {}
    rows = []
    for arm, name in enumerate(names):
        change = changes.get(arm)
        quartiles = np.percentile(costs[:, arm], [25, 50, 75]) / 1e3
        rows.append(
            {
                "arm": name,
                "median_us": float(quartiles[1]),
                "q25_us": float(quartiles[0]),
                "q75_us": float(quartiles[2]),
                f"over_{reference}": None if change is None or change.estimate is None else 1 + change.estimate,
                "ratio_low": None if change is None or change.ci_low is None else 1 + change.ci_low,
                "ratio_high": None if change is None or change.ci_high is None else 1 + change.ci_high,
                "rounds": len(costs),
            }
        )
    return rows


# Building


def vocabulary_costs(vocabulary: Vocabulary, folder: Path, rounds: int) -> Table:
    """The trie: built, and read from disk."""
    cache = DiskCache(folder)

    def fresh() -> Vocabulary:
        made = copy.copy(vocabulary)
        made.__dict__.pop("trie", None)
        return made

    cache.trie(fresh())
    arms = {
        "built": lambda: timed_ns(lambda: build_trie(vocabulary.tokens)),
        "from disk": lambda: _timed_with(fresh(), cache.trie),
    }
    return as_table(interleave(arms, rounds), list(arms), "built")


def _timed_with(argument: Any, work: Callable[[Any], object]) -> int:
    return timed_ns(lambda: work(argument))


def first_mask_costs(
    schema: dict[str, Any], vocabulary: Vocabulary, prepared: dict[str, Any], folder: Path, rounds: int
) -> Table:
    """From the schema to the first mask, everything for the grammar built anew."""
    cache = DiskCache(folder)
    table = cache.schema_table(schema, vocabulary)
    table.bits(table.start)

    def lazy() -> None:
        made = compile(json_schema(schema), vocabulary, lazy=True)
        made.bits(made.start)

    def eager() -> None:
        made = compile(json_schema(schema), vocabulary)
        made.bits(made.start)

    def from_disk() -> None:
        made = cache.schema_table(schema, vocabulary)
        made.bits(made.start)

    arms: dict[str, Callable[[], int]] = {
        "lazy": lambda: timed_ns(lazy),
        "from disk": lambda: timed_ns(from_disk),
        "eager": lambda: timed_ns(eager),
    }
    for name, kind in prepared.items():
        if name not in ("table", "table-lazy"):
            arms[name] = lambda kind=kind: timed_ns(lambda: kind.build(Grammar(schema)).fill())  # type: ignore[misc]
    found = as_table(interleave(arms, rounds), list(arms), "lazy")
    stored = sum(path.stat().st_size for path in folder.glob("schema-*.npz"))
    sizes = {
        "states": table.num_states,
        "classes": table.num_classes,
        "rows": table.num_rows,
        "resident_bytes": table.nbytes,
        "stored_bytes": stored,
    }
    return [{**row, **(sizes if row["arm"] == "eager" else {})} for row in found]


# Filling and accepting


def traces_of(schema: dict[str, Any], vocabulary: Vocabulary, count: int) -> list[list[int]]:
    """Tokens of valid objects, ended; letters and spaces only, which every engine writes alike."""
    rng = random.Random(0)
    ids = {token: number for number, token in enumerate(vocabulary.tokens) if token}
    properties = schema["properties"]
    found = []
    for _ in range(count):
        value = {name: rng.choice(properties[name]["enum"]) for name in ("verb", "tense", "person")}
        if rng.random() < 0.8:
            value["spanish"] = "".join(rng.choices("aeiou rstlnéñ", k=rng.randint(1, 30)))
        data, at, tokens = json.dumps(value, ensure_ascii=False).encode(), 0, []
        while at < len(data):
            end = next(end for end in range(min(len(data), at + 40), at, -1) if data[at:end] in ids)
            tokens.append(ids[data[at:end]])
            at = end
        found.append([*tokens, vocabulary.eos_ids[0]])
    return found


def replay_ns(engine: Engine, trace: list[int]) -> list[int]:
    """Fill and accept of every step of one text, less what reading the clock takes."""
    engine.reset()
    fill, accept, times = engine.fill, engine.accept, []
    for token in trace:
        start = now_ns()
        fill()
        taken = accept(token)
        times.append(now_ns() - start)
        if not taken:
            raise SystemExit(f"{engine.name} refused token {token} of a valid object")
    return times


def step_costs(engines: dict[str, Engine], traces: list[list[int]], passes: int) -> Table:
    """Percentiles over steps; engines take turns at every text."""
    pair_ns = float(np.median([timed_ns(lambda: None) for _ in range(1000)]))
    times: dict[tuple[str, bool], list[int]] = {(name, first): [] for name in engines for first in (True, False)}
    names = list(engines)
    for number in range(passes):
        for place, trace in enumerate(traces):
            for turn in range(len(names)):
                name = names[(turn + place) % len(names)]
                found = replay_ns(engines[name], trace)
                times[name, number == 0] += found[NUM_DROPPED:] if number else found
    rows = []
    for (name, first), found in times.items():
        values = np.maximum(np.array(found) - pair_ns, 0) / 1e3
        row = {"arm": name, "pass": "first" if first else "later", "steps": len(values), "mean_us": values.mean()}
        row |= {f"p{p}_us": np.percentile(values, p) for p in (50, 90, 99)} | {"max_us": values.max()}
        rows.append({key: float(v) if isinstance(v, np.floating) else v for key, v in row.items()})
    return rows


# Applying


def apply_arms(rows: list[Row], batch: int, logits: Any, source: Any) -> dict[str, Callable[[], int]]:
    """Ours and the appliers of the engines that are installed, on the same rows; each call is another step."""
    import torch

    bits = [torch.from_numpy(np.array(row.bits)) for row in rows]
    stacked = [torch.stack([bits[(i + b) % len(rows)] for b in range(batch)]) for i in range(len(rows))]
    step = [0]

    def arm(work: Callable[[int], object]) -> Callable[[], int]:
        def once() -> int:
            step[0] += 1
            number = step[0] % len(rows)
            logits.copy_(source)
            return timed_ns(lambda: work(number))

        return once

    mine = [[rows[(i + b) % len(rows)] for b in range(batch)] for i in range(len(rows))]
    arms = {"perstep": arm(lambda i: apply(logits, mine[i]))}
    if "llguidance" in available():
        from llguidance.torch import apply_token_bitmask_inplace as llguidance_apply

        arms["llguidance.torch"] = arm(lambda i: llguidance_apply(logits, stacked[i]))
    from outlines_core.kernels.torch import _apply_token_bitmask_inplace_kernel as outlines_apply

    arms["outlines kernel"] = arm(lambda i: outlines_apply(logits, stacked[i]))
    if "xgrammar" in available():
        from xgrammar import apply_token_bitmask_inplace as xgrammar_apply

        arms["xgrammar"] = arm(lambda i: xgrammar_apply(logits, stacked[i]))
    bools = [torch.from_numpy(~np.stack([row.mask() for row in each])) for each in mine[:8]]
    arms["masked_fill_"] = arm(lambda i: logits.masked_fill_(bools[i % len(bools)], -torch.inf))
    return arms


def check_apply(arms: dict[str, Callable[[], int]], logits: Any, rounds: int) -> None:
    """Every arm leaves the same number of finite logits."""
    import torch

    for name, once in arms.items():
        counts = set()
        for _ in range(rounds):
            once()
            counts.add(int(torch.isfinite(logits).sum()))
        if len(counts) != 1:
            raise SystemExit(f"{name} allows {counts} tokens")


def apply_costs(size: int, rounds: int) -> Table:
    """Every density, for one row, a batch of different rows, and a batch in one state: the cost of one apply."""
    import torch

    torch.set_num_threads(1)
    found: Table = []
    for batch, num_rows in ((1, 12), (32, 40), (32, 1)):
        source = torch.randn(batch, size)
        logits = source.clone()
        for count in DENSITIES:
            rng, store = np.random.default_rng(count), RowStore(2**30)
            masks = [rng.permutation(size) < count for _ in range(num_rows)]
            rows = [Row(size, count, lambda mask=mask: mask, store) for mask in masks]  # type: ignore[misc]
            arms = apply_arms(rows, batch, logits, source)
            check_apply(arms, logits, 3)
            costs = interleave(arms, rounds if batch == 1 else max(rounds // 4, 20))
            about = {"batch": batch, "rows": "one" if num_rows == 1 else "different", "allowed": count}
            found += [{**about, **row} for row in as_table(costs, list(arms), "perstep")]
    return found


def show(title: str, rows: Table) -> None:
    """Print a table; numbers to three digits."""
    print(f"\n{title}")
    names = [name for name in rows[0] if name not in ("rounds", "q25_us", "q75_us")]
    print("  ".join(f"{name:>16}" for name in names))
    for row in rows:
        cells = (row.get(name) for name in names)
        print("  ".join(f"{c:>16.4g}" if isinstance(c, float) else f"{'' if c is None else c!s:>16}" for c in cells))


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="a look of a minute, not a result")
    parser.add_argument("--lengths", type=int, nargs="+", default=[1, 5, 10, 30, 100, 300], help="maxLength swept")
    parser.add_argument("--skip", nargs="*", default=[], help="engines to leave out (outlines builds for seconds)")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    builds, applies, objects = (3, 20, 10) if options.quick else (20, 200, 40)

    data = Path(mistral_common.__file__).parent / "data" / "tekken_240911.json"
    vocabulary = Vocabulary.from_tekken(Tekkenizer.from_file(data))
    schema = json.loads((files("perstep") / "data" / "conjugation_schema.json").read_text())
    engines = [n for n in available() if not n.startswith("naive") and n not in options.skip]
    load_before = os.getloadavg()[0]
    gc.collect()
    gc.disable()
    with tempfile.TemporaryDirectory() as folder:
        result: dict[str, Any] = {"schema_version": 1, "vocabulary": vocabulary.size, "engines": engines}
        result["left_out"] = [name for name in ENGINES if name not in engines]
        result["trie"] = vocabulary_costs(vocabulary, Path(folder) / "trie", builds)
        show("The vocabulary's trie", result["trie"])
        prepared = {name: prepare(name, vocabulary) for name in engines}
        result["setup_ms"] = {name: kind.setup_ns / 1e6 for name, kind in prepared.items()}
        result["first_mask"] = []
        quick_to_build = {name: kind for name, kind in prepared.items() if name != "outlines"}
        for length in options.lengths:
            longer = copy.deepcopy(schema)
            longer["properties"]["spanish"]["maxLength"] = length
            # xgrammar and outlines take seconds where the string is long; they are shown at the schema's own 30.
            chosen = prepared if length == 30 else {n: k for n, k in quick_to_build.items() if n != "xgrammar"}
            rounds = builds if "outlines" not in chosen else max(builds // 4, 3)
            rows = first_mask_costs(longer, vocabulary, chosen, Path(folder) / str(length), rounds)
            result["first_mask"] += [{"maxLength": length, **row} for row in rows]
            show(f"Time to first mask, maxLength {length}", rows)
        built = {name: kind.build(Grammar(schema)) for name, kind in prepared.items()}
        traces = traces_of(schema, vocabulary, objects)
        result["steps"] = step_costs(built, traces, 3)
        show("Fill and accept, a step", result["steps"])
    result["apply"] = apply_costs(vocabulary.size, applies)
    show("Apply", result["apply"])
    gc.enable()
    result["machine"] = {
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load_before": load_before,
        "load_after": os.getloadavg()[0],
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
    if not options.quick:
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(f"\nwritten to {options.out}", file=sys.stderr)


if __name__ == "__main__":
    main()
