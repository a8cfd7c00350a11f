"""A page for people outside: without the command line, paths, source lines and facts of git.

What a page says is made of a run's manifest and findings, so both lose what is private before the page is made; what
still stands in a sentence (a line of a script, a command that was timed) is replaced in each text of the page.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import msgspec

from perstep._json import Json
from perstep.experiments.base import AnySample, Findings
from perstep.experiments.page import tables_held
from perstep.report.page import Page
from perstep.runs import Manifest

_FILE = re.compile(r"[\w.~/\\-]*\w\.(?:py|ipynb|jsonl|json|toml|txt|md|csv|diff|yaml|yml|safetensors|gguf|gz)(?::\d+)?")
_PATH = re.compile(r"(?<![\w)])(?:~|\.{1,3})?(?:/[\w.@+-]+)+")
_WORDS = {
    "device",
    "dtype",
    "detail",
    "backend",
    "cache",
    "order",
    "discarded",
    "garbage_collector",
    "ended_by",
    "marks",
}
"""Facts that are words of perstep's own; other words may be anybody's."""
Site = Json
"""What a room above found for a line of a script: read by the names of its fields."""
Row = Json
"""One of its rows, likewise."""
_NUMBER = re.compile(r"-?[0-9.]+|True|False")
_HASH = re.compile("[0-9a-f]{64}")
_HIDDEN = "…"
_LOOP = "loop/"
"""Parts of a loop written by hand are named by the lines of its source."""


def without_private(manifest: Manifest) -> Manifest:
    """A manifest without a command line, paths, texts and git; numbers, hashes and the machine stay."""
    machine = {name: fact for name, fact in manifest.machine.items() if name != "git"}
    model = dict(manifest.model)
    if _is_own(manifest):
        model["name"] = f"a {model.get('model_type') or 'model'} of somebody's own"
    return msgspec.structs.replace(
        manifest,
        argv=[],
        machine=machine,
        model={name: fact for name, fact in model.items() if name in ("name", "model_type") or _is_plain(name, fact)},
        plan=_plain(manifest.plan),
        workload=_plain(manifest.workload),
        warnings=[_FILE.sub(_HIDDEN, warning) for warning in manifest.warnings],
    )


def _is_own(manifest: Manifest) -> bool:
    """Whether the model was named by a path."""
    return any(
        sign in str(manifest.plan.get(name) or "") for name in ("model", "arch") for sign in ("/", "\\", ".json")
    )


def _plain(facts: Mapping[str, Json]) -> dict[str, Json]:
    return {name: fact for name, fact in facts.items() if _is_plain(name, fact)}


def _is_plain(name: str, fact: object) -> bool:
    if isinstance(fact, str):
        return name in _WORDS or _HASH.fullmatch(fact) is not None
    return fact is None or isinstance(fact, bool | int | float)


def hidden_names(manifest: Manifest, findings: Findings, samples: Sequence[AnySample]) -> dict[str, str]:
    """What stands in sentences and tables -> what takes its place: lines of scripts, commands, lines to write."""
    sites = dict.fromkeys(site for sample in samples if (site := getattr(sample, "site", "")))
    sites |= dict.fromkeys(site.site for site in getattr(findings, "sites", []))
    names = {site: f"line {place}" for place, site in enumerate(sites, start=1)}
    watched = dict.fromkeys(model for sample in samples if isinstance(model := getattr(sample, "model", None), str))
    names |= {model: model.split()[0] for model in watched if " " in model}  # its class, then where it was loaded from
    kinds = [steps for sample in samples for steps in getattr(sample, "kinds", {}).values()]
    named = [part for steps in kinds for part in steps.parts]
    named += [part for site in getattr(findings, "sites", []) for row in _rows(site) for part in row.parts]
    lines = dict.fromkeys(part for part in named if part.startswith(_LOOP))
    names |= {line: f"{_LOOP}line {place}" for place, line in enumerate(lines, start=1)}
    if manifest.experiment == "compare":
        names |= {arm: f"arm {place}" for place, arm in enumerate(getattr(findings, "arms", {}), start=1)}
    for site in getattr(findings, "sites", []):
        for row in _rows(site):
            for line in filter(None, (row.drop_in, row.instead)):
                names[line] = f"{line.partition('(')[0]}({_HIDDEN})" if "(" in line else line
    if _is_own(manifest):
        names[str(manifest.model.get("name", ""))] = str(without_private(manifest).model["name"])
    return {name: shown for name, shown in names.items() if name and name != shown}


def without_source(findings: Findings) -> Findings:
    """Findings without the source lines of a part that was looked into; their times stay."""
    watched: Site = findings
    inside = getattr(watched, "inside", None)
    if inside is None or not hasattr(inside, "lines"):
        return findings
    lines = [
        msgspec.structs.replace(line, place=f"line {place}", source=_HIDDEN)
        for place, line in enumerate(inside.lines, start=1)
    ]
    without: Findings = msgspec.structs.replace(watched, inside=msgspec.structs.replace(inside, lines=lines))
    return without


def _rows(site: Site) -> list[Row]:
    """The rows of a line under `fix`, which name parts and lines to write; a watched line has none."""
    rows = getattr(site, "rows", [])
    return [row for row in rows if hasattr(row, "drop_in")]


def hider(names: Mapping[str, str]) -> Callable[[str], str]:
    """A function that takes names, files and paths out of a text.

    Args:
        names: what stands in it -> what takes its place.
    """
    longest = sorted(names, key=len, reverse=True)

    def hide(text: str) -> str:
        for name in longest:
            text = text.replace(name, names[name])
        return _PATH.sub(_HIDDEN, _FILE.sub(_HIDDEN, text))

    return hide


def shared(page: Page) -> Page:
    """The page with what it says of itself: what was left out."""
    facts = {heading: facts for heading, facts in page.facts.items() if heading != "Command"}
    conditions = facts.get("Conditions", {})
    facts["Conditions"] = {name: fact for name, fact in conditions.items() if name in _WORDS or _NUMBER.fullmatch(fact)}
    holds = [
        tables_held(page.content),
        "numbers, hashes, the processor, the memory, versions of software, names of parts (classes of processors too)",
        "left out: the command line, paths, the names and lines of source files, the commit, options that are words",
    ]
    return replace(page, facts=facts, holds=holds)
