"""`generate`: what logits processors and stopping criteria cost in `generate()`, by taking them away.

All cells (with all of them, without each, without any) replay one trace in balanced rounds; beside them the same
parts are timed in place. With a compiler, cold and warm stand side by side. `ablation/` measures and analyses.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from perstep.experiments.ablation.compiling import Compiling
from perstep.experiments.ablation.findings import AblationFindings
from perstep.experiments.ablation.findings import analyse as analyse_ablation
from perstep.experiments.ablation.samples import Sample
from perstep.experiments.ablation.session import AblationSession, Work
from perstep.experiments.ablation.show import csv
from perstep.experiments.ablation.show import tables as ablation_tables
from perstep.experiments.conditions import describe_machine, hash_ids
from perstep.experiments.generate.expected import expected_table
from perstep.experiments.generate.picture import growth_csv, picture
from perstep.experiments.generate.plan import Plan, check, find_parts, find_work, open_model
from perstep.measure import Clock, Progress
from perstep.report import Table
from perstep.report.format import percent
from perstep.report.words import render
from perstep.runs import Manifest
from perstep.targets import Opened
from perstep.targets.transformers import RANDOM_WEIGHTS, config_hash

__all__ = ["Plan", "Sample", "analyse", "csv", "files", "prepare", "summary", "tables"]


def prepare(plan: Plan, progress: Progress, clock: Clock) -> AblationSession:
    """Check the plan, load the model, record the trace, warm the cells; with a compiler measure the cold passes.

    Raises:
        InputError: something in the plan is wrong; nothing has been written.
        InvalidMeasurement: the cells do not do the same work.
    """
    effort = plan.effort()
    check(plan)
    parts = find_parts(plan)
    compiling = Compiling(plan.compile_backend) if plan.compile else None
    progress(0.0, "load")
    opened = open_model(plan)
    work = find_work(plan, opened, parts, compiling)
    session = AblationSession(
        opened.model,
        work,
        parts,
        effort=effort,
        seed=plan.seed,
        clock=clock,
        progress=progress,
        compiling=compiling,
    )
    _describe(session.manifest, plan, opened, work)
    describe_machine(session.manifest, plan.threads)
    return session


def _describe(manifest: Manifest, plan: Plan, opened: Opened, work: Work) -> None:
    """What was measured, and the settings of torch that decide how fast it is."""
    import torch

    manifest.experiment = "generate"
    manifest.plan = asdict(plan)
    manifest.model = {**opened.facts, "random_weights": opened.random_weights}
    manifest.workload = {
        "token_ids_sha256": hash_ids(*(ids for c in work.calls for ids in (c.trace.prompt_BT, c.trace.chosen_BN))),
        "model_config_sha256": config_hash(opened.model),
        "parts": list(manifest.conditions["parts"]),
        "preset": plan.preset,
        "batch": plan.batch,
        "new_tokens": [call.new_tokens for call in work.calls],
        "dtype": opened.facts["dtype"],
        "device": plan.device,
        "threads": plan.threads,
        "temperature": plan.temperature,
        "top_k": plan.top_k,
        "top_p": plan.top_p,
        "compiled": manifest.conditions["compiled"],
    }
    manifest.conditions |= {
        "tf32": torch.backends.cuda.matmul.allow_tf32,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "attn_implementation": opened.facts["attn_implementation"],
        "dtype": opened.facts["dtype"],
    }
    if opened.random_weights:
        manifest.conditions["notes"].append(RANDOM_WEIGHTS)


def analyse(manifest: Manifest, samples: Sequence[Sample]) -> AblationFindings:
    """What the samples say: a pure function.

    Raises:
        InputError: there are no samples, or they do not hold the same cells and parts.
    """
    return analyse_ablation(manifest, samples)


def tables(manifest: Manifest, findings: AblationFindings) -> list[Table]:
    """The cells, the parts."""
    return ablation_tables(manifest, findings)


def files(manifest: Manifest, findings: AblationFindings) -> Mapping[str, bytes]:
    """`generate.png` with its CSV, the figures of the tables as CSV, and `README.md`."""
    return {
        "generate.png": picture(manifest, findings),
        "generate.csv": growth_csv(findings).encode(),
        "cells.csv": csv(findings).encode(),
        "README.md": render(
            "generate.md",
            manifest=manifest,
            findings=findings,
            tables=tables(manifest, findings),
            expected=expected_table(manifest, findings),
        ),
    }


def summary(findings: AblationFindings) -> dict[str, Any]:
    """The headline for `perstep list`."""
    found = findings.effects
    step_ns = found.cells["all"].ns_per_step
    share = found.total.estimate / step_ns
    largest = max(found.parts, key=lambda name: found.parts[name].leave_one_out.estimate)
    whose = f"{percent(share)} of generate's time is {' and '.join(found.parts)}"
    return {
        "headline": whose if len(found.parts) == 1 else f"{whose}, most of it {largest}",
        "share_of_all_parts": share,
        "largest": largest,
        "ns_per_step": {label: cell.ns_per_step for label, cell in found.cells.items()},
    }
