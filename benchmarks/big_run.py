"""How long a run of ten million step samples takes to read and summarise, and in how much memory.

Makes a synthetic `ledger` run (64-token prompt, 64 new tokens, thirteen decode parts: numbers in the file,
a column a part, add up to the count asked for), then runs `perstep show` and `perstep report` on it in
processes of their own and writes wall time and peak RSS to `results/big_run.json`. The numbers in the
run are drawn at random; only reading and analysing are measured.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import numpy as np

from perstep.experiments.conditions import describe_machine
from perstep.experiments.ledger import Conditions, Plan, Workload
from perstep.experiments.ledger.samples import ARMS, Bounded
from perstep.machine import NoiseProbe
from perstep.measure import WarmUp
from perstep.runs import SAMPLES, Manifest, RunWriter

DECODE_PARTS = (
    "embed", "norm", "attn.qkv", "attn.rope", "kv.append", "attn.scores", "attn.softmax", "attn.pv", "attn.out",
    "mlp", "lm_head", "sample", "stop",
)  # fmt: skip
PREFILL_PARTS = ("attn.mask.build", "attn.mask.apply", *DECODE_PARTS)
DECODE_STEPS = 63
LIMIT_S, LIMIT_BYTES = 5.0, 1_000_000_000


def columns(rng: np.random.Generator, steps: int, parts: tuple[str, ...]) -> dict[str, object]:
    """One pass: parts of 1 to 60 µs, a residual, and the step that they add up to."""
    ns = {name: rng.integers(1_000, 60_000, steps) for name in parts}
    residual = rng.integers(500, 5_000, steps)
    return {
        "step_ns": (sum(ns.values()) + residual).tolist(),
        "parts": {name: x.tolist() for name, x in ns.items()},
        "residual_ns": residual.tolist(),
        "marks": dict.fromkeys(parts, steps),
    }


def a_round(rng: np.random.Generator, number: int, noise: object) -> dict[str, object]:
    """A balanced block of four passes."""
    passes = []
    for arm in ("plain", "marked", "marked", "plain"):
        kinds = {
            "prefill": columns(rng, 1, PREFILL_PARTS),
            "decode": columns(rng, DECODE_STEPS, DECODE_PARTS),
        }
        if arm == "plain":
            kinds = {kind: {"step_ns": found["step_ns"]} for kind, found in kinds.items()}
        passes.append({"arm": arm, "differing_choices": 0, "kinds": kinds})
    return {"round": number, "passes": passes, "noise": noise}


def make_run(folder: Path, numbers: int) -> int:
    """Write a run with at least so many step numbers; how many rounds it has."""
    manifest = Manifest(
        experiment="ledger",
        plan=msgspec.to_builtins(Plan()),
        workload=msgspec.to_builtins(
            Workload(
                token_ids_sha256="", model_config_sha256="", prompt_tokens=64, new_tokens=64, batch=1, dtype="float32",
                device="cpu", threads=1, temperature=0.0, top_k=0, top_p=1.0,
            )
        ),
        model={"name": "synthetic"},
        conditions=msgspec.to_builtins(
            Conditions(
                arms=list(ARMS), order="", discarded="", end_tokens="", garbage_collector="off", mark_ns=100.0,
                precision=0.005, warm_up=WarmUp(0, steady=True, rule="", reason=""), bounds=Bounded(),
            )
        ),
        boundaries=dict.fromkeys(PREFILL_PARTS, "synthetic"),
    )  # fmt: skip
    describe_machine(manifest, 1)
    probe = NoiseProbe()
    probe.start()
    noise = probe.stop()
    rng = np.random.default_rng(0)
    a_pass = DECODE_STEPS * (len(DECODE_PARTS) + 2) + len(PREFILL_PARTS) + 2
    rounds = -(-numbers // (2 * (a_pass + DECODE_STEPS + 1)))
    # A few hundred distinct rounds, repeated: making ten million numbers is not what is measured.
    distinct = [a_round(rng, number, noise) for number in range(min(rounds, 256))]
    with RunWriter(folder, manifest) as writer:
        for number in range(rounds):
            writer.append({**distinct[int(rng.integers(len(distinct)))], "round": number})
    return rounds


def measure(command: str, folder: Path) -> dict[str, float]:
    """Wall time and peak RSS of one perstep command."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "perstep", command, str(folder)], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"perstep {command} ended with {os.waitstatus_to_exitcode(status)}")
    return {
        "wall_s": round(time.perf_counter() - began, 3),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 3),
        "peak_rss_bytes": usage.ru_maxrss * 1024,
    }


def main() -> None:
    """Make the run, measure, write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--numbers", type=int, default=10_000_000)
    numbers = parser.parse_args().numbers
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        rounds = make_run(folder, numbers)
        samples_bytes = (folder / SAMPLES).stat().st_size
        result = {
            "numbers": numbers,
            "rounds": rounds,
            "samples_bytes": samples_bytes,
            "limit_s": LIMIT_S,
            "limit_bytes": LIMIT_BYTES,
            "show": measure("show", folder),
            "report": measure("report", folder),
        }
    text = json.dumps(result, indent=2)
    (Path(__file__).parent / "results" / "big_run.json").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
