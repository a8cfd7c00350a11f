"""pyperf's JSON: one benchmark a cost, one value a round, in seconds per step.

The round is the unit of replication, so a value is the mean of a round's steps (pyperf's `loops`) and never a single
step; all rounds are one pyperf run, because one process measured them. Source: the file format of pyperf 2 (`version`
1.0, `benchmarks`, `runs`, `values`). pyperf takes no value of 0: a part that took no time in some round is left out,
and named in the metadata, rather than its rounds chosen.
"""

from collections.abc import Iterator

import msgspec

from perstep._json import Json
from perstep.report.export.source import Source

_VERSION = "1.0"


def to_pyperf(source: Source) -> Iterator[bytes]:
    """The run as a pyperf suite."""
    means = source.round_means_ns()
    costs = {name: ns for name, (ns, _) in means.items()}
    steps = {name: count for name, (_, count) in means.items()}
    left_out = [name for name, ns in costs.items() if not (ns > 0).all()]
    metadata = _metadata(source)
    if left_out:
        metadata["perstep_left_out"] = f"{', '.join(left_out)}: 0 ns in some round"
    date = source.manifest.started_at.replace("T", " ").split("+")[0]
    suite = {
        "version": _VERSION,
        "metadata": metadata,
        "benchmarks": [
            {
                "metadata": {"name": name, "loops": steps[name]},
                "runs": [{"metadata": {"date": date} if date else {}, "values": (ns / 1e9).tolist()}],
            }
            for name, ns in costs.items()
            if name not in left_out
        ],
    }
    yield msgspec.json.encode(suite) + b"\n"


def _metadata(source: Source) -> dict[str, Json]:
    """Facts under pyperf's own names where it has one; only those that are known."""
    manifest, machine = source.manifest, source.manifest.machine
    software, cpu, host = (machine.get(name, {}) for name in ("software", "cpu", "host"))
    facts = {
        "unit": "second",
        "description": f"mean time per step of a round of {source.subject}, measured by perstep",
        "perstep_version": manifest.perstep_version,
        "perstep_run": source.name,
        "perstep_experiment": manifest.experiment,
        "python_version": software.get("python"),
        "python_implementation": software.get("implementation"),
        "platform": software.get("os"),
        "cpu_model_name": cpu.get("model"),
        "cpu_count": cpu.get("cores_logical"),
        "load_avg_1min": host.get("load_average_1min"),
        **{f"workload_{name}": value for name, value in manifest.workload.items()},
        **{f"version_{name}": version for name, version in software.get("packages", {}).items()},
    }
    return {name: value for name, value in facts.items() if isinstance(value, (int, float)) or _is_known(value)}


def _is_known(value: object) -> bool:
    return isinstance(value, str) and value.strip() not in ("", "unknown", "not installed") and value.isprintable()
