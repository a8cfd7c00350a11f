"""Watch somebody's own generate calls, which run once and unchanged: `perstep.watch`.

Inside a call marked steps, whose parts + residual = step, and plain ones, whose duration alone is taken, take turns
(law "the observer is measured"); the garbage collector and everything else stay as the user has them. What the recorded
calls say is found in `watch.py`.
"""

import weakref
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Self, cast

from perstep._json import Json
from perstep._shown import html
from perstep.errors import InputError
from perstep.experiments import pipeline
from perstep.experiments.call_recorder import CallRecorder, leave_modes
from perstep.experiments.conditions import Model, warn_of_noise
from perstep.experiments.device.stream import DeviceLedger
from perstep.experiments.session import describe
from perstep.machine import Noise, NoiseProbe, load_average, noise_warnings, summarise_noise
from perstep.measure import Clock, HostClock, Ledger, Recorder, measure_mark_ns
from perstep.report import Table, to_text
from perstep.report.format import plural
from perstep.report.ledger import ledger_png
from perstep.report.notebook import Picture
from perstep.runs import Manifest, RunWriter, next_folder
from perstep.targets.interrupts import uninterrupted
from perstep.targets.transformers import (
    BOUNDARIES,
    Detail,
    Device,
    EveryBatching,
    EveryGenerate,
    Instrument,
    Schedule,
    device_of,
    find_model,
)
from perstep.targets.transformers.device_check import refuse_if_spread, spread_over
from perstep.targets.transformers.protocols import Model as Watched
from perstep.targets.transformers.words import DECODE, SETUP
from perstep.watching.assisted import accepted
from perstep.watching.batching import Keeps
from perstep.watching.by_hand import WatchedLoops, never_repeated
from perstep.watching.findings import call_ledger, device_ledger, find_sites, setup_ledger
from perstep.watching.named import NamedSteps
from perstep.watching.samples import NOT_COUNTED, Conditions, Sample, Workload, by_site
from perstep.watching.show import inside_table, site_tables

_HOW_COUNTED = (
    "counted in the fifth decode step of a call and again after 512 more, or in the third call where calls are"
    " shorter; two decode steps in 130 are kept for that and not timed"
)


class _Site(Instrument):
    """The Instrument of one line. It hands on a call when it is over, and keeps no model alive between calls."""

    def __init__(self, model: object, site: str, watch: "Watch") -> None:
        module = find_model(model)
        device = watch.device or device_of(module)
        self._calls_recorder = CallRecorder(watch.clock, device, module.device.type)
        super().__init__(
            model, self._calls_recorder, watch.detail, alternate=True, every=watch.every, count=watch.syncs
        )
        if devices := spread_over(module):  # in somebody's own call nothing is refused
            self._note(f"the model is spread over {', '.join(devices)}: time on the stream is that of one of them")
        self._site, self._samples, self._name = site, watch.samples, watch.name_model(module)
        self._probe: NoiseProbe | None = None
        self._noted = self._ended = 0

    @property
    def is_open(self) -> bool:
        """Whether a step is being timed, or its syncs counted."""
        return self._calls_recorder.is_open

    @property
    def model(self) -> Watched:
        """The model, while somebody else holds it."""
        return cast("Watched", self._model())

    @model.setter
    def model(self, model: Watched) -> None:
        self._model = weakref.ref(model)

    @uninterrupted()
    def _call_begins(self) -> None:
        self._forget_probe()
        self._probe, self._ended = NoiseProbe(), len(self.calls)
        self._probe.start()

    def _call_ends(self) -> None:
        """Hand the call on."""
        if self._probe is not None:
            noise = self._probe.stop()
            self._forget_probe()
            self._hand_on(noise, finished=len(self.calls) > self._ended)

    def _forget_probe(self) -> None:
        if self._probe is not None:
            self._probe.close()
            self._probe = None

    def _hand_on(self, noise: Noise, *, finished: bool) -> None:
        taken, call, model = self._calls_recorder.take(), self.calls[-1] if finished else None, self.model
        self._samples.append(
            Sample(
                site=self._site,
                model=self._name,
                device=str(model.device),
                dtype=str(model.dtype).removeprefix("torch."),
                finished=finished,
                rows=call.rows if call else None,
                prompt_tokens=call.prompt_tokens if call else None,
                new_tokens=call.new_tokens if call else None,
                steps=call.steps if call else taken.steps,
                forwards=call.forwards if call else taken.steps,
                kinds=taken.kinds,
                notes=self.notes[self._noted :],
                other_way=call.other_way if call else "",
                noise=noise,
                syncs=taken.syncs,
                device_kinds=taken.device,
                idle_kinds=taken.idle,
                whole=call is not None and not call.cached,
                proposed=[proposed for _, proposed in call.drafts] if call else [],
                accepted=accepted(call) if call else [],
                compilations=call.compilations if call else [],
                breaks=call.breaks if call else [],
            )
        )
        self._noted = len(self.notes)


