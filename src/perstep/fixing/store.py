"""The run of `perstep fix`: what was watched and tried, written into a folder while it becomes known."""

from dataclasses import dataclass
from pathlib import Path

from perstep._json import Json
from perstep.experiments import pipeline
from perstep.experiments.conditions import Model, warn_of_noise
from perstep.experiments.session import describe
from perstep.fixing.capture import Captured
from perstep.fixing.measure import try_call
from perstep.fixing.patch import diff
from perstep.fixing.samples import Conditions, Patch, Round, Sample, Watched, Workload
from perstep.fixing.trial import THRESHOLD
from perstep.machine import Noise
from perstep.measure import Clock, Progress
from perstep.runs import Manifest, RunWriter, next_folder
from perstep.targets.transformers import BOUNDARIES, silent
from perstep.targets.transformers.words import DECODE, PREFILL
from perstep.watching.session import Watch


def fix_calls(
    calls: dict[str, Captured],
    watched: Watch,
    plan: dict[str, Json],
    *,
    budget_s: float,
    progress: Progress,
    out: Path | None = None,
    force: bool = False,
    keep_text: bool = False,
    tag: str | None = None,
    clock: Clock | None = None,
) -> pipeline.Report:
    """Try the drop-ins on the captured calls and keep what was found as a run.

    Args:
        calls: by line, at least one.
        watched: the same calls, watched.
        plan: the options, for the manifest.
        budget_s: for the measurements of each line.
        progress: told what is tried.
        out: the run's folder; the next number under `.perstep/runs` if None.
        force: replace the run in `out`.
        keep_text: store the script's arguments as they are, not their hashes.
        tag: a word to find the run by.
        clock: the host's, unless a test passes its own.

    Raises:
        InputError: the folder cannot be written.
    """
    folder = next_folder("fix") if out is None else out
    ledgers, prefills = [
        {name.split(" (")[0]: ledger for name, ledger in reversed(watched.ledgers(kind).items())}
        for kind in (DECODE, PREFILL)
    ]
    manifest, noises = _manifest(watched, plan), list[Noise]()
    if tag is not None:
        manifest.tag = tag
    with silent(), RunWriter(folder, manifest, force=force, keep_text=keep_text) as writer:

        def keep(sample: Sample) -> None:
            writer.append(sample)
            if isinstance(sample, Round):
                noises.append(sample.round.noise)

        for sample in watched.samples:
            writer.append(Watched(call=sample))
        edits = []
        for number, (site, call) in enumerate(calls.items()):
            say = _Part(progress, number, len(calls))
            of_site = ledgers.get(site), prefills.get(site)
            edits.append(try_call(call, *of_site, budget_s=budget_s, keep=keep, clock=clock, progress=say))
        changed, applied_in = diff(edits)
        writer.append(Patch(diff=changed, folder=applied_in))
        warn_of_noise(manifest, noises, manifest.workload["threads"])
    return pipeline.rebuild(folder)


@dataclass(frozen=True)
class _Part:
    """The progress of one of several lines."""

    whole: Progress
    number: int
    of: int

    def __call__(self, share: float, what: str) -> None:
        self.whole((self.number + share) / self.of, what)


def _manifest(watched: Watch, plan: dict[str, Json]) -> Manifest:
    import torch

    threads = torch.get_num_threads()
    samples = watched.samples
    workload = Workload(
        script=plan["script"],
        arguments=plan["arguments"],
        dtype=", ".join(sorted({sample.dtype for sample in samples})),
        device=", ".join(sorted({sample.device for sample in samples})),
        threads=threads,
    )
    conditions = Conditions(
        order="the call as it is and the call with drop-ins take turns in balanced rounds, seed for seed",
        discarded="the first call of each turn, where calls are short",
        garbage_collector="off while timing; as the script has it while it was watched",
        copies="the call's own processors and criteria are copied between the calls, outside their time",
        drop_ins="made anew in each call, in its time",
        threshold=THRESHOLD,
        mark_ns=watched.mark_ns,
    )
    return describe(
        "fix",
        plan,
        workload=workload,
        model=Model(name=", ".join(sorted({sample.model for sample in samples}))),
        conditions=conditions,
        boundaries=BOUNDARIES,
        load_before=watched.load_before,
    )
