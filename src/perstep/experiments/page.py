"""A run's page: its findings, what qualifies them, and how to measure them again. Pure: equal runs give equal bytes."""

import shlex
from collections.abc import Mapping, Sequence

from perstep._json import Json
from perstep._version import __version__
from perstep._words import short
from perstep.experiments.base import AnySample, Experiment, Findings, HasContent
from perstep.experiments.conditions import left_out_layers
from perstep.report import Table
from perstep.report.machine import flat_facts
from perstep.report.page import Content, LedgerView, Page
from perstep.runs import Manifest, with_short_paths

_LONGEST = 400
"""Characters of a fact; the manifest has it whole."""
_NOT_SAID = {"bounds", "device_bounds", "device_ceilings", "models", "notes", "syncs", "generate", "configurations"}
"""Conditions that are data of the analysis, or stand below the tables."""


def page_of(
    experiment: Experiment,
    manifest: Manifest,
    findings: Findings,
    samples: Sequence[AnySample],
    tables: Sequence[Table],
) -> Page:
    """The page of a run.

    Args:
        experiment: which was measured.
        manifest: of the run.
        findings: of the samples.
        samples: of the run.
        tables: of the findings.
    """
    model = str(manifest.model.get("name", ""))
    subject = " · ".join(filter(None, [model, manifest.date, f"run {manifest.run_id}"]))
    content = _content(experiment, manifest, findings, samples)
    return Page(
        kind=manifest.experiment,
        title=f"perstep {manifest.experiment}{f': {model}' if model else ''}",
        subject=subject,
        content=content,
        tables=tables,
        stops=_stops(manifest, findings),
        warnings=_warnings(manifest, findings),
        facts=_facts(manifest),
        inside=_said(manifest.boundaries),
        holds=_holds(manifest, findings, content),
        version=manifest.perstep_version or __version__,
    )


def _content(experiment: Experiment, manifest: Manifest, findings: Findings, samples: Sequence[AnySample]) -> Content:
    if isinstance(experiment, HasContent):
        return experiment.content(manifest, findings, samples)
    return Content(str(experiment.summary(findings).get("headline", manifest.experiment)))


def _stops(manifest: Manifest, findings: Findings) -> list[str]:
    """Why no number of the run may be quoted."""
    said = [f"The run is invalid: {findings.invalid}."] if findings.invalid else []
    if findings.noise.busy:
        said.append(f"The machine was busy: {findings.noise.busy} of the time in which the rounds could have run.")
    return said + left_out_layers(manifest)


def _warnings(manifest: Manifest, findings: Findings) -> list[str]:
    unresolved = [f"Not resolved: {findings.unresolved}."] if findings.unresolved else []
    random = ["The weights are random: matrix work does not depend on them; top-p, routing and stopping do."]
    return unresolved + (random if manifest.model.get("random_weights") else []) + list(manifest.warnings)


def _facts(manifest: Manifest) -> dict[str, dict[str, str]]:
    """How to measure the same again, and what that depends on; nothing that a later analysis would change."""
    command = shlex.join(with_short_paths(manifest.argv)) if manifest.argv else "called from Python, not by a command"
    conditions = {name: fact for name, fact in manifest.conditions.items() if name not in _NOT_SAID}
    git = manifest.machine.get("git")
    sections: dict[str, Mapping[str, Json]] = {
        "Run": {
            "id": manifest.run_id,
            "began": manifest.started_at,
            "seed": manifest.seed,
            "perstep": manifest.perstep_version,
            **({f"git {name}": fact for name, fact in git.items()} if isinstance(git, Mapping) else {}),
        },
        "Work": manifest.workload,
        "Model": manifest.model,
        "Options": {name: fact for name, fact in manifest.plan.items() if fact not in (None, [], "", {})},
        "Conditions": conditions,
        "Machine": manifest.hardware,
        "Versions": manifest.versions,
    }
    by_heading = {heading: _said(facts) for heading, facts in sections.items()}
    return {"Command": {"": command}, **{heading: facts for heading, facts in by_heading.items() if facts}}


def _said(facts: Mapping[str, Json]) -> dict[str, str]:
    flat = [(name, fact) for name, fact in flat_facts(with_short_paths(facts)) if fact not in (None, "")]
    texts = [(name, short(fact) if isinstance(fact, float) else str(fact)) for name, fact in flat]
    return {name: text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…" for name, text in texts}


def tables_held(content: Content) -> str:
    """What a page has of the measurement: rounds only where a ledger is drawn with them."""
    has_rounds = any(isinstance(shown, LedgerView) and shown.samples is not None for shown in content.figures)
    rounds = ", and of each part of a ledger the mean time of every round" if has_rounds else ""
    return f"all tables of the run{rounds}"


def _holds(manifest: Manifest, findings: Findings, content: Content) -> list[str]:
    """What a reader of the page learns of the person who measured."""
    by_lines = hasattr(getattr(findings, "inside", None), "lines") or any(
        getattr(site, "made_by", "") == "loop" for site in getattr(findings, "sites", [])
    )
    text = " or a model, and source lines without their strings and comments" if by_lines else "; no text of them"
    said = [
        tables_held(content),
        "the command line and the options; of a prompt and of a script's arguments hashes alone, without --keep-text",
        "the processor, the memory, the versions of the software, and the commit of the folder it was measured in",
    ]
    own = {
        "watch": f"the names and line numbers of the files that called generate{text}",
        "fix": "the names and line numbers of the files that called generate, and the arguments tried in them",
        "compare": "the commands or functions that were compared, as they were written",
    }
    said += [own[manifest.experiment]] if manifest.experiment in own else []
    return said