def generates(given: object) -> Watched | None:
    """The model that generates in what was given, or None where that is another module.

    Raises:
        InputError: it is no module either.
    """
    from torch.nn import Module

    try:
        return find_model(given)
    except InputError:
        if isinstance(given, Module):
            return None
        raise


class Watch:
    """The generate calls made inside a `with` block, and what their steps cost; see `watch`.

    Args:
        model: whose calls; those of every transformers model if None.
        detail: `phases`, `modules` or `layers`.
        every: record one block of four decode steps in every N blocks.
        syncs: count syncs in a few steps, which are not timed.
        clock: the host's, unless a test passes its own.
        device: where events come from, unless a test passes its own: the model's, where it is on CUDA.
        loops: record loops written by hand too, around any module.

    Attributes:
        samples: one a call, in the order in which they ended.
        load_before: the load average when this was made, before any of the calls.
    """

    def __init__(
        self,
        model: object = None,
        *,
        detail: Detail = "phases",
        every: int = 1,
        syncs: bool = True,
        clock: Clock | None = None,
        device: Device | None = None,
        loops: bool = False,
    ) -> None:
        self.detail, self.every, self.syncs, self.device = detail, every, syncs, device
        self.clock = clock or HostClock()
        self.samples: list[Sample] = []
        self.load_before = load_average()
        self._mark_ns: float | None = None
        self._model = model
        if model is not None and (generating := generates(model)) is not None:
            self._model = generating
            refuse_if_spread(generating)
            Instrument(model, Recorder(self.clock), detail, every=every)  # refuses what is wrong now, not in the call
        self._sites: dict[tuple[str, int], _Site] = {}
        self._models: dict[str, list[weakref.ref[Watched]]] = {}
        self._loops = (
            WatchedLoops(self.samples, self.clock, device, only=self._model, detail=detail, every=every, count=syncs)
            if loops
            else None
        )
        unseen = nullcontext if self._loops is None else self._loops.unseen
        self._named = NamedSteps(self.samples, self.clock, unseen, every) if loops else None
        self._every_generate = EveryGenerate(self._choose, unseen)
        self._every_batching = EveryBatching(
            lambda model: Keeps(model, self.name_model(model), self.samples, self.clock),
            self._every_generate.site,
            only=self._model,
            detail=detail,
            every=every,
            unseen=unseen,
        )

    @uninterrupted(undo="_leave")
    def __enter__(self) -> Self:
        self.watch_steps()
        self.watch_loops()
        self.watch_generate()
        return self

    def watch_loops(self) -> None:
        """Record the loops from now on; torch is imported."""
        if self._loops is not None:
            self._loops.__enter__()

    def watch_steps(self) -> None:
        """Record the steps that a program names from now on."""
        if self._named is not None:
            self._named.__enter__()

    def watch_generate(self) -> None:
        """Record the generate calls from now on; transformers is imported."""
        self._every_generate.__enter__()
        self._every_batching.__enter__()

    def _leave(self) -> None:
        self._every_batching.__exit__(None, None, None)
        self._every_generate.__exit__(None, None, None)
        if self._loops is not None:
            self._loops.__exit__(None, None, None)
        if self._named is not None:
            self._named.__exit__(None, None, None)
        leave_modes()
        self._sites.clear()

    @uninterrupted()
    def __exit__(self, *exception: object) -> None:
        self._leave()

    def _choose(self, model: object, site: str) -> Instrument | None:
        if self._model is not None and model is not self._model:
            return None
        cached = self._sites.get((site, id(model)))
        if cached is None or cached.model is not model:  # an id is used again when a model is gone
            cached = self._sites[site, id(model)] = _Site(model, site, self)
        return cached

    def name_model(self, model: Watched) -> str:
        """Its class and where it was loaded from; `X#2` where another model of that name came before it."""
        kind, path = type(model).__name__, getattr(model, "name_or_path", "")
        models = self._models.setdefault(f"{kind} {path}", [])
        position = next((number for number, ref in enumerate(models, start=1) if ref() is model), 0)
        if not position:
            models.append(weakref.ref(model))
            position = len(models)
        return f"{kind}{'' if position == 1 else f'#{position}'} {path}".rstrip()

    def is_recording(self) -> bool:
        """Whether a step of a generate call is being timed now, or its syncs counted."""
        return any(site.is_open for site in self._sites.values())

    @property
    def mark_ns(self) -> float:
        """What one mark costs on this clock; measured when first asked for."""
        if self._mark_ns is None:
            self._mark_ns = measure_mark_ns(self.clock)
        return self._mark_ns

    def ledger(self, kind: str = DECODE) -> Ledger:
        """The ledger of all calls together.

        Args:
            kind: `decode`, `prefill`, or `setup`: what comes before the first token, with the prefill as one part.

        Raises:
            InputError: generate was never called, or no call made a step of this kind.
            InvalidMeasurement: a step took no time on this clock.
        """
        if kind == SETUP:
            ledger = setup_ledger([sample for sample in self.samples if sample.made_by == "generate"], self.mark_ns)
        else:
            ledger = call_ledger(kind, self.samples, self.mark_ns)
        if ledger is None:
            raise InputError(_nothing(self.samples, kind, self._loops))
        return ledger

    def device_ledger(self, kind: str = DECODE) -> DeviceLedger | None:
        """The device's own ledger of all calls together; None where the host does all the work, or saw no such step.

        Args:
            kind: `decode` or `prefill`.
        """
        return device_ledger(kind, self.samples)

    def ledgers(self, kind: str = DECODE) -> dict[str, Ledger]:
        """A ledger for each line that called generate and made steps of this kind, in the order of the first calls."""
        ledgers = {name: call_ledger(kind, samples, self.mark_ns) for name, samples in by_site(self.samples).items()}
        return {name: ledger for name, ledger in ledgers.items() if ledger is not None}

    def tables(self) -> list[Table]:
        """A table for each line that called generate, and one of the time on the device's stream where there is one.

        One part by its own source lines comes last, where that was looked at.
        """
        schedule = Schedule(alternate=True, every=self.every, count=self.syncs)
        shown = [table for site in find_sites(self.samples, self.mark_ns, schedule) for table in site_tables(site)]
        return [*shown, *(inside_table(one.inside) for one in self.samples if one.inside is not None)]

    def plot(self, kind: str = DECODE) -> Picture:
        """The ledger of each line that called generate as a bar, one below the other.

        Args:
            kind: `decode` or `prefill`.

        Raises:
            InputError: generate was never called, or no call made a step of this kind.
        """
        ledgers = self.ledgers(kind)
        if not ledgers:
            raise InputError(_nothing(self.samples, kind, self._loops))
        return Picture(ledger_png(list(ledgers.values()), subject=list(ledgers)))

    def __repr__(self) -> str:
        lines = plural(len({sample.site for sample in self.samples}), "line")
        return f"<Watch: {plural(len(self.samples), 'call')} of {lines}>"

    def _repr_html_(self) -> str | None:
        return html(self.tables()) if self.samples else None

    @property
    def left_out(self) -> list[str]:
        """What was called and has no step, in sentences."""
        if self._loops is None:
            return self._every_batching.notes
        compiled = "torch.compile was called: from then on only what it compiled was watched in loops written by hand"
        return [
            *([never_repeated(self._loops.once)] if self._loops.once else []),
            *([compiled] if self._loops.compiled else []),
            *self._loops.notes,
            *self._every_batching.notes,
        ]

    def __str__(self) -> str:
        if not self.samples:
            return _nothing([], DECODE, self._loops)
        noise = summarise_noise(sample.noise for sample in self.samples)
        warnings = "".join(f"warning: {warning}\n" for warning in noise_warnings(noise, of_calls=True))
        return warnings + "\n".join(to_text(table) for table in self.tables())


def watch(
    model: object, detail: Detail = "phases", every: int = 1, *, syncs: bool = True, clock: Clock | None = None
) -> Watch:
    """Watch the generate calls of a model, and the loops around it, inside a `with` block; your code stays as it is.

    Examples:
        >>> with perstep.watch(model) as w:  # doctest: +SKIP
        ...     model.generate(**inputs, logits_processor=[mine])
        >>> print(w)  # doctest: +SKIP
        >>> w.ledger().parts["logits/Mine"].ns  # doctest: +SKIP

    The tokens equal those of an unwatched call, and afterwards the model is restored.
    `perstep.measure.build_watched_ledger` and the ledger's notes say how the estimates are made.

    Args:
        model: a transformers model that generates, a pipeline, a model compiled by `torch.compile`, or any other
            `torch.nn.Module` that a loop calls.
        detail: `phases` (about ten marks a step), `modules` (the forward by type of module), `layers`.
        every: record one block of four decode steps in every N blocks, for long jobs.
        syncs: count how often the host waits for the device, by part: in the fifth decode step of a call and again
            after 512 more, or in the third call where calls are shorter. Those steps are not timed.
        clock: the host's, unless a test passes its own.

    Raises:
        InputError: not a transformers model that generates, an unknown detail, or a missing extra.
    """
    if model is None:
        raise InputError("None is no model; give the model whose generate is called, or that a loop calls")
    return Watch(model, detail=detail, every=every, syncs=syncs, clock=clock, loops=True)


def _nothing(samples: Sequence[Sample], kind: str, loops: WatchedLoops | None = None) -> str:
    if samples:
        calls = plural(len(samples), "generate call" if samples[0].made_by == "generate" else "run")
        return f"{calls} made no {kind} step that could be seen; ask for more new tokens"
    if loops is not None and loops.once:
        return never_repeated(loops.once)
    return "no generate call was watched, and no loop; call model.generate(...), or the model, inside the `with` block"


def describe_calls(watch: Watch, plan: dict[str, Json]) -> Manifest:
    """The manifest of what was watched, with what the machine was and what disturbed the calls.

    Args:
        watch: with at least one call.
        plan: the options.

    Raises:
        InputError: no call was watched.
    """
    import torch

    if not watch.samples:
        raise InputError(_nothing([], DECODE))
    threads = torch.get_num_threads()
    workload = Workload(
        calls=len(watch.samples),
        dtype=", ".join(sorted({sample.dtype for sample in watch.samples})),
        device=", ".join(sorted({sample.device for sample in watch.samples})),
        threads=threads,
    )
    conditions = Conditions(
        order="marked and plain steps take turns inside a call, M P P M; every other call the other way round",
        every=watch.every,
        detail=watch.detail,
        syncs=_HOW_COUNTED if watch.syncs else NOT_COUNTED,
        garbage_collector="as the watched program has it",
        warm_up="none: the calls run once; first calls are shown separately",
        mark_ns=watch.mark_ns,
    )
    manifest = describe(
        "watch",
        plan,
        workload=workload,
        model=Model(name=", ".join(sorted({sample.model for sample in watch.samples}))),
        conditions=conditions,
        boundaries=BOUNDARIES,
        load_before=watch.load_before,
        of_calls=True,
    )
    warn_of_noise(manifest, (sample.noise for sample in watch.samples), threads, of_calls=True)
    return manifest


def store(
    watch: Watch, manifest: Manifest, *, out: Path | None, force: bool, keep_text: bool = False
) -> pipeline.Report:
    """Write what was watched into a run folder, with everything that is derived from it.

    Args:
        watch: with at least one call.
        manifest: from `describe_calls`.
        out: the run's folder; the next number under `.perstep/runs` if None.
        force: replace the run in `out`.
        keep_text: store the script's arguments as they are, not their hashes.

    Raises:
        InputError: the folder cannot be written.
        InvalidMeasurement: a step took no time on this clock.
    """
    folder = next_folder("watch") if out is None else out
    with RunWriter(folder, manifest, force=force, keep_text=keep_text) as writer:
        for sample in watch.samples:
            writer.append(sample)
    return pipeline.rebuild(folder)
